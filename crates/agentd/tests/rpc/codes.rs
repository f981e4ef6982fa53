//! The error codes of SPEC §3 that take more than a wrong parameter: 1002 to 1008.

use crate::support::{
    NOBODY, Rig, assert_serves, deliver, entries, invoke, manifest, persistent, result_of, spawn, text,
    wait_for_entries,
};
use serde_json::{Value, json};
use testkit::{DaemonBuilder, Gate, ModelServer, ReportedUsage, Script, Turn};

const OVER_ONE_MIB: usize = 1024 * 1024 + 1;

#[test]
fn what_is_not_granted_is_1002_and_audited() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let home = testkit::scratch();
    std::fs::write(home.path().join("secret"), "s").expect("writes");
    let path = home.path().join("secret");
    let nothing = spawn(&mut client, &manifest("nothing", ""));
    let tool_only = spawn(&mut client, &manifest("tool-only", "capabilities: [\"tool: file_read\"]\n"));
    let root_only = format!("capabilities: [\"file_read: {}/*\"]\n", home.path().display());
    let root_only = spawn(&mut client, &manifest("root-only", &root_only));
    for agent in [&nothing, &tool_only, &root_only] {
        let failure = invoke(&mut client, agent, "file_read", json!({ "path": path })).expect_err("denied");
        assert_eq!((failure.code, &failure.data["reason"]), (1002, &json!("denied")), "{failure:?}");
    }
    let denials = wait_for_entries(&rig.daemon, &["capability_denied"], 3);
    assert_eq!(denials.len(), 3);
    assert!(entries(&mut client, &["tool_invoked"]).is_empty(), "a denied call has no intent");
    // The control: both rights together.
    let both = format!("capabilities: [\"tool: file_read\", \"file_read: {}/*\"]\n", home.path().display());
    let both = spawn(&mut client, &manifest("both", &both));
    let read = invoke(&mut client, &both, "file_read", json!({ "path": path })).expect("granted");
    assert_eq!(read, json!({ "content": "s", "size_bytes": 1 }));
}

#[test]
fn uses_are_counted_and_the_last_one_is_1002() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let twice = manifest("twice", "capabilities: [{ tool: echo, max_invocations: 2 }]\n");
    let twice = spawn(&mut client, &twice);
    for _ in 0..2 {
        invoke(&mut client, &twice, "echo", json!({ "message": "hi" })).expect("has uses left");
    }
    let failure = invoke(&mut client, &twice, "echo", json!({ "message": "hi" })).expect_err("used up");
    assert_eq!(failure.code, 1002, "{failure:?}");
}

#[test]
fn an_unknown_tool_is_1001_and_a_missing_file_too() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let home = testkit::scratch();
    let root = home.path().display();
    let more = format!("capabilities: [\"tool: *\", \"file_read: {root}/*\"]\n");
    let agent = spawn(&mut client, &manifest("looker", &more));
    let unknown = invoke(&mut client, &agent, "file_shred", json!({})).expect_err("no such tool");
    assert_eq!((unknown.code, &unknown.data["reason"]), (1001, &json!("not_found")), "{unknown:?}");
    let missing = json!({ "path": home.path().join("none") });
    let missing = invoke(&mut client, &agent, "file_read", missing).expect_err("no such file");
    assert_eq!((missing.code, &missing.data["reason"]), (1001, &json!("not_found")), "{missing:?}");
    std::fs::write(home.path().join("bytes"), [0xff, 0xfe, 0x00]).expect("writes");
    let bytes = json!({ "path": home.path().join("bytes") });
    let failed = invoke(&mut client, &agent, "file_read", bytes).expect_err("not UTF-8");
    assert_eq!((failed.code, &failed.data["reason"]), (1009, &json!("not_utf8")), "{failed:?}");
}

