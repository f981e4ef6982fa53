//! The bodies of `spawn_agent` and `spawn_agents`, which are the kernel's own.
//!
//! Invariants: a child that was admitted is retired before its parent hears of it; a failed child is tried
//! once more, with the reason; a failure is told as a failure, whatever the child's prose says.

use std::sync::Arc;

use aaos_core::effect::ToolOutcome;
use aaos_core::event::{AgentEnd, Event};
use aaos_core::id::{AgentId, CallId, TraceId};
use aaos_core::ladder::ClimbReason;
use aaos_core::manifest::Manifest;
use aaos_core::model::Usage;
use aaos_core::state::{AgentLife, AgentRecord, PendingKind, SpawnedChild, State};
use aaos_core::supervision::RestartPolicy;
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::{
    SpawnAgentInput, SpawnAgentOutput, SpawnAgentsInput, SpawnAgentsOutput, StopReason, ToolFailure,
    ToolFailureKind,
};
use aaos_journal::{Permit, Receipt};
use tokio_util::sync::CancellationToken;

use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::fits;
use crate::recovery::RunSoFar;
use crate::registry::Agent;

/// The call that spawns: what its children are spawned for, and what ends them with it.
#[derive(Debug, Clone)]
pub(crate) struct Under {
    pub(crate) call: CallId,
    pub(crate) trace: Option<TraceId>,
    pub(crate) cancel: CancellationToken,
    /// What an earlier daemon recorded, where it began the call.
    pub(crate) earlier: Option<Arc<State>>,
}

impl Under {
    /// How far a child of the call came before a restart.
    fn child(&self, index: u32) -> SpawnedChild {
        let pending = self.earlier.as_ref().and_then(|state| state.pending.get(&self.call));
        match pending.map(|pending| &pending.kind) {
            Some(PendingKind::Tool(tool)) => tool.children.get(&index).cloned().unwrap_or_default(),
            _ => SpawnedChild::default(),
        }
    }

    /// The message that the call delivered before a restart.
    pub(crate) fn delivered(&self) -> Option<TraceId> {
        let pending = self.earlier.as_ref().and_then(|state| state.pending.get(&self.call))?;
        match &pending.kind {
            PendingKind::Tool(tool) => tool.delivered,
            PendingKind::Inference { .. } | PendingKind::Spawn { .. } | PendingKind::Connection { .. } => {
                None
            }
        }
    }
}

/// One attempt at a child that was admitted.
struct Attempt {
    child: AgentId,
    was_refused: bool,
    response: String,
    usage: Usage,
    iterations: u32,
    stop_reason: StopReason,
    error: Option<String>,
    /// Why another attempt asks the next model, if its end was a reason.
    climbs: Option<ClimbReason>,
}

impl Attempt {
    /// Why it counts as failed; a cancelled child was stopped on purpose and is not.
    fn failure(&self) -> Option<String> {
        if self.stop_reason.is_success() {
            return None;
        }
        let why = self.error.clone().unwrap_or_else(|| format!("it stopped with {:?}", self.stop_reason));
        Some(why)
    }

    /// What a person refused is not asked again by a second attempt.
    fn is_worth_another(&self) -> bool {
        !self.was_refused && ClimbReason::of(self.stop_reason).is_some()
    }
}

impl Kernel {
    /// Runs `spawn_agent` or `spawn_agents`, or goes on with it. None when the daemon closes: then the call has no outcome
    /// and goes on after the next start, with the children that it has.
    pub(crate) async fn run_spawning_tool(
        &self,
        parent: &Arc<Agent>,
        under: Under,
        permit: Permit<ToolCall>,
    ) -> Option<Receipt<ToolCall>> {
        let begun = self.clock().now();
        {
            // The children draw on the same purses: they must not wait for what their own call reserves.
            let now = self.clock().now();
            self.authority().pay_ahead(permit.agent(), permit.call(), &permit.reserved(), now);
        }
        let result = match permit.effect().input.clone() {
            ToolInput::SpawnAgent(input) => {
                self.spawn_one(parent, &under, 0, input).await.and_then(|output| to_json(&output))
            }
            ToolInput::SpawnAgents(input) => {
                self.spawn_many(parent, &under, input).await.and_then(|output| to_json(&output))
            }
            other => unreachable!("{} does not run in the kernel", other.name()),
        };
        if self.is_closing() && !under.cancel.is_cancelled() {
            return None;
        }
        let outcome = ToolOutcome { elapsed: self.clock().since(begun), ..ToolOutcome::of(result) };
        Some(permit.settle(outcome))
    }

