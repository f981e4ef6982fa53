//! Ten thousand idle connections, in a program of their own: they need nearly all the descriptors there are.

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::os::unix::net::UnixStream;
use testkit::{DaemonBuilder, ModelServer, Script, Turn};

const CROWD: usize = 10_000;
/// The crowd, and what the test itself and the servers hold.
const DESCRIPTORS: u64 = 10_500;
/// An idle connection may cost the daemon this much.
const KIB_PER_IDLE_CONNECTION: u64 = 16;

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

#[test]
fn ten_thousand_idle_connections_leave_room_for_one_more() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < DESCRIPTORS) {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    }
    let enough = limit.current.is_none_or(|current| current >= DESCRIPTORS);
    assert!(enough, "this test needs {DESCRIPTORS} descriptors (ulimit -n)");
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = DaemonBuilder::openai(&models).start();
    let mut early = daemon.client();
    let manifest = "name: a\nmodel: scripted-model\nsystem_prompt: x\ncapabilities: [\"tool: echo\"]\n";
    let agent =
        early.call("agent.spawn", json!({ "manifest": manifest })).expect("spawns")["agent_id"].clone();
    let echo = json!({ "agent_id": agent, "tool": "echo", "input": { "message": "hi" } });
    early.call("tool.invoke", echo.clone()).expect("echoes");
    let before = rss_kib(daemon.pid());
    let crowd: Vec<UnixStream> =
        (0..CROWD).map(|_| UnixStream::connect(daemon.socket()).expect("one more connection")).collect();
    // Connections are taken in their order, so an answer to a later one says that all the crowd is in.
    let mut late = daemon.client();
    for client in [&mut late, &mut early] {
        let reply = client.call("tool.invoke", echo.clone()).expect("tools run meanwhile");
        assert_eq!(reply["result"]["message"], "hi");
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("its descriptors").count();
    assert!(open > CROWD, "the daemon holds them all: {open}");
    let spent = rss_kib(daemon.pid()).saturating_sub(before);
    assert!(spent < KIB_PER_IDLE_CONNECTION * CROWD as u64, "{spent} KiB for {CROWD} idle connections");
    drop(crowd);
    let mut after = daemon.client();
    after.call("tool.invoke", echo).expect("and afterwards");
    let (status, _) = daemon.terminate();
    assert!(status.success(), "{status}");
}
