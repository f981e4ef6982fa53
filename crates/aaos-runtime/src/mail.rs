//! Agents with a mailbox: messages in, a task while there are any, replies out.
//!
//! Invariants: a message is acknowledged after it is on disk and has its place in the mailbox; a full mailbox
//! is told before anything is recorded; every delivered message ends with a reply or a reason.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aaos_agent::{Mind, RunEnd};
use aaos_core::effect::Delivery;
use aaos_core::event::Event;
use aaos_core::id::TraceId;
use aaos_core::limits;
use aaos_core::state::{ReplyRecord, STOPPED_BEFORE_REPLY, State};
use aaos_core::toolio::StopReason;

use aaos_ipc::TraceState as Known;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::messages::Sent;
use crate::principal::Principal;
use crate::recovery::Recalled;
use crate::registry::{Agent, Mail, Table};
use crate::run::{Resumption, result_of};
use crate::schedules::Firing;
use crate::supervise::Failed;
use crate::view::{RunResult, TraceReport, TraceState};

/// Why a run failed that does not say it.
const RUN_FAILED: &str = "its run failed";

/// Who puts a message into a mailbox.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender<'s> {
    /// The operator.
    Operator,
    /// An agent, by a call of its own.
    Agent(&'s Sent<'s>),
    /// The agent's own schedule.
    Schedule(Firing),
}

impl Table {
    /// Notes that a reply to `trace` is awaited.
    pub(crate) fn open_trace(&mut self, trace: TraceId, owner: u32) -> Result<(), KernelError> {
        self.traces.open(trace).map_err(|error| KernelError::Limit(error.to_string()))?;
        self.trace_owner.insert(trace, owner);
        if self.trace_owner.len() > limits::KEPT_TRACES + limits::MAX_OPEN_TRACES {
            let traces = &self.traces;
            self.trace_owner.retain(|trace, _| traces.get(*trace).is_some());
        }
        Ok(())
    }
}

impl Kernel {
    /// Puts a message into a persistent agent's mailbox, durably, on behalf of the operator.
    pub(crate) async fn deliver(&self, agent: &Arc<Agent>, message: String) -> Result<TraceId, KernelError> {
        self.deliver_from(agent, message, Sender::Operator).await
    }

    /// Puts a message into a mailbox, durably.
    pub(crate) async fn deliver_from(
        &self,
        agent: &Arc<Agent>,
        message: String,
        sender: Sender<'_>,
    ) -> Result<TraceId, KernelError> {
        if agent.cancel.is_cancelled() {
            return Err(KernelError::State(format!("agent {} is being stopped", agent.id)));
        }
        let trace = TraceId::from_uuid(self.clock().fresh());
        // First, so that whoever is told of a full mailbox pushes no reply out of memory.
        agent.reserve_mail()?;
        if let Err(error) = self.table().open_trace(trace, agent.owner) {
            agent.settle_mail(None);
            return Err(error);
        }
        let delivered = self.deliver_traced(agent, trace, message, sender).await;
        if let Err(error) = &delivered {
            self.close_trace(trace, Err(error.to_string()));
        }
        if agent.has_stopped() {
            // Its mail was answered while the message was on its way.
            self.fail_waiting_mail(agent);
        }
        delivered.map(|()| trace)
    }

    async fn deliver_traced(
        &self,
        agent: &Arc<Agent>,
        trace: TraceId,
        message: String,
        sender: Sender<'_>,
    ) -> Result<(), KernelError> {
        let recorded = match sender {
            Sender::Operator => self.record_delivery(agent, trace, message.clone()).await,
            Sender::Agent(sent) => self.record_message(agent, trace, message.clone(), sent).await,
            Sender::Schedule(firing) => self.record_firing(agent, trace, message.clone(), firing).await,
        };
        agent.settle_mail(recorded.is_ok().then_some(Mail { trace, message }));
        if recorded.is_ok() {
            self.wake(agent, None);
        }
        recorded
    }

    async fn record_delivery(
        &self,
        agent: &Agent,
        trace: TraceId,
        message: String,
    ) -> Result<(), KernelError> {
        let effect = Delivery { to: agent.id, message };
        let permit = self.begin(agent, Some(trace), effect).await?;
        let finished = self.journal().finish(permit.settle(()), self.clock().now()).await?;
        self.settle(agent, &finished).await?;
        Ok(())
    }

