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
        "trace" => trace(given(1).parse().map_err(io::Error::other)?),
        "trace-own" => trace_own(),
        "typing" => type_into(0),
        "old-entry" => old_entry(),
        "descriptors" => leaked(),
        "address-space" => fill_addresses(),
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

/// A process that waits until it is ended.
fn sibling() -> io::Result<libc::pid_t> {
    // SAFETY: the child waits for a signal and does nothing else.
    let child = answer(unsafe { libc::syscall(libc::SYS_fork) })?;
    if child == 0 {
        loop {
            // SAFETY: takes no pointers.
            unsafe { libc::syscall(libc::SYS_pause) };
        }
    }
    libc::pid_t::try_from(child).map_err(io::Error::other)
}

/// Traces a process that is this one's own.
fn trace_own() -> io::Result<()> {
    let pid = sibling()?;
    let traced = trace(pid);
    // SAFETY: takes no pointers.
    answer(unsafe { libc::syscall(libc::SYS_kill, pid, libc::SIGKILL) })?;
    traced
}

fn trace(pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: attaching takes no pointers.
    answer(unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0_usize, 0_usize) }).map(drop)
}

/// Types into what may be a terminal; any answer but a filter's is one of the terminal.
fn type_into(descriptor: libc::c_int) -> io::Result<()> {
    let letter = b'x';
    // SAFETY: the letter outlives the call.
    let typed =
        answer(unsafe { libc::syscall(libc::SYS_ioctl, descriptor, libc::TIOCSTI, &raw const letter) });
    match typed {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(error),
        _ => Ok(()),
    }
}

/// Asks for this process's number by the entry of 32-bit programs, whose numbers of calls are others.
fn old_entry() -> io::Result<()> {
    const GETPID_OF_I386: i32 = 20;
    let mut answer = GETPID_OF_I386;
    // SAFETY: the call takes nothing and changes no memory; the entry keeps all registers but the answer's.
    unsafe {
        std::arch::asm!(
            "int 0x80", inlateout("eax") answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let is_ours = u32::try_from(answer).is_ok_and(|pid| pid == std::process::id());
    if is_ours { Ok(()) } else { Err(io::Error::other(format!("it answered {answer}"))) }
}

/// Looks for a descriptor beyond the three of every program.
fn leaked() -> io::Result<()> {
    const BELOW: libc::c_int = 1024;
    // SAFETY: asking takes no pointers.
    let is_open = |number: &libc::c_int| unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0;
    match (3..BELOW).find(is_open) {
        Some(_) => Ok(()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Takes more addresses than a program may have, and touches none of them.
fn fill_addresses() -> io::Result<()> {
    const PART: usize = 1 << 30;
    const PARTS: usize = 10;
    let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    for _ in 0..PARTS {
        // SAFETY: new pages, which this process leaves alone.
        let part = unsafe { libc::mmap(std::ptr::null_mut(), PART, libc::PROT_READ, how, -1, 0) };
        if part == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
