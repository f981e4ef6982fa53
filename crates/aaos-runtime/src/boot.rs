//! Starting from the journal, and closing in good order.
//!
//! Invariants: what the journal says is alive goes on or is recorded as ended before the first request is served; a
//! grant whose root is not the one that was granted stays suspended; what still runs when the kernel closes is left
//! unfinished in the journal, not recorded as ended.

use std::sync::Arc;
use std::time::Duration;

use aaos_core::authority::Authority;
use aaos_core::event::{Event, GoalState, NewEntry};
use aaos_core::id::GoalId;
use aaos_core::limits;
use aaos_core::state::{AgentRecord, GoalRecord, PendingCall, PendingKind, State};
use aaos_sandbox::RootTable;
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::far::WorkerOwner;
use crate::goals::{Goal, GoalRequest};
use crate::kernel::{Kernel, KernelParts};
use crate::recovery::{Plan, end_of};
use crate::registry::{Agent, Mail};
use crate::run::result_of;
use crate::unfinished::Leftover;

/// How often idle workers are looked for.
const IDLE_ROUND: Duration = Duration::from_secs(10);
/// How long running effects may take to end after a stop was asked for.
const CLOSING_TIME: Duration = Duration::from_secs(10);

/// How a kernel closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Everything that ran has ended or reached a place to go on from.
    InGoodOrder,
    /// Some work did not end in time and was cut, as by `kill -9`.
    CutShort,
}

