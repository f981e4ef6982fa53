//! What each command does.
//!
//! Invariants: answers go to standard output, all else to standard error; `--json` prints what the daemon
//! said, unchanged; a command that reads changes nothing.

mod agents;
mod approvals;
mod archive;
mod asking;
mod capabilities;
mod check;
mod configure;
mod doctor;
mod entries;
mod fork;
mod goal;
mod model;
mod models;
mod question;
mod replay;
mod show;
mod status;
mod stream;
mod target;

pub(crate) use configure::{configure, wanted_variable};

use anyhow::Result;

use crate::cli::Command;
use crate::client::Client;
use crate::daemon;
use crate::exit::Exit;
use crate::render::{Screen, Tone};
use crate::settings::{Settings, vars};

/// Does what was asked.
///
/// # Errors
/// Whatever went wrong, for the operator to read; its exit code follows from its causes.
pub(crate) fn dispatch(settings: Settings, command: Command, screen: Screen) -> Result<Exit> {
    match command {
        Command::Run(args) => goal::run(settings, &args, screen),
        Command::Submit(args) => goal::submit(&settings, &args, screen),
        Command::Fork(args) => fork::fork(&settings, &args, screen),
        Command::Serve(_) => daemon::serve(settings),
        Command::List(args) => {
            ask(&settings, async move |mut client| agents::list(&mut client, &args, screen).await)
        }
        Command::Status(args) => {
            ask(&settings, async move |mut client| status::status(&mut client, &args, screen).await)
        }
        Command::Stop(args) => {
            ask(&settings, async move |mut client| agents::stop(&mut client, &args, screen).await)
        }
        Command::Spawn(args) => agents::spawn(&settings, &args, screen),
        Command::Check(args) => check::check(&settings, &args, screen),
        Command::Message(args) => {
            ask(&settings, async move |mut client| agents::message(&mut client, &args, screen).await)
        }
        Command::Tools(args) => {
            ask(&settings, async move |mut client| agents::tools(&mut client, &args, screen).await)
        }
        Command::Approvals(args) => {
            ask(&settings, async move |mut client| approvals::approvals(&mut client, &args, screen).await)
        }
        Command::Grants(args) => {
            ask(&settings, async move |mut client| capabilities::grants(&mut client, &args, screen).await)
        }
        Command::Revoke(args) => {
            ask(&settings, async move |mut client| capabilities::revoke(&mut client, &args, screen).await)
        }
        Command::Explain(args) => capabilities::explain(&settings, args, screen),
        Command::Logs(args) => entries::logs(&settings, args, screen),
        Command::Show(args) => show::show(&settings, args, screen),
        Command::Replay(args) => replay::replay(&settings, &args, screen),
        Command::Audit(args) => entries::audit(&settings, args, screen),
        Command::Model(args) => model::model(&settings, &args, screen),
        Command::Doctor(args) => doctor::doctor(&settings, &args, screen),
        Command::Models(args) => daemon::with_daemon(settings, async move |socket: std::path::PathBuf| {
            models::models(&mut Client::connect(&socket).await?, &args, screen).await
        }),
        Command::Configure(_) => unreachable!("it is done before the keys are dropped"),
        Command::Reference => reference(screen),
    }
}

/// Runs `work` with a connection to the running daemon.
fn ask(settings: &Settings, work: impl AsyncFnOnce(Client) -> Result<Exit>) -> Result<Exit> {
    daemon::with_running(settings, async move |socket: std::path::PathBuf| {
        let client = Client::connect(&socket).await?;
        work(client).await
    })
}

/// `reference`.
///
/// # Errors
/// When standard output takes nothing.
pub(crate) fn reference(screen: Screen) -> Result<Exit> {
    screen.line(Tone::Plain, vars::reference().trim_end())?;
    Ok(Exit::Done)
}

/// A line of the daemon to whoever started it, on standard error.
pub(crate) fn notice(line: &str) {
    Screen::new().note(Tone::Plain, line);
}
