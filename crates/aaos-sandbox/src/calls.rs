//! One tool call in one worker, from permit to receipt.
//!
//! Invariants: the worker runs one call at a time and never outlives a call that was given up: a dropped
//! future, a timeout or a broken protocol condemns it. A write is committed only after the worker is done, so a
//! worker that dies writes nothing. The file system is touched on an async thread only to open a file whose name and inode
//! the kernel has in memory, on a disk of this machine.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aaos_core::budget::Shortfall;
use aaos_core::effect::ToolOutcome;
use aaos_core::id::WorkerId;
use aaos_core::limits::WORKER_MEMORY_BYTES;
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity};
use aaos_core::tool::{ToolCall, ToolInput, find};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{JobOutput, WorkerJob, WorkerReply, WorkerRequest};
use aaos_journal::{Permit, Receipt};
use tokio::time::Instant;

use crate::broker::{Answer, Broker};
use crate::egress::FetchedPage;
use crate::error::SandboxError;
use crate::gauge::{Gauge, OutOfMemory};
use crate::plan::{Plan, Request, claimed_bytes, fits, render};
use crate::roots::RootTable;
use crate::worker::Worker;

impl Worker {
    /// Runs one call. `page` is what the egress gateway fetched, for `web_fetch`. Dropping the future condemns
    /// the worker; a write that had already reached its commit still happens.
    pub async fn run(
        &mut self,
        permit: Permit<ToolCall>,
        roots: &RootTable,
        page: Option<FetchedPage>,
    ) -> Receipt<ToolCall> {
        let request = Request {
            call: permit.call(),
            repeated: permit.is_resumed(),
            input: permit.effect().input.clone(),
            at: permit.effect().at(),
            all: permit.all().to_vec(),
            each: permit.each().to_vec(),
            page,
            table: roots.clone(),
            most: permit.reserved(),
        };
        let outcome = self.run_request(request).await;
        permit.settle(outcome)
    }

    /// The same without the seals.
    pub(crate) async fn run_request(&mut self, request: Request) -> ToolOutcome {
        let started = Instant::now();
        let input = request.input.clone();
        let fetched = request.page.as_ref().map_or(0, |page| page.received.0);
        let mut moved = Moved { most: request.most, done: Amounts::of(Quantity::EgressBytes, fetched) };
        let mut worker = None;
        let result = match plan(request).await {
            Ok(plan) => {
                worker = Some(self.id());
                self.run_plan(&input, plan, &mut moved).await
            }
            Err(failure) => Err(failure),
        };
        outcome(&input, result, worker, moved.done, started)
    }

    async fn run_plan(
        &mut self,
        input: &ToolInput,
        plan: Plan,
        moved: &mut Moved,
    ) -> Result<String, ToolFailure> {
        let Plan { job, descriptors, broker, commit } = plan;
        let mut turn = InCall { worker: self, over: false };
        let output = turn.ask(input.name(), job, descriptors, broker).await?;
        if !fits(input, &output) {
            turn.over = false;
            return Err(turn.lost(&SandboxError::Protocol { what: "the result is not of the call" }).await);
        }
        if let Some(commit) = commit {
            let claimed = claimed_bytes(&output);
            moved.check_write(claimed)?;
            if let Err(error) = off_thread(move || commit.run(claimed)).await? {
                turn.over = !error.is_by_the_worker();
                return Err(error.to_failure());
            }
            moved.count_write(claimed);
        }
        limited(input, render(&output))
    }
}

impl Worker {
    /// Has the worker do a job that is no call of its own.
    pub(crate) async fn ask(
        &mut self,
        what: &str,
        job: WorkerJob,
        descriptors: Vec<OwnedFd>,
    ) -> Result<JobOutput, ToolFailure> {
        InCall { worker: self, over: false }.ask(what, job, descriptors, None).await
    }

    /// The failure of a call whose worker gave an answer that is none; it is not used again.
    pub(crate) async fn broke(&mut self, error: &SandboxError) -> ToolFailure {
        InCall { worker: self, over: false }.lost(error).await
    }
}

/// What a call may move and what it has moved.
struct Moved {
    most: Amounts,
    done: Amounts,
}

impl Moved {
    /// Refuses a file that is larger than what was reserved for it: an edit's size is known only now.
    fn check_write(&self, bytes: Bytes) -> Result<(), ToolFailure> {
        let most = self.most.get(Quantity::WrittenBytes);
        if bytes.0 <= most {
            return Ok(());
        }
        let message = format!(
            "the file would have {bytes} bytes, and the budget (max_written_bytes) leaves {most}; nothing was written"
        );
        let lacks = Shortfall { quantity: Quantity::WrittenBytes, wanted: bytes.0, remaining: most };
        Err(ToolFailure::budget(lacks, message))
    }

    fn count_write(&mut self, bytes: Bytes) {
        self.done = self.done.with(Quantity::WrittenBytes, bytes.0).with(Quantity::Files, 1);
    }
}

/// Marks that a call is running: unless it is over when this is dropped, the worker is condemned.
struct InCall<'w> {
    worker: &'w mut Worker,
    over: bool,
}

