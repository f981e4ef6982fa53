//! `file_read` through a worker, without a daemon around it: path to descriptor, worker, and the text back.
//!
//! Invariant: each call is authorised and journalled as in agentd; only what lies between permit and receipt is timed.

use std::time::Instant;

use aaos_core::authority::{Admission, Authority, AuthorityLimits};
use aaos_core::budget::Budget;
use aaos_core::capability::{Capability, Constraints, ToolSet};
use aaos_core::grant::GrantRequest;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::name::AgentName;
use aaos_core::path::PathPattern;
use aaos_core::quantity::Timestamp;
use aaos_core::tool::{ToolCall, find};
use aaos_journal::{About, Journal, JournalConfig};
use aaos_sandbox::{RootTable, Sandbox};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use uuid::Uuid;

use crate::far::Far;
use crate::processes::built;
use crate::stats::Samples;

const AGENT: AgentId = AgentId::from_uuid(Uuid::from_u128(1));
const NOW: Timestamp = Timestamp(1_000);
/// What is read.
const FILE_BYTES: usize = 4096;

/// So many reads of one file by one agent.
pub(crate) fn file_reads(far: &Far, times: usize) -> Result<Samples> {
    far.on_a_task(move |sandbox| read_all(sandbox, times))
}

async fn read_all(sandbox: Sandbox, times: usize) -> Result<Samples> {
    let folder = tempfile::Builder::new().prefix("aaos-bench-").tempdir_in(built()?)?;
    let (state, data) = (folder.path().join("state"), folder.path().join("data"));
    std::fs::create_dir_all(&state)?;
    std::fs::create_dir_all(&data)?;
    std::fs::write(data.join("page.txt"), "x".repeat(FILE_BYTES))?;
    let roots = RootTable::new(vec![state.clone()], Vec::new());
    let mut authority = admitted(&roots, &format!("{}/*", data.display()))?;
    let (journal, _) = Journal::open(JournalConfig::at(state.join("journal.db")))?;
    let mut worker = sandbox.launch_worker().await.context("launch a worker")?;
    let mut samples = Samples::default();
    for number in 0..times {
        let path = data.join("page.txt");
        let input = find("file_read").context("a tool")?.parse_input(json!({ "path": path }));
        let effect = ToolCall::new(input.map_err(|error| anyhow!("{error:?}"))?);
        let effect = effect.map_err(|error| anyhow!("{error:?}"))?;
        let call = CallId::from_uuid(Uuid::from_u128(u128::try_from(number)? + 1));
        let authorized =
            authority.authorize(AGENT, call, effect, NOW).map_err(|error| anyhow!("{error:?}"))?;
        let about = About { timestamp: NOW, goal_id: None, trace_id: None, parent_event: None };
        let permit = journal.begin(authorized, about).await?;
        let begun = Instant::now();
        let receipt = worker.run(permit, &roots, None).await;
        samples.push_micros(begun.elapsed());
        ensure!(receipt.outcome().result.is_ok(), "{:?}", receipt.outcome().result);
        journal.finish(receipt, NOW).await?;
    }
    drop(worker.stop().await);
    Ok(samples)
}

/// An authority with one agent that may read below a directory.
fn admitted(roots: &RootTable, spelled: &str) -> Result<Authority> {
    let pattern = PathPattern::parse(spelled).map_err(|error| anyhow!("{error:?}"))?;
    let id = |number| GrantId::from_uuid(Uuid::from_u128(number));
    let opened = roots.open_root(id(2), &pattern, false).context("open the root")?;
    let request = |number, capability, root| GrantRequest {
        id: id(number),
        capability,
        spelled: None,
        constraints: Constraints::default(),
        root,
    };
    let grants = vec![
        request(1, Capability::Tool(ToolSet::All), None),
        request(2, Capability::FileRead(opened.pattern), Some(opened.identity)),
    ];
    let mut authority = Authority::new(AuthorityLimits::default());
    let name = AgentName::parse("bench").map_err(|error| anyhow!("{error:?}"))?;
    let admission = Admission::plain(AGENT, name, Budget::default());
    authority.admit_root(admission, grants, NOW).map_err(|error| anyhow!("{error:?}"))?;
    Ok(authority)
}