    /// Runs independent children, a few at once, in input order; one failure does not stop the others. Fails when
    /// the purse did not cover one of them.
    async fn spawn_many(
        &self,
        parent: &Arc<Agent>,
        under: &Under,
        input: SpawnAgentsInput,
    ) -> Result<SpawnAgentsOutput, ToolFailure> {
        let width = self.config().limits.spawn_batch.min(self.config().limits.max_children).max(1);
        let gate = Arc::new(tokio::sync::Semaphore::new(width));
        let mut running = Vec::with_capacity(input.children.len());
        for (index, child) in (0..).zip(input.children) {
            let (kernel, parent, gate) = (self.clone(), Arc::clone(parent), Arc::clone(&gate));
            let under = under.clone();
            let tasks = parent.tasks.clone();
            running.push(tasks.spawn(async move {
                let slot = gate.acquire_owned().await;
                let output = kernel.spawn_one(&parent, &under, index, child).await;
                drop(slot);
                output
            }));
        }
        let mut children = Vec::with_capacity(running.len());
        let mut lacking = None;
        for one in running {
            let output = one.await.unwrap_or_else(|died| {
                let why = format!("the child's task died: {died}");
                Err(ToolFailure::new(ToolFailureKind::ChildFailed, why))
            });
            children.push(output.unwrap_or_else(|failure| {
                let told = never_ran(&failure);
                lacking = lacking.take().or(Some(failure).filter(|failure| failure.lacks.is_some()));
                told
            }));
        }
        // All that could be begun is over; what was lacking ends the run of the parent, as it does for one child.
        lacking.map_or(Ok(SpawnAgentsOutput { count: children.len() as u64, children }), Err)
    }

    /// Admits and runs one child, with one retry, and records how it ended in the end. Fails only when no child was
    /// admitted.
    async fn spawn_one(
        &self,
        parent: &Arc<Agent>,
        under: &Under,
        index: u32,
        input: SpawnAgentInput,
    ) -> Result<SpawnAgentOutput, ToolFailure> {
        let earlier = under.child(index);
        if let Some(outcome) = earlier.outcome {
            return outcome;
        }
        let manifest = self.read_child(&input);
        let name = manifest.as_ref().ok().map(|manifest| manifest.name.clone());
        let outcome = match manifest {
            Ok(manifest) => {
                self.spawn_with_retry(parent, under, index, manifest, &input, &earlier.agents).await
            }
            Err(failure) => Err(failure),
        };
        if self.is_closing() {
            return outcome;
        }
        if let Some(goal) = parent.goal
            && let Some(goal) = self.table().goals.get_mut(&goal)
        {
            goal.failed_children.note(name.as_ref(), &outcome);
        }
        let ended = Event::ChildEnded { call: under.call, index, name, outcome: outcome.clone() };
        // The verdict over the goal rests on it, also after a restart.
        self.record_or_log(self.agent_entry(parent, ended)).await;
        outcome
    }

    async fn spawn_with_retry(
        &self,
        parent: &Arc<Agent>,
        under: &Under,
        index: u32,
        manifest: Manifest,
        input: &SpawnAgentInput,
        earlier: &[AgentId],
    ) -> Result<SpawnAgentOutput, ToolFailure> {
        let message = self.child_message(parent, input).await?;
        let (all, climbs) = (manifest.clone(), None);
        let child = Child { index, manifest: all, earlier: earlier.first().copied(), climbs };
        let first = self.attempt(parent, under, child, message.clone()).await?;
        let Some(reason) = first.failure() else { return Ok(output_of(first, None)) };
        let once = manifest.supervision.restart == RestartPolicy::Never;
        if once || !first.is_worth_another() || under.cancel.is_cancelled() {
            return Ok(output_of(first, None));
        }
        let earlier = earlier.get(1).copied();
        if earlier.is_none() {
            let event = Event::ChildRetried { child: first.child, reason: reason.clone() };
            self.note_or_log(self.agent_entry(parent, event));
        }
        let again = format!("{message}\n\nAn earlier attempt at this failed: {reason}");
        let child = Child { index, manifest, earlier, climbs: first.climbs.or(Some(ClimbReason::Failed)) };
        let second = match self.attempt(parent, under, child, again).await {
            Ok(second) => second,
            Err(failure) if failure.lacks.is_some() => return Err(failure),
            Err(failure) => {
                let mut output = output_of(first, None);
                output.error = Some(failure.message);
                return Ok(output);
            }
        };
        let usage = first.usage.plus(second.usage);
        let mut output = output_of(second, Some(reason));
        output.usage = usage;
        Ok(output)
    }

    fn read_child(&self, input: &SpawnAgentInput) -> Result<Manifest, ToolFailure> {
        if !fits(&input.message) {
            let why = "the message is over the size limit";
            return Err(ToolFailure::new(ToolFailureKind::InvalidArguments, why));
        }
        Manifest::parse(&input.manifest).map_err(|error| KernelError::from(error).into_tool_failure())
    }

