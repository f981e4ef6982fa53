//! Leave to go on with a call: once each, and only where making it again does no harm.

use aaos_core::authority::{Admission, Authority, AuthorityLimits};
use aaos_core::budget::Budget;
use aaos_core::capability::GrantSpec;
use aaos_core::effect::{Access, ToolOutcome};
use aaos_core::grant::GrantRequest;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::model::ModelCallId;
use aaos_core::name::AgentName;
use aaos_core::quantity::{Millis, Timestamp};
use aaos_core::tool::{ToolCall, find};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{directory, open, path_in};
use crate::{About, Journal, Permit};

const NOW: Timestamp = Timestamp(5_000);

fn id(number: u128) -> CallId {
    CallId::from_uuid(Uuid::from_u128(number))
}

fn authority() -> Authority {
    let words = ["tool: *", "file_read: /data/*", "file_write: /data/*", "spawn_child: [*]"];
    let grant = |(number, words): (u128, &str)| {
        let spec = GrantSpec::parse(words).expect("a grant");
        GrantRequest {
            id: GrantId::from_uuid(Uuid::from_u128(number)),
            capability: spec.capability,
            spelled: None,
            constraints: spec.constraints,
            root: None,
            special: None,
        }
    };
    let agent = AgentId::from_uuid(Uuid::from_u128(1));
    let admission = Admission::plain(agent, AgentName::parse("tester").expect("a name"), Budget::default());
    let mut authority = Authority::new(AuthorityLimits::default());
    let grants = (10..).zip(words).map(grant).collect();
    authority.admit_root(admission, grants, NOW).expect("admitted");
    authority
}

async fn begin(
    journal: &Journal,
    authority: &mut Authority,
    number: u128,
    tool: &str,
    input: Value,
) -> Permit<ToolCall> {
    let input = find(tool).expect("a tool").parse_input(input).expect("its arguments");
    let call = ToolCall::new(input).expect("usable").made(2).asked_as(ModelCallId(format!("call-{number}")));
    let agent = AgentId::from_uuid(Uuid::from_u128(1));
    let authorized = authority.authorize(agent, id(number), call, NOW).expect("allowed");
    let about = About { timestamp: NOW, goal_id: None, trace_id: None, parent_event: None };
    journal.begin(authorized, about).await.expect("begun")
}

fn failed() -> ToolOutcome {
    ToolOutcome::failed(ToolFailure::new(ToolFailureKind::Io, "no"), Millis(1))
}

#[tokio::test]
async fn calls_that_may_be_made_again_go_on_once_each() {
    let directory = directory();
    let path = path_in(&directory);
    let (journal, mut law) = (open(&path), authority());
    let text = json!({ "path": "/data/a", "content": "x" });
    let edit = json!({ "path": "/data/a", "old_string": "x", "new_string": "y" });
    let child = json!({ "manifest": "name: c", "message": "go" });
    let began = [
        begin(&journal, &mut law, 1, "echo", json!({ "message": "hello" })).await,
        begin(&journal, &mut law, 2, "file_write", text).await,
        begin(&journal, &mut law, 3, "file_edit", edit).await,
        begin(&journal, &mut law, 4, "spawn_agent", child).await,
    ];
    let done = begin(&journal, &mut law, 5, "echo", json!({ "message": "over" })).await;
    journal.finish(done.settle(failed()), NOW).await.expect("recorded");
    assert!(journal.resume(id(1)).is_none(), "it was begun by this very daemon");
    let before: Vec<(Vec<Access>, _)> =
        began.iter().map(|permit| (permit.all().to_vec(), permit.intent())).collect();
    assert!(began.iter().all(|permit| !permit.is_resumed()));
    drop(began);
    journal.close().await.expect("closes");

    let journal = open(&path);
    let mut again = Vec::new();
    for (number, goes_on) in [(1, true), (2, true), (3, false), (4, true), (5, false), (6, false)] {
        let permit = journal.resume(id(number));
        assert_eq!(permit.is_some(), goes_on, "call {number}");
        assert!(journal.resume(id(number)).is_none(), "call {number} goes on once");
        again.extend(permit);
    }
    for (permit, at) in again.iter().zip([0, 1, 3]) {
        assert!(permit.is_resumed(), "it may have been done already");
        assert_eq!((permit.all(), permit.intent()), (&before[at].0[..], before[at].1));
        assert_eq!(permit.effect().repeats(), 2);
        assert_eq!(permit.effect().model_call(), Some(&ModelCallId(format!("call-{}", at + 1))));
    }
    let first = again.swap_remove(0);
    journal.finish(first.settle(failed()), NOW).await.expect("recorded");
    drop(again);
    journal.close().await.expect("closes");

    let journal = open(&path);
    assert!(journal.resume(id(1)).is_none(), "its end is recorded");
    assert!(journal.resume(id(2)).is_some(), "the control: this one was cut short again");
}
