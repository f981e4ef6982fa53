//! What is printed: medians, what they stand beside, and whether the targets are met.
//!
//! Invariant: a missed target is printed as plainly as a met one; no sample is left out.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::world::Case;

/// Times of one kind, in nanoseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    name: String,
    pub(crate) median_ns: f64,
    p10_ns: f64,
    p99_ns: f64,
    max_ns: f64,
    count: usize,
    /// The median as a multiple of the baseline's.
    times_baseline: f64,
}

/// A promise and what became of it.
#[derive(Debug, Serialize)]
struct Target {
    name: String,
    found_ns: f64,
    at_most_ns: f64,
    met: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    quick: bool,
    /// Of the last minute, before anything was measured.
    load_before: String,
    baseline: String,
    pub(crate) figures: Vec<Figure>,
    targets: Vec<Target>,
}

impl Figure {
    pub(crate) fn new(name: &str, mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "a round measures something");
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_nanos() as f64;
        Self {
            name: name.to_owned(),
            median_ns: at(50),
            p10_ns: at(10),
            p99_ns: at(99),
            max_ns: at(100),
            count: times.len(),
            times_baseline: 1.0,
        }
    }
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load_before = load.split(' ').next().unwrap_or_default().to_owned();
        Self { quick, load_before, baseline: String::new(), figures: Vec::new(), targets: Vec::new() }
    }

    /// Puts every median beside that of the figure called `name`.
    pub(crate) fn stand_beside(&mut self, name: &str) {
        let found = self.figures.iter().find(|figure| figure.name == name);
        let base = found.map_or_else(|| unreachable!("{name} was measured"), |figure| figure.median_ns);
        name.clone_into(&mut self.baseline);
        for figure in &mut self.figures {
            figure.times_baseline = figure.median_ns / base;
        }
    }

    /// Holds a median against what is promised of its case.
    pub(crate) fn target(&mut self, case: Case, found_ns: f64) {
        if let Some(at_most_ns) = case.target_ns() {
            let name = case.name().to_owned();
            self.targets.push(Target { name, found_ns, at_most_ns, met: found_ns <= at_most_ns });
        }
    }

    /// For a machine.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|error| unreachable!("plain data: {error}"))
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match self.write(&mut text) {
            Ok(()) => text,
            Err(std::fmt::Error) => unreachable!("a string takes every write"),
        }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "load {} before the run", self.load_before)?;
        if self.quick {
            writeln!(out, "quick: few rounds, the times say little")?;
        }
        writeln!(out, "\n| what | median | p10 | p99 | max | n | × {} |", self.baseline)?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for Figure { name, median_ns, p10_ns, p99_ns, max_ns, count, times_baseline } in &self.figures {
            let times = format!("{median_ns:.0} ns | {p10_ns:.0} | {p99_ns:.0} | {max_ns:.0}");
            writeln!(out, "| {name} | {times} | {count} | {times_baseline:.2} |")?;
        }
        writeln!(out, "\n| target | found | at most | |\n|---|---|---|---|")?;
        for Target { name, found_ns, at_most_ns, met } in &self.targets {
            let verdict = if *met { "met" } else { "MISSED" };
            writeln!(out, "| authorize, {name} | {found_ns:.0} ns | {at_most_ns:.0} ns | {verdict} |")?;
        }
        Ok(())
    }
}
