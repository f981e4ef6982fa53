//! The lock-down of agentd itself.
//!
//! Invariants: called once, single-threaded, after the zygote exists. It only refuses: no internet, vsock,
//! packet or netlink socket, no other program in its place or beside it, no tracing, no mounts or namespaces, nothing
//! of the kernel's administration. It sets no Landlock domain: a signal scope would stop agentd from ending workers, and files are opened below
//! granted roots that come later. Its memory (every agent's data, and provider keys) can be read by no process
//! of its own uid and goes into no core file: where the daemon is an ordinary user, that uid is also its
//! gateways' and workers'. It still reads its own /proc/self, and that of peers and far processes: the kernel
//! asks whether the process that is looked at may be read, and always lets one look at itself. Nothing is executed any
//! more, not even agentd itself, which under this filter could start no zygote that works: recovery goes through a
//! process that was never locked (the service manager).

use aaos_core::confinement::LockedReport;
use aaos_core::path::AbsPath;
use aaos_core::wire::ProbeAttempt;

use crate::filter::{Filter, Meaning};
use crate::privilege::{set_dumpable, set_no_new_privs};
use crate::probe::run_probes;
use crate::rlimits::{self, DAEMON_LIMITS};
use crate::sys::{AtStep, LockError};
use crate::tables::DAEMON_REFUSED;

/// Locks the calling process as agentd, has it try what it may not do any more, and reports that.
///
/// # Errors
/// Names the step that failed; agentd must end.
pub fn lock_daemon() -> Result<LockedReport, LockError> {
    let filter =
        Filter::compile(DAEMON_REFUSED, Meaning::DenyList).at("compiling the daemon's seccomp filter")?;
    rlimits::apply(DAEMON_LIMITS).at("the limit of core files")?;
    set_dumpable(false).at("making memory unreadable")?;
    set_no_new_privs().at("no_new_privs")?;
    filter.install().at("the daemon's seccomp filter")?;
    Ok(LockedReport {
        landlock_abi: 0,
        landlock_rules_hash: String::new(),
        seccomp_filter_hash: filter.hash().to_owned(),
        namespaces: Vec::new(),
        probes: run_probes(&attempts()),
    })
}

/// What agentd tries once it is locked.
fn attempts() -> Vec<ProbeAttempt> {
    let mut attempts = vec![ProbeAttempt::InetSocket];
    attempts.extend(AbsPath::parse("/bin/true").map(ProbeAttempt::Exec));
    attempts.extend([
        ProbeAttempt::VsockSocket,
        ProbeAttempt::UserNamespace,
        ProbeAttempt::IoUring,
        ProbeAttempt::Bpf,
    ]);
    attempts
}
