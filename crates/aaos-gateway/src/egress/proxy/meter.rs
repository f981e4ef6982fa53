//! What one proxied connection may still move, and what it has moved.
//!
//! Invariants: a byte is paid for before it is passed on, so `sent + received` never exceeds what was leased; when the
//! lease is used up agentd is asked for more once, and nothing moves until it answers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aaos_core::quantity::Bytes;
use aaos_core::wire::{EgressReply, RequestSerial};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::channel::Outbox;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the host.
    Out,
    /// To the program.
    In,
}

/// The meter of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    serial: RequestSerial,
    outbox: Outbox,
    state: Mutex<State>,
    leased: Notify,
}

#[derive(Debug)]
struct State {
    left: u64,
    sent: u64,
    received: u64,
    /// agentd was asked for more and has not answered.
    is_asked: bool,
    /// When something moved last.
    moved: Instant,
}

impl Meter {
    pub(super) fn new(serial: RequestSerial, outbox: Outbox) -> Self {
        let state = State { left: 0, sent: 0, received: 0, is_asked: false, moved: Instant::now() };
        Self { serial, outbox, state: Mutex::new(state), leased: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection stands; from now on something has to move.
    pub(super) fn begin(&self) {
        self.state().moved = Instant::now();
    }

    /// More may be moved.
    pub(super) fn lease(&self, bytes: Bytes) {
        let mut state = self.state();
        state.left = state.left.saturating_add(bytes.0);
        state.is_asked = false;
        drop(state);
        self.leased.notify_waiters();
    }

    /// Pays for up to `most` bytes, at least one; waits while there is nothing to pay with.
    pub(super) async fn pay(&self, most: usize, way: Way) -> usize {
        assert!(most > 0, "there is something to move");
        loop {
            // Made before the look, so that a lease that comes in between is not missed.
            let leased = self.leased.notified();
            match self.try_pay(most, way) {
                Ok(paid) => return paid,
                Err(true) => {
                    let (sent, received) = self.moved();
                    self.outbox.send(&EgressReply::Spent { serial: self.serial, sent, received }).await;
                }
                Err(false) => {}
            }
            leased.await;
        }
    }

    /// How much could be paid for; when nothing, whether agentd has to be asked for more.
    fn try_pay(&self, most: usize, way: Way) -> Result<usize, bool> {
        let mut state = self.state();
        if state.left == 0 {
            let asks = !state.is_asked;
            state.is_asked = true;
            return Err(asks);
        }
        let paid = usize::try_from(state.left).unwrap_or(usize::MAX).min(most);
        let bytes = paid as u64;
        state.left -= bytes;
        match way {
            Way::Out => state.sent += bytes,
            Way::In => state.received += bytes,
        }
        state.moved = Instant::now();
        Ok(paid)
    }

    /// Bytes that went out and came in.
    pub(super) fn moved(&self) -> (Bytes, Bytes) {
        let state = self.state();
        (Bytes(state.sent), Bytes(state.received))
    }

    /// When something moved last.
    pub(super) fn last_moved(&self) -> Instant {
        self.state().moved
    }
}
