//! The tool `cargo`: which calls of cargo are made, and in which environment.
//!
//! Invariants: what is built is never executed where it can be changed: a sandbox that writes a target directory executes
//! nothing in it, and a test is executed where everything is read-only. No option names another configuration, another
//! directory or another program.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{self, MAX_CARGO_REPORT_BYTES, MAX_CARGO_TESTS, MAX_COMMAND_TEXT_BYTES};
use crate::path::AbsPath;
use crate::toolio::{CommandRunInput, CommandRunOutput, ToolFailure, ToolFailureKind};

/// What cargo is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum CargoSubcommand {
    /// Find errors.
    Check,
    /// Find errors and what clippy advises against.
    Clippy,
    /// Say which files are not formatted, or format them.
    Fmt,
    /// Build the tests and run them; not those in documentation.
    Test,
}

impl CargoSubcommand {
    const fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Clippy => "clippy",
            Self::Fmt => "fmt",
            Self::Test => "test",
        }
    }

    /// Options that are taken; each may have a value, in the same argument or in the next.
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Fmt => &["--all", "--package", "-p", "--quiet", "-q", "--verbose", "-v"],
            Self::Check | Self::Clippy | Self::Test => &BUILDING,
        }
    }
}

/// Options that choose what is built.
const BUILDING: [&str; 26] = [
    "--all-features",
    "--all-targets",
    "--benches",
    "--bin",
    "--bins",
    "--example",
    "--examples",
    "--exclude",
    "--features",
    "--frozen",
    "--keep-going",
    "--lib",
    "--locked",
    "--no-default-features",
    "--package",
    "--profile",
    "--quiet",
    "--release",
    "--test",
    "--tests",
    "--verbose",
    "--workspace",
    "-F",
    "-p",
    "-q",
    "-v",
];

/// Input of `cargo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CargoInput {
    /// What to do.
    pub subcommand: CargoSubcommand,
    /// Options that choose packages, targets and features, for example `--workspace`.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub args: Vec<String>,
    /// For test: what each test executable is called with, for example a part of a test's name.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub test_args: Vec<String>,
    /// The directory of the package or workspace.
    pub directory: AbsPath,
    /// Where to build: a directory that may be read and written. Test needs one; else a private one is used once.
    #[serde(default)]
    pub target_directory: Option<AbsPath>,
    /// For fmt: change the files.
    #[serde(default)]
    pub write: bool,
    /// How long each step may run, seconds (up to 600).
    #[serde(default = "cargo_seconds")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_seconds: u64,
}

const fn cargo_seconds() -> u64 {
    limits::CARGO_SECONDS
}

/// The toolchain that a call uses.
#[derive(Debug, Clone, Copy)]
pub struct Toolchain<'t> {
    /// cargo itself.
    pub cargo: &'t AbsPath,
    /// The compiler.
    pub rustc: &'t AbsPath,
}

impl CargoInput {
    /// What a schema cannot say.
    ///
    /// # Errors
    /// [`ToolFailure`] (invalid arguments).
    pub fn check(&self) -> Result<(), ToolFailure> {
        let invalid = |why: String| Err(ToolFailure::new(ToolFailureKind::InvalidArguments, why));
        let name = self.subcommand.name();
        if let Some(option) = self.args.iter().find(|arg| !self.is_taken(arg)) {
            let known = self.subcommand.options().join(", ");
            return invalid(format!("cargo {name} takes no {option:?} here; it takes {known}"));
        }
        let is_test = self.subcommand == CargoSubcommand::Test;
        if is_test && self.target_directory.is_none() {
            return invalid(
                "cargo test needs target_directory: a directory that may be read and written, in which the tests are \
                 built and from which they are then executed"
                    .to_owned(),
            );
        }
        if !is_test && !self.test_args.is_empty() {
            return invalid(format!("test_args are for test alone, not for {name}"));
        }
        if self.write && self.subcommand != CargoSubcommand::Fmt {
            return invalid(format!("write is for fmt alone, not for {name}"));
        }
        let longest = format!("/{}", "x".repeat(limits::MAX_PATH_BYTES - 1));
        let longest = AbsPath::parse(&longest).unwrap_or_else(|error| unreachable!("a path: {error}"));
        self.command(&longest).check()?;
        CommandRunInput { args: self.test_args.clone(), ..self.command(&longest) }.check()
    }

    fn is_taken(&self, arg: &str) -> bool {
        let option = arg.split_once('=').map_or(arg, |(option, _)| option);
        !arg.starts_with('-') || self.subcommand.options().contains(&option)
    }

