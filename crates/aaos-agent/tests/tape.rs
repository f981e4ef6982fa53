//! A mind rebuilt from its entries is the mind that wrote them, after every entry and through kills.

mod session;

use aaos_agent::{Divergence, Mind, MindConfig, Tape, Unanswered};
use aaos_core::event::{Entry, Event, content_hash};
use aaos_core::id::Seq;
use aaos_core::model::{ModelRequest, ModelStop, Usage};
use aaos_core::name::{ModelName, ToolName};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use session::{Session, config, shown};

/// Steps a tape through entries; gives what it says of the first that differs.
fn take(mut tape: Tape, entries: &[Entry]) -> Result<Tape, Divergence> {
    entries.iter().try_for_each(|entry| tape.take(entry, shown))?;
    Ok(tape)
}

fn whole(entries: &[Entry]) -> Result<Tape, Divergence> {
    take(Tape::whole(config()), entries)
}

/// The mind that a tape leaves, and what it waits for.
fn left(tape: Tape) -> (Mind, Option<Unanswered>) {
    let (mind, open) = tape.finish();
    (mind, open.map(|open| open.waits))
}

/// Gives a tape every entry, whatever it says of them, and looks at what is left.
fn take_anything(mut tape: Tape, entries: &[Entry]) -> u64 {
    let differ = entries.iter().filter(|entry| tape.take(entry, shown).is_err()).count();
    let (mind, _) = tape.finish();
    assert!(mind.digest().len() == 64);
    differ as u64
}

fn dice() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(any::<u32>(), 0..400)
}

