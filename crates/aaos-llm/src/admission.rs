//! Who may ask a provider, and when.
//!
//! Invariants: at most `slots` admissions of one provider are held at once, in order of arrival; between two
//! starts lies at least the minimum gap; while the provider asked for quiet nobody is admitted. Providers do
//! not wait for each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aaos_core::model::ProviderState;
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::route::provider_of;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// The gates of all providers.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: usize,
    min_gap: Duration,
    gates: Mutex<BTreeMap<GateKey, Arc<Gate>>>,
}

/// Whose gate: a provider's, or the one shared by models that no known provider serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GateKey {
    /// A configured provider.
    Provider(ProviderName),
    /// Nobody knows.
    Other,
}

impl GateKey {
    /// The provider that will serve a model.
    pub(crate) fn of(model: &ModelName, providers: &[ProviderState]) -> Self {
        provider_of(providers, model).map_or(Self::Other, |provider| Self::Provider(provider.name.clone()))
    }
}

/// One provider's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    // TODO: take turns between goals instead of arrival order when the issue on scheduling is built; a goal
    // with many agents can fill the queue of a provider until then.
    slots: Arc<Semaphore>,
    min_gap: Duration,
    not_before: Mutex<Option<Instant>>,
}

/// A slot in use; dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(slots: usize, min_gap: Duration) -> Self {
        assert!(slots > 0, "a provider has at least one slot");
        Self { slots, min_gap, gates: Mutex::new(BTreeMap::new()) }
    }

    /// The gate of a provider; made when it is first asked for. There are as many as configured providers and
    /// one more.
    pub(crate) fn gate(&self, key: GateKey) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(key).or_insert_with(|| Arc::new(Gate::new(self.slots, self.min_gap)));
        Arc::clone(gate)
    }
}

impl Gate {
    fn new(slots: usize, min_gap: Duration) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots)), min_gap, not_before: Mutex::new(None) }
    }

    /// Waits for a slot and for the gate to be open. Cancel-safe.
    pub(crate) async fn admit(&self) -> Slot {
        let permit = Arc::clone(&self.slots).acquire_owned().await;
        let permit = permit.unwrap_or_else(|_| unreachable!("the slots are never closed"));
        loop {
            let Some(closed_until) = self.pass(Instant::now()) else { return Slot { _permit: permit } };
            sleep_until(closed_until).await;
        }
    }

    /// Keeps everybody out until `until`, unless they are kept out longer already.
    pub(crate) fn close_until(&self, until: Instant) {
        let mut not_before = self.lock();
        *not_before = Some(not_before.map_or(until, |earlier| earlier.max(until)));
    }

    /// Passes the gate if it is open and keeps the next one waiting for the gap; else says until when it is
    /// closed.
    fn pass(&self, now: Instant) -> Option<Instant> {
        let mut not_before = self.lock();
        match *not_before {
            Some(until) if until > now => Some(until),
            Some(_) | None => {
                *not_before = now.checked_add(self.min_gap);
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
