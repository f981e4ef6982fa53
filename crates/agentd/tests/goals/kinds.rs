//! Every kind of journal entry appears: here in one scripted session, or in a test that is named below.

use crate::support::{LEAD_MARK, Rig, assert_intact, entries, next_of_kind, run, spawning, text, write};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use testkit::{
    Client, Daemon, DaemonBuilder, ModelServer, Page, ReportedUsage, Script, SeenRequest, Turn, WebServer,
};

/// Kinds that another test shows, with the file and the test.
const SHOWN_ELSEWHERE: [(&str, &str, &str); 16] = [
    // Somebody has to fork a goal.
    (
        "goal_forked",
        "crates/agentd/tests/fork.rs",
        "another_model_goes_on_from_a_step_in_the_files_of_that_step",
    ),
    (
        "agent_execution_forked",
        "crates/agentd/tests/fork.rs",
        "a_fork_goes_on_after_a_kill_and_asks_only_what_was_in_flight",
    ),
    // An agent has to fail, and a schedule's time has to come.
    (
        "agent_restarted",
        "crates/agentd/tests/rpc/supervision.rs",
        "a_failed_run_is_answered_and_the_agent_goes_on_after_a_rest",
    ),
    (
        "model_climbed",
        "crates/agentd/tests/goals/ladder.rs",
        "a_goal_goes_on_with_the_next_model_for_each_reason",
    ),
    (
        "schedule_fired",
        "crates/agentd/tests/rpc/schedules.rs",
        "a_due_time_that_was_missed_fires_once_across_restarts",
    ),
    (
        "schedule_missed",
        "crates/agentd/tests/rpc/schedules.rs",
        "due_times_that_a_policy_skips_are_recorded_and_do_not_fire",
    ),
    // It takes more refused calls than a session holds otherwise.
    (
        "denials_suppressed",
        "crates/agentd/tests/rpc/limits.rs",
        "a_flood_of_refused_calls_is_counted_and_not_journalled_one_by_one",
    ),
    // A program has to connect.
    (
        "connection_requested",
        "crates/agentd/tests/rpc/proxied.rs",
        "a_program_reaches_a_granted_host_and_each_connection_is_journalled",
    ),
    (
        "connection_ended",
        "crates/agentd/tests/rpc/proxied.rs",
        "a_program_reaches_a_granted_host_and_each_connection_is_journalled",
    ),
    // It depends on the machine: one with control groups for the daemon may lack nothing.
    (
        "confinement_degraded",
        "crates/aaos-runtime/src/far.rs",
        "a_worker_that_lacks_a_preferred_boundary_is_recorded_as_degraded",
    ),
    (
        "audit_stdout_stopped",
        "crates/aaos-journal/src/tests/audit.rs",
        "a_broken_output_is_journalled_once_and_the_journal_goes_on",
    ),
    // A conversation has to outgrow its window.
    (
        "context_summarized",
        "crates/agentd/tests/rpc/long_talks.rs",
        "three_hundred_turns_in_a_small_window_end_with_the_goal_and_every_word_in_the_prompt",
    ),
    (
        "context_summarization_failed",
        "crates/agentd/tests/rpc/long_talks.rs",
        "a_summary_that_cannot_be_had_is_told_and_the_run_goes_on",
    ),
    // It takes a week.
    (
        "workspace_removed",
        "crates/agentd/tests/workspaces.rs",
        "what_is_older_than_a_week_is_removed_and_links_lead_nowhere",
    ),
    (
        "journal_pruned",
        "crates/agentd/tests/audit_files.rs",
        "what_was_archived_is_told_of_and_reading_it_names_the_archive",
    ),
    // Never recorded: it stands in for a body that was erased.
    (
        "body_erased",
        "crates/aaos-journal/src/tests/chain.rs",
        "an_erased_body_that_no_state_rests_on_is_reported_and_breaks_nothing",
    ),
];

/// Kinds of SPEC §5 and of the code whose cause is not built yet, with the issue that builds it.
const NOT_BUILT_YET: [(&str, u32); 3] =
    [("memory_stored", 7), ("memory_queried", 7), ("session_store_error", 7)];

