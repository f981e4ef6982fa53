//! What was acknowledged survives `kill -9` at any instant, and a second process is kept out.
//!
//! The test starts this very binary again as a child that appends from several tasks and prints the number
//! and id of every entry after it was acknowledged. It is killed after a random line, with commits in
//! flight.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use aaos_core::event::{Event, NewEntry};
use aaos_core::quantity::Timestamp;
use aaos_journal::{Filter, Journal, JournalConfig, JournalError, JournalFile};

const CHILD: &str = "AAOS_JOURNAL_TEST_CHILD";
const ROUNDS: usize = 6;
const TASKS: usize = 8;
/// Kill after at most this many acknowledged entries of a round.
const LONGEST_ROUND: u16 = 400;

fn entry(text: String) -> NewEntry {
    NewEntry {
        timestamp: Timestamp(1_000),
        goal_id: None,
        agent_id: None,
        trace_id: None,
        parent_event: None,
        event: Event::MessageDelivered { message: text, from: None, under: None },
    }
}

fn open(path: &Path) -> Result<Journal, JournalError> {
    Journal::open(JournalConfig::at(path)).map(|(journal, _)| journal)
}

/// The child's part: does nothing unless the parent asked for it.
#[test]
#[expect(clippy::disallowed_methods, reason = "tells the child from the parent")]
fn child_appends() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let journal = open(Path::new(&path)).expect("the child opens");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("runtime");
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..TASKS).map(|task| tokio::spawn(append_for_ever(journal.clone(), task))).collect();
        for task in tasks {
            task.await.expect("runs until it is killed");
        }
    });
}

async fn append_for_ever(journal: Journal, task: usize) {
    for number in 0_u64.. {
        let text =
            format!("{task} {number} {}", "x".repeat(usize::try_from(number % 7).expect("small") * 900));
        let stored = if number % 5 == 0 {
            let pair = vec![entry(text.clone()), entry(text)];
            journal.record_all(pair).await.expect("recorded").pop().expect("two")
        } else {
            journal.record(entry(text)).await.expect("recorded")
        };
        // One write of one short line, so that the parent sees whole lines but for the last.
        let line = format!("ack {} {}\n", stored.seq, stored.id);
        std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
    }
}

#[expect(clippy::disallowed_methods, reason = "the test starts itself again, to be killed")]
fn start_child(path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_appends", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts")
}

fn random_round() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("random bytes");
    1 + u16::from_le_bytes(bytes) % LONGEST_ROUND
}

/// Runs one child until it is killed; adds what it acknowledged.
fn round(path: &Path, acknowledged: &mut BTreeMap<u64, String>) {
    let mut child = start_child(path);
    let lines = BufReader::new(child.stdout.take().expect("piped")).split(b'\n');
    let kill_after = random_round();
    let mut seen = 0;
    for line in lines {
        let line = String::from_utf8(line.expect("read")).expect("text");
        // The harness prints before it, without a line's end.
        let Some((_, ack)) = line.split_once("ack ") else { continue };
        let Some((seq, id)) = ack.split_once(' ').filter(|(_, id)| id.len() == 36) else { continue };
        acknowledged.insert(seq.parse().expect("a number"), id.to_owned());
        seen += 1;
        if seen == 1 {
            let refused = open(path).expect_err("the child holds it");
            assert!(matches!(refused, JournalError::AlreadyOpen { .. }), "{refused:?}");
        }
        if seen == kill_after {
            child.kill().expect("killed");
        }
    }
    assert!(seen >= kill_after, "the child ran until it was killed");
    assert!(!child.wait().expect("reaped").success());
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("journal.db");
    let mut acknowledged = BTreeMap::new();
    for number in 0..ROUNDS {
        round(&path, &mut acknowledged);
        let offline = JournalFile::open(&path).expect("opens for reading, as the kill left it");
        assert!(offline.verify(None).expect("walks").is_intact());
        drop(offline);
        let journal = open(&path).expect("opens after a kill; the lock went with the process");
        let report = journal.verify().await.expect("walks");
        assert!(report.is_intact(), "round {number}: {report:?}");
        let mut after = Filter::default();
        let mut stored = BTreeMap::new();
        loop {
            let entries = journal.read(after).await.expect("read");
            let Some(last) = entries.last() else { break };
            after = Filter::after(last.seq);
            stored.extend(entries.iter().map(|entry| (entry.seq.0, entry.id.to_string())));
        }
        assert_eq!(stored.len() as u64, report.entries);
        for (seq, id) in &acknowledged {
            assert_eq!(stored.get(seq), Some(id), "round {number}: entry {seq} was acknowledged");
        }
        journal.close().await.expect("closes");
    }
    assert!(acknowledged.len() >= ROUNDS);
}
