//! `approvals`, `grants`, `revoke` and `explain`, driven as a person drives them: real binaries, a scripted model,
//! and a terminal where one is needed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Daemon, DaemonBuilder, Finished, ModelServer, Script, Turn};

fn json_of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// A model that writes files one after the other into a directory and is done, and an environment to run it in.
struct Rig {
    directory: TempDir,
    builder: DaemonBuilder,
    _models: ModelServer,
}

impl Rig {
    fn writing(names: &[&str]) -> Self {
        let directory = testkit::scratch();
        let write = |name: &&str| {
            let path = directory.path().join(name);
            Turn::call("file_write", json!({ "path": path, "content": "the moon\n" }))
        };
        let turns: Vec<Turn> = names.iter().map(write).chain([Turn::say("It is written.")]).collect();
        let models = ModelServer::start(Script::in_order(turns));
        Self { directory, builder: DaemonBuilder::openai(&models), _models: models }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn has(&self, name: &str) -> bool {
        self.directory.path().join(name).exists()
    }

    /// The command line of a run that has to write `a.md`, with further flags.
    fn run(&self, flags: &[&str]) -> Vec<String> {
        let line = ["run", "--write", &self.path(""), "--output", &self.path("a.md")];
        let line = line.iter().chain(flags).map(|word| (*word).to_owned());
        line.chain(["--".to_owned(), "Write it".to_owned()]).collect()
    }

    /// Starts a run that nobody can be asked by.
    fn start(&self, flags: &[&str]) -> Running {
        let mut command = self.builder.command(self.run(flags));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let said = BufReader::new(child.stderr.take().expect("a pipe"));
        Running { child, said, told: String::new() }
    }
}

/// A run whose standard error is read line by line.
struct Running {
    child: Child,
    said: BufReader<ChildStderr>,
    told: String,
}

impl Running {
    /// Reads on until a line holds `part`, and returns it.
    fn line_with(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.said.read_line(&mut line).expect("a pipe can be read");
            assert!(read > 0, "no line with {part:?}: {}", self.told);
            self.told.push_str(&line);
            if line.contains(part) {
                return line.trim_end().to_owned();
            }
        }
    }

    fn end(mut self) -> (Option<i32>, String) {
        self.said.read_to_string(&mut self.told).expect("a pipe can be read");
        (self.child.wait().expect("ends").code(), self.told)
    }
}