impl Kernel {
    /// Builds a kernel from what the journal says, and continues: goals are worked on from where they stood, agents
    /// with a mailbox wait for messages again, what cannot go on is recorded as ended.
    ///
    /// # Errors
    /// [`KernelError`] when the journal fails.
    pub async fn start(parts: KernelParts, mut state: State) -> Result<Self, KernelError> {
        let Plan { mut entries, resumed, unknown, leftovers } = Plan::of(&state);
        // Last: whatever was begun and is not resumed counts as used from here on.
        let (version, now) = (parts.config.version.clone(), parts.clock.now());
        let event = Event::DaemonStarted { version, resumed: resumed.clone() };
        let (goal_id, agent_id, trace_id, parent_event) = (None, None, None, None);
        entries.push(NewEntry { timestamp: now, goal_id, agent_id, trace_id, parent_event, event });
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(limits::MAX_RECORD_BATCH));
            for entry in parts.journal.record_all(std::mem::replace(&mut entries, rest)).await? {
                state.apply(&entry);
            }
        }
        let mut authority = Authority::restore(parts.config.limits.authority(), &state);
        for pending in resumed.iter().filter_map(|call| state.pending.get(call)) {
            if let PendingKind::Tool(tool) = &pending.kind {
                authority.reopen(pending, &tool.access);
            }
        }
        let goes_on: Vec<PendingCall> =
            resumed.iter().filter_map(|call| state.pending.get(call)).cloned().collect();
        let roots = RootTable::new(parts.config.protected.clone(), vec![parts.config.workspaces.clone()]);
        let kernel = Self::assemble(parts, authority, roots);
        kernel.show_unknown(unknown);
        goes_on.into_iter().for_each(|pending| kernel.unfinished().keep(pending));
        kernel.quiet().recall(state.quiet.clone());
        kernel.go_on(state, leftovers).await?;
        // Started before it is asked for, so that the keys leave this process as soon as they can.
        let first = kernel.clone();
        drop(kernel.tasks().spawn(async move {
            if let Err(error) = first.probe_providers().await {
                tracing::error!(%error, "the models gateway cannot be started");
            }
        }));
        let metrics = kernel.clone();
        drop(kernel.tasks().spawn(async move { metrics.show_metrics().await }));
        let spans = kernel.clone();
        drop(kernel.tasks().spawn(async move { spans.export_spans().await }));
        let clockwork = kernel.clone();
        drop(kernel.tasks().spawn(async move { clockwork.fire_schedules().await }));
        let idle = kernel.clone();
        drop(kernel.tasks().spawn(async move { idle.end_idle_workers().await }));
        let cleaning = kernel.clone();
        drop(kernel.tasks().spawn(async move { cleaning.clean_workspaces().await }));
        Ok(kernel)
    }

    /// Takes up everything that goes on.
    async fn go_on(&self, state: State, leftovers: Vec<Leftover>) -> Result<(), KernelError> {
        self.recall_replies(&state);
        let state = Arc::new(state);
        let started = self.recall_goals(&state);
        // All of them before any goes on: a parent finds its children here, and a client whoever is alive.
        let mut alive: Vec<&AgentRecord> = state.alive().collect();
        alive.sort_by_key(|agent| agent.depth);
        for record in &alive {
            self.revive(&state, record, self.ends_with(record)).await?;
        }
        self.discard_leftovers(leftovers).await;
        let mut back = Vec::new();
        for record in alive.iter().filter(|agent| agent.goal.is_none() && agent.parent.is_none()) {
            let agent = self.table().agent(record.id);
            let agent = agent.ok_or_else(|| KernelError::unknown("agent", &record.id))?;
            self.recall_mail(&agent, record)?;
            back.push((agent, record));
        }
        let with_mailbox = back.iter().filter(|(agent, _)| agent.has_mailbox());
        let mut began = with_mailbox.map(|(agent, _)| self.agent_entry(agent, Event::AgentLoopStarted {}));
        loop {
            let some: Vec<NewEntry> = began.by_ref().take(limits::MAX_RECORD_BATCH).collect();
            if some.is_empty() {
                break;
            }
            self.journal().record_all(some).await?;
        }
        // Only now, so that whoever goes on finds those that it writes to and the replies that it waits for.
        for (agent, record) in &back {
            self.take_up_mail(agent, &state, record);
        }
        for goal in started {
            self.work_on(goal, Some(Arc::clone(&state)));
        }
        self.start_goals();
        Ok(())
    }

    /// Puts the goals into the table, and into the queue those that were not begun; gives those that were.
    fn recall_goals(&self, state: &State) -> Vec<GoalId> {
        let mut started = Vec::new();
        for kept in &state.kept_keys {
            self.table().goal_of_key.insert((kept.principal, kept.key.clone()), kept.goal);
        }
        for record in state.goals.values() {
            let mut goal = goal_of(record, self.halting().child_token());
            if record.state.is_final() {
                let mut table = self.table();
                if let Some(key) = &record.client_key {
                    table.goal_of_key.insert((record.principal, key.clone()), record.id);
                }
                table.goals.insert(record.id, goal);
            } else if record.root_agent.is_some() {
                self.queue_goal(record.id, goal);
                self.table().queue.retain(|queued| *queued != record.id);
                started.push(record.id);
            } else {
                goal.state = GoalState::Queued;
                self.queue_goal(record.id, goal);
            }
        }
        started
    }

    /// What ends an agent: the end of its parent, of its goal, or of the daemon.
    fn ends_with(&self, record: &AgentRecord) -> CancellationToken {
        let table = self.table();
        let parent =
            record.parent.and_then(|parent| table.agent(parent)).map(|parent| parent.cancel.child_token());
        let goal = record.goal.and_then(|goal| table.goals.get(&goal)).map(|goal| goal.cancel.child_token());
        parent.or(goal).unwrap_or_else(|| self.halting().child_token())
    }

    fn recall_replies(&self, state: &State) {
        let mut table = self.table();
        for (trace, reply) in &state.replies {
            let owner = state.agents.get(&reply.agent).map_or(0, |agent| agent.principal);
            let end = end_of(reply);
            let recalled =
                table.open_trace(*trace, owner).map(|()| match (reply.is_missing, end.error.clone()) {
                    (true, Some(why)) => table.traces.fail(*trace, why),
                    _ => table.traces.complete(*trace, result_of(&end)),
                });
            if !matches!(recalled, Ok(Ok(()))) {
                tracing::error!(%trace, "a recorded reply could not be recalled");
            }
        }
    }

    /// Gives an agent the messages back that it had not answered.
    fn recall_mail(&self, agent: &Arc<Agent>, record: &AgentRecord) -> Result<(), KernelError> {
        let in_progress = record.open_run().map(|run| run.trace);
        for mail in &record.mailbox {
            let Some(trace) = mail.trace else { continue };
            self.table().open_trace(trace, agent.owner)?;
            if in_progress == Some(mail.trace) {
                continue;
            }
            agent.live().mailbox.put_back(Mail { trace, message: mail.message.clone() });
        }
        Ok(())
    }

    /// Lets an agent with a mailbox go on with what it was about.
    fn take_up_mail(&self, agent: &Arc<Agent>, state: &Arc<State>, record: &AgentRecord) {
        if !agent.has_mailbox() {
            return;
        }
        self.watch_schedule(agent);
        if record.open_run().is_some() || record.unsupervised_failure().is_some() || agent.has_mail() {
            self.wake(agent, Some(Arc::clone(state)));
        }
    }

    async fn end_idle_workers(&self) {
        loop {
            tokio::select! {
                () = self.clock().sleep(IDLE_ROUND) => {}
                () = self.closing().cancelled() => return,
            }
            let agents: Vec<_> = self.table().agents.values().cloned().collect();
            for agent in agents {
                let owner = WorkerOwner { agent: agent.id, goal: agent.goal };
                self.end_idle_worker(&agent.worker, owner).await;
            }
            if let Some(local) = self.local() {
                local.end_if_idle(self.clock().now()).await;
            }
        }
    }

    /// Closes in good order: nothing new begins, effects that run may end for a while, the journal is flushed. Runs and
    /// goals that are not over stay open in the journal and go on after the next start.
    ///
    /// # Errors
    /// [`KernelError`] when the journal cannot be closed.
    pub async fn shutdown(&self) -> Result<Closed, KernelError> {
        // First, so that whoever is refused at a door knows why and records no failure.
        self.closing().cancel();
        self.close_doors();
        self.tasks().close();
        let agents: Vec<_> = self.table().agents.values().cloned().collect();
        for agent in &agents {
            agent.tasks.close();
        }
        let drained = async {
            self.tasks().wait().await;
            for agent in &agents {
                agent.tasks.wait().await;
                let owner = WorkerOwner { agent: agent.id, goal: agent.goal };
                self.end_worker(&agent.worker, owner).await;
            }
        };
        let closed = match self.clock().timeout(CLOSING_TIME, drained).await {
            Some(()) => Closed::InGoodOrder,
            None => {
                tracing::warn!("some work did not end in time; it is taken up again at the next start");
                Closed::CutShort
            }
        };
        self.flush_spans().await;
        let stopped = self.journal().record(self.entry(None, None, Event::DaemonStopped {})).await;
        let flushed = self.journal().clone().close().await;
        // From here on nothing is recorded any more: what still runs is cut as by kill -9.
        self.halting().cancel();
        for agent in &agents {
            agent.worker.kill();
        }
        self.sandbox().shutdown().await;
        stopped?;
        flushed?;
        Ok(closed)
    }
}

