//! Starting from the journal, and closing in good order.
//!
//! Invariants: what the journal says is alive is either alive again or recorded as interrupted before the first
//! request is served; a grant whose root is not the one that was granted stays suspended.

use std::sync::Arc;
use std::time::Duration;

use aaos_core::authority::Authority;
use aaos_core::effect::{EffectClass, reserved_by};
use aaos_core::event::{AgentEnd, Event, GoalState, NewEntry, Outcome, content_hash};
use aaos_core::exit::Exit;
use aaos_core::id::AgentId;
use aaos_core::limits;
use aaos_core::model::Usage;
use aaos_core::quantity::Bytes;
use aaos_core::state::{AgentRecord, GoalRecord, PendingKind, State};
use aaos_core::toolio::{StopReason, ToolFailure, ToolFailureKind};
use aaos_sandbox::RootTable;

use crate::approvals::ENDED_BY_RESTART;
use crate::error::KernelError;
use crate::far::WorkerOwner;
use crate::goals::{Goal, GoalRequest};
use crate::kernel::{Kernel, KernelParts};
use crate::registry::{Agent, AgentFacts, Mail};
use crate::spawn::off_thread;
use crate::verdict::INTERRUPTED_GOAL;
use crate::view::RunResult;

/// How often idle workers are looked for.
const IDLE_ROUND: Duration = Duration::from_secs(10);
/// What becomes of a run that a restart cut short.
const INTERRUPTED_RUN: &str = "its run was interrupted by a restart of agentd; send the message again";
/// What is said of an effect that began before a crash and has no recorded outcome.
const UNKNOWN_OUTCOME: &str = "agentd was killed while this ran; whether it took effect is unknown";
/// How long running work may take to end after a stop was asked for.
const CLOSING_TIME: Duration = Duration::from_secs(10);

impl Kernel {
    /// Builds a kernel from what the journal says, and continues: persistent agents wait for messages again,
    /// everything else that was running is recorded as interrupted.
    ///
    /// # Errors
    /// [`KernelError`] when the journal fails.
    pub async fn start(parts: KernelParts, state: &State) -> Result<Self, KernelError> {
        let authority = Authority::restore(parts.config.limits.authority(), state);
        let roots = RootTable::new(parts.config.protected.clone(), vec![parts.config.workspaces.clone()]);
        let kernel = Self::assemble(parts, authority, roots);
        kernel.recover(state).await?;
        // Started before it is asked for, so that the keys leave this process as soon as they can.
        let first = kernel.clone();
        drop(kernel.tasks().spawn(async move {
            if let Err(error) = first.providers().await {
                tracing::error!(%error, "the models gateway cannot be started");
            }
        }));
        let idle = kernel.clone();
        drop(kernel.tasks().spawn(async move { idle.end_idle_workers().await }));
        Ok(kernel)
    }

