//! Supervision: rests between restarts, and the windows in which restarts and money count.

use std::time::Duration;

use aaos_core::event::{Entry, Event};
use aaos_core::id::AgentId;
use aaos_core::limits::{RESTART_BACKOFF_CAP_MS, RESTART_BACKOFF_FIRST_MS};
use aaos_core::quantity::{Millis, Timestamp};
use aaos_runtime::TraceState;
use serde_json::json;
use testkit::{ReportedUsage, Script, Turn};

use crate::support::{Lab, manifest};

const MILLI: Duration = Duration::from_millis(1);
/// The window of these agents' supervision.
const WINDOW: Duration = Duration::from_secs(60);

fn failing() -> Turn {
    Turn::status(400)
}

fn supervised(more: &str) -> String {
    manifest("keeper", &format!("lifecycle: persistent\nsupervision: {{ {more} }}\n"))
}

/// Of each restart, until when the agent rests.
fn rests(entries: &[Entry]) -> Vec<(Millis, Timestamp)> {
    let rest = |entry: &Entry| match &entry.event {
        Event::AgentRestarted { after, .. } => (*after, entry.timestamp.after(*after)),
        other => panic!("not a restart: {other:?}"),
    };
    entries.iter().map(rest).collect()
}

/// A message that is taken at once, and at which the agent fails.
fn fail(lab: &Lab, agent: AgentId) {
    let trace = lab.deliver(agent, "go");
    assert_eq!(lab.result(trace).status, TraceState::Failed);
}

/// The same, until the restart of this number is on record: no time may pass before.
fn fail_and_rest(lab: &Lab, agent: AgentId, number: usize) {
    fail(lab, agent);
    let restarts = lab.wait_for_entries("agent_restarted", number);
    assert_eq!(restarts[number - 1].timestamp, lab.now());
}

/// Why the agent was given up.
fn given_up(lab: &Lab) -> String {
    let stopped = lab.wait_for_one("agent_stopped");
    assert_eq!(stopped.timestamp, lab.now(), "it ends when it fails");
    serde_json::to_string(&stopped.event).expect("JSON")
}

#[test]
fn each_rest_is_within_its_bounds_and_over_at_its_end_and_not_before() {
    const FAILURES: usize = 9;
    let lab = Lab::new(Script::in_order((0..FAILURES).map(|_| failing()).chain([Turn::say("well")])));
    let agent = lab.spawn(&supervised("max_restarts: 50, within_seconds: 3600"));
    fail_and_rest(&lab, agent, 1);
    for failures in 1..=FAILURES {
        let restarts = rests(&lab.wait_for_entries("agent_restarted", failures));
        let (after, until) = restarts[failures - 1];
        let whole = (RESTART_BACKOFF_FIRST_MS << (failures - 1)).min(RESTART_BACKOFF_CAP_MS);
        assert!((whole / 2..=whole).contains(&after.0), "rest {failures} of {whole} ms took {after:?}");
        lab.until_rounds_are_over();
        let next = lab.deliver(agent, "go on");
        lab.until_awaited(until);
        lab.pass_idly(Duration::from_millis(after.0) - MILLI);
        assert!(lab.is_awaited(until), "it rests still");
        assert_eq!(lab.entries("agent_message_received").len(), failures, "it took nothing");
        assert_eq!(lab.models.requests().len(), failures, "and asked nobody");
        lab.advance(MILLI);
        let answered = if failures == FAILURES { TraceState::Done } else { TraceState::Failed };
        assert_eq!(lab.result(next).status, answered);
        let taken = lab.entries("agent_message_received");
        assert_eq!(taken[failures].timestamp, until, "it went on at that moment");
    }
}

#[test]
fn one_failure_more_than_allowed_gives_up_within_the_window_and_not_after_it() {
    for (third, goes_on) in [(WINDOW, true), (WINDOW - MILLI, false)] {
        let lab = Lab::new(Script::dynamic(|_| failing()));
        let agent = lab.spawn(&supervised("max_restarts: 2, within_seconds: 60"));
        fail_and_rest(&lab, agent, 1);
        lab.pass_idly(WINDOW / 2);
        fail_and_rest(&lab, agent, 2);
        lab.pass_idly(third - WINDOW / 2);
        if goes_on {
            fail_and_rest(&lab, agent, 3);
            assert!(lab.entries("agent_stopped").is_empty());
        } else {
            fail(&lab, agent);
            let why = given_up(&lab);
            assert!(why.contains("it was restarted 2 times within 60 s"), "{why}");
            assert_eq!(lab.entries("agent_restarted").len(), 2);
        }
    }
}

#[test]
fn the_window_goes_on_across_a_restart_of_the_kernel() {
    for (second, goes_on) in [(WINDOW, true), (WINDOW - MILLI, false)] {
        let lab = Lab::new(Script::dynamic(|_| failing()));
        let agent = lab.spawn(&supervised("max_restarts: 1, within_seconds: 60"));
        fail_and_rest(&lab, agent, 1);
        let lab = lab.restart(second);
        if goes_on {
            fail_and_rest(&lab, agent, 2);
            assert!(lab.entries("agent_stopped").is_empty());
        } else {
            fail(&lab, agent);
            let why = given_up(&lab);
            assert!(why.contains("it was restarted 1 times within 60 s"), "{why}");
        }
    }
}

#[test]
fn a_rest_goes_on_across_a_restart_of_the_kernel() {
    let lab = Lab::new(Script::in_order([failing(), Turn::say("well")]));
    let agent = lab.spawn(&supervised("max_restarts: 1, within_seconds: 60"));
    fail(&lab, agent);
    let (after, until) = rests(&[lab.wait_for_one("agent_restarted")])[0];
    let lab = lab.restart(Duration::from_millis(after.0) - MILLI);
    let next = lab.deliver(agent, "go on");
    lab.until_awaited(until);
    assert_eq!(lab.models.requests().len(), 1, "a millisecond is missing");
    lab.advance(MILLI);
    assert_eq!(lab.result(next).status, TraceState::Done);
}

#[test]
fn money_counts_as_long_as_it_is_in_the_window() {
    // At a dollar a thousand tokens.
    let dear = ReportedUsage { input: 590, cached: 0, output: 10 };
    for (second, goes_on) in [(WINDOW, true), (WINDOW - MILLI, false)] {
        let mut asked = 0;
        let lab = Lab::new(Script::dynamic(move |_| {
            asked += 1;
            let echo = Turn::call("echo", json!({ "message": "hi" }));
            if asked % 2 == 1 { Turn::Metered(dear, Box::new(echo)) } else { failing() }
        }));
        let more = "max_restarts: 50, within_seconds: 60, max_usd: 1";
        let agent = lab.spawn(&format!("{}capabilities: [\"tool: echo\"]\n", supervised(more)));
        fail_and_rest(&lab, agent, 1);
        lab.pass_idly(second);
        if goes_on {
            fail_and_rest(&lab, agent, 2);
            assert!(lab.entries("agent_stopped").is_empty());
        } else {
            fail(&lab, agent);
            let why = given_up(&lab);
            assert!(why.contains("it spent 1.20 USD of 1.00 USD within 60 s"), "{why}");
            assert_eq!(lab.entries("agent_restarted").len(), 1);
        }
    }
}