    /// The call of cargo itself.
    #[must_use]
    pub fn command(&self, cargo: &AbsPath) -> CommandRunInput {
        let mut args = vec![self.subcommand.name()];
        match self.subcommand {
            CargoSubcommand::Fmt if !self.write => args.push("--check"),
            CargoSubcommand::Fmt => {}
            CargoSubcommand::Check | CargoSubcommand::Clippy => args.push(MESSAGES),
            CargoSubcommand::Test => args.extend(["--no-run", MESSAGES]),
        }
        CommandRunInput {
            program: cargo.clone(),
            args: args.into_iter().map(str::to_owned).chain(self.args.iter().cloned()).collect(),
            stdin: None,
            directory: Some(self.directory.clone()),
            timeout_seconds: self.timeout_seconds,
        }
    }

    /// Directories that cargo has something to write into: `Cargo.lock`, what is formatted, and what is built. A grant to
    /// write that covers one of them holds as a whole; no other does.
    pub fn written(&self) -> impl Iterator<Item = &AbsPath> {
        self.target_directory.iter().chain([&self.directory])
    }

    /// Its environment: this toolchain, no network, and all that is built in the target directory.
    #[must_use]
    pub fn environment(&self, toolchain: Toolchain<'_>) -> Vec<String> {
        let Toolchain { cargo, rustc } = toolchain;
        let folder =
            |program: &AbsPath| program.split_last().map_or("/".to_owned(), |(above, _)| above.to_string());
        let target = self.target_directory.as_ref().map_or(PRIVATE_TARGET, AbsPath::as_str);
        let mut environment: Vec<String> = VARIABLES.iter().map(|one| (*one).to_owned()).collect();
        environment.push(format!("PATH={}:{}:/usr/local/bin:/usr/bin:/bin", folder(cargo), folder(rustc)));
        environment.push(format!("RUSTC={rustc}"));
        environment.push(format!("CARGO_TARGET_DIR={target}"));
        // What is built on the way, tests too, has a place of its own since cargo 1.91.
        environment.push(format!("CARGO_BUILD_BUILD_DIR={target}"));
        environment
    }

    /// Where the tests are built, for the subcommand that runs them.
    #[must_use]
    pub fn tests_in(&self) -> Option<&AbsPath> {
        self.target_directory.as_ref().filter(|_| self.subcommand == CargoSubcommand::Test)
    }

    /// The call of one test.
    #[must_use]
    pub fn test(&self, built: &BuiltTest) -> CommandRunInput {
        CommandRunInput {
            program: built.executable.clone(),
            args: self.test_args.clone(),
            stdin: None,
            directory: Some(built.package.clone()),
            timeout_seconds: self.timeout_seconds,
        }
    }
}

/// What is compiled is told as JSON on standard output, and what compilers say as text on standard error.
const MESSAGES: &str = "--message-format=json-render-diagnostics";
/// Where is built what nobody needs again: in the private /tmp.
const PRIVATE_TARGET: &str = "/tmp/target";
const VARIABLES: [&str; 9] = [
    "HOME=/tmp",
    "LC_ALL=C.UTF-8",
    "CARGO_HOME=/tmp/cargo",
    "CARGO_INCREMENTAL=0",
    "CARGO_NET_OFFLINE=true",
    "CARGO_TERM_COLOR=never",
    "CARGO_TERM_PROGRESS_WHEN=never",
    "RUSTC_WRAPPER=",
    "RUSTC_WORKSPACE_WRAPPER=",
];

/// What a call of cargo told, as a worker read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CargoTold {
    /// What its caller is told.
    pub output: CommandRunOutput,
    /// The tests that it built.
    pub tests: Vec<BuiltTest>,
}

impl CargoTold {
    /// From what cargo wrote, which is as hostile as the packages that it compiles. Tests are looked for where they were
    /// built, if the build succeeded.
    ///
    /// # Errors
    /// [`ToolFailure`] where aaOS's own law is why cargo failed, and for a list of tests that is incomplete or too long.
    pub fn read(
        output: CommandRunOutput,
        subcommand: CargoSubcommand,
        tests_in: Option<&AbsPath>,
    ) -> Result<Self, ToolFailure> {
        let target = tests_in.filter(|_| output.exit_code == 0);
        let tests = target.map_or(Ok(Vec::new()), |target| built_tests(&output, target))?;
        Ok(Self { output: told(output, subcommand)?, tests })
    }

    /// Whether a worker may have read that: whatever it says, nothing outside the target directory is a test.
    #[must_use]
    pub fn is_usable(&self, tests_in: Option<&AbsPath>) -> bool {
        let is_below = |test: &BuiltTest| tests_in.is_some_and(|target| test.is_below(target));
        let is_bounded = |text: &str| text.len() <= MAX_COMMAND_TEXT_BYTES;
        self.tests.len() <= MAX_CARGO_TESTS
            && self.tests.iter().all(is_below)
            && is_bounded(&self.output.stdout)
            && is_bounded(&self.output.stderr)
    }
}

/// A test that cargo built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltTest {
    /// Its executable, below the target directory.
    pub executable: AbsPath,
    /// The directory of its package.
    pub package: AbsPath,
    /// Its target's name.
    pub name: String,
}

