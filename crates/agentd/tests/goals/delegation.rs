//! What a parent can hand on: never more than it has, to few, and not for long.

use crate::support::{LEAD, LEAD_MARK, Ran, Rig, next_of_kind, of_kind, spawning, text};
use serde_json::{Value, json};
use testkit::{Gate, Script, SeenRequest, Turn};

/// A goal whose lead asks once for a child, without a turn for any child; and what the lead was told.
fn refused(arguments: Value) -> (Ran, Value) {
    let rig = Rig::lead(|_| [Turn::call("spawn_agent", arguments), Turn::say("so be it")]);
    let ran = rig.run(rig.work.goal(&[]));
    let told = rig.results_seen_by(LEAD_MARK).remove(0);
    (ran, told)
}

fn spawned(entries: &[Value]) -> usize {
    of_kind(entries, "agent_spawned").len()
}

#[test]
fn a_child_cannot_have_what_its_parent_has_not() {
    for wanted in ["file_read: /etc/*", "file_write: /*", "network: example.org", "web_search"] {
        let (ran, told) = refused(spawning("greedy", &[wanted.to_owned()], "Take it."));
        assert_eq!(told["error"]["kind"], "denied", "{wanted}: {told}");
        assert_eq!(spawned(&ran.entries), 1, "{wanted}: only the lead");
        assert!(ran.of_kind("capability_denied").len() == 1, "{wanted}");
        assert!(ran.of_kind("spawn_completed").iter().all(|one| one["event"]["child"].is_null()));
    }
    // The control: what the lead has, a child can have.
    let rig = Rig::new(|work| {
        let wanted = [format!("file_read: \"{}\"", work.path("docs/*"))];
        Script::new()
            .when_system(
                LEAD_MARK,
                [Turn::call("spawn_agent", spawning("modest", &wanted, "Go.")), Turn::say("done")],
            )
            .when_system("You are the modest.", [Turn::say("thanks")])
    });
    rig.work.put("docs/a", "a");
    let ran = rig.run(rig.work.goal(&[]));
    assert_eq!(spawned(&ran.entries), 2, "{}", ran.goal);
}

#[test]
fn a_child_tools_are_no_more_than_its_parents() {
    let rig = Rig::lead(|_| {
        let all = spawning("all", &["tool: \"*\"".to_owned()], "Take all.");
        let one = spawning("one", &["tool: file_write".to_owned()], "Take one.");
        [Turn::call("spawn_agent", all), Turn::call("spawn_agent", one), Turn::say("no")]
    });
    let mut goal = rig.work.goal(&[]);
    goal["grants"] = json!(["tool: spawn_agent", "tool: echo", "spawn_child: [*]"]);
    let ran = rig.run(goal);
    let kinds: Vec<Value> =
        rig.results_seen_by(LEAD_MARK).into_iter().map(|mut told| told["error"]["kind"].take()).collect();
    assert_eq!(kinds, ["denied", "denied"]);
    assert_eq!(spawned(&ran.entries), 1);
    let first = &rig.models.requests()[0];
    assert_eq!(first.tools, ["echo", "spawn_agent"], "the model is shown exactly what it may use");
}

#[test]
fn a_child_cannot_outlive_its_goal() {
    let mut manifest = spawning("stayer", &[], "Stay.");
    let text = format!("{}lifecycle: persistent\n", manifest["manifest"].as_str().expect("text"));
    manifest["manifest"] = json!(text);
    let (ran, told) = refused(manifest);
    assert_eq!((&told["error"]["kind"], spawned(&ran.entries)), (&json!("denied"), 1), "{told}");
}

#[test]
fn findings_have_a_size_limit() {
    let with = |length: usize| {
        let mut arguments = spawning("heir", &[], "Read.");
        arguments["prior_findings"] = json!("x".repeat(length));
        arguments
    };
    let (ran, told) = refused(with(32 * 1024 + 1));
    assert_eq!(told["error"]["kind"], "invalid_arguments", "{told}");
    assert_eq!((spawned(&ran.entries), ran.of_kind("spawn_requested").len()), (1, 0));
    let rig = Rig::new(|_| {
        Script::new()
            .when_system(LEAD_MARK, [Turn::call("spawn_agent", with(32 * 1024)), Turn::say("done")])
            .when_system("You are the heir.", [Turn::say("read")])
    });
    assert_eq!(spawned(&rig.run(rig.work.goal(&[])).entries), 2, "control: exactly 32 KiB is handed over");
}

