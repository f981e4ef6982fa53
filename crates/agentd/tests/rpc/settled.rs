//! What a kill leaves between two entries: each thing that was under way is settled once, as if nobody had noticed.
//! Where no gate can hold the daemon between two entries, the later ones are written as it would have written them.

use aaos_core::event::{Event, content_hash};
use aaos_core::id::{AgentId, TraceId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use testkit::{Daemon, DaemonBuilder, Gate, ModelServer, Script, Turn};

use crate::support::{
    Rig, append, assert_intact, deliver, entries, invoke, manifest, persistent, result_of, text,
    wait_for_entry,
};

fn id(agent: &str) -> AgentId {
    agent.parse().expect("an id")
}

fn trace(text: &str) -> Option<TraceId> {
    Some(text.parse().expect("an id"))
}

fn event(value: Value) -> Event {
    let shown = value.to_string();
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{shown}: {error}"))
}

fn of_tool<'a>(tool: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |entry| entry["event"]["tool"] == tool
}

/// What the model was told last.
fn last_told(models: &ModelServer) -> String {
    let seen = models.requests();
    seen.iter().rev().find_map(|seen| seen.results.last()).expect("a result").content.clone()
}

/// Calls the tool in the first turn and ends in the second.
fn calling(tool: &'static str, input: Value) -> Script {
    Script::dynamic(move |seen| match seen.replies_so_far() {
        0 => Turn::call(tool, input.clone()),
        _ => Turn::say("told"),
    })
}

/// Stops the worker of an agent, so that its next call does not end by itself.
fn stop_worker(daemon: &Daemon, agent: &str) {
    invoke(&mut daemon.client(), agent, "echo", json!({ "message": "here" })).expect("a worker runs");
    let started = wait_for_entry(daemon, "worker_started", |entry| entry["agent_id"] == agent);
    let pid = i32::try_from(started["event"]["pid"].as_u64().expect("a pid")).expect("small");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::STOP).expect("stops it");
}

/// A daemon that was killed in a call of a persistent agent's model, whose worker did not act yet.
struct Cut {
    home: TempDir,
    models: ModelServer,
    builder: DaemonBuilder,
    state_dir: PathBuf,
    agent: String,
    trace: String,
    /// The entry of the call.
    call: Value,
}

impl Cut {
    /// `input` of the call is made from the path of a file that holds `old`. A question about it is approved.
    fn at(tool: &'static str, more: &str, input: impl Fn(&Path) -> Value) -> Self {
        let home = testkit::scratch();
        let file = home.path().join("f");
        std::fs::write(&file, "old").expect("writes");
        let rig = Rig::new(calling(tool, input(&file)));
        let root = home.path().display();
        let grants = format!("\"tool: *\", \"file_read: {root}/*\", \"file_write: {root}/*\"");
        let agent = rig
            .spawn(&manifest("keeper", &format!("lifecycle: persistent\ncapabilities: [{grants}]\n{more}")));
        stop_worker(&rig.daemon, &agent);
        let trace = deliver(&mut rig.client(), &agent, "go");
        if !more.is_empty() {
            let asked = wait_for_entry(&rig.daemon, "human_approval_requested", |_| true);
            let id = &asked["event"]["question"]["id"];
            let yes = json!({ "id": id, "decision": "approve" });
            rig.client().call("approval.respond", yes).expect("it is open");
        }
        let call = wait_for_entry(&rig.daemon, "tool_invoked", of_tool(tool));
        let state_dir = rig.daemon.state_dir();
        Self { home, models: rig.models, builder: rig.daemon.kill9(), state_dir, agent, trace, call }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("f")
    }

    fn content(&self) -> String {
        std::fs::read_to_string(self.file()).expect("reads")
    }

    fn call_id(&self) -> String {
        text(&self.call["event"]["call"])
    }

