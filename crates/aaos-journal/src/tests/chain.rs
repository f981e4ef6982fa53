//! Changes made to the file behind the journal's back.

use std::path::Path;

use aaos_core::event::{EVENT_KINDS, Event, NewEntry};
use aaos_core::id::{GrantId, Seq};
use rusqlite::Connection;
use uuid::Uuid;

use super::{directory, of_no_effect, open, path_in, saying, try_open, written};
use crate::journal::prepare;
use crate::store;
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
async fn an_erased_body_that_no_state_rests_on_is_reported_and_breaks_nothing() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    journal.record_all(vec![saying("one"), of_no_effect("secret"), saying("three")]).await.expect("recorded");
    journal.close().await.expect("closes");
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
    assert_eq!(shown[1].event, Event::BodyErased { original: "audit_stdout_stopped".into() });
}

/// Kinds that no restart goes by.
const OF_NO_EFFECT: [&str; 18] = [
    "daemon_stopped",
    "agent_loop_started",
    "agent_loop_stopped",
    "message_sent",
    "tool_repeat_guard_fired",
    "denials_suppressed",
    "usage_reported",
    "budget_exceeded",
    "overdraft",
    "child_retried",
    "model_climbed",
    "worker_started",
    "confinement_receipt",
    "confinement_degraded",
    "worker_stopped",
    "network_fetched",
    "workspace_removed",
    "audit_stdout_stopped",
];

#[tokio::test]
async fn an_erased_body_that_the_state_rests_on_breaks_the_chain() {
    for kind in EVENT_KINDS.iter().chain(&["of_a_later_version"]) {
        let directory = directory();
        let path = path_in(&directory);
        written(&path, &["one"]).await;
        let tip = verify(&path, None).head;
        let mut entry = prepare(&saying("two")).expect("prepared");
        entry.header.kind = (*kind).to_owned();
        let mut connection = Connection::open(&path).expect("opens");
        let transaction = connection.transaction().expect("begun");
        store::insert(&transaction, tip, &entry).expect("inserted");
        transaction.commit().expect("committed");
        assert_eq!(verify(&path, None).broken, None, "control: {kind} with its body");
        connection.execute("UPDATE entries SET body = NULL, salt = NULL WHERE seq = 2", []).expect("erased");
        drop(connection);
        let found = verify(&path, None).broken;
        let opened = open_and_close(&path).await;
        if OF_NO_EFFECT.contains(kind) {
            assert_eq!(found, None, "{kind}");
            opened.expect("nothing rests on it");
            continue;
        }
        let expected = Broken { seq: Seq(2), problem: Problem::Erased };
        assert_eq!(found.as_ref(), Some(&expected), "{kind}");
        assert!(
            matches!(&opened, Err(JournalError::Broken { broken }) if *broken == expected),
            "{kind}: {opened:?}"
        );
    }
}

#[tokio::test]
async fn an_erased_revocation_brings_no_grant_back() {
    let directory = directory();
    let path = path_in(&directory);
    let grant = GrantId::from_uuid(Uuid::from_u128(5));
    let event = Event::CapabilityRevoked { grant, principal: 0, ended: vec![grant], cut: Vec::new() };
    let journal = open(&path);
    journal.record(NewEntry { event, ..saying("") }).await.expect("recorded");
    journal.close().await.expect("closes");
    open_and_close(&path).await.expect("control: it opens");
    Connection::open(&path)
        .expect("opens")
        .execute("UPDATE entries SET body = NULL, salt = NULL WHERE kind = 'capability_revoked'", [])
        .expect("erased");
    let refused = open_and_close(&path).await.expect_err("what it took away would be back");
    assert!(refused.to_string().contains("entry 1 lost its body"), "{refused}");
}
