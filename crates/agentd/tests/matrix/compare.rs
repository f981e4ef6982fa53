//! What a run left, made comparable: files, journal and model requests, without what differs in every run.
//!
//! Invariants: agents are named by their spawn path; of each, the order of its entries is kept; only what recovery adds
//! and what it replaces is left out, by the names below.

use crate::scenario::Stage;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use testkit::Client;

/// Entries that tell of starts, processes and running sums, not of what was done.
const LEFT_OUT: [&str; 9] = [
    "daemon_started",
    "daemon_stopped",
    "agent_execution_resumed",
    "agent_loop_started",
    "worker_started",
    "worker_stopped",
    "confinement_receipt",
    "confinement_degraded",
    "usage_reported",
];
/// Members that hold times, processes, digests of what has ids in it and what it weighs, and sums that a lost request adds
/// to.
const FORGOTTEN: [&str; 22] = [
    "asked_at",
    "call",
    "charges",
    "deadline",
    "elapsed",
    "estimate",
    "granted_at",
    "hash",
    "issued_at",
    "mind_hash",
    "modified",
    "reserve",
    "request_hash",
    "result_hash",
    "root",
    "spent",
    "used",
    "used_up_at",
    "uses",
    "window",
    "worker",
    "prev_hash",
];
/// What a lead does for several children at once is in no order.
const UNORDERED: [&str; 3] = ["spawn_requested", "spawn_completed", "child_ended"];
/// What others put into an agent's mailbox comes whatever it does itself.
const POSTED: &str = "message_delivered";

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) files: BTreeMap<String, String>,
    /// By spawn path.
    pub(crate) digest: BTreeMap<String, Vec<String>>,
    /// Model requests and how often each came.
    pub(crate) requests: BTreeMap<String, usize>,
    /// Requests that were begun and have no recorded end.
    pub(crate) abandoned: usize,
    /// Entries in the journal.
    pub(crate) entries: u64,
}

impl Left {
    pub(crate) fn of(stage: &Stage, client: &mut Client, home: &str) -> Self {
        let report = client.call("audit.verify", json!({})).expect("a report");
        assert!(report["broken"].is_null(), "the chain is broken: {report}");
        let journal = whole_journal(client);
        let names = Names::of(&journal, home, stage.work.path().to_str().expect("UTF-8"));
        let mut requests = BTreeMap::new();
        for seen in stage.models.requests() {
            *requests.entry(names.plain(&seen.body.to_string())).or_default() += 1;
        }
        assert_eq!(stage.models.unscripted(), Vec::<String>::new(), "the script covers the run");
        Self {
            files: stage.files(),
            digest: digest(&journal, &names),
            requests,
            abandoned: abandoned(&journal, "inference_requested", "inference_completed").len(),
            entries: journal.len() as u64,
        }
    }

    /// What differs from a run that nobody stopped.
    pub(crate) fn differs_from(&self, whole: &Self) -> Option<String> {
        let files =
            (self.files != whole.files).then(|| format!("files: {:?}, not {:?}", self.files, whole.files));
        let journal = self.journal_differs_from(whole);
        let found: Vec<String> = [files, journal, self.asks_too_much(whole)].into_iter().flatten().collect();
        (!found.is_empty()).then(|| found.join("\n"))
    }

    fn journal_differs_from(&self, whole: &Self) -> Option<String> {
        let paths: BTreeSet<&String> = self.digest.keys().chain(whole.digest.keys()).collect();
        let none = Vec::new();
        let differ = paths.into_iter().filter_map(|path| {
            let (mine, theirs) =
                (self.digest.get(path).unwrap_or(&none), whole.digest.get(path).unwrap_or(&none));
            (mine != theirs).then(|| format!("the journal of {path}:\n{}", first_difference(mine, theirs)))
        });
        let differ: Vec<String> = differ.collect();
        (!differ.is_empty()).then(|| differ.join("\n"))
    }

