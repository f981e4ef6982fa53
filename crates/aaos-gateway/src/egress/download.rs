//! One download: a large file of known size, from where an earlier one broke off, into a stream of agentd's.
//!
//! Invariants: every hop is decided anew, and none leads from https to http; nothing beyond the size is passed on, and
//! less is no success; no wait, for the server or for agentd, is longer than the limit for standing still, and a server that
//! sends too little in as much waiting is given up. What the bytes are is not looked at: agentd knows their hash and trusts
//! no source.

use std::time::Duration;

use aaos_core::capability::HostRule;
use aaos_core::limits::{DOWNLOAD_IDLE_MS, MAX_REDIRECTS, MIN_DOWNLOAD_BYTES};
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_core::wire::{EgressReply, RequestSerial};
use hyper::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::fetch::{ask, check_coding, network, redirect};
use super::target::Target;
use crate::channel::Outbox;
use crate::dial::{Answer, Dialer};
use crate::words::harmless;

/// What is to be brought.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) serial: RequestSerial,
    pub(super) url: String,
    pub(super) from: Bytes,
    pub(super) size: Bytes,
    pub(super) hosts: Vec<HostRule>,
    pub(super) public: bool,
}

impl Download {
    /// Brings it; gives how much was passed on.
    pub(super) async fn bring(
        &self,
        dialer: &Dialer,
        mut sink: UnixStream,
        outbox: &Outbox,
    ) -> Result<Bytes, ToolFailure> {
        let mut target = Target::parse(&self.url)?;
        for _hop in 0..=MAX_REDIRECTS {
            let rest = Some(self.from.0).filter(|from| *from > 0);
            let asked = ask(dialer, &target, (&self.hosts, self.public), rest);
            let mut answer = moving(&target, asked).await??;
            match redirect(&target, &answer)? {
                Some(next) if target.is_secure && !next.is_secure => {
                    let why = format!("{} leads from https to http, to {}", target.url, next.url);
                    return Err(network(why));
                }
                Some(next) => target = next,
                None => {
                    let from = self.beginning(&target, &answer)?;
                    outbox.send(&EgressReply::Delivering { serial: self.serial, from: Bytes(from) }).await;
                    return self.pass_on(&target, &mut answer, from, &mut sink).await;
                }
            }
        }
        let (url, last) = (&self.url, &target.url);
        Err(network(format!(
            "{url} leads through more than {MAX_REDIRECTS} redirects; the last was to {last}"
        )))
    }

    /// Where in the file an answer begins. One that is about another file, or a failure, is none.
    fn beginning(&self, target: &Target, answer: &Answer) -> Result<u64, ToolFailure> {
        check_coding(target, answer)?;
        let (url, size) = (&target.url, self.size.0);
        let another = |bytes: u64| network(format!("the file at {url} has {bytes} bytes, not {size}"));
        match answer.head.status {
            StatusCode::OK => match answer.header("content-length").and_then(|text| text.parse().ok()) {
                Some(bytes) if bytes == size => Ok(0),
                Some(bytes) => Err(another(bytes)),
                // Whatever it is, what came before is not given up for it.
                None => Err(network(format!("{url} does not say how large the file is"))),
            },
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.header("content-range").unwrap_or_default();
                match parse_range(range) {
                    Some((_, Some(bytes))) if bytes != size => Err(another(bytes)),
                    Some((from, _)) if from == self.from.0 => Ok(from),
                    _ => {
                        let range = harmless(range, None);
                        Err(network(format!("{url} gave another part than was asked for ({range:?})")))
                    }
                }
            }
            status => Err(network(format!("{url} answered {}", status.as_u16()))),
        }
    }

    async fn pass_on(
        &self,
        target: &Target,
        answer: &mut Answer,
        from: u64,
        sink: &mut UnixStream,
    ) -> Result<Bytes, ToolFailure> {
        let (url, size) = (&target.url, self.size.0);
        let mut at = from;
        let mut pace = Pace::default();
        loop {
            let cut =
                |error| network(format!("the file at {url} was cut after {at} of {size} bytes: {error}"));
            let asked = Instant::now();
            let came = tokio::time::timeout(pace.left(), answer.chunk());
            let came = came.await.map_err(|_| too_slow(target, &pace))?;
            let Some(piece) = came.map_err(cut)? else { break };
            if !pace.keeps(asked.elapsed(), piece.len() as u64) {
                return Err(too_slow(target, &pace));
            }
            if piece.len() as u64 > size - at {
                let why = format!("{url} sent more than the {size} bytes that the file has");
                return Err(ToolFailure::new(ToolFailureKind::TooLarge, why));
            }
            let written = moving(target, sink.write_all(&piece)).await?;
            written.map_err(|error| network(format!("agentd takes nothing more: {error}")))?;
            at += piece.len() as u64;
        }
        if at < size {
            return Err(network(format!("the file at {url} ended after {at} of {size} bytes")));
        }
        assert!(at == size, "nothing beyond the size is passed on");
        Ok(Bytes(at - from))
    }
}

