//! Servers that never come to an end: each fetch ends at a limit, and the server is let go.
//!
//! Invariant: a server of this file writes until its client has hung up, so its end is the proof of that.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::{Egress, LONG};
use aaos_core::limits::MAX_WEB_FETCH_BYTES;
use aaos_core::quantity::Millis;
use aaos_core::toolio::ToolFailureKind;
use aaos_core::wire::EgressReply;
use testkit::{Page, WebServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

async fn asked(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.expect("the gateway connects");
    let mut request = [0; 1024];
    assert!(stream.read(&mut request).await.expect("a request") > 0);
    stream
}

/// Answers one request with `start` and then `piece` again and again, until the client has hung up.
async fn endless(start: String, piece: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        let mut stream = asked(&listener).await;
        let mut pieces = start.into_bytes();
        pieces.extend(piece.repeat(1000).into_bytes());
        while stream.write_all(&pieces).await.is_ok() {
            pieces = piece.repeat(1000).into_bytes();
        }
    });
    (address, serving)
}

async fn ended(serving: JoinHandle<()>) {
    let ended = tokio::time::timeout(testkit::PATIENCE, serving).await;
    ended.expect("the gateway hung up").expect("no panic");
}

#[tokio::test]
async fn a_body_without_end_is_cut_at_its_cap() {
    const CAP: u64 = 50_000;
    let headed = |header: &str| format!("{OK}{header}\r\n\r\n");
    for (start, piece) in [
        (CHUNKED.to_owned(), "10\r\n0123456789abcdef\r\n"),
        (CHUNKED.to_owned(), "1\r\nx\r\n"),
        (CHUNKED.to_owned(), "0001\r\nx\r\n"),
        (format!("{CHUNKED}ffffffffffffffff\r\n"), "0123456789abcdef"),
        (headed("content-length: 9007199254740991"), "0123456789abcdef"),
        (headed("connection: close"), "0123456789abcdef"),
        ("HTTP/1.0 200 OK\r\n\r\n".to_owned(), "0123456789abcdef"),
    ] {
        let (address, serving) = endless(start.clone(), piece).await;
        let mut egress = Egress::start();
        let url = format!("http://{address}/");
        let page = egress.fetch_up_to(&url, &[&address.to_string()], false, CAP).await;
        let page = page.unwrap_or_else(|failure| panic!("{start:?}: {failure}"));
        assert_eq!((page.1.len() as u64, page.3), (CAP, true), "{start:?}");
        ended(serving).await;
    }
}

#[tokio::test]
async fn a_head_or_a_frame_without_end_is_a_failure() {
    for (start, piece) in [
        (OK.to_owned(), "x: y\r\n"),
        (format!("{OK}x: "), "yyyyyyyyyyyyyyyy"),
        (OK.to_owned(), "yyyyyyyyyyyyyyyy"),
        ("HTTP/1.1 200 ".to_owned(), "OKOKOKOKOKOKOKOK"),
        (String::new(), "yyyyyyyyyyyyyyyy"),
        (format!("{OK}content-length: "), "9999999999999999"),
        (format!("{CHUNKED}fffffffffffffffff\r\n"), "0123456789abcdef"),
        (format!("{CHUNKED}1;"), "extension=extension;"),
        (format!("{CHUNKED}0\r\n"), "trailer: trailer\r\n"),
        (format!("{CHUNKED}0\r\nt: "), "yyyyyyyyyyyyyyyy"),
    ] {
        let (address, serving) = endless(start.clone(), piece).await;
        let mut egress = Egress::start();
        let url = format!("http://{address}/");
        let failure = egress.fetch(&url, &[&address.to_string()], false).await.expect_err(&start);
        assert_eq!(failure.kind, ToolFailureKind::Network, "{start:?}: {failure}");
        assert!(failure.message.len() < 500, "{failure}");
        ended(serving).await;
    }
}

