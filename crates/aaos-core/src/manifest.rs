//! The manifest of one agent (SPEC §1).
//!
//! Invariant: a [`Manifest`] was parsed strictly; nothing in it is ignored. Fields whose effect is not built
//! yet are refused as such, apart from unknown ones.

mod fields;
mod parse;
pub(crate) mod yaml;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capability::{CapabilityError, GrantSpec};
use crate::name::{AgentName, ModelName, NameError};
use crate::quantity::Tokens;

pub use parse::inline_prompt_file;
pub use yaml::Place;

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

/// Why a manifest was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct ManifestError {
    /// Where in the text.
    pub at: Place,
    /// What is wrong there.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not YAML, or more of it than a manifest may hold.
    #[error("{0}")]
    Yaml(String),
    /// No such field.
    #[error("unknown field {found:?} in {within}; nearest: {nearest:?}")]
    UnknownField {
        /// As written.
        found: String,
        /// `the manifest`, `memory` and so on.
        within: &'static str,
        /// The nearest valid spelling.
        nearest: &'static str,
    },
    /// A field, or a form of it, whose effect is not built yet.
    #[error("`{what}` is not supported in this version; leave it out")]
    NotSupported {
        /// What.
        what: String,
    },
    /// A required field is absent.
    #[error("field `{field}` is missing")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// A field holds something that it cannot.
    #[error("`{field}` must be {wanted}, not {found}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it takes.
        wanted: &'static str,
        /// What stands there.
        found: String,
    },
    /// An unusable name.
    #[error("`{field}`: {source}")]
    Name {
        /// Which field.
        field: &'static str,
        /// Why.
        source: NameError,
    },
    /// An unusable capability.
    #[error("{0}")]
    Capability(#[from] CapabilityError),
    /// `system_prompt: { file: PATH }`, which the daemon does not read.
    #[error(
        "`system_prompt` names the file {path:?}; only the command line reads it: put the text itself here"
    )]
    SystemPromptFile {
        /// As written.
        path: String,
    },
    /// The file of `system_prompt: { file: PATH }` could not be read.
    #[error("cannot read the system prompt from {path:?}: {reason}")]
    PromptUnreadable {
        /// As written.
        path: String,
        /// Why.
        reason: String,
    },
}

impl Manifest {
    /// Parses a manifest, strictly.
    ///
    /// # Errors
    /// [`ManifestError`] with line and column; it names the nearest valid spelling of what is unknown.
    pub fn parse(yaml: &str) -> Result<Self, ManifestError> {
        parse::manifest(yaml)
    }
}
