//! Sets documents side by side: what they share, what only one of them says, what changed.
//!
//! Invariant: every sentence shown is quoted from the document it is attributed to.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Document;
use super::words::{likeness, term_set, terms_as_written};
use crate::builtin::findings::{Findings, Source};

/// Documents compared at once.
const MAX_SIDES: usize = 12;
/// Units of one document that are compared; the work grows with their square.
const MAX_UNITS: usize = 1_200;
/// Shown per document, and as changed.
const SHOWN_ONLY: usize = 12;
const SHOWN_CHANGED: usize = 8;
const SHOWN_TERMS: usize = 10;
/// From here on two sentences are versions of each other.
const VERSION: f64 = 0.5;
/// Sentences with fewer terms are too short to be versions of each other.
const FEWEST_TERMS: usize = 2;

/// There is nothing to compare with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CompareError {
    #[error("Comparing needs at least two readable documents; there is only {only}.")]
    One { only: String },
    #[error("Comparing takes up to {MAX_SIDES} documents; there are {count}.")]
    TooMany { count: usize },
}

#[derive(Debug)]
struct Side<'d> {
    document: &'d Document,
    units: Vec<(&'d str, BTreeSet<String>)>,
    counts: BTreeMap<String, Count>,
}

/// How often a term occurs, and a word that it stands for.
#[derive(Debug, Clone)]
struct Count {
    times: usize,
    word: String,
}

/// How one unit relates to the other documents.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Relation<'d> {
    Same,
    Version(&'d str),
    Only,
}

/// The findings of a comparison.
pub(crate) fn compare(documents: &[Document]) -> Result<Findings, CompareError> {
    if let [only] = documents {
        return Err(CompareError::One { only: only.name.clone() });
    }
    if documents.len() > MAX_SIDES {
        return Err(CompareError::TooMany { count: documents.len() });
    }
    let sides: Vec<Side<'_>> = documents.iter().map(side).collect();
    let mut findings = Findings::default();
    let mut changed = Vec::new();
    let mut same = true;
    for (index, one) in sides.iter().enumerate() {
        let (source, versions) = describe(index, one, &sides);
        same &= source.points.is_empty() && versions.is_empty();
        if index == 0 {
            changed = versions;
        }
        findings.sources.push(source);
    }
    if same {
        findings.keys.push("no sentence differs".to_owned());
    }
    findings.keys.extend(changed.into_iter().take(SHOWN_CHANGED));
    findings.keys.extend(shared_terms(&sides));
    Ok(findings)
}

fn side(document: &Document) -> Side<'_> {
    let units = document
        .units
        .iter()
        .take(MAX_UNITS)
        .map(|unit| (unit.text.as_str(), term_set(&unit.text)))
        .collect();
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for (term, word) in terms_as_written(&document.content) {
        counts.entry(term).or_insert(Count { times: 0, word }).times += 1;
    }
    Side { document, units, counts }
}

/// What only this document says, and what others say differently.
fn describe(index: usize, one: &Side<'_>, sides: &[Side<'_>]) -> (Source, Vec<String>) {
    let others: Vec<&Side<'_>> =
        sides.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, side)| side).collect();
    let mut points = Vec::new();
    let mut versions = Vec::new();
    let mut shared = 0;
    for (text, terms) in &one.units {
        match relation(text, terms, &others) {
            Relation::Same => shared += 1,
            Relation::Version(other) => versions.push(format!("changed: “{text}” ⇄ “{other}”")),
            Relation::Only => points.push(format!("only here: {text}")),
        }
    }
    let mut details = one.document.details();
    details.push(format!(
        "{shared} sentences shared, {} changed, {} only here",
        versions.len(),
        points.len()
    ));
    let own = own_terms(one, &others);
    if !own.is_empty() {
        details.push(format!("terms only here: {}", own.join(", ")));
    }
    points.truncate(SHOWN_ONLY);
    let name = one.document.name.clone();
    (Source { name, title: one.document.title.clone(), details, points }, versions)
}

fn relation<'d>(text: &str, terms: &BTreeSet<String>, others: &[&Side<'d>]) -> Relation<'d> {
    let mut nearest: Option<(f64, &'d str)> = None;
    for (other, other_terms) in others.iter().flat_map(|side| &side.units) {
        if *other == text {
            return Relation::Same;
        }
        let like = likeness(terms, other_terms);
        if nearest.is_none_or(|(best, _)| like > best) {
            nearest = Some((like, other));
        }
    }
    match nearest {
        Some((like, other)) if like >= VERSION && terms.len() >= FEWEST_TERMS => Relation::Version(other),
        _ => Relation::Only,
    }
}

/// The most frequent terms that no other document holds.
fn own_terms(one: &Side<'_>, others: &[&Side<'_>]) -> Vec<String> {
    let own =
        one.counts.iter().filter(|(term, _)| others.iter().all(|side| !side.counts.contains_key(*term)));
    most_frequent(own.map(|(_, count)| count.clone()).collect())
}

fn shared_terms(sides: &[Side<'_>]) -> Option<String> {
    let first = sides.first()?;
    let shared = first.counts.iter().filter_map(|(term, count)| {
        let rest: Option<usize> =
            sides[1..].iter().map(|side| side.counts.get(term).map(|own| own.times)).sum();
        Some(Count { times: count.times + rest?, word: count.word.clone() })
    });
    let shared = most_frequent(shared.collect());
    (!shared.is_empty()).then(|| format!("terms in all: {}", shared.join(", ")))
}

fn most_frequent(mut counts: Vec<Count>) -> Vec<String> {
    counts.sort_by(|one, other| other.times.cmp(&one.times).then_with(|| one.word.cmp(&other.word)));
    counts.into_iter().take(SHOWN_TERMS).map(|count| count.word).collect()
}

#[cfg(test)]
mod tests {
    use super::super::document::Document;
    use super::{CompareError, compare};

    fn document(name: &str, text: &str) -> Document {
        Document::of_file(name, "md", text, text.len() as u64)
    }

    #[test]
    fn differences_are_attributed() {
        let one =
            document("a.md", "The limit is 3 children at once. Workers are confined. Alpha stands alone.");
        let two =
            document("b.md", "The limit is 5 children at once. Workers are confined. Omega came later.");
        let findings = compare(&[one, two]).expect("two documents");
        assert!(findings.keys.iter().any(|key| key.contains("limit is 3") && key.contains("limit is 5")));
        assert_eq!(findings.sources[0].points, ["only here: Alpha stands alone."]);
        assert_eq!(findings.sources[1].points, ["only here: Omega came later."]);
        assert!(findings.sources[0].details.iter().any(|detail| detail.starts_with("1 sentences shared")));
    }

    #[test]
    fn equal_documents_do_not_differ() {
        let text = "Same words here. And more of them.";
        let findings = compare(&[document("a", text), document("b", text)]).expect("two documents");
        assert_eq!(findings.keys[0], "no sentence differs");
    }

    #[test]
    fn one_document_is_not_compared() {
        assert!(matches!(compare(&[document("a", "x")]), Err(CompareError::One { .. })));
    }
}
