//! Near end of the egress gateway: many fetches, downloads and proxied connections at once over one channel, told apart
//! by serial number.
//!
//! Invariants: bytes of a page are never read here; they lie in a memfd that agentd made, sealed and
//! measured, and only a worker looks into it. Those of a download are passed on and not looked at. At most `MAX_FETCHES_IN_FLIGHT` wait at once. A connection that
//! broke fails every fetch, at once and for good.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aaos_core::effect::{Access, Need};
use aaos_core::limits::{MAX_FETCHES_IN_FLIGHT, MAX_PROXIED, MAX_WEB_FETCH_BYTES, WEB_FETCH_TIME_MS};
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{
    EgressReply, EgressRequest, FRAME_HEADER_BYTES, RequestSerial, decode_frame, encode_frame, frame_length,
};
use aaos_journal::Permit;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::commit::{scratch, take_over};

pub(crate) mod download;
pub(crate) mod proxied;

use proxied::ProxyNews;

/// How much longer than the gateway's own limit agentd waits for its answer.
const GRACE: Duration = Duration::from_secs(2);
/// How long the gateway may leave one frame unread; it reads at once, whatever it does besides.
const SEND_TIME: Duration = Duration::from_secs(5);
/// Frames that wait to be sent: one fetch and one cancellation each, and an order and the end of a connection.
const SEND_QUEUE: usize = 2 * (MAX_FETCHES_IN_FLIGHT + MAX_PROXIED);

/// A fetched page, not yet looked into.
#[derive(Debug)]
pub struct FetchedPage {
    /// HTTP status.
    pub status: u16,
    /// Media type as the server gave it.
    pub content_type: String,
    /// URL after redirects.
    pub final_url: String,
    /// Whether the body was cut.
    pub truncated: bool,
    /// Its size.
    pub bytes: Bytes,
    /// All that came for it, redirects included.
    pub received: Bytes,
    /// The body, sealed.
    pub memfd: OwnedFd,
}

/// How a fetch ended.
#[derive(Debug)]
pub struct Fetched {
    /// Bytes of the body and of the redirects to it that arrived, also where the fetch failed afterwards.
    pub received: Bytes,
    /// The page.
    pub page: Result<FetchedPage, ToolFailure>,
}

/// A fetched page, its body apart.
struct PageFacts {
    status: u16,
    content_type: String,
    final_url: String,
    truncated: bool,
    bytes: Bytes,
}

impl PageFacts {
    fn with(self, memfd: OwnedFd, received: Bytes) -> FetchedPage {
        let Self { status, content_type, final_url, truncated, bytes } = self;
        FetchedPage { status, content_type, final_url, truncated, bytes, received, memfd }
    }
}

/// A frame on its way, with the memfd that rides on it.
type Outgoing = (Vec<u8>, Option<OwnedFd>);

/// The connection to the egress gateway. A cheap handle.
#[derive(Debug, Clone)]
pub struct Egress {
    pending: Arc<Pending>,
    sender: mpsc::Sender<Outgoing>,
}

/// Fetches that wait for their answer.
#[derive(Debug, Default)]
struct Pending {
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    fetches: HashMap<RequestSerial, Waiter>,
    proxied: HashMap<RequestSerial, mpsc::Sender<ProxyNews>>,
}

/// Who waits for a page.
#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<EgressReply>,
    /// What came with redirects.
    redirected: Arc<AtomicU64>,
    /// Who waits for the beginning of a download.
    begun: Option<oneshot::Sender<Bytes>>,
}

