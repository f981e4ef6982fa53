//! How each entry changes the state.

use std::collections::VecDeque;

use crate::budget::Purse;
use crate::effect::{Charge, EffectClass};
use crate::event::{AgentEnd, Entry, Event, GoalState};
use crate::id::{AgentId, CallId, GoalId, GrantId};
use crate::limits::{KEPT_ENDED, KEPT_TRACES, RATE_WINDOW_MS};
use crate::model::Usage;
use crate::quantity::{Amounts, MicroUsd, Millis, Quantity, Timestamp};

use super::{
    AgentLife, AgentRecord, GoalEnd, GoalRecord, GrantState, MAX_PATH, MailRecord, PendingApproval,
    PendingCall, PendingKind, ReplyRecord, RunRecord, State,
};

impl State {
    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        self.seq = entry.seq;
        let before = self.latest;
        self.latest = self.latest.max(entry.timestamp);
        match &entry.event {
            Event::DaemonStarted { interrupted_goals, .. } => {
                for goal in interrupted_goals {
                    if let Some(goal) = self.goals.get_mut(goal).filter(|goal| !goal.state.is_final()) {
                        goal.state = GoalState::Interrupted;
                    }
                }
                self.forget_unfinished(before);
            }
            Event::GoalAccepted { .. } | Event::GoalStarted { .. } | Event::GoalFinished { .. } => {
                self.apply_goal(entry);
            }
            Event::AgentSpawned { .. } => self.admit(entry),
            Event::CapabilityGranted { grant } => self.grant(entry, grant),
            Event::CapabilityRevoked { grant, .. } => {
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.revoked = true;
                }
            }
            Event::AgentStopped { end } => self.stop(entry, end),
            Event::AgentPaused {} => self.with_agent(entry, |agent| agent.paused = true),
            Event::AgentResumed {} => self.with_agent(entry, |agent| agent.paused = false),
            Event::AgentExecutionStarted { .. } | Event::AgentExecutionCompleted { .. } => {
                self.apply_run(entry)
            }
            Event::MessageDelivered { .. } | Event::AgentMessageReceived {} => self.apply_mail(entry),
            Event::ToolInvoked { .. } | Event::InferenceRequested { .. } | Event::SpawnRequested { .. } => {
                self.apply_intent(entry);
            }
            Event::ToolResult { call, spent, .. } | Event::SpawnCompleted { call, spent, .. } => {
                self.settle(*call, spent);
            }
            Event::InferenceCompleted { call, result, spent, .. } => {
                self.count_cost(entry.goal_id, spent);
                let agent = self.settle(*call, spent);
                if let (Some(agent), Ok(reply)) = (agent.and_then(|id| self.agents.get_mut(&id)), result) {
                    agent.usage = agent.usage.plus(reply.usage);
                }
            }
            Event::HumanApprovalRequested { .. }
            | Event::HumanApprovalGranted { .. }
            | Event::HumanApprovalDenied { .. } => self.apply_approval(entry),
            _ => {}
        }
    }
}

