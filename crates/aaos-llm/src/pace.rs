//! When the next request may start at one provider.
//!
//! Invariants: nothing starts before a time that the provider asked for; after it one request goes first, and the others
//! when that one is taken, or one by one every [`PROBE_TIME`] while nobody knows; between two starts lies at least the
//! gap. What a provider says of its rate limits holds until the time it names and not longer; what the operator says always.

use std::num::NonZeroU64;
use std::time::Duration;

use aaos_core::model::{Pace, Rates, Room};
use tokio::time::Instant;

use crate::minute::Minute;

/// How long the first request after a wait goes alone while the provider says nothing.
const PROBE_TIME: Duration = Duration::from_secs(10);

/// Since which of the provider's wishes a request runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// All may start.
    Open,
    /// Nobody may.
    Quiet { until: Instant },
    /// One did, and the next may where that one is not heard of.
    Probing { next: Instant },
}

/// What is left until a time.
#[derive(Debug, Clone, Copy)]
struct Left {
    count: u64,
    until: Instant,
}

/// The pace of one provider.
#[derive(Debug)]
pub(crate) struct Pacer {
    min_gap: Duration,
    next_start: Option<Instant>,
    mood: Mood,
    epoch: Epoch,
    /// Wishes for quiet since a request was taken; those of requests that ran together are one.
    wishes: u32,
    requests: Option<Left>,
    tokens: Option<Left>,
    requests_allowed: Option<Minute>,
    tokens_allowed: Option<Minute>,
}

impl Pacer {
    pub(crate) fn new(min_gap: Duration, rates: Rates) -> Self {
        let minute = |most: Option<NonZeroU64>| most.map(Minute::of);
        Self {
            min_gap,
            next_start: None,
            mood: Mood::Open,
            epoch: Epoch(0),
            wishes: 0,
            requests: None,
            tokens: None,
            requests_allowed: minute(rates.requests_per_minute),
            tokens_allowed: minute(rates.tokens_per_minute),
        }
    }

    /// Until when a request of so many tokens has to wait at least; none where it may start.
    pub(crate) fn opens_at(&self, now: Instant, tokens: u64) -> Option<Instant> {
        let probe = match self.mood {
            Mood::Probing { next } => Some(next),
            Mood::Open | Mood::Quiet { .. } => None,
        };
        let closed = self.closed_until(now, tokens);
        closed.into_iter().chain(probe).chain(self.next_start).filter(|at| *at > now).max()
    }

    /// The part of it that the provider asked for, or the operator.
    pub(crate) fn closed_until(&self, now: Instant, tokens: u64) -> Option<Instant> {
        let quiet = match self.mood {
            Mood::Quiet { until } => Some(until),
            Mood::Open | Mood::Probing { .. } => None,
        };
        let short =
            |left: &Option<Left>, wanted: u64| left.filter(|left| left.count < wanted).map(|left| left.until);
        let wishes = [quiet, short(&self.requests, 1), short(&self.tokens, tokens.max(1))];
        let rates = [(&self.requests_allowed, 1), (&self.tokens_allowed, tokens)];
        let allowed = rates.into_iter().filter_map(|(minute, more)| minute.as_ref()?.opens_at(now, more));
        wishes.into_iter().flatten().filter(|at| *at > now).chain(allowed).max()
    }

    /// Starts a request that may.
    pub(crate) fn start(&mut self, now: Instant, tokens: u64) -> Epoch {
        assert_eq!(self.opens_at(now, tokens), None, "nothing starts before its time");
        if let Mood::Quiet { .. } | Mood::Probing { .. } = self.mood {
            self.mood = Mood::Probing { next: now + PROBE_TIME };
        }
        self.next_start = now.checked_add(self.min_gap);
        for (left, taken) in [(&mut self.requests, 1), (&mut self.tokens, tokens)] {
            *left = left.filter(|left| left.until > now);
            if let Some(left) = left {
                left.count = left.count.saturating_sub(taken);
            }
        }
        for (minute, taken) in [(&mut self.requests_allowed, 1), (&mut self.tokens_allowed, tokens)] {
            if let Some(minute) = minute {
                minute.take(now, taken);
            }
        }
        self.epoch
    }

