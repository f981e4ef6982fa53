//! What a text weighs: as many bytes as usual text of the same tokens has, in one pass and without a vocabulary.
//!
//! Tokenizers of the byte-level BPE family cut a text before they merge: at words with the space before them, at numbers,
//! at runs of marks and at white space. Here the same is cut, and each piece weighs what the vocabularies make of such
//! pieces. The weights are rounded least squares over 41 texts (prose of 15 languages, source code, JSON, CSV, logs,
//! tables, ids) under o200k, cl100k, Llama 3, Qwen2.5 and SmolLM2; docs/models.md has the errors.
//!
//! Invariants: time is linear, and any text weighs something. What two texts weigh one after the other differs from what
//! they weigh together by [`SEAM`] and a byte at most.

use aaos_core::quantity::Bytes;

/// Of usual text so many bytes ...
pub(crate) const USUAL_BYTES: u64 = 7;
/// ... are so many tokens; English prose and JSON have between 3 and 4 bytes in one.
pub(crate) const USUAL_TOKENS: u64 = 2;
/// The weights are thousandths of a token.
const PARTS: u64 = 1_000;

/// A word, or the part of a name in camel case; the space before it included. In thousandths of a token, as all here.
const WORD: u64 = 950;
/// Letters of a word that cost nothing more.
const SHORT_LETTERS: u64 = 5;
/// Each letter after these ...
const LETTER: u64 = 240;
/// ... up to so many; longer ones are hardly ever words.
const LONG_LETTERS: u64 = 13;
/// And each after that.
const LONG_LETTER: u64 = 560;
/// A letter that repeats the one before it.
const SAME_LETTER: u64 = 250;
/// A capital after a capital, beside what it is as a letter.
const CAPITAL: u64 = 480;
/// A group of up to three digits.
const DIGIT_GROUP: u64 = 1_000;
/// Every further digit of the group, where a vocabulary takes them one by one.
const DIGIT: u64 = 1_000;
/// A space before a number, which no vocabulary puts in one token with it.
const SPACE_BEFORE_DIGIT: u64 = 900;
/// The first mark of a run.
const MARK: u64 = 620;
/// Each further one.
const MORE_MARK: u64 = 660;
/// One that repeats the one before it.
const SAME_MARK: u64 = 240;
/// A run of white space that is not a single space.
const SPACE: u64 = 650;
/// Where its kind changes.
const SPACE_CHANGE: u64 = 330;
/// A space or tab after another one.
const SAME_SPACE: u64 = 16;
/// A new line after another one.
const SAME_LINE: u64 = 130;
/// A control character.
const CONTROL: u64 = 1_000;
/// A letter of Latin script beyond ASCII, beside what its word weighs.
const ACCENT: u64 = 1_600;
/// Characters of two bytes: Greek, Cyrillic, Arabic and so on.
const TWO_BYTES: u64 = 650;
/// Those of them that are no letters.
const TWO_BYTE_MARK: u64 = 1_000;
/// Han, kana, Hangul.
const EASTERN: u64 = 1_200;
/// Other characters of three bytes.
const THREE_BYTES: u64 = 1_300;
/// Characters of four bytes: emoji, historic scripts.
const FOUR_BYTES: u64 = 2_600;
/// Most by which two texts together weigh more or less than each by itself.
#[cfg(test)]
const SEAM: u64 = 8_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of a word: ASCII or not.
    Letter,
    Digit,
    Space,
    Mark,
    Control,
    Two,
    Eastern,
    Three,
    Four,
}

const fn kind_of(letter: char) -> Kind {
    match letter {
        'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' => Kind::Letter,
        '0'..='9' => Kind::Digit,
        ' ' | '\t'..='\r' => Kind::Space,
        '\0'..='\u{1f}' | '\u{7f}' => Kind::Control,
        '!'..='~' => Kind::Mark,
        '\u{80}'..='\u{7ff}' => Kind::Two,
        '\u{2e80}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}' => Kind::Eastern,
        '\u{800}'..='\u{ffff}' => Kind::Three,
        '\u{10000}'.. => Kind::Four,
    }
}

/// What stands before the next character.
#[derive(Debug, Default)]
struct Run {
    /// Its last character.
    last: Option<(char, Kind)>,
    /// How long it is: of a word, letters that do not repeat; of a number, digits; else characters.
    length: u64,
    /// Of a word: whether it has a small letter.
    small: bool,
}

/// What a text weighs, rounded up.
pub(crate) fn weigh(text: &str) -> Bytes {
    Bytes(parts(text).saturating_mul(USUAL_BYTES).div_ceil(USUAL_TOKENS * PARTS))
}

/// Thousandths of a token that usual vocabularies make of a text.
fn parts(text: &str) -> u64 {
    let mut run = Run::default();
    let parts: u64 = text.chars().map(|letter| run.take(letter)).sum();
    let ends_in_space = run.last.is_some_and(|(_, last)| last == Kind::Space);
    parts + if ends_in_space { SPACE } else { 0 }
}

impl Run {
    /// What one more character adds.
    fn take(&mut self, letter: char) -> u64 {
        let kind = kind_of(letter);
        let last = self.last.replace((letter, kind));
        let goes_on = last.is_some_and(|(_, before)| before == kind);
        let repeats = last.is_some_and(|(before, _)| before == letter);
        let ended = if goes_on { 0 } else { self.end(last, kind) };
        let own = match kind {
            Kind::Letter => self.letter(letter, goes_on, repeats),
            Kind::Digit if self.length.is_multiple_of(3) => DIGIT_GROUP,
            Kind::Digit => DIGIT,
            Kind::Space if !goes_on => 0,
            Kind::Space if !repeats => SPACE_CHANGE,
            Kind::Space if letter == '\n' => SAME_LINE,
            Kind::Space => SAME_SPACE,
            Kind::Mark if !goes_on => MARK,
            Kind::Mark if !repeats => MORE_MARK,
            Kind::Mark => SAME_MARK,
            Kind::Control => CONTROL,
            Kind::Two if letter.is_alphabetic() => TWO_BYTES,
            Kind::Two => TWO_BYTE_MARK,
            Kind::Eastern => EASTERN,
            Kind::Three => THREE_BYTES,
            Kind::Four => FOUR_BYTES,
        };
        if kind != Kind::Letter {
            self.length += 1;
        }
        ended + own
    }

    /// Ends with this character before one of another kind: what it comes to then.
    fn end(&mut self, last: Option<(char, Kind)>, next: Kind) -> u64 {
        let length = std::mem::take(&mut self.length);
        self.small = false;
        match last {
            // A single space belongs to what follows it.
            Some((' ', _)) if length == 1 && next == Kind::Digit => SPACE_BEFORE_DIGIT,
            Some((' ', _)) if length == 1 => 0,
            Some((_, Kind::Space)) => SPACE,
            _ => 0,
        }
    }

    /// One letter of a word; a capital after a small letter begins another word.
    fn letter(&mut self, letter: char, goes_on: bool, repeats: bool) -> u64 {
        let capital = letter.is_uppercase();
        let accent = if letter.is_ascii() { 0 } else { ACCENT };
        if !goes_on || (capital && self.small) {
            (self.length, self.small) = (1, !capital);
            return WORD + accent;
        }
        if repeats {
            return SAME_LETTER + accent;
        }
        self.length += 1;
        self.small |= !capital;
        let further = match self.length {
            length if length <= SHORT_LETTERS => 0,
            length if length <= LONG_LETTERS => LETTER,
            _ => LONG_LETTER,
        };
        further + accent + if capital { CAPITAL } else { 0 }
    }
}

#[cfg(test)]
mod tests;
