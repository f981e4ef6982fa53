//! `file_list` and `grep` over real directories.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use aaos_core::limits::{
    MAX_GREP_BYTES, MAX_GREP_LINE_BYTES, MAX_GREP_MATCHES, MAX_LIST_ENTRIES, MAX_WALK_DEPTH,
};
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{
    FileKind, FileListInput, FileListOutput, GrepInput, GrepOutput, ToolFailure, ToolFailureKind,
};
use aaos_core::wire::{Handed, Handle, JobOutput, WorkerJob};

use super::{Near, memfd, path};

fn list(root: &std::path::Path) -> FileListOutput {
    let input = FileListInput { path: path("/d") };
    let output = Near::start().run_tree(root, |target| WorkerJob::FileList { input, target });
    let Ok(JobOutput::FileList(output)) = output else { panic!("{output:?}") };
    output
}

fn input(pattern: &str, glob: Option<&str>) -> GrepInput {
    GrepInput {
        pattern: pattern.to_owned(),
        path: path("/d"),
        glob: glob.map(str::to_owned),
        case_insensitive: false,
    }
}

fn grep_with(root: &std::path::Path, input: GrepInput) -> Result<GrepOutput, ToolFailure> {
    match Near::start().run_tree(root, |target| WorkerJob::Grep { input, target })? {
        JobOutput::Grep(output) => Ok(output),
        other => panic!("not a grep: {other:?}"),
    }
}

fn grep(root: &std::path::Path, pattern: &str, glob: Option<&str>) -> GrepOutput {
    grep_with(root, input(pattern, glob)).expect("a search")
}

fn hits(output: &GrepOutput) -> Vec<String> {
    output.matches.iter().map(|hit| format!("{}:{}:{}", hit.path, hit.line, hit.text)).collect()
}

#[test]
fn a_listing_is_sorted_and_says_kinds_and_sizes() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::write(root.join("b.txt"), "1234").expect("written");
    fs::create_dir(root.join("a")).expect("made");
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).expect("linked");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"z\xff")), "").expect("written");
    let output = list(root);
    let seen: Vec<_> = output.entries.iter().map(|e| (e.name.as_str(), e.kind, e.size_bytes)).collect();
    let expected = [
        ("a", FileKind::Directory, Bytes(0)),
        ("b.txt", FileKind::File, Bytes(4)),
        ("link", FileKind::Symlink, Bytes(0)),
        ("z\u{fffd}", FileKind::File, Bytes(0)),
    ];
    assert_eq!(seen, expected);
    assert!(!output.truncated);
    assert_eq!(output.kind, FileKind::Directory);
}

#[test]
fn a_long_listing_is_cut_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    for number in 0..=MAX_LIST_ENTRIES {
        fs::write(dir.path().join(format!("{number:05}")), "").expect("written");
    }
    let output = list(dir.path());
    assert_eq!(output.entries.len(), MAX_LIST_ENTRIES);
    assert_eq!(output.entries[0].name, "00000");
    assert!(output.truncated);
    fs::remove_file(dir.path().join("00000")).expect("removed");
    assert!(!list(dir.path()).truncated);
}

#[test]
fn listing_a_file_describes_it() {
    use std::os::fd::AsFd;
    let file = memfd(b"123");
    let input = FileListInput { path: path("/d/f.txt") };
    let target = Handed::File { handle: Handle(0), size: Bytes(3) };
    let output = Near::start().run(WorkerJob::FileList { input, target }, &[file.as_fd()]);
    let Ok(JobOutput::FileList(output)) = output else { panic!("{output:?}") };
    assert_eq!((output.kind, output.entries[0].name.as_str()), (FileKind::File, "f.txt"));
    assert_eq!(output.entries[0].size_bytes, Bytes(3));
}

