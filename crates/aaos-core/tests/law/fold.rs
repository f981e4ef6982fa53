//! The fold: what a restart finds, at every prefix of a journal.

use aaos_core::approval::{ApprovalGrant, ApprovalScope};
use aaos_core::authority::{Authority, AuthorityLimits, Refusal};
use aaos_core::budget::Budget;
use aaos_core::effect::{AuthorizedParts, Effect, EffectClass, Inference, InferenceOutcome, tokens_spent};
use aaos_core::event::{AgentEnd, Entry, Event, ForkPoint, GoalState, Kept};
use aaos_core::id::{AgentId, ApprovalId, EntryId, GoalId, Seq, TraceId};
use aaos_core::limits::KEPT_ENDED;
use aaos_core::manifest::Manifest;
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelReply, ModelStop, Usage};
use aaos_core::name::ToolName;
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp, Tokens};
use aaos_core::state::{AgentLife, PendingKind, State};
use aaos_core::toolio::StopReason;
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::{
    NOW, Wish, admission, agent, all, call, fresh_call, grant, inference, request, tokens_of, tool,
};

fn goal(number: u128) -> GoalId {
    GoalId::from_uuid(Uuid::from_u128(number))
}

fn trace(number: u128) -> Option<TraceId> {
    Some(TraceId::from_uuid(Uuid::from_u128(number)))
}

fn manifest() -> Manifest {
    Manifest::parse("name: a\nmodel: m\nsystem_prompt: p\nlifecycle: persistent").expect("a manifest")
}

fn entry(seq: u64, agent_id: Option<AgentId>, event: Event) -> Entry {
    Entry {
        seq: Seq(seq),
        id: EntryId::from_uuid(Uuid::from_u128(u128::from(seq))),
        timestamp: Timestamp(NOW.0 + seq),
        goal_id: Some(goal(1)),
        agent_id,
        trace_id: None,
        parent_event: None,
        event,
        prev_hash: String::new(),
        hash: String::new(),
    }
}

fn accepted() -> Event {
    Event::GoalAccepted {
        goal: "do it".to_owned(),
        outputs: Vec::new(),
        client_key: None,
        deadline: Timestamp(NOW.0 * 2),
        budget: Budget::of(Quantity::Tokens, 1000),
        principal: 0,
        priority: 0,
        grants: Vec::new(),
        manifest: None,
        approval_required: Vec::new(),
        working_directory: None,
    }
}

fn finished(state: GoalState) -> Event {
    Event::GoalFinished {
        state,
        response: "there".to_owned(),
        outputs: Vec::new(),
        usage: Usage::default(),
        error: None,
        exit_code: 0,
    }
}

fn spawned(parent: Option<AgentId>, depth: u32, max_tokens: Option<u64>) -> Event {
    let name = aaos_core::name::AgentName::parse("a").expect("a name");
    let budget = max_tokens.map(|most| Budget::of(Quantity::Tokens, most)).unwrap_or_default();
    let manifest = Box::new(manifest());
    Event::AgentSpawned { name, parent, depth, manifest, budget, principal: 7, spawned_by: None }
}

fn reply(usage: u64) -> ModelReply {
    let usage = Usage { input_tokens: Tokens(usage), ..Usage::default() };
    ModelReply {
        text: String::new(),
        reasoning: None,
        thinking: Vec::new(),
        calls: Vec::new(),
        stop: ModelStop::EndTurn,
        usage,
    }
}

fn failure(kind: ModelFailureKind) -> ModelFailure {
    ModelFailure { kind, message: "no".to_owned(), retry_after: None }
}

fn ended(result: Result<ModelReply, ModelFailure>, possibly_billed: u32) -> InferenceOutcome {
    InferenceOutcome {
        result,
        attempts: 1,
        told_to_wait: 0,
        possibly_billed,
        blames_provider: true,
        elapsed: Millis(1),
    }
}

fn tokens_used(state: &State) -> u64 {
    state.agents[&agent(1)].purse.used_at(state.latest).get(Quantity::Tokens)
}

