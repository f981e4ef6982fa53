//! When a scheduled agent is due: five cron fields, read in UTC, and what becomes of due times that passed unseen.
//!
//! Invariants: pure, and every search ends: the calendar repeats after 400 years, and no more than
//! [`MAX_MISSED_DAYS`] of the past are looked at. A due time lies on a whole minute. Whoever hands [`due`] the last
//! due time that was fired gets each due time at most once, across restarts and when the clock is set back.
//!
//! The fields are parsed here rather than by a library: a schedule is authority to spend while nobody looks, so what
//! is not understood is refused with the field at fault, and nothing is rewritten or guessed.

mod cron;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_MISSED_DAYS, SCHEDULE_GRACE_MS};
use crate::quantity::{Millis, Timestamp};

use cron::Fields;

const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 1_440;
/// Days after which the Gregorian calendar repeats, weekdays included: 400 years.
const CALENDAR_DAYS: u64 = 146_097;

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error(
        "a schedule has five fields (minute, hour, day of month, month, day of week), not {found}; write \
         \"0 9 * * 1-5\" for nine o'clock UTC on working days"
    )]
    Fields {
        /// How many there are.
        found: usize,
    },
    /// Longer than a schedule may be.
    #[error(
        "a schedule has at most {limit} bytes, not {found}; use ranges such as 1-5 and steps such as */5"
    )]
    Long {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A field holds something that it cannot.
    #[error("the {field} of a schedule must be {wanted}, not {found:?}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it takes.
        wanted: &'static str,
        /// What stands there, cut.
        found: String,
    },
}

/// When something is due: minute, hour, day of month, month and day of week, in UTC.
///
/// As in crontab(5): where both day fields are restricted, that is where neither begins with `*`, a day that fits
/// either is taken; otherwise a day has to fit both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    text: String,
    fields: Fields,
}

impl Schedule {
    /// Reads `*/5 * * * *` and the like: numbers, `A-B`, `*`, steps `*/N` and `A-B/N`, lists with commas, and the
    /// English names of months and weekdays, three letters each.
    ///
    /// # Errors
    /// [`ScheduleError`] that names the field at fault.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let (text, fields) = cron::parse(text)?;
        Ok(Self { text, fields })
    }

    /// The first due time after a point in time; none if there never is one.
    #[must_use]
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        let from = now.0 / MINUTE_MS + 1;
        let first = from / DAY_MINUTES;
        let due = (first..=first + CALENDAR_DAYS).find_map(|day| {
            let earliest = if day == first { from % DAY_MINUTES } else { 0 };
            let minute = self.fields.on(day)?.first(earliest)?;
            Some(day * DAY_MINUTES + minute)
        });
        due.and_then(|minute| minute.checked_mul(MINUTE_MS)).map(Timestamp)
    }

    /// Whether it is due at all, ever: 31 February is not.
    #[must_use]
    pub fn can_fire(&self) -> bool {
        self.next_after(Timestamp::ZERO).is_some()
    }

    /// The due times after `since` and until `now`: the latest one and how many there are; none if there are none.
    fn passed(&self, since: Timestamp, now: Timestamp) -> Option<(Timestamp, u32)> {
        let until = now.0 / MINUTE_MS;
        let from = (since.0 / MINUTE_MS + 1).max(until.saturating_sub(MAX_MISSED_DAYS * DAY_MINUTES));
        if from > until {
            return None;
        }
        let (first, last) = (from / DAY_MINUTES, until / DAY_MINUTES);
        let mut latest = None;
        let mut count: u32 = 0;
        for day in first..=last {
            let Some(times) = self.fields.on(day) else { continue };
            let earliest = if day == first { from % DAY_MINUTES } else { 0 };
            let last_one = if day == last { until % DAY_MINUTES } else { DAY_MINUTES - 1 };
            let (times, minute) = times.between(earliest, last_one);
            count = count.saturating_add(times);
            latest = minute.map(|minute| day * DAY_MINUTES + minute).or(latest);
        }
        latest.map(|minute| (Timestamp(minute * MINUTE_MS), count))
    }
}

/// As written, with single spaces.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Schedule {
    type Error = ScheduleError;

    fn try_from(text: String) -> Result<Self, ScheduleError> {
        Self::parse(&text)
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.text
    }
}

/// What becomes of due times that passed while nobody could fire them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Misfire {
    /// They are dropped. One that passed no longer ago than [`SCHEDULE_GRACE_MS`] counts as on time.
    Skip,
    /// One firing stands for all of them.
    #[default]
    Once,
}

/// `lifecycle: { scheduled: … }`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// When the agent is woken.
    pub schedule: Schedule,
    /// What becomes of due times that were missed.
    pub misfire: Misfire,
    /// What the agent is told when it is woken.
    pub message: String,
}

/// What an agent is told when it is woken, where its manifest says nothing.
pub const WAKE_MESSAGE: &str = "The time of your schedule has come. Do your scheduled work now.";

/// What is due now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The due time to fire now, once; keep it, it is the `since` of the next question.
    pub fire: Option<Timestamp>,
    /// Due times since the last one fired that are not fired for themselves: dropped, or stood for by the one that is
    /// fired now. Whoever reports them may keep the time of that as the next `since`.
    pub missed: u32,
    /// When to ask again; never if there is no further due time.
    pub next: Option<Timestamp>,
}

/// What is due at `now`, given the due time that was fired last, or the time since which the schedule is in force.
#[must_use]
pub fn due(schedule: &Schedule, misfire: Misfire, since: Timestamp, now: Timestamp) -> Due {
    // A clock that was set back must not make what was fired due again.
    let next = schedule.next_after(now.max(since));
    let Some((latest, count)) = schedule.passed(since, now) else {
        return Due { fire: None, missed: 0, next };
    };
    assert!(
        count > 0 && latest > since && latest <= now,
        "a due time lies between the two that were asked about"
    );
    let in_time = now.since(latest) <= Millis(SCHEDULE_GRACE_MS);
    match misfire {
        Misfire::Skip if !in_time => Due { fire: None, missed: count, next },
        Misfire::Skip | Misfire::Once => Due { fire: Some(latest), missed: count - 1, next },
    }
}