#[test]
fn matches_come_in_path_order_with_line_numbers() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::create_dir_all(root.join("a/deep")).expect("made");
    for (name, text) in [
        ("a.txt", "needle\n"),
        ("a/x.md", "no\na needle\n"),
        ("a/deep/y.txt", "needle"),
        ("b.txt", "Needle\nneedle one\nneedle two"),
        ("a-b", "needle"),
    ] {
        fs::write(root.join(name), text).expect("written");
    }
    let output = grep(root, "needle", None);
    assert_eq!(
        hits(&output),
        [
            "/d/a-b:1:needle",
            "/d/a.txt:1:needle",
            "/d/a/deep/y.txt:1:needle",
            "/d/a/x.md:2:a needle",
            "/d/b.txt:2:needle one",
            "/d/b.txt:3:needle two"
        ]
    );
    let mut sorted = hits(&output);
    sorted.sort();
    assert_eq!(hits(&output), sorted);
    assert_eq!((output.files_searched, output.truncated), (5, false));
    assert_eq!(hits(&grep(root, "^a needle$", Some("**/*.md"))), ["/d/a/x.md:2:a needle"]);
    assert_eq!(hits(&grep(root, "needle", Some("*.txt"))).len(), 3, "'*' stays within one directory");
    let loose = GrepInput { case_insensitive: true, ..input("NEEDLE", Some("b.txt")) };
    assert_eq!(grep_with(root, loose).expect("a search").matches.len(), 3);
}

#[test]
fn binary_files_and_links_are_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::write(root.join("binary"), b"needle\0").expect("written");
    fs::write(root.join("latin1"), b"needle \xe9").expect("written");
    fs::create_dir(root.join("d")).expect("made");
    std::os::unix::fs::symlink(root, root.join("d/loop")).expect("linked");
    let output = grep(root, "needle", None);
    assert_eq!((output.matches.len(), output.files_searched), (0, 0));
    fs::write(root.join("text"), b"needle").expect("written");
    assert_eq!(hits(&grep(root, "needle", None)), ["/d/text:1:needle"]);
}

#[test]
fn matches_bytes_and_lines_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("many"), "x\n".repeat(MAX_GREP_MATCHES + 1)).expect("written");
    let output = grep(dir.path(), "x", None);
    assert_eq!((output.matches.len(), output.truncated), (MAX_GREP_MATCHES, true));
    fs::write(dir.path().join("many"), "x\n".repeat(MAX_GREP_MATCHES)).expect("written");
    assert!(!grep(dir.path(), "x", None).truncated);
    let long = "é".repeat(10_000);
    fs::write(dir.path().join("many"), format!("{long}\n").repeat(100)).expect("written");
    let output = grep(dir.path(), "é", None);
    let bytes: usize = output.matches.iter().map(|hit| hit.text.len() + hit.path.len()).sum();
    assert!(output.truncated && bytes <= MAX_GREP_BYTES, "{bytes}");
    assert!(output.matches.iter().all(|hit| hit.text.len() <= MAX_GREP_LINE_BYTES + '…'.len_utf8()));
}

#[test]
fn a_deep_tree_is_cut_at_its_depth_and_directories_are_given_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut deep = dir.path().to_owned();
    for level in 0..MAX_WALK_DEPTH + 3 {
        fs::write(deep.join("f"), "needle").expect("written");
        for side in 0..5 {
            fs::create_dir(deep.join(format!("side{level}-{side}"))).expect("made");
        }
        deep.push("d");
        fs::create_dir(&deep).expect("made");
    }
    let mut near = Near::start();
    let output = near.run_tree(dir.path(), |target| WorkerJob::Grep { input: input("needle", None), target });
    let Ok(JobOutput::Grep(output)) = output else { panic!("{output:?}") };
    assert!(output.truncated);
    assert_eq!(output.matches.len(), MAX_WALK_DEPTH);
    assert!(near.most_open <= MAX_WALK_DEPTH + 2, "{}", near.most_open);
}

#[test]
fn patterns_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    for pattern in ["(", "(?=x)", "((((a{100}){100}){100}){100})", &"x".repeat(5000)] {
        let failure = grep_with(dir.path(), input(pattern, None)).expect_err("refused");
        assert_eq!(failure.kind, ToolFailureKind::InvalidArguments);
    }
    let failure = grep_with(dir.path(), input("x", Some("["))).expect_err("refused");
    assert_eq!(failure.kind, ToolFailureKind::InvalidArguments);
}

#[test]
fn a_pattern_that_backtracks_elsewhere_is_linear_here() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("f"), "a".repeat(200_000)).expect("written");
    assert!(grep(dir.path(), "(a*)*b", None).matches.is_empty());
}
