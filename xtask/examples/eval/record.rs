//! What the journal tells of a run: calls, children, tokens and time of its models, and processes that were lost.
//!
//! Invariant: what is not understood is an error, so that a journal of another form gives no figures.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;

/// One entry, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    seq: u64,
    #[serde(default)]
    goal_id: Option<String>,
    #[serde(default)]
    agent_id: Option<String>,
    event: Event,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Event {
    AgentSpawned {
        parent: Option<String>,
    },
    AgentExecutionCompleted {
        stop_reason: String,
    },
    ToolResult {
        outcome: String,
    },
    InferenceCompleted {
        result: Result<Reply, Failure>,
        elapsed: u64,
    },
    BudgetExceeded {
        quantity: String,
    },
    ConfinementReceipt {
        role: String,
        receipt: Receipt,
    },
    WorkerStopped {
        worker: String,
        reason: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Reply {
    usage: Usage,
}

#[derive(Debug, Deserialize)]
struct Failure {
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Receipt {
    worker: String,
    pid: i32,
}

/// Tokens, as the journal and `agentd run --json` name them.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Usage {
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

/// What a goal's entries add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Calls of tools that were done.
    pub(crate) calls: u64,
    /// Calls of tools that came to nothing.
    pub(crate) failed_calls: u64,
    /// Children whose run was completed.
    pub(crate) children: u64,
    /// Replies of models.
    pub(crate) replies: u64,
    /// Tokens of the prompts of these replies.
    pub(crate) input_tokens: u64,
    /// Tokens of these replies.
    pub(crate) output_tokens: u64,
    /// From the requests to the replies, waits included.
    pub(crate) model_ms: u64,
    /// How models failed.
    pub(crate) failures: Vec<String>,
    /// What a purse could not cover.
    pub(crate) exceeded: Vec<String>,
}

/// The lines of `agentd audit --json`.
pub(crate) fn entries(lines: &str) -> Result<Vec<Entry>> {
    let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("the entry {line}"));
    lines.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
}

impl Tally {
    /// Of those of these entries that are of this goal.
    pub(crate) fn of(goal: &str, entries: &[Entry]) -> Self {
        let mut tally = Self::default();
        let mut children = BTreeSet::new();
        for entry in entries.iter().filter(|entry| entry.goal_id.as_deref() == Some(goal)) {
            match &entry.event {
                Event::AgentSpawned { parent: Some(_) } => drop(children.insert(&entry.agent_id)),
                Event::AgentExecutionCompleted { stop_reason } => {
                    let is_part = stop_reason == "complete" && children.contains(&entry.agent_id);
                    tally.children += u64::from(is_part);
                }
                Event::ToolResult { outcome } if outcome == "done" => tally.calls += 1,
                Event::ToolResult { .. } => tally.failed_calls += 1,
                Event::InferenceCompleted { result: Ok(Reply { usage }), elapsed } => {
                    tally.replies += 1;
                    tally.input_tokens += usage.input_tokens;
                    tally.output_tokens += usage.output_tokens;
                    tally.model_ms += elapsed;
                }
                Event::InferenceCompleted { result: Err(failure), .. } => {
                    tally.failures.push(failure.kind.clone());
                }
                Event::BudgetExceeded { quantity } => tally.exceeded.push(quantity.clone()),
                _ => {}
            }
        }
        tally
    }

    /// Both together.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        self.calls += other.calls;
        self.failed_calls += other.failed_calls;
        self.children += other.children;
        self.replies += other.replies;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.model_ms += other.model_ms;
        self.failures.extend(other.failures);
        self.exceeded.extend(other.exceeded);
        self
    }
}

/// The processes of local models, as the daemon's entries tell of them.
#[derive(Debug, Default)]
pub(crate) struct Models {
    /// Up to here the entries are known.
    pub(crate) seen: u64,
    workers: BTreeSet<String>,
    /// The last one that was started, if it was not seen to end.
    pid: Option<i32>,
}

