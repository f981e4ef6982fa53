//! Revocation, removal, answers, runs and restarts.

use aaos_core::approval::{ApprovalGrant, ApprovalScope};
use aaos_core::authority::{Authority, AuthorityLimits};
use aaos_core::event::{AgentEnd, Event, NotApproved};
use aaos_core::id::{ApprovalId, GrantId};
use aaos_core::quantity::Amounts;

use crate::model::{Approval, Scope};
use crate::support::fresh_call;

use super::{LABELS, Machine};

impl Machine {
    pub(super) fn revoke(&mut self, at: u8) {
        if self.model.grants.is_empty() {
            return;
        }
        let at = usize::from(at) % self.model.grants.len();
        let (id, holder) = (self.model.grants[at].id, self.model.grants[at].holder);
        if !self.model.agents[holder].alive {
            return;
        }
        let revoked = self.law.revoke(id);
        let (mut expected, candidates) = self.model.revoke(at);
        let alive = |one: &GrantId| self.model.agents[self.model.grants[self.model.find(*one)].holder].alive;
        let mut ended: Vec<GrantId> = revoked.grants.iter().copied().filter(alive).collect();
        ended.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ended, expected, "the whole derived subtree ends, and nothing else");
        assert!(revoked.calls.iter().all(|one| candidates.contains(one)), "cut without reason, or twice");
        for call in &mut self.model.open {
            let hit = candidates.contains(&call.id);
            let certain = self.model.agents[call.agent].alive || call.charged;
            assert!(!(hit && certain) || revoked.calls.contains(&call.id), "it runs on: {call:?}");
            call.cut |= revoked.calls.contains(&call.id);
            assert_eq!(self.law.is_cut(call.id), call.cut);
        }
        self.seen.note(if revoked.calls.is_empty() { "revoked" } else { "revoked with calls" });
        let (grant, ended, cut) = (id, revoked.grants, revoked.calls);
        self.write(None, Event::CapabilityRevoked { grant, principal: 0, ended, cut });
    }

    /// Stops an agent and all below it, as the runtime journals it: leaves first.
    pub(super) fn remove(&mut self, who: u8) {
        let Some(who) = self.agent_at(who).filter(|who| self.model.agents[*who].alive) else { return };
        let below =
            |one: &usize| self.model.agents[*one].alive && self.model.ancestors(*one).any(|up| up == who);
        let mut ended: Vec<usize> = (0..self.model.agents.len()).filter(below).collect();
        ended.sort_by_key(|one| std::cmp::Reverse(self.model.agents[*one].depth));
        self.law.remove(self.id(who));
        self.model.remove(who);
        self.seen.note(if ended.len() > 1 { "removed with children" } else { "removed" });
        for one in ended {
            let id = self.id(one);
            self.questions.retain(|question| question.agent != id);
            self.write(Some(id), Event::AgentStopped { end: AgentEnd::Stopped });
        }
    }

    /// Answers a question: no, for this very effect, or for more like it.
    pub(super) fn answer(&mut self, question: u8, answer: u8, uses: u32) {
        if self.questions.is_empty() {
            return;
        }
        let at = usize::from(question) % self.questions.len();
        let question = self.questions.swap_remove(at);
        let asker = self.model.agents.iter().enumerate().map(|(at, _)| at);
        let asker = asker.into_iter().find(|one| self.id(*one) == question.agent).expect("an agent");
        if answer == 0 {
            let (approval, reason) = (question.id, "no".to_owned());
            self.write(
                None,
                Event::HumanApprovalDenied {
                    approval,
                    principal: Some(0),
                    reason,
                    because: NotApproved::Answered,
                },
            );
            return;
        }
        let effect = LABELS.into_iter().find(|one| *one == question.effect).expect("a label");
        let root = self.model.ancestors(asker).last().expect("itself");
        let (holder, uses, scope) = match answer {
            1 => (asker, 1, Scope::Exactly(question.digest.clone())),
            2 => (asker, uses, Scope::Tool { effect, grants: question.grants.clone(), below: None }),
            3 => (root, uses, Scope::Tool { effect, grants: self.origins(&question.grants), below: None }),
            _ => (
                root,
                uses,
                Scope::Tool { effect, grants: self.origins(&question.grants), below: Some("/a/b") },
            ),
        };
        let approval = self.approval(question.id, holder, &scope, uses);
        self.law.approve(approval.clone()).expect("its holder is alive");
        self.model.approvals.push(Approval { id: question.id, holder, scope, uses });
        self.seen.note("answered");
        self.write(None, Event::HumanApprovalGranted { approval, principal: 0, reason: None });
    }

    fn origins(&self, grants: &[GrantId]) -> Vec<GrantId> {
        let origin = |id: &GrantId| self.model.chain(self.model.find(*id)).last().expect("itself").id;
        grants.iter().map(origin).collect()
    }

    fn approval(&self, id: ApprovalId, holder: usize, scope: &Scope, uses: u32) -> ApprovalGrant {
        let scope = match scope {
            Scope::Exactly(digest) => ApprovalScope::Exactly { digest: digest.clone(), targets: Vec::new() },
            Scope::Tool { effect, grants, below } => ApprovalScope::Tool {
                effect: (*effect).to_owned(),
                grants: grants.clone(),
                below: below.map(|dir| format!("{dir}/*").try_into().expect("a pattern")),
            },
        };
        ApprovalGrant { id, holder: self.id(holder), scope, uses }
    }

    pub(super) fn start_clock(&mut self, who: u8) {
        let Some(who) = self.agent_at(who).filter(|who| self.model.agents[*who].alive) else { return };
        let now = self.now();
        let started = self.law.start_clock(self.id(who), now);
        assert_eq!(started.is_ok(), self.model.start_clock(who), "{started:?}");
        let event = if started.is_ok() {
            self.seen.note("run");
            Event::AgentExecutionStarted {
                message_hash: String::new(),
                message: String::new(),
                tools: Vec::new(),
                kept: aaos_core::event::Kept::default(),
            }
        } else {
            self.seen.note("no time left");
            Event::AgentExecutionCompleted {
                response: String::new(),
                usage: aaos_core::model::Usage::default(),
                iterations: 0,
                stop_reason: aaos_core::toolio::StopReason::BudgetExceeded,
                error: None,
                cut: None,
                mind_hash: String::new(),
            }
        };
        self.write(Some(self.id(who)), event);
    }

    pub(super) fn stop_clock(&mut self, who: u8) {
        let Some(who) = self.agent_at(who).filter(|who| self.model.agents[*who].alive) else { return };
        let now = self.now();
        self.law.stop_clock(self.id(who), now);
        self.model.stop_clock(who);
        let event = Event::AgentExecutionCompleted {
            response: String::new(),
            usage: aaos_core::model::Usage::default(),
            iterations: 1,
            stop_reason: aaos_core::toolio::StopReason::Complete,
            error: None,
            cut: None,
            mind_hash: String::new(),
        };
        self.write(Some(self.id(who)), event);
    }

    /// The daemon is killed and another one starts from the journal.
    pub(super) fn restart(&mut self) {
        self.model.latest = self.state.latest.0;
        self.model = self.model.crashed();
        self.held.clear();
        let limits = AuthorityLimits { max_depth: 3, ..AuthorityLimits::default() };
        self.law = Authority::restore(limits, &self.state);
        self.adopt();
        self.seen.note("restart");
        let version = String::new();
        self.write(None, Event::DaemonStarted { version, resumed: Vec::new() });
        // The runtime's clock begins no earlier than its first entry.
        let now = self.now();
        self.law.settle(fresh_call(), &[], &Amounts::NONE, now);
    }
}
