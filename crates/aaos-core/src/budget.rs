//! Purses: what an agent and its descendants may spend, with the arithmetic of reservations and windows.
//!
//! Invariant: `used + reserved ≤ ceiling` held when a reservation was admitted, in every window. Only an overdraft,
//! which is reported, takes `used` further; nothing more is admitted there. The authority's table and the fold over
//! the journal use this one type.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Amounts, Millis, Quantity, Timestamp};

/// The most of each quantity; in JSON a map of those that are bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "BTreeMap<Quantity, u64>", from = "BTreeMap<Quantity, u64>")]
pub struct Ceilings {
    /// One bit for each quantity that is bounded, so that a decision sees at once which ones it has to look at.
    bounded: u8,
    /// Zero where nothing is bounded.
    most: [u64; Quantity::ALL.len()],
}

const _: () = assert!(Quantity::ALL.len() <= u8::BITS as usize, "a bit for each quantity");

impl Ceilings {
    /// No bound on anything.
    pub const NONE: Self = Self { bounded: 0, most: [0; Quantity::ALL.len()] };

    /// A bound on one quantity alone.
    #[must_use]
    pub const fn of(quantity: Quantity, most: u64) -> Self {
        Self::NONE.with(quantity, Some(most))
    }

    /// The same with another bound on one quantity.
    #[must_use]
    pub const fn with(mut self, quantity: Quantity, most: Option<u64>) -> Self {
        (self.bounded, self.most[quantity as usize]) = match most {
            Some(most) => (self.bounded | quantity.bit(), most),
            None => (self.bounded & !quantity.bit(), 0),
        };
        self
    }

    /// The bound on one quantity.
    #[must_use]
    pub const fn get(&self, quantity: Quantity) -> Option<u64> {
        if self.bounded & quantity.bit() == 0 { None } else { Some(self.most[quantity as usize]) }
    }

    /// The tighter bound of the two on each quantity.
    #[must_use]
    pub fn tightest(self, other: &Self) -> Self {
        other.iter().fold(self, |tight, (quantity, theirs)| {
            tight.with(quantity, Some(self.get(quantity).map_or(theirs, |mine| mine.min(theirs))))
        })
    }

    /// The quantities that are bounded.
    pub fn iter(&self) -> impl Iterator<Item = (Quantity, u64)> {
        Quantity::ALL.into_iter().filter_map(|quantity| Some((quantity, self.get(quantity)?)))
    }
}

impl From<Ceilings> for BTreeMap<Quantity, u64> {
    fn from(ceilings: Ceilings) -> Self {
        ceilings.iter().collect()
    }
}

impl From<BTreeMap<Quantity, u64>> for Ceilings {
    fn from(map: BTreeMap<Quantity, u64>) -> Self {
        map.into_iter().fold(Self::NONE, |ceilings, (quantity, most)| ceilings.with(quantity, Some(most)))
    }
}

/// What bounds a purse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Budget {
    /// The most of each quantity; within one window, where there is one.
    pub max: Ceilings,
    /// How long a window is; without one the ceilings are for life.
    pub reset_period: Option<Millis>,
}

impl Budget {
    /// A ceiling of one quantity, for life.
    #[must_use]
    pub const fn of(quantity: Quantity, most: u64) -> Self {
        Self { max: Ceilings::of(quantity, most), reset_period: None }
    }

    /// Under `other` too. A window is kept only where both refill, and then the longer one: of a ceiling for life and
    /// one that refills, the one for life is tighter.
    #[must_use]
    pub fn under(self, other: &Self) -> Self {
        let reset_period = match (self.bounded_period(), other.bounded_period()) {
            (Bound::None, theirs) => theirs.period(),
            (mine, Bound::None) => mine.period(),
            (mine, theirs) => mine.period().zip(theirs.period()).map(|(mine, theirs)| mine.max(theirs)),
        };
        Self { max: self.max.tightest(&other.max), reset_period }
    }

    fn bounded_period(&self) -> Bound {
        match self.reset_period {
            _ if self.max == Ceilings::NONE => Bound::None,
            None => Bound::ForLife,
            Some(period) => Bound::Window(period),
        }
    }
}

impl fmt::Display for Budget {
    /// Each ceiling in words, and the window; `no limit` where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.max == Ceilings::NONE {
            return f.write_str("no limit");
        }
        let words: Vec<String> = self.max.iter().map(|(quantity, most)| quantity.show(most)).collect();
        f.write_str(&words.join(", "))?;
        match self.reset_period {
            Some(period) => write!(f, " every {} s", period.0 / 1000),
            None => Ok(()),
        }
    }
}

/// What a purse lacks for an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shortfall {
    /// Of what.
    pub quantity: Quantity,
    /// What was wanted.
    pub wanted: u64,
    /// What can be had at most.
    pub remaining: u64,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quantity, wanted, remaining } = *self;
        let field = quantity.field();
        write!(f, "{} wanted, {} left ({field})", quantity.show(wanted), quantity.show(remaining))
    }
}

/// Over what time a budget bounds anything.
#[derive(Clone, Copy)]
enum Bound {
    None,
    ForLife,
    Window(Millis),
}

impl Bound {
    const fn period(self) -> Option<Millis> {
        match self {
            Self::Window(period) => Some(period),
            Self::None | Self::ForLife => None,
        }
    }
}