impl Egress {
    /// Whether the gateway is gone for good; a new one has to be launched.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.pending.lock().closed
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(
        &self,
        redirected: Arc<AtomicU64>,
        begun: Option<oneshot::Sender<Bytes>>,
    ) -> Result<(RequestSerial, oneshot::Receiver<EgressReply>), ToolFailure> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(gateway_lost());
        }
        if waiting.fetches.len() >= MAX_FETCHES_IN_FLIGHT {
            let message =
                format!("{MAX_FETCHES_IN_FLIGHT} fetches are under way; try again when one is done");
            return Err(ToolFailure::new(ToolFailureKind::LimitReached, message));
        }
        let serial = RequestSerial(self.next.fetch_add(1, Ordering::Relaxed));
        let (answer, receiver) = oneshot::channel();
        waiting.fetches.insert(serial, Waiter { answer, redirected, begun });
        Ok((serial, receiver))
    }

    /// Counts what came with a redirect. Of a fetch that was given up meanwhile nothing is counted any more.
    fn count(&self, serial: RequestSerial, bytes: Bytes) {
        if let Some(waiter) = self.lock().fetches.get(&serial) {
            let before = waiter.redirected.load(Ordering::Relaxed);
            waiter.redirected.store(before.saturating_add(bytes.0), Ordering::Relaxed);
        }
    }

    /// Tells where a download begins; whether that may be said. Of one that was given up meanwhile nobody hears.
    fn begin(&self, serial: RequestSerial, from: Bytes) -> bool {
        let mut waiting = self.lock();
        let Some(waiter) = waiting.fetches.get_mut(&serial) else { return true };
        let Some(begun) = waiter.begun.take() else { return false };
        // Who gave it up meanwhile need not know.
        begun.send(from).unwrap_or(());
        true
    }

    fn deliver(&self, serial: RequestSerial, reply: EgressReply) {
        // A fetch that was given up meanwhile has nobody waiting; its answer is dropped.
        let waiting = self.lock().fetches.remove(&serial);
        if waiting.is_none_or(|waiter| waiter.answer.send(reply).is_err()) {
            tracing::debug!(serial = serial.0, "the answer to a fetch that was given up");
        }
    }

    fn enter_proxied(&self, news: mpsc::Sender<ProxyNews>) -> Result<RequestSerial, ToolFailure> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(gateway_lost());
        }
        if waiting.proxied.len() >= MAX_PROXIED {
            return Err(proxied::too_many());
        }
        let serial = RequestSerial(self.next.fetch_add(1, Ordering::Relaxed));
        waiting.proxied.insert(serial, news);
        Ok(serial)
    }

    fn forget_proxied(&self, serial: RequestSerial) {
        self.lock().proxied.remove(&serial);
    }

    /// Whether a gateway may say that: it says nothing more before it was answered.
    fn tell(&self, serial: RequestSerial, news: ProxyNews) -> bool {
        let mut waiting = self.lock();
        let is_last = matches!(news, ProxyNews::Closed { .. });
        let told = match waiting.proxied.get(&serial) {
            Some(sender) => !matches!(sender.try_send(news), Err(mpsc::error::TrySendError::Full(_))),
            // It was given up meanwhile.
            None => true,
        };
        if is_last {
            waiting.proxied.remove(&serial);
        }
        told
    }

    fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.fetches.clear();
        waiting.proxied.clear();
    }
}

fn gateway_lost() -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Network, "the egress gateway is gone; it must be started again")
}

impl Egress {
    /// Takes over a gateway of the `egress` role that is past its lock-down; inside a tokio runtime.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let (sender, outgoing) = mpsc::channel(SEND_QUEUE);
        let pending = Arc::new(Pending::default());
        tokio::spawn(read_replies(reader, Arc::clone(&pending)));
        tokio::spawn(write_requests(writer, outgoing, Arc::clone(&pending)));
        Self { pending, sender }
    }

    /// Fetches the page of a permitted `web_fetch`, until `stop`. Dropping the future cancels the fetch.
    pub async fn fetch(&self, permit: &Permit<ToolCall>, stop: impl Future<Output = ToolFailure>) -> Fetched {
        self.fetch_until(&permit.effect().input, permit.all(), stop).await
    }

    async fn fetch_until(
        &self,
        input: &ToolInput,
        all: &[Access],
        stop: impl Future<Output = ToolFailure>,
    ) -> Fetched {
        let memfd = match scratch() {
            Ok(memfd) => memfd,
            Err(errno) => return Fetched { received: Bytes::ZERO, page: Err(io_failure(&errno.into())) },
        };
        let redirected = Arc::new(AtomicU64::new(0));
        let page = tokio::select! {
            page = self.fetch_into(&memfd, &redirected, input, all) => page,
            failure = stop => Err(failure),
        };
        // Also of a fetch that failed half-way: the gateway puts into it what it receives, as it comes.
        let body = rustix::fs::fstat(&memfd).map_or(0, |facts| u64::try_from(facts.st_size).unwrap_or(0));
        let received = Bytes(body.saturating_add(redirected.load(Ordering::Relaxed)));
        Fetched { received, page: page.map(|facts| facts.with(memfd, received)) }
    }

    async fn fetch_into(
        &self,
        memfd: &OwnedFd,
        redirected: &Arc<AtomicU64>,
        input: &ToolInput,
        all: &[Access],
    ) -> Result<PageFacts, ToolFailure> {
        let ToolInput::WebFetch(input) = input else {
            return Err(ToolFailure::new(ToolFailureKind::UnknownTool, "only web_fetch fetches pages"));
        };
        let Some(access) = all.iter().find(|access| matches!(access.need, Need::Host { .. })) else {
            return Err(ToolFailure::new(ToolFailureKind::Denied, "no grant was named for the host"));
        };
        let max_bytes = input.max_bytes.min(MAX_WEB_FETCH_BYTES);
        let lent = memfd.try_clone().map_err(|error| io_failure(&error))?;
        let (serial, receiver) = self.pending.enter(Arc::clone(redirected), None)?;
        let mut fetch = InFlight { egress: self.clone(), serial, over: false };
        let request = EgressRequest::Fetch {
            serial,
            url: input.url.clone(),
            max_bytes: Bytes(max_bytes),
            hosts: access.hosts.clone(),
            public: access.public,
            time: Millis(WEB_FETCH_TIME_MS),
        };
        let frame = encode_frame(&request).map_err(|error| io_failure(&io::Error::other(error)))?;
        self.sender.send((frame, Some(lent))).await.map_err(|_| gateway_lost())?;
        let time = Duration::from_millis(WEB_FETCH_TIME_MS) + GRACE;
        let reply = match tokio::time::timeout(time, receiver).await {
            Ok(reply) => reply.map_err(|_| gateway_lost())?,
            Err(_) => {
                let message = format!("{} did not answer within {WEB_FETCH_TIME_MS} ms", input.url);
                return Err(ToolFailure::new(ToolFailureKind::Timeout, message));
            }
        };
        fetch.over = true;
        finish(reply, memfd, max_bytes)
    }
}

