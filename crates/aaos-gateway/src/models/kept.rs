//! Connections to providers that are kept for the next request.
//!
//! Invariants: a connection is kept only where its last answer has come to its proper end, and for its own provider; none
//! is kept for longer than [`IDLE`] while nothing is asked, and no more than [`MAX_KEPT_EACH`] a provider.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aaos_core::limits::MOST_INFERENCE_SLOTS;
use aaos_core::name::ProviderName;
use tokio::time::Instant;

use crate::dial::{Answer, Line};

/// How long a connection is kept that nothing is asked over.
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// Connections that are kept for one provider.
const MAX_KEPT_EACH: usize = MOST_INFERENCE_SLOTS;
/// How long is waited for the end of an answer whose end event has come.
const END_TIME: Duration = Duration::from_secs(2);
/// Bytes that may come after the end event.
const MAX_REST_BYTES: usize = 4096;

/// A connection, and since when nothing is asked over it.
#[derive(Debug)]
struct Resting {
    line: Line,
    since: Instant,
}

/// Connections by provider, the one used last at the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(Arc<Mutex<HashMap<ProviderName, Vec<Resting>>>>);

impl Kept {
    /// The connection to a provider that was used last, if it may still be there.
    pub(super) fn take(&self, provider: &ProviderName) -> Option<Line> {
        let mut kept = self.lines();
        let lines = kept.get_mut(provider)?;
        while let Some(Resting { line, since }) = lines.pop() {
            if since.elapsed() < IDLE && !line.is_closed() {
                return Some(line);
            }
        }
        None
    }

    /// Keeps the connection of an answer whose end event has come, once the answer has ended.
    pub(super) fn keep_after(&self, provider: &ProviderName, answer: Answer) {
        let (kept, provider) = (self.clone(), provider.clone());
        tokio::spawn(async move {
            let ended = tokio::time::timeout(END_TIME, answer.into_line(MAX_REST_BYTES)).await;
            if let Ok(Some(line)) = ended {
                kept.put(provider, line);
            }
        });
    }

    fn put(&self, provider: ProviderName, line: Line) {
        let mut kept = self.lines();
        let lines = kept.entry(provider).or_default();
        if lines.len() < MAX_KEPT_EACH {
            lines.push(Resting { line, since: Instant::now() });
        }
    }

    /// Closes what was not used for long or was closed on the other side.
    pub(super) fn sweep(&self) {
        for lines in self.lines().values_mut() {
            lines.retain(|resting| resting.since.elapsed() < IDLE && !resting.line.is_closed());
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, HashMap<ProviderName, Vec<Resting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
