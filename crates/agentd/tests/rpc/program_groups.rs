//! Programs in their control groups, through the daemon: all that a program starts is bounded together, what it uses is
//! shown, a call that needs too much ends with the limit's name, and nothing of it is left.
//!
//! `cargo xtask vm-test` runs this on a machine that has control groups, as root, who gets one, and as an ordinary user
//! who shares his and gets none; elsewhere it shows what is said where there are none.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use testkit::{Client, PATIENCE, ProcessRef, binaries};

use crate::revocation::holding;
use crate::support::{Rig, assert_intact, entries, invoke, spawn, wait_for_entry};

/// More processes than a program may have.
const TOO_MANY: &str = "400";
/// Memory of one child, in MiB, and how many of them need more than a program may have, though none does by itself.
const EACH_MIB: &str = "450";
const TOO_MUCH: &str = "10";
const FEW: &str = "1";

/// A daemon, and an agent that may start the program that takes too much.
struct Greedy {
    rig: Rig,
    agent: String,
    program: PathBuf,
}

impl Greedy {
    fn new() -> Self {
        let rig = Rig::saying("done");
        let built = binaries().gateway.parent().expect("a folder").join("examples/greedy_program");
        assert!(built.is_file(), "{} is missing: run `cargo build --workspace --examples`", built.display());
        let program = rig.daemon.work_dir().join("greedy");
        fs::copy(built, &program).expect("copied");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        let grants = ["tool: command_run".to_owned(), format!("exec: {}", program.display())];
        let agent = spawn(&mut rig.client(), &holding("greedy", &grants));
        Self { rig, agent, program }
    }

    fn input(&self, args: &[&str]) -> Value {
        json!({ "program": self.program, "args": args, "timeout_seconds": 300 })
    }

    fn outside(&self, args: &[&str]) -> Child {
        command(&self.program).args(args).stdout(Stdio::piped()).spawn().expect("the control starts")
    }

    /// What the receipt of the last program says of its control group; its directory, where it has one.
    fn group(&self) -> (Value, Option<PathBuf>) {
        let is_program = |entry: &Value| entry["event"]["role"] == "program";
        wait_for_entry(&self.rig.daemon, "confinement_receipt", is_program);
        let receipts = entries(&mut self.rig.client(), &["confinement_receipt"]);
        let receipt = receipts.iter().rfind(|entry| is_program(entry)).expect("one");
        let boundaries = receipt["event"]["receipt"]["boundaries"].as_array().expect("boundaries");
        let group = boundaries.iter().find(|one| one["boundary"] == "cgroup").expect("it is judged");
        (group.clone(), directory_in(group))
    }

    fn status(&self, client: &mut Client) -> Value {
        client.call("agent.status", json!({ "agent_id": self.agent })).expect("a status")
    }
}

/// The group that a receipt names: `memory.max N, pids.max N in GROUP`.
fn directory_in(group: &Value) -> Option<PathBuf> {
    // In the virtual machine root has control groups, and nobody else.
    let machine = fs::read_to_string("/proc/cmdline").expect("readable");
    let is_root = rustix::process::geteuid().is_root();
    let has_one = group["evidence"] == "observed";
    assert!(!machine.contains("aaos.nonce=") || is_root == has_one, "{group}");
    let (_, name) = group["detail"].as_str().expect("words").split_once(" in /")?;
    has_one.then(|| Path::new("/sys/fs/cgroup").join(name))
}

/// Where there is no group, the receipt says what holds instead, and nothing is shown that nobody knows.
fn assert_told(group: &Value, status: &Value) {
    let detail = group["detail"].as_str().expect("words");
    assert!(
        group["evidence"] == "missing" && detail.contains("the resource limits of each process"),
        "{group}"
    );
    assert!(status["programs"].is_null(), "{status}");
}

fn processes_in(group: &Path) -> Vec<ProcessRef> {
    let inside = fs::read_to_string(group.join("cgroup.procs")).expect("it is there");
    inside.lines().filter_map(|pid| ProcessRef::find(pid.parse().expect("a pid"))).collect()
}

/// Takes the limit of processes that each process has by itself from all in a group, so that only the group's is left.
fn lift_own_limits(group: &Path) {
    let inside = fs::read_to_string(group.join("cgroup.procs")).expect("it is there");
    for pid in inside.lines().filter_map(|pid| Pid::from_raw(pid.parse().expect("a pid"))) {
        match prlimit(Some(pid), Resource::Nproc, Rlimit { current: None, maximum: None }) {
            // It may have ended since.
            Ok(_) | Err(Errno::SRCH) => {}
            Err(errno) => panic!("the limit of {pid:?} cannot be lifted: {errno}"),
        }
    }
}

/// Asks again until it is so.
fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        std::thread::yield_now();
    }
}

#[expect(clippy::disallowed_methods, reason = "the controls run outside")]
fn command(program: &Path) -> Command {
    Command::new(program)
}

