//! `kill -9` at drawn moments, over and over, while goals, messages and answers keep coming; also in the middle of
//! recovery.
//!
//! Invariants: what was acknowledged is there in the end, once; no effect is applied twice; the chain verifies after
//! each kill. The seed is printed, and `AAOS_KILLS` sets the number of kills.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;
use testkit::{
    Client, Daemon, DaemonBuilder, ModelServer, PATIENCE, RpcTrouble, Script, SeenRequest, Turn, scratch,
};

/// How many kills, where the default is not wanted.
const SETTING: &str = "AAOS_KILLS";
const KILLS: usize = 15;
/// Goals and messages that may be open when more are sent.
const MOST_OPEN: usize = 6;
/// The last entry after which a kill may come.
const FARTHEST: u64 = 40;
/// Lines of the audit trail after which a kill may come in recovery.
const RECOVERY: u64 = 12;
/// The daemon's code for what is not there.
const NOT_FOUND: i64 = 1001;
const KEEPER: &str = "name: keeper\nmodel: fast\nsystem_prompt: You are the keeper.\nlifecycle: persistent\n";

#[expect(clippy::disallowed_methods, reason = "how long a test may take is told to the test, not to agentd")]
fn kills() -> usize {
    std::env::var(SETTING).map_or(KILLS, |words| words.parse().expect("a number of kills"))
}

/// SplitMix64 (Steele, Lea and Flood 2014): a seed replays the same draws.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) % below
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text, not {value}")).to_owned()
}

/// The number that follows a word.
fn number_after(words: &str, mark: &str) -> usize {
    let rest = words.rsplit_once(mark).expect("the mark").1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

/// A goal appends a line, which waits for a person where its number divides by four, and edits a file; the keeper appends a line for each message.
fn script(work: &Path) -> Script {
    let at = |name: String| work.join(name).to_str().expect("UTF-8").to_owned();
    let (goals, edits, mail) = (at("g-".into()), at("e-".into()), at("mail".into()));
    Script::dynamic(move |seen: &SeenRequest| {
        if seen.system.contains("You are the keeper.") {
            let last = seen.messages.iter().rfind(|message| message.role == "user").expect("a message");
            let line = format!("{}\n", last.text);
            return match seen.messages.last().map(|message| message.role.as_str()) {
                Some("user") => {
                    Turn::call("file_write", json!({ "path": mail, "content": line, "append": true }))
                }
                _ => Turn::say(format!("re: {}", last.text)),
            };
        }
        let n = number_after(seen.first_user_text().split('\n').next().unwrap_or_default(), "goal ");
        match seen.replies_so_far() {
            0 => Turn::call(
                "file_write",
                json!({ "path": format!("{goals}{n}"), "content": "line\n", "append": true }),
            ),
            // Its class is `once`: twice it would leave two more letters.
            1 => Turn::call(
                "file_edit",
                json!({ "path": format!("{edits}{n}"), "old_string": "[", "new_string": "[x" }),
            ),
            _ => Turn::say("done"),
        }
    })
}

/// What was sent, and what of it was acknowledged.
struct Load {
    work: TempDir,
    keeper: String,
    sent_goals: usize,
    goals: BTreeMap<usize, String>,
    sent_messages: usize,
    traces: BTreeMap<usize, String>,
    answered: BTreeSet<String>,
}

impl Load {
    fn new(work: TempDir, daemon: &Daemon) -> Self {
        let root = work.path().display();
        let capabilities = format!("capabilities: [\"tool: file_write\", \"file_write: {root}/*\"]\n");
        let manifest = json!({ "manifest": format!("{KEEPER}{capabilities}") });
        let keeper = text(&daemon.client().call("agent.spawn", manifest).expect("spawns")["agent_id"]);
        let (goals, traces, answered) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { work, keeper, sent_goals: 0, goals, sent_messages: 0, traces, answered }
    }

    fn goal(&self, n: usize) -> Value {
        let root = self.work.path().display();
        let asks = if n.is_multiple_of(4) { "approval_required: [file_write]\n" } else { "" };
        let manifest = format!("name: lead\nmodel: smart\nsystem_prompt: You are the lead.\n{asks}");
        let grants = json!([format!("file_read: {root}/*"), format!("file_write: {root}/*"), "tool: *"]);
        json!({ "goal": format!("goal {n}"), "client_key": n.to_string(), "manifest": manifest,
                "grants": grants, "outputs": [format!("{root}/g-{n}")] })
    }

    /// Sends a little more, as long as not too much is open; answers what is asked.
    fn go_on(&mut self, client: &mut Client) -> Result<(), RpcTrouble> {
        self.send_again(client)?;
        let goals = done(client, "goal.list", json!({}))?;
        let open =
            goals["goals"].as_array().expect("a list").iter().filter(|goal| goal["exit_code"].is_null());
        if open.count() < MOST_OPEN {
            let n = self.sent_goals;
            std::fs::write(self.work.path().join(format!("e-{n}")), "[").expect("writes");
            self.sent_goals += 1;
            self.submit(client, n)?;
            self.sent_messages += 1;
            self.deliver(client, self.sent_messages - 1)?;
        }
        self.answer(client)
    }

    /// What was on its way when the daemon was killed and nobody acknowledged.
    fn send_again(&mut self, client: &mut Client) -> Result<(), RpcTrouble> {
        if let Some(n) = self.sent_goals.checked_sub(1).filter(|n| !self.goals.contains_key(n)) {
            self.submit(client, n)?;
        }
        let Some(n) = self.sent_messages.checked_sub(1).filter(|n| !self.traces.contains_key(n)) else {
            return Ok(());
        };
        let delivered = entries(client, &["message_delivered"])?;
        let words = format!("message {n}");
        match delivered.iter().find(|entry| entry["event"]["message"] == words) {
            Some(entry) => drop(self.traces.insert(n, text(&entry["trace_id"]))),
            None => self.deliver(client, n)?,
        }
        Ok(())
    }

    fn submit(&mut self, client: &mut Client, n: usize) -> Result<(), RpcTrouble> {
        let id = text(&done(client, "goal.submit", self.goal(n))?["goal_id"]);
        self.goals.insert(n, id);
        Ok(())
    }

    fn deliver(&mut self, client: &mut Client, n: usize) -> Result<(), RpcTrouble> {
        let message = json!({ "agent_id": self.keeper, "message": format!("message {n}") });
        let reply = match client.try_call("agent.run", message)? {
            Ok(reply) => reply,
            Err(failure) => {
                let ends = entries(client, &["agent_stopped"])?;
                let end = ends.iter().find(|entry| entry["agent_id"] == self.keeper.as_str());
                panic!("message {n}: {failure:?}; the keeper's end: {end:?}");
            }
        };
        let trace = text(&reply["trace_id"]);
        self.traces.insert(n, trace);
        Ok(())
    }

    fn answer(&mut self, client: &mut Client) -> Result<(), RpcTrouble> {
        let list = done(client, "approval.list", json!({}))?;
        for asked in list["pending"].as_array().expect("a list") {
            let id = text(&asked["id"]);
            assert!(!self.answered.contains(&id), "an acknowledged answer is lost: {asked}");
            match client.try_call("approval.respond", json!({ "id": id, "decision": "approve" }))? {
                Ok(_) => drop(self.answered.insert(id)),
                Err(failure) => assert_eq!(failure.code, NOT_FOUND, "{failure:?}"),
            }
        }
        Ok(())
    }

    /// Works until everything that was sent is over.
    fn drain(&mut self, client: &mut Client) {
        let began = Instant::now();
        loop {
            self.send_again(client).expect("nobody kills it now");
            self.answer(client).expect("nobody kills it now");
            let goals = done(client, "goal.list", json!({})).expect("nobody kills it now");
            let open: Vec<&Value> = goals["goals"]
                .as_array()
                .expect("a list")
                .iter()
                .filter(|one| one["exit_code"].is_null())
                .collect();
            if open.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE * 2, "goals do not end: {open:?}");
        }
    }
}

