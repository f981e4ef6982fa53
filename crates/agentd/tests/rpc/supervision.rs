//! Agents with a mailbox that fail: restarted within what their supervision allows, given up beyond it, and every
//! message that they failed at is answered.

use aaos_core::event::{Event, Kept};
use aaos_core::id::{AgentId, TraceId};
use aaos_core::model::ModelCallId;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use serde_json::{Value, json};
use testkit::{Client, DaemonBuilder, ModelServer, Script, Turn};

use crate::support::{
    Rig, append, assert_intact, deliver, entries, manifest, persistent, result_of, spawn, text,
    wait_for_entry,
};

fn failing() -> Turn {
    Turn::status(400)
}

/// A persistent agent of this name under this supervision.
fn supervised(name: &str, supervision: &str) -> String {
    manifest(name, &format!("lifecycle: persistent\nsupervision: {{ {supervision} }}\n"))
}

/// Delivers messages to an agent that is paused meanwhile, so that all of them wait before the first is taken.
fn deliver_together(client: &mut Client, agent: &str, count: usize) -> Vec<String> {
    client.call("agent.pause", json!({ "agent_id": agent })).expect("pauses");
    let traces = (0..count).map(|nth| deliver(client, agent, &format!("number {nth}"))).collect();
    client.call("agent.resume", json!({ "agent_id": agent })).expect("resumes");
    traces
}

fn agents(client: &mut Client) -> Vec<Value> {
    client.call("agent.list", json!({})).expect("a list")["agents"].as_array().expect("a list").clone()
}

#[test]
fn a_failed_run_is_answered_and_the_agent_goes_on_after_a_rest() {
    let rig = Rig::new(Script::in_order([failing(), Turn::say("well")]));
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    assert!(agents(&mut client)[0]["restarts"].is_null(), "none yet");
    let traces = deliver_together(&mut client, &agent, 2);
    let failed = result_of(&mut client, &traces[0]);
    assert_eq!((&failed["status"], &failed["result"]["stop_reason"]), (&json!("failed"), &json!("error")));
    let well = result_of(&mut client, &traces[1]);
    assert_eq!((&well["status"], &well["result"]["response"]), (&json!("done"), &json!("well")));
    let restarted = &entries(&mut client, &["agent_restarted"])[0];
    let event = &restarted["event"];
    assert_eq!((&restarted["trace_id"], &event["restarts"]), (&json!(traces[0]), &json!(1)));
    assert!(text(&event["reason"]).contains("400"), "{event}");
    let after = event["after"].as_u64().expect("a wait");
    assert!((125..=250).contains(&after), "the first wait, less up to half of it: {event}");
    let taken = entries(&mut client, &["agent_message_received"]);
    let at = |entry: &Value| entry["timestamp"].as_u64().expect("a time");
    assert!(at(&taken[1]) >= at(restarted) + after, "the second message was taken after the rest");
    assert_eq!(agents(&mut client)[0]["restarts"], 1);
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("known");
    assert_eq!(status["restarts"], 1);
}

#[test]
fn an_agent_that_fails_too_often_is_given_up_and_its_mail_answered_with_the_cause() {
    let rig = Rig::new(Script::dynamic(|_| failing()));
    let mut client = rig.client();
    let agent = rig.spawn(&supervised("keeper", "max_restarts: 2, within_seconds: 3600"));
    let traces = deliver_together(&mut client, &agent, 5);
    let reports: Vec<Value> = traces.iter().map(|trace| result_of(&mut client, trace)).collect();
    assert!(reports.iter().all(|report| report["status"] == "failed"), "{reports:?}");
    assert!(reports[..3].iter().all(|report| report["result"]["stop_reason"] == "error"), "{reports:?}");
    for report in &reports[3..] {
        assert!(text(&report["error"]).contains("it was restarted 2 times within 3600 s"), "{report}");
    }
    let stopped = wait_for_entry(&rig.daemon, "agent_stopped", |_| true);
    let reason = text(&stopped["event"]["end"]["failed"]["reason"]);
    assert!(reason.contains("400") && reason.contains("not started again"), "{reason}");
    assert_eq!(entries(&mut client, &["agent_restarted"]).len(), 2);
    assert_eq!(rig.models.requests().len(), 3, "nobody was asked for those that it did not take");
    assert!(agents(&mut client).is_empty());
}

#[test]
fn the_window_is_not_forgotten_by_a_kill() {
    let rig = Rig::new(Script::dynamic(|_| failing()));
    let mut client = rig.client();
    let agent = rig.spawn(&supervised("keeper", "max_restarts: 1, within_seconds: 3600"));
    let first = deliver(&mut client, &agent, "one");
    wait_for_entry(&rig.daemon, "agent_restarted", |_| true);
    let daemon = rig.daemon.kill9().start();
    let mut client = daemon.client();
    assert_eq!(agents(&mut client)[0]["restarts"], 1);
    assert_eq!(result_of(&mut client, &first)["status"], "failed");
    let second = deliver(&mut client, &agent, "two");
    assert_eq!(result_of(&mut client, &second)["status"], "failed");
    wait_for_entry(&daemon, "agent_stopped", |_| true);
    assert_eq!(entries(&mut client, &["agent_restarted"]).len(), 1);
    assert_intact(&mut client);
}