/// Folds events, each of agent 1 at its place.
fn fold(events: Vec<Event>) -> State {
    let mut state = State::default();
    for (seq, event) in (1..).zip(events) {
        state.apply(&entry(seq, Some(agent(1)), event));
    }
    state
}

#[test]
fn goals_go_from_queued_to_their_end() {
    let path = AbsPath::parse("/w").expect("a path");
    let started = Event::GoalStarted { root_agent: agent(1), workspace: path, before: Vec::new() };
    let state_of = |events: Vec<Event>| fold(events).goals[&goal(1)].state;
    assert_eq!(state_of(vec![accepted()]), GoalState::Queued);
    assert_eq!(state_of(vec![accepted(), started.clone()]), GoalState::Running);
    let done = fold(vec![accepted(), started.clone(), finished(GoalState::Done)]);
    assert_eq!(done.goals[&goal(1)].state, GoalState::Done);
    assert_eq!(done.goals[&goal(1)].end.as_ref().map(|end| end.response.as_str()), Some("there"));
    assert_eq!(done.open_goals().count(), 0);
    let restarted = Event::DaemonStarted { version: "1".to_owned(), resumed: Vec::new() };
    assert_eq!(state_of(vec![accepted(), started.clone(), restarted.clone()]), GoalState::Running);
    assert_eq!(
        state_of(vec![accepted(), finished(GoalState::Done), restarted, started]),
        GoalState::Done,
        "an end is final"
    );
}

#[test]
fn a_fork_knows_all_that_it_was_forked_from_and_its_agent_runs_from_there() {
    let at = |number| ForkPoint { goal: goal(number), root: agent(number), at: Seq(5) };
    let forked = |from: ForkPoint, earlier: &[ForkPoint]| Event::GoalForked {
        from: from.goal,
        root: from.root,
        at: from.at,
        earlier: earlier.to_vec(),
        before: Vec::new(),
    };
    let points = |events: Vec<Event>| {
        fold(events).goals.remove(&goal(1)).and_then(|goal| goal.fork).map(|fork| fork.points)
    };
    assert_eq!(points(vec![accepted()]), None, "the control");
    assert_eq!(points(vec![forked(at(2), &[])]), None, "nothing was accepted");
    assert_eq!(points(vec![accepted(), forked(at(3), &[at(2)])]), Some(vec![at(2), at(3)]));
    assert_eq!(points(vec![accepted(), forked(at(3), &[]), forked(at(2), &[])]), Some(vec![at(3)]), "once");
    let run = |events| fold(events).agents[&agent(1)].open_run().is_some();
    assert!(!run(vec![spawned(None, 0, None), Event::AgentExecutionResumed {}]), "the control");
    let begun = vec![spawned(None, 0, None), Event::AgentExecutionForked { tools: Vec::new() }];
    assert_eq!(fold(begun.clone()).agents[&agent(1)].conversation, [Seq(2)]);
    assert!(run(begun));
}

#[test]
fn agents_their_runs_and_their_mail() {
    let mut state = fold(vec![spawned(None, 0, None), Event::AgentPaused {}]);
    let found = &state.agents[&agent(1)];
    assert!(found.paused && found.is_alive() && found.principal == 7);
    let mut seq = 2;
    let mut next = |state: &mut State, trace_id, event| {
        seq += 1;
        state.apply(&Entry { trace_id, ..entry(seq, Some(agent(1)), event) });
    };
    let delivered =
        |text: &str| Event::MessageDelivered { message: text.to_owned(), from: None, under: None };
    next(&mut state, trace(1), delivered("one"));
    next(&mut state, trace(2), delivered("two"));
    next(&mut state, trace(1), Event::AgentMessageReceived {});
    let mail: Vec<_> =
        state.agents[&agent(1)].mailbox.iter().map(|m| (m.message.as_str(), m.taken)).collect();
    assert_eq!(mail, [("one", true), ("two", false)]);
    let started = Event::AgentExecutionStarted {
        message_hash: String::new(),
        message: "one".to_owned(),
        tools: Vec::new(),
        kept: Kept::default(),
    };
    next(&mut state, trace(1), started);
    assert!(state.agents[&agent(1)].run.as_ref().is_some_and(|run| run.end.is_none()));
    let completed = Event::AgentExecutionCompleted {
        response: "answer".to_owned(),
        usage: Usage::default(),
        iterations: 1,
        stop_reason: StopReason::Complete,
        error: None,
        cut: None,
        mind_hash: String::new(),
    };
    next(&mut state, trace(1), completed);
    assert_eq!(state.agents[&agent(1)].mailbox.len(), 1, "answered mail is gone");
    assert_eq!(state.replies[&trace(1).expect("an id")].response, "answer");
    assert!(state.agents[&agent(1)].run.as_ref().is_some_and(|run| run.end.is_some()));
    next(&mut state, None, Event::AgentStopped { end: AgentEnd::Finished });
    assert!(matches!(state.agents[&agent(1)].life, AgentLife::Stopped { end: AgentEnd::Finished, .. }));
    assert_eq!(state.alive().count(), 0);
}

