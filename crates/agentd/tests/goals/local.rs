//! The provider `local` around a stub of its process: added on the command line, started for a goal, gone when it dies.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{LEAD, Ran, entries, of_kind, run};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Backend, Client, DaemonBuilder, Finished, binaries, scratch};

/// What the stub's weights look like.
const WEIGHTS: &str = "GGUF weights of a stub";

/// The programs of a daemon, with the stub in the place of the one that runs models.
fn programs() -> TempDir {
    let folder = scratch();
    let built = binaries();
    let stub = built.agentd.with_file_name("examples").join("model_stub");
    assert!(stub.is_file(), "{} is missing: run `cargo build --workspace --examples` first", stub.display());
    for (name, program) in
        [("aaos-worker", &built.worker), ("aaos-gateway", &built.gateway), ("aaos-model", &stub)]
    {
        symlink(program, folder.path().join(name)).expect("linked");
    }
    folder
}

/// A daemon that chooses its provider itself.
pub(crate) struct Own {
    pub(crate) programs: TempDir,
    pub(crate) builder: DaemonBuilder,
}

impl Own {
    pub(crate) fn new() -> Self {
        let programs = programs();
        // An empty variable counts as absent.
        let builder = DaemonBuilder::new(Backend::Builtin).env("AAOS_PROVIDER", "");
        let builder = builder.env("AAOS_LIBEXEC_DIR", programs.path());
        Self { programs, builder }
    }

    fn weights(&self, text: &str) -> PathBuf {
        let path = self.builder.home().join("Small Model.gguf");
        std::fs::write(&path, text).expect("written");
        path
    }

    fn add(&self, text: &str) -> Finished {
        let path = self.weights(text);
        self.builder.cli(["model", "add", path.to_str().expect("plain"), "--name", "small", "--json"])
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.builder.home().join("state/models")
    }
}

pub(crate) fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(|entry| name(entry.expect("an entry"))).collect();
    names.sort();
    names
}

fn goal(text: &str) -> Value {
    json!({ "goal": text, "outputs": [], "grants": [], "manifest": LEAD })
}

fn asked(client: &mut Client, text: &str) -> Ran {
    run(client, goal(text))
}

/// The numbers of the processes that ran models, in order.
fn processes(client: &mut Client) -> Vec<u64> {
    let all = entries(client, json!({ "kinds": ["confinement_receipt"] }));
    let of_models = all.iter().filter(|entry| entry["event"]["role"] == "model");
    of_models.map(|entry| entry["event"]["receipt"]["pid"].as_u64().expect("a pid")).collect()
}

