//! Roots on real directories. Every refusal has its control: an ordinary open gets there.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use aaos_core::id::GrantId;
use aaos_core::path::{AbsPath, PathPattern, Reach};
use aaos_core::toolio::FileKind;
use rustix::fs::{CWD, FileType, Mode, RenameFlags};
use tempfile::TempDir;
use testkit::{PATIENCE, scratch};
use uuid::Uuid;

use super::{RootError, RootTable};
use crate::beneath::Links;

const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));
const CHILD: GrantId = GrantId::from_uuid(Uuid::from_u128(2));
const GRANDCHILD: GrantId = GrantId::from_uuid(Uuid::from_u128(3));
/// Fewest rounds of the race; each opens while another thread swaps.
const RACE_ROUNDS: usize = 3_000;

fn pattern(path: &Path, suffix: &str) -> PathPattern {
    PathPattern::parse(&format!("{}{suffix}", path.display())).expect("a pattern")
}

/// Reads through a grant as a tool call would.
fn read(table: &RootTable, grant: GrantId, relative: &str) -> Result<String, RootError> {
    read_by(table, grant, relative, Links::Follow)
}

fn read_by(table: &RootTable, grant: GrantId, relative: &str, links: Links) -> Result<String, RootError> {
    let root = table.root(grant)?;
    let base = root.base(table.protection(), relative);
    let opened = base.open_readable(root.target(relative)?.as_bytes(), root.resolve(links))?;
    let mut text = String::new();
    let mut file = fs::File::from(opened.fd);
    match file.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(source) => Err(RootError::Io { action: "read", path: relative.to_owned(), source }),
    }
}

/// `data` (granted) with a file, and `outside` with another.
struct Fixture {
    dir: TempDir,
    table: RootTable,
}

impl Fixture {
    fn new() -> Self {
        let dir = scratch();
        fs::create_dir_all(dir.path().join("data/sub")).expect("made");
        fs::create_dir(dir.path().join("outside")).expect("made");
        fs::write(dir.path().join("data/f"), "inside").expect("written");
        fs::write(dir.path().join("data/sub/f"), "inside").expect("written");
        fs::write(dir.path().join("outside/f"), "outside").expect("written");
        let table = RootTable::new(Vec::new(), Vec::new());
        table.open_root(GRANT, &pattern(&dir.path().join("data"), "/*"), false).expect("a root");
        Self { dir, table }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn read(&self, relative: &str) -> Result<String, RootError> {
        read(&self.table, GRANT, relative)
    }
}

#[test]
fn what_lies_below_a_root_is_read_also_through_links_that_stay_below() {
    let fixture = Fixture::new();
    symlink("sub/f", fixture.path("data/link")).expect("linked");
    symlink("../f", fixture.path("data/sub/up")).expect("linked");
    for relative in ["f", "sub/f", "sub/../f", "link", "sub/up"] {
        assert_eq!(fixture.read(relative).expect(relative), "inside");
    }
    assert!(matches!(fixture.read("nothing"), Err(RootError::NotFound { .. })));
}

#[test]
fn where_a_place_was_approved_nothing_is_read_through_a_link() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("data/other")).expect("made");
    fs::write(fixture.path("data/other/f"), "elsewhere").expect("written");
    symlink("../other", fixture.path("data/sub/way")).expect("linked");
    symlink("../other/f", fixture.path("data/sub/link")).expect("linked");
    for relative in ["sub/way", "sub/way/f", "sub/link"] {
        let refused = read_by(&fixture.table, GRANT, relative, Links::Refuse);
        assert!(matches!(refused, Err(RootError::Outside { .. })), "{relative}: {refused:?}");
    }
    assert_eq!(read_by(&fixture.table, GRANT, "sub/f", Links::Refuse).expect("a plain path"), "inside");
    for relative in ["sub/way/f", "sub/link"] {
        assert_eq!(fixture.read(relative).expect("the control"), "elsewhere");
    }
}