/// An alteration of one entry that changes what the mind sees; none where it cannot be done there.
fn altered(session: &Session, at: usize, how: u32) -> Option<(Vec<Entry>, Seq)> {
    let mut entries = session.entries.clone();
    let seq = entries[at].seq;
    match &mut entries[at].event {
        Event::AgentExecutionStarted { message, message_hash, .. } => {
            message.push('!');
            if how.is_multiple_of(2) {
                *message_hash = content_hash(message.as_bytes());
            }
        }
        Event::InferenceCompleted { result: Ok(reply), .. } => match how % 4 {
            0 => reply.text.push('!'),
            // The mind looks at no call of a reply that was cut or refused.
            1 if reply.stop == ModelStop::ToolUse && !reply.calls.is_empty() => {
                reply.calls.pop();
            }
            2 => reply.usage.output_tokens.0 += 1,
            _ => {
                entries.remove(at);
            }
        },
        Event::ToolInvoked { .. } => {
            entries.remove(at);
        }
        Event::ToolResult { result: Some(result), result_hash, .. } => {
            result.push('!');
            if how.is_multiple_of(2) {
                *result_hash = content_hash(result.as_bytes());
            }
        }
        Event::CallRefused { failure, .. } => failure.message.push('!'),
        _ => return None,
    }
    Some((entries, seq))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_prefix_gives_the_live_mind(dice in dice()) {
        let session = Session::play(dice);
        let mut from_the_start = Tape::whole(config());
        for (at, live) in session.live.iter().enumerate() {
            let taken = from_the_start.take(&session.entries[at], shown);
            prop_assert_eq!(taken, Ok(()), "{:?}", session.entries[at]);
            let (mind, waits) = left(from_the_start.clone());
            prop_assert_eq!(&mind.digest(), &live.digest, "whole, after {}", at + 1);
            prop_assert_eq!(&waits, &live.waits);
            let kept = live.from.map_or(&[][..], |from| &session.entries[from..=at]);
            let recent = take(Tape::recent(config()), kept);
            prop_assert!(recent.is_ok(), "{:?}", recent);
            let (mind, waits) = left(recent.expect("it fits"));
            prop_assert_eq!(&mind.digest(), &live.digest, "recent, after {}", at + 1);
            prop_assert_eq!(&waits, &live.waits);
        }
    }

    #[test]
    fn a_reply_that_is_withheld_is_waited_for(dice in dice()) {
        let session = Session::play(dice);
        for (at, entry) in session.entries.iter().enumerate() {
            let Event::InferenceCompleted { result: Ok(_), .. } = &entry.event else { continue };
            let mut tape = whole(&session.entries[..=at]).expect("it fits");
            let (_, delivered) = left(tape.clone());
            tape.withhold_reply();
            let (_, waits) = left(tape);
            prop_assert!(matches!(waits, Some(Unanswered::Ask(_))), "{:?}", waits);
            prop_assert_ne!(waits, delivered, "the control: the reply is delivered");
        }
    }

    #[test]
    fn a_tool_that_is_gone_ends_a_replay_by_name_and_no_run_that_goes_on(dice in dice()) {
        let mut session = Session::play(dice);
        let gone = ToolName::parse("foretell").expect("a name");
        let mut first = None;
        for entry in &mut session.entries {
            if let Event::AgentExecutionStarted { tools, .. } = &mut entry.event {
                tools.push(gone.clone());
                first = first.or(Some(entry.seq));
            }
        }
        let Some(first) = first else { return Ok(()) };
        let shown_here = |names: &[ToolName]| {
            let there: Vec<ToolName> = names.iter().filter(|name| **name != gone).cloned().collect();
            shown(&there)
        };
        let mut tape = Tape::whole(config());
        let told = session.entries.iter().find_map(|entry| tape.take(entry, shown_here).err()).expect("it differs");
        prop_assert_eq!(told.seq, first);
        prop_assert!(told.what.contains("foretell"), "{}", told);
        for (at, live) in session.live.iter().enumerate() {
            let kept = live.from.map_or(&[][..], |from| &session.entries[from..=at]);
            let mut recent = Tape::recent(config());
            for entry in kept {
                prop_assert_eq!(recent.take(entry, shown_here), Ok(()), "{:?}", entry);
            }
        }
    }

    #[test]
    fn at_every_step_another_model_goes_on_with_what_was_said(dice in dice()) {
        let session = Session::play(dice);
        let other = MindConfig { model: ModelName::parse("another").expect("a name"), ..config() };
        let (mut recorded, mut lent) = (Tape::whole(config()), Tape::lent(other));
        for entry in &session.entries {
            prop_assert_eq!(recorded.take(entry, shown), Ok(()));
            prop_assert_eq!(lent.take(entry, shown), Ok(()));
            // A window that is full is not the other's.
            prop_assert!(lent.is_at_rest() || !recorded.is_at_rest());
            let (mind, waits) = left(recorded.clone());
            let may_go_on = match &waits {
                Some(Unanswered::Ask(_)) => true,
                Some(Unanswered::Invoke(turn)) => {
                    turn.iter().all(|one| one.result.is_some() || one.begun.is_none())
                }
                _ => false,
            };
            prop_assert_eq!(recorded.is_at_rest(), may_go_on, "{:?}", waits);
            if !may_go_on {
                continue;
            }
            let (own, open) = lent.clone().take_over(Vec::new()).expect("a run is under way");
            prop_assert_eq!(own.history(), mind.history());
            prop_assert_eq!(own.usage(), Usage::default(), "nobody here used it");
            match (&open.waits, &waits) {
                // By its own window and tools it may do without the summary that was asked for.
                (Unanswered::Ask(asks), _) if mind.summarises().is_some() => {
                    prop_assert_eq!(asks.model.as_str(), "another");
                }
                (Unanswered::Ask(asks), Some(Unanswered::Ask(asked))) => {
                    let expected =
                        ModelRequest { model: asks.model.clone(), tools: Vec::new(), ..(**asked).clone() };
                    prop_assert_eq!(&**asks, &expected);
                    prop_assert_eq!(asks.model.as_str(), "another");
                }
                (own, waits) => prop_assert_eq!(Some(own), waits.as_ref()),
            }
            let forked = Event::AgentExecutionForked { tools: Vec::new() };
            let mut again = lent.clone().handed_over();
            prop_assert_eq!(again.take(&Entry { event: forked, ..entry.clone() }, |_| Vec::new()), Ok(()));
            let (rebuilt, waits) = left(again);
            prop_assert_eq!((rebuilt.digest(), waits), (own.digest(), Some(open.waits)), "from the journal");
        }
    }

    #[test]
    fn an_altered_entry_is_told_there_or_later(dice in dice(), which: prop::sample::Index, how: u32) {
        let session = Session::play(dice);
        let seen = session.seen_by_a_finished_run();
        prop_assume!(!seen.is_empty());
        prop_assert!(whole(&session.entries).is_ok(), "the control");
        let Some((entries, seq)) = altered(&session, seen[which.index(seen.len())], how) else { return Ok(()) };
        let told = whole(&entries).expect_err("it differs").seq;
        prop_assert!(told >= seq, "entry {seq} was altered, {told} is told");
    }

    #[test]
    fn swapped_results_are_told(dice in dice(), one: prop::sample::Index, other: prop::sample::Index) {
        let session = Session::play(dice);
        let results: Vec<usize> = session.seen_by_a_finished_run().into_iter().filter(|at| {
            matches!(session.entries[*at].event, Event::ToolResult { result: Some(_), .. })
        }).collect();
        prop_assume!(results.len() > 1);
        let (one, other) = (results[one.index(results.len())], results[other.index(results.len())]);
        let text = |at: usize| match &session.entries[at].event {
            Event::ToolResult { result, result_hash, .. } => (result.clone(), result_hash.clone()),
            _ => unreachable!("only results were chosen"),
        };
        prop_assume!(text(one) != text(other));
        let mut entries = session.entries.clone();
        for (to, from) in [(one, other), (other, one)] {
            if let Event::ToolResult { result, result_hash, .. } = &mut entries[to].event {
                (*result, *result_hash) = text(from);
            }
        }
        let told = whole(&entries).expect_err("they differ").seq;
        prop_assert!(told >= entries[one.min(other)].seq);
    }

    #[test]
    fn no_order_of_entries_is_a_panic(
        dice in dice(),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let session = Session::play(dice);
        prop_assume!(!session.entries.is_empty());
        let pick = |at: prop::sample::Index| session.entries[at.index(session.entries.len())].clone();
        let entries: Vec<Entry> = order.into_iter().map(pick).collect();
        take_anything(Tape::whole(config()), &entries);
        take_anything(Tape::recent(config()), &entries);
        take_anything(Tape::lent(config()), &entries);
    }
}

#[test]
fn sessions_hold_everything_that_can_happen() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = session::Counts::default();
    for _ in 0..64 {
        let dice = dice().new_tree(&mut runner).expect("dice").current();
        seen.add(&Session::play(dice));
    }
    assert!(seen.all_at_least(5), "{seen:?}");
}
