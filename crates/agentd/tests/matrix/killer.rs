//! Stops the daemon with SIGKILL at a chosen point.
//!
//! Invariant: the point is counted from when the daemon was ready, so that the same number means about the same moment
//! in every run.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde_json::json;
use std::fmt;
use std::io::BufRead;
use std::path::Path;
use std::process::Child;
use std::str::FromStr;
use std::thread::JoinHandle;
use testkit::{Client, Daemon, ProcessRef, descendants, inject_into_writer, trace_writer};

/// Where the daemon is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    /// Once the entry with this number is on the disk.
    Entry(u64),
    /// Where the writer waits for the disk for this time: what it wrote is there and nobody was told.
    Sync(u64),
    /// Before the writer's write of this number: what was done is not recorded, or half of it is.
    Write(u64),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(k) => write!(f, "entry:{k}"),
            Self::Sync(k) => write!(f, "sync:{k}"),
            Self::Write(k) => write!(f, "write:{k}"),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let wrong = || format!("{words:?} is no point; write entry:N, sync:N or write:N");
        let (kind, k) = words.split_once(':').ok_or_else(wrong)?;
        let k = k.parse().map_err(|_| wrong())?;
        match kind {
            "entry" => Ok(Self::Entry(k)),
            "sync" => Ok(Self::Sync(k)),
            "write" => Ok(Self::Write(k)),
            _ => Err(wrong()),
        }
    }
}

/// What waits to stop the daemon.
pub(crate) enum Killer {
    Watch(JoinHandle<Vec<ProcessRef>>),
    Trace(Child),
}

impl Killer {
    /// Lies in wait.
    pub(crate) fn arm(daemon: &Daemon, point: Point) -> Self {
        let (pid, socket) = (daemon.pid(), daemon.socket());
        match point {
            Point::Entry(k) => {
                let daemon = pidfd_open(process(pid), PidfdFlags::empty()).expect("it runs");
                Self::Watch(std::thread::spawn(move || watch(pid, &daemon, &socket, k)))
            }
            Point::Sync(k) => {
                Self::Trace(inject_into_writer(pid, "fsync", &format!("fsync:signal=KILL:when={k}")))
            }
            Point::Write(k) => {
                Self::Trace(inject_into_writer(pid, "pwrite64", &format!("pwrite64:signal=KILL:when={k}")))
            }
        }
    }

    /// Once the daemon is gone: waits until all that it started is gone too.
    pub(crate) fn finish(self) {
        match self {
            Self::Watch(watcher) => {
                watcher.join().expect("it watches").iter().for_each(ProcessRef::wait_gone)
            }
            Self::Trace(tracer) => finish_tracer(tracer),
        }
    }
}

fn process(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("small")).expect("a process number")
}

/// Kills the daemon when entry `k` is shown; gives what it had started.
///
/// The journal may end before that entry, and the test may end the daemon at any moment: all done is no failure here.
fn watch(pid: u32, daemon: &OwnedFd, socket: &Path, k: u64) -> Vec<ProcessRef> {
    let Ok(mut client) = Client::connect(socket) else { return Vec::new() };
    let follow =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "audit.stream", "params": { "after_seq": k - 1 } });
    if client.send_line(&follow.to_string()).is_err() || client.notification().is_err() {
        return Vec::new();
    }
    if !is_there_for(daemon, Signal::STOP) {
        return Vec::new();
    }
    let family = descendants(pid);
    is_there_for(daemon, Signal::KILL);
    family
}

/// Sends a signal; whether the daemon was still there for it.
fn is_there_for(daemon: &OwnedFd, signal: Signal) -> bool {
    match pidfd_send_signal(daemon, signal) {
        Ok(()) => true,
        Err(Errno::SRCH) => false,
        Err(error) => panic!("the daemon cannot be sent {signal:?}: {error}"),
    }
}

/// How often the writer makes each call meanwhile: waits for the disk, and writes.
pub(crate) fn count_calls(daemon: &Daemon, meanwhile: impl FnOnce()) -> (u64, u64) {
    let (tracer, said) = trace_writer(daemon.pid(), "fsync,pwrite64", None);
    let counting = std::thread::spawn(move || {
        let lines: Vec<String> = said.lines().map_while(Result::ok).collect();
        let made = |call: &str| lines.iter().filter(|line| line.starts_with(call)).count() as u64;
        (made("fsync("), made("pwrite64("))
    });
    meanwhile();
    // Asked to end, it lets go of the thread.
    kill_process(process(tracer.id()), Signal::TERM).expect("it traces");
    finish_tracer(tracer);
    counting.join().expect("it counts")
}

fn finish_tracer(mut tracer: Child) {
    tracer.wait().expect("a child can be waited for");
}
