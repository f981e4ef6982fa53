//! The broker against a worker that asks for more than it may.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use aaos_core::id::GrantId;
use aaos_core::limits::{MAX_BROKER_BATCH, MAX_BROKERED_CHILDREN, MAX_OPEN_DIRECTORIES};
use aaos_core::path::PathPattern;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{FileKind, ToolFailureKind};
use aaos_core::wire::{Child, EntryName, Handed, Handle};
use tempfile::TempDir;
use testkit::scratch;
use uuid::Uuid;

use super::Broker;
use crate::roots::RootTable;

const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));
const START: Handle = Handle(0);

fn broker(dir: &TempDir) -> (RootTable, Broker) {
    let table = RootTable::new(vec![dir.path().join("state")], Vec::new());
    let pattern = PathPattern::parse(&format!("{}/*", dir.path().display())).expect("a pattern");
    table.open_root(GRANT, &pattern, false).expect("a root");
    let start = File::open(dir.path()).expect("open").into();
    (table.clone(), Broker::new(table, GRANT, false, START, start))
}

fn name(text: &str) -> EntryName {
    EntryName(text.as_bytes().to_vec())
}

fn one(broker: &mut Broker, text: &str, open: bool) -> Child {
    let answer = broker.look_up(START, &[name(text)], open).expect("by the rules");
    answer.children.into_iter().next().expect("one child")
}

fn kind(child: &Child) -> ToolFailureKind {
    match child {
        Child::Failed(failure) => failure.kind,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn children_are_described_or_opened_and_links_never_followed() {
    let dir = scratch();
    fs::write(dir.path().join("f"), "1234").expect("written");
    fs::create_dir(dir.path().join("d")).expect("made");
    symlink("/etc", dir.path().join("link")).expect("linked");
    let (_, mut broker) = broker(&dir);
    assert_eq!(one(&mut broker, "f", false), Child::Described { kind: FileKind::File, size: Bytes(4) });
    assert_eq!(one(&mut broker, "d", false), Child::Described { kind: FileKind::Directory, size: Bytes(0) });
    for open in [false, true] {
        let link = Child::Described { kind: FileKind::Symlink, size: Bytes(0) };
        assert_eq!(one(&mut broker, "link", open), link);
        assert_eq!(kind(&one(&mut broker, "gone", open)), ToolFailureKind::NotFound);
    }
    let answer = broker.look_up(START, &[name("f"), name("d"), name("link")], true).expect("by the rules");
    assert_eq!(answer.descriptors.len(), 2);
    let Child::Opened(Handed::Directory { handle }) = answer.children[1] else { panic!("{answer:?}") };
    assert!(broker.look_up(handle, &[name("x")], true).is_ok(), "what was handed over may be asked about");
    broker.close(&[handle]);
    assert!(broker.look_up(handle, &[name("x")], true).is_err());
}

#[test]
fn a_worker_that_breaks_the_rules_is_told_apart_from_a_failing_child() {
    let dir = scratch();
    let (_, mut broker) = broker(&dir);
    for bad in ["", ".", "..", "a/b", "/etc", "a\0b", &"x".repeat(256)] {
        assert!(broker.look_up(START, &[name(bad)], true).is_err(), "{bad:?}");
    }
    let many = vec![name("x"); MAX_BROKER_BATCH + 1];
    assert!(broker.look_up(START, &many, false).is_err());
    assert!(broker.look_up(START, &many[1..], false).is_ok());
    assert!(broker.look_up(Handle(9), &[name("x")], false).is_err());
}

#[test]
fn a_directory_that_was_moved_out_gives_nothing_protected() {
    let dir = scratch();
    fs::create_dir(dir.path().join("state")).expect("made");
    fs::write(dir.path().join("state/key"), "secret").expect("written");
    let (_, mut broker) = broker(&dir);
    for open in [false, true] {
        assert_eq!(kind(&one(&mut broker, "state", open)), ToolFailureKind::OutsideRoot);
    }
    // A directory held since before it went under the protected one.
    fs::create_dir(dir.path().join("d")).expect("made");
    fs::write(dir.path().join("d/f"), "x").expect("written");
    let Child::Opened(Handed::Directory { handle }) = one(&mut broker, "d", true) else { panic!("opened") };
    assert!(matches!(
        broker.look_up(handle, &[name("f")], true).expect("by the rules").children[0],
        Child::Opened(_)
    ));
    fs::rename(dir.path().join("d"), dir.path().join("state/d")).expect("moved");
    let moved = broker.look_up(handle, &[name("f")], true).expect("by the rules");
    assert_eq!(kind(&moved.children[0]), ToolFailureKind::OutsideRoot);
}

#[test]
fn directories_and_questions_of_one_call_are_bounded() {
    let dir = scratch();
    fs::create_dir(dir.path().join("d")).expect("made");
    let (_, mut broker) = broker(&dir);
    for _ in 1..MAX_OPEN_DIRECTORIES {
        assert!(matches!(one(&mut broker, "d", true), Child::Opened(_)));
    }
    assert_eq!(kind(&one(&mut broker, "d", true)), ToolFailureKind::LimitReached);
    broker.asked = MAX_BROKERED_CHILDREN - 1;
    assert!(matches!(one(&mut broker, "d", false), Child::Described { .. }));
    assert_eq!(kind(&one(&mut broker, "d", false)), ToolFailureKind::LimitReached);
}

#[test]
fn a_revoked_grant_ends_a_walk() {
    let dir = scratch();
    fs::write(dir.path().join("f"), "x").expect("written");
    let (table, mut broker) = broker(&dir);
    assert!(matches!(one(&mut broker, "f", true), Child::Opened(_)));
    table.close(GRANT);
    assert_eq!(kind(&one(&mut broker, "f", true)), ToolFailureKind::Denied);
}
