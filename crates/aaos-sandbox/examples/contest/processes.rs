//! Attempts on other processes, on new ones, and on the caller's own privilege.

use crate::raw::{
    Answer, HERE, c_string, close, done, flags, in_child, into, last_errno, made, nothing, raw, signed, text,
    to, wait,
};
use crate::scene::{LEAKED_FILE, Place, SECRET};

/// A signal that the victim ignores.
const HARMLESS: usize = libc::SIGUSR1 as usize;

fn victim(place: &Place) -> usize {
    place.scene.victim as usize
}

pub(crate) fn kill(place: &Place) -> Answer {
    done(libc::SYS_kill, &[victim(place), HARMLESS])
}

pub(crate) fn thread_kill(place: &Place) -> Answer {
    done(libc::SYS_tgkill, &[victim(place), victim(place), HARMLESS])
}

pub(crate) fn queue_signal(place: &Place) -> Answer {
    // `siginfo_t` has 128 bytes; the code of `sigqueue` is negative.
    let mut about = [0_i32; 32];
    about[0] = libc::SIGUSR1;
    about[2] = libc::SI_QUEUE;
    done(libc::SYS_rt_sigqueueinfo, &[victim(place), HARMLESS, into(&mut about)])
}

fn victim_descriptor(place: &Place) -> Answer<usize> {
    raw(libc::SYS_pidfd_open, &[victim(place), 0])
}

pub(crate) fn signal_by_descriptor(place: &Place) -> Answer {
    let process = victim_descriptor(place)?;
    done(libc::SYS_pidfd_send_signal, &[process, HARMLESS, 0, 0])?;
    close(process)
}

pub(crate) fn take_descriptor(place: &Place) -> Answer {
    let process = victim_descriptor(place)?;
    made(libc::SYS_pidfd_getfd, &[process, LEAKED_FILE, 0])?;
    close(process)
}

/// `PTRACE_SEIZE` of linux/ptrace.h: attaches without a stop; the end of this process lets go again.
const SEIZE: usize = 0x4206;

pub(crate) fn trace(place: &Place) -> Answer {
    let process = victim(place);
    in_child(|| done(libc::SYS_ptrace, &[SEIZE, process, 0, 0])).or_else(|error| {
        // Where no child can be made the caller itself tries.
        if done(libc::SYS_ptrace, &[SEIZE, process, 0, 0]).is_ok() { Ok(()) } else { Err(error) }
    })
}

fn memory_call(place: &Place, number: libc::c_long) -> Answer<[u8; 8]> {
    let mut bytes = *SECRET;
    if number == libc::SYS_process_vm_readv {
        bytes = [0; 8];
    }
    let own = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let address = usize::try_from(place.scene.address).unwrap_or(0);
    let theirs = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    done(number, &[victim(place), to(&own), 1, to(&theirs), 1, 0])?;
    Ok(bytes)
}

pub(crate) fn read_memory(place: &Place) -> Answer {
    let bytes = memory_call(place, libc::SYS_process_vm_readv)?;
    if bytes == *SECRET { Ok(()) } else { nothing("other bytes") }
}

pub(crate) fn write_memory(place: &Place) -> Answer {
    memory_call(place, libc::SYS_process_vm_writev).map(drop)
}

pub(crate) fn limits_of_another(place: &Place) -> Answer {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    done(libc::SYS_prlimit64, &[victim(place), libc::RLIMIT_NOFILE as usize, 0, into(&mut limit)])
}

pub(crate) fn pin_another(place: &Place) -> Answer {
    let mut processors = [0_u64; 16];
    let own = [0, size_of_val(&processors), into(&mut processors)];
    raw(libc::SYS_sched_getaffinity, &own)?;
    done(libc::SYS_sched_setaffinity, &[victim(place), size_of_val(&processors), into(&mut processors)])
}

/// Nicer, which the owner of both may.
pub(crate) fn slow_another(place: &Place) -> Answer {
    done(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, victim(place), 5])
}

