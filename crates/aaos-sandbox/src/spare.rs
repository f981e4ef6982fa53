//! A program sandbox that was made before any call needs it.
//!
//! Invariants: it has been told nothing of any call, and is everything but what a call decides; it is not locked yet and proves itself
//! when it was taken, as any other. It is taken once, for one call. There is one at most, one task at most makes it, and
//! once this is closed it holds nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aaos_confine::control::Order;
use aaos_core::limits::POOL_PAUSE_MS;
use aaos_core::program::ProgramOrder;

use crate::launch::{Inner, Made, Sandbox, within};
use crate::receipt::PROGRAM_BOUNDS;

/// The place of the spare one.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    made: Option<Made>,
    is_making: bool,
    is_closed: bool,
}

impl Spare {
    /// The one that is there, if it still runs.
    pub(crate) fn take(&self) -> Option<Made> {
        let made = self.state().made.take()?;
        if made.runs() {
            return Some(made);
        }
        tracing::warn!("a program sandbox ended before anybody used it");
        None
    }

    /// Tells the one that is there that a call may take it soon. Who takes it says what it is for.
    pub(crate) fn expect(&self) {
        if let Some(made) = &self.state().made
            && let Err(error) = made.channel.send_now(&ProgramOrder::Expect {})
        {
            tracing::warn!(%error, "the sandbox that waits for a program cannot be told that one comes");
        }
    }

    /// Ends the one that is there and keeps no more.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.made = None;
    }

    /// Whether the caller is to make one.
    fn begin(&self) -> bool {
        let mut state = self.state();
        let is_wanted = !state.is_making && !state.is_closed && state.made.is_none();
        state.is_making |= is_wanted;
        is_wanted
    }

    /// Keeps what was made, if anything was. What a closed place is given ends.
    fn end(&self, made: Option<Made>) {
        let mut state = self.state();
        state.is_making = false;
        state.made = made.filter(|_| !state.is_closed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandbox {
    /// Makes a spare one in the background where there is none; inside a tokio runtime.
    pub(crate) fn make_spare(&self) {
        if self.inner.parks_programs() && self.inner.spare.begin() {
            drop(tokio::spawn(make(Arc::downgrade(&self.inner))));
        }
    }

    /// Whether a program sandbox waits for a call.
    #[must_use]
    pub fn has_spare_program(&self) -> bool {
        self.inner.spare.state().made.as_ref().is_some_and(Made::runs)
    }
}

async fn make(sandbox: Weak<Inner>) {
    // Whoever took the last one has a call to make, which comes first.
    tokio::time::sleep(Duration::from_millis(POOL_PAUSE_MS)).await;
    let Some(inner) = sandbox.upgrade().filter(|inner| !inner.spare.state().is_closed) else { return };
    let sandbox = Sandbox { inner };
    let made = within("be made", sandbox.make(Order::Program, &[], PROGRAM_BOUNDS)).await;
    let made = made.and_then(|made| made);
    // The next call tries again; one that needs it is told why there is none.
    let made = made.inspect_err(|error| tracing::warn!(%error, "no program sandbox could be parked"));
    sandbox.inner.spare.end(made.ok());
}
