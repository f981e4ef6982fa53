//! Why a far process could not be launched, proved confined, or talked to.
//!
//! Invariant: whatever a far process printed is made harmless before it stands in an error.

use std::io;

use aaos_core::confinement::Boundary;
use aaos_core::quantity::Millis;
use aaos_core::wire::{FrameError, LocalProblem};

/// Errors of this crate's launching half.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The zygote could not be started.
    #[error("the launcher of confined processes could not be started ({step}); see `agentd doctor`")]
    ZygoteStart {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The zygote has died; agentd must end and recover.
    #[error("the launcher of confined processes has died; agentd must restart")]
    ZygoteGone,
    /// The zygote could not make the process.
    #[error("a confined process could not be made ({step})")]
    Launch {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A required boundary does not stand or is not proved; the process was ended.
    #[error(
        "required boundary {boundary:?} cannot be proved: {why}; see `agentd doctor`, or change the policy"
    )]
    ConfinementUnavailable {
        /// Which boundary.
        boundary: Boundary,
        /// What was seen.
        why: String,
    },
    /// It ended before it was locked.
    #[error("a far process ended during its lock-down ({reason}): {stderr_tail}")]
    DiedAtStart {
        /// How it ended.
        reason: String,
        /// The end of what it printed.
        stderr_tail: String,
    },
    /// The process of a local model ended before it had taken its weights in.
    #[error("the process of the local model ended while it took its weights in ({reason}): {stderr_tail}")]
    DiedLoading {
        /// How it ended.
        reason: String,
        /// The end of what it printed.
        stderr_tail: String,
    },
    /// The weights are not used.
    #[error("these weights cannot be used: {0}")]
    Weights(LocalProblem),
    /// It did not do something in its time.
    #[error("a far process did not {what} within {limit}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Millis,
    },
    /// It sent something else than what was due.
    #[error("a far process broke the protocol: {what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
    /// The daemon could not lock itself down.
    #[error("the daemon cannot lock itself down")]
    OwnLock(#[from] aaos_confine::LockError),
    /// The far side hung up.
    #[error("the far process closed its channel")]
    Closed,
    /// The bytes are no frame.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// A socket or pipe failed.
    #[error("a far process's socket failed")]
    Socket(#[source] io::Error),
}
