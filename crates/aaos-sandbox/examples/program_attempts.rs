//! A program that tries to reach what lies outside its sandbox, and says what the kernel answered. Started without a
//! sandbox it is the control.
//!
//! Invariant: it undoes nothing and needs to: each attempt is its last act.
#![allow(unsafe_code, reason = "the attempts are raw calls")]

use std::ffi::CString;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |at: usize| arguments.get(at).map(String::as_str).unwrap_or_default();
    let result = match given(0) {
        "path-socket" => UnixStream::connect(given(1)).map(drop),
        "datagram-pair" => datagram_pair(given(1)),
        "tcp" => TcpStream::connect(given(1)).map(drop),
        "memfd" => execute_memory(),
        "trace" => trace(given(1).parse().unwrap_or(1)),
        other => Err(io::Error::other(format!("no attempt {other}"))),
    };
    let words = result.map_or_else(|error| format!("refused: {error}"), |()| "allowed".to_owned());
    writeln!(io::stdout(), "{words}")
}

fn answer(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Connects a half of a datagram pair to a path.
fn datagram_pair(path: &str) -> io::Result<()> {
    let (half, _other) = std::os::unix::net::UnixDatagram::pair()?;
    half.connect(path)
}

/// Executes a copy of /bin/true that lies in memory alone.
fn execute_memory() -> io::Result<()> {
    let content = std::fs::read("/bin/true")?;
    // SAFETY: a constant name.
    let made = answer(unsafe { libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0) })?;
    // SAFETY: the kernel has just made this descriptor.
    let memory = unsafe { OwnedFd::from_raw_fd(i32::try_from(made).unwrap_or(-1)) };
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    std::fs::write(&path, content)?;
    let path = CString::new(path)?;
    // SAFETY: the child executes or exits.
    let child = answer(unsafe { libc::syscall(libc::SYS_fork) })?;
    if child == 0 {
        let arguments = [path.as_ptr(), std::ptr::null()];
        // SAFETY: path and null-terminated array outlive the calls.
        unsafe {
            libc::execv(path.as_ptr(), arguments.as_ptr());
            libc::_exit(99)
        }
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_wait4, child, &raw mut status, 0, 0_usize) })?;
    if libc::WEXITSTATUS(status) == 99 { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
}

fn trace(pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: attach takes no pointers.
    answer(unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0_usize, 0_usize) }).map(drop)
}