#[test]
fn a_call_that_sends_a_message_knows_its_delivery() {
    let mut state = fold(vec![spawned(None, 0, None)]);
    let call = call(77);
    let invoked = Event::ToolInvoked {
        call,
        tool: ToolName::parse("send_message").expect("a name"),
        input: serde_json::json!({ "to": "other", "message": "hi" }),
        class: EffectClass::Once,
        access: Vec::new(),
        denied: Vec::new(),
        charges: Vec::new(),
        model_call: None,
        at: None,
        repeats: 1,
    };
    let delivered = |state: &State| match &state.pending[&call].kind {
        PendingKind::Tool(tool) => tool.delivered,
        other => panic!("a tool call, not {other:?}"),
    };
    state.apply(&entry(2, Some(agent(1)), invoked));
    assert_eq!(delivered(&state), None);
    let message = |under| Event::MessageDelivered { message: "hi".to_owned(), from: Some(agent(1)), under };
    state.apply(&Entry { trace_id: trace(8), ..entry(3, Some(agent(2)), message(None)) });
    assert_eq!(delivered(&state), None, "somebody else's");
    state.apply(&Entry { trace_id: trace(9), ..entry(4, Some(agent(2)), message(Some(call))) });
    assert_eq!(delivered(&state), trace(9));
}

#[test]
fn a_restart_ends_what_the_agent_failed_at_and_due_times_never_come_back() {
    let mut state = fold(vec![spawned(None, 0, None)]);
    let mut seq = 1;
    let mut next = |state: &mut State, event| {
        seq += 1;
        state.apply(&Entry { trace_id: trace(1), ..entry(seq, Some(agent(1)), event) });
    };
    next(&mut state, Event::MessageDelivered { message: "one".to_owned(), from: None, under: None });
    let started = Event::AgentExecutionStarted {
        message_hash: String::new(),
        message: "one".to_owned(),
        tools: Vec::new(),
        kept: Kept::default(),
    };
    next(&mut state, started);
    let restarted = |fresh| Event::AgentRestarted {
        restarts: 1,
        after: Millis(250),
        reason: "it died".to_owned(),
        fresh,
    };
    next(&mut state, restarted(false));
    let found = &state.agents[&agent(1)];
    assert!(found.mailbox.is_empty() && found.open_run().is_none(), "{found:?}");
    assert_eq!(found.conversation.len(), 1, "the conversation goes on");
    let reply = &state.replies[&trace(1).expect("an id")];
    assert_eq!((reply.stop_reason, reply.error.as_deref()), (StopReason::Error, Some("it died")));
    assert_eq!(found.watch.rests_until, Some(Timestamp(NOW.0 + 4 + 250)));
    next(&mut state, restarted(true));
    let found = &state.agents[&agent(1)];
    assert!(found.conversation.is_empty(), "it begins anew");
    assert_eq!(found.watch.restarts.within(&found.manifest.supervision, Timestamp(NOW.0 + 9)), 2);
    assert_eq!(found.watch.scheduled, None);
    next(&mut state, Event::ScheduleFired { due: Timestamp(5) });
    next(&mut state, Event::ScheduleMissed { count: 2, until: Timestamp(9) });
    next(&mut state, Event::ScheduleFired { due: Timestamp(7) });
    assert_eq!(state.agents[&agent(1)].watch.scheduled, Some(Timestamp(9)));
}

