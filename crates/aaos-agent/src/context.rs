//! How many tokens a request will take, from its bytes and the provider's own reports (SPEC §9).
//!
//! The last report is the anchor: what was added since is estimated by the ratio of bytes to tokens that earlier
//! additions showed. Only what is new can be estimated wrongly.
//!
//! Invariants: what is believed of reports stays within bounds that no report can leave, so that a provider that lies
//! about usage can neither stop a run at once nor let it grow without end. Before its own first report nothing is
//! estimated by what others learned.

use aaos_core::event::Reported;
use aaos_core::model::{Message, ToolSpec};
use aaos_core::quantity::{Bytes, Tokens};

/// Bytes in one token before anything was reported; English prose and JSON lie between 3 and 4.
const ASSUMED: Ratio = Ratio { bytes: 7, tokens: 2 };
/// Fewest bytes in one token that are believed.
const FEWEST_BYTES: u64 = 1;
/// Most bytes in one token that are believed.
pub(crate) const MOST_BYTES: u64 = 8;
/// Bytes that a provider's wire format adds around one message, call or result; a round guess.
const FRAMING_BYTES: u64 = 16;
/// Of so many bytes the ratio is learned; of older ones ever less.
const LEARNED_BYTES: u64 = 256 * 1024;
/// What others learned counts like so many bytes of one's own at most.
const BORROWED_BYTES: u64 = 4 * 1024;
/// And like no larger part of one's own first report.
const BORROWED_SHARE: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Ratio {
    bytes: u64,
    tokens: u64,
}

impl Ratio {
    /// The ratio of a report, as far as it is believed.
    fn reported(bytes: u64, tokens: u64) -> Self {
        Self { bytes, tokens: tokens.clamp(bytes.div_ceil(MOST_BYTES), bytes / FEWEST_BYTES) }
    }

    /// Tokens that so many bytes take, rounded up.
    fn tokens_in(self, bytes: u64) -> u64 {
        let tokens = (u128::from(bytes) * u128::from(self.tokens)).div_ceil(u128::from(self.bytes));
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// Bytes that so many tokens hold, rounded down.
    fn bytes_in(self, tokens: u64) -> u64 {
        let bytes = u128::from(tokens) * u128::from(self.bytes) / u128::from(self.tokens);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The same of at most so many bytes.
    fn of_at_most(self, bytes: u64) -> Self {
        let shrink = self.bytes.div_ceil(bytes).max(1);
        Self::reported((self.bytes / shrink).max(1), self.tokens / shrink)
    }

    /// Both together; what is old counts less once there is much.
    fn with(self, other: Self) -> Self {
        let (bytes, tokens) =
            (self.bytes.saturating_add(other.bytes), self.tokens.saturating_add(other.tokens));
        let shrink = bytes.div_ceil(LEARNED_BYTES).max(1);
        Self::reported(bytes / shrink, tokens / shrink)
    }
}

/// Estimates tokens and learns from reports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenMeter {
    /// Without a report of its own, what others learned: that is not estimated by.
    ratio: Ratio,
    last: Option<Ratio>,
}

impl TokenMeter {
    pub(crate) const fn new() -> Self {
        Self { ratio: ASSUMED, last: None }
    }

    /// One that learned this many bytes in so many tokens and got this report last; what is impossible is not believed.
    pub(crate) fn recalled(bytes: Bytes, tokens: Tokens, last: Option<Reported>) -> Self {
        let is_believable = |bytes: Bytes, tokens: Tokens| tokens.0 > 0 && tokens.0 <= bytes.0;
        let last = last.filter(|last| is_believable(last.bytes, last.tokens));
        let ratio = Ratio { bytes: bytes.0, tokens: tokens.0 };
        Self {
            ratio: if is_believable(bytes, tokens) { ratio } else { ASSUMED },
            last: last.map(|last| Ratio { bytes: last.bytes.0, tokens: last.tokens.0 }),
        }
    }

    /// So many bytes, in so many tokens.
    pub(crate) const fn ratio(&self) -> (Bytes, Tokens) {
        (Bytes(self.ratio.bytes), Tokens(self.ratio.tokens))
    }

    /// The report that came last.
    pub(crate) fn last(&self) -> Option<Reported> {
        self.last.map(|last| Reported { bytes: Bytes(last.bytes), tokens: Tokens(last.tokens) })
    }

    /// Tokens that a request of this size takes, rounded up.
    pub(crate) fn estimate(&self, size: Bytes) -> Tokens {
        Tokens(match self.last {
            Some(last) if size.0 >= last.bytes => {
                last.tokens.saturating_add(self.ratio.tokens_in(size.0 - last.bytes))
            }
            Some(last) => last.tokens_in(size.0),
            None => ASSUMED.tokens_in(size.0),
        })
    }

    /// Bytes of text that so many tokens hold.
    pub(crate) fn bytes_in(&self, tokens: Tokens) -> Bytes {
        let ratio = if self.last.is_some() { self.ratio } else { ASSUMED };
        Bytes(ratio.bytes_in(tokens.0))
    }

