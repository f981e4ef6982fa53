//! The daemon's own lock-down, read back like that of any other process.
//!
//! Invariant: a daemon whose own lock-down is not proved does not start.

use aaos_core::confinement::{Boundary, ConfinementPolicy, ConfinementReceipt, ProbeResult};

use crate::error::SandboxError;
use crate::launch::fresh_id;
use crate::receipt::{DAEMON_PROFILE, Origin, hold_against, write_receipt};

/// What the daemon requires of itself.
const REQUIRED: [Boundary; 3] = [Boundary::NoNewPrivs, Boundary::Seccomp, Boundary::Rlimits];

/// Locks the calling process as agentd, for good, and proves it. Call it on the main thread, before any other thread
/// exists and after the zygote was started: nothing can be executed afterwards.
///
/// # Errors
/// When a step fails or a boundary is not proved; agentd must end.
pub fn lock_this_daemon() -> Result<ConfinementReceipt, SandboxError> {
    let pid = std::process::id();
    let unread = |source| SandboxError::Launch { step: "reading the daemon's own confinement back", source };
    let born = Origin::read(pid).map_err(unread)?;
    let report = aaos_confine::lock_daemon()?;
    let policy =
        ConfinementPolicy { require: REQUIRED.to_vec(), prefer: Vec::new(), ..ConfinementPolicy::default() };
    let mut receipt =
        write_receipt(fresh_id()?, pid, &born, None, &report, DAEMON_PROFILE, &policy).map_err(unread)?;
    hold_against(&ConfinementPolicy { require: REQUIRED.to_vec(), ..policy }, &receipt, DAEMON_PROFILE)?;
    let tried = tried(&report.probes);
    for one in receipt.boundaries.iter_mut().filter(|one| one.boundary == Boundary::Seccomp) {
        one.detail = format!("{}; {tried}", one.detail);
    }
    Ok(receipt)
}

/// What was tried in the locked process, in words.
fn tried(probes: &[ProbeResult]) -> String {
    let refused: Vec<&str> =
        probes.iter().filter(|probe| probe.refused).map(|probe| probe.attempt.as_str()).collect();
    format!("tried and refused: {}", refused.join(", "))
}
