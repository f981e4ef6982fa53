//! `cargo xtask kill-loop`: the daemon is killed a thousand times while it works.
//!
//! Invariant: what runs is a copy of the release build of this very source, so that a build meanwhile changes nothing.

use crate::run::{build_shipped, program, read, say, succeed};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Kills, unless told otherwise.
const KILLS: u64 = 1_000;
/// The programs under test, beside the test itself.
const PROGRAMS: [&str; 3] = ["agentd", "aaos-worker", "aaos-gateway"];
/// The test, as Cargo and as a program.
const TEST: &str = "kill_loop";

/// What one run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    kills: u64,
    /// What the moments are drawn from; another one each time unless it is named.
    seed: Option<u64>,
}

impl Wish {
    fn parse(args: &[String]) -> Result<Self> {
        let mut wish = Self { kills: KILLS, seed: None };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let number = || -> Result<u64> {
                let value = words.clone().next().with_context(|| format!("{word} takes a number"))?;
                value.parse().with_context(|| format!("{word} takes a number, not {value:?}"))
            };
            match word.as_str() {
                "--kills" => wish.kills = number()?,
                "--seed" => wish.seed = Some(number()?),
                other => bail!("unknown argument {other:?}; there are --kills and --seed"),
            }
            words.next();
        }
        ensure!(wish.kills > 0, "a run without kills shows nothing");
        Ok(wish)
    }
}

/// What Cargo says of something that it built.
#[derive(Debug, Deserialize)]
struct Built {
    executable: Option<PathBuf>,
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let wish = Wish::parse(args)?;
    build_shipped(root)?;
    let folder = copies(&test_program(root)?)?;
    let seed = wish.seed.map_or_else(drawn_seed, Ok)?;
    say(&format!("to run it again: cargo xtask kill-loop --kills {} --seed {seed}", wish.kills));
    let mut test = program(folder.join(TEST), ["--nocapture"], root);
    test.env("AAOS_KILLS", wish.kills.to_string()).env("AAOS_KILLS_SEED", seed.to_string());
    succeed(test)
}

/// Builds the test and gives its path.
fn test_program(root: &Path) -> Result<PathBuf> {
    let args = ["test", "--release", "--quiet", "-p", "agentd", "--test", TEST, "--no-run"];
    let mut build = program("cargo", args, root);
    build.arg("--message-format=json");
    let said = read(build)?;
    let built = said.lines().filter_map(|line| serde_json::from_str::<Built>(line).ok());
    let mut programs = built.filter_map(|built| built.executable);
    let is_test = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(TEST))
    };
    programs.find(is_test).with_context(|| format!("cargo built no program {TEST}"))
}

/// Copies the test, from `release/deps`, and the programs that it starts, from `release`, into a folder of this run.
fn copies(test: &Path) -> Result<PathBuf> {
    let release = test.parent().and_then(Path::parent).context("a test lies in a profile's folder")?;
    let folder = release.join(format!("kill-loop-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let copy = |from: &Path, name: &str| {
        let to = folder.join(name);
        std::fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))
    };
    copy(test, TEST)?;
    for name in PROGRAMS {
        copy(&release.join(name), name)?;
    }
    Ok(folder)
}

/// A seed that the kernel draws.
fn drawn_seed() -> Result<u64> {
    use std::io::Read as _;
    let mut bytes = [0; 4];
    let mut random = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    random.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(u32::from_le_bytes(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Wish> {
        Wish::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn kills_and_seed_are_numbers() {
        assert_eq!(parse(&[]).unwrap(), Wish { kills: KILLS, seed: None });
        assert_eq!(parse(&["--seed", "7", "--kills", "3"]).unwrap(), Wish { kills: 3, seed: Some(7) });
        for words in [&["--kills"][..], &["--kills", "0"], &["--kills", "many"], &["--seed", "-1"], &["3"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
