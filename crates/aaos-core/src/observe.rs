//! What is observed of model calls: how long they take, what they bring and how they fail.
//!
//! Invariants: observations never decide anything and stand in no journal, so that replays do not differ by them. What
//! is kept is bounded: counters and histograms of fixed bounds, of a bounded number of models.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{ModelFailureKind, Usage};
use crate::name::{ModelName, ProviderName};
use crate::quantity::{MicroUsd, Millis, Tokens};
use crate::span::SpanFigures;

/// Most models that are counted apart; further ones count together as [`OTHER_MODELS`].
pub const MAX_OBSERVED_MODELS: usize = 64;
/// The name under which further models of a provider count.
pub const OTHER_MODELS: &str = "other";
/// Upper bounds of a histogram's buckets, in its own unit (milliseconds, or tokens a second); a last bucket has no bound.
pub const BOUNDS: [u64; 30] = [
    1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1_000, 2_000, 3_000, 5_000, 7_000, 10_000,
    20_000, 30_000, 50_000, 70_000, 100_000, 200_000, 300_000, 500_000, 700_000,
];
const MICROS_PER_MILLI: u64 = 1_000;
const MICROS_PER_SECOND: u128 = 1_000_000;

/// Microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// Of a span of time.
    #[must_use]
    pub fn of(time: Duration) -> Self {
        Self(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }
}

/// What one answered request took, as seen where it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// From the request to the first piece of the reply; none where it came as a whole.
    pub first: Option<Micros>,
    /// From the request to the end of the reply.
    pub whole: Micros,
    /// What the provider calls the model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Measured {
    /// Time to first token, rounded up to milliseconds.
    #[must_use]
    pub fn first_token(&self) -> Option<Millis> {
        self.first.map(|first| Millis(first.0.div_ceil(MICROS_PER_MILLI)))
    }

    /// Tokens a second of the output after its first piece. None where there is nothing to measure: a reply that came as a
    /// whole, in less than a millisecond, or with less than two tokens.
    #[must_use]
    pub fn tokens_per_second(&self, output: Tokens) -> Option<u64> {
        let span = self.whole.0.checked_sub(self.first?.0)?;
        if span < MICROS_PER_MILLI || output.0 < 2 {
            return None;
        }
        let rate = u128::from(output.0 - 1) * MICROS_PER_SECOND / u128::from(span);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

/// How often values fell between fixed bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// For each of [`BOUNDS`] and above the last; empty while nothing was added.
    pub counts: Vec<u64>,
    /// Of all values.
    pub sum: u64,
}

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.counts.resize(BOUNDS.len() + 1, 0);
        let bucket = BOUNDS.partition_point(|bound| *bound < value);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.sum = self.sum.saturating_add(value);
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value below which `percent` of all lie, to within its bucket; none while there is nothing.
    #[must_use]
    pub fn quantile(&self, percent: u64) -> Option<u64> {
        assert!(percent <= 100, "a share of the whole");
        let count = self.count();
        let rank = u64::try_from((u128::from(count) * u128::from(percent)).div_ceil(100)).ok()?.max(1);
        let mut below = 0_u64;
        for (bucket, here) in self.counts.iter().enumerate() {
            if below + here >= rank {
                let low = bucket.checked_sub(1).map_or(0, |before| BOUNDS[before]);
                // Above the last bound nothing is known but the bound.
                let high = BOUNDS.get(bucket).copied().unwrap_or(low);
                return Some(low + (high - low) * (rank - below) / here);
            }
            below += here;
        }
        None
    }
}

/// What was observed of the calls of one model since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFigures {
    /// Who serves it.
    pub provider: ProviderName,
    /// What the provider calls it.
    pub model: ModelName,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that failed for good, by reason.
    pub failed: BTreeMap<ModelFailureKind, u64>,
    /// Attempts that failed and were made again, by reason.
    pub retried: BTreeMap<ModelFailureKind, u64>,
    /// Tokens of the answered calls.
    pub usage: Usage,
    /// What all calls cost.
    pub cost: MicroUsd,
    /// Times to first token, milliseconds.
    pub first_token_ms: Histogram,
    /// Tokens a second of the output.
    pub tokens_per_second: Histogram,
    /// Times for which calls waited for a slot, for a provider that wants quiet, or for another attempt, milliseconds.
    pub waited_ms: Histogram,
}

impl CallFigures {
    /// Of a model that was not asked yet.
    #[must_use]
    pub fn none(provider: ProviderName, model: ModelName) -> Self {
        Self {
            provider,
            model,
            answered: 0,
            failed: BTreeMap::new(),
            retried: BTreeMap::new(),
            usage: Usage::default(),
            cost: MicroUsd(0),
            first_token_ms: Histogram::default(),
            tokens_per_second: Histogram::default(),
            waited_ms: Histogram::default(),
        }
    }
}

/// Everything that is shown to whoever reads the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Calls under way, those that wait included.
    pub calls_open: u64,
    /// Of these, those that wait for a slot, a provider or their next attempt.
    pub calls_waiting: u64,
    /// Agents alive.
    pub agents: u64,
    /// Goals running.
    pub goals_running: u64,
    /// Goals that wait for their turn.
    pub goals_queued: u64,
    /// Each model that was asked.
    pub models: Vec<CallFigures>,
    /// What became of spans, where they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spans: Option<SpanFigures>,
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS, Histogram, Measured, Micros};
    use crate::quantity::{Millis, Tokens};

    #[test]
    fn quantiles_are_right_to_within_their_bucket() {
        let mut found = Histogram::default();
        assert_eq!((found.quantile(50), found.count()), (None, 0));
        for value in 1..=1_000 {
            found.add(value);
        }
        assert_eq!((found.count(), found.sum), (1_000, 500_500));
        for (percent, exact) in [(1, 10), (50, 500), (95, 950), (100, 1_000)] {
            let near = found.quantile(percent).expect("there are values");
            assert!(near.abs_diff(exact) * 10 <= exact, "{percent} % lie below {near}, exactly {exact}");
        }
        found.add(u64::MAX);
        assert_eq!(found.quantile(100), BOUNDS.last().copied(), "above the last bound only that is known");
        assert_eq!(found.counts.len(), BOUNDS.len() + 1, "however much is added");
    }

    #[test]
    fn bounds_belong_to_their_bucket() {
        let mut found = Histogram::default();
        for value in [0, 1, 2, 700_000, 700_001] {
            found.add(value);
        }
        assert_eq!((found.counts[0], found.counts[1], found.counts[29], found.counts[30]), (2, 1, 1, 1));
    }

    #[test]
    fn a_rate_is_of_the_output_after_its_first_piece() {
        let measured = |first: Option<u64>, whole| Measured {
            first: first.map(Micros),
            whole: Micros(whole),
            model: None,
        };
        let rate = |first, whole, output| measured(first, whole).tokens_per_second(Tokens(output));
        assert_eq!(rate(Some(500_000), 2_500_000, 101), Some(50));
        for (first, whole, output) in
            [(None, 1_000_000, 9), (Some(5), 900, 9), (Some(5), 10_000, 1), (Some(9_000), 5, 9)]
        {
            assert_eq!(rate(first, whole, output), None, "{first:?} {whole} {output}");
        }
        assert_eq!(measured(Some(1_001), 0).first_token(), Some(Millis(2)));
    }
}
