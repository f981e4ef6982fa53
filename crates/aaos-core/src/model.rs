//! What is said to a model and what comes back, free of any provider's wire format.
//!
//! Invariant: a reply's calls are inert text from an untrusted mind. Names and arguments are validated by
//! the runtime's dispatch, never here and never in the gateway.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::name::{ModelName, ProviderName};
use crate::quantity::{Bytes, Millis, Tokens};

/// The id a provider gives one tool call, echoed with its result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelCallId(pub String);

impl ModelCallId {
    /// The id of the call with this number in a conversation.
    #[must_use]
    pub fn numbered(number: u64) -> Self {
        Self(format!("call-{number}"))
    }

    /// That number, where it is such an id.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.0.strip_prefix("call-")?.parse().ok()
    }
}

/// A tool name as a model wrote it; may be nonsense.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestedTool(pub String);

/// Call arguments as a model wrote them: usually JSON text, possibly malformed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawArguments(pub String);

/// One tool call that a model asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelCall {
    /// The provider's id of the call.
    pub id: ModelCallId,
    /// The tool it names.
    pub tool: RequestedTool,
    /// Its arguments, unparsed.
    pub arguments: RawArguments,
}

/// The result of one call as it is shown to the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallResult {
    /// Which call this answers.
    pub id: ModelCallId,
    /// The tool's name, as the model wrote it.
    pub tool: RequestedTool,
    /// JSON text, wrapped as data by the runtime.
    pub content: String,
    /// Whether the call failed or was denied.
    pub is_error: bool,
}

/// What a model thought, as its provider wants it back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thought {
    /// In words, with the provider's proof that they are the model's.
    Signed {
        /// The words.
        text: String,
        /// The proof.
        signature: String,
    },
    /// Withheld: only the provider can read it.
    Redacted {
        /// As it came.
        data: String,
    },
}

/// A thought and its place in the message. Providers take it back only unchanged and where it stood.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlacedThought {
    /// So many bytes of the message's text stand before it.
    pub after_text: u64,
    /// So many of its calls stand before it.
    pub after_calls: u64,
    /// The thought itself.
    pub thought: Thought,
}

impl PlacedThought {
    /// Bytes that go back to the provider.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let length = match &self.thought {
            Thought::Signed { text, signature } => text.len() + signature.len(),
            Thought::Redacted { data } => data.len(),
        };
        Bytes(length as u64)
    }

    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&self.after_text.to_le_bytes()).update(&self.after_calls.to_le_bytes());
        match &self.thought {
            Thought::Signed { text, signature } => {
                hasher.update(&[0]);
                hash_text(hasher, text);
                hash_text(hasher, signature);
            }
            Thought::Redacted { data } => {
                hasher.update(&[1]);
                hash_text(hasher, data);
            }
        }
    }
}

/// One message of a conversation, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// From the operator, the parent agent or the runtime.
    User {
        /// What is said.
        text: String,
    },
    /// From the model.
    Assistant {
        /// Its prose; may be empty when it only calls tools.
        text: String,
        /// Reasoning to be echoed where the provider wants it back.
        reasoning: Option<String>,
        /// Thoughts to be given back as they came, in their order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        thinking: Vec<PlacedThought>,
        /// The calls it asked for.
        calls: Vec<ModelCall>,
    },
    /// Results of every call of the preceding assistant message, in its order.
    ToolResults {
        /// One result a call.
        results: Vec<CallResult>,
    },
}

/// A tool as shown to a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Name to call it by.
    pub name: crate::name::ToolName,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema (draft 2020-12) of its input.
    pub input_schema: serde_json::Value,
}

/// One request to a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRequest {
    /// Which model, by name or alias.
    pub model: ModelName,
    /// The system prompt.
    pub system: String,
    /// The conversation, ending with a user message or tool results.
    pub messages: Vec<Message>,
    /// Tools on offer, in a fixed order.
    pub tools: Vec<ToolSpec>,
    /// Longest reply wanted.
    pub max_output_tokens: Tokens,
    /// What the next reply may be, where the runtime narrows it; stands in no prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrowed: Option<Narrowed>,
}

