//! The `egress` role over its channel, against servers on loopback and a name server that lies.

use std::io::Read;

use crate::common::tls_server;
use crate::harness::{Egress, LONG};
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::ToolFailureKind;
use aaos_core::wire::{EgressReply, EgressRequest, RequestSerial};
use testkit::{Page, WebServer};

fn port(server: &WebServer) -> String {
    server.authority().rsplit_once(':').expect("host:port").1.to_owned()
}

#[tokio::test]
async fn a_loopback_page_is_fetched_only_when_that_address_is_granted() {
    let server = WebServer::start([("/a", Page::Html("<p>hi</p>".into()))]);
    let mut egress = Egress::start();
    let (url, literal) = (server.url("/a"), server.authority());
    let (status, body, final_url, truncated) =
        egress.fetch(&url, &[&literal], false).await.expect("granted literally");
    assert_eq!(
        (status, body.as_str(), final_url.as_str(), truncated),
        (200, "<p>hi</p>", url.as_str(), false)
    );
    let seen = &server.requests()[0];
    assert!(seen.headers.contains(&("accept-encoding".into(), "identity".into())), "{:?}", seen.headers);
    assert!(!seen.headers.iter().any(|(name, _)| name == "cookie" || name == "authorization"));

    for (rules, public, kind) in [
        (vec![], false, ToolFailureKind::Denied),
        (vec![], true, ToolFailureKind::Denied),
        (vec!["127.0.0.1:1"], false, ToolFailureKind::Denied),
    ] {
        let failure = egress.fetch(&url, &rules, public).await.expect_err("not granted");
        assert_eq!(failure.kind, kind, "{failure}");
    }
    assert_eq!(server.requests().len(), 1, "a refused fetch sends nothing");
}

#[tokio::test]
async fn a_name_that_leads_to_loopback_or_a_private_address_is_refused_although_it_is_granted() {
    let server = WebServer::start([("/", Page::Text("secret".into()))]);
    let port = port(&server);
    let mut egress = Egress::start();
    let rule = format!("loop.test:{port}");
    let failure =
        egress.fetch(&format!("http://loop.test:{port}/"), &[&rule], false).await.expect_err("loopback");
    assert_eq!(failure.kind, ToolFailureKind::Network);
    assert!(failure.message.contains("127.0.0.1, a loopback address"), "{failure}");
    let failure = egress.fetch("http://private.test/", &[], true).await.expect_err("private");
    assert!(failure.message.contains("10.0.0.1, a private address"), "{failure}");
    let failure = egress.fetch("http://nowhere.test/", &[], true).await.expect_err("no address");
    assert!(failure.message.contains("has no address"), "{failure}");
    assert!(server.requests().is_empty());

    // The control: the same server by the one name that may mean loopback, granted as such.
    let (url, rule) = (format!("http://localhost:{port}/"), format!("localhost:{port}"));
    assert_eq!(egress.fetch(&url, &[&rule], false).await.expect("granted").1, "secret");
    assert_eq!(egress.fetch(&url, &[], true).await.expect_err("not granted").kind, ToolFailureKind::Network);
}

#[tokio::test]
async fn nobody_is_asked_for_the_address_of_a_name_that_is_not_granted() {
    let mut egress = Egress::start();
    let failure =
        egress.fetch("http://loop-secret.test/", &["other.test:80"], false).await.expect_err("denied");
    assert_eq!(failure.kind, ToolFailureKind::Denied);
    // The control: a granted name is asked for, and its question is the first that the server saw.
    egress.fetch("http://loop-granted.test/", &["loop-granted.test:80"], false).await.expect_err("loopback");
    assert_eq!(egress.questions.recv().expect("a question").to_ascii_lowercase(), "loop-granted.test.");
}

#[tokio::test]
async fn every_redirect_is_judged_like_a_first_url() {
    let inner = WebServer::start([("/", Page::Text("inner".into()))]);
    let to = |to: &str| Page::Redirect { status: 302, to: to.to_owned() };
    let outer = WebServer::start([
        ("/inner", to(&inner.url("/"))),
        ("/name", to(&format!("http://loop.test:{}/", port(&inner)))),
        ("/file", to("file:///etc/passwd")),
        ("/login", to(&format!("http://u:p@{}/", inner.authority()))),
        ("/metadata", to("http://169.254.169.254/latest/meta-data")),
        ("/odd", to("http://2130706433/")),
        ("/here", to("there?x=1")),
        ("/there", Page::Text("arrived".into())),
        ("/round", to("/round")),
    ]);
    let (literal, inner_literal) = (outer.authority(), inner.authority());
    let mut egress = Egress::start();
    for path in ["/inner", "/name", "/file", "/login", "/metadata", "/odd", "/round"] {
        egress.fetch(&outer.url(path), &[&literal], true).await.expect_err(path);
    }
    assert!(inner.requests().is_empty(), "no refused redirect was followed");
    let rounds = outer.requests().iter().filter(|one| one.target == "/round").count();
    assert_eq!(rounds, 6, "the first request and five redirects");

    let followed =
        egress.fetch(&outer.url("/inner"), &[&literal, &inner_literal], false).await.expect("granted");
    assert_eq!((followed.1.as_str(), followed.2.as_str()), ("inner", inner.url("/").as_str()));
    let followed = egress.fetch(&outer.url("/here"), &[&literal], false).await.expect("relative");
    assert_eq!((followed.1.as_str(), followed.2.as_str()), ("arrived", outer.url("/there?x=1").as_str()));
}

