//! Locks the calling process down and serves requests from inside.
//!
//! Invariants: everything here acts on the calling process or on its own children. A step that was promised
//! and failed ends the process; a boundary that this machine cannot give is named in the report, and the
//! daemon, not this crate, judges whether that is enough. Nothing is served before the lock-down is complete.
#![allow(unsafe_code, reason = "clone, seccomp, capabilities and namespaces have no safe interface")]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the system call tables of aaos-confine are written for x86_64 only");

mod bpf;
mod channel;
pub mod control;
mod daemon;
mod descriptors;
mod domain;
pub mod filter;
mod gateway;
mod inherit;
mod loopback;
mod model;
mod mount_table;
mod mounts;
pub mod namespaces;
mod privilege;
mod probe;
mod program;
mod program_ground;
mod program_output;
mod program_start;
mod program_system;
mod program_world;
mod relay;
pub mod rlimits;
pub mod steps;
mod sys;
pub mod tables;
mod worker;
pub mod zygote;

pub use channel::{CHANNEL_FD, Channel, ChannelError};
pub use daemon::lock_daemon;
pub use domain::kernel_abi;
pub use gateway::{GatewayRole, lock_gateway};
pub use inherit::take_inherited;
pub use model::{ModelPlan, lock_model};
pub use privilege::FarUids;
pub use probe::run_probes;
pub use program::PROGRAM_NAMESPACES;
pub use sys::{LockError, makes_processes_in_groups};
pub use worker::{WorkerPlan, lock_worker};
