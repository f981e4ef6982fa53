//! The cases as attempts of a program: for the test that runs them in the sandbox of `command_run`.
//!
//! `contest --controls` sets the stage, prints it as a line of JSON, then one for the control of each case, and keeps the
//! stage until its standard input is closed. `contest --as-program CASE` takes that first line on its standard input,
//! makes the attempt and prints what came of it.
//!
//! Invariant: control and program run the very code that a worker runs; nothing is handed to a program.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use serde::Serialize;

use crate::cases::{CASES, find};
use crate::director::{behind_nothing, reserve_channel};
use crate::raw::{Refusal, nothing};
use crate::report::say;
use crate::scene::{Place, Scene, Told};
use crate::stage::Stage;

/// The argument of an attempt.
pub(crate) const AS_PROGRAM: &str = "--as-program";
/// The argument of the stage with its controls.
pub(crate) const CONTROLS: &str = "--controls";
/// Children that the fork case makes: a program may.
const FEW: u32 = 32;

/// One control.
#[derive(Debug, Serialize)]
struct Control {
    case: &'static str,
    /// `succeeded`, or what the kernel answered.
    control: String,
}

/// Makes one attempt.
pub(crate) fn attempt(case: &str) -> io::Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let scene: Scene = serde_json::from_str(&text)?;
    let [file, directory, memory] = ["/etc/passwd", "/usr", "/dev/null"].map(File::open);
    let place = Place {
        scene,
        file: OwnedFd::from(file?),
        directory: OwnedFd::from(directory?),
        memory: OwnedFd::from(memory?),
    };
    let answer = find(case).map_or_else(|| nothing("no such case"), |case| (case.attempt)(&place));
    print(&Told::from(answer))
}

/// Sets the stage, tells it and all controls, and keeps it.
pub(crate) fn controls() -> io::Result<()> {
    reserve_channel()?;
    let stage = Stage::set_up(None, FEW)?;
    print(&stage.scene)?;
    for case in CASES {
        let control = behind_nothing(&stage, case)?;
        let control = control.map_or_else(|| "succeeded".to_owned(), |refusal: Refusal| refusal.name());
        print(&Control { case: case.name, control })?;
    }
    stage.reset()?;
    print(&"ready")?;
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn print(line: &impl Serialize) -> io::Result<()> {
    say(&mut io::stdout(), &serde_json::to_string(line)?);
    io::stdout().flush()
}