    /// A request that began then took other tokens than was thought.
    pub(crate) fn took(&mut self, began: Instant, thought: u64, tokens: u64) {
        if let Some(minute) = &mut self.tokens_allowed {
            minute.correct(began, thought, tokens);
        }
    }

    /// How many wishes for quiet there were in a row, with that of a request which is turned away now.
    pub(crate) fn wishes_with(&self, epoch: Epoch) -> u32 {
        self.wishes.saturating_add(u32::from(epoch == self.epoch))
    }

    /// The provider wants no request before `until`, as it told one that ran since `epoch`; an earlier wish for longer stands. Returns what holds.
    pub(crate) fn close_until(&mut self, epoch: Epoch, until: Instant) -> Instant {
        self.wishes = self.wishes_with(epoch);
        let until = match self.mood {
            Mood::Quiet { until: earlier } => earlier.max(until),
            Mood::Open | Mood::Probing { .. } => until,
        };
        self.mood = Mood::Quiet { until };
        self.epoch.0 += 1;
        until
    }

    /// The provider said yes to a request: should it want quiet again, that is the first time. One from before its last
    /// wish proves nothing.
    pub(crate) fn welcomed(&mut self, epoch: Epoch) {
        if epoch == self.epoch {
            self.wishes = 0;
        }
    }

    /// Since which wish a request runs that starts now.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The provider took a request, so it takes others, too. One from before its last wish proves nothing.
    pub(crate) fn taken(&mut self, epoch: Epoch) {
        if let (Mood::Probing { .. }, true) = (self.mood, epoch == self.epoch) {
            self.mood = Mood::Open;
        }
    }

    /// A request was given up before anybody knew whether it is taken: another one may try at once.
    pub(crate) fn given_up(&mut self, now: Instant, epoch: Epoch) {
        if let (Mood::Probing { .. }, true) = (self.mood, epoch == self.epoch) {
            self.mood = Mood::Quiet { until: now };
        }
    }

