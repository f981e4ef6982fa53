//! Schedules: each due time fires once and at its time; what a jump of the clock passes over follows the policy.

use std::time::Duration;

use aaos_core::event::Event;
use aaos_core::id::AgentId;
use aaos_core::quantity::{Millis, Timestamp};
use aaos_runtime::TraceState;

use crate::support::{Lab, START, fired, manifest};

const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Due every five minutes; the first time five minutes after [`START`].
fn counter(lab: &Lab, more: &str) -> AgentId {
    let lifecycle = format!("lifecycle: {{ scheduled: \"*/5 * * * *\", {more}message: Count. }}\n");
    let agent = lab.spawn(&manifest("counter", &lifecycle));
    lab.until_awaited(minute(5));
    agent
}

fn minute(count: u64) -> Timestamp {
    START.after(Millis(count * 60_000))
}

/// Blocks until the firing of this number was answered.
fn answered(lab: &Lab, firing: usize) {
    let entries = lab.wait_for_entries("schedule_fired", firing);
    let trace = entries[firing - 1].trace_id.expect("a firing delivers a message");
    assert_eq!(lab.result(trace).status, TraceState::Done);
}

/// How many due times were recorded as missed, and until when.
fn missed(lab: &Lab) -> Vec<(u32, Timestamp)> {
    let read = |event: &Event| match event {
        Event::ScheduleMissed { count, until } => (*count, *until),
        other => panic!("nothing was missed: {other:?}"),
    };
    lab.entries("schedule_missed").iter().map(|entry| read(&entry.event)).collect()
}

#[test]
fn each_due_time_fires_once_at_its_time_and_not_before() {
    let lab = Lab::saying("counted");
    counter(&lab, "");
    for firing in 1..=3 {
        let due = minute(5 * firing as u64);
        lab.pass_idly(5 * MINUTE - MILLI);
        assert!(lab.is_awaited(due), "it is still to come");
        assert_eq!((fired(&lab).len(), lab.models.requests().len()), (firing - 1, firing - 1));
        lab.advance(MILLI);
        answered(&lab, firing);
        assert_eq!(lab.wait_for_entries("schedule_fired", firing)[firing - 1].timestamp, due);
        lab.until_awaited(minute(5 * firing as u64 + 5));
    }
    assert_eq!(fired(&lab), [5, 10, 15].map(minute));
    assert_eq!(lab.models.requests().len(), 3);
    assert!(missed(&lab).is_empty());
}

#[test]
fn one_firing_stands_for_what_a_jump_passed_over() {
    let lab = Lab::saying("counted");
    counter(&lab, "");
    lab.advance(17 * MINUTE);
    answered(&lab, 1);
    lab.until_awaited(minute(20));
    assert_eq!((fired(&lab), missed(&lab)), (vec![minute(15)], vec![(2, minute(15))]));
    assert_eq!(lab.models.requests().len(), 1, "it was woken once");
    lab.advance(3 * MINUTE);
    answered(&lab, 2);
    assert_eq!(fired(&lab), [15, 20].map(minute), "and goes on as before");
}

#[test]
fn a_policy_that_skips_drops_what_is_late_and_fires_what_is_not() {
    for (late, is_fired) in [(30_000, true), (30_001, false)] {
        let lab = Lab::saying("counted");
        counter(&lab, "misfire: skip, ");
        lab.advance(15 * MINUTE + Duration::from_millis(late));
        lab.until_awaited(minute(20));
        if is_fired {
            answered(&lab, 1);
            assert_eq!((fired(&lab), missed(&lab)), (vec![minute(15)], vec![(2, minute(15))]));
        } else {
            assert_eq!(missed(&lab), [(3, lab.now())]);
            assert!(fired(&lab).is_empty() && lab.models.requests().is_empty(), "nobody was woken");
        }
        let before = fired(&lab).len();
        lab.advance(5 * MINUTE - Duration::from_millis(late));
        answered(&lab, before + 1);
        assert_eq!(fired(&lab).last(), Some(&minute(20)));
    }
}

#[test]
fn a_due_time_that_fired_does_not_fire_again_after_a_restart_of_the_kernel() {
    let lab = Lab::saying("counted");
    counter(&lab, "");
    lab.advance(5 * MINUTE);
    answered(&lab, 1);
    let lab = lab.restart(Duration::ZERO);
    lab.until_awaited(minute(10));
    assert_eq!(fired(&lab), [minute(5)], "at the very moment it is over");
    let lab = lab.restart(5 * MINUTE - MILLI);
    lab.until_awaited(minute(10));
    assert_eq!(fired(&lab), [minute(5)], "and the next is to come");
    lab.advance(MILLI);
    answered(&lab, 2);
    assert_eq!(fired(&lab), [5, 10].map(minute));
}

#[test]
fn what_became_due_between_two_kernels_fires_once() {
    let lab = Lab::saying("counted");
    counter(&lab, "");
    let lab = lab.restart(17 * MINUTE);
    answered(&lab, 1);
    lab.until_awaited(minute(20));
    assert_eq!((fired(&lab), missed(&lab)), (vec![minute(15)], vec![(2, minute(15))]));
    let lab = lab.restart(Duration::ZERO);
    lab.until_awaited(minute(20));
    assert_eq!(fired(&lab), [minute(15)]);
    assert_eq!(lab.models.requests().len(), 1);
}