#[test]
fn a_program_that_forks_too_much_is_stopped_at_its_limit_and_all_of_it_ends_with_its_call() {
    let greedy = Greedy::new();
    let mut control = greedy.outside(&["processes", TOO_MANY]);
    let mut said = String::new();
    let mut stdout = BufReader::new(control.stdout.take().expect("a pipe"));
    stdout.read_line(&mut said).expect("it tells");
    control.kill().and_then(|()| control.wait()).expect("ended");
    stdout.read_to_end(&mut Vec::new()).expect("all its children have ended with it");
    assert_eq!(said, format!("made {TOO_MANY}\n"), "the control");

    let mut caller = greedy.rig.client();
    let input = greedy.input(&["processes", TOO_MANY]);
    let call = json!({ "agent_id": greedy.agent, "tool": "command_run", "input": input });
    let asked = caller.send("tool.invoke", call);
    let (told, group) = greedy.group();
    let mut client = greedy.rig.client();
    let stop = |client: &mut Client| client.call("agent.stop", json!({ "agent_id": greedy.agent }));
    let Some(group) = group else {
        assert_told(&told, &greedy.status(&mut client));
        stop(&mut client).expect("stopped");
        return;
    };
    assert!(told["detail"].as_str().is_some_and(|words| words.contains("pids.max 256 ")), "{told}");
    let used = wait_until("its last process", || {
        lift_own_limits(&group);
        let used = greedy.status(&mut client)["programs"][0].clone();
        let is_full = fs::read_to_string(group.join("pids.events")).is_ok_and(|told| told != "max 0\n");
        (is_full && !used.is_null()).then_some(used)
    });
    assert_eq!(
        (&used["bound"], &used["memory_limit_bytes"]),
        (&json!("cgroup"), &json!(4_u64 << 30)),
        "{used}"
    );
    assert!(used["memory_bytes"].as_u64() > Some(0) && used["processes"].as_u64() <= Some(256), "{used}");
    let shown = greedy.rig.daemon.cli(["status", greedy.agent.as_str()]).stdout;
    assert!(shown.contains("limit 4.0 GiB by a control group"), "{shown}");
    let all = processes_in(&group);
    assert!(all.len() > 200, "{} processes", all.len());
    stop(&mut client).expect("stopped");
    caller.reply_to(asked).expect_err("it was cut");
    assert!(!group.exists(), "its group is gone with its call");
    assert!(!all.iter().any(ProcessRef::is_alive), "and so is all of it");
    assert_intact(&mut client);
}

#[test]
fn programs_that_fill_memory_together_are_ended_and_the_call_names_their_limit() {
    let greedy = Greedy::new();
    let mut client = greedy.rig.client();
    let few = invoke(&mut client, &greedy.agent, "command_run", greedy.input(&["memory", EACH_MIB, FEW]));
    assert_eq!(few.expect("the control: there is room for one")["stdout"], "held\n");
    let (told, group) = greedy.group();
    let Some(group) = group else {
        return assert_told(&told, &greedy.status(&mut client));
    };
    assert!(!group.exists(), "it went with its call");
    // Its children have ended, too, once its output has.
    let free = greedy.outside(&["memory", EACH_MIB, TOO_MUCH]).wait_with_output().expect("it ends");
    assert!(free.status.success(), "the control: without the limit the machine has room for all, {free:?}");

    let before = testkit::descendants(greedy.rig.daemon.pid()).len();
    let input = greedy.input(&["memory", EACH_MIB, TOO_MUCH]);
    let failure = invoke(&mut client, &greedy.agent, "command_run", input).expect_err("too much");
    let named = "out of memory: limit 4096 MiB for the program and all that it started";
    assert!(failure.message.contains(named), "{failure:?}");
    let (_, last) = greedy.group();
    let last = last.expect("it had a group, too");
    assert!(last != group && !last.exists(), "{} is gone", last.display());
    assert_eq!(testkit::descendants(greedy.rig.daemon.pid()).len(), before, "nothing of it is left");
    assert!(greedy.status(&mut client)["programs"].is_null(), "nothing is shown that has ended");
    let again = invoke(&mut client, &greedy.agent, "command_run", greedy.input(&["memory", EACH_MIB, FEW]));
    assert_eq!(again.expect("the next call")["stdout"], "held\n");
    assert_intact(&mut client);
}

/// The next daemon uses groups of the same name, and begins as soon as it has the state.
#[test]
fn the_groups_of_a_daemon_are_gone_before_its_state_is_given_back() {
    let mut greedy = Greedy::new();
    let mut client = greedy.rig.client();
    let few = greedy.input(&["memory", FEW, FEW]);
    invoke(&mut client, &greedy.agent, "command_run", few).expect("it runs");
    let (_, group) = greedy.group();
    let tree = group.and_then(|group| group.parent().map(Path::to_owned));
    assert!(tree.as_ref().is_none_or(|tree| tree.is_dir()), "the control: it is there while the daemon runs");
    drop(client);
    let lock = File::open(greedy.rig.daemon.state_dir().join("state.lock")).expect("there");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect_err("the control: the daemon has it");
    greedy.rig.daemon.ask_to_stop();
    flock(&lock, FlockOperation::LockExclusive).expect("given back");
    assert!(!tree.is_some_and(|tree| tree.exists()), "its groups were gone by then");
    assert!(greedy.rig.daemon.wait_end().success());
}
