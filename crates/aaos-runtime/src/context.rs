//! How much of their windows the agents' conversations take, and what is known of their models' tokens.
//!
//! Invariants: what one agent learned of a model helps every later one that uses it; what a mind begins with is recorded
//! with its run, so that nothing that is learned here changes a run that is stepped again. What is learned is bounded,
//! and so is for how many models. No single report moves it far, and no number of them out of its bounds: a provider
//! that lies to one agent does little to the others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aaos_agent::{Filling, Mind};
use aaos_core::event::Reported;
use aaos_core::limits::{
    LEARNED_MODEL_BYTES, LEARNED_STEP_BYTES, LEARNED_STEP_WEIGHT_BYTES, MAX_LEARNED_MODELS,
};
use aaos_core::name::ModelName;
use aaos_core::quantity::{Bytes, Tokens};
use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;
use crate::registry::Agent;

/// What an agent's conversation takes of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextReport {
    /// The window.
    pub window: Tokens,
    /// What its next request takes, as far as its last report and what was added since tell.
    pub tokens: Tokens,
    /// Of its model's tokens it is known that so many weighed bytes ...
    pub learned_bytes: Bytes,
    /// ... take so many.
    pub learned_tokens: Tokens,
}

/// Bytes in one token before anything was learned.
const ASSUMED: Learned = Learned { bytes: 7, tokens: 2 };
/// Fewest bytes in one token that others are told.
const FEWEST_BYTES: u64 = 2;
/// Most bytes in one token that others are told.
const MOST_BYTES: u64 = 6;

/// So many bytes took so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Learned {
    bytes: u64,
    tokens: u64,
}

impl Learned {
    /// The same ratio of other bytes, within what is believed.
    fn of(self, bytes: u64) -> Self {
        let tokens = u128::from(bytes) * u128::from(self.tokens) / u128::from(self.bytes.max(1));
        let tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
        Self { bytes, tokens: tokens.clamp(bytes.div_ceil(MOST_BYTES), bytes / FEWEST_BYTES) }
    }

    /// Both together; what is old counts less once there is much.
    fn with(self, other: Self) -> Self {
        let both = Self { bytes: self.bytes + other.bytes, tokens: self.tokens + other.tokens };
        both.of(both.bytes.min(LEARNED_MODEL_BYTES))
    }
}

/// What was learned of models.
#[derive(Debug, Default)]
pub(crate) struct Ratios(Mutex<HashMap<ModelName, Learned>>);

impl Ratios {
    /// Learns from one step of a conversation: so many bytes took so many tokens. Of one model more than there is room
    /// for, nothing.
    pub(crate) fn learn(&self, model: &ModelName, (bytes, tokens): (Bytes, Tokens)) {
        assert!(bytes.0 >= LEARNED_STEP_BYTES, "a smaller step tells nothing");
        let step = Learned { bytes: bytes.0, tokens: tokens.0 }.of(bytes.0.min(LEARNED_STEP_WEIGHT_BYTES));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_LEARNED_MODELS || known.contains_key(model) {
            let before = known.get(model).copied();
            let before = before.unwrap_or_else(|| ASSUMED.of(LEARNED_STEP_WEIGHT_BYTES));
            known.insert(model.clone(), before.with(step));
        }
    }

    pub(crate) fn of(&self, model: &ModelName) -> Option<(Bytes, Tokens)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(model).copied();
        known.map(|learned| (Bytes(learned.bytes), Tokens(learned.tokens)))
    }
}

/// How a conversation grows from report to report.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    since: Option<Reported>,
}

impl Growth {
    /// Takes the report that came last: what was added since an earlier one and what it took, once that is enough to
    /// tell anything.
    fn take(&mut self, now: Reported) -> Option<(Bytes, Tokens)> {
        let Some(since) = self.since.filter(|since| since.bytes <= now.bytes && since.tokens <= now.tokens)
        else {
            // The first one, or its oldest part went.
            self.since = Some(now);
            return None;
        };
        let (bytes, tokens) = (now.bytes.minus(since.bytes), Tokens(now.tokens.0 - since.tokens.0));
        if bytes.0 < LEARNED_STEP_BYTES {
            return None;
        }
        self.since = Some(now);
        Some((bytes, tokens))
    }
}

impl Kernel {
    /// A mind that got no report yet begins with what others learned of its model.
    pub(crate) fn teach(&self, mind: &mut Mind) {
        if let Some((bytes, tokens)) = self.ratios().of(mind.model()) {
            mind.assume(bytes, tokens);
        }
    }

