//! What `docs/models.md` promises of a provider's faults, and a goal's journal in the same words. The tests against
//! independent servers compare with it, too.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Heading of the table.
const TABLE: &str = "## What a provider may do wrong";

/// The row of a goal whose provider did what `name` says.
pub(crate) fn row(name: &str, requests: usize, journal: &[Value], told: &Value) -> String {
    let steps: Vec<String> = journal.iter().filter_map(step).collect();
    let (state, exit) = (told["state"].as_str().expect("a state"), &told["exit_code"]);
    format!("| {name} | {requests} | {} | {state} | {exit} |", steps.join(", "))
}

/// An entry as the table tells of it; most are left out.
fn step(entry: &Value) -> Option<String> {
    let event = &entry["event"];
    let kind = event["kind"].as_str().expect("a kind");
    let more = match kind {
        "inference_completed" => event["result"]["Err"]["kind"].as_str()?,
        "inference_retried" | "call_refused" => event["failure"]["kind"].as_str().expect("a kind"),
        "tool_invoked" => event["tool"].as_str().expect("a name"),
        "agent_execution_completed" => event["stop_reason"].as_str().expect("a reason"),
        _ => return None,
    };
    Some(format!("`{kind}` {more}"))
}

/// The rows of the table in the documentation, by their first column.
pub(crate) fn rows() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md");
    let page = std::fs::read_to_string(page).expect("reads the page");
    let (_, section) = page.split_once(TABLE).expect("the table has its heading");
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let named = rows.map(|row| (row.split('|').nth(1).expect("a column").trim().to_owned(), row.to_owned()));
    named.collect()
}
