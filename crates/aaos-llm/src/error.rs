//! Why the gateway could not be spoken to.

use aaos_core::limits::MAX_QUEUED_INFERENCES;
use aaos_core::model::{ModelFailure, ModelFailureKind};
use aaos_core::wire::FrameError;

/// Failures of the connection itself; a model's failures are [`ModelFailure`]s.
#[derive(Debug, thiserror::Error)]
pub enum LlmError {
    /// The connection to the gateway is lost, for good.
    #[error("the model gateway is gone ({reason}); aaOS must start it again")]
    Lost {
        /// How it was noticed.
        reason: String,
    },
    /// The request does not fit a frame.
    #[error("the request to the model gateway cannot be sent; shorten the conversation")]
    Unsendable(#[source] FrameError),
    /// Too many requests are under way.
    #[error("{MAX_QUEUED_INFERENCES} requests to models are under way; try again when some are done")]
    Busy,
    /// The gateway answered with something else than what was asked for.
    #[error("the model gateway answered out of turn")]
    OutOfTurn,
    /// The gateway did not answer.
    #[error("the model gateway did not answer in time")]
    Timeout,
    /// The caller asked to stop.
    #[error("the inference was stopped before it ended")]
    Stopped,
}

impl LlmError {
    /// The same as an inference's failure.
    pub(crate) fn into_failure(self) -> ModelFailure {
        let kind = match self {
            Self::Lost { .. } | Self::Busy => ModelFailureKind::Unavailable,
            Self::Unsendable(_) => ModelFailureKind::Rejected,
            Self::OutOfTurn => ModelFailureKind::MalformedReply,
            // What was stopped half-way may have been billed, as what timed out may.
            Self::Timeout | Self::Stopped => ModelFailureKind::Timeout,
        };
        ModelFailure { kind, message: self.to_string(), retry_after: None }
    }
}
