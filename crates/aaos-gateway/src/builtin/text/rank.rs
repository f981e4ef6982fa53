//! Extractive summary: the sentences nearest to what a document is about.
//!
//! Each unit is a vector of tf·idf weights; its score is the cosine with the document's sum vector (centroid
//! ranking, Radev et al. 2004), raised for the beginnings of documents and sections and for words of the
//! headings, lowered for very short and very long text. Near repetitions of a chosen unit are passed over.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, Unit, UnitKind};
use super::words::{likeness, term_set, terms};
use crate::builtin::findings::{Findings, Source};

/// Units quoted of one document unless a number was asked for.
const FEWEST: usize = 3;
const MOST: usize = 7;
/// One unit in this many is quoted, within the two above.
const UNITS_PER_POINT: usize = 6;
/// Key points over all documents.
const KEY_POINTS: usize = 7;
/// A unit longer than this is rather a paragraph.
const LONG_BYTES: usize = 280;
/// From here on two units say the same.
const SAME: f64 = 0.55;

/// A unit with its score.
#[derive(Debug, Clone, PartialEq)]
struct Scored {
    index: usize,
    score: f64,
    terms: BTreeSet<String>,
}

/// The findings of a summary.
pub(crate) fn summarise(documents: &[Document], limit: Option<usize>) -> Findings {
    let mut findings = Findings::default();
    let mut leading: Vec<(f64, String, BTreeSet<String>)> = Vec::new();
    let common = frequencies(documents.iter().map(|document| term_set(&document.content)));
    for document in documents {
        let best = best(document, limit.unwrap_or_else(|| wanted(document.units.len())));
        leading.extend(lead(document, &best, &common, documents.len()));
        let points = in_order(document, best);
        findings.sources.push(Source {
            name: document.name.clone(),
            title: document.title.clone(),
            details: document.details(),
            points,
        });
    }
    if documents.len() > 1 {
        findings.keys = keys(leading, limit.unwrap_or(KEY_POINTS));
    }
    findings
}

fn wanted(units: usize) -> usize {
    (units / UNITS_PER_POINT).clamp(FEWEST, MOST)
}

/// How many of the sets hold each term.
fn frequencies(sets: impl Iterator<Item = BTreeSet<String>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for term in sets.flatten() {
        *counts.entry(term).or_insert(0) += 1;
    }
    counts
}

/// The best units of a document, best first, without near repetitions.
fn best(document: &Document, count: usize) -> Vec<Scored> {
    let mut scored = score(document);
    scored.sort_by(|one, other| other.score.total_cmp(&one.score).then(one.index.cmp(&other.index)));
    let mut chosen: Vec<Scored> = Vec::new();
    for candidate in scored {
        if chosen.len() == count {
            break;
        }
        if chosen.iter().all(|known| likeness(&known.terms, &candidate.terms) < SAME) {
            chosen.push(candidate);
        }
    }
    chosen
}

fn in_order(document: &Document, mut chosen: Vec<Scored>) -> Vec<String> {
    chosen.sort_by_key(|unit| unit.index);
    chosen.into_iter().map(|unit| document.units[unit.index].text.clone()).collect()
}

fn score(document: &Document) -> Vec<Scored> {
    let vectors: Vec<Vec<String>> = document.units.iter().map(|unit| terms(&unit.text)).collect();
    let holders = frequencies(vectors.iter().map(|terms| terms.iter().cloned().collect()));
    let units = document.units.len() as f64;
    let weight = |term: &String| (1.0 + units / holders.get(term).copied().unwrap_or(1) as f64).ln();
    let mut centroid: BTreeMap<&String, f64> = BTreeMap::new();
    for term in vectors.iter().flatten() {
        *centroid.entry(term).or_insert(0.0) += weight(term);
    }
    let length = norm(centroid.values());
    let named = term_set(&format!("{} {}", document.title, document.headings.join(" ")));
    let score = |(index, terms): (usize, &Vec<String>)| {
        let set: BTreeSet<String> = terms.iter().cloned().collect();
        let own: Vec<f64> = set.iter().map(&weight).collect();
        let shared: f64 = set
            .iter()
            .zip(&own)
            .map(|(term, weight)| weight * centroid.get(term).copied().unwrap_or(0.0))
            .sum();
        let sizes = norm(own.iter()) * length;
        let cosine = if sizes > 0.0 { shared / sizes } else { 0.0 };
        let about = set.intersection(&named).count() as f64 / (set.len().max(1)) as f64;
        let factor = shape(&document.units[index], index, set.len());
        Scored { index, score: (cosine + 0.25 * about) * factor, terms: set }
    };
    vectors.iter().enumerate().map(score).collect()
}