    /// Writes entries of the agent's run as the daemon would have, had it not been killed so early.
    fn append(&self, events: Vec<Value>) {
        let events = events.into_iter().map(|one| (id(&self.agent), trace(&self.trace), event(one)));
        append(&self.state_dir, events.collect());
    }

    /// Starts the daemon again.
    fn again(self) -> (Daemon, Again) {
        let daemon = self.builder.start();
        let again = Again { home: self.home, models: self.models, trace: self.trace, call: self.call };
        (daemon, again)
    }
}

/// What is looked at after the restart.
struct Again {
    home: TempDir,
    models: ModelServer,
    trace: String,
    call: Value,
}

impl Again {
    fn answered(&self, daemon: &Daemon) -> Value {
        result_of(&mut daemon.client(), &self.trace)
    }

    fn content(&self) -> String {
        std::fs::read_to_string(self.home.path().join("f")).expect("reads")
    }

    /// The one outcome of the call.
    fn outcome(&self, daemon: &Daemon) -> Value {
        let call = &self.call["event"]["call"];
        wait_for_entry(daemon, "tool_result", |entry| entry["event"]["call"] == *call);
        let results = entries(&mut daemon.client(), &["tool_result"]);
        let mut of_call = results.into_iter().filter(|entry| entry["event"]["call"] == *call);
        let outcome = of_call.next().expect("it has one");
        assert!(of_call.next().is_none(), "and no other");
        outcome
    }
}

const ASKS: &str = "approval_required: [file_write]\n";

fn write(path: &Path) -> Value {
    json!({ "path": path, "content": "new" })
}

#[test]
fn a_denial_that_was_recorded_before_a_kill_is_told_and_nobody_is_asked_again() {
    let answer = |events: fn(&Value) -> Vec<Value>| {
        let rig = Rig::new(calling("echo", json!({ "message": "hi" })));
        let asks = "lifecycle: persistent\ncapabilities: [\"tool: echo\"]\napproval_required: [echo]\n";
        let agent = rig.spawn(&manifest("keeper", asks));
        let sent = deliver(&mut rig.client(), &agent, "go");
        let asked = wait_for_entry(&rig.daemon, "human_approval_requested", |_| true);
        let state_dir = rig.daemon.state_dir();
        let builder = rig.daemon.kill9();
        let told = events(&asked["event"]["question"]["id"]).into_iter().map(event);
        append(&state_dir, told.map(|one| (id(&agent), trace(&sent), one)).collect());
        (builder.start(), rig.models, sent)
    };
    let denied = |question: &Value| {
        vec![json!({ "kind": "human_approval_denied", "approval": question, "principal": 0,
                     "reason": "not this one", "because": "answered" })]
    };
    let (daemon, models, sent) = answer(denied);
    assert_eq!(result_of(&mut daemon.client(), &sent)["result"]["response"], "told");
    assert!(last_told(&models).contains("not this one"), "{}", last_told(&models));
    assert_eq!(entries(&mut daemon.client(), &["human_approval_requested"]).len(), 1);
    assert_eq!(entries(&mut daemon.client(), &["call_refused"]).len(), 1);
    assert_intact(&mut daemon.client());
    // The control: without an answer the same question is still open, and not asked twice either.
    let (daemon, _models, sent) = answer(|_| Vec::new());
    let mut client = daemon.client();
    let open = client.call("approval.list", json!({})).expect("a list")["pending"].clone();
    let yes = json!({ "id": open[0]["id"], "decision": "approve" });
    client.call("approval.respond", yes).expect("it is open");
    assert_eq!(result_of(&mut client, &sent)["result"]["response"], "told");
    assert_eq!(entries(&mut client, &["human_approval_requested"]).len(), 1);
}

/// An entry that the mind does not follow.
fn nonsense() -> Value {
    json!({ "kind": "call_refused", "model_call": "never made", "repeats": 1,
            "failure": { "kind": "denied", "message": "no" } })
}

