//! `agentd fork`: a goal goes on from a step of another one, with something changed, in the workspace of that step.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testkit::{
    Client, Daemon, DaemonBuilder, Finished, Gate, ModelServer, PATIENCE, Script, SeenRequest, Turn,
};

/// A lead that does what its script says.
const LEAD: &str = "name: lead\nmodel: smart\nsystem_prompt: You are the lead.\n";
/// The model that forks go on with.
const OTHER: &str = "other-model";

/// The workspace that a root agent was told of.
fn workspace_of(seen: &SeenRequest) -> String {
    let line = seen.first_user_text().lines().find_map(|line| line.strip_prefix("workspace: "));
    line.unwrap_or_else(|| panic!("no workspace in {}", seen.first_user_text())).to_owned()
}

fn write(path: &str, content: &str) -> Turn {
    Turn::call("file_write", json!({ "path": path, "content": content }))
}

/// What the goal's own model does: five calls, one a turn, and the answer.
fn first_model(seen: &SeenRequest, outside: &[PathBuf; 2]) -> Turn {
    let notes = format!("{}/notes/a.md", workspace_of(seen));
    let outside = outside.each_ref().map(|path| path.display().to_string());
    match seen.replies_so_far() {
        0 => write(&outside[0], "early"),
        1 => write(&notes, "one"),
        2 => Turn::call("file_write", json!({ "path": notes, "content": " two", "append": true })),
        3 => Turn::call("file_edit", json!({ "path": notes, "old_string": "one", "new_string": "1" })),
        4 => write(&format!("{}/late.md", workspace_of(seen)), "late"),
        5 => write(&outside[1], "late"),
        _ => Turn::say("done by the first"),
    }
}

/// A lead that has a child write into the workspace.
fn has_it_written(seen: &SeenRequest) -> Turn {
    match seen.replies_so_far() {
        0 => Turn::call("spawn_agent", spawning_writer(seen)),
        _ => Turn::say("done by the first"),
    }
}

/// The arguments of a call for that child.
fn spawning_writer(seen: &SeenRequest) -> Value {
    let workspace = workspace_of(seen);
    let manifest = format!(
        "name: writer\nmodel: smart\nsystem_prompt: You write.\ncapabilities:\n  - \"tool: file_write\"\n  - \
         \"file_write: {workspace}/*\"\n"
    );
    json!({ "manifest": manifest, "message": format!("{workspace}/child.md") })
}

fn child(seen: &SeenRequest) -> Turn {
    let path = seen.first_user_text().split_whitespace().find(|word| word.ends_with("child.md"));
    match seen.replies_so_far() {
        0 => write(path.expect("a path"), "by the child"),
        _ => Turn::say("written"),
    }
}

/// A daemon with a goal that was done.
struct House {
    daemon: Daemon,
    models: ModelServer,
    source: String,
    outside: [PathBuf; 2],
}

impl House {
    /// `other` says what the other model does.
    fn new(mut other: impl FnMut(&SeenRequest) -> Turn + Send + 'static) -> Self {
        let home = testkit::scratch();
        let out = home.path().join("out");
        fs::create_dir(&out).expect("made");
        let outside = [out.join("early.md"), out.join("late.md")];
        let known = outside.clone();
        // It lives as long as the script, which is as long as the daemon.
        let script = move |seen: &SeenRequest| {
            assert!(home.path().is_dir(), "the files outside are there");
            match seen.model.as_str() {
                OTHER => other(seen),
                _ if seen.system.contains("You write.") => child(seen),
                _ if seen.first_user_text().starts_with("hang") => Turn::Hang,
                _ if seen.first_user_text().starts_with("delegate") => has_it_written(seen),
                _ => first_model(seen, &known),
            }
        };
        let models = ModelServer::start(Script::dynamic(script));
        let daemon = DaemonBuilder::openai(&models).start();
        let goal = json!({ "goal": "write", "outputs": [&outside[0]], "manifest": LEAD,
                           "grants": [format!("file_write: {}/*", out.display()), "tool: *"] });
        let (_, ended) = daemon.client().call_streaming("agent.submit_streaming", goal);
        let ended = ended.expect("it ran");
        assert_eq!(ended["goal"]["state"], "done", "{ended}");
        let source = ended["goal_id"].as_str().expect("an id").to_owned();
        Self { daemon, models, source, outside }
    }

