//! Spans of model calls on their way to a collector: noted as calls end, sent in batches by the `models` gateway.
//!
//! Invariants: nothing here decides anything or reaches the journal; what waits is bounded, and a call never waits for it;
//! each span ends in exactly one count. The file of headers is opened here and never read.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aaos_core::effect::{Inference, InferenceOutcome};
use aaos_core::id::TraceId;
use aaos_core::model::ModelFailureKind;
use aaos_core::name::ModelName;
use aaos_core::observe::Measured;
use aaos_core::quantity::{Millis, Timestamp};
use aaos_core::span::{
    BatchFate, CallSpan, FinishReason, MAX_BATCHED_FULL_SPANS, MAX_BATCHED_SPANS, MAX_QUEUED_FULL_SPANS,
    MAX_QUEUED_SPANS, MAX_SPAN_RETRIES, SpanContent, SpanEnd, SpanFigures, SpanRetry, SpanSetup, SpanTrace,
};
use aaos_journal::Permit;
use tokio::sync::Notify;

use crate::error::KernelError;
use crate::figures::Target;
use crate::kernel::Kernel;
use crate::keyfile::{KeyFile, KeyFileError};
use crate::registry::Agent;

/// For how long spans are gathered before they are sent together.
const GATHER_TIME: Duration = Duration::from_secs(1);
/// For how long a daemon that ends waits for the collector, for what is on its way and for what waits.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Whether spans tell what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanWords {
    /// They do not.
    LeftOut,
    /// They do.
    Told,
}

/// Where spans go, and what they tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanExport {
    /// URL of the collector, without the path of its spans.
    pub endpoint: String,
    /// The file of the headers that it wants.
    pub headers: Option<KeyFile>,
    /// Whether they tell what was said.
    pub words: SpanWords,
    /// What the sender calls its version.
    pub version: String,
}

impl SpanExport {
    /// Whether the file of headers, if there is one, is fit to hold a secret.
    ///
    /// # Errors
    /// [`KeyFileError`], with what to do.
    pub fn check(&self) -> Result<(), KeyFileError> {
        self.headers.as_ref().map_or(Ok(()), |file| file.open().map(drop))
    }

    /// What a `models` gateway is told, and the file as it is now. One that is not fit any more is told and keeps the
    /// spans here.
    pub(crate) fn hand_over(&self) -> (SpanSetup, Option<OwnedFd>) {
        let (file, problem) = match self.headers.as_ref().map(KeyFile::open) {
            None => (None, None),
            Some(Ok(file)) => (Some(file), None),
            Some(Err(error)) => (None, Some(format!("`headers_file` of [otlp]: {error}"))),
        };
        let (endpoint, version) = (self.endpoint.clone(), self.version.clone());
        (SpanSetup { endpoint, version, headers_follow: file.is_some(), problem }, file)
    }
}

/// The spans that wait, and what became of the others.
#[derive(Debug)]
pub(crate) struct Spans {
    words: SpanWords,
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<CallSpan>,
    on_their_way: usize,
    figures: SpanFigures,
}

