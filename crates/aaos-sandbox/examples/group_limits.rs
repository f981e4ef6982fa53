//! Shows that control groups limit what they say: for `cargo xtask vm-test`, on a kernel that has all controllers.
//!
//! Each case has its control, the same load without the limit; a case that fails ends the program with a panic. The
//! program moves itself into a leaf first, so that it can give groups of their own to those that it starts. Two of its
//! roles are for itself alone: `hold STATE` leaves groups behind when it is killed, and `claim GROUP` tells where its
//! groups are when it begins in a group; as process 1 it enters that group and starts itself once more.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use aaos_core::confinement::{Boundary, ConfinementPolicy, Evidence, MemoryBound};
use aaos_core::quantity::Bytes;
use aaos_sandbox::{GroupLimits, GroupName, Groups, Leaf, Sandbox, Shortage, ZygoteSeed};

const MIB: u64 = 1024 * 1024;
/// Far more than any load here uses, but for the one that a case is about.
const WIDE: GroupLimits = GroupLimits { memory: Bytes(512 * MIB), processes: 200, weight: 100 };
/// What both of two busy processes use together before their shares are compared.
const BUSY_MS: u64 = 3_000;
/// The most that they get.
const MOST_BUSY_MS: u64 = 30_000;

/// Where the control groups are.
const TOP: &str = "/sys/fs/cgroup";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show_everything(),
        ["hold", state] => hold_until_killed(Path::new(state)),
        ["claim", group] => tell_claim(Path::new(group)),
        _ => panic!("{words:?} is no role"),
    }
}

fn show_everything() {
    let groups = claimed();
    assert!(groups.why_none().is_none(), "no control groups: {:?}", groups.why_none());
    memory_is_limited(&groups);
    a_limit_above_is_not_taken_for_the_own(&groups);
    processes_are_limited(&groups);
    shares_of_the_processor_follow_the_weights(&groups);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(a_worker_is_born_in_its_leaf_and_the_leaf_goes_with_it(groups.clone()));
    let before = own_group();
    drop(groups);
    assert_ne!(own_group(), before, "it is back where it was");
    assert!(!before.exists(), "and its tree is gone");
    say("this process is back in its group, and the tree is gone");
    shared_groups_are_left_alone();
}

fn claimed() -> Groups {
    Groups::claim(&GroupName::of_process().expect("a name"))
}

fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "ok: {line}").expect("standard output is open");
}

/// A shell in a leaf: it goes there before it does anything else.
fn shell_in(leaf: &Leaf, script: &str) -> Child {
    let mut shell = command("/bin/sh");
    shell.args(["-c", &format!("echo 0 > \"$0/cgroup.procs\" && {script}")]).arg(leaf.path());
    shell.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell starts")
}

fn ended(mut child: Child) -> ExitStatus {
    child.wait().expect("it ends")
}

/// `head | tail`: tail keeps all of a line that never ends.
fn memory_is_limited(groups: &Groups) {
    let load = "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c > /dev/null";
    let wide = groups.leaf(WIDE).expect("a leaf");
    assert!(ended(shell_in(&wide, load)).success(), "the control: with room for it the load ends well");
    assert_eq!(wide.end(), None, "nobody ran out of memory there");
    let narrow = GroupLimits { memory: Bytes(32 * MIB), ..WIDE };
    let leaf = groups.leaf(narrow).expect("a leaf");
    let status = ended(shell_in(&leaf, load));
    assert!(!status.success(), "90 MB do not fit into 32 MiB: {status}");
    let used = leaf.usage().expect("its numbers");
    assert_eq!((used.bound, used.memory_limit_bytes), (MemoryBound::Cgroup, narrow.memory));
    assert!(used.memory_peak_bytes.expect("this kernel says it") <= narrow.memory);
    // Without a disk nothing moves, but the kernel says so.
    assert!(
        leaf.path().join("io.stat").exists() && used.read_bytes.is_some() && used.written_bytes.is_some()
    );
    let path = leaf.path().to_owned();
    assert_eq!(leaf.end(), Some(Shortage::OwnLimit), "the kernel says who ran out of memory");
    assert!(!path.exists(), "its group is gone");
    say("memory.max ends what needs more, and says so");
}

