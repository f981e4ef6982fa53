//! Reading a far process's confinement back from the kernel, and judging it.
//!
//! Invariants: what the daemon can see counts as observed only if it saw it; what a process probed counts
//! only with the probe's refusal; a report alone never satisfies a requirement. Landlock rules cannot be read
//! back, so Landlock counts by the probe that succeeded before the domain and failed after. A seccomp filter
//! counts only beyond those that the process was born with.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aaos_confine::namespaces::{Abilities, KINDS};
use aaos_confine::rlimits::Limit;
use aaos_confine::{CHANNEL_FD, FarUids, kernel_abi};
use aaos_core::confinement::{
    Boundary, BoundaryReceipt, ConfinementPolicy, ConfinementReceipt, Evidence, LockedReport, ProbeResult,
    Substrate,
};
use aaos_core::id::WorkerId;
use aaos_core::limits::{
    GATEWAY_MEMORY_BYTES, GATEWAY_PROCESSES, GATEWAY_WEIGHT, MAX_PROGRAM_PROCESSES, PROGRAM_MEMORY_BYTES,
    WORKER_MEMORY_BYTES, WORKER_PROCESSES, WORKER_WEIGHT,
};
use aaos_core::program::{PROGRAM_DESCRIPTORS, PROGRAM_PIPE_ENDS, PROXY_PORT};
use aaos_core::quantity::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, open, readlinkat};

use crate::error::SandboxError;
use crate::gauge::{Bounds, Hold};
use crate::leaf::GroupLimits;
use crate::network::NetworkSeen;

/// Which boundaries apply to a kind of far process, and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    /// What can be required of it.
    pub(crate) boundaries: &'static [Boundary],
    /// Its resource limits.
    pub(crate) limits: &'static [Limit],
    /// Who counts its descriptors.
    pub(crate) descriptors: Counted,
    /// What its root is.
    pub(crate) root: Root,
    /// The port of its proxy, which is all that its network namespace may hold then.
    pub(crate) proxy: Option<u16>,
}

/// The root directory of a far process that has its own mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// Nothing is in it.
    Empty,
    /// A file system of its own, in which the granted places are.
    Private,
}

/// Who counts the descriptors of a far process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// The daemon, where it may look; the process waits for its first request and opens nothing meanwhile. So many
    /// may stand above the channel: what it is to execute.
    FromOutside(usize),
    /// The process, before it says that it is locked: it goes on to open sockets at once.
    FromInside,
}

/// What a worker may use of the machine.
pub(crate) const WORKER_BOUNDS: Bounds = Bounds::OneProcess(GroupLimits {
    memory: Bytes(WORKER_MEMORY_BYTES),
    processes: WORKER_PROCESSES,
    weight: WORKER_WEIGHT,
});

/// What a program and all that it starts may use together.
pub(crate) const PROGRAM_BOUNDS: Bounds = Bounds::Tree(GroupLimits {
    memory: Bytes(PROGRAM_MEMORY_BYTES),
    processes: MAX_PROGRAM_PROCESSES,
    weight: WORKER_WEIGHT,
});

/// What a gateway role may use.
pub(crate) const GATEWAY_BOUNDS: Bounds = Bounds::OneProcess(GroupLimits {
    memory: Bytes(GATEWAY_MEMORY_BYTES),
    processes: GATEWAY_PROCESSES,
    weight: GATEWAY_WEIGHT,
});

/// A worker: everything.
pub(crate) const WORKER_PROFILE: Profile = Profile {
    boundaries: &[
        Boundary::NoNewPrivs,
        Boundary::Seccomp,
        Boundary::Landlock,
        Boundary::NoCapabilities,
        Boundary::OwnUid,
        Boundary::UserNamespace,
        Boundary::MountNamespace,
        Boundary::PidNamespace,
        Boundary::IpcNamespace,
        Boundary::NetNamespace,
        Boundary::UtsNamespace,
        Boundary::CgroupNamespace,
        Boundary::Rlimits,
        Boundary::ClosedDescriptors,
        Boundary::Cgroup,
    ],
    limits: aaos_confine::rlimits::WORKER_LIMITS,
    descriptors: Counted::FromOutside(0),
    root: Root::Empty,
    proxy: None,
};

