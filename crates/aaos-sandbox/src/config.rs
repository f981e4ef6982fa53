//! How far processes are launched and used: what an operator may set.
//!
//! Invariant: nothing here makes a boundary weaker than the policy that it holds.

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::limits::TOOL_TIME_MS;
use aaos_core::quantity::Millis;

/// What a [`crate::Sandbox`] goes by for its whole life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxConfig {
    /// What is demanded of confinement.
    pub policy: ConfinementPolicy,
    /// How long one call may run in a worker; one that runs longer ends with its worker.
    pub tool_time: Millis,
    /// How many workers are launched before anybody needs them, at most.
    pub parked_workers: usize,
    /// Whether the sandbox of the next program is made before a call needs it, from the first program on.
    pub parks_programs: bool,
}

impl From<ConfinementPolicy> for SandboxConfig {
    /// The policy, the house's time for a call, and no process that nobody asked for.
    fn from(policy: ConfinementPolicy) -> Self {
        Self { policy, tool_time: Millis(TOOL_TIME_MS), parked_workers: 0, parks_programs: false }
    }
}