/// What a model may say in one step: less than its prompt offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Narrowed {
    /// The calls that it may make, one of them in a reply; each of a tool that is on offer.
    pub calls: Vec<NarrowedCall>,
    /// Whether it may answer in words. Where there are no calls it always may.
    pub may_answer: bool,
}

/// One tool as it may be called in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NarrowedCall {
    /// Which tool.
    pub tool: crate::name::ToolName,
    /// JSON Schema of the arguments: what fits it fits the tool's own.
    pub input_schema: serde_json::Value,
}

impl ModelRequest {
    /// Bytes of text in the system prompt and the messages.
    #[must_use]
    pub fn text_bytes(&self) -> Bytes {
        let messages: usize = self.messages.iter().map(Message::text_bytes).sum();
        Bytes((self.system.len() + messages) as u64)
    }

    /// Bytes of reasoning and thoughts in the messages, which some providers are given back and some of these count.
    #[must_use]
    pub fn thinking_bytes(&self) -> Bytes {
        self.messages.iter().map(Message::thinking_bytes).fold(Bytes::ZERO, Bytes::plus)
    }

    /// BLAKE3 of what is asked: model, system prompt, conversation and names of the tools. What a purse clamps and
    /// what another version words differently (the length of the reply, descriptions of tools) is left out.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hash_text(&mut hasher, self.model.as_str());
        hash_text(&mut hasher, &self.system);
        Message::hash_all(&self.messages, &mut hasher);
        for tool in &self.tools {
            hash_text(&mut hasher, tool.name.as_str());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// A text with its length before it, so that no two lists of texts are hashed alike.
fn hash_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
}

impl Message {
    /// Adds a conversation to a hash, whole: no two conversations add the same.
    pub fn hash_all(messages: &[Self], hasher: &mut blake3::Hasher) {
        hasher.update(&(messages.len() as u64).to_le_bytes());
        messages.iter().for_each(|message| message.hash_into(hasher));
    }

    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        match self {
            Self::User { text } => {
                hasher.update(&[0]);
                hash_text(hasher, text);
            }
            Self::Assistant { text, reasoning, thinking, calls } => {
                let has = u8::from(reasoning.is_some()) | (u8::from(!thinking.is_empty()) << 1);
                hasher.update(&[1, has]).update(&(calls.len() as u64).to_le_bytes());
                if !thinking.is_empty() {
                    hasher.update(&(thinking.len() as u64).to_le_bytes());
                    thinking.iter().for_each(|placed| placed.hash_into(hasher));
                }
                hash_text(hasher, text);
                hash_text(hasher, reasoning.as_deref().unwrap_or_default());
                for ModelCall { id, tool, arguments } in calls {
                    [&id.0, &tool.0, &arguments.0].into_iter().for_each(|text| hash_text(hasher, text));
                }
            }
            Self::ToolResults { results } => {
                hasher.update(&[2]).update(&(results.len() as u64).to_le_bytes());
                for CallResult { id, tool, content, is_error } in results {
                    hasher.update(&[u8::from(*is_error)]);
                    [&id.0, &tool.0, content].into_iter().for_each(|text| hash_text(hasher, text));
                }
            }
        }
    }

    /// Bytes of reasoning and thoughts.
    #[must_use]
    pub fn thinking_bytes(&self) -> Bytes {
        match self {
            Self::Assistant { reasoning, thinking, .. } => thinking_bytes(reasoning.as_deref(), thinking),
            Self::User { .. } | Self::ToolResults { .. } => Bytes::ZERO,
        }
    }

    fn text_bytes(&self) -> usize {
        match self {
            Self::User { text } => text.len(),
            Self::Assistant { text, calls, .. } => {
                text.len() + calls.iter().map(|call| call.arguments.0.len()).sum::<usize>()
            }
            Self::ToolResults { results } => results.iter().map(|one| one.content.len()).sum(),
        }
    }
}

