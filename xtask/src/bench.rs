//! `cargo xtask bench`: builds what is shipped and measures it.
//!
//! Invariant: what is measured is the release build of this very source.

use crate::run::{build_shipped, program, succeed};
use anyhow::Result;
use std::path::Path;

/// What one run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The shipped programs, from outside.
    House,
    /// Workers beside other launchers, a part of the house.
    Confine,
    /// Calls of models, a part of the house.
    Models,
    /// One decision of the authority, within this process.
    Authorize,
    /// Acknowledgements and recovery of the journal.
    Journal,
}

impl Part {
    /// The parts that the first word names, all where it names none, and the words for them.
    fn split(args: &[String]) -> (&'static [Self], &[String]) {
        match args.split_first() {
            Some((word, rest)) if word == "house" => (&[Self::House], rest),
            Some((word, rest)) if word == "confine" => (&[Self::Confine], rest),
            Some((word, rest)) if word == "models" => (&[Self::Models], rest),
            Some((word, rest)) if word == "authorize" => (&[Self::Authorize], rest),
            Some((word, rest)) if word == "journal" => (&[Self::Journal], rest),
            _ => (&[Self::House, Self::Authorize, Self::Journal], args),
        }
    }

    fn run(self, root: &Path, args: &[String]) -> Result<()> {
        let (package, bench) = match self {
            Self::House | Self::Confine | Self::Models => ("xtask", "house"),
            Self::Authorize => ("aaos-core", "authorize"),
            Self::Journal => ("aaos-journal", "journal"),
        };
        let mut measure = program("cargo", ["bench", "--quiet", "-p", package, "--bench", bench, "--"], root);
        if package == "xtask" {
            build_shipped(root)?;
        }
        match self {
            Self::Confine => drop(measure.arg("confine")),
            Self::Models => drop(measure.arg("models")),
            Self::House | Self::Authorize | Self::Journal => {}
        }
        measure.args(args);
        succeed(measure)
    }
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let (parts, args) = Part::split(args);
    parts.iter().try_for_each(|part| part.run(root, args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_may_name_a_part() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let quick = words(&["--quick"]);
        assert_eq!(Part::split(&quick), (&[Part::House, Part::Authorize, Part::Journal][..], &quick[..]));
        assert_eq!(Part::split(&words(&["journal", "--quick"])), (&[Part::Journal][..], &quick[..]));
        assert_eq!(Part::split(&words(&["authorize", "--quick"])), (&[Part::Authorize][..], &quick[..]));
        assert_eq!(Part::split(&words(&["confine", "--quick"])), (&[Part::Confine][..], &quick[..]));
        assert_eq!(Part::split(&words(&["models", "--quick"])), (&[Part::Models][..], &quick[..]));
        assert_eq!(Part::split(&words(&["house"])), (&[Part::House][..], &[][..]));
    }
}
