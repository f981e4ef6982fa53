//! Persistent agents: delivery and reply, pause and resume, what they accept, and a stop that means stopped.

use crate::support::{
    Rig, deliver, entries, invoke, manifest, persistent, result_of, spawn, text, wait_for_entries,
    wait_for_entry,
};
use aaos_core::limits::{KEPT_TRACES, MAILBOX_MESSAGES};
use serde_json::{Value, json};
use testkit::{Gate, Page, Script, Turn, WebServer};

fn state(client: &mut testkit::Client, agent: &str) -> Value {
    client.call("agent.status", json!({ "agent_id": agent })).expect("known")["state"].clone()
}

#[test]
fn a_delivered_message_is_answered_in_order_under_its_trace() {
    let gate = Gate::new();
    let rig = Rig::gated(&gate);
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    let first = deliver(&mut client, &agent, "one");
    let second = deliver(&mut client, &agent, "two");
    let pending = client.call("agent.result", json!({ "trace_id": first })).expect("known");
    assert_eq!(pending, json!({ "trace_id": first, "status": "pending" }), "no wait asked for, none made");
    let mut waiter = rig.client();
    let waiting = waiter.send("agent.result", json!({ "trace_id": second, "wait_seconds": 60 }));
    gate.open();
    for (trace, answer) in [(&first, "re: one"), (&second, "re: two")] {
        let report = result_of(&mut client, trace);
        assert_eq!((&report["status"], &report["result"]["response"]), (&json!("done"), &json!(answer)));
        assert_eq!(&result_of(&mut client, trace), &report, "a report can be read again");
    }
    assert_eq!(waiter.reply_to(waiting).expect("a report")["result"]["response"], "re: two");
    let asked = rig.models.requests();
    assert_eq!(asked[1].messages.len(), 3, "the second message continues the conversation");
    let traced =
        entries(&mut client, &["message_delivered", "agent_message_received", "agent_execution_completed"]);
    let of_first: Vec<&Value> = traced.iter().filter(|entry| entry["trace_id"] == first.as_str()).collect();
    assert_eq!(of_first.len(), 3, "delivered, taken, answered: {traced:?}");
    for kind in ["agent_loop_started", "agent_execution_started"] {
        assert!(!entries(&mut client, &[kind]).is_empty(), "{kind}");
    }
}

#[test]
fn a_paused_agent_holds_its_messages_until_it_is_resumed() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    let other = rig.spawn(&persistent("other"));
    let params = json!({ "agent_id": agent });
    assert_eq!(client.call("agent.pause", params.clone()).expect("pauses"), json!({ "ok": true }));
    assert_eq!(state(&mut client, &agent), "paused");
    let held = deliver(&mut client, &agent, "held");
    // Another agent is asked and answers meanwhile, so the paused one had its chance to move.
    let free = deliver(&mut client, &other, "free");
    assert_eq!(result_of(&mut client, &free)["status"], "done");
    let report = client.call("agent.result", json!({ "trace_id": held })).expect("known");
    assert_eq!(report["status"], "pending");
    assert_eq!(rig.models.requests().len(), 1, "the paused agent asked nobody");
    client.call("agent.resume", params).expect("resumes");
    assert_eq!(result_of(&mut client, &held)["status"], "done");
    assert_eq!(entries(&mut client, &["agent_paused", "agent_resumed"]).len(), 2);
}

#[test]
fn a_pause_in_the_middle_of_a_run_holds_its_next_turn() {
    let gate = Gate::new();
    let call = Turn::call("echo", json!({ "message": "hi" })).behind(&gate);
    let rig = Rig::new(Script::in_order([call, Turn::say("done")]));
    let mut client = rig.client();
    let agent = rig.spawn(&format!("{}capabilities: [\"tool: echo\"]\n", persistent("keeper")));
    let trace = deliver(&mut client, &agent, "go");
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    client.call("agent.pause", json!({ "agent_id": agent })).expect("pauses");
    gate.open();
    wait_for_entry(&rig.daemon, "inference_completed", |_| true);
    assert_eq!(
        client.call("agent.result", json!({ "trace_id": trace })).expect("known")["status"],
        "pending"
    );
    assert_eq!(state(&mut client, &agent), "paused");
    assert!(entries(&mut client, &["tool_invoked"]).is_empty(), "its next act waits");
    client.call("agent.resume", json!({ "agent_id": agent })).expect("resumes");
    assert_eq!(result_of(&mut client, &trace)["result"]["response"], "done");
}

