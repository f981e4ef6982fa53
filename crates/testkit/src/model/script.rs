//! Which turn answers which request.
//!
//! Invariant: rules are tried in the order they were added, and a queue that ran dry does not match any more, so a
//! later rule (or nobody) answers; a turn is given out once.

use super::{SeenRequest, Turn};
use std::collections::VecDeque;
use std::fmt;

type Choose = Box<dyn FnMut(&SeenRequest) -> Option<Turn> + Send>;
type Matches = Box<dyn Fn(&SeenRequest) -> bool + Send>;

enum Rule {
    Queue { matches: Matches, turns: VecDeque<Turn> },
    Dynamic(Choose),
}

/// The turns of a scripted model.
#[derive(Default)]
pub struct Script {
    rules: Vec<Rule>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("rules", &self.rules.len()).finish()
    }
}

impl Script {
    /// A script without turns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These turns for whoever asks, in order.
    #[must_use]
    pub fn in_order(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self::new().otherwise(turns)
    }

    /// Every turn comes from `choose`, which may keep state.
    #[must_use]
    pub fn dynamic(mut choose: impl FnMut(&SeenRequest) -> Turn + Send + 'static) -> Self {
        Self::new().or_choose(move |seen| Some(choose(seen)))
    }

    /// These turns, in order, for requests whose system prompt contains `part`.
    #[must_use]
    pub fn when_system(self, part: impl Into<String>, turns: impl IntoIterator<Item = Turn>) -> Self {
        let part = part.into();
        self.when(move |seen| seen.system.contains(&part), turns)
    }

    /// These turns, in order, for requests that `matches` accepts.
    #[must_use]
    pub fn when(
        mut self,
        matches: impl Fn(&SeenRequest) -> bool + Send + 'static,
        turns: impl IntoIterator<Item = Turn>,
    ) -> Self {
        self.rules.push(Rule::Queue { matches: Box::new(matches), turns: turns.into_iter().collect() });
        self
    }

    /// These turns, in order, for whatever no earlier rule answered.
    #[must_use]
    pub fn otherwise(self, turns: impl IntoIterator<Item = Turn>) -> Self {
        self.when(|_| true, turns)
    }

    /// Asks `choose` for whatever no earlier rule answered; `None` leaves it to the next rule.
    #[must_use]
    pub fn or_choose(mut self, choose: impl FnMut(&SeenRequest) -> Option<Turn> + Send + 'static) -> Self {
        self.rules.push(Rule::Dynamic(Box::new(choose)));
        self
    }

    pub(super) fn next(&mut self, seen: &SeenRequest) -> Option<Turn> {
        self.rules.iter_mut().find_map(|rule| match rule {
            Rule::Queue { matches, turns } if matches(seen) => turns.pop_front(),
            Rule::Queue { .. } => None,
            Rule::Dynamic(choose) => choose(seen),
        })
    }
}
