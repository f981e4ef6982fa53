//! The cases: each stops one run at one point, starts the daemon again, and compares.

use crate::compare::Left;
use crate::killer::{Killer, Point, count_calls};
use crate::operator::Operator;
use crate::scenario::{ASKED, Stage};
use std::collections::VecDeque;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::Daemon;

/// Which points are tried: `all`, or some by name (`entry:40,sync:12`); a fixed share when it is not set.
const SETTING: &str = "AAOS_MATRIX_POINTS";
/// Of how many points one is tried, unless all are, and which is the first.
const SHARE: usize = 16;
const FIRST: usize = 5;
/// Of how many writes one is a point: each commit makes several.
const WRITES: usize = 8;
/// Cases at once.
const POOL: usize = 3;

#[expect(clippy::disallowed_methods, reason = "how long a test may take is told to the test, not to agentd")]
fn setting() -> Option<String> {
    std::env::var(SETTING).ok()
}

fn left(stage: &Stage, daemon: &Daemon) -> Left {
    let home = daemon.state_dir();
    Left::of(stage, &mut daemon.client(), home.to_str().expect("UTF-8"))
}

/// A run that nobody stops.
fn whole_run() -> Left {
    let (stage, builder) = Stage::new();
    let daemon = builder.start();
    Operator::default().work(&daemon.socket(), &stage.goal()).expect("nobody stops it");
    left(&stage, &daemon)
}

/// Every point of such a run.
fn all_points() -> Vec<Point> {
    let (stage, builder) = Stage::new();
    let daemon = builder.start();
    let before = left(&stage, &daemon).entries;
    let (syncs, writes) = count_calls(&daemon, || {
        Operator::default().work(&daemon.socket(), &stage.goal()).expect("nobody stops it");
    });
    let entries = left(&stage, &daemon).entries;
    let mut all: Vec<Point> = (before + 1..=entries).map(Point::Entry).collect();
    all.extend((1..=syncs).map(Point::Sync));
    all.extend((1..=writes).step_by(WRITES).map(Point::Write));
    say(&format!("{} entries, {syncs} waits for the disk, {writes} writes", entries - before));
    all
}

/// One stopped run; why it is not like the whole one.
fn stopped_run(point: Point, whole: &Left, late: &AtomicUsize) -> Option<String> {
    let (stage, builder) = Stage::new();
    let mut daemon = builder.start();
    let killer = Killer::arm(&daemon, point);
    let (mut operator, goal) = (Operator::default(), stage.goal());
    let ran = operator.work(&daemon.socket(), &goal);
    if ran.is_ok() {
        // The point lies after all that is waited for, or group commits left fewer of its kind than usual.
        daemon.kill();
    }
    daemon.wait_end();
    killer.finish();
    daemon = daemon.again().start();
    if let Err(trouble) = operator.work(&daemon.socket(), &goal) {
        return Some(format!("after the restart: {trouble}; it said: {}", daemon.stderr()));
    }
    let differs = left(&stage, &daemon).differs_from(whole);
    if ran.is_ok() {
        late.fetch_add(1, Ordering::Relaxed);
    }
    differs
}

fn say(words: &str) {
    writeln!(std::io::stdout(), "{words}").expect("standard output takes it");
}

/// Those that are tried.
fn points() -> Vec<Point> {
    let setting = setting();
    if let Some(named) = setting.as_deref().filter(|words| *words != "all") {
        return named.split(',').map(|words| words.parse().expect("a point")).collect();
    }
    let all = all_points();
    if setting.is_some() {
        return all;
    }
    say(&format!("every {SHARE}th of {} points from {FIRST} on", all.len()));
    all.into_iter().skip(FIRST).step_by(SHARE).collect()
}

#[test]
fn two_runs_that_nobody_stops_are_alike() {
    let (one, other) = (whole_run(), whole_run());
    assert_eq!(one.differs_from(&other), None);
    assert_eq!(one.abandoned, 0);
    let answered = format!("re: {ASKED}");
    let told = |entry: &String| entry.contains("\"tool_result\"") && entry.contains(&answered);
    assert!(
        one.digest["lead"].iter().any(told),
        "the goal had its message answered: {:?}",
        one.digest["lead"]
    );
    // The control: what was done twice would be seen.
    let mut twice = other.clone();
    twice.files.insert("log".to_owned(), "log\nappended\nappended\n".to_owned());
    assert!(one.differs_from(&twice).is_some());
    let mut twice = one.clone();
    *twice.requests.values_mut().next().expect("some") += 1;
    assert!(twice.differs_from(&other).is_some_and(|why| why.contains("came again")));
}

#[test]
fn a_goal_that_is_stopped_anywhere_ends_as_if_nobody_had() {
    let (whole, points) = (whole_run(), points());
    say(&format!("{} points", points.len()));
    let late = AtomicUsize::new(0);
    let (queue, failed) = (Mutex::new(VecDeque::from(points)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..POOL {
            scope.spawn(|| {
                loop {
                    let Some(point) = queue.lock().expect("no case dies with it").pop_front() else { return };
                    let ran = catch_unwind(AssertUnwindSafe(|| stopped_run(point, &whole, &late)));
                    let why = ran.unwrap_or_else(|panic| {
                        let words = panic.downcast_ref::<String>().cloned();
                        Some(words.unwrap_or_else(|| "it panicked".to_owned()))
                    });
                    if let Some(why) = why {
                        say(&format!("{point}: {why}"));
                        failed.lock().expect("no case dies with it").push(point.to_string());
                    }
                }
            });
        }
    });
    say(&format!("{} points lie after the end", late.into_inner()));
    let failed = failed.into_inner().expect("no case died with it");
    assert!(failed.is_empty(), "{} points fail: {}", failed.len(), failed.join(","));
}
