//! A test per field of SPEC §1: its effect, or its refusal; and input that is out to do harm.

use aaos_core::budget::Budget;
use aaos_core::limits::{MAX_BARE_STARS, MAX_CAPABILITIES, MAX_MANIFEST_BYTES, MAX_RESTARTS};
use aaos_core::manifest::{BudgetConfig, Lifecycle, Manifest, Problem, inline_prompt_file};
use aaos_core::quantity::{Bytes, MicroUsd, Millis, Quantity, Tokens};
use aaos_core::schedule::{Misfire, WAKE_MESSAGE};
use aaos_core::supervision::{RestartPolicy, Supervision};

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
    assert_eq!(manifest.budget_config, BudgetConfig::default());
    assert!(manifest.budget_config.is_unlimited() && manifest.budget_config.reset_period.is_none());
    assert!(manifest.approval_required.is_empty() && manifest.child_models.is_empty());
    let supervision = Supervision {
        restart: RestartPolicy::OnFailure,
        max_restarts: 3,
        within: Millis(60_000),
        max_usd: None,
    };
    assert_eq!(manifest.supervision, supervision);
    let written = with("supervision: { restart: on-failure, max_restarts: 3, within_seconds: 60 }");
    assert_eq!(written, manifest);
}

#[test]
fn an_environment_is_a_map_of_texts() {
    let manifest = with("environment: { LANG: C.UTF-8, EMPTY: '' }");
    assert_eq!(manifest.environment.assignments(), ["EMPTY=", "LANG=C.UTF-8"]);
    assert!(with("environment: {}").environment.is_empty() && with("").environment.is_empty());
    for (more, words) in [
        ("environment: [A]", "`environment` must be a map"),
        ("environment: { A: 1 }", "`environment` must be text (put it in quotes), not 1"),
        ("environment: { A: }", "`environment` must be text"),
        ("environment: { A-B: x }", "\"A-B\" names no variable"),
        ("environment: { LD_PRELOAD: x }", "LD_PRELOAD is not a manifest's to set"),
        ("environment: { A: x, A: y }", "A"),
        ("enviroment: { A: x }", "nearest: \"environment\""),
    ] {
        let refused = refusal(more);
        assert!(refused.contains(words), "{more}: {refused}");
    }
    let written = serde_json::to_string(&manifest).expect("written");
    assert_eq!(serde_json::from_str::<Manifest>(&written).expect("read"), manifest);
    let without = serde_json::to_string(&with("")).expect("written");
    assert!(!without.contains("environment"), "what has none is written as before: {without}");
}

#[test]
fn supervision_is_read_field_by_field() {
    let supervision =
        |fields: &str| with(&format!("lifecycle: persistent\nsupervision: {{ {fields} }}")).supervision;
    let default = Supervision::default();
    for (fields, wanted) in [
        ("", default),
        ("restart: never", Supervision { restart: RestartPolicy::Never, ..default }),
        ("restart: on-failure", default),
        ("restart: always", Supervision { restart: RestartPolicy::Always, ..default }),
        ("max_restarts: 1", Supervision { max_restarts: 1, ..default }),
        ("max_restarts: 1000", Supervision { max_restarts: MAX_RESTARTS, ..default }),
        ("within_seconds: 1", Supervision { within: Millis(1_000), ..default }),
        ("within_seconds: 86400", Supervision { within: Millis(86_400_000), ..default }),
        ("max_usd: 0.25", Supervision { max_usd: Some(MicroUsd(250_000)), ..default }),
        ("max_usd: '0.000001'", Supervision { max_usd: Some(MicroUsd(1)), ..default }),
    ] {
        assert_eq!(supervision(fields), wanted, "{fields}");
    }
    for (field, bad) in [
        ("restart", &["sometimes", "on_failure", "7", "true", "", "[always]"][..]),
        ("max_restarts", &["0", "-1", "1001", "4294967297", "1.5", "many", ""]),
        ("within_seconds", &["0", "-1", "86401", "4294967297", "1.5", "hour", ""]),
        ("max_usd", &["0", "-1", "1e3", "free", "", "1.0000001"]),
    ] {
        for value in bad {
            let words = refusal(&format!("supervision:\n  {field}: {value}\n"));
            assert!(words.contains(&format!("`supervision.{field}` must be")), "{field}: {value}: {words}");
            assert!(words.starts_with("line 5, column "), "{field}: {value}: {words}");
        }
    }
    assert!(refusal("supervision: always").contains("`supervision` must be a map"));
    refusal("supervision: { restart: never, restart: always }");
    // The command line writes the manifest anew when its prompt is a file.
    let text = "name: a\nmodel: m\nsystem_prompt: { file: p }\nsupervision: { max_usd: 9007199254.740993 }";
    let whole = inline_prompt_file(text, |_| Ok("p".to_owned())).expect("inlined");
    let kept = Manifest::parse(&whole).expect("a manifest").supervision;
    assert_eq!(kept.max_usd, Some(MicroUsd(9_007_199_254_740_993)));
}

