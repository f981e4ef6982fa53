//! The only authority: it decides, charges and narrows.
//!
//! Invariants: a decision and its charge are one step. A use of a grant counts on the grant and on every
//! grant it derives from; a token reservation is added to an agent and all its ancestors or to none. A child's
//! grants come from its parent's through [`narrow`] alone. Time never runs backwards here: an earlier `now` than
//! one already seen is read as the later one, so that a clock step gains nobody anything.

mod admit;
mod agents;
mod approve;
mod decide;
mod explain;
mod ids;
mod index;
pub mod narrow;
mod purse;
mod revoke;
mod surroundings;
mod table;
mod words;

use crate::approval::Question;
use crate::budget::Budget;
use crate::effect::{Authorized, AuthorizedParts, Charge, Denied, Effect, RefundQueue};
use crate::grant::GrantRecord;
use crate::id::{AgentId, ApprovalId, CallId, GrantId};
use crate::limits::{MAX_AGENTS, MAX_CHILDREN_AT_ONCE, MAX_SPAWN_DEPTH};
use crate::manifest::Manifest;
use crate::name::{AgentName, ToolName};
use crate::quantity::{Amounts, Quantity, Timestamp};
use crate::tool::{CATALOGUE, ResourceKind, ToolDescriptor};

use agents::{AgentIx, AgentNode, AgentTable};
use ids::IdMap;
use revoke::{Closed, OpenCall};
use table::{GrantIx, GrantTable};

pub use explain::{Held, Reach};
pub use purse::PurseView;
pub use revoke::Revoked;

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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A capability is missing or cannot be used now.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The purse cannot cover it, whatever is given back.
    #[error("{} wanted, {} left ({})", .quantity.show(*.wanted), .quantity.show(*.remaining), .quantity.field())]
    Budget {
        /// Of what.
        quantity: Quantity,
        /// What was wanted.
        wanted: u64,
        /// What can be had at most.
        remaining: u64,
    },
    /// Only reservations of effects in flight stand in the way.
    #[error("{} wanted; they are free once what runs is settled", .quantity.show(*.wanted))]
    Waits {
        /// Of what.
        quantity: Quantity,
        /// What was wanted.
        wanted: u64,
    },
    /// A person has to approve it first.
    #[error("{} waits for approval {}", .0.effect, .0.id)]
    Approval(Box<Question>),
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
    /// The most that it and its descendants may use; ceilings, nothing moves.
    pub budget: Budget,
    /// Tools that it may use only after a person approved, its ancestors' included.
    pub approval_required: Vec<ToolName>,
    /// Whether its identity outlives a run, so that it may write memory.
    pub stable_identity: bool,
}

impl Admission {
    /// The admission of an agent that nobody is asked about and whose identity ends with it.
    #[must_use]
    pub const fn plain(agent: AgentId, name: AgentName, budget: Budget) -> Self {
        Self { agent, name, budget, approval_required: Vec::new(), stable_identity: false }
    }

    /// The admission of an agent with this manifest, narrowed already where it has a parent.
    #[must_use]
    pub fn of(agent: AgentId, manifest: &Manifest, budget: Budget) -> Self {
        Self {
            agent,
            name: manifest.name.clone(),
            budget,
            approval_required: manifest.approval_required.clone(),
            stable_identity: manifest.lifecycle.outlives_a_run(),
        }
    }
}

/// A parent's grant that covers a capability of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegable {
    /// The parent's grant.
    pub grant: GrantId,
    /// For files: the child's root below the parent's root, without leading slash; empty for the same root.
    pub relative: Option<String>,
}

/// More was used of a quantity than was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdraft {
    /// Of what.
    pub quantity: Quantity,
    /// Reserved.
    pub reserved: u64,
    /// Used.
    pub used: u64,
}

