//! What the run says: lines of JSON, or the table of docs/contest.md.

use std::collections::BTreeSet;
use std::io::{self, Write};

use aaos_core::confinement::{Boundary, LockedReport};
use serde::Serialize;

use crate::cases::{StoppedBy, name_of};
use crate::director::Outcome;
use crate::impossible::{Here, IMPOSSIBLE, Who};
use crate::raw::Refusal;

/// How the page begins.
const HEAD: &str = "\
# What stops an escape

This page is made by `cargo xtask contest --record` and held against the machine by the test
`aaos-sandbox::contest::the_page_says_what_this_machine_does`. A program inside a worker's confinement tries, one by one,
everything that an escape would need. Each attempt is first made by the same code without confinement: that control
must succeed, or stand in the last table with what the kernel answers. Then it is made behind each boundary alone,
and last in a real worker, which must stop every one.

A boundary alone is what `aaos_confine::steps` sets. Landlock brings `no_new_privs`, and an own uid the loss of
capabilities; an own mount namespace has an empty root. Three care-takings of the daemon count beside the boundaries:
descriptors that are for reading only, the seal of a memory file, and receiving without room for descriptors.

A worker that does not answer at all is ended at its time limit (`aaos-sandbox::calls` has that case); \"outlive its call\"
here asks whether anybody of it goes on after that.

";
/// What stands above the cases without a control.
const IMPOSSIBLE_HEAD: &str = "
## Cases without a control

The test fails for a case that stands here and succeeds without confinement.

| case | for whom | what the kernel answers | why |
|---|---|---|---|
";

/// How the report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// One line of JSON for the machine and one for each case.
    #[default]
    JsonLines,
    /// A page.
    Markdown,
}

/// Everything of one run.
#[derive(Debug)]
pub(crate) struct Report<'r> {
    who: Who,
    locked: LockedReport,
    available: Vec<Boundary>,
    outcomes: Vec<Outcome>,
    here: &'r Here,
}

#[derive(Serialize)]
struct MachineLine<'l> {
    user: &'static str,
    landlock_abi: u32,
    namespaces: &'l [Boundary],
    available_alone: &'l [Boundary],
    cases: usize,
}

#[derive(Serialize)]
struct CaseLine<'l> {
    case: &'l str,
    good_for: &'l str,
    /// `succeeded`, or what the kernel answers to everybody.
    control: String,
    /// Why there is no control; empty where it succeeds.
    impossible: &'l str,
    confined: String,
    boundary: String,
    alone: &'l [Boundary],
}

impl<'r> Report<'r> {
    pub(crate) fn new(
        locked: LockedReport,
        available: Vec<Boundary>,
        outcomes: Vec<Outcome>,
        here: &'r Here,
    ) -> Self {
        let who = if rustix::process::geteuid().is_root() { Who::Root } else { Who::User };
        Self { who, locked, available, outcomes, here }
    }

