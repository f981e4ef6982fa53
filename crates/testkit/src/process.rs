//! Processes of a run, seen from outside: who descends from whom, and who is gone.
//!
//! Invariant: a process is named by number and start time, so a reused number is never mistaken for an old process.

use crate::PATIENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::time::Duration;

/// One process that was seen alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRef {
    /// Process number.
    pub pid: i32,
    /// Parent at the time it was seen.
    pub parent: i32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// The kernel's short name.
    pub name: String,
}

impl ProcessRef {
    /// The process with this number, if it exists and is no zombie.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): the name stands in parentheses and may hold any character, so count from the last one.
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        const STATE: usize = 0;
        const PARENT: usize = 1;
        const START: usize = 19;
        if matches!(*fields.get(STATE)?, "Z" | "X") {
            return None;
        }
        Some(Self {
            pid,
            parent: fields.get(PARENT)?.parse().ok()?,
            start: fields.get(START)?.parse().ok()?,
            name,
        })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// Blocks until it has ended.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub fn wait_gone(&self) {
        let handle = Pid::from_raw(self.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Opened before the check: if the number is reused after it, the handle is still that of the old process.
        let (Some(handle), true) = (handle, self.is_alive()) else { return };
        assert!(ended_within(&handle, PATIENCE), "process {} ({}) is still there", self.pid, self.name);
    }
}

/// Whether the process behind a pidfd ends in time.
pub(crate) fn ended_within(handle: &rustix::fd::OwnedFd, patience: Duration) -> bool {
    let limit = Timespec::try_from(patience).expect("a patience of seconds fits");
    loop {
        let mut waits = [PollFd::new(handle, PollFlags::IN)];
        match poll(&mut waits, Some(&limit)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll on a pidfd: {error}"),
        }
    }
}

/// Every process that descends from `root`, `root` not included, found by walking `/proc`.
#[must_use]
pub fn descendants(root: u32) -> Vec<ProcessRef> {
    let root = i32::try_from(root).expect("process numbers are positive i32");
    let listing = std::fs::read_dir("/proc").expect("reads /proc");
    let everyone: Vec<ProcessRef> = listing
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(ProcessRef::find)
        .collect();
    let mut found: Vec<ProcessRef> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for process in everyone.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    #[expect(clippy::disallowed_methods, reason = "the testkit is the tests' owner of starting processes")]
    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_child_is_found_alive_and_then_gone() {
        let mut child = cat();
        let pid = i32::try_from(child.id()).unwrap();
        let family = descendants(std::process::id());
        let found =
            family.iter().find(|process| process.pid == pid).expect("the child descends from the test");
        assert!(found.is_alive());
        let earlier = ProcessRef { start: found.start - 1, ..found.clone() };
        assert!(!earlier.is_alive(), "the same number with another start time is another process");
        child.kill().unwrap();
        found.wait_gone();
        child.wait().unwrap();
        assert!(!found.is_alive());
    }
}
