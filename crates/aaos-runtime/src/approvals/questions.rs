//! The questions that are open, in the kernel's table.
//!
//! Invariants: no new one is opened beside [`limits::MAX_PENDING_APPROVALS`] others; none is listed before it is
//! durable; whoever takes one out is the only one who closes it.

use std::collections::BTreeMap;

use aaos_core::approval::Question;
use aaos_core::capability::GrantSpec;
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, ApprovalId, GrantId};
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
    /// What asked was stopped before anybody answered.
    Stopped,
    /// A grant that would be used was revoked before anybody answered.
    Revoked,
}

/// How far a question has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// On its way to the disk.
    Recording,
    /// It can be read and answered.
    Open,
    /// It is closed.
    Closed(Told),
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
    stage: watch::Sender<Stage>,
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
            stage: watch::Sender::new(Stage::Recording),
            pending,
        }
    }

    /// One that was open when the daemon ended.
    pub(super) fn recalled(pending: PendingApproval, agent: &Agent, grants: &[GrantRecord]) -> Self {
        let open = Self { waited_for: false, ..Self::new(pending, agent, grants) };
        open.stage.send_replace(Stage::Open);
        open
    }

    pub(super) fn question(&self) -> &Question {
        &self.pending.question
    }

    pub(super) fn is_open_at(&self, now: Timestamp) -> bool {
        now < self.pending.deadline
    }

    fn is_durable(&self) -> bool {
        *self.stage.borrow() != Stage::Recording
    }

    pub(super) fn tell(&self, told: Told) {
        self.stage.send_replace(Stage::Closed(told));
    }

    fn waiter(&self) -> Waiter {
        let (id, deadline) = (self.pending.question.id, self.pending.deadline);
        let wait = deadline.since(self.pending.asked_at);
        Waiter { id, deadline, wait, stage: self.stage.subscribe() }
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
    stage: watch::Receiver<Stage>,
}

impl Waiter {
    /// Waits for the answer; whoever took the question and could not record an answer gives none.
    pub(super) async fn told(&mut self) -> Told {
        let lost = || Told::Denied("the answer could not be recorded".to_owned());
        match self.stage.wait_for(|stage| matches!(stage, Stage::Closed(_))).await.as_deref() {
            Ok(Stage::Closed(told)) => told.clone(),
            Ok(Stage::Recording | Stage::Open) | Err(_) => lost(),
        }
    }

    /// Waits until the question is durable; one that cannot be recorded is gone.
    pub(super) async fn recorded(&mut self) {
        let on_disk = self.stage.wait_for(|stage| *stage != Stage::Recording).await;
        tracing::trace!(question = %self.id, is_open = on_disk.is_ok(), "a question was recorded");
    }
}

/// All that is open.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: BTreeMap<ApprovalId, Open>,
}

impl Questions {
    /// Takes up a new question, which is about to be recorded; nothing where too many are open.
    pub(super) fn open(&mut self, open: Open) -> Option<Waiter> {
        (self.open.len() < limits::MAX_PENDING_APPROVALS).then(|| self.recall(open))
    }

    /// Takes up a question that is in the journal.
    pub(super) fn recall(&mut self, open: Open) -> Waiter {
        let waiter = open.waiter();
        let before = self.open.insert(waiter.id, open);
        assert!(before.is_none(), "ids of questions are fresh");
        waiter
    }

    /// A question is durable now, or never will be.
    pub(super) fn recorded(&mut self, id: ApprovalId, is_durable: bool) {
        if !is_durable {
            self.open.remove(&id);
        } else if let Some(open) = self.open.get(&id) {
            open.stage.send_replace(Stage::Open);
        }
    }

    /// Those that `is_shown` and are on their way to the disk.
    pub(super) fn recording(&self, is_shown: impl Fn(&Open) -> bool) -> Vec<Waiter> {
        let arriving = self.open.values().filter(|open| !open.is_durable() && is_shown(open));
        arriving.map(Open::waiter).collect()
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

    /// Those that are durable and would use one of these grants. Who opened one that is not looks at its grants again.
    pub(super) fn take_under(&mut self, grants: &[GrantId]) -> Vec<Open> {
        let is_under = |open: &Open| open.question().grants.iter().any(|grant| grants.contains(grant));
        let under = self.open.iter().filter(|(_, open)| open.is_durable() && is_under(open));
        let ids: Vec<_> = under.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.open.remove(&id)).collect()
    }

