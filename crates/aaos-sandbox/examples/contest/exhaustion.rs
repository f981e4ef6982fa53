//! Attempts to use up what everybody needs.
//!
//! Invariant: each is bounded so that the machine does not notice it where it succeeds: address space is
//! mapped and hardly touched, files are sparse, children end at once.

use std::os::fd::AsRawFd;

use crate::raw::{Answer, close, done, flags, open, raw, signed, wait};
use crate::scene::Place;

const MIB: usize = 1024 * 1024;

/// More than the worker's limit of address space, in parts, of which each is touched once.
pub(crate) fn fill_memory(_place: &Place) -> Answer {
    const PART: usize = 64 * MIB;
    const PARTS: usize = 24;
    let protection = flags(libc::PROT_READ | libc::PROT_WRITE);
    let how = flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    let mut taken = Vec::new();
    let mut stopped = Ok(());
    for _ in 0..PARTS {
        match raw(libc::SYS_mmap, &[0, PART, protection, how, signed(-1), 0]) {
            Ok(address) => taken.push(address),
            Err(refusal) => stopped = Err(refusal),
        }
    }
    for address in taken {
        // The kernel writes into it: memory that is really used.
        done(libc::SYS_getrandom, &[address, 8, 0])?;
        done(libc::SYS_munmap, &[address, PART])?;
    }
    stopped
}

/// A byte behind the worker's limit of file size, in a file of its own.
pub(crate) fn fill_disk(place: &Place) -> Answer {
    let path = place.scene.at("sparse");
    let file = open(&path, libc::O_WRONLY | libc::O_CREAT)?;
    let written = write_far(file);
    close(file)?;
    written
}

/// The same in the memory file that was handed over: memory that the worker's own limit does not count.
pub(crate) fn fill_handed_memory(place: &Place) -> Answer {
    write_far(place.memory.as_raw_fd().unsigned_abs() as usize)
}

fn write_far(file: usize) -> Answer {
    done(libc::SYS_lseek, &[file, 96 * MIB, flags(libc::SEEK_SET)])?;
    done(libc::SYS_write, &[file, b"x".as_ptr() as usize, 1])
}

/// As many as the scene says; each ends at once and is reaped when all were made.
pub(crate) fn fork_many(place: &Place) -> Answer {
    let mut children = Vec::new();
    let mut stopped = Ok(());
    for _ in 0..place.scene.children {
        match raw(libc::SYS_clone, &[flags(libc::SIGCHLD)]) {
            Ok(0) => {
                let never = done(libc::SYS_exit_group, &[0]);
                unreachable!("a process that has ended goes on: {never:?}");
            }
            Ok(pid) => children.push(pid),
            Err(refusal) => stopped = Err(refusal),
        }
    }
    for child in children {
        wait(child)?;
    }
    stopped
}

/// More descriptors than a worker's limit.
pub(crate) fn fill_descriptors(_place: &Place) -> Answer {
    const MANY: usize = 512;
    let mut made = Vec::new();
    let mut stopped = Ok(());
    for _ in 0..MANY {
        match raw(libc::SYS_dup, &[0]) {
            Ok(descriptor) => made.push(descriptor),
            Err(refusal) => stopped = Err(refusal),
        }
    }
    made.into_iter().try_for_each(close)?;
    stopped
}

pub(crate) fn lock_memory(_place: &Place) -> Answer {
    let protection = flags(libc::PROT_READ | libc::PROT_WRITE);
    let how = flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let address = raw(libc::SYS_mmap, &[0, MIB, protection, how, signed(-1), 0])?;
    let locked = done(libc::SYS_mlock, &[address, 4096]);
    done(libc::SYS_munmap, &[address, MIB])?;
    locked
}

/// A queue of messages that stays when its maker ends.
pub(crate) fn message_queue(_place: &Place) -> Answer {
    let queue = raw(libc::SYS_msgget, &[0, 0o600])?;
    done(libc::SYS_msgctl, &[queue, flags(libc::IPC_RMID), 0])
}
