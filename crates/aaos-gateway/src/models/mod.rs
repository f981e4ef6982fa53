//! The `models` role: asks providers, holds their keys.
//!
//! Invariants: the only hosts reached are those of the configured base URLs, and redirects are not followed;
//! each request has a time limit and bounded memory, and each provider places of its own, so that one that hangs takes
//! none from another; a reply is given only when the provider's end event came;
//! a key is sent to its own provider and shown to nobody; while a cassette is replayed nobody is reached.

mod anthropic;
mod cassette;
mod draft;
mod echo;
mod failure;
mod kept;
mod keys;
mod metrics;
mod openai;
mod otlp;
mod pace;
mod probe;
mod provider;
mod server;
mod sse;
mod watch;

pub use keys::take_keys;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::cassette::{CassetteSetup, CassetteUse};
use aaos_core::limits::MOST_INFERENCE_SLOTS;
use aaos_core::model::{
    ModelFailure, ModelFailureKind, ModelReply, ModelRequest, ModelStop, ProviderState, Standing, StopWord,
};
use aaos_core::name::ModelName;
use aaos_core::span::{BatchFate, CallSpan, SpanSetup};
use aaos_core::wire::{ModelsReply, ModelsRequest, ModelsSetup, RequestSerial};
use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::channel::{ChannelError, Descriptors, FrameReader, Outbox, Received, Running};
use crate::dial::{Answer, DialError, Dialer};
use crate::words::harmless;
use cassette::{Deck, Heard};
use draft::Draft;
use failure::{ErrorObject, failure, malformed, too_long};
use kept::Kept;
use metrics::Board;
use otlp::Exporter;
use provider::{Endpoint, KeyNeed, Provider, Service};
use sse::{SseError, SseEvent, SseParser};
use watch::{Answered, Watch};

/// Most inferences of one provider at once. The kernel's slots are at most half as many: the end of one and the begin of
/// the next may cross.
const MAX_RUNNING_EACH: usize = 2 * MOST_INFERENCE_SLOTS;
/// Most bytes of one stream, framing included.
const MAX_STREAM_BYTES: usize = 64 * 1024 * 1024;
/// Most bytes read of an error's body.
const MAX_BEGINNING_BYTES: usize = 16 * 1024;

/// Whether a stream has reached its end event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    GoesOn,
    Ended,
}

/// Why a stream cannot become a reply.
#[derive(Debug)]
enum StreamFault {
    /// The provider says so.
    Said(ErrorObject),
    /// The provider says so after the model has worked.
    BrokeOff(ErrorObject),
    /// We say so.
    Found(ModelFailure),
}

impl From<ModelFailure> for StreamFault {
    fn from(failure: ModelFailure) -> Self {
        Self::Found(failure)
    }
}

/// Reads a stream in its provider's format.
#[derive(Debug)]
enum Reader {
    OpenAi(Box<openai::Reader>),
    Anthropic(Box<anthropic::Reader>),
}

impl Reader {
    fn on_event(&mut self, event: &SseEvent) -> Result<Progress, StreamFault> {
        match self {
            Self::OpenAi(reader) => reader.on_event(event),
            Self::Anthropic(reader) => reader.on_event(event),
        }
    }

    fn draft(&mut self) -> &mut Draft {
        match self {
            Self::OpenAi(reader) => reader.draft(),
            Self::Anthropic(reader) => reader.draft(),
        }
    }

    fn into_draft(self) -> Draft {
        match self {
            Self::OpenAi(reader) => reader.into_draft(),
            Self::Anthropic(reader) => reader.into_draft(),
        }
    }
}

/// Every provider, and the means to reach them.
#[derive(Debug)]
pub struct Desk {
    providers: Vec<Provider>,
    aliases: provider::Aliases,
    dialer: Dialer,
    deck: Deck,
    kept: Kept,
    /// For spans, where they are sent.
    exporter: Option<Exporter>,
    /// For readers of metrics, where they are served.
    metrics: Option<(Arc<Board>, std::net::TcpListener)>,
}

/// Where prose goes as it arrives.
struct Deltas<'a> {
    outbox: &'a Outbox,
    serial: RequestSerial,
}

impl Desk {
    /// Reads the setup once; what is wrong with a provider becomes its `problem`.
    #[must_use]
    pub fn new(setup: ModelsSetup, dialer: Dialer) -> Self {
        let replays = setup.cassette.is_some_and(|cassette| cassette.purpose == CassetteUse::Replay);
        let need = if replays { KeyNeed::Nobody } else { KeyNeed::AsUsual };
        let providers = setup.providers.into_iter().map(|provider| Provider::new(provider, need)).collect();
        Self {
            providers,
            aliases: provider::Aliases::new(setup.aliases),
            dialer,
            deck: Deck::Live,
            kept: Kept::default(),
            exporter: None,
            metrics: None,
        }
    }

