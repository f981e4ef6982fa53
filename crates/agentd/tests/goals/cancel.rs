//! Goals that are stopped: at once, as a whole, and with a record.

use crate::support::{LEAD_MARK, Rig, next_of_kind, of_kind, spawning, text};
use aaos_core::limits::{MAX_CONCURRENT_INFERENCE, MAX_RUNNING_GOALS};
use serde_json::{Value, json};
use testkit::{Page, Script, Turn, WebServer};

/// Submits a goal, waits until `under_way`, cancels it; returns the goal as `goal.cancel` showed it.
fn cancel_when(rig: &Rig, goal: Value, under_way: impl FnOnce()) -> Value {
    let mut stream = rig.daemon.client();
    let id = stream.send("agent.submit_streaming", goal);
    let goal_id = text(&next_of_kind(&mut stream, "goal_accepted")["goal_id"]);
    under_way();
    let cancelled = rig.daemon.client().call("goal.cancel", json!({ "goal_id": goal_id })).expect("cancels");
    let reply = stream.reply_to(id).expect("the stream ends");
    assert_eq!(reply["goal"]["state"], "cancelled", "{reply}");
    let agents = rig.daemon.client().call("agent.list", json!({})).expect("lists");
    assert_eq!(agents["agents"], json!([]), "nobody is left");
    let journal = rig.journal();
    assert_eq!(of_kind(&journal, "agent_spawned").len(), of_kind(&journal, "agent_stopped").len());
    assert_eq!(of_kind(&journal, "worker_started").len(), of_kind(&journal, "worker_stopped").len());
    cancelled
}

fn assert_cancelled(goal: &Value) {
    assert_eq!((&goal["state"], &goal["exit_code"]), (&json!("cancelled"), &json!(130)), "{goal}");
}

#[test]
fn a_hanging_model_does_not_hold_a_cancelled_goal() {
    for turn in [Turn::Hang, Turn::HangMidStream { text: "thinking about it".into(), after_events: 3 }] {
        let rig = Rig::lead(|_| [turn]);
        let goal =
            cancel_when(&rig, rig.work.goal(&[]), || assert_eq!(rig.models.wait_for_requests(1).len(), 1));
        assert_cancelled(&goal);
        rig.models.wait_for_hangups(1);
    }
}

#[test]
fn a_whole_tree_ends_with_its_goal() {
    let rig = Rig::new(|_| {
        let child = |n: usize| spawning(&format!("c{n}"), &[], "Wait.");
        let both = json!({ "children": [child(0), child(1)] });
        Script::new()
            .when_system(LEAD_MARK, [Turn::call("spawn_agents", both)])
            .otherwise([Turn::Hang, Turn::Hang])
    });
    let goal = cancel_when(&rig, rig.work.goal(&[]), || assert_eq!(rig.models.wait_for_requests(3).len(), 3));
    assert_cancelled(&goal);
    rig.models.wait_for_hangups(2);
    assert_eq!(
        of_kind(&rig.journal(), "child_retried").len(),
        0,
        "what was stopped on purpose is not retried"
    );
}

#[test]
fn a_hanging_page_does_not_hold_a_cancelled_goal() {
    let web = WebServer::start([("/slow", Page::Hang)]);
    let url = web.url("/slow");
    let rig = Rig::lead(|_| [Turn::call("web_fetch", json!({ "url": url }))]);
    let mut goal = rig.work.goal(&[]);
    goal["grants"].as_array_mut().expect("a list").push(json!(format!("network: {}", web.authority())));
    let goal = cancel_when(&rig, goal, || assert_eq!(web.wait_for_requests(1).len(), 1));
    assert_cancelled(&goal);
    web.wait_for_hangups(1);
}

#[test]
fn a_goal_fails_at_its_deadline() {
    let rig = Rig::lead(|_| [Turn::Hang]);
    let mut goal = rig.work.goal(&[]);
    goal["deadline_seconds"] = json!(1);
    let ran = rig.run(goal);
    ran.assert_ended("failed", 1);
    assert!(ran.error().contains("deadline"), "{}", ran.error());
    rig.models.wait_for_hangups(1);
}

#[test]
fn a_waiting_provider_is_shown_and_its_wait_can_be_cancelled() {
    let rig = Rig::lead(|_| [Turn::retry_after(429, 600)]);
    let mut stream = rig.daemon.client();
    let id = stream.send("agent.submit_streaming", rig.work.goal(&[]));
    let goal_id = text(&next_of_kind(&mut stream, "inference_retried")["goal_id"]);
    let mut client = rig.daemon.client();
    let status = client.call("goal.status", json!({ "goal_id": goal_id })).expect("status");
    assert_eq!(status["state"], "waiting", "{status}");
    assert!(status["waiting_for"].as_str().expect("words").contains("provider"), "{status}");
    assert_cancelled(&client.call("goal.cancel", json!({ "goal_id": goal_id })).expect("cancels"));
    assert_eq!(stream.reply_to(id).expect("ends")["goal"]["state"], "cancelled");
    assert_eq!(rig.models.requests().len(), 1);
}

#[test]
fn a_queued_goal_fails_at_its_deadline_too() {
    let rig = Rig::lead(|_| (0..MAX_CONCURRENT_INFERENCE).map(|_| Turn::Hang));
    let mut client = rig.daemon.client();
    for _ in 0..MAX_RUNNING_GOALS {
        client.call("goal.submit", rig.work.goal(&[])).expect("accepted");
    }
    assert_eq!(rig.models.wait_for_requests(MAX_CONCURRENT_INFERENCE).len(), MAX_CONCURRENT_INFERENCE);
    let mut goal = rig.work.goal(&[]);
    goal["deadline_seconds"] = json!(1);
    let ran = rig.run(goal);
    ran.assert_ended("failed", 1);
    assert!(ran.error().contains("waited for its turn"), "{}", ran.error());
    let begun = of_kind(&rig.journal(), "goal_started").len();
    assert_eq!(begun, MAX_RUNNING_GOALS, "it never began");
}
