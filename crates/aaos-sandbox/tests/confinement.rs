//! Far processes are confined, say so truthfully, and end with whoever launched them.
//!
//! Every refusal has its control: the same attempt, by the same code, outside.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aaos_confine::run_probes;
use aaos_core::confinement::{Boundary, ConfinementPolicy, ConfinementReceipt, Evidence, ProbeResult};
use aaos_core::path::AbsPath;
use aaos_core::wire::{ProbeAttempt, encode_frame};
use aaos_journal::{Journal, JournalConfig};
use aaos_sandbox::{GatewayRole, Sandbox, SandboxError, ZygoteSeed};
use serde::Deserialize;
use tempfile::TempDir;
use testkit::{PATIENCE, ProcessRef, descendants};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOBODY: u32 = 65_534;

fn target_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    test.parent().and_then(Path::parent).expect("deps lies in a profile's folder").to_path_buf()
}

fn built(path: PathBuf) -> PathBuf {
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --examples` first", path.display());
    path
}

fn worker_exe() -> PathBuf {
    built(target_folder().join("aaos-worker"))
}

fn example(name: &str) -> PathBuf {
    built(target_folder().join("examples").join(name))
}

fn sandbox_of(worker: &Path, gateway: Option<&Path>, policy: ConfinementPolicy) -> Sandbox {
    Sandbox::adopt(ZygoteSeed::start(worker, gateway).expect("a zygote"), policy).expect("adopted")
}

fn sandbox() -> Sandbox {
    sandbox_of(&worker_exe(), None, ConfinementPolicy::default())
}

#[expect(clippy::disallowed_methods, reason = "the tests start and kill whole processes")]
fn command(program: &Path) -> Command {
    Command::new(program)
}

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).expect("an absolute path")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn a_worker_stands_behind_every_boundary_that_the_machine_gives() {
    let sandbox = sandbox();
    let abilities = sandbox.abilities().await.expect("known");
    let worker = sandbox.launch_worker().await.expect("a worker");
    let receipt = worker.receipt();
    let mut expected = abilities.namespaces.boundaries();
    expected.extend(ConfinementPolicy::default().require);
    if abilities.own_uids.is_some() {
        expected.push(Boundary::OwnUid);
    }
    for boundary in expected {
        assert!(receipt.evidence(boundary).is_proof(), "{boundary:?}: {receipt:#?}");
        assert!(!worker.missing().contains(&boundary));
    }
    assert_eq!(receipt.evidence(Boundary::Landlock), Evidence::Probed, "its rules cannot be read back");
    assert_eq!(receipt.evidence(Boundary::Seccomp), Evidence::Observed);
    assert_eq!((receipt.seccomp_filter_hash.len(), receipt.landlock_rules_hash.len()), (64, 64));
    assert!(receipt.landlock_abi >= 4);
    let pid = i32::try_from(receipt.pid).expect("a pid");
    let alive = ProcessRef::find(pid).expect("it runs under the pid that the receipt names");
    let end = worker.stop().await;
    alive.wait_gone();
    assert_eq!(end.reason, "killed by signal 9");
    sandbox.shutdown().await;
}

#[tokio::test]
async fn two_workers_share_neither_uid_nor_namespace_nor_name() {
    let sandbox = sandbox();
    let one = sandbox.launch_worker().await.expect("a worker");
    let two = sandbox.launch_worker().await.expect("a worker");
    assert_ne!(one.id(), two.id());
    let of = |pid: u32, what: &str| std::fs::read_link(format!("/proc/{pid}/ns/{what}")).expect("readable");
    let abilities = sandbox.abilities().await.expect("known");
    for (kind, _, name) in aaos_confine::namespaces::KINDS {
        if abilities.namespaces.has(*kind) {
            assert_ne!(of(one.receipt().pid, name), of(two.receipt().pid, name), "{name}");
        }
    }
    if abilities.own_uids.is_some() {
        let uid = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
            status.lines().find(|line| line.starts_with("Uid:")).map(str::to_owned)
        };
        assert_ne!(uid(one.receipt().pid), uid(two.receipt().pid));
    }
    sandbox.shutdown().await;
}

#[tokio::test]
async fn launches_at_once_and_ends_among_them_do_not_disturb_each_other() {
    let sandbox = sandbox();
    let mut launches = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let sandbox = sandbox.clone();
        launches.spawn(async move {
            let first = sandbox.launch_worker().await.expect("a worker");
            drop(first);
            sandbox.launch_worker().await.expect("another").receipt().pid
        });
    }
    let pids = launches.join_all().await;
    assert_eq!(pids.len(), 24);
    sandbox.shutdown().await;
}

/// Every attempt there is. `neighbour` is a file in another agent's workspace, readable for everybody as far as its
/// mode goes.
fn every_attempt(target: u32, neighbour: &Path) -> Vec<ProbeAttempt> {
    vec![
        ProbeAttempt::Open(path("/etc/passwd")),
        ProbeAttempt::Open(path(neighbour.to_str().expect("a plain path"))),
        ProbeAttempt::Open(path("/")),
        ProbeAttempt::Stat(path("/")),
        ProbeAttempt::UnixSocket,
        ProbeAttempt::UnixDatagramPair,
        ProbeAttempt::InetSocket,
        ProbeAttempt::VsockSocket,
        ProbeAttempt::Exec(path("/bin/true")),
        ProbeAttempt::Ptrace(target),
        ProbeAttempt::Signal(target),
        ProbeAttempt::Fork,
        ProbeAttempt::UserNamespace,
        ProbeAttempt::IoUring,
        ProbeAttempt::Bpf,
        ProbeAttempt::SetUid,
        ProbeAttempt::ExtraDescriptors,
    ]
}

/// A process of the test's own uid that may be traced and signalled.
struct Target(Child);

impl Target {
    fn start() -> Self {
        Self(command(Path::new("/bin/sleep")).arg("1000").spawn().expect("sleep starts"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.0.kill().expect("it still runs");
        self.0.wait().expect("reaped");
    }
}

#[tokio::test]
async fn what_succeeds_outside_is_refused_inside() {
    let target = Target::start();
    let workspaces = tempfile::tempdir().expect("a directory");
    let neighbour = workspaces.path().join("findings.md");
    std::fs::write(&neighbour, "another agent's").expect("writes");
    let attempts = every_attempt(target.0.id(), &neighbour);
    let outside = run_probes(&attempts);
    let sandbox = sandbox();
    let mut worker = sandbox.launch_worker().await.expect("a worker");
    let inside = worker.probe(attempts).await.expect("answered");
    assert_eq!(inside.len(), outside.len());
    for (inside, outside) in inside.iter().zip(&outside) {
        assert!(inside.refused, "{inside:?}");
        assert!(!outside.refused || is_impossible_here(outside), "the control must succeed: {outside:?}");
    }
    assert!(worker.is_usable(), "a probe that is refused harms nothing");
    sandbox.shutdown().await;
}

/// What this machine refuses to everybody, or to an ordinary user: no control is possible.
fn is_impossible_here(control: &ProbeResult) -> bool {
    let by_machine = ["socket(AF_VSOCK)", "io_uring_setup()"];
    let by_user = ["bpf(MAP_CREATE)", "setuid(0)", "unshare(CLONE_NEWUSER)"];
    by_machine.contains(&control.attempt.as_str())
        || (!is_root() && by_user.contains(&control.attempt.as_str()))
}

#[tokio::test]
async fn a_requirement_that_cannot_be_proved_refuses_the_launch_and_leaves_nothing() {
    let policy = ConfinementPolicy { landlock_abi: 99, ..ConfinementPolicy::default() };
    let strict = sandbox_of(&worker_exe(), None, policy);
    let error = strict.launch_worker().await.expect_err("no kernel has this ABI");
    assert!(
        matches!(&error, SandboxError::ConfinementUnavailable { boundary: Boundary::Landlock, .. }),
        "{error:?}"
    );
    for left in descendants(strict.zygote_pid()) {
        left.wait_gone();
    }
    strict.shutdown().await;

    // The control: preferred instead of required, the same machine launches and says what is missing.
    let mut policy = ConfinementPolicy { landlock_abi: 99, ..ConfinementPolicy::default() };
    policy.require.retain(|boundary| *boundary != Boundary::Landlock);
    policy.prefer = vec![Boundary::Landlock];
    let lenient = sandbox_of(&worker_exe(), None, policy);
    let worker = lenient.launch_worker().await.expect("a worker");
    assert_eq!(worker.missing(), [Boundary::Landlock]);
    lenient.shutdown().await;
}

#[tokio::test]
async fn the_end_of_the_zygote_is_noticed_by_everybody() {
    let sandbox = sandbox();
    let worker = sandbox.launch_worker().await.expect("a worker");
    let far = ProcessRef::find(i32::try_from(worker.receipt().pid).expect("a pid")).expect("it runs");
    let zygote = rustix::process::Pid::from_raw(i32::try_from(sandbox.zygote_pid()).expect("a pid"));
    rustix::process::kill_process(zygote.expect("not 0"), rustix::process::Signal::KILL).expect("killed");
    tokio::time::timeout(PATIENCE, sandbox.wait_zygote_end()).await.expect("noticed");
    far.wait_gone();
    assert!(!worker.is_usable());
    assert!(matches!(sandbox.launch_worker().await, Err(SandboxError::ZygoteGone)));
}

#[tokio::test]
async fn shutdown_leaves_no_process() {
    let sandbox = sandbox();
    let workers =
        [sandbox.launch_worker().await.expect("a worker"), sandbox.launch_worker().await.expect("a worker")];
    let all = descendants(sandbox.zygote_pid());
    assert!(all.len() >= workers.len());
    sandbox.shutdown().await;
    for far in all {
        assert!(!far.is_alive(), "ended and reaped before shutdown returns");
    }
}

#[tokio::test]
async fn a_closed_channel_ends_the_worker_by_itself() {
    let sandbox = sandbox();
    let worker = sandbox.launch_worker().await.expect("a worker");
    let far = ProcessRef::find(i32::try_from(worker.receipt().pid).expect("a pid")).expect("it runs");
    drop(worker);
    far.wait_gone();
    sandbox.shutdown().await;
}

#[tokio::test]
async fn a_crash_is_reported_with_its_last_words_made_harmless() {
    let sandbox = sandbox_of(&example("crashing_worker"), None, ConfinementPolicy::default());
    let mut worker = sandbox.launch_worker().await.expect("a worker");
    let error = worker.probe(vec![ProbeAttempt::Fork]).await.expect_err("it crashes");
    assert!(matches!(error, SandboxError::Closed), "{error:?}");
    assert!(!worker.is_usable());
    let end = worker.stop().await;
    assert!(end.stderr_tail.contains("cannot go on after a request"), "{end:?}");
    assert!(end.stderr_tail.contains("\\u{1b}[31m") && !end.stderr_tail.contains('\u{1b}'), "{end:?}");
    sandbox.shutdown().await;
}

#[tokio::test]
async fn a_worker_program_that_is_not_there_is_an_error_at_the_start() {
    let error = ZygoteSeed::start(Path::new("/nonexistent/aaos-worker"), None).expect_err("not there");
    assert!(matches!(error, SandboxError::ZygoteStart { .. }), "{error:?}");
}

#[tokio::test]
async fn a_program_that_is_no_zygote_is_noticed() {
    let sandbox = sandbox_of(Path::new("/bin/true"), None, ConfinementPolicy::default());
    tokio::time::timeout(PATIENCE, sandbox.wait_zygote_end()).await.expect("noticed");
    assert!(matches!(sandbox.launch_worker().await, Err(SandboxError::ZygoteGone)));
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum StubReply {
    Seen { probes: Vec<ProbeResult>, greeting: String, listens: bool },
}

#[tokio::test]
async fn a_gateway_connects_and_can_do_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = listener.local_addr().expect("bound");
    let greeter = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"hello").expect("written");
    });
    let sandbox = sandbox_of(&worker_exe(), Some(&example("gateway_stub")), ConfinementPolicy::default());
    let setup = encode_frame(&target).expect("small");
    let mut gateway = sandbox.launch_gateway(GatewayRole::Egress, setup, &[]).await.expect("a gateway");
    for boundary in ConfinementPolicy::default().require {
        assert!(gateway.receipt.evidence(boundary).is_proof(), "{boundary:?}: {:#?}", gateway.receipt);
    }
    if is_root() {
        assert!(gateway.receipt.evidence(Boundary::OwnUid).is_proof());
    }
    let victim = Target::start();
    let attempts: Vec<ProbeAttempt> = every_attempt(victim.0.id(), Path::new("/etc/hostname"))
        .into_iter()
        .filter(|one| !matches!(one, ProbeAttempt::InetSocket | ProbeAttempt::ExtraDescriptors))
        .collect();
    gateway.stream.write_all(&encode_frame(&attempts).expect("small")).await.expect("sent");
    let StubReply::Seen { probes, greeting, listens } = receive(&mut gateway.stream).await;
    greeter.join().expect("greeted");
    assert_eq!(greeting, "hello", "threads, a runtime and outbound connections work");
    assert!(!listens, "it cannot listen");
    assert!(probes.iter().all(|probe| probe.refused), "{probes:#?}");
    assert_eq!(probes.len(), attempts.len());
    sandbox.shutdown().await;
}

/// What signs the journal's heads: whoever has it can write history anew.
#[tokio::test]
async fn no_far_process_opens_the_key_of_the_journal() {
    let state = tempfile::tempdir().expect("a directory");
    let config = JournalConfig::at(state.path().join("journal.db"));
    let key = path(config.key.to_str().expect("a plain path"));
    let (_journal, _) = Journal::open(config).expect("it makes its key");
    let attempts = vec![ProbeAttempt::Open(key.clone()), ProbeAttempt::Stat(key)];
    let refused = |probes: &[ProbeResult]| probes.iter().map(|probe| probe.refused).collect::<Vec<_>>();
    assert_eq!(
        refused(&run_probes(&attempts)),
        [false, false],
        "the control: outside, the same code does it"
    );
    let sandbox = sandbox_of(&worker_exe(), Some(&example("gateway_stub")), ConfinementPolicy::default());
    let mut worker = sandbox.launch_worker().await.expect("a worker");
    let inside = worker.probe(attempts.clone()).await.expect("answered");
    assert_eq!(refused(&inside), [true, true], "a worker: {inside:?}");
    // Nobody listens there; what the roles connect to is another test's matter.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    for role in [GatewayRole::Models, GatewayRole::Egress] {
        let setup = encode_frame(&nowhere).expect("small");
        let mut gateway = sandbox.launch_gateway(role, setup, &[]).await.expect("a gateway");
        gateway.stream.write_all(&encode_frame(&attempts).expect("small")).await.expect("sent");
        let StubReply::Seen { probes, .. } = receive(&mut gateway.stream).await;
        assert_eq!(refused(&probes), [true, true], "{role:?}: {probes:?}");
    }
    sandbox.shutdown().await;
}

/// The greedy gateway in a folder of its own, where it leaves what it takes.
struct Greedy {
    folder: TempDir,
    program: PathBuf,
}

impl Greedy {
    fn copied() -> Self {
        let folder = testkit::scratch();
        let program = folder.path().join("greedy_gateway");
        std::fs::copy(example("greedy_gateway"), &program).expect("copied");
        Self { folder, program }
    }

    fn taken(&self) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join("taken")).ok()
    }

    /// Runs it without any launcher that is careful.
    fn run_with(&self, setup: &[u8]) {
        let (mut near, far) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        near.write_all(setup).expect("sent");
        let mut shell = command(Path::new("/bin/sh"));
        shell.args(["-c", "exec \"$0\" --role egress 3<&0 </dev/null"]).arg(&self.program);
        let mut child = shell.stdin(Stdio::from(std::os::fd::OwnedFd::from(far))).spawn().expect("a shell");
        near.shutdown(std::net::Shutdown::Write).expect("connected");
        assert!(child.wait().expect("reaped").success());
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_proved_to_be_locked_gets_no_setup() {
    let setup = encode_frame(&"sk-a-key").expect("small");
    let control = Greedy::copied();
    control.run_with(&setup);
    assert_eq!(control.taken().as_ref(), Some(&setup), "the control: it takes what it is sent");

    let greedy = Greedy::copied();
    let sandbox = sandbox_of(&worker_exe(), Some(&greedy.program), ConfinementPolicy::default());
    let says_something_else = sandbox.launch_gateway(GatewayRole::Models, setup.clone(), &[]).await;
    let error = says_something_else.expect_err("it never says that it is locked");
    assert!(matches!(error, SandboxError::DiedAtStart { .. }), "{error:?}");
    let lies = sandbox.launch_gateway(GatewayRole::Egress, setup, &[]).await;
    let error = lies.expect_err("it is not locked, whatever it says");
    assert!(matches!(error, SandboxError::ConfinementUnavailable { .. }), "{error:?}");
    // Whatever they took is in the file now: every far process has ended.
    sandbox.shutdown().await;
    assert_eq!(greedy.taken(), None);
}

async fn receive(stream: &mut tokio::net::UnixStream) -> StubReply {
    let read = async {
        let length = stream.read_u32_le().await.expect("a header");
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await.expect("a body");
        serde_json::from_slice(&body).expect("a reply")
    };
    tokio::time::timeout(PATIENCE, read).await.expect("in time")
}

/// Programs where every user can execute them.
struct Programs {
    folder: TempDir,
}

impl Programs {
    fn copied() -> Self {
        let folder = testkit::scratch();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("ours");
        for from in [worker_exe(), example("launching"), example("model_stub")] {
            let to = folder.path().join(from.file_name().expect("a file"));
            std::fs::copy(&from, &to).expect("copied");
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).expect("ours");
        }
        Self { folder }
    }

    fn start(&self, as_nobody: bool, modes: &[&str]) -> Launching {
        let mut launching = command(&self.folder.path().join("launching"));
        launching.arg(self.folder.path().join("aaos-worker")).args(modes);
        if as_nobody && is_root() {
            launching.uid(NOBODY).gid(NOBODY);
        }
        Launching::from(launching)
    }
}

struct Launching {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl From<Command> for Launching {
    fn from(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        let mut child = command.spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }
}

impl Launching {
    fn next<T: for<'de> Deserialize<'de>>(&mut self) -> T {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("reaped").success());
    }
}

fn assert_required(receipt: &ConfinementReceipt) {
    for boundary in ConfinementPolicy::default().require {
        assert!(receipt.evidence(boundary).is_proof(), "{boundary:?}: {receipt:#?}");
    }
}

#[test]
fn an_ordinary_user_gets_the_same_boundaries_but_the_own_uid() {
    let programs = Programs::copied();
    for modes in [&[][..], &["model"]] {
        let mut launching = programs.start(true, modes);
        let receipt: ConfinementReceipt = launching.next();
        assert_required(&receipt);
        assert_eq!(receipt.evidence(Boundary::OwnUid), Evidence::Missing);
        if user_namespaces_are_allowed() {
            for (kind, _, name) in aaos_confine::namespaces::KINDS {
                assert!(receipt.evidence(*kind).is_proof(), "{name}: {receipt:#?}");
            }
        }
        launching.finish();
    }
}

/// Whether an ordinary user may make one; distributions forbid it in several ways.
fn user_namespaces_are_allowed() -> bool {
    let mut unshare = command(Path::new("/usr/bin/unshare"));
    unshare.args(["--user", "--mount", "--map-current-user", "/bin/true"]).current_dir("/");
    if is_root() {
        unshare.uid(NOBODY).gid(NOBODY);
    }
    unshare.status().is_ok_and(|status| status.success())
}

/// The root of a container: no uid but 0 is mapped, and no further user namespace is allowed.
#[test]
fn a_root_that_can_give_no_uid_refuses_rather_than_run_agents_as_root() {
    if !user_namespaces_are_allowed() {
        let refused =
            command(Path::new("/usr/bin/unshare")).args(["--user", "--map-root-user", "/bin/true"]).status();
        assert!(!refused.expect("unshare runs").success(), "there are no containers here");
        return;
    }
    let programs = Programs::copied();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$1\"";
    let mut contained = command(Path::new("/usr/bin/unshare"));
    contained.args(["--user", "--map-root-user", "/bin/sh", "-c", script]);
    contained.arg(programs.folder.path().join("launching")).arg(programs.folder.path().join("aaos-worker"));
    let mut launching = Launching::from(contained);
    let error: String = launching.next();
    assert!(error.contains("ConfinementUnavailable") && error.contains("OwnUid"), "{error}");
    launching.finish();
}

#[test]
fn without_any_namespace_landlock_and_seccomp_still_hold_and_the_rest_is_named() {
    let programs = Programs::copied();
    for as_nobody in [true, false] {
        let mut launching = programs.start(as_nobody, &["no-namespaces"]);
        let receipt: ConfinementReceipt = launching.next();
        assert_required(&receipt);
        for (kind, _, name) in aaos_confine::namespaces::KINDS {
            assert_eq!(receipt.evidence(*kind), Evidence::Missing, "{name}: {receipt:#?}");
        }
        let own_uid = receipt.evidence(Boundary::OwnUid).is_proof();
        assert_eq!(own_uid, is_root() && !as_nobody);
        let far = ProcessRef::find(i32::try_from(receipt.pid).expect("a pid")).expect("it runs");
        launching.finish();
        far.wait_gone();
    }
}

#[test]
fn a_locked_daemon_still_launches_and_has_neither_network_nor_other_programs() {
    let programs = Programs::copied();
    for as_nobody in [false, true] {
        // The control: the same attempts, by the same process, before it is locked.
        let mut free = programs.start(as_nobody, &["try"]);
        let probes: Vec<ProbeResult> = free.next();
        assert!(probes.iter().all(|probe| !probe.refused), "{probes:?}");
        assert_required(&free.next());
        free.finish();

        let mut locked = programs.start(as_nobody, &["locked", "try"]);
        let own: ConfinementReceipt = locked.next();
        for boundary in [Boundary::NoNewPrivs, Boundary::Seccomp, Boundary::Rlimits] {
            assert!(own.evidence(boundary).is_proof(), "{boundary:?}: {own:#?}");
        }
        assert_eq!(own.pid, locked.child.id());
        let seccomp = own.boundaries.iter().find(|one| one.boundary == Boundary::Seccomp).expect("named");
        assert!(seccomp.detail.contains("socket(AF_INET), "), "{seccomp:?}");
        assert!(seccomp.detail.contains("execve(/bin/true)"), "{seccomp:?}");
        let probes: Vec<ProbeResult> = locked.next();
        let refused: Vec<bool> = probes.iter().map(|probe| probe.refused).collect();
        assert_eq!(refused, [true, true, false], "{probes:?}");
        assert_required(&locked.next());
        locked.finish();
    }
}

/// Whether another process of the same ordinary user may read the memory of this one.
fn is_readable_by_its_user(pid: u32) -> bool {
    let mut other = command(Path::new("/bin/cat"));
    other.arg(format!("/proc/{pid}/environ")).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    if is_root() {
        other.uid(NOBODY).gid(NOBODY);
    }
    other.status().expect("cat runs").success()
}

#[test]
fn the_memory_of_a_locked_daemon_is_read_by_itself_alone() {
    let programs = Programs::copied();
    for (modes, readable) in [(&["look"][..], true), (&["locked", "look"][..], false)] {
        let mut launching = programs.start(true, modes);
        if !readable {
            let _own: ConfinementReceipt = launching.next();
        }
        let seen: Vec<(String, bool)> = launching.next();
        assert!(seen.iter().all(|(_, was_read)| *was_read), "{seen:?}");
        let receipt: ConfinementReceipt = launching.next();
        assert_required(&receipt);
        let pid = launching.child.id();
        assert_eq!(is_readable_by_its_user(pid), readable);
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("for all to read");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        let small = core.split_whitespace().filter(|word| *word == "1" || *word == "0").count() == 2;
        assert!(readable || small, "{core}");
        launching.finish();
    }
}

#[test]
fn kill_9_of_the_launching_process_leaves_no_far_process() {
    let programs = Programs::copied();
    for modes in [&[][..], &["no-namespaces"][..]] {
        let mut launching = programs.start(true, modes);
        let receipt: ConfinementReceipt = launching.next();
        let left = descendants(launching.child.id());
        assert!(left.len() >= 2, "zygote and worker");
        assert!(ProcessRef::find(i32::try_from(receipt.pid).expect("a pid")).is_some());
        launching.child.kill().expect("killed");
        launching.child.wait().expect("reaped");
        for far in left {
            far.wait_gone();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_launcher_that_never_answers_is_given_up_in_time_and_ended() {
    let sandbox = sandbox_of(&example("silent_zygote"), None, ConfinementPolicy::default());
    let pid = i32::try_from(sandbox.zygote_pid()).expect("a pid");
    let error = sandbox.launch_worker().await.expect_err("it never answers");
    assert!(matches!(error, SandboxError::TimedOut { .. }), "{error:?}");
    let zygote = ProcessRef::find(pid).expect("it still runs");
    drop(sandbox);
    assert!(!zygote.is_alive(), "the last handle ends and reaps it");
}
