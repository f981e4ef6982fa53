//! What becomes of a daemon whose far processes are killed under it.

use crate::support::{LEAD, Rig, Work, next_of_kind, of_kind, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{Client, ProcessRef, Script, Turn};

fn signal(pid: u64, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process number");
    kill_process(pid, signal).expect("signals it");
}

/// Kills a process and waits until it is gone.
fn kill(pid: u64) {
    let process = ProcessRef::find(i32::try_from(pid).expect("small")).expect("it runs");
    signal(pid, Signal::KILL);
    process.wait_gone();
}

#[test]
fn without_its_zygote_the_daemon_ends_and_leaves_nothing() {
    let mut rig = Rig::lead(|_| [Turn::Hang, Turn::say("done")]);
    let mut stream = rig.daemon.client();
    stream.send("agent.submit_streaming", rig.work.goal(&[]));
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let family = rig.daemon.processes();
    let daemon = i32::try_from(rig.daemon.pid()).expect("small");
    let zygote = family.iter().find(|one| one.parent == daemon).expect("the daemon's only child");
    assert!(family.len() >= 3, "a zygote, a gateway and a worker: {family:?}");
    signal(u64::try_from(zygote.pid).expect("positive"), Signal::KILL);
    let status = rig.daemon.wait_end();
    assert_eq!(status.code(), Some(70), "an internal failure: {}", rig.daemon.stderr());
    family.iter().for_each(ProcessRef::wait_gone);
    // If it felt its gateway's death before the daemon's, it failed by that; else it goes on.
    let again = rig.daemon.kill9().start();
    let mut client = again.client();
    client.send("audit.stream", json!({ "kinds": ["goal_finished"] }));
    let finished = next_of_kind(&mut client, "goal_finished");
    let (state, asked) = (text(&finished["event"]["state"]), rig.models.requests().len());
    assert!(matches!((state.as_str(), asked), ("done", 2) | ("failed", 1)), "{asked}: {finished}");
}

fn spawn_writer(client: &mut Client, work: &Work) -> String {
    let capabilities = format!(
        "capabilities:\n  - tool: \"*\"\n  - file_write: \"{0}\"\n  - file_read: \"{0}\"\n",
        work.path("out/*")
    );
    let reply = client.call("agent.spawn", json!({ "manifest": format!("{LEAD}{capabilities}") }));
    text(&reply.expect("spawns")["agent_id"])
}

#[test]
fn a_worker_killed_in_a_call_is_lost_and_replaced() {
    let rig = Rig::new(|_| Script::new());
    std::fs::create_dir_all(rig.work.path("out")).expect("makes it");
    let mut client = rig.daemon.client();
    let agent = spawn_writer(&mut client, &rig.work);
    let call = |tool: &str, input: Value| json!({ "agent_id": agent, "tool": tool, "input": input });
    let path = rig.work.path("out/a");
    let write = call("file_write", json!({ "path": path, "content": "whole" }));
    let mut stream = rig.daemon.client();
    stream.send("audit.stream", json!({}));
    client
        .call("tool.invoke", call("file_list", json!({ "path": rig.work.path("out") })))
        .expect("a worker runs");
    let started = next_of_kind(&mut stream, "worker_started");
    let pid = started["event"]["pid"].as_u64().expect("a pid");
    // Stopped, it cannot answer, so it dies in the middle of the call.
    signal(pid, Signal::STOP);
    next_of_kind(&mut stream, "tool_result");
    let in_flight = client.send("tool.invoke", write.clone());
    next_of_kind(&mut stream, "tool_invoked");
    signal(pid, Signal::KILL);
    let failure = client.reply_to(in_flight).expect_err("nobody answered");
    assert_eq!((failure.code, &failure.data["reason"]), (1009, &json!("worker_lost")), "{failure:?}");
    assert!(
        next_of_kind(&mut stream, "worker_stopped")["event"]["reason"].as_str().expect("words").contains('9')
    );
    let result = next_of_kind(&mut stream, "tool_result");
    assert_eq!(result["event"]["outcome"], "unknown", "nobody can tell: {result}");
    assert!(!rig.work.has("out/a"), "a write that was not committed left nothing");
    client.call("tool.invoke", write).expect("a new worker does it");
    assert_eq!(rig.work.read("out/a"), "whole");
    let result = next_of_kind(&mut stream, "tool_result");
    assert_ne!(result["event"]["worker"], started["event"]["worker"], "another worker");
}

/// Receipts of the `models` role, oldest first.
fn model_gateways(rig: &Rig) -> Vec<u64> {
    let journal = rig.journal();
    let receipts = of_kind(&journal, "confinement_receipt");
    let models = receipts.iter().filter(|entry| entry["event"]["role"] == "models");
    models.map(|entry| entry["event"]["receipt"]["pid"].as_u64().expect("a pid")).collect()
}

#[test]
fn a_models_gateway_without_keys_that_was_killed_is_started_again() {
    let rig = Rig::keyless([Turn::say("before"), Turn::say("after")]);
    assert_eq!(rig.run(rig.work.goal(&[])).goal["response"], "before");
    assert_eq!(rig.models.requests()[0].key(), None);
    let gateways = model_gateways(&rig);
    assert_eq!(gateways.len(), 1);
    kill(gateways[0]);
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("done", 0);
    assert_eq!(ran.goal["response"], "after");
    assert_eq!(model_gateways(&rig).len(), 2, "a second one, with a receipt of its own");
}

#[test]
fn a_models_gateway_killed_in_an_inference_ends_no_more_than_that() {
    let rig = Rig::keyless([Turn::Hang, Turn::say("after")]);
    let mut stream = rig.daemon.client();
    let id = stream.send("agent.submit_streaming", rig.work.goal(&[]));
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    kill(model_gateways(&rig)[0]);
    let reply = stream.reply_to(id).expect("the goal ends");
    assert_eq!(
        (&reply["goal"]["state"], &reply["goal"]["exit_code"]),
        (&json!("failed"), &json!(5)),
        "{reply}"
    );
    rig.run(rig.work.goal(&[])).assert_ended("done", 0);
}

#[test]
fn keys_end_with_the_gateway_that_had_them_and_it_is_said_what_to_do() {
    let rig = Rig::lead(|_| [Turn::say("before")]);
    rig.run(rig.work.goal(&[])).assert_ended("done", 0);
    kill(model_gateways(&rig)[0]);
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("failed", 5);
    assert!(ran.error().contains("keys") && ran.error().contains("restart agentd"), "{}", ran.error());
    assert_eq!(rig.models.requests().len(), 1, "nobody was asked");
}