#[tokio::test]
async fn what_keeps_busy_without_saying_anything_ends_at_the_time_limit() {
    for (start, piece) in [
        (String::new(), "HTTP/1.1 100 Continue\r\n\r\n"),
        (String::new(), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
        (CHUNKED.to_owned(), "0000000000000000"),
    ] {
        let (address, serving) = endless(start.clone(), piece).await;
        let mut egress = Egress::start();
        let url = format!("http://{address}/");
        let _page = egress.begin(&url, &[&address.to_string()], false, 1000, Millis(50)).await;
        let EgressReply::Failed { failure, .. } = egress.near.receive().await else { panic!("{piece:?}") };
        assert_eq!(failure.kind, ToolFailureKind::Timeout, "{piece:?}: {failure}");
        ended(serving).await;
    }
}

/// Moves the paused clock on in small steps, so that no step jumps over what the others do meanwhile.
pub(crate) fn small_steps() {
    tokio::spawn(async {
        let mut step = tokio::time::interval(Duration::from_millis(5));
        loop {
            step.tick().await;
        }
    });
}

/// Answers one request with `start` and then a byte a second, until the client has hung up; says how many bytes.
async fn dripping(start: &'static str) -> (SocketAddr, JoinHandle<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        let mut stream = asked(&listener).await;
        stream.write_all(start.as_bytes()).await.expect("the gateway listens");
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut drops = 0;
        loop {
            second.tick().await;
            if stream.write_all(b"x").await.is_err() {
                return drops;
            }
            drops += 1;
        }
    });
    (address, serving)
}

#[tokio::test(start_paused = true)]
async fn a_drip_does_not_outlast_the_time_limit() {
    small_steps();
    let headed = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    for start in [headed, "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nx: ", "HTTP/1.1 200 "] {
        let (address, serving) = dripping(start).await;
        let mut egress = Egress::start();
        let begun = tokio::time::Instant::now();
        let (url, rule) = (format!("http://{address}/"), address.to_string());
        let page = egress.begin(&url, &[&rule], false, 1000, Millis(10_000)).await;
        let EgressReply::Failed { failure, .. } = egress.near.receive().await else { panic!("{start:?}") };
        assert_eq!(failure.kind, ToolFailureKind::Timeout, "{start:?}: {failure}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(12), "{start:?}: {took:?}");
        let drops = serving.await.expect("no panic");
        assert!((5..=14).contains(&drops), "{start:?}: it dripped all the time, {drops} times");
        let kept = page.metadata().expect("a memfd").len();
        assert!(kept <= 14, "{start:?}: {kept} bytes");
    }
    // The control: a body that drips to its end within the time.
    let (address, _serving) = dripping("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
    let mut egress = Egress::start();
    let url = format!("http://{address}/");
    let _page = egress.begin(&url, &[&address.to_string()], false, 1000, LONG).await;
    let EgressReply::Fetched { bytes, truncated, .. } = egress.near.receive().await else { panic!("whole") };
    assert_eq!((bytes.0, truncated), (5, false));
}

#[tokio::test]
async fn what_comes_with_a_redirect_is_told_and_leaves_less_for_the_page() {
    let web = WebServer::start([("/page", Page::Text("x".repeat(60)))]);
    let head = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\nconnection: close\r\n\r\n", web.url("/page"));
    let rule = web.authority();
    for (cap, is_enough) in [(MAX_WEB_FETCH_BYTES, true), (10, false)] {
        let (address, serving) = endless(head.clone(), "0123456789abcdef").await;
        let mut egress = Egress::start();
        let from = address.to_string();
        let rules = [from.as_str(), rule.as_str()];
        egress.begin(&format!("http://{address}/"), &rules, false, cap, LONG).await;
        let EgressReply::Redirected { bytes, .. } = egress.near.receive().await else {
            panic!("no redirect")
        };
        // As much of its endless body as had come by then, and never more than is read at once.
        assert!(bytes.0 >= head.len() as u64 && bytes.0 <= 256 * 1024, "{bytes:?}");
        match egress.near.receive().await {
            EgressReply::Fetched { bytes, truncated, .. } => {
                assert!(is_enough && bytes.0 == 60 && !truncated, "{bytes:?}");
            }
            EgressReply::Failed { failure, .. } => {
                assert!(!is_enough && failure.kind == ToolFailureKind::TooLarge, "{failure:?}");
            }
            other => panic!("{other:?}"),
        }
        ended(serving).await;
        let direct = egress.begin(&web.url("/page"), &rules, false, 100, LONG).await;
        let EgressReply::Fetched { .. } = egress.near.receive().await else { panic!("the control") };
        drop(direct);
    }
}
