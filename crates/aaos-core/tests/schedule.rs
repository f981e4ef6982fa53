//! Schedules: what the five fields say, held against a calendar that is counted day by day; and that each due time is
//! fired at most once, whenever and however often the daemon is away.

use std::collections::BTreeSet;

use aaos_core::limits::{MAX_MISSED_DAYS, MAX_SCHEDULE_BYTES, SCHEDULE_GRACE_MS};
use aaos_core::quantity::{Millis, Timestamp};
use aaos_core::schedule::{Due, Misfire, Schedule, ScheduleError, due};
use proptest::prelude::*;

const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;
/// 2026-11-22T00:00:00Z, a Sunday.
const SUNDAY: u64 = 20_779 * DAY;

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> ScheduleError {
    match Schedule::parse(text) {
        Ok(schedule) => panic!("{text:?} was taken: {schedule:?}"),
        Err(error) => error,
    }
}

const fn at(day: u64, hour: u64, minute: u64) -> Timestamp {
    Timestamp(SUNDAY + day * DAY + hour * 60 * MINUTE + minute * MINUTE)
}

/// A calendar that only counts: year, month, day of month and day of week (0 is Sunday) of each day from 1970 on.
fn calendar(days: usize) -> Vec<(u64, u64, u64, u64)> {
    let (mut year, mut month, mut day, mut weekday) = (1970, 1, 1, 4);
    let mut all = Vec::with_capacity(days);
    while all.len() < days {
        all.push((year, month, day, weekday));
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        weekday = (weekday + 1) % 7;
        (day, month) = if day == length { (1, month + 1) } else { (day + 1, month) };
        (month, year) = if month == 13 { (1, year + 1) } else { (month, year) };
    }
    all
}

#[test]
fn every_day_of_four_centuries_has_its_month_day_and_weekday() {
    for (number, (year, month, day, weekday)) in calendar(366 * 400).into_iter().enumerate() {
        let midnight = u64::try_from(number).expect("small") * DAY;
        let before = Timestamp(midnight.saturating_sub(1));
        // Both day fields are lists of one: the weekday alone would do, so the two are asked apart.
        let of_month = schedule(&format!("1 0 {day} {month} *"));
        assert_eq!(of_month.next_after(before), Some(Timestamp(midnight + MINUTE)), "{year}-{month}-{day}");
        let of_week = schedule(&format!("1 0 * * {weekday}"));
        assert_eq!(of_week.next_after(before), Some(Timestamp(midnight + MINUTE)), "{year}-{month}-{day}");
    }
}

#[test]
fn the_next_due_time_is_worked_out_by_hand() {
    let now = at(0, 12, 3);
    for (text, next) in [
        ("* * * * *", at(0, 12, 4)),
        ("*/5 * * * *", at(0, 12, 5)),
        ("3 * * * *", at(0, 13, 3)),
        ("0 9 * * *", at(1, 9, 0)),
        ("30 12 * * *", at(0, 12, 30)),
        ("0 0 * * 0", at(7, 0, 0)),
        ("0 0 * * 7", at(7, 0, 0)),
        ("0 0 * * SUN", at(7, 0, 0)),
        ("0 9 * * 1-5", at(1, 9, 0)),
        ("0 9 * * mon-fri", at(1, 9, 0)),
        ("0 9 * * 5-7", at(5, 9, 0)),
        ("15,45 10-14/2 * * *", at(0, 12, 15)),
        ("0 0 1 * *", at(9, 0, 0)),
        ("0 0 1 jan *", at(40, 0, 0)),
        ("0 0 1 1-3/2 *", at(40, 0, 0)),
        ("59 23 31 12 *", at(39, 23, 59)),
        // Both day fields are restricted: either is enough.
        ("0 0 1 * 3", at(3, 0, 0)),
        ("0 0 24 * 3", at(2, 0, 0)),
        // One begins with a star: both are needed. 1 February 2027 is a Monday, 1 May 2027 a Saturday.
        ("0 0 */31 * 1", at(71, 0, 0)),
        ("0 0 1 * */6", at(160, 0, 0)),
    ] {
        let found = schedule(text).next_after(now);
        let days = found.map(|found| (found.0 - SUNDAY) as f64 / DAY as f64);
        assert_eq!(found, Some(next), "{text}: day {days:?}");
    }
    assert_eq!(
        schedule("3 12 * * *").next_after(Timestamp(now.0 - 1)),
        Some(now),
        "a due time is at its minute"
    );
    assert_eq!(schedule("3 12 * * *").next_after(now), Some(at(1, 12, 3)), "and after it is the next one");
}

