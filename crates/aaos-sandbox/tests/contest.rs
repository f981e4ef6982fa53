//! Everything that an escape would need is stopped: as root, as an ordinary user, and where no namespace can be made.
//!
//! The example `contest` makes the attempts, each with its control, behind each boundary alone and in a real worker;
//! it fails by itself when a control does not succeed, the worker is left, a boundary does not stop what it is
//! there for, or (as root) a boundary stops nothing. Here it is run in every mode, and what it says is looked at
//! once more. What the machine cannot do is printed.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aaos_core::confinement::Boundary;
use serde::Deserialize;
use tempfile::TempDir;
use testkit::scratch;

const NOBODY: u32 = 65_534;
/// Whom the set-uid program of an ordinary user's run belongs to: neither root nor that user.
const SOMEBODY_ELSE: u32 = 1;
/// The least number of cases that make a suite.
const CASES: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    user: String,
    landlock_abi: u32,
    namespaces: Vec<Boundary>,
    available_alone: Vec<Boundary>,
    cases: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    good_for: String,
    control: String,
    impossible: String,
    confined: String,
    boundary: String,
    alone: Vec<Boundary>,
}

/// The program where every user can execute it, and a set-uid one of somebody else's.
struct Programs {
    folder: TempDir,
    set_uid: Option<PathBuf>,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.parent().and_then(Path::parent).expect("deps lies in a profile's folder");
    let path = profile.join("examples/contest");
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --examples` first", path.display());
    path
}

impl Programs {
    fn copied() -> Self {
        let folder = scratch();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("ours");
        let copy = |name: &str, mode: u32, owner: Option<u32>| {
            let to = folder.path().join(name);
            std::fs::copy(built(), &to).expect("copied");
            chown(&to, owner, owner).expect("ours");
            std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).expect("ours");
            to
        };
        copy("contest", 0o755, None);
        let set_uid = is_root().then(|| copy("set-uid", 0o4755, Some(SOMEBODY_ELSE)));
        Self { folder, set_uid }
    }

    #[expect(clippy::disallowed_methods, reason = "the suite is a program of its own")]
    fn command(&self) -> Command {
        let mut command = Command::new(self.folder.path().join("contest"));
        command.current_dir("/");
        command
    }

    fn run_as_root(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("it starts")
    }

    fn run_as_nobody(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments);
        if let Some(set_uid) = &self.set_uid {
            command.arg("--set-uid-program").arg(set_uid).uid(NOBODY).gid(NOBODY);
        }
        command.output().expect("it starts")
    }
}

/// What a run said, which must be that all is as it should be.
fn read(output: &Output) -> (Machine, Vec<Case>) {
    let (said, wrong) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{wrong}", output.status);
    let mut lines = said.lines();
    let first = lines.next().expect("a line for the machine");
    let machine: Machine = serde_json::from_str(first).expect("a machine");
    let cases: Vec<Case> = lines.map(|line| serde_json::from_str(line).expect("a case")).collect();
    assert_eq!(cases.len(), machine.cases);
    assert!(cases.len() >= CASES, "only {} cases", cases.len());
    for case in &cases {
        assert_ne!(case.confined, "succeeded", "{case:?}");
        let has_control = case.control == "succeeded";
        assert_eq!(has_control, case.impossible.is_empty(), "{case:?}");
        assert!(!case.boundary.is_empty() && !case.good_for.is_empty(), "{case:?}");
        if !has_control {
            say(&format!("no control for {}: {} ({})", case.case, case.control, case.impossible));
            assert!(case.alone.is_empty(), "{case:?}");
        }
    }
    say(&format!("{machine:?}"));
    (machine, cases)
}

/// Tells whoever reads the test's output.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the runner reads it");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether this run can be root's; says so if not.
fn root_or_say_so() -> bool {
    if !is_root() {
        say("not root: what root is held by is tested only by a run of root's");
    }
    is_root()
}

#[test]
fn root_is_held_by_everything() {
    if !root_or_say_so() {
        return;
    }
    let programs = Programs::copied();
    let (machine, cases) = read(&programs.run_as_root(&[]));
    assert_eq!(machine.user, "root");
    assert!(machine.landlock_abi >= 4);
    for boundary in &machine.available_alone {
        assert!(cases.iter().any(|case| case.alone.contains(boundary)), "{boundary:?} alone stops nothing");
    }
}

#[test]
fn the_page_says_what_this_machine_does() {
    if !root_or_say_so() {
        return;
    }
    let output = Programs::copied().run_as_root(&["--markdown"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let made = text(&output.stdout);
    let page = include_str!("../../../docs/contest.md");
    // A machine that can do less makes another page, and its run has just said what it cannot.
    let machine =
        |page: &str| page.lines().skip_while(|line| !line.starts_with("Made by")).take(3).collect::<String>();
    if machine(&made) == machine(page) {
        assert_eq!(made, page, "run `cargo xtask contest --record`");
    } else {
        say(&format!("this machine has other abilities than the page's: {}", machine(&made)));
    }
}

#[test]
fn an_ordinary_user_is_held_by_everything() {
    let (machine, _) = read(&Programs::copied().run_as_nobody(&[]));
    assert_eq!(machine.user, "an ordinary user");
}

#[test]
fn without_namespaces_everything_is_stopped_all_the_same() {
    let programs = Programs::copied();
    let mut runs = vec![programs.run_as_nobody(&["--without-namespaces"])];
    if root_or_say_so() {
        runs.push(programs.run_as_root(&["--without-namespaces"]));
    }
    for run in &runs {
        let (machine, _) = read(run);
        assert_eq!(machine.namespaces, [], "a locked launcher makes none");
    }
}

/// The suite would notice: what stands in its table and succeeds, or fails and does not stand there, is a failure.
#[test]
fn a_table_that_is_wrong_fails_the_run() {
    let programs = Programs::copied();
    let run = programs.run_as_nobody(&["--impossible", "read a file=EPERM", "--impossible", "mount=ENODEV"]);
    assert_eq!(run.status.code(), Some(1));
    let wrong = text(&run.stderr);
    assert!(wrong.contains("read a file: impossible, says the table, and it succeeded"), "{wrong}");
    assert!(wrong.contains("mount: the control fails with EPERM"), "{wrong}");
    assert_eq!(wrong.lines().count(), 2, "{wrong}");
}

/// It would notice a worker that holds nothing: each attempt that has a control is then told as one that was reached.
#[test]
fn without_a_worker_every_attempt_is_told_as_reached() {
    let run = Programs::copied().run_as_nobody(&["--without-worker"]);
    assert_eq!(run.status.code(), Some(1));
    let said = text(&run.stdout);
    let cases = said.lines().skip(1).map(|line| serde_json::from_str(line).expect("a case"));
    let free = cases.filter(|case: &Case| case.control == "succeeded").count();
    let wrong = text(&run.stderr);
    let reached = wrong.lines().filter(|line| line.ends_with(": reached from the worker")).count();
    assert!(free >= CASES / 2, "only {free} cases can be tried by an ordinary user");
    assert_eq!(reached, free, "{wrong}");
}
