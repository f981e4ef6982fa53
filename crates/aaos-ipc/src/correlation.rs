//! Which reply belongs to which delivered message.
//!
//! Invariant: at most [`MAX_OPEN_TRACES`] traces are open and [`KEPT_TRACES`] finished ones are kept; the one
//! that finished first is forgotten first. A trace finishes once.

use std::collections::{BTreeMap, VecDeque};

use aaos_core::id::TraceId;
use aaos_core::limits::{KEPT_TRACES, MAX_OPEN_TRACES};

/// What is known of one trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceState<R> {
    /// The message was delivered, no reply yet.
    Pending,
    /// The agent replied.
    Done(R),
    /// There will be no reply.
    Failed {
        /// Why not.
        reason: String,
    },
}

/// Why a trace could not be opened or finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CorrelationError {
    /// Too many replies are awaited.
    #[error("{limit} replies are awaited already; try again when some have come")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// This trace was opened before.
    #[error("trace {0} was opened before")]
    Known(TraceId),
    /// This trace was never opened, was finished, or is forgotten.
    #[error("trace {0} does not wait for a reply")]
    NotPending(TraceId),
}

/// The table of traces and their replies.
#[derive(Debug, Clone)]
pub struct Correlation<R> {
    states: BTreeMap<TraceId, TraceState<R>>,
    finished: VecDeque<TraceId>,
    most_open: usize,
    most_kept: usize,
}

impl<R> Correlation<R> {
    /// An empty table with the limits of SPEC §6.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(MAX_OPEN_TRACES, KEPT_TRACES)
    }

    /// An empty table with limits of its own.
    #[must_use]
    pub fn with_limits(most_open: usize, most_kept: usize) -> Self {
        Self { states: BTreeMap::new(), finished: VecDeque::new(), most_open, most_kept }
    }

    /// Notes that a message was delivered and its reply is awaited.
    ///
    /// # Errors
    /// [`CorrelationError`] when too many are open or the trace is known.
    pub fn open(&mut self, trace: TraceId) -> Result<(), CorrelationError> {
        if self.states.contains_key(&trace) {
            return Err(CorrelationError::Known(trace));
        }
        if self.open_count() >= self.most_open {
            return Err(CorrelationError::TooMany { limit: self.most_open });
        }
        self.states.insert(trace, TraceState::Pending);
        Ok(())
    }

    /// Notes the reply.
    ///
    /// # Errors
    /// [`CorrelationError::NotPending`] when none is awaited.
    pub fn complete(&mut self, trace: TraceId, reply: R) -> Result<(), CorrelationError> {
        self.close(trace, TraceState::Done(reply))
    }

    /// Notes that there will be no reply.
    ///
    /// # Errors
    /// [`CorrelationError::NotPending`] when none is awaited.
    pub fn fail(&mut self, trace: TraceId, reason: impl Into<String>) -> Result<(), CorrelationError> {
        self.close(trace, TraceState::Failed { reason: reason.into() })
    }

    /// What is known of a trace; `None` when it was never opened or is forgotten.
    #[must_use]
    pub fn get(&self, trace: TraceId) -> Option<&TraceState<R>> {
        self.states.get(&trace)
    }

    /// How many replies are awaited.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.states.len() - self.finished.len()
    }

    fn close(&mut self, trace: TraceId, end: TraceState<R>) -> Result<(), CorrelationError> {
        match self.states.get_mut(&trace) {
            Some(state @ TraceState::Pending) => *state = end,
            Some(TraceState::Done(_) | TraceState::Failed { .. }) | None => {
                return Err(CorrelationError::NotPending(trace));
            }
        }
        self.finished.push_back(trace);
        while self.finished.len() > self.most_kept {
            if let Some(oldest) = self.finished.pop_front() {
                self.states.remove(&oldest);
            }
        }
        assert!(self.finished.len() <= self.states.len(), "every finished trace has its state");
        Ok(())
    }
}

impl<R> Default for Correlation<R> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::id::TraceId;

    use super::{Correlation, CorrelationError, TraceState};

    fn trace(number: u32) -> TraceId {
        format!("00000000-0000-0000-0000-{number:012}").parse().expect("an id")
    }

    #[test]
    fn a_trace_is_pending_then_done_and_finishes_once() {
        let mut table = Correlation::new();
        assert_eq!(table.get(trace(1)), None);
        table.open(trace(1)).expect("new");
        assert_eq!(table.open(trace(1)), Err(CorrelationError::Known(trace(1))));
        assert_eq!(table.get(trace(1)), Some(&TraceState::Pending));
        table.complete(trace(1), "reply").expect("pending");
        assert_eq!(table.get(trace(1)), Some(&TraceState::Done("reply")));
        assert_eq!(table.fail(trace(1), "late"), Err(CorrelationError::NotPending(trace(1))));
        table.open(trace(2)).expect("new");
        table.fail(trace(2), "stopped").expect("pending");
        assert_eq!(table.get(trace(2)), Some(&TraceState::Failed { reason: "stopped".into() }));
        assert_eq!(table.complete(trace(3), "x"), Err(CorrelationError::NotPending(trace(3))));
    }

    #[test]
    fn the_oldest_finished_trace_is_forgotten_and_no_pending_one() {
        let mut table = Correlation::with_limits(3, 2);
        table.open(trace(0)).expect("new");
        for number in 1..=4 {
            table.open(trace(number)).expect("new");
            table.complete(trace(number), number).expect("pending");
        }
        assert_eq!(table.get(trace(2)), None);
        assert_eq!(table.get(trace(3)), Some(&TraceState::Done(3)));
        assert_eq!(table.get(trace(0)), Some(&TraceState::Pending));
        assert_eq!(table.open_count(), 1);
    }

    #[test]
    fn open_traces_are_bounded() {
        let mut table: Correlation<()> = Correlation::with_limits(2, 2);
        table.open(trace(1)).expect("new");
        table.open(trace(2)).expect("new");
        assert_eq!(table.open(trace(3)), Err(CorrelationError::TooMany { limit: 2 }));
        table.complete(trace(1), ()).expect("pending");
        table.open(trace(3)).expect("room again");
    }
}
