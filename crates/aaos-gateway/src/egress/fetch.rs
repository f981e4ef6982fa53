//! One fetch: hop by hop, each decided anew.
//!
//! Invariants: between the check of an address and the connection to it nothing is looked up again; what comes with a
//! redirect is told before it is followed, and counts against what may come at all.

use std::fs::File;
use std::io::Write;

use aaos_core::capability::HostRule;
use aaos_core::limits::{MAX_REDIRECTS, MAX_URL_BYTES, MAX_WEB_FETCH_BYTES};
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, RequestSerial};
use http_body_util::Full;
use hyper::StatusCode;
use hyper::header;

use super::target::Target;
use crate::USER_AGENT;
use crate::channel::Outbox;
use crate::dial::{Answer, Dialer, Layer};
use crate::words::harmless;

/// Longest media type that is passed on.
const MAX_CONTENT_TYPE_BYTES: usize = 256;
/// What is asked for; servers may give anything.
const ACCEPT: &str = "text/html,text/markdown,text/plain,application/json;q=0.9,*/*;q=0.5";

/// A page whose body lies in the memfd.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) final_url: String,
    pub(super) bytes: Bytes,
    pub(super) truncated: bool,
}

/// What one fetch may do, and where its body goes.
#[derive(Debug)]
pub(super) struct Job<'a> {
    dialer: &'a Dialer,
    hosts: Vec<HostRule>,
    public: bool,
    cap: u64,
    page: File,
    told: Told<'a>,
}

/// Where agentd hears of this fetch.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) serial: RequestSerial,
    pub(super) outbox: &'a Outbox,
}

pub(super) fn network(message: String) -> ToolFailure {
    ToolFailure::new(ToolFailureKind::Network, message)
}

impl<'a> Job<'a> {
    pub(super) fn new(
        dialer: &'a Dialer,
        hosts: Vec<HostRule>,
        public: bool,
        max_bytes: Bytes,
        page: File,
        told: Told<'a>,
    ) -> Self {
        Self { dialer, hosts, public, cap: max_bytes.0.min(MAX_WEB_FETCH_BYTES), page, told }
    }

    pub(super) async fn fetch(&mut self, url: &str) -> Result<Page, ToolFailure> {
        let mut target = Target::parse(url)?;
        for _hop in 0..=MAX_REDIRECTS {
            let mut answer = self.hop(&target).await?;
            match redirect(&target, &answer)? {
                Some(next) => {
                    self.count_redirect(&target, answer.received()).await?;
                    target = next;
                }
                None => return self.keep(&target, &mut answer).await,
            }
        }
        Err(network(format!(
            "{url} leads through more than {MAX_REDIRECTS} redirects; the last was to {}",
            target.url
        )))
    }

    /// A redirect is part of what the fetch brings: it is told, and leaves less for the page.
    async fn count_redirect(&mut self, target: &Target, bytes: u64) -> Result<(), ToolFailure> {
        let Told { serial, outbox } = self.told;
        outbox.send(&EgressReply::Redirected { serial, bytes: Bytes(bytes) }).await;
        self.cap = self.cap.checked_sub(bytes).filter(|left| *left > 0).ok_or_else(|| {
            let why =
                format!("the redirect of {} brought {bytes} bytes, and max_bytes left fewer", target.url);
            ToolFailure::new(ToolFailureKind::TooLarge, why)
        })?;
        Ok(())
    }

    async fn hop(&self, target: &Target) -> Result<Answer, ToolFailure> {
        ask(self.dialer, target, (&self.hosts, self.public), None).await
    }

    async fn keep(&mut self, target: &Target, answer: &mut Answer) -> Result<Page, ToolFailure> {
        check_coding(target, answer)?;
        let mut bytes = 0_u64;
        let mut truncated = false;
        while !truncated {
            let cut = |error| network(format!("the body of {} was cut: {error}", target.url));
            let Some(piece) = answer.chunk().await.map_err(cut)? else { break };
            let room = usize::try_from(self.cap - bytes).unwrap_or(usize::MAX);
            truncated = piece.len() > room;
            let piece = &piece[..piece.len().min(room)];
            self.page
                .write_all(piece)
                .map_err(|error| network(format!("the fetched body could not be kept: {error}")))?;
            bytes += piece.len() as u64;
        }
        assert!(bytes <= self.cap, "a body never exceeds its cap");
        let content_type = answer.header("content-type").unwrap_or("application/octet-stream");
        let mut final_url = target.url.to_string();
        final_url.truncate(MAX_URL_BYTES);
        Ok(Page {
            status: answer.head.status.as_u16(),
            content_type: content_type.chars().take(MAX_CONTENT_TYPE_BYTES).collect(),
            final_url,
            bytes: Bytes(bytes),
            truncated,
        })
    }
}

/// Asks one host, if the rules cover it, for what a target names, or for the rest of it from a byte on.
pub(super) async fn ask(
    dialer: &Dialer,
    target: &Target,
    (hosts, public): (&[HostRule], bool),
    from: Option<u64>,
) -> Result<Answer, ToolFailure> {
    let passage = target.authorise(hosts, public)?;
    let addresses = target.addresses(dialer, passage, hosts).await?;
    let mut request = hyper::Request::get(target.path_and_query())
        .header(header::HOST, target.authority())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, ACCEPT)
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close");
    if let Some(from) = from {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let request = request
        .body(Full::default())
        .map_err(|error| network(format!("{} cannot be asked for: {error}", target.url)))?;
    let layer = if target.is_secure { Layer::Tls(target.host.plain()) } else { Layer::Plain };
    dialer.exchange(&addresses, &layer, request).await.map_err(|error| target.unreachable(&error))
}

/// What comes is taken as it is, so it may not be compressed.
pub(super) fn check_coding(target: &Target, answer: &Answer) -> Result<(), ToolFailure> {
    let coding = answer.header("content-encoding").unwrap_or("identity").trim().to_ascii_lowercase();
    if coding.is_empty() || coding == "identity" {
        return Ok(());
    }
    Err(network(format!(
        "{} sent a compressed body ({}) although none was asked for",
        target.url,
        harmless(&coding, None)
    )))
}

/// Where an answer sends us, if it does.
pub(super) fn redirect(target: &Target, answer: &Answer) -> Result<Option<Target>, ToolFailure> {
    let is_redirect = matches!(
        answer.head.status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    match answer.header("location") {
        Some(location) if is_redirect => target.redirected(location).map(Some),
        _ => Ok(None),
    }
}
