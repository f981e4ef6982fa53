//! Approvals: when a person has to be asked, and which answers cover an effect.
//!
//! Invariants: nothing is charged while a question is open; an answer is used up by the decision that it lets pass,
//! in the same step; it covers no agent outside its holder's subtree and no grant outside those it names.

use crate::approval::{ApprovalGrant, ApprovalScope, AskedBecause, Question};
use crate::effect::{Access, Charge, Denied, Effect, Need, Subject};
use crate::grant::GrantRecord;
use crate::id::{AgentId, ApprovalId, CallId, GrantId};
use crate::limits::MAX_APPROVALS_PER_AGENT;
use crate::path::{AbsPath, PathPattern};

use super::decide::Met;
use super::narrow::{covers_need, is_of_right};
use super::{AgentIx, Authority, Refusal};

/// An approval in force.
#[derive(Debug)]
pub(super) struct Approved {
    grant: ApprovalGrant,
    /// Effects that used it and are not settled: one that is refunded gives its use back.
    open: u32,
}

impl Approved {
    pub(super) const fn new(grant: ApprovalGrant) -> Self {
        Self { grant, open: 0 }
    }
}

impl Authority {
    /// Puts an approval in force. It ends when it is used up or its holder stops.
    ///
    /// # Errors
    /// [`Refusal`] when its holder is not alive, or holds too many already.
    ///
    /// # Panics
    /// When its id is in force already, which is a bug of the caller.
    pub fn approve(&mut self, approval: ApprovalGrant) -> Result<(), Refusal> {
        self.take_back_dropped();
        let holder = approval.holder;
        let in_force = self.alive(holder)?.approvals.len();
        if in_force >= MAX_APPROVALS_PER_AGENT {
            let words = format!("{MAX_APPROVALS_PER_AGENT} approvals are in force for one agent already");
            return Err(Refusal::Limit(words));
        }
        let before = self.approvals.insert(approval.id, holder);
        assert!(before.is_none(), "approval ids are fresh");
        self.node_mut(holder).approvals.push(Approved::new(approval));
        Ok(())
    }

    /// Approvals in force that an agent holds itself, with the uses that are left.
    #[must_use]
    pub fn approvals_of(&self, agent: AgentId) -> Vec<ApprovalGrant> {
        let held = |node: &super::AgentNode| node.approvals.iter().map(|one| one.grant.clone()).collect();
        self.alive(agent).map(held).unwrap_or_default()
    }

    /// An approval that is in force or was used up by an effect that is not settled.
    #[must_use]
    pub fn approval(&self, id: ApprovalId) -> Option<&ApprovalGrant> {
        let node = self.agents.get(*self.approvals.get(&id)?)?;
        node.approvals.iter().map(|one| &one.grant).find(|one| one.id == id)
    }

    /// Ends an approval. Effects that used it go on.
    pub fn withdraw(&mut self, id: ApprovalId) {
        self.take_back_dropped();
        if let Some(node) = self.approvals.remove(&id).and_then(|holder| self.agents.get_mut(holder)) {
            node.approvals.retain(|one| one.grant.id != id);
        }
    }

    /// The grant that nothing was above when a grant was derived: itself for an operator's own.
    #[must_use]
    pub fn origin_of(&self, grant: GrantId) -> Option<GrantId> {
        self.grants.ancestors(grant).last()
    }

    /// The oldest ancestor of an agent; itself for a root agent.
    #[must_use]
    pub fn root_of(&self, agent: AgentId) -> Option<AgentId> {
        let at = self.find_alive(agent).ok()?;
        self.agents.path(at).last().map(|node| node.id)
    }

    /// Charges an approval where one is needed.
    pub(super) fn pass_approval<E: Effect>(
        &mut self,
        met: &mut Met,
        at: AgentIx,
        call: CallId,
        effect: &E,
    ) -> Result<(), Refusal> {
        if self.agents.at(at).asks_on_path {
            self.keep_to_places(at, met);
        }
        let Some(because) = self.asked_because(at, effect.label(), met) else {
            return Ok(());
        };
        let Some(Subject { digest, input }) = effect.subject() else {
            let reason =
                format!("{} would need a person's approval and cannot be shown to one", effect.label());
            let hint = "use a grant that asks for no approval".to_owned();
            return Err(Denied { missing: "an approval".to_owned(), reason, hint }.into());
        };
        if let Some(approval) = self.take_approval(at, effect.label(), &digest, met) {
            met.charges.push(Charge::Approval { approval });
            return Ok(());
        }
        let grants = met.accesses().map(|access| access.grant).collect();
        let needs = met.accesses().map(|access| access.need.clone()).collect();
        Err(Refusal::Approval(Box::new(Question {
            id: ApprovalId::from_uuid(*call.as_uuid()),
            agent: self.agents.at(at).id,
            call,
            effect: effect.label().to_owned(),
            digest,
            because,
            needs,
            grants,
            input,
            targets: Vec::new(),
        })))
    }

    fn asked_because(&self, at: AgentIx, label: &str, met: &Met) -> Option<AskedBecause> {
        let node = self.agents.at(at);
        if node.approval_required.iter().any(|tool| tool.as_str() == label) {
            return Some(AskedBecause::Tool);
        }
        if !node.asks_on_path {
            return None;
        }
        met.accesses().find_map(|access| self.asking_grant(at, access)).map(AskedBecause::Grant)
    }

