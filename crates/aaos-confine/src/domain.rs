//! The Landlock domain of a far process: everything handled, nothing granted.
//!
//! Invariant: whatever this kernel's Landlock can refuse (up to the newest ABI known here) is refused, as a
//! hard requirement: a kernel that claims an ABI and does not enforce it ends the process.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
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

/// Enters a domain without any rule and gives its ABI; 0, and no domain, where the kernel has no Landlock.
pub(crate) fn enter(tcp: Tcp) -> io::Result<u32> {
    let number = kernel_abi();
    let Some(abi) = abi_of(number) else { return Ok(0) };
    let status = restrict(abi, tcp).map_err(io::Error::other)?;
    if status == RulesetStatus::FullyEnforced {
        Ok(number)
    } else {
        Err(io::Error::other("the kernel enforced only a part of the domain"))
    }
}

fn restrict(abi: ABI, tcp: Tcp) -> Result<RulesetStatus, landlock::RulesetError> {
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
    Ok(ruleset.create()?.restrict_self()?.ruleset)
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
