//! `cargo xtask eval`: tries a model on the goals in `xtask/goals`.
//!
//! Invariant: what is tried is the release build of this very source.

use crate::checkout::target_directory;
use crate::run::{build_shipped, program, succeed};
use anyhow::Result;
use std::path::Path;

/// The package that computes local models, a workspace of its own.
const LOCAL_MODEL: &str = "crates/aaos-model/Cargo.toml";

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let names = |flag: &str| args.iter().any(|word| word == flag);
    if !names("--list") && !names("--help") {
        build_shipped(root)?;
    }
    if names("--model") {
        let mut build = program("cargo", ["build", "--release", "--locked", "--quiet", "--bins"], root);
        build.arg("--manifest-path").arg(root.join(LOCAL_MODEL));
        build.arg("--target-dir").arg(target_directory().unwrap_or_else(|| root.join("target")));
        succeed(build)?;
    }
    let mut eval =
        program("cargo", ["run", "--release", "--quiet", "-p", "xtask", "--example", "eval", "--"], root);
    eval.args(args);
    succeed(eval)
}
