//! Near end of a program's proxied connections: what the gateway asks, and what it is answered.
//!
//! Invariants: a connection has one serial for its whole life and at most `MAX_PROXIED` are open; a handle that is
//! dropped closes its connection; the last news of a connection is always its end, also when the gateway is lost or
//! says what was not due.

use std::os::fd::OwnedFd;

use aaos_core::capability::HostRule;
use aaos_core::connection::Connection;
use aaos_core::effect::Need;
use aaos_core::limits::MAX_PROXIED;
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, EgressRequest, RequestSerial, encode_frame};
use aaos_journal::Permit;
use rustix::net::SendFlags;
use tokio::sync::mpsc;

use super::{Egress, gateway_lost};

/// News that may wait for whoever drives a connection: the gateway waits for an answer after each.
const WAITING_NEWS: usize = 4;

/// What the gateway says of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyNews {
    /// The program wants to go there; nothing was looked up yet.
    Wants {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// What was leased is used up.
    Spent {
        /// Bytes to the host so far.
        sent: Bytes,
        /// Bytes from it so far.
        received: Bytes,
    },
    /// It is over, and this is what moved.
    Closed {
        /// Bytes to the host.
        sent: Bytes,
        /// Bytes from it.
        received: Bytes,
        /// Why, unless both sides were done.
        failure: Option<ToolFailure>,
    },
    /// The gateway is gone: it is over, and nobody knows what moved of what was leased.
    Lost,
}

/// One proxied connection, as agentd holds it.
#[derive(Debug)]
pub struct Proxied {
    egress: Egress,
    serial: RequestSerial,
    news: mpsc::Receiver<ProxyNews>,
    over: bool,
}

impl Egress {
    /// Hands the gateway its end of a program's connection, to be open for at most `time`.
    ///
    /// # Errors
    /// [`ToolFailure`] when the gateway is gone or has too many connections.
    pub async fn proxy(&self, program: OwnedFd, time: Millis) -> Result<Proxied, ToolFailure> {
        let (sender, news) = mpsc::channel(WAITING_NEWS);
        let serial = self.pending.enter_proxied(sender)?;
        let proxied = Proxied { egress: self.clone(), serial, news, over: false };
        let frame = encode_frame(&EgressRequest::Proxy { serial, time }).map_err(|_| gateway_lost())?;
        self.sender.send((frame, Some(program))).await.map_err(|_| gateway_lost())?;
        Ok(proxied)
    }
}

impl Proxied {
    /// What the gateway says next. After the end of the connection that end again.
    pub async fn news(&mut self) -> ProxyNews {
        if self.over {
            return ProxyNews::Lost;
        }
        let news = self.news.recv().await.unwrap_or(ProxyNews::Lost);
        self.over = matches!(news, ProxyNews::Closed { .. } | ProxyNews::Lost);
        news
    }

    /// Lets it go where the permit says, and move as much as that leases.
    pub async fn open(&self, permit: &Permit<Connection>) {
        let access = permit.all().iter().find(|access| matches!(access.need, Need::Host { .. }));
        let (hosts, public) = access.map_or((Vec::new(), false), |one| (one.hosts.clone(), one.public));
        self.open_under(hosts, public, permit.effect().lease).await;
    }

    pub(crate) async fn open_under(&self, hosts: Vec<HostRule>, public: bool, lease: Bytes) {
        self.say(EgressRequest::Open { serial: self.serial, hosts, public, lease }).await;
    }

    /// Does not let it.
    pub async fn refuse(&self, why: String) {
        self.say(EgressRequest::Refuse { serial: self.serial, why }).await;
    }

    /// Lets it move as much more as the permit leases.
    pub async fn lease(&self, permit: &Permit<Connection>) {
        self.lease_more(permit.effect().lease).await;
    }

    pub(crate) async fn lease_more(&self, bytes: Bytes) {
        self.say(EgressRequest::Lease { serial: self.serial, bytes }).await;
    }

    /// Cuts it; its end is news yet.
    pub async fn close(&self) {
        self.say(EgressRequest::Close { serial: self.serial }).await;
    }

    /// With the gateway gone nobody hears it, and the next news says so.
    async fn say(&self, request: EgressRequest) {
        let frame = encode_frame(&request)
            .unwrap_or_else(|error| unreachable!("rules of a grant are far below a frame: {error}"));
        if self.egress.sender.send((frame, None)).await.is_err() {
            tracing::debug!(serial = self.serial.0, "an order for a connection of a lost gateway");
        }
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.egress.pending.forget_proxied(self.serial);
        let close = encode_frame(&EgressRequest::Close { serial: self.serial });
        let told = close.is_ok_and(|frame| self.egress.sender.try_send((frame, None)).is_ok());
        if !told {
            tracing::debug!(serial = self.serial.0, "a proxied connection ends at its own time limit");
        }
    }
}

/// Tells a program, as a proxy does, that its connection is not made now, and why: short words of the runtime's own. For
/// connections that the gateway never gets; nothing that the program said is read.
pub fn tell_unavailable(program: &OwnedFd, why: &str) {
    let length = why.len() + 1;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
        connection: close\r\n\r\n{why}\n"
    );
    // It is the first that is said there, and far less than a socket holds.
    let sent = rustix::net::send(program, answer.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    if sent != Ok(answer.len()) {
        tracing::debug!(?sent, "a program was not told to the end why it gets no connection");
    }
}

/// What an answer is news of; `None` for those about pages.
pub(super) fn news_of(reply: EgressReply) -> Option<(RequestSerial, ProxyNews)> {
    match reply {
        EgressReply::Wants { serial, host, port } => Some((serial, ProxyNews::Wants { host, port })),
        EgressReply::Spent { serial, sent, received } => Some((serial, ProxyNews::Spent { sent, received })),
        EgressReply::Closed { serial, sent, received, failure } => {
            Some((serial, ProxyNews::Closed { sent, received, failure }))
        }
        EgressReply::Locked(_)
        | EgressReply::Fetched { .. }
        | EgressReply::Delivering { .. }
        | EgressReply::Delivered { .. }
        | EgressReply::Failed { .. }
        | EgressReply::Redirected { .. } => None,
    }
}

pub(super) fn too_many() -> ToolFailure {
    let message = format!("{MAX_PROXIED} connections of programs are open; try again when one has ended");
    ToolFailure::new(ToolFailureKind::LimitReached, message)
}
