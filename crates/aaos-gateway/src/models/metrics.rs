//! Metrics for Prometheus, over a listener that agentd opened and handed over.
//!
//! agentd counts, because only it knows of waits, costs and models of this machine; here the figures are asked for and
//! written down when somebody reads them.
//!
//! Invariants: whoever connects is a stranger: connections, their time and what is read of them are bounded, and nothing
//! that they send is passed on. agentd is asked once at a time and not in a rush. Labels are providers, models and reasons,
//! which are configured or bounded in number; nothing of an agent, a goal or a conversation is known here.

mod text;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aaos_core::observe::Snapshot;
use aaos_core::wire::{ModelsReply, RequestSerial};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::channel::Outbox;

/// Most connections at once; a further one is closed.
const MAX_READERS: usize = 8;
/// Time for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// Time for a whole connection.
const READER_TIME: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 32;
/// Figures of this age are shown as they are.
const FRESH: Duration = Duration::from_millis(50);
/// Time for agentd to bring newer ones.
const NEWER_TIME: Duration = Duration::from_secs(2);
/// Rest after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Of the text format of Prometheus.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What agentd showed last, and whom to ask for more.
#[derive(Debug, Default)]
pub(super) struct Board {
    shown: watch::Sender<Option<Shown>>,
    /// The request that waits to be answered when newer figures are wanted.
    waiting: Mutex<Option<(RequestSerial, Outbox)>>,
}

#[derive(Debug, Clone)]
struct Shown {
    at: Instant,
    snapshot: Arc<Snapshot>,
}

impl Board {
    /// Takes what agentd shows.
    pub(super) fn post(&self, serial: RequestSerial, snapshot: Snapshot, outbox: &Outbox) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some((serial, outbox.clone()));
        self.shown.send_replace(Some(Shown { at: Instant::now(), snapshot: Arc::new(snapshot) }));
    }

    /// Figures as they are now; none where agentd does not bring them in time.
    async fn fresh(&self) -> Option<Arc<Snapshot>> {
        let mut shown = self.shown.subscribe();
        let last = shown.borrow_and_update().clone();
        if let Some(last) = last.filter(|last| last.at.elapsed() < FRESH) {
            return Some(last.snapshot);
        }
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((serial, outbox)) = waiting {
            // It goes out whatever becomes of this reader, which has taken the only request that can be answered.
            tokio::spawn(async move { outbox.send(&ModelsReply::Wanted { serial }).await });
        }
        timeout(NEWER_TIME, shown.changed()).await.ok()?.ok()?;
        let newer = shown.borrow();
        newer.as_ref().map(|shown| Arc::clone(&shown.snapshot))
    }
}

/// Serves whoever connects, for as long as the process lives.
pub(super) async fn serve(listener: TcpListener, board: Arc<Board>) {
    let places = Arc::new(Semaphore::new(MAX_READERS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let board = Arc::clone(&board);
        drop(tokio::spawn(async move {
            let _place = place;
            // A reader that is too slow, or speaks no HTTP, is told nothing more.
            drop(timeout(READER_TIME, converse(stream, &board)).await);
        }));
    }
}

async fn converse(stream: TcpStream, board: &Board) -> Result<(), hyper::Error> {
    let answer = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, board).await) });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

async fn answer(request: &Request<Incoming>, board: &Board) -> Response<Full<Bytes>> {
    // A page in a browser of this machine reaches loopback under a name of its own.
    if !names_loopback(request.headers().get(HOST).and_then(|host| host.to_str().ok())) {
        return plain(StatusCode::MISDIRECTED_REQUEST, "ask for it as 127.0.0.1 or localhost\n");
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is only /metrics\n");
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "it can only be read\n");
    }
    match board.fresh().await {
        Some(snapshot) => plain(StatusCode::OK, text::written(&snapshot)),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "agentd does not say how it stands\n"),
    }
}

fn names_loopback(host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(TEXT_FORMAT));
    response
}

#[cfg(test)]
mod tests {
    use super::names_loopback;

    #[test]
    fn only_loopback_is_asked_for() {
        for good in ["127.0.0.1", "127.0.0.1:9464", "localhost:1", "LOCALHOST", "[::1]:9464", "[::1]"] {
            assert!(names_loopback(Some(good)), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "127.0.0.1.evil:80",
        ] {
            assert!(!names_loopback(Some(bad)), "{bad}");
        }
        assert!(!names_loopback(None));
    }
}
