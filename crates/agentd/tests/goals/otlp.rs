//! Spans of model calls, as a collector gets them from the real daemon.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::{LEAD_MARK, Work, entries, kill_the_gateway, run, wait_for_stderr};
use serde_json::{Value, json};
use testkit::{
    Daemon, DaemonBuilder, ModelServer, PATIENCE, Page, ReportedUsage, SCRIPTED_MODEL, Script, SeenFetch,
    Turn, WebServer, scratch,
};

const TRACES: &str = "/v1/traces";
const SECRET: &str = "Bearer otlp-s3cret-0123456789";

fn taking() -> WebServer {
    WebServer::start([(TRACES, Page::Text("{}".into()))])
}

fn configured(models: &ModelServer, config: &str) -> DaemonBuilder {
    let builder = DaemonBuilder::openai(models);
    let directory = builder.home().join("config/aaos");
    std::fs::create_dir_all(&directory).expect("makes directories");
    std::fs::write(directory.join("config.toml"), config).expect("writes");
    builder
}

fn otlp(collector: &WebServer, more: &str) -> String {
    format!("[otlp]\nendpoint = \"{}\"\n{more}", collector.url(""))
}

/// A first request that is turned away, then a call, then an answer.
fn scripted() -> ModelServer {
    let usage = |input, cached, output| ReportedUsage { input, cached, output };
    let call = Turn::call("echo", json!({ "message": "echoed words" })).metered(usage(300, 0, 50));
    let say = Turn::say("the final words").metered(usage(500, 200, 150));
    ModelServer::start(Script::new().when_system(LEAD_MARK, [Turn::retry_after(429, 0), call, say]))
}

fn answering(turns: usize) -> ModelServer {
    ModelServer::start(Script::new().when_system(LEAD_MARK, vec![Turn::say("answered"); turns]))
}

fn spans_in(requests: &[SeenFetch]) -> Vec<Value> {
    let bodies = requests.iter().map(|seen| serde_json::from_slice::<Value>(&seen.body).expect("JSON"));
    let of =
        |body: Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
    bodies.flat_map(of).collect()
}

/// At least `count` spans, once they have come.
fn spans(collector: &WebServer, count: usize) -> Vec<Value> {
    let mut requests = 1;
    loop {
        let found = spans_in(&collector.wait_for_requests(requests));
        if found.len() >= count {
            return found;
        }
        requests = collector.requests().len() + 1;
    }
}

/// An attribute's value, whatever its type.
fn of(span: &Value, key: &str) -> Value {
    let attributes = span["attributes"].as_array().expect("attributes");
    let found = attributes.iter().find(|one| one["key"] == key).map(|one| &one["value"]);
    let value = found.and_then(|value| value.as_object()).and_then(|value| value.values().next());
    value.cloned().unwrap_or_default()
}

fn figures(daemon: &Daemon) -> Value {
    daemon.client().call("runtime.status", json!({})).expect("a status")["spans"].clone()
}

/// The figures once nothing waits any more.
fn settled(daemon: &Daemon, count: u64) -> Value {
    let began = std::time::Instant::now();
    loop {
        let told = figures(daemon);
        let of = |key: &str| told[key].as_u64().expect("a number");
        if of("sent") + of("failed") + of("dropped") >= count {
            return told;
        }
        assert!(began.elapsed() < PATIENCE, "{told}");
    }
}

fn hex(value: &Value, digits: usize) -> String {
    let text = value.as_str().expect("text").to_owned();
    let is_hex = text.bytes().all(|one| one.is_ascii_digit() || (b'a'..=b'f').contains(&one));
    assert!(text.len() == digits && is_hex && text.bytes().any(|one| one != b'0'), "{text}");
    text
}

fn nanos(value: &Value) -> u64 {
    value.as_str().expect("a text, as 64-bit numbers are").parse().expect("a number")
}

