//! The one room with a network, in confined roles: `models` (providers, with their keys) and `egress` (pages
//! for tools, without keys).
//!
//! Invariants: a stranger's bytes are parsed here and never in agentd; everything that is needed from disk is
//! read before the process locks itself; no file is opened after; the roles share only how to reach a host.

mod builtin;
pub mod channel;
pub mod dial;
pub mod egress;
pub mod models;
mod words;

/// How the gateway names itself to servers.
pub const USER_AGENT: &str = concat!("aaOS/", env!("CARGO_PKG_VERSION"));
