//! Archiving: what is needed stays, what goes lies in an archive, and the chain goes on.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aaos_core::event::{Event, ForkPoint, KeptKey, NewEntry};
use aaos_core::id::{AgentId, GoalId, GrantId, Seq};
use aaos_core::limits::{CLIENT_KEY_KEPT_MS, HEAD_EVERY, PRUNE_STEP};
use aaos_core::quantity::Timestamp;
use aaos_core::state::{AgentRecord, GoalRecord, GrantState, State};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rusqlite::Connection;
use uuid::Uuid;

use super::fold::{entry, grown};
use super::{directory, open, path_in, saying, try_open, written};
use crate::{
    Broken, Filter, Head, HeadCheck, Held, Holder, JournalError, JournalFile, Problem, Pruned, verify_file,
};
use crate::{fold, store};

const CASES: u32 = 24;
const ALL: Timestamp = Timestamp(u64::MAX);
/// When it is archived.
const NOW: Timestamp = Timestamp(40);

/// What goes on after a restart.
fn alive(state: &State) -> (Vec<&AgentRecord>, Vec<&GoalRecord>, Vec<&GrantState>, BTreeSet<GrantId>) {
    let held = |grant: &&GrantState| state.agents.get(&grant.record.agent).is_some_and(AgentRecord::is_alive);
    let grants = state.grants.values().filter(held).collect();
    (state.alive().collect(), state.open_goals().collect(), grants, state.grants_in_force())
}

/// Leaves out what no runtime records: the same agent, goal or grant twice, and a child before its parent.
fn plausible(batches: Vec<Vec<NewEntry>>) -> Vec<Vec<NewEntry>> {
    let mut agents: BTreeSet<AgentId> = BTreeSet::new();
    let mut goals: BTreeSet<GoalId> = BTreeSet::new();
    let mut grants: BTreeSet<GrantId> = BTreeSet::new();
    let mut may_be = |entry: &NewEntry| match &entry.event {
        Event::AgentSpawned { parent, .. } => {
            let known = parent.is_none_or(|parent| agents.contains(&parent));
            known && entry.agent_id.is_some_and(|agent| agents.insert(agent))
        }
        Event::GoalAccepted { .. } => entry.goal_id.is_some_and(|goal| goals.insert(goal)),
        Event::CapabilityGranted { grant } => {
            let known = grant.parent.is_none_or(|parent| grants.contains(&parent));
            known && agents.contains(&grant.agent) && grants.insert(grant.id)
        }
        _ => true,
    };
    batches.into_iter().map(|batch| batch.into_iter().filter(|entry| may_be(entry)).collect()).collect()
}

