//! Removals of hostile trees. Each boundary has its control: an ordinary walk by paths is led astray, or stops.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use aaos_core::limits::{MAX_REMOVAL_DEPTH, MAX_REMOVAL_STEPS};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{CapabilitySet, UnshareFlags};
use tempfile::TempDir;
use testkit::{PATIENCE, Snapshot, scratch};

use super::{Bounds, Left, LeftWhy, Removal, RemovalError, Removed, remove_workspace};

const NAME: &str = "goal";
const WIDE: Bounds = Bounds { depth: MAX_REMOVAL_DEPTH, steps: MAX_REMOVAL_STEPS };
/// Fewest rounds of the race.
const RACE_ROUNDS: usize = 200;

/// `all/goal` is to be removed; `all/other` and `outside` are to stay.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = scratch();
        for made in ["all/goal", "all/other"] {
            fs::create_dir_all(dir.path().join(made)).expect("made");
        }
        fs::write(dir.path().join("all/other/f"), "stays").expect("written");
        let fixture = Self { dir };
        fixture.set_outside();
        fixture
    }

    /// Puts `outside` there, or back.
    fn set_outside(&self) {
        fs::create_dir_all(self.outside().join("sub")).expect("made");
        for file in ["f", "sub/f"] {
            fs::write(self.outside().join(file), "stays").expect("written");
        }
    }

    fn all(&self) -> PathBuf {
        self.dir.path().join("all")
    }

    fn goal(&self, relative: &str) -> PathBuf {
        let goal = self.all().join(NAME);
        // Joined with nothing, it would end in a slash, which follows a link.
        if relative.is_empty() { goal } else { goal.join(relative) }
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn remove(&self) -> Removed {
        remove_workspace(&self.all(), NAME).expect("begun")
    }

    fn begin(&self, bounds: Bounds) -> Removal {
        let fail = |errno: Errno| panic!("the directory of the workspaces: {errno}");
        Removal::new(&self.all(), NAME, bounds, fail).expect("begun")
    }

    /// What has to stay, as it is.
    fn rest(&self) -> [Snapshot; 2] {
        [Snapshot::of(&self.all().join("other")), Snapshot::of(&self.outside())]
    }

    fn assert_gone(&self, removed: &Removed) {
        assert!(removed.left.is_none(), "{removed:?}");
        assert!(self.goal("").symlink_metadata().is_err(), "{removed:?}");
    }
}

/// Removes a tree by paths, asking before each step whether it is a directory, as one writes it without thinking.
/// `before` is called when a directory was listed and is about to be emptied.
fn remove_by_paths(path: &Path, before: &dyn Fn(&Path)) -> std::io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return fs::remove_file(path);
    }
    let children: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
    before(path);
    for child in children {
        remove_by_paths(&path.join(child.file_name()), before)?;
    }
    fs::remove_dir(path)
}

fn swap(one: &Path, other: &Path) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

#[test]
fn a_workspace_goes_with_all_that_is_in_it_and_nothing_else() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.goal("a/b/c")).expect("made");
    for file in ["f", ".hidden", "a/f", "a/b/c/f"] {
        fs::write(fixture.goal(file), "text").expect("written");
    }
    let rest = fixture.rest();
    let removed = fixture.remove();
    fixture.assert_gone(&removed);
    assert_eq!(removed.entries, 8, "four directories and four files");
    assert_eq!(rest, fixture.rest());
    let again = fixture.remove();
    assert_eq!(again.entries, 0, "nothing there is no failure");
    fixture.assert_gone(&again);
}

