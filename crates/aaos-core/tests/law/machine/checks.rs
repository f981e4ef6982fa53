//! What must hold after each step, after the last one, and for whoever restarts from the journal.

use aaos_core::authority::{Authority, AuthorityLimits};
use aaos_core::effect::Needs;
use aaos_core::id::AgentId;
use aaos_core::quantity::{Quantity, Timestamp};

use crate::model::Model;
use crate::steps::{WANTS, need_of};
use crate::support::agent;

use super::{Machine, sums};

impl Machine {
    fn time(&self) -> u64 {
        self.model.latest.max(self.clock)
    }

    /// The law's purses, grants and approvals are the model's, and the model's keep every bound.
    pub(super) fn check(&mut self) {
        let now = self.time();
        for (at, one) in self.model.agents.iter().enumerate() {
            one.purse.check(now);
            let view = self.law.purse(self.id(at), Timestamp(now));
            assert_eq!(view.is_some(), one.alive);
            let Some(view) = view else { continue };
            assert_eq!(sums(&view.used), one.purse.used(now), "used by agent {at}");
            assert_eq!(sums(&view.reserved), one.purse.reserved, "reserved by agent {at}");
            let held = self.law.grants_of(self.id(at));
            let stands = |grant: &&usize| self.model.chain(**grant).all(|one| !one.revoked);
            let expected = one.grants.iter().filter(stands).map(|grant| self.model.grants[*grant].id);
            assert!(held.iter().map(|record| record.id).eq(expected), "grants of agent {at}");
            let approved: u32 = self.law.approvals_of(self.id(at)).iter().map(|one| one.uses).sum();
            let expected = self.model.approvals.iter().filter(|one| one.holder == at);
            assert_eq!(approved, expected.map(|one| one.uses).sum::<u32>(), "approved for agent {at}");
        }
        self.check_sums();
        let alive = |id: &AgentId| self.state.agents.get(id).is_some_and(|one| one.is_alive());
        assert!(self.state.approved.values().all(|one| alive(&one.holder)), "an answer outlives its holder");
        assert!(self.state.questions.values().all(|one| alive(&one.question.agent)), "a question, its asker");
    }

    /// What children hold is in what their parent counts.
    fn check_sums(&self) {
        let agents = &self.model.agents;
        for (at, parent) in agents.iter().enumerate() {
            let children = || agents.iter().filter(|one| one.parent == Some(at));
            for quantity in Quantity::ALL.into_iter().filter(|one| *one != Quantity::WallMillis) {
                let at = quantity as usize;
                let reserved: u64 = children().map(|one| one.purse.reserved[at]).sum();
                assert!(reserved <= parent.purse.reserved[at]);
                if parent.purse.period.is_none() {
                    let for_life = children().filter(|one| one.purse.period.is_none());
                    let used: u64 = for_life.map(|one| one.purse.used(0)[at]).sum();
                    assert!(used <= parent.purse.used(0)[at], "{quantity:?} of children is lost");
                }
            }
        }
    }

    /// After everything is closed nothing is reserved, and the law allows exactly what the model does, now and later.
    pub(crate) fn finish(&mut self) {
        self.check_restored(&self.model.crashed(), &self.model.crashed());
        while !self.held.is_empty() {
            let part = 10 * (self.held.len() as u64 % 2);
            self.settle(0, part);
        }
        for at in 0..self.model.agents.len() {
            let now = self.now();
            self.law.stop_clock(self.id(at), now);
            self.model.stop_clock(at);
        }
        for (who, event) in std::mem::take(&mut self.step) {
            self.apply(who, event);
        }
        self.check();
        assert!(self.model.agents.iter().all(|one| one.purse.reserved.iter().all(|held| *held == 0)));
        for later in [0, 1_000, 61_000] {
            let now = self.time() + later;
            for (at, one) in self.model.agents.iter().enumerate().filter(|(_, one)| one.alive) {
                for want in WANTS {
                    let (law, model) = (allows(&self.law, at, want, now), self.model.may(at, want, now));
                    assert_eq!(law, model, "{want:?} by agent {at}, {later} ms on: {one:?}");
                }
            }
        }
    }

    /// After a restart what counts is what the law found.
    pub(super) fn adopt(&mut self) {
        let now = self.model.latest;
        for (at, one) in self.model.agents.iter_mut().enumerate() {
            if let Some(view) = self.law.purse(agent(at as u128 + 1), Timestamp(now)) {
                one.purse.adopt(&sums(&view.used), now);
            }
        }
    }

    /// An authority restored from the journal as it is now allows no more than one that was killed before the step,
    /// or than one that was killed after it.
    pub(super) fn check_restored(&self, before: &Model, after: &Model) {
        let limits = AuthorityLimits { max_depth: 3, ..AuthorityLimits::default() };
        let restored = Authority::restore(limits, &self.state);
        if let Err(why) = self.exceeds(&restored, after)
            && let Err(earlier) = self.exceeds(&restored, before)
        {
            panic!("a restart allows more than there was: {why}; and before the step: {earlier}");
        }
    }

    fn exceeds(&self, restored: &Authority, killed: &Model) -> Result<(), String> {
        let now = self.state.latest.0;
        for at in 0..self.model.agents.len() {
            let Some(view) = restored.purse(self.id(at), Timestamp(now)) else { continue };
            let one = killed.agents.get(at).filter(|one| one.alive);
            let one = one.ok_or_else(|| format!("agent {at} lives again"))?;
            let (used, known) = (sums(&view.used), one.purse.used(now));
            if used.iter().zip(&known).any(|(used, known)| used < known) {
                return Err(format!("agent {at} has used {used:?}, not {known:?}"));
            }
            // One that is used up approves nothing: it is kept for its last call.
            for approval in restored.approvals_of(self.id(at)).into_iter().filter(|one| one.uses > 0) {
                let known = killed.approvals.iter().find(|one| one.id == approval.id);
                if known.is_none_or(|known| known.uses < approval.uses) {
                    return Err(format!("agent {at} has more of {approval:?}: {known:?}"));
                }
            }
            for later in [0, 45_000] {
                let now = now + later;
                for want in WANTS {
                    if allows(restored, at, want, now) && !killed.may(at, want, now) {
                        return Err(format!("agent {at} may {want:?} {later} ms on"));
                    }
                }
            }
        }
        Ok(())
    }
}

fn allows(law: &Authority, at: usize, want: crate::model::Want, now: u64) -> bool {
    let needs = Needs { all: vec![need_of(&want)], ..Needs::default() };
    law.explain(agent(at as u128 + 1), &needs, Timestamp(now)).is_ok()
}
