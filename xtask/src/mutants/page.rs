//! `docs/mutants.md`: the result of a whole run, as it is checked in.
//!
//! Invariant: what is read back from the page (the commit) is written by this file too.

use super::explained::{self, Survivor};
use super::ledger::{Fate, Ledger, Suite};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;

/// Where the result is kept.
pub(crate) const FILE: &str = "docs/mutants.md";
/// What stands before the commit's hash.
const COMMIT: &str = "- commit: ";

/// What is told beside the verdicts.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) suite: &'a Suite,
    pub(crate) date: &'a str,
    pub(crate) tool: &'a str,
    pub(crate) modules: &'a str,
}

pub(crate) fn write(root: &Path, run: &Run<'_>, ledger: &Ledger, survivors: &[Survivor<'_>]) -> Result<()> {
    let file = root.join(FILE);
    let mut text = String::new();
    match render(&mut text, run, ledger, survivors) {
        Ok(()) => std::fs::write(&file, text).with_context(|| format!("write {}", file.display())),
        Err(std::fmt::Error) => unreachable!("a string takes every write"),
    }
}

/// The commit that the page was recorded at; `None` where there is no page.
pub(crate) fn recorded_commit(root: &Path) -> Result<Option<String>> {
    let file = root.join(FILE);
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let hash = commit_in(&text).with_context(|| format!("{FILE} names no commit; record it again"))?;
    Ok(Some(hash.to_owned()))
}

fn commit_in(text: &str) -> Option<&str> {
    let hash = text.lines().find_map(|line| line.strip_prefix(COMMIT))?.trim_matches('`');
    let is_hash = hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some(hash)
}

fn render(
    out: &mut String,
    run: &Run<'_>,
    ledger: &Ledger,
    survivors: &[Survivor<'_>],
) -> Result<(), std::fmt::Error> {
    let Run { suite, date, tool, modules } = run;
    writeln!(out, "# Mutants\n")?;
    writeln!(
        out,
        "Written by `cargo xtask mutants --record`: each line of the modules below was changed in every"
    )?;
    writeln!(
        out,
        "way that the tool knows, one at a time, and the tests of aaos-core were run against it.\n"
    )?;
    writeln!(out, "{COMMIT}`{}`", suite.commit)?;
    writeln!(out, "- date: {date}\n- tool: {tool}\n- modules of aaos-core: {modules}")?;
    for (commit, count) in ledger.earlier(suite) {
        writeln!(out, "- {count} verdicts are of `{commit}`, which has the same source and other tests")?;
    }
    let count = |fate: Fate| ledger.count(fate);
    writeln!(out, "\n| mutants | caught | timeout | unviable | survived |\n|---|---|---|---|---|")?;
    let [caught, missed, timeout, unviable] = Fate::ALL.map(count);
    let all = caught + missed + timeout + unviable;
    writeln!(out, "| {all} | {caught} | {timeout} | {unviable} | {missed} |")?;
    writeln!(out, "\nA timeout is a test that no longer ends; an unviable mutant does not compile.\n")?;
    writeln!(out, "## Survivors\n\nExplained in `{}`.\n", explained::FILE)?;
    writeln!(out, "| mutant | why it may survive |\n|---|---|")?;
    for Survivor { name, why } in survivors {
        let why = why.map_or_else(|| "**not explained**".to_owned(), cell);
        writeln!(out, "| `{}` | {why} |", cell(name))?;
    }
    Ok(())
}

/// Words that stay within a cell of a table.
fn cell(words: &str) -> String {
    words.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_read_back_from_what_is_written() {
        let suite = Suite { tree: "t".into(), commit: "0123456789abcdef0123456789abcdef01234567".into() };
        let run = Run { suite: &suite, date: "2026-01-01", tool: "cargo-mutants 1", modules: "authority" };
        let survivors = [
            Survivor { name: "a.rs:1:1: replace || with && in f", why: Some("one\ntwo") },
            Survivor { name: "b.rs:1:1: x", why: None },
        ];
        let mut text = String::new();
        render(&mut text, &run, &Ledger::default(), &survivors).unwrap();
        assert_eq!(commit_in(&text), Some(suite.commit.as_str()));
        assert!(text.contains("| `a.rs:1:1: replace \\|\\| with && in f` | one two |"), "{text}");
        assert!(text.contains("| `b.rs:1:1: x` | **not explained** |"), "{text}");
    }

    #[test]
    fn a_page_without_a_hash_names_no_commit() {
        for text in ["", "- commit: `HEAD`\n", "commit: `0123456789abcdef0123456789abcdef01234567`\n"] {
            assert_eq!(commit_in(text), None, "{text}");
        }
    }
}
