//! The list of `approvals`, and which question an id names.

use aaos_core::quantity::Timestamp;

use super::super::question::tests::asked;
use super::{chosen, table};

#[test]
fn the_list_says_who_waits_for_what_and_for_how_long() {
    let lines = table(&[asked(7)], Timestamp(31_000));
    assert!(lines[1].contains("  30.0 s  writer  file_write  "), "{lines:?}");
    assert!(lines[1].contains("path=\"/out/a\\u{1b}[2J\"") && lines[1].ends_with("30.0 s"), "{lines:?}");
}

#[test]
fn an_id_or_its_unique_end_names_a_question() {
    let pending = [asked(0x10_0001), asked(0x10_0002), asked(0x20_0002)];
    let named = |text: &str| chosen(&pending, text).map(|asked| asked.id).map_err(|error| error.to_string());
    assert_eq!(named(&pending[1].id.to_string()), Ok(pending[1].id));
    assert_eq!(named("100001"), Ok(pending[0].id));
    assert!(named("0002").is_err_and(|why| why.contains("2 approvals")));
    assert!(named("abcdef").is_err_and(|why| why.contains("agentd approvals")));
}
