//! Which calls of cargo are taken, and what is believed of what they say.

use serde_json::json;

use super::{BuiltTest, CargoInput, CargoSubcommand, CargoTold, TestReport, Toolchain, built_tests, told};
use crate::effect::{FileRight, Need};
use crate::known::KnownProgram;
use crate::limits::{CARGO_SECONDS, MAX_CARGO_REPORT_BYTES, MAX_CARGO_TESTS, MAX_COMMAND_TEXT_BYTES};
use crate::path::AbsPath;
use crate::tool::{ToolCall, ToolInput, find};
use crate::toolio::{CommandRunOutput, ToolFailureKind};

fn abs(path: &str) -> AbsPath {
    AbsPath::parse(path).expect("a path")
}

fn input(subcommand: CargoSubcommand, args: &[&str]) -> CargoInput {
    let is_test = subcommand == CargoSubcommand::Test;
    CargoInput {
        subcommand,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        test_args: Vec::new(),
        directory: abs("/srv/package"),
        target_directory: is_test.then(|| abs("/srv/target")),
        write: false,
        timeout_seconds: CARGO_SECONDS,
    }
}

fn output(exit_code: i32, stdout: &str, stderr: &str) -> CommandRunOutput {
    CommandRunOutput { exit_code, stdout: stdout.to_owned(), stderr: stderr.to_owned(), truncated: false }
}

#[test]
fn options_choose_what_is_built_and_nothing_else() {
    use CargoSubcommand::{Check, Clippy, Fmt, Test};
    for (subcommand, args) in [
        (Check, &["--workspace", "--all-targets", "--features=a,b", "-p", "one"][..]),
        (Clippy, &["--lib"]),
        (Test, &["--test", "law", "--release"]),
        (Fmt, &["--all"]),
    ] {
        assert_eq!(input(subcommand, args).check(), Ok(()), "{subcommand:?} {args:?}");
    }
    for (subcommand, arg) in [
        (Check, "--config=build.rustc-wrapper='x'"),
        (Check, "--manifest-path=/x/Cargo.toml"),
        (Check, "--target-dir=/x"),
        (Check, "--target=x.json"),
        (Check, "-Zunstable-options"),
        (Check, "--fix"),
        (Clippy, "--fix"),
        (Clippy, "--"),
        (Test, "--doc"),
        (Test, "-C"),
        (Fmt, "--"),
        (Fmt, "--release"),
        (Fmt, "--manifest-path"),
    ] {
        let refused = input(subcommand, &[arg]).check().expect_err(arg);
        assert_eq!(refused.kind, ToolFailureKind::InvalidArguments, "{subcommand:?} {arg}");
    }
}

#[test]
fn fields_belong_to_their_subcommands() {
    use CargoSubcommand::{Check, Fmt, Test};
    let homeless = CargoInput { target_directory: None, ..input(Test, &[]) };
    assert!(homeless.check().expect_err("nowhere to build").message.contains("target_directory"));
    let args = vec!["part".to_owned()];
    assert_eq!(CargoInput { test_args: args.clone(), ..input(Test, &[]) }.check(), Ok(()));
    assert!(CargoInput { test_args: args, ..input(Check, &[]) }.check().is_err());
    assert!(CargoInput { test_args: vec!["a\0".to_owned()], ..input(Test, &[]) }.check().is_err());
    assert_eq!(CargoInput { write: true, ..input(Fmt, &[]) }.check(), Ok(()));
    assert!(CargoInput { write: true, ..input(Check, &[]) }.check().is_err());
    assert_eq!(input(Test, &[]).tests_in(), Some(&abs("/srv/target")));
    let building = CargoInput { target_directory: Some(abs("/srv/target")), ..input(Check, &[]) };
    assert_eq!(building.tests_in(), None);
}

#[test]
fn a_call_needs_both_programs_and_what_it_reads_and_writes() {
    let needs = |input| ToolCall::new(ToolInput::Cargo(input)).expect("usable").needs().all.clone();
    let programs = [Need::Program(KnownProgram::Cargo), Need::Program(KnownProgram::Rustc)];
    let file = |right, path| Need::File { right, path: abs(path) };
    let read = file(FileRight::Read, "/srv/package");
    let check = needs(input(CargoSubcommand::Check, &[]));
    assert_eq!((&check[1..3], &check[3..]), (&programs[..], std::slice::from_ref(&read)));
    let write = CargoInput { write: true, ..input(CargoSubcommand::Fmt, &[]) };
    assert_eq!(needs(write)[3..], [read.clone(), file(FileRight::Write, "/srv/package")]);
    let built = [read, file(FileRight::Read, "/srv/target"), file(FileRight::Write, "/srv/target")];
    assert_eq!(needs(input(CargoSubcommand::Test, &[]))[3..], built);
}