/// Every entry from the first on: the archives', then the database's. Verifies all of them.
fn stored(database: &Path, pruned: &Pruned) -> u64 {
    let mut head = Head::EMPTY;
    let mut entries = 0;
    for archive in &pruned.archives {
        let report = verify_file(archive, None).expect("read").chain;
        assert!(report.is_intact() && report.after == head, "{report:?}");
        assert_eq!(report.signed, Some(report.head), "an archive is signed to its end");
        (head, entries) = (report.head, entries + report.entries);
    }
    let report = JournalFile::open(database).expect("opens").verify(None).expect("walks");
    assert!(report.is_intact() && report.after == head, "{report:?}");
    assert_eq!(entries, pruned.entries);
    entries + report.entries
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn what_is_left_folds_to_the_same_for_all_that_goes_on(
        batches in proptest::collection::vec(proptest::collection::vec(entry(), 0..12), 1..8),
        before in prop_oneof![Just(ALL), (0_u64..1_000_000).prop_map(Timestamp)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let directory = directory();
        let path = path_in(&directory);
        let states = runtime.block_on(grown(&path, plausible(batches)));
        let whole = &states[states.len() - 1];
        let (journal, _) = try_open(&path).expect("opens");
        let pruned = runtime.block_on(journal.prune(before, whole.latest)).expect("pruned");
        runtime.block_on(journal.close()).expect("closes");
        // Each archive is told of.
        let seq = Seq(whole.seq.0 + pruned.archives.len() as u64);
        prop_assert_eq!(stored(&path, &pruned), seq.0);
        let (journal, left) = try_open(&path).expect("opens");
        prop_assert_eq!(alive(&left), alive(whole));
        prop_assert_eq!(
            (&left.pending, &left.questions, &left.approved, left.seq, left.latest),
            (&whole.pending, &whole.questions, &whole.approved, seq, whole.latest)
        );
        runtime.block_on(journal.close()).expect("closes");
    }
}

/// Some entry that this fits.
fn sample(fits: impl Fn(&NewEntry) -> bool) -> NewEntry {
    let mut runner = TestRunner::deterministic();
    loop {
        let made = entry().new_tree(&mut runner).expect("an entry").current();
        if fits(&made) {
            return made;
        }
    }
}

/// An entry that opens a goal, and the goal.
fn accepted() -> (NewEntry, GoalId) {
    let fits = |made: &NewEntry| matches!(made.event, Event::GoalAccepted { .. }) && made.goal_id.is_some();
    let made = sample(fits);
    let goal = made.goal_id.expect("it has one");
    (NewEntry { timestamp: Timestamp(5), ..made }, goal)
}

/// An entry of an agent outside every goal.
fn of_agent(number: u128, made: NewEntry) -> NewEntry {
    let agent_id = Some(AgentId::from_uuid(Uuid::from_u128(number)));
    NewEntry { timestamp: Timestamp(1), goal_id: None, trace_id: None, agent_id, ..made }
}

fn spawned(number: u128, of: Option<u128>) -> NewEntry {
    let mut made = of_agent(number, sample(|made| matches!(made.event, Event::AgentSpawned { .. })));
    if let Event::AgentSpawned { parent, .. } = &mut made.event {
        *parent = of.map(|number| AgentId::from_uuid(Uuid::from_u128(number)));
    }
    made
}

fn granted(number: u128, id: u128, from: Option<u128>) -> NewEntry {
    let mut made = of_agent(number, sample(|made| matches!(made.event, Event::CapabilityGranted { .. })));
    if let Event::CapabilityGranted { grant } = &mut made.event {
        grant.agent = AgentId::from_uuid(Uuid::from_u128(number));
        grant.id = GrantId::from_uuid(Uuid::from_u128(id));
        grant.parent = from.map(|id| GrantId::from_uuid(Uuid::from_u128(id)));
    }
    made
}

fn stopped(number: u128) -> NewEntry {
    of_agent(number, sample(|made| matches!(made.event, Event::AgentStopped { .. })))
}

/// What holds entries back when everything is old enough.
async fn held_by(entries: Vec<NewEntry>) -> Option<Held> {
    let directory = directory();
    let journal = open(&path_in(&directory));
    journal
        .record_all([vec![saying("first")], entries, vec![saying("last")]].concat())
        .await
        .expect("recorded");
    journal.prune(ALL, NOW).await.expect("pruned").held
}

#[tokio::test]
async fn an_agent_alive_needs_those_whom_its_purse_and_its_grants_come_from() {
    let agent = |number| Holder::Agent(AgentId::from_uuid(Uuid::from_u128(number)));
    let held = |number| Some(Held { since: Seq(2), by: agent(number) });
    assert_eq!(
        held_by(vec![spawned(1, None), stopped(1)]).await,
        None,
        "the control: who stopped needs nothing"
    );
    assert_eq!(held_by(vec![spawned(2, None)]).await, held(2));
    let child = vec![spawned(1, None), spawned(2, Some(1)), stopped(1)];
    assert_eq!(held_by(child).await, held(1), "its parent stopped, and is charged with it all the same");
    let derived =
        vec![spawned(1, None), granted(1, 5, None), spawned(2, None), granted(2, 6, Some(5)), stopped(1)];
    assert_eq!(held_by(derived).await, held(1), "whoever revokes the grant above takes its own");
    let apart =
        vec![spawned(1, None), granted(1, 5, None), stopped(1), spawned(2, None), granted(2, 6, None)];
    assert_eq!(held_by(apart).await, Some(Held { since: Seq(5), by: agent(2) }), "the control: on its own");
}

#[tokio::test]
async fn a_fork_that_is_open_needs_the_goals_that_it_was_forked_from() {
    let of_goal = |number: u128, made: NewEntry| NewEntry {
        timestamp: Timestamp(1),
        goal_id: Some(GoalId::from_uuid(Uuid::from_u128(number))),
        ..made
    };
    let goal = |number| of_goal(number, accepted().0);
    let over = |number| of_goal(number, sample(|made| matches!(made.event, Event::GoalFinished { .. })));
    let forked = |number: u128, source: u128, first: Option<u128>| {
        let point = |number| GoalId::from_uuid(Uuid::from_u128(number));
        let mut made = of_goal(number, sample(|made| matches!(made.event, Event::GoalForked { .. })));
        if let Event::GoalForked { from, root, earlier, .. } = &mut made.event {
            *from = point(source);
            let (root, at) = (*root, Seq(2));
            *earlier = first.map(|first| ForkPoint { goal: point(first), root, at }).into_iter().collect();
        }
        made
    };
    let held = |since, number| {
        Some(Held { since: Seq(since), by: Holder::Goal(GoalId::from_uuid(Uuid::from_u128(number))) })
    };
    assert_eq!(held_by(vec![goal(7), over(7), goal(8)]).await, held(4, 8), "the control: a goal of its own");
    assert_eq!(held_by(vec![goal(7), over(7), goal(8), forked(8, 7, None)]).await, held(2, 7));
    let again = vec![goal(7), over(7), goal(8), forked(8, 7, None), over(8), goal(9), forked(9, 8, Some(7))];
    assert_eq!(held_by(again.clone()).await, held(2, 7), "a fork of a fork needs both");
    assert_eq!(held_by([again, vec![over(9)]].concat()).await, None, "and nothing once it is over");
}

#[tokio::test]
async fn a_client_key_is_known_for_a_week_after_its_goals_end() {
    let directory = directory();
    let path = path_in(&directory);
    let (mut accepted, goal) = accepted();
    let Event::GoalAccepted { client_key, .. } = &mut accepted.event else { panic!("a goal") };
    *client_key = Some("key".to_owned());
    let finished = sample(|made| matches!(made.event, Event::GoalFinished { .. }));
    let finished = NewEntry { goal_id: Some(goal), timestamp: Timestamp(1_000), ..finished };
    let later = |later: u64| NewEntry { timestamp: Timestamp(1_000 + later), ..saying("later") };
    let journal = open(&path);
    journal.record_all(vec![accepted, finished, later(0)]).await.expect("recorded");
    let kept = KeptKey { principal: 0, key: "key".to_owned(), goal, ended: Timestamp(1_000) };
    let cases =
        [(0, vec![kept.clone()]), (CLIENT_KEY_KEPT_MS - 1, vec![kept]), (CLIENT_KEY_KEPT_MS, Vec::new())];
    for (passed, expected) in cases {
        journal.record(later(passed)).await.expect("recorded");
        let pruned = journal.prune(ALL, Timestamp(1_000 + passed)).await.expect("pruned");
        assert_eq!((pruned.held, pruned.archives.len()), (None, 1), "it holds nothing back");
        let left = fold::fold(&store::open_reader(&path).expect("opens"), None).expect("folds").state;
        assert!(left.goals.is_empty(), "control: the goal itself is archived");
        assert_eq!(left.kept_keys, expected, "{passed}");
    }
}

#[tokio::test]
async fn the_age_and_what_is_needed_bound_what_is_archived() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let at = |at, text: &str| NewEntry { timestamp: Timestamp(at), ..saying(text) };
    journal.record_all(vec![at(1, "a"), at(2, "b"), at(30, "c"), at(4, "d")]).await.expect("recorded");
    let young = journal.prune(Timestamp(1), NOW).await.expect("nothing to do");
    assert_eq!((young.entries, young.through, young.held), (0, Seq(0), None));
    assert!(!directory.path().join("archive").exists());
    let some = journal.prune(Timestamp(30), NOW).await.expect("pruned");
    assert_eq!(
        (some.entries, some.through, some.held),
        (2, Seq(2), None),
        "what follows a young entry stays"
    );
    assert_eq!(some.archives, [directory.path().join("archive/journal-1-2.jsonl")]);

    let (accepted, goal) = accepted();
    journal.record_all(vec![accepted, at(6, "e"), at(7, "f")]).await.expect("recorded");
    let held = journal.prune(ALL, NOW).await.expect("pruned");
    assert_eq!((held.entries, held.through), (3, Seq(5)), "also what told of the first archive");
    assert_eq!(held.held, Some(Held { since: Seq(6), by: Holder::Goal(goal) }));
    journal.close().await.expect("closes");
    let (journal, state) = try_open(&path).expect("opens");
    assert_eq!((state.seq, state.latest, state.goals.len()), (Seq(9), NOW, 1), "the latest is kept");
    assert!(journal.prune(ALL, NOW).await.expect("nothing to do").archives.is_empty());
}

