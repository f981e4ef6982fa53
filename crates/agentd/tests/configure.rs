//! `agentd configure`: where a key goes, who can read it, and that a daemon then works with it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use testkit::{Backend, DaemonBuilder, Finished, ModelServer, Script, Turn};

const KEY: &str = "sk-configured-0123456789";

/// Without a key or a choice in the environment: an empty variable counts as absent.
fn bare() -> DaemonBuilder {
    DaemonBuilder::new(Backend::Builtin).env("AAOS_PROVIDER", "")
}

fn key_file(aaos: &DaemonBuilder, name: &str) -> PathBuf {
    aaos.home().join("config/aaos/keys").join(name)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn with_stdin(aaos: &DaemonBuilder, args: &[&str], text: &str) -> Finished {
    let mut command = aaos.command(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts agentd");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    Finished::from(child.wait_with_output().expect("it ends"))
}

fn shows_no_key(done: &Finished) {
    assert!(!done.stdout.contains(KEY) && !done.stderr.contains(KEY), "{done:?}");
}

#[test]
fn a_key_from_standard_input_is_kept_for_its_owner_alone_and_replaces_an_older_one() {
    let aaos = bare();
    for text in ["sk-older\n", &format!("  {KEY}\n")] {
        let done = with_stdin(&aaos, &["configure", "anthropic", "--key-stdin"], text);
        assert_eq!(done.code(), 0, "{done:?}");
        shows_no_key(&done);
        assert!(done.stdout.contains("keys/anthropic (mode 0600)"), "{done:?}");
    }
    let path = key_file(&aaos, "anthropic");
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), format!("{KEY}\n"));
    assert_eq!((mode(&path), mode(path.parent().expect("a directory"))), (0o600, 0o700));
    let left = std::fs::read_dir(path.parent().expect("a directory")).expect("lists").count();
    assert_eq!(left, 1, "nothing else is left");
}

#[test]
fn a_key_from_the_environment_is_kept_and_one_that_is_not_there_is_told() {
    let aaos = bare().env("SOME_API_KEY", KEY).env("OPENAI_API_KEY", "sk-openai-0123");
    let done = aaos.cli(["configure", "deepseek", "--key-from-env", "SOME_API_KEY"]);
    assert_eq!(done.code(), 0, "{done:?}");
    shows_no_key(&done);
    assert_eq!(
        std::fs::read_to_string(key_file(&aaos, "deepseek")).expect("it is there"),
        format!("{KEY}\n")
    );
    let done = aaos.cli(["configure", "openai", "--key-from-env", "OPENAI_API_KEY"]);
    assert_eq!(done.code(), 0, "one that is always taken out of the environment: {done:?}");
    assert!(done.stderr.contains("while OPENAI_API_KEY is set"), "{done:?}");
    let absent = aaos.cli(["configure", "anthropic", "--key-from-env", "ABSENT_KEY"]);
    assert!(absent.code() == 1 && absent.stderr.contains("ABSENT_KEY is not set"), "{absent:?}");
    let other = aaos.cli(["configure", "anthropic", "--key-from-env", "HOME"]);
    assert!(other.code() == 2 && other.stderr.contains("_KEY or _TOKEN"), "{other:?}");
    assert!(!key_file(&aaos, "anthropic").exists());
}

#[test]
fn what_cannot_be_kept_is_refused_and_changes_nothing() {
    let aaos = bare();
    for (args, text, code, said) in [
        (vec!["configure", "anthropic"], KEY, 2, "--key-stdin"),
        (vec!["configure"], KEY, 2, "name a provider"),
        (vec!["configure", "../../x", "--key-stdin"], KEY, 2, "cannot be configured"),
        (vec!["configure", "builtin", "--key-stdin"], KEY, 2, "needs no key"),
        (
            vec!["configure", "local", "--key-stdin", "--base-url", "http://x", "--model", "m"],
            KEY,
            2,
            "agentd model add",
        ),
        (vec!["configure", "own", "--key-stdin"], KEY, 2, "--base-url"),
        (vec!["configure", "anthropic", "--key-stdin"], "", 1, "empty"),
        (vec!["configure", "anthropic", "--key-stdin"], "two keys", 1, "blanks"),
        (vec!["configure", "own", "--key-stdin", "--base-url", "ftp://x"], KEY, 2, "no base URL"),
        (vec!["configure", "own", "--key-stdin", "--base-url", "http://x\"y"], KEY, 2, "no base URL"),
        (vec!["configure", "own", "--key-stdin", "--base-url", "http://x"], KEY, 2, "--model M"),
    ] {
        let done = with_stdin_if_read(&aaos, &args, text);
        assert_eq!(done.code(), code, "{args:?}: {done:?}");
        assert!(done.stderr.contains(said), "{args:?}: {done:?}");
        shows_no_key(&done);
    }
    assert!(!aaos.home().join("config/aaos/config.toml").exists());
    let place = aaos.home().join("config/aaos/keys");
    std::fs::create_dir_all(&place).expect("makes directories");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o777)).expect("sets the mode");
    let done = with_stdin(&aaos, &["configure", "anthropic", "--key-stdin"], KEY);
    assert!(done.code() == 1 && done.stderr.contains("chmod 700"), "others could put a file there: {done:?}");
    assert_eq!(std::fs::read_dir(&place).expect("lists").count(), 0);
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700)).expect("sets the mode");
    assert_eq!(with_stdin(&aaos, &["configure", "anthropic", "--key-stdin"], KEY).code(), 0, "the control");
}