#[test]
fn a_call_whose_run_cannot_be_taken_up_has_an_outcome() {
    let cut = Cut::at("file_write", "", write);
    cut.append(vec![nonsense()]);
    let (daemon, again) = cut.again();
    assert_eq!(again.answered(&daemon)["status"], "failed");
    let outcome = again.outcome(&daemon);
    assert_eq!(outcome["event"]["outcome"], "unknown", "{outcome}");
    assert_eq!(outcome["parent_event"], again.call["id"]);
    let mut client = daemon.client();
    let status = client.call("runtime.status", json!({})).expect("a status");
    assert_eq!(status["unknown_effects"][0]["call"], again.call["event"]["call"], "the operator is told");
    assert_eq!(again.content(), "old");
    assert_intact(&mut client);
    // The control: a run that is taken up makes the call again.
    let (daemon, again) = Cut::at("file_write", "", write).again();
    assert_eq!(again.answered(&daemon)["status"], "done");
    assert_eq!(again.outcome(&daemon)["event"]["outcome"], "done");
    assert_eq!(again.content(), "new");
}

#[test]
fn children_of_a_call_that_nobody_takes_up_end_with_their_own_calls() {
    let home = testkit::scratch();
    let root = home.path().display().to_string();
    let grants = format!("\"tool: *\", \"file_write: {root}/*\"");
    let child = manifest("child", &format!("capabilities: [{grants}]\n"));
    let (gate, input) = (Gate::new(), json!({ "path": format!("{root}/f"), "content": "new" }));
    let held = gate.clone();
    let rig = Rig::new(Script::dynamic(move |seen| {
        match (seen.system.contains("You are child."), seen.replies_so_far()) {
            (false, 0) => Turn::call("spawn_agent", json!({ "manifest": child, "message": "write" })),
            (true, 0) => Turn::call("file_write", input.clone()).behind(&held),
            _ => Turn::say("told"),
        }
    }));
    let more = format!("lifecycle: persistent\ncapabilities: [{grants}, \"spawn_child: [*]\"]\n");
    let parent = rig.spawn(&manifest("parent", &more));
    let sent = deliver(&mut rig.client(), &parent, "go");
    let spawned = wait_for_entry(&rig.daemon, "agent_spawned", |entry| entry["event"]["name"] == "child");
    let child = text(&spawned["agent_id"]);
    assert_eq!(rig.models.wait_for_requests(2).len(), 2);
    stop_worker(&rig.daemon, &child);
    gate.open();
    let written = wait_for_entry(&rig.daemon, "tool_invoked", of_tool("file_write"));
    let spawning = wait_for_entry(&rig.daemon, "tool_invoked", of_tool("spawn_agent"));
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    append(&state_dir, vec![(id(&parent), trace(&sent), event(nonsense()))]);
    let daemon = builder.start();
    assert_eq!(result_of(&mut daemon.client(), &sent)["status"], "failed");
    wait_for_entry(&daemon, "agent_stopped", |entry| entry["agent_id"] == child.as_str());
    for (begun, outcome) in [(&written, "unknown"), (&spawning, "failed")] {
        let result =
            wait_for_entry(&daemon, "tool_result", |entry| entry["event"]["call"] == begun["event"]["call"]);
        assert_eq!(result["event"]["outcome"], outcome, "{result}");
    }
    let mut client = daemon.client();
    let left = client.call("agent.list", json!({})).expect("a list");
    assert_eq!(left["agents"].as_array().map(Vec::len), Some(1), "the parent alone: {left}");
    assert_intact(&mut client);
}