#[test]
fn a_chain_of_children_ends_at_depth_five() {
    let own = ["tool: spawn_agent".to_owned(), "spawn_child: [\"*\"]".to_owned()];
    let next = spawning("link", &own, "Go deeper.");
    let rig = Rig::new(|_| {
        Script::dynamic(move |seen: &SeenRequest| match seen.replies_so_far() {
            0 => Turn::call("spawn_agent", next.clone()),
            _ => Turn::say("up again"),
        })
    });
    let ran = rig.run(rig.work.goal(&[]));
    let depths: Vec<u64> = ran
        .of_kind("agent_spawned")
        .iter()
        .map(|one| one["event"]["depth"].as_u64().expect("a depth"))
        .collect();
    assert_eq!(depths, [0, 1, 2, 3, 4, 5]);
    let told: Vec<Value> = rig
        .models
        .requests()
        .iter()
        .flat_map(crate::support::results_of)
        .filter(|told| told["error"]["kind"] == "limit_reached")
        .collect();
    assert_eq!(told.len(), 1, "the deepest is told");
    assert!(told[0]["error"]["message"].as_str().expect("words").contains('5'), "{told:?}");
}

#[test]
fn a_batch_runs_three_children_at_once() {
    let gate = Gate::new();
    let held = gate.clone();
    let rig = Rig::new(|_| {
        let children: Vec<Value> = (0..4).map(|n| spawning(&format!("c{n}"), &[], "Work.")).collect();
        Script::new()
            .when_system(
                LEAD_MARK,
                [Turn::call("spawn_agents", json!({ "children": children })), Turn::say("done")],
            )
            .otherwise((0..4).map(|_| Turn::say("worked").behind(&held)).collect::<Vec<_>>())
    });
    let mut client = rig.daemon.client();
    let id = client.send("agent.submit_streaming", rig.work.goal(&[]));
    assert_eq!(rig.models.wait_for_requests(4).len(), 4, "the lead and three children");
    assert_eq!(spawned(&rig.journal()), 4, "the fourth child waits for a place");
    gate.open();
    let reply = client.reply_to(id).expect("ends");
    assert_eq!(reply["goal"]["state"], "done", "{reply}");
    let told = rig.results_seen_by(LEAD_MARK).remove(0);
    assert_eq!((&told["count"], spawned(&rig.journal())), (&json!(4), 5), "{told}");
}

#[test]
fn a_fourth_child_at_once_is_a_typed_error_and_its_place_is_free_again() {
    let gate = Gate::new();
    let held = gate.clone();
    let rig = Rig::new(|_| Script::dynamic(move |_| Turn::say("worked").behind(&held)));
    let mut client = rig.daemon.client();
    let manifest = format!("{LEAD}capabilities:\n  - tool: spawn_agent\n  - spawn_child: [\"*\"]\n");
    let lead = client.call("agent.spawn", json!({ "manifest": manifest })).expect("spawns");
    let lead = text(&lead["agent_id"]);
    let spawn = |n: usize| {
        json!({ "agent_id": lead, "tool": "spawn_agent",
                                   "input": spawning(&format!("c{n}"), &[], "Work.") })
    };
    let running: Vec<u64> = (0..3).map(|n| client.send("tool.invoke", spawn(n))).collect();
    assert_eq!(rig.models.wait_for_requests(3).len(), 3);
    let refused = client.call("tool.invoke", spawn(3)).expect_err("no place");
    assert_eq!((refused.code, &refused.data["reason"]), (1004, &json!("limit_reached")), "{refused:?}");
    assert_eq!(spawned(&rig.journal()), 4);
    gate.open();
    for id in running {
        assert_eq!(client.reply_to(id).expect("ends")["result"]["response"], "worked");
    }
    let after = client.call("tool.invoke", spawn(4)).expect("a place is free");
    assert_eq!(after["result"]["response"], "worked");
}

