//! Exported files, verified by themselves, and what is done to them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use aaos_core::id::Seq;
use aaos_core::limits::HEAD_EVERY;
use aaos_core::quantity::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{directory, open, path_in, saying, try_open};
use crate::{
    Broken, Expected, FileReport, Head, HeadCheck, HeadKey, JournalError, JournalFile, Problem, verify_file,
};

const EVERY: usize = HEAD_EVERY as usize;

/// An exported journal: its start, three entries, many more with a signed head among them, and its last head.
struct Exported {
    directory: TempDir,
    lines: Vec<String>,
    key: HeadKey,
    head: Head,
}

/// Line of an entry before the first signed head.
const fn line_of(seq: usize) -> usize {
    seq
}

impl Exported {
    async fn new() -> Self {
        let directory = directory();
        let path = path_in(&directory);
        let journal = open(&path);
        let texts = ["one", "two \u{0} \"quoted\" \u{1f980}", "three"].map(saying);
        journal.record_all(texts.to_vec()).await.expect("recorded");
        journal.record_all(vec![saying("more"); EVERY]).await.expect("recorded");
        let key = journal.key();
        journal.close().await.expect("closes");
        let file = directory.path().join("export.jsonl");
        let report = JournalFile::open(&path).expect("opens").export(&file).expect("exported");
        let text = fs::read_to_string(&file).expect("read");
        let lines = text.lines().map(str::to_owned).collect();
        Self { directory, lines, key, head: report.head }
    }

    fn check(&self, expected: Expected) -> FileReport {
        let file: PathBuf = self.directory.path().join("changed.jsonl");
        fs::write(&file, self.lines.join("\n") + "\n").expect("written");
        verify_file(&file, expected).expect("read")
    }

    fn broken(&self) -> Option<Broken> {
        self.check(Expected::default()).chain.broken
    }

    fn replace(&mut self, line: usize, from: &str, to: &str) {
        let changed = self.lines[line].replacen(from, to, 1);
        assert_ne!(changed, self.lines[line], "{from} is there");
        self.lines[line] = changed;
    }
}

