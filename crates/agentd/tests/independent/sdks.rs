//! Requests that were captured are judged by the types of the providers' own SDKs, and by the order of their messages.

use crate::servers::judge;
use serde_json::{Value, json};
use testkit::{DaemonBuilder, Dialect, ModelServer, Script, SeenRequest, Turn};

/// A request as it was sent, and the wire format that it is of.
#[derive(Debug, Clone)]
pub(crate) struct Captured {
    wire: &'static str,
    body: Value,
}

impl Captured {
    /// The requests of a cassette: its first line, and the others.
    pub(crate) fn of_cassette(head: &Value, exchanges: &[Value]) -> Vec<Self> {
        let providers = head["providers"].as_array().expect("a list");
        let wire = |name: &Value| {
            let found = providers.iter().find(|one| one["name"] == *name).expect("it is in the head");
            match found["format"].as_str() {
                Some("open_ai") => "openai",
                Some("anthropic") => "anthropic",
                other => panic!("a wire format: {other:?}"),
            }
        };
        let of = |one: &Value| Self { wire: wire(&one["provider"]), body: one["request"].clone() };
        exchanges.iter().map(of).collect()
    }

    fn of_seen(seen: &SeenRequest) -> Self {
        let wire = match seen.dialect {
            Dialect::OpenAi => "openai",
            Dialect::Anthropic => "anthropic",
        };
        Self { wire, body: seen.body.clone() }
    }
}

fn verdicts(requests: &[Captured]) -> Vec<String> {
    let line = |one: &Captured| json!({ "wire": one.wire, "body": one.body }).to_string();
    judge(&requests.iter().map(line).collect::<Vec<_>>())
}

/// Every one of them could have come from the provider's own SDK.
pub(crate) fn assert_right(requests: &[Captured]) {
    assert!(!requests.is_empty(), "something was asked");
    for (request, verdict) in requests.iter().zip(verdicts(requests)) {
        assert_eq!(verdict, "", "{}", request.body);
    }
}

/// The goal of the root agent, and its child's task.
const GOAL: &str = "Do everything.";
const TASK: &str = "Say it.";
/// Messages to an agent that keeps its conversation: so many that it is shortened.
const DELIVERED: usize = 12;

/// What a model may do in one conversation: prose with two calls, arguments that are none, a tool that does not exist, a
/// call that fails, a child, silence, and thoughts.
fn turns(wire: Dialect) -> Vec<Turn> {
    let echo = |said: &str| ("echo".to_owned(), json!({ "message": said }));
    let child = "name: child\nmodel: fast\nsystem_prompt: You are the child.\n";
    let thoughts = [
        json!({ "type": "thinking", "thinking": "I must echo.", "signature": "c2lnbmVk" }),
        json!({ "type": "redacted_thinking", "data": "ZW5jcnlwdGVk" }),
    ];
    let thinks = Turn::call("echo", json!({ "message": "thought of" }));
    vec![
        Turn::SayAndCall { text: "Both at once.".into(), calls: vec![echo("one"), echo("two")] },
        Turn::RawCall { tool: "echo".into(), arguments: "{\"message\": \"cut".into() },
        Turn::call("launch missiles!", json!({})),
        Turn::call("file_read", json!({ "path": "/no/such/file" })),
        Turn::call("spawn_agent", json!({ "manifest": child, "message": TASK, "prior_findings": "none" })),
        Turn::say(""),
        // Only Anthropic has its blocks back, and only OpenAI itself gets no reasoning: its types know no field for it.
        if wire == Dialect::Anthropic { thinks.thinking(thoughts) } else { thinks },
        Turn::say("Everything is done."),
    ]
}

/// Everything that is asked when a goal does all that and a persistent agent talks until it is shortened.
fn captured(wire: Dialect) -> Vec<Captured> {
    let script = Script::new()
        .when(|seen| seen.first_user_text().contains(GOAL), turns(wire))
        .when(|seen| seen.first_user_text().contains(TASK), [Turn::say("It is said.")])
        .or_choose(|_| Some(Turn::say("Noted, with all that belongs to it. ".repeat(40))));
    let models = ModelServer::start(script);
    let daemon = match wire {
        Dialect::OpenAi => DaemonBuilder::openai(&models),
        Dialect::Anthropic => DaemonBuilder::anthropic(&models),
    };
    let daemon = daemon.start();
    let ran = daemon.cli(["run", "--json", "--quiet", GOAL]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    let mut client = daemon.client();
    let manifest = "name: keeper\nmodel: smart\nsystem_prompt: You keep.\nlifecycle: persistent\nmemory:\n  \
                    context_window: 4096\n";
    let agent =
        client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawned")["agent_id"].clone();
    for number in 0..DELIVERED {
        let message = format!("Number {number}.");
        let told =
            client.call("agent.run", json!({ "agent_id": agent, "message": message })).expect("delivered");
        let report = json!({ "trace_id": told["trace_id"], "wait_seconds": 60 });
        assert_eq!(client.call("agent.result", report).expect("a report")["status"], "done");
    }
    assert_eq!(models.unscripted(), Vec::<String>::new());
    let shortened = client
        .call("audit.query", json!({ "kinds": ["context_summarized", "context_summarization_failed"] }))
        .expect("entries");
    assert_eq!(shortened["entries"][0]["event"]["kind"], "context_summarized", "{shortened}");
    models.requests().iter().map(Captured::of_seen).collect()
}

/// The longest conversation of the root agent.
fn longest(requests: &[Captured]) -> &Captured {
    let of_lead = |one: &&Captured| one.body.to_string().contains(GOAL);
    requests.iter().rfind(of_lead).expect("it asked")
}

/// A way to break a request, and what the judge says of it then.
type Break = (&'static str, fn(&mut Value));

/// Each of these must be refused, else the judge sees nothing.
fn assert_refused(good: &Captured, breaks: &[Break]) {
    let broken = |(_, broken): &Break| {
        let mut body = good.body.clone();
        broken(&mut body);
        assert_ne!(body, good.body, "it was broken");
        Captured { wire: good.wire, body }
    };
    let broken: Vec<Captured> = breaks.iter().map(broken).collect();
    for ((why, _), verdict) in breaks.iter().zip(verdicts(&broken)) {
        assert!(verdict.contains(why), "{}: {why}: {verdict:?}", good.wire);
    }
}

/// The messages of a role.
fn of_role<'b>(body: &'b mut Value, role: &str) -> Vec<&'b mut Value> {
    let messages = body["messages"].as_array_mut().expect("a list");
    messages.iter_mut().filter(|message| message["role"] == role).collect()
}

