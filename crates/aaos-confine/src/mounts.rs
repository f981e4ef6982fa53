//! Mounts as descriptors: made or copied out of sight, bounded, and only then put in place.
//!
//! Invariant: a mount gets its attributes before it is attached anywhere, so that nobody ever sees it without them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};

use crate::namespaces::{Identity, open_at};
use crate::sys::{answer, exit_now, wait_for};

/// `MOUNT_ATTR_*` of linux/mount.h.
pub(crate) const READ_ONLY: u64 = 0x1;
pub(crate) const NO_SUID: u64 = 0x2;
pub(crate) const NO_DEVICES: u64 = 0x4;
pub(crate) const NO_EXEC: u64 = 0x8;
const ID_MAP: u64 = 0x0010_0000;
/// `OPEN_TREE_CLONE` of linux/mount.h.
const CLONE_TREE: i32 = 1;
/// `MOVE_MOUNT_F_EMPTY_PATH` of linux/mount.h.
const FROM_DESCRIPTOR: u32 = 0x4;
/// `MOVE_MOUNT_T_EMPTY_PATH` of linux/mount.h.
const ONTO_DESCRIPTOR: u32 = 0x40;
/// `FSCONFIG_SET_STRING` and `FSCONFIG_CMD_CREATE` of linux/mount.h.
const SET_STRING: u32 = 1;
const CREATE: u32 = 6;
/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC` of linux/mount.h.
const CLOSE_ON_EXEC: u32 = 1;
/// `RESOLVE_NO_MAGICLINKS` and `RESOLVE_NO_SYMLINKS` of linux/openat2.h.
const NO_LINKS: u64 = 0x02 | 0x04;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// `struct open_how` of linux/openat2.h.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// How much of a tree is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// One mount; what is mounted below it stays behind.
    One,
    /// With everything that is mounted below it.
    All,
}

impl Depth {
    const fn flag(self) -> i32 {
        match self {
            Self::One => 0,
            Self::All => libc::AT_RECURSIVE,
        }
    }
}

/// A mount that is attached nowhere yet.
#[derive(Debug)]
pub(crate) struct Detached(OwnedFd);

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Detached {
    /// A copy of what a descriptor of this mount namespace holds, with these attributes.
    pub(crate) fn copy(of: BorrowedFd<'_>, depth: Depth, attributes: u64) -> io::Result<Self> {
        let flags = CLONE_TREE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH | depth.flag();
        // SAFETY: a constant path; plain numbers.
        let tree =
            answer(unsafe { libc::syscall(libc::SYS_open_tree, of.as_raw_fd(), c"".as_ptr(), flags) })?;
        let copy = Self(owned(tree));
        copy.change(depth, attributes, 0, None)?;
        Ok(copy)
    }

    /// A fresh file system of a kind, with options, and these attributes.
    pub(crate) fn fresh(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> io::Result<Self> {
        // SAFETY: the kind outlives the call.
        let context =
            owned(answer(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC) })?);
        for (key, value) in options {
            configure(&context, SET_STRING, Some((key, value)))?;
        }
        configure(&context, CREATE, None)?;
        // SAFETY: plain numbers.
        let mount = answer(unsafe {
            libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOSE_ON_EXEC, attributes)
        })?;
        Ok(Self(owned(mount)))
    }

    /// Shows everything in it that one identity owns as another's, and what is made in it likewise.
    pub(crate) fn map_owner(&self, map: &IdMap) -> io::Result<()> {
        self.change(Depth::One, ID_MAP, 0, Some(map))
    }

    /// Puts it on top of what a descriptor of this mount namespace holds.
    pub(crate) fn attach(self, on: BorrowedFd<'_>) -> io::Result<()> {
        self.attach_held(on).map(drop)
    }

    /// The same; gives the mount, by which it is held whatever is attached on it later.
    pub(crate) fn attach_held(self, on: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        // SAFETY: constant paths; plain numbers.
        answer(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                on.as_raw_fd(),
                c"".as_ptr(),
                FROM_DESCRIPTOR | ONTO_DESCRIPTOR,
            )
        })?;
        Ok(self.0)
    }

    fn change(&self, depth: Depth, set: u64, clear: u64, map: Option<&IdMap>) -> io::Result<()> {
        let user_namespace = map.map_or(0, |map| u64::from(map.0.as_raw_fd().unsigned_abs()));
        let wanted = MountAttributes { set, clear, propagation: libc::MS_PRIVATE, user_namespace };
        set_attributes(self.0.as_raw_fd(), c"", libc::AT_EMPTY_PATH | depth.flag(), &wanted)
    }
}

impl From<Detached> for OwnedFd {
    fn from(Detached(mount): Detached) -> Self {
        mount
    }
}

impl From<OwnedFd> for Detached {
    /// Of the descriptor of a mount that is attached nowhere.
    fn from(mount: OwnedFd) -> Self {
        Self(mount)
    }
}

/// Makes a mount read-only, whose root a descriptor holds.
pub(crate) fn make_read_only(root: BorrowedFd<'_>) -> io::Result<()> {
    let wanted = MountAttributes { set: READ_ONLY, clear: 0, propagation: 0, user_namespace: 0 };
    set_attributes(root.as_raw_fd(), c"", libc::AT_EMPTY_PATH, &wanted)
}

fn set_attributes(directory: RawFd, path: &CStr, flags: i32, wanted: &MountAttributes) -> io::Result<()> {
    // SAFETY: path and attributes outlive the call and are as long as said.
    answer(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(wanted),
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

fn configure(context: &OwnedFd, command: u32, pair: Option<(&&CStr, &&CStr)>) -> io::Result<()> {
    let key = pair.map_or(std::ptr::null(), |(key, _)| key.as_ptr());
    let value = pair.map_or(std::ptr::null(), |(_, value)| value.as_ptr());
    // SAFETY: both are null or strings that outlive the call.
    answer(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) })
        .map(drop)
}

/// Opens a place of this mount namespace by a path in which no link is followed.
pub(crate) fn find(path: &CStr) -> io::Result<OwnedFd> {
    find_from(libc::AT_FDCWD, path)
}

/// The same below a place, by a path that begins there.
pub(crate) fn find_below(place: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    assert!(!path.to_bytes().starts_with(b"/"), "it would begin at the root");
    find_from(place.as_raw_fd(), path)
}

fn find_from(place: RawFd, path: &CStr) -> io::Result<OwnedFd> {
    let how = OpenHow {
        flags: u64::from((libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW).unsigned_abs()),
        mode: 0,
        resolve: NO_LINKS,
    };
    // SAFETY: path and description outlive the call and are as long as said.
    let found = answer(unsafe {
        libc::syscall(libc::SYS_openat2, place, path.as_ptr(), std::ptr::from_ref(&how), size_of::<OpenHow>())
    })?;
    Ok(owned(found))
}

/// Finds in this mount namespace what a descriptor of another one holds: by its path, and only if it is the same.
pub(crate) fn find_same(path: &CStr, held: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let found = find(path)?;
    let (here, there) = (rustix::fs::fstat(&found)?, rustix::fs::fstat(held)?);
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) {
        Ok(found)
    } else {
        // Somebody put another thing there.
        Err(io::Error::from_raw_os_error(libc::ESTALE))
    }
}

/// One file by a mount of its own that is read-only: through it not even the file's owner changes its mode or times.
#[derive(Debug)]
pub(crate) struct Unchangeable {
    /// Where the file is, in the root that it was found in.
    path: CString,
    mount: OwnedFd,
}

impl Unchangeable {
    /// Of what a descriptor holds; the root in which it was opened, or one like it, has to be there still.
    pub(crate) fn of(held: BorrowedFd<'_>) -> io::Result<Self> {
        let path = rustix::fs::readlink(name_of(held), Vec::new())?;
        let found = find_same(&path, held)?;
        let Detached(mount) = Detached::copy(found.as_fd(), Depth::One, READ_ONLY | NO_SUID | NO_DEVICES)?;
        Ok(Self { path, mount })
    }

    /// Opens it for reading. /proc of the machine has to be there still.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::open(name_of(self.mount.as_fd()), flags, Mode::empty())?)
    }
}

/// A program by the name under which it is executed: its own where it stands in the program's root, so that it knows where
/// it is; else a mount of its own. Either is read-only.
#[derive(Debug)]
pub(crate) enum Executed {
    /// At its path, in a directory of the system's that every program is shown.
    System { path: CString, held: OwnedFd },
    /// Anywhere else.
    Elsewhere(Unchangeable),
}

impl Executed {
    /// Of what a descriptor holds; where that was opened has to be the caller's root, or one like it. To make a mount and
    /// not to use it takes long, so it is asked whether the path is one of the system's.
    pub(crate) fn of(held: BorrowedFd<'_>, is_system: impl FnOnce(&str) -> bool) -> io::Result<Self> {
        let path = rustix::fs::readlink(name_of(held), Vec::new())?;
        if path.to_str().is_ok_and(is_system) {
            return Ok(Self::System { path, held: held.try_clone_to_owned()? });
        }
        Unchangeable::of(held).map(Self::Elsewhere)
    }

    /// The file to execute, once the program's root is the caller's.
    pub(crate) fn into_shown(self) -> io::Result<OwnedFd> {
        match self {
            Self::System { path, held } => {
                let place = find_same(&path, held.as_fd())?;
                if is_read_only(&place)? { Ok(place) } else { Err(io::Error::from_raw_os_error(libc::EROFS)) }
            }
            Self::Elsewhere(Unchangeable { path, mount }) => {
                let shown = find_same(&path, mount.as_fd()).ok();
                Ok(shown.filter(|place| is_fixed(place).unwrap_or(false)).unwrap_or(mount))
            }
        }
    }
}

/// A name that leads to what a descriptor of the caller holds.
fn name_of(held: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", held.as_raw_fd())
}

fn is_read_only(place: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatvfs(place)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether the mount of a place is read-only and lets programs be executed.
fn is_fixed(place: &OwnedFd) -> io::Result<bool> {
    let flags = rustix::fs::fstatvfs(place)?.f_flag;
    Ok(flags.contains(StatVfsMountFlags::RDONLY) && !flags.contains(StatVfsMountFlags::NOEXEC))
}

/// A user namespace that says whose files are shown as whose.
#[derive(Debug)]
pub(crate) struct IdMap(OwnedFd);

impl IdMap {
    /// What belongs to `owner` is shown as belonging to `shown`. Needs the superuser's rights.
    pub(crate) fn new(owner: Identity, shown: Identity) -> io::Result<Self> {
        let (numbers, number) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (waits, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let holder = Holder { number: number.as_raw_fd(), waits: waits.as_raw_fd() };
        let mut stack = vec![0_u128; HOLDER_STACK_BYTES / size_of::<u128>()];
        let shares = libc::CLONE_NEWUSER | libc::CLONE_FILES | libc::CLONE_VM | libc::SIGCHLD;
        // SAFETY: the child shares this process's memory, so that none has to be copied. It has a stack of its own, which
        // like `holder` outlives it, reads nothing else of the memory, and leaves by `_exit`; this process waits for what it
        // says before it makes another call that could fail, so that both never use the one place of error numbers at once.
        let pid = unsafe {
            let holder = (&raw const holder).cast_mut().cast();
            libc::clone(hold_namespace, stack.as_mut_ptr_range().end.cast(), shares, holder)
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let made = Self::of(&numbers, owner, shown);
        let told = rustix::io::write(&go, &[0]).map_err(io::Error::from);
        wait_for(pid)?;
        told.and(made)
    }

    fn of(numbers: &OwnedFd, owner: Identity, shown: Identity) -> io::Result<Self> {
        let mut number = [0; size_of::<RawFd>()];
        if rustix::io::read(numbers, &mut number)? != number.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let number = RawFd::from_ne_bytes(number);
        if number < 0 {
            return Err(io::Error::from_raw_os_error(number.saturating_neg()));
        }
        // SAFETY: the child opened it in the table that both share, and leaves it to this process.
        let place = unsafe { OwnedFd::from_raw_fd(number) };
        let write = |name: &CStr, from: u32, to: u32| {
            let file = open_at(place.as_raw_fd(), name, libc::O_WRONLY)?;
            rustix::io::write(&file, format!("{from} {to} 1\n").as_bytes()).map(drop).map_err(io::Error::from)
        };
        write(c"uid_map", owner.uid(), shown.uid())?;
        write(c"gid_map", owner.gid(), shown.gid())?;
        open_at(place.as_raw_fd(), c"ns/user", libc::O_RDONLY).map(Self)
    }
}

/// What the child of [`IdMap::new`] knows: where to say which descriptor it opened, and where it is told to go.
struct Holder {
    number: RawFd,
    waits: RawFd,
}

/// Room for a few calls without frames of any size.
const HOLDER_STACK_BYTES: usize = 16 * 1024;

/// The child of [`IdMap::new`]: opens its own place of /proc, says under which number, and stays until it is told to go.
extern "C" fn hold_namespace(holder: *mut libc::c_void) -> i32 {
    // SAFETY: the parent gave its own `Holder` and waits for this child's end. A constant path; buffers outlive the calls
    // and are as long as said.
    unsafe {
        let Holder { number, waits } = *holder.cast::<Holder>();
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let opened = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/proc/self".as_ptr(), flags);
        let place = if opened < 0 { -*libc::__errno_location() } else { i32::try_from(opened).unwrap_or(-1) };
        libc::syscall(libc::SYS_write, number, &raw const place, size_of_val(&place));
        let mut word = 0_u8;
        libc::syscall(libc::SYS_read, waits, &raw mut word, 1);
    }
    exit_now(0)
}

fn owned(number: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(RawFd::try_from(number).unwrap_or(-1)) }
}
