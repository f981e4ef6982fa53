//! Captures phrases of a goal: what to search for, what to extract, what a verb's object is.
//!
//! Invariant: a captured phrase keeps the operator's spelling; only words without content are dropped.

use serde::{Deserialize, Serialize};

use super::goal::Topic;
use super::lexicon;
use super::tokens::Token;

/// What a search looks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pattern {
    /// Any of these, as written.
    pub(super) alternatives: Vec<String>,
    /// Whether they are regular expressions rather than literal text.
    pub(super) syntax: Syntax,
    /// Whether upper and lower case differ.
    pub(super) case: Case,
}

/// How a pattern is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Syntax {
    /// Literal text.
    Literal,
    /// A regular expression.
    Regex,
}

/// Whether case matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Case {
    /// It does.
    Sensitive,
    /// It does not.
    Insensitive,
}

/// Passages recognised by shape rather than by word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Special {
    /// E-mail addresses.
    Emails,
    /// URLs.
    Links,
    /// Dates.
    Dates,
    /// Passages with numbers.
    Numbers,
    /// Headings.
    Headings,
}

impl Pattern {
    /// The pattern as a regular expression in RE2 syntax.
    pub(super) fn regex(&self) -> String {
        let each: Vec<String> = self
            .alternatives
            .iter()
            .map(|text| match self.syntax {
                Syntax::Regex => text.clone(),
                Syntax::Literal => escape(text),
            })
            .collect();
        each.join("|")
    }

    /// The pattern for people.
    pub(super) fn shown(&self) -> String {
        self.alternatives.join(" or ")
    }
}

/// Literal text as a regular expression.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() && !"_<>\"'`@%,;:=!/".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Words between `from` and the end of the phrase.
#[derive(Debug, Default)]
pub(super) struct Phrase {
    /// Quotations in it.
    pub(super) quoted: Vec<String>,
    /// Words with content, as written; "or", "and" and "," are kept as separators.
    pub(super) words: Vec<String>,
    /// Every word in lower case, noise included.
    pub(super) all: Vec<String>,
    /// Index of the first token after it.
    pub(super) end: usize,
    /// Whether a word such as "for" introduced it.
    pub(super) armed: bool,
}

const SEPARATORS: &[&str] = &["or", "and", ","];

/// Reads the phrase that begins at `from`. `is_verb` says whether a clause's verb stands at an index.
pub(super) fn read(tokens: &[Token], from: usize, arms: bool, is_verb: impl Fn(usize) -> bool) -> Phrase {
    let mut phrase = Phrase { end: from, ..Phrase::default() };
    while let Some(token) = tokens.get(phrase.end) {
        match token {
            Token::Quoted(text) => phrase.quoted.push(text.clone()),
            Token::Mark(',') if !phrase.words.is_empty() && !is_verb(phrase.end + 1) => {
                phrase.words.push(",".to_owned());
            }
            Token::Path(text) if phrase.names_a_pattern(tokens) => phrase.words.push(text.clone()),
            Token::Word { raw, lower } => {
                if arms && lexicon::is_arming(lower) {
                    phrase.armed = true;
                } else if lexicon::is_preposition(lower)
                    || (phrase.armed || !phrase.words.is_empty() || !arms)
                        && is_verb(phrase.end)
                        && !phrase.opens()
                    || ["and", "then"].contains(&lower.as_str()) && is_verb(phrase.end + 1)
                {
                    break;
                } else {
                    phrase.push_word(raw, lower);
                }
            }
            _ => break,
        }
        phrase.end += 1;
    }
    phrase.trim();
    phrase
}

impl Phrase {
    /// Whether the phrase has just been introduced, so that a verb's name is what is looked for.
    fn opens(&self) -> bool {
        self.armed && self.words.is_empty() && self.quoted.is_empty()
    }

    /// "Search for main.rs in ./src": a path after "for" and before "in" is what is looked for.
    fn names_a_pattern(&self, tokens: &[Token]) -> bool {
        self.opens() && tokens.get(self.end + 1).and_then(Token::word).is_some_and(lexicon::is_place)
    }

    fn push_word(&mut self, raw: &str, lower: &str) {
        self.all.push(lower.to_owned());
        let separates = SEPARATORS.contains(&lower);
        if separates && self.words.is_empty() || !separates && lexicon::is_noise(lower) {
            return;
        }
        self.words.push(if separates { lower.to_owned() } else { raw.to_owned() });
    }

    fn trim(&mut self) {
        while self.words.last().is_some_and(|word| SEPARATORS.contains(&word.as_str())) {
            self.words.pop();
        }
        if self.words.len() > 1
            && self.words.last().is_some_and(|word| lexicon::is_trailing_noise(&word.to_lowercase()))
        {
            self.words.pop();
        }
    }

    /// Whether some word satisfies `test`.
    pub(super) fn has(&self, test: impl Fn(&str) -> bool) -> bool {
        self.all.iter().any(|word| test(word))
    }

    /// Whether it asks for key points: "the most important sentences".
    pub(super) fn has_points(&self) -> bool {
        self.has(lexicon::is_summary) || self.has(lexicon::is_point_adjective) && self.has(lexicon::is_point)
    }

    /// What is searched for; `None` when nothing is named.
    pub(super) fn alternatives(&self) -> Option<Vec<String>> {
        if !self.quoted.is_empty() {
            return Some(self.quoted.clone());
        }
        let groups: Vec<Vec<&String>> = self
            .words
            .split(|word| SEPARATORS.contains(&word.as_str()))
            .map(|group| group.iter().collect())
            .filter(|group: &Vec<&String>| !group.is_empty())
            .collect();
        let phrases =
            |group: &Vec<&String>| group.iter().map(|word| singular(word)).collect::<Vec<_>>().join(" ");
        let found: Vec<String> = groups.iter().map(phrases).collect();
        (!found.is_empty()).then_some(found)
    }

    /// What is to be extracted; `None` when nothing is named.
    pub(super) fn topic(&self) -> Option<Topic> {
        if let Some(special) = self.all.iter().find_map(|word| special(word)) {
            return Some(Topic::Special(special));
        }
        let words = self.words.iter().filter(|word| !SEPARATORS.contains(&word.as_str()));
        let named: Vec<String> = self.quoted.iter().chain(words).cloned().collect();
        (!named.is_empty()).then_some(Topic::Words(named))
    }
}

/// "TODOs" means "TODO".
fn singular(word: &str) -> String {
    match word.strip_suffix('s') {
        Some(stem) if stem.len() > 1 && stem.chars().all(|c| c.is_ascii_uppercase()) => stem.to_owned(),
        _ => word.to_owned(),
    }
}

fn special(word: &str) -> Option<Special> {
    match word {
        "email" | "emails" | "e-mail" | "e-mails" => Some(Special::Emails),
        "link" | "links" | "url" | "urls" | "hyperlinks" => Some(Special::Links),
        "date" | "dates" => Some(Special::Dates),
        "number" | "numbers" | "figures" | "quantities" => Some(Special::Numbers),
        "heading" | "headings" | "titles" | "headlines" => Some(Special::Headings),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, Pattern, Syntax};

    #[test]
    fn literal_patterns_are_escaped() {
        let pattern = Pattern {
            alternatives: vec!["a.b(c)".into(), "TODO".into()],
            syntax: Syntax::Literal,
            case: Case::Sensitive,
        };
        assert_eq!(pattern.regex(), "a\\.b\\(c\\)|TODO");
        assert_eq!(Pattern { syntax: Syntax::Regex, ..pattern }.regex(), "a.b(c)|TODO");
    }
}