/// The first byte, and how large the whole is, where that is said (RFC 9110 §14.4).
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _last) = range.split_once('-')?;
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    Some((first.trim().parse().ok()?, whole))
}

/// How much a server sends in the time that is waited for it. Who drips would else never be given up.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    got: u64,
}

impl Pace {
    const WINDOW: Duration = Duration::from_millis(DOWNLOAD_IDLE_MS);

    /// How long the next piece may take.
    const fn left(&self) -> Duration {
        Self::WINDOW.saturating_sub(self.waited)
    }

    /// Counts a piece; whether there was enough in time. Enough begins a new window.
    fn keeps(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.got += bytes;
        if self.got >= MIN_DOWNLOAD_BYTES {
            *self = Self::default();
        }
        !self.left().is_zero()
    }
}

fn too_slow(target: &Target, pace: &Pace) -> ToolFailure {
    let (url, got) = (&target.url, pace.got);
    let why = format!(
        "the download of {url} stood still: {got} bytes in {DOWNLOAD_IDLE_MS} ms of waiting, and at least \
         {MIN_DOWNLOAD_BYTES} are due"
    );
    ToolFailure::new(ToolFailureKind::Timeout, why)
}

/// Waits for `step`, but not for ever.
async fn moving<T>(target: &Target, step: impl Future<Output = T>) -> Result<T, ToolFailure> {
    tokio::time::timeout(Duration::from_millis(DOWNLOAD_IDLE_MS), step).await.map_err(|_| {
        let why = format!("the download of {} stood still for {DOWNLOAD_IDLE_MS} ms", target.url);
        ToolFailure::new(ToolFailureKind::Timeout, why)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aaos_core::limits::{DOWNLOAD_IDLE_MS, MIN_DOWNLOAD_BYTES};

    use super::{Pace, parse_range};

    #[test]
    fn a_server_that_drips_is_given_up_after_one_window_of_waiting() {
        let almost = Duration::from_millis(DOWNLOAD_IDLE_MS - 1);
        let mut drip = Pace::default();
        assert!(drip.keeps(almost, 1), "the first may take its time");
        assert_eq!(drip.left(), Duration::from_millis(1), "and the next has what that left");
        assert!(!drip.keeps(almost, 1));
        let mut least = Pace::default();
        for _window in 0..100 {
            assert!(least.keeps(almost / 2, MIN_DOWNLOAD_BYTES - 1));
            assert!(least.keeps(almost / 2, 1), "enough, if only just in time");
        }
        let mut quick = Pace::default();
        assert!((0..1_000).all(|_| quick.keeps(Duration::ZERO, 1)), "what waits for nobody is not slow");
    }

    #[test]
    fn a_part_says_where_it_begins_or_is_none() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        for bad in
            ["", "bytes */10", "bytes 5/10", "bytes 5-9", "items 5-9/10", "bytes -5-9/10", "bytes 5-9/x"]
        {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
