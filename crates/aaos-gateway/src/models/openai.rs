//! The OpenAI chat completions format, as DeepSeek, OpenRouter, Ollama, vLLM and llama.cpp speak it too.
//!
//! Written by hand and not over genai 0.7, read at its source: its OpenAI reader sizes a table by an index
//! that the provider chooses (2^32-1 ends the process), both its readers parse call arguments and write them
//! anew (or leave a JSON string for malformed ones, which a model may also have meant), error bodies are read
//! without a limit and logged, and it switches on gzip for every client in the process.
//!
//! Invariants: nothing that the provider sends is trusted for a size; arguments stay text; the only proper end
//! is `[DONE]`.

use std::collections::HashMap;

use aaos_core::model::{
    CallResult, Message, ModelCall, ModelFailure, ModelRequest, ModelStop, StopWord, Usage,
};
use aaos_core::quantity::Tokens;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::draft::{CallPlace, Draft};
use super::echo::{arguments_object, identifier};
use super::failure::{ErrorObject, malformed};
use super::sse::SseEvent;
use super::{Progress, StreamFault};

/// What differs between hosts of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI itself: `max_completion_tokens`, and no fields that it does not know.
    Original,
    /// All others: `max_tokens`, and reasoning is echoed.
    Compatible,
}

/// The body of a request.
#[must_use]
pub(super) fn request_body(request: &ModelRequest, model: &str, dialect: Dialect) -> Value {
    let mut messages = Vec::new();
    if !request.system.is_empty() {
        messages.push(json!({ "role": "system", "content": request.system }));
    }
    for message in &request.messages {
        match message {
            Message::User { text } => messages.push(json!({ "role": "user", "content": text })),
            Message::Assistant { text, reasoning, calls, thinking: _ } => {
                messages.push(assistant(text, reasoning.as_deref(), calls, dialect));
            }
            Message::ToolResults { results } => messages.extend(results.iter().map(tool_message)),
        }
    }
    let limit = match dialect {
        Dialect::Original => "max_completion_tokens",
        Dialect::Compatible => "max_tokens",
    };
    let mut body = json!({
        "model": model,
        "messages": messages,
        "stream": true,
        "stream_options": { "include_usage": true },
        limit: request.max_output_tokens.0,
    });
    if !request.tools.is_empty() {
        body["tools"] = request
            .tools
            .iter()
            .map(|tool| {
                json!({ "type": "function", "function": {
                    "name": tool.name, "description": tool.description, "parameters": tool.input_schema } })
            })
            .collect();
    }
    body
}

fn assistant(text: &str, reasoning: Option<&str>, calls: &[ModelCall], dialect: Dialect) -> Value {
    // Some servers refuse an absent content beside calls, others an empty one without: null means none.
    let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { json!(text) };
    let mut message = json!({ "role": "assistant", "content": content });
    if calls.is_empty() {
        return message;
    }
    message["tool_calls"] = calls
        .iter()
        .map(|call| {
            let arguments = arguments_object(&call.arguments).to_string();
            json!({ "id": call.id, "type": "function",
                "function": { "name": identifier(&call.tool.0, "unnamed"), "arguments": arguments } })
        })
        .collect();
    // DeepSeek wants the reasoning of a turn with calls back; OpenAI refuses fields that it does not know.
    if let (Some(reasoning), Dialect::Compatible) = (reasoning, dialect) {
        message["reasoning_content"] = json!(reasoning);
    }
    message
}

fn tool_message(result: &CallResult) -> Value {
    json!({ "role": "tool", "tool_call_id": result.id, "content": result.content })
}

#[derive(Debug, Deserialize)]
struct Chunk {
    model: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    error: Option<ErrorObject>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Debug, Deserialize)]
struct CallDelta {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Debug, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    /// Text by the book; an object from some servers, which is then kept as its text.
    arguments: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    /// DeepSeek's spelling.
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

impl WireUsage {
    fn usage(&self) -> Usage {
        let details = self.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens);
        Usage {
            input_tokens: Tokens(self.prompt_tokens.unwrap_or(0)),
            output_tokens: Tokens(self.completion_tokens.unwrap_or(0)),
            cached_input_tokens: Tokens(details.or(self.prompt_cache_hit_tokens).unwrap_or(0)),
        }
    }
}

