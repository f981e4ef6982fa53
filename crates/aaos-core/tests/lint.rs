//! Each rule of `agentd check` with a manifest that it finds fault with and a sibling that it leaves alone.

use aaos_core::lint::{Finding, Level, lint};
use aaos_core::manifest::Manifest;
use aaos_core::name::ToolName;

fn manifest(entries: &[&str]) -> Manifest {
    let mut text = "name: one\nmodel: fast\nsystem_prompt: Work.\ncapabilities:\n".to_owned();
    for entry in entries {
        text.push_str(&format!("  - {entry}\n"));
    }
    if entries.is_empty() {
        text.push_str("  []\n");
    }
    Manifest::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn check(entries: &[&str]) -> Vec<Finding> {
    lint(&manifest(entries))
}

/// The findings of one rule.
fn of(rule: &str, entries: &[&str]) -> Vec<Finding> {
    check(entries).into_iter().filter(|finding| finding.rule == rule).collect()
}

/// The one finding of a rule.
fn one(rule: &str, entries: &[&str]) -> Finding {
    let mut found = of(rule, entries);
    assert_eq!(found.len(), 1, "{rule} of {entries:?}: {found:?}");
    found.remove(0)
}

#[track_caller]
fn clean(entries: &[&str]) {
    assert_eq!(check(entries), [], "{entries:?}");
}

const SPAWN: [&str; 2] = ["tool: spawn_agent", "spawn_child: [helper]"];

/// With the right and the means to start children.
fn spawning<'a>(entries: &[&'a str]) -> Vec<&'a str> {
    [&SPAWN[..], entries].concat()
}

#[test]
fn a_sound_manifest_is_clean() {
    clean(&[]);
    clean(&["tool: echo"]);
    clean(&["tool: file_read", "\"file_read: /data/*\"", "tool: file_write", "file_write: /out/report.md"]);
    clean(&["tool: web_fetch", "web_search"]);
    clean(&SPAWN);
}

#[test]
fn a_grant_that_nobody_may_exercise_is_dead() {
    let entries = ["tool: file_read", "{ file_read: /data/*, use: false, delegate: false }"];
    let found = one("dead-grant", &entries);
    assert_eq!((found.level, found.grant), (Level::Error, Some(1)));
    assert!(found.message.contains("file_read") && found.message.contains("/data/*"), "{}", found.message);
    assert_eq!(of("dead-grant", &["tool: file_read", "{ file_read: /data/*, delegate: false }"]), []);
    assert_eq!(of("dead-grant", &["tool: file_read", "{ file_read: /data/*, use: false }"]), []);
}

#[test]
fn what_may_only_be_handed_on_needs_somebody_to_hand_it_to() {
    let grant = ["{ tool: file_write, use: false }", "{ file_write: /out/*, use: false }"];
    for entries in [
        grant.to_vec(),
        [&["tool: spawn_agent"][..], &grant].concat(),
        [&["\"spawn_child: [helper]\""][..], &grant].concat(),
        [&["{ tool: spawn_agent, use: false }", "spawn_child: [helper]"][..], &grant].concat(),
        [&["tool: spawn_agents", "{ spawn_child: [helper], use: false }"][..], &grant].concat(),
    ] {
        let found = of("hand-out-without-spawn", &entries);
        let file = found.iter().find(|one| one.message.contains("file_write: \"/out/*\""));
        assert!(file.is_some_and(|one| one.level == Level::Error), "{entries:?}: {found:?}");
    }
    clean(&spawning(&grant));
    clean(&[&["tool: spawn_agents", "spawn_child: [helper]"][..], &grant].concat());
}

