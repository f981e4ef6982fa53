//! Downloads of the `egress` role: ranges, faults of servers, and what is never passed on.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use crate::common::{tls_server, tls_server_saying};
use crate::harness::{Egress, parse_rule};
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, EgressRequest, RequestSerial};
use testkit::{Fault, Page, WebServer};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

const BODY: &[u8] = b"0123456789";

/// Where it began, what came, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Brought {
    from: Option<u64>,
    text: String,
    ended: Result<u64, ToolFailureKind>,
    why: String,
}

impl Egress {
    async fn bring(&mut self, url: &str, rules: &[&str], public: bool, from: u64) -> Brought {
        let (mut near, far) = UnixStream::pair().expect("a socket pair");
        self.serial += 1;
        let serial = RequestSerial(self.serial);
        let download = EgressRequest::Download {
            serial,
            url: url.to_owned(),
            from: Bytes(from),
            size: Bytes(BODY.len() as u64),
            hosts: rules.iter().map(|rule| parse_rule(rule)).collect(),
            public,
        };
        self.near.send_with(&download, far.as_fd()).await;
        drop(far);
        let mut brought = Brought { from: None, text: String::new(), ended: Ok(0), why: String::new() };
        loop {
            match self.near.receive().await {
                EgressReply::Delivering { serial: of, from } if of == serial => brought.from = Some(from.0),
                EgressReply::Delivered { serial: of, bytes } if of == serial => {
                    brought.ended = Ok(bytes.0);
                    break;
                }
                EgressReply::Failed { serial: of, failure: ToolFailure { kind, message, .. } }
                    if of == serial =>
                {
                    (brought.ended, brought.why) = (Err(kind), message);
                    break;
                }
                other => panic!("not about this download: {other:?}"),
            }
        }
        near.read_to_string(&mut brought.text).await.expect("its end");
        brought
    }
}

fn file(fault: Fault) -> Page {
    Page::File { body: BODY.to_vec(), fault }
}

fn whole(from: u64, text: &str) -> Brought {
    let text = text.to_owned();
    Brought { from: Some(from), ended: Ok(text.len() as u64), text, why: String::new() }
}

#[tokio::test]
async fn a_file_comes_whole_or_from_where_it_broke_off() {
    let server = WebServer::start([
        ("/f", file(Fault::None)),
        ("/old", file(Fault::NoRanges)),
        ("/moved", Page::Redirect { status: 302, to: "/f".into() }),
    ]);
    let literal = server.authority();
    let mut egress = Egress::start();
    for (path, from, begins, text) in
        [("/f", 0, 0, "0123456789"), ("/f", 7, 7, "789"), ("/old", 7, 0, "0123456789"), ("/moved", 9, 9, "9")]
    {
        let brought = egress.bring(&server.url(path), &[&literal], false, from).await;
        assert_eq!(brought, whole(begins, text), "{path} from {from}");
    }
    let asked = server.requests();
    assert!(!asked[0].headers.iter().any(|(name, _)| name == "range"), "{:?}", asked[0].headers);
    assert!(asked[1].headers.contains(&("range".into(), "bytes=7-".into())), "{:?}", asked[1].headers);
    let refused = egress.bring(&server.url("/f"), &["127.0.0.1:1"], true, 0).await;
    assert_eq!((refused.ended, refused.from), (Err(ToolFailureKind::Denied), None));
    assert_eq!(server.requests().len(), asked.len(), "a refused download asks nobody");
}

#[tokio::test]
async fn what_is_not_the_file_is_not_passed_on() {
    let text = |status, body: &str| Page::Bytes {
        status,
        content_type: "application/octet-stream".into(),
        body: body.into(),
    };
    let server = WebServer::start([
        ("/cut", file(Fault::CutAt(6))),
        ("/more", file(Fault::Surplus(1))),
        ("/page", Page::CutMidBody("log in".into())),
        ("/short", text(200, "012345678")),
        ("/long", text(200, "0123456789a")),
        ("/part", text(206, "789")),
        ("/round", Page::Redirect { status: 302, to: "/round".into() }),
        ("/f", file(Fault::None)),
    ]);
    let literal = server.authority();
    let mut egress = Egress::start();
    for (path, from, begins, came, kind, words) in [
        ("/cut", 0, Some(0), "012345", ToolFailureKind::Network, "was cut after 6 of 10 bytes"),
        ("/more", 2, Some(2), "23456789", ToolFailureKind::TooLarge, "sent more than the 10 bytes"),
        ("/more", 0, None, "", ToolFailureKind::Network, "does not say how large the file is"),
        ("/page", 7, None, "", ToolFailureKind::Network, "does not say how large the file is"),
        ("/short", 0, None, "", ToolFailureKind::Network, "has 9 bytes, not 10"),
        ("/long", 0, None, "", ToolFailureKind::Network, "has 11 bytes, not 10"),
        ("/part", 7, None, "", ToolFailureKind::Network, "another part than was asked for"),
        ("/none", 0, None, "", ToolFailureKind::Network, "answered 404"),
        ("/round", 0, None, "", ToolFailureKind::Network, "more than 5 redirects"),
    ] {
        let brought = egress.bring(&server.url(path), &[&literal], false, from).await;
        assert!(brought.why.contains(words), "{path}: {brought:?}");
        assert_eq!((brought.from, brought.text.as_str(), brought.ended), (begins, came, Err(kind)), "{path}");
    }
    let control = egress.bring(&server.url("/f"), &[&literal], false, 0).await;
    assert_eq!(control, whole(0, "0123456789"));
}

