//! A fake process of this machine's own, beside the fake gateway.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aaos_core::limits::{
    LOCAL_BEGIN_MS, LOCAL_FAILURE_CHARS, LOCAL_INFERENCE_TIME_MS, MAX_MODEL_REPLY_BYTES,
    MAX_MODEL_REPLY_CALLS,
};
use aaos_core::model::{
    ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelStop, Pace, PlacedThought,
    ProviderState, RawArguments, RequestedTool, Room, Thought,
};
use aaos_core::name::ModelName;
use aaos_core::quantity::Millis;
use aaos_core::wire::{ModelsReply, ModelsRequest};
use tokio::time::Instant;

use super::{
    CONFIG, MemoryFake, NOBODY, connect, counts, failure_kind, in_an_hour, linked, provider, reply, request,
    start,
};
use crate::host::{Awaited, Connection, Host};
use crate::{Models, Progress};

/// Connects to what stands ready, in order.
#[derive(Debug)]
struct FakeHost {
    provider: ProviderState,
    ready: Mutex<VecDeque<Connection>>,
    held: Mutex<Option<Connection>>,
}

fn failure(message: &str) -> ModelFailure {
    ModelFailure { kind: ModelFailureKind::Unavailable, message: message.to_owned(), retry_after: None }
}

impl Host for FakeHost {
    fn provider(&self) -> &ProviderState {
        &self.provider
    }

    fn connected(&self, _: &ModelName) -> Option<Connection> {
        self.held.lock().expect("whole").clone().filter(|held| !held.is_closed())
    }

    fn connect<'a>(&'a self, _: &'a ModelName) -> Awaited<'a, Result<Connection, ModelFailure>> {
        Box::pin(async {
            let next = self.ready.lock().expect("whole").pop_front();
            let next = next.ok_or_else(|| failure("it does not start"))?;
            *self.held.lock().expect("whole") = Some(next.clone());
            Ok(next)
        })
    }

    fn lost<'a>(&'a self, connection: &'a Connection, noticed: &'a str) -> Awaited<'a, ModelFailure> {
        let lost = self.held.lock().expect("whole").take_if(|held| held.is(connection));
        assert!(lost.is_some(), "what it gave is what is lost");
        let is_known = noticed.contains("its connection ended") || noticed.contains("did not answer within");
        assert!(is_known, "{noticed}");
        Box::pin(async { failure("its process ended") })
    }
}

/// A host with so many processes, and the far ends of the gateway and of each process.
fn beside(processes: usize) -> (Models, MemoryFake, Vec<MemoryFake>) {
    let (links, fakes): (VecDeque<_>, Vec<_>) =
        (0..processes).map(|_| linked()).map(|(link, fake)| (Connection(link), fake)).unzip();
    let mut provider = provider("local", &["small"]);
    provider.aliases = vec![ModelName::parse("smart").expect("a name")];
    let host = FakeHost { provider, ready: Mutex::new(links), held: Mutex::default() };
    let (models, gateway) = connect(CONFIG);
    (models.beside(Arc::new(host)), gateway, fakes)
}

#[tokio::test(start_paused = true)]
async fn a_local_model_is_started_once_and_the_gateway_hears_nothing() {
    let (models, mut gateway, mut processes) = beside(1);
    let mut process = processes.remove(0);
    let shown = Arc::new(Mutex::new(Vec::new()));
    for (name, words) in [("small", "one"), ("smart", "two"), ("local/small", "three")] {
        let (models, shown) = (models.clone(), Arc::clone(&shown));
        let running = tokio::spawn(async move {
            let show = |progress| shown.lock().expect("whole").push(progress);
            models.infer(&request(name), NOBODY, 0, in_an_hour(), pending(), show).await
        });
        let (serial, asked, _) = process.ask().await;
        assert_eq!(asked.model.as_str(), name);
        process.answer(serial, words).await;
        assert_eq!(running.await.expect("ran").result.expect("a reply").text, words);
    }
    let shown: Vec<Progress> = std::mem::take(&mut shown.lock().expect("whole"));
    let loadings = shown.iter().filter(|one| **one == Progress::Loading).count();
    let is_asked_last = matches!(shown.as_slice(), [.., Progress::Asked, Progress::Answered(_)]);
    assert!(loadings == 1 && is_asked_last, "{shown:?}");
    // The control: another model is the gateway's.
    let other = start(&models, "a-model", in_an_hour());
    gateway.introduce().await;
    let (serial, ..) = gateway.ask().await;
    gateway.answer(serial, "from afar").await;
    assert_eq!(other.await.expect("ran").result.expect("a reply").text, "from afar");
}

