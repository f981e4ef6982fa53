//! Raw system calls and what they answered.
//!
//! Invariants: an attempt goes past every wrapper, so that what refuses it is the kernel; what it points to
//! outlives its call.

use std::ffi::{CStr, CString};

use serde::{Deserialize, Serialize};

/// Why an attempt came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Refusal {
    /// The kernel's error number.
    Errno(i32),
    /// The calls were answered, and what they were for was not there.
    Nothing(String),
}

impl Refusal {
    /// As it stands in the table.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Errno(errno) => name_of(*errno),
            Self::Nothing(words) => words.clone(),
        }
    }
}

/// What came of an attempt.
pub(crate) type Answer<T = ()> = Result<T, Refusal>;

/// Answered, and nothing was gained.
pub(crate) fn nothing<T>(words: &str) -> Answer<T> {
    Err(Refusal::Nothing(words.to_owned()))
}

/// One system call. Every pointer among the arguments points to what outlives the call and is as large as the
/// kernel takes it to be.
pub(crate) fn raw(number: libc::c_long, arguments: &[usize]) -> Answer<usize> {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: see above; each attempt upholds it, and none lets the kernel write into what Rust owns unseen.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    usize::try_from(result).map_err(|_| last_errno())
}

/// The error number that the last call of libc left.
pub(crate) fn last_errno() -> Refusal {
    Refusal::Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// A call whose result does not matter.
pub(crate) fn done(number: libc::c_long, arguments: &[usize]) -> Answer {
    raw(number, arguments).map(drop)
}

/// A call that makes a descriptor, which is closed again.
pub(crate) fn made(number: libc::c_long, arguments: &[usize]) -> Answer {
    close(raw(number, arguments)?)
}

pub(crate) fn close(descriptor: usize) -> Answer {
    done(libc::SYS_close, &[descriptor])
}

/// A signed number as a system call's argument.
pub(crate) const fn signed(number: i32) -> usize {
    number as isize as usize
}

/// A set of flags as an argument.
pub(crate) const fn flags(bits: i32) -> usize {
    bits as u32 as usize
}

pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).expect("paths of the stage have no NUL")
}

pub(crate) fn text(words: &CStr) -> usize {
    words.as_ptr() as usize
}

pub(crate) fn to<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

pub(crate) fn into<T>(value: &mut T) -> usize {
    std::ptr::from_mut(value) as usize
}

/// `AT_FDCWD` as an argument.
pub(crate) const HERE: usize = signed(libc::AT_FDCWD);

/// Opens a path.
pub(crate) fn open(path: &str, how: i32) -> Answer<usize> {
    let path = c_string(path);
    raw(libc::SYS_openat, &[HERE, text(&path), flags(how | libc::O_CLOEXEC | libc::O_NONBLOCK), 0o644])
}

/// Reads up to 64 bytes.
pub(crate) fn read(descriptor: usize) -> Answer<Vec<u8>> {
    let mut bytes = vec![0_u8; 64];
    let got = raw(libc::SYS_read, &[descriptor, bytes.as_mut_ptr() as usize, bytes.len()])?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Runs an attempt in a child of its own, which ends with it; its error number comes back.
pub(crate) fn in_child(attempt: impl FnOnce() -> Answer) -> Answer {
    let pid = raw(libc::SYS_clone, &[flags(libc::SIGCHLD)])?;
    if pid == 0 {
        let code = match attempt() {
            Ok(()) => 0,
            Err(Refusal::Errno(errno)) => errno,
            Err(Refusal::Nothing(_)) => 255,
        };
        let never = done(libc::SYS_exit_group, &[flags(code)]);
        unreachable!("a process that has ended goes on: {never:?}");
    }
    match wait(pid)? {
        (0, 0) => Ok(()),
        (255, 0) => nothing("nothing"),
        (errno, 0) => Err(Refusal::Errno(errno)),
        (_, signal) => Err(Refusal::Nothing(format!("signal {signal}"))),
    }
}

/// Waits for a child: its exit code and its signal.
pub(crate) fn wait(pid: usize) -> Answer<(i32, i32)> {
    let mut status = 0_i32;
    raw(libc::SYS_wait4, &[pid, into(&mut status), flags(libc::__WALL)])?;
    let exited = libc::WIFEXITED(status);
    let (code, signal) = (libc::WEXITSTATUS(status), libc::WTERMSIG(status));
    Ok(if exited { (code, 0) } else { (0, signal) })
}

/// The usual name of an error number.
pub(crate) fn name_of(errno: i32) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::ENODEV, "ENODEV"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENFILE, "ENFILE"),
        (libc::EMFILE, "EMFILE"),
        (libc::EFBIG, "EFBIG"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENXIO, "ENXIO"),
        (libc::EIO, "EIO"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EXDEV, "EXDEV"),
        (libc::EUSERS, "EUSERS"),
        (libc::EDQUOT, "EDQUOT"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::ENOKEY, "ENOKEY"),
        (libc::EDESTADDRREQ, "EDESTADDRREQ"),
    ];
    let found = NAMES.iter().find(|(number, _)| *number == errno);
    found.map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}
