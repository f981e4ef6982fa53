//! A goal that waits for a person: it says so, holds nothing, and nothing of its tree goes round the question.

use crate::support::{
    LEAD, LEAD_MARK, Ran, Rig, Work, assert_intact, child, entries, next_of_kind, run, spawning, text, write,
};
use serde_json::{Value, json};
use testkit::{Client, DaemonBuilder, ModelServer, Script, Turn};

/// A lead whose writes, and those of its whole tree, wait for a person.
fn asking(work: &Work, outputs: &[&str]) -> Value {
    let mut goal = work.goal(outputs);
    goal["manifest"] = json!(format!("{LEAD}approval_required: [file_write]\n"));
    goal
}

/// A client that hears of every question.
fn listener(rig: &Rig) -> Client {
    let mut client = rig.daemon.client();
    client.send("audit.stream", json!({ "kinds": ["human_approval_requested"] }));
    client
}

/// Waits for the next question, as `approval.list` shows it.
fn next_question(listener: &mut Client) -> Value {
    let asked = next_of_kind(listener, "human_approval_requested");
    let list = listener.call("approval.list", json!({})).expect("a list");
    let pending = list["pending"].as_array().expect("a list");
    let found = pending.iter().find(|one| one["id"] == asked["event"]["question"]["id"]);
    found.unwrap_or_else(|| panic!("{asked} is not listed: {list}")).clone()
}

fn answer(listener: &mut Client, asked: &Value, mut answer: Value) {
    answer["id"] = asked["id"].clone();
    listener.call("approval.respond", answer).expect("it is open");
}

/// Runs a goal on a thread of its own while `meanwhile` answers.
fn run_while(rig: &Rig, goal: Value, meanwhile: impl FnOnce(&mut Client)) -> Ran {
    let mut listener = listener(rig);
    std::thread::scope(|scope| {
        let mut client = rig.daemon.client();
        let running = scope.spawn(move || run(&mut client, goal));
        meanwhile(&mut listener);
        running.join().expect("the goal ends")
    })
}

#[test]
fn a_goal_shows_that_it_waits_and_goes_on_once_approved() {
    let rig = Rig::lead(|work| [write(&work.path("out/a.txt"), "text"), Turn::say("done")]);
    let ran = run_while(&rig, asking(&rig.work, &["out/a.txt"]), |listener| {
        let asked = next_question(listener);
        let of_goal = json!({ "goal_id": asked["goal_id"] });
        let shown = listener.call("goal.status", of_goal).expect("known");
        let waits = format!("approval {} of file_write", text(&asked["id"]));
        assert_eq!((&shown["state"], &shown["waiting_for"]), (&json!("waiting"), &json!(waits)));
        assert!(!rig.work.has("out/a.txt"));
        answer(listener, &asked, json!({ "decision": "approve" }));
    });
    ran.assert_ended("done", 0);
    assert_eq!(rig.work.read("out/a.txt"), "text");
    // The control: nobody asks where nothing says so.
    let free = Rig::lead(|work| [write(&work.path("out/a.txt"), "text"), Turn::say("done")]);
    let ran = free.run(free.work.goal(&["out/a.txt"]));
    ran.assert_ended("done", 0);
    assert!(ran.of_kind("human_approval_requested").is_empty());
}

#[test]
fn a_denied_write_ends_a_goal_that_needed_it_as_denied() {
    let rig = Rig::lead(|work| [write(&work.path("out/a.txt"), "text"), Turn::say("done")]);
    let ran = run_while(&rig, asking(&rig.work, &["out/a.txt"]), |listener| {
        let asked = next_question(listener);
        answer(listener, &asked, json!({ "decision": "deny", "reason": "not today" }));
    });
    ran.assert_ended("failed", 3);
    assert!(!rig.work.has("out/a.txt"));
    let told = &rig.results_seen_by(LEAD_MARK)[0]["error"];
    assert_eq!(told["kind"], "approval_denied", "{told}");
    assert!(text(&told["message"]).contains("not today"), "{told}");
}

