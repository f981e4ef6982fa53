//! The gateway's end of its one channel: frames in, frames out, running requests in between.
//!
//! Invariants: a reader never reads past the end of a frame, so a descriptor belongs to the frame whose first
//! byte it rode on; the number of running requests and of frames waiting to be written is bounded; a request
//! that was cancelled is aborted and answers nothing more.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use aaos_core::wire::{
    FRAME_HEADER_BYTES, FrameError, RequestSerial, decode_frame, encode_frame, frame_length,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Encoded frames that may wait for agentd to read them; a request that has more to say waits.
const QUEUED_FRAMES: usize = 64;
/// Bytes asked for in one read, so that memory grows with what arrives and not with what is announced.
const READ_BYTES: usize = 64 * 1024;

/// Why the gateway stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The channel broke.
    #[error("the channel to agentd failed")]
    Io(#[from] io::Error),
    /// A frame was too long or not what was expected.
    #[error("agentd sent a bad frame")]
    Frame(#[from] FrameError),
    /// The channel ended inside a frame.
    #[error("the channel ended inside a frame")]
    Cut,
    /// A frame came with another number of descriptors than it needs.
    #[error("a frame came with {found} descriptors, it needs {wanted}")]
    Descriptors {
        /// How many it needs.
        wanted: usize,
        /// How many came.
        found: usize,
    },
    /// More orders for one connection than there were questions.
    #[error("agentd spoke out of turn about connection {}", .0.0)]
    OutOfTurn(RequestSerial),
    /// A serial that is still in use was used again.
    #[error("request {} is already running", .0.0)]
    SerialInUse(RequestSerial),
}

/// One frame and the descriptors that rode on it.
#[derive(Debug)]
pub struct Received<T> {
    /// What was said.
    pub message: T,
    /// In order; at most one is taken in.
    pub descriptors: Vec<OwnedFd>,
}

/// Whether descriptors are taken in at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptors {
    /// The kernel discards any that come.
    Refused,
    /// Frames may carry one.
    Accepted,
}

/// Reads frames. `next` may be dropped and called again without losing bytes.
#[derive(Debug)]
pub struct FrameReader {
    stream: OwnedReadHalf,
    accept: Descriptors,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl FrameReader {
    /// Reads from `stream`.
    #[must_use]
    pub fn new(stream: OwnedReadHalf, accept: Descriptors) -> Self {
        Self { stream, accept, bytes: Vec::new(), descriptors: Vec::new() }
    }

    /// The next frame; `None` when the channel has ended between frames.
    ///
    /// # Errors
    /// [`ChannelError`] when the channel fails or its bytes are no frame.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<Received<T>>, ChannelError> {
        loop {
            let wanted = self.wanted()?;
            assert!(self.bytes.len() < wanted, "a complete frame is taken before more is read");
            let count = self.receive(wanted - self.bytes.len()).await?;
            if count == 0 {
                return if self.bytes.is_empty() { Ok(None) } else { Err(ChannelError::Cut) };
            }
            if self.bytes.len() > FRAME_HEADER_BYTES && self.bytes.len() == self.wanted()? {
                let message = decode_frame(&self.bytes[FRAME_HEADER_BYTES..])?;
                self.bytes = Vec::new();
                return Ok(Some(Received { message, descriptors: std::mem::take(&mut self.descriptors) }));
            }
        }
    }

    /// Length up to the end of what must be read next: the header, then the whole frame.
    fn wanted(&self) -> Result<usize, ChannelError> {
        let Some(header) = self.bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(FRAME_HEADER_BYTES);
        };
        match frame_length(*header)? {
            0 => Err(ChannelError::Cut),
            length => Ok(FRAME_HEADER_BYTES + length),
        }
    }

    async fn receive(&mut self, most: usize) -> Result<usize, ChannelError> {
        let start = self.bytes.len();
        let mut chunk = vec![0; most.min(READ_BYTES)];
        let stream: &UnixStream = self.stream.as_ref();
        let accept = self.accept;
        let (count, taken) =
            stream.async_io(Interest::READABLE, || receive_once(stream, &mut chunk, accept)).await?;
        self.descriptors.extend(taken);
        self.bytes.extend_from_slice(&chunk[..count]);
        assert_eq!(self.bytes.len(), start + count, "exactly what came is kept");
        Ok(count)
    }
}

fn receive_once(
    stream: &UnixStream,
    chunk: &mut [u8],
    accept: Descriptors,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = match accept {
        Descriptors::Accepted => RecvAncillaryBuffer::new(&mut space),
        Descriptors::Refused => RecvAncillaryBuffer::default(),
    };
    let mut parts = [io::IoSliceMut::new(chunk)];
    let got = recvmsg(stream.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut taken = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            taken.extend(rights);
        }
    }
    if accept == Descriptors::Accepted && got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than one frame may carry"));
    }
    Ok((got.bytes, taken))
}

