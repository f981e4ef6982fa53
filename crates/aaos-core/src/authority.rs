//! The only authority: it decides, charges and narrows.
//!
//! Invariants: a decision and its charge are one step. A use of a grant counts on the grant and on every
//! grant it derives from; a token reservation is added to an agent and all its ancestors or to none. A child's
//! grants come from its parent's through [`narrow`] alone. Time never runs backwards here: an earlier `now` than
//! one already seen is read as the later one, so that a clock step gains nobody anything.

mod admit;
mod decide;
mod index;
pub mod narrow;
mod purse;
mod table;
mod words;

use std::collections::HashMap;

use crate::effect::{Authorized, AuthorizedParts, Charge, Denied, Effect, RefundQueue};
use crate::grant::GrantRecord;
use crate::id::{AgentId, CallId, GrantId};
use crate::limits::{MAX_AGENTS, MAX_CHILDREN_AT_ONCE, MAX_SPAWN_DEPTH};
use crate::name::AgentName;
use crate::quantity::{Timestamp, Tokens};
use crate::tool::{CATALOGUE, ResourceKind, ToolDescriptor};

use index::HeldIndex;
use purse::Purse;
use table::{GrantIx, GrantTable};

pub use purse::{PurseView, tokens_spent};

/// How many agents there may be, and in what shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuthorityLimits {
    /// Most agents alive at once.
    pub max_agents: usize,
    /// Deepest agent; a goal's root agent has depth 0.
    pub max_depth: u32,
    /// Most children of one agent alive at once.
    pub max_children: usize,
}

impl Default for AuthorityLimits {
    fn default() -> Self {
        Self { max_agents: MAX_AGENTS, max_depth: MAX_SPAWN_DEPTH, max_children: MAX_CHILDREN_AT_ONCE }
    }
}

/// Why nothing was authorised. Nothing was charged either.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// A capability is missing or cannot be used now.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The purse cannot cover it, whatever is given back.
    #[error("{wanted} tokens wanted, {remaining} remain in the purse")]
    Budget {
        /// What was wanted.
        wanted: Tokens,
        /// What can be had at most.
        remaining: Tokens,
    },
    /// Only reservations of inferences in flight stand in the way.
    #[error("{wanted} tokens wanted; they are free once running inferences are settled")]
    Waits {
        /// What was wanted.
        wanted: Tokens,
    },
    /// A limit of the runtime, in words.
    #[error("{0}")]
    Limit(String),
    /// No such agent is alive.
    #[error("no agent {0} is alive")]
    UnknownAgent(AgentId),
}

/// An agent that is to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Its fresh id.
    pub agent: AgentId,
    /// Its name.
    pub name: AgentName,
    /// The most tokens it and its descendants may use; a ceiling, nothing moves.
    pub max_tokens: Option<Tokens>,
}

/// A parent's grant that covers a capability of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegable {
    /// The parent's grant.
    pub grant: GrantId,
    /// For files: the child's root below the parent's root, without leading slash; empty for the same root.
    pub relative: Option<String>,
}

/// What came of settling an effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settlement {
    /// What was reserved and what was used, where more was used than reserved.
    pub overdraft: Option<(Tokens, Tokens)>,
}

/// One agent in the table. A stopped one stays only while charges of its own or of a descendant are open, so that
/// a refund still reaches its ancestors.
#[derive(Debug)]
struct AgentNode {
    name: AgentName,
    parent: Option<AgentId>,
    depth: u32,
    purse: Purse,
    grants: Vec<GrantIx>,
    index: HeldIndex,
    /// Alive children.
    children: Vec<AgentId>,
    /// Children in the table, stopped ones included.
    kept_children: usize,
    /// Charges neither settled nor refunded.
    open_charges: usize,
    stopped: bool,
}

/// The grant table, the purses and the agent tree, with the decision over them.
#[derive(Debug)]
pub struct Authority {
    limits: AuthorityLimits,
    agents: HashMap<AgentId, AgentNode>,
    alive: usize,
    grants: GrantTable,
    refunds: RefundQueue,
    latest: Timestamp,
}

impl Authority {
    /// An authority without agents.
    #[must_use]
    pub fn new(limits: AuthorityLimits) -> Self {
        Self {
            limits,
            agents: HashMap::new(),
            alive: 0,
            grants: GrantTable::default(),
            refunds: RefundQueue::default(),
            latest: Timestamp::ZERO,
        }
    }