#[test]
fn nothing_leads_out_of_a_root() {
    let fixture = Fixture::new();
    symlink(fixture.path("outside"), fixture.path("data/absolute")).expect("linked");
    symlink("../outside", fixture.path("data/relative")).expect("linked");
    symlink("../../outside/f", fixture.path("data/sub/file")).expect("linked");
    symlink(fixture.path("data/f"), fixture.path("data/back")).expect("linked");
    symlink(format!("/proc/self/root{}", fixture.path("outside").display()), fixture.path("data/magic"))
        .expect("linked");
    for relative in ["../outside/f", "sub/../../outside/f", "absolute/f", "relative/f", "sub/file", "magic/f"]
    {
        let control =
            fs::read_to_string(fixture.path("data").join(relative)).expect("an ordinary open gets out");
        assert_eq!(control, "outside", "{relative}");
        let refused = fixture.read(relative);
        assert!(matches!(refused, Err(RootError::Outside { .. })), "{relative}: {refused:?}");
    }
    // An absolute link counts as leading out even where it would come back.
    assert!(matches!(fixture.read("back"), Err(RootError::Outside { .. })));
}

#[test]
fn a_sibling_whose_name_begins_alike_is_not_below() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("data-x")).expect("made");
    fs::write(fixture.path("data-x/f"), "outside").expect("written");
    assert!(matches!(fixture.read("../data-x/f"), Err(RootError::Outside { .. })));
    assert!(matches!(fixture.read("-x/f"), Err(RootError::NotFound { .. })));
}

