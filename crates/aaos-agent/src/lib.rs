//! The mind of one agent as a pure state machine: an event goes in, a command comes out.
//!
//! Invariants: no I/O, no clock, no randomness, no async. The same events give the same commands, so a
//! recorded run replays to the same state. Within a run the prompt only grows until its oldest part is summarised: each
//! request starts with the previous request's messages, and system prompt and tools never change, so that provider
//! caches hit. A call is never parted from its result. No model reply, however hostile, can make [`Mind::step`] panic; an event
//! that does not answer the last command is a bug of the caller and does.

mod context;
mod conversation;
mod fork;
mod history;
mod mind;
mod narrow;
mod opening;
mod replay;
mod tape;
mod weigh;
mod wrap;

pub use context::estimate;
pub use fork::moved;
pub use history::{HistoryPage, Original, Originals};
pub use mind::{Command, Filling, Mind, MindConfig, MindEvent, RunEnd, spec_of, specs_of};
pub use narrow::{Ground, narrowed};
pub use replay::{Replay, ReplayError, Replayed, ReplayedAgent};
pub use tape::{Divergence, OpenRun, TAPE_KINDS, Tape, TurnCall, Unanswered, event_of};
pub use wrap::{
    RecordedAnswer, failure_json, told, wrap_findings, wrap_message, wrap_recorded, wrap_tool_result,
};
