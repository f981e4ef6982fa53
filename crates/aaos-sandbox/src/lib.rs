//! Near end of confined processes: launch, prove that they are locked, hand over descriptors, call, stop, reap.
//!
//! Invariants: agentd never forks once it runs; every far process is made by the zygote. Nothing is sent to a
//! worker before it is locked and its lock-down was read back. No path of this crate runs a tool in agentd.
#![allow(unsafe_code, reason = "clone and descriptors passed across exec have no safe interface")]

mod beneath;
mod broker;
mod calls;
mod channel;
mod egress;
mod error;
mod process;
mod protect;
mod roots;

pub use error::SandboxError;
pub use process::{Worker, WorkerEnd};
