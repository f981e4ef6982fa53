//! Cuts prose into sentences.
//!
//! Invariant: no sentence is empty or holds a line break; nothing but white space is dropped.

const ABBREVIATIONS: &[&str] = &[
    "e.g", "i.e", "etc", "vs", "cf", "mr", "mrs", "ms", "dr", "prof", "st", "no", "fig", "eq", "approx",
    "inc", "ltd", "jr", "sr", "z.b", "bzw", "ca", "resp", "al",
];

/// The sentences of one paragraph.
pub(super) fn split(paragraph: &str) -> Vec<String> {
    let text = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    let mut start = 0;
    for (at, mark) in text.char_indices() {
        let end = at + mark.len_utf8();
        if end > start && ends_sentence(&text[start..at], mark, &text[end..]) {
            let closing = text[end..].chars().take_while(|c| "\"'”’»)]".contains(*c)).map(char::len_utf8);
            let end = end + closing.sum::<usize>();
            push(&mut found, &text[start..end]);
            start = end;
        }
    }
    push(&mut found, &text[start.min(text.len())..]);
    found
}

fn push(found: &mut Vec<String>, sentence: &str) {
    let sentence = sentence.trim();
    if !sentence.is_empty() {
        found.push(sentence.to_owned());
    }
}

fn ends_sentence(before: &str, mark: char, after: &str) -> bool {
    match mark {
        '。' | '！' | '？' => true,
        '!' | '?' | '…' => begins_sentence(after),
        '.' => begins_sentence(after) && !is_abbreviation(before),
        _ => false,
    }
}

/// A space, then something that can begin a sentence.
fn begins_sentence(after: &str) -> bool {
    let rest = after.trim_start_matches(['"', '\'', '”', '’', '»', ')', ']']);
    if rest.is_empty() {
        return true;
    }
    let Some(next) = rest.strip_prefix(' ').and_then(|rest| rest.chars().next()) else { return false };
    !next.is_lowercase()
}

fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit([' ', '(']).next().unwrap_or(before);
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn sentences_end_where_a_reader_says() {
        assert_eq!(split("One. Two? Three!"), ["One.", "Two?", "Three!"]);
        assert_eq!(
            split("See e.g. Rust 1.95 by J. Doe. It works."),
            ["See e.g. Rust 1.95 by J. Doe.", "It works."]
        );
        assert_eq!(split("He said \"No.\" Then he left."), ["He said \"No.\"", "Then he left."]);
        assert_eq!(split("file.md is read\nin one go"), ["file.md is read in one go"]);
        assert_eq!(split("これは文です。次の文です。"), ["これは文です。", "次の文です。"]);
        assert_eq!(split("Été comme hiver. Ça va."), ["Été comme hiver.", "Ça va."]);
        assert!(split("  \n ").is_empty());
    }
}