#[test]
fn an_approved_write_is_made_again_only_while_its_target_is_what_was_approved() {
    let cut = Cut::at("file_write", ASKS, write);
    std::fs::write(cut.file(), "somebody else's").expect("writes");
    let (daemon, again) = cut.again();
    assert_eq!(again.answered(&daemon)["status"], "done");
    assert_eq!(again.content(), "somebody else's");
    assert_eq!(again.outcome(&daemon)["event"]["outcome"], "unknown");
    assert!(last_told(&again.models).contains("not what was approved"), "{}", last_told(&again.models));
    // The controls: the target is as it was shown, or as the call itself left it.
    for left in ["old", "new"] {
        let cut = Cut::at("file_write", ASKS, write);
        std::fs::write(cut.file(), left).expect("writes");
        let (daemon, again) = cut.again();
        assert_eq!(again.answered(&daemon)["status"], "done");
        assert_eq!(
            (again.content().as_str(), &again.outcome(&daemon)["event"]["outcome"]),
            ("new", &json!("done"))
        );
        assert_eq!(entries(&mut daemon.client(), &["human_approval_requested"]).len(), 1);
    }
}

#[test]
fn an_approved_append_is_made_again_only_where_it_was_to_go_on() {
    let append = |path: &Path| json!({ "path": path, "content": "+new", "append": true });
    for (left, then, outcome) in
        [("old", "old+new", "done"), ("old+new", "old+new", "done"), ("odd", "odd", "unknown")]
    {
        let cut = Cut::at("file_write", ASKS, append);
        std::fs::write(cut.file(), left).expect("writes");
        let (daemon, again) = cut.again();
        assert_eq!(again.answered(&daemon)["status"], "done", "{left}");
        assert_eq!(again.content(), then, "{left}");
        assert_eq!(again.outcome(&daemon)["event"]["outcome"], outcome, "{left}");
    }
}

#[test]
fn a_reply_that_cost_more_than_was_reserved_ends_the_run_after_a_kill_too() {
    for (spent, stop_reason, asked) in [(10_000_000, "budget_exceeded", 1), (10, "complete", 2)] {
        let mut is_first = true;
        let rig = Rig::new(Script::dynamic(move |_| {
            if std::mem::take(&mut is_first) { Turn::Hang } else { Turn::say("told") }
        }));
        let more = "lifecycle: persistent\ncapabilities: [\"tool: echo\"]\n";
        let agent = rig.spawn(&manifest("keeper", more));
        let sent = deliver(&mut rig.client(), &agent, "go");
        let requested = wait_for_entry(&rig.daemon, "inference_requested", |_| true);
        assert_eq!(rig.models.wait_for_requests(1).len(), 1);
        let state_dir = rig.daemon.state_dir();
        let builder = rig.daemon.kill9();
        let call = json!({ "id": "x", "tool": "echo", "arguments": "{\"message\":\"hi\"}" });
        let usage = json!({ "input_tokens": spent, "output_tokens": 0, "cached_input_tokens": 0 });
        let reply =
            json!({ "text": "", "reasoning": null, "calls": [call], "stop": "tool_use", "usage": usage });
        let completed = json!({ "kind": "inference_completed", "call": requested["event"]["call"],
                                "result": { "Ok": reply }, "attempts": 1, "possibly_billed": 0,
                                "spent": { "tokens": spent }, "elapsed": 1 });
        append(&state_dir, vec![(id(&agent), trace(&sent), event(completed))]);
        let daemon = builder.start();
        let report = result_of(&mut daemon.client(), &sent);
        assert_eq!(report["result"]["stop_reason"], stop_reason, "{report}");
        let mut client = daemon.client();
        assert_eq!(entries(&mut client, &["tool_invoked"]).len(), asked - 1, "nothing is begun after it");
        assert_eq!(rig.models.requests().len(), asked, "nobody is asked again");
        let told = entries(&mut client, &["budget_exceeded"]);
        assert_eq!(told.len(), 2 - asked, "{told:?}");
        // The conversation can be taken up once more.
        let daemon = daemon.kill9().start();
        let next = deliver(&mut daemon.client(), &agent, "and now?");
        assert_eq!(result_of(&mut daemon.client(), &next)["status"], "done");
        assert!(entries(&mut daemon.client(), &["agent_restarted"]).is_empty());
    }
}