/// The one descriptor of a frame that needs exactly one.
///
/// # Errors
/// [`ChannelError::Descriptors`] when none or several came.
pub fn only_descriptor(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, ChannelError> {
    let found = descriptors.len();
    match <[OwnedFd; 1]>::try_from(descriptors) {
        Ok([one]) => Ok(one),
        Err(_) => Err(ChannelError::Descriptors { wanted: 1, found }),
    }
}

/// Where replies are put; a clone for every request.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<Vec<u8>>);

impl Outbox {
    /// Starts the one writer of `stream`. It ends when the last clone is gone or the stream is.
    #[must_use]
    pub fn start(stream: OwnedWriteHalf) -> Self {
        let (sender, frames) = mpsc::channel(QUEUED_FRAMES);
        tokio::spawn(write_frames(stream, frames));
        Self(sender)
    }

    /// Queues one reply, waiting while the queue is full. When agentd no longer listens the reply is lost, and the
    /// serving loop, which reads the same channel, sees its end.
    pub async fn send<T: Serialize + Sync>(&self, reply: &T) {
        let frame = encode_frame(reply).unwrap_or_else(|error| {
            unreachable!("every reply is bounded far below a frame and plain data: {error}")
        });
        self.0.send(frame).await.unwrap_or(());
    }
}

async fn write_frames(mut stream: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Requests that run, by serial.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<()>,
    handles: HashMap<RequestSerial, AbortHandle>,
    most: usize,
}

impl Running {
    /// None yet, at most `most` at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { tasks: JoinSet::new(), handles: HashMap::new(), most }
    }

    /// Whether no further request may start.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.handles.len() >= self.most
    }

    /// Starts a request.
    ///
    /// # Errors
    /// [`ChannelError::SerialInUse`] when one with its serial runs.
    pub fn start(
        &mut self,
        serial: RequestSerial,
        request: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ChannelError> {
        assert!(!self.is_full(), "the caller refuses what is too much");
        if self.handles.contains_key(&serial) {
            return Err(ChannelError::SerialInUse(serial));
        }
        self.handles.insert(serial, self.tasks.spawn(request));
        Ok(())
    }

    /// Aborts a request, if it still runs.
    pub fn cancel(&mut self, serial: RequestSerial) {
        if let Some(handle) = self.handles.remove(&serial) {
            handle.abort();
        }
    }

    /// Waits for any request to end, for ever if none runs. Gives the serial of one that ended by a panic and so
    /// has not answered.
    pub async fn ended(&mut self) -> Option<RequestSerial> {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, is_panic) = match ended {
            Ok((id, ())) => (id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let serial = self.handles.iter().find(|(_, handle)| handle.id() == id).map(|(serial, _)| *serial)?;
        self.handles.remove(&serial);
        is_panic.then_some(serial)
    }
}

#[cfg(test)]
mod tests {
    use super::{ChannelError, Descriptors, FrameReader, Running};
    use aaos_core::wire::{RequestSerial, encode_frame};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_and_a_cut_one_is_an_error() {
        let (mut near, far) = UnixStream::pair().expect("a socket pair");
        let mut reader = FrameReader::new(far.into_split().0, Descriptors::Accepted);
        let mut bytes = encode_frame(&RequestSerial(1)).expect("small");
        bytes.extend(encode_frame(&RequestSerial(2)).expect("small"));
        bytes.extend([9, 0, 0, 0, b'1']);
        near.write_all(&bytes).await.expect("room");
        drop(near);
        for serial in [1, 2] {
            let got = reader.next::<RequestSerial>().await.expect("a frame").expect("not the end");
            assert_eq!(got.message, RequestSerial(serial));
        }
        assert!(matches!(reader.next::<RequestSerial>().await, Err(ChannelError::Cut)));
    }

    #[tokio::test]
    async fn an_announced_giant_and_an_empty_frame_are_refused() {
        for header in [[0xff; 4], [0; 4]] {
            let (mut near, far) = UnixStream::pair().expect("a socket pair");
            let mut reader = FrameReader::new(far.into_split().0, Descriptors::Refused);
            near.write_all(&header).await.expect("room");
            assert!(reader.next::<RequestSerial>().await.is_err());
        }
    }

    #[tokio::test]
    async fn a_panicking_request_is_reported_and_a_cancelled_one_is_not() {
        let mut running = Running::new(2);
        running.start(RequestSerial(1), async { panic!("a bug") }).expect("room");
        assert_eq!(running.ended().await, Some(RequestSerial(1)));
        running.start(RequestSerial(2), std::future::pending()).expect("room");
        assert!(matches!(
            running.start(RequestSerial(2), std::future::pending()),
            Err(ChannelError::SerialInUse(_))
        ));
        running.cancel(RequestSerial(2));
        assert_eq!(running.ended().await, None);
        assert!(!running.is_full());
    }
}