impl Models {
    /// Takes in what is new, and says how those of them ended that did.
    pub(crate) fn take(&mut self, entries: &[Entry]) -> Vec<String> {
        let mut ends = Vec::new();
        for entry in entries {
            self.seen = self.seen.max(entry.seq);
            match &entry.event {
                Event::ConfinementReceipt { role, receipt } if role == "model" => {
                    self.workers.insert(receipt.worker.clone());
                    self.pid = Some(receipt.pid);
                }
                Event::WorkerStopped { worker, reason } if self.workers.remove(worker) => {
                    self.pid = None;
                    ends.push(reason.clone());
                }
                _ => {}
            }
        }
        ends
    }

    /// Most memory that the process has had at once, in KiB.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"seq":1,"goal_id":"g","agent_id":"a","event":{"kind":"agent_spawned","parent":null}}
{"seq":2,"goal_id":"g","agent_id":"b","event":{"kind":"agent_spawned","parent":"a"}}
{"seq":3,"goal_id":"g","agent_id":"b","event":{"kind":"agent_execution_completed","stop_reason":"error"}}
{"seq":4,"goal_id":"g","agent_id":"c","event":{"kind":"agent_spawned","parent":"a"}}
{"seq":5,"goal_id":"g","agent_id":"c","event":{"kind":"inference_completed","result":{"Ok":{"usage":{"input_tokens":9,"output_tokens":2}}},"elapsed":7}}
{"seq":6,"goal_id":"g","agent_id":"c","event":{"kind":"inference_completed","result":{"Err":{"kind":"unavailable"}},"elapsed":7}}
{"seq":7,"goal_id":"g","agent_id":"c","event":{"kind":"agent_execution_completed","stop_reason":"complete"}}
{"seq":8,"goal_id":"g","agent_id":"a","event":{"kind":"tool_result","outcome":"done"}}
{"seq":9,"goal_id":"g","agent_id":"a","event":{"kind":"tool_result","outcome":"denied"}}
{"seq":10,"goal_id":"g","agent_id":"a","event":{"kind":"agent_execution_completed","stop_reason":"complete"}}
{"seq":11,"goal_id":"other","event":{"kind":"tool_result","outcome":"done"}}
{"seq":12,"event":{"kind":"something_new","field":1}}"#;

    #[test]
    fn entries_add_up() {
        let tally = Tally::of("g", &entries(LINES).unwrap());
        let wanted = Tally {
            calls: 1,
            failed_calls: 1,
            children: 1,
            replies: 1,
            input_tokens: 9,
            output_tokens: 2,
            model_ms: 7,
            failures: vec!["unavailable".into()],
            exceeded: Vec::new(),
        };
        assert_eq!(tally, wanted, "a child that failed did no part, and the root is no child");
        assert_eq!(tally.clone().plus(tally).calls, 2);
        assert!(entries(r#"{"seq":1,"event":{"kind":"tool_result"}}"#).is_err(), "a field is missing");
    }

    #[test]
    fn only_processes_of_models_count_as_lost() {
        let mut models = Models::default();
        let own = std::process::id();
        let lines = format!(
            r#"{{"seq":5,"event":{{"kind":"confinement_receipt","role":"model","receipt":{{"worker":"m","pid":{own}}}}}}}
{{"seq":6,"event":{{"kind":"worker_stopped","worker":"w","reason":"idle"}}}}"#
        );
        assert_eq!(models.take(&entries(&lines).unwrap()), Vec::<String>::new());
        assert!(models.peak_kib() > Some(0) && models.seen == 6);
        let end = r#"{"seq":7,"event":{"kind":"worker_stopped","worker":"m","reason":"signal 9"}}"#;
        assert_eq!(models.take(&entries(end).unwrap()), ["signal 9"]);
        assert_eq!(models.peak_kib(), None);
    }
}
