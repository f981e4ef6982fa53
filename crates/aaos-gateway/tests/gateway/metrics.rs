//! Metrics over a listener that was handed over: what is read, and what a bad reader can do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use aaos_core::model::{ModelFailureKind, Usage};
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::observe::{CallFigures, Snapshot};
use aaos_core::quantity::{MicroUsd, Tokens};
use aaos_core::span::SpanFigures;
use aaos_core::wire::{ModelsReply, ModelsRequest, ModelsSetup, RequestSerial};
use aaos_gateway::dial::Dialer;
use aaos_gateway::models::Desk;
use hickory_resolver::config::ResolverConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::common::Near;

const GOOD: &str = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9464\r\n\r\n";
/// As many as are served at once.
const READERS: usize = 8;

/// All that is answered to a request; empty where the connection is closed without a word.
async fn read(readers: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(readers).await.expect("somebody listens");
    let mut told = Vec::new();
    // Whoever is refused may find the connection closed while it still writes.
    if stream.write_all(request.as_bytes()).await.is_ok() {
        drop(stream.read_to_end(&mut told).await);
    }
    String::from_utf8(told).expect("text")
}

/// The same, with agentd's part played as often as newer figures are wanted.
pub(crate) async fn read_answered(
    near: &mut Near,
    readers: SocketAddr,
    request: &str,
    snapshot: &Snapshot,
) -> String {
    let reading = read(readers, request);
    tokio::pin!(reading);
    loop {
        tokio::select! {
            told = &mut reading => return told,
            reply = near.receive::<ModelsReply>() => {
                let ModelsReply::Wanted { serial } = reply else { panic!("not about metrics: {reply:?}") };
                near.send(&ModelsRequest::Show { serial, snapshot: Box::new(snapshot.clone()) }).await;
            }
        }
    }
}

/// A `models` role that serves metrics and was shown nothing yet, and where they are read.
async fn start() -> (Near, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let readers = listener.local_addr().expect("it is bound");
    let desk = Desk::new(ModelsSetup::default(), Dialer::with(ResolverConfig::default(), Vec::new()));
    let (near, far) = UnixStream::pair().expect("a socket pair");
    tokio::spawn(aaos_gateway::models::serve(far, desk.with_metrics(OwnedFd::from(listener))));
    let mut near = Near(near);
    near.send(&ModelsRequest::Show { serial: RequestSerial(1), snapshot: Box::default() }).await;
    (near, readers)
}

fn figures() -> Snapshot {
    let provider = ProviderName::parse("first").expect("a name");
    let mut one = CallFigures::none(provider, ModelName::parse("org/one").expect("a name"));
    one.answered = 3;
    one.failed.insert(ModelFailureKind::Timeout, 2);
    one.retried.insert(ModelFailureKind::RateLimited, 7);
    one.usage =
        Usage { input_tokens: Tokens(100), output_tokens: Tokens(40), cached_input_tokens: Tokens(25) };
    one.cost = MicroUsd(1_500_000);
    for time in [1, 250, 250, 9_000_000] {
        one.first_token_ms.add(time);
    }
    Snapshot {
        calls_open: 4,
        calls_waiting: 1,
        agents: 6,
        goals_running: 2,
        goals_queued: 5,
        models: vec![one],
        spans: Some(SpanFigures { sent: 8, failed: 1, dropped: 2, waiting: 0, problem: None }),
    }
}

/// The samples of a text in the format of Prometheus, strictly read: each family has its help and type once and before
/// its samples, no sample is there twice, buckets only grow and end with all, and counts are theirs.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut kinds, mut helped) = (BTreeMap::new(), BTreeSet::new());
    let mut found = BTreeMap::new();
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(rest.split(' ').next().expect("a name")), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind) && helped.contains(name), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        let name = series.split('{').next().expect("a name");
        assert!(name.bytes().all(|one| one.is_ascii_alphanumeric() || one == b'_'), "{line}");
        let ends = ["_bucket", "_sum", "_count"];
        let family =
            ends.iter().filter_map(|end| name.strip_suffix(end)).find(|base| kinds.contains_key(base));
        let kind = kinds.get(family.unwrap_or(name)).expect("its type comes before it");
        assert_eq!(*kind == "histogram", family.is_some(), "{line}");
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{line}");
        if let Some(labels) = series.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')) {
            let labels = labels.strip_suffix('}').expect("they end");
            for label in labels.split(',') {
                let (label, value) = label.split_once('=').expect("a label");
                assert!(["provider", "model", "outcome", "reason", "kind", "le"].contains(&label), "{line}");
                assert!(value.len() > 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
            }
        }
        let value: f64 = value.parse().expect("a number");
        assert!(found.insert(series.to_owned(), value).is_none(), "{line} is there twice");
    }
    let mut last: Option<(String, f64)> = None;
    for line in text.lines().filter(|line| line.contains("_bucket{")) {
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        let of = series.split(",le=").next().expect("its labels").to_owned();
        let value: f64 = value.parse().expect("a number");
        if let Some((_, below)) = last.filter(|(before, _)| *before == of) {
            assert!(value >= below, "{line}");
        }
        if series.contains("+Inf") {
            let count = format!("{}}}", of.replace("_bucket", "_count"));
            assert_eq!(found.get(&count), Some(&value), "{count}");
        }
        last = Some((of, value));
    }
    found
}

