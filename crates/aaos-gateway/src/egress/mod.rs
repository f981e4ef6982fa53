//! The `egress` role: fetches pages for agents, connects their programs and brings the operator's downloads, without keys.
//!
//! Invariants: every hop of every fetch and download is authorised before a name is asked for and its address checked before
//! a connection is made to exactly that address; a fetch offers no cookie, credential or compression, its body never
//! exceeds its cap and lies only in the memfd that agentd sent; each fetch and each connection has a time limit.

pub mod address;
mod download;
mod fetch;
mod proxy;
pub mod target;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::capability::HostRule;
use aaos_core::limits::{MAX_FETCHES_IN_FLIGHT, MAX_PROXIED, PROXY_TIME_MS, WEB_FETCH_TIME_MS};
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, EgressRequest, RequestSerial};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::channel::{ChannelError, Descriptors, FrameReader, Outbox, Received, Running, only_descriptor};
use crate::dial::Dialer;
use download::Download;
use fetch::{Job, Told};
use proxy::Order;

/// Orders that one connection may have waiting: agentd answers one question at a time.
const WAITING_ORDERS: usize = 4;

/// Serves agentd until the channel ends.
///
/// # Errors
/// [`ChannelError`] when agentd says something that it never should; the process is then of no more use.
pub async fn serve(stream: UnixStream, dialer: Dialer) -> Result<(), ChannelError> {
    let (input, output) = stream.into_split();
    let mut reader = FrameReader::new(input, Descriptors::Accepted);
    let mut role = Role {
        dialer: Arc::new(dialer),
        outbox: Outbox::start(output),
        fetches: Running::new(MAX_FETCHES_IN_FLIGHT),
        proxied: Running::new(MAX_PROXIED),
        lines: HashMap::new(),
    };
    loop {
        tokio::select! {
            received = reader.next::<EgressRequest>() => match received? {
                None => return Ok(()),
                Some(received) => role.take(received).await?,
            },
            ended = role.fetches.ended() => {
                if let Some(serial) = ended {
                    role.outbox.send(&EgressReply::Failed { serial, failure: own_mistake() }).await;
                }
            }
            ended = role.proxied.ended() => {
                role.lines.retain(|_, line| !line.orders.is_closed());
                if let Some(serial) = ended {
                    role.outbox.send(&closed_at_once(serial, own_mistake())).await;
                }
            }
        }
    }
}

fn own_mistake() -> ToolFailure {
    let message = "the gateway made a mistake with this connection; this is a bug in aaOS";
    ToolFailure::new(ToolFailureKind::Network, message)
}

fn closed_at_once(serial: RequestSerial, failure: ToolFailure) -> EgressReply {
    EgressReply::Closed { serial, sent: Bytes::ZERO, received: Bytes::ZERO, failure: Some(failure) }
}

/// What agentd can still say to one proxied connection. Dropping it ends the connection.
#[derive(Debug)]
struct Line {
    orders: mpsc::Sender<Order>,
    _open: oneshot::Sender<()>,
}

/// What one page is fetched with.
struct Fetch {
    serial: RequestSerial,
    url: String,
    max_bytes: Bytes,
    hosts: Vec<HostRule>,
    public: bool,
    time: Millis,
}

struct Role {
    dialer: Arc<Dialer>,
    outbox: Outbox,
    fetches: Running,
    proxied: Running,
    lines: HashMap<RequestSerial, Line>,
}

impl Role {
    async fn take(&mut self, received: Received<EgressRequest>) -> Result<(), ChannelError> {
        let descriptors = received.descriptors;
        let order = match received.message {
            EgressRequest::Fetch { serial, url, max_bytes, hosts, public, time } => {
                let page = File::from(only_descriptor(descriptors)?);
                return self.fetch(Fetch { serial, url, max_bytes, hosts, public, time }, page).await;
            }
            EgressRequest::Download { serial, url, from, size, hosts, public } => {
                let order = Download { serial, url, from, size, hosts, public };
                return self.download(order, only_descriptor(descriptors)?).await;
            }
            EgressRequest::Proxy { serial, time } => {
                return self.proxy(serial, time, only_descriptor(descriptors)?).await;
            }
            EgressRequest::Cancel { serial } => {
                self.fetches.cancel(serial);
                None
            }
            EgressRequest::Close { serial } => {
                self.lines.remove(&serial);
                None
            }
            EgressRequest::Open { serial, hosts, public, lease } => {
                Some((serial, Order::Open { hosts, public, lease }))
            }
            EgressRequest::Refuse { serial, why } => Some((serial, Order::Refuse(why))),
            EgressRequest::Lease { serial, bytes } => Some((serial, Order::Lease(bytes))),
        };
        no_descriptor(&descriptors)?;
        match order {
            Some((serial, order)) => self.order(serial, order),
            None => Ok(()),
        }
    }

