//! The page of results, `docs/models-eval.md`.
//!
//! Invariants: the page is made of its own words, a table with a row for each model, the goals of this checkout, and a
//! section for each model; what another model did stays as it was, unless its goals were others.

use std::path::Path;

use anyhow::{Context, Result};

use crate::goal::Goal;
use crate::results::Results;
use crate::trial::Trial;

/// Where it is kept.
pub(crate) const FILE: &str = "docs/models-eval.md";
/// What stands above the table.
const INTRODUCTION: &str = "\
# What models do with twenty goals

Written by `cargo xtask eval`; do not edit.

    cargo xtask eval --model model.gguf            # tries a model that this machine runs itself
    cargo xtask eval --provider anthropic          # one of a provider that is configured, to compare
    cargo xtask eval --model model.gguf --write    # on a commit: puts the results into this page
    cargo xtask eval --list --write                # the goals below, after one was changed

The goals lie in `xtask/goals`. Each has words, a working folder, pages where it needs some (served on loopback), and
outcomes that a machine checks. `agentd run` of the release build works on each in a folder of its own, all at one
daemon.

- *Flow*: the run ended with exit code 0, a tool did something, no call lost its model's process, no purse was empty.
- *Instruction*: the flow, and every outcome: what the files hold, what the answer says, how many children did their
  part. A file that was changed, removed or written besides misses it.
- Agents have no memory of their own yet. *Notes* are a file that a first run writes and a second one reads back, when
  what it was made of is gone.
- Seconds are of the whole run. Tokens a second are of the time in which replies were awaited: reading the prompt,
  what of it was remembered included, and writing the reply. Peak memory is the most that was ever resident of the
  model's process (`VmHWM`).
";
const RESULTS: &str = "\n## Results\n\n";
const NONE: &str = "No figures stand here yet.\n";
const GOALS: &str = "\n## The goals\n\n";
/// What a row begins with.
const ROW: &str = "| `";
/// What a section of a model begins with.
const SECTION: &str = "\n## `";
/// Longest text of a cell.
const CELL_CHARS: usize = 300;
/// The last column of the table.
const COMMIT: &str = "commit";

/// The page, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    head: String,
    /// Of each model: its name and its row.
    rows: Vec<(String, String)>,
    goals: String,
    /// Of each model: its name and its section.
    sections: Vec<(String, String)>,
}

impl Page {
    /// The page of a checkout; an empty one where there is none yet.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let (upper, lower) = text.split_once(GOALS).unwrap_or((text, ""));
        let mut parts = lower.split(SECTION);
        let goals = parts.next().unwrap_or_default().to_owned();
        let named = |text: &str| text.split('`').next().unwrap_or_default().to_owned();
        let rows: Vec<&str> = upper.lines().filter(|line| line.starts_with(ROW)).collect();
        let head = upper.lines().find(|line| line.starts_with("| model")).unwrap_or_default();
        Self {
            head: head.to_owned(),
            rows: rows.iter().map(|row| (named(&row[ROW.len()..]), (*row).to_owned())).collect(),
            goals,
            sections: parts.map(|part| (named(part), format!("{SECTION}{part}"))).collect(),
        }
    }

    /// The same without the results of models that had other goals, of whose commit `are_current` does not hold, or
    /// whose figures have other columns.
    pub(crate) fn without_stale(mut self, are_current: impl Fn(&str) -> bool) -> Self {
        let is_current = self.head == header();
        let commit =
            |row: &str| row.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default().replace('`', "");
        self.rows.retain(|(_, row)| is_current && are_current(&commit(row)));
        self.sections.retain(|(model, _)| self.rows.iter().any(|(name, _)| name == model));
        self
    }

    /// The same with the goals of this checkout.
    pub(crate) fn with_goals(mut self, all: &[Goal]) -> Self {
        self.goals = goals(all);
        self
    }

    /// The same with the results of one model, in the place of earlier ones.
    pub(crate) fn with(self, all: &[Goal], results: &Results, commit: &str) -> Self {
        let mut page = self.with_goals(all);
        page.head = header();
        put(&mut page.rows, &results.model, row(results, commit));
        put(&mut page.sections, &results.model, section(results));
        page
    }

    /// The whole page.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{INTRODUCTION}{RESULTS}");
        if self.rows.is_empty() {
            text.push_str(NONE);
        } else {
            let columns = self.head.matches('|').count().saturating_sub(1);
            text.push_str(&format!("{}\n|{}\n", self.head, "---|".repeat(columns)));
            self.rows.iter().for_each(|(_, row)| text.push_str(&format!("{row}\n")));
        }
        text.push_str(&format!("{GOALS}{}", self.goals));
        self.sections.iter().for_each(|(_, section)| text.push_str(section));
        text
    }

    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        std::fs::write(root.join(FILE), self.text()).with_context(|| format!("cannot write {FILE}"))
    }
}

fn put(all: &mut Vec<(String, String)>, model: &str, text: String) {
    match all.iter_mut().find(|(name, _)| name == model) {
        Some((_, old)) => *old = text,
        None => all.push((model.to_owned(), text)),
    }
}

/// The goals as a table.
pub(crate) fn goals(all: &[Goal]) -> String {
    let mut text = "| goal | about | what is asked |\n|---|---|---|\n".to_owned();
    for goal in all {
        let words: Vec<String> = goal.runs("PAGE").collect();
        text.push_str(&format!(
            "| {} | {} | {} |\n",
            goal.name,
            goal.kind.words(),
            cell(&words.join(" — then: "))
        ));
    }
    text
}

fn header() -> String {
    let columns = Results::new("", None).figures().map(|(name, _)| name).join(" | ");
    format!("| model | {columns} | machine | {COMMIT} |")
}

fn row(results: &Results, commit: &str) -> String {
    let figures = results.figures().map(|(_, figure)| figure).join(" | ");
    format!("{ROW}{}` | {figures} | {} | `{commit}` |", results.model, results.machine())
}

fn section(results: &Results) -> String {
    let mut text = format!(
        "{SECTION}{}`\n\n| goal | flow | instruction | seconds | what was missing |\n",
        results.model
    );
    text.push_str("|---|---|---|---|---|\n");
    for trial in &results.trials {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let Trial { goal, seconds, flow, instruction, .. } = trial;
        let missing: Vec<&str> = flow.iter().chain(instruction).map(String::as_str).collect();
        let (has_flow, is_met) = (yes(trial.has_flow()), yes(trial.is_met()));
        text.push_str(&format!(
            "| {goal} | {has_flow} | {is_met} | {seconds:.1} | {} |\n",
            cell(&missing.join("; "))
        ));
    }
    text
}

/// A text that stays in its cell, as far as it has room there.
fn cell(text: &str) -> String {
    let mut plain: String =
        text.chars().take(CELL_CHARS).map(|one| if one.is_control() { ' ' } else { one }).collect();
    if text.chars().count() > CELL_CHARS {
        plain.push('…');
    }
    plain.replace('|', "\\|").replace('<', "&lt;").replace('`', "'")
}

#[cfg(test)]
mod tests {
    use super::{CELL_CHARS, cell};

    #[test]
    fn a_model_s_words_stay_in_their_cell() {
        assert_eq!(cell("a|b\n`c` <d>"), "a\\|b 'c' &lt;d>");
        assert_eq!(cell(&"é".repeat(CELL_CHARS + 1)), format!("{}…", "é".repeat(CELL_CHARS)));
    }
}
