//! `prior_findings`: a text, or an object that names a recorded result.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::AgentId;
use crate::limits::MAX_PRIOR_FINDINGS_BYTES;

/// What a parent hands to a child beside its message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PriorFindings {
    /// Text of the parent's own.
    Text(String),
    /// What an earlier child of the parent answered.
    Recorded(RecordedResult),
}

/// Names what the journal recorded of a child, so that its parent need not repeat it and cannot change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedResult {
    /// The `agent_id` in the result of the call that spawned it.
    pub result: AgentId,
}

impl Serialize for PriorFindings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Recorded(named) => named.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PriorFindings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FindingsVisitor)
    }
}

struct FindingsVisitor;

impl<'de> Visitor<'de> for FindingsVisitor {
    type Value = PriorFindings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or {\"result\": AGENT_ID}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PriorFindings, E> {
        Ok(PriorFindings::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<PriorFindings, E> {
        Ok(PriorFindings::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PriorFindings, A::Error> {
        RecordedResult::deserialize(MapAccessDeserializer::new(map)).map(PriorFindings::Recorded)
    }
}

/// Short, for it is part of two tools that are shown with every request; the field that holds it is what is described.
impl JsonSchema for PriorFindings {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("PriorFindings")
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "maxLength": MAX_PRIOR_FINDINGS_BYTES },
                {
                    "type": "object",
                    "properties": { "result": { "type": "string" } },
                    "required": ["result"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::PriorFindings;

    const ID: &str = "01890000-0000-7000-8000-000000000000";

    #[test]
    fn both_forms_are_read_and_written_alike() {
        for (value, is_text) in [(json!("plain"), true), (json!({ "result": ID }), false)] {
            let read: PriorFindings = serde_json::from_value(value.clone()).expect("one of the forms");
            assert_eq!(matches!(read, PriorFindings::Text(_)), is_text, "{value}");
            assert_eq!(serde_json::to_value(&read).expect("it is JSON"), value);
        }
    }

    #[test]
    fn nothing_else_is_read() {
        for value in [
            json!({ "result": "not an id" }),
            json!({ "result": ID, "text": "and more" }),
            json!({}),
            json!([ID]),
            json!(7),
            Value::Null,
        ] {
            assert!(serde_json::from_value::<PriorFindings>(value.clone()).is_err(), "{value}");
        }
    }
}
