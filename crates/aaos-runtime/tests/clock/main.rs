//! The kernel's policies against a clock that stands still until the test moves it: nothing here sleeps, and what
//! happens at a moment does not happen a millisecond before it.

mod deadlines;
mod history;
mod local;
mod programs;
mod schedules;
mod supervision;
mod support;
mod waits;