#[test]
fn a_resource_needs_a_tool_that_acts_on_it() {
    for (resource, tool) in [
        ("\"file_read: /data/*\"", "tool: grep"),
        ("file_read: /data/a.md", "tool: file_list"),
        ("\"file_write: /out/*\"", "tool: file_write"),
        ("network: example.org", "tool: web_fetch"),
        ("web_search", "tool: web_fetch"),
        ("spawn_child: [helper]", "tool: spawn_agents"),
        ("message_send: [keeper]", "tool: send_message"),
        ("exec: /usr/bin/wc", "tool: command_run"),
        ("exec: /usr/bin/git", "tool: command_run"),
    ] {
        for entries in [vec!["tool: echo", resource], vec![resource]] {
            let found = one("resource-without-tool", &entries);
            assert_eq!((found.level, found.grant), (Level::Error, Some(entries.len() - 1)), "{resource}");
            let wanted = tool.strip_prefix("tool: ").expect("a tool");
            assert!(found.advice.contains(wanted), "{resource}: {}", found.advice);
        }
        clean(&[resource, tool]);
        assert_eq!(of("resource-without-tool", &[resource, "tool: \"*\""]), [], "{resource}");
    }
}

#[test]
fn cargo_uses_its_toolchain_and_writes_where_it_may() {
    let entries =
        ["tool: cargo", "exec: /t/cargo", "exec: /t/rustc", "\"file_read: /p/*\"", "\"file_write: /out/*\""];
    clean(&entries);
    let found = one("resource-without-tool", &[&entries[..], &["network: example.org"]].concat());
    assert_eq!(found.grant, Some(5), "cargo reaches no host");
    let found = one("tool-without-resource", &[&entries[..2], &entries[3..4]].concat());
    assert!(found.message.contains("called `rustc`"), "{}", found.message);
}

#[test]
fn git_is_a_tool_of_a_program_of_its_name() {
    let (tool, read) = ("tool: git", "\"file_read: /data/*\"");
    clean(&["exec: /usr/bin/git", read, tool]);
    let found = one("tool-without-resource", &["exec: /usr/bin/wc", read, tool, "tool: command_run"]);
    assert!(found.message.contains("called `git`"), "{}", found.message);
    let found = one("resource-without-tool", &["exec: /usr/bin/wc", "exec: /usr/bin/git", read, tool]);
    assert_eq!(found.grant, Some(0), "git starts nothing but git");
}

#[test]
fn a_tool_that_the_agent_may_only_hand_on_does_not_serve_its_own_grants() {
    let entries = ["{ tool: file_read, use: false }", "{ file_read: /data/*, delegate: false }"];
    let found = one("resource-without-tool", &spawning(&entries));
    assert_eq!(found.grant, Some(3));
    clean(&spawning(&["{ tool: file_read, use: false }", "{ file_read: /data/*, use: false }"]));
    clean(&spawning(&["{ tool: file_read, use: false }", "\"file_read: /data/*\""]));
}

#[test]
fn what_is_handed_on_needs_a_tool_that_is_handed_on_with_it() {
    let grant = "{ file_write: /out/*, use: false }";
    let found = one("resource-without-tool", &spawning(&[grant]));
    assert!(found.message.contains("may be handed on with it"), "{}", found.message);
    let kept = one("resource-without-tool", &spawning(&[grant, "{ tool: file_write, delegate: false }"]));
    assert_eq!(kept.grant, Some(2));
    clean(&spawning(&[grant, "tool: file_write"]));
}

#[test]
fn a_tool_needs_something_to_act_on() {
    for (tool, other, resource) in [
        ("tool: file_read", "\"file_write: /a/*\"", "\"file_read: /a/*\""),
        ("tool: grep", "web_search", "file_read: /a/b"),
        ("tool: file_write", "\"file_read: /a/*\"", "\"file_write: /a/*\""),
        ("tool: web_fetch", "\"file_read: /a/*\"", "network: example.org"),
        ("tool: web_fetch", "\"file_read: /a/*\"", "web_search"),
        ("tool: spawn_agent", "web_search", "spawn_child: [helper]"),
        ("tool: spawn_agents", "web_search", "spawn_child: [helper]"),
        ("tool: command_run", "\"file_read: /a/*\"", "exec: /usr/bin/wc"),
    ] {
        let found = one("tool-without-resource", &[other, tool]);
        assert_eq!((found.level, found.grant), (Level::Error, Some(1)), "{tool}");
        assert_eq!(of("tool-without-resource", &[resource, tool]), [], "{tool}");
    }
    let found = one("tool-without-resource", &["tool: file_read", "{ file_read: /a/*, use: false }"]);
    assert_eq!(found.grant, Some(0), "what may only be handed on is nothing to act on");
    let handed = ["{ tool: file_read, use: false }", "{ file_read: /a/*, delegate: false }"];
    assert!(one("tool-without-resource", &spawning(&handed)).message.contains("handed on"));
}