/// A program sandbox: everything, too. Its first process holds what came with the plan, a script
/// too, and its pipes.
pub(crate) const PROGRAM_PROFILE: Profile = Profile {
    boundaries: WORKER_PROFILE.boundaries,
    limits: aaos_confine::rlimits::PROGRAM_LIMITS,
    descriptors: Counted::FromOutside(PROGRAM_DESCRIPTORS + 1 + PROGRAM_PIPE_ENDS),
    root: Root::Private,
    proxy: None,
};

/// The same with a proxy; the descriptors of that are its relay's by the time it is looked at.
pub(crate) const PROXIED_PROFILE: Profile = Profile { proxy: Some(PROXY_PORT), ..PROGRAM_PROFILE };

/// The process of a local model: everything, too. It waits for its setup and opens nothing meanwhile.
pub(crate) fn model_profile(abilities: Abilities) -> Profile {
    let counted = abilities.own_uids.is_some() || abilities.namespaces.has(Boundary::UserNamespace);
    Profile { limits: aaos_confine::rlimits::model_limits(counted), ..WORKER_PROFILE }
}

/// The daemon itself: what it refuses itself, as one process.
pub(crate) const DAEMON_PROFILE: Profile = Profile {
    boundaries: &[Boundary::NoNewPrivs, Boundary::Seccomp, Boundary::Rlimits],
    limits: aaos_confine::rlimits::DAEMON_LIMITS,
    descriptors: Counted::FromInside,
    root: Root::Empty,
    proxy: None,
};

/// A gateway role: it keeps the host's network and mounts, and a root launcher makes it no user namespace.
pub(crate) fn gateway_profile() -> Profile {
    Profile {
        boundaries: GATEWAY_BOUNDARIES,
        limits: aaos_confine::rlimits::gateway_limits(rustix::process::geteuid().is_root()),
        descriptors: Counted::FromInside,
        root: Root::Empty,
        proxy: None,
    }
}

const GATEWAY_BOUNDARIES: &[Boundary] = &[
    Boundary::NoNewPrivs,
    Boundary::Seccomp,
    Boundary::Landlock,
    Boundary::NoCapabilities,
    Boundary::OwnUid,
    Boundary::PidNamespace,
    Boundary::IpcNamespace,
    Boundary::UtsNamespace,
    Boundary::CgroupNamespace,
    Boundary::Rlimits,
    Boundary::ClosedDescriptors,
    Boundary::Cgroup,
];

/// What a far process could share with whoever made it, read once.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Filters of the zygote, which every process that it makes is born with.
    filters: u32,
    /// The daemon's own namespaces, in the order of [`KINDS`].
    namespaces: Vec<Option<PathBuf>>,
}

impl Origin {
    /// Looks at the zygote and at the calling process.
    pub(crate) fn read(zygote: u32) -> io::Result<Self> {
        let own = |(_, _, name): &(_, _, &str)| fs::read_link(Path::new("/proc/self/ns").join(name)).ok();
        Ok(Self { filters: filters_of(zygote)?, namespaces: KINDS.iter().map(own).collect() })
    }
}

/// Reads everything back and writes the receipt.
pub(crate) fn write_receipt(
    worker: WorkerId,
    pid: u32,
    origin: &Origin,
    hold: Option<&Hold>,
    report: &LockedReport,
    profile: Profile,
    policy: &ConfinementPolicy,
) -> io::Result<ConfinementReceipt> {
    let seen = Seen::read(pid, origin, profile)?;
    let mut boundaries: Vec<BoundaryReceipt> = profile
        .boundaries
        .iter()
        .map(|boundary| {
            let (evidence, detail) = match boundary {
                Boundary::Cgroup => hold.map_or_else(
                    || (Evidence::Missing, "none was made".to_owned()),
                    |hold| hold.observe(pid),
                ),
                boundary => crossed(*boundary, report)
                    .unwrap_or_else(|| seen.judge(*boundary, report, profile, policy)),
            };
            BoundaryReceipt { boundary: *boundary, evidence, detail }
        })
        .collect();
    boundaries.sort_by_key(|one| one.boundary);
    Ok(ConfinementReceipt {
        worker,
        pid,
        substrate: Substrate::Process,
        landlock_abi: report.landlock_abi,
        landlock_rules_hash: report.landlock_rules_hash.clone(),
        seccomp_filter_hash: report.seccomp_filter_hash.clone(),
        boundaries,
    })
}

