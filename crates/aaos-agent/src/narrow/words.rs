//! What a message names and asks for, by its words alone.
//!
//! Invariants: text in, candidates out; a candidate is authority over nothing. A word that could be prose (`and/or`) is
//! no path. What the runtime wrote below the goal is not read.

use std::collections::BTreeSet;

use aaos_core::path::AbsPath;

/// Begins what the runtime adds to a goal.
const FACTS: &str = "\n\nRUNTIME FACTS (from aaOS";
/// Characters around a path or a URL that are no part of it.
const AROUND: &[char] = &[
    '"', '\'', '`', '“', '”', '‘', '’', '«', '»', '(', ')', '[', ']', '{', '}', '<', '>', '*', '|', ',', ';',
];
/// Characters that end a sentence behind one.
const TRAILING: &[char] = &['.', ':', '!', '?', '…'];
/// Endings of names that are files' where no slash says so.
const ENDINGS: [&str; 32] = [
    "c", "cfg", "conf", "cpp", "css", "csv", "go", "h", "html", "ini", "java", "js", "json", "jsonl", "lock",
    "log", "md", "py", "rs", "rst", "sh", "sql", "svg", "tex", "toml", "ts", "tsv", "txt", "xml", "yaml",
    "yml", "diff",
];
/// Most paths and URLs of one message.
const MAX_NAMED: usize = 64;

/// What a path seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// Either.
    Open,
}

/// A message, read.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The paths that it names, each once, as they come.
    pub(super) paths: Vec<(AbsPath, Looks)>,
    /// The URLs.
    pub(super) urls: Vec<String>,
    said: BTreeSet<String>,
    /// The word before one that begins so, where it is a number.
    counts: Vec<(usize, String)>,
}

impl Words {
    /// Reads a message; relative paths start in `directory`.
    pub(super) fn read(message: &str, directory: Option<&AbsPath>) -> Self {
        let text = message.split(FACTS).next().unwrap_or_default();
        let mut words = Self::default();
        let mut before = None;
        for word in text.split(|one: char| one.is_whitespace() || AROUND.contains(&one)) {
            let word = word.trim_end_matches(TRAILING);
            let word = word.strip_suffix("'s").unwrap_or(word);
            if word.is_empty() {
                continue;
            }
            if words.take(word, directory) {
                before = None;
                continue;
            }
            for plain in word.split(|one: char| !one.is_alphanumeric()).filter(|plain| !plain.is_empty()) {
                let plain = plain.to_lowercase();
                if let Some(count) = before {
                    words.counts.push((count, plain.clone()));
                }
                before = number(&plain);
                words.said.insert(plain);
            }
        }
        words
    }

    /// Takes a path or a URL, if it is one.
    fn take(&mut self, word: &str, directory: Option<&AbsPath>) -> bool {
        if word.starts_with("http://") || word.starts_with("https://") {
            if !self.urls.iter().any(|known| known == word) && self.urls.len() < MAX_NAMED {
                self.urls.push(word.to_owned());
            }
            return true;
        }
        let Some((path, looks)) = path(word, directory) else { return false };
        if self.paths.iter().all(|(known, _)| *known != path) && self.paths.len() < MAX_NAMED {
            self.paths.push((path, looks));
        }
        true
    }

    /// Whether it says a word that begins with one of these.
    pub(super) fn says(&self, beginnings: &[&str]) -> bool {
        self.said.iter().any(|word| beginnings.iter().any(|begins| word.starts_with(begins)))
    }

    /// Whether it says this very word.
    pub(super) fn has(&self, word: &str) -> bool {
        self.said.contains(word)
    }

    /// The number before a word that begins with one of these, if there is one.
    pub(super) fn count_of(&self, beginnings: &[&str]) -> Option<usize> {
        let is_meant = |word: &String| beginnings.iter().any(|begins| word.starts_with(begins));
        self.counts.iter().find(|(_, word)| is_meant(word)).map(|(count, _)| *count)
    }
}

