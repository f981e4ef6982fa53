//! Ends of the daemon: in good order, at once, and by `kill -9`; each time nothing is left running.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::Signal;
use testkit::{Backend, Client, Daemon, DaemonBuilder, ProcessRef, descendants};

use crate::support::{HangingCall, Wrapped, entries, eventually, fifo, only_child, release, signal, started};

/// Zygote, both gateways, and the worker of the one agent.
const FAMILY: usize = 4;

fn number(daemon: &Daemon) -> i32 {
    i32::try_from(daemon.pid()).expect("small")
}

/// Everything of a process that must end with it, the daemon's zygote first.
fn family(daemon: i32) -> Vec<ProcessRef> {
    let zygote = only_child(daemon);
    let mut family = descendants(u32::try_from(daemon).expect("positive"));
    family.sort_by_key(|process| process.pid != zygote.pid);
    assert_eq!(family.len(), FAMILY, "{family:?}");
    family
}

/// What an end that was waited for leaves: no socket, no process, a chain that says so.
fn assert_ends(mut daemon: Daemon, family: &[ProcessRef], code: i32) {
    assert_eq!(daemon.wait_end().code(), Some(code), "{}", daemon.stderr());
    assert!(!daemon.socket().exists(), "the socket is removed");
    family.iter().for_each(ProcessRef::wait_gone);
    assert_eq!(entries(&daemon.cli(["audit", "--json", "--kind", "daemon_stopped"])).len(), 1);
    assert_eq!(daemon.cli(["audit", "--verify"]).code(), 0);
}

#[test]
fn a_first_signal_ends_it_in_good_order() {
    for sent in [Signal::TERM, Signal::INT] {
        let daemon = DaemonBuilder::new(Backend::Builtin).start();
        let family = daemon.processes();
        assert!(!family.is_empty(), "the zygote at least");
        signal(number(&daemon), sent);
        assert_ends(daemon, &family, 0);
    }
}

#[test]
fn a_tool_call_that_hangs_holds_the_end_only_for_a_while_and_the_exit_code_tells() {
    let call = HangingCall::new();
    let daemon = call.builder().start();
    let stream = call.begin(&daemon.socket(), &daemon.work_dir());
    let family = family(number(&daemon));
    signal(number(&daemon), Signal::TERM);
    assert_ends(daemon, &family, 1);
    drop(stream);
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let call = HangingCall::new();
    let mut daemon = call.builder().start();
    let stream = call.begin(&daemon.socket(), &daemon.work_dir());
    let family = family(number(&daemon));
    // A zygote that does not move holds the end in good order back: nobody's end is reported.
    signal(family[0].pid, Signal::STOP);
    signal(number(&daemon), Signal::TERM);
    eventually("takes no more connections", || Client::connect(&daemon.socket()).is_err());
    signal(number(&daemon), Signal::TERM);
    assert_eq!(daemon.wait_end().code(), Some(130), "not in good order: {}", daemon.stderr());
    assert!(!daemon.socket().exists(), "the socket is removed");
    family.iter().for_each(ProcessRef::wait_gone);
    assert_eq!(entries(&daemon.cli(["audit", "--json", "--kind", "daemon_stopped"])).len(), 0, "at once");
    assert_eq!(daemon.cli(["audit", "--verify"]).code(), 0, "and nothing is broken");
    drop(stream);
}

#[test]
fn sigterm_ends_a_start_that_takes_long_at_once_when_it_comes_twice() {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let (status, builder) = builder.start().terminate();
    assert!(status.success());
    // SQLite waits for whoever has locked the file, for seconds.
    let journal = std::fs::File::options().write(true).open(builder.home().join("state/journal.db"));
    let journal = journal.expect("opens the journal");
    fcntl_lock(&journal, FlockOperation::NonBlockingLockExclusive).expect("locks the journal");
    let mut child = started(builder.command(["serve"]).stderr(Stdio::null()));
    let pid = i32::try_from(child.id()).expect("small");
    let process = ProcessRef::find(pid).expect("it starts");
    eventually("it listens", || builder.home().join("agentd.sock").exists());
    eventually("it takes signals", || takes_sigterm(pid));
    // Two that come together are one.
    eventually("it ends", || {
        signal(pid, Signal::TERM);
        !process.is_alive()
    });
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert!(!builder.home().join("agentd.sock").exists(), "the socket is removed");
    drop(journal);
    drop(builder.start());
}

