//! How a stream arrives and how it ends: the same reply in whatever pieces, and every reason to stop.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aaos_core::model::{Message, ModelFailureKind, ModelReply, ModelStop, StopWord};
use aaos_core::wire::WireFormat;
use serde_json::json;
use testkit::{Chop, ModelServer, Script, SeenRequest, StopAs, Turn};

use crate::models::{FORMATS, KEY, Models, raw, request, stream, url};

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

/// Events of each format: ones that hold no work, some that each prove work, and errors that a provider gives for a while.
fn broken_off(format: WireFormat) -> (Vec<&'static str>, Vec<Vec<&'static str>>, [&'static str; 2]) {
    match format {
        WireFormat::OpenAi => (
            vec![r#"{"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}"#],
            vec![
                vec![
                    r#"{"choices":[{"delta":{"content":"some "}}]}"#,
                    r#"{"choices":[{"delta":{"content":"words"}}]}"#,
                ],
                vec![r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#],
                vec![r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#],
                vec![r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#],
                vec![r#"{"choices":[],"usage":{"prompt_tokens":7}}"#],
            ],
            [r#"{"error":{"message":"slow down","code":429}}"#, r#"{"error":{"message":"busy","code":503}}"#],
        ),
        WireFormat::Anthropic => (
            vec![r#"{"type":"message_start","message":{}}"#, r#"{"type":"ping"}"#],
            vec![
                vec![
                    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"some "}}"#,
                    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"words"}}"#,
                ],
                vec![
                    r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
                ],
                vec![
                    r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"","name":""}}"#,
                ],
                vec![r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}"#],
                vec![r#"{"type":"message_start","message":{"usage":{"input_tokens":7}}}"#],
            ],
            [
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#,
            ],
        ),
        WireFormat::Builtin => unreachable!("it has no stream"),
    }
}

#[tokio::test]
async fn an_error_after_work_is_a_cut_stream_and_turns_nothing_away() {
    use ModelFailureKind::{CutStream, RateLimited, Unavailable};
    for format in FORMATS {
        let (blank, works, errors) = broken_off(format);
        for (error, kind, words) in [(errors[0], RateLimited, "slow down"), (errors[1], Unavailable, "busy")]
        {
            let ends = async |before: &[&str]| {
                let events = [blank.as_slice(), before, &[error]].concat();
                let failure = raw(format, stream(&events)).await.expect_err("it ends with an error");
                assert!(failure.message.contains(words), "{failure}");
                failure
            };
            let control = ends(&[]).await;
            assert_eq!((control.kind, control.kind.may_be_billed()), (kind, false), "{control}");
            for work in &works {
                let failure = ends(work).await;
                assert_eq!(failure.kind, CutStream, "{work:?}: {failure}");
                assert!(failure.kind.may_be_billed() && !failure.is_wait());
            }
        }
    }
}

#[tokio::test]
async fn a_final_error_stays_final_after_work_and_usage_counts_beside_an_error() {
    let error = r#"{"error":{"message":"no","type":"invalid_request_error"}}"#;
    let (_, works, _) = broken_off(WireFormat::OpenAi);
    let events = [works[0].as_slice(), &[error]].concat();
    let failure = raw(WireFormat::OpenAi, stream(&events)).await.expect_err("an error");
    assert_eq!(failure.kind, ModelFailureKind::Rejected, "{failure}");
    let beside = r#"{"error":{"message":"slow","code":429},"usage":{"prompt_tokens":7}}"#;
    let failure = raw(WireFormat::OpenAi, stream(&[beside])).await.expect_err("an error");
    assert_eq!(failure.kind, ModelFailureKind::CutStream, "{failure}");
}
