//! Reading the names in a directory through its descriptor.
//!
//! Invariant: bounded by `MAX_SCANNED_ENTRIES`, whatever the directory holds.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use aaos_core::limits::MAX_SCANNED_ENTRIES;
use aaos_core::toolio::{FileKind, ToolFailure};
use aaos_core::wire::EntryName;
use rustix::fs::{FileType, RawDir};

use crate::session::io_failure;

/// Buffer for one `getdents64`, bytes.
const BUFFER_BYTES: usize = 32 * 1024;

/// One name, with the kind that the directory itself states, if it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) name: EntryName,
    pub(crate) kind: Option<FileKind>,
}

/// The names of a directory, unsorted, and whether there were too many.
pub(crate) fn scan(directory: &OwnedFd) -> Result<(Vec<Scanned>, bool), ToolFailure> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| io_failure("list the directory", &errno.into()))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if found.len() == MAX_SCANNED_ENTRIES {
            return Ok((found, true));
        }
        found.push(Scanned { name: EntryName(name.to_vec()), kind: kind_of(entry.file_type()) });
    }
    Ok((found, false))
}

fn kind_of(file_type: FileType) -> Option<FileKind> {
    match file_type {
        FileType::RegularFile => Some(FileKind::File),
        FileType::Directory => Some(FileKind::Directory),
        FileType::Symlink => Some(FileKind::Symlink),
        FileType::Unknown => None,
        _ => Some(FileKind::Other),
    }
}
