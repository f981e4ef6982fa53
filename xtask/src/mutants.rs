//! `cargo xtask mutants`: whether the tests of the law notice when the law is changed.
//!
//! Invariants: a clone of HEAD is mutated, never this checkout, which may be edited meanwhile; a survivor that nobody
//! explained fails the chore; a run that was interrupted goes on where it was, as long as the source is the same.

mod base;
mod explained;
mod ledger;
mod page;

use crate::checkout::{CleanCheckout, note_uncommitted, target_directory};
use crate::run::{program, read, say, works};
use anyhow::{Context, Result, bail, ensure};
use base::{Base, Share};
use explained::{Explained, Survivor};
use ledger::{Fate, Ledger, Suite};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package whose modules are mutated and whose tests judge.
const PACKAGE: &str = "aaos-core";
/// Its modules that are the law: capabilities, the authority, and the quantities and purses that it counts with.
const MODULES: [&str; 4] = ["authority", "budget", "capability", "quantity"];
/// Test programs that are left out: `seals` compiles programs of its own, seconds for each mutant, and judges what no
/// mutant of a function's body can break; the others judge modules that are not mutated, or take longer than all the
/// rest together to find what the rest finds too.
const LEFT_OUT: [&str; 5] = ["lint", "manifest", "price", "seals", "shuttle"];
/// Random cases of each property per mutant; the full number would take minutes.
const CASES: &str = "8";
/// cargo-mutants ran to its end: all caught, some survived, some took too long.
const RAN: [i32; 3] = [0, 2, 3];

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    /// Every mutant; write the page or not.
    Whole { record: bool, again: bool },
    /// Those in what changed since a commit, or since the recorded one.
    Diff { base: Option<String> },
}

/// A clone of HEAD to be mutated, and where the results go.
struct Lab {
    clone: CleanCheckout,
    results: PathBuf,
    suite: Suite,
}

/// Which mutants one call of the tool is about.
#[derive(Debug, Default)]
struct Selection {
    diff: Option<PathBuf>,
    share: Option<Share>,
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let wish = Wish::parse(args)?;
    ensure!(
        works(program("cargo", ["mutants", "--version"], root)),
        "cargo-mutants is not installed: `cargo install --locked cargo-mutants`"
    );
    match wish {
        Wish::Whole { record, again } => whole(root, record, again),
        Wish::Diff { base } => changed(root, base.as_deref()),
    }
}

impl Wish {
    fn parse(args: &[String]) -> Result<Self> {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words[..] {
            ["--diff"] => Ok(Self::Diff { base: None }),
            ["--diff", base] if !base.starts_with('-') => Ok(Self::Diff { base: Some(base.to_owned()) }),
            _ if words.iter().all(|word| matches!(*word, "--record" | "--again")) => {
                Ok(Self::Whole { record: words.contains(&"--record"), again: words.contains(&"--again") })
            }
            _ => bail!("mutants: there are --record and --again, or --diff with a commit or without"),
        }
    }
}

/// Every mutant that is not decided yet, then the verdict over all.
fn whole(root: &Path, record: bool, again: bool) -> Result<()> {
    let source = git(root, &format!("HEAD:crates/{PACKAGE}/src"))?;
    let lab = Lab::open(root, &source[..12], again)?;
    let (file, begun) = (lab.results.join("ledger.json"), lab.results.join("begun.json"));
    let mut ledger = Ledger::load(&file)?;
    if begun.exists() {
        // The last run was interrupted: its tests were those it began with.
        let by = serde_json::from_str(&std::fs::read_to_string(&begun)?).context("read begun.json")?;
        ledger.take(&lab.lists(), &by)?;
        ledger.save(&file)?;
    }
    let all = lab.list(&Selection::default())?;
    let open = all.iter().filter(|name| ledger.is_open(name, &lab.suite)).count();
    say(&format!("mutants: {} in {}, {open} to be looked at", all.len(), MODULES.join(", ")));
    if open > 0 {
        std::fs::write(&begun, serde_json::to_string(&lab.suite)?).context("write begun.json")?;
        lab.test(&Selection::default(), true)?;
        ledger.take(&lab.lists(), &lab.suite)?;
        ledger.save(&file)?;
        std::fs::remove_file(&begun).context("remove begun.json")?;
    }
    let undecided = all.iter().filter(|name| ledger.fate(name).is_none()).count();
    ensure!(undecided == 0, "{undecided} mutants are undecided: run it again, it goes on where it was");
    let explained = Explained::load(root)?;
    let survivors = explained.judge(ledger.names(Fate::Missed));
    for name in explained.idle(&survivors) {
        say(&format!("mutants: {name} does not survive; take it out of {}", explained::FILE));
    }
    if record {
        let tool = read(program("cargo", ["mutants", "--version"], root))?;
        let date = read(program("date", ["-u", "+%Y-%m-%d"], root))?;
        let modules = MODULES.join(", ");
        let run = page::Run { suite: &lab.suite, date: date.trim(), tool: tool.trim(), modules: &modules };
        page::write(root, &run, &ledger, &survivors)?;
        say(&format!("mutants: recorded in {}", page::FILE));
    }
    verdict(&ledger, &survivors)
}