impl BuiltTest {
    fn is_below(&self, target_directory: &AbsPath) -> bool {
        let below = self.executable.below(target_directory);
        below.is_some_and(|below| !below.is_empty()) && !self.executable.has_parent_component()
    }
}

/// A line of cargo's, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Message {
    executable: Option<AbsPath>,
    manifest_path: Option<AbsPath>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// The tests that a build says it has made. What compiles may have written of it, so nothing outside the target directory
/// counts.
///
/// # Errors
/// [`ToolFailure`] for a list that is incomplete or too long.
fn built_tests(built: &CommandRunOutput, target_directory: &AbsPath) -> Result<Vec<BuiltTest>, ToolFailure> {
    let tests: Vec<BuiltTest> = built.stdout.lines().filter_map(built_test).collect();
    if let Some(elsewhere) = tests.iter().find(|test| !test.is_below(target_directory)) {
        let why = format!(
            "cargo says that it built a test outside {target_directory}: {}; no test was started",
            elsewhere.executable
        );
        return Err(ToolFailure::new(ToolFailureKind::Denied, why));
    }
    if built.truncated || tests.len() > MAX_CARGO_TESTS {
        let why = format!(
            "there are more than {MAX_CARGO_TESTS} test executables, or the compiler said too much; choose packages \
             with --package, or targets with --lib and --test"
        );
        return Err(ToolFailure::new(ToolFailureKind::LimitReached, why));
    }
    Ok(tests)
}

fn built_test(line: &str) -> Option<BuiltTest> {
    let Message { executable, manifest_path, target, profile } = serde_json::from_str(line).ok()?;
    let (executable, (package, _)) = (executable?, manifest_path.as_ref()?.split_last()?);
    let test = BuiltTest { executable, package, name: target?.name };
    profile?.test.then_some(test)
}

/// What a call of cargo gives its caller.
///
/// # Errors
/// [`ToolFailure`] where aaOS's own law is why it failed.
fn told(output: CommandRunOutput, subcommand: CargoSubcommand) -> Result<CommandRunOutput, ToolFailure> {
    let said = &output.stderr;
    let why = match output.exit_code {
        0 => None,
        _ if said.contains("build-script-build` (never executed)") => Some("a package has a build script"),
        // Of a macro that cannot be loaded the compiler says that it is not there.
        _ if said.contains("error[E0463]") && output.stdout.contains(PROC_MACRO) => {
            Some("a package is a procedural macro")
        }
        _ if said.contains("rustup could not choose a version") => return Err(proxy()),
        _ => None,
    };
    match (why, subcommand) {
        (Some(why), _) => Err(ToolFailure::new(
            ToolFailureKind::Denied,
            format!(
                "{why}, which would be executed where it was just written; what may be changed is never executed in the \
                 same sandbox. cargo said: {}",
                said.trim_end()
            ),
        )),
        (None, CargoSubcommand::Fmt) => Ok(output),
        // What was built is of no use to the caller.
        (None, _) => Ok(CommandRunOutput { stdout: String::new(), ..output }),
    }
}

/// How cargo tells of a procedural macro that it has built.
const PROC_MACRO: &str = r#""kind":["proc-macro"]"#;

fn proxy() -> ToolFailure {
    ToolFailure::new(
        ToolFailureKind::WrongKind,
        "the granted cargo or rustc is rustup's proxy, which looks for a toolchain; grant the toolchain's own files \
         (`rustup which cargo`, `rustup which rustc`), and file_read of the toolchain",
    )
}

/// What tests did, one after the other.
#[derive(Debug, Default)]
pub struct TestReport {
    exit_code: i32,
    stdout: String,
    stderr: String,
    truncated: bool,
}

impl TestReport {
    /// Adds what one of them did.
    pub fn add(&mut self, test: &BuiltTest, output: &CommandRunOutput) {
        if self.exit_code == 0 {
            self.exit_code = output.exit_code;
        }
        let head = format!("{} ended with exit code {}\n", test.name, output.exit_code);
        let added = [(&mut self.stdout, head + &output.stdout), (&mut self.stderr, output.stderr.clone())];
        for (all, more) in added {
            let room = more.floor_char_boundary(MAX_CARGO_REPORT_BYTES - all.len());
            all.push_str(&more[..room]);
            self.truncated |= room < more.len();
            assert!(all.len() <= MAX_CARGO_REPORT_BYTES, "a report is bounded");
        }
        self.truncated |= output.truncated;
    }

    /// All of it; the exit code is that of the first that failed.
    #[must_use]
    pub fn finish(self) -> CommandRunOutput {
        let Self { exit_code, stdout, stderr, truncated } = self;
        CommandRunOutput { exit_code, stdout, stderr, truncated }
    }
}

#[cfg(test)]
mod tests;