/// Where the whole tree gets less than a leaf may use, the leaf is not to blame. The control is the case above.
fn a_limit_above_is_not_taken_for_the_own(groups: &Groups) {
    let leaf = groups.leaf(WIDE).expect("a leaf");
    let above = leaf.path().parent().expect("the tree").join("memory.max");
    fs::write(&above, (64 * MIB).to_string()).expect("the tree is this program's");
    let status = ended(shell_in(&leaf, "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c > /dev/null"));
    fs::write(&above, "max").expect("the tree is this program's");
    assert!(!status.success(), "90 MB do not fit into 64 MiB: {status}");
    assert_eq!(leaf.end(), Some(Shortage::Elsewhere), "the leaf itself was within its limit");
    say("a want of memory above a group is not taken for its own");
}

fn processes_are_limited(groups: &Groups) {
    let load = "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i + 1)); done; exit 0";
    let wide = groups.leaf(WIDE).expect("a leaf");
    assert!(ended(shell_in(&wide, load)).success(), "the control: 40 processes can be started");
    assert_eq!(wide.usage().expect("its numbers").processes, 40);
    let leaf = groups.leaf(GroupLimits { processes: 8, ..WIDE }).expect("a leaf");
    let status = ended(shell_in(&leaf, load));
    assert!(!status.success(), "not beyond 8: {status}");
    assert!(leaf.usage().expect("its numbers").processes <= 8);
    for leaf in [wide, leaf] {
        let path = leaf.path().to_owned();
        drop(leaf);
        assert!(!path.exists(), "whoever was left in it is ended, and it is gone");
    }
    say("pids.max bounds processes, and the end of a group ends them all");
}

/// Milliseconds that two busy processes got of one processor, first and second: as soon as they are as wanted, or when
/// they had as much as they ever get. A machine that is busy itself counts its own pauses to whoever had the processor,
/// which evens out in time.
fn shared(groups: &Groups, weights: [u64; 2], are_as_wanted: impl Fn([u64; 2]) -> bool) -> [u64; 2] {
    let leaves = weights.map(|weight| groups.leaf(GroupLimits { weight, ..WIDE }).expect("a leaf"));
    let busy = leaves.each_ref().map(|leaf| shell_in(leaf, "while :; do :; done"));
    let used = loop {
        let used = leaves.each_ref().map(|leaf| leaf.usage().expect("its numbers").cpu_ms.0);
        let both: u64 = used.iter().sum();
        if both >= MOST_BUSY_MS || (both >= BUSY_MS && are_as_wanted(used)) {
            break used;
        }
        std::thread::yield_now();
    };
    drop(leaves);
    for child in busy {
        assert!(!ended(child).success(), "ended with its group");
    }
    used
}

fn shares_of_the_processor_follow_the_weights(groups: &Groups) {
    assert_eq!(
        std::thread::available_parallelism().expect("known").get(),
        1,
        "there is one processor to share"
    );
    let are_equal = |[one, other]: [u64; 2]| one.max(other) < 2 * one.min(other);
    let [one, other] = shared(groups, [100, 100], are_equal);
    assert!(are_equal([one, other]), "the control: equal weights, {one} and {other} ms");
    let first_has_more = |[heavy, light]: [u64; 2]| heavy > 4 * light;
    let [heavy, light] = shared(groups, [800, 50], first_has_more);
    assert!(first_has_more([heavy, light]), "sixteen times the weight: {heavy} and {light} ms");
    say(&format!(
        "cpu.weight shares the processor: {one} and {other} ms as equals, {heavy} and {light} ms at 16 to 1"
    ));
}

