//! Name servers that lie, change their mind, or must not be asked at all.
//!
//! Invariant: every address of the played network leads to a server that answers, unless a test says otherwise.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::Record;
use crate::harness::Egress;
use aaos_core::toolio::ToolFailureKind;
use testkit::{Page, WebServer};

const REFUSED: [&str; 40] = [
    "0.0.0.0",
    "0.0.0.1",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.216.34",
    "::127.0.0.1",
    "::93.184.216.34",
    "64:ff9b::7f00:1",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2001:0:7f00:1::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "100::1",
    "4000::1",
];
const PUBLIC: [&str; 3] = ["93.184.216.34", "2606:4700::1111", "2a00:1450::1"];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn record(text: &str) -> Record {
    Record::Address(address(text))
}

/// `refused-N.test` and `public-N.test` have the address with that number.
fn numbered(name: &str) -> Vec<Record> {
    let number = |prefix: &str| name.strip_prefix(prefix)?.strip_suffix(".test.")?.parse::<usize>().ok();
    match (number("refused-"), number("public-")) {
        (Some(at), _) => vec![record(REFUSED[at])],
        (_, Some(at)) => vec![record(PUBLIC[at])],
        _ => Vec::new(),
    }
}

fn page() -> WebServer {
    WebServer::start([("/", Page::Text("reached".into()))])
}

#[tokio::test]
async fn a_name_with_a_refused_address_is_never_dialled() {
    let server = page();
    let (mut egress, dialled) = Egress::played(numbered, server.address());
    for (at, text) in REFUSED.iter().enumerate() {
        let failure = egress.fetch(&format!("http://refused-{at}.test/"), &[], true).await.expect_err(text);
        assert!(failure.message.contains(&address(text).to_string()), "{text}: {failure}");
        assert_eq!(dialled.take(), [], "{text}");
        // Nor when the name itself is granted, or the address under another port.
        let (rule, literal) = (format!("refused-{at}.test:80"), format!("{text}:8080"));
        let url = format!("http://refused-{at}.test/");
        egress.fetch(&url, &[&rule, &literal], false).await.expect_err(text);
        assert_eq!(dialled.take(), [], "{text}");
    }
    for (at, text) in PUBLIC.iter().enumerate() {
        let fetched = egress.fetch(&format!("http://public-{at}.test/"), &[], true).await.expect("public");
        assert_eq!(fetched.1, "reached");
        assert_eq!(dialled.take(), [SocketAddr::new(address(text), 80)]);
    }
}

