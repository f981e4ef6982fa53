//! agentd as process 1 of a PID namespace: orphans are reaped, signals are handed on, no key is left behind.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use testkit::{Backend, DaemonBuilder, Finished, ModelServer, ProcessRef, Script, Turn, descendants};

use crate::support::{
    HangingCall, Wrapped, entries, eventually, fifo, only_child, release, signal, started, state, tool,
    wrapped,
};

/// Puts a command at the head of a PID namespace of its own; what is in it ends with `unshare`.
fn namespace() -> Vec<&'static str> {
    let mut wrapper = vec!["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !rustix::process::geteuid().is_root() {
        wrapper.push("--map-root-user");
    }
    wrapper
}

/// Runs a command in the namespace that has this process 1.
fn entering(init: &str) -> Vec<&str> {
    let mut wrapper = vec!["nsenter", "--target", init, "--pid", "--mount", "--wd"];
    if !rustix::process::geteuid().is_root() {
        wrapper.extend(["--user", "--preserve-credentials"]);
    }
    wrapper
}

/// A daemon that is process 1.
struct Contained {
    unshare: Wrapped,
    /// Process 1 of the namespace.
    init: ProcessRef,
    /// The daemon below it.
    daemon: ProcessRef,
}

impl Contained {
    fn serve(builder: &DaemonBuilder) -> Self {
        let unshare = Wrapped::serve(&namespace(), builder);
        let init = only_child(unshare.pid());
        let daemon = only_child(init.pid);
        Self { unshare, init, daemon }
    }

    /// Runs `agentd ARGS…` inside: nobody outside the namespace may speak to the daemon.
    fn cli(&self, builder: &DaemonBuilder, line: &[&str]) -> Finished {
        let number = self.init.pid.to_string();
        let mut command = wrapped(&entering(&number), &builder.command(line));
        Finished::from(command.output().expect("nsenter is installed"))
    }

    fn family(&self) -> Vec<ProcessRef> {
        descendants(u32::try_from(self.unshare.pid()).expect("positive"))
    }
}

/// Leaves an orphan in the namespace of `init`, a `cat` that waits for `pipe`, and returns it.
fn orphan(init: &ProcessRef, pipe: &Path) -> ProcessRef {
    fifo(pipe);
    let (target, pipe) = (init.pid.to_string(), pipe.to_str().expect("UTF-8"));
    // The shell ends at once, and leaves what it started to whoever adopts it.
    let script = "cat \"$0\" & exit 0";
    let mut enter = tool(&["nsenter", "--target", &target, "--pid", "--mount", "sh", "-c", script, pipe]);
    let ended = started(&mut enter).wait().expect("nsenter ends");
    assert!(ended.success(), "{ended}");
    let number = u32::try_from(init.pid).expect("positive");
    let find = || descendants(number).into_iter().find(|one| one.name == "cat" && one.parent == init.pid);
    eventually("process 1 adopts it", || find().is_some());
    find().expect("it waits")
}

#[test]
fn orphans_are_reaped() {
    let builder = DaemonBuilder::new(Backend::Builtin);
    let contained = Contained::serve(&builder);
    for round in 0..3 {
        let pipe = builder.home().join(format!("pipe{round}"));
        let orphan = orphan(&contained.init, &pipe);
        release(&pipe);
        eventually("the orphan is reaped", || state(&orphan).is_none());
    }
    assert!(contained.daemon.is_alive() && contained.init.is_alive());
    let told = contained.cli(&builder, &["status"]);
    assert_eq!(told.code(), 0, "the daemon was not taken for one of them: {told:?}");
}

#[test]
fn another_process_1_leaves_zombies() {
    let home = testkit::scratch();
    let hold = home.path().join("hold");
    fifo(&hold);
    let mut words = namespace();
    words.extend(["cat", hold.to_str().expect("UTF-8")]);
    let mut unshare = started(&mut tool(&words));
    let number = i32::try_from(unshare.id()).expect("small");
    eventually("process 1 begins", || !descendants(unshare.id()).is_empty());
    let init = only_child(number);
    eventually("process 1 is what was asked for", || {
        ProcessRef::find(init.pid).is_some_and(|now| now.name == "cat")
    });
    let orphans = [0, 1].map(|round| {
        let pipe = home.path().join(format!("pipe{round}"));
        let orphan = orphan(&init, &pipe);
        release(&pipe);
        eventually("the orphan ends", || state(&orphan).as_deref() == Some("Z"));
        orphan
    });
    assert_eq!(orphans.map(|one| state(&one)), [Some("Z".to_owned()), Some("Z".to_owned())], "nobody reaps");
    release(&hold);
    assert!(unshare.wait().expect("ends").success());
}

