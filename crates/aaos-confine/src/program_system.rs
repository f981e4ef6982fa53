//! What a program sees of the machine whatever its call is: the system's programs, libraries and settings, a few devices,
//! and directories of its own, in a private root.
//!
//! Invariants: the root is a small tmpfs; nothing of the machine can be changed through it, and nothing in it gives
//! privilege. A view tells which places it was made of, so that one that was made before it was needed can be held
//! against the machine as it is then.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aaos_core::limits::{PROGRAM_SCRATCH_BYTES, PROGRAM_SCRATCH_FILES};
use aaos_core::program::{Executes, ProgramPlan, SYSTEM_PLACES};
use rustix::fs::{Mode, OFlags};

use crate::domain::{Allowed, Draft, Reach, Tcp};
use crate::mounts::{Depth, Detached, NO_DEVICES, NO_EXEC, NO_SUID, READ_ONLY, find, find_below};
use crate::namespaces::{Identity, turn_into_root};
use crate::program_world::{Building, COVER, Piece, What, write_new};
use crate::sys::{AtStep, LockError};

/// What programs need of /etc and what holds no secret.
const SETTINGS: [&str; 7] = [
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/mime.types",
    "/etc/magic",
];
/// Devices without a state, and whether writing to them means anything.
const DEVICES: [(&str, bool); 5] = [
    ("/dev/null", true),
    ("/dev/zero", true),
    ("/dev/full", true),
    ("/dev/random", false),
    ("/dev/urandom", false),
];
/// Directories that are the program's own.
pub(crate) const SCRATCH: [&str; 2] = ["/tmp", "/dev/shm"];
const STREAMS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];
/// Where the new root is put together before it is the root, and where a sandbox has its own /proc.
pub(crate) const PLACE: &CStr = c"/proc";
const PLACE_BELOW_ROOT: &CStr = c"proc";
/// Files that are made for every program, and may be read in it.
const OWN_SETTINGS: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf"];

const ROOT_OPTIONS: &[(&CStr, &CStr)] = &[(c"size", c"256k"), (c"nr_inodes", c"1024"), (c"mode", c"755")];
const PROC_OPTIONS: &[(&CStr, &CStr)] = &[(c"hidepid", c"invisible"), (c"subset", c"pid")];

/// What the machine has of the places that every program is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SystemView(Vec<Seen>);

/// One place as it is on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: &'static str,
    class: Class,
    content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Programs,
    Setting,
    Device { writable: bool },
}

/// What is at a place. Whoever shows a directory or a file holds it, so that its numbers are nothing else's meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Link(CString),
    Directory { device: u64, inode: u64 },
    File { device: u64, inode: u64 },
}

impl Class {
    const fn attributes(self) -> u64 {
        match self {
            Self::Programs => NO_SUID | NO_DEVICES | READ_ONLY,
            Self::Setting => NO_SUID | NO_DEVICES | NO_EXEC | READ_ONLY,
            Self::Device { .. } => NO_SUID | NO_EXEC | READ_ONLY,
        }
    }

    fn reach(self, executes: Executes) -> Reach {
        match self {
            Self::Programs if executes == Executes::Shown => Reach::Execute,
            Self::Device { writable: true } => Reach::Device,
            Self::Programs | Self::Setting | Self::Device { writable: false } => Reach::Read,
        }
    }
}

impl Seen {
    /// One path of the machine as it is there; nothing where there is none.
    fn look(path: &'static str, class: Class) -> io::Result<Option<Self>> {
        let facts = match rustix::fs::lstat(path) {
            Ok(facts) => facts,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (device, inode) = (facts.st_dev, facts.st_ino);
        let content = match facts.st_mode & libc::S_IFMT {
            libc::S_IFLNK => Content::Link(rustix::fs::readlink(path, Vec::new())?),
            libc::S_IFDIR => Content::Directory { device, inode },
            _ => Content::File { device, inode },
        };
        Ok(Some(Self { path, class, content }))
    }

    fn piece(&self) -> io::Result<Piece> {
        let copy = || {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let held = rustix::fs::open(self.path, flags, Mode::empty())?;
            Detached::copy(held.as_fd(), Depth::All, self.class.attributes())
        };
        let what = match &self.content {
            Content::Link(to) => What::Link(to.clone()),
            Content::Directory { .. } => What::Directory(copy()?),
            Content::File { .. } => What::File(copy()?),
        };
        Piece::new(self.path, what)
    }
}

impl SystemView {
    /// Looks at the machine; the root of its mounts has to be the caller's.
    pub(crate) fn look() -> io::Result<Self> {
        let programs = SYSTEM_PLACES.into_iter().map(|path| (path, Class::Programs));
        let settings = SETTINGS.into_iter().map(|path| (path, Class::Setting));
        let devices = DEVICES.into_iter().map(|(path, writable)| (path, Class::Device { writable }));
        let seen = programs.chain(settings).chain(devices).map(|(path, class)| Seen::look(path, class));
        Ok(Self(seen.filter_map(Result::transpose).collect::<io::Result<_>>()?))
    }

