//! Narrowing: what a child may be given, and that it never exceeds its parent.

use aaos_core::authority::narrow::narrow_manifest;
use aaos_core::authority::{Authority, AuthorityLimits, Refusal};
use aaos_core::capability::{Capability, GrantSpec};
use aaos_core::effect::{Need, Needs};
use aaos_core::grant::GrantRequest;
use aaos_core::manifest::Manifest;
use aaos_core::quantity::{Millis, Tokens};
use aaos_core::special::{SpecialFiles, SpecialKind};
use aaos_core::supervision::{RestartPolicy, Supervision};
use proptest::prelude::*;

use crate::support::{
    NOW, Wish, act, admission, agent, child, exec, fresh_call, grant, host, read, request, tool, world, write,
};

#[test]
fn each_kind_narrows_and_never_widens() {
    for (parent, inside, outside) in [
        (
            "file_read: /a/*",
            &["file_read: /a/*", "file_read: /a/b/*", "file_read: /a/f"][..],
            &["file_read: /ab/*", "file_read: /*", "file_write: /a/*"][..],
        ),
        (
            "file_write: /a/f",
            &["file_write: /a/f"],
            &["file_write: /a/f/*", "file_write: /a/*", "file_read: /a/f"],
        ),
        ("tool: *", &["tool: *", "tool: echo"], &["web_search"]),
        ("tool: echo", &["tool: echo"], &["tool: *", "tool: grep"]),
        (
            "web_search",
            &["web_search", "network: a.org", "network: *.a.org:443"],
            &[
                "network: a.org:22",
                "network: localhost",
                "network: 127.0.0.1",
                "network: 93.184.216.34",
                "tool: web_fetch",
            ],
        ),
        (
            "network: *.a.org",
            &["network: b.a.org", "network: *.b.a.org"],
            &["network: a.org", "network: *.org", "web_search", "network: b.a.org:81"],
        ),
        ("spawn_child: [*]", &["spawn_child: [*]", "spawn_child: [a, b]"], &["tool: spawn_agent"]),
        ("spawn_child: [a, b]", &["spawn_child: [b]"], &["spawn_child: [*]", "spawn_child: [a, c]"]),
    ] {
        for words in inside {
            let mut law = world(&[parent]);
            let given = child(&mut law, 1, 2, &[(1, 10, words)]);
            assert!(given.is_ok(), "{parent} gives {words}: {given:?}");
        }
        for words in outside {
            let mut law = world(&[parent]);
            let refused = child(&mut law, 1, 2, &[(1, 10, words)]);
            assert!(matches!(refused, Err(Refusal::Denied(_))), "{parent} must not give {words}");
            assert_eq!(law.agent_count(), 1, "a refused child was never there");
        }
    }
}

#[test]
fn only_the_parents_own_delegable_grants_are_given() {
    let mut law = world(&["{ tool: echo, delegate: false }", "tool: grep"]);
    assert!(child(&mut law, 1, 2, &[(1, 10, "tool: echo")]).is_err(), "delegate: false");
    assert!(child(&mut law, 1, 2, &[(99, 10, "tool: echo")]).is_err(), "no such grant");
    law.admit_root(admission(5, None), vec![request(50, "tool: *")], NOW).expect("room");
    assert!(child(&mut law, 1, 2, &[(50, 10, "tool: echo")]).is_err(), "another agent's grant");
    child(&mut law, 1, 2, &[(2, 10, "{ tool: grep, delegate: false }")]).expect("handed on");
    assert!(child(&mut law, 2, 3, &[(10, 11, "tool: grep")]).is_err(), "not further");
    law.revoke(grant(2));
    assert!(child(&mut law, 1, 4, &[(2, 12, "tool: grep")]).is_err(), "revoked");
}

#[test]
fn a_spelling_cannot_reach_beside_the_parents_root() {
    let mut law = world(&["file_read: /a/*"]);
    let mut sly = request(10, "file_read: /a/b/*");
    sly.spelled = Some("/etc/*".to_owned().try_into().expect("a pattern"));
    let refused = law.admit_child(agent(1), admission(2, None), vec![(grant(1), sly)], NOW);
    assert!(matches!(refused, Err(Refusal::Denied(_))));
}