impl Spans {
    pub(crate) fn new(words: SpanWords) -> Self {
        Self { words, queue: Mutex::default(), news: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many may wait, and how many go together.
    const fn limits(&self) -> (usize, usize) {
        match self.words {
            SpanWords::LeftOut => (MAX_QUEUED_SPANS, MAX_BATCHED_SPANS),
            SpanWords::Told => (MAX_QUEUED_FULL_SPANS, MAX_BATCHED_FULL_SPANS),
        }
    }

    /// Puts a span last, or drops it where there is no room.
    fn put(&self, span: CallSpan) {
        let mut queue = self.queue();
        if queue.waiting.len() < self.limits().0 {
            queue.waiting.push_back(span);
            drop(queue);
            self.news.notify_one();
        } else {
            queue.figures.dropped += 1;
        }
    }

    /// Waits until there are spans.
    async fn some(&self) {
        while self.queue().waiting.is_empty() {
            self.news.notified().await;
        }
    }

    /// Takes the next batch out.
    fn take(&self) -> Vec<CallSpan> {
        let mut queue = self.queue();
        let count = queue.waiting.len().min(self.limits().1);
        queue.on_their_way += count;
        queue.waiting.drain(..count).collect()
    }

    /// Counts what became of a batch.
    fn settle(&self, count: usize, fate: BatchFate) {
        let mut queue = self.queue();
        assert!(queue.on_their_way >= count, "what is settled was taken");
        queue.on_their_way -= count;
        let failed = fate.failed.min(count as u64);
        queue.figures.failed += failed;
        queue.figures.sent += count as u64 - failed;
        if let Some(why) = fate.problem.as_ref().filter(|why| queue.figures.problem.as_ref() != Some(why)) {
            tracing::warn!(%why, "spans are not taken");
        }
        queue.figures.problem = fate.problem;
    }

    /// What became of all so far.
    pub(crate) fn figures(&self) -> SpanFigures {
        let queue = self.queue();
        let waiting = (queue.waiting.len() + queue.on_their_way) as u64;
        SpanFigures { waiting, ..queue.figures.clone() }
    }
}

/// The span of a call that is under way.
#[derive(Debug)]
pub(crate) struct OpenSpan<'s> {
    spans: &'s Spans,
    span: CallSpan,
}

impl OpenSpan<'_> {
    /// An attempt failed and is made again.
    pub(crate) fn retried(&mut self, kind: ModelFailureKind, wait: Millis, at: Timestamp) {
        if self.span.retries.len() < MAX_SPAN_RETRIES {
            self.span.retries.push(SpanRetry { at, kind, wait });
        }
    }

    /// The call is over.
    pub(crate) fn end(self, outcome: &InferenceOutcome, measured: &Measured, now: Timestamp) {
        let Self { spans, mut span } = self;
        span.ended = now;
        span.end = match &outcome.result {
            Ok(reply) => {
                span.content = span.content.map(|content| Box::new(content.answered(reply)));
                SpanEnd::Answered {
                    // What is no name of a model may be anything.
                    model: measured.model.as_deref().and_then(|name| ModelName::parse(name).ok()),
                    first: measured.first,
                    finish: FinishReason::from(&reply.stop),
                    usage: reply.usage,
                }
            }
            Err(failure) => SpanEnd::Failed(failure.kind),
        };
        spans.put(span);
    }
}

impl Kernel {
    /// The span of a call that begins, where spans are sent.
    pub(crate) fn open_span(
        &self,
        agent: &Agent,
        permit: &Permit<Inference>,
        trace: Option<TraceId>,
        target: Option<&Target>,
    ) -> Option<OpenSpan<'_>> {
        let spans = self.spans()?;
        let request = &permit.effect().request;
        let now = self.clock().now();
        let of_trace = trace.map(|trace| *trace.as_uuid());
        let of_work = agent.goal.map(|goal| *goal.as_uuid()).or(of_trace);
        let content = match spans.words {
            SpanWords::LeftOut => None,
            SpanWords::Told => Some(Box::new(SpanContent::asked(request))),
        };
        let span = CallSpan {
            trace: SpanTrace(of_work.unwrap_or(*agent.id.as_uuid())),
            call: permit.call(),
            agent: agent.id,
            began: now,
            ended: now,
            provider: target.map(|(provider, _)| provider.clone()),
            model: target.map_or_else(|| request.model.clone(), |(_, model)| model.clone()),
            max_output_tokens: request.max_output_tokens,
            retries: Vec::new(),
            end: SpanEnd::Failed(ModelFailureKind::Unavailable),
            content,
        };
        Some(OpenSpan { spans, span })
    }

    /// Sends spans as they come, until the kernel closes.
    pub(crate) async fn export_spans(&self) {
        let Some(spans) = self.spans() else { return };
        let closing = self.closing();
        // An empty batch tells at the start what is wrong with what is configured.
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = self.export(spans, std::mem::take(&mut batch)) => {}
                () = async { closing.cancelled().await; self.clock().sleep(FLUSH_TIME).await } => return,
            }
            let next = async {
                spans.some().await;
                self.clock().sleep(GATHER_TIME).await;
            };
            tokio::select! {
                () = next => batch = spans.take(),
                () = closing.cancelled() => return,
            }
        }
    }

    /// Sends what waits, within a time: the daemon ends.
    pub(crate) async fn flush_spans(&self) {
        let Some(spans) = self.spans() else { return };
        let flushed = async {
            loop {
                let batch = spans.take();
                if batch.is_empty() {
                    return;
                }
                self.export(spans, batch).await;
            }
        };
        let flushed = self.clock().timeout(FLUSH_TIME, flushed).await;
        let SpanFigures { waiting, .. } = spans.figures();
        if flushed.is_none() || waiting > 0 {
            tracing::warn!(spans = waiting, "the collector did not take these in time; they are lost");
        }
    }

    async fn export(&self, spans: &Spans, batch: Vec<CallSpan>) {
        let count = batch.len();
        let sent = async {
            let models = self.models().await?;
            models.export(batch).await.map_err(|error| KernelError::Sandbox(error.to_string()))
        };
        let fate = sent.await.unwrap_or_else(|error| BatchFate {
            failed: count as u64,
            problem: Some(format!("the models gateway could not send them: {error}")),
        });
        spans.settle(count, fate);
    }
}