#[test]
fn a_goal_runs_and_sigterm_ends_all_in_good_order() {
    let models = ModelServer::start(Script::in_order([
        Turn::call("echo", json!({ "message": "hello" })),
        Turn::say("done"),
    ]));
    for sent in [Signal::TERM, Signal::INT] {
        let builder = DaemonBuilder::openai(&models);
        let mut contained = Contained::serve(&builder);
        if sent == Signal::TERM {
            let ran = contained.cli(&builder, &["submit", "--wait", "Say hello"]);
            assert_eq!((ran.code(), ran.stdout.as_str()), (0, "done\n"), "{ran:?}");
        }
        let family = contained.family();
        assert!(family.len() >= 3, "process 1, the daemon, its zygote: {family:?}");
        signal(contained.init.pid, sent);
        assert_eq!(contained.unshare.wait_end().code(), Some(0), "the daemon's own exit code");
        family.iter().for_each(ProcessRef::wait_gone);
        assert!(!builder.home().join("agentd.sock").exists(), "the socket is removed");
        let ended = entries(&builder.cli(["audit", "--json", "--kind", "daemon_stopped"]));
        assert_eq!(ended.len(), 1, "in good order");
    }
}

#[test]
fn its_exit_code_is_that_of_what_it_started() {
    let models = ModelServer::start(Script::in_order([Turn::say("Hello")]));
    let builder = DaemonBuilder::openai(&models);
    let run = |line: &[&str]| {
        let mut command = wrapped(&namespace(), &builder.command(line));
        Finished::from(command.output().expect("unshare is installed"))
    };
    let told = run(&["run", "Say hello"]);
    assert_eq!((told.code(), told.stdout.as_str()), (0, "Hello\n"), "{told:?}");
    assert_eq!(run(&["serve", "--nonsense"]).code(), 2);
    for (sent, code) in [(Signal::KILL, 137), (Signal::HUP, 129)] {
        let mut contained = Contained::serve(&builder);
        let family = contained.family();
        // What is handed on reaches the daemon, which has no other use for SIGHUP than to end by it.
        let target = if sent == Signal::HUP { &contained.init } else { &contained.daemon };
        signal(target.pid, sent);
        assert_eq!(contained.unshare.wait_end().code(), Some(code));
        family.iter().for_each(ProcessRef::wait_gone);
    }
}

#[test]
fn ctrl_c_at_its_terminal_is_heard_once() {
    let call = HangingCall::new();
    let builder = call.builder();
    let (mut person, terminal) = terminal();
    let mut words = vec!["setsid", "--ctty", "--wait"];
    words.extend(namespace());
    let mut command = wrapped(&words, &builder.command(call.arguments()));
    let mut child = started(command.stdin(terminal).stdout(Stdio::null()).stderr(Stdio::piped()));
    call.wait_under_way();
    let init = only_child(i32::try_from(child.id()).expect("small"));
    let run = only_child(init.pid);
    let zygote = only_child(run.pid);
    // Process 1 moves only when the run has heard its own, and the goal's end is not reported until then.
    signal(init.pid, Signal::STOP);
    signal(zygote.pid, Signal::STOP);
    // The terminal signals its whole foreground: process 1, and what it started.
    person.write_all(b"\x03").expect("types Ctrl-C");
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    while !said.contains("cancelling the goal") {
        assert_ne!(stderr.read_line(&mut said).expect("reads"), 0, "it ended: {said}");
    }
    signal(init.pid, Signal::CONT);
    eventually("process 1 has done what it does", || state(&init).as_deref() == Some("S"));
    signal(zygote.pid, Signal::CONT);
    stderr.read_to_string(&mut said).expect("reads standard error");
    assert_eq!(child.wait().expect("ends").code(), Some(130), "{said}");
    assert!(said.contains("goal cancelled"), "it did not leave at once, as after a second one: {said}");
}

/// A new terminal: a person's end, and the end of whatever runs at it.
fn terminal() -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let person = openpt(flags).expect("a terminal");
    grantpt(&person).expect("grants");
    unlockpt(&person).expect("unlocks");
    let name = ptsname(&person, Vec::new()).expect("a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("opens");
    (File::from(person), terminal)
}

#[test]
fn no_key_stays_with_process_1() {
    let models = ModelServer::start(Script::in_order([Turn::say("Hello")]));
    let builder = DaemonBuilder::openai(&models);
    let contained = Contained::serve(&builder);
    let environment = |pid: i32| std::fs::read(format!("/proc/{pid}/environ")).expect("reads");
    let has_key = |pid| {
        let key = DaemonBuilder::key().as_bytes();
        environment(pid).windows(key.len()).any(|part| part == key)
    };
    assert!(has_key(contained.unshare.pid()), "it was given in the environment");
    for process in contained.family() {
        assert!(!has_key(process.pid), "{process:?}");
        let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).expect("lists");
        let open = open.filter_map(|one| std::fs::read_link(one.expect("lists").path()).ok());
        let left: Vec<_> = open.filter(|to| to.to_string_lossy().contains("aaos-keys")).collect();
        assert!(left.is_empty(), "{process:?}: {left:?}");
    }
    let ran = contained.cli(&builder, &["submit", "--wait", "Say hello"]);
    assert_eq!(ran.code(), 0, "it arrived where it is needed: {ran:?}");
    let sent = models.requests();
    assert_eq!(sent.len(), 1);
}
