//! What a provider says of its limits, on the wire: beside an answer, and instead of one.

use std::io::{Read, Write};

use aaos_core::model::{ModelFailureKind, Pace, Room};
use aaos_core::quantity::Millis;
use aaos_core::wire::{ModelsReply, ModelsRequest, ModelsSetup, RequestSerial, WireFormat};
use aaos_gateway::dial::Dialer;
use aaos_gateway::models::Desk;
use hickory_resolver::config::ResolverConfig;
use tokio::net::UnixStream;

use crate::common::Near;
use crate::models::{LONG, model, provider, request};

const ANSWER: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// Everything that the gateway says of one request that is answered with this status line and these headers.
async fn heard(format: WireFormat, status: &str, headers: &str, body: &str) -> Vec<ModelsReply> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("bound"));
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\n{headers}connection: close\r\n\r\n{body}"
    );
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the gateway connects");
        let mut request = [0; 65536];
        assert!(stream.read(&mut request).expect("a request") > 0);
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let aliases = vec![(model("smart"), model("scripted"))];
    let setup =
        ModelsSetup { providers: vec![provider(format, base_url)], aliases, ..ModelsSetup::default() };
    let desk = Desk::new(setup, Dialer::with(ResolverConfig::default(), Vec::new()));
    let (near, far) = UnixStream::pair().expect("a socket pair");
    tokio::spawn(aaos_gateway::models::serve(far, desk));
    let mut near = Near(near);
    let ask = ModelsRequest::Ask { serial: RequestSerial(1), request: Box::new(request()), time: LONG };
    near.send(&ask).await;
    let mut heard = Vec::new();
    while !matches!(heard.last(), Some(ModelsReply::Done { .. } | ModelsReply::Failed { .. })) {
        heard.push(near.receive().await);
    }
    server.join().expect("the server ends");
    heard
}

/// How long the provider wants quiet that answers 429 with these headers.
async fn quiet(format: WireFormat, headers: &str) -> Option<Millis> {
    let heard = heard(format, "429 Too Many Requests", headers, "{}").await;
    let [ModelsReply::Failed { failure, .. }] = heard.as_slice() else { panic!("one failure: {heard:?}") };
    assert_eq!(failure.kind, ModelFailureKind::RateLimited, "{failure}");
    assert!(failure.is_wait());
    failure.retry_after
}

#[tokio::test]
async fn limits_are_told_before_the_first_word() {
    let headers = "x-ratelimit-remaining-requests: 3\r\nx-ratelimit-reset-requests: 1m2s\r\n\
                   x-ratelimit-remaining-tokens: -7\r\nx-ratelimit-reset-tokens: 1s\r\n";
    for (headers, requests) in [
        (headers, Some(Room { left: 3, resets_in: Millis(62_000) })),
        ("", None),
        ("x-ratelimit-remaining-requests: 0\r\n", None),
    ] {
        let heard = heard(WireFormat::OpenAi, "200 OK", headers, ANSWER).await;
        let Some(ModelsReply::Begun { pace, .. }) = heard.first() else { panic!("it begins: {heard:?}") };
        assert_eq!(*pace, Pace { requests, tokens: None });
        assert!(matches!(heard.last(), Some(ModelsReply::Done { .. })), "{heard:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_for_how_long_in_every_spelling() {
    let date = "date: Mon, 23 Nov 2026 09:30:00 GMT\r\n";
    let anthropic = |left: u32| {
        format!(
            "{date}anthropic-ratelimit-requests-remaining: {left}\r\n\
             anthropic-ratelimit-requests-reset: 2026-11-23T09:30:20Z\r\n"
        )
    };
    for (headers, wait) in [
        ("retry-after: 7\r\n".to_owned(), Some(7_000)),
        (format!("{date}retry-after: Mon, 23 Nov 2026 09:30:30 GMT\r\n"), Some(30_000)),
        ("retry-after: 99999999999999\r\n".to_owned(), Some(3_600_000)),
        ("retry-after: -1\r\n".to_owned(), None),
        ("retry-after: NaN\r\n".to_owned(), None),
        ("retry-after: soon\r\n".to_owned(), None),
        (anthropic(0), Some(20_000)),
        (anthropic(1), None),
        (format!("{}retry-after: 2\r\n", anthropic(0)), Some(2_000)),
        (String::new(), None),
    ] {
        for format in [WireFormat::OpenAi, WireFormat::Anthropic] {
            assert_eq!(quiet(format, &headers).await, wait.map(Millis), "{headers}");
        }
    }
}

#[tokio::test]
async fn an_empty_account_is_final() {
    let body = r#"{"error":{"message":"You have no credit.","type":"insufficient_quota"}}"#;
    let heard = heard(WireFormat::OpenAi, "429 Too Many Requests", "retry-after: 1\r\n", body).await;
    let Some(ModelsReply::Failed { failure, .. }) = heard.last() else { panic!("it fails: {heard:?}") };
    assert_eq!(failure.kind, ModelFailureKind::Rejected);
    assert!(!failure.is_wait() && failure.message.contains("account"), "{failure}");
}