#[test]
fn an_empty_purse_is_1003_and_shows_what_was_done() {
    let spent = ReportedUsage { input: 700, cached: 0, output: 200 };
    let rig = Rig::new(Script::dynamic(move |_| {
        Turn::SayAndCall { text: "so far".into(), calls: vec![("echo".into(), json!({ "message": "hi" }))] }
            .metered(spent)
    }));
    let mut client = rig.client();
    let poor = "capabilities: [\"tool: echo\"]\nbudget_config: { max_tokens: 1000 }\n";
    let agent = spawn(&mut client, &manifest("poor", poor));
    let failure = client.call("agent.run", json!({ "agent_id": agent, "message": "go" })).expect_err("spent");
    assert_eq!((failure.code, &failure.data["reason"]), (1003, &json!("budget_exceeded")), "{failure:?}");
    let run = &failure.data["result"];
    assert_eq!((&run["stop_reason"], &run["response"]), (&json!("budget_exceeded"), &json!("so far")));
    assert!(!wait_for_entries(&rig.daemon, &["budget_exceeded", "overdraft"], 1).is_empty(), "audited");
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("still there");
    assert!(status["purse"]["used"].as_u64() >= Some(900), "{status}");
    let params = json!({ "manifest": manifest("poor", poor), "message": "go" });
    let failure = client.call("agent.spawn_and_run", params).expect_err("spent");
    assert_eq!(failure.code, 1003, "{failure:?}");
    let agents = client.call("agent.list", json!({})).expect("a list");
    assert_eq!(agents["agents"].as_array().map(Vec::len), Some(1), "the brief agent is gone all the same");
}

#[test]
fn a_failing_provider_is_1006() {
    let rig = Rig::new(Script::dynamic(|_| Turn::status(401)));
    let mut client = rig.client();
    let agent = spawn(&mut client, &manifest("asker", ""));
    let failure = client.call("agent.run", json!({ "agent_id": agent, "message": "go" })).expect_err("401");
    assert_eq!((failure.code, &failure.data["reason"]), (1006, &json!("unauthorized")), "{failure:?}");
    assert_eq!(failure.data["result"]["stop_reason"], "error");
    let params = json!({ "manifest": manifest("asker", ""), "message": "go" });
    let failure = client.call("agent.spawn_and_run", params).expect_err("401");
    assert_eq!(failure.code, 1006, "{failure:?}");
    // A persistent agent's failure is in its report, and the next message is taken all the same.
    let keeper = spawn(&mut client, &persistent("keeper"));
    for _ in 0..2 {
        let trace = deliver(&mut client, &keeper, "go");
        let report = result_of(&mut client, &trace);
        assert_eq!(
            (&report["status"], &report["result"]["stop_reason"]),
            (&json!("failed"), &json!("error"))
        );
    }
}

#[test]
fn a_full_mailbox_is_1004_and_the_waiting_messages_are_answered() {
    let gate = Gate::new();
    let rig = Rig::gated(&gate);
    let mut client = rig.client();
    let agent = rig.spawn(&persistent("busy"));
    let mut traces = vec![deliver(&mut client, &agent, "first")];
    let requests = rig.models.wait_for_requests(1);
    assert_eq!(requests.len(), 1, "the first message has left the mailbox");
    traces.extend((0..64).map(|number| deliver(&mut client, &agent, &format!("m{number}"))));
    let before = entries(&mut client, &["message_delivered"]).len();
    let params = json!({ "agent_id": agent, "message": "one too many" });
    let failure = client.call("agent.run", params.clone()).expect_err("full");
    assert_eq!((failure.code, &failure.data["reason"]), (1004, &json!("limit_reached")), "{failure:?}");
    assert!(failure.message.contains("full"), "{}", failure.message);
    assert_eq!(
        entries(&mut client, &["message_delivered"]).len(),
        before,
        "what was refused is not recorded"
    );
    assert_serves(&rig.daemon);
    gate.open();
    for (at, trace) in traces.iter().enumerate() {
        assert_eq!(result_of(&mut client, trace)["status"], "done", "message {at}");
    }
    let trace = text(&client.call("agent.run", params).expect("room again")["trace_id"]);
    assert_eq!(result_of(&mut client, &trace)["result"]["response"], "re: one too many");
}

#[test]
fn what_is_too_long_is_1004() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let long = "x".repeat(OVER_ONE_MIB);
    let on_demand = spawn(&mut client, &manifest("short", ""));
    let keeper = spawn(&mut client, &persistent("keeper"));
    for agent in [&on_demand, &keeper] {
        let failure =
            client.call("agent.run", json!({ "agent_id": agent, "message": long })).expect_err("long");
        assert_eq!(failure.code, 1004, "{}", failure.message);
    }
    let params = json!({ "manifest": manifest("short", ""), "message": long });
    assert_eq!(client.call("agent.spawn_and_run", params).expect_err("long").code, 1004);
    let params = json!({ "goal": long, "manifest": manifest("root", "") });
    assert_eq!(client.call("goal.submit", params).expect_err("long").code, 1004);
    let params = json!({ "agent_id": on_demand, "message": "x".repeat(OVER_ONE_MIB - 1) });
    client.call("agent.run", params).expect("the limit itself is allowed");
}

