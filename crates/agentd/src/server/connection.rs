//! One connection: lines in, requests side by side, lines out.
//!
//! Invariants: at most [`limits::MAX_IN_FLIGHT`] requests and [`OUTBOX_BYTES`] of unsent replies wait here; a
//! client that does not read for [`WRITE_TIME`] is cut off; a request that began goes on when its client hangs up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::limits;
use aaos_ipc::{ErrorCode, Incoming, Request, RequestId, Response, RpcError, batch_line, parse_line};
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
/// The same once the daemon closes.
const CLOSING_WRITE_TIME: Duration = Duration::from_secs(1);
/// Answers that may be very long (lists, batches) and are made at once, each kind, on one connection.
const LONG_ANSWERS: usize = 2;
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
    let writing = tokio::spawn(write_lines(writer, lines, outbox.gone.clone(), kernel.closing().clone()));
    let session = Session::new(kernel, principal, outbox);
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
    closing: CancellationToken,
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
        let written = tokio::select! {
            written = writer.write_all(&outgoing.line) => written,
            () = out_of_patience(&closing) => {
                tracing::warn!("a client that reads nothing is cut off");
                break;
            }
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a client went away");
            break;
        }
    }
    gone.cancel();
}

/// Resolves when a write has taken too long: sooner while the daemon closes.
async fn out_of_patience(closing: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(WRITE_TIME) => {}
        () = async {
            closing.cancelled().await;
            tokio::time::sleep(CLOSING_WRITE_TIME).await;
        } => {}
    }
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
    long_lists: Arc<Semaphore>,
    batches: Arc<Semaphore>,
}

impl Session {
    fn new(kernel: Kernel, principal: Principal, outbox: Outbox) -> Self {
        Self {
            kernel,
            principal,
            outbox,
            in_flight: Arc::new(Semaphore::new(limits::MAX_IN_FLIGHT)),
            long_lists: Arc::new(Semaphore::new(LONG_ANSWERS)),
            batches: Arc::new(Semaphore::new(LONG_ANSWERS)),
        }
    }

    /// Reads lines until the client ends its side, goes away or the kernel closes.
    async fn read_lines(&self, mut reader: OwnedReadHalf) -> io::Result<()> {
        let mut buffer: Vec<u8> = Vec::new();
        let mut searched = 0;
        loop {
            while let Some(at) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = buffer.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut buffer, rest);
                line.pop();
                searched = 0;
                if line.len() > limits::MAX_REQUEST_BYTES {
                    return self.refuse_long_line().await;
                }
                self.take_line(&line).await;
            }
            searched = buffer.len();
            if buffer.len() > limits::MAX_REQUEST_BYTES {
                return self.refuse_long_line().await;
            }
            if buffer.is_empty() {
                // An idle connection holds no buffer.
                buffer = Vec::new();
            }
            let read = tokio::select! {
                read = more(&mut reader, &mut buffer) => read?,
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

    async fn spawn_single(&self, request: Request) {
        // The reader waits here while too many requests are in flight.
        let place = place(&self.in_flight).await;
        let session = self.clone();
        drop(tokio::spawn(async move {
            // Held until the answer is queued, so that few of them wait for a client that does not read.
            let long = match methods::lists(&request) {
                true => Some(self::place(&session.long_lists).await),
                false => None,
            };
            if let Some(response) = session.respond(request).await {
                session.answer(response.to_line()).await;
            }
            drop((long, place));
        }));
    }

    async fn spawn_batch(&self, entries: Vec<Result<Request, Response>>) {
        let place = place(&self.in_flight).await;
        let session = self.clone();
        drop(tokio::spawn(async move {
            let long = self::place(&session.batches).await;
            if let Some(line) = session.run_batch(entries).await {
                session.answer(line).await;
            }
            drop((long, place));
        }));
    }

    /// Answers every entry; once the answers are too long together, none of them is kept.
    async fn run_batch(&self, entries: Vec<Result<Request, Response>>) -> Option<Vec<u8>> {
        let mut responses = Vec::with_capacity(entries.len());
        let mut bytes = 0_usize;
        for entry in entries {
            let response = match entry {
                Ok(request) => self.respond(request).await,
                Err(response) => Some(response),
            };
            bytes +=
                response.iter().flat_map(|one| &one.result).map(|result| result.get().len()).sum::<usize>();
            if bytes > limits::MAX_REPLY_BYTES {
                responses.clear();
            } else {
                responses.extend(response);
            }
        }
        if bytes > limits::MAX_REPLY_BYTES {
            let limit = limits::MAX_REPLY_BYTES;
            let message = format!("the results of the batch are over the limit of {limit} bytes; send less");
            let error = RpcError::new(ErrorCode::LimitReached, message);
            return Some(Response::failed(RequestId::null(), error).to_line());
        }
        batch_line(&responses)
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

/// A place in a semaphore, waited for.
async fn place(room: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    match Arc::clone(room).acquire_owned().await {
        Ok(place) => place,
        Err(_) => unreachable!("the semaphore is never closed"),
    }
}

/// Reads what there is, waiting for it without holding a buffer; 0 at the end.
async fn more(reader: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> io::Result<usize> {
    reader.readable().await?;
    buffer.reserve(READ_BYTES);
    reader.read_buf(buffer).await
}
