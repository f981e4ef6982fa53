//! How entries look: short, complete, harmless.

use aaos_core::budget::Budget;
use aaos_core::capability::GrantSpec;
use aaos_core::confinement::Boundary;
use aaos_core::confinement::{BoundaryReceipt, ConfinementReceipt, Evidence, Substrate};
use aaos_core::effect::{Denied, EffectClass};
use aaos_core::event::{DeniedBy, Entry, Event, Outcome};
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, CallId, EntryId, GrantId, Seq, WorkerId};
use aaos_core::manifest::Manifest;
use aaos_core::model::{ModelFailure, ModelFailureKind};
use aaos_core::name::ToolName;
use aaos_core::quantity::{Amounts, Bytes, Millis, Timestamp};
use aaos_core::special::{SpecialFiles, SpecialKind};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use uuid::Uuid;

use super::{Names, arguments, line};

fn agent() -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(0xabcd_1234))
}

pub(crate) fn entry(event: Event) -> Entry {
    Entry {
        seq: Seq(7),
        id: EntryId::from_uuid(Uuid::from_u128(1)),
        timestamp: Timestamp(1_709_251_200_000),
        goal_id: None,
        agent_id: Some(agent()),
        trace_id: None,
        parent_event: None,
        event,
        prev_hash: String::new(),
        hash: String::new(),
    }
}

pub(crate) fn spawned() -> Entry {
    let manifest = Manifest::parse("name: reader\nmodel: fast\nsystem_prompt: x").expect("parses");
    entry(Event::AgentSpawned {
        name: manifest.name.clone(),
        parent: Some(AgentId::from_uuid(Uuid::from_u128(9))),
        depth: 1,
        manifest: Box::new(manifest),
        budget: Budget::default(),
        principal: 0,
        spawned_by: None,
    })
}

pub(crate) fn granted(text: &str) -> Entry {
    let spec = GrantSpec::parse(text).expect(text);
    entry(Event::CapabilityGranted {
        grant: GrantRecord {
            id: GrantId::from_uuid(Uuid::from_u128(2)),
            agent: agent(),
            parent: Some(GrantId::from_uuid(Uuid::from_u128(3))),
            capability: spec.capability,
            spelled: None,
            constraints: spec.constraints,
            issued_at: Timestamp(0),
            root: None,
            special: None,
        },
    })
}

/// The same of a root that holds a FIFO.
pub(crate) fn granted_with_a_fifo(text: &str) -> Entry {
    let mut entry = granted(text);
    if let Event::CapabilityGranted { grant } = &mut entry.event {
        let mut special = SpecialFiles::default();
        special.add(SpecialKind::Fifo, "a\u{202e}q");
        grant.special = Some(special);
    }
    entry
}

pub(crate) fn result(failure: Option<ToolFailure>) -> Entry {
    entry(Event::ToolResult {
        call: CallId::from_uuid(Uuid::from_u128(4)),
        tool: ToolName::parse("file_read").expect("a name"),
        outcome: failure.as_ref().map_or(Outcome::Done, ToolFailure::outcome),
        result_hash: String::new(),
        result_bytes: Bytes(2048),
        result: None,
        spent: Amounts::NONE,
        failure,
        worker: Some(WorkerId::from_uuid(Uuid::from_u128(5))),
        elapsed: Millis(12),
    })
}

pub(crate) fn receipt(missing: bool) -> Entry {
    let one = |boundary, evidence| BoundaryReceipt { boundary, evidence, detail: "seen".to_owned() };
    let last = if missing { Evidence::Missing } else { Evidence::Observed };
    entry(Event::ConfinementReceipt {
        role: "worker".to_owned(),
        receipt: ConfinementReceipt {
            worker: WorkerId::from_uuid(Uuid::from_u128(5)),
            pid: 42,
            substrate: Substrate::Process,
            landlock_abi: 6,
            landlock_rules_hash: "00".to_owned(),
            seccomp_filter_hash: "00".to_owned(),
            boundaries: vec![
                one(Boundary::Seccomp, Evidence::Observed),
                one(Boundary::Landlock, Evidence::Probed),
                one(Boundary::OwnUid, last),
            ],
        },
    })
}

