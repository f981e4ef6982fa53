//! `command_run` of a program that does nothing, without a daemon around it: from the permit to the receipt.
//!
//! Invariants: each call is authorised and journalled as in agentd, but for the sandbox's receipt, which agentd writes to
//! the disk before it starts the program: that takes as long as the disk does. The agent has its worker already.

use std::time::{Duration, Instant};

use aaos_core::effect::ToolOutcome;
use aaos_core::toolio::ToolFailure;
use aaos_core::variables::Variables;
use aaos_sandbox::{ProgramCall, ProgramEnd, Worker, program_text};
use anyhow::{Context, Result, anyhow};
use serde_json::json;

use crate::far::Far;
use crate::permits::Permits;

/// Runs one program again and again.
pub(crate) struct Programs {
    program: &'static str,
    held: Option<(Permits, Worker)>,
}

impl Programs {
    pub(crate) fn new(program: &'static str, far: &Far) -> Result<Self> {
        let worker =
            far.on_a_task(async |sandbox| sandbox.launch_worker().await.context("launch a worker"))?;
        Ok(Self { program, held: Some((Permits::new(program)?, worker)) })
    }

    /// From the permit of one call to its receipt.
    pub(crate) fn once(&mut self, far: &Far) -> Result<Duration> {
        let (mut permits, mut worker) = self.held.take().context("an earlier run failed")?;
        let failed = |failure: ToolFailure| anyhow!("{}", failure.message);
        let input = json!({ "program": self.program, "args": [] });
        let (held, took) = far.on_a_task(async move |sandbox| {
            let permit = permits.next("command_run", input).await?;
            let begun = Instant::now();
            let call = ProgramCall::command(&permit, &Variables::default()).map_err(failed)?;
            let (program, world) = (call.program().clone(), call.world().clone());
            let opening = worker.open_program(&program, &world, permits.roots());
            let prepared = sandbox.prepare_program(call, opening, permits.roots()).await;
            let ProgramEnd { result, .. } = prepared.map_err(failed)?.run(std::future::pending()).await;
            let told = result.and_then(|output| program_text(&permit.effect().input, &output));
            let took = begun.elapsed();
            permits.finish(permit.settle(ToolOutcome::of(told))).await?;
            anyhow::Ok(((permits, worker), took))
        })?;
        self.held = Some(held);
        Ok(took)
    }
}
