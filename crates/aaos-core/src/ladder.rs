//! Which of the models of its manifest an agent asks: after a run that came to nothing, the next one.
//!
//! Invariants: pure. Only a run that begins changes the rung, by one and never down; whoever stands on the last one stays
//! there. The fold of the journal and the kernel keep the same.

use serde::{Deserialize, Serialize};

use crate::limits::REPEAT_GUARD;
use crate::manifest::Manifest;
use crate::toolio::StopReason;

/// Why the next run of an agent asks the next model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClimbReason {
    /// The run failed, or made too many turns.
    Failed,
    /// Its last reply was cut at its token limit.
    Truncated,
    /// Its model made the same call again and again.
    RepeatGuard,
}

impl ClimbReason {
    /// What the end of a run is a reason for. A purse that is empty, a full window and a stop are no model's affair.
    #[must_use]
    pub const fn of(stop: StopReason) -> Option<Self> {
        match stop {
            StopReason::Error | StopReason::MaxIterations => Some(Self::Failed),
            StopReason::Truncated => Some(Self::Truncated),
            StopReason::Complete
            | StopReason::MaxTokens
            | StopReason::BudgetExceeded
            | StopReason::Cancelled => None,
        }
    }
}

/// Where an agent stands among the models of its manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ladder {
    rung: u32,
    due: Option<ClimbReason>,
}

impl Ladder {
    /// The model that its last run asked, or the one going on: 0 for the first.
    #[must_use]
    pub const fn rung(self) -> u32 {
        self.rung
    }

    /// Why its next run is to ask the next model, if it is and there is one.
    #[must_use]
    pub fn climb(self, manifest: &Manifest) -> Option<ClimbReason> {
        let left = usize::try_from(self.rung).is_ok_and(|rung| rung < manifest.next_models.len());
        self.due.filter(|_| left)
    }

    /// The run going on is not to be followed by one of the same model. Of several reasons the first one counts.
    pub fn note(&mut self, reason: ClimbReason) {
        self.due = self.due.or(Some(reason));
    }

    /// The model made the same call this often in the run going on.
    pub fn note_repeats(&mut self, repeats: u32) {
        if repeats >= REPEAT_GUARD {
            self.note(ClimbReason::RepeatGuard);
        }
    }

    /// A run ended.
    pub fn note_end(&mut self, stop: StopReason) {
        if let Some(reason) = ClimbReason::of(stop) {
            self.note(reason);
        }
    }

    /// A run begins on this rung.
    pub fn begin(&mut self, rung: u32) {
        *self = Self { rung, due: None };
    }
}

#[cfg(test)]
mod tests {
    use super::{ClimbReason, Ladder};
    use crate::manifest::Manifest;
    use crate::toolio::StopReason;

    fn of(models: &str) -> Manifest {
        Manifest::parse(&format!("name: a\n{models}\nsystem_prompt: p\n")).expect("a manifest")
    }

    #[test]
    fn it_climbs_for_its_reasons_only_and_the_last_rung_stays() {
        let (two, one) = (of("models: [cheap, better]"), of("model: cheap"));
        for (stop, reason) in [
            (StopReason::Complete, None),
            (StopReason::MaxTokens, None),
            (StopReason::BudgetExceeded, None),
            (StopReason::Cancelled, None),
            (StopReason::Error, Some(ClimbReason::Failed)),
            (StopReason::MaxIterations, Some(ClimbReason::Failed)),
            (StopReason::Truncated, Some(ClimbReason::Truncated)),
        ] {
            let mut ladder = Ladder::default();
            ladder.note_end(stop);
            assert_eq!((ladder.climb(&two), ladder.climb(&one)), (reason, None), "{stop:?}");
            ladder.begin(1);
            assert_eq!((ladder.rung(), ladder.climb(&two)), (1, None), "a run that begins leaves none due");
            ladder.note_end(stop);
            assert_eq!(ladder.climb(&two), None, "there is no other");
        }
    }

    #[test]
    fn a_call_made_too_often_is_a_reason_however_the_run_ends() {
        let two = of("models: [cheap, better]");
        let mut ladder = Ladder::default();
        ladder.note_repeats(2);
        ladder.note_end(StopReason::Complete);
        assert_eq!(ladder.climb(&two), None);
        ladder.note_repeats(3);
        for stop in [StopReason::Complete, StopReason::Error] {
            ladder.note_end(stop);
            assert_eq!(ladder.climb(&two), Some(ClimbReason::RepeatGuard), "the first reason counts");
        }
    }
}
