//! Taking over a descriptor that came across `exec` by its number.
//!
//! Invariant: only a descriptor that is open and lacks close-on-exec is taken: everything that this process
//! itself opens has that flag, so what lacks it was left for it by whoever executed it.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes the descriptor, and sets close-on-exec so that it is taken once and goes no further.
///
/// # Errors
/// When it is a standard descriptor, not open, or one of this process's own.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other("a standard descriptor is not handed over"));
    }
    // SAFETY: the borrow lasts for two fcntl calls, which fail with EBADF where the number is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::other("this descriptor was opened by this process itself"));
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, nobody in this process owns it (see the module's invariant), and the flag that was
    // just set keeps a second call from taking it again.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::take_inherited;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn what_this_process_opened_is_not_taken() {
        let own = File::open("/dev/null").expect("opens");
        assert!(take_inherited(own.as_raw_fd()).is_err());
        assert!(take_inherited(1).is_err());
        assert!(take_inherited(30_000).is_err());
    }

    #[test]
    fn what_was_left_open_is_taken_once() {
        let left = File::open("/dev/null").expect("opens");
        rustix::io::fcntl_setfd(&left, rustix::io::FdFlags::empty()).expect("clears the flag");
        let number = left.into_raw_fd();
        let taken = take_inherited(number).expect("the first time");
        assert_eq!(taken.as_raw_fd(), number);
        assert!(take_inherited(number).is_err(), "it has an owner now");
    }
}