#[test]
fn children_share_their_parents_uses() {
    let rig = Rig::new(|work| {
        let caps = |work: &crate::support::Work| {
            vec!["tool: file_write".to_owned(), format!("file_write: \"{}\"", work.path("out/*"))]
        };
        let child = |n: usize| spawning(&format!("w{n}"), &caps(work), "Write.");
        let write = |n: usize| crate::support::write(&work.path(&format!("out/{n}")), "x");
        Script::new()
            .when_system(
                LEAD_MARK,
                [
                    Turn::call("spawn_agents", json!({ "children": [child(0), child(1), child(2)] })),
                    Turn::say("done"),
                ],
            )
            .when_system("You are the w0.", [write(0), Turn::say("ok")])
            .when_system("You are the w1.", [write(1), Turn::say("ok")])
            .when_system("You are the w2.", [write(2), Turn::say("ok")])
    });
    let mut goal = rig.work.goal(&[]);
    let limited = format!("{{ file_write: \"{}\", max_invocations: 2 }}", rig.work.path("out/*"));
    goal["grants"] = json!([limited, "tool: *", "spawn_child: [*]"]);
    let ran = rig.run(goal);
    let written = (0..3).filter(|n| rig.work.has(&format!("out/{n}"))).count();
    assert_eq!(written, 2, "together they have two uses: {}", ran.goal);
    assert_eq!(ran.of_kind("capability_denied").len(), 1);
}

#[test]
fn refused_and_failed_children_take_no_place() {
    let rig = Rig::new(|_| {
        let greedy =
            || Turn::call("spawn_agent", spawning("greedy", &["file_read: /etc/*".to_owned()], "Take."));
        let odd = json!({ "manifest": "name: Odd One\nmodel: fast\nsystem_prompt: x\n", "message": "Go." });
        let children: Vec<Value> = (0..3).map(|n| spawning(&format!("c{n}"), &[], "Work.")).collect();
        let mut turns: Vec<Turn> = (0..4).map(|_| greedy()).collect();
        turns.push(Turn::call("spawn_agent", odd));
        turns.push(Turn::call("spawn_agents", json!({ "children": children })));
        turns.push(Turn::say("done"));
        Script::new()
            .when_system(LEAD_MARK, turns)
            .otherwise((0..3).map(|_| Turn::say("worked")).collect::<Vec<_>>())
    });
    let ran = rig.run(rig.work.goal(&[]));
    let told = rig.results_seen_by(LEAD_MARK);
    assert!(told[..5].iter().all(|one| one["error"].is_object()), "{told:?}");
    let worked =
        told[5]["children"].as_array().expect("a list").iter().filter(|one| one["response"] == "worked");
    assert_eq!(worked.count(), 3, "all three places are free: {told:?}");
    assert_eq!(spawned(&ran.entries), 4);
}

#[test]
fn a_child_that_a_person_refused_is_not_tried_again() {
    for (asks, retried) in [("approval_required: [echo]\n", 0), ("", 1)] {
        let mut child = spawning("asker", &["tool: echo".to_owned()], "Ask.");
        child["manifest"] = json!(format!("{}{asks}", text(&child["manifest"])));
        let rig = Rig::new(|_| {
            Script::dynamic(move |seen: &SeenRequest| {
                match (seen.system.contains(LEAD_MARK), seen.replies_so_far()) {
                    (true, 0) => Turn::call("spawn_agent", child.clone()),
                    (true, _) => Turn::say("so be it"),
                    (false, 0) => Turn::call("echo", json!({ "message": "may I" })),
                    (false, _) => Turn::Truncated { text: "half".into() },
                }
            })
        });
        let mut person = rig.daemon.client();
        person.send("audit.stream", json!({ "kinds": ["human_approval_requested"] }));
        let ran = std::thread::scope(|scope| {
            let running = scope.spawn(|| rig.run(rig.work.goal(&[])));
            if !asks.is_empty() {
                let asked = next_of_kind(&mut person, "human_approval_requested");
                let no = json!({ "id": asked["event"]["question"]["id"], "decision": "deny" });
                person.call("approval.respond", no).expect("it is open");
            }
            running.join().expect("the goal ends")
        });
        assert_eq!(ran.of_kind("child_retried").len(), retried, "{asks}");
        assert_eq!(spawned(&ran.entries), 2 + retried, "{asks}");
        assert_eq!(ran.of_kind("human_approval_requested").len(), 1 - retried, "{asks}: asked once");
    }
}
