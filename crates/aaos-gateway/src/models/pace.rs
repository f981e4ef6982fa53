//! What a provider says of its rate limits in the headers of an answer.
//!
//! Invariants: a header is a stranger's word: what is no number, negative or without an end says nothing, and no time is
//! longer than [`LONGEST`]. A limit counts only with both what is left and when it begins anew.

use std::cmp::Reverse;
use std::time::Duration;

use aaos_core::model::{Pace, Room};
use aaos_core::quantity::Millis;

use super::failure::own_time;

/// Longest time that is believed.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// Headers of what is left and of the reset, for requests and for tokens: Anthropic's and those of OpenAI and its kin.
const REQUESTS: [(&str, &str); 2] = [
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
];
/// What is left of the output is no limit of a request's input and is left out.
const TOKENS: [(&str, &str); 3] = [
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
];

/// Whether a header of this name is read here.
pub(super) fn reads(name: &str) -> bool {
    REQUESTS.iter().chain(&TOKENS).any(|(left, reset)| [*left, *reset].contains(&name))
}

/// Reads the headers of an answer: of each kind of limit the one with the least left, of equal ones the one that lasts
/// longest.
pub(super) fn pace<'h>(header: impl Fn(&str) -> Option<&'h str>) -> Pace {
    let room = |names: &[(&str, &str)]| {
        let rooms = names.iter().filter_map(|(left, reset)| {
            let left = header(left)?.trim().parse().ok()?;
            let resets_in = until(header(reset)?.trim(), header("date"))?;
            Some(Room { left, resets_in: millis(resets_in) })
        });
        rooms.min_by_key(|room| (room.left, Reverse(room.resets_in)))
    };
    Pace { requests: room(&REQUESTS), tokens: room(&TOKENS) }
}

/// The time, whole milliseconds up, that is believed.
pub(super) fn millis(time: Duration) -> Millis {
    Millis(u64::try_from(time.min(LONGEST).as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
}

/// How long until a reset: seconds, a duration such as `1m30.5s`, or a time of day in the manner of RFC 3339, which is
/// read against the answer's own `date`.
fn until(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= LONGEST);
    }
    duration(text).or_else(|| {
        let at = rfc3339(text)?;
        let now = date.and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(own_time);
        let now = now.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(at.saturating_sub(now))
    })
}

/// Parts such as `1h`, `6m`, `1.5s` and `120ms`, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut whole = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        whole += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(whole).ok() }
}

/// A time since 1970 from `2026-11-23T09:30:00Z`, with or without a fraction, or with an offset instead of the `Z`.
fn rfc3339(text: &str) -> Option<Duration> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u32>().ok();
    let marks = [(4, "-"), (7, "-"), (13, ":"), (16, ":")];
    if marks.iter().any(|(at, mark)| text.get(*at..*at + 1) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            if hours.len() != 2 || minutes.len() != 2 {
                return None;
            }
            sign * (hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?) * 60
        }
    };
    let of_day = i64::from(hour * 3600 + minute * 60 + second);
    let seconds = days(i64::from(year), i64::from(month), i64::from(day)) * 86_400 + of_day - offset;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, counted in years that begin in March (`days_from_civil` of
/// Howard Hinnant's chrono-compatible date algorithms).
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aaos_core::model::{Pace, Room};
    use aaos_core::quantity::Millis;

    use super::{pace, until};

    fn read(headers: &[(&str, &str)]) -> Pace {
        pace(|name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
    }

    fn room(left: u64, resets_in: u64) -> Option<Room> {
        Some(Room { left, resets_in: Millis(resets_in) })
    }

    #[test]
    fn both_wire_formats_are_read() {
        let open_ai = [
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        assert_eq!(read(&open_ai), Pace { requests: room(59, 1_000), tokens: room(149_984, 360_000) });
        let anthropic = [
            ("date", "Mon, 23 Nov 2026 09:30:00 GMT"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-23T09:30:12Z"),
            ("anthropic-ratelimit-input-tokens-remaining", "2000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-23T10:30:30+01:00"),
            ("anthropic-ratelimit-output-tokens-remaining", "0"),
            ("anthropic-ratelimit-output-tokens-reset", "2026-11-23T09:31:00Z"),
        ];
        let told = Pace { requests: room(0, 12_000), tokens: room(2_000, 30_000) };
        assert_eq!(read(&anthropic), told, "output is another thing");
        let used_up = [
            ("anthropic-ratelimit-tokens-remaining", "0"),
            ("anthropic-ratelimit-tokens-reset", "5"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "9"),
        ];
        assert_eq!(read(&used_up).tokens, room(0, 9_000), "what lasts longest");
        assert_eq!(read(&[]), Pace::default());
        assert_eq!(read(&open_ai[..1]), Pace::default(), "without a reset it says nothing");
    }

    #[test]
    fn times_are_read_in_every_spelling() {
        let date = Some("Thu, 29 Feb 2024 23:59:50 GMT");
        for (text, seconds) in [
            ("7", 7.0),
            ("0.25", 0.25),
            ("120ms", 0.12),
            ("1h2m3.5s", 3723.5),
            ("2024-03-01T00:00:00Z", 10.0),
            ("2024-03-01T00:00:00.5Z", 10.0),
            ("2024-02-29T22:00:00-02:00", 10.0),
            ("2024-01-01T00:00:00Z", 0.0),
        ] {
            assert_eq!(until(text, date), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn a_strangers_nonsense_says_nothing_and_no_time_is_endless() {
        for reset in [
            "",
            "soon",
            "-1",
            "NaN",
            "inf",
            "1e300",
            "99999999999",
            "-5s",
            "s",
            "1",
            "5x",
            "1.2.3s",
            "é",
            "2024-02-30",
            "2024-13-01T00:00:00Z",
            "2024-01-01T25:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00+é:0",
            "2024-01-01T00:00:00+99999999999999:00",
        ] {
            let headers = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", reset)];
            let expected = if reset == "1" { room(0, 1_000) } else { None };
            assert_eq!(read(&headers).requests, expected, "{reset}");
        }
        for reset in ["999999h", "9999-12-31T00:00:00Z"] {
            let headers = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", reset)];
            assert_eq!(read(&headers).requests, room(0, 3_600_000), "{reset}");
        }
        for left in ["-1", "1.5", "", "none", "99999999999999999999999"] {
            let headers = [("x-ratelimit-remaining-tokens", left), ("x-ratelimit-reset-tokens", "1s")];
            assert_eq!(read(&headers).tokens, None, "{left}");
        }
    }
}
