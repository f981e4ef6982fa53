//! Why some mutants may survive, as people wrote it down.
//!
//! Invariants: a mutant is named without its line, so that an explanation outlives changes above it; an explanation
//! covers as many survivors of its name as it says, one unless it says more.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the explanations are kept.
pub(crate) const FILE: &str = "xtask/mutants-explained.toml";
/// Shorter than this, an explanation explains nothing.
const WORDS_MIN: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// As `cargo mutants --list --line-col=false` prints it.
    name: String,
    /// Survivors of this name; 1 where nothing is said.
    count: Option<usize>,
    /// Why it is equivalent, or why it is accepted.
    why: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    mutant: Vec<Entry>,
}

/// Explanations by the name of the mutant.
#[derive(Debug, Default)]
pub(crate) struct Explained {
    by_name: BTreeMap<String, Entry>,
}

/// A survivor and why it may survive; `None` where nobody said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Survivor<'a> {
    pub(crate) name: &'a str,
    pub(crate) why: Option<&'a str>,
}

impl Explained {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let file = root.join(FILE);
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let page: Page = toml::from_str(text).with_context(|| format!("read {FILE}"))?;
        let mut by_name = BTreeMap::new();
        for entry in page.mutant {
            let (name, words) = (entry.name.clone(), entry.why.split_whitespace().count());
            ensure!(words >= WORDS_MIN, "{FILE}: {name}: {words} words explain nothing");
            ensure!(entry.count != Some(0), "{FILE}: {name}: a count of 0 covers nothing");
            ensure!(name == plain(&name), "{FILE}: {name}: leave out line and column");
            let before = by_name.insert(name.clone(), entry);
            ensure!(before.is_none(), "{FILE}: {name} is explained twice; give one entry a count");
        }
        Ok(Self { by_name })
    }

    /// Puts each survivor beside its explanation. Where more survive than are explained, the last ones have none.
    pub(crate) fn judge<'a>(&'a self, survivors: impl Iterator<Item = &'a str>) -> Vec<Survivor<'a>> {
        let mut met: BTreeMap<String, usize> = BTreeMap::new();
        let judged = survivors.map(|name| {
            let entry = self.by_name.get(&plain(name));
            let so_far = met.entry(plain(name)).or_default();
            *so_far += 1;
            let why = entry.filter(|entry| *so_far <= entry.count.unwrap_or(1));
            Survivor { name, why: why.map(|entry| entry.why.trim()) }
        });
        judged.collect()
    }

    /// Names that are explained and of which no mutant survives.
    pub(crate) fn idle(&self, survivors: &[Survivor<'_>]) -> Vec<&str> {
        let survives = |name: &str| survivors.iter().any(|one| plain(one.name) == name);
        self.by_name.keys().map(String::as_str).filter(|name| !survives(name)).collect()
    }
}

/// A mutant's name without line and column: `a.rs:12:5: replace x` becomes `a.rs: replace x`.
fn plain(name: &str) -> String {
    let Some((place, what)) = name.split_once(": ") else {
        return name.to_owned();
    };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut file = place;
    while let Some((before, _)) = file.rsplit_once(':').filter(|(_, last)| is_number(last)) {
        file = before;
    }
    format!("{file}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "[[mutant]]\nname = \"a.rs: replace > with >= in f\"\nwhy = \"both orders give one \
                        result\"\n\n[[mutant]]\nname = \"b.rs: delete ! in g\"\ncount = 2\nwhy = \"the words of \
                        a message, checked elsewhere\"\n";

    #[test]
    fn survivors_are_matched_without_their_lines() {
        let explained = Explained::parse(PAGE).unwrap();
        let survivors = ["a.rs:1:2: replace > with >= in f", "b.rs:1:1: delete ! in g", "c.rs:1:1: x"];
        let judged = explained.judge(survivors.into_iter());
        let whys: Vec<bool> = judged.iter().map(|one| one.why.is_some()).collect();
        assert_eq!(whys, [true, true, false]);
        assert_eq!(explained.idle(&judged), Vec::<&str>::new());
        assert_eq!(explained.idle(&judged[..1]), ["b.rs: delete ! in g"]);
    }

    #[test]
    fn an_explanation_covers_no_more_than_it_says() {
        let explained = Explained::parse(PAGE).unwrap();
        let twice = ["a.rs:1:2: replace > with >= in f", "a.rs:9:2: replace > with >= in f"];
        let judged = explained.judge(twice.into_iter());
        assert_eq!((judged[0].why.is_some(), judged[1].why), (true, None));
        let thrice = ["b.rs:1:1: delete ! in g", "b.rs:2:1: delete ! in g", "b.rs:3:1: delete ! in g"];
        assert_eq!(explained.judge(thrice.into_iter()).iter().filter(|one| one.why.is_none()).count(), 1);
    }

    #[test]
    fn careless_explanations_are_refused() {
        assert!(Explained::parse("").unwrap().by_name.is_empty());
        for (wrong, words) in [
            ("[[mutant]]\nname = \"a.rs: x\"\nwhy = \"equivalent\"\n", "explain nothing"),
            ("[[mutant]]\nname = \"a.rs:1:2: x\"\nwhy = \"one two three four\"\n", "line and column"),
            ("[[mutant]]\nname = \"a.rs: x\"\ncount = 0\nwhy = \"one two three four\"\n", "covers nothing"),
            ("[[mutant]]\nname = \"a.rs: x\"\nwhy = \"one two three four\"\nwho = \"me\"\n", "read"),
            (&format!("{PAGE}{PAGE}"), "twice"),
        ] {
            let error = format!("{:#}", Explained::parse(wrong).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn names_lose_line_and_column_only() {
        assert_eq!(
            plain("src/a.rs:12:5: replace X::y -> Z with 1:2: 3"),
            "src/a.rs: replace X::y -> Z with 1:2: 3"
        );
        assert_eq!(plain("src/a.rs: replace x"), "src/a.rs: replace x");
        assert_eq!(plain("words"), "words");
    }
}
