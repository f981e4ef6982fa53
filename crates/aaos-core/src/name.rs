//! Names that people and models write, parsed once.
//!
//! Invariant: a value of these types satisfies its grammar; nothing downstream checks again.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes (SPEC §1: one character and up to 62 more).
pub const MAX_NAME_BYTES: usize = 63;
/// Longest model name, in bytes; providers use names such as `deepseek/deepseek-chat:free`.
pub const MAX_MODEL_NAME_BYTES: usize = 128;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("{kind} name is empty")]
    Empty {
        /// What was being named.
        kind: &'static str,
    },
    /// The name is longer than its kind allows.
    #[error("{kind} name is longer than {limit} bytes")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A character stands where it may not.
    #[error("{kind} name may not hold {found:?} at byte {at}; {rule}")]
    Character {
        /// What was being named.
        kind: &'static str,
        /// The offending character.
        found: char,
        /// Its byte offset.
        at: usize,
        /// The rule in words.
        rule: &'static str,
    },
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $limit:expr, $rule:literal, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`NameError`] when the text is empty, too long or holds a character outside the grammar.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if text.is_empty() {
                    return Err(NameError::Empty { kind: $kind });
                }
                if text.len() > $limit {
                    return Err(NameError::TooLong { kind: $kind, limit: $limit });
                }
                let first: fn(char) -> bool = $first;
                let rest: fn(char) -> bool = $rest;
                for (at, found) in text.char_indices() {
                    let fits = if at == 0 { first(found) } else { rest(found) };
                    if !fits {
                        return Err(NameError::Character { kind: $kind, found, at, rule: $rule });
                    }
                }
                Ok(Self(text.to_owned()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": $limit })
            }
            fn inline_schema() -> bool {
                true
            }
        }
    };
}

name_type!(
    /// Name of an agent and of its manifest: `[a-z0-9][a-z0-9-]{0,62}`.
    AgentName,
    "agent",
    MAX_NAME_BYTES,
    "use a-z, 0-9 and '-', not starting with '-'",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
name_type!(
    /// Name of a tool: `[a-z][a-z0-9_]{0,62}`.
    ToolName,
    "tool",
    MAX_NAME_BYTES,
    "use a-z, 0-9 and '_', starting with a letter",
    |c| c.is_ascii_lowercase(),
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
);
name_type!(
    /// Name or alias of a model, as a provider spells it.
    ModelName,
    "model",
    MAX_MODEL_NAME_BYTES,
    "use visible ASCII characters without quotes",
    |c| c.is_ascii_graphic() && c != '"',
    |c| c.is_ascii_graphic() && c != '"'
);
name_type!(
    /// Name of a configured provider, for example `anthropic` or `builtin`.
    ProviderName,
    "provider",
    MAX_NAME_BYTES,
    "use a-z, 0-9 and '-', not starting with '-'",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);

#[cfg(test)]
mod tests {
    use super::{AgentName, ModelName, NameError, ToolName};

    #[test]
    fn names_follow_their_grammar() {
        for good in ["a", "0", "reader-2", "a--b"] {
            assert!(AgentName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "Reader", "a_b", "a b", "ä", &"x".repeat(64)] {
            assert!(AgentName::parse(bad).is_err(), "{bad}");
        }
        assert!(ToolName::parse("file_read").is_ok());
        assert!(ToolName::parse("file-read").is_err());
        assert!(ModelName::parse("deepseek/deepseek-chat:free").is_ok());
        assert!(ModelName::parse("two words").is_err());
    }

    #[test]
    fn an_error_says_where() {
        let error = AgentName::parse("my agent").expect_err("space");
        assert!(matches!(error, NameError::Character { found: ' ', at: 2, .. }));
    }

    #[test]
    fn json_goes_through_the_parser() {
        assert!(serde_json::from_str::<AgentName>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<AgentName>("\"Not Ok\"").is_err());
    }
}
