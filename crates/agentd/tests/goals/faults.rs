//! What a provider may do wrong, in both wire formats: what the journal tells, how the goal ends, with which exit code.
//!
//! Invariant: the table in `docs/models.md` is what is seen here, row by row; neither has a row that the other lacks.

use crate::documented;
use crate::support::entries;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testkit::{Chop, CutAs, Daemon, DaemonBuilder, Dialect, ModelServer, Script, StopAs, Turn};

/// Times in which a goal is given up whose provider is silent. A longer one follows where a busy machine took all of
/// it before the provider was asked.
const PATIENCE_SECONDS: [u32; 4] = [2, 8, 32, 128];

/// Goals that run at once, beside those of silent providers.
const LANES: usize = 4;

/// One thing that goes wrong.
struct Fault {
    /// As the table calls it.
    name: &'static str,
    /// What the model does; it says `recovered` after that if it is asked again.
    turns: Vec<Turn>,
    /// Whether only the goal's deadline ends it.
    is_silent: bool,
}

fn fault(name: &'static str, turns: impl IntoIterator<Item = Turn>) -> Fault {
    Fault { name, turns: turns.into_iter().collect(), is_silent: false }
}

fn silent(name: &'static str, turn: Turn) -> Fault {
    Fault { is_silent: true, ..fault(name, [turn]) }
}

fn cut(cut: CutAs) -> Turn {
    Turn::CutStream { text: "half of an answer".to_owned(), after_events: 3, cut }
}

/// A call with what is awkward to cut: quotes and characters of several bytes.
fn call() -> Turn {
    Turn::call("echo", json!({ "message": SAID }))
}

const SAID: &str = "a \"quoted\" \u{e4}\u{1f30a}";

fn faults() -> Vec<Fault> {
    let empty = || Turn::say("");
    let word = |turn: Turn| turn.stopping(StopAs::Word("paused".to_owned()));
    let stuck = Turn::HangMidStream { text: "half of an answer".to_owned(), after_events: 3 };
    let raw = Turn::RawCall { tool: "echo".to_owned(), arguments: "{\"message\": \"cut".to_owned() };
    let huge = Turn::say("x".repeat(10 * 1024 * 1024)).chopped(Chop::Fragments(64 * 1024));
    vec![
        fault("nothing", []),
        fault("a call split at every byte", [call().chopped(Chop::EveryByte)]),
        fault("status 429 with `Retry-After`", [Turn::retry_after(429, 1)]),
        fault("status 429 without it", [Turn::status(429)]),
        fault("status 500", [Turn::status(500)]),
        fault("status 401", [Turn::status(401)]),
        fault("status 400", [Turn::status(400)]),
        silent("no answer", Turn::Hang),
        silent("half an answer, then silence", stuck),
        fault("a broken connection", [cut(CutAs::Broken)]),
        fault("a stream without its end event", [cut(CutAs::WellFormed)]),
        fault("a stream that is not JSON", [Turn::MalformedJson]),
        fault("a call with malformed arguments", [raw]),
        fault("a text that ends for an unknown reason", [word(Turn::say("half of an answer"))]),
        fault("a call that ends for an unknown reason", [word(call())]),
        fault("a call where a text is said to end", [call().stopping(StopAs::Text)]),
        fault("an empty reply", [empty()]),
        fault("an empty reply twice", [empty(), empty()]),
        fault("a reply cut at its token limit", [Turn::Truncated { text: "half of an answer".to_owned() }]),
        fault("a reply of 10 MB", [huge]),
    ]
}

/// A daemon whose model has all these faults, each for the goal that names it.
struct Lab {
    daemon: Daemon,
    models: ModelServer,
}