fn number(word: &str) -> Option<usize> {
    const NAMES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
    let named = NAMES.iter().position(|name| *name == word).map(|at| at + 1);
    named.or_else(|| word.parse().ok()).filter(|count| (1..=NAMES.len()).contains(count))
}

/// The path that a word is, if it is one.
fn path(word: &str, directory: Option<&AbsPath>) -> Option<(AbsPath, Looks)> {
    if word.contains("://") || word.chars().any(|one| one.is_control() || "?\\~=@".contains(one)) {
        return None;
    }
    let last = word.rsplit('/').next().unwrap_or_default();
    let ending = last.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, ending)| ending);
    let is_ending = |ending: &&str| {
        ending.starts_with(|one: char| one.is_ascii_alphabetic())
            && ending.len() <= 8
            && ending.chars().all(|one| one.is_ascii_alphanumeric())
    };
    let is_explicit = word.starts_with('/') || word.starts_with("./") || word.starts_with("../");
    let looks = match ending.filter(is_ending) {
        Some(_) if word.contains('/') => Looks::File,
        Some(ending) if ENDINGS.contains(&ending.to_ascii_lowercase().as_str()) => Looks::File,
        _ if word.len() > 1 && word.ends_with('/') => Looks::Directory,
        _ if is_explicit && word.len() > 1 => Looks::Open,
        _ => return None,
    };
    let path = AbsPath::resolve(word, directory)?;
    Some((path, looks))
}

#[cfg(test)]
mod tests {
    use aaos_core::path::AbsPath;

    use super::{Looks, Words};

    fn read(text: &str) -> Words {
        Words::read(text, Some(&AbsPath::parse("/home/u/p").expect("absolute")))
    }

    #[test]
    fn paths_are_those_that_a_person_means() {
        let rows: &[(&str, &[(&str, Looks)])] = &[
            (
                "Read ./docs/a.md and notes.txt.",
                &[("/home/u/p/docs/a.md", Looks::File), ("/home/u/p/notes.txt", Looks::File)],
            ),
            (
                "Compare `docs/a.md`, /etc/hosts and docs/.",
                &[
                    ("/home/u/p/docs/a.md", Looks::File),
                    ("/etc/hosts", Looks::Open),
                    ("/home/u/p/docs", Looks::Directory),
                ],
            ),
            ("the files in ./docs, and again ./docs", &[("/home/u/p/docs", Looks::Open)]),
            ("../x.csv's lines", &[("/home/u/x.csv", Looks::File)]),
            ("read and/or write 24/7, e.g. v1.2 of example.org, at 3.5 / day", &[]),
            ("see https://example.org/a.md or ~/a.md or a\\b.md", &[]),
            ("x\n\nRUNTIME FACTS (from aaOS, not part of the goal)\n- /home/u/p/a.md", &[]),
        ];
        for (text, wanted) in rows {
            let found = read(text).paths;
            let found: Vec<(&str, Looks)> =
                found.iter().map(|(path, looks)| (path.as_str(), *looks)).collect();
            assert_eq!(found, *wanted, "{text:?}");
        }
        assert!(Words::read("read a.md", None).paths.is_empty(), "relative to nothing");
    }

    #[test]
    fn urls_words_and_numbers_are_found() {
        let words = read("Have two children fetch (https://example.org/a.md), then http://x.org/?q=1.");
        assert_eq!(words.urls, ["https://example.org/a.md", "http://x.org/?q=1"]);
        assert!(words.says(&["child"]) && words.says(&["fetch"]) && !words.says(&["write"]));
        assert_eq!(words.count_of(&["child"]), Some(2));
        assert_eq!(read("3 agents of 900 files").count_of(&["agent"]), Some(3));
        assert!(!read("Read ./docs/children.md").says(&["child"]), "a path is no word");
        assert_eq!(read("900 files").count_of(&["file"]), None);
    }
}
