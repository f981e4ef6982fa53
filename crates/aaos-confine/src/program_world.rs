//! The world of a program: a private root with the system's programs and libraries, the granted places, and nothing
//! else of the machine.
//!
//! Invariants: the root is a small tmpfs that is read-only when the program starts. What is shared is copied while the
//! old root is still there, each place by the descriptor that agentd sent, and attached after it is gone. What may be
//! changed can be neither executed nor hold devices; nothing gives privilege. Places of aaOS's own are covered.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aaos_core::limits::{PROGRAM_SCRATCH_BYTES, PROGRAM_SCRATCH_FILES};
use aaos_core::path::AbsPath;
use aaos_core::program::{Executes, PlaceKind, ProgramPlan, SYSTEM_PLACES};
use rustix::fs::{Mode, OFlags};

use crate::domain::{Allowed, Reach};
use crate::mount_table::MountTable;
use crate::mounts::{
    Depth, Detached, IdMap, NO_DEVICES, NO_EXEC, NO_SUID, READ_ONLY, find, find_same, make_read_only,
};
use crate::namespaces::{Identity, keep_mounts_private, turn_into_root};
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
const SCRATCH: [&str; 2] = ["/tmp", "/dev/shm"];
const STREAMS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];
/// Loaders of programs with shared libraries: glibc's and musl's.
const LOADERS: [&CStr; 2] = [c"/lib64/ld-linux-x86-64.so.2", c"/lib/ld-musl-x86_64.so.1"];
/// Where the new root is put together before it is the root.
const PLACE: &CStr = c"/proc";
/// A file without content or rights, in front of files of aaOS's own.
const COVER: &str = "/.hidden";

/// Something that is attached once the root is new.
#[derive(Debug)]
struct Piece {
    at: CString,
    what: What,
}

#[derive(Debug)]
enum What {
    Directory(Detached),
    Scratch(Detached),
    File(Detached),
    Link(CString),
    Hidden,
}

/// A world that is not entered yet.
#[derive(Debug)]
pub(crate) struct World {
    pieces: Vec<Piece>,
    root: Detached,
    proc: Option<Detached>,
    allowed: Vec<(CString, Reach)>,
    executes: Executes,
}

impl World {
    /// Copies what is shared; the old root has to be there still. `shared` are the descriptors of the plan's places, and
    /// `as_own` is who the program will be, where it is somebody else than who owns the places.
    pub(crate) fn gather(
        plan: &ProgramPlan,
        shared: &[OwnedFd],
        as_own: Option<Identity>,
    ) -> Result<Self, LockError> {
        keep_mounts_private().at("keeping mounts private")?;
        let root =
            Detached::fresh(c"tmpfs", ROOT_OPTIONS, NO_SUID | NO_DEVICES | NO_EXEC).at("the private root")?;
        let proc = private_proc();
        let mut world = Self { pieces: Vec::new(), root, proc, allowed: Vec::new(), executes: plan.executes };
        world.gather_system(plan).at("the view of the system")?;
        world.gather_places(plan, shared, as_own)?;
        Ok(world)
    }

    fn gather_system(&mut self, plan: &ProgramPlan) -> io::Result<()> {
        let is_shared = |path: &&str| {
            let granted = |at: &AbsPath| AbsPath::parse(path).is_ok_and(|path| path.below(at).is_some());
            plan.places
                .iter()
                .any(|place| matches!(place.kind, PlaceKind::Shared { .. }) && granted(&place.at))
        };
        let reach = if self.executes == Executes::Nothing { Reach::Read } else { Reach::Execute };
        for path in SYSTEM_PLACES.iter().filter(|path| !is_shared(path)) {
            self.gather_host(path, NO_SUID | NO_DEVICES | READ_ONLY, reach)?;
        }
        for path in SETTINGS.iter().filter(|path| !is_shared(path)) {
            self.gather_host(path, NO_SUID | NO_DEVICES | NO_EXEC | READ_ONLY, Reach::Read)?;
        }
        for (path, writable) in DEVICES {
            let reach = if writable { Reach::Device } else { Reach::Read };
            self.gather_host(path, NO_SUID | NO_EXEC | READ_ONLY, reach)?;
        }
        let attributes = NO_SUID | NO_DEVICES | NO_EXEC;
        for path in SCRATCH.iter().filter(|path| !is_shared(path)) {
            let scratch = Detached::fresh(c"tmpfs", &scratch_options()?.each(), attributes)?;
            self.add(path, What::Scratch(scratch))?;
            self.allow(path, Reach::Scratch)?;
        }
        for (path, to) in STREAMS {
            self.add(path, What::Link(CString::new(to)?))?;
        }
        Ok(())
    }

