//! What a model thought goes back to its provider as it came, also after a kill.

use crate::support::{LEAD_MARK, Rig};
use serde_json::{Value, json};
use testkit::{Dialect, Script, SeenRequest, Turn};

fn blocks() -> [Value; 2] {
    [
        json!({ "type": "thinking", "thinking": "I must \u{e4}cho.", "signature": "c2lnbmVk+/==" }),
        json!({ "type": "redacted_thinking", "data": "ZW5jcnlwdGVk" }),
    ]
}

/// A model that thinks, calls a tool, and is silent once it has the result: the daemon is killed there. After that it
/// answers. The request before the kill and the one after it.
fn requests(wire: Dialect) -> [SeenRequest; 2] {
    let thinks = Turn::call("echo", json!({ "message": "hi" })).thinking(blocks());
    let turns = [thinks, Turn::Hang, Turn::say("done")];
    let Rig { daemon, models, work } = Rig::on(wire, |_| Script::new().when_system(LEAD_MARK, turns));
    let goal = daemon.client().call("goal.submit", work.goal(&[])).expect("it is taken");
    assert_eq!(models.wait_for_requests(2).len(), 2, "the second is in flight");
    let daemon = daemon.kill9().start();
    let mut seen = models.wait_for_requests(3);
    let (frames, status) =
        daemon.client().call_streaming("goal.follow", json!({ "goal_id": goal["goal_id"] }));
    let ended = status.unwrap_or_else(|failure| panic!("{failure:?}: {frames:?}"));
    assert_eq!(ended["goal"]["state"], "done", "{ended}");
    let after = seen.remove(2);
    [seen.remove(1), after]
}

#[test]
fn thoughts_with_a_signature_go_back_unchanged_also_after_a_kill() {
    let [before, after] = requests(Dialect::Anthropic);
    assert_eq!(before.body, after.body, "the recorded reply makes the same request");
    let content = before.body["messages"][1]["content"].as_array().expect("blocks");
    assert_eq!(content[..2], blocks(), "{content:?}");
    assert_eq!((&content[2]["type"], content.len()), (&json!("tool_use"), 3));
}

#[test]
fn another_format_gets_the_reasoning_that_it_sent_and_no_block() {
    let [before, after] = requests(Dialect::OpenAi);
    assert_eq!(before.body, after.body);
    let said = before.body["messages"].as_array().expect("messages");
    let assistant = said.iter().find(|message| message["role"] == "assistant").expect("it has replied");
    assert_eq!(assistant["reasoning_content"], blocks()[0]["thinking"]);
    assert!(!before.body.to_string().contains("signature"), "{}", before.body);
}
