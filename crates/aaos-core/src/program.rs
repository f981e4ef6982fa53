//! Frames between agentd and a program sandbox.
//!
//! agentd sends one [`ProgramPlan`], and before it says whenever one may come soon; the sandbox builds its world, locks
//! itself and answers `Locked`; agentd reads that back and only then lets the program start, by a byte in a pipe that the
//! program's process waits at. On the plan ride, in this order: the program, its standard input, the end of that pipe, the
//! script where there is one, the doorbell where there is a proxy, and one descriptor for each shared place.
//!
//! Invariant: no path in a plan is trusted by itself: what is found there has to be what the descriptor holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::confinement::LockedReport;
use crate::limits::{MAX_COMMAND_TEXT_BYTES, SCRIPT_HEAD_BYTES};
use crate::path::AbsPath;

/// Descriptors before those of shared places, where the program is no script and has no proxy.
pub const PROGRAM_DESCRIPTORS: usize = 3;
/// Ends of pipes that the first process of a sandbox has made by the time it is locked: of both output streams, and of one
/// that says why a program was not started.
pub const PROGRAM_PIPE_ENDS: usize = 6;
/// The system's programs and libraries, which every program is shown: what of these is there, as it is there.
pub const SYSTEM_PLACES: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Where a program finds its proxy, on the loopback interface of its own network namespace.
pub const PROXY_PORT: u16 = 3128;
/// The variables by which programs are told of a proxy.
const PROXY_VARIABLES: [&str; 6] =
    ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// What the first line of a script names to start it by, as a worker read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptLine {
    /// The interpreter.
    pub interpreter: AbsPath,
    /// The one argument that it gets before the script.
    pub argument: Option<String>,
}

impl fmt::Display for ScriptLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.interpreter)?;
        self.argument.iter().try_for_each(|argument| write!(f, " {argument:?}"))
    }
}

impl ScriptLine {
    /// Whether it can be what a first line says.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let argument = self.argument.as_deref().unwrap_or("-");
        let length = self.interpreter.as_str().len() + argument.len();
        length <= SCRIPT_HEAD_BYTES && !argument.is_empty() && !argument.contains('\0')
    }
}

/// From agentd to a program sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramOrder {
    /// A plan may come soon: what can be looked at before it comes is looked at now.
    Expect {},
    /// The plan. Always last.
    Plan(ProgramPlan),
}

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
    /// Its environment, each variable as `NAME=value`.
    pub environment: Vec<String>,
    /// What else it may execute.
    pub executes: Executes,
    /// Whether a proxy listens on [`PROXY_PORT`]. The doorbell rides, on which its connections are announced.
    pub proxy: bool,
}

/// The environment by which programs find their proxy.
#[must_use]
pub fn proxy_environment() -> Vec<String> {
    PROXY_VARIABLES.iter().map(|name| format!("{name}=http://127.0.0.1:{PROXY_PORT}")).collect()
}

/// What a program may execute when it has been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executes {
    /// Whatever it is shown and may not change.
    Shown,
    /// Nothing: neither a program of the system nor a file of a granted place, whoever names it.
    Nothing,
}

impl ProgramPlan {
    /// Descriptors that ride on it.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let shared = self.places.iter().filter(|place| matches!(place.kind, PlaceKind::Shared { .. }));
        PROGRAM_DESCRIPTORS + usize::from(self.script.is_some()) + usize::from(self.proxy) + shared.count()
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
    /// The program has ended, and nothing that it started writes any more.
    Ended {
        /// As `wait` gives it.
        status: i32,
        /// What it wrote.
        stdout: ProgramText,
        /// What it wrote of errors.
        stderr: ProgramText,
    },
    /// It wrote more than [`crate::limits::MAX_COMMAND_OUTPUT_BYTES`] and is to be ended.
    TooMuch {},
}

/// What came of one output stream, made text in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramText {
    /// Its beginning and its end, with a word between them about what was left out.
    pub text: String,
    /// Whether something was left out.
    pub truncated: bool,
}

impl ProgramText {
    /// Whether it is no longer than it can be.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.text.len() <= MAX_COMMAND_TEXT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Executes, PROGRAM_DESCRIPTORS, Place, PlaceKind, ProgramPlan, ProgramText, ScriptLine,
        proxy_environment,
    };
    use crate::limits::{MAX_COMMAND_TEXT_BYTES, SCRIPT_HEAD_BYTES};
    use crate::path::AbsPath;

    #[test]
    fn a_text_over_its_limit_is_noticed() {
        let text = |bytes| ProgramText { text: "x".repeat(bytes), truncated: false };
        assert!(text(MAX_COMMAND_TEXT_BYTES).is_bounded() && !text(MAX_COMMAND_TEXT_BYTES + 1).is_bounded());
    }

    #[test]
    fn a_line_that_no_script_has_is_noticed() {
        let interpreter = AbsPath::parse("/bin/sh").expect("a path");
        let usable = |argument: Option<&str>| {
            ScriptLine { interpreter: interpreter.clone(), argument: argument.map(str::to_owned) }.is_usable()
        };
        assert!(usable(None) && usable(Some("-e")) && !usable(Some("")) && !usable(Some("a\0b")));
        let longest = SCRIPT_HEAD_BYTES - "/bin/sh".len();
        assert!(usable(Some(&"x".repeat(longest))) && !usable(Some(&"x".repeat(longest + 1))));
    }

    #[test]
    fn each_descriptor_that_rides_is_counted() {
        let path = |text: &str| AbsPath::parse(text).expect("a path");
        let plan = |script, proxy, kinds: Vec<PlaceKind>| ProgramPlan {
            places: kinds.into_iter().map(|kind| Place { at: path("/a"), kind }).collect(),
            arguments: Vec::new(),
            script,
            directory: path("/"),
            environment: Vec::new(),
            executes: Executes::Shown,
            proxy,
        };
        let shared = || PlaceKind::Shared { readable: true, writable: false };
        assert_eq!(plan(None, false, vec![PlaceKind::Hidden]).descriptors(), PROGRAM_DESCRIPTORS);
        assert_eq!(plan(None, true, Vec::new()).descriptors(), PROGRAM_DESCRIPTORS + 1);
        assert_eq!(plan(Some(1), true, vec![shared(), shared()]).descriptors(), PROGRAM_DESCRIPTORS + 4);
    }

    #[test]
    fn programs_are_told_of_the_proxy_by_its_address() {
        let told = proxy_environment();
        assert_eq!(told.len(), 6);
        assert!(told.iter().all(|one| one.ends_with("_proxy=http://127.0.0.1:3128")
            || one.ends_with("_PROXY=http://127.0.0.1:3128")));
    }
}
