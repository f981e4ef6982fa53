//! The manifest of one agent (SPEC §1).
//!
//! Invariant: a [`Manifest`] was parsed strictly; nothing in it is ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capability::GrantSpec;
use crate::name::{AgentName, ModelName};
use crate::quantity::Tokens;

/// How long an agent lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifecycle {
    /// For one run.
    #[default]
    OnDemand,
    /// With an own mailbox loop, across restarts.
    Persistent,
}

/// `budget_config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct BudgetConfig {
    /// Input plus output tokens, children included; no limit of its own when absent.
    pub max_tokens: Option<Tokens>,
}

/// `memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// Context window in tokens.
    pub context_window: Tokens,
    /// Most messages kept between runs of a persistent agent.
    pub max_history_messages: u32,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { context_window: Tokens(128 * 1024), max_history_messages: 100 }
    }
}

/// One agent, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name.
    pub name: AgentName,
    /// Its model.
    pub model: ModelName,
    /// Its system prompt.
    pub system_prompt: String,
    /// Its lifecycle.
    pub lifecycle: Lifecycle,
    /// What it may do; nothing by default.
    pub capabilities: Vec<GrantSpec>,
    /// Context settings.
    pub memory: MemoryConfig,
    /// Its purse.
    pub budget_config: BudgetConfig,
    /// JSON Schema of the messages it takes.
    pub accepts: Option<serde_json::Value>,
    /// Free notes.
    pub metadata: BTreeMap<String, String>,
}
