//! The proxy of a program: one request, over a stream that agentd made, to a host that agentd permits.
//!
//! Invariants: nothing is looked up or dialled before agentd has permitted the very host and port of the request; the
//! address is judged as that of a fetch, and nothing is looked up between the judgement and the connection; through a
//! tunnel to port 443 goes only TLS that names that host; each wait has a limit; every connection ends with one
//! `Closed` that says what moved.

mod head;
mod hello;
mod meter;
mod refusal;
mod relay;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::capability::HostRule;
use aaos_core::limits::PROXY_HEAD_MS;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, RequestSerial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::target::{HostName, Target};
use crate::channel::Outbox;
use crate::dial::Dialer;
use head::{Errand, Head, MAX_HEAD_BYTES};
use meter::Meter;
use refusal::Refusal;
use relay::{Upload, relay};

/// The port at which only TLS is let through.
const TLS_PORT: u16 = 443;
/// What a tunnel begins with.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// Bytes asked for in one read.
const READ_BYTES: usize = 4 * 1024;

/// What agentd says about an open connection.
#[derive(Debug)]
pub(super) enum Order {
    /// It may be made.
    Open { hosts: Vec<HostRule>, public: bool, lease: Bytes },
    /// It may not.
    Refuse(String),
    /// It may move more.
    Lease(Bytes),
}

/// How a connection ended that was not done.
#[derive(Debug)]
enum End {
    /// The program is told why.
    Refused(Refusal),
    /// It is cut.
    Cut(ToolFailure),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Cut(broke(error))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands where errors are mapped")]
fn broke(error: io::Error) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Network, format!("the program's connection broke: {error}"))
}

/// One connection, from its first byte to its last word.
pub(super) async fn serve(
    dialer: Arc<Dialer>,
    outbox: Outbox,
    (serial, time): (RequestSerial, Duration),
    program: UnixStream,
    mut orders: mpsc::Receiver<Order>,
    closed: oneshot::Receiver<()>,
) {
    let meter = Meter::new(serial, outbox.clone());
    let mut session =
        Session { dialer: &dialer, outbox: &outbox, serial, meter: &meter, orders: &mut orders };
    let failure = tokio::select! {
        ended = tokio::time::timeout(time, session.run(program)) => match ended {
            Ok(failure) => failure,
            Err(_) => {
                let message = format!("the connection was open for {} ms, its limit", time.as_millis());
                Some(ToolFailure::new(ToolFailureKind::Timeout, message))
            }
        },
        // The sender is dropped or used: either way the connection is not wanted any more.
        _ = closed => Some(ToolFailure::new(ToolFailureKind::Cancelled, "the permit was taken back")),
    };
    let (sent, received) = meter.moved();
    outbox.send(&EgressReply::Closed { serial, sent, received, failure }).await;
}

struct Session<'s> {
    dialer: &'s Dialer,
    outbox: &'s Outbox,
    serial: RequestSerial,
    meter: &'s Meter,
    orders: &'s mut mpsc::Receiver<Order>,
}

