//! What a person is asked, and that nothing goes round the question. Each with the control: the same without it runs.

#[path = "in_force.rs"]
mod in_force;

use crate::support::{
    Rig, assert_intact, assert_members, entries, invoke, manifest, spawn, text, wait_for_entry,
};
use aaos_core::event::content_hash;
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Instant;
use testkit::{Client, Daemon, PATIENCE};

/// An agent of one daemon that may write below a directory, and the connection on which its calls wait.
struct Desk {
    daemon: Daemon,
    _models: testkit::ModelServer,
    home: tempfile::TempDir,
    agent: String,
    calls: Client,
}

const ASKS: &str = "approval_required: [file_write]\n";

impl Desk {
    fn new(more: &str) -> Self {
        Self::with(more, "")
    }

    /// With further fields, and with constraints on its write grant.
    fn with(more: &str, constraints: &str) -> Self {
        let rig = Rig::saying("done");
        let home = testkit::scratch();
        for folder in ["in", "in/sub", "in/other"] {
            std::fs::create_dir(home.path().join(folder)).expect("makes a folder");
        }
        let mut calls = rig.client();
        let root = format!("{}/in/*", home.path().display());
        let capabilities = format!(
            "capabilities:\n  - \"tool: *\"\n  - {{ file_write: \"{root}\"{constraints} }}\n  - \
             \"file_read: {root}\"\n{more}"
        );
        let agent = spawn(&mut calls, &manifest("writer", &capabilities));
        Self { daemon: rig.daemon, _models: rig.models, home, agent, calls }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.home.path().join("in").join(below)
    }

    /// Begins a call that waits; its reply is read later.
    #[expect(clippy::needless_pass_by_value, reason = "tests write json!() in place")]
    fn begin(&mut self, tool: &str, input: Value) -> u64 {
        let params = json!({ "agent_id": self.agent, "tool": tool, "input": input });
        self.calls.send("tool.invoke", params)
    }

    fn begin_write(&mut self, below: &str, content: &str) -> u64 {
        let input = json!({ "path": self.path(below), "content": content });
        self.begin("file_write", input)
    }

    /// The one question that is open, once it is.
    fn question(&self, number: usize) -> Value {
        question(&self.daemon, number)
    }

    fn answer(&self, question: &Value, decision: &str) {
        answer(&self.daemon, json!({ "id": question["id"], "decision": decision }));
    }

    #[expect(clippy::needless_pass_by_value, reason = "tests write json!() in place")]
    fn approve(&self, question: &Value, scope: Value) {
        answer(&self.daemon, json!({ "id": question["id"], "decision": "approve", "scope": scope }));
    }

    fn restarted(self, daemon: impl FnOnce(Daemon) -> testkit::DaemonBuilder) -> Self {
        let daemon = daemon(self.daemon).start();
        let calls = daemon.client();
        Self { daemon, calls, ..self }
    }
}

/// Waits until `number` questions were asked in all, and gives the one that is open.
fn question(daemon: &Daemon, number: usize) -> Value {
    let seen = Cell::new(0);
    let asked = wait_for_entry(daemon, "human_approval_requested", |_| {
        seen.set(seen.get() + 1);
        seen.get() == number
    });
    let pending = pending(&mut daemon.client());
    let found = pending.iter().find(|one| one["id"] == asked["event"]["question"]["id"]);
    found.unwrap_or_else(|| panic!("{asked} is not listed: {pending:?}")).clone()
}

fn pending(client: &mut Client) -> Vec<Value> {
    let list = client.call("approval.list", json!({})).expect("a list");
    list["pending"].as_array().expect("a list").clone()
}

fn answer(daemon: &Daemon, params: Value) {
    let done = daemon.client().call("approval.respond", params);
    assert_eq!(done.expect("it is open"), json!({ "ok": true }));
}

