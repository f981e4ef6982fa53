//! Reading: filters, offline reading and verification. Never writes.
//!
//! Invariant: one answer is bounded in entries and in bytes; whoever wants more asks again from the last
//! sequence number.

use std::io;
use std::path::Path;

use aaos_core::event::Entry;
use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_core::limits::{MAX_READ_BYTES, MAX_READ_ENTRIES};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::chain::{Expected, Head, VerifyReport};
use crate::check::ChainCheck;
use crate::error::JournalError;
use crate::export;
use crate::sign::{Anchor, SignedHead};
use crate::store::{self, Row, SELECT};
use crate::{retain, signed};

/// Which entries to read, in order of their sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only later ones than this.
    pub after_seq: Option<Seq>,
    /// Only of this goal.
    pub goal: Option<GoalId>,
    /// Only of this agent.
    pub agent: Option<AgentId>,
    /// Only of these kinds (as [`aaos_core::event::Event::kind`] names them); empty for all.
    pub kinds: Vec<String>,
    /// At most this many; more than [`MAX_READ_ENTRIES`] means that many. Fewer come when their bodies
    /// together are longer than [`MAX_READ_BYTES`]; the end is reached when none comes.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { after_seq: None, goal: None, agent: None, kinds: Vec::new(), limit: MAX_READ_ENTRIES }
    }
}

impl Filter {
    /// Everything after `seq`.
    #[must_use]
    pub fn after(seq: Seq) -> Self {
        Self { after_seq: Some(seq), ..Self::default() }
    }

    /// The statement and its parameters. Only placeholders are spliced in, never values.
    fn statement(&self) -> (String, Vec<Value>) {
        let mut sql = format!("{SELECT} WHERE e.seq > ?");
        let mut values = vec![Value::Integer(self.after_seq.map_or(0, |seq| seq.0.min(LAST).cast_signed()))];
        if let Some(goal) = self.goal {
            sql.push_str(" AND e.goal = ?");
            values.push(Value::Blob(goal.as_uuid().as_bytes().to_vec()));
        }
        if let Some(agent) = self.agent {
            sql.push_str(" AND e.agent = ?");
            values.push(Value::Blob(agent.as_uuid().as_bytes().to_vec()));
        }
        if !self.kinds.is_empty() {
            sql.push_str(" AND e.kind IN (SELECT value FROM json_each(?))");
            values.push(Value::Text(serde_json::Value::from(self.kinds.clone()).to_string()));
        }
        sql.push_str(" ORDER BY e.seq LIMIT ?");
        values.push(Value::Integer(self.limit.min(MAX_READ_ENTRIES) as i64));
        (sql, values)
    }
}

/// The greatest number that a row can have.
const LAST: u64 = i64::MAX.cast_unsigned();

/// A journal opened for reading only, by a process that does not own it or while the daemon is down.
#[derive(Debug)]
pub struct JournalFile {
    connection: Connection,
}