/// The arguments of the command that a line of progress tells.
fn told_command(line: &str) -> Vec<String> {
    let command = line.split_once("to answer: agentd ").expect("it tells a command").1;
    let command = command.split_once("   (or").expect("a remark").0;
    command.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_use_waits_until_the_command_that_is_told_approves_it() {
    let rig = Rig::writing(&["a.md"]);
    let mut running = rig.start(&["--approve", "file_write"]);
    running.line_with("each use of these waits for your approval:");
    let asked = running.line_with("waits for approval");
    assert!(
        asked.contains(": file_write ") && asked.contains(" path=\"") && asked.contains("a.md"),
        "{asked}"
    );
    let command = told_command(&running.line_with("to answer:"));
    let listed = rig.builder.cli(["approvals", "--json"]);
    let pending = json_of(&listed)["pending"].as_array().expect("a list").clone();
    assert_eq!((pending.len(), &pending[0]["tool"]), (1, &json!("file_write")), "{listed:?}");
    assert_eq!(pending[0]["id"].as_str(), command.last().map(String::as_str), "the id that was told");
    let table = rig.builder.cli(["approvals"]);
    assert!(table.stdout.contains("file_write") && table.stderr.contains("--approve"), "{table:?}");
    assert!(!rig.has("a.md"), "nothing was done yet");
    // Without what the environment says: the line alone finds the daemon.
    let mut bare = rig.builder.command(&command);
    let answered =
        Finished::from(bare.env_remove("AAOS_SOCKET").env_remove("AAOS_STATE_DIR").output().unwrap());
    assert_eq!(answered.code(), 0, "{answered:?}");
    assert!(answered.stdout.contains("approved: file_write"), "{answered:?}");
    let (code, told) = running.end();
    assert_eq!((code, rig.has("a.md")), (Some(0), true), "{told}");
    assert!(told.contains("approved: "), "{told}");
}

#[test]
fn a_denial_ends_with_3_and_without_the_file_and_without_approve_nobody_is_asked() {
    let rig = Rig::writing(&["a.md"]);
    let mut running = rig.start(&["--approve", "file_write"]);
    let id = told_command(&running.line_with("to answer:")).pop().expect("an id");
    let unknown = rig.builder.cli(["approvals", "--deny", "0190a5e8-7c1b-7000-8000-0123456789ab"]);
    assert_eq!(unknown.code(), 1, "{unknown:?}");
    let end = &id[id.len() - 8..];
    let denied = rig.builder.cli(["approvals", "--deny", end, "--reason", "not there"]);
    assert_eq!(denied.code(), 0, "{denied:?}");
    let (code, told) = running.end();
    assert_eq!((code, rig.has("a.md")), (Some(3), false), "{told}");
    assert!(told.contains("not approved by uid") && told.contains("not there"), "{told}");

    let control = Rig::writing(&["a.md"]);
    let ran = control.builder.cli(control.run(&[]));
    assert_eq!((ran.code(), control.has("a.md")), (0, true), "{ran:?}");
    assert!(!ran.stderr.contains("approval"), "{ran:?}");
}

#[test]
fn one_scoped_answer_covers_what_follows_below_its_place() {
    let rig = Rig::writing(&["in/b.md", "in/c.md", "a.md"]);
    let mut running = rig.start(&["--approve", "file_write"]);
    let id = told_command(&running.line_with("to answer:")).pop().expect("an id");
    let outside =
        rig.builder.cli(["approvals", "--approve", &id, "--below", &rig.path("other/*"), "--uses", "2"]);
    assert_eq!(outside.code(), 2, "it would not cover what is asked: {outside:?}");
    let below = rig.path("in/*");
    let answered =
        rig.builder.cli(["approvals", "--approve", &id, "--below", &below, "--uses", "2", "--for-goal"]);
    assert_eq!(answered.code(), 0, "{answered:?}");
    // The second write is covered, the third lies elsewhere and is asked about anew.
    let id = told_command(&running.line_with("to answer:")).pop().expect("an id");
    assert!(rig.has("in/c.md") && !rig.has("a.md"));
    assert_eq!(rig.builder.cli(["approvals", "--approve", &id]).code(), 0);
    let (code, told) = running.end();
    assert_eq!((code, told.matches("waits for approval").count()), (Some(0), 2), "{told}");
}

#[test]
fn an_approval_is_withdrawn_from_the_command_line() {
    let rig = Rig::writing(&["in/b.md", "in/c.md", "a.md"]);
    let mut running = rig.start(&["--approve", "file_write"]);
    let id = told_command(&running.line_with("to answer:")).pop().expect("an id");
    let below = rig.path("in/*");
    let approved = rig.builder.cli(["approvals", "--approve", &id, "--below", &below, "--uses", "5"]);
    assert_eq!(approved.code(), 0, "{approved:?}");
    let third = told_command(&running.line_with("to answer:")).pop().expect("an id");
    let listed = rig.builder.cli(["approvals"]);
    assert!(listed.stdout.contains(&format!("file_write below {below}")), "{listed:?}");
    let again = rig.builder.cli(["approvals", "--approve", &id]);
    assert_eq!(again.code(), 1, "{again:?}");
    assert!(again.stderr.contains("is approved already"), "{again:?}");
    let withdrawn = rig.builder.cli(["approvals", "--deny", &id]);
    assert_eq!(withdrawn.code(), 0, "{withdrawn:?}");
    assert!(withdrawn.stdout.contains("withdrawn: file_write below"), "{withdrawn:?}");
    assert!(!rig.builder.cli(["approvals"]).stdout.contains("APPROVED"), "none is in force");
    assert_eq!(rig.builder.cli(["approvals", "--approve", &third]).code(), 0);
    let (code, told) = running.end();
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn an_answer_needs_its_flags() {
    let builder = DaemonBuilder::new(testkit::Backend::Builtin);
    let (a, b) = ("0190a5e8-7c1b-7000-8000-0123456789ab", "0190a5e8-7c1b-7000-8000-0123456789ac");
    for line in [
        &["approvals", "--below", "/x/*"][..],
        &["approvals", "--deny", a, "--uses", "2"],
        &["approvals", "--approve", a, "--deny", b],
        &["approvals", "--approve", a, "--uses", "0"],
        &["approvals", "--reason", "why"],
        &["explain", "--who"],
        &["explain", "--tool", "echo"],
        &["explain", "reader", "--tool", "ehco"],
        &["run", "--approve", "file_wirte", "x"],
    ] {
        let told = builder.cli(line);
        assert_eq!(told.code(), 2, "{line:?}: {told:?}");
    }
}

/// A new terminal: the master's end, and three copies of the other.
fn terminal() -> (File, [OwnedFd; 3]) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("grants");
    unlockpt(&master).expect("unlocks");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let open = || File::options().read(true).write(true).open(name.to_str().expect("UTF-8")).expect("opens");
    (File::from(master), [open().into(), open().into(), open().into()])
}

/// A command at a terminal, and a person who reads and types there.
struct AtTerminal {
    child: Child,
    master: File,
    seen: String,
    read: usize,
}

impl AtTerminal {
    fn start(rig: &Rig, line: &[String]) -> Self {
        let (master, [stdin, stdout, stderr]) = terminal();
        let mut command = rig.builder.command(line);
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().expect("starts");
        Self { child, master, seen: String::new(), read: 0 }
    }

    /// Reads on until `part` stands on the terminal, after what was read before.
    fn see(&mut self, part: &str) {
        loop {
            if let Some(at) = self.seen[self.read..].find(part) {
                self.read += at + part.len();
                return;
            }
            let mut bytes = [0; 4096];
            let count = self.master.read(&mut bytes).unwrap_or(0);
            assert!(count > 0, "no {part:?} on the terminal: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn type_line(&mut self, text: &str) {
        writeln!(self.master, "{text}").expect("types");
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut bytes = [0; 4096];
        // The last close of the other end is an error here, EIO.
        while let Ok(count @ 1..) = self.master.read(&mut bytes) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        (self.child.wait().expect("ends").code(), self.seen)
    }
}

#[test]
fn a_run_at_a_terminal_asks_there() {
    let rig = Rig::writing(&["a.md"]);
    let mut person = AtTerminal::start(&rig, &rig.run(&["--approve", "file_write"]));
    person.see("waits for approval");
    // Before anything is asked, everything that is known stands there.
    for part in ["who      agent bootstrap (", "why      its manifest or its goal", "input    {"] {
        person.see(part);
    }
    person.see("\"content\": \"the moon\\n\"");
    person.see("grant    file_write: ");
    person.see(&format!("target   {}: nothing stands there", rig.path("a.md")));
    let shown = person.read;
    person.see("approve? [y]es once");
    assert!(person.seen.find("approve?") > Some(shown), "{}", person.seen);
    person.type_line("perhaps");
    person.see("y, n, s, d, l or q is wanted");
    person.see("approve? [y]es once");
    person.type_line("d");
    person.see("\"content\": \"the moon\\n\"");
    person.see("nothing stands there");
    person.see("approve? [y]es once");
    assert!(!rig.has("a.md"));
    person.type_line("y");
    let (code, seen) = person.end();
    assert_eq!((code, rig.has("a.md")), (Some(0), true), "{seen}");
    assert!(!seen.contains("to answer:"), "{seen}");
}

#[test]
fn what_was_typed_before_a_question_does_not_answer_it() {
    let rig = Rig::writing(&["a.md"]);
    let mut person = AtTerminal::start(&rig, &rig.run(&["--approve", "file_write"]));
    person.type_line("y");
    person.see("approve? [y]es once");
    person.type_line("n not today");
    let (code, seen) = person.end();
    assert_eq!((code, rig.has("a.md")), (Some(3), false), "{seen}");
    assert!(seen.contains("not today"), "{seen}");
}

#[test]
fn who_leaves_a_question_at_the_terminal_is_told_how_to_answer_it_later() {
    let rig = Rig::writing(&["a.md"]);
    let mut person = AtTerminal::start(&rig, &rig.run(&["--approve", "file_write"]));
    person.see("approve? [y]es once");
    person.type_line("l");
    person.see("to answer: agentd approvals --socket");
    let pending = json_of(&rig.builder.cli(["approvals", "--json"]));
    let id = pending["pending"][0]["id"].as_str().expect("still open").to_owned();
    assert_eq!(rig.builder.cli(["approvals", "--approve", &id]).code(), 0);
    let (code, seen) = person.end();
    assert_eq!((code, rig.has("a.md")), (Some(0), true), "{seen}");
}

#[test]
fn an_interrupt_during_a_question_cancels_and_approves_nothing() {
    let rig = Rig::writing(&["a.md"]);
    let mut person = AtTerminal::start(&rig, &rig.run(&["--approve", "file_write"]));
    person.see("approve? [y]es once");
    kill_process(Pid::from_child(&person.child), Signal::INT).expect("signals");
    person.see("cancelling the goal");
    person.type_line("y");
    let (code, seen) = person.end();
    assert_eq!((code, rig.has("a.md")), (Some(130), false), "{seen}");
}

#[test]
fn an_answer_from_elsewhere_ends_the_question_at_the_terminal() {
    let rig = Rig::writing(&["a.md"]);
    let mut person = AtTerminal::start(&rig, &rig.run(&["--approve", "file_write"]));
    person.see("approve? [y]es once");
    let pending = json_of(&rig.builder.cli(["approvals", "--json"]));
    let id = pending["pending"][0]["id"].as_str().expect("open").to_owned();
    assert_eq!(rig.builder.cli(["approvals", "--approve", &id]).code(), 0);
    let (code, seen) = person.end();
    assert_eq!((code, rig.has("a.md")), (Some(0), true), "{seen}");
}

#[test]
fn approvals_at_a_terminal_shows_each_question_whole_and_takes_a_scope() {
    let rig = Rig::writing(&["in/b.md", "in/c.md", "a.md"]);
    let mut running = rig.start(&["--approve", "file_write"]);
    running.line_with("to answer:");
    let mut person = AtTerminal::start(&rig, &["approvals".to_owned()]);
    person.see("what     agent bootstrap wants to use file_write");
    person.see("grant    file_write: ");
    person.see("approve? [y]es once");
    person.type_line("s");
    person.see("below which path");
    person.type_line(&rig.path("*"));
    person.see("how many uses");
    person.type_line("3");
    let (code, seen) = person.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("approved for 3 uses below"), "{seen}");
    let (code, told) = running.end();
    assert_eq!((code, told.matches("waits for approval").count()), (Some(0), 1), "{told}");
}

/// Starts an agent that stays, and returns its id.
fn spawn(daemon: &Daemon, name: &str, capabilities: &[String]) -> String {
    let quoted: Vec<String> = capabilities
        .iter()
        .map(|one| format!("  - {}\n", serde_json::to_string(one).expect("JSON")))
        .collect();
    let manifest = format!(
        "name: {name}\nmodel: fast\nlifecycle: persistent\nsystem_prompt: You help.\ncapabilities:\n{}",
        quoted.concat()
    );
    std::fs::write(daemon.work_dir().join("agent.yaml"), manifest).expect("writes");
    let spawned = daemon.cli(["spawn", "agent.yaml"]);
    assert_eq!(spawned.code(), 0, "{spawned:?}");
    spawned.stdout.trim().to_owned()
}

#[test]
fn exactly_the_grants_that_explain_names_make_the_call_pass() {
    let rig = Rig::writing(&[]);
    let path = rig.path("a.md");
    let daemon = DaemonBuilder::new(testkit::Backend::Builtin).start();
    let poor = spawn(&daemon, "poor", &["tool: echo".to_owned()]);
    let write = |agent: &str| {
        let input = json!({ "path": path, "content": "x" });
        daemon
            .client()
            .call("tool.invoke", json!({ "agent_id": agent, "tool": "file_write", "input": input }))
    };
    assert!(write(&poor).is_err(), "the control");
    let line = ["explain", "poor", "--tool", "file_write", "--write", &path];
    let told = daemon.cli(line);
    assert_eq!(told.code(), 3, "{told:?}");
    assert!(told.stdout.contains(&format!("missing  file_write: {path}")), "{told:?}");
    let told = json_of(&daemon.cli(line.iter().chain(&["--json"])));
    let missing: Vec<String> = told["missing"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["missing"].as_str().expect("words").to_owned())
        .collect();
    assert_eq!(missing.len(), 2, "the tool and the file: {missing:?}");
    // Each of them is needed: with one alone the same call is refused.
    for (at, one) in missing.iter().enumerate() {
        let half = spawn(&daemon, &format!("half-{at}"), std::slice::from_ref(one));
        assert!(write(&half).is_err() && !rig.has("a.md"), "{one}");
    }
    let rich = spawn(&daemon, "rich", &missing);
    let told = daemon.cli(["explain", "rich", "--tool", "file_write", "--write", &path]);
    assert_eq!((told.code(), told.stdout.matches("allowed: ").count()), (0, 2), "{told:?}");
    assert!(write(&rich).is_ok() && rig.has("a.md"));

    let denied = daemon.cli(["explain", "poor"]);
    assert_eq!(denied.code(), 0, "{denied:?}");
    assert!(
        denied.stdout.contains("poor(") && denied.stdout.contains("  missing  tool: file_write"),
        "{denied:?}"
    );
    let latest = daemon.cli(["explain", "--limit", "1", "--json"]);
    assert_eq!(latest.stdout.lines().count(), 1, "{latest:?}");
    assert_eq!(json_of(&latest)["event"]["effect"], "file_write", "{latest:?}");
    let (_, builder) = daemon.terminate();
    assert!(
        builder.cli(["explain"]).stdout.contains("missing"),
        "the journal's file is read without a daemon"
    );
}

#[test]
fn who_can_reach_a_path_is_told_over_the_delegation_and_a_revocation_ends_it() {
    let directory = testkit::scratch();
    let data = directory.path().join("data.csv");
    std::fs::write(&data, "1,2\n").expect("writes");
    let data = data.to_str().expect("UTF-8").to_owned();
    let child = json!({
        "manifest": format!("name: reader\nmodel: fast\nsystem_prompt: You read.\ncapabilities:\n  - \"file_read: {data}\"\n"),
        "message": "Read it."
    });
    let models = ModelServer::start(
        Script::new().when_system("You read.", [Turn::Hang]).otherwise([Turn::call("spawn_agent", child)]),
    );
    let daemon = DaemonBuilder::openai(&models).start();
    let below = directory.path().to_str().expect("UTF-8");
    let submitted = daemon.cli(["submit", "--read", below, "Find out"]);
    assert_eq!(submitted.code(), 0, "{submitted:?}");
    assert_eq!(models.wait_for_requests(2).len(), 2, "the child thinks");

    let who = ["explain", "--who", "--read", &data];
    let told = daemon.cli(who);
    assert_eq!(told.code(), 0, "{told:?}");
    let (lead, reader) = (told.stdout.find("\n  bootstrap("), told.stdout.find("\n    reader("));
    assert!(lead.is_some() && lead < reader, "the child stands below its parent: {told:?}");
    let nobody = daemon.cli(["explain", "--who", "--read", "/etc/shadow"]);
    assert_eq!(nobody.code(), 3, "{nobody:?}");

    let held = daemon.cli(["grants", "reader"]);
    assert!(held.stdout.contains(&format!("file_read: {data}")), "{held:?}");
    let wrong = daemon.cli(["revoke", "bootstrap", "file_read: /nowhere/*"]);
    assert_eq!(wrong.code(), 1, "{wrong:?}");
    assert!(wrong.stderr.contains("it holds: "), "{wrong:?}");
    let revoked = daemon.cli(["revoke", "bootstrap", &format!("file_read: {below}/*")]);
    assert_eq!(revoked.code(), 0, "{revoked:?}");
    assert!(revoked.stdout.contains("derives from it"), "the child's grant ends with it: {revoked:?}");
    assert_eq!(daemon.cli(who).code(), 3, "nobody is left");
    assert!(!daemon.cli(["grants", "reader"]).stdout.contains(&data));
}