#[tokio::test]
async fn figures_are_asked_for_and_written_in_the_format_of_prometheus() {
    let (mut near, readers) = start().await;
    // What is shown first is not what is read later: newer figures are asked for.
    let mut told = String::new();
    while !told.contains("aaos_agents 6") {
        told = read_answered(&mut near, readers, GOOD, &figures()).await;
        assert!(told.starts_with("HTTP/1.1 200 OK"), "{told}");
    }
    let (head, text) = told.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let found = samples(text);
    let of = |name: &str, more: &str| found[&format!("{name}{{provider=\"first\",model=\"org/one\"{more}}}")];
    for (name, more, value) in [
        ("aaos_model_calls_total", ",outcome=\"answered\"", 3.0),
        ("aaos_model_calls_total", ",outcome=\"timeout\"", 2.0),
        ("aaos_model_retries_total", ",reason=\"rate_limited\"", 7.0),
        ("aaos_model_tokens_total", ",kind=\"input_fresh\"", 75.0),
        ("aaos_model_tokens_total", ",kind=\"input_cached\"", 25.0),
        ("aaos_model_tokens_total", ",kind=\"output\"", 40.0),
        ("aaos_model_cost_usd_total", "", 1.5),
        ("aaos_model_time_to_first_token_seconds_bucket", ",le=\"0.200\"", 1.0),
        ("aaos_model_time_to_first_token_seconds_bucket", ",le=\"0.300\"", 3.0),
        ("aaos_model_time_to_first_token_seconds_bucket", ",le=\"+Inf\"", 4.0),
        ("aaos_model_time_to_first_token_seconds_sum", "", 9_000.501),
    ] {
        assert!((of(name, more) - value).abs() < 1e-9, "{name} {more}: {}", of(name, more));
    }
    assert!((found["aaos_model_calls_waiting"] - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn only_metrics_are_read_and_only_from_here() {
    let (mut near, readers) = start().await;
    let long = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(100));
    for (request, answer) in [
        (GOOD, "HTTP/1.1 200"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 404"),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405"),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example:9464\r\n\r\n", "HTTP/1.1 421"),
        ("GET /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 421"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400"),
        (&many, "HTTP/1.1 431"),
        (&long, "HTTP/1.1 431"),
    ] {
        let told = read_answered(&mut near, readers, request, &figures()).await;
        // Where more was sent than is read, the answer may be lost with the connection.
        let is_cut = told.is_empty() && request.len() > 8 * 1024;
        assert!(told.starts_with(answer) || is_cut, "{} -> {told}", &request[..request.len().min(80)]);
        assert_eq!(told.contains("aaos_agents"), answer.ends_with("200"), "{told}");
    }
}

#[tokio::test]
async fn readers_that_say_nothing_keep_others_out_for_a_short_time_only() {
    let (mut near, readers) = start().await;
    let mut silent = Vec::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(readers).await.expect("somebody listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHos").await.expect("there is room");
        silent.push(stream);
    }
    // The bound: there is no place for one more.
    assert_eq!(read(readers, GOOD).await, "");
    // And the control: each of them is hung up on, without its having done anything, and then there is.
    for stream in &mut silent {
        let mut told = Vec::new();
        drop(stream.read_to_end(&mut told).await);
        assert!(!String::from_utf8_lossy(&told).contains("aaos_"), "{told:?}");
    }
    let mut told = String::new();
    while told.is_empty() {
        told = read_answered(&mut near, readers, GOOD, &figures()).await;
    }
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
}
