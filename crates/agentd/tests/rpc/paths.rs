//! Paths of every odd kind against the real daemon, its broker and its workers: what a root holds is reached by
//! any spelling, and nothing else by any. What writes leave untouched is in `denied_writes.rs`.

use crate::support::{Rig, assert_serves, invoke, manifest, spawn};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use testkit::{Client, RpcFailure, Snapshot};

/// A scratch directory with a granted `data` and things beside it.
struct Tree {
    home: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { home: testkit::scratch() };
        for folder in ["data", "data/sub", "data-x", "out"] {
            std::fs::create_dir(tree.path(folder)).expect("makes a folder");
            std::fs::write(tree.path(folder).join("a.txt"), folder).expect("writes");
        }
        tree
    }

    fn path(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    /// As spelled, which a `PathBuf` would tidy up.
    fn spelled(&self, below: &str) -> String {
        format!("{}{below}", self.home.path().display())
    }

    /// An agent with every tool that reads and writes below this.
    fn agent(&self, client: &mut Client, below: &str) -> String {
        let root = self.path(below);
        let root = root.display();
        let more =
            format!("capabilities: [\"tool: *\", \"file_read: {root}/*\", \"file_write: {root}/*\"]\n");
        spawn(client, &manifest("walker", &more))
    }
}

fn read(client: &mut Client, agent: &str, path: impl AsRef<Path>) -> Result<Value, RpcFailure> {
    let input = json!({ "path": path.as_ref().to_str().expect("UTF-8") });
    invoke(client, agent, "file_read", input).map(|mut read| read["content"].take())
}

fn list(client: &mut Client, agent: &str, path: impl AsRef<Path>) -> Result<Value, RpcFailure> {
    invoke(client, agent, "file_list", json!({ "path": path.as_ref() }))
}

fn names(listed: &Value) -> Vec<&str> {
    let entries = listed["entries"].as_array().expect("a list");
    entries.iter().map(|entry| entry["name"].as_str().expect("a name")).collect()
}

#[track_caller]
fn assert_denied(result: Result<Value, RpcFailure>, what: &str) {
    let failure = result.expect_err(what);
    assert_eq!(failure.code, 1002, "{what}: {failure:?}");
}

#[test]
fn a_root_that_is_a_link_is_resolved_once_when_it_is_granted() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    symlink(tree.path("data"), tree.path("link")).expect("links");
    let agent = tree.agent(&mut client, "link");
    // Either spelling reaches the directory that was granted.
    for path in ["link/a.txt", "data/a.txt"] {
        assert_eq!(read(&mut client, &agent, tree.path(path)).expect(path), "data");
    }
    std::fs::remove_file(tree.path("link")).expect("unlinks");
    symlink(tree.path("out"), tree.path("link")).expect("links elsewhere");
    let before = Snapshot::of(&tree.path("out"));
    for path in ["link/a.txt", "data/a.txt"] {
        assert_eq!(read(&mut client, &agent, tree.path(path)).expect(path), "data", "it still is that one");
    }
    let content = json!({ "path": tree.path("link/new.txt"), "content": "x" });
    invoke(&mut client, &agent, "file_write", content).expect("granted");
    assert_eq!(Snapshot::of(&tree.path("out")), before, "what the link leads to now is not touched");
    assert!(tree.path("data/new.txt").exists(), "it went to the directory that was granted");
    assert_denied(read(&mut client, &agent, tree.path("out/a.txt")), "where the link leads now");
    // The control: a grant of the link that is issued now is a grant of what it leads to now.
    let later = tree.agent(&mut client, "link");
    assert_eq!(read(&mut client, &later, tree.path("link/a.txt")).expect("granted"), "out");
    assert_denied(read(&mut client, &later, tree.path("data/a.txt")), "where the link led before");
}

