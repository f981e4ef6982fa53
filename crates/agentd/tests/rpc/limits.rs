//! Limits of SPEC §6 and SECURITY "Exhaustion" that hold in the kernel, whoever calls. Each with a control.

use crate::support::{
    Rig, assert_intact, entries, invoke, manifest, spawn, text, wait_for_entries, wait_for_entry,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use testkit::{Client, ReportedUsage, Script, SeenRequest, Turn};

/// As many refused calls a minute have an entry each.
const LISTED: usize = 60;

fn of_agent(entries: Vec<Value>, agent: &str) -> Vec<Value> {
    entries.into_iter().filter(|entry| entry["agent_id"] == agent).collect()
}

fn stop(client: &mut Client, agent: &str) {
    client.call("agent.stop", json!({ "agent_id": agent })).expect("stops");
}

/// A call that this agent may not make.
fn refused(client: &mut Client, agent: &str) -> testkit::RpcFailure {
    let path = PathBuf::from("/etc/hostname");
    invoke(client, agent, "file_read", json!({ "path": path })).expect_err("not granted")
}

#[test]
fn a_flood_of_refused_calls_is_counted_and_not_journalled_one_by_one() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let echoes = "capabilities: [\"tool: echo\"]\n";
    let agent = spawn(&mut client, &manifest("flood", echoes));
    let other = spawn(&mut client, &manifest("other", echoes));
    for n in 0..LISTED {
        let failure = refused(&mut client, &agent);
        assert_eq!((failure.code, &failure.data["reason"]), (1002, &json!("denied")), "{n}: {failure:?}");
    }
    for n in 0..10 {
        let failure = refused(&mut client, &agent);
        let told = (failure.code, &failure.data["reason"]);
        assert_eq!(told, (1004, &json!("limit_reached")), "{n}: {failure:?}");
        assert!(failure.message.contains("60 calls refused within a minute"), "{failure:?}");
    }
    // What is granted goes on, and another agent's refusals are its own.
    invoke(&mut client, &agent, "echo", json!({ "message": "still" })).expect("granted");
    assert_eq!(refused(&mut client, &other).code, 1002);
    let listed = of_agent(wait_for_entries(&rig.daemon, &["capability_denied"], LISTED + 1), &agent);
    assert_eq!(listed.len(), LISTED, "each of the first has its entry, none of the others");
    assert!(entries(&mut client, &["denials_suppressed"]).is_empty(), "the minute is not over");
    // The agent's end closes the count.
    stop(&mut client, &agent);
    stop(&mut client, &other);
    let counted = wait_for_entries(&rig.daemon, &["denials_suppressed"], 1);
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert_eq!((&counted[0]["agent_id"], &counted[0]["event"]["count"]), (&json!(agent), &json!(10)));
    assert_intact(&mut client);
}

#[test]
fn as_many_refused_calls_as_are_listed_leave_no_count() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("flood", ""));
    for _ in 0..LISTED {
        assert_eq!(refused(&mut client, &agent).code, 1002);
    }
    stop(&mut client, &agent);
    wait_for_entry(&rig.daemon, "agent_stopped", |entry| entry["agent_id"] == agent);
    assert_eq!(of_agent(entries(&mut client, &["capability_denied"]), &agent).len(), LISTED);
    assert!(entries(&mut client, &["denials_suppressed"]).is_empty());
}