#[test]
fn bounds_are_the_tighter_ones() {
    let mut law = world(&["{ tool: echo, max_invocations: 5, max_per_minute: 9, expires_in_seconds: 100 }"]);
    act(&mut law, 1, tool("echo")).expect("a use");
    let later = NOW.after(Millis(30_500));
    let asked = request(10, "{ tool: echo, max_invocations: 50, expires_in_seconds: 1000, use: false }");
    let given =
        law.admit_child(agent(1), admission(2, None), vec![(grant(1), asked)], later).expect("narrowed");
    let bounds = given[0].constraints;
    assert_eq!(bounds.max_invocations, Some(4));
    assert_eq!(bounds.max_per_minute, Some(9));
    assert_eq!(bounds.expires_in_seconds, Some(69), "ends no later than the parent's");
    assert!(!bounds.usable && bounds.delegate);
}

#[test]
fn uses_and_rates_are_shared_with_all_descendants() {
    let mut law = world(&["{ tool: echo, max_invocations: 3 }"]);
    child(&mut law, 1, 2, &[(1, 10, "tool: echo")]).expect("a child");
    child(&mut law, 1, 3, &[(1, 11, "tool: echo")]).expect("a child");
    child(&mut law, 2, 4, &[(10, 12, "{ tool: echo, max_invocations: 1 }")]).expect("a grandchild");
    act(&mut law, 4, tool("echo")).expect("1");
    assert!(act(&mut law, 4, tool("echo")).is_err(), "its own bound");
    act(&mut law, 3, tool("echo")).expect("2");
    act(&mut law, 1, tool("echo")).expect("3");
    for who in 1..=4 {
        assert!(act(&mut law, who, tool("echo")).is_err(), "agent {who} gets no fourth");
    }
    let mut law = world(&["{ tool: echo, max_per_minute: 1 }"]);
    child(&mut law, 1, 2, &[(1, 10, "tool: echo")]).expect("a child");
    act(&mut law, 2, tool("echo")).expect("the one of this minute");
    assert!(act(&mut law, 1, tool("echo")).is_err());
}

#[test]
fn delegable_finds_the_nearest_root() {
    let law = world(&[
        "file_read: /a/*",
        "{ file_read: /a/b/*, delegate: false }",
        "file_read: /a/b/c/*",
        "file_write: /f",
    ]);
    let find = |words: &str| {
        let capability = GrantSpec::parse(words).expect(words).capability;
        law.delegable(agent(1), &capability, NOW).map(|found| (found.grant, found.relative))
    };
    assert_eq!(find("file_read: /a/b/c/d/*"), Ok((grant(3), Some("d".to_owned()))));
    assert_eq!(find("file_read: /a/b/x"), Ok((grant(1), Some("b/x".to_owned()))), "past the held-back one");
    assert_eq!(find("file_read: /a/*"), Ok((grant(1), Some(String::new()))));
    assert_eq!(find("file_write: /f"), Ok((grant(4), Some(String::new()))));
    assert!(
        matches!(find("file_write: /a/b"), Err(Refusal::Denied(denied)) if denied.missing == "file_write: /a/b")
    );
    let law = world(&["{ web_search: true, delegate: false }"]);
    let refused = law.delegable(agent(1), &Capability::WebSearch, NOW);
    assert!(matches!(refused, Err(Refusal::Denied(denied)) if denied.reason.contains("delegate: false")));
}

#[test]
fn of_grants_that_cover_it_alike_the_first_is_handed_on() {
    for (words, wanted) in [
        (["tool: *", "tool: echo"], "tool: echo"),
        (["{ tool: echo, max_invocations: 1 }", "tool: echo"], "tool: echo"),
        (["file_read: /a/*", "{ file_read: /a/*, max_per_minute: 9 }"], "file_read: /a/b"),
    ] {
        let capability = GrantSpec::parse(wanted).expect(wanted).capability;
        let found = world(&words).delegable(agent(1), &capability, NOW).expect("covered");
        assert_eq!(found.grant, grant(1), "{words:?}");
    }
}

