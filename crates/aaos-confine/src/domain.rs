//! The Landlock domain of a far process: everything handled, nothing granted but a program's own places.
//!
//! Invariant: whatever this kernel's Landlock can refuse (up to the newest ABI known here) is refused, as a
//! hard requirement: a kernel that claims an ABI and does not enforce it ends the process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
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
}

/// The Landlock ABI that this kernel has and this crate uses; 0 for none.
#[must_use]
pub fn kernel_abi() -> u32 {
    // SAFETY: with this flag and no attribute the call only answers a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, ASK_VERSION) };
    u32::try_from(version).unwrap_or(0).min(NEWEST_ABI)
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

/// Enters a domain with these rules and gives its ABI; 0, and no domain, where the kernel has no Landlock.
pub(crate) fn enter_with(tcp: Tcp, allowed: &[Allowed]) -> io::Result<u32> {
    let number = kernel_abi();
    let Some(abi) = abi_of(number) else { return Ok(0) };
    let status = restrict(abi, tcp, allowed).map_err(io::Error::other)?;
    if status == RulesetStatus::FullyEnforced {
        Ok(number)
    } else {
        Err(io::Error::other("the kernel enforced only a part of the domain"))
    }
}

fn restrict(abi: ABI, tcp: Tcp, allowed: &[Allowed]) -> Result<RulesetStatus, landlock::RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    if abi >= ABI::V4 {
        ruleset = match tcp {
            Tcp::Nothing => ruleset.handle_access(AccessNet::from_all(abi))?,
            Tcp::ConnectOnly => ruleset.handle_access(AccessNet::BindTcp)?,
        };
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let mut created = ruleset.create()?;
    for Allowed { place, reach } in allowed {
        let mut access = reach.access() & AccessFs::from_all(abi);
        let is_directory =
            rustix::fs::fstat(place).is_ok_and(|facts| facts.st_mode & libc::S_IFMT == libc::S_IFDIR);
        if !is_directory {
            access &= AccessFs::from_file(abi);
        }
        if !access.is_empty() {
            created = created.add_rule(PathBeneath::new(place.as_fd(), access))?;
        }
    }
    Ok(created.restrict_self()?.ruleset)
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
