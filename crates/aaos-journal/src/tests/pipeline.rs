//! Begin and finish, with effects that a real authority authorised.

use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal};
use aaos_core::budget::Budget;
use aaos_core::capability::{Capability, Constraints, NameSet, ToolSet};
use aaos_core::effect::{Authorized, Effect, Spawn, ToolOutcome};
use aaos_core::event::{Event, Outcome};
use aaos_core::grant::GrantRequest;
use aaos_core::id::{AgentId, CallId, GoalId, GrantId, TraceId};
use aaos_core::name::AgentName;
use aaos_core::quantity::{Bytes, Quantity, Timestamp};
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::EchoInput;
use uuid::Uuid;

use super::{directory, hold, open, path_in, saying};
use crate::{About, Filter, Journal, JournalError};

const NOW: Timestamp = Timestamp(5_000);

fn agent() -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(1))
}

fn call(number: u128) -> CallId {
    CallId::from_uuid(Uuid::from_u128(number))
}

fn about() -> About {
    About {
        timestamp: NOW,
        goal_id: Some(GoalId::from_uuid(Uuid::from_u128(2))),
        trace_id: Some(TraceId::from_uuid(Uuid::from_u128(3))),
        parent_event: None,
    }
}

/// An authority with one agent that may do each thing once.
fn authority() -> Authority {
    let once = |number, capability| GrantRequest {
        id: GrantId::from_uuid(Uuid::from_u128(number)),
        capability,
        spelled: None,
        constraints: Constraints { max_invocations: Some(1), ..Constraints::default() },
        root: None,
        special: None,
    };
    let grants =
        vec![once(10, Capability::Tool(ToolSet::All)), once(11, Capability::SpawnChild(NameSet::All))];
    let name = AgentName::parse("tester").expect("a name");
    let admission = Admission::plain(agent(), name, Budget::of(Quantity::Tokens, 100));
    let mut authority = Authority::new(AuthorityLimits::default());
    authority.admit_root(admission, grants, NOW).expect("admitted");
    authority
}

/// A safe effect.
fn echo(authority: &mut Authority, number: u128) -> Result<Authorized<ToolCall>, Refusal> {
    let input = ToolInput::Echo(EchoInput { message: "hello".into() });
    authority.authorize(agent(), call(number), ToolCall::new(input).expect("valid"), NOW)
}

/// An effect that is never repeated.
fn spawn(authority: &mut Authority, number: u128) -> Result<Authorized<Spawn>, Refusal> {
    let child = AgentName::parse("child").expect("a name");
    authority.authorize(
        agent(),
        call(number),
        Spawn {
            child,
            manifest_bytes: Bytes(9),
            manifest: serde_json::Value::Null,
            under: call(7),
            index: 0,
        },
        NOW,
    )
}

async fn poison(journal: &Journal) {
    journal.hook(|connection| {
        connection
            .pragma_update_and_check(None, "max_page_count", 1, |_| Ok(()))
            .expect("no page may be added");
    });
    let failed = journal.record(saying(&"x".repeat(1_000_000))).await.expect_err("no room");
    assert!(matches!(failed, JournalError::DiskFull { .. }), "{failed:?}");
}

