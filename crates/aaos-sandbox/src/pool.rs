//! Workers that were launched and proved before anybody needs them.
//!
//! Invariants: only a fresh launch is ever parked, and what was taken never comes back, so a parked worker has served
//! nobody. One that has ended is not handed out. The pool is bounded, one task at most fills it, one launch at a time,
//! and once it is closed it holds nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aaos_core::limits::{POOL_ATTEMPTS, POOL_PAUSE_MS};

use crate::error::SandboxError;
use crate::launch::{Inner, Sandbox};
use crate::worker::Worker;

/// The parked workers.
#[derive(Debug)]
pub(crate) struct Pool {
    most: usize,
    parked: Mutex<Parked>,
}

#[derive(Debug, Default)]
struct Parked {
    /// The oldest first.
    workers: VecDeque<Worker>,
    is_filling: bool,
    is_closed: bool,
}

impl Pool {
    /// A pool that holds so many workers when it is full.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, parked: Mutex::default() }
    }

    /// How many are parked.
    fn len(&self) -> usize {
        self.parked().workers.len()
    }

    /// The oldest parked worker that still runs.
    fn take(&self) -> Option<Worker> {
        let mut parked = self.parked();
        while let Some(worker) = parked.workers.pop_front() {
            if worker.runs() {
                return Some(worker);
            }
            tracing::warn!(worker = %worker.id(), "a parked worker ended before anybody used it");
        }
        None
    }

    /// Whether the caller is to fill it: there is room, and nobody fills it already.
    fn begin(self: &Arc<Self>) -> Option<Filling> {
        let mut parked = self.parked();
        let is_wanted = !parked.is_filling && !parked.is_closed && parked.workers.len() < self.most;
        parked.is_filling |= is_wanted;
        is_wanted.then(|| Filling(Arc::clone(self)))
    }

    /// Parks a worker that was just launched; says whether there is room for another.
    fn park(&self, worker: Worker) -> bool {
        let mut parked = self.parked();
        if parked.is_closed {
            return false;
        }
        parked.workers.push_back(worker);
        assert!(parked.workers.len() <= self.most, "one task fills the pool, up to its bound");
        parked.workers.len() < self.most
    }

    /// Ends what is parked and parks nothing more.
    pub(crate) fn close(&self) {
        let mut parked = self.parked();
        parked.is_closed = true;
        parked.workers.clear();
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to fill a pool; given back when dropped.
struct Filling(Arc<Pool>);

impl Drop for Filling {
    fn drop(&mut self) {
        self.0.parked().is_filling = false;
    }
}

impl Sandbox {
    /// A worker for one agent, for good: a parked one, else one that is launched now. What was taken is replaced in
    /// the background.
    ///
    /// # Errors
    /// As [`Sandbox::launch_worker`].
    pub async fn take_worker(&self) -> Result<Worker, SandboxError> {
        let parked = self.inner.pool.take();
        self.fill_pool();
        match parked {
            Some(worker) => Ok(worker),
            None => self.launch_worker().await,
        }
    }

    /// Launches workers in the background until as many are parked as the configuration says; inside a tokio runtime.
    pub fn fill_pool(&self) {
        if let Some(filling) = self.inner.pool.begin() {
            drop(tokio::spawn(fill(Arc::downgrade(&self.inner), filling)));
        }
    }

    /// How many workers are parked.
    #[must_use]
    pub fn parked_workers(&self) -> usize {
        self.inner.pool.len()
    }
}

/// A fresh worker that has answered once: so it is proved to serve, and what its first call needs is in memory.
async fn launch_ready(sandbox: &Sandbox) -> Result<Worker, SandboxError> {
    let mut worker = sandbox.launch_worker().await?;
    worker.probe(Vec::new()).await?;
    Ok(worker)
}

/// Fills the pool until it is full, or a launch fails, or nobody holds the sandbox any more.
async fn fill(sandbox: Weak<Inner>, filling: Filling) {
    // Whoever took the last one has a call to make, which comes first.
    tokio::time::sleep(Duration::from_millis(POOL_PAUSE_MS)).await;
    let mut failed = 0;
    while let Some(inner) = sandbox.upgrade() {
        match launch_ready(&Sandbox { inner }).await {
            Ok(worker) => {
                if !filling.0.park(worker) {
                    break;
                }
            }
            // After a few the next that is taken tries again; an agent that needs one is told why there is none.
            Err(error) => {
                tracing::warn!(%error, "no worker could be parked");
                failed += 1;
                if failed == POOL_ATTEMPTS {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(POOL_PAUSE_MS)).await;
            }
        }
    }
    drop(filling);
    // One may have been taken while this task still had the right to fill.
    if let Some(inner) = sandbox.upgrade() {
        (Sandbox { inner }).fill_pool();
    }
}
