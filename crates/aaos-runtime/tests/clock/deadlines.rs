//! Deadlines: of goals, of questions to people, and of the time that a purse holds.

use std::time::Duration;

use aaos_core::budget::Budget;
use aaos_core::event::{Event, GoalState};
use aaos_core::id::{AgentId, GoalId};
use aaos_core::limits::APPROVAL_WAIT_MS;
use aaos_core::manifest::Manifest;
use aaos_core::quantity::{Millis, Timestamp};
use aaos_core::toolio::StopReason;
use aaos_runtime::{Answer, Covers, GoalRequest, GoalView, KernelError};
use testkit::{Gate, Script, Turn};

use crate::support::{Lab, START, manifest, millis};

const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// How long these goals may take. An hour and a half, so that it is none of the kernel's own rounds, and longer than any
/// test waits for a model, whose timers are real.
const GOAL_TIME: Duration = Duration::from_secs(5_400);
const DEADLINE: Timestamp = Timestamp(START.0 + 5_400_000);
/// How long what runs may take to end when a stop was asked for.
const CLOSING: Duration = Duration::from_secs(10);

/// A goal that is to be done by [`DEADLINE`].
fn submit(lab: &Lab, more: &str) -> GoalId {
    let request = GoalRequest {
        goal: "Say something.".to_owned(),
        outputs: Vec::new(),
        client_key: None,
        priority: 0,
        deadline_seconds: GOAL_TIME.as_secs(),
        budget: Budget::default(),
        grants: Vec::new(),
        manifest: Some(Manifest::parse(&manifest("worker", more)).expect("a manifest")),
        approval_required: Vec::new(),
        working_directory: None,
    };
    let goal = lab.block(lab.kernel().submit(lab.operator(), request)).expect("accepted");
    lab.until_awaited(DEADLINE);
    goal
}

fn view(lab: &Lab, goal: GoalId) -> GoalView {
    lab.kernel().goal(lab.operator(), goal).expect("known")
}

fn ended(lab: &Lab, goal: GoalId) -> GoalView {
    lab.block(lab.kernel().wait_goal(lab.operator(), goal)).expect("it ends")
}

/// Why the only run ended.
fn stop_reason(lab: &Lab) -> StopReason {
    match lab.wait_for_one("agent_execution_completed").event {
        Event::AgentExecutionCompleted { stop_reason, .. } => stop_reason,
        other => panic!("not the end of a run: {other:?}"),
    }
}

#[test]
fn a_goal_fails_at_its_deadline_and_not_before() {
    let lab = Lab::new(Script::in_order([Turn::Hang]));
    let goal = submit(&lab, "");
    lab.until_asked(1);
    lab.pass_idly(GOAL_TIME - MILLI);
    assert_eq!(view(&lab, goal).state, GoalState::Running, "a millisecond is left");
    assert!(lab.entries("agent_execution_completed").is_empty());
    lab.advance(MILLI);
    let failed = ended(&lab, goal);
    assert_eq!((failed.state, failed.exit_code), (GoalState::Failed, Some(1)));
    assert_eq!(failed.error.as_deref(), Some("the goal's deadline passed"));
    assert_eq!(stop_reason(&lab), StopReason::Cancelled);
    assert_eq!(lab.wait_for_one("goal_finished").timestamp, DEADLINE);
}

#[test]
fn a_goal_that_is_done_before_its_deadline_stays_done() {
    let gate = Gate::new();
    let lab = Lab::new(Script::in_order([Turn::say("said").behind(&gate)]));
    let goal = submit(&lab, "");
    lab.until_asked(1);
    lab.pass_idly(GOAL_TIME - MILLI);
    gate.open();
    let done = ended(&lab, goal);
    assert_eq!((done.state, done.response.as_deref()), (GoalState::Done, Some("said")));
    assert!(!lab.is_awaited(DEADLINE), "nobody waits for it any more");
    lab.pass_idly(MINUTE);
    assert_eq!(view(&lab, goal), done);
    assert_eq!(stop_reason(&lab), StopReason::Complete);
    assert_eq!(lab.entries("goal_finished").len(), 1);
}