/// A reason to stop in a provider's own word; may be nonsense.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StopWord(pub String);

/// Why the model stopped talking.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelStop {
    /// It was done.
    EndTurn,
    /// It waits for tool results.
    ToolUse,
    /// It ran into `max_output_tokens`.
    MaxTokens,
    /// The provider withheld the rest.
    Refusal,
    /// A reason that nobody here knows, so that the reply may be no whole one.
    Other(StopWord),
}

/// What one inference used, as the provider reports it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens, cached ones included.
    pub input_tokens: Tokens,
    /// Output tokens.
    pub output_tokens: Tokens,
    /// Of the input, those read from the provider's cache.
    pub cached_input_tokens: Tokens,
}

impl Usage {
    /// Input plus output.
    #[must_use]
    pub const fn total(&self) -> Tokens {
        self.input_tokens.plus(self.output_tokens)
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.plus(other.input_tokens),
            output_tokens: self.output_tokens.plus(other.output_tokens),
            cached_input_tokens: self.cached_input_tokens.plus(other.cached_input_tokens),
        }
    }
}

/// A model's reply, complete: a stream that was cut never becomes one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelReply {
    /// Prose.
    pub text: String,
    /// Reasoning that came beside it without a proof.
    pub reasoning: Option<String>,
    /// Thoughts that the provider wants back as they are, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thinking: Vec<PlacedThought>,
    /// Calls asked for.
    pub calls: Vec<ModelCall>,
    /// Why it stopped.
    pub stop: ModelStop,
    /// What it used.
    pub usage: Usage,
}

impl ModelReply {
    /// Bytes of reasoning and thoughts.
    #[must_use]
    pub fn thinking_bytes(&self) -> Bytes {
        thinking_bytes(self.reasoning.as_deref(), &self.thinking)
    }

    /// What the model thought as far as it can be read: for people.
    #[must_use]
    pub fn thoughts(&self) -> Option<String> {
        let signed = self.thinking.iter().filter_map(|placed| match &placed.thought {
            Thought::Signed { text, .. } => Some(text.as_str()),
            Thought::Redacted { .. } => None,
        });
        let all: Vec<&str> = self.reasoning.as_deref().into_iter().chain(signed).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

fn thinking_bytes(reasoning: Option<&str>, thinking: &[PlacedThought]) -> Bytes {
    let reasoning = Bytes(reasoning.map_or(0, str::len) as u64);
    thinking.iter().map(PlacedThought::bytes).fold(reasoning, Bytes::plus)
}

/// Kinds of inference failure, by what may be done about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFailureKind {
    /// HTTP 429: wait and ask again.
    RateLimited,
    /// HTTP 5xx or connection refused or lost: wait and ask again.
    Unavailable,
    /// No answer in time: ask again.
    Timeout,
    /// The stream ended without its end event: ask again.
    CutStream,
    /// The reply could not be understood: ask again.
    MalformedReply,
    /// The reply has neither text nor calls: ask again, as often as [`crate::limits::EMPTY_REPLIES`] says.
    EmptyReply,
    /// The reply is over a limit of its size; another one would be paid for, too. Final.
    TooLong,
    /// HTTP 401 or 403: the key is wrong or missing. Final.
    Unauthorized,
    /// Another HTTP 4xx: the request is wrong. Final.
    Rejected,
    /// No configured provider serves this model. Final.
    UnknownModel,
    /// The `builtin` planner cannot read this goal. Final.
    NotUnderstood,
    /// The `builtin` planner's work failed: a file or page could not be read. Final.
    WorkFailed,
    /// The cassette that is replayed has no such request, or a cassette cannot be read or written. Final.
    NotRecorded,
}

impl ModelFailureKind {
    /// Whether asking again can help.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::RateLimited
            | Self::Unavailable
            | Self::Timeout
            | Self::CutStream
            | Self::MalformedReply
            | Self::EmptyReply => true,
            Self::TooLong
            | Self::Unauthorized
            | Self::Rejected
            | Self::UnknownModel
            | Self::NotUnderstood
            | Self::WorkFailed
            | Self::NotRecorded => false,
        }
    }

    /// Whether an attempt that failed so may have been billed without a report: the provider may have worked.
    #[must_use]
    pub const fn may_be_billed(self) -> bool {
        match self {
            Self::Timeout | Self::CutStream | Self::MalformedReply | Self::EmptyReply | Self::TooLong => true,
            Self::RateLimited
            | Self::Unavailable
            | Self::Unauthorized
            | Self::Rejected
            | Self::UnknownModel
            | Self::NotUnderstood
            | Self::WorkFailed
            | Self::NotRecorded => false,
        }
    }
}

