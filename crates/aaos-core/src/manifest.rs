//! The manifest of one agent (SPEC §1).
//!
//! Invariant: a [`Manifest`] was parsed strictly; nothing in it is ignored. Fields whose effect is not built
//! yet are refused as such, apart from unknown ones.

mod budget;
mod fields;
mod lifecycle;
mod parse;
mod supervision;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::budget::{Budget, Ceilings};
use crate::capability::{CapabilityError, GrantSpec};
use crate::name::{AgentName, ModelName, NameError, ToolName};
use crate::quantity::{Bytes, MicroUsd, Millis, Quantity, Tokens};
use crate::schedule::{ScheduleError, ScheduleSpec};
use crate::supervision::Supervision;
use crate::variables::{VariableError, Variables};

pub use parse::inline_prompt_file;
pub use yaml::Place;

/// How long an agent lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifecycle {
    /// For one run.
    #[default]
    OnDemand,
    /// With an own mailbox loop, across restarts.
    Persistent,
    /// As persistent, and woken by the clock besides.
    Scheduled(ScheduleSpec),
}

impl Lifecycle {
    /// Whether the agent stays when a run of it ends, with its mailbox, its conversation and its identity.
    #[must_use]
    pub const fn outlives_a_run(&self) -> bool {
        matches!(self, Self::Persistent | Self::Scheduled(_))
    }

    /// When the clock wakes it, if it does.
    #[must_use]
    pub const fn schedule(&self) -> Option<&ScheduleSpec> {
        match self {
            Self::Scheduled(spec) => Some(spec),
            Self::OnDemand | Self::Persistent => None,
        }
    }
}

/// As a manifest writes it, for a sentence.
impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnDemand => f.write_str("on-demand"),
            Self::Persistent => f.write_str("persistent"),
            Self::Scheduled(spec) => write!(f, "{{ scheduled: \"{}\" }}", spec.schedule),
        }
    }
}

/// `budget_config`: ceilings on what the agent and its descendants spend together; no limit of its own where
/// absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct BudgetConfig {
    /// Input plus output tokens.
    pub max_tokens: Option<Tokens>,
    /// Price of its inferences.
    pub max_usd: Option<MicroUsd>,
    /// Time that its own runs last; descendants have their own.
    pub max_wall: Option<Millis>,
    /// Children spawned.
    pub max_children: Option<u64>,
    /// Bytes received through the egress gateway.
    pub max_egress_bytes: Option<Bytes>,
    /// Bytes written to files.
    pub max_written_bytes: Option<Bytes>,
    /// Files created.
    pub max_files: Option<u64>,
    /// Bytes recorded in the journal.
    pub max_journal_bytes: Option<Bytes>,
    /// After how long all of it is granted anew; never when absent.
    pub reset_period: Option<Millis>,
}

impl BudgetConfig {
    /// Whether it has no ceiling at all.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self { reset_period: self.reset_period, ..Self::default() }
    }

    /// The same as a purse takes it.
    #[must_use]
    pub fn budget(&self) -> Budget {
        let max = Ceilings::NONE
            .with(Quantity::Tokens, self.max_tokens.map(|most| most.0))
            .with(Quantity::MicroUsd, self.max_usd.map(|most| most.0))
            .with(Quantity::WallMillis, self.max_wall.map(|most| most.0))
            .with(Quantity::Children, self.max_children)
            .with(Quantity::EgressBytes, self.max_egress_bytes.map(|most| most.0))
            .with(Quantity::WrittenBytes, self.max_written_bytes.map(|most| most.0))
            .with(Quantity::Files, self.max_files)
            .with(Quantity::JournalBytes, self.max_journal_bytes.map(|most| most.0));
        Budget { max, reset_period: self.reset_period }
    }

    /// The lower of each ceiling of the two. The window stays this one's own.
    #[must_use]
    pub fn lower(self, other: &Self) -> Self {
        Self {
            max_tokens: lower(self.max_tokens, other.max_tokens),
            max_usd: lower(self.max_usd, other.max_usd),
            max_wall: lower(self.max_wall, other.max_wall),
            max_children: lower(self.max_children, other.max_children),
            max_egress_bytes: lower(self.max_egress_bytes, other.max_egress_bytes),
            max_written_bytes: lower(self.max_written_bytes, other.max_written_bytes),
            max_files: lower(self.max_files, other.max_files),
            max_journal_bytes: lower(self.max_journal_bytes, other.max_journal_bytes),
            reset_period: self.reset_period,
        }
    }
}

/// The lower of the two; what is absent bounds nothing.
pub(crate) fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A part of something, in ten-thousandths: above none and at most all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Share(u16);

impl Share {
    /// Ten-thousandths in a whole.
    const WHOLE: u16 = 10_000;

    /// So many ten-thousandths, if that is a share.
    #[must_use]
    pub const fn of(parts: u16) -> Option<Self> {
        if parts > 0 && parts <= Self::WHOLE { Some(Self(parts)) } else { None }
    }

    /// So much of these tokens, rounded down.
    #[must_use]
    pub fn tokens(self, whole: Tokens) -> Tokens {
        let part = u128::from(whole.0) * u128::from(self.0) / u128::from(Self::WHOLE);
        Tokens(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

/// `memory`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// Context window in tokens.
    pub context_window: Tokens,
    /// Most messages that a run begins with.
    pub max_history_messages: u32,
    /// The part of the window from which on the oldest part of the conversation is summarised. Absent only in journals
    /// of versions that did not.
    #[serde(default)]
    pub summarization_threshold: Option<Share>,
    /// The model that summarises; absent: the agent's own.
    #[serde(default)]
    pub summarization_model: Option<ModelName>,
    /// How many days after it was said or done something can be read back that went from the conversation; absent: as
    /// long as the agent lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_ttl_days: Option<u32>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            context_window: Tokens(128 * 1024),
            max_history_messages: 100,
            summarization_threshold: Share::of(7_000),
            summarization_model: None,
            archive_ttl_days: None,
        }
    }
}

/// One agent, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name.
    pub name: AgentName,
    /// Its model; of a ladder the first.
    pub model: ModelName,
    /// The models that follow on its ladder, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_models: Vec<ModelName>,
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
    /// Tools of which each use waits for a human; sorted, each once.
    pub approval_required: Vec<ToolName>,
    /// Models that its children may use besides its own; sorted, each once.
    pub child_models: Vec<ModelName>,
    /// Whether it is started again when it ends.
    pub supervision: Supervision,
    /// Environment variables of the programs that it starts.
    #[serde(default, skip_serializing_if = "Variables::is_empty")]
    pub environment: Variables,
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
    /// Two fields of which there may be one.
    #[error("`{one}` and `{other}` exclude each other; leave one of them out")]
    Both {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
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
    /// Variables that no program can be given, or not by a manifest.
    #[error("`environment`: {0}")]
    Variables(#[from] VariableError),
    /// A `lifecycle.scheduled` that is no schedule.
    #[error("`lifecycle.scheduled`: {0}")]
    Schedule(#[from] ScheduleError),
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

    /// The models that it asks, the first one first.
    pub fn models(&self) -> impl Iterator<Item = &ModelName> {
        std::iter::once(&self.model).chain(&self.next_models)
    }

    /// The model on this rung of its ladder; the last one, where there are not so many.
    #[must_use]
    pub fn model_at(&self, rung: u32) -> &ModelName {
        let index = usize::try_from(rung).unwrap_or(usize::MAX).min(self.next_models.len());
        index.checked_sub(1).and_then(|index| self.next_models.get(index)).unwrap_or(&self.model)
    }
}