#[test]
fn a_goal_ends_as_denied_also_where_it_was_denied_before_a_kill() {
    // The control: the same goal without a kill has the same exit code.
    for killed in [true, false] {
        let turns = |work: &Work| [write(&work.path("out/a.txt"), "text"), Turn::Hang, Turn::say("done")];
        let rig = Rig::lead(|work| {
            turns(work).into_iter().filter(move |turn| killed || !matches!(turn, Turn::Hang))
        });
        let mut listener = listener(&rig);
        listener.call("goal.submit", asking(&rig.work, &["out/a.txt"])).expect("accepted");
        let asked = next_question(&mut listener);
        answer(&mut listener, &asked, json!({ "decision": "deny" }));
        assert_eq!(rig.models.wait_for_requests(2).len(), 2, "it was told");
        let daemon = if killed { rig.daemon.kill9().start() } else { rig.daemon };
        let mut client = daemon.client();
        client.send("audit.stream", json!({ "goal_id": asked["goal_id"] }));
        let finished = next_of_kind(&mut client, "goal_finished");
        assert_eq!(finished["event"]["exit_code"], 3, "{killed}: {finished}");
    }
}

#[test]
fn a_question_is_denied_when_the_goals_time_is_over() {
    let rig = Rig::lead(|work| [write(&work.path("out/a.txt"), "text"), Turn::say("done")]);
    let mut goal = asking(&rig.work, &[]);
    goal["deadline_seconds"] = json!(1);
    let ran = rig.run(goal);
    ran.assert_ended("failed", 1);
    assert!(!rig.work.has("out/a.txt"));
    let (asked, denied) = (ran.of_kind("human_approval_requested"), ran.of_kind("human_approval_denied"));
    let accepted = ran.of_kind("goal_accepted")[0]["timestamp"].as_u64().expect("a time");
    assert_eq!(
        asked[0]["event"]["deadline"].as_u64(),
        Some(accepted + 1_000),
        "not after the goal's deadline"
    );
    assert_eq!(denied[0]["event"]["principal"], Value::Null);
    let reason = text(&denied[0]["event"]["reason"]);
    assert!(reason.starts_with("nobody answered within"), "{reason}");
    let list = rig.daemon.client().call("approval.list", json!({})).expect("a list");
    assert_eq!(list, json!({ "pending": [], "in_force": [] }));
}

#[test]
fn a_cancelled_goal_asks_no_longer() {
    let rig = Rig::lead(|work| [write(&work.path("out/a.txt"), "text"), Turn::say("done")]);
    let ran = run_while(&rig, asking(&rig.work, &[]), |listener| {
        let asked = next_question(listener);
        listener.call("goal.cancel", json!({ "goal_id": asked["goal_id"] })).expect("cancels");
        let late = json!({ "id": asked["id"], "decision": "approve" });
        assert_eq!(listener.call("approval.respond", late).expect_err("closed").code, 1001);
    });
    ran.assert_ended("cancelled", 130);
    assert_eq!(ran.of_kind("human_approval_denied")[0]["event"]["reason"], "the agent was stopped");
    assert!(!rig.work.has("out/a.txt"));
}

/// The lead has two children write, one after the other; their manifests ask for no approval.
fn two_writers(work: &Work) -> Script {
    let grants = |work: &Work| ["tool: file_write".to_owned(), format!("file_write: {}", work.path("out/*"))];
    let turn = |name: &str| Turn::call("spawn_agent", spawning(name, &grants(work), "Write."));
    Script::new()
        .when_system(LEAD_MARK, [turn("first"), turn("second"), Turn::say("done")])
        .when_system("You are the first.", [write(&work.path("out/1.txt"), "x"), Turn::say("written")])
        .when_system("You are the second.", [write(&work.path("out/2.txt"), "x"), Turn::say("written")])
}

#[test]
fn a_child_is_asked_too_and_one_decision_can_cover_a_goal() {
    let rig = Rig::new(two_writers);
    let below = rig.work.path("out/*");
    let ran = run_while(&rig, asking(&rig.work, &["out/1.txt", "out/2.txt"]), |listener| {
        let asked = next_question(listener);
        assert_eq!(asked["agent_name"], "first", "inherited: {asked}");
        let scope = json!({ "below": below, "uses": 2, "for_goal": true });
        answer(listener, &asked, json!({ "decision": "approve", "scope": scope }));
    });
    ran.assert_ended("done", 0);
    assert_eq!(ran.of_kind("human_approval_requested").len(), 1, "the second child used the same decision");
}