/// An authority whose root agent holds grants that a manifest spells by a link, as grants 1, 2, …
fn linked(held: &[(&str, &str)]) -> Authority {
    let mut law = Authority::new(AuthorityLimits::default());
    let grants = held.iter().zip(1..).map(|((words, spelled), id)| {
        let spelled = Some((*spelled).to_owned().try_into().expect("a pattern"));
        GrantRequest { spelled, ..request(id, words) }
    });
    law.admit_root(admission(1, None), grants.collect(), NOW).expect("room");
    law
}

#[test]
fn what_is_handed_on_may_be_spelled_as_the_parent_spells_it() {
    let law = linked(&[("file_read: /real/*", "/link/*"), ("file_read: /real/f", "/odd/f")]);
    let find = |words: &str| {
        let capability = GrantSpec::parse(words).expect(words).capability;
        law.delegable(agent(1), &capability, NOW).map(|found| (found.grant, found.relative)).ok()
    };
    assert_eq!(find("file_read: /link/a/*"), Some((grant(1), Some("a".to_owned()))));
    assert_eq!(find("file_read: /real/a"), Some((grant(1), Some("a".to_owned()))), "and as it was resolved");
    assert_eq!(find("file_read: /odd/f"), Some((grant(2), Some(String::new()))));
    assert_eq!(find("file_write: /link/a"), None, "another right");
    assert_eq!(find("tool: echo"), None);
    assert_eq!(find("file_read: /odd/f/*"), None, "a file is not a directory");
    assert_eq!(find("file_read: /odd/f/g"), None);
    assert_eq!(find("file_read: /lin/a"), None);
}

#[test]
fn what_a_root_held_is_said_of_the_operator_s_grant_alone() {
    let mut special = SpecialFiles::default();
    special.add(SpecialKind::Fifo, "q");
    let holding = |id| GrantRequest { special: Some(special.clone()), ..request(id, "file_read: /x/*") };
    let mut law = Authority::new(AuthorityLimits::default());
    let own = law.admit_root(admission(1, None), vec![holding(1), request(2, "file_read: /y/*")], NOW);
    let own: Vec<_> = own.expect("room").into_iter().map(|record| record.special).collect();
    assert_eq!(own, [Some(special.clone()), None]);
    let below = law.admit_child(agent(1), admission(2, None), vec![(grant(1), holding(3))], NOW);
    assert_eq!(below.expect("a child")[0].special, None);
    let held =
        |number| law.held_by(agent(number), NOW).into_iter().map(|held| held.special).collect::<Vec<_>>();
    assert_eq!((held(1), held(2)), (vec![Some(special.clone()), None], vec![None]));
}

#[test]
fn a_childs_spelling_lies_below_either_spelling_of_its_parents() {
    for (spelled, admitted) in
        [("/link/b/*", true), ("/real/b/*", true), ("/link/*", true), ("/linked/*", false), ("/*", false)]
    {
        let mut wanted = request(10, "file_read: /real/b/*");
        wanted.spelled = Some(spelled.to_owned().try_into().expect("a pattern"));
        let mut law = linked(&[("file_read: /real/*", "/link/*")]);
        let given = law.admit_child(agent(1), admission(2, None), vec![(grant(1), wanted)], NOW);
        assert_eq!(given.is_ok(), admitted, "{spelled}: {given:?}");
        let path = format!("{}/f", spelled.trim_end_matches("/*"));
        assert_eq!(act(&mut law, 2, read(&path)).is_ok(), admitted, "{path}");
    }
}