fn of_kind(daemon: &Daemon, kind: &str) -> Vec<Value> {
    entries(&mut daemon.client(), &[kind])
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[test]
fn a_call_waits_for_a_person_and_runs_once_approved() {
    let mut desk = Desk::new(ASKS);
    std::fs::write(desk.path("a.txt"), "before").expect("writes");
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    assert_members(
        &asked,
        &["id", "agent_id", "agent_name", "description", "tool", "input", "timestamp", "deadline", "because"],
    );
    assert_eq!((&asked["agent_id"], &asked["tool"]), (&json!(desk.agent), &json!("file_write")));
    assert_eq!(asked["input"]["content"], "after");
    let words = text(&asked["description"]);
    assert!(words.contains("agent writer wants to use file_write"), "{words}");
    assert!(words.contains(&format!("{:?}", desk.path("a.txt").display().to_string())), "{words}");
    let target = &asked["targets"][0];
    assert_eq!(target["content_hash"], content_hash(b"before"), "{target}");
    assert_eq!(target["place"], target["path"], "{target}");
    let wait = asked["deadline"].as_u64().expect("a time") - asked["timestamp"].as_u64().expect("a time");
    assert!((3_599_000..=3_601_000).contains(&wait), "an hour: {wait}");
    let status = desk.daemon.client().call("agent.status", json!({ "agent_id": desk.agent })).expect("known");
    let waits = format!("approval {} of file_write", text(&asked["id"]));
    assert_eq!(status["waiting_for"], json!(waits));
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("before"), "nothing happens before the answer");
    assert!(of_kind(&desk.daemon, "tool_invoked").is_empty());
    desk.answer(&asked, "approve");
    assert_eq!(desk.calls.reply_to(call).expect("approved")["result"], json!({ "bytes_written": 5 }));
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("after"));
    let granted = of_kind(&desk.daemon, "human_approval_granted");
    assert_eq!(granted.len(), 1, "{granted:?}");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(granted[0]["event"]["principal"], uid);
    assert!(pending(&mut desk.daemon.client()).is_empty(), "it is answered");
    let status = desk.daemon.client().call("agent.status", json!({ "agent_id": desk.agent })).expect("known");
    assert_eq!(status["waiting_for"], Value::Null);
    // The same call once more is another call.
    let again = desk.begin_write("a.txt", "after");
    let second = desk.question(2);
    assert_ne!(second["id"], asked["id"]);
    desk.answer(&second, "deny");
    desk.calls.reply_to(again).expect_err("denied");
    assert_intact(&mut desk.daemon.client());
}

#[test]
fn without_approval_required_the_same_call_runs_at_once() {
    let mut desk = Desk::new("approval_required: [file_edit]\n");
    let call = desk.begin_write("a.txt", "after");
    desk.calls.reply_to(call).expect("nobody is asked");
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("after"));
    assert!(of_kind(&desk.daemon, "human_approval_requested").is_empty());
}

#[test]
fn a_denial_is_told_with_its_reason_and_nothing_happens() {
    let mut desk = Desk::new(ASKS);
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    let id = &asked["id"];
    answer(&desk.daemon, json!({ "id": id, "decision": "deny", "reason": "not this one" }));
    let failure = desk.calls.reply_to(call).expect_err("denied");
    assert_eq!(failure.code, 1005, "{failure:?}");
    assert!(failure.message.contains("not this one"), "{failure:?}");
    assert_eq!(read(desk.path("a.txt")), None);
    let denied = of_kind(&desk.daemon, "human_approval_denied");
    assert_eq!(
        (&denied[0]["event"]["approval"], &denied[0]["event"]["reason"]),
        (id, &json!("not this one"))
    );
    let mut client = desk.daemon.client();
    for decision in ["approve", "deny"] {
        let late = client.call("approval.respond", json!({ "id": id, "decision": decision }));
        assert_eq!(late.expect_err("answered already").code, 1001);
    }
    let nobody =
        client.call("approval.respond", json!({ "id": crate::support::NOBODY, "decision": "approve" }));
    assert_eq!(nobody.expect_err("never asked").code, 1001);
}

