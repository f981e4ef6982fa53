//! One file out of an archive, unpacked by a worker for a command of the operator's own.
//!
//! Invariants: agentd reads nothing of the archive and looks at nothing of the file; it takes no more bytes than the limit,
//! whatever the worker sends, and ends well only with the worker's word and the count that it names. The worker serves this
//! one archive.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{Handed, Handle, JobOutput, WorkerJob};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::error::SandboxError;
use crate::launch::Sandbox;

/// Bytes taken at a time.
const STEP_BYTES: usize = 64 * 1024;

impl Sandbox {
    /// Has a worker of its own unpack the file `member` of a zip archive, of at most `most` bytes; `keep` gets them in order.
    ///
    /// # Errors
    /// [`ToolFailure`], also the one of `keep`; what was kept until then is of no use.
    pub async fn unpack(
        &self,
        archive: File,
        member: &str,
        most: Bytes,
        keep: impl FnMut(&[u8]) -> Result<(), ToolFailure>,
    ) -> Result<Bytes, ToolFailure> {
        const ARCHIVE: Handle = Handle(0);
        const SINK: Handle = Handle(1);
        let size = Bytes(archive.metadata().map_err(|error| cannot(&error))?.len());
        let (near, far) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| cannot(&errno.into()))?;
        let near = pipe::Receiver::from_owned_fd(near).map_err(|error| cannot(&error))?;
        let mut worker = self.launch_worker().await.map_err(|error| {
            ToolFailure::new(
                ToolFailureKind::ConfinementUnavailable,
                format!("no worker can be had: {error}"),
            )
        })?;
        let job = WorkerJob::Unpack {
            archive: Handed::File { handle: ARCHIVE, size },
            member: member.to_owned(),
            most,
            sink: SINK,
        };
        let asked = worker.ask("unpacking an archive", job, vec![OwnedFd::from(archive), far]);
        let (told, taken) = tokio::join!(asked, take(near, most, keep));
        let taken = match (told, taken) {
            // With its pipe closed the worker has an error, too, and this is why.
            (_, Err(failure)) | (Err(failure), Ok(_)) => return Err(failure),
            (Ok(JobOutput::Unpacked(bytes)), Ok(taken)) if bytes == taken => taken,
            (Ok(_), Ok(_)) => {
                let error = SandboxError::Protocol { what: "another count than what came" };
                return Err(worker.broke(&error).await);
            }
        };
        drop(worker.stop().await);
        Ok(taken)
    }
}

/// Takes what comes until its end.
async fn take(
    near: pipe::Receiver,
    most: Bytes,
    mut keep: impl FnMut(&[u8]) -> Result<(), ToolFailure>,
) -> Result<Bytes, ToolFailure> {
    // Closed when this ends, so that nobody writes on for nothing.
    let mut near = near;
    let mut step = vec![0; STEP_BYTES];
    let mut taken = 0;
    loop {
        let got = near.read(&mut step).await.map_err(|error| cannot(&error))?;
        if got == 0 {
            return Ok(Bytes(taken));
        }
        taken += got as u64;
        if taken > most.0 {
            return Err(ToolFailure::new(ToolFailureKind::TooLarge, "the worker sent more than it may"));
        }
        keep(&step[..got])?;
    }
}

fn cannot(error: &io::Error) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Io, format!("an archive cannot be unpacked ({error}); try again"))
}
