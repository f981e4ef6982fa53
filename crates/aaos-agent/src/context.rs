//! How many tokens a request will take, from its bytes and the provider's own reports (SPEC §9).
//!
//! Invariant: the learned ratio stays within bounds that no report can leave, so that a provider that lies
//! about usage can neither stop a run at once nor let it grow without end.

use aaos_core::model::{Message, ToolSpec};
use aaos_core::quantity::{Bytes, Tokens};

/// Bytes in one token before anything was reported; English prose and JSON lie between 3 and 4.
const ASSUMED: Ratio = Ratio { bytes: 7, tokens: 2 };
/// Fewest bytes in one token that are believed.
const FEWEST_BYTES: u64 = 1;
/// Most bytes in one token that are believed.
const MOST_BYTES: u64 = 8;
/// Bytes that a provider's wire format adds around one message, call or result; a round guess.
const FRAMING_BYTES: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Ratio {
    bytes: u64,
    tokens: u64,
}

/// Estimates tokens and learns from reports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenMeter {
    ratio: Ratio,
}

impl TokenMeter {
    pub(crate) const fn new() -> Self {
        Self { ratio: ASSUMED }
    }

    /// One that learned this many bytes in so many tokens; an impossible ratio is not believed.
    pub(crate) fn with_ratio(bytes: Bytes, tokens: Tokens) -> Self {
        let believable = tokens.0 > 0 && tokens.0 <= bytes.0;
        if believable { Self { ratio: Ratio { bytes: bytes.0, tokens: tokens.0 } } } else { Self::new() }
    }

    /// So many bytes, in so many tokens.
    pub(crate) const fn ratio(&self) -> (Bytes, Tokens) {
        (Bytes(self.ratio.bytes), Tokens(self.ratio.tokens))
    }

    /// Tokens that text of this size takes, rounded up.
    pub(crate) fn estimate(&self, size: Bytes) -> Tokens {
        let tokens = u128::from(size.0) * u128::from(self.ratio.tokens);
        let tokens = tokens.div_ceil(u128::from(self.ratio.bytes));
        Tokens(u64::try_from(tokens).unwrap_or(u64::MAX))
    }

    /// Learns that a request of this size took this many input tokens.
    pub(crate) fn learn(&mut self, size: Bytes, reported: Tokens) {
        if size.0 == 0 || reported.0 == 0 {
            return;
        }
        let tokens = reported.0.clamp(size.0.div_ceil(MOST_BYTES), size.0 / FEWEST_BYTES);
        self.ratio = Ratio { bytes: size.0, tokens };
        assert!(self.ratio.tokens > 0 && self.ratio.tokens <= self.ratio.bytes, "the ratio is bounded");
    }
}

/// Size of what stays the same in every request of a mind.
pub(crate) fn fixed_size(system: &str, tools: &[ToolSpec]) -> Bytes {
    let tool = |tool: &ToolSpec| {
        let schema = tool.input_schema.to_string().len();
        size(tool.name.as_str()).plus(size(&tool.description)).plus(framed(schema))
    };
    tools.iter().map(tool).fold(size(system), Bytes::plus)
}

/// Size of a conversation.
pub(crate) fn messages_size(messages: &[Message]) -> Bytes {
    messages.iter().map(message_size).fold(Bytes::ZERO, Bytes::plus)
}

fn message_size(message: &Message) -> Bytes {
    match message {
        Message::User { text } => framed(text.len()),
        Message::Assistant { text, calls, .. } => {
            let call = |call: &aaos_core::model::ModelCall| {
                framed(call.id.0.len()).plus(size(&call.tool.0)).plus(size(&call.arguments.0))
            };
            let prose = framed(text.len()).plus(message.thinking_bytes());
            calls.iter().map(call).fold(prose, Bytes::plus)
        }
        Message::ToolResults { results } => {
            let result =
                |result: &aaos_core::model::CallResult| framed(result.content.len()).plus(size(&result.id.0));
            results.iter().map(result).fold(Bytes::ZERO, Bytes::plus)
        }
    }
}

fn size(text: &str) -> Bytes {
    Bytes(text.len() as u64)
}

fn framed(length: usize) -> Bytes {
    Bytes(length as u64).plus(Bytes(FRAMING_BYTES))
}

#[cfg(test)]
mod tests {
    use aaos_core::quantity::{Bytes, Tokens};
    use proptest::prelude::*;

    use super::TokenMeter;

    #[test]
    fn a_report_replaces_the_assumption() {
        let mut meter = TokenMeter::new();
        assert_eq!(meter.estimate(Bytes(700)), Tokens(200));
        meter.learn(Bytes(1000), Tokens(500));
        assert_eq!(meter.estimate(Bytes(700)), Tokens(350));
    }

    #[test]
    fn a_lying_report_is_bounded() {
        let mut meter = TokenMeter::new();
        meter.learn(Bytes(1000), Tokens(u64::MAX));
        assert_eq!(meter.estimate(Bytes(1000)), Tokens(1000));
        meter.learn(Bytes(1000), Tokens(1));
        assert_eq!(meter.estimate(Bytes(1000)), Tokens(125));
        meter.learn(Bytes(1000), Tokens(0));
        assert_eq!(meter.estimate(Bytes(1000)), Tokens(125));
    }

    proptest! {
        #[test]
        fn more_bytes_never_take_fewer_tokens(size: u64, reported: u64, a: u64, b: u64) {
            let mut meter = TokenMeter::new();
            meter.learn(Bytes(size), Tokens(reported));
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(meter.estimate(Bytes(less)) <= meter.estimate(Bytes(more)));
        }
    }
}
