//! `file_read` through a worker, without a daemon around it: path to descriptor, worker, and the text back.
//!
//! Invariant: each call is authorised and journalled as in agentd; only what lies between permit and receipt is timed.

use std::time::Instant;

use aaos_sandbox::Sandbox;
use anyhow::{Context, Result};
use serde_json::json;

use crate::far::Far;
use crate::permits::Permits;
use crate::stats::Samples;

/// What is read.
const FILE_BYTES: usize = 4096;

/// So many reads of one file by one agent.
pub(crate) fn file_reads(far: &Far, times: usize, permits: Permits) -> Result<Samples> {
    far.on_a_task(move |sandbox| read_all(sandbox, times, permits))
}

async fn read_all(sandbox: Sandbox, times: usize, mut permits: Permits) -> Result<Samples> {
    let path = permits.data().join("page.txt");
    std::fs::write(&path, "x".repeat(FILE_BYTES))?;
    let mut worker = sandbox.launch_worker().await.context("launch a worker")?;
    let mut samples = Samples::default();
    for _ in 0..times {
        let permit = permits.next("file_read", json!({ "path": path })).await?;
        let begun = Instant::now();
        let receipt = worker.run(permit, permits.roots(), None).await;
        samples.push_micros(begun.elapsed());
        permits.finish(receipt).await?;
    }
    drop(worker.stop().await);
    Ok(samples)
}