#[test]
fn a_schedule_is_a_lifecycle() {
    let schedule = |fields: &str| match with(&format!("lifecycle: {{ {fields} }}")).lifecycle {
        Lifecycle::Scheduled(spec) => spec,
        other => panic!("{fields}: {other:?}"),
    };
    let plain = schedule("scheduled: '*/5  * * * *'");
    assert_eq!(plain.schedule.to_string(), "*/5 * * * *", "with single spaces");
    assert_eq!((plain.misfire, plain.message.as_str()), (Misfire::Once, WAKE_MESSAGE));
    assert_eq!(schedule("misfire: once, scheduled: 0 9 * * 1-5").misfire, Misfire::Once);
    let told = schedule("scheduled: 0 9 * * 1-5, misfire: skip, message: 'Count the mails.'");
    assert_eq!((told.misfire, told.message.as_str()), (Misfire::Skip, "Count the mails."));
    let lifecycle = with("lifecycle: { scheduled: 0 9 * * 1-5 }").lifecycle;
    assert_eq!(lifecycle.to_string(), "{ scheduled: \"0 9 * * 1-5\" }");
    assert!(lifecycle.outlives_a_run() && lifecycle.schedule().is_some());
    assert!(Lifecycle::Persistent.outlives_a_run() && Lifecycle::Persistent.schedule().is_none());
    assert!(!Lifecycle::OnDemand.outlives_a_run() && Lifecycle::OnDemand.schedule().is_none());
}

#[test]
fn a_lifecycle_that_is_none_is_refused_with_its_place() {
    for (more, words) in [
        (
            "lifecycle: scheduled",
            "line 4, column 12: `lifecycle` must be on-demand, persistent or { scheduled",
        ),
        ("lifecycle: {}", "field `lifecycle.scheduled` is missing"),
        ("lifecycle: { misfire: skip }", "line 4, column 12: field `lifecycle.scheduled` is missing"),
        ("lifecycle: { scheduled: 5 }", "line 4, column 25: `lifecycle.scheduled` must be text"),
        (
            "lifecycle: { scheduled: '@daily' }",
            "line 4, column 25: `lifecycle.scheduled`: a schedule has five fields",
        ),
        ("lifecycle: { scheduled: '0 24 * * *' }", "the hour of a schedule must be 0 to 23"),
        ("lifecycle:\n  scheduled: */5 * * * *", "line 5, column 14"),
        ("lifecycle: { scheduled: 0 9 * * 1, misfire: all }", "`lifecycle.misfire` must be skip or once"),
        (
            "lifecycle: { scheduled: 0 9 * * 1, message: ' ' }",
            "`lifecycle.message` must be text that is not empty",
        ),
        ("lifecycle: { scheduled: 0 9 * * 1, message: 7 }", "`lifecycle.message` must be text"),
        (
            "lifecycle: { schedule: 0 9 * * 1 }",
            "unknown field \"schedule\" in lifecycle; nearest: \"scheduled\"",
        ),
        ("misfire: skip", "nearest: \"lifecycle: { scheduled: …, misfire: … }\""),
    ] {
        let said = refusal(more);
        assert!(said.contains(words), "{more}: {said}");
    }
}

