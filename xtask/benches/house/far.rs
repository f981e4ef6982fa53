//! Far processes without a daemon around them: launch to `Locked`, and the bare round trip of a worker.
//!
//! Invariant: the zygote is started while this process has one thread, as in agentd.

use std::time::{Duration, Instant};

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::limits::PARKED_WORKERS;
use aaos_sandbox::{Sandbox, SandboxConfig, Worker, ZygoteSeed};
use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

use crate::processes::{Plain, built};
use crate::stats::Samples;

/// Between two looks whether the pool is full.
const PARKING_TIME: Duration = Duration::from_millis(2);

/// The launcher, one worker, and the runtime they live in: the same kind as agentd's.
pub(crate) struct Far {
    runtime: Runtime,
    sandbox: Sandbox,
    worker: Option<Worker>,
}

/// Where the worker of a first call comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// Ordered from the zygote.
    Launched,
    /// Taken from the parked ones.
    Parked,
}

/// Workers that do nothing.
pub(crate) struct Crowd(Vec<Worker>);

impl Crowd {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|worker| worker.receipt().pid)
    }
}

impl Far {
    pub(crate) fn start() -> Result<Self> {
        let worker = built()?.join("aaos-worker");
        let seed = ZygoteSeed::start(&worker, None).context("start the zygote")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let sandbox = {
            let _inside = runtime.enter();
            let policy = SandboxConfig::from(ConfinementPolicy::default());
            let config = SandboxConfig { parked_workers: PARKED_WORKERS, parks_programs: true, ..policy };
            Sandbox::adopt(seed, config).context("adopt the zygote")?
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

    /// From the need for a worker to the answer to its first call. Its end is not part of the time.
    pub(crate) fn first_answer(&self, first: First) -> Result<Duration> {
        self.on_a_task(async move |sandbox| {
            let begun = Instant::now();
            let mut worker = match first {
                First::Launched => sandbox.launch_worker().await,
                First::Parked => sandbox.take_worker().await,
            }
            .context("get a worker")?;
            worker.probe(Vec::new()).await.context("ask the worker")?;
            let took = begun.elapsed();
            drop(worker.stop().await);
            Ok(took)
        })
    }

    /// Fills the pool and waits until it is full, and idle.
    pub(crate) fn until_parked(&self) -> Result<()> {
        self.on_a_task(async |sandbox| {
            sandbox.fill_pool();
            while sandbox.parked_workers() < PARKED_WORKERS {
                tokio::time::sleep(PARKING_TIME).await;
            }
            Ok(())
        })
    }

    /// Waits until the sandbox of the next program is made; a program has to have run.
    pub(crate) fn until_spare(&self) -> Result<()> {
        self.on_a_task(async |sandbox| {
            while !sandbox.has_spare_program() {
                tokio::time::sleep(PARKING_TIME).await;
            }
            Ok(())
        })
    }

    /// So many workers at once, each of which has been proved to be locked, has answered, and runs when the last one does.
    pub(crate) fn crowd(&self, count: usize) -> Result<Crowd> {
        self.on_a_task(async move |sandbox| {
            let mut workers = Vec::with_capacity(count);
            for _ in 0..count {
                let mut worker = sandbox.launch_worker().await.context("launch a worker")?;
                worker.probe(Vec::new()).await.context("ask the worker")?;
                workers.push(worker);
            }
            ensure!(workers.iter().all(Worker::is_usable), "a worker ended");
            Ok(Crowd(workers))
        })
    }

    /// Has each of a crowd answer once, and ends them.
    pub(crate) fn disperse(&self, crowd: Crowd) -> Result<()> {
        self.on_a_task(async move |_| {
            for mut worker in crowd.0 {
                worker.probe(Vec::new()).await.context("ask a worker of many")?;
                drop(worker.stop().await);
            }
            Ok(())
        })
    }

    /// Runs `work` on a task, as in agentd: a thread that blocks on the runtime is woken another way.
    pub(crate) fn on_a_task<T: Send + 'static, W>(&self, work: impl FnOnce(Sandbox) -> W) -> Result<T>
    where
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.runtime.block_on(self.runtime.spawn(work(self.sandbox.clone())))?
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
