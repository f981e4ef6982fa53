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

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
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