    /// Notes what a mind's conversation takes, and lets others learn from its reports.
    pub(crate) fn note_filling(&self, agent: &Agent, mind: &Mind) {
        let Filling { window, tokens, ratio: (learned_bytes, learned_tokens), reported } = mind.filling();
        let mut live = agent.live();
        live.context = Some(ContextReport { window, tokens, learned_bytes, learned_tokens });
        let step = reported.and_then(|reported| live.growth.take(reported));
        drop(live);
        if let Some(step) = step {
            self.ratios().learn(mind.model(), step);
        }
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::event::Reported;
    use aaos_core::limits::{LEARNED_STEP_BYTES, MAX_LEARNED_MODELS};
    use aaos_core::name::ModelName;
    use aaos_core::quantity::{Bytes, Tokens};

    use super::{Growth, Ratios};

    fn model(number: usize) -> ModelName {
        ModelName::parse(&format!("model-{number}")).expect("a name")
    }

    /// Bytes in one token of a model, in hundredths.
    fn density(ratios: &Ratios) -> u64 {
        let (bytes, tokens) = ratios.of(&model(0)).expect("it is known");
        bytes.0 * 100 / tokens.0
    }

    fn report(bytes: u64, tokens: u64) -> Reported {
        Reported { bytes: Bytes(bytes), tokens: Tokens(tokens) }
    }

    #[test]
    fn so_many_models_are_known_and_no_more() {
        let ratios = Ratios::default();
        for number in 0..=MAX_LEARNED_MODELS {
            ratios.learn(&model(number), (Bytes(4_096), Tokens(1_024)));
        }
        assert!(ratios.of(&model(MAX_LEARNED_MODELS - 1)).is_some());
        assert_eq!(ratios.of(&model(MAX_LEARNED_MODELS)), None);
        ratios.learn(&model(0), (Bytes(4_096), Tokens(1_024)));
        assert!(ratios.of(&model(0)) > ratios.of(&model(1)), "of a known one more is learned");
    }

    #[test]
    fn what_is_learned_comes_near_to_what_was_reported() {
        let ratios = Ratios::default();
        for _ in 0..100 {
            ratios.learn(&model(0), (Bytes(8_192), Tokens(2_048)));
        }
        assert!((395..=400).contains(&density(&ratios)), "{}", density(&ratios));
        for _ in 0..100 {
            ratios.learn(&model(0), (Bytes(8_192), Tokens(2_731)));
        }
        assert!((300..=305).contains(&density(&ratios)), "and follows it: {}", density(&ratios));
    }

    #[test]
    fn one_hostile_report_moves_little_and_many_stay_within_bounds() {
        for (lie, bounds) in [(u64::MAX, 200..=200), (0, 590..=600)] {
            let ratios = Ratios::default();
            for _ in 0..100 {
                ratios.learn(&model(0), (Bytes(8_192), Tokens(2_048)));
            }
            let honest = density(&ratios);
            ratios.learn(&model(0), (Bytes(u64::MAX / 16), Tokens(lie)));
            let moved = density(&ratios).abs_diff(honest);
            assert!(moved < 100, "by {moved} hundredths of a byte");
            for _ in 0..100 {
                ratios.learn(&model(0), (Bytes(u64::MAX / 16), Tokens(lie)));
            }
            assert!(bounds.contains(&density(&ratios)), "{}", density(&ratios));
        }
        // The first one that there is does not decide alone either.
        let ratios = Ratios::default();
        ratios.learn(&model(0), (Bytes(LEARNED_STEP_BYTES), Tokens(LEARNED_STEP_BYTES)));
        assert!((280..350).contains(&density(&ratios)), "{}", density(&ratios));
    }

    #[test]
    fn others_learn_only_from_what_was_added_and_only_from_enough_of_it() {
        let mut growth = Growth::default();
        assert_eq!(growth.take(report(9_000, 9_000)), None, "a first report tells of nothing added");
        assert_eq!(growth.take(report(9_000, 9_000)), None);
        assert_eq!(growth.take(report(9_100, 9_100)), None, "a tiny step");
        assert_eq!(growth.take(report(12_000, 9_900)), None, "nor that and another one");
        assert_eq!(
            growth.take(report(14_000, 10_250)),
            Some((Bytes(5_000), Tokens(1_250))),
            "all since then"
        );
        assert_eq!(growth.take(report(14_100, 10_275)), None);
        // The conversation was shortened, or its provider counts otherwise from here on.
        assert_eq!(growth.take(report(5_000, 1_250)), None);
        assert_eq!(growth.take(report(9_096, 2_274)), Some((Bytes(4_096), Tokens(1_024))));
        assert_eq!(growth.take(report(20_000, 1)), None);
        assert_eq!(growth.take(report(24_096, 1)), Some((Bytes(4_096), Tokens(0))));
    }
}
