//! How goals are judged: by what is there, not by what is said.

use crate::support::{LEAD_MARK, Rig, of_kind, spawning, text, write};
use serde_json::json;
use testkit::{Script, Snapshot, Turn};

#[test]
fn a_claim_without_the_file_fails() {
    let rig = Rig::lead(|_| [Turn::say("I wrote the file, all is well.")]);
    let ran = rig.run(rig.work.goal(&["out/a.md"]));
    ran.assert_ended("failed", 1);
    assert_eq!(ran.goal["outputs"][0]["observed"], false);
    assert!(ran.error().contains("out/a.md"), "{}", ran.error());
    let rig = Rig::lead(|work| [write(&work.path("out/a.md"), "x"), Turn::say("I wrote the file.")]);
    rig.run(rig.work.goal(&["out/a.md"])).assert_ended("done", 0);
}

#[test]
fn a_file_that_was_not_changed_does_not_count() {
    let rig = Rig::lead(|_| [Turn::say("It is there.")]);
    rig.work.put("out/a.md", "from yesterday");
    let ran = rig.run(rig.work.goal(&["out/a.md"]));
    ran.assert_ended("failed", 1);
    assert!(ran.error().contains("not changed"), "{}", ran.error());
    // The control: changed, it counts, and its hash is of what stands there now.
    let rig = Rig::lead(|work| [write(&work.path("out/a.md"), "from today"), Turn::say("Changed.")]);
    rig.work.put("out/a.md", "from yesterday");
    let ran = rig.run(rig.work.goal(&["out/a.md"]));
    ran.assert_ended("done", 0);
    let observed = &of_kind(&ran.entries, "goal_finished")[0]["event"]["outputs"][0];
    assert_eq!(observed["size_bytes"], 10);
    assert_eq!(observed["content_hash"].as_str().map(str::len), Some(64), "{observed}");
}

#[test]
fn a_link_in_place_of_the_output_does_not_count() {
    let rig = Rig::lead(|work| {
        std::fs::create_dir_all(work.path("out")).expect("makes it");
        work.put("elsewhere.md", "not yet");
        std::os::unix::fs::symlink(work.path("elsewhere.md"), work.path("out/a.md")).expect("links");
        [write(&work.path("out/a.md"), "through the link"), Turn::say("done")]
    });
    let ran = rig.run(rig.work.goal(&["out/a.md"]));
    assert_eq!(ran.state(), "failed", "{}", ran.goal);
    assert_eq!(rig.work.read("elsewhere.md"), "not yet", "nothing was written through it");
}

#[test]
fn a_denial_shows_in_the_exit_code_and_leaves_no_trace() {
    let rig = Rig::lead(|work| [write(&work.path("private/a.md"), "x"), Turn::say("Written.")]);
    rig.work.put("private/b.md", "kept");
    let before = Snapshot::of(std::path::Path::new(&rig.work.path("private")));
    let ran = rig.run(rig.work.goal(&["out/a.md"]));
    ran.assert_ended("failed", 3);
    assert_eq!(before, Snapshot::of(std::path::Path::new(&rig.work.path("private"))));
    let denied = ran.of_kind("capability_denied");
    assert!(
        denied[0]["event"]["denied"]["missing"].as_str().expect("words").contains("file_write"),
        "{denied:?}"
    );
    assert_eq!(ran.of_kind("tool_invoked").len(), 0);
}

/// A lead that spawns one child with nothing, and then claims success.
fn with_child(turns: Vec<Turn>) -> Rig {
    Rig::new(|_| {
        let spawn = Turn::call("spawn_agent", spawning("helper", &[], "Help."));
        Script::new()
            .when_system(LEAD_MARK, [spawn, Turn::say("All went well.")])
            .when_system("You are the helper.", turns)
    })
}

#[test]
fn a_failed_child_is_tried_once_more_with_its_reason() {
    let rig = with_child(vec![Turn::Truncated { text: "half".into() }, Turn::say("whole")]);
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("done", 0);
    let retried = ran.of_kind("child_retried");
    assert_eq!(retried.len(), 1);
    let seen = rig.models.requests();
    let helper: Vec<_> = seen.iter().filter(|seen| seen.system.contains("You are the helper.")).collect();
    assert_eq!(helper.len(), 2);
    assert_eq!(helper[0].first_user_text(), "Help.");
    let again = helper[1].first_user_text();
    assert!(again.starts_with("Help.") && again.contains("cut at its token limit"), "the reason: {again}");
    let result = rig.results_seen_by(LEAD_MARK).remove(0);
    assert_eq!((&result["retried"], &result["response"]), (&json!(true), &json!("whole")), "{result}");
    assert!(result["original_error"].is_string() && result["error"].is_null());
}

#[test]
fn a_child_that_failed_for_good_fails_a_goal_without_outputs() {
    let rig = with_child(vec![Turn::Truncated { text: "half".into() }; 2]);
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("failed", 1);
    assert!(ran.error().contains("helper"), "which child: {}", ran.error());
    assert_eq!(ran.of_kind("child_retried").len(), 1, "once and no more");
    let result = rig.results_seen_by(LEAD_MARK).remove(0);
    assert!(result["error"].is_string(), "the parent is told: {result}");
}

#[test]
fn a_child_that_is_never_to_be_started_again_is_tried_once() {
    let rig = Rig::new(|_| {
        let mut spawn = spawning("helper", &[], "Help.");
        let once = format!("{}supervision: {{ restart: never }}\n", text(&spawn["manifest"]));
        spawn["manifest"] = json!(once);
        Script::new()
            .when_system(LEAD_MARK, [Turn::call("spawn_agent", spawn), Turn::say("All went well.")])
            .when_system("You are the helper.", [Turn::Truncated { text: "half".into() }])
    });
    let ran = rig.run(rig.work.goal(&[]));
    ran.assert_ended("failed", 1);
    assert_eq!(ran.of_kind("child_retried").len(), 0);
}

#[test]
fn goals_run_side_by_side_and_do_not_mix() {
    let rig = Rig::new(|work| {
        let out = work.path("out");
        Script::dynamic(move |seen| {
            let name = seen.first_user_text().lines().next().expect("the goal").to_owned();
            let scribe = ["tool: file_write".to_owned(), format!("file_write: \"{out}/*\"")];
            match (seen.system.contains("scribe"), seen.replies_so_far()) {
                (true, 0) => write(&format!("{out}/{name}"), &name),
                (true, _) => Turn::say("ok"),
                (false, 0) => Turn::call("spawn_agent", spawning("scribe", &scribe, &name)),
                (false, _) => Turn::say(format!("did {name}")),
            }
        })
    });
    let mut client = rig.daemon.client();
    let submit = |n: usize| {
        let name = format!("goal-{n}");
        let mut goal = rig.work.goal(&[&format!("out/{name}")]);
        goal["goal"] = json!(name);
        client.send("agent.submit_streaming", goal)
    };
    let goals: Vec<_> = (0..6).map(submit).collect();
    for (n, id) in goals.into_iter().enumerate() {
        let reply = client.reply_to(id).expect("ends");
        assert_eq!(reply["goal"]["state"], "done", "{reply}");
        assert_eq!(reply["goal"]["response"], format!("did goal-{n}"));
        assert_eq!(rig.work.read(&format!("out/goal-{n}")), format!("goal-{n}"));
    }
    assert!(rig.models.unscripted().is_empty());
}
