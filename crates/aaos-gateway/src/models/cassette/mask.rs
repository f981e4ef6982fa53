//! What differs from run to run in a request: ids, times, and the paths of the run's places.
//!
//! Two requests are the same when they are once these are taken out, and what was taken out of the one says what stands
//! for it in the other.
//!
//! Invariants: an id is one that the runtime draws (UUID version 7, with or without its dashes) and nothing else; the
//! same id gets the same mark wherever it stands; a mark begins with a byte that JSON text cannot hold.

use std::collections::HashMap;

use aaos_core::cassette::{Place, PlaceKind};

/// Hexadecimal digits of a UUID.
const ID_DIGITS: usize = 32;
/// Where the dashes of one stand.
const DASHES: [usize; 4] = [8, 13, 18, 23];
/// Digits of a time in milliseconds since 1970, from 2001 to 2096.
const TIME_DIGITS: usize = 13;

/// What was found, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Place(PlaceKind),
    Id,
    Time,
}

/// Where something was found.
#[derive(Debug, Clone, Copy)]
struct Spot {
    start: usize,
    end: usize,
    found: Found,
}

/// The places of one run, the longest path first.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Vec<Place>);

impl Places {
    /// Those that can be told apart in JSON text: the root directory is everywhere, and a path with a quote or a
    /// backslash is spelt in several ways.
    pub(super) fn new(places: &[Place]) -> Self {
        let is_plain =
            |path: &str| path.len() > 1 && !path.contains(|c: char| c.is_control() || "\"\\".contains(c));
        let mut places: Vec<Place> =
            places.iter().filter(|place| is_plain(place.path.as_str())).cloned().collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.path.as_str().len()));
        Self(places)
    }

    fn path(&self, kind: PlaceKind) -> Option<&str> {
        self.0.iter().find(|place| place.kind == kind).map(|place| place.path.as_str())
    }

    fn at(&self, text: &str, start: usize) -> Option<Spot> {
        let rest = &text[start..];
        self.0.iter().find_map(|place| {
            let path = place.path.as_str();
            let is_here = rest.starts_with(path) && !goes_on(&rest.as_bytes()[path.len()..]);
            is_here.then(|| Spot { start, end: start + path.len(), found: Found::Place(place.kind) })
        })
    }
}

/// Whether a file's name goes on here: a full stop ends a sentence unless more follows.
fn goes_on(rest: &[u8]) -> bool {
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || !byte.is_ascii();
    match rest {
        [b'.', next, ..] => in_name(next) || *next == b'.',
        [next, ..] => in_name(next),
        [] => false,
    }
}

/// Whether a path may begin after this byte.
fn precedes_path(byte: u8) -> bool {
    !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/') || !byte.is_ascii())
}

/// The next spot from `from` on, in JSON text or in plain text.
fn next_spot(text: &str, from: usize, places: &Places) -> Option<Spot> {
    let bytes = text.as_bytes();
    let mut at = from;
    // What stands before, where the letter of an escape such as `\n` counts as what it stands for.
    let mut before = at.checked_sub(1).map_or(b' ', |at| bytes[at]);
    while at < bytes.len() {
        let byte = bytes[at];
        if before == b'\\' && matches!(byte, b'n' | b'r' | b't' | b'b' | b'f') {
            (before, at) = (b' ', at + 1);
            continue;
        }
        if byte == b'/' && precedes_path(before) {
            if let Some(spot) = places.at(text, at) {
                return Some(spot);
            }
        } else if byte.is_ascii_alphanumeric()
            && !before.is_ascii_alphanumeric()
            && let Some(spot) = value_at(bytes, at)
        {
            return Some(spot);
        }
        (before, at) = (byte, at + 1);
    }
    None
}

fn value_at(bytes: &[u8], start: usize) -> Option<Spot> {
    let rest = &bytes[start..];
    let ends_at = |length: usize| !rest.get(length).is_some_and(u8::is_ascii_alphanumeric);
    let spot = |length: usize, found| Some(Spot { start, end: start + length, found });
    let dashed = ID_DIGITS + DASHES.len();
    if rest.len() >= dashed && ends_at(dashed) && DASHES.iter().all(|at| rest[*at] == b'-') {
        let digits = rest[..dashed].iter().copied().filter(|byte| *byte != b'-');
        if is_id(digits) {
            return spot(dashed, Found::Id);
        }
    }
    if rest.len() >= ID_DIGITS && ends_at(ID_DIGITS) && is_id(rest[..ID_DIGITS].iter().copied()) {
        return spot(ID_DIGITS, Found::Id);
    }
    let is_time = rest.len() >= TIME_DIGITS
        && ends_at(TIME_DIGITS)
        && matches!(rest[0], b'1' | b'2' | b'3')
        && rest[..TIME_DIGITS].iter().all(u8::is_ascii_digit);
    if is_time { spot(TIME_DIGITS, Found::Time) } else { None }
}