#[test]
fn each_built_field_has_its_effect() {
    assert_eq!(with("lifecycle: persistent").lifecycle, Lifecycle::Persistent);
    assert_eq!(with("lifecycle: on-demand").lifecycle, Lifecycle::OnDemand);
    assert_eq!(with("memory: { context_window: 8k }").memory.context_window, Tokens(8192));
    assert_eq!(with("memory: { context_window: 9000 }").memory.context_window, Tokens(9000));
    assert_eq!(with("memory:\n  max_history_messages: 7").memory.max_history_messages, 7);
    let threshold =
        |more: &str| with(more).memory.summarization_threshold.map(|share| share.tokens(Tokens(20_000)));
    assert_eq!(threshold(""), Some(Tokens(14_000)));
    for (written, tokens) in
        [("0.5", 10_000), ("\"0.25\"", 5_000), ("1", 20_000), ("1.0", 20_000), ("0.0001", 2)]
    {
        let wanted = format!("memory: {{ summarization_threshold: {written} }}");
        assert_eq!(threshold(&wanted), Some(Tokens(tokens)), "{written}");
    }
    let model = |more: &str| with(more).memory.summarization_model.map(|model| model.to_string());
    assert_eq!(model("memory: { summarization_model: cheap }").as_deref(), Some("cheap"));
    assert_eq!(model(""), None);
    assert_eq!(with("memory: { archive_ttl_days: 3 }").memory.archive_ttl_days, Some(3));
    assert_eq!(with("").memory.archive_ttl_days, None);
    assert_eq!(with("budget_config: { max_tokens: 5000 }").budget_config.max_tokens, Some(Tokens(5000)));
    assert_eq!(with("metadata: { team: docs }").metadata["team"], "docs");
    let schema = with("accepts: { type: object, required: [a], maximum: 1.5 }").accepts.expect("a schema");
    assert_eq!(schema, serde_json::json!({ "type": "object", "required": ["a"], "maximum": 1.5 }));
}

#[test]
fn every_ceiling_is_read_with_its_unit() {
    let budget = |field: &str| with(&format!("budget_config: {{ {field} }}")).budget_config;
    let none = BudgetConfig::default();
    assert_eq!(none.budget(), Budget::default());
    for (field, wanted) in [
        ("max_tokens: 7", BudgetConfig { max_tokens: Some(Tokens(7)), ..none }),
        ("max_usd: 2", BudgetConfig { max_usd: Some(MicroUsd(2_000_000)), ..none }),
        ("max_wall_seconds: 7", BudgetConfig { max_wall: Some(Millis(7_000)), ..none }),
        ("max_children: 7", BudgetConfig { max_children: Some(7), ..none }),
        ("max_egress_bytes: 7", BudgetConfig { max_egress_bytes: Some(Bytes(7)), ..none }),
        ("max_written_bytes: 7", BudgetConfig { max_written_bytes: Some(Bytes(7)), ..none }),
        ("max_files: 7", BudgetConfig { max_files: Some(7), ..none }),
        ("max_journal_bytes: 7", BudgetConfig { max_journal_bytes: Some(Bytes(7)), ..none }),
    ] {
        assert_eq!(budget(field), wanted, "{field}");
        assert!(!budget(field).is_unlimited(), "{field}");
        let bounded: Vec<_> = budget(field).budget().max.iter().collect();
        let most = match field {
            "max_usd: 2" => (Quantity::MicroUsd, 2_000_000),
            "max_wall_seconds: 7" => (Quantity::WallMillis, 7_000),
            "max_tokens: 7" => (Quantity::Tokens, 7),
            "max_children: 7" => (Quantity::Children, 7),
            "max_egress_bytes: 7" => (Quantity::EgressBytes, 7),
            "max_written_bytes: 7" => (Quantity::WrittenBytes, 7),
            "max_files: 7" => (Quantity::Files, 7),
            _ => (Quantity::JournalBytes, 7),
        };
        assert_eq!(bounded, [most], "{field}");
        let name = field.split(':').next().expect("a name");
        for bad in ["0", "-1", "true", "lots", "[1]", "", "{ a: 1 }"] {
            let words = refusal(&format!("budget_config:\n  {name}: {bad}\n"));
            assert!(words.contains(&format!("`budget_config.{name}` must be")), "{name}: {bad}: {words}");
            assert!(words.starts_with("line 5, column "), "{name}: {bad}: {words}");
        }
        if name != "max_usd" {
            refusal(&format!("budget_config: {{ {name}: 1.5 }}"));
        }
    }
    let window = budget("max_files: 1, reset_period_seconds: 60");
    assert_eq!(window.reset_period, Some(Millis(60_000)));
    assert_eq!(window.budget().reset_period, Some(Millis(60_000)));
    assert_eq!(budget("max_files: 1, reset_period_seconds: 0").reset_period, None, "0 is never");
    for bad in ["max_tokens: 1, reset_period_seconds: -1", "max_tokens: 1, reset_period_seconds: 1.5"] {
        refusal(&format!("budget_config: {{ {bad} }}"));
    }
    for field in ["max_wall_seconds", "reset_period_seconds"] {
        let words = refusal(&format!("budget_config: {{ max_tokens: 1, {field}: 4294967296 }}"));
        assert!(words.contains("below 2^32"), "{words}");
    }
    let idle = refusal("budget_config: { reset_period_seconds: 60 }");
    assert!(idle.contains("beside a ceiling"), "a window of nothing has no effect: {idle}");
}