#[test]
fn other_arguments_of_the_same_tool_are_not_covered() {
    let mut desk = Desk::new(ASKS);
    let first = desk.begin_write("a.txt", "one");
    let asked = desk.question(1);
    let other = desk.begin_write("a.txt", "two");
    let asked_too = desk.question(2);
    desk.answer(&asked, "approve");
    desk.calls.reply_to(first).expect("approved");
    assert_eq!(pending(&mut desk.daemon.client()).len(), 1, "the other one still waits");
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("one"));
    desk.answer(&asked_too, "deny");
    assert_eq!(desk.calls.reply_to(other).expect_err("denied").code, 1005);
}

#[test]
fn of_many_answers_at_once_exactly_one_wins() {
    let mut desk = Desk::new(ASKS);
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    let won: usize = std::thread::scope(|scope| {
        let answers: Vec<_> = (0..8)
            .map(|number| {
                let decision = if number % 2 == 0 { "approve" } else { "deny" };
                let params = json!({ "id": asked["id"], "decision": decision });
                let mut client = desk.daemon.client();
                scope.spawn(move || client.call("approval.respond", params))
            })
            .collect();
        let codes = answers.into_iter().map(|one| one.join().expect("answers").map_err(|error| error.code));
        codes
            .inspect(|code| assert!(matches!(code, Ok(_) | Err(1001)), "{code:?}"))
            .filter(Result::is_ok)
            .count()
    });
    assert_eq!(won, 1);
    let ran = desk.calls.reply_to(call).is_ok();
    assert_eq!(of_kind(&desk.daemon, "human_approval_granted").len(), usize::from(ran));
    assert_eq!(of_kind(&desk.daemon, "human_approval_denied").len(), usize::from(!ran));
    assert_eq!(read(desk.path("a.txt")).is_some(), ran);
}

#[test]
fn a_grant_that_asks_is_asked_about_through_any_tool() {
    let mut desk = Desk::with("", ", approval_required: true");
    std::fs::write(desk.path("a.txt"), "before").expect("writes");
    let read_back =
        invoke(&mut desk.daemon.client(), &desk.agent, "file_read", json!({ "path": desk.path("a.txt") }));
    assert_eq!(read_back.expect("the control: another grant")["content"], "before");
    let edit = json!({ "path": desk.path("a.txt"), "old_string": "before", "new_string": "after" });
    for (number, (tool, input)) in
        [("file_edit", edit), ("file_write", json!({ "path": desk.path("a.txt"), "content": "x" }))]
            .into_iter()
            .enumerate()
    {
        let call = desk.begin(tool, input);
        let asked = desk.question(number + 1);
        assert!(text(&asked["because"]).contains("grant"), "{asked}");
        let words = asked["grants"].as_array().expect("a list");
        assert!(words.iter().any(|one| text(one).contains("approval_required: true")), "{asked}");
        desk.answer(&asked, "deny");
        assert_eq!(desk.calls.reply_to(call).expect_err("denied").code, 1005);
    }
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("before"));
}

