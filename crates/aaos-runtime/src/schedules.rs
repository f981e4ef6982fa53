//! The clock that wakes scheduled agents: one task for all of them.
//!
//! Invariants: a due time fires at most once, across restarts, because it is recorded in one transaction with the message
//! that it delivers; what is due is decided by [`aaos_core::schedule::due`] alone; a due time that finds its agent paused waits
//! for the agent's policy, one that finds its mailbox full is recorded as missed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_core::event::{Event, NewEntry};
use aaos_core::id::{AgentId, TraceId};
use aaos_core::quantity::Timestamp;
use aaos_core::schedule::{Due, ScheduleSpec, due};
use tokio::sync::Notify;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::mail::Sender;
use crate::registry::Agent;

/// When scheduled agents are due.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    due: Mutex<DueTimes>,
    changed: Notify,
}

/// The next due time of each scheduled agent that is not paused.
#[derive(Debug, Default)]
struct DueTimes {
    order: BTreeSet<(Timestamp, AgentId)>,
    of: HashMap<AgentId, Timestamp>,
}

impl DueTimes {
    fn set(&mut self, agent: AgentId, due: Timestamp) {
        self.forget(agent);
        self.order.insert((due, agent));
        self.of.insert(agent, due);
        assert_eq!(self.order.len(), self.of.len(), "an agent has one next due time");
    }

    fn forget(&mut self, agent: AgentId) {
        if let Some(due) = self.of.remove(&agent) {
            self.order.remove(&(due, agent));
        }
    }

    /// Takes out an agent that is due by `now`.
    fn take(&mut self, now: Timestamp) -> Option<AgentId> {
        let (due, agent) = *self.order.first()?;
        if due > now {
            return None;
        }
        self.forget(agent);
        Some(agent)
    }

    fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(due, _)| *due)
    }
}

impl Schedules {
    fn due(&self) -> MutexGuard<'_, DueTimes> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When an agent is due next.
    pub(crate) fn next_of(&self, agent: AgentId) -> Option<Timestamp> {
        self.due().of.get(&agent).copied()
    }

    /// An agent that is gone is never due.
    pub(crate) fn forget(&self, agent: AgentId) {
        self.due().forget(agent);
    }
}

/// One waking of an agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Firing {
    due: Timestamp,
    /// Earlier due times that it stands for.
    missed: u32,
}

impl Kernel {
    /// From here on the agent is woken at its due times, if it has a schedule and is not paused.
    pub(crate) fn watch_schedule(&self, agent: &Agent) {
        let Some(spec) = agent.manifest.lifecycle.schedule() else { return };
        // Due times that passed meanwhile come first.
        if let Some(next) = spec.schedule.next_after(settled(agent)) {
            self.schedules().due().set(agent.id, next);
            self.schedules().changed.notify_one();
        }
    }

    /// Wakes agents at their due times until the kernel closes.
    pub(crate) async fn fire_schedules(&self) {
        loop {
            let next = self.fire_due().await;
            tokio::select! {
                () = self.clock().until(next) => {}
                () = self.schedules().changed.notified() => {}
                () = self.closing().cancelled() => return,
            }
        }
    }

    /// Fires whatever is due now. Gives the time of what is due next.
    async fn fire_due(&self) -> Option<Timestamp> {
        loop {
            let taken = self.schedules().due().take(self.clock().now());
            let Some(id) = taken else { return self.schedules().due().next() };
            let Some(agent) = self.table().agent(id) else { continue };
            match self.fire(&agent).await {
                Ok(Some(next)) => self.schedules().due().set(id, next),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, agent = %id, "a schedule could not be fired"),
            }
        }
    }

    /// Wakes an agent if it is due. Gives when to ask again.
    async fn fire(&self, agent: &Arc<Agent>) -> Result<Option<Timestamp>, KernelError> {
        let Some(spec) = agent.manifest.lifecycle.schedule() else { return Ok(None) };
        if agent.cancel.is_cancelled() || *agent.paused.borrow() {
            return Ok(None);
        }
        let now = self.clock().now();
        let Due { fire, missed, next } = due(&spec.schedule, spec.misfire, settled(agent), now);
        match fire {
            Some(due) => self.fire_at(agent, spec, Firing { due, missed }).await?,
            None if missed > 0 => self.record_missed(agent, missed, now).await?,
            None => {}
        }
        Ok(next)
    }

    async fn fire_at(
        &self,
        agent: &Arc<Agent>,
        spec: &ScheduleSpec,
        firing: Firing,
    ) -> Result<(), KernelError> {
        match self.deliver_from(agent, spec.message.clone(), Sender::Schedule(firing)).await {
            Ok(_) => Ok(()),
            Err(KernelError::Limit(why)) => {
                tracing::warn!(agent = %agent.id, %why, "a due time was missed");
                self.record_missed(agent, firing.missed.saturating_add(1), firing.due).await
            }
            Err(error) => Err(error),
        }
    }

    /// Records a waking with what it delivers, in one transaction.
    pub(crate) async fn record_firing(
        &self,
        agent: &Agent,
        trace: TraceId,
        message: String,
        firing: Firing,
    ) -> Result<(), KernelError> {
        let Firing { due, missed } = firing;
        let missed = (missed > 0).then_some(Event::ScheduleMissed { count: missed, until: due });
        let delivered = Event::MessageDelivered { message, from: None, under: None };
        let events = [Some(Event::ScheduleFired { due }), missed, Some(delivered)];
        let of_trace = |event| NewEntry { trace_id: Some(trace), ..self.agent_entry(agent, event) };
        self.journal().record_all(events.into_iter().flatten().map(of_trace).collect()).await?;
        agent.live().watch.settle_schedule(due);
        Ok(())
    }

    async fn record_missed(&self, agent: &Agent, count: u32, until: Timestamp) -> Result<(), KernelError> {
        self.journal().record(self.agent_entry(agent, Event::ScheduleMissed { count, until })).await?;
        agent.live().watch.settle_schedule(until);
        Ok(())
    }
}

/// Until when an agent's due times are settled: the last one that was fired or missed, or its admission.
fn settled(agent: &Agent) -> Timestamp {
    agent.live().watch.scheduled.unwrap_or(agent.started_at)
}

#[cfg(test)]
mod tests {
    use aaos_core::id::AgentId;
    use aaos_core::quantity::Timestamp;
    use uuid::Uuid;

    use super::DueTimes;

    fn agent(number: u128) -> AgentId {
        AgentId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn each_agent_is_taken_once_when_it_is_due_and_the_earliest_first() {
        let mut due = DueTimes::default();
        for (number, at) in [(1, 30), (2, 10), (3, 20), (2, 25)] {
            due.set(agent(number), Timestamp(at));
        }
        assert_eq!((due.next(), due.take(Timestamp(19))), (Some(Timestamp(20)), None));
        due.forget(agent(1));
        let taken: Vec<_> = std::iter::from_fn(|| due.take(Timestamp(99))).collect();
        assert_eq!(taken, [agent(3), agent(2)], "the later time of the second counts, the first is gone");
        assert_eq!(due.next(), None);
    }
}
