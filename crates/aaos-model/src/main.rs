//! `aaos-model`: the process of a local model. agentd starts it, locked away, and hands it a file of weights.
//!
//! Invariants: it locks itself before it reads anything; the file is the only thing it is handed; it starts threads only
//! once it is locked, and they inherit the lock.

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use aaos_confine::{Channel, ModelPlan, lock_model};
use aaos_core::wire::{LocalReply, LocalSetup, LocalTask};
use aaos_model::serve;
use anyhow::{Context, Result, bail};

/// Exit status of a wrong use, as in `sysexits.h`.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = ModelPlan::from_arguments(&arguments) else {
        say("aaos-model is started by agentd and has no use by hand");
        return ExitCode::from(USAGE);
    };
    match run(plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("aaos-model: {error:#}"));
            ExitCode::from(serve::BROKE_OFF)
        }
    }
}

fn run(plan: ModelPlan) -> Result<()> {
    let channel = Channel::inherited();
    channel.send(&LocalReply::Locked(lock_model(plan)?))?;
    let (setup, descriptors) = channel.receive::<LocalSetup>().context("waiting for the weights")?;
    let found = descriptors.len();
    let Ok([weights]) = <[_; 1]>::try_from(descriptors) else {
        bail!("the weights came with {found} descriptors");
    };
    let weights = File::from(weights);
    match setup.task {
        LocalTask::Check => {
            let reply = serve::look(&weights, &setup).map_or_else(LocalReply::Unusable, LocalReply::Ready);
            Ok(channel.send(&reply)?)
        }
        LocalTask::Serve => match serve::load(&weights, &setup) {
            Err(problem) => Ok(channel.send(&LocalReply::Unusable(problem))?),
            Ok((engine, facts)) => {
                drop(weights);
                channel.send(&LocalReply::Ready(facts))?;
                Ok(serve::serve(channel, engine)?)
            }
        },
    }
}

fn say(words: &str) {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(std::io::stderr().lock(), "{words}"));
}
