//! The Anthropic Messages format.
//!
//! Written by hand for the reasons given in [`super::openai`]; here genai also logs the arguments of events.
//! Thinking is not asked for. Where a server sends it with a signature, or redacted, it is given back as it came in every
//! later request: the API refuses a tool loop without it, and the prefix of a conversation stays the same.
//!
//! Invariants: blocks are matched by their index; arguments stay text; the only proper end is
//! `message_stop`. The prefix (tools, system prompt, earlier messages) is marked for the provider's cache.

use std::collections::HashMap;

use aaos_core::model::{
    CallResult, Message, ModelCall, ModelFailure, ModelRequest, ModelStop, PlacedThought, StopWord, Thought,
};
use aaos_core::quantity::Tokens;
use serde::Deserialize;
use serde_json::{Value, json};

use super::draft::{CallPlace, Draft, ThoughtPlace};
use super::echo::{arguments_object, identifier};
use super::failure::{ErrorObject, malformed, too_long};
use super::sse::SseEvent;
use super::{Progress, StreamFault};

/// Version of the API, sent as a header.
pub(super) const VERSION: &str = "2023-06-01";
/// Most content blocks in one reply.
const MAX_BLOCKS: usize = 1024;
/// Stands where the API wants text and there is none.
const NO_TEXT: &str = "(no text)";

/// The body of a request.
#[must_use]
pub(super) fn request_body(request: &ModelRequest, model: &str) -> Value {
    let mut messages: Vec<Value> = request.messages.iter().map(message).collect();
    if let Some(last) = messages.last_mut().and_then(|message| message["content"].as_array_mut()?.last_mut())
    {
        mark(last);
    }
    let mut body = json!({
        "model": model,
        "max_tokens": request.max_output_tokens.0,
        "stream": true,
        "messages": messages,
    });
    if !request.system.is_empty() {
        let mut system = text_block(&request.system);
        mark(&mut system);
        body["system"] = json!([system]);
    }
    if !request.tools.is_empty() {
        let mut tools: Vec<Value> = request
            .tools
            .iter()
            .map(|tool| {
                json!({ "name": tool.name, "description": tool.description, "input_schema": tool.input_schema })
            })
            .collect();
        tools.last_mut().into_iter().for_each(mark);
        body["tools"] = Value::Array(tools);
    }
    body
}

/// Marks the end of a prefix that the provider should keep in its cache.
fn mark(block: &mut Value) {
    block["cache_control"] = json!({ "type": "ephemeral" });
}

/// A text block; the API refuses text without a visible character.
fn text_block(text: &str) -> Value {
    let text = if text.trim().is_empty() { NO_TEXT } else { text };
    json!({ "type": "text", "text": text })
}

fn message(message: &Message) -> Value {
    match message {
        Message::User { text } => json!({ "role": "user", "content": [text_block(text)] }),
        Message::Assistant { text, calls, thinking, .. } => {
            json!({ "role": "assistant", "content": assistant(text, calls, thinking) })
        }
        Message::ToolResults { results } => {
            json!({ "role": "user", "content": results.iter().map(tool_result).collect::<Vec<_>>() })
        }
    }
}

/// Text and calls, with the thoughts where they stood between them.
fn assistant(text: &str, calls: &[ModelCall], thinking: &[PlacedThought]) -> Vec<Value> {
    let (mut text, mut calls, mut made) = (text, calls, (0, 0));
    let mut content = Vec::new();
    let place = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    for placed in thinking {
        let (before, after) =
            text.split_at(text.floor_char_boundary(place(placed.after_text).saturating_sub(made.0)));
        let (first, later) =
            calls.split_at(place(placed.after_calls).saturating_sub(made.1).min(calls.len()));
        push_prose(&mut content, before);
        content.extend(first.iter().map(tool_use));
        content.push(thought(&placed.thought));
        made = (made.0 + before.len(), made.1 + first.len());
        (text, calls) = (after, later);
    }
    push_prose(&mut content, text);
    content.extend(calls.iter().map(tool_use));
    if content.is_empty() {
        content.push(text_block(NO_TEXT));
    }
    content
}

fn push_prose(content: &mut Vec<Value>, text: &str) {
    if !text.trim().is_empty() {
        content.push(text_block(text));
    }
}

fn thought(thought: &Thought) -> Value {
    match thought {
        Thought::Signed { text, signature } => {
            json!({ "type": "thinking", "thinking": text, "signature": signature })
        }
        Thought::Redacted { data } => json!({ "type": "redacted_thinking", "data": data }),
    }
}

fn tool_use(call: &ModelCall) -> Value {
    json!({ "type": "tool_use", "id": identifier(&call.id.0, "call"), "name": identifier(&call.tool.0, "unnamed"),
        "input": arguments_object(&call.arguments) })
}