/// The same for a command that may end without reading.
fn with_stdin_if_read(aaos: &DaemonBuilder, args: &[&str], text: &str) -> Finished {
    let path = aaos.home().join("typed");
    std::fs::write(&path, text).expect("writes");
    let file = std::fs::File::open(&path).expect("opens");
    Finished::from(aaos.command(args).stdin(file).output().expect("runs agentd"))
}

#[test]
fn a_daemon_works_with_a_provider_that_was_configured_so() {
    let models = ModelServer::start(Script::dynamic(|_| Turn::say("answered")));
    let aaos = bare();
    let url = models.openai_url();
    let args = ["configure", "own", "--key-stdin", "--base-url", &url, "--model", "my-model"];
    let done = with_stdin(&aaos, &args, KEY);
    assert_eq!(done.code(), 0, "{done:?}");
    let config = aaos.home().join("config/aaos/config.toml");
    assert!(!std::fs::read_to_string(&config).expect("it was made").contains(KEY), "keys are never there");
    let again = with_stdin(&aaos, &args, KEY);
    assert!(again.code() == 1 && again.stderr.contains("change it there"), "{again:?}");
    let daemon = aaos.start();
    let manifest = "name: one\nmodel: smart\nsystem_prompt: You answer.\n";
    let ran = daemon.client().call("agent.spawn_and_run", json!({ "manifest": manifest, "message": "go" }));
    assert_eq!(ran.expect("it answers")["response"], "answered");
    let seen = models.requests();
    assert_eq!((seen[0].model.as_str(), seen[0].key()), ("my-model", Some(KEY)));
}

/// Writes the user's configuration file.
fn write_config(aaos: &DaemonBuilder, text: &str) -> PathBuf {
    let path = aaos.home().join("config/aaos/config.toml");
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("makes directories");
    std::fs::write(&path, text).expect("writes");
    path
}

/// Any other command, which needs settings that can be used.
fn can_be_used(aaos: &DaemonBuilder) -> bool {
    aaos.cli(["model", "list"]).code() == 0
}

const ROUTER: [&str; 7] = [
    "configure",
    "openrouter",
    "--key-stdin",
    "--base-url",
    "http://127.0.0.1:9/v1",
    "--model",
    "deepseek/deepseek-chat",
];

#[test]
fn what_agentd_could_not_start_with_is_not_added() {
    let aaos = bare();
    let before = "[aliases]\nsmart = [\"deepseek/deepseek-chat\"]\n";
    let config = write_config(&aaos, before);
    let done = with_stdin_if_read(&aaos, &ROUTER, KEY);
    assert!(done.code() == 1 && done.stderr.contains("is a model of openrouter"), "{done:?}");
    assert_eq!(std::fs::read_to_string(&config).expect("it is there"), before);
    assert!(!key_file(&aaos, "openrouter").exists() && can_be_used(&aaos));
    let mut other = ROUTER;
    other[6] = "deepseek/another";
    assert_eq!(with_stdin_if_read(&aaos, &other, KEY).code(), 0, "the control");
    assert!(can_be_used(&aaos));
}

#[test]
fn a_key_that_makes_one_provider_too_many_is_not_kept() {
    let aaos = bare();
    let entries = |count: usize| -> String {
        let entry =
            |at| format!("[[providers]]\nname = \"p{at}\"\nformat = \"openai\"\nbase_url = \"http://h\"\n");
        (0..count).map(entry).collect()
    };
    write_config(&aaos, &entries(15));
    assert!(can_be_used(&aaos), "the planner is the sixteenth");
    let args = ["configure", "anthropic", "--key-stdin"];
    let done = with_stdin_if_read(&aaos, &args, KEY);
    assert!(done.code() == 1 && done.stderr.contains("leave some out"), "{done:?}");
    assert!(can_be_used(&aaos) && !key_file(&aaos, "anthropic").exists());
    write_config(&aaos, &entries(14));
    assert_eq!(with_stdin_if_read(&aaos, &args, KEY).code(), 0, "the control");
    assert!(can_be_used(&aaos));
}

