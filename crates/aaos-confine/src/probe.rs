//! Attempts to cross boundaries, made from inside by raw system calls.
//!
//! Invariants: an attempt that succeeds is undone at once, and one that would change the caller runs in a
//! throwaway child wherever a child can be made; so the same code serves as the control, unconfined. Nothing
//! ever connects to `AF_VSOCK`.

use std::ffi::CString;
use std::io;

use aaos_core::confinement::{Boundary, ProbeResult};
use aaos_core::path::AbsPath;
use aaos_core::wire::ProbeAttempt;

use crate::descriptors::{count_extra, list_extra, measure_extra};
use crate::sys::{answer, exit_now, fork_with, in_child, wait_for};

/// Highest descriptor number that is looked at; above every limit of the tables.
const SCANNED_DESCRIPTORS: i32 = 4096;
/// Room for `struct io_uring_params` and `union bpf_attr`; zeroed, both kernels read less.
const ZEROED_BYTES: usize = 256;

/// Makes each attempt and says what the kernel answered, in order.
#[must_use]
pub fn run_probes(attempts: &[ProbeAttempt]) -> Vec<ProbeResult> {
    attempts.iter().map(run_one).collect()
}

/// What every far process tries once it is locked, for its receipt.
///
/// `descriptors` is the number below which every descriptor of it lies: its limit, since all others were
/// closed.
pub(crate) fn self_probes(descriptors: i32) -> Vec<ProbeResult> {
    let mut attempts = vec![
        ProbeAttempt::UnixSocket,
        ProbeAttempt::UnixDatagramPair,
        ProbeAttempt::VsockSocket,
        ProbeAttempt::Fork,
        ProbeAttempt::UserNamespace,
        ProbeAttempt::Ptrace(1),
        ProbeAttempt::Signal(1),
        ProbeAttempt::IoUring,
        ProbeAttempt::Bpf,
        ProbeAttempt::SetUid,
    ];
    if let Ok(path) = AbsPath::parse("/etc/passwd") {
        attempts.extend([ProbeAttempt::Open(path.clone()), ProbeAttempt::Stat(path)]);
    }
    if let Ok(path) = AbsPath::parse("/bin/true") {
        attempts.push(ProbeAttempt::Exec(path));
    }
    let mut results = run_probes(&attempts);
    results.push(extra_descriptors(descriptors));
    results
}

/// What a program sandbox tries once it is locked, for its receipt: what nobody in it may ever do. Each attempt is a
/// single call; one that got through would end the launch, so none has to be undone.
///
/// So many descriptors are kept above the channel, to be executed and handed on; all lie below the second number.
pub(crate) fn program_probes(kept: usize, descriptors: i32, proxied: bool) -> Vec<ProbeResult> {
    type Attempt = fn() -> io::Result<()>;
    let internet: (Boundary, &str, Attempt) = if proxied {
        (Boundary::Seccomp, "socket(AF_INET, SOCK_DGRAM)", || socket_of(libc::AF_INET, libc::SOCK_DGRAM))
    } else {
        (Boundary::Seccomp, "socket(AF_INET)", || socket(libc::AF_INET))
    };
    let attempts: [(Boundary, &str, Attempt); 8] = [
        (Boundary::Seccomp, "socket(AF_UNIX)", || socket(libc::AF_UNIX)),
        internet,
        (Boundary::Seccomp, "socket(AF_INET6)", || socket(libc::AF_INET6)),
        (Boundary::Seccomp, "socket(AF_VSOCK)", || socket(libc::AF_VSOCK)),
        (Boundary::Seccomp, "unshare(CLONE_NEWUSER)", new_user_namespace),
        (Boundary::Seccomp, "io_uring_setup()", io_uring),
        (Boundary::Seccomp, "bpf(MAP_CREATE)", bpf),
        (Boundary::NoCapabilities, "setuid(0)", set_uid),
    ];
    let tried =
        attempts.into_iter().map(|(boundary, words, attempt)| told(boundary, words.to_owned(), &attempt()));
    tried.chain([descriptors_beyond(kept, descriptors)]).collect()
}

