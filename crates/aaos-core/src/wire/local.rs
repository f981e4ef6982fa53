//! Frames between agentd and the process of a local model.
//!
//! The process says [`LocalReply::Locked`], is sent one [`LocalSetup`] with the descriptor of the weights riding on it,
//! answers [`LocalReply::Ready`] or [`LocalReply::Unusable`], and serves [`super::ModelsRequest`] from then on.
//!
//! Invariant: the weights are a stranger's. What the process says of them is text of a stranger, too: agentd shows it
//! made harmless and decides nothing by it.

use serde::{Deserialize, Serialize};

use crate::confinement::LockedReport;
use crate::quantity::{Bytes, Tokens};

/// What the process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalTask {
    /// Read the head of the file, say what it is, and end.
    Check,
    /// Load it and answer requests.
    Serve,
}

/// The first frame from agentd. The descriptor of the weights rides on it, open for reading, at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSetup {
    /// What to do.
    pub task: LocalTask,
    /// Size of the file when it was opened: what lies beyond is not read.
    pub file_bytes: Bytes,
    /// Longest conversation that is to fit; a shorter one that the model was made for wins.
    pub window: Tokens,
    /// Threads that compute; at least 1.
    pub threads: u32,
}

/// What the weights are, as far as their head says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFacts {
    /// Family of the model, for example `qwen2`.
    pub architecture: String,
    /// What its maker calls it.
    pub name: Option<String>,
    /// Parameters, as the shapes of the tensors add up.
    pub parameters: u64,
    /// Tokens of one conversation: the shorter of what the model was made for and what was asked for.
    pub window: Tokens,
}

/// Why weights are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalProblemKind {
    /// The file is not what it says it is.
    Malformed,
    /// It is, and this version cannot use it.
    Unsupported,
    /// It could not be read.
    Unreadable,
}

/// Why weights are not used, in words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct LocalProblem {
    /// What kind.
    pub kind: LocalProblemKind,
    /// What is wrong and what would do, for a person.
    pub message: String,
}

/// From the process to agentd, until it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalReply {
    /// The lock-down is complete. Always first.
    Locked(LockedReport),
    /// The task is done, or requests are served from here on.
    Ready(LocalFacts),
    /// Nothing will be served; the process ends.
    Unusable(LocalProblem),
}