    /// The provider said what it has room for.
    pub(crate) fn told(&mut self, now: Instant, pace: Pace) {
        let left = |room: Room| {
            Some(Left { count: room.left, until: now.checked_add(Duration::from_millis(room.resets_in.0))? })
        };
        if let Some(room) = pace.requests {
            self.requests = left(room);
        }
        // What is left is the provider's count, which leaves out what it has in its cache, and a request's size is our
        // guess: only where nothing is left do both say the same.
        if let Some(room) = pace.tokens {
            self.tokens = left(room).filter(|left| left.count == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aaos_core::model::{Pace, Rates, Room};
    use aaos_core::quantity::Millis;
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{PROBE_TIME, Pacer};

    fn room(left: u64, seconds: u64) -> Option<Room> {
        Some(Room { left, resets_in: Millis(seconds * 1_000) })
    }

    #[test]
    fn what_the_provider_has_room_for_is_kept_until_it_resets() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pacer = Pacer::new(Duration::ZERO, Rates::default());
        pacer.told(start, Pace { requests: room(2, 60), tokens: None });
        for _ in 0..2 {
            assert_eq!(pacer.opens_at(start, 10), None);
            pacer.start(start, 10);
        }
        assert_eq!(pacer.opens_at(start, 10), Some(at(60)));
        assert_eq!(pacer.closed_until(at(59), 10), Some(at(60)), "which is shown");
        assert_eq!(pacer.opens_at(at(60), 10), None);
        pacer.start(at(60), 10);
        assert_eq!(pacer.opens_at(at(60), 10), None, "what it said then says nothing of now");

        pacer.told(at(61), Pace { requests: room(0, 5), tokens: room(100, 30) });
        assert_eq!(pacer.opens_at(at(61), 1), Some(at(66)));
        pacer.told(at(62), Pace { requests: room(9, 5), tokens: None });
        assert_eq!(pacer.opens_at(at(62), 1), None, "the last word counts");
    }

    #[test]
    fn tokens_close_only_where_none_is_left() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pacer = Pacer::new(Duration::ZERO, Rates::default());
        pacer.told(start, Pace { requests: None, tokens: room(1, 30) });
        pacer.start(start, 1_000_000);
        assert_eq!(pacer.opens_at(start, 1_000_000), None, "a long prompt may be in the provider's cache");
        pacer.told(at(1), Pace { requests: None, tokens: room(0, 30) });
        for tokens in [0, 1, 1_000_000] {
            assert_eq!(pacer.opens_at(at(1), tokens), Some(at(31)), "the control: nothing is left");
            assert_eq!(pacer.opens_at(at(31), tokens), None, "and not for ever");
        }
        pacer.told(at(2), Pace { requests: None, tokens: room(1, 30) });
        assert_eq!(pacer.opens_at(at(2), 1_000_000), None, "the last word counts");
    }

    #[test]
    fn one_from_before_the_wish_proves_nothing_and_one_that_gives_up_lets_another_try() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pacer = Pacer::new(Duration::ZERO, Rates::default());
        let old = pacer.start(start, 1);
        pacer.close_until(old, at(5));
        pacer.taken(old);
        assert_eq!(pacer.opens_at(at(4), 1), Some(at(5)), "still quiet");
        let probe = pacer.start(at(5), 1);
        pacer.taken(old);
        pacer.given_up(at(5), old);
        assert_eq!(pacer.opens_at(at(5), 1), Some(at(5) + PROBE_TIME));
        pacer.given_up(at(6), probe);
        assert_eq!(pacer.opens_at(at(6), 1), None, "another may try");
        let probe = pacer.start(at(6), 1);
        assert_eq!(pacer.opens_at(at(6), 1), Some(at(6) + PROBE_TIME));
        pacer.taken(probe);
        assert_eq!(pacer.opens_at(at(6), 1), None);
        pacer.start(at(6), 1);
        assert_eq!(pacer.opens_at(at(6), 1), None, "all may");
    }

    #[test]
    fn wishes_are_counted_until_one_is_taken_and_those_of_one_burst_are_one() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Duration::ZERO, Rates::default());
        let burst = [pacer.start(start, 1), pacer.start(start, 1), pacer.start(start, 1)];
        for epoch in burst {
            assert_eq!(pacer.wishes_with(epoch), 1);
            pacer.close_until(epoch, start);
        }
        let probe = pacer.start(start, 1);
        assert_eq!(pacer.wishes_with(probe), 2);
        pacer.close_until(probe, start);
        pacer.welcomed(burst[0]);
        let probe = pacer.start(start, 1);
        assert_eq!(pacer.wishes_with(probe), 3, "one from before proves nothing");
        pacer.welcomed(probe);
        assert_eq!(pacer.wishes_with(probe), 1);
    }

    proptest! {
        #[test]
        fn nothing_starts_inside_a_wish(
            wishes in prop::collection::vec((0u64..20_000, 0u64..10_000), 1..20),
            gap in 0u64..500,
        ) {
            let start = Instant::now();
            let mut pacer = Pacer::new(Duration::from_millis(gap), Rates::default());
            let (mut now, mut last) = (start, None::<Instant>);
            for (wish, later) in wishes {
                let until = pacer.close_until(pacer.epoch(), now + Duration::from_millis(wish));
                now += Duration::from_millis(later);
                let opens = pacer.opens_at(now, 1);
                prop_assert!(opens.unwrap_or(now) >= until.min(now.max(until)));
                now = opens.unwrap_or(now);
                prop_assert!(now >= until && last.is_none_or(|last| now >= last + Duration::from_millis(gap)));
                let epoch = pacer.start(now, 1);
                last = Some(now);
                if later % 2 == 0 {
                    pacer.taken(epoch);
                }
            }
        }
    }
}