/// Lets everything that can run do so, then says whether `future` is ready.
async fn ready_at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn an_effect_that_cannot_be_repeated_waits_for_the_disk() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let release = hold(&journal).await;
    let authorized = spawn(&mut authority(), 1).expect("authorised");
    let mut beginning = Box::pin(journal.begin(authorized, about()));
    assert!(ready_at_once(&mut beginning).await.is_none(), "no permit before the commit");
    assert_eq!(journal.queued(), 1);
    drop(release);
    let permit = beginning.await.expect("committed");
    assert_eq!(journal.stats().entries, 1, "durable when the permit is there");
    assert_eq!((permit.agent(), permit.call(), permit.about()), (agent(), call(1), &about()));
    assert_eq!(permit.all().len(), permit.effect().needs().all.len());

    let release = hold(&journal).await;
    let intent = permit.intent();
    let receipt = permit.settle(Ok(agent()));
    assert_eq!(receipt.outcome(), &Ok(agent()));
    let mut finishing = Box::pin(journal.finish(receipt, Timestamp(6_000)));
    assert!(ready_at_once(&mut finishing).await.is_none(), "nor an end before its commit");
    drop(release);
    let finished = finishing.await.expect("committed");
    assert_eq!((finished.agent, finished.outcome), (agent(), Ok(agent())));

    let entries = journal.read(Filter::default()).await.expect("read");
    let [began, ended] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((began.id, began.timestamp, began.agent_id), (intent, NOW, Some(agent())));
    assert!(matches!(&began.event, Event::SpawnRequested { call: one, .. } if *one == call(1)));
    assert_eq!(
        (ended.id, ended.timestamp, ended.agent_id),
        (finished.entry, Timestamp(6_000), Some(agent()))
    );
    assert_eq!((ended.parent_event, began.parent_event), (Some(intent), None));
    assert_eq!((ended.goal_id, ended.trace_id), (about().goal_id, about().trace_id));
    assert!(matches!(&ended.event, Event::SpawnCompleted { child: Some(child), .. } if *child == agent()));
}

#[tokio::test]
async fn a_safe_effect_waits_for_no_disk_and_is_journalled_all_the_same() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let release = hold(&journal).await;
    let authorized = echo(&mut authority(), 1).expect("authorised");
    let permit = ready_at_once(journal.begin(authorized, about()))
        .await
        .expect("a permit while the writer is busy")
        .expect("journalled");
    let intent = permit.intent();
    let outcome = ToolOutcome::of(Ok("\"hello\"".into()));
    let finished = ready_at_once(journal.finish(permit.settle(outcome), NOW))
        .await
        .expect("an end while the writer is busy")
        .expect("journalled");
    assert_eq!(journal.stats().entries, 0, "control: nothing was committed yet");
    drop(release);
    journal.flush().await.expect("committed");
    let entries = journal.read(Filter::default()).await.expect("read");
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [intent, finished.entry]);
    assert!(matches!(&entries[1].event, Event::ToolResult { outcome: Outcome::Done, .. }));
    assert_eq!(entries[1].parent_event, Some(intent));
}

#[tokio::test]
async fn what_could_not_be_journalled_is_refunded() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let mut sound = authority();
    let (first, second) = (echo(&mut sound, 1).expect("first"), spawn(&mut sound, 2).expect("first"));
    let permits = (journal.begin(first, about()).await, journal.begin(second, about()).await);
    assert!(permits.0.is_ok() && permits.1.is_ok());
    drop(permits);
    assert!(
        echo(&mut sound, 3).is_err(),
        "control: a journalled use is spent, even if its permit is dropped"
    );
    assert!(spawn(&mut sound, 4).is_err(), "control: likewise");

    poison(&journal).await;
    let mut authority = authority();
    let (first, second) = (echo(&mut authority, 1).expect("first"), spawn(&mut authority, 2).expect("first"));
    assert!(echo(&mut authority, 3).is_err(), "control: charged with the decision");
    assert!(matches!(journal.begin(first, about()).await, Err(JournalError::Poisoned { .. })));
    assert!(matches!(journal.begin(second, about()).await, Err(JournalError::Poisoned { .. })));
    assert!(echo(&mut authority, 5).is_ok(), "given back");
    assert!(spawn(&mut authority, 6).is_ok(), "given back");
}

#[tokio::test]
async fn a_beginning_that_is_abandoned_is_refunded() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let mut authority = authority();
    let release = hold(&journal).await;
    let authorized = spawn(&mut authority, 1).expect("authorised");
    assert!(ready_at_once(journal.begin(authorized, about())).await.is_none());
    assert!(spawn(&mut authority, 2).is_ok(), "given back when the future was dropped");
    drop(release);
    journal.flush().await.expect("the writer goes on");
}