#[test]
fn only_a_name_below_the_directory_is_removed() {
    let fixture = Fixture::new();
    let before = Snapshot::of(fixture.dir.path());
    let long = "x".repeat(256);
    for name in ["", ".", "..", "../outside", "other/f", "/", "goal/", "go\0al", &long] {
        let refused = remove_workspace(&fixture.all(), name);
        assert!(matches!(refused, Err(RemovalError::NotAName { .. })), "{name:?}: {refused:?}");
    }
    for parent in ["none", "outside/f"] {
        let refused = remove_workspace(&fixture.dir.path().join(parent), NAME);
        assert!(
            matches!(refused, Err(RemovalError::Directory { action: "open", .. })),
            "{parent}: {refused:?}"
        );
    }
    assert_eq!(before, Snapshot::of(fixture.dir.path()));
    assert_eq!(remove_workspace(&fixture.all(), &long[1..]).expect("a name").entries, 0, "the control");
    // Two dots in a name are no way up.
    fs::create_dir(fixture.all().join("..goal")).expect("made");
    assert_eq!(remove_workspace(&fixture.all(), "..goal").expect("a name").entries, 1);
}

#[test]
fn links_and_odd_files_are_removed_and_never_followed() {
    let plant = |fixture: &Fixture| {
        fs::create_dir_all(fixture.goal("sub")).expect("made");
        symlink(fixture.outside(), fixture.goal("dir")).expect("linked");
        symlink("../../outside/f", fixture.goal("file")).expect("linked");
        symlink("../../../outside", fixture.goal("sub/dir")).expect("linked");
        symlink("nowhere", fixture.goal("dangling")).expect("linked");
        symlink("loop", fixture.goal("loop")).expect("linked");
        symlink("/", fixture.goal("slash")).expect("linked");
        rustix::fs::mknodat(CWD, fixture.goal("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("a FIFO");
        drop(UnixListener::bind(fixture.goal("socket")).expect("a socket"));
    };
    let fixture = Fixture::new();
    plant(&fixture);
    let rest = fixture.rest();
    let removed = fixture.remove();
    fixture.assert_gone(&removed);
    assert_eq!(removed.entries, 10);
    assert_eq!(rest, fixture.rest());
    // A second name of a file goes, the file stays.
    fs::create_dir(fixture.goal("")).expect("made");
    fs::hard_link(fixture.outside().join("f"), fixture.goal("hard")).expect("linked");
    fixture.assert_gone(&fixture.remove());
    assert_eq!(fs::metadata(fixture.outside().join("f")).expect("there").nlink(), 1);
    // The workspace itself is a link.
    symlink(fixture.outside(), fixture.goal("")).expect("linked");
    assert_eq!(fixture.remove().entries, 1);
    assert!(fixture.outside().join("f").exists());
    // The control: through the link there is a way.
    symlink(fixture.outside(), fixture.goal("")).expect("linked");
    fs::remove_file(fixture.goal("f")).expect("removed through the link");
    assert!(!fixture.outside().join("f").exists());
}

/// Goes on until `sub` is being emptied.
fn enter_sub(removal: &mut Removal) {
    while removal.levels.len() < 2 {
        assert!(removal.step(), "it ended before the directory was entered");
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_link_while_it_is_emptied_leads_nowhere() {
    let planted = || {
        let fixture = Fixture::new();
        fs::create_dir(fixture.goal("sub")).expect("made");
        fs::write(fixture.goal("sub/f"), "goes").expect("written");
        symlink(fixture.outside(), fixture.dir.path().join("link")).expect("linked");
        fixture
    };
    let fixture = planted();
    let rest = fixture.rest();
    let mut removal = fixture.begin(WIDE);
    enter_sub(&mut removal);
    swap(&fixture.goal("sub"), &fixture.dir.path().join("link")).expect("swapped");
    while removal.step() {}
    fixture.assert_gone(&removal.removed);
    assert_eq!(rest, fixture.rest());
    let moved = fs::read_dir(fixture.dir.path().join("link")).expect("a directory now");
    assert_eq!(moved.count(), 0, "what was entered was emptied, where it is by now");
    // The control: a walk by paths is led outside by the same swap.
    let fixture = planted();
    let link = fixture.dir.path().join("link");
    let at_sub = |path: &Path| {
        if path.ends_with("sub") {
            swap(path, &link).expect("swapped");
        }
    };
    assert!(remove_by_paths(&fixture.goal(""), &at_sub).is_err(), "the link is no directory to be removed");
    assert!(!fixture.outside().join("f").exists(), "the control was not led astray");
}

#[test]
fn what_is_renamed_or_appears_while_a_directory_is_emptied_goes_too() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.goal("sub/deep")).expect("made");
    fs::create_dir_all(fixture.goal("twin/deep")).expect("made");
    fs::write(fixture.goal("sub/deep/f"), "goes").expect("written");
    fs::write(fixture.goal("twin/deep/f"), "goes").expect("written");
    let rest = fixture.rest();
    let mut removal = fixture.begin(WIDE);
    enter_sub(&mut removal);
    // Whichever of the two was entered has the other's name now; the one that has its name is full.
    swap(&fixture.goal("sub"), &fixture.goal("twin")).expect("swapped");
    fs::write(fixture.goal("late"), "goes").expect("written");
    while removal.step() {}
    fixture.assert_gone(&removal.removed);
    assert_eq!(rest, fixture.rest());
}

/// Sets a flag when it is dropped, so that a failed assertion ends the threads that wait for it.
struct Raise<'f>(&'f AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_race_of_swaps_never_leads_outside() {
    let fixture = Fixture::new();
    let (sub, link) = (fixture.goal("sub"), fixture.goal("link"));
    let plant = || {
        fs::create_dir_all(&sub).expect("made");
        for file in ["f", "g"] {
            fs::write(sub.join(file), "goes").expect("written");
        }
        symlink(fixture.outside(), &link).expect("linked");
    };
    let over = AtomicBool::new(false);
    let mut rounds = 0;
    std::thread::scope(|scope| {
        let raise = Raise(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Often there is nothing to swap: it was removed.
                if swap(&sub, &link).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let deadline = Instant::now() + PATIENCE;
        while rounds < RACE_ROUNDS && Instant::now() < deadline {
            let rest = fixture.rest();
            plant();
            fixture.assert_gone(&fixture.remove());
            assert_eq!(rest, fixture.rest());
            rounds += 1;
        }
        drop(raise);
    });
    assert!(rounds > 0);
    // The control: one such swap, at the worst moment, leads a walk by paths outside.
    fs::create_dir_all(&sub).expect("made");
    fs::write(sub.join("f"), "goes").expect("written");
    symlink(fixture.outside(), fixture.dir.path().join("link")).expect("linked");
    let rest = fixture.rest();
    let at_sub = |path: &Path| {
        if path.ends_with("sub") {
            swap(path, &fixture.dir.path().join("link")).expect("swapped");
        }
    };
    assert!(remove_by_paths(&fixture.goal(""), &at_sub).is_err(), "the link is no directory to be removed");
    assert_ne!(rest, fixture.rest(), "the control was not led astray");
}

/// `depth` directories in one another, with a file in the last.
fn nest(top: &Path, depth: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here: OwnedFd = rustix::fs::open(top, flags, Mode::empty()).expect("open");
    for _ in 0..depth {
        rustix::fs::mkdirat(&here, "d", Mode::from_raw_mode(0o700)).expect("made");
        here = rustix::fs::openat(&here, "d", flags, Mode::empty()).expect("open");
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(&here, "f", flags, Mode::from_raw_mode(0o600)).expect("made");
}

#[test]
fn a_tree_deeper_than_directories_are_held_open_is_removed() {
    let fixture = Fixture::new();
    nest(&fixture.goal(""), 40);
    // Somebody guessed where the deep directories will be moved to.
    for taken in 0..60 {
        fs::write(fixture.goal(&format!(".aaos-lifted-{taken}")), "taken").expect("written");
    }
    let rest = fixture.rest();
    for depth in [2, 3, 7] {
        if !fixture.goal("").exists() {
            fs::create_dir(fixture.goal("")).expect("made");
            nest(&fixture.goal(""), 40);
        }
        let mut removal = fixture.begin(Bounds { depth, steps: 10_000 });
        let mut deepest = 0;
        while removal.step() {
            deepest = deepest.max(removal.levels.len());
        }
        fixture.assert_gone(&removal.removed);
        assert_eq!(deepest, depth, "all that may be held is held, and no more");
    }
    // The control: no path reaches the end of such a tree.
    fs::create_dir(fixture.goal("")).expect("made");
    nest(&fixture.goal(""), 3_000);
    let end = fixture.goal(&"d/".repeat(3_000)).join("f");
    assert_eq!(
        fs::remove_file(end).expect_err("too long").raw_os_error(),
        Some(Errno::NAMETOOLONG.raw_os_error())
    );
    let removed = fixture.remove();
    fixture.assert_gone(&removed);
    assert_eq!(removed.entries, 3_002);
    assert_eq!(rest, fixture.rest());
}

#[test]
fn ten_thousand_files_go_and_a_removal_that_is_bounded_goes_on_when_repeated() {
    let fixture = Fixture::new();
    let plant = |count: usize| {
        fs::create_dir_all(fixture.goal("many")).expect("made");
        for file in 0..count {
            File::create(fixture.goal(&format!("many/{file}"))).expect("made");
        }
    };
    plant(10_000);
    let removed = fixture.remove();
    fixture.assert_gone(&removed);
    assert_eq!(removed.entries, 10_002);
    plant(100);
    let (mut total, mut cut) = (0, 0);
    while fixture.goal("").exists() {
        let mut removal = fixture.begin(Bounds { depth: 4, steps: 20 });
        while removal.step() {}
        assert!(removal.removed.entries > 0 && removal.steps <= 20, "{:?}", removal.removed);
        total += removal.removed.entries;
        if let Some(left) = removal.removed.left {
            assert!(matches!(left.why, LeftWhy::TooMany { limit: 20 }), "{left:?}");
            assert!(left.path.starts_with("goal"), "{left:?}");
            cut += 1;
        }
    }
    assert_eq!(total, 102);
    assert!(cut >= 5, "{cut}");
}

/// Runs `work` in a thread without the rights that let root pass over modes and owners.
fn without_override(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| {
            let over = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER;
            let mut sets = rustix::thread::capabilities(None).expect("known");
            sets.effective.remove(over);
            rustix::thread::set_capabilities(None, sets).expect("given up");
            work();
        });
        ended.join().expect("the work ends well");
    });
}

#[test]
fn modes_that_shut_the_owner_out_are_no_hindrance() {
    let fixture = Fixture::new();
    for (number, mode) in [0o000, 0o100, 0o200, 0o400, 0o300, 0o500, 0o600].into_iter().enumerate() {
        for inner in ["full/inner", "empty"] {
            let path = fixture.goal(&format!("{number}/{inner}"));
            fs::create_dir_all(&path).expect("made");
            let locked = if inner == "empty" { &path } else { path.parent().expect("made") };
            fs::write(locked.join("f"), "goes").expect("written");
            fs::set_permissions(locked, fs::Permissions::from_mode(mode)).expect("set");
        }
    }
    fs::write(fixture.goal("0/read-only"), "goes").expect("written");
    fs::set_permissions(fixture.goal("0/read-only"), fs::Permissions::from_mode(0o000)).expect("set");
    let rest = fixture.rest();
    without_override(|| {
        let refused = fs::remove_dir_all(fixture.goal("")).expect_err("the control: it cannot be listed");
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        fixture.assert_gone(&fixture.remove());
    });
    assert_eq!(rest, fixture.rest());
}

#[test]
fn what_belongs_to_somebody_else_stays_and_is_named() {
    let fixture = Fixture::new();
    let theirs = fixture.goal("a/theirs");
    fs::create_dir_all(theirs.join("inner")).expect("made");
    fs::write(fixture.goal("a/mine"), "goes").expect("written");
    fs::write(fixture.goal("z"), "goes").expect("written");
    let somebody = Uid::from_raw(rustix::process::geteuid().as_raw() + 1);
    if let Err(errno) = rustix::fs::chown(&theirs, Some(somebody), None) {
        assert_eq!(errno, Errno::PERM, "only root gives a directory away");
        return;
    }
    without_override(|| {
        let removed = fixture.remove();
        let left = removed.left.expect("it stays");
        assert_eq!(left.path, "goal/a/theirs/inner");
        assert!(
            matches!(&left.why, LeftWhy::Kernel(error) if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()))
        );
        assert_eq!(removed.entries, 2, "all else is gone");
        // Where it lies too deep it would have to be moved, which takes its owner.
        let mut removal = fixture.begin(Bounds { depth: 2, steps: 100 });
        while removal.step() {}
        let left = removal.removed.left.expect("it stays");
        assert_eq!(left.path, "goal/a/theirs");
        assert!(matches!(left.why, LeftWhy::TooDeep { limit: 2, .. }), "{left:?}");
    });
    fixture.assert_gone(&fixture.remove());
}