    fn asks_too_much(&self, whole: &Self) -> Option<String> {
        let (mine, theirs): (BTreeSet<_>, BTreeSet<_>) =
            (self.requests.keys().collect(), whole.requests.keys().collect());
        if let Some(other) = mine.symmetric_difference(&theirs).next() {
            let whose = if mine.contains(*other) { "only here" } else { "only in the whole run" };
            return Some(format!("a model request that comes {whose}: {other}"));
        }
        let again = self.requests.values().sum::<usize>() - whole.requests.values().sum::<usize>();
        (again > self.abandoned)
            .then(|| format!("{again} requests came again, but {} were in flight", self.abandoned))
    }
}

fn first_difference(mine: &[String], theirs: &[String]) -> String {
    let same = mine.iter().zip(theirs).take_while(|(mine, theirs)| mine == theirs).count();
    let show =
        |all: &[String]| all[same.min(all.len())..].iter().take(2).cloned().collect::<Vec<_>>().join("\n  ");
    format!("after {same} equal entries\n  {}\nnot\n  {}", show(mine), show(theirs))
}

/// Every entry, page by page.
fn whole_journal(client: &mut Client) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map_or(json!(0), |last| last["seq"].clone());
        let reply = client.call("audit.query", json!({ "after_seq": after })).expect("entries");
        let page = reply["entries"].as_array().expect("a list");
        if page.is_empty() {
            return all;
        }
        all.extend(page.iter().cloned());
    }
}

/// Calls that were begun and have no end.
fn abandoned(journal: &[Value], begun: &str, ended: &str) -> BTreeSet<String> {
    let calls = |kind: &str| -> BTreeSet<String> {
        let entries = journal.iter().filter(|entry| entry["event"]["kind"] == kind);
        entries.map(|entry| entry["event"]["call"].to_string()).collect()
    };
    calls(begun).difference(&calls(ended)).cloned().collect()
}

/// Spawns that a stop cut short before there was a child.
fn cut_spawns(journal: &[Value]) -> BTreeSet<String> {
    let cut = journal.iter().filter(|entry| {
        entry["event"]["kind"] == "spawn_completed" && entry["event"]["failure"]["kind"] == "worker_lost"
    });
    cut.map(|entry| entry["event"]["call"].to_string()).collect()
}

/// Agents that were admitted and stopped before they were given anything to do; others took their place.
fn never_ran(journal: &[Value]) -> BTreeSet<&str> {
    let of = |kind: &str| -> BTreeSet<&str> {
        let entries = journal.iter().filter(|entry| entry["event"]["kind"] == kind);
        entries.filter_map(|entry| entry["agent_id"].as_str()).collect()
    };
    let stopped = journal.iter().filter(|entry| entry["event"]["end"] == "interrupted");
    let stopped: BTreeSet<&str> = stopped.filter_map(|entry| entry["agent_id"].as_str()).collect();
    stopped.difference(&of("agent_execution_started")).copied().collect()
}

/// Whether it tells of a message that was on its way when the daemon was stopped, and acknowledged to nobody.
fn is_undelivered(journal: &[Value], entry: &Value) -> bool {
    let arrived = |other: &Value| {
        other["event"]["kind"] == "message_delivered" && other["trace_id"] == entry["trace_id"]
    };
    entry["event"]["kind"] == "message_sent" && !journal.iter().any(arrived)
}

