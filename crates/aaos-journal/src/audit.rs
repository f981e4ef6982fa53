//! The audit trail on standard output: one JSON line for each committed entry (SPEC §5).
//!
//! A thread of its own reads committed entries back from the database and prints them, so that a reader of
//! standard output that is slow or has stopped can never hold up a commit, and nothing is buffered or dropped
//! for it: the printer falls behind and catches up. Invariants: only committed entries are printed, in order,
//! each once; when the output fails, that is journalled once and printing ends.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use aaos_core::event::{Event, NewEntry};
use aaos_core::id::Seq;
use aaos_core::quantity::Timestamp;
use tokio::sync::mpsc::WeakSender;

use crate::error::JournalError;
use crate::journal::prepare;
use crate::read::{Filter, JournalFile};
use crate::writer::{Command, Printer};

struct Trail<W> {
    file: JournalFile,
    sink: W,
    printed: Seq,
    /// Time of the last entry: this thread has no clock.
    latest: Timestamp,
}

/// Starts the printer; it prints what comes after `from`.
pub(crate) fn start(
    path: &Path,
    from: Seq,
    sink: impl Write + Send + 'static,
    journal: WeakSender<Command>,
) -> Result<Printer, JournalError> {
    let file = JournalFile::open(path)?;
    let (wake, woken) = sync_channel(1);
    let (finished, done) = sync_channel(1);
    let trail = Trail { file, sink, printed: from, latest: Timestamp::ZERO };
    thread::Builder::new()
        .name("journal-audit".into())
        .spawn(move || {
            trail.follow(&woken, &journal);
            if finished.send(()).is_err() {
                tracing::debug!("the journal closed before its audit trail was printed");
            }
        })
        .map_err(|source| JournalError::files(path, source))?;
    Ok(Printer { wake, done })
}

impl<W: Write> Trail<W> {
    /// Prints until the writer ends (then what is left) or the output fails.
    fn follow(mut self, woken: &Receiver<()>, journal: &WeakSender<Command>) {
        loop {
            let ended = woken.recv().is_err();
            if let Err(reason) = self.print_new() {
                return self.give_up(reason, journal);
            }
            if ended {
                return;
            }
        }
    }

    fn print_new(&mut self) -> Result<(), String> {
        loop {
            let entries = self.file.read(&Filter::after(self.printed)).map_err(|error| error.to_string())?;
            if entries.is_empty() {
                return self.sink.flush().map_err(|error| error.to_string());
            }
            for entry in entries {
                self.latest = entry.timestamp;
                let mut line = serde_json::to_vec(&entry).map_err(|error| error.to_string())?;
                line.push(b'\n');
                self.sink.write_all(&line).map_err(|error| error.to_string())?;
                self.printed = entry.seq;
            }
        }
    }

    fn give_up(self, reason: String, journal: &WeakSender<Command>) {
        tracing::warn!(after = self.printed.0, reason, "standard output takes no audit trail any more");
        let entry = NewEntry {
            timestamp: self.latest,
            goal_id: None,
            agent_id: None,
            trace_id: None,
            parent_event: None,
            event: Event::AuditStdoutStopped { after: self.printed, reason },
        };
        let Some(journal) = journal.upgrade() else { return };
        let noted = prepare(&entry).map(|entry| Command::Append { entries: vec![entry], reply: None });
        if noted.is_ok_and(|command| journal.blocking_send(command).is_err()) {
            tracing::debug!("the journal closed before the loss of its audit trail was noted");
        }
    }
}
