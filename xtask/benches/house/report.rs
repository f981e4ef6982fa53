//! What is printed: figures, what stands beside them, and whether the targets are met.
//!
//! Invariant: a missed target is printed as plainly as a met one; nothing is rounded to the better side.

use std::fmt::Write as _;

use serde::Serialize;

use crate::processes::Memory;
use crate::stats::{Samples, Summary};

/// One line of figures.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) summary: Summary,
    /// The median as a multiple of another figure's of the same run.
    pub(crate) ratio: Option<Ratio>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) to: String,
    pub(crate) times: f64,
}

/// Calls per second over some connections.
#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    pub(crate) per_second: f64,
    /// Microseconds.
    pub(crate) round_trip: Summary,
    /// As a share of the null server's over as many connections.
    pub(crate) of_null: f64,
}

/// Calls of a provider that has few slots and takes its time.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) name: &'static str,
    pub(crate) per_second: f64,
    /// As a share of what its slots and its time allow.
    pub(crate) of_possible: f64,
}

/// Memory of one process.
#[derive(Debug, Serialize)]
pub(crate) struct Resident {
    pub(crate) name: &'static str,
    pub(crate) kib: Memory,
}

/// A promise and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) found: f64,
    pub(crate) at_most: f64,
    pub(crate) unit: &'static str,
    pub(crate) met: bool,
    /// How the limit comes about.
    pub(crate) limit: String,
}

/// What the figures were taken on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
    /// Of the last minute, before anything was measured: about 0 on a quiet machine.
    pub(crate) load_before: String,
    pub(crate) plain_program: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    pub(crate) figures: Vec<Figure>,
    pub(crate) throughput: Vec<Throughput>,
    pub(crate) rates: Vec<Rate>,
    /// Of a run's prompts, what a provider may have in its cache from the request before.
    pub(crate) cacheable_share: Option<f64>,
    pub(crate) memory: Vec<Resident>,
    pub(crate) kib_per_idle_agent: Vec<PerAgent>,
    pub(crate) kib_per_idle_worker: Vec<PerAgent>,
    /// What was to be measured and could not be had.
    pub(crate) absent: Vec<String>,
    pub(crate) targets: Vec<Target>,
}

/// What one of many idle ones takes.
#[derive(Debug, Serialize)]
pub(crate) struct PerAgent {
    pub(crate) measure: &'static str,
    pub(crate) kib: f64,
    pub(crate) agents: u32,
}

impl Machine {
    pub(crate) fn look(plain_program: &'static str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let information = read("/proc/cpuinfo");
        let model = information.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim());
        Self {
            processor: model.to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            plain_program,
        }
    }
}

impl Report {
    pub(crate) fn new(machine: Machine, quick: bool) -> Self {
        Self {
            machine,
            quick,
            figures: Vec::new(),
            throughput: Vec::new(),
            rates: Vec::new(),
            cacheable_share: None,
            memory: Vec::new(),
            kib_per_idle_agent: Vec::new(),
            kib_per_idle_worker: Vec::new(),
            absent: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Adds a figure of microseconds; `beside` is the figure that it is held against.
    pub(crate) fn figure(&mut self, name: &str, samples: &Samples, beside: Option<&str>) {
        let summary = samples.summary();
        let ratio = beside.map(|to| Ratio { to: to.to_owned(), times: summary.median / self.median(to) });
        self.figures.push(Figure { name: name.to_owned(), unit: "µs", summary, ratio });
    }

    /// The median of a figure that was added before.
    pub(crate) fn median(&self, name: &str) -> f64 {
        let found = self.figures.iter().find(|figure| figure.name == name);
        found.map_or_else(|| unreachable!("{name} was measured before"), |figure| figure.summary.median)
    }

    pub(crate) fn target(
        &mut self,
        name: &'static str,
        found: f64,
        at_most: f64,
        unit: &'static str,
        limit: String,
    ) {
        self.targets.push(Target { name, found, at_most, unit, met: found <= at_most, limit });
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
        let Machine { processor, processors, kernel, load_before, plain_program } = &self.machine;
        writeln!(out, "{processors} × {processor}, Linux {kernel}, load {load_before} before the run")?;
        writeln!(out, "posix_spawn is of {plain_program}, to its end")?;
        if self.quick {
            writeln!(out, "quick: few rounds, the times say little")?;
        }
        writeln!(out, "\n| what | median | p10 | max | n | beside |\n|---|---|---|---|---|---|")?;
        for Figure { name, unit, summary, ratio } in &self.figures {
            let Summary { median, p10, max, count } = summary;
            let beside =
                ratio.as_ref().map_or(String::new(), |Ratio { to, times }| format!("{times:.2} × {to}"));
            writeln!(out, "| {name} | {median:.0} {unit} | {p10:.0} | {max:.0} | {count} | {beside} |")?;
        }
        for why in &self.absent {
            writeln!(out, "\nnot measured: {why}")?;
        }
        self.write_throughput(out)?;
        self.write_models(out)?;
        self.write_memory(out)?;
        writeln!(out, "\n| target | found | at most | | why that limit |\n|---|---|---|---|---|")?;
        for Target { name, found, at_most, unit, met, limit } in &self.targets {
            let verdict = if *met { "met" } else { "MISSED" };
            writeln!(out, "| {name} | {found:.1} {unit} | {at_most:.1} {unit} | {verdict} | {limit} |")?;
        }
        Ok(())
    }

    fn write_throughput(&self, out: &mut String) -> std::fmt::Result {
        if self.throughput.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n| calls | connections | per second | median µs | p10 | max | of null |")?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for Throughput { name, connections, per_second, round_trip, of_null } in &self.throughput {
            let Summary { median, p10, max, .. } = round_trip;
            writeln!(
                out,
                "| {name} | {connections} | {per_second:.0} | {median:.0} | {p10:.0} | {max:.0} | {of_null:.3} |"
            )?;
        }
        Ok(())
    }

    fn write_models(&self, out: &mut String) -> std::fmt::Result {
        if !self.rates.is_empty() {
            writeln!(out, "\n| calls of a slow provider | per second | of the possible |\n|---|---|---|")?;
        }
        for Rate { name, per_second, of_possible } in &self.rates {
            writeln!(out, "| {name} | {per_second:.0} | {of_possible:.3} |")?;
        }
        if let Some(share) = self.cacheable_share {
            writeln!(out, "\ncacheable share of the prompts of a run of 40 calls: {:.1} %", 100.0 * share)?;
        }
        Ok(())
    }

    fn write_memory(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n| memory | RSS KiB | PSS KiB | private KiB |\n|---|---|---|---|")?;
        for Resident { name, kib: Memory { rss, pss, private } } in &self.memory {
            writeln!(out, "| {name} | {rss} | {pss} | {private} |")?;
        }
        for PerAgent { measure, kib, agents } in &self.kib_per_idle_agent {
            writeln!(out, "| per idle agent, {measure} over {agents} | {kib:.1} | | |")?;
        }
        for PerAgent { measure, kib, agents } in &self.kib_per_idle_worker {
            writeln!(out, "| per idle worker, {measure} of {agents} | {kib:.1} | | |")?;
        }
        Ok(())
    }
}
