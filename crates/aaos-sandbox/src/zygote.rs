//! Starting the zygote, and holding it as agentd's child.
//!
//! Invariants: it is started before agentd has a thread or a secret; it inherits its control socket and
//! standard error and nothing else, with an empty environment; where the machine allows it is the init of a
//! PID namespace, so that all it made dies with it. The handle ends and reaps it when dropped.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aaos_confine::zygote::{CONTROL_FD, ZYGOTE_ARGUMENT};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::error::SandboxError;
use crate::groups::Groups;

/// The zygote process; ended and reaped when dropped.
#[derive(Debug)]
pub(crate) struct ZygoteProcess {
    pidfd: OwnedFd,
    pid: u32,
}

impl ZygoteProcess {
    /// Its pid, as agentd sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor that becomes readable when it ends.
    pub(crate) fn end_descriptor(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Ends it, and with it everything that it made.
    pub(crate) fn kill(&self) {
        // It fails only where the process has ended already.
        drop(pidfd_send_signal(&self.pidfd, Signal::KILL).map_err(io::Error::from));
    }
}

impl Drop for ZygoteProcess {
    fn drop(&mut self) {
        self.kill();
        // A killed process ends; the only failure is that somebody reaped it before.
        drop(waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).map_err(io::Error::from));
    }
}

/// A zygote that was started and not yet adopted by a runtime.
#[derive(Debug)]
pub struct ZygoteSeed {
    pub(crate) control: OwnedFd,
    pub(crate) process: ZygoteProcess,
    pub(crate) gateway: Option<OwnedFd>,
    pub(crate) model: Option<OwnedFd>,
    pub(crate) groups: Groups,
}

impl ZygoteSeed {
    /// Starts the zygote. Call it on the main thread before any other thread exists: the zygote dies with the
    /// thread that started it.
    ///
    /// # Errors
    /// When a program cannot be opened or executed.
    pub fn start(worker_exe: &Path, gateway_exe: Option<&Path>) -> Result<Self, SandboxError> {
        let gateway = gateway_exe
            .map(|path| File::open(path).map(OwnedFd::from))
            .transpose()
            .map_err(failed("opening the gateway's program"))?;
        let program = Program::new(worker_exe).map_err(failed("naming the worker's program"))?;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)
            .map_err(failed("making the control socket"))?;
        let process = spawn(&program, far.as_fd())?;
        Ok(Self { control: near, process, gateway, model: None, groups: Groups::none() })
    }

    /// Has local models run by this program.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn with_model(self, model_exe: &Path) -> Result<Self, SandboxError> {
        let model = File::open(model_exe).map_err(failed("opening the program of local models"))?;
        Ok(Self { model: Some(model.into()), ..self })
    }

    /// Has each far process born into a control group of its own, where there are any.
    #[must_use]
    pub fn within(self, groups: Groups) -> Self {
        Self { groups, ..self }
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::ZygoteStart { step, source }
}

/// Everything that the child needs, made before it exists: after `clone` it may not allocate.
struct Program {
    path: CString,
    argument: CString,
    uid_map: CString,
    gid_map: CString,
}

impl Program {
    fn new(path: &Path) -> io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Ok(Self {
            path: CString::new(path.as_os_str().as_bytes())?,
            argument: CString::new(ZYGOTE_ARGUMENT)?,
            uid_map: CString::new(format!("{uid} {uid} 1\n"))?,
            gid_map: CString::new(format!("{gid} {gid} 1\n"))?,
        })
    }
}

/// Tries an own PID namespace first; a machine that gives none still gets a zygote, and receipts say so.
fn spawn(program: &Program, control: BorrowedFd<'_>) -> Result<ZygoteProcess, SandboxError> {
    let contained = if rustix::process::geteuid().is_root() {
        libc::CLONE_NEWPID
    } else {
        libc::CLONE_NEWPID | libc::CLONE_NEWUSER
    };
    match spawn_with(program, control, contained) {
        Ok(process) => Ok(process),
        Err(_) => spawn_with(program, control, 0).map_err(failed("executing the worker's program")),
    }
}

fn spawn_with(program: &Program, control: BorrowedFd<'_>, flags: i32) -> io::Result<ZygoteProcess> {
    let (failure, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut pidfd: RawFd = -1;
    let all = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: no memory is shared; the child (of a process that may have threads in tests) runs only raw
    // calls on what was made before; `pidfd` outlives the call.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(all), 0_usize, &raw mut pidfd, 0_usize, 0_usize)
    };
    if pid == 0 {
        become_zygote(program, control.as_raw_fd(), report.as_raw_fd(), flags);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let process = ZygoteProcess { pidfd, pid: u32::try_from(pid).map_err(io::Error::other)? };
    drop(report);
    let mut errno = [0; 4];
    // The pipe closes without a word when the program is executed.
    match rustix::io::read(&failure, &mut errno)? {
        0 => Ok(process),
        _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
    }
}

/// The child: raw calls only, then the worker's program or a word on the pipe.
fn become_zygote(program: &Program, control: RawFd, report: RawFd, flags: i32) -> ! {
    let ready = (flags & libc::CLONE_NEWUSER == 0 || write_maps(program)) && place_descriptors(control);
    if ready {
        let arguments = [c"aaos-worker".as_ptr(), program.argument.as_ptr(), std::ptr::null()];
        let environment: [*const libc::c_char; 1] = [std::ptr::null()];
        // SAFETY: strings and null-terminated arrays outlive the call.
        unsafe {
            libc::syscall(libc::SYS_execve, program.path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
        }
    }
    // SAFETY: errno is this thread's; the pipe is open; the process ends.
    unsafe {
        let errno = *libc::__errno_location();
        libc::syscall(libc::SYS_write, report, &raw const errno, size_of_val(&errno));
        libc::_exit(127)
    }
}

/// Control on its number, standard output on standard error, all else closed when the program is executed.
fn place_descriptors(control: RawFd) -> bool {
    let first = 3_u32;
    // SAFETY: plain numbers; the child shares its descriptor table with nobody.
    unsafe {
        libc::syscall(libc::SYS_dup3, control, CONTROL_FD, 0) >= 0
            && libc::syscall(libc::SYS_dup3, 2, 1, 0) >= 0
            && libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) >= 0
    }
}

fn write_maps(program: &Program) -> bool {
    write_file(c"/proc/self/setgroups", c"deny")
        && write_file(c"/proc/self/gid_map", &program.gid_map)
        && write_file(c"/proc/self/uid_map", &program.uid_map)
}

fn write_file(path: &CStr, text: &CStr) -> bool {
    let length = text.to_bytes().len();
    // SAFETY: both strings outlive the calls; the descriptor is closed when the program is executed.
    unsafe {
        let file =
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        file >= 0 && libc::syscall(libc::SYS_write, file, text.as_ptr(), length) >= 0
    }
}

/// Opens a descriptor for a process that is not agentd's own child.
pub(crate) fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let raw = i32::try_from(pid).map_err(io::Error::other)?;
    let pid = rustix::process::Pid::from_raw(raw)
        .ok_or_else(|| io::Error::other("a process has a number above 0"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}
