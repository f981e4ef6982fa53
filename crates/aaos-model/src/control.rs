//! When a request has to end early.
//!
//! Invariant: whoever computes asks at least once a layer, so that a cancelled request ends within a fraction of a second
//! whatever the model's size.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::AnswerError;

/// A switch that ends one request; clones end the same one.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the request.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What may end a request early.
#[derive(Debug, Clone)]
pub struct Control {
    cancel: Cancel,
    end: Instant,
}

impl Control {
    /// Ends by `cancel`, or `time` from now.
    #[must_use]
    pub fn new(cancel: Cancel, time: Duration) -> Self {
        const FAR: Duration = Duration::from_secs(24 * 3_600);
        Self { cancel, end: Instant::now() + time.min(FAR) }
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`AnswerError::Cancelled`] or [`AnswerError::OutOfTime`] when not.
    pub fn check(&self) -> Result<(), AnswerError> {
        if self.cancel.is_cancelled() {
            Err(AnswerError::Cancelled)
        } else if Instant::now() >= self.end {
            Err(AnswerError::OutOfTime)
        } else {
            Ok(())
        }
    }
}
