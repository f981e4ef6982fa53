//! How refused calls are journalled: so many a minute one by one, the others as a count.
//!
//! Invariants: a refused call has an entry of its own or is in the count of exactly one `denials_suppressed`
//! entry. The count is journalled once, when its minute is over or the agent stops; only a crash loses it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aaos_core::authority::Refusal;
use aaos_core::event::Event;
use aaos_core::limits::{MAX_DENIALS_PER_MINUTE, RATE_WINDOW_MS};
use aaos_core::quantity::{Millis, Timestamp};

use crate::kernel::Kernel;
use crate::registry::Agent;

/// The refused calls of one agent, of one sort.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    window: Mutex<Window>,
}

/// One minute, from its first refused call on.
#[derive(Debug, Default)]
struct Window {
    ends: Timestamp,
    listed: u32,
    suppressed: u64,
}

/// What becomes of one refused call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    /// It gets an entry of its own.
    Listed,
    /// It is the first that is only counted; whoever noted it closes the count after this long.
    CountOpened(Millis),
    /// It is in a count that is open.
    Counted,
}

impl Denials {
    fn note(&self, now: Timestamp) -> Noted {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // A count that nobody has taken yet stays open, so that none is lost between two minutes.
        if now >= window.ends && window.suppressed == 0 {
            *window = Window { ends: now.after(Millis(RATE_WINDOW_MS)), listed: 0, suppressed: 0 };
        }
        if window.suppressed == 0 && window.listed < MAX_DENIALS_PER_MINUTE {
            window.listed += 1;
            return Noted::Listed;
        }
        window.suppressed += 1;
        if window.suppressed == 1 { Noted::CountOpened(window.ends.since(now)) } else { Noted::Counted }
    }

    /// Ends the minute and takes its count.
    fn close(&self) -> u64 {
        std::mem::take(&mut *self.window.lock().unwrap_or_else(PoisonError::into_inner)).suppressed
    }
}

impl Kernel {
    /// Notes a refused call of an agent: whether it gets an entry of its own.
    pub(crate) fn lists_denial(&self, agent: &Agent) -> bool {
        self.lists(agent, &agent.denials)
    }

    /// The same for a call that a limit of the runtime stood in the way of. They too are counted by themselves: the
    /// first denial of a minute always has an entry, which tells it from a limit.
    pub(crate) fn lists_limit(&self, agent: &Agent) -> bool {
        self.lists(agent, &agent.limits)
    }

    /// The same for a call that the purse does not cover. They are counted by themselves, so that other refusals leave
    /// them their entries.
    pub(crate) fn lists_shortfall(&self, agent: &Agent) -> bool {
        self.lists(agent, &agent.shortfalls)
    }

    fn lists(&self, agent: &Agent, denials: &Arc<Denials>) -> bool {
        match denials.note(self.clock().now()) {
            Noted::Listed => true,
            Noted::Counted => false,
            Noted::CountOpened(left) => {
                self.close_count_after(agent, denials, left);
                false
            }
        }
    }

    fn close_count_after(&self, agent: &Agent, denials: &Arc<Denials>, left: Millis) {
        let (kernel, denials, cancel) = (self.clone(), Arc::clone(denials), agent.cancel.clone());
        let (goal, id) = (agent.goal, agent.id);
        // Among the agent's own tasks: its end waits for the count.
        drop(agent.tasks.spawn(async move {
            tokio::select! {
                () = kernel.clock().sleep(Duration::from_millis(left.0)) => {}
                () = cancel.cancelled() => {}
            }
            let event = Event::DenialsSuppressed { count: denials.close() };
            kernel.record_or_log(kernel.entry(goal, Some(id), event)).await;
        }));
    }
}

/// What the caller of a refused call that is only counted is told.
pub(crate) fn too_many() -> Refusal {
    Refusal::Limit(format!(
        "this agent has had more than {MAX_DENIALS_PER_MINUTE} calls refused within a minute; until the minute is \
         over, refused calls are counted and no longer explained: use what was granted, or wait"
    ))
}

#[cfg(test)]
mod tests {
    use super::{Denials, Noted};
    use aaos_core::limits::{MAX_DENIALS_PER_MINUTE, RATE_WINDOW_MS};
    use aaos_core::quantity::{Millis, Timestamp};

    const START: Timestamp = Timestamp(1_000_000);

    fn full() -> Denials {
        let denials = Denials::default();
        for _ in 0..MAX_DENIALS_PER_MINUTE {
            assert_eq!(denials.note(START), Noted::Listed);
        }
        denials
    }

    #[test]
    fn so_many_a_minute_are_listed_and_the_rest_is_counted_once() {
        let denials = full();
        let later = START.after(Millis(10_000));
        assert_eq!(denials.note(later), Noted::CountOpened(Millis(RATE_WINDOW_MS - 10_000)));
        assert_eq!(denials.note(later), Noted::Counted);
        assert_eq!(denials.close(), 2);
        assert_eq!(denials.close(), 0, "a count is taken once");
        assert_eq!(denials.note(later), Noted::Listed, "a closed count ends its minute");
    }

    #[test]
    fn a_new_minute_begins_anew_and_the_last_moment_of_the_old_one_does_not() {
        let denials = full();
        let last = START.after(Millis(RATE_WINDOW_MS - 1));
        assert!(matches!(denials.note(last), Noted::CountOpened(Millis(1))));
        let denials = full();
        assert_eq!(denials.note(START.after(Millis(RATE_WINDOW_MS))), Noted::Listed);
    }

    #[test]
    fn a_count_that_nobody_took_yet_outlives_its_minute() {
        let denials = full();
        assert!(matches!(denials.note(START), Noted::CountOpened(_)));
        assert_eq!(denials.note(START.after(Millis(3 * RATE_WINDOW_MS))), Noted::Counted);
        assert_eq!(denials.close(), 2);
    }
}
