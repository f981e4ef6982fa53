//! `cargo xtask eval`: tries models on the goals in `xtask/goals`, and writes down what they can do.
//!
//! Invariants: each model has a daemon and a state directory of its own; figures are written into the page only for a
//! commit that holds everything that made them; the exit code tells whether the evaluation worked, never how well a model
//! did.

mod args;
mod check;
mod folder;
mod goal;
mod machine;
mod page;
mod record;
mod results;
#[cfg(test)]
mod tests;
mod trial;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use testkit::{Backend, DaemonBuilder};

use crate::args::{Source, USAGE, Wish};
use crate::goal::Goal;
use crate::page::Page;
use crate::results::Results;
use crate::trial::Bench;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("eval: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let wish = Wish::parse(words)?;
    if wish.help {
        say(USAGE);
        return Ok(());
    }
    let root = std::env::current_dir().context("cannot tell where this is")?;
    let goals = Goal::all(&root)?;
    if wish.list {
        return list(&root, &goals, wish.write);
    }
    let chosen = wish.choose(&goals)?;
    chosen.iter().try_for_each(|goal| check::prove(goal))?;
    let commit = if wish.write { Some(machine::committed(&root, page::FILE)?) } else { None };
    let mut all = Vec::new();
    for source in &wish.sources {
        let results = evaluate(source, &chosen, wish.seconds)?;
        if !wish.json {
            say(&results.text());
        }
        if let Some(commit) = &commit {
            let page = Page::read(&root)?.without_stale(|row| machine::same_goals(&root, row, commit));
            page.with(&goals, &results, commit).write(&root)?;
            tell(&format!("eval: {} is in {}", results.model, page::FILE));
        }
        all.push(results);
    }
    if wish.json {
        say(&serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

fn list(root: &Path, goals: &[Goal], write: bool) -> Result<()> {
    if write {
        return Page::read(root)?.with_goals(goals).write(root);
    }
    say(page::goals(goals).trim_end());
    Ok(())
}

/// Tries one model on these goals.
fn evaluate(source: &Source, goals: &[&Goal], seconds: u64) -> Result<Results> {
    let name = source.name();
    tell(&format!("eval: {name}, {} goals, at most {seconds} s for each run", goals.len()));
    let daemon = configured(DaemonBuilder::new(Backend::Builtin), source)?.start();
    let mut bench = Bench::new(&daemon, seconds);
    let loaded = match source {
        Source::Local { .. } => Some(bench.warm_up()?),
        Source::Provider(_) => None,
    };
    if let Some(loaded) = loaded {
        tell(&format!("eval: loaded and answered after {:.1} s", loaded.as_secs_f64()));
    }
    let mut results = Results::new(&name, loaded);
    for (number, goal) in (1..).zip(goals) {
        let trial = bench.attempt(goal)?;
        tell(&format!("[{number:>2}/{}] {}", goals.len(), results::line(&trial)));
        results.trials.push(trial);
    }
    results.peak_kib = bench.peak_kib;
    Ok(results)
}

/// The daemon that thinks with this model.
fn configured(builder: DaemonBuilder, source: &Source) -> Result<DaemonBuilder> {
    let builder = match source {
        Source::Provider(name) => {
            args::inherited(name).fold(builder, |one, (name, value)| one.env(name, value))
        }
        Source::Local { file, name } => {
            let file = file.canonicalize().with_context(|| format!("cannot find {}", file.display()))?;
            let file = file.to_str().context("a path that is no text")?;
            let added = builder.cli(["model", "add", file, "--name", name]);
            ensure!(added.status.success(), "agentd model add: {}", added.stderr.trim());
            builder
        }
    };
    // Only now: a provider `local` without a model is refused.
    Ok(builder.env("AAOS_PROVIDER", source.provider()))
}

/// A line of the result.
fn say(line: &str) {
    print(&mut std::io::stdout().lock(), line);
}

/// A line of the progress.
fn tell(line: &str) {
    print(&mut std::io::stderr().lock(), line);
}

/// A reader that went away is no reason to go on.
fn print(out: &mut impl Write, line: &str) {
    if writeln!(out, "{line}").is_err() {
        std::process::exit(1);
    }
}
