//! Single decisions: what matches, what is charged, what a denial says.

use aaos_core::authority::{Overdraft, Refusal};
use aaos_core::budget::Ceilings;
use aaos_core::capability::HostRule;
use aaos_core::effect::{Authorized, Need};
use aaos_core::quantity::{Quantity, Timestamp};

use crate::support::{
    NOW, act, agent, all, all_and_tokens, ask, child, denial, each, fresh_call, grant, host, inference, read,
    settle_tokens, tokens_of, tool, world, world_with, write,
};

#[test]
fn files_match_on_whole_components_and_leave_parents_to_the_kernel() {
    let mut law = world(&["file_read: /data/*", "file_read: /etc/one", "file_write: /out/*"]);
    for (path, relative) in
        [("/data/a/b", "a/b"), ("/data", ""), ("/data/../etc/passwd", "../etc/passwd"), ("/etc/one", "")]
    {
        let granted = ask(&mut law, 1, all([read(path)])).expect(path).into_parts();
        assert_eq!(granted.all[0].relative.as_deref(), Some(relative), "{path}");
    }
    for path in ["/data-x", "/dat", "/etc/one/two", "/etc/two", "/out/a"] {
        let (missing, reason) = denial(ask(&mut law, 1, all([read(path)])));
        assert_eq!((missing, reason.as_str()), (format!("file_read: {path}"), "no grant covers it"));
    }
    let (missing, _) = denial(ask(&mut law, 1, all([read("/")])));
    assert_eq!(missing, "a file_read grant that covers \"/\"", "no pattern names that directory alone");
    assert!(ask(&mut law, 1, all([write("/data/a")])).is_err(), "reading is not writing");
    let mut root = world(&["file_read: *"]);
    let all_files = ask(&mut root, 1, all([read("/any/thing")])).expect("all files").into_parts();
    assert_eq!(all_files.all[0].relative.as_deref(), Some("any/thing"));
    assert!(ask(&mut root, 1, all([read("/")])).is_ok());
}

#[test]
fn either_spelling_of_a_resolved_root_matches() {
    let mut law = world(&[]);
    let mut request = crate::support::request(7, "file_read: /real/dir/*");
    request.spelled = Some("/link/*".to_owned().try_into().expect("a pattern"));
    law.admit_root(crate::support::admission(2, None), vec![request], NOW).expect("room");
    for path in ["/real/dir/f", "/link/f"] {
        let granted = ask(&mut law, 2, all([read(path)])).expect(path).into_parts();
        assert_eq!(granted.all[0].relative.as_deref(), Some("f"));
    }
    assert!(ask(&mut law, 2, all([read("/linked/f")])).is_err());
}

#[test]
fn the_most_specific_usable_grant_is_taken() {
    let mut law =
        world(&["file_read: /a/*", "{ file_read: /a/b/*, max_invocations: 1 }", "file_read: /a/b/c"]);
    let chosen =
        |law: &mut _, path: &str| ask(law, 1, all([read(path)])).expect(path).into_parts().all[0].grant;
    assert_eq!(chosen(&mut law, "/a/b/c"), grant(3));
    assert_eq!(chosen(&mut law, "/a/b/x"), grant(2));
    assert_eq!(chosen(&mut law, "/a/b/x"), grant(1), "the specific one is used up");
    assert_eq!(chosen(&mut law, "/a/x"), grant(1));
}

#[test]
fn tools_by_name_or_star() {
    let mut law = world(&["{ tool: echo, max_invocations: 1 }", "tool: grep"]);
    assert!(ask(&mut law, 1, all([tool("file_read")])).is_err());
    act(&mut law, 1, tool("echo")).expect("one use");
    let (missing, reason) = denial(ask(&mut law, 1, all([tool("echo")])));
    assert_eq!(missing, "tool: echo");
    assert!(reason.contains("used up"), "{reason}");
    let mut any = world(&["tool: *"]);
    act(&mut any, 1, tool("file_read")).expect("any tool");
}

#[test]
fn a_denied_effect_charges_nothing() {
    let mut law = world_with(&["{ file_read: /a/*, max_invocations: 1, max_per_minute: 1 }"], Some(100));
    for _ in 0..3 {
        assert!(ask(&mut law, 1, all([read("/a/x"), write("/a/x")])).is_err());
        assert!(ask(&mut law, 1, all_and_tokens([read("/a/x"), write("/a/x")], 50)).is_err());
        assert!(ask(&mut law, 1, all([read("/a/x"), read("/a/y")])).is_err(), "two uses wanted, one is left");
    }
    assert_eq!(tokens_of(&law, agent(1), NOW), (0, 0));
    act(&mut law, 1, read("/a/x")).expect("the one use is still there");
    assert!(act(&mut law, 1, read("/a/x")).is_err());
}