#[test]
fn editing_needs_a_path_that_is_read_and_written() {
    for (entries, wanted) in [
        (vec!["tool: file_edit", "\"file_read: /a/*\""], "file_write"),
        (vec!["tool: file_edit", "\"file_write: /a/*\""], "file_read"),
        (vec!["tool: file_edit", "\"file_read: /a/*\"", "\"file_write: /b/*\""], "both read and written"),
    ] {
        let found = one("tool-without-resource", &entries);
        assert!(found.message.contains(wanted), "{}", found.message);
    }
    for entries in [
        ["tool: file_edit", "\"file_read: /a/*\"", "\"file_write: /a/b/*\""],
        ["tool: file_edit", "file_read: /a/b", "\"file_write: /a/*\""],
    ] {
        clean(&entries);
    }
}

#[test]
fn any_tool_is_told_which_ones_stay_idle() {
    let entries = ["tool: \"*\"", "\"file_read: /data/*\""];
    let found = one("any-tool-partly-unusable", &entries);
    assert_eq!((found.level, found.grant), (Level::Note, Some(0)));
    for idle in ["file_edit", "file_write", "send_message", "spawn_agent", "web_fetch"] {
        assert!(found.message.contains(idle), "{idle}: {}", found.message);
    }
    assert!(!found.message.contains("grep") && !found.message.contains("echo"), "{}", found.message);
    assert_eq!(of("tool-without-resource", &entries), [], "`*` names no tool");
    let all = [
        "tool: \"*\"",
        "\"file_read: /a/*\"",
        "\"file_write: /a/*\"",
        "web_search",
        "spawn_child: [helper]",
        "message_send: [keeper]",
        "exec: /usr/bin/git",
        "exec: /usr/bin/cargo",
        "exec: /usr/bin/rustc",
    ];
    assert_eq!(of("any-tool-partly-unusable", &all), []);
}

#[test]
fn a_grant_within_another_adds_nothing() {
    let tools = ["tool: file_read", "tool: web_fetch"];
    for (outer, inner) in [
        ("\"file_read: /a/*\"", "\"file_read: /a/b/*\""),
        ("\"file_read: /a/*\"", "\"file_read: /a/*\""),
        ("web_search", "network: example.org"),
        ("\"network: '*.example.org'\"", "network: a.example.org"),
    ] {
        let outer = outer.replace('\'', "");
        let twice = outer == inner;
        let found = one("covered-grant", &[&tools[..], &[&outer, inner]].concat());
        assert_eq!((found.level, found.grant), (Level::Note, Some(3)), "{inner}");
        let other_way = one("covered-grant", &[&tools[..], &[inner, &outer]].concat());
        assert_eq!(other_way.grant, Some(if twice { 3 } else { 2 }), "{inner}: the order does not matter");
    }
    for apart in [
        ["\"file_read: /a/*\"", "\"file_read: /ab/*\""],
        ["file_read: /a", "\"file_read: /a/*\""],
        ["network: example.org", "network: example.net"],
        ["web_search", "network: 127.0.0.1"],
    ] {
        let found = check(&[&tools[..], &apart].concat());
        let covered = found.iter().any(|one| one.rule == "covered-grant" && one.grant == Some(3));
        assert!(!covered, "{apart:?}: {found:?}");
    }
}

