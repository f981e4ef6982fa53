//! How far the audit trail on standard output came: one row beside the chain.
//!
//! Invariants: the row is never ahead of what was printed, so that what a kill or a slow reader kept from standard output
//! is printed after the next start (and after a kill some of it twice); nothing but printing goes by it.

use aaos_core::id::Seq;
use rusqlite::{Connection, params};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS printed (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL
) STRICT";

/// The entry after which printing goes on; the last one when nothing was ever printed. Entries that were archived
/// meanwhile are not printed.
pub(crate) fn recall(connection: &Connection, archived: Seq, tip: Seq) -> Result<Seq, rusqlite::Error> {
    assert!(archived <= tip, "what is archived was recorded");
    connection.execute(TABLE, [])?;
    connection.execute("INSERT OR IGNORE INTO printed (one, seq) VALUES (1, ?1)", [tip.0.cast_signed()])?;
    let seq: i64 = connection.query_row("SELECT seq FROM printed", [], |row| row.get(0))?;
    Ok(Seq(u64::try_from(seq).unwrap_or(0)).clamp(archived, tip))
}

/// Notes the last printed entry. Not durable before the transaction is committed, if there is one.
pub(crate) fn note(connection: &Connection, printed: Seq) -> Result<(), rusqlite::Error> {
    let row = params![printed.0.cast_signed()];
    connection.prepare_cached("UPDATE printed SET seq = ?1 WHERE seq < ?1")?.execute(row).map(drop)
}