#[test]
fn a_model_that_was_added_is_what_agents_think_with_until_it_is_removed() {
    let own = Own::new();
    assert_eq!(own.builder.cli(["model", "list", "--json"]).stdout.trim(), "[]");
    let added = own.add(WEIGHTS);
    assert_eq!(added.code(), 0, "{added:?}");
    let card: Value = serde_json::from_str(&added.stdout).expect("JSON");
    let hash = card["sha256"].as_str().expect("a hash");
    assert_eq!(std::fs::read_to_string(own.models().join(format!("{hash}.gguf"))).expect("kept"), WEIGHTS);
    let again = own.add(WEIGHTS);
    assert_eq!(again.code(), 0, "the same once more: {again:?}");
    let other = own.add("GGUF other weights");
    assert!(other.code() == 1 && other.stderr.contains("another model already"), "{other:?}");
    assert_eq!(
        files(&own.models()),
        [&format!("{hash}.gguf"), "lock", "small.json"],
        "and nothing else is left"
    );
    let listed = own.builder.cli(["model", "list"]);
    assert!(listed.stdout.contains("small  yes"), "{listed:?}");

    let daemon = own.builder.start();
    let mut client = daemon.client();
    let status = client.call("runtime.status", json!({})).expect("a status");
    let providers: Vec<&str> = status["providers"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(providers, ["local", "builtin"], "the active one first");
    assert_eq!(processes(&mut client), Vec::<u64>::new(), "nobody has asked yet");
    for model in ["smart", "small", "local/small"] {
        let mut goal = goal("speak");
        goal["manifest"] = json!(LEAD.replace("model: smart", &format!("model: {model}")));
        let ran = run(&mut client, goal);
        ran.assert_ended("done", 0);
        assert!(ran.goal["response"].as_str().is_some_and(|said| said.contains("speak")), "{}", ran.goal);
        assert_eq!(ran.goal["usage"]["input_tokens"], 11, "as its own tokenizer counts");
    }
    assert_eq!(processes(&mut client).len(), 1, "started once");
    let (status, builder) = daemon.terminate();
    assert!(status.success());
    let without = builder.cli(["doctor", "--json"]).stdout;
    assert!(without.contains("aaos-model") && without.contains("\"provider\":\"local\""), "{without}");
    assert_eq!(builder.cli(["model", "remove", "small"]).code(), 0);
    assert_eq!(files(&builder.home().join("state/models")), ["lock"]);
    let unknown = builder.cli(["model", "remove", "small"]);
    assert!(unknown.code() == 1 && unknown.stderr.contains("no local model is called"), "{unknown:?}");
}

#[test]
fn a_local_model_that_is_chosen_before_it_is_there_can_be_added() {
    let Own { programs, builder } = Own::new();
    let own = Own { programs, builder: builder.env("AAOS_PROVIDER", "local") };
    let refused = own.builder.cli(["run", "say hello"]);
    assert!(refused.code() == 2 && refused.stderr.contains("provider local has no model"), "{refused:?}");
    assert_eq!(own.builder.cli(["model", "list", "--json"]).stdout.trim(), "[]");
    assert_eq!(own.add(WEIGHTS).code(), 0);
    let told = own.builder.cli(["run", "say hello"]).stderr;
    assert!(told.contains("provider local: small"), "{told}");
}

#[test]
fn a_local_model_is_told_little_and_held_to_what_the_goal_can_need() {
    let own = Own::new();
    assert_eq!(own.add(WEIGHTS).code(), 0);
    let work = own.builder.home().canonicalize().expect("a path").join("work");
    std::fs::create_dir_all(&work).expect("made");
    let daemon = own.builder.start();
    let mut client = daemon.client();
    let at = |name: &str| format!("{}/{name}", work.display());
    let (read, write) = (format!("file_read: {}", at("*")), format!("file_write: {}", at("output/*")));
    let grants = json!(["tool: *", "spawn_child: [*]", read, write]);
    let goal = "[request] Copy a.txt to ./output/b.txt";
    let goal = json!({ "goal": goal, "outputs": [], "grants": grants, "working_directory": work });
    let ran = run(&mut client, goal);
    ran.assert_ended("done", 0);
    let asked = ran.goal["response"].as_str().expect("a response");
    let asked: Value = serde_json::from_str(asked).unwrap_or_else(|error| panic!("{error}: {asked}"));
    assert!(asked["system"].as_str().is_some_and(|text| text.starts_with("You work on one goal")), "{asked}");
    let first = asked["messages"][0]["user"]["text"].as_str().expect("the goal");
    assert_eq!(first, "[request] Copy a.txt to ./output/b.txt", "without the runtime's facts");
    let names = |list: &Value, field: &str| -> Vec<String> {
        let all = list.as_array().expect("a list").iter();
        all.map(|one| one[field].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&asked["tools"], "name"), ["file_read", "file_write"], "of every tool that is granted");
    let bytes = asked["system"].to_string().len() + asked["tools"].to_string().len() + first.len();
    assert!(bytes < 2_400, "{bytes} bytes of instructions: {asked}");
    assert_eq!(names(&asked["narrowed"]["calls"], "tool"), ["file_read"], "reading comes first");
    assert_eq!(asked["narrowed"]["may_answer"], false);
    let path = &asked["narrowed"]["calls"][0]["input_schema"]["properties"]["path"];
    assert_eq!(
        *path,
        json!({ "enum": [at("a.txt"), at("output/b.txt")] }),
        "what is there is not overwritten unread"
    );
    let asked_of = |client: &mut Client, manifest: &str| {
        let goal = json!({
            "goal": "[request] Copy a.txt to ./output/b.txt", "outputs": [at("output/b.txt")], "grants": grants,
            "working_directory": work, "manifest": manifest,
        });
        let ran = run(client, goal);
        let asked = ran.goal["response"].as_str().expect("a response");
        let asked: Value = serde_json::from_str(asked).unwrap_or_else(|error| panic!("{error}: {asked}"));
        asked["narrowed"]["calls"][0]["input_schema"]["properties"].clone()
    };
    let properties = asked_of(&mut client, LEAD);
    assert_eq!(
        properties["path"],
        json!({ "enum": [at("a.txt")] }),
        "nothing was there, as the goal's beginning saw"
    );
    let limit = properties["limit"]["const"].as_u64().expect("a limit");
    assert!(
        limit < 8_192,
        "a part of the model's own window, not of the 131,072 tokens of the manifest: {limit}"
    );
    let small = asked_of(&mut client, &format!("{LEAD}memory: {{ context_window: 4096 }}\n"));
    assert!(small["limit"]["const"].as_u64().is_some_and(|small| small < limit), "the control: {small}");
    let spawned = entries(&mut client, json!({ "kinds": ["agent_spawned"] }));
    let shown = spawned.iter().any(|entry| entry["event"].to_string().contains("You work on one goal"));
    assert!(shown, "the journal shows the prompt that was used");
}

#[test]
fn a_process_that_dies_or_lies_fails_its_call_in_words_and_the_next_call_has_another() {
    let own = Own::new();
    assert_eq!(own.add(WEIGHTS).code(), 0);
    let daemon = own.builder.start();
    let mut client = daemon.client();
    for (begun, (wish, words)) in (1..).zip([
        ("die", "exit code 101"),
        ("garbage", "unreadable frame"),
        ("giant", "unreadable frame"),
        ("twice", "said twice that it is locked"),
        ("grow", "out of memory: limit 128 MiB"),
    ]) {
        let ran = asked(&mut client, &format!("please [{wish}]"));
        ran.assert_ended("failed", 5);
        let error = ran.error();
        assert!(error.contains("the process of the local model is gone") && error.contains(words), "{error}");
        let started = processes(&mut client);
        assert_eq!(started.len(), begun, "{wish}: each call had a process that worked");
        let stopped = entries(&mut client, json!({ "kinds": ["worker_stopped"] }));
        let receipts = entries(&mut client, json!({ "kinds": ["confinement_receipt"] }));
        let is_model = |entry: &&Value| entry["event"]["role"] == "model";
        let last = of_kind(&receipts, "confinement_receipt").into_iter().rfind(is_model).expect("one");
        let of_it = |entry: &Value| entry["event"]["worker"] == last["event"]["receipt"]["worker"];
        assert!(stopped.iter().any(of_it), "{wish}: its end is recorded");
    }
    asked(&mut client, "and now speak").assert_ended("done", 0);
}

#[test]
fn what_is_no_model_is_not_added_and_leaves_nothing() {
    let own = Own::new();
    for (text, code, words) in [
        ("no weights", 1, "is not a GGUF file"),
        ("GG", 1, "is not a GGUF file"),
        ("GGUF [unusable]", 1, "mamba is not known"),
        ("GGUF [die]", 1, "ended while it took its weights in"),
    ] {
        let refused = own.add(text);
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.stderr.contains(words) && !refused.stderr.contains('\x1b'), "{refused:?}");
        assert!(!own.models().exists() || files(&own.models()) == ["lock"], "{text}");
    }
    let path = own.weights(WEIGHTS);
    let bad_name = own.builder.cli(["model", "add", path.to_str().expect("plain"), "--name", "../x"]);
    assert!(bad_name.code() == 2 && bad_name.stderr.contains("cannot be the name"), "{bad_name:?}");
    let device = own.builder.cli(["model", "add", "/dev/zero", "--name", "zero"]);
    assert!(device.code() == 1 && device.stderr.contains("not a regular file"), "{device:?}");
    // The control, under the name that its file suggests.
    let added = own.builder.cli(["model", "add", path.to_str().expect("plain")]);
    assert!(added.code() == 0 && added.stdout.contains("added small-model"), "{added:?}");
}

