//! The control group of one far process.
//!
//! Invariants: its limits are set before anybody is in it, and it is removed when nobody is any more; whether the kernel
//! ended somebody in it for want of memory is asked before it is removed.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aaos_core::confinement::{Evidence, MemoryBound, ResourceUsage};
use aaos_core::limits::FAR_STOP_MS;
use aaos_core::quantity::{Bytes, Millis};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::receipt::read_proc;

/// What one far process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Memory, page cache of its own included; nothing of it is swapped.
    pub memory: Bytes,
    /// Processes and threads.
    pub processes: u64,
    /// Share of processors and disks where they are all busy; 100 is the kernel's default.
    pub weight: u64,
}

/// A group for one process, removed when that has ended or this is dropped.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    /// As /proc/PID/cgroup spells it.
    shown: String,
    limits: GroupLimits,
    directory: File,
    /// Set when it has ended: whether the kernel ended somebody for want of memory.
    ran_out: OnceLock<bool>,
}

impl Leaf {
    pub(crate) fn make(path: PathBuf, shown: String, limits: GroupLimits) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let made = set_limits(&path, limits).and_then(|()| File::open(&path));
        match made {
            Ok(directory) => Ok(Self { path, shown, limits, directory, ran_out: OnceLock::new() }),
            Err(error) => {
                fs::remove_dir(&path)?;
                Err(error)
            }
        }
    }

    /// Its directory: a process whose number is written to `cgroup.procs` there is in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, open, for a process to be born into.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> GroupLimits {
        self.limits
    }

    /// Whether a process is in it and its limits stand, as the kernel says.
    pub(crate) fn observe(&self, pid: u32) -> (Evidence, String) {
        let group = read_proc(Path::new(&format!("/proc/{pid}/cgroup"))).unwrap_or_default();
        let Some(found) = group.lines().find_map(|line| line.strip_prefix("0::")) else {
            return (Evidence::Missing, "its control group could not be read back".to_owned());
        };
        if found != self.shown {
            return (Evidence::Missing, format!("it is in {found}, not in {}", self.shown));
        }
        let GroupLimits { memory, processes, .. } = self.limits;
        for (name, wanted) in [("memory.max", memory.0), ("pids.max", processes)] {
            let set = self.read(name).unwrap_or_default();
            if set.trim() != wanted.to_string() {
                return (Evidence::Missing, format!("{name} of {found} is {:?}, not {wanted}", set.trim()));
            }
        }
        (Evidence::Observed, format!("memory.max {memory}, pids.max {processes} in {found}"))
    }

    /// What is used in it now; `None` once it has ended.
    #[must_use]
    pub fn usage(&self) -> Option<ResourceUsage> {
        let number = |name: &str| self.read(name).ok()?.trim().parse::<u64>().ok();
        let cpu = field(&self.read("cpu.stat").ok()?, "usage_usec")?;
        Some(ResourceUsage {
            bound: MemoryBound::Cgroup,
            memory_bytes: Bytes(number("memory.current")?),
            // Linux 5.19 is the first to say it.
            memory_peak_bytes: number("memory.peak").map(Bytes),
            memory_limit_bytes: self.limits.memory,
            cpu_ms: Millis(cpu / 1000),
            processes: number("pids.current")?,
        })
    }

    /// Ends whatever is in it, removes it, and says whether the kernel had ended somebody for want of memory.
    pub fn end(&self) -> bool {
        *self.ran_out.get_or_init(|| {
            let killed = self.read("memory.events").ok().and_then(|events| field(&events, "oom_kill"));
            if let Err(error) = end_group(&self.path) {
                tracing::warn!(%error, group = %self.path.display(), "a control group could not be removed");
            }
            killed.is_some_and(|killed| killed > 0)
        })
    }

    /// Whether the kernel ended somebody in it for want of memory, known once it has ended.
    pub(crate) fn ran_out(&self) -> bool {
        self.ran_out.get().is_some_and(|ran_out| *ran_out)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        read_proc(&self.path.join(name))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        self.end();
    }
}

fn set_limits(group: &Path, limits: GroupLimits) -> io::Result<()> {
    let GroupLimits { memory, processes, weight } = limits;
    let set = |name: &str, value: &str| fs::write(group.join(name), value);
    set("memory.max", &memory.to_string())?;
    set("memory.oom.group", "1")?;
    set("pids.max", &processes.to_string())?;
    // What this kernel or this machine does not have is not there to be set.
    for (name, value) in [
        ("memory.swap.max", "0".to_owned()),
        ("cpu.weight", weight.to_string()),
        ("io.weight", format!("default {weight}")),
    ] {
        match set(name, &value) {
            Err(error) if group.join(name).exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The number behind a key in a file of `key number` lines.
fn field(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

/// Kills whatever is in a group, waits until it is empty, and removes it.
pub(crate) fn end_group(group: &Path) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match fs::write(group.join("cgroup.kill"), "1").and_then(|()| wait_empty(group)) {
        Err(error) if !gone(&error) => return Err(error),
        _ => {}
    }
    match fs::remove_dir(group) {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Waits until nobody is in a group; the kernel tells of each change.
fn wait_empty(group: &Path) -> io::Result<()> {
    let mut events = File::open(group.join("cgroup.events"))?;
    let end = Instant::now() + Duration::from_millis(FAR_STOP_MS);
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if field(&text, "populated") == Some(0) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn numbers_stand_behind_their_keys() {
        let events = "low 0\noom 3\noom_kill 1\noom_group_kill 2\n";
        assert_eq!(field(events, "oom_kill"), Some(1));
        assert_eq!(field(events, "oom_group_kill"), Some(2));
        assert_eq!(field(events, "kill"), None);
        assert_eq!(field("oom_kill x\n", "oom_kill"), None);
    }
}