#[test]
fn rare_days_are_found_and_those_that_never_come_end_the_search() {
    // 2096 is a leap year, 2100 is none.
    let calendar = calendar(60_000);
    let first = |year| calendar.iter().position(|day| *day == (year, 2, 29, day.3)).expect("a leap day");
    let leap = schedule("0 0 29 2 *");
    let (before, after) = (first(2096) as u64 * DAY, first(2104) as u64 * DAY);
    assert_eq!(leap.next_after(Timestamp(before)), Some(Timestamp(after)));
    let sundays = schedule("0 0 29 2 */7");
    let mut now = Timestamp::ZERO;
    for (number, _) in calendar.iter().enumerate().filter(|(_, day)| (day.1, day.2, day.3) == (2, 29, 0)) {
        now = sundays.next_after(now).expect("a leap day on a Sunday");
        assert_eq!(now, Timestamp(number as u64 * DAY));
    }
    assert!(now > Timestamp(100 * 365 * DAY), "some were found");
    for text in ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * 30,31 feb *"] {
        let never = schedule(text);
        assert_eq!(never.next_after(Timestamp(SUNDAY)), None, "{text}");
        assert!(!never.can_fire(), "{text}");
        let asked = due(&never, Misfire::Once, Timestamp::ZERO, Timestamp(SUNDAY));
        assert_eq!(asked, Due { fire: None, missed: 0, next: None }, "{text}");
    }
    assert!(leap.can_fire() && sundays.can_fire() && schedule("0 0 31 2 1").can_fire());
    assert_eq!(schedule("* * * * *").next_after(Timestamp(u64::MAX)), None, "time ends there");
    let end = due(&schedule("* * * * *"), Misfire::Once, Timestamp::ZERO, Timestamp(u64::MAX));
    assert_eq!(
        end.missed,
        u32::try_from(MAX_MISSED_DAYS * 1_440).expect("small"),
        "only so much past is looked at"
    );
}

#[test]
fn what_is_no_schedule_names_the_field_at_fault() {
    for (text, found) in [("", 0), ("  ", 0), ("@daily", 1), ("* * * *", 4), ("0 * * * * *", 6)] {
        assert_eq!(refusal(text), ScheduleError::Fields { found }, "{text:?}");
    }
    for (place, field, bad) in [
        (
            0,
            "minute",
            &["60", "-1", "+1", "1.5", "a", "", "*/0", "*/60", "5/10", "/5", "9-5", "1-", "-", "**"][..],
        ),
        (0, "minute", &["1,", ",1", "*/", "*/5/2", "1-2-3", "?", "4294967296", "18446744073709551616", "٣"]),
        (1, "hour", &["24", "0-24", "*/24", "noon"]),
        (2, "day of month", &["0", "32", "L", "15W", "*/32", "mon"]),
        (3, "month", &["0", "13", "januar", "mon", "dec-jan"]),
        (4, "day of week", &["8", "sunday", "1#2", "5L", "sat-sun", "jan", "*/8"]),
    ] {
        for word in bad.iter().filter(|word| !word.is_empty()) {
            let mut fields = ["*"; 5];
            fields[place] = word;
            let error = refusal(&fields.join(" "));
            let is_it = matches!(&error, ScheduleError::Field { field: at, found, .. } if *at == field && found == word);
            assert!(is_it, "{word}: {error:?}");
            assert!(error.to_string().starts_with(&format!("the {field} of a schedule must be ")), "{error}");
        }
    }
    let fits = format!("{}1 * * * *", "1,".repeat((MAX_SCHEDULE_BYTES - 9) / 2));
    assert!(fits.len() <= MAX_SCHEDULE_BYTES && Schedule::parse(&fits).is_ok());
    let long = format!("{}1 * * * *", "1,".repeat(MAX_SCHEDULE_BYTES / 2));
    assert_eq!(refusal(&long), ScheduleError::Long { found: long.len(), limit: MAX_SCHEDULE_BYTES });
}

