//! The real `agentd`, started with a state directory, socket and configuration of its own, and driven from outside.
//!
//! Invariants: its environment holds what the test gave and nothing of the caller's keys; it is ready when its
//! standard error says so on a line with the word `ready` (`agentd ready socket=PATH`), and not before; it does not outlive the value.

use crate::process::ended_within;
use crate::{Client, ModelServer, PATIENCE, ProcessRef, SCRIPTED_MODEL, binaries, descendants, scratch};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;

/// Which models the daemon is configured with.
#[derive(Debug, Clone)]
pub enum Backend {
    /// The OpenAI wire at this base URL.
    OpenAi {
        /// With `/v1`.
        base_url: String,
    },
    /// The Anthropic wire at this base URL.
    Anthropic {
        /// Without `/v1`.
        base_url: String,
    },
    /// The embedded planner.
    Builtin,
}

/// The key that test daemons are given; a test can search for it where it must not be.
const TEST_KEY: &str = "sk-testkit-0123456789abcdef";

/// How a daemon is to be started.
#[derive(Debug)]
pub struct DaemonBuilder {
    backend: Backend,
    environment: Vec<(OsString, OsString)>,
    home: Arc<TempDir>,
}

impl DaemonBuilder {
    /// A daemon on a scratch directory of its own.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        Self { backend, environment: Vec::new(), home: Arc::new(scratch()) }
    }

    /// The scripted model over the OpenAI wire.
    #[must_use]
    pub fn openai(models: &ModelServer) -> Self {
        Self::new(Backend::OpenAi { base_url: models.openai_url() })
    }

    /// The scripted model over the Anthropic wire.
    #[must_use]
    pub fn anthropic(models: &ModelServer) -> Self {
        Self::new(Backend::Anthropic { base_url: models.anthropic_url() })
    }

    /// Sets a variable of the daemon's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The scratch directory, which survives restarts: `state/` and the socket lie in it, and `work/` is the working
    /// directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The key in the daemon's environment, for tests that look where it leaked.
    #[must_use]
    pub fn key() -> &'static str {
        TEST_KEY
    }

    /// Starts `agentd serve` and waits until it is ready.
    ///
    /// # Panics
    /// When it ends, or says nothing of `ready` on standard error before [`PATIENCE`] is over.
    #[must_use]
    pub fn start(self) -> Daemon {
        let mut daemon = self.begin();
        daemon.await_ready();
        daemon
    }

    /// Starts `agentd serve` and does not wait until it is ready.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn begin(self) -> Daemon {
        Daemon::launch(self)
    }

    /// Runs `agentd ARGS…` in the same environment to its end, without a daemon being started first.
    ///
    /// # Panics
    /// When the binary cannot be started.
    #[must_use]
    pub fn cli<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        Finished::from(self.command(args).output().expect("runs agentd"))
    }

    /// `agentd ARGS…` in this environment, for a test that wants to start it by itself.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the testkit is the tests' owner of starting processes")]
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let home = self.home.path();
        let work = home.join("work");
        std::fs::create_dir_all(&work).expect("makes the working directory");
        let mut command = Command::new(binaries().agentd);
        command.args(args).current_dir(work).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/bin:/bin").env("HOME", home).env("XDG_CONFIG_HOME", home.join("config"));
        command.env("AAOS_STATE_DIR", home.join("state")).env("AAOS_SOCKET", self.socket());
        let (provider, url, key) = match &self.backend {
            Backend::OpenAi { base_url } => ("openai", Some(("OPENAI_BASE_URL", base_url)), "OPENAI_API_KEY"),
            Backend::Anthropic { base_url } => {
                ("anthropic", Some(("ANTHROPIC_BASE_URL", base_url)), "ANTHROPIC_API_KEY")
            }
            Backend::Builtin => ("builtin", None, ""),
        };
        command.env("AAOS_PROVIDER", provider);
        if let Some((name, url)) = url {
            command.env(name, url).env(key, TEST_KEY).env("AAOS_MODEL", SCRIPTED_MODEL);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("agentd.sock")
    }
}

/// A command line that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// The exit code.
    ///
    /// # Panics
    /// When a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A running `agentd serve`.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    handle: rustix::fd::OwnedFd,
    builder: DaemonBuilder,
    stderr: Arc<Mutex<String>>,
    /// Behind a lock, so that threads of a test can share the daemon.
    ready: Mutex<Receiver<()>>,
    was_ready: bool,
}

impl Daemon {
    fn launch(builder: DaemonBuilder) -> Self {
        let audit = std::fs::File::options()
            .create(true)
            .append(true)
            .open(builder.home().join("stdout.log"))
            .expect("opens the file for standard output");
        let mut command = builder.command(["serve"]);
        let mut child = command.stdout(audit).stderr(Stdio::piped()).spawn().expect("starts agentd serve");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a number");
        let handle =
            pidfd_open(pid, PidfdFlags::empty()).expect("a child that was not waited for has a pidfd");
        let stderr = Arc::new(Mutex::new(String::new()));
        let ready =
            follow_stderr(child.stderr.take().expect("standard error is a pipe"), Arc::clone(&stderr));
        Self { child, handle, builder, stderr, ready: Mutex::new(ready), was_ready: false }
    }

