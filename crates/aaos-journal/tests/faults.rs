//! A disk that fails, and a stop at any system call: run under `strace`, which injects both.
//!
//! The test starts this very binary again as a child below `strace` (`.ci/run` installs it). The child appends and
//! prints what was acknowledged and what was refused. Swept over the number of the call that fails, until none does,
//! which is the control.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aaos_core::event::{Event, NewEntry};
use aaos_core::quantity::Timestamp;
use aaos_journal::{Filter, Head, Journal, JournalConfig, JournalError, JournalFile, verify_file};

const CHILD: &str = "AAOS_JOURNAL_FAULT_CHILD";
/// Entries that the child appends; every fifth is so long that the log is checkpointed in between.
const ENTRIES: usize = 30;
const LONG: usize = 1_000_000;
/// Entries that are there before the child archives them.
const ARCHIVED: usize = 150;

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

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime")
}

fn kind(error: &JournalError) -> String {
    match error {
        JournalError::Files { .. } => "files".into(),
        JournalError::DiskFull { .. } => "full".into(),
        JournalError::Database { .. } => "database".into(),
        JournalError::Corrupt { .. } => "corrupt".into(),
        JournalError::Poisoned { source } => format!("poisoned-{}", kind(source)),
        other => format!("other-{other:?}"),
    }
}

/// A line for the parent, on a line of its own.
fn say(line: &str) {
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).expect("the parent reads");
}

#[expect(clippy::disallowed_methods, reason = "tells the child from the parent")]
fn told() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// The child that appends: does nothing unless the parent asked for it.
#[test]
fn child_appends() {
    let Some(path) = told() else { return };
    let journal = match Journal::open(JournalConfig::at(&path)) {
        Ok((journal, _)) => journal,
        Err(error) => return say(&format!("unopened {}", kind(&error))),
    };
    runtime().block_on(async {
        for number in 0..ENTRIES {
            let length = if number % 5 == 4 { LONG } else { 10 };
            match journal.record(entry("x".repeat(length))).await {
                Ok(stored) => say(&format!("ack {} {}", stored.seq, stored.id)),
                // It goes on asking, as a daemon's other tasks would.
                Err(error) => say(&format!("refused {}", kind(&error))),
            }
        }
        match journal.close().await {
            Ok(()) => say("closed"),
            Err(error) => say(&format!("unclosed {}", kind(&error))),
        }
    });
}

/// The child that archives: does nothing unless the parent asked for it.
#[test]
fn child_archives() {
    let Some(path) = told() else { return };
    let (journal, _) = Journal::open(JournalConfig::at(&path)).expect("opens");
    let pruned = runtime().block_on(journal.prune(Timestamp(u64::MAX), Timestamp(0))).expect("archived");
    say(&format!("archived {}", pruned.entries));
    runtime().block_on(journal.close()).expect("closes");
}

/// Runs a child on a journal with this fault.
#[expect(clippy::disallowed_methods, reason = "the test starts itself again, below strace")]
fn run(child: &str, path: &Path, call: &str, fault: &str) -> Output {
    let own = std::env::current_exe().expect("own path");
    Command::new("strace")
        .args(["-f", "-qqq", "--seccomp-bpf", "-e", &format!("trace={call}"), "-o"])
        .arg(path.with_extension("trace"))
        .args(["-e", &format!("inject={call}:{fault}"), "--"])
        .arg(own)
        .args(["--exact", child, "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .output()
        .expect("strace is installed")
}

/// What the child said, line by line.
fn said(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = ["ack ", "refused ", "unopened ", "closed", "unclosed ", "archived "];
    let lines = text.lines().filter(|line| words.iter().any(|word| line.starts_with(word)));
    lines.map(str::to_owned).collect()
}

/// Every entry of a journal by number, and its verified chain.
fn stored(path: &Path) -> BTreeMap<u64, String> {
    runtime().block_on(async {
        let (journal, state) = Journal::open(JournalConfig::at(path)).expect("opens on a sound disk");
        assert!(journal.verify().await.expect("walks").is_intact());
        assert_eq!(*journal.head().borrow(), state.seq);
        let mut entries = BTreeMap::new();
        let mut filter = Filter::default();
        loop {
            let page = journal.read(filter).await.expect("read");
            let Some(last) = page.last() else { break };
            filter = Filter::after(last.seq);
            entries.extend(page.iter().map(|entry| (entry.seq.0, entry.id.to_string())));
        }
        journal.record(entry("after the repair".into())).await.expect("a sound disk takes entries again");
        journal.close().await.expect("closes");
        entries
    })
}

/// One run with a fault. Gives whether the fault came about.
fn fails_safely(call: &str, errno: &str, when: &str) -> bool {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("journal.db");
    let context = format!("{call} {errno} {when}");
    let output = run("child_appends", &path, call, &format!("error={errno}:when={when}"));
    assert!(output.status.success(), "{context}: a failing disk is no panic: {output:?}");
    let lines = said(&output);
    let typed = if errno == "ENOSPC" { ["full", "files"] } else { ["database", "files"] };
    if let [only] = lines.as_slice()
        && let Some(why) = only.strip_prefix("unopened ")
    {
        // The shared index of the log is extended here, whose failure SQLite tells as one of the disk.
        assert!(typed.contains(&why) || why == "database", "{context}: {why}");
        return true;
    }
    let acknowledged: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("ack ")).collect();
    let refused: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("refused ")).collect();
    assert_eq!(acknowledged.len() + refused.len(), ENTRIES, "{context}: every caller is answered: {lines:?}");
    assert!(
        lines[..acknowledged.len()].iter().all(|line| line.starts_with("ack ")),
        "{context}: after the first failure nothing is acknowledged: {lines:?}"
    );
    if let Some((first, later)) = refused.split_first() {
        assert!(typed.contains(first), "{context}: {first}");
        let poisoned = format!("poisoned-{first}");
        assert!(later.iter().all(|why| *why == poisoned), "{context}: {later:?}");
        assert_eq!(lines.last(), Some(&format!("unclosed {poisoned}")), "{context}");
    }
    let entries = stored(&path);
    for ack in &acknowledged {
        let (seq, id) = ack.split_once(' ').expect("a number and an id");
        let kept = entries.get(&seq.parse().expect("a number"));
        assert_eq!(kept.map(String::as_str), Some(id), "{context}: entry {seq} was acknowledged");
    }
    // A fault while the log is moved into the database is none: all of it is still in the log.
    let trace = fs::read_to_string(path.with_extension("trace")).expect("strace wrote it");
    let came = trace.contains("(INJECTED)");
    assert!(came || lines.last().is_some_and(|line| line == "closed"), "{context}: {lines:?}");
    came
}

