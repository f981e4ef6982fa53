//! Names that change under a call's feet: no file tool reads or writes a byte of what lies outside its root.
//!
//! A thread flips two names as fast as it can between what is granted and links that lead out: the file of a call,
//! and a directory above it. Each tool is called until both faces were met and the flips are enough:
//! `AAOS_RACE_FLIPS` says how many (`cargo xtask contest --full`: a million), a few tens of thousands otherwise.
//! The control is an opener that looks first and then opens by path; it is fooled.

mod lab;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use lab::Lab;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Snapshot;

/// What every granted file says.
const OURS: &str = "granted words\n";
/// What everything outside says, by content and by name.
const FOREIGN: &str = "foreign words\n";
const FOREIGN_NAME: &str = "foreign-name";
/// Flips where nobody says how many.
const FLIPS: u64 = 20_000;

/// How many flips each tool has to stand.
#[expect(clippy::disallowed_methods, reason = "a test has no settings module")]
fn wanted_flips() -> u64 {
    std::env::var("AAOS_RACE_FLIPS").map_or(FLIPS, |text| text.parse().expect("a number of flips"))
}

/// A directory in memory where there is one: a disk's journal makes flips a hundred times slower.
fn swift_scratch() -> TempDir {
    let memory = tempfile::Builder::new().prefix("aaos-test-").tempdir_in("/dev/shm");
    memory.unwrap_or_else(|_| testkit::scratch())
}

/// Flips names until it is dropped.
struct Flipper {
    flips: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flipper {
    fn start(root: &Path) -> Self {
        let (flips, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, told, root) = (Arc::clone(&flips), Arc::clone(&stop), root.to_path_buf());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                flip(&root, count.load(Ordering::Relaxed));
                count.fetch_add(2, Ordering::Relaxed);
            }
        });
        Self { flips, stop, thread: Some(thread) }
    }

    fn flips(&self) -> u64 {
        self.flips.load(Ordering::Relaxed)
    }
}

impl Drop for Flipper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            ended.is_some_and(|ended| ended.is_ok()) || std::thread::panicking(),
            "the flipper broke off"
        );
    }
}

/// One change of each name. The directory is exchanged with a link, so that one of them is always there; the file
/// is made anew each time, because a write may have replaced the link.
fn flip(root: &Path, round: u64) {
    let data = root.join("data");
    let other = if round % 4 < 2 { "link" } else { "far-link" };
    renameat_with(CWD, data.join("dir"), CWD, data.join(other), RenameFlags::EXCHANGE).expect("exchanged");
    let fresh = data.join("fresh");
    if round % 4 < 2 {
        symlink("../outside/f", &fresh).expect("linked");
    } else {
        fs::write(&fresh, OURS).expect("written");
    }
    fs::rename(&fresh, data.join("file")).expect("renamed");
}

/// `data/dir/f` and `data/file` say what is ours; `outside`, where the links lead, is foreign.
fn set_up(root: &Path) {
    let data = root.join("data");
    fs::create_dir_all(data.join("dir")).expect("made");
    fs::create_dir_all(root.join("outside")).expect("made");
    for ours in ["dir/f", "file"] {
        fs::write(data.join(ours), OURS).expect("written");
    }
    for foreign in ["f", FOREIGN_NAME] {
        fs::write(root.join("outside").join(foreign), FOREIGN).expect("written");
    }
    symlink("../outside", data.join("link")).expect("linked");
    symlink(root.join("outside"), data.join("far-link")).expect("linked");
}

/// Which faces of the flipped names the calls have met.
#[derive(Debug, Default)]
struct Met {
    ours: bool,
    refusal: bool,
}

