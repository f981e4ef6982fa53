//! How a stream arrives and how it ends: the same reply in whatever pieces, and every reason to stop.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aaos_core::model::{Message, ModelReply, ModelStop, StopWord};
use aaos_core::wire::WireFormat;
use serde_json::json;
use testkit::{Chop, ModelServer, Script, SeenRequest, StopAs, Turn};

use crate::models::{FORMATS, KEY, Models, request, url};

/// Text, two calls, escapes, and characters of several bytes.
fn everything() -> Turn {
    let message = json!({ "message": "a \"quoted\" \u{e4}\u{1f30a}" });
    Turn::SayAndCall {
        text: "Now \u{fc}:".into(),
        calls: vec![("echo".into(), message), ("file_read".into(), json!({ "path": "/b" }))],
    }
}

/// Bytes of the stream that this turn is, from a server that sends it in one piece.
fn stream_bytes(server: &ModelServer, path: &str) -> usize {
    let body =
        json!({ "stream": true, "stream_options": { "include_usage": true }, "messages": [] }).to_string();
    let mut connection = std::net::TcpStream::connect(server.address()).expect("connects");
    let head = format!("POST {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.write_all((head + &body).as_bytes()).expect("asks");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    let (size, _) = body.split_once("\r\n").expect("one chunk");
    usize::from_str_radix(size, 16).expect("a size")
}

#[tokio::test]
async fn a_stream_that_is_split_at_any_byte_says_the_same() {
    for (format, path) in FORMATS.into_iter().zip(["/v1/chat/completions", "/v1/messages"]) {
        let at = Arc::new(AtomicUsize::new(usize::MAX));
        let split = Arc::clone(&at);
        let turn = move |_: &SeenRequest| everything().chopped(Chop::InTwo(split.load(Ordering::Relaxed)));
        let server = ModelServer::start(Script::dynamic(turn));
        let bytes = stream_bytes(&server, path);
        let mut models = Models::with(format, url(&server, format));
        let whole = models.ask(request()).await.expect("the control: not split");
        assert_eq!((whole.calls.len(), whole.stop.clone()), (2, ModelStop::ToolUse));
        for place in 1..bytes {
            at.store(place, Ordering::Relaxed);
            let reply = models.ask(request()).await.expect("a reply");
            assert_eq!(reply, whole, "{format:?} split after {place} bytes of {bytes}");
        }
        let server = ModelServer::start(Script::in_order([everything().chopped(Chop::EveryByte)]));
        assert_eq!(Models::with(format, url(&server, format)).ask(request()).await, Ok(whole));
    }
}

#[tokio::test]
async fn reasons_to_stop_are_known_or_kept_as_they_came() {
    use ModelStop::{EndTurn, MaxTokens, Refusal};
    let other = |word: &str| ModelStop::Other(StopWord(word.to_owned()));
    let long = "x".repeat(9999);
    for (format, word, stop) in [
        (WireFormat::OpenAi, "stop", EndTurn),
        (WireFormat::OpenAi, "eos_token", EndTurn),
        (WireFormat::OpenAi, "", EndTurn),
        (WireFormat::OpenAi, "length", MaxTokens),
        (WireFormat::OpenAi, "content_filter", Refusal),
        (WireFormat::OpenAi, "paused", other("paused")),
        (WireFormat::Anthropic, "end_turn", EndTurn),
        (WireFormat::Anthropic, "stop_sequence", EndTurn),
        (WireFormat::Anthropic, "model_context_window_exceeded", MaxTokens),
        (WireFormat::Anthropic, "refusal", Refusal),
        (WireFormat::Anthropic, "pause_turn", other("pause_turn")),
        (WireFormat::Anthropic, "a\u{1b}[31m \n", other("a [31m")),
        (WireFormat::Anthropic, KEY, other("[key]")),
        (WireFormat::Anthropic, &long, other(&long[..300])),
    ] {
        let turn = Turn::say("so").stopping(StopAs::Word(word.to_owned()));
        let server = ModelServer::start(Script::in_order([turn]));
        let reply = Models::with(format, url(&server, format)).ask(request()).await.expect("a reply");
        assert_eq!((reply.stop, reply.text.as_str()), (stop, "so"), "{format:?} {word:?}");
    }
}

#[tokio::test]
async fn thoughts_go_back_as_they_came_and_to_no_other_format() {
    let blocks = [
        json!({ "type": "thinking", "thinking": "First \u{e4}, then \"b\".", "signature": "c2lnbmVk+/==" }),
        json!({ "type": "redacted_thinking", "data": "ZW5jcnlwdGVk" }),
        json!({ "type": "thinking", "thinking": "", "signature": "bm8gd29yZHM=" }),
    ];
    let call = json!({ "message": "hi" });
    let turn = Turn::SayAndCall { text: "Now:".into(), calls: vec![("echo".into(), call.clone())] };
    for format in FORMATS {
        let turns = [turn.clone().thinking(blocks.clone()).chopped(Chop::EveryByte), Turn::say("done")];
        let server = ModelServer::start(Script::in_order(turns));
        let mut models = Models::with(format, url(&server, format));
        let reply = models.ask(request()).await.expect("a reply");
        let ModelReply { text, reasoning, thinking, calls, .. } = reply;
        let mut next = request();
        next.messages = vec![
            Message::User { text: "Say hi.".into() },
            Message::Assistant { text, reasoning, thinking, calls },
        ];
        models.ask(next).await.expect("a reply");
        let sent = &server.requests()[1].body["messages"];
        if format == WireFormat::Anthropic {
            let content = sent[1]["content"].as_array().expect("blocks");
            let [first, rest @ ..] = &blocks;
            assert_eq!(
                (&content[0], &content[1]["text"], &content[2..4]),
                (first, &json!("Now:"), &rest[..])
            );
            assert_eq!((&content[4]["input"], content.len()), (&call, 5));
        } else {
            // The words were sent as reasoning there, and go back as that.
            assert_eq!(sent[2]["reasoning_content"], blocks[0]["thinking"], "{sent}");
            assert!(!sent.to_string().contains("signature"), "{sent}");
        }
    }
}

#[tokio::test]
async fn thoughts_of_another_provider_are_left_out() {
    let block = json!({ "type": "thinking", "thinking": "private", "signature": "c2ln" });
    let server = ModelServer::start(Script::in_order([Turn::say("so").thinking([block]), Turn::say("done")]));
    let there = url(&server, WireFormat::Anthropic);
    let reply = Models::with(WireFormat::Anthropic, there).ask(request()).await.expect("a reply");
    assert_eq!((reply.thinking.len(), reply.reasoning.as_deref()), (1, None));
    let ModelReply { text, reasoning, thinking, .. } = reply;
    let mut next = request();
    next.messages.insert(0, Message::Assistant { text, reasoning, thinking, calls: Vec::new() });
    let here = url(&server, WireFormat::OpenAi);
    Models::with(WireFormat::OpenAi, here).ask(next).await.expect("a reply");
    let sent = server.requests()[1].body.to_string();
    assert!(sent.contains("so") && !sent.contains("private") && !sent.contains("c2ln"), "{sent}");
}

#[tokio::test]
async fn a_thought_without_a_signature_is_reasoning_and_is_not_sent_as_a_thought() {
    let block = json!({ "type": "thinking", "thinking": "hm", "signature": "" });
    let server = ModelServer::start(Script::in_order([Turn::say("so").thinking([block])]));
    let there = url(&server, WireFormat::Anthropic);
    let reply = Models::with(WireFormat::Anthropic, there).ask(request()).await.expect("a reply");
    assert_eq!((reply.reasoning.as_deref(), reply.thinking.len()), (Some("hm"), 0));
}