    fn entries(&self, goal: &str, kind: &str) -> Vec<Value> {
        let asked = json!({ "goal_id": goal, "kinds": [kind] });
        let mut answer = self.daemon.client().call("audit.query", asked).expect("entries");
        serde_json::from_value(answer["entries"].take()).expect("a list")
    }

    /// The number of the `nth` entry of this kind of the goal that was done, from 0.
    fn seq(&self, kind: &str, nth: usize) -> u64 {
        self.entries(&self.source, kind)[nth]["seq"].as_u64().expect("a number")
    }

    fn fork(&self, asked: Value) -> Result<Value, testkit::RpcFailure> {
        let mut asked = asked;
        asked["goal_id"] = json!(self.source);
        self.daemon.client().call("goal.fork", asked)
    }

    fn workspace(&self, goal: &str) -> PathBuf {
        self.daemon.state_dir().join("workspace").join(goal)
    }

    fn requests_of(&self, model: &str) -> Vec<SeenRequest> {
        self.models.requests().into_iter().filter(|seen| seen.model == model).collect()
    }
}

/// Waits until a goal is over.
fn ended(client: &mut Client, goal: &str) -> Value {
    let (_, ended) = client.call_streaming("goal.follow", json!({ "goal_id": goal }));
    ended.expect("it is told")["goal"].clone()
}

/// Every file below a directory with its content.
fn files(below: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![below.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(below).expect("below").display().to_string();
                found.insert(name, fs::read_to_string(&path).expect("text"));
            }
        }
    }
    found
}

