//! Locks the calling process down and serves requests from inside.
//!
//! Invariants: everything here acts on the calling process or on its own children. A step that was required and
//! failed ends the process; an optional one that failed is named in the report. Nothing is served before the
//! lock-down is complete.
#![allow(unsafe_code, reason = "clone, seccomp, capabilities and namespaces have no safe interface")]

mod channel;

pub use channel::{CHANNEL_FD, Channel, ChannelError};
