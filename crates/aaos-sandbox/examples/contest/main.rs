//! The contest: tries, one by one, everything that an escape from a worker would need.
//!
//! `contest [--without-namespaces] [--markdown] [--children N] [--set-uid-program PATH] [--without-worker]
//! [--impossible CASE=ANSWER]… [--possible CASE]…` prints one line of JSON for the machine and one for each case:
//! what the same attempt gives unconfined (the control), what it gives in the worker, what should stop it, and which
//! boundaries stop it alone. It ends with code 1 when anything is not as it must be, and says what on standard error.
//! The last two arguments say what another machine than the table's cannot do, and what it can; `--without-worker`
//! lets every attempt run free, and so fails. `--controls` and `--as-program` are described at [`program`].
//!
//! Invariants: the program is its own launcher (`--zygote`), so that its attempts run in a real worker; it harms
//! nothing but its own stage, and never connects to `AF_VSOCK`.
#![allow(unsafe_code, reason = "an escape would use raw system calls")]

mod cases;
mod director;
mod exhaustion;
mod files;
mod handed;
mod impossible;
mod kernel;
mod launch;
mod processes;
mod program;
mod raw;
mod refusing;
mod report;
mod scene;
mod sockets;
mod stage;
mod subject;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use aaos_confine::zygote::{self, ZYGOTE_ARGUMENT};

use crate::director::Whole;
use crate::impossible::Here;
use crate::launch::{LOCKED_FIRST, Zygote, lock_and_become_zygote};
use crate::processes::{ANOTHERS, WHO};
use crate::report::{Form, Report, say};
use crate::stage::Stage;

/// What the caller wants.
#[derive(Debug, Default)]
struct Wanted {
    without_namespaces: bool,
    whole: Whole,
    form: Form,
    children: u32,
    set_uid_program: Option<PathBuf>,
    here: Here,
}

impl Wanted {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        /// Children that the fork case makes where nobody says more.
        const FEW: u32 = 32;
        let mut wanted = Self { children: FEW, ..Self::default() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--without-namespaces" => wanted.without_namespaces = true,
                "--without-worker" => wanted.whole = Whole::Nothing,
                "--markdown" => wanted.form = Form::Markdown,
                "--children" => {
                    wanted.children = value()?.parse().map_err(|_| "--children needs a number".to_owned())?;
                }
                "--set-uid-program" => {
                    wanted.set_uid_program = Some(value()?.into());
                    // Who has one has that control.
                    wanted.here.possible.push("gain a uid by a set-uid program".to_owned());
                }
                "--impossible" => {
                    let value = value()?;
                    let (case, answer) = value.rsplit_once('=').ok_or("--impossible needs CASE=ANSWER")?;
                    wanted.here.impossible.push((case.to_owned(), answer.to_owned()));
                }
                "--possible" => wanted.here.possible.push(value()?),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(wanted)
    }
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    match first.as_deref() {
        Some(ZYGOTE_ARGUMENT) => {
            return ended(zygote::run(|channel| subject::serve(&channel)).map_err(io::Error::other));
        }
        Some(LOCKED_FIRST) => return ended(Err(lock_and_become_zygote())),
        Some(word) if WHO.to_str() == Ok(word) => return who(),
        Some(program::CONTROLS) => return ended(program::controls()),
        Some(program::AS_PROGRAM) => {
            return ended(program::attempt(&std::env::args().nth(2).unwrap_or_default()));
        }
        _ => {}
    }
    let wanted = match Wanted::parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(words) => return ended(Err(io::Error::other(words))),
    };
    match contest(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => ended(Err(error)),
    }
}

/// Says by the exit code whether this process has another's uid.
fn who() -> ExitCode {
    let same = rustix::process::geteuid() == rustix::process::getuid();
    if same { ExitCode::SUCCESS } else { ExitCode::from(u8::try_from(ANOTHERS).unwrap_or(u8::MAX)) }
}

fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("contest: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Runs everything and reports; whether all is as it must be.
fn contest(wanted: &Wanted) -> io::Result<bool> {
    director::reserve_channel()?;
    let stage = Stage::set_up(wanted.set_uid_program.clone(), wanted.children)?;
    let boundaries = director::available()?;
    let mut zygote = Zygote::start(!wanted.without_namespaces)?;
    let worker = zygote.launch()?;
    let outcomes = director::run(&stage, &mut zygote, &boundaries, wanted.whole)?;
    zygote.end()?;
    let report = Report::new(worker.report, boundaries, outcomes, &wanted.here);
    report.print(wanted.form, &mut io::stdout().lock())?;
    for failure in report.failures() {
        say(&mut io::stderr(), &failure);
    }
    Ok(report.failures().is_empty())
}
