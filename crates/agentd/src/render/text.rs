//! Making text harmless and short.
//!
//! Invariant: what [`line`] and [`block`] return holds no control character (but line breaks and tabs in a
//! block) and no character that reorders or hides text.

use aaos_core::id::AgentId;
use aaos_core::quantity::{Millis, Timestamp};

/// Most characters of one value inside a line.
pub(crate) const VALUE_CHARS: usize = 100;
/// Most characters of a reason: an error's text.
pub(crate) const REASON_CHARS: usize = 400;

/// One line: control characters shown as escapes.
pub(crate) fn line(text: &str) -> String {
    harmless(text, |_| false)
}

/// Several lines: line breaks and tabs stay.
pub(crate) fn block(text: &str) -> String {
    harmless(text, |c| c == '\n' || c == '\t')
}

/// JSON text that says the same, in which strings hold neither control nor deceptive characters as they are.
pub(crate) fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_control() || is_deceptive(c)) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    }
    shown
}

fn harmless(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if keep(c) || !(c.is_control() || is_deceptive(c)) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// Bidirectional controls, zero-width characters and tags (Unicode TR 36): they change what a reader sees.
fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line of at most `most` characters; a cut is marked.
pub(crate) fn cut(text: &str, most: usize) -> String {
    // Escapes only lengthen, so this much of the text is enough to fill the line.
    let shown = match text.char_indices().nth(most + 1) {
        Some((end, _)) => line(&text[..end]),
        None => line(text),
    };
    match shown.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// The first lines of a text, each harmless and at most `chars` long; one line more says how many are left out.
pub(crate) fn excerpt(text: &str, lines: usize, chars: usize) -> Vec<String> {
    let text = text.trim_matches(['\n', '\r']);
    let mut rest = text.split('\n');
    let mut shown: Vec<String> =
        rest.by_ref().take(lines).map(|line| cut(line.trim_end_matches('\r'), chars)).collect();
    match rest.count() {
        0 => {}
        1 => shown.push("… 1 more line".to_owned()),
        more => shown.push(format!("… {more} more lines")),
    }
    shown
}

/// The end of an id, enough to tell the agents of one goal apart (the front of a UUID version 7 is its time).
pub(crate) fn short_id(id: &AgentId) -> String {
    let text = id.to_string();
    text[text.len() - 8..].to_owned()
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut tenths = bytes.saturating_mul(10) / 1024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A length of time for people.
pub(crate) fn span(time: Millis) -> String {
    let ms = time.0;
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// A point in time as RFC 3339 in UTC, with milliseconds.
pub(crate) fn instant(at: Timestamp) -> String {
    let (days, ms) = (at.0 / 86_400_000, at.0 % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// The Gregorian date of a day since 1970-01-01, after H. Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    debug_assert!((1..=12).contains(&month) && (1..=31).contains(&day), "a date of the calendar");
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{block, cut, excerpt, instant, json, line, size, span};
    use aaos_core::quantity::{Millis, Timestamp};

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(line("a\u{1b}[2Jb\r\nc\u{7}"), "a\\u{1b}[2Jb\\r\\nc\\u{7}");
        assert_eq!(line("\u{9b}31m"), "\\u{9b}31m", "C1 controls too");
        assert_eq!(line("evil\u{202e}txt.exe"), "evil\\u{202e}txt.exe");
        assert_eq!(line("a\u{200b}b\u{feff}"), "a\\u{200b}b\\u{feff}");
        assert_eq!(line("Grüße, 世界 🙂"), "Grüße, 世界 🙂");
        assert_eq!(block("a\n\tb\u{1b}c\r"), "a\n\tb\\u{1b}c\\r");
    }

    #[test]
    fn json_says_the_same_without_them() {
        let said = "a\u{9b}b\u{202e}c\u{7f}d\u{e0041}e\n世界 🙂";
        let raw = serde_json::to_string(said).expect("JSON");
        let shown = json(&raw);
        assert_eq!(shown, "\"a\\u009bb\\u202ec\\u007fd\\udb40\\udc41e\\n世界 🙂\"");
        assert_eq!(serde_json::from_str::<String>(&shown).expect("JSON"), said);
        assert_ne!(raw, shown, "the control");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc…");
        assert_eq!(cut("ääää", 3), "äää…");
        assert_eq!(cut("\n\n", 3), "\\n\\…");
        assert_eq!(cut(&"x".repeat(1_000_000), 5), "xxxxx…");
        assert_eq!(cut("", 5), "");
    }

    #[test]
    fn an_excerpt_says_what_it_leaves_out() {
        assert_eq!(excerpt("a\r\nb\n", 2, 9), ["a", "b"]);
        assert_eq!(excerpt("\na\n\nb\u{1b}", 3, 9), ["a", "", "b\\u{1b}"]);
        assert_eq!(excerpt("1\n2\n3", 2, 9), ["1", "2", "… 1 more line"]);
        assert_eq!(excerpt("1\n2\n3\n4", 2, 9), ["1", "2", "… 2 more lines"]);
        assert_eq!(excerpt("abcdef", 2, 3), ["abc…"]);
        assert_eq!(excerpt("a\u{2028}b\u{202e}", 2, 20), ["a\\u{2028}b\\u{202e}"]);
    }

    #[test]
    fn sizes_and_spans_are_for_people() {
        let sizes = [0, 1023, 1024, 1536, 1_048_576, 5_368_709_120, u64::MAX].map(size);
        assert_eq!(sizes[..6], ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB"]);
        assert!(sizes[6].ends_with("TiB"));
        let spans = [0, 999, 1000, 59_999, 60_000, 3_661_000].map(|ms| span(Millis(ms)));
        assert_eq!(spans, ["0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 0 s", "1 h 1 min"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(instant(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(instant(Timestamp(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(instant(Timestamp(1_709_251_199_999)), "2024-02-29T23:59:59.999Z");
        assert_eq!(instant(Timestamp(1_709_251_200_000)), "2024-03-01T00:00:00.000Z");
        assert_eq!(instant(Timestamp(1_767_225_599_000)), "2025-12-31T23:59:59.000Z");
        assert_eq!(instant(Timestamp(4_107_542_400_000)), "2100-03-01T00:00:00.000Z");
    }
}
