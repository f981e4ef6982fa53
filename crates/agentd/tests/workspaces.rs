//! Workspaces of goals that ended long ago are removed, and nothing else is.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use serde_json::json;
use testkit::{Backend, DaemonBuilder};

/// The id of a goal that no journal knows, made in 2023.
const LONG_OVER: &str = "0189c0d8-7c1b-7000-8000-0123456789ab";
/// As old as the first, but something changed in its workspace just now.
const CHANGED: &str = "0189c0d8-7c1b-7000-8000-0123456789ac";
/// Made in the year 2286.
const NOT_OLD: &str = "09184e72-9ffe-7000-8000-0123456789ab";

#[test]
fn what_is_older_than_a_week_is_removed_and_links_lead_nowhere() {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let workspaces = builder.home().join("state/workspace");
    let (old, new, other) =
        (workspaces.join(LONG_OVER), workspaces.join(NOT_OLD), workspaces.join("no-goal-at-all"));
    let changed = workspaces.join(CHANGED);
    for directory in [&old, &new, &other, &changed] {
        fs::create_dir_all(directory.join("deep")).expect("makes a directory");
        fs::write(directory.join("deep/notes.md"), "kept").expect("writes");
    }
    let outside = builder.home().join("precious");
    fs::create_dir(&outside).expect("makes a directory");
    fs::write(outside.join("file"), "precious").expect("writes");
    symlink(&outside, old.join("deep/link")).expect("links");
    // As it was left in 2023.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_690_000_000);
    for directory in [&old, &new, &other] {
        fs::File::open(directory).and_then(|opened| opened.set_modified(then)).expect("set");
    }
    let daemon = builder.start();
    let mut client = daemon.client();
    // The stream ends the wait: it shows the entry when the removal is on record.
    let stream = client.send("audit.stream", json!({ "kinds": ["workspace_removed"] }));
    let shown = client.notification().expect("a removal").to_string();
    assert!(shown.contains(LONG_OVER) && shown.contains("\"left\":null"), "{shown} of {stream}");
    assert!(!old.exists(), "it is gone");
    assert_eq!(fs::read_to_string(outside.join("file")).expect("there"), "precious");
    // The controls: the same tree is kept where it is not old, or no goal's.
    for kept in [new, other, changed] {
        assert_eq!(fs::read_to_string(kept.join("deep/notes.md")).expect("there"), "kept");
    }
}
