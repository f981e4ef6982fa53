//! Looks through real directories. What is not to be told of has a control that is.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use aaos_core::id::GrantId;
use aaos_core::path::PathPattern;
use aaos_core::special::{NotSeen, SpecialFiles, SpecialKind};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use tempfile::TempDir;
use testkit::scratch;
use uuid::Uuid;

use super::{BOUNDS, Bounds, Survey};
use crate::roots::RootTable;

const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));

/// `data`, which is granted, with a file and a directory, and `outside`.
struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        let dir = scratch();
        fs::create_dir_all(dir.path().join("data/sub/deep")).expect("made");
        fs::create_dir(dir.path().join("outside")).expect("made");
        fs::write(dir.path().join("data/sub/file"), "text").expect("written");
        Self(dir)
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    fn socket(&self, relative: &str) -> UnixListener {
        UnixListener::bind(self.path(relative)).expect("a socket")
    }

    fn fifo(&self, relative: &str) {
        node(&self.path(relative), FileType::Fifo, 0).expect("a FIFO");
    }

    fn look(&self) -> Option<SpecialFiles> {
        look(&RootTable::new(Vec::new(), Vec::new()), &self.path("data"), "/*", BOUNDS)
    }
}

fn node(path: &Path, kind: FileType, device: u64) -> Result<(), Errno> {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device)
}

fn look(table: &RootTable, root: &Path, suffix: &str, bounds: Bounds) -> Option<SpecialFiles> {
    let pattern = PathPattern::parse(&format!("{}{suffix}", root.display())).expect("a pattern");
    table.open_root(GRANT, &pattern, false).expect("a root");
    let survey = Survey::new();
    survey.look_within(table, GRANT, bounds);
    table.close(GRANT);
    survey.end()
}

/// Kinds and places, in the order of their places, of a root that was looked through completely.
fn all(found: Option<SpecialFiles>) -> Vec<(SpecialKind, String)> {
    let found = found.unwrap_or_default();
    assert_eq!((found.not_seen, found.more), (None, 0), "{found:?}");
    let mut all: Vec<_> = found.named.into_iter().map(|one| (one.kind, one.path)).collect();
    all.sort_by(|one, other| one.1.cmp(&other.1));
    all
}

fn named(kind: SpecialKind, path: &str) -> (SpecialKind, String) {
    (kind, path.to_owned())
}

#[test]
fn sockets_and_fifos_are_told_of_and_an_ordinary_root_is_not() {
    let fixture = Fixture::new();
    symlink("nowhere", fixture.path("data/link")).expect("a link");
    assert_eq!(fixture.look(), None, "the control");
    let _listener = fixture.socket("data/sub/x.sock");
    fixture.fifo("data/q");
    // Nobody holds the other end: whoever opened it would wait for ever.
    fixture.fifo("data/sub/deep/q");
    let found = [
        named(SpecialKind::Fifo, "q"),
        named(SpecialKind::Fifo, "sub/deep/q"),
        named(SpecialKind::Socket, "sub/x.sock"),
    ];
    assert_eq!(all(fixture.look()), found);
}

#[test]
fn devices_are_told_of() {
    let fixture = Fixture::new();
    let null = makedev(1, 3);
    match node(&fixture.path("data/null"), FileType::CharacterDevice, null) {
        Ok(()) => {
            assert_eq!(all(fixture.look()), [named(SpecialKind::CharacterDevice, "null")]);
            node(&fixture.path("data/disk"), FileType::BlockDevice, makedev(7, 0)).expect("the same right");
            let both = [named(SpecialKind::BlockDevice, "disk"), named(SpecialKind::CharacterDevice, "null")];
            assert_eq!(all(fixture.look()), both);
        }
        Err(errno) => {
            // Only a privileged user makes one; those of the machine are found by anybody.
            assert_eq!(errno, Errno::PERM);
            let table = RootTable::new(Vec::new(), Vec::new());
            let found = look(&table, Path::new("/dev"), "/*", BOUNDS).expect("the machine has devices");
            assert!(found.named.iter().any(|one| one.kind == SpecialKind::CharacterDevice), "{found:?}");
        }
    }
}