// Goals, agents and grants.
impl State {
    fn apply_goal(&mut self, entry: &Entry) {
        let Some(id) = entry.goal_id else {
            return;
        };
        match &entry.event {
            Event::GoalAccepted { goal, outputs, client_key, deadline, budget, principal } => {
                let record = GoalRecord {
                    id,
                    goal: goal.clone(),
                    outputs: outputs.clone(),
                    client_key: client_key.clone(),
                    accepted_at: entry.timestamp,
                    deadline: *deadline,
                    budget: *budget,
                    principal: *principal,
                    state: GoalState::Queued,
                    started_at: None,
                    root_agent: None,
                    workspace: None,
                    cost: MicroUsd::ZERO,
                    end: None,
                };
                self.goals.entry(id).or_insert(record);
            }
            Event::GoalStarted { root_agent, workspace } => {
                if let Some(goal) = self.goals.get_mut(&id).filter(|goal| !goal.state.is_final()) {
                    goal.state = GoalState::Running;
                    goal.started_at = Some(entry.timestamp);
                    goal.root_agent = Some(*root_agent);
                    goal.workspace = Some(workspace.clone());
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
        let (Some(id), Event::AgentSpawned { name, parent, depth, manifest, budget, principal }) =
            (entry.agent_id, &entry.event)
        else {
            return;
        };
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
            mailbox: VecDeque::new(),
        };
        self.agents.entry(id).or_insert(record);
    }

    fn grant(&mut self, entry: &Entry, grant: &crate::grant::GrantRecord) {
        debug_assert!(
            entry.agent_id.is_none_or(|agent| agent == grant.agent),
            "a grant is its holder's entry"
        );
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
        agent.mailbox.clear();
        self.questions.retain(|_, asked| asked.question.agent != id);
        self.approved.retain(|_, approval| approval.holder != id);
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

// Runs and mail.
impl State {
    fn apply_run(&mut self, entry: &Entry) {
        match &entry.event {
            Event::AgentExecutionStarted { message, .. } => {
                let (at, trace) = (self.latest, entry.trace_id);
                let message = message.clone();
                let run = RunRecord { started_at: at, message, trace, end: None, clocked: false };
                self.with_agent(entry, |agent| {
                    end_clock(agent, at);
                    agent.run = Some(run);
                });
            }
            Event::AgentExecutionCompleted { response, usage, iterations, stop_reason, error } => {
                let Some(agent) = entry.agent_id else {
                    return;
                };
                let reply = ReplyRecord {
                    agent,
                    at: entry.timestamp,
                    response: response.clone(),
                    usage: *usage,
                    iterations: *iterations,
                    stop_reason: *stop_reason,
                    error: error.clone(),
                };
                let now = self.latest;
                self.with_agent(entry, |agent| {
                    agent.mailbox.retain(|mail| mail.trace.is_none() || mail.trace != entry.trace_id);
                    end_clock(agent, now);
                    if let Some(run) = &mut agent.run {
                        run.end = Some(reply.clone());
                    }
                });
                self.keep_reply(entry, reply);
            }
            _ => {}
        }
    }

    fn keep_reply(&mut self, entry: &Entry, reply: ReplyRecord) {
        let Some(trace) = entry.trace_id else {
            return;
        };
        if self.replies.insert(trace, reply).is_none() {
            self.reply_order.push_back(trace);
        }
        if let Some(oldest) = over(&mut self.reply_order, KEPT_TRACES) {
            self.replies.remove(&oldest);
        }
    }

    fn apply_mail(&mut self, entry: &Entry) {
        let (at, trace) = (entry.timestamp, entry.trace_id);
        self.with_agent(entry, |agent| match &entry.event {
            Event::MessageDelivered { message } => {
                agent.mailbox.push_back(MailRecord { trace, at, message: message.clone(), taken: false });
            }
            _ => {
                if let Some(mail) = agent.mailbox.iter_mut().find(|mail| mail.trace == trace) {
                    mail.taken = true;
                }
            }
        });
    }
}

// Charges.
impl State {
    fn apply_intent(&mut self, entry: &Entry) {
        let (call, kind, class, charges) = match &entry.event {
            Event::ToolInvoked { call, tool, class, charges, .. } => {
                (*call, PendingKind::Tool { tool: tool.clone() }, *class, charges)
            }
            Event::InferenceRequested { call, model, charges, .. } => {
                (*call, PendingKind::Inference { model: model.clone() }, EffectClass::Paid, charges)
            }
            Event::SpawnRequested { call, child, charges } => {
                (*call, PendingKind::Spawn { child: child.clone() }, EffectClass::Once, charges)
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
        for charge in &pending.charges {
            match charge {
                Charge::Purse { agent, reserved } => {
                    self.on_path(*agent, |purse| purse.settle_all(reserved, spent, now));
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

    fn count_cost(&mut self, goal: Option<GoalId>, spent: &Amounts) {
        if let Some(goal) = goal.and_then(|id| self.goals.get_mut(&id)) {
            goal.cost = goal.cost.plus(MicroUsd(spent.get(Quantity::MicroUsd)));
        }
    }

    /// A new daemon will never learn how the effects of the last one ended: what they reserved is spent, in the window
    /// of the last entry before, as [`crate::authority::Authority::restore`] has it. A run that was cut short lasted
    /// at least until then.
    fn forget_unfinished(&mut self, last_entry: Timestamp) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            for charge in &pending.charges {
                if let Charge::Purse { agent, reserved } = charge {
                    self.on_path(*agent, |purse| purse.settle_all(reserved, reserved, last_entry));
                }
            }
        }
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

// Approvals.
impl State {
    fn apply_approval(&mut self, entry: &Entry) {
        match &entry.event {
            Event::HumanApprovalRequested { question, deadline } => {
                let asks = |agent: &AgentRecord| agent.is_alive();
                if self.agents.get(&question.agent).is_some_and(asks) {
                    let pending = PendingApproval {
                        question: (**question).clone(),
                        goal: entry.goal_id,
                        asked_at: entry.timestamp,
                        deadline: *deadline,
                    };
                    self.questions.insert(question.id, pending);
                }
            }
            Event::HumanApprovalGranted { approval, .. } => {
                // Only what was asked and is open can be answered, once.
                let asked = self.questions.remove(&approval.id).is_some();
                if asked && self.agents.get(&approval.holder).is_some_and(AgentRecord::is_alive) {
                    self.approved.insert(approval.id, approval.clone());
                }
            }
            Event::HumanApprovalDenied { approval, .. } => {
                self.questions.remove(approval);
                // What was approved can be withdrawn: what stood at the target is not what the person was shown.
                self.approved.remove(approval);
            }
            _ => {}
        }
    }
}

/// The wall time of a run that ends at `at` is used.
fn end_clock(agent: &mut AgentRecord, at: Timestamp) {
    let lasted = agent.unclocked(at).0;
    if let Some(run) = agent.run.as_mut().filter(|run| !run.clocked) {
        run.clocked = true;
        agent.purse.settle(Quantity::WallMillis, 0, lasted, at);
    }
}

/// The oldest, taken out, when there are more than `most`.
fn over<T>(order: &mut VecDeque<T>, most: usize) -> Option<T> {
    if order.len() > most { order.pop_front() } else { None }
}
