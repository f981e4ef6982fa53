//! Admission of agents into the tree, and the table's rebuilding from the journal's fold.

use std::collections::BTreeSet;

use crate::budget::Purse;
use crate::capability::Capability;
use crate::effect::Denied;
use crate::grant::{GrantRecord, GrantRequest};
use crate::id::{AgentId, ApprovalId, GrantId};
use crate::quantity::{Quantity, Timestamp};
use crate::state::{AgentRecord, PendingCall, State};

use super::approve::Approved;
use super::index::HeldIndex;
use super::narrow::{self, Held};
use super::table::{Counters, GrantIx, Unusable};
use super::{Admission, AgentNode, Authority, AuthorityLimits, Delegable, Refusal, words};

impl Authority {
    /// Admits an agent with the operator's own grants: a goal's root agent, or one spawned over RPC.
    ///
    /// # Errors
    /// [`Refusal::Limit`] when there are too many agents.
    ///
    /// # Panics
    /// When the agent's id or a grant's id is not fresh, which is a bug of the caller.
    pub fn admit_root(
        &mut self,
        admission: Admission,
        grants: Vec<GrantRequest>,
        now: Timestamp,
    ) -> Result<Vec<GrantRecord>, Refusal> {
        let now = self.begin(now);
        self.check_room()?;
        let agent = admission.agent;
        let issue = |request: GrantRequest| GrantRecord {
            id: request.id,
            agent,
            parent: None,
            capability: request.capability,
            spelled: request.spelled,
            constraints: request.constraints,
            issued_at: now,
            root: request.root,
            special: request.special,
        };
        let records: Vec<_> = grants.into_iter().map(issue).collect();
        self.enter(admission, None, 0, now);
        self.hold(&records);
        Ok(records)
    }

    /// Admits a child. Each grant names the parent's grant it derives from and goes through [`narrow`].
    ///
    /// # Errors
    /// [`Refusal`] when a limit stands in the way or a grant is not the parent's to give; then nothing changed.
    ///
    /// # Panics
    /// When the agent's id or a grant's id is not fresh, which is a bug of the caller.
    pub fn admit_child(
        &mut self,
        parent: AgentId,
        admission: Admission,
        grants: Vec<(GrantId, GrantRequest)>,
        now: Timestamp,
    ) -> Result<Vec<GrantRecord>, Refusal> {
        let now = self.begin(now);
        let (depth, children) = self.alive(parent).map(|node| (node.depth + 1, node.children.len()))?;
        let (most_deep, most_children) = (self.limits.max_depth, self.limits.max_children);
        if depth > most_deep {
            return Err(Refusal::Limit(format!("spawn depth {most_deep} is reached; do this work yourself")));
        }
        if children >= most_children {
            let words = format!("{most_children} children are alive already; wait until one has finished");
            return Err(Refusal::Limit(words));
        }
        self.check_room()?;
        let mut records = Vec::with_capacity(grants.len());
        for (from, request) in grants {
            records.push(self.narrowed(parent, admission.agent, from, request, now)?);
        }
        self.enter(admission, Some(parent), depth, now);
        self.hold(&records);
        Ok(records)
    }

    /// The grant of `parent` from which a child's capability can be derived; of several, the most specific.
    /// File patterns are compared as spelled.
    ///
    /// # Errors
    /// [`Refusal::Denied`] when no single grant covers it, or the one that does may not be handed on now.
    pub fn delegable(
        &self,
        parent: AgentId,
        capability: &Capability,
        now: Timestamp,
    ) -> Result<Delegable, Refusal> {
        let now = self.latest.max(now);
        let node = self.alive(parent)?;
        let mut found: Option<(usize, Delegable)> = None;
        let mut problem: Option<Denied> = None;
        for ix in &node.grants {
            let record = self.grants.record(*ix);
            let Some((specificity, relative)) = covering(record, capability) else {
                continue;
            };
            let held_back = !record.constraints.delegate;
            let standing = self.standing(*ix, now);
            if held_back || standing.is_err() {
                problem = Some(words::not_delegable(capability, standing.err(), held_back));
            } else if found.as_ref().is_none_or(|(best, _)| specificity > *best) {
                found = Some((specificity, Delegable { grant: record.id, relative }));
            }
        }
        let none = || problem.unwrap_or_else(|| words::not_delegable(capability, None, false));
        found.map(|(_, delegable)| delegable).ok_or_else(|| Refusal::Denied(none()))
    }

