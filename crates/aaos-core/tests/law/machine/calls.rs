//! Calls: decided, charged, settled, given back.

use aaos_core::approval::Question;
use aaos_core::authority::Refusal;
use aaos_core::effect::{Access, Authorized, Charge, Effect, Needs};
use aaos_core::event::{DeniedBy, Event};
use aaos_core::quantity::{Quantity, Timestamp};

use crate::model::{Approval, Call, Sums, Want};
use crate::steps::need_of;
use crate::support::{call, fresh_call};

use super::{Deed, Held, Machine, amounts};

impl Machine {
    pub(super) fn call(&mut self, who: usize, wants: &[Want], wanted: &Sums, journalled: bool) {
        let (now, id) = (self.now(), call(self.fresh()));
        let label = match wants.first() {
            Some(Want::Tool(tool)) => tool,
            _ => "file_write",
        };
        let needs =
            Needs { all: wants.iter().map(need_of).collect(), each: Vec::new(), amounts: amounts(wanted) };
        let deed = Deed { label, wants: wants.to_vec(), needs };
        match self.law.authorize(self.id(who), id, deed, now) {
            Ok(granted) => {
                self.granted(who, wanted, &granted, journalled);
                let held = if journalled {
                    let parts = granted.into_parts();
                    self.model.journal(id);
                    self.write(Some(self.id(who)), Deed::intent(&parts));
                    Held::Taken(parts)
                } else {
                    Held::Live(granted)
                };
                self.held.push(held);
            }
            Err(refusal) => self.refused(who, label, wants, wanted, refusal),
        }
    }

    /// Charges the model as the law says it charged; a bound that is passed panics there.
    fn granted(&mut self, who: usize, wanted: &Sums, granted: &Authorized<Deed>, journalled: bool) {
        assert!(self.model.agents[who].alive, "a stopped agent acts");
        let (parts, now) = (granted.parts(), self.model.latest);
        let mut through = Vec::new();
        for (want, Access { grant, .. }) in parts.effect.wants.iter().zip(&parts.all) {
            let at = self.model.find(*grant);
            assert_eq!(self.model.grants[at].holder, who, "another agent's grant");
            assert!(self.model.usable(at, now), "an unusable grant is used: {:?}", self.model.grants[at]);
            for one in self.model.chain(at) {
                assert!(one.cap.covers(*want), "{want:?} through {:?}", one.cap);
            }
            let stable = self.model.agents[who].stable || *want != Want::Tool("memory_store");
            assert!(stable, "memory is written without a stable identity");
            self.model.charge(parts.call, at);
            through.push((*want, at));
        }
        assert_eq!(through.len(), parts.effect.wants.len(), "every need is met");
        self.model.reserve(who, wanted);
        let label = parts.effect.label;
        let used = parts.charges.iter().find_map(|charge| match charge {
            Charge::Approval { approval } => Some(*approval),
            Charge::Use { .. } | Charge::Purse { .. } => None,
        });
        assert_eq!(used.is_some(), self.model.asks(who, label, &through), "asked or not");
        if let Some(id) = used {
            let digest = parts.effect.subject().expect("a subject").digest;
            let at = self.model.approvals.iter().position(|one| one.id == id).expect("in force");
            assert!(self.model.approves(&self.model.approvals[at], who, label, &digest, &through));
            self.model.approvals[at].uses -= 1;
            self.seen.note("approved call");
        }
        self.seen.note("call");
        self.model.open.push(Call {
            id: parts.call,
            agent: who,
            grants: through.into_iter().map(|(_, at)| at).collect(),
            reserved: *wanted,
            paid: Sums::default(),
            approval: used,
            journalled,
            cut: false,
            charged: parts.charges.iter().any(|charge| !matches!(charge, Charge::Approval { .. })),
        });
    }

    /// A refusal must have its reason in the model too, and charges nothing: what follows would tell.
    fn refused(&mut self, who: usize, label: &'static str, wants: &[Want], wanted: &Sums, why: Refusal) {
        let now = self.model.latest;
        let alive = self.model.agents[who].alive;
        assert_eq!(matches!(why, Refusal::UnknownAgent(_)), !alive, "{why:?}");
        let room = |quantity: Quantity, agent: usize| {
            let purse = &self.model.agents[agent].purse;
            purse.left(quantity, now).map(|left| (left, purse.reserved[quantity as usize]))
        };
        let path = || self.model.ancestors(who);
        let single = |want: &Want| wants.len() == 1 && self.model.may(who, *want, now);
        match &why {
            Refusal::UnknownAgent(_) => self.seen.note("unknown agent"),
            Refusal::Denied(denied) => {
                assert!(!wants.iter().any(single), "{denied:?}, but it may");
                self.seen.note("denied");
            }
            Refusal::Budget { quantity, wanted: asked, remaining } => {
                assert_eq!(wanted[*quantity as usize], *asked);
                let least = path().filter_map(|one| room(*quantity, one)).map(|(left, _)| left).min();
                assert!(least == Some(*remaining) && asked > remaining, "{why:?} with {least:?}");
                self.seen.note("budget");
            }
            Refusal::Waits { quantity, wanted: asked } => {
                assert_eq!(wanted[*quantity as usize], *asked);
                let fits = |(left, reserved): (u64, u64)| (*asked <= left, reserved + asked <= left);
                let rooms: Vec<_> = path().filter_map(|one| room(*quantity, one)).map(fits).collect();
                assert!(rooms.iter().all(|(ever, _)| *ever), "waits for ever: {why:?}");
                assert!(rooms.iter().any(|(_, now)| !now), "waits for nothing: {why:?}");
                self.seen.note("waits");
            }
            Refusal::Approval(question) => self.asked(who, label, wants, question),
            Refusal::Limit(words) => panic!("no limit is in a call: {words}"),
        }
        if let Refusal::Denied(denied) = why {
            let effect = label.to_owned();
            self.write(Some(self.id(who)), Event::CapabilityDenied { effect, denied, by: DeniedBy::Grants });
        } else {
            self.write(Some(self.id(who)), Event::AgentResumed {});
        }
    }

