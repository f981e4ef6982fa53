//! The `egress` role: fetches pages for agents, without keys.
//!
//! Invariants: every hop of every fetch is authorised before a name is asked for and its address checked before
//! a connection is made to exactly that address; no cookie, credential or compression is offered; a body never
//! exceeds its cap and lies only in the memfd that agentd sent; each fetch has a time limit.

pub mod address;
mod fetch;
pub mod target;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::limits::WEB_FETCH_TIME_MS;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, EgressRequest};
use tokio::net::UnixStream;

use crate::channel::{ChannelError, Descriptors, FrameReader, Outbox, Received, Running, only_descriptor};
use crate::dial::Dialer;
use fetch::Job;

/// Most fetches at once.
const MAX_RUNNING: usize = 64;

/// Serves agentd until the channel ends.
///
/// # Errors
/// [`ChannelError`] when agentd says something that it never should; the process is then of no more use.
pub async fn serve(stream: UnixStream, dialer: Dialer) -> Result<(), ChannelError> {
    let dialer = Arc::new(dialer);
    let (input, output) = stream.into_split();
    let mut reader = FrameReader::new(input, Descriptors::Accepted);
    let outbox = Outbox::start(output);
    let mut running = Running::new(MAX_RUNNING);
    loop {
        tokio::select! {
            received = reader.next::<EgressRequest>() => match received? {
                None => return Ok(()),
                Some(received) => take(received, &dialer, &outbox, &mut running).await?,
            },
            ended = running.ended() => {
                if let Some(serial) = ended {
                    let failure = ToolFailure::new(ToolFailureKind::Network,
                        "the gateway made a mistake with this page; this is a bug in aaOS");
                    outbox.send(&EgressReply::Failed { serial, failure }).await;
                }
            }
        }
    }
}

async fn take(
    received: Received<EgressRequest>,
    dialer: &Arc<Dialer>,
    outbox: &Outbox,
    running: &mut Running,
) -> Result<(), ChannelError> {
    let (serial, url, max_bytes, hosts, public, time) = match received.message {
        EgressRequest::Cancel { serial } => {
            running.cancel(serial);
            return no_descriptor(&received.descriptors);
        }
        EgressRequest::Fetch { serial, url, max_bytes, hosts, public, time } => {
            (serial, url, max_bytes, hosts, public, time)
        }
    };
    let page = File::from(only_descriptor(received.descriptors)?);
    if running.is_full() {
        let failure = ToolFailure::new(
            ToolFailureKind::LimitReached,
            format!("{MAX_RUNNING} pages are being fetched already; try again later"),
        );
        outbox.send(&EgressReply::Failed { serial, failure }).await;
        return Ok(());
    }
    let (dialer, outbox) = (Arc::clone(dialer), outbox.clone());
    let milliseconds = time.0.min(WEB_FETCH_TIME_MS);
    running.start(serial, async move {
        let mut job = Job::new(&dialer, hosts, public, max_bytes, page);
        let limit = Duration::from_millis(milliseconds);
        let reply = match tokio::time::timeout(limit, job.fetch(&url)).await {
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
        };
        outbox.send(&reply).await;
    })
}

fn no_descriptor(descriptors: &[std::os::fd::OwnedFd]) -> Result<(), ChannelError> {
    match descriptors.len() {
        0 => Ok(()),
        found => Err(ChannelError::Descriptors { wanted: 0, found }),
    }
}
