//! The Landlock domain of a far process: everything handled, nothing granted but a program's own places.
//!
//! Invariant: whatever this kernel's Landlock can refuse (up to the newest ABI known here) is refused, as a
//! hard requirement: a kernel that claims an ABI and does not enforce it ends the process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::sys::answer;

/// Newest ABI that this module asks for; it has been tested on a kernel that has it.
const NEWEST_ABI: u32 = 7;
/// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
const ASK_VERSION: u32 = 1;

/// What a domain refuses of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tcp {
    /// Bind and connect.
    Nothing,
    /// Bind only: a gateway connects, to hosts that it checks itself.
    ConnectOnly,
    /// Bind, and connect to any port but this one: a program reaches its proxy.
    ConnectTo(u16),
}

/// The Landlock ABI that this kernel has and this crate uses; 0 for none.
#[must_use]
pub fn kernel_abi() -> u32 {
    // SAFETY: with this flag and no attribute the call only answers a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, ASK_VERSION) };
    u32::try_from(version).unwrap_or(0).min(NEWEST_ABI)
}

/// What a process is under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain {
    /// 0, and no domain, where the kernel has no Landlock.
    pub(crate) abi: u32,
    /// BLAKE3 of all that it refuses, hexadecimal; empty without a domain.
    pub(crate) hash: String,
}

impl Domain {
    /// Whether it knows TCP ports.
    pub(crate) fn refuses_ports(&self) -> bool {
        abi_of(self.abi).is_some_and(|abi| abi >= ABI::V4)
    }
}

/// What a program may do at one place and below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Read it.
    Read,
    /// Read and execute it.
    Execute,
    /// Execute this file, whose content the kernel reads.
    Program,
    /// Read and write a device.
    Device,
    /// Whatever is done in a directory of its own; no device, FIFO or socket is made there.
    Scratch,
    /// A granted place. What may be changed is never executed, and no device, FIFO or socket is made there.
    Granted { readable: bool, writable: bool },
}

/// One place that a domain lets through.
#[derive(Debug)]
pub(crate) struct Allowed {
    pub(crate) place: OwnedFd,
    pub(crate) reach: Reach,
}

impl Reach {
    fn access(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let change = AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::MakeSym
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        match self {
            Self::Read => read,
            Self::Execute => read | AccessFs::Execute,
            Self::Program => AccessFs::ReadFile | AccessFs::Execute,
            Self::Device => AccessFs::ReadFile | AccessFs::WriteFile,
            Self::Scratch => read | change,
            Self::Granted { readable: true, writable: false } => read | AccessFs::Execute,
            Self::Granted { readable: true, writable: true } => read | change,
            Self::Granted { readable: false, writable: true } => change,
            Self::Granted { readable: false, writable: false } => BitFlags::empty(),
        }
    }
}

/// A rule of a domain: what is let through at a place and below it.
#[derive(Debug)]
struct Rule {
    access: BitFlags<AccessFs>,
    /// The device and the inode of the place.
    identity: [u64; 2],
}

impl Allowed {
    fn rule(&self, abi: ABI) -> io::Result<Rule> {
        let facts = rustix::fs::fstat(&self.place)?;
        let is_directory = facts.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let known = if is_directory { AccessFs::from_all(abi) } else { AccessFs::from_file(abi) };
        let access = self.reach.access() & known;
        Ok(Rule { access, identity: [facts.st_dev, facts.st_ino] })
    }
}

/// A domain that nobody is under yet.
#[derive(Debug)]
pub(crate) struct Draft {
    tcp: Tcp,
    /// Nothing where the kernel has no Landlock.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    number: u32,
    abi: ABI,
    ruleset: RulesetCreated,
    rules: Vec<Rule>,
}

impl Draft {
    /// One that lets nothing through.
    pub(crate) fn new(tcp: Tcp) -> io::Result<Self> {
        let number = kernel_abi();
        let begun = abi_of(number).map(|abi| {
            let ruleset = begin(abi, tcp).map_err(io::Error::other)?;
            Ok::<_, io::Error>(Begun { number, abi, ruleset, rules: Vec::new() })
        });
        Ok(Self { tcp, begun: begun.transpose()? })
    }

    /// The same with these places let through as well.
    pub(crate) fn with(self, allowed: &[Allowed]) -> io::Result<Self> {
        let Self { tcp, begun } = self;
        let begun = begun.map(|begun| begun.with(allowed)).transpose()?;
        Ok(Self { tcp, begun })
    }

    /// Puts the caller under it.
    pub(crate) fn enter(self) -> io::Result<Domain> {
        let Some(Begun { number, abi, ruleset, rules }) = self.begun else {
            return Ok(Domain { abi: 0, hash: String::new() });
        };
        if ruleset.restrict_self().map_err(io::Error::other)?.ruleset == RulesetStatus::FullyEnforced {
            Ok(Domain { abi: number, hash: hash_of(abi, number, self.tcp, &rules) })
        } else {
            Err(io::Error::other("the kernel enforced only a part of the domain"))
        }
    }
}