    /// Makes it the root of the caller's own mount namespace, which shows the machine's mounts so far. The caller's own
    /// files in it are `identity`'s.
    pub(crate) fn build(&self, identity: Identity) -> Result<(), LockError> {
        let root =
            Detached::fresh(c"tmpfs", ROOT_OPTIONS, NO_SUID | NO_DEVICES | NO_EXEC).at("the private root")?;
        let proc = private_proc();
        let mut pieces = self.pieces().at("the view of the system")?;
        let place = find(PLACE).at("finding a place for the new root")?;
        root.attach(place.as_fd()).at("attaching the new root")?;
        turn_into_root(PLACE).at("changing the root")?;
        write_settings(identity).at("writing /etc")?;
        pieces.extend(proc.map(|proc| Piece { at: CString::from(PLACE), what: What::Directory(proc) }));
        let mut building = Building::empty().at("looking at the new root")?;
        pieces.into_iter().try_for_each(|piece| building.attach(piece)).at("attaching a place")
    }

    fn pieces(&self) -> io::Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = self.0.iter().map(Seen::piece).collect::<io::Result<_>>()?;
        let options = ScratchOptions::new()?;
        for path in SCRATCH {
            let scratch = Detached::fresh(c"tmpfs", &options.each(), NO_SUID | NO_DEVICES | NO_EXEC)?;
            pieces.push(Piece::new(path, What::Scratch(scratch))?);
        }
        for (path, to) in STREAMS {
            pieces.push(Piece::new(path, What::Link(CString::new(to)?))?);
        }
        Ok(pieces)
    }

    /// Whether a file lies in a directory of the system's programs, and so is shown at its own path and cannot be changed.
    pub(crate) fn shows(&self, path: &str) -> bool {
        let is_directory = |seen: &&Seen| matches!(seen.content, Content::Directory { .. });
        let programs = self.0.iter().filter(is_directory).filter(|seen| seen.class == Class::Programs);
        let rest =
            programs.filter_map(|seen| path.strip_prefix(seen.path)).find(|rest| rest.starts_with('/'));
        rest.is_some()
    }

    /// What a program may do at its places, below this root, but for those that something granted lies over.
    pub(crate) fn allowed(
        &self,
        root: BorrowedFd<'_>,
        executes: Executes,
        is_covered: impl Fn(&str) -> bool,
    ) -> io::Result<Vec<Allowed>> {
        let shown = self.shown().map(|seen| (seen.path, seen.class.reach(executes)));
        let scratch = SCRATCH.map(|path| (path, Reach::Scratch));
        let uncovered = shown.chain(scratch).filter(|(path, _)| !is_covered(path));
        let own = OWN_SETTINGS.map(|path| (path, Reach::Read));
        let at = |path: &str| find_below(root, &CString::new(path.trim_start_matches('/'))?);
        let named = uncovered.chain(own).map(|(path, reach)| Ok(Allowed { place: at(path)?, reach }));
        // The kernel may give no /proc of its own.
        let proc = find_below(root, PLACE_BELOW_ROOT).ok().map(|place| Allowed { place, reach: Reach::Read });
        named.chain(proc.map(Ok)).collect()
    }

    fn shown(&self) -> impl Iterator<Item = &Seen> {
        self.0.iter().filter(|seen| !matches!(seen.content, Content::Link(_)))
    }

    /// The domain of most calls, but for what they are granted: of a program that may execute what it is shown and has no
    /// proxy, where nothing granted lies over a place of this view.
    pub(crate) fn drafted(&self, root: BorrowedFd<'_>) -> io::Result<Draft> {
        Draft::new(Tcp::Nothing)?.with(&self.allowed(root, Executes::Shown, |_| false)?)
    }

    /// Whether the domain that was [drafted](Self::drafted) is the one for such a call.
    pub(crate) fn is_drafted_for(&self, plan: &ProgramPlan, is_covered: impl Fn(&str) -> bool) -> bool {
        let mut places = self.shown().map(|seen| seen.path).chain(SCRATCH);
        plan.executes == Executes::Shown && !plan.proxy && !places.any(is_covered)
    }
}

/// Numbers of a temporary file system, as texts.
struct ScratchOptions {
    size: CString,
    files: CString,
}

impl ScratchOptions {
    fn new() -> io::Result<Self> {
        let text = |number: u64| CString::new(number.to_string()).map_err(io::Error::other);
        Ok(Self { size: text(PROGRAM_SCRATCH_BYTES)?, files: text(PROGRAM_SCRATCH_FILES)? })
    }

    fn each(&self) -> [(&CStr, &CStr); 3] {
        [(c"size", &self.size), (c"nr_inodes", &self.files), (c"mode", c"1777")]
    }
}

/// A /proc of the caller's own PID namespace, in which a process sees itself and its own alone. None where the machine
/// gives none (in a container that hides parts of its own): the program then does without.
fn private_proc() -> Option<Detached> {
    Detached::fresh(c"proc", PROC_OPTIONS, NO_SUID | NO_DEVICES | NO_EXEC | READ_ONLY).ok()
}

/// The users and names of a world in which there is one user and no network.
fn write_settings(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (identity.uid(), identity.gid());
    rustix::fs::mkdir("/etc", Mode::from_raw_mode(0o755))?;
    let texts = [
        format!("root:x:0:0:root:/:/bin/false\nprogram:x:{uid}:{gid}:program:/tmp:/bin/false\n"),
        format!("root:x:0:\nprogram:x:{gid}:\n"),
        "127.0.0.1 localhost\n::1 localhost\n".to_owned(),
        "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
    ];
    for (path, text) in OWN_SETTINGS.iter().zip(texts) {
        write_new(Path::new(path), &text, 0o444)?;
    }
    write_new(Path::new(COVER), "", 0)
}
