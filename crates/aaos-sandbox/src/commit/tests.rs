//! Commits on real directories: what is refused leaves bytes, times and listings as they were.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use aaos_core::id::{CallId, GrantId};
use aaos_core::limits::MAX_APPENDED_FILE_BYTES;
use aaos_core::path::PathPattern;
use aaos_core::toolio::ToolFailureKind;
use rustix::fs::{CWD, FileType, Mode, RenameFlags};
use tempfile::TempDir;
use testkit::{PATIENCE, Snapshot, scratch as scratch_dir};
use uuid::Uuid;

use super::{CommitError, Write, WriteMode, commit, scratch, sealed_content, take_over};
use crate::beneath::{Links, facts};
use crate::roots::RootTable;

const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));
const CALL: CallId = CallId::from_uuid(Uuid::from_u128(2));
/// How `CALL` names what is not in its place yet.
const TEMPORARY: &str = "data/.aaos-00000000-0000-0000-0000-000000000002";
/// An append that goes on from wherever the file ends.
const APPEND: WriteMode = WriteMode::Append { at: None };
const LIMIT: u64 = 1024;
const RACE_ROUNDS: usize = 500;

struct Fixture {
    dir: TempDir,
    table: RootTable,
}

impl Fixture {
    fn new() -> Self {
        let dir = scratch_dir();
        fs::create_dir_all(dir.path().join("data/sub")).expect("made");
        fs::create_dir(dir.path().join("outside")).expect("made");
        fs::write(dir.path().join("data/f"), "old").expect("written");
        fs::write(dir.path().join("outside/f"), "outside").expect("written");
        let table = RootTable::new(Vec::new(), Vec::new());
        let pattern = PathPattern::parse(&format!("{}/data/*", dir.path().display())).expect("a pattern");
        table.open_root(GRANT, &pattern, false).expect("a root");
        Self { dir, table }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn write(&self, relative: &str, content: &str, mode: &WriteMode) -> Result<u64, ToolFailureKind> {
        self.write_by(relative, content, mode, Links::Follow)
    }

    fn write_by(
        &self,
        relative: &str,
        content: &str,
        mode: &WriteMode,
        links: Links,
    ) -> Result<u64, ToolFailureKind> {
        let filled = filled(content.as_bytes());
        let size = content.len() as u64;
        take_over(&filled, size, LIMIT).expect("sealed");
        let content = sealed_content(filled, size).expect("read");
        let content = content.as_slice();
        let write = Write { call: CALL, repeated: false, relative, shown: relative, content, mode, links };
        self.commit(&write).map_err(|error| error.to_failure().kind)
    }

    fn commit(&self, write: &Write<'_>) -> Result<u64, CommitError> {
        commit(&self.table, &self.table.root(GRANT).expect("open"), write)
    }

    /// An append by a call that saw the file with `at` bytes.
    fn append(&self, relative: &str, content: &str, at: u64, repeated: bool) -> Result<u64, CommitError> {
        let (mode, links) = (&WriteMode::Append { at: Some(at) }, Links::Follow);
        let content = content.as_bytes();
        self.commit(&Write { call: CALL, repeated, relative, shown: relative, content, mode, links })
    }

    fn replace(&self, relative: &str, content: &str) -> Result<u64, ToolFailureKind> {
        self.write(relative, content, &WriteMode::Replace)
    }
}

fn filled(content: &[u8]) -> OwnedFd {
    let mut file = File::from(scratch().expect("a memfd"));
    file.write_all(content).expect("filled");
    file.into()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("text")
}

#[test]
fn a_write_replaces_by_rename_and_keeps_mode_and_owner() {
    let fixture = Fixture::new();
    let target = fixture.path("data/f");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).expect("set");
    fs::hard_link(&target, fixture.path("outside/hard")).expect("linked");
    let before = fs::metadata(&target).expect("there");
    assert_eq!(fixture.replace("f", "new content"), Ok(11));
    let after = fs::metadata(&target).expect("there");
    assert_eq!(text(&target), "new content");
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_ne!(after.ino(), before.ino(), "another file under the name");
    assert_eq!(text(&fixture.path("outside/hard")), "old", "never through a hard link");
    assert_eq!(fs::read_dir(fixture.path("data")).expect("listed").count(), 2, "no temporary file is left");
}

