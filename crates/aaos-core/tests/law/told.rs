//! What people are told: why something would be refused, all that is missing, and who can reach what.

use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal};
use aaos_core::effect::{Denied, Need, Needs};
use aaos_core::id::AgentId;
use aaos_core::name::ToolName;
use aaos_core::quantity::{Millis, Timestamp};

use crate::support::{
    NOW, act, admission, agent, all, ask, child, denial, each, exec, grant, host, read, request, tool, world,
    write,
};

fn needs(all: impl Into<Vec<Need>>) -> Needs {
    Needs { all: all.into(), ..Needs::default() }
}

fn missing(explained: Result<Vec<aaos_core::effect::Access>, Vec<Denied>>) -> Vec<String> {
    explained.expect_err("denied").into_iter().map(|denied| denied.missing).collect()
}

#[test]
fn explaining_charges_nothing_and_decides_as_the_law_would() {
    let mut law = world(&["{ tool: echo, max_invocations: 1 }", "file_read: /a/*"]);
    for _ in 0..3 {
        let met = law.explain(agent(1), &needs([tool("echo"), read("/a/x")]), NOW).expect("allowed");
        assert_eq!(met.iter().map(|access| access.grant).collect::<Vec<_>>(), [grant(1), grant(2)]);
        assert_eq!(met[1].relative.as_deref(), Some("x"));
    }
    act(&mut law, 1, tool("echo")).expect("the use is there");
    let denied = law.explain(agent(1), &needs([tool("echo")]), NOW).expect_err("used up");
    assert!(denied[0].reason.contains("used up"), "{denied:?}");
    let two = needs([write("/b"), host("a.org", 443), read("/a/y")]);
    assert_eq!(missing(law.explain(agent(1), &two, NOW)), ["file_write: /b", "network: a.org"]);
    assert_eq!(law.explain(agent(9), &two, NOW), Err(Vec::new()), "nobody there");
}

#[test]
fn a_denial_names_all_that_is_missing_and_gives_the_first_reason() {
    let mut law = world(&["tool: file_write"]);
    let wish = all([tool("file_write"), write("/out/a"), read("/in/a")]);
    let (missing, reason) = denial(ask(&mut law, 1, wish));
    assert_eq!(missing, "file_write: /out/a; file_read: /in/a");
    assert_eq!(reason, "no grant covers it");
    assert_eq!(denial(ask(&mut law, 1, all([tool("echo"), tool("echo")]))).0, "tool: echo", "once");
    assert_eq!(
        denial(ask(&mut law, 1, each([read("/x"), read("/y")]))).0,
        "file_read: /x",
        "of a batch the first"
    );
}

#[test]
fn reach_finds_every_holder_over_the_tree() {
    let mut law = world(&["file_read: /a/*", "{ file_read: /a/b/*, use: false }", "tool: echo"]);
    child(&mut law, 1, 2, &[(1, 10, "file_read: /a/b/*")]).expect("a child");
    child(&mut law, 2, 3, &[(10, 11, "{ file_read: /a/b/c, max_invocations: 1, delegate: false }")])
        .expect("a grandchild");
    law.admit_root(admission(5, None), vec![request(50, "web_search")], NOW).expect("room");
    let who = |law: &Authority, need: &Need| -> Vec<(AgentId, Vec<u128>)> {
        let number = |id: aaos_core::id::GrantId| id.as_uuid().as_u128();
        let reach = law.reach(need, NOW).into_iter();
        reach.map(|one| (one.agent, one.through.iter().map(|held| number(held.grant)).collect())).collect()
    };
    let all_three = [(agent(1), vec![1, 2]), (agent(2), vec![10]), (agent(3), vec![11])];
    assert_eq!(who(&law, &read("/a/b/c")), all_three);
    assert_eq!(who(&law, &read("/a/b/x")), all_three[..2]);
    assert_eq!(who(&law, &read("/ab")), []);
    assert_eq!(who(&law, &host("b.org", 443)), [(agent(5), vec![50])]);
    assert_eq!(who(&law, &host("127.0.0.1", 80)), [], "the public web is not the machine itself");
    let found = law.reach(&read("/a/b/c"), NOW);
    let held = &found[2].through[0];
    assert_eq!(held.words, "{ file_read: \"/a/b/c\", max_invocations: 1, delegate: false }");
    assert_eq!(held.derives_from, [grant(10), grant(1)]);
    assert_eq!((&held.use_now, held.delegate_now), (&Ok(()), false));
    let hand_on = &found[0].through[1];
    assert!(hand_on.use_now.is_err() && hand_on.delegate_now, "{hand_on:?}");
    act(&mut law, 3, read("/a/b/c")).expect("its one use");
    let used_up = law.reach(&read("/a/b/c"), NOW)[2].through[0].use_now.clone();
    assert!(used_up.expect_err("used up").contains("used up"));
    law.revoke(grant(10));
    assert_eq!(who(&law, &read("/a/b/c")), all_three[..1], "what is revoked reaches nothing");
}