impl Lab {
    fn start(wire: Dialect, faults: &[Fault]) -> Self {
        let script = faults.iter().fold(Script::new(), |script, fault| {
            let goal = goal_of(fault);
            // Silence goes on, however often the goal is tried.
            let last = if fault.is_silent { fault.turns[0].clone() } else { Turn::say("recovered") };
            let turns = fault.turns.iter().cloned().chain(PATIENCE_SECONDS.map(|_| last.clone()));
            script.when(move |seen| seen.first_user_text().contains(&goal), turns)
        });
        let models = ModelServer::start(script);
        let builder = match wire {
            Dialect::OpenAi => DaemonBuilder::openai(&models),
            Dialect::Anthropic => DaemonBuilder::anthropic(&models),
        };
        // What is silent holds its slot while the others go on.
        let daemon = builder.env("AAOS_MAX_CONCURRENT_INFERENCE", "64").start();
        Self { daemon, models }
    }

    /// Runs a goal as a person would; how it ended, and how often its model was asked.
    fn run(&self, goal: &str, flags: &[&str]) -> (Value, usize) {
        let ran = self.daemon.cli(["run", "--json", "--quiet"].iter().chain(flags).chain(&[goal]));
        let told: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        assert_eq!(told["exit_code"], ran.code(), "{ran:?}");
        let seen = self.models.requests();
        (told, seen.iter().filter(|seen| seen.first_user_text().contains(goal)).count())
    }

    /// Lets it go wrong, and tells what is seen as a row of the table.
    fn row(&self, fault: &Fault) -> String {
        let goal = goal_of(fault);
        let (told, requests) = if fault.is_silent {
            let mut tries = PATIENCE_SECONDS.iter().map(|seconds| {
                self.run(&format!("{goal} In {seconds} s."), &["--deadline", &seconds.to_string()])
            });
            tries.find(|(_, requests)| *requests > 0).expect("the provider is asked in time")
        } else {
            self.run(&goal, &[])
        };
        self.check_end(fault, &told);
        let journal = entries(&mut self.daemon.client(), json!({ "goal_id": told["goal_id"] }));
        documented::row(fault.name, requests, &journal, &told)
    }

    /// What is done was recovered from, and what failed says why; no call was made but what was asked for whole.
    fn check_end(&self, fault: &Fault, told: &Value) {
        let is_done = told["state"] == "done";
        assert_eq!(told["response"] == "recovered", is_done, "{}: {told}", fault.name);
        assert_eq!(told["error"].is_string(), !is_done, "{}: {told}", fault.name);
        assert!(!told.to_string().contains(DaemonBuilder::key()), "{}: {told}", fault.name);
    }
}

fn goal_of(fault: &Fault) -> String {
    format!("Meet <{}>.", fault.name.replace('`', ""))
}

/// The faults in lanes that run beside each other: each silent one has its own, and is on its way before the machine is
/// busy with the others.
fn lanes(faults: &[Fault]) -> Vec<Vec<&Fault>> {
    let (silent, other): (Vec<&Fault>, Vec<&Fault>) = faults.iter().partition(|fault| fault.is_silent);
    let lanes = silent.into_iter().map(|fault| vec![fault]);
    lanes.chain(other.chunks(other.len().div_ceil(LANES)).map(<[&Fault]>::to_vec)).collect()
}

/// Lets everything go wrong, and compares what is seen with what is promised.
fn assert_documented(wire: Dialect) {
    let faults = faults();
    let lab = Lab::start(wire, &faults);
    let lane = |lane: Vec<&Fault>| -> Vec<(String, String)> {
        lane.into_iter().map(|fault| (fault.name.to_owned(), lab.row(fault))).collect()
    };
    let seen: BTreeMap<String, String> = std::thread::scope(|scope| {
        let running: Vec<_> = lanes(&faults).into_iter().map(|one| scope.spawn(|| lane(one))).collect();
        running.into_iter().flat_map(|lane| lane.join().expect("nothing else went wrong")).collect()
    });
    assert_eq!(lab.models.unscripted(), Vec::<String>::new());
    let rows = |rows: &BTreeMap<String, String>| rows.values().cloned().collect::<Vec<_>>().join("\n");
    assert_eq!(rows(&seen), rows(&documented::rows()), "left: seen over {wire:?}, right: docs/models.md");
}

#[test]
fn every_fault_ends_as_documented_over_the_openai_wire() {
    assert_documented(Dialect::OpenAi);
}

#[test]
fn every_fault_ends_as_documented_over_the_anthropic_wire() {
    assert_documented(Dialect::Anthropic);
}
