//! `aaos-gateway --role models|egress`: one role of the gateway, started by the zygote.
//!
//! Invariants: no argument or environment variable carries a secret; what is needed from disk is read first, then
//! the process locks itself while it has a single thread, and only then says so, takes what agentd hands it
//! (providers and their keys) and serves. Nothing is read from the channel before the process is locked.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use aaos_confine::{Channel, GatewayRole, lock_gateway};
use aaos_core::wire::{EgressReply, ModelsReply, ModelsSetup};
use aaos_gateway::dial::Dialer;
use aaos_gateway::models::Desk;
use aaos_gateway::{egress, models};
use anyhow::{Context, Result, bail};

/// Exit code of a usage error.
const USAGE: u8 = 64;
/// Exit code of a gateway that broke off.
const BROKE_OFF: u8 = 70;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = match arguments.as_slice() {
        [flag, role] if flag == "--role" => role.parse::<GatewayRole>().ok(),
        _ => None,
    };
    let Some(role) = role else {
        say("aaos-gateway --role models|egress is started by agentd and has no use by hand");
        return ExitCode::from(USAGE);
    };
    match run(role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("aaos-gateway, role {}: {error:#}", role.name()));
            ExitCode::from(BROKE_OFF)
        }
    }
}

fn run(role: GatewayRole) -> Result<()> {
    let channel = Channel::inherited();
    match role {
        GatewayRole::Models => {
            let dialer = Dialer::from_system();
            channel.send(&ModelsReply::Locked(lock_gateway(role)?))?;
            let desk = desk(&channel, dialer)?;
            serve(channel, |stream| models::serve(stream, desk))
        }
        GatewayRole::Egress => {
            let dialer = Dialer::from_system();
            channel.send(&EgressReply::Locked(lock_gateway(role)?))?;
            serve(channel, |stream| egress::serve(stream, dialer))
        }
    }
}

/// Providers and keys: the first frame, which agentd sends once it has proved the lock-down. Where there is a cassette,
/// its descriptor came after the keys, then the listener for metrics, then the headers for spans.
fn desk(channel: &Channel, dialer: Dialer) -> Result<Desk> {
    let (mut setup, mut descriptors): (ModelsSetup, _) =
        channel.receive().context("waiting for the providers")?;
    let spans = match setup.spans.take() {
        Some(spans) if spans.headers_follow => {
            let headers = descriptors.pop().context("the headers for spans came without their descriptor")?;
            Some((spans, Some(headers)))
        }
        spans => spans.map(|spans| (spans, None)),
    };
    let listener = match setup.metrics {
        true => Some(descriptors.pop().context("the metrics came without their listener")?),
        false => None,
    };
    let cassette = setup.cassette.clone().map(|cassette| {
        let file = descriptors.pop().context("the cassette came without its descriptor")?;
        Ok::<_, anyhow::Error>((cassette, file))
    });
    let cassette = cassette.transpose()?;
    let came = descriptors.len();
    if let Err(announced) = models::take_keys(&mut setup, descriptors) {
        bail!("the providers came with {came} descriptors of keys; {announced} were announced");
    }
    let desk = Desk::new(setup, dialer);
    let desk = match cassette {
        Some((cassette, file)) => desk.with_cassette(&cassette, file),
        None => desk,
    };
    let desk = match spans {
        Some((spans, headers)) => desk.with_spans(spans, headers),
        None => desk,
    };
    Ok(match listener {
        Some(listener) => desk.with_metrics(listener),
        None => desk,
    })
}

/// One thread is enough: the work is waiting. The planner's own work runs beside it.
fn serve<S>(channel: Channel, role: impl FnOnce(tokio::net::UnixStream) -> S) -> Result<()>
where
    S: Future<Output = Result<(), aaos_gateway::channel::ChannelError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(2)
        .build()
        .context("starting the reactor")?;
    let served = runtime.block_on(async {
        let stream = UnixStream::from(channel.into_fd());
        stream.set_nonblocking(true)?;
        role(tokio::net::UnixStream::from_std(stream)?).await?;
        Ok(())
    });
    // The planner may still be at work for a request that nobody waits for.
    runtime.shutdown_background();
    served
}

fn say(words: &str) {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(std::io::stderr().lock(), "{words}"));
}
