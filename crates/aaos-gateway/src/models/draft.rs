//! A reply that is still arriving, in no provider's format.
//!
//! Invariants: what is kept is bounded, small enough that the finished reply fits a frame even if every byte
//! were escaped; arguments are kept as the text that came, never parsed and never replaced.

use aaos_core::limits::{MAX_MODEL_REPLY_BYTES as MAX_REPLY_BYTES, MAX_MODEL_REPLY_CALLS as MAX_REPLY_CALLS};
use aaos_core::model::{
    ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelStop, PlacedThought,
    RawArguments, RequestedTool, Thought, Usage,
};

use super::failure::{failure, too_long};
use crate::words::harmless;

/// Said of a reply that ended properly with nothing in it. What was cut or withheld may be empty.
const EMPTY_REPLY: &str =
    "the model ended its reply without a text or a call; say the goal in other words, or take another model";

/// Place of a call in the draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallPlace(usize);

/// Place of a thought in the draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ThoughtPlace(usize);

/// What has arrived so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    text: String,
    reasoning: String,
    thoughts: Vec<PlacedThought>,
    calls: Vec<ModelCall>,
    fresh: usize,
    bytes: usize,
    model: Option<String>,
    /// What the provider says it used; the last word counts.
    pub(super) usage: Usage,
    /// Why it says it stopped.
    pub(super) stop: Option<ModelStop>,
}

impl Draft {
    fn count(&mut self, more: usize) -> Result<(), ModelFailure> {
        self.bytes = self.bytes.saturating_add(more);
        if self.bytes > MAX_REPLY_BYTES {
            return Err(too_long(format_args!("the reply is longer than {MAX_REPLY_BYTES} bytes")));
        }
        Ok(())
    }

    /// Adds prose.
    pub(super) fn push_text(&mut self, more: &str) -> Result<(), ModelFailure> {
        self.count(more.len())?;
        self.text.push_str(more);
        Ok(())
    }

    /// Adds reasoning.
    pub(super) fn push_reasoning(&mut self, more: &str) -> Result<(), ModelFailure> {
        self.count(more.len())?;
        self.reasoning.push_str(more);
        Ok(())
    }

    /// Begins a thought where the reply stands now.
    pub(super) fn begin_thought(&mut self, thought: Thought) -> Result<ThoughtPlace, ModelFailure> {
        let (after_text, after_calls) = (self.text.len() as u64, self.calls.len() as u64);
        let thought = PlacedThought { after_text, after_calls, thought };
        self.count(usize::try_from(thought.bytes().0).unwrap_or(usize::MAX))?;
        self.thoughts.push(thought);
        Ok(ThoughtPlace(self.thoughts.len() - 1))
    }

    /// Adds to a thought's words and to its proof; what is redacted has neither.
    pub(super) fn push_thought(
        &mut self,
        place: ThoughtPlace,
        words: &str,
        proof: &str,
    ) -> Result<(), ModelFailure> {
        self.count(words.len() + proof.len())?;
        if let Thought::Signed { text, signature } = &mut self.thoughts[place.0].thought {
            text.push_str(words);
            signature.push_str(proof);
        }
        Ok(())
    }

    /// Begins a call.
    pub(super) fn begin_call(&mut self, id: &str, tool: &str) -> Result<CallPlace, ModelFailure> {
        self.count(id.len() + tool.len())?;
        if self.calls.len() == MAX_REPLY_CALLS {
            return Err(too_long(format_args!("the reply has more than {MAX_REPLY_CALLS} tool calls")));
        }
        let place = CallPlace(self.calls.len());
        let id = if id.is_empty() { format!("call_{}", place.0) } else { id.to_owned() };
        self.calls.push(ModelCall {
            id: ModelCallId(id),
            tool: RequestedTool(tool.to_owned()),
            arguments: RawArguments(String::new()),
        });
        Ok(place)
    }

    /// Adds to a call's name.
    pub(super) fn push_tool(&mut self, place: CallPlace, more: &str) -> Result<(), ModelFailure> {
        self.count(more.len())?;
        self.calls[place.0].tool.0.push_str(more);
        Ok(())
    }

    /// Adds to a call's arguments.
    pub(super) fn push_arguments(&mut self, place: CallPlace, more: &str) -> Result<(), ModelFailure> {
        self.count(more.len())?;
        self.calls[place.0].arguments.0.push_str(more);
        Ok(())
    }

    /// Whether the model has worked: any of its output is here, or a report of what it used, or of why it stopped.
    #[must_use]
    pub(super) fn has_begun(&self) -> bool {
        let is_blank = self.bytes == 0 && self.thoughts.is_empty() && self.calls.is_empty();
        !is_blank || self.usage != Usage::default() || self.stop.is_some()
    }

    /// Whether the first of the model's output is here.
    #[must_use]
    pub(super) fn has_output(&self) -> bool {
        self.bytes > 0 || !self.calls.is_empty()
    }

