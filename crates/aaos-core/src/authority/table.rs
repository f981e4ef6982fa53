//! The grants of all agents as a tree, with the counters that parent and children share.
//!
//! Invariants: a node's parent outlives it; `uses` of a node is the number of charged uses of itself and of
//! everything derived from it.

use std::collections::VecDeque;

use crate::capability::Constraints;
use crate::grant::GrantRecord;
use crate::id::{AgentId, GrantId};
use crate::limits::RATE_WINDOW_MS;
use crate::quantity::{Millis, Timestamp};

use super::ids::IdMap;

/// Where a grant lies in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GrantIx(usize);

/// Why a grant that is there cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Unusable {
    Revoked,
    Expired,
    UsedUp { most: u32 },
    TooOften { most: u32, wait: Millis },
    HandOnOnly,
}

/// What a decision looks at of a grant; the rest is in its record, which is elsewhere in memory.
#[derive(Debug)]
struct GrantNode {
    id: GrantId,
    record: Box<GrantRecord>,
    /// The record's constraints.
    bounds: Constraints,
    parent: Option<GrantIx>,
    expires_at: Option<Timestamp>,
    /// Charged uses, derived grants included.
    uses: u32,
    /// When it was used in the last minute, oldest first; kept only where a rate bounds it.
    recent: VecDeque<Timestamp>,
    revoked: bool,
    /// Whether a use must be counted: it, or a grant it derives from, is bounded by count or rate.
    counted: bool,
    /// Whether it, or a grant it derives from, is bounded by a rate.
    rated: bool,
    /// Whether it, or a grant it derives from, asks for approval.
    asks: bool,
}

/// The counters of a grant, as the journal's fold gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) uses: u32,
    pub(super) recent: VecDeque<Timestamp>,
    pub(super) revoked: bool,
}

#[derive(Debug, Default)]
pub(super) struct GrantTable {
    slots: Vec<Option<GrantNode>>,
    free: Vec<GrantIx>,
    by_id: IdMap<GrantId, GrantIx>,
}

