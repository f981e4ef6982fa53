//! The processes that are measured: agentd, the null server, a static program; and what they take of memory.
//!
//! Invariants: nothing that was started here outlives its value; a daemon gets an empty environment and a state
//! directory of its own on a real disk.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tempfile::TempDir;

use crate::wire::{Client, Line};

/// How long a process may take to serve its socket.
const START_TIME: Duration = Duration::from_secs(20);
/// How often a socket that is not there yet is tried.
const TRY_EVERY: Duration = Duration::from_micros(100);

/// A program, with nothing of our environment.
#[expect(
    clippy::disallowed_methods,
    reason = "measuring processes means starting them; no part of the runtime"
)]
pub(crate) fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null());
    command
}

/// Waits where there is no event to wait for.
#[expect(clippy::disallowed_methods, reason = "polling a socket that a stranger binds; a bench, not a test")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The folder that cargo built the binaries into.
pub(crate) fn built() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("find this program")?;
    let folder = exe.parent().and_then(Path::parent).context("this program lies in no profile's folder")?;
    Ok(folder.to_owned())
}

/// A process that ends with this value.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the socket until there is an answer.
    fn first_answer(&mut self, socket: &Path, request: &Line) -> Result<Client> {
        let begun = Instant::now();
        loop {
            if let Ok(mut client) = Client::connect(socket) {
                client.ask(request)?;
                return Ok(client);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended before it answered: {status}");
            }
            if begun.elapsed() > START_TIME {
                bail!("nobody listens at {} after {START_TIME:?}", socket.display());
            }
            pause(TRY_EVERY);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// Where a daemon keeps its state, which survives restarts.
pub(crate) struct Home {
    folder: TempDir,
    /// Apart, because no grant reaches the directory of the socket.
    sockets: TempDir,
}

impl Home {
    pub(crate) fn new() -> Result<Self> {
        // Beside the build: a temporary directory may lie in memory, where a sync costs nothing.
        Self::below(&built()?)
    }

    /// In memory, where a sync costs nothing; none where there is no such place.
    pub(crate) fn in_memory() -> Option<Self> {
        Self::below(Path::new("/dev/shm")).ok()
    }

    fn below(place: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("aaos-bench-").tempdir_in(place)?;
        let sockets = tempfile::Builder::new().prefix("aaos-bench-").tempdir()?;
        std::fs::create_dir(folder.path().join("work"))?;
        Ok(Self { folder, sockets })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where granted files lie.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.sockets.path().join("agentd.sock")
    }

    /// Starts agentd here; returns it, the connection that it answered first, and the time that took.
    pub(crate) fn start(&self, first: &Line) -> Result<(Running, Client, Duration)> {
        self.start_on(&[("AAOS_PROVIDER", "builtin")], first)
    }

    /// The same with other models.
    pub(crate) fn start_on(
        &self,
        models: &[(&str, &str)],
        first: &Line,
    ) -> Result<(Running, Client, Duration)> {
        let log = self.folder.path().join("stderr.log");
        let mut command = program(&built()?.join("agentd"));
        command
            .arg("serve")
            .current_dir(self.work())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?);
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.folder.path());
        command.env("AAOS_STATE_DIR", self.folder.path().join("state")).env("AAOS_SOCKET", self.socket());
        command.envs(models.iter().copied());
        if self.socket().exists() {
            std::fs::remove_file(self.socket())?;
        }
        let begun = Instant::now();
        let mut running = Running::start(command)?;
        match running.first_answer(&self.socket(), first) {
            Ok(client) => Ok((running, client, begun.elapsed())),
            Err(error) => {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                Err(error.context(format!("agentd did not start; it said: {said}")))
            }
        }
    }
}

/// The null server in its own process.
pub(crate) fn start_null_server(socket: &Path) -> Result<(Running, Client)> {
    let mut command = program(&std::env::current_exe()?);
    command.arg(crate::NULL_SERVER).arg(socket);
    let mut running = Running::start(command)?;
    let client = running.first_answer(socket, &Line::new("runtime.status", &serde_json::json!({})))?;
    Ok((running, client))
}

/// The program that plain `posix_spawn` is measured with.
pub(crate) struct Plain {
    path: PathBuf,
    pub(crate) what: &'static str,
}

impl Plain {
    /// A static program that ends at once; `/bin/true` where no C compiler makes one.
    pub(crate) fn prepare(folder: &Path) -> Result<Self> {
        let (source, path) = (folder.join("plain.c"), folder.join("plain"));
        std::fs::write(&source, "int main(void) { return 0; }\n")?;
        let mut cc = program(Path::new("/usr/bin/cc"));
        cc.args(["-O2", "-static", "-o"]).arg(&path).arg(&source).env("PATH", "/usr/bin:/bin");
        let made =
            cc.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        Ok(if made {
            Self { path, what: "a static C program" }
        } else {
            Self {
                path: PathBuf::from("/bin/true"),
                what: "the dynamic /bin/true, for want of a static libc",
            }
        })
    }

    /// From the call to its end. The standard library uses `posix_spawn` for a command as plain as this.
    pub(crate) fn spawn(&self) -> Result<Duration> {
        let mut command = program(&self.path);
        let begun = Instant::now();
        let status = command.status().with_context(|| format!("start {}", self.path.display()))?;
        let took = begun.elapsed();
        if status.success() { Ok(took) } else { bail!("{} ended with {status}", self.path.display()) }
    }
}

/// Memory of a process, KiB.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Resident, shared pages included.
    pub(crate) rss: u64,
    /// Resident, shared pages split among those who share them.
    pub(crate) pss: u64,
    /// Pages that are its own.
    pub(crate) private: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let value = |name: &str| -> u64 {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum()
        };
        Ok(Self {
            rss: value("Rss"),
            pss: value("Pss"),
            private: value("Private_Clean") + value("Private_Dirty"),
        })
    }
}

/// The children of a process, oldest first.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let listed = std::fs::read_to_string(task?.path().join("children"))?;
        found.extend(listed.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}