/// One fetch or download under way: given up half-way, the gateway is told.
#[derive(Debug)]
struct InFlight {
    egress: Egress,
    serial: RequestSerial,
    over: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.egress.pending.lock().fetches.remove(&self.serial);
        if self.over {
            return;
        }
        let cancel = encode_frame(&EgressRequest::Cancel { serial: self.serial });
        let told = cancel.is_ok_and(|frame| self.egress.sender.try_send((frame, None)).is_ok());
        if !told {
            tracing::debug!(serial = self.serial.0, "a fetch ends at its own time limit");
        }
    }
}

/// Seals and measures what the gateway left.
fn finish(reply: EgressReply, memfd: &OwnedFd, max_bytes: u64) -> Result<PageFacts, ToolFailure> {
    match reply {
        EgressReply::Fetched { status, content_type, final_url, bytes, truncated, .. } => {
            take_over(memfd, bytes.0, max_bytes).map_err(|error| error.to_failure())?;
            Ok(PageFacts { status, content_type, final_url, truncated, bytes })
        }
        EgressReply::Failed { failure, .. } => Err(failure),
        EgressReply::Locked(_)
        | EgressReply::Delivering { .. }
        | EgressReply::Delivered { .. }
        | EgressReply::Redirected { .. }
        | EgressReply::Wants { .. }
        | EgressReply::Spent { .. }
        | EgressReply::Closed { .. } => Err(gateway_lost()),
    }
}

fn io_failure(error: &io::Error) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Io, format!("a fetch cannot be started ({error}); try again"))
}

/// Hands each answer to the fetch that waits for it, until the gateway ends.
async fn read_replies(mut reader: impl AsyncRead + Unpin, pending: Arc<Pending>) {
    loop {
        match read_reply(&mut reader).await {
            Ok(reply) => {
                if !hand_on(&pending, reply) {
                    tracing::warn!("the egress gateway said what was not due, and is given up");
                    break;
                }
            }
            Err(error) => {
                // Its end is nothing strange when agentd ends it; a fetch in flight gets an error of its own.
                tracing::debug!(%error, "the egress gateway's connection ended");
                break;
            }
        }
    }
    pending.close();
}

/// Whether it was something that a gateway may say.
fn hand_on(pending: &Pending, reply: EgressReply) -> bool {
    match reply {
        EgressReply::Fetched { serial, .. }
        | EgressReply::Delivered { serial, .. }
        | EgressReply::Failed { serial, .. } => {
            pending.deliver(serial, reply);
            true
        }
        EgressReply::Redirected { serial, bytes } => {
            pending.count(serial, bytes);
            true
        }
        EgressReply::Delivering { serial, from } => pending.begin(serial, from),
        EgressReply::Locked(_) => false,
        other => proxied::news_of(other).is_some_and(|(serial, news)| pending.tell(serial, news)),
    }
}

/// One frame, read without a control buffer: no descriptor can come in.
async fn read_reply(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<EgressReply> {
    let mut header = [0; FRAME_HEADER_BYTES];
    reader.read_exact(&mut header).await?;
    let length = frame_length(header).map_err(io::Error::other)?;
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode_frame(&body).map_err(io::Error::other)
}

/// Sends frames one after the other; ends with the last handle or the connection.
async fn write_requests(
    writer: OwnedWriteHalf,
    mut outgoing: mpsc::Receiver<Outgoing>,
    pending: Arc<Pending>,
) {
    while let Some((frame, memfd)) = outgoing.recv().await {
        let sent = timeout(SEND_TIME, send_frame(writer.as_ref(), &frame, memfd.as_ref())).await;
        if let Err(error) = sent.unwrap_or_else(|late| Err(late.into())) {
            tracing::warn!(%error, "the egress gateway takes no more requests");
            break;
        }
    }
    pending.close();
}

async fn send_frame(stream: &UnixStream, frame: &[u8], memfd: Option<&OwnedFd>) -> io::Result<()> {
    let mut lent: Vec<_> = memfd.iter().map(|fd| fd.as_fd()).collect();
    let mut rest = frame;
    while !rest.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !lent.is_empty() {
                    let fits = control.push(SendAncillaryMessage::ScmRights(&lent));
                    assert!(fits, "the control buffer holds one descriptor");
                }
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                Ok(sendmsg(stream, &[IoSlice::new(rest)], &mut control, flags)?)
            })
            .await?;
        lent.clear();
        rest = &rest[sent..];
    }
    Ok(())
}

#[cfg(test)]
mod tests;
