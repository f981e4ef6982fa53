//! What the journal says is the case: a pure fold over its entries.
//!
//! Invariants: applying an entry never fails and never panics, whatever prefix of whatever journal it belongs to; the
//! same entries give the same state. Charges count when their intent is recorded and are not given back by a
//! missing outcome, so that a restart never grants a use or a token twice.

mod bodies;
mod fold;

pub use bodies::needs_body;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::approval::{ApprovalGrant, Question};
use crate::budget::{Budget, Purse};
use crate::capability::GrantSpec;
use crate::effect::{Access, Charge, Denied, EffectClass};
use crate::event::{AgentEnd, ForkPoint, GoalState, KeptKey, OutputBefore, OutputObserved};
use crate::grant::GrantRecord;
use crate::id::{AgentId, ApprovalId, CallId, EntryId, GoalId, GrantId, Seq, TraceId};
use crate::limits::{CLIENT_KEY_KEPT_MS, KEPT_ENDED};
use crate::manifest::Manifest;
use crate::model::{ModelCallId, ModelFailureKind, Usage};
use crate::name::{AgentName, ModelName, ToolName};
use crate::path::AbsPath;
use crate::quantity::{Amounts, Bytes, MicroUsd, Millis, Timestamp};
use crate::supervision::Watch;
use crate::toolio::{SpawnAgentOutput, StopReason, ToolFailure};

/// A goal as far as the journal tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoalRecord {
    /// Its id.
    pub id: GoalId,
    /// What is asked for.
    pub goal: String,
    /// Declared outputs.
    pub outputs: Vec<AbsPath>,
    /// The client's deduplication key.
    pub client_key: Option<String>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its deadline.
    pub deadline: Timestamp,
    /// Purse of the whole goal.
    pub budget: Budget,
    /// uid of the principal.
    pub principal: u32,
    /// Higher goes first.
    pub priority: i64,
    /// The operator's root grant.
    pub grants: Vec<GrantSpec>,
    /// Its root agent, when not the shipped one.
    pub manifest: Option<Box<Manifest>>,
    /// Tools of which each use waits for a person, beside those of the root agent's manifest.
    pub approval_required: Vec<ToolName>,
    /// Against which relative paths of the goal are meant.
    pub working_directory: Option<AbsPath>,
    /// What it took over from another goal, if it is a fork.
    pub fork: Option<ForkRecord>,
    /// Where it stands: `Queued`, `Running`, or how it ended.
    pub state: GoalState,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// Its root agent, once started.
    pub root_agent: Option<AgentId>,
    /// Its workspace, once started.
    pub workspace: Option<AbsPath>,
    /// What stood at its declared outputs before it was started.
    pub before: Vec<OutputBefore>,
    /// What its inferences cost, as far as their models have prices.
    pub cost: MicroUsd,
    /// Tokens of its whole tree so far, as providers reported them.
    pub usage: Usage,
    /// Whether something was denied to one of its agents.
    pub was_denied: bool,
    /// Children that failed in the end and that no later child of the same name made up for.
    pub failed_children: FailedChildren,
    /// How it ended, once it has.
    pub end: Option<GoalEnd>,
}

/// What a goal took over from another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkRecord {
    /// The steps that its root agent's conversation comes from, oldest first; the last is that of the goal that was
    /// forked.
    pub points: Vec<ForkPoint>,
    /// What had stood at those declared outputs that were written by then, before they were.
    pub before: Vec<OutputBefore>,
}

/// The children of a goal that failed in the end, with their reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailedChildren(BTreeMap<Option<AgentName>, String>);

impl FailedChildren {
    /// Notes how a child ended for good. A later child of the same name that succeeds makes up for one that failed; one
    /// whose manifest could not be read has no name, and any success makes up for that.
    pub fn note(&mut self, name: Option<&AgentName>, outcome: &Result<SpawnAgentOutput, ToolFailure>) {
        let failure = match outcome {
            Ok(output) => output.error.as_ref(),
            Err(failure) => Some(&failure.message),
        };
        match failure {
            None => self.0.retain(|failed, _| failed.is_some() && failed.as_ref() != name),
            Some(reason) => drop(self.0.insert(name.cloned(), reason.clone())),
        }
    }

