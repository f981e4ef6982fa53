//! The rules that one source file is held to.
//!
//! Invariants: every rule looks at code with comments and literals blanked, so text about a pattern is no use of it;
//! every rule has a control sample in its test that it must find.

use crate::source::{Source, matching, words};

/// Code lines of one function, signature included, blank and comment lines not counted.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of one file that are not tests.
const FILE_LINES_MAX: usize = 800;
/// Lines of one file.
const FILE_LINES_WITH_TESTS_MAX: usize = 1000;
/// The crates that may hold `unsafe`: what talks to the kernel about locking and launching.
const UNSAFE_CRATES: [&str; 2] = ["aaos-confine", "aaos-sandbox"];
/// Macros that mark unfinished work.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];
/// Lints that hide code without a caller.
const HIDDEN_LINTS: [&str; 1] = ["dead_code"];
/// Where alone the kernel uses tokio's timers.
const KERNEL_CLOCK: &str = "crates/aaos-runtime/src/clock.rs";
/// What puts a child behind single boundaries; only the tests' kit may come to it.
const WEAKER_CHILD: &str = "start_behind";
/// Where that may be named.
const WEAKER_CHILD_PLACES: [&str; 2] = ["aaos-confine", "testkit"];
/// Serde forms that make a wire format ambiguous.
const LOOSE_SERDE: [&str; 2] = ["untagged", "flatten"];

/// Everything that is wrong with a file, as `path:line: what`.
pub(crate) fn check(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    module_docs(source, &mut found);
    lengths(source, &mut found);
    words_and_their_neighbours(source, &mut found);
    found
}

fn report(found: &mut Vec<String>, source: &Source, line: usize, what: &str) {
    found.push(format!("{}:{}: {what}", source.path, line + 1));
}

fn module_docs(source: &Source, found: &mut Vec<String>) {
    // Files below a folder of `tests` are cases of a harness, such as compile-fail samples.
    let is_case = source.path.split_once("/tests/").is_some_and(|(_, inner)| inner.contains('/'));
    if !is_case && !source.text.starts_with("//!") {
        report(found, source, 0, "the file does not begin with `//!` and its purpose");
    }
}

fn lengths(source: &Source, found: &mut Vec<String>) {
    let all = source.test_lines.len();
    let plain = source.test_lines.iter().filter(|test| !**test).count();
    if plain > FILE_LINES_MAX {
        report(found, source, 0, &format!("{plain} lines without tests, {FILE_LINES_MAX} allowed"));
    }
    if all > FILE_LINES_WITH_TESTS_MAX {
        report(found, source, 0, &format!("{all} lines, {FILE_LINES_WITH_TESTS_MAX} allowed"));
    }
    let code = source.code_lines();
    for function in source.functions() {
        let lines = &code[function.first_line..=function.last_line];
        let length = lines.iter().filter(|line| !line.trim().is_empty()).count();
        if length > FUNCTION_LINES_MAX {
            let what = format!("{} has {length} lines, {FUNCTION_LINES_MAX} allowed", function.name);
            report(found, source, function.first_line, &what);
        }
    }
}

fn words_and_their_neighbours(source: &Source, found: &mut Vec<String>) {
    let code = &source.code;
    let all = words(code);
    for (index, (at, word)) in all.iter().enumerate() {
        let end = at + word.chars().count();
        let line = source.line_of(*at);
        let next = after(code, end);
        let previous = index.checked_sub(1).and_then(|index| all.get(index)).map_or("", |(_, word)| word);
        let what = match word.as_str() {
            "unsafe" if !UNSAFE_CRATES.contains(&source.crate_name()) => {
                Some("`unsafe` outside the crates that may hold it".to_owned())
            }
            name if next == '!' && UNFINISHED.contains(&name) => Some(format!("unfinished work: `{name}!`")),
            "ignore" if before(code, *at) == '[' => {
                Some("a test that is switched off by an attribute".to_owned())
            }
            "allow" | "expect" if next == '(' => hidden(code, end).map(|lint| format!("`{word}({lint})`")),
            "serde" if next == '(' => loose(code, end).map(|form| format!("serde's `{form}`")),
            "_" if previous == "let" && !source.is_test_line(line) && matches!(next, '=' | ':') => {
                Some("`let _` throws a value away; handle it or say why not".to_owned())
            }
            "sleep" if sleeps(source, line, previous) => {
                Some("a test that sleeps; wait for the event instead".to_owned())
            }
            "time" if previous == "tokio" && is_kernel(source, line) => {
                Some("the kernel waits for its own clock (`kernel.clock()`), not for tokio's".to_owned())
            }
            WEAKER_CHILD if !WEAKER_CHILD_PLACES.contains(&source.crate_name()) => {
                Some("a child behind single boundaries is for tests, by testkit's `Policy`".to_owned())
            }
            "manual" if previous == "Clock" && !source.is_test_line(line) => {
                Some("a clock that somebody moves is for tests".to_owned())
            }
            _ => None,
        };
        if let Some(what) = what {
            report(found, source, line, &what);
        }
    }
}

