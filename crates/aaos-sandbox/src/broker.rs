//! Looks up children of directories that a worker holds, by name, so that the worker needs no path.
//!
//! Invariants: a name is one component, and is resolved below the directory's own descriptor without following
//! any link. A worker that breaks the rules (a name with a slash, a batch too long, a handle it was never
//! given) is ended. Everything per call is bounded.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use aaos_core::id::GrantId;
use aaos_core::limits::{
    MAX_BROKER_BATCH, MAX_BROKERED_CHILDREN, MAX_FRAME_DESCRIPTORS, MAX_OPEN_DIRECTORIES,
};
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{FileKind, ToolFailure, ToolFailureKind};
use aaos_core::wire::{Child, EntryName, Handed, Handle};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::beneath::{BELOW_NO_LINKS, Base, Facts, Readable, facts, is_component};
use crate::protect::kernel_path;
use crate::roots::{RootError, RootTable};

const _: () = assert!(MAX_BROKER_BATCH <= MAX_FRAME_DESCRIPTORS, "every child of a batch may be opened");

/// The broker of one call.
#[derive(Debug)]
pub(crate) struct Broker {
    table: RootTable,
    grant: GrantId,
    exempt: bool,
    directories: BTreeMap<Handle, OwnedFd>,
    next: u32,
    asked: usize,
}

/// The answer to one batch, with the descriptors that ride on it.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) children: Vec<Child>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// How a worker broke the rules.
pub(crate) type Violation = &'static str;

impl Broker {
    /// A broker for a call under `grant` whose first directory has the number `start`.
    pub(crate) fn new(
        table: RootTable,
        grant: GrantId,
        exempt: bool,
        start: Handle,
        directory: OwnedFd,
    ) -> Self {
        let directories = BTreeMap::from([(start, directory)]);
        Self { table, grant, exempt, directories, next: start.0 + 1, asked: 0 }
    }

    /// Forgets directories.
    pub(crate) fn close(&mut self, directories: &[Handle]) {
        for handle in directories {
            self.directories.remove(handle);
        }
    }

    /// Looks up one batch. Blocks on the file system.
    pub(crate) fn look_up(
        &mut self,
        directory: Handle,
        names: &[EntryName],
        open: bool,
    ) -> Result<Answer, Violation> {
        if names.len() > MAX_BROKER_BATCH {
            return Err("asked for more children than a batch holds");
        }
        if !names.iter().all(|name| is_component(&name.0)) {
            return Err("asked for a name that is not one component");
        }
        let Some(held) = self.directories.get(&directory) else {
            return Err("asked about a directory it does not hold");
        };
        self.asked += names.len();
        if let Err(failure) = self.may_go_on() {
            let children = names.iter().map(|_| Child::Failed(failure.clone())).collect();
            return Ok(Answer { children, descriptors: Vec::new() });
        }
        let held = match held.try_clone() {
            Ok(held) => held,
            Err(error) => {
                let failure = ToolFailure::new(ToolFailureKind::Io, format!("cannot go on: {error}"));
                let children = names.iter().map(|_| Child::Failed(failure.clone())).collect();
                return Ok(Answer { children, descriptors: Vec::new() });
            }
        };
        let mut answer = Answer::default();
        for name in names {
            let child = self.child(&held, &name.0, open, &mut answer.descriptors);
            answer.children.push(child.unwrap_or_else(|error| Child::Failed(error.to_failure())));
        }
        assert!(answer.descriptors.len() <= MAX_FRAME_DESCRIPTORS, "one descriptor a name at most");
        Ok(answer)
    }

    /// A revoked grant and a call without end both stop here.
    fn may_go_on(&self) -> Result<(), ToolFailure> {
        self.table.root(self.grant).map_err(|error| error.to_failure())?;
        if self.asked > MAX_BROKERED_CHILDREN {
            let message =
                format!("a call looks at {MAX_BROKERED_CHILDREN} entries at most; name a smaller tree");
            return Err(ToolFailure::new(ToolFailureKind::LimitReached, message));
        }
        Ok(())
    }

    fn child(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        open: bool,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<Child, RootError> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let table = self.table.clone();
        let base = Base {
            directory: directory.as_fd(),
            protection: table.protection(),
            exempt: self.exempt,
            shown: &shown,
        };
        if !open {
            return describe(&base, directory, name);
        }
        let location = base.locate_with(name, OFlags::NOFOLLOW, BELOW_NO_LINKS)?;
        if !matches!(location.facts.kind, FileKind::File | FileKind::Directory) {
            return Ok(described(&location.facts));
        }
        let is_directory = location.facts.kind == FileKind::Directory;
        if is_directory && self.directories.len() >= MAX_OPEN_DIRECTORIES {
            return Ok(Child::Failed(ToolFailure::new(
                ToolFailureKind::LimitReached,
                format!("{MAX_OPEN_DIRECTORIES} directories are open in this call; close some first"),
            )));
        }
        let Readable { fd, facts } = base.readable(location)?;
        let handle = Handle(self.next);
        self.next = self.next.wrapping_add(1);
        let handed = if is_directory {
            let copy = fd.try_clone().map_err(|_| RootError::from_errno("open", &shown, Errno::MFILE))?;
            self.directories.insert(handle, copy);
            Handed::Directory { handle }
        } else {
            Handed::File { handle, size: Bytes(facts.size) }
        };
        descriptors.push(fd);
        Ok(Child::Opened(handed))
    }
}

fn describe(base: &Base<'_>, directory: &OwnedFd, name: &[u8]) -> Result<Child, RootError> {
    let fail = |errno| RootError::from_errno("look at", base.shown, errno);
    let found = facts(directory, name).map_err(fail)?;
    base.permit(&kernel_path(directory).map_err(fail)?.join(OsStr::from_bytes(name)))?;
    Ok(described(&found))
}

fn described(found: &Facts) -> Child {
    let size = if found.kind == FileKind::File { found.size } else { 0 };
    Child::Described { kind: found.kind, size: Bytes(size) }
}

#[cfg(test)]
mod tests;