    /// One of them, if there is any.
    #[must_use]
    pub fn first(&self) -> Option<(Option<&AgentName>, &str)> {
        self.0.first_key_value().map(|(name, reason)| (name.as_ref(), reason.as_str()))
    }
}

/// How a goal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoalEnd {
    /// When.
    pub at: Timestamp,
    /// The answer.
    pub response: String,
    /// Declared outputs as found.
    pub outputs: Vec<OutputObserved>,
    /// Tokens of the whole tree.
    pub usage: Usage,
    /// Why it failed.
    pub error: Option<String>,
    /// Exit code of `run` and `submit` for it.
    pub exit_code: u8,
}

/// A run in progress, or the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// The delivered message that it answers.
    pub trace: Option<TraceId>,
    /// How it ended; absent while it runs.
    pub end: Option<ReplyRecord>,
    /// Since when its time is not counted in its agent's purse yet; nothing while the daemon is down and afterwards.
    pub clock: Option<Timestamp>,
    /// What it used so far, as providers reported it.
    pub usage: Usage,
    /// Whether the supervision has decided what follows its failure, where it failed.
    pub supervised: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyRecord {
    /// Which agent.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// Final text.
    pub response: String,
    /// Tokens used.
    pub usage: Usage,
    /// Turns.
    pub iterations: u32,
    /// Why it stopped.
    pub stop_reason: StopReason,
    /// What went wrong.
    pub error: Option<String>,
    /// Of a failed inference: its kind.
    pub failure: Option<ModelFailureKind>,
    /// Whether no run gave it: the message was never answered, and `error` says why.
    pub is_missing: bool,
}

impl ReplyRecord {
    /// What is told of a message that no run answered.
    #[must_use]
    pub fn missing(agent: AgentId, at: Timestamp, why: String) -> Self {
        Self {
            agent,
            at,
            response: String::new(),
            usage: Usage::default(),
            iterations: 0,
            stop_reason: StopReason::Error,
            error: Some(why),
            failure: None,
            is_missing: true,
        }
    }
}

/// A message that was delivered to a persistent agent and not yet answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailRecord {
    /// Which delivery.
    pub trace: Option<TraceId>,
    /// When it was delivered.
    pub at: Timestamp,
    /// The text.
    pub message: String,
    /// Whether the agent took it up; if it is still here after a restart its run was cut short.
    pub taken: bool,
}

/// Whether an agent lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentLife {
    /// It was admitted and has not stopped.
    Alive,
    /// It stopped.
    Stopped {
        /// Why.
        end: AgentEnd,
        /// When.
        at: Timestamp,
    },
}

/// An agent as far as the journal tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: AgentName,
    /// Its goal.
    pub goal: Option<GoalId>,
    /// Its parent.
    pub parent: Option<AgentId>,
    /// Its depth; 0 for a root agent.
    pub depth: u32,
    /// Its manifest.
    pub manifest: Manifest,
    /// When it was admitted.
    pub spawned_at: Timestamp,
    /// uid of the principal whose agent it is.
    pub principal: u32,
    /// Whether it lives.
    pub life: AgentLife,
    /// Whether it is paused.
    pub paused: bool,
    /// Its grants, in the order they were issued.
    pub grants: Vec<GrantId>,
    /// Its purse.
    pub purse: Purse,
    /// Tokens of its own inferences, as providers reported them.
    pub usage: Usage,
    /// Its run in progress, or its last one.
    pub run: Option<RunRecord>,
    /// Where the runs began that its conversation still holds, oldest first.
    pub conversation: VecDeque<Seq>,
    /// Where its conversation began, whatever went from it since; none while there is none.
    pub conversation_began: Option<Seq>,
    /// Whether a person refused something that it asked for.
    pub was_refused: bool,
    /// Messages delivered and not yet answered, oldest first.
    pub mailbox: VecDeque<MailRecord>,
    /// What its supervision and its schedule go by.
    pub watch: Watch,
}

impl AgentRecord {
    /// Whether it was admitted and has not stopped.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.life == AgentLife::Alive
    }

    /// Time that its run in progress has lasted by `now`, not yet counted in its purse.
    #[must_use]
    pub fn unclocked(&self, now: Timestamp) -> Millis {
        let since = self.run.as_ref().and_then(|run| run.clock);
        since.map_or(Millis::ZERO, |since| now.since(since))
    }

    /// The failure of its last run, where its supervision has not decided yet what follows.
    #[must_use]
    pub fn unsupervised_failure(&self) -> Option<&ReplyRecord> {
        let run =
            self.run.as_ref().filter(|run| !run.supervised && self.manifest.lifecycle.outlives_a_run())?;
        run.end.as_ref().filter(|end| end.stop_reason == StopReason::Error)
    }

    /// Its run in progress.
    #[must_use]
    pub fn open_run(&self) -> Option<&RunRecord> {
        self.run.as_ref().filter(|run| run.end.is_none())
    }
}

