//! Signed heads and the anchor in the database.
//!
//! Invariants: there is at most one anchor, and no entry up to it; a head that does not hold what it must is a broken
//! place of the chain, not an error of the database.

use aaos_core::id::Seq;
use aaos_core::quantity::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::chain::{Broken, Hash, Head, Problem};
use crate::error::JournalError;
use crate::sign::{Anchor, HeadKey, HeadSignature, SignedHead};

/// Stores a signed head. Not durable before the transaction is committed.
pub(crate) fn insert(transaction: &Transaction<'_>, signed: &SignedHead) -> Result<(), rusqlite::Error> {
    let SignedHead { head, key, signature } = signed;
    let sql = "INSERT INTO heads (seq, hash, key, signature) VALUES (?1, ?2, ?3, ?4)";
    let row = params![head.seq.0.cast_signed(), head.hash.as_bytes(), key.0, signature.0];
    let inserted = transaction.prepare_cached(sql)?.execute(row)?;
    assert_eq!(inserted, 1, "an insert without conflict clause adds one row or fails");
    Ok(())
}

/// The signed heads after `after` up to `through`, in order.
pub(crate) fn heads(
    connection: &Connection,
    after: Seq,
    through: Seq,
) -> Result<Vec<SignedHead>, JournalError> {
    let sql = "SELECT seq, hash, key, signature FROM heads WHERE seq > ?1 AND seq <= ?2 ORDER BY seq";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![after.0.cast_signed(), through.0.cast_signed()])?;
    let mut heads = Vec::new();
    while let Some(row) = rows.next()? {
        let seq = Seq(row.get::<_, i64>(0)?.cast_unsigned());
        heads.push(decode(row, seq).map_err(|_| malformed(seq))?);
    }
    Ok(heads)
}

fn decode(row: &rusqlite::Row<'_>, seq: Seq) -> Result<SignedHead, rusqlite::Error> {
    Ok(SignedHead {
        head: Head { seq, hash: Hash::from_bytes(row.get(1)?) },
        key: HeadKey(row.get(2)?),
        signature: HeadSignature(row.get(3)?),
    })
}

fn malformed(seq: Seq) -> JournalError {
    JournalError::Broken { broken: Broken { seq, problem: Problem::Signature } }
}

/// The number of the last signed head that is stored.
pub(crate) fn last(connection: &Connection) -> Result<Option<Seq>, JournalError> {
    let seq: Option<i64> = connection.query_row("SELECT max(seq) FROM heads", [], |row| row.get(0))?;
    Ok(seq.map(|seq| Seq(seq.cast_unsigned())))
}

/// Whether a key has ever signed anything here.
pub(crate) fn any(connection: &Connection) -> Result<bool, JournalError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM heads) OR EXISTS (SELECT 1 FROM anchor)";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// Where the entries begin, when earlier ones were archived.
pub(crate) fn anchor(connection: &Connection) -> Result<Option<Anchor>, JournalError> {
    let sql = "SELECT seq, hash, latest, key, signature FROM anchor";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([], |row| {
        let seq = Seq(row.get::<_, i64>(0)?.cast_unsigned());
        let anchor = Anchor {
            head: Head { seq, hash: Hash::from_bytes(row.get(1)?) },
            latest: Timestamp(row.get::<_, i64>(2)?.cast_unsigned()),
            key: HeadKey(row.get(3)?),
            signature: HeadSignature(row.get(4)?),
        };
        Ok(anchor)
    });
    match found.optional() {
        Ok(anchor) => Ok(anchor),
        Err(
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..),
        ) => Err(malformed(Seq(0))),
        Err(error) => Err(error.into()),
    }
}

/// Removes every entry and head up to the anchor, and stores it in place of the one before.
pub(crate) fn cut(transaction: &Transaction<'_>, anchor: &Anchor) -> Result<(), rusqlite::Error> {
    let Anchor { head, latest, key, signature } = anchor;
    let seq = head.seq.0.cast_signed();
    transaction.execute("DELETE FROM entries WHERE seq <= ?1", [seq])?;
    transaction.execute("DELETE FROM heads WHERE seq <= ?1", [seq])?;
    let sql = "INSERT OR REPLACE INTO anchor (one, seq, hash, latest, key, signature)
        VALUES (1, ?1, ?2, ?3, ?4, ?5)";
    let row = params![seq, head.hash.as_bytes(), latest.0.cast_signed(), key.0, signature.0];
    transaction.execute(sql, row)?;
    Ok(())
}
