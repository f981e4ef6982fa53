//! How each entry changes the state.

mod approvals;
mod runs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::budget::Purse;
use crate::effect::{Charge, EffectClass, reserved_by};
use crate::event::{AgentEnd, Entry, Event, EventKind, ForkPoint, GoalState};
use crate::id::{AgentId, ApprovalId, CallId, GoalId, GrantId};
use crate::limits::{KEPT_ENDED, KEPT_TRACES, RATE_WINDOW_MS};
use crate::model::{ModelFailure, ModelReply, Usage};
use crate::name::AgentName;
use crate::quantity::{Amounts, MicroUsd, Millis, Quantity, Timestamp};
use crate::supervision::Watch;
use crate::toolio::{SpawnAgentOutput, ToolFailure};

use super::bodies::needs_body;
use super::{
    AgentLife, AgentRecord, FailedChildren, ForkRecord, GoalEnd, GoalRecord, GrantState, MAX_PATH,
    PendingCall, PendingKind, PendingTool, ReplyRecord, STOPPED_BEFORE_REPLY, SpawnedChild, State,
};

impl State {
    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        self.seq = entry.seq;
        let before = self.latest;
        self.latest = self.latest.max(entry.timestamp);
        if !needs_body(EventKind::of(&entry.event)) {
            return;
        }
        match &entry.event {
            Event::DaemonStarted { resumed, .. } => self.forget_unfinished(resumed, before),
            Event::GoalAccepted { .. }
            | Event::GoalForked { .. }
            | Event::GoalStarted { .. }
            | Event::GoalFinished { .. } => self.apply_goal(entry),
            Event::AgentSpawned { .. } => self.admit(entry),
            Event::CapabilityGranted { grant } => self.grant(grant),
            Event::CapabilityRevoked { grant, cut, .. } => {
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.revoked = true;
                }
                self.note_cut(cut);
            }
            Event::AgentStopped { end } => self.stop(entry, end),
            Event::AgentRestarted { .. } => {
                self.forget_refused(entry.agent_id);
                self.restart(entry);
            }
            Event::ScheduleFired { due: until } | Event::ScheduleMissed { until, .. } => {
                self.with_agent(entry, |agent| agent.watch.settle_schedule(*until));
            }
            Event::AgentPaused {} => self.with_agent(entry, |agent| agent.paused = true),
            Event::AgentResumed {} => self.with_agent(entry, |agent| agent.paused = false),
            Event::AgentExecutionResumed {} => self.apply_run(entry),
            Event::AgentExecutionStarted { .. }
            | Event::AgentExecutionForked { .. }
            | Event::AgentExecutionCompleted { .. } => {
                self.forget_refused(entry.agent_id);
                self.apply_run(entry);
            }
            Event::CallRefused { .. } => self.refuse_call(entry),
            Event::CapabilityDenied { .. } => self.note_denial(entry),
            Event::ChildEnded { call, index, name, outcome } => {
                self.end_child(entry.goal_id, *call, *index, name.as_ref(), outcome);
            }
            Event::MessageDelivered { .. } | Event::AgentMessageReceived {} => self.apply_mail(entry),
            Event::ToolInvoked { .. }
            | Event::InferenceRequested { .. }
            | Event::SpawnRequested { .. }
            | Event::ConnectionRequested { .. } => self.apply_intent(entry),
            Event::ToolResult { call, spent, .. }
            | Event::SpawnCompleted { call, spent, .. }
            | Event::ConnectionEnded { call, spent, .. } => {
                self.settle(*call, spent);
            }
            Event::InferenceRetried { call, failure, wait, .. } => {
                self.note_wish(*call, Some(failure), *wait, entry.timestamp)
            }
            Event::InferenceCompleted { call, result, spent, .. } => {
                self.end_inference(entry, *call, result, spent);
            }
            Event::HumanApprovalRequested { .. }
            | Event::HumanApprovalGranted { .. }
            | Event::HumanApprovalDenied { .. } => self.apply_approval(entry),
            // All that were kept before are in it, or too old.
            Event::JournalPruned { client_keys, .. } if !client_keys.is_empty() => {
                self.kept_keys.clone_from(client_keys);
            }
            _ => {}
        }
    }
}