fn run_one(attempt: &ProbeAttempt) -> ProbeResult {
    let (boundary, words, result) = match attempt {
        ProbeAttempt::Open(path) => (Boundary::Seccomp, format!("open({path})"), open(path)),
        ProbeAttempt::Stat(path) => (Boundary::Seccomp, format!("stat({path})"), stat(path)),
        ProbeAttempt::UnixSocket => (Boundary::Seccomp, "socket(AF_UNIX)".to_owned(), socket(libc::AF_UNIX)),
        ProbeAttempt::UnixDatagramPair => {
            (Boundary::Seccomp, "socketpair(AF_UNIX, SOCK_DGRAM)".to_owned(), datagram_pair())
        }
        ProbeAttempt::InetSocket => (Boundary::Seccomp, "socket(AF_INET)".to_owned(), inet()),
        ProbeAttempt::VsockSocket => {
            (Boundary::Seccomp, "socket(AF_VSOCK)".to_owned(), socket(libc::AF_VSOCK))
        }
        ProbeAttempt::Exec(path) => (Boundary::Seccomp, format!("execve({path})"), execute(path)),
        ProbeAttempt::Ptrace(pid) => (Boundary::Seccomp, format!("ptrace(ATTACH, {pid})"), trace(*pid)),
        ProbeAttempt::Signal(pid) => (Boundary::Seccomp, format!("kill({pid}, 0)"), signal(*pid)),
        ProbeAttempt::Fork => (Boundary::Seccomp, "fork()".to_owned(), fork()),
        ProbeAttempt::UserNamespace => {
            (Boundary::Seccomp, "unshare(CLONE_NEWUSER)".to_owned(), apart(new_user_namespace))
        }
        ProbeAttempt::IoUring => (Boundary::Seccomp, "io_uring_setup()".to_owned(), io_uring()),
        ProbeAttempt::Bpf => (Boundary::Seccomp, "bpf(MAP_CREATE)".to_owned(), bpf()),
        ProbeAttempt::SetUid => (Boundary::NoCapabilities, "setuid(0)".to_owned(), apart(set_uid)),
        ProbeAttempt::ExtraDescriptors => return extra_descriptors(SCANNED_DESCRIPTORS),
    };
    told(boundary, words, &result)
}

fn told(boundary: Boundary, attempt: String, result: &io::Result<()>) -> ProbeResult {
    let detail = match result {
        Ok(()) => "allowed".to_owned(),
        Err(error) => errno_name(error.raw_os_error().unwrap_or(0)),
    };
    ProbeResult { boundary, attempt, refused: result.is_err(), detail }
}

fn c_path(path: &AbsPath) -> io::Result<CString> {
    CString::new(path.to_string()).map_err(io::Error::other)
}

fn close(descriptor: libc::c_long) -> io::Result<()> {
    // SAFETY: closes a descriptor that the caller has just made and shares with nobody.
    answer(unsafe { libc::syscall(libc::SYS_close, descriptor) }).map(drop)
}

fn open(path: &AbsPath) -> io::Result<()> {
    let path = c_path(path)?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the path outlives the call.
    close(answer(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) })?)
}

fn stat(path: &AbsPath) -> io::Result<()> {
    let path = c_path(path)?;
    let mut into = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: path and buffer outlive the call; the buffer is not read.
    answer(unsafe { libc::syscall(libc::SYS_stat, path.as_ptr(), into.as_mut_ptr()) }).map(drop)
}

fn new_socket(family: i32, kind: i32) -> io::Result<libc::c_long> {
    // SAFETY: plain numbers.
    answer(unsafe { libc::syscall(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, 0) })
}

fn socket(family: i32) -> io::Result<()> {
    socket_of(family, libc::SOCK_STREAM)
}

fn socket_of(family: i32, kind: i32) -> io::Result<()> {
    close(new_socket(family, kind)?)
}