fn goal_of(record: &GoalRecord, cancel: CancellationToken) -> Goal {
    let request = GoalRequest {
        goal: record.goal.clone(),
        outputs: record.outputs.clone(),
        client_key: record.client_key.clone(),
        priority: record.priority,
        deadline_seconds: record.deadline.since(record.accepted_at).0 / 1000,
        budget: record.budget,
        grants: record.grants.clone(),
        manifest: record.manifest.as_deref().cloned(),
        approval_required: record.approval_required.clone(),
        working_directory: record.working_directory.clone(),
    };
    let mut goal = Goal::new(request, record.principal, (record.accepted_at, record.deadline), cancel);
    goal.root_agent = record.root_agent;
    goal.workspace = record.workspace.clone();
    goal.absent = crate::outputs::absent(&record.before);
    goal.fork = record.fork.clone().map(Arc::new);
    goal.cost = record.cost;
    goal.usage = record.usage;
    goal.was_denied = record.was_denied;
    goal.failed_children = record.failed_children.clone();
    goal.state = record.state;
    if let Some(end) = &record.end {
        goal.ended_at = Some(end.at);
        goal.response = Some(end.response.clone());
        goal.outputs = end.outputs.clone();
        goal.usage = end.usage;
        goal.error = end.error.clone();
        goal.exit_code = Some(end.exit_code);
        goal.over.send_replace(true);
    }
    goal
}
