//! What can go wrong for a caller of the kernel, with its code of SPEC §3.
//!
//! Invariant: an id that belongs to another principal answers exactly as an unknown one.

use aaos_core::authority::Refusal;
use aaos_core::budget::Shortfall;
use aaos_core::manifest::ManifestError;
use aaos_core::model::{ModelFailure, ModelFailureKind};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_ipc::ErrorCode;
use aaos_journal::JournalError;

use crate::fork::ForkRefused;

/// A request that the kernel did not fulfil.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No such agent, goal, trace or tool, for this principal.
    #[error("{kind} {id} is not known; list what there is and check the id")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// As asked.
        id: String,
    },
    /// The manifest is not usable.
    #[error("the manifest is not usable: {0}")]
    Manifest(#[from] ManifestError),
    /// A parameter is not usable.
    #[error("{0}")]
    Invalid(String),
    /// The request does not fit the agent's state.
    #[error("{0}")]
    State(String),
    /// A goal cannot be forked there.
    #[error(transparent)]
    Fork(#[from] ForkRefused),
    /// A capability is missing.
    #[error("{0}")]
    Denied(String),
    /// The purse does not cover it.
    #[error("{message}")]
    Budget {
        /// In words.
        message: String,
        /// What is lacking, where an effect was refused.
        lacks: Option<Shortfall>,
    },
    /// A limit of the runtime.
    #[error("{0}")]
    Limit(String),
    /// A person did not approve it, or nobody answered in time.
    #[error("{0}")]
    Approval(String),
    /// The provider failed.
    #[error(transparent)]
    Provider(#[from] ModelFailure),
    /// A tool failed.
    #[error(transparent)]
    Tool(ToolFailure),
    /// Nothing can be confined as the policy requires.
    #[error("no confined process can be started: {0}; `agentd doctor` shows what this machine can enforce")]
    Sandbox(String),
    /// The journal failed; nothing is acknowledged any more.
    #[error(
        "the journal cannot be written: {0}; free the disk or repair the state directory and restart agentd"
    )]
    Journal(#[source] JournalError),
    /// What was asked for lies in an archive.
    #[error(transparent)]
    Archived(JournalError),
    /// The machine failed: a full disk, a directory that cannot be made.
    #[error("{0}")]
    System(String),
    /// The daemon is closing.
    #[error("agentd is shutting down; try again after its restart")]
    ShuttingDown,
}

impl KernelError {
    /// The code of SPEC §3.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } | Self::Archived(_) => ErrorCode::NotFound,
            Self::Manifest(_) | Self::Invalid(_) | Self::State(_) | Self::Fork(_) => ErrorCode::InvalidParams,
            Self::Denied(_) => ErrorCode::CapabilityDenied,
            Self::Budget { .. } => ErrorCode::BudgetExceeded,
            Self::Limit(_) => ErrorCode::LimitReached,
            Self::Approval(_) => ErrorCode::ApprovalDenied,
            Self::Provider(failure) if failure.kind == ModelFailureKind::UnknownModel => {
                ErrorCode::InvalidParams
            }
            Self::Provider(_) => ErrorCode::Provider,
            Self::Tool(failure) => tool_code(failure.kind),
            Self::Sandbox(_) => ErrorCode::SandboxUnavailable,
            Self::Journal(_) | Self::System(_) => ErrorCode::Internal,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
        }
    }

    /// One word for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Manifest(_) => "manifest",
            Self::Invalid(_) => "invalid",
            Self::State(_) => "state",
            Self::Fork(refused) => refused.reason(),
            Self::Denied(_) => "denied",
            Self::Budget { .. } => "budget_exceeded",
            Self::Limit(_) => "limit_reached",
            Self::Approval(_) => "approval_denied",
            Self::Provider(_) => "provider",
            Self::Tool(_) => "tool",
            Self::Sandbox(_) => "confinement_unavailable",
            Self::Journal(_) => "journal",
            Self::Archived(_) => "archived",
            Self::System(_) => "system",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// The failure as a tool reports it to a model.
    pub(crate) fn into_tool_failure(self) -> ToolFailure {
        let kind = match &self {
            Self::Tool(failure) => return failure.clone(),
            Self::Budget { message, lacks: Some(lacks) } => return ToolFailure::budget(*lacks, message),
            Self::NotFound { .. } | Self::Archived(_) => ToolFailureKind::NotFound,
            Self::Manifest(_) | Self::Invalid(_) | Self::State(_) | Self::Fork(_) => {
                ToolFailureKind::InvalidArguments
            }
            Self::Denied(_) => ToolFailureKind::Denied,
            Self::Budget { .. } => ToolFailureKind::BudgetExceeded,
            Self::Limit(_) => ToolFailureKind::LimitReached,
            Self::Approval(_) => ToolFailureKind::ApprovalDenied,
            Self::Provider(failure) if failure.kind == ModelFailureKind::UnknownModel => {
                ToolFailureKind::InvalidArguments
            }
            Self::Provider(_) => ToolFailureKind::ChildFailed,
            Self::Sandbox(_) => ToolFailureKind::ConfinementUnavailable,
            Self::Journal(_) | Self::System(_) => ToolFailureKind::Io,
            Self::ShuttingDown => ToolFailureKind::Cancelled,
        };
        ToolFailure::new(kind, self.to_string())
    }

    pub(crate) fn unknown(kind: &'static str, id: &impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }
}

impl From<JournalError> for KernelError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Archived { .. } => Self::Archived(error),
            other => Self::Journal(other),
        }
    }
}

impl From<Refusal> for KernelError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(denied) => Self::Denied(format!("{denied}; {}", denied.hint)),
            Refusal::Budget { quantity, wanted, remaining } => {
                let lacks = Some(Shortfall { quantity, wanted, remaining });
                Self::Budget { message: refusal.to_string(), lacks }
            }
            Refusal::Waits { .. } => Self::Budget { message: refusal.to_string(), lacks: None },
            Refusal::Limit(_) => Self::Limit(refusal.to_string()),
            Refusal::Approval(_) => Self::Approval(refusal.to_string()),
            Refusal::UnknownAgent(agent) => Self::unknown("agent", &agent),
        }
    }
}

impl From<ToolFailure> for KernelError {
    fn from(failure: ToolFailure) -> Self {
        Self::Tool(failure)
    }
}

fn tool_code(kind: ToolFailureKind) -> ErrorCode {
    match kind {
        ToolFailureKind::InvalidArguments => ErrorCode::InvalidParams,
        ToolFailureKind::UnknownTool | ToolFailureKind::NotFound => ErrorCode::NotFound,
        ToolFailureKind::Denied | ToolFailureKind::OutsideRoot | ToolFailureKind::Revoked => {
            ErrorCode::CapabilityDenied
        }
        ToolFailureKind::ApprovalDenied => ErrorCode::ApprovalDenied,
        ToolFailureKind::BudgetExceeded => ErrorCode::BudgetExceeded,
        ToolFailureKind::ConfinementUnavailable => ErrorCode::SandboxUnavailable,
        ToolFailureKind::LimitReached
        | ToolFailureKind::TooLarge
        | ToolFailureKind::Timeout
        | ToolFailureKind::OutOfMemory => ErrorCode::LimitReached,
        ToolFailureKind::WrongKind
        | ToolFailureKind::NotUtf8
        | ToolFailureKind::NoUniqueMatch
        | ToolFailureKind::Io
        | ToolFailureKind::Network
        | ToolFailureKind::Cancelled
        | ToolFailureKind::WorkerLost
        | ToolFailureKind::ChildFailed => ErrorCode::ToolFailed,
    }
}
