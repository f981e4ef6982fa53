//! What an earlier daemon left behind: what of it goes on, what is told as unknown, and how a run continues.
//!
//! Invariants: what goes on is decided from the journal's fold alone, and recorded before anything is done about it; a
//! model's reply that is recorded is never asked for again; an effect that may not be repeated is not; an agent whose
//! parent does not go on does not either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aaos_agent::{Mind, OpenRun, RunEnd, TAPE_KINDS, Tape, specs_of};
use aaos_core::authority::Overdraft;
use aaos_core::effect::{Charge, EffectClass, reserved_by};
use aaos_core::event::{AgentEnd, Entry, Event, NewEntry, NotApproved, Outcome, content_hash};
use aaos_core::id::{AgentId, CallId, Seq};
use aaos_core::limits::CALL_JOURNAL_BYTES;
use aaos_core::quantity::{Amounts, Bytes, Quantity, Timestamp};
use aaos_core::state::{AgentRecord, PendingCall, PendingKind, PendingTool, ReplyRecord, State};
use aaos_core::tool::{self, Tool};
use aaos_core::toolio::{SendMessageOutput, ToolFailure, ToolFailureKind};
use aaos_journal::{Filter, may_go_on};
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::fork::Lent;
use crate::kernel::Kernel;
use crate::registry::{Agent, AgentFacts};
use crate::repeat::RepeatCounts;
use crate::run::Resumption;
use crate::spawn::off_thread;
use crate::spawning_tools::to_json;
use crate::unfinished::Leftover;
use crate::view::UnknownEffect;

/// What is said of an effect that began before a restart and has no recorded outcome.
pub(crate) const UNKNOWN_OUTCOME: &str =
    "agentd was killed while this ran; whether it took effect is unknown, look before repeating it";
/// What is said of a spawn that a restart cut short before there was a child.
const SPAWN_CUT: &str = "agentd was killed before the child was admitted";
/// What is said of a message that a restart cut short before it was delivered.
const MESSAGE_CUT: &str = "agentd was killed before the message was delivered";
/// What is recorded for a connection that a killed daemon left.
const CONNECTION_CUT: &str = "agentd was killed while the connection was open; what moved is unknown";
/// What is recorded for a question whose agent did not outlive the daemon.
const ENDED_BY_RESTART: &str = "its agent ended with the restart of agentd";

/// What is to be recorded about what an earlier daemon left, and what goes on.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Settles what will not go on; bears the time of the last entry, because the daemon was down since.
    pub(crate) entries: Vec<NewEntry>,
    /// Calls that go on.
    pub(crate) resumed: Vec<CallId>,
    /// Effects of which nobody knows whether they happened.
    pub(crate) unknown: Vec<UnknownEffect>,
    /// What these may have left beside files.
    pub(crate) leftovers: Vec<Leftover>,
}

impl Plan {
    /// What is to become of what is open in `state`.
    pub(crate) fn of(state: &State) -> Self {
        let alive = survivors(state);
        let mut plan = Self::default();
        for pending in state.pending.values() {
            if goes_on(state, &alive, pending) {
                plan.resumed.push(pending.call);
            } else {
                plan.settle(state, pending);
            }
        }
        for agent in state.alive().filter(|agent| !alive.contains(&agent.id)) {
            plan.end(state, agent);
        }
        plan
    }

    /// A call that does not go on: a spawn either took effect, which the journal itself tells, or did not; of anything
    /// else that may not be repeated nobody can tell. What is reserved was used by the last that is known.
    fn settle(&mut self, state: &State, pending: &PendingCall) {
        let call = pending.call;
        let event = match &pending.kind {
            PendingKind::Inference { .. } => return,
            PendingKind::Spawn { admitted: Some(child), .. } => {
                let spent = reserved_by(&pending.charges);
                Event::SpawnCompleted { call, child: Some(*child), failure: None, spent }
            }
            PendingKind::Spawn { admitted: None, .. } => {
                let failure = Some(ToolFailure::new(ToolFailureKind::WorkerLost, SPAWN_CUT));
                let spent = Amounts::of(Quantity::JournalBytes, CALL_JOURNAL_BYTES);
                Event::SpawnCompleted { call, child: None, failure, spent }
            }
            // What moved nobody knows, and all that was leased is spent.
            PendingKind::Connection { .. } => Event::ConnectionEnded {
                call,
                sent: Bytes::ZERO,
                received: Bytes::ZERO,
                failure: Some(ToolFailure::new(ToolFailureKind::WorkerLost, CONNECTION_CUT)),
                spent: reserved_by(&pending.charges),
                elapsed: state.latest.since(pending.since),
            },
            PendingKind::Tool(_) if pending.class == EffectClass::Safe => return,
            PendingKind::Tool(tool) if tool.tool.as_str() == tool::SendMessage::NAME => {
                settled(state.latest, pending, tool, sent_or_not(tool))
            }
            PendingKind::Tool(tool) => {
                let owner = pending.agent.and_then(|id| state.agents.get(&id)).map_or(0, |one| one.principal);
                self.leftovers.extend(Leftover::of(call, tool));
                self.unknown.push(UnknownEffect::of(pending, tool, owner));
                let unknown = ToolFailure::new(ToolFailureKind::WorkerLost, UNKNOWN_OUTCOME);
                settled(state.latest, pending, tool, Err(unknown))
            }
        };
        let entry = entry_at(state.latest, pending.goal, pending.agent, event);
        self.entries.push(NewEntry { trace_id: pending.trace, parent_event: Some(pending.intent), ..entry });
    }

