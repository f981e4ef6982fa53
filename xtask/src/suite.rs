//! `cargo xtask test`: the whole workspace is built, then every test runs.
//!
//! Invariant: binaries and tests are built by one Cargo call with the same features, so black-box tests meet binaries
//! of this very source.

use crate::run::{program, say, succeed, works};
use anyhow::Result;
use std::path::Path;

pub(crate) fn run(root: &Path, runner_args: &[String]) -> Result<()> {
    let cargo = |args: &[&str]| program("cargo", args, root);
    succeed(cargo(&["build", "--workspace", "--bins", "--tests"]))?;
    let nextest = works(cargo(&["nextest", "--version"]));
    let mut tests = if nextest {
        cargo(&["nextest", "run", "--workspace"])
    } else {
        say("cargo-nextest is not installed: tests run with `cargo test`, without a limit on each");
        cargo(&["test", "--workspace", "--bins", "--lib", "--tests"])
    };
    tests.args(runner_args);
    succeed(tests)?;
    succeed(cargo(&["test", "--workspace", "--doc", "--quiet"]))
}
