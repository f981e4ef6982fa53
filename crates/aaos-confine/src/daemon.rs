//! The lock-down of agentd itself.
//!
//! Invariants: called once, single-threaded, after the zygote exists. It only refuses: no internet, vsock,
//! packet or netlink socket, no tracing, no mounts or namespaces, nothing of the kernel's administration. It
//! sets no Landlock domain: a signal scope would stop agentd from ending workers, and files are opened below
//! granted roots that come later. Its memory (every agent's data, and provider keys) can be read by no process
//! of its own uid and goes into no core file: where the daemon is an ordinary user, that uid is also its
//! gateways' and workers'. It still reads its own /proc/self, and that of peers and far processes: the kernel
//! asks whether the process that is looked at may be read, and always lets one look at itself. A filter survives `exec`: a re-executed agentd cannot start a new zygote
//! that works, so recovery goes through a process that was never locked (the service manager).

use crate::filter::{Filter, Meaning};
use crate::privilege::{set_dumpable, set_no_new_privs};
use crate::rlimits;
use crate::sys::{AtStep, LockError};
use crate::tables::DAEMON_REFUSED;

/// Locks the calling process as agentd and gives the hash of its filter.
///
/// # Errors
/// Names the step that failed; agentd must end.
pub fn lock_daemon() -> Result<String, LockError> {
    let filter =
        Filter::compile(DAEMON_REFUSED, Meaning::DenyList).at("compiling the daemon's seccomp filter")?;
    rlimits::apply(&[rlimits::CORE]).at("the limit of core files")?;
    set_dumpable(false).at("making memory unreadable")?;
    set_no_new_privs().at("no_new_privs")?;
    filter.install().at("the daemon's seccomp filter")?;
    Ok(filter.hash().to_owned())
}
