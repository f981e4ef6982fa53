//! Removing a goal's workspace, whatever its agents made of it.
//!
//! Invariants: every name is one component and is looked up below a directory that is held open, so that no link,
//! and no rename during the walk, leads anywhere else. A name is removed without being looked at first; only what
//! the kernel then says is a directory is entered, following no link and crossing no mount. Steps and held
//! descriptors are bounded. What is left is named.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aaos_core::limits::{MAX_REMOVAL_DEPTH, MAX_REMOVAL_STEPS};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::beneath::{BELOW_NO_LINKS, facts, is_component, open_for_io, open_location};
use crate::observe::shown;

/// What the owner of a directory needs to empty it.
const OWNER_ALL: u32 = 0o700;
/// How the removal of a name is tried, over and over: as that of a file, or of a directory.
const WAYS: [AtFlags; 3] = [AtFlags::empty(), AtFlags::REMOVEDIR, AtFlags::REMOVEDIR];
/// Longest path that is shown of what is left, bytes.
const MAX_SHOWN_BYTES: usize = 512;

const _: () = assert!(MAX_REMOVAL_DEPTH >= 2, "what lies too deep is moved up by at least one directory");

/// Why a removal could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// Not the name of something in the directory.
    #[error("{name:?} is not the name of a workspace: it has to be one component of a path")]
    NotAName {
        /// The name.
        name: String,
    },
    /// The directory of the workspaces.
    #[error("cannot {action} {path:?}, the directory of the workspaces: {source}")]
    Directory {
        /// What was being done.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// The kernel's words.
        source: std::io::Error,
    },
}

/// What a removal did.
#[derive(Debug)]
pub struct Removed {
    /// Files, links, directories and so on that are gone, the workspace itself included. 0 where nothing was there.
    pub entries: u64,
    /// The first thing that is still there. Nothing: the workspace is gone.
    pub left: Option<Left>,
}

/// Something that could not be removed.
#[derive(Debug)]
pub struct Left {
    /// Where, from the directory of the workspaces on, escaped and cut to a bound.
    pub path: String,
    /// Why.
    pub why: LeftWhy,
}

/// Why something could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum LeftWhy {
    /// There is more to remove than is removed at once.
    #[error("the removal stopped after {limit} steps; remove again to go on")]
    TooMany {
        /// Steps of one removal.
        limit: u64,
    },
    /// It lies too deep and cannot be moved up.
    #[error("it lies deeper than {limit} directories and cannot be moved up ({source})")]
    TooDeep {
        /// Directories that are held open.
        limit: usize,
        /// The kernel's words.
        source: std::io::Error,
    },
    /// Something is mounted there.
    #[error("something is mounted there; unmount it and remove again")]
    Mounted,
    /// The kernel's error.
    #[error("{0}")]
    Kernel(std::io::Error),
}

impl From<Errno> for LeftWhy {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::XDEV | Errno::BUSY => Self::Mounted,
            other => Self::Kernel(other.into()),
        }
    }
}

/// Removes `name`, a goal's workspace, and all that is below it from the directory of the workspaces. A link is
/// removed, never followed. Nothing there is a success, so that a removal that was cut short can be repeated.
/// Blocks on the file system: call it off the async threads.
///
/// # Errors
/// [`RemovalError`]; nothing was removed then, except when the directory cannot be synced at the end.
pub fn remove_workspace(parent_dir: &Path, name: &str) -> Result<Removed, RemovalError> {
    let fail = |action| {
        move |errno: Errno| RemovalError::Directory {
            action,
            path: parent_dir.to_owned(),
            source: errno.into(),
        }
    };
    let bounds = Bounds { depth: MAX_REMOVAL_DEPTH, steps: MAX_REMOVAL_STEPS };
    let mut removal = Removal::new(parent_dir, name, bounds, fail("open"))?;
    while removal.step() {}
    rustix::fs::fsync(&removal.parent).map_err(fail("sync"))?;
    Ok(removal.removed)
}

/// How far a removal goes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Directories held open at once.
    depth: usize,
    steps: u64,
}

/// One directory that is being emptied.
struct Level {
    listing: Dir,
    /// Its name in the directory above.
    name: CString,
    /// Whether something in it stays.
    is_stuck: bool,
}

/// A removal under way.
struct Removal {
    parent: OwnedFd,
    /// The workspace, then each directory that was entered in the one before.
    levels: Vec<Level>,
    bounds: Bounds,
    steps: u64,
    removed: Removed,
}

