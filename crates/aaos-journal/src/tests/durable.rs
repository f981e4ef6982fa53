//! Commits: grouping, settings, bounds, failures, the lock.

use std::os::unix::fs::PermissionsExt as _;

use aaos_core::event::Event;
use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_core::limits::{JOURNAL_QUEUE, MAX_ENTRY_BYTES, MAX_READ_BYTES, MAX_RECORD_BATCH};
use rusqlite::Connection;
use uuid::Uuid;

use super::{directory, hold, open, path_in, saying, try_open, written};
use crate::store::SCHEMA_VERSION;
use crate::{Filter, JournalError, JournalFile};

#[tokio::test]
async fn entries_are_numbered_without_gaps_and_survive_a_reopen() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    assert_eq!(*journal.head().borrow(), Seq(0));
    let first = journal.record(saying("one")).await.expect("recorded");
    let more = journal.record_all(vec![saying("two"), saying("three")]).await.expect("recorded");
    assert_eq!(journal.record_all(Vec::new()).await.expect("nothing to do"), Vec::new());
    assert_eq!(*journal.head().borrow(), Seq(3));
    assert_eq!(first.prev_hash, "0".repeat(64));
    assert_eq!(more[0].prev_hash, first.hash);
    assert_eq!(more[1].prev_hash, more[0].hash);
    let stored = journal.read(Filter::default()).await.expect("read");
    assert_eq!(stored, [first, more[0].clone(), more[1].clone()]);
    journal.close().await.expect("closes");

    let journal = open(&path);
    let fourth = journal.record(saying("four")).await.expect("recorded");
    assert_eq!((fourth.seq, &fourth.prev_hash), (Seq(4), &more[1].hash));
    assert!(journal.verify().await.expect("walked").is_intact());
}

#[tokio::test]
async fn the_writing_connection_syncs_every_commit_and_the_files_are_private() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let (tell, told) = tokio::sync::oneshot::channel();
    journal.hook(move |connection| {
        let ask = |name| connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
        let synchronous: i64 =
            connection.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("pragma");
        tell.send((synchronous, ask("journal_mode").expect("pragma"))).expect("the test waits");
    });
    assert_eq!(told.await.expect("the hook ran"), (2, "wal".to_owned()));
    journal.record(saying("one")).await.expect("recorded");
    for suffix in ["journal.db", "journal.db-wal", "journal.lock"] {
        let mode = std::fs::metadata(directory.path().join(suffix)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn a_note_that_nobody_waits_for_reaches_the_disk_without_anything_behind_it() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let mut head = journal.head();
    journal.note(saying("alone")).expect("there is room");
    head.wait_for(|seq| *seq == Seq(1)).await.expect("the journal is open");
    assert_eq!(journal.stats().commits, 1);
}

#[tokio::test]
async fn what_is_queued_together_is_one_transaction() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    for _ in 0..20 {
        journal.record(saying("alone")).await.expect("recorded");
    }
    assert_eq!(journal.stats().commits, 20, "control: one by one, each is its own transaction");

    let release = hold(&journal).await;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let journal = journal.clone();
            tokio::spawn(async move { journal.record(saying("together")).await })
        })
        .collect();
    while journal.queued() < 20 {
        tokio::task::yield_now().await;
    }
    drop(release);
    let mut seqs = Vec::new();
    for task in tasks {
        seqs.push(task.await.expect("ran").expect("recorded").seq.0);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (21..=40).collect::<Vec<_>>());
    assert_eq!(journal.stats().commits, 21);
    assert_eq!(journal.stats().entries, 40);
}

#[tokio::test]
async fn nothing_is_acknowledged_or_published_before_the_commit() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let release = hold(&journal).await;
    let writing = tokio::spawn({
        let journal = journal.clone();
        async move { journal.record(saying("one")).await }
    });
    while journal.queued() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished());
    assert_eq!(*journal.head().borrow(), Seq(0));
    assert_eq!(journal.read(Filter::default()).await.expect("read"), []);
    drop(release);
    assert_eq!(writing.await.expect("ran").expect("recorded").seq, Seq(1));
    assert_eq!(*journal.head().borrow(), Seq(1));
}

