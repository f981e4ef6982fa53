//! The audit trail on standard output, printed into other sinks.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};

use aaos_core::event::{Entry, Event};
use aaos_core::id::Seq;
use aaos_core::limits::HEAD_EVERY;

use super::{directory, path_in, saying};
use crate::{Filter, Journal, JournalConfig, SignedHead};

/// Passes on what is written.
struct Sink(Sender<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes nothing until its gate opens.
struct Stuck(Receiver<()>, Sink);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Opened for good when the sender is gone.
        self.0.recv().ok();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &std::path::Path, audit_stdout: bool, sink: impl Write + Send + 'static) -> Journal {
    let config = JournalConfig { audit_stdout, ..JournalConfig::at(path) };
    Journal::open_printing_to(config, sink).expect("opens").0
}

/// What was printed: entries, and signed heads, each after its entry.
fn printed(lines: &Receiver<Vec<u8>>) -> (Vec<Entry>, Vec<SignedHead>) {
    let bytes: Vec<u8> = lines.iter().flatten().collect();
    let (mut entries, mut heads): (Vec<Entry>, Vec<SignedHead>) = (Vec::new(), Vec::new());
    for line in String::from_utf8(bytes).expect("UTF-8").lines() {
        if line.starts_with(r#"{"head":""#) {
            let signed: SignedHead = serde_json::from_str(line).expect("a signed head");
            assert!(signed.is_genuine());
            if let Some(last) = entries.last() {
                assert_eq!((signed.head.seq, signed.head.hash.to_string()), (last.seq, last.hash.clone()));
            }
            heads.push(signed);
        } else {
            entries.push(serde_json::from_str(line).expect("one entry in each line"));
        }
    }
    (entries, heads)
}

fn entries(lines: &Receiver<Vec<u8>>) -> Vec<Entry> {
    printed(lines).0
}

#[tokio::test]
async fn every_entry_from_the_start_on_is_one_line() {
    let directory = directory();
    let (sink, lines) = mpsc::channel();
    let journal = open(&path_in(&directory), true, Sink(sink));
    let mut recorded = journal.record_all(vec![saying("one\ntwo"), saying("three")]).await.expect("recorded");
    recorded.push(journal.record(saying("four")).await.expect("recorded"));
    journal.close().await.expect("closes");
    assert_eq!(entries(&lines), recorded);

    let (sink, lines) = mpsc::channel();
    let journal = open(&path_in(&directory), true, Sink(sink));
    let fifth = journal.record(saying("five")).await.expect("recorded");
    journal.close().await.expect("closes");
    assert_eq!(entries(&lines), [fifth], "what an earlier run printed is not printed again");

    let (sink, lines) = mpsc::channel();
    let journal = open(&path_in(&directory), false, Sink(sink));
    let sixth = journal.record(saying("six")).await.expect("recorded");
    journal.close().await.expect("closes");
    assert_eq!(entries(&lines), [], "control: off, nothing is printed");

    let (sink, lines) = mpsc::channel();
    open(&path_in(&directory), true, Sink(sink)).close().await.expect("closes");
    assert_eq!(entries(&lines), [sixth], "on again, it goes on after the last that was printed");
}

#[tokio::test]
async fn what_was_not_printed_at_the_end_is_printed_after_the_next_start() {
    let directory = directory();
    let (gate, gated) = mpsc::channel();
    let (sink, lines) = mpsc::channel();
    let journal = open(&path_in(&directory), true, Stuck(gated, Sink(sink)));
    let many = vec![saying("more"); usize::try_from(HEAD_EVERY).expect("few") + 1];
    let mut recorded = journal.record_all(many).await.expect("recorded");
    gate.send(()).expect("one line is taken");
    journal.close().await.expect("closes, though the output is stuck");
    let (again, rest) = mpsc::channel();
    let journal = open(&path_in(&directory), true, Sink(again));
    recorded.push(journal.record(saying("later")).await.expect("recorded"));
    journal.close().await.expect("closes");
    drop(gate);
    let (first, _) = printed(&lines);
    let (second, heads) = printed(&rest);
    let began = recorded.len() - second.len();
    assert!(second == recorded[began..] && began <= 1, "nothing is missing, at most one came before");
    assert!(!first.is_empty(), "the control: the first output was there");
    let seqs: Vec<_> = heads.iter().map(|signed| signed.head.seq.0).collect();
    assert_eq!(seqs, [HEAD_EVERY, HEAD_EVERY + 1, HEAD_EVERY + 2], "with its signed heads");
}

