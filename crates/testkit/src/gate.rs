//! A gate that a test opens: the latency of a scripted answer, without a clock.
//!
//! Invariant: once open, a gate stays open; whoever waits is let through whether it came before or after.

use std::sync::Arc;
use tokio::sync::watch;

/// A gate, closed at first; clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)) }
    }

    /// Lets everyone through who waits now or comes later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Resolves when the gate is open.
    pub async fn passed(&self) {
        let mut state = self.open.subscribe();
        // The sender lives in `self`, so waiting ends only with an open gate.
        let waited = state.wait_for(|open| *open).await;
        assert!(waited.is_ok(), "a gate's sender cannot be gone while the gate is borrowed");
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}
