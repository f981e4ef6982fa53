//! What went from a conversation is read back by its agent, as it was, and by nobody else.

use crate::long_talks::{GOAL, caller, is_for_summary, keeper, metered, said, tell};
use crate::support::{Rig, assert_intact, entries, invoke, text};
use serde_json::{Value, json};
use testkit::{Client, RpcFailure, Script, SeenRequest, Turn};

const TURNS: usize = 30;
const LATER: &str = "Operator's word 1: leave out supplier 1.";

fn read(client: &mut Client, agent: &str, from: u64, to: u64) -> Result<Value, RpcFailure> {
    invoke(client, agent, "history_read", json!({ "from": from, "to": to }))
}

fn assert_refused(result: Result<Value, RpcFailure>, words: &str) {
    let refused = result.expect_err("it is refused");
    assert!(format!("{refused:?}").contains(words), "{refused:?}");
}

/// The last turn that the journal says went.
fn last_gone(client: &mut Client) -> u64 {
    let went = entries(client, &["context_summarized"]);
    went.last().expect("something went")["event"]["shortened"]["to_turn"].as_u64().expect("a turn")
}

/// What the scripted model calls the tool with at a turn.
fn spoken(turn: u64) -> String {
    format!("{turn} {}", "x".repeat(900))
}

/// The items of a turn in which the scripted model calls `echo`.
fn turn_of(turn: u64) -> Vec<Value> {
    let call = format!("call-{turn}");
    let message = json!({ "message": spoken(turn) }).to_string();
    let size = message.len();
    vec![
        json!({ "turn": turn, "role": "call", "call": call, "tool": "echo", "size_bytes": size, "text": message }),
        json!({ "turn": turn, "role": "tool_result", "call": call, "outcome": "done", "size_bytes": size, "text": message }),
    ]
}

/// Everything that can be read back, page by page.
fn read_all(client: &mut Client, agent: &str, last: u64) -> Vec<Value> {
    let mut items = Vec::new();
    let mut next = json!({ "from": 1, "offset": 0 });
    while next.is_object() {
        let input = json!({ "from": next["from"], "offset": next["offset"], "to": last, "limit": 3_000 });
        let mut page = invoke(client, agent, "history_read", input).expect("a page");
        let read = page["items"].as_array().expect("items").clone();
        assert!(read.iter().map(|item| text(&item["text"]).len()).sum::<usize>() <= 3_000);
        items.extend(read);
        next = page["next"].take();
    }
    items
}

/// The texts of items, those that a page cut put together.
fn texts(items: &[Value]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for item in items {
        match texts.last_mut() {
            Some(last) if item["offset"].is_u64() => last.push_str(&text(&item["text"])),
            _ => texts.push(text(&item["text"])),
        }
    }
    texts
}

#[test]
fn what_went_is_read_back_as_it_was_after_a_kill_and_after_more_went() {
    let rig = Rig::new(Script::dynamic(caller(TURNS)));
    let mut client = rig.client();
    let agent = rig.spawn(&keeper("16k", ""));
    tell(&mut client, &agent, GOAL);
    let last = last_gone(&mut client);
    let note = format!("history_read gives them back (from 1, to {last})");
    assert!(said(rig.models.requests().last().expect("requests")).contains(&note), "the agent is told");
    let goal = json!({ "turn": 1, "role": "user", "size_bytes": GOAL.len(), "text": GOAL });
    let wanted = [vec![goal], turn_of(1), turn_of(2), turn_of(3)].concat();
    let page = read(&mut client, &agent, 1, 3).expect("the first turns");
    assert_eq!(page, json!({ "items": wanted, "last_turn": last }));
    let one = read(&mut client, &agent, last, last + 900).expect("no more than there is");
    assert_eq!(one["items"], json!(turn_of(last)));
    assert_refused(read(&mut client, &agent, last + 1, last + 2), "later ones are shown to you");
    assert_refused(read(&mut client, &agent, 3, 2), "no turns from 3 to 2");

    let daemon = rig.daemon.kill9().start();
    let mut client = daemon.client();
    assert_eq!(read(&mut client, &agent, 1, 3).expect("after a kill"), page);
    tell(&mut client, &agent, LATER);
    let later = last_gone(&mut client);
    assert!(later > last + 10, "{later}");
    assert_eq!(read(&mut client, &agent, 1, 3).expect("after more went")["items"], page["items"]);
    let mut all: Vec<String> = vec![GOAL.to_owned()];
    for turn in 1..=later {
        match turn {
            31 => all.extend(["noted".to_owned(), LATER.to_owned()]),
            // Calls are counted, and there is none in turn 31.
            _ => all.extend(std::iter::repeat_n(json!({ "message": spoken(turn) }).to_string(), 2)),
        }
    }
    assert_eq!(texts(&read_all(&mut client, &agent, later)), all);
    assert_intact(&mut client);
}

