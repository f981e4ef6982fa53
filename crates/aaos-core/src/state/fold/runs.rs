//! How entries about runs and mail change the state.
//!
//! Invariants: every message that was delivered is in its agent's mailbox until it has a reply, and what is told of it
//! after a restart is what was told before; a run ends once.

use crate::event::{Entry, Event, Kept, RunCut};
use crate::id::TraceId;
use crate::limits::KEPT_TRACES;
use crate::model::Usage;
use crate::state::{MailRecord, PendingKind, ReplyRecord, RunRecord, State};

use super::{end_clock, over};

impl State {
    pub(super) fn apply_run(&mut self, entry: &Entry) {
        match &entry.event {
            Event::AgentExecutionStarted { kept, .. } => self.begin_run(entry, *kept),
            Event::AgentExecutionForked { .. } => self.begin_run(entry, Kept::default()),
            Event::AgentExecutionResumed {} => {
                let at = self.latest;
                self.with_agent(entry, |agent| {
                    if let Some(run) = agent.run.as_mut().filter(|run| run.end.is_none()) {
                        run.clock = run.clock.or(Some(at));
                    }
                });
            }
            Event::AgentExecutionCompleted {
                response, usage, iterations, stop_reason, error, cut, ..
            } => {
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
                    failure: cut.as_ref().and_then(RunCut::failure),
                    is_missing: false,
                };
                let now = self.latest;
                self.with_agent(entry, |agent| {
                    agent.mailbox.retain(|mail| mail.trace.is_none() || mail.trace != entry.trace_id);
                    end_clock(agent, now);
                    agent.watch.ladder.note_end(reply.stop_reason);
                    if let Some(run) = &mut agent.run {
                        run.end = Some(reply.clone());
                    }
                });
                if let Some(trace) = entry.trace_id {
                    self.keep_reply(trace, reply);
                }
            }
            _ => {}
        }
    }

    /// A run began whose conversation keeps this of earlier ones.
    fn begin_run(&mut self, entry: &Entry, kept: Kept) {
        let (at, trace) = (self.latest, entry.trace_id);
        let run = RunRecord { trace, end: None, clock: Some(at), usage: Usage::default(), supervised: false };
        let runs = usize::try_from(kept.runs).unwrap_or(usize::MAX);
        self.with_agent(entry, |agent| {
            end_clock(agent, at);
            agent.run = Some(run);
            agent.watch.ladder.begin(kept.rung);
            while agent.conversation.len() > runs {
                agent.conversation.pop_front();
            }
            agent.conversation.push_back(entry.seq);
            if kept.is_nothing() {
                agent.conversation_began = Some(entry.seq);
            }
        });
    }

    /// A call was not begun, and its model is told.
    pub(super) fn refuse_call(&mut self, entry: &Entry) {
        self.forget_refused(entry.agent_id);
        if let Event::CallRefused { repeats, .. } = &entry.event {
            self.note_repeats(entry, *repeats);
        }
    }

    /// The model of an agent made the same call this often.
    pub(super) fn note_repeats(&mut self, entry: &Entry, repeats: u32) {
        self.with_agent(entry, |agent| {
            if agent.open_run().is_some() {
                agent.watch.ladder.note_repeats(repeats);
            }
        });
    }

    /// What the agent failed at is over: the run that has no end of its own, and the message.
    pub(super) fn restart(&mut self, entry: &Entry) {
        let Event::AgentRestarted { after, reason, fresh, .. } = &entry.event else {
            return;
        };
        let (now, at) = (self.latest, entry.timestamp);
        let mut died = None;
        self.with_agent(entry, |agent| {
            agent.mailbox.retain(|mail| mail.trace.is_none() || mail.trace != entry.trace_id);
            end_clock(agent, now);
            if let Some(run) = agent.run.as_mut() {
                run.supervised = true;
                if run.end.is_none() {
                    let reply = ReplyRecord::missing(agent.id, at, reason.clone());
                    let reply = ReplyRecord { usage: run.usage, ..reply };
                    run.end = Some(reply.clone());
                    died = Some(reply);
                }
            }
            if *fresh {
                agent.conversation.clear();
                agent.conversation_began = None;
            }
            agent.watch.restarted(&agent.manifest.supervision, at, *after);
        });
        if let Some((trace, reply)) = entry.trace_id.zip(died) {
            self.keep_reply(trace, reply);
        }
    }

    pub(super) fn keep_reply(&mut self, trace: TraceId, reply: ReplyRecord) {
        if self.replies.insert(trace, reply).is_none() {
            self.reply_order.push_back(trace);
        }
        if let Some(oldest) = over(&mut self.reply_order, KEPT_TRACES) {
            self.replies.remove(&oldest);
        }
    }

    pub(super) fn apply_mail(&mut self, entry: &Entry) {
        let (at, trace) = (entry.timestamp, entry.trace_id);
        if let Event::MessageDelivered { under: Some(call), .. } = &entry.event
            && let Some(PendingKind::Tool(tool)) = self.pending.get_mut(call).map(|one| &mut one.kind)
        {
            tool.delivered = trace;
        }
        self.with_agent(entry, |agent| match &entry.event {
            Event::MessageDelivered { message, .. } => {
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
