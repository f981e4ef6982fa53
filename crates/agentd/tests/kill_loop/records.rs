//! What the daemon's journal says, and its archives.
//!
//! Invariant: a chain that does not verify, in the database or in an archive, is a failure wherever it is seen.

use serde_json::{Value, json};
use std::path::PathBuf;
use testkit::{Client, Daemon, RpcTrouble};

/// What must not be refused, where the daemon may die meanwhile.
pub(crate) fn done(client: &mut Client, method: &str, params: Value) -> Result<Value, RpcTrouble> {
    Ok(client.try_call(method, params)?.unwrap_or_else(|failure| panic!("{method}: {failure:?}")))
}

/// All entries of these kinds, page by page.
pub(crate) fn entries(client: &mut Client, kinds: &[&str]) -> Result<Vec<Value>, RpcTrouble> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map_or(json!(0), |last| last["seq"].clone());
        let mut page = done(client, "audit.query", json!({ "kinds": kinds, "after_seq": after }))?;
        match page["entries"].take() {
            Value::Array(page) if page.is_empty() => return Ok(all),
            Value::Array(page) => all.extend(page),
            other => panic!("a list, not {other}"),
        }
    }
}

/// The end of the journal, which verifies to there.
pub(crate) fn head(client: &mut Client) -> u64 {
    let report = client.call("audit.verify", json!({})).expect("a report");
    assert!(report["broken"].is_null(), "the chain is broken: {report}");
    let head = report["head"].as_str().and_then(|head| head.split_once(':')?.0.parse().ok());
    head.unwrap_or_else(|| panic!("a head, SEQ:HASH: {report}"))
}

/// What `audit.prune` is asked for.
pub(crate) fn everything() -> Value {
    json!({ "older_than_ms": 0 })
}

/// Archives all that is over, verifies every archive and gives the last archived entry's number.
pub(crate) fn prune(daemon: &Daemon) -> u64 {
    let mut client = daemon.client();
    let pruned = client.call("audit.prune", everything()).expect("archives");
    assert!(pruned["held"].is_null(), "nothing is open any more: {pruned}");
    head(&mut client);
    let listing = std::fs::read_dir(daemon.state_dir().join("archive")).expect("there are archives");
    let mut archives: Vec<PathBuf> = listing.map(|entry| entry.expect("reads").path()).collect();
    archives.retain(|path| path.extension().is_some_and(|ends| ends == "jsonl"));
    archives.sort_by_key(|path| std::fs::metadata(path).and_then(|about| about.modified()).expect("reads"));
    // Those before were verified when they were made.
    for archive in archives.iter().rev().take(3) {
        let words = archive.to_str().expect("UTF-8");
        let verified = daemon.cli(["audit", "--verify", "--file", words]);
        assert_eq!(verified.code(), 0, "{words}: {verified:?}");
    }
    pruned["through"].as_u64().expect("a number")
}
