//! Programs through the real daemon: `command_run` is decided, journalled, cut and ended like every other effect.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::{Client, ProcessRef, descendants};

use crate::revocation::{assert_cut, assert_ended, grant_of, holding, revoke};
use crate::support::{Rig, assert_intact, entries, invoke, spawn, wait_for_entry};

fn grants(more: &[&str]) -> Vec<String> {
    let tool = std::iter::once(&"tool: command_run");
    tool.chain(more).map(|one| (*one).to_owned()).collect()
}

/// Starts a program that does not end, and waits until it runs.
fn start_sleeping(rig: &Rig, client: &mut Client, agent: &str) -> (u64, ProcessRef) {
    let input = json!({ "program": "/bin/sleep", "args": ["1000"] });
    let asked =
        client.send("tool.invoke", json!({ "agent_id": agent, "tool": "command_run", "input": input }));
    let receipt = wait_for_entry(&rig.daemon, "confinement_receipt", |entry| {
        entry["agent_id"] == agent && entry["event"]["role"] == "program"
    });
    let pid = receipt["event"]["receipt"]["pid"].as_u64().expect("a pid");
    (asked, ProcessRef::find(i32::try_from(pid).expect("small")).expect("it runs"))
}

#[test]
fn a_granted_program_runs_and_another_is_denied_before_anything_happens() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("runner", &grants(&["exec: /bin/echo"])));
    let zygote = descendants(rig.daemon.pid()).len();
    let denied = invoke(&mut client, &agent, "command_run", json!({ "program": "/bin/cat" }));
    let denied = denied.expect_err("not granted");
    assert_eq!(denied.code, 1002, "{denied:?}");
    assert!(denied.message.contains("exec: /bin/cat"), "{denied:?}");
    assert_eq!(descendants(rig.daemon.pid()).len(), zygote, "nothing was started for it");
    let said =
        invoke(&mut client, &agent, "command_run", json!({ "program": "/bin/echo", "args": ["a", "b c"] }));
    let wanted = json!({ "exit_code": 0, "stdout": "a b c\n", "stderr": "", "truncated": false });
    assert_eq!(said.expect("it runs"), wanted);
    let result = wait_for_entry(&rig.daemon, "tool_result", |_| true);
    let receipt =
        wait_for_entry(&rig.daemon, "confinement_receipt", |entry| entry["event"]["role"] == "program");
    assert_eq!(result["event"]["worker"], receipt["event"]["receipt"]["worker"]);
    let invoked = wait_for_entry(&rig.daemon, "tool_invoked", |_| true);
    assert_eq!(invoked["event"]["class"], "once");
    for odd in [json!({ "program": "echo" }), json!({ "program": "/bin/echo", "args": ["a\u{0}"] })] {
        assert_eq!(invoke(&mut client, &agent, "command_run", odd).expect_err("unusable").code, -32602);
    }
    assert_intact(&mut client);
}

#[test]
fn a_revoked_program_is_ended_and_so_is_one_that_was_shown_a_revoked_directory() {
    let home = testkit::scratch();
    let read = format!("file_read: {}/*", home.path().canonicalize().expect("there").display());
    let rig = Rig::saying("done");
    let mut client = rig.client();
    for words in ["exec: /bin/sleep", read.as_str()] {
        let agent = spawn(&mut client, &holding("runner", &grants(&["exec: /bin/sleep", &read])));
        let mut caller = rig.client();
        let (asked, sandbox) = start_sleeping(&rig, &mut caller, &agent);
        let id = grant_of(&mut client, &agent, words);
        let answer = revoke(&mut client, &agent, &id).expect("answered");
        assert_eq!(answer["calls"].as_array().map(Vec::len), Some(1), "{words}: {answer}");
        assert!(!sandbox.is_alive(), "{words}: it has ended by then");
        assert_cut(caller.reply_to(asked));
        if words.starts_with("exec") {
            let input = json!({ "program": "/bin/sleep", "args": ["1000"] });
            assert_ended(invoke(&mut client, &agent, "command_run", input));
        }
        client.call("agent.stop", json!({ "agent_id": agent })).expect("stopped");
    }
    assert_intact(&mut client);
}

#[test]
fn a_killed_daemon_leaves_no_program_and_its_call_is_never_made_again() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let agent = spawn(&mut client, &holding("runner", &grants(&["exec: /bin/sleep"])));
    let (_, sandbox) = start_sleeping(&rig, &mut client, &agent);
    drop(client);
    let daemon = rig.daemon.kill9().start();
    sandbox.wait_gone();
    let mut client = daemon.client();
    let invoked: Vec<Value> = entries(&mut client, &["tool_invoked"]);
    assert_eq!(invoked.len(), 1, "begun once, and not again");
    let receipts = entries(&mut client, &["confinement_receipt"]);
    let programs = receipts.iter().filter(|entry| entry["event"]["role"] == "program").count();
    assert_eq!(programs, 1, "{receipts:?}");
    assert_intact(&mut client);
}