#[test]
fn an_approval_binds_the_agent_that_asked() {
    let rig = Rig::new(two_writers);
    let below = rig.work.path("out/*");
    let ran = run_while(&rig, asking(&rig.work, &[]), |listener| {
        let asked = next_question(listener);
        let scope = json!({ "below": below, "uses": 2 });
        answer(listener, &asked, json!({ "decision": "approve", "scope": scope }));
        let asked = next_question(listener);
        assert_eq!(asked["agent_name"], "second", "a use is left, but not for it: {asked}");
        answer(listener, &asked, json!({ "decision": "deny" }));
    });
    ran.assert_ended("done", 0);
    assert!(rig.work.has("out/1.txt") && !rig.work.has("out/2.txt"));
}

#[test]
fn a_spawn_that_asks_shows_the_childs_manifest() {
    let writer = |work: &Work| [format!("file_write: {}", work.path("out/*"))];
    for decision in ["deny", "approve"] {
        let rig = Rig::new(|work| {
            let spawn = Turn::call("spawn_agent", spawning("helper", &writer(work), "Help."));
            Script::new()
                .when_system(LEAD_MARK, [spawn, Turn::say("done")])
                .when_system("You are the helper.", [Turn::say("helped")])
        });
        let mut goal = rig.work.goal(&[]);
        let grants = goal["grants"].as_array_mut().expect("a list");
        grants.retain(|grant| *grant != "spawn_child: [*]");
        grants.push(json!("{ spawn_child: [helper], approval_required: true }"));
        let ran = run_while(&rig, goal, |listener| {
            let asked = next_question(listener);
            assert_eq!((&asked["tool"], &asked["input"]["child"]), (&json!("spawn"), &json!("helper")));
            let manifest = asked["input"]["manifest"].to_string();
            assert!(manifest.contains(&rig.work.path("out/*")), "what it would hold is shown: {manifest}");
            answer(listener, &asked, json!({ "decision": decision }));
        });
        let helpers =
            ran.of_kind("agent_spawned").iter().filter(|one| one["event"]["name"] == "helper").count();
        assert_eq!(helpers, usize::from(decision == "approve"), "{decision}");
    }
}

#[test]
fn who_waits_for_a_person_holds_no_inference_slot() {
    let work = Work::new(testkit::scratch());
    let models = ModelServer::start(
        Script::new()
            .when_system(LEAD_MARK, [write(&work.path("out/a.txt"), "x"), Turn::say("done")])
            .when_system("You are the other.", [Turn::say("here")]),
    );
    let daemon = DaemonBuilder::openai(&models).env("AAOS_MAX_CONCURRENT_INFERENCE", "1").start();
    let rig = Rig { daemon, models, work };
    let ran = run_while(&rig, asking(&rig.work, &["out/a.txt"]), |listener| {
        let asked = next_question(listener);
        let other = json!({ "goal": "say here", "manifest": child("other", &[]) });
        run(&mut rig.daemon.client(), other).assert_ended("done", 0);
        answer(listener, &asked, json!({ "decision": "approve" }));
    });
    ran.assert_ended("done", 0);
    assert_intact(&mut rig.daemon.client());
}

#[test]
fn a_goal_that_waits_at_a_kill_waits_on_and_asks_no_second_time() {
    for killed in [true, false] {
        let rig = Rig::lead(|work| [write(&work.path("out/a.txt"), "text"), Turn::say("done")]);
        let mut listener = listener(&rig);
        listener.call("goal.submit", asking(&rig.work, &["out/a.txt"])).expect("accepted");
        let asked = next_question(&mut listener);
        let builder = if killed { rig.daemon.kill9() } else { rig.daemon.terminate().1 };
        let daemon = builder.start();
        let mut client = daemon.client();
        let list = client.call("approval.list", json!({})).expect("a list");
        assert_eq!(list["pending"].as_array().map(Vec::len), Some(1), "{list}");
        assert_eq!(list["pending"][0]["id"], asked["id"], "the same question");
        assert!(!rig.work.has("out/a.txt"));
        client.send("audit.stream", json!({ "goal_id": asked["goal_id"] }));
        answer(&mut client, &asked, json!({ "decision": "approve" }));
        let finished = next_of_kind(&mut client, "goal_finished");
        assert_eq!(finished["event"]["state"], "done", "{finished}");
        assert_eq!(rig.work.read("out/a.txt"), "text");
        let questions = entries(&mut client, json!({ "kinds": ["human_approval_requested"] }));
        assert_eq!(questions.len(), 1, "nobody is asked twice: {questions:?}");
        assert_eq!(rig.models.requests().len(), 2, "nor is the model");
        assert_intact(&mut client);
    }
}
