//! A denied `file_write` changes nothing: not a byte, a time, a name. Each with the write that is allowed.

use crate::support::{Rig, invoke, manifest, spawn, wait_for_entries};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use testkit::{Client, Snapshot};

/// A tree with an inside, an outside, and ways from one to the other.
struct Tree {
    home: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let home = testkit::scratch();
        let tree = Self { home };
        for folder in ["in", "in/sub", "in-next", "out", "read"] {
            std::fs::create_dir(tree.path(folder)).expect("makes a folder");
        }
        for file in
            ["in/old.txt", "in-next/old.txt", "out/old.txt", "read/old.txt", "exact.txt", "exact.txt2"]
        {
            std::fs::write(tree.path(file), "as it was\n").expect("writes");
        }
        symlink(tree.path("out"), tree.path("in/door")).expect("links");
        symlink(tree.path("out/old.txt"), tree.path("in/window.txt")).expect("links");
        symlink("../out/new.txt", tree.path("in/dangling.txt")).expect("links");
        symlink("/proc/self/root", tree.path("in/root")).expect("links");
        std::fs::hard_link(tree.path("out/old.txt"), tree.path("in/twin.txt")).expect("links");
        let odd = rustix::fs::mknodat(
            rustix::fs::CWD,
            tree.path("in/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        );
        odd.expect("makes a FIFO");
        tree
    }

    fn path(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    /// Writes below `in`, to `exact.txt`, and reads below `read`.
    fn agent(&self, client: &mut Client) -> String {
        let home = self.home.path().display();
        let more = format!(
            "capabilities:\n  - \"tool: *\"\n  - \"file_write: {home}/in/*\"\n  - \"file_read: {home}/in/*\"\n  \
             - \"file_write: {home}/exact.txt\"\n  - \"file_read: {home}/read/*\"\n"
        );
        spawn(client, &manifest("writer", &more))
    }
}

fn write(path: impl AsRef<Path>, append: bool) -> Value {
    json!({ "path": path.as_ref(), "content": "changed\n", "append": append })
}

/// Spelled below the home directory; why it must not be written.
const REFUSED: &[(&str, &str)] = &[
    ("out/old.txt", "outside the root"),
    ("out/new.txt", "outside the root, new"),
    ("in-next/old.txt", "a sibling whose name begins like the root"),
    ("in/../out/old.txt", "through .."),
    ("in/sub/../../out/old.txt", "through .. twice"),
    ("in/../in/old.txt", "through .. and back"),
    ("in/door/old.txt", "through a linked directory"),
    ("in/door/new.txt", "through a linked directory, new"),
    ("in/window.txt", "through a linked file"),
    ("in/dangling.txt", "through a dangling link"),
    ("in/root/tmp/aaos-never", "through a magic link"),
    ("read/old.txt", "to a root for reading"),
    ("read/new.txt", "to a root for reading, new"),
    ("exact.txt2", "beside an exact file"),
    ("exact.txt/below", "below an exact file"),
    ("in", "the root itself"),
    ("in/sub", "a directory"),
    ("in/pipe", "a FIFO"),
    ("in/old.txt/below", "below a file"),
];

#[test]
fn a_denied_write_changes_nothing() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    let agent = tree.agent(&mut client);
    let before = Snapshot::of(tree.home.path());
    for (below, why) in REFUSED {
        for append in [false, true] {
            let path = format!("{}/{below}", tree.home.path().display());
            let refused = invoke(&mut client, &agent, "file_write", write(path, append));
            let failure = refused.expect_err(why);
            let code = failure.code;
            assert!(matches!(code, 1001 | 1002 | 1009 | -32602), "{why}: {failure:?}");
            assert_eq!(Snapshot::of(tree.home.path()), before, "{why} (append: {append}) left a trace");
        }
        let edit = json!({ "path": tree.path(below), "old_string": "as it was", "new_string": "changed" });
        invoke(&mut client, &agent, "file_edit", edit).expect_err(why);
        assert_eq!(Snapshot::of(tree.home.path()), before, "{why} (edit) left a trace");
    }
    assert!(!Path::new("/tmp/aaos-never").exists());
    assert!(wait_for_entries(&rig.daemon, &["capability_denied"], 8).len() >= 8, "denials are audited");
}

#[test]
fn the_same_write_is_done_where_it_is_granted() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    let agent = tree.agent(&mut client);
    for below in ["in/old.txt", "in/new.txt", "in/sub/made/on/the/way.txt", "exact.txt"] {
        let before = Snapshot::of(tree.home.path());
        let written = invoke(&mut client, &agent, "file_write", write(tree.path(below), false));
        assert_eq!(written.expect(below), json!({ "bytes_written": 8 }));
        assert_ne!(Snapshot::of(tree.home.path()), before, "{below}: a write is seen by the snapshot");
        assert_eq!(std::fs::read_to_string(tree.path(below)).expect("written"), "changed\n");
    }
    // An agent with the outside granted writes there: it was the grant that was missing, nothing else.
    let home = tree.home.path().display();
    let wide = format!("capabilities: [\"tool: file_write\", \"file_write: {home}/*\"]\n");
    let wide = spawn(&mut client, &manifest("wide", &wide));
    for below in ["out/new.txt", "in-next/old.txt", "read/old.txt", "exact.txt2"] {
        invoke(&mut client, &wide, "file_write", write(tree.path(below), false)).expect(below);
        assert_eq!(std::fs::read_to_string(tree.path(below)).expect("written"), "changed\n", "{below}");
    }
}

#[test]
fn a_file_that_several_names_share_is_not_changed_through_the_root() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    let agent = tree.agent(&mut client);
    for append in [false, true] {
        let done = invoke(&mut client, &agent, "file_write", write(tree.path("in/twin.txt"), append));
        let outside = std::fs::read_to_string(tree.path("out/old.txt")).expect("still there");
        assert_eq!(outside, "as it was\n", "append: {append}, {done:?}");
    }
}

#[test]
fn the_machine_refuses_too_and_a_failed_write_leaves_no_scrap() {
    if rustix::process::geteuid().is_root() && !writes_are_refused_to_root() {
        // The daemon's broker opens as root here, whom a mode does not stop; the tests above hold all the same.
        return;
    }
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    let agent = tree.agent(&mut client);
    std::fs::set_permissions(tree.path("in/sub"), PermissionsExt::from_mode(0o555)).expect("read-only");
    let before = Snapshot::of(tree.home.path());
    let refused = invoke(&mut client, &agent, "file_write", write(tree.path("in/sub/new.txt"), false));
    refused.expect_err("a read-only directory");
    assert_eq!(Snapshot::of(tree.home.path()), before);
}

/// Whether modes bind this process although it is root (no `CAP_DAC_OVERRIDE`).
fn writes_are_refused_to_root() -> bool {
    let probe = testkit::scratch();
    let made = std::fs::set_permissions(probe.path(), PermissionsExt::from_mode(0o555));
    made.is_ok() && std::fs::write(probe.path().join("x"), "x").is_err()
}