#[test]
fn a_scoped_approval_covers_so_many_uses_below_a_place() {
    let mut desk = Desk::new(ASKS);
    let first = desk.begin_write("sub/1.txt", "x");
    let asked = desk.question(1);
    let below = format!("{}/*", desk.path("sub").display());
    let mut client = desk.daemon.client();
    for (scope, why) in [
        (json!({ "below": format!("{}/*", desk.path("other").display()) }), "it does not lie there"),
        (json!({ "uses": 0 }), "no use"),
        (json!({ "uses": 10_001 }), "too many uses"),
        (json!({ "below": below, "for_gaol": true }), "a misspelt member"),
    ] {
        let params = json!({ "id": asked["id"], "decision": "approve", "scope": scope });
        let refused = client.call("approval.respond", params).expect_err(why);
        assert_eq!(refused.code, -32602, "{why}: {refused:?}");
    }
    desk.approve(&asked, json!({ "below": below, "uses": 3 }));
    desk.calls.reply_to(first).expect("the first use");
    for name in ["sub/2.txt", "sub/new/3.txt"] {
        let call = desk.begin_write(name, "x");
        desk.calls.reply_to(call).expect("covered");
        assert!(desk.path(name).exists());
    }
    assert_eq!(
        of_kind(&desk.daemon, "human_approval_requested").len(),
        1,
        "one decision covered three calls"
    );
    let fourth = desk.begin_write("sub/4.txt", "x");
    let asked = desk.question(2);
    desk.approve(&asked, json!({ "below": below, "uses": 5 }));
    desk.calls.reply_to(fourth).expect("approved anew");
    // Uses are left, and the path lies elsewhere.
    for (number, name) in ["a.txt", "sub/../a.txt", "subordinate.txt"].into_iter().enumerate() {
        let outside = desk.begin_write(name, "x");
        let asked = desk.question(3 + number);
        desk.answer(&asked, "deny");
        assert_eq!(desk.calls.reply_to(outside).expect_err("not covered").code, 1005, "{name}");
    }
    let within = desk.begin_write("sub/5.txt", "x");
    desk.calls.reply_to(within).expect("the control: still covered");
}

#[test]
fn below_an_approved_place_no_link_leads_elsewhere() {
    let mut desk = Desk::new("approval_required: [file_write, file_read, grep]\n");
    std::os::unix::fs::symlink("../other", desk.path("sub/way")).expect("links");
    std::fs::write(desk.path("other/old.txt"), "elsewhere").expect("writes");
    let below = format!("{}/*", desk.path("sub").display());
    let path = |desk: &Desk, name: &str| desk.path(name).display().to_string();
    let calls = [
        ("file_read", json!({ "path": path(&desk, "sub/way/old.txt") })),
        ("grep", json!({ "path": path(&desk, "sub/way"), "pattern": "elsewhere" })),
        ("file_write", json!({ "path": path(&desk, "sub/way/new.txt"), "content": "x" })),
    ];
    for (number, (tool, input)) in calls.into_iter().enumerate() {
        let through = desk.begin(tool, input.clone());
        let asked = desk.question(2 * number + 1);
        desk.approve(&asked, json!({ "below": below }));
        let refused = desk.calls.reply_to(through).expect_err("a link is not followed");
        assert_eq!(refused.code, 1002, "{tool}: {refused:?}");
        assert!(!desk.path("other/new.txt").exists());
        // The control: the very same call, approved as it is, follows the link.
        let exactly = desk.begin(tool, input);
        let asked = desk.question(2 * number + 2);
        desk.answer(&asked, "approve");
        desk.calls.reply_to(exactly).unwrap_or_else(|failure| panic!("{tool}: {failure:?}"));
    }
    assert!(desk.path("other/new.txt").exists(), "written through the link");
}

#[test]
fn a_target_that_changed_since_the_question_is_asked_about_anew() {
    let mut desk = Desk::new(ASKS);
    std::fs::write(desk.path("a.txt"), "shown").expect("writes");
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    std::fs::write(desk.path("a.txt"), "changed").expect("writes");
    desk.answer(&asked, "approve");
    let anew = desk.question(2);
    assert_eq!(anew["targets"][0]["content_hash"], content_hash(b"changed"));
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("changed"), "nothing was written");
    let withdrawn = of_kind(&desk.daemon, "human_approval_denied");
    assert_eq!(
        (&withdrawn[0]["event"]["approval"], &withdrawn[0]["event"]["principal"]),
        (&asked["id"], &Value::Null)
    );
    // The withdrawn approval is gone for good, after a restart too.
    desk.answer(&anew, "approve");
    desk.calls.reply_to(call).expect("unchanged since it was shown");
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("after"));
    std::fs::write(desk.path("a.txt"), "shown").expect("writes");
    let mut desk = desk.restarted(Daemon::kill9);
    let again = desk.begin_write("a.txt", "after");
    let asked = desk.question(3);
    desk.answer(&asked, "deny");
    assert_eq!(desk.calls.reply_to(again).expect_err("denied").code, 1005);
}

