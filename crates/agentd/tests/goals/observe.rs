//! What is observed of model calls, as the operator sees it.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{LEAD, LEAD_MARK, Work, kill_the_gateway, run};
use serde_json::{Value, json};
use testkit::{Daemon, DaemonBuilder, ModelServer, ReportedUsage, Script, Turn, scratch};

/// A dollar a million tokens of each kind.
const PRICE: &str = "[models.\"one\"]\ninput = \"1\"\ncached_input = \"1\"\noutput = \"1\"\n";

/// A daemon with a provider `first`, its model `one`, and more in its configuration file.
fn daemon(models: &ModelServer, work: &Work, more: &str) -> Daemon {
    let builder = DaemonBuilder::openai(models);
    let directory = builder.home().join("config/aaos");
    std::fs::create_dir_all(&directory).expect("makes directories");
    let config = format!(
        "[[providers]]\nname = \"first\"\nformat = \"openai\"\nbase_url = \"{}\"\nmodels = [\"one\", \"unasked\"]\n\n{more}",
        models.openai_url()
    );
    std::fs::write(directory.join("config.toml"), config).expect("writes");
    builder.env("AAOS_PRICES", work.put("prices.toml", PRICE)).start()
}

/// A goal whose first request is turned away, then calls a tool, then answers.
fn work_on_a_goal(daemon: &Daemon, work: &Work) {
    let mut goal = work.goal(&[]);
    goal["manifest"] = json!(LEAD.replace("model: smart", "model: first/one"));
    run(&mut daemon.client(), goal).assert_ended("done", 0);
}

fn scripted() -> ModelServer {
    let usage = |input, cached, output| ReportedUsage { input, cached, output };
    let call = Turn::call("echo", json!({ "message": "x" })).metered(usage(300, 0, 50));
    let say = Turn::say("done").metered(usage(500, 200, 150));
    ModelServer::start(Script::new().when_system(LEAD_MARK, [Turn::retry_after(429, 0), call, say]))
}

/// All that is answered at the address that the daemon named for metrics.
pub(crate) fn read_metrics(daemon: &Daemon) -> String {
    let said = daemon.stderr();
    let address =
        said.split("http://").skip(1).find_map(|rest| rest.split_once("/metrics")).expect("it is told").0;
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("text");
    told
}

#[test]
fn metrics_are_read_at_a_port_of_loopback_and_name_no_agent() {
    let (models, work) = (scripted(), Work::new(scratch()));
    let daemon = daemon(&models, &work, "[metrics]\nlisten = \"127.0.0.1:0\"\n");
    work_on_a_goal(&daemon, &work);
    let told = read_metrics(&daemon);
    let of = |name: &str, more: &str| format!("{name}{{provider=\"first\",model=\"one\"{more}}}");
    for line in [
        of("aaos_model_calls_total", ",outcome=\"answered\"") + " 2\n",
        of("aaos_model_retries_total", ",reason=\"rate_limited\"") + " 1\n",
        of("aaos_model_tokens_total", ",kind=\"input_cached\"") + " 200\n",
        of("aaos_model_cost_usd_total", "") + " 0.001\n",
        of("aaos_model_time_to_first_token_seconds_count", "") + " 2\n",
        "aaos_model_calls_open 0\n".to_owned(),
    ] {
        assert!(told.contains(&line), "{line} in {told}");
    }
    let goal = daemon.client().call("goal.list", json!({})).expect("a list").to_string();
    for hidden in ["lead", "do it", DaemonBuilder::key()] {
        assert!(!told.contains(hidden), "{hidden} in {told}");
    }
    assert!(goal.contains("do it"), "the control: {goal}");
    // A gateway that died is replaced, and what was counted is still there.
    kill_the_gateway(&daemon);
    let mut again = String::new();
    while !again.contains(&of("aaos_model_calls_total", ",outcome=\"answered\"")) {
        again = read_metrics(&daemon);
    }
}

#[test]
fn metrics_are_offered_on_loopback_alone() {
    let models = scripted();
    for (listen, said) in
        [("0.0.0.0:0", "can be reached from elsewhere"), ("[::]:0", "elsewhere"), ("9464", "it is \"9464\"")]
    {
        let builder = DaemonBuilder::openai(&models);
        let directory = builder.home().join("config/aaos");
        std::fs::create_dir_all(&directory).expect("makes directories");
        let config = format!("[metrics]\nlisten = \"{listen}\"\n");
        std::fs::write(directory.join("config.toml"), config).expect("writes");
        let refused = builder.cli(["serve"]);
        assert_ne!(refused.code(), 0, "{refused:?}");
        assert!(refused.stderr.contains(said) && refused.stderr.contains("127.0.0.1:9464"), "{refused:?}");
    }
}

#[test]
fn calls_are_measured_and_shown_by_model() {
    let (models, work) = (scripted(), Work::new(scratch()));
    let daemon = daemon(&models, &work, "");
    let before = daemon.client().call("runtime.status", json!({})).expect("a status");
    assert!(before["calls"].is_null(), "nobody was asked: {before}");
    work_on_a_goal(&daemon, &work);
    let status = daemon.client().call("runtime.status", json!({})).expect("a status");
    let calls = status["calls"].as_array().expect("calls").as_slice();
    let [one] = calls else { panic!("one model was asked: {status}") };
    assert_eq!((&one["provider"], &one["model"]), (&json!("first"), &json!("one")));
    assert_eq!((&one["answered"], &one["failed"]), (&json!(2), &json!({})), "{one}");
    assert_eq!(one["retried"], json!({ "rate_limited": 1 }), "{one}");
    assert_eq!(one["usage"]["input_tokens"], 800, "{one}");
    assert_eq!((&one["cached_percent"], &one["cost_micro_usd"]), (&json!(25), &json!(1_000)), "{one}");
    // A reply that is a call has a first token, too.
    assert_eq!(
        (&one["first_token_ms"]["count"], &one["waited_ms"]["count"]),
        (&json!(2), &json!(2)),
        "{one}"
    );
    let view: Value = serde_json::from_str(&daemon.cli(["models", "--json"]).stdout).expect("JSON");
    assert_eq!(view["calls"][0]["answered"], 2, "{view}");
    for command in ["status", "models"] {
        let told = daemon.cli([command]).stdout;
        for part in [
            "first/one: 2 answered",
            "retried 1 rate_limited",
            "first token",
            "25 % of the input cached",
            "0.001",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}
