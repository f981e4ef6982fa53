//! The proxy of a program over its stream: what agentd permits goes through and is counted, and nothing else does.
//!
//! Invariant: every address of the played network leads to a server of the test that answers or notes what it gets.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use crate::bodies::small_steps;
use crate::common::{Record, tls_server};
use crate::harness::{Dialled, Egress, parse_rule};
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, EgressRequest, RequestSerial};
use testkit::{Page, WebServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

const LONG: Millis = Millis(600_000);
const PLENTY: Bytes = Bytes(1 << 30);

fn names(name: &str) -> Vec<Record> {
    let address = match name {
        "granted.test." | "other.test." => "93.184.216.34",
        "private.test." => "10.0.0.1",
        "loop.test." => "127.0.0.1",
        _ => return Vec::new(),
    };
    vec![Record::Address(address.parse().expect("an address"))]
}

/// A proxied connection, as the program and as agentd see it.
struct Proxied {
    egress: Egress,
    dialled: Dialled,
    program: UnixStream,
}

/// How a connection ended: bytes out, bytes in, and why.
type Ended = (u64, u64, Option<ToolFailure>);

impl Proxied {
    async fn start(server: SocketAddr) -> Self {
        Self::within(server, LONG).await
    }

    async fn within(server: SocketAddr, time: Millis) -> Self {
        let (mut egress, dialled) = Egress::played(names, server);
        let (program, far) = StdStream::pair().expect("a socket pair");
        program.set_nonblocking(true).expect("a socket");
        egress.serial += 1;
        let proxy = EgressRequest::Proxy { serial: RequestSerial(egress.serial), time };
        egress.near.send_with(&proxy, far.as_fd()).await;
        Self { egress, dialled, program: UnixStream::from_std(program).expect("in a runtime") }
    }

    const fn serial(&self) -> RequestSerial {
        RequestSerial(self.egress.serial)
    }

    async fn say(&mut self, text: &str) {
        self.program.write_all(text.as_bytes()).await.expect("the proxy listens");
    }

    /// What the proxy asks agentd for.
    async fn wants(&mut self) -> (String, u16) {
        match self.egress.near.receive().await {
            EgressReply::Wants { serial, host, port } if serial == self.serial() => (host, port),
            other => panic!("no question: {other:?}"),
        }
    }

    async fn open(&mut self, rules: &[&str], public: bool, lease: Bytes) {
        let hosts = rules.iter().map(|rule| parse_rule(rule)).collect();
        let open = EgressRequest::Open { serial: self.serial(), hosts, public, lease };
        self.egress.near.send(&open).await;
    }

    async fn ended(&mut self) -> Ended {
        match self.egress.near.receive().await {
            EgressReply::Closed { serial, sent, received, failure } if serial == self.serial() => {
                (sent.0, received.0, failure)
            }
            other => panic!("not over: {other:?}"),
        }
    }

    /// All that the program is told until the proxy ends it.
    async fn told(&mut self) -> String {
        let mut bytes = Vec::new();
        // A connection that was cut may end with an error instead of an end.
        let read = tokio::time::timeout(testkit::PATIENCE, self.program.read_to_end(&mut bytes)).await;
        assert!(read.is_ok(), "the proxy hangs up");
        String::from_utf8(bytes).expect("text")
    }

    async fn told_exactly(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        self.program.read_exact(&mut bytes).await.expect("the proxy says something");
        assert_eq!(String::from_utf8(bytes).expect("text"), expected);
    }

    fn asks_nobody(&self) {
        assert!(self.egress.questions.try_recv().is_err(), "a name server was asked");
        assert_eq!(self.dialled.take(), []);
    }
}

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

fn get(host: &str) -> String {
    format!("GET http://{host}/page?x HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic eDp5\r\n\r\n")
}

fn connect(to: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
}

/// Takes one connection and says all that it got until its end.
async fn noting() -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let noted = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("the gateway connects");
        let mut bytes = Vec::new();
        // One that was cut ends with an error; what came before it stays.
        stream.read_to_end(&mut bytes).await.unwrap_or_default();
        bytes
    });
    (address, noted)
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    listener.accept().await.expect("the gateway connects").0
}

