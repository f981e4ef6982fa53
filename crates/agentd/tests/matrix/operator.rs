//! Who uses the daemon: spawns, delivers, submits, answers, waits. After a death it goes on where it was.
//!
//! Invariants: what was acknowledged is expected to be there, and is never sent again; what was not is sent again only
//! where the daemon does not have it.

use crate::scenario::KEEPER;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use testkit::{Client, RpcFailure, RpcTrouble};

/// The daemon's code for what is not there.
const NOT_FOUND: i64 = 1001;

/// What was acknowledged so far.
#[derive(Default)]
pub(crate) struct Operator {
    keeper: Option<String>,
    goal: Option<String>,
    traces: BTreeMap<&'static str, String>,
    answered: BTreeSet<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text, not {value}")).to_owned()
}

fn done(method: &str, reply: Result<Value, RpcFailure>) -> Value {
    reply.unwrap_or_else(|failure| panic!("{method}: {failure:?}"))
}

/// Calls what must not fail, where the daemon may die meanwhile.
fn call(client: &mut Client, method: &str, params: Value) -> Result<Value, RpcTrouble> {
    Ok(done(method, client.try_call(method, params)?))
}

/// Entries of one kind.
fn entries(client: &mut Client, kind: &str) -> Result<Vec<Value>, RpcTrouble> {
    let reply = call(client, "audit.query", json!({ "kinds": [kind] }))?;
    Ok(reply["entries"].as_array().expect("a list").clone())
}

impl Operator {
    /// Does what is left to be done.
    pub(crate) fn work(&mut self, socket: &Path, goal: &Value) -> Result<(), RpcTrouble> {
        let mut client = Client::connect(socket)?;
        let keeper = self.keeper(&mut client)?;
        self.deliver(&mut client, &keeper, "one")?;
        let goal = self.submit(&mut client, goal)?;
        self.follow(&mut client, &goal)?;
        self.read_reply(&mut client, "one")?;
        self.deliver(&mut client, &keeper, "two")?;
        self.read_reply(&mut client, "two")
    }

    fn keeper(&mut self, client: &mut Client) -> Result<String, RpcTrouble> {
        let list = call(client, "agent.list", json!({}))?;
        let listed = list["agents"].as_array().expect("a list").iter().find(|one| one["name"] == "keeper");
        let found = listed.map(|one| text(&one["id"]));
        if self.keeper.is_some() {
            assert_eq!(found, self.keeper, "an acknowledged agent is lost");
        }
        let keeper = match found {
            Some(found) => found,
            None => text(&call(client, "agent.spawn", json!({ "manifest": KEEPER }))?["agent_id"]),
        };
        self.keeper = Some(keeper.clone());
        Ok(keeper)
    }

    fn deliver(&mut self, client: &mut Client, keeper: &str, words: &'static str) -> Result<(), RpcTrouble> {
        let delivered = entries(client, "message_delivered")?;
        let mut known = delivered.iter().filter(|entry| entry["event"]["message"] == words);
        let found = known.next().map(|entry| text(&entry["trace_id"]));
        assert!(known.next().is_none(), "{words} was delivered twice");
        if self.traces.contains_key(words) {
            assert_eq!(found.as_ref(), self.traces.get(words), "an acknowledged message is lost");
        }
        let trace = match found {
            Some(trace) => trace,
            None => {
                let message = json!({ "agent_id": keeper, "message": words });
                text(&call(client, "agent.run", message)?["trace_id"])
            }
        };
        self.traces.insert(words, trace);
        Ok(())
    }

    fn read_reply(&self, client: &mut Client, words: &str) -> Result<(), RpcTrouble> {
        let wait = json!({ "trace_id": self.traces[words], "wait_seconds": 20 });
        let report = call(client, "agent.result", wait)?;
        assert_eq!(report["status"], "done", "{words}: {report}");
        assert_eq!(report["result"]["response"], format!("re: {words}"));
        Ok(())
    }

    fn submit(&mut self, client: &mut Client, goal: &Value) -> Result<String, RpcTrouble> {
        let id = text(&call(client, "goal.submit", goal.clone())?["goal_id"]);
        if let Some(known) = self.goal.replace(id.clone()) {
            assert_eq!(id, known, "an acknowledged goal is lost");
        }
        Ok(id)
    }

    /// Follows the goal to its end, which is recorded with that of its root agent, and answers what is asked.
    fn follow(&mut self, client: &mut Client, goal: &str) -> Result<(), RpcTrouble> {
        let kinds = ["human_approval_requested", "goal_finished"];
        // The stream itself is never replied to while the daemon lives.
        client.send_line(
            &json!({ "jsonrpc": "2.0", "id": "follow", "method": "audit.stream",
                     "params": { "goal_id": goal, "kinds": kinds } })
            .to_string(),
        )?;
        loop {
            let frame = client.notification()?;
            let event = &frame["params"]["event"]["event"];
            match event["kind"].as_str() {
                Some("human_approval_requested") => self.answer(client, &text(&event["question"]["id"]))?,
                Some("goal_finished") => {
                    assert_eq!(event["state"], "done", "{event}");
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self, client: &mut Client, question: &str) -> Result<(), RpcTrouble> {
        let list = call(client, "approval.list", json!({}))?;
        let pending = list["pending"].as_array().expect("a list").iter().any(|one| one["id"] == question);
        assert!(!(pending && self.answered.contains(question)), "{question} was answered and is asked again");
        if !pending {
            return Ok(());
        }
        let answer = json!({ "id": question, "decision": "approve" });
        match client.try_call("approval.respond", answer)? {
            Ok(_) => drop(self.answered.insert(question.to_owned())),
            Err(failure) => assert_eq!(failure.code, NOT_FOUND, "{failure:?}"),
        }
        Ok(())
    }
}
