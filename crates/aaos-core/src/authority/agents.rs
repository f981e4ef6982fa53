//! The agents as a tree, found by id once and by place from there on.
//!
//! Invariants: a node's parent outlives it, so that the place of a parent always holds that parent; a place is used
//! again only when its agent was taken out.

use std::fmt;

use crate::budget::Purse;
use crate::id::AgentId;
use crate::name::{AgentName, ToolName};
use crate::quantity::Timestamp;

use super::approve::Approved;
use super::ids::IdMap;
use super::index::HeldIndex;
use super::table::GrantIx;

/// Where an agent lies in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AgentIx(usize);

/// One agent in the table. A stopped one stays only while charges of its own or of a descendant are open, so that
/// a refund still reaches its ancestors.
#[derive(Debug)]
pub(super) struct AgentNode {
    pub(super) id: AgentId,
    pub(super) name: AgentName,
    pub(super) parent: Option<AgentIx>,
    pub(super) depth: u32,
    pub(super) purse: Purse,
    pub(super) grants: Vec<GrantIx>,
    pub(super) index: HeldIndex,
    pub(super) approval_required: Vec<ToolName>,
    /// Those of its grants that say so themselves.
    pub(super) asking: Vec<GrantIx>,
    /// Whether a grant of its own, or of an ancestor, asks for approval or derives from one that does. Where not, no
    /// decision has to look for one. An agent's grants are all there before its first child.
    pub(super) asks_on_path: bool,
    /// What people approved for it and its descendants.
    pub(super) approvals: Vec<Approved>,
    pub(super) stable_identity: bool,
    /// Since when a run of it goes on, and how much of its purse's wall time is reserved for that.
    pub(super) clock: Option<(Timestamp, u64)>,
    /// Alive children.
    pub(super) children: Vec<AgentId>,
    /// Children in the table, stopped ones included.
    pub(super) kept_children: usize,
    /// Charges neither settled nor refunded.
    pub(super) open_charges: usize,
    pub(super) stopped: bool,
}

/// Every agent in the table, stopped ones included.
#[derive(Default)]
pub(super) struct AgentTable {
    slots: Vec<Option<AgentNode>>,
    free: Vec<AgentIx>,
    by_id: IdMap<AgentId, AgentIx>,
}

/// As the map that it stands for, without its free places.
impl fmt::Debug for AgentTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|node| (node.id, node))).finish()
    }
}

impl AgentTable {
    pub(super) fn insert(&mut self, node: AgentNode) {
        let ix = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            AgentIx(self.slots.len() - 1)
        });
        let before = self.by_id.insert(node.id, ix);
        assert!(before.is_none(), "agent ids are fresh");
        self.slots[ix.0] = Some(node);
    }

    /// Takes an agent out; no node may have it as its parent any more.
    pub(super) fn remove(&mut self, ix: AgentIx) -> Option<AgentNode> {
        let node = self.slots[ix.0].take()?;
        self.by_id.remove(&node.id);
        self.free.push(ix);
        Some(node)
    }

    pub(super) fn find(&self, id: AgentId) -> Option<AgentIx> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, id: AgentId) -> Option<&AgentNode> {
        self.find(id).map(|ix| self.at(ix))
    }

    pub(super) fn get_mut(&mut self, id: AgentId) -> Option<&mut AgentNode> {
        self.find(id).map(|ix| self.at_mut(ix))
    }

    pub(super) fn contains(&self, id: AgentId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn at(&self, ix: AgentIx) -> &AgentNode {
        self.slots[ix.0].as_ref().unwrap_or_else(|| unreachable!("a place is dropped with its agent"))
    }

    pub(super) fn at_mut(&mut self, ix: AgentIx) -> &mut AgentNode {
        self.slots[ix.0].as_mut().unwrap_or_else(|| unreachable!("a place is dropped with its agent"))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &AgentNode> {
        self.slots.iter().flatten()
    }

    /// An agent and its ancestors, nearest first.
    pub(super) fn path(&self, ix: AgentIx) -> impl Iterator<Item = &AgentNode> {
        std::iter::successors(Some(self.at(ix)), |node| node.parent.map(|parent| self.at(parent)))
    }

    /// Acts on an agent and its ancestors, nearest first.
    pub(super) fn each_on_path(&mut self, ix: AgentIx, mut act: impl FnMut(&mut AgentNode)) {
        let mut next = Some(ix);
        while let Some(ix) = next {
            let node = self.at_mut(ix);
            act(node);
            next = node.parent;
        }
    }
}
