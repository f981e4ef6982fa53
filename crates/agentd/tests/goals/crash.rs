//! `kill -9` of the daemon in the middle of long writes, at points that a fixed seed draws. The kill loop draws others.

use crate::support::{LEAD_MARK, Work, assert_intact, next_entry, run, spawning, text, write};
use serde_json::{Value, json};
use testkit::{Daemon, DaemonBuilder, ModelServer, Script, SeenRequest, Turn, scratch};

const ROUNDS: usize = 4;
/// The same in each run, so that a change is judged by what it changed.
const SEED: u64 = 4;
const CHILDREN: usize = 3;
/// How the name of a file begins that is not renamed to its place yet.
const UNRENAMED: &str = ".aaos-";
const OLD: &str = "old content, complete";

/// What child `n` writes in one goal: long enough that half of it would show.
fn new_content(n: usize) -> String {
    format!("<{}>", n.to_string().repeat(20_000))
}

/// The lead spawns three writers at once; each writes two files and ends.
fn script(work: &Work) -> Script {
    let at = |name: String| work.path(&format!("out/{name}"));
    let capabilities = ["tool: file_write".to_owned(), format!("file_write: \"{}\"", at("*".into()))];
    let children: Vec<Value> =
        (0..CHILDREN).map(|n| spawning(&format!("writer-{n}"), &capabilities, "Write.")).collect();
    let batch = json!({ "children": children });
    let writes: Vec<[Turn; 2]> = (0..CHILDREN)
        .map(|n| [at(format!("{n}-new")), at(format!("{n}-old"))].map(|path| write(&path, &new_content(n))))
        .collect();
    Script::dynamic(move |seen: &SeenRequest| {
        if seen.system.contains(LEAD_MARK) {
            return match seen.replies_so_far() {
                0 => Turn::call("spawn_agents", batch.clone()),
                _ => Turn::say("all written"),
            };
        }
        let n = (0..CHILDREN).find(|n| seen.system.contains(&format!("writer-{n}"))).expect("a writer");
        writes[n].get(seen.replies_so_far()).cloned().unwrap_or_else(|| Turn::say("written"))
    })
}

/// SplitMix64 (Steele, Lea and Flood 2014): a seed replays the same points.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[expect(clippy::print_stdout, reason = "the harness shows it when the test fails")]
fn note(words: &str) {
    println!("{words}");
}

/// Puts the files back to how they were before a goal.
fn set_files(work: &Work) {
    for n in 0..CHILDREN {
        work.put(&format!("out/{n}-old"), OLD);
        let fresh = work.path(&format!("out/{n}-new"));
        if std::fs::exists(&fresh).expect("looks") {
            std::fs::remove_file(fresh).expect("removes");
        }
    }
}

/// Each file is absent, old or complete. Beside them lies at most what a cut-short write had not yet renamed.
fn assert_no_half_file(work: &Work) {
    for n in 0..CHILDREN {
        let whole = new_content(n);
        let old = work.read(&format!("out/{n}-old"));
        assert!(old == OLD || old == whole, "{n}-old has {} bytes", old.len());
        if work.has(&format!("out/{n}-new")) {
            assert!(work.read(&format!("out/{n}-new")) == whole, "{n}-new is half");
        }
    }
    let names: Vec<String> = std::fs::read_dir(work.path("out"))
        .expect("lists")
        .map(|entry| entry.expect("reads").file_name().into_string().expect("UTF-8"))
        .collect();
    let strange = names
        .iter()
        .find(|name| !name.ends_with("-old") && !name.ends_with("-new") && !name.starts_with(UNRENAMED));
    assert_eq!(strange, None, "a strange file in {names:?}");
}

/// Submits a goal, follows the journal from there, and kills the daemon after `points` further entries.
fn kill_after(daemon: Daemon, work: &Work, points: u64) -> (DaemonBuilder, String) {
    let mut client = daemon.client();
    let reply = client.call("goal.submit", work.goal(&[])).expect("is acknowledged");
    let goal = text(&reply["goal_id"]);
    client.send("audit.stream", json!({ "goal_id": goal }));
    let mut seen = 0;
    next_entry(&mut client, |entry| {
        seen += 1;
        seen >= points || entry["event"]["kind"] == "goal_finished"
    });
    (daemon.kill9(), goal)
}

/// After a restart: the goal goes on to its end, the chain holds, nothing runs.
fn assert_recovered(daemon: &Daemon, work: &Work, goal: &str) {
    let mut client = daemon.client();
    client.send("audit.stream", json!({ "goal_id": goal }));
    let finished = next_entry(&mut client, |entry| entry["event"]["kind"] == "goal_finished");
    assert_eq!(finished["event"]["state"], "done", "{finished}");
    // The journal has its end before whoever asks is told.
    let began = std::time::Instant::now();
    let status = loop {
        let status = client.call("goal.status", json!({ "goal_id": goal })).expect("it is not forgotten");
        if !status["exit_code"].is_null() || began.elapsed() > testkit::PATIENCE {
            break status;
        }
        std::thread::yield_now();
    };
    assert_eq!((&status["state"], &status["exit_code"]), (&json!("done"), &json!(0)), "{status}");
    for n in 0..CHILDREN {
        assert!(work.read(&format!("out/{n}-old")) == new_content(n), "{n}-old is written");
        assert!(work.read(&format!("out/{n}-new")) == new_content(n), "{n}-new is written");
    }
    let agents = client.call("agent.list", json!({})).expect("lists");
    assert_eq!(agents["agents"], json!([]), "nobody is left");
    assert_intact(&mut client);
}

#[test]
fn kills_at_drawn_points_lose_and_halve_nothing() {
    let mut random = SEED;
    let work = Work::new(scratch());
    let models = ModelServer::start(script(&work));
    set_files(&work);
    let mut daemon = DaemonBuilder::openai(&models).start();
    // A first run without a kill is the control, and shows how many points there are.
    let control = run(&mut daemon.client(), work.goal(&[]));
    control.assert_ended("done", 0);
    let points = control.entries.len() as u64;
    assert!(points > 40, "three children leave more than {points} entries");
    for round in 0..ROUNDS {
        set_files(&work);
        let point = 1 + draw(&mut random) % points;
        let (builder, goal) = kill_after(daemon, &work, point);
        note(&format!("round {round}: killed after entry {point} of {points}"));
        assert_no_half_file(&work);
        daemon = builder.start();
        assert_recovered(&daemon, &work, &goal);
    }
    set_files(&work);
    run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
    assert_eq!(work.read("out/0-new"), new_content(0), "and it still works");
}
