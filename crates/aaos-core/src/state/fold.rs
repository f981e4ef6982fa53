//! How each entry changes the state.

use std::collections::VecDeque;

use crate::authority::tokens_spent;
use crate::effect::{Charge, EffectClass};
use crate::event::{AgentEnd, Entry, Event, GoalState};
use crate::id::{AgentId, CallId, GrantId};
use crate::limits::{KEPT_ENDED, KEPT_TRACES, RATE_WINDOW_MS};
use crate::model::{ModelFailure, ModelReply};
use crate::quantity::{Bytes, Millis, Timestamp, Tokens};

use super::{
    AgentLife, AgentRecord, GoalEnd, GoalRecord, GrantState, MAX_PATH, MailRecord, PendingCall, PendingKind,
    PurseRecord, ReplyRecord, RunRecord, State,
};

impl State {
    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        self.seq = entry.seq;
        self.latest = self.latest.max(entry.timestamp);
        match &entry.event {
            Event::DaemonStarted { interrupted_goals, .. } => {
                for goal in interrupted_goals {
                    if let Some(goal) = self.goals.get_mut(goal).filter(|goal| !goal.state.is_final()) {
                        goal.state = GoalState::Interrupted;
                    }
                }
                self.forget_unfinished();
            }
            Event::GoalAccepted { .. } | Event::GoalStarted { .. } | Event::GoalFinished { .. } => {
                self.apply_goal(entry);
            }
            Event::AgentSpawned { .. } => self.admit(entry),
            Event::CapabilityGranted { grant } => self.grant(entry, grant),
            Event::CapabilityRevoked { grant } => {
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
            Event::ToolResult { call, .. } | Event::SpawnCompleted { call, .. } => {
                self.pending.remove(call);
            }
            Event::InferenceCompleted { call, result, possibly_billed, .. } => {
                // What was written before the attempts were counted charged by the failure alone.
                let by_failure = || result.as_ref().is_err_and(|failure| failure.kind.may_be_billed());
                let possibly_billed = possibly_billed.unwrap_or_else(|| u32::from(by_failure()));
                self.settle(*call, result, possibly_billed);
            }
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
            Event::GoalAccepted { goal, outputs, client_key, deadline, max_tokens, principal } => {
                let record = GoalRecord {
                    id,
                    goal: goal.clone(),
                    outputs: outputs.clone(),
                    client_key: client_key.clone(),
                    accepted_at: entry.timestamp,
                    deadline: *deadline,
                    max_tokens: *max_tokens,
                    principal: *principal,
                    state: GoalState::Queued,
                    started_at: None,
                    root_agent: None,
                    workspace: None,
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
        let (Some(id), Event::AgentSpawned { name, parent, depth, manifest, max_tokens, principal }) =
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
            spawned_at: entry.timestamp,
            max_tokens: *max_tokens,
            principal: *principal,
            life: AgentLife::Alive,
            paused: false,
            grants: Vec::new(),
            purse: PurseRecord::default(),
            usage: crate::model::Usage::default(),
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
                let (at, trace) = (entry.timestamp, entry.trace_id);
                let run = RunRecord { started_at: at, message: message.clone(), trace, end: None };
                self.with_agent(entry, |agent| agent.run = Some(run));
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
                self.with_agent(entry, |agent| {
                    agent.mailbox.retain(|mail| mail.trace.is_none() || mail.trace != entry.trace_id);
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
            Event::InferenceRequested { call, model, request_bytes, charges, .. } => {
                let kind = PendingKind::Inference { model: model.clone(), request_bytes: *request_bytes };
                (*call, kind, EffectClass::Paid, charges)
            }
            Event::SpawnRequested { call, child, charges } => {
                (*call, PendingKind::Spawn { child: child.clone() }, EffectClass::Once, charges)
            }
            _ => return,
        };
        for charge in charges {
            match charge {
                Charge::Use { grant } => self.count_use(*grant, entry.timestamp),
                Charge::Tokens { agent, reserved } => self.move_tokens(*agent, |purse| {
                    purse.reserved = purse.reserved.plus(*reserved);
                }),
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

    fn settle(&mut self, call: CallId, result: &Result<ModelReply, ModelFailure>, possibly_billed: u32) {
        let Some(pending) = self.pending.remove(&call) else {
            return;
        };
        let bytes = match pending.kind {
            PendingKind::Inference { request_bytes, .. } => request_bytes,
            _ => Bytes::ZERO,
        };
        let reserved = reserved_by(&pending.charges);
        self.spend(&pending.charges, tokens_spent(result, possibly_billed, bytes, reserved));
        if let (Some(agent), Ok(reply)) = (pending.agent, result)
            && let Some(agent) = self.agents.get_mut(&agent)
        {
            agent.usage = agent.usage.plus(reply.usage);
        }
    }

    /// A new daemon will never learn how the effects of the last one ended: what they reserved is spent.
    fn forget_unfinished(&mut self) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            let reserved = reserved_by(&pending.charges);
            self.spend(&pending.charges, reserved);
        }
    }

    /// Turns what `charges` reserved into `used`, as the authority's `settle` does.
    fn spend(&mut self, charges: &[Charge], used: Tokens) {
        let mut left = used;
        let purses: Vec<(AgentId, Tokens)> = charges
            .iter()
            .filter_map(|charge| match charge {
                Charge::Tokens { agent, reserved } => Some((*agent, *reserved)),
                Charge::Use { .. } => None,
            })
            .collect();
        for (at, (agent, reserved)) in purses.iter().enumerate() {
            let last = at + 1 == purses.len();
            let part = if last { left } else { left.min(*reserved) };
            left = left.minus(part);
            self.move_tokens(*agent, |purse| {
                purse.reserved = purse.reserved.minus(*reserved);
                purse.used = purse.used.plus(part);
            });
        }
    }

    fn move_tokens(&mut self, agent: AgentId, mut change: impl FnMut(&mut PurseRecord)) {
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

fn reserved_by(charges: &[Charge]) -> Tokens {
    let reserved = charges.iter().map(|charge| match charge {
        Charge::Tokens { reserved, .. } => *reserved,
        Charge::Use { .. } => Tokens::ZERO,
    });
    reserved.fold(Tokens::ZERO, Tokens::plus)
}

/// The oldest, taken out, when there are more than `most`.
fn over<T>(order: &mut VecDeque<T>, most: usize) -> Option<T> {
    if order.len() > most { order.pop_front() } else { None }
}