    /// An agent that does not go on, and what it asked.
    fn end(&mut self, state: &State, agent: &AgentRecord) {
        let entry = |event| entry_at(state.latest, agent.goal, Some(agent.id), event);
        let asked = state.questions.values().filter(|asked| asked.question.agent == agent.id);
        self.entries.extend(asked.map(|asked| {
            let (approval, reason) = (asked.question.id, ENDED_BY_RESTART.to_owned());
            entry(Event::HumanApprovalDenied {
                approval,
                principal: None,
                reason,
                because: NotApproved::Stopped,
            })
        }));
        self.entries.push(entry(Event::AgentStopped { end: AgentEnd::Interrupted }));
    }
}

/// What came of a call that sent a message: the journal itself tells.
pub(crate) fn sent_or_not(tool: &PendingTool) -> Result<String, ToolFailure> {
    let Some(trace) = tool.delivered else {
        return Err(ToolFailure::new(ToolFailureKind::Cancelled, MESSAGE_CUT));
    };
    to_json(&SendMessageOutput::without_reply(trace))
}

/// The outcome of a call that does not go on.
pub(crate) fn settled(
    now: Timestamp,
    pending: &PendingCall,
    tool: &PendingTool,
    result: Result<String, ToolFailure>,
) -> Event {
    let text = result.as_deref().unwrap_or_default();
    let failure = result.as_ref().err();
    Event::ToolResult {
        call: pending.call,
        tool: tool.tool.clone(),
        outcome: failure.map_or(Outcome::Done, ToolFailure::outcome),
        result_hash: content_hash(text.as_bytes()),
        result_bytes: Bytes(text.len() as u64),
        failure: failure.cloned(),
        worker: None,
        spent: reserved_by(&pending.charges),
        elapsed: now.since(pending.since),
        result: result.ok(),
    }
}

fn entry_at(
    timestamp: Timestamp,
    goal_id: Option<aaos_core::id::GoalId>,
    agent_id: Option<AgentId>,
    event: Event,
) -> NewEntry {
    NewEntry { timestamp, goal_id, agent_id, trace_id: None, parent_event: None, event }
}

/// Agents that go on: an operator's own that have a mailbox or are idle, agents of open goals, and below them those
/// that an unfinished spawning call still waits for.
fn survivors(state: &State) -> BTreeSet<AgentId> {
    let mut alive: Vec<&AgentRecord> = state.alive().collect();
    alive.sort_by_key(|agent| agent.depth);
    let awaited = awaited(state);
    let mut survive = BTreeSet::new();
    for agent in alive {
        let survives = match (agent.parent, agent.goal) {
            (Some(_), _) => awaited.get(&agent.id).is_some_and(|call| goes_on(state, &survive, call)),
            (None, Some(goal)) => {
                let goal = state.goals.get(&goal).filter(|goal| !goal.state.is_final());
                goal.is_some_and(|goal| goal.root_agent == Some(agent.id))
            }
            (None, None) => {
                // After a run of which a restart was decided another one follows in the same call.
                let rests = agent.run.as_ref().is_some_and(|run| run.supervised);
                let is_idle = agent.open_run().is_none() && !rests;
                is_idle || agent.manifest.lifecycle.outlives_a_run()
            }
        };
        if survives {
            survive.insert(agent.id);
        }
    }
    survive
}

/// The children that unfinished spawning calls wait for, with those calls, which are their parents'.
fn awaited(state: &State) -> BTreeMap<AgentId, &PendingCall> {
    let mut awaited = BTreeMap::new();
    for pending in state.pending.values() {
        let PendingKind::Tool(tool) = &pending.kind else { continue };
        let waiting = tool.children.values().filter(|one| one.outcome.is_none());
        awaited.extend(waiting.filter_map(|one| Some((*one.agents.last()?, pending))));
    }
    awaited
}