impl Session<'_> {
    async fn run(&mut self, mut program: UnixStream) -> Option<ToolFailure> {
        let opened = async {
            let Some((head, begun)) = read_head(&mut program).await? else { return Ok(None) };
            let host = self.open(&head.target).await?;
            Ok(Some((head, begun, host)))
        };
        match opened.await {
            Ok(None) => None,
            Ok(Some((head, begun, host))) => self.pass_on(program, head, begun, host).await.err(),
            Err(End::Cut(failure)) => Some(failure),
            Err(End::Refused(refusal)) => {
                // Whether or not the program still listens, this is why.
                let told = program.write_all(&refusal.answer()).await;
                let told = told.and(program.shutdown().await);
                Some(told.map_or_else(|_| refusal.failure(), |()| refusal.failure()))
            }
        }
    }

    /// Asks agentd, then looks up, judges and dials.
    async fn open(&mut self, target: &Target) -> Result<TcpStream, End> {
        let (host, port) = (target.host.plain(), target.port);
        self.outbox.send(&EgressReply::Wants { serial: self.serial, host, port }).await;
        let (hosts, public) = match self.orders.recv().await {
            Some(Order::Open { hosts, public, lease }) => {
                self.meter.lease(lease);
                (hosts, public)
            }
            Some(Order::Refuse(why)) => return Err(Refusal::Denied(why).into()),
            Some(Order::Lease(_)) | None => {
                let failure = ToolFailure::new(ToolFailureKind::Cancelled, "agentd gave no permit");
                return Err(End::Cut(failure));
            }
        };
        let denied = |failure: ToolFailure| Refusal::Denied(failure.message);
        let passage = target.authorise(&hosts, public).map_err(denied)?;
        let unreached = |failure: ToolFailure| Refusal::Unreachable(failure.message);
        let addresses = target.addresses(self.dialer, passage, &hosts).await.map_err(unreached)?;
        let connected = self.dialer.connect(&addresses).await;
        Ok(connected.map_err(|error| unreached(target.unreachable(&error)))?)
    }

    async fn pass_on(
        &mut self,
        mut program: UnixStream,
        head: Head,
        mut begun: Vec<u8>,
        host: TcpStream,
    ) -> Result<(), ToolFailure> {
        let upload = match head.errand {
            Errand::Tunnel => {
                program.write_all(ESTABLISHED).await.map_err(broke)?;
                if head.target.port == TLS_PORT {
                    check_hello(&mut program, &mut begun, &head.target.host).await?;
                }
                Upload::All(begun)
            }
            Errand::Request { head, body } => {
                begun.truncate(usize::try_from(body).unwrap_or(usize::MAX));
                let rest = body - begun.len() as u64;
                Upload::Body { head, begun, rest }
            }
        };
        relay(program, host, upload, self.meter, self.orders).await
    }
}

/// The head of the request and what came after it; `None` when the program left without a word.
async fn read_head(program: &mut UnixStream) -> Result<Option<(Head, Vec<u8>)>, End> {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            if let Some(length) = head::length(&bytes) {
                return Ok(Some(length));
            }
            if bytes.len() >= MAX_HEAD_BYTES {
                return Err(End::Refused(Refusal::TooLarge));
            }
            let room = MAX_HEAD_BYTES - bytes.len();
            if read_more(program, &mut bytes, room).await? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(cut_short().into()) };
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_millis(PROXY_HEAD_MS), reading).await;
    let Some(length) = read.map_err(|_| Refusal::Slow)?? else { return Ok(None) };
    let begun = bytes.split_off(length);
    Ok(Some((head::parse(&bytes)?, begun)))
}

fn cut_short() -> Refusal {
    Refusal::BadRequest("the request ends inside its head".to_owned())
}

async fn read_more(program: &mut UnixStream, bytes: &mut Vec<u8>, room: usize) -> io::Result<usize> {
    let mut piece = [0; READ_BYTES];
    let most = room.min(READ_BYTES);
    let count = program.read(&mut piece[..most]).await?;
    bytes.extend_from_slice(&piece[..count]);
    Ok(count)
}

/// Reads on until the program's first TLS message is complete, and holds the host that it names against the one that
/// was permitted. An address is named by nobody: TLS has no server name for one.
async fn check_hello(
    program: &mut UnixStream,
    begun: &mut Vec<u8>,
    host: &HostName,
) -> Result<(), ToolFailure> {
    let refused = |why: String| {
        ToolFailure::new(ToolFailureKind::Denied, format!("the connection to {host}:443 is refused: {why}"))
    };
    let reading = async {
        loop {
            if let Some(hello) = hello::read(begun).map_err(|error| refused(error.to_string()))? {
                return Ok(hello);
            }
            let read = read_more(program, begun, hello::MAX_HELLO_BYTES).await;
            match read {
                Ok(0) => return Err(refused("it ends inside its TLS client hello".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(refused(error.to_string())),
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_millis(PROXY_HEAD_MS), reading).await;
    let hello = read.map_err(|_| refused("its TLS client hello took too long".to_owned()))??;
    match (host, hello.server_name.as_deref()) {
        (HostName::Name(name), Some(named)) if name == named => Ok(()),
        (HostName::Address(_), None) => Ok(()),
        (_, None) => Err(refused("its TLS client hello names no host".to_owned())),
        (_, Some(named)) => Err(refused(format!("its TLS client hello names {named}"))),
    }
}
