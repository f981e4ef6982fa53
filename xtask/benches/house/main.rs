//! `cargo xtask bench`: what the house costs, measured on the release binaries from outside.
//!
//! Invariants: every figure stands beside a baseline of the same run; the exit code tells whether the run worked, never
//! whether a target was met.

mod confine;
mod far;
mod models;
mod permits;
mod processes;
mod programs;
mod provider;
mod reads;
mod report;
mod rounds;
mod stats;
mod wire;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::far::Far;
use crate::processes::{Home, Plain};
use crate::report::{Machine, Report};
use crate::rounds::{Effort, Served};

/// First argument of the process that this program starts as the null server.
const NULL_SERVER: &str = "null-server";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut std::io::stderr().lock(), &format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    if let [first, socket] = args
        && first == NULL_SERVER
    {
        return wire::serve_constant(Path::new(socket));
    }
    let (mut quick, mut as_json, mut only) = (false, false, Only::Everything);
    for word in args {
        match word.as_str() {
            "--quick" => quick = true,
            "--json" => as_json = true,
            "confine" => only = Only::Confinement,
            "models" => only = Only::Models,
            // Cargo says so to every benchmark.
            "--bench" => {}
            other => bail!("unknown argument {other:?}; there are confine, models, --quick and --json"),
        }
    }
    let report = measure(quick, only)?;
    let text = if as_json { serde_json::to_string_pretty(&report)? } else { report.text() };
    say(&mut std::io::stdout().lock(), &text);
    Ok(())
}

/// How much of it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Everything,
    Confinement,
    Models,
}

fn measure(quick: bool, only: Only) -> Result<Report> {
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    // First, while there is one thread.
    let mut far = Far::start()?;
    let folder = Home::new()?;
    let plain = Plain::prepare(folder.folder())?;
    let mut report = Report::new(Machine::look(plain.what), quick);
    if only == Only::Models {
        far.stop();
        models::measure(effort, &mut report)?;
        return Ok(report);
    }
    tell("workers beside other launchers");
    confine::measure(&far, effort, &mut report)?;
    if only == Only::Confinement {
        far.stop();
        return Ok(report);
    }
    let mut served = Served::start()?;
    tell("round trips");
    served.round_trips(&mut far, effort, &mut report)?;
    tell("load");
    served.loads(effort, &mut report)?;
    drop(served);
    tell("launches");
    rounds::launches(&far, &plain, effort, &mut report)?;
    far.stop();
    tell("calls of models");
    models::measure(effort, &mut report)?;
    tell("starts");
    rounds::starts(effort, &mut report)?;
    tell("memory");
    rounds::memory(effort, &mut report)?;
    Ok(report)
}

/// Says what is being measured, beside the report.
fn tell(what: &str) {
    say(&mut std::io::stderr().lock(), &format!("measuring: {what}"));
}

/// One line; a reader that went away is no reason to fail.
fn say(out: &mut impl Write, line: &str) {
    if writeln!(out, "{line}").is_err() {
        std::process::exit(1);
    }
}