#[test]
fn limits_that_a_wider_grant_undoes_are_told() {
    let wide = "\"file_write: /a/*\"";
    for limit in ["max_invocations: 3", "max_per_minute: 3", "expires_in_seconds: 3", "delegate: false"] {
        let narrow = format!("{{ file_write: /a/b/*, {limit} }}");
        let found = one("unbinding-limits", &["tool: file_write", &narrow, wide]);
        assert_eq!((found.level, found.grant), (Level::Warning, Some(1)), "{limit}");
        assert_eq!(of("unbinding-limits", &["tool: file_write", &narrow]), [], "{limit}");
    }
    for (outer, inner) in [
        ("{ file_write: /a/*, max_invocations: 9 }", "{ file_write: /a/*, max_invocations: 3 }"),
        ("{ file_write: /a/*, expires_in_seconds: 9 }", "\"file_write: /a/*\""),
        ("{ file_write: /a/*, delegate: false }", "{ file_write: /a/b/*, max_invocations: 3 }"),
        ("{ file_write: /a/*, max_per_minute: 9 }", "\"file_write: /a/*\""),
    ] {
        let found = check(&["tool: file_write", outer, inner]);
        let second = found.iter().find(|one| one.grant == Some(2));
        assert_eq!(second, None, "{inner} adds to {outer}");
    }
}

/// A manifest that wants approval of a tool.
fn asking(tool: &str, entries: &[&str]) -> Vec<Finding> {
    let mut asking = manifest(entries);
    asking.approval_required = vec![ToolName::parse(tool).expect("a tool's name")];
    lint(&asking)
}

#[test]
fn approval_is_asked_for_tools_that_there_are() {
    let entries = ["tool: file_write", "\"file_write: /out/*\""];
    let found = asking("web_fetch", &entries);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].rule, found[0].level), ("approval-without-tool", Level::Warning));
    assert!(found[0].message.contains("web_fetch"), "{}", found[0].message);
    assert_eq!(asking("file_write", &entries), []);
    assert!(asking("web_fetch", &["tool: \"*\""]).iter().all(|one| one.rule != "approval-without-tool"));
    let handed = spawning(&["{ tool: web_fetch, use: false }", "network: example.org"]);
    assert_eq!(asking("web_fetch", &handed), [], "a child's use is asked for, too");
}

#[test]
fn roots_on_pseudo_file_systems_are_refused() {
    for root in ["/proc/*", "/proc/self/environ", "/sys/*", "/sys/class/*"] {
        let found = one("pseudo-file-system", &["tool: file_read", &format!("\"file_read: {root}\"")]);
        assert_eq!(found.level, Level::Error, "{root}");
    }
    for root in ["/process/*", "/data/proc/*", "/system/a"] {
        clean(&["tool: file_read", &format!("\"file_read: {root}\"")]);
    }
}

#[test]
fn wide_roots_are_told() {
    let wide = |right: &str, root: &str| {
        let grant = format!("\"{right}: {root}\"");
        let found = of("wide-root", &[&format!("tool: {right}"), &grant]);
        assert!(found.iter().all(|one| one.level == Level::Warning && one.grant == Some(1)), "{found:?}");
        !found.is_empty()
    };
    for root in ["/*", "/etc/*", "/home/*", "/home/alice/*", "/root/*", "/var/*", "/dev/*", "/dev/sda"] {
        assert!(wide("file_read", root) && wide("file_write", root), "{root}");
    }
    for root in ["/etc/hostname", "/home/alice/project/*", "/home/alice", "/var/log/app/*", "/dev/shm/a/*"] {
        assert!(!wide("file_read", root), "{root}");
    }
    for root in ["/etc/passwd", "/usr/local/bin/*", "/bin/sh", "/boot/*"] {
        assert!(wide("file_write", root), "{root}");
    }
    for root in ["/usr/share/doc/*", "/lib/*"] {
        assert!(!wide("file_read", root), "reading {root} tells little");
    }
    assert!(!wide("file_write", "/srv/out/*"));
}