impl Begun {
    fn with(mut self, allowed: &[Allowed]) -> io::Result<Self> {
        for one in allowed {
            let rule = one.rule(self.abi)?;
            if !rule.access.is_empty() {
                let added = self.ruleset.add_rule(PathBeneath::new(one.place.as_fd(), rule.access));
                self.ruleset = added.map_err(io::Error::other)?;
            }
            self.rules.push(rule);
        }
        Ok(self)
    }
}

fn begin(abi: ABI, tcp: Tcp) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    let ports = refused_ports(abi, tcp);
    if !ports.is_empty() {
        ruleset = ruleset.handle_access(ports)?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let mut created = ruleset.create()?;
    if let Some(port) = allowed_port(abi, tcp) {
        created = created.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    Ok(created)
}

/// What a domain refuses of TCP ports: nothing before the ABI that knows them.
fn refused_ports(abi: ABI, tcp: Tcp) -> BitFlags<AccessNet> {
    match tcp {
        _ if abi < ABI::V4 => BitFlags::empty(),
        Tcp::Nothing | Tcp::ConnectTo(_) => AccessNet::from_all(abi),
        Tcp::ConnectOnly => AccessNet::BindTcp.into(),
    }
}

/// The one port that may be connected to, where ports are refused.
fn allowed_port(abi: ABI, tcp: Tcp) -> Option<u16> {
    match tcp {
        Tcp::ConnectTo(port) if abi >= ABI::V4 => Some(port),
        Tcp::Nothing | Tcp::ConnectOnly | Tcp::ConnectTo(_) => None,
    }
}

/// Of the ABI, of all three sets that are handled, and of each rule that grants something of them.
fn hash_of(abi: ABI, number: u32, tcp: Tcp, rules: &[Rule]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&AccessFs::from_all(abi).bits().to_le_bytes());
    hasher.update(&refused_ports(abi, tcp).bits().to_le_bytes());
    hasher.update(&Scope::from_all(abi).bits().to_le_bytes());
    if let Some(port) = allowed_port(abi, tcp) {
        hasher.update(&port.to_le_bytes());
    }
    for Rule { access, identity: [device, inode] } in rules {
        hasher
            .update(&device.to_le_bytes())
            .update(&inode.to_le_bytes())
            .update(&access.bits().to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn abi_of(number: u32) -> Option<ABI> {
    Some(match number {
        0 => return None,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        _ => ABI::V7,
    })
}

/// Opens the root directory for reading: allowed before, refused inside a domain, whatever the root holds.
pub(crate) fn open_root() -> io::Result<()> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a constant path; the descriptor is closed below.
    let opened = answer(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), flags) })?;
    // SAFETY: closes what was just opened here.
    answer(unsafe { libc::syscall(libc::SYS_close, opened) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{ABI, AccessNet, Allowed, BitFlags, Reach, Tcp, allowed_port, hash_of, refused_ports};

    #[test]
    fn a_hash_tells_domains_apart_and_says_the_same_of_the_same() {
        let worker = hash_of(ABI::V7, 7, Tcp::Nothing, &[]);
        assert_eq!(worker, hash_of(ABI::V7, 7, Tcp::Nothing, &[]));
        assert_eq!(worker.len(), 64);
        for other in [
            hash_of(ABI::V7, 7, Tcp::ConnectOnly, &[]),
            hash_of(ABI::V7, 7, Tcp::ConnectTo(1), &[]),
            hash_of(ABI::V6, 6, Tcp::Nothing, &[]),
            hash_of(ABI::V3, 3, Tcp::Nothing, &[]),
        ] {
            assert_ne!(worker, other);
        }
        let rule = |reach| {
            let place = std::fs::File::open("/").expect("the root").into();
            hash_of(ABI::V7, 7, Tcp::Nothing, &[Allowed { place, reach }.rule(ABI::V7).expect("a rule")])
        };
        assert_eq!(rule(Reach::Read), rule(Reach::Read));
        assert_ne!(rule(Reach::Read), worker, "a rule lets something through");
        assert_ne!(rule(Reach::Read), rule(Reach::Execute));
    }

    #[test]
    fn ports_are_refused_from_the_abi_on_that_knows_them() {
        assert_eq!(refused_ports(ABI::V3, Tcp::Nothing), BitFlags::empty());
        assert_eq!(refused_ports(ABI::V4, Tcp::Nothing), AccessNet::BindTcp | AccessNet::ConnectTcp);
        assert_eq!(refused_ports(ABI::V4, Tcp::ConnectOnly), AccessNet::BindTcp);
        assert_eq!(refused_ports(ABI::V4, Tcp::ConnectTo(9)), AccessNet::BindTcp | AccessNet::ConnectTcp);
        assert_eq!(allowed_port(ABI::V4, Tcp::ConnectTo(9)), Some(9));
        assert_eq!(allowed_port(ABI::V3, Tcp::ConnectTo(9)), None, "it knows no ports");
        assert_eq!([Tcp::Nothing, Tcp::ConnectOnly].map(|tcp| allowed_port(ABI::V7, tcp)), [None; 2]);
    }
}
