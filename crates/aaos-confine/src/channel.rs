//! The far side's channel: blocking frames over one stream socket, descriptors only inbound.
//!
//! Invariants: a received descriptor is close-on-exec and owned before anything else happens; a frame longer
//! than the limit, a torn frame or a truncated control message ends the channel. The only system calls used
//! are `recvmsg` and `sendmsg`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use aaos_core::limits::MAX_FRAME_DESCRIPTORS;
use aaos_core::wire::{FRAME_HEADER_BYTES, FrameError, decode_frame, encode_frame, frame_length};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Number of the descriptor on which every far process finds its channel.
pub const CHANNEL_FD: i32 = 3;

/// Bytes read at a time, so that an announced length costs nothing before its bytes arrive.
const READ_STEP_BYTES: usize = 64 * 1024;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The near side hung up between two frames: the orderly end.
    #[error("the near side closed the channel")]
    Closed,
    /// It hung up inside a frame.
    #[error("the channel was closed inside a frame")]
    Torn,
    /// More descriptors came than one frame may carry.
    #[error("a frame carried more than {MAX_FRAME_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    /// The bytes are no frame.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("the channel's socket failed")]
    Socket(#[source] io::Error),
}

/// One blocking stream of frames.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Wraps a connected blocking stream socket.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Takes the channel that the launcher left on [`CHANNEL_FD`]. Call it once, at the start of `main`.
    #[must_use]
    pub fn inherited() -> Self {
        // SAFETY: the launcher put the channel on this number before it executed this program, and the caller
        // takes it once, before anything else of the program can own it.
        Self { socket: unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) } }
    }

    /// Gives the socket back, for example to an asynchronous runtime.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Waits for the next frame and the descriptors that ride on it.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] at the orderly end; every other error ends the channel too.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut header = [0; FRAME_HEADER_BYTES];
        let (mut filled, descriptors) = self.receive_first(&mut header)?;
        while filled < header.len() {
            filled += self.receive_some(&mut header[filled..])?;
        }
        let length = frame_length(header)?;
        let mut body = Vec::with_capacity(length.min(READ_STEP_BYTES));
        while body.len() < length {
            let start = body.len();
            body.resize(length.min(start + READ_STEP_BYTES), 0);
            let got = self.receive_some(&mut body[start..])?;
            body.truncate(start + got);
        }
        Ok((decode_frame(&body)?, descriptors))
    }

    /// Sends one frame; no descriptor can ride on it.
    ///
    /// # Errors
    /// When it is too long or the socket failed.
    pub fn send<T: Serialize>(&self, frame: &T) -> Result<(), ChannelError> {
        let bytes = encode_frame(frame)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let mut none = SendAncillaryBuffer::default();
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut none, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ChannelError::Socket(errno.into())),
            }
        }
        Ok(())
    }

    fn receive_first(&self, into: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FRAME_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut parts = [IoSliceMut::new(into)];
            match recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => break got,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ChannelError::Socket(errno.into())),
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ChannelError::TooManyDescriptors);
        }
        if got.bytes == 0 { Err(ChannelError::Closed) } else { Ok((got.bytes, descriptors)) }
    }

    /// Bytes from the middle of a frame: no control buffer, so that no descriptor can arrive there.
    fn receive_some(&self, into: &mut [u8]) -> Result<usize, ChannelError> {
        loop {
            let mut none = RecvAncillaryBuffer::default();
            let mut parts = [IoSliceMut::new(&mut *into)];
            match recvmsg(&self.socket, &mut parts, &mut none, RecvFlags::empty()) {
                Ok(got) if got.bytes == 0 => return Err(ChannelError::Torn),
                Ok(got) => return Ok(got.bytes),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ChannelError::Socket(errno.into())),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::{Channel, ChannelError};

    fn pair() -> (UnixStream, Channel) {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (near, Channel::new(far.into()))
    }

    #[test]
    fn a_frame_crosses_both_ways() {
        let (near, far) = pair();
        let near = Channel::new(near.into());
        near.send(&"hello").expect("sent");
        let (text, descriptors) = far.receive::<String>().expect("received");
        assert_eq!((text.as_str(), descriptors.len()), ("hello", 0));
        far.send(&7_u32).expect("sent");
        assert_eq!(near.receive::<u32>().expect("received").0, 7);
    }

    #[test]
    fn the_orderly_end_differs_from_a_torn_frame() {
        let (near, far) = pair();
        drop(near);
        assert!(matches!(far.receive::<u32>(), Err(ChannelError::Closed)));
        let (mut near, far) = pair();
        near.write_all(&[9, 0, 0, 0, b'1']).expect("written");
        drop(near);
        assert!(matches!(far.receive::<u32>(), Err(ChannelError::Torn)));
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused() {
        let (mut near, far) = pair();
        near.write_all(&u32::MAX.to_le_bytes()).expect("written");
        assert!(matches!(far.receive::<u32>(), Err(ChannelError::Frame(_))));
    }
}
