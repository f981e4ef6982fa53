//! Does what was found at the end meet the goal?
//!
//! Invariant: everything that is missing is told, in the words of the person who has to look at it; an empty list means
//! that the instruction was met.

use crate::folder::Folder;
use crate::goal::{Goal, Outcome, Subject};
use anyhow::{Result, ensure};
use serde_json::Value;

/// Longest text that is quoted.
const QUOTED_CHARS: usize = 80;

/// What there was when the last run was over.
#[derive(Debug)]
pub(crate) struct End<'e> {
    pub(crate) after: &'e Folder,
    /// The last run's.
    pub(crate) answer: &'e str,
    /// Children that did their part.
    pub(crate) children: u64,
}

/// What is missing, or was done besides.
pub(crate) fn shortcomings(goal: &Goal, end: &End<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for outcome in &goal.outcomes {
        let (what, text) = match &outcome.of {
            Subject::Answer => ("the answer", Some(end.answer.to_owned())),
            Subject::File(path) => (path.as_str(), end.after.text(path)),
        };
        match text {
            Some(text) => lacking(outcome, &text, |said| found.push(format!("{what} {said}"))),
            None => found.push(format!("{what} is not there")),
        }
    }
    if end.children < goal.children {
        found.push(format!("{} of {} children did their part", end.children, goal.children));
    }
    let before = goal.folder().without(goal.gone());
    let is_expected = |path: &str| goal.outcomes.iter().any(|one| one.of == Subject::File(path.to_owned()));
    let changes = before.changes(end.after).into_iter().filter(|(path, _)| !is_expected(path));
    found.extend(changes.map(|(path, what)| format!("{path} {what}")));
    found
}

/// Whether the checks of a goal tell the ends that it brings apart: an evaluation by other checks says nothing.
///
/// # Errors
/// The first end that is judged wrongly.
pub(crate) fn prove(goal: &Goal) -> Result<()> {
    let (name, met, folder) = (&goal.name, &goal.met, goal.met_folder());
    let found = shortcomings(goal, &End { after: &folder, answer: &met.answer, children: met.children });
    ensure!(found.is_empty(), "the end that meets {name} does not pass: {}", found.join("; "));
    for missed in &goal.missed {
        let after = folder.clone().with(Folder::of(&missed.files));
        let answer = missed.answer.as_ref().unwrap_or(&met.answer);
        let end = End { after: &after, answer, children: missed.children.unwrap_or(met.children) };
        ensure!(!shortcomings(goal, &end).is_empty(), "an end that misses {name} passes: {}", missed.why);
    }
    Ok(())
}

fn lacking(outcome: &Outcome, text: &str, mut tell: impl FnMut(String)) {
    let text = text.replace("\r\n", "\n");
    let (trimmed, small) = (text.trim(), text.to_lowercase());
    let contains = |part: &&String| small.contains(&part.to_lowercase());
    if let Some(wanted) = &outcome.is
        && wanted.trim() != trimmed
    {
        tell(format!("is {}, not {}", quoted(trimmed), quoted(wanted.trim())));
    }
    for part in outcome.has.iter().filter(|part| !contains(part)) {
        tell(format!("is {}, without {}", quoted(trimmed), quoted(part)));
    }
    for part in outcome.lacks.iter().filter(contains) {
        tell(format!("is {}, with {}", quoted(trimmed), quoted(part)));
    }
    if let Some(pattern) = outcome.matches.as_ref().filter(|pattern| !pattern.0.is_match(&text)) {
        tell(format!("is {}, which does not match {}", quoted(trimmed), pattern.0));
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let Some(wanted) = outcome.lines.as_ref().filter(|wanted| **wanted != lines) {
        tell(format!("has the lines {lines:?}, not {wanted:?}"));
    }
    if let Some(wanted) = outcome.lines_in_any_order.as_ref().filter(|wanted| !same(wanted, &lines)) {
        tell(format!("has the lines {lines:?}, not {wanted:?} in any order"));
    }
    if let Some(wanted) = &outcome.json {
        match serde_json::from_str::<Value>(&text) {
            Ok(value) if value == wanted.0 => {}
            Ok(value) => tell(format!("is {value}, not {}", wanted.0)),
            Err(error) => tell(format!("is {}, no JSON: {error}", quoted(trimmed))),
        }
    }
    let words = text.split_whitespace().count();
    if let Some(most) = outcome.most_words.filter(|most| words > *most) {
        tell(format!("has {words} words, more than {most}"));
    }
}

fn same(wanted: &[String], found: &[&str]) -> bool {
    let mut wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut found = found.to_vec();
    wanted.sort_unstable();
    found.sort_unstable();
    wanted == found
}

/// The beginning of a text, on one line.
pub(crate) fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(QUOTED_CHARS).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// An outcome in the grammar of the goals.
    fn outcome(asked: &str) -> Outcome {
        Outcome::deserialize(toml::Deserializer::parse(&format!("of = \"answer\"\n{asked}")).unwrap())
            .unwrap()
    }

    #[test]
    fn each_form_passes_what_it_asks_for_and_nothing_else() {
        for (asked, good, bad) in [
            ("is = \"a\\nb\"", " a\r\nb\n", "a b"),
            ("is = \"Blue\"", "Blue", "blue"),
            ("has = [\"Blue\", \"7\"]", "7 blue ones", "blue ones"),
            ("lacks = [\"Red\"]", "blue", "a red one"),
            ("matches = '^\\d+$'", "42", "42 of them"),
            ("lines = [\"a\", \"b\"]", "a \n\n b\n", "b\na"),
            ("lines_in_any_order = [\"a\", \"b\"]", "b\na", "a\nb\nb"),
            ("json = '{\"a\": [1, 2]}'", "{ \"a\" : [1,2] }", "{\"a\": [2, 1]}"),
            ("json = '1'", "1", "one"),
            ("most_words = 2", "two words", "more than two"),
        ] {
            let outcome = outcome(asked);
            let judge = |text: &str| {
                let mut found = Vec::new();
                lacking(&outcome, text, |said| found.push(said));
                found
            };
            assert_eq!(judge(good), Vec::<String>::new(), "{asked}");
            assert_eq!(judge(bad).len(), 1, "{asked}: {bad}");
        }
    }

    #[test]
    fn long_texts_are_quoted_by_their_beginning() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert_eq!(quoted(&"é".repeat(100)), format!("\"{}…\"", "é".repeat(QUOTED_CHARS)));
    }
}