    /// Decides about one effect and charges it, or does neither.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing is charged.
    pub fn authorize<E: Effect>(
        &mut self,
        agent: AgentId,
        call: CallId,
        effect: E,
        now: Timestamp,
    ) -> Result<Authorized<E>, Refusal> {
        let now = self.begin(now);
        self.alive(agent)?;
        let met = self.meet(agent, &effect.needs(), now)?;
        let parts =
            AuthorizedParts { call, agent, effect, all: met.all, each: met.each, charges: met.charges };
        Ok(Authorized::mint(parts, self.refunds.clone()))
    }

    /// Settles a finished effect: its uses stay spent, its token reservation becomes `used`.
    /// More than was reserved is charged up to the root all the same, and reported.
    pub fn settle(&mut self, charges: &[Charge], used: Tokens) -> Settlement {
        self.take_back_dropped();
        let reserved = charges.iter().map(reserved_by).fold(Tokens::ZERO, Tokens::plus);
        let mut left = used;
        let mut last_purse = None;
        for charge in charges {
            if let Charge::Tokens { agent, reserved } = charge {
                let part = Tokens(left.0.min(reserved.0));
                left = left.minus(part);
                self.spend(*agent, *reserved, part);
                last_purse = Some(*agent);
            }
        }
        if let Some(agent) = last_purse {
            self.spend(agent, Tokens::ZERO, left);
        }
        for charge in charges {
            self.close(charge);
        }
        Settlement { overdraft: (last_purse.is_some() && left > Tokens::ZERO).then_some((reserved, used)) }
    }

    /// Gives back what an effect was charged that certainly never happened. A slot of a per-minute rate is not
    /// given back: it frees itself within the minute.
    pub fn refund(&mut self, charges: Vec<Charge>) {
        self.take_back_dropped();
        for charge in charges {
            self.give_back(&charge);
        }
    }

    /// Ends an agent and its descendants: their grants end, what they used stays counted in their ancestors,
    /// and the parent's child slot is free again. Unknown agents are ignored.
    pub fn remove(&mut self, agent: AgentId) {
        self.take_back_dropped();
        for one in self.subtree_leaves_first(agent) {
            self.stop(one);
        }
    }

    /// Ends a grant and everything derived from it. Gives every grant that ended; empty for an unknown one.
    pub fn revoke(&mut self, grant: GrantId) -> Vec<GrantId> {
        self.take_back_dropped();
        self.grants.revoke(grant)
    }