    /// Keeps what the provider calls the model that answers; its first word counts.
    pub(super) fn name_model(&mut self, said: Option<String>) {
        if self.model.is_none() {
            self.model = said.map(|name| harmless(&name, None)).filter(|name| !name.is_empty());
        }
    }

    /// What the provider calls the model that answers.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// A call as it stands.
    #[must_use]
    pub(super) fn call(&self, place: CallPlace) -> &ModelCall {
        &self.calls[place.0]
    }

    /// Prose that arrived since this was last asked.
    pub(super) fn take_delta(&mut self) -> Option<String> {
        let fresh = &self.text[self.fresh..];
        if fresh.is_empty() {
            return None;
        }
        let delta = fresh.to_owned();
        self.fresh = self.text.len();
        Some(delta)
    }

    /// The complete reply. Some servers say *stop* beside calls: calls without results are always tool use, unless
    /// the limit cut them.
    pub(super) fn finish(self) -> Result<ModelReply, ModelFailure> {
        let is_empty = self.text.trim().is_empty() && self.calls.is_empty();
        if is_empty && matches!(self.stop, None | Some(ModelStop::EndTurn | ModelStop::ToolUse)) {
            return Err(failure(ModelFailureKind::EmptyReply, EMPTY_REPLY));
        }
        let stop = match self.stop.unwrap_or(ModelStop::EndTurn) {
            ModelStop::EndTurn if !self.calls.is_empty() => ModelStop::ToolUse,
            ModelStop::ToolUse if self.calls.is_empty() => ModelStop::EndTurn,
            other => other,
        };
        // Without a proof it is reasoning as other providers send it, and is not given back as a thought.
        let (mut reasoning, mut thinking) = (self.reasoning, Vec::new());
        for placed in self.thoughts {
            match &placed.thought {
                Thought::Signed { text, signature } if signature.is_empty() => reasoning.push_str(text),
                Thought::Signed { .. } | Thought::Redacted { .. } => thinking.push(placed),
            }
        }
        let reasoning = (!reasoning.is_empty()).then_some(reasoning);
        Ok(ModelReply { text: self.text, reasoning, thinking, calls: self.calls, stop, usage: self.usage })
    }
}

#[cfg(test)]
mod tests {
    use super::{Draft, MAX_REPLY_BYTES, MAX_REPLY_CALLS};
    use aaos_core::model::{ModelFailureKind, ModelStop, StopWord};

    #[test]
    fn a_reply_is_bounded_in_bytes_and_calls() {
        let mut draft = Draft::default();
        draft.push_text(&"x".repeat(MAX_REPLY_BYTES)).expect("at the limit");
        assert_eq!(draft.push_reasoning("x").expect_err("over").kind, ModelFailureKind::TooLong);
        let mut draft = Draft::default();
        for _ in 0..MAX_REPLY_CALLS {
            draft.begin_call("", "echo").expect("below the limit");
        }
        assert_eq!(draft.begin_call("", "echo").expect_err("over").kind, ModelFailureKind::TooLong);
    }

    fn word() -> StopWord {
        StopWord("paused".to_owned())
    }

    #[test]
    fn the_stop_reason_follows_the_calls_but_a_cut_stays_a_cut() {
        for (said, calls, meant) in [
            (ModelStop::EndTurn, 1, ModelStop::ToolUse),
            (ModelStop::ToolUse, 0, ModelStop::EndTurn),
            (ModelStop::MaxTokens, 1, ModelStop::MaxTokens),
            (ModelStop::Refusal, 0, ModelStop::Refusal),
            (ModelStop::Other(word()), 0, ModelStop::Other(word())),
            (ModelStop::Other(word()), 1, ModelStop::Other(word())),
        ] {
            let mut draft = Draft { stop: Some(said), text: "so".to_owned(), ..Draft::default() };
            for _ in 0..calls {
                draft.begin_call("a", "echo").expect("room");
            }
            assert_eq!(draft.finish().expect("complete").stop, meant);
        }
    }

    #[test]
    fn a_reply_with_nothing_in_it_is_none_unless_it_was_cut_or_withheld() {
        let ended = |stop| Draft { stop, text: " \n".to_owned(), ..Draft::default() }.finish();
        for stop in [None, Some(ModelStop::EndTurn), Some(ModelStop::ToolUse)] {
            assert_eq!(ended(stop).expect_err("empty").kind, ModelFailureKind::EmptyReply);
        }
        for stop in [ModelStop::MaxTokens, ModelStop::Refusal, ModelStop::Other(word())] {
            assert_eq!(ended(Some(stop.clone())).expect("it says why").stop, stop);
        }
        let mut thought = Draft::default();
        thought.push_reasoning("hm").expect("room");
        assert_eq!(thought.finish().expect_err("no answer").kind, ModelFailureKind::EmptyReply);
    }

    #[test]
    fn deltas_are_given_once() {
        let mut draft = Draft::default();
        draft.push_text("ab").expect("room");
        assert_eq!(draft.take_delta().as_deref(), Some("ab"));
        assert_eq!(draft.take_delta(), None);
    }
}
