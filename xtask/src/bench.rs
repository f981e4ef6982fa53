//! `cargo xtask bench`: builds what is shipped and measures it.
//!
//! Invariant: what is measured is the release build of this very source.

use crate::run::{program, succeed};
use anyhow::Result;
use std::path::Path;

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let shipped = ["-p", "agentd", "-p", "aaos-tools", "-p", "aaos-gateway"];
    let mut build = program("cargo", ["build", "--release", "--quiet", "--bins"], root);
    build.args(shipped);
    succeed(build)?;
    let mut measure = program("cargo", ["bench", "--quiet", "-p", "xtask", "--bench", "house", "--"], root);
    measure.args(args);
    succeed(measure)
}
