//! From where on a change counts as new, for a run that looks at what changed only.
//!
//! Invariants: a base that cannot be had is said, and something is looked at all the same; a run on a change looks at a
//! bounded number of mutants, the same ones for the same commit.

use super::page;
use crate::run::{program, read, say, works};
use anyhow::{Result, bail};
use std::path::Path;

/// Mutants that a run on a change looks at: at four seconds each on two processors, some minutes.
const MOST: usize = 60;

/// What a run looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// What changed since this commit.
    Commit(String),
    /// Some of everything, because nothing is there to compare with.
    Nothing,
}

/// One part of several into which the mutants are dealt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) part: usize,
    pub(crate) of: usize,
}

impl Base {
    /// The commit that is named, else the one that the result was recorded at, else the last commit's parent.
    pub(crate) fn find(root: &Path, named: Option<&str>) -> Result<Self> {
        let known = |commit: &str| {
            let object = format!("{commit}^{{commit}}");
            works(program("git", ["rev-parse", "--quiet", "--verify", object.as_str()], root))
        };
        if let Some(named) = named {
            if !known(named) {
                bail!("git knows no commit {named} here; in a shallow clone, run `git fetch --unshallow`");
            }
            return Ok(Self::Commit(named.to_owned()));
        }
        let why = match page::recorded_commit(root)? {
            Some(recorded) if known(&recorded) => return Ok(Self::Commit(recorded)),
            Some(recorded) => format!("commit {recorded} of {} is not in this clone", page::FILE),
            None => format!("there is no {} yet", page::FILE),
        };
        if known("HEAD~1") {
            say(&format!("mutants: {why}: only the last commit is looked at"));
            return Ok(Self::Commit("HEAD~1".to_owned()));
        }
        say(&format!(
            "mutants: {why}, and the last commit has no parent here: a sample of all mutants is looked at"
        ));
        Ok(Self::Nothing)
    }

    /// What changed in `paths` since the base, as a unified diff; `None` where everything counts.
    pub(crate) fn diff(&self, root: &Path, paths: &[String]) -> Result<Option<String>> {
        let Self::Commit(commit) = self else {
            return Ok(None);
        };
        let plain = ["diff", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/"];
        let mut command = program("git", plain, root);
        command.args([commit.as_str(), "HEAD", "--"]).args(paths);
        read(command).map(Some)
    }
}

impl Share {
    /// The share of `mutants` that one run looks at; `seed` (a hash) chooses among several.
    pub(crate) fn of(mutants: usize, seed: &str) -> Self {
        let of = mutants.div_ceil(MOST).max(1);
        let number = usize::from_str_radix(seed.get(..8).unwrap_or_default(), 16).unwrap_or(0);
        Self { part: number % of, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkout::CleanCheckout;
    use crate::run::succeed;

    #[test]
    fn a_share_is_bounded_and_the_same_each_time() {
        for mutants in [0, 1, MOST, MOST + 1, 10 * MOST + 1] {
            let share = Share::of(mutants, "ffffffff00");
            assert!(share.part < share.of && mutants.div_ceil(share.of) <= MOST, "{mutants}: {share:?}");
            assert_eq!(share, Share::of(mutants, "ffffffff99"));
        }
        assert_eq!(Share::of(MOST, "00000001"), Share { part: 0, of: 1 });
        assert_eq!(Share::of(MOST + 1, "00000001"), Share { part: 1, of: 2 });
        assert_eq!(Share::of(MOST + 1, "no hash"), Share { part: 0, of: 2 });
    }

    /// A repository in `folder` with a file `a`, committed as often as told.
    fn repository(folder: &Path, commits: usize) {
        let git = |args: &[&str]| {
            let mut command = program("git", args, folder);
            command.args(["--quiet"]);
            succeed(command).unwrap();
        };
        git(&["init"]);
        git(&["config", "user.name", "x"]);
        git(&["config", "user.email", "x@example.org"]);
        for at in 0..commits {
            std::fs::write(folder.join("a"), format!("{at}\n")).unwrap();
            std::fs::write(folder.join("b"), format!("{at}\n")).unwrap();
            succeed(program("git", ["add", "a", "b"], folder)).unwrap();
            git(&["commit", "-m", "x", "--no-gpg-sign"]);
        }
    }

    #[test]
    fn without_a_record_the_last_commit_counts_and_without_that_everything() {
        let lonely = CleanCheckout::empty("base-one").unwrap();
        repository(&lonely.base, 1);
        assert_eq!(Base::find(&lonely.base, None).unwrap(), Base::Nothing);
        assert_eq!(Base::Nothing.diff(&lonely.base, &[]).unwrap(), None);
        let two = CleanCheckout::empty("base-two").unwrap();
        repository(&two.base, 2);
        let base = Base::find(&two.base, None).unwrap();
        assert_eq!(base, Base::Commit("HEAD~1".into()));
        let diff = base.diff(&two.base, &["a".to_owned()]).unwrap().unwrap();
        assert!(diff.contains("+1\n") && !diff.contains("b/b"), "{diff}");
        assert!(Base::find(&two.base, Some("HEAD~5")).unwrap_err().to_string().contains("unshallow"));
        assert_eq!(Base::find(&two.base, Some("HEAD")).unwrap(), Base::Commit("HEAD".into()));
    }

    #[test]
    fn the_recorded_commit_counts_where_it_is_known() {
        let folder = CleanCheckout::empty("base-recorded").unwrap();
        repository(&folder.base, 3);
        let first = read(program("git", ["rev-parse", "HEAD~2"], &folder.base)).unwrap().trim().to_owned();
        std::fs::create_dir(folder.base.join("docs")).unwrap();
        let record = |hash: &str| {
            std::fs::write(folder.base.join(page::FILE), format!("- commit: `{hash}`\n")).unwrap()
        };
        record(&first);
        assert_eq!(Base::find(&folder.base, None).unwrap(), Base::Commit(first.clone()));
        record(&"0".repeat(40));
        assert_eq!(Base::find(&folder.base, None).unwrap(), Base::Commit("HEAD~1".into()));
    }
}