    async fn recover(&self, state: &State) -> Result<(), KernelError> {
        let interrupted: Vec<_> = state.open_goals().map(|goal| goal.id).collect();
        let version = self.config().version.clone();
        let started = Event::DaemonStarted { version, interrupted_goals: interrupted };
        // Before all that bears the time of this start: the fold counts up to the latest entry, and the daemon was down.
        let mut entries = self.unknown_outcomes(state);
        entries.extend(self.cut_runs(state));
        for agent in state.alive().filter(|agent| !survives(agent)) {
            self.authority().remove(agent.id);
            let asked = state.questions.values().filter(|asked| asked.question.agent == agent.id);
            entries.extend(asked.map(|asked| {
                let (approval, reason) = (asked.question.id, ENDED_BY_RESTART.to_owned());
                let denied = Event::HumanApprovalDenied { approval, principal: None, reason };
                self.entry(agent.goal, Some(agent.id), denied)
            }));
            let end = Event::AgentStopped { end: AgentEnd::Interrupted };
            entries.push(self.entry(agent.goal, Some(agent.id), end));
        }
        for goal in state.open_goals() {
            entries.push(self.entry(Some(goal.id), None, interrupted_goal()));
        }
        // Last, because it makes whatever is still open interrupted: what a crash between two parts leaves out is
        // recorded at the next start.
        entries.push(self.entry(None, None, started));
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(limits::MAX_RECORD_BATCH));
            self.journal().record_all(std::mem::replace(&mut entries, rest)).await?;
        }
        self.recall_goals(state);
        self.recall_replies(state);
        for record in state.alive().filter(|agent| survives(agent)) {
            self.revive(state, record).await?;
        }
        Ok(())
    }

    /// Runs that were cut short, of agents that go on. They are over since the last that is known of them: what
    /// their agents used is counted up to then, here as in [`Authority::restore`].
    fn cut_runs(&self, state: &State) -> Vec<NewEntry> {
        let survivors = state.alive().filter(|agent| survives(agent));
        let cut = survivors.flat_map(|agent| {
            agent.mailbox.iter().filter(|mail| mail.taken).map(|mail| (agent.id, mail.trace))
        });
        let entry = |(agent, trace_id)| {
            let entry = self.entry(None, Some(agent), interrupted_run());
            NewEntry { timestamp: state.latest, trace_id, ..entry }
        };
        cut.map(entry).collect()
    }

    /// Effects that may not be repeated and have no recorded outcome: nobody can tell what they did. What is reserved
    /// for them was used by the last that is known.
    fn unknown_outcomes(&self, state: &State) -> Vec<NewEntry> {
        let unknown = || ToolFailure::new(ToolFailureKind::WorkerLost, UNKNOWN_OUTCOME);
        let once = state.pending.values().filter(|pending| pending.class == EffectClass::Once);
        let entries = once.filter_map(|pending| {
            let event = match &pending.kind {
                PendingKind::Tool { tool } => Event::ToolResult {
                    call: pending.call,
                    tool: tool.clone(),
                    outcome: Outcome::Unknown,
                    result_hash: content_hash(b""),
                    result_bytes: Bytes::ZERO,
                    failure: Some(unknown()),
                    worker: None,
                    spent: reserved_by(&pending.charges),
                    elapsed: state.latest.since(pending.since),
                },
                PendingKind::Spawn { .. } => {
                    let spent = reserved_by(&pending.charges);
                    Event::SpawnCompleted { call: pending.call, child: None, failure: Some(unknown()), spent }
                }
                PendingKind::Inference { .. } => return None,
            };
            let entry = self.entry(pending.goal, pending.agent, event);
            Some(NewEntry { timestamp: state.latest, parent_event: Some(pending.intent), ..entry })
        });
        entries.collect()
    }

    fn recall_goals(&self, state: &State) {
        let mut table = self.table();
        for record in state.goals.values() {
            if let Some(key) = &record.client_key {
                table.goal_of_key.insert((record.principal, key.clone()), record.id);
            }
            table.goals.insert(record.id, goal_of(record));
        }
    }

    fn recall_replies(&self, state: &State) {
        let mut table = self.table();
        for (trace, reply) in &state.replies {
            let owner = state.agents.get(&reply.agent).map_or(0, |agent| agent.principal);
            let result = RunResult {
                response: reply.response.clone(),
                usage: reply.usage,
                iterations: reply.iterations,
                stop_reason: reply.stop_reason,
                error: reply.error.clone(),
                failure: None,
            };
            let recalled = table.open_trace(*trace, owner).map(|()| table.traces.complete(*trace, result));
            if !matches!(recalled, Ok(Ok(()))) {
                tracing::error!(%trace, "a recorded reply could not be recalled");
            }
        }
    }

    /// Brings an agent back with its grants and the messages it had not answered.
    async fn revive(&self, state: &State, record: &AgentRecord) -> Result<(), KernelError> {
        self.reopen_roots(state, record.id).await?;
        let agent = Agent::new(AgentFacts {
            id: record.id,
            manifest: record.manifest.clone(),
            parent: record.parent,
            goal: record.goal,
            owner: record.principal,
            depth: record.depth,
            started_at: record.spawned_at,
            cancel: self.closing().child_token(),
        });
        agent.paused.send_replace(record.paused);
        self.recall_revoked(state, &agent);
        for mail in &record.mailbox {
            let Some(trace) = mail.trace else { continue };
            self.table().open_trace(trace, agent.owner)?;
            if mail.taken {
                // Its run was cut short; what it did cannot be known here, so it is not done again.
                let closed = self.table().traces.fail(trace, INTERRUPTED_RUN);
                closed.map_err(|error| KernelError::State(error.to_string()))?;
            } else {
                match agent.reserve_mail() {
                    Ok(()) => agent.settle_mail(Some(Mail { trace, message: mail.message.clone() })),
                    Err(full) => {
                        let closed = self.table().traces.fail(trace, full.to_string());
                        closed.map_err(|error| KernelError::State(error.to_string()))?;
                    }
                }
            }
        }
        self.table().agents.insert(agent.id, Arc::clone(&agent));
        self.recall_questions(state, &agent);
        if agent.manifest.lifecycle.outlives_a_run() {
            self.start_mailbox_loop(&agent);
        }
        Ok(())
    }

    async fn reopen_roots(&self, state: &State, agent: AgentId) -> Result<(), KernelError> {
        let grants = state.grants.values().filter(|grant| grant.record.agent == agent && !grant.revoked);
        for grant in grants {
            let Some(identity) = grant.record.root.clone() else { continue };
            let (Some(pattern), id) = (grant.record.capability.file_pattern().cloned(), grant.record.id)
            else {
                continue;
            };
            let roots = self.roots().clone();
            let reopened = off_thread(move || roots.reopen(id, &pattern, &identity)).await?;
            if let Err(error) = reopened {
                // Without its root no path of the grant can be opened: it stays suspended.
                tracing::warn!(%error, grant = %id, "a grant is suspended: its root is not what was granted");
            }
        }
        Ok(())
    }

    async fn end_idle_workers(&self) {
        let mut round = tokio::time::interval(IDLE_ROUND);
        loop {
            tokio::select! {
                _ = round.tick() => {}
                () = self.closing().cancelled() => return,
            }
            let agents: Vec<_> = self.table().agents.values().cloned().collect();
            for agent in agents {
                let owner = WorkerOwner { agent: agent.id, goal: agent.goal };
                self.end_idle_worker(&agent.worker, owner).await;
            }
        }
    }

    /// Closes in good order: no new work, runs are cancelled and recorded, workers ended, the journal flushed.
    ///
    /// # Errors
    /// [`KernelError`] when the journal cannot be closed.
    pub async fn shutdown(&self) -> Result<(), KernelError> {
        self.close_doors();
        let agents: Vec<_> = self.table().agents.values().cloned().collect();
        self.closing().cancel();
        self.tasks().close();
        for agent in &agents {
            agent.worker.kill();
        }
        if tokio::time::timeout(CLOSING_TIME, self.tasks().wait()).await.is_err() {
            tracing::warn!("some work did not end in time; it is recorded as interrupted at the next start");
        }
        for agent in &agents {
            agent.tasks.close();
            if tokio::time::timeout(CLOSING_TIME, agent.tasks.wait()).await.is_err() {
                tracing::warn!(agent = %agent.id, "an agent's work did not end in time");
            }
            let owner = WorkerOwner { agent: agent.id, goal: agent.goal };
            self.end_worker(&agent.worker, owner).await;
        }
        self.sandbox().shutdown().await;
        self.journal().record(self.entry(None, None, Event::DaemonStopped {})).await?;
        Ok(self.journal().clone().close().await?)
    }
}

