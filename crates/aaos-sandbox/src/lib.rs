//! Near end of confined processes: launch, prove that they are locked, hand over descriptors, call, stop,
//! reap.
//!
//! Invariants: agentd never forks once it runs; every far process is made by the zygote. Nothing is sent to a
//! worker before it is locked and its lock-down was read back. No path of this crate runs a tool in agentd.
#![allow(unsafe_code, reason = "clone and descriptors passed across exec have no safe interface")]

mod beneath;
mod broker;
mod calls;
mod channel;
mod commit;
mod config;
mod disk;
mod doorbell;
mod egress;
mod errand;
mod error;
mod gauge;
mod groups;
mod launch;
mod launcher;
mod leaf;
mod model;
mod network;
mod observe;
mod own;
mod plan;
mod pool;
mod process;
mod program;
mod program_call;
mod program_file;
mod program_plan;
mod program_told;
mod protect;
mod receipt;
mod removal;
mod restore;
mod roots;
mod spare;
mod survey;
mod unpack;
mod worker;
mod zygote;

pub use aaos_confine::GatewayRole;
pub use aaos_confine::namespaces::{Abilities, NamespaceSet};
pub use config::SandboxConfig;
pub use doorbell::Doorbell;
pub use egress::download::{Download, DownloadOrder};
pub use egress::proxied::{Proxied, ProxyNews, tell_unavailable};
pub use egress::{Egress, Fetched, FetchedPage};
pub use errand::{Errand, Ways};
pub use error::SandboxError;
pub use gauge::{Gauge, OutOfMemory};
pub use groups::{GroupName, Groups, GroupsError};
pub use launch::{Gateway, Sandbox};
pub use leaf::{GroupLimits, Leaf, Shortage};
pub use model::{LocalModel, LockedModel};
pub use own::lock_this_daemon;
pub use process::{FarProcess, WorkerEnd, WorkerKiller};
pub use program::{ProgramEnd, ProgramSandbox, program_text};
pub use program_call::ProgramCall;
pub use program_file::OpenedProgram;
pub use removal::{Left, LeftWhy, RemovalError, Removed, remove_workspace};
pub use roots::{ObservedFile, OpenedRoot, RootError, RootTable};
pub use survey::Survey;
pub use worker::Worker;
pub use zygote::ZygoteSeed;
