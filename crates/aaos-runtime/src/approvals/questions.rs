//! The questions that are open, in the kernel's table.
//!
//! Invariants: no new one is opened beyond what may be open in number and length, of all principals together and of
//! one; none is listed before it is durable; whoever takes one out is the only one who closes it. Under the table's
//! lock nothing is copied or measured that an agent can make long.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use aaos_core::approval::Question;
use aaos_core::authority::Refusal;
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

/// How many parts of what may be open one principal's agents can take: the others can still ask.
const OWNERS: usize = 8;
/// Questions that the agents of one principal may have open.
const MAX_PENDING_PER_OWNER: usize = limits::MAX_PENDING_APPROVALS / OWNERS;
/// Length of all open questions together, bytes of JSON.
const MAX_PENDING_BYTES: usize = 64 * 1024 * 1024;
/// Length of the open questions of one principal's agents, bytes of JSON; at least the longest request.
const MAX_PENDING_BYTES_PER_OWNER: usize = MAX_PENDING_BYTES / OWNERS;
const _: () = assert!(MAX_PENDING_BYTES_PER_OWNER >= limits::MAX_REQUEST_BYTES);

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

/// What can be told of a question.
#[derive(Debug)]
pub(super) struct Asked {
    pending: PendingApproval,
    agent_name: AgentName,
    pub(super) owner: u32,
    /// The grants that would be used, in the grammar's words, as they were when it was asked.
    grants: Vec<String>,
    /// Length of the question as JSON.
    bytes: usize,
}

impl Asked {
    pub(super) fn question(&self) -> &Question {
        &self.pending.question
    }

    fn view(&self, with_input: bool) -> ApprovalView {
        let question = self.question();
        ApprovalView {
            id: question.id,
            agent_id: question.agent,
            agent_name: self.agent_name.clone(),
            goal_id: self.pending.goal,
            description: words::description(&self.agent_name, question),
            because: words::because(question),
            tool: question.effect.clone(),
            input: with_input.then(|| question.input.clone()),
            grants: self.grants.clone(),
            targets: question.targets.clone(),
            timestamp: self.pending.asked_at,
            deadline: self.pending.deadline,
        }
    }
}

