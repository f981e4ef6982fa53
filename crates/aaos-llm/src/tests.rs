//! A fake gateway at the other end of the connection, and what the near end makes of its answers.
//!
//! The clock is paused, so the connection is in memory: tokio advances a paused clock while a real socket is
//! being waited for. One test uses a real socket and the real clock.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aaos_core::effect::InferenceOutcome;
use aaos_core::model::{
    Message, ModelFailure, ModelFailureKind, ModelReply, ModelRequest, ModelStop, ProviderState, Standing,
    Usage,
};
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::observe::{Measured, Micros, Snapshot};
use aaos_core::quantity::{Millis, Tokens};
use aaos_core::wire::{
    FRAME_HEADER_BYTES, ModelsReply, ModelsRequest, RequestSerial, decode_frame, encode_frame, frame_length,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::link::Link;
use crate::{Class, LlmError, Models, ModelsConfig, Party, Progress, Turn};

const CONFIG: ModelsConfig = ModelsConfig {
    slots_per_provider: 3,
    min_gap: Duration::ZERO,
    attempts: 4,
    attempt_time: Duration::from_secs(60),
};

/// Whoever it does not matter for.
const NOBODY: Turn = Turn { party: Party::Principal(0), class: Class::Background };

mod admission;
mod host;

/// The gateway's end.
struct Fake<R, W> {
    reader: R,
    writer: W,
}

type MemoryFake = Fake<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Fake<R, W> {
    /// The next request, or none when the near end is gone.
    async fn hear(&mut self) -> Option<ModelsRequest> {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.reader.read_exact(&mut header).await.ok()?;
        let mut body = vec![0; frame_length(header).expect("short")];
        self.reader.read_exact(&mut body).await.ok()?;
        Some(decode_frame(&body).expect("a request"))
    }

    async fn say(&mut self, reply: &ModelsReply) {
        self.writer.write_all(&encode_frame(reply).expect("short")).await.expect("the near end listens");
    }

    /// Answers the question what is configured, which comes first.
    async fn introduce(&mut self) {
        let Some(ModelsRequest::Describe { serial }) = self.hear().await else {
            panic!("the near end asks first what is configured");
        };
        let mut providers = vec![provider("alpha", &["a-model"]), provider("beta", &["b-model"])];
        providers[1].aliases = vec![ModelName::parse("quick").expect("a name")];
        self.say(&ModelsReply::Described { serial, providers }).await;
    }

    async fn ask(&mut self) -> (RequestSerial, ModelRequest, Millis) {
        match self.hear().await {
            Some(ModelsRequest::Ask { serial, request, time }) => (serial, *request, time),
            other => panic!("expected an inference, got {other:?}"),
        }
    }

    async fn fail(&mut self, serial: RequestSerial, kind: ModelFailureKind, retry_after: Option<Millis>) {
        let failure = ModelFailure { kind, message: "scripted".to_owned(), retry_after };
        self.say(&ModelsReply::Failed { serial, failure }).await;
    }

    async fn answer(&mut self, serial: RequestSerial, text: &str) {
        self.say(&ModelsReply::Done { serial, reply: Box::new(reply(text)), measured: None }).await;
    }
}

fn provider(name: &str, models: &[&str]) -> ProviderState {
    ProviderState {
        name: ProviderName::parse(name).expect("a name"),
        models: models.iter().map(|model| ModelName::parse(model).expect("a name")).collect(),
        aliases: Vec::new(),
        any_model: false,
        has_key: true,
        problem: None,
        slots: None,
        rates: aaos_core::model::Rates::default(),
        standing: Standing::Unchecked,
    }
}

fn reply(text: &str) -> ModelReply {
    ModelReply {
        text: text.to_owned(),
        reasoning: None,
        thinking: Vec::new(),
        calls: Vec::new(),
        stop: ModelStop::EndTurn,
        usage: Usage::default(),
    }
}

fn request(model: &str) -> ModelRequest {
    ModelRequest {
        model: ModelName::parse(model).expect("a name"),
        system: String::new(),
        messages: vec![Message::User { text: "hello".to_owned() }],
        tools: Vec::new(),
        max_output_tokens: Tokens(100),
        narrowed: None,
    }
}

fn connect(config: ModelsConfig) -> (Models, MemoryFake) {
    let (link, fake) = linked();
    (Models::over(link, config, 7), fake)
}

/// A connection, and the fake gateway at its end.
fn linked() -> (Link, MemoryFake) {
    let (near, far) = tokio::io::duplex(1024 * 1024);
    let (reader, writer) = tokio::io::split(near);
    let link = Link::start(reader, writer);
    let (reader, writer) = tokio::io::split(far);
    (link, Fake { reader, writer })
}

fn in_an_hour() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Starts an inference whose progress nobody reads.
fn start(models: &Models, model: &str, deadline: Instant) -> tokio::task::JoinHandle<InferenceOutcome> {
    let (models, request) = (models.clone(), request(model));
    tokio::spawn(async move { models.infer(&request, NOBODY, 0, deadline, pending(), |_| {}).await })
}

fn failure_kind(outcome: &InferenceOutcome) -> ModelFailureKind {
    outcome.result.as_ref().expect_err("it fails").kind
}

/// Attempts, and those of them that may have been billed.
fn counts(outcome: &InferenceOutcome) -> (u32, u32) {
    (outcome.attempts, outcome.possibly_billed)
}

#[tokio::test(start_paused = true)]
async fn a_reply_comes_after_its_pieces() {
    let (models, mut fake) = connect(CONFIG);
    let seen = Arc::new(Mutex::new(String::new()));
    let (asking, listener) = (models.clone(), Arc::clone(&seen));
    let call = tokio::spawn(async move {
        let listen = |progress| match progress {
            Progress::Delta(text) => listener.lock().expect("unpoisoned").push_str(&text),
            Progress::Retry { .. } | Progress::Waiting { .. } => panic!("nothing failed"),
            Progress::Loading | Progress::Asked | Progress::Answered(_) => {}
        };
        asking.infer(&request("a-model"), NOBODY, 0, in_an_hour(), pending(), listen).await
    });
    fake.introduce().await;
    let (serial, asked, time) = fake.ask().await;
    assert_eq!((asked, time), (request("a-model"), Millis(60_000)));
    for text in ["one ", "two ", "three"] {
        fake.say(&ModelsReply::Delta { serial, text: text.to_owned() }).await;
    }
    fake.answer(serial, "one two three").await;
    let outcome = call.await.expect("no panic");
    assert_eq!(outcome.result.expect("a reply").text, "one two three");
    assert_eq!(outcome.attempts, 1);
    assert_eq!(*seen.lock().expect("unpoisoned"), "one two three");
    assert_eq!(models.queue_depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_measured_where_it_is_sent_else_here() {
    let far = Measured { first: Some(Micros(1)), whole: Micros(2), model: Some("m-1".to_owned()) };
    let near = Measured { first: Some(Micros(25_000)), whole: Micros(125_000), model: None };
    let (models, mut fake) = connect(CONFIG);
    for (said, believed) in [(Some(far.clone()), far), (None, near)] {
        let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let asking = models.clone();
        let call = tokio::spawn(async move {
            let listen = |progress| tell.send(progress).expect("somebody listens");
            asking.infer(&request("a-model"), NOBODY, 0, in_an_hour(), pending(), listen).await
        });
        if said.is_some() {
            fake.introduce().await;
        }
        let (serial, ..) = fake.ask().await;
        tokio::time::advance(Duration::from_millis(25)).await;
        fake.say(&ModelsReply::Delta { serial, text: "one".to_owned() }).await;
        while !matches!(heard.recv().await.expect("it goes on"), Progress::Delta(_)) {}
        tokio::time::advance(Duration::from_millis(100)).await;
        let measured = said.map(Box::new);
        fake.say(&ModelsReply::Done { serial, reply: Box::new(reply("one")), measured }).await;
        assert_eq!(heard.recv().await, Some(Progress::Answered(believed)));
        assert!(call.await.expect("no panic").result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn figures_are_shown_until_newer_ones_are_wanted() {
    let (models, mut fake) = connect(CONFIG);
    let (snapshot, shown) = (Snapshot { agents: 3, ..Snapshot::default() }, models.clone());
    let showing = tokio::spawn({
        let snapshot = snapshot.clone();
        async move { shown.show(snapshot).await }
    });
    let Some(ModelsRequest::Show { serial, snapshot: seen }) = fake.hear().await else { panic!("not shown") };
    assert_eq!(*seen, snapshot);
    assert!(!showing.is_finished(), "nobody wants newer ones");
    fake.say(&ModelsReply::Wanted { serial }).await;
    showing.await.expect("no panic").expect("they are wanted");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_waited_for_and_keeps_everybody_out() {
    let (models, mut fake) = connect(CONFIG);
    let waits = Arc::new(Mutex::new(Vec::new()));
    let (asking, listener) = (models.clone(), Arc::clone(&waits));
    let first = tokio::spawn(async move {
        let listen = |progress| {
            if let Progress::Retry { failure, wait, attempt } = progress {
                listener.lock().expect("unpoisoned").push((failure.kind, wait, attempt));
            }
        };
        asking.infer(&request("a-model"), NOBODY, 0, in_an_hour(), pending(), listen).await
    });
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    let limited = Instant::now();
    fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(20_000))).await;
    while models.queue_depth() == 0 {
        tokio::task::yield_now().await;
    }
    let second = start(&models, "a-model", in_an_hour());
    let other = start(&models, "b-model", in_an_hour());
    let (serial, asked, _) = fake.ask().await;
    assert_eq!(asked.model.as_str(), "b-model", "another provider is not kept out");
    assert_eq!(limited.elapsed(), Duration::ZERO);
    fake.answer(serial, "b").await;
    for _ in 0..2 {
        let (serial, ..) = fake.ask().await;
        assert!(limited.elapsed() >= Duration::from_secs(20), "{:?}", limited.elapsed());
        fake.answer(serial, "a").await;
    }
    assert!(other.await.expect("no panic").result.is_ok());
    assert_eq!(second.await.expect("no panic").attempts, 1);
    let outcome = first.await.expect("no panic");
    assert_eq!(outcome.attempts, 2);
    assert!(outcome.elapsed >= Millis(20_000));
    let waits = waits.lock().expect("unpoisoned");
    assert!(
        matches!(waits.as_slice(), [(ModelFailureKind::RateLimited, wait, 1)] if *wait >= Millis(20_000))
    );
}

#[tokio::test(start_paused = true)]
async fn a_limited_provider_is_left_alone_under_every_name_of_its_model() {
    for name in ["beta/b-model", "beta::b-model", "quick", "b-model"] {
        let (models, mut fake) = connect(CONFIG);
        let first = start(&models, name, in_an_hour());
        fake.introduce().await;
        let (serial, ..) = fake.ask().await;
        let limited = Instant::now();
        fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(20_000))).await;
        while models.queue_depth() == 0 {
            tokio::task::yield_now().await;
        }
        let same = start(&models, "b-model", in_an_hour());
        let other = start(&models, "alpha/a-model", in_an_hour());
        let (serial, asked, _) = fake.ask().await;
        assert_eq!((asked.model.as_str(), limited.elapsed()), ("alpha/a-model", Duration::ZERO), "{name}");
        fake.answer(serial, "a").await;
        for _ in 0..2 {
            let (serial, ..) = fake.ask().await;
            assert!(limited.elapsed() >= Duration::from_secs(20), "{name}: {:?}", limited.elapsed());
            fake.answer(serial, "b").await;
        }
        for call in [first, same, other] {
            assert!(call.await.expect("no panic").result.is_ok(), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn transient_failures_end_after_the_last_attempt() {
    let (models, mut fake) = connect(CONFIG);
    let call = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let mut times = vec![Instant::now()];
    for _ in 0..4 {
        let (serial, ..) = fake.ask().await;
        times.push(Instant::now());
        fake.fail(serial, ModelFailureKind::Unavailable, None).await;
    }
    let outcome = call.await.expect("no panic");
    assert_eq!((failure_kind(&outcome), counts(&outcome)), (ModelFailureKind::Unavailable, (4, 0)));
    let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[1] >= Duration::from_millis(250) && waits[3] >= Duration::from_secs(1), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn final_failures_are_not_tried_again() {
    for kind in [
        ModelFailureKind::Unauthorized,
        ModelFailureKind::Rejected,
        ModelFailureKind::UnknownModel,
        ModelFailureKind::NotUnderstood,
    ] {
        let (models, mut fake) = connect(CONFIG);
        let call = start(&models, "a-model", in_an_hour());
        fake.introduce().await;
        let (serial, ..) = fake.ask().await;
        fake.fail(serial, kind, Some(Millis(1))).await;
        let outcome = call.await.expect("no panic");
        assert_eq!((failure_kind(&outcome), outcome.attempts), (kind, 1));
        assert_eq!(outcome.elapsed, Millis(0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_billed_is_not_asked_again_under_the_same_permit() {
    for kind in [ModelFailureKind::CutStream, ModelFailureKind::MalformedReply, ModelFailureKind::Timeout] {
        let (models, mut fake) = connect(CONFIG);
        let call = start(&models, "a-model", in_an_hour());
        fake.introduce().await;
        let (serial, ..) = fake.ask().await;
        fake.fail(serial, ModelFailureKind::Unavailable, None).await;
        let (serial, ..) = fake.ask().await;
        fake.fail(serial, kind, None).await;
        let outcome = call.await.expect("no panic");
        assert_eq!((failure_kind(&outcome), counts(&outcome)), (kind, (2, 1)));
        let wait = models.wait_to_ask_again(&outcome, 2, in_an_hour()).expect("another permit may help");
        assert!(wait >= Millis(500), "{wait}");
        assert_eq!(models.wait_to_ask_again(&outcome, 4, in_an_hour()), None, "the last attempt was made");
        assert_eq!(
            models.wait_to_ask_again(&outcome, 2, Instant::now() + Duration::from_millis(1)),
            None,
            "too late"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_under_earlier_permits_count() {
    let (models, mut fake) = connect(CONFIG);
    let (asking, request) = (models.clone(), request("a-model"));
    let ask = async move { asking.infer(&request, NOBODY, 2, in_an_hour(), pending(), |_| {}).await };
    let call = tokio::spawn(ask);
    fake.introduce().await;
    for _ in 0..2 {
        let (serial, ..) = fake.ask().await;
        fake.fail(serial, ModelFailureKind::Unavailable, None).await;
    }
    let outcome = call.await.expect("no panic");
    assert_eq!(counts(&outcome), (2, 0), "four in all");
    assert_eq!(models.wait_to_ask_again(&outcome, 3, in_an_hour()), None, "that is not for another permit");
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_tries_less_gives_up_sooner_and_never_later() {
    for (wanted, made) in [(1, 1), (2, 2), (CONFIG.attempts + 5, CONFIG.attempts)] {
        let (models, mut fake) = connect(CONFIG);
        let models = models.trying(wanted);
        let call = start(&models, "a-model", in_an_hour());
        fake.introduce().await;
        for _ in 0..made {
            let (serial, ..) = fake.ask().await;
            fake.fail(serial, ModelFailureKind::Unavailable, None).await;
        }
        let outcome = call.await.expect("no panic");
        assert_eq!(counts(&outcome), (made, 0), "{wanted}");
        assert!(outcome.blames_provider);
    }
    let (models, mut fake) = connect(CONFIG);
    let call = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    fake.fail(serial, ModelFailureKind::CutStream, None).await;
    let outcome = call.await.expect("no panic");
    assert!(models.trying(2).wait_to_ask_again(&outcome, 1, in_an_hour()).is_some(), "the control");
    assert_eq!(models.trying(1).wait_to_ask_again(&outcome, 1, in_an_hour()), None);
}

#[tokio::test(start_paused = true)]
async fn a_provider_may_have_slots_of_its_own() {
    for (slots, at_once) in [(None, CONFIG.slots_per_provider), (Some(1), 1), (Some(5), 5)] {
        let (models, mut fake) = connect(CONFIG);
        let calls: Vec<_> = (0..6).map(|_| start(&models, "a-model", in_an_hour())).collect();
        let Some(ModelsRequest::Describe { serial }) = fake.hear().await else { panic!("a question") };
        let providers = vec![ProviderState { slots, ..provider("alpha", &["a-model"]) }];
        fake.say(&ModelsReply::Described { serial, providers }).await;
        let mut asked = Vec::new();
        for _ in 0..at_once {
            asked.push(fake.ask().await.0);
        }
        let more = tokio::time::timeout(Duration::from_secs(1), fake.hear()).await;
        assert!(more.is_err(), "{slots:?}: no more at once, but {more:?}");
        calls.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_attempt_times_out_and_is_cancelled() {
    let (models, mut fake) = connect(CONFIG);
    let call = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (hung, ..) = fake.ask().await;
    let heard = fake.hear().await;
    assert!(matches!(heard, Some(ModelsRequest::Cancel { serial }) if serial == hung), "{heard:?}");
    let outcome = call.await.expect("no panic");
    assert_eq!((failure_kind(&outcome), counts(&outcome)), (ModelFailureKind::Timeout, (1, 1)));
    assert!(outcome.elapsed >= Millis(60_000));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_written_to_the_gateway_was_not_billed() {
    // The connection holds less than one request, and the gateway reads none: the first stands in the way.
    let (near, far) = tokio::io::duplex(64);
    let (reader, writer) = tokio::io::split(near);
    let models = Models::over(Link::start(reader, writer), ModelsConfig { attempts: 1, ..CONFIG }, 7);
    let (reader, writer) = tokio::io::split(far);
    let mut fake = Fake { reader, writer };
    let calls: Vec<_> = (0..3).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    let mut billed = Vec::new();
    for call in calls {
        let outcome = call.await.expect("no panic");
        assert_eq!((failure_kind(&outcome), outcome.attempts), (ModelFailureKind::Timeout, 1));
        billed.push(outcome.possibly_billed);
    }
    billed.sort_unstable();
    assert_eq!(billed, [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_attempts_waits_and_queueing() {
    let (models, mut fake) = connect(ModelsConfig { slots_per_provider: 1, ..CONFIG });
    let deadline = Instant::now() + Duration::from_secs(10);
    let hung = start(&models, "a-model", deadline);
    fake.introduce().await;
    let (_, _, time) = fake.ask().await;
    assert_eq!(time, Millis(10_000), "the gateway is told of the shorter time");
    let queued = start(&models, "a-model", deadline);
    let (hung, queued) = (hung.await.expect("no panic"), queued.await.expect("no panic"));
    assert_eq!((failure_kind(&hung), counts(&hung)), (ModelFailureKind::Timeout, (1, 1)));
    assert_eq!((failure_kind(&queued), counts(&queued)), (ModelFailureKind::Timeout, (0, 0)));
    assert_eq!(models.wait_to_ask_again(&hung, 1, deadline), None, "no time is left");
    assert_eq!(Instant::now(), deadline);

    let (models, mut fake) = connect(CONFIG);
    let limited = start(&models, "a-model", Instant::now() + Duration::from_secs(10));
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    fake.fail(serial, ModelFailureKind::RateLimited, Some(Millis(60_000))).await;
    let limited = limited.await.expect("no panic");
    assert_eq!(failure_kind(&limited), ModelFailureKind::RateLimited);
    assert_eq!(limited.elapsed, Millis(0), "a wait that cannot help is not begun");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_cancels_it_and_frees_its_slot() {
    let (models, mut fake) = connect(ModelsConfig { slots_per_provider: 1, ..CONFIG });
    let dropped = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    let next = start(&models, "a-model", in_an_hour());
    dropped.abort();
    let (mut cancelled, mut asked) = (None, None);
    while cancelled.is_none() || asked.is_none() {
        match fake.hear().await.expect("the near end lives") {
            ModelsRequest::Cancel { serial } => cancelled = Some(serial),
            ModelsRequest::Ask { serial, .. } => asked = Some(serial),
            other => panic!("it knows what is configured, and nobody shows figures: {other:?}"),
        }
    }
    assert_eq!(cancelled, Some(serial));
    fake.answer(serial, "too late").await;
    fake.answer(asked.expect("asked"), "in time").await;
    let outcome = next.await.expect("no panic");
    assert_eq!(outcome.result.expect("a reply").text, "in time", "a late answer reaches nobody else");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_call_is_cancelled_and_has_an_outcome() {
    let (models, mut fake) = connect(CONFIG);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let asking = models.clone();
    let call = tokio::spawn(async move {
        let stopped = async move { stopped.await.expect("the test stops it") };
        asking.infer(&request("a-model"), NOBODY, 0, in_an_hour(), stopped, |_| {}).await
    });
    fake.introduce().await;
    let (asked, ..) = fake.ask().await;
    stop.send(()).expect("it listens");
    let outcome = call.await.expect("no panic");
    assert_eq!((failure_kind(&outcome), counts(&outcome)), (ModelFailureKind::Timeout, (1, 1)));
    let heard = fake.hear().await;
    assert!(matches!(heard, Some(ModelsRequest::Cancel { serial }) if serial == asked), "{heard:?}");
    assert!(!models.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_call_stopped_while_it_waits_for_a_slot_was_not_billed() {
    let (models, mut fake) = connect(ModelsConfig { slots_per_provider: 1, ..CONFIG });
    let running = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    fake.ask().await;
    let outcome =
        models.infer(&request("a-model"), NOBODY, 0, in_an_hour(), tokio::task::yield_now(), |_| {}).await;
    assert_eq!((failure_kind(&outcome), counts(&outcome)), (ModelFailureKind::Timeout, (0, 0)));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_fails_everything_at_once() {
    let (models, mut fake) = connect(CONFIG);
    let calls: Vec<_> = (0..6).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    for _ in 0..3 {
        fake.ask().await;
    }
    drop(fake);
    let mut billed = 0;
    for call in calls {
        let outcome = call.await.expect("no panic");
        assert_eq!(failure_kind(&outcome), ModelFailureKind::Unavailable);
        assert_eq!(outcome.elapsed, Millis(0), "nothing is waited for");
        assert!(!outcome.blames_provider, "no provider did it");
        billed += outcome.possibly_billed;
    }
    assert_eq!(billed, 3, "those that it had read, and not those that came after its end");
    assert!(models.is_closed());
    assert!(matches!(models.describe().await, Err(LlmError::Lost { .. })));
    assert_eq!(models.queue_depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_breaks_the_protocol_is_lost() {
    let garbage: [&[u8]; 3] = [b"\xff\xff\xff\xff", b"\x02\0\0\0{}", b"\x01\0\0\0"];
    for bytes in garbage {
        let (models, mut fake) = connect(CONFIG);
        let call = start(&models, "a-model", in_an_hour());
        fake.introduce().await;
        fake.ask().await;
        fake.writer.write_all(bytes).await.expect("the near end listens");
        drop(fake);
        assert_eq!(failure_kind(&call.await.expect("no panic")), ModelFailureKind::Unavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_without_end_is_cut_off() {
    let (models, mut fake) = connect(ModelsConfig { attempts: 1, ..CONFIG });
    let call = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    let text = "x".repeat(1024 * 1024);
    for _ in 0..17 {
        fake.say(&ModelsReply::Delta { serial, text: text.clone() }).await;
    }
    assert_eq!(failure_kind(&call.await.expect("no panic")), ModelFailureKind::MalformedReply);
}

#[tokio::test(start_paused = true)]
async fn slots_are_never_exceeded_and_served_in_order() {
    let (models, mut fake) = connect(CONFIG);
    let calls: Vec<_> = (0..50).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    let (mut running, mut most) = (Vec::new(), 0);
    for _ in 0..50 {
        let (serial, ..) = fake.ask().await;
        running.push(serial);
        most = most.max(running.len());
        assert!(running.len() <= 3, "{} at once", running.len());
        if running.len() == 3 {
            assert!(tokio::time::timeout(Duration::from_millis(1), fake.hear()).await.is_err(), "a fourth");
            let done = running.remove(0);
            fake.answer(done, "done").await;
        }
    }
    assert_eq!(most, 3);
    for serial in running {
        fake.answer(serial, "done").await;
    }
    for call in calls {
        assert!(call.await.expect("no panic").result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_provider_does_not_stall_another() {
    let (models, mut fake) = connect(CONFIG);
    let hung: Vec<_> = (0..10).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    for _ in 0..3 {
        fake.ask().await;
    }
    assert_eq!(models.queue_depth(), 7);
    for model in ["b-model", "unlisted"] {
        let call = start(&models, model, in_an_hour());
        let (serial, asked, _) = fake.ask().await;
        assert_eq!(asked.model.as_str(), model);
        fake.answer(serial, "quick").await;
        let outcome = call.await.expect("no panic");
        assert_eq!((outcome.result.is_ok(), outcome.elapsed), (true, Millis(0)));
    }
    hung.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn starts_keep_the_minimum_gap() {
    let (models, mut fake) = connect(ModelsConfig { min_gap: Duration::from_secs(2), ..CONFIG });
    let calls: Vec<_> = (0..3).map(|_| start(&models, "a-model", in_an_hour())).collect();
    fake.introduce().await;
    let mut starts = Vec::new();
    for _ in 0..3 {
        let (serial, ..) = fake.ask().await;
        starts.push(Instant::now());
        fake.answer(serial, "done").await;
    }
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(2)), "{starts:?}");
    for call in calls {
        assert!(call.await.expect("no panic").result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fits_no_frame_is_rejected() {
    let (models, mut fake) = connect(CONFIG);
    let asking = models.clone();
    let huge = ModelRequest { system: "x".repeat(17 * 1024 * 1024), ..request("a-model") };
    let call =
        tokio::spawn(async move { asking.infer(&huge, NOBODY, 0, in_an_hour(), pending(), |_| {}).await });
    fake.introduce().await;
    assert_eq!(failure_kind(&call.await.expect("no panic")), ModelFailureKind::Rejected);
    let fine = start(&models, "a-model", in_an_hour());
    let (serial, ..) = fake.ask().await;
    fake.answer(serial, "fine").await;
    assert!(fine.await.expect("no panic").result.is_ok(), "the connection is still good");
}

#[tokio::test]
async fn it_works_over_a_real_socket() {
    let (near, far) = tokio::net::UnixStream::pair().expect("a pair");
    let models = Models::new(near, CONFIG);
    let (reader, writer) = far.into_split();
    let mut fake = Fake { reader, writer };
    let call = start(&models, "a-model", in_an_hour());
    fake.introduce().await;
    let (serial, ..) = fake.ask().await;
    fake.answer(serial, "over a socket").await;
    assert_eq!(call.await.expect("no panic").result.expect("a reply").text, "over a socket");
    drop(models);
    assert_eq!(fake.hear().await, None, "the connection closes with the last handle");
}