#[cfg(test)]
mod tests {
    use super::{SpanWords, Spans};
    use aaos_core::model::ModelFailureKind;
    use aaos_core::name::ModelName;
    use aaos_core::quantity::{Timestamp, Tokens};
    use aaos_core::span::{
        BatchFate, CallSpan, MAX_BATCHED_FULL_SPANS, MAX_BATCHED_SPANS, MAX_QUEUED_FULL_SPANS,
        MAX_QUEUED_SPANS, SpanEnd, SpanTrace,
    };

    fn span() -> CallSpan {
        let id = "0190a5e8-7c1b-7000-8000-0123456789ab";
        CallSpan {
            trace: SpanTrace(*id.parse::<aaos_core::id::GoalId>().expect("an id").as_uuid()),
            call: id.parse().expect("an id"),
            agent: id.parse().expect("an id"),
            began: Timestamp(0),
            ended: Timestamp(0),
            provider: None,
            model: ModelName::parse("one").expect("a name"),
            max_output_tokens: Tokens(1),
            retries: Vec::new(),
            end: SpanEnd::Failed(ModelFailureKind::Timeout),
            content: None,
        }
    }

    #[test]
    fn what_waits_is_bounded_and_each_span_is_counted_once() {
        for (words, room, together) in [
            (SpanWords::LeftOut, MAX_QUEUED_SPANS, MAX_BATCHED_SPANS),
            (SpanWords::Told, MAX_QUEUED_FULL_SPANS, MAX_BATCHED_FULL_SPANS),
        ] {
            let spans = Spans::new(words);
            (0..room + 3).for_each(|_| spans.put(span()));
            let figures = spans.figures();
            assert_eq!((figures.waiting, figures.dropped), (room as u64, 3), "{words:?}");
            let batch = spans.take();
            assert_eq!(batch.len(), together, "{words:?}");
            assert_eq!(spans.figures().waiting, room as u64, "what is on its way still waits");
            spans.settle(together, BatchFate { failed: 2, problem: Some("a part".to_owned()) });
            let figures = spans.figures();
            let counted = figures.sent + figures.failed + figures.dropped + figures.waiting;
            assert_eq!((figures.failed, counted), (2, room as u64 + 3), "{words:?}");
            assert_eq!(figures.problem.as_deref(), Some("a part"));
            let more = spans.take().len();
            spans.settle(more, BatchFate { failed: u64::MAX, problem: None });
            assert_eq!(spans.figures().failed, 2 + more as u64, "no more fail than there were");
        }
    }
}
