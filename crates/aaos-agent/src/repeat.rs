//! Notices a model that asks for the same thing again and again.
//!
//! Invariant: only equality of fingerprints matters, so the memory is 16 bytes a distinct call and nothing of
//! the arguments is kept. Two calls that collide cost a superfluous hint, no more.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use aaos_core::limits::REPEAT_GUARD;
use aaos_core::model::ModelCall;

/// Counts equal calls within one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RepeatCounts(BTreeMap<u64, u32>);

impl RepeatCounts {
    /// Counts one more use and gives how often this call was now made.
    pub(crate) fn count(&mut self, call: &ModelCall) -> u32 {
        let count = self.0.entry(fingerprint(call)).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }
}

/// Whether the model is told that it repeats itself.
pub(crate) const fn deserves_hint(count: u32) -> bool {
    count >= REPEAT_GUARD
}

/// Whether this use is put on record: every third, so that a loop cannot flood the journal.
pub(crate) const fn fires(count: u32) -> bool {
    count > 0 && count.is_multiple_of(REPEAT_GUARD)
}

/// What is added below a repeated call's result.
pub(crate) fn hint(count: u32) -> String {
    format!(
        "\n\nNote from the runtime: this is call {count} of the same tool with the same input in this run. \
         Use the result you have, change the input, or finish with what you know."
    )
}

/// Tool and arguments; spacing and key order of JSON arguments do not matter.
fn fingerprint(call: &ModelCall) -> u64 {
    let mut hasher = DefaultHasher::new();
    call.tool.hash(&mut hasher);
    match serde_json::from_str::<serde_json::Value>(&call.arguments.0) {
        Ok(value) => value.to_string().hash(&mut hasher),
        Err(_) => call.arguments.0.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use aaos_core::model::{ModelCall, ModelCallId, RawArguments, RequestedTool};

    use super::{RepeatCounts, deserves_hint, fires};

    fn call(tool: &str, arguments: &str) -> ModelCall {
        ModelCall {
            id: ModelCallId("x".into()),
            tool: RequestedTool(tool.into()),
            arguments: RawArguments(arguments.into()),
        }
    }

    #[test]
    fn spelling_of_the_same_input_does_not_matter() {
        let mut counts = RepeatCounts::default();
        assert_eq!(counts.count(&call("grep", "{\"a\":1,\"b\":2}")), 1);
        assert_eq!(counts.count(&call("grep", "{ \"b\": 2, \"a\": 1 }")), 2);
        assert_eq!(counts.count(&call("echo", "{\"a\":1,\"b\":2}")), 1);
        assert_eq!(counts.count(&call("grep", "{\"a\":1")), 1);
        assert_eq!(counts.count(&call("grep", "{\"a\":1")), 2);
    }

    #[test]
    fn the_third_use_fires_and_later_ones_are_hinted() {
        assert_eq!((1..=7).filter(|count| fires(*count)).collect::<Vec<_>>(), [3, 6]);
        assert_eq!((1..=5).filter(|count| deserves_hint(*count)).collect::<Vec<_>>(), [3, 4, 5]);
    }
}