// Goals, agents and grants.
impl State {
    fn end_inference(
        &mut self,
        entry: &Entry,
        call: CallId,
        result: &Result<ModelReply, ModelFailure>,
        spent: &Amounts,
    ) {
        let failure = result.as_ref().err();
        let wish = failure.and_then(|failure| failure.retry_after).unwrap_or(Millis::ZERO);
        self.note_wish(call, failure, wish, entry.timestamp);
        self.count_cost(entry.goal_id, spent);
        let agent = self.settle(call, spent);
        if let Ok(reply) = result {
            self.count_usage(entry.goal_id, agent, reply.usage);
        }
    }

    fn apply_goal(&mut self, entry: &Entry) {
        let Some(id) = entry.goal_id else {
            return;
        };
        match &entry.event {
            Event::GoalAccepted { .. } => {
                if let Some(record) = accepted(id, entry) {
                    self.goals.entry(id).or_insert(record);
                }
            }
            Event::GoalForked { .. } => {
                if let Some(goal) = self.goals.get_mut(&id) {
                    goal.fork = goal.fork.take().or_else(|| forked(&entry.event));
                }
            }
            Event::GoalStarted { root_agent, workspace, before } => {
                if let Some(goal) = self.goals.get_mut(&id).filter(|goal| !goal.state.is_final()) {
                    goal.state = GoalState::Running;
                    goal.started_at = Some(entry.timestamp);
                    goal.root_agent = Some(*root_agent);
                    goal.workspace = Some(workspace.clone());
                    goal.before.clone_from(before);
                }
            }
            Event::GoalFinished { state, response, outputs, usage, error, exit_code } => {
                let Some(goal) = self.goals.get_mut(&id) else {
                    return;
                };
                goal.state = *state;
                goal.end = Some(GoalEnd {
                    at: entry.timestamp,
                    response: response.clone(),
                    outputs: outputs.clone(),
                    usage: *usage,
                    error: error.clone(),
                    exit_code: *exit_code,
                });
                self.ended_goals.push_back(id);
                if let Some(oldest) = over(&mut self.ended_goals, KEPT_ENDED) {
                    self.goals.remove(&oldest);
                }
            }
            _ => {}
        }
    }

    fn admit(&mut self, entry: &Entry) {
        let (Some(id), Event::AgentSpawned { name, parent, depth, manifest, budget, principal, spawned_by }) =
            (entry.agent_id, &entry.event)
        else {
            return;
        };
        if let Some(spawn) = spawned_by {
            self.note_child(*spawn, id);
        }
        let record = AgentRecord {
            id,
            name: name.clone(),
            goal: entry.goal_id,
            parent: *parent,
            depth: *depth,
            manifest: (**manifest).clone(),
            spawned_at: self.latest,
            principal: *principal,
            life: AgentLife::Alive,
            paused: false,
            grants: Vec::new(),
            purse: Purse::new(*budget, self.latest),
            usage: Usage::default(),
            run: None,
            conversation: VecDeque::new(),
            conversation_began: None,
            was_refused: false,
            mailbox: VecDeque::new(),
            watch: Watch::default(),
        };
        self.agents.entry(id).or_insert(record);
    }

    fn grant(&mut self, grant: &crate::grant::GrantRecord) {
        let Some(holder) = self.agents.get_mut(&grant.agent) else {
            return;
        };
        if let std::collections::btree_map::Entry::Vacant(free) = self.grants.entry(grant.id) {
            free.insert(GrantState {
                record: grant.clone(),
                uses: 0,
                recent: VecDeque::new(),
                revoked: false,
            });
            holder.grants.push(grant.id);
        }
    }

