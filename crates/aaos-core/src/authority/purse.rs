//! Purses as nodes of the agent tree: a reservation is on the whole path to the root, or nowhere.

use crate::budget::{Budget, Ceilings};
use crate::effect::Charge;
use crate::id::{AgentId, CallId};
use crate::quantity::{Amounts, Millis, Quantity, Timestamp};

use super::{Authority, Refusal};

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
        let purse = &self.alive(agent).ok()?.purse;
        Some(PurseView {
            budget: *purse.budget(),
            reserved: *purse.reserved(),
            used: purse.used_at(now),
            remaining: Quantity::ALL.into_iter().fold(Ceilings::NONE, |ceilings, quantity| {
                ceilings.with(quantity, self.remaining(agent, quantity, now))
            }),
            window_ends: purse.window_ends(now),
        })
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
        let left = self.node(agent).purse.remaining(Quantity::WallMillis, now);
        if left == Some(0) {
            return Err(Refusal::Budget { quantity: Quantity::WallMillis, wanted: 1, remaining: 0 });
        }
        let node = self.node_mut(agent);
        if let Some(left) = left {
            node.purse.reserve(Quantity::WallMillis, left, now);
        }
        node.clock = Some((now, left.unwrap_or(0)));
        Ok(left.map(Millis))
    }

    /// The run of an agent ended: the time that it lasted is used. Without a run in progress nothing happens.
    pub fn stop_clock(&mut self, agent: AgentId, now: Timestamp) {
        let now = self.latest.max(now);
        let Some(node) = self.agents.get_mut(&agent) else {
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
        agent: AgentId,
        wanted: &Amounts,
        now: Timestamp,
    ) -> Result<Charge, Refusal> {
        for (quantity, amount) in wanted.iter() {
            let mut purses = self.path_to_root(agent).map(|one| &self.node(one).purse);
            if !purses.all(|purse| purse.could_ever_hold(quantity, amount, now)) {
                let remaining = self.remaining(agent, quantity, now).unwrap_or_default();
                return Err(Refusal::Budget { quantity, wanted: amount, remaining });
            }
        }
        for (quantity, amount) in wanted.iter() {
            let mut purses = self.path_to_root(agent).map(|one| &self.node(one).purse);
            if !purses.all(|purse| purse.holds(quantity, amount, now)) {
                return Err(Refusal::Waits { quantity, wanted: amount });
            }
        }
        let mut next = Some(agent);
        while let Some(node) = next.and_then(|one| self.agents.get_mut(&one)) {
            for (quantity, amount) in wanted.iter() {
                debug_assert!(quantity.is_shared(), "wall time is reserved by a run, not by an effect");
                node.purse.reserve(quantity, amount, now);
            }
            next = node.parent;
        }
        Ok(Charge::Purse { agent, reserved: *wanted })
    }

    /// Turns `reserved` into `used` on the whole path; an agent no longer in the table is ignored.
    pub(super) fn spend(&mut self, agent: AgentId, reserved: &Amounts, used: &Amounts, now: Timestamp) {
        let mut next = Some(agent);
        while let Some(node) = next.and_then(|one| self.agents.get_mut(&one)) {
            node.purse.settle_all(reserved, used, now);
            next = node.parent;
        }
    }

    /// The least of ceiling − used over an agent and its ancestors.
    pub(super) fn remaining(&self, agent: AgentId, quantity: Quantity, now: Timestamp) -> Option<u64> {
        let reach = if quantity.is_shared() { usize::MAX } else { 1 };
        let purses = self.path_to_root(agent).take(reach).map(|one| &self.node(one).purse);
        purses.filter_map(|purse| purse.remaining(quantity, now)).min()
    }

    /// An agent and its ancestors; nothing for one that is not in the table.
    pub(super) fn path_to_root(&self, agent: AgentId) -> impl Iterator<Item = AgentId> {
        let first = self.agents.contains_key(&agent).then_some(agent);
        std::iter::successors(first, |one| self.node(*one).parent)
    }
}