#[test]
fn weights_that_are_gone_or_changed_are_not_handed_out() {
    let own = Own::new();
    let added = own.add(WEIGHTS);
    let card: Value = serde_json::from_str(&added.stdout).expect("JSON");
    let models = own.models();
    let weights = models.join(format!("{}.gguf", card["sha256"].as_str().expect("a hash")));
    let daemon = own.builder.start();
    let mut client = daemon.client();
    std::fs::remove_file(&weights).expect("removed");
    for target in [None, Some("/etc/passwd")] {
        if let Some(target) = target {
            symlink(target, &weights).expect("linked");
        }
        let ran = asked(&mut client, "speak");
        ran.assert_ended("failed", 5);
        assert!(ran.error().contains("gone or changed"), "{}", ran.error());
    }
    std::fs::remove_file(&weights).expect("removed");
    std::fs::write(&weights, WEIGHTS).expect("written");
    asked(&mut client, "the control").assert_ended("done", 0);
    assert_eq!(processes(&mut client).len(), 1);
    // What a command that was stopped leaves goes with the next one, and the card of weights that are gone can go, too.
    std::fs::rename(&weights, models.join(format!("{}.gguf", "0".repeat(64)))).expect("renamed");
    let removed = daemon.cli(["model", "remove", card["name"].as_str().expect("a name")]);
    assert_eq!(removed.code(), 0, "{removed:?}");
    assert_eq!(files(&models), ["lock"]);
}

#[test]
fn the_active_provider_is_named_whichever_it_is() {
    let own = Own::new();
    let named = |builder: &DaemonBuilder| {
        let told = builder.cli(["run", "say hello"]).stderr;
        told.lines().find(|line| line.contains("provider ")).unwrap_or_default().to_owned()
    };
    assert!(named(&own.builder).starts_with("provider builtin: a fixed planner"), "{}", named(&own.builder));
    assert_eq!(own.add(WEIGHTS).code(), 0);
    assert!(named(&own.builder).starts_with("provider local: small"), "{}", named(&own.builder));
    let chosen = named(&own.builder.env("AAOS_PROVIDER", "builtin"));
    assert!(chosen.starts_with("provider builtin: a fixed planner"), "{chosen}");
    let without = Own::new();
    assert_eq!(without.add(WEIGHTS).code(), 0);
    std::fs::remove_file(without.programs.path().join("aaos-model")).expect("removed");
    let told = named(&without.builder);
    assert!(told.starts_with("provider builtin, not local: the program aaos-model is missing"), "{told}");
}