#[tokio::test]
async fn https_never_leads_to_http() {
    let server = WebServer::start([("/f", file(Fault::None))]);
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", server.url("/f"));
    let (secure, certificate) = tls_server_saying(&["127.0.0.1"], answer).await;
    let (end, other) = tls_server(&["127.0.0.1"]).await;
    let onward = format!("HTTP/1.1 302 Found\r\nlocation: https://{end}/\r\ncontent-length: 0\r\n\r\n");
    let (hop, third) = tls_server_saying(&["127.0.0.1"], onward).await;
    let mut egress = Egress::trusting(vec![certificate, other, third]);
    let rules: Vec<String> = [secure, end, hop, server.address()].iter().map(ToString::to_string).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let url = |address: SocketAddr| format!("https://{address}/");
    let refused = egress.bring(&url(secure), &rules, false, 0).await;
    assert!(refused.why.contains("leads from https to http"), "{refused:?}");
    assert!(server.requests().is_empty(), "the way was not gone");
    let control = egress.bring(&url(hop), &rules, false, 0).await;
    assert!(control.why.contains("has 6 bytes, not 10"), "from https to https: {control:?}");
}

#[tokio::test]
async fn a_name_leads_to_a_private_address_only_where_that_address_is_granted_beside_it() {
    let server = WebServer::start([("/f", file(Fault::None))]);
    let port = server.address().port();
    let (url, name) = (format!("http://loop.test:{port}/f"), format!("loop.test:{port}"));
    let mut egress = Egress::start();
    for others in ["10.0.0.1:1".to_owned(), format!("127.0.0.2:{port}"), "127.0.0.1:1".to_owned()] {
        let refused = egress.bring(&url, &[&name, &others], true, 0).await;
        assert!(refused.why.contains("127.0.0.1, a loopback address"), "{others}: {refused:?}");
    }
    assert!(server.requests().is_empty());
    let address = format!("127.0.0.1:{port}");
    assert_eq!(egress.bring(&url, &[&name, &address], false, 0).await, whole(0, "0123456789"));
    let alone = egress.bring(&url, &[&address], false, 0).await;
    assert_eq!(alone.ended, Err(ToolFailureKind::Denied), "the name has to be granted, too");
}

#[tokio::test]
async fn a_download_that_is_given_up_lets_go_of_its_server() {
    let server = WebServer::start([("/hang", file(Fault::HangAt(3))), ("/f", file(Fault::None))]);
    let literal = server.authority();
    let mut egress = Egress::start();
    let (mut near, far) = UnixStream::pair().expect("a socket pair");
    egress.serial = 1;
    let download = EgressRequest::Download {
        serial: RequestSerial(1),
        url: server.url("/hang"),
        from: Bytes(0),
        size: Bytes(10),
        hosts: vec![parse_rule(&literal)],
        public: false,
    };
    egress.near.send_with(&download, far.as_fd()).await;
    drop(far);
    let mut came = [0; 3];
    near.read_exact(&mut came).await.expect("they come");
    egress.near.send(&EgressRequest::Cancel { serial: RequestSerial(1) }).await;
    assert_eq!(near.read(&mut came).await.expect("its end"), 0);
    let server = tokio::task::spawn_blocking(move || {
        server.wait_for_hangups(1);
        server
    });
    let server = server.await.expect("the connection was closed");
    let EgressReply::Delivering { .. } = egress.near.receive().await else { panic!("it had begun") };
    let control = egress.bring(&server.url("/f"), &[&literal], false, 0).await;
    assert_eq!(control, whole(0, "0123456789"));
}
