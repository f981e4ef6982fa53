//! The five fields of a schedule as sets of numbers, and the calendar that they are held against.
//!
//! Invariant: every set holds only numbers of its field; Sunday is 0.

use crate::capability::cut;
use crate::limits::MAX_SCHEDULE_BYTES;

use super::{DAY_MINUTES, ScheduleError};

const HOUR_MINUTES: u64 = 60;
/// Days from 1 March of the year 0 to 1 January 1970, and of 400 years.
const EPOCH_DAYS: u64 = 719_468;
const ERA_DAYS: u64 = super::CALENDAR_DAYS;

/// What one field takes.
struct Kind {
    field: &'static str,
    wanted: &'static str,
    least: u64,
    /// Highest number; `*` ends one earlier where the highest is another word for the lowest.
    most: u64,
    star_most: u64,
    names: &'static [&'static str],
}

const MINUTE: Kind = Kind {
    field: "minute",
    wanted: "0 to 59, as N, A-B, *, */STEP, A-B/STEP or a list of these",
    least: 0,
    most: 59,
    star_most: 59,
    names: &[],
};
const HOUR: Kind = Kind {
    field: "hour",
    wanted: "0 to 23, as N, A-B, *, */STEP, A-B/STEP or a list of these",
    least: 0,
    most: 23,
    star_most: 23,
    names: &[],
};
const DAY: Kind = Kind {
    field: "day of month",
    wanted: "1 to 31, as N, A-B, *, */STEP, A-B/STEP or a list of these",
    least: 1,
    most: 31,
    star_most: 31,
    names: &[],
};
const MONTH: Kind = Kind {
    field: "month",
    wanted: "1 to 12 or jan to dec, as N, A-B, *, */STEP, A-B/STEP or a list of these",
    least: 1,
    most: 12,
    star_most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Kind = Kind {
    field: "day of week",
    wanted: "0 to 7 (0 and 7 are Sunday) or sun to sat, as N, A-B, *, */STEP, A-B/STEP or a list of these",
    least: 0,
    most: 7,
    star_most: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// A set of numbers below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Set(u64);

impl Set {
    fn has(self, number: u64) -> bool {
        number < 64 && self.0 >> number & 1 == 1
    }
}

/// When something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fields {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
    /// Whether a day that fits one of the two day fields is enough.
    either_day: bool,
}

/// The text with single spaces, and what it says.
pub(super) fn parse(text: &str) -> Result<(String, Fields), ScheduleError> {
    if text.len() > MAX_SCHEDULE_BYTES {
        return Err(ScheduleError::Long { found: text.len(), limit: MAX_SCHEDULE_BYTES });
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(ScheduleError::Fields { found: parts.len() });
    };
    let weekdays = set(&WEEKDAY, weekday)?.0;
    let fields = Fields {
        minutes: set(&MINUTE, minute)?,
        hours: set(&HOUR, hour)?,
        days: set(&DAY, day)?,
        months: set(&MONTH, month)?,
        weekdays: Set((weekdays | weekdays >> 7) & 0x7f),
        either_day: !day.starts_with('*') && !weekday.starts_with('*'),
    };
    Ok((parts.join(" "), fields))
}

fn set(kind: &Kind, text: &str) -> Result<Set, ScheduleError> {
    let wrong = || ScheduleError::Field { field: kind.field, wanted: kind.wanted, found: cut(text) };
    let parts = text.split(',').map(|item| item_of(kind, item).ok_or_else(wrong));
    parts.reduce(|one, other| Ok(Set(one?.0 | other?.0))).unwrap_or_else(|| Err(wrong()))
}

/// `N`, `A-B`, `*`, `*/STEP` or `A-B/STEP`.
fn item_of(kind: &Kind, item: &str) -> Option<Set> {
    let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
    let (low, high) = match range.split_once('-') {
        _ if range == "*" => (kind.least, kind.star_most),
        Some((low, high)) => (number(kind, low)?, number(kind, high)?),
        // A step from one number on is not in crontab(5), and programs disagree on what it means.
        None if step.is_some() => return None,
        None => number(kind, range).map(|one| (one, one))?,
    };
    let step = step.map_or(Some(1), digits).filter(|step| (1..=kind.most).contains(step))?;
    let step = usize::try_from(step).ok()?;
    let numbers = (low..=high).step_by(step);
    (low <= high).then(|| Set(numbers.fold(0, |set, number| set | 1 << number)))
}

fn number(kind: &Kind, word: &str) -> Option<u64> {
    let named = kind.names.iter().position(|name| name.eq_ignore_ascii_case(word));
    let number = match named {
        Some(place) => u64::try_from(place).ok()? + kind.least,
        None => digits(word)?,
    };
    (kind.least..=kind.most).contains(&number).then_some(number)
}

fn digits(word: &str) -> Option<u64> {
    let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| word.parse().ok()).flatten()
}

impl Fields {
    /// The times of a day, counted from 1970-01-01; none on a day that does not fit.
    pub(super) fn on(&self, day: u64) -> Option<Times<'_>> {
        let (month, of_month) = month_and_day(day);
        // 1970-01-01 was a Thursday.
        let (fits, of_week) = (self.days.has(of_month), self.weekdays.has((day + 4) % 7));
        let day_fits = if self.either_day { fits || of_week } else { fits && of_week };
        (day_fits && self.months.has(month)).then_some(Times(self))
    }

    /// The minutes of one hour that lie between two minutes of the day, both included.
    fn in_hour(&self, hour: u64, from: u64, until: u64) -> u64 {
        let start = hour * HOUR_MINUTES;
        let low = from.saturating_sub(start);
        if !self.hours.has(hour) || low >= HOUR_MINUTES || until < start {
            return 0;
        }
        let high = (until - start).min(HOUR_MINUTES - 1);
        self.minutes.0 & u64::MAX << low & u64::MAX >> (u64::from(u64::BITS) - 1 - high)
    }
}

/// The due times of one day, as minutes of it.
pub(super) struct Times<'f>(&'f Fields);

impl Times<'_> {
    /// The first one from a minute on.
    pub(super) fn first(&self, from: u64) -> Option<u64> {
        (0..DAY_MINUTES / HOUR_MINUTES).find_map(|hour| {
            let minutes = self.0.in_hour(hour, from, DAY_MINUTES - 1);
            (minutes != 0).then(|| hour * HOUR_MINUTES + u64::from(minutes.trailing_zeros()))
        })
    }

    /// How many lie between two minutes, both included, and the last of them.
    pub(super) fn between(&self, from: u64, until: u64) -> (u32, Option<u64>) {
        (0..DAY_MINUTES / HOUR_MINUTES).fold((0, None), |(count, last), hour| {
            let minutes = self.0.in_hour(hour, from, until);
            let latest = minutes.checked_ilog2().map(|minute| hour * HOUR_MINUTES + u64::from(minute));
            (count + minutes.count_ones(), latest.or(last))
        })
    }
}

/// Month and day of month of a day counted from 1970-01-01. The algorithm is `civil_from_days` of Howard Hinnant's
/// "chrono-compatible low-level date algorithms"; its years begin in March.
fn month_and_day(day: u64) -> (u64, u64) {
    let of_era = day.saturating_add(EPOCH_DAYS) % ERA_DAYS;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    (if march_month < 10 { march_month + 3 } else { march_month - 9 }, day)
}
