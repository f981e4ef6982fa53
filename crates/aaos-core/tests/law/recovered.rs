//! What the fold keeps of what was under way: a restart goes on from there as if nobody had noticed.

use aaos_core::approval::{ApprovalGrant, ApprovalScope, AskedBecause, Question};
use aaos_core::authority::{Authority, AuthorityLimits};
use aaos_core::effect::{Charge, Denied, EffectClass};
use aaos_core::event::{AgentEnd, DeniedBy, Entry, Event, Kept, NotApproved};
use aaos_core::id::{ApprovalId, CallId, EntryId, GoalId, Seq, TraceId};
use aaos_core::manifest::Manifest;
use aaos_core::model::{ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelStop, Usage};
use aaos_core::name::{ModelName, ToolName};
use aaos_core::quantity::{Amounts, Bytes, Millis, Timestamp, Tokens};
use aaos_core::state::{PendingCall, PendingKind, STOPPED_BEFORE_REPLY, State};
use aaos_core::toolio::{StopReason, ToolFailure, ToolFailureKind};
use uuid::Uuid;

use crate::support::{NOW, agent, call, grant};

fn approval(number: u128) -> ApprovalId {
    ApprovalId::from_uuid(Uuid::from_u128(number))
}

fn trace(number: u128) -> TraceId {
    TraceId::from_uuid(Uuid::from_u128(number))
}

fn goal() -> GoalId {
    GoalId::from_uuid(Uuid::from_u128(1))
}

/// A journal of persistent agent 1 in goal 1, entry by entry.
struct Story {
    state: State,
    next: u64,
}

impl Story {
    /// Agent 1 was admitted.
    fn new() -> Self {
        let manifest = Manifest::parse("name: a\nmodel: m\nsystem_prompt: p\nlifecycle: persistent");
        let manifest = manifest.expect("a manifest");
        let mut story = Self { state: State::default(), next: 0 };
        story.tell(Event::GoalAccepted {
            goal: "do it".to_owned(),
            outputs: Vec::new(),
            client_key: None,
            deadline: Timestamp(NOW.0 * 2),
            budget: aaos_core::budget::Budget::default(),
            principal: 0,
            priority: 0,
            grants: Vec::new(),
            manifest: None,
            approval_required: Vec::new(),
            working_directory: None,
        });
        story.tell(Event::AgentSpawned {
            name: manifest.name.clone(),
            parent: None,
            depth: 0,
            manifest: Box::new(manifest),
            budget: aaos_core::budget::Budget::default(),
            principal: 7,
            spawned_by: None,
        });
        story
    }

    fn tell(&mut self, event: Event) {
        self.tell_of(None, event);
    }

    /// Entry number n bears the time `NOW` + n.
    fn tell_of(&mut self, trace_id: Option<TraceId>, event: Event) {
        self.next += 1;
        self.state.apply(&Entry {
            seq: Seq(self.next),
            id: EntryId::from_uuid(Uuid::from_u128(u128::from(self.next))),
            timestamp: Timestamp(NOW.0 + self.next),
            goal_id: Some(goal()),
            agent_id: Some(agent(1)),
            trace_id,
            parent_event: None,
            event,
            prev_hash: String::new(),
            hash: String::new(),
        });
    }

    fn run(&mut self, of: u128) {
        let started = Event::AgentExecutionStarted {
            message_hash: String::new(),
            message: "one".to_owned(),
            tools: Vec::new(),
            kept: Kept::default(),
        };
        self.tell_of(Some(trace(of)), started);
    }

    fn asked(&mut self, number: u128) {
        let question = Question {
            id: approval(number),
            agent: agent(1),
            call: call(number),
            effect: "file_write".to_owned(),
            digest: "d".to_owned(),
            because: AskedBecause::Tool,
            needs: Vec::new(),
            grants: Vec::new(),
            input: serde_json::Value::Null,
            targets: Vec::new(),
        };
        let deadline = Timestamp(NOW.0 * 2);
        self.tell(Event::HumanApprovalRequested { question: Box::new(question), deadline });
    }

