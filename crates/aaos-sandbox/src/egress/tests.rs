//! The near end against a gateway played by the test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use aaos_confine::Channel;
use aaos_core::effect::{Access, Need};
use aaos_core::limits::MAX_PROXIED;
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::tool::{ToolInput, find};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, EgressRequest, RequestSerial};
use testkit::PATIENCE;
use tokio::net::UnixStream;

use super::download::DownloadOrder;
use super::proxied::tell_unavailable;
use super::{Egress, FetchedPage, ProxyNews};

fn pair() -> (Egress, Channel) {
    let (near, far) = StdStream::pair().expect("a socket pair");
    near.set_nonblocking(true).expect("set");
    (Egress::new(UnixStream::from_std(near).expect("in a runtime")), Channel::new(far.into()))
}

fn input(url: &str) -> ToolInput {
    let arguments = serde_json::json!({ "url": url, "max_bytes": 10 });
    find("web_fetch").expect("a tool").parse_input(arguments).expect("arguments")
}

fn access() -> Vec<Access> {
    let grant = "00000000-0000-7000-8000-000000000001".parse().expect("an id");
    let need = Need::Host { host: "example.org".to_owned(), port: 80 };
    vec![Access {
        need,
        grant,
        relative: None,
        hosts: Vec::new(),
        public: true,
        no_links: false,
        through: Vec::new(),
        world: None,
    }]
}

async fn fetch(egress: &Egress, url: &str) -> Result<FetchedPage, ToolFailure> {
    egress.fetch_until(&input(url), &access(), std::future::pending()).await.page
}

fn next_fetch(far: &Channel) -> (RequestSerial, String, OwnedFd) {
    let (request, mut descriptors) = far.receive::<EgressRequest>().expect("a request");
    let EgressRequest::Fetch { serial, url, max_bytes, public, .. } = request else { panic!("{request:?}") };
    assert_eq!((max_bytes, public, descriptors.len()), (Bytes(10), true, 1));
    (serial, url, descriptors.pop().expect("one"))
}

fn fetched(serial: RequestSerial, url: &str, bytes: u64) -> EgressReply {
    EgressReply::Fetched {
        serial,
        status: 200,
        content_type: "text/plain".to_owned(),
        final_url: url.to_owned(),
        bytes: Bytes(bytes),
        truncated: false,
    }
}

#[tokio::test]
async fn answers_find_their_fetches_in_any_order() {
    let (egress, far) = pair();
    let gateway = tokio::task::spawn_blocking(move || {
        let mut open = vec![next_fetch(&far), next_fetch(&far), next_fetch(&far)];
        let failed = open.remove(1);
        let failure = ToolFailure::new(ToolFailureKind::Network, failed.1);
        far.send(&EgressReply::Failed { serial: failed.0, failure }).expect("sent");
        for (serial, url, memfd) in open.into_iter().rev() {
            let end = url[url.len() - 1..].to_owned();
            File::from(memfd).write_all(end.as_bytes()).expect("written");
            far.send(&fetched(serial, &url, 1)).expect("sent");
        }
        far
    });
    let urls = ["http://example.org/1", "http://example.org/2", "http://example.org/3"];
    let (one, two, three) =
        tokio::join!(fetch(&egress, urls[0]), fetch(&egress, urls[1]), fetch(&egress, urls[2]));
    assert_eq!(two.expect_err("failed").message, urls[1]);
    for (page, url) in [(one, urls[0]), (three, urls[2])] {
        let page = page.expect("a page");
        assert_eq!((page.final_url.as_str(), page.bytes), (url, Bytes(1)));
        let text = std::io::read_to_string(File::from(page.memfd)).expect("text");
        assert_eq!(text, url[url.len() - 1..]);
    }
    drop(gateway.await.expect("no panic"));
}

#[tokio::test]
async fn what_came_with_redirects_is_counted_also_where_there_is_no_page() {
    let (egress, far) = pair();
    let gateway = tokio::task::spawn_blocking(move || {
        for round in 0..3 {
            let (serial, url, memfd) = next_fetch(&far);
            File::from(memfd).write_all(b"abc").expect("written");
            // Of a fetch that nobody made nothing is counted.
            let other = RequestSerial(serial.0 + 100);
            far.send(&EgressReply::Redirected { serial: other, bytes: Bytes(1_000) }).expect("sent");
            for bytes in (0..round).map(|_| Bytes(200)) {
                far.send(&EgressReply::Redirected { serial, bytes }).expect("sent");
            }
            let failure = ToolFailure::new(ToolFailureKind::Network, "it broke");
            let failed = EgressReply::Failed { serial, failure };
            far.send(&if round < 2 { fetched(serial, &url, 3) } else { failed }).expect("sent");
        }
        far
    });
    let url = "http://example.org/";
    for (wanted, has_page) in [(3, true), (203, true), (403, false)] {
        let got = egress.fetch_until(&input(url), &access(), std::future::pending()).await;
        assert_eq!((got.received, got.page.is_ok()), (Bytes(wanted), has_page));
        if let Ok(page) = got.page {
            assert_eq!((page.bytes, page.received), (Bytes(3), Bytes(wanted)));
        }
    }
    drop(gateway.await.expect("no panic"));
}

