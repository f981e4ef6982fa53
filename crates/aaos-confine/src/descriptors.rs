//! Which descriptors a far process keeps.
//!
//! Invariant: after [`close_all_but_granted`] a process holds its standard descriptors, its channel on
//! [`CHANNEL_FD`], and nothing else.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, RawDir};

use crate::channel::CHANNEL_FD;
use crate::sys::answer;

/// Above every number that [`arrange`] assigns.
const PARKING: RawFd = 16;

/// What stands on a far process's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandardInput {
    /// The capturing pipe, which cannot be read from.
    Unreadable,
    /// /dev/null, for a program that may look at it.
    Null,
}

/// Puts the channel on [`CHANNEL_FD`] and the capturing pipe on standard output and error. The sources stay
/// open; closing them is the next step.
pub(crate) fn arrange(
    channel: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
    input: StandardInput,
) -> io::Result<()> {
    let channel = park(channel.as_raw_fd())?;
    let stderr = park(stderr.as_raw_fd())?;
    for number in 0..3 {
        put(stderr, number)?;
    }
    put(channel, CHANNEL_FD)?;
    if input == StandardInput::Null {
        // SAFETY: a constant path; the call touches no memory of ours.
        let null = unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                c"/dev/null".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        put(RawFd::try_from(answer(null)?).unwrap_or(-1), 0)?;
    }
    Ok(())
}

fn park(descriptor: RawFd) -> io::Result<RawFd> {
    // SAFETY: plain numbers; the new descriptor is owned by nobody until it is closed with all the rest.
    let parked =
        answer(unsafe { libc::syscall(libc::SYS_fcntl, descriptor, libc::F_DUPFD_CLOEXEC, PARKING) })?;
    Ok(RawFd::try_from(parked).unwrap_or(-1))
}

fn put(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: the numbers below the parking place belong to this module's caller, which owns nothing there.
    answer(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
}

/// Puts these descriptors on the numbers from [`CHANNEL_FD`] on, and closes everything above them.
///
/// Whoever owns a descriptor of this process must not use or close it afterwards.
pub(crate) fn keep_alone<const COUNT: usize>(kept: [BorrowedFd<'_>; COUNT]) -> io::Result<[OwnedFd; COUNT]> {
    let mut parked = [-1; COUNT];
    for (into, descriptor) in parked.iter_mut().zip(kept) {
        *into = park(descriptor.as_raw_fd())?;
    }
    let mut next = CHANNEL_FD;
    for descriptor in parked {
        put(descriptor, next)?;
        next += 1;
    }
    close_from(next, 0)?;
    // SAFETY: each number was just put there, and nobody else closes it.
    let own = |at: usize| unsafe { OwnedFd::from_raw_fd(CHANNEL_FD + RawFd::try_from(at).unwrap_or(0)) };
    Ok(std::array::from_fn(own))
}

/// Closes everything above the channel.
pub(crate) fn close_all_but_granted() -> io::Result<()> {
    close_from(CHANNEL_FD + 1, 0)
}

/// Marks everything above the channel to be closed when another program is executed.
pub(crate) fn close_all_but_granted_on_exec() -> io::Result<()> {
    close_from(CHANNEL_FD + 1, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_from(first: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the caller is about to serve (or to become another program) and uses no other descriptor.
    answer(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) }).map(drop)
}

/// Descriptors above the channel that are open, up to `limit`; those that only name a place (`O_PATH`) too, which most
/// calls take for closed.
pub(crate) fn count_extra(limit: RawFd) -> usize {
    count_open(CHANNEL_FD + 1..limit)
}

fn count_open(numbers: Range<RawFd>) -> usize {
    numbers
        .filter(|number| {
            // SAFETY: plain numbers; changes nothing.
            let asked = answer(unsafe { libc::syscall(libc::SYS_fcntl, *number, libc::F_GETFD) });
            // Only this says that it is closed; a question that was refused says nothing.
            asked.err().and_then(|error| error.raw_os_error()) != Some(libc::EBADF)
        })
        .count()
}

/// The same, by the length of the kernel's own list, which Linux tells from 6.2 on without making the list. Nothing where
/// it does not, or where the list is not seen to be the caller's.
pub(crate) fn measure_extra() -> Option<usize> {
    let length = || usize::try_from(rustix::fs::stat("/proc/self/fd").ok()?.st_size).ok();
    let all = length()?;
    let one_more = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let is_own = length()? == all + 1;
    drop(one_more);
    if is_own { all.checked_sub(count_open(0..CHANNEL_FD + 1)) } else { None }
}

/// The same, by the kernel's own list; nothing where the caller is not shown it.
pub(crate) fn list_extra() -> Option<usize> {
    const ROOM: usize = 4096;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).ok()?;
    let (mut is_own, mut extra) = (false, 0);
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut entries = RawDir::new(&list, &mut room);
    while let Some(entry) = entries.next() {
        // Beside numbers it lists itself and the directory above.
        let number = entry.ok()?.file_name().to_str().ok()?.parse::<RawFd>().ok();
        let is_list = number == Some(list.as_raw_fd());
        is_own |= is_list;
        extra += usize::from(!is_list && number.is_some_and(|number| number > CHANNEL_FD));
    }
    // A list without the one by which it is read is not the caller's.
    is_own.then_some(extra)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};

    use super::{PARKING, close_all_but_granted, count_extra, list_extra, measure_extra};
    use crate::sys::in_child;

    #[test]
    fn a_descriptor_that_only_names_a_place_is_counted_too() {
        const BELOW: i32 = 1024;
        let open = |flags| rustix::fs::open("/", flags | OFlags::CLOEXEC, Mode::empty());
        // SAFETY: the child allocates nothing: it makes raw calls and counts.
        let counted = unsafe {
            in_child(|| {
                if close_all_but_granted().is_err() || count_extra(BELOW) != 0 {
                    return 100;
                }
                let held = [open(OFlags::DIRECTORY), open(OFlags::PATH)];
                let above = held.map(|one| rustix::io::fcntl_dupfd_cloexec(one?, PARKING));
                if above.iter().any(Result::is_err) {
                    return 101;
                }
                if list_extra() != Some(count_extra(BELOW)) {
                    return 103;
                }
                // Older kernels than 6.2 do not say.
                if measure_extra().is_some_and(|measured| measured != count_extra(BELOW)) {
                    return 104;
                }
                u8::try_from(count_extra(BELOW)).unwrap_or(102)
            })
        };
        assert_eq!(counted.expect("a child"), 2);
    }
}