#[tokio::test]
async fn a_permitted_request_goes_through_and_is_counted() {
    let server = WebServer::start([("/page", Page::Text("hello".into()))]);
    let mut one = Proxied::start(server.address()).await;
    one.say(&get("granted.test")).await;
    assert_eq!(one.wants().await, ("granted.test".to_owned(), 80));
    one.asks_nobody();
    one.open(&["granted.test:80"], false, PLENTY).await;
    let requests = tokio::task::spawn_blocking(move || (server.wait_for_requests(1), server)).await;
    let (requests, server) = requests.expect("a request");
    let headers = [("host", "granted.test"), ("connection", "close")];
    assert_eq!(requests[0].headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((requests[0].method.as_str(), requests[0].target.as_str()), ("GET", "/page?x"));
    // The scripted server keeps its connections open; with it gone the answer is over.
    let mut first = [0; 12];
    one.program.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    drop(server);
    let answer = one.told().await;
    assert!(answer.ends_with("hello"), "{answer}");
    let (sent, received, failure) = one.ended().await;
    assert_eq!(failure, None);
    let head = "GET /page?x HTTP/1.1\r\nhost: granted.test\r\nconnection: close\r\n\r\n";
    assert_eq!((sent, received), (head.len() as u64, (first.len() + answer.len()) as u64));
    assert_eq!(one.dialled.take(), ["93.184.216.34:80".parse().expect("an address")]);
}

#[tokio::test]
async fn what_agentd_refuses_is_neither_looked_up_nor_dialled() {
    let server = WebServer::start([("/page", Page::Text("hello".into()))]);
    for request in [get("granted.test"), connect("granted.test:443"), connect("127.0.0.1:22")] {
        let mut one = Proxied::start(server.address()).await;
        one.say(&request).await;
        one.wants().await;
        let refuse = EgressRequest::Refuse { serial: one.serial(), why: "no grant covers it".to_owned() };
        one.egress.near.send(&refuse).await;
        let told = one.told().await;
        assert!(told.starts_with("HTTP/1.1 403 ") && told.ends_with("no grant covers it\n"), "{told}");
        let (sent, received, failure) = one.ended().await;
        assert_eq!((sent, received, failure.map(|one| one.kind)), (0, 0, Some(ToolFailureKind::Denied)));
        one.asks_nobody();
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_request_that_is_ambiguous_is_not_even_asked_for() {
    let server = WebServer::start([("/page", Page::Text("hello".into()))]);
    let huge =
        format!("GET http://granted.test/ HTTP/1.1\r\nHost: granted.test\r\nX: {}", "y".repeat(40_000));
    for (request, status) in [
        ("GET /page HTTP/1.1\r\nHost: granted.test\r\n\r\n".to_owned(), 400),
        ("GET http://granted.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n".to_owned(), 400),
        ("GET http://u:p@granted.test/ HTTP/1.1\r\nHost: granted.test\r\n\r\n".to_owned(), 400),
        ("CONNECT granted.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n".to_owned(), 400),
        (connect("2130706433:443"), 400),
        (connect("0x7f.1:443"), 400),
        (connect("127.1:443"), 400),
        (connect("granted.test"), 400),
        ("GET http://granted.test:443/ HTTP/1.1\r\nHost: granted.test:443\r\n\r\n".to_owned(), 403),
        ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400),
        (huge, 431),
    ] {
        let mut one = Proxied::start(server.address()).await;
        // It may be refused before it is written whole.
        one.program.write_all(request.as_bytes()).await.unwrap_or_default();
        let told = one.told().await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.80}: {told}");
        let (sent, received, failure) = one.ended().await;
        assert!((sent, received) == (0, 0) && failure.is_some(), "{request:.80}");
        one.asks_nobody();
    }
    // A program that leaves without a word is no failure.
    let mut one = Proxied::start(server.address()).await;
    one.program.shutdown().await.expect("a socket");
    assert_eq!(one.ended().await, (0, 0, None));
}

#[tokio::test]
async fn what_a_permit_leads_to_is_judged_as_for_a_page() {
    let server = WebServer::start([("/page", Page::Text("hello".into()))]);
    for (request, rules, public, status) in [
        (get("private.test"), &["private.test:80"][..], true, 502),
        (get("loop.test"), &["loop.test:80"], true, 502),
        (connect("private.test:443"), &["private.test:443"], true, 502),
        // The address alone is granted, and the name passes only as public.
        (get("loop.test"), &["127.0.0.1:80"], true, 502),
        (connect("private.test:443"), &["10.0.0.1:443", "private.test:80"], true, 502),
        (get("nowhere.test"), &["nowhere.test:80"], true, 502),
        (get("10.0.0.1"), &[], true, 403),
        (connect("169.254.169.254:443"), &[], true, 403),
        (connect("[::ffff:127.0.0.1]:443"), &["127.0.0.1:443"], true, 403),
        (connect("127.0.0.1:22"), &["127.0.0.1:80", "localhost:22"], true, 403),
        (connect("localhost:443"), &[], true, 403),
        // A permit for something else than was asked for opens nothing.
        (get("granted.test"), &["other.test:80"], false, 403),
        (connect("granted.test:22"), &["granted.test:443"], true, 403),
    ] {
        let mut one = Proxied::start(server.address()).await;
        one.say(&request).await;
        one.wants().await;
        one.open(rules, public, PLENTY).await;
        let told = one.told().await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {told}");
        let (sent, received, failure) = one.ended().await;
        assert!((sent, received) == (0, 0) && failure.is_some(), "{request:?}");
        assert_eq!(one.dialled.take(), [], "{request:?}");
    }
    // The control: the literal address, granted literally, a port that is not the web's, and a name beside its address.
    for (to, rules, public) in [
        ("127.0.0.1:22", &["127.0.0.1:22"][..], false),
        ("[::1]:22", &["::1:22"], false),
        ("granted.test:22", &["granted.test:22"], false),
        ("loop.test:80", &["loop.test:80", "127.0.0.1:80"], true),
    ] {
        let (address, noted) = noting().await;
        let mut one = Proxied::start(address).await;
        one.say(&connect(to)).await;
        one.wants().await;
        one.open(rules, public, PLENTY).await;
        one.told_exactly(ESTABLISHED).await;
        one.say("anything").await;
        one.program.shutdown().await.expect("a socket");
        assert_eq!(noted.await.expect("no panic"), b"anything", "{to}");
        assert_eq!(one.ended().await, (8, 0, None), "{to}");
    }
}

fn tls(authority: CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn tls_for_the_granted_name_goes_through_a_tunnel() {
    let (address, authority) = tls_server(&["granted.test"]).await;
    let mut one = Proxied::start(address).await;
    one.say(&connect("granted.test:443")).await;
    assert_eq!(one.wants().await, ("granted.test".to_owned(), 443));
    one.open(&["granted.test:443"], false, PLENTY).await;
    one.told_exactly(ESTABLISHED).await;
    let name = ServerName::try_from("granted.test").expect("a name");
    let mut secure = tls(authority).connect(name, &mut one.program).await.expect("the right host");
    secure.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("the server listens");
    let mut answer = [0; 44];
    secure.read_exact(&mut answer).await.expect("an answer");
    assert!(answer.ends_with(b"secret"));
    drop(one.program.shutdown().await);
    let (sent, received, _) = one.ended().await;
    assert!(sent > 300 && received > 600, "{sent} {received}");
}

#[tokio::test]
async fn nothing_but_tls_for_the_granted_name_reaches_port_443() {
    let (_, authority) = tls_server(&["granted.test"]).await;
    let connector = tls(authority);
    // What the program says first, once the tunnel stands: `None` for a TLS client that asks for the other name.
    let hidden = b"\x16\x03\x01\x00\x35\x01\x00\x00\x31\x03\x03";
    for first in [
        Some(&b"GET / HTTP/1.1\r\nHost: granted.test\r\n\r\n"[..]),
        Some(b"SSH-2.0-x\r\n"),
        Some(b"\x80\x2e\x01\x03\x01"),
        Some(&hidden[..3]),
        Some(hidden),
        None,
    ] {
        let (address, noted) = noting().await;
        let mut one = Proxied::start(address).await;
        one.say(&connect("granted.test:443")).await;
        one.wants().await;
        one.open(&["granted.test:443"], false, PLENTY).await;
        one.told_exactly(ESTABLISHED).await;
        match first {
            Some(first) => {
                one.program.write_all(first).await.expect("the proxy listens");
                one.program.shutdown().await.unwrap_or_default();
            }
            None => {
                let name = ServerName::try_from("other.test").expect("a name");
                let refused = connector.connect(name, &mut one.program).await;
                assert!(refused.is_err(), "another host than the granted one");
            }
        }
        let (sent, received, failure) = one.ended().await;
        assert_eq!((sent, received), (0, 0), "{first:?}");
        assert_eq!(failure.map(|failure| failure.kind), Some(ToolFailureKind::Denied), "{first:?}");
        assert_eq!(noted.await.expect("no panic"), b"", "the host got nothing");
    }
}

#[tokio::test]
async fn a_second_request_does_not_ride_along() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut one = Proxied::start(listener.local_addr().expect("bound")).await;
    let first = "POST http://granted.test/ HTTP/1.1\r\nHost: granted.test\r\nContent-Length: 4\r\n\r\nbo";
    let second = "GET /secret HTTP/1.1\r\nHost: other.test\r\n\r\n";
    one.say(&format!("{first}{second}")).await;
    one.wants().await;
    one.open(&["granted.test:80"], false, PLENTY).await;
    one.say(second).await;
    // The body is as long as its head says; what the program calls its second request is no request to the host.
    let expected =
        "POST / HTTP/1.1\r\nhost: granted.test\r\ncontent-length: 4\r\nconnection: close\r\n\r\nboGE";
    let mut host = accepted(&listener).await;
    let mut got = vec![0; expected.len()];
    host.read_exact(&mut got).await.expect("the request");
    assert_eq!(String::from_utf8(got).expect("text"), expected);
    let answer = "HTTP/1.1 204 No Content\r\n\r\n";
    host.write_all(answer.as_bytes()).await.expect("the gateway listens");
    host.shutdown().await.expect("a socket");
    let mut more = Vec::new();
    host.read_to_end(&mut more).await.unwrap_or_default();
    assert_eq!(more, b"");
    assert_eq!(one.told().await, answer);
    assert_eq!(one.ended().await, (expected.len() as u64, answer.len() as u64, None));
}

#[tokio::test]
async fn no_byte_moves_beyond_the_lease() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut one = Proxied::start(listener.local_addr().expect("bound")).await;
    one.say(&connect("granted.test:22")).await;
    one.wants().await;
    one.open(&["granted.test:22"], false, Bytes(100)).await;
    one.told_exactly(ESTABLISHED).await;
    let mut host = accepted(&listener).await;
    host.write_all(&[b'x'; 250]).await.expect("the gateway listens");
    one.told_exactly(&"x".repeat(100)).await;
    let spent = one.egress.near.receive::<EgressReply>().await;
    assert_eq!(spent, EgressReply::Spent { serial: one.serial(), sent: Bytes(0), received: Bytes(100) });
    // Nor does anything go the other way.
    one.say("y").await;
    let mut nothing = [0; 1];
    assert!(host.try_read(&mut nothing).is_err(), "nothing was paid for");
    let lease = |bytes| EgressRequest::Lease { serial: RequestSerial(1), bytes: Bytes(bytes) };
    one.egress.near.send(&lease(1000)).await;
    one.told_exactly(&"x".repeat(150)).await;
    host.read_exact(&mut nothing).await.expect("paid for");
    drop(host);
    assert_eq!(one.told().await, "");
    one.program.shutdown().await.unwrap_or_default();
    let (sent, received, _) = one.ended().await;
    assert_eq!((sent, received), (1, 250));
}

