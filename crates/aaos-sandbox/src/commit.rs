//! Writing: what a worker left in a memfd becomes a file, or nothing happens.
//!
//! Invariants: nothing on disk changes before the worker's bytes are sealed and checked. The target appears
//! by one rename of a complete, synced file in its own directory. A link, directory, FIFO or device is never
//! written to or replaced. On failure the temporary file and directories made for it are gone again.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use aaos_core::limits::{MAX_APPENDED_FILE_BYTES, MAX_CREATED_PARENTS};
use aaos_core::toolio::{FileKind, ToolFailure, ToolFailureKind};
use rustix::fs::{AtFlags, Gid, MemfdFlags, Mode, OFlags, SealFlags, Uid};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::beneath::{BELOW, BELOW_NO_LINKS, Base, Facts, Links, facts, open_for_io, open_location};
use crate::roots::{Root, RootError, RootTable};

/// Mode of a new file, before the umask.
const NEW_FILE_MODE: u32 = 0o644;
/// Mode of a file that will take over another one's mode, until it has its content.
const PRIVATE_FILE_MODE: u32 = 0o600;
/// Mode of a new directory, before the umask.
const NEW_DIRECTORY_MODE: u32 = 0o755;
/// Random bytes in the name of a temporary file.
const TEMPORARY_NAME_BYTES: usize = 12;

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// The target cannot be reached or is of the wrong kind.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The worker holds on to the memfd, or what is in it is not what it said or was asked for.
    #[error("the worker's output could not be taken over: {why}; nothing was written")]
    Handover {
        /// What is wrong with it.
        why: String,
    },
    /// Another hand changed the file meanwhile.
    #[error("{path:?} changed while it was being edited; nothing was written; read it again and retry")]
    ChangedMeanwhile {
        /// As it was asked for.
        path: String,
    },
}

impl CommitError {
    /// Whether the worker did not do what it was to do, and so is not to be trusted with another call.
    pub(crate) fn is_by_the_worker(&self) -> bool {
        matches!(self, Self::Handover { .. })
    }

    /// The failure that the agent sees.
    pub(crate) fn to_failure(&self) -> ToolFailure {
        match self {
            Self::Root(error) => error.to_failure(),
            Self::Handover { .. } | Self::ChangedMeanwhile { .. } => {
                ToolFailure::new(ToolFailureKind::Io, self.to_string())
            }
        }
    }
}

/// An empty memfd for a worker to fill. Not executable where the kernel knows how to say so.
pub(crate) fn scratch() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("aaos", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("aaos", flags),
        other => other,
    }
}

/// Seals a memfd for good and checks its size: from here on no holder can change it. It is left at its start, but
/// whoever else holds it can still move its position.
pub(crate) fn take_over(memfd: &OwnedFd, claimed: u64, limit: u64) -> Result<(), CommitError> {
    let refuse = |why: String| CommitError::Handover { why };
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(memfd, seals)
        .map_err(|errno| refuse(format!("it cannot be sealed ({errno})")))?;
    let held = rustix::fs::fcntl_get_seals(memfd).map_err(|errno| refuse(errno.to_string()))?;
    if !held.contains(seals) {
        return Err(refuse("the seals did not hold".to_owned()));
    }
    let size = rustix::fs::fstat(memfd).map_err(|errno| refuse(errno.to_string()))?.st_size;
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if size != claimed {
        return Err(refuse(format!("it has {size} bytes where {claimed} were announced")));
    }
    if size > limit {
        return Err(refuse(format!("it has {size} bytes, more than the limit of {limit}")));
    }
    rustix::fs::seek(memfd, rustix::fs::SeekFrom::Start(0)).map_err(|errno| refuse(errno.to_string()))?;
    Ok(())
}

