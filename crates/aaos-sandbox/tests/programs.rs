//! Everything that an escape from a worker would need, tried by a granted program in the sandbox of `command_run`.
//!
//! The attempts and their controls are those of the example `contest`: the same code runs free, on a stage of its own,
//! and then as a program, once with nothing of the stage in its sight and once with all of it granted for reading. What
//! a program may do by design stands in the tables here, and fails the test where it cannot.

mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::effect::ToolOutcome;
use aaos_core::variables::Variables;
use aaos_sandbox::{ProgramCall, SandboxConfig, program_text};
use lab::{Lab, NOW};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{PATIENCE, scratch};

/// What programs are there for, within their limits, and what compilers and interpreters do to memory.
const MAY: [&str; 10] = [
    "fork",
    "start a thread",
    "execute a program",
    "fork 10,000 children",
    "fill memory",
    "fill the descriptor table",
    "map memory to execute",
    "turn memory executable",
    "open a device",
    // Of its own sandbox: the relay of its proxy, which serves nobody else.
    "signal everybody",
];
/// What a grant for reading is for.
const MAY_WITH_A_GRANT: [&str; 8] = [
    "read a file",
    "read the operator's own file",
    "stat a path",
    "access a path",
    "read a link",
    "change the directory",
    "list a directory",
    "watch a directory",
];
const NOBODY: u32 = 65_534;
/// The least number of attempts that run free, as an ordinary user.
const CONTROLS: usize = 50;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    case: String,
    control: String,
}

/// The stage, as long as this lives.
struct Stage {
    program: Child,
    scene: String,
    controls: Vec<Control>,
}