#[test]
fn no_flood_of_refused_calls_hides_that_the_purse_is_empty() {
    let rig = Rig::saying("done");
    let home = testkit::scratch();
    let mut client = rig.client();
    let grants = format!("[\"tool: file_write\", \"file_write: {}/*\"]", home.path().display());
    let one = format!("capabilities: {grants}\nbudget_config: {{ max_files: 1 }}\n");
    let agent = spawn(&mut client, &manifest("flood", &one));
    let write = |client: &mut Client| {
        let input = json!({ "path": home.path().join("f"), "content": "x" });
        invoke(client, &agent, "file_write", input)
    };
    write(&mut client).expect("the only one");
    for _ in 0..LISTED {
        assert_eq!(refused(&mut client, &agent).code, 1002);
    }
    assert_eq!(refused(&mut client, &agent).code, 1004, "the control: the flood is on");
    for n in 0..LISTED + 5 {
        let failure = write(&mut client).expect_err("the purse is empty");
        let told = (failure.code, &failure.data["reason"]);
        assert_eq!(told, (1003, &json!("budget_exceeded")), "{n}: {failure:?}");
    }
    let exceeded = wait_for_entries(&rig.daemon, &["budget_exceeded"], LISTED);
    assert_eq!(exceeded.len(), LISTED, "they have a bound of their own");
    stop(&mut client, &agent);
    let counted = wait_for_entries(&rig.daemon, &["denials_suppressed"], 2);
    let mut counts: Vec<_> = counted.iter().filter_map(|one| one["event"]["count"].as_u64()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 5]);
}

/// In each result of the agent's last request: whether the model was told that it repeats itself.
fn hints(rig: &Rig) -> Vec<bool> {
    let requests = rig.models.requests();
    let last = requests.last().expect("it has asked");
    let told = |content: &str| content.contains("of the same tool with the same input");
    last.results.iter().map(|result| told(&result.content)).collect()
}

fn fired(client: &mut Client) -> Vec<(String, u64)> {
    let of = |entry: &Value| {
        let event = &entry["event"];
        (text(&event["tool"]), event["count"].as_u64().expect("a count"))
    };
    entries(client, &["tool_repeat_guard_fired"]).iter().map(of).collect()
}

fn run(client: &mut Client, agent: &str, message: &str) -> Value {
    client.call("agent.run", json!({ "agent_id": agent, "message": message })).expect("runs")
}

#[test]
fn a_model_that_repeats_a_call_is_told_and_audited_and_each_run_counts_anew() {
    let same = || Turn::call("echo", json!({ "message": "again" }));
    let other = |n: u32| Turn::call("echo", json!({ "message": n.to_string() }));
    let broken = || Turn::RawCall { tool: "echo".into(), arguments: "{\"mess".into() };
    let rig = Rig::new(Script::in_order([
        // The same input in another spelling is the same input.
        same(),
        Turn::RawCall { tool: "echo".into(), arguments: "{ \"message\":   \"again\" }".into() },
        same(),
        same(),
        Turn::say("done"),
        same(),
        other(1),
        other(2),
        other(3),
        same(),
        Turn::say("done"),
        broken(),
        broken(),
        broken(),
        Turn::say("done"),
    ]));
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("parrot", "capabilities: [\"tool: echo\"]\n"));
    run(&mut client, &agent, "go");
    assert_eq!(hints(&rig), [false, false, true, true]);
    wait_for_entry(&rig.daemon, "tool_repeat_guard_fired", |entry| entry["agent_id"] == agent);
    assert_eq!(fired(&mut client), [("echo".to_owned(), 3)]);
    // Control: five calls, two of them equal, in a new run.
    run(&mut client, &agent, "go on");
    assert_eq!(hints(&rig), [false; 5], "nothing is told of a call that came twice in its run");
    assert_eq!(fired(&mut client).len(), 1);
    // Calls that are no calls repeat themselves too.
    run(&mut client, &agent, "once more");
    assert_eq!(hints(&rig), [false, false, true]);
    wait_for_entries(&rig.daemon, &["tool_repeat_guard_fired"], 2);
    assert_eq!(fired(&mut client).len(), 2);
}

#[test]
fn a_client_that_repeats_a_call_is_audited_and_gets_the_same_result() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("parrot", "capabilities: [\"tool: echo\"]\n"));
    for n in 0..3 {
        let different = json!({ "message": n.to_string() });
        invoke(&mut client, &agent, "echo", different).expect("granted");
    }
    for _ in 0..3 {
        let result = invoke(&mut client, &agent, "echo", json!({ "message": "hi" })).expect("granted");
        assert_eq!(result, json!({ "message": "hi" }), "as it is, without a hint");
    }
    wait_for_entry(&rig.daemon, "tool_repeat_guard_fired", |entry| entry["agent_id"] == agent);
    assert_eq!(fired(&mut client), [("echo".to_owned(), 3)], "and none for the three different ones");
}