/// Lets the first, second, third and then ever later calls fail, until none does.
fn sweep(call: &str, errno: &str, for_good: bool) {
    let mut when = 1_u32;
    let mut seen = 0;
    loop {
        let spelled = if for_good { format!("{when}+") } else { when.to_string() };
        if !fails_safely(call, errno, &spelled) {
            break;
        }
        seen += 1;
        when += 1 + when / 3;
    }
    assert!(seen >= 8, "{call} {errno}: only {seen} faults came about");
}

#[test]
fn without_a_fault_everything_is_acknowledged() {
    assert!(!fails_safely("fsync", "EIO", "60000"));
}

#[test]
fn a_sync_that_fails_once_ends_in_refusals() {
    sweep("fsync,fdatasync", "EIO", false);
}

#[test]
fn a_disk_that_never_syncs_again_ends_in_refusals() {
    sweep("fsync,fdatasync", "EIO", true);
}

#[test]
fn a_full_disk_ends_in_refusals() {
    sweep("pwrite64", "ENOSPC", true);
}

#[test]
fn a_write_that_fails_once_ends_in_refusals() {
    sweep("pwrite64", "EIO", false);
}

/// A closed journal to archive from.
fn full(path: &Path) -> Head {
    runtime().block_on(async {
        let (journal, _) = Journal::open(JournalConfig::at(path)).expect("opens");
        journal.record_all(vec![entry("old".into()); ARCHIVED]).await.expect("recorded");
        let head = journal.verify().await.expect("walks").head;
        journal.close().await.expect("closes");
        head
    })
}

/// Every entry lies in the journal or in an archive that verifies.
fn nothing_is_lost(path: &Path, head: Head, context: &str) {
    let report = JournalFile::open(path).expect("opens").verify(Some(head)).expect("walks");
    assert!(report.is_intact(), "{context}: {report:?}");
    let mut reach = Head::EMPTY;
    let archives = fs::read_dir(path.with_file_name("archive"));
    for archive in archives.into_iter().flatten() {
        let file = archive.expect("listed").path();
        if file.extension().is_some_and(|extension| extension == "jsonl") {
            let archived = verify_file(&file, None).expect("read").chain;
            assert!(archived.is_intact() && archived.after == Head::EMPTY, "{context}: {archived:?}");
            reach = archived.head;
        }
    }
    assert!(report.after == Head::EMPTY || report.after == reach, "{context}: {report:?}");
}

#[test]
fn a_stop_at_any_call_while_archiving_loses_nothing() {
    for call in ["pwrite64", "write", "fsync", "fdatasync", "renameat2", "mkdir", "unlink"] {
        let mut when = 1_u32;
        loop {
            let directory = tempfile::tempdir().expect("temporary directory");
            let path = directory.path().join("journal.db");
            let head = full(&path);
            let output = run("child_archives", &path, call, &format!("signal=KILL:when={when}"));
            let context = format!("{call} {when}");
            nothing_is_lost(&path, head, &context);
            runtime().block_on(async {
                let (journal, state) = Journal::open(JournalConfig::at(&path)).expect("opens");
                // The removal and the entry that tells of it are there together or not at all.
                let cut =
                    JournalFile::open(&path).expect("opens").verify(None).expect("walks").after.seq.0 > 0;
                assert_eq!(state.seq.0, head.seq.0 + u64::from(cut), "{context}");
                journal.prune(Timestamp(u64::MAX), Timestamp(0)).await.expect("and is archived after all");
                journal.close().await.expect("closes");
            });
            nothing_is_lost(&path, head, &context);
            if output.status.success() {
                assert_eq!(said(&output), [format!("archived {}", ARCHIVED - 1)], "{context}: the control");
                break;
            }
            when += 1 + when / 4;
        }
    }
}
