//! `aaos-worker`: the zygote, and after a fork and a lock-down each worker.
//!
//! Invariant: this program does nothing but what agentd's zygote is for; it reads no environment and no file.

use std::io::Write;
use std::process::ExitCode;

use aaos_confine::Channel;
use aaos_confine::zygote::{self, ZYGOTE_ARGUMENT};

/// Exit code of a usage error.
const USAGE: u8 = 64;
/// Exit code of a zygote or worker that broke off.
const BROKE_OFF: u8 = 70;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some(ZYGOTE_ARGUMENT) {
        say("aaos-worker is started by agentd and has no use by hand; see `agentd --help`");
        return ExitCode::from(USAGE);
    }
    match zygote::run(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&described(&error));
            ExitCode::from(BROKE_OFF)
        }
    }
}

fn serve(channel: Channel) -> u8 {
    match aaos_tools::serve(channel) {
        Ok(()) => 0,
        Err(error) => {
            say(&described(&error));
            BROKE_OFF
        }
    }
}

fn described(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

fn say(words: &str) {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(std::io::stderr().lock(), "aaos-worker: {words}"));
}