#[test]
fn the_spans_of_a_goal_arrive_together_and_say_what_the_model_reported() {
    let (collector, models, work) = (taking(), scripted(), Work::new(scratch()));
    let daemon = configured(&models, &otlp(&collector, "[metrics]\nlisten = \"127.0.0.1:0\"\n")).start();
    let ran = run(&mut daemon.client(), work.goal(&[]));
    ran.assert_ended("done", 0);
    let spans = spans(&collector, 2);
    let [first, second] = spans.as_slice() else { panic!("one for each call: {spans:?}") };
    let trace = hex(&first["traceId"], 32);
    let goal = ran.goal["goal_id"].as_str().expect("an id").replace('-', "");
    assert_eq!((&trace, &hex(&second["traceId"], 32)), (&goal, &goal), "the goal's");
    assert_ne!(hex(&first["spanId"], 16), hex(&second["spanId"], 16));
    let times = [
        &first["startTimeUnixNano"],
        &first["endTimeUnixNano"],
        &second["startTimeUnixNano"],
        &second["endTimeUnixNano"],
    ]
    .map(nanos);
    assert!(times.is_sorted() && times[0] > 1_600_000_000_000_000_000, "{times:?}");
    for (span, tokens, reason) in
        [(first, ["300", "50", "0"], "tool_call"), (second, ["500", "150", "200"], "stop")]
    {
        assert_eq!((&span["kind"], &span["status"]), (&json!(3), &Value::Null));
        let told = ["input_tokens", "output_tokens", "cache_read.input_tokens"]
            .map(|key| of(span, &format!("gen_ai.usage.{key}")));
        assert_eq!(told, tokens.map(|count| json!(count)), "{span}");
        assert_eq!(of(span, "gen_ai.response.finish_reasons")["values"][0]["stringValue"], reason, "{span}");
        assert_eq!(of(span, "gen_ai.operation.name"), "chat");
        assert_eq!(of(span, "gen_ai.provider.name"), "openai");
        assert_eq!(of(span, "gen_ai.response.model"), SCRIPTED_MODEL);
        assert_eq!(of(span, "server.port"), models.address().port().to_string());
        assert_eq!(
            span["name"],
            format!("chat {}", of(span, "gen_ai.request.model").as_str().expect("text"))
        );
        assert!(of(span, "gen_ai.response.time_to_first_chunk").as_f64().expect("seconds") > 0.0, "{span}");
    }
    assert_eq!(first["events"][0]["name"], "aaos.retry", "{first}");
    assert!(
        first["events"].to_string().contains("rate_limited") && second["events"] == json!([]),
        "{spans:?}"
    );
    let requests = collector.requests();
    assert!(requests.iter().all(|seen| seen.header("content-type") == Some("application/json")));
    let bytes: Vec<u8> = requests.iter().flat_map(|seen| seen.body.clone()).collect();
    let posted = String::from_utf8(bytes).expect("text");
    for hidden in ["do it", "final words", "echoed words", "lead", LEAD_MARK, DaemonBuilder::key()] {
        assert!(!posted.contains(hidden), "{hidden} in {posted}");
    }
    let told = settled(&daemon, 2);
    assert_eq!((&told["sent"], &told["failed"], &told["problem"]), (&json!(2), &json!(0), &Value::Null));
    let status = daemon.cli(["status"]).stdout;
    assert!(status.contains("2 sent, 0 waiting, 0 failed, 0 dropped"), "{status}");
    let metrics = crate::observe::read_metrics(&daemon);
    assert!(metrics.contains("aaos_spans_total{outcome=\"sent\"} 2\n"), "{metrics}");
}

#[test]
fn what_was_said_is_told_only_where_it_is_asked_for() {
    let (collector, models, work) = (taking(), scripted(), Work::new(scratch()));
    let daemon = configured(&models, &otlp(&collector, "content = true\n")).start();
    run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
    let spans = spans(&collector, 2);
    let text = |at: usize, key: &str| of(&spans[at], key).as_str().expect("text").to_owned();
    assert!(text(0, "gen_ai.system_instructions").contains(LEAD_MARK));
    let input: Value = serde_json::from_str(&text(1, "gen_ai.input.messages")).expect("JSON");
    let roles: Vec<&str> =
        input.as_array().expect("a list").iter().map(|one| one["role"].as_str().expect("a role")).collect();
    assert_eq!(roles, ["user", "assistant", "tool"], "{input}");
    assert!(input.to_string().contains("do it") && input.to_string().contains("echoed words"), "{input}");
    let output: Value = serde_json::from_str(&text(1, "gen_ai.output.messages")).expect("JSON");
    let part = json!({ "type": "text", "content": "the final words" });
    assert_eq!(output, json!([{ "role": "assistant", "parts": [part], "finish_reason": "stop" }]));
}

