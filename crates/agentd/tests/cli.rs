//! The command line, driven as a person drives it: the real binaries, a scratch directory, exit codes, text.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use testkit::{Backend, DaemonBuilder, Finished, ModelServer, Page, Script, Turn, WebServer};

/// A builder with the builtin planner and two documents in its working directory.
fn with_documents() -> DaemonBuilder {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let docs = builder.home().join("work/docs");
    std::fs::create_dir_all(&docs).expect("writes a document");
    std::fs::write(
        docs.join("tides.md"),
        "# Tides\n\nThe moon pulls the sea. Tides follow the moon twice a day.\n",
    )
    .expect("writes a document");
    std::fs::write(
        docs.join("wind.md"),
        "# Wind\n\nWind moves from high to low pressure. The sun drives the wind.\n",
    )
    .expect("writes a document");
    builder
}

const GOAL: &str = "Read the files in ./docs and write a summary to ./output/summary.md";

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// The entries of one kind, from `audit --json`.
fn entries(builder: &DaemonBuilder, kind: &str) -> Vec<Value> {
    let told = builder.cli(["audit", "--json", "--kind", kind]);
    assert_eq!(told.code(), 0, "{told:?}");
    told.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[test]
fn a_goal_runs_and_its_record_is_there_without_a_daemon() {
    let builder = with_documents();
    let ran = builder.cli(["run", GOAL]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    let summary =
        std::fs::read_to_string(builder.home().join("work/output/summary.md")).expect("the output is there");
    assert!(summary.contains("moon") && summary.contains("wind"), "{summary}");
    assert!(ran.stdout.contains("not a language model"), "the answer says who gave it: {}", ran.stdout);
    let (grant, work) = (ran.stderr.find("the goal may:"), ran.stderr.find("bootstrap: "));
    assert!(grant.is_some() && grant < work, "the root grant is printed before work begins: {}", ran.stderr);
    assert!(ran.stderr.contains("output/summary.md  "), "outputs are listed with sizes: {}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}') && !ran.stdout.contains('\u{1b}'), "no colours in a pipe");

    let spawned = entries(&builder, "agent_spawned");
    let children: Vec<&Value> = spawned.iter().filter(|one| !one["event"]["parent"].is_null()).collect();
    assert!(children.len() >= 2, "two children at least: {spawned:?}");
    let receipts = entries(&builder, "confinement_receipt");
    let results = entries(&builder, "tool_result");
    let ran_in_worker: Vec<&Value> = results.iter().filter(|one| !one["event"]["worker"].is_null()).collect();
    assert!(ran_in_worker.len() >= 2, "{results:?}");
    for result in ran_in_worker {
        let worker = &result["event"]["worker"];
        assert!(
            receipts.iter().any(|one| one["event"]["receipt"]["worker"] == *worker),
            "{worker} has its receipt"
        );
    }
    let told = builder.cli(["audit"]);
    for part in [
        "capability_granted",
        "file_write: ",
        "confinement_receipt",
        ", worker ",
        "goal_finished",
        "exit code 0",
    ] {
        assert!(told.stdout.contains(part), "audit shows {part}: {}", told.stdout);
    }
    let logs = builder.cli(["logs"]);
    assert!(logs.stdout.contains("started by bootstrap"), "{logs:?}");
}

#[test]
fn sockets_and_fifos_below_a_granted_root_are_told_before_work_begins() {
    let builder = with_documents();
    let run = |flags: &[&str]| builder.cli([&["run", "--quiet", GOAL][..], flags].concat());
    let (control, said) = (run(&[]), "  which holds ");
    assert!(control.code() == 0 && !control.stderr.contains(said), "the control: {control:?}");
    let work = builder.home().join("work").canonicalize().expect("its real path");
    let _listener = UnixListener::bind(work.join("docs/x.sock")).expect("a socket");
    symlink("/dev", work.join("docs/dev")).expect("a link");
    let ran = run(&[]);
    assert_eq!(ran.code(), 0, "it is told, not refused: {ran:?}");
    let line = format!("bootstrap   may file_read: {}/*\n", work.display());
    let told = ran.stderr.find(&line).map(|at| &ran.stderr[at + line.len()..]).expect("told");
    let told = told.lines().next().expect("what it holds");
    assert!(told.ends_with("  which holds socket docs/x.sock"), "{}", ran.stderr);

    let granted = entries(&builder, "capability_granted");
    let special: Vec<&Value> = granted
        .iter()
        .map(|entry| &entry["event"]["grant"]["special"])
        .filter(|one| !one.is_null())
        .collect();
    let one = serde_json::json!({
        "named": [{ "kind": "socket", "path": "docs/x.sock" }], "more": 0, "not_seen": null,
    });
    assert_eq!(special, [&one], "of the operator's own root, and of no child's: {granted:?}");
    assert!(
        granted.iter().any(|entry| !entry["event"]["grant"]["parent"].is_null()),
        "children were granted it"
    );
}

#[test]
fn an_agent_says_what_its_roots_hold() {
    let builder = with_documents();
    let docs = builder.home().join("work/docs").canonicalize().expect("its real path");
    rustix::fs::mknodat(CWD, docs.join("q"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
    let manifest = format!(
        "name: reader\nmodel: fast\nsystem_prompt: Work.\nlifecycle: persistent\ncapabilities:\n  - \"file_read: {}/*\"\n",
        docs.display()
    );
    std::fs::write(builder.home().join("work/reader.yaml"), manifest).expect("writes the manifest");
    let daemon = builder.start();
    assert_eq!(daemon.cli(["spawn", "reader.yaml"]).code(), 0);
    let said = format!("file_read: {}/*, which holds FIFO q", docs.display());
    let grants = daemon.cli(["grants", "reader"]);
    assert!(grants.code() == 0 && grants.stderr.contains(&said), "{grants:?}");
    let grants = json(&daemon.cli(["grants", "reader", "--json"]));
    assert_eq!(grants["grants"][0]["special"]["named"][0]["kind"], "fifo", "{grants}");
    assert!(daemon.cli(["status", "reader"]).stdout.contains(", which holds FIFO q"));
    let submitted = daemon.cli(["submit", GOAL]);
    assert!(submitted.code() == 0 && submitted.stderr.contains("which holds FIFO docs/q"), "{submitted:?}");
    let daemon = daemon.kill9().start();
    let grants = daemon.cli(["grants", "reader"]);
    assert!(grants.code() == 0 && grants.stderr.contains(&said), "it stands in the journal: {grants:?}");
}

#[test]
fn run_as_json_is_one_object_and_quiet_is_quiet() {
    let builder = with_documents();
    let ran = builder.cli(["run", "--json", "--quiet", "--", GOAL]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    let goal = json(&ran);
    assert_eq!((goal["state"].as_str(), goal["exit_code"].as_u64()), (Some("done"), Some(0)));
    assert_eq!(goal["outputs"][0]["observed"], true);
    assert!(!ran.stderr.contains("asks model"), "{}", ran.stderr);
}

#[test]
fn a_goal_that_fails_never_ends_with_0() {
    let builder = with_documents();
    let ran = builder.cli(["run", "Compose a symphony"]);
    assert!(ran.code() != 0, "{ran:?}");
    assert!(ran.stderr.contains("goal failed"), "{}", ran.stderr);
    let claimed = ModelServer::start(Script::in_order([Turn::say("All is written.")]));
    let builder = DaemonBuilder::openai(&claimed);
    let ran = builder.cli(["run", "Write ./output/a.md"]);
    assert_eq!(ran.code(), 1, "a claim is no file: {ran:?}");
    let budget = ModelServer::start(Script::dynamic(|_| {
        Turn::call("echo", serde_json::json!({ "message": "again" }))
    }));
    let builder = DaemonBuilder::openai(&budget);
    let ran = builder.cli(["run", "--budget-tokens", "1", "Echo for ever"]);
    assert_eq!(ran.code(), 4, "{ran:?}");
    let refused = ModelServer::start(Script::in_order([Turn::status(401)]));
    let builder = DaemonBuilder::openai(&refused);
    let ran = builder.cli(["run", "Say hello"]);
    assert_eq!(ran.code(), 5, "{ran:?}");
    assert!(!format!("{ran:?}").contains(DaemonBuilder::key()), "no key is shown");
}

#[test]
fn what_is_typed_wrong_touches_nothing() {
    let builder = DaemonBuilder::new(Backend::Builtin);
    for line in [
        &["run"][..],
        &["run", ""],
        &["run", "x", "--read", "/no/such/directory"],
        &["run", "x", "--output", "/etc/passwd"],
        &["run", "x", "--network", "http://example.org"],
        &["run", "x", "--manifest", "missing.yaml"],
        &["run", "x", "y"],
        &["nonsense"],
    ] {
        let told = builder.cli(line);
        assert_eq!(told.code(), 2, "{line:?}: {told:?}");
        assert!(told.stdout.is_empty() && !told.stderr.is_empty(), "{line:?}: {told:?}");
    }
    let at_home = builder.command(["run", "x"]).current_dir(builder.home()).output().unwrap();
    let told = Finished::from(at_home);
    assert_eq!(told.code(), 2, "{told:?}");
    assert!(told.stderr.contains("--read"), "{told:?}");
    assert!(!builder.home().join("state").exists(), "nothing was started");
    let reference = builder.cli(["reference"]);
    assert_eq!(reference.stdout, include_str!("../../../docs/environment.md"), "the page is what is printed");
    let help = builder.cli(["run", "--help"]);
    assert_eq!((help.code(), help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("Examples:"));
}

#[test]
fn loopback_needs_its_own_grant() {
    let web = WebServer::start([(
        "/a",
        Page::Html("<h1>Moon</h1><p>The moon pulls the sea every day.</p>".to_owned()),
    )]);
    let goal = format!("Fetch {} and write a summary to ./output/moon.md", web.url("/a"));
    let builder = DaemonBuilder::new(Backend::Builtin);
    let refused = builder.cli(["run", &goal]);
    assert_ne!(refused.code(), 0, "{refused:?}");
    assert!(refused.stderr.contains(&format!("--network {}", web.authority())), "{}", refused.stderr);
    assert_eq!(web.requests().len(), 0, "nothing was asked");
    assert!(!builder.home().join("work/output/moon.md").exists());
    let granted = builder.cli(["run", "--network", &web.authority(), &goal]);
    assert_eq!(granted.code(), 0, "{granted:?}");
    assert_eq!(web.requests().len(), 1);
}

#[test]
fn the_journal_is_verified_and_a_cut_is_noticed() {
    let builder = with_documents();
    assert_eq!(builder.cli(["run", GOAL]).code(), 0);
    let told = builder.cli(["audit", "--verify", "--json"]);
    assert_eq!(told.code(), 0, "{told:?}");
    let head = json(&told)["head"].as_str().expect("a head").to_owned();
    let held = builder.cli(["audit", "--verify", "--head", &head]);
    assert_eq!(held.code(), 0, "{held:?}");
    assert!(held.stdout.contains("the chain holds"));
    let (seq, hash) = head.split_once(':').expect("SEQ:HASH");
    let flipped = if hash.starts_with('0') { "1" } else { "0" };
    let other = format!("{seq}:{flipped}{}", &hash[1..]);
    let told = builder.cli(["audit", "--verify", "--head", &other]);
    assert_eq!(told.code(), 1, "{told:?}");
    assert!(told.stdout.contains("BROKEN"), "{told:?}");
    let later = format!("{}:{hash}", seq.parse::<u64>().expect("a number") + 1);
    assert_eq!(builder.cli(["audit", "--verify", "--head", &later]).code(), 1, "a tail that is gone");
}

#[test]
fn without_a_daemon_it_is_said_how_to_start_one() {
    let builder = DaemonBuilder::new(Backend::Builtin);
    for line in [&["list"][..], &["status"], &["submit", "x"], &["tools"], &["stop", "x"]] {
        let told = builder.cli(line);
        assert_eq!(told.code(), 1, "{line:?}: {told:?}");
        assert!(told.stderr.contains("agentd serve"), "{line:?}: {told:?}");
    }
    let told = builder.cli(["audit"]);
    assert_eq!(told.code(), 1, "{told:?}");
    assert!(told.stderr.contains("nothing has run"), "{told:?}");
}

#[test]
fn a_running_daemon_is_asked() {
    let daemon = with_documents().start();
    let submitted = daemon.cli(["submit", "--wait", GOAL]);
    assert_eq!(submitted.code(), 0, "{submitted:?}");
    let accepted = daemon.cli(["submit", GOAL]);
    let goal = accepted.stdout.trim().to_owned();
    assert_eq!(accepted.code(), 0, "{accepted:?}");
    let followed = daemon.cli(["logs", &goal, "-f"]);
    assert_eq!(followed.code(), 0, "the log ends with the goal: {followed:?}");
    assert!(followed.stdout.contains("goal done"), "{followed:?}");

    let goals = json(&daemon.cli(["list", "--goals", "--json"]));
    assert_eq!(goals["goals"].as_array().map(Vec::len), Some(2));
    assert!(daemon.cli(["list", "--goals"]).stdout.contains(&goal));
    let status = daemon.cli(["status", &goal]);
    assert!(status.stdout.contains("done") && status.stdout.contains("summary.md"), "{status:?}");
    assert!(daemon.cli(["status"]).stdout.contains("builtin"));
    assert_eq!(json(&daemon.cli(["status", "--json"]))["agents"], 0);
    assert!(daemon.cli(["tools"]).stdout.contains("file_read_many"));
    assert_eq!(daemon.cli(["audit", "--verify"]).code(), 0, "through the daemon too");
    assert_ne!(daemon.cli(["status", "0190a5e8-7c1b-7000-8000-0123456789ab"]).code(), 0);
}

#[test]
fn agents_are_spawned_asked_and_stopped() {
    let models = ModelServer::start(Script::in_order([Turn::say("Hello \u{1b}[31mthere")]));
    let daemon = DaemonBuilder::openai(&models).start();
    let manifest = daemon.work_dir().join("helper.yaml");
    std::fs::write(
        &manifest,
        "name: helper\nmodel: fast\nlifecycle: persistent\nsystem_prompt: { file: prompt.md }\n\
         capabilities:\n  - \"tool: echo\"\n",
    )
    .unwrap();
    std::fs::write(daemon.work_dir().join("prompt.md"), "You help.").unwrap();
    let spawned = daemon.cli(["spawn", "helper.yaml"]);
    assert_eq!(spawned.code(), 0, "{spawned:?}");
    let id = spawned.stdout.trim();
    assert!(daemon.cli(["list"]).stdout.contains(id));
    let answered = daemon.cli(["message", "helper", "Who is there?"]);
    assert_eq!(answered.code(), 0, "{answered:?}");
    assert_eq!(answered.stdout, "Hello \\u{1b}[31mthere\n", "a model does not drive the terminal");
    let status = daemon.cli(["status", "helper"]);
    assert!(status.stdout.contains("tool: echo"), "{status:?}");
    assert_eq!(daemon.cli(["stop", "helper"]).code(), 0);
    assert!(!daemon.cli(["list"]).stdout.contains(id));
    let logs = daemon.cli(["logs", "helper"]);
    assert!(logs.stdout.contains("Who is there?"), "an agent's story outlives it: {logs:?}");
}

#[test]
fn the_doctor_proves_and_a_lack_is_refused_everywhere() {
    let builder = with_documents();
    let told = builder.cli(["doctor", "--json"]);
    assert_eq!(told.code(), 0, "{told:?}");
    let report = json(&told);
    assert_eq!(report["can_confine"], true);
    let boundaries = report["receipt"]["boundaries"].as_array().expect("boundaries");
    let proved =
        |name: &str| boundaries.iter().any(|one| one["boundary"] == name && one["evidence"] != "missing");
    assert!(proved("landlock") && proved("seccomp") && proved("no_new_privs"), "{report}");
    let config = builder.home().join("config/aaos");
    std::fs::create_dir_all(&config).unwrap();
    let policy = "[confinement]\nrequire = [\"no_new_privs\", \"seccomp\", \"landlock\"]\nprefer = []\n\
                  landlock_abi = 99\n";
    std::fs::write(config.join("config.toml"), policy).unwrap();
    let told = builder.cli(["doctor"]);
    assert_eq!(told.code(), 6, "{told:?}");
    assert!(told.stdout.contains("CANNOT"), "{told:?}");
    let ran = builder.cli(["run", GOAL]);
    assert_eq!(ran.code(), 6, "no fallback: {ran:?}");
    assert!(!builder.home().join("work/output/summary.md").exists());
}

#[test]
fn a_reader_that_leaves_ends_a_command_quietly() {
    let builder = with_documents();
    assert_eq!(builder.cli(["run", GOAL]).code(), 0);
    let mut command = builder.command(["audit", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn help_without_a_reader_is_quiet_and_wrong_flags_stay_wrong() {
    let builder = DaemonBuilder::new(Backend::Builtin);
    for (line, code) in [("--help", 0), ("--nonsense", 2)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = builder.command([line]);
        let told = if code == 0 { command.stdout(writer) } else { command.stderr(writer) }.output().unwrap();
        let told = Finished::from(told);
        assert_eq!((told.code(), told.stdout.as_str(), told.stderr.as_str()), (code, "", ""), "{line}");
    }
}

#[test]
fn a_goal_that_is_not_read_is_explained_whole_and_answers_nothing() {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let told = builder.cli(["run", "Sing me a song"]);
    assert_ne!(told.code(), 0, "{told:?}");
    assert_eq!(told.stdout, "", "no answer");
    let end = told.stderr.find("goal failed").expect("its end is told");
    let (before, end) = told.stderr.split_at(end);
    assert!(end.contains("./output/") && end.contains("DEEPSEEK_API_KEY"), "shapes and keys: {end}");
    assert!(end.lines().count() > 3 && !end.contains("\\n"), "in its own lines: {end}");
    assert_eq!(before.matches("goals of these shapes").count(), 1, "the reason is said once: {before}");
}

#[test]
fn what_an_agent_says_of_a_failed_goal_is_no_answer() {
    let models = ModelServer::start(Script::in_order([Turn::say("All is written.")]));
    let builder = DaemonBuilder::openai(&models);
    let told = builder.cli(["run", "--output", "output/x.md", "Write it"]);
    assert_eq!((told.code(), told.stdout.as_str()), (1, ""), "{told:?}");
    assert!(told.stderr.contains("its agent said: All is written."), "{told:?}");
}

#[test]
fn a_private_daemon_prints_no_audit_trail() {
    let builder = with_documents();
    let mut command = builder.command(["run", "--json", GOAL]);
    let told = Finished::from(command.env("AAOS_AUDIT_STDOUT", "1").output().unwrap());
    assert_eq!((told.code(), told.stdout.lines().count()), (0, 1), "{told:?}");
    assert_eq!(json(&told)["state"], "done");
}

/// Starts a run whose model never answers, waits until it was asked, interrupts, and returns how it ended.
fn interrupted(signal: impl Fn(Pid)) -> (Option<i32>, String, DaemonBuilder) {
    let models = ModelServer::start(Script::in_order([Turn::Hang]));
    let builder = DaemonBuilder::openai(&models);
    let mut command = builder.command(["run", "Think for ever"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().expect("starts");
    assert_eq!(models.wait_for_requests(1).len(), 1);
    signal(Pid::from_child(&child));
    let said: Vec<String> =
        BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok).collect();
    (child.wait().expect("ends").code(), said.join("\n"), builder)
}

#[test]
fn an_interrupt_cancels_the_goal_and_the_record_says_so() {
    let (code, said, builder) = interrupted(|pid| kill_process(pid, Signal::INT).unwrap());
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("goal cancelled"), "{said}");
    let finished = entries(&builder, "goal_finished");
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0]["event"]["state"], "cancelled");
}

#[test]
fn ctrl_c_on_a_terminal_reaches_every_process_and_still_cancels_in_good_order() {
    let (code, said, builder) = interrupted(|pid| kill_process_group(pid, Signal::INT).unwrap());
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(entries(&builder, "goal_finished")[0]["event"]["state"], "cancelled", "{said}");
    assert_eq!(entries(&builder, "daemon_stopped").len(), 1, "{said}");
}
