//! The audit trail on standard output: one JSON line for each committed entry (SPEC §5) and each signed head.
//!
//! A thread of its own reads committed entries back from the database and prints them, so that a reader of
//! standard output that is slow or has stopped can never hold up a commit, and nothing is buffered or dropped
//! for it: the printer falls behind and catches up. Invariants: only committed entries are printed, in order,
//! each once (again only after a kill), a signed head after its entry; when the output fails, that is journalled once and printing ends.

use std::io::Write;
use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::vec::IntoIter;

use aaos_core::event::{Event, NewEntry};
use aaos_core::id::Seq;
use aaos_core::quantity::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc::WeakSender;

use crate::error::JournalError;
use crate::journal::prepare;
use crate::read::{Filter, JournalFile};
use crate::sign::SignedHead;
use crate::writer::{Command, Printer};

struct Trail<W> {
    file: JournalFile,
    sink: W,
    printed: Seq,
    /// The last signed head that was printed.
    headed: Seq,
    /// The last entry that was printed together with its signed head, for the writer.
    progress: Arc<AtomicU64>,
    /// Time of the last entry: this thread has no clock.
    latest: Timestamp,
}

/// Starts the printer; it prints what comes after `from`, and heads after `signed`.
pub(crate) fn start(
    path: &Path,
    from: Seq,
    signed: Seq,
    sink: impl Write + Send + 'static,
    journal: WeakSender<Command>,
) -> Result<Printer, JournalError> {
    let file = JournalFile::open(path)?;
    let (wake, woken) = sync_channel(1);
    let (finished, done) = sync_channel(1);
    let progress = Arc::new(AtomicU64::new(from.0));
    let printed = Arc::clone(&progress);
    let trail = Trail { file, sink, printed: from, headed: signed, progress, latest: Timestamp::ZERO };
    thread::Builder::new()
        .name("journal-audit".into())
        .spawn(move || {
            trail.follow(&woken, &journal);
            if finished.send(()).is_err() {
                tracing::debug!("the journal closed before its audit trail was printed");
            }
        })
        .map_err(|source| JournalError::files(path, source))?;
    Ok(Printer { wake, done, printed })
}

impl<W: Write> Trail<W> {
    /// Prints until the writer ends (then what is left) or the output fails.
    fn follow(mut self, woken: &Receiver<()>, journal: &WeakSender<Command>) {
        let mut ended = false;
        loop {
            if let Err(reason) = self.print_new() {
                return self.give_up(reason, journal);
            }
            if ended {
                return;
            }
            ended = woken.recv().is_err();
        }
    }

    fn print_new(&mut self) -> Result<(), String> {
        loop {
            let entries = self.file.read(&Filter::after(self.printed)).map_err(|error| error.to_string())?;
            let through = entries.last().map_or(self.printed, |entry| entry.seq);
            let heads = self.file.heads(self.headed, through).map_err(|error| error.to_string())?;
            let mut heads = heads.into_iter().peekable();
            for entry in &entries {
                // Also the head of what was printed before, when it was signed late.
                self.print_heads(&mut heads)?;
                self.latest = entry.timestamp;
                self.print(entry)?;
                self.printed = entry.seq;
            }
            self.print_heads(&mut heads)?;
            if entries.is_empty() {
                return self.sink.flush().map_err(|error| error.to_string());
            }
        }
    }

    /// The signed heads of what was printed.
    fn print_heads(&mut self, heads: &mut Peekable<IntoIter<SignedHead>>) -> Result<(), String> {
        while let Some(signed) = heads.next_if(|signed| signed.head.seq <= self.printed) {
            self.print(&signed)?;
            self.headed = signed.head.seq;
        }
        self.progress.store(self.printed.0, Ordering::Relaxed);
        Ok(())
    }

    fn print(&mut self, what: &impl Serialize) -> Result<(), String> {
        let mut line = serde_json::to_vec(what).map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.sink.write_all(&line).map_err(|error| error.to_string())
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