#[test]
fn a_failure_that_was_recorded_right_before_a_kill_is_supervised() {
    let mut is_first = true;
    let rig =
        Rig::new(Script::dynamic(
            move |_| {
                if std::mem::take(&mut is_first) { Turn::Hang } else { Turn::say("well") }
            },
        ));
    let agent = rig.spawn(&persistent("keeper"));
    let sent = deliver(&mut rig.client(), &agent, "go");
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    let failure = json!({ "kind": "rejected", "message": "it broke", "retry_after": null });
    let completed = json!({ "kind": "agent_execution_completed", "response": "", "iterations": 0,
                            "usage": { "input_tokens": 0, "output_tokens": 0, "cached_input_tokens": 0 },
                            "stop_reason": "error", "error": "it broke", "mind_hash": "",
                            "cut": { "cause": { "model_failed": failure }, "asking": true } });
    append(&state_dir, vec![(id(&agent), trace(&sent), event(completed))]);
    let daemon = builder.start();
    let restarted = wait_for_entry(&daemon, "agent_restarted", |_| true);
    let told = &restarted["event"];
    assert_eq!(
        (&restarted["trace_id"], &told["restarts"], &told["reason"]),
        (&json!(sent), &json!(1), &json!("it broke"))
    );
    let daemon = daemon.kill9().start();
    let mut client = daemon.client();
    let next = deliver(&mut client, &agent, "and now?");
    assert_eq!(result_of(&mut client, &next)["result"]["response"], "well");
    assert_eq!(entries(&mut client, &["agent_restarted"]).len(), 1, "once");
    assert_eq!(result_of(&mut client, &sent)["status"], "failed");
}

#[test]
fn what_a_stopped_agent_had_not_answered_is_told_alike_before_and_after_a_kill() {
    let rig = Rig::new(Script::dynamic(|_| Turn::Hang));
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    let sent = [deliver(&mut client, &agent, "one"), deliver(&mut client, &agent, "two")];
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    client.call("agent.stop", json!({ "agent_id": agent })).expect("stops");
    let before = sent.each_ref().map(|trace| result_of(&mut client, trace));
    assert!(text(&before[1]["error"]).contains("stopped before it answered"), "{before:?}");
    let daemon = rig.daemon.kill9().start();
    assert_eq!(sent.each_ref().map(|trace| result_of(&mut daemon.client(), trace)), before);
}

#[test]
fn a_result_that_a_revocation_cut_is_given_to_nobody_after_a_kill() {
    for revokes in [true, false] {
        let cut = Cut::at("file_write", "", write);
        let result = json!({ "bytes_written": 3 }).to_string();
        let done = json!({ "kind": "tool_result", "call": cut.call_id(), "tool": "file_write", "outcome": "done",
                           "result_hash": content_hash(result.as_bytes()), "result_bytes": result.len(),
                           "result": result, "failure": null, "worker": null, "spent": {}, "elapsed": 1 });
        let grant = &cut.call["event"]["access"][0]["grant"];
        let revoked = json!({ "kind": "capability_revoked", "grant": grant, "principal": 0, "ended": [grant],
                              "cut": [cut.call_id()] });
        cut.append(if revokes { vec![done, revoked] } else { vec![done] });
        assert_eq!(cut.content(), "old");
        let (daemon, again) = cut.again();
        assert_eq!(again.answered(&daemon)["status"], "done");
        let told = last_told(&again.models);
        assert_eq!(told.contains("revoked"), revokes, "{told}");
        assert_eq!(told.contains("bytes_written"), !revokes, "{told}");
        let refused = entries(&mut daemon.client(), &["call_refused"]);
        assert_eq!(refused.len(), usize::from(revokes), "{refused:?}");
        assert_eq!(again.outcome(&daemon)["event"]["outcome"], "done", "what happened stays on record");
        assert_eq!(again.content(), "old", "nothing is done again");
    }
}

