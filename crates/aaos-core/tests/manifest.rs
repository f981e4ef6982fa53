//! A test per field of SPEC §1: its effect, or its refusal; and input that is out to do harm.

use aaos_core::limits::{MAX_BARE_STARS, MAX_CAPABILITIES, MAX_MANIFEST_BYTES};
use aaos_core::manifest::{Lifecycle, Manifest, Problem, inline_prompt_file};
use aaos_core::quantity::Tokens;

const HEAD: &str = "name: reader\nmodel: fast\nsystem_prompt: You read.\n";

fn with(more: &str) -> Manifest {
    Manifest::parse(&format!("{HEAD}{more}")).unwrap_or_else(|error| panic!("{more}: {error}"))
}

fn refusal(more: &str) -> String {
    match Manifest::parse(&format!("{HEAD}{more}")) {
        Ok(manifest) => panic!("{more} was taken: {manifest:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_required_fields() {
    let manifest = with("");
    assert_eq!(manifest.name.as_str(), "reader");
    assert_eq!(manifest.model.as_str(), "fast");
    assert_eq!(manifest.system_prompt, "You read.");
    for field in ["name", "model", "system_prompt"] {
        let without: String =
            HEAD.lines().filter(|line| !line.starts_with(field)).map(|l| format!("{l}\n")).collect();
        let error = Manifest::parse(&without).expect_err(field);
        assert_eq!(error.problem, Problem::Missing { field });
    }
}

#[test]
fn defaults_are_those_of_the_specification() {
    let manifest = with("");
    assert_eq!(manifest.lifecycle, Lifecycle::OnDemand);
    assert!(manifest.capabilities.is_empty() && manifest.metadata.is_empty() && manifest.accepts.is_none());
    assert_eq!(manifest.memory.context_window, Tokens(131_072));
    assert_eq!(manifest.memory.max_history_messages, 100);
    assert_eq!(manifest.budget_config.max_tokens, None);
}

#[test]
fn each_built_field_has_its_effect() {
    assert_eq!(with("lifecycle: persistent").lifecycle, Lifecycle::Persistent);
    assert_eq!(with("lifecycle: on-demand").lifecycle, Lifecycle::OnDemand);
    assert_eq!(with("memory: { context_window: 8k }").memory.context_window, Tokens(8192));
    assert_eq!(with("memory: { context_window: 9000 }").memory.context_window, Tokens(9000));
    assert_eq!(with("memory:\n  max_history_messages: 7").memory.max_history_messages, 7);
    assert_eq!(with("budget_config: { max_tokens: 5000 }").budget_config.max_tokens, Some(Tokens(5000)));
    assert_eq!(with("metadata: { team: docs }").metadata["team"], "docs");
    let schema = with("accepts: { type: object, required: [a], maximum: 1.5 }").accepts.expect("a schema");
    assert_eq!(schema, serde_json::json!({ "type": "object", "required": ["a"], "maximum": 1.5 }));
}

#[test]
fn capabilities_are_read_in_every_form() {
    let manifest = with(
        r#"capabilities:
  - file_read: /data/*
  - "file_write: /out/*"
  - web_search
  - tool: *
  - spawn_child: [*]
  - spawn_child: [reader, writer]
  - network:
      - example.org
      - "*.example.net"
  - { file_write: "/data/output/*", max_invocations: 10, delegate: false }
  - tool: echo
    max_per_minute: 3
"#,
    );
    let words: Vec<String> = manifest.capabilities.iter().map(ToString::to_string).collect();
    let wanted = [
        "file_read: /data/*",
        "file_write: /out/*",
        "web_search",
        "tool: *",
        "spawn_child: [*]",
        "spawn_child: [reader, writer]",
        "network: *.example.net, example.org",
        r#"{ file_write: "/data/output/*", max_invocations: 10, delegate: false }"#,
        r#"{ tool: "echo", max_per_minute: 3 }"#,
    ];
    let mut sorted = words.clone();
    sorted.sort();
    let mut expected: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(sorted, expected);
}

#[test]
fn a_star_in_a_prompt_is_left_alone() {
    let prompt = "system_prompt: |\n  Write:\n  - tool: *\n  - [*]\n";
    let text = format!("name: a\nmodel: m\n{prompt}capabilities:\n  - tool: *\n  - spawn_child: [*]\n");
    let manifest = Manifest::parse(&text).expect("a manifest");
    assert_eq!(manifest.system_prompt, "Write:\n- tool: *\n- [*]\n");
    assert_eq!(manifest.capabilities.len(), 2);
}

#[test]
fn what_is_not_built_is_told_from_what_is_unknown() {
    for field in [
        "models: [cheap, better]",
        "misfire: skip",
        "lifecycle: { scheduled: '* * * * *' }",
        "approval_required: [file_write]",
        "memory: { summarization_model: fast }",
        "memory: { summarization_threshold: 0.5 }",
        "memory: { archive_ttl_days: 3 }",
        "memory: { episodic_enabled: true }",
        "memory: { episodic_max_records: 10 }",
        "memory: { episodic_max_content_bytes: 10 }",
        "budget_config: { max_usd: 1.50 }",
        "budget_config: { reset_period_seconds: 60 }",
        "supervision: { restart: always }",
        "supervision: { max_restarts: 5 }",
        "supervision: { within_seconds: 5 }",
        "capabilities: [ { exec: /usr/bin/git } ]",
    ] {
        let words = refusal(field);
        assert!(words.contains("not supported in this version"), "{field}: {words}");
    }
}

#[test]
fn the_defaults_of_unbuilt_fields_may_be_written() {
    with("approval_required: []");
    with("supervision: { restart: on-failure, max_restarts: 3, within_seconds: 60 }");
    with("budget_config: { reset_period_seconds: 0 }");
    with("memory: { episodic_enabled: false }");
}

#[test]
fn misspelt_fields_name_place_and_nearest() {
    for (more, place, nearest) in [
        ("capabilites: []", "line 4, column 1", "\"capabilities\""),
        ("memory:\n  contextwindow: 8k", "line 5, column 3", "\"context_window\""),
        ("budget_config:\n  max_token: 8", "line 5, column 3", "\"max_tokens\""),
        ("supervision: { restrat: never }", "line 4, column 16", "\"restart\""),
        ("capabilities:\n  - file_raed: /a", "line 5, column 5", "\"file_read\""),
        ("capabilities:\n  - tool: echo\n    max_invocation: 1", "line 6, column 5", "\"max_invocations\""),
        ("capabilities:\n  - file_read: /a/**", "line 5, column 5", "\"/a/*\""),
    ] {
        let words = refusal(more);
        assert!(words.contains(place) && words.contains(nearest), "{more}: {words}");
    }
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    for more in [
        "lifecycle: sometimes",
        "memory: { context_window: 8m }",
        "memory: { context_window: 0 }",
        "memory: { max_history_messages: -1 }",
        "memory: 3",
        "budget_config: { max_tokens: 0 }",
        "budget_config: { max_tokens: lots }",
        "metadata: { version: 1.0 }",
        "metadata: [a]",
        "accepts: 3",
        "capabilities: tool",
        "capabilities: [3]",
        "capabilities: [[a]]",
        "approval_required: file_write",
    ] {
        let words = refusal(more);
        assert!(words.starts_with("line 4, column "), "{more}: {words}");
    }
    for bad in ["name: Reader", "name: 7", "name: [a]", "name: ''"] {
        let error = Manifest::parse(&HEAD.replace("name: reader", bad)).expect_err(bad);
        assert_eq!(error.at.line, 1, "{bad}: {error}");
    }
}

#[test]
fn duplicate_keys_are_refused() {
    let words = refusal("model: other");
    assert!(words.contains("line 4") && words.contains("duplicate"), "{words}");
    refusal("memory: { context_window: 1k, context_window: 2k }");
    refusal("metadata: { a: b, a: c }");
    refusal("<<: { model: x }");
}

#[test]
fn a_prompt_file_is_for_the_command_line() {
    let text = "name: a\nmodel: m\nsystem_prompt: { file: ./prompt.md }\n";
    let error = Manifest::parse(text).expect_err("not read here");
    assert_eq!(error.problem, Problem::SystemPromptFile { path: "./prompt.md".to_owned() });
    let whole = inline_prompt_file(text, |path| {
        assert_eq!(path, "./prompt.md");
        Ok("Be: \"brief\"\n- *\n".to_owned())
    });
    let manifest = Manifest::parse(&whole.expect("read")).expect("a manifest");
    assert_eq!(manifest.system_prompt, "Be: \"brief\"\n- *\n");
    let failed = inline_prompt_file(text, |_| Err(std::io::ErrorKind::NotFound.into()));
    assert!(failed.expect_err("unreadable").to_string().contains("./prompt.md"));
    assert_eq!(inline_prompt_file(HEAD, |_| unreachable!("no file is named")).as_deref(), Ok(HEAD));
    assert!(Manifest::parse("name: a\nmodel: m\nsystem_prompt: { fiel: x }").is_err());
}

#[test]
fn bombs_are_refused_quickly() {
    let mut bomb =
        String::from("name: a\nmodel: m\nsystem_prompt: p\nmetadata:\n  a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (from, to) in ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"].iter().map(|p| p.split_at(1)) {
        bomb.push_str(&format!("  {to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(",")));
    }
    assert!(Manifest::parse(&bomb).is_err(), "a billion laughs");
    assert!(Manifest::parse(&format!("{HEAD}accepts: {}", "[".repeat(10_000))).is_err(), "deep flow");
    let mut deep = String::from(HEAD);
    deep.push_str("accepts:\n");
    for depth in 1..200 {
        deep.push_str(&format!("{}k:\n", " ".repeat(depth)));
    }
    assert!(Manifest::parse(&deep).is_err(), "deep blocks");
    let wide = format!("{HEAD}accepts: {{ enum: [{}] }}", "1,".repeat(100_000));
    assert!(Manifest::parse(&wide).is_err(), "too many values");
    let long = format!("{HEAD}metadata: {{ a: {} }}", "x".repeat(MAX_MANIFEST_BYTES));
    assert!(Manifest::parse(&long).is_err(), "too long");
    let many = "  - web_search\n".repeat(MAX_CAPABILITIES + 1);
    assert!(refusal(&format!("capabilities:\n{many}")).contains("256"), "too many capabilities");
    let stars = "  - tool: *\n".repeat(MAX_BARE_STARS + 1);
    assert!(Manifest::parse(&format!("{HEAD}capabilities:\n{stars}")).is_err(), "too many stars");
}

#[test]
fn what_is_no_manifest_is_refused() {
    for text in
        ["", "just text", "- a\n- b", "{", "name: a\n---\nname: b", "\u{0}", "name: !!binary aa", "a: b: c"]
    {
        let error = Manifest::parse(text).expect_err(text);
        assert!(!error.to_string().contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn a_manifest_survives_the_journal() {
    let manifest = with("capabilities: [ { tool: echo, max_invocations: 2 } ]\naccepts: { type: string }");
    let json = serde_json::to_string(&manifest).expect("plain");
    assert_eq!(serde_json::from_str::<Manifest>(&json).expect("round trip"), manifest);
}
