//! Opening things below a directory that is already held.
//!
//! Invariants: nothing is opened by an absolute path but a root that the operator grants. Everything is
//! first opened as a mere location (`O_PATH`), looked at, and only then opened for I/O through that same
//! location, so a FIFO or device is never waited for and a rename in between changes nothing. Only regular
//! files and directories of real file systems outside the protected places are opened.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aaos_core::toolio::FileKind;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::protect::{Protection, kernel_path};
use crate::roots::RootError;

/// A rename or mount anywhere makes the kernel give up a resolution that holds `..`; it is then tried again.
const RESOLVE_ATTEMPTS: u32 = 128;

/// Longest name of a directory entry (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;

/// How a path below a granted root is resolved.
pub(crate) const BELOW: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// The same without following any link: for tree walks and for directories just made.
pub(crate) const BELOW_NO_LINKS: ResolveFlags = BELOW.union(ResolveFlags::NO_SYMLINKS);

/// Whether symbolic links on the way to a path are followed, as long as they stay below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    /// What was approved is a place: a link could lead to another one.
    Refuse,
}

impl Links {
    pub(crate) const fn resolve(self) -> ResolveFlags {
        match self {
            Self::Follow => BELOW,
            Self::Refuse => BELOW_NO_LINKS,
        }
    }
}

/// File systems whose files are not files, by the magic number of `statfs(2)` (`linux/magic.h`).
const PSEUDO: &[(u64, &str)] = &[
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0xcafe_4a11, "bpf"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x6265_6570, "configfs"),
    (0x1cd1, "devpts"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6e73_6673, "nsfs"),
    (0x5049_5045, "pipefs"),
    (0x534f_434b, "sockfs"),
    (0x0904_1934, "anon_inode"),
    (0x1980_0202, "mqueue"),
    (0x6573_5543, "fusectl"),
    (0x6759_6969, "rpc_pipefs"),
    (0x6e66_7364, "nfsd"),
    (0x9584_58f6, "hugetlbfs"),
    (0x0187, "autofs"),
    (0x0765_5821, "resctrl"),
    (0xabba_1974, "xenfs"),
    (0x6c6f_6f70, "binder"),
    (0x5345_434d, "secretmem"),
    (0x444d_4142, "dma-buf"),
];

/// File systems of this machine's own disks and memory, by the same number: what they have in memory they answer at once,
/// and ask nobody.
const LOCAL: &[u64] = &[
    // ext2, ext3 and ext4
    0xef53,
    // XFS
    0x5846_5342,
    // Btrfs
    0x9123_683e,
    // tmpfs
    0x0102_1994,
];

/// What is known of an open location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: FileKind,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) birth_ns: u64,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_ns: i128,
}

impl Facts {
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.birth_ns) == (other.device, other.inode, other.birth_ns)
    }
}

/// Kind of a file type that the kernel reports.
pub(crate) fn kind_of(file_type: FileType) -> FileKind {
    match file_type {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

/// Looks at an open descriptor, or at `name` below it without following a link.
pub(crate) fn facts(fd: impl AsFd, name: &[u8]) -> rustix::io::Result<Facts> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let seen = rustix::fs::statx(fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let birth = if seen.stx_mask & StatxFlags::BTIME.bits() == 0 {
        0
    } else {
        u64::try_from(seen.stx_btime.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::from(seen.stx_btime.tv_nsec)
    };
    Ok(Facts {
        kind: kind_of(FileType::from_raw_mode(seen.stx_mode.into())),
        device: rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor),
        inode: seen.stx_ino,
        birth_ns: birth,
        size: seen.stx_size,
        mode: u32::from(seen.stx_mode) & 0o7777,
        uid: seen.stx_uid,
        gid: seen.stx_gid,
        mtime_ns: i128::from(seen.stx_mtime.tv_sec) * 1_000_000_000 + i128::from(seen.stx_mtime.tv_nsec),
    })
}

/// The name of the pseudo file system that a descriptor lies on, if it does.
pub(crate) fn pseudo_file_system(fd: impl AsFd) -> rustix::io::Result<Option<&'static str>> {
    let magic = magic_of(fd)?;
    Ok(PSEUDO.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name))
}

/// Whether a descriptor lies on a disk or in the memory of this machine.
pub(crate) fn is_local(fd: impl AsFd) -> rustix::io::Result<bool> {
    Ok(LOCAL.contains(&magic_of(fd)?))
}