#[test]
fn one_agent_too_many_is_1004() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = DaemonBuilder::openai(&models).env("AAOS_MAX_AGENTS", "2").start();
    let mut client = daemon.client();
    let first = spawn(&mut client, &manifest("one", ""));
    let second = spawn(&mut client, &manifest("two", ""));
    let spawn_third = json!({ "manifest": manifest("three", "") });
    let failure = client.call("agent.spawn", spawn_third.clone()).expect_err("full");
    assert_eq!((failure.code, &failure.data["reason"]), (1004, &json!("limit_reached")), "{failure:?}");
    client.call("agent.stop", json!({ "agent_id": first })).expect("stops");
    client.call("agent.spawn", spawn_third).expect("the place is free again");
    assert_ne!(first, second);
}

#[test]
fn waiters_are_told_1007_when_the_daemon_closes() {
    let gate = Gate::new();
    let rig = Rig::gated(&gate);
    let (mut waiter, mut streamer) = (rig.client(), rig.client());
    let agent = rig.spawn(&persistent("held"));
    let first = deliver(&mut rig.client(), &agent, "first");
    assert_eq!(rig.models.wait_for_requests(1).len(), 1);
    let second = deliver(&mut rig.client(), &agent, "second");
    let wait = waiter.send("agent.result", json!({ "trace_id": second, "wait_seconds": 600 }));
    let stream = streamer.send("audit.stream", json!({}));
    let shown = streamer.notification().expect("the stream runs");
    assert_eq!(shown["params"]["kind"], "event");
    // Answered in the order asked on one connection that is read one line at a time: the wait has begun.
    assert_eq!(
        waiter.call("agent.result", json!({ "trace_id": first })).expect("known")["status"],
        "pending"
    );
    let (status, _builder) = rig.daemon.terminate();
    assert_eq!(status.code(), Some(1), "the reply of the model was given up: {status}");
    for failure in
        [waiter.reply_to(wait).expect_err("closing"), streamer.reply_to(stream).expect_err("closing")]
    {
        assert_eq!((failure.code, &failure.data["reason"]), (1007, &json!("shutting_down")), "{failure:?}");
    }
}

#[test]
fn confinement_that_cannot_be_had_is_1008_and_nothing_runs() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("done")));
    let daemon = DaemonBuilder::openai(&models).start();
    let echoing = manifest("echoing", "capabilities: [\"tool: echo\"]\n");
    let agent = spawn(&mut daemon.client(), &echoing);
    let echo = json!({ "message": "hi" });
    assert_eq!(invoke(&mut daemon.client(), &agent, "echo", echo.clone()).expect("confined"), echo);
    let builder = daemon.kill9();
    let config = builder.home().join("config/aaos");
    std::fs::create_dir_all(&config).expect("makes the directory");
    let policy = "[confinement]\nrequire = [\"no_new_privs\", \"seccomp\", \"landlock\"]\nprefer = []\n\
                  landlock_abi = 99\n";
    std::fs::write(config.join("config.toml"), policy).expect("writes");
    let strict = builder.start();
    let mut client = strict.client();
    let before = entries(&mut client, &["worker_started"]).len();
    let failure = invoke(&mut client, &agent, "echo", echo).expect_err("cannot be confined");
    let reason = &failure.data["reason"];
    assert_eq!((failure.code, reason), (1008, &json!("confinement_unavailable")), "{failure:?}");
    let failure = client.call("agent.spawn", json!({ "manifest": echoing })).expect_err("no gateway");
    assert_eq!(failure.code, 1008, "{failure:?}");
    let failure =
        client.call("agent.run", json!({ "agent_id": NOBODY, "message": "x" })).expect_err("unknown");
    assert_eq!(failure.code, 1001, "a policy that cannot be met hides no other error");
    assert_eq!(entries(&mut client, &["worker_started"]).len(), before, "no worker ran");
    assert!(models.requests().is_empty(), "and no model was asked");
    let status = client.call("runtime.status", json!({})).expect("status answers all the same");
    assert!(status["providers_problem"].is_string(), "{status}");
    let denied: Vec<Value> = wait_for_entries(&strict, &["tool_result"], 1);
    assert_eq!(denied.last().expect("recorded")["event"]["failure"]["kind"], "confinement_unavailable");
}
