//! `cargo xtask instructions`: how many processor instructions one decision of the authority takes.
//!
//! Invariants: the count is of a release build under callgrind, of the calls alone, and hardly depends on the machine's
//! load, so that a check in CI can tell a regression from noise; the recorded counts are changed by `--record` alone.

use crate::run::{program, read, say, works};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the counts are kept.
const FILE: &str = "docs/authorize.instructions.toml";
/// By how many hundredths a count may exceed the recorded one.
const TOLERANCE_PERCENT: u64 = 10;
/// The function whose calls are counted, as callgrind's pattern.
const COUNTED: &str = "*measured_authorize*";

/// What to do with the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Show,
    Check,
    Record,
}

/// The checked-in counts, and what they were taken with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    architecture: String,
    compiler: String,
    valgrind: String,
    /// Instructions per call, by case.
    instructions_per_call: BTreeMap<String, u64>,
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let purpose = match words[..] {
        [] => Purpose::Show,
        ["--check"] => Purpose::Check,
        ["--record"] => Purpose::Record,
        _ => bail!("instructions: there are --check and --record"),
    };
    let found = count_all(root)?;
    for (case, count) in &found.instructions_per_call {
        say(&format!("instructions: {case}: {count} per call of authorize"));
    }
    let file = root.join(FILE);
    match purpose {
        Purpose::Show => Ok(()),
        Purpose::Record => {
            std::fs::write(&file, found.page()?).with_context(|| format!("write {}", file.display()))?;
            say(&format!("instructions: recorded in {FILE}"));
            Ok(())
        }
        Purpose::Check => {
            let text = std::fs::read_to_string(&file).with_context(|| {
                format!("read {}; `cargo xtask instructions --record` writes it", file.display())
            })?;
            check(&Counts::parse(&text)?, &found)
        }
    }
}

impl Counts {
    fn parse(text: &str) -> Result<Self> {
        let counts: Self = toml::from_str(text).with_context(|| format!("read {FILE}"))?;
        ensure!(!counts.instructions_per_call.is_empty(), "{FILE} records no case");
        Ok(counts)
    }

    fn page(&self) -> Result<String> {
        let body = toml::to_string(self).context("write the counts as TOML")?;
        let head = "# What one `Authority::authorize` costs. Written by `cargo xtask instructions --record`;\n\
                    # CI fails where a case takes 10 % more: make it cheaper, or record the new cost and say why.\n\n";
        Ok(format!("{head}{body}"))
    }
}

/// Fails when a case costs too much more than recorded, or when the cases are not the recorded ones.
fn check(recorded: &Counts, found: &Counts) -> Result<()> {
    ensure!(
        recorded.architecture == found.architecture,
        "{FILE} was recorded on {} and this is {}: the counts cannot be compared",
        recorded.architecture,
        found.architecture
    );
    if recorded.compiler != found.compiler {
        say(&format!("instructions: recorded with {}, counted with {}", recorded.compiler, found.compiler));
    }
    let mut wrong = Vec::new();
    for (case, count) in &found.instructions_per_call {
        match recorded.instructions_per_call.get(case) {
            None => wrong.push(format!("{case} is not recorded")),
            Some(before) if count * 100 > before * (100 + TOLERANCE_PERCENT) => {
                wrong.push(format!("{case} takes {count} instructions, {before} are recorded"));
            }
            Some(before) if count * (100 + TOLERANCE_PERCENT) < before * 100 => {
                say(&format!(
                    "instructions: {case} became cheaper than {before}; record it, so that it stays"
                ));
            }
            Some(_) => {}
        }
    }
    let gone =
        recorded.instructions_per_call.keys().filter(|case| !found.instructions_per_call.contains_key(*case));
    wrong.extend(gone.map(|case| format!("{case} is recorded and no longer counted")));
    if !wrong.is_empty() {
        bail!(
            "{}. Make it cheaper, or, where the cost is meant, run `cargo xtask instructions --record` and \
             say in the commit what it buys",
            wrong.join("; ")
        );
    }
    say("instructions: no case takes more than recorded and a tenth");
    Ok(())
}

