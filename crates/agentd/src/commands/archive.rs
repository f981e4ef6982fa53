//! `audit --export`, `--verify --file` and `--prune`: the journal as files.
//!
//! Invariant: a file is verified without a daemon, a journal or a state directory.

use std::os::unix::net::UnixStream;
use std::path::Path;

use aaos_core::quantity::{Millis, Timestamp};
use aaos_journal::{Expected, Holder, Journal, JournalConfig, Pruned, verify_file};
use aaos_runtime::Clock;
use anyhow::{Context, Result};
use serde::Serialize;

use super::entries;
use crate::client::Client;
use crate::daemon;
use crate::exit::Exit;
use crate::render::{Screen, Tone};
use crate::settings::Settings;

/// `--verify --file`.
pub(super) fn verify(file: &Path, expected: Expected, json: bool, screen: Screen) -> Result<Exit> {
    let report = verify_file(file, expected).with_context(|| format!("cannot read {}", file.display()))?;
    if json {
        screen.json(&report)?;
        return Ok(entries::exit_of(&report.chain));
    }
    if report.chain.broken.is_some() {
        screen.line(Tone::Bad, &format!("line {} of {} does not fit", report.line, file.display()))?;
    }
    entries::tell(&report.chain, screen)
}

/// `--export`. Reads the journal's file, whether or not a daemon appends to it.
pub(super) fn export(settings: &Settings, file: &Path, screen: Screen) -> Result<Exit> {
    let journal = entries::offline(settings)?;
    let report = journal.export(file).with_context(|| format!("cannot export to {}", file.display()))?;
    screen.line(Tone::Good, &format!("{} entries are in {}", report.entries, file.display()))?;
    entries::tell(&report, screen)
}

/// `--prune`: through the daemon if one answers, else on the journal itself, which is locked meanwhile.
pub(super) fn prune(settings: &Settings, age: Millis, json: bool, screen: Screen) -> Result<Exit> {
    #[derive(Serialize)]
    struct Prune {
        older_than_ms: Millis,
    }
    if UnixStream::connect(&settings.socket).is_ok() {
        return daemon::with_running(settings, async move |socket: std::path::PathBuf| {
            let mut client = Client::connect(&socket).await?;
            let pruned = client.call("audit.prune", &Prune { older_than_ms: age }).await?;
            tell(&pruned, json, screen)
        });
    }
    drop(entries::offline(settings)?);
    let path = settings.state_dir.join("journal.db");
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().context("cannot start the async runtime")?;
    let pruned = runtime.block_on(prune_file(&path, age));
    tell(&pruned.with_context(|| format!("cannot archive from {}", path.display()))?, json, screen)
}

async fn prune_file(path: &Path, age: Millis) -> Result<Pruned> {
    let (journal, state) = Journal::open(JournalConfig::at(path))?;
    let now = Clock::starting_at(state.latest).now();
    let pruned = journal.prune(Timestamp(now.0.saturating_sub(age.0)), now).await;
    journal.close().await?;
    Ok(pruned?)
}

fn tell(pruned: &Pruned, json: bool, screen: Screen) -> Result<Exit> {
    if json {
        screen.json(pruned)?;
        return Ok(Exit::Done);
    }
    for archive in &pruned.archives {
        screen.line(Tone::Good, &format!("archived in {}", archive.display()))?;
    }
    screen.line(Tone::Plain, &format!("{} entries were archived", pruned.entries))?;
    if let Some(held) = pruned.held {
        let by = match held.by {
            Holder::Goal(goal) => format!("goal {goal}"),
            Holder::Agent(agent) => format!("agent {agent}"),
            Holder::Intent(intent) => format!("the unfinished call {intent}"),
        };
        screen.line(Tone::Dim, &format!("entries from {} on are kept: {by} needs them", held.since))?;
    }
    Ok(Exit::Done)
}
