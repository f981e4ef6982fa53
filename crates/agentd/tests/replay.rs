//! `agentd replay`: a recorded goal arrives at the recorded state again, and nothing is touched on the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aaos_agent::{Replay, ReplayError, Replayed};
use aaos_core::event::{Entry, Event};
use serde_json::{Value, json};
use testkit::{Backend, DaemonBuilder, Finished, ModelServer, Script, Turn};

const GOAL: &str = "Read the files in ./docs and write a summary to ./output/summary.md";

fn with_documents() -> DaemonBuilder {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let docs = builder.home().join("work/docs");
    fs::create_dir_all(&docs).expect("makes a folder");
    fs::write(docs.join("tides.md"), "# Tides\n\nThe moon pulls the sea.\n").expect("writes a document");
    fs::write(docs.join("wind.md"), "# Wind\n\nThe sun drives the wind.\n").expect("writes a document");
    builder
}

fn json_of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn run_goal(builder: &DaemonBuilder) -> String {
    let ran = json_of(&builder.cli(["run", "--json", GOAL]));
    assert_eq!(ran["exit_code"], 0, "{ran}");
    ran["goal_id"].as_str().expect("an id").to_owned()
}

/// Every file below a directory with its content. What SQLite keeps beside a journal that is read is left out.
fn files(below: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![below.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                left.push(path);
            } else if path.is_file() && !name.ends_with("-shm") && !name.ends_with("-wal") {
                found.insert(path.clone(), fs::read(&path).expect("readable"));
            }
        }
    }
    found
}

#[test]
fn a_goal_with_children_arrives_at_the_recorded_state_and_no_file_is_touched() {
    let builder = with_documents();
    let goal = run_goal(&builder);
    let before = files(builder.home());
    let told = builder.cli(["replay", &goal, "--json"]);
    assert_eq!(told.code(), 0, "{told:?}");
    assert_eq!(json_of(&told)["diverged"], Value::Null);
    let replayed = &json_of(&told)["replayed"];
    assert_eq!(replayed["state_hash"], replayed["recorded_hash"]);
    assert_eq!(replayed["state"], "done");
    let agents = replayed["agents"].as_array().expect("agents");
    assert!(agents.len() >= 3, "a root agent and two children: {replayed}");
    assert_eq!(agents[0]["path"], "/");
    assert!(agents.iter().all(|agent| agent["runs"] == 1 && agent["is_running"] == false), "{replayed}");
    assert!(files(builder.home()) == before, "nothing was written");

    let said = builder.cli(["replay", &goal]);
    assert!(said.code() == 0 && said.stdout.contains("it is what was recorded"), "{said:?}");
    assert!(said.stdout.contains(replayed["state_hash"].as_str().expect("a hash")), "{said:?}");
    let again = json_of(&builder.cli(["replay", &goal, "--json"]));
    assert_eq!(&again["replayed"], replayed, "and once more");
    let strange = builder.cli(["replay", "0190a5e8-7c1b-7000-8000-0123456789ab"]);
    assert!(strange.code() == 1 && strange.stderr.contains("knows no goal"), "{strange:?}");
    assert_eq!(builder.cli(["replay", "lead"]).code(), 2, "a goal is named by its id");
}

fn replayed(entries: &[Entry]) -> Result<Replayed, ReplayError> {
    let mut replay = Replay::default();
    entries.iter().try_for_each(|entry| replay.take(entry))?;
    Ok(replay.finish().expect("a goal"))
}

/// Changes the first entry that `change` wants to change; gives its number.
fn altered(entries: &[Entry], change: impl Fn(&mut Event) -> bool) -> (Vec<Entry>, u64) {
    let mut entries = entries.to_vec();
    let changed = entries.iter_mut().find_map(|entry| change(&mut entry.event).then_some(entry.seq.0));
    (entries, changed.expect("there is such an entry"))
}

