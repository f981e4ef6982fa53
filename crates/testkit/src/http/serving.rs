//! A listening thread: accepts, reads requests, lets the script answer, writes.
//!
//! Invariant: dropping [`Serving`] closes the listener and every connection before it returns.

use super::wire::{Written, read_request, write_reply};
use super::{HttpRequest, Reply};
use crate::ledger::Ledger;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

type Handler = Arc<dyn Fn(HttpRequest) -> Reply + Send + Sync>;

/// A server that is running.
#[derive(Debug)]
pub(crate) struct Serving {
    address: SocketAddr,
    hangups: Ledger<()>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Listens on a free port of 127.0.0.1 and answers with `handler`.
    ///
    /// # Panics
    /// When this machine lets us have no loopback listener or thread.
    pub(crate) fn start(handler: impl Fn(HttpRequest) -> Reply + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("binds a loopback port");
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let hangups = Ledger::new();
        let (stop, stopped) = oneshot::channel();
        let handler: Handler = Arc::new(handler);
        let counter = hangups.clone();
        let thread = std::thread::Builder::new()
            .name("scripted-http".to_owned())
            .spawn(move || serve(listener, &handler, &counter, stopped))
            .expect("starts a thread");
        Self { address, hangups, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Clients that left while an answer was being withheld or was still going out.
    pub(crate) fn hangups(&self) -> &Ledger<()> {
        &self.hangups
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the scripted server's thread panicked");
        }
    }
}

fn serve(
    listener: std::net::TcpListener,
    handler: &Handler,
    hangups: &Ledger<()>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds a small runtime");
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener).expect("a non-blocking listener is taken over");
        tokio::select! {
            () = accept_all(&listener, handler, hangups) => {}
            _ = stopped => {}
        }
    });
}

async fn accept_all(listener: &TcpListener, handler: &Handler, hangups: &Ledger<()>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Over a connection that is kept, a second small piece would otherwise wait for the receipt of the first.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        tokio::spawn(converse(stream, Arc::clone(handler), hangups.clone()));
    }
}

/// Serves one connection until it closes; a client that breaks the protocol is simply dropped.
async fn converse(stream: TcpStream, handler: Handler, hangups: Ledger<()>) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = read_request(&mut stream).await {
        let is_last = request.header("connection") == Some("close");
        let mut reply = handler(request);
        if let Some(gate) = reply.gate.take() {
            let left = tokio::select! {
                () = gate.passed() => false,
                () = client_gone(&mut stream) => true,
            };
            if left {
                hangups.push(());
                return;
            }
        }
        match write_reply(&mut stream, reply).await {
            Ok(Written::KeepAlive) if is_last => return,
            Ok(Written::KeepAlive) => {}
            Ok(Written::Close) => return,
            Ok(Written::Withheld) => {
                client_gone(&mut stream).await;
                hangups.push(());
                return;
            }
            Err(_) => {
                hangups.push(());
                return;
            }
        }
    }
}

/// Resolves when the client has closed; what it still sends is thrown away.
async fn client_gone(stream: &mut BufReader<TcpStream>) {
    let mut waste = [0_u8; 1024];
    while let Ok(read) = stream.read(&mut waste).await {
        if read == 0 {
            return;
        }
    }
}