#[tokio::test]
async fn a_permit_that_is_taken_back_cuts_the_tunnel_on_both_sides() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut one = Proxied::start(listener.local_addr().expect("bound")).await;
    one.say(&connect("granted.test:22")).await;
    one.wants().await;
    one.open(&["granted.test:22"], false, PLENTY).await;
    one.told_exactly(ESTABLISHED).await;
    let mut host = accepted(&listener).await;
    host.write_all(b"live").await.expect("the gateway listens");
    one.told_exactly("live").await;
    one.egress.near.send(&EgressRequest::Close { serial: one.serial() }).await;
    assert_eq!(one.told().await, "");
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).await.unwrap_or_default();
    assert!(rest.is_empty());
    let (sent, received, failure) = one.ended().await;
    assert_eq!((sent, received, failure.map(|one| one.kind)), (0, 4, Some(ToolFailureKind::Cancelled)));
    // Orders that cross the end change nothing: the role still serves.
    let lease = EgressRequest::Lease { serial: one.serial(), bytes: PLENTY };
    one.egress.near.send(&lease).await;
    one.egress.near.send(&EgressRequest::Close { serial: RequestSerial(99) }).await;
    assert!(one.egress.fetch("http://127.0.0.1/", &[], false).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_or_is_open_for_too_long_ends() {
    small_steps();
    // A program that does not say where to go.
    let (address, _noted) = noting().await;
    let mut one = Proxied::start(address).await;
    one.say("CONNECT granted.test:22 HTTP/1.1\r\n").await;
    assert!(one.told().await.starts_with("HTTP/1.1 408 "));
    assert_eq!(one.ended().await.2.map(|failure| failure.kind), Some(ToolFailureKind::Timeout));
    // A tunnel whose limit is over, though something moves all the time.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut one = Proxied::within(listener.local_addr().expect("bound"), Millis(5_000)).await;
    one.say(&connect("granted.test:22")).await;
    one.wants().await;
    one.open(&["granted.test:22"], false, PLENTY).await;
    one.told_exactly(ESTABLISHED).await;
    let mut host = accepted(&listener).await;
    let drip = tokio::spawn(async move {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while host.write_all(b"x").await.is_ok() {
            second.tick().await;
        }
    });
    let told = one.told().await;
    assert!((3..=6).contains(&told.len()), "{told}");
    assert_eq!(one.ended().await.2.map(|failure| failure.kind), Some(ToolFailureKind::Timeout));
    drip.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn an_idle_tunnel_ends_and_one_that_moves_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut one = Proxied::start(listener.local_addr().expect("bound")).await;
    small_steps();
    one.say(&connect("granted.test:22")).await;
    one.wants().await;
    one.open(&["granted.test:22"], false, PLENTY).await;
    one.told_exactly(ESTABLISHED).await;
    let mut host = accepted(&listener).await;
    let begun = tokio::time::Instant::now();
    let mut minute = tokio::time::interval(Duration::from_secs(60));
    for _ in 0..4 {
        minute.tick().await;
        host.write_all(b"x").await.expect("it is open");
        one.told_exactly("x").await;
    }
    let mut bytes = Vec::new();
    one.program.read_to_end(&mut bytes).await.unwrap_or_default();
    let open = begun.elapsed();
    assert!(open >= Duration::from_secs(300) && open < Duration::from_secs(310), "{open:?}");
    let EgressReply::Closed { received, failure, .. } = one.egress.near.receive().await else {
        panic!("over")
    };
    assert_eq!((received, failure.map(|one| one.kind)), (Bytes(4), Some(ToolFailureKind::Timeout)));
}
