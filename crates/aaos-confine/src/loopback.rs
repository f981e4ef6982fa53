//! The network of a program that has a proxy: a loopback interface and one listener on it.
//!
//! Invariant: called in a fresh network namespace alone, before the lock-down, which allows none of this.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use aaos_core::program::PROXY_PORT;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::sys::answer;

/// Connections that wait to be accepted; further ones are tried again by the kernel.
const BACKLOG: i32 = 128;

/// Brings the loopback interface up and listens on the port of the proxy.
pub(crate) fn listener() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bring_up(&socket)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, PROXY_PORT))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn bring_up(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: zeroes are a request without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (into, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *into = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: the request outlives the call, which reads it.
    answer(unsafe {
        libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })
    .map(drop)
}
