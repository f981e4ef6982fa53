//! Whose turn it is at one provider.
//!
//! Invariants: at most so many calls as there are slots are admitted at once; while a slot is free and somebody waits,
//! somebody is next. Parties that wait take turns by weight, however many calls each has waiting: between two turns of
//! a party that goes on waiting, no other has more than its weight allows (start-time fair queueing: Goyal, Vin and
//! Cheng 1996). Within a party the order is that of arrival, and who was turned away once keeps its place; who was turned
//! away again goes behind the others, and is not next while somebody else waits and nobody else was admitted since.

use std::collections::BTreeMap;

use aaos_core::id::GoalId;

/// Who takes turns with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// All agents of a goal.
    Goal(GoalId),
    /// All agents of a principal, named by its uid, that work for no goal.
    Principal(u32),
}

/// Whether somebody waits for what comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody looks on.
    Interactive,
    /// Nobody does.
    Background,
}

impl Class {
    /// What one turn takes of a party's share: of two parties that wait, the interactive one has four turns where the
    /// other has one.
    const fn stride(self) -> u64 {
        match self {
            Self::Interactive => 1,
            Self::Background => 4,
        }
    }
}

/// For whom a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn {
    /// Who takes turns.
    pub party: Party,
    /// How urgent it is.
    pub class: Class,
}

/// A place in the order of arrival, given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

/// How a call comes to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Come {
    /// For the first time.
    Anew,
    /// Back to its place.
    Back(Place),
    /// Back, behind all others, of whom one goes first.
    Behind,
}

/// A call that waits, and `W`, by which it is told.
#[derive(Debug)]
struct Waiting<W> {
    class: Class,
    tokens: u64,
    waker: W,
    /// After how many admissions it came, if it lets another one go first.
    yields_at: Option<u64>,
}

#[derive(Debug)]
struct Lane<W> {
    /// Up to where the party has used its share.
    pass: u64,
    waiting: BTreeMap<Place, Waiting<W>>,
}

/// Who was admitted.
#[derive(Debug)]
pub(crate) struct Admitted<W> {
    pub(crate) turn: Turn,
    pub(crate) place: Place,
    pub(crate) waker: W,
}

/// Everybody who waits at one provider.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    free: usize,
    most: usize,
    lanes: BTreeMap<Party, Lane<W>>,
    waiting: usize,
    admissions: u64,
    /// The share at which the last one was admitted: who comes anew begins here.
    now: u64,
    next_place: u64,
}

impl<W> Queue<W> {
    /// With so many slots, and room for `most` that wait.
    pub(crate) fn new(slots: usize, most: usize) -> Self {
        assert!(slots > 0, "a provider has at least one slot");
        Self { free: slots, most, lanes: BTreeMap::new(), waiting: 0, admissions: 0, now: 0, next_place: 0 }
    }

    /// Lets a call wait. None where too many wait for one to come anew; who comes back has been let in already.
    pub(crate) fn join(&mut self, turn: Turn, tokens: u64, come: Come, waker: W) -> Option<Place> {
        if come == Come::Anew && self.waiting >= self.most {
            return None;
        }
        let place = match come {
            Come::Back(place) => place,
            Come::Anew | Come::Behind => {
                self.next_place += 1;
                Place(self.next_place)
            }
        };
        let yields_at = (come == Come::Behind).then_some(self.admissions);
        let now = self.now;
        let lane =
            self.lanes.entry(turn.party).or_insert_with(|| Lane { pass: now, waiting: BTreeMap::new() });
        if lane.waiting.is_empty() {
            // What a party did not use while it asked for nothing is not saved up.
            lane.pass = lane.pass.max(now);
        }
        let earlier = lane.waiting.insert(place, Waiting { class: turn.class, tokens, waker, yields_at });
        assert!(earlier.is_none(), "a place is one call's");
        self.waiting += 1;
        Some(place)
    }

    /// Takes a call out that waits no longer; false where it was admitted meanwhile.
    pub(crate) fn leave(&mut self, party: Party, place: Place) -> bool {
        let has_left = self.lanes.get_mut(&party).and_then(|lane| lane.waiting.remove(&place)).is_some();
        self.waiting -= usize::from(has_left);
        has_left
    }

    /// What the next call is estimated to take, in tokens; none while no slot is free or nobody waits.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.free == 0 { None } else { self.first() }
    }

    /// The same of whoever would be next if a slot were free.
    pub(crate) fn first(&self) -> Option<u64> {
        self.head().map(|(_, _, tokens)| tokens)
    }

    /// Admits who is next.
    ///
    /// # Panics
    /// When nobody is: [`Self::next`] says so.
    pub(crate) fn admit(&mut self) -> Admitted<W> {
        assert!(self.free > 0, "a slot is free");
        let Some((party, place, _)) = self.head() else { panic!("nobody waits") };
        let Some(lane) = self.lanes.get_mut(&party) else { unreachable!("the head has a lane") };
        let Some(Waiting { class, waker, .. }) = lane.waiting.remove(&place) else {
            unreachable!("the head waits")
        };
        self.now = self.now.max(lane.pass);
        lane.pass += class.stride();
        self.free -= 1;
        self.waiting -= 1;
        self.admissions += 1;
        // A party that wants nothing and owes nothing need not be remembered.
        let now = self.now;
        self.lanes.retain(|_, lane| !lane.waiting.is_empty() || lane.pass > now);
        Admitted { turn: Turn { party, class }, place, waker }
    }

    /// A slot is free again.
    pub(crate) fn release(&mut self) {
        self.free += 1;
    }

    /// Gives a turn back that came to nothing: the provider turned it away.
    pub(crate) fn refund(&mut self, turn: Turn) {
        if let Some(lane) = self.lanes.get_mut(&turn.party) {
            lane.pass = lane.pass.saturating_sub(turn.class.stride());
        }
    }

    /// Of the first of each party, the one whose party has used least of its share; of equal ones who is urgent, then
    /// who came first. Who yields comes after all who do not.
    fn head(&self) -> Option<(Party, Place, u64)> {
        let yields = |call: &Waiting<W>| call.yields_at == Some(self.admissions);
        let heads = self.lanes.iter().filter_map(|(party, lane)| {
            // Whoever yields was admitted before and nobody after it, so these are no more than there are slots.
            let mut calls = lane.waiting.iter();
            let first = calls.find(|(_, call)| !yields(call)).or_else(|| lane.waiting.first_key_value());
            let (place, call) = first?;
            Some(((yields(call), lane.pass, call.class, *place), *party, call.tokens))
        });
        heads.min().map(|((_, _, _, place), party, tokens)| (party, place, tokens))
    }
}

#[cfg(test)]
mod tests;