const READ: [&str; 2] = ["tool: file_read", "\"file_read: /data/*\""];

#[test]
fn reading_and_any_host_in_one_agent_is_a_warning() {
    for network in ["web_search", "\"network: *.example.org\"", "\"network: example.net, *.example.org\""] {
        let found = one("lethal-trifecta", &[&READ[..], &["tool: web_fetch", network]].concat());
        assert_eq!((found.level, found.grant), (Level::Warning, None), "{network}");
        assert!(found.message.contains("this one agent, by its own use"), "{}", found.message);
        assert!(found.message.contains("file_read: /data/*"), "it names the grants: {}", found.message);
        clean(&["tool: web_fetch", network]);
    }
    clean(&READ);
    let write = ["tool: file_write", "\"file_write: /data/*\"", "tool: web_fetch", "web_search"];
    clean(&write);
}

#[test]
fn reading_and_exact_hosts_is_a_note() {
    let found = one("lethal-trifecta", &[&READ[..], &["tool: web_fetch", "network: example.org"]].concat());
    assert_eq!(found.level, Level::Note);
    let both = ["tool: web_fetch", "network: example.org", "\"network: *.example.net\""];
    assert_eq!(one("lethal-trifecta", &[&READ[..], &both].concat()).level, Level::Warning);
}

#[test]
fn what_can_only_meet_by_delegation_is_told_apart() {
    let handed = [
        "{ tool: file_read, use: false }",
        "{ file_read: /data/*, use: false }",
        "{ tool: web_fetch, use: false }",
        "{ web_search: true, use: false }",
    ];
    let found = one("lethal-trifecta", &spawning(&handed));
    assert_eq!(found.level, Level::Warning);
    assert!(found.message.contains("only with what it can delegate"), "{}", found.message);

    let mixed =
        [&READ[..], &["{ tool: web_fetch, use: false }", "{ web_search: true, use: false }"]].concat();
    let found = one("lethal-trifecta", &spawning(&mixed));
    assert!(found.message.contains("only with what it can delegate"), "{}", found.message);
    assert_eq!(of("lethal-trifecta", &mixed), [], "without a child there is nobody to hand it to");

    let kept = spawning(&[
        "{ tool: file_read, use: false }",
        "{ file_read: /data/*, use: false }",
        "{ tool: web_fetch, delegate: false }",
        "{ web_search: true, delegate: false }",
    ]);
    let found = one("lethal-trifecta", &kept);
    assert!(found.message.contains("only with what it can delegate"), "the child's findings come back");
}

#[test]
fn a_worse_meeting_by_delegation_is_told_besides() {
    let entries = [
        &READ[..],
        &["tool: web_fetch", "network: example.org", "{ network: \"*.example.net\", use: false }"],
    ]
    .concat();
    let found = of("lethal-trifecta", &spawning(&entries));
    let levels: Vec<Level> = found.iter().map(|one| one.level).collect();
    assert_eq!(levels, [Level::Warning, Level::Note], "{found:?}");
    assert!(found[0].message.contains("example.net") && !found[1].message.contains("example.net"));
    assert_eq!(of("lethal-trifecta", &entries).len(), 1, "without a child only its own use counts");
}

#[test]
fn a_grant_without_its_tool_completes_nothing() {
    let entries = ["\"file_read: /data/*\"", "tool: web_fetch", "web_search"];
    assert_eq!(of("lethal-trifecta", &entries), []);
    assert_eq!(of("lethal-trifecta", &[&entries[..], &["tool: grep"]].concat()).len(), 1);
}

