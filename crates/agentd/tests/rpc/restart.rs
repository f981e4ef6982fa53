//! After `kill -9` and after an orderly stop: what was acknowledged is there, what was cut short goes on.

use crate::support::{
    Rig, append, assert_intact, deliver, entries, invoke, manifest, persistent, result_of, spawn, text,
    wait_for_entry,
};
use aaos_core::event::Event;
use aaos_core::id::{AgentId, TraceId};
use aaos_core::limits::MAILBOX_MESSAGES;
use serde_json::{Value, json};
use std::time::Instant;
use testkit::{Client, Daemon, Gate, ModelServer, PATIENCE, Script, Turn};
use uuid::Uuid;

fn ids(client: &mut Client) -> Vec<Value> {
    let agents = client.call("agent.list", json!({})).expect("a list");
    agents["agents"].as_array().expect("a list").iter().map(|agent| agent["id"].clone()).collect()
}

fn reading(name: &str, root: &std::path::Path) -> String {
    manifest(name, &format!("capabilities: [\"tool: file_read\", \"file_read: {}/*\"]\n", root.display()))
}

#[test]
fn agents_goals_and_grants_are_there_after_a_kill() {
    let rig = Rig::saying("done");
    let home = testkit::scratch();
    let root = home.path().join("data");
    std::fs::create_dir(&root).expect("makes the root");
    std::fs::write(root.join("a.txt"), "alpha").expect("writes");
    let mut client = rig.client();
    let keeper = spawn(&mut client, &persistent("keeper"));
    let reader = spawn(&mut client, &reading("reader", &root));
    let stopped = spawn(&mut client, &manifest("stopped", ""));
    client.call("agent.stop", json!({ "agent_id": stopped })).expect("stops");
    let (_, goal) = client.call_streaming(
        "agent.submit_streaming",
        json!({ "goal": "say done", "client_key": "once", "manifest": manifest("root", "") }),
    );
    let goal = text(&goal.expect("done")["goal_id"]);
    let status = |client: &mut Client, agent: &str| {
        client.call("agent.status", json!({ "agent_id": agent })).expect("known")
    };
    let (before, grants) = (ids(&mut client), status(&mut client, &reader)["grants"].clone());
    let shown = client.call("goal.status", json!({ "goal_id": goal })).expect("known");
    let daemon = rig.daemon.kill9().start();
    let mut client = daemon.client();
    assert_eq!(ids(&mut client), before);
    assert_eq!(before, [json!(keeper), json!(reader)]);
    assert_eq!(status(&mut client, &reader)["grants"], grants);
    let again = client.call("goal.status", json!({ "goal_id": goal })).expect("known");
    for member in ["goal_id", "goal", "state", "response", "exit_code", "usage", "accepted_at", "root_agent"]
    {
        assert_eq!(again[member], shown[member], "{member}");
    }
    let same = json!({ "goal": "say done", "client_key": "once", "manifest": manifest("root", "") });
    assert_eq!(client.call("goal.submit", same).expect("known"), json!({ "goal_id": goal }));
    let path = json!({ "path": root.join("a.txt") });
    let read = invoke(&mut client, &reader, "file_read", path).expect("its grant still holds");
    assert_eq!(read["content"], "alpha");
    let outside = json!({ "path": home.path().join("b.txt") });
    assert_eq!(invoke(&mut client, &reader, "file_read", outside).expect_err("no wider").code, 1002);
    let trace = deliver(&mut client, &keeper, "hello");
    assert_eq!(result_of(&mut client, &trace)["status"], "done");
    assert_intact(&mut client);
}

