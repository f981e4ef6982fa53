//! What kinds of text weigh, and that no text is too much lighter than its tokens.

use aaos_core::quantity::Bytes;
use proptest::prelude::*;

use super::{SEAM, parts, weigh};

/// Tokens that a text weighs, rounded.
fn tokens(text: &str) -> u64 {
    (parts(text) + 500) / 1_000
}

#[test]
fn each_part_of_a_text_weighs_what_it_is() {
    assert_eq!(parts(""), 0);
    assert_eq!(parts("cat"), 950);
    assert_eq!(parts("the cat"), 1_900, "a space belongs to the word after it");
    assert_eq!(parts("theCat"), 1_900);
    assert_eq!(parts("harbour"), 950 + 2 * 240);
    assert_eq!(parts("1234"), 4_000, "each digit is a token in some vocabularies");
    assert_eq!(parts("a 1"), 950 + 900 + 1_000, "a space before a number is one of its own");
    assert_eq!(parts("}); "), 620 + 2 * 660 + 650);
    assert_eq!(parts("----"), 620 + 3 * 240);
    assert_eq!(parts("F\u{e4}hre"), 950 + 1_600);
    assert_eq!(parts("\u{4f60}\u{597d}"), 2_400);
    assert_eq!(parts("\n\n    x"), 130 + 330 + 3 * 16 + 650 + 950);
    assert_eq!((weigh(""), weigh("cat")), (Bytes(0), Bytes(4)), "7 bytes to 2 tokens, rounded up");
}

/// The same letters again in each run, by a linear congruence (Numerical Recipes' constants).
fn drawn(count: usize, letters: &[char]) -> String {
    let mut state: u32 = 1;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        letters[(state >> 8) as usize % letters.len()]
    });
    next.take(count).collect()
}

fn range(from: u32, to: u32) -> Vec<char> {
    (from..=to).filter_map(char::from_u32).collect()
}

/// Texts that no estimate was made for, and the most tokens that one of o200k, cl100k, Llama 3, Qwen2.5 and SmolLM2
/// makes of them, as the tokenizers themselves counted.
fn hostile() -> Vec<(&'static str, String, u64)> {
    let letters = [range(65, 90), range(97, 122)].concat();
    let base64 = [letters.clone(), range(48, 57), vec!['+', '/']].concat();
    let marks = [range(33, 47), range(58, 64), range(91, 96), range(123, 126)].concat();
    vec![
        ("digits", drawn(2_000, &range(48, 57)), 2_000),
        ("base64", drawn(2_000, &base64), 1_614),
        ("hexadecimal", drawn(2_000, &[range(48, 57), range(97, 102)].concat()), 1_785),
        ("capitals", drawn(2_000, &range(65, 90)), 1_364),
        ("small letters", drawn(2_000, &range(97, 122)), 1_188),
        ("letters", drawn(2_000, &letters), 1_453),
        ("marks", drawn(2_000, &marks), 1_577),
        ("control characters", drawn(2_000, &range(1, 31)), 1_996),
        ("white space", drawn(2_000, &[' ', '\t', '\n']), 966),
        ("spaces", " ".repeat(2_000), 32),
        ("new lines", "\n".repeat(2_000), 500),
        ("one letter", "x".repeat(2_000), 500),
        ("emoji", drawn(500, &range(0x1f300, 0x1f6ff)), 1_500),
        ("zero width", "\u{200b}".repeat(1_000), 2_000),
        ("mixed zero width", drawn(1_000, &range(0x200b, 0x200f)), 2_000),
        ("combining marks", drawn(1_000, &range(0x300, 0x36f)), 2_000),
        ("signs", drawn(1_000, &range(0x2190, 0x22ff)), 2_501),
        ("Han", drawn(1_000, &range(0x4e00, 0x9fff)), 2_696),
        ("Hangul", drawn(1_000, &range(0xac00, 0xd7a3)), 2_976),
        ("Cyrillic", drawn(1_000, &range(0x400, 0x4ff)), 1_887),
        ("Arabic", drawn(1_000, &range(0x620, 0x6ff)), 1_888),
        ("Devanagari", drawn(1_000, &range(0x900, 0x97f)), 1_870),
        ("hieroglyphs", drawn(500, &range(0x13000, 0x1342e)), 1_998),
        ("private use", drawn(500, &range(0xf0000, 0xf0fff)), 1_998),
    ]
}

#[test]
fn hostile_text_takes_less_than_three_times_what_it_weighs() {
    for (name, text, most) in hostile() {
        let weighs = tokens(&text);
        assert!(weighs * 3 > most, "{name}: {weighs}, not {most}");
    }
}

#[test]
fn a_megabyte_of_anything_weighs_as_much_as_all_its_parts() {
    for (name, text, _) in hostile() {
        let times = (1 << 20) / text.len() + 1;
        let (once, all) = (parts(&text), parts(&text.repeat(times)));
        assert!(all.abs_diff(once * times as u64) <= SEAM * times as u64, "{name}: {once} and {all}");
    }
}

proptest! {
    #[test]
    fn two_texts_weigh_together_what_each_weighs(
        one in prop_oneof![".{0,40}", "[a-zA-Z]{0,40}", "[0-9 \n]{0,40}", "\\PC{0,20}"],
        other in prop_oneof![".{0,40}", "[a-zA-Z]{0,40}", "[0-9 \n]{0,40}", "\\PC{0,20}"],
    ) {
        let each = parts(&one) + parts(&other);
        let both = parts(&format!("{one}{other}"));
        prop_assert!(both.abs_diff(each) <= SEAM, "{both}, not {each}");
    }

    #[test]
    fn all_text_weighs_something_and_no_byte_more_than_three_tokens(text in ".{1,200}") {
        let parts = parts(&text);
        prop_assert!(parts > 0 && parts <= 3_000 * text.len() as u64, "{parts}");
    }
}