    /// One attempt: a new child, or the one that an earlier daemon had admitted for it.
    async fn attempt(
        &self,
        parent: &Arc<Agent>,
        under: &Under,
        child: Child,
        message: String,
    ) -> Result<Attempt, ToolFailure> {
        let earlier =
            under.earlier.as_ref().and_then(|state| Some((state, state.agents.get(&child.earlier?)?)));
        if child.earlier.is_some() && earlier.is_none() {
            // So many agents ended since that nothing of it is kept.
            let why = "what an earlier attempt came to is forgotten; it is not made again";
            return Err(ToolFailure::new(ToolFailureKind::ChildFailed, why));
        }
        let (agent, run) = match earlier {
            Some((_, record)) if !record.is_alive() => return Ok(attempt_of(record)),
            Some((state, record)) => self.revive_child(state, record, under, message).await?,
            None => {
                let agent = self.spawn_child(parent, under, child.index, child.manifest).await?;
                (agent, RunSoFar::None(message))
            }
        };
        if let (RunSoFar::None(_), Some(reason)) = (&run, child.climbs) {
            agent.live().watch.ladder.note(reason);
        }
        let ran = self.run_from(&agent, run).await;
        if matches!(ran, Err(KernelError::ShuttingDown)) && !agent.cancel.is_cancelled() {
            // It goes on after the next start.
            return Err(cancelled());
        }
        let end = match &ran {
            Ok(end) if end.stop_reason.is_success() => AgentEnd::Finished,
            Ok(end) if end.stop_reason == StopReason::Cancelled => AgentEnd::Stopped,
            Ok(end) => AgentEnd::Failed {
                reason: end.error.clone().unwrap_or_else(|| format!("{:?}", end.stop_reason)),
            },
            Err(error) => AgentEnd::Failed { reason: error.to_string() },
        };
        self.retire_or_log(&agent, end).await;
        let end = ran.map_err(KernelError::into_tool_failure)?;
        let (was_refused, climbs) = {
            let live = agent.live();
            (live.was_refused, live.watch.ladder.climb(&agent.manifest))
        };
        Ok(Attempt {
            child: agent.id,
            was_refused,
            climbs,
            response: end.response,
            usage: end.usage,
            iterations: end.iterations,
            stop_reason: end.stop_reason,
            error: end.error,
        })
    }

    async fn revive_child(
        &self,
        state: &Arc<State>,
        record: &AgentRecord,
        under: &Under,
        message: String,
    ) -> Result<(Arc<Agent>, RunSoFar), ToolFailure> {
        let gone = || KernelError::unknown("agent", &record.id).into_tool_failure();
        let agent = self.table().agent(record.id).ok_or_else(gone)?;
        self.end_with_call(&agent, under);
        match self.recall_run(state, &agent).await {
            Ok(RunSoFar::None(_)) => Ok((agent, RunSoFar::None(message))),
            Ok(run) => Ok((agent, run)),
            Err(error) => {
                self.retire_or_log(&agent, AgentEnd::Failed { reason: error.to_string() }).await;
                Err(error.into_tool_failure())
            }
        }
    }

    /// A child ends with the call that spawned it, also where it was there before the call went on.
    fn end_with_call(&self, child: &Arc<Agent>, under: &Under) {
        let (ended, closing) = (under.cancel.clone(), self.closing().clone());
        let agent = Arc::clone(child);
        drop(child.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => agent.cancel.cancel(),
                () = agent.cancel.cancelled() => {}
                () = closing.cancelled() => {}
            }
        }));
    }
}

/// A child to be attempted.
struct Child {
    index: u32,
    manifest: Manifest,
    /// The agent that an earlier daemon admitted for this attempt.
    earlier: Option<AgentId>,
    /// Why it begins with the second of its models, where it has one.
    climbs: Option<ClimbReason>,
}

/// An attempt that was over before a restart.
fn attempt_of(record: &AgentRecord) -> Attempt {
    let end = record.run.as_ref().and_then(|run| run.end.as_ref());
    let why = match &record.life {
        AgentLife::Stopped { end: AgentEnd::Failed { reason }, .. } => reason.clone(),
        AgentLife::Stopped { .. } | AgentLife::Alive => "it was stopped before its run ended".to_owned(),
    };
    Attempt {
        child: record.id,
        was_refused: record.was_refused,
        response: end.map(|end| end.response.clone()).unwrap_or_default(),
        usage: end.map(|end| end.usage).unwrap_or_default(),
        iterations: end.map_or(0, |end| end.iterations),
        stop_reason: end.map_or(StopReason::Error, |end| end.stop_reason),
        error: end.map_or(Some(why), |end| end.error.clone()),
        climbs: record.watch.ladder.climb(&record.manifest),
    }
}

fn output_of(attempt: Attempt, original_error: Option<String>) -> SpawnAgentOutput {
    let error = attempt.failure();
    SpawnAgentOutput {
        agent_id: Some(attempt.child),
        response: attempt.response,
        usage: attempt.usage,
        iterations: attempt.iterations,
        stop_reason: Some(attempt.stop_reason),
        retried: original_error.is_some(),
        original_error,
        error,
    }
}

fn never_ran(failure: &ToolFailure) -> SpawnAgentOutput {
    SpawnAgentOutput {
        agent_id: None,
        response: String::new(),
        usage: Usage::default(),
        iterations: 0,
        stop_reason: None,
        retried: false,
        original_error: None,
        error: Some(failure.message.clone()),
    }
}

pub(crate) fn to_json<T: serde::Serialize>(output: &T) -> Result<String, ToolFailure> {
    serde_json::to_string(output).map_err(|error| {
        ToolFailure::new(ToolFailureKind::TooLarge, format!("the result is not JSON: {error}"))
    })
}