#[test]
fn a_person_is_asked_about_programs_where_that_is_wanted() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let manifest = holding("runner", &grants(&["exec: /bin/echo"])) + "approval_required: [command_run]\n";
    let agent = spawn(&mut client, &manifest);
    let mut caller = rig.client();
    let input = json!({ "program": "/bin/echo", "args": ["hello"] });
    let asked =
        caller.send("tool.invoke", json!({ "agent_id": agent, "tool": "command_run", "input": input }));
    let question = wait_for_entry(&rig.daemon, "human_approval_requested", |_| true);
    assert!(entries(&mut client, &["tool_invoked"]).is_empty(), "nothing began: {question}");
    let pending = client.call("approval.list", json!({})).expect("a list");
    let id = pending["pending"][0]["id"].clone();
    assert!(pending["pending"][0]["description"].as_str().is_some_and(|words| words.contains("/bin/echo")));
    client.call("approval.respond", json!({ "id": id, "decision": "approve" })).expect("approved");
    assert_eq!(caller.reply_to(asked).expect("it runs")["result"]["stdout"], "hello\n");
}

/// A script for a shell of its own, granted with it to an agent that has to ask: script, shell and agent.
fn asks_about_a_script(rig: &Rig, client: &mut Client) -> ([PathBuf; 2], Value) {
    let [script, shell] = ["script", "shell"].map(|name| rig.daemon.work_dir().join(name));
    fs::copy("/bin/sh", &shell).expect("copied");
    fs::write(&script, format!("#!{}\necho shown\n", shell.display())).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    let granted = [&script, &shell].map(|path| format!("exec: {}", path.display()));
    let granted = grants(&granted.each_ref().map(String::as_str));
    let manifest = holding("runner", &granted) + "approval_required: [command_run]\n";
    let agent = spawn(client, &manifest).into();
    ([script, shell], agent)
}

/// The one open question, with the content that is shown of each of these.
fn question(client: &mut Client, files: &[PathBuf; 2]) -> (Value, Vec<String>) {
    let pending = client.call("approval.list", json!({})).expect("a list")["pending"][0].clone();
    let targets = pending["targets"].as_array().expect("a list");
    assert!(targets.iter().map(|one| one["path"].as_str()).eq(files.iter().map(|path| path.to_str())));
    let hash = |one: &Value| one["content_hash"].as_str().expect("a file's").to_owned();
    (pending["id"].clone(), targets.iter().map(hash).collect())
}

/// The question that is asked after these.
fn new_question(
    rig: &Rig,
    client: &mut Client,
    asked: &[Value],
    files: &[PathBuf; 2],
) -> (Value, Vec<String>) {
    let is_new = |one: &Value| !asked.contains(&one["event"]["question"]["id"]);
    wait_for_entry(&rig.daemon, "human_approval_requested", is_new);
    question(client, files)
}

#[test]
fn what_was_approved_is_what_is_started_and_a_person_is_asked_anew_about_other_content() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let (files, agent) = asks_about_a_script(&rig, &mut client);
    let mut caller = rig.client();
    let call = json!({ "agent_id": agent, "tool": "command_run", "input": { "program": files[0] } });
    let answer = |client: &mut Client, id: &Value, decision: &str| {
        client.call("approval.respond", json!({ "id": id, "decision": decision })).expect("answered");
    };
    let control = caller.send("tool.invoke", call.clone());
    wait_for_entry(&rig.daemon, "human_approval_requested", |_| true);
    let (id, _) = question(&mut client, &files);
    answer(&mut client, &id, "approve");
    assert_eq!(caller.reply_to(control).expect("the control")["result"]["stdout"], "shown\n");

    let mut asked = vec![id];
    // Of the script and of what it is started by: bytes behind a program's own are still that program.
    for (swapped, more) in [(0, "echo swapped\n"), (1, "something else")] {
        let waiting = caller.send("tool.invoke", call.clone());
        let (id, before) = new_question(&rig, &mut client, &asked, &files);
        let mut file = fs::OpenOptions::new().append(true).open(&files[swapped]).expect("opened");
        file.write_all(more.as_bytes()).expect("changed");
        drop(file);
        answer(&mut client, &id, "approve");
        asked.push(id);
        let (id, now) = new_question(&rig, &mut client, &asked, &files);
        assert_ne!(now[swapped], before[swapped], "it is asked about what stands there now");
        assert_eq!(now[1 - swapped], before[1 - swapped]);
        answer(&mut client, &id, "deny");
        asked.push(id);
        caller.reply_to(waiting).expect_err("it was denied");
    }
    assert_eq!(entries(&mut client, &["tool_invoked"]).len(), 1, "of the other calls nothing began");
}

