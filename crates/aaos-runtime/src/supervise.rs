//! Supervision of agents: what follows a failure.
//!
//! Invariants: the message that an agent failed at is answered with the cause, once, and is never taken again; a restart is
//! recorded before the agent goes on, so that its window survives a restart of the daemon; an agent that is given up
//! ends, and whatever waits in its mailbox is answered with the cause. A journal that fails is no failure of an agent.

use std::sync::Arc;

use aaos_core::event::{AgentEnd, Event, NewEntry};
use aaos_core::id::TraceId;
use aaos_core::quantity::{MicroUsd, Timestamp};
use aaos_core::supervision::{Ended, GiveUp, Next, decide};

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::registry::Agent;

/// What the work of an agent failed with.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The message that it worked on.
    pub(crate) trace: Option<TraceId>,
    pub(crate) error: KernelError,
    /// Whether its conversation cannot be taken up any more.
    pub(crate) fresh: bool,
}

impl Failed {
    /// A failure beside any message.
    pub(crate) const fn beside(error: KernelError) -> Self {
        Self { trace: None, error, fresh: false }
    }
}

impl Kernel {
    /// Decides what follows a failure that cut an agent's work short. False when the agent does not go on.
    pub(crate) async fn goes_on_after(&self, agent: &Arc<Agent>, failed: Failed) -> bool {
        let Failed { trace, error, fresh } = failed;
        if agent.cancel.is_cancelled() || self.is_closing() {
            return false;
        }
        if let Err(error) = self.supervise(agent, trace, error.to_string(), fresh).await {
            if self.is_closing() {
                return false;
            }
            self.give_up(agent, error.to_string());
        }
        !agent.cancel.is_cancelled()
    }

    /// Restarts an agent with a mailbox that failed, or gives it up.
    ///
    /// # Errors
    /// A journal that fails.
    pub(crate) async fn supervise(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        reason: String,
        fresh: bool,
    ) -> Result<(), KernelError> {
        if let Some(why) = self.restart(agent, trace, reason.clone(), fresh).await? {
            self.give_up(agent, format!("{reason}; it is not started again: {why}"));
        }
        Ok(())
    }

    /// Records that an agent that failed is started again. Gives why not, where it is not.
    ///
    /// # Errors
    /// A journal that fails.
    pub(crate) async fn restart(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        reason: String,
        fresh: bool,
    ) -> Result<Option<GiveUp>, KernelError> {
        let supervision = agent.manifest.supervision;
        let now = self.clock().now();
        let (next, restarts) = {
            let live = agent.live();
            let (restarts, spent) = (&live.watch.restarts, live.watch.spending.within(&supervision, now));
            let next = decide(&supervision, restarts, Ended::Failed, now, spent, self.random());
            (next, restarts.within(&supervision, now).saturating_add(1))
        };
        let after = match next {
            Next::Restart { after } => after,
            Next::GiveUp { why } => return Ok(Some(why)),
        };
        tracing::warn!(agent = %agent.id, restarts, %reason, "an agent failed and is started again");
        let event = Event::AgentRestarted { restarts, after, reason, fresh };
        let entry = NewEntry { timestamp: now, trace_id: trace, ..self.agent_entry(agent, event) };
        self.journal().record(entry).await?;
        let mut live = agent.live();
        live.watch.restarted(&supervision, now, after);
        if fresh {
            live.conversation.clear();
            live.conversation_began = None;
        }
        Ok(None)
    }

    /// Ends an agent that is not started again.
    fn give_up(&self, agent: &Arc<Agent>, reason: String) {
        tracing::error!(agent = %agent.id, %reason, "an agent is given up");
        agent.live().given_up = Some(reason.clone());
        agent.cancel.cancel();
        // Whoever retires it waits for its tasks, of which this is one.
        let (kernel, dead) = (self.clone(), Arc::clone(agent));
        let end = AgentEnd::Failed { reason };
        drop(self.tasks().spawn(async move { kernel.retire_or_log(&dead, end).await }));
    }

    /// Waits until an agent that was restarted may take the next message; false when it is stopped meanwhile.
    pub(crate) async fn rested(&self, agent: &Agent) -> bool {
        let until = agent.live().watch.rests_until;
        tokio::select! {
            biased;
            () = agent.cancel.cancelled() => false,
            () = self.clock().sleep_until(until.unwrap_or(Timestamp::ZERO)) => true,
        }
    }

    /// Restarts in the window, where there were any.
    pub(crate) fn restarts_of(&self, agent: &Agent) -> Option<u32> {
        let now = self.clock().now();
        let restarts = agent.live().watch.restarts.within(&agent.manifest.supervision, now);
        (restarts > 0).then_some(restarts)
    }

    /// An agent and all above it spent this much.
    pub(crate) fn note_spending(&self, agent: &Agent, spent: MicroUsd) {
        let now = self.clock().now();
        let note = |agent: &Agent| agent.live().watch.spending.note(&agent.manifest.supervision, spent, now);
        note(agent);
        let mut above = agent.parent;
        while let Some(parent) = above.and_then(|id| self.table().agent(id)) {
            note(&parent);
            above = parent.parent;
        }
    }

    /// Bits that nobody can foresee: of an id of version 7, those behind the two of its variant.
    fn random(&self) -> u64 {
        self.clock().fresh().as_u64_pair().1 << 2
    }
}
