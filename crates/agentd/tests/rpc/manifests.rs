//! Manifests that are wrong, misspelt or out to do harm: the error says where and what to write instead.

use crate::support::{Rig, assert_serves, manifest, peak_mib};
use serde_json::json;
use testkit::{Backend, DaemonBuilder};

/// Lines 1 to 3 are the head that `manifest` writes, so further fields begin on line 4.
const MISSPELT: &[(&str, &[&str])] = &[
    ("lifecicle: persistent\n", &["line 4, column 1", "lifecicle", "lifecycle"]),
    ("capabilities:\n  - file_reed: /data/*\n", &["line 5, column 5", "file_reed", "file_read"]),
    ("capabilities:\n  - web_serch\n", &["line 5, column 5", "web_serch", "web_search"]),
    ("memory:\n  contxt_window: 8k\n", &["line 5, column 3", "contxt_window", "context_window"]),
    ("budget_config: { max_token: 5 }\n", &["line 4", "max_token", "max_tokens"]),
    ("lifecycle: persistant\n", &["line 4", "persistent"]),
    ("capabilities:\n  - { file_read: /d/*, max_invocation: 1 }\n", &["line 5", "max_invocations"]),
    ("capabilities:\n  - file_read: /data/**\n", &["line 5", "/data/**"]),
    ("capabilities:\n  - file_read: data/*\n", &["line 5", "not absolute"]),
    ("model: other\n", &["line 4, column 1", "model", "once"]),
    ("approval_required: [file_wirte]\n", &["line 4", "file_wirte", "file_write"]),
    ("child_model: [fast]\n", &["line 4", "child_model", "child_models"]),
    ("budget_config: { max_usd: 1e3 }\n", &["line 4", "1e3", "in quotes"]),
    ("models: [cheap, better]\n", &["line 4, column 1", "`model` and `models` exclude each other"]),
    ("capabilities: [\n", &["line"]),
];

#[test]
fn a_misspelt_manifest_is_told_the_place_and_the_nearest_word() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for (more, told) in MISSPELT {
        let text = manifest("typo", more);
        for (method, params) in [
            ("agent.spawn", json!({ "manifest": text })),
            ("agent.spawn_and_run", json!({ "manifest": text, "message": "go" })),
            ("goal.submit", json!({ "goal": "go", "manifest": text })),
        ] {
            let failure = client.call(method, params).expect_err(more);
            assert_eq!((failure.code, &failure.data["reason"]), (-32602, &json!("manifest")), "{more}");
            for word in *told {
                assert!(failure.message.contains(word), "{more:?} lacks {word:?}: {}", failure.message);
            }
        }
    }
    assert_eq!(client.call("agent.list", json!({})).expect("a list"), json!({ "agents": [] }));
    assert_eq!(client.call("goal.list", json!({})).expect("a list"), json!({ "goals": [] }));
}

#[test]
fn yaml_out_to_do_harm_is_refused_and_costs_little() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", below.trim_end_matches(", ")));
    }
    let deep = format!("metadata: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let itself = "metadata: &m { again: *m }\n".to_owned();
    let wide = format!("metadata:\n{}", (0..30_000).map(|n| format!("  k{n}: v\n")).collect::<String>());
    let huge = format!("metadata: {{ a: \"{}\" }}\n", "x".repeat(4 * 1024 * 1024));
    let merge = "base: &b { a: 1 }\nmetadata: { <<: *b }\n".to_owned();
    let second = "---\nname: two\n".to_owned();
    let nul = "metadata: { a: \"\u{0}\" }\n".to_owned();
    let before = peak_mib(rig.daemon.pid());
    for bomb in [laughs, deep, itself, wide, huge, merge, second, nul] {
        let failure = client.call("agent.spawn", json!({ "manifest": manifest("bomb", &bomb) }));
        let shown: String = bomb.chars().take(60).collect();
        let failure = failure.expect_err(&shown);
        assert_eq!(failure.code, -32602, "{shown}: {}", failure.message);
        assert!(failure.message.len() < 2_000, "an error does not repeat the bomb: {shown}");
    }
    let after = peak_mib(rig.daemon.pid());
    assert!(after < before + 64, "memory went from {before} to {after} MiB");
    assert_serves(&rig.daemon);
}

#[test]
fn an_unknown_model_is_an_error_at_spawn_that_lists_what_is_known() {
    let daemon = DaemonBuilder::new(Backend::Builtin).start();
    let mut client = daemon.client();
    let known = manifest("known", "").replace("scripted-model", "smart");
    client.call("agent.spawn", json!({ "manifest": known })).expect("an alias of the built-in planner");
    let failure =
        client.call("agent.spawn", json!({ "manifest": manifest("lost", "") })).expect_err("unknown");
    assert_eq!(failure.code, -32602);
    assert!(failure.message.contains("scripted-model") && failure.message.contains("builtin"), "{failure:?}");
    assert_eq!(failure.data["reason"], "unknown_model");
}

#[test]
fn a_root_that_cannot_be_granted_refuses_the_agent() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let state = rig.daemon.state_dir();
    for root in ["/no/such/dir/*".to_owned(), format!("{}/*", state.display())] {
        let text = manifest("rooted", &format!("capabilities: [\"file_read: {root}\"]\n"));
        let failure = client.call("agent.spawn", json!({ "manifest": text })).expect_err(&root);
        assert_eq!(failure.code, -32602, "{root}: {}", failure.message);
        assert!(failure.message.contains(&root), "{}", failure.message);
    }
    assert_eq!(client.call("agent.list", json!({})).expect("a list"), json!({ "agents": [] }));
}
