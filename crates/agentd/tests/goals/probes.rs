//! Whether providers are there and take their keys: told at the start, by `agentd models`, and in `agentd status`.

use crate::support::wait_for_stderr;
use serde_json::{Value, json};
use testkit::{Backend, DaemonBuilder, ModelServer, Script, Turn};

fn of<'v>(view: &'v Value, name: &str) -> &'v Value {
    let all = view["providers"].as_array().expect("a list");
    all.iter().find(|one| one["name"] == name).expect(name)
}

/// Three providers: one that is right, one whose key is wrong, and one where nobody listens.
fn three(models: &ModelServer) -> DaemonBuilder {
    let gone = ModelServer::start(Script::new()).anthropic_url();
    DaemonBuilder::new(Backend::Builtin)
        .env("AAOS_PROVIDER", "")
        .env("OPENAI_BASE_URL", models.openai_url())
        .env("OPENAI_API_KEY", "sk-right-0123456789")
        .env("DEEPSEEK_BASE_URL", models.openai_url())
        .env("DEEPSEEK_API_KEY", "sk-wrong-0123456789")
        .env("ANTHROPIC_BASE_URL", gone)
        .env("ANTHROPIC_API_KEY", "sk-alone-0123456789")
}

#[test]
fn each_provider_is_shown_with_how_it_was_found() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("answered")));
    let daemon = three(&models).start();
    let view = daemon.client().call("runtime.models", json!({})).expect("a view");
    assert_eq!(of(&view, "openai")["standing"], "reachable", "the control: {view}");
    let refused = of(&view, "deepseek")["standing"]["key_refused"]["why"].as_str().unwrap_or_default();
    assert!(refused.contains("401") && refused.contains("check the key"), "{view}");
    let gone = of(&view, "anthropic")["standing"]["unreachable"]["why"].as_str().unwrap_or_default();
    assert!(gone.contains("cannot be reached"), "{view}");
    assert_eq!(of(&view, "builtin")["standing"], "reachable", "{view}");
    let told = daemon.cli(["models"]).stdout;
    for line in
        ["openai: reachable", "deepseek: its key is refused", "anthropic: does not answer", "smart means"]
    {
        assert!(told.contains(line), "{line}: {told}");
    }
    let status = daemon.cli(["status"]).stdout;
    assert!(status.contains("its key is refused"), "{status}");
    wait_for_stderr(&daemon, "the key is refused");
    let log = daemon.stderr();
    for text in [told, status, log, view.to_string()] {
        assert!(!["sk-right", "sk-wrong", "sk-alone"].iter().any(|key| text.contains(key)), "{text}");
    }
    assert!(models.requests().is_empty(), "nothing was inferred");
}

#[test]
fn a_key_that_may_not_see_the_list_is_not_refused() {
    let models = ModelServer::start(Script::new());
    let daemon = three(&models).env("OPENAI_API_KEY", "sk-barred-0123456789").start();
    let view = daemon.client().call("runtime.models", json!({})).expect("a view");
    assert_eq!(of(&view, "openai")["standing"], "reachable", "{view}");
    assert!(of(&view, "deepseek")["standing"]["key_refused"].is_object(), "the control: {view}");
}

#[test]
fn without_a_daemon_the_command_hosts_one() {
    let models = ModelServer::start(Script::new());
    let done = three(&models).cli(["models", "--json"]);
    assert_eq!(done.code(), 0, "{done:?}");
    let view: Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert!(of(&view, "deepseek")["standing"]["key_refused"].is_object(), "{view}");
}
