//! Signed heads: when they are made, and what is noticed when they or what they vouch for is changed.

use std::path::Path;

use aaos_core::id::Seq;
use aaos_core::limits::HEAD_EVERY;
use rusqlite::Connection;

use super::{directory, open, path_in, saying, try_open, written};
use crate::{
    Broken, Expected, HeadKey, JournalError, JournalFile, KeyProblem, Problem, SignedHead, VerifyReport,
};

const EVERY: usize = HEAD_EVERY as usize;

fn heads(path: &Path) -> Vec<SignedHead> {
    JournalFile::open(path).expect("opens").heads(Seq(0), Seq(1_000_000)).expect("read")
}

fn seqs(path: &Path) -> Vec<u64> {
    heads(path).iter().map(|signed| signed.head.seq.0).collect()
}

fn verify(path: &Path, expected: Expected) -> VerifyReport {
    JournalFile::open(path).expect("opens").verify(expected).expect("walks")
}

fn change(path: &Path, sql: &str) {
    Connection::open(path).expect("opens").execute_batch(sql).expect("valid SQL");
}

/// A closed journal of so many entries.
async fn long(path: &Path, entries: usize) {
    let journal = open(path);
    journal.record_all(vec![saying("one of many"); entries]).await.expect("recorded");
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_head_is_signed_every_so_many_entries_and_at_the_end() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    journal.record_all(vec![saying("first"); EVERY - 1]).await.expect("recorded");
    assert_eq!(seqs(&path), Vec::<u64>::new(), "control: one is missing");
    let commits = journal.stats().commits;
    let due = journal.record(saying("due")).await.expect("recorded");
    assert_eq!(seqs(&path), [HEAD_EVERY], "it is there as soon as its entry is acknowledged");
    assert_eq!(journal.stats().commits, commits + 1, "in its transaction");
    let signed = heads(&path)[0];
    assert_eq!(signed.head.hash.to_string(), due.hash);
    assert!(signed.is_genuine() && signed.key == journal.key());
    journal.record_all(vec![saying("more"); 2 * EVERY + 1]).await.expect("recorded");
    assert_eq!(seqs(&path), [HEAD_EVERY, 2 * HEAD_EVERY, 3 * HEAD_EVERY], "also within one transaction");
    journal.close().await.expect("closes");
    assert_eq!(seqs(&path).last(), Some(&(3 * HEAD_EVERY + 1)), "and where it was closed");

    let journal = open(&path);
    journal.close().await.expect("closes");
    assert_eq!(seqs(&path).len(), 4, "nothing new, nothing to sign");
    let report = verify(&path, Expected::default());
    assert_eq!((report.signed, report.key), (Some(report.head), Some(signed.key)));
    assert!(verify(&path, Expected { head: None, key: Some(signed.key) }).is_intact());
    let strange = verify(&path, Expected { head: None, key: Some(HeadKey([9; 32])) });
    assert_eq!(strange.broken, Some(Broken { seq: Seq(HEAD_EVERY), problem: Problem::Key }));
}

#[tokio::test]
async fn what_is_done_to_a_signed_head_or_its_entry_is_found_there() {
    let every = HEAD_EVERY;
    let end = every + 3;
    let cases = [
        ("UPDATE heads SET hash = randomblob(32) WHERE seq = 64", every, Problem::Head),
        ("UPDATE heads SET signature = randomblob(64) WHERE seq = 64", every, Problem::Signature),
        ("UPDATE heads SET key = randomblob(32) WHERE seq = 64", every, Problem::Signature),
        ("UPDATE heads SET key = x'00' WHERE seq = 64", every, Problem::Signature),
        ("DELETE FROM heads WHERE seq = 64", every, Problem::Unsigned),
        ("UPDATE heads SET seq = 63 WHERE seq = 64", every - 1, Problem::Head),
        ("DELETE FROM entries WHERE seq = 67", end, Problem::Missing),
        ("DELETE FROM entries WHERE seq > 60", 61, Problem::Missing),
        ("DELETE FROM entries", 1, Problem::Missing),
    ];
    for (sql, seq, problem) in cases {
        let directory = directory();
        let path = path_in(&directory);
        long(&path, EVERY + 3).await;
        assert!(verify(&path, Expected::default()).is_intact(), "control");
        change(&path, sql);
        let expected = Broken { seq: Seq(seq), problem };
        let report = verify(&path, Expected::default());
        assert_eq!(report.broken.as_ref(), Some(&expected), "{sql}");
        match try_open(&path) {
            Err(JournalError::Broken { broken }) => assert_eq!(broken, expected, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

/// Whoever can write the file but has no key rewrites history from an entry on, with hashes that fit.
#[tokio::test]
async fn a_rewritten_history_needs_the_key() {
    let directory = directory();
    let (path, forged) = (path_in(&directory), directory.path().join("forged.db"));
    long(&path, EVERY + 3).await;
    written(&forged, &["one of many"; 2]).await;
    let journal = open(&forged);
    journal.record_all(vec![saying("rewritten"); EVERY + 1]).await.expect("recorded");
    journal.close().await.expect("closes");
    assert!(verify(&forged, Expected::default()).is_intact(), "control: whole in itself");

    let connection = Connection::open(&path).expect("opens");
    connection.execute("ATTACH ?1 AS forged", [forged.to_str().expect("UTF-8")]).expect("attached");
    let replace = |table: &str| {
        let sql = format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM forged.{table};");
        connection.execute_batch(&sql).expect("replaced");
    };
    replace("entries");
    let kept = verify(&path, Expected::default()).broken;
    assert_eq!(kept, Some(Broken { seq: Seq(HEAD_EVERY), problem: Problem::Head }), "the old heads are kept");
    replace("heads");
    drop(connection);
    assert!(verify(&path, Expected::default()).is_intact(), "their own key vouches for it");
    let key = open(&directory.path().join("other.db")).key();
    assert!(!verify(&path, Expected { head: None, key: Some(key) }).is_intact());
    let refused = try_open(&path).expect_err("not our key");
    assert!(matches!(refused, JournalError::Broken { broken: Broken { problem: Problem::Key, .. } }));
}

#[tokio::test]
async fn a_journal_that_was_signed_needs_its_key() {
    let directory = directory();
    let path = path_in(&directory);
    let key = path.with_extension("key");
    written(&path, &["one"]).await;
    let aside = directory.path().join("aside");
    std::fs::rename(&key, &aside).expect("moved");
    let refused = try_open(&path).expect_err("the key is gone");
    assert!(matches!(refused, JournalError::Key { problem: KeyProblem::Missing, .. }), "{refused:?}");
    assert!(!key.exists(), "no new one is made");
    std::fs::rename(&aside, &key).expect("moved back");
    open(&path);
}
