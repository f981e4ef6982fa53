//! From the database to the state: the chain is verified on one thread while entries are read and applied on another.
//!
//! Invariants: an entry is applied only after it was verified, in order; the state is that of the whole chain or there
//! is none.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use aaos_core::quantity::Timestamp;
use aaos_core::state::State;
use rusqlite::Connection;

use crate::chain::{Broken, Expected, Problem, VerifyReport};
use crate::error::JournalError;
use crate::read::{self, Passed};
use crate::sign::HeadKey;
use crate::signed;
use crate::store::Row;

/// Entries that go from thread to thread at once.
const BATCH: usize = 128;
/// Batches that may wait to be applied.
const BATCHES: usize = 4;

/// A chain that verified and the state that it ends in.
pub(crate) struct Folded {
    pub(crate) state: State,
    pub(crate) report: VerifyReport,
}

/// Verifies the chain and folds it. Whatever is signed must be signed with `key`, if one is named.
pub(crate) fn fold(connection: &Connection, key: Option<HeadKey>) -> Result<Folded, JournalError> {
    // An anchor that cannot be read is found again, and named, by the walk.
    let anchor = signed::anchor(connection).ok().flatten();
    let mut state = State::default();
    if let Some(anchor) = &anchor {
        state.seq = anchor.head.seq;
        state.latest = state.latest.max(anchor.latest);
    }
    assert!(anchor.is_some() || state.latest == Timestamp::ZERO, "an empty state knows no time");
    let (walked, applied) = thread::scope(|scope| {
        let (batches, queue) = sync_channel(BATCHES);
        let applying = scope.spawn(move || apply_all(state, &queue));
        let walked = send_all(connection, &batches);
        drop(batches);
        let applied = applying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (walked, applied)
    });
    // What cannot be applied ends the walk early, so its error is the first.
    let state = applied?;
    let report = walked?;
    if let Some(broken) = report.broken {
        return Err(JournalError::Broken { broken });
    }
    if let (Some(ours), Some(theirs), Some(head)) = (key, report.key, report.signed)
        && ours != theirs
    {
        return Err(JournalError::Broken { broken: Broken { seq: head.seq, problem: Problem::Key } });
    }
    Ok(Folded { state, report })
}

fn send_all(connection: &Connection, batches: &SyncSender<Vec<Row>>) -> Result<VerifyReport, JournalError> {
    let mut batch = Vec::with_capacity(BATCH);
    let visit = |passed| {
        let Passed::Entry(row) = passed else { return Ok(()) };
        batch.push(row);
        if batch.len() == BATCH {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            batches.send(full).map_err(|_| JournalError::Closed)?;
        }
        Ok(())
    };
    let report = read::check(connection, Expected::default(), None, visit)?;
    batches.send(batch).map_err(|_| JournalError::Closed)?;
    Ok(report)
}

fn apply_all(mut state: State, queue: &Receiver<Vec<Row>>) -> Result<State, JournalError> {
    for batch in queue {
        for row in batch {
            state.apply(&row.into_entry()?);
        }
    }
    Ok(state)
}
