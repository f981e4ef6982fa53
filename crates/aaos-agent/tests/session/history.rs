//! What was said is read back from the entries as the mind had it.

use aaos_agent::{HistoryPage, MindConfig, Original, Originals};
use aaos_core::model::{CallResult, Message, ModelCallId, RequestedTool};
use aaos_core::quantity::{Bytes, Tokens};
use aaos_core::toolio::{HistoryItem, HistoryPlace, HistoryRole};
use proptest::prelude::*;

use super::{Session, config};

/// A conversation that nothing ever goes from.
fn roomy() -> MindConfig {
    MindConfig { context_window: Tokens(1 << 40), max_history_messages: 1_000_000, ..config() }
}

fn originals(session: &Session) -> Vec<Original> {
    let mut originals = Originals::default();
    session.entries.iter().flat_map(|entry| originals.take(entry)).collect()
}

/// Turn, role, call and text; a result's text is left out.
type Line = (u64, HistoryRole, Option<String>, String);

fn line(original: &Original) -> Line {
    let HistoryItem { turn, role, call, text, .. } = &original.item;
    let text = if *role == HistoryRole::ToolResult { String::new() } else { text.clone() };
    (*turn, *role, call.as_ref().map(|call| call.0.clone()), text)
}

/// What the runtime itself put in the place of a result that did not come.
fn is_of_the_runtime(result: &CallResult) -> bool {
    result.content.contains("\"kind\":\"cancelled\"")
        || result.content.contains("\"kind\":\"budget_exceeded\"")
}

fn lines_of(conversation: &[Message]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut turns = 0_u64;
    for message in conversation {
        match message {
            Message::User { text } => lines.push((turns.max(1), HistoryRole::User, None, text.clone())),
            Message::Assistant { text, calls, .. } => {
                turns += 1;
                if !text.trim().is_empty() {
                    lines.push((turns, HistoryRole::Assistant, None, text.clone()));
                }
                let call = |call: &aaos_core::model::ModelCall| {
                    (turns, HistoryRole::Call, Some(call.id.0.clone()), call.arguments.0.clone())
                };
                lines.extend(calls.iter().map(call));
            }
            Message::ToolResults { results } => {
                let told = results.iter().filter(|result| !is_of_the_runtime(result));
                lines.extend(told.map(|result| {
                    (turns, HistoryRole::ToolResult, Some(result.id.0.clone()), String::new())
                }));
            }
        }
    }
    lines
}

/// Reads all pages of a range.
fn read(all: &[HistoryItem], from: u64, to: u64, room: usize) -> Vec<HistoryItem> {
    let mut read = Vec::new();
    let mut place = Some(HistoryPlace { from, offset: 0 });
    let mut pages = 0;
    while let Some(HistoryPlace { from, offset }) = place {
        pages += 1;
        assert!(pages < 10_000, "every page goes on");
        let mut page = HistoryPage::new(from, to, offset, room);
        let _all_taken = all.iter().cloned().all(|item| page.take(item));
        let (items, next) = page.finish();
        assert!(next.is_none() || !items.is_empty(), "a page with more after it holds something");
        assert!(items.iter().map(|item| item.text.len()).sum::<usize>() <= room);
        read.extend(items);
        place = next;
    }
    read
}

fn any_item() -> impl Strategy<Value = (bool, String)> {
    (any::<bool>(), prop_oneof![4 => ".{0,40}", 1 => "[a\u{e9}\u{1f600}]{0,900}"])
}

proptest! {
    #[test]
    fn everything_that_reached_the_mind_is_read_back_under_its_number(
        dice in proptest::collection::vec(any::<u32>(), 0..600),
    ) {
        let session = Session::play_in(roomy(), dice);
        let (got, had) = (originals(&session), lines_of(&session.conversation));
        let got: Vec<Line> = got.iter().map(line).collect();
        prop_assert!(had.starts_with(&got), "{got:?}\n{had:?}");
        prop_assert!(!session.is_idle || got == had, "{got:?}\n{had:?}");
    }

    #[test]
    fn what_is_shortened_is_read_back_all_the_same(dice in proptest::collection::vec(any::<u32>(), 0..600)) {
        let session = Session::play(dice);
        let got: Vec<Line> = originals(&session).iter().map(line).collect();
        // What the conversation holds in the end besides its opening is the end of what is read back.
        let last = session.conversation.iter().rev().find_map(|message| match message {
            Message::Assistant { calls, .. } => calls.last().map(|call| call.id.0.clone()),
            _ => None,
        });
        let called = got.iter().rev().find(|line| line.1 == HistoryRole::Call).and_then(|line| line.2.clone());
        prop_assert!(!session.is_idle || last.is_none() || last == called, "{last:?} {called:?}");
        prop_assert!(got.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{got:?}");
    }

    #[test]
    fn pages_together_are_the_range_and_each_is_bounded(
        texts in proptest::collection::vec(any_item(), 0..30),
        from in 1_u64..8,
        more in 0_u64..8,
        room in 256_usize..2_000,
    ) {
        let mut turn = 1;
        let all: Vec<HistoryItem> = texts
            .into_iter()
            .map(|(next, text)| {
                turn += u64::from(next);
                let size_bytes = Bytes(text.len() as u64);
                let role = HistoryRole::User;
                HistoryItem { turn, role, call: None, tool: None, outcome: None, offset: None, size_bytes, text }
            })
            .collect();
        let wanted = |item: &&HistoryItem| (from..=from + more).contains(&item.turn);
        let joined = |items: &[HistoryItem]| items.iter().filter(wanted).map(|item| item.text.as_str()).collect::<String>();
        let read = read(&all, from, from + more, room);
        prop_assert_eq!(joined(&read), joined(&all));
        let whole = read.iter().filter(|item| item.offset.is_none()).count();
        prop_assert!(whole >= all.iter().filter(wanted).count(), "empty ones, too");
    }
}

#[test]
fn calls_without_text_are_read_once_each() {
    let item = |number: u64, text: &str| HistoryItem {
        turn: 1,
        role: HistoryRole::Call,
        call: Some(ModelCallId::numbered(number)),
        tool: Some(RequestedTool("t".repeat(64))),
        outcome: None,
        offset: None,
        size_bytes: Bytes(text.len() as u64),
        text: text.to_owned(),
    };
    let all: Vec<HistoryItem> =
        (1..=6).map(|number| item(number, if number == 1 { "said" } else { "" })).collect();
    assert_eq!(read(&all, 1, 1, 256), all);
}
