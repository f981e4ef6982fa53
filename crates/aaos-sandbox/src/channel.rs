//! The near side's channel to one far process: asynchronous frames, descriptors only outbound.
//!
//! Invariants: nothing is ever received with a control buffer, so a far process cannot push a descriptor into
//! agentd; a channel whose frame was cut half-way (an error, or a future dropped inside it) serves no further
//! frame.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use aaos_core::limits::MAX_FRAME_DESCRIPTORS;
use aaos_core::wire::{FRAME_HEADER_BYTES, decode_frame, encode_frame, frame_length};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use crate::error::SandboxError;

/// Room made for a frame before its bytes arrive: an announced length alone costs no more.
const READ_STEP_BYTES: usize = 64 * 1024;

/// One stream of frames to a far process.
#[derive(Debug)]
pub(crate) struct FarChannel {
    stream: UnixStream,
    /// Set while a frame is half-way.
    torn: AtomicBool,
    /// Set once the far side has closed its end.
    hung_up: AtomicBool,
}

impl FarChannel {
    /// Wraps the near end of a socket pair; inside a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, SandboxError> {
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true).map_err(SandboxError::Socket)?;
        let stream = UnixStream::from_std(stream).map_err(SandboxError::Socket)?;
        Ok(Self { stream, torn: AtomicBool::new(false), hung_up: AtomicBool::new(false) })
    }

    /// The stream itself, between two frames.
    pub(crate) fn into_stream(self) -> UnixStream {
        assert!(!self.torn.load(Ordering::Relaxed), "a torn channel is never handed on");
        self.stream
    }

    /// Whether the far side has closed its end: it is ending by itself.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Relaxed)
    }

    /// Sends one frame and the descriptors that ride on its first byte.
    pub(crate) async fn send(
        &self,
        frame: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SandboxError> {
        let bytes = encode_frame(frame)?;
        self.send_bytes(&bytes, descriptors).await
    }

    /// Sends bytes that are already a frame.
    pub(crate) async fn send_bytes(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SandboxError> {
        assert!(descriptors.len() <= MAX_FRAME_DESCRIPTORS, "the caller batches descriptors");
        self.begin()?;
        let mut sent = self.send_some(bytes, descriptors).await?;
        while sent < bytes.len() {
            sent += self.send_some(&bytes[sent..], &[]).await?;
        }
        self.torn.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a short frame where that takes no time, and else does not send it.
    pub(crate) fn send_now(&self, frame: &impl Serialize) -> Result<(), SandboxError> {
        let bytes = encode_frame(frame)?;
        self.begin()?;
        match self.send_once(&bytes, &[]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(self.broken(error)),
            Ok(sent) if sent < bytes.len() => return Err(SandboxError::Closed),
            Ok(_) => {}
        }
        self.torn.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for one frame. Has no deadline of its own: every caller sets one.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, SandboxError> {
        self.begin()?;
        let mut header = [0; FRAME_HEADER_BYTES];
        self.stream.read_exact(&mut header).await.map_err(|error| self.broken(error))?;
        let length = frame_length(header)?;
        let mut body = Vec::with_capacity(length.min(READ_STEP_BYTES));
        let limit = u64::try_from(length).unwrap_or(u64::MAX);
        (&mut self.stream).take(limit).read_to_end(&mut body).await.map_err(|error| self.broken(error))?;
        if body.len() < length {
            self.hung_up.store(true, Ordering::Relaxed);
            return Err(SandboxError::Closed);
        }
        let frame = decode_frame(&body)?;
        self.torn.store(false, Ordering::Relaxed);
        Ok(frame)
    }

    /// Resolves when something has come, or the far side has hung up; takes nothing.
    pub(crate) async fn readable(&self) -> Result<(), SandboxError> {
        self.stream.readable().await.map_err(SandboxError::Socket)
    }

    fn begin(&self) -> Result<(), SandboxError> {
        if self.torn.swap(true, Ordering::Relaxed) { Err(SandboxError::Closed) } else { Ok(()) }
    }

    async fn send_some(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize, SandboxError> {
        let sent = self.stream.async_io(Interest::WRITABLE, || self.send_once(bytes, descriptors)).await;
        sent.map_err(|error| self.broken(error))
    }

    fn send_once(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FRAME_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(fits, "the control buffer is made for the largest batch");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags)?)
    }

    fn broken(&self, error: io::Error) -> SandboxError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                self.hung_up.store(true, Ordering::Relaxed);
                SandboxError::Closed
            }
            _ => SandboxError::Socket(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use aaos_confine::Channel;

    use super::FarChannel;
    use crate::error::SandboxError;

    fn pair() -> (FarChannel, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (FarChannel::new(near.into()).expect("in a runtime"), far)
    }

    #[tokio::test]
    async fn frames_and_descriptors_arrive_together() {
        let (mut near, far) = pair();
        let far = Channel::new(far.into());
        let zero: OwnedFd = std::fs::File::open("/dev/zero").expect("a device").into();
        near.send(&"with two", &[zero.as_fd(), zero.as_fd()]).await.expect("sent");
        let (text, descriptors) = far.receive::<String>().expect("received");
        assert_eq!((text.as_str(), descriptors.len()), ("with two", 2));
        far.send(&11_u8).expect("sent");
        assert_eq!(near.receive::<u8>().await.expect("received"), 11);
    }

    #[tokio::test]
    async fn a_frame_that_has_no_room_is_left_out_whole() {
        let (near, far) = pair();
        let far = Channel::new(far.into());
        // Far more than a socket holds that nobody reads.
        for number in 0..100_000_u32 {
            near.send_now(&number).expect("sent, or left out");
        }
        let mut expected = 0;
        near.into_stream().into_std().expect("a socket").shutdown(std::net::Shutdown::Write).expect("shut");
        while let Ok((number, _)) = far.receive::<u32>() {
            assert_eq!(number, expected, "in order, and whole");
            expected += 1;
        }
        assert!((1..100_000).contains(&expected), "{expected} had room");
    }

    #[tokio::test]
    async fn a_frame_that_was_given_up_half_way_ends_the_channel() {
        let (mut near, far) = pair();
        let far = Channel::new(far.into());
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, near.receive::<u8>()).await;
        assert!(given_up.is_err());
        far.send(&1_u8).expect("sent");
        assert!(matches!(near.receive::<u8>().await, Err(SandboxError::Closed)));
    }
}
