//! One agent with a read-write `data`, a read-only `library`, a journal and a confined worker.

use std::fs;
use std::path::{Path, PathBuf};

use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal};
use aaos_core::budget::Budget;
use aaos_core::capability::{Capability, Constraints, ToolSet};
use aaos_core::effect::ToolOutcome;
use aaos_core::grant::GrantRequest;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::name::AgentName;
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::quantity::Timestamp;
use aaos_core::tool::{ToolCall, find};
use aaos_core::toolio::ToolFailure;
use aaos_journal::{About, Journal, JournalConfig, Permit};
use aaos_sandbox::{FetchedPage, RootTable, Sandbox, SandboxConfig, Worker, WorkerEnd, ZygoteSeed};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

const AGENT: AgentId = AgentId::from_uuid(Uuid::from_u128(1));
pub(crate) const NOW: Timestamp = Timestamp(1_000);

/// One agent with a read-write `data`, a read-only `library`, and a worker.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    authority: Authority,
    pub(crate) journal: Journal,
    pub(crate) roots: RootTable,
    pub(crate) sandbox: Sandbox,
    pub(crate) worker: Worker,
    calls: u128,
}

pub(crate) fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let exe = test.parent().and_then(Path::parent).expect("a profile's folder").join(name);
    assert!(exe.is_file(), "{} is missing: run `cargo build --workspace --examples` first", exe.display());
    exe
}

impl Lab {
    /// In `dir`, with the worker's program of this name, launched as the configuration says.
    pub(crate) async fn with(dir: TempDir, name: &str, config: impl Into<SandboxConfig>) -> Self {
        let seed = ZygoteSeed::start(&built(name), None).expect("a zygote");
        let sandbox = Sandbox::adopt(seed, config).expect("adopted");
        for name in ["data/sub", "library", "outside", "state"] {
            fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        for name in ["data/f", "data/sub/g", "library/book", "outside/f"] {
            fs::write(dir.path().join(name), format!("text of {name}\n")).expect("written");
        }
        let roots = RootTable::new(vec![dir.path().join("state")], Vec::new());
        let config = JournalConfig::at(dir.path().join("state/journal.db"));
        let (journal, _) = Journal::open(config).expect("a journal");
        let worker = sandbox.launch_worker().await.expect("a worker");
        let authority = Authority::new(AuthorityLimits::default());
        let mut lab = Self { dir, authority, journal, roots, sandbox, worker, calls: 0 };
        lab.admit();
        lab
    }

    fn admit(&mut self) {
        let mut grants =
            vec![Self::request(1, Capability::Tool(ToolSet::All)), Self::request(2, Capability::WebSearch)];
        for (number, directory, writes) in [(3, "data", false), (4, "data", true), (5, "library", false)] {
            let spelled = format!("{}/*", self.dir.path().join(directory).display());
            let pattern = PathPattern::parse(&spelled).expect("a pattern");
            let id = GrantId::from_uuid(Uuid::from_u128(number));
            let opened = self.roots.open_root(id, &pattern, false).expect("a root");
            let pattern = opened.pattern;
            let capability =
                if writes { Capability::FileWrite(pattern) } else { Capability::FileRead(pattern) };
            grants.push(GrantRequest { root: Some(opened.identity), ..Self::request(number, capability) });
        }
        let contest = built("examples/contest").display().to_string();
        let contest = AbsPath::parse(&contest).expect("an absolute path");
        grants.push(Self::request(6, Capability::Exec(contest)));
        let name = AgentName::parse("tester").expect("a name");
        let admission = Admission::plain(AGENT, name, Budget::default());
        self.authority.admit_root(admission, grants, NOW).expect("admitted");
    }

    fn request(number: u128, capability: Capability) -> GrantRequest {
        let id = GrantId::from_uuid(Uuid::from_u128(number));
        GrantRequest {
            id,
            capability,
            spelled: None,
            constraints: Constraints::default(),
            root: None,
            special: None,
        }
    }

    pub(crate) fn path(&self, relative: &str) -> String {
        self.dir.path().join(relative).to_str().expect("text").to_owned()
    }

    pub(crate) async fn permit(&mut self, tool: &str, arguments: Value) -> Result<Permit<ToolCall>, Refusal> {
        let input = find(tool).expect("a tool").parse_input(arguments).expect("arguments");
        self.permit_of(ToolCall::new(input).expect("a call")).await
    }

    pub(crate) async fn permit_of(&mut self, effect: ToolCall) -> Result<Permit<ToolCall>, Refusal> {
        self.calls += 1;
        let call = CallId::from_uuid(Uuid::from_u128(self.calls));
        let authorized = self.authority.authorize(AGENT, call, effect, NOW)?;
        let about = About { timestamp: NOW, goal_id: None, trace_id: None, parent_event: None };
        Ok(self.journal.begin(authorized, about).await.expect("journalled"))
    }

    pub(crate) async fn outcome(
        &mut self,
        tool: &str,
        arguments: Value,
        page: Option<FetchedPage>,
    ) -> ToolOutcome {
        let permit = self.permit(tool, arguments).await.expect("authorised");
        let receipt = self.worker.run(permit, &self.roots, page).await;
        self.journal.finish(receipt, NOW).await.expect("journalled").outcome
    }

    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Result<Value, ToolFailure> {
        let outcome = self.outcome(tool, arguments, None).await;
        outcome.result.map(|text| serde_json::from_str(&text).expect("JSON"))
    }

    pub(crate) async fn end(self) -> WorkerEnd {
        let end = self.worker.stop().await;
        self.sandbox.shutdown().await;
        end
    }
}