#[tokio::test]
async fn a_full_queue_refuses_a_note_and_makes_a_record_wait() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let release = hold(&journal).await;
    for _ in 0..JOURNAL_QUEUE {
        journal.note(saying("noted")).expect("there is room");
    }
    let full = journal.note(saying("one too many")).expect_err("the queue is full");
    assert!(matches!(full, JournalError::QueueFull { limit: JOURNAL_QUEUE }), "{full:?}");
    let waiting = tokio::spawn({
        let journal = journal.clone();
        async move { journal.record(saying("patient")).await }
    });
    drop(release);
    let patient = waiting.await.expect("ran").expect("recorded");
    assert_eq!(
        patient.seq,
        Seq(JOURNAL_QUEUE as u64 + 1),
        "every accepted note is there, the refused is not"
    );
}

#[tokio::test]
async fn a_full_disk_is_typed_acknowledges_nothing_and_poisons() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let kept = journal.record(saying("kept")).await.expect("there is room");
    journal.hook(|connection| {
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("pragma");
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .expect("no page may be added");
    });
    let release = hold(&journal).await;
    let large = "x".repeat(100_000);
    let together = [saying("small"), saying(&large)].map(|entry| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.record(entry).await })
    });
    while journal.queued() < 2 {
        tokio::task::yield_now().await;
    }
    drop(release);
    for task in together {
        let error = task.await.expect("ran").expect_err("its transaction failed");
        assert!(matches!(error, JournalError::DiskFull { .. }), "{error:?}");
    }
    // Space is there again; the journal stays closed to new work all the same.
    let poisoned = journal.record(saying("later")).await.expect_err("poisoned");
    let JournalError::Poisoned { source } = poisoned else { panic!("{poisoned:?}") };
    assert!(matches!(*source, JournalError::DiskFull { .. }), "it names the first failure: {source:?}");
    assert!(matches!(journal.note(saying("later")), Err(JournalError::Poisoned { .. })));
    assert_eq!(*journal.head().borrow(), kept.seq);
    assert!(matches!(journal.close().await, Err(JournalError::Poisoned { .. })));

    let journal = open(&path);
    assert_eq!(journal.read(Filter::default()).await.expect("read"), [kept]);
    assert_eq!(journal.record(saying("again")).await.expect("the limit is gone").seq, Seq(2));
}

#[tokio::test]
async fn one_opener_at_a_time() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let second = try_open(&path).expect_err("it is open");
    assert!(matches!(second, JournalError::AlreadyOpen { .. }), "{second:?}");
    journal.close().await.expect("closes");
    open(&path);
}

#[tokio::test]
async fn a_closed_journal_says_so_and_dropping_the_last_handle_commits_what_is_queued() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let other = journal.clone();
    journal.note(saying("noted")).expect("queued");
    journal.close().await.expect("closes");
    assert!(matches!(other.record(saying("late")).await, Err(JournalError::Closed)));
    assert!(matches!(other.note(saying("late")), Err(JournalError::Closed)));

    let journal = open(&path);
    let mut head = journal.head();
    assert_eq!(*head.borrow(), Seq(1));
    journal.note(saying("noted")).expect("queued");
    drop(journal);
    while head.changed().await.is_ok() {}
    assert_eq!(*open(&path).head().borrow(), Seq(2));
}