impl Overdraft {
    /// Of what an effect used more than it had reserved.
    #[must_use]
    pub fn of(charges: &[Charge], spent: &Amounts) -> Vec<Self> {
        let reserved = charges.iter().filter_map(|charge| match charge {
            Charge::Purse { reserved, .. } => Some(reserved),
            Charge::Use { .. } | Charge::Approval { .. } => None,
        });
        let over = reserved.flat_map(|reserved| {
            let each = spent.iter().map(|(quantity, used)| (quantity, reserved.get(quantity), used));
            each.filter(|(_, reserved, used)| used > reserved)
        });
        over.map(|(quantity, reserved, used)| Self { quantity, reserved, used }).collect()
    }
}

/// What came of settling an effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Where more was used than reserved.
    pub overdrafts: Vec<Overdraft>,
    /// Whether a grant that it used was revoked meanwhile: then its result is not delivered.
    pub cut: bool,
}

/// The grant table, the purses and the agent tree, with the decision over them.
#[derive(Debug)]
pub struct Authority {
    limits: AuthorityLimits,
    agents: AgentTable,
    alive: usize,
    grants: GrantTable,
    /// Effects authorised and not yet settled, refunded or dropped.
    calls: IdMap<CallId, OpenCall>,
    /// Who holds which approval.
    approvals: IdMap<ApprovalId, AgentId>,
    refunds: RefundQueue,
    latest: Timestamp,
}

impl Authority {
    /// An authority without agents.
    #[must_use]
    pub fn new(limits: AuthorityLimits) -> Self {
        Self {
            limits,
            agents: AgentTable::default(),
            alive: 0,
            grants: GrantTable::default(),
            calls: IdMap::default(),
            approvals: IdMap::default(),
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
        let at = self.find_alive(agent)?;
        let met = self.meet(at, call, &effect, now)?;
        let parts =
            AuthorizedParts { call, agent, effect, all: met.all, each: met.each, charges: met.charges };
        self.open_call(&parts);
        Ok(Authorized::mint(parts, self.refunds.clone()))
    }

    /// Settles a finished effect: its uses stay spent, its reservations become what it `spent`.
    /// More than was reserved is charged up to the root all the same, and reported.
    pub fn settle(
        &mut self,
        call: CallId,
        charges: &[Charge],
        spent: &Amounts,
        now: Timestamp,
    ) -> Settlement {
        let now = self.begin(now);
        let Closed { cut, paid } = self.close_call(call);
        for charge in charges {
            if let Charge::Purse { agent, reserved } = charge {
                self.spend(*agent, &reserved.minus(&paid), &spent.minus(&paid), now);
            }
        }
        for charge in charges {
            match charge {
                Charge::Approval { approval } => self.close_approval(*approval),
                Charge::Use { .. } | Charge::Purse { .. } => self.close(charge),
            }
        }
        Settlement { overdrafts: Overdraft::of(charges, spent), cut }
    }

    /// Gives back what an effect was charged that certainly never happened. A slot of a per-minute rate is not
    /// given back: it frees itself within the minute.
    pub fn refund(&mut self, call: CallId, charges: Vec<Charge>) {
        self.take_back_dropped();
        self.refund_one(call, charges);
    }

    /// Ends an agent and its descendants: their grants end, what they used stays counted in their ancestors,
    /// and the parent's child slot is free again. Unknown agents are ignored.
    pub fn remove(&mut self, agent: AgentId) {
        self.take_back_dropped();
        for one in self.subtree_leaves_first(agent) {
            self.stop(one);
        }
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
            ResourceKind::MessageSend => lives(&index.message),
            ResourceKind::Exec => lives(&index.exec),
            ResourceKind::Git | ResourceKind::Cargo | ResourceKind::Rustc => index
                .exec
                .iter()
                .any(|ix| kind.is_of(&self.grants.record(*ix).capability) && self.grants.lives(*ix, now)),
        };
        let resources = RESOURCE_KINDS.map(|kind| reach(&kind));
        let has = |kind: &ResourceKind| {
            RESOURCE_KINDS.iter().position(|one| one == kind).is_some_and(|at| resources[at])
        };
        let may = |tool: &&ToolDescriptor| {
            index.tool(tool.name).any(|ix| self.grants.lives(ix, now)) || lives(&index.any_tool)
        };
        CATALOGUE.iter().filter(may).filter(|tool| tool.resources.iter().all(has)).collect()
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
        for (call, charges) in self.refunds.take() {
            self.refund_one(call, charges);
        }
    }

