//! `agent.submit_streaming`, `agent.logs_streaming`, `audit.stream`: frames, their order, and their end.

use crate::support::{Rig, assert_members, entries, invoke, manifest, spawn};
use serde_json::{Value, json};
use testkit::Client;

fn goal() -> Value {
    json!({ "goal": "say done", "manifest": manifest("root", "") })
}

fn frame_kinds(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame["params"]["kind"].as_str().expect("a kind")).collect()
}

#[test]
fn a_streamed_goal_shows_its_entries_then_its_answer_then_its_end() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let (frames, reply) = client.call_streaming("agent.submit_streaming", goal());
    let reply = reply.expect("a goal");
    assert!(frames.iter().all(|frame| frame["method"] == "stream.frame"));
    assert!(frames.iter().all(|frame| frame["params"]["request_id"] == 1));
    let kinds = frame_kinds(&frames);
    assert_eq!(&kinds[kinds.len() - 2..], ["final_text", "end"]);
    assert!(kinds[..kinds.len() - 2].iter().all(|kind| *kind == "event"), "{kinds:?}");
    let events: Vec<&str> =
        frames.iter().filter_map(|frame| frame["params"]["event"]["event"]["kind"].as_str()).collect();
    assert_eq!((events.first(), events.last()), (Some(&"goal_accepted"), Some(&"goal_finished")));
    for kind in ["agent_spawned", "goal_started", "inference_completed"] {
        assert!(events.contains(&kind), "{kind} is not in {events:?}");
    }
    let [text, end] = &frames[frames.len() - 2..] else { unreachable!("two") };
    assert_eq!(text["params"]["text"], "done");
    assert_members(&end["params"], &["exit_code", "input_tokens", "output_tokens", "elapsed_ms"]);
    assert_eq!((&end["params"]["exit_code"], &end["params"]["error"]), (&json!(0), &Value::Null));
    let journalled = client.call("audit.query", json!({ "goal_id": reply["goal_id"] })).expect("entries");
    let streamed: Vec<&Value> = frames.iter().map(|frame| &frame["params"]["event"]).collect();
    let journalled: Vec<&Value> = journalled["entries"].as_array().expect("a list").iter().collect();
    let streamed = &streamed[..streamed.len() - 2];
    // Its root agent ends after it, when nobody waits for the goal any more.
    assert_eq!(streamed, &journalled[..streamed.len()], "the stream is the journal, nothing dropped");
}

#[test]
fn a_goal_that_fails_ends_its_stream_with_the_reason() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let home = testkit::scratch();
    let output = home.path().join("never.txt");
    let mut goal = goal();
    goal["outputs"] = json!([output]);
    goal["grants"] = json!([format!("file_write: {}/*", home.path().display())]);
    let (frames, reply) = client.call_streaming("agent.submit_streaming", goal);
    assert_eq!(reply.expect("a goal")["goal"]["state"], "failed");
    let end = &frames.last().expect("frames")["params"];
    assert_eq!((&end["kind"], &end["exit_code"]), (&json!("end"), &json!(1)));
    assert!(end["error"].as_str().is_some_and(|error| error.contains("never.txt")), "{end}");
}

/// Sends the request and waits until its first entry has come.
fn begin_stream(client: &mut Client, method: &str, params: Value) -> (u64, Value) {
    let id = client.send(method, params);
    let first = client.notification().expect("a first frame");
    assert_eq!(first["params"]["request_id"], id);
    (id, first["params"]["event"].clone())
}

#[test]
fn logs_stream_until_the_agent_stops() {
    let rig = Rig::saying("done");
    let (mut watcher, mut operator) = (rig.client(), rig.client());
    let agent = spawn(&mut operator, &manifest("logged", "capabilities: [\"tool: echo\"]\n"));
    let other = spawn(&mut operator, &manifest("other", "capabilities: [\"tool: echo\"]\n"));
    let (id, first) = begin_stream(&mut watcher, "agent.logs_streaming", json!({ "agent_id": agent }));
    assert_eq!(first["event"]["kind"], "agent_spawned", "a log begins at the beginning");
    for agent in [&other, &agent] {
        invoke(&mut operator, agent, "echo", json!({ "message": "hi" })).expect("echoes");
    }
    operator.call("agent.stop", json!({ "agent_id": agent })).expect("stops");
    let reply = watcher.reply_to(id).expect("the stream's end");
    assert_eq!(reply, json!({ "agent_id": agent, "ended": true }));
    let mut last = Value::Null;
    let mut kinds = Vec::new();
    while last != "agent_stopped" {
        let frame = watcher.notification().expect("kept while the reply was awaited");
        assert_eq!(frame["params"]["event"]["agent_id"], agent.as_str(), "only this agent's");
        last = frame["params"]["event"]["event"]["kind"].clone();
        kinds.push(last.clone());
    }
    assert!(kinds.contains(&json!("tool_invoked")) && kinds.contains(&json!("tool_result")), "{kinds:?}");
    let failure = watcher.call("agent.logs_streaming", json!({ "agent_id": agent })).expect_err("gone");
    assert_eq!(failure.code, 1001);
}