    /// With the listener for readers of metrics, which agentd made.
    #[must_use]
    pub fn with_metrics(mut self, listener: OwnedFd) -> Self {
        self.metrics = Some((Arc::default(), listener.into()));
        self
    }

    /// With a collector of spans, and the file of the headers that it wants.
    #[must_use]
    pub fn with_spans(mut self, setup: SpanSetup, headers: Option<OwnedFd>) -> Self {
        self.exporter = Some(Exporter::new(setup, headers));
        self
    }

    /// With a cassette, whose file agentd opened.
    #[must_use]
    pub fn with_cassette(mut self, setup: &CassetteSetup, file: OwnedFd) -> Self {
        self.deck = Deck::load(setup, file, self.providers.iter().filter_map(Provider::key));
        self
    }

    /// What agentd may know of every provider.
    fn describe(&self) -> Vec<ProviderState> {
        let problem = self.deck.problem().map(|failure| failure.message.clone());
        let state = |one: &Provider| {
            let state = one.state(&self.providers, &self.aliases);
            ProviderState { problem: problem.clone().or(state.problem), ..state }
        };
        self.providers.iter().map(state).collect()
    }

    /// A place among the requests that run at a model's provider.
    fn place(&self, model: &ModelName) -> Result<OwnedSemaphorePermit, ModelFailure> {
        let provider = provider::route(&self.providers, &self.aliases, model)?.provider;
        let full = |_| full(&format!("provider {}", provider.name));
        Arc::clone(&provider.places).try_acquire_owned().map_err(full)
    }

    async fn ask(&self, request: &ModelRequest, deltas: Deltas<'_>) -> Result<Answered, ModelFailure> {
        let watch = Watch::start();
        if let Some(problem) = self.deck.problem() {
            return Err(problem.clone());
        }
        let route = provider::route(&self.providers, &self.aliases, &request.model)?;
        let provider = route.provider;
        match &provider.service {
            Service::Builtin => plan(request).await.map(|reply| watch.answered(reply)),
            Service::Unusable(problem) => Err(failure(
                ModelFailureKind::Rejected,
                format!("provider {} cannot be used: {problem}", provider.name),
            )),
            Service::Remote(endpoint) => {
                self.ask_remote(provider, endpoint, request, route.model.as_str(), deltas).await
            }
        }
    }

    async fn ask_remote(
        &self,
        provider: &Provider,
        endpoint: &Endpoint,
        request: &ModelRequest,
        model: &str,
        deltas: Deltas<'_>,
    ) -> Result<Answered, ModelFailure> {
        let prepared = endpoint.prepare(provider.key(), request, model)?;
        let Deltas { outbox, serial } = deltas;
        let mut watch = Watch::start();
        let mut heard = match self.deck.play(&provider.name, &prepared.body)? {
            Some(played) => played,
            None => self.reach(provider, endpoint, prepared.http, prepared.body).await?,
        };
        let outcome = read_answer(provider, prepared.reader, &mut heard, deltas, &mut watch).await;
        let is_played = heard.is_played();
        let (restored, answer) = heard.finish(outcome.as_ref().ok())?;
        // After a failure nobody knows what else comes.
        if let Some(answer) = answer.filter(|_| outcome.is_ok()) {
            self.kept.keep_after(&provider.name, *answer);
        }
        let reply = restored.apply(outcome?);
        if is_played && !reply.text.is_empty() {
            outbox.send(&ModelsReply::Delta { serial, text: reply.text.clone() }).await;
        }
        Ok(watch.answered(reply))
    }

    /// Asks over a connection that was kept, else over a new one. A kept one may have been closed meanwhile: where it is
    /// lost before any answer came, the request is made once more, and nothing was billed.
    async fn exchange(
        &self,
        provider: &Provider,
        endpoint: &Endpoint,
        http: hyper::Request<Full<Bytes>>,
    ) -> Result<Answer, DialError> {
        if let Some(line) = self.kept.take(&provider.name) {
            match line.ask(http.clone()).await {
                Err(error) if error.is_lost_line() => {}
                answered => return answered,
            }
        }
        let addresses = endpoint.server.addresses(&self.dialer).await?;
        self.dialer.exchange(&addresses, &endpoint.server.layer(), http).await
    }

    /// Has the provider itself answer.
    async fn reach(
        &self,
        provider: &Provider,
        endpoint: &Endpoint,
        http: hyper::Request<Full<Bytes>>,
        body: Bytes,
    ) -> Result<Heard<'_>, ModelFailure> {
        match self.exchange(provider, endpoint, http).await {
            Ok(answer) => Ok(self.deck.hear(&provider.name, body, answer)),
            Err(error) => {
                let failure = failure::of_dial(provider.name.as_str(), &error);
                self.deck.note_unreached(&provider.name, &body, &failure)?;
                Err(failure)
            }
        }
    }
}