fn datagram_pair() -> io::Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let mut pair = [-1_i32; 2];
    // SAFETY: the kernel writes two descriptors into the pair, which outlives the call.
    answer(unsafe { libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    pair.into_iter().try_for_each(|half| close(half.into()))
}

/// A socket is enough to be allowed; whether anybody listens on the discard port does not matter.
fn inet() -> io::Result<()> {
    let socket = new_socket(libc::AF_INET, libc::SOCK_STREAM)?;
    // Its result does not matter.
    drop(discard_on(socket));
    close(socket)
}

/// Connects a socket to the discard port of this machine, or of this network namespace.
fn discard_on(socket: libc::c_long) -> io::Result<()> {
    const DISCARD_PORT: u16 = 9;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: DISCARD_PORT.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_be_bytes([127, 0, 0, 1]).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: the address outlives the call and is as long as said.
    answer(unsafe { libc::syscall(libc::SYS_connect, socket, &raw const address, size_of_val(&address)) })
        .map(drop)
}

/// What a program with a proxy tries besides: a port that is not its proxy's is to be refused by Landlock, not for want
/// of somebody who listens.
pub(crate) fn another_port() -> ProbeResult {
    let tried = new_socket(libc::AF_INET, libc::SOCK_STREAM).and_then(|socket| {
        let connected = discard_on(socket);
        close(socket)?;
        connected
    });
    let refused = matches!(&tried, Err(error) if error.raw_os_error() == Some(libc::EACCES));
    let words = "connect() to a port that is not the proxy's";
    ProbeResult { refused, ..told(Boundary::Landlock, words.to_owned(), &tried) }
}

/// Runs an attempt that would change the caller in a child, or here if no child can be made.
fn apart(attempt: fn() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: the attempts are raw calls that allocate nothing.
    let code = unsafe { in_child(|| attempt().map_or_else(|error| error_code(&error), |()| 0)) };
    match code {
        Ok(0) => Ok(()),
        Ok(errno) => Err(io::Error::from_raw_os_error(i32::from(errno))),
        Err(_) => attempt(),
    }
}

fn error_code(error: &io::Error) -> u8 {
    error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(u8::MAX)
}

fn new_user_namespace() -> io::Result<()> {
    // SAFETY: a plain flag.
    answer(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) }).map(drop)
}

fn set_uid() -> io::Result<()> {
    // SAFETY: a plain number.
    answer(unsafe { libc::syscall(libc::SYS_setuid, 0) }).map(drop)
}

fn execute(path: &AbsPath) -> io::Result<()> {
    /// A code that says "not executed"; the programs that a control executes do not use it.
    const REFUSED: u8 = 201;
    let path = c_path(path)?;
    let arguments = [path.as_ptr(), std::ptr::null()];
    let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: path and both null-terminated arrays outlive the call.
    let execve =
        || unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), arguments.as_ptr(), nothing.as_ptr()) };
    // SAFETY: the child calls nothing but `execve`.
    match unsafe { in_child(|| u8::from(answer(execve()).is_err()) * REFUSED) } {
        Ok(REFUSED) => Err(io::Error::from_raw_os_error(libc::EACCES)),
        Ok(_) => Ok(()),
        Err(_) => answer(execve()).map(drop),
    }
}

fn trace(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: attach takes no pointers.
    answer(unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, pid, 0_usize, 0_usize) })?;
    wait_for(pid)?;
    // SAFETY: detach takes no pointers.
    answer(unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_DETACH, pid, 0_usize, 0_usize) }).map(drop)
}

fn signal(pid: u32) -> io::Result<()> {
    // SAFETY: signal 0 only asks.
    answer(unsafe { libc::syscall(libc::SYS_kill, pid, 0) }).map(drop)
}

fn fork() -> io::Result<()> {
    // SAFETY: the child ends at once.
    let pid = unsafe { fork_with(0) }?;
    if pid == 0 {
        exit_now(0);
    }
    wait_for(pid).map(drop)
}

fn io_uring() -> io::Result<()> {
    let mut parameters = [0_u8; ZEROED_BYTES];
    // SAFETY: the kernel writes 120 bytes of parameters at most.
    close(answer(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })?)
}

fn bpf() -> io::Result<()> {
    /// `BPF_MAP_CREATE` and `BPF_MAP_TYPE_ARRAY` of linux/bpf.h; keys and values of 4 bytes, one entry.
    const MAP_CREATE: u32 = 0;
    const ARRAY: [u32; 4] = [2, 4, 4, 1];
    let mut attributes = [0_u32; ZEROED_BYTES / 4];
    attributes[..ARRAY.len()].copy_from_slice(&ARRAY);
    let length = 72;
    // SAFETY: the attributes are longer than said and outlive the call.
    close(answer(unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, attributes.as_ptr(), length) })?)
}

fn extra_descriptors(below: i32) -> ProbeResult {
    descriptors_beyond(0, below)
}

/// Whether more descriptors than those that are kept stand above the channel.
fn descriptors_beyond(kept: usize, below: i32) -> ProbeResult {
    let open = if kept == 0 { None } else { measure_extra().or_else(list_extra) };
    let extra = open.unwrap_or_else(|| count_extra(below)).saturating_sub(kept);
    ProbeResult {
        boundary: Boundary::ClosedDescriptors,
        attempt: "count descriptors above the channel".to_owned(),
        refused: extra == 0,
        detail: format!("{extra} open"),
    }
}

/// The usual name of an error number.
pub(crate) fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EINVAL => "EINVAL",
        libc::ENOSPC => "ENOSPC",
        libc::ENOSYS => "ENOSYS",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EXDEV => "EXDEV",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}
