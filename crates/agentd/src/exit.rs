//! Which error leads to which exit code (SPEC §6).
//!
//! Invariant: no error leads to 0.

use aaos_ipc::{ErrorCode, RpcError};
use aaos_sandbox::SandboxError;

pub(crate) use aaos_core::exit::Exit;

/// The exit that an error of the daemon leads to.
fn of_code(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::InvalidParams => Exit::Usage,
        ErrorCode::CapabilityDenied | ErrorCode::ApprovalDenied => Exit::Denied,
        ErrorCode::BudgetExceeded => Exit::Budget,
        ErrorCode::Provider => Exit::Provider,
        ErrorCode::SandboxUnavailable => Exit::Confinement,
        ErrorCode::Parse | ErrorCode::InvalidRequest | ErrorCode::MethodNotFound | ErrorCode::Internal => {
            Exit::Internal
        }
        ErrorCode::NotFound | ErrorCode::LimitReached | ErrorCode::ShuttingDown | ErrorCode::ToolFailed => {
            Exit::Failed
        }
    }
}

/// The exit that an error leads to: the first cause that says so decides.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    // Also where it was added as context, which is no cause of its own in the chain.
    if error.is::<UsageError>() {
        return Exit::Usage;
    }
    for cause in error.chain() {
        if cause.is::<SandboxError>() {
            return Exit::Confinement;
        }
        if let Some(rpc) = cause.downcast_ref::<RpcError>() {
            return of_code(rpc.code);
        }
    }
    Exit::Failed
}

/// What was typed cannot be used. Says what, why, and what to type instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::{Exit, UsageError, of_error};
    use aaos_ipc::{ErrorCode, RpcError};
    use aaos_sandbox::SandboxError;
    use anyhow::{Context, anyhow};

    #[test]
    fn every_error_of_the_daemon_has_an_exit_and_none_is_success() {
        for code in ErrorCode::ALL {
            let error = anyhow::Error::from(RpcError::new(code, "why")).context("while asking");
            assert_ne!(of_error(&error), Exit::Done, "{code:?}");
        }
        let exit = |code| of_error(&RpcError::new(code, "why").into());
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
        assert_eq!(of_error(&added), Exit::Usage);
        let usage: anyhow::Result<()> = Err(UsageError("no".into()).into());
        assert_eq!(of_error(&usage.context("reading flags").expect_err("it is one")), Exit::Usage);
        let sandbox = anyhow::Error::from(SandboxError::ZygoteGone).context("starting");
        assert_eq!(of_error(&sandbox), Exit::Confinement);
        assert_eq!(of_error(&anyhow!("anything")), Exit::Failed);
    }
}