/// Whether these are the digits of a UUID of version 7 whose time lies in this century: its first digit is 0.
fn is_id(digits: impl Iterator<Item = u8>) -> bool {
    let mut count = 0;
    for (at, digit) in digits.enumerate() {
        let fits = match at {
            0 => digit == b'0',
            12 => digit == b'7',
            16 => matches!(digit, b'8' | b'9' | b'a' | b'b'),
            _ => digit.is_ascii_digit() || matches!(digit, b'a'..=b'f'),
        };
        if !fits {
            return false;
        }
        count += 1;
    }
    count == ID_DIGITS
}

/// Takes out of several texts of one request what differs from run to run.
#[derive(Debug)]
pub(super) struct Masker<'p> {
    places: &'p Places,
    ids: HashMap<String, usize>,
    /// Each id where it first stands, and every time.
    values: Vec<String>,
}

impl<'p> Masker<'p> {
    pub(super) fn new(places: &'p Places) -> Self {
        Self { places, ids: HashMap::new(), values: Vec::new() }
    }

    /// The text with marks instead of values.
    pub(super) fn mask(&mut self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut from = 0;
        while let Some(spot) = next_spot(text, from, self.places) {
            masked.push_str(&text[from..spot.start]);
            let value = &text[spot.start..spot.end];
            masked.push_str(&match spot.found {
                Found::Place(kind) => format!("\u{1}{}\u{2}", kind.name()),
                Found::Id => format!("\u{1}id {}\u{2}", self.number(value)),
                Found::Time => {
                    self.values.push(value.to_owned());
                    "\u{1}time\u{2}".to_owned()
                }
            });
            from = spot.end;
        }
        masked.push_str(&text[from..]);
        masked
    }

    fn number(&mut self, id: &str) -> usize {
        if let Some(number) = self.ids.get(id) {
            return *number;
        }
        let number = self.ids.len() + 1;
        self.ids.insert(id.to_owned(), number);
        self.values.push(id.to_owned());
        number
    }

    pub(super) fn into_values(self) -> Vec<String> {
        self.values
    }
}

/// A masked text for a person.
pub(super) fn shown(masked: &str) -> String {
    masked.replace('\u{1}', "<").replace('\u{2}', ">")
}

/// Turns what a recorded reply says of the recorded run into what holds for this one.
#[derive(Debug, Default)]
pub(super) struct Changes {
    values: HashMap<String, String>,
    then: Places,
    now: Places,
}

impl Changes {
    /// From the values of two requests that are the same when masked.
    pub(super) fn new(then: (Vec<String>, &Places), now: (Vec<String>, &Places)) -> Self {
        assert_eq!(then.0.len(), now.0.len(), "equal marks stand for equally many values");
        let mut values = HashMap::new();
        for (old, new) in then.0.into_iter().zip(now.0) {
            values.entry(old).or_insert(new);
        }
        Self { values, then: then.1.clone(), now: now.1.clone() }
    }

    /// The text with this run's values in place of the recorded ones.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut changed = String::with_capacity(text.len());
        let mut from = 0;
        while let Some(spot) = next_spot(text, from, &self.then) {
            changed.push_str(&text[from..spot.start]);
            let old = &text[spot.start..spot.end];
            let new = match spot.found {
                Found::Place(kind) => self.now.path(kind),
                Found::Id | Found::Time => self.values.get(old).map(String::as_str),
            };
            changed.push_str(new.unwrap_or(old));
            from = spot.end;
        }
        changed.push_str(&text[from..]);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::{Changes, Masker, Places, shown};
    use aaos_core::cassette::{Place, PlaceKind};
    use aaos_core::path::AbsPath;
    use proptest::prelude::*;

    const A: &str = "0190a5e8-7c1b-7000-8000-0123456789ab";
    const B: &str = "0190a5e87c1b70008000aaaaaaaaaaaa";