#[test]
fn a_replaced_root_suspends_its_grant() {
    let rig = Rig::saying("done");
    let home = testkit::scratch();
    let (root, kept) = (home.path().join("data"), home.path().join("kept"));
    for root in [&root, &kept] {
        std::fs::create_dir(root).expect("makes a root");
        std::fs::write(root.join("a.txt"), "alpha").expect("writes");
    }
    let mut client = rig.client();
    let reader = spawn(&mut client, &reading("reader", &root));
    let control = spawn(&mut client, &reading("control", &kept));
    let read = |client: &mut Client, agent: &str, root: &std::path::Path| {
        invoke(client, agent, "file_read", json!({ "path": root.join("a.txt") }))
    };
    assert_eq!(read(&mut client, &reader, &root).expect("granted")["content"], "alpha");
    let builder = rig.daemon.kill9();
    std::fs::rename(&root, home.path().join("moved")).expect("moves the root away");
    std::fs::create_dir(&root).expect("another directory of that name");
    std::fs::write(root.join("a.txt"), "not what was granted").expect("writes");
    let daemon = builder.start();
    let mut client = daemon.client();
    let failure = read(&mut client, &reader, &root).expect_err("suspended");
    assert_eq!(failure.code, 1002, "{failure:?}");
    assert_eq!(read(&mut client, &control, &kept).expect("untouched")["content"], "alpha");
}

#[test]
fn uses_that_were_spent_stay_spent() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent =
        spawn(&mut client, &manifest("thrice", "capabilities: [{ tool: echo, max_invocations: 3 }]\n"));
    let echo = |client: &mut Client| invoke(client, &agent, "echo", json!({ "message": "hi" }));
    echo(&mut client).expect("the first");
    echo(&mut client).expect("the second");
    // A call's class is safe, so its intent may still be on its way to the disk: a durable entry puts it there.
    client.call("agent.pause", json!({ "agent_id": agent })).expect("recorded");
    client.call("agent.resume", json!({ "agent_id": agent })).expect("recorded");
    let daemon = rig.daemon.kill9().start();
    let mut client = daemon.client();
    echo(&mut client).expect("the third");
    assert_eq!(echo(&mut client).expect_err("used up").code, 1002);
}

/// A persistent agent with one message in its run and two that wait, held by the gate.
fn with_waiting_messages(gate: &Gate) -> (Rig, [String; 3]) {
    let rig = Rig::gated(gate);
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    let cut = deliver(&mut client, &agent, "one");
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let traces = [cut, deliver(&mut client, &agent, "two"), deliver(&mut client, &agent, "three")];
    (rig, traces)
}

/// Every message is answered once, the one in its run too, after `asked` model requests in all.
fn assert_all_are_answered(daemon: &Daemon, models: &ModelServer, traces: &[String; 3], asked: usize) {
    let mut client = daemon.client();
    for (trace, answer) in traces.iter().zip(["re: one", "re: two", "re: three"]) {
        let report = result_of(&mut client, trace);
        assert_eq!((&report["status"], &report["result"]["response"]), (&json!("done"), &json!(answer)));
    }
    assert_eq!(models.requests().len(), asked);
    let kinds = ["message_delivered", "agent_message_received", "agent_execution_started"];
    for kind in kinds {
        assert_eq!(entries(&mut client, &[kind]).len(), 3, "{kind}");
    }
    assert_eq!(entries(&mut client, &["agent_execution_completed"]).len(), 3);
    assert_intact(&mut client);
}

#[test]
fn delivered_messages_are_answered_after_a_kill() {
    let gate = Gate::new();
    let (rig, traces) = with_waiting_messages(&gate);
    let daemon = rig.daemon.kill9().start();
    // The request in flight is asked again, once.
    assert_all_are_answered(&daemon, &rig.models, &traces, 4);
}

#[test]
fn delivered_messages_are_answered_after_an_orderly_stop() {
    let gate = Gate::new();
    let (mut rig, traces) = with_waiting_messages(&gate);
    rig.daemon.ask_to_stop();
    wait_until_closed(&rig.daemon);
    // What is in flight may end while the daemon closes; then it is recorded and not asked again.
    gate.open();
    let status = rig.daemon.wait_end();
    assert!(status.success(), "{status}");
    let daemon = rig.daemon.again().start();
    assert_all_are_answered(&daemon, &rig.models, &traces, 3);
}

/// Waits until a daemon that was asked to stop takes no connection any more.
fn wait_until_closed(daemon: &Daemon) {
    let began = Instant::now();
    while Client::connect(&daemon.socket()).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it still listens");
        std::thread::yield_now();
    }
}