#[test]
fn the_manifest_is_narrowed_as_well() {
    let manifest = |more: &str| {
        Manifest::parse(&format!("name: a\nmodel: m\nsystem_prompt: p\n{more}")).expect("a manifest")
    };
    let parent = manifest(
        "memory: { context_window: 8k, max_history_messages: 5 }\nbudget_config: { max_tokens: 50 }",
    );
    let child = narrow_manifest(&parent, manifest("budget_config: { max_tokens: 80 }")).expect("narrowed");
    assert_eq!(child.memory, parent.memory);
    assert_eq!(child.budget_config.max_tokens, Some(Tokens(50)));
    let days = |parent: &str, child: &str| {
        let given = narrow_manifest(&manifest(parent), manifest(child)).expect("narrowed");
        given.memory.archive_ttl_days
    };
    let (three, nine) = ("memory: { archive_ttl_days: 3 }", "memory: { archive_ttl_days: 9 }");
    assert_eq!((days(three, ""), days(three, nine), days(nine, three)), (Some(3), Some(3), Some(3)));
    assert_eq!((days("", nine), days("", "")), (Some(9), None), "the control");
    assert_eq!(narrow_manifest(&parent, manifest("")).expect("narrowed").budget_config, parent.budget_config);
    for lifecycle in ["persistent", "{ scheduled: \"0 9 * * *\" }"] {
        let refused = narrow_manifest(&parent, manifest(&format!("lifecycle: {lifecycle}")));
        let denied = refused.expect_err("a child ends with its goal");
        assert_eq!(denied.missing, format!("lifecycle: {lifecycle}"));
    }
    let often = manifest("supervision: { restart: never, max_restarts: 9, within_seconds: 5 }");
    let given = narrow_manifest(&parent, often.clone()).expect("narrowed").supervision;
    assert_eq!(given, Supervision { restart: RestartPolicy::Never, ..Supervision::default() });
    assert_eq!(narrow_manifest(&often, often.clone()).expect("narrowed").supervision, often.supervision);
}

fn manifest(more: &str) -> Manifest {
    let text = format!("name: a\nsystem_prompt: p\n{more}");
    Manifest::parse(&text).unwrap_or_else(|error| panic!("{more}: {error}"))
}