/// A grant and its counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantState {
    /// The grant as issued.
    pub record: GrantRecord,
    /// Charged uses, of derived grants too.
    pub uses: u32,
    /// When it was used in the minute before the last use, oldest first; kept where a rate bounds it.
    pub recent: VecDeque<Timestamp>,
    /// Whether it, by itself, was revoked. What derives from it ended with it.
    pub revoked: bool,
}

/// What kind of effect began.
#[derive(Debug, Clone, PartialEq)]
pub enum PendingKind {
    /// A tool call.
    Tool(Box<PendingTool>),
    /// An inference.
    Inference {
        /// Which model.
        model: ModelName,
    },
    /// A spawn.
    Spawn {
        /// The child's name.
        child: AgentName,
        /// The tool call that spawns.
        under: CallId,
        /// Which of that call's children it is.
        index: u32,
        /// The child, once it was admitted.
        admitted: Option<AgentId>,
    },
    /// A program's connection.
    Connection {
        /// The tool call whose program connects.
        under: CallId,
    },
}

/// A tool call that began, with all that is needed to make it again.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingTool {
    /// Which tool.
    pub tool: ToolName,
    /// Its arguments.
    pub input: serde_json::Value,
    /// Grants used.
    pub access: Vec<Access>,
    /// Items of a batch that were denied, in their order.
    pub denied: Vec<Denied>,
    /// Which call of the agent's model it is.
    pub model_call: Option<ModelCallId>,
    /// Size of the file that an append goes on from.
    pub at: Option<Bytes>,
    /// How often the agent made this very call since its run began, this time included.
    pub repeats: u32,
    /// The children that it spawned so far, by their index.
    pub children: BTreeMap<u32, SpawnedChild>,
    /// The delivery of the message that it sent, once that was recorded.
    pub delivered: Option<TraceId>,
}

/// One child of a spawning call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpawnedChild {
    /// The agents that were admitted for it, one an attempt.
    pub agents: Vec<AgentId>,
    /// What the parent is to be told, once it ended for good.
    pub outcome: Option<Result<SpawnAgentOutput, ToolFailure>>,
}

/// An effect that began and has no recorded outcome. After a restart its class says what may be done (DESIGN §7).
#[derive(Debug, Clone, PartialEq)]
pub struct PendingCall {
    /// Its id.
    pub call: CallId,
    /// Who acts.
    pub agent: Option<AgentId>,
    /// For which goal.
    pub goal: Option<GoalId>,
    /// For which delivered message.
    pub trace: Option<TraceId>,
    /// The entry that says it began.
    pub intent: EntryId,
    /// When it began.
    pub since: Timestamp,
    /// What it is.
    pub kind: PendingKind,
    /// What may be done about it.
    pub class: EffectClass,
    /// What it was charged.
    pub charges: Vec<Charge>,
    /// What of that counts as used already: all of it, once a restart went by.
    pub paid: Amounts,
}

impl PendingCall {
    /// The approvals that it uses.
    pub fn approvals(&self) -> impl Iterator<Item = ApprovalId> {
        self.charges.iter().filter_map(|charge| match charge {
            Charge::Approval { approval } => Some(*approval),
            Charge::Use { .. } | Charge::Purse { .. } => None,
        })
    }
}

/// A question that nobody has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingApproval {
    /// The question.
    pub question: Question,
    /// For which goal.
    pub goal: Option<GoalId>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// When it counts as denied.
    pub deadline: Timestamp,
}

/// A question that was answered with no, of a run that was not told yet as far as the journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedQuestion {
    /// What was asked.
    pub asked: PendingApproval,
    /// Why it was not approved.
    pub reason: String,
}