#[tokio::test]
async fn a_body_is_cut_at_its_cap_and_a_missing_page_is_a_status() {
    let server = WebServer::start([
        ("/huge", Page::Huge { total: 9_000_000 }),
        ("/ten", Page::Text("0123456789".into())),
    ]);
    let literal = server.authority();
    let mut egress = Egress::start();
    for (path, cap, length, cut) in [
        ("/huge", 1_000, 1_000, true),
        ("/huge", u64::MAX, 5 * 1024 * 1024, true),
        ("/ten", 9, 9, true),
        ("/ten", 10, 10, false),
    ] {
        let page = egress.fetch_up_to(&server.url(path), &[&literal], false, cap).await.expect("granted");
        assert_eq!((page.1.len(), page.3), (length, cut), "{path} up to {cap}");
    }
    assert_eq!(egress.fetch(&server.url("/none"), &[&literal], false).await.expect("granted").0, 404);
}

#[tokio::test]
async fn what_breaks_hangs_or_is_compressed_has_its_own_words() {
    let server = WebServer::start([
        ("/cut", Page::CutMidBody("half".into())),
        ("/hang", Page::HangMidBody("half".into())),
        ("/silent", Page::Hang),
    ]);
    let literal = server.authority();
    let mut egress = Egress::start();
    let failure = egress.fetch(&server.url("/cut"), &[&literal], false).await.expect_err("cut");
    assert_eq!(failure.kind, ToolFailureKind::Network);
    for path in ["/hang", "/silent"] {
        let _page = egress.begin(&server.url(path), &[&literal], false, 100, Millis(50)).await;
        let EgressReply::Failed { failure, .. } = egress.near.receive().await else { panic!("it hangs") };
        assert_eq!(failure.kind, ToolFailureKind::Timeout, "{failure}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let refused = egress.fetch(&format!("http://{free}/"), &[&free.to_string()], false).await;
    assert_eq!(refused.expect_err("nobody listens").kind, ToolFailureKind::Network);
}

#[tokio::test]
async fn headers_without_end_and_compressed_bodies_are_refused() {
    let giant = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(500));
    let zipped = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nzz".to_owned();
    let nonsense = "SSH-2.0-OpenSSH_9.9\r\n".to_owned();
    for answer in [giant, many, zipped, nonsense] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = std::thread::spawn(move || {
            use std::io::Write;
            let (mut stream, _) = listener.accept().expect("the gateway connects");
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).expect("a request") > 0);
            // The gateway may hang up before it has taken everything: that is what is tested.
            stream.write_all(answer.as_bytes()).is_ok()
        });
        let mut egress = Egress::start();
        let failure = egress
            .fetch(&format!("http://{address}/"), &[&address.to_string()], false)
            .await
            .expect_err("bad");
        assert_eq!(failure.kind, ToolFailureKind::Network, "{failure}");
        assert!(failure.message.len() < 500, "{failure}");
        server.join().expect("the server ends");
    }
}

#[tokio::test]
async fn a_cancelled_fetch_lets_go_and_says_nothing_more() {
    let server = WebServer::start([("/hang", Page::HangMidBody("x".into())), ("/a", Page::Text("a".into()))]);
    let literal = server.authority();
    let mut egress = Egress::start();
    let _page = egress.begin(&server.url("/hang"), &[&literal], false, 100, LONG).await;
    let cancel = EgressRequest::Cancel { serial: RequestSerial(egress.serial) };
    let server = tokio::task::spawn_blocking(move || {
        assert_eq!(server.wait_for_requests(1).len(), 1);
        server
    });
    let server = server.await.expect("a request came");
    egress.near.send(&cancel).await;
    let server = tokio::task::spawn_blocking(move || {
        server.wait_for_hangups(1);
        server
    });
    let server = server.await.expect("the connection was closed");
    // The next answer on the channel is that of the next request.
    assert_eq!(egress.fetch(&server.url("/a"), &[&literal], false).await.expect("granted").1, "a");
}

#[tokio::test]
async fn a_fetch_without_a_descriptor_ends_the_channel() {
    let mut egress = Egress::start();
    let fetch = EgressRequest::Fetch {
        serial: RequestSerial(1),
        url: "http://127.0.0.1/".into(),
        max_bytes: Bytes(1),
        hosts: Vec::new(),
        public: false,
        time: LONG,
    };
    egress.near.send(&fetch).await;
    assert!(egress.near.next::<EgressReply>().await.is_none(), "agentd made a mistake");
}

#[tokio::test]
async fn https_is_spoken_only_with_a_certificate_for_that_very_host() {
    let (address, own) = tls_server(&["127.0.0.1"]).await;
    let (other, wrong) = tls_server(&["example.org"]).await;
    let mut egress = Egress::trusting(vec![own.clone(), wrong]);
    let fetch = |address: std::net::SocketAddr| (format!("https://{address}/"), address.to_string());
    let (url, literal) = fetch(address);
    assert_eq!(egress.fetch(&url, &[&literal], false).await.expect("trusted").1, "secret");
    let (url, literal) = fetch(other);
    let failure = egress.fetch(&url, &[&literal], false).await.expect_err("another host's certificate");
    assert!(failure.message.contains("TLS with 127.0.0.1 failed"), "{failure}");
    let (address, _unknown) = tls_server(&["127.0.0.1"]).await;
    let (url, literal) = fetch(address);
    egress.fetch(&url, &[&literal], false).await.expect_err("an unknown authority");
}