#[tokio::test]
async fn a_shortened_journal_goes_on_and_says_where_it_begins() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let many = usize::try_from(HEAD_EVERY).expect("few") + 10;
    let recorded = journal.record_all(vec![saying("more"); many]).await.expect("recorded");
    let before = journal.verify().await.expect("walks");
    let pruned = journal.prune(ALL, NOW).await.expect("pruned");
    assert_eq!(pruned.entries, many as u64 - 1, "the last entry stays");
    assert_eq!(stored(&path, &pruned), many as u64 + 1);
    let left = journal.read(Filter::default()).await.expect("read");
    assert_eq!(left[0], recorded[many - 1], "with the hash of the entry before");
    assert_eq!((left.len(), left[1].seq.0, left[1].timestamp), (2, many as u64 + 1, NOW));
    let archive = format!("journal-1-{}.jsonl", many - 1);
    let head = format!("{}:{}", many - 1, recorded[many - 2].hash);
    let told = Event::JournalPruned {
        through: Seq(many as u64 - 1),
        entries: many as u64 - 1,
        head,
        archive,
        client_keys: Vec::new(),
    };
    assert_eq!(left[1].event, told);
    assert!(
        journal.prune(ALL, NOW).await.expect("pruned").archives.is_empty(),
        "what tells of it stays, too"
    );
    let next = journal.record(saying("next")).await.expect("recorded");
    assert_eq!((next.seq.0, &next.prev_hash), (many as u64 + 2, &left[1].hash));

    let known = journal.verify_against(Some(before.head).into()).await.expect("walks");
    assert_eq!(known.expected, HeadCheck::Found);
    let early: Head = format!("1:{}", recorded[0].hash).parse().expect("a head");
    let archived = journal.verify_against(Some(early).into()).await.expect("walks");
    assert_eq!((archived.expected, archived.is_intact()), (HeadCheck::Archived, false));
    assert!(verify_file(&pruned.archives[0], Some(early)).expect("read").chain.is_intact(), "it lies there");

    let gone = journal.read(Filter::after(Seq(3))).await.expect_err("its successors are archived");
    let JournalError::Archived { after: Seq(3), through, archive: Some(archive) } = &gone else {
        panic!("{gone:?}");
    };
    assert_eq!((through, archive), (&pruned.through, &pruned.archives[0]));
    assert!(gone.to_string().contains(&archive.display().to_string()), "{gone}");
    let last = journal.read(Filter::after(pruned.through)).await.expect("control: nothing is missed");
    assert_eq!(last.len(), 3);
    std::fs::rename(&pruned.archives[0], directory.path().join("elsewhere")).expect("moved");
    let gone = journal.read(Filter::after(Seq(3))).await.expect_err("still archived");
    assert!(matches!(gone, JournalError::Archived { archive: None, .. }), "{gone:?}");
    let second = directory.path().join("export.jsonl");
    let exported = JournalFile::open(&path).expect("opens").export(&second).expect("exported");
    assert_eq!(verify_file(&second, None).expect("read").chain.after, exported.after);
    journal.close().await.expect("closes");
    assert_eq!(*open(&path).head().borrow(), Seq(many as u64 + 2));
}

