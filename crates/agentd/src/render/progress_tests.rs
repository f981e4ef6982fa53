//! The story of a run: routine is left out, trouble never.

use aaos_core::confinement::Boundary;
use aaos_core::event::{Entry, Event};
use aaos_core::id::WorkerId;
use aaos_core::quantity::Tokens;
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use uuid::Uuid;

use crate::render::Tone;
use crate::render::entry::tests::{entry, granted, receipt, result, spawned};

use super::{Clock, Story};

fn told(entries: &[Entry]) -> Vec<(Tone, String)> {
    let mut story = Story::new(Clock::Elapsed);
    entries.iter().flat_map(|entry| story.tell(entry)).map(|said| (said.tone, said.text)).collect()
}

fn texts(entries: &[Entry]) -> Vec<String> {
    told(entries).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_child_is_told_with_what_it_may_do() {
    assert_eq!(
        texts(&[spawned(), granted("file_read: /x/*"), receipt(true), result(None)]),
        [
            "    0 ms  reader: started by 00000009, model fast",
            "    0 ms  reader   may file_read: /x/*",
            "    0 ms  reader: worker confined, 2 of 3 boundaries proved; without own_uid",
        ]
    );
}

#[test]
fn a_root_agent_s_grants_were_printed_before() {
    let mut root = spawned();
    if let Event::AgentSpawned { parent, .. } = &mut root.event {
        *parent = None;
    }
    assert_eq!(texts(&[root, granted("file_read: /x/*")]), [""; 0]);
}

#[test]
fn trouble_is_always_told_and_in_its_tone() {
    let failure = ToolFailure::new(ToolFailureKind::NotFound, "there is no /x/y");
    let failed = told(&[spawned(), result(Some(failure))]);
    assert_eq!(failed[1].0, Tone::Bad);
    assert_eq!(failed[1].1, "    0 ms  reader: file_read failed: there is no /x/y (not_found) in 12 ms");
    let budget = entry(Event::BudgetExceeded { wanted: Tokens(9), remaining: Tokens(3) });
    assert_eq!(told(&[budget])[0].0, Tone::Bad);
}

#[test]
fn the_calendar_can_stand_before_the_lines() {
    let said = Story::new(Clock::Calendar).tell(&spawned());
    assert_eq!(said[0].text, "2024-03-01T00:00:00.000Z  reader: started by 00000009, model fast");
}

#[test]
fn the_same_lack_is_told_once() {
    let lack = |boundary| {
        let worker = WorkerId::from_uuid(Uuid::from_u128(5));
        entry(Event::ConfinementDegraded { worker, missing: vec![boundary] })
    };
    let lacks = [lack(Boundary::OwnUid), lack(Boundary::OwnUid), lack(Boundary::PidNamespace)];
    assert_eq!(told(&lacks).len(), 2);
}