fn done(client: &mut Client, method: &str, params: Value) -> Result<Value, RpcTrouble> {
    Ok(client.try_call(method, params)?.unwrap_or_else(|failure| panic!("{method}: {failure:?}")))
}

/// All entries of these kinds, page by page.
fn entries(client: &mut Client, kinds: &[&str]) -> Result<Vec<Value>, RpcTrouble> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map_or(json!(0), |last| last["seq"].clone());
        let mut page = done(client, "audit.query", json!({ "kinds": kinds, "after_seq": after }))?;
        match page["entries"].take() {
            Value::Array(page) if page.is_empty() => return Ok(all),
            Value::Array(page) => all.extend(page),
            other => panic!("a list, not {other}"),
        }
    }
}

/// The end of the journal, which verifies to there.
fn head(client: &mut Client) -> u64 {
    let report = client.call("audit.verify", json!({})).expect("a report");
    assert!(report["broken"].is_null(), "the chain is broken: {report}");
    report["entries"].as_u64().expect("a number")
}

/// Kills the daemon once `entry` is on its disk, on a thread of its own.
fn kill_at(daemon: &Daemon, entry: u64) -> std::thread::JoinHandle<()> {
    let (pid, mut watcher) = (daemon.pid(), daemon.client());
    watcher.send("audit.stream", json!({ "after_seq": entry - 1 }));
    std::thread::spawn(move || {
        if watcher.notification().is_ok() {
            let daemon = Pid::from_raw(i32::try_from(pid).expect("small")).expect("a process number");
            kill_process(daemon, Signal::KILL).expect("it was there a moment ago");
        }
    })
}

