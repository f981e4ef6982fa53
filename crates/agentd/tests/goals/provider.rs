//! What a provider does wrong, and what becomes of the goal.

use crate::support::{LEAD, LEAD_MARK, Ran, Rig, Work, of_kind, write};
use serde_json::{Value, json};
use testkit::{CutAs, DaemonBuilder, Dialect, ModelServer, ReportedUsage, Script, Turn, scratch};

/// A goal whose lead first meets `trouble`, then answers.
fn after(wire: Dialect, trouble: impl IntoIterator<Item = Turn>) -> (Rig, Ran) {
    let rig = Rig::on(wire, |_| {
        Script::new().when_system(LEAD_MARK, trouble.into_iter().chain([Turn::say("recovered")]))
    });
    let ran = rig.run(rig.work.goal(&[]));
    (rig, ran)
}

fn retried_kinds(ran: &Ran) -> Vec<&Value> {
    ran.of_kind("inference_retried").iter().map(|entry| &entry["event"]["failure"]["kind"]).collect()
}

#[test]
fn a_rate_limit_is_waited_out() {
    let (rig, ran) = after(Dialect::OpenAi, [Turn::retry_after(429, 1)]);
    ran.assert_ended("done", 0);
    assert_eq!(ran.goal["response"], "recovered");
    assert_eq!(rig.models.requests().len(), 2);
    let retried = ran.of_kind("inference_retried");
    assert_eq!(retried[0]["event"]["failure"]["kind"], "rate_limited", "{retried:?}");
    assert!(retried[0]["event"]["wait"].as_u64() >= Some(1000), "the provider's wish: {retried:?}");
    assert_eq!(ran.of_kind("inference_completed")[0]["event"]["attempts"], 2);
}

#[test]
fn a_model_can_be_named_with_its_provider() {
    let work = Work::new(scratch());
    let models = ModelServer::start(Script::new().when_system(LEAD_MARK, vec![Turn::say("answered"); 2]));
    let daemon = DaemonBuilder::openai(&models)
        .env("DEEPSEEK_API_KEY", "sk-deepseek")
        .env("DEEPSEEK_BASE_URL", models.openai_url())
        .start();
    let rig = Rig { daemon, models, work };
    for name in ["deepseek/deepseek-chat", "deepseek::deepseek-chat"] {
        let mut goal = rig.work.goal(&[]);
        goal["manifest"] = json!(LEAD.replace("model: smart", &format!("model: {name}")));
        rig.run(goal).assert_ended("done", 0);
        let seen = rig.models.requests();
        let last = seen.last().expect("it has asked");
        assert_eq!((last.model.as_str(), last.key()), ("deepseek-chat", Some("sk-deepseek")), "{name}");
    }
    let mut goal = rig.work.goal(&[]);
    goal["manifest"] = json!(LEAD.replace("model: smart", "model: deepseek/another"));
    let ran = rig.run(goal);
    ran.assert_ended("failed", 2);
    assert!(ran.error().contains("deepseek/another"), "{}", ran.error());
    assert_eq!(rig.models.requests().len(), 2, "what a provider does not serve is not asked of another");
}

#[test]
fn server_errors_are_tried_again() {
    let (_rig, ran) = after(Dialect::Anthropic, [Turn::status(500), Turn::status(503)]);
    ran.assert_ended("done", 0);
    assert_eq!(retried_kinds(&ran), ["unavailable", "unavailable"]);
}

#[test]
fn a_cut_stream_is_tried_again() {
    let cut = |cut| Turn::CutStream { text: "half of an answer".into(), after_events: 3, cut };
    for wire in [Dialect::OpenAi, Dialect::Anthropic] {
        let (_rig, ran) = after(wire, [cut(CutAs::Broken), cut(CutAs::WellFormed)]);
        ran.assert_ended("done", 0);
        assert_eq!(ran.goal["response"], "recovered", "no half of an answer is taken for one");
        assert_eq!(retried_kinds(&ran).len(), 2, "{wire:?}");
    }
}

#[test]
fn a_reply_that_is_not_json_is_never_taken_for_one() {
    let (rig, ran) = after(Dialect::OpenAi, [Turn::MalformedJson]);
    assert_eq!(rig.models.requests().len(), 2, "{}", ran.goal);
    ran.assert_ended("done", 0);
    assert_eq!(retried_kinds(&ran), ["malformed_reply"]);
}

#[test]
fn a_provider_that_stays_down_fails_the_goal() {
    let rig = Rig::lead(|_| vec![Turn::status(500); 20]);
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("failed", 5);
    assert_eq!(rig.models.requests().len(), 6, "the limit of attempts");
    assert!(ran.error().contains("500"), "{}", ran.error());
}

#[test]
fn a_refused_key_fails_the_goal_at_once_and_is_not_repeated() {
    let rig = Rig::lead(|_| [Turn::status(401)]);
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("failed", 5);
    assert_eq!(rig.models.requests().len(), 1);
    assert!(ran.error().contains("key"), "what to do: {}", ran.error());
    assert_eq!(ran.goal["response"], "");
}