/// A repository without commits whose configuration names a monitor that leaves a mark.
fn hostile_repository(rig: &Rig) -> (std::path::PathBuf, std::path::PathBuf) {
    let repository = rig.daemon.work_dir().join("repository");
    let (mark, monitor) = (rig.daemon.work_dir().join("mark"), rig.daemon.work_dir().join("monitor"));
    for folder in ["objects", "refs"] {
        std::fs::create_dir_all(repository.join(".git").join(folder)).expect("made");
    }
    std::fs::write(&monitor, format!("#!/bin/sh\n: > {}\n", mark.display())).expect("written");
    std::fs::set_permissions(&monitor, std::fs::Permissions::from_mode(0o755)).expect("set");
    let config = format!("[core]\n\trepositoryformatversion = 0\n\tfsmonitor = {}\n", monitor.display());
    std::fs::write(repository.join(".git/HEAD"), "ref: refs/heads/main\n").expect("written");
    std::fs::write(repository.join(".git/config"), config).expect("written");
    std::fs::write(repository.join("new.txt"), "text\n").expect("written");
    (repository, mark)
}

fn real_git() -> &'static str {
    let places = ["/usr/bin/git", "/usr/local/bin/git"];
    places.into_iter().find(|path| std::path::Path::new(path).is_file()).expect("git is installed")
}

#[test]
fn git_looks_into_a_granted_repository_and_starts_nothing_that_it_names() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let (repository, mark) = hostile_repository(&rig);
    let read = format!("file_read: {}/*", rig.daemon.work_dir().display());
    let (tool, exec) = ("tool: git".to_owned(), format!("exec: {}", real_git()));
    let agent = spawn(&mut client, &holding("reader", &[tool.clone(), exec.clone(), read.clone()]));
    let look = |args: &[&str]| json!({ "subcommand": "status", "args": args, "directory": repository });
    let said = invoke(&mut client, &agent, "git", look(&["--short"])).expect("it runs");
    assert_eq!((&said["exit_code"], &said["stdout"]), (&json!(0), &json!("?? new.txt\n")), "{said}");
    assert!(!mark.exists(), "the monitor did not run");
    let refused = invoke(&mut client, &agent, "git", look(&["-v"])).expect_err("it would convert content");
    assert_eq!(refused.code, -32602, "{refused:?}");
    let invoked = wait_for_entry(&rig.daemon, "tool_invoked", |one| one["event"]["tool"] == "git");
    let accesses = invoked["event"]["access"].as_array().expect("a list");
    assert!(accesses.iter().any(|one| one["need"]["exec"] == real_git()), "it says which git: {invoked}");

    let without = spawn(&mut client, &holding("without", &[tool.clone(), "exec: /bin/sh".to_owned(), read]));
    let denied = invoke(&mut client, &without, "git", look(&[])).expect_err("no git is granted");
    assert!(denied.code == 1002 && denied.message.contains("called git"), "{denied:?}");
    let blind = spawn(&mut client, &holding("blind", &[tool, exec.clone()]));
    let denied = invoke(&mut client, &blind, "git", look(&[])).expect_err("nothing to read is granted");
    assert!(denied.code == 1002 && denied.message.contains("file_read"), "{denied:?}");

    // The control: in a sandbox that is not sealed the same git starts the monitor.
    let granted =
        [exec, "exec: /bin/sh".to_owned(), format!("file_read: {}/*", rig.daemon.work_dir().display())];
    let granted: Vec<&str> = granted.iter().map(String::as_str).collect();
    let runner = spawn(&mut client, &holding("runner", &grants(&granted)));
    let args = json!(["-c", "safe.directory=*", "-C", repository, "status"]);
    let input = json!({ "program": real_git(), "args": args });
    let said = invoke(&mut client, &runner, "command_run", input).expect("it runs");
    assert!(said["stderr"].as_str().is_some_and(|words| words.contains("mark")), "it was started: {said}");
    assert_intact(&mut client);
}