#[test]
fn no_link_is_followed() {
    let fixture = Fixture::new();
    let _listener = fixture.socket("outside/x.sock");
    symlink(fixture.path("outside/x.sock"), fixture.path("data/sock")).expect("a link");
    symlink(fixture.path("outside"), fixture.path("data/folder")).expect("a link");
    symlink("../outside", fixture.path("data/sub/up")).expect("a link");
    assert_eq!(fixture.look(), None);
    let table = RootTable::new(Vec::new(), Vec::new());
    let found = look(&table, &fixture.path("outside"), "/*", BOUNDS);
    assert_eq!(all(found), [named(SpecialKind::Socket, "x.sock")], "the control");
}

#[test]
fn a_walk_that_reaches_a_bound_says_so() {
    let fixture = Fixture::new();
    fixture.fifo("data/sub/deep/q");
    let table = RootTable::new(Vec::new(), Vec::new());
    // In all there are `sub`, `sub/file`, `sub/deep` and the FIFO.
    for (entries, depth, not_seen) in [
        (4, 2, None),
        (3, 2, Some(NotSeen::Entries)),
        (4, 1, Some(NotSeen::Depth)),
        (1, 0, Some(NotSeen::Depth)),
    ] {
        let found = look(&table, &fixture.path("data"), "/*", Bounds { entries, depth });
        let found = found.expect("something is to be told");
        assert_eq!(found.not_seen, not_seen, "{entries} entries, {depth} deep");
        let is_whole = !found.to_string().contains("was not looked through completely");
        assert_eq!(is_whole, not_seen.is_none(), "{found}");
    }
}

#[test]
fn what_was_ended_is_out_of_time_and_stops() {
    let fixture = Fixture::new();
    fixture.fifo("data/q");
    let table = RootTable::new(Vec::new(), Vec::new());
    let pattern = PathPattern::parse(&format!("{}/*", fixture.path("data").display())).expect("a pattern");
    table.open_root(GRANT, &pattern, false).expect("a root");
    let survey = Survey::new();
    let out_of_time = SpecialFiles { not_seen: Some(NotSeen::Time), ..SpecialFiles::default() };
    assert_eq!(survey.end(), Some(out_of_time.clone()), "nothing was looked at yet");
    survey.look_through(&table, GRANT);
    assert_eq!(survey.end(), Some(out_of_time), "and nothing is after its end");
    let survey = Survey::new();
    survey.look_through(&table, GRANT);
    assert_eq!(all(survey.end()), [named(SpecialKind::Fifo, "q")], "the control");
}

#[test]
fn what_is_aaos_s_own_is_not_told_of() {
    let fixture = Fixture::new();
    let _state = fixture.socket("data/sub/deep/agentd.sock");
    let _socket = fixture.socket("data/own.sock");
    let own = vec![fixture.path("data/sub"), fixture.path("data/own.sock")];
    let table = RootTable::new(own, Vec::new());
    assert_eq!(look(&table, &fixture.path("data"), "/*", BOUNDS), None);
    assert_eq!(all(fixture.look()).len(), 2, "the control");
}

#[test]
fn names_are_shown_harmlessly_and_a_grant_of_one_file_has_nothing_below_it() {
    let fixture = Fixture::new();
    fixture.fifo("data/a\u{1b}[2J\nb");
    assert_eq!(all(fixture.look()), [named(SpecialKind::Fifo, "a\\x1b[2J\\nb")]);
    let table = RootTable::new(Vec::new(), Vec::new());
    fs::write(fixture.path("data/file"), "text").expect("written");
    assert_eq!(look(&table, &fixture.path("data"), "/file", BOUNDS), None);
}