#[test]
fn a_message_that_is_not_accepted_is_not_delivered() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let accepts = "accepts: { type: object, required: [task], properties: { task: { type: string } }, \
                   additionalProperties: false }\n";
    let keeper = rig.spawn(&format!("{}{accepts}", persistent("keeper")));
    let on_demand = rig.spawn(&manifest("brief", accepts));
    for agent in [&keeper, &on_demand] {
        for message in ["plain words", "{}", r#"{"task":5}"#, r#"{"task":"x","extra":1}"#, "[]"] {
            let params = json!({ "agent_id": agent, "message": message });
            let failure = client.call("agent.run", params).expect_err(message);
            assert_eq!(failure.code, -32602, "{message}: {}", failure.message);
        }
    }
    assert!(entries(&mut client, &["message_delivered", "agent_execution_started"]).is_empty());
    let trace = deliver(&mut client, &keeper, r#"{"task":"x"}"#);
    assert_eq!(result_of(&mut client, &trace)["status"], "done");
    let params = json!({ "agent_id": on_demand, "message": r#"{"task":"x"}"# });
    assert_eq!(client.call("agent.run", params).expect("accepted")["response"], "done");
}

#[test]
fn accepts_that_is_no_schema_is_refused_at_spawn() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for accepts in ["{ type: 5 }", "{ $ref: \"http://127.0.0.1/schema\" }", "{ $ref: \"#/$defs/none\" }"] {
        let text = manifest("strict", &format!("accepts: {accepts}\n"));
        let failure = client.call("agent.spawn", json!({ "manifest": text })).expect_err(accepts);
        assert_eq!(failure.code, -32602, "{accepts}: {}", failure.message);
        assert!(failure.message.contains("accepts"), "{}", failure.message);
    }
}

#[test]
fn stop_answers_when_the_model_call_in_flight_is_over_and_nothing_is_left() {
    let rig = Rig::new(Script::in_order([Turn::Hang]));
    let mut client = rig.client();
    let more = "lifecycle: persistent\ncapabilities: [\"tool: echo\"]\n";
    let agent = rig.spawn(&manifest("held", more));
    invoke(&mut client, &agent, "echo", json!({ "message": "hi" })).expect("its worker starts");
    let worker = rig.daemon.processes();
    let trace = deliver(&mut client, &agent, "go");
    let waiting = deliver(&mut client, &agent, "never taken");
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let mut waiter = rig.client();
    let wait = waiter.send("agent.result", json!({ "trace_id": waiting, "wait_seconds": 600 }));
    let before = wait_for_entries(&rig.daemon, &["worker_started"], 1);
    assert_eq!(
        client.call("agent.stop", json!({ "agent_id": agent })).expect("stops"),
        json!({ "ok": true })
    );
    rig.models.wait_for_hangups(1);
    let pid = before[0]["event"]["pid"].as_i64().expect("a number");
    assert!(worker.iter().any(|process| i64::from(process.pid) == pid), "it was there");
    let left = rig.daemon.processes();
    assert!(left.iter().all(|process| i64::from(process.pid) != pid), "its worker is gone: {left:?}");
    let report = client.call("agent.result", json!({ "trace_id": trace })).expect("known");
    assert_eq!(
        (&report["status"], &report["result"]["stop_reason"]),
        (&json!("failed"), &json!("cancelled"))
    );
    let never = waiter.reply_to(wait).expect("a report");
    assert_eq!(never["status"], "failed");
    assert!(never["error"].as_str().is_some_and(|why| why.contains("stopped")), "{never}");
    assert_eq!(client.call("agent.list", json!({})).expect("a list"), json!({ "agents": [] }));
    let ends = wait_for_entries(&rig.daemon, &["worker_stopped", "agent_loop_stopped", "agent_stopped"], 3);
    let kinds: Vec<&Value> = ends.iter().map(|entry| &entry["event"]["kind"]).collect();
    assert_eq!(kinds.len(), 3, "{kinds:?}");
    assert_eq!(ends[2]["event"], json!({ "kind": "agent_stopped", "end": "stopped" }));
    let gone = client.call("agent.run", json!({ "agent_id": agent, "message": "x" })).expect_err("gone");
    assert_eq!(gone.code, 1001);
}

#[test]
fn stop_ends_a_tool_call_in_flight_and_its_caller_is_told() {
    let web = WebServer::start([("/never", Page::Hang)]);
    let rig = Rig::saying("done");
    let more = format!("capabilities: [\"tool: web_fetch\", \"network: {}\"]\n", web.authority());
    let agent = rig.spawn(&manifest("fetcher", &more));
    let mut caller = rig.client();
    let input = json!({ "url": web.url("/never") });
    let call = caller.send("tool.invoke", json!({ "agent_id": agent, "tool": "web_fetch", "input": input }));
    assert_eq!(web.wait_for_requests(1).len(), 1);
    let mut client = rig.client();
    let begun = std::time::Instant::now();
    client.call("agent.stop", json!({ "agent_id": agent })).expect("stops");
    assert!(begun.elapsed().as_secs() < 10, "a stop does not wait for the page: {:?}", begun.elapsed());
    let failure = caller.reply_to(call).expect_err("cancelled");
    assert_eq!((failure.code, &failure.data["reason"]), (1009, &json!("cancelled")), "{failure:?}");
    web.wait_for_hangups(1);
    let results = wait_for_entries(&rig.daemon, &["tool_result"], 1);
    assert_eq!(results.len(), 1, "what began has a recorded end");
}

#[test]
fn stop_takes_the_whole_tree() {
    let child = manifest("child", "");
    let call = Turn::call("spawn_agent", json!({ "manifest": child, "message": "go" }));
    let script = Script::new().when_system("You are child", [Turn::Hang]).otherwise([call]);
    let rig = Rig::new(script);
    let more = "capabilities: [\"tool: spawn_agent\", \"spawn_child: [child]\"]\n";
    let parent = rig.spawn(&manifest("parent", more));
    let mut runner = rig.client();
    let run = runner.send("agent.run", json!({ "agent_id": parent, "message": "go" }));
    assert_eq!(rig.models.wait_for_requests(2).len(), 2);
    let mut client = rig.client();
    let agents = client.call("agent.list", json!({})).expect("a list");
    let agents = agents["agents"].as_array().expect("a list").clone();
    assert_eq!(agents.len(), 2);
    assert_eq!(agents[1]["parent_agent"], parent.as_str(), "{agents:?}");
    client.call("agent.stop", json!({ "agent_id": parent })).expect("stops");
    assert_eq!(client.call("agent.list", json!({})).expect("a list"), json!({ "agents": [] }));
    let ended = runner.reply_to(run).expect("a result");
    assert_eq!(ended["stop_reason"], "cancelled");
    rig.models.wait_for_hangups(1);
}

#[test]
fn an_on_demand_agent_runs_once_at_a_time_and_again_afterwards() {
    let gate = Gate::new();
    let rig = Rig::gated(&gate);
    let (mut runner, mut client) = (rig.client(), rig.client());
    let agent = rig.spawn(&manifest("one-at-a-time", ""));
    let first = runner.send("agent.run", json!({ "agent_id": agent, "message": "first" }));
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    assert_eq!(state(&mut client, &agent), "running");
    let second = json!({ "agent_id": agent, "message": "second" });
    let failure = client.call("agent.run", second.clone()).expect_err("busy");
    assert_eq!((failure.code, &failure.data["reason"]), (-32602, &json!("state")), "{failure:?}");
    gate.open();
    assert_eq!(runner.reply_to(first).expect("a result")["response"], "re: first");
    assert_eq!(client.call("agent.run", second).expect("free again")["response"], "re: second");
    assert_eq!(state(&mut client, &agent), "idle");
    let other = spawn(&mut client, &manifest("other", ""));
    assert_ne!(text(&json!(other)), agent);
}

#[test]
fn messages_that_find_no_room_push_no_reply_out_of_memory() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("keeper"));
    let answered = deliver(&mut client, &agent, "first");
    assert_eq!(result_of(&mut client, &answered)["status"], "done");
    client.call("agent.pause", json!({ "agent_id": agent })).expect("pauses");
    for _ in 0..MAILBOX_MESSAGES {
        deliver(&mut client, &agent, "waits");
    }
    for _ in 0..=KEPT_TRACES {
        let refused = client.call("agent.run", json!({ "agent_id": agent, "message": "one more" }));
        assert_eq!(refused.expect_err("it is full").code, 1004);
    }
    assert_eq!(result_of(&mut client, &answered)["status"], "done");
}
