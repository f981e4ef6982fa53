//! What a worker holds during one call, and its questions to agentd.
//!
//! Invariant: a handle is good for one taking; what was not taken is closed with the call.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use aaos_confine::Channel;
use aaos_core::limits::MAX_BROKER_BATCH;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{Child, EntryName, Handed, Handle, WorkerJob, WorkerReply, WorkerRequest};

use crate::ServeError;

/// Why a body ended without a result.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The call failed; the worker goes on.
    Failed(ToolFailure),
    /// The worker cannot go on.
    Lost(ServeError),
}

impl From<ToolFailure> for Stop {
    fn from(failure: ToolFailure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ServeError> for Stop {
    fn from(error: ServeError) -> Self {
        Self::Lost(error)
    }
}

/// A failure of `kind`, as an early end of a body.
pub(crate) fn fail(kind: ToolFailureKind, message: impl Into<String>) -> Stop {
    Stop::Failed(ToolFailure::new(kind, message))
}

/// The kernel's error while doing `what`.
pub(crate) fn io_failure(what: &str, error: &std::io::Error) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Io, format!("cannot {what}: {error}"))
}

/// One call's descriptors and the way back to agentd.
#[derive(Debug)]
pub(crate) struct Session<'c> {
    channel: &'c Channel,
    held: BTreeMap<Handle, OwnedFd>,
}

impl<'c> Session<'c> {
    /// Joins the handles that a job names with the descriptors that came with it, in order.
    pub(crate) fn new(
        channel: &'c Channel,
        job: &WorkerJob,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, ServeError> {
        let mut session = Self { channel, held: BTreeMap::new() };
        session.take_in(&handles_of(job), descriptors)?;
        Ok(session)
    }

    /// The file that was handed over, or why there is none.
    pub(crate) fn file(&mut self, handed: Handed) -> Result<(File, u64), ToolFailure> {
        match handed {
            Handed::File { handle, size } => Ok((File::from(self.take(handle)?), size.0)),
            Handed::Directory { .. } => {
                Err(ToolFailure::new(ToolFailureKind::WrongKind, "it is a directory; name a file"))
            }
            Handed::Failed(failure) => Err(failure),
        }
    }

    /// The descriptor behind a handle.
    pub(crate) fn take(&mut self, handle: Handle) -> Result<OwnedFd, ToolFailure> {
        self.held
            .remove(&handle)
            .ok_or_else(|| ToolFailure::new(ToolFailureKind::Io, "a descriptor of the call is missing"))
    }

    /// Asks agentd for children of a directory, one for each name, in order.
    pub(crate) fn children(
        &mut self,
        directory: Handle,
        names: &[EntryName],
        open: bool,
    ) -> Result<Vec<Child>, ServeError> {
        assert!(names.len() <= MAX_BROKER_BATCH, "the caller batches names");
        self.channel.send(&WorkerReply::Children { directory, names: names.to_vec(), open })?;
        let (request, descriptors) = self.channel.receive::<WorkerRequest>()?;
        let WorkerRequest::Children { children } = request else {
            return Err(ServeError::Protocol { what: "a call inside a call" });
        };
        if children.len() != names.len() {
            return Err(ServeError::Protocol { what: "another number of children than was asked for" });
        }
        let handles: Vec<_> = children
            .iter()
            .filter_map(|child| if let Child::Opened(handed) = child { handle_of(handed) } else { None })
            .collect();
        self.take_in(&handles, descriptors)?;
        Ok(children)
    }

    /// Tells agentd that a directory will not be asked about again.
    pub(crate) fn close(&mut self, directory: Handle) -> Result<(), ServeError> {
        Ok(self.channel.send(&WorkerReply::Close { directories: vec![directory] })?)
    }

    fn take_in(&mut self, handles: &[Handle], descriptors: Vec<OwnedFd>) -> Result<(), ServeError> {
        if handles.len() != descriptors.len() {
            return Err(ServeError::Protocol { what: "another number of descriptors than was announced" });
        }
        for (handle, descriptor) in handles.iter().zip(descriptors) {
            if self.held.insert(*handle, descriptor).is_some() {
                return Err(ServeError::Protocol { what: "a handle was given twice" });
            }
        }
        Ok(())
    }
}

fn handle_of(handed: &Handed) -> Option<Handle> {
    match handed {
        Handed::File { handle, .. } | Handed::Directory { handle } => Some(*handle),
        Handed::Failed(_) => None,
    }
}

/// The handles of a job in the order in which their descriptors ride.
fn handles_of(job: &WorkerJob) -> Vec<Handle> {
    match job {
        WorkerJob::Echo(_) | WorkerJob::ProgramTold { .. } | WorkerJob::Probe { .. } => Vec::new(),
        WorkerJob::FileRead { file, .. }
        | WorkerJob::ReadPage { page: file, .. }
        | WorkerJob::ScriptLine { program: file } => handle_of(file).into_iter().collect(),
        WorkerJob::FileList { target, .. } | WorkerJob::Grep { target, .. } => {
            handle_of(target).into_iter().collect()
        }
        WorkerJob::FileReadMany { files } => files.iter().filter_map(|(_, file)| handle_of(file)).collect(),
        WorkerJob::FileWrite { scratch, .. } => vec![*scratch],
        WorkerJob::Unpack { archive: file, sink: scratch, .. }
        | WorkerJob::FileEdit { file, scratch, .. } => {
            handle_of(file).into_iter().chain([*scratch]).collect()
        }
    }
}