/// Whether a process has something at this path open.
fn has_open(pid: u32, path: &Path) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a live process");
    descriptors.filter_map(|one| std::fs::read_link(one.ok()?.path()).ok()).any(|link| link == path)
}

#[test]
fn a_root_whose_grant_was_revoked_above_is_not_opened_again() {
    let home = testkit::scratch();
    let (gone, kept) = (home.path().join("gone"), home.path().join("kept"));
    std::fs::create_dir(&gone).expect("makes it");
    std::fs::create_dir(&kept).expect("makes it");
    let files = format!("\"file_read: {}/*\", \"file_read: {}/*\"", gone.display(), kept.display());
    let child = manifest("child", &format!("capabilities: [{files}]\n"));
    let rig = Rig::new(Script::dynamic(move |seen| match seen.system.contains("You are child.") {
        true => Turn::Hang,
        false => Turn::call("spawn_agent", json!({ "manifest": child, "message": "go" })),
    }));
    let more = "\"tool: spawn_agent\", \"spawn_child: [*]\"";
    let parent =
        rig.spawn(&manifest("parent", &format!("lifecycle: persistent\ncapabilities: [{files}, {more}]\n")));
    let mut client = rig.client();
    deliver(&mut client, &parent, "go");
    assert_eq!(rig.models.wait_for_requests(2).len(), 2);
    assert!(has_open(rig.daemon.pid(), &gone), "the control: it is granted");
    let held = entries(&mut client, &["capability_granted"]);
    let grant = held
        .iter()
        .map(|entry| &entry["event"]["grant"])
        .find(|grant| grant["agent"] == parent.as_str() && grant["capability"].to_string().contains("/gone"));
    let grant = grant.expect("the parent's").clone();
    let revoke = json!({ "agent_id": parent, "grant_id": grant["id"] });
    client.call("capability.revoke", revoke).expect("revoked");
    let daemon = rig.daemon.kill9().start();
    assert_eq!(rig.models.wait_for_requests(3).len(), 3);
    assert!(has_open(daemon.pid(), &kept), "the control: what is still granted");
    assert!(!has_open(daemon.pid(), &gone), "a descriptor of what nobody holds");
}

#[test]
fn a_model_whose_provider_wanted_quiet_is_left_alone_after_a_kill() {
    const WISH_MS: u64 = 2_500;
    let mut is_first = true;
    let rig =
        Rig::new(Script::dynamic(
            move |_| {
                if std::mem::take(&mut is_first) { Turn::Hang } else { Turn::say("well") }
            },
        ));
    let agent = rig.spawn(&persistent("keeper"));
    let other = rig.spawn(&persistent("other").replace("scripted-model", "openai/another"));
    let sent = deliver(&mut rig.client(), &agent, "go");
    let requested = wait_for_entry(&rig.daemon, "inference_requested", |_| true);
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    let busy = json!({ "kind": "rate_limited", "message": "busy", "retry_after": WISH_MS });
    let retried = json!({ "kind": "inference_retried", "call": requested["event"]["call"], "failure": busy,
                          "wait": WISH_MS + 60_000 });
    let completed = json!({ "kind": "inference_completed", "call": requested["event"]["call"],
                            "result": { "Err": busy }, "attempts": 1, "possibly_billed": 1, "spent": {},
                            "elapsed": 1 });
    let entries_of = [retried, completed].map(|one| (id(&agent), trace(&sent), event(one)));
    append(&state_dir, entries_of.into());
    let daemon = builder.start();
    let mut client = daemon.client();
    let beside = deliver(&mut client, &other, "go");
    assert_eq!(result_of(&mut client, &sent)["status"], "done");
    assert_eq!(result_of(&mut client, &beside)["status"], "done");
    let at = |entry: &Value| entry["timestamp"].as_u64().expect("a time");
    let failed = &entries(&mut client, &["inference_completed"])[0];
    let asked = entries(&mut client, &["inference_requested"]);
    let of = |agent: &str| asked.iter().rfind(|entry| entry["agent_id"] == agent).expect("it asked");
    let (next, beside) = (of(&agent), of(&other));
    assert!(at(beside) >= at(failed) + WISH_MS, "under another name of the provider's: {failed} {beside}");
    assert!(at(next) >= at(failed) + WISH_MS, "{failed} {next}");
    assert!(at(next) < at(failed) + 60_000, "the later word counts: {failed} {next}");
}