#[test]
fn a_stop_waits_for_what_runs_and_the_deadline_of_a_goal_goes_on_meanwhile() {
    let lab = Lab::new(Script::in_order([Turn::Hang, Turn::Hang]));
    let goal = submit(&lab, "");
    lab.until_asked(1);
    lab.pass_idly(MILLI);
    let kernel = lab.kernel().clone();
    let stop = lab.begin(async move { kernel.shutdown().await });
    // The inference may end in this time, and does not.
    let end = lab.now().after(millis(CLOSING));
    lab.until_waits(|waits| waits == [end, DEADLINE]);
    lab.advance(CLOSING - MILLI);
    assert!(
        !stop.is_finished() && lab.is_awaited(end) && lab.entries("daemon_stopped").is_empty(),
        "a millisecond is left"
    );
    lab.advance(MILLI);
    lab.block(stop).expect("it ends").expect("the journal is closed");
    let lab = lab.start_again(GOAL_TIME / 2);
    lab.until_asked(2);
    lab.until_awaited(DEADLINE);
    lab.pass_idly(Duration::from_millis(DEADLINE.since(lab.now()).0) - MILLI);
    assert_eq!(view(&lab, goal).state, GoalState::Running);
    assert!(lab.entries("goal_finished").is_empty());
    lab.advance(MILLI);
    assert_eq!(ended(&lab, goal).error.as_deref(), Some("the goal's deadline passed"));
}

/// A run that may take a minute, whoever has time left.
#[test]
fn a_run_ends_when_its_time_is_used_up_and_not_before() {
    let lab = Lab::new(Script::in_order([Turn::Hang]));
    let more = "lifecycle: persistent\nbudget_config: { max_wall_seconds: 60 }\n";
    let agent = lab.spawn(&manifest("worker", more));
    let trace = lab.deliver(agent, "go");
    lab.until_asked(1);
    lab.until_awaited(START.after(Millis(60_000)));
    lab.pass_idly(MINUTE - MILLI);
    assert!(lab.entries("agent_execution_completed").is_empty());
    lab.advance(MILLI);
    lab.result(trace);
    assert_eq!(stop_reason(&lab), StopReason::BudgetExceeded);
}

const ASKS: &str = "capabilities: [\"tool: echo\"]\napproval_required: [echo]\n";

/// A call that waits for a person, begun beside the test, and until when it waits.
fn ask(lab: &Lab, agent: AgentId) -> (tokio::task::JoinHandle<Result<String, KernelError>>, Timestamp) {
    // The kernel's own round of an hour is not to be taken for it.
    lab.pass_idly(MILLI);
    let (kernel, operator) = (lab.kernel().clone(), lab.operator());
    let input = "{\"message\": \"hi\"}";
    let call = lab.begin(async move { kernel.invoke_tool(operator, agent, "echo", input).await });
    let deadline = match lab.wait_for_one("human_approval_requested").event {
        Event::HumanApprovalRequested { deadline, .. } => deadline,
        other => panic!("not a question: {other:?}"),
    };
    lab.until_awaited(deadline);
    (call, deadline)
}

#[test]
fn a_question_that_nobody_answers_is_denied_at_its_deadline_and_not_before() {
    let lab = Lab::saying("unused");
    let agent = lab.spawn(&manifest("asker", ASKS));
    let (call, deadline) = ask(&lab, agent);
    assert_eq!(deadline, lab.now().after(Millis(APPROVAL_WAIT_MS)));
    lab.pass_idly(Duration::from_millis(APPROVAL_WAIT_MS) - MILLI);
    let asked = lab.block(lab.kernel().approvals(lab.operator())).expect("a list");
    assert_eq!(asked.len(), 1, "it can still be answered");
    assert!(lab.entries("human_approval_denied").is_empty());
    lab.advance(MILLI);
    let denied = lab.block(call).expect("it ends").expect_err("denied");
    assert!(denied.to_string().contains("nobody answered"), "{denied}");
    assert_eq!(lab.wait_for_one("human_approval_denied").timestamp, deadline);
    assert!(lab.block(lab.kernel().approvals(lab.operator())).expect("a list").is_empty());
    assert!(lab.entries("tool_invoked").is_empty(), "nothing was done");
}

#[test]
fn a_question_that_is_answered_at_the_last_moment_is_answered() {
    let lab = Lab::saying("unused");
    let agent = lab.spawn(&manifest("asker", ASKS));
    let (call, deadline) = ask(&lab, agent);
    lab.pass_idly(Duration::from_millis(APPROVAL_WAIT_MS) - MILLI);
    let asked = lab.block(lab.kernel().approvals(lab.operator())).expect("a list");
    let yes = Answer::Approve(Covers::ThisCall);
    lab.block(lab.kernel().answer_approval(lab.operator(), asked[0].id, yes, None)).expect("answered");
    let done = lab.block(call).expect("it ends").expect("allowed");
    assert!(done.contains("hi"), "{done}");
    assert!(!lab.is_awaited(deadline));
    lab.pass_idly(MINUTE);
    assert!(lab.entries("human_approval_denied").is_empty());
}