/// Whether a process has a handler for SIGTERM.
fn takes_sigterm(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line of proc(5)");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
    caught & (1 << (Signal::TERM.as_raw() - 1)) != 0
}

/// A run with a daemon of its own, whose tool call hangs.
struct Run {
    child: std::process::Child,
    stderr: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Run {
    fn begin(call: &HangingCall, builder: &testkit::DaemonBuilder) -> Self {
        let mut command = builder.command(call.arguments());
        let mut child = started(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        call.wait_under_way();
        Self { child, stderr, said: String::new() }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("small")
    }

    fn read_until(&mut self, words: &str) {
        while !self.said.contains(words) {
            let got = self.stderr.read_line(&mut self.said).expect("reads standard error");
            assert_ne!(got, 0, "it never said {words:?}: {}", self.said);
        }
    }

    /// Waits for its end; its exit code and all it said.
    fn end(mut self) -> (Option<i32>, String) {
        self.stderr.read_to_string(&mut self.said).expect("reads standard error");
        (self.child.wait().expect("ends").code(), self.said)
    }
}

#[test]
fn a_run_and_its_private_daemon_end_on_sigterm_as_on_ctrl_c() {
    for sent in [Signal::TERM, Signal::INT] {
        let call = HangingCall::new();
        let builder = call.builder();
        let run = Run::begin(&call, &builder);
        let family = family(run.pid());
        signal(run.pid(), sent);
        let (code, said) = run.end();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains("goal cancelled"), "{said}");
        assert!(!builder.home().join("agentd.sock").exists(), "the socket is removed");
        family.iter().for_each(ProcessRef::wait_gone);
        assert_eq!(entries(&builder.cli(["audit", "--json", "--kind", "daemon_stopped"])).len(), 1);
    }
}

#[test]
fn a_second_sigterm_leaves_a_run_at_once() {
    let call = HangingCall::new();
    let builder = call.builder();
    let mut run = Run::begin(&call, &builder);
    let family = family(run.pid());
    signal(family[0].pid, Signal::STOP);
    signal(run.pid(), Signal::TERM);
    run.read_until("cancelling the goal");
    signal(run.pid(), Signal::TERM);
    let (code, said) = run.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(!said.contains("goal cancelled"), "its end was not waited for: {said}");
    family.iter().for_each(ProcessRef::wait_gone);
    assert_eq!(entries(&builder.cli(["audit", "--json", "--kind", "daemon_stopped"])).len(), 0, "{said}");
}

#[test]
fn kill_9_of_the_daemon_ends_its_processes_and_nobody_elses() {
    let call = HangingCall::new();
    let builder = call.builder();
    let pipe = builder.home().join("pipe");
    fifo(&pipe);
    // The shell starts a plain child, then becomes agentd: a child of the same process that is not its own.
    let script = "cat \"$0\" & exec \"$@\"";
    let mut daemon = Wrapped::serve(&["sh", "-c", script, pipe.to_str().expect("UTF-8")], &builder);
    let stream = call.begin(&builder.home().join("agentd.sock"), &builder.home().join("work"));
    let mut family = descendants(u32::try_from(daemon.pid()).expect("positive"));
    let plain = family.iter().position(|process| process.name == "cat").expect("the plain child");
    let plain = family.remove(plain);
    assert_eq!((family.len(), plain.parent), (FAMILY, daemon.pid()), "{family:?}");
    signal(daemon.pid(), Signal::KILL);
    assert_eq!(daemon.wait_end().code(), None, "killed");
    family.iter().for_each(ProcessRef::wait_gone);
    assert!(plain.is_alive(), "a child that is not tied to its parent goes on: what ended was made to");
    release(&pipe);
    plain.wait_gone();
    drop(stream);
}
