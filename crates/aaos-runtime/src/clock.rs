//! The one place that reads the time of day and makes ids.
//!
//! Invariant: timestamps never go backwards within one daemon, whatever the system clock does, so no window
//! or expiry gains from a clock step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aaos_core::quantity::Timestamp;
use uuid::Uuid;

/// The runtime's clock and source of ids.
#[derive(Debug, Default)]
pub struct Clock {
    latest: AtomicU64,
}

impl Clock {
    /// A clock that never shows less than `floor`: the timestamp of the journal's last entry.
    #[must_use]
    pub fn starting_at(floor: Timestamp) -> Self {
        Self { latest: AtomicU64::new(floor.0) }
    }

    /// Milliseconds since the epoch; never less than any value returned before.
    #[expect(clippy::disallowed_methods, reason = "the clock is what owns the time of day")]
    pub fn now(&self) -> Timestamp {
        let read = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        Timestamp(self.latest.fetch_max(read, Ordering::Relaxed).max(read))
    }

    /// A fresh UUID version 7 (RFC 9562) for a typed id.
    #[expect(clippy::disallowed_methods, reason = "the clock is what makes ids")]
    pub fn fresh(&self) -> Uuid {
        Uuid::now_v7()
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use aaos_core::quantity::Timestamp;

    #[test]
    fn time_never_goes_back() {
        let future = Timestamp(u64::MAX / 2);
        let clock = Clock::starting_at(future);
        assert_eq!(clock.now(), future, "the floor holds while the system clock is behind it");
        assert!(Clock::default().now() > Timestamp(1_700_000_000_000));
        assert_ne!(clock.fresh(), clock.fresh());
    }
}
