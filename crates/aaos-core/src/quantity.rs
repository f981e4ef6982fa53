//! Quantities with their units in the type.
//!
//! Invariant: arithmetic never wraps; it saturates where a larger number only means "more than enough".

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// None at all.
            pub const ZERO: Self = Self(0);

            /// Sum, saturating.
            #[must_use]
            pub const fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// Difference, never below zero.
            #[must_use]
            pub const fn minus(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
    };
}

macro_rules! shown_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

quantity!(
    /// Model tokens.
    Tokens);
quantity!(
    /// Bytes.
    Bytes);
quantity!(
    /// A length of time in milliseconds.
    Millis);
quantity!(
    /// A point in time: milliseconds since 1970-01-01T00:00:00Z, from the runtime's clock.
    Timestamp);
quantity!(
    /// Millionths of a US dollar.
    MicroUsd);
shown_as_number!(Tokens, Bytes, Millis, Timestamp);

/// How many millionths one dollar has.
pub const MICRO_USD_PER_USD: u64 = 1_000_000;

impl MicroUsd {
    /// Reads dollars in decimal, for example `1.50`; `None` for a sign, an exponent, more than six decimals, or
    /// more than fits. Exact: no binary fraction stands between the text and the number.
    #[must_use]
    pub fn from_decimal(text: &str) -> Option<Self> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if !digits(whole) || !digits(fraction) || fraction.len() > 6 {
            return None;
        }
        let whole = whole.parse::<u64>().ok()?.checked_mul(MICRO_USD_PER_USD)?;
        let fraction = format!("{fraction:0<6}").parse::<u64>().ok()?;
        whole.checked_add(fraction).map(Self)
    }

    /// Dollars with two decimals, and as many more as are not zero: `1.50`. What [`Self::from_decimal`] reads.
    #[must_use]
    pub fn to_decimal(self) -> String {
        let (dollars, rest) = (self.0 / MICRO_USD_PER_USD, self.0 % MICRO_USD_PER_USD);
        let decimals = format!("{rest:06}");
        let kept = decimals.trim_end_matches('0').len().max(2);
        format!("{dollars}.{}", &decimals[..kept])
    }
}

/// In decimal, with the unit: `1.50 USD`.
impl fmt::Display for MicroUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD", self.to_decimal())
    }
}

/// What a purse counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Model tokens, input plus output.
    Tokens,
    /// Money, in millionths of a US dollar.
    MicroUsd,
    /// Time that the agent's own runs last, milliseconds. A parent waits while its child runs, so this is the one
    /// quantity that is not added to the ancestors.
    WallMillis,
    /// Child agents spawned, descendants included.
    Children,
    /// Bytes received through the egress gateway, and those that programs send through it.
    EgressBytes,
    /// Bytes written to files.
    WrittenBytes,
    /// Files written; each write or edit counts as one.
    Files,
    /// Bytes of journal that its calls take.
    JournalBytes,
}

impl Quantity {
    /// Every quantity.
    pub const ALL: [Self; 8] = [
        Self::Tokens,
        Self::MicroUsd,
        Self::WallMillis,
        Self::Children,
        Self::EgressBytes,
        Self::WrittenBytes,
        Self::Files,
        Self::JournalBytes,
    ];

    /// Whether what an agent uses counts in its ancestors' purses too.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::WallMillis)
    }

    /// Its bit in a set of quantities.
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The manifest's field that bounds it.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Tokens => "max_tokens",
            Self::MicroUsd => "max_usd",
            Self::WallMillis => "max_wall_seconds",
            Self::Children => "max_children",
            Self::EgressBytes => "max_egress_bytes",
            Self::WrittenBytes => "max_written_bytes",
            Self::Files => "max_files",
            Self::JournalBytes => "max_journal_bytes",
        }
    }

    /// An amount of it in words, for example `200 tokens` or `0.05 USD`.
    #[must_use]
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Tokens => format!("{amount} tokens"),
            Self::MicroUsd => MicroUsd(amount).to_string(),
            Self::WallMillis => format!("{}.{:03} s of run time", amount / 1000, amount % 1000),
            Self::Children => format!("{amount} children"),
            Self::EgressBytes => format!("{amount} bytes from the network"),
            Self::WrittenBytes => format!("{amount} bytes written"),
            Self::Files => format!("{amount} files written"),
            Self::JournalBytes => format!("{amount} bytes of journal"),
        }
    }
}

/// An amount of each quantity; in JSON a map of those that are not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "BTreeMap<Quantity, u64>", from = "BTreeMap<Quantity, u64>")]
pub struct Amounts([u64; Quantity::ALL.len()]);

impl Amounts {
    /// Nothing of anything.
    pub const NONE: Self = Self([0; Quantity::ALL.len()]);

    /// This much of one quantity and nothing of the others.
    #[must_use]
    pub const fn of(quantity: Quantity, amount: u64) -> Self {
        Self::NONE.with(quantity, amount)
    }

    /// The same with another amount of one quantity.
    #[must_use]
    pub const fn with(mut self, quantity: Quantity, amount: u64) -> Self {
        self.0[quantity as usize] = amount;
        self
    }

    /// How much of one quantity.
    #[must_use]
    pub const fn get(&self, quantity: Quantity) -> u64 {
        self.0[quantity as usize]
    }

    /// Sums, saturating.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
        self
    }

    /// Differences, never below zero.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_sub(theirs);
        }
        self
    }

    /// The quantities of which there is any.
    pub fn iter(&self) -> impl Iterator<Item = (Quantity, u64)> {
        Quantity::ALL
            .into_iter()
            .map(|quantity| (quantity, self.get(quantity)))
            .filter(|(_, amount)| *amount > 0)
    }

    /// Whether there is nothing of anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl fmt::Display for Amounts {
    /// Each quantity in words; `nothing` where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.iter().map(|(quantity, amount)| quantity.show(amount)).collect();
        f.write_str(if words.is_empty() { "nothing" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

impl From<Amounts> for BTreeMap<Quantity, u64> {
    fn from(amounts: Amounts) -> Self {
        amounts.iter().collect()
    }
}

impl From<BTreeMap<Quantity, u64>> for Amounts {
    fn from(map: BTreeMap<Quantity, u64>) -> Self {
        map.into_iter().fold(Self::NONE, |amounts, (quantity, amount)| amounts.with(quantity, amount))
    }
}

impl Timestamp {
    /// The point `later` after this one.
    #[must_use]
    pub const fn after(self, later: Millis) -> Self {
        Self(self.0.saturating_add(later.0))
    }

    /// Time that passed since `earlier`; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::MicroUsd;

    #[test]
    fn dollars_are_read_and_shown_exactly() {
        for (text, micros, shown) in [
            ("1.50", 1_500_000, "1.50 USD"),
            ("0.000001", 1, "0.000001 USD"),
            ("3", 3_000_000, "3.00 USD"),
            ("0.1", 100_000, "0.10 USD"),
            ("18446744073709.551615", u64::MAX, "18446744073709.551615 USD"),
        ] {
            assert_eq!(MicroUsd::from_decimal(text), Some(MicroUsd(micros)), "{text}");
            assert_eq!(MicroUsd(micros).to_string(), shown);
            assert_eq!(MicroUsd::from_decimal(&MicroUsd(micros).to_decimal()), Some(MicroUsd(micros)));
        }
        let refused = [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "1.0000000",
            "0x1",
            " 1",
            "18446744073709.551616",
        ];
        for text in refused {
            assert_eq!(MicroUsd::from_decimal(text), None, "{text}");
        }
    }
}
