//! `cargo xtask contest`: everything that an escape from a worker would need, and what stops it.
//!
//! Invariants: the page is what the suite itself prints, and it is recorded only when every case went as it must.

use crate::run::{program, read, say};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// Where the page is kept.
const FILE: &str = "docs/contest.md";

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let recorded = match words[..] {
        [] => false,
        ["--record"] => true,
        _ => bail!("contest: there is --record"),
    };
    let suite = ["run", "--quiet", "--package", "aaos-sandbox", "--example", "contest", "--", "--markdown"];
    let page = read(program("cargo", suite, root))?;
    if !recorded {
        say(page.trim_end());
        return Ok(());
    }
    std::fs::write(root.join(FILE), page).with_context(|| format!("write {FILE}"))?;
    say(&format!("contest: recorded in {FILE}"));
    Ok(())
}
