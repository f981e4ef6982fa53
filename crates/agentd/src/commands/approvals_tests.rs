//! The lists of `approvals`, and what an id names.

use aaos_core::id::ApprovalId;
use aaos_core::path::PathPattern;
use aaos_core::quantity::Timestamp;

use super::super::question::tests::asked;
use aaos_runtime::ApprovalInForce;
use uuid::Uuid;

use super::{Answer, Pending, chosen, in_force_table, table};

fn in_force(number: u128, effect: Option<&str>) -> ApprovalInForce {
    let one = asked(number);
    ApprovalInForce {
        id: ApprovalId::from_uuid(Uuid::from_u128(number)),
        agent_id: one.agent_id,
        agent_name: one.agent_name,
        effect: effect.map(str::to_owned),
        below: effect.map(|_| PathPattern::parse("/out/*").expect("a pattern")),
        paths: if effect.is_some() { Vec::new() } else { vec!["/out/a\u{1b}[2J".to_owned()] },
        uses_left: 3,
        exactly: effect.is_none(),
    }
}

#[test]
fn the_list_says_who_waits_for_what_and_for_how_long() {
    let lines = table(&[asked(7)], Timestamp(31_000));
    assert!(lines[1].contains("  30.0 s  writer  file_write  "), "{lines:?}");
    assert!(lines[1].contains("path=\"/out/a\\u{1b}[2J\"") && lines[1].ends_with("30.0 s"), "{lines:?}");
}

#[test]
fn an_id_or_its_unique_end_names_a_question() {
    let pending = vec![asked(0x10_0001), asked(0x10_0002), asked(0x20_0002)];
    let ids = [pending[0].id, pending[1].id];
    let listed = Pending { pending, in_force: Vec::new() };
    let named = |text: &str| {
        chosen(&listed, text, &Answer::Once).map(|found| found.id).map_err(|error| error.to_string())
    };
    assert_eq!(named(&ids[1].to_string()), Ok(ids[1]));
    assert_eq!(named("100001"), Ok(ids[0]));
    assert!(named("0002").is_err_and(|why| why.contains("2 approvals")));
    assert!(named("abcdef").is_err_and(|why| why.contains("agentd approvals")));
}

#[test]
fn an_approval_in_force_is_listed_and_can_be_denied_alone() {
    let lines = in_force_table(&[in_force(7, Some("file_write")), in_force(8, None)]);
    assert!(lines[1].contains("  writer  file_write below /out/*") && lines[1].ends_with('3'), "{lines:?}");
    assert!(lines[2].contains("one very call on /out/a\\u{1b}[2J"), "{lines:?}");
    let listed = Pending { pending: vec![asked(0x10_0001)], in_force: vec![in_force(0x20_0001, None)] };
    let denied = chosen(&listed, "200001", &Answer::Deny).expect("in force");
    assert!(denied.told.starts_with("withdrawn: one very call"), "{denied:?}");
    let why = chosen(&listed, "200001", &Answer::Once).expect_err("approved already").to_string();
    assert!(why.contains("--deny 200001"), "{why}");
    let both = chosen(&listed, "0001", &Answer::Deny).expect_err("two").to_string();
    assert!(both.contains("names 2 approvals"), "{both}");
}
