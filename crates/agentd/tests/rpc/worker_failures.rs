//! Workers that fail while a call runs in them, through the daemon: the call ends with a typed error, the agent goes on
//! with another worker, and nothing is left of the first.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{Client, DaemonBuilder, ModelServer, ProcessRef, RpcFailure, Script, Turn, descendants};

use crate::revocation::holding;
use crate::support::{Rig, assert_intact, entries, invoke, spawn, wait_for_entry};

/// The time of a call where its end is waited for: far more than an echo takes on the busiest machine.
const CALL_TIME_MS: &str = "15000";

fn rig_with_short_calls() -> Rig {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = DaemonBuilder::openai(&models).env("AAOS_TOOL_TIME_MS", CALL_TIME_MS).start();
    Rig { daemon, models }
}

/// The worker that an agent has now.
fn worker_of(rig: &Rig, agent: &str) -> ProcessRef {
    let status = rig.client().call("agent.status", json!({ "agent_id": agent })).expect("a status");
    let pid = status["confinement"]["pid"].as_i64().expect("it has a worker");
    ProcessRef::find(i32::try_from(pid).expect("a pid")).expect("it runs")
}

fn signal(worker: &ProcessRef, signal: Signal) {
    kill_process(Pid::from_raw(worker.pid).expect("a pid"), signal).expect("it is there");
}

/// What becomes of a call whose worker is stopped when it begins, and killed as well if told so.
fn fail(rig: &Rig, agent: &str, worker: &ProcessRef, kill: bool) -> RpcFailure {
    signal(worker, Signal::STOP);
    let mut caller = rig.client();
    let words = if kill { "killed" } else { "stopped" };
    let call = json!({ "agent_id": agent, "tool": "echo", "input": { "message": words } });
    let sent = caller.send("tool.invoke", call);
    wait_for_entry(&rig.daemon, "tool_invoked", |entry| entry["event"]["input"]["message"] == words);
    if kill {
        signal(worker, Signal::KILL);
    }
    caller.reply_to(sent).expect_err("its worker failed")
}

/// A call whose worker is stopped, and killed as well if told so, ends with this code and these words.
fn assert_call_fails_and_the_agent_goes_on(rig: Rig, kill: bool, code: i64, words: &str) {
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("unlucky", &["tool: echo".to_owned()]));
    let echoed = invoke(&mut client, &agent, "echo", json!({ "message": "hello" }));
    assert_eq!(echoed.expect("the control")["message"], "hello");
    let worker = worker_of(&rig, &agent);
    let failure = fail(&rig, &agent, &worker, kill);
    assert_eq!(failure.code, code, "{failure:?}");
    assert!(failure.message.contains(words), "{failure:?}");
    worker.wait_gone();
    let again = invoke(&mut client, &agent, "echo", json!({ "message": "again" }));
    assert_eq!(again.expect("another worker")["message"], "again");
    assert_ne!(worker_of(&rig, &agent), worker);
    let ends = entries(&mut client, &["worker_stopped"]);
    let told: Vec<&Value> = ends.iter().filter(|entry| entry["agent_id"] == json!(agent)).collect();
    assert_eq!(told.len(), 1, "its end is told: {told:?}");
    assert_intact(&mut client);
    let all = descendants(rig.daemon.pid());
    drop((client, rig));
    for process in all {
        process.wait_gone();
    }
}

#[test]
fn a_call_whose_worker_is_killed_ends_in_words_and_the_agent_goes_on() {
    assert_call_fails_and_the_agent_goes_on(Rig::saying("done"), true, 1009, "lost");
}

#[test]
fn a_call_whose_worker_is_stopped_ends_in_its_time_and_the_agent_goes_on() {
    let words = format!("took longer than {CALL_TIME_MS}");
    assert_call_fails_and_the_agent_goes_on(rig_with_short_calls(), false, 1004, &words);
}

/// Blocks until so many workers are parked.
fn until_parked(client: &mut Client, count: u64) {
    let begun = std::time::Instant::now();
    while client.call("runtime.status", json!({})).expect("a status")["parked_workers"] != json!(count) {
        assert!(begun.elapsed() < testkit::PATIENCE, "{count} workers are never parked");
    }
}

#[test]
fn an_agents_first_call_takes_a_worker_that_was_parked_and_its_receipt_is_that_agents() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    until_parked(&mut client, 2);
    assert!(entries(&mut client, &["worker_started"]).is_empty(), "a parked worker is nobody's");
    let parked = descendants(rig.daemon.pid());
    let agents = ["one", "two"].map(|name| spawn(&mut client, &holding(name, &["tool: echo".to_owned()])));
    for agent in &agents {
        let echoed = invoke(&mut client, agent, "echo", json!({ "message": "hello" }));
        assert_eq!(echoed.expect("it is granted")["message"], "hello");
        let worker = worker_of(&rig, agent);
        assert!(parked.contains(&worker), "{worker:?} ran before: {parked:?}");
        let receipt =
            wait_for_entry(&rig.daemon, "confinement_receipt", |one| one["agent_id"] == json!(agent));
        assert_eq!(receipt["event"]["receipt"]["pid"], json!(worker.pid));
    }
    assert_ne!(worker_of(&rig, &agents[0]), worker_of(&rig, &agents[1]));
    until_parked(&mut client, 2);
}

/// Evidence of one boundary in a receipt.
fn evidence<'r>(receipt: &'r Value, boundary: &str) -> &'r Value {
    let all = receipt["boundaries"].as_array().expect("boundaries");
    let found = all.iter().find(|one| one["boundary"] == boundary);
    &found.unwrap_or_else(|| panic!("{boundary} in {receipt}"))["evidence"]
}

#[test]
fn the_running_daemon_and_its_gateway_are_locked_and_their_receipts_say_how() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let status = client.call("runtime.status", json!({})).expect("a status");
    let own = &status["daemon_confinement"];
    assert_eq!(own["pid"], json!(rig.daemon.pid()));
    for boundary in ["no_new_privs", "seccomp", "rlimits"] {
        assert_eq!(evidence(own, boundary), "observed", "{own}");
    }
    let words = own["boundaries"].to_string();
    assert!(words.contains("socket(AF_INET)") && words.contains("execve(/bin/true)"), "{words}");
    // The state of the very process, as the kernel tells it.
    let kernel = std::fs::read_to_string(format!("/proc/{}/status", rig.daemon.pid())).expect("readable");
    assert!(kernel.contains("\nSeccomp:\t2\n") && kernel.contains("\nNoNewPrivs:\t1\n"), "{kernel}");
    let gateway = wait_for_entry(&rig.daemon, "confinement_receipt", |one| one["event"]["role"] == "models");
    let gateway = &gateway["event"]["receipt"];
    assert_eq!(evidence(gateway, "landlock"), "probed", "no file is opened there any more: {gateway}");
    assert_eq!(evidence(gateway, "seccomp"), "observed", "{gateway}");
    assert_eq!(gateway["landlock_rules_hash"].as_str().map(str::len), Some(64), "{gateway}");
}

#[test]
fn the_status_of_an_agent_tells_each_boundary_and_how_it_is_known() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("seen", &["tool: echo".to_owned()]));
    invoke(&mut client, &agent, "echo", json!({ "message": "hello" })).expect("granted");
    let told = rig.daemon.cli(["status", &agent]).stdout;
    for words in
        ["no_new_privs", "filters: ", "net_namespace", "Landlock rules ", "seccomp filter ", "observed"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    let json = rig.daemon.cli(["status", "--json", &agent]).stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(evidence(&json["confinement"], "landlock"), "probed", "{json}");
}
