//! The words that people and agents read of the law, and the JSON in which its amounts are kept.

use aaos_core::authority::{Authority, Refusal};
use aaos_core::budget::{Budget, Ceilings, Shortfall};
use aaos_core::capability::GrantSpec;
use aaos_core::effect::{Denied, Need};
use aaos_core::name::AgentName;
use aaos_core::quantity::{Amounts, Millis, Quantity};

use crate::support::{
    NOW, act, admission, agent, all, ask, child, exec, fresh_call, grant, host, read, request, tool, world,
    write,
};

/// Each quantity, the field that bounds it, and how 1500 of it are shown.
const SHOWN: [(Quantity, &str, &str); 8] = [
    (Quantity::Tokens, "max_tokens", "1500 tokens"),
    (Quantity::MicroUsd, "max_usd", "0.0015 USD"),
    (Quantity::WallMillis, "max_wall_seconds", "1.500 s of run time"),
    (Quantity::Children, "max_children", "1500 children"),
    (Quantity::EgressBytes, "max_egress_bytes", "1500 bytes from the network"),
    (Quantity::WrittenBytes, "max_written_bytes", "1500 bytes written"),
    (Quantity::Files, "max_files", "1500 files written"),
    (Quantity::JournalBytes, "max_journal_bytes", "1500 bytes of journal"),
];

#[test]
fn a_purse_says_of_which_quantity_how_much() {
    assert_eq!(SHOWN.map(|(quantity, ..)| quantity), Quantity::ALL);
    for (quantity, field, words) in SHOWN {
        assert_eq!((quantity.field(), quantity.show(1500).as_str()), (field, words));
        assert_eq!(Amounts::of(quantity, 1500).to_string(), words);
        assert_eq!(Budget::of(quantity, 1500).to_string(), words);
        let shortfall = Shortfall { quantity, wanted: 1500, remaining: 1500 };
        let expected = format!("{words} wanted, {words} left ({field})");
        assert_eq!(shortfall.to_string(), expected);
        let refusal = Refusal::Budget { quantity, wanted: 1500, remaining: 1500 };
        assert_eq!(refusal.to_string(), expected, "the same words, whoever says them");
    }
    let both = Amounts::of(Quantity::Tokens, 7).with(Quantity::Files, 2);
    assert_eq!(both.to_string(), "7 tokens, 2 files written");
    assert_eq!(Amounts::NONE.to_string(), "nothing");
    let max = Ceilings::of(Quantity::Tokens, 7).with(Quantity::Files, Some(0));
    let reset_period = Some(Millis(90_000));
    assert_eq!(Budget { max, reset_period }.to_string(), "7 tokens, 0 files written every 90 s");
    assert_eq!(Budget { max: Ceilings::NONE, reset_period }.to_string(), "no limit", "it refills nothing");
}

#[test]
fn amounts_and_ceilings_are_kept_as_maps_of_what_there_is() {
    for quantity in Quantity::ALL {
        let name = serde_json::to_value(quantity).expect("JSON");
        let name = name.as_str().expect("a name");
        let amounts = Amounts::of(quantity, 12).with(Quantity::JournalBytes, 3);
        let json = serde_json::to_value(amounts).expect("JSON");
        assert_eq!(json[name], if quantity == Quantity::JournalBytes { 3 } else { 12 }, "{json}");
        assert_eq!(
            json.as_object().map(serde_json::Map::len),
            Some(amounts.iter().count()),
            "no zeros: {json}"
        );
        assert_eq!(serde_json::from_value::<Amounts>(json).expect("read"), amounts);
        let ceilings = Ceilings::of(quantity, 0);
        let json = serde_json::to_value(ceilings).expect("JSON");
        assert_eq!(json, serde_json::json!({ name: 0 }), "a bound of nothing is a bound");
        assert_eq!(serde_json::from_value::<Ceilings>(json).expect("read"), ceilings);
    }
    assert_eq!(serde_json::to_string(&Amounts::NONE).expect("JSON"), "{}");
    assert_eq!(serde_json::to_string(&Ceilings::NONE).expect("JSON"), "{}");
}

fn denied(law: &mut Authority, need: Need) -> Denied {
    match ask(law, 1, all([need])) {
        Err(Refusal::Denied(denied)) => denied,
        other => panic!("not a denial: {other:?}"),
    }
}