#[test]
fn spellings_of_what_is_granted_reach_it_and_parents_lead_nowhere_else() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    let agent = tree.agent(&mut client, "data");
    for (spelled, content) in [
        ("/data/a.txt", "data"),
        ("//data//a.txt", "data"),
        ("/./data/././a.txt", "data"),
        ("/data//sub///a.txt", "data/sub"),
    ] {
        assert_eq!(read(&mut client, &agent, tree.spelled(spelled)).expect(spelled), content);
    }
    // A `..` that stays inside the root is the machine's to resolve.
    for inside in ["/data/sub/../a.txt", "/data/./sub/.././a.txt"] {
        assert_eq!(read(&mut client, &agent, tree.spelled(inside)).expect(inside), "data");
    }
    let before = Snapshot::of(tree.home.path());
    for outside in [
        "/data/../out/a.txt",
        "/data/../data-x/a.txt",
        "/data/sub/../../out/a.txt",
        "/data/../../../../../../etc/hostname",
        "/data-x/a.txt",
        "/data-x/../data/a.txt",
        "/out/../data/a.txt",
        "/DATA/a.txt",
        "/data /a.txt",
        "/data\n/a.txt",
    ] {
        assert_denied(read(&mut client, &agent, tree.spelled(outside)), outside);
        assert_denied(list(&mut client, &agent, tree.spelled(outside)), outside);
        let grep = json!({ "pattern": "out", "path": tree.spelled(outside) });
        assert_denied(invoke(&mut client, &agent, "grep", grep), outside);
    }
    assert_eq!(Snapshot::of(tree.home.path()), before);
    // The control: where they are granted, the same files are read.
    let wide = tree.agent(&mut client, ".");
    for (spelled, content) in [("/out/a.txt", "out"), ("/data-x/a.txt", "data-x"), ("//data/a.txt", "data")] {
        assert_eq!(read(&mut client, &wide, tree.spelled(spelled)).expect(spelled), content);
    }
}

#[test]
fn the_root_itself_is_listed_and_is_no_file() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    let agent = tree.agent(&mut client, "data");
    for root in ["/data", "/data/", "/data/."] {
        let listed = list(&mut client, &agent, tree.spelled(root)).expect(root);
        assert_eq!((names(&listed), &listed["kind"]), (vec!["a.txt", "sub"], &json!("directory")));
        let failure = read(&mut client, &agent, tree.spelled(root)).expect_err("a directory");
        assert_eq!((failure.code, &failure.data["reason"]), (1009, &json!("wrong_kind")), "{failure:?}");
    }
    assert_denied(list(&mut client, &agent, tree.home.path()), "the directory above");
    assert_denied(list(&mut client, &agent, tree.path("data-x")), "the sibling");
    assert_denied(list(&mut client, &agent, "/"), "the root of all");
}

#[test]
fn links_inside_the_root_lead_nowhere_outside() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    symlink(tree.path("out"), tree.path("data/door")).expect("links");
    symlink("../out/a.txt", tree.path("data/window")).expect("links");
    symlink("/proc/self/root", tree.path("data/magic")).expect("links");
    symlink("loop", tree.path("data/loop")).expect("links");
    let agent = tree.agent(&mut client, "data");
    for path in ["data/door/a.txt", "data/window"] {
        let failure = read(&mut client, &agent, tree.path(path)).expect_err(path);
        assert_eq!(failure.code, 1002, "{path}: {failure:?}");
    }
    for path in ["data/magic/etc/hostname", "data/loop"] {
        read(&mut client, &agent, tree.path(path)).expect_err(path);
    }
    // A walk over the tree does not go through them either.
    let found = json!({ "pattern": "out", "path": tree.path("data") });
    let found = invoke(&mut client, &agent, "grep", found).expect("granted");
    assert_eq!(found["matches"], json!([]), "{found}");
    let listed = list(&mut client, &agent, tree.path("data")).expect("granted");
    let links = listed["entries"].as_array().expect("a list").iter();
    assert_eq!(
        links.filter(|entry| entry["kind"] == "symlink").count(),
        4,
        "shown as what they are: {listed}"
    );
    // The control: the file is read where it is granted.
    let there = tree.agent(&mut client, "out");
    assert_eq!(read(&mut client, &there, tree.path("out/a.txt")).expect("granted"), "out");
}

/// Names that are hard to see or to write, all of them UTF-8.
const ODD_NAMES: [&str; 12] = [
    "line\nbreak",
    "tab\there",
    "bell\u{7}",
    "\u{1b}[31mred",
    " ",
    "ends with a space ",
    "...",
    "*",
    "\u{202e}txt.exe",
    "zero\u{200b}width",
    "-rf",
    "quote\"\\'",
];