/// The 23 names of SPEC §5.
const ALWAYS: [&str; 23] = [
    "agent_spawned",
    "agent_stopped",
    "agent_execution_started",
    "agent_execution_completed",
    "agent_loop_started",
    "agent_loop_stopped",
    "agent_message_received",
    "capability_granted",
    "capability_denied",
    "capability_revoked",
    "tool_invoked",
    "tool_result",
    "usage_reported",
    "message_sent",
    "message_delivered",
    "human_approval_requested",
    "human_approval_granted",
    "human_approval_denied",
    "context_summarized",
    "context_summarization_failed",
    "memory_stored",
    "memory_queried",
    "session_store_error",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every kind that the code can write.
fn kinds_in_code() -> BTreeSet<String> {
    aaos_core::event::EVENT_KINDS.iter().map(|kind| (*kind).to_owned()).collect()
}

/// What goes wrong once, then a good deal of everything.
fn script(url: &str) -> impl FnMut(&SeenRequest) -> Turn + Send + use<> {
    let echo = || Turn::call("echo", json!({ "message": "again" }));
    let dear = ReportedUsage { input: 40_000, cached: 0, output: 60_000 };
    // Five turns take exactly the budget of 20,000.
    let fair = ReportedUsage { input: 3_900, cached: 0, output: 100 };
    let mut lead = [
        Turn::retry_after(429, 0),
        echo(),
        echo(),
        echo(),
        Turn::call("web_fetch", json!({ "url": url })),
        write("/etc/aaos-test-denied", "x"),
        Turn::call("spawn_agent", spawning("weak", &[], "Try.")),
        Turn::say("done"),
        echo().metered(dear),
    ]
    .into_iter()
    .chain(std::iter::repeat_with(move || echo().metered(fair)));
    let mut held = false;
    move |seen| {
        if seen.system.contains("You hold.") && !std::mem::replace(&mut held, true) {
            return Turn::Hang;
        }
        if seen.system.contains(LEAD_MARK) {
            return lead.next().expect("the last turn repeats");
        }
        if seen.system.contains("You are the weak.") && !seen.first_user_text().contains("earlier attempt") {
            return Turn::Truncated { text: "half".into() };
        }
        Turn::say("here")
    }
}

/// A persistent agent takes a message, is paused, resumed and stopped.
fn converse(client: &mut Client) {
    let manifest = "name: keeper\nmodel: fast\nsystem_prompt: You keep.\nlifecycle: persistent\n";
    let agent =
        text(&client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawns")["agent_id"]);
    let of_agent = json!({ "agent_id": agent });
    client.call("agent.pause", of_agent.clone()).expect("pauses");
    let message = json!({ "agent_id": agent, "message": "hello" });
    let trace = client.call("agent.run", message).expect("delivers")["trace_id"].take();
    client.call("agent.resume", of_agent.clone()).expect("resumes");
    let reply =
        client.call("agent.result", json!({ "trace_id": trace, "wait_seconds": 30 })).expect("a reply");
    assert_eq!(reply["status"], "done", "{reply}");
    client.call("agent.stop", of_agent).expect("stops");
}

/// A persistent agent's run is cut short by a kill and goes on.
fn cut_short(daemon: Daemon, models: &ModelServer) -> Daemon {
    let mut client = daemon.client();
    let manifest = "name: holder\nmodel: fast\nsystem_prompt: You hold.\nlifecycle: persistent\n";
    let agent =
        text(&client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawns")["agent_id"]);
    let asked = models.requests().len();
    let message = json!({ "agent_id": agent, "message": "hello" });
    let trace = client.call("agent.run", message).expect("delivers")["trace_id"].take();
    assert_eq!(models.wait_for_requests(asked + 1).len(), asked + 1);
    let daemon = daemon.kill9().start();
    let wait = json!({ "trace_id": trace, "wait_seconds": 30 });
    let reply = daemon.client().call("agent.result", wait).expect("a reply");
    assert_eq!(reply["status"], "done", "{reply}");
    daemon
}

/// Calls that wait for a person: one is approved, one is denied. Then the grant is revoked.
fn ask(client: &mut Client) {
    let manifest = "name: asker\nmodel: fast\nsystem_prompt: You ask.\ncapabilities: [\"tool: echo\"]\n\
                    approval_required: [echo]\n";
    let agent =
        text(&client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawns")["agent_id"]);
    client.send("audit.stream", json!({ "kinds": ["human_approval_requested"] }));
    for decision in ["approve", "deny"] {
        let call = json!({ "agent_id": agent, "tool": "echo", "input": { "message": decision } });
        let call = client.send("tool.invoke", call);
        let asked = next_of_kind(client, "human_approval_requested");
        let answer = json!({ "id": asked["event"]["question"]["id"], "decision": decision });
        client.call("approval.respond", answer).expect("it is open");
        assert_eq!(client.reply_to(call).is_ok(), decision == "approve");
    }
    let held = client.call("capability.list", json!({ "agent_id": agent })).expect("a list");
    let grant = json!({ "agent_id": agent, "grant_id": held["grants"][0]["id"] });
    client.call("capability.revoke", grant).expect("revoked");
    client.call("agent.stop", json!({ "agent_id": agent })).expect("stops");
}

#[test]
fn every_kind_of_entry_appears() {
    let web = WebServer::start([("/page", Page::Text("a page".into()))]);
    let work = crate::support::Work::new(testkit::scratch());
    let models = ModelServer::start(Script::dynamic(script(&web.url("/page"))));
    let builder = DaemonBuilder::openai(&models);
    let daemon = builder.start();
    let mut client = daemon.client();
    let mut goal = work.goal(&[]);
    goal["grants"].as_array_mut().expect("a list").push(json!(format!("network: {}", web.authority())));
    run(&mut client, goal.clone()).assert_ended("done", 0);
    goal["budget"] = json!({ "max_tokens": 20_000 });
    run(&mut client, goal.clone()).assert_ended("failed", 4);
    run(&mut client, goal).assert_ended("failed", 4);
    converse(&mut client);
    ask(&mut client);
    drop(client);
    let daemon = cut_short(daemon, &models);
    let (status, builder) = daemon.terminate();
    assert!(status.success(), "a good end: {status}");
    let daemon = builder.start();
    let journal = entries(&mut daemon.client(), json!({}));
    assert_intact(&mut daemon.client());
    let seen: BTreeSet<String> = journal.iter().map(|entry| text(&entry["event"]["kind"])).collect();
    let mut accounted = seen.clone();
    accounted.extend(SHOWN_ELSEWHERE.iter().map(|(kind, ..)| (*kind).to_owned()));
    accounted.extend(NOT_BUILT_YET.iter().map(|(kind, _)| (*kind).to_owned()));
    let missing: Vec<String> = kinds_in_code().difference(&accounted).cloned().collect();
    assert_eq!(missing, Vec::<String>::new(), "kinds that no test shows");
    let missing: Vec<&str> = ALWAYS.into_iter().filter(|kind| !accounted.contains(*kind)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "names of SPEC §5 that nothing accounts for");
    let built: Vec<&(&str, u32)> = NOT_BUILT_YET.iter().filter(|(kind, _)| seen.contains(*kind)).collect();
    assert!(built.is_empty(), "no longer unbuilt: {built:?}");
}

#[test]
fn kinds_that_are_shown_elsewhere_are_shown_there() {
    for (kind, file, test) in SHOWN_ELSEWHERE {
        let source = std::fs::read_to_string(repository().join(file)).expect("reads");
        assert!(source.contains(test), "{kind}: {test} is not in {file}");
    }
}

#[test]
fn every_entry_has_the_envelope_of_the_spec() {
    let rig = Rig::lead(|_| [Turn::call("echo", json!({ "message": "x" })), Turn::say("done")]);
    let ran = rig.run(rig.work.goal(&[]));
    let journal = rig.journal();
    let mut previous: Option<&Value> = None;
    for (at, entry) in journal.iter().enumerate() {
        assert_eq!(entry["seq"], json!(at + 1), "without gaps");
        for member in ["id", "prev_hash", "hash"] {
            assert!(entry[member].is_string(), "{member} in {entry}");
        }
        assert!(entry["timestamp"].is_u64() && entry["event"]["kind"].is_string(), "{entry}");
        if let Some(previous) = previous {
            assert_eq!(entry["prev_hash"], previous["hash"]);
            assert!(entry["timestamp"].as_u64() >= previous["timestamp"].as_u64(), "time does not go back");
        }
        previous = Some(entry);
    }
    let (call, result) = (ran.of_kind("tool_invoked")[0], ran.of_kind("tool_result")[0]);
    assert_eq!(result["parent_event"], call["id"], "an outcome names its intent");
}
