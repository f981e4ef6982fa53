//! What spawning, stopping and dying leave behind in the daemon: nothing, however often.
//!
//! Invariant: descriptors, zombies and memory are compared after a warm-up of the same kind, so that what the
//! daemon keeps once is not taken for what it loses each time.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{Client, Daemon, DaemonBuilder, ModelServer, ProcessRef, Script, Turn};

/// Agents that are spawned and stopped.
const CYCLES: usize = 2_000;
/// Workers that are killed.
const DEATHS: usize = 500;
/// Of either, before the first look.
const WARM_UP: usize = 200;
/// What the allocator, the database's cache and the journal's index may take meanwhile, KiB.
const MOST_GROWTH_KIB: u64 = 8 * 1024;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    zombies: usize,
    resident_kib: u64,
}

fn held(pid: u32) -> Held {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let resident_kib = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("lists").count();
    Held { descriptors, zombies: zombies_below(i32::try_from(pid).expect("small")), resident_kib }
}

/// Zombies whose parent is this process or one of its children, by proc(5).
fn zombies_below(root: i32) -> usize {
    let listing = std::fs::read_dir("/proc").expect("reads /proc");
    let numbers = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let stat = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, tail) = stat.rsplit_once(')')?;
        let mut fields = tail.split_whitespace();
        Some((fields.next()? == "Z", fields.next()?.parse::<i32>().ok()?))
    };
    let all: Vec<(i32, bool, i32)> =
        numbers.filter_map(|pid| stat(pid).map(|(is_zombie, parent)| (pid, is_zombie, parent))).collect();
    let family: Vec<i32> =
        all.iter().filter(|(_, _, parent)| *parent == root).map(|(pid, ..)| *pid).collect();
    all.iter()
        .filter(|(_, is_zombie, parent)| *is_zombie && (*parent == root || family.contains(parent)))
        .count()
}

/// What was lost between two looks.
fn lost(before: Held, after: Held) -> Option<String> {
    let grew = after.resident_kib.saturating_sub(before.resident_kib);
    let is_worse = after.descriptors > before.descriptors + 4 || after.zombies > 1 || grew > MOST_GROWTH_KIB;
    is_worse.then(|| format!("before {before:?}, after {after:?}"))
}

fn daemon() -> (Daemon, ModelServer) {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    (DaemonBuilder::openai(&models).start(), models)
}

fn spawn(client: &mut Client) -> Value {
    let manifest = "name: brief\nmodel: m\nsystem_prompt: You are brief.\nlifecycle: persistent\n\
                    capabilities: [\"tool: echo\"]\n";
    client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawns")["agent_id"].take()
}

#[test]
fn agents_that_come_and_go_leave_nothing() {
    let (daemon, _models) = daemon();
    let mut client = daemon.client();
    let mut cycle = || {
        let agent = spawn(&mut client);
        client.call("agent.stop", json!({ "agent_id": agent })).expect("stops");
    };
    (0..WARM_UP).for_each(|_| cycle());
    let before = held(daemon.pid());
    (0..CYCLES).for_each(|_| cycle());
    let after = held(daemon.pid());
    println!("{CYCLES} cycles: before {before:?}, after {after:?}");
    assert_eq!(lost(before, after), None);
    // The control: agents that stay are seen by what their connections hold.
    let kept: Vec<Client> = (0..8).map(|_| daemon.client()).collect();
    kept.into_iter().for_each(|mut client| {
        client.call("agent.list", json!({})).expect("answers");
        std::mem::forget(client);
    });
    assert!(lost(before, held(daemon.pid())).is_some(), "eight descriptors more are seen");
}

#[test]
fn workers_that_die_leave_nothing_and_are_replaced() {
    let (daemon, _models) = daemon();
    let mut client = daemon.client();
    let agent = spawn(&mut client);
    let mut stream = daemon.client();
    stream.send("audit.stream", json!({ "kinds": ["worker_started"] }));
    let mut death = || {
        let call = json!({ "agent_id": agent, "tool": "echo", "input": { "message": "hi" } });
        // A death that nobody had noticed yet is told to the call that meets it; the next has a new worker.
        let told = client.call("tool.invoke", call.clone());
        if let Err(failure) = told {
            assert_eq!(failure.data["reason"], "worker_lost", "{failure:?}");
            client.call("tool.invoke", call).expect("another worker answers");
        }
        let started = stream.notification().expect("a worker started");
        let pid = started["params"]["event"]["event"]["pid"].as_i64().expect("a pid");
        let pid = i32::try_from(pid).expect("small");
        let Some(worker) = ProcessRef::find(pid) else { return };
        kill_process(Pid::from_raw(pid).expect("a process number"), Signal::KILL).expect("signals it");
        worker.wait_gone();
    };
    (0..WARM_UP / 4).for_each(|_| death());
    let before = held(daemon.pid());
    (0..DEATHS).for_each(|_| death());
    let after = held(daemon.pid());
    println!("{DEATHS} deaths: before {before:?}, after {after:?}");
    assert_eq!(lost(before, after), None);
}