#[test]
fn odd_names_are_listed_and_reached_like_any_other() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    for name in ODD_NAMES {
        std::fs::write(tree.path("data/sub").join(name), name).expect("writes");
        std::fs::write(tree.path("out").join(name), "not granted").expect("writes");
    }
    let agent = tree.agent(&mut client, "data");
    let listed = list(&mut client, &agent, tree.path("data/sub")).expect("granted");
    let mut wanted: Vec<&str> = ODD_NAMES.into_iter().chain(["a.txt"]).collect();
    wanted.sort_unstable();
    assert_eq!(names(&listed), wanted);
    let before = Snapshot::of(&tree.path("out"));
    for name in ODD_NAMES {
        let path = tree.path("data/sub").join(name);
        assert_eq!(read(&mut client, &agent, &path).expect(name), name);
        let changed = json!({ "path": path, "content": "changed" });
        invoke(&mut client, &agent, "file_write", changed.clone()).expect(name);
        assert_eq!(std::fs::read_to_string(&path).expect("written"), "changed", "{name:?}");
        let outside = tree.path("out").join(name);
        assert_denied(read(&mut client, &agent, &outside), name);
        let outside = json!({ "path": outside, "content": "changed" });
        assert_denied(invoke(&mut client, &agent, "file_write", outside), name);
    }
    assert_eq!(Snapshot::of(&tree.path("out")), before);
}

#[test]
fn names_that_are_no_utf8_are_shown_harmlessly_and_hurt_nothing() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let tree = Tree::new();
    let folder = tree.path("data/sub");
    let raw = [&b"caf\xe9.txt"[..], b"\xff\xfe", b"half\xc3"];
    for name in raw {
        std::fs::write(folder.join(OsStr::from_bytes(name)), "needle").expect("writes");
    }
    std::fs::create_dir(folder.join(OsStr::from_bytes(b"dir\x80"))).expect("makes a folder");
    std::fs::write(folder.join(OsStr::from_bytes(b"dir\x80")).join("in.txt"), "needle").expect("writes");
    let agent = tree.agent(&mut client, "data");
    let before = Snapshot::of(&tree.path("data"));
    let listed = list(&mut client, &agent, &folder).expect("the listing stands");
    let mut shown = names(&listed);
    shown.sort_unstable();
    assert_eq!(shown, ["a.txt", "caf\u{fffd}.txt", "dir\u{fffd}", "half\u{fffd}", "\u{fffd}\u{fffd}"]);
    // As shown they name nothing: JSON has no words for those bytes, so no request reaches them.
    for name in ["caf\u{fffd}.txt", "\u{fffd}\u{fffd}", "dir\u{fffd}/in.txt"] {
        let failure = read(&mut client, &agent, folder.join(name)).expect_err(name);
        assert_eq!(failure.code, 1001, "{name}: {failure:?}");
        let edit = json!({ "path": folder.join(name), "old_string": "needle", "new_string": "x" });
        assert_eq!(invoke(&mut client, &agent, "file_edit", edit).expect_err(name).code, 1001, "{name}");
    }
    let grep = json!({ "pattern": "sub|needle", "path": tree.path("data") });
    let found = invoke(&mut client, &agent, "grep", grep).expect("the walk stands").to_string();
    assert!(found.contains("a.txt"), "the rest of the tree is searched: {found}");
    assert_eq!(Snapshot::of(&tree.path("data")), before);
    assert_eq!(read(&mut client, &agent, folder.join("a.txt")).expect("still served"), "data/sub");
    // A request that holds such bytes is no JSON: it is refused whole, and the connection goes on or ends cleanly.
    let mut raw = client_line(&agent, &folder);
    raw.extend_from_slice(b"\n");
    let mut stranger = rig.client();
    if stranger.send_bytes(&raw).is_ok()
        && let Ok(reply) = stranger.read_message()
    {
        assert!(reply["error"]["code"] == -32700 || reply["error"]["code"] == -32600, "{reply}");
    }
    assert_serves(&rig.daemon);
}

/// A `tool.invoke` whose path holds bytes that are no UTF-8.
fn client_line(agent: &str, folder: &Path) -> Vec<u8> {
    let params = json!({ "agent_id": agent, "tool": "file_read", "input": { "path": folder.join("NAME") } });
    let line = json!({ "jsonrpc": "2.0", "id": 1, "method": "tool.invoke", "params": params }).to_string();
    let (before, after) = line.split_once("NAME").expect("the name");
    [before.as_bytes(), b"caf\xe9.txt", after.as_bytes()].concat()
}