/// Takes the first message of a role away.
fn without(body: &mut Value, role: &str) -> Value {
    let messages = body["messages"].as_array_mut().expect("a list");
    let at = messages.iter().position(|message| message["role"] == role).expect("there is one");
    messages.remove(at)
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().expect("a list").push(value);
}

#[test]
fn requests_are_of_openais_own_types_and_in_order() {
    let requests = captured(Dialect::OpenAi);
    assert_right(&requests);
    assert_refused(
        longest(&requests),
        &[
            ("a call without its result", |body| drop(without(body, "tool"))),
            ("a call without its result", |body| {
                let result = without(body, "tool");
                push(&mut body["messages"], result);
            }),
            ("a result without its call", |body| of_role(body, "tool")[0]["tool_call_id"] = json!("another")),
            ("two messages of the user in a row", |body| {
                let asked = of_role(body, "user")[0].clone();
                body["messages"].as_array_mut().expect("a list").insert(1, asked);
            }),
            ("does not begin with the user", |body| drop(without(body, "user"))),
            ("the last message is the model's", |body| {
                push(&mut body["messages"], json!({ "role": "assistant", "content": "x" }));
            }),
            ("a system message that is not the first", |body| {
                let system = without(body, "system");
                push(&mut body["messages"], system);
            }),
            ("arguments that are no object", |body| {
                of_role(body, "assistant")[0]["tool_calls"][0]["function"]["arguments"] = json!("[]");
            }),
            ("Input should be", |body| of_role(body, "system")[0]["role"] = json!("sytem")),
            ("Input should be", |body| of_role(body, "user")[0]["content"] = json!(7)),
            ("Input should be", |body| {
                of_role(body, "assistant")[0]["tool_calls"][0]["function"]["arguments"] = json!({});
            }),
            ("Extra inputs", |body| of_role(body, "assistant")[0]["reasoning_content"] = json!("hm")),
            ("Extra inputs", |body| body["top_k"] = json!(3)),
            ("Field required", |body| drop(body.as_object_mut().expect("an object").remove("model"))),
            ("Field required", |body| {
                drop(body["tools"][0]["function"].as_object_mut().expect("an object").remove("name"));
            }),
        ],
    );
}

#[test]
fn requests_are_of_anthropics_own_types_and_in_order() {
    let requests = captured(Dialect::Anthropic);
    assert_right(&requests);
    let good = longest(&requests);
    assert!(good.body.to_string().contains("redacted_thinking"), "thoughts go back: {}", good.body);
    assert_refused(
        good,
        &[
            ("do not pair", |body| {
                drop(of_role(body, "user")[1]["content"].as_array_mut().expect("blocks").remove(0))
            }),
            ("do not pair", |body| of_role(body, "user")[1]["content"][0]["tool_use_id"] = json!("another")),
            ("do not pair", |body| {
                let ends = json!({ "role": "assistant", "content": "x" });
                push(&mut body["messages"], ends);
                let late = of_role(body, "user")[1].clone();
                push(&mut body["messages"], late);
            }),
            ("a result behind something else", |body| {
                let mut said = of_role(body, "user");
                let content = said[1]["content"].as_array_mut().expect("blocks");
                content.insert(0, json!({ "type": "text", "text": "before" }));
            }),
            ("two messages of one role", |body| {
                let asked = of_role(body, "user")[0].clone();
                body["messages"].as_array_mut().expect("a list").insert(0, asked);
            }),
            ("does not begin with the user", |body| drop(without(body, "user"))),
            ("the last message is the model's", |body| {
                push(&mut body["messages"], json!({ "role": "assistant", "content": "x" }));
            }),
            ("visible character", |body| {
                of_role(body, "user")[0]["content"] = json!([{ "type": "text", "text": " " }])
            }),
            ("marks for the cache", |body| {
                for message in of_role(body, "user") {
                    message["content"][0]["cache_control"] = json!({ "type": "ephemeral" });
                }
            }),
            ("Input should be", |body| of_role(body, "user")[0]["role"] = json!("human")),
            ("Input should be", |body| {
                of_role(body, "user")[0]["content"] = json!([{ "type": "text", "text": 7 }])
            }),
            ("Extra inputs", |body| of_role(body, "user")[0]["content"][0]["reason"] = json!("why")),
            ("Extra inputs", |body| body["stream_options"] = json!({})),
            ("Field required", |body| drop(body.as_object_mut().expect("an object").remove("max_tokens"))),
        ],
    );
}