/// Holds a receipt against the policy: what is preferred and missing, or the first requirement that is not
/// proved.
pub(crate) fn hold_against(
    policy: &ConfinementPolicy,
    receipt: &ConfinementReceipt,
    profile: Profile,
) -> Result<Vec<Boundary>, SandboxError> {
    let applies = |boundary: &&Boundary| profile.boundaries.contains(boundary);
    let unproved = |boundary: &&Boundary| !receipt.evidence(**boundary).is_proof();
    // A far process of root never runs as root, whatever the policy says.
    let never_root = if rustix::process::geteuid().is_root() { &[Boundary::OwnUid][..] } else { &[] };
    if let Some(boundary) = policy.require.iter().chain(never_root).filter(applies).find(unproved) {
        let why = receipt
            .boundaries
            .iter()
            .find(|one| one.boundary == *boundary)
            .map_or_else(|| "the receipt does not name it".to_owned(), |one| one.detail.clone());
        return Err(SandboxError::ConfinementUnavailable { boundary: *boundary, why });
    }
    Ok(policy.prefer.iter().filter(applies).filter(unproved).copied().collect())
}

/// What the kernel says of a process.
struct Seen {
    status: Status,
    limits: String,
    namespaces: BTreeMap<&'static str, Namespace>,
    descriptors: Option<Vec<i32>>,
    root_entries: Option<usize>,
    /// Whether its root is on another file system than the daemon's.
    root_differs: Option<bool>,
    /// Of a process that has a proxy.
    network: Option<NetworkSeen>,
    /// Filters that it was born with: those of the process that made it.
    inherited_filters: u32,
}

/// One namespace of a process beside the daemon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Own,
    Shared,
    Unreadable,
}

