//! Programs in their sandboxes: what they see, what they cannot do, and that they end.
//!
//! Every refusal has its control: the same program, outside.

mod proxied;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aaos_core::confinement::{Boundary, ConfinementPolicy, Evidence};
use aaos_core::effect::FileRight;
use aaos_core::id::GrantId;
use aaos_core::limits::{COMMAND_OUTPUT_HALF_BYTES, MAX_PROGRAM_PROCESSES};
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::program::Executes;
use aaos_core::toolio::{CommandRunInput, CommandRunOutput, ToolFailure, ToolFailureKind};
use aaos_core::world::{SharedRoot, World};
use tempfile::TempDir;
use testkit::{PATIENCE, ProcessRef, descendants};
use uuid::Uuid;

use crate::config::SandboxConfig;
use crate::launch::Sandbox;
use crate::program::ProgramSandbox;
use crate::program_call::ProgramCall;
use crate::roots::RootTable;
use crate::worker::Worker;
use crate::zygote::ZygoteSeed;

mod cargo;
mod git;
mod spare;

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().and_then(Path::parent).expect("deps lies in a profile's folder");
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: build `-p aaos-tools --bins` and the examples", path.display());
    path
}

/// A sandbox, granted directories, and programs.
struct Rig {
    sandbox: Sandbox,
    /// Reads the first lines of programs.
    worker: tokio::sync::Mutex<Option<Worker>>,
    roots: RootTable,
    home: TempDir,
    world: World,
}

impl Rig {
    fn new(programs: &[&str]) -> Self {
        Self::with(programs, ConfinementPolicy::default())
    }

    fn with(programs: &[&str], config: impl Into<SandboxConfig>) -> Self {
        let seed = ZygoteSeed::start(&built("aaos-worker"), None).expect("a zygote");
        let sandbox = Sandbox::adopt(seed, config).expect("adopted");
        let home = testkit::scratch();
        fs::create_dir(home.path().join("own")).expect("made");
        let roots = RootTable::new(vec![home.path().join("own")], Vec::new());
        let programs = programs.iter().map(|path| abs(path)).collect();
        let world = World { programs, ..World::default() };
        Self { sandbox, worker: tokio::sync::Mutex::new(None), roots, home, world }
    }

    fn at(&self, name: &str) -> String {
        self.home.path().canonicalize().expect("there").join(name).display().to_string()
    }

    /// Grants a directory below the home, which is made, or the home itself.
    fn grant(&mut self, right: FileRight, name: &str) -> String {
        let directory = self.home.path().join(name);
        fs::create_dir_all(&directory).expect("made");
        let path = directory.canonicalize().expect("there").display().to_string();
        self.grant_pattern(right, &format!("{path}/*"));
        path
    }

    fn grant_pattern(&mut self, right: FileRight, pattern: &str) {
        let grant = GrantId::from_uuid(Uuid::from_u128(self.world.roots.len() as u128 + 1));
        let pattern = PathPattern::parse(pattern).expect("a pattern");
        let opened = self.roots.open_root(grant, &pattern, false).expect("a root");
        let spelled = Some(pattern).filter(|spelled| *spelled != opened.pattern);
        self.world.roots.push(SharedRoot { grant, right, pattern: opened.pattern, spelled });
    }

    fn call(&self, input: CommandRunInput) -> ProgramCall {
        let (environment, world) = (Vec::new(), self.world.clone());
        ProgramCall { input, environment, executes: Executes::Shown, world, is_granted: true }
    }

    async fn prepare(&self, input: CommandRunInput) -> Result<ProgramSandbox, ToolFailure> {
        self.prepare_call(self.call(input)).await
    }

    async fn prepare_call(&self, call: ProgramCall) -> Result<ProgramSandbox, ToolFailure> {
        let mut held = self.worker.lock().await;
        let worker = match held.take() {
            Some(worker) => worker,
            None => self.sandbox.launch_worker().await.expect("a worker"),
        };
        let (program, world) = (call.program().clone(), call.world().clone());
        let opening = held.insert(worker).open_program(&program, &world, &self.roots);
        self.sandbox.prepare_program(call, opening, &self.roots).await
    }

