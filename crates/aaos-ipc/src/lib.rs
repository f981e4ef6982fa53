//! Typed messages between agents, clients and the daemon: JSON-RPC 2.0 envelopes, JSON Schema, mailboxes and
//! the correlation of replies.
//!
//! Invariants: no I/O and no async. Hostile bytes give a typed error with the code of SPEC §3, never a panic.
//! Nothing is ever fetched for a schema. Every queue and table has a limit from [`aaos_core::limits`].

mod correlation;
mod envelope;
mod error;
mod frame;
mod id;
mod mailbox;
mod schema;
mod schema_cost;

pub use correlation::{Correlation, CorrelationError, TraceState};
pub use envelope::{
    Incoming, Notification, Params, Request, Response, ServerLine, ServerLineError, batch_line, call_line,
    notification_line, parse_line, parse_server_line,
};
pub use error::{ErrorCode, RpcError, UnknownCode};
pub use frame::{FrameBody, StreamFrame, stream_frame_line};
pub use id::RequestId;
pub use mailbox::{Mailbox, MailboxFull};
pub use schema::{Schema, SchemaError, Violation, Violations};
