//! How many tokens a request will take, from what its text weighs and the provider's own reports (SPEC §9).
//!
//! The last report is the anchor: what was added since is estimated by its weight (see `weigh`) and by the ratio of
//! weighed bytes to tokens that earlier additions showed. Only what is new can be estimated wrongly.
//!
//! Invariants: what is believed of reports stays within bounds that no report can leave, so that a provider that lies
//! about usage can neither stop a run at once nor let it grow without end. Before its own first report nothing is
//! estimated by what others learned.

use aaos_core::event::Reported;
use aaos_core::model::{Message, ModelRequest, Thought, ToolSpec};
use aaos_core::quantity::{Bytes, Tokens};

use crate::weigh::{USUAL_BYTES, USUAL_TOKENS, weigh};

/// Weighed bytes in one token before anything was reported.
const ASSUMED: Ratio = Ratio { bytes: USUAL_BYTES, tokens: USUAL_TOKENS };
/// Fewest weighed bytes in one token that are believed.
const FEWEST_BYTES: u64 = 1;
/// Most weighed bytes in one token that are believed.
const MOST_BYTES: u64 = 8;
/// What a wire format and a model's template add around one message or result, weighed bytes; measured on the templates
/// of Qwen2.5 and SmolLM2, rounded.
const MESSAGE_FRAME: Bytes = Bytes(18);
/// Around a call.
const CALL_FRAME: Bytes = Bytes(49);
/// Around a tool on offer.
const TOOL_FRAME: Bytes = Bytes(70);
/// What is said once about calls where there are tools.
const TOOLS_FRAME: Bytes = Bytes(266);
/// So many tokens more or fewer than expected may be what a provider says to its model itself, or leaves out of what is
/// asked: only what a first report has beyond them tells of the text.
const PREAMBLE_TOKENS: u64 = 256;
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
        Self::reported_without(0, bytes, tokens)
    }

    /// The same, where so many of the bytes may have been left out of the prompt.
    fn reported_without(left_out: u64, bytes: u64, tokens: u64) -> Self {
        let least = bytes.saturating_sub(left_out).div_ceil(MOST_BYTES).max(1);
        Self { bytes, tokens: tokens.clamp(least, (bytes / FEWEST_BYTES).max(1)) }
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

    /// Of a first report, what its text took.
    fn of_text(self, tools: u64) -> Self {
        let expected = ASSUMED.tokens_in(self.bytes);
        let least = self.tokens.saturating_sub(PREAMBLE_TOKENS);
        let most = self.tokens.saturating_add(PREAMBLE_TOKENS).saturating_add(ASSUMED.tokens_in(tools));
        Self::reported(self.bytes, expected.clamp(least, most))
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

    /// Weighed bytes that so many tokens hold.
    pub(crate) fn bytes_in(&self, tokens: Tokens) -> Bytes {
        let ratio = if self.last.is_some() { self.ratio } else { ASSUMED };
        Bytes(ratio.bytes_in(tokens.0))
    }

    /// Learns that a request of this size took this many input tokens. The tools in it, of this size, may have been left
    /// out: some templates have no place for them, and a small model is shown few.
    pub(crate) fn learn(&mut self, size: Bytes, tools: Bytes, reported: Tokens) {
        if size.0 == 0 || reported.0 == 0 {
            return;
        }
        let now = Ratio::reported_without(tools.0, size.0, reported.0);
        self.ratio = match self.last {
            // What was added since tells what text takes, without what every request begins with.
            Some(last) if now.bytes > last.bytes && now.tokens > last.tokens => {
                self.ratio.with(Ratio::reported(now.bytes - last.bytes, now.tokens - last.tokens))
            }
            Some(_) => self.ratio,
            None if self.ratio == ASSUMED => now.of_text(tools.0).with(Ratio { bytes: 0, tokens: 0 }),
            None => now
                .of_text(tools.0)
                .with(self.ratio.of_at_most((now.bytes / BORROWED_SHARE).clamp(1, BORROWED_BYTES))),
        };
        self.last = Some(now);
        assert!(self.ratio.tokens > 0 && self.ratio.tokens <= self.ratio.bytes, "the ratio is bounded");
    }
}

/// What tools on offer weigh.
pub(crate) fn tools_size(tools: &[ToolSpec]) -> Bytes {
    let tool = |tool: &ToolSpec| {
        let schema = weigh(&tool.input_schema.to_string()).plus(TOOL_FRAME);
        weigh(tool.name.as_str()).plus(weigh(&tool.description)).plus(schema)
    };
    let about_calls = if tools.is_empty() { Bytes::ZERO } else { TOOLS_FRAME };
    tools.iter().map(tool).fold(about_calls, Bytes::plus)
}

/// The tokens that a request takes as it stands, where so many weighed bytes are so many tokens.
#[must_use]
pub fn estimate(request: &ModelRequest, (bytes, tokens): (Bytes, Tokens)) -> Tokens {
    let messages = request.messages.iter().map(message_size);
    let fixed = text_size(&request.system).plus(tools_size(&request.tools));
    let meter = TokenMeter::recalled(bytes, tokens, None);
    Tokens(meter.ratio.tokens_in(messages.fold(fixed, Bytes::plus).0))
}

/// What a message weighs.
pub(crate) fn message_size(message: &Message) -> Bytes {
    match message {
        Message::User { text } => text_size(text),
        Message::Assistant { text, calls, reasoning, thinking } => {
            let thought = |thought: &Thought| match thought {
                Thought::Signed { text, signature } => weigh(text).plus(weigh(signature)),
                Thought::Redacted { data } => weigh(data),
            };
            let said = text_size(text).plus(reasoning.as_deref().map_or(Bytes::ZERO, weigh));
            let said = thinking.iter().map(|placed| thought(&placed.thought)).fold(said, Bytes::plus);
            let call = |call: &aaos_core::model::ModelCall| {
                weigh(&call.id.0).plus(weigh(&call.tool.0)).plus(weigh(&call.arguments.0)).plus(CALL_FRAME)
            };
            calls.iter().map(call).fold(said, Bytes::plus)
        }
        Message::ToolResults { results } => {
            let result =
                |result: &aaos_core::model::CallResult| text_size(&result.content).plus(weigh(&result.id.0));
            results.iter().map(result).fold(Bytes::ZERO, Bytes::plus)
        }
    }
}

/// What a message that is one text weighs.
pub(crate) fn text_size(text: &str) -> Bytes {
    weigh(text).plus(MESSAGE_FRAME)
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
        meter.learn(Bytes(1000), Bytes::ZERO, Tokens(500));
        assert_eq!(meter.estimate(Bytes(700)), Tokens(350));
    }

    #[test]
    fn what_was_added_since_a_report_is_estimated_by_what_earlier_additions_took() {
        let mut meter = TokenMeter::new();
        meter.learn(Bytes(700), Bytes::ZERO, Tokens(300));
        meter.learn(Bytes(9100), Bytes::ZERO, Tokens(2700));
        assert_eq!(meter.estimate(Bytes(9100)), Tokens(2700), "as reported");
        assert_eq!(meter.estimate(Bytes(10_010)), Tokens(2960), "910 more at 9100 bytes in 2600 tokens");
        assert_eq!(meter.bytes_in(Tokens(260)), Bytes(910));
        assert_eq!(meter.estimate(Bytes(4550)), Tokens(1350), "what is left of a request that was reported");
    }

    #[test]
    fn what_a_first_report_has_beside_the_text_says_nothing_about_text() {
        let learned = |tokens: u64| {
            let mut meter = TokenMeter::new();
            meter.learn(Bytes(7_000), Bytes::ZERO, Tokens(tokens));
            meter.bytes_in(Tokens(2_000))
        };
        assert_eq!(learned(2_000), Bytes(7_000));
        assert_eq!(learned(2_256), Bytes(7_000), "a preamble");
        assert_eq!(learned(1_744), Bytes(7_000), "tools that are left out");
        assert_eq!(learned(3_256), Bytes(14_000 / 3), "the control: 1000 more are not a preamble's");
    }

    #[test]
    fn tools_that_were_left_out_of_a_prompt_say_nothing_about_text() {
        let told = |tools: u64| {
            let mut meter = TokenMeter::new();
            meter.learn(Bytes(21_000), Bytes(tools), Tokens(400));
            (meter.estimate(Bytes(21_000)), meter.estimate(Bytes(21_700)))
        };
        assert_eq!(told(19_600), (Tokens(400), Tokens(600)), "the text took what it weighs");
        let lowest = 21_000 / 8;
        assert_eq!(
            told(0),
            (Tokens(lowest), Tokens(lowest + 97)),
            "the control: so little is not believed of text"
        );
    }

    #[test]
    fn a_recalled_meter_is_the_same() {
        let mut meter = TokenMeter::new();
        meter.learn(Bytes(1000), Bytes::ZERO, Tokens(500));
        meter.learn(Bytes(9000), Bytes::ZERO, Tokens(2500));
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
            meter.learn(Bytes(40_000), Bytes::ZERO, Tokens(10_000));
            let mut own = TokenMeter::new();
            own.learn(Bytes(40_000), Bytes::ZERO, Tokens(10_000));
            let (more, alone) = (meter.estimate(Bytes(80_000)).0, own.estimate(Bytes(80_000)).0);
            assert!(more.abs_diff(alone) * 100 <= alone * 15, "{more}, and {alone} by one's own report");
            let mut other = TokenMeter::new();
            other.learn(Bytes(40_000), Bytes::ZERO, Tokens(40_000));
            let other = other.estimate(Bytes(80_000)).0;
            assert_eq!(other, 80_000 - 256, "the control: one's own report decides");
        }
    }

    #[test]
    fn what_others_learned_never_outweighs_a_short_first_report() {
        for borrowed in [(12_000, 6_000), (12_000, 2_000)] {
            let mut meter = TokenMeter::recalled(Bytes(borrowed.0), Tokens(borrowed.1), None);
            meter.learn(Bytes(2_000), Bytes::ZERO, Tokens(500));
            let mut own = TokenMeter::new();
            own.learn(Bytes(2_000), Bytes::ZERO, Tokens(500));
            let (more, alone) = (meter.estimate(Bytes(32_000)).0, own.estimate(Bytes(32_000)).0);
            assert!(more.abs_diff(alone) * 100 <= alone * 15, "{more}, and {alone} by one's own report");
        }
    }

    #[test]
    fn the_ratio_follows_what_the_text_becomes() {
        let mut meter = TokenMeter::new();
        let (mut size, mut tokens) = (100_000, 25_000);
        meter.learn(Bytes(size), Bytes::ZERO, Tokens(tokens));
        for _ in 0..100 {
            (size, tokens) = (size + 20_000, tokens + 10_000);
            meter.learn(Bytes(size), Bytes::ZERO, Tokens(tokens));
        }
        let more = meter.estimate(Bytes(size + 10_000)).0 - tokens;
        assert!((4_900..=5_000).contains(&more), "{more}");
    }

    #[test]
    fn a_lying_report_is_bounded() {
        let mut meter = TokenMeter::new();
        meter.learn(Bytes(1000), Bytes::ZERO, Tokens(u64::MAX));
        assert_eq!(meter.estimate(Bytes(1000)), Tokens(1000));
        meter.learn(Bytes(1000), Bytes::ZERO, Tokens(1));
        assert_eq!(meter.estimate(Bytes(1000)), Tokens(125));
        meter.learn(Bytes(1000), Bytes::ZERO, Tokens(0));
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
                meter.learn(Bytes(size), Bytes::ZERO, Tokens(reported));
            }
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(meter.estimate(Bytes(less)) <= meter.estimate(Bytes(more)));
        }
    }
}
