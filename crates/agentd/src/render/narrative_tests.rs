//! A log as it is printed.

use aaos_core::event::{Entry, Event};
use serde_json::{Value, json};

use super::found;
use crate::render::fixture::{EVIL, goal_with_a_child};
use crate::render::progress::{Clock, Story};
use crate::render::text;

/// What a clock's story of the recorded goal prints.
fn told(clock: Clock) -> Vec<String> {
    let mut story = Story::new(clock);
    let entries = goal_with_a_child();
    entries.iter().flat_map(|entry| story.tell(entry)).map(|said| said.text).collect()
}

#[track_caller]
fn assert_snapshot(told: &[String], kept: &str) {
    let told = told.join("\n");
    assert!(told == kept.trim_end(), "not what is kept; now it is:\n{told}");
}

#[test]
fn a_log_is_a_narrative() {
    assert_snapshot(&told(Clock::Calendar), include_str!("narrative.log"));
}

#[test]
fn a_person_who_waits_is_told_less() {
    assert_snapshot(&told(Clock::Elapsed), include_str!("progress.log"));
}

#[test]
fn a_summary_is_not_told_as_what_an_agent_says() {
    let mut entries = goal_with_a_child();
    let says = |entries: &[Entry], clock| {
        let mut story = Story::new(clock);
        let told: Vec<String> =
            entries.iter().flat_map(|entry| story.tell(entry)).map(|said| said.text).collect();
        (
            told.iter().filter(|line| line.contains("says: A reader reads it.")).count(),
            told.iter().filter(|line| line.contains("summarised as: A reader reads it.")).count(),
        )
    };
    assert_eq!(says(&entries, Clock::Calendar), (1, 0), "the control");
    assert_eq!(says(&entries, Clock::Elapsed), (1, 0), "the control");
    let asked = entries.iter_mut().find_map(|entry| match &mut entry.event {
        Event::InferenceRequested { keeps, .. } => Some(keeps),
        _ => None,
    });
    *asked.expect("an inference") = Some(0);
    assert_eq!(says(&entries, Clock::Calendar), (0, 1));
    assert_eq!(says(&entries, Clock::Elapsed), (0, 0));
}

#[test]
fn nothing_that_was_written_drives_the_terminal() {
    for clock in [Clock::Calendar, Clock::Elapsed] {
        for line in told(clock) {
            assert_eq!(line, text::line(&line), "it is harmless as it is");
        }
    }
}

#[test]
fn lists_and_what_is_no_object_are_shown_by_their_beginning() {
    let entries: Vec<Value> =
        (0..14).map(|number| json!({ "name": format!("f{number}"), "evil": EVIL })).collect();
    let shown = found(&json!({ "entries": entries, "truncated": false }).to_string());
    assert_eq!(shown[0], "entries=[{2 members}, {2 members}, {2 members}, {2 members}, 10 more]");
    assert_eq!((shown[1].as_str(), shown.len()), ("entries:", 15));
    assert_eq!(shown[2], "  evil=\"\\u{1b}]0;owned\\u{7}\\u{202e}\\rfake\" name=\"f0\"");
    assert_eq!(shown[14], "  … 2 more");
    assert_eq!(found("\"hello\""), ["\"hello\""]);
    assert_eq!(found("no JSON\u{1b}\nat all"), ["no JSON\\u{1b}", "at all"]);
    assert_eq!(found("{}"), [""; 0]);
}