async fn a_worker_is_born_in_its_leaf_and_the_leaf_goes_with_it(groups: Groups) {
    let seed = ZygoteSeed::start(&worker_exe(), None).expect("a zygote").within(groups);
    let policy = ConfinementPolicy::default();
    let required = ConfinementPolicy { require: [policy.require, vec![Boundary::Cgroup]].concat(), ..policy };
    let sandbox = Sandbox::adopt(seed, required).expect("adopted");
    let worker = sandbox.launch_worker().await.expect("a worker, with a group as the policy requires");
    assert_eq!(worker.receipt().evidence(Boundary::Cgroup), Evidence::Observed, "{:#?}", worker.receipt());
    let group =
        group_in(&fs::read_to_string(format!("/proc/{}/cgroup", worker.receipt().pid)).expect("readable"));
    assert!(group.file_name().is_some_and(|name| name.to_string_lossy().starts_with("far-")), "{group:?}");
    assert_eq!(fs::read_to_string(group.join("memory.swap.max")).expect("there").trim(), "0");
    let used = worker.gauge().and_then(|gauge| gauge.read()).expect("its numbers");
    assert!(used.memory_bytes > Bytes(0) && used.processes == 1, "{used:?}");
    let end = worker.stop().await;
    assert_eq!((end.reason.as_str(), end.out_of_memory), ("killed by signal 9", None));
    assert!(!group.exists(), "the group goes with its process");
    sandbox.shutdown().await;
    say("a worker is born in its group, a receipt shows it, and the group goes with it");
}

fn worker_exe() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    this.parent().and_then(Path::parent).expect("examples lies in a profile's folder").join("aaos-worker")
}

fn own_group() -> PathBuf {
    group_in(&fs::read_to_string("/proc/self/cgroup").expect("readable"))
}

/// The directory of what /proc/PID/cgroup says.
fn group_in(told: &str) -> PathBuf {
    Path::new(TOP).join(told.trim().trim_start_matches("0::/"))
}

/// A process that shares its group moves nobody: an ordinary user gets none, root gets one beside it.
fn shared_groups_are_left_alone() {
    let before = own_group();
    let mut neighbour = sleeping();
    let groups = claimed();
    if rustix::process::geteuid().is_root() {
        let leaf = groups.leaf(WIDE).expect("root makes its groups beside it");
        assert_eq!(leaf.path().parent().and_then(Path::parent), before.parent());
        what_a_killed_daemon_left_is_removed();
        what_bounds_a_shared_group_from_above_bounds_far_processes_too();
    } else {
        let why = groups.why_none().expect("none").to_string();
        assert!(why.contains("1 other processes") && why.contains("Delegate"), "{why}");
    }
    assert_eq!(own_group(), before, "nobody was moved");
    drop(groups);
    neighbour.kill().and_then(|()| neighbour.wait()).expect("ended");
    say("a group that is shared is left alone");
}

fn sleeping() -> Child {
    command("/bin/sleep").arg("1000").spawn().expect("a neighbour in the same group")
}

/// Two groups like those of a service manager: one with controllers for what is in it, and in that one for processes.
fn what_bounds_a_shared_group_from_above_bounds_far_processes_too() {
    let slice = Path::new(TOP).join(format!("slice-{}", std::process::id()));
    let session = slice.join("session");
    fs::create_dir_all(&session).expect("root may");
    fs::write(slice.join("cgroup.subtree_control"), "+memory +pids").expect("it has them");
    let in_session = |words: &[&str]| claim_told(&session, words);
    let entering = "echo 0 > \"$2/cgroup.procs\" && exec \"$0\" \"$@\"";
    let foreign = "echo 0 > \"$2/cgroup.procs\" && \"$0\" \"$@\"; exit $?";
    let inside = ["/usr/bin/unshare", "--pid", "--fork", "--mount-proc"];

    let alone = in_session(&["/bin/sh", "-c", entering]);
    assert_eq!(alone.tree.parent(), Some(session.as_path()), "the control: alone in it, it has it to itself");
    assert_eq!(alone.own, alone.tree.join("agentd"), "the control: and leaves it for a leaf");

    let mut neighbour = sleeping();
    fs::write(session.join("cgroup.procs"), neighbour.id().to_string()).expect("root may");
    let shared = in_session(&["/bin/sh", "-c", entering]);
    assert_eq!(
        shared.tree.parent(),
        Some(slice.as_path()),
        "beside the group that is shared, not at the top"
    );
    assert_eq!(shared.own, session, "nobody was moved");
    neighbour.kill().and_then(|()| neighbour.wait()).expect("ended");

    let its_own = in_session(&inside);
    assert_eq!(
        its_own.tree.parent(),
        Some(session.as_path()),
        "process 1 that only stands in makes way, too"
    );
    assert_eq!(its_own.first, its_own.own, "{its_own:?}");
    let anothers = in_session(&[&inside[..], &["/bin/sh", "-c", foreign]].concat());
    assert_eq!(
        anothers.tree.parent(),
        Some(slice.as_path()),
        "a process 1 of somebody else's shares the group"
    );
    assert_eq!((&anothers.first, &anothers.own), (&session, &session), "and is not moved");

    for group in [&session, &slice] {
        fs::remove_dir(group).expect("nothing is left in it");
    }
    say("groups beside a shared one stay below what bounds it, and no process of anybody else's is moved");
}

