//! The questions that are open, in the kernel's table.
//!
//! Invariants: no more than [`limits::MAX_PENDING_APPROVALS`] new ones are open or being recorded; whoever takes one
//! out is the only one who closes it.

use std::collections::BTreeMap;

use aaos_core::approval::Question;
use aaos_core::capability::GrantSpec;
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, ApprovalId};
use aaos_core::limits;
use aaos_core::name::AgentName;
use aaos_core::quantity::{Millis, Timestamp};
use aaos_core::state::PendingApproval;
use tokio::sync::watch;

use crate::registry::Agent;
use crate::view::ApprovalView;

use super::words;

/// What whoever waits is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Approved,
    /// With the reason.
    Denied(String),
}

/// One open question.
#[derive(Debug)]
pub(crate) struct Open {
    pending: PendingApproval,
    agent_name: AgentName,
    pub(super) owner: u32,
    /// The grants that would be used, in the grammar's words, as they were when it was asked.
    grants: Vec<String>,
    /// Whether the call that asked still waits; after a restart none does.
    waited_for: bool,
    told: watch::Sender<Option<Told>>,
}

impl Open {
    pub(super) fn new(pending: PendingApproval, agent: &Agent, grants: &[GrantRecord]) -> Self {
        let words = |id| {
            let record = grants.iter().find(|record| record.id == id)?;
            let spec = GrantSpec { capability: record.capability.clone(), constraints: record.constraints };
            Some(spec.to_string())
        };
        let mut grants: Vec<String> = pending.question.grants.iter().filter_map(|id| words(*id)).collect();
        grants.dedup();
        Self {
            agent_name: agent.manifest.name.clone(),
            owner: agent.owner,
            grants,
            waited_for: true,
            told: watch::Sender::new(None),
            pending,
        }
    }

    /// One that was open when the daemon ended.
    pub(super) fn recalled(pending: PendingApproval, agent: &Agent, grants: &[GrantRecord]) -> Self {
        Self { waited_for: false, ..Self::new(pending, agent, grants) }
    }

    pub(super) fn question(&self) -> &Question {
        &self.pending.question
    }

    pub(super) fn is_open_at(&self, now: Timestamp) -> bool {
        now < self.pending.deadline
    }

    pub(super) fn tell(&self, told: Told) {
        self.told.send_replace(Some(told));
    }

    fn waiter(&self) -> Waiter {
        let (id, deadline) = (self.pending.question.id, self.pending.deadline);
        let wait = deadline.since(self.pending.asked_at);
        Waiter { id, deadline, wait, told: self.told.subscribe() }
    }

    fn view(&self, input: Option<serde_json::Value>) -> ApprovalView {
        let question = self.question();
        ApprovalView {
            id: question.id,
            agent_id: question.agent,
            agent_name: self.agent_name.clone(),
            goal_id: self.pending.goal,
            description: words::description(&self.agent_name, question),
            because: words::because(question),
            tool: question.effect.clone(),
            input,
            grants: self.grants.clone(),
            targets: question.targets.clone(),
            timestamp: self.pending.asked_at,
            deadline: self.pending.deadline,
        }
    }
}

/// Someone who waits for an answer.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: ApprovalId,
    pub(super) deadline: Timestamp,
    /// How long a person had from the question to the deadline.
    pub(super) wait: Millis,
    told: watch::Receiver<Option<Told>>,
}

impl Waiter {
    /// Waits for the answer; whoever took the question and could not record an answer gives none.
    pub(super) async fn told(&mut self) -> Told {
        let lost = || Told::Denied("the answer could not be recorded".to_owned());
        match self.told.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }
}

/// All that is open.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: BTreeMap<ApprovalId, Open>,
    /// Questions that are being recorded: each has its place already.
    arriving: usize,
}

impl Questions {
    /// Takes a place for a question that is about to be recorded; false when all are taken.
    pub(super) fn reserve(&mut self) -> bool {
        let free = self.open.len() + self.arriving < limits::MAX_PENDING_APPROVALS;
        self.arriving += usize::from(free);
        free
    }

    /// Gives a place back: the question is open now, or could not be recorded.
    pub(super) fn release(&mut self) {
        assert!(self.arriving > 0, "a place is given back once, after it was taken");
        self.arriving -= 1;
    }

    pub(super) fn open(&mut self, open: Open) -> Waiter {
        let waiter = open.waiter();
        let before = self.open.insert(waiter.id, open);
        assert!(before.is_none(), "ids of questions are fresh");
        waiter
    }

    /// The same question from before a restart, for which nobody waits.
    pub(super) fn adopt(&mut self, question: &Question) -> Option<Waiter> {
        let is_it = |open: &&mut Open| {
            let asked = open.question();
            !open.waited_for
                && (asked.agent, &asked.digest, &asked.targets)
                    == (question.agent, &question.digest, &question.targets)
        };
        let open = self.open.values_mut().find(is_it)?;
        open.waited_for = true;
        Some(open.waiter())
    }

    pub(super) fn get(&self, id: ApprovalId) -> Option<&Open> {
        self.open.get(&id)
    }

    pub(super) fn take(&mut self, id: ApprovalId) -> Option<Open> {
        self.open.remove(&id)
    }

    pub(super) fn take_of(&mut self, agent: AgentId) -> Vec<Open> {
        let ids: Vec<_> = self.open.values().map(Open::question).filter(|one| one.agent == agent).collect();
        let ids: Vec<_> = ids.into_iter().map(|question| question.id).collect();
        ids.into_iter().filter_map(|id| self.open.remove(&id)).collect()
    }

    /// Those that `is_shown`, oldest first. The arguments of the later ones are left out where all together are too
    /// long for one answer; they come once the earlier ones are answered.
    pub(super) fn list(&self, is_shown: impl Fn(&Open) -> bool) -> Vec<ApprovalView> {
        let mut room = limits::MAX_REPLY_BYTES / 2;
        let shown = self.open.values().filter(|open| is_shown(open));
        shown
            .map(|open| {
                let input = &open.question().input;
                let size = input.to_string().len();
                let fits = size <= room;
                room = room.saturating_sub(size);
                open.view(fits.then(|| input.clone()))
            })
            .collect()
    }
}
