//! The table of lessons names tests that exist, and every row has a test or says who will build it.

use std::path::{Path, PathBuf};

/// Rows of the table: one for each lesson.
const LESSONS: usize = 37;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Every Rust source below a directory, with its text.
fn sources(root: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).expect("lists") {
            let path = entry.expect("reads").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("reads");
                found.push((path, text));
            }
        }
    }
    found
}

/// Names of the form `crate::file::test` in a row.
fn tests_named(row: &str) -> Vec<&str> {
    row.split('`').skip(1).step_by(2).filter(|quoted| quoted.matches("::").count() >= 2).collect()
}

/// Whether a test `crate::file::test` stands in that crate, in that file or a directory of that name.
fn exists(name: &str, sources: &[(PathBuf, String)]) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [package, file, test] = parts[..] else { return false };
    let folder = format!("/crates/{package}/");
    sources.iter().any(|(path, text)| {
        let path = path.to_string_lossy();
        let is_there = path.contains(&folder)
            && (path.ends_with(&format!("/{file}.rs")) || path.contains(&format!("/{file}/")));
        is_there && is_a_test(text, test)
    })
}

/// Whether `text` defines this function under an attribute that makes it a test.
fn is_a_test(text: &str, test: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let opening = format!("fn {test}(");
    lines.iter().enumerate().any(|(at, line)| {
        let above = lines[..at].iter().rev().take(6).take_while(|line| !line.is_empty() && **line != "}");
        line.contains(&opening)
            && above.into_iter().any(|line| line.starts_with("#[") && line.contains("test"))
    })
}

fn rows() -> Vec<String> {
    let page = std::fs::read_to_string(repository().join("docs/lessons.md")).expect("reads the page");
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| what went wrong");
    page.lines().filter(is_row).map(str::to_owned).collect()
}

#[test]
fn every_named_test_exists() {
    let sources = sources(&repository().join("crates"));
    let rows = rows();
    let names: Vec<&str> = rows.iter().flat_map(|row| tests_named(row)).collect();
    assert!(names.len() > 2 * LESSONS, "the page names tests: {}", names.len());
    let missing: Vec<&&str> = names.iter().filter(|name| !exists(name, &sources)).collect();
    assert!(missing.is_empty(), "docs/lessons.md names tests that are not there: {missing:#?}");
    assert!(!exists("agentd::lessons::no_such_test", &sources), "control: what is not there is not found");
    assert!(!exists("agentd::lessons::rows", &sources), "control: a function that is no test is not found");
    assert!(exists("agentd::lessons::every_named_test_exists", &sources));
}

#[test]
fn every_lesson_has_a_test_or_an_issue() {
    let rows = rows();
    assert_eq!(rows.len(), LESSONS, "one row for each lesson");
    for row in rows {
        let is_told = row.contains("not built yet (issue ");
        assert!(is_told || !tests_named(&row).is_empty(), "neither test nor issue: {row}");
    }
}