#[test]
fn nothing_is_posted_unless_it_is_configured_and_what_waits_goes_out_at_the_end() {
    let (collector, models) = (taking(), answering(2));
    for (config, posted) in [(String::new(), 0), (otlp(&collector, ""), 1)] {
        let (daemon, work) = (configured(&models, &config).start(), Work::new(scratch()));
        run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
        assert_eq!(figures(&daemon).is_null(), posted == 0);
        // Sooner than spans are gathered.
        assert!(daemon.terminate().0.success());
        assert_eq!(spans_in(&collector.requests()).len(), posted, "{config}");
    }
}

#[test]
fn a_call_that_failed_is_an_error_of_its_kind() {
    let (collector, work) = (taking(), Work::new(scratch()));
    let models = ModelServer::start(Script::new().when_system(LEAD_MARK, [Turn::status(401)]));
    let daemon = configured(&models, &otlp(&collector, "")).start();
    run(&mut daemon.client(), work.goal(&[])).assert_ended("failed", 5);
    let spans = spans(&collector, 1);
    assert_eq!(spans[0]["status"], json!({ "code": 2 }));
    assert_eq!(of(&spans[0], "error.type"), "unauthorized");
    assert!(of(&spans[0], "gen_ai.usage.input_tokens").is_null(), "{spans:?}");
}

fn headers(work: &Work, text: &str, mode: u32) -> PathBuf {
    let path = work.put("headers", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("sets the mode");
    path
}

#[test]
fn a_header_of_the_file_arrives_and_stands_nowhere_else() {
    let (collector, models, work) = (taking(), answering(1), Work::new(scratch()));
    let file = headers(&work, &format!("Authorization: {SECRET}\nx-scope: team\n"), 0o600);
    let daemon = configured(&models, &otlp(&collector, &format!("headers_file = {file:?}\n"))).start();
    let ran = run(&mut daemon.client(), work.goal(&[]));
    ran.assert_ended("done", 0);
    spans(&collector, 1);
    let seen = &collector.requests()[0];
    assert_eq!((seen.header("authorization"), seen.header("x-scope")), (Some(SECRET), Some("team")));
    settled(&daemon, 1);
    let journal = json!(entries(&mut daemon.client(), json!({}))).to_string();
    assert!(journal.contains("answered"), "the control");
    for text in [journal, daemon.stderr(), daemon.stdout(), daemon.cli(["status", "--json"]).stdout] {
        assert!(!text.contains("otlp-s3cret"), "{text}");
    }
    let own = i32::try_from(daemon.pid()).expect("a process number");
    for pid in daemon.processes().iter().map(|process| process.pid).chain([own]) {
        // A far process lets nobody look.
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environ = String::from_utf8_lossy(&environ).into_owned();
        assert!(pid != own || environ.contains("AAOS_STATE_DIR"), "the control");
        assert!(!environ.contains("otlp-s3cret"));
    }
    let mut goal = work.goal(&[]);
    goal["grants"] = json!([format!("file_read: {}", file.display())]);
    assert_ne!(run(&mut daemon.client(), goal).exit_code(), 0, "no grant reaches it");
}

#[test]
fn what_is_wrong_with_a_header_is_told_at_the_start_without_its_words() {
    let (collector, models, work) = (taking(), answering(1), Work::new(scratch()));
    let file = headers(&work, "Authorization: otlp-s3cret\rX-Other: otlp-s3cret\n", 0o600);
    let daemon = configured(&models, &otlp(&collector, &format!("headers_file = {file:?}\n"))).start();
    wait_for_stderr(&daemon, "line 1 of the headers file of [otlp] holds characters that no header may hold");
    let status = daemon.cli(["status"]).stdout;
    assert!(status.contains("0 sent") && status.contains("line 1 of the headers file"), "{status}");
    run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
    assert_eq!(settled(&daemon, 1)["failed"], 1);
    assert!(collector.requests().is_empty(), "nothing goes out without it");
    assert!(!daemon.stderr().contains("s3cret") && !status.contains("s3cret"));
}

#[test]
fn a_bad_configuration_is_refused_with_what_to_do() {
    let (models, work) = (answering(0), Work::new(scratch()));
    let open = headers(&work, "a: b", 0o644);
    let absent = work.path("absent");
    let with = |line: &str| format!("[otlp]\nendpoint = \"http://127.0.0.1:1\"\n{line}\n");
    for (config, said) in [
        (with("header = 1"), "unknown field `header`"),
        ("[otlp]\nendpoint = \"127.0.0.1:4318\"\n".to_owned(), "as in http://127.0.0.1:4318"),
        (with(&format!("headers_file = {open:?}")), "chmod 600"),
        (with(&format!("headers_file = {absent:?}")), "`headers_file` of [otlp]"),
        (with("headers_file = \"headers\""), "a leading /"),
    ] {
        let refused = configured(&models, &config).cli(["serve"]);
        assert_ne!(refused.code(), 0, "{refused:?}");
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
    }
}

#[test]
fn a_bad_collector_costs_spans_and_no_goal() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound");
    let bad = |page: Page| WebServer::start([(TRACES, page), ("/elsewhere", Page::Text("{}".into()))]);
    let failing = Page::Bytes { status: 500, content_type: "text/plain".into(), body: b"otlp-echo".to_vec() };
    for (collector, said) in [
        (Some(bad(Page::Hang)), "did not answer within 5 s"),
        (Some(bad(Page::HangMidBody("{".into()))), "did not answer within 5 s"),
        (Some(bad(failing)), "answered 500"),
        (Some(bad(Page::Redirect { status: 307, to: "/elsewhere".into() })), "redirects are not followed"),
        (None, "cannot be reached"),
    ] {
        let (models, work) = (answering(1), Work::new(scratch()));
        let config = match &collector {
            Some(collector) => otlp(collector, ""),
            None => format!("[otlp]\nendpoint = \"http://{nobody}\"\n"),
        };
        let daemon = configured(&models, &config).start();
        run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
        if said.contains("did not answer") {
            let before = figures(&daemon);
            assert_eq!(
                (&before["waiting"], &before["failed"]),
                (&json!(1), &json!(0)),
                "it was not waited for"
            );
        }
        let told = settled(&daemon, 1);
        assert_eq!((&told["failed"], &told["sent"]), (&json!(1), &json!(0)), "{said}: {told}");
        assert!(told["problem"].as_str().expect("a reason").contains(said), "{told}");
        assert!(!daemon.stderr().contains("otlp-echo"), "no word of a collector is shown");
        if let Some(collector) = collector {
            let targets: BTreeSet<String> =
                collector.requests().into_iter().map(|seen| seen.target).collect();
            assert_eq!(targets, BTreeSet::from([TRACES.to_owned()]));
        }
    }
}