/// Mutants in what changed, as many as a check in between has time for.
fn changed(root: &Path, named: Option<&str>) -> Result<()> {
    let base = Base::find(root, named)?;
    let diff = base.diff(root, &paths())?;
    if diff.as_deref().is_some_and(str::is_empty) {
        let Base::Commit(commit) = base else { unreachable!("only a commit has a diff") };
        say(&format!("mutants: nothing changed in {} since {commit}: nothing to do", MODULES.join(", ")));
        return Ok(());
    }
    let lab = Lab::open(root, "diff", true)?;
    let mut selection = Selection::default();
    if let Some(text) = diff {
        let file = lab.results.join("changed.diff");
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        selection.diff = Some(file);
    }
    let found = lab.list(&selection)?.len();
    if found == 0 {
        say("mutants: what changed in the modules has no mutants: nothing to do");
        return Ok(());
    }
    let share = Share::of(found, &lab.suite.commit);
    if share.of > 1 {
        let (part, of) = (share.part + 1, share.of);
        say(&format!("mutants: {found} in what changed are too many here: part {part} of {of} is looked at"));
        selection.share = Some(share);
    } else {
        say(&format!("mutants: {found} in what changed"));
    }
    lab.test(&selection, false)?;
    let mut ledger = Ledger::default();
    ledger.take(&lab.lists(), &lab.suite)?;
    let explained = Explained::load(root)?;
    verdict(&ledger, &explained.judge(ledger.names(Fate::Missed)))
}

/// Says what came out; fails when a survivor is not explained.
fn verdict(ledger: &Ledger, survivors: &[Survivor<'_>]) -> Result<()> {
    let [caught, missed, timeout, unviable] = Fate::ALL.map(|fate| ledger.count(fate));
    say(&format!("mutants: {caught} caught, {timeout} timeouts, {unviable} unviable, {missed} survived"));
    let unexplained: Vec<&str> =
        survivors.iter().filter(|one| one.why.is_none()).map(|one| one.name).collect();
    for name in &unexplained {
        say(&format!("mutants: survived without an explanation: {name}"));
    }
    ensure!(
        unexplained.is_empty(),
        "{} mutants survive and nobody said why: write a test that notices them, or explain them in {}",
        unexplained.len(),
        explained::FILE
    );
    Ok(())
}

impl Lab {
    fn open(root: &Path, name: &str, fresh: bool) -> Result<Self> {
        note_uncommitted(root)?;
        let outputs = target_directory().unwrap_or_else(|| root.join("target"));
        let results = root.join(outputs).join("mutants").join(name);
        if fresh && results.exists() {
            std::fs::remove_dir_all(&results).with_context(|| format!("remove {}", results.display()))?;
        }
        std::fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;
        let suite = Suite { tree: git(root, &format!("HEAD:crates/{PACKAGE}"))?, commit: git(root, "HEAD")? };
        Ok(Self { clone: CleanCheckout::make(root)?, results, suite })
    }

    /// Where the tool writes its lists.
    fn lists(&self) -> PathBuf {
        self.results.join("mutants.out")
    }

    fn tool(&self, selection: &Selection) -> Command {
        let mut command = program("cargo", ["mutants", "--package", PACKAGE], &self.clone.checkout());
        for module in MODULES {
            command.args(["-f", &format!("crates/{PACKAGE}/src/{module}.rs")]);
            command.args(["-f", &format!("crates/{PACKAGE}/src/{module}/**")]);
        }
        if let Some(diff) = &selection.diff {
            command.arg("--in-diff").arg(diff);
        }
        if let Some(Share { part, of }) = selection.share {
            command.args(["--sharding", "round-robin", "--shard", &format!("{part}/{of}")]);
        }
        command
    }

    fn list(&self, selection: &Selection) -> Result<Vec<String>> {
        let mut command = self.tool(selection);
        command.arg("--list");
        let listed = read(command)?;
        Ok(listed.lines().filter(|line| line.starts_with("crates/")).map(str::to_owned).collect())
    }

    /// Tests them. Two at a time take less time than one with two processors: compiling one crate is mostly serial.
    fn test(&self, selection: &Selection, resume: bool) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = self.tool(selection);
        command.args(["-vV", "--cap-lints", "true", "--jobs", &jobs.to_string()]);
        command.arg("--output").arg(&self.results);
        if resume {
            command.arg("--iterate");
        }
        for target in self.test_targets()? {
            command.arg(format!("-C={target}"));
        }
        // Each of the copies that are mutated has its own target directory.
        command.env_remove("CARGO_TARGET_DIR").env("PROPTEST_CASES", CASES);
        command.env("CARGO_INCREMENTAL", "1");
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_TEST_DEBUG", "0");
        let shown = format!("{command:?}");
        let status = command.status().with_context(|| format!("start {shown}"))?;
        match status.code() {
            Some(code) if RAN.contains(&code) => Ok(()),
            Some(4) => {
                bail!("the tests of {PACKAGE} fail without any mutant; see {}", self.lists().display())
            }
            _ => bail!("{shown} ended with {status}"),
        }
    }

    /// The test programs of the package, as arguments for cargo.
    fn test_targets(&self) -> Result<Vec<String>> {
        let folder = self.clone.checkout().join("crates").join(PACKAGE).join("tests");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            names.extend(test_target(&entry?.path()));
        }
        names.sort();
        Ok(std::iter::once("--lib".to_owned())
            .chain(names.iter().map(|name| format!("--test={name}")))
            .collect())
    }
}

