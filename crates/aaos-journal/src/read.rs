//! Reading: filters, offline reading and verification. Never writes.
//!
//! Invariant: one answer is bounded in entries and in bytes; whoever wants more asks again from the last
//! sequence number.

use std::path::Path;

use aaos_core::event::Entry;
use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_core::limits::{MAX_LISTED_ERASED, MAX_READ_BYTES, MAX_READ_ENTRIES};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::chain::{Head, HeadCheck, VerifyReport};
use crate::error::JournalError;
use crate::store::{self, Row, SELECT};

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
    /// [`JournalError`] of the database, or for an entry that cannot be read.
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
        Ok(entries)
    }

    /// Walks the whole chain. Blocks. A chain that does not verify is an answer, not an error.
    ///
    /// # Errors
    /// [`JournalError`] of the database.
    pub fn verify(&self, expected: Option<Head>) -> Result<VerifyReport, JournalError> {
        check(&self.connection, expected, |_| Ok(()))
    }
}

/// Walks the chain from its first entry and shows each entry that verifies to `visit`.
pub(crate) fn check(
    connection: &Connection,
    expected: Option<Head>,
    mut visit: impl FnMut(Row) -> Result<(), JournalError>,
) -> Result<VerifyReport, JournalError> {
    let mut report = VerifyReport {
        entries: 0,
        head: Head::EMPTY,
        erased_count: 0,
        erased: Vec::new(),
        broken: None,
        expected: if expected.is_some() { HeadCheck::Missing } else { HeadCheck::NotAsked },
    };
    judge_head(&mut report, expected);
    let walked = store::walk(connection, |row| {
        report.head = row.follows(report.head).map_err(|broken| JournalError::Broken { broken })?;
        report.entries += 1;
        judge_head(&mut report, expected);
        if row.is_erased() {
            report.erased_count += 1;
            if report.erased.len() < MAX_LISTED_ERASED {
                report.erased.push(row.seq);
            }
        }
        visit(row)
    });
    match walked {
        Ok(()) => {}
        Err(JournalError::Broken { broken }) => report.broken = Some(broken),
        Err(other) => return Err(other),
    }
    assert_eq!(report.entries, report.head.seq.0, "numbers have no gaps");
    Ok(report)
}

fn judge_head(report: &mut VerifyReport, expected: Option<Head>) {
    if let Some(expected) = expected.filter(|head| head.seq == report.head.seq) {
        report.expected =
            if expected.hash == report.head.hash { HeadCheck::Found } else { HeadCheck::Differs };
    }
}