#[tokio::test]
async fn a_schema_that_we_do_not_know_is_refused_and_left_alone() {
    let directory = directory();
    let path = path_in(&directory);
    written(&path, &["one"]).await;
    let mark = |version: i64| Connection::open(&path)?.pragma_update(None, "user_version", version);
    for other in [SCHEMA_VERSION + 1, SCHEMA_VERSION - 1] {
        mark(other).expect("marked");
        let refused = try_open(&path).expect_err("not our schema");
        let JournalError::UnknownSchema { found, known, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((found, known), (other, SCHEMA_VERSION), "older and newer alike");
        assert!(matches!(JournalFile::open(&path), Err(JournalError::UnknownSchema { .. })));
    }
    mark(SCHEMA_VERSION).expect("as it was");
    drop(open(&path));

    let foreign = directory.path().join("foreign.db");
    Connection::open(&foreign).expect("opens").execute_batch("CREATE TABLE theirs (a)").expect("made");
    let before = std::fs::read(&foreign).expect("read");
    assert!(matches!(try_open(&foreign), Err(JournalError::UnknownSchema { found: 0, .. })));
    assert_eq!(std::fs::read(&foreign).expect("read"), before);

    let text = directory.path().join("text.db");
    std::fs::write(&text, "This is no database, and it is longer than its header would be. ".repeat(40))
        .expect("written");
    assert!(matches!(try_open(&text), Err(JournalError::Corrupt { .. })));
    assert!(matches!(try_open(&directory.path().join("no/such.db")), Err(JournalError::Files { .. })));
}

#[tokio::test]
async fn reading_filters_and_is_bounded() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let goal = GoalId::from_uuid(Uuid::from_u128(1));
    let agent = AgentId::from_uuid(Uuid::from_u128(2));
    let mut ours = saying("ours");
    (ours.goal_id, ours.agent_id) = (Some(goal), Some(agent));
    let mut stopped = saying("");
    stopped.event = Event::DaemonStopped {};
    journal.record_all(vec![saying("1"), ours, stopped, saying("4")]).await.expect("recorded");
    let seqs = async |filter| -> Vec<u64> {
        journal.read(filter).await.expect("read").iter().map(|entry| entry.seq.0).collect()
    };
    assert_eq!(seqs(Filter::default()).await, [1, 2, 3, 4]);
    assert_eq!(seqs(Filter::after(Seq(2))).await, [3, 4]);
    assert_eq!(seqs(Filter::after(Seq(u64::MAX))).await, Vec::<u64>::new());
    assert_eq!(seqs(Filter { goal: Some(goal), ..Filter::default() }).await, [2]);
    assert_eq!(seqs(Filter { agent: Some(agent), ..Filter::default() }).await, [2]);
    let kinds = vec!["daemon_stopped".to_owned(), "x' OR 1 --".to_owned()];
    assert_eq!(seqs(Filter { kinds, ..Filter::default() }).await, [3]);
    assert_eq!(seqs(Filter { limit: 2, ..Filter::default() }).await, [1, 2]);

    let large = "x".repeat(MAX_READ_BYTES / 2 - 100);
    for _ in 0..3 {
        journal.record(saying(&large)).await.expect("recorded");
    }
    assert_eq!(seqs(Filter::after(Seq(4))).await, [5, 6], "two fit into one answer");
    assert_eq!(seqs(Filter::after(Seq(6))).await, [7]);
}

#[tokio::test]
async fn entries_and_batches_are_bounded() {
    let directory = directory();
    let journal = open(&path_in(&directory));
    let long = journal.record(saying(&"x".repeat(MAX_ENTRY_BYTES))).await.expect_err("too long");
    assert!(matches!(long, JournalError::EntryTooLarge { limit: MAX_ENTRY_BYTES, .. }));
    let many = journal.record_all(vec![saying(""); MAX_RECORD_BATCH + 1]).await.expect_err("too many");
    assert!(matches!(many, JournalError::BatchTooLarge { limit: MAX_RECORD_BATCH, .. }));
    let all = journal.record_all(vec![saying(""); MAX_RECORD_BATCH]).await.expect("as many as may be");
    assert_eq!((all.len(), journal.stats().commits), (MAX_RECORD_BATCH, 1));
}
