//! Persistent agents: a mailbox, a loop that empties it, and the replies.
//!
//! Invariants: a message is acknowledged after it is on disk and has its place in the mailbox; a full mailbox
//! is told before anything is recorded; every delivered message ends with a reply or a reason.

use std::sync::Arc;
use std::time::Duration;

use aaos_agent::{Mind, RunEnd};
use aaos_core::effect::Delivery;
use aaos_core::event::{AgentEnd, Event};
use aaos_core::id::TraceId;
use aaos_core::limits;

use aaos_ipc::TraceState as Known;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::Principal;
use crate::registry::{Agent, Mail, Table};
use crate::run::result_of;
use crate::view::{RunResult, TraceReport, TraceState};

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
    /// Puts a message into a persistent agent's mailbox, durably.
    pub(crate) async fn deliver(&self, agent: &Arc<Agent>, message: String) -> Result<TraceId, KernelError> {
        if agent.cancel.is_cancelled() {
            return Err(KernelError::State(format!("agent {} is being stopped", agent.id)));
        }
        let trace = TraceId::from_uuid(self.clock().fresh());
        self.table().open_trace(trace, agent.owner)?;
        let delivered = self.deliver_traced(agent, trace, message).await;
        if let Err(error) = &delivered {
            self.close_trace(trace, Err(error.to_string()));
        }
        if agent.cancel.is_cancelled() {
            // Its loop may have ended while the message was on its way.
            self.fail_waiting_mail(agent);
        }
        delivered.map(|()| trace)
    }

    async fn deliver_traced(
        &self,
        agent: &Agent,
        trace: TraceId,
        message: String,
    ) -> Result<(), KernelError> {
        agent.reserve_mail()?;
        let recorded = self.record_delivery(agent, trace, message.clone()).await;
        agent.settle_mail(recorded.is_ok().then_some(Mail { trace, message }));
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

    /// Starts the loop that empties a persistent agent's mailbox, until the agent is stopped.
    pub(crate) fn start_mailbox_loop(&self, agent: &Arc<Agent>) {
        let (kernel, owned) = (self.clone(), Arc::clone(agent));
        let running = async move {
            if let Err(error) = kernel.mailbox_loop(&owned).await {
                tracing::error!(%error, agent = %owned.id, "a mailbox loop ended");
                if owned.cancel.is_cancelled() {
                    // It was told to stop, or the daemon closes: that is no failure of the agent.
                    return kernel.fail_waiting_mail(&owned);
                }
                // An agent that answers nothing must not go on taking messages.
                let (kernel, dead) = (kernel.clone(), Arc::clone(&owned));
                let end = AgentEnd::Failed { reason: error.to_string() };
                drop(kernel.tasks().clone().spawn(async move { kernel.retire_or_log(&dead, end).await }));
            }
            kernel.fail_waiting_mail(&owned);
        };
        drop(agent.tasks.spawn(running));
    }

    async fn mailbox_loop(&self, agent: &Arc<Agent>) -> Result<(), KernelError> {
        self.journal().record(self.agent_entry(agent, Event::AgentLoopStarted {})).await?;
        let mut mind = self.mind_for(agent);
        while let Some(mail) = self.next_mail(agent).await {
            mind = self.answer(agent, mind, mail).await?;
        }
        self.journal().record(self.agent_entry(agent, Event::AgentLoopStopped {})).await?;
        Ok(())
    }

    /// The oldest message, waited for; `None` when the agent is being stopped.
    async fn next_mail(&self, agent: &Arc<Agent>) -> Option<Mail> {
        loop {
            let arrived = agent.mail_arrived.notified();
            if !agent.wait_unpaused().await {
                return None;
            }
            if let Some(mail) = agent.live().mailbox.pop() {
                return Some(mail);
            }
            tokio::select! {
                () = arrived => {}
                () = agent.cancel.cancelled() => return None,
            }
        }
    }

    async fn answer(&self, agent: &Arc<Agent>, mind: Mind, mail: Mail) -> Result<Mind, KernelError> {
        let mut entry = self.agent_entry(agent, Event::AgentMessageReceived {});
        entry.trace_id = Some(mail.trace);
        let ran = match self.journal().record(entry).await {
            Ok(_) => self.run_agent(agent, mind, mail.message, Some(mail.trace)).await,
            Err(error) => Err(error.into()),
        };
        match ran {
            Ok((mind, end)) => {
                self.close_trace(mail.trace, Ok(&end));
                Ok(mind)
            }
            Err(error) => {
                self.close_trace(mail.trace, Err(error.to_string()));
                Err(error)
            }
        }
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

    /// What still lies in the mailbox of an agent that stopped gets no reply. When it is the daemon that stops,
    /// it waits in the journal and is answered after the next start.
    pub(crate) fn fail_waiting_mail(&self, agent: &Agent) {
        if self.closing().is_cancelled() {
            return;
        }
        let waiting: Vec<Mail> = agent.live().mailbox.drain().collect();
        for mail in waiting {
            self.close_trace(mail.trace, Err("the agent was stopped before it took the message".to_owned()));
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
        let give_up = tokio::time::sleep(wait);
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

fn status_of(result: &RunResult) -> TraceState {
    if result.stop_reason.is_success() { TraceState::Done } else { TraceState::Failed }
}
