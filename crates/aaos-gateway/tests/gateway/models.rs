//! The `models` role over its channel, against scripted providers in both wire formats.

use std::io::{Read, Write};

use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelRequest,
    ModelStop, PlacedThought, RawArguments, RequestedTool, Thought, ToolSpec,
};
use aaos_core::name::{ModelName, ProviderName, ToolName};
use aaos_core::quantity::{Millis, Tokens};
use aaos_core::wire::{ModelsReply, ModelsRequest, ModelsSetup, ProviderSetup, RequestSerial, WireFormat};
use aaos_gateway::dial::Dialer;
use aaos_gateway::models::Desk;
use hickory_resolver::config::ResolverConfig;
use serde_json::json;
use testkit::{CutAs, ModelServer, ReportedUsage, Script, SeenRequest, Turn};
use tokio::net::UnixStream;

use crate::common::{Near, dialer, name_server, tls_server};

pub(crate) const KEY: &str = "sk-test-0123456789";
pub(crate) const LONG: Millis = Millis(30_000);
pub(crate) const FORMATS: [WireFormat; 2] = [WireFormat::OpenAi, WireFormat::Anthropic];

pub(crate) struct Models {
    near: Near,
    serial: u64,
}

impl Models {
    fn start(providers: Vec<ProviderSetup>) -> Self {
        Self::reaching(Dialer::with(ResolverConfig::default(), Vec::new()), providers)
    }

    fn reaching(dialer: Dialer, providers: Vec<ProviderSetup>) -> Self {
        let setup = ModelsSetup {
            providers,
            aliases: vec![(model("smart"), model("scripted")), (model("fast"), model("scripted"))],
            cassette: None,
            metrics: false,
            spans: None,
        };
        let desk = Desk::new(setup, dialer);
        let (near, far) = UnixStream::pair().expect("a socket pair");
        tokio::spawn(aaos_gateway::models::serve(far, desk));
        Self { near: Near(near), serial: 0 }
    }

    /// With one provider of `format` at `base_url`.
    pub(crate) fn with(format: WireFormat, base_url: String) -> Self {
        Self::start(vec![provider(format, base_url)])
    }

    async fn begin(&mut self, request: ModelRequest, time: Millis) -> RequestSerial {
        self.serial += 1;
        let serial = RequestSerial(self.serial);
        self.near.send(&ModelsRequest::Ask { serial, request: Box::new(request), time }).await;
        serial
    }

