//! What a far process uses of the machine, and the watch over its memory where no control group holds it.
//!
//! Invariants: a reading is of the process that it is asked of, never of one that has its number now; memory is looked
//! at no more often than the named pause says, and a worker's only while a call runs in it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::confinement::{Evidence, MemoryBound, ResourceUsage};
use aaos_core::limits::MEMORY_WATCH_MS;
use aaos_core::quantity::{Bytes, Millis};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::leaf::{GroupLimits, Leaf, Shortage};
use crate::receipt::{Status, read_proc};

/// Milliseconds of one tick in /proc/PID/stat: the kernel shows a hundred a second on every x86-64 machine.
const TICK_MS: u64 = 10;
/// Where user and system time stand in /proc/PID/stat, counted from the field behind the name.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;

/// What one far process, or a tree of them, may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Its memory can be watched where the kernel does not bound it.
    OneProcess(GroupLimits),
    /// Nobody sees from outside what all of it uses together: without a control group only the resource limits of each
    /// process hold.
    Tree(GroupLimits),
}

/// What holds the resources of a far process.
#[derive(Debug, Clone)]
pub(crate) enum Hold {
    /// The kernel.
    Group(Arc<Leaf>),
    /// The watch, and why it is no group.
    Watch { limits: GroupLimits, why: String },
    /// Nothing but the resource limits of each process, and why it is no group.
    Each { limits: GroupLimits, why: String },
}

impl Hold {
    pub(crate) fn limits(&self) -> GroupLimits {
        match self {
            Self::Group(leaf) => leaf.limits(),
            Self::Watch { limits, .. } | Self::Each { limits, .. } => *limits,
        }
    }

    /// What a receipt says of the boundary.
    pub(crate) fn observe(&self, pid: u32) -> (Evidence, String) {
        match self {
            Self::Group(leaf) => leaf.observe(pid),
            Self::Watch { limits, why } => (
                Evidence::Missing,
                format!(
                    "{why}; instead the daemon ends it where it is seen above {}",
                    mebibytes(limits.memory)
                ),
            ),
            Self::Each { why, .. } => {
                (Evidence::Missing, format!("{why}; instead only the resource limits of each process hold"))
            }
        }
    }
}

/// Why a far process was ended for the memory that it needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfMemory {
    /// It needed more than this limit of its own.
    Limit(Bytes),
    /// It was within this limit of its own; a control group above it, or the machine, had no memory left.
    Elsewhere(Bytes),
}

impl OutOfMemory {
    pub(crate) fn of(shortage: Shortage, limit: Bytes) -> Self {
        match shortage {
            Shortage::OwnLimit => Self::Limit(limit),
            Shortage::Elsewhere => Self::Elsewhere(limit),
        }
    }
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Limit(limit) => write!(out, "out of memory: limit {}", mebibytes(*limit)),
            Self::Elsewhere(limit) => write!(
                out,
                "out of memory: the machine, or a control group above, has no more; the own limit of {} was not \
                 reached",
                mebibytes(*limit)
            ),
        }
    }
}

/// `256 MiB`.
pub(crate) fn mebibytes(bytes: Bytes) -> String {
    format!("{} MiB", bytes.0 / (1024 * 1024))
}

/// Reads what one far process uses.
#[derive(Debug, Clone)]
pub struct Gauge {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) hold: Hold,
}

impl Gauge {
    /// What it uses now; `None` once it has ended, and of a tree of processes without a control group.
    #[must_use]
    pub fn read(&self) -> Option<ResourceUsage> {
        match &self.hold {
            Hold::Group(leaf) => leaf.usage(),
            Hold::Each { .. } => None,
            Hold::Watch { limits, .. } => {
                let usage = usage_of(self.pid, limits.memory)?;
                // A number is given anew only after its process has ended.
                self.runs().then_some(usage)
            }
        }
    }

    fn runs(&self) -> bool {
        let mut ended = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
    }

    /// Looks at its memory until the process has ended, or is seen above its limit, or cannot be seen: then it is true. At once false where
    /// the kernel sees to that.
    pub(crate) async fn overruns(&self) -> bool {
        let Hold::Watch { limits, .. } = &self.hold else { return false };
        loop {
            tokio::time::sleep(Duration::from_millis(MEMORY_WATCH_MS)).await;
            match self.read() {
                Some(usage) if usage.memory_bytes > limits.memory => return true,
                Some(_) => {}
                // One that cannot be looked at and goes on is not trusted with more.
                None => return self.runs(),
            }
        }
    }
}

fn usage_of(pid: u32, memory_limit_bytes: Bytes) -> Option<ResourceUsage> {
    let status = Status::of(pid).ok()?;
    let number = |key: &str| status.field(key)?.split_whitespace().next()?.parse::<u64>().ok();
    let bytes = |key: &str| Some(Bytes(number(key)?.saturating_mul(1024)));
    Some(ResourceUsage {
        bound: MemoryBound::Watchdog,
        memory_bytes: match bytes("VmRSS") {
            Some(memory) => memory,
            None => memory_of_threads(pid)?,
        },
        memory_peak_bytes: bytes("VmHWM"),
        memory_limit_bytes,
        cpu_ms: cpu_of(&read_proc(Path::new(&format!("/proc/{pid}/stat"))).ok()?)?,
        processes: number("Threads")?,
        read_bytes: None,
        written_bytes: None,
    })
}

/// The memory of a process whose first thread has ended, of which the kernel tells at the others. One that ends has given
/// it back before it is gone, which takes a while for much of it.
fn memory_of_threads(pid: u32) -> Option<Bytes> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    // They share it. One that has ended meanwhile has none.
    let memory = threads.filter_map(|thread| {
        let status = read_proc(&thread.ok()?.path().join("status")).map(Status::from).ok()?;
        status.field("VmRSS")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(Bytes(memory.max().unwrap_or(0).saturating_mul(1024)))
}

/// Time on a processor, from the text of /proc/PID/stat. A name may hold anything, brackets and spaces too.
fn cpu_of(stat: &str) -> Option<Millis> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Millis(ticks(USER_TICKS)?.saturating_add(ticks(SYSTEM_TICKS)?).saturating_mul(TICK_MS)))
}

#[cfg(test)]
mod tests {
    use super::{OutOfMemory, cpu_of, usage_of};
    use aaos_core::confinement::MemoryBound;
    use aaos_core::quantity::{Bytes, Millis};

    #[test]
    fn a_want_of_memory_names_whose_it_was() {
        let limit = Bytes(256 * 1024 * 1024);
        assert_eq!(OutOfMemory::Limit(limit).to_string(), "out of memory: limit 256 MiB");
        let elsewhere = OutOfMemory::Elsewhere(limit).to_string();
        assert!(elsewhere.contains("the machine") && elsewhere.ends_with("256 MiB was not reached"));
    }

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 12 5 0 0 20 0 1 0 100 1000 10";
        assert_eq!(cpu_of(stat), Some(Millis(170)));
        assert_eq!(cpu_of("7 (a) S 1"), None);
        assert_eq!(cpu_of(""), None);
    }

    #[test]
    fn a_running_process_has_memory_and_a_thread() {
        let usage = usage_of(std::process::id(), Bytes(9)).expect("this one runs");
        assert_eq!((usage.bound, usage.memory_limit_bytes), (MemoryBound::Watchdog, Bytes(9)));
        assert!(usage.memory_bytes > Bytes(0) && usage.processes > 0);
        assert!(usage.memory_peak_bytes >= Some(usage.memory_bytes));
        assert_eq!(usage_of(u32::MAX, Bytes(9)), None);
    }
}