#[test]
fn a_batch_is_denied_only_as_a_whole() {
    let mut law = world(&["{ file_read: /a/*, max_invocations: 2 }"]);
    let mixed = ask(&mut law, 1, each([read("/b"), read("/a/1"), read("/a/2"), read("/a/3")]));
    let parts = mixed.expect("some items").into_parts();
    let fine: Vec<bool> = parts.each.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [false, true, true, false], "the third use of two");
    assert_eq!(parts.charges.len(), 2);
    law.refund(parts.call, parts.charges);
    assert_eq!(denial(ask(&mut law, 1, each([read("/b"), read("/c")]))).0, "file_read: /b");
    assert!(ask(&mut law, 1, each([])).is_ok(), "nothing wanted");
}

#[test]
fn rates_count_in_any_minute() {
    let mut law = world(&["{ tool: echo, max_per_minute: 2 }"]);
    let mut at = |ms: u64| {
        let granted = law.authorize(
            agent(1),
            fresh_call(),
            all([tool("echo")]),
            NOW.after(aaos_core::quantity::Millis(ms)),
        );
        granted.map(|granted| granted.into_parts().charges.len()).map_err(|refusal| refusal.to_string())
    };
    assert_eq!(at(0), Ok(1));
    assert_eq!(at(30_000), Ok(1));
    assert!(at(59_999).expect_err("two in this minute").contains("max_per_minute 2"));
    assert_eq!(at(60_000), Ok(1), "the first is a minute old");
    assert!(at(60_001).is_err());
    assert!(at(10).is_err(), "a clock that steps back gains nothing");
    assert_eq!(at(90_000), Ok(1));
}

#[test]
fn expiry_is_exact_and_clock_steps_gain_nothing() {
    let mut law = world(&["{ tool: echo, expires_in_seconds: 10 }"]);
    let mut at =
        |ms: u64| law.authorize(agent(1), fresh_call(), all([tool("echo")]), Timestamp(NOW.0 + ms)).is_ok();
    assert!(at(9_999));
    assert!(!at(10_000));
    assert!(!at(0), "back in time");
}

#[test]
fn hosts_are_met_by_network_or_web_search() {
    let mut law = world(&["network: 127.0.0.1:8080, a.org", "network: *.b.org", "web_search"]);
    let granted = ask(&mut law, 1, all([host("127.0.0.1", 8080)])).expect("granted literally").into_parts();
    assert_eq!(granted.all[0].grant, grant(1));
    assert_eq!(granted.all[0].hosts.len(), 3, "redirects may use every network grant");
    assert!(granted.all[0].public);
    let public = ask(&mut law, 1, all([host("c.org", 443)])).expect("public").into_parts();
    assert_eq!(public.all[0].grant, grant(3));
    for (name, port) in [("127.0.0.1", 80), ("localhost", 80), ("10.0.0.1", 443), ("::1", 443), ("c.org", 22)]
    {
        assert!(ask(&mut law, 1, all([host(name, port)])).is_err(), "{name}:{port}");
    }
    let mut narrow = world(&["network: *.b.org"]);
    assert!(ask(&mut narrow, 1, all([host("b.org", 443)])).is_err());
    let below = ask(&mut narrow, 1, all([host("x.b.org", 443)])).expect("a subdomain").into_parts();
    assert!(!below.all[0].public);
    assert_eq!(denial(ask(&mut narrow, 1, all([host("127.0.0.1", 9)]))).0, "network: 127.0.0.1:9");
    assert_eq!(denial(ask(&mut narrow, 1, all([host("::1", 9)]))).0, "network: [::1]:9");
}

