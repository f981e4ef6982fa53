//! A disk that fails under a running daemon: it tells nobody an end that is not recorded, ends, and goes on later.

use aaos_core::limits::{MAX_CONCURRENT_INFERENCE, MAX_RUNNING_GOALS};
use serde_json::{Value, json};
use testkit::{Client, DaemonBuilder, Gate, ModelServer, Script, Turn, inject_into_writer};

use crate::support::entries;

const MANIFEST: &str = "model: scripted-model\nsystem_prompt: You are root.\n";

fn goal(key: usize) -> Value {
    json!({ "goal": format!("goal {key}"), "manifest": format!("name: root\n{MANIFEST}"), "client_key": format!("{key}") })
}

fn submit(client: &mut Client, key: usize) -> Value {
    client.call("goal.submit", goal(key)).expect("accepted")["goal_id"].take()
}

/// The goal of this key as it ends.
fn ended(client: &mut Client, key: usize) -> Value {
    client.call_streaming("agent.submit_streaming", goal(key)).1.expect("it ends")
}

#[test]
fn a_full_disk_ends_the_daemon_and_what_was_open_goes_on_once_there_is_room() {
    let gate = Gate::new();
    let held = gate.clone();
    let models = ModelServer::start(Script::dynamic(move |_| Turn::say("done").behind(&held)));
    let mut daemon = DaemonBuilder::openai(&models).start();
    let mut client = daemon.client();
    // As many as may run, one that waits for its turn, and a message that its agent is about.
    let goals: Vec<Value> = (0..=MAX_RUNNING_GOALS).map(|key| submit(&mut client, key)).collect();
    let keeper = format!("name: keeper\nlifecycle: persistent\n{MANIFEST}");
    let keeper = client.call("agent.spawn", json!({ "manifest": keeper })).expect("spawned");
    let sent = json!({ "agent_id": keeper["agent_id"], "message": "hello" });
    let trace = client.call("agent.run", sent).expect("delivered")["trace_id"].take();
    let mut waiter = daemon.client();
    let report = json!({ "trace_id": trace, "wait_seconds": 60 });
    let report = waiter.send("agent.result", report);
    let mut follower = daemon.client();
    let followed = follower.send("agent.submit_streaming", goal(0));
    assert_eq!(models.wait_for_requests(MAX_CONCURRENT_INFERENCE).len(), MAX_CONCURRENT_INFERENCE);

    let mut tracer = inject_into_writer(daemon.pid(), "pwrite64", "pwrite64:error=ENOSPC:when=1+");
    gate.open();
    for (client, request) in [(&mut waiter, report), (&mut follower, followed)] {
        let refused = client.reply_to(request).expect_err("no end is told that is not on the disk");
        assert_eq!(refused.code, 1007, "{refused:?}");
    }
    assert_eq!(daemon.wait_end().code(), Some(70), "{}", daemon.stderr());
    assert!(daemon.stderr().contains("make room on the disk"), "{}", daemon.stderr());
    tracer.wait().expect("it ends with the daemon");

    let daemon = daemon.again().start();
    let mut client = daemon.client();
    for (key, id) in goals.iter().enumerate() {
        let ended = ended(&mut client, key);
        assert_eq!((&ended["goal_id"], &ended["goal"]["state"]), (id, &json!("done")), "{ended}");
    }
    let answered =
        client.call("agent.result", json!({ "trace_id": trace, "wait_seconds": 30 })).expect("known");
    assert_eq!(answered["status"], "done", "{answered}");
    let replies = entries(&daemon.cli(["audit", "--json", "--kind", "inference_completed"])).len();
    assert_eq!(replies, goals.len() + 1, "each was answered once on record");
    assert_eq!(daemon.cli(["audit", "--verify"]).code(), 0);
}
