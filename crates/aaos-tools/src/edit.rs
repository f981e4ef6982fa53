//! `file_write` and `file_edit`: fill the memfd that agentd commits.
//!
//! Invariant: the granted file itself is never written here; no worker holds it writable.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use aaos_core::limits::MAX_FILE_BYTES;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{
    FileEditInput, FileEditOutput, FileWriteInput, FileWriteOutput, ToolFailure, ToolFailureKind,
};
use aaos_core::wire::{Handed, Handle, JobOutput};

use crate::read::read_whole;
use crate::session::{Session, Stop, fail, io_failure};

/// Body of `file_write`.
pub(crate) fn file_write(
    session: &mut Session<'_>,
    input: &FileWriteInput,
    scratch: Handle,
) -> Result<JobOutput, Stop> {
    let bytes_written = fill(session.take(scratch)?, &input.content)?;
    Ok(JobOutput::FileWrite(FileWriteOutput { bytes_written }))
}

/// Body of `file_edit`.
pub(crate) fn file_edit(
    session: &mut Session<'_>,
    input: FileEditInput,
    file: Handed,
    scratch: Handle,
) -> Result<JobOutput, Stop> {
    let scratch = session.take(scratch)?;
    let (file, size) = session.file(file)?;
    let before = read_whole(file, size)?;
    let replacements = before.matches(&input.old_string).count();
    match replacements {
        _ if input.old_string.is_empty() => {
            return Err(fail(
                ToolFailureKind::InvalidArguments,
                "old_string is empty; give the text to replace",
            ));
        }
        0 => {
            let message = "old_string does not occur in the file; read it and copy the text exactly";
            return Err(fail(ToolFailureKind::NoUniqueMatch, message));
        }
        1 => {}
        _ if input.replace_all => {}
        many => {
            let message = format!(
                "old_string occurs {many} times; add surrounding text until it is unique, or set replace_all"
            );
            return Err(fail(ToolFailureKind::NoUniqueMatch, message));
        }
    }
    let growth = input.new_string.len().saturating_sub(input.old_string.len());
    let bound = before.len().saturating_add(growth.saturating_mul(replacements));
    if bound as u64 > MAX_FILE_BYTES {
        return Err(too_large(bound as u64).into());
    }
    let after = before.replace(&input.old_string, &input.new_string);
    let bytes_after = fill(scratch, &after)?;
    Ok(JobOutput::FileEdit(FileEditOutput {
        path: input.path,
        replacements: replacements as u64,
        bytes_before: Bytes(before.len() as u64),
        bytes_after,
    }))
}

fn too_large(bytes: u64) -> ToolFailure {
    let message = format!("the file would have {bytes} bytes, more than the limit of {MAX_FILE_BYTES}");
    ToolFailure::new(ToolFailureKind::TooLarge, message)
}

fn fill(scratch: OwnedFd, content: &str) -> Result<Bytes, ToolFailure> {
    let bytes = content.len() as u64;
    if bytes > MAX_FILE_BYTES {
        return Err(too_large(bytes));
    }
    File::from(scratch)
        .write_all(content.as_bytes())
        .map_err(|error| io_failure("write the new content", &error))?;
    Ok(Bytes(bytes))
}
