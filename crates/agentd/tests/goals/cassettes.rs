//! `agentd run --record` and `--replay`: the same goal again, elsewhere, without a provider and without a key.
//!
//! `tests/cassettes/handover.jsonl` is a recording of the goal of these tests. Where prompts have changed on purpose, the
//! test that replays it says how it is made anew.

use crate::support::{child, of_kind};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use testkit::{Backend, DaemonBuilder, Dialect, Finished, ModelServer, Script, SeenRequest, Turn};

/// The recording that is checked in, and where a fresh one is left.
const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cassettes/handover.jsonl");
const FRESH: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/handover.jsonl");
const LEAD: &str = "You are the lead.";

/// A place of its own for a run: a daemon's home, whose `work` is the working directory.
struct Home {
    aaos: DaemonBuilder,
    work: PathBuf,
}

impl Home {
    fn new(aaos: DaemonBuilder) -> Self {
        let work = aaos.home().join("work");
        std::fs::create_dir_all(work.join("docs")).expect("makes it");
        std::fs::write(work.join("docs/a.md"), "Alpha is the first letter.\n").expect("writes");
        let place = work.display();
        let manifest = format!(
            "name: lead\nmodel: smart\nsystem_prompt: {LEAD}\nchild_models: [fast]\ncapabilities:\n  \
             - \"tool: file_read\"\n  - \"tool: file_write\"\n  - \"tool: spawn_agent\"\n  \
             - \"file_read: {place}/*\"\n  - \"file_write: {place}/output/*\"\n  - \"spawn_child: [writer]\"\n"
        );
        std::fs::write(work.join("lead.yaml"), manifest).expect("writes");
        Self { aaos, work }
    }

    /// Without any provider.
    fn alone() -> Self {
        Self::new(DaemonBuilder::new(Backend::Builtin))
    }

    fn run(&self, goal: &str, flag: &str, cassette: &Path) -> Finished {
        let cassette = cassette.to_str().expect("UTF-8");
        self.aaos.cli([
            "run",
            "--manifest",
            "lead.yaml",
            "--output",
            "output/a.md",
            "--json",
            flag,
            cassette,
            goal,
        ])
    }

    fn entries(&self) -> Vec<Value> {
        let audit = self.aaos.cli(["audit", "--json"]);
        assert_eq!(audit.code(), 0, "{audit:?}");
        audit.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
    }

    fn cassette(&self) -> PathBuf {
        self.aaos.home().join("run.cassette")
    }
}

/// The lead reads, hands what it found to a writer, and ends; both take paths from what they are told.
fn script() -> Script {
    Script::dynamic(|seen| {
        let place = directory(seen);
        let is_lead = seen.system.contains(LEAD);
        match (is_lead, seen.replies_so_far()) {
            (true, 0) => Turn::call("file_read", json!({ "path": format!("{place}/docs/a.md") })),
            (true, 1) => {
                let may = ["tool: file_write".to_owned(), format!("file_write: \"{place}/output/a.md\"")];
                let message = format!("Write {place}/output/a.md.");
                let told = seen.results[0].content.clone();
                let call =
                    json!({ "manifest": child("writer", &may), "message": message, "prior_findings": told });
                Turn::call("spawn_agent", call)
            }
            (false, 0) => {
                let call = json!({ "path": format!("{place}/output/a.md"), "content": "Alpha leads.\n" });
                Turn::call("file_write", call)
            }
            _ => Turn::say("It is written."),
        }
    })
}

/// The working directory, out of what an agent was told.
fn directory(seen: &SeenRequest) -> String {
    let text = seen.first_user_text();
    let told = text.lines().find_map(|line| line.strip_prefix("working_directory: "));
    let written = || text.split_once("Write ").and_then(|(_, rest)| rest.split_once("/output/a.md"));
    told.or_else(|| written().map(|(place, _)| place)).expect("it is told").to_owned()
}

const GOAL: &str = "Have what docs/a.md says written to output/a.md";

fn recorded(wire: Dialect) -> (Home, Finished) {
    let models = ModelServer::start(script());
    let home = Home::new(match wire {
        Dialect::OpenAi => DaemonBuilder::openai(&models),
        Dialect::Anthropic => DaemonBuilder::anthropic(&models),
    });
    let ran = home.run(GOAL, "--record", &home.cassette());
    assert_eq!(ran.code(), 0, "{ran:?}");
    let seen = models.requests();
    assert_eq!(seen.len(), 5, "three of the lead, two of the writer");
    assert!(
        seen.iter().all(|seen| seen.key() == Some(DaemonBuilder::key())),
        "the control: the key was sent"
    );
    (home, ran)
}

/// What of a goal is the same in every run of it.
fn outcome(ran: &Finished) -> Value {
    let goal: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    json!({ "state": goal["state"], "response": goal["response"], "usage": goal["usage"], "exit": goal["exit_code"] })
}