    fn await_ready(&mut self) {
        match self.announcement().recv_timeout(PATIENCE) {
            Ok(()) => self.was_ready = true,
            Err(RecvTimeoutError::Timeout) => {
                panic!("agentd is not ready after {PATIENCE:?}: {}", self.stderr())
            }
            Err(RecvTimeoutError::Disconnected) => {
                panic!("agentd ended before it was ready: {}", self.stderr())
            }
        }
    }

    fn announcement(&mut self) -> &Receiver<()> {
        self.ready.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has said that it is ready.
    pub fn is_ready(&mut self) -> bool {
        self.was_ready |= self.announcement().try_recv().is_ok();
        self.was_ready
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.builder.socket()
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.builder.home().join("state")
    }

    /// The working directory of the daemon and of [`Self::cli`].
    #[must_use]
    pub fn work_dir(&self) -> PathBuf {
        self.builder.home().join("work")
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has said on standard output: audit lines, where they are on.
    ///
    /// # Panics
    /// When the file is gone.
    #[must_use]
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.builder.home().join("stdout.log")).expect("reads the daemon's output")
    }

    /// A new connection.
    ///
    /// # Panics
    /// When the daemon does not take it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
            .unwrap_or_else(|trouble| panic!("connect to agentd: {trouble}; it said: {}", self.stderr()))
    }

    /// Runs `agentd ARGS…` against this daemon to its end.
    #[must_use]
    pub fn cli<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        self.builder.cli(args)
    }

    /// Everything it has started that is alive now.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessRef> {
        descendants(self.pid())
    }

    /// Ends it as a power cut would, and waits until it and all it started are gone.
    ///
    /// # Panics
    /// When something of it survives for [`PATIENCE`].
    #[must_use = "the builder starts it again on the same state"]
    pub fn kill9(mut self) -> DaemonBuilder {
        let started = self.processes();
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
        started.iter().for_each(ProcessRef::wait_gone);
        self.again()
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    /// When it does not end before [`PATIENCE`] is over.
    #[must_use = "how it ended is the result"]
    pub fn terminate(mut self) -> (ExitStatus, DaemonBuilder) {
        self.ask_to_stop();
        let status = self.wait_end();
        (status, self.again())
    }

    /// Asks it to stop (SIGTERM) and does not wait.
    ///
    /// # Panics
    /// When it has ended already and was waited for.
    pub fn ask_to_stop(&self) {
        rustix::process::pidfd_send_signal(&self.handle, rustix::process::Signal::TERM)
            .expect("signals the child");
    }

    /// Ends it with SIGKILL and does not wait; nothing happens where it has ended already.
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end before [`PATIENCE`] is over.
    pub fn wait_end(&mut self) -> ExitStatus {
        assert!(ended_within(&self.handle, PATIENCE), "agentd did not end; it said: {}", self.stderr());
        self.child.wait().expect("a child can be waited for")
    }

    /// The same configuration on the same state, to be started again.
    #[must_use]
    pub fn again(&self) -> DaemonBuilder {
        DaemonBuilder {
            backend: self.builder.backend.clone(),
            environment: self.builder.environment.clone(),
            home: Arc::clone(&self.builder.home),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when the child has been waited for already, which is what is wanted.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// Collects standard error on a thread, and reports once when a line says that the daemon is ready.
fn follow_stderr(pipe: ChildStderr, collected: Arc<Mutex<String>>) -> Receiver<()> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut waiting: Option<Sender<()>> = Some(sender);
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let is_ready = says_ready(&line);
            {
                let mut all = collected.lock().unwrap_or_else(PoisonError::into_inner);
                all.push_str(&line);
                all.push('\n');
            }
            let announce = waiting.take_if(|_| is_ready);
            if announce.is_some_and(|sender| sender.send(()).is_err()) {
                // Nobody waits any more: the start was given up.
                return;
            }
        }
    });
    receiver
}

/// Whether a line holds the word `ready`; `already` is none.
fn says_ready(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the testkit is the tests' owner of starting processes")]
    fn follow(script: &str) -> (Child, Receiver<()>, Arc<Mutex<String>>) {
        let mut child = Command::new("sh").args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap();
        let collected = Arc::new(Mutex::new(String::new()));
        let ready = follow_stderr(child.stderr.take().unwrap(), Arc::clone(&collected));
        (child, ready, collected)
    }

    #[test]
    fn readiness_is_a_line_and_not_a_part_of_a_word() {
        let (mut child, ready, said) =
            follow("echo state directory already there >&2; echo agentd ready socket=/x >&2");
        assert_eq!(ready.recv_timeout(PATIENCE), Ok(()));
        assert!(said.lock().unwrap().ends_with("agentd ready socket=/x\n"));
        child.wait().unwrap();
    }

    #[test]
    fn an_end_before_readiness_is_noticed() {
        let (mut child, ready, _) = follow("echo already >&2; exit 3");
        assert_eq!(ready.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
        child.wait().unwrap();
    }
}
