//! The kernel's hold on programs: each call of `command_run` has a sandbox of its own.
//!
//! Invariants: the receipt of a sandbox is on the disk before its program starts; whoever cancels the call ends the
//! sandbox; the call is over only when nothing in the sandbox runs any more.

use aaos_core::confinement::{Boundary, ConfinementReceipt};
use aaos_core::effect::ToolOutcome;
use aaos_core::tool::ToolCall;
use aaos_journal::{Permit, Receipt};
use aaos_sandbox::ProgramEnd;
use tokio_util::sync::CancellationToken;

use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::far::receipt_events;
use crate::kernel::Kernel;
use crate::registry::Agent;

impl Kernel {
    /// `command_run`: a sandbox is made and proved, its program started, and both ended.
    pub(crate) async fn run_program(
        &self,
        agent: &Agent,
        cancel: &CancellationToken,
        permit: Permit<ToolCall>,
    ) -> Receipt<ToolCall> {
        let begun = self.clock().now();
        let prepared = tokio::select! {
            prepared = self.sandbox().prepare_program(&permit, self.roots()) => prepared,
            () = cancel.cancelled() => Err(cancelled()),
        };
        let sandbox = match prepared {
            Ok(sandbox) => sandbox,
            Err(failure) => return permit.settle(ToolOutcome::failed(failure, self.clock().since(begun))),
        };
        let worker = sandbox.receipt().worker;
        let _shown = agent.show_program(&sandbox);
        let outcome = match self.journal_program(agent, sandbox.receipt(), sandbox.missing()).await {
            Err(error) => ToolOutcome::of(Err(error.into_tool_failure())),
            Ok(()) => {
                let stop = async {
                    cancel.cancelled().await;
                    cancelled()
                };
                let ProgramEnd { result, sandbox: end } = sandbox.run(stop).await;
                if !end.stderr_tail.is_empty() {
                    tracing::warn!(words = end.stderr_tail, "a program's sandbox had something to say");
                }
                ToolOutcome::of(result)
            }
        };
        let elapsed = self.clock().since(begun);
        permit.settle(ToolOutcome { worker: Some(worker), elapsed, ..outcome })
    }

    async fn journal_program(
        &self,
        agent: &Agent,
        receipt: &ConfinementReceipt,
        missing: &[Boundary],
    ) -> Result<(), KernelError> {
        let events = receipt_events(receipt, missing, "program");
        let entries = events.map(|event| self.agent_entry(agent, event)).collect();
        self.journal().record_all(entries).await?;
        Ok(())
    }
}
