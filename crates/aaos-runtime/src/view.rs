//! What the kernel shows of itself: the objects of SPEC §3.
//!
//! Invariant: views are copies; changing one changes nothing.

use std::collections::BTreeMap;

use aaos_core::approval::Target;
use aaos_core::authority::PurseView;
use aaos_core::confinement::{Boundary, ConfinementPolicy, ConfinementReceipt, ResourceUsage};
use aaos_core::event::{GoalState, OutputObserved};
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, ApprovalId, CallId, GoalId, Seq, TraceId};
use aaos_core::limits;
use aaos_core::model::{ModelFailureKind, ProviderState, Usage};
use aaos_core::name::{AgentName, ModelName, ProviderName, ToolName};
use aaos_core::observe::{CallFigures, Histogram};
use aaos_core::path::PathPattern;
use aaos_core::quantity::{MicroUsd, Quantity, Timestamp, Tokens};
use aaos_core::span::SpanFigures;
use aaos_core::state::{PendingCall, PendingTool};
use aaos_core::toolio::StopReason;
use aaos_core::variables::Variables;
use serde::{Deserialize, Serialize};

use crate::context::ContextReport;

/// Where an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Admitted, doing nothing.
    Idle,
    /// A run is going on.
    Running,
    /// Paused: it takes no further message or turn.
    Paused,
    /// Being stopped.
    Stopping,
}

/// One agent in `agent.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Id.
    pub id: AgentId,
    /// Name.
    pub name: AgentName,
    /// The model that it asks now, or asked last.
    pub model: ModelName,
    /// All its models, where it has several: after a run that came to nothing it asks the next one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub models: Vec<ModelName>,
    /// State.
    pub state: AgentState,
    /// Grants it holds.
    pub capability_count: usize,
    /// Its parent.
    pub parent_agent: Option<AgentId>,
    /// Admission time, milliseconds since the epoch.
    pub started_at: Timestamp,
    /// When its schedule is due next, milliseconds since the epoch; absent without a schedule and while it is paused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_due: Option<Timestamp>,
    /// Restarts in the window of its supervision; absent where there were none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub restarts: Option<u32>,
}

/// A purse as shown: its tokens, and every quantity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurseReport {
    /// Its own ceiling of tokens.
    pub limit: Option<Tokens>,
    /// Tokens reserved by inferences in flight.
    pub reserved: Tokens,
    /// Tokens used, children included.
    pub used: Tokens,
    /// Tokens that may still be reserved, ancestors considered.
    pub remaining: Option<Tokens>,
    /// Every quantity that is bounded or used.
    pub quantities: Vec<QuantityReport>,
    /// When the present window ends, milliseconds since the epoch; absent without windows.
    pub window_ends: Option<Timestamp>,
}

/// One quantity of a purse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantityReport {
    /// Which.
    pub quantity: Quantity,
    /// The purse's own ceiling.
    pub limit: Option<u64>,
    /// Reserved by effects in flight.
    pub reserved: u64,
    /// Used in the present window, children included.
    pub used: u64,
    /// What may still be reserved, ancestors considered.
    pub remaining: Option<u64>,
}

impl UnknownEffect {
    /// Of a call of a principal's agent.
    pub(crate) fn of(pending: &PendingCall, made: &PendingTool, owner: u32) -> Self {
        Self {
            call: pending.call,
            agent_id: pending.agent,
            goal_id: pending.goal,
            tool: made.tool.clone(),
            since: pending.since,
            owner,
        }
    }
}

impl PurseReport {
    /// What is shown of a purse.
    #[must_use]
    pub fn of(purse: &PurseView) -> Self {
        let report = |quantity| QuantityReport {
            quantity,
            limit: purse.budget.max.get(quantity),
            reserved: purse.reserved.get(quantity),
            used: purse.used.get(quantity),
            remaining: purse.remaining.get(quantity),
        };
        let tokens = report(Quantity::Tokens);
        let told = |one: &QuantityReport| one.remaining.is_some() || one.used > 0 || one.reserved > 0;
        Self {
            limit: tokens.limit.map(Tokens),
            reserved: Tokens(tokens.reserved),
            used: Tokens(tokens.used),
            remaining: tokens.remaining.map(Tokens),
            quantities: Quantity::ALL.into_iter().map(report).filter(told).collect(),
            window_ends: purse.window_ends,
        }
    }
}

