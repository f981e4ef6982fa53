//! Single boundaries of a worker around a child of the test: what does each of them stop by itself?
//!
//! Invariants: for tests alone; agentd links no testkit, and `cargo xtask tidy` holds that no other crate comes to
//! [`aaos_confine::steps`]. A child ends with its parent, and is reaped when its handle is dropped.

use aaos_confine::steps;
use aaos_core::confinement::Boundary;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io;

/// A set of boundaries; [`Policy::none`] is the control.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy(Vec<Boundary>);

impl Policy {
    /// No boundary at all.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// With one boundary more, which is set after those that are there.
    #[must_use]
    pub fn with(mut self, boundary: Boundary) -> Self {
        self.0.push(boundary);
        self
    }

    /// Runs `body` in a child behind these boundaries; its result is the exit code.
    ///
    /// # Errors
    /// When the caller has several threads, or no child can be made.
    pub fn start(&self, body: impl FnOnce() -> u8) -> io::Result<Subject> {
        let pid = steps::start_behind(&self.0, body)?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Ok(Subject(pid.ok_or_else(|| io::Error::other("a child has a number above 0"))?))
    }
}

/// A child behind a policy; ended and reaped when dropped.
#[derive(Debug)]
pub struct Subject(Pid);

impl Subject {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end and says how it ended: the exit code, or minus the signal's number.
    ///
    /// # Errors
    /// When somebody else reaped it.
    pub fn wait(self) -> io::Result<i32> {
        let pid = self.0;
        std::mem::forget(self);
        let ended = waitpid(Some(pid), WaitOptions::empty())?;
        let status = ended.map(|(_, status)| status);
        let signal = status.and_then(|status| status.terminating_signal());
        let code = status.and_then(|status| status.exit_status());
        Ok(signal.map_or_else(|| code.unwrap_or(-1), |signal| -signal))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It has not been reaped, so its number is nobody else's, and both calls do what they say.
        let reaped =
            kill_process(self.0, Signal::KILL).and_then(|()| waitpid(Some(self.0), WaitOptions::empty()));
        drop(reaped.map_err(io::Error::from));
    }
}