fn magic_of(fd: impl AsFd) -> rustix::io::Result<u64> {
    let magic = rustix::fs::fstatfs(fd)?.f_type;
    // The field's width and sign differ between architectures; the numbers have 32 bits.
    Ok(u64::try_from(magic & 0xffff_ffff).unwrap_or_default())
}

/// Whether a name is one component of a path, and one that means something below a directory.
pub(crate) fn is_component(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// `openat2` that tries again while the kernel cannot decide because of a concurrent rename. With `CACHED` it does not: then
/// the kernel would have to wait for something.
pub(crate) fn open_location(
    directory: impl AsFd,
    relative: &[u8],
    extra: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let relative: &[u8] = if relative.is_empty() { b"." } else { relative };
    let flags = OFlags::PATH | OFlags::CLOEXEC | extra;
    for _ in 0..RESOLVE_ATTEMPTS {
        match rustix::fs::openat2(directory.as_fd(), relative, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if !resolve.contains(ResolveFlags::CACHED) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens for I/O what a location descriptor points at: the very same file, whatever its name is by now.
pub(crate) fn open_for_io(location: impl AsFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", location.as_fd().as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// A directory that is held, with what may be reached below it.
#[derive(Clone, Copy)]
pub(crate) struct Base<'b> {
    pub(crate) directory: BorrowedFd<'b>,
    pub(crate) protection: &'b Protection,
    /// The grant's root lies in an exempt place: protection does not apply below it.
    pub(crate) exempt: bool,
    /// The path as it was asked for, for messages.
    pub(crate) shown: &'b str,
}

/// A location that passed every check.
#[derive(Debug)]
pub(crate) struct Location {
    pub(crate) fd: OwnedFd,
    pub(crate) facts: Facts,
    pub(crate) path: PathBuf,
}

/// A file or directory opened for reading.
#[derive(Debug)]
pub(crate) struct Readable {
    pub(crate) fd: OwnedFd,
    pub(crate) facts: Facts,
}

impl Base<'_> {
    /// Finds what `relative` names below the directory, following links as long as they stay below it.
    pub(crate) fn locate(&self, relative: &[u8], resolve: ResolveFlags) -> Result<Location, RootError> {
        self.locate_with(relative, OFlags::empty(), resolve)
    }

    /// The same with further flags (`O_NOFOLLOW` for the last component).
    pub(crate) fn locate_with(
        &self,
        relative: &[u8],
        extra: OFlags,
        resolve: ResolveFlags,
    ) -> Result<Location, RootError> {
        let fd = open_location(self.directory, relative, extra, resolve)
            .map_err(|errno| RootError::from_errno("find", self.shown, errno))?;
        self.inspect(fd)
    }

    /// Refuses what lies on a pseudo file system or in a protected place.
    pub(crate) fn inspect(&self, fd: OwnedFd) -> Result<Location, RootError> {
        let fail = |errno| RootError::from_errno("look at", self.shown, errno);
        let facts = facts(&fd, b"").map_err(fail)?;
        if let Some(kind) = pseudo_file_system(&fd).map_err(fail)? {
            return Err(RootError::Pseudo { path: self.shown.to_owned(), kind });
        }
        let path = kernel_path(&fd).map_err(fail)?;
        self.permit(&path)?;
        Ok(Location { fd, facts, path })
    }

    /// Refuses a path at or below a protected place.
    pub(crate) fn permit(&self, path: &Path) -> Result<(), RootError> {
        if !self.exempt && self.protection.covers(path) {
            return Err(RootError::Protected { path: self.shown.to_owned() });
        }
        Ok(())
    }

    /// Opens a regular file or directory for reading.
    pub(crate) fn open_readable(
        &self,
        relative: &[u8],
        resolve: ResolveFlags,
    ) -> Result<Readable, RootError> {
        let location = self.locate(relative, resolve)?;
        self.readable(location)
    }

    /// Opens a checked location for reading, if it is a regular file or directory.
    pub(crate) fn readable(&self, location: Location) -> Result<Readable, RootError> {
        let flags = match location.facts.kind {
            FileKind::File => OFlags::RDONLY,
            FileKind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            found => return Err(RootError::WrongKind { path: self.shown.to_owned(), found }),
        };
        let fd = open_for_io(&location.fd, flags)
            .map_err(|errno| RootError::from_errno("open", self.shown, errno))?;
        Ok(Readable { fd, facts: location.facts })
    }
}