    /// Those that `is_shown`, oldest first. The arguments of the later ones are left out where all together are too
    /// long for one answer; they come once the earlier ones are answered.
    pub(super) fn list(&self, is_shown: impl Fn(&Open) -> bool) -> Vec<ApprovalView> {
        let mut room = limits::MAX_REPLY_BYTES / 2;
        let shown = self.open.values().filter(|open| open.is_durable() && is_shown(open));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aaos_core::approval::{AskedBecause, Question, Target};
    use aaos_core::id::{AgentId, ApprovalId, CallId};
    use aaos_core::limits;
    use aaos_core::manifest::Manifest;
    use aaos_core::quantity::Timestamp;
    use aaos_core::state::PendingApproval;
    use uuid::Uuid;

    use super::{Open, Questions, Told};
    use crate::registry::{Agent, AgentFacts};

    fn agent(number: u128) -> Arc<Agent> {
        let manifest = Manifest::parse("name: asker\nmodel: m\nsystem_prompt: s\n").expect("a manifest");
        Agent::new(AgentFacts {
            id: AgentId::from_uuid(Uuid::from_u128(number)),
            manifest,
            parent: None,
            goal: None,
            owner: 1000,
            depth: 0,
            started_at: Timestamp(1),
            cancel: Default::default(),
        })
    }

    fn asked(number: u128, by: &Agent) -> PendingApproval {
        let question = Question {
            id: ApprovalId::from_uuid(Uuid::from_u128(number)),
            agent: by.id,
            call: CallId::from_uuid(Uuid::from_u128(number)),
            effect: "echo".to_owned(),
            digest: "d".to_owned(),
            because: AskedBecause::Tool,
            needs: Vec::new(),
            grants: Vec::new(),
            input: serde_json::json!({ "message": "hi" }),
            targets: Vec::new(),
        };
        PendingApproval { question, goal: None, asked_at: Timestamp(1), deadline: Timestamp(100) }
    }

    fn open(number: u128, by: &Agent) -> Open {
        Open::new(asked(number, by), by, &[])
    }

    #[test]
    fn so_many_are_open_and_no_more_until_one_is_closed() {
        let (by, mut questions) = (agent(1), Questions::default());
        let most = limits::MAX_PENDING_APPROVALS as u128;
        for number in 0..most {
            assert!(questions.open(open(number, &by)).is_some(), "{number}");
        }
        assert!(questions.open(open(most, &by)).is_none());
        assert!(questions.take(ApprovalId::from_uuid(Uuid::from_u128(0))).is_some());
        assert!(questions.open(open(most, &by)).is_some());
    }

    #[test]
    fn only_what_is_durable_is_listed_and_what_cannot_be_recorded_is_gone() {
        let (by, mut questions) = (agent(1), Questions::default());
        let waiters: Vec<_> = (2..4).map(|number| questions.open(open(number, &by)).expect("room")).collect();
        assert!(questions.list(|_| true).is_empty());
        assert_eq!(questions.recording(|_| true).len(), 2);
        questions.recorded(waiters[0].id, true);
        questions.recorded(waiters[1].id, false);
        let listed: Vec<_> = questions.list(|_| true).iter().map(|view| view.id).collect();
        assert_eq!(listed, [waiters[0].id]);
        assert!(questions.take(waiters[1].id).is_none() && questions.recording(|_| true).is_empty());
        assert!(questions.list(|open| open.owner != 1000).is_empty(), "the caller chooses");
    }

    #[test]
    fn a_recalled_question_is_taken_up_once_and_by_the_very_same_call_alone() {
        let (by, mut questions) = (agent(1), Questions::default());
        let same = asked(2, &by).question;
        drop(questions.open(open(2, &by)));
        assert!(questions.adopt(&same).is_none(), "its own call waits for it");
        let recalled = questions.recall(Open::recalled(asked(3, &by), &by, &[]));
        let target = Target { path: "/a".into(), root: "/".into(), place: "/a".into(), content_hash: None };
        assert!(questions.adopt(&Question { digest: "other".into(), ..same.clone() }).is_none());
        assert!(questions.adopt(&Question { agent: agent(9).id, ..same.clone() }).is_none());
        assert!(questions.adopt(&Question { targets: vec![target], ..same.clone() }).is_none());
        assert_eq!(questions.adopt(&same).map(|waiter| waiter.id), Some(recalled.id));
        assert!(questions.adopt(&same).is_none());
    }

    #[test]
    fn the_questions_of_one_agent_are_taken_together() {
        let (one, other, mut questions) = (agent(1), agent(2), Questions::default());
        for (number, by) in [(1, &one), (2, &other), (3, &one)] {
            assert!(questions.open(open(number, by)).is_some());
        }
        assert_eq!(questions.take_of(one.id).len(), 2);
        assert_eq!(questions.take_of(one.id).len(), 0);
        assert_eq!(questions.take_of(other.id).len(), 1);
    }

    #[tokio::test]
    async fn whoever_waits_is_told_also_where_the_answer_is_lost() {
        let (by, mut questions) = (agent(1), Questions::default());
        let mut waiters: Vec<_> =
            (1..3).map(|number| questions.open(open(number, &by)).expect("room")).collect();
        questions.take(waiters[0].id).expect("open").tell(Told::Approved);
        assert_eq!(waiters[0].told().await, Told::Approved);
        drop(questions.take(waiters[1].id));
        assert!(matches!(waiters[1].told().await, Told::Denied(_)));
    }
}