#[test]
fn the_call_and_its_environment_are_those_of_the_toolchain() {
    let (cargo, rustc) = (abs("/t/bin/cargo"), abs("/u/bin/rustc"));
    let words = |input: &CargoInput| input.command(&cargo).args.join(" ");
    assert_eq!(words(&input(CargoSubcommand::Fmt, &["--all"])), "fmt --check --all");
    let write = CargoInput { write: true, ..input(CargoSubcommand::Fmt, &[]) };
    assert_eq!(words(&write), "fmt");
    let test = input(CargoSubcommand::Test, &["--lib"]);
    assert_eq!(words(&test), "test --no-run --message-format=json-render-diagnostics --lib");
    assert_eq!(words(&input(CargoSubcommand::Check, &[])), "check --message-format=json-render-diagnostics");
    let environment = test.environment(Toolchain { cargo: &cargo, rustc: &rustc });
    for one in [
        "PATH=/t/bin:/u/bin:/usr/local/bin:/usr/bin:/bin",
        "RUSTC=/u/bin/rustc",
        "CARGO_TARGET_DIR=/srv/target",
        "CARGO_NET_OFFLINE=true",
        "RUSTC_WRAPPER=",
    ] {
        assert!(environment.iter().any(|found| found == one), "{one}: {environment:?}");
    }
    let private = input(CargoSubcommand::Check, &[]).environment(Toolchain { cargo: &cargo, rustc: &rustc });
    assert!(private.iter().any(|one| one == "CARGO_TARGET_DIR=/tmp/target"), "{private:?}");
}

fn artifact(executable: &str, is_test: bool) -> String {
    let line = json!({
        "reason": "compiler-artifact", "manifest_path": "/srv/package/Cargo.toml", "target": { "name": "law" },
        "profile": { "test": is_test }, "executable": executable,
    });
    format!("{line}\n")
}

#[test]
fn only_tests_below_the_target_directory_count() {
    let target = abs("/srv/target");
    let said = [
        artifact("/srv/target/debug/deps/law-1", true),
        artifact("/srv/target/debug/program", false),
        artifact("/bin/sh", false),
        "{\"reason\":\"build-finished\",\"success\":true}\nno JSON\n".to_owned(),
    ];
    let built = built_tests(&output(0, &said.concat(), ""), &target).expect("few");
    assert_eq!(built.len(), 1, "{built:?}");
    assert_eq!(built[0].executable, abs("/srv/target/debug/deps/law-1"));
    assert_eq!((built[0].package.as_str(), built[0].name.as_str()), ("/srv/package", "law"));
    for elsewhere in ["/bin/sh", "/srv/target/../package/x", "/srv/target", "/srv/target-x/y"] {
        let said = [artifact("/srv/target/debug/deps/law-1", true), artifact(elsewhere, true)].concat();
        let refused = built_tests(&output(0, &said, ""), &target).expect_err(elsewhere);
        assert!(
            refused.kind == ToolFailureKind::Denied && refused.message.contains(elsewhere),
            "{refused:?}"
        );
    }
    let many = |count: usize| artifact("/srv/target/x", true).repeat(count);
    assert_eq!(
        built_tests(&output(0, &many(MAX_CARGO_TESTS), ""), &target).expect("few").len(),
        MAX_CARGO_TESTS
    );
    assert!(built_tests(&output(0, &many(MAX_CARGO_TESTS + 1), ""), &target).is_err());
    let cut = CommandRunOutput { truncated: true, ..output(0, "", "") };
    assert_eq!(built_tests(&cut, &target).expect_err("cut").kind, ToolFailureKind::LimitReached);
}

