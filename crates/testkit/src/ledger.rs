//! What a scripted server has seen, readable from any thread, with a way to wait for more.
//!
//! Invariant: entries are only appended, so "at least n" never becomes untrue.

use crate::PATIENCE;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A shared, append-only list that a test can wait on.
#[derive(Debug)]
pub(crate) struct Ledger<T> {
    shared: Arc<(Mutex<Vec<T>>, Condvar)>,
}

impl<T> Clone for Ledger<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Clone> Ledger<T> {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new((Mutex::new(Vec::new()), Condvar::new())) }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<T>> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, entry: T) {
        self.entries().push(entry);
        self.shared.1.notify_all();
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.entries().clone()
    }

    /// Blocks until at least `count` entries are there.
    ///
    /// # Panics
    /// After [`PATIENCE`], naming `what`.
    pub(crate) fn wait_for(&self, count: usize, what: &str) -> Vec<T> {
        let (entries, timeout) = self
            .shared
            .1
            .wait_timeout_while(self.entries(), PATIENCE, |entries| entries.len() < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            !timeout.timed_out() || entries.len() >= count,
            "waited {PATIENCE:?} for {count} {what}, saw {}",
            entries.len()
        );
        entries.clone()
    }
}