    /// The tools an agent may invoke now: the right to the tool, and a usable grant of each resource kind that
    /// the tool needs. A per-minute rate that is full at the moment does not hide a tool.
    #[must_use]
    pub fn tools_of(&self, agent: AgentId, now: Timestamp) -> Vec<&'static ToolDescriptor> {
        let now = self.latest.max(now);
        let Ok(node) = self.alive(agent) else {
            return Vec::new();
        };
        let lives = |held: &[GrantIx]| held.iter().any(|ix| self.grants.lives(*ix, now));
        let index = &node.index;
        let reach = |kind: &ResourceKind| match kind {
            ResourceKind::FileRead => lives(index.read.all()),
            ResourceKind::FileWrite => lives(index.write.all()),
            ResourceKind::Network => lives(&index.network) || lives(&index.web),
            ResourceKind::SpawnChild => lives(&index.spawn),
        };
        let resources = RESOURCE_KINDS.map(|kind| reach(&kind));
        let has = |kind: &ResourceKind| {
            RESOURCE_KINDS.iter().position(|one| one == kind).is_some_and(|at| resources[at])
        };
        let may = |tool: &&ToolDescriptor| lives(index.tool(tool.name)) || lives(&index.any_tool);
        CATALOGUE.iter().filter(may).filter(|tool| tool.resources.iter().all(has)).collect()
    }

    /// An agent's purse.
    #[must_use]
    pub fn purse(&self, agent: AgentId) -> Option<PurseView> {
        let node = self.alive(agent).ok()?;
        Some(node.purse.view(self.remaining(agent)))
    }

    /// The grants an agent holds, in the order they were issued.
    #[must_use]
    pub fn grants_of(&self, agent: AgentId) -> Vec<GrantRecord> {
        let Ok(node) = self.alive(agent) else {
            return Vec::new();
        };
        node.grants
            .iter()
            .filter(|ix| !self.grants.is_revoked(**ix))
            .map(|ix| self.grants.record(*ix).clone())
            .collect()
    }

    /// Agents alive.
    #[must_use]
    pub fn agent_count(&self) -> usize {
        self.alive
    }

    /// An agent's children alive, oldest first.
    #[must_use]
    pub fn children_of(&self, agent: AgentId) -> Vec<AgentId> {
        self.alive(agent).map(|node| node.children.clone()).unwrap_or_default()
    }

    /// An agent's name.
    #[must_use]
    pub fn name_of(&self, agent: AgentId) -> Option<&AgentName> {
        self.alive(agent).ok().map(|node| &node.name)
    }

    /// How deep an agent stands; a root agent at 0.
    #[must_use]
    pub fn depth_of(&self, agent: AgentId) -> Option<u32> {
        self.alive(agent).ok().map(|node| node.depth)
    }

    /// Starts an operation: time moves on, dropped authorisations are taken back.
    fn begin(&mut self, now: Timestamp) -> Timestamp {
        self.latest = self.latest.max(now);
        self.take_back_dropped();
        self.latest
    }

    fn take_back_dropped(&mut self) {
        for charge in self.refunds.take() {
            self.give_back(&charge);
        }
    }

    fn give_back(&mut self, charge: &Charge) {
        match charge {
            Charge::Use { grant } => {
                if let Some((ix, _)) = self.grants.find(*grant) {
                    self.grants.uncharge(ix);
                }
            }
            Charge::Tokens { agent, reserved } => self.spend(*agent, *reserved, Tokens::ZERO),
        }
        self.close(charge);
    }

    fn alive(&self, agent: AgentId) -> Result<&AgentNode, Refusal> {
        self.agents.get(&agent).filter(|node| !node.stopped).ok_or(Refusal::UnknownAgent(agent))
    }

    /// An agent that an invariant says is in the table.
    fn node(&self, agent: AgentId) -> &AgentNode {
        self.agents.get(&agent).unwrap_or_else(|| unreachable!("{agent:?} is in the table"))
    }

    fn node_mut(&mut self, agent: AgentId) -> &mut AgentNode {
        self.agents.get_mut(&agent).unwrap_or_else(|| unreachable!("{agent:?} is in the table"))
    }

    fn open_charge(&mut self, agent: AgentId) {
        self.node_mut(agent).open_charges += 1;
    }

    fn close(&mut self, charge: &Charge) {
        let agent = match charge {
            Charge::Use { grant } => self.grants.holder(*grant),
            Charge::Tokens { agent, .. } => Some(*agent),
        };
        if let Some(agent) = agent {
            self.close_charge(agent);
        }
    }

    fn close_charge(&mut self, agent: AgentId) {
        let Some(node) = self.agents.get_mut(&agent) else {
            return;
        };
        debug_assert!(node.open_charges > 0, "a charge is closed once");
        node.open_charges = node.open_charges.saturating_sub(1);
        self.forget_if_done(agent);
    }

    fn subtree_leaves_first(&self, agent: AgentId) -> Vec<AgentId> {
        let mut order = Vec::new();
        let mut open = vec![agent];
        while let Some(next) = open.pop() {
            if let Ok(node) = self.alive(next) {
                order.push(next);
                open.extend(&node.children);
            }
        }
        order.reverse();
        order
    }

    fn stop(&mut self, agent: AgentId) {
        let Some(node) = self.agents.get_mut(&agent).filter(|node| !node.stopped) else {
            return;
        };
        assert!(node.children.is_empty(), "children stop before their parent");
        node.stopped = true;
        self.alive -= 1;
        if let Some(parent) = node.parent {
            self.node_mut(parent).children.retain(|child| *child != agent);
        }
        self.forget_if_done(agent);
    }

    /// Drops a stopped agent that no open charge and no kept child needs, and its ancestors likewise.
    fn forget_if_done(&mut self, agent: AgentId) {
        let mut next = Some(agent);
        while let Some(agent) = next {
            let node = self.node(agent);
            if !node.stopped || node.open_charges > 0 || node.kept_children > 0 {
                return;
            }
            let Some(node) = self.agents.remove(&agent) else {
                return;
            };
            for ix in node.grants {
                self.grants.remove(ix);
            }
            if let Some(parent) = node.parent {
                self.node_mut(parent).kept_children -= 1;
            }
            next = node.parent;
        }
    }
}

const RESOURCE_KINDS: [ResourceKind; 4] =
    [ResourceKind::FileRead, ResourceKind::FileWrite, ResourceKind::Network, ResourceKind::SpawnChild];

fn reserved_by(charge: &Charge) -> Tokens {
    match charge {
        Charge::Use { .. } => Tokens::ZERO,
        Charge::Tokens { reserved, .. } => *reserved,
    }
}