fn list(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

fn json_of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn id(answer: &Value) -> String {
    answer["goal_id"].as_str().unwrap_or_else(|| panic!("no goal in {answer}")).to_owned()
}

/// It reads its notes, adds to them, and is done.
fn adds_to_its_notes(seen: &SeenRequest) -> Turn {
    let notes = format!("{}/notes/a.md", workspace_of(seen));
    match seen.results.last().map(|result| result.content.contains("size_bytes")) {
        Some(true) => Turn::say("done by the other"),
        _ => Turn::call("file_read", json!({ "path": notes })),
    }
}

fn assert_replays(daemon: &Daemon, goal: &str) {
    let told = daemon.cli(["replay", goal, "--json"]);
    assert_eq!(told.code(), 0, "{told:?}");
    let told = json_of(&told);
    assert_eq!(told["replayed"]["state_hash"], told["replayed"]["recorded_hash"], "{told}");
}

#[test]
fn another_model_goes_on_from_a_step_in_the_files_of_that_step() {
    let house = House::new(adds_to_its_notes);
    let before = files(&house.workspace(&house.source));
    assert_eq!(before, list(&[("late.md", "late"), ("notes/a.md", "1 two")]), "the control");
    let asked = house.models.requests().len();
    // The result of the edit, which is the fourth call.
    let at = house.seq("tool_result", 3);
    let said = house.daemon.cli([
        "fork",
        &house.source,
        "--at",
        &at.to_string(),
        "--model",
        OTHER,
        "--keep-files",
        "--json",
    ]);
    assert_eq!(said.code(), 0, "{said:?}");
    let forked = json_of(&said);
    assert_eq!((&forked["from"], &forked["at"]), (&json!(house.source), &json!(at)));
    assert_eq!(forked["files"], json!([{ "path": "notes/a.md", "size_bytes": 5 }]));
    assert!(
        said.stderr.contains("notes/a.md") && said.stderr.contains(&format!("at entry {at}")),
        "{said:?}"
    );
    let fork = id(&forked);
    let goal = ended(&mut house.daemon.client(), &fork);
    assert_eq!((&goal["state"], &goal["response"]), (&json!("done"), &json!("done by the other")), "{goal}");

    let seen = house.requests_of(OTHER);
    assert_eq!(seen.len(), 2, "the earlier replies were not asked for again");
    assert_eq!(house.models.requests().len(), asked + 2, "and nothing was asked of the first model");
    assert_eq!((seen[0].replies_so_far(), seen[0].results.len()), (4, 4), "it goes on with what was said");
    assert_eq!(workspace_of(&seen[0]), house.workspace(&fork).display().to_string());
    let told = seen[0].body.to_string();
    assert!(told.contains(&fork) && !told.contains(&house.source), "{told}");
    assert!(seen[1].results[4].content.contains("1 two"), "{:?}", seen[1].results);

    assert_eq!(files(&house.workspace(&fork)), list(&[("notes/a.md", "1 two")]));
    assert_eq!(files(&house.workspace(&house.source)), before, "the goal that was forked is as it was");
    assert_eq!(fs::read_to_string(&house.outside[1]).expect("kept"), "late");
    assert_replays(&house.daemon, &fork);
    assert_replays(&house.daemon, &house.source);
    let told = house.daemon.cli(["logs", &fork]);
    assert!(told.stdout.contains(&format!("from goal {} at entry {at}", house.source)), "{told:?}");
}

#[test]
fn calls_that_were_not_made_are_made_by_the_fork_and_it_can_be_forked_again() {
    let house = House::new(adds_to_its_notes);
    // In the middle of the turn that edits: the step before it is that the model has replied.
    let (at, step) = (house.seq("tool_invoked", 3), house.seq("inference_completed", 3));
    let forked = house.fork(json!({ "at": at, "keep_files": true })).expect("forked");
    assert_eq!(forked["at"], json!(step), "{forked}");
    assert_eq!(forked["files"], json!([{ "path": "notes/a.md", "size_bytes": 7 }]));
    let first = id(&forked);
    let goal = ended(&mut house.daemon.client(), &first);
    assert_eq!(goal["response"], "done by the first", "{goal}");
    let expected = list(&[("late.md", "late"), ("notes/a.md", "1 two")]);
    assert_eq!(files(&house.workspace(&first)), expected, "the edit was made once");
    let made: Vec<Value> = house.entries(&first, "tool_invoked");
    let tools: Vec<&str> = made.iter().filter_map(|entry| entry["event"]["tool"].as_str()).collect();
    assert_eq!(tools, ["file_edit", "file_write", "file_write"], "and nothing before it");

    // The last step of the fork, where its model has not said yet that it is done.
    let last = house.entries(&first, "tool_result")[2]["seq"].clone();
    let again = json!({ "goal_id": first, "at": last, "model": OTHER });
    let again = house.daemon.client().call("goal.fork", again).expect("forked again");
    let second = id(&again);
    assert_eq!(again["kept"], json!([]), "nothing was changed since: {again}");
    let goal = ended(&mut house.daemon.client(), &second);
    assert_eq!(goal["response"], "done by the other", "{goal}");
    assert_eq!(files(&house.workspace(&second)), expected);
    let seen = house.requests_of(OTHER);
    assert_eq!((seen.len(), seen[0].replies_so_far()), (2, 6));
    let told = seen[0].body.to_string();
    assert!(told.contains(&second) && !told.contains(&first) && !told.contains(&house.source), "{told}");
    for goal in [&first, &second] {
        assert_replays(&house.daemon, goal);
    }
}

#[test]
fn a_fork_goes_on_after_a_kill_and_asks_only_what_was_in_flight() {
    let gate = Gate::new();
    let held = gate.clone();
    let house = House::new(move |seen| {
        let turn = adds_to_its_notes(seen);
        if matches!(turn, Turn::Say { .. }) { turn.behind(&held) } else { turn }
    });
    let asked = house.models.requests().len();
    let at = house.seq("tool_result", 2);
    let forked = json!({ "at": at, "model": OTHER, "keep_files": true });
    let fork = id(&house.fork(forked).expect("forked"));
    assert_eq!(house.models.wait_for_requests(asked + 2).len(), asked + 2);
    let House { daemon, models, source, outside } = house;
    let daemon = daemon.kill9().start();
    let house = House { daemon, models, source, outside };
    assert_eq!(house.models.wait_for_requests(asked + 3).len(), asked + 3);
    gate.open();
    let goal = ended(&mut house.daemon.client(), &fork);
    assert_eq!((&goal["state"], &goal["response"]), (&json!("done"), &json!("done by the other")), "{goal}");
    let seen = house.requests_of(OTHER);
    assert_eq!(seen.len(), 3, "the first once, and the one in flight again");
    assert_eq!(seen[1].body, seen[2].body, "its mind is what it was");
    for (kind, count) in [("agent_execution_forked", 1), ("agent_execution_resumed", 1), ("tool_invoked", 1)]
    {
        assert_eq!(house.entries(&fork, kind).len(), count, "{kind}");
    }
    assert_eq!(files(&house.workspace(&fork)), list(&[("notes/a.md", "one two")]));
    assert_replays(&house.daemon, &fork);
}

#[test]
fn a_fork_that_was_accepted_and_not_begun_is_begun_after_a_kill() {
    let house = House::new(adds_to_its_notes);
    let hanging: Vec<String> = (0..8)
        .map(|number| {
            let goal = json!({ "goal": format!("hang {number}"), "manifest": LEAD });
            id(&house.daemon.client().call("goal.submit", goal).expect("accepted"))
        })
        .collect();
    let at = house.seq("tool_result", 1);
    let forked = json!({ "at": at, "model": OTHER, "keep_files": true });
    let fork = id(&house.fork(forked).expect("forked"));
    let expected = list(&[("notes/a.md", "one")]);
    assert_eq!(files(&house.workspace(&fork)), expected, "its files are there once it is accepted");
    let House { daemon, models, source, outside } = house;
    let daemon = daemon.kill9().start();
    let house = House { daemon, models, source, outside };
    let mut client = house.daemon.client();
    let view = client.call("goal.status", json!({ "goal_id": fork })).expect("known");
    assert_eq!(view["state"], "queued", "the control: {view}");
    for goal in hanging {
        client.call("goal.cancel", json!({ "goal_id": goal })).expect("cancelled");
    }
    let goal = ended(&mut client, &fork);
    assert_eq!((&goal["state"], &goal["response"]), (&json!("done"), &json!("done by the other")), "{goal}");
    assert_eq!(files(&house.workspace(&fork)), expected);
    assert_replays(&house.daemon, &fork);
}

#[test]
fn a_goal_at_work_is_forked_and_goes_on_by_itself() {
    let house = House::new(|_| Turn::say("done at once"));
    let before = house.models.requests().len();
    let goal = json!({ "goal": "hang here", "manifest": LEAD });
    let running = id(&house.daemon.client().call("goal.submit", goal).expect("accepted"));
    assert_eq!(house.models.wait_for_requests(before + 1).len(), before + 1);
    let at = house.entries(&running, "agent_execution_started")[0]["seq"].clone();
    let asked = json!({ "goal_id": running, "at": at, "manifest": LEAD.replace("smart", OTHER) });
    let forked = house.daemon.client().call("goal.fork", asked).expect("forked");
    assert_eq!((&forked["files"], &forked["at"]), (&json!([]), &at));
    let goal = ended(&mut house.daemon.client(), &id(&forked));
    assert_eq!(goal["response"], "done at once", "{goal}");
    let mut client = house.daemon.client();
    let view = client.call("goal.status", json!({ "goal_id": running })).expect("known");
    assert_eq!(view["state"], "running", "{view}");
    client.call("goal.cancel", json!({ "goal_id": running })).expect("cancelled");
}

#[test]
fn what_cannot_be_forked_is_refused_with_a_reason_and_leaves_nothing() {
    let house = House::new(|_| Turn::say("done at once"));
    let workspaces = || fs::read_dir(house.daemon.state_dir().join("workspace")).expect("there").count();
    let (first, edited) = (house.seq("agent_execution_started", 0), house.seq("tool_result", 3));
    let last = house.seq("goal_finished", 0);
    let refused = |asked: Value, reason: &str| {
        let failure = house.fork(asked.clone()).expect_err(reason);
        assert_eq!(failure.data["reason"], reason, "{asked}: {failure:?}");
        failure.message
    };
    for at in [0, first - 1, last + 1, u64::MAX / 2] {
        let said = refused(json!({ "at": at }), "no_step");
        assert!(said.contains(&format!("from {first} to {last}")), "{said}");
    }
    let late = house.outside[1].display().to_string();
    let said = refused(json!({ "at": edited }), "files_changed");
    assert!(said.contains(&late) && !said.contains("early.md") && said.contains("--keep-files"), "{said}");
    refused(json!({ "at": edited, "model": OTHER, "manifest": LEAD, "keep_files": true }), "invalid");
    let lasting = format!("{LEAD}lifecycle: persistent\n");
    refused(json!({ "at": edited, "manifest": lasting, "keep_files": true }), "invalid");
    let small = format!("{LEAD}memory: {{ context_window: 64 }}\n");
    let said = house.fork(json!({ "at": edited, "manifest": small, "keep_files": true }));
    assert!(said.is_err(), "a window that does not hold what was said: {said:?}");
    let nobody = json!({ "goal_id": "00000000-0000-7000-8000-00000000dead", "at": 1 });
    let unknown = house.daemon.client().call("goal.fork", nobody).expect_err("there is none");
    assert_eq!(unknown.code, 1001, "{unknown:?}");
    let said = house.daemon.cli(["fork", &house.source, "--at", &edited.to_string()]);
    assert!(said.code() == 2 && said.stderr.contains("--keep-files"), "{said:?}");
    assert_eq!(workspaces(), 1, "nothing was made");

    // The controls: the last step whose files are still those, and the user's word.
    let told = house.seq("tool_result", 5);
    let fork = house.fork(json!({ "at": told, "model": OTHER })).expect("no later change");
    assert_eq!(fork["kept"], json!([]), "{fork}");
    let goal = ended(&mut house.daemon.client(), &id(&fork));
    assert_eq!(goal["state"], "done", "its output was made by then: {goal}");
    let at_once = json!({ "at": first, "model": OTHER, "keep_files": true });
    let fork = house.fork(at_once).expect("the user's word");
    let kept = fork["kept"].to_string();
    assert!(kept.contains("early.md") && kept.contains("late.md"), "{kept}");
    let goal = ended(&mut house.daemon.client(), &id(&fork));
    assert_eq!(goal["state"], "failed", "its output was not made by then, nor by itself: {goal}");
    assert_eq!(workspaces(), 3);
}

#[test]
fn what_children_wrote_is_there_and_nobody_is_spawned_again() {
    // What the first model would do, the other does as well: its child thinks with the first.
    let house = House::new(|seen| match has_it_written(seen) {
        Turn::Say { .. } => Turn::say("done by the other"),
        spawns => spawns,
    });
    let goal = json!({ "goal": "delegate", "manifest": LEAD, "grants": ["tool: *", "spawn_child: [*]"] });
    let (_, told) = house.daemon.client().call_streaming("agent.submit_streaming", goal);
    let told = told.expect("it ran");
    assert_eq!(told["goal"]["state"], "done", "{told}");
    let source = id(&told);
    let results = house.entries(&source, "tool_result");
    let seq_of = |tool: &str| {
        results.iter().find(|entry| entry["event"]["tool"] == tool).expect("it was called")["seq"].clone()
    };
    let fork = |at: &Value| {
        let asked = json!({ "goal_id": source, "at": at, "model": OTHER });
        house.daemon.client().call("goal.fork", asked).expect("forked")
    };
    let after = fork(&seq_of("spawn_agent"));
    assert_eq!(after["files"], json!([{ "path": "child.md", "size_bytes": 12 }]));
    let goal = ended(&mut house.daemon.client(), &id(&after));
    assert_eq!(goal["response"], "done by the other", "{goal}");
    assert_eq!(files(&house.workspace(&id(&after))), list(&[("child.md", "by the child")]));
    assert_eq!(house.entries(&id(&after), "spawn_requested").len(), 0);
    // While the child was at work no step of its parent had ended: it is spawned again, by the fork.
    let amid = fork(&seq_of("file_write"));
    assert!(amid["at"].as_u64() < seq_of("file_write").as_u64(), "{amid}");
    assert_eq!(amid["files"], json!([]), "{amid}");
    let goal = ended(&mut house.daemon.client(), &id(&amid));
    assert_eq!((&goal["state"], &goal["response"]), (&json!("done"), &json!("done by the other")), "{goal}");
    assert_eq!(files(&house.workspace(&id(&amid))), list(&[("child.md", "by the child")]));
    assert_eq!(house.entries(&id(&amid), "spawn_requested").len(), 1);
    assert_replays(&house.daemon, &id(&amid));
}

#[test]
fn a_fork_hands_on_what_a_child_answered_before_it_and_not_what_came_after() {
    let named = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&named);
    let house = House::new(move |seen| match seen.replies_so_far() {
        0 | 1 => {
            let mut call = spawning_writer(seen);
            call["prior_findings"] = json!({ "result": *shared.lock().expect("no panic") });
            Turn::call("spawn_agent", call)
        }
        _ => Turn::say("done by the other"),
    });
    let goal = json!({ "goal": "delegate", "manifest": LEAD, "grants": ["tool: *", "spawn_child: [*]"] });
    let (_, told) = house.daemon.client().call_streaming("agent.submit_streaming", goal);
    let source = id(&told.expect("it ran"));
    let ended_child = &house.entries(&source, "child_ended")[0];
    let child = ended_child["event"]["outcome"]["Ok"]["agent_id"].as_str().expect("an id").to_owned();
    named.lock().expect("no panic").clone_from(&child);
    let results = house.entries(&source, "tool_result");
    let seq_of = |tool: &str| {
        results.iter().find(|entry| entry["event"]["tool"] == tool).expect("it was called")["seq"].clone()
    };
    let children_of_fork_at = |at: Value| {
        let asked = json!({ "goal_id": source, "at": at, "model": OTHER });
        let forked = id(&house.daemon.client().call("goal.fork", asked).expect("forked"));
        let goal = ended(&mut house.daemon.client(), &forked);
        assert_eq!(goal["response"], "done by the other", "{goal}");
        house.entries(&forked, "spawn_requested").len()
    };
    let handed = || {
        let asked = house.models.requests();
        let label = format!("Quoted data from agent writer ({child})");
        asked.iter().filter(|seen| seen.first_user_text().contains(&label)).count()
    };
    // The control: at that step the child had answered nothing yet. The fork makes the call that was open, and no other.
    assert_eq!((children_of_fork_at(seq_of("file_write")), handed()), (1, 0));
    assert_eq!(children_of_fork_at(seq_of("spawn_agent")), 1);
    assert!(handed() > 0);
}