    /// Records that an agent with a mailbox takes messages from here on.
    pub(crate) async fn begin_loop(&self, agent: &Agent) -> Result<(), KernelError> {
        self.journal().record(self.agent_entry(agent, Event::AgentLoopStarted {})).await?;
        self.watch_schedule(agent);
        Ok(())
    }

    /// Lets an agent empty its mailbox, unless it is about that already. An agent without messages has no task and no
    /// mind in memory: it is a position in the journal. With what an earlier daemon left, it first goes on with the run
    /// that was cut short.
    pub(crate) fn wake(&self, agent: &Arc<Agent>, mut earlier: Option<Arc<State>>) {
        if !agent.wake_up() {
            return;
        }
        let (kernel, owned) = (self.clone(), Arc::clone(agent));
        let running = async move {
            loop {
                if let Err(failed) = kernel.empty_mailbox(&owned, earlier.take()).await
                    && !kernel.goes_on_after(&owned, failed).await
                {
                    return;
                }
                if kernel.is_closing() || owned.fall_asleep() {
                    return;
                }
            }
        };
        drop(agent.tasks.spawn(running));
    }

    async fn empty_mailbox(&self, agent: &Arc<Agent>, earlier: Option<Arc<State>>) -> Result<(), Failed> {
        if let Some(failure) = earlier.as_deref().and_then(|state| unsupervised(state, agent)) {
            let why = failure.error.clone().unwrap_or_else(|| RUN_FAILED.to_owned());
            let trace = earlier.as_deref().and_then(|state| last_trace(state, agent));
            self.supervise(agent, trace, why, false).await.map_err(Failed::beside)?;
        }
        let none = BTreeSet::new();
        let cut = earlier.as_deref().map_or(&none, |state| &state.cut);
        let Recalled { mut mind, open, repeats, overdrawn } = match self.recall(agent, cut).await {
            Ok(recalled) => recalled,
            Err(error) => {
                self.settle_unfinished(agent).await;
                let trace = earlier.as_deref().and_then(|state| open_trace(state, agent));
                return Err(self.failed_at(agent, trace, error, true));
            }
        };
        if let Some(open) = open {
            let Some(earlier) = earlier else {
                let why = format!("agent {}: a run of it is not over, though none goes on", agent.id);
                return Err(self.failed_at(agent, open.trace, KernelError::State(why), true));
            };
            let usage =
                earlier.agents.get(&agent.id).and_then(|record| record.open_run()).map(|run| run.usage);
            let usage = usage.unwrap_or_default();
            let trace = open.trace;
            let resumption = Resumption { usage, repeats, earlier: Some(earlier), overdrawn };
            let ran = self.resume_run(agent, mind, open, resumption).await;
            mind = self.answered(agent, trace, ran).await?;
        }
        while let Some(mail) = self.next_mail(agent).await {
            mind = self.answer(agent, mind, mail).await?;
        }
        Ok(())
    }

    /// The oldest message; `None` when there is none, or the agent is being stopped, or the daemon closes.
    async fn next_mail(&self, agent: &Arc<Agent>) -> Option<Mail> {
        if !agent.has_mail() {
            return None;
        }
        let ready = async { agent.wait_unpaused().await && self.rested(agent).await };
        let may_go_on = tokio::select! {
            ready = ready => ready && !self.is_closing(),
            () = self.closing().cancelled() => false,
        };
        if may_go_on { agent.live().mailbox.pop() } else { None }
    }

    async fn answer(&self, agent: &Arc<Agent>, mind: Mind, mail: Mail) -> Result<Mind, Failed> {
        let mut entry = self.agent_entry(agent, Event::AgentMessageReceived {});
        entry.trace_id = Some(mail.trace);
        let ran = match self.journal().record(entry).await {
            Ok(_) => self.run_agent(agent, mind, mail.message, Some(mail.trace)).await,
            Err(error) => Err(error.into()),
        };
        self.answered(agent, Some(mail.trace), ran).await
    }

