//! Near end of one download: pieces of a large file, as the gateway passes them on.
//!
//! Invariants: nothing beyond the size is given to the caller, whatever the gateway sends; the end is told only with the
//! gateway's word for it and the count that it names; one that is dropped ends. What the bytes are is not looked at.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::capability::HostRule;
use aaos_core::limits::{DOWNLOAD_IDLE_MS, MAX_REDIRECTS};
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, EgressRequest, encode_frame};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::{Egress, GRACE, InFlight, gateway_lost, io_failure};

/// What is to be brought, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadOrder {
    /// Where it is.
    pub url: String,
    /// How much of it is there already.
    pub from: Bytes,
    /// How large it is.
    pub size: Bytes,
    /// Hosts that the URL and its redirects may name.
    pub hosts: Vec<HostRule>,
    /// Whether any public host may be named besides.
    pub public: bool,
}

/// A download that has begun.
#[derive(Debug)]
pub struct Download {
    flight: InFlight,
    stream: UnixStream,
    answer: oneshot::Receiver<EgressReply>,
    from: Bytes,
    size: Bytes,
    received: u64,
}

impl Egress {
    /// Begins a download for the operator's own command: no agent stands behind it, so there is no permit.
    ///
    /// # Errors
    /// [`ToolFailure`] where it does not begin.
    pub async fn download(&self, order: DownloadOrder) -> Result<Download, ToolFailure> {
        let DownloadOrder { url, from, size, hosts, public } = order;
        let (stream, far) = UnixStream::pair().map_err(|error| io_failure(&error))?;
        let far = far.into_std().map_err(|error| io_failure(&error))?;
        let (begun, begins) = oneshot::channel();
        let (serial, mut answer) = self.pending.enter(Arc::default(), Some(begun))?;
        let mut flight = InFlight { egress: self.clone(), serial, over: false };
        let request = EgressRequest::Download { serial, url, from, size, hosts, public };
        let frame = encode_frame(&request).map_err(|error| io_failure(&std::io::Error::other(error)))?;
        self.sender.send((frame, Some(OwnedFd::from(far)))).await.map_err(|_| gateway_lost())?;
        // Each hop of it may take as long as it may stand still.
        let hops = u32::try_from(MAX_REDIRECTS + 1).unwrap_or(u32::MAX);
        let limit = Duration::from_millis(DOWNLOAD_IDLE_MS) * hops + GRACE;
        match tokio::time::timeout(limit, begins).await.map_err(stood_still)? {
            Ok(begins) if begins == from || begins == Bytes::ZERO => {
                Ok(Download { flight, stream, answer, from: begins, size, received: 0 })
            }
            Ok(_) => Err(broke("it began where nobody asked it to")),
            Err(_) => {
                flight.over = true;
                match (&mut answer).await {
                    Ok(EgressReply::Failed { failure, .. }) => Err(failure),
                    _ => Err(gateway_lost()),
                }
            }
        }
    }
}

impl Download {
    /// Where in the file the first piece belongs: as was ordered, or at its beginning.
    #[must_use]
    pub const fn from(&self) -> Bytes {
        self.from
    }

    /// The next piece, at the beginning of `into`: its length, or 0 at the end of the file.
    ///
    /// # Errors
    /// [`ToolFailure`] where the rest does not come; what came is the file's as far as the source tells.
    pub async fn piece(&mut self, into: &mut [u8]) -> Result<usize, ToolFailure> {
        let limit = Duration::from_millis(DOWNLOAD_IDLE_MS) + GRACE;
        let read = tokio::time::timeout(limit, self.stream.read(into)).await.map_err(stood_still)?;
        let got = read.map_err(|error| io_failure(&error))?;
        self.received += got as u64;
        if self.received > self.size.0 - self.from.0 {
            return Err(broke("it sent more than the file has"));
        }
        if got > 0 {
            return Ok(got);
        }
        let answer = tokio::time::timeout(limit, &mut self.answer).await.map_err(stood_still)?;
        self.flight.over = true;
        match answer {
            Ok(EgressReply::Delivered { bytes, .. })
                if bytes.0 == self.received && self.from.0 + bytes.0 == self.size.0 =>
            {
                Ok(0)
            }
            Ok(EgressReply::Failed { failure, .. }) => Err(failure),
            Ok(_) => Err(broke("its count is not what came")),
            Err(_) => Err(gateway_lost()),
        }
    }
}

fn stood_still(_: tokio::time::error::Elapsed) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Timeout, "the egress gateway sent nothing more of the download")
}

fn broke(what: &str) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Network, format!("the egress gateway broke the protocol: {what}"))
}
