//! The control group of one far process.
//!
//! Invariants: its limits are set before anybody is in it, and it is removed when nobody is any more; whether the kernel
//! ended somebody in it for want of memory, and whose memory was wanting, is asked before it is removed.

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
    shortage: OnceLock<Option<Shortage>>,
}

/// For want of whose memory the kernel ended somebody in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// What was asked for went beyond the group's own limit.
    OwnLimit,
    /// The group was within its limit: a group above it, or the machine, had no memory left.
    Elsewhere,
}

impl Leaf {
    pub(crate) fn make(path: PathBuf, shown: String, limits: GroupLimits) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let made = set_limits(&path, limits).and_then(|()| File::open(&path));
        match made {
            Ok(directory) => Ok(Self { path, shown, limits, directory, shortage: OnceLock::new() }),
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
        let disks = self.read("io.stat").ok();
        let moved = |kind| disks.as_ref().map(|stat| disk_bytes(stat, kind));
        Some(ResourceUsage {
            bound: MemoryBound::Cgroup,
            memory_bytes: Bytes(number("memory.current")?),
            // Linux 5.19 is the first to say it.
            memory_peak_bytes: number("memory.peak").map(Bytes),
            memory_limit_bytes: self.limits.memory,
            cpu_ms: Millis(cpu / 1000),
            processes: number("pids.current")?,
            read_bytes: moved("rbytes"),
            written_bytes: moved("wbytes"),
        })
    }

    /// Ends whatever is in it, removes it, and says whether the kernel had ended somebody for want of memory.
    pub fn end(&self) -> Option<Shortage> {
        *self.shortage.get_or_init(|| {
            // What happened to groups below is not its own; there are none.
            let shortage = self.read("memory.events.local").ok().and_then(|events| shortage_in(&events));
            if let Err(error) = end_group(&self.path) {
                tracing::warn!(%error, group = %self.path.display(), "a control group could not be removed");
            }
            shortage
        })
    }

    /// Whether the kernel ended somebody in it for want of memory, known once it has ended.
    pub(crate) fn shortage(&self) -> Option<Shortage> {
        self.shortage.get().copied().flatten()
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

/// What memory.events.local says of a group. The kernel counts under `oom_kill` whom it ended, for whatever want of
/// memory; under `oom`, how often the group's own limit left nothing to give.
fn shortage_in(events: &str) -> Option<Shortage> {
    let count = |key| field(events, key).unwrap_or(0);
    match (count("oom_kill"), count("oom")) {
        (0, _) => None,
        (_, 0) => Some(Shortage::Elsewhere),
        (_, _) => Some(Shortage::OwnLimit),
    }
}

/// Bytes of a kind in io.stat, all disks together: a line for each, `8:0 rbytes=1 wbytes=2 …`.
fn disk_bytes(stat: &str, kind: &str) -> Bytes {
    let words = stat.split_whitespace().filter_map(|word| word.split_once('='));
    let numbers =
        words.filter(|(name, _)| *name == kind).filter_map(|(_, number)| number.parse::<u64>().ok());
    Bytes(numbers.fold(0, u64::saturating_add))
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
    use super::{Shortage, disk_bytes, field, shortage_in};
    use aaos_core::quantity::Bytes;

    #[test]
    fn numbers_stand_behind_their_keys() {
        let events = "low 0\noom 3\noom_kill 1\noom_group_kill 2\n";
        assert_eq!(field(events, "oom_kill"), Some(1));
        assert_eq!(field(events, "oom_group_kill"), Some(2));
        assert_eq!(field(events, "kill"), None);
        assert_eq!(field("oom_kill x\n", "oom_kill"), None);
    }

    #[test]
    fn a_limit_is_named_only_where_it_was_reached() {
        let events = |oom: u64, killed: u64| {
            format!("low 0\nhigh 0\nmax 12\noom {oom}\noom_kill {killed}\noom_group_kill {killed}\n")
        };
        assert_eq!(shortage_in(&events(0, 0)), None);
        assert_eq!(shortage_in(&events(2, 0)), None, "it was told that there is no more, and lived");
        assert_eq!(shortage_in(&events(1, 3)), Some(Shortage::OwnLimit));
        assert_eq!(shortage_in(&events(0, 1)), Some(Shortage::Elsewhere));
        assert_eq!(shortage_in(""), None);
    }

    #[test]
    fn what_went_to_and_from_all_disks_is_added() {
        let stat = "8:0 rbytes=4096 wbytes=10 rios=1 wios=2 dbytes=7 dios=0\n254:16 rbytes=1 wbytes=5\n";
        assert_eq!(disk_bytes(stat, "rbytes"), Bytes(4097));
        assert_eq!(disk_bytes(stat, "wbytes"), Bytes(15));
        assert_eq!(disk_bytes("", "rbytes"), Bytes::ZERO);
        let endless = format!("8:0 rbytes={0}\n8:16 rbytes={0}\n8:32 rbytes=x", u64::MAX);
        assert_eq!(disk_bytes(&endless, "rbytes"), Bytes(u64::MAX));
    }
}