#[tokio::test]
async fn of_mixed_answers_only_the_public_one_is_dialled_even_when_it_is_dead() {
    let server = page();
    let end = server.address();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let names = |name: &str| match name {
        "before.test." => vec![record("10.0.0.1"), record("93.184.216.34"), record("fd00::1")],
        "after.test." => vec![record("93.184.216.34"), record("127.0.0.1"), record("::ffff:10.0.0.1")],
        "dead.test." => vec![record("127.0.0.1"), record("93.184.216.35"), record("::1"), record("10.0.0.1")],
        _ => Vec::new(),
    };
    let dead = address("93.184.216.35");
    let (mut egress, dialled) =
        Egress::played_by(names, move |to| if to.ip() == dead { closed } else { end });
    for name in ["before.test", "after.test"] {
        assert_eq!(egress.fetch(&format!("http://{name}/"), &[], true).await.expect("public").1, "reached");
        assert_eq!(dialled.take(), [SocketAddr::new(address("93.184.216.34"), 80)], "{name}");
    }
    let failure = egress.fetch("http://dead.test/", &[], true).await.expect_err("nobody listens there");
    assert_eq!(failure.kind, ToolFailureKind::Network, "{failure}");
    assert_eq!(dialled.take(), [SocketAddr::new(dead, 80)], "the private addresses are no way out");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn the_address_that_was_checked_is_dialled_whatever_the_name_means_by_then() {
    let redirect = Page::Redirect { status: 302, to: "http://rebound.test/end".into() };
    let server = WebServer::start([("/", redirect), ("/end", Page::Text("reached".into()))]);
    let end = server.address();
    let is_dialled = Arc::new(AtomicBool::new(false));
    let (seen, turned) = (Arc::clone(&is_dialled), Arc::clone(&is_dialled));
    // `rebound.test` is public until somebody connects to it; `steady.test` stays what it is.
    let names = move |name: &str| match name {
        "rebound.test." if seen.load(Ordering::SeqCst) => vec![record("127.0.0.1")],
        "rebound.test." | "steady.test." => vec![record("93.184.216.34")],
        _ => Vec::new(),
    };
    let (mut egress, dialled) = Egress::played_by(names, move |_| {
        turned.store(true, Ordering::SeqCst);
        end
    });
    let public = SocketAddr::new(address("93.184.216.34"), 80);
    // The first page comes from the address that was checked; the next hop is looked up and judged anew.
    let failure = egress.fetch("http://rebound.test/", &[], true).await.expect_err("rebound");
    assert!(failure.message.contains("127.0.0.1, a loopback address"), "{failure}");
    assert_eq!(dialled.take(), [public]);
    assert_eq!(server.requests().len(), 1);
    // The control: a name that keeps its address.
    assert_eq!(egress.fetch("http://steady.test/end", &[], true).await.expect("public").1, "reached");
    assert_eq!(dialled.take(), [public]);
}

#[tokio::test]
async fn an_alias_is_judged_by_where_it_leads() {
    let server = page();
    let names = |name: &str| match name {
        "to-private.test." => vec![Record::Alias("private.test."), record("10.0.0.1")],
        "to-internal.test." => vec![Record::Alias("metadata.google.internal.")],
        "metadata.google.internal." => vec![record("169.254.169.254")],
        "to-localhost.test." => vec![Record::Alias("localhost.")],
        "chain.test." => vec![Record::Alias("link.test.")],
        "link.test." | "private.test." => vec![record("192.168.1.1")],
        "round.test." => vec![Record::Alias("about.test.")],
        "about.test." => vec![Record::Alias("round.test.")],
        "to-public.test." => vec![Record::Alias("public.test.")],
        "public.test." => vec![record("93.184.216.34")],
        _ => Vec::new(),
    };
    let (mut egress, dialled) = Egress::played(names, server.address());
    for name in ["to-private", "to-internal", "to-localhost", "chain", "round"] {
        let rule = format!("{name}.test:80");
        for (rules, public) in [(&[][..], true), (&[rule.as_str()], false)] {
            let fetched = egress.fetch(&format!("http://{name}.test/"), rules, public).await;
            assert!(fetched.is_err(), "{name}: {fetched:?}");
            assert_eq!(dialled.take(), [], "{name}");
        }
    }
    assert!(server.requests().is_empty());
    let page = egress.fetch("http://to-public.test/", &[], true).await.expect("the control");
    assert_eq!((page.1.as_str(), page.2.as_str()), ("reached", "http://to-public.test/"));
    // What was asked for by its alias is still named in the request.
    assert_eq!(server.requests()[0].headers[0], ("host".to_owned(), "to-public.test".to_owned()));
}

#[tokio::test]
async fn a_name_is_authorised_before_any_name_server_is_asked() {
    let secret = Page::Redirect { status: 302, to: "http://secret.other.test/".into() };
    let local = Page::Redirect { status: 302, to: "http://secret.internal/".into() };
    let server = WebServer::start([("/", Page::Text("reached".into())), ("/away", secret), ("/in", local)]);
    let (mut egress, _dialled) = Egress::played(|_| vec![record("93.184.216.34")], server.address());
    let denied = [
        ("http://secret.test/", &["granted.test:80"][..], false),
        ("http://secret.granted.test/", &["granted.test:80"], false),
        ("http://granted.test.secret/", &["granted.test:80"], false),
        ("http://granted.test:8080/", &["granted.test:80"], false),
        ("https://granted.test/", &["granted.test:80"], false),
        ("http://granted.test:8080/", &[], true),
        ("http://secret.local/", &[], true),
        ("http://secret.internal/", &[], true),
        ("http://secret.home.arpa/", &[], true),
        ("http://secret.localhost/", &[], true),
        ("http://secret.1/", &[], true),
        ("http://secret.0x1/", &[], true),
    ];
    for (url, rules, public) in denied {
        assert!(egress.fetch(url, rules, public).await.is_err(), "{url} under {rules:?}");
    }
    assert!(egress.questions.try_recv().is_err(), "a name server was asked for a name that is denied");
    // The control, and redirects: only the granted name is ever asked for.
    assert_eq!(
        egress.fetch("http://granted.test/", &["granted.test:80"], false).await.expect("granted").0,
        200
    );
    egress.fetch("http://granted.test/away", &["granted.test:80"], false).await.expect_err("denied");
    egress.fetch("http://granted.test/in", &["granted.test:80"], true).await.expect_err("no public name");
    let asked: Vec<String> = egress.questions.try_iter().map(|name| name.to_ascii_lowercase()).collect();
    assert!(!asked.is_empty() && asked.iter().all(|name| name == "granted.test."), "{asked:?}");
}