impl Stage {
    /// Sets it below a directory and runs every control.
    #[expect(clippy::disallowed_methods, reason = "the stage is a program of its own")]
    fn below(directory: &str) -> Self {
        let mut command = Command::new(lab::built("examples/contest"));
        command.arg("--controls").env("TMPDIR", directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().expect("it starts");
        let mut lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().expect("it goes on").expect("a line");
        let scene = line();
        let mut controls = Vec::new();
        loop {
            match line().as_str() {
                "\"ready\"" => return Self { program, scene, controls },
                told => controls.push(serde_json::from_str(told).expect("a control")),
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.program.stdin.take());
        self.program.wait().expect("it ends");
    }
}

/// What is about descriptors that were handed to a worker or leaked into it, or has a test of its own: a program is
/// handed three pipes and nothing else (`nothing_leaks_into_a_program`), ended with all that it started
/// (`a_time_out_ends_the_whole_tree`), and finds no terminal (`nothing_outside_is_reached`).
fn is_about_workers(case: &str) -> bool {
    ["handed", "leaked", "seal", "push a descriptor", "outlive", "terminal"]
        .iter()
        .any(|word| case.contains(word))
}

/// What came of an attempt in the sandbox: `reached`, or what stopped it.
async fn attempt(lab: &mut Lab, scene: &str, case: &str) -> String {
    let program = lab::built("examples/contest");
    let arguments = json!({ "program": program, "args": ["--as-program", case], "stdin": scene });
    let permit = lab.permit("command_run", arguments).await.expect("granted");
    let call = ProgramCall::command(&permit, &Variables::default()).expect("a program's");
    let (path, world) = (call.program().clone(), call.world().clone());
    let opening = lab.worker.open_program(&path, &world, &lab.roots);
    let sandbox = lab.sandbox.prepare_program(call, opening, &lab.roots).await.expect("a sandbox");
    let result = sandbox.run(std::future::pending()).await.result;
    let told =
        result.as_ref().map_err(Clone::clone).and_then(|said| program_text(&permit.effect().input, said));
    let receipt = permit.settle(ToolOutcome::of(told));
    lab.journal.finish(receipt, NOW).await.expect("journalled");
    let said = result.expect("it runs");
    match serde_json::from_str::<Value>(&said.stdout).ok() {
        Some(told) if told["refusal"].is_null() => "reached".to_owned(),
        Some(told) => told["refusal"].to_string(),
        None => format!("ended with {said:?}"),
    }
}

/// When the sandbox of an attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    ForTheCall,
    /// It waits for the call; but for the first one's.
    Ahead,
}

/// Tries every case whose stage lies below `directory` of the lab; what is in `may` is reached, and nothing else.
async fn hold(directory: &str, may: &[&str], made: Made) {
    let parks_programs = made == Made::Ahead;
    let config = SandboxConfig { parks_programs, ..SandboxConfig::from(ConfinementPolicy::default()) };
    let mut lab = Lab::with(scratch(), "aaos-worker", config).await;
    let stage = Stage::below(&lab.path(directory));
    let mut told = BTreeMap::new();
    for Control { case, .. } in stage.controls.iter().filter(|one| !is_about_workers(&one.case)) {
        told.insert(case.as_str(), attempt(&mut lab, &stage.scene, case).await);
        let waits = async {
            while parks_programs && !lab.sandbox.has_spare_program() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waits).await.expect("one is made for the next attempt");
    }
    let reached: Vec<&str> =
        told.iter().filter(|(_, answer)| *answer == "reached").map(|(case, _)| *case).collect();
    let mut expected: Vec<&str> = may.to_vec();
    expected.sort_unstable();
    assert_eq!(reached, expected, "{told:#?}");
    let free = |one: &&Control| one.control == "succeeded" && told.contains_key(one.case.as_str());
    let free: Vec<_> = stage.controls.iter().filter(free).collect();
    assert!(free.len() >= CONTROLS, "only {} attempts run free: {:#?}", free.len(), stage.controls);
    let alive = lab.call("echo", json!({ "message": "hello" })).await;
    assert_eq!(alive.expect("the worker that read the first lines serves on")["message"], "hello");
    lab.end().await;
}

/// This program, the launcher and the attempts, where every user can execute them; else as they lie in their folder.
fn copied() -> TempDir {
    let folder = scratch();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("ours");
    for name in ["deps", "examples"] {
        fs::create_dir(folder.path().join(name)).expect("made");
    }
    let this = std::env::current_exe().expect("a running program has a path");
    let files = [
        (this, "deps/programs"),
        (lab::built("aaos-worker"), "aaos-worker"),
        (lab::built("examples/contest"), "examples/contest"),
    ];
    for (from, to) in files {
        fs::copy(from, folder.path().join(to)).expect("copied");
    }
    folder
}

/// The tests above once more, as an ordinary user.
#[test]
fn an_ordinary_user_s_programs_get_nowhere_either() {
    if !rustix::process::geteuid().is_root() {
        // The tests above are that.
        return;
    }
    let folder = copied();
    let tests = [
        "a_program_gets_nowhere",
        "a_program_whose_sandbox_waited_for_it_gets_nowhere_either",
        "a_program_that_may_read_a_directory_reads_it_and_does_nothing_else_there",
        "one_whose_sandbox_waited_for_it_does_nothing_else_there_either",
    ];
    #[expect(clippy::disallowed_methods, reason = "this very program, as somebody else")]
    let mut command = Command::new(folder.path().join("deps/programs"));
    command.args(tests).arg("--exact").current_dir("/").uid(NOBODY).gid(NOBODY);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("4 passed"), "{said}");
}

#[tokio::test]
async fn a_program_gets_nowhere() {
    hold("outside", &MAY, Made::ForTheCall).await;
}

#[tokio::test]
async fn a_program_whose_sandbox_waited_for_it_gets_nowhere_either() {
    hold("outside", &MAY, Made::Ahead).await;
}

#[tokio::test]
async fn a_program_that_may_read_a_directory_reads_it_and_does_nothing_else_there() {
    hold("library", &[MAY.as_slice(), &MAY_WITH_A_GRANT].concat(), Made::ForTheCall).await;
}

#[tokio::test]
async fn one_whose_sandbox_waited_for_it_does_nothing_else_there_either() {
    hold("library", &[MAY.as_slice(), &MAY_WITH_A_GRANT].concat(), Made::Ahead).await;
}