/// Where the groups of a process are, and where it and its process 1 are meanwhile.
#[derive(Debug)]
struct Claimed {
    tree: PathBuf,
    own: PathBuf,
    first: PathBuf,
}

/// Has this program claim groups in `group`, started by `words`, and reads what it tells.
fn claim_told(group: &Path, words: &[&str]) -> Claimed {
    let this = std::env::current_exe().expect("a running program has a path");
    let (program, args) = words.split_first().expect("a program");
    let mut starting = command(program);
    let starting = starting.args(args).arg(this).args(["claim".as_ref(), group.as_os_str()]);
    let output = starting.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {} {told}", output.status);
    let mut paths = told.lines().map(PathBuf::from);
    let mut next = || paths.next().expect("three paths");
    Claimed { tree: next(), own: next(), first: next() }
}

/// The role `claim`.
fn tell_claim(group: &Path) {
    if std::process::id() == 1 {
        fs::write(group.join("cgroup.procs"), "0").expect("root may");
        let mut words = std::env::args_os();
        let mut again = command("/proc/self/exe");
        let again = again.arg0(words.next().expect("its name")).args(words);
        assert!(again.status().expect("it starts").success());
        return;
    }
    let groups = claimed();
    let leaf = groups.leaf(WIDE).expect("a leaf");
    let first = fs::read_to_string("/proc/1/cgroup").expect("readable");
    let tree = leaf.path().parent().expect("the tree");
    let told = [tree.to_owned(), own_group(), group_in(&first)].map(|path| format!("{}\n", path.display()));
    std::io::stdout().lock().write_all(told.concat().as_bytes()).expect("standard output is open");
}

/// Another process of the same state finds what the first one left when it was killed.
fn what_a_killed_daemon_left_is_removed() {
    let state = tempfile::tempdir().expect("a directory");
    let this = std::env::current_exe().expect("a running program has a path");
    let mut first = command(this);
    let first = first.arg("hold").arg(state.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut first = first.spawn().expect("the first starts");
    let mut told = String::new();
    BufReader::new(first.stdout.take().expect("a pipe")).read_line(&mut told).expect("it tells its leaf");
    let left = PathBuf::from(told.trim());
    first.kill().and_then(|()| first.wait()).expect("killed");
    let inside = fs::read_to_string(left.join("cgroup.procs")).expect("its leaf is still there");
    assert_eq!(inside.lines().count(), 1, "and somebody is in it: {inside:?}");
    let again = Groups::claim(&GroupName::of_state(state.path()).expect("the same name"));
    assert!(again.why_none().is_none(), "{:?}", again.why_none());
    assert!(!left.exists() && left.parent().is_some_and(Path::is_dir), "ended, removed, and made anew");
    drop(again);
    assert!(!left.parent().is_some_and(Path::exists), "nothing is left");
    say("groups that a killed daemon left are ended and removed by the next");
}

/// The role `hold`, the first of the two: makes a leaf with somebody in it, tells its path, and waits.
fn hold_until_killed(state: &Path) {
    let groups = Groups::claim(&GroupName::of_state(state).expect("a name"));
    let leaf = groups.leaf(WIDE).expect("a leaf");
    let held = shell_in(&leaf, "exec sleep 1000");
    while fs::read_to_string(leaf.path().join("cgroup.procs")).is_ok_and(|inside| inside.is_empty()) {
        std::thread::yield_now();
    }
    writeln!(std::io::stdout().lock(), "{}", leaf.path().display()).expect("told");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("it never ends");
    ended(held);
}

#[expect(clippy::disallowed_methods, reason = "the loads are programs of the machine")]
fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}
