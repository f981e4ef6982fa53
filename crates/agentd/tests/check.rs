//! `agentd check`, driven as a person drives it: no daemon, exit codes, text, and this machine's directories.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use serde_json::Value;
use testkit::{Backend, DaemonBuilder, Finished};

/// A user who owns nothing here.
const NOBODY: u32 = 65534;

fn builder() -> (DaemonBuilder, PathBuf) {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let work = builder.home().join("work");
    std::fs::create_dir_all(work.join("docs")).expect("makes a directory");
    let work = work.canonicalize().expect("its real path");
    (builder, work)
}

fn write(work: &Path, entries: &[String]) {
    let mut text = "name: one\nmodel: fast\nsystem_prompt: { file: prompt.md }\ncapabilities:\n".to_owned();
    for entry in entries {
        text.push_str(&format!("  - {entry}\n"));
    }
    std::fs::write(work.join("one.yaml"), text).expect("writes the manifest");
    std::fs::write(work.join("prompt.md"), "Work.\n").expect("writes the prompt");
}

fn texts(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

fn check(builder: &DaemonBuilder, work: &Path, entries: &[String], flags: &[&str]) -> Finished {
    write(work, entries);
    builder.cli([&["check", "one.yaml"][..], flags].concat())
}

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

fn fifo(path: &Path) {
    let (kind, mode) = (FileType::Fifo, Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(CWD, path, kind, mode, 0).expect("a FIFO");
}

/// Level and place of what a rule found.
fn found(report: &Value, rule: &str) -> Vec<(String, Option<u64>)> {
    let findings = report["findings"].as_array().expect("findings");
    let of_rule = findings.iter().filter(|one| one["rule"] == rule);
    of_rule.map(|one| (one["level"].as_str().expect("a level").to_owned(), one["grant"].as_u64())).collect()
}

#[test]
fn a_sound_manifest_passes_and_nothing_is_started_or_made() {
    let (builder, work) = builder();
    let entries = vec!["tool: file_read".to_owned(), format!("\"file_read: {}/docs/*\"", work.display())];
    let told = check(&builder, &work, &entries, &["--strict"]);
    assert_eq!((told.code(), told.stderr.as_str()), (0, ""), "{told:?}");
    assert_eq!(told.stdout, "one.yaml: no errors, no warnings\n");
    let entries =
        vec!["tool: file_write".to_owned(), format!("\"file_write: {}/new/deep/*\"", work.display())];
    let told = check(&builder, &work, &entries, &["--json", "--strict"]);
    assert_eq!(told.code(), 0, "a directory that the spawn makes is no fault: {told:?}");
    assert_eq!(found(&json(&told), "root-missing"), [("note".to_owned(), Some(1))]);
    assert!(!work.join("new").exists(), "a check makes no directory");
    assert!(!builder.home().join("state").exists(), "nothing was started");
}

#[test]
fn errors_fail_warnings_fail_when_strict() {
    let (builder, work) = builder();
    let told = check(&builder, &work, &texts(&["tool: file_write"]), &[]);
    assert_eq!((told.code(), told.stderr.as_str()), (1, ""), "{told:?}");
    for part in ["one.yaml: error: tool-without-resource (grant 1 of 1)", "`tool: file_write`", "advice: add"]
    {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    assert!(told.stdout.ends_with("one.yaml: 1 error, 0 warnings\n"), "{}", told.stdout);
    assert!(!told.stdout.contains('\u{1b}'), "no colours in a pipe");

    let mut risky = texts(&["tool: file_read", "tool: web_fetch", "web_search"]);
    risky.push(format!("\"file_read: {}/docs/*\"", work.display()));
    assert_eq!(check(&builder, &work, &risky, &[]).code(), 0);
    let told = check(&builder, &work, &risky, &["--strict"]);
    assert_eq!(told.code(), 1, "{told:?}");
    assert!(told.stdout.contains("warning: lethal-trifecta"), "{}", told.stdout);

    let report = json(&check(&builder, &work, &risky, &["--json"]));
    assert_eq!(report["manifest"], "one.yaml");
    assert_eq!((report["errors"].as_u64(), report["warnings"].as_u64()), (Some(0), Some(1)));
    let finding = &report["findings"][0];
    assert_eq!((finding["level"].as_str(), finding["grant"].is_null()), (Some("warning"), true));
    assert!(finding["message"].is_string() && finding["advice"].is_string(), "{finding}");
}

#[test]
fn what_cannot_be_read_is_a_usage_error() {
    let (builder, work) = builder();
    let missing = builder.cli(["check", "missing.yaml"]);
    assert_eq!((missing.code(), missing.stdout.as_str()), (2, ""), "{missing:?}");
    assert!(missing.stderr.contains("missing.yaml"), "{missing:?}");
    let text = "name: one\nmodel: fast\nsystem_prompt: Work.\ncapabilities:\n  - fileread: /data/*\n";
    std::fs::write(work.join("one.yaml"), text).expect("writes the manifest");
    let misspelt = builder.cli(["check", "one.yaml", "--json"]);
    assert_eq!((misspelt.code(), misspelt.stdout.as_str()), (2, ""), "{misspelt:?}");
    assert!(misspelt.stderr.contains("file_read") && misspelt.stderr.contains("line 5"), "{misspelt:?}");
}

/// Rule and level for a root, which is below the working directory or absolute.
fn root(builder: &DaemonBuilder, work: &Path, right: &str, root: &str) -> Vec<(String, String)> {
    let entries = vec![format!("tool: {right}"), format!("\"{right}: {}\"", work.join(root).display())];
    let report = json(&check(builder, work, &entries, &["--json"]));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let findings = report["findings"].as_array().expect("findings").iter();
    findings.map(|one| (text(&one["rule"]), text(&one["level"]))).collect()
}

#[test]
fn roots_are_looked_at_as_a_spawn_would() {
    let (builder, work) = builder();
    std::fs::write(work.join("file"), "x").unwrap();
    symlink("docs", work.join("link")).unwrap();
    symlink("/proc", work.join("tunnel")).unwrap();
    symlink("nowhere", work.join("dangling")).unwrap();
    std::fs::create_dir(builder.home().join("state")).unwrap();
    let look = |right, path| root(&builder, &work, right, path);
    let one = |rule: &str, level: &str| vec![(rule.to_owned(), level.to_owned())];
    for clean in ["docs/*", "file"] {
        assert_eq!(look("file_read", clean), [], "{clean}");
        assert_eq!(look("file_write", clean), [], "{clean}");
    }
    assert_eq!(look("file_read", "absent/*"), one("root-missing", "error"));
    assert_eq!(look("file_read", "dangling/*"), one("root-missing", "error"));
    assert_eq!(look("file_read", "absent"), one("root-missing", "warning"));
    assert_eq!(look("file_write", "absent"), [], "a write makes the file");
    assert_eq!(look("file_read", "file/*"), one("root-wrong-kind", "error"));
    assert_eq!(look("file_read", "docs"), one("root-wrong-kind", "error"));
    assert_eq!(look("file_read", "link/*"), one("root-is-link", "note"));
    assert_eq!(look("file_read", "tunnel/*"), one("pseudo-file-system", "error"));
    assert_eq!(look("file_read", "/proc/self/*"), one("pseudo-file-system", "error"), "told once");
    let state = builder.home().join("state/*");
    assert_eq!(look("file_read", state.to_str().unwrap()), one("root-protected", "error"));
}

#[test]
fn a_root_that_holds_sockets_or_fifos_is_told() {
    let (builder, work) = builder();
    let entries = vec!["tool: file_read".to_owned(), format!("\"file_read: {}/docs/*\"", work.display())];
    let told = check(&builder, &work, &entries, &["--strict"]);
    assert_eq!(told.code(), 0, "the control: {told:?}");
    fifo(&work.join("docs/a\nq"));
    let told = check(&builder, &work, &entries, &["--strict"]);
    assert_eq!(told.code(), 1, "{told:?}");
    let said = format!("`file_read: {}/docs/*`: the directory holds FIFO a\\nq", work.display());
    assert!(told.stdout.contains("warning: root-holds-special-files (grant 2 of 2)"), "{}", told.stdout);
    assert!(told.stdout.contains(&said), "{}", told.stdout);
    let report = json(&check(&builder, &work, &entries, &["--json"]));
    assert_eq!(found(&report, "root-holds-special-files"), [("warning".to_owned(), Some(1))]);
    assert!(report["findings"][0]["message"].as_str().is_some_and(|words| words.contains(&said)), "{report}");
}

#[test]
fn an_error_of_a_root_is_what_a_spawn_says() {
    let (builder, work) = builder();
    let daemon = builder.start();
    let absent = vec!["tool: file_read".to_owned(), format!("\"file_read: {}/absent/*\"", work.display())];
    write(&work, &absent);
    assert_eq!(daemon.cli(["check", "one.yaml"]).code(), 1);
    assert_ne!(daemon.cli(["spawn", "one.yaml"]).code(), 0);
    std::fs::create_dir(work.join("absent")).unwrap();
    assert_eq!(daemon.cli(["check", "one.yaml"]).code(), 0);
    assert_eq!(daemon.cli(["spawn", "one.yaml"]).code(), 0);
}

#[test]
fn roots_that_the_user_may_not_use_are_told() {
    let (builder, work) = builder();
    let entries = vec![
        "tool: file_read".to_owned(),
        "tool: file_write".to_owned(),
        format!("\"file_read: {}/docs/*\"", work.display()),
        format!("\"file_write: {}/docs/*\"", work.display()),
    ];
    write(&work, &entries);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changes the mode");
    };
    mode(builder.home(), 0o755);
    mode(&work, 0o755);
    let check = || {
        let mut command = builder.command(["check", "one.yaml", "--json"]);
        // Permissions do not bind root.
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let told = Finished::from(command.output().expect("runs agentd"));
        assert_eq!(told.code(), 0, "no error, since the daemon's user may be another: {told:?}");
        found(&json(&told), "root-no-access")
    };
    mode(&work.join("docs"), 0o777);
    assert_eq!(check(), []);
    let warning = |at| ("warning".to_owned(), Some(at));
    mode(&work.join("docs"), 0o555);
    assert_eq!(check(), [warning(3)], "it may be read and not written");
    mode(&work.join("docs"), 0o000);
    assert_eq!(check(), [warning(2), warning(3)]);
    mode(&work.join("docs"), 0o755);
}

#[test]
fn the_shipped_manifest_is_without_errors() {
    let (builder, _) = builder();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/bootstrap.yaml");
    let told = builder.cli(["check", "--strict", shipped]);
    assert_eq!(told.code(), 0, "{told:?}");
}
