//! The kernel: goals, the agent registry, supervision, and the one dispatch of every effect.
//!
//! Invariants: every outward act goes through [`Kernel`]'s dispatch (authorise, begin, act, finish); nothing
//! here runs a tool body, opens a socket or reads a provider's bytes. An agent is visible only once it is
//! complete. No lock is held across an await.

mod agents;
mod appends;
mod approvals;
mod audit;
mod boot;
mod capabilities;
mod cassette;
mod ceiling;
mod clock;
mod config;
mod connections;
mod context;
mod denials;
mod dispatch;
mod doorbell;
mod error;
mod fallback;
mod far;
mod figures;
mod findings;
mod fork;
mod goals;
mod history;
mod inference;
mod kernel;
mod keyfile;
mod ladder;
mod local;
mod mail;
mod messages;
mod meter;
mod narrow;
mod outputs;
mod places;
mod principal;
mod programs;
mod quiet;
mod recovery;
mod registry;
mod repeat;
mod revocation;
mod run;
mod schedules;
mod spans;
mod spawn;
mod spawning_tools;
mod standing;
mod supervise;
mod survey;
mod unfinished;
mod verdict;
mod view;
mod waits;
mod workspaces;

pub use approvals::{Answer, Covers};
pub use audit::{AuditPage, AuditReader};
pub use boot::Closed;
pub use capabilities::{Asked, Explanation, GrantView, MetView, ReachView};
pub use cassette::Cassette;
pub use ceiling::Ceiling;
pub use clock::{Clock, ClockHand};
pub use config::{KernelConfig, KernelLimits};
pub use context::ContextReport;
pub use error::KernelError;
pub use fork::{ForkRefused, ForkRequest, Forked, RestoredFile};
pub use goals::{Follower, GoalRequest};
pub use kernel::{Kernel, KernelParts};
pub use keyfile::{KeyFile, KeyFileError};
pub use local::{LocalConfig, LocalWeights};
pub use principal::{Listed, Principal, Principals, PrincipalsError, Right, Rights};
pub use spans::{SpanExport, SpanWords};
pub use view::{
    AgentState, AgentStatus, AgentView, AliasView, ApprovalInForce, ApprovalView, CallReport, GoalView,
    ModelsView, PurseReport, QuantityReport, RunAnswer, RunResult, RuntimeStatus, Spread, ToolView,
    TraceReport, TraceState, UnknownEffect,
};