#[test]
fn restart_never_means_never() {
    let rig = Rig::new(Script::dynamic(|_| failing()));
    let mut client = rig.client();
    let agent = rig.spawn(&supervised("keeper", "restart: never"));
    let traces = deliver_together(&mut client, &agent, 2);
    assert_eq!(result_of(&mut client, &traces[0])["result"]["stop_reason"], "error");
    let second = result_of(&mut client, &traces[1]);
    assert!(text(&second["error"]).contains("restart: never"), "{second}");
    wait_for_entry(&rig.daemon, "agent_stopped", |_| true);
    assert!(entries(&mut client, &["agent_restarted"]).is_empty());
}

#[test]
fn money_that_was_spent_in_the_window_ends_the_restarts() {
    let home = testkit::scratch();
    let prices = home.path().join("prices.toml");
    let priced = "[models.\"scripted-model\"]\ninput = \"1\"\ncached_input = \"1\"\noutput = \"1\"\n";
    std::fs::write(&prices, priced).expect("written");
    let echo = || Turn::call("echo", json!({ "message": "hi" }));
    let models =
        ModelServer::start(Script::dynamic(
            move |seen| {
                if seen.results.is_empty() { echo() } else { failing() }
            },
        ));
    let daemon = DaemonBuilder::openai(&models).env("AAOS_PRICES", &prices).start();
    let mut client = daemon.client();
    for (name, most, restarts) in [("poor", "max_usd: 0.000001", 0), ("rich", "max_usd: 1000", 1)] {
        let more = format!("{}capabilities: [\"tool: echo\"]\n", supervised(name, most));
        let agent = spawn(&mut client, &more);
        let trace = deliver(&mut client, &agent, "go");
        assert_eq!(result_of(&mut client, &trace)["result"]["stop_reason"], "error");
        let kind = if restarts == 0 { "agent_stopped" } else { "agent_restarted" };
        let entry = wait_for_entry(&daemon, kind, |entry| entry["agent_id"] == agent.as_str());
        assert!(restarts == 1 || entry.to_string().contains("it spent"), "{entry}");
        assert_eq!(entries(&mut client, &["agent_restarted"]).len(), restarts, "{name}");
    }
}

/// The journal holds a run that the agent's mind does not follow: it cannot be gone on with.
#[test]
fn a_run_that_cannot_be_taken_up_fails_and_the_agent_begins_anew() {
    let rig = Rig::saying("well");
    let agent = rig.spawn(&persistent("keeper"));
    let state_dir = rig.daemon.state_dir();
    let builder = rig.daemon.kill9();
    let (id, trace) =
        (agent.parse::<AgentId>().expect("an id"), TraceId::from_uuid(uuid::Uuid::from_u128(8)));
    let started = Event::AgentExecutionStarted {
        message_hash: String::new(),
        message: "hi".to_owned(),
        tools: Vec::new(),
        kept: Kept::default(),
    };
    let refused = Event::CallRefused {
        model_call: ModelCallId("never made".to_owned()),
        failure: ToolFailure::new(ToolFailureKind::Denied, "no"),
        repeats: 1,
    };
    let delivered = Event::MessageDelivered { message: "hi".to_owned(), from: None, under: None };
    let entries_of = [delivered, Event::AgentMessageReceived {}, started, refused];
    append(&state_dir, entries_of.into_iter().map(|event| (id, Some(trace), event)).collect());
    let daemon = builder.start();
    let mut client = daemon.client();
    let report = result_of(&mut client, &trace.to_string());
    assert_eq!(report["status"], "failed", "{report}");
    assert!(text(&report["error"]).contains("cannot go on"), "{report}");
    let restarted = wait_for_entry(&daemon, "agent_restarted", |_| true);
    assert_eq!((&restarted["event"]["fresh"], &restarted["trace_id"]), (&json!(true), &json!(trace)));
    let next = deliver(&mut client, &agent, "and now?");
    assert_eq!(result_of(&mut client, &next)["result"]["response"], "well");
    // After one more restart the broken run is not looked at again.
    let daemon = daemon.kill9().start();
    let mut client = daemon.client();
    assert_eq!(result_of(&mut client, &trace.to_string())["status"], "failed");
    let last = deliver(&mut client, &agent, "still?");
    assert_eq!(result_of(&mut client, &last)["result"]["response"], "well");
    assert_eq!(entries(&mut client, &["agent_restarted"]).len(), 1);
    assert_eq!(rig.models.requests().len(), 2);
}
