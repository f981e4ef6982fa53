//! Why a goal cannot be forked where somebody wants it.
//!
//! Invariant: whatever is said of a goal is said only to those who may see it.

use aaos_agent::Divergence;
use aaos_core::id::{GoalId, Seq};
use aaos_core::limits::MAX_FORK_DEPTH;

/// Names of files that are listed in a refusal.
const LISTED: usize = 20;

/// Why there is no fork.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForkRefused {
    /// The entry is none of the goal's steps.
    #[error("entry {at} is no step of goal {goal}; name an entry from {first} to {last}")]
    NoStep {
        /// The goal.
        goal: GoalId,
        /// As asked.
        at: Seq,
        /// Where its root agent's first run began.
        first: Seq,
        /// Its last entry.
        last: Seq,
    },
    /// There is no step yet, or none that leaves something to do.
    #[error("goal {goal} has no step up to entry {at} that something is left to do at; submit it again")]
    NothingLeft {
        /// The goal.
        goal: GoalId,
        /// As asked.
        at: Seq,
    },
    /// Its root agent's first run has not begun.
    #[error("goal {0} has not begun; wait until its agent runs")]
    NotBegun(GoalId),
    /// Its first entries are gone.
    #[error("the first entries of goal {0} were archived; only what the journal still holds can be forked")]
    Archived(GoalId),
    /// A body is gone that is needed.
    #[error("the body of entry {0} was erased; name an entry before it")]
    Erased(Seq),
    /// The record is not what the mind does.
    #[error("{0}; what is recorded of the goal cannot be gone on from")]
    Differs(#[from] Divergence),
    /// A file cannot be made again.
    #[error("the workspace cannot be restored: entry {seq}: {what}; name an entry before it")]
    DoesNotFit {
        /// Where.
        seq: Seq,
        /// What does not fit.
        what: String,
    },
    /// Nobody knows whether a file was changed.
    #[error("whether the {tool} of entry {seq} took effect is not known; name an entry before it")]
    UnknownOutcome {
        /// Where it was begun.
        seq: Seq,
        /// The tool.
        tool: String,
    },
    /// What a call did to files is in no entry.
    #[error("what the {tool} of entry {seq} changed is not in the journal; name an entry before it")]
    Unrecorded {
        /// Where it was begun.
        seq: Seq,
        /// The tool.
        tool: String,
    },
    /// The user's files are not those of that step any more.
    #[error(
        "the goal changed files outside its workspace after that step: {}; they are never put back: ask to keep them \
         as they are now (--keep-files), or name a later entry",
        listed(.0)
    )]
    FilesChanged(Vec<String>),
    /// Too deep.
    #[error(
        "it would be the fork of a fork over more than {MAX_FORK_DEPTH} goals; fork an earlier one of them"
    )]
    TooDeep,
}

impl ForkRefused {
    /// One word for programs.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::NoStep { .. } | Self::NothingLeft { .. } | Self::NotBegun(_) => "no_step",
            Self::Archived(_) => "archived",
            Self::Erased(_) => "erased",
            Self::Differs(_) => "differs",
            Self::DoesNotFit { .. } => "does_not_fit",
            Self::UnknownOutcome { .. } => "unknown_outcome",
            Self::Unrecorded { .. } => "unrecorded",
            Self::FilesChanged(_) => "files_changed",
            Self::TooDeep => "too_deep",
        }
    }
}

fn listed(files: &[String]) -> String {
    let shown: Vec<&str> = files.iter().take(LISTED).map(String::as_str).collect();
    let shown = shown.join(", ");
    match files.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn a_list_of_files_is_cut_and_says_so() {
        let files: Vec<String> = (0..22).map(|number| format!("/f{number}")).collect();
        assert_eq!(listed(&files[..2]), "/f0, /f1");
        assert!(listed(&files).ends_with("/f19 and 2 more"));
    }
}
