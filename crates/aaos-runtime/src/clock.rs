//! The one place that reads the time of day, waits for it, and makes ids.
//!
//! Invariants: timestamps never go backwards and advance with real time, whatever the system clock does, so no window
//! and no expiry gains from a clock step. What is waited for is a point in this time and not a span of a timer: a
//! timer stands still while the machine is suspended, this time goes on. A wait is never over before its time.

mod manual;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aaos_core::quantity::{Millis, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use uuid::Uuid;

pub use manual::ClockHand;
use manual::Standing;

/// How long one timer runs at most before a wait looks at the time again: after a suspension of the machine whatever
/// became due meanwhile is done this much later at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The runtime's clock and source of ids: the kernel's policies read the time and wait for it here and nowhere else.
///
/// What is waited for on behalf of another process (an attempt of a model, a worker's answer, a page, the disk) has
/// limits of its own, in the time of tokio's timers, which no clock of the kernel moves.
#[derive(Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Goes with the machine.
    Boot(BootTime),
    /// Stands still until its hand is moved.
    Manual(Arc<Standing>),
}

impl Default for Clock {
    fn default() -> Self {
        Self::starting_at(Timestamp::ZERO)
    }
}

impl Clock {
    /// A clock that never shows less than `floor`: the timestamp of the journal's last entry.
    #[must_use]
    pub fn starting_at(floor: Timestamp) -> Self {
        Self { source: Source::Boot(BootTime::starting_at(floor)) }
    }

    /// A clock that shows `time` until its hand is moved, and the hand: for kernels whose time a test makes.
    #[must_use]
    pub fn manual(time: Timestamp) -> (Self, ClockHand) {
        let standing = Arc::new(Standing::at(time));
        (Self { source: Source::Manual(Arc::clone(&standing)) }, ClockHand::of(standing))
    }

    /// Milliseconds since the epoch; never less than any value returned before.
    pub fn now(&self) -> Timestamp {
        match &self.source {
            Source::Boot(boot) => boot.now(),
            Source::Manual(standing) => standing.now(),
        }
    }

    /// What passed since `begun`.
    pub(crate) fn since(&self, begun: Timestamp) -> Millis {
        self.now().since(begun)
    }

    /// Resolves when it is `due`, or at once when that is over.
    pub(crate) async fn sleep_until(&self, due: Timestamp) {
        match &self.source {
            Source::Boot(boot) => boot.sleep_until(due).await,
            Source::Manual(standing) => standing.wait_until(due).await,
        }
    }

    /// Resolves when it is `due`; without a time never.
    pub(crate) async fn until(&self, due: Option<Timestamp>) {
        match due {
            Some(due) => self.sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Resolves after this long, counted from the first poll.
    pub(crate) async fn sleep(&self, wait: Duration) {
        self.sleep_until(self.after(wait)).await;
    }

    /// What `work` gives, unless it takes longer than this.
    pub(crate) async fn timeout<W: Future>(&self, limit: Duration, work: W) -> Option<W::Output> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.sleep(limit) => None,
        }
    }

    /// The point this long after now.
    pub(crate) fn after(&self, wait: Duration) -> Timestamp {
        let whole = wait.as_nanos().div_ceil(1_000_000);
        self.now().after(Millis(u64::try_from(whole).unwrap_or(u64::MAX)))
    }

    /// A deadline as those count it who wait for another process.
    pub(crate) fn timer_until(&self, due: Timestamp) -> Instant {
        let now = Instant::now();
        now.checked_add(Duration::from_millis(due.since(self.now()).0)).unwrap_or(now)
    }

    /// A fresh UUID version 7 (RFC 9562) for a typed id.
    #[expect(clippy::disallowed_methods, reason = "the clock is what makes ids")]
    pub fn fresh(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// The time of day, read once at the start; from then on the boot clock counts, which a step of the system clock does
/// not touch.
#[derive(Debug)]
struct BootTime {
    /// What the clock showed when it was made.
    base: u64,
    /// The boot clock at that moment, milliseconds.
    base_boot: u64,
    latest: AtomicU64,
}

impl BootTime {
    #[expect(clippy::disallowed_methods, reason = "the clock is what owns the time of day")]
    fn starting_at(floor: Timestamp) -> Self {
        let read = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let base = u64::try_from(read).unwrap_or(u64::MAX).max(floor.0);
        Self { base, base_boot: boot_ms(), latest: AtomicU64::new(base) }
    }

    fn now(&self) -> Timestamp {
        let read = self.base.saturating_add(boot_ms().saturating_sub(self.base_boot));
        Timestamp(self.latest.fetch_max(read, Ordering::Relaxed).max(read))
    }

    async fn sleep_until(&self, due: Timestamp) {
        while let left @ 1.. = due.since(self.now()).0 {
            tokio::time::sleep(one_timer(Millis(left))).await;
        }
    }
}

/// How long the next timer of a wait runs.
fn one_timer(left: Millis) -> Duration {
    Duration::from_millis(left.0).min(LOOK_AGAIN)
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
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::{Clock, LOOK_AGAIN, one_timer};
    use aaos_core::quantity::{Millis, Timestamp};

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

    #[test]
    fn a_long_wait_looks_at_the_time_now_and_then() {
        assert_eq!(one_timer(Millis(u64::MAX)), LOOK_AGAIN);
        assert_eq!(one_timer(Millis(60_001)), LOOK_AGAIN);
        assert_eq!(one_timer(Millis(59_999)), Duration::from_millis(59_999), "a short one ends in time");
    }

    /// Tokio's timers are over at once here; the boot clock goes on as it does.
    #[tokio::test]
    async fn a_timer_that_is_over_does_not_end_a_wait_before_its_time() {
        tokio::time::pause();
        let clock = Clock::default();
        let due = clock.after(Duration::from_millis(3));
        clock.sleep_until(due).await;
        assert!(clock.now() >= due, "it waited for the boot clock");
        clock.sleep_until(due).await;
        assert!(clock.timeout(Duration::from_millis(1), std::future::pending::<()>()).await.is_none());
        assert_eq!(clock.timeout(Duration::from_secs(1), async { 7 }).await, Some(7));
    }

    #[test]
    fn parts_of_a_millisecond_are_waited_for() {
        let (clock, hand) = Clock::manual(Timestamp(1_000));
        assert_eq!(clock.after(Duration::from_micros(1_001)), Timestamp(1_002));
        assert_eq!(clock.after(Duration::from_millis(1)), Timestamp(1_001));
        let mut wait = pin!(clock.sleep(Duration::from_micros(1)));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Pending);
        hand.advance(Duration::from_millis(1));
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(clock.since(Timestamp(400)), Millis(601));
    }
}
