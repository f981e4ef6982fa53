//! Namespaces of far processes: which this machine gives, and how one is made empty.
//!
//! Invariants: each namespace is optional by itself; what is missing is known before the first launch and
//! named. A namespace that the machine gives is entered in full (maps written, root emptied) or the launch
//! fails.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use aaos_core::confinement::Boundary;

use crate::channel::CHANNEL_FD;
use crate::privilege::{FarUids, become_uid, is_root, set_dumpable};
use crate::sys::{answer, in_child, in_child_leaving};

/// Each kind of namespace, its `clone` flag, and its name under /proc/PID/ns.
pub const KINDS: &[(Boundary, i32, &str)] = &[
    (Boundary::UserNamespace, libc::CLONE_NEWUSER, "user"),
    (Boundary::MountNamespace, libc::CLONE_NEWNS, "mnt"),
    (Boundary::PidNamespace, libc::CLONE_NEWPID, "pid"),
    (Boundary::IpcNamespace, libc::CLONE_NEWIPC, "ipc"),
    (Boundary::NetNamespace, libc::CLONE_NEWNET, "net"),
    (Boundary::UtsNamespace, libc::CLONE_NEWUTS, "uts"),
    (Boundary::CgroupNamespace, libc::CLONE_NEWCGROUP, "cgroup"),
];

/// A set of namespaces, as `clone` flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceSet(i32);

impl NamespaceSet {
    /// No namespace at all.
    pub const NONE: Self = Self(0);

    /// The set that a control frame carries; unknown bits are dropped.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        let known = KINDS.iter().fold(0, |all, (_, flag, _)| all | flag);
        Self(i32::from_ne_bytes(bits.to_ne_bytes()) & known)
    }

    /// The set as a control frame carries it.
    #[must_use]
    pub const fn bits(self) -> u32 {
        u32::from_ne_bytes(self.0.to_ne_bytes())
    }

    /// Whether one kind is in it.
    #[must_use]
    pub fn has(self, boundary: Boundary) -> bool {
        KINDS.iter().any(|(kind, flag, _)| *kind == boundary && self.0 & flag != 0)
    }

    /// The set without some kinds.
    #[must_use]
    pub fn without(self, boundaries: &[Boundary]) -> Self {
        KINDS
            .iter()
            .filter(|(kind, _, _)| boundaries.contains(kind))
            .fold(self, |left, (_, flag, _)| Self(left.0 & !flag))
    }

    /// Its kinds, in the order of [`KINDS`].
    #[must_use]
    pub fn boundaries(self) -> Vec<Boundary> {
        KINDS.iter().filter(|(_, flag, _)| self.0 & flag != 0).map(|(kind, _, _)| *kind).collect()
    }

    /// As flags for `clone`.
    pub(crate) const fn flags(self) -> i32 {
        self.0
    }
}

/// What this machine gives to far processes, found by trying it in throwaway children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Namespaces that can be entered in full.
    pub namespaces: NamespaceSet,
    /// From where each far process gets a uid of its own; `None` where the launcher is not root.
    pub own_uids: Option<FarUids>,
}

/// Tries every namespace once.
///
/// # Safety
/// The caller is single-threaded: children run ordinary code.
pub(crate) unsafe fn find_abilities() -> Abilities {
    // SAFETY: passed on to the caller.
    let works = |body: &dyn Fn() -> io::Result<()>| unsafe { in_child(|| u8::from(body().is_err())) };
    let gives = |range: &FarUids| works(&|| become_uid(range.of_worker(0))).is_ok_and(|code| code == 0);
    let own_uids = if is_root() { FarUids::ALL.into_iter().find(gives) } else { None };
    let mut found = 0;
    for (_, flag, _) in KINDS {
        if works(&|| try_one(*flag, own_uids)).is_ok_and(|code| code == 0) {
            found |= flag;
        }
    }
    Abilities { namespaces: NamespaceSet(found), own_uids }
}

fn try_one(flag: i32, own_uids: Option<FarUids>) -> io::Result<()> {
    if flag == libc::CLONE_NEWUSER {
        let proc = ProcSelf::open()?;
        if let Some(range) = own_uids {
            become_uid(range.of_worker(0))?;
        }
        return enter_user_namespace(&proc);
    }
    if is_root() {
        unshare(flag)?;
    } else {
        let identity = Identity::of_caller();
        unshare(flag | libc::CLONE_NEWUSER)?;
        write_maps(&ProcSelf::open()?, identity)?;
    }
    if flag == libc::CLONE_NEWNS { enter_empty_root() } else { Ok(()) }
}

pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: plain flags; the caller is single-threaded.
    answer(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// Makes empty network namespaces ahead of need: one takes longer than all the rest of a launch together.
///
/// Only for a caller that is root: an ordinary user's network namespace belongs to the user namespace of one process.
#[derive(Debug)]
pub(crate) struct NetworkMaker {
    home: OwnedFd,
}

impl NetworkMaker {
    /// Remembers the caller's own network namespace, and goes there to see that it may: the root of a container may
    /// leave that of the host, but not come back to it.
    pub(crate) fn new() -> io::Result<Self> {
        let home = own_network()?;
        enter_network(&home)?;
        Ok(Self { home })
    }

    /// One more; `Ok(None)` where the machine gives none now.
    ///
    /// # Errors
    /// When the caller cannot come back to its own namespace; it must end then.
    pub(crate) fn make(&self) -> io::Result<Option<EmptyNetwork>> {
        if unshare(libc::CLONE_NEWNET).is_err() {
            return Ok(None);
        }
        let made = own_network();
        enter_network(&self.home)?;
        Ok(made.ok().map(EmptyNetwork))
    }
}

/// A network namespace that no process is in or ever was, but for the moment in which it was made.
#[derive(Debug)]
pub(crate) struct EmptyNetwork(OwnedFd);

impl EmptyNetwork {
    /// Moves the caller into it.
    pub(crate) fn enter(&self) -> io::Result<()> {
        enter_network(&self.0)
    }
}

fn own_network() -> io::Result<OwnedFd> {
    let opened = open_at(libc::AT_FDCWD, c"/proc/self/ns/net", libc::O_RDONLY)?;
    assert!(opened.as_raw_fd() > CHANNEL_FD, "the numbers that a far process is given are taken");
    Ok(opened)
}

fn enter_network(namespace: &OwnedFd) -> io::Result<()> {
    enter(namespace, libc::CLONE_NEWNET)
}

fn enter(namespace: &OwnedFd, kind: i32) -> io::Result<()> {
    // SAFETY: plain numbers; the caller is single-threaded.
    answer(unsafe { libc::syscall(libc::SYS_setns, namespace.as_raw_fd(), kind) }).map(drop)
}

/// A mount namespace that holds an empty read-only root and nothing else. A copy of it is made in a tenth of the time that
/// it takes to copy all mounts of the machine and to leave them.
///
/// Only for a caller that is root: an ordinary user may not enter a namespace that another process made.
#[derive(Debug)]
pub(crate) struct EmptyMounts(OwnedFd);

impl EmptyMounts {
    /// Makes one, and sees in a throwaway child that it can be entered.
    ///
    /// # Safety
    /// The caller is single-threaded.
    pub(crate) unsafe fn make() -> io::Result<Self> {
        // SAFETY: passed on to the caller.
        let made = Self(unsafe { in_child_leaving(|| Self::open_in_child().ok()) }?);
        // SAFETY: passed on to the caller.
        match unsafe { in_child(|| u8::from(made.enter_copy().is_err())) }? {
            0 => Ok(made),
            _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    }

    fn open_in_child() -> io::Result<OwnedFd> {
        let proc = ProcSelf::open()?;
        unshare(libc::CLONE_NEWNS)?;
        enter_empty_root()?;
        Ok(MountNamespace::of(&proc)?.0)
    }

    /// Moves the caller into a mount namespace of its own with the empty root.
    pub(crate) fn enter_copy(&self) -> io::Result<()> {
        enter(&self.0, libc::CLONE_NEWNS)?;
        unshare(libc::CLONE_NEWNS)
    }
}

/// A mount namespace that the caller is in, or was in, and can enter where it has the right to.
#[derive(Debug)]
pub(crate) struct MountNamespace(OwnedFd);

impl MountNamespace {
    /// The caller's.
    pub(crate) fn of(proc: &ProcSelf) -> io::Result<Self> {
        open_at(proc.0.as_raw_fd(), c"ns/mnt", libc::O_RDONLY).map(Self)
    }

    /// Moves the caller into it: to its root.
    pub(crate) fn enter(&self) -> io::Result<()> {
        enter(&self.0, libc::CLONE_NEWNS)
    }
}

/// The calling process's directory of /proc, kept across a change of root.
#[derive(Debug)]
pub(crate) struct ProcSelf(OwnedFd);

impl ProcSelf {
    pub(crate) fn open() -> io::Result<Self> {
        open_at(libc::AT_FDCWD, c"/proc/self", libc::O_PATH | libc::O_DIRECTORY).map(Self)
    }

    pub(crate) fn write(&self, name: &CStr, text: &str) -> io::Result<()> {
        let file = open_at(self.0.as_raw_fd(), name, libc::O_WRONLY)?;
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    }
}

pub(crate) fn open_at(directory: i32, name: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the name outlives the call.
    let opened = answer(unsafe {
        libc::syscall(libc::SYS_openat, directory, name.as_ptr(), flags | libc::O_CLOEXEC)
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(opened).unwrap_or(-1)) })
}

/// A uid and a gid as the parent of a user namespace names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: u32,
    gid: u32,
}

