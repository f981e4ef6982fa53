//! Attempts on the kernel's own interfaces.

use crate::raw::{
    Answer, c_string, close, done, flags, in_child, into, made, nothing, open, raw, signed, text, to,
};
use crate::scene::{LEAKED_TERMINAL, Place};

pub(crate) fn io_uring(_place: &Place) -> Answer {
    // `struct io_uring_params` has 120 bytes.
    let mut parameters = [0_u64; 16];
    made(libc::SYS_io_uring_setup, &[1, into(&mut parameters)])
}

pub(crate) fn bpf(_place: &Place) -> Answer {
    // `BPF_MAP_CREATE` of an array of one value, keys and values of 4 bytes (linux/bpf.h).
    let mut attributes = [0_u32; 32];
    attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
    made(libc::SYS_bpf, &[0, into(&mut attributes), 72])
}

pub(crate) fn user_faults(_place: &Place) -> Answer {
    made(libc::SYS_userfaultfd, &[flags(libc::O_CLOEXEC)])
}

/// `KEY_SPEC_PROCESS_KEYRING` of linux/keyctl.h.
const PROCESS_KEYRING: usize = signed(-2);

pub(crate) fn add_key(_place: &Place) -> Answer {
    in_child(|| {
        let payload = b"x".as_ptr() as usize;
        done(libc::SYS_add_key, &[text(c"user"), text(c"aaos-contest"), payload, 1, PROCESS_KEYRING])
    })
}

pub(crate) fn read_keys(_place: &Place) -> Answer {
    // `KEYCTL_GET_KEYRING_ID` of the session's keyring, made if it is not there.
    in_child(|| done(libc::SYS_keyctl, &[0, signed(-3), 1]))
}

pub(crate) fn perf(_place: &Place) -> Answer {
    // `struct perf_event_attr`, its first version: a software clock of the caller, user space only.
    let mut attributes = [0_u64; 8];
    attributes[0] = 1 | 64 << 32;
    attributes[5] = 1 << 5 | 1 << 6;
    made(libc::SYS_perf_event_open, &[into(&mut attributes), 0, signed(-1), signed(-1), 0])
}

pub(crate) fn kernel_log(_place: &Place) -> Answer {
    // `SYSLOG_ACTION_READ_ALL` of linux/syslog.h.
    let mut bytes = [0_u8; 64];
    done(libc::SYS_syslog, &[3, bytes.as_mut_ptr() as usize, bytes.len()])
}

pub(crate) fn ports(_place: &Place) -> Answer {
    in_child(|| done(libc::SYS_ioperm, &[0x80, 1, 1]))
}

/// A module that is none: refused by right, or as no module.
pub(crate) fn load_module(_place: &Place) -> Answer {
    match done(libc::SYS_init_module, &[text(c""), 0, text(c"")]) {
        Err(crate::raw::Refusal::Errno(libc::ENOEXEC)) => Ok(()),
        other => other,
    }
}

/// To the time that it has.
pub(crate) fn set_clock(_place: &Place) -> Answer {
    // `ADJ_OFFSET_SINGLESHOT` without an offset changes nothing and needs the right to.
    let mut adjustment = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: every field of `timex` is a number, for which zeros are a value.
    let adjust = unsafe { adjustment.assume_init_mut() };
    adjust.modes = libc::ADJ_OFFSET_SINGLESHOT;
    done(libc::SYS_adjtimex, &[into(adjust)])
}

/// What the stage's host name becomes where it can be set.
pub(crate) const RENAMED: &str = "contested";

pub(crate) fn host_name(_place: &Place) -> Answer {
    done(libc::SYS_sethostname, &[text(&c_string(RENAMED)), RENAMED.len()])
}

pub(crate) fn shared_memory(place: &Place) -> Answer {
    let segment = raw(libc::SYS_shmget, &[signed(place.scene.shared_memory), 4096, 0])?;
    let address = raw(libc::SYS_shmat, &[segment, 0, 0])?;
    done(libc::SYS_shmdt, &[address])
}

pub(crate) fn cgroup_paths(place: &Place) -> Answer {
    let file = open("/proc/self/cgroup", libc::O_RDONLY)?;
    let mut bytes = vec![0_u8; 4096];
    let got = raw(libc::SYS_read, &[file, bytes.as_mut_ptr() as usize, bytes.len()])?;
    close(file)?;
    bytes.truncate(got);
    let only_roots = place.scene.cgroups.lines().all(|line| line.ends_with(":/"));
    if only_roots {
        nothing("no path to see")
    } else if bytes == place.scene.cgroups.as_bytes() {
        Ok(())
    } else {
        nothing("other paths")
    }
}

/// Puts a character into the input of a terminal, as if somebody had typed it.
pub(crate) fn type_into_terminal(_place: &Place) -> Answer {
    in_child(|| {
        // Its own session takes the terminal; one with the right to administer needs none.
        let session = raw(libc::SYS_setsid, &[]);
        let control = done(libc::SYS_ioctl, &[LEAKED_TERMINAL, libc::TIOCSCTTY as usize, 0]);
        let typed = done(libc::SYS_ioctl, &[LEAKED_TERMINAL, libc::TIOCSTI as usize, to(&b'x')]);
        drop((session, control));
        typed
    })
}