    /// Passes an order on. A connection that is over by now needs none.
    fn order(&self, serial: RequestSerial, order: Order) -> Result<(), ChannelError> {
        let Some(line) = self.lines.get(&serial) else { return Ok(()) };
        match line.orders.try_send(order) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ChannelError::OutOfTurn(serial)),
        }
    }

    async fn fetch(&mut self, fetch: Fetch, page: File) -> Result<(), ChannelError> {
        if self.is_full(fetch.serial).await {
            return Ok(());
        }
        let (dialer, outbox) = (Arc::clone(&self.dialer), self.outbox.clone());
        self.fetches.start(fetch.serial, async move {
            outbox.send(&fetched(&dialer, fetch, page, &outbox).await).await
        })
    }

    async fn download(&mut self, order: Download, sink: OwnedFd) -> Result<(), ChannelError> {
        if self.is_full(order.serial).await {
            return Ok(());
        }
        let sink = stream_of(sink)?;
        let (dialer, outbox) = (Arc::clone(&self.dialer), self.outbox.clone());
        let serial = order.serial;
        self.fetches.start(serial, async move {
            let reply = match order.bring(&dialer, sink, &outbox).await {
                Ok(bytes) => EgressReply::Delivered { serial, bytes },
                Err(failure) => EgressReply::Failed { serial, failure },
            };
            outbox.send(&reply).await;
        })
    }

    /// Whether no further fetch or download may start; who asked is told so.
    async fn is_full(&self, serial: RequestSerial) -> bool {
        if !self.fetches.is_full() {
            return false;
        }
        let message = format!("{MAX_FETCHES_IN_FLIGHT} pages are being fetched already; try again later");
        let failure = ToolFailure::new(ToolFailureKind::LimitReached, message);
        self.outbox.send(&EgressReply::Failed { serial, failure }).await;
        true
    }

    async fn proxy(
        &mut self,
        serial: RequestSerial,
        time: Millis,
        program: OwnedFd,
    ) -> Result<(), ChannelError> {
        if self.proxied.is_full() {
            let message = format!("{MAX_PROXIED} connections are open already; try again later");
            let failure = ToolFailure::new(ToolFailureKind::LimitReached, message);
            self.outbox.send(&closed_at_once(serial, failure)).await;
            return Ok(());
        }
        let program = stream_of(program)?;
        let time = Duration::from_millis(time.0.min(PROXY_TIME_MS));
        let (orders, received) = mpsc::channel(WAITING_ORDERS);
        let (open, closed) = oneshot::channel();
        let (dialer, outbox) = (Arc::clone(&self.dialer), self.outbox.clone());
        let session = proxy::serve(dialer, outbox, (serial, time), program, received, closed);
        self.proxied.start(serial, session)?;
        self.lines.insert(serial, Line { orders, _open: open });
        Ok(())
    }
}

async fn fetched(dialer: &Dialer, fetch: Fetch, page: File, outbox: &Outbox) -> EgressReply {
    let Fetch { serial, url, max_bytes, hosts, public, time } = fetch;
    let milliseconds = time.0.min(WEB_FETCH_TIME_MS);
    let mut job = Job::new(dialer, hosts, public, max_bytes, page, Told { serial, outbox });
    match tokio::time::timeout(Duration::from_millis(milliseconds), job.fetch(&url)).await {
        Ok(Ok(page)) => EgressReply::Fetched {
            serial,
            status: page.status,
            content_type: page.content_type,
            final_url: page.final_url,
            bytes: page.bytes,
            truncated: page.truncated,
        },
        Ok(Err(failure)) => EgressReply::Failed { serial, failure },
        Err(_) => {
            let message = format!("{url} gave no complete answer within {milliseconds} ms");
            EgressReply::Failed { serial, failure: ToolFailure::new(ToolFailureKind::Timeout, message) }
        }
    }
}

fn stream_of(descriptor: OwnedFd) -> Result<UnixStream, ChannelError> {
    let stream = std::os::unix::net::UnixStream::from(descriptor);
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

fn no_descriptor(descriptors: &[OwnedFd]) -> Result<(), ChannelError> {
    match descriptors.len() {
        0 => Ok(()),
        found => Err(ChannelError::Descriptors { wanted: 0, found }),
    }
}