/// All that is in a memfd which was taken over, wherever its position is.
pub(crate) fn sealed_content(memfd: OwnedFd, size: u64) -> Result<Vec<u8>, CommitError> {
    let unreadable =
        |error: std::io::Error| CommitError::Handover { why: format!("it cannot be read ({error})") };
    let mut content =
        vec![0; usize::try_from(size).map_err(|error| unreadable(std::io::Error::other(error)))?];
    std::fs::File::from(memfd).read_exact_at(&mut content, 0).map_err(unreadable)?;
    Ok(content)
}

/// What a commit does with the old content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// Replaces it.
    Replace,
    /// Keeps it and adds to its end.
    Append,
    /// Replaces it, if it still is what was read.
    Edit(Facts),
}

/// Where a write goes, as far as it exists. Looking creates nothing.
#[derive(Debug)]
pub(crate) struct Target {
    /// Deepest directory on the way that exists.
    pub(crate) directory: OwnedFd,
    directory_path: PathBuf,
    directory_facts: Facts,
    /// Directories to be made below it.
    missing: Vec<String>,
    pub(crate) name: String,
    pub(crate) existing: Option<Facts>,
}

impl Target {
    /// Where it really lies.
    pub(crate) fn place(&self) -> PathBuf {
        let directory = self.missing.iter().fold(self.directory_path.clone(), |path, name| path.join(name));
        directory.join(&self.name)
    }
}

/// Whether a write could go there: kind, place and links. Changes nothing.
pub(crate) fn check_target(
    table: &RootTable,
    root: &Root,
    relative: &str,
    shown: &str,
    links: Links,
) -> Result<(), RootError> {
    find_target(table, root, relative, shown, links).map(|_| ())
}

/// Finds where a write to `relative` goes.
pub(crate) fn find_target(
    table: &RootTable,
    root: &Root,
    relative: &str,
    shown: &str,
    links: Links,
) -> Result<Target, RootError> {
    let base = root.base(table.protection(), shown);
    let relative = root.target(relative)?;
    let outside = || RootError::Outside { path: shown.to_owned() };
    let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
    if matches!(name, "" | "." | "..") {
        // The root itself, or a directory spelled with dots: find out whether it is outside or just no file.
        let found = base.locate(relative.as_bytes(), BELOW)?.facts.kind;
        return Err(RootError::WrongKind { path: shown.to_owned(), found });
    }
    let (location, missing) = deepest_existing(&base, parent, links)?;
    if location.facts.kind != FileKind::Directory {
        return Err(RootError::WrongKind { path: shown.to_owned(), found: location.facts.kind });
    }
    let end = missing.iter().fold(location.path.clone(), |path, name| path.join(name)).join(name);
    base.permit(&end)?;
    let existing = if missing.is_empty() { look(&location.fd, name, shown)? } else { None };
    match existing.as_ref().map(|facts| facts.kind) {
        None | Some(FileKind::File) => {}
        Some(FileKind::Symlink) => {
            // Never written through; say which of the two it is.
            base.locate(relative.as_bytes(), BELOW).map_err(|_| outside())?;
            return Err(RootError::WrongKind { path: shown.to_owned(), found: FileKind::Symlink });
        }
        Some(found) => return Err(RootError::WrongKind { path: shown.to_owned(), found }),
    }
    Ok(Target {
        directory: location.fd,
        directory_path: location.path,
        directory_facts: location.facts,
        missing,
        name: name.to_owned(),
        existing,
    })
}

/// The deepest directory of `parent` that exists, and the names still missing below it.
fn deepest_existing(
    base: &Base<'_>,
    parent: &str,
    links: Links,
) -> Result<(crate::beneath::Location, Vec<String>), RootError> {
    let mut missing = Vec::new();
    let mut rest = parent;
    loop {
        match base.locate(rest.as_bytes(), links.resolve()) {
            Ok(location) => {
                missing.reverse();
                return Ok((location, missing));
            }
            Err(RootError::NotFound { path }) if !rest.is_empty() => {
                let (shorter, name) = rest.rsplit_once('/').unwrap_or(("", rest));
                // '..' below a directory that does not exist yet means nothing.
                if name == ".." || missing.len() >= MAX_CREATED_PARENTS {
                    return Err(RootError::NotFound { path });
                }
                missing.push(name.to_owned());
                rest = shorter;
            }
            Err(error) => return Err(error),
        }
    }
}