/// What happened, in its order: kinds of entries of agents, tools, and how long each reply was.
fn story(entries: &[Value]) -> Vec<String> {
    let told =
        ["inference_completed", "tool_invoked", "tool_result", "agent_execution_completed", "agent_spawned"];
    let told = entries.iter().filter(|entry| told.iter().any(|kind| entry["event"]["kind"] == *kind));
    told.map(|entry| {
        let event = &entry["event"];
        format!("{} {} {} {}", event["kind"], event["tool"], event["name"], event["result"]["Ok"]["usage"])
    })
    .collect()
}

#[test]
fn a_recorded_goal_is_replayed_elsewhere_without_a_provider_or_a_key() {
    for wire in [Dialect::OpenAi, Dialect::Anthropic] {
        let (there, first) = recorded(wire);
        let text = std::fs::read_to_string(there.cassette()).expect("it was written");
        assert_eq!(text.lines().count(), 6, "a head and five exchanges");
        assert!(text.contains("Alpha is the first letter."), "the control: what was said is found in it");
        assert!(!text.contains(DaemonBuilder::key()), "the key is not");
        if wire == Dialect::OpenAi {
            std::fs::write(FRESH, &text).expect("writes");
        }

        let here = Home::alone();
        let again = here.run(GOAL, "--replay", &there.cassette());
        assert_eq!(again.code(), 0, "{again:?}");
        assert!(again.stderr.contains("no provider is asked"), "{}", again.stderr);
        assert_eq!(outcome(&again), outcome(&first));
        assert_eq!(story(&here.entries()), story(&there.entries()));
        assert_eq!(
            std::fs::read_to_string(here.work.join("output/a.md")).expect("written here"),
            "Alpha leads.\n"
        );
    }
}

#[test]
fn a_checked_in_cassette_still_answers() {
    let here = Home::alone();
    let ran = here.run(GOAL, "--replay", Path::new(CHECKED_IN));
    assert_eq!(
        ran.code(),
        0,
        "prompts are no longer those of the recording; if that is meant, run this test's neighbour and then \
         `cp {FRESH} {CHECKED_IN}`: {ran:?}"
    );
    assert_eq!(outcome(&ran)["state"], "done");
    let entries = here.entries();
    assert_eq!(of_kind(&entries, "inference_completed").len(), 5);
    assert_eq!(of_kind(&entries, "agent_spawned").len(), 2);
    assert_eq!(
        std::fs::read_to_string(here.work.join("output/a.md")).expect("written here"),
        "Alpha leads.\n"
    );
}

#[test]
fn another_goal_than_the_recorded_one_fails_and_says_where_it_differs() {
    let here = Home::alone();
    let ran = here.run("Have what docs/b.md says written", "--replay", Path::new(CHECKED_IN));
    assert_eq!(ran.code(), 5, "{ran:?}");
    let goal: Value = serde_json::from_str(&ran.stdout).expect("a goal");
    let error = goal["error"].as_str().expect("an error");
    for part in ["provider openai", "number 1 (line 2)", "messages[1], character", "docs/a.md", "docs/b.md"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let entries = here.entries();
    let failed = &of_kind(&entries, "inference_completed")[0]["event"]["result"];
    assert!(failed.to_string().contains("not_recorded"), "{failed}");
}

#[test]
fn files_that_cannot_serve_are_refused_before_anything_runs() {
    let here = Home::alone();
    let file = |name: &str, text: &str| {
        let path = here.aaos.home().join(name);
        std::fs::write(&path, text).expect("writes");
        path
    };
    let good = std::fs::read_to_string(CHECKED_IN).expect("a cassette");
    for (flag, path, why) in [
        ("--replay", here.aaos.home().join("none"), "cannot replay"),
        ("--replay", file("other", "{}\n"), "first line is not that of a cassette"),
        ("--record", file("there", ""), "does not exist yet"),
        ("--record", here.aaos.home().join("no/such/directory"), "does not exist yet"),
    ] {
        let ran = here.run(GOAL, flag, &path);
        assert_eq!(ran.code(), 2, "{ran:?}");
        assert!(ran.stderr.contains(why), "{ran:?}");
    }
    let cut = file("cut", &good[..good.len() - 100]);
    let ran = here.run(GOAL, "--replay", &cut);
    assert_eq!(ran.code(), 5, "{ran:?}");
    assert!(ran.stdout.contains("line 6 is cut short"), "{ran:?}");
}

#[test]
fn a_cassette_wants_a_daemon_of_its_own_and_a_state_without_open_work() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::Hang));
    let daemon = DaemonBuilder::openai(&models).start();
    let cassette = daemon.state_dir().join("../new.cassette");
    let run = ["run", "--record", cassette.to_str().expect("UTF-8"), "Sing"];
    let refused = daemon.cli(run);
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.stderr.contains("agentd serve"), "{refused:?}");
    assert!(!cassette.exists(), "nothing was made");
    assert_eq!(daemon.cli(["submit", "Sing a long song"]).code(), 0);
    assert_eq!(models.wait_for_requests(1).len(), 1);
    let left = daemon.kill9();
    let refused = left.cli(["run", "--replay", CHECKED_IN, "Sing"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.stderr.contains("not over") && refused.stderr.contains("--state-dir"), "{refused:?}");
}
