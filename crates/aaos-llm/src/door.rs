//! Who goes through next at one provider, and when somebody has to look again.
//!
//! Invariant: after [`Door::open`] either nobody waits, or no slot is free, or [`Door::look_at`] says when the next one
//! may start: who waits is never forgotten. It holds no lock and reads no clock.

use std::time::Duration;

use aaos_core::model::{Pace, Rates};
use tokio::time::Instant;

use crate::pace::{Epoch, Pacer};
use crate::queue::{Admitted, Come, Place, Queue, Turn};

/// One admission; given back with [`Door::end`].
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) turn: Turn,
    pub(crate) place: Place,
    epoch: Epoch,
    began: Instant,
    /// About how many tokens it takes.
    tokens: u64,
    /// Whether the provider has said anything to it.
    is_heard: bool,
}

/// What one call remembers of being turned away time after time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusals {
    /// How it comes to wait.
    pub(crate) come: Come,
    /// How often the provider turned it away and had taken another call since it had done so before.
    pub(crate) among_taken: u32,
    last: Option<Epoch>,
}

impl Refusals {
    /// None yet.
    pub(crate) const NONE: Self = Self { come: Come::Anew, among_taken: 0, last: None };
}

/// The way in to one provider.
#[derive(Debug)]
pub(crate) struct Door<W> {
    pub(crate) queue: Queue<W>,
    pacer: Pacer,
    /// Of the requests that the provider took, since when the latest ran.
    taken: Option<Epoch>,
    look_at: Option<Instant>,
    closed_until: Option<Instant>,
}

impl<W> Door<W> {
    pub(crate) fn new(slots: usize, most_waiting: usize, min_gap: Duration, rates: Rates) -> Self {
        let queue = Queue::new(slots, most_waiting);
        let pacer = Pacer::new(min_gap, rates);
        Self { queue, pacer, taken: None, look_at: None, closed_until: None }
    }

    /// Admits whoever may go in now.
    pub(crate) fn open(&mut self, now: Instant) -> Vec<(W, Pass)> {
        let mut admitted = Vec::new();
        self.look_at = None;
        while let Some(tokens) = self.queue.next() {
            self.look_at = self.pacer.opens_at(now, tokens);
            if self.look_at.is_some() {
                break;
            }
            let epoch = self.pacer.start(now, tokens);
            let Admitted { turn, place, waker } = self.queue.admit();
            admitted.push((waker, Pass { turn, place, epoch, began: now, tokens, is_heard: false }));
        }
        let next = self.queue.first().unwrap_or(0);
        self.closed_until = self.pacer.closed_until(now, next);
        admitted
    }

    /// When it has to be opened again though nothing else happens.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Until when the provider wants no request, as of the last time it was opened.
    pub(crate) fn closed_until(&self) -> Option<Instant> {
        self.closed_until
    }

    /// The provider answers this one, be it with a failure.
    pub(crate) fn heard(&mut self, pass: &mut Pass) {
        if !pass.is_heard {
            pass.is_heard = true;
            self.pacer.taken(pass.epoch);
        }
    }

    /// The provider took this one, and may have said what it has room for.
    pub(crate) fn taken(&mut self, now: Instant, pass: &mut Pass, pace: Pace) {
        self.heard(pass);
        self.taken = self.taken.max(Some(pass.epoch));
        self.pacer.welcomed(pass.epoch);
        self.pacer.told(now, pace);
    }

    /// This one took so many tokens.
    pub(crate) fn took(&mut self, pass: &Pass, tokens: u64) {
        self.pacer.took(pass.began, pass.tokens, tokens);
    }

    /// How many times in a row the provider wanted quiet and took nobody in between, if it turns this one away.
    pub(crate) fn wishes_with(&self, pass: &Pass) -> u32 {
        self.pacer.wishes_with(pass.epoch)
    }

    /// The provider turned this one away and wants quiet. At the first time in a row neither place nor turn is lost;
    /// then others go first, so that one which is always turned away keeps nobody else out. Returns what it has to
    /// remember, and until when it is quiet.
    pub(crate) fn turned_away(
        &mut self,
        pass: &mut Pass,
        until: Instant,
        earlier: Refusals,
    ) -> (Refusals, Instant) {
        let is_other_taken = !pass.is_heard && earlier.last.is_some_and(|last| self.taken >= Some(last));
        pass.is_heard = true;
        let come = if earlier.last.is_none() {
            self.queue.refund(pass.turn);
            Come::Back(pass.place)
        } else {
            Come::Behind
        };
        let until = self.pacer.close_until(pass.epoch, until);
        let among_taken = earlier.among_taken.saturating_add(u32::from(is_other_taken));
        (Refusals { come, among_taken, last: Some(self.pacer.epoch()) }, until)
    }

    /// Ends an admission.
    pub(crate) fn end(&mut self, now: Instant, pass: &Pass) {
        if !pass.is_heard {
            self.pacer.given_up(now, pass.epoch);
        }
        self.queue.release();
    }
}

#[cfg(test)]
mod tests;
