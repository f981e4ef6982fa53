//! What became of each mutant, kept between runs so that an interrupted one goes on where it was.
//!
//! Invariants: a ledger belongs to one state of the mutated source, so a name means the same mutant throughout; a later
//! verdict replaces an earlier one.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What became of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    /// A test failed.
    Caught,
    /// No test failed: it survives.
    Missed,
    /// The tests did not end in time, which also gives it away.
    Timeout,
    /// It does not compile.
    Unviable,
}

impl Fate {
    pub(crate) const ALL: [Self; 4] = [Self::Caught, Self::Missed, Self::Timeout, Self::Unviable];

    /// The list in which cargo-mutants names such mutants.
    const fn file(self) -> &'static str {
        match self {
            Self::Caught => "caught.txt",
            Self::Missed => "missed.txt",
            Self::Timeout => "timeout.txt",
            Self::Unviable => "unviable.txt",
        }
    }
}

/// A state of the whole package, tests included, and the commit it was met at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    pub(crate) tree: String,
    pub(crate) commit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdict {
    fate: Fate,
    by: Suite,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ledger {
    verdicts: BTreeMap<String, Verdict>,
}

impl Ledger {
    /// The ledger in `file`; an empty one where there is none.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no ledger; remove it", file.display()))
    }

    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write the ledger as JSON")?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Takes over what a run wrote into `lists` so far; a run that was interrupted has written less.
    pub(crate) fn take(&mut self, lists: &Path, by: &Suite) -> Result<()> {
        for fate in Fate::ALL {
            let file = lists.join(fate.file());
            if file.exists() {
                let text =
                    std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
                self.note(fate, &text, by);
            }
        }
        Ok(())
    }

    fn note(&mut self, fate: Fate, list: &str, by: &Suite) {
        for name in list.lines().filter(|line| !line.is_empty()) {
            self.verdicts.insert(name.to_owned(), Verdict { fate, by: by.clone() });
        }
    }

    pub(crate) fn fate(&self, name: &str) -> Option<Fate> {
        self.verdicts.get(name).map(|verdict| verdict.fate)
    }

    /// Whether a run under `suite` has still to look at a mutant: what was caught or did not compile stays so, what
    /// survived may meet a new test.
    pub(crate) fn is_open(&self, name: &str, suite: &Suite) -> bool {
        match self.verdicts.get(name) {
            None => true,
            Some(Verdict { fate: Fate::Caught | Fate::Unviable, .. }) => false,
            Some(verdict) => verdict.by.tree != suite.tree,
        }
    }

    /// How many mutants had this fate.
    pub(crate) fn count(&self, fate: Fate) -> usize {
        self.verdicts.values().filter(|verdict| verdict.fate == fate).count()
    }

    /// Names of the mutants that had this fate, sorted.
    pub(crate) fn names(&self, fate: Fate) -> impl Iterator<Item = &str> {
        let had = move |(_, verdict): &(&String, &Verdict)| verdict.fate == fate;
        self.verdicts.iter().filter(had).map(|(name, _)| name.as_str())
    }

    /// Commits whose tests decided about some mutant and were not those of `suite`, with the number of mutants.
    pub(crate) fn earlier(&self, suite: &Suite) -> BTreeMap<&str, usize> {
        let mut found = BTreeMap::new();
        for verdict in self.verdicts.values().filter(|verdict| verdict.by.tree != suite.tree) {
            *found.entry(verdict.by.commit.as_str()).or_default() += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkout::CleanCheckout;

    pub(crate) fn suite(tree: &str) -> Suite {
        Suite { tree: tree.into(), commit: format!("commit-of-{tree}") }
    }

    #[test]
    fn lists_are_taken_over_and_later_verdicts_win() {
        let folder = CleanCheckout::empty("ledger").unwrap();
        let (lists, file) = (&folder.base, folder.base.join("ledger.json"));
        let list = |fate: Fate, text: &str| std::fs::write(lists.join(fate.file()), text).unwrap();
        list(Fate::Caught, "a:1:1: x\nb:2:2: y\n");
        list(Fate::Missed, "c:3:3: z\n");
        let mut ledger = Ledger::load(&file).unwrap();
        ledger.take(lists, &suite("one")).unwrap();
        ledger.save(&file).unwrap();
        let mut ledger = Ledger::load(&file).unwrap();
        assert_eq!((ledger.count(Fate::Caught), ledger.count(Fate::Missed)), (2, 1));
        list(Fate::Caught, "c:3:3: z\n");
        list(Fate::Missed, "");
        ledger.take(lists, &suite("two")).unwrap();
        assert_eq!((ledger.count(Fate::Caught), ledger.count(Fate::Missed)), (3, 0));
        assert_eq!(ledger.earlier(&suite("two")).into_iter().collect::<Vec<_>>(), [("commit-of-one", 2)]);
    }

    #[test]
    fn only_what_a_run_could_change_is_open() {
        let mut ledger = Ledger::default();
        for (fate, name) in Fate::ALL.into_iter().zip(["caught", "missed", "timeout", "unviable"]) {
            ledger.note(fate, name, &suite("one"));
        }
        let open = |suite: &Suite| {
            let names = ["caught", "missed", "timeout", "unviable", "new"];
            names.into_iter().filter(|name| ledger.is_open(name, suite)).collect::<Vec<_>>()
        };
        assert_eq!(open(&suite("one")), ["new"]);
        assert_eq!(open(&suite("two")), ["missed", "timeout", "new"]);
    }

    #[test]
    fn a_broken_ledger_is_said() {
        let folder = CleanCheckout::empty("broken-ledger").unwrap();
        let file = folder.base.join("ledger.json");
        std::fs::write(&file, "{\"a\":1}").unwrap();
        assert!(Ledger::load(&file).unwrap_err().to_string().contains("remove it"));
    }
}
