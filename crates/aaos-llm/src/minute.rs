//! What was taken in the last minute, of what the operator allows in one.
//!
//! Invariant: in no sixty seconds more is taken than is allowed, unless one request alone is more, which then goes alone,
//! or took more than was thought.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// What is taken within so short a time is kept together, as if all of it was taken last.
const GRAIN: Duration = Duration::from_millis(100);

/// Requests, or tokens, of one provider.
#[derive(Debug)]
pub(crate) struct Minute {
    most: u64,
    taken: VecDeque<Taken>,
}

#[derive(Debug)]
struct Taken {
    first: Instant,
    last: Instant,
    amount: u64,
}

impl Minute {
    /// With so much allowed.
    pub(crate) fn of(most: NonZeroU64) -> Self {
        Self { most: most.get(), taken: VecDeque::new() }
    }

    /// Until when this much more has to wait; none where it may be taken now.
    pub(crate) fn opens_at(&self, now: Instant, wanted: u64) -> Option<Instant> {
        let room = self.most - wanted.min(self.most);
        let mut left: u64 = self.taken.iter().map(|one| one.amount).fold(0, u64::saturating_add);
        let mut oldest = self.taken.iter();
        let mut opens = None;
        while left > room {
            let Some(one) = oldest.next() else { break };
            left = left.saturating_sub(one.amount);
            opens = Some(one.last + MINUTE);
        }
        opens.filter(|at| *at > now)
    }

    /// Takes so much.
    pub(crate) fn take(&mut self, now: Instant, amount: u64) {
        while self.taken.front().is_some_and(|one| one.last + MINUTE <= now) {
            self.taken.pop_front();
        }
        match self.taken.back_mut().filter(|one| now < one.first + GRAIN) {
            Some(one) => (one.last, one.amount) = (now, one.amount.saturating_add(amount)),
            None => self.taken.push_back(Taken { first: now, last: now, amount }),
        }
    }

    /// What was taken at a time turned out to be another amount.
    pub(crate) fn correct(&mut self, at: Instant, thought: u64, was: u64) {
        let taken = self.taken.iter_mut().find(|one| one.first <= at && at <= one.last);
        if let Some(one) = taken {
            one.amount = one.amount.saturating_sub(thought).saturating_add(was);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{MINUTE, Minute};

    fn minute(most: u64) -> Minute {
        Minute::of(most.try_into().expect("not zero"))
    }

    #[test]
    fn so_much_is_taken_in_a_minute_and_then_the_oldest_makes_room() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut taken = minute(3);
        for second in [0, 10, 20] {
            assert_eq!(taken.opens_at(at(second), 1), None);
            taken.take(at(second), 1);
        }
        assert_eq!(taken.opens_at(at(20), 1), Some(at(60)));
        assert_eq!(taken.opens_at(at(20), 2), Some(at(70)), "two have to go");
        assert_eq!(taken.opens_at(at(20), 9), Some(at(80)), "more than there is goes alone");
        assert_eq!(taken.opens_at(at(60), 1), None);
        taken.take(at(60), 1);
        assert_eq!(taken.opens_at(at(60), 1), Some(at(70)));
    }

    #[test]
    fn what_was_taken_is_corrected_while_it_counts() {
        let start = Instant::now();
        let mut taken = minute(100);
        taken.take(start, 10);
        taken.correct(start, 10, 95);
        assert_eq!(taken.opens_at(start, 6), Some(start + MINUTE));
        taken.correct(start, 95, 0);
        assert_eq!(taken.opens_at(start, 100), None);
        taken.take(start + MINUTE, 1);
        taken.correct(start, 95, 1_000);
        assert_eq!(taken.opens_at(start + MINUTE, 99), None, "too late");
    }

    proptest! {
        #[test]
        fn in_no_minute_more_is_taken_than_allowed(
            most in 1u64..50,
            wanted in prop::collection::vec((0u64..30_000, 1u64..40), 1..60),
        ) {
            let mut now = Instant::now();
            let mut taken = minute(most);
            let mut all: Vec<(Instant, u64)> = Vec::new();
            for (later, amount) in wanted {
                now += Duration::from_millis(later);
                now = taken.opens_at(now, amount).unwrap_or(now);
                prop_assert_eq!(taken.opens_at(now, amount), None, "it opens when it says");
                taken.take(now, amount);
                all.push((now, amount));
                let recent = all.iter().filter(|(at, _)| *at + MINUTE > now);
                let sum: u64 = recent.clone().map(|(_, amount)| amount).sum();
                prop_assert!(sum <= most || recent.count() == 1, "{} of {}", sum, most);
            }
        }
    }
}
