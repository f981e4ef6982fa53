//! Processes below `strace`, which counts their calls, makes them fail, or kills them inside one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

/// The thread that writes the journal.
const WRITER: &str = "journal-writer";

/// Attaches to the thread of process `pid` that writes its journal: traces `calls` and does to them what `inject` says,
/// both in the words of strace(1). Gives the tracer and what it says.
///
/// # Panics
/// When there is no such thread, or strace is not installed or may not trace it.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "strace reaches into the daemon's system calls, which nothing else does"
)]
pub fn trace_writer(pid: u32, calls: &str, inject: Option<&str>) -> (Child, BufReader<ChildStderr>) {
    let mut command = Command::new("strace");
    command.args(["-p", &writer_thread(pid), "-e", &format!("trace={calls}")]);
    if let Some(inject) = inject {
        command.args(["-e", &format!("inject={inject}")]);
    }
    attached(command)
}

/// Attaches to process `pid` and to every child that it makes from here on. What they call stands in `file`, one call
/// in a line behind the number of its process, once all have ended.
///
/// # Panics
/// When strace is not installed or may not trace it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "strace sees every system call, which nothing else does")]
pub fn trace_with_children(pid: u32, file: &Path) -> Child {
    let mut command = Command::new("strace");
    command.args(["-f", "-p", &pid.to_string(), "-o"]).arg(file);
    let (child, mut said) = attached(command);
    // It goes on to write there; somebody has to read.
    std::thread::spawn(move || drop(std::io::copy(&mut said, &mut std::io::sink())));
    child
}

/// Starts it and waits until it says that it is attached.
fn attached(mut command: Command) -> (Child, BufReader<ChildStderr>) {
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("strace is installed");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("reads");
    assert!(line.contains("attached"), "strace says {line}");
    (child, said)
}

/// The same, where nobody reads what the tracer says.
///
/// # Panics
/// As [`trace_writer`].
#[must_use]
pub fn inject_into_writer(pid: u32, calls: &str, inject: &str) -> Child {
    let (child, mut said) = trace_writer(pid, calls, Some(inject));
    // It goes on to write there; somebody has to read.
    std::thread::spawn(move || drop(std::io::copy(&mut said, &mut std::io::sink())));
    child
}

/// The number of the thread that writes the journal.
fn writer_thread(pid: u32) -> String {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let listing = std::fs::read_dir(tasks).expect("a live process");
    let mut threads = listing.map(|entry| entry.expect("reads").path());
    let is_writer = |thread: &PathBuf| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == WRITER)
    };
    let found = threads.find(is_writer).expect("a thread writes the journal");
    found.file_name().expect("a number").to_str().expect("digits").to_owned()
}
