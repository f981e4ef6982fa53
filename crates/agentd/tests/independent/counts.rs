//! How many tokens a request is thought to take, beside what llama.cpp's tokenizer says that it takes.
//!
//! Each request goes to llama.cpp too, which reads it and writes one token; what it reports is what the scripted model
//! reports. So small a model would not end its own replies in time.

use crate::servers::Server;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use testkit::{DaemonBuilder, Dialect, ModelServer, ReportedUsage, Script, SeenRequest, Turn};

/// Most that an estimate may be off, in thousandths of what was reported.
const MOST_OFF: u64 = 100;
/// What the agent is told, one after the other: text of many kinds, each of which is estimated by what others took.
const KINDS: [(&str, &str); 7] = [
    (
        "prose",
        "The ferry leaves the northern pier at half past six, and on market days a second one follows it. ",
    ),
    ("Rust", "fn area(sides: &[(u32, u32)]) -> u64 { sides.iter().map(|(a, b)| u64::from(a * b)).sum() }\n"),
    ("JSON", r#"{"id": 4711, "name": "oak", "tags": ["tree", "wood"], "height_m": 23.5, "felled": null}, "#),
    (
        "German",
        "Die Fähre verlässt den nördlichen Anleger um halb sieben, an Markttagen folgt ihr eine zweite. ",
    ),
    ("numbers", "1843 2.71828 0x7f3a 192.168.17.4 2026-11-23T19:48:20Z 99.7 % 1,204,113 -40 6.022e23 "),
    ("table", "| north | 17 | 3.5 | yes |\n| south | 4 | 12.25 | no |\n|-------|----|-------|-----|\n"),
    (
        "again prose",
        "Whoever lives above the harbour hears its horn first, long before the lamp can be seen. ",
    ),
];
/// Characters of each.
const CHARS: usize = 1500;
const MANIFEST: &str = "name: reader\nmodel: smart\nsystem_prompt: Answer with one word.\n\
    lifecycle: persistent\nmemory:\n  context_window: 16384\ncapabilities:\n  - \"tool: echo\"\n";

/// What llama.cpp says that a request takes.
fn count(llama: &Server, seen: &SeenRequest) -> u64 {
    let mut body = seen.body.clone();
    body["stream"] = json!(false);
    body["max_tokens"] = json!(1);
    body.as_object_mut().expect("an object").remove("stream_options");
    let (path, names): (_, &[&str]) = match seen.dialect {
        Dialect::OpenAi => ("/v1/chat/completions", &["prompt_tokens"]),
        Dialect::Anthropic => ("/v1/messages", &["input_tokens", "cache_read_input_tokens"]),
    };
    let text = post(llama.authority(), path, &body.to_string());
    let reply: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let counts: Vec<u64> = names.iter().filter_map(|name| reply["usage"][*name].as_u64()).collect();
    assert!(!counts.is_empty(), "it reports what it read: {reply}");
    counts.iter().sum()
}

/// The body of the answer to a request.
fn post(authority: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(authority).expect("it listens");
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    body.to_owned()
}

/// A request: what it was thought to take, and what it took.
#[derive(Debug)]
struct Counted {
    estimate: u64,
    reported: u64,
}

impl Counted {
    /// In thousandths of what was reported.
    fn off(&self) -> u64 {
        self.estimate.abs_diff(self.reported) * 1000 / self.reported
    }
}

/// Tells an agent all kinds of text, and gives its requests.
fn talk(wire: Dialect) -> Vec<Counted> {
    let llama = Server::llama();
    let models = ModelServer::start(Script::dynamic(move |seen| {
        let input = count(&llama, seen);
        Turn::say("done").metered(ReportedUsage { input, cached: 0, output: 1 })
    }));
    let daemon = match wire {
        Dialect::OpenAi => DaemonBuilder::openai(&models),
        Dialect::Anthropic => DaemonBuilder::anthropic(&models),
    };
    let daemon = daemon.start();
    let mut client = daemon.client();
    let agent =
        client.call("agent.spawn", json!({ "manifest": MANIFEST })).expect("spawns")["agent_id"].take();
    for (_, text) in KINDS {
        let text: String = text.chars().cycle().take(CHARS).collect();
        let told = json!({ "agent_id": agent, "message": format!("Read this.\n{text}") });
        let trace = client.call("agent.run", told).expect("delivered")["trace_id"].take();
        let told =
            client.call("agent.result", json!({ "trace_id": trace, "wait_seconds": 50 })).expect("a report");
        assert_eq!(told["status"], "done", "{told}; {}", daemon.stderr());
    }
    let audit = daemon.cli(["audit", "--json"]);
    let entries: Vec<Value> =
        audit.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let events = |kind: &str| -> Vec<&Value> {
        entries.iter().map(|entry| &entry["event"]).filter(|event| event["kind"] == kind).collect()
    };
    let (asked, replied) = (events("inference_requested"), events("inference_completed"));
    assert_eq!((asked.len(), replied.len()), (KINDS.len(), KINDS.len()), "one request for each message");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("a number, not {value}"));
    let counted = |(asked, replied): (&&Value, &&Value)| {
        assert_eq!(asked["call"], replied["call"]);
        let reported = number(&replied["result"]["Ok"]["usage"]["input_tokens"]);
        Counted { estimate: number(&asked["estimate"]), reported }
    };
    asked.iter().zip(&replied).map(counted).collect()
}

/// Prints what each was thought to take; fails where one that follows a report is off by too much.
fn assert_close(model: &str, counted: &[Counted]) {
    let mut lines = format!("{model}: tokens estimated, tokens reported, off by\n");
    for ((kind, _), one) in KINDS.iter().zip(counted) {
        let (whole, tenth) = (one.off() / 10, one.off() % 10);
        writeln!(lines, "{kind:>12} {:>6} {:>6} {whole:>3}.{tenth} %", one.estimate, one.reported)
            .expect("a text");
    }
    std::io::stdout().write_all(lines.as_bytes()).expect("it takes them");
    // Before a first report nothing is known but that a token has some bytes.
    assert!(counted[1..].iter().all(|one| one.off() <= MOST_OFF), "{lines}");
    // The control: the texts differ so much that the first one's bytes a token would be wrong by more for some of them.
    let took = counted.windows(2).map(|two| two[1].reported - two[0].reported);
    let (most, least) = (took.clone().max().expect("some"), took.min().expect("some"));
    assert!(most * 10 > least * 15, "as many characters took {least} to {most} tokens");
}

#[test]
fn what_requests_are_thought_to_take_is_close_to_llama_cpps_count_over_the_openai_wire() {
    assert_close("SmolLM2, chat completions", &talk(Dialect::OpenAi));
}

#[test]
fn what_requests_are_thought_to_take_is_close_to_llama_cpps_count_over_the_anthropic_wire() {
    assert_close("SmolLM2, messages", &talk(Dialect::Anthropic));
}