impl InCall<'_> {
    /// Has the worker do a job. It is done when this answers with the worker's own word, result or failure.
    async fn ask(
        &mut self,
        what: &str,
        job: WorkerJob,
        descriptors: Vec<OwnedFd>,
        broker: Option<Broker>,
    ) -> Result<JobOutput, ToolFailure> {
        let call = self.worker.next_call();
        let request = WorkerRequest::Call { call, job: Box::new(job) };
        let limit = self.worker.call_time;
        let gauge = self.worker.gauge();
        let talk = async {
            let lent: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            self.worker.channel.send(&request, &lent).await?;
            drop(descriptors);
            converse(self.worker, call, broker).await
        };
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout(Duration::from_millis(limit.0), talk) => answered,
            () = overrun(gauge) => return Err(self.overran().await),
        };
        match answered {
            Ok(Ok(answer)) => {
                self.over = true;
                // What a purse lacks is not for a worker to say.
                answer.map_err(|failure| ToolFailure { lacks: None, ..failure })
            }
            Ok(Err(error)) => Err(self.lost(&error).await),
            Err(_) => {
                let message = format!("{what} took longer than {limit}; it was ended");
                Err(ToolFailure::new(ToolFailureKind::Timeout, message))
            }
        }
    }

    /// The failure of a call whose worker is gone or not to be trusted any more.
    async fn lost(&mut self, error: &SandboxError) -> ToolFailure {
        let end = self.worker.autopsy().await;
        if let Some(why) = end.out_of_memory {
            return out_of_memory(why);
        }
        let mut message =
            format!("the confined worker was lost ({error}; {}); nothing was written", end.reason);
        if !end.stderr_tail.is_empty() {
            message = format!("{message}; it said: {}", end.stderr_tail);
        }
        ToolFailure::new(ToolFailureKind::WorkerLost, message)
    }

    /// The failure of a call whose worker was seen above the limit of its memory.
    async fn overran(&mut self) -> ToolFailure {
        let end = self.worker.end_overrun().await;
        // Whatever else ended it meanwhile, this is why the call is over.
        out_of_memory(end.out_of_memory.unwrap_or(OutOfMemory::Limit(Bytes(WORKER_MEMORY_BYTES))))
    }
}

fn out_of_memory(why: OutOfMemory) -> ToolFailure {
    let next = match why {
        OutOfMemory::Limit(_) => "ask for less at once",
        OutOfMemory::Elsewhere(_) => "try again when there is more",
    };
    let message = format!("{why}; the worker was ended and nothing was written; {next}");
    ToolFailure::new(ToolFailureKind::OutOfMemory, message)
}

/// Resolves when the worker of a call is seen above the limit of its memory, where the daemon has to look.
async fn overrun(gauge: Option<Gauge>) {
    let overruns = match gauge {
        Some(gauge) => gauge.overruns().await,
        None => false,
    };
    if !overruns {
        std::future::pending().await
    }
}

impl Drop for InCall<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.worker.condemn();
        }
    }
}

/// Opens what the call needs, off the async threads where that touches files.
async fn plan(request: Request) -> Result<Plan, ToolFailure> {
    if !request.blocks() {
        return request.plan();
    }
    match request.plan_at_once() {
        Some(plan) => Ok(plan),
        None => off_thread(move || request.plan()).await?,
    }
}

/// Serves a worker until it is done. Its own failure is an answer; an error here means that it is lost.
async fn converse(
    worker: &mut Worker,
    call: u64,
    mut broker: Option<Broker>,
) -> Result<Result<JobOutput, ToolFailure>, SandboxError> {
    loop {
        match worker.channel.receive().await? {
            WorkerReply::Done { call: answered, result } if answered == call => return Ok(result),
            WorkerReply::Children { directory, names, open } => {
                let Some(mut held) = broker.take() else {
                    return Err(SandboxError::Protocol { what: "a file call asked for a directory" });
                };
                let looked_up = off_thread(move || {
                    let answer = held.look_up(directory, &names, open);
                    (held, answer)
                });
                let (held, answer) =
                    looked_up.await.map_err(|_| SandboxError::Protocol { what: "the broker gave up" })?;
                broker = Some(held);
                let Answer { children, descriptors } =
                    answer.map_err(|what| SandboxError::Protocol { what })?;
                let lent: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                worker.channel.send(&WorkerRequest::Children { children }, &lent).await?;
            }
            WorkerReply::Close { directories } => {
                if let Some(broker) = &mut broker {
                    broker.close(&directories);
                }
            }
            WorkerReply::Done { .. } | WorkerReply::Locked(_) => {
                return Err(SandboxError::Protocol { what: "an answer that was not due" });
            }
        }
    }
}

/// Runs `work` where it may block.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ToolFailure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        ToolFailure::new(ToolFailureKind::Io, format!("the daemon gave up on a file operation ({error})"))
    })
}

/// A result that is longer than its tool may give is a failure that says so.
pub(crate) fn limited(input: &ToolInput, text: serde_json::Result<String>) -> Result<String, ToolFailure> {
    let text = text.map_err(|error| {
        ToolFailure::new(ToolFailureKind::Io, format!("the result cannot be written as JSON ({error})"))
    })?;
    let limit = find(input.name()).map_or(0, |tool| tool.output_limit);
    if text.len() > limit {
        let message = format!(
            "the result of {} has {} bytes, more than the limit of {limit}; ask for less",
            input.name(),
            text.len()
        );
        return Err(ToolFailure::new(ToolFailureKind::TooLarge, message));
    }
    Ok(text)
}

fn outcome(
    input: &ToolInput,
    result: Result<String, ToolFailure>,
    worker: Option<WorkerId>,
    moved: Amounts,
    started: Instant,
) -> ToolOutcome {
    let elapsed = Millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    if let Err(failure) = &result {
        tracing::debug!(tool = input.name(), kind = ?failure.kind, "a tool call failed");
    }
    ToolOutcome { worker, moved, elapsed, ..ToolOutcome::of(result) }
}
