//! What entries say besides the event itself: states, outcomes, and what is needed to go on after a restart.
//!
//! Invariant: a value here means the same for ever; a new meaning gets a new name.

use serde::{Deserialize, Serialize};

use super::Event;
use crate::id::{AgentId, GoalId, Seq};
use crate::model::{ModelFailure, ModelFailureKind};
use crate::path::AbsPath;
use crate::quantity::{Bytes, Quantity, Timestamp, Tokens};

/// Where a goal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalState {
    /// Accepted, waiting for its turn.
    Queued,
    /// Its bootstrap agent runs.
    Running,
    /// It waits for a provider or a person.
    Waiting,
    /// Its agent completed and every declared output was observed.
    Done,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// The daemon stopped while it ran.
    Interrupted,
}

impl GoalState {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled | Self::Interrupted)
    }
}

/// A step of a goal that another one goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ForkPoint {
    /// The goal.
    pub goal: GoalId,
    /// Its root agent.
    pub root: AgentId,
    /// The last of its entries that is taken over.
    pub at: Seq,
}

/// A declared output as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OutputObserved {
    /// The declared path.
    pub path: AbsPath,
    /// Whether it is a regular file, reached without links, created or changed since the goal started.
    pub observed: bool,
    /// Size, when observed.
    pub size_bytes: Option<Bytes>,
    /// BLAKE3 of the content, hexadecimal, when observed.
    pub content_hash: Option<String>,
    /// Why it does not count, when it does not.
    pub problem: Option<String>,
}

/// How an effect ended (DESIGN §10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It failed.
    Failed,
    /// It was denied; nothing was touched.
    Denied,
    /// Nobody can tell.
    Unknown,
}

/// Why an agent stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentEnd {
    /// Its run ended.
    Finished,
    /// `agent.stop`, or its goal or parent ended.
    Stopped,
    /// The daemon restarted; an on-demand agent does not survive that.
    Interrupted,
    /// It failed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What stood in the way of an effect that was denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeniedBy {
    /// What the agent holds.
    #[default]
    Grants,
    /// A limit of the runtime: later the same may pass.
    Limit,
}

/// How it came that an effect was not approved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotApproved {
    /// A person said so.
    #[default]
    Answered,
    /// Nobody approved it in time.
    Late,
    /// A grant that it would use was revoked.
    Revoked,
    /// What asked was stopped.
    Stopped,
    /// It had been approved, and the approval was withdrawn.
    Withdrawn,
}

/// What stood at a declared output before the goal began.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OutputBefore {
    /// The declared path.
    pub path: AbsPath,
    /// What was seen there.
    pub seen: Seen,
}

/// What is to be seen at a declared output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// A file that would count.
    File {
        /// Its size.
        size_bytes: Bytes,
        /// BLAKE3 of its content, hexadecimal.
        content_hash: String,
        /// When its content last changed.
        modified: Timestamp,
    },
    /// Nothing is there.
    Absent {
        /// In words.
        why: String,
    },
    /// Something that does not count, or nobody can tell.
    Unusable {
        /// In words.
        why: String,
    },
}

/// How a run's conversation began: what it keeps of earlier runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kept {
    /// Earlier runs that are still part of the conversation.
    pub runs: u32,
    /// The learned ratio of weighed bytes to tokens: so many bytes ...
    pub bytes: Bytes,
    /// ... in so many tokens.
    pub tokens: Tokens,
    /// Calls that the agent's model had asked for in all runs before: the next is given the number after it.
    #[serde(default)]
    pub calls: u64,
    /// Replies of the agent's model in all runs before.
    #[serde(default)]
    pub turns: u64,
    /// The request whose tokens were reported last.
    #[serde(default)]
    pub reported: Option<Reported>,
    /// Which of its models the agent asks in this run: 0 for the first.
    #[serde(default, skip_serializing_if = "is_first")]
    pub rung: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_first(rung: &u32) -> bool {
    *rung == 0
}

impl Kept {
    /// Whether it keeps nothing of any earlier run: the conversation begins with this one.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.runs == 0 && self.turns == 0
    }
}

/// A request whose tokens a provider reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reported {
    /// Its size in weighed bytes: 7 to 2 tokens of a usual vocabulary.
    pub bytes: Bytes,
    /// So many tokens it took.
    pub tokens: Tokens,
}

/// What a conversation begins with once its oldest part is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Opening {
    /// What was said to the agent, word for word, oldest first.
    pub words: Vec<String>,
    /// What a model made of the rest; none where nothing could be made of it.
    pub summary: Option<String>,
    /// The last of the agent's turns that is not there any more as it was.
    pub turns: u64,
    /// The last turn that the summary is of, where it is an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_turns: Option<u64>,
    /// How other things began that were said to the agent, which nothing summarises; oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excerpts: Vec<String>,
    /// Whether the agent is told that it may read what went with `history_read`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readable: bool,
}

/// A conversation whose oldest part went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shortened {
    /// What it begins with now.
    pub opening: Opening,
    /// The first turn that went; the one after `to_turn` where only words did.
    pub from_turn: u64,
    /// The last turn that went.
    pub to_turn: u64,
    /// How many of its newest messages stayed as they were.
    pub keeps: u64,
    /// What the request took before, estimated.
    pub tokens_before: Tokens,
    /// What it takes now, estimated.
    pub tokens_after: Tokens,
}

/// Why a conversation has no summary of what went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SummaryFault {
    /// The model could not be asked.
    LlmCallFailed,
    /// It said nothing.
    EmptyResponse,
    /// There is nothing that could go.
    BoundarySelection,
    /// What it said is no summary, or longer than what it stands for.
    ReplyParseError,
}

/// Why a run ended before its mind had finished.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunCut {
    /// Why.
    pub cause: CutCause,
    /// Whether the mind waited for its model: a reply that was recorded after its last step did not reach it.
    pub asking: bool,
}

impl RunCut {
    /// Of a failed inference: its kind.
    #[must_use]
    pub fn failure(&self) -> Option<ModelFailureKind> {
        match &self.cause {
            CutCause::ModelFailed(failure) => Some(failure.kind),
            CutCause::BudgetExceeded { .. } | CutCause::Cancelled => None,
        }
    }
}

/// What cut a run short.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutCause {
    /// The model could not be asked.
    ModelFailed(ModelFailure),
    /// The purse did not cover the next step.
    BudgetExceeded {
        /// Of what.
        quantity: Quantity,
        /// What was left.
        remaining: u64,
    },
    /// The agent was stopped.
    Cancelled,
}

/// Which goal a client's deduplication key stands for, after its entries were archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptKey {
    /// uid of the principal that submitted it.
    pub principal: u32,
    /// The key.
    pub key: String,
    /// The goal.
    pub goal: GoalId,
    /// When it ended.
    pub ended: Timestamp,
}

impl Event {
    /// Whether it says that something which an agent wanted was denied to it: by what it holds, or by people. A limit
    /// of the runtime, an end and a withdrawal deny nothing.
    #[must_use]
    pub const fn is_denial(&self) -> bool {
        match self {
            Self::CapabilityDenied { by, .. } => matches!(by, DeniedBy::Grants),
            Self::HumanApprovalDenied { because, .. } => {
                matches!(because, NotApproved::Answered | NotApproved::Late | NotApproved::Revoked)
            }
            _ => false,
        }
    }
}