fn tool_result(result: &CallResult) -> Value {
    json!({ "type": "tool_result", "tool_use_id": identifier(&result.id.0, "call"),
        "content": [text_block(&result.content)], "is_error": result.is_error })
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: StartedMessage,
    },
    ContentBlockStart {
        index: u64,
        content_block: Block,
    },
    ContentBlockDelta {
        index: u64,
        delta: Delta,
    },
    ContentBlockStop {
        index: u64,
    },
    MessageDelta {
        delta: MessageDelta,
        usage: Option<WireUsage>,
    },
    MessageStop,
    Error {
        error: ErrorObject,
    },
    /// `ping`, and what is added later.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct StartedMessage {
    model: Option<String>,
    usage: Option<WireUsage>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        #[serde(default)]
        text: String,
    },
    Thinking {
        #[serde(default)]
        thinking: String,
        #[serde(default)]
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Option<Value>,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "signature_delta")]
    Signature { signature: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct MessageDelta {
    stop_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct WireUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

/// A call that is being written, and what stands for its arguments if no piece of them comes.
#[derive(Debug)]
struct OpenCall {
    place: CallPlace,
    input: Option<String>,
}

/// Reads a stream of this format.
#[derive(Debug, Default)]
pub(super) struct Reader {
    draft: Draft,
    calls: HashMap<u64, OpenCall>,
    thoughts: HashMap<u64, ThoughtPlace>,
    blocks: usize,
    fresh_input: Tokens,
}

impl Reader {
    /// What has arrived.
    pub(super) const fn draft(&mut self) -> &mut Draft {
        &mut self.draft
    }

    /// What has arrived, for good.
    #[must_use]
    pub(super) fn into_draft(self) -> Draft {
        self.draft
    }

    /// Takes one event.
    pub(super) fn on_event(&mut self, event: &SseEvent) -> Result<Progress, StreamFault> {
        let event: Event = serde_json::from_str(&event.data)
            .map_err(|error| malformed(format!("an event of the stream is not as expected: {error}")))?;
        match event {
            Event::MessageStart { message } => {
                self.draft.name_model(message.model);
                self.take_usage(message.usage);
            }
            Event::ContentBlockStart { index, content_block } => self.start_block(index, content_block)?,
            Event::ContentBlockDelta { index, delta } => self.take_delta(index, delta)?,
            Event::ContentBlockStop { index } => self.stop_block(index)?,
            Event::MessageDelta { delta, usage } => {
                self.take_usage(usage);
                if let Some(reason) = delta.stop_reason {
                    self.draft.stop = Some(stop_of(&reason));
                }
            }
            Event::MessageStop => return Ok(Progress::Ended),
            Event::Error { error } => return Err(StreamFault::Said(error)),
            Event::Other => {}
        }
        Ok(Progress::GoesOn)
    }

    /// Counts are cumulative, and a later event may leave some out.
    fn take_usage(&mut self, usage: Option<WireUsage>) {
        let Some(usage) = usage else { return };
        let draft = &mut self.draft.usage;
        if let Some(output) = usage.output_tokens {
            draft.output_tokens = Tokens(output);
        }
        if let Some(read) = usage.cache_read_input_tokens {
            draft.cached_input_tokens = Tokens(read);
        }
        if let Some(input) = usage.input_tokens {
            let written = Tokens(usage.cache_creation_input_tokens.unwrap_or(0));
            self.fresh_input = Tokens(input).plus(written);
        }
        draft.input_tokens = self.fresh_input.plus(draft.cached_input_tokens);
    }

    fn start_block(&mut self, index: u64, block: Block) -> Result<(), ModelFailure> {
        self.blocks += 1;
        if self.blocks > MAX_BLOCKS {
            return Err(too_long(format_args!("the reply has more than {MAX_BLOCKS} blocks")));
        }
        match block {
            Block::Text { text } => self.draft.push_text(&text),
            Block::Thinking { thinking, signature } => {
                let place = self.draft.begin_thought(Thought::Signed { text: thinking, signature })?;
                self.thoughts.insert(index, place);
                Ok(())
            }
            Block::RedactedThinking { data } => {
                self.draft.begin_thought(Thought::Redacted { data }).map(drop)
            }
            Block::ToolUse { id, name, input } => {
                let place = self.draft.begin_call(&id, &name)?;
                let input = input.map(|input| input.to_string());
                self.calls.insert(index, OpenCall { place, input });
                Ok(())
            }
            Block::Other => Ok(()),
        }
    }

    fn take_delta(&mut self, index: u64, delta: Delta) -> Result<(), ModelFailure> {
        match delta {
            Delta::Text { text } => self.draft.push_text(&text),
            Delta::Thinking { thinking } => self.push_thought(index, &thinking, ""),
            Delta::Signature { signature } => self.push_thought(index, "", &signature),
            Delta::InputJson { partial_json } => {
                let Some(call) = self.calls.get(&index) else {
                    return Err(malformed("arguments came for a call that was not begun"));
                };
                self.draft.push_arguments(call.place, &partial_json)
            }
            Delta::Other => Ok(()),
        }
    }

    fn push_thought(&mut self, index: u64, words: &str, proof: &str) -> Result<(), ModelFailure> {
        let Some(place) = self.thoughts.get(&index) else {
            return Err(malformed("a thought came that was not begun"));
        };
        self.draft.push_thought(*place, words, proof)
    }

    /// A finished call without a single piece of arguments has those that its start gave, usually `{}`.
    fn stop_block(&mut self, index: u64) -> Result<(), ModelFailure> {
        let Some(call) = self.calls.remove(&index) else { return Ok(()) };
        match call.input {
            Some(input) if self.draft.call(call.place).arguments.0.is_empty() => {
                self.draft.push_arguments(call.place, &input)
            }
            _ => Ok(()),
        }
    }
}

fn stop_of(reason: &str) -> ModelStop {
    match reason {
        "tool_use" => ModelStop::ToolUse,
        "max_tokens" | "model_context_window_exceeded" => ModelStop::MaxTokens,
        "refusal" => ModelStop::Refusal,
        "end_turn" | "stop_sequence" => ModelStop::EndTurn,
        other => ModelStop::Other(StopWord(other.to_owned())),
    }
}
