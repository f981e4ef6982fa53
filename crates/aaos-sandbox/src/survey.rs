//! Looking through a granted root for sockets, FIFOs and devices, which its operator is told of.
//!
//! Invariants: nothing is opened but directories, each below the one that is held, through no link and across no mount;
//! of all else only the kind is asked that its directory tells, or `fstatat` where it does not. Names are bytes that
//! nothing interprets. Entries and depth are bounded, and whoever waits bounds the time: what was found until then is
//! there at any moment. aaOS's own places, which no grant reaches, are left out.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_core::id::GrantId;
use aaos_core::limits::{MAX_SURVEY_DEPTH, MAX_SURVEYED_ENTRIES};
use aaos_core::special::{NotSeen, SpecialFiles, SpecialKind};
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::BELOW_NO_LINKS;
use crate::observe::shown;
use crate::protect::kernel_path;
use crate::roots::{Root, RootTable};

/// A look through one root, for the one who looks and the one who waits. A cheap handle.
#[derive(Debug, Clone)]
pub struct Survey(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_over: AtomicBool,
    found: Mutex<SpecialFiles>,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    entries: usize,
    /// Directories above one another, below the root.
    depth: usize,
}

const BOUNDS: Bounds = Bounds { entries: MAX_SURVEYED_ENTRIES, depth: MAX_SURVEY_DEPTH };

impl Survey {
    /// One that has not begun: until it is complete, it is out of time.
    #[must_use]
    pub fn new() -> Self {
        let found = SpecialFiles { not_seen: Some(NotSeen::Time), ..SpecialFiles::default() };
        Self(Arc::new(Shared { is_over: AtomicBool::new(false), found: Mutex::new(found) }))
    }

    /// Ends it wherever it is, and gives what was found; `None` where there is nothing to tell of.
    #[must_use]
    pub fn end(&self) -> Option<SpecialFiles> {
        self.0.is_over.store(true, Ordering::Relaxed);
        let found = self.found().clone();
        (!found.is_empty()).then_some(found)
    }

    /// Looks through the root of a grant. A grant of one file has nothing below it, and one that was revoked meanwhile
    /// concerns nobody. Blocks on the file system: call it off the async threads.
    pub fn look_through(&self, table: &RootTable, grant: GrantId) {
        self.look_within(table, grant, BOUNDS);
    }

    fn look_within(&self, table: &RootTable, grant: GrantId, bounds: Bounds) {
        let Ok(root) = table.root(grant) else { return };
        let not_seen = if root.is_exact() { None } else { self.walk(table, &root, bounds) };
        self.found().not_seen = not_seen;
    }

    fn walk(&self, table: &RootTable, root: &Root, bounds: Bounds) -> Option<NotSeen> {
        let Ok(path) = kernel_path(root.directory()) else { return Some(NotSeen::Unreadable) };
        let own = if root.is_exempt() { Vec::new() } else { own_places_below(table, &path) };
        let listing = match list(root.directory(), b".") {
            Ok(listing) => listing,
            Err(_) => return Some(NotSeen::Unreadable),
        };
        let levels = vec![Level { listing, path: PathBuf::new() }];
        let mut walk = Walk { survey: self, own, bounds, levels, entries: 0, not_seen: None };
        loop {
            if self.0.is_over.load(Ordering::Relaxed) {
                return Some(NotSeen::Time);
            }
            if !walk.step() {
                return walk.not_seen;
            }
        }
    }

    fn found(&self) -> MutexGuard<'_, SpecialFiles> {
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Survey {
    fn default() -> Self {
        Self::new()
    }
}

/// What belongs to aaOS below a root, by its path from there.
fn own_places_below(table: &RootTable, root: &Path) -> Vec<PathBuf> {
    let below = |place: PathBuf| place.strip_prefix(root).ok().map(Path::to_owned);
    table.protection().places().filter_map(below).collect()
}

/// Opens a directory for listing: nothing else, below the one that is held, through no link and across no mount.
fn list(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened: OwnedFd = rustix::fs::openat2(directory, name, flags, Mode::empty(), BELOW_NO_LINKS)?;
    Dir::new(opened)
}

/// A directory that is being listed.
struct Level {
    listing: Dir,
    /// From the root on.
    path: PathBuf,
}

/// The walk through one root.
struct Walk<'w> {
    survey: &'w Survey,
    own: Vec<PathBuf>,
    bounds: Bounds,
    levels: Vec<Level>,
    entries: usize,
    /// The first reason why something was left out.
    not_seen: Option<NotSeen>,
}

impl Walk<'_> {
    /// Looks at the next entry. Whether there is more to look at.
    fn step(&mut self) -> bool {
        let Some(level) = self.levels.last_mut() else { return false };
        let entry = match level.listing.next() {
            Some(Ok(entry)) => entry,
            Some(Err(_)) => {
                self.levels.pop();
                self.miss(NotSeen::Unreadable);
                return true;
            }
            None => {
                self.levels.pop();
                return true;
            }
        };
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return true;
        }
        self.entries += 1;
        if self.entries > self.bounds.entries {
            self.miss(NotSeen::Entries);
            return false;
        }
        if let Err(errno) = self.look_at(&entry) {
            self.miss_unless_gone(errno);
        }
        true
    }

    fn look_at(&mut self, entry: &DirEntry) -> rustix::io::Result<()> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let directory = level.listing.fd()?;
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
                FileType::from_raw_mode(rustix::fs::statat(directory, entry.file_name(), flags)?.st_mode)
            }
            known => known,
        };
        let special = match kind {
            FileType::Directory => None,
            FileType::Socket => Some(SpecialKind::Socket),
            FileType::Fifo => Some(SpecialKind::Fifo),
            FileType::CharacterDevice => Some(SpecialKind::CharacterDevice),
            FileType::BlockDevice => Some(SpecialKind::BlockDevice),
            _ => return Ok(()),
        };
        let path = level.path.join(OsStr::from_bytes(entry.file_name().to_bytes()));
        if self.own.contains(&path) {
            return Ok(());
        }
        if let Some(kind) = special {
            self.survey.found().add(kind, &shown(&path));
            return Ok(());
        }
        // The root itself is none that lies in it.
        if self.levels.len() > self.bounds.depth {
            self.miss(NotSeen::Depth);
            return Ok(());
        }
        let listing = list(directory, entry.file_name().to_bytes())?;
        self.levels.push(Level { listing, path });
        Ok(())
    }

    /// What is another mount no grant reaches, and what has gone or become something else meanwhile is not there.
    fn miss_unless_gone(&mut self, errno: Errno) {
        if !matches!(errno, Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
            self.miss(NotSeen::Unreadable);
        }
    }

    fn miss(&mut self, why: NotSeen) {
        self.not_seen.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests;
