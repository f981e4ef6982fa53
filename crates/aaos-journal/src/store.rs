//! The database: schema, settings, rows in and out. No chain logic beyond one row's own hashes.
//!
//! Invariants: entries are only ever inserted at the end and, once archived, removed from the beginning (a body and
//! its salt may be set NULL later, where the state does not rest on it); every connection is refused a schema it does not know before it changes
//! anything; the writing connection runs in WAL mode with `synchronous = FULL`, so a commit that returned is on
//! the disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aaos_core::event::{Entry, Event, EventKind};
use aaos_core::id::{AgentId, EntryId, GoalId, Seq, TraceId};
use aaos_core::quantity::Timestamp;
use aaos_core::state::needs_body;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use crate::chain::{Broken, Hash, Head, Header, Problem, SALT_BYTES, body_hash};
use crate::error::JournalError;

/// The layout below. A database that says otherwise is refused.
pub(crate) const SCHEMA_VERSION: i64 = 3;
/// "aaOS" in the file's header, so that tools can tell what it is.
const APPLICATION_ID: i64 = 0x6161_4f53;
/// Rows of one statement of a walk; between statements the write-ahead log can be checkpointed.
const WALK_ROWS: i64 = 1_000;
/// Bodies of one statement of a walk, bytes; the last may go beyond.
const WALK_BYTES: usize = 4 * 1024 * 1024;
/// The write-ahead log is cut back to this after a checkpoint.
const LOG_BYTES: i64 = 64 * 1024 * 1024;

const SCHEMA: &str = "
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        timestamp INTEGER NOT NULL,
        goal BLOB,
        agent BLOB,
        trace BLOB,
        parent BLOB,
        kind TEXT NOT NULL,
        body TEXT,
        salt BLOB,
        body_hash BLOB NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entries_by_goal ON entries (goal) WHERE goal IS NOT NULL;
    CREATE INDEX entries_by_agent ON entries (agent) WHERE agent IS NOT NULL;
    CREATE TABLE heads (
        seq INTEGER PRIMARY KEY,
        hash BLOB NOT NULL,
        key BLOB NOT NULL,
        signature BLOB NOT NULL
    ) STRICT;
    CREATE TABLE anchor (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seq INTEGER NOT NULL,
        hash BLOB NOT NULL,
        latest INTEGER NOT NULL,
        key BLOB NOT NULL,
        signature BLOB NOT NULL
    ) STRICT;
";

const INSERT: &str = "INSERT INTO entries
    (seq, id, timestamp, goal, agent, trace, parent, kind, body, salt, body_hash, hash)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

/// What [`Row::decode`] reads, in its order; to be followed by conditions on `e`.
pub(crate) const SELECT: &str = "SELECT e.seq, e.id, e.timestamp, e.goal, e.agent, e.trace, e.parent, e.kind,
    e.body, e.salt, e.body_hash, e.hash, COALESCE(p.hash, a.hash)
    FROM entries e LEFT JOIN entries p ON p.seq = e.seq - 1 LEFT JOIN anchor a ON a.seq = e.seq - 1";

/// The same for a walk, which knows the entry before without asking for it.
const WALK: &str = "SELECT e.seq, e.id, e.timestamp, e.goal, e.agent, e.trace, e.parent, e.kind,
    e.body, e.salt, e.body_hash, e.hash, NULL
    FROM entries e WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2";

/// Opens or creates the database for writing. The caller holds the lock file.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, JournalError> {
    create_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let is_new = check_schema(&connection, path)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(JournalError::Setting { path: path.to_owned(), setting: "journal_mode=WAL" });
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if synchronous != 2 {
        return Err(JournalError::Setting { path: path.to_owned(), setting: "synchronous=FULL" });
    }
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES, |_| Ok(()))?;
    if is_new {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// Opens an existing database for reading.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, JournalError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    if check_schema(&connection, path)? {
        return Err(JournalError::UnknownSchema { path: path.to_owned(), found: 0, known: SCHEMA_VERSION });
    }
    Ok(connection)
}

/// Opens a file of ours, creating it readable by nobody else, with its directory entry on the disk.
pub(crate) fn create_private(path: &Path) -> Result<File, JournalError> {
    let failed = |source| JournalError::files(path, source);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    sync_directory_of(path)?;
    Ok(file)
}

/// Brings the names in a file's directory to the disk.
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), JournalError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let opened = File::open(directory.unwrap_or(Path::new(".")));
    opened.and_then(|directory| directory.sync_all()).map_err(|source| JournalError::files(path, source))
}

/// Whether the database is empty and to be set up; an error if it is someone else's or of another version.
fn check_schema(connection: &Connection, path: &Path) -> Result<bool, JournalError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (found, application, objects) {
        (SCHEMA_VERSION, APPLICATION_ID, _) => Ok(false),
        (0, 0, 0) => Ok(true),
        _ => Err(JournalError::UnknownSchema { path: path.to_owned(), found, known: SCHEMA_VERSION }),
    }
}

/// An entry that is ready to be linked into the chain.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) header: Header,
    pub(crate) body: String,
    pub(crate) salt: [u8; SALT_BYTES],
    pub(crate) body_hash: Hash,
}