#[test]
fn audit_streams_resume_where_they_stopped_and_miss_nothing() {
    let rig = Rig::saying("done");
    let mut operator = rig.client();
    let agent = spawn(&mut operator, &manifest("busy", "capabilities: [\"tool: echo\"]\n"));
    let mut reader = rig.client();
    let filter = |after: u64| json!({ "kinds": ["tool_invoked", "tool_result"], "after_seq": after });
    reader.send("audit.stream", filter(0));
    let mut seen: Vec<u64> = Vec::new();
    for round in 0..4 {
        for _ in 0..25 {
            invoke(&mut operator, &agent, "echo", json!({ "message": "hi" })).expect("echoes");
        }
        let wanted = if round == 3 { 200 } else { seen.len() + 20 };
        while seen.len() < wanted {
            let frame = reader.notification().expect("a frame");
            if frame["params"]["kind"] == "event" {
                seen.push(frame["params"]["event"]["seq"].as_u64().expect("a number"));
            }
        }
        // The reader goes away in the middle and comes back with the last position it has.
        reader = rig.client();
        reader.send("audit.stream", filter(*seen.last().expect("some")));
    }
    let journalled = entries(&mut operator, &["tool_invoked", "tool_result"]);
    let journalled: Vec<u64> =
        journalled.iter().map(|entry| entry["seq"].as_u64().expect("a number")).collect();
    assert_eq!(seen, journalled);
}

#[test]
fn a_stream_needs_an_id() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    client.send_line(r#"{"jsonrpc":"2.0","method":"audit.stream","params":{}}"#).expect("sent");
    // A notification is never answered, and here it starts nothing either: the next line is the next answer.
    let reply = client.call("agent.list", json!({})).expect("a reply");
    assert_eq!(reply, json!({ "agents": [] }));
}

#[test]
fn audit_filters_choose_by_kind_agent_position_and_number() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let one = spawn(&mut client, &manifest("one", "capabilities: [\"tool: echo\"]\n"));
    let two = spawn(&mut client, &manifest("two", ""));
    let query = |client: &mut Client, params: Value| {
        let reply = client.call("audit.query", params).expect("entries");
        reply["entries"].as_array().expect("a list").clone()
    };
    let spawned = query(&mut client, json!({ "kinds": ["agent_spawned"] }));
    assert_eq!(spawned.len(), 2);
    let of_one = query(&mut client, json!({ "agent_id": one }));
    assert!(of_one.len() >= 2 && of_one.iter().all(|entry| entry["agent_id"] == one.as_str()));
    let after = query(&mut client, json!({ "after_seq": spawned[0]["seq"], "kinds": ["agent_spawned"] }));
    assert_eq!(after.len(), 1);
    assert_eq!(after[0]["agent_id"], two.as_str());
    assert_eq!(query(&mut client, json!({ "limit": 1 })).len(), 1);
    assert!(query(&mut client, json!({ "after_seq": u64::MAX })).is_empty());
    let report = client.call("audit.verify", json!({})).expect("a report");
    let head = report["head"].clone();
    let again = client.call("audit.verify", json!({ "head": head })).expect("a report");
    assert_eq!(again["expected"], "found", "{again}");
    let forged = format!("1:{}", "0".repeat(64));
    let forged = client.call("audit.verify", json!({ "head": forged })).expect("a report");
    assert_eq!(forged["expected"], "differs", "{forged}");
}

#[test]
fn a_goal_that_ended_before_it_began_is_answered_again_by_its_key() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let mut goal = goal();
    goal["client_key"] = json!("once");
    goal["grants"] = json!(["file_read: /proc/*"]);
    let (_, first) = client.call_streaming("agent.submit_streaming", goal.clone());
    let first = first.expect("a goal");
    assert_eq!((&first["goal"]["state"], &first["goal"]["root_agent"]), (&json!("failed"), &Value::Null));
    let (frames, again) = client.call_streaming("agent.submit_streaming", goal);
    assert_eq!(again.expect("the same goal"), first);
    assert_eq!(frame_kinds(&frames).last(), Some(&"end"));
}

#[test]
fn a_list_of_goals_with_long_texts_can_be_sent() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    // Together longer than the longest reply.
    let long = "é".repeat(500 * 1024);
    let ids: Vec<Value> = (0..40)
        .map(|_| {
            let goal = json!({ "goal": long, "manifest": manifest("root", ""), "priority": 3 });
            client.call("goal.submit", goal).expect("accepted")["goal_id"].take()
        })
        .collect();
    let listed = client.call("goal.list", json!({})).expect("a list");
    let listed = listed["goals"].as_array().expect("goals");
    assert_eq!(listed.len(), ids.len());
    let shown = listed[0]["goal"].as_str().expect("text");
    assert!(long.starts_with(shown.trim_end_matches('…')) && shown.len() < 600, "{} bytes", shown.len());
    let whole = client.call("goal.status", json!({ "goal_id": ids[0] })).expect("a goal");
    assert_eq!(whole["goal"], long.as_str());
}
