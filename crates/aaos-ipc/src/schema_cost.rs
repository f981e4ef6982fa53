//! How expensive a JSON Schema can get, found before it is compiled.
//!
//! An agent's `accepts` is hostile. References let a small schema stand for a huge one (each definition
//! naming the next one twice) or for an endless one (a definition naming itself), and validation walks what
//! it stands for.
//!
//! Invariant: a schema that [`written_out`] accepts, with every reference written out, has at most
//! [`MAX_SCHEMA_VALUES`] values, and refers to nothing outside itself.

use std::collections::BTreeMap;

use aaos_core::limits::{MAX_SCHEMA_DEPTH, MAX_SCHEMA_VALUES};
use serde_json::Value;

use crate::schema::SchemaError;

/// Keywords that move or name reference targets, so that a reference would no longer be a plain pointer.
const REFUSED: [&str; 7] =
    ["$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "$recursiveAnchor", "$vocabulary"];
/// The dialect; any other is refused.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Counts the values of a schema with every reference written out.
pub(crate) fn written_out(schema: &Value) -> Result<u64, SchemaError> {
    Walk { root: schema, known: BTreeMap::new() }.value(schema, 0)
}

struct Walk<'a> {
    root: &'a Value,
    /// Targets by reference: their cost, or `None` while they are being walked.
    known: BTreeMap<&'a str, Option<u64>>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, value: &'a Value, depth: usize) -> Result<u64, SchemaError> {
        if depth > MAX_SCHEMA_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        let mut cost: u64 = 1;
        match value {
            Value::Array(items) => {
                for item in items {
                    cost = bounded(cost, self.value(item, depth + 1)?)?;
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    refuse_keyword(name, member)?;
                    let below = match (name.as_str(), member) {
                        ("$ref", Value::String(reference)) => self.target(reference, depth + 1)?,
                        _ => self.value(member, depth + 1)?,
                    };
                    cost = bounded(cost, below)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        Ok(cost)
    }

    fn target(&mut self, reference: &'a str, depth: usize) -> Result<u64, SchemaError> {
        match self.known.get(reference) {
            Some(Some(cost)) => return Ok(*cost),
            Some(None) => return Err(SchemaError::Recursive { reference: shown(reference) }),
            None => {}
        }
        let pointer = reference.strip_prefix('#').filter(|pointer| !pointer.contains('%'));
        let target = pointer.and_then(|pointer| self.root.pointer(pointer));
        let target = target.ok_or_else(|| SchemaError::Reference { reference: shown(reference) })?;
        if std::ptr::eq(target, self.root) {
            return Err(SchemaError::Recursive { reference: shown(reference) });
        }
        self.known.insert(reference, None);
        let cost = self.value(target, depth)?;
        self.known.insert(reference, Some(cost));
        Ok(cost)
    }
}

fn bounded(cost: u64, more: u64) -> Result<u64, SchemaError> {
    let sum = cost.saturating_add(more);
    if sum > MAX_SCHEMA_VALUES { Err(SchemaError::TooComplex) } else { Ok(sum) }
}

/// Refuses keywords by their place-independent name where they carry text; a property that merely has such a
/// name has a schema, an object, for its value.
fn refuse_keyword(name: &str, member: &Value) -> Result<(), SchemaError> {
    let Value::String(text) = member else { return Ok(()) };
    if name == "$schema" && text.trim_end_matches('#') != DIALECT {
        return Err(SchemaError::Keyword { keyword: shown(name) });
    }
    if REFUSED.contains(&name) {
        return Err(SchemaError::Keyword { keyword: shown(name) });
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
