//! The real launcher: this program as a zygote, whose workers are subjects.
//!
//! Invariant: the lock-down is the one of every worker, by the same zygote; nothing of it is chosen here.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use aaos_confine::Channel;
use aaos_confine::control::{CONTROL_BYTES, News, Serial};
use aaos_confine::zygote::ZYGOTE_ARGUMENT;
use aaos_core::confinement::LockedReport;
use aaos_core::wire::{WorkerReply, encode_frame};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags,
    SocketType, recv, sendmsg, shutdown, socketpair,
};
use serde::Serialize;
use testkit::PATIENCE;

use crate::refusing::refuse_namespaces;

/// The argument that has this program refuse itself namespaces and then become a zygote.
pub(crate) const LOCKED_FIRST: &str = "--locked-first";

/// A zygote of this very program.
#[derive(Debug)]
pub(crate) struct Zygote {
    control: OwnedFd,
    child: Child,
    launched: u32,
}

/// A worker that has said how it is locked.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) channel: OwnedFd,
    pub(crate) report: LockedReport,
    pub(crate) serial: Serial,
}

#[expect(clippy::disallowed_methods, reason = "the suite starts its own launcher")]
fn this_program() -> io::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// Becomes a zygote that can make no namespace.
pub(crate) fn lock_and_become_zygote() -> io::Error {
    refuse_namespaces();
    match this_program() {
        Ok(mut command) => command.arg(ZYGOTE_ARGUMENT).env_clear().exec(),
        Err(error) => error,
    }
}

impl Zygote {
    /// Starts it; `namespaces` says whether it may make any.
    pub(crate) fn start(namespaces: bool) -> io::Result<Self> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&near, Timeout::Recv, Some(PATIENCE))?;
        let mut command = this_program()?;
        command.arg(if namespaces { ZYGOTE_ARGUMENT } else { LOCKED_FIRST }).env_clear();
        let child = command.stdin(Stdio::from(far)).stdout(Stdio::null()).spawn()?;
        let zygote = Self { control: near, child, launched: 0 };
        match zygote.news()? {
            News::Ready(_) => Ok(zygote),
            other => Err(io::Error::other(format!("the zygote began with {other:?}"))),
        }
    }

    fn news(&self) -> io::Result<News> {
        let mut bytes = [0; CONTROL_BYTES];
        let (got, _) = recv(&self.control, &mut bytes, RecvFlags::empty())?;
        News::decode(&bytes[..got]).ok_or_else(|| io::Error::other("the zygote ended"))
    }

    /// Makes a worker and waits until it is locked.
    pub(crate) fn launch(&mut self) -> io::Result<Worker> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&near, Timeout::Recv, Some(PATIENCE))?;
        let serial = Serial(self.launched);
        self.launched += 1;
        let order = aaos_confine::control::Order::Worker(serial);
        // Its last words go where ours go.
        let stderr = io::stderr();
        send(&self.control, &order.encode(), &[far.as_fd(), stderr.as_fd()])?;
        drop(far);
        loop {
            match self.news()? {
                News::Launched(launched, _) if launched == serial => break,
                // One of the workers before.
                News::Ended(..) => {}
                other => return Err(io::Error::other(format!("no worker: {other:?}"))),
            }
        }
        let channel = Channel::new(near);
        let (WorkerReply::Locked(report), _) = channel.receive::<WorkerReply>().map_err(io::Error::other)?
        else {
            return Err(io::Error::other("a worker that does not begin with its lock-down"));
        };
        Ok(Worker { channel: channel.into_fd(), report, serial })
    }

    /// Ends a worker as the daemon does when its time is over, and waits until it has ended.
    pub(crate) fn kill(&self, serial: Serial) -> io::Result<()> {
        send(&self.control, &aaos_confine::control::Order::Kill(serial).encode(), &[])?;
        loop {
            match self.news()? {
                News::Ended(ended, _) if ended == serial => return Ok(()),
                News::Ended(..) => {}
                other => return Err(io::Error::other(format!("no end: {other:?}"))),
            }
        }
    }

    /// Ends it and everything that it made.
    pub(crate) fn end(mut self) -> io::Result<()> {
        shutdown(&self.control, Shutdown::Write)?;
        let mut bytes = [0; CONTROL_BYTES];
        // What it has to say until it ends: that the last workers have.
        while recv(&self.control, &mut bytes, RecvFlags::empty())?.0 > 0 {}
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("the zygote: {status}"))) }
    }
}

/// Sends bytes with descriptors on the first of them.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let sent = sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("a frame did not fit")) }
}

/// Sends a frame with descriptors.
pub(crate) fn send_frame(
    socket: &OwnedFd,
    frame: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send(socket, &encode_frame(frame).map_err(io::Error::other)?, descriptors)
}
