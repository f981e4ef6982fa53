//! cargo in its sandboxes: what it builds is executed where nothing can be changed, and nowhere else.
//!
//! Invariant: every refusal has its control, by the same toolchain outside.

use aaos_core::cargo::{BuiltTest, CargoInput, CargoTold, Toolchain};
use aaos_core::limits::MAX_TOOL_RESULT_BYTES;
use aaos_core::tool::ToolInput;
use aaos_core::world::World;
use serde_json::json;

use super::{
    CommandRunOutput, FileRight, Path, PermissionsExt, ProgramCall, Rig, ToolFailure, ToolFailureKind, abs,
    fs, text_of,
};
use crate::program::program_text;

/// The toolchain that builds these tests.
const CARGO: &str = env!("CARGO");

fn toolchain() -> (String, String) {
    let folder = Path::new(CARGO).parent().expect("a folder");
    let rustc = folder.join("rustc").display().to_string();
    (rustc, folder.parent().expect("a toolchain").display().to_string())
}

/// A package that its agent may change, a target directory, and in the package a place for marks.
struct Package {
    rig: Rig,
    path: String,
    target: String,
    marks: String,
}

const LIBRARY: &str = "/// One.\npub fn one() -> u32 {\n    1\n}\n";
const TESTS: &str = "#[test]\nfn it_is_one() {\n    assert_eq!(own::one(), WANTED);\n    let here = std::path::Path::new(env!(\"CARGO_MANIFEST_DIR\"));\n    println!(\"written: {}\", std::fs::write(here.join(\"left\"), \"x\").is_ok());\n    println!(\"private: {}\", std::fs::write(\"/tmp/left\", \"x\").is_ok());\n}\n";

impl Package {
    fn new() -> Self {
        let (rustc, home) = toolchain();
        let mut rig = Rig::new(&[CARGO, &rustc]);
        rig.grant_pattern(FileRight::Read, &format!("{home}/*"));
        let path = rig.grant(FileRight::Read, "package");
        rig.grant(FileRight::Write, "package");
        let target = rig.grant(FileRight::Read, "target");
        rig.grant(FileRight::Write, "target");
        // Where cargo's programs may write, so that one that is started leaves its mark.
        let marks = format!("{path}/marks");
        fs::create_dir(&marks).expect("made");
        let package = Self { rig, path, target, marks };
        package.write("Cargo.toml", &manifest("own", ""));
        package.write("src/lib.rs", LIBRARY);
        package
    }

    fn write(&self, name: &str, text: &str) {
        let path = Path::new(&self.path).join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn input(&self, subcommand: &str, more: &serde_json::Value) -> CargoInput {
        let mut asked = json!({ "subcommand": subcommand, "directory": self.path });
        for (key, value) in more.as_object().expect("fields") {
            asked[key] = value.clone();
        }
        let input: CargoInput = serde_json::from_value(asked).expect("an input");
        input.check().expect("it is taken");
        input
    }

    async fn built(&self, input: &CargoInput) -> CommandRunOutput {
        let (rustc, _) = toolchain();
        let (cargo, rustc) = (abs(CARGO), abs(&rustc));
        let call = ProgramCall::of_cargo(input, Toolchain { cargo: &cargo, rustc: &rustc }, &self.rig.world);
        self.rig.run_call(call).await.expect("it runs")
    }

    async fn cargo(
        &self,
        subcommand: &str,
        more: &serde_json::Value,
    ) -> Result<CommandRunOutput, ToolFailure> {
        let input = self.input(subcommand, more);
        CargoTold::read(self.built(&input).await, input.subcommand, None).map(|told| told.output)
    }

    /// cargo outside, with nothing but its toolchain.
    #[expect(clippy::disallowed_methods, reason = "the controls run outside")]
    fn outside(&self, args: &[&str]) -> String {
        let (rustc, home) = toolchain();
        let mut command = std::process::Command::new(CARGO);
        command.args(args).current_dir(&self.path).env_clear();
        command.env("PATH", format!("{home}/bin:/usr/bin:/bin")).env("RUSTC", rustc);
        command.env("CARGO_NET_OFFLINE", "true").env("CARGO_HOME", self.rig.at("cargo"));
        command.env("CARGO_TARGET_DIR", self.rig.at("outside"));
        text_of(&command.output().expect("the control runs"))
    }

    fn marks(&self) -> usize {
        fs::read_dir(&self.marks).expect("a folder").count()
    }
}

fn manifest(name: &str, more: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}\n[workspace]\n")
}

