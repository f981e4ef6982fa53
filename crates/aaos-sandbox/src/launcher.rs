//! Agentd's conversation with the zygote.
//!
//! Invariants: one task reads, so news is handled in the order in which it happened; every order is one
//! packet, sent whole or not at all; when the zygote is gone, everybody who waits on it is told.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_confine::control::{CONTROL_BYTES, MAX_CONTROL_DESCRIPTORS, News, Order, Serial};
use aaos_confine::namespaces::Abilities;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use crate::error::SandboxError;
use crate::process::ExitStatus;

/// The control socket and who waits for what.
#[derive(Debug)]
pub(crate) struct Launcher {
    socket: AsyncFd<OwnedFd>,
    waiting: Mutex<HashMap<Serial, Waiting>>,
    last: AtomicU32,
    abilities: watch::Sender<Option<Abilities>>,
    gone: watch::Sender<bool>,
}

/// Who waits for one far process.
#[derive(Debug)]
struct Waiting {
    launched: Option<oneshot::Sender<io::Result<u32>>>,
    ended: watch::Sender<Option<ExitStatus>>,
}

/// What a launch gives its caller to wait for.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) serial: Serial,
    /// Its pid in the zygote's PID namespace.
    pub(crate) launched: oneshot::Receiver<io::Result<u32>>,
    pub(crate) ended: watch::Receiver<Option<ExitStatus>>,
}

impl Launcher {
    /// Takes over the control socket; inside a tokio runtime.
    pub(crate) fn new(control: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&control, true)?;
        // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives.
        let socket = unsafe { AsyncFd::register(control) }.map_err(|error| error.into_parts().1)?;
        Ok(Self {
            socket,
            waiting: Mutex::new(HashMap::new()),
            last: AtomicU32::new(0),
            abilities: watch::Sender::new(None),
            gone: watch::Sender::new(false),
        })
    }

    /// What this machine gives, once the zygote has found out; `None` until then.
    pub(crate) fn abilities(&self) -> watch::Receiver<Option<Abilities>> {
        self.abilities.subscribe()
    }

    /// Becomes true when the zygote is gone.
    pub(crate) fn gone(&self) -> watch::Receiver<bool> {
        self.gone.subscribe()
    }

    /// Registers a launch before it is ordered.
    pub(crate) fn expect(&self) -> Expected {
        let serial = Serial(self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        let (launched_sender, launched) = oneshot::channel();
        let (ended_sender, ended) = watch::channel(None);
        let waiting = Waiting { launched: Some(launched_sender), ended: ended_sender };
        let earlier = self.waiting().insert(serial, waiting);
        assert!(earlier.is_none(), "a serial number names one process");
        Expected { serial, launched, ended }
    }

    /// Sends an order and its descriptors.
    pub(crate) async fn order(
        &self,
        order: Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SandboxError> {
        assert!(order.takes(descriptors.len()), "each order has its descriptors");
        self.socket
            .async_io(Interest::WRITABLE, |socket| send(socket, order, descriptors))
            .await
            .map_err(|_| SandboxError::ZygoteGone)
    }

    /// Sends an order without descriptors, at once. If the socket is full or gone, the closed channel of the
    /// process that was to be killed ends it.
    pub(crate) fn order_now(&self, order: Order) {
        assert_eq!(order.descriptors(), 0, "only plain orders are sent at once");
        drop(send(self.socket.get_ref(), order, &[]));
    }

    /// Tells the zygote to end everything.
    pub(crate) fn hang_up(&self) {
        // It fails only where the zygote hung up first.
        drop(
            rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Write)
                .map_err(io::Error::from),
        );
    }

    /// Hears the zygote's news until it is gone.
    pub(crate) async fn listen(self: Arc<Self>) {
        while let Some(news) = self.next_news().await {
            self.handle(news);
        }
        self.everything_ended();
    }

    /// Tells everybody that the zygote, and all it made, is gone.
    pub(crate) fn everything_ended(&self) {
        self.waiting().clear();
        self.gone.send_replace(true);
    }

    async fn next_news(&self) -> Option<News> {
        let received = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                let mut bytes = [0; CONTROL_BYTES + 1];
                let (got, _) = recv(socket, bytes.as_mut_slice(), RecvFlags::DONTWAIT)?;
                Ok(bytes.get(..got).and_then(News::decode))
            })
            .await;
        // A socket error, the end and a broken packet all mean that this zygote is of no more use.
        received.unwrap_or(None)
    }

    fn handle(&self, news: News) {
        match news {
            News::Ready(abilities) => {
                self.abilities.send_replace(Some(abilities));
            }
            News::Launched(serial, pid) => self.answer(serial, Ok(pid)),
            News::Failed(serial, errno) => {
                self.answer(serial, Err(io::Error::from_raw_os_error(errno)));
                self.waiting().remove(&serial);
            }
            News::Ended(serial, status) => {
                if let Some(waiting) = self.waiting().remove(&serial) {
                    waiting.ended.send_replace(Some(ExitStatus(status)));
                }
            }
        }
    }

    fn answer(&self, serial: Serial, answer: io::Result<u32>) {
        let sender = self.waiting().get_mut(&serial).and_then(|waiting| waiting.launched.take());
        if let Some(sender) = sender {
            // Nobody listens any more when the launch was given up; its process is ended by its closed
            // channel.
            drop(sender.send(answer));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Serial, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(socket: &OwnedFd, order: Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = order.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_CONTROL_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "the control buffer is made for the largest order");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
    assert_eq!(sent, bytes.len(), "a packet is sent whole");
    Ok(())
}