    /// Learns that a request of this size took this many input tokens.
    pub(crate) fn learn(&mut self, size: Bytes, reported: Tokens) {
        if size.0 == 0 || reported.0 == 0 {
            return;
        }
        let now = Ratio::reported(size.0, reported.0);
        self.ratio = match self.last {
            // What was added since tells what text takes, without what every request begins with.
            Some(last) if now.bytes > last.bytes && now.tokens > last.tokens => {
                self.ratio.with(Ratio::reported(now.bytes - last.bytes, now.tokens - last.tokens))
            }
            Some(_) => self.ratio,
            None if self.ratio == ASSUMED => now.with(Ratio { bytes: 0, tokens: 0 }),
            None => now.with(self.ratio.of_at_most((now.bytes / BORROWED_SHARE).clamp(1, BORROWED_BYTES))),
        };
        self.last = Some(now);
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

pub(crate) fn message_size(message: &Message) -> Bytes {
    match message {
        Message::User { text } => text_size(text),
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

/// Size of a message that is one text.
pub(crate) fn text_size(text: &str) -> Bytes {
    framed(text.len())
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
    fn what_was_added_since_a_report_is_estimated_by_what_earlier_additions_took() {
        let mut meter = TokenMeter::new();
        meter.learn(Bytes(1000), Tokens(500));
        meter.learn(Bytes(9000), Tokens(2500));
        assert_eq!(meter.estimate(Bytes(9000)), Tokens(2500), "as reported");
        assert_eq!(meter.estimate(Bytes(9900)), Tokens(2750), "900 more at 9000 bytes in 2500 tokens");
        assert_eq!(meter.bytes_in(Tokens(250)), Bytes(900));
        assert_eq!(meter.estimate(Bytes(4500)), Tokens(1250), "what is left of a request that was reported");
    }

    #[test]
    fn a_recalled_meter_is_the_same() {
        let mut meter = TokenMeter::new();
        meter.learn(Bytes(1000), Tokens(500));
        meter.learn(Bytes(9000), Tokens(2500));
        let (bytes, tokens) = meter.ratio();
        assert_eq!(TokenMeter::recalled(bytes, tokens, meter.last()), meter);
        assert_eq!(TokenMeter::recalled(Bytes(0), Tokens(0), None), TokenMeter::new());
        assert_eq!(TokenMeter::recalled(Bytes(1), Tokens(2), None), TokenMeter::new(), "not believed");
    }

    #[test]
    fn what_others_learned_estimates_nothing_before_the_first_report_and_counts_little_after_it() {
        for borrowed in [(1_000_000, 1_000_000), (8_000_000, 1_000_000)] {
            let mut meter = TokenMeter::recalled(Bytes(borrowed.0), Tokens(borrowed.1), None);
            assert_eq!(meter.ratio(), (Bytes(borrowed.0), Tokens(borrowed.1)), "it is kept");
            assert_eq!(meter.estimate(Bytes(7_000)), TokenMeter::new().estimate(Bytes(7_000)));
            assert_eq!(meter.bytes_in(Tokens(2_000)), TokenMeter::new().bytes_in(Tokens(2_000)));
            meter.learn(Bytes(40_000), Tokens(10_000));
            let more = meter.estimate(Bytes(80_000)).0;
            assert!((19_400..=23_000).contains(&more), "{more}: about one token for four bytes");
            let mut own = TokenMeter::new();
            own.learn(Bytes(40_000), Tokens(40_000));
            assert_eq!(own.estimate(Bytes(80_000)), Tokens(80_000), "the control: one's own report decides");
        }
    }

    #[test]
    fn what_others_learned_never_outweighs_a_short_first_report() {
        for borrowed in [(12_000, 6_000), (12_000, 2_000)] {
            let mut meter = TokenMeter::recalled(Bytes(borrowed.0), Tokens(borrowed.1), None);
            meter.learn(Bytes(2_000), Tokens(500));
            let more = meter.estimate(Bytes(32_000)).0;
            assert!((6_800..=9_200).contains(&more), "{more}: about one token for four bytes");
        }
    }

    #[test]
    fn the_ratio_follows_what_the_text_becomes() {
        let mut meter = TokenMeter::new();
        let (mut size, mut tokens) = (100_000, 25_000);
        meter.learn(Bytes(size), Tokens(tokens));
        for _ in 0..100 {
            (size, tokens) = (size + 20_000, tokens + 10_000);
            meter.learn(Bytes(size), Tokens(tokens));
        }
        let more = meter.estimate(Bytes(size + 10_000)).0 - tokens;
        assert!((4_900..=5_000).contains(&more), "{more}");
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
        fn more_bytes_never_take_fewer_tokens(
            reports in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
            a: u64,
            b: u64,
        ) {
            let mut meter = TokenMeter::new();
            for (size, reported) in reports {
                meter.learn(Bytes(size), Tokens(reported));
            }
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(meter.estimate(Bytes(less)) <= meter.estimate(Bytes(more)));
        }
    }
}