/// A long message, so that what is reported below stays within what is reserved for a turn.
const LONG: usize = 100_000;
/// What the scripted provider reports for each turn: 16 of them pass 1,000,000.
const DEAR: ReportedUsage = ReportedUsage { input: 50_000, cached: 0, output: 13_000 };
/// Of the turn that hands the long message over; the estimate would be more than is reserved for it.
const CHEAP: ReportedUsage = ReportedUsage { input: 100, cached: 0, output: 100 };
/// Turns after which a run of 1,000,000 tokens has nothing left.
const DEAR_TURNS: usize = 16;

/// Twenty dear turns with a call each, then the end.
fn spender() -> impl FnMut(&SeenRequest) -> Turn + Send {
    |seen| match seen.replies_so_far() {
        20 => Turn::say("done").metered(DEAR),
        n => Turn::call("echo", json!({ "message": n.to_string() })).metered(DEAR),
    }
}

#[test]
fn a_run_without_a_ceiling_ends_at_a_million_tokens() {
    let rig = Rig::new(Script::dynamic(spender()));
    let mut client = rig.client();
    let message = "x".repeat(LONG);
    let echoes = "capabilities: [\"tool: echo\"]\n";
    let agent = spawn(&mut client, &manifest("spender", echoes));
    let go = json!({ "agent_id": agent, "message": message });
    let failure = client.call("agent.run", go.clone()).expect_err("spent");
    assert_eq!((failure.code, &failure.data["reason"]), (1003, &json!("budget_exceeded")), "{failure:?}");
    assert_eq!(failure.data["result"]["stop_reason"], "budget_exceeded");
    assert_eq!(rig.models.requests().len(), DEAR_TURNS, "another turn is not asked for");
    assert!(entries(&mut client, &["overdraft"]).is_empty(), "it is the run's limit, not a reservation");
    assert_eq!(of_agent(wait_for_entries(&rig.daemon, &["budget_exceeded"], 1), &agent).len(), 1);
    // The control: the same run with a purse of its own that holds more.
    let more = format!("{echoes}budget_config: {{ max_tokens: 3000000 }}\n");
    let rich = spawn(&mut client, &manifest("spender", &more));
    let ran = client.call("agent.run", json!({ "agent_id": rich, "message": message })).expect("runs");
    assert_eq!((&ran["stop_reason"], &ran["iterations"]), (&json!("complete"), &json!(21)));
}

#[test]
fn children_spend_from_their_parents_run() {
    let child = "name: child\nmodel: scripted-model\nsystem_prompt: You are child.\n\
                 budget_config: { max_tokens: 50000000 }\ncapabilities: [\"tool: echo\"]\n";
    let spawning = json!({ "manifest": child, "message": "x".repeat(LONG) });
    let mut spends = spender();
    let rig = Rig::new(Script::dynamic(move |seen| match seen.system.contains("You are child.") {
        true => spends(seen),
        false => match seen.replies_so_far() {
            0 => Turn::call("spawn_agent", spawning.clone()).metered(CHEAP),
            _ => Turn::say("done"),
        },
    }));
    let mut client = rig.client();
    let parent =
        "capabilities: [\"tool: spawn_agent\", \"tool: echo\", { spawn_child: [child], delegate: true }]\n";
    let agent = spawn(&mut client, &manifest("parent", parent));
    let failure = client.call("agent.run", json!({ "agent_id": agent, "message": "go" })).expect_err("spent");
    assert_eq!((failure.code, &failure.data["reason"]), (1003, &json!("budget_exceeded")), "{failure:?}");
    let asked = rig.models.requests();
    let by_child = asked.iter().filter(|seen| seen.system.contains("You are child.")).count();
    assert_eq!(
        (by_child, asked.len()),
        (DEAR_TURNS, DEAR_TURNS + 1),
        "the child, once, and the parent, once"
    );
}
