//! Revocation: the whole derived subtree ends, and what runs under it is cut.
//!
//! Invariant: an effect is open from its authorisation until it is settled, refunded or dropped; the revocation of a
//! grant that it uses marks it, once and for all, so that neither a late result nor a late start goes unnoticed.

use crate::effect::{Access, AuthorizedParts, reserved_by};
use crate::id::{CallId, GrantId};
use crate::quantity::{Amounts, Timestamp};
use crate::state::PendingCall;

use super::Authority;

/// What a revocation ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// The grants, the revoked one first; empty where it was unknown or ended before.
    pub grants: Vec<GrantId>,
    /// Effects in flight that use one of them.
    pub calls: Vec<CallId>,
    /// The same, where an earlier revocation has cut them already: they too run until they are settled.
    pub cut_before: Vec<CallId>,
}

/// An effect that was authorised and is not settled.
#[derive(Debug)]
pub(super) struct OpenCall {
    grants: Vec<GrantId>,
    cut: bool,
    paid: Amounts,
}

/// How an effect stood when it was forgotten.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// Whether a grant that it uses was revoked.
    pub(super) cut: bool,
    /// What it had paid ahead.
    pub(super) paid: Amounts,
}

impl Authority {
    /// Ends a grant and everything derived from it.
    pub fn revoke(&mut self, grant: GrantId) -> Revoked {
        self.take_back_dropped();
        let mut grants = self.grants.revoke(grant);
        grants.sort_by_key(|one| *one != grant);
        let (mut calls, mut cut_before) = (Vec::new(), Vec::new());
        if !grants.is_empty() {
            for (id, call) in &mut self.calls {
                if call.grants.iter().any(|used| grants.contains(used)) {
                    let into =
                        if std::mem::replace(&mut call.cut, true) { &mut cut_before } else { &mut calls };
                    into.push(*id);
                }
            }
            calls.sort_unstable();
        }
        Revoked { grants, calls, cut_before }
    }

    /// Whether a grant that this open effect uses was revoked since it was authorised. An effect that was dropped
    /// before it began is not open.
    #[must_use]
    pub fn is_cut(&mut self, call: CallId) -> bool {
        self.take_back_dropped();
        self.calls.get(&call).is_some_and(|open| open.cut)
    }

    /// When a grant ends by itself, or the first of those that it derives from; never when absent.
    #[must_use]
    pub fn expiry(&self, grant: GrantId) -> Option<Timestamp> {
        let (ix, _) = self.grants.find(grant)?;
        self.grants.expires_at(ix)
    }

    pub(super) fn open_call<E>(&mut self, parts: &AuthorizedParts<E>) {
        let granted = parts.each.iter().filter_map(|one| one.as_ref().ok());
        let mut grants = Vec::with_capacity(parts.all.len() + parts.each.len());
        for access in parts.all.iter().chain(granted) {
            grants.push(access.grant);
            grants.extend(&access.through);
        }
        let before = self.calls.insert(parts.call, OpenCall { grants, cut: false, paid: Amounts::NONE });
        assert!(before.is_none(), "call ids are fresh");
    }

    /// Takes up a call again that began before a restart and goes on: it can be cut and is settled as any other. What
    /// it reserved is spent already, as [`Authority::restore`] has it.
    ///
    /// # Panics
    /// When the call is open already, which is a bug of the caller.
    pub fn reopen(&mut self, pending: &PendingCall, access: &[Access]) {
        let used = access.iter().flat_map(|access| std::iter::once(&access.grant).chain(&access.through));
        let grants: Vec<GrantId> = used.copied().collect();
        let ended =
            |grant: &GrantId| self.grants.find(*grant).is_none_or(|(ix, _)| self.grants.is_revoked(ix));
        let cut = grants.iter().any(ended);
        let paid = reserved_by(&pending.charges);
        let before = self.calls.insert(pending.call, OpenCall { grants, cut, paid });
        assert!(before.is_none(), "a call is taken up once");
        for approval in pending.approvals() {
            self.open_approval(approval);
        }
        for charge in &pending.charges {
            if let Some(at) = self.charged(charge).and_then(|agent| self.agents.find(agent)) {
                self.agents.at_mut(at).open_charges += 1;
            }
        }
    }

    /// Notes what an open effect of an agent uses before it ends; gives what it had not paid yet.
    pub(super) fn note_paid(&mut self, call: CallId, paid: &Amounts) -> Amounts {
        let Some(open) = self.calls.get_mut(&call) else { return Amounts::NONE };
        let more = paid.minus(&open.paid);
        open.paid = open.paid.plus(&more);
        more
    }

    /// Forgets an open effect.
    pub(super) fn close_call(&mut self, call: CallId) -> Closed {
        let open = self.calls.remove(&call);
        open.map(|open| Closed { cut: open.cut, paid: open.paid }).unwrap_or_default()
    }
}