impl Removal {
    /// Opens the directory of the workspaces and takes the first step.
    fn new(
        parent_dir: &Path,
        name: &str,
        bounds: Bounds,
        fail: impl Fn(Errno) -> RemovalError,
    ) -> Result<Self, RemovalError> {
        let not_a_name = || RemovalError::NotAName { name: name.to_owned() };
        let component = CString::new(name).ok().filter(|name| is_component(name.to_bytes()));
        let component = component.ok_or_else(not_a_name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat2(CWD, parent_dir, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
            .map_err(fail)?;
        let removed = Removed { entries: 0, left: None };
        let mut removal = Self { parent, levels: Vec::new(), bounds, steps: 0, removed };
        removal.remove(&component);
        Ok(removal)
    }

    /// Deals with the next name of the innermost directory; false when there is nothing more to do.
    fn step(&mut self) -> bool {
        let limit = self.bounds.steps;
        let Some(level) = self.levels.last_mut() else { return false };
        if self.steps >= limit {
            self.leave(None, LeftWhy::TooMany { limit });
            return false;
        }
        match level.listing.read() {
            Some(Ok(entry)) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            Some(Ok(entry)) => self.remove(entry.file_name()),
            Some(Err(errno)) => self.leave(None, errno.into()),
            None => self.ascend(),
        }
        true
    }

    /// Removes one name of the innermost directory, or enters it. What has the name may be swapped at any time, and
    /// in step with this: so the ways to remove it do not just alternate.
    fn remove(&mut self, name: &CStr) {
        for way in WAYS.iter().cycle() {
            if self.steps >= self.bounds.steps {
                return self.leave(Some(name), LeftWhy::TooMany { limit: self.bounds.steps });
            }
            self.steps += 1;
            match self.attempt(name, *way) {
                Ok(()) | Err(Attempt::Kernel(Errno::NOENT)) => return,
                Err(Attempt::Kernel(Errno::ISDIR | Errno::NOTDIR | Errno::LOOP)) => {}
                Err(Attempt::Kernel(errno)) => return self.leave(Some(name), errno.into()),
                Err(Attempt::TooDeep(errno)) => {
                    let (limit, source) = (self.bounds.depth, errno.into());
                    return self.leave(Some(name), LeftWhy::TooDeep { limit, source });
                }
            }
        }
    }

    fn attempt(&mut self, name: &CStr, way: AtFlags) -> Result<(), Attempt> {
        match rustix::fs::unlinkat(self.here()?, name, way) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.enter(name),
            Err(errno) => Err(errno.into()),
            Ok(()) => {
                self.removed.entries += 1;
                Ok(())
            }
        }
    }

    /// Opens a directory to empty it, or moves it up where too many are open.
    fn enter(&mut self, name: &CStr) -> Result<(), Attempt> {
        let directory = open_location(self.here()?, name.to_bytes(), OFlags::DIRECTORY, BELOW_NO_LINKS)?;
        make_usable(&directory)?;
        if self.levels.len() >= self.bounds.depth {
            return self.lift(name);
        }
        let listing = Dir::new(open_for_io(&directory, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
        self.levels.push(Level { listing, name: name.to_owned(), is_stuck: false });
        Ok(())
    }

    /// Moves a directory of the innermost one to the outermost, where it is found in a later pass.
    fn lift(&self, name: &CStr) -> Result<(), Attempt> {
        let top = self.levels[0].listing.fd()?;
        let fresh = format!(".aaos-lifted-{}", self.steps);
        match rustix::fs::renameat(self.here()?, name, top, fresh) {
            // Something has that name. The next pass comes back here and takes another one.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => Err(errno.into()),
            Err(errno) => Err(Attempt::TooDeep(errno)),
        }
    }

    /// Leaves a directory that was listed to its end. Unless something stays, its name is removed now: if it is not
    /// empty after all, or another directory has the name by now, it is entered again.
    fn ascend(&mut self) {
        let Some(level) = self.levels.pop() else { return };
        if !level.is_stuck {
            self.remove(&level.name);
        } else if let Some(above) = self.levels.last_mut() {
            above.is_stuck = true;
        }
    }

    /// Notes that `name`, or the innermost directory itself, stays.
    fn leave(&mut self, name: Option<&CStr>, why: LeftWhy) {
        if let Some(level) = self.levels.last_mut() {
            level.is_stuck = true;
        }
        if self.removed.left.is_none() {
            let names = self.levels.iter().map(|level| level.name.as_c_str()).chain(name);
            let path: PathBuf = names.map(|name| OsStr::from_bytes(name.to_bytes())).collect();
            let mut path = shown(&path);
            path.truncate(path.floor_char_boundary(MAX_SHOWN_BYTES));
            self.removed.left = Some(Left { path, why });
        }
    }

    fn here(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        self.levels.last().map_or(Ok(self.parent.as_fd()), |level| level.listing.fd())
    }
}

/// Why one attempt at a name came to nothing.
enum Attempt {
    Kernel(Errno),
    TooDeep(Errno),
}

impl From<Errno> for Attempt {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// Gives the owner of a directory what it takes to empty it. Somebody else's directory may be usable all the same.
fn make_usable(directory: &OwnedFd) -> rustix::io::Result<()> {
    let mode = facts(directory, b"")?.mode;
    if mode & OWNER_ALL == OWNER_ALL {
        return Ok(());
    }
    // A mere location cannot be changed itself; this is the very same directory.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    match rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode | OWNER_ALL), AtFlags::empty()) {
        Err(Errno::PERM) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