/// A failed inference. The message never holds a key or the request; of a request that was not recorded it shows the few
/// words at which it differs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ModelFailure {
    /// What kind.
    pub kind: ModelFailureKind,
    /// What happened and what to do, for a person.
    pub message: String,
    /// How long the provider asked to wait.
    pub retry_after: Option<Millis>,
}

impl ModelFailure {
    /// Whether the provider turned the request away unread and wants everybody to wait: it says that there were too many,
    /// or for how long it wants none.
    #[must_use]
    pub const fn is_wait(&self) -> bool {
        let says_when = self.retry_after.is_some() && self.kind.is_transient() && !self.kind.may_be_billed();
        says_when || matches!(self.kind, ModelFailureKind::RateLimited)
    }
}

/// What a provider has room for, as far as it says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// In requests.
    pub requests: Option<Room>,
    /// In tokens.
    pub tokens: Option<Room>,
}

/// What is left of one rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// So much.
    pub left: u64,
    /// How long until it begins anew.
    pub resets_in: Millis,
}

/// How a provider was found the last time that something was asked of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing was asked of it yet.
    #[default]
    Unchecked,
    /// It answered as it should.
    Reachable,
    /// It does not take its key, or wants one.
    KeyRefused {
        /// In words, with what to do.
        why: String,
    },
    /// It did not answer, or not as it should.
    Unreachable {
        /// In words.
        why: String,
    },
}

/// The most that may be asked of a provider in sixty seconds, as the operator says; no limit where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<NonZeroU64>,
    /// Tokens, of prompts and replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<NonZeroU64>,
}

impl Rates {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn are_none(&self) -> bool {
        self.requests_per_minute.is_none() && self.tokens_per_minute.is_none()
    }
}

/// What the `models` gateway says about one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderState {
    /// Its name in configuration.
    pub name: ProviderName,
    /// Models that it lists.
    pub models: Vec<ModelName>,
    /// Aliases that lead to it.
    pub aliases: Vec<ModelName>,
    /// Whether it takes any model name.
    pub any_model: bool,
    /// Whether a key is present, where one is needed; the key itself never leaves the gateway.
    pub has_key: bool,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
    /// Inferences of it at once, where it has a number of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// What may be asked of it in a minute.
    #[serde(default, skip_serializing_if = "Rates::are_none")]
    pub rates: Rates,
    /// How it was found last; the kernel knows.
    #[serde(default)]
    pub standing: Standing,
}

#[cfg(test)]
mod tests {
    use super::{ModelFailure, ModelFailureKind};
    use crate::quantity::Millis;

    #[test]
    fn a_wait_is_what_passes_costs_nothing_and_is_asked_for() {
        use ModelFailureKind::{CutStream, RateLimited, Rejected, Timeout, Unavailable};
        for (kind, bare, timed) in [
            (RateLimited, true, true),
            (Unavailable, false, true),
            (Timeout, false, false),
            (CutStream, false, false),
            (Rejected, false, false),
        ] {
            let failure = |retry_after| ModelFailure { kind, message: String::new(), retry_after };
            assert_eq!(
                (failure(None).is_wait(), failure(Some(Millis(1))).is_wait()),
                (bare, timed),
                "{kind:?}"
            );
        }
    }
}
