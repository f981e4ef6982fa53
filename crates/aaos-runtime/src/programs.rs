//! The kernel's hold on programs: each call of `command_run` has a sandbox of its own.
//!
//! Invariants: the receipt of a sandbox is on the disk before its program starts; whoever cancels the call ends the
//! sandbox, and so does the moment at which the first grant expires that the program is shown; the call is over only
//! when nothing in the sandbox runs any more, and each of its connections is settled.

use std::pin::pin;
use std::sync::Arc;

use aaos_core::confinement::{Boundary, ConfinementReceipt};
use aaos_core::effect::{Need, ToolOutcome};
use aaos_core::id::TraceId;
use aaos_core::quantity::Timestamp;
use aaos_core::tool::ToolCall;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_journal::{Permit, Receipt};
use aaos_sandbox::{ProgramEnd, ProgramSandbox};
use tokio_util::sync::CancellationToken;

use crate::connections::ForProgram;
use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::far::receipt_events;
use crate::kernel::Kernel;
use crate::registry::Agent;

impl Kernel {
    /// `command_run`: a sandbox is made and proved, its program started, and both ended.
    pub(crate) async fn run_program(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        cancel: &CancellationToken,
        permit: Permit<ToolCall>,
    ) -> Receipt<ToolCall> {
        let begun = self.clock().now();
        let until = permit.all().iter().find_map(|access| access.world.as_ref()?.until);
        let mut stop = pin!(self.end_of_program(cancel, until));
        let prepared = tokio::select! {
            biased;
            failure = &mut stop => Err(failure),
            prepared = self.prepare_program(agent, &permit) => prepared,
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
                let of = ForProgram { call: permit.call(), trace, stop: cancel.child_token() };
                let ran = self.run_connected(agent, of, sandbox, stop).await;
                let ProgramEnd { result, sandbox: end } = ran;
                if !end.stderr_tail.is_empty() {
                    tracing::warn!(words = end.stderr_tail, "a program's sandbox had something to say");
                }
                ToolOutcome::of(result)
            }
        };
        let elapsed = self.clock().since(begun);
        permit.settle(ToolOutcome { worker: Some(worker), elapsed, ..outcome })
    }

    /// Opens a program, has it be what was approved, and makes its sandbox.
    async fn prepare_program(
        &self,
        agent: &Agent,
        permit: &Permit<ToolCall>,
    ) -> Result<ProgramSandbox, ToolFailure> {
        let asked = permit.all().iter().find_map(|access| match &access.need {
            Need::Exec(program) => Some((program, access.world.as_deref()?)),
            _ => None,
        });
        let Some((program, world)) = asked else {
            return Err(ToolFailure::new(ToolFailureKind::Denied, "no grant was named for the program"));
        };
        let opened = self.open_program(agent, program, world).await?;
        let opened = self.check_opened(permit, opened).await?;
        self.sandbox().prepare_program(permit, opened, self.roots()).await
    }

    /// Resolves when a program may run no longer, and says why.
    async fn end_of_program(&self, cancel: &CancellationToken, until: Option<Timestamp>) -> ToolFailure {
        let expiry = async {
            match until {
                Some(until) => self.clock().sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => cancelled(),
            () = expiry => expired(),
        }
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

/// The failure of a program that outlived a grant.
fn expired() -> ToolFailure {
    ToolFailure::new(
        ToolFailureKind::Revoked,
        "a grant that this program was shown expired while it ran; it and all that it started were ended, and what it \
         did stays; do without it",
    )
}
