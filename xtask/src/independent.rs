//! `cargo xtask independent`: goals against model servers that others wrote, installed from the package registries.
//!
//! Invariant: everything that is installed is pinned by its hash and lies in the target directory; what cannot be installed
//! fails the chore.

use crate::checkout::target_directory;
use crate::run::{program, say, succeed, works};
use anyhow::Result;
use std::path::Path;
use std::time::Instant;

/// Installs the servers, and fetches the weights of the small model that one of them computes.
const INSTALL: &str = "crates/agentd/tests/independent/install/install.py";
const FETCH: &str = "crates/aaos-model/tests/data/fetch.py";
/// The test, which no other chore builds or runs.
const TEST: [&str; 3] = ["--workspace", "--test", "independent"];

pub(crate) fn run(root: &Path, runner_args: &[String]) -> Result<()> {
    let began = Instant::now();
    let target = root.join(target_directory().unwrap_or_else(|| "target".into()));
    for (script, place) in [(INSTALL, "independent"), (FETCH, "models/smollm2-135m-instruct.gguf")] {
        succeed(program("python3", [Path::new(script), &target.join(place)], root))?;
    }
    say(&format!("independent: installed after {} s", began.elapsed().as_secs()));
    let cargo = |args: &[&str]| program("cargo", args, root);
    succeed(cargo(&[
        "build",
        "--quiet",
        "-p",
        "agentd",
        "-p",
        "aaos-tools",
        "-p",
        "aaos-gateway",
        "--bins",
    ]))?;
    let nextest = works(cargo(&["nextest", "--version"]));
    let mut tests = cargo(if nextest { &["nextest", "run"] } else { &["test"] });
    tests.args(TEST).args(runner_args);
    succeed(tests)?;
    say(&format!("independent: done after {} s", began.elapsed().as_secs()));
    Ok(())
}
