//! What was measured, as tables or as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// What a ratio or a time has to keep.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Debug, Serialize)]
struct Times {
    what: String,
    median_ns: f64,
    p10_ns: f64,
    p99_ns: f64,
    rounds: usize,
}

#[derive(Debug, Serialize)]
struct Count {
    what: String,
    found: f64,
}

#[derive(Debug, Serialize)]
struct Judged {
    what: String,
    found: f64,
    asked: String,
    met: bool,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    times: Vec<Times>,
    counts: Vec<Count>,
    targets: Vec<Judged>,
}

impl Figures {
    /// Adds times and gives their median, nanoseconds.
    pub(crate) fn times(&mut self, what: &str, mut times: Vec<Duration>) -> f64 {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_nanos() as f64;
        let row = Times {
            what: what.to_owned(),
            median_ns: at(50),
            p10_ns: at(10),
            p99_ns: at(99),
            rounds: times.len(),
        };
        let median = row.median_ns;
        self.times.push(row);
        median
    }

    pub(crate) fn count(&mut self, what: &str, found: f64) {
        self.counts.push(Count { what: what.to_owned(), found });
    }

    pub(crate) fn target(&mut self, what: &str, found: f64, target: Target) {
        let (met, asked) = match target {
            Target::AtMost(most) => (found <= most, format!("at most {most}")),
            Target::AtLeast(least) => (found >= least, format!("at least {least}")),
        };
        self.targets.push(Judged { what: what.to_owned(), found, asked, met });
    }

    pub(crate) fn text(&self) -> String {
        let mut text = "| what | median | p10 | p99 | n |\n|---|---|---|---|---|\n".to_owned();
        let mut line = |line: String| writeln!(text, "{line}").expect("a string takes it");
        let us = |ns: f64| format!("{:.1} µs", ns / 1e3);
        for row in &self.times {
            let Times { what, median_ns, p10_ns, p99_ns, rounds } = row;
            line(format!("| {what} | {} | {} | {} | {rounds} |", us(*median_ns), us(*p10_ns), us(*p99_ns)));
        }
        for Count { what, found } in &self.counts {
            line(format!("| {what} | {found:.0} | | | |"));
        }
        line("\n| target | found | asked | |\n|---|---|---|---|".to_owned());
        for Judged { what, found, asked, met } in &self.targets {
            line(format!("| {what} | {found:.2} | {asked} | {} |", if *met { "met" } else { "MISSED" }));
        }
        text
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures are plain") + "\n"
    }
}
