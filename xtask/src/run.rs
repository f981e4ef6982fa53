//! Starting other programs, and the one place that prints.
//!
//! Invariant: a program that fails fails the chore, with its command line in the message.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Prints one line; a closed standard output is no reason to stop checking.
pub(crate) fn say(line: &str) {
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// A program to be started in `folder`.
#[expect(clippy::disallowed_methods, reason = "xtask is no part of the runtime; starting tools is its trade")]
pub(crate) fn program<A: AsRef<OsStr>>(
    name: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
    folder: &Path,
) -> Command {
    let mut command = Command::new(name);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs it with its output shown.
pub(crate) fn succeed(mut command: Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// Builds the release of the programs that are shipped.
pub(crate) fn build_shipped(root: &Path) -> Result<()> {
    let shipped = ["-p", "agentd", "-p", "aaos-tools", "-p", "aaos-gateway"];
    let mut build = program("cargo", ["build", "--release", "--quiet", "--bins"], root);
    build.args(shipped);
    succeed(build)
}

/// Runs it and returns its standard output.
pub(crate) fn read(mut command: Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("start {shown}"))?;
    ensure!(output.status.success(), "{shown} ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {shown}"))
}

/// Whether a program can be started and ends well.
pub(crate) fn works(mut command: Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
