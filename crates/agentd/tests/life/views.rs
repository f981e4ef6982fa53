//! What is shown of a goal that a real daemon worked on: its log, and its timeline.

use serde_json::{Value, json};
use testkit::{Daemon, DaemonBuilder, Finished, ModelServer, ReportedUsage, Script, Turn};

const READER: &str =
    "name: reader\nmodel: fast\nsystem_prompt: You are the reader.\ncapabilities: [\"tool: echo\"]\n";
/// What a model would write to take over a terminal.
const EVIL: &str = "\u{1b}[2J\u{202e}owned\u{9b}";

/// A goal whose agent has a child, run to its end; and its id.
fn worked() -> (Daemon, ModelServer, String) {
    let usage = ReportedUsage { input: 1000, cached: 0, output: 100 };
    let spawn = vec![("spawn_agent".to_owned(), json!({ "manifest": READER, "message": "Say it" }))];
    let said = Turn::SayAndCall { text: format!("A reader says it.\nThen I do.{EVIL}"), calls: spawn };
    let echo = Turn::call("echo", json!({ "message": "found\nin two lines" }));
    let script = Script::new()
        .when_system("You are the reader.", [echo.metered(usage), Turn::say("moon").metered(usage)])
        .otherwise([said.metered(usage), Turn::say("The moon.").metered(usage)]);
    let models = ModelServer::start(script);
    let builder = DaemonBuilder::openai(&models);
    let prices = builder.home().join("prices.toml");
    let priced =
        "[models.\"scripted-model\"]\ninput = \"1.00\"\ncached_input = \"1.00\"\noutput = \"10.00\"\n";
    std::fs::write(&prices, priced).expect("writes");
    let daemon = builder.env("AAOS_PRICES", &prices).start();
    let ran = daemon.cli(["submit", "--wait", "--json", "Say what it says"]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    let goal: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let id = goal["goal_id"].as_str().expect("an id").to_owned();
    (daemon, models, id)
}

fn harmless(told: &Finished) -> &str {
    assert_eq!(told.code(), 0, "{told:?}");
    assert!(!told.stdout.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{}", told.stdout);
    &told.stdout
}

#[test]
fn a_timeline_shows_agents_their_cost_and_their_children() {
    let (daemon, models, id) = worked();
    let told = daemon.cli(["show", &id]);
    let told = harmless(&told);
    for part in ["done, exit code 0", "bootstrap ", "\n  reader ", "4 inferences", "cost 0.008 USD"] {
        assert!(told.contains(part), "it shows {part:?}: {told}");
    }
    let shown = daemon.cli(["show", &id, "--json"]);
    let report: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let root = &report["agents"][0];
    let child = &root["children"][0];
    assert_eq!((&root["name"], &child["name"]), (&json!("bootstrap"), &json!("reader")), "{report}");
    assert_eq!(child["used"]["spent"]["micro_usd"], 4000, "two inferences of 0.002 USD: {report}");
    assert_eq!(report["used"]["usage"]["input_tokens"], 4000);
    assert_eq!((&report["goal"]["state"], &report["goal"]["exit_code"]), (&json!("done"), &json!(0)));
    let alone = daemon.cli(["show", child["agent_id"].as_str().expect("an id"), "--json"]);
    let alone: Value = serde_json::from_str(&alone.stdout).expect("JSON");
    assert_eq!((&alone["agents"][0], &alone["goal"]), (child, &Value::Null), "the same, by itself");
    let (status, builder) = daemon.terminate();
    assert!(status.success());
    assert_eq!(builder.cli(["show", &id, "--json"]).stdout, shown.stdout, "and without a daemon");
    assert_ne!(builder.cli(["show", "nobody"]).code(), 0);
    assert_eq!(models.unscripted(), Vec::<String>::new());
}

#[test]
fn a_log_tells_thoughts_calls_and_results() {
    let (daemon, _models, id) = worked();
    let told = daemon.cli(["logs", &id, "-f"]);
    let told = harmless(&told);
    for part in [
        "bootstrap: is asked: Say what it says",
        "bootstrap: says: A reader says it.",
        "    Then I do.\\u{1b}[2J\\u{202e}owned\\u{9b}",
        "spawn_agent manifest=(",
        "reader: started by bootstrap",
        "reader: is asked: Say it",
        "reader: echo message=(18 characters)",
        "      found\n",
        "reader: says: moon",
        "0.002 USD",
        "goal done",
    ] {
        assert!(told.contains(part), "it tells {part:?}: {told}");
    }
    // Only agentd itself begins a line; what it quotes stands further in.
    let begins = |line: &str| line.starts_with("20") || line.starts_with("    ") || line.is_empty();
    assert!(told.lines().all(begins), "{told}");
}

#[test]
fn a_conversation_is_exported_as_json_lines() {
    let (daemon, _models, goal) = worked();
    let shown = daemon.cli(["show", &goal, "--json"]);
    let report: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let lines = |agent: &Value| -> Vec<Value> {
        let told = daemon.cli(["show", agent["agent_id"].as_str().expect("an id"), "--conversation"]);
        harmless(&told).lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    };
    let root = &report["agents"][0];
    let (lead, reader) = (lines(root), lines(&root["children"][0]));
    for lines in [&lead, &reader] {
        let roles: Vec<&str> = lines.iter().map(|line| line["role"].as_str().expect("a role")).collect();
        assert_eq!(roles, ["user", "assistant", "tool_result", "assistant"], "{lines:?}");
        assert_eq!(lines[1]["calls"][0]["id"], lines[2]["call"], "a result names its call");
        let content = lines[2]["content"].as_str().expect("text");
        assert!(serde_json::from_str::<Value>(content).expect("JSON").is_object(), "{content}");
    }
    assert_eq!(lead[1]["text"], format!("A reader says it.\nThen I do.{EVIL}"), "word for word");
    assert_eq!((&reader[0]["text"], &reader[3]["text"]), (&json!("Say it"), &json!("moon")));
    let refused = daemon.cli(["show", &goal, "--conversation"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.stderr.contains("agentd show"), "{refused:?}");
}

#[test]
fn the_audit_trail_on_standard_output_is_the_journal() {
    let models = ModelServer::start(Script::in_order([Turn::say("Hello")]));
    let daemon = DaemonBuilder::openai(&models).env("AAOS_AUDIT_STDOUT", "1").start();
    let ran = daemon.cli(["submit", "--wait", "Say hello"]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    let (status, builder) = daemon.terminate();
    assert!(status.success());
    let printed = std::fs::read_to_string(builder.home().join("stdout.log")).expect("reads");
    let told = builder.cli(["audit", "--json"]);
    let (heads, printed): (Vec<&str>, Vec<&str>) =
        printed.lines().partition(|line| line.starts_with("{\"head\":"));
    assert!(printed.len() > 10, "{printed:?}");
    let kept: Vec<&str> = told.stdout.lines().collect();
    let differing = printed.iter().zip(&kept).find(|(printed, kept)| printed != kept);
    assert_eq!((differing, printed.len()), (None, kept.len()), "entry for entry, to the last");
    let last: Value = serde_json::from_str(heads.last().expect("a signed head")).expect("JSON");
    let head = last["head"].as_str().expect("SEQ:HASH");
    assert_eq!(builder.cli(["audit", "--verify", "--head", head]).code(), 0, "its head is the journal's");
}
