//! The one place that reads the time of day and makes ids.
//!
//! Invariant: timestamps never go backwards and advance with real time, whatever the system clock does, so no window
//! and no expiry gains from a clock step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aaos_core::quantity::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// The runtime's clock and source of ids.
#[derive(Debug)]
pub struct Clock {
    /// What the clock showed when it was made.
    base: u64,
    /// The boot clock at that moment, milliseconds.
    base_boot: u64,
    latest: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::starting_at(Timestamp::ZERO)
    }
}

impl Clock {
    /// A clock that never shows less than `floor`: the timestamp of the journal's last entry.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the clock is what owns the time of day")]
    pub fn starting_at(floor: Timestamp) -> Self {
        let read = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let base = u64::try_from(read).unwrap_or(u64::MAX).max(floor.0);
        Self { base, base_boot: boot_ms(), latest: AtomicU64::new(base) }
    }

    /// Milliseconds since the epoch; never less than any value returned before. The time of day is read once, at
    /// the start; from then on the boot clock counts, which a step of the system clock does not touch.
    pub fn now(&self) -> Timestamp {
        let read = self.base.saturating_add(boot_ms().saturating_sub(self.base_boot));
        Timestamp(self.latest.fetch_max(read, Ordering::Relaxed).max(read))
    }

    /// A fresh UUID version 7 (RFC 9562) for a typed id.
    #[expect(clippy::disallowed_methods, reason = "the clock is what makes ids")]
    pub fn fresh(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// Milliseconds since the machine booted, suspension included.
fn boot_ms() -> u64 {
    let read = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(read.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(read.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use aaos_core::quantity::Timestamp;

    #[test]
    fn time_never_goes_back() {
        let future = Timestamp(u64::MAX / 2);
        let clock = Clock::starting_at(future);
        let first = clock.now();
        assert!(first >= future, "the floor holds while the system clock is behind it");
        while clock.now() == first {
            std::hint::spin_loop();
        }
        assert!(clock.now() > first, "and time goes on from there");
        assert!(Clock::default().now() > Timestamp(1_700_000_000_000));
        assert_ne!(clock.fresh(), clock.fresh());
    }
}
