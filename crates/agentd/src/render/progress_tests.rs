//! The story of a run: routine is left out, trouble never.

use aaos_core::approval::{ApprovalGrant, ApprovalScope, AskedBecause, Question};
use aaos_core::confinement::Boundary;
use aaos_core::effect::Denied;
use aaos_core::event::{AgentEnd, DeniedBy, Entry, Event, NotApproved};
use aaos_core::id::{AgentId, ApprovalId, CallId, WorkerId};
use aaos_core::model::{ModelCallId, ModelFailure, ModelFailureKind, Usage};
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp};
use aaos_core::toolio::{StopReason, ToolFailure, ToolFailureKind};
use uuid::Uuid;

use crate::render::Tone;
use crate::render::entry::tests::{entry, granted, granted_with_a_fifo, receipt, result, spawned};

use super::{Clock, Story};

fn told(entries: &[Entry]) -> Vec<(Tone, String)> {
    let mut story = Story::new(Clock::Elapsed);
    entries.iter().flat_map(|entry| story.tell(entry)).map(|said| (said.tone, said.text)).collect()
}

fn texts(entries: &[Entry]) -> Vec<String> {
    told(entries).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_child_is_told_with_what_it_may_do() {
    assert_eq!(
        texts(&[spawned(), granted("file_read: /x/*"), receipt(true), result(None)]),
        [
            "    0 ms  reader: started by 00000009, model fast",
            "    0 ms  reader   may file_read: /x/*",
            "    0 ms  reader: worker confined, 2 of 3 boundaries proved; without own_uid",
        ]
    );
}

#[test]
fn a_root_agent_s_grants_were_printed_before() {
    let mut root = spawned();
    if let Event::AgentSpawned { parent, .. } = &mut root.event {
        *parent = None;
    }
    assert_eq!(texts(&[root.clone(), granted("file_read: /x/*")]), [""; 0]);
    // What was found below one was not known then.
    let found = told(&[root, granted("file_read: /x/*"), granted_with_a_fifo("file_read: /x/*")]);
    let lines = ["    0 ms  reader   may file_read: /x/*", "              which holds FIFO a\\u{202e}q"];
    assert_eq!(found, lines.map(|line| (Tone::Warn, line.to_owned())));
}

#[test]
fn trouble_is_always_told_and_in_its_tone() {
    let failure = ToolFailure::new(ToolFailureKind::NotFound, "there is no /x/y");
    let failed = told(&[spawned(), result(Some(failure))]);
    assert_eq!(failed[1].0, Tone::Bad);
    assert_eq!(failed[1].1, "    0 ms  reader: file_read failed: there is no /x/y (not_found) in 12 ms");
    let budget = entry(Event::BudgetExceeded { quantity: Quantity::Tokens, wanted: 9, remaining: 3 });
    assert_eq!(told(&[budget])[0].0, Tone::Bad);
}

#[test]
fn the_calendar_can_stand_before_the_lines() {
    let said = Story::new(Clock::Calendar).tell(&spawned());
    assert_eq!(said[0].text, "2024-03-01T00:00:00.000Z  reader: started by 00000009, model fast");
}

#[test]
fn the_same_lack_is_told_once() {
    let lack = |boundary| {
        let worker = WorkerId::from_uuid(Uuid::from_u128(5));
        entry(Event::ConfinementDegraded { worker, missing: vec![boundary] })
    };
    let lacks = [lack(Boundary::OwnUid), lack(Boundary::OwnUid), lack(Boundary::PidNamespace)];
    assert_eq!(told(&lacks).len(), 2);
}

#[test]
fn a_reason_is_told_once_and_another_one_again() {
    let failure = ModelFailure {
        kind: ModelFailureKind::Rejected,
        message: "this goal is not read".to_owned(),
        retry_after: None,
    };
    let asked = entry(Event::InferenceCompleted {
        call: CallId::from_uuid(Uuid::from_u128(4)),
        result: Err(failure),
        attempts: 1,
        possibly_billed: 0,
        spent: Amounts::NONE,
        elapsed: Millis(1),
    });
    let ended = |why: &str| {
        entry(Event::AgentExecutionCompleted {
            response: String::new(),
            usage: Usage::default(),
            iterations: 1,
            stop_reason: StopReason::Error,
            error: Some(why.to_owned()),
            cut: None,
            mind_hash: String::new(),
        })
    };
    let stopped = |why: &str| entry(Event::AgentStopped { end: AgentEnd::Failed { reason: why.to_owned() } });
    let why = "the model failed: this goal is not read";
    let lines = texts(&[asked.clone(), ended(why), stopped(why)]);
    assert_eq!(lines.len(), 3, "no trouble is left out");
    assert_eq!(lines.iter().filter(|line| line.contains("not read")).count(), 1, "{lines:?}");
    let lines = texts(&[asked, ended("another"), stopped("a third")]);
    assert!(lines[1].ends_with(": another") && lines[2].ends_with("failed: a third"), "{lines:?}");
}

#[test]
fn a_question_and_its_answers_are_told() {
    let question = question();
    let id = question.id;
    let asked =
        entry(Event::HumanApprovalRequested { question: Box::new(question), deadline: Timestamp(9_000) });
    let lines = told(&[asked]);
    assert_eq!(lines[0].0, Tone::Warn, "shown with --quiet, too");
    assert!(
        lines[0]
            .1
            .contains(&format!("waits for approval {id}: file_write path=\"/x/a\\u{{1b}}\"; its manifest")),
        "{lines:?}"
    );
    let denied = |principal| {
        let reason = "too late".to_owned();
        told(&[entry(Event::HumanApprovalDenied {
            approval: id,
            principal,
            reason,
            because: NotApproved::Answered,
        })])
        .remove(0)
    };
    assert!(denied(Some(7)).1.ends_with("not approved by uid 7: too late") && denied(None).0 == Tone::Bad);
    assert!(denied(None).1.ends_with("not approved by agentd itself: too late"));
    let scope = ApprovalScope::Exactly { digest: String::new(), targets: Vec::new() };
    let approval = ApprovalGrant { id, holder: AgentId::from_uuid(Uuid::from_u128(9)), scope, uses: 1 };
    let granted = entry(Event::HumanApprovalGranted { approval, principal: 7, reason: None });
    assert!(texts(&[granted])[0].ends_with("by uid 7, this very call"));
}

fn question() -> Question {
    Question {
        id: ApprovalId::from_uuid(Uuid::from_u128(3)),
        agent: AgentId::from_uuid(Uuid::from_u128(9)),
        call: CallId::from_uuid(Uuid::from_u128(4)),
        effect: "file_write".to_owned(),
        digest: String::new(),
        because: AskedBecause::Tool,
        needs: Vec::new(),
        grants: Vec::new(),
        input: serde_json::json!({ "path": "/x/a\u{1b}" }),
        targets: Vec::new(),
    }
}

#[test]
fn a_fetch_that_reached_nothing_is_not_told_as_fetched() {
    let fetch = |final_url: Option<&str>| {
        entry(Event::NetworkFetched {
            call: CallId::from_uuid(Uuid::from_u128(4)),
            url: "http://a.org/".to_owned(),
            final_url: final_url.map(str::to_owned),
            bytes: Bytes(0),
        })
    };
    assert_eq!(texts(&[fetch(None)]), [""; 0]);
    assert!(texts(&[fetch(Some("http://a.org/"))])[0].contains("fetched http://a.org/, 0 B"));
}

#[test]
fn a_call_that_was_refused_for_what_was_just_told_is_not_told_again() {
    let refused = |message: &str| {
        let failure = ToolFailure::new(ToolFailureKind::Denied, message);
        let model_call = ModelCallId("call_1".to_owned());
        entry(Event::CallRefused { model_call, failure, repeats: 1 })
    };
    let denied =
        Denied { missing: "tool: echo".into(), reason: "no grant covers it".into(), hint: "ask".into() };
    let denied = entry(Event::CapabilityDenied { effect: "echo".to_owned(), denied, by: DeniedBy::Grants });
    assert_eq!(texts(&[denied.clone(), refused("denied")]).len(), 1);
    assert_eq!(texts(&[denied, refused("denied"), refused("too many")]).len(), 2, "another one is");
    assert!(
        texts(&[refused("there is no such tool")])[0].contains("not begun: there is no such tool (denied)")
    );
}
