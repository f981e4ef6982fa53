//! The world of one call: the granted places, put into a private root that is there already.
//!
//! Invariants: the root is read-only when the program starts. What is shared is copied where the machine's own mounts are
//! seen, each place by the descriptor that agentd sent, and attached in the private root. What may be changed can be
//! neither executed nor hold devices; nothing gives privilege. Places of aaOS's own are covered.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aaos_core::path::AbsPath;
use aaos_core::program::{Executes, PROXY_PORT, Place, PlaceKind, ProgramPlan};
use rustix::fs::{Mode, OFlags};

use crate::domain::{Allowed, Draft, Reach, Tcp};
use crate::mount_table::MountTable;
use crate::mounts::{
    Depth, Detached, IdMap, NO_DEVICES, NO_EXEC, NO_SUID, READ_ONLY, find, find_same, make_read_only,
};
use crate::namespaces::Identity;
use crate::program_system::{SCRATCH, SystemView};
use crate::sys::{AtStep, LockError};

/// Loaders of programs with shared libraries: glibc's and musl's.
const LOADERS: [&CStr; 2] = [c"/lib64/ld-linux-x86-64.so.2", c"/lib/ld-musl-x86_64.so.1"];
/// A file without content or rights, in front of files of aaOS's own.
pub(crate) const COVER: &str = "/.hidden";
const COVER_OPTIONS: &[(&CStr, &CStr)] = &[(c"size", c"4k"), (c"nr_inodes", c"64"), (c"mode", c"111")];

/// Something that is attached in a private root.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) at: CString,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Directory(Detached),
    Scratch(Detached),
    File(Detached),
    Link(CString),
    Hidden,
}

impl Piece {
    pub(crate) fn new(at: &str, what: What) -> io::Result<Self> {
        Ok(Self { at: CString::new(at)?, what })
    }
}

/// What a call is granted, copied and attached nowhere yet.
#[derive(Debug)]
pub(crate) struct Granted<'p> {
    plan: &'p ProgramPlan,
    pieces: Vec<Piece>,
    allowed: Vec<(CString, Reach)>,
}

impl<'p> Granted<'p> {
    /// Copies what is shared; the machine's own mounts have to be seen. `shared` are the descriptors of the plan's places,
    /// and `maps` show them to the program as its own, where it is somebody else than who owns the places.
    pub(crate) fn gather(
        plan: &'p ProgramPlan,
        shared: &[OwnedFd],
        maps: &mut IdMaps,
    ) -> Result<Self, LockError> {
        let mut granted = Self { plan, pieces: Vec::new(), allowed: Vec::new() };
        // Where the owner of the mounts is another user namespace, a place is copied with all that is mounted in it or
        // not at all; it is covered then.
        let table = if maps.as_own.is_none() { Some(MountTable::read()) } else { None };
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
                    let what = copy_shared(at, held.as_fd(), depth, *writable, maps);
                    granted.share(at, what.at("sharing a granted place")?, (*readable, *writable))?;
                    granted.pieces.extend(inner.into_iter().map(|at| Piece { at, what: What::Hidden }));
                }
                PlaceKind::Hidden => granted.add(at, What::Hidden).at("hiding aaOS's own")?,
                PlaceKind::Link { to } => {
                    let to = CString::new(to.as_str()).map_err(io::Error::other);
                    let added = to.and_then(|to| granted.add(at, What::Link(to)));
                    added.at("a link of a granted place")?;
                }
            }
        }
        Ok(granted)
    }

    fn share(&mut self, at: &str, what: What, (readable, writable): (bool, bool)) -> Result<(), LockError> {
        self.add(at, what).at("sharing a granted place")?;
        let reach = match (self.plan.executes, readable, writable) {
            (Executes::Nothing, true, false) => Reach::Read,
            _ => Reach::Granted { readable, writable },
        };
        let at = CString::new(at).map_err(io::Error::other).at("sharing a granted place")?;
        self.allowed.push((at, reach));
        Ok(())
    }

    fn add(&mut self, at: &str, what: What) -> io::Result<()> {
        self.pieces.push(Piece::new(at, what)?);
        Ok(())
    }

    /// Whether anything of the call lies at a path or above it.
    pub(crate) fn lies_over(&self, path: &str) -> bool {
        lies_over(&self.plan.places, path)
    }

    /// Attaches all of it in the caller's private root, which is as `view` says, and gives the domain that lets all of it
    /// through; `drafted` is that of most calls.
    pub(crate) fn attach(self, view: &SystemView, drafted: Draft) -> Result<Draft, LockError> {
        let Self { plan, pieces, allowed } = self;
        let root = find(c"/").at("looking at the new root")?;
        let mut building = Building::prepared().at("looking at the new root")?;
        pieces.into_iter().try_for_each(|piece| building.attach(piece)).at("attaching a place")?;
        // By their descriptors: a granted place can be attached on a cover, and what is at its path is then that.
        for mount in building.covers.iter().chain([&root]) {
            make_read_only(mount.as_fd()).at("sealing the root")?;
        }
        let draft = match view.is_drafted_for(plan, |path| lies_over(&plan.places, path)) {
            true => drafted,
            false => draft_anew(plan, view, root.as_fd()).at("drafting its Landlock domain")?,
        };
        let find = |(at, reach): (CString, Reach)| Ok::<_, io::Error>(Allowed { place: find(&at)?, reach });
        let mut places: Vec<Allowed> =
            allowed.into_iter().map(find).collect::<io::Result<_>>().at("finding a place")?;
        if plan.executes == Executes::Nothing {
            places.extend(loaders());
        }
        draft.with(&places).at("the Landlock domain")
    }
}