#[test]
fn a_run_that_was_shown_a_tool_of_another_version_goes_on_without_it() {
    let rig = Rig::saying("well");
    let more = "lifecycle: persistent\ncapabilities: [\"tool: echo\"]\n";
    let agent = rig.spawn(&manifest("keeper", more));
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    let sent = uuid::Uuid::from_u128(8).to_string();
    let call = |number: u128| uuid::Uuid::from_u128(number).to_string();
    let usage = json!({ "input_tokens": 1, "output_tokens": 1, "cached_input_tokens": 0 });
    let asks = json!({ "id": "x", "tool": "foretell", "arguments": "{}" });
    let reply = json!({ "text": "", "reasoning": null, "calls": [asks], "stop": "tool_use", "usage": usage });
    let run = [
        json!({ "kind": "message_delivered", "message": "hi", "from": null, "under": null }),
        json!({ "kind": "agent_message_received" }),
        json!({ "kind": "agent_execution_started", "message_hash": content_hash(b"hi"), "message": "hi",
                "tools": ["echo", "foretell"], "kept": { "runs": 0, "bytes": 0, "tokens": 0, "calls": 0 } }),
        json!({ "kind": "inference_requested", "call": call(1), "model": "scripted-model", "messages": 1,
                "request_bytes": 1, "request_hash": "of a request with that tool", "reserve": 1, "price": null,
                "charges": [] }),
        json!({ "kind": "inference_completed", "call": call(1), "result": { "Ok": reply }, "attempts": 1,
                "possibly_billed": 0, "spent": {}, "elapsed": 1 }),
        json!({ "kind": "tool_invoked", "call": call(2), "tool": "foretell", "input": {}, "class": "safe",
                "access": [], "denied": [], "charges": [], "model_call": "call-1", "at": null, "repeats": 1 }),
    ];
    append(&state_dir, run.into_iter().map(|one| (id(&agent), trace(&sent), event(one))).collect());
    let daemon = builder.start();
    let mut client = daemon.client();
    assert_eq!(result_of(&mut client, &sent)["result"]["response"], "well");
    assert!(last_told(&rig.models).contains("no tool foretell"), "{}", last_told(&rig.models));
    assert!(entries(&mut client, &["agent_restarted"]).is_empty(), "no failure of the agent");
    let outcome = &entries(&mut client, &["tool_result"])[0];
    assert_eq!(outcome["event"]["failure"]["kind"], "unknown_tool", "{outcome}");
    let next = deliver(&mut client, &agent, "and now?");
    assert_eq!(result_of(&mut client, &next)["result"]["response"], "well");
}

#[test]
fn what_an_edit_of_unknown_outcome_left_beside_its_file_is_removed() {
    let edit = |path: &Path| json!({ "path": path, "old_string": "old", "new_string": "new" });
    let cut = Cut::at("file_edit", "", edit);
    let beside = |name: &str| cut.home.path().join(name);
    let (left, other) = (beside(&format!(".aaos-{}", cut.call_id())), beside(".aaos-another"));
    for path in [&left, &other] {
        std::fs::write(path, "half").expect("writes");
    }
    let (daemon, again) = cut.again();
    assert_eq!(again.answered(&daemon)["status"], "done");
    assert_eq!(again.outcome(&daemon)["event"]["outcome"], "unknown");
    assert!(!left.exists(), "nobody else would ever remove it");
    assert!(other.exists() && again.content() == "old", "and nothing else is touched");
}
