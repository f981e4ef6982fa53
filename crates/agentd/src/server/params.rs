//! Parameters of the methods of SPEC §3.
//!
//! Invariant: closed objects; a misspelt or foreign member is an error, not ignored.

use std::path::PathBuf;

use aaos_core::budget::{Budget, Ceilings};
use aaos_core::effect::{FileRight, Need, Needs};
use aaos_core::event::GoalState;
use aaos_core::id::{AgentId, ApprovalId, GoalId, GrantId, Seq, TraceId};
use aaos_core::name::{AgentName, ModelName, ToolName};
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::quantity::{MicroUsd, Millis, Quantity};
use aaos_ipc::{ErrorCode, RpcError};
use aaos_journal::{Head, HeadKey};
use aaos_runtime::{Answer, Covers};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// No parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

/// `agent.spawn`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spawn {
    pub(crate) manifest: Option<String>,
    pub(crate) manifest_path: Option<PathBuf>,
}

/// `agent.stop`, `agent.status`, `agent.pause`, `agent.resume`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneAgent {
    pub(crate) agent_id: AgentId,
}

/// `agent.logs_streaming`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logs {
    pub(crate) agent_id: AgentId,
    pub(crate) after_seq: Option<Seq>,
}

/// `agent.run`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) agent_id: AgentId,
    pub(crate) message: String,
}

/// `agent.result`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceResult {
    pub(crate) trace_id: TraceId,
    #[serde(default)]
    pub(crate) wait_seconds: u64,
}

/// `agent.spawn_and_run`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpawnAndRun {
    pub(crate) manifest: Option<String>,
    pub(crate) manifest_path: Option<PathBuf>,
    pub(crate) message: String,
}

/// `budget` of a goal.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GoalBudget {
    pub(crate) max_tokens: Option<u64>,
    /// Decimal text: a binary fraction is no amount of money.
    #[serde(deserialize_with = "dollars")]
    pub(crate) max_usd: Option<MicroUsd>,
    pub(crate) max_wall_seconds: Option<u64>,
    pub(crate) max_children: Option<u64>,
    pub(crate) max_egress_bytes: Option<u64>,
    pub(crate) max_written_bytes: Option<u64>,
    pub(crate) max_files: Option<u64>,
    pub(crate) max_journal_bytes: Option<u64>,
    pub(crate) reset_period_seconds: Option<u64>,
}

fn dollars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MicroUsd>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let read = MicroUsd::from_decimal(&text);
    read.map(Some).ok_or_else(|| D::Error::custom("max_usd is decimal text, for example \"1.50\""))
}

impl From<GoalBudget> for Budget {
    fn from(asked: GoalBudget) -> Self {
        let millis = |seconds: u64| seconds.saturating_mul(1000);
        let max = Ceilings::NONE
            .with(Quantity::Tokens, asked.max_tokens)
            .with(Quantity::MicroUsd, asked.max_usd.map(|usd| usd.0))
            .with(Quantity::WallMillis, asked.max_wall_seconds.map(millis))
            .with(Quantity::Children, asked.max_children)
            .with(Quantity::EgressBytes, asked.max_egress_bytes)
            .with(Quantity::WrittenBytes, asked.max_written_bytes)
            .with(Quantity::Files, asked.max_files)
            .with(Quantity::JournalBytes, asked.max_journal_bytes);
        let period = asked.reset_period_seconds.filter(|seconds| *seconds > 0);
        Self { max, reset_period: period.map(|seconds| Millis(millis(seconds))) }
    }
}

/// `goal.submit` and `agent.submit_streaming`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Submit {
    pub(crate) goal: String,
    #[serde(default)]
    pub(crate) outputs: Vec<AbsPath>,
    pub(crate) client_key: Option<String>,
    #[serde(default)]
    pub(crate) priority: i64,
    pub(crate) deadline_seconds: Option<u64>,
    pub(crate) budget: Option<GoalBudget>,
    /// Capabilities in the grammar of SPEC §2, as in a manifest's list.
    #[serde(default)]
    pub(crate) grants: Vec<serde_json::Value>,
    pub(crate) manifest: Option<String>,
    /// Tools of which each use waits for a person.
    #[serde(default)]
    pub(crate) approval_required: Vec<String>,
    pub(crate) working_directory: Option<AbsPath>,
}