#[test]
fn a_collector_that_never_stops_answering_is_left() {
    let collector = WebServer::start([(TRACES, Page::Huge { total: 1 << 40 })]);
    let (models, work) = (answering(1), Work::new(scratch()));
    let daemon = configured(&models, &otlp(&collector, "")).start();
    run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
    assert_eq!(settled(&daemon, 1)["sent"], 1, "its status says so");
    collector.wait_for_hangups(1);
}

#[test]
fn spans_go_on_after_the_gateway_died() {
    let (collector, models, work) = (taking(), answering(2), Work::new(scratch()));
    let file = headers(&work, &format!("Authorization: {SECRET}\n"), 0o600);
    let daemon = configured(&models, &otlp(&collector, &format!("headers_file = {file:?}\n")))
        .env("OPENAI_API_KEY", "")
        .start();
    run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
    spans(&collector, 1);
    settled(&daemon, 1);
    kill_the_gateway(&daemon);
    run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
    let spans = spans(&collector, 2);
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"], "each goal has its own");
    assert!(collector.requests().iter().all(|seen| seen.header("authorization") == Some(SECRET)));
    assert_eq!(settled(&daemon, 2)["sent"], 2, "what was counted is still there");
}

#[test]
fn a_collector_that_is_busy_is_asked_again_when_it_said_and_not_before() {
    for (status, retry_after, requests) in [(503, 0, 4), (429, 0, 4), (503, 3_600, 1), (500, 0, 1)] {
        let collector = WebServer::start([(TRACES, Page::Refused { status, retry_after })]);
        let (models, work) = (answering(2), Work::new(scratch()));
        let daemon = configured(&models, &otlp(&collector, "")).start();
        run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
        let told = settled(&daemon, 1);
        assert_eq!((&told["failed"], &told["sent"]), (&json!(1), &json!(0)), "{told}");
        assert!(
            told["problem"].as_str().expect("a reason").contains(&format!("answered {status}")),
            "{told}"
        );
        assert_eq!(collector.requests().len(), requests, "{status}, after {retry_after} s");
        if retry_after > 0 {
            run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
            let told = settled(&daemon, 2);
            assert_eq!(
                (&told["failed"], collector.requests().len()),
                (&json!(2), 1),
                "it is left alone: {told}"
            );
            assert!(told["problem"].as_str().expect("a reason").contains("wants no request"), "{told}");
        }
    }
}