    fn denied(&mut self, number: u128, because: NotApproved) {
        let (approval, reason) = (approval(number), "no".to_owned());
        self.tell(Event::HumanApprovalDenied { approval, principal: None, reason, because });
    }

    fn invoked(&mut self, call: CallId, charges: Vec<Charge>) {
        self.tell(Event::ToolInvoked {
            call,
            tool: ToolName::parse("file_write").expect("a tool"),
            input: serde_json::Value::Null,
            class: EffectClass::Keyed,
            access: Vec::new(),
            denied: Vec::new(),
            charges,
            model_call: Some(ModelCallId("m".to_owned())),
            at: None,
            repeats: 1,
        });
    }

    fn ended(&mut self, of: u128, stop_reason: StopReason) {
        let completed = Event::AgentExecutionCompleted {
            response: String::new(),
            usage: Usage::default(),
            iterations: 1,
            stop_reason,
            error: Some("it broke".to_owned()),
            cut: None,
            mind_hash: String::new(),
        };
        self.tell_of(Some(trace(of)), completed);
    }

    fn was_denied(&self) -> bool {
        self.state.goals[&goal()].was_denied
    }
}

#[test]
fn a_denial_is_kept_until_its_call_was_told() {
    let told = Event::CallRefused {
        model_call: ModelCallId("m".to_owned()),
        failure: ToolFailure::new(ToolFailureKind::ApprovalDenied, "no"),
        repeats: 1,
    };
    let restarted = Event::DaemonStarted { version: "1".to_owned(), resumed: Vec::new() };
    for because in [NotApproved::Answered, NotApproved::Late] {
        let mut story = Story::new();
        story.run(1);
        story.asked(5);
        assert!(story.state.refused.is_empty());
        story.denied(5, because);
        story.tell(restarted.clone());
        let kept = &story.state.refused[&approval(5)];
        assert_eq!((kept.asked.question.digest.as_str(), kept.reason.as_str()), ("d", "no"));
        assert!(story.state.questions.is_empty() && story.state.agents[&agent(1)].was_refused);
        story.tell(told.clone());
        assert!(story.state.refused.is_empty(), "it was told");
        story.asked(6);
        story.denied(6, because);
        story.ended(1, StopReason::Complete);
        assert!(story.state.refused.is_empty(), "the run is over");
    }
    let mut story = Story::new();
    story.run(1);
    for because in [NotApproved::Stopped, NotApproved::Revoked, NotApproved::Withdrawn] {
        story.asked(7);
        story.denied(7, because);
        assert!(story.state.refused.is_empty(), "{because:?} is no answer to the question");
    }
    assert!(!story.state.agents[&agent(1)].was_refused);
    let mut idle = Story::new();
    idle.asked(8);
    idle.denied(8, NotApproved::Answered);
    assert!(idle.state.refused.is_empty(), "a client's call, which nobody makes again");
}

#[test]
fn what_counts_as_denied_is_one_rule() {
    let denied = |by| Event::CapabilityDenied {
        effect: "echo".to_owned(),
        denied: Denied { missing: String::new(), reason: String::new(), hint: String::new() },
        by,
    };
    let after = |event: Event| {
        let mut story = Story::new();
        assert_eq!(event.is_denial(), {
            story.tell(event);
            story.was_denied()
        });
        story.was_denied()
    };
    assert!(after(denied(DeniedBy::Grants)));
    assert!(!after(denied(DeniedBy::Limit)), "a limit of the runtime denies nothing");
    assert!(
        !after(Event::DenialsSuppressed { count: 3 }),
        "what it counts may be budget; denials were listed before"
    );
    let person = |because| Event::HumanApprovalDenied {
        approval: approval(1),
        principal: None,
        reason: String::new(),
        because,
    };
    use NotApproved::{Answered, Late, Revoked, Stopped, Withdrawn};
    assert_eq!(
        [Answered, Late, Revoked, Stopped, Withdrawn].map(|one| after(person(one))),
        [true, true, true, false, false]
    );
}