/// Inserts `entry` after `tip` and returns the new tip. Not durable before the transaction is committed.
pub(crate) fn insert(
    transaction: &Transaction<'_>,
    tip: Head,
    entry: &Prepared,
) -> Result<Head, rusqlite::Error> {
    let Prepared { header, body, salt, body_hash } = entry;
    let seq = Seq(tip.seq.0 + 1);
    let hash = header.hash(tip.hash, seq, *body_hash);
    let inserted = transaction.prepare_cached(INSERT)?.execute(params![
        seq.0.cast_signed(),
        header.id.as_uuid().as_bytes(),
        header.timestamp.0.cast_signed(),
        header.goal.as_ref().map(|id| id.as_uuid().as_bytes()),
        header.agent.as_ref().map(|id| id.as_uuid().as_bytes()),
        header.trace.as_ref().map(|id| id.as_uuid().as_bytes()),
        header.parent.as_ref().map(|id| id.as_uuid().as_bytes()),
        header.kind,
        body,
        salt,
        body_hash.as_bytes(),
        hash.as_bytes(),
    ])?;
    assert_eq!(inserted, 1, "an insert without conflict clause adds one row or fails");
    Ok(Head { seq, hash })
}

/// One stored entry.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) seq: Seq,
    pub(crate) header: Header,
    pub(crate) body: Option<String>,
    pub(crate) salt: Option<[u8; SALT_BYTES]>,
    pub(crate) body_hash: Hash,
    pub(crate) hash: Hash,
    /// Hash of the entry before, where it is known; none for the first, too.
    pub(crate) previous: Option<Hash>,
}

impl Row {
    /// Reads a row of [`SELECT`]. A column that does not hold what it must makes the entry broken.
    pub(crate) fn decode(row: &rusqlite::Row<'_>) -> Result<Self, JournalError> {
        let seq = Seq(row.get::<_, i64>(0)?.cast_unsigned());
        Self::fields(row, seq)
            .map_err(|_| JournalError::Broken { broken: Broken { seq, problem: Problem::Malformed } })
    }

    fn fields(row: &rusqlite::Row<'_>, seq: Seq) -> Result<Self, rusqlite::Error> {
        let header = Header {
            id: EntryId::from_uuid(Uuid::from_bytes(row.get(1)?)),
            timestamp: Timestamp(row.get::<_, i64>(2)?.cast_unsigned()),
            goal: optional_uuid(row, 3)?.map(GoalId::from_uuid),
            agent: optional_uuid(row, 4)?.map(AgentId::from_uuid),
            trace: optional_uuid(row, 5)?.map(TraceId::from_uuid),
            parent: optional_uuid(row, 6)?.map(EntryId::from_uuid),
            kind: row.get(7)?,
        };
        Ok(Self {
            seq,
            header,
            body: row.get(8)?,
            salt: row.get(9)?,
            body_hash: Hash::from_bytes(row.get(10)?),
            hash: Hash::from_bytes(row.get(11)?),
            previous: get::<Option<[u8; 32]>>(row, 12)?.map(Hash::from_bytes),
        })
    }

    /// Whether it follows `tip`; if so, the tip after it.
    pub(crate) fn follows(&self, tip: Head) -> Result<Head, Broken> {
        let expected = Seq(tip.seq.0 + 1);
        if self.seq != expected {
            return Err(Broken { seq: expected, problem: Problem::Missing });
        }
        let broken = |problem| Broken { seq: self.seq, problem };
        if self.header.hash(tip.hash, self.seq, self.body_hash) != self.hash {
            return Err(broken(Problem::Header));
        }
        match (&self.salt, &self.body) {
            (Some(salt), Some(body)) if body_hash(salt, body) == self.body_hash => {}
            (None, None) if self.is_needed() => return Err(broken(Problem::Erased)),
            (None, None) => {}
            (Some(_), Some(_)) => return Err(broken(Problem::Body)),
            (Some(_), None) | (None, Some(_)) => return Err(broken(Problem::HalfErased)),
        }
        Ok(Head { seq: self.seq, hash: self.hash })
    }

    /// Whether the state rests on its body; of a kind that this version does not know, it may.
    fn is_needed(&self) -> bool {
        EventKind::named(&self.header.kind).is_none_or(needs_body)
    }

    /// Whether its body was erased.
    pub(crate) fn is_erased(&self) -> bool {
        self.body.is_none()
    }

    /// The entry as SPEC §5 shows it.
    pub(crate) fn into_entry(self) -> Result<Entry, JournalError> {
        let event = match &self.body {
            Some(body) => {
                serde_json::from_str(body).map_err(|source| JournalError::unreadable(self.seq, source))?
            }
            None => Event::BodyErased { original: self.header.kind },
        };
        Ok(Entry {
            seq: self.seq,
            id: self.header.id,
            timestamp: self.header.timestamp,
            goal_id: self.header.goal,
            agent_id: self.header.agent,
            trace_id: self.header.trace,
            parent_event: self.header.parent,
            event,
            prev_hash: self.previous.unwrap_or(Hash::ZERO).to_string(),
            hash: self.hash.to_string(),
        })
    }
}

fn get<T: FromSql>(row: &rusqlite::Row<'_>, column: usize) -> Result<T, rusqlite::Error> {
    row.get(column)
}

fn optional_uuid(row: &rusqlite::Row<'_>, column: usize) -> Result<Option<Uuid>, rusqlite::Error> {
    Ok(get::<Option<[u8; 16]>>(row, column)?.map(Uuid::from_bytes))
}

/// Reads the entries after `after`, or from the first row on, as many as fit into a page; none at the end. An entry that
/// cannot be decoded is the answer when it comes first.
pub(crate) fn page(connection: &Connection, after: Option<Seq>) -> Result<Vec<Row>, JournalError> {
    let mut statement = connection.prepare_cached(WALK)?;
    let after = after.map_or(i64::MIN, |seq| seq.0.cast_signed());
    let mut rows = statement.query(params![after, WALK_ROWS])?;
    let mut page = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        match Row::decode(row) {
            Ok(row) => {
                bytes += row.body.as_ref().map_or(0, String::len);
                page.push(row);
            }
            Err(error) if page.is_empty() => return Err(error),
            Err(_) => break,
        }
        if bytes > WALK_BYTES {
            break;
        }
    }
    Ok(page)
}