    fn asked(&mut self, who: usize, label: &'static str, wants: &[Want], question: &Question) {
        let grants = question.grants.iter().map(|id| self.model.find(*id));
        let through: Vec<_> = wants.iter().copied().zip(grants).collect();
        assert!(self.model.asks(who, label, &through), "a question without reason: {question:?}");
        let covers = |one: &Approval| self.model.approves(one, who, label, &question.digest, &through);
        assert!(!self.model.approvals.iter().any(covers), "asked although approved: {question:?}");
        self.seen.note("question");
        let deadline = Timestamp(u64::MAX);
        let event = Event::HumanApprovalRequested { question: Box::new(question.clone()), deadline };
        self.write(Some(self.id(who)), event);
        self.questions.push(question.clone());
    }

    fn take(&mut self, open: u8) -> Option<(Held, Call)> {
        if self.held.is_empty() {
            return None;
        }
        let at = usize::from(open) % self.held.len();
        Some((self.held.swap_remove(at), self.model.open.swap_remove(at)))
    }

    /// Settles with part of what was reserved, in tenths.
    pub(super) fn settle(&mut self, open: u8, part: u64) {
        let Some((held, mut open)) = self.take(open) else { return };
        let parts = match held {
            Held::Live(granted) => {
                let parts = granted.into_parts();
                self.model.journal(parts.call);
                self.write(Some(parts.agent), Deed::intent(&parts));
                parts
            }
            Held::Taken(parts) => parts,
        };
        open.journalled = true;
        let mut spent = open.reserved.map(|one| (one * part).div_ceil(10));
        for (spent, paid) in spent.iter_mut().zip(open.paid) {
            *spent = paid.max(*spent);
        }
        let now = self.now();
        let settlement = self.law.settle(parts.call, &parts.charges, &amounts(&spent), now);
        assert_eq!(settlement.cut, open.cut, "the cut is told once it is over");
        let over: Vec<_> =
            settlement.overdrafts.iter().map(|one| (one.quantity, one.reserved, one.used)).collect();
        let expected: Vec<_> = Quantity::ALL
            .into_iter()
            .map(|one| (one, open.reserved[one as usize], spent[one as usize]))
            .filter(|(_, reserved, used)| used > reserved)
            .collect();
        assert_eq!(over, expected);
        self.seen.note(if over.is_empty() { "settled" } else { "overdraft" });
        self.model.settle(&open, &spent);
        self.write(Some(parts.agent), Deed::result(&parts, &amounts(&spent)));
    }

    /// Gives a call back. One whose intent is in the journal stays spent for a restart.
    pub(super) fn refund(&mut self, open: u8, by_drop: bool) {
        let Some((held, open)) = self.take(open) else { return };
        match held {
            Held::Live(granted) if by_drop => drop(granted),
            Held::Live(granted) => {
                let parts = granted.into_parts();
                self.law.refund(parts.call, parts.charges);
            }
            Held::Taken(parts) => self.law.refund(parts.call, parts.charges),
        }
        // A dropped one is taken back by the next operation, whatever it is.
        self.law.refund(fresh_call(), Vec::new());
        self.seen.note("refunded");
        self.model.refund(&open);
        if open.journalled {
            self.model.lost.push(open);
        }
    }

    /// Uses half of a reservation before the effect ends.
    pub(super) fn pay_ahead(&mut self, at: u8) {
        if self.held.is_empty() {
            return;
        }
        let (now, at) = (self.now(), usize::from(at) % self.held.len());
        if !self.model.open[at].journalled {
            return;
        }
        let certain = self.model.open[at].reserved.map(|one| one / 2);
        let (who, id) = (self.id(self.model.open[at].agent), self.model.open[at].id);
        self.law.pay_ahead(who, id, &amounts(&certain), now);
        self.model.pay_ahead(at, &certain);
        self.seen.note("paid ahead");
    }
}