/// The first character after `at` that is not white space; a space at the end.
fn after(code: &[char], at: usize) -> char {
    code[at..].iter().copied().find(|c| !c.is_whitespace()).unwrap_or(' ')
}

/// The last character before `at` that is not white space; a space at the beginning.
fn before(code: &[char], at: usize) -> char {
    code[..at].iter().rev().copied().find(|c| !c.is_whitespace()).unwrap_or(' ')
}

/// The words inside the brackets that open behind `from`.
fn inside(code: &[char], from: usize) -> Vec<String> {
    let Some(open) = code[from..].iter().position(|c| !c.is_whitespace()).map(|skip| from + skip) else {
        return Vec::new();
    };
    let Some(close) = matching(code, open) else { return Vec::new() };
    words(&code[open..close]).into_iter().map(|(_, word)| word).collect()
}

fn hidden(code: &[char], from: usize) -> Option<String> {
    let names = inside(code, from);
    names.into_iter().find(|name| {
        // `unused`, `unused_variables`, and so on; `unused_crate_dependencies` too.
        HIDDEN_LINTS.contains(&name.as_str()) || name == "unused" || name.starts_with("unused_")
    })
}

fn loose(code: &[char], from: usize) -> Option<String> {
    inside(code, from).into_iter().find(|name| LOOSE_SERDE.contains(&name.as_str()))
}

/// `thread::sleep` or `time::sleep`, in a test or in what tests are made of. A benchmark lets the machine settle
/// between its rounds, where there is no event to wait for.
fn sleeps(source: &Source, line: usize, previous: &str) -> bool {
    let judged = source.is_test_line(line) && !source.is_bench();
    matches!(previous, "thread" | "time") && (judged || source.crate_name() == "testkit")
}

