//! What a model said earlier, shaped so that every provider takes it back.
//!
//! Invariant: an echo never invents a call; malformed arguments stay readable in it.

use aaos_core::model::RawArguments;
use serde_json::{Map, Value, json};

/// Longest tool name or id that providers take.
const MAX_IDENTIFIER_BYTES: usize = 64;

/// Arguments as an object. Text that is no JSON object cannot be sent back as arguments (Anthropic wants an object, and
/// chat templates of local servers parse the text), so it goes under a name that says what it is.
pub(super) fn arguments_object(arguments: &RawArguments) -> Value {
    let text = arguments.0.trim();
    if text.is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str::<Value>(text) {
        Ok(object @ Value::Object(_)) => object,
        _ => json!({ "malformed_arguments": arguments.0 }),
    }
}

/// A name or id in the alphabet that Anthropic takes; `fallback` when nothing is left.
pub(super) fn identifier(text: &str, fallback: &str) -> String {
    let clean: String = text
        .chars()
        .map(|one| if one.is_ascii_alphanumeric() || one == '_' || one == '-' { one } else { '_' })
        .take(MAX_IDENTIFIER_BYTES)
        .collect();
    if clean.is_empty() { fallback.to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::{arguments_object, identifier};
    use aaos_core::model::RawArguments;
    use serde_json::json;

    #[test]
    fn only_objects_are_echoed_as_arguments() {
        for (text, echoed) in [
            ("{\"a\":1}", json!({"a": 1})),
            ("", json!({})),
            ("{\"a\":", json!({"malformed_arguments": "{\"a\":"})),
            ("[1]", json!({"malformed_arguments": "[1]"})),
        ] {
            assert_eq!(arguments_object(&RawArguments(text.into())), echoed);
        }
    }

    #[test]
    fn identifiers_keep_to_the_alphabet() {
        assert_eq!(identifier("call_1-a", "x"), "call_1-a");
        assert_eq!(identifier("a b.\u{e4}", "x"), "a_b__");
        assert_eq!(identifier("", "x"), "x");
        assert_eq!(identifier(&"y".repeat(99), "x").len(), 64);
    }
}