/// The domain of a call that has another than most have, but for what it is granted.
fn draft_anew(plan: &ProgramPlan, view: &SystemView, root: BorrowedFd<'_>) -> io::Result<Draft> {
    let is_shared = |place: &&Place| matches!(place.kind, PlaceKind::Shared { .. });
    let is_covered = |path: &str| lies_over(plan.places.iter().filter(is_shared), path);
    let tcp = if plan.proxy { Tcp::ConnectTo(PROXY_PORT) } else { Tcp::Nothing };
    Draft::new(tcp)?.with(&view.allowed(root, plan.executes, is_covered)?)
}

/// Whether one of these lies at a path or above it.
fn lies_over<'p>(places: impl IntoIterator<Item = &'p Place>, path: &str) -> bool {
    let Ok(path) = AbsPath::parse(path) else { return false };
    places.into_iter().any(|place| path.below(&place.at).is_some())
}

/// The loaders that the new root has, for a program that executes nothing else: the kernel opens its loader as it opens
/// a program.
fn loaders() -> Vec<Allowed> {
    let open = |path: &&CStr| rustix::fs::open(*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
    LOADERS.iter().filter_map(open).map(|place| Allowed { place, reach: Reach::Program }).collect()
}

/// Who is shown as whom, each pair made once.
#[derive(Debug)]
pub(crate) struct IdMaps {
    as_own: Option<Identity>,
    made: Vec<(Identity, IdMap)>,
}

impl IdMaps {
    /// Of a program that will be somebody else than who owns the places: that one; else of nobody. What belongs to
    /// `usual`, whom most places belong to, is seen to ahead.
    pub(crate) fn new(as_own: Option<Identity>, usual: Identity) -> io::Result<Self> {
        let made = as_own.map(|own| Ok::<_, io::Error>((usual, IdMap::new(usual, own)?)));
        Ok(Self { as_own, made: made.transpose()?.into_iter().collect() })
    }

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
#[derive(Debug)]
pub(crate) struct Building {
    /// Devices of the file systems that are the program's own: mount points are made nowhere else.
    own: Vec<u64>,
    /// What covers directories of aaOS's own, and mounts that nobody is shown.
    covers: Vec<OwnedFd>,
}

impl Building {
    /// With nothing in it yet.
    pub(crate) fn empty() -> io::Result<Self> {
        Ok(Self { own: vec![device_of(c"/")?], covers: Vec::new() })
    }

    /// One that was prepared, with its own directories in it.
    fn prepared() -> io::Result<Self> {
        let scratch = SCRATCH.iter().map(|path| device_of(&CString::new(*path)?));
        let own = [device_of(c"/")].into_iter().chain(scratch).collect::<io::Result<_>>()?;
        Ok(Self { own, covers: Vec::new() })
    }

    /// Puts a piece in its place, which is made where it is not there.
    pub(crate) fn attach(&mut self, Piece { at, what }: Piece) -> io::Result<()> {
        let at = at.as_c_str();
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

pub(crate) fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}
