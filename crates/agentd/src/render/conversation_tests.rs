//! Conversations as they are exported.

use aaos_core::event::{Entry, Event, Opening, Shortened};
use aaos_core::id::AgentId;
use aaos_core::model::ModelCallId;
use aaos_core::quantity::Tokens;
use serde_json::Value;

use super::{Conversation, Line};
use crate::render::fixture::{goal_with_a_child, lead, reader};

fn conversation<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Vec<Line> {
    let mut conversation = Conversation::default();
    let mut lines: Vec<Line> = entries.into_iter().flat_map(|entry| conversation.take(entry)).collect();
    lines.extend(conversation.finish());
    lines
}

fn of(agent: AgentId) -> Vec<Entry> {
    goal_with_a_child().into_iter().filter(|entry| entry.agent_id == Some(agent)).collect()
}

fn roles(lines: &[Line]) -> Vec<String> {
    let role = |line: &Line| {
        let value = serde_json::to_value(line).expect("plain JSON");
        value["role"].as_str().expect("a role").to_owned()
    };
    lines.iter().map(role).collect()
}

#[test]
fn each_message_reply_and_result_is_a_line() {
    let lines = conversation(&of(lead()));
    assert_eq!(roles(&lines), ["user", "assistant", "tool_result", "tool_result", "assistant"]);
    let Line::User { text, .. } = &lines[0] else { panic!("{lines:?}") };
    assert_eq!(text, "Read /x and write /x/out\nin two lines");
    let Line::Assistant { text, reasoning, calls, .. } = &lines[1] else { panic!("{lines:?}") };
    assert_eq!((text.as_str(), calls.len()), ("A reader reads it.", 2));
    assert!(reasoning.as_deref().is_some_and(|thought| thought.starts_with("Two steps")));
    let Line::ToolResult { call, content, .. } = &lines[2] else { panic!("{lines:?}") };
    let found: Value = serde_json::from_str(content).expect("the result is JSON");
    assert_eq!((call, &found["response"]), (&calls[0].id, &Value::from("It says: moon")));
}

#[test]
fn a_summary_stands_where_it_took_the_place_of_turns() {
    let mut entries = of(lead());
    // The second inference is one for a summary.
    let asked = entries.iter_mut().filter_map(|entry| match &mut entry.event {
        Event::InferenceRequested { keeps, .. } => Some(keeps),
        _ => None,
    });
    *asked.last().expect("an inference") = Some(0);
    let opening = Opening {
        words: vec!["hi".to_owned()],
        summary: Some("all read".to_owned()),
        turns: 1,
        ..Opening::default()
    };
    let (tokens_before, tokens_after) = (Tokens(900), Tokens(300));
    let shortened = Shortened { opening, from_turn: 1, to_turn: 1, keeps: 0, tokens_before, tokens_after };
    let replied = |entry: &Entry| matches!(entry.event, Event::InferenceCompleted { .. });
    let at = entries.iter().rposition(replied).expect("a reply");
    let entry = Entry { event: Event::ContextSummarized { shortened }, ..entries[at].clone() };
    entries.insert(at + 1, entry);
    let lines = conversation(&entries);
    assert_eq!(roles(&lines), ["user", "assistant", "tool_result", "tool_result", "summary"]);
    let Line::Summary { text, to_turn: 1, .. } = &lines[4] else { panic!("{lines:?}") };
    assert_eq!(text.as_deref(), Some("all read"));
}

#[test]
fn what_was_not_done_says_why() {
    let lines = conversation(&of(reader()));
    assert_eq!(roles(&lines), ["user", "assistant", "tool_result", "tool_result", "tool_result"]);
    let line = serde_json::to_value(&lines[2]).expect("plain JSON");
    assert_eq!(line["outcome"], "failed");
    let content: Value = serde_json::from_str(line["content"].as_str().expect("text")).expect("JSON");
    assert_eq!(content["error"]["message"], "there is no /x/b");
    let Line::ToolResult { call, content, .. } = &lines[3] else { panic!("{lines:?}") };
    assert!(call.0 == "call-2" && content.contains("file_raed"), "never begun: {lines:?}");
}

#[test]
fn calls_bear_the_ids_under_which_they_were_kept() {
    let mut entries = of(reader());
    for entry in &mut entries {
        // A provider that gives no ids.
        if let Event::InferenceCompleted { result: Ok(reply), .. } = &mut entry.event {
            reply.calls.iter_mut().for_each(|call| call.id = ModelCallId(String::new()));
        }
    }
    let lines = conversation(&entries);
    let Line::Assistant { calls, .. } = &lines[1] else { panic!("{lines:?}") };
    let given: Vec<&ModelCallId> = calls.iter().map(|call| &call.id).collect();
    assert_eq!(given, results(&lines));
}

fn results(lines: &[Line]) -> Vec<&ModelCallId> {
    let mut calls = Vec::new();
    for line in lines {
        if let Line::ToolResult { call, .. } = line {
            calls.push(call);
        }
    }
    calls
}

/// The ids that the calls of one reply bear, when these of them were refused in this order.
fn given(order: &[u64]) -> Vec<String> {
    let entries = of(reader());
    let refusal = entries.iter().find(|entry| matches!(entry.event, Event::CallRefused { .. })).cloned();
    let until = |entry: &&Entry| !matches!(entry.event, Event::ToolInvoked { .. });
    let mut entries: Vec<Entry> = entries.iter().take_while(until).cloned().collect();
    for entry in &mut entries {
        if let Event::InferenceCompleted { result: Ok(reply), .. } = &mut entry.event {
            reply.calls.iter_mut().for_each(|call| call.id = ModelCallId(String::new()));
        }
    }
    for number in order {
        let mut refused = refusal.clone().expect("the reader has a call that is refused");
        if let Event::CallRefused { model_call, .. } = &mut refused.event {
            *model_call = ModelCallId::numbered(*number);
        }
        entries.push(refused);
    }
    let lines = conversation(&entries);
    let Line::Assistant { calls, .. } = &lines[1] else { panic!("{lines:?}") };
    calls.iter().map(|call| call.id.0.clone()).collect()
}

#[test]
fn calls_that_were_made_at_once_keep_their_ids_in_whatever_order_they_began() {
    assert_eq!(given(&[1, 2, 3]), ["call-1", "call-2", "call-3"]);
    assert_eq!(given(&[3, 1, 2]), ["call-1", "call-2", "call-3"]);
    assert_eq!(given(&[3]), ["", "", "call-3"], "the others were never begun");
}

#[test]
fn a_turn_that_goes_on_is_there_as_far_as_it_came() {
    let entries = of(reader());
    let cut = entries.iter().position(|entry| matches!(entry.event, Event::ToolResult { .. })).expect("one");
    assert_eq!(roles(&conversation(&entries[..cut])), ["user", "assistant"]);
    assert_eq!(roles(&conversation(&entries[..=cut])), ["user", "assistant", "tool_result"]);
}