#[test]
fn programs_use_the_file_and_network_grants_of_their_agent() {
    let programs = ["tool: command_run", "exec: /usr/bin/wc"];
    for resource in ["\"file_read: /data/*\"", "\"file_write: /out/*\"", "network: example.org", "web_search"]
    {
        clean(&[&programs[..], &[resource]].concat());
        for half in programs {
            assert_eq!(
                of("resource-without-tool", &[half, resource]).len(),
                if half == programs[0] { 1 } else { 2 }
            );
        }
    }
    let sent = ["message_send: [keeper]"];
    assert_eq!(of("resource-without-tool", &[&programs[..], &sent].concat()).len(), 1, "and no other");
    let meeting = [&programs[..], &["\"file_read: /data/*\"", "web_search"]].concat();
    assert_eq!(one("lethal-trifecta", &meeting).level, Level::Warning);
    assert_eq!(of("lethal-trifecta", &meeting[1..]), [], "nothing starts a program");
}

#[test]
fn findings_come_worst_first_and_say_what_to_do() {
    let entries = [
        "tool: \"*\"",
        "\"file_read: /*\"",
        "{ file_write: /out/*, use: false, delegate: false }",
        "\"file_read: /proc/*\"",
        "web_search",
    ];
    let found = check(&entries);
    assert!(found.is_sorted_by_key(|one| one.level), "{found:?}");
    assert!(found.len() >= 4, "{found:?}");
    for one in &found {
        assert!(!one.message.is_empty() && !one.advice.is_empty(), "{one:?}");
        let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(one.rule.chars().all(kebab), "{}", one.rule);
    }
}

#[test]
fn a_finding_names_no_more_grants_than_can_be_read() {
    let reads: Vec<String> = (0..20).map(|n| format!("\"file_read: /data/{n}/*\"")).collect();
    let mut entries = vec!["tool: file_read", "tool: web_fetch", "web_search"];
    entries.extend(reads.iter().map(String::as_str));
    let message = one("lethal-trifecta", &entries).message;
    assert!(message.contains("and 12 more") && !message.contains("/data/8/"), "{message}");
}

/// What the rules find in a manifest with these fields and no grants.
fn of_fields(fields: &str) -> Vec<Finding> {
    let text = format!("name: one\nmodel: fast\nsystem_prompt: Work.\n{fields}");
    lint(&Manifest::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

#[test]
fn a_schedule_of_days_that_no_year_has_is_an_error() {
    for cron in ["0 0 31 2 *", "0 0 31 2,4,6,9,11 *", "* * 30-31 feb *"] {
        let found = of_fields(&format!("lifecycle: {{ scheduled: \"{cron}\" }}"));
        assert_eq!(found.len(), 1, "{cron}: {found:?}");
        assert_eq!((found[0].level, found[0].rule), (Level::Error, "schedule-never-due"), "{cron}");
        assert!(found[0].message.contains(cron), "{}", found[0].message);
    }
    for cron in ["0 0 29 2 *", "0 0 31 2,3 *", "0 0 31 2 mon", "* * * * *"] {
        assert_eq!(of_fields(&format!("lifecycle: {{ scheduled: \"{cron}\" }}")), [], "{cron}");
    }
    assert_eq!(of_fields("lifecycle: persistent"), []);
}

#[test]
fn the_shipped_manifest_has_no_errors() {
    let shipped = Manifest::parse(include_str!("../../../manifests/bootstrap.yaml")).expect("parses");
    assert_eq!(lint(&shipped), []);
}

#[test]
fn a_program_that_may_be_changed_is_any_program() {
    let tools = ["tool: command_run", "tool: file_write", "exec: /srv/bin/tool"];
    for write in ["\"file_write: /srv/*\"", "file_write: /srv/bin/tool"] {
        let found = one("changeable-program", &[&tools[..], &[write]].concat());
        assert_eq!((found.level, found.grant), (Level::Warning, Some(2)), "{write}");
        assert!(
            found.message.contains("/srv") && found.message.contains("exec: /srv/bin/tool"),
            "{}",
            found.message
        );
    }
    assert_eq!(of("changeable-program", &[&tools[..], &["\"file_write: /srv/bin/data/*\""]].concat()), []);
}
