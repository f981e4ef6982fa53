//! A timeline as it is printed.

use super::lines;
use crate::render::fixture::goal_with_a_child;
use crate::render::text;
use crate::render::timeline::Timeline;

fn shown(entries: usize) -> Vec<String> {
    let mut timeline = Timeline::default();
    goal_with_a_child().iter().take(entries).for_each(|entry| timeline.take(entry));
    lines(&timeline.report().expect("there are entries")).into_iter().map(|(_, line)| line).collect()
}

#[track_caller]
fn assert_snapshot(shown: &[String], kept: &str) {
    let shown = shown.join("\n");
    assert!(shown == kept.trim_end(), "not what is kept; now it is:\n{shown}");
}

#[test]
fn a_goal_that_is_over() {
    assert_snapshot(&shown(usize::MAX), include_str!("show.txt"));
}

#[test]
fn a_goal_that_goes_on() {
    assert_snapshot(&shown(18), include_str!("show_running.txt"));
}

#[test]
fn every_first_part_of_a_goal_can_be_shown_and_is_harmless() {
    for entries in 1..=goal_with_a_child().len() {
        for line in shown(entries) {
            assert_eq!(line, text::line(&line), "after {entries} entries");
        }
    }
}
