//! The house's own chores:
//! `cargo xtask tidy | test | independent | readme | contest | bench | eval | kill-loop | instructions | mutants |
//! vm-test`.
//!
//! Invariants: a chore prints what it found and ends with a non-zero code when anything is wrong; none of them changes
//! a file of the checkout, unless `--record` or `--write` asks it to.

mod bench;
mod checkout;
mod contest;
mod eval;
mod floors;
mod independent;
mod instructions;
mod kills;
mod linked;
mod mutants;
mod readme;
mod rules;
mod run;
mod source;
mod suite;
mod tidy;
mod vm;

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  tidy            check floors, lengths, module docs, forbidden patterns and what agentd links
  test [ARGS…]    build the workspace and run every test; ARGS go to the test runner
  independent [ARGS…]
                  install model servers that others wrote and run goals against them; ARGS go to the test runner
  readme [MARK…]  run the blocks of README.md that are marked `sh run` or `sh test` on a clean checkout
  contest [--record | --full]
                  try everything that an escape from a worker would need; --record writes docs/contest.md; --full
                  forks 10,000 children without confinement and flips names a million times under each file tool
  bench [house | authorize | journal] [ARGS…]
                  build release and measure it beside baselines; --quick for few rounds, --json for machines
  eval [--model GGUF[=NAME]]… [--provider NAME]… [--goals A,B] [--seconds N] [--json] [--write]
                  build release and try each model on the goals in xtask/goals; --write puts the results of a commit
                  into docs/models-eval.md; --list shows the goals
  kill-loop [--kills N] [--seed S]
                  build release and kill the daemon N (1,000) times under a load of goals, messages and answers
  instructions [--check | --record]
                  count what one decision costs under valgrind; compare with docs/authorize.instructions.toml
  mutants [--record] [--again]
                  change the law in every way, run the tests; goes on where it was; --record writes docs/mutants.md
  mutants --diff [COMMIT]
                  the same for what changed since COMMIT, or since the recorded one; a sample where it is much
  vm-test [TEST…] [-- ARGS…]
                  boot the Debian kernel that xtask/vm-kernel.toml pins in virtual machines and run the tests of
                  confinement there, as root and without privilege; ARGS go to each
  vm-test --record
                  the same on Debian's newest kernel, which becomes the pinned one when everything passed";

/// What this program can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Chore {
    Tidy,
    Test { runner_args: Vec<String> },
    Independent { runner_args: Vec<String> },
    Readme { marks: Vec<String> },
    Contest { args: Vec<String> },
    Bench { args: Vec<String> },
    Eval { args: Vec<String> },
    KillLoop { args: Vec<String> },
    Instructions { args: Vec<String> },
    Mutants { args: Vec<String> },
    VmTest { args: Vec<String> },
}

impl Chore {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let name = args.next().unwrap_or_default();
        let rest: Vec<String> = args.collect();
        match name.as_str() {
            "tidy" if rest.is_empty() => Ok(Self::Tidy),
            "test" => Ok(Self::Test { runner_args: rest }),
            "independent" => Ok(Self::Independent { runner_args: rest }),
            "readme" => Ok(Self::Readme { marks: rest }),
            "contest" => Ok(Self::Contest { args: rest }),
            "bench" => Ok(Self::Bench { args: rest }),
            "eval" => Ok(Self::Eval { args: rest }),
            "kill-loop" => Ok(Self::KillLoop { args: rest }),
            "instructions" => Ok(Self::Instructions { args: rest }),
            "mutants" => Ok(Self::Mutants { args: rest }),
            "vm-test" => Ok(Self::VmTest { args: rest }),
            _ => bail!("unknown command {name:?}\n{USAGE}"),
        }
    }

    fn run(self) -> Result<()> {
        let root = checkout();
        match self {
            Self::Tidy => tidy::check(&root),
            Self::Test { runner_args } => suite::run(&root, &runner_args),
            Self::Independent { runner_args } => independent::run(&root, &runner_args),
            Self::Readme { marks } => readme::run(&root, &marks),
            Self::Contest { args } => contest::run(&root, &args),
            Self::Bench { args } => bench::run(&root, &args),
            Self::Eval { args } => eval::run(&root, &args),
            Self::KillLoop { args } => kills::run(&root, &args),
            Self::Instructions { args } => instructions::run(&root, &args),
            Self::Mutants { args } => mutants::run(&root, &args),
            Self::VmTest { args } => vm::run(&root, &args),
        }
    }
}

/// The checkout that this program was called for. Cargo says which when it runs us; what was compiled in may be
/// another checkout's path, where two of them share a target directory.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells its programs where they belong in the environment"
)]
fn checkout() -> PathBuf {
    let told = std::env::var_os("CARGO_MANIFEST_DIR");
    let package = told.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), PathBuf::from)
}

fn main() -> ExitCode {
    match Chore::parse(std::env::args().skip(1)).and_then(Chore::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&format!("xtask: {error:#}"));
            // A chore that ran tests elsewhere ends with the code that they ended with.
            let guest = error.downcast_ref::<vm::GuestFailed>();
            guest.map_or(ExitCode::FAILURE, |failed| ExitCode::from(failed.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Chore> {
        Chore::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn chores_are_named() {
        assert_eq!(parse(&["tidy"]).unwrap(), Chore::Tidy);
        assert_eq!(
            parse(&["test", "-p", "x"]).unwrap(),
            Chore::Test { runner_args: vec!["-p".into(), "x".into()] }
        );
    }

    #[test]
    fn what_is_no_chore_is_refused() {
        for words in [&[][..], &["tidi"], &["tidy", "now"]] {
            assert!(parse(words).unwrap_err().to_string().contains("usage:"), "{words:?}");
        }
    }
}