#[test]
fn what_is_left_is_named_in_a_bounded_and_harmless_path() {
    let fixture = Fixture::new();
    let dirs = [format!("\u{1b}[2J{}", "é".repeat(100)), "y".repeat(250), "z".repeat(250)];
    let deep = dirs.iter().fold(fixture.goal(""), |path, name| path.join(name));
    fs::create_dir_all(&deep).expect("made");
    fs::write(deep.join("f"), "goes").expect("written");
    let mut removal = fixture.begin(Bounds { depth: 8, steps: 8 });
    while removal.step() {}
    let Left { path, .. } = removal.removed.left.expect("it was cut short");
    assert!(path.len() <= 512 && path.starts_with("goal/\\x1b[2J"), "{path}");
    assert!(!path.chars().any(char::is_control), "{path:?}");
}

/// Runs `work` in a thread with mounts of its own; false where the machine gives none.
fn with_own_mounts(work: impl FnOnce() + Send) -> bool {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: only this thread's view of mounts and its working directory are set apart; no descriptor is.
            if let Err(errno) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) } {
                assert_eq!(errno, Errno::PERM, "only root has mounts of its own");
                return false;
            }
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).expect("set apart");
            work();
            true
        });
        worker.join().expect("the work ends well")
    })
}

#[test]
fn a_mount_point_is_neither_crossed_nor_removed() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.goal("a/mounted")).expect("made");
    for file in ["f", "a/f", "bound"] {
        fs::write(fixture.goal(file), "goes").expect("written");
    }
    let rest = fixture.rest();
    let ran = with_own_mounts(|| {
        rustix::mount::mount_bind(fixture.outside(), fixture.goal("a/mounted")).expect("mounted");
        let removed = fixture.remove();
        let left = removed.left.expect("the mount stays");
        assert_eq!((left.path.as_str(), matches!(left.why, LeftWhy::Mounted)), ("goal/a/mounted", true));
        assert_eq!(removed.entries, 3, "all else is gone");
        assert_eq!(rest, fixture.rest());
        // A file can be mounted upon too.
        fs::write(fixture.goal("bound"), "goes").expect("written");
        rustix::mount::mount_bind(fixture.outside().join("f"), fixture.goal("bound")).expect("mounted");
        assert!(fixture.remove().left.is_some_and(|left| matches!(left.why, LeftWhy::Mounted)));
        assert_eq!(rest, fixture.rest());
        rustix::mount::unmount(fixture.goal("bound"), UnmountFlags::empty()).expect("unmounted");
        // The control: a walk by paths crosses it.
        assert!(remove_by_paths(&fixture.goal(""), &|_| {}).is_err(), "the mount point is busy");
        assert!(!fixture.outside().join("f").exists(), "the control crossed the mount");
        rustix::mount::unmount(fixture.goal("a/mounted"), UnmountFlags::empty()).expect("unmounted");
    });
    fixture.assert_gone(&fixture.remove());
    assert!(ran || rest == fixture.rest());
}
