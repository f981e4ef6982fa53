//! One confined worker as its agent's owner holds it.
//!
//! Invariants: a worker serves one call at a time; once condemned it never serves another. Dropping it ends
//! the process.

use std::time::Duration;

use aaos_core::confinement::{Boundary, ConfinementReceipt, ProbeResult};
use aaos_core::id::WorkerId;
use aaos_core::limits::FAR_PROBE_MS;
use aaos_core::quantity::Millis;
use aaos_core::wire::{JobOutput, ProbeAttempt, WorkerJob, WorkerReply, WorkerRequest};

use crate::channel::FarChannel;
use crate::error::SandboxError;
use crate::gauge::Gauge;
use crate::process::{FarProcess, WorkerEnd, WorkerKiller};

/// One confined worker. It may serve one agent.
#[derive(Debug)]
pub struct Worker {
    pub(crate) channel: FarChannel,
    process: FarProcess,
    receipt: ConfinementReceipt,
    missing: Vec<Boundary>,
    usable: bool,
    last_call: u64,
    /// How long one call may run.
    pub(crate) call_time: Millis,
}

impl Worker {
    pub(crate) fn new(
        channel: FarChannel,
        process: FarProcess,
        receipt: ConfinementReceipt,
        missing: Vec<Boundary>,
        call_time: Millis,
    ) -> Self {
        Self { channel, process, receipt, missing, usable: true, last_call: 0, call_time }
    }

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
        self.usable && !self.process.has_ended()
    }

    /// Whether the process runs, by the word of the kernel, which knows before the launcher has told.
    pub(crate) fn runs(&self) -> bool {
        self.usable && self.process.runs()
    }

    /// A handle that ends this worker from elsewhere; a call in flight then fails.
    #[must_use]
    pub fn killer(&self) -> WorkerKiller {
        self.process.killer()
    }

    /// Reads what this worker uses of the machine, from elsewhere and while it works.
    #[must_use]
    pub fn gauge(&self) -> Option<Gauge> {
        self.process.gauge()
    }

    /// Ends a worker that was seen above the limit of its memory, and says how it ended.
    pub(crate) async fn end_overrun(&mut self) -> WorkerEnd {
        self.usable = false;
        self.process.end_overrun();
        self.process.autopsy().await
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
        self.process.kill();
    }

    /// Ends a worker whose channel failed and says how it ended.
    pub(crate) async fn autopsy(&mut self) -> WorkerEnd {
        self.usable = false;
        // A closed channel means that it is ending by itself; its own exit code says more than our signal.
        if self.channel.is_hung_up() {
            self.process.let_end().await;
        }
        self.process.kill();
        self.process.autopsy().await
    }

    /// Has the worker try to cross boundaries from inside.
    ///
    /// # Errors
    /// When the worker ended or did not answer in time; it is not usable then.
    pub async fn probe(&mut self, attempts: Vec<ProbeAttempt>) -> Result<Vec<ProbeResult>, SandboxError> {
        let limit = Millis(FAR_PROBE_MS);
        let asked = self.ask_probes(attempts);
        let answer = match tokio::time::timeout(Duration::from_millis(limit.0), asked).await {
            Ok(answer) => answer,
            Err(_) => Err(SandboxError::TimedOut { what: "answer probes", limit }),
        };
        if answer.is_err() {
            self.condemn();
        }
        answer
    }

    async fn ask_probes(&mut self, attempts: Vec<ProbeAttempt>) -> Result<Vec<ProbeResult>, SandboxError> {
        let call = self.next_call();
        let job = Box::new(WorkerJob::Probe { attempts });
        self.channel.send(&WorkerRequest::Call { call, job }, &[]).await?;
        match self.channel.receive().await? {
            WorkerReply::Done { call: done, result: Ok(JobOutput::Probe(results)) } if done == call => {
                Ok(results)
            }
            _ => Err(SandboxError::Protocol { what: "something else than the results of probes" }),
        }
    }

    /// Ends the worker and says how it ended.
    pub async fn stop(self) -> WorkerEnd {
        // The channel is closed after the kill, so that the end is told as what it was.
        self.process.stop().await
    }
}