/// `goal.fork`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fork {
    pub(crate) goal_id: GoalId,
    /// The entry up to which the goal is taken over.
    pub(crate) at: Seq,
    /// Another model for its root agent; not with `manifest`.
    pub(crate) model: Option<ModelName>,
    /// Another root agent, YAML text.
    pub(crate) manifest: Option<String>,
    /// Files outside the workspace that were changed since may stay as they are.
    #[serde(default)]
    pub(crate) keep_files: bool,
}

/// `goal.status`, `goal.cancel`, `goal.follow`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneGoal {
    pub(crate) goal_id: GoalId,
}

/// `goal.list`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goals {
    pub(crate) state: Option<GoalState>,
}

/// `tool.invoke`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invoke {
    pub(crate) agent_id: AgentId,
    pub(crate) tool: String,
    pub(crate) input: Box<serde_json::value::RawValue>,
}

/// `decision` of `approval.respond`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decision {
    Approve,
    Deny,
}

/// `scope` of `approval.respond`: more than the very call that was asked about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scope {
    /// Where the files have to lie, as a pattern of the grammar.
    pub(crate) below: Option<PathPattern>,
    /// How often; once when absent.
    pub(crate) uses: Option<u32>,
    /// For every agent of the goal, not the asking one and its descendants alone.
    #[serde(default)]
    pub(crate) for_goal: bool,
}

/// `approval.respond`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Respond {
    pub(crate) id: ApprovalId,
    pub(crate) decision: Decision,
    pub(crate) reason: Option<String>,
    /// Only with `approve`.
    pub(crate) scope: Option<Scope>,
}

impl Respond {
    /// What the person says.
    pub(crate) fn answer(self) -> Result<Answer, RpcError> {
        match (self.decision, self.scope) {
            (Decision::Approve, None) => Ok(Answer::Approve(Covers::ThisCall)),
            (Decision::Approve, Some(Scope { below, uses, for_goal })) => {
                Ok(Answer::Approve(Covers::Tool { below, uses, for_goal }))
            }
            (Decision::Deny, None) => Ok(Answer::Deny),
            (Decision::Deny, Some(_)) => {
                Err(RpcError::new(ErrorCode::InvalidParams, "a denial has no scope; leave it out"))
            }
        }
    }
}

/// `capability.revoke`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revoke {
    pub(crate) agent_id: AgentId,
    pub(crate) grant_id: GrantId,
}

/// `capability.explain`: at least one of what is asked about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Explain {
    pub(crate) agent_id: Option<AgentId>,
    pub(crate) tool: Option<ToolName>,
    pub(crate) read: Option<AbsPath>,
    pub(crate) write: Option<AbsPath>,
    /// A host name or address.
    pub(crate) host: Option<String>,
    /// Its port; 443 when absent.
    pub(crate) port: Option<u16>,
    pub(crate) spawn: Option<AgentName>,
}

impl Explain {
    /// What it would take.
    pub(crate) fn needs(&self) -> Needs {
        let file = |right, path: &Option<AbsPath>| path.clone().map(|path| Need::File { right, path });
        let host = self
            .host
            .as_deref()
            .map(|host| Need::Host { host: host.to_ascii_lowercase(), port: self.port.unwrap_or(443) });
        let needs = [
            self.tool.clone().map(Need::Tool),
            file(FileRight::Read, &self.read),
            file(FileRight::Write, &self.write),
            host,
            self.spawn.clone().map(Need::Spawn),
        ];
        Needs { all: needs.into_iter().flatten().collect(), ..Needs::default() }
    }
}

/// `audit.query` and `audit.stream`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Audit {
    pub(crate) goal_id: Option<GoalId>,
    pub(crate) agent_id: Option<AgentId>,
    #[serde(default)]
    pub(crate) kinds: Vec<String>,
    pub(crate) after_seq: Option<Seq>,
    pub(crate) limit: Option<usize>,
}

/// `audit.verify`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verify {
    /// `SEQ:HASH` of a head seen earlier.
    pub(crate) head: Option<Head>,
    /// The public key that must have signed.
    pub(crate) key: Option<HeadKey>,
}

/// `audit.prune`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prune {
    /// Age that entries must have to be archived, milliseconds.
    pub(crate) older_than_ms: Millis,
}
