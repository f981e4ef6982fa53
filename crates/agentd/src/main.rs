//! `agentd`: the daemon of aaOS and its command line.
//!
//! Invariants: provider keys leave the environment before anything else happens; nothing here starts a thread
//! before the daemon's zygote exists; process 1 of a PID namespace is never the daemon itself; a failure never ends
//! with exit code 0.

mod cassette;
mod cli;
mod client;
mod commands;
mod daemon;
mod exit;
mod files;
mod goalargs;
mod goaltext;
mod help;
mod init;
mod manifests;
mod render;
mod server;
mod settings;
mod terminal;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, UsageError};
use crate::render::{OutputError, Screen, Tone, text};
use crate::settings::configuration::Configuration;
use crate::settings::{Settings, vars};

/// What an agent leaves behind when it goes to sleep lies among what its last turn needed and gave back; glibc's
/// allocator keeps those holes, about as much again as an idle agent itself (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let screen = Screen::new();
    match begin(screen) {
        Ok(code) => code,
        Err(error) if matches!(error.downcast_ref(), Some(OutputError::ReaderGone)) => Exit::Done.into(),
        Err(error) => {
            screen.note(Tone::Bad, &format!("agentd: {}", text::block(&format!("{error:#}"))));
            crate::exit::of_error(&error).into()
        }
    }
}

fn begin(screen: Screen) -> anyhow::Result<ExitCode> {
    settings::hide_keys()?;
    match init::stand_in()? {
        Some(code) => Ok(code),
        None => start(screen).map(ExitCode::from),
    }
}

fn start(screen: Screen) -> anyhow::Result<Exit> {
    let keys = settings::take_keys()?;
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            let exit = if told.use_stderr() { Exit::Usage } else { Exit::Done };
            return match told.print().map_err(OutputError::from) {
                // Wrong flags stay wrong even if nobody wanted to read why.
                Ok(()) | Err(OutputError::ReaderGone) => Ok(exit),
                Err(error) => Err(error.into()),
            };
        }
    };
    start_log()?;
    if let cli::Command::Reference = cli.command {
        return commands::reference(screen);
    }
    let unusable = || UsageError("the settings cannot be used".to_owned());
    if let cli::Command::Configure(args) = &cli.command {
        let configuration = Configuration::load().map_err(|error| error.context(unusable()))?;
        return commands::configure(&configuration, args, &keys, screen);
    }
    let settings = Settings::load(&cli.overrides(), &keys).map_err(|error| error.context(unusable()))?;
    drop(keys);
    commands::dispatch(settings, cli.command, screen)
}

/// The daemon's own log, on standard error.
fn start_log() -> anyhow::Result<()> {
    let wanted = vars::read(vars::RUST_LOG.name).and_then(|text| text.into_string().ok());
    let wanted = wanted.unwrap_or_else(|| vars::RUST_LOG.default.to_owned());
    let filter = EnvFilter::try_new(&wanted)
        .map_err(|error| UsageError(format!("RUST_LOG={wanted:?} cannot be used: {error}")))?;
    let colours = io::IsTerminal::is_terminal(&io::stderr()) && vars::read(vars::NO_COLOR.name).is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    Ok(())
}