impl Seen {
    fn read(pid: u32, origin: &Origin, profile: Profile) -> io::Result<Self> {
        let place = PathBuf::from(format!("/proc/{pid}"));
        // Opened once: each path from the root is a walk that the kernel makes anew.
        let ns =
            open(place.join("ns"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok();
        let status = Status::of(pid)?;
        let beside = KINDS.iter().zip(&origin.namespaces);
        let namespaces = beside
            .map(|((_, _, name), ours)| (*name, namespace(ns.as_ref(), name, ours.as_deref())))
            .collect();
        let descriptors = fs::read_dir(place.join("fd")).ok().map(|entries| {
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
        });
        let root = place.join("root");
        let (root_entries, root_differs) = match profile.root {
            Root::Empty => (fs::read_dir(root).ok().map(Iterator::count), None),
            Root::Private => (None, differs(&root, Path::new("/"))),
        };
        let limits = read_proc(&place.join("limits"))?;
        let inherited_filters = origin.filters;
        let network = profile.proxy.and_then(|_| NetworkSeen::read(&place).ok());
        Ok(Self {
            status,
            limits,
            namespaces,
            descriptors,
            root_entries,
            root_differs,
            network,
            inherited_filters,
        })
    }

    fn judge(
        &self,
        boundary: Boundary,
        report: &LockedReport,
        profile: Profile,
        policy: &ConfinementPolicy,
    ) -> (Evidence, String) {
        match boundary {
            Boundary::NoNewPrivs => self.flag("NoNewPrivs", "1"),
            Boundary::Seccomp => self.seccomp(),
            Boundary::Landlock => landlock(report, policy),
            Boundary::NoCapabilities => self.capabilities(),
            Boundary::OwnUid => self.own_uid(),
            Boundary::MountNamespace => match profile.root {
                Root::Empty => self.empty_root(report),
                Root::Private => self.private_root(report),
            },
            Boundary::Rlimits => self.rlimits(profile.limits),
            Boundary::ClosedDescriptors => self.closed_descriptors(report, profile.descriptors),
            Boundary::UserNamespace
            | Boundary::PidNamespace
            | Boundary::IpcNamespace
            | Boundary::UtsNamespace
            | Boundary::CgroupNamespace => self.own_namespace(boundary, report),
            Boundary::NetNamespace => match profile.proxy {
                None => self.own_namespace(boundary, report),
                Some(port) => self.proxied_network(report, port),
            },
            Boundary::Cgroup => unreachable!("what holds the process is asked for that"),
        }
    }

    fn field(&self, key: &str) -> &str {
        self.status.field(key).unwrap_or("")
    }

    fn flag(&self, key: &str, wanted: &str) -> (Evidence, String) {
        let found = self.field(key);
        let detail = format!("{key}: {found}");
        if found == wanted { (Evidence::Observed, detail) } else { (Evidence::Missing, detail) }
    }

    fn seccomp(&self) -> (Evidence, String) {
        let (evidence, detail) = self.flag("Seccomp", "2");
        let filters = self.field("Seccomp_filters");
        let inherited = self.inherited_filters;
        let detail = format!("{detail}, filters: {filters}, of which inherited: {inherited}");
        let has_own = filters.parse().is_ok_and(|filters: u32| filters > inherited);
        (if has_own { evidence } else { Evidence::Missing }, detail)
    }

    fn capabilities(&self) -> (Evidence, String) {
        let is_none =
            |key: &str| !self.field(key).is_empty() && self.field(key).bytes().all(|digit| digit == b'0');
        let held: Vec<&str> =
            ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().filter(|key| !is_none(key)).collect();
        if !held.is_empty() {
            return (Evidence::Missing, format!("not empty: {}", held.join(", ")));
        }
        if is_none("CapBnd") {
            (Evidence::Observed, "all five sets are empty".to_owned())
        } else if self.field("NoNewPrivs") == "1" {
            (
                Evidence::Observed,
                "no set but the bounding one has any, which no_new_privs makes moot".to_owned(),
            )
        } else {
            (Evidence::Missing, "the bounding set is not empty".to_owned())
        }
    }

    fn own_uid(&self) -> (Evidence, String) {
        let detail = format!("Uid: {}, Gid: {}", self.field("Uid"), self.field("Gid"));
        let far = |key: &str| {
            let ids: Vec<Option<u32>> =
                self.field(key).split_whitespace().map(|id| id.parse().ok()).collect();
            ids.len() == 4 && ids.iter().all(|id| id.is_some_and(FarUids::any_has))
        };
        if far("Uid") && far("Gid") && self.field("Groups").is_empty() {
            (Evidence::Observed, detail)
        } else {
            (Evidence::Missing, format!("{detail}; only a daemon that runs as root can give far uids"))
        }
    }

    fn own_namespace(&self, boundary: Boundary, report: &LockedReport) -> (Evidence, String) {
        let Some((_, _, name)) = KINDS.iter().find(|(kind, _, _)| *kind == boundary) else {
            return (Evidence::Missing, "not a namespace".to_owned());
        };
        match self.namespaces.get(name) {
            Some(Namespace::Own) => (Evidence::Observed, format!("its {name} namespace is not the daemon's")),
            Some(Namespace::Unreadable) if report.namespaces.contains(&boundary) => {
                (Evidence::Reported, format!("its {name} namespace could not be read back"))
            }
            Some(Namespace::Unreadable) => (Evidence::Missing, format!("no own {name} namespace here")),
            _ => (Evidence::Missing, format!("its {name} namespace is the daemon's")),
        }
    }

    fn empty_root(&self, report: &LockedReport) -> (Evidence, String) {
        let own = self.own_namespace(Boundary::MountNamespace, report);
        match (own.0, self.root_entries) {
            (Evidence::Observed, Some(0)) => (Evidence::Observed, format!("{}; its root is empty", own.1)),
            (Evidence::Observed, Some(entries)) => {
                (Evidence::Missing, format!("{}, but its root has {entries} entries", own.1))
            }
            (Evidence::Observed, None) => {
                (Evidence::Reported, format!("{}; its root could not be looked into", own.1))
            }
            _ => own,
        }
    }

    fn private_root(&self, report: &LockedReport) -> (Evidence, String) {
        let own = self.own_namespace(Boundary::MountNamespace, report);
        match (own.0, self.root_differs) {
            (Evidence::Observed, Some(true)) => {
                (Evidence::Observed, format!("{}; its root is a file system of its own", own.1))
            }
            (Evidence::Observed, Some(false)) => {
                (Evidence::Missing, format!("{}, but its root is the daemon's", own.1))
            }
            (Evidence::Observed, None) => {
                (Evidence::Reported, format!("{}; its root could not be looked at", own.1))
            }
            _ => own,
        }
    }

    fn proxied_network(&self, report: &LockedReport, port: u16) -> (Evidence, String) {
        let own = self.own_namespace(Boundary::NetNamespace, report);
        match (own.0, &self.network) {
            (Evidence::Observed, Some(seen)) if seen.is_listener_alone(port) => {
                let detail = format!(
                    "{}; in it are loopback and, of TCP over IPv4, the proxy's port {port} alone",
                    own.1
                );
                (Evidence::Observed, detail)
            }
            (Evidence::Observed, Some(seen)) => {
                (Evidence::Missing, format!("{}, but in it are {}", own.1, seen.words()))
            }
            (Evidence::Observed, None) => {
                (Evidence::Reported, format!("{}; it could not be looked into", own.1))
            }
            _ => own,
        }
    }

    fn rlimits(&self, limits: &[Limit]) -> (Evidence, String) {
        for limit in limits {
            let held = self.limits.lines().find_map(|line| line.strip_prefix(limit.name)).map(|rest| {
                let mut words = rest.split_whitespace();
                [words.next(), words.next()].map(|word| word.and_then(|word| word.parse::<u64>().ok()))
            });
            let bounded = |value: Option<u64>| value.is_some_and(|value| value <= limit.value);
            if !held.is_some_and(|[soft, hard]| bounded(soft) && bounded(hard)) {
                return (Evidence::Missing, format!("{} is above {}", limit.name, limit.value));
            }
        }
        (Evidence::Observed, format!("{} limits, soft and hard", limits.len()))
    }

    fn closed_descriptors(&self, report: &LockedReport, counted: Counted) -> (Evidence, String) {
        let counts = |probe: &&ProbeResult| probe.boundary == Boundary::ClosedDescriptors && !probe.refused;
        if let Some(more) = report.probes.iter().find(counts) {
            return (Evidence::Missing, format!("{}: {}", more.attempt, more.detail));
        }
        if let (Some(open), Counted::FromOutside(wanted)) = (&self.descriptors, counted) {
            let extra: Vec<&i32> = open.iter().filter(|number| **number > CHANNEL_FD).collect();
            let detail = format!("{} open, {} above the channel", open.len(), extra.len());
            let evidence = if extra.len() <= wanted { Evidence::Observed } else { Evidence::Missing };
            return (evidence, detail);
        }
        probed(report, Boundary::ClosedDescriptors)
    }
}

/// Whether two places are on different file systems, where that can be seen.
fn differs(one: &Path, other: &Path) -> Option<bool> {
    Some(device_of(one)? != device_of(other)?)
}

fn device_of(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|facts| facts.dev())
}

/// How many seccomp filters a process is under, and with it whatever it makes.
fn filters_of(pid: u32) -> io::Result<u32> {
    let status = Status::of(pid)?;
    let filters = status.field("Seccomp_filters").and_then(|filters| filters.parse().ok());
    filters.ok_or_else(|| {
        io::Error::other("the kernel (Linux 5.9 or newer is needed) counts no seccomp filters")
    })
}

/// What the kernel says of a process in its `status`.
#[derive(Debug)]
pub(crate) struct Status(String);

impl From<String> for Status {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Status {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        read_proc(Path::new(&format!("/proc/{pid}/status"))).map(Self)
    }