    fn places(of: &[(PlaceKind, &str)]) -> Places {
        let place = |(kind, path): &(PlaceKind, &str)| Place {
            kind: *kind,
            path: AbsPath::parse(path).expect("absolute"),
        };
        Places::new(&of.iter().map(place).collect::<Vec<_>>())
    }

    fn home_and_work() -> Places {
        places(&[(PlaceKind::Home, "/home/a"), (PlaceKind::WorkingDirectory, "/home/a/p")])
    }

    fn masked(text: &str) -> String {
        shown(&Masker::new(&home_and_work()).mask(text))
    }

    #[test]
    fn what_the_runtime_draws_is_masked_and_nothing_else() {
        for (text, expected) in [
            (format!("{A} {B} {A}"), "<id 1> <id 2> <id 1>"),
            (format!("\"a\\n{A}\\\\n{B}\""), "\"a\\n<id 1>\\\\n<id 2>\""),
            ("at 1795426952987: 1795426952987".to_owned(), "at <time>: <time>"),
            // Another version, a checksum, a longer number, an ISBN.
            ("0190a5e8-7c1b-4000-8000-0123456789ab".to_owned(), "0190a5e8-7c1b-4000-8000-0123456789ab"),
            ("d41d8cd98f00b204e9800998ecf8427e".to_owned(), "d41d8cd98f00b204e9800998ecf8427e"),
            (format!("x{A} {A}x"), &format!("x{A} {A}x")),
            (
                "17954269529871 9783161484100 x1795426952987".to_owned(),
                "17954269529871 9783161484100 x1795426952987",
            ),
        ] {
            assert_eq!(masked(&text), expected);
        }
    }

    #[test]
    fn places_are_masked_where_they_are_whole() {
        for (text, expected) in [
            (
                "in /home/a/p/x.md, /home/a/p. /home/a",
                "in <working_directory>/x.md, <working_directory>. <home>",
            ),
            ("\"x\\n/home/a/*\"", "\"x\\n<home>/*\""),
            (
                "/home/ab /home/a.b /home/a/pq /x/home/a é/home/a",
                "/home/ab /home/a.b <home>/pq /x/home/a é/home/a",
            ),
        ] {
            assert_eq!(masked(text), expected);
        }
        assert_eq!(
            Masker::new(&places(&[(PlaceKind::Home, "/")])).mask("/ /a"),
            "/ /a",
            "the root is everywhere"
        );
        let odd = places(&[(PlaceKind::Home, "/a\"b")]);
        assert_eq!(Masker::new(&odd).mask("/a\"b"), "/a\"b");
    }

    fn changes(then: &str, now: &str) -> Changes {
        let (old, new) = (home_and_work(), places(&[(PlaceKind::WorkingDirectory, "/w")]));
        let (mut first, mut second) = (Masker::new(&old), Masker::new(&new));
        assert_eq!(first.mask(then), second.mask(now), "the same but for what is masked");
        Changes::new((first.into_values(), &old), (second.into_values(), &new))
    }

    #[test]
    fn what_a_reply_says_of_then_is_said_of_now() {
        let now = "0190a5e8-7c1b-7000-9000-999999999999";
        let changes =
            changes(&format!("{A} at 1795426952987 in /home/a/p"), &format!("{now} at 1795426952999 in /w"));
        assert_eq!(
            changes.apply(&format!(
                "{{\"to\":\"{A}\",\"path\":\"/home/a/p/x\",\"at\":1795426952987}} {B} /home/a"
            )),
            format!("{{\"to\":\"{now}\",\"path\":\"/w/x\",\"at\":1795426952999}} {B} /home/a"),
            "what is not known of this run stays"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_masked_and_changed_without_a_panic(text in "\\PC{0,80}", cut in 0_usize..40) {
            let odd = format!("{text}{}/home/a/p{A}{text}\\n{B}", &A[..cut.min(A.len())]);
            let places = home_and_work();
            let mut masker = Masker::new(&places);
            let once = masker.mask(&odd);
            let values = masker.into_values();
            prop_assert!(!once.contains("/home/a/p/"));
            let changes = Changes::new((values.clone(), &places), (values, &places));
            prop_assert_eq!(changes.apply(&odd), odd, "nothing differs, so nothing changes");
        }
    }
}