#[test]
fn dollars_are_what_the_text_says() {
    let dollars = |text: &str| with(&format!("budget_config:\n  max_usd: {text}\n")).budget_config.max_usd;
    for (text, micros) in [
        ("1.50", 1_500_000),
        ("\"1.50\"", 1_500_000),
        ("'0.000001'", 1),
        ("0.1", 100_000),
        ("8.000001 # dollars", 8_000_001),
        // As a binary fraction it would be one millionth less.
        ("9007199254.740993", 9_007_199_254_740_993),
        ("18446744073709", 18_446_744_073_709_000_000),
    ] {
        assert_eq!(dollars(text), Some(MicroUsd(micros)), "{text}");
    }
    let shared =
        with("metadata: { note: é }\naccepts: { maximum: &most 2.25 }\nbudget_config: { max_usd: *most }");
    assert_eq!(shared.budget_config.max_usd, Some(MicroUsd(2_250_000)), "an alias has its anchor's digits");
    let starred = with("capabilities:\n  - tool: *\nbudget_config: { max_usd: 2.25 }");
    assert_eq!(starred.budget_config.max_usd, Some(MicroUsd(2_250_000)), "where a star was quoted before it");
    for text in [
        "0.00",
        "\"0\"",
        "1.0000000",
        "1.00000000000000000001",
        "1e3",
        "1.5e0",
        "-1.5",
        ".5",
        "1.",
        "+1.5",
        "1_000.5",
        "\"1,5\"",
        "\"$1\"",
        "\"\"",
        "18446744073710.5",
        "\"18446744073709.551616\"",
    ] {
        let words = refusal(&format!("budget_config:\n  max_usd: {text}\n"));
        assert!(
            words.starts_with("line 5, column 12: `budget_config.max_usd` must be US dollars"),
            "{words}"
        );
        assert!(words.contains("in quotes"), "it tells to quote: {words}");
    }
    for text in [".inf", ".nan", "null", "[1]"] {
        assert!(refusal(&format!("budget_config:\n  max_usd: {text}\n")).starts_with("line 5"), "{text}");
    }
    // The command line writes the manifest anew when its prompt is a file.
    let text = "name: a\nmodel: m\nsystem_prompt: { file: p }\nbudget_config: { max_usd: 9007199254.740993 }";
    let whole = inline_prompt_file(text, |_| Ok("p".to_owned())).expect("inlined");
    let manifest = Manifest::parse(&whole).expect("a manifest");
    assert_eq!(manifest.budget_config.max_usd, Some(MicroUsd(9_007_199_254_740_993)));
}

