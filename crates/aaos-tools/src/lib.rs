//! Bodies of the worker tools: they act on the descriptors of the call in hand, and on nothing else.
//!
//! Invariants: no body takes or opens a path; it reads and writes descriptors that agentd sent with this call,
//! and asks agentd by name for children of a directory it holds. One call runs at a time, and every descriptor
//! of it is closed when it ends. A body that panics fails its own call, in words, and not the worker.

mod archive;
mod edit;
mod grep;
mod list;
mod page;
mod read;
mod scan;
mod script;
mod session;
mod unpack;

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aaos_confine::{Channel, ChannelError};
use aaos_core::cargo::CargoTold;
use aaos_core::git::GitDrivers;
use aaos_core::limits::MAX_TOOL_RESULT_BYTES;
use aaos_core::toolio::{CommandRunOutput, EchoOutput, ToolFailure, ToolFailureKind};
use aaos_core::wire::{JobOutput, ToldBy, WorkerJob, WorkerReply, WorkerRequest};

use crate::session::{Session, Stop};

/// Why a worker stops serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The channel to agentd failed.
    #[error("the channel to agentd failed")]
    Channel(#[from] ChannelError),
    /// Agentd sent something that was not due.
    #[error("agentd broke the protocol: {what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
}

/// Serves calls until agentd closes the channel. The lock-down must be complete, and reported, before.
///
/// # Errors
/// [`ServeError`] when the channel or the protocol broke; the worker then ends.
#[expect(clippy::needless_pass_by_value, reason = "the channel is closed when serving ends")]
pub fn serve(channel: Channel) -> Result<(), ServeError> {
    loop {
        let (request, descriptors) = match channel.receive() {
            Ok(received) => received,
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let WorkerRequest::Call { call, job } = request else {
            return Err(ServeError::Protocol { what: "an answer to nothing" });
        };
        let result = run(&channel, *job, descriptors)?;
        answer(&channel, call, result)?;
    }
}

/// Runs one job; `Err` only when the worker cannot go on.
fn run(
    channel: &Channel,
    job: WorkerJob,
    descriptors: Vec<OwnedFd>,
) -> Result<Result<JobOutput, ToolFailure>, ServeError> {
    let mut session = Session::new(channel, &job, descriptors)?;
    match guarded(|| body(&mut session, job)) {
        Ok(output) => Ok(Ok(output)),
        Err(Stop::Failed(failure)) => Ok(Err(failure)),
        Err(Stop::Lost(error)) => Err(error),
    }
}

/// Turns a panic into a failure of the call. Its message went to standard error, which agentd keeps.
fn guarded(work: impl FnOnce() -> Result<JobOutput, Stop>) -> Result<JobOutput, Stop> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let message = "the tool failed inside the worker; this is a defect of aaOS, please report it";
        Err(Stop::Failed(ToolFailure::new(ToolFailureKind::Io, message)))
    })
}

fn body(session: &mut Session<'_>, job: WorkerJob) -> Result<JobOutput, Stop> {
    match job {
        WorkerJob::Echo(input) => Ok(JobOutput::Echo(EchoOutput { message: input.message })),
        WorkerJob::FileRead { input, file } => read::file_read(session, &input, file),
        WorkerJob::FileReadMany { files } => Ok(read::file_read_many(session, files)),
        WorkerJob::FileList { input, target } => list::file_list(session, input, target),
        WorkerJob::FileWrite { input, scratch } => edit::file_write(session, &input, scratch),
        WorkerJob::FileEdit { input, file, scratch } => edit::file_edit(session, input, file, scratch),
        WorkerJob::Grep { input, target } => grep::grep(session, &input, target),
        WorkerJob::ReadPage { status, content_type, final_url, truncated, page } => {
            let facts = page::PageFacts { status, content_type, final_url, truncated };
            page::read_page(session, facts, page)
        }
        WorkerJob::ScriptLine { program } => script::script_line(session, program),
        WorkerJob::Unpack { archive, member, most, sink } => {
            unpack::unpack(session, archive, &member, most, sink)
        }
        WorkerJob::ProgramTold { of, output } => Ok(told(of, output)?),
        WorkerJob::Probe { attempts } => Ok(JobOutput::Probe(aaos_confine::run_probes(&attempts))),
    }
}

/// What is looked for in what a program wrote.
fn told(of: ToldBy, output: CommandRunOutput) -> Result<JobOutput, ToolFailure> {
    match of {
        ToldBy::GitDrivers {} => GitDrivers::parse(&output.stdout).map(JobOutput::GitDrivers),
        ToldBy::Cargo { subcommand, tests_in } => {
            CargoTold::read(output, subcommand, tests_in.as_ref()).map(JobOutput::Cargo)
        }
    }
}

/// Sends the result; one that no frame can hold becomes a failure.
fn answer(channel: &Channel, call: u64, result: Result<JobOutput, ToolFailure>) -> Result<(), ServeError> {
    match channel.send(&WorkerReply::Done { call, result }) {
        Err(ChannelError::Frame(_)) => {
            let message =
                format!("the result is longer than {MAX_TOOL_RESULT_BYTES} bytes as JSON; ask for less");
            let failure = ToolFailure::new(ToolFailureKind::TooLarge, message);
            Ok(channel.send(&WorkerReply::Done { call, result: Err(failure) })?)
        }
        sent => Ok(sent?),
    }
}

#[cfg(test)]
mod tests;
