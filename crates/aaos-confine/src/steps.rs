//! Single steps of the lock-down, each alone, for the contest suite: what does one boundary stop by itself?
//!
//! Invariants: nothing that launches a far process comes here; the zygote knows [`crate::worker::lock_worker`]
//! alone, and what it launches is held against the policy by its receipt. A step acts on a new child of the
//! caller and only gives up. Where a boundary cannot be had by itself the step says what comes with it:
//! for an ordinary user each namespace brings a user namespace, and seccomp `no_new_privs`; Landlock and a
//! change of uid bring `no_new_privs` and the loss of capabilities to everybody.

use std::io;

use aaos_core::confinement::Boundary;

use crate::descriptors::close_all_but_granted;
use crate::domain::{Draft, Tcp};
use crate::namespaces::{
    Identity, KINDS, ProcSelf, enter_empty_root, enter_user_namespace, unshare, write_maps,
};
use crate::privilege::{
    FarUids, become_uid, die_with_parent, drop_bounding_set, drop_capabilities, is_root, parent_pid,
    set_no_new_privs,
};
use crate::rlimits::{self, WORKER_LIMITS};
use crate::sys::{exit_now, fork_with};
use crate::worker::worker_filter;

/// Exit code of a child that could not be put behind its boundaries.
pub const STEP_FAILED: i32 = 72;

/// Starts a child behind some boundaries of a worker, in the order of a worker's lock-down, and runs `body` there;
/// its result is the child's exit code. Gives the child's pid; the caller reaps it.
///
/// # Errors
/// When the caller has several threads, or no child can be made.
pub fn start_behind(boundaries: &[Boundary], body: impl FnOnce() -> u8) -> io::Result<u32> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the caller has several threads; call this from one that has one"));
    }
    let born = if boundaries.contains(&Boundary::PidNamespace) { alone(libc::CLONE_NEWPID) } else { 0 };
    let outside = Identity::of_caller();
    // SAFETY: this process is single-threaded, as was just read.
    let pid = unsafe { fork_with(born) }?;
    if pid == 0 {
        let behind = die_with_parent(parent_pid()).and_then(|()| {
            if born & libc::CLONE_NEWUSER != 0 {
                write_maps(&ProcSelf::open()?, outside)?;
            }
            boundaries.iter().try_for_each(|boundary| step(*boundary))
        });
        exit_now(behind.map_or(STEP_FAILED, |()| i32::from(body())));
    }
    Ok(pid.unsigned_abs())
}

/// A namespace, with what an ordinary user needs to make one.
fn alone(flag: i32) -> i32 {
    if is_root() { flag } else { flag | libc::CLONE_NEWUSER }
}

fn step(boundary: Boundary) -> io::Result<()> {
    match boundary {
        Boundary::NoNewPrivs => set_no_new_privs(),
        Boundary::Seccomp => {
            if !is_root() {
                set_no_new_privs()?;
            }
            worker_filter()?.install()
        }
        Boundary::Landlock => match Draft::new(Tcp::Nothing)?.enter()?.abi {
            0 => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            _ => Ok(()),
        },
        Boundary::NoCapabilities => {
            drop_bounding_set()?;
            drop_capabilities()
        }
        Boundary::OwnUid => become_own_uid(),
        Boundary::UserNamespace => enter_user_namespace(&ProcSelf::open()?),
        // The child was born into it.
        Boundary::PidNamespace => Ok(()),
        Boundary::MountNamespace => {
            enter_namespace(libc::CLONE_NEWNS)?;
            enter_empty_root()
        }
        Boundary::IpcNamespace
        | Boundary::NetNamespace
        | Boundary::UtsNamespace
        | Boundary::CgroupNamespace => {
            let kind = KINDS.iter().find(|(kind, _, _)| *kind == boundary);
            enter_namespace(kind.map_or(0, |(_, flag, _)| *flag))
        }
        Boundary::Rlimits => rlimits::apply(WORKER_LIMITS),
        Boundary::ClosedDescriptors => close_all_but_granted(),
        // A process is born in its group; no step of its own leads there.
        Boundary::Cgroup => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
    }
}

fn become_own_uid() -> io::Result<()> {
    let mut last = io::Error::from_raw_os_error(libc::EPERM);
    for range in FarUids::ALL {
        match become_uid(range.of_worker(0)) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn enter_namespace(flag: i32) -> io::Result<()> {
    if is_root() {
        return unshare(flag);
    }
    let (proc, identity) = (ProcSelf::open()?, Identity::of_caller());
    unshare(alone(flag))?;
    write_maps(&proc, identity)
}
