//! The calls that wait at each provider, and what wakes them.
//!
//! Invariants: a call that is dropped, wherever it stands, leaves its place or its slot to the next; whoever changes
//! something opens the door again, and where only time is missing the provider's alarm does. Providers do not wait for
//! each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aaos_core::limits::MAX_QUEUED_INFERENCES;
use aaos_core::model::{Pace, ProviderState, Rates};
use aaos_core::name::ProviderName;
use aaos_core::quantity::Tokens;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::door::{Door, Pass, Refusals};
use crate::error::LlmError;
use crate::queue::{Place, Turn};

/// The gates of all providers.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: usize,
    min_gap: Duration,
    gates: Mutex<Gates>,
}

/// By provider; the one without is shared by models that no known provider serves.
type Gates = BTreeMap<Option<ProviderName>, (Arc<Gate>, Alarm)>;

/// One provider's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    provider: Option<ProviderName>,
    door: Mutex<Door<oneshot::Sender<Slot>>>,
    /// Until when the provider wants no request; whoever waits shows it.
    closed: watch::Sender<Option<Instant>>,
    /// Rings when the alarm has to look at another time.
    reset: Arc<Notify>,
}

/// Opens a gate when it is time; ends with what it belongs to.
#[derive(Debug)]
struct Alarm(JoinHandle<()>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a call asks to be admitted with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) turn: Turn,
    /// About how many tokens it takes.
    pub(crate) tokens: u64,
    /// How it was turned away before.
    pub(crate) refusals: Refusals,
}

impl Admission {
    pub(crate) fn new(slots: usize, min_gap: Duration) -> Self {
        assert!(slots > 0, "a provider has at least one slot");
        Self { slots, min_gap, gates: Mutex::default() }
    }

    /// The gate of a provider; made when it is first asked for, within a runtime. There are as many as configured
    /// providers and one more.
    pub(crate) fn gate(&self, provider: Option<&ProviderState>) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let name = provider.map(|provider| provider.name.clone());
        let slots = provider.and_then(|provider| provider.slots).unwrap_or(self.slots).max(1);
        let rates = provider.map(|provider| provider.rates).unwrap_or_default();
        let (gate, _) = gates.entry(name.clone()).or_insert_with(|| {
            let gate = Arc::new(Gate::new(name, slots, self.min_gap, rates));
            let alarm = tokio::spawn(ring(Arc::downgrade(&gate), Arc::clone(&gate.reset)));
            (gate, Alarm(alarm))
        });
        Arc::clone(gate)
    }
}

/// Opens the gate at each time that it names.
async fn ring(gate: Weak<Gate>, reset: Arc<Notify>) {
    loop {
        let look_at = match gate.upgrade() {
            Some(gate) => gate.lock().look_at(),
            None => return,
        };
        match look_at {
            None => reset.notified().await,
            Some(at) => tokio::select! {
                () = sleep_until(at) => gate.upgrade().iter().for_each(Gate::open),
                () = reset.notified() => {}
            },
        }
    }
}

impl Gate {
    fn new(provider: Option<ProviderName>, slots: usize, min_gap: Duration, rates: Rates) -> Self {
        let door = Door::new(slots, MAX_QUEUED_INFERENCES, min_gap, rates);
        Self { provider, door: Mutex::new(door), closed: watch::Sender::new(None), reset: Arc::default() }
    }

    /// Whose gate it is, where that is known.
    pub(crate) fn provider(&self) -> Option<&ProviderName> {
        self.provider.as_ref()
    }

    /// Waits for a turn. Cancel-safe. Whoever has to wait is told until when the provider wants quiet, whenever that
    /// changes; without a time it waits for a slot.
    ///
    /// # Errors
    /// [`LlmError::Busy`] when too many wait already.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        wish: Wish,
        mut waits: impl FnMut(Option<Instant>) + Send,
    ) -> Result<Slot, LlmError> {
        let mut closed = self.closed.subscribe();
        let (waker, mut admitted) = oneshot::channel();
        let Wish { turn, tokens, refusals } = wish;
        let place = self.lock().queue.join(turn, tokens, refusals.come, waker).ok_or(LlmError::Busy)?;
        let _leaving = Leaving { gate: self, turn, place };
        self.open();
        if let Ok(slot) = admitted.try_recv() {
            return Ok(slot);
        }
        loop {
            let until = closed.borrow_and_update().filter(|until| *until > Instant::now());
            waits(until);
            tokio::select! {
                biased;
                slot = &mut admitted => return Ok(slot.unwrap_or_else(|_| unreachable!("who waits is not forgotten"))),
                changed = closed.changed() => assert!(changed.is_ok(), "the gate lives as long as who waits at it"),
                () = at(until) => {}
            }
        }
    }

    /// Admits whoever may go in now.
    fn open(self: &Arc<Self>) {
        let mut door = self.lock();
        let admitted = door.open(Instant::now());
        let (closed, look_at) = (door.closed_until(), door.look_at());
        // Under the lock, so that what is shown last is what holds.
        self.closed.send_if_modified(|shown| std::mem::replace(shown, closed) != closed);
        drop(door);
        if look_at.is_some() {
            self.reset.notify_one();
        }
        for (waker, pass) in admitted {
            // Whoever left meanwhile leaves its slot to the next.
            drop(waker.send(Slot { gate: Arc::clone(self), pass }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Door<oneshot::Sender<Slot>>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A call in the queue; dropped, it leaves.
struct Leaving<'g> {
    gate: &'g Arc<Gate>,
    turn: Turn,
    place: Place,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let has_left = self.gate.lock().queue.leave(self.turn.party, self.place);
        if has_left {
            // It may have been the one that the others waited for.
            self.gate.open();
        }
    }
}

/// A slot in use; dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    gate: Arc<Gate>,
    pass: Pass,
}

impl Slot {
    /// The provider answers with a failure.
    pub(crate) fn heard(&mut self) {
        self.gate.lock().heard(&mut self.pass);
        self.gate.open();
    }

    /// The provider took the request.
    pub(crate) fn taken(&mut self, pace: Pace) {
        self.gate.lock().taken(Instant::now(), &mut self.pass, pace);
        self.gate.open();
    }

    /// The request took so many tokens.
    pub(crate) fn took(&mut self, tokens: Tokens) {
        self.gate.lock().took(&self.pass, tokens.0);
        self.gate.open();
    }

    /// How many times in a row the provider wanted quiet and took nobody in between, with this time.
    pub(crate) fn wishes(&self) -> u32 {
        self.gate.lock().wishes_with(&self.pass)
    }

    /// The provider wants no request before `until`, from anybody. Gives what to come back with, and until when it is
    /// quiet.
    pub(crate) fn turned_away(mut self, until: Instant, earlier: Refusals) -> (Refusals, Instant) {
        self.gate.lock().turned_away(&mut self.pass, until, earlier)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.lock().end(Instant::now(), &self.pass);
        self.gate.open();
    }
}
