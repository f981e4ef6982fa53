//! The journal as files, driven as a person drives it: exports that verify by themselves, archives, and the key that
//! signs, which no agent can reach.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Backend, DaemonBuilder, Finished, ModelServer, Script, Turn};

const GOAL: &str = "Read the files in ./docs and write a summary to ./output/summary.md";

fn with_document() -> DaemonBuilder {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let docs = builder.home().join("work/docs");
    fs::create_dir_all(&docs).expect("makes a folder");
    fs::write(docs.join("tides.md"), "# Tides\n\nThe moon pulls the sea.\n").expect("writes a document");
    builder
}

fn json_of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn an_export_is_verified_where_there_is_no_journal() {
    let builder = with_document();
    assert_eq!(builder.cli(["run", GOAL]).code(), 0);
    let file = builder.home().join("journal.jsonl");
    let exported = builder.cli(["audit", "--export", text(&file)]);
    assert_eq!(exported.code(), 0, "{exported:?}");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600, "bodies are in it");
    assert_eq!(builder.cli(["audit", "--export", text(&file)]).code(), 1, "it is not overwritten");

    let elsewhere = DaemonBuilder::new(Backend::Builtin);
    let check = |more: &[&str]| {
        let line = ["audit", "--verify", "--file", text(&file)];
        elsewhere.cli(line.iter().chain(more))
    };
    let report = json_of(&check(&["--json"]));
    let (head, key) = (&report["chain"]["head"], &report["chain"]["key"]);
    assert_eq!(head, &report["chain"]["signed"], "signed to its end: {report}");
    let (head, key) = (head.as_str().expect("a head"), key.as_str().expect("a key"));
    let whole = check(&["--head", head, "--key", key]);
    assert_eq!(whole.code(), 0, "{whole:?}");
    assert!(whole.stdout.contains("the chain holds") && whole.stdout.contains(key), "{whole:?}");
    let strange = check(&["--key", &key.chars().rev().collect::<String>()]);
    assert_eq!(strange.code(), 1, "{strange:?}");

    let lines = fs::read_to_string(&file).expect("read");
    let changed: Vec<&str> = lines.lines().collect();
    fs::write(&file, changed[..changed.len() - 3].join("\n")).expect("cut");
    let cut = check(&["--head", head]);
    assert!(cut.code() == 1 && cut.stdout.contains("its tail is gone"), "{cut:?}");
    fs::write(&file, lines.replacen("summary.md", "summary.ms", 1)).expect("changed");
    let told = check(&[]);
    assert_eq!(told.code(), 1, "{told:?}");
    let at = lines.lines().position(|line| line.contains("summary.md")).expect("its line") + 1;
    assert!(told.stdout.contains(&format!("line {at} of ")), "{told:?}");
    assert!(told.stdout.contains(&format!("BROKEN: entry {} has a changed body", at - 1)), "{told:?}");
    assert!(!elsewhere.home().join("state/journal.db").exists());
    assert_eq!(elsewhere.cli(["audit", "--verify", "--file", "/no/such/file"]).code(), 1);
}

#[test]
fn old_entries_are_archived_with_and_without_a_daemon() {
    let builder = with_document();
    assert_eq!(builder.cli(["run", GOAL]).code(), 0);
    let count = json_of(&builder.cli(["audit", "--verify", "--json"]))["entries"].as_u64().expect("entries");
    let kept = json_of(&builder.cli(["audit", "--prune", "30d", "--json"]));
    assert_eq!((&kept["entries"], &kept["through"]), (&json!(0), &json!(0)), "nothing is that old");
    let pruned = json_of(&builder.cli(["audit", "--prune", "0d", "--json"]));
    assert_eq!(pruned["entries"].as_u64(), Some(count - 1), "{pruned}");
    let archive = pruned["archives"][0].as_str().expect("a file");
    let held = builder.cli(["audit", "--verify", "--file", archive]);
    assert!(held.code() == 0 && held.stdout.contains("the chain holds"), "{held:?}");
    let told = builder.cli(["audit", "--verify"]);
    assert!(told.code() == 0 && told.stdout.contains("the archive that ends with head "), "{told:?}");

    let daemon = builder.start();
    assert_eq!(daemon.cli(["submit", "--wait", GOAL]).code(), 0, "and work goes on");
    let refused = daemon.cli(["audit", "--prune", "0d"]);
    assert_eq!(refused.code(), 0, "{refused:?}");
    assert!(refused.stdout.contains("archived in "), "{refused:?}");
    assert_eq!(daemon.cli(["audit", "--verify"]).code(), 0);
    let (_, builder) = daemon.terminate();
    assert_eq!(builder.start().cli(["audit", "--verify"]).code(), 0, "what is left is enough to start from");
}

