//! `file_list`: what a directory holds, or what a file is.
//!
//! Invariant: entries are sorted by the bytes of their names and no more than `MAX_LIST_ENTRIES`.

use aaos_core::limits::{MAX_BROKER_BATCH, MAX_LIST_ENTRIES};
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{FileKind, FileListInput, FileListOutput, ListEntry, ToolFailureKind};
use aaos_core::wire::{Child, EntryName, Handed, Handle, JobOutput};

use crate::scan::{Scanned, scan};
use crate::session::{Session, Stop};

/// Body of `file_list`.
pub(crate) fn file_list(
    session: &mut Session<'_>,
    input: FileListInput,
    target: Handed,
) -> Result<JobOutput, Stop> {
    let output = match target {
        Handed::Failed(failure) => return Err(failure.into()),
        Handed::File { size, .. } => describe_file(input.path, size),
        Handed::Directory { handle } => list_directory(session, input.path, handle)?,
    };
    Ok(JobOutput::FileList(output))
}

fn describe_file(path: AbsPath, size_bytes: Bytes) -> FileListOutput {
    let name = path.components().last().unwrap_or_default().to_owned();
    let entries = vec![ListEntry { name, kind: FileKind::File, size_bytes }];
    FileListOutput { path, kind: FileKind::File, entries, truncated: false }
}

fn list_directory(session: &mut Session<'_>, path: AbsPath, handle: Handle) -> Result<FileListOutput, Stop> {
    let directory = session.take(handle)?;
    let (mut found, cut) = scan(&directory)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let truncated = cut || found.len() > MAX_LIST_ENTRIES;
    found.truncate(MAX_LIST_ENTRIES);
    let mut entries = Vec::with_capacity(found.len());
    for batch in found.chunks(MAX_BROKER_BATCH) {
        let names: Vec<_> = batch.iter().map(|entry| entry.name.clone()).collect();
        let children = session.children(handle, &names, false)?;
        entries.extend(batch.iter().zip(children).filter_map(|(scanned, child)| entry_of(scanned, child)));
    }
    Ok(FileListOutput { path, kind: FileKind::Directory, entries, truncated })
}

/// An entry as agentd described it. One that is gone by now is left out; one that may not be looked at is shown
/// by its name.
fn entry_of(scanned: &Scanned, child: Child) -> Option<ListEntry> {
    let (kind, size_bytes) = match child {
        Child::Described { kind, size } => (kind, size),
        Child::Opened(_) => return None,
        Child::Failed(failure) if failure.kind == ToolFailureKind::NotFound => return None,
        Child::Failed(_) => (scanned.kind.unwrap_or(FileKind::Other), Bytes::ZERO),
    };
    Some(ListEntry { name: shown(&scanned.name), kind, size_bytes })
}

/// A name as text; bytes that are not UTF-8 become U+FFFD.
pub(crate) fn shown(name: &EntryName) -> String {
    String::from_utf8_lossy(&name.0).into_owned()
}
