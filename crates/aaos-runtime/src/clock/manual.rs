//! Time that stands still until somebody moves it.
//!
//! Invariants: the time changes in [`ClockHand::advance`] only; a wait is listed from its first poll until it is over
//! or given up; moving the time ends exactly those waits that are due then, in the order of their due times. Nothing
//! here reads a clock or sets a timer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aaos_core::quantity::{Millis, Timestamp};
use tokio::sync::{oneshot, watch};

/// A point in time and everybody who waits for a later one.
#[derive(Debug)]
pub(super) struct Standing {
    inner: Mutex<Inner>,
    /// Bumped whenever the list of waits changes.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    now: Timestamp,
    /// By due time, then by when the wait began.
    waits: BTreeMap<WaitKey, oneshot::Sender<()>>,
    begun: u64,
}

type WaitKey = (Timestamp, u64);

impl Standing {
    pub(super) fn at(now: Timestamp) -> Self {
        let inner = Inner { now, waits: BTreeMap::new(), begun: 0 };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(()) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.inner().now
    }

    pub(super) async fn wait_until(&self, due: Timestamp) {
        let Some((listed, over)) = self.list(due) else { return };
        let ended = over.await;
        assert!(ended.is_ok(), "a wait that is listed is ended, not forgotten");
        drop(listed);
    }

    fn list(&self, due: Timestamp) -> Option<(Listed<'_>, oneshot::Receiver<()>)> {
        let mut inner = self.inner();
        if due <= inner.now {
            return None;
        }
        let (end, over) = oneshot::channel();
        let key = (due, inner.begun);
        inner.begun += 1;
        inner.waits.insert(key, end);
        drop(inner);
        self.changed.send_replace(());
        Some((Listed { standing: self, key }, over))
    }

    fn forget(&self, key: WaitKey) {
        let was_listed = self.inner().waits.remove(&key).is_some();
        if was_listed {
            self.changed.send_replace(());
        }
    }

    fn advance(&self, by: Millis) {
        let mut inner = self.inner();
        inner.now = inner.now.after(by);
        while let Some(first) = inner.waits.first_entry().map(|first| *first.key())
            && first.0 <= inner.now
        {
            let end = inner.waits.remove(&first);
            // Who gives up a wait at this very moment is not there to be told.
            let told = end.map(|end| end.send(()));
            debug_assert!(told.is_some(), "the first of the list was in it");
        }
        drop(inner);
        self.changed.send_replace(());
    }
}

/// A wait in the list; given up when this is dropped before its end.
struct Listed<'s> {
    standing: &'s Standing,
    key: WaitKey,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.standing.forget(self.key);
    }
}

/// What moves a clock that stands still, and shows who waits for it.
#[derive(Debug, Clone)]
pub struct ClockHand {
    standing: Arc<Standing>,
}

impl ClockHand {
    pub(super) fn of(standing: Arc<Standing>) -> Self {
        Self { standing }
    }

    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.standing.now()
    }

    /// Lets this much time pass, in whole milliseconds, in one step: whoever is woken sees the new time, as after a
    /// suspension of the machine. Wakes what is due, the earliest first.
    pub fn advance(&self, by: Duration) {
        self.standing.advance(Millis(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)));
    }

    /// The due times that are waited for now, the earliest first.
    #[must_use]
    pub fn waits(&self) -> Vec<Timestamp> {
        self.standing.inner().waits.keys().map(|(due, _)| *due).collect()
    }

    /// Resolves when the due times that are waited for are as `wanted`.
    pub async fn until_waits(&self, wanted: impl Fn(&[Timestamp]) -> bool) {
        let mut changed = self.standing.changed.subscribe();
        while !wanted(&self.waits()) {
            let alive = changed.changed().await;
            assert!(alive.is_ok(), "the sender lives as long as this hand");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use aaos_core::quantity::Timestamp;

    use crate::clock::Clock;

    type Woken = Arc<Mutex<Vec<&'static str>>>;

    /// Notes who was woken, in order.
    struct Bell {
        name: &'static str,
        woken: Woken,
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.name);
        }
    }

    fn poll(wait: &mut Pin<Box<impl Future<Output = ()>>>, name: &'static str, woken: &Woken) -> Poll<()> {
        let waker = Waker::from(Arc::new(Bell { name, woken: Arc::clone(woken) }));
        wait.as_mut().poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn what_is_due_is_woken_in_order_and_nothing_else() {
        let (clock, hand) = Clock::manual(Timestamp(100));
        let woken = Woken::default();
        let mut waits: Vec<_> = [("last", 130), ("first", 110), ("second", 120), ("also second", 120)]
            .map(|(name, due)| (name, Box::pin(clock.sleep_until(Timestamp(due)))))
            .into_iter()
            .collect();
        assert!(hand.waits().is_empty(), "a wait begins with its first poll");
        for (name, wait) in &mut waits {
            assert_eq!(poll(wait, name, &woken), Poll::Pending);
        }
        assert_eq!(hand.waits(), [110, 120, 120, 130].map(Timestamp));
        hand.advance(Duration::from_millis(9));
        assert!(woken.lock().unwrap().is_empty(), "a millisecond is missing");
        hand.advance(Duration::from_millis(11));
        assert_eq!(*woken.lock().unwrap(), ["first", "second", "also second"]);
        assert_eq!((clock.now(), hand.waits()), (Timestamp(120), vec![Timestamp(130)]));
        let polls = waits.iter_mut().map(|(name, wait)| poll(wait, name, &woken));
        let over: Vec<bool> = polls.map(|polled| polled.is_ready()).collect();
        assert_eq!(over, [false, true, true, true]);
    }

    #[test]
    fn a_wait_that_is_given_up_or_over_is_not_listed() {
        let (clock, hand) = Clock::manual(Timestamp(100));
        let woken = Woken::default();
        let mut wait = Box::pin(clock.sleep_until(Timestamp(101)));
        assert_eq!(poll(&mut wait, "given up", &woken), Poll::Pending);
        drop(wait);
        assert!(hand.waits().is_empty());
        hand.advance(Duration::from_millis(1));
        assert!(woken.lock().unwrap().is_empty());
        let mut over = Box::pin(clock.sleep_until(hand.now()));
        assert_eq!(poll(&mut over, "over", &woken), Poll::Ready(()), "what is due now is not waited for");
    }

    #[tokio::test]
    async fn the_hand_sees_who_begins_to_wait() {
        let (clock, hand) = Clock::manual(Timestamp(100));
        let sleeper = tokio::spawn(async move {
            clock.sleep(Duration::from_millis(5)).await;
            clock.now()
        });
        hand.until_waits(|waits| waits == [Timestamp(105)]).await;
        hand.advance(Duration::from_millis(7));
        assert_eq!(sleeper.await.expect("it ends"), Timestamp(107), "time passed in one step");
        hand.until_waits(<[Timestamp]>::is_empty).await;
    }
}