#[tokio::test]
async fn after_a_kill_nothing_is_missing_on_standard_output() {
    let (directory, copy) = (directory(), directory());
    let (path, killed) = (path_in(&directory), path_in(&copy));
    let (sink, lines) = mpsc::channel();
    let journal = open(&path, true, Sink(sink));
    let mut recorded = Vec::new();
    for _ in 0..2 {
        let many = vec![saying("more"); usize::try_from(HEAD_EVERY).expect("few") + 1];
        recorded.extend(journal.record_all(many).await.expect("recorded"));
    }
    for end in ["db", "db-wal", "key"] {
        std::fs::copy(path.with_extension(end), killed.with_extension(end)).expect("as a kill leaves it");
    }
    journal.close().await.expect("closes");
    assert_eq!(entries(&lines), recorded);
    let (sink, lines) = mpsc::channel();
    open(&killed, true, Sink(sink)).close().await.expect("closes");
    let again = entries(&lines);
    assert!(recorded.ends_with(&again), "what is printed again is the end, without a gap");
}

#[tokio::test]
async fn a_broken_output_is_journalled_once_and_the_journal_goes_on() {
    let directory = directory();
    let (sink, lines) = mpsc::channel();
    drop(lines);
    let journal = open(&path_in(&directory), true, Sink(sink));
    let mut head = journal.head();
    journal.record(saying("one")).await.expect("recorded");
    head.wait_for(|seq| *seq >= Seq(2)).await.expect("the loss is noted");
    for _ in 0..10 {
        journal.record(saying("more")).await.expect("recorded");
    }
    let kinds = vec!["audit_stdout_stopped".to_owned()];
    let lost = journal.read(Filter { kinds, ..Filter::default() }).await.expect("read");
    assert_eq!(lost.len(), 1);
    assert!(matches!(lost[0].event, Event::AuditStdoutStopped { after: Seq(0), .. }), "{lost:?}");
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_stuck_output_holds_up_no_commit_and_gets_everything_later() {
    let directory = directory();
    let (gate, gated) = mpsc::channel();
    let (sink, lines) = mpsc::channel();
    let journal = open(&path_in(&directory), true, Stuck(gated, Sink(sink)));
    let mut recorded = Vec::new();
    for _ in 0..50 {
        recorded.push(journal.record(saying("more")).await.expect("recorded while the output is stuck"));
    }
    assert!(lines.try_recv().is_err(), "control: the output took nothing so far");
    drop(gate);
    journal.close().await.expect("closes");
    assert_eq!(entries(&lines), recorded);
}

#[tokio::test]
async fn signed_heads_are_printed_each_after_its_entry_and_no_entry_looks_like_one() {
    let directory = directory();
    let (sink, lines) = mpsc::channel();
    let journal = open(&path_in(&directory), true, Sink(sink));
    let many = vec![saying(r#"{"head":"1:00"}"#); usize::try_from(2 * HEAD_EVERY).expect("few") + 1];
    journal.record_all(many).await.expect("recorded");
    let key = journal.key();
    journal.close().await.expect("closes");
    let (entries, heads) = printed(&lines);
    assert_eq!(entries.len() as u64, 2 * HEAD_EVERY + 1);
    let seqs: Vec<_> = heads.iter().map(|signed| signed.head.seq.0).collect();
    assert_eq!(seqs, [HEAD_EVERY, 2 * HEAD_EVERY, 2 * HEAD_EVERY + 1], "and the last, at the end");
    assert!(heads.iter().all(|signed| signed.key == key));
}
