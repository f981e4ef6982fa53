//! What the operator decides about the kernel.
//!
//! Invariant: every number has a default in [`aaos_core::limits`].

use std::path::PathBuf;
use std::time::Duration;

use aaos_core::confinement::ConfinementReceipt;
use aaos_core::limits;
use aaos_core::manifest::Manifest;
use aaos_core::price::PriceTable;
use aaos_core::quantity::Tokens;
use aaos_llm::ModelsConfig;
use serde::{Deserialize, Serialize};

use crate::local::LocalConfig;
use crate::principal::Principals;

/// Limits that the operator may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLimits {
    /// Agents alive at once.
    pub max_agents: usize,
    /// Depth below a goal's root agent.
    pub max_depth: u32,
    /// Children of one agent alive at once.
    pub max_children: usize,
    /// `spawn_agents` width.
    pub spawn_batch: usize,
    /// Inferences at once per provider.
    pub inference_slots: usize,
    /// Least time between two inferences of one provider, milliseconds.
    pub inference_gap_ms: u64,
    /// Purse of a goal that names none.
    pub goal_tokens: Tokens,
    /// Goals running at once.
    pub running_goals: usize,
}

impl Default for KernelLimits {
    fn default() -> Self {
        Self {
            max_agents: limits::MAX_AGENTS,
            max_depth: limits::MAX_SPAWN_DEPTH,
            max_children: limits::MAX_CHILDREN_AT_ONCE,
            spawn_batch: limits::MAX_CHILDREN_AT_ONCE,
            inference_slots: limits::MAX_CONCURRENT_INFERENCE,
            inference_gap_ms: 0,
            goal_tokens: Tokens(limits::RUN_TOKENS),
            running_goals: limits::MAX_RUNNING_GOALS,
        }
    }
}

impl KernelLimits {
    pub(crate) fn models(&self) -> ModelsConfig {
        ModelsConfig {
            slots_per_provider: self.inference_slots,
            min_gap: Duration::from_millis(self.inference_gap_ms),
            attempts: limits::INFERENCE_ATTEMPTS,
            attempt_time: Duration::from_millis(limits::INFERENCE_TIME_MS),
        }
    }

    pub(crate) fn authority(&self) -> aaos_core::authority::AuthorityLimits {
        aaos_core::authority::AuthorityLimits {
            max_agents: self.max_agents,
            max_depth: self.max_depth,
            max_children: self.max_children,
        }
    }
}

/// What the kernel is started with.
#[derive(Debug)]
pub struct KernelConfig {
    /// Package version, for status and the journal.
    pub version: String,
    /// Commit it was built from, for status.
    pub commit: String,
    /// Limits.
    pub limits: KernelLimits,
    /// What models cost.
    pub prices: PriceTable,
    /// The bootstrap agent of goals that bring none.
    pub bootstrap: Manifest,
    /// Directory below which each goal gets its workspace.
    pub workspaces: PathBuf,
    /// Directories that no grant reaches: state, configuration, sockets.
    pub protected: Vec<PathBuf>,
    /// Who may ask for what.
    pub principals: Principals,
    /// The models that this machine runs itself.
    pub local: LocalConfig,
    /// How the daemon's own process is locked; `None` where it is not a daemon's.
    pub daemon_confinement: Option<ConfinementReceipt>,
}
