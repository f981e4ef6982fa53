//! What these tests share: agentd under another program, a goal whose tool call hangs, and processes seen from
//! outside.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{
    Client, DaemonBuilder, Finished, ModelServer, PATIENCE, Page, ProcessRef, Script, Turn, WebServer,
    descendants,
};

/// A tool of the machine, with its arguments.
#[expect(clippy::disallowed_methods, reason = "namespaces are made by the tools of util-linux")]
pub(crate) fn tool(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().expect("a tool has a name");
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    command
}

/// The same command, run by a tool: `TOOL PROGRAM ARGS…`.
pub(crate) fn wrapped(words: &[&str], inner: &Command) -> Command {
    let mut command = tool(words);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(inner.get_current_dir().expect("the testkit sets one"));
    command
}

/// Starts a command, or says which program is missing.
pub(crate) fn started(command: &mut Command) -> Child {
    let program = command.get_program().to_owned();
    command.spawn().unwrap_or_else(|error| panic!("cannot start {program:?} ({error}); is it installed?"))
}

/// `agentd serve` under a wrapper, ready; ended when dropped.
pub(crate) struct Wrapped {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Wrapped {
    pub(crate) fn serve(wrapper: &[&str], builder: &DaemonBuilder) -> Self {
        let mut command = wrapped(wrapper, &builder.command(["serve"]));
        let mut child = started(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let stderr = BufReader::new(child.stderr.take().expect("standard error is a pipe"));
        let mut served = Self { child, stderr, said: String::new() };
        while !served.said.contains("agentd ready") {
            let got = served.stderr.read_line(&mut served.said).expect("reads standard error");
            assert_ne!(got, 0, "it ended before it was ready: {}", served.said);
        }
        served
    }

    /// The process number of what was started: the wrapper, or what it replaced itself by.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("small")
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        if let Some(process) = ProcessRef::find(self.pid()) {
            process.wait_gone();
        }
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        // Both fail only when the child has been waited for already, which is what is wanted.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// The one child of a process.
pub(crate) fn only_child(parent: i32) -> ProcessRef {
    let parent_number = u32::try_from(parent).expect("positive");
    let mut children = descendants(parent_number);
    children.retain(|process| process.parent == parent);
    assert_eq!(children.len(), 1, "one child of {parent}: {children:?}");
    children.remove(0)
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process number"), signal).expect("signals it");
}

/// Waits, without a clock of its own, until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// The state letter of proc(5); `None` once the process was reaped.
pub(crate) fn state(process: &ProcessRef) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    let (_, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.to_owned();
    // The start time, which is the 20th after the name.
    let start: u64 = fields.nth(18)?.parse().ok()?;
    (start == process.start).then_some(state)
}

/// A page that never answers, and a model that has an agent fetch it: a call in flight for as long as wanted.
pub(crate) struct HangingCall {
    web: WebServer,
    models: ModelServer,
}

impl HangingCall {
    pub(crate) fn new() -> Self {
        let web = WebServer::start([("/slow", Page::Hang)]);
        let fetch = Turn::call("web_fetch", json!({ "url": web.url("/slow") }));
        let models = ModelServer::start(Script::in_order([fetch, Turn::say("never reached")]));
        Self { web, models }
    }

    /// Of a daemon that parks no worker, so that its processes can be counted.
    pub(crate) fn builder(&self) -> DaemonBuilder {
        DaemonBuilder::openai(&self.models).env("AAOS_PARKED_WORKERS", "0")
    }

    /// The goal, with `network` granted.
    pub(crate) fn arguments(&self) -> [String; 4] {
        ["run", "--network", &self.web.authority(), "Fetch it"].map(str::to_owned)
    }

    /// Blocks until the call is in flight.
    pub(crate) fn wait_under_way(&self) {
        assert_eq!(self.web.wait_for_requests(1).len(), 1);
    }

    /// Submits the goal over a connection that streams it, and waits until the call is in flight.
    pub(crate) fn begin(&self, socket: &Path, work: &Path) -> Client {
        let mut client = Client::connect(socket).expect("connects");
        let grants = [format!("network: {}", self.web.authority()), "tool: *".to_owned()];
        let manifest = "name: lead\nmodel: smart\nsystem_prompt: You are the lead.\n";
        let goal = json!({ "goal": "Fetch it", "outputs": [], "grants": grants, "manifest": manifest,
                           "working_directory": work });
        client.send("agent.submit_streaming", goal);
        self.wait_under_way();
        client
    }
}

/// What `audit --json` printed.
pub(crate) fn entries(told: &Finished) -> Vec<Value> {
    assert_eq!(told.code(), 0, "{told:?}");
    told.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// A named pipe: whoever opens it to read waits until [`release`].
pub(crate) fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("makes a named pipe");
}

/// Opens a named pipe that somebody waits on, and closes it: the reader sees its end.
pub(crate) fn release(path: &Path) {
    drop(std::fs::File::options().write(true).open(path).expect("opens the named pipe"));
}