#[tokio::test]
async fn a_body_that_is_not_as_announced_or_changes_later_is_refused() {
    let (egress, far) = pair();
    let gateway = tokio::task::spawn_blocking(move || {
        // One byte fewer than announced, then more than was asked for.
        for (announced, content) in [(4, &b"abc"[..]), (12, b"abcdefghijkl")] {
            let (serial, url, memfd) = next_fetch(&far);
            File::from(memfd).write_all(content).expect("written");
            far.send(&fetched(serial, &url, announced)).expect("sent");
        }
        let (serial, url, memfd) = next_fetch(&far);
        let mut kept = File::from(memfd);
        kept.write_all(b"abc").expect("written");
        far.send(&fetched(serial, &url, 3)).expect("sent");
        (kept, far)
    });
    for _ in 0..2 {
        let failure = fetch(&egress, "http://example.org/").await.expect_err("refused");
        assert_eq!(failure.kind, ToolFailureKind::Io);
    }
    let page = fetch(&egress, "http://example.org/").await.expect("the control");
    let (mut kept, _far) = gateway.await.expect("no panic");
    assert!(kept.write_all(b"evil").is_err(), "it is sealed");
    assert_eq!(page.bytes, Bytes(3));
}

#[tokio::test]
async fn a_fetch_that_is_given_up_is_cancelled_and_its_late_answer_dropped() {
    let (egress, far) = pair();
    let (given_up, is_given_up) = tokio::sync::oneshot::channel();
    let gateway = tokio::task::spawn_blocking(move || {
        let (serial, url, _memfd) = next_fetch(&far);
        given_up.send(()).expect("somebody waits");
        let (cancel, _) = far.receive::<EgressRequest>().expect("a request");
        assert_eq!(cancel, EgressRequest::Cancel { serial });
        far.send(&fetched(serial, &url, 0)).expect("sent");
        let (serial, url, _memfd) = next_fetch(&far);
        far.send(&fetched(serial, &url, 0)).expect("sent");
        far
    });
    tokio::select! {
        page = fetch(&egress, "http://example.org/first") => panic!("nobody answers: {page:?}"),
        told = is_given_up => told.expect("told"),
    }
    let page = fetch(&egress, "http://example.org/second").await.expect("a page");
    assert_eq!(page.final_url, "http://example.org/second");
    drop(gateway.await.expect("no panic"));
}

#[tokio::test]
async fn a_gateway_that_ends_fails_every_fetch_at_once_and_for_good() {
    let (egress, far) = pair();
    let gateway = tokio::task::spawn_blocking(move || drop(next_fetch(&far)));
    let failure = fetch(&egress, "http://example.org/").await.expect_err("gone");
    assert_eq!(failure.kind, ToolFailureKind::Network);
    gateway.await.expect("no panic");
    assert!(egress.is_closed());
    let failure = fetch(&egress, "http://example.org/").await.expect_err("still gone");
    assert_eq!(failure.kind, ToolFailureKind::Network);
}

#[tokio::test]
async fn what_arrived_before_a_failure_or_a_stop_is_counted() {
    let (egress, far) = pair();
    let (wrote, written) = tokio::sync::oneshot::channel();
    let gateway = tokio::task::spawn_blocking(move || {
        let (serial, _, page) = next_fetch(&far);
        File::from(page).write_all(b"half").expect("written");
        let failure = ToolFailure::new(ToolFailureKind::Network, "cut");
        far.send(&EgressReply::Failed { serial, failure }).expect("sent");
        let (_, _, page) = next_fetch(&far);
        File::from(page).write_all(b"some").expect("written");
        wrote.send(()).expect("it is waited for");
        far
    });
    let cut = egress.fetch_until(&input("http://example.org/"), &access(), std::future::pending()).await;
    assert_eq!((cut.received, cut.page.expect_err("cut").kind), (Bytes(4), ToolFailureKind::Network));
    let stop = async {
        written.await.expect("the gateway says so");
        ToolFailure::new(ToolFailureKind::Cancelled, "stopped")
    };
    let stopped = egress.fetch_until(&input("http://example.org/"), &access(), stop).await;
    assert_eq!((stopped.received, stopped.page.expect_err("x").kind), (Bytes(4), ToolFailureKind::Cancelled));
    drop(gateway.await.expect("ran"));
}