fn look(directory: &OwnedFd, name: &str, shown: &str) -> Result<Option<Facts>, RootError> {
    match facts(directory, name.as_bytes()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(RootError::from_errno("look at", shown, errno)),
    }
}

/// Makes `content` the file at `relative`. Gives the size of the file after it.
pub(crate) fn commit(
    table: &RootTable,
    root: &Root,
    relative: &str,
    shown: &str,
    content: &[u8],
    mode: &WriteMode,
    links: Links,
) -> Result<u64, CommitError> {
    let target = find_target(table, root, relative, shown, links)?;
    let _order = table.commit_lock(target.directory_facts.inode, &target.name);
    // Looked at again under the lock: another commit may just have replaced it.
    let target = find_target(table, root, relative, shown, links)?;
    check_unchanged(&target, mode, shown)?;
    let old = match (mode, &target.existing) {
        (WriteMode::Append, Some(_)) => Some(open_old(&target, shown)?),
        _ => None,
    };
    let mut made = MadeDirectories::new(&target, shown)?;
    let written = made.place(&target, old, content, shown);
    match written {
        Ok(size) => Ok(size),
        Err(errno) => {
            made.remove();
            Err(RootError::from_errno("write", shown, errno).into())
        }
    }
}

/// An edit replaces only what was read.
fn check_unchanged(target: &Target, mode: &WriteMode, shown: &str) -> Result<(), CommitError> {
    let WriteMode::Edit(read) = mode else { return Ok(()) };
    let same = target
        .existing
        .as_ref()
        .is_some_and(|now| now.is_same_file(read) && now.size == read.size && now.mtime_ns == read.mtime_ns);
    if same { Ok(()) } else { Err(CommitError::ChangedMeanwhile { path: shown.to_owned() }) }
}

/// The old content of a file that is appended to.
fn open_old(target: &Target, shown: &str) -> Result<OwnedFd, RootError> {
    let fail = |errno| RootError::from_errno("read", shown, errno);
    let location = open_location(&target.directory, target.name.as_bytes(), OFlags::NOFOLLOW, BELOW_NO_LINKS)
        .map_err(fail)?;
    let now = facts(&location, b"").map_err(fail)?;
    if now.kind != FileKind::File {
        return Err(RootError::WrongKind { path: shown.to_owned(), found: now.kind });
    }
    if now.size > MAX_APPENDED_FILE_BYTES {
        let path = shown.to_owned();
        return Err(RootError::TooLarge { path, size: now.size, limit: MAX_APPENDED_FILE_BYTES });
    }
    open_for_io(&location, OFlags::RDONLY).map_err(fail)
}

/// The directories of one write, outermost first; those made for it are removed again if it fails.
struct MadeDirectories {
    /// The existing one, then those made.
    chain: Vec<OwnedFd>,
    names: Vec<String>,
}

impl MadeDirectories {
    /// Makes what is missing, each directory below the one before, following no link.
    fn new(target: &Target, shown: &str) -> Result<Self, RootError> {
        debug_assert!(target.directory_path.is_absolute(), "the kernel names directories absolutely");
        let fail = |errno| RootError::from_errno("create the parent directories of", shown, errno);
        let first = open_for_io(&target.directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
        let mut made = Self { chain: vec![first], names: Vec::new() };
        for name in &target.missing {
            if let Err(errno) = made.descend(name) {
                made.remove();
                return Err(fail(errno));
            }
        }
        Ok(made)
    }

    fn descend(&mut self, name: &str) -> rustix::io::Result<()> {
        let parent = &self.chain[self.chain.len() - 1];
        let is_new = match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(NEW_DIRECTORY_MODE)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno),
        };
        let location = open_location(parent, name.as_bytes(), OFlags::DIRECTORY, BELOW_NO_LINKS)?;
        let next = open_for_io(&location, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsync(parent)?;
        self.chain.push(next);
        // A directory that somebody else made first is not ours to remove.
        self.names.push(if is_new { name.to_owned() } else { String::new() });
        Ok(())
    }

