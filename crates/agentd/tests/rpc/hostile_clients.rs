//! Clients that never read, hang up, ask too much at once, or use up the descriptors: the others are served.

use crate::support::{
    Rig, assert_intact, assert_serves, deliver, entries, invoke, manifest, peak_mib, persistent, result_of,
    spawn, wait_for_entry,
};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use testkit::{Client, DaemonBuilder, Gate, ModelServer, Page, ProcessRef, Script, Turn, WebServer};

#[test]
fn a_client_that_never_reads_costs_bounded_memory_and_nobody_else_waits() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("wordy", "capabilities: [\"tool: echo\"]\n"));
    for _ in 0..8 {
        invoke(&mut client, &agent, "echo", json!({ "message": "x".repeat(1024 * 1024) })).expect("echoes");
    }
    let before = peak_mib(rig.daemon.pid());
    let mut deaf: Vec<Client> = (0..2).map(|_| rig.client()).collect();
    for deaf in &mut deaf {
        deaf.send("audit.stream", json!({}));
        for _ in 0..250 {
            deaf.send("audit.query", json!({}));
        }
    }
    // Answers go on to others, long ones too: by then the deaf ones have had as many made for them.
    for _ in 0..3 {
        invoke(&mut client, &agent, "echo", json!({ "message": "hi" })).expect("echoes");
        let read = client.call("audit.query", json!({})).expect("read by one who listens");
        assert!(read["entries"].as_array().map(Vec::len) >= Some(16));
        assert_serves(&rig.daemon);
    }
    let after = peak_mib(rig.daemon.pid());
    assert!(after < before + 500, "memory went from {before} to {after} MiB");
    drop(deaf);
    assert_serves(&rig.daemon);
}

#[test]
fn a_started_tool_finishes_when_its_client_hangs_up() {
    let gate = Gate::new();
    let web = WebServer::start([("/slow", Page::Gated(gate.clone(), Box::new(Page::Text("page".into()))))]);
    let rig = Rig::saying("done");
    let more = format!("capabilities: [\"tool: web_fetch\", \"network: {}\"]\n", web.authority());
    let agent = rig.spawn(&manifest("fetcher", &more));
    let mut leaver = rig.client();
    let input = json!({ "url": web.url("/slow") });
    leaver.send("tool.invoke", json!({ "agent_id": agent, "tool": "web_fetch", "input": input }));
    assert_eq!(web.wait_for_requests(1).len(), 1);
    drop(leaver);
    assert_serves(&rig.daemon);
    gate.open();
    let result = wait_for_entry(&rig.daemon, "tool_result", |entry| entry["agent_id"] == agent.as_str());
    assert_eq!(result["event"]["outcome"], "done", "{result}");
    let mut client = rig.client();
    let invoked = entries(&mut client, &["tool_invoked"]);
    assert_eq!(invoked.len(), 1);
    assert_eq!(invoked[0]["event"]["call"], result["event"]["call"]);
}

#[test]
fn a_run_whose_client_hung_up_goes_on_and_its_brief_agent_ends() {
    let gate = Gate::new();
    let rig = Rig::gated(&gate);
    let mut leaver = rig.client();
    leaver.send("agent.spawn_and_run", json!({ "manifest": manifest("brief", ""), "message": "go" }));
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    drop(leaver);
    gate.open();
    let stopped = wait_for_entry(&rig.daemon, "agent_stopped", |_| true);
    assert_eq!(stopped["event"]["end"], "finished", "{stopped}");
    let agents = rig.client().call("agent.list", json!({})).expect("a list");
    assert_eq!(agents, json!({ "agents": [] }));
}

#[test]
fn three_hundred_requests_in_flight_on_one_connection_are_all_answered() {
    let gate = Gate::new();
    let rig = Rig::gated(&gate);
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("held"));
    let trace = deliver(&mut client, &agent, "wait for me");
    let wait = json!({ "trace_id": trace, "wait_seconds": 600 });
    let ids: Vec<u64> = (0..300).map(|_| client.send("agent.result", wait.clone())).collect();
    assert_serves(&rig.daemon);
    gate.open();
    for id in ids {
        assert_eq!(client.reply_to(id).expect("a report")["status"], "done");
    }
}

#[test]
fn requests_on_one_connection_run_side_by_side() {
    let gate = Gate::new();
    let rig = Rig::gated(&gate);
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("held"));
    let trace = deliver(&mut client, &agent, "wait for me");
    let slow = client.send("agent.result", json!({ "trace_id": trace, "wait_seconds": 600 }));
    assert!(client.call("agent.list", json!({})).is_ok(), "the quick one overtakes");
    gate.open();
    assert_eq!(client.reply_to(slow).expect("a report")["status"], "done");
}

