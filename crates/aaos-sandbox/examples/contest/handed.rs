//! Attempts through descriptors: what was handed over with a call, and what leaked.

use std::os::fd::AsRawFd;

use crate::processes::execute;
use crate::raw::{Answer, close, done, flags, into, made, nothing, open, raw, signed, text};
use crate::scene::{LEAKED_DIRECTORY, LEAKED_FILE, LEAKED_SOCKET, Place, SECRET};

fn number(descriptor: &impl AsRawFd) -> usize {
    descriptor.as_raw_fd().unsigned_abs() as usize
}

pub(crate) fn read_leaked(_place: &Place) -> Answer {
    let mut bytes = [0_u8; 8];
    done(libc::SYS_lseek, &[LEAKED_FILE, 0, flags(libc::SEEK_SET)])?;
    raw(libc::SYS_read, &[LEAKED_FILE, bytes.as_mut_ptr() as usize, bytes.len()])?;
    if bytes == *SECRET { Ok(()) } else { nothing("other bytes") }
}

pub(crate) fn below_leaked(_place: &Place) -> Answer {
    made(libc::SYS_openat, &[LEAKED_DIRECTORY, text(c"secret"), flags(libc::O_RDONLY)])
}

pub(crate) fn write_to_leaked_socket(_place: &Place) -> Answer {
    let word = b"x".as_ptr() as usize;
    match raw(libc::SYS_write, &[LEAKED_SOCKET, word, 1]) {
        Err(crate::raw::Refusal::Errno(libc::EAGAIN)) => Ok(()),
        other => other.map(drop),
    }
}

/// Landlock does not stop `..` for O_PATH.
pub(crate) fn parent_by_path_descriptor(place: &Place) -> Answer {
    made(libc::SYS_openat, &[number(&place.directory), text(c".."), flags(libc::O_PATH)])
}

pub(crate) fn secret_by_parent(place: &Place) -> Answer {
    made(libc::SYS_openat, &[number(&place.directory), text(c"../secret"), flags(libc::O_RDONLY)])
}

pub(crate) fn stat_by_parent(place: &Place) -> Answer {
    let mut about = std::mem::MaybeUninit::<libc::stat>::uninit();
    done(libc::SYS_newfstatat, &[number(&place.directory), text(c"../secret"), into(&mut about), 0])
}

pub(crate) fn enter_handed_directory(place: &Place) -> Answer {
    done(libc::SYS_fchdir, &[number(&place.directory)])
}

pub(crate) fn create_in_handed_directory(place: &Place) -> Answer {
    let directory = number(&place.directory);
    let how = flags(libc::O_WRONLY | libc::O_CREAT);
    made(libc::SYS_openat, &[directory, text(c"new"), how, 0o600])?;
    done(libc::SYS_unlinkat, &[directory, text(c"new"), 0])
}

pub(crate) fn mode_of_handed(place: &Place) -> Answer {
    done(libc::SYS_fchmod, &[number(&place.file), 0o644])
}

pub(crate) fn mode_beside_handed(place: &Place) -> Answer {
    done(libc::SYS_fchmodat, &[number(&place.directory), text(c"../victim"), 0o644])
}

pub(crate) fn owner_of_handed(place: &Place) -> Answer {
    // To whom it belongs already (-1): the right to change it is what counts.
    let own = raw(libc::SYS_geteuid, &[]).unwrap_or(signed(-1));
    done(libc::SYS_fchown, &[number(&place.file), own, signed(-1)])
}

pub(crate) fn times_of_handed(place: &Place) -> Answer {
    done(libc::SYS_utimensat, &[number(&place.file), 0, 0, 0])
}

pub(crate) fn attribute_of_handed(place: &Place) -> Answer {
    done(libc::SYS_fsetxattr, &[number(&place.file), text(c"user.contest"), text(c"x"), 1, 0])
}

pub(crate) fn lock_handed(place: &Place) -> Answer {
    done(libc::SYS_flock, &[number(&place.file), flags(libc::LOCK_EX | libc::LOCK_NB)])?;
    done(libc::SYS_flock, &[number(&place.file), flags(libc::LOCK_UN)])
}