#[test]
fn what_nothing_covers_is_denied_with_what_to_do_instead() {
    let name = || AgentName::parse("reader").expect("a name");
    for (need, hint) in [
        (read("/a"), "a path below one of the granted directories"),
        (write("/a"), "a path below one of the granted directories"),
        (host("localhost", 80), "loopback, private addresses and other ports need a network grant"),
        (tool("echo"), "one of the tools on offer"),
        (Need::Spawn(name()), "a name that the spawn_child grant lists"),
        (Need::Message(name()), "agents that the message_send grant lists"),
        (exec("/bin/ls"), "one of the granted programs"),
    ] {
        let denied = denied(&mut world(&[]), need);
        assert_eq!(denied.reason, "no grant covers it");
        assert!(denied.hint.contains(hint), "{denied:?}");
    }
}

#[test]
fn what_cannot_be_used_now_is_denied_with_the_bound_and_what_helps() {
    let echo = || tool("echo");
    let used = |words: &str| {
        let mut law = world(&[words]);
        act(&mut law, 1, echo()).expect("the first use");
        denied(&mut law, echo())
    };
    let fresh = "ask the parent agent or the operator for a fresh grant";
    let up = used("{ tool: echo, max_invocations: 1 }");
    assert!(up.reason.contains("used up (max_invocations 1") && up.hint.contains(fresh), "{up:?}");
    let fast = used("{ tool: echo, max_per_minute: 1 }");
    assert!(
        fast.reason.contains("too often (max_per_minute 1") && fast.hint == "try again in 60 s",
        "{fast:?}"
    );
    let held = denied(&mut world(&["{ tool: echo, use: false }"]), echo());
    assert!(held.reason.contains("use: false") && held.hint.contains("spawn a child"), "{held:?}");
    let mut law = world(&["tool: echo"]);
    law.revoke(grant(1));
    let revoked = denied(&mut law, echo());
    assert!(revoked.reason.contains("revoked") && revoked.hint.contains(fresh), "{revoked:?}");
    let mut law = world(&["{ tool: echo, expires_in_seconds: 1 }"]);
    let late = law.authorize(agent(1), fresh_call(), all([echo()]), NOW.after(Millis(1_000)));
    let Err(Refusal::Denied(late)) = late else { panic!("not a denial: {late:?}") };
    assert!(late.reason.contains("expired") && late.hint.contains(fresh), "{late:?}");
}

#[test]
fn a_denial_names_three_things_that_are_missing_and_each_once() {
    let mut law = world(&["tool: file_edit"]);
    let wish = all([tool("file_edit"), read("/x"), write("/x"), write("/x"), tool("echo")]);
    let Err(Refusal::Denied(denied)) = ask(&mut law, 1, wish) else { panic!("not a denial") };
    assert_eq!(denied.missing, "file_read: /x; file_write: /x; tool: echo");
}

#[test]
fn what_cannot_be_handed_on_is_refused_with_the_reason() {
    let words = [
        "file_read: /a/*",
        "{ tool: echo, delegate: false }",
        "{ tool: grep, max_invocations: 1 }",
        "{ file_write: /f, use: false }",
    ];
    let mut law = world(&words);
    act(&mut law, 1, tool("grep")).expect("its one use");
    for (from, wanted, reason, hint) in [
        (1, "file_read: /b/*", "no single grant of the parent covers it", "only what the parent holds"),
        (2, "tool: echo", "may not be handed on (delegate: false)", "do this step yourself"),
        (3, "tool: grep", "used up", "fresh grant"),
    ] {
        let capability = GrantSpec::parse(wanted).expect(wanted).capability;
        let asked = law.delegable(agent(1), &capability, NOW).map(|_| ());
        for refused in [asked, child(&mut law, 1, 2, &[(from, 10, wanted)]).map(|_| ())] {
            let Err(Refusal::Denied(denied)) = refused else { panic!("{wanted}: {refused:?}") };
            assert_eq!(denied.missing, wanted);
            assert!(denied.reason.contains(reason) && denied.hint.contains(hint), "{denied:?}");
        }
    }
    child(&mut law, 1, 2, &[(4, 10, "file_write: /f")]).expect("the control");
}

#[test]
fn a_spelling_beside_the_parents_root_is_named() {
    for (spelled, words) in [
        ("/etc/*", "the directory /etc is not below the parent's grant"),
        ("/etc/passwd", "the file /etc/passwd is not below the parent's grant"),
    ] {
        let mut sly = request(10, "file_read: /a/b/*");
        sly.spelled = Some(spelled.to_owned().try_into().expect("a pattern"));
        let refused =
            world(&["file_read: /a/*"]).admit_child(agent(1), admission(2, None), vec![(grant(1), sly)], NOW);
        let Err(Refusal::Denied(denied)) = refused else { panic!("{spelled}: {refused:?}") };
        assert_eq!((denied.missing.as_str(), denied.reason.as_str()), ("file_read: /a/b/*", words));
    }
}