    /// The grant because of which a person is asked: the one that is used, or one of the agent or an ancestor that
    /// covers the same need, or anything below it. A wider grant is no way round a narrower one that asks.
    fn asking_grant(&self, at: AgentIx, access: &Access) -> Option<GrantId> {
        let (used, _) = self.grants.find(access.grant)?;
        if self.grants.asks(used) {
            return Some(access.grant);
        }
        let used = self.grants.record(used);
        self.asking(at).find(|asking| may_reach(asking, used, access)).map(|asking| asking.id)
    }

    /// Grants of an agent and its ancestors that say themselves that a person is asked.
    pub(super) fn asking(&self, at: AgentIx) -> impl Iterator<Item = &GrantRecord> {
        self.agents.path(at).flat_map(|node| &node.asking).map(|ix| self.grants.record(*ix))
    }

    /// Where some files are only to be had after a question, a link below another grant must not lead to them.
    fn keep_to_places(&self, at: AgentIx, met: &mut Met) {
        for access in met.accesses_mut() {
            let Need::File { right, .. } = access.need else {
                continue;
            };
            let asks = self.grants.find(access.grant).is_some_and(|(ix, _)| self.grants.asks(ix));
            if !asks && self.asking(at).any(|one| is_of_right(&one.capability, right)) {
                access.no_links = true;
            }
        }
    }

    /// Uses up one use of an approval that covers the effect, if there is one; one of this very effect first.
    fn take_approval(&mut self, at: AgentIx, label: &str, digest: &str, met: &mut Met) -> Option<ApprovalId> {
        let agent = self.agents.at(at).id;
        let held = self.agents.path(at).flat_map(|node| &node.approvals).map(|one| &one.grant);
        let covering = held.filter(|one| one.uses > 0 && self.covers_effect(one, agent, label, digest, met));
        let chosen = covering.min_by_key(|one| !matches!(one.scope, ApprovalScope::Exactly { .. }))?;
        let (id, holder) = (chosen.id, chosen.holder);
        if let ApprovalScope::Tool { below: Some(_), .. } = chosen.scope {
            met.forbid_links();
        }
        let one = self.approved_mut(holder, id)?;
        one.grant.uses -= 1;
        one.open += 1;
        Some(id)
    }

    fn covers_effect(
        &self,
        approval: &ApprovalGrant,
        agent: AgentId,
        label: &str,
        digest: &str,
        met: &Met,
    ) -> bool {
        match &approval.scope {
            ApprovalScope::Exactly { digest: approved, .. } => approval.holder == agent && approved == digest,
            ApprovalScope::Tool { effect, grants, below } => {
                effect == label
                    && met.accesses().all(|access| self.derives_from_one(access.grant, grants))
                    && below.as_ref().is_none_or(|below| {
                        ApprovalScope::all_lie(met.accesses().map(|one| &one.need), below)
                    })
            }
        }
    }

    fn approved_mut(&mut self, holder: AgentId, id: ApprovalId) -> Option<&mut Approved> {
        self.agents.get_mut(holder)?.approvals.iter_mut().find(|one| one.grant.id == id)
    }

    fn derives_from_one(&self, grant: GrantId, among: &[GrantId]) -> bool {
        self.grants.ancestors(grant).any(|one| among.contains(&one))
    }

    /// An effect that used an approval before a restart goes on.
    pub(super) fn open_approval(&mut self, approval: ApprovalId) {
        let holder = self.approvals.get(&approval).copied();
        if let Some(one) = holder.and_then(|holder| self.approved_mut(holder, approval)) {
            one.open += 1;
        }
    }

    /// Takes back the use of an effect that never happened.
    pub(super) fn give_back_approval(&mut self, approval: ApprovalId) {
        let holder = self.approvals.get(&approval).copied();
        if let Some(one) = holder.and_then(|holder| self.approved_mut(holder, approval)) {
            one.grant.uses = one.grant.uses.saturating_add(1);
        }
        self.close_approval(approval);
    }

    /// An effect that used an approval is over. One that is used up is forgotten then.
    pub(super) fn close_approval(&mut self, approval: ApprovalId) {
        let Some(holder) = self.approvals.get(&approval).copied() else {
            return;
        };
        let Some(one) = self.approved_mut(holder, approval) else {
            return;
        };
        one.open = one.open.saturating_sub(1);
        if one.open == 0 && one.grant.uses == 0 {
            self.node_mut(holder).approvals.retain(|one| one.grant.id != approval);
            self.approvals.remove(&approval);
        }
    }

    /// Forgets what was approved for an agent that stops.
    pub(super) fn drop_approvals(&mut self, agent: AgentId) {
        for one in std::mem::take(&mut self.node_mut(agent).approvals) {
            self.approvals.remove(&one.grant.id);
        }
    }
}

/// Whether what is accessed through another grant may be what an asking grant covers, however it is spelled. `..` may
/// lead anywhere; a directory is walked with all that lies below it.
fn may_reach(asking: &GrantRecord, used: &GrantRecord, access: &Access) -> bool {
    let Need::File { right, path } = &access.need else {
        return covers_need(asking, &access.need);
    };
    if !is_of_right(&asking.capability, *right) {
        return false;
    }
    if path.has_parent_component() {
        return true;
    }
    let place = used.capability.file_pattern().map(|pattern| {
        let below = access.relative.as_deref().unwrap_or_default();
        AbsPath::parse(&format!("{}/{below}", pattern.root()))
    });
    let Some(Ok(place)) = place else {
        return true;
    };
    let patterns = asking.capability.file_pattern().into_iter().chain(&asking.spelled);
    let meets = |pattern: &PathPattern, path: &AbsPath| {
        pattern.matches(path).is_some() || pattern.root().below(path).is_some()
    };
    patterns.into_iter().any(|pattern| meets(pattern, path) || meets(pattern, &place))
}