/// `agent.status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Id.
    pub id: AgentId,
    /// Name.
    pub name: AgentName,
    /// The model that it asks now, or asked last.
    pub model: ModelName,
    /// All its models, where it has several: after a run that came to nothing it asks the next one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub models: Vec<ModelName>,
    /// State.
    pub state: AgentState,
    /// Grants it holds.
    pub capability_count: usize,
    /// Its parent.
    pub parent_agent: Option<AgentId>,
    /// Admission time.
    pub started_at: Timestamp,
    /// Its goal.
    pub goal_id: Option<GoalId>,
    /// Its purse.
    pub purse: Option<PurseReport>,
    /// Its own tokens of the current or last run.
    pub usage: Usage,
    /// What its conversation takes of its window; absent before its first run since the daemon began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<ContextReport>,
    /// The grants, with ids.
    pub grants: Vec<GrantRecord>,
    /// Environment variables of the programs that it starts.
    #[serde(skip_serializing_if = "Variables::is_empty", default)]
    pub environment: Variables,
    /// The receipt of its worker, while it has one.
    pub confinement: Option<ConfinementReceipt>,
    /// What its worker uses of the machine, while it has one.
    pub resources: Option<ResourceUsage>,
    /// What its running programs use, each with all that it started, where control groups say it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub programs: Vec<ResourceUsage>,
    /// What it waits for, in words.
    pub waiting_for: Option<String>,
    /// When its schedule is due next, milliseconds since the epoch; absent without a schedule and while it is paused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_due: Option<Timestamp>,
    /// Restarts in the window of its supervision; absent where there were none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub restarts: Option<u32>,
}

/// One open question in `approval.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalView {
    /// Id, for `approval.respond`.
    pub id: ApprovalId,
    /// Who wants to act.
    pub agent_id: AgentId,
    /// Its name.
    pub agent_name: AgentName,
    /// Its goal.
    pub goal_id: Option<GoalId>,
    /// Who wants to do what, in the runtime's words.
    pub description: String,
    /// Why a person is asked, in the runtime's words.
    pub because: String,
    /// Name of the tool or effect.
    pub tool: String,
    /// Its arguments, as the agent wrote them; absent where the list would be too long with them.
    pub input: Option<serde_json::Value>,
    /// The grants that would be used, in the grammar's words.
    pub grants: Vec<String>,
    /// What stands at the paths that would be changed.
    pub targets: Vec<Target>,
    /// When it was asked.
    pub timestamp: Timestamp,
    /// When it counts as denied.
    pub deadline: Timestamp,
}

/// One approval in force in `approval.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalInForce {
    /// Id of the question that it answered, for `approval.respond`.
    pub id: ApprovalId,
    /// The agent that may use it, with its descendants where it does not cover one very call.
    pub agent_id: AgentId,
    /// Its name.
    pub agent_name: AgentName,
    /// Name of the tool or effect; absent for one very call, whose question in the journal has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub effect: Option<String>,
    /// Where the files have to lie.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub below: Option<PathPattern>,
    /// Of one very call: the files that it would change.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub paths: Vec<String>,
    /// How often it may still be used.
    pub uses_left: u32,
    /// Whether it covers the very call that was asked about, and nothing else.
    pub exactly: bool,
}

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// Final text.
    pub response: String,
    /// Tokens.
    pub usage: Usage,
    /// Turns.
    pub iterations: u32,
    /// Why it stopped.
    pub stop_reason: StopReason,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Of a failed inference: its kind, from which the error code follows.
    #[serde(skip)]
    pub failure: Option<ModelFailureKind>,
}

/// The answer to `agent.run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunAnswer {
    /// An on-demand agent ran.
    Ran(RunResult),
    /// A persistent agent has the message in its mailbox, durably.
    Delivered(TraceId),
}

/// Where a delivered message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceState {
    /// In the mailbox or being worked on.
    Pending,
    /// Answered.
    Done,
    /// Its run failed or was interrupted.
    Failed,
}

/// `agent.result`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    /// Which message.
    pub trace_id: TraceId,
    /// Where it stands.
    pub status: TraceState,
    /// The run it caused, when over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One goal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoalView {
    /// Id.
    pub goal_id: GoalId,
    /// What was asked for.
    pub goal: String,
    /// State.
    pub state: GoalState,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its root agent, once it runs.
    pub root_agent: Option<AgentId>,
    /// Where its agents exchange files.
    pub workspace: Option<String>,
    /// Declared outputs: as found once it is over.
    pub outputs: Vec<OutputObserved>,
    /// The answer.
    pub response: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Tokens of the whole tree.
    pub usage: Usage,
    /// US dollars that the whole tree's inferences cost, as decimal text; absent where no model had a price.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost: Option<String>,
    /// Exit code of `run` and `submit` for it, once it is over.
    pub exit_code: Option<u8>,
    /// What it waits for, in words.
    pub waiting_for: Option<String>,
}

impl GoalView {
    /// With the first [`limits::LISTED_TEXT_BYTES`] of its long texts.
    pub(crate) fn shortened(mut self) -> Self {
        shorten(&mut self.goal);
        self.response.iter_mut().chain(&mut self.error).for_each(shorten);
        self
    }
}