    fn user(&self) -> &'static str {
        match self.who {
            Who::Root => "root",
            Who::User => "an ordinary user",
        }
    }

    /// Writes it.
    pub(crate) fn print(&self, form: Form, out: &mut impl Write) -> io::Result<()> {
        match form {
            Form::JsonLines => self.print_lines(out),
            Form::Markdown => self.print_page(out),
        }
    }

    fn print_lines(&self, out: &mut impl Write) -> io::Result<()> {
        let machine = MachineLine {
            user: self.user(),
            landlock_abi: self.locked.landlock_abi,
            namespaces: &self.locked.namespaces,
            available_alone: &self.available,
            cases: self.outcomes.len(),
        };
        writeln!(out, "{}", serde_json::to_string(&machine)?)?;
        for outcome in &self.outcomes {
            let line = CaseLine {
                case: outcome.case.name,
                good_for: outcome.case.good_for,
                control: words(outcome.control.as_ref()),
                impossible: self.why_impossible(outcome),
                confined: words(outcome.confined.as_ref()),
                boundary: outcome.case.by.name(),
                alone: &outcome.alone,
            };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        }
        Ok(())
    }

    fn print_page(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(HEAD.as_bytes())?;
        writeln!(out, "{}\n", self.machine())?;
        writeln!(out, "## The cases\n")?;
        writeln!(
            out,
            "| case | what it is good for | in the worker | stopped alone by |\n|---|---|---|---|"
        )?;
        for outcome in &self.outcomes {
            let (name, good_for) = (outcome.case.name, outcome.case.good_for);
            let confined = words(outcome.confined.as_ref());
            writeln!(out, "| {name} | {good_for} | {confined} | {} |", self.alone(outcome))?;
        }
        self.print_boundaries(out)?;
        self.print_impossible(out)
    }

    /// What this page was made on; another machine makes another page.
    fn machine(&self) -> String {
        let list = |boundaries: &[Boundary]| {
            let names: Vec<_> = boundaries.iter().map(|one| name_of(*one)).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        format!(
            "Made by {} with Landlock ABI {}.\nNamespaces of the worker: {}.\nBoundaries that can be had alone: {}.",
            self.user(),
            self.locked.landlock_abi,
            list(&self.locked.namespaces),
            list(&self.available)
        )
    }

    fn alone(&self, outcome: &Outcome) -> String {
        if outcome.control.is_some() {
            return "no control here".to_owned();
        }
        let mut alone: Vec<_> = outcome.alone.iter().map(|one| name_of(*one)).collect();
        if !matches!(outcome.case.by, StoppedBy::Boundary(_)) {
            alone.push(outcome.case.by.name());
        }
        alone.join(", ")
    }

    fn print_boundaries(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\n## What each boundary stops alone\n\n| boundary | cases |\n|---|---|")?;
        for boundary in &self.available {
            let count = self.outcomes.iter().filter(|outcome| outcome.alone.contains(boundary)).count();
            writeln!(out, "| {} | {count} |", name_of(*boundary))?;
        }
        Ok(())
    }

    fn print_impossible(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(IMPOSSIBLE_HEAD.as_bytes())?;
        for one in IMPOSSIBLE {
            let whom = if one.who.contains(&Who::Root) { "anybody" } else { "an ordinary user" };
            writeln!(out, "| {} | {whom} | {} | {} |", one.case, one.answer, one.reason)?;
        }
        Ok(())
    }

    fn why_impossible(&self, outcome: &Outcome) -> &'static str {
        self.expected(outcome).filter(|_| outcome.control.is_some()).map_or("", |(_, reason)| reason)
    }

    /// Everything that is not as it must be.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut found = Vec::new();
        for outcome in &self.outcomes {
            let name = outcome.case.name;
            if outcome.confined.is_none() {
                found.push(format!("{name}: reached from the worker"));
            }
            found.extend(self.control_failure(outcome));
            if let (None, StoppedBy::Boundary(boundary)) = (&outcome.control, outcome.case.by)
                && self.available.contains(&boundary)
                && self.counts(boundary)
                && !outcome.alone.contains(&boundary)
            {
                found.push(format!("{name}: {} alone does not stop it", name_of(boundary)));
            }
        }
        found.extend(self.idle().into_iter().map(|idle| format!("{} alone stops nothing", name_of(idle))));
        found
    }

    /// A user's process holds no capability that it could lose.
    fn counts(&self, boundary: Boundary) -> bool {
        self.who == Who::Root || boundary != Boundary::NoCapabilities
    }

    /// Boundaries that stop no case by themselves. Only root can do everything that a boundary is there for.
    fn idle(&self) -> Vec<Boundary> {
        if self.who == Who::User {
            return Vec::new();
        }
        let used: BTreeSet<_> = self.outcomes.iter().flat_map(|outcome| &outcome.alone).collect();
        self.available.iter().copied().filter(|boundary| !used.contains(boundary)).collect()
    }

    fn control_failure(&self, outcome: &Outcome) -> Option<String> {
        let name = outcome.case.name;
        match (&outcome.control, self.expected(outcome)) {
            (None, None) => None,
            (None, Some(_)) => Some(format!("{name}: impossible, says the table, and it succeeded")),
            (Some(refusal), Some((answer, _))) if refusal.name() == answer => None,
            (Some(refusal), _) => Some(format!("{name}: the control fails with {}", refusal.name())),
        }
    }

    fn expected(&self, outcome: &Outcome) -> Option<(&str, &'static str)> {
        self.here.answer(self.who, outcome.case.name)
    }
}

fn words(refusal: Option<&Refusal>) -> String {
    refusal.map_or_else(|| "succeeded".to_owned(), Refusal::name)
}

/// One line; with the stream gone there is nobody left to tell.
pub(crate) fn say(out: &mut impl Write, line: &str) {
    drop(writeln!(out, "{line}"));
}