#[test]
fn whatever_a_worker_says_only_what_lies_below_the_target_directory_is_a_test() {
    let target = abs("/srv/target");
    let told = |executable: &str, count: usize, text: &str| CargoTold {
        output: output(0, text, ""),
        tests: vec![
            BuiltTest {
                executable: abs(executable),
                package: abs("/srv/package"),
                name: "law".to_owned()
            };
            count
        ],
    };
    let below = "/srv/target/debug/deps/law-1";
    assert!(told(below, MAX_CARGO_TESTS, "").is_usable(Some(&target)));
    assert!(!told(below, MAX_CARGO_TESTS + 1, "").is_usable(Some(&target)));
    for elsewhere in ["/bin/sh", "/srv/target", "/srv/target-x/y", "/srv/target/../package/x"] {
        assert!(!told(elsewhere, 1, "").is_usable(Some(&target)), "{elsewhere}");
    }
    assert!(!told(below, 1, "").is_usable(None), "nothing was to be built");
    assert!(told(below, 0, "").is_usable(None));
    let longest = "x".repeat(MAX_COMMAND_TEXT_BYTES);
    assert!(told(below, 0, &longest).is_usable(None) && !told(below, 0, &(longest + "x")).is_usable(None));
    let mut long = told(below, 0, "");
    long.output.stderr = "x".repeat(MAX_COMMAND_TEXT_BYTES + 1);
    assert!(!long.is_usable(None));
}

#[test]
fn tests_are_looked_for_where_a_build_succeeded() {
    let (target, said) = (abs("/srv/target"), artifact("/srv/target/x", true));
    let tests = |exit_code, tests_in| {
        CargoTold::read(output(exit_code, &said, ""), CargoSubcommand::Test, tests_in)
            .expect("told")
            .tests
            .len()
    };
    assert_eq!((tests(0, Some(&target)), tests(101, Some(&target)), tests(0, None)), (1, 0, 0));
}

#[test]
fn what_aaos_does_not_allow_is_told_as_such() {
    use CargoSubcommand::{Check, Fmt};
    let script = "could not execute process `/t/build-script-build` (never executed)";
    let refused = told(output(101, "", script), Check).expect_err("a build script");
    assert!(
        refused.kind == ToolFailureKind::Denied && refused.message.contains("build script"),
        "{refused:?}"
    );
    let made = r#"{"target":{"kind":["proc-macro"],"name":"m"}}"#;
    let refused = told(output(101, made, "error[E0463]: can't find crate for `m`"), Check);
    assert!(refused.expect_err("a macro").message.contains("procedural macro"));
    let proxy = told(output(1, "", "error: rustup could not choose a version of cargo to run"), Check);
    assert!(proxy.expect_err("a proxy").message.contains("rustup which"));
    for plain in
        [output(101, "", "error[E0463]: x"), output(101, made, "error[E0425]: x"), output(0, made, script)]
    {
        let said = told(plain.clone(), Check).expect("its own failure");
        assert_eq!(said, CommandRunOutput { stdout: String::new(), ..plain });
    }
    assert_eq!(told(output(1, "Diff in x", ""), Fmt), Ok(output(1, "Diff in x", "")));
}

#[test]
fn a_report_is_bounded_and_fails_with_the_first_that_fails() {
    let said = artifact("/srv/target/x", true);
    let test = built_tests(&output(0, &said, ""), &abs("/srv/target")).expect("one").remove(0);
    let mut report = TestReport::default();
    report.add(&test, &output(0, "one\n", ""));
    report.add(&test, &output(101, "two\n", "panicked\n"));
    report.add(&test, &output(7, "", ""));
    let done = report.finish();
    assert_eq!((done.exit_code, done.truncated), (101, false));
    let heads = [
        "law ended with exit code 0\none\n",
        "law ended with exit code 101\ntwo\n",
        "law ended with exit code 7\n",
    ];
    assert_eq!((done.stdout, done.stderr.as_str()), (heads.concat(), "panicked\n"));
    let mut long = TestReport::default();
    for _ in 0..3 {
        long.add(&test, &output(0, &"ä".repeat(MAX_CARGO_REPORT_BYTES / 4), ""));
    }
    let done = long.finish();
    assert!(done.truncated && done.stdout.len() <= MAX_CARGO_REPORT_BYTES);
    assert!(done.stdout.len() >= MAX_CARGO_REPORT_BYTES - 1, "as much as fits: {}", done.stdout.len());
}

#[test]
fn the_schema_has_the_defaults() {
    let tool = find("cargo").expect("it is there");
    let parsed =
        tool.parse_input(json!({ "subcommand": "check", "directory": "/srv/package" })).expect("defaults");
    assert_eq!(parsed, ToolInput::Cargo(input(CargoSubcommand::Check, &[])));
    assert!(tool.parse_input(json!({ "subcommand": "run", "directory": "/srv/package" })).is_err());
    assert_eq!(tool.input_schema()["properties"]["timeout_seconds"]["maximum"], 600);
}