#[test]
fn append_keeps_the_old_content_first_and_makes_a_missing_file() {
    let fixture = Fixture::new();
    assert_eq!(fixture.write("f", "+new", &APPEND), Ok(7));
    assert_eq!(text(&fixture.path("data/f")), "old+new");
    assert_eq!(fixture.write("g", "first", &APPEND), Ok(5));
    assert_eq!(text(&fixture.path("data/g")), "first");
    let mode = fs::metadata(fixture.path("data/g")).expect("there").mode() & 0o777;
    assert_eq!(mode & !0o644, 0, "neither executable nor writable by others: {mode:o}");
}

#[test]
fn parents_below_the_root_are_made_on_commit() {
    let fixture = Fixture::new();
    assert_eq!(fixture.replace("a/b/c.txt", "x"), Ok(1));
    assert_eq!(text(&fixture.path("data/a/b/c.txt")), "x");
    assert_eq!(fixture.replace("sub/../g", "y"), Ok(1));
    assert_eq!(text(&fixture.path("data/g")), "y");
}

#[test]
fn where_a_place_was_approved_no_link_is_followed_on_the_way() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("data/other")).expect("made");
    symlink("../other", fixture.path("data/sub/way")).expect("linked");
    let before = Snapshot::of(fixture.dir.path());
    for mode in [WriteMode::Replace, APPEND] {
        let refused = fixture.write_by("sub/way/f", "x", &mode, Links::Refuse);
        assert_eq!(refused, Err(ToolFailureKind::OutsideRoot));
    }
    assert_eq!(before, Snapshot::of(fixture.dir.path()));
    assert_eq!(fixture.write_by("sub/f", "x", &WriteMode::Replace, Links::Refuse), Ok(1), "a plain path");
    assert_eq!(fixture.replace("sub/way/f", "x"), Ok(1), "the control: followed where no place was approved");
    assert_eq!(text(&fixture.path("data/other/f")), "x");
}