#[test]
fn replies_can_be_read_after_a_restart() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    let trace = deliver(&mut client, &agent, "hi");
    let before = result_of(&mut client, &trace);
    let daemon = rig.daemon.kill9().start();
    assert_eq!(result_of(&mut daemon.client(), &trace), before);
}

#[test]
fn a_paused_agent_is_still_paused() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    client.call("agent.pause", json!({ "agent_id": agent })).expect("pauses");
    let trace = deliver(&mut client, &agent, "held");
    let daemon = rig.daemon.kill9().start();
    let mut client = daemon.client();
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
    assert_eq!(status["state"], "paused");
    client.call("agent.resume", json!({ "agent_id": agent })).expect("resumes");
    assert_eq!(result_of(&mut client, &trace)["status"], "done");
}

#[test]
fn a_goal_that_ran_goes_on_and_a_run_on_demand_is_interrupted() {
    let mut asked = 0;
    let rig = Rig::new(Script::dynamic(move |_| {
        asked += 1;
        if asked <= 2 { Turn::Hang } else { Turn::say("done") }
    }));
    let (mut runner, mut client) = (rig.client(), rig.client());
    let goal = client.call("goal.submit", json!({ "goal": "go", "manifest": manifest("root", "") }));
    let goal = text(&goal.expect("accepted")["goal_id"]);
    let agent = spawn(&mut client, &manifest("runner", ""));
    runner.send("agent.run", json!({ "agent_id": agent, "message": "go" }));
    assert_eq!(rig.models.wait_for_requests(2).len(), 2);
    // `kill9` itself checks that nothing the daemon started survives it.
    let daemon = rig.daemon.kill9().start();
    let finished = wait_for_entry(&daemon, "goal_finished", |entry| entry["goal_id"] == goal.as_str());
    assert_eq!(finished["event"]["state"], "done");
    let ended = wait_for_entry(&daemon, "agent_stopped", |entry| entry["goal_id"] == goal.as_str());
    assert_eq!(ended["event"]["end"], "finished");
    let mut client = daemon.client();
    assert!(
        ids(&mut client).is_empty(),
        "an on-demand agent of an operator whose caller is gone does not go on"
    );
    let of_runner = client.call("audit.query", json!({ "agent_id": agent, "kinds": ["agent_stopped"] }));
    assert_eq!(of_runner.expect("entries")["entries"][0]["event"]["end"], "interrupted");
    assert_eq!(entries(&mut client, &["goal_finished"]).len(), 1);
    assert_eq!(rig.models.requests().len(), 3, "the request in flight is asked once more");
    assert_intact(&mut client);
}

#[test]
fn a_message_that_took_the_place_of_one_just_taken_is_not_lost() {
    let rig = Rig::saying("done");
    let agent = rig.spawn(&persistent("keeper"));
    rig.client().call("agent.pause", json!({ "agent_id": agent })).expect("pauses");
    let builder = rig.daemon.kill9();
    // The oldest was taken, which its run has not recorded yet, and its place was free at once.
    let id: AgentId = agent.parse().expect("an id");
    let traces: Vec<TraceId> =
        (1..=MAILBOX_MESSAGES as u128 + 1).map(|at| TraceId::from_uuid(Uuid::from_u128(at))).collect();
    let delivered = |trace: &TraceId| {
        let message = format!("message {trace}");
        (id, Some(*trace), Event::MessageDelivered { message, from: None, under: None })
    };
    append(&builder.home().join("state"), traces.iter().map(delivered).collect());
    let daemon = builder.start();
    let mut client = daemon.client();
    let one_more = client.call("agent.run", json!({ "agent_id": agent, "message": "x" }));
    assert_eq!(one_more.expect_err("the control: it is full").code, 1004);
    client.call("agent.resume", json!({ "agent_id": agent })).expect("resumes");
    for trace in traces {
        let report = result_of(&mut client, &trace.to_string());
        assert_eq!(report["status"], "done", "{report}");
    }
}