/// Whether a call that has no recorded outcome goes on: one that a surviving agent's run waits for.
fn goes_on(state: &State, alive: &BTreeSet<AgentId>, pending: &PendingCall) -> bool {
    let by_its_run = match &pending.kind {
        PendingKind::Tool(tool) => tool.model_call.is_some(),
        PendingKind::Inference { .. } | PendingKind::Spawn { .. } | PendingKind::Connection { .. } => false,
    };
    let agent = pending.agent.filter(|id| alive.contains(id)).and_then(|id| state.agents.get(&id));
    by_its_run && may_go_on(pending) && agent.is_some_and(|agent| agent.open_run().is_some())
}

/// How far the run of an agent came before a restart.
#[derive(Debug)]
pub(crate) enum RunSoFar {
    /// It was not begun; this is what the agent is to be told.
    None(String),
    /// It was not begun; the agent is to go on with this.
    Lent(Box<Lent>),
    /// It goes on.
    Open(Box<(Mind, OpenRun, Resumption)>),
    /// It ended.
    Ended(Box<Over>),
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Over {
    pub(crate) end: RunEnd,
    /// The mind after it, where the agent may go on.
    pub(crate) mind: Option<Mind>,
    /// Whether it is decided that it goes on.
    pub(crate) restarted: bool,
}

/// A mind as the journal leaves it.
#[derive(Debug)]
pub(crate) struct Recalled {
    pub(crate) mind: Mind,
    /// The run that is not over.
    pub(crate) open: Option<OpenRun>,
    /// Which calls that run made how often.
    pub(crate) repeats: RepeatCounts,
    /// Of what its last reply used more than was reserved, where that ends the run.
    pub(crate) overdrawn: Option<Quantity>,
}

/// What the last inference of an agent reserved, as its entries are read.
#[derive(Debug, Default)]
struct LastInference {
    charges: Vec<Charge>,
    over: Vec<Overdraft>,
}

impl LastInference {
    /// A reply that cost too much is the last that a run records before its end.
    fn note(&mut self, event: &Event) {
        match event {
            Event::InferenceRequested { charges, .. } => {
                self.charges.clone_from(charges);
                self.over.clear();
            }
            Event::InferenceCompleted { result: Ok(_), spent, .. } => {
                self.over = Overdraft::of(&self.charges, spent);
            }
            // A client's call beside the run.
            Event::ToolInvoked { model_call: None, .. } | Event::ToolResult { .. } => {}
            _ => self.over.clear(),
        }
    }
}

impl Kernel {
    /// Brings an agent back with its grants and what it asked.
    pub(crate) async fn revive(
        &self,
        state: &State,
        record: &AgentRecord,
        cancel: CancellationToken,
    ) -> Result<Arc<Agent>, KernelError> {
        self.reopen_roots(record.id).await?;
        let agent = Agent::new(AgentFacts {
            id: record.id,
            manifest: record.manifest.clone(),
            parent: record.parent,
            goal: record.goal,
            owner: record.principal,
            depth: record.depth,
            started_at: record.spawned_at,
            cancel,
        });
        agent.paused.send_replace(record.paused);
        {
            let mut live = agent.live();
            live.conversation.clone_from(&record.conversation);
            live.conversation_began = record.conversation_began;
            live.total_usage = record.usage;
            live.was_refused = record.was_refused;
            live.watch = record.watch.clone();
        }
        self.recall_revoked(state, &agent);
        self.table().agents.insert(agent.id, Arc::clone(&agent));
        self.recall_questions(state, &agent);
        Ok(agent)
    }

    /// Opens the roots of the grants that an agent holds now: one that was revoked with what it derives from has none.
    async fn reopen_roots(&self, agent: AgentId) -> Result<(), KernelError> {
        let held = self.authority().grants_of(agent);
        for grant in held {
            let (Some(identity), Some(pattern)) = (grant.root, grant.capability.file_pattern().cloned())
            else {
                continue;
            };
            let id = grant.id;
            let roots = self.roots().clone();
            let reopened = off_thread(move || roots.reopen(id, &pattern, &identity)).await?;
            if let Err(error) = reopened {
                // Without its root no path of the grant can be opened: it stays suspended.
                tracing::warn!(%error, grant = %id, "a grant is suspended: its root is not what was granted");
            }
        }
        Ok(())
    }

