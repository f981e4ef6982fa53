//! Tests that look behind the handle: the writer held or starved through a hook, the file changed by hand.

mod audit;
mod chain;
mod durable;
mod export;
mod fold;
mod heads;
mod pipeline;
mod resume;
mod retain;

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use aaos_core::event::{Event, NewEntry};
use aaos_core::id::Seq;
use aaos_core::quantity::Timestamp;
use aaos_core::state::State;
use tempfile::TempDir;

use crate::{Journal, JournalConfig, JournalError};

/// An entry that carries a text.
fn saying(text: &str) -> NewEntry {
    NewEntry {
        timestamp: Timestamp(1_000),
        goal_id: None,
        agent_id: None,
        trace_id: None,
        parent_event: None,
        event: Event::MessageDelivered { message: text.into(), from: None, under: None },
    }
}

/// An entry that carries a text and changes no state.
fn of_no_effect(text: &str) -> NewEntry {
    let event = Event::AuditStdoutStopped { after: Seq(0), reason: text.into() };
    NewEntry { event, ..saying("") }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("temporary directory")
}

fn path_in(directory: &TempDir) -> PathBuf {
    directory.path().join("journal.db")
}

fn try_open(path: &Path) -> Result<(Journal, State), JournalError> {
    Journal::open(JournalConfig::at(path))
}

fn open(path: &Path) -> Journal {
    try_open(path).expect("opens").0
}

/// A journal at `path` with these messages, closed again.
async fn written(path: &Path, messages: &[&str]) {
    let journal = open(path);
    for message in messages {
        journal.record(saying(message)).await.expect("recorded");
    }
    journal.close().await.expect("closes");
}

/// Holds the writer between two commits until the returned sender is used or dropped.
async fn hold(journal: &Journal) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let (held, holds) = tokio::sync::oneshot::channel();
    journal.hook(move |_| {
        held.send(()).expect("the test waits for the hold");
        // Either a message or the sender's end lets the writer go on.
        released.recv().ok();
    });
    holds.await.expect("the writer is held");
    release
}
