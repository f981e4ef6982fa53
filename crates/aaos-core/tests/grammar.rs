//! Every form of SPEC §2: what it means, how it is refused, and that its own words parse back.

use aaos_core::capability::{
    Capability, Constraints, GrantSpec, HostRule, NameSet, ToolSet, is_public_web, nearest,
};
use aaos_core::limits::MAX_CAPABILITY_ITEMS;
use aaos_core::name::{AgentName, ToolName};
use aaos_core::path::{AbsPath, PathPattern, Reach};
use aaos_core::tool::CATALOGUE;
use proptest::prelude::*;

fn spec(text: &str) -> GrantSpec {
    GrantSpec::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    match GrantSpec::parse(text) {
        Ok(spec) => panic!("{text} parsed as {spec}"),
        Err(error) => error.to_string(),
    }
}

fn host(host: &str, subdomains: bool, port: Option<u16>) -> HostRule {
    HostRule { host: host.to_owned(), subdomains, port }
}

#[test]
fn every_form_is_read() {
    let pattern = |text: &str| PathPattern::parse(text).expect("a pattern");
    let name = |text: &str| AgentName::parse(text).expect("a name");
    let cases = [
        ("file_read: /abs/dir/*", Capability::FileRead(pattern("/abs/dir/*"))),
        ("file_read: /abs/file", Capability::FileRead(pattern("/abs/file"))),
        ("file_read: *", Capability::FileRead(pattern("/*"))),
        ("file_write: /a b/*", Capability::FileWrite(pattern("/a b/*"))),
        ("tool: *", Capability::Tool(ToolSet::All)),
        ("tool: echo", Capability::Tool(ToolSet::One(ToolName::parse("echo").expect("a tool")))),
        ("web_search", Capability::WebSearch),
        ("network: Example.ORG.", Capability::Network(vec![host("example.org", false, None)])),
        (
            "network: b.org:8443, *.a.org",
            Capability::Network(vec![host("a.org", true, None), host("b.org", false, Some(8443))]),
        ),
        ("network: 127.0.0.1:8080", Capability::Network(vec![host("127.0.0.1", false, Some(8080))])),
        ("network: [::1]:8080", Capability::Network(vec![host("::1", false, Some(8080))])),
        ("network: 2001:DB8:0::1", Capability::Network(vec![host("2001:db8::1", false, None)])),
        ("network: [::1]", Capability::Network(vec![host("::1", false, None)])),
        ("spawn_child: [*]", Capability::SpawnChild(NameSet::All)),
        ("spawn_child: [b, a, b]", Capability::SpawnChild(NameSet::Only(vec![name("a"), name("b")]))),
        ("message_send: [*]", Capability::MessageSend(NameSet::All)),
        ("message_send: [b, a]", Capability::MessageSend(NameSet::Only(vec![name("a"), name("b")]))),
        ("exec: /usr/bin/wc", Capability::Exec(AbsPath::parse("/usr/bin/wc").expect("a path"))),
        ("spawn_child: reader", Capability::SpawnChild(NameSet::Only(vec![name("reader")]))),
    ];
    for (text, capability) in cases {
        assert_eq!(spec(text).capability, capability, "{text}");
        assert_eq!(spec(text).constraints, Constraints::default(), "{text}");
    }
}

#[test]
fn the_map_form_adds_constraints() {
    let all = spec(
        r#"{ file_write: "/data/output/*", max_invocations: 10, max_per_minute: 5, expires_in_seconds: 3600,
             delegate: false, use: true, approval_required: true }"#,
    );
    let wanted = Constraints {
        max_invocations: Some(10),
        max_per_minute: Some(5),
        expires_in_seconds: Some(3600),
        delegate: false,
        usable: true,
        approval_required: true,
    };
    assert_eq!(all.constraints, wanted);
    assert_eq!(all.capability, spec("file_write: /data/output/*").capability);
    assert_eq!(spec("{ tool: *, max_invocations: 1 }").capability, Capability::Tool(ToolSet::All));
    assert_eq!(spec("{ spawn_child: [*], use: false }").capability, Capability::SpawnChild(NameSet::All));
    assert_eq!(spec("{ web_search: true, max_invocations: 1 }").capability, Capability::WebSearch);
    assert!(!spec("{ network: [a.org, 'b.org:81'], use: false }").constraints.usable);
}

