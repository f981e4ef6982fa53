//! Strangers' words made fit for a message.
//!
//! Invariant: what leaves here is short, one line, and holds no key.

/// Most characters of a stranger's words that are passed on.
pub(crate) const MAX_QUOTED_CHARACTERS: usize = 300;

/// The words without the key, without control characters, cut.
pub(crate) fn harmless(text: &str, key: Option<&str>) -> String {
    // A key that straddles the cut must not survive in part, so it is taken out first.
    let text = match key {
        Some(key) if !key.is_empty() => text.replace(key, "[key]"),
        _ => text.to_owned(),
    };
    let clean: String = text
        .chars()
        .map(|one| if one.is_control() { ' ' } else { one })
        .take(MAX_QUOTED_CHARACTERS)
        .collect();
    clean.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{MAX_QUOTED_CHARACTERS, harmless};

    #[test]
    fn quotes_are_short_clean_and_hold_no_key() {
        let said = harmless("bad key sk-123\u{1b}[31m\nnext", Some("sk-123"));
        assert_eq!(said, "bad key [key] [31m next");
        assert_eq!(harmless(&"x".repeat(9999), None).len(), MAX_QUOTED_CHARACTERS);
    }
}