#[test]
fn a_goal_is_replayed_as_far_as_it_went_and_an_altered_entry_is_named() {
    let builder = with_documents();
    let goal = run_goal(&builder);
    let told = builder.cli(["audit", "--json", "--goal", &goal]);
    let entries: Vec<Entry> =
        told.stdout.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
    for end in 1..=entries.len() {
        let part = replayed(&entries[..end]).unwrap_or_else(|error| panic!("after {end}: {error}"));
        assert_eq!(part.state_hash, part.recorded_hash, "after {end}");
    }
    assert!(replayed(&entries[1..]).is_err_and(|error| error == ReplayError::NoBeginning));

    let word = altered(&entries, |event| match event {
        Event::InferenceCompleted { result: Ok(reply), .. } => {
            reply.text.push_str(" and more");
            true
        }
        _ => false,
    });
    let result = altered(&entries, |event| match event {
        Event::ToolResult { result: Some(result), .. } => {
            *result = "{}".to_owned();
            true
        }
        _ => false,
    });
    let verdict = altered(&entries, |event| match event {
        Event::GoalFinished { outputs, .. } => {
            outputs[0].observed = false;
            true
        }
        _ => false,
    });
    let state = altered(&entries, |event| match event {
        Event::AgentExecutionCompleted { mind_hash, .. } => {
            mind_hash.clear();
            true
        }
        _ => false,
    });
    for (entries, seq) in [word, result, verdict] {
        match replayed(&entries) {
            Err(ReplayError::Differs(differs)) => {
                assert!(differs.seq.0 >= seq, "{seq} was altered: {differs}")
            }
            other => panic!("{seq} was altered: {other:?}"),
        }
    }
    let other = replayed(&state.0).expect("nothing else differs");
    assert_ne!(other.state_hash, other.recorded_hash);
}

#[test]
fn an_agent_that_a_kill_cut_before_its_goal_began_is_replaced() {
    let builder = with_documents();
    let goal = run_goal(&builder);
    let told = builder.cli(["audit", "--json", "--goal", &goal]);
    let entries: Vec<Entry> =
        told.stdout.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
    let at =
        entries.iter().position(|entry| matches!(entry.event, Event::AgentSpawned { .. })).expect("a root");
    let mut cut = entries[at].clone();
    cut.agent_id = Some("0190a5e8-7c1b-7000-8000-00000000dead".parse().expect("an id"));
    let with_cut = |at: usize| {
        let mut entries = entries.clone();
        entries.insert(at, cut.clone());
        replayed(&entries)
    };
    assert_eq!(
        with_cut(at).expect("it never ran").state_hash,
        replayed(&entries).expect("the same").state_hash
    );
    let begun = entries.iter().position(|entry| matches!(entry.event, Event::AgentExecutionStarted { .. }));
    let second = with_cut(begun.expect("a run") + 1);
    assert!(matches!(second, Err(ReplayError::Differs(_))), "the control: {second:?}");
}

/// A lead that does what its script says.
const LEAD: &str = "name: lead\nmodel: smart\nsystem_prompt: You are the lead.\n";

#[test]
fn no_model_is_asked_again_while_a_daemon_runs() {
    let path = |builder: &DaemonBuilder, name: &str| builder.home().join("work/out").join(name);
    let holder = DaemonBuilder::new(Backend::Builtin);
    let (one, two) = (path(&holder, "one.md"), path(&holder, "two.md"));
    fs::create_dir_all(one.parent().expect("a directory")).expect("made");
    let write =
        |path: &Path, content: &str| Turn::call("file_write", json!({ "path": path, "content": content }));
    let models = ModelServer::start(Script::new().when_system(
        "You are the lead.",
        [write(&one, "1"), write(&two, "2"), write(&holder.home().join("no"), "3"), Turn::say("written")],
    ));
    let daemon = DaemonBuilder::openai(&models).start();
    let grant = format!("file_write: {}/*", one.parent().expect("a directory").display());
    let goal =
        json!({ "goal": "write", "outputs": [&one, &two], "grants": [grant, "tool: *"], "manifest": LEAD });
    let mut client = daemon.client();
    let (_, ended) = client.call_streaming("agent.submit_streaming", goal);
    let ended = ended.expect("it ran");
    assert_eq!(ended["goal"]["state"], "done", "{ended}");
    let asked = models.requests().len();
    assert_eq!(asked, 4, "the control: the goal itself asked");
    for file in [&one, &two] {
        fs::remove_file(file).expect("removed");
    }

    let told = daemon.cli(["replay", ended["goal_id"].as_str().expect("an id"), "--json"]);
    assert_eq!(told.code(), 0, "{told:?}");
    let replayed = &json_of(&told)["replayed"];
    assert_eq!(replayed["inferences"], 4, "{replayed}");
    assert_eq!(replayed["state_hash"], replayed["recorded_hash"]);
    assert_eq!(models.requests().len(), asked, "the provider saw nothing of it");
    assert!(!one.exists() && !two.exists(), "no call was made again");
}
