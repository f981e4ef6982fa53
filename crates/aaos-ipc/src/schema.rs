//! JSON Schema (draft 2020-12) of messages and tool arguments.
//!
//! Invariants: a compiled schema refers to nothing outside itself and nothing is ever fetched. Its size,
//! depth, written-out size and the work of one validation are bounded, patterns run on an engine whose time
//! is linear in the text (no look-around, no back-references), and what is reported of a violation is bounded
//! and does not repeat the checked document.

use aaos_core::limits::{MAX_SCHEMA_BYTES, MAX_SCHEMA_ERRORS, MAX_SCHEMA_WORK};
use jsonschema::{Draft, PatternOptions, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::schema_cost::written_out;

/// Compiled size of one pattern, bytes.
const PATTERN_BYTES: usize = 256 * 1024;
/// Longest text of one violation, characters.
const VIOLATION_CHARS: usize = 240;
/// Bytes of a string that count as one value of a document.
const STRING_UNIT: usize = 256;

/// A compiled schema.
#[derive(Debug, Clone)]
pub struct Schema {
    validator: Validator,
    cost: u64,
}

/// Why a schema was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Its text is too long.
    #[error("the schema of {bytes} bytes is over the limit of {MAX_SCHEMA_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is nested too deeply.
    #[error("the schema is nested too deeply")]
    TooDeep,
    /// It stands for too much when its references are written out.
    #[error("the schema is too large when its references are written out")]
    TooComplex,
    /// It refers to itself.
    #[error("the schema refers to itself through {reference:?}, which is not supported")]
    Recursive {
        /// The reference.
        reference: String,
    },
    /// A reference does not lead to a place in the schema.
    #[error("reference {reference:?} does not name a place in this schema; write it as #/$defs/NAME")]
    Reference {
        /// The reference.
        reference: String,
    },
    /// A keyword that is not supported.
    #[error(
        "keyword {keyword:?} is not supported with this value; the dialect is draft 2020-12, references are #/$defs/NAME"
    )]
    Keyword {
        /// The keyword.
        keyword: String,
    },
    /// It is no JSON Schema.
    #[error("the schema is invalid at {at:?}: {reason}")]
    Invalid {
        /// JSON Pointer into the schema.
        at: String,
        /// Why.
        reason: String,
    },
}

/// One place where a document does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// JSON Pointer into the document; empty for the whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// A document does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.text())]
pub struct Violations {
    /// The first ones found.
    pub listed: Vec<Violation>,
    /// Whether there are more.
    pub more: bool,
}

impl Violations {
    fn text(&self) -> String {
        let one = |violation: &Violation| {
            let place = if violation.path.is_empty() { "the input" } else { violation.path.as_str() };
            format!("{place}: {}", violation.message)
        };
        let mut text = self.listed.iter().map(one).collect::<Vec<_>>().join("; ");
        if self.more {
            text.push_str("; and more");
        }
        text
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// [`SchemaError`] when it is invalid, over a limit or refers to something outside itself.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let bytes = schema.to_string().len();
        if bytes > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLong { bytes });
        }
        let cost = written_out(schema)?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns)
            .offline()
            .build(schema)
            .map_err(|error| SchemaError::Invalid {
                at: cut(error.instance_path().as_str()),
                reason: cut(&error.masked().to_string()),
            })?;
        assert!(cost > 0, "every schema has a value");
        Ok(Self { validator, cost })
    }

    /// Checks a document.
    ///
    /// # Errors
    /// [`Violations`] with the first few places where it does not fit.
    pub fn validate(&self, document: &Value) -> Result<(), Violations> {
        let work = self.cost.saturating_mul(values(document));
        if work > MAX_SCHEMA_WORK {
            let message = "too large to be checked against this schema".to_owned();
            let listed = vec![Violation { path: String::new(), message }];
            return Err(Violations { listed, more: false });
        }
        let mut errors = self.validator.iter_errors(document);
        let listed: Vec<_> = errors
            .by_ref()
            .take(MAX_SCHEMA_ERRORS)
            .map(|error| Violation {
                path: cut(error.instance_path().as_str()),
                message: cut(&error.masked().to_string()),
            })
            .collect();
        if listed.is_empty() { Ok(()) } else { Err(Violations { listed, more: errors.next().is_some() }) }
    }
}

/// Values in a document, long strings counting more. Its depth is bounded by the parser that read it.
fn values(document: &Value) -> u64 {
    let below = match document {
        Value::Array(items) => items.iter().map(values).fold(0, u64::saturating_add),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| values(value) + (name.len() / STRING_UNIT) as u64;
            members.iter().map(member).fold(0, u64::saturating_add)
        }
        Value::String(text) => (text.len() / STRING_UNIT) as u64,
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    below.saturating_add(1)
}

fn cut(text: &str) -> String {
    if text.chars().count() <= VIOLATION_CHARS {
        return text.to_owned();
    }
    text.chars().take(VIOLATION_CHARS).chain(['…']).collect()
}
