//! Exit codes of the command line (SPEC §6), and which error leads to which.
//!
//! Invariant: 0 means that what was asked for was done, and nothing else does.

use std::process::ExitCode;

use aaos_ipc::{ErrorCode, RpcError};
use aaos_sandbox::SandboxError;

/// How agentd ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The goal or the request failed.
    Failed = 1,
    /// Wrong flags, arguments or settings.
    Usage = 2,
    /// A capability was missing.
    Denied = 3,
    /// The budget is used up.
    Budget = 4,
    /// The model provider failed.
    Provider = 5,
    /// Confinement that is required cannot be had.
    Confinement = 6,
    /// agentd itself is at fault (`EX_SOFTWARE` of sysexits.h).
    Internal = 70,
    /// Cancelled by the operator (128 + SIGINT).
    Cancelled = 130,
}

impl Exit {
    /// Every code.
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Denied,
        Self::Budget,
        Self::Provider,
        Self::Confinement,
        Self::Internal,
        Self::Cancelled,
    ];

    /// The exit that a goal's recorded code stands for; a number that is none means failed.
    pub(crate) fn of_goal(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }

    /// The exit that an error of the daemon leads to.
    fn of_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidParams => Self::Usage,
            ErrorCode::CapabilityDenied | ErrorCode::ApprovalDenied => Self::Denied,
            ErrorCode::BudgetExceeded => Self::Budget,
            ErrorCode::Provider => Self::Provider,
            ErrorCode::SandboxUnavailable => Self::Confinement,
            ErrorCode::Parse
            | ErrorCode::InvalidRequest
            | ErrorCode::MethodNotFound
            | ErrorCode::Internal => Self::Internal,
            ErrorCode::NotFound
            | ErrorCode::LimitReached
            | ErrorCode::ShuttingDown
            | ErrorCode::ToolFailed => Self::Failed,
        }
    }

    /// The exit that an error leads to: the first cause that says so decides.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        // Also where it was added as context, which is no cause of its own in the chain.
        if error.is::<UsageError>() {
            return Self::Usage;
        }
        for cause in error.chain() {
            if cause.is::<SandboxError>() {
                return Self::Confinement;
            }
            if let Some(rpc) = cause.downcast_ref::<RpcError>() {
                return Self::of_code(rpc.code);
            }
        }
        Self::Failed
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What was typed cannot be used. Says what, why, and what to type instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::{Exit, UsageError};
    use aaos_ipc::{ErrorCode, RpcError};
    use aaos_sandbox::SandboxError;
    use anyhow::{Context, anyhow};

    #[test]
    fn codes_are_those_of_the_specification() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(|exit| exit as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 70, 130]);
        for exit in Exit::ALL {
            assert_eq!(Exit::of_goal(exit as u8), exit);
        }
        assert_eq!(Exit::of_goal(99), Exit::Failed, "an unknown code is no success");
    }

    #[test]
    fn every_error_of_the_daemon_has_an_exit_and_none_is_success() {
        for code in ErrorCode::ALL {
            let error = anyhow::Error::from(RpcError::new(code, "why")).context("while asking");
            assert_ne!(Exit::of_error(&error), Exit::Done, "{code:?}");
        }
        let exit = |code| Exit::of_error(&RpcError::new(code, "why").into());
        assert_eq!(exit(ErrorCode::CapabilityDenied), Exit::Denied);
        assert_eq!(exit(ErrorCode::BudgetExceeded), Exit::Budget);
        assert_eq!(exit(ErrorCode::Provider), Exit::Provider);
        assert_eq!(exit(ErrorCode::SandboxUnavailable), Exit::Confinement);
        assert_eq!(exit(ErrorCode::InvalidParams), Exit::Usage);
        assert_eq!(exit(ErrorCode::NotFound), Exit::Failed);
        assert_eq!(exit(ErrorCode::Internal), Exit::Internal);
    }

    #[test]
    fn the_cause_decides_and_the_rest_is_a_failure() {
        let added = anyhow!("a line").context(UsageError("the file".into())).context("while starting");
        assert_eq!(Exit::of_error(&added), Exit::Usage);
        let usage: anyhow::Result<()> = Err(UsageError("no".into()).into());
        assert_eq!(Exit::of_error(&usage.context("reading flags").expect_err("it is one")), Exit::Usage);
        let sandbox = anyhow::Error::from(SandboxError::ZygoteGone).context("starting");
        assert_eq!(Exit::of_error(&sandbox), Exit::Confinement);
        assert_eq!(Exit::of_error(&anyhow!("anything")), Exit::Failed);
    }
}