#[test]
fn approvals_name_tools_of_the_catalogue() {
    let names = |manifest: &Manifest| -> Vec<String> {
        manifest.approval_required.iter().map(ToString::to_string).collect()
    };
    let manifest = with("approval_required: [web_fetch, file_write, web_fetch]");
    assert_eq!(names(&manifest), ["file_write", "web_fetch"], "sorted, each once");
    assert!(
        names(&with("approval_required: []")).is_empty() && names(&with("approval_required:")).is_empty()
    );
    for (more, words) in [
        (
            "approval_required:\n  - echo\n  - file_wrte",
            "line 6, column 5: unknown tool \"file_wrte\"; nearest: \"file_write\"",
        ),
        ("approval_required: [memory_store]", "tool `memory_store` is not supported in this version"),
        ("approval_required: [7]", "line 4, column 21: `approval_required` must be text"),
        ("approval_required: [*]", "unknown tool \"*\""),
        ("approval_required: true", "`approval_required` must be a list"),
        ("approval_required: { a: b }", "`approval_required` must be a list"),
    ] {
        let said = refusal(more);
        assert!(said.contains(words), "{more}: {said}");
    }
}

#[test]
fn the_models_of_children_are_names() {
    let manifest = with("child_models: [smart, deepseek/chat, smart]");
    let names: Vec<&str> = manifest.child_models.iter().map(|name| name.as_str()).collect();
    assert_eq!(names, ["deepseek/chat", "smart"], "sorted, each once");
    assert!(with("child_models: []").child_models.is_empty());
    for (more, words) in [
        (
            "child_models:\n  - fast\n  - two words",
            "line 6, column 5: `child_models`: model name may not hold",
        ),
        ("child_models: ['']", "model name is empty"),
        ("child_models: [1]", "`child_models` must be text"),
        ("child_models: fast", "line 4, column 15: `child_models` must be a list"),
    ] {
        let said = refusal(more);
        assert!(said.contains(words), "{more}: {said}");
    }
    let many = refusal(&format!("child_models: [{}]", "m, ".repeat(300)));
    assert!(many.contains("at most 256 names"), "{many}");
}

#[test]
fn several_models_are_a_ladder_in_their_order() {
    let of = |models: &str| Manifest::parse(&format!("name: a\n{models}\nsystem_prompt: p\n"));
    let manifest = of("models: [cheap, openai/better, a-better]").expect("a manifest");
    let names: Vec<&str> = manifest.models().map(|name| name.as_str()).collect();
    assert_eq!(names, ["cheap", "openai/better", "a-better"]);
    let at = |rung| manifest.model_at(rung).as_str();
    assert_eq!(
        [0, 1, 2, 3, u32::MAX].map(at),
        ["cheap", "openai/better", "a-better", "a-better", "a-better"]
    );
    assert_eq!(of("models: [m]").expect("one"), of("model: m").expect("the same"));
    let json = serde_json::to_string(&manifest).expect("plain");
    assert_eq!(serde_json::from_str::<Manifest>(&json).expect("round trip"), manifest);
    let nine: Vec<String> = (0..9).map(|nth| format!("m{nth}")).collect();
    let nine = format!("models: [{}]", nine.join(", "));
    for (models, words) in [
        ("model: a\nmodels: [b]", "line 3, column 1: `model` and `models` exclude each other"),
        ("models: [b]\nmodel: a", "line 3, column 1: `model` and `models` exclude each other"),
        ("models: []", "line 2, column 9: `models` must be a list of 1 to 8 different models, not one of 0"),
        ("models:", "`models` must be a list of 1 to 8 different models, not one of 0"),
        (nine.as_str(), "`models` must be a list of 1 to 8 different models, not one of 9"),
        (
            "models: [a, b, a]",
            "line 2, column 16: `models` must be a list of 1 to 8 different models, not a once more",
        ),
        ("models: [a, two words]", "`models`: model name may not hold"),
        ("models: [1]", "`models` must be text"),
        ("models: cheap", "`models` must be a list"),
        ("metadata: {}", "field `model` is missing"),
    ] {
        let said = of(models).expect_err(models).to_string();
        assert!(said.contains(words), "{models}: {said}");
    }
    let most = nine.replace(", m8", "");
    assert_eq!(of(&most).expect("as many as there may be").models().count(), 8);
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
        "supervision: { restart: always }",
        "memory: { episodic_enabled: true }",
        "memory: { episodic_max_records: 10 }",
        "memory: { episodic_max_content_bytes: 10 }",
    ] {
        let words = refusal(field);
        assert!(words.contains("not supported in this version"), "{field}: {words}");
    }
}