#[test]
fn fifos_sockets_and_devices_are_refused_without_waiting() {
    let fixture = Fixture::new();
    rustix::fs::mknodat(CWD, fixture.path("data/fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .expect("a FIFO");
    let _socket = std::os::unix::net::UnixListener::bind(fixture.path("data/socket")).expect("bound");
    let (done, waits) = mpsc::channel();
    let table = fixture.table.clone();
    std::thread::spawn(move || {
        for name in ["fifo", "socket"] {
            done.send(read(&table, GRANT, name)).expect("somebody waits");
        }
    });
    for _ in 0..2 {
        let refused = waits.recv_timeout(PATIENCE).expect("no open waits for a writer");
        assert!(matches!(refused, Err(RootError::WrongKind { found: FileKind::Other, .. })), "{refused:?}");
    }
    fixture.table.open_root(CHILD, &pattern(Path::new("/dev"), "/*"), false).expect("a root");
    let device = read(&fixture.table, CHILD, "null");
    assert!(matches!(device, Err(RootError::WrongKind { found: FileKind::Other, .. })), "{device:?}");
    assert!(fs::File::open("/dev/null").is_ok(), "the control opens");
}

#[test]
fn pseudo_file_systems_are_reached_by_no_root() {
    let table = RootTable::new(Vec::new(), Vec::new());
    assert!(fs::read("/proc/self/environ").is_ok(), "the control reads it");
    for path in ["/proc/*", "/sys/*", "/proc/self/environ", "/proc/self/*"] {
        let refused = table.open_root(GRANT, &PathPattern::parse(path).expect("a pattern"), false);
        assert!(matches!(refused, Err(RootError::Pseudo { .. })), "{path}: {refused:?}");
    }
    table.open_root(GRANT, &PathPattern::parse("/*").expect("a pattern"), false).expect("the root of all");
    for relative in ["proc/self/environ", "proc/1/status", "sys/kernel"] {
        let refused = read(&table, GRANT, relative);
        let right = matches!(refused, Err(RootError::Outside { .. } | RootError::Pseudo { .. }));
        assert!(right, "{relative}: {refused:?}");
    }
    // A magic link in the spelling of a root is not followed either.
    let magic = table.open_root(CHILD, &PathPattern::parse("/proc/self/root/*").expect("a pattern"), false);
    assert!(magic.is_err(), "{magic:?}");
}

#[test]
fn the_state_directory_is_reached_by_no_grant_but_a_workspace_of_its_own() {
    let dir = scratch();
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("workspace/one/sub")).expect("made");
    fs::create_dir_all(state.join("workspace/two")).expect("made");
    for file in ["journal", "workspace/one/f", "workspace/two/f"] {
        fs::write(state.join(file), "secret").expect("written");
    }
    let table = RootTable::new(vec![state.clone()], vec![state.join("workspace")]);
    table.open_root(GRANT, &pattern(dir.path(), "/*"), false).expect("a root above it");
    symlink("state/journal", dir.path().join("link")).expect("linked");
    for relative in ["state/journal", "link", "state", "state/workspace/one/f", "state/workspace"] {
        let refused = read(&table, GRANT, relative);
        assert!(matches!(refused, Err(RootError::Protected { .. })), "{relative}: {refused:?}");
    }
    for root in ["/*", "/journal", "/workspace/*"] {
        let refused = table.open_root(CHILD, &pattern(&state, root), false);
        assert!(matches!(refused, Err(RootError::Protected { .. })), "{root}: {refused:?}");
    }
    let derived = table.derive(GRANT, CHILD, "state/workspace/two", Reach::Subtree);
    assert!(matches!(derived, Err(RootError::Protected { .. })), "deriving lifts nothing: {derived:?}");
    // The control: the goal's own workspace, and what derives from it.
    table.open_root(CHILD, &pattern(&state, "/workspace/one/*"), false).expect("its own workspace");
    assert_eq!(read(&table, CHILD, "f").expect("its own file"), "secret");
    assert!(read(&table, CHILD, "../two/f").is_err());
    table.derive(CHILD, GRANDCHILD, "sub", Reach::Subtree).expect("below its own workspace");
}

#[test]
fn a_protected_place_that_is_renamed_stays_protected() {
    let dir = scratch();
    fs::create_dir(dir.path().join("state")).expect("made");
    fs::write(dir.path().join("state/key"), "secret").expect("written");
    fs::write(dir.path().join("file"), "secret").expect("written");
    let protected = ["state", "file", "later"].map(|name| dir.path().join(name)).to_vec();
    let table = RootTable::new(protected, Vec::new());
    table.open_root(GRANT, &pattern(dir.path(), "/*"), false).expect("a root");
    fs::rename(dir.path().join("state"), dir.path().join("moved")).expect("renamed");
    assert!(matches!(read(&table, GRANT, "moved/key"), Err(RootError::Protected { .. })));
    // What comes to its place, and a file that is replaced as editors do it.
    fs::create_dir(dir.path().join("state")).expect("made anew");
    fs::write(dir.path().join("state/key"), "secret").expect("written");
    assert!(matches!(read(&table, GRANT, "state/key"), Err(RootError::Protected { .. })));
    fs::write(dir.path().join("next"), "another").expect("written");
    assert_eq!(read(&table, GRANT, "next").expect("the control"), "another");
    fs::rename(dir.path().join("next"), dir.path().join("file")).expect("replaced");
    assert!(matches!(read(&table, GRANT, "file"), Err(RootError::Protected { .. })));
    // One that did not exist when the table was made.
    fs::write(dir.path().join("later"), "secret").expect("written");
    assert!(matches!(read(&table, GRANT, "later"), Err(RootError::Protected { .. })));
}

#[test]
fn a_root_that_is_a_link_is_resolved_once() {
    let fixture = Fixture::new();
    let link = fixture.path("link");
    symlink(fixture.path("data"), &link).expect("linked");
    let opened = fixture.table.open_root(CHILD, &pattern(&link, "/*"), false).expect("a root");
    assert_eq!(opened.pattern, pattern(&fixture.path("data"), "/*"));
    fs::remove_file(&link).expect("removed");
    symlink(fixture.path("outside"), &link).expect("linked elsewhere");
    assert_eq!(read(&fixture.table, CHILD, "f").expect("the first target"), "inside");
    // An exact file that is a link is the file that it meant.
    symlink(fixture.path("data/f"), fixture.path("one")).expect("linked");
    let opened =
        fixture.table.open_root(GRANDCHILD, &pattern(&fixture.path("one"), ""), false).expect("a root");
    assert_eq!(opened.pattern, pattern(&fixture.path("data/f"), ""));
    assert_eq!(opened.identity.path.as_str(), fixture.path("data").to_str().expect("text"));
}

#[test]
fn a_real_root_is_reached_and_made_through_no_link() {
    let fixture = Fixture::new();
    symlink(fixture.path("outside"), fixture.path("data/link")).expect("linked");
    for (wanted, make) in [("data/link", false), ("data/link/new", true)] {
        let wanted = pattern(&fixture.path(wanted), "/*");
        let refused = fixture.table.open_real_root(CHILD, &wanted, make);
        assert!(matches!(refused, Err(RootError::Outside { .. })), "{refused:?}");
    }
    assert!(!fixture.path("outside/new").exists(), "nothing was made behind the link");
    fixture.table.open_real_root(CHILD, &pattern(&fixture.path("data/new"), "/*"), true).expect("made");
    // The control: the operator's own root follows the link, and makes what is missing there.
    let followed = pattern(&fixture.path("data/link/new"), "/*");
    fixture.table.open_root(GRANDCHILD, &followed, true).expect("through the link");
    assert!(fixture.path("outside/new").is_dir());
}

#[test]
fn an_exact_file_grant_reaches_that_file_only() {
    let fixture = Fixture::new();
    fs::write(fixture.path("data/g"), "other").expect("written");
    let opened =
        fixture.table.open_root(CHILD, &pattern(&fixture.path("data/f"), ""), false).expect("a root");
    assert_eq!(opened.pattern.reach(), Reach::Exact);
    assert_eq!(read(&fixture.table, CHILD, "").expect("the file"), "inside");
    for relative in ["g", "f", "../f", "sub/f"] {
        assert!(read(&fixture.table, CHILD, relative).is_err(), "{relative}");
    }
    // The name is not followed when it becomes a link later.
    fs::remove_file(fixture.path("data/f")).expect("removed");
    symlink("g", fixture.path("data/f")).expect("linked");
    assert!(matches!(read(&fixture.table, CHILD, ""), Err(RootError::Outside { .. })));
    let directory = fixture.table.open_root(GRANDCHILD, &pattern(&fixture.path("data/sub"), ""), false);
    assert!(matches!(directory, Err(RootError::WrongKind { found: FileKind::Directory, .. })));
}

#[test]
fn a_missing_root_is_made_only_when_asked() {
    let fixture = Fixture::new();
    let wanted = pattern(&fixture.path("new/deep"), "/*");
    assert!(matches!(fixture.table.open_root(CHILD, &wanted, false), Err(RootError::NotFound { .. })));
    assert!(!fixture.path("new").exists());
    fixture.table.open_root(CHILD, &wanted, true).expect("made");
    assert!(fixture.path("new/deep").is_dir());
    let file = pattern(&fixture.path("other/out.txt"), "");
    fixture.table.open_root(GRANDCHILD, &file, true).expect("its parent made");
    assert!(fixture.path("other").is_dir() && !fixture.path("other/out.txt").exists());
    let table = RootTable::new(vec![fixture.path("state")], Vec::new());
    let refused = table.open_root(CHILD, &pattern(&fixture.path("state/x"), "/*"), true);
    assert!(matches!(refused, Err(RootError::Protected { .. })), "{refused:?}");
    assert!(!fixture.path("state").exists(), "nothing is made in a protected place");
}

#[test]
fn derived_roots_stay_below_their_parents() {
    let fixture = Fixture::new();
    let opened = fixture.table.derive(GRANT, CHILD, "sub", Reach::Subtree).expect("narrower");
    assert_eq!(opened.pattern, pattern(&fixture.path("data/sub"), "/*"));
    assert_eq!(read(&fixture.table, CHILD, "f").expect("below"), "inside");
    assert!(matches!(read(&fixture.table, CHILD, "../f"), Err(RootError::Outside { .. })));
    for relative in ["../outside", "..", "sub/../../outside"] {
        let refused = fixture.table.derive(GRANT, GRANDCHILD, relative, Reach::Subtree);
        assert!(matches!(refused, Err(RootError::Outside { .. })), "{relative}: {refused:?}");
    }
    let exact = fixture.table.derive(CHILD, GRANDCHILD, "f", Reach::Exact).expect("one file");
    assert_eq!(exact.pattern, pattern(&fixture.path("data/sub/f"), ""));
    let fourth = GrantId::from_uuid(Uuid::from_u128(4));
    assert!(fixture.table.derive(GRANDCHILD, fourth, "", Reach::Subtree).is_err());
    fixture.table.derive(GRANDCHILD, fourth, "", Reach::Exact).expect("the same file");
    assert_eq!(read(&fixture.table, fourth, "").expect("the file"), "inside");
}

#[test]
fn a_closed_root_opens_nothing_more() {
    let fixture = Fixture::new();
    assert!(fixture.read("f").is_ok());
    fixture.table.close(GRANT);
    assert!(matches!(fixture.read("f"), Err(RootError::UnknownGrant { .. })));
}

#[test]
fn a_root_is_found_again_only_if_it_is_the_same() {
    let fixture = Fixture::new();
    let data = pattern(&fixture.path("data"), "/*");
    let opened = RootTable::new(Vec::new(), Vec::new()).open_root(GRANT, &data, false).expect("a root");
    let again = RootTable::new(Vec::new(), Vec::new());
    again.reopen(GRANT, &opened.pattern, &opened.identity).expect("the same");
    assert_eq!(read(&again, GRANT, "f").expect("open"), "inside");
    fs::rename(fixture.path("data"), fixture.path("old")).expect("renamed");
    fs::create_dir(fixture.path("data")).expect("another of that name");
    let other = RootTable::new(Vec::new(), Vec::new());
    let refused = other.reopen(GRANT, &opened.pattern, &opened.identity);
    assert!(matches!(refused, Err(RootError::Changed { .. })), "{refused:?}");
    assert!(other.root(GRANT).is_err());
    fs::remove_dir(fixture.path("data")).expect("removed");
    symlink(fixture.path("old"), fixture.path("data")).expect("linked");
    assert!(other.reopen(GRANT, &opened.pattern, &opened.identity).is_err(), "not even through a link to it");
}

#[test]
fn an_output_counts_when_it_is_a_plain_file_without_links() {
    let fixture = Fixture::new();
    let shown = AbsPath::parse("/out").expect("absolute");
    let seen = fixture.table.observe_output(&shown, GRANT, "f").expect("there");
    assert_eq!(seen.size_bytes.0, 6);
    assert_eq!(seen.content_hash, blake3::hash(b"inside").to_hex().to_string());
    assert!(seen.modified.0 > 0);
    symlink("f", fixture.path("data/link")).expect("linked");
    symlink("sub", fixture.path("data/dir")).expect("linked");
    for relative in ["link", "dir/f", "nothing", "sub", "../outside/f"] {
        assert!(fixture.table.observe_output(&shown, GRANT, relative).is_err(), "{relative}");
    }
}

#[test]
fn a_rename_race_never_reads_outside() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("data/x")).expect("made");
    fs::write(fixture.path("data/x/f"), "inside").expect("written");
    symlink(fixture.path("outside"), fixture.path("data/y")).expect("linked");
    symlink("../outside", fixture.path("data/z")).expect("linked");
    let over = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (over, x, y) = (Arc::clone(&over), fixture.path("data/x"), fixture.path("data/y"));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &x, CWD, &y, RenameFlags::EXCHANGE).expect("swapped");
            }
        })
    };
    let (mut inside, mut control) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    // Until both happened, however the threads are scheduled.
    for round in 0.. {
        if (round >= RACE_ROUNDS && inside > 0 && control > 0) || Instant::now() > deadline {
            break;
        }
        std::thread::yield_now();
        match fixture.read("x/f") {
            Ok(text) => {
                assert_eq!(text, "inside");
                inside += 1;
            }
            Err(RootError::Outside { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        if fs::read_to_string(fixture.path("data/x/f")).is_ok_and(|text| text == "outside") {
            control += 1;
        }
    }
    over.store(true, Ordering::Relaxed);
    swapper.join().expect("the swapper ends");
    assert!(inside > 0, "the race let nothing through at all");
    assert!(control > 0, "the control never got outside: the race is no race");
}