fn digest(journal: &[Value], names: &Names) -> BTreeMap<String, Vec<String>> {
    let mut gone = abandoned(journal, "inference_requested", "inference_completed");
    gone.extend(cut_spawns(journal));
    let never_ran = never_ran(journal);
    let mut taken = BTreeSet::new();
    let mut digest: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in journal {
        let event = &entry["event"];
        let kind = event["kind"].as_str().expect("a kind");
        if LEFT_OUT.contains(&kind) || gone.contains(&event["call"].to_string()) {
            continue;
        }
        if never_ran.contains(entry["agent_id"].as_str().unwrap_or_default())
            || is_undelivered(journal, entry)
        {
            continue;
        }
        // Taken before the stop and again after it, to be answered once.
        if kind == "agent_message_received" && !taken.insert(entry["trace_id"].to_string()) {
            continue;
        }
        let whose = entry["agent_id"].as_str().map_or("goal", |id| names.agents[id].as_str());
        let list = match kind {
            POSTED => format!("{whose} (mailbox)"),
            _ if UNORDERED.contains(&kind) => format!("{whose} (children)"),
            _ => whose.to_owned(),
        };
        digest.entry(list).or_default().push(names.event(event).to_string());
    }
    for (list, entries) in &mut digest {
        if list.ends_with("(children)") {
            entries.sort();
        }
    }
    digest
}

/// What ids and places are called instead.
struct Names {
    agents: BTreeMap<String, String>,
    places: Vec<(String, &'static str)>,
}

impl Names {
    fn of(journal: &[Value], home: &str, work: &str) -> Self {
        let mut agents: BTreeMap<String, String> = BTreeMap::new();
        for entry in journal.iter().filter(|entry| entry["event"]["kind"] == "agent_spawned") {
            let (id, event) = (entry["agent_id"].as_str().expect("an id"), &entry["event"]);
            let name = event["name"].as_str().expect("a name");
            let parent = event["parent"].as_str().and_then(|parent| agents.get(parent));
            let path = parent.map_or(name.to_owned(), |parent| format!("{parent}/{name}"));
            agents.insert(id.to_owned(), path);
        }
        Self { agents, places: vec![(work.to_owned(), "<work>"), (home.to_owned(), "<home>")] }
    }

    fn event(&self, value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let kept = members.iter().filter(|(name, _)| !FORGOTTEN.contains(&name.as_str()));
                let told = kept.map(|(name, value)| match (name.as_str(), value) {
                    ("kept", Value::Object(begins)) => (name.clone(), without_ratio(begins)),
                    _ => (name.clone(), self.event(value)),
                });
                told.collect()
            }
            Value::Array(items) => items.iter().map(|item| self.event(item)).collect(),
            Value::String(words) => Value::String(self.plain(words)),
            other => other.clone(),
        }
    }

    /// Text without ids, nonces and places of this very run.
    fn plain(&self, words: &str) -> String {
        let mut plain = words.to_owned();
        for (id, path) in &self.agents {
            plain = plain.replace(id, &format!("<{path}>"));
        }
        for (place, name) in &self.places {
            plain = plain.replace(place, name);
        }
        without_ids(&plain)
    }
}

/// What a run begins with, but for how many bytes the tokens of its model had: that is what other agents had met by then.
/// Of the request that was reported last only its tokens: its text has ids in it.
fn without_ratio(begins: &Map<String, Value>) -> Value {
    let rest = begins.iter().filter(|(name, _)| !["bytes", "tokens"].contains(&name.as_str()));
    let tokens =
        |name: &str, value: &Value| if name == "reported" { value["tokens"].clone() } else { value.clone() };
    rest.map(|(name, value)| (name.clone(), tokens(name, value))).collect()
}

/// Replaces runs of 32 and more hexadecimal digits and hyphens, and times, which are milliseconds of 13 digits.
fn without_ids(words: &str) -> String {
    const ID: usize = 32;
    const TIME: usize = 13;
    let mut plain = String::with_capacity(words.len());
    let mut run = String::new();
    for letter in words.chars().chain(std::iter::once('\n')) {
        if letter.is_ascii_hexdigit() || letter == '-' {
            run.push(letter);
            continue;
        }
        let is_time = run.len() == TIME && run.bytes().all(|digit| digit.is_ascii_digit());
        plain.push_str(match run.len() {
            ID.. => "<id>",
            _ if is_time => "<time>",
            _ => &run,
        });
        run.clear();
        plain.push(letter);
    }
    plain.pop();
    plain
}