#[test]
fn the_grant_that_names_a_host_most_closely_is_used() {
    let order = [
        "web_search",
        "network: *.org",
        "network: *.a.org",
        "network: *.a.org:443",
        "network: x.a.org",
        "network: x.a.org:443",
    ];
    for closest in 0..order.len() {
        // Whatever was issued first, and whatever else the closest one names.
        for turned in [false, true] {
            let mut held: Vec<&str> = order[..=closest].to_vec();
            if turned {
                held.reverse();
            }
            let at = held.iter().position(|words| *words == order[closest]).expect("held");
            let parts = ask(&mut world(&held), 1, all([host("x.a.org", 443)])).expect("covered").into_parts();
            assert_eq!(parts.all[0].grant, grant(at as u128 + 1), "{held:?}");
        }
    }
    let mut law = world(&["network: *.a.org:443", "network: x.a.org, *.b.org:443"]);
    let parts = ask(&mut law, 1, all([host("x.a.org", 443)])).expect("covered").into_parts();
    assert_eq!(parts.all[0].grant, grant(2), "the host itself before a port of all below it");
}

#[test]
fn redirects_never_use_a_grant_that_would_have_to_be_charged() {
    let mut law = world(&[
        "web_search",
        "{ network: api.x.org, max_invocations: 1 }",
        "{ network: slow.x.org, max_per_minute: 1 }",
        "network: free.x.org",
    ]);
    let names = |hosts: &[HostRule]| hosts.iter().map(|rule| rule.host.clone()).collect::<Vec<_>>();
    let by_web = ask(&mut law, 1, all([host("other.org", 443)])).expect("public").into_parts();
    assert_eq!((names(&by_web.all[0].hosts), by_web.all[0].public), (vec!["free.x.org".to_owned()], true));
    assert!(by_web.charges.is_empty());
    let by_api = ask(&mut law, 1, all([host("api.x.org", 443)])).expect("once").into_parts();
    assert_eq!((by_api.all[0].grant, by_api.charges.len()), (grant(2), 1));
    assert_eq!(names(&by_api.all[0].hosts), ["api.x.org", "free.x.org"], "its own rules are paid for");

    let mut law = world(&["{ web_search: , max_invocations: 5 }", "network: free.x.org"]);
    let by_free = ask(&mut law, 1, all([host("free.x.org", 443)])).expect("granted").into_parts();
    assert!(!by_free.all[0].public, "the web is counted and was not paid for");
    let by_web = ask(&mut law, 1, all([host("other.org", 443)])).expect("public").into_parts();
    assert!(by_web.all[0].public);
}

#[test]
fn redirects_do_not_use_what_is_counted_further_up() {
    let mut law = world(&["{ network: api.x.org, max_invocations: 3 }", "network: free.x.org"]);
    child(&mut law, 1, 2, &[(1, 11, "network: api.x.org"), (2, 12, "network: free.x.org")])
        .expect("narrower");
    let by_free = ask(&mut law, 2, all([host("free.x.org", 443)])).expect("granted").into_parts();
    assert_eq!(by_free.all[0].hosts.len(), 1, "{:?}", by_free.all[0].hosts);
}

#[test]
fn names_of_children() {
    let mut law = world(&["spawn_child: [reader]"]);
    let name = |text: &str| aaos_core::name::AgentName::parse(text).expect("a name");
    act(&mut law, 1, Need::Spawn(name("reader"))).expect("listed");
    assert_eq!(denial(ask(&mut law, 1, all([Need::Spawn(name("x"))]))).0, "spawn_child: [x]");
    assert_eq!(denial(ask(&mut law, 1, all([Need::Message(name("reader"))]))).0, "message_send: [reader]");
}

#[test]
fn hand_on_only_grants_are_not_used() {
    let mut law = world(&["{ file_write: /out/*, use: false }"]);
    let (_, reason) = denial(ask(&mut law, 1, all([write("/out/a")])));
    assert!(reason.contains("not used"), "{reason}");
    child(&mut law, 1, 2, &[(1, 10, "file_write: /out/*")]).expect("handed on");
    act(&mut law, 2, write("/out/a")).expect("the child may");
}

#[test]
fn a_dropped_authorisation_is_refunded_and_a_taken_one_is_not() {
    let mut law = world_with(&["{ tool: echo, max_invocations: 1 }"], Some(100));
    for _ in 0..3 {
        drop(ask(&mut law, 1, all_and_tokens([tool("echo")], 100)).expect("free again"));
    }
    let parts = ask(&mut law, 1, all([tool("echo")])).expect("free again").into_parts();
    drop(parts);
    assert!(ask(&mut law, 1, all([tool("echo")])).is_err(), "what the journal took is spent");
}

