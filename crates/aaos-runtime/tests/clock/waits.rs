//! Waits for one another: for replies, for idle workers to be ended, for the count of refused calls.

use std::time::Duration;

use aaos_core::event::Event;
use aaos_core::id::AgentId;
use aaos_core::limits::{MAX_DENIALS_PER_MINUTE, RATE_WINDOW_MS};
use aaos_core::quantity::{Millis, Timestamp};
use aaos_runtime::TraceState;
use serde_json::{Value, json};
use testkit::{Gate, Script, Turn};

use crate::support::{Lab, START, manifest};

const MILLI: Duration = Duration::from_millis(1);
const HALF_MINUTE: Duration = Duration::from_secs(30);

fn seconds(count: u64) -> Timestamp {
    START.after(Millis(count * 1000))
}

/// A writer that waits half a minute for the reply of a keeper, whose model answers when the gate is open.
struct Waiting {
    lab: Lab,
    gate: Gate,
    reply: tokio::task::JoinHandle<Value>,
}

fn waiting() -> Waiting {
    let gate = Gate::new();
    let closed = gate.clone();
    let lab = Lab::new(Script::dynamic(move |_| Turn::say("here").behind(&closed)));
    let grants = "capabilities: [\"tool: send_message\", \"message_send: [keeper]\"]\n";
    let writer = lab.spawn(&manifest("writer", grants));
    lab.spawn(&manifest("keeper", "lifecycle: persistent\n"));
    let (kernel, operator) = (lab.kernel().clone(), lab.operator());
    let reply = lab.begin(async move {
        let input = json!({ "to": "keeper", "message": "hi", "wait_seconds": 30 }).to_string();
        let sent = kernel.invoke_tool(operator, writer, "send_message", &input).await;
        serde_json::from_str(&sent.expect("sent")).expect("JSON")
    });
    lab.until_asked(1);
    lab.until_awaited(seconds(30));
    Waiting { lab, gate, reply }
}

#[test]
fn a_wait_for_a_reply_ends_at_its_limit_and_not_before() {
    let Waiting { lab, gate, reply } = waiting();
    lab.pass_idly(HALF_MINUTE - MILLI);
    assert!(!reply.is_finished() && lab.is_awaited(seconds(30)), "a millisecond is left");
    lab.advance(MILLI);
    let reply = lab.block(reply).expect("it ends");
    assert_eq!(reply, json!({ "trace_id": reply["trace_id"] }), "nothing but the trace");
    gate.open();
    let trace = reply["trace_id"].as_str().expect("an id").parse().expect("an id");
    assert_eq!(lab.result(trace).status, TraceState::Done, "the reply comes all the same");
}

#[test]
fn a_reply_at_the_last_moment_is_a_reply() {
    let Waiting { lab, gate, reply } = waiting();
    lab.pass_idly(HALF_MINUTE - MILLI);
    gate.open();
    assert_eq!(lab.block(reply).expect("it ends")["response"], "here");
    assert!(!lab.is_awaited(seconds(30)), "nobody waits any more");
}

#[test]
fn an_operator_who_asks_for_a_reply_waits_as_long_as_asked() {
    let lab = Lab::new(Script::in_order([Turn::Hang]));
    let agent = lab.spawn(&manifest("keeper", "lifecycle: persistent\n"));
    let trace = lab.deliver(agent, "hi");
    lab.until_asked(1);
    let (kernel, operator) = (lab.kernel().clone(), lab.operator());
    let report = lab.begin(async move { kernel.result(operator, trace, HALF_MINUTE).await });
    lab.until_awaited(seconds(30));
    lab.pass_idly(HALF_MINUTE - MILLI);
    assert!(!report.is_finished() && lab.is_awaited(seconds(30)));
    lab.advance(MILLI);
    let report = lab.block(report).expect("it ends").expect("a report");
    assert_eq!(report.status, TraceState::Pending);
}

fn echo(lab: &Lab, agent: AgentId) {
    lab.invoke(agent, "echo", "{\"message\": \"hi\"}").expect("allowed");
}

#[test]
fn a_worker_is_ended_when_it_was_idle_for_half_a_minute_and_not_before() {
    let lab = Lab::saying("unused");
    let [first, second] = ["first", "second"]
        .map(|name| lab.spawn(&manifest(name, "lifecycle: persistent\ncapabilities: [\"tool: echo\"]\n")));
    echo(&lab, first);
    lab.pass_idly(MILLI);
    echo(&lab, second);
    // The kernel looks every ten seconds.
    for (pass, ended) in [
        (10_000 - 1, vec![]),
        (10_000, vec![]),
        (10_000 - 1, vec![]),
        (1, vec![first]),
        (10_000 - 1, vec![first]),
        (1, vec![first, second]),
    ] {
        lab.pass_idly(Duration::from_millis(pass));
        assert_eq!(stopped(&lab), ended, "at {:?}", lab.now().since(START));
    }
    echo(&lab, first);
    assert_eq!(lab.entries("worker_started").len(), 3, "one that acts again gets another");
}

/// Whose workers were ended, in order.
fn stopped(lab: &Lab) -> Vec<AgentId> {
    lab.entries("worker_stopped").iter().map(|entry| entry.agent_id.expect("an agent's")).collect()
}

#[test]
fn refused_calls_are_counted_until_their_minute_is_over() {
    let lab = Lab::saying("unused");
    let agent = lab.spawn(&manifest("prober", ""));
    let end = START.after(Millis(RATE_WINDOW_MS));
    for _ in 0..MAX_DENIALS_PER_MINUTE {
        lab.invoke(agent, "echo", "{\"message\": \"hi\"}").expect_err("not granted");
    }
    assert!(!lab.is_awaited(end), "each of them has an entry");
    for _ in 0..3 {
        lab.invoke(agent, "echo", "{\"message\": \"hi\"}").expect_err("not granted");
    }
    lab.until_awaited(end);
    lab.pass_idly(Duration::from_millis(RATE_WINDOW_MS) - MILLI);
    assert!(lab.entries("denials_suppressed").is_empty());
    lab.advance(MILLI);
    let counted = lab.wait_for_one("denials_suppressed");
    assert_eq!(counted.event, Event::DenialsSuppressed { count: 3 });
    assert_eq!(counted.timestamp, end);
}
