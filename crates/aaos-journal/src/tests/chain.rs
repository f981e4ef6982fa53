//! Changes made to the file behind the journal's back.

use std::path::Path;

use aaos_core::event::Event;
use aaos_core::id::Seq;
use rusqlite::Connection;

use super::{directory, open, path_in, try_open, written};
use crate::{Broken, Filter, Head, HeadCheck, JournalError, JournalFile, Problem, VerifyReport};

fn verify(path: &Path, expected: Option<Head>) -> VerifyReport {
    JournalFile::open(path).expect("opens").verify(expected).expect("walks")
}

/// Makes a copy of a journal of three entries, changes it, and says what a verification finds.
async fn after_change(sql: &str) -> (VerifyReport, Result<(), JournalError>) {
    let directory = directory();
    let path = path_in(&directory);
    written(&path, &["one", "two", "three"]).await;
    assert!(verify(&path, None).is_intact(), "control: untouched, it verifies");
    drop(open_and_close(&path).await);
    let changed = Connection::open(&path).expect("opens").execute(sql, []).expect("valid SQL");
    assert!(changed > 0, "{sql} changes something");
    let report = verify(&path, None);
    (report, open_and_close(&path).await)
}

async fn open_and_close(path: &Path) -> Result<(), JournalError> {
    let (journal, _) = try_open(path)?;
    journal.close().await
}

#[tokio::test]
async fn any_change_is_found_at_its_entry() {
    let cases = [
        ("UPDATE entries SET timestamp = timestamp + 1 WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET kind = 'daemon_stopped' WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET id = randomblob(16) WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET goal = randomblob(16) WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET agent = randomblob(16) WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET trace = randomblob(16) WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET parent = randomblob(16) WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET body_hash = randomblob(32) WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET hash = randomblob(32) WHERE seq = 2", Problem::Header),
        ("UPDATE entries SET body = replace(body, 'two', 'twp') WHERE seq = 2", Problem::Body),
        ("UPDATE entries SET salt = randomblob(16) WHERE seq = 2", Problem::Body),
        ("UPDATE entries SET body = NULL WHERE seq = 2", Problem::HalfErased),
        ("UPDATE entries SET salt = NULL WHERE seq = 2", Problem::HalfErased),
        ("UPDATE entries SET goal = x'00' WHERE seq = 2", Problem::Malformed),
        ("DELETE FROM entries WHERE seq = 2", Problem::Missing),
    ];
    for (sql, problem) in cases {
        let expected = Broken { seq: Seq(2), problem };
        let (report, opened) = after_change(sql).await;
        assert_eq!((report.broken.as_ref(), report.entries), (Some(&expected), 1), "{sql}");
        assert!(!report.is_intact());
        match opened {
            Err(JournalError::Broken { broken }) => assert_eq!(broken, expected, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_rewritten_entry_breaks_the_next_one() {
    let directory = directory();
    let path = path_in(&directory);
    written(&path, &["one", "two", "three"]).await;
    let other = directory.path().join("other.db");
    written(&other, &["one", "changed"]).await;
    let connection = Connection::open(&path).expect("opens");
    connection.execute("ATTACH ?1 AS other", [other.to_str().expect("UTF-8")]).expect("attached");
    connection
        .execute_batch(
            "DELETE FROM entries WHERE seq <= 2;
             INSERT INTO entries SELECT * FROM other.entries;",
        )
        .expect("replaced by entries that are whole in themselves");
    drop(connection);
    assert_eq!(verify(&path, None).broken, Some(Broken { seq: Seq(3), problem: Problem::Header }));
}

#[tokio::test]
async fn a_cut_tail_is_found_by_a_head_seen_before() {
    let directory = directory();
    let path = path_in(&directory);
    written(&path, &["one", "two", "three"]).await;
    let whole = verify(&path, None);
    assert_eq!((whole.expected, whole.head.seq), (HeadCheck::NotAsked, Seq(3)));
    assert_eq!(verify(&path, Some(whole.head)).expected, HeadCheck::Found);
    assert_eq!(verify(&path, Some(Head::EMPTY)).expected, HeadCheck::Found);
    let forged = Head { hash: Head::EMPTY.hash, ..whole.head };
    assert_eq!(verify(&path, Some(forged)).expected, HeadCheck::Differs);
    assert!(!verify(&path, Some(forged)).is_intact());

    Connection::open(&path)
        .expect("opens")
        .execute_batch("DELETE FROM entries WHERE seq = 3; DELETE FROM heads WHERE seq = 3")
        .expect("cut");
    assert!(verify(&path, None).is_intact(), "control: alone, a shorter chain looks whole");
    let cut = verify(&path, Some(whole.head));
    assert_eq!(cut.expected, HeadCheck::Missing);
    assert!(!cut.is_intact());
    let journal = open(&path);
    assert_eq!(
        journal.verify_against(Some(whole.head).into()).await.expect("walks").expected,
        HeadCheck::Missing
    );
}

#[tokio::test]
async fn an_erased_body_is_reported_and_breaks_nothing() {
    let directory = directory();
    let path = path_in(&directory);
    written(&path, &["one", "secret", "three"]).await;
    let before = verify(&path, None);
    Connection::open(&path)
        .expect("opens")
        .execute("UPDATE entries SET body = NULL, salt = NULL WHERE seq = 2", [])
        .expect("erased");
    let journal = open(&path);
    let report = journal.verify().await.expect("walks");
    assert!(report.is_intact());
    assert_eq!((report.head, report.erased_count, report.erased), (before.head, 1, vec![Seq(2)]));
    assert_eq!((before.erased_count, before.erased.len()), (0, 0));
    let shown = journal.read(Filter::default()).await.expect("read");
    assert_eq!(shown[1].event, Event::BodyErased { original: "message_delivered".into() });
}