fn norm<'v>(values: impl Iterator<Item = &'v f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// What position, kind and length say of a unit.
fn shape(unit: &Unit, index: usize, terms: usize) -> f64 {
    let position = match (index, unit.opens_section) {
        (0, _) => 1.5,
        (_, true) => 1.35,
        (1 | 2, false) => 1.1,
        _ => 1.0,
    };
    let kind = match unit.kind {
        UnitKind::Sentence => 1.0,
        UnitKind::Item => 0.85,
        UnitKind::Row => 0.5,
    };
    let length = match terms {
        0..=2 => 0.3,
        3..=4 => 0.7,
        5..=20 => 1.0,
        21..=28 => 0.8,
        _ => 0.5,
    };
    let bytes = if unit.text.len() > LONG_BYTES { 0.6 } else { 1.0 };
    let question = if unit.text.ends_with(['?', ':']) { 0.6 } else { 1.0 };
    position * kind * length * bytes * question
}

/// The leading unit of a document, scored by how much of it the other documents share.
fn lead(
    document: &Document,
    best: &[Scored],
    common: &BTreeMap<String, usize>,
    documents: usize,
) -> Option<(f64, String, BTreeSet<String>)> {
    let first = best.first()?;
    let shared: usize = first.terms.iter().map(|term| common.get(term).copied().unwrap_or(0)).sum();
    let spread = shared as f64 / (first.terms.len().max(1) * documents) as f64;
    let text = format!("{} ({})", document.units[first.index].text, document.name);
    Some((first.score * (1.0 + spread), text, first.terms.clone()))
}

fn keys(mut leading: Vec<(f64, String, BTreeSet<String>)>, count: usize) -> Vec<String> {
    leading.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    let mut chosen: Vec<(String, BTreeSet<String>)> = Vec::new();
    for (_, text, terms) in leading {
        if chosen.len() < count && chosen.iter().all(|(_, known)| likeness(known, &terms) < SAME) {
            chosen.push((text, terms));
        }
    }
    chosen.into_iter().map(|(text, _)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::super::document::Document;
    use super::summarise;

    const SAMPLE: &str = "# Worker isolation\n\nEach agent acts through a confined worker process. The weather was \
        nice on Tuesday. A worker process receives descriptors of single files, so that no path reaches it. \
        Somebody brought cake to the office.\n\n## Kernel limits\n\nLandlock and seccomp confine the worker before \
        it reads anything. The kernel refuses every call that the seccomp filter does not list. Bananas are \
        yellow.\n\n```\nfn secret() {}\n```\n\nA worker that breaks the filter is ended by the kernel. We like \
        music. The confined worker process answers requests until its agent stops. Parking is behind the house.\n";

    fn points(text: &str, limit: Option<usize>) -> Vec<String> {
        let document = Document::of_file("a.md", "md", text, text.len() as u64);
        summarise(&[document], limit).sources.remove(0).points
    }

    #[test]
    fn a_summary_keeps_the_subject_and_drops_the_asides() {
        let points = points(SAMPLE, Some(5));
        assert_eq!(points.len(), 5);
        assert_eq!(points[0], "Each agent acts through a confined worker process.");
        let text = points.join(" ");
        for aside in ["weather", "cake", "Bananas", "music", "Parking", "secret"] {
            assert!(!text.contains(aside), "{aside} in {text}");
        }
        assert!(text.contains("Landlock"), "the first sentence of a section counts: {text}");
    }

    #[test]
    fn points_keep_the_document_order_and_never_repeat() {
        let text = "Alpha beta gamma delta epsilon. Alpha beta gamma delta epsilon! Zeta eta theta iota kappa. \
            Lambda mu nu xi omicron.";
        let points = points(text, Some(4));
        assert_eq!(points.len(), 3, "a repetition is passed over: {points:?}");
        assert!(points[0].starts_with("Alpha") && points[2].starts_with("Lambda"));
    }

    #[test]
    fn every_document_is_heard_and_the_result_is_the_same_each_time() {
        let documents: Vec<Document> = (0..3)
            .map(|n| {
                Document::of_file(
                    &format!("{n}.md"),
                    "md",
                    &format!("Topic number {n} concerns item x{n} fully."),
                    1,
                )
            })
            .collect();
        let findings = summarise(&documents, None);
        assert_eq!(findings.sources.len(), 3);
        assert!(!findings.keys.is_empty());
        assert_eq!(findings, summarise(&documents, None));
    }

    #[test]
    fn other_scripts_are_summarised() {
        let points = points("日本の首都は東京です。猫が好きです。東京は日本の大きな都市です。", Some(2));
        assert!(points.iter().all(|point| point.contains("東京")), "{points:?}");
        assert!(
            super::summarise(&[Document::of_file("e.md", "md", "", 0)], None).sources[0].points.is_empty()
        );
    }
}