#[test]
fn a_schedule_is_its_text_in_the_journal() {
    let one = schedule(" 0  9 *\t* Mon-fri ");
    assert_eq!(one.to_string(), "0 9 * * Mon-fri");
    let json = serde_json::to_string(&one).expect("plain");
    assert_eq!(json, "\"0 9 * * Mon-fri\"");
    assert_eq!(serde_json::from_str::<Schedule>(&json).expect("round trip"), one);
    assert!(serde_json::from_str::<Schedule>("\"60 * * * *\"").is_err());
}

#[test]
fn once_fires_once_for_all_that_was_missed_and_skip_drops_it() {
    let hourly = schedule("0 * * * *");
    let asked = |misfire, since, now| due(&hourly, misfire, since, now);
    let (since, now) = (at(0, 9, 0), at(0, 12, 30));
    let next = Some(at(0, 13, 0));
    let once = Due { fire: Some(at(0, 12, 0)), missed: 2, next };
    assert_eq!(asked(Misfire::Once, since, now), once);
    assert_eq!(asked(Misfire::Skip, since, now), Due { fire: None, missed: 3, next });
    let quiet = Due { fire: None, missed: 0, next };
    for misfire in [Misfire::Once, Misfire::Skip] {
        assert_eq!(asked(misfire, at(0, 12, 0), now), quiet, "what was fired is not fired again");
        assert_eq!(asked(misfire, at(0, 12, 0), at(0, 12, 0)), quiet, "nor at the very moment");
        let exactly = Due { fire: Some(at(0, 12, 0)), missed: 0, next };
        assert_eq!(asked(misfire, at(0, 11, 0), at(0, 12, 0)), exactly);
        assert_eq!(asked(misfire, at(0, 11, 59), Timestamp(at(0, 12, 0).0 + SCHEDULE_GRACE_MS)), exactly);
        // The clock was set back by an hour: what was fired is not due again, nor is what comes before it.
        assert_eq!(asked(misfire, at(0, 12, 0), at(0, 10, 59)), quiet);
    }
    let late = Timestamp(at(0, 12, 0).0 + SCHEDULE_GRACE_MS + 1);
    assert_eq!(asked(Misfire::Skip, at(0, 11, 0), late), Due { fire: None, missed: 1, next });
    assert_eq!(asked(Misfire::Once, at(0, 11, 0), late), Due { fire: Some(at(0, 12, 0)), missed: 0, next });
}

/// What one field of five may hold.
fn field(least: u64, most: u64) -> impl Strategy<Value = String> {
    let item = prop_oneof![
        3 => Just("*".to_owned()),
        2 => (1..=most).prop_map(|step| format!("*/{step}")),
        3 => (least..=most).prop_map(|one| one.to_string()),
        2 => (least..=most, 0..=most, 1..=most)
            .prop_map(move |(low, more, step)| format!("{low}-{}/{step}", (low + more).min(most))),
    ];
    proptest::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

fn texts() -> impl Strategy<Value = String> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7))
        .prop_map(|(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}"))
}

/// The numbers of a field, read in another way: each number is tried against each item.
fn holds(field: &str, least: u64, number: u64) -> bool {
    field.split(',').any(|item| {
        let (range, step) = item.split_once('/').unwrap_or((item, "1"));
        let step: u64 = step.parse().expect("a step");
        let (low, high) = match range {
            "*" => (least, 60),
            range => {
                let (low, high) = range.split_once('-').unwrap_or((range, range));
                (low.parse().expect("a number"), high.parse().expect("a number"))
            }
        };
        (low..=high).contains(&number) && (number - low).is_multiple_of(step)
    })
}