impl GrantTable {
    pub(super) fn insert(&mut self, record: GrantRecord, counters: Counters) -> GrantIx {
        let parent = record.parent.map(|id| {
            self.by_id
                .get(&id)
                .copied()
                .unwrap_or_else(|| unreachable!("a parent grant outlives its children"))
        });
        let bounds = record.constraints;
        let above = parent.map(|parent| self.node(parent));
        let rated = bounds.max_per_minute.is_some() || above.is_some_and(|above| above.rated);
        let counted = bounds.max_invocations.is_some() || rated || above.is_some_and(|above| above.counted);
        let asks = bounds.approval_required || above.is_some_and(|above| above.asks);
        let expires_at = expiry(&record);
        let id = record.id;
        let node = GrantNode {
            id,
            record: Box::new(record),
            bounds,
            parent,
            expires_at,
            uses: counters.uses,
            recent: counters.recent,
            revoked: counters.revoked,
            counted,
            rated,
            asks,
        };
        let ix = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            GrantIx(self.slots.len() - 1)
        });
        self.slots[ix.0] = Some(node);
        let before = self.by_id.insert(id, ix);
        assert!(before.is_none(), "grant ids are fresh");
        ix
    }

    /// Takes a grant out; nothing may derive from it any more.
    pub(super) fn remove(&mut self, ix: GrantIx) {
        if let Some(node) = self.slots[ix.0].take() {
            self.by_id.remove(&node.id);
            self.free.push(ix);
        }
    }

    pub(super) fn contains(&self, id: GrantId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn find(&self, id: GrantId) -> Option<(GrantIx, AgentId)> {
        let ix = *self.by_id.get(&id)?;
        Some((ix, self.node(ix).record.agent))
    }

    pub(super) fn holder(&self, id: GrantId) -> Option<AgentId> {
        self.find(id).map(|(_, agent)| agent)
    }

    /// A grant and what it derives from, nearest first.
    pub(super) fn ancestors(&self, id: GrantId) -> impl Iterator<Item = GrantId> {
        let first = self.by_id.get(&id).copied();
        std::iter::successors(first, |ix| self.node(*ix).parent).map(|ix| self.node(ix).id)
    }

    /// Whether a person has to approve its uses: it, or one that it derives from, says so.
    pub(super) fn asks(&self, ix: GrantIx) -> bool {
        self.node(ix).asks
    }

    pub(super) fn id(&self, ix: GrantIx) -> GrantId {
        self.node(ix).id
    }

    pub(super) fn record(&self, ix: GrantIx) -> &GrantRecord {
        &self.node(ix).record
    }

    /// Uses left, where anything on the path to the root bounds them.
    pub(super) fn uses_left(&self, ix: GrantIx) -> Option<u32> {
        self.path(ix)
            .filter_map(|node| node.bounds.max_invocations.map(|most| most.saturating_sub(node.uses)))
            .min()
    }

    /// The earliest expiry on the path to the root.
    pub(super) fn expires_at(&self, ix: GrantIx) -> Option<Timestamp> {
        self.path(ix).filter_map(|node| node.expires_at).min()
    }

    /// The lowest rate on the path to the root.
    pub(super) fn rate(&self, ix: GrantIx) -> Option<u32> {
        self.path(ix).filter_map(|node| node.bounds.max_per_minute).min()
    }

    pub(super) fn is_revoked(&self, ix: GrantIx) -> bool {
        self.path(ix).any(|node| node.revoked)
    }

    /// Whether the grant may be used by its holder, per-minute rates aside.
    pub(super) fn lives(&self, ix: GrantIx, now: Timestamp) -> bool {
        self.node(ix).bounds.usable && self.standing(ix, now).is_ok()
    }

    /// Whether the grant may be used by its holder now.
    pub(super) fn usable(&self, ix: GrantIx, now: Timestamp) -> Result<(), Unusable> {
        self.standing(ix, now)?;
        if !self.node(ix).bounds.usable {
            return Err(Unusable::HandOnOnly);
        }
        if self.node(ix).rated { self.path(ix).try_for_each(|node| node.rate_allows(now)) } else { Ok(()) }
    }

    /// Whether nothing on the path to the root is revoked, expired or used up.
    pub(super) fn standing(&self, ix: GrantIx, now: Timestamp) -> Result<(), Unusable> {
        self.path(ix).try_for_each(|node| {
            if node.revoked {
                return Err(Unusable::Revoked);
            }
            if node.expires_at.is_some_and(|end| end <= now) {
                return Err(Unusable::Expired);
            }
            match node.bounds.max_invocations {
                Some(most) if node.uses >= most => Err(Unusable::UsedUp { most }),
                _ => Ok(()),
            }
        })
    }

    /// Whether uses of the grant are counted, because it or one that it derives from is bounded by count or rate.
    pub(super) fn is_counted(&self, ix: GrantIx) -> bool {
        self.node(ix).counted
    }

    /// Counts one use on the grant and everything it derives from. False where nothing needs counting.
    pub(super) fn charge(&mut self, ix: GrantIx, now: Timestamp) -> bool {
        if !self.is_counted(ix) {
            return false;
        }
        self.each_on_path(ix, |node| {
            node.uses = node.uses.saturating_add(1);
            if node.bounds.max_per_minute.is_some() {
                node.forget_old(now);
                node.recent.push_back(now);
            }
        });
        true
    }

    /// Takes back a charge that this very operation made.
    pub(super) fn roll_back(&mut self, ix: GrantIx) {
        self.each_on_path(ix, |node| {
            node.uses = node.uses.saturating_sub(1);
            node.recent.pop_back();
        });
    }

    /// Takes back a charge made earlier; rates are not given back.
    pub(super) fn uncharge(&mut self, ix: GrantIx) {
        self.each_on_path(ix, |node| {
            debug_assert!(node.uses > 0, "only what was charged is given back");
            node.uses = node.uses.saturating_sub(1);
        });
    }

    pub(super) fn revoke(&mut self, id: GrantId) -> Vec<GrantId> {
        let Some(root) = self.by_id.get(&id).copied().filter(|ix| !self.is_revoked(*ix)) else {
            return Vec::new();
        };
        let slots = (0..self.slots.len()).map(GrantIx);
        let ended = slots
            .filter(|ix| self.slots[ix.0].is_some() && !self.is_revoked(*ix) && self.derives(*ix, root))
            .map(|ix| self.node(ix).id)
            .collect();
        self.node_mut(root).revoked = true;
        ended
    }

    fn derives(&self, ix: GrantIx, root: GrantIx) -> bool {
        let mut next = Some(ix);
        while let Some(ix) = next {
            if ix == root {
                return true;
            }
            next = self.node(ix).parent;
        }
        false
    }

    fn node(&self, ix: GrantIx) -> &GrantNode {
        self.slots[ix.0].as_ref().unwrap_or_else(|| unreachable!("an index is dropped with its grant"))
    }

    fn node_mut(&mut self, ix: GrantIx) -> &mut GrantNode {
        self.slots[ix.0].as_mut().unwrap_or_else(|| unreachable!("an index is dropped with its grant"))
    }

    fn path(&self, ix: GrantIx) -> impl Iterator<Item = &GrantNode> {
        std::iter::successors(Some(self.node(ix)), |node| node.parent.map(|parent| self.node(parent)))
    }

    fn each_on_path(&mut self, ix: GrantIx, mut act: impl FnMut(&mut GrantNode)) {
        let mut next = Some(ix);
        while let Some(ix) = next {
            let node = self.node_mut(ix);
            act(node);
            next = node.parent;
        }
    }
}

impl GrantNode {
    fn rate_allows(&self, now: Timestamp) -> Result<(), Unusable> {
        let Some(most) = self.bounds.max_per_minute else {
            return Ok(());
        };
        let fresh = self.recent.partition_point(|at| now.since(*at) >= Millis(RATE_WINDOW_MS));
        let used = self.recent.len() - fresh;
        if used < most as usize {
            return Ok(());
        }
        let oldest = self.recent.get(fresh).copied().unwrap_or(now);
        Err(Unusable::TooOften { most, wait: oldest.after(Millis(RATE_WINDOW_MS)).since(now) })
    }

    fn forget_old(&mut self, now: Timestamp) {
        while self.recent.front().is_some_and(|at| now.since(*at) >= Millis(RATE_WINDOW_MS)) {
            self.recent.pop_front();
        }
    }
}

/// When a grant ends by its own constraint.
pub(super) fn expiry(record: &GrantRecord) -> Option<Timestamp> {
    let seconds = record.constraints.expires_in_seconds?;
    Some(record.issued_at.after(Millis(u64::from(seconds) * 1000)))
}
