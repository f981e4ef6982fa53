//! Goals run against a server by a daemon of their own, with their traffic on a cassette.

use crate::documented;
use crate::sdks::Captured;
use serde_json::Value;
use testkit::{Backend, DaemonBuilder, Dialect};

/// The manifest of a root agent with no authority but for the tool that says a message back.
pub(crate) fn lead(system_prompt: &str) -> String {
    format!("name: lead\nmodel: smart\nsystem_prompt: {system_prompt}\ncapabilities:\n  - \"tool: echo\"\n")
}

/// A daemon that is to ask this server.
pub(crate) fn asking(wire: Dialect, server: &crate::servers::Server) -> DaemonBuilder {
    DaemonBuilder::new(match wire {
        Dialect::OpenAi => Backend::OpenAi { base_url: server.openai_url() },
        Dialect::Anthropic => Backend::Anthropic { base_url: server.anthropic_url() },
    })
}

/// A goal that was run to its end by `agentd run --record`.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The goal as the command line tells of it.
    pub(crate) told: Value,
    /// Its journal.
    pub(crate) entries: Vec<Value>,
    /// The exchanges with providers.
    pub(crate) exchanges: Vec<Value>,
    /// What was asked in them.
    pub(crate) requests: Vec<Captured>,
}

impl Ran {
    /// The row of the documentation's table that this makes.
    pub(crate) fn row(&self, name: &str) -> String {
        documented::row(name, self.exchanges.len(), &self.entries, &self.told)
    }

    /// Events of one kind.
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.entries.iter().map(|entry| &entry["event"]).filter(|event| event["kind"] == kind).collect()
    }
}

/// Runs a goal with this root agent.
pub(crate) fn run(aaos: &DaemonBuilder, lead: &str, goal: &str) -> Ran {
    let file = |name: &str| aaos.home().join(name);
    std::fs::write(file("lead.yaml"), lead).expect("writes");
    let (manifest, cassette) = (file("lead.yaml"), file("run.cassette"));
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let (manifest, record) = (path(&manifest), path(&cassette));
    let ran = aaos.cli(["run", "--json", "--quiet", "--manifest", &manifest, "--record", &record, goal]);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!(told["exit_code"], ran.code(), "{ran:?}");
    let audit = aaos.cli(["audit", "--json"]);
    assert_eq!(audit.code(), 0, "{audit:?}");
    let lines = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    };
    let mut recorded = lines(&std::fs::read_to_string(&cassette).expect("it was recorded"));
    let head = recorded.remove(0);
    let requests = Captured::of_cassette(&head, &recorded);
    Ran { told, entries: lines(&audit.stdout), exchanges: recorded, requests }
}