#[test]
fn an_unfinished_inference_stays_paid() {
    let mut law = Authority::new(AuthorityLimits::default());
    law.admit_root(admission(1, Some(100)), Vec::new(), NOW).expect("room");
    let parts = law.authorize(agent(1), call(1), inference(60), NOW).expect("tokens").into_parts();
    let begun = fold(vec![spawned(None, 0, Some(100)), Inference::intent(&parts)]);
    assert!(matches!(begun.pending[&call(1)].kind, PendingKind::Inference { .. }));
    let mut restored = Authority::restore(AuthorityLimits::default(), &begun);
    assert_eq!(tokens_of(&restored, agent(1), NOW), (60, 0));
    let remaining = restored.purse(agent(1), NOW).expect("alive").remaining;
    assert_eq!(remaining.get(Quantity::Tokens), Some(40));
    assert!(matches!(restored.authorize(agent(1), call(2), inference(41), NOW), Err(Refusal::Budget { .. })));
    let restarted = Event::DaemonStarted { version: "1".to_owned(), resumed: Vec::new() };
    let mut later = begun.clone();
    later.apply(&entry(3, None, restarted));
    assert!(later.pending.is_empty());
    assert_eq!(tokens_used(&later), 60);
    let mut settled = begun;
    let done = Inference::result(&parts, &ended(Ok(reply(10)), 0));
    settled.apply(&entry(3, Some(agent(1)), done));
    assert_eq!(tokens_used(&settled), 10);
    assert_eq!(settled.agents[&agent(1)].usage.input_tokens, Tokens(10));
}

#[test]
fn what_an_inference_is_charged() {
    let spent = |result: Result<ModelReply, ModelFailure>, possibly_billed| {
        tokens_spent(&result, possibly_billed, Bytes(1600), Tokens(500))
    };
    assert_eq!(spent(Ok(reply(300)), 0), Tokens(300), "the report");
    assert_eq!(spent(Ok(reply(0)), 0), Tokens(100), "a report of nothing is not believed");
    assert_eq!(spent(Ok(reply(300)), 2), Tokens(1300), "two attempts before it may have been billed");
    let failed = |kind| Err(failure(kind));
    assert_eq!(spent(failed(ModelFailureKind::CutStream), 1), Tokens(500), "nobody knows how much");
    assert_eq!(spent(failed(ModelFailureKind::Unavailable), 1), Tokens(500), "the gateway died over it");
    assert_eq!(spent(failed(ModelFailureKind::Timeout), 6), Tokens(3000));
    assert_eq!(spent(failed(ModelFailureKind::Timeout), 0), Tokens::ZERO, "never asked");
    assert_eq!(spent(failed(ModelFailureKind::RateLimited), 0), Tokens::ZERO);
}

#[test]
fn the_fold_charges_attempts_as_the_law_does() {
    let used_after = |result: Result<ModelReply, ModelFailure>, possibly_billed| {
        let mut law = Authority::new(AuthorityLimits::default());
        law.admit_root(admission(1, Some(1000)), Vec::new(), NOW).expect("room");
        let parts = law.authorize(agent(1), call(1), inference(60), NOW).expect("tokens").into_parts();
        let outcome = ended(result, possibly_billed);
        law.settle(parts.call, &parts.charges, &Inference::spent(&parts, &outcome), NOW);
        let done = Inference::result(&parts, &outcome);
        let state = fold(vec![spawned(None, 0, Some(1000)), Inference::intent(&parts), done]);
        let purse = law.purse(agent(1), NOW).expect("alive");
        assert_eq!(state.agents[&agent(1)].purse.used_at(state.latest), purse.used, "all quantities");
        tokens_used(&state)
    };
    assert_eq!(used_after(Ok(reply(10)), 2), 130);
    assert_eq!(used_after(Err(failure(ModelFailureKind::Unavailable)), 1), 60);
    assert_eq!(used_after(Err(failure(ModelFailureKind::Timeout)), 0), 0);
    assert_eq!(used_after(Err(failure(ModelFailureKind::RateLimited)), 0), 0);
}