#[test]
fn an_erased_body_refuses_the_steps_after_it() {
    let house = House::new(|_| Turn::say("done by the other"));
    let erased = house.seq("inference_completed", 3);
    let (before, after) = (house.seq("tool_result", 2), house.seq("tool_result", 3));
    // Under the running daemon: none starts with such a journal.
    let changed = rusqlite::Connection::open(house.daemon.state_dir().join("journal.db"))
        .and_then(|journal| {
            journal.busy_timeout(PATIENCE)?;
            journal
                .execute("UPDATE entries SET body = NULL, salt = NULL WHERE seq = ?1", [erased.cast_signed()])
        })
        .expect("erased");
    assert_eq!(changed, 1);
    let asked = |at: u64| json!({ "at": at, "model": OTHER, "keep_files": true });
    let refused = house.fork(asked(after)).expect_err("what was replied is not known");
    assert_eq!(refused.data["reason"], "erased", "{refused:?}");
    assert!(refused.message.contains(&format!("entry {erased} ")), "{refused:?}");
    let fork = house.fork(asked(before)).expect("the control: a step before it");
    assert_eq!(ended(&mut house.daemon.client(), &id(&fork))["response"], "done by the other");
}

#[test]
fn what_an_open_fork_needs_is_not_archived_and_what_is_archived_is_not_forked() {
    let gate = Gate::new();
    let held = gate.clone();
    let house = House::new(move |_| Turn::say("done by the other").behind(&held));
    let asked = house.models.requests().len();
    let at = house.seq("tool_result", 3);
    let fork = json!({ "at": at, "model": OTHER, "keep_files": true });
    let forked = id(&house.fork(fork.clone()).expect("forked"));
    assert_eq!(house.models.wait_for_requests(asked + 1).len(), asked + 1);
    let prune = |house: &House| {
        house.daemon.client().call("audit.prune", json!({ "older_than_ms": 0 })).expect("pruned")
    };
    let pruned = prune(&house);
    assert_eq!(pruned["held"]["by"]["goal"], json!(house.source), "{pruned}");
    let House { daemon, models, source, outside } = house;
    let house = House { daemon: daemon.kill9().start(), models, source, outside };
    gate.open();
    let goal = ended(&mut house.daemon.client(), &forked);
    assert_eq!(goal["response"], "done by the other", "{goal}");
    assert_replays(&house.daemon, &forked);
    let pruned = prune(&house);
    assert_eq!(pruned["held"], Value::Null, "nothing is open: {pruned}");
    let refused = house.fork(fork).expect_err("its entries are not in the journal");
    assert_eq!(refused.data["reason"], "archived", "{refused:?}");
}