/// Whether an agent goes on after a restart: one of the operator's own that is persistent, or was not in the
/// middle of its run.
fn survives(agent: &AgentRecord) -> bool {
    let idle = agent.run.as_ref().is_none_or(|run| run.end.is_some());
    agent.goal.is_none() && agent.parent.is_none() && (idle || agent.manifest.lifecycle.outlives_a_run())
}

fn interrupted_run() -> Event {
    Event::AgentExecutionCompleted {
        response: String::new(),
        usage: Usage::default(),
        iterations: 0,
        stop_reason: StopReason::Error,
        error: Some(INTERRUPTED_RUN.to_owned()),
    }
}

fn interrupted_goal() -> Event {
    Event::GoalFinished {
        state: GoalState::Interrupted,
        response: String::new(),
        outputs: Vec::new(),
        usage: Usage::default(),
        error: Some(INTERRUPTED_GOAL.to_owned()),
        exit_code: Exit::Failed as u8,
    }
}

fn goal_of(record: &GoalRecord) -> Goal {
    let request = GoalRequest {
        goal: record.goal.clone(),
        outputs: record.outputs.clone(),
        client_key: record.client_key.clone(),
        priority: 0,
        deadline_seconds: 0,
        budget: record.budget,
        grants: Vec::new(),
        manifest: None,
        approval_required: Vec::new(),
        working_directory: None,
    };
    let mut goal = Goal::new(request, record.principal, record.accepted_at, Default::default());
    goal.root_agent = record.root_agent;
    goal.workspace = record.workspace.clone();
    goal.cost = record.cost;
    goal.state = GoalState::Interrupted;
    goal.exit_code = Some(Exit::Failed as u8);
    goal.error = Some(INTERRUPTED_GOAL.to_owned());
    if let Some(end) = &record.end {
        goal.state = record.state;
        goal.response = Some(end.response.clone());
        goal.outputs = end.outputs.clone();
        goal.usage = end.usage;
        goal.error = end.error.clone();
        goal.exit_code = Some(end.exit_code);
    }
    goal.over.send_replace(true);
    goal
}
