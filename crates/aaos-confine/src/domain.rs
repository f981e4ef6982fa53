//! The Landlock domain of a far process: everything handled, nothing granted.
//!
//! Invariant: whatever this kernel's Landlock can refuse (up to the newest ABI known here) is refused, as a
//! hard requirement: a kernel that claims an ABI and does not enforce it ends the process.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
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

/// What a process is under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain {
    /// 0, and no domain, where the kernel has no Landlock.
    pub(crate) abi: u32,
    /// BLAKE3 of all that it refuses, hexadecimal; empty without a domain.
    pub(crate) hash: String,
}

/// Enters a domain without any rule.
pub(crate) fn enter(tcp: Tcp) -> io::Result<Domain> {
    let number = kernel_abi();
    let Some(abi) = abi_of(number) else { return Ok(Domain { abi: 0, hash: String::new() }) };
    let status = restrict(abi, tcp).map_err(io::Error::other)?;
    if status == RulesetStatus::FullyEnforced {
        Ok(Domain { abi: number, hash: hash_of(abi, number, tcp) })
    } else {
        Err(io::Error::other("the kernel enforced only a part of the domain"))
    }
}

fn restrict(abi: ABI, tcp: Tcp) -> Result<RulesetStatus, landlock::RulesetError> {
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
    Ok(ruleset.create()?.restrict_self()?.ruleset)
}

/// What a domain refuses of TCP ports: nothing before the ABI that knows them.
fn refused_ports(abi: ABI, tcp: Tcp) -> BitFlags<AccessNet> {
    match tcp {
        _ if abi < ABI::V4 => BitFlags::empty(),
        Tcp::Nothing => AccessNet::from_all(abi),
        Tcp::ConnectOnly => AccessNet::BindTcp.into(),
    }
}

/// Of the ABI and of all three sets that are handled; there is no rule that would grant anything of them.
fn hash_of(abi: ABI, number: u32, tcp: Tcp) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&AccessFs::from_all(abi).bits().to_le_bytes());
    hasher.update(&refused_ports(abi, tcp).bits().to_le_bytes());
    hasher.update(&Scope::from_all(abi).bits().to_le_bytes());
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
    use super::{ABI, AccessNet, BitFlags, Tcp, hash_of, refused_ports};

    #[test]
    fn a_hash_tells_domains_apart_and_says_the_same_of_the_same() {
        let worker = hash_of(ABI::V7, 7, Tcp::Nothing);
        assert_eq!(worker, hash_of(ABI::V7, 7, Tcp::Nothing));
        assert_eq!(worker.len(), 64);
        for other in [
            hash_of(ABI::V7, 7, Tcp::ConnectOnly),
            hash_of(ABI::V6, 6, Tcp::Nothing),
            hash_of(ABI::V3, 3, Tcp::Nothing),
        ] {
            assert_ne!(worker, other);
        }
    }

    #[test]
    fn ports_are_refused_from_the_abi_on_that_knows_them() {
        assert_eq!(refused_ports(ABI::V3, Tcp::Nothing), BitFlags::empty());
        assert_eq!(refused_ports(ABI::V4, Tcp::Nothing), AccessNet::BindTcp | AccessNet::ConnectTcp);
        assert_eq!(refused_ports(ABI::V4, Tcp::ConnectOnly), AccessNet::BindTcp);
    }
}
