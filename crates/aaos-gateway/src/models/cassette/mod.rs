//! Recording the traffic with providers, and replaying it, where a request would go to the wire.
//!
//! The adapters and readers of the wire formats work in a replay as they do against a provider: only the bytes come from
//! a file.
//!
//! Invariants: nothing is opened here; headers of requests, where keys stand, are never recorded, and a configured key
//! that stands elsewhere is taken out, or where a reply spells it, the inference fails; while a cassette is replayed no provider is reached; an exchange that cannot be
//! recorded, and a request that was not recorded, fail the inference for good.

mod file;
mod mask;
mod player;

use std::os::fd::OwnedFd;

use aaos_core::cassette::{CassetteSetup, CassetteUse};
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelReply, Thought};
use aaos_core::name::ProviderName;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::failure::failure;
use super::pace;
use crate::dial::{Answer, DialError};
use crate::words::harmless;
use aaos_core::limits::MAX_CASSETTE_BYTES;
use file::{Answered, Body, Exchange, Recorded, Secrets, Sink};
use mask::Changes;
use player::{Played, Player};

/// Headers of an answer that are read here and so recorded; the paces' own stand beside them.
const KEPT_HEADERS: [&str; 4] = ["content-type", "date", "retry-after", "retry-after-ms"];

/// A stream brings a key in pieces, in which nothing can be taken out.
const KEY_IN_REPLY: &str = "the model's reply holds the key of a provider, so it is not recorded and not taken; find out \
    where the model read it, or run without --record";

/// Where requests go.
#[derive(Debug, Default)]
pub(super) enum Deck {
    /// To the providers.
    #[default]
    Live,
    /// To the providers, and into a file with them.
    Recording(Recorder),
    /// To a file alone.
    Replaying(Player),
    /// Nowhere: the file cannot be used.
    Broken(ModelFailure),
}

impl Deck {
    /// Takes the file that agentd opened.
    pub(super) fn load<'k>(
        setup: &CassetteSetup,
        file: OwnedFd,
        keys: impl Iterator<Item = &'k str>,
    ) -> Self {
        match setup.purpose {
            CassetteUse::Record { length } => {
                Self::Recording(Recorder { sink: Sink::new(file, length), secrets: Secrets::new(keys) })
            }
            CassetteUse::Replay => {
                let player = file::read(&file).and_then(|contents| Player::new(contents, &setup.places));
                player.map_or_else(
                    |error| Self::Broken(not_recorded(&format!("the cassette cannot be replayed: {error}"))),
                    Self::Replaying,
                )
            }
        }
    }

    /// Why nothing can be asked, if so.
    pub(super) const fn problem(&self) -> Option<&ModelFailure> {
        match self {
            Self::Broken(failure) => Some(failure),
            Self::Live | Self::Recording(_) | Self::Replaying(_) => None,
        }
    }

    /// Whether providers are asked at all.
    pub(super) const fn asks_providers(&self) -> bool {
        matches!(self, Self::Live | Self::Recording(_))
    }

    /// The recorded answer to a request; `None` where a provider is to be asked.
    pub(super) fn play(
        &self,
        provider: &ProviderName,
        body: &Bytes,
    ) -> Result<Option<Heard<'_>>, ModelFailure> {
        let player = match self {
            Self::Live | Self::Recording(_) => return Ok(None),
            Self::Replaying(player) => player,
            Self::Broken(failure) => return Err(failure.clone()),
        };
        let miss = |why: String| not_recorded(&format!("provider {provider}: {why}"));
        let body = std::str::from_utf8(body).map_err(|error| miss(error.to_string()))?;
        let Played { answer, changes } = player.play(provider, body).map_err(miss)?;
        match answer {
            Answered::Unreached(failure) => Err(failure),
            Answered::Answer(recorded) => Heard::played(recorded, changes).map(Some).map_err(miss),
        }
    }

    /// What a provider answers, recorded where that is wanted.
    pub(super) fn hear(&self, provider: &ProviderName, body: Bytes, answer: Answer) -> Heard<'_> {
        let mut heard = Heard::live(answer);
        if let Self::Recording(recorder) = self {
            heard.take = Some(Take {
                recorder,
                provider: provider.clone(),
                request: body,
                answer: Vec::new(),
                cut: None,
            });
        }
        heard
    }

    /// Records that a provider was not reached.
    pub(super) fn note_unreached(
        &self,
        provider: &ProviderName,
        body: &Bytes,
        failure: &ModelFailure,
    ) -> Result<(), ModelFailure> {
        let Self::Recording(recorder) = self else { return Ok(()) };
        recorder.add(provider, body, Answered::Unreached(failure.clone()))
    }
}

fn not_recorded(words: &str) -> ModelFailure {
    failure(ModelFailureKind::NotRecorded, words)
}

/// Writes what is exchanged.
#[derive(Debug)]
pub(super) struct Recorder {
    sink: Sink,
    secrets: Secrets,
}

impl Recorder {
    fn add(&self, provider: &ProviderName, request: &Bytes, answer: Answered) -> Result<(), ModelFailure> {
        let unwritten = |why: String| {
            not_recorded(&format!(
                "the cassette cannot be written, so nothing more is asked: {why}; record into a new file"
            ))
        };
        let request = self.secrets.redact_text(&String::from_utf8_lossy(request));
        let request = RawValue::from_string(request).map_err(|error| unwritten(error.to_string()))?;
        let exchange = Exchange { provider: provider.clone(), request, answer };
        self.sink.add(&exchange).map_err(unwritten)
    }
}