    pub(crate) fn field(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
    }
}

/// Reads a file of /proc whole: it has no size to go by, and is made afresh for each first read.
pub(crate) fn read_proc(path: &Path) -> io::Result<String> {
    const ROOM: usize = 8 * 1024;
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(ROOM);
    loop {
        bytes.reserve(ROOM);
        match rustix::io::read(&file, spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn namespace(place: Option<&OwnedFd>, name: &str, ours: Option<&Path>) -> Namespace {
    let theirs = place.and_then(|place| readlinkat(place, name, Vec::new()).ok());
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs.as_bytes() == ours.as_os_str().as_bytes() => Namespace::Shared,
        (Some(_), Some(_)) => Namespace::Own,
        _ => Namespace::Unreadable,
    }
}

/// A probe that got through refutes whatever else is known.
fn crossed(boundary: Boundary, report: &LockedReport) -> Option<(Evidence, String)> {
    let through = report.probes.iter().find(|probe| probe.boundary == boundary && !probe.refused)?;
    Some((Evidence::Missing, format!("{} was not refused: {}", through.attempt, through.detail)))
}

fn landlock(report: &LockedReport, policy: &ConfinementPolicy) -> (Evidence, String) {
    let kernel = kernel_abi();
    if report.landlock_abi > kernel {
        return (
            Evidence::Missing,
            format!("ABI {} was reported, the kernel has {kernel}", report.landlock_abi),
        );
    }
    if report.landlock_abi < policy.landlock_abi {
        let detail =
            format!("ABI {} is in force, the policy asks for {}", report.landlock_abi, policy.landlock_abi);
        return (Evidence::Missing, detail);
    }
    let (evidence, detail) = probed(report, Boundary::Landlock);
    (evidence, format!("ABI {}; {detail}", report.landlock_abi))
}

fn probed(report: &LockedReport, boundary: Boundary) -> (Evidence, String) {
    let refused = report.probes.iter().find(|probe| probe.boundary == boundary && probe.refused);
    match refused {
        Some(probe) => (Evidence::Probed, format!("{}: {}", probe.attempt, probe.detail)),
        None => (Evidence::Missing, "no probe of it was run".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aaos_core::confinement::Evidence;

    use super::{Seen, Status};

    fn under(seccomp: &str, filters: Option<&str>, inherited_filters: u32) -> Evidence {
        let filters = filters.map(|filters| format!("Seccomp_filters:\t{filters}\n"));
        let status =
            Status(format!("Name:\tSeccomp: 7\nSeccomp:\t{seccomp}\n{}", filters.unwrap_or_default()));
        let seen = Seen {
            status,
            limits: String::new(),
            namespaces: BTreeMap::new(),
            descriptors: None,
            root_entries: None,
            root_differs: None,
            network: None,
            inherited_filters,
        };
        seen.seccomp().0
    }

    #[test]
    fn a_filter_that_was_inherited_is_no_filter_of_its_own() {
        assert_eq!(under("2", Some("1"), 0), Evidence::Observed);
        assert_eq!(under("2", Some("3"), 2), Evidence::Observed);
        assert_eq!(under("2", Some("2"), 2), Evidence::Missing, "its launcher's");
        assert_eq!(under("2", Some("1"), 2), Evidence::Missing);
        assert_eq!(under("2", None, 0), Evidence::Missing, "nobody knows whose");
        assert_eq!(under("1", Some("1"), 0), Evidence::Missing, "no filter can be read from strict mode");
        assert_eq!(under("0", Some("0"), 0), Evidence::Missing);
    }
}
