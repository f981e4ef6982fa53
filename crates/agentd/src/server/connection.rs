//! One connection: lines in, requests side by side, lines out.
//!
//! Invariants: at most [`limits::MAX_IN_FLIGHT`] requests and [`OUTBOX_BYTES`] of unsent replies wait here; a
//! client that does not read for [`WRITE_TIME`] is cut off; a request that began goes on when its client hangs up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::limits;
use aaos_ipc::{Incoming, Request, Response, batch_line, parse_line};
use aaos_runtime::{Kernel, Principal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::methods;

/// Bytes of replies that may wait for a client to read; one reply always fits.
const OUTBOX_BYTES: usize = 2 * limits::MAX_REPLY_BYTES;
/// Lines that may wait for a client to read.
const OUTBOX_LINES: usize = 1024;
/// A client that takes nothing for this long is cut off.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// How often a connection with nothing to write looks whether its client is still there.
const HANG_UP_CHECK: Duration = Duration::from_secs(15);
/// Bytes asked of the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// One line on its way to the client, with its share of the outbox.
struct Outgoing {
    line: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

/// Where answers go. Clones share one bound.
#[derive(Clone)]
pub(crate) struct Outbox {
    lines: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    /// Cancelled when the client is gone.
    pub(crate) gone: CancellationToken,
}

/// The client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl Outbox {
    fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (lines, receiver) = mpsc::channel(OUTBOX_LINES);
        let room = Arc::new(Semaphore::new(OUTBOX_BYTES));
        (Self { lines, room, gone: CancellationToken::new() }, receiver)
    }

    /// Queues a line; waits while the client is behind.
    pub(crate) async fn send(&self, line: Vec<u8>) -> Result<(), Gone> {
        let size = u32::try_from(line.len().min(OUTBOX_BYTES)).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Gone),
            sent = async {
                let share = Arc::clone(&self.room).acquire_many_owned(size).await.map_err(|_| Gone)?;
                self.lines.send(Outgoing { line, _share: share }).await.map_err(|_| Gone)
            } => sent,
        }
    }

    /// Whether a line of this size would have to wait.
    pub(crate) fn is_behind(&self) -> bool {
        self.lines.capacity() < OUTBOX_LINES / 2 || self.room.available_permits() < OUTBOX_BYTES / 2
    }
}

/// Serves one client to its end.
pub(crate) async fn run(kernel: Kernel, principal: Principal, stream: UnixStream) {
    let (reader, writer) = stream.into_split();
    let (outbox, lines) = Outbox::new();
    let writing = tokio::spawn(write_lines(writer, lines, outbox.gone.clone()));
    let session =
        Session { kernel, principal, outbox, in_flight: Arc::new(Semaphore::new(limits::MAX_IN_FLIGHT)) };
    if let Err(error) = session.read_lines(reader).await {
        tracing::debug!(%error, "a connection ended");
    }
    // What was asked before the end of input is still answered; the writer ends when nobody can send.
    drop(session);
    if let Err(error) = writing.await {
        tracing::error!(%error, "a connection's writer died");
    }
}

async fn write_lines(
    mut writer: OwnedWriteHalf,
    mut lines: mpsc::Receiver<Outgoing>,
    gone: CancellationToken,
) {
    let mut check = tokio::time::interval(HANG_UP_CHECK);
    loop {
        let outgoing = tokio::select! {
            outgoing = lines.recv() => outgoing,
            _ = check.tick() => {
                if has_hung_up(&writer) { break } else { continue }
            }
        };
        let Some(outgoing) = outgoing else { break };
        match tokio::time::timeout(WRITE_TIME, writer.write_all(&outgoing.line)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client went away");
                break;
            }
            Err(_) => {
                tracing::warn!("a client that reads nothing is cut off");
                break;
            }
        }
    }
    gone.cancel();
}

/// Whether the client closed both directions. A stream with nothing to say would not notice by writing.
fn has_hung_up(writer: &OwnedWriteHalf) -> bool {
    let stream: &UnixStream = writer.as_ref();
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let looked = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    looked.is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

#[derive(Clone)]
struct Session {
    kernel: Kernel,
    principal: Principal,
    outbox: Outbox,
    in_flight: Arc<Semaphore>,
}

impl Session {
    /// Reads lines until the client ends its side, goes away or the kernel closes.
    async fn read_lines(&self, mut reader: OwnedReadHalf) -> io::Result<()> {
        let mut buffer: Vec<u8> = Vec::new();
        let mut searched = 0;
        loop {
            while let Some(at) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = buffer.split_off(searched + at + 1);
                let line = std::mem::replace(&mut buffer, rest);
                searched = 0;
                self.take_line(&line).await;
            }
            searched = buffer.len();
            if buffer.len() > limits::MAX_REQUEST_BYTES {
                return self.refuse_long_line().await;
            }
            if buffer.is_empty() {
                // An idle connection holds no buffer.
                buffer = Vec::new();
                reader.readable().await?;
            }
            buffer.reserve(READ_BYTES);
            let read = tokio::select! {
                read = reader.read_buf(&mut buffer) => read?,
                () = self.outbox.gone.cancelled() => return Ok(()),
                () = self.kernel.closing().cancelled() => return Ok(()),
            };
            if read == 0 {
                if !buffer.is_empty() {
                    self.take_line(&buffer).await;
                }
                return Ok(());
            }
        }
    }

    async fn refuse_long_line(&self) -> io::Result<()> {
        if self.outbox.send(Response::line_too_long().to_line()).await.is_err() {
            tracing::debug!("a client sent a line over the limit and went away");
        }
        Ok(())
    }

    async fn take_line(&self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match parse_line(line) {
            Incoming::Single(Ok(request)) => self.spawn_single(request).await,
            Incoming::Single(Err(response)) => self.answer(response.to_line()).await,
            Incoming::Batch(entries) => self.spawn_batch(entries).await,
        }
    }

    /// Takes a place among the requests in flight; the reader waits here when there is none.
    async fn place(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.in_flight).acquire_owned().await {
            Ok(place) => place,
            Err(_) => unreachable!("the semaphore is never closed"),
        }
    }

    async fn spawn_single(&self, request: Request) {
        let place = self.place().await;
        let session = self.clone();
        drop(tokio::spawn(async move {
            if let Some(response) = session.respond(request).await {
                session.answer(response.to_line()).await;
            }
            drop(place);
        }));
    }

    async fn spawn_batch(&self, entries: Vec<Result<Request, Response>>) {
        let place = self.place().await;
        let session = self.clone();
        drop(tokio::spawn(async move {
            let mut responses = Vec::with_capacity(entries.len());
            for entry in entries {
                match entry {
                    Ok(request) => responses.extend(session.respond(request).await),
                    Err(response) => responses.push(response),
                }
            }
            if let Some(line) = batch_line(&responses) {
                session.answer(line).await;
            }
            drop(place);
        }));
    }

    async fn respond(&self, request: Request) -> Option<Response> {
        let result = methods::call(&self.kernel, self.principal, &self.outbox, &request).await;
        request.respond(result)
    }

    async fn answer(&self, line: Vec<u8>) {
        if self.outbox.send(line).await.is_err() {
            tracing::debug!("an answer found its client gone");
        }
    }
}
