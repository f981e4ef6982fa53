//! `command_run` of a program that does nothing, without a daemon around it: from the permit to the receipt.
//!
//! Invariant: each call is authorised and journalled as in agentd, but for the sandbox's receipt, which agentd writes to
//! the disk before it starts the program: that takes as long as the disk does.

use std::time::{Duration, Instant};

use aaos_core::effect::ToolOutcome;
use aaos_sandbox::ProgramEnd;
use anyhow::{Result, anyhow};
use serde_json::json;

use crate::far::Far;
use crate::permits::Permits;

/// Runs one program again and again.
pub(crate) struct Programs {
    program: &'static str,
    permits: Option<Permits>,
}

impl Programs {
    pub(crate) fn new(program: &'static str) -> Result<Self> {
        Ok(Self { program, permits: Some(Permits::new(program)?) })
    }

    /// From the permit of one call to its receipt.
    pub(crate) fn once(&mut self, far: &Far) -> Result<Duration> {
        let mut permits = self.permits.take().ok_or_else(|| anyhow!("an earlier run failed"))?;
        let input = json!({ "program": self.program, "args": [] });
        let (permits, took) = far.on_a_task(async move |sandbox| {
            let permit = permits.next("command_run", input).await?;
            let begun = Instant::now();
            let prepared = sandbox.prepare_program(&permit, permits.roots()).await;
            let prepared = prepared.map_err(|failure| anyhow!("{}", failure.message))?;
            let ProgramEnd { result, .. } = prepared.run(std::future::pending()).await;
            let took = begun.elapsed();
            permits.finish(permit.settle(ToolOutcome::of(result))).await?;
            anyhow::Ok((permits, took))
        })?;
        self.permits = Some(permits);
        Ok(took)
    }
}
