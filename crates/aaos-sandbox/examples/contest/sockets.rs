//! Attempts on sockets. Nothing ever connects to `AF_VSOCK`.

use crate::raw::{Answer, Refusal, close, done, flags, into, made, raw, to};
use crate::scene::Place;

const CLOEXEC: i32 = libc::SOCK_CLOEXEC;

fn socket(family: i32, kind: i32, protocol: i32) -> Answer<usize> {
    raw(libc::SYS_socket, &[flags(family), flags(kind | CLOEXEC | libc::SOCK_NONBLOCK), flags(protocol)])
}

/// The address of a Unix socket and how long it is; an abstract name begins with NUL.
fn unix_address(name: &[u8]) -> (libc::sockaddr_un, usize) {
    let mut address =
        libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    assert!(name.len() < address.sun_path.len(), "names of the stage are short");
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    (address, size_of::<libc::sa_family_t>() + name.len())
}

fn abstract_name(name: &str) -> Vec<u8> {
    [&[0], name.as_bytes()].concat()
}

fn connect_unix(socket: usize, name: &[u8]) -> Answer {
    let (address, length) = unix_address(name);
    done(libc::SYS_connect, &[socket, to(&address), length])
}

fn local(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_be_bytes([127, 0, 0, 1]).to_be() },
        sin_zero: [0; 8],
    }
}

pub(crate) fn path_socket(place: &Place) -> Answer {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    connect_unix(socket, place.scene.at("stream").as_bytes())?;
    close(socket)
}

pub(crate) fn abstract_socket(place: &Place) -> Answer {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    connect_unix(socket, &abstract_name(&place.scene.abstract_name))?;
    close(socket)
}

/// A pair needs no `socket` call, and a datagram half can be connected again, to anybody with a name.
fn reconnected_pair(name: &[u8]) -> Answer {
    let mut pair = [-1_i32; 2];
    let kind = flags(libc::SOCK_DGRAM | CLOEXEC);
    done(libc::SYS_socketpair, &[flags(libc::AF_UNIX), kind, 0, into(&mut pair)])?;
    let half = pair[0].unsigned_abs() as usize;
    connect_unix(half, name)?;
    done(libc::SYS_sendto, &[half, b"x".as_ptr() as usize, 1, flags(libc::MSG_DONTWAIT), 0, 0])?;
    pair.into_iter().try_for_each(|half| close(half.unsigned_abs() as usize))
}

pub(crate) fn pair_to_path(place: &Place) -> Answer {
    full_is_reached(reconnected_pair(place.scene.at("datagram").as_bytes()))
}

pub(crate) fn pair_to_abstract(place: &Place) -> Answer {
    full_is_reached(reconnected_pair(&abstract_name(&place.scene.abstract_datagram)))
}

/// A receiver whose queue is full was reached, too.
fn full_is_reached(answer: Answer) -> Answer {
    match answer {
        Err(Refusal::Errno(libc::EAGAIN)) => Ok(()),
        other => other,
    }
}

pub(crate) fn tcp_connect(place: &Place) -> Answer {
    let stream = raw(libc::SYS_socket, &[flags(libc::AF_INET), flags(libc::SOCK_STREAM | CLOEXEC), 0])?;
    let address = local(place.scene.tcp);
    done(libc::SYS_connect, &[stream, to(&address), size_of_val(&address)])?;
    close(stream)
}

pub(crate) fn tcp_listen(_place: &Place) -> Answer {
    let stream = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let address = local(0);
    done(libc::SYS_bind, &[stream, to(&address), size_of_val(&address)])?;
    done(libc::SYS_listen, &[stream, 1])?;
    close(stream)
}

pub(crate) fn udp(place: &Place) -> Answer {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let address = local(place.scene.udp);
    let word = b"x".as_ptr() as usize;
    done(libc::SYS_sendto, &[socket, word, 1, 0, to(&address), size_of_val(&address)])?;
    close(socket)
}

pub(crate) fn raw_socket(_place: &Place) -> Answer {
    close(socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?)
}

pub(crate) fn packet(_place: &Place) -> Answer {
    close(socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?)
}

pub(crate) fn netlink(_place: &Place) -> Answer {
    close(socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)?)
}

/// The call alone: a virtual machine's host would hear a connection.
pub(crate) fn vsock(_place: &Place) -> Answer {
    made(libc::SYS_socket, &[flags(libc::AF_VSOCK), flags(libc::SOCK_STREAM | CLOEXEC), 0])
}

/// The kernel's cryptography, often attacked.
pub(crate) fn algorithm(_place: &Place) -> Answer {
    // `AF_ALG` of linux/socket.h.
    made(libc::SYS_socket, &[38, flags(libc::SOCK_SEQPACKET | CLOEXEC), 0])
}

/// Pushes a descriptor back through the channel, on the first byte of a frame of its own; whether anybody got it
/// is for the director to see.
pub(crate) fn push_descriptor(place: &Place) -> Answer {
    use std::os::fd::AsRawFd;
    // One control message: its length (`CMSG_LEN(4)`), level and kind, then the descriptor.
    let number = u64::from(place.file.as_raw_fd().unsigned_abs());
    let kind = u64::from(libc::SCM_RIGHTS.unsigned_abs()) << 32 | u64::from(libc::SOL_SOCKET.unsigned_abs());
    let control = [20_u64, kind, number];
    let frame = aaos_core::wire::encode_frame(&PUSHED).map_err(|_| Refusal::Errno(libc::EINVAL))?;
    let part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
    let message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: (&raw const part).cast_mut(),
        msg_iovlen: 1,
        msg_control: control.as_ptr().cast_mut().cast(),
        msg_controllen: size_of_val(&control),
        msg_flags: 0,
    };
    done(libc::SYS_sendmsg, &[CHANNEL, to(&message), flags(libc::MSG_NOSIGNAL)])
}

/// What the frame says on which a descriptor was pushed.
pub(crate) const PUSHED: &str = "a descriptor rides on this";
/// The number of every subject's channel.
const CHANNEL: usize = aaos_confine::CHANNEL_FD.unsigned_abs() as usize;
