//! Samples and what is told of them.
//!
//! Invariant: a summary is of at least one sample; nothing is left out of it, outliers included.

use std::time::Duration;

use serde::Serialize;

/// Measured values of one kind, in one unit.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples {
    values: Vec<f64>,
}

/// What is told of samples. The p10 stands beside the median because timer ticks of 4 ms spoil some runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) p10: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Samples {
    pub(crate) fn push_micros(&mut self, time: Duration) {
        self.values.push(time.as_secs_f64() * 1e6);
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
    }

    pub(crate) fn summary(&self) -> Summary {
        assert!(!self.values.is_empty(), "a round measures something");
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: usize| sorted[(sorted.len() - 1) * share / 100];
        Summary { median: at(50), p10: at(10), max: at(100), count: sorted.len() }
    }
}
