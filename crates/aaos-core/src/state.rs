//! State as a fold over journal entries.
//!
//! Invariant: pure; the same entries give the same state.

use crate::event::Entry;

/// Everything that the journal's entries add up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {}

impl State {
    /// Folds one entry in.
    pub fn apply(&mut self, _entry: &Entry) {}
}