    fn stop(&mut self, entry: &Entry, end: &AgentEnd) {
        let Some(id) = entry.agent_id else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&id).filter(|agent| agent.is_alive()) else {
            return;
        };
        agent.life = AgentLife::Stopped { end: end.clone(), at: entry.timestamp };
        let why = match end {
            AgentEnd::Failed { reason } => reason.as_str(),
            AgentEnd::Finished | AgentEnd::Stopped | AgentEnd::Interrupted => STOPPED_BEFORE_REPLY,
        };
        let missing = ReplyRecord::missing(id, entry.timestamp, why.to_owned());
        let waiting = std::mem::take(&mut agent.mailbox);
        for trace in waiting.into_iter().filter_map(|mail| mail.trace) {
            self.keep_reply(trace, missing.clone());
        }
        self.questions.retain(|_, asked| asked.question.agent != id);
        self.approved.retain(|_, approval| approval.holder != id);
        self.forget_refused(Some(id));
        self.stopped_agents.push_back(id);
        if let Some(oldest) = over(&mut self.stopped_agents, KEPT_ENDED)
            && let Some(agent) = self.agents.remove(&oldest)
        {
            for grant in &agent.grants {
                self.grants.remove(grant);
            }
        }
    }

    fn with_agent(&mut self, entry: &Entry, change: impl FnOnce(&mut AgentRecord)) {
        if let Some(agent) = entry.agent_id.and_then(|id| self.agents.get_mut(&id)) {
            change(agent);
        }
    }
}

// Charges.
impl State {
    fn apply_intent(&mut self, entry: &Entry) {
        let (call, kind, class, charges) = match &entry.event {
            Event::ToolInvoked { call, class, charges, .. } => {
                let Some(tool) = pending_tool(&entry.event) else { return };
                if tool.model_call.is_some() {
                    self.note_repeats(entry, tool.repeats);
                }
                (*call, PendingKind::Tool(Box::new(tool)), *class, charges)
            }
            Event::InferenceRequested { call, model, charges, .. } => {
                (*call, PendingKind::Inference { model: model.clone() }, EffectClass::Paid, charges)
            }
            Event::SpawnRequested { call, child, charges, under, index } => {
                let child = child.clone();
                let spawn = PendingKind::Spawn { child, under: *under, index: *index, admitted: None };
                (*call, spawn, EffectClass::Once, charges)
            }
            Event::ConnectionRequested { call, under, charges, .. } => {
                (*call, PendingKind::Connection { under: *under }, EffectClass::Once, charges)
            }
            _ => return,
        };
        for charge in charges {
            match charge {
                Charge::Use { grant } => self.count_use(*grant, self.latest),
                Charge::Purse { agent, reserved } => self.on_path(*agent, |purse| {
                    purse.count_reserved(reserved);
                }),
                Charge::Approval { approval } => {
                    if let Some(approval) = self.approved.get_mut(approval) {
                        approval.uses = approval.uses.saturating_sub(1);
                    }
                }
            }
        }
        let pending = PendingCall {
            call,
            agent: entry.agent_id,
            goal: entry.goal_id,
            trace: entry.trace_id,
            intent: entry.id,
            since: entry.timestamp,
            kind,
            class,
            charges: charges.clone(),
            paid: Amounts::NONE,
        };
        self.pending.insert(call, pending);
    }

    fn count_use(&mut self, grant: GrantId, at: Timestamp) {
        let path: Vec<GrantId> = self.grant_path(grant).map(|grant| grant.record.id).collect();
        for id in path {
            if let Some(grant) = self.grants.get_mut(&id) {
                grant.uses = grant.uses.saturating_add(1);
                if grant.record.constraints.max_per_minute.is_some() {
                    let old = |past: &Timestamp| at.since(*past) >= Millis(RATE_WINDOW_MS);
                    while grant.recent.front().is_some_and(old) {
                        grant.recent.pop_front();
                    }
                    grant.recent.push_back(at);
                }
            }
        }
    }

    /// Ends a call: what it reserved becomes what it spent. Gives who acted.
    fn settle(&mut self, call: CallId, spent: &Amounts) -> Option<AgentId> {
        let pending = self.pending.remove(&call)?;
        let now = self.latest;
        if matches!(&pending.kind, PendingKind::Tool(tool) if tool.model_call.is_some()) {
            self.forget_refused(pending.agent);
        }
        if let Some(agent) = pending.agent {
            self.note_spending(agent, &spent.minus(&pending.paid), now);
        }
        for charge in &pending.charges {
            match charge {
                Charge::Purse { agent, reserved } => {
                    let (reserved, spent) = (reserved.minus(&pending.paid), spent.minus(&pending.paid));
                    self.on_path(*agent, |purse| purse.settle_all(&reserved, &spent, now));
                }
                Charge::Approval { approval } => {
                    if self.approved.get(approval).is_some_and(|one| one.uses == 0) {
                        self.approved.remove(approval);
                    }
                }
                Charge::Use { .. } => {}
            }
        }
        pending.agent
    }