/// Whether a minute is due, by the words of crontab(5). 7 is Sunday, and so is 0.
fn is_due(text: &str, calendar: &[(u64, u64, u64, u64)], minute: u64) -> bool {
    let fields: Vec<&str> = text.split(' ').collect();
    let (_, month, day, weekday) = calendar[usize::try_from(minute / 1_440).expect("small")];
    let of_month = holds(fields[2], 1, day);
    let of_week = holds(fields[4], 0, weekday) || (weekday == 0 && holds(fields[4], 0, 7));
    let either = !fields[2].starts_with('*') && !fields[4].starts_with('*');
    holds(fields[0], 0, minute % 60)
        && holds(fields[1], 0, minute / 60 % 24)
        && holds(fields[3], 1, month)
        && if either { of_month || of_week } else { of_month && of_week }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_next_due_time_is_the_first_minute_that_fits(text in texts(), start in 0_u64..5_000_000, ms in 0_u64..60_000) {
        const LOOKED_AT: u64 = 9 * 1_440;
        let calendar = calendar(usize::try_from((5_000_000 + LOOKED_AT) / 1_440 + 2).expect("small"));
        let now = Timestamp(start * MINUTE + ms);
        let wanted = (start + 1..start + LOOKED_AT).find(|minute| is_due(&text, &calendar, *minute));
        let found = schedule(&text).next_after(now);
        match wanted {
            Some(minute) => prop_assert_eq!(found, Some(Timestamp(minute * MINUTE)), "{}", text),
            None => prop_assert!(found.is_none_or(|at| at.0 >= (start + LOOKED_AT) * MINUTE), "{}: {:?}", text, found),
        }
    }

    #[test]
    fn due_times_are_fired_at_most_once_and_none_is_lost(
        text in texts(),
        start in 0_u64..50_000_000,
        steps in proptest::collection::vec((0_u64..4, -3_i64..2_000), 1..12),
        skip in any::<bool>(),
    ) {
        let schedule = schedule(&text);
        let misfire = if skip { Misfire::Skip } else { Misfire::Once };
        let begin = Timestamp(start * MINUTE);
        let (mut since, mut now) = (begin, begin);
        let mut fired = BTreeSet::new();
        let mut passed = 0;
        let mut latest = now;
        for (wait, minutes) in steps {
            // Sometimes the daemon waits for the time that it was told, sometimes it is away, or the clock goes back.
            let planned = due(&schedule, misfire, since, now).next;
            now = match planned {
                Some(next) if wait > 0 && next.since(now) < Millis(40 * DAY) => next.after(Millis(wait)),
                _ => Timestamp(now.0.saturating_add_signed(minutes * 60_000 - 7)),
            };
            latest = latest.max(now);
            let before = since;
            let asked = due(&schedule, misfire, since, now);
            if let Some(next) = asked.next {
                prop_assert!(next > now && next > since, "what comes next lies ahead");
            }
            if let Some(at) = asked.fire {
                prop_assert!(fired.insert(at), "{at} is fired twice");
                prop_assert!(at > before && at <= now);
                prop_assert!(!skip || now.since(at) <= Millis(SCHEDULE_GRACE_MS));
                passed += u64::from(asked.missed) + 1;
                since = at;
            }
        }
        // Walked one by one, the due times until the last question are those that were fired or stood for.
        let unfired = due(&schedule, Misfire::Once, since, latest);
        let rest = unfired.fire.map_or(0, |_| u64::from(unfired.missed) + 1);
        let walked = std::iter::successors(schedule.next_after(begin), |at| schedule.next_after(*at));
        let all = walked.take_while(|at| *at <= latest).take(2_000_000).count();
        prop_assert_eq!(u64::try_from(all).expect("small"), passed + rest);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-*/, 0-9a-z@L#?]{0,24}", now in any::<u64>()) {
        if let Ok(schedule) = Schedule::parse(&text) {
            prop_assert_eq!(Schedule::parse(&schedule.to_string()).expect("its own text"), schedule.clone());
            prop_assert!(schedule.next_after(Timestamp(now)).is_none_or(|next| next > Timestamp(now)));
        }
    }
}