#[test]
fn an_approval_that_is_used_up_ends_with_its_last_call() {
    let begun = |story: &mut Story| {
        story.run(1);
        story.asked(5);
        let scope = ApprovalScope::Exactly { digest: "d".to_owned(), targets: Vec::new() };
        let approval = ApprovalGrant { id: approval(5), holder: agent(1), scope, uses: 1 };
        story.tell(Event::HumanApprovalGranted { approval, principal: 0, reason: None });
        story.invoked(call(9), vec![Charge::Approval { approval: self::approval(5) }]);
    };
    let restarted = |resumed| Event::DaemonStarted { version: "1".to_owned(), resumed };
    let mut lost = Story::new();
    begun(&mut lost);
    lost.tell(restarted(Vec::new()));
    assert!(lost.state.approved.is_empty(), "its call is forgotten");

    let mut story = Story::new();
    begun(&mut story);
    story.tell(restarted(vec![call(9)]));
    assert_eq!(story.state.approved[&approval(5)].uses, 0, "its call goes on");
    let mut law = Authority::restore(AuthorityLimits::default(), &story.state);
    let pending: &PendingCall = &story.state.pending[&call(9)];
    let PendingKind::Tool(made) = &pending.kind else { panic!("a tool call") };
    law.reopen(pending, &made.access);
    assert!(law.approval(approval(5)).is_some(), "what was shown can be looked at");
    law.settle(call(9), &pending.charges, &Amounts::NONE, NOW);
    assert!(law.approval(approval(5)).is_none(), "it is used up");
}

#[test]
fn an_approval_that_two_calls_used_up_ends_with_the_second() {
    let mut story = Story::new();
    story.asked(5);
    let scope = ApprovalScope::Tool { effect: "file_write".to_owned(), grants: Vec::new(), below: None };
    let granted = ApprovalGrant { id: approval(5), holder: agent(1), scope, uses: 2 };
    story.tell(Event::HumanApprovalGranted { approval: granted, principal: 0, reason: None });
    let both = [call(8), call(9)];
    for call in both {
        story.invoked(call, vec![Charge::Approval { approval: approval(5) }]);
    }
    story.tell(Event::DaemonStarted { version: "1".to_owned(), resumed: both.to_vec() });
    let mut law = Authority::restore(AuthorityLimits::default(), &story.state);
    let pending = both.map(|call| story.state.pending[&call].clone());
    pending.iter().for_each(|pending| law.reopen(pending, &[]));
    let left = pending.map(|pending| {
        law.settle(pending.call, &pending.charges, &Amounts::NONE, NOW);
        law.approval(approval(5)).map(|one| one.uses)
    });
    assert_eq!(left, [Some(0), None], "what was shown can be looked at as long as one of them goes on");
}

#[test]
fn an_approval_with_uses_outlives_a_call_that_goes_on() {
    let mut story = Story::new();
    story.asked(5);
    let scope = ApprovalScope::Tool { effect: "file_write".to_owned(), grants: Vec::new(), below: None };
    let granted = ApprovalGrant { id: approval(5), holder: agent(1), scope, uses: 1 };
    story.tell(Event::HumanApprovalGranted { approval: granted, principal: 0, reason: None });
    story.invoked(call(9), vec![Charge::Approval { approval: approval(5) }]);
    story.tell(Event::DaemonStarted { version: "1".to_owned(), resumed: vec![call(9)] });
    let mut law = Authority::restore(AuthorityLimits::default(), &story.state);
    let pending = story.state.pending[&call(9)].clone();
    law.reopen(&pending, &[]);
    // The call never happened after all: its use is free again.
    law.refund(call(9), pending.charges);
    assert_eq!(law.approval(approval(5)).map(|one| one.uses), Some(1));
}

#[test]
fn a_failure_is_unsupervised_until_the_supervision_decided() {
    let mut story = Story::new();
    let is_open = |story: &Story| story.state.agents[&agent(1)].unsupervised_failure().is_some();
    story.run(1);
    story.ended(1, StopReason::Complete);
    assert!(!is_open(&story), "the control: no failure");
    story.run(2);
    assert!(!is_open(&story));
    story.ended(2, StopReason::Error);
    assert!(is_open(&story));
    story.tell(Event::DaemonStarted { version: "1".to_owned(), resumed: Vec::new() });
    assert!(is_open(&story), "a restart of agentd decides nothing");
    let restarted =
        Event::AgentRestarted { restarts: 1, after: Millis(1), reason: "it broke".to_owned(), fresh: false };
    story.tell_of(Some(trace(2)), restarted);
    assert!(!is_open(&story));
}

