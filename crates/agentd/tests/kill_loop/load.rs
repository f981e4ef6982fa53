//! What keeps the daemon busy: goals that append, edit and ask, and messages to an agent that writes them down.
//!
//! Invariants: what the model says depends on the conversation alone; what was acknowledged is never sent again.

use crate::records::{done, entries};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;
use testkit::{Client, Daemon, ModelServer, PATIENCE, RpcTrouble, Script, SeenRequest, Turn};

/// Goals that may be open when more are sent.
const MOST_OPEN: usize = 6;
/// Of how many goals one asks a person.
const ASKS: usize = 4;
/// Model requests of a goal, and of a message.
const GOAL_TURNS: usize = 3;
const MESSAGE_TURNS: usize = 2;
/// The daemon's code for what is not there.
const NOT_FOUND: i64 = 1001;
const KEEPER: &str = "name: keeper\nmodel: fast\nsystem_prompt: You are the keeper.\nlifecycle: persistent\n";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text, not {value}")).to_owned()
}

/// The number that follows a word.
fn number_after(words: &str, mark: &str) -> usize {
    let rest = words.rsplit_once(mark).expect("the mark").1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

/// A goal appends a line, which waits for a person where its number divides by four, and edits a file; the keeper
/// appends a line for each message.
pub(crate) fn script(work: &Path) -> Script {
    let at = |name: &str| work.join(name).to_str().expect("UTF-8").to_owned();
    let (goals, edits, mail) = (at("g-"), at("e-"), at("mail"));
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

/// What was sent since the last check, and what of it was acknowledged.
pub(crate) struct Load {
    work: TempDir,
    keeper: String,
    first_goal: usize,
    sent_goals: usize,
    goals: BTreeMap<usize, String>,
    first_message: usize,
    sent_messages: usize,
    traces: BTreeMap<usize, String>,
    answered: BTreeSet<String>,
    /// Model requests before.
    requests: usize,
}

impl Load {
    pub(crate) fn new(work: TempDir) -> Self {
        let (keeper, answered) = (String::new(), BTreeSet::new());
        let (goals, traces) = (BTreeMap::new(), BTreeMap::new());
        let (first_goal, sent_goals, first_message, sent_messages) = (0, 0, 0, 0);
        Self {
            work,
            keeper,
            first_goal,
            sent_goals,
            goals,
            first_message,
            sent_messages,
            traces,
            answered,
            requests: 0,
        }
    }

    /// Begins anew, with an agent for the messages.
    pub(crate) fn begin(&mut self, daemon: &Daemon, models: &ModelServer) {
        let root = self.work.path().display();
        let capabilities = format!("capabilities: [\"tool: file_write\", \"file_write: {root}/*\"]\n");
        let manifest = json!({ "manifest": format!("{KEEPER}{capabilities}") });
        self.keeper = text(&daemon.client().call("agent.spawn", manifest).expect("spawns")["agent_id"]);
        self.first_goal = self.sent_goals;
        self.first_message = self.sent_messages;
        self.goals.clear();
        self.traces.clear();
        self.answered.clear();
        self.requests = models.requests().len();
    }

    /// Goals, messages and answers that were acknowledged.
    pub(crate) fn acknowledged(&self) -> (usize, usize, usize) {
        (self.goals.len(), self.traces.len(), self.answered.len())
    }

    /// Ends the agent for the messages, so that nothing is alive.
    pub(crate) fn end(&self, client: &mut Client) {
        client.call("agent.stop", json!({ "agent_id": self.keeper })).expect("stops");
    }

    fn goal(&self, n: usize) -> Value {
        let root = self.work.path().display();
        let asks = if n.is_multiple_of(ASKS) { "approval_required: [file_write]\n" } else { "" };
        let manifest = format!("name: lead\nmodel: smart\nsystem_prompt: You are the lead.\n{asks}");
        let grants = json!([format!("file_read: {root}/*"), format!("file_write: {root}/*"), "tool: *"]);
        json!({ "goal": format!("goal {n}"), "client_key": n.to_string(), "manifest": manifest,
                "grants": grants, "outputs": [format!("{root}/g-{n}")] })
    }

    /// Sends a little more, as long as not too much is open; answers what is asked.
    pub(crate) fn go_on(&mut self, client: &mut Client) -> Result<(), RpcTrouble> {
        self.send_again(client)?;
        if open_goals(client)?.len() < MOST_OPEN {
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
        for n in self.first_goal..self.sent_goals {
            if !self.goals.contains_key(&n) {
                self.submit(client, n)?;
            }
        }
        for n in self.first_message..self.sent_messages {
            if !self.traces.contains_key(&n) {
                self.deliver_unless_there(client, n)?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, client: &mut Client, n: usize) -> Result<(), RpcTrouble> {
        let id = text(&done(client, "goal.submit", self.goal(n))?["goal_id"]);
        self.goals.insert(n, id);
        Ok(())
    }

    /// A message has no key; the journal says whether it arrived.
    fn deliver_unless_there(&mut self, client: &mut Client, n: usize) -> Result<(), RpcTrouble> {
        let delivered = entries(client, &["message_delivered"])?;
        let words = format!("message {n}");
        match delivered.iter().find(|entry| entry["event"]["message"] == words) {
            Some(entry) => drop(self.traces.insert(n, text(&entry["trace_id"]))),
            None => self.deliver(client, n)?,
        }
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
        self.traces.insert(n, text(&reply["trace_id"]));
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
    pub(crate) fn drain(&mut self, client: &mut Client) {
        let began = Instant::now();
        loop {
            self.send_again(client).expect("nobody kills it now");
            self.answer(client).expect("nobody kills it now");
            let open = open_goals(client).expect("nobody kills it now");
            if open.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE * 2, "goals do not end: {open:?}");
        }
    }

    /// Everything that was sent was acknowledged and done once.
    pub(crate) fn assert_nothing_lost(&self, client: &mut Client, models: &ModelServer) {
        assert_eq!(self.goals.len(), self.sent_goals - self.first_goal);
        assert_eq!(self.traces.len(), self.sent_messages - self.first_message);
        self.assert_goals(client);
        self.assert_messages(client);
        self.assert_records(client, models);
    }

    fn assert_goals(&self, client: &mut Client) {
        let unknown = entries(client, &["tool_result"]).expect("it lives");
        let unknown: BTreeSet<String> = unknown
            .iter()
            .filter(|entry| entry["event"]["outcome"] == "unknown")
            .map(|entry| text(&entry["goal_id"]))
            .collect();
        for (n, id) in &self.goals {
            let status = client.call("goal.status", json!({ "goal_id": id })).expect("it is not forgotten");
            assert_eq!(status["state"], "done", "goal {n}: {status}");
            let read = |name: &str| {
                std::fs::read_to_string(self.work.path().join(format!("{name}-{n}"))).expect("reads")
            };
            assert_eq!(read("g"), "line\n", "goal {n}: once");
            let edited = read("e");
            assert!(edited == "[x" || (edited == "[" && unknown.contains(id)), "goal {n}: {edited}");
        }
    }

    fn assert_messages(&self, client: &mut Client) {
        for (n, trace) in &self.traces {
            let wait = json!({ "trace_id": trace, "wait_seconds": 30 });
            let report =
                client.call("agent.result", wait).unwrap_or_else(|why| panic!("message {n}: {why:?}"));
            assert_eq!(report["result"]["response"], format!("re: message {n}"), "{report}");
        }
        let mail = std::fs::read_to_string(self.work.path().join("mail")).unwrap_or_default();
        let expected: Vec<String> = (0..self.sent_messages).map(|n| format!("message {n}")).collect();
        assert_eq!(mail.lines().collect::<Vec<_>>(), expected, "each message once and in order");
    }

    fn assert_records(&self, client: &mut Client, models: &ModelServer) {
        let mut count = |kind: &str| entries(client, &[kind]).expect("it lives").len();
        let asks = (self.first_goal..self.sent_goals).filter(|n| n.is_multiple_of(ASKS)).count();
        assert_eq!(count("human_approval_requested"), asks, "asked once");
        assert_eq!(count("human_approval_granted"), asks, "answered once");
        let replies = GOAL_TURNS * self.goals.len() + MESSAGE_TURNS * self.traces.len();
        assert_eq!(count("inference_completed"), replies, "each reply was recorded once");
        let (begun, seen) = (count("inference_requested"), models.requests().len() - self.requests);
        assert!(seen <= begun, "nothing was asked without being recorded before: {seen} of {begun}");
    }
}

/// The goals that have not ended.
fn open_goals(client: &mut Client) -> Result<Vec<Value>, RpcTrouble> {
    let mut listed = done(client, "goal.list", json!({}))?;
    let Value::Array(goals) = listed["goals"].take() else { panic!("a list, not {listed}") };
    Ok(goals.into_iter().filter(|goal| goal["exit_code"].is_null()).collect())
}