impl Met {
    fn note(&mut self, result: &Result<Value, ToolFailure>) {
        match result {
            Ok(value) => {
                let said = value.to_string();
                assert!(!said.contains("foreign"), "foreign words: {said}");
                self.ours |= said.contains("granted") || value.get("bytes_written").is_some();
                self.ours |= value.get("replacements").is_some() || said.contains(r#""name":"f""#);
                self.refusal |= said.contains("outside_root");
            }
            Err(failure) => {
                let right = matches!(
                    failure.kind,
                    ToolFailureKind::OutsideRoot
                        | ToolFailureKind::WrongKind
                        | ToolFailureKind::NotFound
                        | ToolFailureKind::InvalidArguments
                        | ToolFailureKind::Io
                );
                assert!(right, "{failure:?}");
                self.refusal |= failure.kind == ToolFailureKind::OutsideRoot;
            }
        }
    }
}

/// Calls a tool on the flipping names until it has stood enough flips and met both faces.
async fn stand(tool: &str, arguments: impl Fn(&str) -> Value) {
    let mut lab = Lab::with(swift_scratch(), "aaos-worker", ConfinementPolicy::default()).await;
    set_up(lab.dir.path());
    let outside = Snapshot::of(&lab.dir.path().join("outside"));
    let flipper = Flipper::start(lab.dir.path());
    let mut met = Met::default();
    let mut calls = 0_u64;
    while flipper.flips() < wanted_flips() || !met.ours || !met.refusal {
        for name in ["data/dir/f", "data/file", "data/dir"] {
            let result = lab.call(tool, arguments(&lab.path(name))).await;
            met.note(&result);
            calls += 1;
        }
        assert!(lab.worker.is_usable(), "a race is no fault of the worker");
    }
    let flips = flipper.flips();
    drop(flipper);
    assert_eq!(outside, Snapshot::of(&lab.dir.path().join("outside")), "{tool}: a foreign byte was written");
    writeln!(std::io::stdout(), "{tool}: {calls} calls stood {flips} flips").expect("the runner reads it");
    lab.end().await;
}

#[tokio::test]
async fn file_read_reads_no_foreign_byte() {
    stand("file_read", |path| json!({"path": path})).await;
}

#[tokio::test]
async fn file_read_many_reads_no_foreign_byte() {
    stand("file_read_many", |path| json!({"paths": [path, format!("{path}/f")]})).await;
}

#[tokio::test]
async fn file_list_lists_no_foreign_name() {
    stand("file_list", |path| json!({"path": path})).await;
}

#[tokio::test]
async fn grep_finds_no_foreign_line() {
    stand("grep", |path| json!({"path": path, "pattern": "words"})).await;
}

#[tokio::test]
async fn file_write_writes_no_foreign_byte() {
    stand("file_write", |path| json!({"path": path, "content": OURS})).await;
}

#[tokio::test]
async fn an_append_writes_no_foreign_byte() {
    stand("file_write", |path| json!({"path": path, "content": "more", "append": true})).await;
}

#[tokio::test]
async fn file_edit_writes_no_foreign_byte() {
    let edit =
        |path: &str| json!({"path": path, "old_string": "words", "new_string": "words", "replace_all": true});
    stand("file_edit", edit).await;
}

/// The control: what looks first and then opens by path is led out, to read and to write.
#[test]
fn who_opens_by_path_is_fooled() {
    let home = swift_scratch();
    set_up(home.path());
    let is_safe =
        |path: &Path| path.canonicalize().is_ok_and(|real| real.starts_with(home.path().join("data")));
    let flipper = Flipper::start(home.path());
    let names: [PathBuf; 2] = ["data/dir/f", "data/file"].map(|name| home.path().join(name));
    let read = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text == FOREIGN);
    while !names.iter().any(|path| is_safe(path) && read(path)) {}
    let foreign = home.path().join("outside/f");
    let untouched = |foreign: &Path| fs::read_to_string(foreign).is_ok_and(|text| text == FOREIGN);
    while untouched(&foreign) {
        for path in names.iter().filter(|path| is_safe(path)) {
            // It fails where the name is just changing.
            drop(fs::OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(b"evil")));
        }
    }
    drop(flipper);
}
