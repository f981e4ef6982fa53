//! Raw system calls with typed errors.
//!
//! Invariant: nothing here goes through a libc wrapper that keeps per-process state, because it also runs in
//! children made by a raw `clone`, whose libc state is stale.

use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::channel::CHANNEL_FD;

/// A step of a lock-down that failed; the process must end.
#[derive(Debug, thiserror::Error)]
#[error("lock-down failed at {step}")]
pub struct LockError {
    /// What was being done.
    pub step: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Turns the result of a raw call into the kernel's answer.
pub(crate) fn answer(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Names the step that failed.
pub(crate) trait AtStep<T> {
    /// Adds the step.
    fn at(self, step: &'static str) -> Result<T, LockError>;
}

impl<T> AtStep<T> for io::Result<T> {
    fn at(self, step: &'static str) -> Result<T, LockError> {
        self.map_err(|source| LockError { step, source })
    }
}

impl<T> AtStep<T> for rustix::io::Result<T> {
    fn at(self, step: &'static str) -> Result<T, LockError> {
        self.map_err(|errno| LockError { step, source: errno.into() })
    }
}

/// `clone` without a new stack: like `fork`, with namespaces. Gives 0 in the child.
///
/// # Safety
/// The caller is single-threaded, or its child calls nothing but async-signal-safe functions until it
/// executes another program or exits.
pub(crate) unsafe fn fork_with(flags: libc::c_int) -> io::Result<libc::pid_t> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: no memory is shared with the child, and the caller upholds the rest.
    let pid = answer(unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) })?;
    Ok(libc::pid_t::try_from(pid).unwrap_or(libc::pid_t::MAX))
}

/// `CLONE_INTO_CGROUP` of linux/sched.h.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// As [`fork_with`]; the child is born in a control group, if one is given by its directory. It is never anywhere else,
/// and nobody waits for the kernel to move it.
///
/// # Safety
/// As for [`fork_with`].
pub(crate) unsafe fn fork_into(flags: libc::c_int, group: Option<&OwnedFd>) -> io::Result<libc::pid_t> {
    let Some(group) = group else {
        // SAFETY: passed on to the caller.
        return unsafe { fork_with(flags) };
    };
    let arguments = libc::clone_args {
        flags: u64::from(flags.cast_unsigned()) | INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: u64::from(group.as_raw_fd().cast_unsigned()),
    };
    let size = size_of::<libc::clone_args>();
    // SAFETY: the arguments outlive the call, no memory is shared with the child, and the caller upholds the rest.
    let pid = answer(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) })?;
    Ok(libc::pid_t::try_from(pid).unwrap_or(libc::pid_t::MAX))
}

/// Whether a process can be made in a control group: `clone3` is there and not filtered away, as in some containers.
#[must_use]
pub fn makes_processes_in_groups() -> bool {
    // SAFETY: the kernel refuses a size of 0 before it reads anything.
    let asked =
        answer(unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<libc::clone_args>(), 0_usize) });
    asked.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// Executes the program that a descriptor holds, with these arguments and this environment; comes back only when that
/// fails.
pub(crate) fn execute(program: &OwnedFd, arguments: &[&CStr], environment: &[&CStr]) -> io::Result<()> {
    let pointers = |texts: &[&CStr]| -> Vec<*const libc::c_char> {
        texts.iter().map(|one| one.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: strings and null-terminated arrays outlive the call.
    answer(unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Ends the process at once: no destructor and no exit handler runs.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Waits for one child and gives its raw status.
pub(crate) fn wait_for(pid: libc::pid_t) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let got = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if got >= 0 {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Runs `body` in a throwaway child and gives the code it returned.
///
/// # Safety
/// As for [`fork_with`].
pub(crate) unsafe fn in_child(body: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: passed on to the caller.
    unsafe { in_child_with(0, body) }
}

/// The same, in a child that is made with these flags of `clone`.
///
/// # Safety
/// As for [`fork_with`].
pub(crate) unsafe fn in_child_with(flags: libc::c_int, body: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: passed on to the caller.
    let pid = unsafe { fork_with(flags) }?;
    if pid == 0 {
        exit_now(i32::from(body()));
    }
    let status = wait_for(pid)?;
    if libc::WIFEXITED(status) {
        Ok(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    } else {
        Ok(u8::MAX)
    }
}

/// Runs `body` in a throwaway child that shares the caller's descriptors, and gives the one that it leaves there.
///
/// # Errors
/// Where it leaves none, or one above 254: its exit code could not say which. The caller has a handful.
///
/// # Safety
/// As for [`fork_with`].
pub(crate) unsafe fn in_child_leaving(body: impl FnOnce() -> Option<OwnedFd>) -> io::Result<OwnedFd> {
    let leave = || {
        body().map_or(u8::MAX, |left| {
            let number = u8::try_from(left.as_raw_fd()).unwrap_or(u8::MAX);
            std::mem::forget(left);
            number
        })
    };
    // SAFETY: passed on to the caller.
    let code = unsafe { in_child_with(libc::CLONE_FILES, leave) }?;
    if code == u8::MAX {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    assert!(i32::from(code) > CHANNEL_FD, "the numbers that a far process is given are taken");
    // SAFETY: the child opened it in the table that it shared, and is gone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::from(code)) })
}

/// Says on standard error, which is captured, why a process ends.
pub(crate) fn last_words<E: std::fmt::Display>(step: &str, result: &Result<(), E>) {
    if let Err(error) = result {
        // With standard error gone there is nobody left to tell.
        drop(writeln!(io::stderr(), "{step}: {error}"));
    }
}
