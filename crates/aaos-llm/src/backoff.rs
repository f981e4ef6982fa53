//! How long to wait before asking again.
//!
//! Invariant: a wait is never shorter than what the provider asked for. Randomness comes from a seed, never
//! from a global source: calls that fail together draw different waits because they share one stream of
//! numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// First wait.
const BASE: Duration = Duration::from_millis(500);
/// Longest wait that is not the provider's own wish.
const CEILING: Duration = Duration::from_secs(30);
/// Doublings until the ceiling is passed for certain.
const MAX_DOUBLINGS: u32 = 6;
/// Most that is added to a wait that the provider asked for.
const SPREAD: Duration = Duration::from_millis(1_000);

/// A stream of pseudo-random numbers (SplitMix64, Steele, Lea and Flood 2014). Not for secrets.
#[derive(Debug)]
pub(crate) struct Jitter(AtomicU64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A time from zero up to and including `most`.
    fn up_to(&self, most: Duration) -> Duration {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(bits % most.saturating_add(1))
    }

    /// The wait after this many failed attempts, without a wish of the provider: between half of and the
    /// whole of a time that doubles up to [`CEILING`].
    pub(crate) fn wait(&self, failed_attempts: u32) -> Duration {
        let doublings = failed_attempts.saturating_sub(1).min(MAX_DOUBLINGS);
        let whole = BASE.saturating_mul(1 << doublings).min(CEILING);
        let half = whole / 2;
        half.saturating_add(self.up_to(whole - half))
    }

    /// A wait that the provider asked for, spread a little so that not all callers come back at once.
    pub(crate) fn spread(&self, wish: Duration) -> Duration {
        wish.saturating_add(self.up_to(SPREAD.min(wish / 10)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{CEILING, Jitter};

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let jitter = Jitter::new(1);
        let bounds = [(1, 250, 500), (2, 500, 1_000), (5, 4_000, 8_000), (20, 15_000, 30_000)];
        for (failed, least, most) in bounds {
            let wait = jitter.wait(failed);
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            assert!(least <= wait && wait <= most, "{failed}: {wait:?}");
        }
        assert_ne!(jitter.wait(9), jitter.wait(9), "two callers draw two waits");
    }

    proptest! {
        #[test]
        fn the_providers_wish_is_a_lower_bound(seed: u64, millis in 0u64..10_000_000, failed: u32) {
            let jitter = Jitter::new(seed);
            let wish = Duration::from_millis(millis);
            prop_assert!(jitter.spread(wish) >= wish);
            prop_assert!(jitter.spread(wish) <= wish + Duration::from_secs(1));
            prop_assert!(jitter.wait(failed) <= CEILING);
        }
    }
}