    /// One path of the machine as it is there; nothing where there is none.
    fn gather_host(&mut self, path: &str, attributes: u64, reach: Reach) -> io::Result<()> {
        let is_link = match std::fs::symlink_metadata(path) {
            Ok(facts) => facts.is_symlink(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if is_link {
            let to = rustix::fs::readlink(path, Vec::new())?;
            return self.add(path, What::Link(to));
        }
        let held = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let copy = Detached::copy(held.as_fd(), Depth::All, attributes)?;
        let what = if Path::new(path).is_dir() { What::Directory(copy) } else { What::File(copy) };
        self.add(path, what)?;
        self.allow(path, reach)
    }

    fn gather_places(
        &mut self,
        plan: &ProgramPlan,
        shared: &[OwnedFd],
        as_own: Option<Identity>,
    ) -> Result<(), LockError> {
        let mut maps = IdMaps { as_own, made: Vec::new() };
        // Where the owner of the mounts is another user namespace, a place is copied with all that is mounted in it or
        // not at all; it is covered then.
        let table = if as_own.is_none() { Some(MountTable::read()) } else { None };
        let table = table.transpose().at("looking for mounts in granted places")?;
        let mut shared = shared.iter();
        for place in &plan.places {
            let at = place.at.as_str();
            match &place.kind {
                PlaceKind::Shared { readable, writable } => {
                    let held = shared.next().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof));
                    let held = held.at("the descriptors of granted places")?;
                    let inner = table.as_ref().map_or_else(|| Ok(Vec::new()), |table| table.below(at));
                    let inner = inner.at("looking for mounts in granted places")?;
                    let depth = if inner.is_empty() { Depth::One } else { Depth::All };
                    let what = copy_shared(at, held.as_fd(), depth, *writable, &mut maps)
                        .at("sharing a granted place")?;
                    self.add(at, what).at("sharing a granted place")?;
                    self.pieces.extend(inner.into_iter().map(|at| Piece { at, what: What::Hidden }));
                    let reach = match (self.executes, readable, writable) {
                        (Executes::Nothing, true, false) => Reach::Read,
                        _ => Reach::Granted { readable: *readable, writable: *writable },
                    };
                    self.allow(at, reach).at("sharing a granted place")?;
                }
                PlaceKind::Hidden => self.add(at, What::Hidden).at("hiding aaOS's own")?,
                PlaceKind::Link { to } => {
                    let to = CString::new(to.as_str()).map_err(io::Error::other);
                    let added = to.and_then(|to| self.add(at, What::Link(to)));
                    added.at("a link of a granted place")?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, at: &str, what: What) -> io::Result<()> {
        self.pieces.push(Piece { at: CString::new(at)?, what });
        Ok(())
    }

    fn allow(&mut self, at: &str, reach: Reach) -> io::Result<()> {
        self.allowed.push((CString::new(at)?, reach));
        Ok(())
    }

    /// Makes it the caller's root and gives what may be reached in it. The caller's own files are `identity`'s.
    pub(crate) fn enter(self, identity: Identity) -> Result<Vec<Allowed>, LockError> {
        let place = find(PLACE).at("finding a place for the new root")?;
        self.root.attach(place.as_fd()).at("attaching the new root")?;
        turn_into_root(PLACE).at("changing the root")?;
        write_settings(identity).at("writing /etc")?;
        let mut pieces = self.pieces;
        let mut allowed = self.allowed;
        if let Some(proc) = self.proc {
            pieces.push(Piece { at: CString::from(PLACE), what: What::Directory(proc) });
            allowed.push((CString::from(PLACE), Reach::Read));
        }
        let root = find(c"/").at("looking at the new root")?;
        let mut building =
            Building { own: vec![device_of(c"/").at("looking at the new root")?], covers: Vec::new() };
        for Piece { at, what } in pieces {
            building.attach(&at, what).at("attaching a place")?;
        }
        // By their descriptors: a granted place can be attached on a cover, and what is at its path is then that.
        for mount in building.covers.iter().chain([&root]) {
            make_read_only(mount.as_fd()).at("sealing the root")?;
        }
        for path in OWN_SETTINGS {
            allowed.push((CString::new(path).map_err(io::Error::other).at("naming a place")?, Reach::Read));
        }
        let places = allowed
            .into_iter()
            .map(|(at, reach)| Ok(Allowed { place: find(&at).at("finding a place")?, reach }));
        let loaders = if self.executes == Executes::Nothing { loaders() } else { Vec::new() };
        places.chain(loaders.into_iter().map(Ok)).collect()
    }
}

/// The loaders that the new root has, for a program that executes nothing else: the kernel opens its loader as it opens
/// a program.
fn loaders() -> Vec<Allowed> {
    let open = |path: &&CStr| rustix::fs::open(*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
    LOADERS.iter().filter_map(open).map(|place| Allowed { place, reach: Reach::Program }).collect()
}

const ROOT_OPTIONS: &[(&CStr, &CStr)] = &[(c"size", c"256k"), (c"nr_inodes", c"1024"), (c"mode", c"755")];
const COVER_OPTIONS: &[(&CStr, &CStr)] = &[(c"size", c"4k"), (c"nr_inodes", c"64"), (c"mode", c"111")];
const PROC_OPTIONS: &[(&CStr, &CStr)] = &[(c"hidepid", c"invisible"), (c"subset", c"pid")];

/// Numbers of a temporary file system, as texts.
struct ScratchOptions {
    size: CString,
    files: CString,
}

impl ScratchOptions {
    fn each(&self) -> [(&CStr, &CStr); 3] {
        [(c"size", &self.size), (c"nr_inodes", &self.files), (c"mode", c"1777")]
    }
}

fn scratch_options() -> io::Result<ScratchOptions> {
    let text = |number: u64| CString::new(number.to_string()).map_err(io::Error::other);
    Ok(ScratchOptions { size: text(PROGRAM_SCRATCH_BYTES)?, files: text(PROGRAM_SCRATCH_FILES)? })
}

/// A /proc of the caller's own PID namespace, in which a process sees itself and its own alone. None where the machine
/// gives none (in a container that hides parts of its own): the program then does without.
fn private_proc() -> Option<Detached> {
    Detached::fresh(c"proc", PROC_OPTIONS, NO_SUID | NO_DEVICES | NO_EXEC | READ_ONLY).ok()
}

/// Who is shown as whom, each pair made once.
struct IdMaps {
    as_own: Option<Identity>,
    made: Vec<(Identity, IdMap)>,
}

impl IdMaps {
    /// Shows the owner's files as the program's own. A file system that cannot do that shows them as somebody else's.
    fn apply(&mut self, owner: Identity, copy: &Detached) -> io::Result<()> {
        let Some(shown) = self.as_own else { return Ok(()) };
        if !self.made.iter().any(|(made, _)| *made == owner) {
            self.made.push((owner, IdMap::new(owner, shown)?));
        }
        let map = self.made.iter().find(|(made, _)| *made == owner).map(|(_, map)| map);
        match map.map_or(Ok(()), |map| copy.map_owner(map)) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => Ok(()),
            other => other,
        }
    }
}

fn copy_shared(
    at: &str,
    held: BorrowedFd<'_>,
    depth: Depth,
    writable: bool,
    maps: &mut IdMaps,
) -> io::Result<What> {
    let found = find_same(&CString::new(at)?, held)?;
    let facts = rustix::fs::fstat(&found)?;
    let how = if writable { NO_EXEC } else { READ_ONLY };
    let copy = Detached::copy(found.as_fd(), depth, NO_SUID | NO_DEVICES | how)?;
    maps.apply(Identity::new(facts.st_uid, facts.st_gid), &copy)?;
    let is_directory = facts.st_mode & libc::S_IFMT == libc::S_IFDIR;
    Ok(if is_directory { What::Directory(copy) } else { What::File(copy) })
}

/// A root that is being put together.
struct Building {
    /// Devices of the file systems that are the program's own: mount points are made nowhere else.
    own: Vec<u64>,
    /// What covers directories of aaOS's own, and mounts that nobody is shown.
    covers: Vec<OwnedFd>,
}

impl Building {
    /// Puts a piece in its place, which is made where it is not there.
    fn attach(&mut self, at: &CStr, what: What) -> io::Result<()> {
        let path = Path::new(std::str::from_utf8(at.to_bytes()).map_err(io::Error::other)?);
        match what {
            What::Link(to) => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                // Where a shared directory lies above, it shows the link itself.
                if self.make_directories(parent).is_ok() && self.is_own(parent) && find(at).is_err() {
                    rustix::fs::symlink(&to, at)?;
                }
                Ok(())
            }
            What::Directory(mount) => {
                self.make_directories(path)?;
                mount.attach(find(at)?.as_fd())
            }
            What::Scratch(mount) => {
                self.make_directories(path)?;
                mount.attach(find(at)?.as_fd())?;
                self.own.push(device_of(at)?);
                Ok(())
            }
            What::File(mount) => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                self.make_directories(parent)?;
                if find(at).is_err() && self.is_own(parent) {
                    write_new(path, "", 0o400)?;
                }
                mount.attach(find(at)?.as_fd())
            }
            What::Hidden => self.hide(at, path),
        }
    }

    /// Covers something of aaOS's own with nothing.
    fn hide(&mut self, at: &CStr, path: &Path) -> io::Result<()> {
        let attributes = NO_SUID | NO_DEVICES | NO_EXEC;
        let target = match find(at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if path.is_dir() {
            let cover = Detached::fresh(c"tmpfs", COVER_OPTIONS, attributes)?.attach_held(target.as_fd())?;
            self.covers.push(cover);
            self.own.push(device_of(at)?);
            return Ok(());
        }
        let cover = rustix::fs::open(COVER, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Detached::copy(cover.as_fd(), Depth::One, attributes | READ_ONLY)?.attach(target.as_fd())
    }

    fn is_own(&self, path: &Path) -> bool {
        rustix::fs::stat(path).is_ok_and(|facts| self.own.contains(&facts.st_dev))
    }

    fn make_directories(&self, path: &Path) -> io::Result<()> {
        if rustix::fs::lstat(path).is_ok() {
            return Ok(());
        }
        let mut made = PathBuf::from("/");
        for part in path.components().skip(1) {
            let is_own = self.is_own(&made);
            made.push(part);
            if is_own && rustix::fs::lstat(&made).is_err() {
                rustix::fs::mkdir(&made, Mode::from_raw_mode(0o755))?;
            }
        }
        Ok(())
    }
}

fn device_of(at: &CStr) -> io::Result<u64> {
    Ok(rustix::fs::stat(at)?.st_dev)
}

/// The users and names of a world in which there is one user and no network.
fn write_settings(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (identity.uid(), identity.gid());
    rustix::fs::mkdir("/etc", Mode::from_raw_mode(0o755))?;
    let texts = [
        (
            "/etc/passwd",
            format!("root:x:0:0:root:/:/bin/false\nprogram:x:{uid}:{gid}:program:/tmp:/bin/false\n"),
        ),
        ("/etc/group", format!("root:x:0:\nprogram:x:{gid}:\n")),
        ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
    ];
    for (path, text) in texts {
        write_new(Path::new(path), &text, 0o444)?;
    }
    write_new(Path::new(COVER), "", 0)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// Files that are made for every program, and may be read in it.
const OWN_SETTINGS: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf"];
