//! Permits of one agent, authorised and journalled as in agentd, with no daemon around them.
//!
//! Invariant: the journal, its files and the agent's grants last as long as what is measured with them.

use std::path::{Path, PathBuf};

use aaos_core::authority::{Admission, Authority, AuthorityLimits};
use aaos_core::budget::Budget;
use aaos_core::capability::{Capability, Constraints, ToolSet};
use aaos_core::grant::GrantRequest;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::name::AgentName;
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::quantity::Timestamp;
use aaos_core::tool::{ToolCall, find};
use aaos_journal::{About, Journal, JournalConfig, Permit, Receipt};
use aaos_sandbox::RootTable;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::processes::built;

const AGENT: AgentId = AgentId::from_uuid(Uuid::from_u128(1));
const NOW: Timestamp = Timestamp(1_000);

/// One agent that may read below a directory of its own and start one program.
pub(crate) struct Permits {
    folder: TempDir,
    roots: RootTable,
    authority: Authority,
    journal: Journal,
    given: u128,
}

impl Permits {
    pub(crate) fn new(program: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("aaos-bench-").tempdir_in(built()?)?;
        let (state, data) = (folder.path().join("state"), folder.path().join("data"));
        std::fs::create_dir_all(&state)?;
        std::fs::create_dir_all(&data)?;
        let roots = RootTable::new(vec![state.clone()], Vec::new());
        let authority = admitted(&roots, &data, program)?;
        let (journal, _) = Journal::open(JournalConfig::at(state.join("journal.db")))?;
        Ok(Self { folder, roots, authority, journal, given: 0 })
    }

    /// The directory below which the agent may read.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn roots(&self) -> &RootTable {
        &self.roots
    }

    /// The permit of one more call.
    pub(crate) async fn next(&mut self, tool: &str, input: Value) -> Result<Permit<ToolCall>> {
        let input = find(tool).context("a tool")?.parse_input(input);
        let effect = ToolCall::new(input.map_err(|error| anyhow!("{error:?}"))?);
        let effect = effect.map_err(|error| anyhow!("{error:?}"))?;
        self.given += 1;
        let call = CallId::from_uuid(Uuid::from_u128(self.given));
        let authorized = self.authority.authorize(AGENT, call, effect, NOW);
        let about = About { timestamp: NOW, goal_id: None, trace_id: None, parent_event: None };
        Ok(self.journal.begin(authorized.map_err(|error| anyhow!("{error:?}"))?, about).await?)
    }

    /// Journals the end of a call that went well.
    pub(crate) async fn finish(&self, receipt: Receipt<ToolCall>) -> Result<()> {
        ensure!(receipt.outcome().result.is_ok(), "{:?}", receipt.outcome().result);
        self.journal.finish(receipt, NOW).await?;
        Ok(())
    }
}

fn admitted(roots: &RootTable, data: &Path, program: &str) -> Result<Authority> {
    let pattern =
        PathPattern::parse(&format!("{}/*", data.display())).map_err(|error| anyhow!("{error:?}"))?;
    let program = AbsPath::parse(program).map_err(|error| anyhow!("{error:?}"))?;
    let id = |number| GrantId::from_uuid(Uuid::from_u128(number));
    let opened = roots.open_root(id(2), &pattern, false).context("open the root")?;
    let request = |number, capability, root| GrantRequest {
        id: id(number),
        capability,
        spelled: None,
        constraints: Constraints::default(),
        root,
        special: None,
    };
    let grants = vec![
        request(1, Capability::Tool(ToolSet::All), None),
        request(2, Capability::FileRead(opened.pattern), Some(opened.identity)),
        request(3, Capability::Exec(program), None),
    ];
    let mut authority = Authority::new(AuthorityLimits::default());
    let name = AgentName::parse("bench").map_err(|error| anyhow!("{error:?}"))?;
    let admission = Admission::plain(AGENT, name, Budget::default());
    authority.admit_root(admission, grants, NOW).map_err(|error| anyhow!("{error:?}"))?;
    Ok(authority)
}