fn program_end() -> (StdStream, OwnedFd) {
    let (program, far) = StdStream::pair().expect("a socket pair");
    (program, far.into())
}

fn next_proxied(far: &Channel) -> (RequestSerial, OwnedFd) {
    let (request, mut descriptors) = far.receive::<EgressRequest>().expect("a request");
    let EgressRequest::Proxy { serial, time: Millis(7) } = request else { panic!("{request:?}") };
    (serial, descriptors.pop().expect("the program's connection"))
}

fn order(far: &Channel) -> EgressRequest {
    let (request, descriptors) = far.receive::<EgressRequest>().expect("a request");
    assert!(descriptors.is_empty());
    request
}

#[tokio::test]
async fn a_proxied_connection_is_asked_for_leased_and_ends_once() {
    let (egress, far) = pair();
    let gateway = tokio::task::spawn_blocking(move || {
        let (serial, program) = next_proxied(&far);
        far.send(&EgressReply::Wants { serial, host: "a.test".to_owned(), port: 443 }).expect("sent");
        let open = EgressRequest::Open { serial, hosts: Vec::new(), public: true, lease: Bytes(5) };
        assert_eq!(order(&far), open);
        StdStream::from(program).write_all(b"hello").expect("the program's end is the one that was made");
        far.send(&EgressReply::Spent { serial, sent: Bytes(0), received: Bytes(5) }).expect("sent");
        assert_eq!(order(&far), EgressRequest::Lease { serial, bytes: Bytes(3) });
        let (sent, received) = (Bytes(1), Bytes(7));
        far.send(&EgressReply::Closed { serial, sent, received, failure: None }).expect("sent");
        far
    });
    let (mut program, far_end) = program_end();
    let mut proxied = egress.proxy(far_end, Millis(7)).await.expect("room");
    assert_eq!(proxied.news().await, ProxyNews::Wants { host: "a.test".to_owned(), port: 443 });
    proxied.open_under(Vec::new(), true, Bytes(5)).await;
    assert_eq!(proxied.news().await, ProxyNews::Spent { sent: Bytes(0), received: Bytes(5) });
    let mut said = [0; 5];
    program.read_exact(&mut said).expect("said");
    assert_eq!(&said, b"hello");
    proxied.lease_more(Bytes(3)).await;
    let end = ProxyNews::Closed { sent: Bytes(1), received: Bytes(7), failure: None };
    assert_eq!(proxied.news().await, end);
    let far = gateway.await.expect("no panic");
    // Over is over: dropping it says nothing more, and the next frame is the next request.
    drop(proxied);
    let next = egress.proxy(program_end().1, Millis(7)).await.expect("room");
    let far = tokio::task::spawn_blocking(move || {
        let (serial, _program) = next_proxied(&far);
        assert_eq!(serial, RequestSerial(1));
        far
    });
    let far = far.await.expect("no panic");
    // One that is dropped while it is open is closed.
    drop(next);
    let closed = tokio::task::spawn_blocking(move || order(&far)).await.expect("no panic");
    assert_eq!(closed, EgressRequest::Close { serial: RequestSerial(1) });
}

