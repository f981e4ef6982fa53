//! The connection to the gateway: one task writes, one reads, requests are told apart by serial number.
//!
//! Invariants: the table of open requests is bounded; a request leaves it when it ends or is dropped, and one
//! that was written and is dropped before its end is cancelled in the gateway. A request that was dropped
//! before it was written is never written. The connection is lost once; from then on every request fails at
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_core::limits::MAX_QUEUED_INFERENCES;
use aaos_core::wire::{
    FRAME_HEADER_BYTES, FrameError, ModelsReply, ModelsRequest, RequestSerial, decode_frame, encode_frame,
    frame_length,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::error::LlmError;
use crate::inbox::{Arrival, Ending, Inbox};

/// Frames that wait for the writer.
const OUTBOX_FRAMES: usize = 4;

/// Handle on the connection. The tasks end with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    outbox: mpsc::Sender<Outgoing>,
    _tasks: Arc<Tasks>,
}

#[derive(Debug)]
struct Outgoing {
    serial: RequestSerial,
    frame: Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    /// Rings when there is something to cancel.
    cancel: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<RequestSerial, Open>,
    cancelled: BTreeSet<RequestSerial>,
    lost: Option<String>,
}

#[derive(Debug)]
struct Open {
    inbox: Arc<Inbox>,
    /// Set, with the table locked, before the first byte leaves.
    written: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Link {
    /// Starts the two tasks; needs a runtime.
    pub(crate) fn start<R, W>(reader: R, writer: W) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared::default());
        let (outbox, frames) = mpsc::channel(OUTBOX_FRAMES);
        let writing = tokio::spawn(write(writer, frames, Arc::clone(&shared)));
        let reading = tokio::spawn(read(reader, Arc::clone(&shared)));
        Self { shared, outbox, _tasks: Arc::new(Tasks(vec![writing, reading])) }
    }

    /// Whether both are handles on one connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether the connection is lost, which it stays.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.lock().lost.is_some()
    }

    /// Whether no request is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.lock().open.is_empty()
    }

    /// Sends one request.
    pub(crate) async fn send(
        &self,
        request: impl FnOnce(RequestSerial) -> ModelsRequest + Send,
    ) -> Result<InFlight, LlmError> {
        let in_flight = self.open()?;
        let frame = encode_frame(&request(in_flight.serial)).map_err(LlmError::Unsendable)?;
        let outgoing = Outgoing { serial: in_flight.serial, frame };
        if self.outbox.send(outgoing).await.is_err() {
            return Err(self.shared.lost_error());
        }
        Ok(in_flight)
    }

    fn open(&self) -> Result<InFlight, LlmError> {
        let mut table = self.shared.lock();
        if let Some(reason) = &table.lost {
            return Err(LlmError::Lost { reason: reason.clone() });
        }
        if table.open.len() >= MAX_QUEUED_INFERENCES {
            return Err(LlmError::Busy);
        }
        let serial = RequestSerial(table.next);
        table.next += 1;
        let inbox = Arc::new(Inbox::default());
        let written = Arc::new(AtomicBool::new(false));
        let open = Open { inbox: Arc::clone(&inbox), written: Arc::clone(&written) };
        let earlier = table.open.insert(serial, open);
        assert!(earlier.is_none(), "serial numbers are used once");
        Ok(InFlight { link: self.clone(), serial, inbox, written })
    }
}

/// One open request; dropping it cancels it.
#[derive(Debug)]
pub(crate) struct InFlight {
    link: Link,
    serial: RequestSerial,
    inbox: Arc<Inbox>,
    written: Arc<AtomicBool>,
}

impl InFlight {
    /// Takes the request back if it was not written yet: then the gateway will never see it. Otherwise false.
    pub(crate) fn withdraw(&self) -> bool {
        let mut table = self.link.shared.lock();
        let unwritten = !self.written.load(Ordering::Relaxed);
        if unwritten {
            table.open.remove(&self.serial);
        }
        unwritten
    }

