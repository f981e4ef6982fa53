//! Bytes both ways between a program and the host that it may reach.
//!
//! Invariants: each way holds at most [`PIECE`] bytes; what is passed on is paid for first; a connection on which
//! nothing moves for [`PROXY_IDLE_MS`] ends.

use std::io;
use std::time::Duration;

use aaos_core::limits::PROXY_IDLE_MS;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::Order;
use super::meter::{Meter, Way};

/// Most bytes that wait in one direction.
const PIECE: usize = 16 * 1024;

/// What is passed on to the host.
#[derive(Debug)]
pub(super) enum Upload {
    /// Everything the program sends, after what it has sent already.
    All(Vec<u8>),
    /// This head, which was written here; then what the program has sent already, and that many more bytes.
    Body { head: Vec<u8>, begun: Vec<u8>, rest: u64 },
}

/// Passes bytes on until both sides are done, taking further leases meanwhile.
///
/// # Errors
/// [`ToolFailure`] when the connection breaks, stands still, or agentd is gone.
pub(super) async fn relay(
    program: UnixStream,
    host: TcpStream,
    upload: Upload,
    meter: &Meter,
    orders: &mut mpsc::Receiver<Order>,
) -> Result<(), ToolFailure> {
    // A person may have been asked meanwhile: its time begins now.
    meter.begin();
    let moving = move_both(program, host, upload, meter);
    tokio::pin!(moving);
    let idle = Duration::from_millis(PROXY_IDLE_MS);
    loop {
        let still_until = meter.last_moved() + idle;
        tokio::select! {
            moved = &mut moving => {
                return moved.map_err(|error| ToolFailure::new(
                    ToolFailureKind::Network, format!("the connection was cut: {error}")));
            }
            order = orders.recv() => match order {
                Some(Order::Lease(bytes)) => meter.lease(bytes),
                Some(Order::Open { .. } | Order::Refuse(_)) | None => {
                    return Err(ToolFailure::new(ToolFailureKind::Cancelled, "the permit was taken back"));
                }
            },
            () = tokio::time::sleep_until(still_until) => {
                if meter.last_moved() + idle <= tokio::time::Instant::now() {
                    let message = format!("nothing moved for {PROXY_IDLE_MS} ms");
                    return Err(ToolFailure::new(ToolFailureKind::Timeout, message));
                }
            }
        }
    }
}

async fn move_both(program: UnixStream, host: TcpStream, upload: Upload, meter: &Meter) -> io::Result<()> {
    let (from_program, mut to_program) = program.into_split();
    let (from_host, mut to_host) = host.into_split();
    let down = async {
        pump(from_host, &mut to_program, meter, Way::In).await?;
        to_program.shutdown().await
    };
    match upload {
        Upload::All(begun) => {
            let up = async {
                write_paid(&begun, &mut to_host, meter, Way::Out).await?;
                pump(from_program, &mut to_host, meter, Way::Out).await?;
                to_host.shutdown().await
            };
            tokio::try_join!(up, down).map(|((), ())| ())
        }
        Upload::Body { head, begun, rest } => {
            let up = async {
                write_paid(&head, &mut to_host, meter, Way::Out).await?;
                write_paid(&begun, &mut to_host, meter, Way::Out).await?;
                pump(from_program.take(rest), &mut to_host, meter, Way::Out).await
            };
            tokio::pin!(up, down);
            tokio::select! {
                // An answer may come before the body is through, or instead of it.
                answered = &mut down => answered,
                _sent = &mut up => down.await,
            }
        }
    }
}

async fn pump(
    reader: impl AsyncRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
    way: Way,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(PIECE, reader);
    loop {
        let waiting = reader.fill_buf().await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let paid = meter.pay(waiting.len(), way).await;
        writer.write_all(&waiting[..paid]).await?;
        reader.consume(paid);
    }
}

async fn write_paid(
    mut bytes: &[u8],
    writer: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
    way: Way,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let paid = meter.pay(bytes.len(), way).await;
        writer.write_all(&bytes[..paid]).await?;
        bytes = &bytes[paid..];
    }
    Ok(())
}