#[tokio::test]
async fn a_file_with_an_archives_name_is_kept() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let recorded = vec![saying("one"), super::of_no_effect("two"), saying("three")];
    journal.record_all(recorded).await.expect("recorded");
    journal.close().await.expect("closes");
    let archive = directory.path().join("archive");
    std::fs::create_dir(&archive).expect("made");
    let first = archive.join("journal-1-2.jsonl");
    // As a kill between archive and cut leaves it.
    let before = directory.path().join("before.db");
    std::fs::copy(&path, &before).expect("copied");
    let journal = open(&path);
    assert_eq!(journal.prune(ALL, NOW).await.expect("pruned").archives.first(), Some(&first));
    journal.close().await.expect("closes");
    let inode = |path: &Path| std::fs::metadata(path).expect("there").ino();
    let again = || {
        for end in ["db-wal", "db-shm"] {
            std::fs::remove_file(path.with_extension(end)).ok();
        }
        std::fs::copy(&before, &path).expect("put back");
        open(&path)
    };
    let written = inode(&first);
    let journal = again();
    assert_eq!(journal.prune(ALL, NOW).await.expect("pruned").archives.first(), Some(&first), "it is used");
    journal.close().await.expect("closes");
    assert_eq!(inode(&first), written);

    let good = std::fs::read_to_string(&first).expect("read");
    let erased = good.lines().map(|line| match line.contains("audit_stdout_stopped") {
        true => {
            let (head, rest) = line.split_once(r#""salt":"#).expect("a salt");
            let (_, hashes) = rest.split_once(r#""body_hash""#).expect("a hash");
            format!("{head}\"salt\":null,\"body\":null,\"body_hash\"{hashes}\n")
        }
        false => format!("{line}\n"),
    });
    let erased: String = erased.collect();
    assert!(erased != good);
    let unsealed =
        good.lines().filter(|line| !line.starts_with(r#"{"head""#)).map(|line| format!("{line}\n"));
    let others = ["the only copy of something".to_owned(), erased, unsealed.collect(), String::new()];
    for other in others {
        for end in ["db-wal", "db-shm"] {
            std::fs::remove_file(path.with_extension(end)).ok();
        }
        std::fs::write(&first, &other).expect("written");
        let journal = again();
        let pruned = journal.prune(ALL, NOW).await.expect("pruned");
        journal.close().await.expect("closes");
        assert_eq!(pruned.archives, [archive.join("journal-1-2.2.jsonl")], "{other}");
        assert_eq!(stored(&path, &pruned), 4, "and it is told of");
        assert_eq!(crate::retain::archive_with(&path, Seq(2)), Some(pruned.archives[0].clone()));
        assert_eq!(std::fs::read_to_string(&first).expect("read"), other, "it is kept");
    }
}

#[tokio::test]
async fn an_anchor_cannot_be_forged() {
    let cases = [
        ("UPDATE anchor SET hash = randomblob(32)", 2, Problem::Signature),
        ("UPDATE anchor SET latest = latest - 1", 2, Problem::Signature),
        ("UPDATE anchor SET key = x''", 0, Problem::Signature),
        ("DELETE FROM entries WHERE seq = 3", 3, Problem::Missing),
        ("DELETE FROM entries WHERE seq = 3; UPDATE anchor SET seq = 3", 3, Problem::Signature),
        ("DELETE FROM anchor", 1, Problem::Missing),
        ("INSERT INTO entries SELECT 1, id, timestamp, goal, agent, trace, parent, kind, body, salt, body_hash,
          hash FROM entries WHERE seq = 3", 3, Problem::Missing),
    ];
    for (sql, seq, problem) in cases {
        let directory = directory();
        let path = path_in(&directory);
        written(&path, &["one", "two"]).await;
        let journal = open(&path);
        let late = NewEntry { timestamp: Timestamp(5_000), ..saying("three") };
        journal.record_all(vec![late.clone(), late]).await.expect("recorded");
        assert_eq!(journal.prune(Timestamp(5_000), NOW).await.expect("pruned").entries, 2);
        journal.close().await.expect("closes");
        open(&path).close().await.expect("control: it opens");
        Connection::open(&path).expect("opens").execute_batch(sql).expect("valid SQL");
        let expected = Broken { seq: Seq(seq), problem };
        match try_open(&path) {
            Err(JournalError::Broken { broken }) => assert_eq!(broken, expected, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_archived_or_removed_stays() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    journal.record_all(vec![saying("one"), saying("two")]).await.expect("recorded");
    let blocked = directory.path().join("archive");
    std::fs::write(&blocked, "no directory").expect("written");
    let refused = journal.prune(ALL, NOW).await.expect_err("no archive, no removal");
    assert!(matches!(refused, JournalError::Files { .. }), "{refused:?}");
    assert_eq!(journal.read(Filter::default()).await.expect("read").len(), 2);
    journal.record(saying("three")).await.expect("and nothing is wrong with the journal");
    std::fs::remove_file(&blocked).expect("removed");

    journal.hook(|connection| connection.pragma_update(None, "query_only", true).expect("no more writing"));
    let failed = journal.prune(ALL, NOW).await.expect_err("archived, not removed");
    assert!(matches!(failed, JournalError::Database { .. }), "{failed:?}");
    let poisoned = journal.record(saying("later")).await.expect_err("as after a failed commit");
    assert!(matches!(poisoned, JournalError::Poisoned { .. }));
    assert!(journal.close().await.is_err());
    assert!(blocked.join("journal-1-2.jsonl").exists());

    let journal = open(&path);
    assert_eq!(journal.read(Filter::default()).await.expect("read").len(), 3, "both have it");
    let pruned = journal.prune(ALL, NOW).await.expect("pruned");
    assert_eq!((pruned.entries, stored(&path, &pruned)), (2, 4), "and again, and told of");
}

#[tokio::test]
async fn long_histories_are_archived_in_steps() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let batch = 4_000;
    let total = PRUNE_STEP + batch;
    for _ in 0..total / batch {
        let many = vec![saying(""); usize::try_from(batch).expect("few")];
        journal.record_all(many).await.expect("recorded");
    }
    let pruned = journal.prune(ALL, NOW).await.expect("pruned");
    assert_eq!((pruned.archives.len(), pruned.entries), (2, total - 1));
    assert_eq!(stored(&path, &pruned), total + 2, "each archive is told of");
}