impl Identity {
    /// The caller's. Inside a namespace without maps it would be nobody's, so it is taken before.
    pub(crate) fn of_caller() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    pub(crate) const fn new(uid: u32, gid: u32) -> Self {
        Self { uid, gid }
    }

    pub(crate) const fn uid(self) -> u32 {
        self.uid
    }

    pub(crate) const fn gid(self) -> u32 {
        self.gid
    }
}

/// Enters a user namespace of its own and maps the caller's own uid and gid into it, nothing else.
pub(crate) fn enter_user_namespace(proc: &ProcSelf) -> io::Result<()> {
    // A changed uid made /proc/self root's; the maps can be written only by their owner.
    set_dumpable(true)?;
    let identity = Identity::of_caller();
    unshare(libc::CLONE_NEWUSER)?;
    write_maps(proc, identity)
}

/// Enters a mount namespace of its own, with all mounts of the one that it was in.
pub(crate) fn enter_mount_namespace() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

/// Writes the maps of a user namespace that the caller is in: one uid and one gid, mapped to themselves.
pub(crate) fn write_maps(proc: &ProcSelf, identity: Identity) -> io::Result<()> {
    let Identity { uid, gid } = identity;
    proc.write(c"setgroups", "deny")?;
    proc.write(c"gid_map", &format!("{gid} {gid} 1\n"))?;
    proc.write(c"uid_map", &format!("{uid} {uid} 1\n"))
}

/// Replaces the root of the caller's own mount namespace with an empty read-only tmpfs.
pub(crate) fn enter_empty_root() -> io::Result<()> {
    // /proc is there (the maps were written through it) and is a directory nothing below needs any more.
    const PLACE: &CStr = c"/proc";
    let options = c"size=4k,nr_inodes=1,mode=555";
    keep_mounts_private()?;
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(Some(c"tmpfs"), PLACE, flags, Some(options))?;
    turn_into_root(PLACE)
}

/// No mount of this namespace is seen elsewhere from here on, and none comes in from elsewhere.
pub(crate) fn keep_mounts_private() -> io::Result<()> {
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE, None)
}

/// Makes what is mounted at a place the root of this mount namespace, and the old root vanish.
pub(crate) fn turn_into_root(place: &CStr) -> io::Result<()> {
    const HERE: &CStr = c".";
    chdir(place)?;
    // SAFETY: constant paths. The old root is stacked under the new one, then detached.
    answer(unsafe { libc::syscall(libc::SYS_pivot_root, HERE.as_ptr(), HERE.as_ptr()) })?;
    // SAFETY: a constant path.
    answer(unsafe { libc::syscall(libc::SYS_umount2, HERE.as_ptr(), libc::MNT_DETACH) })?;
    chdir(c"/")
}

pub(crate) fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: the path outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_chdir, path.as_ptr()) }).map(drop)
}

fn mount(kind: Option<&CStr>, place: &CStr, flags: libc::c_ulong, options: Option<&CStr>) -> io::Result<()> {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    let options = options.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null or a string that outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_mount, kind, place.as_ptr(), kind, flags, options) }).map(drop)
}

#[cfg(test)]
mod tests {
    use aaos_core::confinement::Boundary;

    use super::{KINDS, NamespaceSet};

    #[test]
    fn a_set_survives_a_control_frame_and_drops_unknown_bits() {
        let all = NamespaceSet::from_bits(u32::MAX);
        assert_eq!(all.boundaries().len(), KINDS.len());
        assert_eq!(NamespaceSet::from_bits(all.bits()), all);
        let fewer = all.without(&[Boundary::NetNamespace]);
        assert!(!fewer.has(Boundary::NetNamespace) && fewer.has(Boundary::PidNamespace));
        assert_eq!(NamespaceSet::from_bits(1), NamespaceSet::NONE);
    }
}
