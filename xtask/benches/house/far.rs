//! Far processes without a daemon around them: launch to `Locked`, and the bare round trip of a worker.
//!
//! Invariant: the zygote is started while this process has one thread, as in agentd.

use std::time::{Duration, Instant};

use aaos_core::confinement::ConfinementPolicy;
use aaos_sandbox::{Sandbox, Worker, ZygoteSeed};
use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use crate::processes::{Plain, built};
use crate::stats::Samples;

/// The launcher, one worker, and the runtime they live in: the same kind as agentd's.
pub(crate) struct Far {
    runtime: Runtime,
    sandbox: Sandbox,
    worker: Option<Worker>,
}

impl Far {
    pub(crate) fn start() -> Result<Self> {
        let worker = built()?.join("aaos-worker");
        let seed = ZygoteSeed::start(&worker, None).context("start the zygote")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let sandbox = {
            let _inside = runtime.enter();
            Sandbox::adopt(seed, ConfinementPolicy::default()).context("adopt the zygote")?
        };
        Ok(Self { runtime, sandbox, worker: None })
    }

    /// A frame to a locked worker and one back, nothing done in between.
    pub(crate) fn round_trips(&mut self, times: usize) -> Result<Samples> {
        let (sandbox, held) = (self.sandbox.clone(), self.worker.take());
        // On a task, as in agentd: a thread that blocks on the runtime is woken another way.
        let done = self.runtime.spawn(async move {
            let mut worker = match held {
                Some(worker) => worker,
                None => sandbox.launch_worker().await.context("launch a worker")?,
            };
            let mut samples = Samples::default();
            for _ in 0..times {
                let begun = Instant::now();
                worker.probe(Vec::new()).await.context("ask the worker")?;
                samples.push_micros(begun.elapsed());
            }
            anyhow::Ok((worker, samples))
        });
        let (worker, samples) = self.runtime.block_on(done)??;
        self.worker = Some(worker);
        Ok(samples)
    }

    /// One launch, from the order to the proof that it is locked. Its end is not part of the time.
    pub(crate) fn launch(&self) -> Result<Duration> {
        let sandbox = self.sandbox.clone();
        let done = self.runtime.spawn(async move {
            let begun = Instant::now();
            let worker = sandbox.launch_worker().await.context("launch a worker")?;
            let took = begun.elapsed();
            drop(worker.stop().await);
            anyhow::Ok(took)
        });
        self.runtime.block_on(done)?
    }

    /// Launches and plain spawns, turn by turn.
    pub(crate) fn launches(&self, plain: &Plain, times: usize) -> Result<(Samples, Samples)> {
        let (mut locked, mut spawned) = (Samples::default(), Samples::default());
        self.launch()?;
        plain.spawn()?;
        for _ in 0..times {
            locked.push_micros(self.launch()?);
            spawned.push_micros(plain.spawn()?);
        }
        Ok((locked, spawned))
    }

    pub(crate) fn stop(mut self) {
        let (sandbox, worker) = (self.sandbox.clone(), self.worker.take());
        self.runtime.block_on(async move {
            if let Some(worker) = worker {
                drop(worker.stop().await);
            }
            sandbox.shutdown().await;
        });
    }
}