pub(crate) fn compare_with_another(place: &Place) -> Answer {
    // `KCMP_FILES` of linux/kcmp.h.
    const FILES: usize = 2;
    let own = raw(libc::SYS_getpid, &[])?;
    done(libc::SYS_kcmp, &[own, victim(place), FILES, 0, 0])
}

pub(crate) fn fork(_place: &Place) -> Answer {
    in_child(|| Ok(()))
}

/// `clone3`, whose flags no filter can read.
pub(crate) fn clone3(_place: &Place) -> Answer {
    // `struct clone_args` of linux/sched.h, its first version: eight words, the fifth is the signal.
    let mut arguments = [0_u64; 8];
    arguments[4] = libc::SIGCHLD.unsigned_abs().into();
    let pid = raw(libc::SYS_clone3, &[into(&mut arguments), size_of_val(&arguments)])?;
    if pid == 0 {
        let never = done(libc::SYS_exit_group, &[0]);
        unreachable!("a process that has ended goes on: {never:?}");
    }
    wait(pid).map(drop)
}

pub(crate) fn thread(_place: &Place) -> Answer {
    match std::thread::Builder::new().stack_size(64 * 1024).spawn(|| ()) {
        Ok(thread) => thread.join().or_else(|_| nothing("a panic")),
        Err(_) => Err(last_errno()),
    }
}

/// What a subject says that will not end by itself.
pub(crate) const GOING_ON: &str = "going on";

/// Goes on, in a child in a session of its own where one can be made, and answers every byte until the channel
/// closes: whoever ends the subject asks whether somebody still answers.
pub(crate) fn outlive(_place: &Place) -> Answer {
    const CHANNEL: usize = aaos_confine::CHANNEL_FD.unsigned_abs() as usize;
    if let Ok(pid @ 1..) = raw(libc::SYS_clone, &[flags(libc::SIGCHLD)]) {
        return wait(pid).map(drop);
    }
    // Refused where no child could be made, and then of no matter.
    drop(raw(libc::SYS_setsid, &[]));
    let word = aaos_core::wire::encode_frame(&GOING_ON).unwrap_or_default();
    done(libc::SYS_write, &[CHANNEL, word.as_ptr() as usize, word.len()])?;
    let mut byte = [0_u8; 1];
    while raw(libc::SYS_read, &[CHANNEL, byte.as_mut_ptr() as usize, 1])? == 1 {
        done(libc::SYS_write, &[CHANNEL, byte.as_ptr() as usize, 1])?;
    }
    let never = done(libc::SYS_exit_group, &[0]);
    unreachable!("a process that has ended goes on: {never:?}");
}

/// Executes a program; gives its exit code.
pub(crate) fn execute(directory: usize, program: usize, how: usize, argument: usize) -> Answer<i32> {
    let arguments = [program, argument, 0];
    let environment: [usize; 1] = [0];
    let pid = raw(libc::SYS_clone, &[flags(libc::SIGCHLD)]);
    let call = [directory, program, to(&arguments), to(&environment), how];
    let pid = match pid {
        Ok(0) => {
            let code = match done(libc::SYS_execveat, &call) {
                Err(crate::raw::Refusal::Errno(errno)) => errno,
                _ => 255,
            };
            let never = done(libc::SYS_exit_group, &[flags(code + 100)]);
            unreachable!("a process that has ended goes on: {never:?}");
        }
        Ok(pid) => pid,
        // Where no child can be made the caller itself tries.
        Err(error) => {
            done(libc::SYS_execveat, &call)?;
            return Err(error);
        }
    };
    match wait(pid)? {
        (code @ 101..=255, 0) => Err(crate::raw::Refusal::Errno(code - 100)),
        (code, 0) => Ok(code),
        (_, signal) => nothing(&format!("signal {signal}")),
    }
}

pub(crate) fn execute_program(_place: &Place) -> Answer {
    execute(HERE, text(c"/bin/true"), 0, 0).map(drop)
}

