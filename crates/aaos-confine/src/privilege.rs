//! Identity and privilege of the calling process: uid, capabilities, `no_new_privs`, dumpability.
//!
//! Invariant: every step only gives up. Calls are raw, so they act on the calling thread alone: callers are
//! single-threaded.

use std::io;

use crate::sys::answer;

/// The uids that far processes of a root daemon run under, one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FarUids {
    /// A hundred million that no distribution assigns.
    Wide,
    /// systemd's range for dynamic service users, for containers that map only 65,536 uids.
    Narrow,
}

/// Uids at the start of a range that belong to gateway roles.
const RESERVED_UIDS: u32 = 16;

impl FarUids {
    /// Every range, the preferred first.
    pub const ALL: [Self; 2] = [Self::Wide, Self::Narrow];

    /// Its first and last uid.
    #[must_use]
    pub const fn bounds(self) -> (u32, u32) {
        match self {
            Self::Wide => (2_000_000_000, 2_099_999_999),
            Self::Narrow => (61_184, 65_519),
        }
    }

    /// The uid of the worker launched as number `serial`. At the end of the range the numbers come round
    /// again.
    #[must_use]
    pub const fn of_worker(self, serial: u32) -> u32 {
        let (first, last) = self.bounds();
        let room = last - first + 1 - RESERVED_UIDS;
        first + RESERVED_UIDS + serial % room
    }

    /// The uid of a gateway role.
    #[must_use]
    pub const fn of_gateway(self, role: u32) -> u32 {
        assert!(role < RESERVED_UIDS, "roles are few");
        self.bounds().0 + role
    }

    /// Whether a uid (or the gid of the same number) belongs to a far process.
    #[must_use]
    pub fn any_has(uid: u32) -> bool {
        Self::ALL.into_iter().any(|range| (range.bounds().0..=range.bounds().1).contains(&uid))
    }
}

/// Whether the caller is the superuser of its user namespace.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Leaves every group and takes `uid` as real, effective and saved user and group.
pub(crate) fn become_uid(uid: u32) -> io::Result<()> {
    assert!(FarUids::any_has(uid), "far processes never run as anybody else");
    let id = libc::c_long::from(uid);
    // SAFETY: plain numbers; an empty group list needs no pointer.
    answer(unsafe { libc::syscall(libc::SYS_setgroups, 0_usize, 0_usize) })?;
    // SAFETY: plain numbers.
    answer(unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) })?;
    // SAFETY: plain numbers.
    answer(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) })?;
    Ok(())
}

fn prctl(option: i32, argument: u64) -> io::Result<i64> {
    // SAFETY: every option used in this module takes plain numbers.
    answer(unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0_u64, 0_u64, 0_u64) })
}

/// No program executed from here on gains privilege.
pub(crate) fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Whether processes of the same uid may trace and read this one, and its /proc files belong to it.
pub(crate) fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(dumpable)).map(drop)
}

/// Children of children that lose their parent come to this process.
pub(crate) fn set_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)
}

/// Dies when its parent does. A change of identity forgets this, so it comes after every such change.
/// `parent` is what `getppid` must still answer (0 for a parent outside the PID namespace).
pub(crate) fn die_with_parent(parent: u32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, u64::from(libc::SIGKILL.unsigned_abs()))?;
    if parent_pid() == parent { Ok(()) } else { Err(io::Error::other("the parent has already died")) }
}

/// `getppid`: 0 where the parent is outside the PID namespace.
pub(crate) fn parent_pid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    let pid = unsafe { libc::syscall(libc::SYS_getppid) };
    u32::try_from(pid).unwrap_or(0)
}

/// Empties the bounding set. `Ok(false)`: the caller has no right to, which `no_new_privs` makes harmless.
pub(crate) fn drop_bounding_set() -> io::Result<bool> {
    for capability in 0..=63 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(capability > 0),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// `PR_CAP_AMBIENT_CLEAR_ALL` of linux/prctl.h.
const CLEAR_ALL_AMBIENT: u64 = 4;

/// Empties the ambient, inheritable, permitted and effective sets.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL_AMBIENT)?;
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let none = [CapData::default(); 2];
    // SAFETY: version 3 reads one header and two data structs, which both outlive the call.
    answer(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::FarUids;

    #[test]
    fn uids_stay_in_their_range_and_are_never_shared_with_a_role() {
        for range in FarUids::ALL {
            let (first, last) = range.bounds();
            for serial in [0, 1, 4319, 4320, 99_999_983, 99_999_984, u32::MAX] {
                assert!((first + 16..=last).contains(&range.of_worker(serial)), "{range:?} {serial}");
            }
            assert_ne!(range.of_worker(1), range.of_worker(2));
            assert!(FarUids::any_has(range.of_gateway(1)) && range.of_gateway(1) < range.of_worker(0));
        }
        assert!(!FarUids::any_has(0) && !FarUids::any_has(1000) && !FarUids::any_has(65_534));
    }
}