#[tokio::test]
async fn check_clippy_and_fmt_say_what_they_find() {
    let package = Package::new();
    for (subcommand, said) in [("check", "Finished"), ("clippy", "Finished"), ("fmt", "")] {
        let fine = package.cargo(subcommand, &json!({})).await.expect("it runs");
        assert!(fine.exit_code == 0 && fine.stderr.contains(said), "{subcommand}: {fine:?}");
    }
    package.write("src/lib.rs", "/// One.\npub fn one() -> u32 {\n  return 1;\n}\n");
    let lint = package.cargo("clippy", &json!({})).await.expect("it runs");
    assert!(lint.exit_code == 0 && lint.stderr.contains("needless_return"), "{lint:?}");
    let shape = package.cargo("fmt", &json!({})).await.expect("it runs");
    assert!(shape.exit_code == 1 && shape.stdout.contains("-  return 1;"), "{shape:?}");
    let file = format!("{}/src/lib.rs", package.path);
    assert!(fs::read_to_string(&file).expect("there").contains("\n  return"), "nothing was changed");
    let shaped = package.cargo("fmt", &json!({ "write": true })).await.expect("it runs");
    assert_eq!(shaped.exit_code, 0, "{shaped:?}");
    assert!(fs::read_to_string(&file).expect("there").contains("\n    return"), "it was asked to");
    package.write("src/lib.rs", "pub fn one() -> u32 { \"1\" }\n");
    let wrong = package.cargo("check", &json!({})).await.expect("it runs");
    assert!(wrong.exit_code == 101 && wrong.stderr.contains("error[E0308]"), "{wrong:?}");
    assert_eq!(wrong.stdout, "");
    package.rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn tests_are_built_below_the_target_directory_wherever_the_package_wants_them() {
    let package = Package::new();
    package.write("tests/law.rs", &TESTS.replace("WANTED", "1"));
    package.write(".cargo/config.toml", &format!("[build]\nbuild-dir = \"{}/elsewhere\"\n", package.path));
    let more = json!({ "target_directory": package.target, "args": ["--test", "law"] });
    let input = package.input("test", &more);
    let made = package.built(&input).await;
    let told = CargoTold::read(made, input.subcommand, input.tests_in()).expect("below it");
    assert_eq!(told.tests.len(), 1, "{told:?}");
    assert!(!Path::new(&package.path).join("elsewhere").exists());
}

#[tokio::test]
async fn tests_are_executed_where_nothing_can_be_changed_and_not_where_they_were_built() {
    let package = Package::new();
    for (wanted, exit_code) in [("1", 0), ("2", 101)] {
        package.write("tests/law.rs", &TESTS.replace("WANTED", wanted));
        let more = json!({ "target_directory": package.target, "args": ["--test", "law"], "test_args": ["--nocapture"] });
        let input = package.input("test", &more);
        let made = package.built(&input).await;
        let told = CargoTold::read(made, input.subcommand, input.tests_in()).expect("few tests");
        let tests = &told.tests;
        assert_eq!(tests.len(), 1, "{told:?}");
        // Nothing that runs where it could be changed can start it.
        let beside = super::input("/bin/sh", &["-c", tests[0].executable.as_str()]);
        let refused = package.rig.run(beside).await.expect("the shell runs");
        assert!(refused.exit_code == 126 && refused.stderr.contains("Permission denied"), "{refused:?}");
        let call = ProgramCall::of_test(&input, &tests[0], &package.rig.world);
        let said = package.rig.run_call(call).await.expect("it runs");
        assert_eq!(said.exit_code, exit_code, "{said:?}");
        if exit_code == 0 {
            assert!(
                said.stdout.contains("written: false") && said.stdout.contains("private: true"),
                "{said:?}"
            );
            let free = package.outside(&["test", "--test", "law", "--", "--nocapture"]);
            assert!(free.contains("written: true"), "the control: {free}");
            fs::remove_file(format!("{}/left", package.path)).expect("removed");
        }
    }
    assert!(!Path::new(&format!("{}/left", package.path)).exists());
    package.rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn build_scripts_and_procedural_macros_are_refused_in_words() {
    let package = Package::new();
    package.write(
        "build.rs",
        &format!("fn main() {{ std::fs::write(\"{}/script\", \"x\").unwrap(); }}\n", package.marks),
    );
    let refused = package.cargo("check", &json!({})).await.expect_err("a build script");
    assert!(
        refused.kind == ToolFailureKind::Denied && refused.message.contains("build script"),
        "{refused:?}"
    );
    assert_eq!(package.marks(), 0);
    let free = package.outside(&["check"]);
    assert_eq!(package.marks(), 1, "the control: {free}");
    fs::remove_file(format!("{}/build.rs", package.path)).expect("removed");
    let member = "[package]\nname = \"own-macro\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n";
    package.write("own-macro/Cargo.toml", member);
    let body = "use proc_macro::TokenStream;\n#[proc_macro]\npub fn nothing(_: TokenStream) -> TokenStream {\n    TokenStream::new()\n}\n";
    package.write("own-macro/src/lib.rs", body);
    package.write("Cargo.toml", &manifest("own", "[dependencies]\nown-macro = { path = \"own-macro\" }\n"));
    package.write("src/lib.rs", "own_macro::nothing!();\n");
    let refused =
        package.cargo("check", &json!({ "target_directory": package.target })).await.expect_err("a macro");
    assert!(
        refused.kind == ToolFailureKind::Denied && refused.message.contains("procedural macro"),
        "{refused:?}"
    );
    let free = package.outside(&["check"]);
    assert!(free.contains("Finished"), "the control: {free}");
    package.rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_hostile_configuration_starts_no_file_that_may_be_changed() {
    let package = Package::new();
    let evil = format!("{}/evil", package.path);
    fs::write(&evil, format!("#!/bin/sh\n: > {}/$$\nexec \"$@\"\n", package.marks)).expect("written");
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).expect("set");
    package.write("src/main.rs", "fn main() {}\n");
    package.write("tests/law.rs", "#[test]\nfn law() {}\n");
    let config = |text: &str| package.write(".cargo/config.toml", text);
    let triple = "x86_64-unknown-linux-gnu";
    for (text, subcommand, outside) in [
        (format!("[build]\nrustc-wrapper = \"{evil}\"\n"), "check", &["check"][..]),
        (format!("[build]\nrustc-workspace-wrapper = \"{evil}\"\n"), "check", &["check"]),
        (
            format!(
                "[env]\nRUSTC_WRAPPER = {{ value = \"{evil}\", force = true }}\n[build]\nrustc-wrapper = \"{evil}\"\n"
            ),
            "check",
            &["check"],
        ),
        (format!("[target.{triple}]\nlinker = \"{evil}\"\n"), "test", &["test", "--no-run"]),
        (format!("[target.{triple}]\nrunner = \"{evil}\"\n"), "test", &["test"]),
        (
            format!("[target.{triple}]\nrunner = \"{evil}\"\n[alias]\nclippy = \"run\"\n"),
            "clippy",
            &["clippy"],
        ),
    ] {
        config(&text);
        let target = json!({ "target_directory": package.target });
        let said = package.cargo(subcommand, &target).await;
        assert_eq!(package.marks(), 0, "{text}: {said:?}");
        let free = package.outside(outside);
        assert!(package.marks() > 0, "the control, {text}: {free}");
        for mark in fs::read_dir(&package.marks).expect("a folder") {
            fs::remove_file(mark.expect("an entry").path()).expect("removed");
        }
        fs::remove_dir_all(package.rig.at("outside")).expect("removed");
    }
    package.rig.sandbox.shutdown().await;
}

#[test]
fn cargo_and_what_it_builds_have_no_network() {
    let world = World { network: true, ..World::default() };
    let asked =
        json!({ "subcommand": "test", "directory": "/srv/package", "target_directory": "/srv/target" });
    let input: CargoInput = serde_json::from_value(asked).expect("an input");
    let toolchain = Toolchain { cargo: &abs("/t/cargo"), rustc: &abs("/t/rustc") };
    assert!(!ProgramCall::of_cargo(&input, toolchain, &world).world.network);
    let test =
        BuiltTest { executable: abs("/srv/target/t"), package: abs("/srv/package"), name: "t".to_owned() };
    assert!(!ProgramCall::of_test(&input, &test, &world).world.network);
}

#[test]
fn a_result_that_is_longer_than_its_tool_may_answer_is_refused() {
    let asked =
        json!({ "subcommand": "check", "directory": "/srv/package", "target_directory": "/srv/target" });
    let input = ToolInput::Cargo(serde_json::from_value(asked).expect("an input"));
    let told = |bytes: usize| {
        let stdout = "x".repeat(bytes);
        program_text(
            &input,
            &CommandRunOutput { exit_code: 0, stdout, stderr: String::new(), truncated: false },
        )
    };
    let failure = told(MAX_TOOL_RESULT_BYTES).expect_err("the rest of it takes room as well");
    assert_eq!(failure.kind, ToolFailureKind::TooLarge, "{failure:?}");
    assert!(told(MAX_TOOL_RESULT_BYTES - 128).is_ok(), "the control");
}
