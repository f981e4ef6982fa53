//! Words with content, folded so that their forms meet.
//!
//! Invariant: a term is lower case, never empty and never a stop word.

use std::collections::BTreeSet;

const STOP_WORDS: &[&str] = &[
    "about", "above", "after", "again", "all", "also", "an", "and", "any", "are", "as", "at", "be",
    "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "cannot", "could",
    "did", "do", "does", "doing", "down", "during", "each", "either", "else", "every", "few", "for", "from",
    "further", "had", "has", "have", "having", "he", "her", "here", "hers", "him", "his", "how", "however",
    "if", "in", "into", "is", "it", "its", "itself", "just", "may", "me", "might", "more", "most", "must",
    "my", "no", "nor", "not", "now", "of", "off", "on", "once", "one", "only", "or", "other", "our", "out",
    "over", "own", "per", "same", "shall", "she", "should", "so", "some", "such", "than", "that", "the",
    "their", "them", "then", "there", "these", "they", "this", "those", "through", "thus", "to", "too",
    "two", "under", "until", "up", "upon", "us", "very", "was", "we", "were", "what", "when", "where",
    "which", "while", "who", "whom", "why", "will", "with", "would", "yet", "you", "your", "der", "die",
    "das", "und", "ist", "ein", "eine", "nicht", "mit", "von", "für", "auf", "den", "dem", "les", "des",
    "une", "est", "que", "pour",
];

/// The terms of a text, in order, with repetitions.
pub(super) fn terms(text: &str) -> Vec<String> {
    terms_as_written(text).into_iter().map(|(term, _)| term).collect()
}

/// The terms of a text, each with the lower-case word it stands for.
pub(super) fn terms_as_written(text: &str) -> Vec<(String, String)> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '\'' && c != '’');
    let mut found = Vec::new();
    for word in words {
        let word = word.trim_matches(['\'', '’', '_']);
        if word.chars().any(is_unspaced) {
            found.extend(bigrams(word).into_iter().map(|pair| (pair.clone(), pair)));
        } else if word.chars().count() > 1 && !STOP_WORDS.contains(&word) {
            found.push((stem(word), word.to_owned()));
        }
    }
    found
}

/// The terms of a text as a set.
pub(super) fn term_set(text: &str) -> BTreeSet<String> {
    terms(text).into_iter().collect()
}

/// Scripts that are written without spaces: Han, Hiragana, Katakana, Thai.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0e7f}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}')
}

fn bigrams(word: &str) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    if characters.len() < 2 {
        return vec![word.to_owned()];
    }
    characters.windows(2).map(|pair| pair.iter().collect()).collect()
}

/// Drops a possessive and the plainest English endings; other languages mostly pass unchanged.
pub(super) fn stem(word: &str) -> String {
    let word = word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).unwrap_or(word);
    let long = |stem: &&str| stem.chars().count() >= 4;
    if let Some(stem) = word.strip_suffix("ies").filter(long) {
        return format!("{stem}y");
    }
    let sibilant =
        |stem: &&str| stem.ends_with(['s', 'x', 'z']) || stem.ends_with("ch") || stem.ends_with("sh");
    if let Some(stem) = word.strip_suffix("es").filter(|stem| stem.chars().count() >= 3).filter(sibilant) {
        return stem.to_owned();
    }
    let plural = word.strip_suffix('s').filter(|stem| stem.chars().count() >= 3);
    if let Some(stem) = plural.filter(|stem| !stem.ends_with(['s', 'u', 'i'])) {
        return stem.to_owned();
    }
    for ending in ["ing", "ed"] {
        if let Some(stem) = word.strip_suffix(ending).filter(long) {
            return stem.to_owned();
        }
    }
    word.to_owned()
}

/// How much two sets of terms share: 0 for nothing, 1 for everything (Jaccard index).
pub(super) fn likeness(one: &BTreeSet<String>, other: &BTreeSet<String>) -> f64 {
    let shared = one.intersection(other).count();
    let all = one.len() + other.len() - shared;
    if all == 0 { 1.0 } else { shared as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::{likeness, stem, term_set, terms};

    #[test]
    fn terms_are_folded() {
        assert_eq!(
            terms("The agents' budgets, and an agent's Budget!"),
            ["agent", "budget", "agent", "budget"]
        );
        assert_eq!(terms("Über Größe"), ["über", "größe"]);
        assert_eq!(terms("日本語"), ["日本", "本語"]);
        assert!(terms("the of and").is_empty());
        for (word, expected) in
            [("policies", "policy"), ("boxes", "box"), ("status", "status"), ("reading", "read")]
        {
            assert_eq!(stem(word), expected);
        }
    }

    #[test]
    fn likeness_is_between_none_and_all() {
        let same = likeness(&term_set("red fox"), &term_set("Fox, red"));
        assert!((same - 1.0).abs() < f64::EPSILON);
        assert!(likeness(&term_set("red fox"), &term_set("blue whale")).abs() < f64::EPSILON);
    }
}