    /// The next thing the gateway says about it.
    pub(crate) async fn next(&self) -> Arrival {
        self.inbox.next().await
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut table = self.link.shared.lock();
        let Some(open) = table.open.remove(&self.serial) else { return };
        if open.written.load(Ordering::Relaxed) && table.lost.is_none() {
            table.cancelled.insert(self.serial);
            drop(table);
            self.link.shared.cancel.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost_error(&self) -> LlmError {
        let reason = self.lock().lost.clone().unwrap_or_else(|| "its connection is closed".to_owned());
        LlmError::Lost { reason }
    }

    /// Notes the loss and ends every open request.
    fn lose(&self, reason: &str) {
        let mut table = self.lock();
        if table.lost.is_none() {
            table.lost = Some(reason.to_owned());
        }
        table.cancelled.clear();
        let open = std::mem::take(&mut table.open);
        drop(table);
        for open in open.into_values() {
            open.inbox.put_end(Ending::Lost { reason: reason.to_owned() });
        }
    }

    /// Whether this request is still wanted; from now on it counts as written.
    fn mark_written(&self, serial: RequestSerial) -> bool {
        self.lock().open.get(&serial).map(|open| open.written.store(true, Ordering::Relaxed)).is_some()
    }

    fn next_cancelled(&self) -> Option<RequestSerial> {
        self.lock().cancelled.pop_first()
    }

    fn inbox_of(&self, serial: RequestSerial) -> Option<Arc<Inbox>> {
        self.lock().open.get(&serial).map(|open| Arc::clone(&open.inbox))
    }

    /// Hands a reply to its request. Replies to requests that are no longer open are dropped: a cancel and an
    /// answer may cross.
    fn deliver(&self, reply: ModelsReply) -> Result<(), &'static str> {
        let (serial, end) = match reply {
            ModelsReply::Locked(_) => return Err("it said twice that it is locked"),
            ModelsReply::Begun { serial, pace } => {
                if let Some(inbox) = self.inbox_of(serial) {
                    inbox.put_begun(pace);
                }
                return Ok(());
            }
            ModelsReply::Delta { serial, text } => {
                if let Some(inbox) = self.inbox_of(serial) {
                    inbox.put_delta(&text);
                }
                return Ok(());
            }
            ModelsReply::Done { serial, reply, measured } => (serial, Ending::Done(reply, measured)),
            ModelsReply::Failed { serial, failure } => (serial, Ending::Failed(failure)),
            ModelsReply::Described { serial, providers } => (serial, Ending::Described(providers)),
            ModelsReply::Wanted { serial } => (serial, Ending::Wanted),
            ModelsReply::Exported { serial, fate } => (serial, Ending::Exported(fate)),
            ModelsReply::Probed { serial, standing } => (serial, Ending::Probed(standing)),
        };
        let open = self.lock().open.remove(&serial);
        if let Some(open) = open {
            open.inbox.put_end(end);
        }
        Ok(())
    }
}

async fn write<W: AsyncWrite + Unpin>(
    mut stream: W,
    mut frames: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
) {
    loop {
        while let Some(serial) = shared.next_cancelled() {
            let cancel = encode_frame(&ModelsRequest::Cancel { serial });
            let cancel = cancel.unwrap_or_else(|_| unreachable!("a cancel is a small frame"));
            if let Err(error) = stream.write_all(&cancel).await {
                return shared.lose(&error.to_string());
            }
        }
        tokio::select! {
            biased;
            () = shared.cancel.notified() => {}
            outgoing = frames.recv() => {
                let Some(Outgoing { serial, frame }) = outgoing else { return };
                if shared.mark_written(serial) && let Err(error) = stream.write_all(&frame).await {
                    return shared.lose(&error.to_string());
                }
            }
        }
    }
}

async fn read<R: AsyncRead + Unpin>(stream: R, shared: Arc<Shared>) {
    let mut stream = BufReader::new(stream);
    loop {
        let delivered = match read_frame(&mut stream).await {
            Ok(reply) => shared.deliver(reply).map_err(ToOwned::to_owned),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = delivered {
            return shared.lose(&reason);
        }
    }
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("its connection ended: {0}")]
    Stream(#[from] std::io::Error),
    #[error("it sent an unreadable frame: {0}")]
    Frame(#[from] FrameError),
}

async fn read_frame<R: AsyncRead + Unpin>(stream: &mut BufReader<R>) -> Result<ModelsReply, ReadError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; frame_length(header)?];
    stream.read_exact(&mut body).await?;
    Ok(decode_frame(&body)?)
}