#[test]
fn an_agent_reads_its_own_conversation_and_no_other() {
    let rig = Rig::new(Script::dynamic(caller(TURNS)));
    let mut client = rig.client();
    let [own, other, bare] = ["", "other", "bare"].map(|name| {
        let manifest = keeper("16k", "");
        match name {
            "" => manifest,
            "other" => manifest.replace("keeper", name),
            _ => manifest.replace("keeper", name).replace(", \"tool: history_read\"", ""),
        }
    });
    let [own, other, bare] = [own, other, bare].map(|manifest| rig.spawn(&manifest));
    tell(&mut client, &own, GOAL);
    assert_refused(read(&mut client, &other, 1, 3), "all of it is shown to you");
    let reach = json!({ "from": 1, "to": 3, "agent_id": own });
    assert_refused(invoke(&mut client, &other, "history_read", reach.clone()), "agent_id");
    assert_refused(invoke(&mut client, &own, "history_read", reach), "agent_id");
    assert!(read(&mut client, &own, 1, 3).is_ok(), "the control");
    tell(&mut client, &other, LATER);
    let page = read(&mut client, &other, 1, 1).expect("its own");
    assert_eq!(page["items"][0]["text"], LATER);
    assert!(!page.to_string().contains(GOAL), "{page}");
    // Without the right to the tool nothing is read, and the prompt names no tool that the agent does not have.
    tell(&mut client, &bare, GOAL);
    assert_refused(read(&mut client, &bare, 1, 3), "history_read");
    let seen = rig.models.requests();
    let last = seen.iter().rfind(|seen| seen.system.contains("You are bare")).expect("it was asked");
    assert!(
        said(last).contains("are no longer shown") && !said(last).contains("history_read"),
        "{}",
        said(last)
    );
}

#[test]
fn a_model_that_asks_for_what_went_is_given_it() {
    let mut call = caller(TURNS);
    let mut asked = false;
    let rig = Rig::new(Script::dynamic(move |seen: &SeenRequest| {
        let can_ask = !asked && !is_for_summary(seen) && said(seen).contains("history_read gives them back");
        if can_ask {
            asked = true;
            return metered(seen, Turn::call("history_read", json!({ "from": 2, "to": 2 })));
        }
        call(seen)
    }));
    let mut client = rig.client();
    let agent = rig.spawn(&keeper("16k", ""));
    tell(&mut client, &agent, GOAL);
    let seen = rig.models.requests();
    let asked = seen.iter().position(|seen| said(seen).contains("history_read gives them back"));
    let next = &seen[asked.expect("something went") + 1];
    let told = format!("{:?}", next.results.last().expect("a result"));
    let original = format!("\"{}", spoken(2));
    assert!(told.contains(&original), "{told}");
    assert!(!seen[asked.expect("it")].raw.contains(&original), "the control: it had gone");
    // The same is so for a daemon that was killed meanwhile: the run is rebuilt with what was read.
    let daemon = rig.daemon.kill9().start();
    tell(&mut daemon.client(), &agent, LATER);
}

#[test]
fn nothing_is_read_back_of_an_agent_that_was_told_nothing() {
    let rig = Rig::saying("unused");
    let agent = rig.spawn(&keeper("16k", ""));
    assert_refused(read(&mut rig.client(), &agent, 1, 1), "all of it is shown to you");
}