#[test]
fn what_has_ended_is_not_kept_for_ever() {
    let mut state = State::default();
    let count = KEPT_ENDED as u64 + 10;
    for number in 1..=count {
        let who = Some(agent(u128::from(number)));
        let mut record = entry(number, who, spawned(None, 0, None));
        state.apply(&record);
        record.event = Event::AgentStopped { end: AgentEnd::Finished };
        state.apply(&record);
        record.goal_id = Some(goal(u128::from(number)));
        record.event = accepted();
        state.apply(&record);
        record.event = finished(GoalState::Done);
        state.apply(&record);
    }
    assert_eq!((state.agents.len(), state.goals.len()), (KEPT_ENDED, KEPT_ENDED));
}

#[derive(Debug, Clone)]
enum Step {
    Admit { parent: usize },
    Stop { agent: usize },
    Infer { agent: usize, reserve: u64 },
    Complete { open: usize, used: Option<u64>, billed: u32 },
    Use { agent: usize },
    Revoke { agent: usize },
    Tick,
}

fn any_step() -> impl Strategy<Value = Step> {
    let at = 0..8usize;
    prop_oneof![
        3 => at.clone().prop_map(|parent| Step::Admit { parent }),
        1 => at.clone().prop_map(|agent| Step::Stop { agent }),
        3 => (at.clone(), 1..200u64).prop_map(|(agent, reserve)| Step::Infer { agent, reserve }),
        3 => (at.clone(), prop::option::of(0..250u64), 0..3u32)
            .prop_map(|(open, used, billed)| Step::Complete { open, used, billed }),
        4 => at.clone().prop_map(|agent| Step::Use { agent }),
        1 => at.prop_map(|agent| Step::Revoke { agent }),
        1 => Just(Step::Tick),
    ]
}

