//! Token purses as nodes {limit, reserved, used} of the agent tree.
//!
//! Invariant: `used + reserved ≤ limit` held at every purse on the path when a reservation was admitted. Only an
//! overdraft, which is reported, takes `used` further; nothing more is admitted there.

use crate::effect::Charge;
use crate::id::AgentId;
use crate::limits::MAX_BYTES_PER_TOKEN;
use crate::model::{ModelFailure, ModelReply};
use crate::quantity::{Bytes, Tokens};

use super::{Authority, Refusal};

/// One purse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Purse {
    pub(super) limit: Option<Tokens>,
    pub(super) reserved: Tokens,
    pub(super) used: Tokens,
}

/// A purse as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurseView {
    /// Its own ceiling.
    pub limit: Option<Tokens>,
    /// Reserved by inferences in flight, descendants included.
    pub reserved: Tokens,
    /// Used, descendants included.
    pub used: Tokens,
    /// The most that a request may be clamped to: the least of limit − used over it and its ancestors. Reservations
    /// are not subtracted, because they come back in part; where only they stand in the way, a request waits.
    /// `None` where no ancestor has a limit either.
    pub remaining: Option<Tokens>,
}

impl Purse {
    pub(super) fn view(&self, remaining: Option<Tokens>) -> PurseView {
        PurseView { limit: self.limit, reserved: self.reserved, used: self.used, remaining }
    }

    /// Whether `amount` can be reserved, once nothing else is reserved.
    fn could_ever_hold(&self, amount: Tokens) -> bool {
        self.limit.is_none_or(|limit| self.used < limit && self.used.plus(amount) <= limit)
    }

    fn holds(&self, amount: Tokens) -> bool {
        let asked = self.used.plus(self.reserved).plus(amount);
        self.could_ever_hold(amount) && self.limit.is_none_or(|limit| asked <= limit)
    }
}

impl Authority {
    /// Reserves on the whole path to the root, or nowhere.
    pub(super) fn reserve(&mut self, agent: AgentId, wanted: Tokens) -> Result<Charge, Refusal> {
        let path = self.path_to_root(agent);
        let purses = || path.iter().map(|one| &self.node(*one).purse);
        if !purses().all(|purse| purse.could_ever_hold(wanted)) {
            let remaining = self.remaining(agent).unwrap_or_default();
            return Err(Refusal::Budget { wanted, remaining });
        }
        if !purses().all(|purse| purse.holds(wanted)) {
            return Err(Refusal::Waits { wanted });
        }
        for one in path {
            let purse = &mut self.node_mut(one).purse;
            purse.reserved = purse.reserved.plus(wanted);
            let held = purse.used.plus(purse.reserved);
            assert!(purse.limit.is_none_or(|limit| held <= limit), "a reservation never passes a limit");
        }
        Ok(Charge::Tokens { agent, reserved: wanted })
    }

    /// Turns `reserved` into `used` on the whole path; an agent no longer in the table is ignored.
    pub(super) fn spend(&mut self, agent: AgentId, reserved: Tokens, used: Tokens) {
        for one in self.path_to_root(agent) {
            let purse = &mut self.node_mut(one).purse;
            debug_assert!(purse.reserved >= reserved, "only what was reserved is settled");
            purse.reserved = purse.reserved.minus(reserved);
            purse.used = purse.used.plus(used);
        }
    }

    /// The least of limit − used over an agent and its ancestors.
    pub(super) fn remaining(&self, agent: AgentId) -> Option<Tokens> {
        let path = self.path_to_root(agent);
        let purses = path.iter().map(|one| &self.node(*one).purse);
        purses.filter_map(|purse| purse.limit.map(|limit| limit.minus(purse.used))).min()
    }

    fn path_to_root(&self, agent: AgentId) -> Vec<AgentId> {
        let first = self.agents.contains_key(&agent).then_some(agent);
        std::iter::successors(first, |one| self.node(*one).parent).collect()
    }
}

/// What an inference is charged. A reply costs the larger of what the provider reports and what the bytes must
/// have cost at least. Each failed attempt that the provider may have billed without a report costs the whole
/// reservation. Where nobody was asked, or everybody turned it away, nothing. The fold over the journal uses this
/// too.
#[must_use]
pub fn tokens_spent(
    result: &Result<ModelReply, ModelFailure>,
    possibly_billed: u32,
    request_bytes: Bytes,
    reserved: Tokens,
) -> Tokens {
    let unreported = Tokens(reserved.0.saturating_mul(u64::from(possibly_billed)));
    match result {
        Ok(reply) => {
            let arguments: usize = reply.calls.iter().map(|call| call.arguments.0.len()).sum();
            let bytes = request_bytes.plus(Bytes((reply.text.len() + arguments) as u64));
            let reply = reply.usage.total().max(Tokens(bytes.0 / MAX_BYTES_PER_TOKEN));
            unreported.plus(reply)
        }
        Err(_) => unreported,
    }
}