pub(crate) fn reopen_handed_for_writing(place: &Place) -> Answer {
    close(open(&format!("/proc/self/fd/{}", number(&place.file)), libc::O_WRONLY)?)
}

/// By the calls that a worker has.
fn write_from_start(descriptor: usize, bytes: &[u8]) -> Answer {
    done(libc::SYS_lseek, &[descriptor, 0, flags(libc::SEEK_SET)])?;
    done(libc::SYS_write, &[descriptor, bytes.as_ptr() as usize, bytes.len()])
}

pub(crate) fn write_handed(place: &Place) -> Answer {
    write_from_start(number(&place.file), SECRET)
}

pub(crate) fn map_handed_for_writing(place: &Place) -> Answer {
    let protection = flags(libc::PROT_READ | libc::PROT_WRITE);
    let how = flags(libc::MAP_SHARED);
    let address = raw(libc::SYS_mmap, &[0, 4096, protection, how, number(&place.file), 0])?;
    done(libc::SYS_munmap, &[address, 4096])
}

/// What was sealed has been hashed and judged; a byte more would be written unseen.
pub(crate) fn write_late(place: &Place) -> Answer {
    write_from_start(number(&place.memory), b"evil")
}

pub(crate) fn map_late(place: &Place) -> Answer {
    let protection = flags(libc::PROT_READ | libc::PROT_WRITE);
    let address =
        raw(libc::SYS_mmap, &[0, 4096, protection, flags(libc::MAP_SHARED), number(&place.memory), 0])?;
    done(libc::SYS_munmap, &[address, 4096])
}

pub(crate) fn resize_late(place: &Place) -> Answer {
    done(libc::SYS_ftruncate, &[number(&place.memory), 4])
}

fn map_executable(descriptor: usize, how: i32) -> Answer {
    let protection = flags(libc::PROT_READ | libc::PROT_EXEC);
    let address = raw(libc::SYS_mmap, &[0, 4096, protection, flags(how), descriptor, 0])?;
    done(libc::SYS_munmap, &[address, 4096])
}

pub(crate) fn map_memory_executable(place: &Place) -> Answer {
    map_executable(number(&place.memory), libc::MAP_PRIVATE)
}

pub(crate) fn map_file_executable(place: &Place) -> Answer {
    map_executable(number(&place.file), libc::MAP_PRIVATE)
}

pub(crate) fn map_anonymous_executable(_place: &Place) -> Answer {
    map_executable(signed(-1), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
}

pub(crate) fn turn_executable(_place: &Place) -> Answer {
    let how = flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let protection = flags(libc::PROT_READ | libc::PROT_WRITE);
    let address = raw(libc::SYS_mmap, &[0, 4096, protection, how, signed(-1), 0])?;
    let turned = done(libc::SYS_mprotect, &[address, 4096, flags(libc::PROT_READ | libc::PROT_EXEC)]);
    done(libc::SYS_munmap, &[address, 4096])?;
    turned
}

fn memory_file() -> Answer<usize> {
    raw(libc::SYS_memfd_create, &[text(c"contest"), 0])
}

pub(crate) fn map_own_memory_executable(_place: &Place) -> Answer {
    let memory = memory_file()?;
    done(libc::SYS_ftruncate, &[memory, 4096])?;
    map_executable(memory, libc::MAP_SHARED)?;
    close(memory)
}

/// A script, which needs no more than its interpreter; a program of machine code goes the same way.
pub(crate) fn execute_memory(_place: &Place) -> Answer {
    const SCRIPT: &[u8] = b"#!/bin/true\n";
    let memory = memory_file()?;
    done(libc::SYS_write, &[memory, SCRIPT.as_ptr() as usize, SCRIPT.len()])?;
    let code = execute(memory, text(c""), flags(libc::AT_EMPTY_PATH), 0)?;
    close(memory)?;
    if code == 0 { Ok(()) } else { nothing("it failed") }
}

pub(crate) fn duplicate_handed(place: &Place) -> Answer {
    made(libc::SYS_dup, &[number(&place.file)])
}
