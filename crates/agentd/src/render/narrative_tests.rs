//! A log as it is printed.

use crate::render::fixture::goal_with_a_child;
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
fn nothing_that_was_written_drives_the_terminal() {
    for clock in [Clock::Calendar, Clock::Elapsed] {
        for line in told(clock) {
            assert_eq!(line, text::line(&line), "it is harmless as it is");
        }
    }
}
