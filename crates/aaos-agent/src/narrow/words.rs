//! What a message names and asks for, by its words alone.
//!
//! Invariants: text in, candidates out; a candidate is authority over nothing. A word that could be prose (`and/or`) is
//! no path. What the runtime wrote below the goal is not read.

use std::collections::BTreeSet;

use aaos_core::path::AbsPath;

use crate::opening::{EXCERPTS, NOTE};
use crate::wrap::EARLIER;

/// Begins what the runtime adds to a goal,
const FACTS: &str = "\n\nRUNTIME FACTS (from aaOS";
/// and what ends it where something follows.
const FACTS_END: &str = "\n\n";
/// Words that have somebody do something,
const HAVING: [&str; 10] =
    ["start", "spawn", "launch", "use", "using", "have", "let", "ask", "create", "run"];
/// which may stand between them and whom,
const WHICH: [&str; 9] = ["a", "an", "another", "separate", "different", "several", "your", "new", "some"];
/// that do so where a number follows,
const BY: [&str; 4] = ["with", "by", "through", "via"];
/// and what somebody who is counted is to do.
const DOING: [&str; 7] = ["read", "look", "report", "summar", "find", "should", "must"];
/// Words that make an agent one that is started.
const OTHER: [&str; 8] = ["child", "children", "sub", "helper", "reader", "separate", "another", "worker"];
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
    /// What was said, without what the runtime wrote.
    pub(super) text: String,
    said: BTreeSet<String>,
    /// The words as they come; nothing where a path or a URL stands.
    order: Vec<String>,
    /// The word before one that begins so, where it is a number.
    counts: Vec<(usize, String)>,
}

impl Words {
    /// Reads a message; relative paths start in `directory`.
    pub(super) fn read(message: &str, directory: Option<&AbsPath>) -> Self {
        let text = said(message);
        let mut words = Self::default();
        let mut before = None;
        for word in text.split(|one: char| one.is_whitespace() || AROUND.contains(&one)) {
            let word = word.trim_end_matches(TRAILING);
            let word = word.strip_suffix("'s").unwrap_or(word);
            if word.is_empty() {
                continue;
            }
            if words.take(word, directory) {
                words.order.push(String::new());
                before = None;
                continue;
            }
            for plain in word.split(|one: char| !one.is_alphanumeric()).filter(|plain| !plain.is_empty()) {
                let plain = plain.to_lowercase();
                if let Some(count) = before {
                    words.counts.push((count, plain.clone()));
                }
                before = number(&plain);
                words.order.push(plain.clone());
                words.said.insert(plain);
            }
        }
        words.text = text;
        words
    }

    /// Whether other agents are to do something: `a child agent`, `two agents`, `have children read`, `delegate`. Who
    /// only speaks of children or of an agent asks for none.
    pub(super) fn asks_for_agents(&self) -> bool {
        let word = |at: Option<usize>| at.and_then(|at| self.order.get(at)).map_or("", String::as_str);
        let is_number = |at: usize| number(word(at.checked_sub(1))).is_some();
        let is_another = |at: usize| is_number(at) || OTHER.contains(&word(at.checked_sub(1)));
        let is_had = |at: usize| {
            let mut before = self.order[..at].iter().rev().map(String::as_str);
            let nearest = before.find(|word| !WHICH.contains(word) && number(word).is_none());
            let is_by = |word: &str| BY.contains(&word) && is_number(at);
            let does = DOING.iter().any(|doing| word(Some(at + 1)).starts_with(doing));
            nearest.is_some_and(|word| HAVING.contains(&word) || is_by(word)) || (does && is_another(at))
        };
        let asks = |(at, word): (usize, &String)| match word.as_str() {
            "agent" | "agents" | "readers" => is_another(at),
            "child" | "children" => is_had(at),
            _ => ["subagent", "delegat", "spawn"].iter().any(|begins| word.starts_with(begins)),
        };
        self.order.iter().enumerate().any(asks)
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

    /// How often it says this very word.
    pub(super) fn times(&self, word: &str) -> usize {
        self.order.iter().filter(|one| *one == word).count()
    }

    /// The number before a word that begins with one of these, if there is one.
    pub(super) fn count_of(&self, beginnings: &[&str]) -> Option<usize> {
        let is_meant = |word: &String| beginnings.iter().any(|begins| word.starts_with(begins));
        self.counts.iter().find(|(_, word)| is_meant(word)).map(|(count, _)| *count)
    }
}

/// What was said to an agent, without the facts and the summary of what is gone that the runtime wrote between it.
pub(super) fn said(message: &str) -> String {
    let plain = without_facts(message);
    let mut lines = Vec::new();
    let mut ends: Option<String> = None;
    let mut is_shortened = false;
    for line in plain.lines() {
        if ends.is_some() {
            ends = ends.filter(|end| line != *end);
            continue;
        }
        is_shortened |= line.starts_with(NOTE);
        let begins = line.strip_prefix(EARLIER.0).filter(|_| is_shortened);
        ends = begins.and_then(|rest| rest.split(' ').next()).map(|nonce| format!("{}{nonce}", EARLIER.1));
        let is_said = ends.is_none() && !line.starts_with(NOTE) && !(is_shortened && line == EXCERPTS);
        lines.extend(Some(line).filter(|_| is_said));
    }
    lines.join("\n").trim().to_owned()
}

/// A message without what the runtime adds to a goal.
pub(super) fn without_facts(message: &str) -> String {
    let mut parts = message.split(FACTS);
    let first = parts.next().unwrap_or_default();
    let later = parts.filter_map(|part| part.find(FACTS_END).map(|end| &part[end..]));
    std::iter::once(first).chain(later).collect()
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
