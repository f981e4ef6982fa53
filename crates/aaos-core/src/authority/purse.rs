//! Purses as nodes of the agent tree: a reservation is on the whole path to the root, or nowhere.

use crate::budget::{Budget, Ceilings, Purse};
use crate::effect::Charge;
use crate::id::{AgentId, CallId};
use crate::quantity::{Amounts, Millis, Quantity, Timestamp};

use super::{AgentIx, Authority, Refusal};

/// A purse as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurseView {
    /// Its own ceilings and window.
    pub budget: Budget,
    /// Reserved by effects in flight, descendants included.
    pub reserved: Amounts,
    /// Used in the present window, descendants included.
    pub used: Amounts,
    /// The most that a request may be clamped to: the least of ceiling − used over it and its ancestors. Reservations
    /// are not subtracted, because they come back in part; where only they stand in the way, a request waits.
    /// Unbounded where no ancestor has a ceiling either.
    pub remaining: Ceilings,
    /// When its window ends.
    pub window_ends: Option<Timestamp>,
}

impl Authority {
    /// An agent's purse.
    #[must_use]
    pub fn purse(&self, agent: AgentId, now: Timestamp) -> Option<PurseView> {
        let now = self.latest.max(now);
        let at = self.find_alive(agent).ok()?;
        let purse = &self.agents.at(at).purse;
        Some(PurseView {
            budget: *purse.budget(),
            reserved: *purse.reserved(),
            used: purse.used_at(now),
            remaining: Quantity::ALL.into_iter().fold(Ceilings::NONE, |ceilings, quantity| {
                ceilings.with(quantity, self.remaining(at, quantity, now))
            }),
            window_ends: purse.window_ends(now),
        })
    }

    /// What an effect of the agent can reserve of a quantity without waiting: the least of ceiling − used − reserved over it
    /// and its ancestors. `None` where nothing bounds it, and for an agent that is not there.
    #[must_use]
    pub fn free(&self, agent: AgentId, quantity: Quantity, now: Timestamp) -> Option<u64> {
        let now = self.latest.max(now);
        let at = self.find_alive(agent).ok()?;
        self.purses(at, quantity).filter_map(|purse| purse.free(quantity, now)).min()
    }

    /// The run of an agent begins: all the wall time that its purse has left is reserved for it. Gives that time;
    /// `None` where nothing bounds it.
    ///
    /// # Errors
    /// [`Refusal::Budget`] when no wall time is left, [`Refusal::UnknownAgent`].
    pub fn start_clock(&mut self, agent: AgentId, now: Timestamp) -> Result<Option<Millis>, Refusal> {
        let now = self.begin(now);
        self.alive(agent)?;
        // First: what a run in progress has lasted is no longer left.
        self.stop_clock(agent, now);
        let node = self.node_mut(agent);
        let left = node.purse.remaining(Quantity::WallMillis, now);
        if left == Some(0) {
            return Err(Refusal::Budget { quantity: Quantity::WallMillis, wanted: 1, remaining: 0 });
        }
        if let Some(left) = left {
            node.purse.reserve(Quantity::WallMillis, left, now);
        }
        node.clock = Some((now, left.unwrap_or(0)));
        Ok(left.map(Millis))
    }

    /// The run of an agent ended: the time that it lasted is used. Without a run in progress nothing happens.
    pub fn stop_clock(&mut self, agent: AgentId, now: Timestamp) {
        let now = self.latest.max(now);
        let Some(node) = self.agents.get_mut(agent) else {
            return;
        };
        if let Some((since, reserved)) = node.clock.take() {
            node.purse.settle(Quantity::WallMillis, reserved, now.since(since).0, now);
        }
    }

    /// What an open effect is certain to use of its reservation is used now, so that nobody waits for it: for an
    /// effect that goes on as long as those of other agents, which draw on the same purses.
    pub fn pay_ahead(&mut self, agent: AgentId, call: CallId, certain: &Amounts, now: Timestamp) {
        let now = self.begin(now);
        let paid = self.note_paid(call, certain);
        self.spend(agent, &paid, &paid, now);
    }

    /// Reserves on the whole path to the root, or nowhere.
    pub(super) fn reserve(
        &mut self,
        at: AgentIx,
        wanted: &Amounts,
        now: Timestamp,
    ) -> Result<Charge, Refusal> {
        if !self.agents.path(at).all(|node| node.purse.holds_all(wanted, now)) {
            return Err(self.lack(at, wanted, now));
        }
        let shared = wanted.iter().all(|(one, _)| one.is_shared());
        debug_assert!(shared, "wall time is reserved by a run, not by an effect");
        self.agents.each_on_path(at, |node| node.purse.reserve_all(wanted, now));
        Ok(Charge::Purse { agent: self.agents.at(at).id, reserved: *wanted })
    }

    /// Why a path does not hold what is wanted. What no refund can help with comes first.
    fn lack(&self, at: AgentIx, wanted: &Amounts, now: Timestamp) -> Refusal {
        let purses = || self.agents.path(at).map(|node| &node.purse);
        let never = |(quantity, amount): &(Quantity, u64)| {
            !purses().all(|purse| purse.could_ever_hold(*quantity, *amount, now))
        };
        if let Some((quantity, wanted)) = wanted.iter().find(never) {
            let remaining = self.remaining(at, quantity, now).unwrap_or_default();
            return Refusal::Budget { quantity, wanted, remaining };
        }
        let not_now = |(quantity, amount): &(Quantity, u64)| {
            !purses().all(|purse| purse.holds(*quantity, *amount, now))
        };
        let (quantity, wanted) =
            wanted.iter().find(not_now).unwrap_or_else(|| unreachable!("some purse does not hold it"));
        Refusal::Waits { quantity, wanted }
    }

    /// Turns `reserved` into `used` on the whole path; an agent no longer in the table is ignored.
    pub(super) fn spend(&mut self, agent: AgentId, reserved: &Amounts, used: &Amounts, now: Timestamp) {
        if let Some(at) = self.agents.find(agent) {
            self.agents.each_on_path(at, |node| node.purse.settle_all(reserved, used, now));
        }
    }

    /// The least of ceiling − used over an agent and its ancestors.
    pub(super) fn remaining(&self, at: AgentIx, quantity: Quantity, now: Timestamp) -> Option<u64> {
        self.purses(at, quantity).filter_map(|purse| purse.remaining(quantity, now)).min()
    }

    /// The purses that an effect of an agent draws a quantity from.
    fn purses(&self, at: AgentIx, quantity: Quantity) -> impl Iterator<Item = &Purse> {
        let reach = if quantity.is_shared() { usize::MAX } else { 1 };
        self.agents.path(at).take(reach).map(|node| &node.purse)
    }
}
