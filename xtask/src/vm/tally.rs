//! What passed in a virtual machine, counted from its console.
//!
//! Invariant: a program of the plan that ran no test, or did not run, is found, whatever code the machine ended with: a
//! filter that matches nothing is no success.

use anyhow::{Result, ensure};

/// What precedes a program of the plan where the guest says that it begins, and that it ended. Something that a process
/// wrote without an end of line may stand before it.
const MARK: &str = "=== /";
/// What only the second of them has.
const ENDED: &str = ": code ";
/// What the test runner says of tests that all passed, before their number.
const TESTS: &str = "test result: ok. ";
/// How a program that is no test runner tells one case: in words, or as a line of JSON.
const CASES: [&str; 2] = ["ok: ", "{\"case\":"];

/// How much passed, for each program of the plan that has begun.
#[derive(Debug, Default)]
pub(super) struct Tally {
    programs: Vec<Ran>,
}

#[derive(Debug)]
struct Ran {
    /// The program and its user.
    name: String,
    passed: usize,
    has_ended: bool,
}

impl Tally {
    /// Hears one line of the console.
    pub(super) fn hear(&mut self, line: &str) {
        match line.split_once(MARK) {
            Some((_, told)) => match (told.split_once(ENDED), self.programs.last_mut()) {
                (Some((name, _)), Some(last)) if last.name == name => last.has_ended = true,
                (Some(_), _) => {}
                (None, _) => {
                    self.programs.push(Ran { name: told.to_owned(), passed: 0, has_ended: false });
                }
            },
            None => {
                if let Some(last) = self.programs.last_mut() {
                    last.passed += passed_in(line);
                }
            }
        }
    }

    /// What passed in all.
    pub(super) fn passed(&self) -> usize {
        self.programs.iter().map(|one| one.passed).sum()
    }

    /// Checks that each of so many programs of the plan ran, and that something of it passed.
    pub(super) fn check(&self, planned: usize) -> Result<()> {
        let ended = self.programs.iter().filter(|one| one.has_ended).count();
        ensure!(ended == planned, "{ended} programs of {planned} ran to their end in the virtual machine");
        let idle = self.programs.iter().find(|one| one.passed == 0).map(|one| &one.name);
        ensure!(idle.is_none(), "{} ran no test; does its filter match any?", idle.map_or("", |name| name));
        Ok(())
    }
}

fn passed_in(line: &str) -> usize {
    if let Some((_, result)) = line.split_once(TESTS) {
        return result.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
    }
    usize::from(CASES.iter().any(|case| line.starts_with(case)))
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn heard(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.hear(line));
        tally
    }

    const ONE: [&str; 4] = [
        "=== /programs/deps/calls as uid 0",
        "test one ... ok",
        "test result: ok. 11 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.0s",
        "=== /programs/deps/calls as uid 0: code 0 after 13 s",
    ];

    #[test]
    fn tests_and_cases_are_counted() {
        let tally = heard(&ONE);
        tally.check(1).unwrap();
        assert_eq!(tally.passed(), 11);
        let told = [
            "half a line=== /x as uid 0",
            "ok: a case",
            "{\"case\":\"y\"}",
            "=== /x as uid 0: code 0 after 1 s",
        ];
        let both = heard(&[ONE, told].concat());
        both.check(2).unwrap();
        assert_eq!(both.passed(), 13);
    }

    #[test]
    fn a_program_that_ran_no_test_is_found() {
        let none = ONE[2].replace("11 passed", "0 passed");
        let error = heard(&[ONE[0], &none, ONE[3]]).check(1).unwrap_err().to_string();
        assert!(error.contains("programs/deps/calls as uid 0 ran no test"), "{error}");
        let failed = ONE[2].replace("ok.", "FAILED.");
        assert!(heard(&[ONE[0], &failed, ONE[3]]).check(1).is_err());
        let silent = heard(&["=== /x as uid 0", "words", "=== /x as uid 0: code 0 after 1 s"]);
        assert!(silent.check(1).is_err());
    }

    #[test]
    fn a_program_that_did_not_run_or_did_not_end_is_found() {
        assert!(heard(&[]).check(1).is_err());
        assert!(heard(&ONE[..3]).check(1).is_err());
        assert!(heard(&ONE).check(2).is_err());
        heard(&[]).check(0).unwrap();
    }
}
