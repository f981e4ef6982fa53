//! What is known of a confined process, and how it is known.
//!
//! Invariant: a required boundary counts only if it was observed by the daemon or probed inside the very
//! process; a report alone never satisfies a requirement.

use serde::{Deserialize, Serialize};

use crate::id::WorkerId;
use crate::quantity::{Bytes, Millis};

/// One boundary around a confined process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// A seccomp filter in mode 2.
    Seccomp,
    /// A Landlock domain.
    Landlock,
    /// No capability in any set.
    NoCapabilities,
    /// A uid that is not 0 and not the operator's.
    OwnUid,
    /// An own user namespace.
    UserNamespace,
    /// An own mount namespace with an empty root.
    MountNamespace,
    /// An own PID namespace.
    PidNamespace,
    /// An own IPC namespace.
    IpcNamespace,
    /// An own, empty network namespace.
    NetNamespace,
    /// An own UTS namespace.
    UtsNamespace,
    /// An own cgroup namespace.
    CgroupNamespace,
    /// Resource limits.
    Rlimits,
    /// Every descriptor but the granted ones closed.
    ClosedDescriptors,
    /// A control group of its own with limits of memory and processes.
    Cgroup,
}

/// How a boundary is known to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The daemon read it back from the kernel.
    Observed,
    /// An attempt to cross it, in that very process, failed.
    Probed,
    /// Only the process itself says so.
    Reported,
    /// It does not stand.
    Missing,
}

impl Evidence {
    /// Whether a requirement may rest on it.
    #[must_use]
    pub const fn is_proof(self) -> bool {
        matches!(self, Self::Observed | Self::Probed)
    }
}

/// One boundary of one process and how it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BoundaryReceipt {
    /// Which boundary.
    pub boundary: Boundary,
    /// How it is known.
    pub evidence: Evidence,
    /// What was seen, or why it is missing.
    pub detail: String,
}

/// What a far process says of itself once it is locked; nothing is sent to it before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedReport {
    /// Landlock ABI in force, 0 for none.
    pub landlock_abi: u32,
    /// BLAKE3 of what its Landlock domain refuses, hexadecimal; empty without one.
    pub landlock_rules_hash: String,
    /// BLAKE3 of the seccomp program's bytes, hexadecimal.
    pub seccomp_filter_hash: String,
    /// Namespaces it entered.
    pub namespaces: Vec<Boundary>,
    /// Probes that it ran: the boundary, and whether the attempt was refused, with what was tried.
    pub probes: Vec<ProbeResult>,
}

/// One attempt of a confined process to cross a boundary.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The boundary that should have stopped it.
    pub boundary: Boundary,
    /// What was tried, for example `open("/etc/passwd")`.
    pub attempt: String,
    /// Whether the kernel refused.
    pub refused: bool,
    /// The error's name, or what came back.
    pub detail: String,
}

/// The record that a process is confined, journalled when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinementReceipt {
    /// The process, as the daemon names it.
    pub worker: WorkerId,
    /// Its pid in the daemon's PID namespace.
    pub pid: u32,
    /// What carries it.
    pub substrate: Substrate,
    /// Landlock ABI in force, 0 for none.
    pub landlock_abi: u32,
    /// BLAKE3 of what its Landlock domain refuses, as it reported, hexadecimal; empty without one, and in receipts of
    /// versions that did not report it.
    #[serde(default)]
    pub landlock_rules_hash: String,
    /// BLAKE3 of the seccomp program's bytes, hexadecimal.
    pub seccomp_filter_hash: String,
    /// Every boundary, sorted.
    pub boundaries: Vec<BoundaryReceipt>,
}

impl ConfinementReceipt {
    /// Evidence for one boundary; `Missing` if the receipt does not name it.
    #[must_use]
    pub fn evidence(&self, boundary: Boundary) -> Evidence {
        self.boundaries
            .iter()
            .find(|one| one.boundary == boundary)
            .map_or(Evidence::Missing, |one| one.evidence)
    }
}

/// What bounds the memory of a confined process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryBound {
    /// The kernel, by a control group of its own.
    Cgroup,
    /// The daemon, which looks at it while a call runs and ends it above its limit.
    Watchdog,
}

/// What a confined process, or a program with all that it started, uses of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceUsage {
    /// What bounds its memory.
    pub bound: MemoryBound,
    /// Memory in use now.
    pub memory_bytes: Bytes,
    /// Most memory that was ever in use, where the kernel says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_peak_bytes: Option<Bytes>,
    /// Where it is ended.
    pub memory_limit_bytes: Bytes,
    /// Time on a processor, milliseconds.
    pub cpu_ms: Millis,
    /// Processes and threads.
    pub processes: u64,
    /// Read from disks, where the kernel says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read_bytes: Option<Bytes>,
    /// Written to disks, where the kernel says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub written_bytes: Option<Bytes>,
}

/// What carries a confined process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Substrate {
    /// A process of this kernel.
    Process,
    /// A virtual machine of its own, behind a stream. No version can start one yet.
    Microvm,
}

/// The text names no substrate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown substrate; there are process and microvm")]
pub struct UnknownSubstrate;

impl std::str::FromStr for Substrate {
    type Err = UnknownSubstrate;

    fn from_str(text: &str) -> Result<Self, UnknownSubstrate> {
        match text {
            "process" => Ok(Self::Process),
            "microvm" => Ok(Self::Microvm),
            _ => Err(UnknownSubstrate),
        }
    }
}

/// What the operator demands of confinement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfinementPolicy {
    /// Without these (observed or probed) no worker starts.
    pub require: Vec<Boundary>,
    /// Without these a worker starts, and the lack is an audit event and shown in status.
    pub prefer: Vec<Boundary>,
    /// Lowest Landlock ABI that counts.
    pub landlock_abi: u32,
}

impl Default for ConfinementPolicy {
    /// Law 5 of DESIGN §2.
    fn default() -> Self {
        Self {
            require: vec![
                Boundary::NoNewPrivs,
                Boundary::Seccomp,
                Boundary::Landlock,
                Boundary::NoCapabilities,
                Boundary::Rlimits,
                Boundary::ClosedDescriptors,
            ],
            prefer: vec![
                Boundary::OwnUid,
                Boundary::UserNamespace,
                Boundary::MountNamespace,
                Boundary::PidNamespace,
                Boundary::IpcNamespace,
                Boundary::NetNamespace,
                Boundary::UtsNamespace,
                Boundary::CgroupNamespace,
                Boundary::Cgroup,
            ],
            landlock_abi: 4,
        }
    }
}