    /// How far the last run of an agent came.
    pub(crate) async fn recall_run(
        &self,
        state: &Arc<State>,
        agent: &Arc<Agent>,
    ) -> Result<RunSoFar, KernelError> {
        let run = state.agents.get(&agent.id).and_then(|record| record.run.as_ref());
        let Some(run) = run else { return Ok(RunSoFar::None(String::new())) };
        if let Some(end) = &run.end {
            let is_climbing =
                agent.parent.is_none() && agent.live().watch.ladder.climb(&agent.manifest).is_some();
            let mind = if is_climbing { Some(self.recall(agent, &state.cut).await?.mind) } else { None };
            let (end, restarted) = (end_of(end), run.supervised);
            return Ok(RunSoFar::Ended(Box::new(Over { end, mind, restarted })));
        }
        let recalled = self.recall(agent, &state.cut).await?;
        let goal = agent.goal.and_then(|goal| state.goals.get(&goal));
        let of_goal = goal.filter(|goal| goal.root_agent == Some(agent.id)).map(|goal| goal.usage);
        // A goal's root agent counts for its whole tree.
        let usage = of_goal.unwrap_or(run.usage);
        let Recalled { mind, open: Some(open), repeats, overdrawn } = recalled else {
            let why = format!("agent {}: the journal holds no run that could go on", agent.id);
            return Err(KernelError::State(why));
        };
        let earlier = Some(Arc::clone(state));
        Ok(RunSoFar::Open(Box::new((mind, open, Resumption { usage, repeats, earlier, overdrawn }))))
    }

    /// Runs an agent to the end of its run, from wherever that stands.
    pub(crate) async fn run_from(&self, agent: &Arc<Agent>, run: RunSoFar) -> Result<RunEnd, KernelError> {
        match run {
            RunSoFar::Ended(over) => Ok(over.end),
            run => Ok(self.run_on(agent, run).await?.1),
        }
    }

    /// The same for a run that is not over.
    pub(crate) async fn run_on(
        &self,
        agent: &Arc<Agent>,
        run: RunSoFar,
    ) -> Result<(Mind, RunEnd), KernelError> {
        match run {
            RunSoFar::None(message) => self.run_agent(agent, self.mind_for(agent), message, None).await,
            RunSoFar::Lent(lent) => self.run_lent(agent, *lent).await,
            RunSoFar::Open(open) => {
                let (mind, open, resumption) = *open;
                self.resume_run(agent, mind, open, resumption).await
            }
            RunSoFar::Ended(_) => unreachable!("a run that is over is not gone on with"),
        }
    }

    /// Rebuilds the mind of an agent from the journal. The results of calls that were `cut` are given to nobody.
    pub(crate) async fn recall(
        &self,
        agent: &Agent,
        cut: &BTreeSet<CallId>,
    ) -> Result<Recalled, KernelError> {
        let first = agent.live().conversation.front().copied();
        let (mut tape, mut repeats, first) = match self.lent_to(agent).await? {
            // It holds what was lent and all of its own.
            Some(Lent { tape, repeats }) => (tape.handed_over(), repeats, first.map(|_| Seq(1))),
            None => (Tape::recent(self.mind_config(agent)), RepeatCounts::default(), first),
        };
        let mut last = LastInference::default();
        if let Some(first) = first {
            let mut after = Seq(first.0.saturating_sub(1));
            loop {
                let entries = self.tape_entries(agent, after).await?;
                let Some(newest) = entries.last() else { break };
                after = newest.seq;
                for entry in &entries {
                    if matches!(&entry.event, Event::ToolResult { call, .. } if cut.contains(call)) {
                        continue;
                    }
                    tape.take(entry, specs_of).map_err(|divergence| {
                        KernelError::State(format!("agent {} cannot go on: {divergence}", agent.id))
                    })?;
                    repeats.recall(&entry.event, &tape);
                    last.note(&entry.event);
                }
            }
        }
        let overdrawn = self.stops_at(agent, &last.over).filter(|_| tape.is_running());
        if overdrawn.is_some() {
            // As before the restart: the reply is paid for, and ends the run instead of reaching the mind.
            tape.withhold_reply();
        }
        let (mut mind, open) = tape.finish();
        mind.count_as_used(agent.live().total_usage);
        Ok(Recalled { mind, open, repeats, overdrawn })
    }

    async fn tape_entries(&self, agent: &Agent, after: Seq) -> Result<Vec<Entry>, KernelError> {
        let kinds = TAPE_KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        let filter = Filter { agent: Some(agent.id), kinds, ..Filter::after(after) };
        Ok(self.journal().read(filter).await?)
    }
}

/// A recorded end of a run.
pub(crate) fn end_of(record: &ReplyRecord) -> RunEnd {
    RunEnd {
        response: record.response.clone(),
        usage: record.usage,
        iterations: record.iterations,
        stop_reason: record.stop_reason,
        error: record.error.clone(),
        failure: record.failure,
    }
}