/// Makes an answer a reply.
async fn read_answer(
    provider: &Provider,
    reader: Reader,
    heard: &mut Heard<'_>,
    deltas: Deltas<'_>,
    watch: &mut Watch,
) -> Result<ModelReply, ModelFailure> {
    let name = provider.name.as_str();
    if heard.status != StatusCode::OK {
        let body = read_beginning(heard).await;
        return Err(failure::of_status(name, heard, &body, provider.key()));
    }
    let kind = heard.header("content-type").unwrap_or("text/event-stream");
    if !kind.to_ascii_lowercase().starts_with("text/event-stream") {
        let kind = harmless(kind, None);
        return Err(malformed(format!("provider {name} was asked for a stream and sent {kind}")));
    }
    let pace = pace::pace(|name| heard.header(name));
    deltas.outbox.send(&ModelsReply::Begun { serial: deltas.serial, pace }).await;
    match read_stream(heard, reader, deltas, watch).await {
        Ok(reply) => Ok(ModelReply { stop: shown(reply.stop, provider.key()), ..reply }),
        Err(StreamFault::Said(error)) => Err(failure::of_stream(name, &error, provider.key())),
        Err(StreamFault::BrokeOff(error)) => Err(failure::of_break(name, &error, provider.key())),
        Err(StreamFault::Found(mut failure)) => {
            let words = harmless(&failure.message, provider.key());
            failure.message = format!("provider {name}: {words}");
            Err(failure)
        }
    }
}

/// Asks the planner inside this binary, beside the thread that serves: it computes and does not wait.
async fn plan(request: &ModelRequest) -> Result<ModelReply, ModelFailure> {
    let request = request.clone();
    tokio::task::spawn_blocking(move || crate::builtin::answer(&request))
        .await
        .unwrap_or_else(|_| Err(malformed("the builtin planner broke off; this is a bug in aaOS")))
}

/// The reason to stop; a provider's own word for it goes into messages.
fn shown(stop: ModelStop, key: Option<&str>) -> ModelStop {
    match stop {
        ModelStop::Other(StopWord(word)) => ModelStop::Other(StopWord(harmless(&word, key))),
        known => known,
    }
}

async fn read_stream(
    answer: &mut Heard<'_>,
    mut reader: Reader,
    deltas: Deltas<'_>,
    watch: &mut Watch,
) -> Result<ModelReply, StreamFault> {
    let cut = |why: String| failure(ModelFailureKind::CutStream, why);
    let mut parser = SseParser::default();
    let mut total = 0_usize;
    loop {
        let piece = answer.chunk().await.map_err(|error| cut(format!("the stream was cut: {error}")))?;
        let Some(piece) = piece else {
            return Err(cut("the stream ended without its end event".to_owned()).into());
        };
        total = total.saturating_add(piece.len());
        if total > MAX_STREAM_BYTES {
            return Err(too_long(format_args!("the stream is longer than {MAX_STREAM_BYTES} bytes")).into());
        }
        let events = parser.feed(&piece).map_err(|error| match error {
            SseError::TooLong => too_long(error),
            SseError::NotUtf8 => malformed(error.to_string()),
        })?;
        let mut progress = Progress::GoesOn;
        for event in &events {
            progress = reader.on_event(event).map_err(|fault| match fault {
                StreamFault::Said(error) if reader.draft().has_begun() => StreamFault::BrokeOff(error),
                other => other,
            })?;
            if progress == Progress::Ended {
                break;
            }
        }
        watch.note(reader.draft());
        // What is played is shown once it is this run's.
        if let Some(text) = reader.draft().take_delta().filter(|_| !answer.is_played()) {
            let delta = ModelsReply::Delta { serial: deltas.serial, text };
            deltas.outbox.send(&delta).await;
        }
        if progress == Progress::Ended {
            return Ok(reader.into_draft().finish()?);
        }
    }
}

/// As much as is worth reading of a body of which the status decides; a cut one is as good.
async fn read_beginning(answer: &mut Heard<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        let room = MAX_BEGINNING_BYTES - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if body.len() == MAX_BEGINNING_BYTES {
            break;
        }
    }
    body
}