    fn refund_one(&mut self, call: CallId, charges: Vec<Charge>) {
        let Closed { paid, .. } = self.close_call(call);
        for charge in charges {
            self.give_back(&charge, &paid);
        }
    }

    fn give_back(&mut self, charge: &Charge, paid: &Amounts) {
        match charge {
            Charge::Use { grant } => {
                if let Some((ix, _)) = self.grants.find(*grant) {
                    self.grants.uncharge(ix);
                }
            }
            Charge::Purse { agent, reserved } => {
                self.spend(*agent, &reserved.minus(paid), &Amounts::NONE, self.latest);
            }
            Charge::Approval { approval } => self.give_back_approval(*approval),
        }
        self.close(charge);
    }

    fn alive(&self, agent: AgentId) -> Result<&AgentNode, Refusal> {
        self.find_alive(agent).map(|at| self.agents.at(at))
    }

    fn find_alive(&self, agent: AgentId) -> Result<AgentIx, Refusal> {
        let found = self.agents.find(agent).filter(|at| !self.agents.at(*at).stopped);
        found.ok_or(Refusal::UnknownAgent(agent))
    }

    /// An agent that an invariant says is in the table.
    fn node_mut(&mut self, agent: AgentId) -> &mut AgentNode {
        self.agents.get_mut(agent).unwrap_or_else(|| unreachable!("{agent:?} is in the table"))
    }

    fn close(&mut self, charge: &Charge) {
        if let Some(agent) = self.charged(charge) {
            self.close_charge(agent);
        }
    }

    /// Whose open charge it is.
    fn charged(&self, charge: &Charge) -> Option<AgentId> {
        match charge {
            Charge::Use { grant } => self.grants.holder(*grant),
            Charge::Purse { agent, .. } => Some(*agent),
            Charge::Approval { .. } => None,
        }
    }

    fn close_charge(&mut self, agent: AgentId) {
        let Some(at) = self.agents.find(agent) else {
            return;
        };
        let node = self.agents.at_mut(at);
        debug_assert!(node.open_charges > 0, "a charge is closed once");
        node.open_charges = node.open_charges.saturating_sub(1);
        self.forget_if_done(at);
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
        let Ok(at) = self.find_alive(agent) else {
            return;
        };
        self.stop_clock(agent, self.latest);
        self.drop_approvals(agent);
        let node = self.agents.at_mut(at);
        assert!(node.children.is_empty(), "children stop before their parent");
        node.stopped = true;
        let parent = node.parent;
        self.alive -= 1;
        if let Some(parent) = parent {
            self.agents.at_mut(parent).children.retain(|child| *child != agent);
        }
        self.forget_if_done(at);
    }

    /// Drops a stopped agent that no open charge and no kept child needs, and its ancestors likewise.
    fn forget_if_done(&mut self, at: AgentIx) {
        let mut next = Some(at);
        while let Some(at) = next {
            let node = self.agents.at(at);
            if !node.stopped || node.open_charges > 0 || node.kept_children > 0 {
                return;
            }
            let Some(node) = self.agents.remove(at) else {
                return;
            };
            for ix in node.grants {
                self.grants.remove(ix);
            }
            if let Some(parent) = node.parent {
                self.agents.at_mut(parent).kept_children -= 1;
            }
            next = node.parent;
        }
    }
}

const RESOURCE_KINDS: [ResourceKind; 9] = [
    ResourceKind::FileRead,
    ResourceKind::FileWrite,
    ResourceKind::Network,
    ResourceKind::SpawnChild,
    ResourceKind::MessageSend,
    ResourceKind::Exec,
    ResourceKind::Git,
    ResourceKind::Cargo,
    ResourceKind::Rustc,
];
