//! The near end of models: admission, retry and the connection to the gateway's `models` role.
//!
//! Invariants: per provider no more than the configured slots are in use, goals take turns, and nobody is admitted while
//! the provider asked for quiet; no slot is held while waiting for a retry. Every wait ends at the caller's
//! deadline. Dropping a call stops it in the gateway. A connection that is lost fails every call at once and
//! stays lost. Only `tokio::time` is read, so a paused clock controls every wait.

mod backoff;
mod door;
mod error;
mod gate;
mod host;
mod inbox;
mod link;
mod local;
mod minute;
mod models;
mod pace;
mod queue;
#[cfg(test)]
mod tests;

pub use error::LlmError;
pub use host::{Awaited, Connection, Host};
pub use models::{Models, ModelsConfig, Progress};
pub use queue::{Class, Party, Turn};