#[test]
fn a_child_asks_whenever_its_parent_asks() {
    let both = |parent: &str, child: &str| {
        let given = narrow_manifest(
            &manifest(&format!("model: m\napproval_required: {parent}")),
            manifest(&format!("model: m\napproval_required: {child}")),
        );
        let names = given.expect("narrowed").approval_required;
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(both("[web_fetch, echo]", "[file_write, echo]"), "echo file_write web_fetch");
    assert_eq!((both("[echo]", "[]").as_str(), both("[]", "[echo]").as_str()), ("echo", "echo"));
    assert_eq!(both("[]", "[]"), "", "the control: neither asks");
    let asks = "{ tool: echo, approval_required: true }";
    for (parent, asked, inherited) in [
        (asks, "tool: echo", true),
        (asks, "{ tool: echo, approval_required: false }", true),
        ("tool: echo", asks, true),
        ("tool: echo", "tool: echo", false),
    ] {
        let mut law = world(&[parent]);
        let given = child(&mut law, 1, 2, &[(1, 10, asked)]).expect("narrowed");
        assert_eq!(given[0].constraints.approval_required, inherited, "{parent} -> {asked}");
    }
}

#[test]
fn a_child_has_a_model_that_its_parent_may_hand_out() {
    let parent = manifest("model: smart\nchild_models: [fast, cheap]");
    for allowed in [
        "model: smart",
        "model: fast",
        "model: cheap\nchild_models: [cheap, fast, smart]",
        "model: fast\nchild_models: []",
    ] {
        let wanted = manifest(allowed);
        let given = narrow_manifest(&parent, wanted.clone()).expect(allowed);
        assert_eq!((given.model, given.child_models), (wanted.model, wanted.child_models));
    }
    for refused in
        ["model: dear", "model: fast\nchild_models: [dear]", "model: smart\nchild_models: [fast, dear]"]
    {
        let denied = narrow_manifest(&parent, manifest(refused)).expect_err(refused);
        assert_eq!(denied.missing, "child_models: [dear]");
        assert!(denied.reason.contains("a child of a may not use the model dear"), "{}", denied.reason);
        assert_eq!(denied.hint, "use one of: smart, cheap, fast");
    }
    // Each model of a ladder counts, the child's as the parent's.
    let ladder = manifest("models: [smart, fast]\nchild_models: [cheap]");
    for (child, dear) in [
        ("models: [cheap, smart, fast]", None),
        ("model: fast", None),
        ("models: [smart, dear]", Some("dear")),
    ] {
        let narrowed = narrow_manifest(&ladder, manifest(child));
        assert_eq!(
            narrowed.as_ref().err().map(|denied| denied.missing.as_str()),
            dear.map(|_| "child_models: [dear]")
        );
        if let Ok(narrowed) = narrowed {
            assert_eq!(narrowed, manifest(child), "nothing of it is lost");
        } else {
            let hint = narrowed.expect_err("refused").hint;
            assert_eq!(hint, "use one of: smart, fast, cheap");
        }
    }
    let summarising =
        |model: &str| manifest(&format!("model: fast\nmemory: {{ summarization_model: {model} }}"));
    for allowed in ["smart", "fast", "cheap"] {
        assert!(narrow_manifest(&parent, summarising(allowed)).is_ok(), "{allowed}");
    }
    let denied = narrow_manifest(&parent, summarising("dear")).expect_err("a model of its own to summarise");
    assert_eq!(denied.missing, "child_models: [dear]");
    let alone = manifest("model: fast");
    assert!(narrow_manifest(&alone, manifest("model: fast")).is_ok());
    assert!(narrow_manifest(&alone, manifest("model: smart")).is_err(), "its own model only, by default");
    // What the parent hands to its child is all that the child has to hand on.
    let child = narrow_manifest(&parent, manifest("model: fast")).expect("narrowed");
    assert!(narrow_manifest(&child, manifest("model: cheap")).is_err());
}

#[test]
fn a_child_has_no_variable_but_its_parent_s_own() {
    let parent = manifest("model: m\nenvironment: { A: '1', B: '2' }");
    for allowed in ["environment: {}", "environment: { A: '1' }", "environment: { B: '2', A: '1' }"] {
        let wanted = manifest(&format!("model: m\n{allowed}"));
        let given = narrow_manifest(&parent, wanted.clone()).expect(allowed);
        assert_eq!(given.environment, wanted.environment, "none comes of itself");
    }
    for refused in
        ["environment: { C: '1' }", "environment: { A: '1', C: '' }", "environment: { C: '2', B: '2' }"]
    {
        let denied = narrow_manifest(&parent, manifest(&format!("model: m\n{refused}"))).expect_err(refused);
        assert_eq!(denied.missing, "environment: C");
        assert_eq!(denied.hint, "leave it out; the parent has: A, B");
    }
    let other =
        narrow_manifest(&parent, manifest("model: m\nenvironment: { A: '2' }")).expect_err("another value");
    assert!(other.reason.contains("a has no variable A with this value"), "{}", other.reason);
    let alone = narrow_manifest(&manifest("model: m"), parent).expect_err("the parent has none");
    assert_eq!(alone.hint, "leave it out; the parent has: none");
}

#[test]
fn each_ceiling_is_the_lower_of_the_two() {
    for field in [
        "max_tokens",
        "max_usd",
        "max_wall_seconds",
        "max_children",
        "max_egress_bytes",
        "max_written_bytes",
        "max_files",
        "max_journal_bytes",
    ] {
        let with = |most: Option<u32>| {
            let budget = most.map(|most| format!("\nbudget_config: {{ {field}: {most} }}"));
            manifest(&format!("model: m{}", budget.unwrap_or_default()))
        };
        for (parent, child, lower) in [
            (Some(5), Some(8), Some(5)),
            (Some(8), Some(5), Some(5)),
            (Some(5), None, Some(5)),
            (None, Some(5), Some(5)),
            (None, None, None),
        ] {
            let given = narrow_manifest(&with(parent), with(child)).expect("narrowed");
            assert_eq!(given.budget_config, with(lower).budget_config, "{field}: {parent:?}, {child:?}");
        }
    }
}

#[test]
fn a_window_is_the_childs_own_and_never_inherited() {
    let life = "model: m\nbudget_config: { max_tokens: 5 }";
    let hourly = "model: m\nbudget_config: { max_tokens: 9, reset_period_seconds: 3600 }";
    let given = narrow_manifest(&manifest(hourly), manifest(life)).expect("narrowed").budget_config;
    assert_eq!(given, manifest(life).budget_config, "for life, which is narrower than by the hour");
    let given = narrow_manifest(&manifest(hourly), manifest("model: m")).expect("narrowed").budget_config;
    assert_eq!((given.max_tokens, given.reset_period), (Some(Tokens(9)), None));
    let given = narrow_manifest(&manifest(life), manifest(hourly)).expect("narrowed").budget_config;
    assert_eq!((given.max_tokens, given.reset_period), (Some(Tokens(5)), Some(Millis(3_600_000))));
}

/// Grants and needs over so small an alphabet that they meet often.
const WORDS: [&str; 24] = [
    "exec: /bin/ls",
    "exec: /bin/cat",
    "file_read: /*",
    "file_read: /a/*",
    "file_read: /a/b/*",
    "file_read: /a/b",
    "file_read: /ab/*",
    "file_write: /a/*",
    "file_write: /a/b/*",
    "file_write: /a",
    "tool: *",
    "tool: echo",
    "tool: grep",
    "web_search",
    "network: a.org",
    "network: *.a.org",
    "network: *.org:443",
    "network: b.a.org:443",
    "network: 127.0.0.1:80",
    "spawn_child: [*]",
    "spawn_child: [a]",
    "spawn_child: [a, b]",
    "{ tool: *, max_invocations: 2 }",
    "{ file_read: /a/*, expires_in_seconds: 5 }",
];

fn every_need() -> Vec<Need> {
    let name = |text: &str| aaos_core::name::AgentName::parse(text).expect("a name");
    let mut needs = Vec::new();
    for path in ["/", "/a", "/a/b", "/a/b/c", "/ab", "/ab/c", "/a/../x"] {
        needs.extend([read(path), write(path)]);
    }
    for tool_name in ["echo", "grep", "file_read"] {
        needs.push(tool(tool_name));
    }
    for host_name in ["a.org", "b.a.org", "c.b.a.org", "org", "127.0.0.1", "localhost"] {
        needs.extend([host(host_name, 80), host(host_name, 443), host(host_name, 22)]);
    }
    needs.extend([exec("/bin/ls"), exec("/bin/cat")]);
    for agent_name in ["a", "b", "c"] {
        needs.extend([Need::Spawn(name(agent_name)), Need::Message(name(agent_name))]);
    }
    needs
}

/// Whether `who` would be allowed it at `later`; the probe is dropped and thereby refunded.
fn may(law: &mut Authority, who: u128, need: &Need, later: u64) -> bool {
    let wish = Wish(Needs { all: vec![need.clone()], ..Needs::default() });
    law.authorize(agent(who), fresh_call(), wish, NOW.after(Millis(later))).is_ok()
}

proptest! {
    #![proptest_config(crate::properties::config(400))]

    #[test]
    fn a_descendant_may_nothing_that_its_parent_may_not(
        parents in prop::collection::vec(0..WORDS.len(), 1..6),
        children in prop::collection::vec((0..6usize, 0..WORDS.len()), 1..6),
        grandchildren in prop::collection::vec((0..6usize, 0..WORDS.len()), 1..4),
        later in 0..10_000u64,
    ) {
        let mut law = Authority::new(AuthorityLimits::default());
        let held = parents.iter().zip(1..).map(|(at, id)| request(id, WORDS[*at])).collect();
        law.admit_root(admission(1, None), held, NOW).expect("room");
        // Grants are offered one child a grant, so that one refusal does not hide the rest; the first that is
        // taken becomes the child under test, with all that it may have.
        let offers = |law: &mut Authority, from: u128, to: u128, wanted: &[(usize, usize)]| {
            let own: Vec<_> = law.grants_of(agent(from)).iter().map(|record| record.id).collect();
            let mut taken = Vec::new();
            for (at, (parent, words)) in wanted.iter().enumerate() {
                let Some(id) = own.get(parent % own.len().max(1)) else { continue };
                let number = to * 1000 + at as u128;
                let probe = vec![(*id, request(number, WORDS[*words]))];
                if law.admit_child(agent(from), admission(number, None), probe, NOW).is_ok() {
                    law.remove(agent(number));
                    taken.push((*id, request(number, WORDS[*words])));
                }
            }
            law.admit_child(agent(from), admission(to, None), taken, NOW).expect("each was admitted alone");
        };
        offers(&mut law, 1, 2, &children);
        offers(&mut law, 2, 3, &grandchildren);
        for need in every_need() {
            for (descendant, parent) in [(2, 1), (3, 2)] {
                if may(&mut law, descendant, &need, later) {
                    prop_assert!(may(&mut law, parent, &need, later), "{descendant} may {need:?}");
                }
            }
        }
    }
}