/// An exchange that is being recorded. One that is given up on the way, because its time is over or its agent is
/// stopped, leaves nothing in the file.
#[derive(Debug)]
struct Take<'d> {
    recorder: &'d Recorder,
    provider: ProviderName,
    request: Bytes,
    answer: Vec<u8>,
    cut: Option<String>,
}

/// Where the bytes of an answer come from.
#[derive(Debug)]
enum Source {
    Live(Box<Answer>),
    Played { rest: Option<Bytes>, cut: Option<String> },
}

/// An answer, from a provider or from a cassette.
#[derive(Debug)]
pub(super) struct Heard<'d> {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    source: Source,
    take: Option<Take<'d>>,
    changes: Option<Changes>,
}

impl Heard<'_> {
    /// What a provider answers, recorded nowhere.
    pub(super) fn live(mut answer: Answer) -> Self {
        let (status, headers) = (answer.head.status, std::mem::take(&mut answer.head.headers));
        Self { status, headers, source: Source::Live(Box::new(answer)), take: None, changes: None }
    }

    fn played(recorded: Recorded, changes: Changes) -> Result<Self, String> {
        let status = StatusCode::from_u16(recorded.status).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        for (name, value) in &recorded.headers {
            let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            headers.try_append(name, value).map_err(|error| error.to_string())?;
        }
        let rest = Some(Bytes::from(recorded.body.into_bytes()));
        let source = Source::Played { rest, cut: recorded.cut };
        Ok(Self { status, headers, source, take: None, changes: Some(changes) })
    }

    /// A header as text; `None` when it is absent or not visible ASCII.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether it comes from a cassette.
    pub(super) const fn is_played(&self) -> bool {
        self.changes.is_some()
    }

    /// The next piece of the body; `None` at its end. The error says why it was cut.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        let answer = match &mut self.source {
            Source::Played { rest, cut } => {
                let piece = rest.take().filter(|piece| !piece.is_empty());
                return match (piece, cut.take()) {
                    (Some(piece), why) => {
                        *cut = why;
                        Ok(Some(piece))
                    }
                    (None, Some(why)) => Err(why),
                    (None, None) => Ok(None),
                };
            }
            Source::Live(answer) => answer,
        };
        let piece = answer.chunk().await.map_err(|error: DialError| error.to_string());
        if let Some(take) = &mut self.take {
            match &piece {
                Ok(Some(bytes)) if (take.answer.len() as u64) <= MAX_CASSETTE_BYTES => {
                    take.answer.extend_from_slice(bytes);
                }
                Ok(_) => {}
                Err(why) => take.cut = Some(why.clone()),
            }
        }
        piece
    }

    /// Ends the exchange, of which this reply was made: it is recorded, where that is wanted. Gives what turns the reply
    /// into one of this run, and the provider's answer, whose connection may be kept.
    pub(super) fn finish(
        self,
        reply: Option<&ModelReply>,
    ) -> Result<(Restored, Option<Box<Answer>>), ModelFailure> {
        if let Some(take) = self.take {
            let secrets = &take.recorder.secrets;
            if reply.is_some_and(|reply| words_of(reply).any(|words| secrets.stand_in(words))) {
                return Err(not_recorded(KEY_IN_REPLY));
            }
            let kept = |name: &str| KEPT_HEADERS.contains(&name) || pace::reads(name);
            let headers = self.headers.iter().filter(|(name, _)| kept(name.as_str()));
            let headers = headers.filter_map(|(name, value)| {
                Some((name.as_str().to_owned(), secrets.redact_text(value.to_str().ok()?)))
            });
            let recorded = Recorded {
                status: self.status.as_u16(),
                headers: headers.collect(),
                body: Body::new(secrets.redact(take.answer)),
                cut: take.cut.map(|why| harmless(&secrets.redact_text(&why), None)),
            };
            take.recorder.add(&take.provider, &take.request, Answered::Answer(recorded))?;
        }
        let answer = match self.source {
            Source::Live(answer) => Some(answer),
            Source::Played { .. } => None,
        };
        Ok((Restored(self.changes), answer))
    }
}

/// Everything that a model said.
fn words_of(reply: &ModelReply) -> impl Iterator<Item = &str> {
    let thoughts = reply.thinking.iter().flat_map(|placed| match &placed.thought {
        Thought::Signed { text, signature } => [text.as_str(), signature.as_str()],
        Thought::Redacted { data } => [data.as_str(), ""],
    });
    let calls = reply.calls.iter().flat_map(|call| [&call.id.0, &call.tool.0, &call.arguments.0]);
    let prose = [reply.text.as_str()].into_iter().chain(reply.reasoning.as_deref());
    prose.chain(thoughts).chain(calls.map(String::as_str))
}

/// What turns a recorded reply into one of this run; nothing, where it is one.
#[derive(Debug)]
pub(super) struct Restored(Option<Changes>);

impl Restored {
    /// The reply with this run's ids, times and places.
    pub(super) fn apply(&self, mut reply: ModelReply) -> ModelReply {
        let Some(changes) = &self.0 else { return reply };
        for placed in &mut reply.thinking {
            let before = usize::try_from(placed.after_text).unwrap_or(usize::MAX).min(reply.text.len());
            let before = &reply.text[..reply.text.floor_char_boundary(before)];
            placed.after_text = changes.apply(before).len() as u64;
            if let Thought::Signed { text, .. } = &mut placed.thought {
                *text = changes.apply(text);
            }
        }
        reply.text = changes.apply(&reply.text);
        reply.reasoning = reply.reasoning.map(|reasoning| changes.apply(&reasoning));
        for call in &mut reply.calls {
            call.arguments.0 = changes.apply(&call.arguments.0);
        }
        reply
    }
}
