//! Writing: what a worker left in a memfd becomes a file, or nothing happens.
//!
//! Invariants: nothing on disk changes before the worker's bytes are sealed and checked. The target appears
//! by one rename of a complete, synced file in its own directory. A link, directory, FIFO or device is never
//! written to or replaced. On failure the temporary file and directories made for it are gone again; what a
//! daemon that was killed leaves is named by its call. An append that names the size it goes on from is added
//! once, however often its call is repeated.

use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use aaos_core::id::CallId;
use aaos_core::limits::{MAX_APPENDED_FILE_BYTES, MAX_CREATED_PARENTS};
use aaos_core::toolio::{FileKind, ToolFailure, ToolFailureKind};
use rustix::fs::{AtFlags, Gid, MemfdFlags, Mode, OFlags, SealFlags, Uid};
use rustix::io::Errno;

use crate::beneath::{BELOW, BELOW_NO_LINKS, Base, Facts, Links, facts, open_for_io, open_location};
use crate::roots::{Root, RootError, RootTable};

/// Mode of a new file, before the umask.
const NEW_FILE_MODE: u32 = 0o644;
/// Mode of a file that will take over another one's mode, until it has its content.
const PRIVATE_FILE_MODE: u32 = 0o600;
/// Mode of a new directory, before the umask.
const NEW_DIRECTORY_MODE: u32 = 0o755;

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
    #[error("{path:?} is not as it was when the call began; nothing was written; read it again and retry")]
    ChangedMeanwhile {
        /// As it was asked for.
        path: String,
    },
    /// A repeated call does not say what it goes on from.
    #[error(
        "whether a restart cut the append to {path:?} short is not known, because the call names no size; nothing \
         was written now; read the file and add what is missing"
    )]
    Unpositioned {
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
            Self::Handover { .. } | Self::ChangedMeanwhile { .. } | Self::Unpositioned { .. } => {
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
    /// Keeps it and adds to its end; where a size is named, only if that is where the file ends.
    Append { at: Option<u64> },
    /// Replaces it, if it still is what was read.
    Edit(Facts),
}

/// One write, as its call asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'w> {
    pub(crate) call: CallId,
    /// Whether the call may have come this far before, under a daemon that ended without saying so.
    pub(crate) repeated: bool,
    pub(crate) relative: &'w str,
    pub(crate) shown: &'w str,
    pub(crate) content: &'w [u8],
    pub(crate) mode: &'w WriteMode,
    pub(crate) links: Links,
}

impl Write<'_> {
    fn changed(&self) -> CommitError {
        CommitError::ChangedMeanwhile { path: self.shown.to_owned() }
    }

    /// The size that an append which names its position leaves.
    fn end(&self) -> Option<u64> {
        let WriteMode::Append { at: Some(at) } = self.mode else { return None };
        at.checked_add(self.content.len() as u64)
    }
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

/// Makes the content the file at its path. Gives the size of the file after it.
pub(crate) fn commit(table: &RootTable, root: &Root, write: &Write<'_>) -> Result<u64, CommitError> {
    let find = || find_target(table, root, write.relative, write.shown, write.links);
    let target = find()?;
    let _order = table.commit_lock(target.directory_facts.inode, &target.name);
    // Looked at again under the lock: another commit may just have replaced it.
    let target = find()?;
    let found = look_at_old(&target, write);
    if write.repeated {
        clear_leftover(&target, write);
    }
    match found? {
        Found::Due(old) => put(&target, old, write),
        Found::Done(size) => {
            // It was renamed to its place, perhaps a moment before the power failed.
            sync_directory(&target).map_err(|errno| RootError::from_errno("write", write.shown, errno))?;
            Ok(size)
        }
    }
}

/// What a write finds at its place.
enum Found {
    /// It is to be written, after this old content where it is kept.
    Due(Option<Old>),
    /// It was written before, and the file has this size.
    Done(u64),
}

/// The old content of a file that is appended to.
struct Old {
    file: std::fs::File,
    size: u64,
}

fn look_at_old(target: &Target, write: &Write<'_>) -> Result<Found, CommitError> {
    match write.mode {
        WriteMode::Replace => Ok(Found::Due(None)),
        WriteMode::Edit(read) if is_unchanged(target, read) => Ok(Found::Due(None)),
        WriteMode::Edit(_) => Err(write.changed()),
        WriteMode::Append { at } => look_at_end(target, *at, write),
    }
}

/// An edit replaces only what was read.
fn is_unchanged(target: &Target, read: &Facts) -> bool {
    target
        .existing
        .as_ref()
        .is_some_and(|now| now.is_same_file(read) && now.size == read.size && now.mtime_ns == read.mtime_ns)
}

/// An append goes on where it was to go on. One that is repeated may find its own content there.
fn look_at_end(target: &Target, at: Option<u64>, write: &Write<'_>) -> Result<Found, CommitError> {
    let old = target.existing.as_ref().map(|_| open_old(target, write.shown)).transpose()?;
    let size = old.as_ref().map_or(0, |old| old.size);
    match (at, old) {
        (None, _) if write.repeated => Err(CommitError::Unpositioned { path: write.shown.to_owned() }),
        (Some(at), Some(old)) if at != size => {
            let was_added = write.repeated && write.end() == Some(size) && holds(&old.file, at, write)?;
            if was_added { Ok(Found::Done(size)) } else { Err(write.changed()) }
        }
        (Some(at), None) if at != 0 => Err(write.changed()),
        (_, Some(old)) if old.size > MAX_APPENDED_FILE_BYTES => {
            let (path, limit) = (write.shown.to_owned(), MAX_APPENDED_FILE_BYTES);
            Err(RootError::TooLarge { path, size, limit }.into())
        }
        (_, old) => Ok(Found::Due(old)),
    }
}

