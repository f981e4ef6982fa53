//! How long a request takes, seen where it is sent.
//!
//! Invariant: the time of the first token is that of the first piece of any output, be it text, a thought or a call; what
//! comes before, as a report of the input's tokens, is none.

use aaos_core::model::ModelReply;
use aaos_core::observe::{Measured, Micros};
use tokio::time::Instant;

use super::draft::Draft;

/// A reply and what it took.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) reply: ModelReply,
    pub(super) measured: Measured,
}

/// One request that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    first: Option<Micros>,
    model: Option<String>,
}

impl Watch {
    /// Begins when the request is about to be sent.
    pub(super) fn start() -> Self {
        Self { began: Instant::now(), first: None, model: None }
    }

    /// Looks at what has arrived.
    pub(super) fn note(&mut self, draft: &Draft) {
        if self.first.is_none() && draft.has_output() {
            self.first = Some(Micros::of(self.began.elapsed()));
        }
        if self.model.is_none() {
            self.model = draft.model().map(ToOwned::to_owned);
        }
    }

    /// The reply is whole.
    pub(super) fn answered(self, reply: ModelReply) -> Answered {
        let whole = Micros::of(self.began.elapsed());
        Answered { reply, measured: Measured { first: self.first, whole, model: self.model } }
    }
}