#[tokio::test]
async fn an_export_verifies_without_daemon_and_database() {
    let whole = Exported::new().await;
    assert_eq!(whole.lines.len(), 1 + 3 + EVERY + 2, "start, entries, two signed heads");
    assert!(whole.lines[1 + EVERY].starts_with(r#"{"head":"64:"#), "{}", whole.lines[1 + EVERY]);
    let report = whole.check(Expected { head: Some(whole.head), key: Some(whole.key) });
    assert!(report.chain.is_intact(), "{report:?}");
    assert_eq!((report.chain.head, report.chain.entries), (whole.head, 3 + HEAD_EVERY));
    assert_eq!((report.chain.signed, report.chain.key), (Some(whole.head), Some(whole.key)));
    assert_eq!(report.line, whole.lines.len() as u64);
    let database = JournalFile::open(&path_in(&whole.directory)).expect("opens");
    assert_eq!(database.verify(Some(whole.head)).expect("walks").head, report.chain.head, "the same chain");
    let again = database.export(&whole.directory.path().join("export.jsonl")).expect_err("it is there");
    assert!(matches!(again, JournalError::Files { .. }));
    let nowhere = verify_file(Path::new("/no/such/file"), None).expect_err("there is none");
    assert!(matches!(nowhere, JournalError::Files { .. }));
}

#[tokio::test]
async fn a_changed_entry_is_found_at_its_place() {
    let cases: [(&str, &str, Problem); 8] = [
        ("message_delivered", "daemon_stopped", Problem::Header),
        (r#""timestamp":1000"#, r#""timestamp":1001"#, Problem::Header),
        (r#""goal":null"#, r#""goal":"0190a5e8-7c1b-7000-8000-0123456789ab""#, Problem::Header),
        (r#""body_hash":""#, r#""body_hash":"0"#, Problem::Malformed),
        ("quoted", "quotes", Problem::Body),
        (r#""salt":""#, r#""salt":null,"sal":""#, Problem::Malformed),
        (r#""seq":2"#, r#""seq":7"#, Problem::Missing),
        ("{", "{}{", Problem::Malformed),
    ];
    for (from, to, problem) in cases {
        let mut export = Exported::new().await;
        assert_eq!(export.broken(), None, "control");
        export.replace(line_of(2), from, to);
        assert_eq!(export.broken(), Some(Broken { seq: Seq(2), problem }), "{from} to {to}");
        assert_eq!(export.check(Expected::default()).line, 3, "the line is named");
    }
}

#[tokio::test]
async fn removed_reordered_and_spliced_entries_are_found() {
    let mut removed = Exported::new().await;
    removed.lines.remove(line_of(2));
    assert_eq!(removed.broken(), Some(Broken { seq: Seq(2), problem: Problem::Missing }));

    let mut first = Exported::new().await;
    first.lines.remove(line_of(1));
    assert_eq!(first.broken(), Some(Broken { seq: Seq(1), problem: Problem::Missing }));

    let mut reordered = Exported::new().await;
    reordered.lines.swap(line_of(2), line_of(3));
    assert_eq!(reordered.broken(), Some(Broken { seq: Seq(2), problem: Problem::Missing }));

    let (mut spliced, other) = (Exported::new().await, Exported::new().await);
    spliced.lines[line_of(2)] = other.lines[line_of(2)].clone();
    assert_eq!(spliced.broken(), Some(Broken { seq: Seq(2), problem: Problem::Header }));

    let mut start = Exported::new().await;
    start.lines.remove(0);
    assert_eq!(start.broken(), Some(Broken { seq: Seq(1), problem: Problem::Malformed }));
    start.lines.clear();
    assert_eq!(start.broken().map(|broken| broken.problem), Some(Problem::Malformed), "nothing at all");

    let mut moved = Exported::new().await;
    let hash = moved.lines[line_of(1)].split('"').rev().nth(1).expect("its hash").to_owned();
    moved.lines.remove(line_of(1));
    moved.lines[0] = format!(r#"{{"journal":1,"after":"1:{hash}"}}"#);
    let unsigned = Some(Broken { seq: Seq(1), problem: Problem::Unsigned });
    assert_eq!(moved.broken(), unsigned, "nobody vouches for where it begins");
}

#[tokio::test]
async fn where_a_file_begins_is_signed_and_more_than_its_beginning_is_there() {
    let own = Exported::new().await;
    let forged = |line: String| Exported { directory: directory(), lines: vec![line], ..own };
    let lone = forged(format!(r#"{{"journal":1,"after":"{}"}}"#, own.head));
    let expected = Expected { head: Some(own.head), key: Some(own.key) };
    let unsigned = Some(Broken { seq: own.head.seq, problem: Problem::Unsigned });
    assert_eq!(lone.check(expected).chain.broken, unsigned);
    let empty = forged(
        r#"{"journal":1,"after":"0:0000000000000000000000000000000000000000000000000000000000000000"}"#
            .into(),
    );
    assert_eq!(empty.broken(), None, "control: nothing was ever recorded");
    let unsigned = empty.check(Expected { head: None, key: Some(own.key) }).chain.broken;
    assert_eq!(unsigned.map(|broken| broken.problem), Some(Problem::Unsigned), "a key asks for a signature");

    let journal = open(&path_in(&own.directory));
    journal.prune(Timestamp(u64::MAX), Timestamp(1_000)).await.expect("pruned");
    journal.record(saying("later")).await.expect("recorded");
    journal.close().await.expect("closes");
    let file = own.directory.path().join("rest.jsonl");
    let report = JournalFile::open(&path_in(&own.directory)).expect("opens").export(&file).expect("exported");
    let text = fs::read_to_string(&file).expect("read");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let rest = |lines: Vec<String>| Exported { directory: directory(), lines, ..own };
    let whole = rest(lines.clone()).check(Expected { head: Some(report.after), key: Some(own.key) });
    assert_eq!((whole.chain.expected, whole.chain.is_intact()), (HeadCheck::Follows, true), "{whole:?}");
    let early: Head = format!("0:{}", "0".repeat(64)).parse().expect("a head");
    let asked = rest(lines.clone()).check(Some(early).into());
    assert_eq!((asked.chain.expected, asked.chain.is_intact()), (HeadCheck::Archived, false));
    let other = Head { hash: own.head.hash, ..report.after };
    assert_eq!(rest(lines.clone()).check(Some(other).into()).chain.expected, HeadCheck::Differs);

    let next = Seq(report.after.seq.0 + 1);
    let cut = rest(lines[..1].to_vec()).check(Expected { head: Some(report.after), key: Some(own.key) });
    assert_eq!(cut.chain.broken, Some(Broken { seq: next, problem: Problem::Missing }), "nothing after it");
    let strange = Exported::new().await.key;
    let cases = [
        (report.after.hash.to_string(), own.head.hash.to_string()),
        (own.key.to_string(), strange.to_string()),
        (r#""latest":"#.to_owned(), r#""latest":1"#.to_owned()),
    ];
    for (from, to) in cases {
        let mut changed = rest(lines.clone());
        changed.replace(0, &from, &to);
        let forged = Some(Broken { seq: report.after.seq, problem: Problem::Signature });
        assert_eq!(changed.broken(), forged, "{from}");
    }
    let other = rest(lines).check(Expected { head: None, key: Some(strange) });
    assert_eq!(other.chain.broken, Some(Broken { seq: report.after.seq, problem: Problem::Key }));
}

#[tokio::test]
async fn a_planted_link_leads_an_export_nowhere() {
    let directory = directory();
    let path = path_in(&directory);
    super::written(&path, &["one"]).await;
    let outside = directory.path().join("outside");
    fs::write(&outside, "stays").expect("written");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o644)).expect("set");
    let target =
        fs::create_dir(directory.path().join("out")).map(|()| directory.path().join("out/export.jsonl"));
    let target = target.expect("made");
    for suffix in [".part", ".0.part", ".00000000000000000000000000000000.part", ".tmp", "~"] {
        let mut name = target.clone().into_os_string();
        name.push(suffix);
        symlink(&outside, name).expect("planted");
    }
    let export = || JournalFile::open(&path).expect("opens").export(&target);
    export().expect("exported");
    let made = fs::symlink_metadata(&target).expect("there");
    assert!(made.is_file() && made.permissions().mode() & 0o777 == 0o600, "{made:?}");
    assert_eq!(made.len(), fs::read(&target).expect("read").len() as u64);

    fs::remove_file(&target).expect("removed");
    symlink(directory.path().join("nowhere"), &target).expect("planted");
    export().expect_err("a link has the name");
    assert!(fs::symlink_metadata(&target).expect("there").is_symlink(), "and keeps it");
    let failed = crate::export::create_new(&target).expect_err("nor is anything made through it");
    assert_eq!(failed.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(!directory.path().join("nowhere").exists());
    assert_eq!(fs::read_to_string(&outside).expect("read"), "stays");
    assert_eq!(fs::metadata(&outside).expect("there").permissions().mode() & 0o777, 0o644);
}

#[tokio::test]
async fn what_took_an_exports_name_meanwhile_is_kept() {
    let directory = directory();
    let path = path_in(&directory);
    super::written(&path, &["one"]).await;
    let target = directory.path().join("export.jsonl");
    fs::write(&target, "mine").expect("written");
    let connection = crate::store::open_reader(&path).expect("opens");
    let refused = crate::export::write(&connection, &target, None, None).expect_err("it would be replaced");
    assert!(matches!(refused, JournalError::Files { .. }), "{refused:?}");
    assert_eq!(fs::read_to_string(&target).expect("read"), "mine");
    let names: Vec<_> = fs::read_dir(directory.path()).expect("listed").collect();
    assert!(names.iter().all(|name| !format!("{name:?}").contains(".part")), "{names:?}");
}

#[tokio::test]
async fn forged_moved_and_missing_heads_are_found() {
    let (own, strange) = (Exported::new().await, Exported::new().await);
    let at = 1 + EVERY;
    let with = |line: usize, text: String| {
        let lines = [&own.lines[..line], &[text], &own.lines[line + 1..]].concat();
        let changed = Exported { directory: directory(), lines, key: own.key, head: own.head };
        changed.broken()
    };
    assert_eq!(with(at, own.lines[at].clone()), None, "control");
    let place = |problem| Some(Broken { seq: Seq(HEAD_EVERY), problem });
    assert_eq!(with(at, strange.lines[at].clone()), place(Problem::Head), "of another journal");
    let of_own = |part: &str| own.lines[at].replace(part, &strange.key.to_string());
    assert_eq!(with(at, of_own(&own.key.to_string())), place(Problem::Signature), "another key");
    let last = own.lines.len() - 1;
    assert_eq!(with(at, own.lines[last].clone()).map(|broken| broken.problem), Some(Problem::Missing));
    let early = with(last, own.lines[at].clone());
    assert_eq!(early, place(Problem::Head), "a head stands after its entry");

    let mut without = Exported::new().await;
    without.lines.remove(at);
    assert_eq!(without.broken(), place(Problem::Unsigned));
    let trusted = |key| own.check(Expected { head: None, key: Some(key) });
    assert!(trusted(own.key).chain.is_intact(), "control");
    assert_eq!(trusted(strange.key).chain.broken, place(Problem::Key));
}

#[tokio::test]
async fn a_cut_tail_is_found_by_a_head_seen_before() {
    let mut cut = Exported::new().await;
    cut.lines.truncate(cut.lines.len() - 2);
    let report = cut.check(Expected::default());
    assert!(report.chain.is_intact(), "control: alone, a shorter chain looks whole");
    assert_eq!(report.chain.signed.map(|head| head.seq), Some(Seq(HEAD_EVERY)), "but not signed to its end");
    let report = cut.check(Some(cut.head).into());
    assert_eq!((report.chain.expected, report.chain.is_intact()), (HeadCheck::Missing, false));

    cut.lines.truncate(3);
    assert!(cut.check(Expected::default()).chain.is_intact(), "control");
    let unsigned = cut.check(Expected { head: None, key: Some(cut.key) });
    assert_eq!(unsigned.chain.broken, Some(Broken { seq: Seq(2), problem: Problem::Unsigned }));

    let mut torn = Exported::new().await;
    let last = torn.lines.pop().expect("a line");
    torn.lines.push(last[..last.len() / 2].to_owned());
    assert_eq!(torn.broken().map(|broken| broken.problem), Some(Problem::Malformed));
}

#[tokio::test]
async fn an_erased_body_is_exported_as_such_and_a_broken_chain_is_not() {
    let directory = directory();
    let path = path_in(&directory);
    let journal = open(&path);
    let entries = vec![saying("one"), super::of_no_effect("secret"), saying("three")];
    journal.record_all(entries).await.expect("recorded");
    journal.close().await.expect("closes");
    let connection = Connection::open(&path).expect("opens");
    connection.execute("UPDATE entries SET body = NULL, salt = NULL WHERE seq = 2", []).expect("erased");
    let file = directory.path().join("export.jsonl");
    JournalFile::open(&path).expect("opens").export(&file).expect("exported");
    let report = verify_file(&file, None).expect("read");
    assert!(report.chain.is_intact() && report.chain.erased == [Seq(2)], "{report:?}");
    assert!(!fs::read_to_string(&file).expect("read").contains("secret"));

    connection.execute("UPDATE entries SET timestamp = 7 WHERE seq = 3", []).expect("changed");
    let second = directory.path().join("second.jsonl");
    let refused = JournalFile::open(&path).expect("opens").export(&second).expect_err("broken");
    assert!(matches!(refused, JournalError::Broken { broken: Broken { seq: Seq(3), .. } }), "{refused:?}");
    let left: Vec<_> = fs::read_dir(directory.path())
        .expect("listed")
        .map(|entry| entry.expect("listed").file_name())
        .filter(|name| name.to_string_lossy().starts_with("second"))
        .collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new(), "nothing of it is left");
    assert!(try_open(&path).is_err());
}