/// Whether the content stands in the file at `at`.
fn holds(file: &std::fs::File, at: u64, write: &Write<'_>) -> Result<bool, CommitError> {
    let mut there = vec![0; write.content.len()];
    match file.read_exact_at(&mut there, at) {
        Ok(()) => Ok(there == write.content),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(RootError::Io { action: "read", path: write.shown.to_owned(), source }.into()),
    }
}

fn open_old(target: &Target, shown: &str) -> Result<Old, RootError> {
    let fail = |errno| RootError::from_errno("read", shown, errno);
    let location = open_location(&target.directory, target.name.as_bytes(), OFlags::NOFOLLOW, BELOW_NO_LINKS)
        .map_err(fail)?;
    let now = facts(&location, b"").map_err(fail)?;
    if now.kind != FileKind::File {
        return Err(RootError::WrongKind { path: shown.to_owned(), found: now.kind });
    }
    let file = open_for_io(&location, OFlags::RDONLY).map_err(fail)?.into();
    Ok(Old { file, size: now.size })
}

fn put(target: &Target, old: Option<Old>, write: &Write<'_>) -> Result<u64, CommitError> {
    let mut made = MadeDirectories::new(target, write.shown)?;
    let placed = made.place(target, old, write);
    if placed.is_err() {
        made.remove();
    }
    placed
}

fn sync_directory(target: &Target) -> rustix::io::Result<()> {
    rustix::fs::fsync(open_for_io(&target.directory, OFlags::RDONLY | OFlags::DIRECTORY)?)
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
    fn place(&mut self, target: &Target, old: Option<Old>, write: &Write<'_>) -> Result<u64, CommitError> {
        let directory = &self.chain[self.chain.len() - 1];
        let fail = |errno| RootError::from_errno("write", write.shown, errno);
        let mode = if target.existing.is_some() { PRIVATE_FILE_MODE } else { NEW_FILE_MODE };
        let temporary = temporary_name(write.call);
        let file = create_temporary(directory, &temporary, mode).map_err(fail)?;
        let filled = fill(file, old, write.content, target.existing.as_ref());
        let placed = filled.map_err(|errno| fail(errno).into()).and_then(|size| {
            if write.end().is_some_and(|end| end != size) {
                // It grew or shrank while it was copied.
                return Err(write.changed());
            }
            // Between the check and now the name may have become a directory: rename refuses that itself.
            rustix::fs::renameat(directory, &temporary, directory, &target.name).map_err(fail)?;
            Ok(size)
        });
        match placed {
            Ok(size) => {
                rustix::fs::fsync(directory).map_err(fail)?;
                Ok(size)
            }
            Err(error) => {
                if let Err(left) = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty()) {
                    tracing::warn!(%left, path = write.shown, "a temporary file could not be removed");
                }
                Err(error)
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

/// The name of a file that is not in its place yet. It is the call's, so that who repeats the call, or gives it
/// up, finds what was left of it.
fn temporary_name(call: CallId) -> String {
    format!(".aaos-{call}")
}

/// A new file under the call's name; what an earlier daemon left there makes room.
fn create_temporary(directory: &OwnedFd, name: &str, mode: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The umask is applied by the kernel here, and what it leaves is what a new file keeps.
    let create = || rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode));
    match create() {
        Err(Errno::EXIST) if remove_leftover(directory, name)? => create(),
        other => other,
    }
}

/// Removes a file that an earlier daemon did not rename to its place. What is no regular file was made by somebody
/// else, and stays.
fn remove_leftover(directory: impl AsFd, name: &str) -> rustix::io::Result<bool> {
    match facts(&directory, name.as_bytes()) {
        Ok(left) if left.kind == FileKind::File => {
            rustix::fs::unlinkat(&directory, name, AtFlags::empty()).map(|()| true)
        }
        Ok(_) | Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn clear_leftover(target: &Target, write: &Write<'_>) {
    match discard_leftover(target, write.call) {
        Ok(true) => tracing::debug!(path = write.shown, "what a restart left of a write was removed"),
        Ok(false) => {}
        Err(left) => tracing::warn!(%left, path = write.shown, "a temporary file could not be removed"),
    }
}

/// Removes what an earlier daemon left of a call's write beside its target; says whether there was something.
pub(crate) fn discard_leftover(target: &Target, call: CallId) -> rustix::io::Result<bool> {
    if target.missing.is_empty() {
        remove_leftover(&target.directory, &temporary_name(call))
    } else {
        Ok(false)
    }
}

/// Old content, new content, owner and mode, and all of it on disk.
fn fill(
    file: OwnedFd,
    old: Option<Old>,
    content: &[u8],
    existing: Option<&Facts>,
) -> rustix::io::Result<u64> {
    let to_errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut file = std::fs::File::from(file);
    let mut size = 0;
    if let Some(old) = old {
        let mut old = old.file.take(MAX_APPENDED_FILE_BYTES);
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