#[test]
fn a_grant_that_asks_a_human_says_so() {
    let asking = spec("{ tool: echo, approval_required: true }");
    assert!(asking.constraints.approval_required);
    assert_eq!(asking.to_string(), r#"{ tool: "echo", approval_required: true }"#);
    let silent = spec("{ tool: echo, approval_required: false }");
    assert_eq!(silent, spec("tool: echo"));
    assert_eq!(silent.to_string(), "tool: echo");
    // A record from before the constraint existed asks nobody.
    let mut json = serde_json::to_value(asking.constraints).expect("JSON");
    json.as_object_mut().expect("an object").remove("approval_required");
    let older: Constraints = serde_json::from_value(json).expect("read");
    assert!(!older.approval_required);
}

#[test]
fn refusals_name_the_nearest_valid_spelling() {
    for (text, nearest) in [
        ("file_raed: /a", "\"file_read\""),
        ("File-Write: /a", "\"file_write\""),
        ("websearch", "\"web_search\""),
        ("tool: file_reed", "\"file_read\""),
        ("{ tool: echo, max_invocation: 1 }", "\"max_invocations\""),
        ("{ tool: echo, delegat: true }", "\"delegate\""),
        ("{ tool: echo, aproval_required: true }", "\"approval_required\""),
        ("{ tol: echo, use: true }", "\"tool\""),
        ("file_read: /a/**", "\"/a/*\""),
        ("file_read: /a/", "\"/a/*\""),
        ("network: https://example.org/page", "\"example.org\""),
        ("network: *", "\"web_search\""),
        ("network: www.*.org", "\"*.www.org\""),
        ("network: example.org:http", "\"example.org\""),
    ] {
        let words = refusal(text);
        assert!(words.contains(nearest), "{text}: {words}");
    }
}

#[test]
fn everything_else_is_refused() {
    for text in [
        "",
        ":",
        "file_read",
        "file_read:",
        "file_read: a",
        "file_read: /a/*/b",
        "file_read: /a/../b",
        "file_read: /a?",
        "file_read: [/a, /b]",
        "tool",
        "tool: Echo",
        "tool: ",
        "tool: e*",
        "web_search: example.org",
        "{ web_search: false, use: true }",
        "network",
        "network:",
        "network: a..b",
        "network: -a.org",
        "network: a.org:0",
        "network: a.org:65536",
        "network: a.org:",
        "network: 127.1",
        "network: 0x7f.1",
        "network: 2130706433",
        "network: 1.2.3.4.5",
        "network: *.127.0.0.1",
        "network: [::1",
        "network: [zz]:1",
        "network: a.org, ,b.org",
        "network: user@a.org",
        "spawn_child",
        "spawn_child: []",
        "spawn_child: [*, a]",
        "spawn_child: [A]",
        "spawn_child: [a b]",
        "{ max_invocations: 1 }",
        "{ tool: echo, web_search: true }",
        "{ tool: echo, max_invocations: 0 }",
        "{ tool: echo, max_invocations: -1 }",
        "{ tool: echo, max_invocations: '1' }",
        "{ tool: echo, max_invocations: 4294967296 }",
        "{ tool: echo, max_per_minute: 60001 }",
        "{ tool: echo, use: 1 }",
        "{ tool: echo, delegate: yes }",
        "{ tool: echo, approval_required: [echo] }",
        "{ tool: echo, approval_required: 'true' }",
        "{ tool: echo, tool: echo }",
        "{ tool: echo",
        "{}",
        "{ file_read: /a, expires_in_seconds: 1.5 }",
    ] {
        refusal(text);
    }
    assert!(GrantSpec::parse("file_read: /a\u{7}").is_err(), "a control character");
}

#[test]
fn what_is_not_built_says_so() {
    for text in ["tool: memory_store", "tool: skill_read", "{ tool: memory_query, use: false }"] {
        assert!(refusal(text).contains("not supported in this version"), "{text}");
    }
}

#[test]
fn one_program_is_granted_by_its_path_and_never_a_directory_of_them() {
    for text in ["exec:", "exec: *", "exec: /*", "exec: /usr/bin/*", "exec: [/bin/ls]", "{ exec: true }"] {
        assert!(refusal(text).contains("the absolute path of one program"), "{text}: {}", refusal(text));
    }
    for text in ["exec: ls", "exec: ./ls", "exec: /bin/", "exec: /bin/../ls", "exec: /bin/l?", "exec: /"] {
        assert!(refusal(text).starts_with("exec: "), "{text}: {}", refusal(text));
    }
    assert!(refusal("exec: /bin/l\u{7}s").contains("control character"));
    let bounded = "{ exec: \"/bin/ls\", max_invocations: 3, delegate: false }";
    assert_eq!(spec(bounded).to_string(), bounded);
}

#[test]
fn long_nonsense_gives_a_short_error() {
    let words = refusal(&"x".repeat(100_000));
    assert!(words.len() < 1000, "{} bytes", words.len());
    assert!(GrantSpec::parse(&format!("network: {}a.org", "a.org,".repeat(300))).is_err(), "too many hosts");
}

#[test]
fn json_says_it_in_the_grammar_s_words() {
    for (text, json) in [
        ("tool: *", r#"{"tool":"*"}"#),
        ("tool: echo", r#"{"tool":"echo"}"#),
        ("exec: /bin/ls", r#"{"exec":"/bin/ls"}"#),
        ("spawn_child: [*]", r#"{"spawn_child":["*"]}"#),
        ("spawn_child: [a, b]", r#"{"spawn_child":["a","b"]}"#),
    ] {
        let capability = spec(text).capability;
        assert_eq!(serde_json::to_string(&capability).expect("JSON"), json);
        assert_eq!(serde_json::from_str::<Capability>(json).expect("read"), capability);
    }
    let constraints = serde_json::to_value(spec("{ tool: echo, use: false }").constraints).expect("JSON");
    assert_eq!((&constraints["use"], constraints.get("usable")), (&serde_json::json!(false), None));
    for json in
        [r#"{"tool":""}"#, r#"{"tool":"a b"}"#, r#"{"spawn_child":[]}"#, r#"{"spawn_child":["*","a"]}"#]
    {
        assert!(serde_json::from_str::<Capability>(json).is_err(), "{json}");
    }
}

#[test]
fn brackets_hold_a_list_or_an_address() {
    let rules = |text: &str| match spec(text).capability {
        Capability::Network(rules) => rules,
        other => panic!("{text}: {other}"),
    };
    assert_eq!(rules("network: [a.org, b.org]"), [host("a.org", false, None), host("b.org", false, None)]);
    assert_eq!(rules("network: [a.org]"), rules("network: a.org"));
    assert_eq!(rules("network: [::1], [::2]"), [host("::1", false, None), host("::2", false, None)]);
    assert_eq!(
        rules("network: [::]:8080, [1::]:81"),
        [host("1::", false, Some(81)), host("::", false, Some(8080))]
    );
    assert_eq!(spec("web_search:"), spec("web_search"), "nothing after the colon is no value");
}

#[test]
fn a_name_may_end_in_a_label_that_begins_with_a_digit_and_is_no_number() {
    for name in ["example.3com", "a.9-x", "3com.example", "a_b.example", "0xyz.example"] {
        let text = format!("network: {name}");
        assert_eq!(spec(&text).capability, Capability::Network(vec![host(name, false, None)]));
    }
    for text in ["network: example.33", "network: example.0x33", "network: a.org:+80", "network: a.org:8o"] {
        refusal(text);
    }
}

#[test]
fn one_entry_lists_as_many_items_as_there_may_be_and_no_more() {
    let list = |count: usize| (0..count).map(|at| format!("n{at}")).collect::<Vec<_>>().join(", ");
    for form in ["network", "spawn_child"] {
        spec(&format!("{form}: {}", list(MAX_CAPABILITY_ITEMS)));
        let words = refusal(&format!("{form}: {}", list(MAX_CAPABILITY_ITEMS + 1)));
        assert_eq!(words, format!("{form} lists more than 256 items"));
    }
}

#[test]
fn a_refusal_repeats_what_was_written_and_says_what_kind_of_word_it_is() {
    for (text, words) in [
        ("file_raed: /a", "unknown capability \"file_raed\"; nearest: \"file_read\""),
        ("{ delegat: true }", "unknown capability \"delegat\""),
        ("{ tool: echo, delegat: true }", "unknown constraint \"delegat\"; nearest: \"delegate\""),
        ("{ use: true, tol: echo }", "unknown capability \"tol\"; nearest: \"tool\""),
        // As near to a form as to a constraint: beside other keys it is most likely a constraint.
        ("{ tool: echo, qqqq: 1 }", "unknown constraint \"qqqq\"; nearest: \"use\""),
        ("tool: file_reed", "unknown tool \"file_reed\"; nearest: \"file_read\""),
        ("network: -a.org", "\"-a.org\" is no host name or address; nearest: \"example.org\""),
        (
            "network: https://a.org:8443/x",
            "\"https://a.org:8443/x\" has no usable port; nearest: \"a.org:8443\"",
        ),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(words), "{text}: {refused}");
    }
    let long = refusal(&"x".repeat(100));
    assert!(long.contains(&format!("\"{}…\"", "x".repeat(80))), "{long}");
    let whole = refusal(&"x".repeat(80));
    assert!(whole.contains(&format!("\"{}\"", "x".repeat(80))), "{whole}");
}

/// Edits from one text to the other, by definition.
fn edits(from: &[u8], to: &[u8]) -> usize {
    match (from, to) {
        ([], rest) | (rest, []) => rest.len(),
        ([a, from @ ..], [b, to @ ..]) if a == b => edits(from, to),
        ([_, less @ ..], [_, fewer @ ..]) => {
            1 + edits(less, fewer).min(edits(less, to)).min(edits(from, fewer))
        }
    }
}

#[test]
fn the_nearest_word_takes_the_fewest_edits_and_of_two_alike_the_first() {
    let words = ["", "a", "b", "ab", "ba", "aab", "abb", "bab", "abab", "bbba", "aabb"];
    for found in words {
        for (one, other) in words.into_iter().flat_map(|one| words.map(|other| (one, other))) {
            let (to_one, to_other) =
                (edits(found.as_bytes(), one.as_bytes()), edits(found.as_bytes(), other.as_bytes()));
            let expected = if to_other < to_one { other } else { one };
            assert_eq!(nearest(found, &[one, other]), expected, "{found:?}");
        }
    }
    assert_eq!(nearest("Max-Per-Minute", &["max_per_hour", "max_per_minute"]), "max_per_minute");
}

#[test]
fn the_public_web_ends_where_the_ranges_of_nobody_begin() {
    for (first, last, before, after) in [
        ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
        ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0")),
        ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0")),
        ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0")),
        ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0")),
        ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0")),
        ("192.0.0.0", "192.0.0.255", Some("191.255.255.255"), Some("192.0.1.0")),
        ("192.0.2.0", "192.0.2.255", Some("192.0.1.255"), Some("192.0.3.0")),
        ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0")),
        ("198.18.0.0", "198.19.255.255", Some("198.17.255.255"), Some("198.20.0.0")),
        ("198.51.100.0", "198.51.100.255", Some("198.51.99.255"), Some("198.51.101.0")),
        ("203.0.113.0", "203.0.113.255", Some("203.0.112.255"), Some("203.0.114.0")),
        ("224.0.0.0", "255.255.255.255", Some("223.255.255.255"), None),
        ("2001:db8::", "2001:db8:ffff::", Some("2001:db7:ffff::"), Some("2001:db9::")),
        ("2002::", "2002:ffff::", Some("2001:ffff::"), Some("2003::")),
        ("4000::", "ffff::", Some("3fff:ffff::"), None),
    ] {
        for inside in [first, last] {
            assert!(!is_public_web(inside, 443), "{inside}");
        }
        for outside in before.into_iter().chain(after) {
            assert!(is_public_web(outside, 443) && is_public_web(outside, 80), "{outside}");
            assert!(!is_public_web(outside, 8080), "{outside}");
        }
    }
    // Part of what makes a range is no range.
    for public in ["8.70.0.1", "8.18.0.1", "8.0.0.1", "192.1.0.1", "198.0.0.1", "100.1.2.3"] {
        assert!(is_public_web(public, 443), "{public}");
    }
}

#[test]
fn a_host_rule_covers_the_same_port_and_no_other() {
    let covers = |outer: &str, inner: &str| {
        let rule = |text: &str| match spec(&format!("network: {text}")).capability {
            Capability::Network(rules) => rules.into_iter().next().expect("a rule"),
            other => panic!("{text}: {other}"),
        };
        rule(outer).covers(&rule(inner))
    };
    for (outer, inner) in [
        ("a.org", "a.org:80"),
        ("a.org:81", "a.org:81"),
        ("*.a.org:81", "b.a.org:81"),
        ("[::1]:81", "[0::1]:81"),
    ] {
        assert!(covers(outer, inner), "{outer} covers {inner}");
    }
    for (outer, inner) in
        [("a.org", "a.org:81"), ("a.org:81", "a.org:82"), ("a.org:80", "a.org"), ("*.a.org:81", "b.a.org:82")]
    {
        assert!(!covers(outer, inner), "{outer} covers {inner}");
    }
}

fn any_path() -> impl Strategy<Value = PathPattern> {
    let component = "[a-z0-9 ._\"'{}#:,&!-]{0,6}[a-z]";
    (prop::collection::vec(component, 1..4), any::<bool>()).prop_map(|(parts, subtree)| {
        let root = AbsPath::parse(&format!("/{}", parts.join("/"))).expect("absolute");
        PathPattern::from_parts(root, if subtree { Reach::Subtree } else { Reach::Exact })
    })
}

fn any_rules() -> impl Strategy<Value = Vec<HostRule>> {
    let name = ("[a-z][a-z0-9-]{0,3}[a-z]\\.[a-z]{2,3}", any::<bool>());
    let v4 = any::<std::net::Ipv4Addr>().prop_map(|v4| (v4.to_string(), false));
    let v6 = any::<std::net::Ipv6Addr>().prop_map(|v6| (v6.to_string(), false));
    let rule = (prop_oneof![name, v4, v6], prop::option::of(1..=u16::MAX));
    let rule = rule.prop_map(|((host, subdomains), port)| HostRule { host, subdomains, port });
    prop::collection::btree_set(rule, 1..4).prop_map(|rules| rules.into_iter().collect())
}

fn any_names() -> impl Strategy<Value = NameSet> {
    let only = prop::collection::btree_set("[a-z0-9][a-z0-9-]{0,5}", 1..4).prop_map(|names| {
        NameSet::Only(names.iter().map(|name| AgentName::parse(name).expect("a name")).collect())
    });
    prop_oneof![Just(NameSet::All), only]
}

fn is_below_root(pattern: &PathPattern) -> bool {
    pattern.root().as_str() != "/"
}

fn any_capability() -> impl Strategy<Value = Capability> {
    let tool = (0..CATALOGUE.len()).prop_map(|at| ToolSet::One(CATALOGUE[at].tool_name()));
    prop_oneof![
        any_path().prop_map(Capability::FileRead),
        any_path().prop_map(Capability::FileWrite),
        prop_oneof![Just(ToolSet::All), tool].prop_map(Capability::Tool),
        Just(Capability::WebSearch),
        any_rules().prop_map(Capability::Network),
        any_names().prop_map(Capability::SpawnChild),
        any_names().prop_map(Capability::MessageSend),
        any_path()
            .prop_filter("a program", is_below_root)
            .prop_map(|path| Capability::Exec(path.root().clone())),
    ]
}

prop_compose! {
    fn any_spec()(
        capability in any_capability(),
        max_invocations in prop::option::of(1..=u32::MAX),
        max_per_minute in prop::option::of(1..=60_000u32),
        expires_in_seconds in prop::option::of(1..=u32::MAX),
        delegate in any::<bool>(),
        usable in any::<bool>(),
        approval_required in any::<bool>(),
    ) -> GrantSpec {
        let constraints = Constraints {
            max_invocations,
            max_per_minute,
            expires_in_seconds,
            delegate,
            usable,
            approval_required,
        };
        GrantSpec { capability, constraints }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_grant_in_its_own_words_is_the_same_grant(wanted in any_spec()) {
        let bare = GrantSpec::from(wanted.capability.clone());
        prop_assert_eq!(GrantSpec::parse(&bare.to_string()), Ok(bare));
        let json = serde_json::to_string(&wanted).expect("JSON");
        prop_assert_eq!(&serde_json::from_str::<GrantSpec>(&json).expect("read"), &wanted);
        prop_assert_eq!(GrantSpec::parse(&wanted.to_string()), Ok(wanted));
    }

    #[test]
    fn no_text_panics(text in "[ -~]{0,40}") {
        if let Ok(spec) = GrantSpec::parse(&text) {
            prop_assert_eq!(GrantSpec::parse(&spec.to_string()), Ok(spec));
        }
    }
}