#[test]
fn the_defaults_of_unbuilt_fields_may_be_written() {
    with("budget_config: { reset_period_seconds: 0 }");
    with("memory: { episodic_enabled: false }");
}

#[test]
fn misspelt_fields_name_place_and_nearest() {
    for (more, place, nearest) in [
        ("capabilites: []", "line 4, column 1", "\"capabilities\""),
        ("memory:\n  contextwindow: 8k", "line 5, column 3", "\"context_window\""),
        ("budget_config:\n  max_token: 8", "line 5, column 3", "\"max_tokens\""),
        ("budget_config: { max_egres_bytes: 8 }", "line 4, column 18", "\"max_egress_bytes\""),
        ("approval_require: [echo]", "line 4, column 1", "\"approval_required\""),
        ("child_model: [fast]", "line 4, column 1", "\"child_models\""),
        (
            "capabilities:\n  - tool: echo\n    approval_require: true",
            "line 6, column 5",
            "\"approval_required\"",
        ),
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
        "memory: { summarization_threshold: 0 }",
        "memory: { summarization_threshold: 0.0 }",
        "memory: { summarization_threshold: 1.0001 }",
        "memory: { summarization_threshold: 2 }",
        "memory: { summarization_threshold: 0.12345 }",
        "memory: { summarization_threshold: -0.5 }",
        "memory: { summarization_threshold: .5 }",
        "memory: { summarization_threshold: 65536 }",
        "memory: { summarization_threshold: true }",
        "memory: { summarization_model: 'not a model' }",
        "memory: { archive_ttl_days: 0 }",
        "memory: { archive_ttl_days: 4294967296 }",
        "memory: { archive_ttl_days: 1.5 }",
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
    let manifest = with(
        "capabilities: [ { tool: echo, max_invocations: 2, approval_required: true } ]\naccepts: { type: string }\n\
         approval_required: [echo]\nchild_models: [fast]\n\
         budget_config: { max_usd: 0.25, max_wall_seconds: 3, reset_period_seconds: 9 }\n\
         lifecycle: { scheduled: \"0 9 * * mon\", misfire: skip, message: Go. }\n\
         supervision: { restart: always, max_restarts: 7, within_seconds: 8, max_usd: 0.5 }",
    );
    let json = serde_json::to_string(&manifest).expect("plain");
    assert_eq!(serde_json::from_str::<Manifest>(&json).expect("round trip"), manifest);
}

#[test]
fn what_the_reference_shows_is_read() {
    let reference = include_str!("../../../docs/manifest.md");
    let examples: Vec<&str> = reference
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("the end of an example"))
        .collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        assert_ne!(with(example), with(""), "{example} has an effect");
    }
    for field in [
        "lifecycle",
        "supervision",
        "accepts",
        "models",
        "child_models",
        "environment",
        "memory.context_window",
        "memory.summarization_threshold",
        "memory.summarization_model",
        "memory.archive_ttl_days",
        "budget_config",
    ] {
        assert!(reference.contains(&format!("| `{field}` |")), "{field}");
    }
}
