//! Waiting for a purse: where only reservations of effects in flight stand in the way, an effect waits for them.
//!
//! Invariants: a wait ends with a settlement, the agent's stop or a deadline; a journal that fails ends it too, since
//! nothing is settled any more.

use std::time::Duration;

use aaos_core::authority::Refusal;
use aaos_core::effect::{Authorized, Effect};
use aaos_core::id::CallId;
use aaos_core::limits;
use aaos_core::quantity::Timestamp;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::registry::Agent;

/// An effect outside a goal gives up after this long, its waits included; one of a goal at the goal's deadline.
const LONGEST: Duration = Duration::from_secs(limits::GOAL_DEADLINE_SECONDS);

/// Why an effect waits no longer, without a settlement.
#[derive(Debug)]
pub(crate) enum WaitEnd {
    /// What the agent does is to end.
    Stopped,
    /// The deadline passed.
    TooLate,
    /// The journal failed.
    Failed(KernelError),
}

/// Why an effect was not authorised.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    /// The authority says no.
    Refused(Refusal),
    /// What the agent does is to end.
    Stopped,
    /// The journal failed.
    Failed(KernelError),
}

impl Kernel {
    /// Until when an effect of an agent may wait.
    pub(crate) fn wait_deadline(&self, agent: &Agent) -> Timestamp {
        agent.goal.map_or_else(|| self.clock().after(LONGEST), |goal| self.deadline_of(goal))
    }

    /// Waits until something was settled. `settled` is registered before the decision that it answers, so that a
    /// settlement between the two is not missed.
    pub(crate) async fn wait_for_budget(
        &self,
        stop: &CancellationToken,
        settled: Notified<'_>,
        deadline: Timestamp,
    ) -> Result<(), WaitEnd> {
        tokio::select! {
            () = settled => {}
            () = stop.cancelled() => return Err(WaitEnd::Stopped),
            () = self.closing().cancelled() => return Err(WaitEnd::Stopped),
            () = self.clock().sleep_until(deadline) => return Err(WaitEnd::TooLate),
        }
        // A reservation whose outcome cannot be journalled is never settled.
        self.journal().flush().await.map(drop).map_err(|error| WaitEnd::Failed(error.into()))
    }

    /// Asks the authority about an effect, again after each settlement that it has to wait for, until `stop`. Each time
    /// it is made no larger than what the purse has left by then.
    pub(crate) async fn authorize_or_wait<E: Effect + Clone>(
        &self,
        agent: &Agent,
        stop: &CancellationToken,
        call: CallId,
        effect: &E,
    ) -> Result<Authorized<E>, NotAdmitted> {
        let deadline = self.wait_deadline(agent);
        loop {
            if stop.is_cancelled() || self.is_closing() {
                return Err(NotAdmitted::Stopped);
            }
            let settled = self.budget_changed().notified();
            let decision = {
                let now = self.clock().now();
                let mut authority = self.authority();
                let remaining =
                    authority.purse(agent.id, now).map(|purse| purse.remaining).unwrap_or_default();
                authority.authorize(agent.id, call, effect.clone().clamped_to(&remaining), now)
            };
            let refusal = match decision {
                Ok(authorized) => return Ok(authorized),
                Err(refusal @ Refusal::Waits { .. }) => refusal,
                Err(refusal) => return Err(NotAdmitted::Refused(refusal)),
            };
            match self.wait_for_budget(stop, settled, deadline).await {
                Ok(()) => {}
                Err(WaitEnd::TooLate) => return Err(NotAdmitted::Refused(refusal)),
                Err(WaitEnd::Stopped) => return Err(NotAdmitted::Stopped),
                Err(WaitEnd::Failed(error)) => return Err(NotAdmitted::Failed(error)),
            }
        }
    }
}
