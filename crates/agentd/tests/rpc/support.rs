//! What these tests share: manifests, a daemon with its scripted model, and waits for journal entries.

use aaos_core::event::{Event, NewEntry};
use aaos_core::id::{AgentId, TraceId};
use aaos_journal::{Journal, JournalConfig};
use serde_json::{Value, json};
use testkit::{Client, Daemon, DaemonBuilder, Gate, ModelServer, RpcFailure, Script, Turn};

/// A UUID that names nothing.
pub(crate) const NOBODY: &str = "00000000-0000-7000-8000-00000000dead";

/// A manifest on the scripted model, with further fields.
pub(crate) fn manifest(name: &str, more: &str) -> String {
    format!("name: {name}\nmodel: scripted-model\nsystem_prompt: You are {name}.\n{more}")
}

/// A persistent agent's manifest.
pub(crate) fn persistent(name: &str) -> String {
    manifest(name, "lifecycle: persistent\n")
}

/// A daemon and the model server behind it.
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    pub(crate) models: ModelServer,
}

impl Rig {
    pub(crate) fn new(script: Script) -> Self {
        let models = ModelServer::start(script);
        Self { daemon: DaemonBuilder::openai(&models).start(), models }
    }

    /// Every message is answered with `answer`.
    pub(crate) fn saying(answer: &'static str) -> Self {
        Self::new(Script::dynamic(move |_| Turn::say(answer)))
    }

    /// The first request waits at the gate; every request is answered with the last words of its message.
    pub(crate) fn gated(gate: &Gate) -> Self {
        let gate = gate.clone();
        let mut is_first = true;
        Self::new(Script::dynamic(move |seen| {
            let last = seen.messages.last().map_or("", |message| message.text.as_str());
            let turn = Turn::say(format!("re: {last}"));
            if std::mem::take(&mut is_first) { turn.behind(&gate) } else { turn }
        }))
    }

    pub(crate) fn client(&self) -> Client {
        self.daemon.client()
    }

    pub(crate) fn spawn(&self, manifest: &str) -> String {
        spawn(&mut self.client(), manifest)
    }
}

/// Admits an agent and returns its id.
pub(crate) fn spawn(client: &mut Client, manifest: &str) -> String {
    let reply = client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawns");
    text(&reply["agent_id"])
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text, not {value}")).to_owned()
}

/// Delivers a message to a persistent agent and returns its trace.
pub(crate) fn deliver(client: &mut Client, agent: &str, message: &str) -> String {
    let params = json!({ "agent_id": agent, "message": message });
    let reply = client.call("agent.run", params).expect("delivered");
    assert_eq!(reply["status"], "delivered", "{reply}");
    text(&reply["trace_id"])
}

/// Waits for the reply to a delivered message.
pub(crate) fn result_of(client: &mut Client, trace: &str) -> Value {
    client.call("agent.result", json!({ "trace_id": trace, "wait_seconds": 30 })).expect("a report")
}

#[expect(clippy::needless_pass_by_value, reason = "tests write json!() in place")]
pub(crate) fn invoke(
    client: &mut Client,
    agent: &str,
    tool: &str,
    input: Value,
) -> Result<Value, RpcFailure> {
    let params = json!({ "agent_id": agent, "tool": tool, "input": input });
    client.call("tool.invoke", params).map(|mut reply| reply["result"].take())
}

/// Blocks until the journal holds an entry of this kind that `is_it` accepts, and returns it.
pub(crate) fn wait_for_entry(daemon: &Daemon, kind: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let mut client = daemon.client();
    client.send("audit.stream", json!({ "kinds": [kind] }));
    loop {
        let frame = client.notification().unwrap_or_else(|trouble| panic!("no {kind}: {trouble}"));
        if frame["params"]["kind"] == "event" && is_it(&frame["params"]["event"]) {
            return frame["params"]["event"].clone();
        }
    }
}

/// Blocks until the journal holds `count` entries of these kinds, and returns all there are.
///
/// What nobody waits for (denials, calls that are safe to repeat) reaches the disk a moment after the reply.
pub(crate) fn wait_for_entries(daemon: &Daemon, kinds: &[&str], count: usize) -> Vec<Value> {
    let mut client = daemon.client();
    client.send("audit.stream", json!({ "kinds": kinds }));
    for seen in 0..count {
        client.notification().unwrap_or_else(|trouble| panic!("{seen} of {count} {kinds:?}: {trouble}"));
    }
    entries(&mut daemon.client(), kinds)
}

/// Entries of these kinds that are on the disk now.
pub(crate) fn entries(client: &mut Client, kinds: &[&str]) -> Vec<Value> {
    let reply = client.call("audit.query", json!({ "kinds": kinds })).expect("entries");
    reply["entries"].as_array().expect("a list").clone()
}

/// The chain verifies to its end.
pub(crate) fn assert_intact(client: &mut Client) {
    let report = client.call("audit.verify", json!({})).expect("a report");
    assert!(report["broken"].is_null() && report["entries"].as_u64() > Some(0), "{report}");
}

/// The value is an object with at least these members.
pub(crate) fn assert_members(value: &Value, members: &[&str]) {
    let object = value.as_object().unwrap_or_else(|| panic!("an object, not {value}"));
    for member in members {
        assert!(object.contains_key(*member), "{member} is missing in {value}");
    }
}

/// Appends to the journal of a daemon that is down, as an earlier one could have written: each event with its agent and trace.
pub(crate) fn append(state_dir: &std::path::Path, events: Vec<(AgentId, Option<TraceId>, Event)>) {
    let config = JournalConfig::at(state_dir.join("journal.db"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let (journal, state) = Journal::open(config).expect("nobody else has it open");
        let entries = events.into_iter().map(|(agent_id, trace_id, event)| NewEntry {
            timestamp: state.latest,
            goal_id: None,
            agent_id: Some(agent_id),
            trace_id,
            parent_event: None,
            event,
        });
        journal.record_all(entries.collect()).await.expect("recorded");
        journal.close().await.expect("closed");
    });
}

/// The daemon still answers someone new.
pub(crate) fn assert_serves(daemon: &Daemon) {
    let reply = daemon.client().call("agent.list", json!({})).expect("answers a new client");
    assert!(reply["agents"].is_array(), "{reply}");
}

/// The most memory that a process ever had resident, in MiB, by `VmHWM` of proc(5): what was given back counts too.
pub(crate) fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kib / 1024
}