#[test]
fn a_refused_write_changes_nothing() {
    let fixture = Fixture::new();
    symlink(fixture.path("outside"), fixture.path("data/out")).expect("linked");
    symlink("../outside/f", fixture.path("data/link")).expect("linked");
    symlink("../outside/missing", fixture.path("data/dangling")).expect("linked");
    symlink("f", fixture.path("data/within")).expect("linked");
    symlink("nowhere", fixture.path("data/lost")).expect("linked");
    rustix::fs::mknodat(CWD, fixture.path("data/fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .expect("a FIFO");
    let before = Snapshot::of(fixture.dir.path());
    let outside = ToolFailureKind::OutsideRoot;
    let wrong = ToolFailureKind::WrongKind;
    for (relative, expected) in [
        ("../outside/f", outside),
        ("../outside/new", outside),
        ("sub/../../outside/f", outside),
        ("out/f", outside),
        ("out/new/deep", outside),
        ("link", outside),
        ("dangling", outside),
        ("within", wrong),
        ("lost/new", outside),
        ("fifo", wrong),
        ("sub", wrong),
        ("", wrong),
        ("..", outside),
        ("f/below", wrong),
        ("new/../../outside/f", ToolFailureKind::NotFound),
    ] {
        assert_eq!(fixture.replace(relative, "evil"), Err(expected), "{relative:?}");
        assert_eq!(fixture.write(relative, "evil", &APPEND), Err(expected), "{relative:?}");
        assert_eq!(before, Snapshot::of(fixture.dir.path()), "{relative:?}");
    }
    // The control: an ordinary write goes through the same link.
    fs::write(fixture.path("data/link"), "evil").expect("written through");
    assert_eq!(text(&fixture.path("outside/f")), "evil");
}

#[test]
fn a_write_that_fails_half_way_leaves_no_parents_and_no_temporary_file() {
    let fixture = Fixture::new();
    // The name is too long for the file system: the directories are made, and then the rename fails.
    let long = format!("a/b/{}", "x".repeat(300));
    assert!(fixture.replace(&long, "y").is_err());
    let names: Vec<_> = fs::read_dir(fixture.path("data")).expect("listed").collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(text(&fixture.path("data/f")), "old");
}

#[test]
fn protected_places_are_not_written_to() {
    let dir = scratch_dir();
    fs::create_dir(dir.path().join("state")).expect("made");
    fs::write(dir.path().join("config"), "old").expect("written");
    let table = RootTable::new(vec![dir.path().join("state"), dir.path().join("config")], Vec::new());
    let pattern = PathPattern::parse(&format!("{}/*", dir.path().display())).expect("a pattern");
    table.open_root(GRANT, &pattern, false).expect("a root");
    let fixture = Fixture { dir, table };
    let before = Snapshot::of(fixture.dir.path());
    for relative in ["state/journal", "state/new/x", "config", "state"] {
        assert_eq!(fixture.replace(relative, "evil"), Err(ToolFailureKind::OutsideRoot), "{relative}");
    }
    assert_eq!(before, Snapshot::of(fixture.dir.path()));
    assert_eq!(fixture.replace("free", "x"), Ok(1), "the control");
}

#[test]
fn an_edit_of_a_file_that_changed_meanwhile_is_refused() {
    let fixture = Fixture::new();
    let read = facts(File::open(fixture.path("data/f")).expect("open"), b"").expect("seen");
    let mode = WriteMode::Edit(read);
    assert_eq!(fixture.write("f", "mine", &mode), Ok(4));
    // The file under the name is another one now.
    assert_eq!(fixture.write("f", "mine again", &mode), Err(ToolFailureKind::Io));
    assert_eq!(text(&fixture.path("data/f")), "mine");
    fs::remove_file(fixture.path("data/f")).expect("removed");
    assert_eq!(fixture.write("f", "mine again", &mode), Err(ToolFailureKind::Io));
    assert!(!fixture.path("data/f").exists());
}

#[test]
fn a_worker_that_keeps_its_memfd_cannot_change_it_after_the_seal() {
    let memfd = filled(b"good");
    let kept = File::from(memfd.try_clone().expect("a copy"));
    kept.write_all_at(b"GOOD", 0).expect("the control: before the seal it can");
    take_over(&memfd, 4, LIMIT).expect("sealed");
    assert!(kept.write_all_at(b"evil", 0).is_err());
    assert!(kept.set_len(0).is_err() && kept.set_len(100).is_err());
    let mut ours = File::from(memfd.try_clone().expect("a copy"));
    assert_eq!(ours.stream_position().expect("a position"), 0, "left at its start");
    // The position is shared with the worker, which can move it at any time.
    (&kept).seek(SeekFrom::Start(2)).expect("moved");
    assert_eq!(sealed_content(memfd, 4).expect("read"), b"GOOD", "wherever the position is");
    assert_eq!(std::io::read_to_string(ours).expect("text"), "OD", "the control");
}

#[test]
fn a_memfd_that_is_mapped_or_not_as_announced_is_refused() {
    let short = filled(b"abc");
    assert!(matches!(take_over(&short, 4, LIMIT), Err(CommitError::Handover { .. })));
    let long = filled(&[b'x'; 2000]);
    assert!(matches!(take_over(&long, 2000, LIMIT), Err(CommitError::Handover { .. })));
    // What is not a memfd, or one made without sealing, cannot be sealed.
    let plain: OwnedFd = tempfile::tempfile().expect("a file").into();
    assert!(matches!(take_over(&plain, 0, LIMIT), Err(CommitError::Handover { .. })));
}

#[test]
fn an_append_goes_on_only_from_the_size_that_was_seen() {
    let fixture = Fixture::new();
    assert_eq!(fixture.append("f", "+new", 3, false).expect("as it was seen"), 7);
    assert_eq!(fixture.append("g", "first", 0, false).expect("nothing was there"), 5);
    let before = Snapshot::of(fixture.dir.path());
    for (relative, content, at) in [
        ("f", "+new", 3),
        ("f", "x", 8),
        ("f", "x", u64::MAX),
        ("missing", "x", 1),
        ("new/missing", "x", 1),
        // What another hand put there is no proof that a first call did.
        ("g", "first", 0),
        ("g", "st", 3),
    ] {
        let refused = fixture.append(relative, content, at, false);
        let right = matches!(refused, Err(CommitError::ChangedMeanwhile { .. }));
        assert!(right, "{relative} {content} at {at}: {refused:?}");
        assert_eq!(before, Snapshot::of(fixture.dir.path()), "{relative} {content} at {at}");
    }
    assert_eq!(fixture.append("f", "!", 7, false).expect("the control"), 8);
    assert_eq!(text(&fixture.path("data/f")), "old+new!");
}

#[test]
fn an_append_that_is_repeated_is_added_once() {
    let fixture = Fixture::new();
    assert_eq!(fixture.append("f", "+new", 3, true).expect("it had not come so far"), 7);
    let before = Snapshot::of(fixture.dir.path());
    assert_eq!(fixture.append("f", "+new", 3, true).expect("it had"), 7);
    assert_eq!(before, Snapshot::of(fixture.dir.path()), "the very same file");
    // The same for a file that the append makes, and for nothing to add.
    assert_eq!(fixture.append("g", "ab", 0, true).expect("made"), 2);
    assert_eq!(fixture.append("g", "ab", 0, true).expect("was made"), 2);
    assert_eq!(fixture.append("g", "", 2, true).expect("nothing to add"), 2);
    assert_eq!(text(&fixture.path("data/g")), "ab");
    // The control: without a position it is added as often as it is asked for.
    fixture.write("f", "+new", &APPEND).expect("added");
    assert_eq!(text(&fixture.path("data/f")), "old+new+new");
}

#[test]
fn a_repeated_append_to_a_file_that_changed_meanwhile_is_refused() {
    let fixture = Fixture::new();
    fs::write(fixture.path("data/f"), "old+new").expect("written");
    let before = Snapshot::of(fixture.dir.path());
    for (content, at) in [("+new", 2), ("+new", 4), ("+old", 3), ("+ne", 3), ("+new!", 3), ("+new", 7 + 4)] {
        let refused = fixture.append("f", content, at, true);
        assert!(
            matches!(refused, Err(CommitError::ChangedMeanwhile { .. })),
            "{content} at {at}: {refused:?}"
        );
    }
    let refused = fixture.append("missing", "x", 1, true);
    assert!(matches!(refused, Err(CommitError::ChangedMeanwhile { .. })), "{refused:?}");
    let (mode, links, content) = (&APPEND, Links::Follow, b"+new".as_slice());
    let write = Write { call: CALL, repeated: true, relative: "f", shown: "f", content, mode, links };
    let refused = fixture.commit(&write);
    assert!(matches!(refused, Err(CommitError::Unpositioned { .. })), "{refused:?}");
    assert_eq!(before, Snapshot::of(fixture.dir.path()));
    assert_eq!(fixture.append("f", "+new", 3, true).expect("the control"), 7);
}

#[test]
fn a_file_at_its_largest_knows_a_repeated_append_but_takes_no_more() {
    let fixture = Fixture::new();
    let log = File::create(fixture.path("data/log")).expect("made");
    log.set_len(MAX_APPENDED_FILE_BYTES).expect("sparse");
    log.write_all_at(b"end", MAX_APPENDED_FILE_BYTES).expect("written");
    let done = fixture.append("log", "end", MAX_APPENDED_FILE_BYTES, true).expect("it was added");
    assert_eq!(done, MAX_APPENDED_FILE_BYTES + 3);
    let refused = fixture.append("log", "more", done, false).expect_err("too large");
    assert_eq!(refused.to_failure().kind, ToolFailureKind::TooLarge);
}

#[test]
fn a_repeated_replace_replaces_again() {
    let fixture = Fixture::new();
    let (mode, links, content) = (&WriteMode::Replace, Links::Follow, b"new".as_slice());
    let write = Write { call: CALL, repeated: true, relative: "f", shown: "f", content, mode, links };
    for _ in 0..2 {
        assert_eq!(fixture.commit(&write).expect("written"), 3);
        assert_eq!(text(&fixture.path("data/f")), "new");
    }
}

#[test]
fn what_a_killed_daemon_left_of_a_write_makes_room_for_the_repeated_one() {
    for (repeated, mode) in [(true, WriteMode::Append { at: Some(3) }), (false, WriteMode::Replace)] {
        let fixture = Fixture::new();
        fs::write(fixture.path(TEMPORARY), "half of something long").expect("left");
        fs::hard_link(fixture.path(TEMPORARY), fixture.path("outside/hard")).expect("linked");
        let content = b"+new".as_slice();
        let write = Write {
            call: CALL,
            repeated,
            relative: "f",
            shown: "f",
            content,
            mode: &mode,
            links: Links::Follow,
        };
        fixture.commit(&write).expect("written");
        assert!(text(&fixture.path("data/f")).ends_with("+new"));
        assert!(!fixture.path(TEMPORARY).exists());
        assert_eq!(
            text(&fixture.path("outside/hard")),
            "half of something long",
            "another file, not that one"
        );
    }
    // It goes as well when the repeated call finds its work done, or the file changed.
    for at in [0, 1] {
        let fixture = Fixture::new();
        fs::write(fixture.path(TEMPORARY), "half").expect("left");
        assert_eq!(fixture.append("f", "old", at, true).is_ok(), at == 0);
        assert!(!fixture.path(TEMPORARY).exists(), "at {at}");
        assert_eq!(text(&fixture.path("data/f")), "old");
    }
    // The control: another call's stays.
    let fixture = Fixture::new();
    let other = fixture.path("data/.aaos-00000000-0000-0000-0000-000000000003");
    fs::write(&other, "half").expect("left");
    fixture.replace("f", "new").expect("written");
    assert!(other.exists());
}

#[test]
fn what_is_no_file_under_the_temporary_name_is_neither_removed_nor_written_through() {
    let plant: [fn(&Fixture); 3] = [
        |fixture| symlink("../outside/f", fixture.path(TEMPORARY)).expect("linked"),
        |fixture| fs::create_dir(fixture.path(TEMPORARY)).expect("made"),
        |fixture| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(CWD, fixture.path(TEMPORARY), FileType::Fifo, mode, 0).expect("a FIFO");
        },
    ];
    for plant in plant {
        let fixture = Fixture::new();
        plant(&fixture);
        let before = Snapshot::of(fixture.dir.path());
        assert_eq!(fixture.replace("f", "evil"), Err(ToolFailureKind::Io));
        assert_eq!(before, Snapshot::of(fixture.dir.path()));
        assert!(fixture.append("f", "evil", 3, true).is_err());
        assert_eq!(before, Snapshot::of(fixture.dir.path()));
        assert_eq!(fixture.append("f", "old", 0, true).expect("was done before"), 3);
        assert_eq!(before, Snapshot::of(fixture.dir.path()));
    }
    // The control: an ordinary write to that name goes through the link.
    let fixture = Fixture::new();
    symlink("../outside/f", fixture.path(TEMPORARY)).expect("linked");
    fs::write(fixture.path(TEMPORARY), "evil").expect("written through");
    assert_eq!(text(&fixture.path("outside/f")), "evil");
}

#[test]
fn concurrent_appends_lose_nothing() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..10 {
                    fixture.write("log", &format!("{writer}-{round}\n"), &APPEND).expect("written");
                }
            });
        }
    });
    let mut lines: Vec<_> = text(&fixture.path("data/log")).lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 40);
}

#[test]
fn a_rename_race_never_writes_outside() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("data/x")).expect("made");
    symlink(fixture.path("outside"), fixture.path("data/y")).expect("linked");
    let over = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (over, x, y) = (Arc::clone(&over), fixture.path("data/x"), fixture.path("data/y"));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &x, CWD, &y, RenameFlags::EXCHANGE).expect("swapped");
            }
        })
    };
    let mut written = 0;
    let mut control = false;
    let deadline = Instant::now() + PATIENCE;
    // Until both happened, however the threads are scheduled.
    for round in 0.. {
        if (round >= RACE_ROUNDS && written > 0 && control) || Instant::now() > deadline {
            break;
        }
        std::thread::yield_now();
        written += usize::from(fixture.replace("x/new", "mine").is_ok());
        control |=
            fs::write(fixture.path("data/x/control"), "").is_ok() && fixture.path("outside/control").exists();
    }
    over.store(true, Ordering::Relaxed);
    swapper.join().expect("the swapper ends");
    assert!(written > 0, "the race let nothing through at all");
    assert!(control, "the control never got outside: the race is no race");
    assert!(!fixture.path("outside/new").exists());
}
