//! What these tests share: a daemon on a scripted model, goals run to their end, and the journal read back.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;
use testkit::{
    Client, Daemon, DaemonBuilder, Dialect, ModelServer, ProcessRef, Script, SeenRequest, Turn, scratch,
};

/// In the system prompt of [`LEAD`], and in no other.
pub(crate) const LEAD_MARK: &str = "You are the lead.";

/// A root agent that does what its script says; its authority comes from the goal's grants.
pub(crate) const LEAD: &str =
    "name: lead\nmodel: smart\nchild_models: [fast]\nsystem_prompt: You are the lead.\n";

/// The directory that a goal works in; made before the script that names paths in it.
pub(crate) struct Work {
    directory: TempDir,
}

impl Work {
    pub(crate) fn new(directory: TempDir) -> Self {
        Self { directory }
    }

    /// The path of something in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Puts a file into it.
    pub(crate) fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("makes directories");
        std::fs::write(&path, content).expect("writes");
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("the file is there")
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.directory.path().join(name).exists()
    }

    /// What a person's `agentd run` would grant: read the directory, write `out`, all tools, children.
    pub(crate) fn grants(&self) -> Vec<Value> {
        let (read, write) = (self.path("*"), self.path("out/*"));
        [
            format!("file_read: {read}"),
            format!("file_write: {write}"),
            "tool: *".into(),
            "spawn_child: [*]".into(),
        ]
        .into_iter()
        .map(Value::String)
        .collect()
    }

    /// A goal for [`LEAD`], with outputs by their names in the directory.
    pub(crate) fn goal(&self, outputs: &[&str]) -> Value {
        let outputs: Vec<String> = outputs.iter().map(|name| self.path(name)).collect();
        json!({ "goal": "do it", "outputs": outputs, "grants": self.grants(), "manifest": LEAD,
                "working_directory": self.directory.path() })
    }
}

/// A daemon, the model server behind it, and a working directory.
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    pub(crate) models: ModelServer,
    pub(crate) work: Work,
}

/// A goal that was run to its end.
pub(crate) struct Ran {
    /// The goal as `goal.status` shows it.
    pub(crate) goal: Value,
    /// Its journal entries.
    pub(crate) entries: Vec<Value>,
    /// The last frame of the stream.
    pub(crate) end: Value,
}

impl Rig {
    pub(crate) fn new(script: impl FnOnce(&Work) -> Script) -> Self {
        Self::on(Dialect::OpenAi, script)
    }

    pub(crate) fn on(wire: Dialect, script: impl FnOnce(&Work) -> Script) -> Self {
        let work = Work::new(scratch());
        let models = ModelServer::start(script(&work));
        let builder = match wire {
            Dialect::OpenAi => DaemonBuilder::openai(&models),
            Dialect::Anthropic => DaemonBuilder::anthropic(&models),
        };
        Self { daemon: builder.start(), models, work }
    }

    /// A lead with these turns, and nobody else, at a provider that needs no key.
    pub(crate) fn keyless(turns: impl IntoIterator<Item = Turn>) -> Self {
        let work = Work::new(scratch());
        let models = ModelServer::start(Script::new().when_system(LEAD_MARK, turns));
        // An empty variable counts as absent.
        let daemon = DaemonBuilder::openai(&models).env("OPENAI_API_KEY", "").start();
        Self { daemon, models, work }
    }

    /// A lead with these turns, and nobody else.
    pub(crate) fn lead<T: IntoIterator<Item = Turn>>(turns: impl FnOnce(&Work) -> T) -> Self {
        Self::new(|work| Script::new().when_system(LEAD_MARK, turns(work)))
    }

    /// Runs a goal to its end. The script must have had a turn for everything that was asked.
    pub(crate) fn run(&self, params: Value) -> Ran {
        let ran = run(&mut self.daemon.client(), params);
        assert_eq!(self.models.unscripted(), Vec::<String>::new(), "the script covers the run: {}", ran.goal);
        ran
    }

    /// Everything in the journal.
    pub(crate) fn journal(&self) -> Vec<Value> {
        entries(&mut self.daemon.client(), json!({}))
    }

    /// What the tool results in the last request of the agent with this system prompt say, unwrapped.
    pub(crate) fn results_seen_by(&self, system: &str) -> Vec<Value> {
        let seen = self.models.requests();
        let last = seen.iter().rfind(|seen| seen.system.contains(system)).expect("it has asked");
        results_of(last)
    }
}

/// The JSON inside each wrapped tool result of a request.
pub(crate) fn results_of(seen: &SeenRequest) -> Vec<Value> {
    seen.results.iter().map(|result| unwrapped(&result.content)).collect()
}

/// The JSON inside a wrapped tool result.
pub(crate) fn unwrapped(content: &str) -> Value {
    let lines: Vec<&str> = content.lines().collect();
    assert!(lines.len() >= 3 && lines[0].starts_with("BEGIN TOOL RESULT "), "a wrapped result: {content}");
    let nonce = lines[0].split(' ').nth(3).expect("a nonce");
    assert_eq!(lines[2], format!("END TOOL RESULT {nonce}"));
    serde_json::from_str(lines[1]).unwrap_or_else(|error| panic!("{error}: {}", lines[1]))
}

