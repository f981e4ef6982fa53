//! What one decision of the authority costs: `cargo xtask bench authorize`, and its calls under callgrind.
//!
//! Invariants: only the decision is timed, each one alone; the clock's own cost is in every figure and is shown beside
//! them, never taken off; the exit code tells whether the run worked, never whether a target was met.

mod figures;
mod world;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use figures::{Figure, Report};
use world::{Case, World, measured_authorize};

/// Calls that are timed, and calls before them that are not.
#[derive(Debug, Clone, Copy)]
struct Effort {
    calls: usize,
    warm_up: usize,
}

const FULL: Effort = Effort { calls: 200_000, warm_up: 20_000 };
const QUICK: Effort = Effort { calls: 5_000, warm_up: 500 };
/// A multiple of the calls that are made ready, so that every run counts the same ones.
const COUNTED_CALLS: usize = 4096;

/// The figure that the others stand beside: one of the cheapest things a process can ask its kernel.
const SYSTEM_CALL: &str = "getpid, a system call";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let text = match words[..] {
        [] => measure(FULL).text(),
        ["--quick"] => measure(QUICK).text(),
        ["--json"] => measure(FULL).json(),
        ["--quick", "--json"] | ["--json", "--quick"] => measure(QUICK).json(),
        ["--cases"] => Case::ALL.map(Case::name).join("\n"),
        ["--count", name] => match Case::ALL.into_iter().find(|case| case.name() == name) {
            Some(case) => count(case).to_string(),
            None => return refuse(&format!("no case is called {name}; --cases lists them")),
        },
        _ => return refuse("there are --quick, --json, --cases and --count CASE"),
    };
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(why: &str) -> ExitCode {
    // Nobody reads a message that cannot be written; the exit code says it too.
    writeln!(std::io::stderr().lock(), "authorize: {why}").map_or(ExitCode::FAILURE, |()| ExitCode::from(2))
}

fn measure(effort: Effort) -> Report {
    let mut report = Report::new(effort.calls == QUICK.calls);
    report.figures.push(Figure::new("nothing, the clock alone", time(effort, || ())));
    report.figures.push(Figure::new(SYSTEM_CALL, time(effort, std::process::id)));
    report.figures.push(Figure::new("look-up in a table of 10,000", look_ups(effort)));
    for case in Case::ALL {
        decisions(effort, case, &mut report);
    }
    report.stand_beside(SYSTEM_CALL);
    report
}

/// Times `act` again and again; what it gives is dropped outside the time.
fn time<T>(effort: Effort, mut act: impl FnMut() -> T) -> Vec<Duration> {
    let mut times = Vec::with_capacity(effort.calls);
    for round in 0..effort.warm_up + effort.calls {
        let (given, took) = timed(&mut act);
        drop(black_box(given));
        if round >= effort.warm_up {
            times.push(took);
        }
    }
    times
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let given = black_box(act());
    (given, began.elapsed())
}

fn look_ups(effort: Effort) -> Vec<Duration> {
    let table: HashMap<u128, u64> = (0..10_000).map(|key| (key * 7919, 1)).collect();
    let mut at = 0_u128;
    time(effort, || {
        at = (at + 4177) % 10_000;
        table.get(&black_box(at * 7919)).copied()
    })
}

fn decisions(effort: Effort, case: Case, report: &mut Report) {
    let mut world = World::new(case);
    let (mut builds, mut decides, mut settles, mut refunds) = (vec![], vec![], vec![], vec![]);
    for round in 0..effort.warm_up + effort.calls {
        let (asked, build) = timed(|| world.next());
        let (authorized, decide) = timed(|| measured_authorize(&mut world, asked));
        let settled = round % 2 == 0;
        let ((), end) = timed(|| if settled { world.settle(authorized) } else { world.refund(authorized) });
        if round >= effort.warm_up {
            builds.push(build);
            decides.push(decide);
            if settled { &mut settles } else { &mut refunds }.push(end);
        }
    }
    let name = case.name();
    report.figures.push(Figure::new(&format!("{name}: clone of the call"), builds));
    let decide = Figure::new(&format!("{name}: authorize"), decides);
    report.target(case, decide.median_ns);
    report.figures.push(decide);
    report.figures.push(Figure::new(&format!("{name}: settle"), settles));
    report.figures.push(Figure::new(&format!("{name}: refund"), refunds));
}

/// Makes a known number of calls, for a tool that counts instructions within `measured_authorize`.
fn count(case: Case) -> usize {
    let mut world = World::new(case);
    for _ in 0..COUNTED_CALLS {
        let asked = world.next();
        let authorized = black_box(measured_authorize(&mut world, asked));
        world.settle(authorized);
    }
    COUNTED_CALLS
}
