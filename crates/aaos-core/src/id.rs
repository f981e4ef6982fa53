//! Typed identifiers.
//!
//! Invariant: an id of one kind can never be passed where another kind is meant. Fresh ids are made by the
//! runtime (UUID version 7, RFC 9562), never here: this crate has no clock and no randomness.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text was not a UUID in its hyphenated form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} id is not a UUID")]
pub struct IdError {
    kind: &'static str,
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that the runtime has just generated, or that a record holds.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID inside.
            #[must_use]
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($kind, ":{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError { kind: $kind })
            }
        }
    };
}

typed_id!(
    /// One agent, for its whole life.
    AgentId, "agent");
typed_id!(
    /// One goal that a principal asked for.
    GoalId, "goal");
typed_id!(
    /// One grant in the grant table.
    GrantId, "grant");
typed_id!(
    /// One journal entry (its sequence number orders it; this names it).
    EntryId, "entry");
typed_id!(
    /// One message delivered to a persistent agent, and the reply to it.
    TraceId, "trace");
typed_id!(
    /// One confined worker process.
    WorkerId, "worker");
typed_id!(
    /// One use of a tool, inference or spawn: joins intent and outcome in the journal.
    CallId, "call");
typed_id!(
    /// One question to a person about an effect, and the answer to it.
    ApprovalId, "approval");

/// Position of an entry in the journal; the first entry is 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentId, GoalId};

    #[test]
    fn an_id_survives_text_and_json() {
        let text = "0190a5e8-7c1b-7000-8000-0123456789ab";
        let id: AgentId = text.parse().expect("valid");
        assert_eq!(id.to_string(), text);
        let json = serde_json::to_string(&id).expect("plain");
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<AgentId>(&json).expect("round trip"), id);
    }

    #[test]
    fn a_broken_id_names_its_kind() {
        let error = "nonsense".parse::<GoalId>().expect_err("not a UUID");
        assert_eq!(error.to_string(), "goal id is not a UUID");
    }
}