/// Whether the kernel itself lies here, and not its clock.
fn is_kernel(source: &Source, line: usize) -> bool {
    source.path.starts_with("crates/aaos-runtime/src/")
        && source.path != KERNEL_CLOCK
        && !source.is_test_line(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with `body` as a source file of `path`, beside its module documentation.
    fn wrong(path: &str, body: &str) -> Vec<String> {
        check(&Source::new(path, format!("//! Purpose.\n{body}\n")))
    }

    fn in_source(body: &str) -> usize {
        wrong("crates/aaos-core/src/a.rs", body).len()
    }

    fn in_test(body: &str) -> usize {
        wrong("crates/aaos-core/tests/a.rs", body).len()
    }

    #[test]
    fn clean_code_passes() {
        let body =
            "/// dbg! in prose.\npub fn f(x: Option<u8>) -> u8 { let _guard = x; [[1]].iter().flatten(); 1 }";
        assert_eq!(wrong("crates/aaos-core/src/a.rs", body), Vec::<String>::new());
    }

    #[test]
    fn a_child_behind_single_boundaries_is_for_the_testkit() {
        let body = "use aaos_confine::steps::{start_behind};\nfn f() { start_behind(&[], g); }";
        assert_eq!(in_source(body), 2);
        assert_eq!(wrong("crates/aaos-sandbox/src/a.rs", body).len(), 2);
        assert_eq!(wrong("crates/testkit/src/policy.rs", body), Vec::<String>::new());
    }

    #[test]
    fn files_say_what_they_are_for() {
        assert_eq!(check(&Source::new("crates/x/src/a.rs", "fn f() {}\n")).len(), 1);
        assert_eq!(check(&Source::new("crates/x/tests/a.rs", "fn f() {}\n")).len(), 1);
        assert_eq!(
            check(&Source::new("crates/x/tests/forge/a.rs", "fn f() {}\n")).len(),
            0,
            "a compile-fail case"
        );
    }

    #[test]
    fn long_functions_are_found_and_comments_are_free() {
        let function = |lines: usize, line: &str| format!("fn f() {{\n{}}}", line.repeat(lines));
        assert_eq!(in_source(&function(FUNCTION_LINES_MAX - 2, "g();\n")), 0);
        assert_eq!(in_source(&function(FUNCTION_LINES_MAX - 1, "g();\n")), 1);
        assert_eq!(in_source(&function(200, "// why\n")), 0);
    }

    #[test]
    fn long_files_are_found() {
        let lines = |count: usize| "const A: u8 = 1;\n".repeat(count);
        assert_eq!(in_source(&lines(FILE_LINES_MAX - 2)), 0);
        assert_eq!(in_source(&lines(FILE_LINES_MAX)), 1);
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}", lines(700), lines(200));
        assert_eq!(in_source(&tests), 0);
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}", lines(700), lines(300));
        assert_eq!(in_source(&tests), 1);
    }

    #[test]
    fn unfinished_work_is_found() {
        for name in UNFINISHED {
            assert_eq!(in_source(&format!("fn f() {{ {name}!{}; }}", "()")), 1, "{name}");
            assert_eq!(
                in_source(&format!("fn f() {{ let a = \"{name}!{}\"; }}", "()")),
                0,
                "{name} in a string"
            );
        }
    }

    #[test]
    fn switched_off_tests_and_hidden_lints_are_found() {
        assert_eq!(in_test(&format!("#[{}]\nfn f() {{}}", "ignore")), 1);
        assert_eq!(in_test(&format!("#[{} = \"slow\"]\nfn f() {{}}", "ignore")), 1);
        assert_eq!(in_source(&format!("#[allow({})]\nfn f() {{}}", "dead_code")), 1);
        assert_eq!(in_source(&format!("#![allow(clippy::x, {})]", "unused_variables")), 1);
        assert_eq!(in_source("#[allow(clippy::too_many_arguments)]\nfn f() { x.expect(unfinished); }"), 0);
    }

    #[test]
    fn discarded_values_are_found_outside_tests() {
        let discard = format!("fn f() {{ let {} g(); }}", "_ =");
        assert_eq!((in_source(&discard), in_test(&discard)), (1, 0));
        assert_eq!(in_source(&format!("fn f() {{ let {} u8 = g(); }}", "_:")), 1);
        assert_eq!(in_source("fn f() { let (_, a) = g(); match a { _ => {} } }"), 0);
    }

    #[test]
    fn sleeping_tests_are_found() {
        for path in ["std::thread", "tokio::time"] {
            let body = format!("fn f() {{ {path}::{}(x); }}", "sleep");
            assert_eq!((in_test(&body), in_source(&body)), (1, 0), "{path}");
            assert_eq!(wrong("crates/testkit/src/a.rs", &body).len(), 1, "{path} in the testkit");
            assert_eq!(wrong("xtask/benches/a.rs", &body), Vec::<String>::new(), "{path} in a benchmark");
        }
    }

    #[test]
    fn the_kernel_waits_for_its_own_clock_which_nobody_moves() {
        let body = "use tokio::time::Instant;";
        assert_eq!(wrong("crates/aaos-runtime/src/goals.rs", body).len(), 1);
        assert_eq!(wrong(KERNEL_CLOCK, body), Vec::<String>::new());
        assert_eq!(wrong("crates/aaos-runtime/tests/clock/support.rs", body), Vec::<String>::new());
        assert_eq!(in_source(body), 0, "other crates wait for other processes");
        let body = "fn f() { let (clock, hand) = Clock::manual(now); }";
        assert_eq!((in_source(body), in_test(body)), (1, 0));
        assert_eq!(wrong("crates/agentd/src/daemon.rs", body).len(), 1);
    }

    #[test]
    fn loose_serde_forms_are_found() {
        for form in LOOSE_SERDE {
            assert_eq!(in_source(&format!("#[serde(default, {form})]\nstruct A;")), 1, "{form}");
        }
    }

    #[test]
    fn unsafe_code_stays_in_its_rooms() {
        let body = "fn f() { unsafe { g() } }";
        assert_eq!(in_source(body), 1);
        assert_eq!(wrong("crates/aaos-confine/src/a.rs", body), Vec::<String>::new());
        assert_eq!(in_source("#![forbid(unsafe_code)]"), 0);
    }
}