    /// An agent and all above it spent this much.
    fn note_spending(&mut self, agent: AgentId, spent: &Amounts, now: Timestamp) {
        let spent = MicroUsd(spent.get(Quantity::MicroUsd));
        if spent == MicroUsd::ZERO {
            return;
        }
        let mut next = Some(agent);
        for _ in 0..MAX_PATH {
            let Some(record) = next.and_then(|id| self.agents.get_mut(&id)) else {
                return;
            };
            record.watch.spending.note(&record.manifest.supervision, spent, now);
            next = record.parent;
        }
    }

    fn count_cost(&mut self, goal: Option<GoalId>, spent: &Amounts) {
        if let Some(goal) = goal.and_then(|id| self.goals.get_mut(&id)) {
            goal.cost = goal.cost.plus(MicroUsd(spent.get(Quantity::MicroUsd)));
        }
    }

    fn count_usage(&mut self, goal: Option<GoalId>, agent: Option<AgentId>, usage: Usage) {
        if let Some(goal) = goal.and_then(|id| self.goals.get_mut(&id)) {
            goal.usage = goal.usage.plus(usage);
        }
        if let Some(agent) = agent.and_then(|id| self.agents.get_mut(&id)) {
            agent.usage = agent.usage.plus(usage);
            if let Some(run) = agent.run.as_mut().filter(|run| run.end.is_none()) {
                run.usage = run.usage.plus(usage);
            }
        }
    }

    fn note_denial(&mut self, entry: &Entry) {
        if let Some(goal) = entry.goal_id.and_then(|id| self.goals.get_mut(&id)) {
            goal.was_denied |= entry.event.is_denial();
        }
    }

    /// What a provider asked for, or no longer asks for: to be left alone for a while.
    fn note_wish(&mut self, call: CallId, failure: Option<&ModelFailure>, wait: Millis, at: Timestamp) {
        let Some(PendingKind::Inference { model }) = self.pending.get(&call).map(|one| &one.kind) else {
            return;
        };
        match failure {
            // A success within the time that it asked for was asked for before that.
            None => self.quiet.retain(|quiet, until| quiet != model || *until > at),
            Some(failure) if failure.retry_after.is_some() => {
                self.quiet.insert(model.clone(), at.after(wait));
            }
            Some(_) => {}
        }
    }

    fn note_cut(&mut self, cut: &[CallId]) {
        for call in cut {
            if self.cut.insert(*call) {
                self.cut_order.push_back(*call);
            }
            if let Some(oldest) = over(&mut self.cut_order, KEPT_TRACES) {
                self.cut.remove(&oldest);
            }
        }
    }

    /// A new daemon will never learn how the effects of the last one ended, but for those that it goes on with. What
    /// any of them reserved is spent, in the window of the last entry before, as
    /// [`crate::authority::Authority::restore`] has it. The time of a run that was cut short counts until then.
    fn forget_unfinished(&mut self, resumed: &[CallId], last_entry: Timestamp) {
        let resumed: BTreeSet<CallId> = resumed.iter().copied().collect();
        for mut pending in std::mem::take(&mut self.pending).into_values() {
            for charge in &pending.charges {
                if let Charge::Purse { agent, reserved } = charge {
                    let unpaid = reserved.minus(&pending.paid);
                    self.note_spending(*agent, &unpaid, last_entry);
                    self.on_path(*agent, |purse| purse.settle_all(&unpaid, &unpaid, last_entry));
                }
            }
            if resumed.contains(&pending.call) {
                pending.paid = reserved_by(&pending.charges);
                self.pending.insert(pending.call, pending);
            }
        }
        let in_use: BTreeSet<ApprovalId> = self.pending.values().flat_map(PendingCall::approvals).collect();
        self.approved.retain(|id, approval| approval.uses > 0 || in_use.contains(id));
        for agent in self.agents.values_mut() {
            end_clock(agent, last_entry);
        }
    }

