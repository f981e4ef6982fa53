//! The kernel's hold on programs: each program that a call starts has a sandbox of its own.
//!
//! Invariants: the receipt of a sandbox is on the disk before its program starts; whoever cancels the call ends the
//! sandbox, and so does the moment at which the first grant expires that the program is shown; the call is over only
//! when nothing in the sandbox runs any more, and each of its connections is settled.

use std::pin::pin;
use std::sync::Arc;

use aaos_core::cargo::{CargoInput, CargoTold, TestReport};
use aaos_core::confinement::{Boundary, ConfinementReceipt};
use aaos_core::effect::ToolOutcome;
use aaos_core::git::GitInput;
use aaos_core::id::{TraceId, WorkerId};
use aaos_core::quantity::Timestamp;
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::{CommandRunOutput, ToolFailure, ToolFailureKind};
use aaos_journal::{Permit, Receipt};
use aaos_sandbox::{ProgramCall, ProgramEnd, ProgramSandbox, program_text};
use tokio_util::sync::CancellationToken;

use crate::connections::ForProgram;
use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::far::receipt_events;
use crate::kernel::Kernel;
use crate::registry::Agent;

/// A permitted call on the way: each program that it starts has a sandbox of its own, one after the other.
struct Running<'r> {
    agent: &'r Arc<Agent>,
    cancel: &'r CancellationToken,
    permit: &'r Permit<ToolCall>,
    trace: Option<TraceId>,
    /// The sandbox of the program that was started last.
    worker: Option<WorkerId>,
}

impl Kernel {
    /// A tool that starts programs: for each of them a sandbox is made and proved, the program started, and both ended.
    pub(crate) async fn run_program(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        cancel: &CancellationToken,
        permit: Permit<ToolCall>,
    ) -> Receipt<ToolCall> {
        let begun = self.clock().now();
        let mut running = Running { agent, cancel, permit: &permit, trace, worker: None };
        let result = match &permit.effect().input {
            ToolInput::Git(input) => self.run_git(&mut running, input).await,
            ToolInput::Cargo(input) => self.run_cargo(&mut running, input).await,
            _ => match ProgramCall::command(&permit, &agent.manifest.environment) {
                Ok(call) => self.run_one(&mut running, call).await,
                Err(failure) => Err(failure),
            },
        };
        let result = result.and_then(|output| program_text(&permit.effect().input, &output));
        let (worker, elapsed) = (running.worker, self.clock().since(begun));
        permit.settle(ToolOutcome { worker, elapsed, ..ToolOutcome::of(result) })
    }

    /// `git`: first the repository is asked which filters it names, then the call is made past them.
    async fn run_git(
        &self,
        running: &mut Running<'_>,
        input: &GitInput,
    ) -> Result<CommandRunOutput, ToolFailure> {
        let listed = self.run_one(running, ProgramCall::git_drivers(running.permit, input)?).await?;
        let (agent, stop) = (running.agent, running.cancel);
        let drivers = self.lend_worker(agent, stop, |worker| Box::pin(worker.git_drivers(listed))).await?;
        self.run_one(running, ProgramCall::git(running.permit, input, &drivers)?).await
    }

    /// `cargo`: what was built is executed only in other sandboxes than the one that built it.
    async fn run_cargo(
        &self,
        running: &mut Running<'_>,
        input: &CargoInput,
    ) -> Result<CommandRunOutput, ToolFailure> {
        let permit = running.permit;
        let made = self.run_one(running, ProgramCall::cargo(permit, input)?).await?;
        let is_built = made.exit_code == 0 && input.tests_in().is_some();
        let asked = input.clone();
        let told = self.lend_worker(running.agent, running.cancel, |worker| {
            Box::pin(async move { worker.cargo_told(&asked, made).await })
        });
        let CargoTold { output, tests } = told.await?;
        if !is_built {
            return Ok(output);
        }
        if tests.is_empty() {
            return Ok(CommandRunOutput { stdout: "cargo built no test\n".to_owned(), ..output });
        }
        let mut report = TestReport::default();
        for test in &tests {
            let call = ProgramCall::cargo_test(permit, input, test)?;
            report.add(test, &self.run_one(running, call).await?);
        }
        Ok(report.finish())
    }

    async fn run_one(
        &self,
        running: &mut Running<'_>,
        call: ProgramCall,
    ) -> Result<CommandRunOutput, ToolFailure> {
        let mut stop = pin!(self.end_of_program(running.cancel, call.world().until));
        let sandbox = tokio::select! {
            biased;
            failure = &mut stop => return Err(failure),
            prepared = self.prepare_program(running, call) => prepared?,
        };
        running.worker = Some(sandbox.receipt().worker);
        let _shown = running.agent.show_program(&sandbox);
        let journalled = self.journal_program(running.agent, sandbox.receipt(), sandbox.missing()).await;
        journalled.map_err(KernelError::into_tool_failure)?;
        let of = ForProgram {
            call: running.permit.call(),
            trace: running.trace,
            stop: running.cancel.child_token(),
        };
        let ProgramEnd { result, words } = self.run_connected(running.agent, of, sandbox, stop).await;
        if !words.is_empty() {
            tracing::warn!(words, "a program's sandbox had something to say");
        }
        result
    }

    /// Opens a program, has it be what was approved, and makes its sandbox.
    async fn prepare_program(
        &self,
        running: &Running<'_>,
        call: ProgramCall,
    ) -> Result<ProgramSandbox, ToolFailure> {
        let (program, world, is_granted) = (call.program().clone(), call.world().clone(), call.is_granted());
        let opening = async {
            let opened = self.open_program(running.agent, running.cancel, &program, &world).await?;
            if is_granted {
                return self.check_opened(running.permit, opened).await;
            }
            if !opened.is_at_its_name() {
                let why =
                    format!("{program} is a link, or lies behind one; what was built is started where it is");
                return Err(ToolFailure::new(ToolFailureKind::Denied, why));
            }
            Ok(opened)
        };
        self.sandbox().prepare_program(call, opening, self.roots()).await
    }

    /// Resolves when a program may run no longer, and says why.
    async fn end_of_program(&self, cancel: &CancellationToken, until: Option<Timestamp>) -> ToolFailure {
        tokio::select! {
            biased;
            () = cancel.cancelled() => cancelled(),
            () = self.clock().until(until) => expired(),
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