/// What is told of questions, in their order. The arguments of the later ones are left out where all together are too
/// long for one answer; they come once the earlier ones are answered.
pub(super) fn views(asked: &[Arc<Asked>]) -> Vec<ApprovalView> {
    let mut room = limits::MAX_REPLY_BYTES / 2;
    let told = asked.iter().map(|one| {
        let fits = one.bytes <= room;
        room = room.saturating_sub(one.bytes);
        one.view(fits)
    });
    told.collect()
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn length(question: &Question) -> usize {
    let mut length = Length(0);
    let written = serde_json::to_writer(&mut length, question);
    // What cannot be written cannot be recorded either.
    written.map_or(usize::MAX, |()| length.0)
}

/// One open question.
#[derive(Debug)]
pub(crate) struct Open {
    asked: Arc<Asked>,
    stage: watch::Sender<Stage>,
}

impl Open {
    /// Measures the question: not to be called under a lock.
    pub(super) fn new(pending: PendingApproval, agent: &Agent, grants: &[GrantRecord]) -> Self {
        let words = |id| {
            let record = grants.iter().find(|record| record.id == id)?;
            Some(record.spec().to_string())
        };
        let mut grants: Vec<String> = pending.question.grants.iter().filter_map(|id| words(*id)).collect();
        grants.dedup();
        let bytes = length(&pending.question);
        let agent_name = agent.manifest.name.clone();
        Self {
            asked: Arc::new(Asked { pending, agent_name, owner: agent.owner, grants, bytes }),
            stage: watch::Sender::new(Stage::Recording),
        }
    }

    /// One that was open when the daemon ended.
    pub(super) fn recalled(pending: PendingApproval, agent: &Agent, grants: &[GrantRecord]) -> Self {
        let open = Self::new(pending, agent, grants);
        open.stage.send_replace(Stage::Open);
        open
    }

    pub(super) fn asked(&self) -> &Arc<Asked> {
        &self.asked
    }

    pub(super) fn owner(&self) -> u32 {
        self.asked.owner
    }

    pub(super) fn question(&self) -> &Question {
        self.asked.question()
    }

    pub(super) fn is_open_at(&self, now: Timestamp) -> bool {
        now < self.asked.pending.deadline
    }

    fn is_durable(&self) -> bool {
        *self.stage.borrow() != Stage::Recording
    }

    pub(super) fn tell(&self, told: Told) {
        self.stage.send_replace(Stage::Closed(told));
    }

    fn waiter(&self) -> Waiter {
        waiter_for(&self.asked, self.stage.subscribe())
    }
}

fn waiter_for(asked: &Asked, stage: watch::Receiver<Stage>) -> Waiter {
    let pending = &asked.pending;
    let wait = pending.deadline.since(pending.asked_at);
    Waiter { id: pending.question.id, deadline: pending.deadline, wait, stage }
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
    /// Questions whose calls wait, or were answered and are about to be decided anew.
    attended: BTreeSet<ApprovalId>,
    /// Questions from before a restart that no call waited for again yet, also where they are answered by now.
    recalled: BTreeMap<ApprovalId, (Arc<Asked>, watch::Receiver<Stage>)>,
}

impl Questions {
    /// Takes up a new question, which is about to be recorded; refused where too many are open.
    pub(super) fn open(&mut self, open: Open) -> Result<Waiter, Refusal> {
        self.check_room(&open.asked)?;
        Ok(self.put(open))
    }

    fn check_room(&self, new: &Asked) -> Result<(), Refusal> {
        let (mut bytes, mut own, mut own_bytes) = (new.bytes, 0, new.bytes);
        for asked in self.open.values().map(|open| &open.asked) {
            bytes = bytes.saturating_add(asked.bytes);
            if asked.owner == new.owner {
                own += 1;
                own_bytes = own_bytes.saturating_add(asked.bytes);
            }
        }
        let (owner, all) = (new.owner, self.open.len());
        let full = if own >= MAX_PENDING_PER_OWNER {
            format!("{own} questions of agents of uid {owner} wait for people already, as many as may")
        } else if own_bytes > MAX_PENDING_BYTES_PER_OWNER {
            let most = MAX_PENDING_BYTES_PER_OWNER;
            format!(
                "the questions of agents of uid {owner} that wait for people would be over {most} bytes long"
            )
        } else if all >= limits::MAX_PENDING_APPROVALS {
            format!("{all} questions wait for people already, as many as may")
        } else if bytes > MAX_PENDING_BYTES {
            format!("all questions that wait for people would be over {MAX_PENDING_BYTES} bytes long")
        } else {
            return Ok(());
        };
        Err(Refusal::Limit(format!("{full}; try again when some are answered")))
    }

    /// A call waits for the answer to a question, or not any more.
    pub(super) fn attend(&mut self, id: ApprovalId, waits: bool) {
        if waits {
            self.attended.insert(id);
        } else {
            self.attended.remove(&id);
        }
    }

    /// Whether the approval of a question is still its own call's to use first.
    pub(super) fn is_attended(&self, id: ApprovalId) -> bool {
        self.attended.contains(&id)
    }

    /// Takes up a question that is in the journal.
    pub(super) fn recall(&mut self, open: Open) -> Waiter {
        let asked = Arc::clone(open.asked());
        self.recalled.insert(open.question().id, (asked, open.stage.subscribe()));
        self.put(open)
    }

    /// Takes up a question that the journal says was answered with no, for the call that asked it.
    pub(super) fn recall_refused(&mut self, open: &Open, reason: String) {
        self.recalled.insert(open.question().id, (Arc::clone(open.asked()), open.stage.subscribe()));
        open.tell(Told::Denied(reason));
    }

    fn put(&mut self, open: Open) -> Waiter {
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

    /// The same question from before a restart, for which nobody waits; also one that was answered since, or is being
    /// answered now, so that nobody is asked twice.
    pub(super) fn adopt(&mut self, question: &Question) -> Option<Waiter> {
        let is_it = |asked: &Question| {
            (asked.agent, &asked.digest, &asked.targets)
                == (question.agent, &question.digest, &question.targets)
        };
        let found = self.recalled.iter().find(|(_, (asked, _))| is_it(asked.question()));
        let id = found.map(|(id, _)| *id)?;
        let (asked, stage) = self.recalled.remove(&id)?;
        self.attended.insert(id);
        Some(waiter_for(&asked, stage))
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
        self.recalled.retain(|_, (asked, _)| asked.question().agent != agent);
        ids.into_iter().filter_map(|id| self.open.remove(&id)).collect()
    }

    /// Those that are durable and would use one of these grants. Who opened one that is not looks at its grants again.
    pub(super) fn take_under(&mut self, grants: &[GrantId]) -> Vec<Open> {
        let is_under = |open: &Open| open.question().grants.iter().any(|grant| grants.contains(grant));
        let under = self.open.iter().filter(|(_, open)| open.is_durable() && is_under(open));
        let ids: Vec<_> = under.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.open.remove(&id)).collect()
    }

    /// Those that `is_shown`, oldest first.
    pub(super) fn list(&self, is_shown: impl Fn(&Open) -> bool) -> Vec<Arc<Asked>> {
        let shown = self.open.values().filter(|open| open.is_durable() && is_shown(open));
        shown.map(|open| Arc::clone(&open.asked)).collect()
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

    use super::{
        MAX_PENDING_BYTES_PER_OWNER, MAX_PENDING_PER_OWNER, OWNERS, Open, Questions, Told, length, views,
    };
    use crate::registry::{Agent, AgentFacts};

    fn agent(number: u128) -> Arc<Agent> {
        agent_of(number, 1000)
    }

    fn agent_of(number: u128, owner: u32) -> Arc<Agent> {
        let manifest = Manifest::parse("name: asker\nmodel: m\nsystem_prompt: s\n").expect("a manifest");
        Agent::new(AgentFacts {
            id: AgentId::from_uuid(Uuid::from_u128(number)),
            manifest,
            parent: None,
            goal: None,
            owner,
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

    /// One that counts as so long.
    fn long(number: u128, by: &Agent, bytes: usize) -> Open {
        let mut open = open(number, by);
        Arc::get_mut(&mut open.asked).expect("nobody else has it").bytes = bytes;
        open
    }

    fn refusal(questions: &mut Questions, open: Open) -> String {
        questions.open(open).expect_err("no room").to_string()
    }

    #[test]
    fn so_many_are_open_and_no_more_until_one_is_closed() {
        let mut questions = Questions::default();
        let most = limits::MAX_PENDING_APPROVALS as u128;
        for number in 0..most {
            let by = agent_of(number, u32::try_from(number).expect("few") % 1_000);
            questions.open(open(number, &by)).expect("room");
        }
        let by = agent_of(most, 1_001);
        assert!(refusal(&mut questions, open(most, &by)).contains("1024 questions wait"));
        assert!(questions.take(ApprovalId::from_uuid(Uuid::from_u128(0))).is_some());
        questions.open(open(most, &by)).expect("room again");
    }

    #[test]
    fn one_principal_leaves_room_for_the_others() {
        let (one, other, mut questions) = (agent_of(1, 1000), agent_of(2, 1001), Questions::default());
        for number in 0..MAX_PENDING_PER_OWNER as u128 {
            questions.open(open(number, &one)).expect("room");
        }
        assert!(refusal(&mut questions, open(9_999, &one)).contains("of uid 1000 wait"));
        questions.open(open(9_999, &other)).expect("the control: another principal's");
    }

    #[test]
    fn how_long_open_questions_are_is_bounded_for_one_principal_and_for_all() {
        let mut questions = Questions::default();
        let half = MAX_PENDING_BYTES_PER_OWNER / 2;
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        for owner in 0..u32::try_from(OWNERS).expect("few") {
            let by = agent_of(1, owner);
            // What is left over is for the short ones below.
            for _ in 0..2 {
                questions.open(long(next(), &by, half - 2_000)).expect("room");
            }
            assert!(refusal(&mut questions, long(next(), &by, half)).contains("bytes long"));
            questions.open(open(next(), &by)).expect("the control: a short one");
        }
        let by = agent_of(1, 1_001);
        assert!(refusal(&mut questions, long(next(), &by, half)).contains("all questions"));
        questions.open(open(next(), &by)).expect("the control: a short one");
    }

    #[test]
    fn a_question_is_as_long_as_its_json() {
        let by = agent(1);
        let mut pending = asked(1, &by);
        pending.question.input = serde_json::json!({ "message": "\"x\n".repeat(1_000) });
        let json = serde_json::to_vec(&pending.question).expect("JSON").len();
        assert_eq!(length(&pending.question), json);
        assert_eq!(Open::new(pending, &by, &[]).asked().bytes, json);
    }

    #[test]
    fn the_list_leaves_out_arguments_that_are_too_long_for_one_answer() {
        let mut questions = Questions::default();
        let each = limits::MAX_REPLY_BYTES / 2 / 3 + 1;
        for number in 1..=3 {
            let by = agent_of(1, u32::try_from(number).expect("few"));
            let waiter = questions.open(long(number, &by, each)).expect("room");
            questions.recorded(waiter.id, true);
        }
        let told: Vec<_> = views(&questions.list(|_| true)).iter().map(|view| view.input.is_some()).collect();
        assert_eq!(told, [true, true, false]);
    }

    #[test]
    fn only_what_is_durable_is_listed_and_what_cannot_be_recorded_is_gone() {
        let (by, mut questions) = (agent(1), Questions::default());
        let waiters: Vec<_> = (2..4).map(|number| questions.open(open(number, &by)).expect("room")).collect();
        assert!(questions.list(|_| true).is_empty());
        assert_eq!(questions.recording(|_| true).len(), 2);
        questions.recorded(waiters[0].id, true);
        questions.recorded(waiters[1].id, false);
        let listed: Vec<_> = views(&questions.list(|_| true)).iter().map(|view| view.id).collect();
        assert_eq!(listed, [waiters[0].id]);
        assert!(questions.take(waiters[1].id).is_none() && questions.recording(|_| true).is_empty());
        assert!(questions.list(|open| open.owner() != 1000).is_empty(), "the caller chooses");
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
            questions.open(open(number, by)).expect("room");
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
