//! Picks the passages that hold given words, or are of a given shape.
//!
//! Invariant: a source without a fitting passage is not listed; that nothing fits at all is said.

use std::collections::BTreeSet;

use super::document::Document;
use super::words::{stem, terms};
use crate::builtin::findings::{Findings, Source};
use crate::builtin::phrase::Special;

/// Passages taken of one document.
const MAX_POINTS: usize = 60;
const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "jan",
    "feb",
    "mar",
    "apr",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
];

/// Passages with the words asked for; those with more of them first where not all can stay.
pub(crate) fn by_words(documents: &[Document], words: &[String]) -> Findings {
    let wanted: BTreeSet<String> = words.iter().flat_map(|word| terms(word)).collect();
    let whole: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let hits = |text: &str| {
        let lower = text.to_lowercase();
        let held = terms(text);
        let fits = |want: &&String| held.iter().any(|term| term == *want || stem(term) == **want);
        wanted.iter().filter(fits).count() + whole.iter().filter(|phrase| lower.contains(*phrase)).count()
    };
    let pick = |document: &Document| {
        let mut found: Vec<(usize, usize)> = document
            .units
            .iter()
            .enumerate()
            .map(|(index, unit)| (hits(&unit.text), index))
            .filter(|(count, _)| *count > 0)
            .collect();
        found.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        found.truncate(MAX_POINTS);
        found.into_iter().map(|(_, index)| document.units[index].text.clone()).collect()
    };
    gather(documents, &words.join(" "), pick)
}

/// Passages of the shape asked for.
pub(crate) fn by_shape(documents: &[Document], special: Special) -> Findings {
    let (name, pick): (&str, fn(&Document) -> Vec<String>) = match special {
        Special::Emails => ("e-mail addresses", |document| pieces(&document.content, is_email)),
        Special::Links => ("links", |document| pieces(&document.content, is_link)),
        Special::Headings => ("headings", |document| document.headings.clone()),
        Special::Dates => ("dates", |document| units(document, has_date)),
        Special::Numbers => {
            ("numbers", |document| units(document, |text| text.contains(|c: char| c.is_numeric())))
        }
    };
    gather(documents, name, pick)
}

fn gather(documents: &[Document], what: &str, pick: impl Fn(&Document) -> Vec<String>) -> Findings {
    let mut findings = Findings::default();
    let mut total = 0;
    for document in documents {
        let points = pick(document);
        if points.is_empty() {
            continue;
        }
        total += points.len();
        let details = document.details().into_iter().take(1).collect();
        let title = document.title.clone();
        findings.sources.push(Source { name: document.name.clone(), title, details, points });
    }
    findings.keys.push(format!(
        "{total} passages in {} of {} sources fit: {what}",
        findings.sources.len(),
        documents.len()
    ));
    findings
}

fn units(document: &Document, fits: fn(&str) -> bool) -> Vec<String> {
    let fitting = document.units.iter().filter(|unit| fits(&unit.text));
    fitting.take(MAX_POINTS).map(|unit| unit.text.clone()).collect()
}

/// Pieces between white space and brackets, without repetitions.
fn pieces(text: &str, fits: fn(&str) -> bool) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let ends = |c: char| c.is_whitespace() || "<>()[]{}\"'`,;|".contains(c);
    for piece in text.split(ends).map(|piece| piece.trim_end_matches(['.', ':', '!', '?'])) {
        if fits(piece) && found.len() < MAX_POINTS && !found.iter().any(|known| known == piece) {
            found.push(piece.to_owned());
        }
    }
    found
}

fn is_email(piece: &str) -> bool {
    let piece = piece.strip_prefix("mailto:").unwrap_or(piece);
    piece.split_once('@').is_some_and(|(name, host)| {
        let dotted = host.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest.len() > 1);
        !name.is_empty() && dotted && !host.contains('@') && !piece.contains('/')
    })
}

fn is_link(piece: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| piece.len() > scheme.len() && piece.starts_with(scheme))
}

fn has_date(text: &str) -> bool {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric() && !"-./".contains(c)).collect();
    let digits = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    let numeric = |word: &&str| {
        let parts: Vec<&str> = word.trim_matches(['.', '-', '/']).split(['-', '.', '/']).collect();
        parts.len() == 3 && parts.iter().all(|part| digits(part)) && parts.iter().any(|part| part.len() == 4)
    };
    let month = words.iter().any(|word| MONTHS.contains(word));
    words.iter().any(numeric) || month && words.iter().any(|word| digits(word))
}

#[cfg(test)]
mod tests {
    use super::super::document::Document;
    use super::{by_shape, by_words, has_date};
    use crate::builtin::phrase::Special;

    fn documents() -> Vec<Document> {
        let one = "# Budget\nA budget is spent. Nothing else. Budgets reach the root.\n\nMail a@b.example or see \
            <https://x.example/y>. On 3 May 2024 it began.";
        vec![Document::of_file("a.md", "md", one, 1), Document::of_file("b.md", "md", "Silence.", 1)]
    }

    #[test]
    fn words_are_found_in_their_forms() {
        let findings = by_words(&documents(), &["budgets".into()]);
        assert_eq!(findings.sources.len(), 1);
        assert_eq!(findings.sources[0].points, ["Budgets reach the root.", "A budget is spent."]);
        assert!(by_words(&documents(), &["zebra".into()]).keys[0].starts_with("0 passages in 0 of 2"));
    }

    #[test]
    fn shapes_are_recognised() {
        let points = |special| by_shape(&documents(), special).sources.remove(0).points;
        assert_eq!(points(Special::Emails), ["a@b.example"]);
        assert_eq!(points(Special::Links), ["https://x.example/y"]);
        assert_eq!(points(Special::Headings), ["Budget"]);
        assert_eq!(points(Special::Dates), ["On 3 May 2024 it began."]);
        assert!(has_date("on 2024-05-03.") && !has_date("version 1.2.3") && !has_date("you may go"));
    }
}
