//! What the tests of aaOS share: scripted servers, scratch directories, and the real binaries driven from outside.
//!
//! Invariants: nothing here sleeps; every wait ends at an event or at [`PATIENCE`], and then fails loudly. Servers
//! listen on 127.0.0.1 only, run on a thread of their own (so a test may block), and end when they are dropped. A
//! request that no script answers is answered with an error and counted, never with something that looks right.

mod daemon;
mod files;
mod gate;
mod http;
mod ledger;
mod model;
mod policy;
mod process;
mod rpc;
mod tracer;
mod web;
mod zip;

pub use daemon::{Backend, Daemon, DaemonBuilder, Finished};
pub use files::{Binaries, Snapshot, binaries, scratch};
pub use gate::Gate;
pub use model::{
    Chop, CutAs, Dialect, ModelServer, ReportedUsage, SCRIPTED_MODEL, Script, SeenMessage, SeenRequest,
    SeenResult, StopAs, Turn,
};
pub use policy::{Policy, Subject};
pub use process::{ProcessRef, descendants};
pub use rpc::{Client, RpcFailure, RpcTrouble};
pub use tracer::{inject_into_writer, trace_with_children, trace_writer};
pub use web::{Fault, Page, SeenFetch, WebServer};
pub use zip::{Zipped, zip};

use std::time::Duration;

/// How long any wait of a test may take before it is called a failure.
///
/// Generous on purpose: two cores are shared with compilers, and a passing test never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