/// Submits a goal and follows it to its end.
pub(crate) fn run(client: &mut Client, params: Value) -> Ran {
    let (frames, reply) = client.call_streaming("agent.submit_streaming", params);
    let mut reply = reply.unwrap_or_else(|failure| panic!("the goal was not taken: {failure:?}"));
    let frames: Vec<Value> = frames.into_iter().map(|mut frame| frame["params"].take()).collect();
    let end = frames.iter().find(|frame| frame["kind"] == "end").expect("an end").clone();
    let of_event = |frame: &Value| (frame["kind"] == "event").then(|| frame["event"].clone());
    Ran { goal: reply["goal"].take(), entries: frames.iter().filter_map(of_event).collect(), end }
}

impl Ran {
    pub(crate) fn state(&self) -> &str {
        self.goal["state"].as_str().expect("a state")
    }

    pub(crate) fn exit_code(&self) -> u64 {
        assert_eq!(self.goal["exit_code"], self.end["exit_code"], "the stream says the same");
        self.goal["exit_code"].as_u64().expect("an exit code")
    }

    pub(crate) fn error(&self) -> &str {
        self.goal["error"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn assert_ended(&self, state: &str, exit_code: u64) {
        assert_eq!((self.state(), self.exit_code()), (state, exit_code), "{}", self.goal);
    }

    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&Value> {
        of_kind(&self.entries, kind)
    }
}

/// Entries of one kind.
pub(crate) fn of_kind<'e>(entries: &'e [Value], kind: &str) -> Vec<&'e Value> {
    entries.iter().filter(|entry| entry["event"]["kind"] == kind).collect()
}

/// The id of the one agent of this name.
pub(crate) fn agent_named(entries: &[Value], name: &str) -> String {
    let is_it = |entry: &&&Value| entry["event"]["name"] == name;
    let found: Vec<_> = of_kind(entries, "agent_spawned").into_iter().filter(|entry| is_it(&entry)).collect();
    assert_eq!(found.len(), 1, "one agent is named {name}");
    text(&found[0]["agent_id"])
}

pub(crate) fn entries(client: &mut Client, filter: Value) -> Vec<Value> {
    let mut reply = client.call("audit.query", filter).expect("entries");
    serde_json::from_value(reply["entries"].take()).expect("a list")
}

/// The chain verifies to its end.
pub(crate) fn assert_intact(client: &mut Client) {
    let report = client.call("audit.verify", json!({})).expect("a report");
    assert!(report["broken"].is_null() && report["entries"].as_u64() > Some(0), "{report}");
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text, not {value}")).to_owned()
}

/// A child's manifest; its system prompt is `You are the NAME.`
pub(crate) fn child(name: &str, capabilities: &[String]) -> String {
    let mut manifest = format!("name: {name}\nmodel: fast\nsystem_prompt: You are the {name}.\n");
    if !capabilities.is_empty() {
        manifest.push_str("capabilities:\n");
    }
    for capability in capabilities {
        manifest.push_str(&format!("  - {capability}\n"));
    }
    manifest
}

/// Arguments of `spawn_agent`.
pub(crate) fn spawning(name: &str, capabilities: &[String], message: &str) -> Value {
    json!({ "manifest": child(name, capabilities), "message": message })
}

/// A turn that writes one file.
pub(crate) fn write(path: &str, content: &str) -> Turn {
    Turn::call("file_write", json!({ "path": path, "content": content }))
}

/// Waits on a stream until an entry comes for which `is_it` holds, and returns it.
pub(crate) fn next_entry(client: &mut Client, mut is_it: impl FnMut(&Value) -> bool) -> Value {
    loop {
        let mut frame =
            client.notification().unwrap_or_else(|trouble| panic!("no such entry came: {trouble}"));
        if frame["params"]["kind"] == "event" && is_it(&frame["params"]["event"]) {
            return frame["params"]["event"].take();
        }
    }
}

/// Waits on a stream for the next entry of a kind.
pub(crate) fn next_of_kind(client: &mut Client, kind: &str) -> Value {
    next_entry(client, |entry| entry["event"]["kind"] == kind)
}

/// Waits until the daemon has said this on standard error. It was told before; who reads it for the test may be slower.
pub(crate) fn wait_for_stderr(daemon: &Daemon, wanted: &str) {
    let began = std::time::Instant::now();
    while !daemon.stderr().contains(wanted) {
        assert!(began.elapsed() < testkit::PATIENCE, "nothing is said of {wanted:?}: {}", daemon.stderr());
        daemon.client().call("runtime.status", json!({})).expect("the daemon lives");
    }
}

/// Kills the gateway to models.
pub(crate) fn kill_the_gateway(daemon: &Daemon) {
    let journal = entries(&mut daemon.client(), json!({}));
    let receipts = of_kind(&journal, "confinement_receipt");
    let pid = receipts.iter().rfind(|entry| entry["event"]["role"] == "models").expect("a receipt");
    let pid = pid["event"]["receipt"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
    let gateway = ProcessRef::find(pid).expect("it runs");
    kill_process(Pid::from_raw(pid).expect("a process number"), Signal::KILL).expect("signals it");
    gateway.wait_gone();
}
