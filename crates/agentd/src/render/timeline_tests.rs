//! What entries come to.

use aaos_core::event::{AgentEnd, Entry, Event, GoalState};
use aaos_core::quantity::{Amounts, Millis, Quantity, Tokens};

use super::{Report, Timeline, Used, cost};
use crate::render::fixture::{goal_with_a_child, lead, reader};

fn report() -> Report {
    let mut timeline = Timeline::default();
    goal_with_a_child().iter().for_each(|entry| timeline.take(entry));
    timeline.report().expect("there are entries")
}

#[test]
fn agents_stand_below_their_parents_with_what_they_used() {
    let report = report();
    let [root] = report.agents.as_slice() else { panic!("one root: {report:?}") };
    let [child] = root.children.as_slice() else { panic!("one child: {root:?}") };
    assert_eq!((root.agent_id, child.agent_id, child.parent), (lead(), reader(), Some(lead())));
    assert_eq!((root.used.inferences, child.used.inferences, report.used.inferences), (2, 1, 3));
    assert_eq!((root.used.calls, root.used.failed_calls), (2, 0));
    assert_eq!((child.used.calls, child.used.failed_calls), (3, 2));
    assert_eq!(report.used.usage.input_tokens, Tokens(300), "as the goal's own end says");
    assert_eq!(report.used.spent.get(Quantity::MicroUsd), 3600);
    assert_eq!(root.end, Some(AgentEnd::Finished));
}

#[test]
fn waits_are_kept_apart_from_work() {
    let report = report();
    let (root, child) = (&report.agents[0], &report.agents[0].children[0]);
    assert_eq!(root.time.approval_wait_ms, Millis(30_000));
    assert_eq!((root.time.children_ms, root.time.tools_ms), (Millis(20), Millis(20)));
    assert_eq!(child.time.provider_wait_ms, Millis(500));
    assert_eq!(child.time.model_ms, Millis(1000), "without the wait");
}

#[test]
fn a_goal_that_goes_on_has_a_timeline_too() {
    let entries = goal_with_a_child();
    let mut timeline = Timeline::default();
    assert!(Timeline::default().report().is_none());
    for entry in entries.iter().take(entries.len() - 1) {
        timeline.take(entry);
    }
    let goal = timeline.report().and_then(|report| report.goal).expect("it was accepted");
    assert_eq!((goal.state, goal.ended_at, goal.exit_code), (GoalState::Running, None, None));
}

#[test]
fn a_run_that_went_on_after_a_restart_is_one_run() {
    let mut timeline = Timeline::default();
    for entry in goal_with_a_child() {
        timeline.take(&entry);
        if matches!(entry.event, Event::AgentExecutionStarted { .. }) {
            timeline.take(&Entry { event: Event::AgentExecutionResumed {}, ..entry });
        }
    }
    let report = timeline.report().expect("entries");
    assert_eq!((report.agents[0].runs, report.agents[0].resumed), (1, 1));
}

#[test]
fn children_without_their_parent_stand_at_the_top() {
    let mut timeline = Timeline::default();
    let entries = goal_with_a_child();
    let of_reader = entries.iter().filter(|entry| entry.agent_id == Some(reader()));
    assert!(of_reader.clone().any(|entry| matches!(entry.event, Event::AgentSpawned { .. })));
    of_reader.for_each(|entry| timeline.take(entry));
    let report = timeline.report().expect("entries");
    assert_eq!((report.agents.len(), report.agents[0].agent_id, report.goal), (1, reader(), None));
}

#[test]
fn a_cost_that_is_not_known_is_not_zero() {
    let spent = Amounts::of(Quantity::MicroUsd, 1_200);
    let used =
        |inferences, unpriced_inferences| Used { spent, inferences, unpriced_inferences, ..Used::default() };
    assert_eq!(cost(&used(2, 0)), "0.0012 USD");
    assert_eq!(cost(&used(2, 1)), "at least 0.0012 USD");
    assert_eq!(cost(&Used { spent: Amounts::NONE, ..used(2, 2) }), "unknown");
    assert_eq!(cost(&Used::default()), "0.00 USD");
}