/// A live authority beside the journal that it would leave.
struct Run {
    law: Authority,
    state: State,
    journal: Vec<Entry>,
    agents: Vec<u128>,
    next: u128,
    open: Vec<AuthorizedParts<Inference>>,
    now: Timestamp,
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            law: Authority::new(AuthorityLimits::default()),
            state: State::default(),
            journal: Vec::new(),
            agents: vec![1],
            next: 100,
            open: Vec::new(),
            now: NOW,
        };
        let words = ["{ tool: *, max_invocations: 9, max_per_minute: 4 }", "file_read: /a/*"];
        let grants = words.iter().zip(1..).map(|(words, id)| request(id, words)).collect();
        let grants = run.law.admit_root(admission(1, Some(800)), grants, NOW).expect("room");
        run.write(None, accepted());
        run.write(Some(agent(1)), spawned(None, 0, Some(800)));
        for grant in grants {
            run.write(Some(agent(1)), Event::CapabilityGranted { grant });
        }
        run
    }

    fn write(&mut self, who: Option<AgentId>, event: Event) {
        let mut record = entry(self.journal.len() as u64 + 1, who, event);
        record.timestamp = self.now;
        self.state.apply(&record);
        self.journal.push(record);
    }

    fn pick(&self, at: usize) -> u128 {
        self.agents[at % self.agents.len()]
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        match step {
            Step::Tick => self.now = now.after(Millis(25_000)),
            Step::Admit { parent } => self.admit(self.pick(*parent)),
            Step::Stop { agent: at } => {
                let gone = agent(self.pick(*at));
                if gone != agent(1) {
                    self.stop(gone);
                }
            }
            Step::Infer { agent: at, reserve } => {
                let (who, id) = (agent(self.pick(*at)), call(self.next));
                self.next += 1;
                if let Ok(granted) = self.law.authorize(who, id, inference(*reserve), now) {
                    let parts = granted.into_parts();
                    self.write(Some(who), Inference::intent(&parts));
                    self.open.push(parts);
                }
            }
            Step::Complete { open, used, billed } if !self.open.is_empty() => {
                let parts = self.open.swap_remove(open % self.open.len());
                let result = used.map(reply).ok_or_else(|| failure(ModelFailureKind::Timeout));
                let outcome = ended(result, *billed);
                let spent = Inference::spent(&parts, &outcome);
                self.law.settle(parts.call, &parts.charges, &spent, now);
                self.write(Some(parts.agent), Inference::result(&parts, &outcome));
            }
            Step::Complete { .. } => {}
            Step::Use { agent: at } => {
                let (who, id) = (agent(self.pick(*at)), call(self.next));
                self.next += 1;
                if let Ok(granted) = self.law.authorize(who, id, all([tool("echo")]), now) {
                    let parts = granted.into_parts();
                    self.law.settle(id, &parts.charges, &Amounts::NONE, now);
                    self.write(Some(who), Wish::intent(&parts));
                }
            }
            Step::Revoke { agent: at } => {
                let held = self.law.grants_of(agent(self.pick(*at)));
                if let Some(last) = held.last().filter(|last| last.agent != agent(1)) {
                    let ended = self.law.revoke(last.id);
                    let (grant, principal) = (last.id, 0);
                    let (ended, cut) = (ended.grants, ended.calls);
                    self.write(Some(last.agent), Event::CapabilityRevoked { grant, principal, ended, cut });
                }
            }
        }
    }

    fn admit(&mut self, parent: u128) {
        let held = self.law.grants_of(agent(parent));
        let words = ["tool: echo", "file_read: /a/b/*"];
        let wanted = held.iter().zip(words).enumerate();
        let number = self.next;
        let grants = wanted
            .filter(|(_, (record, words))| {
                record.capability.form() == words.split(':').next().unwrap_or_default()
            })
            .map(|(at, (record, words))| (record.id, request(number * 10 + at as u128, words)))
            .collect();
        let admitted = self.law.admit_child(agent(parent), admission(number, Some(300)), grants, self.now);
        self.next += 1;
        let Ok(grants) = admitted else { return };
        let depth = self.law.depth_of(agent(number)).expect("alive");
        self.agents.push(number);
        self.write(Some(agent(number)), spawned(Some(agent(parent)), depth, Some(300)));
        for grant in grants {
            self.write(Some(agent(number)), Event::CapabilityGranted { grant });
        }
    }

    fn stop(&mut self, gone: AgentId) {
        for below in self.law.children_of(gone) {
            self.stop(below);
        }
        self.law.remove(gone);
        self.agents.retain(|one| agent(*one) != gone);
        self.write(Some(gone), Event::AgentStopped { end: AgentEnd::Stopped });
    }

    /// What a restart would find now is what is the case, unfinished calls counted as paid.
    fn check(&self) {
        let restored = Authority::restore(AuthorityLimits::default(), &self.state);
        assert_eq!(restored.agent_count(), self.law.agent_count());
        for who in self.agents.iter().map(|one| agent(*one)) {
            assert_eq!(restored.grants_of(who), self.law.grants_of(who));
            assert_eq!(restored.depth_of(who), self.law.depth_of(who));
            assert_eq!(restored.children_of(who).len(), self.law.children_of(who).len());
            let purse = |law: &Authority| law.purse(who, self.now).expect("alive");
            let (then, live) = (purse(&restored), purse(&self.law));
            assert_eq!((then.used, then.reserved), (live.used.plus(&live.reserved), Amounts::NONE));
            let names = |law: &Authority| {
                law.tools_of(who, self.now).iter().map(|tool| tool.name).collect::<Vec<_>>()
            };
            assert_eq!(names(&restored), names(&self.law));
        }
    }

    /// The counters came through: both sides allow the same calls from now on.
    fn check_counters(&mut self) {
        let mut restored = Authority::restore(AuthorityLimits::default(), &self.state);
        for later in [0, 20_000, 40_000, 70_000] {
            let now = self.now.after(Millis(later));
            for who in self.agents.clone() {
                let ask = |law: &mut Authority| {
                    law.authorize(agent(who), fresh_call(), all([tool("echo")]), now)
                        .map(|granted| granted.into_parts().charges)
                };
                assert_eq!(ask(&mut restored), ask(&mut self.law), "agent {who}, {later} ms on");
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::properties::config(150))]

    #[test]
    fn every_prefix_restores_what_was_the_case(steps in prop::collection::vec(any_step(), 1..50)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        let mut again = State::default();
        for entry in &run.journal {
            again.apply(entry);
        }
        prop_assert_eq!(&again, &run.state, "the same entries give the same state");
        run.check_counters();
    }

    #[test]
    fn no_journal_panics_however_broken(
        steps in prop::collection::vec(any_step(), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..120),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        let mut state = State::default();
        for index in order {
            state.apply(index.get(&run.journal));
            let mut restored = Authority::restore(AuthorityLimits::default(), &state);
            for who in run.agents.iter().map(|one| agent(*one)) {
                if let Ok(granted) = restored.authorize(who, fresh_call(), all([tool("echo")]), NOW) {
                    let parts = granted.into_parts();
                    restored.refund(parts.call, parts.charges);
                }
            }
        }
        prop_assert!(state.grants_in_force().iter().all(|id| state.grants.contains_key(id)));
    }
}

