//! Anthropic Messages, whole and as server-sent events.
//!
//! Follows the public reference of the Messages API: input usage in `message_start` (cached tokens apart, not part of
//! `input_tokens`), output usage in `message_delta`, tool input as `input_json_delta` fragments.

use super::SeenRequest;
use super::turn::{Answer, Stop};
use serde_json::{Value, json};

fn stop_reason(stop: &Stop) -> &str {
    match stop {
        Stop::End => "end_turn",
        Stop::Calls => "tool_use",
        Stop::Length => "max_tokens",
        Stop::Word(word) => word,
    }
}

fn call_id(serial: usize, index: usize) -> String {
    format!("toolu_{serial}_{index}")
}

fn usage(seen: &SeenRequest, answer: &Answer) -> Value {
    let usage = answer.reported(seen.raw.len());
    json!({
        "input_tokens": usage.input - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.output,
    })
}

fn message(seen: &SeenRequest, serial: usize, content: &Value, stop: &Value, usage: &Value) -> Value {
    json!({ "id": format!("msg_{serial}"), "type": "message", "role": "assistant", "model": seen.model,
            "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage })
}

/// A tool's input, which on this wire is JSON and not text; what is not JSON stays a string, so it is wrong still.
fn input_of(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| Value::String(arguments.to_owned()))
}

pub(super) fn whole(seen: &SeenRequest, answer: &Answer, serial: usize) -> Value {
    let mut thoughts = answer.thinking.iter().cloned();
    let mut content: Vec<Value> = thoughts.next().into_iter().collect();
    if !answer.text.is_empty() {
        content.push(json!({ "type": "text", "text": answer.text }));
    }
    content.extend(thoughts);
    content.extend(answer.calls.iter().enumerate().map(|(index, (tool, arguments))| {
        json!({ "type": "tool_use", "id": call_id(serial, index), "name": tool, "input": input_of(arguments) })
    }));
    message(seen, serial, &Value::Array(content), &json!(stop_reason(&answer.stop)), &usage(seen, answer))
}

pub(super) fn events(seen: &SeenRequest, answer: &Answer, serial: usize) -> Vec<Vec<u8>> {
    let total = usage(seen, answer);
    let mut at_start = total.clone();
    at_start["output_tokens"] = json!(1);
    let mut events = vec![json!({ "type": "message_start",
        "message": message(seen, serial, &json!([]), &Value::Null, &at_start) })];
    events.push(json!({ "type": "ping" }));
    for (index, (start, deltas)) in blocks(answer, serial).into_iter().enumerate() {
        push_block(&mut events, index, &start, deltas.into_iter());
    }
    events.push(json!({ "type": "message_delta",
        "delta": { "stop_reason": stop_reason(&answer.stop), "stop_sequence": null },
        "usage": { "output_tokens": total["output_tokens"] } }));
    events.push(json!({ "type": "message_stop" }));
    events.iter().map(named_event).collect()
}

/// The start of each block, and what it is filled with.
fn blocks(answer: &Answer, serial: usize) -> Vec<(Value, Vec<Value>)> {
    let mut thoughts = answer.thinking.iter().map(|block| thought(answer, block));
    let mut blocks: Vec<_> = thoughts.next().into_iter().collect();
    if !answer.text.is_empty() {
        let pieces = answer.fragments(&answer.text).into_iter();
        let pieces = pieces.map(|text| json!({ "type": "text_delta", "text": text }));
        blocks.push((json!({ "type": "text", "text": "" }), pieces.collect()));
    }
    blocks.extend(thoughts);
    blocks.extend(answer.calls.iter().enumerate().map(|(number, (tool, arguments))| {
        let start = json!({ "type": "tool_use", "id": call_id(serial, number), "name": tool, "input": {} });
        let pieces = answer.fragments(arguments).into_iter();
        let pieces = pieces.map(|part| json!({ "type": "input_json_delta", "partial_json": part }));
        (start, pieces.collect())
    }));
    blocks
}

/// A block of thinking: its words in pieces and then its signature, or as it is where it has no words.
fn thought(answer: &Answer, block: &Value) -> (Value, Vec<Value>) {
    let Some(words) = block["thinking"].as_str() else { return (block.clone(), Vec::new()) };
    let pieces = answer.fragments(words).into_iter();
    let pieces = pieces.map(|part| json!({ "type": "thinking_delta", "thinking": part }));
    let signature = json!({ "type": "signature_delta", "signature": block["signature"] });
    let start = json!({ "type": "thinking", "thinking": "", "signature": "" });
    (start, pieces.chain([signature]).collect())
}

fn push_block(events: &mut Vec<Value>, index: usize, start: &Value, deltas: impl Iterator<Item = Value>) {
    events.push(json!({ "type": "content_block_start", "index": index, "content_block": start }));
    events
        .extend(deltas.map(|delta| json!({ "type": "content_block_delta", "index": index, "delta": delta })));
    events.push(json!({ "type": "content_block_stop", "index": index }));
}

fn named_event(event: &Value) -> Vec<u8> {
    let name = event["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {event}\n\n").into_bytes()
}
