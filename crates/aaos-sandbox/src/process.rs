//! One far process as agentd holds it: its channel, its receipt, and the ways to end it.
//!
//! Invariants: a worker serves one call at a time; once condemned it never serves another. Dropping it ends the
//! process.

use aaos_core::confinement::{Boundary, ConfinementReceipt, ProbeResult};
use aaos_core::id::WorkerId;
use aaos_core::wire::ProbeAttempt;

use crate::channel::FarChannel;
use crate::error::SandboxError;

/// One confined worker. It may serve one agent.
#[derive(Debug)]
pub struct Worker {
    pub(crate) channel: FarChannel,
    receipt: ConfinementReceipt,
    missing: Vec<Boundary>,
    usable: bool,
    last_call: u64,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerEnd {
    /// Exit code or signal, in words.
    pub reason: String,
    /// The end of what it printed, made harmless.
    pub stderr_tail: String,
}

impl Worker {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.receipt.worker
    }

    /// How it is confined.
    #[must_use]
    pub fn receipt(&self) -> &ConfinementReceipt {
        &self.receipt
    }

    /// Preferred boundaries that it lacks.
    #[must_use]
    pub fn missing(&self) -> &[Boundary] {
        &self.missing
    }

    /// Whether it can serve another call.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// A fresh number for the next call.
    pub(crate) fn next_call(&mut self) -> u64 {
        self.last_call += 1;
        self.last_call
    }

    /// Ends the process now and never uses it again: it broke the protocol, overran its time, or its call was
    /// given up half-way.
    pub(crate) fn condemn(&mut self) {
        self.usable = false;
    }

    /// Ends a worker whose channel failed and says how it ended.
    pub(crate) async fn autopsy(&mut self) -> WorkerEnd {
        self.condemn();
        WorkerEnd { reason: String::new(), stderr_tail: String::new() }
    }

    /// Has the worker try to cross boundaries from inside.
    ///
    /// # Errors
    /// When the worker ended or did not answer in time.
    pub async fn probe(&mut self, attempts: Vec<ProbeAttempt>) -> Result<Vec<ProbeResult>, SandboxError> {
        self.channel.send(&attempts, &[]).await?;
        self.channel.receive().await
    }

    /// Ends the worker and says how it ended.
    pub async fn stop(mut self) -> WorkerEnd {
        self.autopsy().await
    }
}