#[tokio::test]
async fn a_gateway_that_floods_or_ends_loses_every_connection() {
    for floods in [false, true] {
        let (egress, far) = pair();
        let mut proxied = egress.proxy(program_end().1, Millis(7)).await.expect("room");
        let gateway = tokio::task::spawn_blocking(move || {
            let (serial, _program) = next_proxied(&far);
            if floods {
                for _ in 0..100 {
                    if far.send(&EgressReply::Spent { serial, sent: Bytes(0), received: Bytes(5) }).is_err() {
                        break;
                    }
                }
                // It is given up though it still listens.
                return Some(far);
            }
            None
        });
        let far = gateway.await.expect("no panic");
        // Whoever listens meanwhile makes room for more.
        let closed = async {
            while !egress.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("it is given up");
        let mut heard = 0;
        while proxied.news().await != ProxyNews::Lost {
            heard += 1;
        }
        assert!(heard <= 4, "{heard} answers without a question");
        assert_eq!(proxied.news().await, ProxyNews::Lost);
        assert!(egress.is_closed());
        assert!(egress.proxy(program_end().1, Millis(7)).await.is_err());
        drop(far);
    }
}

#[tokio::test]
async fn connections_have_a_most() {
    let (egress, far) = pair();
    let mut open = Vec::new();
    for _ in 0..MAX_PROXIED {
        open.push(egress.proxy(program_end().1, Millis(7)).await.expect("room"));
    }
    let failure = egress.proxy(program_end().1, Millis(7)).await.expect_err("full");
    assert_eq!(failure.kind, ToolFailureKind::LimitReached);
    open.pop();
    assert!(egress.proxy(program_end().1, Millis(7)).await.is_ok(), "the control");
    drop(far);
}

#[test]
fn a_program_that_gets_no_connection_is_told_why() {
    let (near, mut far) = StdStream::pair().expect("a socket pair");
    far.write_all(b"CONNECT a.test:443 HTTP/1.1\r\n\r\n").expect("room");
    tell_unavailable(&near.into(), "too many are open; wait");
    let mut told = Vec::new();
    // What it said itself was not read: that breaks the connection, after the answer.
    far.read_to_end(&mut told).expect_err("broken");
    let told = String::from_utf8(told).expect("text");
    let (head, words) = told.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    assert!(head.contains("content-length: 24\r\n"), "{head}");
    assert_eq!(words, "too many are open; wait\n");
    let (near, far) = StdStream::pair().expect("a socket pair");
    drop(far);
    tell_unavailable(&near.into(), "nobody hears it");
}

/// Plays a gateway that says `replies` and sends `sent`, and gives what the near end makes of it.
async fn downloaded(sent: &'static str, replies: &'static [Reply]) -> Result<String, String> {
    let (egress, far) = pair();
    let gateway = tokio::task::spawn_blocking(move || {
        let (request, mut descriptors) = far.receive::<EgressRequest>().expect("a request");
        let EgressRequest::Download { serial, from, size, .. } = request else { panic!("{request:?}") };
        assert_eq!((from, size), (Bytes(4), Bytes(10)));
        let mut stream = StdStream::from(descriptors.pop().expect("one"));
        for reply in replies {
            let told = match *reply {
                Reply::Delivering(from) => EgressReply::Delivering { serial, from: Bytes(from) },
                Reply::Delivered(bytes) => EgressReply::Delivered { serial, bytes: Bytes(bytes) },
                Reply::Failed => {
                    let failure = ToolFailure::new(ToolFailureKind::Network, "it broke");
                    EgressReply::Failed { serial, failure }
                }
            };
            far.send(&told).expect("sent");
        }
        stream.write_all(sent.as_bytes()).expect("written");
        drop(stream);
        far
    });
    let order = DownloadOrder {
        url: "https://example.org/f".to_owned(),
        from: Bytes(4),
        size: Bytes(10),
        hosts: Vec::new(),
        public: true,
    };
    let received = async {
        let mut download = egress.download(order).await?;
        let mut text = format!("{}:", download.from().0);
        let mut piece = [0; 3];
        loop {
            match download.piece(&mut piece).await? {
                0 => return Ok(text),
                got => text.push_str(std::str::from_utf8(&piece[..got]).expect("text")),
            }
        }
    };
    let received = received.await.map_err(|failure: ToolFailure| failure.message);
    drop(gateway.await.expect("no panic"));
    received
}

#[derive(Debug, Clone, Copy)]
enum Reply {
    Delivering(u64),
    Delivered(u64),
    Failed,
}

#[tokio::test]
async fn a_download_ends_well_only_with_all_of_the_file_and_the_gateways_word() {
    use Reply::{Delivered, Delivering, Failed};
    assert_eq!(downloaded("456789", &[Delivering(4), Delivered(6)]).await.expect("whole"), "4:456789");
    let again = downloaded("0123456789", &[Delivering(0), Delivered(10)]).await;
    assert_eq!(again.expect("from its beginning"), "0:0123456789");
    for (sent, replies, words) in [
        ("4567890", &[Delivering(4), Delivered(6)][..], "sent more than the file has"),
        ("45678", &[Delivering(4), Delivered(6)], "not what came"),
        ("45678", &[Delivering(4), Delivered(5)], "not what came"),
        ("456", &[Delivering(4), Failed], "it broke"),
        ("", &[Failed], "it broke"),
        ("", &[Delivered(6)], "is gone"),
        ("789", &[Delivering(7), Delivered(3)], "where nobody asked it to"),
        ("456789", &[Delivering(4), Delivering(4), Delivered(6)], "is gone"),
    ] {
        let told = downloaded(sent, replies).await.expect_err("it is not whole");
        assert!(told.contains(words), "{sent} {replies:?}: {told}");
    }
}