/// One purse: ceilings, what is reserved by effects in flight, and what is used in the present window. What
/// descendants reserve and use is in it, except for quantities that are not shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purse {
    budget: Budget,
    reserved: Amounts,
    used: Amounts,
    window: Timestamp,
}

impl Purse {
    /// An untouched purse; its first window begins at `born`.
    #[must_use]
    pub const fn new(budget: Budget, born: Timestamp) -> Self {
        Self { budget, reserved: Amounts::NONE, used: Amounts::NONE, window: born }
    }

    /// Its ceilings and its window.
    #[must_use]
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What effects in flight reserve.
    #[must_use]
    pub const fn reserved(&self) -> &Amounts {
        &self.reserved
    }

    /// What is used in the window that `now` lies in.
    #[must_use]
    pub fn used_at(&self, now: Timestamp) -> Amounts {
        if self.window_at(now) == self.window { self.used } else { Amounts::NONE }
    }

    /// When the present window ends.
    #[must_use]
    pub fn window_ends(&self, now: Timestamp) -> Option<Timestamp> {
        self.budget.reset_period.map(|period| self.window_at(now).after(period))
    }

    /// Moves on to the window that `now` lies in: what was used before is no longer counted, what is reserved stays.
    pub fn roll(&mut self, now: Timestamp) {
        let window = self.window_at(now);
        if window != self.window {
            self.window = window;
            self.used = Amounts::NONE;
        }
    }

    /// Ceiling less used, where there is a ceiling. Reservations are not subtracted: they come back in part.
    #[must_use]
    pub fn remaining(&self, quantity: Quantity, now: Timestamp) -> Option<u64> {
        let ceiling = self.budget.max.get(quantity)?;
        let used = if self.window_at(now) == self.window { self.used.get(quantity) } else { 0 };
        Some(ceiling.saturating_sub(used))
    }

    /// Ceiling less used and reserved, where there is a ceiling: what can be reserved now.
    #[must_use]
    pub fn free(&self, quantity: Quantity, now: Timestamp) -> Option<u64> {
        Some(self.remaining(quantity, now)?.saturating_sub(self.reserved.get(quantity)))
    }

    /// Whether `amount` can be reserved once nothing else is reserved.
    #[must_use]
    pub fn could_ever_hold(&self, quantity: Quantity, amount: u64, now: Timestamp) -> bool {
        self.remaining(quantity, now).is_none_or(|left| amount <= left)
    }

    /// Whether `amount` can be reserved now.
    #[must_use]
    pub fn holds(&self, quantity: Quantity, amount: u64, now: Timestamp) -> bool {
        let asked = self.reserved.get(quantity).saturating_add(amount);
        self.remaining(quantity, now).is_none_or(|left| asked <= left)
    }

    /// [`Purse::holds`] for every quantity of which there is any.
    #[must_use]
    pub fn holds_all(&self, amounts: &Amounts, now: Timestamp) -> bool {
        self.budget.max.bounded == 0
            || amounts.iter().all(|(quantity, amount)| self.holds(quantity, amount, now))
    }

    /// Adds a reservation that was found to hold.
    pub fn reserve(&mut self, quantity: Quantity, amount: u64, now: Timestamp) {
        self.reserve_all(&Amounts::of(quantity, amount), now);
    }

    /// [`Purse::reserve`] for every quantity.
    pub fn reserve_all(&mut self, amounts: &Amounts, now: Timestamp) {
        self.roll(now);
        assert!(self.holds_all(amounts, now), "a reservation never passes a ceiling");
        self.count_reserved(amounts);
    }

    /// Counts reservations that the purse of another time admitted, whatever this one says.
    pub(crate) fn count_reserved(&mut self, amounts: &Amounts) {
        self.reserved = self.reserved.plus(amounts);
    }

    /// Turns a reservation into use. Use counts in the window in which it becomes known, so that no window sees less
    /// than its own.
    pub fn settle(&mut self, quantity: Quantity, reserved: u64, used: u64, now: Timestamp) {
        self.roll(now);
        let (before, spent) = (self.reserved.get(quantity), self.used.get(quantity));
        self.reserved = self.reserved.with(quantity, before.saturating_sub(reserved));
        self.used = self.used.with(quantity, spent.saturating_add(used));
    }

    /// [`Purse::settle`] for every quantity.
    pub fn settle_all(&mut self, reserved: &Amounts, used: &Amounts, now: Timestamp) {
        self.roll(now);
        self.reserved = self.reserved.minus(reserved);
        self.used = self.used.plus(used);
    }

    /// Counts all reservations as used: nobody will learn how their effects ended.
    pub(crate) fn spend_reserved(&mut self, now: Timestamp) {
        self.roll(now);
        self.used = self.used.plus(&self.reserved);
        self.reserved = Amounts::NONE;
    }

    /// The beginning of the window that `now` lies in.
    fn window_at(&self, now: Timestamp) -> Timestamp {
        match self.budget.reset_period {
            Some(period) if period > Millis::ZERO => {
                let whole = now.since(self.window).0 / period.0;
                self.window.after(Millis(whole.saturating_mul(period.0)))
            }
            _ => self.window,
        }
    }
}