#[test]
fn malformed_arguments_never_reach_a_tool() {
    for wire in [Dialect::OpenAi, Dialect::Anthropic] {
        let rig = Rig::on(wire, |work| {
            let raw =
                |arguments: &str| Turn::RawCall { tool: "file_write".into(), arguments: arguments.into() };
            let path = work.path("out/a");
            Script::new().when_system(
                LEAD_MARK,
                [
                    raw("{\"path\": \"/x\", \"content"),
                    raw("[]"),
                    raw("{}"),
                    raw(&json!({ "path": path, "content": 7 }).to_string()),
                    raw(&json!({ "path": path, "content": "x", "mode": 511 }).to_string()),
                    Turn::call("launch_missiles", json!({})),
                    Turn::say("gave up"),
                ],
            )
        });
        let ran = rig.run(rig.work.goal(&[]));
        ran.assert_ended("done", 0);
        let kinds: Vec<Value> = rig
            .results_seen_by(LEAD_MARK)
            .into_iter()
            .map(|mut result| result["error"]["kind"].take())
            .collect();
        let mut expected = vec!["invalid_arguments"; 5];
        expected.push("unknown_tool");
        assert_eq!(kinds, expected, "{wire:?}: the model is told");
        assert_eq!(ran.of_kind("tool_invoked").len(), 0, "nothing was begun");
        assert!(!rig.work.has("out/a"));
    }
}

#[test]
fn a_budget_that_is_used_up_ends_the_goal() {
    // Three turns take exactly what there is.
    let usage = ReportedUsage { input: 900, cached: 0, output: 100 };
    let rig = Rig::lead(|_| {
        let again = |n: u32| Turn::call("echo", json!({ "message": format!("turn {n}") })).metered(usage);
        (0..20).map(again).collect::<Vec<_>>()
    });
    let mut goal = rig.work.goal(&[]);
    goal["budget"] = json!({ "max_tokens": 3000 });
    let ran = rig.run(goal);
    ran.assert_ended("failed", 4);
    assert_eq!(rig.models.requests().len(), 3, "a fourth is not sent");
    assert_eq!(of_kind(&rig.journal(), "budget_exceeded").len(), 1);
    let status = of_kind(&ran.entries, "agent_execution_completed");
    assert_eq!(status[0]["event"]["stop_reason"], "budget_exceeded");
    assert!(ran.error().contains("budget"), "{}", ran.error());
}

#[test]
fn each_attempt_that_may_have_been_billed_is_reserved_for_and_charged() {
    let cut = || Turn::CutStream { text: "half of".into(), after_events: 3, cut: CutAs::Broken };
    let (_rig, ran) = after(Dialect::OpenAi, [cut(), cut()]);
    ran.assert_ended("done", 0);
    let billed: Vec<_> = ran
        .of_kind("inference_completed")
        .iter()
        .map(|entry| entry["event"]["possibly_billed"].as_u64())
        .collect();
    assert_eq!(billed, [Some(1), Some(1), Some(0)]);
    let requested = ran.of_kind("inference_requested");
    let lost: u64 = requested[..2].iter().filter_map(|entry| entry["event"]["reserve"].as_u64()).sum();
    let reported = ran.of_kind("usage_reported");
    let used = reported.last().and_then(|entry| entry["event"]["used"]["tokens"].as_u64());
    assert!(lost > 0 && used > Some(lost), "{used:?} used, {lost} lost");

    // Where the purse holds no more than one attempt, there is none after it.
    let rig = Rig::lead(|_| vec![cut(); 20]);
    let mut goal = rig.work.goal(&[]);
    goal["budget"] = json!({ "max_tokens": 3000 });
    rig.run(goal).assert_ended("failed", 4);
    assert_eq!(rig.models.requests().len(), 1);
}

#[test]
fn a_report_above_the_reservation_is_recorded_and_stops_the_run() {
    let huge = ReportedUsage { input: 40_000, cached: 0, output: 60_000 };
    let rig = Rig::lead(|_| {
        [Turn::call("echo", json!({ "message": "once" })).metered(huge), Turn::say("again").metered(huge)]
    });
    let mut goal = rig.work.goal(&[]);
    goal["budget"] = json!({ "max_tokens": 20_000 });
    let ran = rig.run(goal);
    ran.assert_ended("failed", 4);
    assert_eq!(rig.models.requests().len(), 1, "no second request is paid");
    let overdraft = of_kind(&ran.entries, "overdraft");
    assert_eq!(overdraft[0]["event"]["used"], 100_000, "{overdraft:?}");
}

#[test]
fn the_turn_limit_ends_a_run() {
    let rig = Rig::lead(|_| {
        (0..60).map(|n| Turn::call("echo", json!({ "message": n.to_string() }))).collect::<Vec<_>>()
    });
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("failed", 1);
    assert_eq!(rig.models.requests().len(), 50);
    assert_eq!(ran.of_kind("agent_execution_completed")[0]["event"]["stop_reason"], "max_iterations");
}

#[test]
fn a_reply_that_was_cut_at_its_limit_is_no_success() {
    let rig = Rig::lead(|work| [write(&work.path("out/a"), "x"), Turn::Truncated { text: "and so".into() }]);
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("failed", 1);
    assert_eq!(ran.of_kind("agent_execution_completed")[0]["event"]["stop_reason"], "truncated");
}