#[test]
fn unknown_agents_have_no_authority() {
    let mut law = world(&["tool: *"]);
    assert!(matches!(ask(&mut law, 9, all([])), Err(Refusal::UnknownAgent(who)) if who == agent(9)));
    law.remove(agent(1));
    assert!(matches!(ask(&mut law, 1, all([])), Err(Refusal::UnknownAgent(_))));
    assert!(law.purse(agent(1), NOW).is_none() && law.grants_of(agent(1)).is_empty());
}

#[test]
fn the_tools_on_offer_are_those_that_can_be_invoked() {
    let names = |words: &[&str]| -> Vec<&str> {
        world(words).tools_of(agent(1), NOW).iter().map(|tool| tool.name).collect()
    };
    assert!(names(&[]).is_empty());
    assert_eq!(names(&["tool: *"]), ["echo", "history_read"]);
    assert_eq!(
        names(&["tool: *", "file_read: /a/*"]),
        ["echo", "file_list", "file_read", "file_read_many", "grep", "history_read"]
    );
    assert_eq!(names(&["tool: file_edit", "file_read: /a/*"]), [""; 0]);
    assert_eq!(names(&["tool: file_edit", "file_read: /a/*", "file_write: /b"]), ["file_edit"]);
    assert_eq!(names(&["tool: web_fetch", "web_search"]), ["web_fetch"]);
    assert_eq!(names(&["tool: web_fetch", "network: a.org"]), ["web_fetch"]);
    assert_eq!(
        names(&["tool: *", "spawn_child: [a]"]),
        ["echo", "history_read", "spawn_agent", "spawn_agents"]
    );
    assert_eq!(names(&["tool: *", "message_send: [a]"]), ["echo", "history_read", "send_message"]);
    assert_eq!(names(&["tool: *", "exec: /bin/ls"]), ["command_run", "echo", "history_read"]);
    assert_eq!(names(&["tool: command_run", "{ exec: /bin/ls, use: false }"]), [""; 0]);
    assert_eq!(names(&["tool: git", "exec: /usr/bin/git", "file_read: /a/*"]), ["git"]);
    assert_eq!(names(&["tool: git", "exec: /usr/bin/gitk", "file_read: /a/*"]), [""; 0]);
    assert_eq!(names(&["tool: git", "exec: /usr/bin/git"]), [""; 0]);
    assert_eq!(names(&["tool: cargo", "exec: /t/cargo", "exec: /t/rustc", "file_read: /a/*"]), ["cargo"]);
    assert_eq!(names(&["tool: cargo", "exec: /t/cargo", "file_read: /a/*"]), [""; 0]);
    assert_eq!(names(&["tool: git", "{ exec: /usr/bin/git, use: false }", "file_read: /a/*"]), [""; 0]);
    assert!(names(&["{ tool: echo, use: false }"]).is_empty());
    let mut law = world(&["{ tool: echo, max_invocations: 1 }"]);
    act(&mut law, 1, tool("echo")).expect("one use");
    assert!(law.tools_of(agent(1), NOW).is_empty(), "used up");
}

#[test]
fn purses_refuse_wait_and_run_over() {
    let mut law = world_with(&[], Some(100));
    let infer = |law: &mut aaos_core::authority::Authority, reserve| {
        law.authorize(agent(1), fresh_call(), inference(reserve), NOW).map(Authorized::into_parts)
    };
    let budget = infer(&mut law, 101).expect_err("more than there is");
    assert_eq!(budget, Refusal::Budget { quantity: Quantity::Tokens, wanted: 101, remaining: 100 });
    let first = infer(&mut law, 60).expect("60 of 100");
    assert_eq!(
        infer(&mut law, 60).expect_err("held"),
        Refusal::Waits { quantity: Quantity::Tokens, wanted: 60 }
    );
    assert_eq!(settle_tokens(&mut law, &first, 10).overdrafts, []);
    let second = infer(&mut law, 60).expect("10 used");
    let overdrafts = settle_tokens(&mut law, &second, 95).overdrafts;
    assert_eq!(overdrafts, [Overdraft { quantity: Quantity::Tokens, reserved: 60, used: 95 }]);
    assert_eq!(tokens_of(&law, agent(1), NOW), (105, 0));
    let remaining = law.purse(agent(1), NOW).expect("a purse").remaining;
    assert_eq!(remaining, Ceilings::of(Quantity::Tokens, 0));
    assert!(matches!(infer(&mut law, 1), Err(Refusal::Budget { .. })), "nothing more is admitted");
}