fn shorten(text: &mut String) {
    if text.len() > limits::LISTED_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(limits::LISTED_TEXT_BYTES));
        text.push('…');
    }
}

/// One tool in `tool.list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolView {
    /// Name.
    pub name: String,
    /// For the model.
    pub description: String,
    /// JSON Schema of its input.
    pub input_schema: serde_json::Value,
}

/// `runtime.models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelsView {
    /// Providers, as they were found just now.
    pub providers: Vec<ProviderState>,
    /// What the aliases mean.
    pub aliases: Vec<AliasView>,
    /// What was observed of the calls of each model since the daemon started.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub calls: Vec<CallReport>,
}

/// What was observed of the calls of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallReport {
    /// Who serves it.
    pub provider: ProviderName,
    /// What the provider calls it.
    pub model: ModelName,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that failed for good, by reason.
    pub failed: BTreeMap<ModelFailureKind, u64>,
    /// Attempts that failed and were made again, by reason.
    pub retried: BTreeMap<ModelFailureKind, u64>,
    /// Tokens of the answered calls.
    pub usage: Usage,
    /// Of the input, how much the provider had in its cache; absent without input.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cached_percent: Option<u64>,
    /// What all calls cost.
    pub cost_micro_usd: MicroUsd,
    /// Times to first token, milliseconds; absent where none was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_token_ms: Option<Spread>,
    /// Tokens a second of the output; absent where none was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokens_per_second: Option<Spread>,
    /// Times for which calls waited for their turn or for another attempt, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waited_ms: Option<Spread>,
}

/// Values in short, to within their bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of them are at most this.
    pub median: u64,
    /// 95 in 100 are at most this.
    pub p95: u64,
    /// How many there are.
    pub count: u64,
}

impl Spread {
    fn of(values: &Histogram) -> Option<Self> {
        Some(Self { median: values.quantile(50)?, p95: values.quantile(95)?, count: values.count() })
    }
}

impl CallReport {
    /// What is shown of figures.
    #[must_use]
    pub fn of(figures: CallFigures) -> Self {
        let Usage { input_tokens, cached_input_tokens, .. } = figures.usage;
        Self {
            cached_percent: cached_input_tokens.0.saturating_mul(100).checked_div(input_tokens.0),
            first_token_ms: Spread::of(&figures.first_token_ms),
            tokens_per_second: Spread::of(&figures.tokens_per_second),
            waited_ms: Spread::of(&figures.waited_ms),
            provider: figures.provider,
            model: figures.model,
            answered: figures.answered,
            failed: figures.failed,
            retried: figures.retried,
            usage: figures.usage,
            cost_micro_usd: figures.cost,
        }
    }
}

/// An alias and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasView {
    /// The name.
    pub alias: ModelName,
    /// Models, in the order in which they were written down.
    pub meanings: Vec<ModelName>,
    /// The one that is asked now.
    pub now: ModelName,
}

/// `runtime.status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// Package version.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// Providers, for an administrator; none while they cannot be asked.
    pub providers: Vec<ProviderState>,
    /// Why they cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub providers_problem: Option<String>,
    /// What is demanded of confinement.
    pub confinement_policy: ConfinementPolicy,
    /// How the daemon's own process is locked, for an administrator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub daemon_confinement: Option<ConfinementReceipt>,
    /// Preferred boundaries that the last worker lacked.
    pub confinement_degraded: Vec<Boundary>,
    /// Agents alive that the caller may see.
    pub agents: usize,
    /// Goals running that the caller may see.
    pub goals_running: usize,
    /// Goals waiting for their turn that the caller may see.
    pub goals_queued: usize,
    /// Inferences waiting or running, for an administrator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inference_queue: Option<usize>,
    /// What was observed of the calls of each model since the daemon started, for an administrator.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub calls: Vec<CallReport>,
    /// What became of spans of model calls, where they are sent, for an administrator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spans: Option<SpanFigures>,
    /// Workers that wait for an agent to need them, for an administrator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parked_workers: Option<usize>,
    /// Last durable journal entry, for an administrator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub journal_head: Option<Seq>,
    /// Effects that an earlier daemon began and nobody knows the end of, as found at this start.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unknown_effects: Vec<UnknownEffect>,
    /// Limits in force.
    pub limits: crate::config::KernelLimits,
}

/// An effect that was begun before a restart, may not be repeated, and has no recorded outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownEffect {
    /// Its call.
    pub call: CallId,
    /// Who acted.
    pub agent_id: Option<AgentId>,
    /// For which goal.
    pub goal_id: Option<GoalId>,
    /// Name of the tool.
    pub tool: ToolName,
    /// When it began.
    pub since: Timestamp,
    /// uid of the principal whose agent it was.
    #[serde(skip)]
    pub owner: u32,
}
