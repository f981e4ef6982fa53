//! What no grant reaches: aaOS's own state, keys, configuration and sockets.
//!
//! Invariants: a path at or below a protected one is refused whatever the grant's root, but for a root that
//! itself lies inside an exempt directory (a goal's workspace below the state directory). Only paths that
//! the kernel reports of an open descriptor are judged, never spellings. Protected things are held open, so
//! that renaming one does not uncover it; what comes to its place is protected, too.
//!
//! What this does not stop: a hard link to a protected file that someone with the daemon's own uid puts
//! below a granted root. No tool can make one.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

/// Directories above one another that a path of `PATH_MAX` bytes can name.
const MAX_DIRECTORY_DEPTH: usize = 2048;

/// Protected and exempt places.
#[derive(Debug)]
pub(crate) struct Protection {
    protected: Vec<Place>,
    exempt: Vec<Place>,
}

/// One place: held open where it exists.
#[derive(Debug)]
struct Place {
    held: Option<OwnedFd>,
    path: PathBuf,
}

impl Place {
    fn new(path: &Path) -> Self {
        let held = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
        let path = held.as_ref().and_then(|fd| kernel_path(fd).ok()).unwrap_or_else(|| resolve_missing(path));
        Self { held, path }
    }

    /// Where it is now.
    fn now(&self) -> PathBuf {
        self.held.as_ref().and_then(|fd| kernel_path(fd).ok()).unwrap_or_else(|| self.path.clone())
    }

    /// Where it is now, and where it was at the start: a file that is replaced is another one at the old path.
    fn both(&self) -> impl Iterator<Item = PathBuf> {
        let now = self.now();
        let before = (now != self.path).then(|| self.path.clone());
        [now].into_iter().chain(before)
    }
}

/// The real path of something that does not exist yet: that of its nearest existing ancestor and the rest.
fn resolve_missing(path: &Path) -> PathBuf {
    for ancestor in path.ancestors().skip(1) {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

/// The path by which the kernel knows an open descriptor now.
pub(crate) fn kernel_path(fd: impl AsFd) -> rustix::io::Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let bytes = rustix::fs::readlinkat(CWD, link, Vec::new())?;
    let path = PathBuf::from(OsStr::from_bytes(bytes.as_bytes()));
    // A descriptor from outside this mount tree, or of no path at all, has no absolute name.
    if path.is_absolute() { Ok(path) } else { Err(rustix::io::Errno::XDEV) }
}

impl Protection {
    pub(crate) fn new(protected: &[PathBuf], exempt: &[PathBuf]) -> Self {
        Self {
            protected: protected.iter().map(|path| Place::new(path)).collect(),
            exempt: exempt.iter().map(|path| Place::new(path)).collect(),
        }
    }

    /// Whether a root at `path` lies strictly inside an exempt directory, so that it may be granted and
    /// everything below it reached.
    pub(crate) fn is_exempt_root(&self, path: &Path) -> bool {
        self.exempt.iter().map(Place::now).any(|place| path != place && path.starts_with(&place))
    }

    /// Where everything protected is now, or would be.
    pub(crate) fn places(&self) -> impl Iterator<Item = PathBuf> {
        self.protected.iter().flat_map(Place::both)
    }

    /// Whether `path` is at or below something protected.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        self.places().any(|place| path.starts_with(&place))
    }

    /// Whether the directory or one above it is a protected one by its inode: a bind mount shows the same
    /// directory under another path.
    pub(crate) fn holds_inode_of(&self, directory: &OwnedFd) -> rustix::io::Result<bool> {
        let mut current = directory.try_clone().map_err(|_| rustix::io::Errno::MFILE)?;
        for _ in 0..MAX_DIRECTORY_DEPTH {
            let here = rustix::fs::fstat(&current)?;
            if self.is_protected_inode(here.st_dev, here.st_ino) {
                return Ok(true);
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
            let above = rustix::fs::openat(&current, "..", flags, Mode::empty())?;
            let there = rustix::fs::fstat(&above)?;
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) {
                return Ok(false);
            }
            current = above;
        }
        Err(rustix::io::Errno::LOOP)
    }

    fn is_protected_inode(&self, device: u64, inode: u64) -> bool {
        self.protected
            .iter()
            .filter_map(|place| place.held.as_ref())
            .any(|fd| rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_dev == device && stat.st_ino == inode))
    }
}
