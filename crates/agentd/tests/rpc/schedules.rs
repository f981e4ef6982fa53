//! Scheduled agents: each due time wakes at most once, across restarts, and what was missed follows the policy.
//!
//! No test waits for a due time: the journal is told that the last one lies years back, as after a long time without
//! the daemon.

use std::path::Path;

use aaos_core::event::Event;
use aaos_core::id::AgentId;
use aaos_core::quantity::Timestamp;
use serde_json::{Value, json};
use testkit::{Client, Daemon};

use crate::support::{
    Rig, append, assert_intact, deliver, entries, manifest, result_of, text, wait_for_entry,
};

/// Due once a year, so that nothing else becomes due while a test runs.
fn yearly(name: &str, more: &str) -> String {
    let lifecycle = format!("lifecycle: {{ scheduled: \"0 0 1 1 *\", {more}message: Count. }}\n");
    manifest(name, &lifecycle)
}

/// The last due time of an agent was at the beginning of 1970.
fn forget_since(state_dir: &Path, agent: &str) {
    let id = agent.parse::<AgentId>().expect("an id");
    append(state_dir, vec![(id, None, Event::ScheduleFired { due: Timestamp(1) })]);
}

fn of_kind(client: &mut Client, kind: &str) -> Vec<Value> {
    entries(client, &[kind])
}

fn missed_years(daemon: &Daemon) -> u64 {
    wait_for_entry(daemon, "schedule_missed", |_| true)["event"]["count"].as_u64().expect("a count")
}

#[test]
fn a_due_time_that_was_missed_fires_once_across_restarts() {
    let rig = Rig::saying("counted");
    let agent = rig.spawn(&yearly("counter", ""));
    let mut client = rig.client();
    let list = client.call("agent.list", json!({})).expect("a list");
    let next = list["agents"][0]["next_due"].as_u64().expect("it is due some day");
    let started = list["agents"][0]["started_at"].as_u64().expect("a time");
    assert!(next > started && next - started <= 366 * 24 * 3_600_000, "{list}");
    assert!(of_kind(&mut client, "schedule_fired").is_empty(), "not before its time");
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    forget_since(&state_dir, &agent);
    let daemon = builder.start();
    let fired = wait_for_entry(&daemon, "schedule_fired", |entry| entry["event"]["due"] != 1);
    let trace = text(&fired["trace_id"]);
    let mut client = daemon.client();
    assert_eq!(result_of(&mut client, &trace)["result"]["response"], "counted");
    assert_eq!(rig.models.requests()[0].first_user_text(), "Count.");
    let delivered = of_kind(&mut client, "message_delivered");
    assert_eq!(delivered.len(), 1, "{delivered:?}");
    assert_eq!((&delivered[0]["trace_id"], &delivered[0]["event"]["from"]), (&json!(trace), &Value::Null));
    assert!(missed_years(&daemon) >= 9, "the firing stands for all the years that are looked back on");
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
    assert_eq!(status["next_due"].as_u64(), Some(next), "and the next one is as it was");
    // Restarts, hard and in good order, find nothing to fire.
    let daemon = daemon.kill9().start();
    let trace = deliver(&mut daemon.client(), &agent, "Are you there?");
    assert_eq!(result_of(&mut daemon.client(), &trace)["status"], "done");
    let (status, builder) = daemon.terminate();
    assert!(status.success(), "{status}");
    let daemon = builder.start();
    let trace = deliver(&mut daemon.client(), &agent, "And now?");
    assert_eq!(result_of(&mut daemon.client(), &trace)["status"], "done");
    let mut client = daemon.client();
    assert_eq!(of_kind(&mut client, "schedule_fired").len(), 2, "the forged one and the one that fired");
    assert_eq!(rig.models.requests().len(), 3);
    assert_intact(&mut client);
}

#[test]
fn due_times_that_a_policy_skips_are_recorded_and_do_not_fire() {
    let rig = Rig::saying("counted");
    let agent = rig.spawn(&yearly("counter", "misfire: skip, "));
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    forget_since(&state_dir, &agent);
    let daemon = builder.start();
    assert!(missed_years(&daemon) >= 9);
    let daemon = daemon.kill9().start();
    let trace = deliver(&mut daemon.client(), &agent, "Are you there?");
    assert_eq!(result_of(&mut daemon.client(), &trace)["status"], "done");
    let mut client = daemon.client();
    assert_eq!(of_kind(&mut client, "schedule_missed").len(), 1, "told once");
    assert_eq!(of_kind(&mut client, "schedule_fired").len(), 1, "the forged one");
    assert_eq!(rig.models.requests().len(), 1, "the message's");
}

#[test]
fn a_paused_agent_is_not_woken_until_it_is_resumed() {
    let rig = Rig::saying("counted");
    let mut client = rig.client();
    let agent = rig.spawn(&yearly("counter", ""));
    client.call("agent.pause", json!({ "agent_id": agent })).expect("pauses");
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    forget_since(&state_dir, &agent);
    let daemon = builder.start();
    let mut client = daemon.client();
    let other = client.call("agent.spawn", json!({ "manifest": yearly("other", "") })).expect("spawns");
    let trace = deliver(&mut client, &text(&other["agent_id"]), "Are you there?");
    assert_eq!(result_of(&mut client, &trace)["status"], "done", "the clock had its chance meanwhile");
    assert_eq!(of_kind(&mut client, "schedule_fired").len(), 1, "the forged one");
    client.call("agent.resume", json!({ "agent_id": agent })).expect("resumes");
    let fired = wait_for_entry(&daemon, "schedule_fired", |entry| entry["event"]["due"] != 1);
    assert_eq!(fired["agent_id"], agent.as_str());
    assert_eq!(result_of(&mut client, &text(&fired["trace_id"]))["status"], "done");
}

#[test]
fn a_schedule_cannot_wake_an_agent_with_what_it_does_not_accept() {
    let rig = Rig::saying("counted");
    let mut client = rig.client();
    let mut spawn = |kind: &str| {
        let manifest = format!("{}accepts: {{ type: {kind} }}\n", yearly("picky", ""));
        client.call("agent.spawn", json!({ "manifest": manifest }))
    };
    spawn("string").expect("the control: it accepts words");
    let refused = spawn("object").expect_err("a word is no object");
    assert!(refused.message.contains("does not accept"), "{refused:?}");
}