#[test]
fn a_target_that_changes_every_time_is_denied_in_the_end() {
    let mut desk = Desk::new(ASKS);
    let call = desk.begin_write("a.txt", "after");
    for number in 1..=3 {
        let asked = desk.question(number);
        std::fs::write(desk.path("a.txt"), format!("version {number}")).expect("writes");
        desk.answer(&asked, "approve");
    }
    let failure = desk.calls.reply_to(call).expect_err("never settled");
    assert_eq!(failure.code, 1005, "{failure:?}");
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("version 3"));
}

#[test]
fn an_agent_that_is_stopped_asks_no_longer() {
    let mut desk = Desk::new(ASKS);
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    desk.daemon.client().call("agent.stop", json!({ "agent_id": desk.agent })).expect("stops");
    let failure = desk.calls.reply_to(call).expect_err("it ended with its agent");
    assert_eq!((failure.code, &failure.data["reason"]), (1009, &json!("cancelled")), "{failure:?}");
    let denied = of_kind(&desk.daemon, "human_approval_denied");
    assert_eq!(denied[0]["event"]["reason"], "the agent was stopped");
    assert_eq!(denied[0]["event"]["principal"], Value::Null);
    let late =
        desk.daemon.client().call("approval.respond", json!({ "id": asked["id"], "decision": "approve" }));
    assert_eq!(late.expect_err("nobody asks").code, 1001);
    assert!(pending(&mut desk.daemon.client()).is_empty());
    assert_eq!(read(desk.path("a.txt")), None);
}

/// A question stays open over a restart, and its answer is used when the call is made again.
fn survives(restart: impl Fn(Daemon) -> testkit::DaemonBuilder + Copy) {
    let mut desk = Desk::new(ASKS);
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    let mut desk = desk.restarted(restart);
    let again = pending(&mut desk.daemon.client());
    assert_eq!(again, std::slice::from_ref(&asked), "as it was, deadline and all (call {call})");
    desk.answer(&asked, "approve");
    assert_eq!(read(desk.path("a.txt")), None, "nobody waits for it any more");
    // An answer survives too.
    desk = desk.restarted(restart);
    assert!(pending(&mut desk.daemon.client()).is_empty());
    let other = desk.begin_write("a.txt", "other");
    let asked = desk.question(2);
    desk.answer(&asked, "deny");
    desk.calls.reply_to(other).expect_err("not what was approved");
    let same = desk.begin_write("a.txt", "after");
    desk.calls.reply_to(same).expect("approved before the restart");
    assert_eq!(read(desk.path("a.txt")).as_deref(), Some("after"));
    // Used up.
    std::fs::remove_file(desk.path("a.txt")).expect("removes");
    let same = desk.begin_write("a.txt", "after");
    let asked = desk.question(3);
    desk.answer(&asked, "deny");
    desk.calls.reply_to(same).expect_err("it was for one call");
    assert_intact(&mut desk.daemon.client());
}

#[test]
fn questions_and_answers_survive_a_kill() {
    survives(Daemon::kill9);
}

#[test]
fn questions_and_answers_survive_an_orderly_stop() {
    survives(|daemon| {
        let (status, builder) = daemon.terminate();
        assert!(status.success(), "{status}");
        builder
    });
}

