//! Goals against llama.cpp with a small model: what it streams is read, what it reports is charged, and it takes a
//! conversation with a call and its result.

use crate::sdks::assert_right;
use crate::servers::Server;
use crate::support::{asking, lead, run};
use serde_json::{Value, json};
use testkit::{Backend, DaemonBuilder, Dialect};

/// What the likeliest answer of the model holds.
const ASKED: &str = "What is the capital of France?";
const ANSWER: &str = "Paris";

/// The data of the stream that an exchange recorded, event by event.
fn events(exchange: &Value) -> Vec<Value> {
    let body = exchange["answer"]["answer"]["body"]["text"].as_str().expect("text");
    let data = body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).expect("an event")).collect()
}

/// The last number that the stream has under this name.
fn number(events: &[Value], name: &str) -> u64 {
    let usages = events.iter().flat_map(|event| [&event["usage"], &event["message"]["usage"]]);
    usages.filter_map(|usage| usage[name].as_u64()).next_back().unwrap_or(0)
}

fn assert_answers(wire: Dialect) {
    let server = Server::llama();
    let ran = run(&asking(wire, &server), &lead("Answer in one sentence."), ASKED);
    assert_eq!((&ran.told["state"], &ran.told["exit_code"]), (&json!("done"), &json!(0)), "{}", ran.told);
    assert!(ran.told["response"].as_str().is_some_and(|said| said.contains(ANSWER)), "{}", ran.told);
    let events = events(&ran.exchanges[0]);
    assert!(events.len() > 5, "it was streamed: {events:?}");
    let (input, cached, output) = match wire {
        Dialect::OpenAi => (number(&events, "prompt_tokens"), 0, number(&events, "completion_tokens")),
        Dialect::Anthropic => (
            number(&events, "input_tokens"),
            number(&events, "cache_read_input_tokens"),
            number(&events, "output_tokens"),
        ),
    };
    assert!(input > 0 && output > 0, "it reports what it used: {events:?}");
    let usage = &ran.told["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(input + cached), &json!(output)));
    assert_right(&ran.requests);
}

#[test]
fn llama_cpp_answers_over_the_openai_wire() {
    assert_answers(Dialect::OpenAi);
}

#[test]
fn llama_cpp_answers_over_the_anthropic_wire() {
    assert_answers(Dialect::Anthropic);
}

/// Two providers: aimock calls a tool and rejects what comes next, so that llama.cpp is asked to go on from the result.
fn handed_over(wire: Dialect) {
    let call = json!({ "toolCalls": [{ "name": "echo", "arguments": { "message": ANSWER } }] });
    let rejected = json!({ "status": 400, "error": { "message": "as the test wants it" } });
    let mock = Server::aimock(&json!({ "fixtures": [
        { "match": { "userMessage": ASKED, "hasToolResult": false }, "response": call },
        { "match": { "userMessage": ASKED, "hasToolResult": true }, "response": rejected },
    ] }));
    let llama = Server::llama();
    let (format, url) = match wire {
        Dialect::OpenAi => ("openai", llama.openai_url()),
        Dialect::Anthropic => ("anthropic", llama.anthropic_url()),
    };
    let aaos = DaemonBuilder::new(Backend::Builtin);
    let directory = aaos.home().join("config/aaos");
    std::fs::create_dir_all(&directory).expect("makes directories");
    let config = format!(
        "[[providers]]\nname = \"mock\"\nformat = \"openai\"\nbase_url = \"{}\"\nmodels = [\"one\"]\n\n\
         [[providers]]\nname = \"llama\"\nformat = \"{format}\"\nbase_url = \"{url}\"\nmodels = [\"small\"]\n\n\
         [aliases]\nworker = [\"mock/one\", \"llama/small\"]\n",
        mock.openai_url()
    );
    std::fs::write(directory.join("config.toml"), config).expect("writes");
    let lead = lead("Answer in one sentence.").replace("model: smart", "model: worker");
    // So small a model may go round in circles: a reply has a share of the window, and may be cut there.
    let ran = run(&aaos, &format!("{lead}memory:\n  context_window: 1024\n"), ASKED);
    let retried = ran.of_kind("inference_retried");
    assert_eq!(retried.len(), 1, "{}", ran.told);
    assert_eq!(retried[0]["instead"], "llama/small", "{retried:?}");
    let last = ran.exchanges.last().expect("three");
    assert_eq!(
        (&last["provider"], &last["answer"]["answer"]["status"]),
        (&json!("llama"), &json!(200)),
        "{last}"
    );
    let sent = last["request"]["messages"].to_string();
    assert!(sent.contains("echo") && sent.contains("BEGIN TOOL RESULT"), "{sent}");
    let completed = ran.of_kind("inference_completed");
    let reply = &completed.last().expect("a reply")["result"]["Ok"];
    assert!(reply["usage"]["input_tokens"].as_u64() > Some(0), "{completed:?}");
    assert_right(&ran.requests);
}

#[test]
fn llama_cpp_goes_on_from_a_call_and_its_result_over_the_openai_wire() {
    handed_over(Dialect::OpenAi);
}

#[test]
fn llama_cpp_goes_on_from_a_call_and_its_result_over_the_anthropic_wire() {
    handed_over(Dialect::Anthropic);
}
