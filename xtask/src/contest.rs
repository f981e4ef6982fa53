//! `cargo xtask contest`: everything that an escape from a worker would need, and what stops it.
//!
//! Invariants: the page is what the suite itself prints, and it is recorded only when every case went as it must.

use crate::run::{program, read, say, succeed};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// Where the page is kept.
const FILE: &str = "docs/contest.md";
/// Children of the case that forks, and flips that each file tool stands, where everything is wanted.
const CHILDREN: &str = "10000";
const FLIPS: &str = "1000000";

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        [] => say(suite(root, &[])?.trim_end()),
        ["--record"] => {
            let page = suite(root, &[])?;
            std::fs::write(root.join(FILE), page).with_context(|| format!("write {FILE}"))?;
            say(&format!("contest: recorded in {FILE}"));
        }
        ["--full"] => full(root)?,
        _ => bail!("contest: there are --record and --full"),
    }
    Ok(())
}

/// Runs the suite and gives its page.
fn suite(root: &Path, more: &[&str]) -> Result<String> {
    let suite = ["run", "--quiet", "--package", "aaos-sandbox", "--example", "contest", "--", "--markdown"];
    read(program("cargo", suite.iter().chain(more), root))
}

/// As many children and flips as the promises name.
fn full(root: &Path) -> Result<()> {
    suite(root, &["--children", CHILDREN])?;
    say(&format!(
        "contest: every case is stopped; the one that forks made {CHILDREN} children without confinement"
    ));
    succeed(program("cargo", ["build", "--quiet", "--package", "aaos-tools", "--bins"], root))?;
    let races = ["test", "--quiet", "--package", "aaos-sandbox", "--test", "races", "--", "--nocapture"];
    let mut races = program("cargo", races, root);
    races.env("AAOS_RACE_FLIPS", FLIPS);
    succeed(races)
}
