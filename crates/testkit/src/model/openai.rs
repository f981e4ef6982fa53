//! Chat completions, whole and as server-sent events.
//!
//! Follows the public reference of the chat completions API: usage comes in a chunk without choices, and only when
//! `stream_options.include_usage` was asked for; the stream ends with `[DONE]`.

use super::SeenRequest;
use super::turn::{Answer, Stop};
use serde_json::{Value, json};

fn finish_reason(stop: &Stop) -> &str {
    match stop {
        Stop::End => "stop",
        Stop::Calls => "tool_calls",
        Stop::Length => "length",
        Stop::Word(word) => word,
    }
}

fn call_id(serial: usize, index: usize) -> String {
    format!("call_{serial}_{index}")
}

fn usage(seen: &SeenRequest, answer: &Answer) -> Value {
    let usage = answer.reported(seen.raw.len());
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": { "cached_tokens": usage.cached },
    })
}

pub(super) fn whole(seen: &SeenRequest, answer: &Answer, serial: usize) -> Value {
    let calls: Vec<Value> = answer
        .calls
        .iter()
        .enumerate()
        .map(|(index, (tool, arguments))| {
            json!({ "id": call_id(serial, index), "type": "function",
                    "function": { "name": tool, "arguments": arguments } })
        })
        .collect();
    let content = if answer.text.is_empty() { Value::Null } else { json!(answer.text) };
    let mut message = json!({ "role": "assistant", "content": content });
    if !answer.thinking.is_empty() {
        message["reasoning_content"] = json!(answer.thoughts());
    }
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    json!({
        "id": format!("chatcmpl-{serial}"), "object": "chat.completion", "created": 0, "model": seen.model,
        "choices": [{ "index": 0, "message": message, "finish_reason": finish_reason(&answer.stop) }],
        "usage": usage(seen, answer),
    })
}

pub(super) fn events(seen: &SeenRequest, answer: &Answer, serial: usize) -> Vec<Vec<u8>> {
    let chunk = |choices: Value| {
        json!({ "id": format!("chatcmpl-{serial}"), "object": "chat.completion.chunk", "created": 0,
                "model": seen.model, "choices": choices, "usage": null })
    };
    let delta = |delta: Value| chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]));
    let mut chunks = vec![delta(json!({ "role": "assistant", "content": "" }))];
    let thoughts = answer.thoughts();
    chunks.extend(
        answer.fragments(&thoughts).into_iter().map(|piece| delta(json!({ "reasoning_content": piece }))),
    );
    chunks.extend(answer.fragments(&answer.text).into_iter().map(|piece| delta(json!({ "content": piece }))));
    for (index, (tool, arguments)) in answer.calls.iter().enumerate() {
        chunks.push(delta(json!({ "tool_calls": [{ "index": index, "id": call_id(serial, index),
            "type": "function", "function": { "name": tool, "arguments": "" } }] })));
        chunks.extend(answer.fragments(arguments).into_iter().map(|piece| {
            delta(json!({ "tool_calls": [{ "index": index, "function": { "arguments": piece } }] }))
        }));
    }
    chunks.push(chunk(json!([{ "index": 0, "delta": {}, "finish_reason": finish_reason(&answer.stop) }])));
    if seen.body["stream_options"]["include_usage"] == Value::Bool(true) {
        let mut last = chunk(json!([]));
        last["usage"] = usage(seen, answer);
        chunks.push(last);
    }
    let mut events: Vec<Vec<u8>> =
        chunks.iter().map(|chunk| format!("data: {chunk}\n\n").into_bytes()).collect();
    events.push(b"data: [DONE]\n\n".to_vec());
    events
}