/// Reads a stream of this format.
#[derive(Debug, Default)]
pub(super) struct Reader {
    draft: Draft,
    places: HashMap<u64, CallPlace>,
    last: Option<CallPlace>,
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
        if event.data.trim() == "[DONE]" {
            return Ok(Progress::Ended);
        }
        let chunk: Chunk = serde_json::from_str(&event.data)
            .map_err(|error| malformed(format!("a piece of the stream is not as expected: {error}")))?;
        self.draft.name_model(chunk.model);
        if let Some(usage) = chunk.usage {
            self.draft.usage = usage.usage();
        }
        if let Some(error) = chunk.error {
            return Err(StreamFault::Said(error));
        }
        if let Some(choice) = chunk.choices.into_iter().flatten().next() {
            self.take_choice(choice)?;
        }
        Ok(Progress::GoesOn)
    }

    fn take_choice(&mut self, choice: Choice) -> Result<(), ModelFailure> {
        if let Some(delta) = choice.delta {
            if let Some(reasoning) = delta.reasoning_content.or(delta.reasoning) {
                self.draft.push_reasoning(&reasoning)?;
            }
            for text in [delta.content, delta.refusal].into_iter().flatten() {
                self.draft.push_text(&text)?;
            }
            for call in delta.tool_calls.into_iter().flatten() {
                self.take_call(&call)?;
            }
        }
        // Some servers send an empty one with every piece.
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            self.draft.stop = Some(stop_of(&reason));
        }
        Ok(())
    }

    fn take_call(&mut self, call: &CallDelta) -> Result<(), ModelFailure> {
        let id = call.id.as_deref().unwrap_or_default();
        let name = call.function.as_ref().and_then(|function| function.name.as_deref()).unwrap_or_default();
        let known = match call.index {
            Some(index) => self.places.get(&index).copied(),
            None if id.is_empty() => self.last,
            None => None,
        };
        // Some servers give every call the index 0; then another id means another call.
        let known = known.filter(|place| id.is_empty() || self.draft.call(*place).id.0 == id);
        let place = match known {
            Some(place) => {
                if self.draft.call(place).tool.0.is_empty() {
                    self.draft.push_tool(place, name)?;
                }
                place
            }
            None => self.draft.begin_call(id, name)?,
        };
        if let Some(index) = call.index {
            self.places.insert(index, place);
        }
        self.last = Some(place);
        if let Some(raw) = call.function.as_ref().and_then(|function| function.arguments.as_ref()) {
            let text = serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
            self.draft.push_arguments(place, &text)?;
        }
        Ok(())
    }
}

/// `eos` and `eos_token` are other servers' words for `stop`.
fn stop_of(reason: &str) -> ModelStop {
    match reason {
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" => ModelStop::EndTurn,
        "length" | "model_length" | "max_tokens" => ModelStop::MaxTokens,
        "tool_calls" | "function_call" | "tool_use" => ModelStop::ToolUse,
        "content_filter" => ModelStop::Refusal,
        other => ModelStop::Other(StopWord(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialect, request_body};
    use aaos_core::model::{
        Message, ModelCall, ModelCallId, ModelRequest, PlacedThought, RawArguments, RequestedTool, Thought,
    };
    use aaos_core::name::ModelName;
    use aaos_core::quantity::Tokens;

    #[test]
    fn openai_itself_gets_its_own_limit_and_no_field_it_does_not_know() {
        let call = ModelCall {
            id: ModelCallId("a".into()),
            tool: RequestedTool("echo".into()),
            arguments: RawArguments(String::new()),
        };
        let request = ModelRequest {
            model: ModelName::parse("gpt").expect("a name"),
            system: String::new(),
            messages: vec![Message::Assistant {
                text: "x".into(),
                reasoning: Some("r".into()),
                thinking: vec![PlacedThought {
                    after_text: 0,
                    after_calls: 0,
                    thought: Thought::Signed {
                        text: "only its own provider's".into(),
                        signature: "s".into(),
                    },
                }],
                calls: vec![call],
            }],
            tools: Vec::new(),
            max_output_tokens: Tokens(5),
            narrowed: None,
        };
        for (dialect, limit, other, is_echoed) in [
            (Dialect::Original, "max_completion_tokens", "max_tokens", false),
            (Dialect::Compatible, "max_tokens", "max_completion_tokens", true),
        ] {
            let body = request_body(&request, "gpt", dialect);
            assert_eq!((body[limit].as_u64(), body.get(other)), (Some(5), None));
            let message = &body["messages"][0];
            assert_eq!(message.get("reasoning_content").is_some(), is_echoed);
            assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{}");
            assert!(body.get("tools").is_none());
            assert!(!body.to_string().contains("only its own"), "{body}");
        }
    }
}