#[test]
fn programs_have_the_variables_of_the_manifest_and_a_child_has_none_but_its_parent_s() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let granted = grants(&["exec: /usr/bin/env", "tool: spawn_agent", "spawn_child: [*]"]);
    let manifest = holding("runner", &granted) + "environment: { COLOUR: dark blue, LANG: C }\n";
    let agent = spawn(&mut client, &manifest);
    let said = invoke(&mut client, &agent, "command_run", json!({ "program": "/usr/bin/env" }));
    assert_eq!(said.expect("it runs")["stdout"], "COLOUR=dark blue\nLANG=C\n");
    let status = client.call("agent.status", json!({ "agent_id": agent })).expect("its status");
    assert_eq!(status["environment"], json!({ "COLOUR": "dark blue", "LANG": "C" }));
    let plain = spawn(&mut client, &holding("plain", &grants(&["exec: /usr/bin/env"])));
    let said = invoke(&mut client, &plain, "command_run", json!({ "program": "/usr/bin/env" }));
    assert_eq!(said.expect("it runs")["stdout"], "", "the control: nothing comes from the daemon's own");

    let child = |variables: &str| {
        let manifest = holding("child", &grants(&["exec: /usr/bin/env"])) + variables;
        json!({ "manifest": manifest, "message": "Go." })
    };
    for wider in ["environment: { OTHER: x }\n", "environment: { LANG: de }\n"] {
        let refused =
            invoke(&mut client, &agent, "spawn_agent", child(wider)).expect_err("its parent has none");
        assert!(refused.code == 1002 && refused.message.contains("environment: "), "{refused:?}");
    }
    let narrower = invoke(&mut client, &agent, "spawn_agent", child("environment: { LANG: C }\n"));
    assert_eq!(narrower.expect("it is spawned")["response"], "done");
    let refused = client.call("agent.spawn", json!({ "manifest": manifest.replace("COLOUR", "LD_PRELOAD") }));
    assert!(refused.expect_err("reserved").message.contains("LD_PRELOAD"));
    assert_intact(&mut client);
}

#[test]
fn cargo_runs_the_tests_of_a_package_with_the_granted_toolchain() {
    let rig = Rig::saying("done");
    let mut client = rig.client();
    let cargo = std::path::Path::new(env!("CARGO"));
    let bin = cargo.parent().expect("a folder");
    let (package, target) = (rig.daemon.work_dir().join("package"), rig.daemon.work_dir().join("target"));
    std::fs::create_dir_all(package.join("src")).expect("made");
    std::fs::create_dir(&target).expect("made");
    let manifest = "[package]\nname = \"own\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n";
    std::fs::write(package.join("Cargo.toml"), manifest).expect("written");
    let tests = "#[test]\nfn fine() {}\n#[test]\nfn failing() {\n    panic!(\"it fails\");\n}\n";
    std::fs::write(package.join("src/lib.rs"), tests).expect("written");
    let file = |right: &str, path: &std::path::Path| format!("{right}: {}/*", path.display());
    let exec = |name: &str| format!("exec: {}", bin.join(name).display());
    let toolchain = bin.parent().expect("a toolchain");
    let mut granted =
        vec!["tool: cargo".to_owned(), exec("cargo"), exec("rustc"), file("file_read", toolchain)];
    granted.extend(
        [&package, &target].iter().flat_map(|path| [file("file_read", path), file("file_write", path)]),
    );
    let agent = spawn(&mut client, &holding("builder", &granted));
    let test = |args: &[&str]| json!({ "subcommand": "test", "directory": package, "target_directory": target, "test_args": args });
    let fine = invoke(&mut client, &agent, "cargo", test(&["fine"])).expect("it runs");
    assert_eq!(fine["exit_code"], 0, "{fine}");
    assert!(fine["stdout"].as_str().is_some_and(|words| words.contains("1 passed")), "{fine}");
    let failing = invoke(&mut client, &agent, "cargo", test(&[])).expect("it runs");
    assert_eq!(failing["exit_code"], 101, "{failing}");
    assert!(
        failing["stdout"].as_str().is_some_and(|words| words.contains("1 passed; 1 failed")),
        "{failing}"
    );
    let receipts = entries(&mut client, &["confinement_receipt"]);
    let programs = receipts.iter().filter(|entry| entry["event"]["role"] == "program").count();
    assert_eq!(programs, 4, "each call built in one sandbox and ran in another");
    std::fs::write(package.join("src/lib.rs"), "wrong\n").expect("written");
    let wrong = invoke(&mut client, &agent, "cargo", test(&[])).expect("it runs");
    assert!(wrong["exit_code"] == 101 && wrong["stdout"] == "", "{wrong}");

    let without = spawn(
        &mut client,
        &holding("without", &["tool: cargo".to_owned(), exec("cargo"), granted[3].clone()]),
    );
    let denied = invoke(&mut client, &without, "cargo", test(&[])).expect_err("no compiler is granted");
    assert!(denied.code == 1002 && denied.message.contains("called rustc"), "{denied:?}");
    assert_intact(&mut client);
}