#[tokio::test(start_paused = true)]
async fn a_lost_process_fails_its_call_in_words_and_the_next_call_has_another() {
    let (models, _gateway, mut processes) = beside(2);
    let running = start(&models, "small", in_an_hour());
    let mut first = processes.remove(0);
    first.ask().await;
    drop(first);
    let outcome = running.await.expect("ran");
    assert_eq!(outcome.result, Err(failure("its process ended")));
    assert_eq!((outcome.attempts, outcome.possibly_billed), (1, 1), "what it read of the purse stays spent");
    let again = start(&models, "small", in_an_hour());
    let mut second = processes.remove(0);
    let (serial, ..) = second.ask().await;
    second.answer(serial, "back").await;
    assert_eq!(again.await.expect("ran").result.expect("a reply").text, "back");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_start_is_not_tried_again() {
    let (models, _gateway, _processes) = beside(0);
    let outcome = start(&models, "small", in_an_hour()).await.expect("ran");
    assert_eq!(outcome.result, Err(failure("it does not start")));
    assert_eq!((outcome.attempts, outcome.possibly_billed), (0, 0), "nobody was asked");
}

#[tokio::test(start_paused = true)]
async fn one_inference_runs_at_a_time_and_one_that_is_dropped_is_cancelled() {
    let (models, _gateway, mut processes) = beside(1);
    let mut process = processes.remove(0);
    let first = start(&models, "small", in_an_hour());
    let (serial, ..) = process.ask().await;
    let second = start(&models, "small", in_an_hour());
    first.abort();
    // Had the second one not waited, it would be heard here.
    assert!(matches!(process.hear().await, Some(ModelsRequest::Cancel { serial: one }) if one == serial));
    let (serial, ..) = process.ask().await;
    process.answer(serial, "its turn").await;
    assert_eq!(second.await.expect("ran").result.expect("a reply").text, "its turn");
    assert!(first.await.expect_err("aborted").is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_answer_in_time_is_ended_and_the_next_call_has_another() {
    for begins in [true, false] {
        let (models, _gateway, mut processes) = beside(2);
        let running = start(&models, "small", in_an_hour());
        let (mut first, mut second) = (processes.remove(0), processes.remove(0));
        let (serial, ..) = first.ask().await;
        let asked = Instant::now();
        let mut waited = LOCAL_BEGIN_MS;
        if begins {
            first.say(&ModelsReply::Begun { serial, pace: Pace::default() }).await;
            waited = LOCAL_INFERENCE_TIME_MS;
        }
        let outcome = running.await.expect("ran");
        assert_eq!((failure_kind(&outcome), counts(&outcome)), (ModelFailureKind::Timeout, (1, 1)));
        assert_eq!(asked.elapsed(), Duration::from_millis(waited), "{begins}");
        let again = start(&models, "small", in_an_hour());
        let (serial, ..) = second.ask().await;
        second.answer(serial, "back").await;
        assert_eq!(again.await.expect("ran").result.expect("a reply").text, "back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_never_ends_what_was_cancelled_is_ended_by_the_next_call() {
    let (models, _gateway, mut processes) = beside(2);
    let (mut first, mut second) = (processes.remove(0), processes.remove(0));
    let cancelled = start(&models, "small", in_an_hour());
    let (serial, ..) = first.ask().await;
    first.say(&ModelsReply::Begun { serial, pace: Pace::default() }).await;
    cancelled.abort();
    assert!(cancelled.await.expect_err("aborted").is_cancelled());
    let next = start(&models, "small", in_an_hour()).await.expect("ran");
    assert_eq!((failure_kind(&next), next.elapsed), (ModelFailureKind::Timeout, Millis(LOCAL_BEGIN_MS)));
    let again = start(&models, "small", in_an_hour());
    let (serial, ..) = second.ask().await;
    second.answer(serial, "back").await;
    assert_eq!(again.await.expect("ran").result.expect("a reply").text, "back");
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_process_says_keeps_the_next_call_from_it() {
    let (models, _gateway, mut processes) = beside(1);
    let mut process = processes.remove(0);
    let first = start(&models.trying(1), "small", in_an_hour());
    let (serial, ..) = process.ask().await;
    let full = Room { left: 0, resets_in: Millis(1_000_000_000_000) };
    let pace = Pace { requests: Some(full), tokens: Some(full) };
    process.say(&ModelsReply::Begun { serial, pace }).await;
    let words = format!("\u{1b}[2J{}", "x".repeat(LOCAL_FAILURE_CHARS));
    let (kind, retry_after) = (ModelFailureKind::RateLimited, Some(Millis(1_000_000_000_000)));
    process
        .say(&ModelsReply::Failed { serial, failure: ModelFailure { kind, message: words, retry_after } })
        .await;
    let failed = first.await.expect("ran").result.expect_err("it failed");
    assert_eq!((failed.kind, failed.retry_after), (ModelFailureKind::Unavailable, None));
    assert!(failed.message.starts_with("\\u{1b}[2Jxx") && failed.message.len() < 2 * LOCAL_FAILURE_CHARS);
    for kind in [ModelFailureKind::Unavailable, ModelFailureKind::Timeout] {
        let next = start(&models.trying(1), "small", in_an_hour());
        let (serial, ..) = process.ask().await;
        process.fail(serial, kind, Some(Millis(1_000_000_000_000))).await;
        assert_eq!(failure_kind(&next.await.expect("ran")), kind);
    }
    let began = Instant::now();
    let next = start(&models, "small", in_an_hour());
    let (serial, ..) = process.ask().await;
    process.answer(serial, "still there").await;
    assert_eq!(next.await.expect("ran").result.expect("a reply").text, "still there");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// What becomes of a reply of the process.
async fn becomes(said: ModelReply) -> Result<ModelReply, ModelFailureKind> {
    let (models, _gateway, mut processes) = beside(1);
    let mut process = processes.remove(0);
    let running = start(&models.trying(1), "small", in_an_hour());
    let (serial, ..) = process.ask().await;
    process.say(&ModelsReply::Done { serial, reply: Box::new(said), measured: None }).await;
    running.await.expect("ran").result.map_err(|failure| failure.kind)
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_a_process_is_held_to_what_a_gateway_guarantees() {
    let call = |id: usize| ModelCall {
        id: ModelCallId(format!("{id:03}")),
        tool: RequestedTool("echo".to_owned()),
        arguments: RawArguments("{}".to_owned()),
    };
    let calls = |count: usize| ModelReply { calls: (0..count).map(call).collect(), ..reply("") };
    let thought = Thought::Redacted { data: "secret".to_owned() };
    let thinking = vec![PlacedThought { after_text: 9, after_calls: 9, thought }];
    let thoughtful = ModelReply { thinking, reasoning: Some("hm".to_owned()), ..reply("said") };
    assert_eq!(becomes(thoughtful).await, Ok(reply("said")));
    let most = reply(&"x".repeat(MAX_MODEL_REPLY_BYTES));
    assert_eq!(becomes(most.clone()).await, Ok(most.clone()));
    assert_eq!(becomes(ModelReply { calls: vec![call(1)], ..most }).await, Err(ModelFailureKind::TooLong));
    let many = becomes(calls(MAX_MODEL_REPLY_CALLS)).await.expect("at the limit");
    assert_eq!((many.calls.len(), many.stop), (MAX_MODEL_REPLY_CALLS, ModelStop::ToolUse));
    assert_eq!(becomes(calls(MAX_MODEL_REPLY_CALLS + 1)).await, Err(ModelFailureKind::TooLong));
    for stop in [ModelStop::EndTurn, ModelStop::ToolUse] {
        let blank = ModelReply { stop, ..reply(" \n") };
        assert_eq!(becomes(blank).await, Err(ModelFailureKind::EmptyReply));
    }
    let cut = ModelReply { stop: ModelStop::MaxTokens, ..reply("") };
    assert_eq!(becomes(cut.clone()).await, Ok(cut));
}
