//! The scripted model, asked by a raw client.

use super::*;
use crate::Gate;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Sends one request and reads until the server closes, the body is complete, or `until` has come.
fn post(server: &ModelServer, path: &str, body: &Value, until: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(crate::PATIENCE)).unwrap();
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0_u8; 4096];
    while !is_complete(&String::from_utf8_lossy(&answer), until) {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8(answer).unwrap()
}

fn is_complete(answer: &str, until: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length) || (!until.is_empty() && body.contains(until))
}

/// The payloads of a server-sent event stream, chunk framing removed.
fn payloads(answer: &str) -> Vec<Value> {
    let lines = answer.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn chat(streaming: bool) -> Value {
    json!({ "model": "m", "stream": streaming, "stream_options": { "include_usage": true },
            "messages": [{ "role": "system", "content": "You are bootstrap." },
                         { "role": "user", "content": "do it" }],
            "tools": [{ "type": "function", "function": { "name": "echo", "parameters": {} } }] })
}

const END: &str = "0\r\n\r\n";

#[test]
fn chat_answer_is_whole_and_the_request_is_recorded() {
    let usage = ReportedUsage { input: 100, cached: 60, output: 7 };
    let server = ModelServer::start(Script::in_order([Turn::say("hello").metered(usage)]));
    let answer = post(&server, "/v1/chat/completions", &chat(false), "");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "hello");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 60);
    let seen = &server.wait_for_requests(1)[0];
    assert_eq!((seen.system.as_str(), seen.key(), seen.streaming), ("You are bootstrap.", Some("k1"), false));
    assert_eq!(seen.tools, ["echo"]);
    assert_eq!(seen.first_user_text(), "do it");
}

#[test]
fn chat_stream_carries_arguments_in_fragments_and_usage_last() {
    let arguments = json!({ "message": "a long message that needs many fragments" });
    let server = ModelServer::start(Script::in_order([Turn::call("echo", arguments.clone())]));
    let answer = post(&server, "/chat/completions", &chat(true), END);
    let events = payloads(&answer);
    let fragments: Vec<&str> = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
        .collect();
    assert!(fragments.len() > 3, "arguments came in {} pieces", fragments.len());
    assert_eq!(serde_json::from_str::<Value>(&fragments.concat()).unwrap(), arguments);
    assert!(events.last().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap() > 0);
    assert!(answer.contains("data: [DONE]"));
}

#[test]
fn chat_stream_without_include_usage_reports_none() {
    let mut request = chat(true);
    request["stream_options"] = Value::Null;
    let server = ModelServer::start(Script::in_order([Turn::say("x")]));
    let events = payloads(&post(&server, "/chat/completions", &request, END));
    assert!(events.iter().all(|event| event["usage"].is_null()));
}

#[test]
fn messages_stream_has_blocks_and_input_json_deltas() {
    let arguments = json!({ "path": "/data/some/file.txt" });
    let turn =
        Turn::SayAndCall { text: "I read it.".into(), calls: vec![("file_read".into(), arguments.clone())] };
    let server = ModelServer::start(Script::in_order([turn]));
    let request = json!({ "model": "m", "stream": true, "system": [{ "type": "text", "text": "S" }],
        "messages": [{ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t1", "content": "R" }] }] });
    let events = payloads(&post(&server, "/v1/messages", &request, END));
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds.first(), Some(&"message_start"));
    assert_eq!(&kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let json: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), arguments);
    let seen = &server.requests()[0];
    assert_eq!((seen.system.as_str(), seen.results[0].content.as_str()), ("S", "R"));
}

#[test]
fn messages_report_cached_tokens_apart() {
    let usage = ReportedUsage { input: 50, cached: 20, output: 3 };
    let server = ModelServer::start(Script::in_order([Turn::say("ok").metered(usage)]));
    let answer = post(&server, "/v1/messages", &json!({ "model": "m", "messages": [] }), "");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["usage"]["input_tokens"], 30);
    assert_eq!(body["usage"]["cache_read_input_tokens"], 20);
}

#[test]
fn scripts_choose_by_system_prompt_and_run_dry_loudly() {
    let script = Script::new().when_system("bootstrap", [Turn::say("root")]).otherwise([Turn::say("other")]);
    let server = ModelServer::start(script);
    let path = "/v1/chat/completions";
    assert!(post(&server, path, &chat(false), "").contains("root"));
    assert!(post(&server, path, &chat(false), "").contains("other"));
    assert!(post(&server, path, &chat(false), "").starts_with("HTTP/1.1 418"));
    assert_eq!(server.unscripted().len(), 1);
}

#[test]
fn dynamic_scripts_see_the_request() {
    let script = Script::dynamic(|seen| Turn::say(format!("{} replies before", seen.replies_so_far())));
    let server = ModelServer::start(script);
    assert!(post(&server, "/v1/chat/completions", &chat(false), "").contains("0 replies before"));
}

#[test]
fn statuses_carry_retry_after() {
    let server = ModelServer::start(Script::in_order([Turn::retry_after(429, 7)]));
    let answer = post(&server, "/v1/chat/completions", &chat(true), "");
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 7\r\n"), "{answer}");
}

#[test]
fn cut_streams_end_without_their_last_events() {
    let cut = |cut| Turn::CutStream { text: "a text of several pieces".into(), after_events: 2, cut };
    let server = ModelServer::start(Script::in_order([cut(CutAs::Broken), cut(CutAs::WellFormed)]));
    let broken = post(&server, "/chat/completions", &chat(true), "");
    assert_eq!(payloads(&broken).len(), 2);
    assert!(!broken.ends_with(END), "a broken body has no last chunk");
    let neat = post(&server, "/chat/completions", &chat(true), END);
    assert_eq!(payloads(&neat).len(), 2);
    assert!(neat.ends_with(END) && !neat.contains("[DONE]"));
}

#[test]
fn gates_hold_an_answer_back_until_opened() {
    let gate = Gate::new();
    let server = ModelServer::start(Script::in_order([Turn::say("late").behind(&gate)]));
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| post(&server, "/chat/completions", &chat(false), ""));
        assert_eq!(server.wait_for_requests(1).len(), 1);
        assert!(!answer.is_finished(), "the gate is closed");
        gate.open();
        assert!(answer.join().unwrap().contains("late"));
    });
}

#[test]
fn hanging_answers_notice_that_the_client_left() {
    let server = ModelServer::start(Script::in_order([Turn::Hang]));
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"POST /v1/messages HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    assert_eq!(server.wait_for_requests(1).len(), 1);
    drop(stream);
    server.wait_for_hangups(1);
}

#[test]
fn malformed_things_are_malformed() {
    let raw = Turn::RawCall { tool: "echo".into(), arguments: "{\"message\": ".into() };
    let server = ModelServer::start(Script::in_order([raw, Turn::MalformedJson]));
    let answer = post(&server, "/chat/completions", &chat(false), "");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let arguments = body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(arguments).is_err());
    let broken = post(&server, "/chat/completions", &chat(false), "");
    assert!(serde_json::from_str::<Value>(broken.split_once("\r\n\r\n").unwrap().1).is_err());
}

#[test]
fn text_is_cut_at_character_boundaries_and_nothing_is_lost() {
    let text = "grüße — 你好，世界 and more";
    assert!(turn::fragments(text, 9).len() > 3);
    assert_eq!(turn::fragments(text, 9).concat(), text);
}