    /// Writes a temporary file in the innermost directory and renames it to the target.
    fn place(
        &mut self,
        target: &Target,
        old: Option<OwnedFd>,
        content: &[u8],
        shown: &str,
    ) -> rustix::io::Result<u64> {
        let directory = &self.chain[self.chain.len() - 1];
        let mode = if target.existing.is_some() { PRIVATE_FILE_MODE } else { NEW_FILE_MODE };
        let (temporary, file) = create_temporary(directory, mode)?;
        let placed = fill(file, old, content, target.existing.as_ref()).and_then(|size| {
            // Between the check and now the name may have become a directory: rename refuses that itself.
            rustix::fs::renameat(directory, &temporary, directory, &target.name)?;
            Ok(size)
        });
        match placed {
            Ok(size) => {
                rustix::fs::fsync(directory)?;
                Ok(size)
            }
            Err(errno) => {
                if let Err(left) = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty()) {
                    tracing::warn!(%left, path = shown, "a temporary file could not be removed");
                }
                Err(errno)
            }
        }
    }

    /// Removes the directories that were made, innermost first; one that is in use by now stays.
    fn remove(&mut self) {
        while let Some(name) = self.names.pop() {
            self.chain.pop();
            let parent = &self.chain[self.chain.len() - 1];
            if name.is_empty() {
                continue;
            }
            if let Err(left) = rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                tracing::debug!(%left, directory = name, "a directory made for a failed write stays");
            }
        }
    }
}

/// A new file under a name that nothing has.
fn create_temporary(directory: &OwnedFd, mode: u32) -> rustix::io::Result<(String, OwnedFd)> {
    let mut random = [0; TEMPORARY_NAME_BYTES];
    let filled = rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
    assert_eq!(filled, TEMPORARY_NAME_BYTES, "the kernel gives short requests in full");
    let digits = random.map(|byte| format!("{byte:02x}"));
    let name = format!(".aaos-{}", digits.concat());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The umask is applied by the kernel here, and what it leaves is what a new file keeps.
    let file = rustix::fs::openat(directory, &name, flags, Mode::from_raw_mode(mode))?;
    Ok((name, file))
}

/// Old content, new content, owner and mode, and all of it on disk.
fn fill(
    file: OwnedFd,
    old: Option<OwnedFd>,
    content: &[u8],
    existing: Option<&Facts>,
) -> rustix::io::Result<u64> {
    let to_errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut file = std::fs::File::from(file);
    let mut size = 0;
    if let Some(old) = old {
        let mut old = std::fs::File::from(old).take(MAX_APPENDED_FILE_BYTES);
        size += std::io::copy(&mut old, &mut file).map_err(to_errno)?;
    }
    file.write_all(content).map_err(to_errno)?;
    size += content.len() as u64;
    if let Some(existing) = existing {
        keep_owner_and_mode(&file, existing)?;
    }
    rustix::fs::fsync(&file)?;
    Ok(size)
}

fn keep_owner_and_mode(file: &std::fs::File, existing: &Facts) -> rustix::io::Result<()> {
    let fresh = facts(file.as_fd(), b"")?;
    let mut mode = existing.mode & 0o777;
    if (fresh.uid, fresh.gid) != (existing.uid, existing.gid) {
        let (owner, group) = (Uid::from_raw(existing.uid), Gid::from_raw(existing.gid));
        match rustix::fs::fchown(file, Some(owner), Some(group)) {
            // Only root may give a file away. It stays the daemon's then, and what the group could do is not
            // passed on to another group.
            Err(Errno::PERM) => {
                if rustix::fs::fchown(file, None, Some(group)).is_err() {
                    mode &= !0o070;
                }
            }
            other => other?,
        }
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
}

#[cfg(test)]
mod tests;