/// Serves agentd until the channel ends.
///
/// # Errors
/// [`ChannelError`] when agentd says something that it never should; the process is then of no more use.
pub async fn serve(stream: UnixStream, mut desk: Desk) -> Result<(), ChannelError> {
    let board = match desk.metrics.take() {
        None => None,
        Some((board, listener)) => {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            drop(tokio::spawn(metrics::serve(listener, Arc::clone(&board))));
            Some(board)
        }
    };
    let desk = Arc::new(desk);
    let (input, output) = stream.into_split();
    let mut reader = FrameReader::new(input, Descriptors::Refused);
    let outbox = Outbox::start(output);
    // Ended requests are counted until they are looked at, so places run out before this does.
    let mut running = Running::new(2 * MAX_RUNNING_EACH * desk.providers.len().max(1));
    let mut sweep = tokio::time::interval(kept::IDLE);
    loop {
        tokio::select! {
            received = reader.next::<ModelsRequest>() => match received? {
                None => return Ok(()),
                Some(Received { message: ModelsRequest::Show { serial, snapshot }, .. }) => {
                    let board = board.as_ref().ok_or(ChannelError::OutOfTurn(serial))?;
                    board.post(serial, *snapshot, &outbox);
                }
                Some(received) => take(received.message, &desk, &outbox, &mut running).await?,
            },
            _ = sweep.tick() => desk.kept.sweep(),
            ended = running.ended() => {
                if let Some(serial) = ended {
                    let failure = malformed("the gateway made a mistake with this reply; this is a bug in aaOS");
                    outbox.send(&ModelsReply::Failed { serial, failure }).await;
                }
            }
        }
    }
}

async fn take(
    request: ModelsRequest,
    desk: &Arc<Desk>,
    outbox: &Outbox,
    running: &mut Running,
) -> Result<(), ChannelError> {
    match request {
        ModelsRequest::Ask { serial, request, time } => {
            let place = match desk.place(&request.model) {
                Ok(place) if !running.is_full() => place,
                refused => {
                    let failure = refused.err().unwrap_or_else(|| full("the gateway"));
                    outbox.send(&ModelsReply::Failed { serial, failure }).await;
                    return Ok(());
                }
            };
            let (desk, outbox) = (Arc::clone(desk), outbox.clone());
            running.start(serial, async move {
                let _place = place;
                let deltas = Deltas { outbox: &outbox, serial };
                let limit = Duration::from_millis(time.0);
                let result = tokio::time::timeout(limit, desk.ask(&request, deltas)).await;
                let reply = match result {
                    Ok(Ok(Answered { reply, measured })) => {
                        let measured = Some(Box::new(measured));
                        ModelsReply::Done { serial, reply: Box::new(reply), measured }
                    }
                    Ok(Err(failure)) => ModelsReply::Failed { serial, failure },
                    Err(_) => ModelsReply::Failed { serial, failure: out_of_time(time.0) },
                };
                outbox.send(&reply).await;
            })?;
        }
        ModelsRequest::Cancel { serial } => running.cancel(serial),
        ModelsRequest::Probe { serial, provider, time } => {
            if running.is_full() {
                let standing = Standing::Unreachable { why: full("the gateway").message };
                outbox.send(&ModelsReply::Probed { serial, standing }).await;
                return Ok(());
            }
            let (desk, outbox) = (Arc::clone(desk), outbox.clone());
            running.start(serial, async move {
                let standing = desk.probe(&provider, time).await;
                outbox.send(&ModelsReply::Probed { serial, standing }).await;
            })?;
        }
        ModelsRequest::Export { serial, spans } => export(serial, spans, desk, outbox, running).await?,
        ModelsRequest::Show { serial, .. } => return Err(ChannelError::OutOfTurn(serial)),
        ModelsRequest::Describe { serial } => {
            outbox.send(&ModelsReply::Described { serial, providers: desk.describe() }).await;
        }
    }
    Ok(())
}

/// Sends spans, beside everything else.
async fn export(
    serial: RequestSerial,
    spans: Vec<CallSpan>,
    desk: &Arc<Desk>,
    outbox: &Outbox,
    running: &mut Running,
) -> Result<(), ChannelError> {
    if desk.exporter.is_none() {
        return Err(ChannelError::OutOfTurn(serial));
    }
    if running.is_full() {
        let fate = BatchFate { failed: spans.len() as u64, problem: Some(full("the gateway").message) };
        outbox.send(&ModelsReply::Exported { serial, fate }).await;
        return Ok(());
    }
    let (desk, outbox) = (Arc::clone(desk), outbox.clone());
    running.start(serial, async move {
        let Some(exporter) = &desk.exporter else { return };
        let fate = desk.export(exporter, &spans).await;
        outbox.send(&ModelsReply::Exported { serial, fate }).await;
    })
}

fn full(who: &str) -> ModelFailure {
    let words = format!("{who} has {MAX_RUNNING_EACH} inferences under way; ask again later");
    failure(ModelFailureKind::Unavailable, words)
}

fn out_of_time(milliseconds: u64) -> ModelFailure {
    failure(ModelFailureKind::Timeout, format!("no complete answer within {milliseconds} ms"))
}