    async fn run(&self, input: CommandRunInput) -> Result<CommandRunOutput, ToolFailure> {
        self.run_call(self.call(input)).await
    }

    async fn run_call(&self, call: ProgramCall) -> Result<CommandRunOutput, ToolFailure> {
        let prepared = self.prepare_call(call).await?;
        prepared.run(std::future::pending()).await.result
    }

    /// Asserts that nothing of a program runs any more.
    async fn assert_idle(&self) {
        if let Some(worker) = self.worker.lock().await.take() {
            worker.stop().await;
        }
        assert!(descendants(self.sandbox.zygote_pid()).is_empty(), "nothing of it runs any more");
    }

    /// What a shell script prints in the sandbox; its errors stand behind.
    async fn shell(&self, script: &str) -> String {
        let output = self.run(input("/bin/sh", &["-c", script])).await.expect("it runs");
        format!("{}{}", output.stdout, output.stderr)
    }
}

fn abs(path: &str) -> AbsPath {
    AbsPath::parse(path).expect("an absolute path")
}

fn input(program: &str, args: &[&str]) -> CommandRunInput {
    CommandRunInput {
        program: abs(program),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        stdin: None,
        directory: None,
        timeout_seconds: 60,
    }
}

#[expect(clippy::disallowed_methods, reason = "the controls run outside")]
fn outside(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect("the control runs")
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn a_program_gets_its_arguments_and_input_and_no_environment() {
    let rig = Rig::new(&["/bin/echo", "/bin/cat", "/usr/bin/env", "/bin/sh"]);
    let said = rig.run(input("/bin/echo", &["$HOME", "a  b", "*", ""])).await.expect("it runs");
    assert_eq!((said.exit_code, said.stdout.as_str(), said.stderr.as_str()), (0, "$HOME a  b * \n", ""));
    let fed = CommandRunInput { stdin: Some("line\n".to_owned()), ..input("/bin/cat", &[]) };
    assert_eq!(rig.run(fed).await.expect("it runs").stdout, "line\n");
    assert_eq!(rig.run(input("/bin/cat", &[])).await.expect("its input is empty").stdout, "");
    assert_eq!(rig.run(input("/usr/bin/env", &[])).await.expect("it runs").stdout, "");
    assert!(!outside("/usr/bin/env", &[]).stdout.is_empty(), "the control");
    let ended = rig.run(input("/bin/sh", &["-c", "echo no >&2; exit 7"])).await.expect("it runs");
    assert_eq!((ended.exit_code, ended.stderr.as_str()), (7, "no\n"));
    let killed = rig.run(input("/bin/sh", &["-c", "kill -9 $$"])).await.expect("it runs");
    assert_eq!(killed.exit_code, 137);
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_sandbox_stands_behind_every_boundary() {
    let rig = Rig::new(&["/bin/true"]);
    let asked = input("/bin/true", &[]);
    let prepared = rig.prepare(asked).await.expect("a sandbox");
    let receipt = prepared.receipt().clone();
    let mut expected = rig.sandbox.abilities().await.expect("known").namespaces.boundaries();
    expected.extend(ConfinementPolicy::default().require);
    if rustix::process::geteuid().is_root() {
        expected.push(Boundary::OwnUid);
    }
    for boundary in expected {
        assert!(receipt.evidence(boundary).is_proof(), "{boundary:?}: {receipt:#?}");
    }
    assert_eq!(receipt.evidence(Boundary::Landlock), Evidence::Probed);
    let alive = ProcessRef::find(i32::try_from(receipt.pid).expect("a pid")).expect("it waits");
    let end = prepared.run(std::future::pending()).await;
    end.result.expect("it ran");
    assert_eq!(end.words, "", "it ended by itself, without a complaint");
    assert!(!alive.is_alive(), "it is over when the call is");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn not_even_the_mode_of_what_is_executed_can_be_changed_from_inside() {
    let mut rig = Rig::new(&["/bin/sh", "/usr/bin/readlink"]);
    let (program, script) = (rig.at("chmod"), rig.at("script"));
    fs::copy("/bin/chmod", &program).expect("copied");
    fs::write(&script, "#!/bin/sh\n/bin/chmod 777 /dev/fd/3\n").expect("written");
    let mode = |path: &str| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for path in [&program, &script] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
        rig.world.programs.push(abs(path));
    }
    let own = input(&program, &["777", "/proc/self/exe"]);
    for asked in [own, input(&script, &[])] {
        let said = rig.run(asked).await.expect("it runs");
        assert!(said.exit_code != 0 && said.stderr.contains("Read-only file system"), "{said:?}");
    }
    assert_eq!([mode(&program), mode(&script)], [0o755; 2]);
    assert!(outside(&program, &["777", "/proc/self/exe"]).status.success(), "the control");
    assert_eq!(mode(&program), 0o777, "the control");
    let known = rig.run(input("/usr/bin/readlink", &["/proc/self/exe"])).await.expect("it runs");
    assert_eq!(known.stdout, "/usr/bin/readlink\n", "a program of the system knows its own name");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn granted_places_are_there_and_nothing_else_is() {
    let mut rig = Rig::new(&["/bin/sh"]);
    let (read, write) = (rig.grant(FileRight::Read, "read"), rig.grant(FileRight::Write, "write"));
    let elsewhere = rig.at("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    for place in [&read, &write, &elsewhere] {
        fs::write(format!("{place}/f"), "text").expect("written");
        fs::set_permissions(format!("{place}/f"), fs::Permissions::from_mode(0o600)).expect("set");
    }
    let script = format!(
        "cat {read}/f; echo; echo x > {read}/g; echo new > {write}/g && mkdir {write}/d && echo made; \
         ls {elsewhere} /home /root /sys /var; echo x > /usr/x; echo x > /x; echo own > /tmp/t && cat /tmp/t; \
         ln {read}/f {write}/h; id -u"
    );
    let said = rig.shell(&script).await;
    for wanted in ["text\n", "made\n", "own\n"] {
        assert!(said.contains(wanted), "{said}");
    }
    assert_eq!(fs::read_to_string(format!("{write}/g")).expect("it was written"), "new\n");
    let owner = |path: &str| fs::metadata(path).expect("there").uid();
    assert_eq!(owner(&format!("{write}/g")), owner(&write), "it belongs to the directory's owner");
    assert!(!said.lines().any(|line| line == "0"), "never root: {said}");
    for absent in ["g", "h"] {
        assert!(!Path::new(&format!("{read}/{absent}")).exists(), "{said}");
    }
    assert!(!Path::new(&format!("{write}/h")).exists(), "{said}");
    assert!(!Path::new("/x").exists() && !Path::new("/usr/x").exists() && !Path::new("/tmp/t").exists());
    let refused = said.matches("No such file").count();
    assert!(refused >= 4, "{said}");
    // The control: outside, the very same script reaches all of it.
    let free = text_of(&outside("/bin/sh", &["-c", &format!("ls {elsewhere} /sys; echo x > {read}/g")]));
    assert!(free.contains("kernel") && Path::new(&format!("{read}/g")).exists(), "{free}");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn what_may_be_written_is_not_executed_and_what_is_not_granted_for_reading_is_not_read() {
    let mut rig = Rig::new(&["/bin/sh"]);
    let write = rig.grant(FileRight::Write, "write");
    let both = rig.grant(FileRight::Read, "both");
    rig.grant(FileRight::Write, "both");
    let script = format!(
        "cp /bin/true {both}/p; chmod 755 {both}/p; {both}/p || echo refused; \
         cp /bin/true /tmp/p; chmod 755 /tmp/p; /tmp/p || echo refused; /bin/true && echo runs"
    );
    let said = rig.shell(&script).await;
    assert_eq!((said.matches("refused").count(), said.matches("runs").count()), (2, 1), "{said}");
    assert!(outside(&format!("{both}/p"), &[]).status.success(), "the control");
    fs::remove_file(format!("{both}/p")).expect("removed");
    let said = rig.shell(&format!("echo x > {write}/f && echo written; mkfifo {write}/q || echo none")).await;
    assert!(said.contains("written") && said.contains("none"), "{said}");
    // Nothing that anybody executes gets its owner's rights.
    let said = rig.shell(&format!("echo x > {both}/s; chmod 4755 {both}/s || echo refused")).await;
    assert!(said.contains("refused"), "{said}");
    assert_eq!(fs::metadata(format!("{both}/s")).expect("there").mode() & 0o6000, 0);
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn what_is_aaos_s_own_is_hidden_below_a_wide_grant_and_keeps_a_writable_one_out() {
    let mut rig = Rig::new(&["/bin/sh"]);
    fs::write(rig.at("own/key"), "secret").expect("written");
    fs::write(rig.at("plain"), "plain").expect("written");
    let home = rig.grant(FileRight::Read, "");
    let script = format!("cat {home}/plain; cat {home}/own/key; ls -a {home}/own; cd {home}/own && cat key");
    let said = rig.shell(&script).await;
    assert!(said.contains("plain") && !said.contains("secret"), "{said}");
    assert!(text_of(&outside("/bin/sh", &["-c", &script])).contains("secret"), "the control");
    rig.grant(FileRight::Write, "");
    let refused = rig.run(input("/bin/sh", &["-c", "true"])).await.expect_err("it could be moved");
    assert!(refused.kind == ToolFailureKind::OutsideRoot && refused.message.contains("/own"), "{refused:?}");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn nothing_outside_is_reached() {
    let attempts = built("examples/program_attempts");
    let attempts = attempts.to_str().expect("a plain path");
    let mut rig = Rig::new(&[attempts]);
    let shared = rig.grant(FileRight::Read, "shared");
    let (socket, datagrams) = (format!("{shared}/socket"), format!("{shared}/datagrams"));
    let _listener = UnixListener::bind(&socket).expect("bound");
    let _receiver = UnixDatagram::bind(&datagrams).expect("bound");
    for path in [&socket, &datagrams] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("set");
    }
    let port = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = port.local_addr().expect("bound").to_string();
    let cases: &[&[&str]] = &[
        &["path-socket", &socket],
        &["datagram-pair", &datagrams],
        &["tcp", &address],
        &["memfd"],
        &["typing"],
        &["old-entry"],
        &["address-space"],
    ];
    for case in cases {
        let inside = rig.run(input(attempts, case)).await.expect("it runs");
        // What comes by the 32-bit entry is ended, by which signal ever.
        let is_ended = case[0] == "old-entry" && inside.exit_code > 128;
        assert!(inside.stdout.starts_with("refused") || is_ended, "{case:?}: {inside:?}");
        let free = text_of(&outside(attempts, case));
        assert!(free.starts_with("allowed"), "{case:?}: {free}");
    }
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_program_traces_its_own_processes_and_not_the_first_of_its_sandbox() {
    let attempts = built("examples/program_attempts");
    let attempts = attempts.to_str().expect("a plain path");
    let rig = Rig::new(&[attempts]);
    let first = rig.run(input(attempts, &["trace", "1"])).await.expect("it runs");
    assert!(first.stdout.starts_with("refused"), "{first:?}");
    let own = rig.run(input(attempts, &["trace-own"])).await.expect("it runs");
    assert_eq!(own.stdout, "allowed\n", "the control: the same call, in the same sandbox");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn nothing_leaks_into_a_program() {
    let attempts = built("examples/program_attempts");
    let attempts = attempts.to_str().expect("a plain path");
    let rig = Rig::new(&[attempts]);
    let inside = rig.run(input(attempts, &["descriptors"])).await.expect("it runs");
    assert!(inside.stdout.starts_with("refused"), "three and no more: {inside:?}");
    let leaking = format!("exec 9</dev/null; exec {attempts} descriptors");
    assert_eq!(text_of(&outside("/bin/sh", &["-c", &leaking])), "allowed\n", "the control");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_program_sees_its_own_processes_alone() {
    let rig = Rig::new(&["/bin/sh"]);
    let script = "for p in /proc/[0-9]*; do read -r name < $p/comm && echo $name; done; echo end; \
                  kill -9 1; echo still; ls /proc/1 || echo hidden; cat /proc/meminfo || echo absent";
    let said = rig.shell(script).await;
    let seen: Vec<&str> = said.lines().take_while(|line| *line != "end").collect();
    assert_eq!(seen.len(), 1, "itself alone: {said}");
    assert!(said.contains("still") && said.contains("hidden") && said.contains("absent"), "{said}");
    let free = outside("/bin/sh", &["-c", "cat /proc/1/comm /proc/meminfo"]);
    assert!(free.status.success(), "the control");
    rig.sandbox.shutdown().await;
}

/// Names the directory in which something is mounted, for the run of the test below that it starts itself.
const MOUNTED_IN: &str = "AAOS_TEST_MOUNTED_IN";

/// Runs one test of this program where a file system is mounted in a directory, as this user and as nobody.
#[expect(clippy::disallowed_methods, reason = "only another process has mounts of its own")]
fn with_a_mount(directory: &Path, as_nobody: bool, test: &str) -> Output {
    let folder = testkit::scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::create_dir(folder.path().join("deps")).expect("made");
    let this = std::env::current_exe().expect("a running program has a path");
    for (from, to) in [(this, "deps/tests"), (built("aaos-worker"), "aaos-worker")] {
        fs::copy(from, folder.path().join(to)).expect("copied");
    }
    let drop = if as_nobody { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "" };
    let script = format!(
        "mount -t tmpfs none \"${MOUNTED_IN}/in\" && echo secret > \"${MOUNTED_IN}/in/f\" && exec {drop} \"$0\" \
         --exact {test}"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", &script]).arg(folder.path().join("deps/tests"));
    command.env(MOUNTED_IN, directory).current_dir("/").output().expect("it starts")
}

#[tokio::test]
async fn what_is_mounted_in_a_granted_directory_is_not_shown_and_stops_no_program() {
    #[expect(clippy::disallowed_methods, reason = "of the test itself")]
    let mounted_in = std::env::var(MOUNTED_IN);
    if let Ok(directory) = mounted_in {
        let mut rig = Rig::new(&["/bin/sh"]);
        rig.grant_pattern(FileRight::Read, &format!("{directory}/*"));
        let script = format!("cat {directory}/plain {directory}/in/f; ls {directory}");
        let said = rig.shell(&script).await;
        assert!(said.contains("plain text\n") && said.contains("in\n") && !said.contains("secret"), "{said}");
        assert!(text_of(&outside("/bin/sh", &["-c", &script])).contains("secret"), "the control");
        rig.sandbox.shutdown().await;
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("not root: nothing can be mounted; a run of root's tests this as both");
        return;
    }
    let home = testkit::scratch();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::create_dir(home.path().join("in")).expect("made");
    fs::write(home.path().join("plain"), "plain text\n").expect("written");
    let test = "program::tests::what_is_mounted_in_a_granted_directory_is_not_shown_and_stops_no_program";
    for as_nobody in [false, true] {
        let output = with_a_mount(home.path(), as_nobody, test);
        let said = text_of(&output);
        assert!(output.status.success() && said.contains("1 passed"), "nobody: {as_nobody}: {said}");
    }
}

#[tokio::test]
async fn a_script_needs_its_interpreter_granted() {
    let mut rig = Rig::new(&[]);
    let read = rig.grant(FileRight::Read, "read");
    let script = format!("{read}/script");
    fs::write(&script, "#!/bin/sh -e\necho \"$0: $1\"\nfalse\necho never\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    rig.world.programs = vec![abs(&script)];
    let refused = rig.run(input(&script, &["x"])).await.expect_err("no interpreter");
    assert_eq!(refused.kind, ToolFailureKind::Denied);
    assert!(refused.message.contains("missing exec: /bin/sh"), "{refused:?}");
    rig.world.programs.push(abs("/bin/sh"));
    let ran = rig.run(input(&script, &["x"])).await.expect("it runs");
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("/dev/fd/3: x\n", 1), "its option is heeded");
    fs::write(&script, format!("#!{script}\n")).expect("written");
    let nested = rig.run(input(&script, &[])).await.expect_err("an interpreter is no script");
    assert_eq!(nested.kind, ToolFailureKind::WrongKind, "{nested:?}");
    for odd in ["#!\n", "#!sh\n", "#!/bin/sh", "#!/bin/\u{0}sh\n"] {
        fs::write(&script, odd).expect("written");
        let odd_one = rig.run(input(&script, &[])).await.expect_err("not usable");
        assert_eq!(odd_one.kind, ToolFailureKind::WrongKind, "{odd:?}: {odd_one:?}");
    }
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut rig = Rig::new(&[]);
    let read = rig.grant(FileRight::Read, "read");
    fs::write(format!("{read}/plain"), "text").expect("written");
    fs::write(format!("{read}/garbage"), [0x7f, b'E', b'L', b'F', 0, 0]).expect("written");
    fs::set_permissions(format!("{read}/garbage"), fs::Permissions::from_mode(0o755)).expect("set");
    fs::write(rig.at("own/tool"), "x").expect("written");
    let why = async |program: String| rig.run(input(&program, &[])).await.expect_err("it cannot").kind;
    assert_eq!(why("/nonexistent/program".to_owned()).await, ToolFailureKind::NotFound);
    assert_eq!(why(read.clone()).await, ToolFailureKind::WrongKind);
    assert_eq!(why(format!("{read}/plain")).await, ToolFailureKind::WrongKind);
    assert_eq!(why(format!("{read}/garbage")).await, ToolFailureKind::WrongKind);
    assert_eq!(why(rig.at("own/tool")).await, ToolFailureKind::OutsideRoot);
    assert_eq!(why("/proc/self/exe".to_owned()).await, ToolFailureKind::OutsideRoot);
    let lost = CommandRunInput { directory: Some(abs("/nowhere")), ..input("/bin/true", &[]) };
    let lost = rig.run(lost).await.expect_err("no such directory");
    assert!(lost.message.contains("changing to its directory"), "{lost:?}");
    let there = CommandRunInput { directory: Some(abs(&read)), ..input("/bin/pwd", &[]) };
    assert_eq!(rig.run(there).await.expect("it runs").stdout, format!("{read}\n"));
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_time_out_ends_the_whole_tree() {
    let mut rig = Rig::new(&["/bin/sh"]);
    let write = rig.grant(FileRight::Write, "write");
    let script = format!(
        "(setsid sh -c '(trap \"\" TERM HUP INT; echo up > {write}/deep; sleep 1000) & sleep 1000' &) ; sleep 1000"
    );
    let asked = CommandRunInput { timeout_seconds: 2, ..input("/bin/sh", &["-c", &script]) };
    let failed = rig.run(asked).await.expect_err("it takes too long");
    assert_eq!(failed.kind, ToolFailureKind::Timeout);
    rig.assert_idle().await;
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it_and_holds_nothing_up() {
    let rig = Rig::new(&["/bin/sh"]);
    let script = "(setsid sleep 1000 &); echo done";
    let said = tokio::time::timeout(PATIENCE, rig.run(input("/bin/sh", &["-c", script]))).await;
    assert_eq!(said.expect("it does not hang").expect("it runs").stdout, "done\n");
    rig.assert_idle().await;
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn whoever_ends_in_the_background_is_reaped_while_the_program_goes_on() {
    let rig = Rig::new(&["/bin/sh"]);
    let rounds = 2 * MAX_PROGRAM_PROCESSES;
    let script = format!("i=0; while [ $i -lt {rounds} ]; do (true &); i=$((i+1)); done; echo all $i");
    assert_eq!(rig.shell(&script).await, format!("all {rounds}\n"), "no more than one is there at once");
    // The control: those that are not reaped count.
    let waiting = format!("i=0; while [ $i -lt {rounds} ]; do (sleep 1000 &); i=$((i+1)); done; echo all $i");
    assert_ne!(rig.shell(&waiting).await, format!("all {rounds}\n"));
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_program_that_closes_its_streams_is_waited_for() {
    let mut rig = Rig::new(&["/bin/sh"]);
    let write = rig.grant(FileRight::Write, "write");
    let script = format!("echo first; exec >&- 2>&-; sleep 0.3; echo late > {write}/f; exit 3");
    let said = rig.run(input("/bin/sh", &["-c", &script])).await.expect("it runs");
    assert_eq!((said.exit_code, said.stdout.as_str()), (3, "first\n"));
    assert_eq!(fs::read_to_string(format!("{write}/f")).expect("it went on"), "late\n");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_its_program() {
    let mut rig = Rig::new(&["/bin/sh"]);
    let write = rig.grant(FileRight::Write, "write");
    let pipe = format!("{write}/up");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .expect("made");
    let asked = input("/bin/sh", &["-c", &format!("echo up > {pipe}; sleep 1000")]);
    let prepared = rig.prepare(asked).await.expect("a sandbox");
    let up = async {
        let path = pipe.clone();
        let heard = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let opened = fs::File::open(path).expect("opens when it is written to");
            BufReader::new(opened).read_line(&mut line).expect("a line");
            line
        });
        assert_eq!(heard.await.expect("heard"), "up\n");
        ToolFailure::new(ToolFailureKind::Cancelled, "given up")
    };
    let end = prepared.run(up).await;
    assert_eq!(end.result.expect_err("given up").kind, ToolFailureKind::Cancelled);
    rig.assert_idle().await;
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn floods_and_crowds_are_bounded() {
    let rig = Rig::new(&["/bin/sh"]);
    let flood = "echo first; head -c 20000000 /dev/zero; echo last >&2; echo last";
    let said = rig.run(input("/bin/sh", &["-c", flood])).await.expect("it runs");
    assert!(said.truncated && said.stdout.starts_with("first\n") && said.stdout.ends_with("last\n"));
    assert!(said.stdout.len() < 3 * COMMAND_OUTPUT_HALF_BYTES && said.stderr == "last\n");
    let endless = rig.run(input("/bin/sh", &["-c", "cat /dev/zero"])).await.expect_err("it has no end");
    assert_eq!(endless.kind, ToolFailureKind::TooLarge, "{endless:?}");
    let crowd = format!(
        "i=0; while [ $i -lt {} ]; do sleep 1000 & i=$((i+1)); done; echo all",
        2 * MAX_PROGRAM_PROCESSES
    );
    let said = rig.shell(&crowd).await;
    assert!(!said.contains("all") && !said.is_empty(), "{said}");
    let full = "head -c 400000000 /dev/zero > /tmp/f || echo full; : > /tmp/f; head -c 1000 /dev/zero > /tmp/g && echo room";
    let said = rig.shell(full).await;
    assert!(said.contains("full") && said.contains("room"), "{said}");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_program_that_fills_a_disk_is_ended_with_all_that_it_started() {
    let mut rig = Rig::new(&["/bin/sh"]);
    let write = rig.grant(FileRight::Write, "write");
    let script = format!(
        "(setsid sleep 1000 &); i=0; while [ $i -lt $0 ]; do head -c 10000000 /dev/zero >> {write}/f; sleep 0.1; \
         i=$((i+1)); done"
    );
    let control = rig.run(input("/bin/sh", &["-c", &script, "2"])).await.expect("the control");
    assert_eq!((control.exit_code, control.stderr.as_str()), (0, ""));
    assert_eq!(fs::metadata(format!("{write}/f")).expect("written").len(), 20_000_000);
    let mut prepared = rig.prepare(input("/bin/sh", &["-c", &script, "100"])).await.expect("a sandbox");
    prepared.disks.most.bytes = 9_000_000;
    let failure = prepared.run(std::future::pending()).await.result.expect_err("it is too much");
    assert_eq!(failure.kind, ToolFailureKind::LimitReached, "{failure:?}");
    assert!(failure.message.contains(&write) && failure.message.contains("grew"), "{failure:?}");
    rig.assert_idle().await;
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn the_end_of_the_zygote_leaves_no_program() {
    let rig = Rig::new(&["/bin/sleep"]);
    let asked = input("/bin/sleep", &["1000"]);
    let prepared = rig.prepare(asked).await.expect("a sandbox");
    let pid = i32::try_from(prepared.receipt().pid).expect("a pid");
    let far = ProcessRef::find(pid).expect("it waits");
    let zygote = rustix::process::Pid::from_raw(i32::try_from(rig.sandbox.zygote_pid()).expect("a pid"));
    let killing = async {
        rustix::process::kill_process(zygote.expect("not 0"), rustix::process::Signal::KILL).expect("killed");
        std::future::pending::<ToolFailure>().await
    };
    let end = prepared.run(killing).await;
    assert_eq!(end.result.expect_err("its sandbox is gone").kind, ToolFailureKind::WorkerLost);
    far.wait_gone();
}
