//! Words of `grants`, `revoke` and `explain`.

use std::collections::BTreeMap;

use aaos_core::effect::{Denied, FileRight, Need};
use aaos_core::id::{AgentId, GrantId};
use aaos_core::name::AgentName;
use aaos_core::path::AbsPath;
use aaos_core::special::{SpecialFiles, SpecialKind};
use aaos_runtime::{Explanation, GrantView, MetView, ReachView};
use uuid::Uuid;

use super::{authority, chosen, grant_table, need_words, reach_lines, special_lines, verdict};

fn agent(number: u128) -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(number))
}

fn grant(number: u128, words: &str) -> GrantView {
    GrantView {
        id: GrantId::from_uuid(Uuid::from_u128(number)),
        grant: words.to_owned(),
        derives_from: Vec::new(),
        uses_left: None,
        usable: true,
        reason: None,
        delegable: true,
        special: None,
    }
}

fn read(path: &str) -> Need {
    Need::File { right: FileRight::Read, path: AbsPath::parse(path).expect("absolute") }
}

#[test]
fn a_grant_is_named_by_its_id_a_part_of_it_or_its_words() {
    let grants =
        [grant(0x1_0001, "file_write: /out/*"), grant(0x1_0002, "tool: echo"), grant(3, "tool: echo")];
    let named = |text: &str| chosen(&grants, text).map(|grant| grant.id).map_err(|error| error.to_string());
    assert_eq!(named(" file_write: /out/* "), Ok(grants[0].id));
    assert_eq!(named(&grants[1].id.to_string()), Ok(grants[1].id));
    assert_eq!(named("00010002"), Ok(grants[1].id), "the end of the id");
    assert!(
        named("tool: echo")
            .is_err_and(|why| why.contains("2 grants") && why.contains(&grants[2].id.to_string()))
    );
    assert!(
        named("file_write: /").is_err_and(|why| why.contains("it holds: file_write: /out/*")),
        "no prefix"
    );
    assert!(named("02").is_err(), "too short for an id");
}

#[test]
fn a_table_says_what_may_be_done_with_a_grant() {
    let mut bound = grant(1, "file_read: /x\u{1b}/*");
    bound.uses_left = Some(2);
    (bound.usable, bound.reason) = (false, Some("only to hand on".to_owned()));
    bound.derives_from = vec![GrantId::from_uuid(Uuid::from_u128(9))];
    let lines = grant_table(&[bound]);
    assert!(lines[1].contains("/x\\u{1b}/*  2          no: only to hand on  yes"), "{lines:?}");
    assert!(lines[1].ends_with("0009"), "{lines:?}");
}

#[test]
fn what_a_root_holds_is_said_below_the_table() {
    let mut holds = grant(1, "file_read: /x/*");
    let mut special = SpecialFiles::default();
    special.add(SpecialKind::Socket, "run/x\u{202e}.sock");
    holds.special = Some(special);
    let lines = special_lines(&[grant(2, "file_read: /y/*"), holds]);
    assert_eq!(lines, ["file_read: /x/*, which holds socket run/x\\u{202e}.sock"]);
}

#[test]
fn hosts_are_read_with_and_without_a_port() {
    let read = |text| authority(text).map_err(|error| error.0);
    assert_eq!(read("a.org"), Ok(("a.org".to_owned(), None)));
    assert_eq!(read("a.org:80"), Ok(("a.org".to_owned(), Some(80))));
    assert_eq!(read("::1"), Ok(("::1".to_owned(), None)));
    assert_eq!(read("[::1]:8080"), Ok(("::1".to_owned(), Some(8080))));
    for wrong in ["http://a.org", "a.org:x", "a.org:99999", "", "*.a.org", ":80"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_verdict_names_the_grant_or_the_lack() {
    let held = grant(7, "file_read: /x/*");
    let reach = ReachView {
        need: read("/x/a"),
        agent_id: agent(1),
        agent_name: AgentName::parse("lead").expect("a name"),
        ancestors: Vec::new(),
        through: vec![held.clone()],
    };
    let met = vec![MetView { need: read("/x/a"), grant: held.id }];
    let told = Explanation { met, missing: Vec::new(), reach: vec![reach] };
    let said = verdict(agent(1), &told);
    assert_eq!(said, [format!("allowed: file_read: /x/a through file_read: /x/* ({})", held.id)]);
    let missing = Denied {
        missing: "file_read: /x/b".to_owned(),
        reason: "no such grant".to_owned(),
        hint: "ask for it".to_owned(),
    };
    let told = Explanation { met: Vec::new(), missing: vec![missing], reach: Vec::new() };
    let said = verdict(agent(1), &told);
    assert_eq!(said, ["denied: no such grant", "  missing  file_read: /x/b", "  to do    ask for it"]);
    let nothing = Explanation { met: Vec::new(), missing: Vec::new(), reach: Vec::new() };
    assert!(verdict(agent(1), &nothing)[0].starts_with("denied"));
}

#[test]
fn who_can_reach_is_a_tree_in_which_an_ancestor_without_the_grant_has_its_place() {
    let name = |text| AgentName::parse(text).expect("a name");
    let reach = |number, named, ancestors: &[u128], through| ReachView {
        need: read("/x/a"),
        agent_id: agent(number),
        agent_name: name(named),
        ancestors: ancestors.iter().map(|one| agent(*one)).collect(),
        through: vec![through],
    };
    let mut only = grant(7, "file_read: /x/*");
    only.usable = false;
    let found = [
        reach(1, "lead", &[], only),
        reach(3, "reader", &[2, 1], grant(8, "file_read: /x/a")),
        ReachView { need: read("/x/b"), ..reach(1, "lead", &[], grant(7, "file_read: /x/*")) },
    ];
    let names = BTreeMap::from([(agent(2), "middle".to_owned())]);
    let lines = reach_lines(&found, &names);
    let shown: Vec<&str> = lines.iter().map(|line| line.split(" (0000").next().unwrap_or_default()).collect();
    assert_eq!(
        shown,
        [
            "file_read: /x/a",
            "  lead(00000001)",
            "    may only hand it on: file_read: /x/*",
            "    middle(00000002): holds no grant for it",
            "      reader(00000003)",
            "        may use it and hand it on: file_read: /x/a",
            "file_read: /x/b",
            "  lead(00000001)",
            "    may use it and hand it on: file_read: /x/*",
        ]
    );
}

#[test]
fn needs_are_said_in_the_grammar_s_words() {
    let host = |host: &str| Need::Host { host: host.to_owned(), port: 80 };
    assert_eq!(need_words(&host("a.org")), "network: a.org:80");
    assert_eq!(need_words(&host("::1")), "network: [::1]:80");
    assert_eq!(need_words(&read("/x")), "file_read: /x");
}