/// Starts it and kills it in the middle of its recovery, after so many lines of its audit trail.
fn cut_recovery(builder: DaemonBuilder, lines: u64) -> DaemonBuilder {
    let trail = builder.home().join("stdout.log");
    let before = std::fs::metadata(&trail).map_or(0, |about| about.len());
    let written = || {
        let mut added = String::new();
        let mut file = std::fs::File::open(&trail).expect("opens the trail");
        file.seek(SeekFrom::Start(before)).expect("seeks");
        file.read_to_string(&mut added).expect("reads");
        added.lines().count() as u64
    };
    let mut daemon = builder.begin();
    let began = Instant::now();
    // It may have no more to record than this, and is ready then.
    while written() < lines && !daemon.is_ready() {
        assert!(began.elapsed() < PATIENCE, "neither ready nor recording: {}", daemon.stderr());
        std::thread::yield_now();
    }
    daemon.kill();
    daemon.wait_end();
    daemon.again()
}

fn assert_nothing_lost(load: &Load, client: &mut Client, models: &ModelServer) {
    for (n, id) in &load.goals {
        let status = client.call("goal.status", json!({ "goal_id": id })).expect("it is not forgotten");
        assert_eq!(status["state"], "done", "goal {n}: {status}");
        let line = std::fs::read_to_string(load.work.path().join(format!("g-{n}"))).expect("reads");
        assert_eq!(line, "line\n", "goal {n}: once");
    }
    let unknown = entries(client, &["tool_result"]).expect("it lives");
    let unknown: BTreeSet<String> = unknown
        .iter()
        .filter(|entry| entry["event"]["outcome"] == "unknown")
        .map(|entry| text(&entry["goal_id"]))
        .collect();
    for (n, id) in &load.goals {
        let edited = std::fs::read_to_string(load.work.path().join(format!("e-{n}"))).expect("reads");
        assert!(edited == "[x" || (edited == "[" && unknown.contains(id)), "goal {n}: {edited}");
    }
    for (n, trace) in &load.traces {
        let wait = json!({ "trace_id": trace, "wait_seconds": 30 });
        let report = client.call("agent.result", wait);
        // The oldest replies are not kept for ever.
        let Ok(report) = report else { continue };
        assert_eq!(report["result"]["response"], format!("re: message {n}"), "{report}");
    }
    let mail = std::fs::read_to_string(load.work.path().join("mail")).unwrap_or_default();
    let expected: Vec<String> = (0..load.sent_messages).map(|n| format!("message {n}")).collect();
    assert_eq!(mail.lines().collect::<Vec<_>>(), expected, "each message once and in order");
    let granted = entries(client, &["human_approval_granted"]).expect("it lives").len();
    let asked = entries(client, &["human_approval_requested"]).expect("it lives").len();
    assert_eq!((granted, asked), (load.sent_goals.div_ceil(4), load.sent_goals.div_ceil(4)), "asked once");
    let begun = entries(client, &["inference_requested"]).expect("it lives").len();
    let ended = entries(client, &["inference_completed"]).expect("it lives").len();
    assert_eq!(ended, 3 * load.goals.len() + 2 * load.traces.len(), "each reply was recorded once");
    assert!(models.requests().len() <= begun, "nothing was asked without being recorded before");
}

#[test]
fn random_kills_lose_nothing_that_was_acknowledged() {
    let mut random = RandomState::new().hash_one("kills");
    println!("seed {random:#x}");
    let work = scratch();
    let models = ModelServer::start(script(work.path()));
    let mut daemon = DaemonBuilder::openai(&models).env("AAOS_AUDIT_STDOUT", "1").start();
    let mut load = Load::new(work, &daemon);
    let mut killed = 0;
    while killed < kills() {
        let entry = head(&mut daemon.client()) + 1 + draw(&mut random, FARTHEST);
        let killer = kill_at(&daemon, entry);
        let mut client = daemon.client();
        while load.go_on(&mut client).is_ok() {}
        daemon.wait_end();
        killer.join().expect("it kills");
        killed += 1;
        let mut builder = daemon.again();
        if draw(&mut random, 3) == 0 {
            builder = cut_recovery(builder, draw(&mut random, RECOVERY));
            killed += 1;
        }
        daemon = builder.start();
    }
    let mut client = daemon.client();
    load.drain(&mut client);
    let length = head(&mut client);
    assert_nothing_lost(&load, &mut client, &models);
    assert_eq!(models.unscripted(), Vec::<String>::new());
    let (goals, messages, answers) = (load.goals.len(), load.traces.len(), load.answered.len());
    println!("{killed} kills over {goals} goals, {messages} messages, {answers} answers, {length} entries");
}
