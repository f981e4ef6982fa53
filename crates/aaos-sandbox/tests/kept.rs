//! A worker that keeps what it was handed, or pushes it back, gains and harms nothing by it.

mod lab;

use std::fs;
use std::path::Path;

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::toolio::ToolFailureKind;
use lab::Lab;
use serde_json::json;
use testkit::{Snapshot, scratch};

const KEEPING: &str = "examples/keeping_worker";

/// Descriptors that are pushed.
const PUSHED: usize = 32;

/// Descriptors that this process, the worker's daemon, has open.
fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("its own").count()
}

#[tokio::test]
async fn a_write_after_the_commit_changes_nothing() {
    let mut lab = Lab::with(scratch(), KEEPING, ConfinementPolicy::default()).await;
    let path = lab.path("data/f");
    let control = lab.call("file_write", json!({"path": path, "content": "good"})).await;
    assert_eq!(
        control,
        Ok(json!({"bytes_written": 4})),
        "the control: written before the seal, it is committed"
    );
    let before = Snapshot::of(Path::new(&lab.path("data")));
    let late = lab.worker.probe(Vec::new()).await.expect("answered");
    assert!(late[0].refused && late[0].detail.contains("PermissionDenied"), "{late:?}");
    assert_eq!(before, Snapshot::of(Path::new(&lab.path("data"))));
    lab.end().await;
}

#[tokio::test]
async fn a_mapping_that_could_still_write_is_not_committed() {
    let mut lab = Lab::with(scratch(), KEEPING, ConfinementPolicy::default()).await;
    let before = Snapshot::of(Path::new(&lab.path("data")));
    let arguments = json!({"path": lab.path("data/f"), "content": "map this"});
    let failure = lab.call("file_write", arguments).await.expect_err("it can be written still");
    assert_eq!(failure.kind, ToolFailureKind::Io, "{failure}");
    assert_eq!(before, Snapshot::of(Path::new(&lab.path("data"))));
    assert!(!lab.worker.is_usable(), "it is not trusted again");
    lab.end().await;
}

#[tokio::test]
async fn a_descriptor_that_is_pushed_back_never_arrives() {
    let mut lab = Lab::with(scratch(), KEEPING, ConfinementPolicy::default()).await;
    let path = lab.path("data/f");
    lab.call("file_write", json!({"path": path, "content": "one"})).await.expect("the first call");
    let before = open_descriptors();
    for _ in 0..PUSHED {
        lab.call("file_write", json!({"path": path, "content": "more"})).await.expect("answered as ever");
    }
    // The daemon may be opening and closing some of its own; each that arrived would stay.
    assert!(
        open_descriptors() < before + PUSHED / 2,
        "the control is `contest`'s: a receiver with room gets it"
    );
    lab.end().await;
}
