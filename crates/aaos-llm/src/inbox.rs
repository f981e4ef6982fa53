//! What arrived for one request and was not read yet.
//!
//! Invariant: pieces of prose that a slow listener has not read are merged and bounded, so the reader of the
//! connection never waits for a listener. After the end nothing more is taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aaos_core::limits::MAX_FRAME_BYTES;
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelReply, Pace, ProviderState, Standing};
use aaos_core::observe::Measured;
use aaos_core::span::BatchFate;
use tokio::sync::Notify;

/// What a request hears of the gateway.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// The provider took the request.
    Begun(Pace),
    /// Prose, in order.
    Delta(String),
    /// The end.
    End(Ending),
}

/// The last thing a request hears.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The complete reply, and what it took.
    Done(Box<ModelReply>, Option<Box<Measured>>),
    /// The failure of this attempt.
    Failed(ModelFailure),
    /// What is configured.
    Described(Vec<ProviderState>),
    /// How a provider was found.
    Probed(Standing),
    /// Newer figures are wanted.
    Wanted,
    /// What became of spans.
    Exported(BatchFate),
    /// The connection is lost.
    Lost {
        /// How it was noticed.
        reason: String,
    },
}

#[derive(Debug, Default)]
struct State {
    begun: Option<Pace>,
    prose: String,
    /// All prose of this request, read or not.
    prose_bytes: usize,
    end: Option<Ending>,
    ended: bool,
}

/// The inbox of one request: filled by the connection's reader, emptied by the request.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    news: Notify,
}

impl Inbox {
    pub(crate) fn put_begun(&self, pace: Pace) {
        let mut state = self.lock();
        if !state.ended {
            state.begun = Some(pace);
            drop(state);
            self.news.notify_one();
        }
    }

    pub(crate) fn put_delta(&self, text: &str) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.prose_bytes = state.prose_bytes.saturating_add(text.len());
        if state.prose_bytes > MAX_FRAME_BYTES {
            let failure = ModelFailure {
                kind: ModelFailureKind::MalformedReply,
                message: "the model's reply streams on beyond every limit".to_owned(),
                retry_after: None,
            };
            state.end = Some(Ending::Failed(failure));
            state.ended = true;
        } else {
            state.prose.push_str(text);
        }
        drop(state);
        self.news.notify_one();
    }

    pub(crate) fn put_end(&self, end: Ending) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.end = Some(end);
        state.ended = true;
        drop(state);
        self.news.notify_one();
    }

    /// The next arrival; waits for one. Cancel-safe. After the end it waits for ever.
    pub(crate) async fn next(&self) -> Arrival {
        loop {
            if let Some(arrival) = self.take() {
                return arrival;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Option<Arrival> {
        let mut state = self.lock();
        if let Some(pace) = state.begun.take() {
            return Some(Arrival::Begun(pace));
        }
        if !state.prose.is_empty() {
            return Some(Arrival::Delta(std::mem::take(&mut state.prose)));
        }
        state.end.take().map(Arrival::End)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