/// All that the journal says is the case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The last entry applied; 0 before the first.
    pub seq: Seq,
    /// The latest time any entry bears.
    pub latest: Timestamp,
    /// Agents alive, and the latest stopped ones (bounded by `KEPT_ENDED`).
    pub agents: BTreeMap<AgentId, AgentRecord>,
    /// Goals not ended, and the latest ended ones (bounded by `KEPT_ENDED`).
    pub goals: BTreeMap<GoalId, GoalRecord>,
    /// Grants of the agents above.
    pub grants: BTreeMap<GrantId, GrantState>,
    /// Effects begun without outcome.
    pub pending: BTreeMap<CallId, PendingCall>,
    /// Questions that nobody has answered.
    pub questions: BTreeMap<ApprovalId, PendingApproval>,
    /// Questions that were answered with no and whose calls were not told (bounded by `MAX_PENDING_APPROVALS`).
    pub refused: BTreeMap<ApprovalId, RefusedQuestion>,
    /// Approvals in force, with the uses that are left; one without any as long as its last call is open.
    pub approved: BTreeMap<ApprovalId, ApprovalGrant>,
    /// The latest calls that a revocation ended (bounded by `KEPT_TRACES`): their results are given to nobody.
    pub cut: BTreeSet<CallId>,
    /// Until when the providers of these models asked to be left alone.
    pub quiet: BTreeMap<ModelName, Timestamp>,
    /// The latest answers to delivered messages (bounded by `KEPT_TRACES`).
    pub replies: BTreeMap<TraceId, ReplyRecord>,
    /// Client keys of goals whose entries may be archived.
    pub kept_keys: Vec<KeptKey>,
    stopped_agents: VecDeque<AgentId>,
    ended_goals: VecDeque<GoalId>,
    reply_order: VecDeque<TraceId>,
    cut_order: VecDeque<CallId>,
}

impl State {
    /// Agents alive, of every goal.
    pub fn alive(&self) -> impl Iterator<Item = &AgentRecord> {
        self.agents.values().filter(|agent| agent.is_alive())
    }

    /// Goals that have not ended.
    pub fn open_goals(&self) -> impl Iterator<Item = &GoalRecord> {
        self.goals.values().filter(|goal| !goal.state.is_final())
    }

    /// The client keys of goals that ended not long ago (`CLIENT_KEY_KEPT_MS`), of the latest `KEPT_ENDED`, oldest first:
    /// what has to be known of them when their entries are archived.
    #[must_use]
    pub fn keys_to_keep(&self) -> Vec<KeptKey> {
        let of_goal = |goal: &GoalRecord| {
            let (key, ended) = (goal.client_key.clone()?, goal.end.as_ref()?.at);
            Some(KeptKey { principal: goal.principal, key, goal: goal.id, ended })
        };
        let mut keys: Vec<KeptKey> = self.goals.values().filter_map(of_goal).collect();
        let known: BTreeSet<GoalId> = keys.iter().map(|kept| kept.goal).collect();
        keys.extend(self.kept_keys.iter().filter(|kept| !known.contains(&kept.goal)).cloned());
        keys.retain(|kept| self.latest.since(kept.ended) < Millis(CLIENT_KEY_KEPT_MS));
        keys.sort_by_key(|kept| (kept.ended, kept.goal));
        keys.split_off(keys.len().saturating_sub(KEPT_ENDED))
    }

    /// Ids of grants that are in force: held by an agent alive, and neither revoked nor derived from a revoked one.
    #[must_use]
    pub fn grants_in_force(&self) -> BTreeSet<GrantId> {
        let alive = |id: &AgentId| self.agents.get(id).is_some_and(AgentRecord::is_alive);
        let held = self.grants.values().filter(|grant| alive(&grant.record.agent));
        held.map(|grant| grant.record.id)
            .filter(|id| self.grant_path(*id).all(|grant| !grant.revoked))
            .collect()
    }

    /// A grant and what it derives from, nearest first.
    fn grant_path(&self, id: GrantId) -> impl Iterator<Item = &GrantState> {
        let parent = |grant: &&GrantState| grant.record.parent.and_then(|id| self.grants.get(&id));
        std::iter::successors(self.grants.get(&id), parent).take(MAX_PATH)
    }
}

/// What is told of a message whose agent was stopped before it answered.
pub const STOPPED_BEFORE_REPLY: &str = "the agent was stopped before it answered the message";

/// Longest chain that is followed, so that a forged journal with a cycle ends too.
const MAX_PATH: usize = 64;