#[test]
fn a_choice_without_a_key_yet_does_not_keep_its_key_from_being_given() {
    let args = ["configure", "anthropic", "--key-stdin"];
    let by_environment = bare().env("AAOS_PROVIDER", "anthropic");
    let by_file = bare();
    write_config(&by_file, "provider = \"anthropic\"\n");
    for aaos in [by_environment, by_file] {
        assert!(!can_be_used(&aaos), "the control: everything else needs the key");
        let done = with_stdin_if_read(&aaos, &ROUTER, KEY);
        assert_eq!(done.code(), 0, "another may be named first: {done:?}");
        let done = with_stdin_if_read(&aaos, &args, KEY);
        assert_eq!(done.code(), 0, "{done:?}");
        assert!(can_be_used(&aaos));
    }
    let aaos = bare().env("AAOS_PROVIDER", "openrouter");
    for args in [&args[..], &ROUTER] {
        assert!(!can_be_used(&aaos));
        assert_eq!(with_stdin_if_read(&aaos, args, KEY).code(), 0, "in any order");
    }
    assert!(can_be_used(&aaos));
}

#[test]
fn a_key_that_would_not_be_used_is_refused_and_one_that_was_not_taken_is_told() {
    let aaos = bare();
    let entry = "[[providers]]\nname = \"anthropic\"\n";
    let args = ["configure", "anthropic", "--key-stdin"];
    write_config(&aaos, &format!("{entry}key_file = \"/elsewhere/key\"\n"));
    let done = with_stdin_if_read(&aaos, &args, KEY);
    assert!(done.code() == 1 && done.stderr.contains("is in /elsewhere/key; put it there"), "{done:?}");
    assert!(!key_file(&aaos, "anthropic").exists());
    write_config(&aaos, entry);
    assert_eq!(with_stdin_if_read(&aaos, &args, KEY).code(), 0, "the control");
    let args = ["configure", "own", "--base-url", "http://127.0.0.1:9/v1", "--model", "m"];
    let done = with_stdin_if_read(&aaos, &args, KEY);
    assert_eq!(done.code(), 0, "a server may need no key: {done:?}");
    assert!(done.stderr.contains("no key was taken"), "{done:?}");
    let then = with_stdin_if_read(&aaos, &["configure", "own", "--key-stdin"], KEY);
    assert!(then.code() == 0 && !then.stderr.contains("no key was taken"), "as it said: {then:?}");
    assert!(key_file(&aaos, "own").exists());
}

#[test]
fn a_configuration_file_behind_a_link_is_added_to_where_it_lies() {
    let aaos = bare();
    let config = write_config(&aaos, "");
    std::fs::remove_file(&config).expect("removes");
    let own = aaos.home().join("own.toml");
    std::os::unix::fs::symlink(&own, &config).expect("links");
    let done = with_stdin_if_read(&aaos, &ROUTER, KEY);
    assert!(done.code() == 1 && done.stderr.contains("a link to nothing"), "{done:?}");
    std::fs::write(&own, "max_agents = 7\n").expect("writes");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o640)).expect("sets the mode");
    let done = with_stdin_if_read(&aaos, &ROUTER, KEY);
    assert_eq!(done.code(), 0, "{done:?}");
    assert!(config.is_symlink(), "it stays a link");
    let text = std::fs::read_to_string(&own).expect("it is there");
    assert!(text.starts_with("max_agents = 7\n") && text.contains("openrouter"), "{text}");
    assert_eq!(mode(&own), 0o640);
}

#[test]
fn a_configuration_file_that_is_too_long_is_refused_and_stays_whole() {
    const MOST: usize = 256 * 1024;
    let aaos = bare();
    let comment = |bytes: usize| format!("#{}\n", "x".repeat(bytes - 2));
    for (bytes, can_be_read) in [(MOST + 1, false), (MOST, true)] {
        let config = write_config(&aaos, &comment(bytes));
        assert_eq!(can_be_used(&aaos), can_be_read, "{bytes}");
        let done = with_stdin_if_read(&aaos, &ROUTER, KEY);
        assert!(done.code() != 0 && done.stderr.contains("longer than 262144 bytes"), "{bytes}: {done:?}");
        assert_eq!(std::fs::read_to_string(&config).expect("it is there"), comment(bytes), "nothing changed");
    }
    write_config(&aaos, &comment(MOST - 1024));
    assert_eq!(with_stdin_if_read(&aaos, &ROUTER, KEY).code(), 0, "the control");
}