#[test]
fn what_an_agent_that_stopped_had_not_answered_is_told_as_before() {
    let failed = AgentEnd::Failed { reason: "too often".to_owned() };
    for (end, why) in [(failed, "too often"), (AgentEnd::Stopped, STOPPED_BEFORE_REPLY)] {
        let mut story = Story::new();
        for number in [1, 2] {
            let message = "hi".to_owned();
            let delivered = Event::MessageDelivered { message, from: None, under: None };
            story.tell_of(Some(trace(number)), delivered);
        }
        story.tell_of(Some(trace(1)), Event::AgentMessageReceived {});
        story.run(1);
        assert!(story.state.replies.is_empty());
        story.tell(Event::AgentStopped { end });
        for number in [1, 2] {
            let reply = &story.state.replies[&trace(number)];
            assert!(reply.is_missing, "no run gave it");
            assert_eq!((reply.agent, reply.error.as_deref()), (agent(1), Some(why)), "{number}");
        }
    }
    let mut story = Story::new();
    story.run(1);
    story.ended(1, StopReason::Complete);
    story.tell(Event::AgentStopped { end: AgentEnd::Stopped });
    assert!(!story.state.replies[&trace(1)].is_missing, "the control: what was answered stays so");
}

#[test]
fn calls_that_a_revocation_cut_are_known_by_their_ids() {
    let mut story = Story::new();
    let (grant, ended) = (grant(1), vec![grant(1)]);
    story.tell(Event::CapabilityRevoked { grant, principal: 0, ended, cut: vec![call(4)] });
    assert!(story.state.cut.contains(&call(4)) && !story.state.cut.contains(&call(5)));
}

#[test]
fn what_a_provider_asked_for_is_kept_until_it_answers() {
    let model = || ModelName::parse("m").expect("a model");
    let requested = |number| Event::InferenceRequested {
        call: call(number),
        model: model(),
        messages: 1,
        request_bytes: Bytes(1),
        request_hash: String::new(),
        reserve: Tokens(1),
        price: None,
        charges: Vec::new(),
        keeps: None,
        estimate: None,
    };
    let busy = |retry_after| ModelFailure {
        kind: ModelFailureKind::RateLimited,
        message: "busy".to_owned(),
        retry_after,
    };
    let completed = |number, result| Event::InferenceCompleted {
        call: call(number),
        result,
        attempts: 1,
        possibly_billed: 0,
        spent: Amounts::NONE,
        elapsed: Millis(1),
    };
    let mut story = Story::new();
    story.tell(requested(1));
    story.tell(completed(1, Err(busy(None))));
    assert!(story.state.quiet.is_empty(), "it asked for nothing");
    story.tell(requested(2));
    let wish = Some(Millis(9_000));
    story.tell(Event::InferenceRetried {
        call: call(2),
        failure: busy(wish),
        wait: Millis(9_500),
        instead: None,
    });
    assert_eq!(
        story.state.quiet[&model()],
        Timestamp(NOW.0 + story.next + 9_500),
        "with what was added to it"
    );
    story.tell(completed(2, Err(busy(wish))));
    assert_eq!(story.state.quiet[&model()], Timestamp(NOW.0 + story.next + 9_000));
    story.tell(Event::DaemonStarted { version: "1".to_owned(), resumed: Vec::new() });
    assert_eq!(story.state.quiet.len(), 1);
    story.tell(requested(3));
    let usage = Usage::default();
    let reply = ModelReply {
        text: String::new(),
        reasoning: None,
        thinking: Vec::new(),
        calls: Vec::new(),
        stop: ModelStop::EndTurn,
        usage,
    };
    story.tell(completed(3, Ok(reply.clone())));
    assert_eq!(story.state.quiet.len(), 1, "that one it had read before it asked to be left alone");
    story.next += 9_000;
    story.tell(requested(4));
    story.tell(completed(4, Ok(reply)));
    assert!(story.state.quiet.is_empty(), "it answers again");
}