    /// Closes what a run answered, unless the daemon closes and the run goes on later. A run that failed is the
    /// supervision's.
    async fn answered(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        ran: Result<(Mind, RunEnd), KernelError>,
    ) -> Result<Mind, Failed> {
        let (mind, end) = ran.map_err(|error| self.failed_at(agent, trace, error, false))?;
        if let Some(trace) = trace {
            self.close_trace(trace, Ok(&end));
        }
        if end.stop_reason == StopReason::Error {
            let why = end.error.unwrap_or_else(|| RUN_FAILED.to_owned());
            self.supervise(agent, trace, why, false).await.map_err(Failed::beside)?;
        }
        Ok(mind)
    }

    /// Nobody gets a reply from what failed here, unless the daemon closes and it goes on later.
    fn failed_at(&self, agent: &Agent, trace: Option<TraceId>, error: KernelError, fresh: bool) -> Failed {
        if let Some(trace) = trace.filter(|_| !self.is_closing()) {
            // An agent that was stopped over it says so, here as after a restart.
            let why = if agent.cancel.is_cancelled() { why_unanswered(agent) } else { error.to_string() };
            self.close_trace(trace, Err(why));
        }
        Failed { trace, error, fresh }
    }

    /// Notes the end of a delivered message's run.
    fn close_trace(&self, trace: TraceId, end: Result<&RunEnd, String>) {
        let mut table = self.table();
        let closed = match end {
            Ok(end) => table.traces.complete(trace, result_of(end)),
            Err(reason) => table.traces.fail(trace, reason),
        };
        drop(table);
        if let Err(error) = closed {
            tracing::error!(%error, "a reply found no one waiting");
        }
        self.traces_changed().notify_waiters();
    }

    /// What still lies in the mailbox of an agent that stopped gets no reply. To be called once its end is on record:
    /// until then the messages wait in the journal and are taken after the next start.
    pub(crate) fn fail_waiting_mail(&self, agent: &Agent) {
        let waiting: Vec<Mail> = agent.live().mailbox.drain().collect();
        let why = why_unanswered(agent);
        for mail in waiting {
            self.close_trace(mail.trace, Err(why.clone()));
        }
    }

    /// `agent.result`: where a delivered message stands, waited for up to `wait`.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for a trace that is not this principal's or is forgotten.
    pub async fn result(
        &self,
        caller: Principal,
        trace: TraceId,
        wait: Duration,
    ) -> Result<TraceReport, KernelError> {
        let give_up = self.clock().sleep(wait);
        tokio::pin!(give_up);
        loop {
            let changed = self.traces_changed().notified();
            let report = self.trace_report(caller, trace)?;
            if report.status != TraceState::Pending {
                return Ok(report);
            }
            tokio::select! {
                () = changed => {}
                () = &mut give_up => return self.trace_report(caller, trace),
                () = self.closing().cancelled() => return Err(KernelError::ShuttingDown),
            }
        }
    }

    fn trace_report(&self, caller: Principal, trace: TraceId) -> Result<TraceReport, KernelError> {
        let table = self.table();
        let mine = table.trace_owner.get(&trace).is_some_and(|owner| caller.may_touch(*owner));
        let known = table.traces.get(trace).filter(|_| mine);
        let (status, result, error) = match known.ok_or_else(|| KernelError::unknown("trace", &trace))? {
            Known::Pending => (TraceState::Pending, None, None),
            Known::Done(result) => (status_of(result), Some(result.clone()), None),
            Known::Failed { reason } => (TraceState::Failed, None, Some(reason.clone())),
        };
        Ok(TraceReport { trace_id: trace, status, result, error })
    }
}

/// Why a message of an agent that is being stopped has no answer.
fn why_unanswered(agent: &Agent) -> String {
    agent.live().given_up.clone().unwrap_or_else(|| STOPPED_BEFORE_REPLY.to_owned())
}

/// A failure from before a restart that the supervision has not seen.
fn unsupervised<'s>(state: &'s State, agent: &Agent) -> Option<&'s ReplyRecord> {
    state.agents.get(&agent.id)?.unsupervised_failure()
}

/// The message that the last run of an agent answered.
fn last_trace(state: &State, agent: &Agent) -> Option<TraceId> {
    state.agents.get(&agent.id)?.run.as_ref()?.trace
}

/// The message that the run of an agent answers that a restart cut short.
fn open_trace(state: &State, agent: &Agent) -> Option<TraceId> {
    state.agents.get(&agent.id)?.open_run()?.trace
}

fn status_of(result: &RunResult) -> TraceState {
    if result.stop_reason.is_success() { TraceState::Done } else { TraceState::Failed }
}