/// The name of the test program that lies at `path`, if it is one that judges mutants.
fn test_target(path: &Path) -> Option<String> {
    let is_program = path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
    let name = path.file_stem()?.to_str()?;
    (is_program && !LEFT_OUT.contains(&name)).then(|| name.to_owned())
}

/// The modules as paths of the checkout; one that is not there matches nothing.
fn paths() -> Vec<String> {
    let places = |module: &str| {
        [format!("crates/{PACKAGE}/src/{module}.rs"), format!("crates/{PACKAGE}/src/{module}")]
    };
    MODULES.into_iter().flat_map(places).collect()
}

fn git(root: &Path, revision: &str) -> Result<String> {
    Ok(read(program("git", ["rev-parse", "--verify", revision], root))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Wish> {
        Wish::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn wishes_are_read() {
        let whole = |record, again| Wish::Whole { record, again };
        assert_eq!(parse(&[]).unwrap(), whole(false, false));
        assert_eq!(parse(&["--record"]).unwrap(), whole(true, false));
        assert_eq!(parse(&["--again", "--record"]).unwrap(), whole(true, true));
        assert_eq!(parse(&["--diff"]).unwrap(), Wish::Diff { base: None });
        assert_eq!(parse(&["--diff", "HEAD~3"]).unwrap(), Wish::Diff { base: Some("HEAD~3".into()) });
        for wrong in [&["HEAD"][..], &["--diff", "--record"], &["--diff", "a", "b"], &["--recrod"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_survivor_without_an_explanation_fails() {
        let survivor = |why| [Survivor { name: "a.rs:1:1: x", why }];
        assert!(verdict(&Ledger::default(), &survivor(Some("because"))).is_ok());
        let error = verdict(&Ledger::default(), &survivor(None)).unwrap_err().to_string();
        assert!(error.contains("1 mutants survive") && error.contains(explained::FILE), "{error}");
    }

    #[test]
    fn test_programs_are_found_and_slow_ones_left_out() {
        let folder = CleanCheckout::empty("targets").unwrap();
        for program in ["law", "seals"] {
            std::fs::create_dir(folder.base.join(program)).unwrap();
        }
        std::fs::write(folder.base.join("law/main.rs"), "").unwrap();
        let found = |name: &str| test_target(&folder.base.join(name));
        assert_eq!(found("law"), Some("law".into()));
        assert_eq!(found("grammar.rs"), Some("grammar".into()));
        for name in ["seals", "seals.rs", "notes.txt"] {
            assert_eq!(found(name), None, "{name}");
        }
    }
}
