//! Workers that fail while a call runs in them, through the daemon: the call ends with a typed error, the agent goes on
//! with another worker, and nothing is left of the first.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{Client, DaemonBuilder, ModelServer, ProcessRef, RpcFailure, Script, Turn, descendants};

use crate::revocation::holding;
use crate::support::{Rig, assert_intact, entries, invoke, spawn, wait_for_entry};

/// The time of a call in these tests: far more than an echo takes, and waited for once.
const CALL_TIME_MS: &str = "3000";

fn rig() -> Rig {
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

#[test]
fn a_call_whose_worker_is_killed_or_stopped_ends_in_words_and_the_agent_goes_on() {
    let rig = rig();
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("unlucky", &["tool: echo".to_owned()]));
    for (kill, code, words) in [(true, 1009, "lost"), (false, 1004, "took longer than 3000")] {
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
    }
    let ends = entries(&mut client, &["worker_stopped"]);
    let told: Vec<&Value> = ends.iter().filter(|entry| entry["agent_id"] == json!(agent)).collect();
    assert_eq!(told.len(), 2, "each end is told: {told:?}");
    assert_intact(&mut client);
    let all = descendants(rig.daemon.pid());
    drop((client, rig));
    for process in all {
        process.wait_gone();
    }
}

/// Blocks until so many workers are parked.
fn until_parked(client: &mut Client, count: u64) {
    while client.call("runtime.status", json!({})).expect("a status")["parked_workers"] != json!(count) {}
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
