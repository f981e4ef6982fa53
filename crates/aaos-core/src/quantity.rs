//! Quantities with their units in the type.
//!
//! Invariant: arithmetic never wraps; it saturates where a larger number only means "more than enough".

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
}

/// Dollars with two decimals, and as many more as are not zero: `1.50 USD`.
impl fmt::Display for MicroUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, rest) = (self.0 / MICRO_USD_PER_USD, self.0 % MICRO_USD_PER_USD);
        let decimals = format!("{rest:06}");
        let kept = decimals.trim_end_matches('0').len().max(2);
        write!(f, "{dollars}.{} USD", &decimals[..kept])
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