#[test]
fn only_an_agent_that_stays_writes_memory() {
    let store = || tool("memory_store");
    for (stable_identity, words) in [(false, "tool: *"), (true, "tool: *")] {
        let mut law = Authority::new(AuthorityLimits::default());
        let root = Admission { stable_identity, ..admission(1, None) };
        law.admit_root(root, vec![request(1, words)], NOW).expect("room");
        for name in ["memory_store", "memory_delete"] {
            assert_eq!(act(&mut law, 1, tool(name)).is_ok(), stable_identity, "{name}");
        }
        assert_eq!(law.explain(agent(1), &needs([store()]), NOW).is_ok(), stable_identity);
        act(&mut law, 1, tool("memory_query")).expect("to look is nobody's harm");
        // A child is never a persistent one, whoever its parent is.
        child(&mut law, 1, 2, &[(1, 10, "tool: *")]).expect("a child");
        let denied = denial(ask(&mut law, 2, all([store()])));
        assert_eq!(denied.0, "a stable identity for tool: memory_store");
        assert!(denied.1.contains("without stable identity"), "{}", denied.1);
    }
}

#[test]
fn a_manifest_decides_about_identity_and_approvals() {
    let of = |more: &str| {
        let text = format!("name: a\nmodel: m\nsystem_prompt: p\n{more}");
        let manifest = aaos_core::manifest::Manifest::parse(&text).expect("a manifest");
        Admission::of(agent(1), &manifest, manifest.budget_config.budget())
    };
    assert!(of("lifecycle: persistent").stable_identity && !of("").stable_identity);
    let echo = ToolName::parse("echo").expect("a tool");
    assert_eq!(of("approval_required: [echo]").approval_required, [echo]);
}

#[test]
fn what_has_expired_is_told_so() {
    let law = world(&["{ tool: echo, expires_in_seconds: 10 }"]);
    let at = |seconds: u64| -> Timestamp { NOW.after(Millis(seconds * 1_000)) };
    assert!(law.explain(agent(1), &needs([tool("echo")]), at(9)).is_ok());
    let denied = law.explain(agent(1), &needs([tool("echo")]), at(10)).expect_err("expired");
    assert!(denied[0].reason.contains("expired"), "{denied:?}");
    let held = &law.reach(&tool("echo"), at(10))[0].through[0];
    assert!(held.use_now.is_err() && !held.delegate_now);
    let wanted = aaos_core::capability::GrantSpec::parse("tool: echo").expect("a grant").capability;
    assert!(matches!(law.delegable(agent(1), &wanted, at(10)), Err(Refusal::Denied(_))));
}

#[test]
fn people_find_an_agent_by_its_name_its_root_and_what_it_holds() {
    let mut law = world(&["tool: echo", "{ tool: grep, max_invocations: 2 }"]);
    child(&mut law, 1, 2, &[(1, 10, "tool: echo"), (2, 11, "tool: grep")]).expect("a child");
    child(&mut law, 2, 3, &[(10, 12, "{ tool: echo, use: false }")]).expect("a grandchild");
    for who in 1..=3 {
        assert_eq!(law.name_of(agent(who)).map(ToString::to_string), Some(format!("agent-{who}")));
        assert_eq!(law.root_of(agent(who)), Some(agent(1)));
    }
    assert_eq!((law.name_of(agent(9)), law.root_of(agent(9))), (None, None));
    assert_eq!([12, 10, 1].map(|id| law.origin_of(grant(id))), [Some(grant(1)); 3]);
    assert_eq!((law.origin_of(grant(11)), law.origin_of(grant(99))), (Some(grant(2)), None));
    act(&mut law, 2, tool("grep")).expect("one of two");
    let held = law.held_by(agent(2), NOW);
    assert_eq!(held.iter().map(|one| one.grant).collect::<Vec<_>>(), [grant(10), grant(11)]);
    assert_eq!(held.iter().map(|one| one.uses_left).collect::<Vec<_>>(), [None, Some(1)]);
    let last = &law.held_by(agent(3), NOW)[0];
    assert_eq!((last.grant, &last.derives_from), (grant(12), &vec![grant(10), grant(1)]));
    assert_eq!((last.words.as_str(), last.delegate_now), ("{ tool: \"echo\", use: false }", true));
    law.revoke(grant(10));
    let held = law.held_by(agent(2), NOW);
    assert_eq!(
        held.iter().map(|one| one.grant).collect::<Vec<_>>(),
        [grant(11)],
        "what is revoked is not held"
    );
    law.remove(agent(3));
    assert_eq!((law.name_of(agent(3)), law.root_of(agent(3))), (None, None));
    assert_eq!(law.held_by(agent(3), NOW), []);
}

#[test]
fn reach_is_told_of_every_kind_of_grant_and_of_nothing_else() {
    let name = |text: &str| aaos_core::name::AgentName::parse(text).expect("a name");
    let kinds: [(&str, Need, Need); 8] = [
        ("tool: *", tool("grep"), read("/a")),
        ("tool: echo", tool("echo"), tool("grep")),
        ("spawn_child: [reader]", Need::Spawn(name("reader")), Need::Spawn(name("writer"))),
        ("spawn_child: [*]", Need::Spawn(name("any")), Need::Message(name("any"))),
        ("network: *.a.org:8080", host("b.a.org", 8080), host("b.a.org", 80)),
        ("web_search", host("b.a.org", 80), host("b.a.org", 8080)),
        ("file_write: /a/*", write("/a/b"), read("/a/b")),
        ("exec: /bin/ls", exec("/bin/ls"), exec("/bin/cat")),
    ];
    for (words, reached, beside) in kinds {
        let law = world(&[words]);
        let found = law.reach(&reached, NOW);
        assert_eq!(found.iter().map(|one| one.agent).collect::<Vec<_>>(), [agent(1)], "{words}");
        assert_eq!((found[0].name.as_str(), found[0].through[0].words.as_str()), ("agent-1", words));
        assert_eq!(law.reach(&beside, NOW), [], "{words} reaches {beside:?}");
    }
}