fn names() -> Names {
    let mut names = Names::default();
    names.learn(&spawned());
    names
}

#[test]
fn a_line_says_number_time_kind_who_and_facts() {
    let said = |entry: &Entry| line(entry, &names());
    assert_eq!(
        said(&spawned()),
        "     7 2024-03-01T00:00:00.000Z agent_spawned             reader(abcd1234): child of (00000009), \
         depth 1, model fast"
    );
    assert_eq!(
        said(&granted("{ file_read: /x/*, max_invocations: 3 }")),
        "     7 2024-03-01T00:00:00.000Z capability_granted        reader(abcd1234): { file_read: \"/x/*\", \
         max_invocations: 3 } (00000000-0000-0000-0000-000000000002, from \
         00000000-0000-0000-0000-000000000003)"
    );
    assert!(
        said(&granted_with_a_fifo("file_read: /x/*")).ends_with("000003); holds FIFO a\\u{202e}q"),
        "{}",
        said(&granted_with_a_fifo("file_read: /x/*"))
    );
    assert_eq!(
        said(&result(None)),
        "     7 2024-03-01T00:00:00.000Z tool_result               reader(abcd1234): file_read done, 2.0 KiB in \
         12 ms, worker 00000000-0000-0000-0000-000000000005 (call 00000000-0000-0000-0000-000000000004)"
    );
    assert_eq!(
        said(&receipt(true)),
        "     7 2024-03-01T00:00:00.000Z confinement_receipt       reader(abcd1234): worker \
         00000000-0000-0000-0000-000000000005 pid 42, Landlock ABI 6; observed: seccomp; probed: landlock; \
         missing: own_uid"
    );
}

#[test]
fn what_agents_wrote_cannot_drive_the_terminal() {
    let evil = "\u{1b}]0;owned\u{7}\r\nfake line\u{202e}";
    let failure = ToolFailure::new(ToolFailureKind::NotFound, evil);
    let denied = Denied { missing: evil.to_owned(), reason: evil.to_owned(), hint: evil.to_owned() };
    let model = ModelFailure { kind: ModelFailureKind::Timeout, message: evil.to_owned(), retry_after: None };
    let events = [
        result(Some(failure)).event,
        Event::CapabilityDenied { effect: evil.to_owned(), denied, by: DeniedBy::Grants },
        Event::InferenceCompleted {
            call: CallId::from_uuid(Uuid::from_u128(4)),
            result: Err(model),
            attempts: 1,
            possibly_billed: 1,
            spent: Amounts::NONE,
            elapsed: Millis(1),
        },
        Event::MessageDelivered { message: evil.to_owned(), from: None, under: None },
        Event::ToolInvoked {
            call: CallId::from_uuid(Uuid::from_u128(4)),
            tool: ToolName::parse("echo").expect("a name"),
            input: serde_json::json!({ (evil): evil, "list": [evil], "map": { "x": evil } }),
            class: EffectClass::Safe,
            access: Vec::new(),
            denied: Vec::new(),
            charges: Vec::new(),
            model_call: None,
            at: None,
            repeats: 1,
        },
        Event::NetworkFetched {
            call: CallId::from_uuid(Uuid::from_u128(4)),
            url: evil.to_owned(),
            final_url: Some(format!("{evil}x")),
            bytes: Bytes(1),
        },
        Event::WorkerStopped {
            worker: WorkerId::from_uuid(Uuid::from_u128(5)),
            reason: evil.to_owned(),
            stderr_tail: evil.to_owned(),
        },
    ];
    for event in events {
        let said = line(&entry(event), &names());
        assert!(!said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
        assert!(said.contains("owned"), "it is shown, made harmless: {said}");
    }
}

#[test]
fn arguments_are_short() {
    let input = serde_json::json!({
        "path": "/a", "content": "x".repeat(5000), "append": false, "limit": null,
        "paths": ["/1", "/2", "/3", "/4", "/5", "/6"], "max_bytes": 10
    });
    let said = arguments(&input);
    for part in ["path=\"/a\"", "content=(5000 characters)", "\"/4\", 2 more]", "max_bytes=10"] {
        assert!(said.contains(part), "{said} should hold {part}");
    }
    assert!(!said.contains("append") && !said.contains("limit="), "{said}");
}