impl JournalFile {
    /// Opens an existing journal. Blocks.
    ///
    /// # Errors
    /// [`JournalError`] when there is none at `path` or its schema is unknown.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Ok(Self { connection: store::open_reader(path)? })
    }

    /// Reads committed entries. Blocks. An erased body shows as
    /// [`aaos_core::event::Event::BodyErased`].
    ///
    /// # Errors
    /// [`JournalError`] of the database, for an entry that cannot be read, or [`JournalError::Archived`] when entries
    /// after the one that was named were archived.
    pub fn read(&self, filter: &Filter) -> Result<Vec<Entry>, JournalError> {
        let (sql, values) = filter.statement();
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(rusqlite::params_from_iter(values))?;
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        while let Some(row) = rows.next()? {
            let row = Row::decode(row)?;
            bytes = bytes.saturating_add(row.body.as_ref().map_or(0, String::len));
            if bytes > MAX_READ_BYTES && !entries.is_empty() {
                break;
            }
            entries.push(row.into_entry()?);
        }
        assert!(entries.len() <= MAX_READ_ENTRIES, "the statement is limited");
        self.still_there(filter.after_seq)?;
        Ok(entries)
    }

    /// Whoever goes on from an entry must not miss one. To be asked after reading: what is archived then is gone.
    fn still_there(&self, after: Option<Seq>) -> Result<(), JournalError> {
        let Some(after) = after.filter(|after| *after > Seq(0)) else { return Ok(()) };
        match signed::anchor(&self.connection)? {
            Some(Anchor { head, .. }) if after < head.seq => {
                let next = Seq(after.0 + 1);
                let database = self.connection.path().map(Path::new);
                let archive = database.and_then(|database| retain::archive_with(database, next));
                Err(JournalError::Archived { after, through: head.seq, archive })
            }
            _ => Ok(()),
        }
    }

    /// Walks the whole chain. Blocks. A chain that does not verify is an answer, not an error.
    ///
    /// # Errors
    /// [`JournalError`] of the database.
    pub fn verify(&self, expected: impl Into<Expected>) -> Result<VerifyReport, JournalError> {
        let expected = expected.into();
        loop {
            let begins = signed::anchor(&self.connection).ok();
            let report = check(&self.connection, expected, None, |_| Ok(()))?;
            // Whoever walks while the beginning is archived may find it gone.
            if report.broken.is_none() || signed::anchor(&self.connection).ok() == begins {
                return Ok(report);
            }
        }
    }

    /// The signed heads after `after` up to `through`.
    pub(crate) fn heads(&self, after: Seq, through: Seq) -> Result<Vec<SignedHead>, JournalError> {
        signed::heads(&self.connection, after, through)
    }

    /// Writes entries as stored and signed heads to a new file of JSON lines, from the first entry on, which
    /// [`crate::verify_file`] can check by itself. Blocks. The file is there whole or not at all.
    ///
    /// # Errors
    /// [`JournalError`]: there is such a file, it cannot be written, or the chain does not verify.
    pub fn export(&self, path: &Path) -> Result<VerifyReport, JournalError> {
        if path.symlink_metadata().is_ok() {
            return Err(JournalError::files(path, io::ErrorKind::AlreadyExists.into()));
        }
        export::write(&self.connection, path, None, None)
    }
}

/// What a walk shows: it has verified so far.
pub(crate) enum Passed {
    /// An entry.
    Entry(Row),
    /// The signed head of the entry shown last.
    Head(SignedHead),
}

/// Walks the chain from its first entry up to `until`, or to its end, and shows all that verifies.
pub(crate) fn check(
    connection: &Connection,
    expected: Expected,
    until: Option<Seq>,
    mut visit: impl FnMut(Passed) -> Result<(), JournalError>,
) -> Result<VerifyReport, JournalError> {
    let begun = signed::anchor(connection).and_then(|anchor| {
        ChainCheck::anchored(anchor.as_ref(), expected).map_err(|broken| JournalError::Broken { broken })
    });
    let mut check = match begun {
        Ok(check) => check,
        Err(JournalError::Broken { broken }) => {
            return Ok(ChainCheck::after(Head::EMPTY, expected).report(Some(broken)));
        }
        Err(other) => return Err(other),
    };
    match walk(connection, &mut check, until, &mut visit) {
        Ok(()) => Ok(check.report(None)),
        Err(JournalError::Broken { broken }) => Ok(check.report(Some(broken))),
        Err(other) => Err(other),
    }
}

fn walk(
    connection: &Connection,
    check: &mut ChainCheck,
    until: Option<Seq>,
    visit: &mut impl FnMut(Passed) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let broken = |broken| JournalError::Broken { broken };
    let mut last = None;
    while until.is_none_or(|until| check.tip().seq < until) {
        let mut page = store::page(connection, last)?;
        if page.is_empty() {
            let ahead = signed::heads(connection, check.tip().seq, Seq(LAST))?;
            let Some(ahead) = ahead.first() else { return check.end().map_err(broken) };
            // Either the chain has grown since the page was read, or what was signed was cut off.
            page = store::page(connection, last)?;
            if page.is_empty() {
                return check.signed(ahead).map_err(broken);
            }
        }
        page.retain(|row| until.is_none_or(|until| row.seq <= until));
        let Some(through) = page.last().map(|row| row.seq) else { continue };
        let mut heads = signed::heads(connection, check.tip().seq, through)?.into_iter().peekable();
        for mut row in page {
            row.previous = Some(check.tip().hash);
            check.entry(&row).map_err(broken)?;
            let tip = check.tip();
            visit(Passed::Entry(row))?;
            while let Some(head) = heads.next_if(|signed| signed.head.seq <= tip.seq) {
                check.signed(&head).map_err(broken)?;
                visit(Passed::Head(head))?;
            }
        }
        last = Some(through);
    }
    check.end().map_err(broken)
}