fn count_all(root: &Path) -> Result<Counts> {
    ensure!(
        works(program("valgrind", ["--version"], root)),
        "valgrind cannot be started: install it (apt-get install -y valgrind)"
    );
    let binary = build(root)?;
    let cases = read(program(&binary, ["--cases"], root))?;
    let mut instructions_per_call = BTreeMap::new();
    for case in cases.lines() {
        instructions_per_call.insert(case.to_owned(), count(root, &binary, case)?);
    }
    Ok(Counts {
        architecture: std::env::consts::ARCH.to_owned(),
        compiler: read(program("rustc", ["--version"], root))?.trim().to_owned(),
        valgrind: read(program("valgrind", ["--version"], root))?.trim().to_owned(),
        instructions_per_call,
    })
}

/// Builds the benchmark as it is measured and says where it lies.
fn build(root: &Path) -> Result<PathBuf> {
    let args = [
        "bench",
        "--no-run",
        "--quiet",
        "--locked",
        "-p",
        "aaos-core",
        "--bench",
        "authorize",
        "--message-format=json",
    ];
    let messages = read(program("cargo", args, root))?;
    executable(&messages).context("cargo bench names no executable")
}

fn executable(messages: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut named = parsed.filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
    named.next()
}

fn count(root: &Path, binary: &Path, case: &str) -> Result<u64> {
    let toggle = format!("--toggle-collect={COUNTED}");
    let valgrind = ["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1", &toggle];
    let mut command = program("valgrind", valgrind, root);
    command.arg(binary).args(["--count", case]);
    let output = read(command)?;
    per_call(&output)
        .with_context(|| format!("{case}: callgrind and the benchmark gave no counts:\n{output}"))
}

/// Instructions per call from callgrind's words, between which the benchmark says how many calls it made.
fn per_call(output: &str) -> Option<u64> {
    let calls: u64 = output.lines().find_map(|line| line.trim().parse().ok())?;
    let collected = output.lines().find_map(|line| line.split_once("Collected :"))?.1;
    let instructions: u64 = collected.trim().parse().ok()?;
    // Nothing collected means that no function has the name that is counted.
    instructions.checked_div(calls).filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(cases: &[(&str, u64)]) -> Counts {
        Counts {
            architecture: "x86_64".into(),
            compiler: "rustc 1".into(),
            valgrind: "valgrind-3".into(),
            instructions_per_call: cases.iter().map(|(case, count)| ((*case).to_owned(), *count)).collect(),
        }
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let written = counts(&[("100-grants", 4588), ("10000-agents", 5282)]);
        let page = written.page().unwrap();
        assert!(page.starts_with("# "), "{page}");
        assert_eq!(Counts::parse(&page).unwrap(), written);
        assert!(Counts::parse(&format!("surplus = 1\n{page}")).is_err());
        assert!(Counts::parse(&counts(&[]).page().unwrap()).is_err(), "an empty record checks nothing");
    }

    #[test]
    fn a_tenth_more_passes_and_more_than_that_fails() {
        let recorded = counts(&[("a", 1000)]);
        for (count, passes) in [(1000, true), (1100, true), (1101, false), (10, true)] {
            assert_eq!(check(&recorded, &counts(&[("a", count)])).is_ok(), passes, "{count}");
        }
        let error = check(&recorded, &counts(&[("a", 2000)])).unwrap_err().to_string();
        assert!(error.contains("2000") && error.contains("--record"), "{error}");
    }

    #[test]
    fn cases_and_architectures_must_be_the_recorded_ones() {
        let recorded = counts(&[("a", 1000)]);
        assert!(check(&recorded, &counts(&[("a", 1000), ("b", 1)])).is_err());
        assert!(check(&recorded, &counts(&[])).is_err());
        let other = Counts { architecture: "aarch64".into(), ..recorded.clone() };
        assert!(check(&recorded, &other).is_err());
    }

    #[test]
    fn callgrinds_words_are_read() {
        let output = "==1== Callgrind\n4096\n==1== Events    : Ir\n==1== Collected : 21635681\n==1== \n";
        assert_eq!(per_call(output), Some(5282));
        assert_eq!(per_call(&output.replace("21635681", "0")), None, "nothing was counted");
        assert_eq!(per_call("==1== Collected : 21635681\n"), None);
    }

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = "{\"executable\":null}\nplain words\n{\"executable\":\"/x/authorize-1\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/x/authorize-1")));
        assert_eq!(executable("{}\n"), None);
    }
}
