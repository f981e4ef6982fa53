//! agentd as process 1 of a PID namespace: it starts itself once more below itself, hands signals on, and reaps.
//!
//! Invariants: process 1 holds no key, no journal and no socket, and starts exactly one process; it reaps whatever
//! comes to it and nothing else, because everybody else's children are theirs until they die; its exit code is that
//! of what it started, and with it the kernel ends whatever is left in the namespace.

use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};
use tokio::signal::unix::{self, SignalKind};

use crate::settings;

/// What a shell adds to the number of the signal that ended a process.
const ENDED_BY_SIGNAL: i32 = 128;

/// Which signals are handed on: all that ask a process to end, or only those that no terminal sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forwarding {
    /// Process 1 alone gets signals: the one below it has a process group of its own.
    All,
    /// The terminal itself reaches both, so what it sends would come twice.
    NotFromTerminal,
}

impl Forwarding {
    /// A terminal's keys go to the process group in its foreground, which is then that of both.
    fn here() -> Self {
        if io::stdin().is_terminal() { Self::NotFromTerminal } else { Self::All }
    }
}

/// Does the work of process 1 where this is it, until what it started has ended; `None` in any other process.
///
/// # Errors
/// When it cannot start itself or receive signals; nothing runs then.
pub(crate) fn stand_in() -> Result<Option<ExitCode>> {
    if getpid() != Pid::INIT {
        return Ok(None);
    }
    // One thread only; the runtime is there for its signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("process 1 cannot start the async runtime")?;
    let code = runtime.block_on(async {
        let forwarding = Forwarding::here();
        // Before there is anybody to signal: to process 1 the kernel delivers only what it has a handler for.
        let mut signals = Signals::receive(forwarding)?;
        let child = start(forwarding)?;
        settings::forget_keys().context("process 1 cannot close the provider keys")?;
        let report = aaos_confine::lock_daemon().context("cannot lock process 1 down")?;
        if let Some(crossed) = report.probes.iter().find(|probe| !probe.refused) {
            bail!("process 1 is locked down and {} succeeds all the same", crossed.attempt);
        }
        signals.serve(child).await
    })?;
    Ok(Some(ExitCode::from(code)))
}

/// Starts this very program with the same arguments; it finds itself not to be process 1.
#[expect(clippy::disallowed_methods, reason = "process 1 starts the one process that the zygote comes from")]
fn start(forwarding: Forwarding) -> Result<Pid> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(program).args(arguments);
    if forwarding == Forwarding::All {
        command.process_group(0);
    }
    let child = command.spawn().context("process 1 cannot start agentd; is /proc mounted?")?;
    Ok(Pid::from_child(&child))
}

/// What process 1 waits for.
struct Signals {
    child: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    forwarding: Forwarding,
}

impl Signals {
    fn receive(forwarding: Forwarding) -> Result<Self> {
        let receive = |kind| unix::signal(kind).context("process 1 cannot receive signals");
        Ok(Self {
            child: receive(SignalKind::child())?,
            terminate: receive(SignalKind::terminate())?,
            hang_up: receive(SignalKind::hangup())?,
            interrupt: receive(SignalKind::interrupt())?,
            quit: receive(SignalKind::quit())?,
            forwarding,
        })
    }

    /// Reaps and hands on until `child` has ended; its exit code.
    async fn serve(&mut self, child: Pid) -> Result<u8> {
        loop {
            let (signal, is_terminals) = tokio::select! {
                _ = self.child.recv() => match reap(child).context("process 1 cannot reap")? {
                    Some(code) => return Ok(code),
                    None => continue,
                },
                _ = self.terminate.recv() => (Signal::TERM, false),
                _ = self.hang_up.recv() => (Signal::HUP, false),
                _ = self.interrupt.recv() => (Signal::INT, true),
                _ = self.quit.recv() => (Signal::QUIT, true),
            };
            if is_terminals && self.forwarding == Forwarding::NotFromTerminal {
                continue;
            }
            // Only this process reaps it, so its number is still its own.
            kill_process(child, signal).context("process 1 cannot hand a signal on")?;
        }
    }
}

/// Reaps everything that has ended; the exit code of `child` if it is among it.
fn reap(child: Pid) -> io::Result<Option<u8>> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                let signal = status.terminating_signal().map(|number| ENDED_BY_SIGNAL + number);
                let number = status.exit_status().or(signal).unwrap_or(ENDED_BY_SIGNAL);
                code = Some(u8::try_from(number).unwrap_or(u8::MAX));
            }
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            // Everybody left still runs, or nobody is left.
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::stand_in;

    #[test]
    fn another_process_is_left_alone() {
        assert!(stand_in().expect("nothing can fail").is_none());
    }
}