    /// The answer, and the prose that came before it.
    async fn finish(&mut self, serial: RequestSerial) -> (Result<ModelReply, ModelFailure>, String) {
        let mut prose = String::new();
        loop {
            match self.near.receive().await {
                ModelsReply::Begun { serial: whose, .. } => assert_eq!(whose, serial),
                ModelsReply::Delta { serial: whose, text } => {
                    assert_eq!(whose, serial);
                    prose.push_str(&text);
                }
                ModelsReply::Done { serial: whose, reply, .. } => {
                    assert_eq!(whose, serial);
                    return (Ok(*reply), prose);
                }
                ModelsReply::Failed { serial: whose, failure } => {
                    assert_eq!(whose, serial);
                    assert!(!failure.message.contains(KEY), "{failure}");
                    assert!(failure.message.len() < 600, "{failure}");
                    return (Err(failure), prose);
                }
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    pub(crate) async fn ask(&mut self, request: ModelRequest) -> Result<ModelReply, ModelFailure> {
        let serial = self.begin(request, LONG).await;
        self.finish(serial).await.0
    }
}

pub(crate) fn model(name: &str) -> ModelName {
    ModelName::parse(name).expect("a model name")
}

pub(crate) fn provider(format: WireFormat, base_url: String) -> ProviderSetup {
    ProviderSetup {
        name: ProviderName::parse("test").expect("a provider name"),
        format,
        base_url,
        key: Some(KEY.into()),
        models: vec![model("scripted")],
        any_model: false,
        headers: Vec::new(),
        slots: None,
        rates: aaos_core::model::Rates::default(),
        problem: None,
        key_follows: false,
    }
}

pub(crate) fn url(server: &ModelServer, format: WireFormat) -> String {
    match format {
        WireFormat::Anthropic => server.anthropic_url(),
        WireFormat::OpenAi | WireFormat::Builtin => server.openai_url(),
    }
}

fn call(id: &str, arguments: &str) -> ModelCall {
    ModelCall {
        id: ModelCallId(id.into()),
        tool: RequestedTool("echo".into()),
        arguments: RawArguments(arguments.into()),
    }
}

/// A conversation with everything that must be mapped.
pub(crate) fn request() -> ModelRequest {
    let result = |id: &str, is_error| CallResult {
        id: ModelCallId(id.into()),
        tool: RequestedTool("echo".into()),
        content: format!("result of {id}"),
        is_error,
    };
    ModelRequest {
        model: model("smart"),
        system: "Be brief.".into(),
        messages: vec![
            Message::User { text: "Say hi.".into() },
            Message::Assistant {
                text: String::new(),
                reasoning: Some("I must echo.".into()),
                thinking: Vec::new(),
                calls: vec![call("c1", "{\"message\":\"hi\"}"), call("c2", "{\"message\":")],
            },
            Message::ToolResults { results: vec![result("c1", false), result("c2", true)] },
        ],
        tools: ["echo", "file_read"]
            .map(|name| ToolSpec {
                name: ToolName::parse(name).expect("a tool name"),
                description: format!("Does {name}."),
                input_schema: json!({ "type": "object" }),
            })
            .into(),
        max_output_tokens: Tokens(1000),
        narrowed: None,
    }
}

#[tokio::test]
async fn prose_arrives_in_pieces_and_then_whole_with_its_usage() {
    for format in FORMATS {
        let usage = ReportedUsage { input: 120, cached: 100, output: 7 };
        let said = "A longer answer, \u{e4}\u{f6}\u{fc}, in several pieces.";
        let server = ModelServer::start(Script::in_order([Turn::say(said).metered(usage)]));
        let mut models = Models::with(format, url(&server, format));
        let serial = models.begin(request(), LONG).await;
        let (reply, prose) = models.finish(serial).await;
        let reply = reply.expect("a reply");
        assert_eq!((reply.text.as_str(), prose.as_str()), (said, said));
        assert_eq!((reply.stop, reply.calls.len()), (ModelStop::EndTurn, 0));
        assert_eq!(reply.usage.input_tokens, Tokens(120), "{format:?}");
        assert_eq!(reply.usage.cached_input_tokens, Tokens(100));
        assert_eq!(reply.usage.output_tokens, Tokens(7));
        assert_eq!(server.requests()[0].key(), Some(KEY));
        assert_eq!(server.requests()[0].model, "scripted", "the alias is resolved");
    }
}

#[tokio::test]
async fn calls_keep_their_arguments_as_text_even_malformed() {
    for format in FORMATS {
        let server = ModelServer::start(Script::in_order([
            Turn::SayAndCall {
                text: "Now:".into(),
                calls: vec![
                    ("echo".into(), json!({"message": "a"})),
                    ("file_read".into(), json!({"path": "/b"})),
                ],
            },
            Turn::RawCall { tool: "echo".into(), arguments: "{\"message\": \"cut".into() },
            Turn::Truncated { text: "half".into() },
        ]));
        let mut models = Models::with(format, url(&server, format));
        let reply = models.ask(request()).await.expect("a reply");
        assert_eq!((reply.text.as_str(), reply.stop), ("Now:", ModelStop::ToolUse));
        let calls: Vec<_> =
            reply.calls.iter().map(|one| (one.tool.0.as_str(), one.arguments.0.as_str())).collect();
        assert_eq!(calls, [("echo", r#"{"message":"a"}"#), ("file_read", r#"{"path":"/b"}"#)], "{format:?}");
        assert_ne!(reply.calls[0].id, reply.calls[1].id);
        let reply = models.ask(request()).await.expect("a reply");
        assert_eq!(reply.calls[0].arguments.0, "{\"message\": \"cut", "{format:?}");
        assert_eq!(models.ask(request()).await.expect("a reply").stop, ModelStop::MaxTokens);
    }
}

async fn sent(format: WireFormat) -> SeenRequest {
    let server = ModelServer::start(Script::in_order([Turn::say("ok")]));
    let mut models = Models::with(format, url(&server, format));
    models.ask(request()).await.expect("a reply");
    server.requests().remove(0)
}

#[tokio::test]
async fn a_conversation_is_written_as_openai_wants_it() {
    let seen = sent(WireFormat::OpenAi).await;
    let body = &seen.body;
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(body["messages"][0], json!({"role": "system", "content": "Be brief."}));
    let assistant = &body["messages"][2];
    assert_eq!(assistant["content"], json!(null));
    assert_eq!(assistant["reasoning_content"], "I must echo.");
    assert_eq!(
        assistant["tool_calls"][0],
        json!({"id": "c1", "type": "function", "function": {"name": "echo", "arguments": "{\"message\":\"hi\"}"}})
    );
    assert_eq!(
        assistant["tool_calls"][1]["function"]["arguments"], r#"{"malformed_arguments":"{\"message\":"}"#,
        "servers that parse arguments get an object"
    );
    assert_eq!(body["messages"][3], json!({"role": "tool", "tool_call_id": "c1", "content": "result of c1"}));
    assert_eq!(body["messages"][4]["tool_call_id"], "c2");
    assert_eq!(body["max_tokens"], 1000);
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!(body["tools"][1]["function"]["name"], "file_read");
}

#[tokio::test]
async fn a_conversation_is_written_as_anthropic_wants_it() {
    let seen = sent(WireFormat::Anthropic).await;
    let body = &seen.body;
    let mark = json!({"type": "ephemeral"});
    assert_eq!((seen.path.as_str(), seen.header("anthropic-version")), ("/v1/messages", Some("2023-06-01")));
    assert_eq!(body["system"], json!([{"type": "text", "text": "Be brief.", "cache_control": mark}]));
    assert_eq!(body["max_tokens"], 1000);
    assert_eq!(
        (&body["tools"][0]["cache_control"], &body["tools"][1]["cache_control"]),
        (&json!(null), &mark)
    );
    let assistant = &body["messages"][1]["content"];
    assert_eq!(
        assistant[0],
        json!({"type": "tool_use", "id": "c1", "name": "echo", "input": {"message": "hi"}})
    );
    assert_eq!(assistant[1]["input"], json!({"malformed_arguments": "{\"message\":"}));
    let results = &body["messages"][2];
    assert_eq!(results["role"], "user");
    assert_eq!(
        (&results["content"][0]["tool_use_id"], &results["content"][0]["is_error"]),
        (&json!("c1"), &json!(false))
    );
    assert_eq!(
        (&results["content"][1]["is_error"], &results["content"][1]["cache_control"]),
        (&json!(true), &mark)
    );
}

#[tokio::test]
async fn every_failure_has_its_kind() {
    use ModelFailureKind::{CutStream, MalformedReply, RateLimited, Rejected, Unauthorized, Unavailable};
    let cut = |cut, after_events| Turn::CutStream { text: "some words to be cut".into(), after_events, cut };
    for format in FORMATS {
        for (turn, kind, wait) in [
            (Turn::retry_after(429, 7), RateLimited, Some(7_000)),
            (Turn::status(429), RateLimited, None),
            (Turn::retry_after(503, 2), Unavailable, Some(2_000)),
            (Turn::status(500), Unavailable, None),
            (Turn::status(529), Unavailable, None),
            (Turn::status(401), Unauthorized, None),
            (Turn::status(403), Unauthorized, None),
            (Turn::status(400), Rejected, None),
            (Turn::status(404), Rejected, None),
            (Turn::MalformedJson, MalformedReply, None),
            (cut(CutAs::Broken, 2), CutStream, None),
            (cut(CutAs::WellFormed, 2), CutStream, None),
            (cut(CutAs::WellFormed, 0), CutStream, None),
        ] {
            let words = format!("{format:?} {turn:?}");
            let server = ModelServer::start(Script::in_order([turn]));
            let mut models = Models::with(format, url(&server, format));
            let failure = models.ask(request()).await.expect_err("a scripted failure");
            assert_eq!((failure.kind, failure.retry_after), (kind, wait.map(Millis)), "{words}: {failure}");
        }
    }
}

#[tokio::test]
async fn a_stream_cut_before_its_last_event_is_no_reply() {
    for format in FORMATS {
        // The control counts the events of the same turn when it is not cut.
        let text = "word";
        let mut events = 1;
        let reply = loop {
            let turn = Turn::CutStream { text: text.into(), after_events: events, cut: CutAs::WellFormed };
            let all = ModelServer::start(Script::in_order([Turn::say(text)]));
            let server = ModelServer::start(Script::in_order([turn]));
            let result = Models::with(format, url(&server, format)).ask(request()).await;
            match result {
                // The server refuses to cut after the last event: all cuts were tried.
                Err(failure) if failure.kind != ModelFailureKind::CutStream => {
                    break Models::with(format, url(&all, format)).ask(request()).await;
                }
                Err(_) => events += 1,
                Ok(reply) => panic!("{format:?}: cut after {events} events, yet {reply:?}"),
            }
        };
        assert!(events > 3, "{format:?}: {events}");
        assert_eq!(reply.expect("uncut").text, text);
    }
}

#[tokio::test]
async fn a_provider_that_hangs_runs_into_the_time_of_the_request() {
    for format in FORMATS {
        let stuck = Turn::HangMidStream { text: "some words, then silence".into(), after_events: 3 };
        for turn in [Turn::Hang, stuck] {
            let server = ModelServer::start(Script::in_order([turn]));
            let mut models = Models::with(format, url(&server, format));
            let serial = models.begin(request(), Millis(100)).await;
            let failure = models.finish(serial).await.0.expect_err("it hangs");
            assert_eq!(failure.kind, ModelFailureKind::Timeout, "{failure}");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let mut models = Models::with(WireFormat::OpenAi, format!("http://{free}/v1"));
    let failure = models.ask(request()).await.expect_err("nobody listens");
    assert_eq!(failure.kind, ModelFailureKind::Unavailable);
    assert!(failure.message.contains("test cannot be reached"), "{failure}");
}

#[tokio::test]
async fn a_provider_is_found_by_the_name_that_the_operator_configured() {
    let server = ModelServer::start(Script::dynamic(|_| Turn::say("found")));
    let (names, _questions) = name_server(|name| match name {
        "models.test." | "short.search." => vec![[127, 0, 0, 1].into()],
        _ => Vec::new(),
    });
    let port = server.address().port();
    let at = |host: &str| vec![provider(WireFormat::OpenAi, format!("http://{host}:{port}/v1"))];
    for name in ["models.test", "short"] {
        let mut models = Models::reaching(dialer(names, Vec::new()), at(name));
        assert_eq!(models.ask(request()).await.expect("a reply").text, "found", "{name}");
    }
    let mut models = Models::reaching(dialer(names, Vec::new()), at("other.test"));
    let failure = models.ask(request()).await.expect_err("no such name");
    assert_eq!(failure.kind, ModelFailureKind::Unavailable, "{failure}");
}

#[tokio::test]
async fn a_key_is_sent_only_over_tls_that_is_trusted() {
    let (address, own) = tls_server(&["127.0.0.1"]).await;
    let base = format!("https://{address}/v1");
    let trusting = |authorities| {
        let (names, _questions) = name_server(|_| Vec::new());
        Models::reaching(dialer(names, authorities), vec![provider(WireFormat::OpenAi, base.clone())])
    };
    // The control: a trusted server is spoken to (it gives no stream).
    let failure = trusting(vec![own]).ask(request()).await.expect_err("not a model");
    assert_ne!(failure.kind, ModelFailureKind::Rejected, "{failure}");
    let (_, other) = tls_server(&["127.0.0.1"]).await;
    let failure = trusting(vec![other]).ask(request()).await.expect_err("an unknown authority");
    assert_eq!(failure.kind, ModelFailureKind::Rejected, "{failure}");
    assert!(failure.message.contains("certificate"), "{failure}");
    let failure = trusting(Vec::new()).ask(request()).await.expect_err("no authorities");
    assert!(failure.message.contains("ca-certificates"), "{failure}");
}

#[tokio::test]
async fn a_cancelled_request_hangs_up_and_others_go_on() {
    let script = Script::new()
        .when_system("hang", [Turn::HangMidStream { text: "x".repeat(50), after_events: 2 }])
        .otherwise([Turn::say("fine")]);
    let server = ModelServer::start(script);
    let mut models = Models::with(WireFormat::OpenAi, server.openai_url());
    let stuck = models.begin(ModelRequest { system: "hang".into(), ..request() }, LONG).await;
    while !matches!(models.near.receive().await, ModelsReply::Delta { serial, .. } if serial == stuck) {}
    models.near.send(&ModelsRequest::Cancel { serial: stuck }).await;
    let server = tokio::task::spawn_blocking(move || {
        server.wait_for_hangups(1);
        server
    })
    .await
    .expect("the connection was closed");
    assert_eq!(models.ask(request()).await.expect("a reply").text, "fine");
    assert!(server.unscripted().is_empty());
}

#[tokio::test]
async fn requests_run_beside_each_other() {
    let gate = testkit::Gate::new();
    let script =
        Script::new().when_system("slow", [Turn::say("slow").behind(&gate)]).otherwise([Turn::say("quick")]);
    let server = ModelServer::start(script);
    let mut models = Models::with(WireFormat::Anthropic, server.anthropic_url());
    let slow = models.begin(ModelRequest { system: "slow".into(), ..request() }, LONG).await;
    assert_eq!(models.ask(request()).await.expect("a reply").text, "quick");
    gate.open();
    assert_eq!(models.finish(slow).await.0.expect("a reply").text, "slow");
}

#[tokio::test]
async fn a_provider_that_hangs_takes_no_places_from_another() {
    let places = 2 * aaos_core::limits::MOST_INFERENCE_SLOTS;
    let hanging = ModelServer::start(Script::dynamic(|_| Turn::Hang));
    let quick = ModelServer::start(Script::in_order([Turn::say("quick")]));
    let mut other = provider(WireFormat::OpenAi, quick.openai_url());
    (other.name, other.models) = (ProviderName::parse("other").expect("a name"), vec![model("well")]);
    let mut models = Models::start(vec![provider(WireFormat::OpenAi, hanging.openai_url()), other]);
    for _ in 0..places {
        models.begin(request(), LONG).await;
    }
    let full = models.ask(request()).await.expect_err("no place is left");
    assert_eq!(full.kind, ModelFailureKind::Unavailable);
    assert!(full.message.contains("provider test"), "{full}");
    let well = ModelRequest { model: model("well"), ..request() };
    assert_eq!(models.ask(well).await.expect("a reply").text, "quick");
    models.near.send(&ModelsRequest::Cancel { serial: RequestSerial(1) }).await;
    let server = tokio::task::spawn_blocking(move || hanging.wait_for_hangups(1));
    server.await.expect("the connection was closed");
}

#[tokio::test]
async fn unknown_models_and_broken_providers_are_named_and_keys_are_not() {
    let mut bad = provider(WireFormat::OpenAi, "ftp://x".into());
    bad.name = ProviderName::parse("bad").expect("a name");
    bad.models = vec![model("lost")];
    let mut models = Models::start(vec![provider(WireFormat::OpenAi, "http://127.0.0.1:1/v1".into()), bad]);
    let unknown = models.ask(ModelRequest { model: model("gpt-9"), ..request() }).await.expect_err("unknown");
    assert_eq!(unknown.kind, ModelFailureKind::UnknownModel);
    assert!(unknown.message.contains("smart") && unknown.message.contains("test/scripted"), "{unknown}");
    let broken = models.ask(ModelRequest { model: model("lost"), ..request() }).await.expect_err("broken");
    assert_eq!(broken.kind, ModelFailureKind::Rejected, "{broken}");
    models.near.send(&ModelsRequest::Describe { serial: RequestSerial(99) }).await;
    let ModelsReply::Described { serial: RequestSerial(99), providers } = models.near.receive().await else {
        panic!("not a description");
    };
    assert_eq!(providers[0].models, [model("scripted")]);
    assert_eq!(providers[0].aliases, [model("smart"), model("fast")]);
    assert!(providers[0].has_key && providers[0].problem.is_none() && providers[1].problem.is_some());
}

/// A server that reads one request and gives these bytes.
pub(crate) async fn raw(format: WireFormat, answer: String) -> Result<ModelReply, ModelFailure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the gateway connects");
        let mut request = [0; 65536];
        assert!(stream.read(&mut request).expect("a request") > 0);
        // The gateway may hang up before it has taken everything.
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let result = Models::with(format, format!("http://{address}")).ask(request()).await;
    server.join().expect("the server ends");
    result
}

pub(crate) fn stream(events: &[&str]) -> String {
    let mut answer =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_owned();
    for event in events {
        answer.push_str(&format!("data: {event}\n\n"));
    }
    answer
}

#[tokio::test]
async fn openai_streams_of_other_servers_are_understood() {
    let reply = raw(
        WireFormat::OpenAi,
        stream(&[
            r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":4294967295,"id":"a","function":{"name":"echo"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":4294967295,"function":{"arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"b","function":{"name":"echo","arguments":"1"}},
                {"index":0,"id":"c","function":{"name":"echo","arguments":{"x":1}}}]}}]}"#.replace('\n', "").as_str(),
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_cache_hit_tokens":5}}"#,
            "[DONE]",
        ]),
    )
    .await
    .expect("a reply");
    let calls: Vec<_> = reply.calls.iter().map(|one| (one.id.0.as_str(), one.arguments.0.as_str())).collect();
    assert_eq!(calls, [("a", "{}"), ("b", "1"), ("c", r#"{"x":1}"#)]);
    assert_eq!((reply.reasoning.as_deref(), reply.stop), (Some("hm"), ModelStop::ToolUse));
    assert_eq!((reply.usage.input_tokens, reply.usage.cached_input_tokens), (Tokens(9), Tokens(5)));
}

#[tokio::test]
async fn hostile_answers_are_failures_of_the_right_kind() {
    use ModelFailureKind::{EmptyReply, MalformedReply, RateLimited, Rejected, TooLong, Unavailable};
    let status = |line: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {line}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
    };
    let dates = "date: Wed, 21 Oct 2015 07:28:00 GMT\r\nretry-after: Wed, 21 Oct 2015 07:28:30 GMT\r\n";
    let echoed = format!("{{\"error\":{{\"message\":\"bad key {KEY} {}\"}}}}", "x".repeat(100_000));
    for (format, answer, kind, wait) in [
        (WireFormat::OpenAi, status("429 Too Many", dates, "slow"), RateLimited, Some(30_000)),
        (WireFormat::OpenAi, status("400 Bad", "", &echoed), Rejected, None),
        (WireFormat::OpenAi, status("302 Found", "location: http://127.0.0.1:1/\r\n", ""), Rejected, None),
        (
            WireFormat::OpenAi,
            status("200 OK", "content-type: application/json\r\n", "{}"),
            MalformedReply,
            None,
        ),
        (WireFormat::OpenAi, stream(&[r#"{"error":{"message":"x","code":429}}"#]), RateLimited, None),
        (WireFormat::OpenAi, stream(&[r#"{"choices":7}"#]), MalformedReply, None),
        (WireFormat::OpenAi, stream(&["[DONE]"]), EmptyReply, None),
        (
            WireFormat::OpenAi,
            stream(&[&format!("{{\"choices\":\"{KEY} {}\"}}", "x".repeat(9999))]),
            MalformedReply,
            None,
        ),
        (WireFormat::OpenAi, stream(&[&"x".repeat(2_000_000)]), TooLong, None),
        (WireFormat::OpenAi, "HTTP/1.1 200 OK\r\nno colon\r\n\r\n".into(), Unavailable, None),
        (WireFormat::OpenAi, String::new(), Unavailable, None),
        (
            WireFormat::Anthropic,
            stream(&[r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#]),
            Unavailable,
            None,
        ),
        (
            WireFormat::Anthropic,
            stream(&[
                r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{"}}"#,
            ]),
            MalformedReply,
            None,
        ),
    ] {
        let words: String = answer.chars().take(120).collect();
        let failure = raw(format, answer).await.expect_err("no reply");
        assert_eq!((failure.kind, failure.retry_after), (kind, wait.map(Millis)), "{words}: {failure}");
    }
}

#[tokio::test]
async fn anthropic_blocks_are_matched_by_index_and_unknown_ones_ignored() {
    let reply = raw(
        WireFormat::Anthropic,
        stream(&[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":5,"cache_read_input_tokens":90,"cache_creation_input_tokens":3,"output_tokens":1}}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"s"}}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"echo","input":{}}}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"server_thing"}}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":42}}"#,
            r#"{"type":"message_stop"}"#,
        ]),
    )
    .await
    .expect("a reply");
    let hm = Thought::Signed { text: "hm".into(), signature: "s".into() };
    assert_eq!(reply.thinking, [PlacedThought { after_text: 0, after_calls: 0, thought: hm }]);
    assert_eq!((reply.reasoning.as_deref(), reply.calls[0].arguments.0.as_str()), (None, "{}"));
    assert_eq!((reply.usage.input_tokens, reply.usage.cached_input_tokens), (Tokens(98), Tokens(90)));
    assert_eq!(reply.usage.output_tokens, Tokens(42));
}

#[tokio::test]
async fn a_bad_frame_ends_the_process() {
    let mut models = Models::start(Vec::new());
    models.near.send(&"nonsense").await;
    assert!(models.near.next::<ModelsReply>().await.is_none());
}
