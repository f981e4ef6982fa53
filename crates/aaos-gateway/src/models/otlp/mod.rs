//! Spans of model calls, sent to a collector of the operator's: OTLP over HTTP, encoded as JSON.
//!
//! agentd says what a call was; here it is written down and posted to `<endpoint>/v1/traces`.
//!
//! Invariants: nothing but the configured collector is reached, and redirects are not followed; one request at a time, in
//! bounded time, and of its answer only the status, `Retry-After` and a count are read. No word of the collector's and no
//! header's value leaves here: a hostile one could give the operator's secrets back to be shown.

mod json;

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aaos_core::limits::MAX_PROVIDER_HEADERS;
use aaos_core::name::ProviderName;
use aaos_core::span::{BatchFate, CallSpan, SpanSetup};
use aaos_core::wire::is_reserved_header;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::cassette::Heard;
use super::failure::parse_retry_after;
use super::keys;
use super::pace::LONGEST;
use super::provider::Service;
use super::server::Server;
use super::{Desk, read_beginning};
use crate::USER_AGENT;
use crate::dial::{DialError, Dialer};

/// Time for one request and its answer.
const TRY_TIME: Duration = Duration::from_secs(5);
/// Time for all requests with the same spans, and what is waited between them.
const BATCH_TIME: Duration = Duration::from_secs(30);
/// Most requests with the same spans.
const MAX_TRIES: u32 = 4;
/// Rest before the second one, unless the collector says how long; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Sends spans.
#[derive(Debug)]
pub(super) struct Exporter {
    version: String,
    /// Or why there is none.
    collector: Result<Collector, String>,
}

/// Where spans go.
#[derive(Debug)]
struct Collector {
    server: Server,
    /// Of the operator's file.
    headers: HeaderMap,
    /// Until when it wants no request.
    quiet_until: Mutex<Option<Instant>>,
}

/// Why a request came to nothing.
struct Miss {
    why: String,
    again: Again,
}

/// Whether the same request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    /// After this long, where the collector says so.
    After(Option<Duration>),
}

impl Exporter {
    /// Reads the setup once; what is wrong with it is told with each batch.
    pub(super) fn new(setup: SpanSetup, headers: Option<OwnedFd>) -> Self {
        let collector = match setup.problem {
            Some(problem) => Err(problem),
            None => Collector::new(&setup.endpoint, headers),
        };
        Self { version: setup.version, collector }
    }
}

impl Desk {
    /// Sends spans, if there is a collector; with none it says only whether there could be one.
    pub(super) async fn export(&self, exporter: &Exporter, spans: &[CallSpan]) -> BatchFate {
        let all = spans.len() as u64;
        let lost = |why: String| BatchFate { failed: all, problem: Some(why) };
        let collector = match &exporter.collector {
            Ok(collector) => collector,
            Err(why) => return lost(why.clone()),
        };
        if spans.is_empty() {
            return BatchFate::default();
        }
        let body = Bytes::from(json::written(spans, &exporter.version, |name| self.server_of(name)));
        match collector.deliver(&self.dialer, &body).await {
            Ok(0) => BatchFate::default(),
            Ok(rejected) => {
                let why =
                    format!("the collector at {} rejected {rejected} spans", collector.server.authority);
                BatchFate { failed: rejected.min(all), problem: Some(why) }
            }
            Err(why) => lost(why),
        }
    }

    /// Where a provider is, if it is anywhere else.
    fn server_of(&self, name: &ProviderName) -> Option<(String, u16)> {
        let provider = self.providers.iter().find(|one| one.name == *name)?;
        match &provider.service {
            Service::Remote(endpoint) => Some((endpoint.server.host(), endpoint.server.port)),
            Service::Builtin | Service::Unusable(_) => None,
        }
    }
}

impl Collector {
    fn new(endpoint: &str, headers: Option<OwnedFd>) -> Result<Self, String> {
        let server = Server::parse("endpoint", endpoint, "put a header into `headers_file` of [otlp]")?;
        let headers = match headers {
            Some(file) => {
                let text = keys::read(&file).map_err(|why| format!("the headers file of [otlp] {why}"))?;
                read_headers(&text)?
            }
            None => HeaderMap::new(),
        };
        Ok(Self { server, headers, quiet_until: Mutex::default() })
    }