/// The argument that has this program say by its exit code whether it has its caller's uid.
pub(crate) const WHO: &std::ffi::CStr = c"--who";
/// The exit code that says: another one's.
pub(crate) const ANOTHERS: i32 = 9;

/// A set-uid program of somebody else.
pub(crate) fn gain_uid(place: &Place) -> Answer {
    if place.scene.set_uid_program.is_empty() {
        return nothing("no such program");
    }
    let program = c_string(&place.scene.set_uid_program);
    match execute(HERE, text(&program), 0, text(WHO))? {
        ANOTHERS => Ok(()),
        _ => nothing("the same uid"),
    }
}

pub(crate) fn become_root(_place: &Place) -> Answer {
    in_child(|| {
        done(libc::SYS_setresuid, &[1, 1, 0])?;
        done(libc::SYS_setresuid, &[0, 0, 0])
    })
}

pub(crate) fn unshare_user(_place: &Place) -> Answer {
    in_child(|| done(libc::SYS_unshare, &[flags(libc::CLONE_NEWUSER)]))
}

pub(crate) fn clone_user(_place: &Place) -> Answer {
    let pid = raw(libc::SYS_clone, &[flags(libc::SIGCHLD | libc::CLONE_NEWUSER)])?;
    if pid == 0 {
        let never = done(libc::SYS_exit_group, &[0]);
        unreachable!("a process that has ended goes on: {never:?}");
    }
    wait(pid).map(drop)
}

/// What an ordinary user may not, he may in a namespace of his own; it is a large part of the kernel.
pub(crate) fn mount_with_own_users(place: &Place) -> Answer {
    let point = c_string(&place.scene.at("point"));
    in_child(|| {
        done(libc::SYS_unshare, &[flags(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)])?;
        done(libc::SYS_mount, &[text(c"tmpfs"), text(&point), text(c"tmpfs"), 0, 0])
    })
}

pub(crate) fn unshare_mounts(_place: &Place) -> Answer {
    in_child(|| done(libc::SYS_unshare, &[flags(libc::CLONE_NEWNS)]))
}

pub(crate) fn enter_namespace(place: &Place) -> Answer {
    let process = victim_descriptor(place)?;
    in_child(|| done(libc::SYS_setns, &[process, flags(libc::CLONE_NEWUTS)]))?;
    close(process)
}

/// A core file tells what the memory held; a helper that core_pattern names would run as root.
pub(crate) fn dump_core(place: &Place) -> Answer {
    let folder = c_string(&place.scene.at("cores"));
    let pid = raw(libc::SYS_clone, &[flags(libc::SIGCHLD)])?;
    if pid == 0 {
        let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        let core = libc::RLIMIT_CORE as usize;
        let dumped = done(libc::SYS_chdir, &[text(&folder)])
            .and_then(|()| done(libc::SYS_prlimit64, &[0, core, 0, into(&mut limit)]))
            .and_then(|()| {
                limit.rlim_cur = limit.rlim_max;
                done(libc::SYS_prlimit64, &[0, core, to(&limit), 0])
            })
            .and_then(|()| done(libc::SYS_prctl, &[flags(libc::PR_SET_DUMPABLE), 1, 0, 0, 0]))
            .and_then(|()| raw(libc::SYS_getpid, &[]))
            .and_then(|pid| done(libc::SYS_kill, &[pid, libc::SIGQUIT as usize]));
        let never = done(libc::SYS_exit_group, &[flags(i32::from(dumped.is_ok()))]);
        unreachable!("a process that has ended goes on: {never:?}");
    }
    let mut status = 0_i32;
    raw(libc::SYS_wait4, &[pid, into(&mut status), flags(libc::__WALL)])?;
    if libc::WIFSIGNALED(status) && libc::WCOREDUMP(status) { Ok(()) } else { nothing("no core file") }
}

/// Signals every process that there is, with none.
pub(crate) fn kill_everybody(_place: &Place) -> Answer {
    done(libc::SYS_kill, &[signed(-1), 0])
}