#[test]
fn an_open_question_of_before_a_restart_is_taken_up_by_the_same_call() {
    let mut desk = Desk::new(ASKS);
    desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    let mut desk = desk.restarted(Daemon::kill9);
    let call = desk.begin_write("a.txt", "after");
    let is_waiting = || {
        let status = desk.daemon.client().call("agent.status", json!({ "agent_id": desk.agent }));
        status.expect("known")["waiting_for"].is_string()
    };
    let begun = Instant::now();
    while !is_waiting() {
        assert!(begun.elapsed() < PATIENCE, "the call never waited");
        std::thread::yield_now();
    }
    assert_eq!(pending(&mut desk.daemon.client()), std::slice::from_ref(&asked), "it is not asked twice");
    desk.answer(&asked, "approve");
    desk.calls.reply_to(call).expect("approved");
    assert_eq!(of_kind(&desk.daemon, "human_approval_requested").len(), 1);
}

#[test]
fn an_agent_that_ends_with_the_restart_asks_no_longer() {
    let models = testkit::ModelServer::start(testkit::Script::dynamic(|_| {
        testkit::Turn::call("echo", json!({ "message": "may I?" }))
    }));
    let daemon = testkit::DaemonBuilder::openai(&models).start();
    let mut client = daemon.client();
    let more = "capabilities: [\"tool: echo\"]\napproval_required: [echo]\n";
    let agent = spawn(&mut client, &manifest("runner", more));
    client.send("agent.run", json!({ "agent_id": agent, "message": "go" }));
    let asked = question(&daemon, 1);
    let daemon = daemon.kill9().start();
    assert!(pending(&mut daemon.client()).is_empty());
    let denied = of_kind(&daemon, "human_approval_denied");
    assert_eq!(denied[0]["event"]["approval"], asked["id"]);
    assert_eq!(denied[0]["event"]["reason"], "its agent ended with the restart of agentd");
}

fn grant_of(desk: &Desk, words: &str) -> Value {
    let list =
        desk.daemon.client().call("capability.list", json!({ "agent_id": desk.agent })).expect("a list");
    let grants = list["grants"].as_array().expect("a list");
    let found = grants.iter().find(|grant| text(&grant["grant"]).contains(words));
    found.unwrap_or_else(|| panic!("no {words} in {list}"))["id"].clone()
}

fn revoke(desk: &Desk, grant: &Value) {
    let params = json!({ "agent_id": desk.agent, "grant_id": grant });
    desk.daemon.client().call("capability.revoke", params).expect("answers");
}

#[test]
fn an_answer_does_not_bring_back_what_was_revoked() {
    let mut desk = Desk::new(ASKS);
    let call = desk.begin_write("a.txt", "after");
    let asked = desk.question(1);
    revoke(&desk, &grant_of(&desk, "file_write: "));
    let late = json!({ "id": asked["id"], "decision": "approve" });
    let late = desk.daemon.client().call("approval.respond", late);
    assert_eq!(late.expect_err("the question ended with the grant").code, 1001);
    let failure = desk.calls.reply_to(call).expect_err("authorize runs again");
    assert_eq!(failure.code, 1002, "{failure:?}");
    assert_eq!(read(desk.path("a.txt")), None);
}

#[test]
fn a_revocation_does_not_wait_for_a_person() {
    let more = "  - { spawn_child: [helper], approval_required: true }\n";
    let mut desk = Desk::new(more);
    let input = json!({ "manifest": manifest("helper", ""), "message": "help" });
    let call = desk.begin("spawn_agent", input);
    let asked = desk.question(1);
    assert_eq!(asked["tool"], "spawn", "the tool itself runs by now: {asked}");
    revoke(&desk, &grant_of(&desk, "tool: "));
    desk.calls.reply_to(call).expect_err("cut");
    let denied = of_kind(&desk.daemon, "human_approval_denied");
    assert_eq!(denied[0]["event"]["reason"], "the call that asked was stopped");
    assert!(pending(&mut desk.daemon.client()).is_empty());
}