    fn on_path(&mut self, agent: AgentId, mut change: impl FnMut(&mut Purse)) {
        let mut next = Some(agent);
        for _ in 0..MAX_PATH {
            let Some(record) = next.and_then(|id| self.agents.get_mut(&id)) else {
                return;
            };
            change(&mut record.purse);
            next = record.parent;
        }
    }
}

// Children.
impl State {
    /// A child was admitted for this spawn.
    fn note_child(&mut self, spawn: CallId, child: AgentId) {
        let Some(PendingKind::Spawn { under, index, admitted, .. }) =
            self.pending.get_mut(&spawn).map(|pending| &mut pending.kind)
        else {
            return;
        };
        *admitted = Some(child);
        let (under, index) = (*under, *index);
        if let Some(one) = self.child_of(under, index) {
            one.agents.push(child);
        }
    }

    fn child_of(&mut self, call: CallId, index: u32) -> Option<&mut SpawnedChild> {
        match self.pending.get_mut(&call).map(|pending| &mut pending.kind) {
            Some(PendingKind::Tool(tool)) => Some(tool.children.entry(index).or_default()),
            _ => None,
        }
    }

    fn end_child(
        &mut self,
        goal: Option<GoalId>,
        call: CallId,
        index: u32,
        name: Option<&AgentName>,
        outcome: &Result<SpawnAgentOutput, ToolFailure>,
    ) {
        if let Some(child) = self.child_of(call, index) {
            child.outcome = Some(outcome.clone());
        }
        if let Some(goal) = goal.and_then(|id| self.goals.get_mut(&id)) {
            goal.failed_children.note(name, outcome);
        }
    }
}

/// A goal as its `goal_accepted` entry says.
fn accepted(id: GoalId, entry: &Entry) -> Option<GoalRecord> {
    let Event::GoalAccepted {
        goal,
        outputs,
        client_key,
        deadline,
        budget,
        principal,
        priority,
        grants,
        manifest,
        approval_required,
        working_directory,
    } = &entry.event
    else {
        return None;
    };
    Some(GoalRecord {
        id,
        goal: goal.clone(),
        outputs: outputs.clone(),
        client_key: client_key.clone(),
        accepted_at: entry.timestamp,
        deadline: *deadline,
        budget: *budget,
        principal: *principal,
        priority: *priority,
        grants: grants.clone(),
        manifest: manifest.clone(),
        approval_required: approval_required.clone(),
        working_directory: working_directory.clone(),
        fork: None,
        state: GoalState::Queued,
        started_at: None,
        root_agent: None,
        workspace: None,
        before: Vec::new(),
        cost: MicroUsd::ZERO,
        usage: Usage::default(),
        was_denied: false,
        failed_children: FailedChildren::default(),
        end: None,
    })
}

/// What a `goal_forked` entry says.
fn forked(event: &Event) -> Option<ForkRecord> {
    let Event::GoalForked { from, root, at, earlier, before } = event else {
        return None;
    };
    let mut points = earlier.clone();
    points.push(ForkPoint { goal: *from, root: *root, at: *at });
    Some(ForkRecord { points, before: before.clone() })
}

/// What a `tool_invoked` entry says.
fn pending_tool(event: &Event) -> Option<PendingTool> {
    let Event::ToolInvoked { tool, input, access, denied, model_call, at, repeats, .. } = event else {
        return None;
    };
    Some(PendingTool {
        tool: tool.clone(),
        input: input.clone(),
        access: access.clone(),
        denied: denied.clone(),
        model_call: model_call.clone(),
        at: *at,
        repeats: *repeats,
        children: BTreeMap::new(),
        delivered: None,
    })
}

/// The wall time of a run until `at` is used.
fn end_clock(agent: &mut AgentRecord, at: Timestamp) {
    let lasted = agent.unclocked(at).0;
    if agent.run.as_mut().and_then(|run| run.clock.take()).is_some() {
        agent.purse.settle(Quantity::WallMillis, 0, lasted, at);
    }
}

/// The oldest, taken out, when there are more than `most`.
fn over<T>(order: &mut VecDeque<T>, most: usize) -> Option<T> {
    if order.len() > most { order.pop_front() } else { None }
}