#[test]
fn a_forged_cycle_of_grants_and_agents_ends() {
    let mut law = Authority::new(AuthorityLimits::default());
    let records = law.admit_root(admission(1, None), vec![request(1, "tool: echo")], NOW).expect("room");
    let mut own = records[0].clone();
    own.parent = Some(grant(1));
    let charged = Event::SpawnRequested {
        call: call(1),
        child: aaos_core::name::AgentName::parse("a").expect("a name"),
        charges: vec![aaos_core::effect::Charge::Use { grant: grant(1) }],
        under: call(2),
        index: 0,
    };
    let events = vec![spawned(Some(agent(1)), 1, None), Event::CapabilityGranted { grant: own }, charged];
    let state = fold(events);
    assert_eq!(
        Authority::restore(AuthorityLimits::default(), &state).agent_count(),
        0,
        "it hangs on nothing"
    );
}

#[test]
fn a_restart_takes_up_the_approvals_that_have_uses_left_and_whose_holder_lives() {
    let approval = |id: u128, holder: u128, uses| ApprovalGrant {
        id: ApprovalId::from_uuid(Uuid::from_u128(id)),
        holder: agent(holder),
        scope: ApprovalScope::Tool { effect: "echo".to_owned(), grants: Vec::new(), below: None },
        uses,
    };
    let mut state = fold(vec![spawned(None, 0, None)]);
    let there = [approval(5, 1, 0), approval(6, 1, 1), approval(7, 9, 1), approval(8, 1, 3)];
    state.approved = there.iter().map(|one| (one.id, one.clone())).collect();
    let restored = Authority::restore(AuthorityLimits::default(), &state);
    assert_eq!(restored.approvals_of(agent(1)), [there[1].clone(), there[3].clone()]);
    assert_eq!(there.each_ref().map(|one| restored.approval(one.id).is_some()), [false, true, false, true]);
}

#[test]
fn a_grant_that_hangs_on_nothing_is_not_restored() {
    let mut law = Authority::new(AuthorityLimits::default());
    let asked = vec![request(1, "tool: echo"), request(2, "tool: grep")];
    let mut records = law.admit_root(admission(1, None), asked, NOW).expect("room");
    records[1].parent = Some(grant(99));
    let granted = records.into_iter().map(|grant| Event::CapabilityGranted { grant });
    let state = fold(std::iter::once(spawned(None, 0, None)).chain(granted).collect());
    assert_eq!(state.grants.len(), 2, "the control: the journal has both");
    let restored = Authority::restore(AuthorityLimits::default(), &state);
    let held = restored.grants_of(agent(1));
    assert_eq!(held.iter().map(|record| record.id).collect::<Vec<_>>(), [grant(1)]);
}