#[test]
fn a_goal_with_a_client_key_is_not_run_twice_after_archiving_and_a_restart() {
    let daemon = with_document().start();
    let keyed = || json!({ "goal": GOAL, "client_key": "once", "grants": [] });
    let mut client = daemon.client();
    let first = client.call("goal.submit", keyed()).expect("submitted")["goal_id"].clone();
    assert!(first.is_string(), "{first}");
    let stream = json!({ "goal_id": first, "kinds": ["goal_finished"] });
    client.send("audit.stream", stream);
    client.notification().expect("its end");
    assert_eq!(daemon.cli(["audit", "--prune", "0d"]).code(), 0);
    let (_, builder) = daemon.terminate();
    let daemon = builder.start();
    let again = daemon.client().call("goal.submit", keyed()).expect("submitted")["goal_id"].clone();
    assert_eq!(again, first, "the same goal, not another run");
}

#[test]
fn what_was_archived_is_told_of_and_reading_it_names_the_archive() {
    let daemon = with_document().start();
    let goal = json_of(&daemon.cli(["submit", "--wait", "--json", GOAL]));
    let goal = goal["goal_id"].as_str().expect("an id");
    let mut client = daemon.client();
    client.call("audit.query", json!({ "after_seq": 1 })).expect("the control: all is there");
    assert_eq!(daemon.cli(["show", goal]).code(), 0, "the control: its bill is whole");
    let pruned = client.call("audit.prune", json!({ "older_than_ms": 0 })).expect("archived");
    let told = client.call("audit.query", json!({ "kinds": ["journal_pruned"] })).expect("entries");
    let event = &told["entries"][0]["event"];
    let archive = pruned["archives"][0].as_str().expect("a path");
    let name = archive.rsplit('/').next().expect("a name");
    assert_eq!((&event["through"], &event["archive"]), (&pruned["through"], &json!(name)), "{told}");
    let shown = daemon.cli(["show", goal]);
    assert!(shown.code() == 1 && shown.stderr.contains("`archive`"), "no bill of what is left: {shown:?}");
    let verified = daemon.cli(["audit", "--verify", "--file", archive]);
    assert!(verified.stdout.contains(event["head"].as_str().expect("a head")), "{event} {verified:?}");
    let printed = daemon.cli(["audit"]);
    assert!(printed.stdout.contains(&format!("lie in archive/{name}")), "{printed:?}");

    for method in ["audit.query", "audit.stream"] {
        let gone = client.call(method, json!({ "after_seq": 1 })).expect_err("it lies in the archive");
        assert_eq!((gone.code, &gone.data["reason"]), (1001, &json!("archived")), "{method}: {gone:?}");
        assert_eq!((&gone.data["through"], &gone.data["archive"]), (&pruned["through"], &json!(archive)));
        assert!(gone.message.contains(archive) && !gone.message.contains("repair"), "{method}: {gone:?}");
    }
    let on = json!({ "after_seq": pruned["through"] });
    client.call("audit.query", on).expect("from the number on that it named");
}

#[test]
fn the_key_that_signs_is_out_of_agents_reach() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = DaemonBuilder::openai(&models).start();
    let key = daemon.state_dir().join("journal.key");
    assert_eq!(fs::metadata(&key).expect("made at the start").permissions().mode() & 0o777, 0o600);
    let above = daemon.state_dir().parent().expect("a directory").to_owned();
    let plain = above.join("plain.txt");
    fs::write(&plain, "text").expect("written");
    let mut client = daemon.client();
    let manifest = format!(
        "name: reader\nmodel: fast\nlifecycle: persistent\nsystem_prompt: You read.\n\
         capabilities: [\"tool: *\", \"file_read: {0}/*\", \"file_write: {0}/*\"]\n",
        above.display()
    );
    let spawned = client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawned");
    let mut invoke = |tool: &str, input: Value| {
        let call = json!({ "agent_id": spawned["agent_id"], "tool": tool, "input": input });
        client.call("tool.invoke", call)
    };
    let control = invoke("file_read", json!({ "path": plain })).expect("the control: what lies beside it");
    assert_eq!(control["result"]["content"], "text");
    invoke("file_read", json!({ "path": key })).expect_err("not to be read");
    invoke("file_write", json!({ "path": key, "content": "x" })).expect_err("not to be written");
    let archive = daemon.state_dir().join("archive/journal-1-1.jsonl");
    invoke("file_write", json!({ "path": archive, "content": "x" })).expect_err("no archive is made up");
    invoke("grep", json!({ "pattern": "[0-9a-f]{64}", "path": daemon.state_dir() }))
        .expect_err("nor searched");
}