/// `agentd serve` under a limit of descriptors, set before it starts.
struct Limited {
    child: std::process::Child,
    builder: DaemonBuilder,
}

impl Limited {
    #[expect(clippy::disallowed_methods, reason = "the shell that sets the limit becomes the daemon")]
    fn start(builder: DaemonBuilder, descriptors: u32) -> Self {
        use std::io::{BufRead, BufReader};
        let wanted = builder.command(["serve"]);
        let mut command = std::process::Command::new("/bin/sh");
        let script = format!("ulimit -n {descriptors}; exec \"$0\" serve");
        command.arg("-c").arg(script).arg(wanted.get_program()).env_clear();
        command.envs(wanted.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(wanted.get_current_dir().expect("the work directory"));
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().expect("starts");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        while !said.contains("agentd ready") {
            said = lines.next().unwrap_or_else(|| panic!("ended: {said}")).expect("text");
        }
        // Whatever it says later is taken, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, builder }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.builder.home().join("agentd.sock")
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

#[test]
fn descriptor_exhaustion_is_survived() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = Limited::start(DaemonBuilder::openai(&models), 96);
    let alive = i32::try_from(daemon.child.id()).ok().and_then(ProcessRef::find).expect("it runs");
    let mut early = Client::connect(&daemon.socket()).expect("connects");
    let agent = spawn(&mut early, &manifest("early", "capabilities: [\"tool: echo\"]\n"));
    let crowd: Vec<UnixStream> = (0..120).map_while(|_| UnixStream::connect(daemon.socket()).ok()).collect();
    assert!(crowd.len() >= 96, "more connections than it has descriptors: {}", crowd.len());
    // Who is connected is served meanwhile; a tool may want for descriptors, and then says so.
    for _ in 0..3 {
        let agents = early.call("agent.list", json!({})).expect("served");
        assert_eq!(agents["agents"].as_array().map(Vec::len), Some(1));
        match invoke(&mut early, &agent, "echo", json!({ "message": "hi" })) {
            Ok(echoed) => assert_eq!(echoed, json!({ "message": "hi" })),
            Err(failure) => assert!(matches!(failure.code, 1004 | 1008 | 1009), "{failure:?}"),
        }
    }
    drop(crowd);
    let mut late = Client::connect(&daemon.socket()).expect("connects");
    let echoed = invoke(&mut late, &agent, "echo", json!({ "message": "again" })).expect("recovered");
    assert_eq!(echoed, json!({ "message": "again" }));
    assert_intact(&mut late);
    assert!(alive.is_alive(), "the same process all along");
}

#[test]
fn a_stop_does_not_wait_for_idle_or_deaf_clients() {
    let rig = Rig::saying("done");
    let idle: Vec<UnixStream> =
        (0..20).map(|_| UnixStream::connect(rig.daemon.socket()).expect("connects")).collect();
    let mut halfway = rig.client();
    halfway.send_bytes(b"{\"jsonrpc\":").expect("sent");
    let mut served = rig.client();
    assert!(served.call("agent.list", json!({})).is_ok());
    let mut reader = rig.client();
    let stream = reader.send("audit.stream", json!({}));
    assert_eq!(reader.notification().expect("the stream runs")["params"]["kind"], "event");
    let (status, _builder) = rig.daemon.terminate();
    assert!(status.success(), "{status}");
    assert_eq!(reader.reply_to(stream).expect_err("closing").code, 1007);
    assert!(served.read_message().is_err() && halfway.read_message().is_err(), "all are closed");
    assert_eq!(idle.len(), 20);
}

#[test]
fn what_hung_up_streams_leave_behind_is_gone_after_the_next_entries() {
    let rig = Rig::saying("done");
    let agent = rig.spawn(&manifest("noisy", "capabilities: [\"tool: echo\"]\n"));
    for _ in 0..50 {
        let mut leaver = rig.client();
        leaver.send("audit.stream", json!({}));
        let first: Value = leaver.notification().expect("the stream runs");
        assert_eq!(first["params"]["kind"], "event");
    }
    let mut client = rig.client();
    // Each entry is written to whoever is still there; a second one finds the pipes broken.
    for _ in 0..3 {
        invoke(&mut client, &agent, "echo", json!({ "message": "hi" })).expect("echoes");
    }
    assert_serves(&rig.daemon);
    let result = deliver_and_wait(&rig);
    assert_eq!(result["status"], "done");
}

fn deliver_and_wait(rig: &Rig) -> Value {
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    let trace = deliver(&mut client, &agent, "hi");
    result_of(&mut client, &trace)
}
