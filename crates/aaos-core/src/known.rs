//! Programs that have a tool of their own beside `command_run`.
//!
//! Invariant: which file such a program is, its agent's grants say: the path of an `exec` grant whose last component is
//! the program's name. It is looked for nowhere else.

use serde::{Deserialize, Serialize};

use crate::path::AbsPath;
use crate::tool::{Cargo, Git, Tool};

/// A program that a tool of its own starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownProgram {
    /// The version control system.
    Git,
    /// The builder of Rust packages.
    Cargo,
    /// The compiler that it calls.
    Rustc,
}

impl KnownProgram {
    /// The name that its file has.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Git => "git",
            Self::Cargo => "cargo",
            Self::Rustc => "rustc",
        }
    }

    /// The tool that starts it.
    #[must_use]
    pub const fn tool(self) -> &'static str {
        match self {
            Self::Git => Git::NAME,
            Self::Cargo | Self::Rustc => Cargo::NAME,
        }
    }

    /// Whether a path is one of this program.
    #[must_use]
    pub fn is_at(self, path: &AbsPath) -> bool {
        path.split_last().is_some_and(|(_, name)| name == self.file_name())
    }
}

#[cfg(test)]
mod tests {
    use super::KnownProgram;
    use crate::path::AbsPath;

    #[test]
    fn a_program_is_known_by_the_last_component_alone() {
        let is_git = |path: &str| KnownProgram::Git.is_at(&AbsPath::parse(path).expect("a path"));
        assert!(is_git("/usr/bin/git") && is_git("/git") && is_git("/opt/git/git"));
        for other in
            ["/", "/usr/bin/gitk", "/usr/bin/git-shell", "/git/bin/sh", "/usr/bin/GIT", "/usr/bin/git "]
        {
            assert!(!is_git(other), "{other}");
        }
    }
}