    /// Rebuilds the table from the journal's fold. Agents that stopped are left out, and so is an agent whose parent
    /// stopped before it. What an unfinished call was charged stays spent, and so does
    /// the time of a run that was cut short.
    #[must_use]
    pub fn restore(limits: AuthorityLimits, state: &State) -> Self {
        let mut authority = Self::new(limits);
        authority.latest = state.latest;
        let mut alive: Vec<&AgentRecord> = state.agents.values().filter(|one| one.is_alive()).collect();
        alive.sort_by_key(|one| (one.depth, one.id));
        for one in alive {
            if one.parent.is_some_and(|parent| !authority.agents.contains(parent)) {
                continue;
            }
            let admission = Admission::of(one.id, &one.manifest, *one.purse.budget());
            authority.enter(admission, one.parent, one.depth, one.spawned_at);
            let node = authority.node_mut(one.id);
            node.purse = one.purse;
            node.purse.spend_reserved(state.latest);
            let lasted = one.unclocked(state.latest).0;
            node.purse.settle(Quantity::WallMillis, 0, lasted, state.latest);
            for id in &one.grants {
                authority.restore_grant(state, *id);
            }
        }
        // One without uses is its last call's until that is settled.
        let in_use: BTreeSet<ApprovalId> = state.pending.values().flat_map(PendingCall::approvals).collect();
        for approval in state.approved.values().filter(|one| one.uses > 0 || in_use.contains(&one.id)) {
            if let Some(holder) = authority.agents.get_mut(approval.holder) {
                holder.approvals.push(Approved::new(approval.clone()));
                authority.approvals.insert(approval.id, approval.holder);
            }
        }
        authority
    }

    fn restore_grant(&mut self, state: &State, id: GrantId) {
        let Some(grant) = state.grants.get(&id) else {
            return;
        };
        if grant.record.parent.is_some_and(|parent| !self.grants.contains(parent)) {
            return;
        }
        let counters = Counters { uses: grant.uses, recent: grant.recent.clone(), revoked: grant.revoked };
        self.hold_one(grant.record.clone(), counters);
    }

    fn check_room(&self) -> Result<(), Refusal> {
        let most = self.limits.max_agents;
        if self.alive < most {
            return Ok(());
        }
        Err(Refusal::Limit(format!("{most} agents are alive already; stop one or raise AAOS_MAX_AGENTS")))
    }

    fn narrowed(
        &self,
        parent: AgentId,
        child: AgentId,
        from: GrantId,
        request: GrantRequest,
        now: Timestamp,
    ) -> Result<GrantRecord, Refusal> {
        let not_held = |request: &GrantRequest| words::not_delegable(&request.capability, None, false);
        let Some((ix, _)) = self.grants.find(from).filter(|(_, holder)| *holder == parent) else {
            return Err(not_held(&request).into());
        };
        if let Err(unusable) = self.standing(ix, now) {
            return Err(words::not_delegable(&request.capability, Some(unusable), false).into());
        }
        let held = Held {
            record: self.grants.record(ix),
            uses_left: self.grants.uses_left(ix),
            rate: self.grants.rate(ix),
            expires_at: self.grants.expires_at(ix),
        };
        Ok(narrow::narrow(held, child, request, now)?)
    }

    fn standing(&self, ix: GrantIx, now: Timestamp) -> Result<(), Unusable> {
        self.grants.standing(ix, now)
    }

    fn enter(&mut self, admission: Admission, parent: Option<AgentId>, depth: u32, born: Timestamp) {
        let parent = parent.map(|parent| {
            self.agents.find(parent).unwrap_or_else(|| unreachable!("{parent:?} is in the table"))
        });
        let node = AgentNode {
            id: admission.agent,
            name: admission.name,
            parent,
            depth,
            purse: Purse::new(admission.budget, born),
            grants: Vec::new(),
            index: HeldIndex::default(),
            approval_required: admission.approval_required,
            asking: Vec::new(),
            asks_on_path: parent.is_some_and(|parent| self.agents.at(parent).asks_on_path),
            approvals: Vec::new(),
            stable_identity: admission.stable_identity,
            clock: None,
            children: Vec::new(),
            kept_children: 0,
            open_charges: 0,
            stopped: false,
        };
        self.agents.insert(node);
        self.alive += 1;
        if let Some(parent) = parent {
            let parent = self.agents.at_mut(parent);
            parent.children.push(admission.agent);
            parent.kept_children += 1;
        }
    }

    fn hold(&mut self, records: &[GrantRecord]) {
        for record in records {
            self.hold_one(record.clone(), Counters::default());
        }
    }

    fn hold_one(&mut self, record: GrantRecord, counters: Counters) {
        let agent = record.agent;
        let ix = self.grants.insert(record, counters);
        let node = self.agents.get_mut(agent).unwrap_or_else(|| unreachable!("{agent:?} was entered"));
        node.grants.push(ix);
        if self.grants.record(ix).constraints.approval_required {
            node.asking.push(ix);
        }
        node.asks_on_path |= self.grants.asks(ix);
        node.index.add(self.grants.record(ix), ix);
    }
}

/// How specifically `record` covers `wanted` as spelled, and for files what lies below its root.
fn covering(record: &GrantRecord, wanted: &Capability) -> Option<(usize, Option<String>)> {
    let by_resolved = narrow::covers(&record.capability, wanted);
    let Some(pattern) = wanted.file_pattern() else {
        return by_resolved.then_some((0, None));
    };
    let own = record.capability.file_pattern()?;
    let same_kind = std::mem::discriminant(&record.capability) == std::mem::discriminant(wanted);
    let spelled = record.spelled.as_ref().filter(|spelled| same_kind && spelled.covers(pattern));
    let through = if by_resolved { own } else { spelled? };
    let relative = pattern.root().below(through.root())?;
    Some((through.root().as_str().len(), Some(relative.to_owned())))
}
