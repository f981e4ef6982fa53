//! Frames between agentd and a program sandbox.
//!
//! agentd sends one [`ProgramPlan`]; the sandbox builds its world, locks itself and answers `Locked`; agentd reads that
//! back and only then sends [`Start`]. On the plan ride, in this order: the program, its standard input, output and
//! error, the script where there is one, and one descriptor for each shared place.
//!
//! Invariant: no path in a plan is trusted by itself: what is found there has to be what the descriptor holds.

use serde::{Deserialize, Serialize};

use crate::confinement::LockedReport;
use crate::path::AbsPath;

/// Descriptors before those of shared places, where the program is no script.
pub const PROGRAM_DESCRIPTORS: usize = 4;
/// The system's programs and libraries, which every program is shown: what of these is there, as it is there.
pub const SYSTEM_PLACES: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What a program sandbox is to be, and what runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramPlan {
    /// Places in it, those nearer to the root first.
    pub places: Vec<Place>,
    /// What the program is called with, its own name first.
    pub arguments: Vec<String>,
    /// For a script, in which argument its path stands: there the sandbox puts the path of its descriptor.
    pub script: Option<u32>,
    /// Where it starts.
    pub directory: AbsPath,
}

impl ProgramPlan {
    /// Descriptors that ride on it.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let shared = self.places.iter().filter(|place| matches!(place.kind, PlaceKind::Shared { .. }));
        PROGRAM_DESCRIPTORS + usize::from(self.script.is_some()) + shared.count()
    }
}

/// One place in a program sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where.
    pub at: AbsPath,
    /// What is there.
    pub kind: PlaceKind,
}

/// What is at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceKind {
    /// What is there outside, too: a granted directory or file. Its descriptor rides.
    Shared {
        /// Whether it may be read, and executed where it may not be changed.
        readable: bool,
        /// Whether it may be changed.
        writable: bool,
    },
    /// Something of aaOS's own that a shared directory would show; nothing is seen of it.
    Hidden,
    /// A link, for a granted path that leads through one.
    Link {
        /// Where it leads.
        to: AbsPath,
    },
}

/// The program may start: its sandbox was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {}

/// From a program sandbox to agentd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramReply {
    /// The world is built and the lock-down is complete. Always first.
    Locked(LockedReport),
    /// The program could not be started.
    NotStarted {
        /// What was being done.
        step: String,
        /// The kernel's error number.
        errno: i32,
    },
    /// The program has ended: its raw wait status. Whatever it left running is ended after this.
    Ended {
        /// As `wait` gives it.
        status: i32,
    },
}