    /// Posts a body, again where that can help; gives how many spans the collector rejected.
    async fn deliver(&self, dialer: &Dialer, body: &Bytes) -> Result<u64, String> {
        let deadline = Instant::now() + BATCH_TIME;
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            self.keep_quiet(deadline).await?;
            tries += 1;
            let miss = match timeout(TRY_TIME, self.post(dialer, body.clone())).await {
                Ok(Ok(rejected)) => return Ok(rejected),
                Ok(Err(miss)) => miss,
                // It may have taken them.
                Err(_) => return Err(self.says(&format!("did not answer within {} s", TRY_TIME.as_secs()))),
            };
            let Again::After(wish) = miss.again else { return Err(miss.why) };
            let wait = wish.unwrap_or(pause).min(LONGEST);
            if wish.is_some() {
                *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Instant::now() + wait);
            }
            if tries == MAX_TRIES || Instant::now() + wait >= deadline {
                return Err(miss.why);
            }
            sleep(wait).await;
            pause *= 2;
        }
    }

    /// Waits while the collector wants no request.
    async fn keep_quiet(&self, deadline: Instant) -> Result<(), String> {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = until.filter(|until| *until > Instant::now()) else { return Ok(()) };
        if until >= deadline {
            let left = until.duration_since(Instant::now()).as_secs();
            return Err(self.says(&format!("wants no request for another {left} s")));
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    async fn post(&self, dialer: &Dialer, body: Bytes) -> Result<u64, Miss> {
        let unsent = |error: DialError| {
            let helps = matches!(error, DialError::Connect { .. } | DialError::Lookup { .. });
            let again = if helps || error.is_lost_line() { Again::After(None) } else { Again::Never };
            Miss { why: self.says(&format!("cannot be reached: {error}")), again }
        };
        let request = self.request(body).map_err(|why| Miss { why, again: Again::Never })?;
        let addresses = self.server.addresses(dialer).await.map_err(unsent)?;
        let answer = dialer.exchange(&addresses, &self.server.layer(), request).await.map_err(unsent)?;
        let mut answer = Heard::live(answer);
        let status = answer.status;
        if status == StatusCode::OK {
            return Ok(rejected(&read_beginning(&mut answer).await));
        }
        let again = match status.as_u16() {
            429 | 502 | 503 | 504 => {
                let wish = answer.header("retry-after");
                Again::After(wish.and_then(|text| parse_retry_after(text, answer.header("date"))))
            }
            _ => Again::Never,
        };
        let more = if status.is_redirection() { "; redirects are not followed" } else { "" };
        Err(Miss { why: self.says(&format!("answered {}{more}", status.as_u16())), again })
    }

    fn request(&self, body: Bytes) -> Result<hyper::Request<Full<Bytes>>, String> {
        let mut request = hyper::Request::post(format!("{}/v1/traces", self.server.path))
            .header(header::HOST, &self.server.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::USER_AGENT, USER_AGENT);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(body)).map_err(|_| self.says("has a URL that no request can have"))
    }

    fn says(&self, what: &str) -> String {
        format!("the collector at {} {what}", self.server.authority)
    }
}

/// What a collector says that took only a part.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExportAnswer {
    partial_success: PartialSuccess,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    /// A number, which the mapping of protocol buffers writes as text.
    rejected_spans: Value,
}

/// How many spans a collector says that it rejected; what cannot be read says nothing.
fn rejected(body: &[u8]) -> u64 {
    let answer: ExportAnswer = serde_json::from_slice(body).unwrap_or_default();
    let told = answer.partial_success.rejected_spans;
    told.as_u64().or_else(|| told.as_str()?.parse().ok()).unwrap_or_default()
}

/// Reads `Name: value`, one a line. What is wrong is told by its line, never in its words.
fn read_headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |why: &str| format!("line {} of the headers file of [otlp] {why}", at + 1);
        let (name, value) =
            line.split_once(':').ok_or_else(|| bad("is no header; write `Name: value`, one a line"))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| bad("has a name that no header has; write `Name: value`, one a line"))?;
        if is_own(&name) {
            return Err(bad("sets a header that aaOS sets itself; leave it out"));
        }
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| bad("holds characters that no header may hold; was it pasted whole?"))?;
        value.set_sensitive(true);
        headers.append(name, value);
        if headers.len() > MAX_PROVIDER_HEADERS {
            return Err(bad(&format!("is one too many; there may be {MAX_PROVIDER_HEADERS}")));
        }
    }
    Ok(headers)
}

/// Whether a header says how a request is framed. Those of who asks are the operator's.
fn is_own(name: &HeaderName) -> bool {
    let is_of_whom = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(name);
    let is_key = name.as_str() == "x-api-key";
    *name == header::CONTENT_ENCODING || (is_reserved_header(name.as_str()) && !is_of_whom && !is_key)
}

#[cfg(test)]
mod tests {
    use super::{read_headers, rejected};

    #[test]
    fn headers_are_read_and_what_is_wrong_is_told_without_its_words() {
        let read = read_headers("Authorization: Bearer s3cret\n\n x-scope-orgid : a:b \r\n").expect("good");
        let value = |name: &str| read.get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(value("authorization").as_deref(), Some("Bearer s3cret"));
        assert_eq!(value("x-scope-orgid").as_deref(), Some("a:b"));
        assert!(!format!("{read:?}").contains("s3cret"));
        for (text, said) in [
            ("A: b\ns3cret", "line 2 of the headers file of [otlp] is no header"),
            ("s3 cret: v", "line 1 of the headers file of [otlp] has a name that no header has"),
            ("A: s3cret\rB: s3cret", "holds characters that no header may hold"),
            ("A: s3cret\0", "holds characters that no header may hold"),
            ("Host: s3cret", "sets a header that aaOS sets itself"),
            ("Content-Encoding: s3cret", "sets a header that aaOS sets itself"),
            ("transfer-encoding: s3cret", "sets a header that aaOS sets itself"),
        ] {
            let error = read_headers(text).expect_err("refused");
            assert!(error.contains(said) && !error.contains("s3cret"), "{text:?}: {error}");
        }
        assert_eq!(read_headers(&"a: b\n".repeat(16)).expect("the control").len(), 16);
        assert!(read_headers(&"a: b\n".repeat(17)).expect_err("bounded").contains("there may be 16"));
    }

    #[test]
    fn a_part_that_was_not_taken_is_counted_and_nonsense_is_not() {
        for (body, count) in [
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":4}}"#, 4),
            (r#"{"partialSuccess":{}}"#, 0),
            ("{}", 0),
            ("", 0),
            ("<html>", 0),
            (r#"{"partialSuccess":{"rejectedSpans":"-1"}}"#, 0),
        ] {
            assert_eq!(rejected(body.as_bytes()), count, "{body}");
        }
    }
}
