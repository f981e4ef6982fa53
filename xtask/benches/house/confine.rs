//! Launching and holding workers, beside what others use to confine a program: bubblewrap and crun.
//!
//! Invariants: what stands beside something runs turn by turn with it; a launcher that cannot be had is named in the
//! report; the baseline is `/bin/true`, forked and executed by a program that is smaller than any of ours.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::far::{Far, First};
use crate::processes::{Memory, built, pause, program};
use crate::reads::file_reads;
use crate::report::{PerAgent, Report};
use crate::rounds::Effort;
use crate::stats::Samples;

/// What everything else stands beside.
const FORK_EXEC: &str = "fork+exec of /bin/true";
const FRESH: &str = "worker, from the order to its first answer";
const PARKED: &str = "parked worker, from the need to its first answer";
const LAUNCH_IN: &str = "worker launch to Locked, without its first call";
const BUBBLEWRAP: &str = "bubblewrap, all namespaces, /bin/true";
const CRUN: &str = "crun, all namespaces, a static program";
const READ: &str = "file_read of 4 KiB through a worker";

/// Workers whose own memory is looked at.
const SAMPLED: usize = 100;
/// After this long nothing is left to do from the launches.
const SETTLE: Duration = Duration::from_secs(2);

/// Everything about confinement.
pub(crate) fn measure(far: &Far, effort: Effort, report: &mut Report) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("aaos-bench-").tempdir_in(built()?)?;
    launches(far, folder.path(), effort, report)?;
    file_read(far, effort, report)?;
    crowd(far, effort, report)
}

fn launches(far: &Far, folder: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let mut baseline = Forker::start(folder)?;
    let bubblewrap = other("bubblewrap", "bwrap", report).map(|exe| bubblewrap(&exe));
    let crun = other("crun", "crun", report).map(|exe| Bundle::new(exe, folder)).transpose()?;
    let [mut plain, mut fresh, mut parked, mut locked, mut bwrapped, mut contained] =
        std::array::from_fn(|_| Samples::default());
    for turn in 0..effort.launches {
        far.until_parked()?;
        plain.push_micros(baseline.once()?);
        fresh.push_micros(far.first_answer(First::Launched)?);
        locked.push_micros(far.launch()?);
        parked.push_micros(far.first_answer(First::Parked)?);
        far.until_parked()?;
        if let Some(command) = &bubblewrap {
            bwrapped.push_micros(timed(command())?);
        }
        if let Some(bundle) = &crun {
            contained.push_micros(timed(bundle.command(turn))?);
        }
    }
    report.figure(FORK_EXEC, &plain, None);
    for (name, samples) in [
        (FRESH, &fresh),
        (LAUNCH_IN, &locked),
        (PARKED, &parked),
        (BUBBLEWRAP, &bwrapped),
        (CRUN, &contained),
    ] {
        if samples.count() > 0 {
            report.figure(name, samples, Some(FORK_EXEC));
        }
    }
    let (base, fresh) = (report.median(FORK_EXEC), report.median(FRESH));
    report.target("worker launch", fresh, 1.3 * base, "µs", "1.3 × fork+exec of /bin/true".to_owned());
    let found = report.median(PARKED);
    report.target("parked worker", found, 0.1 * base, "µs", "0.1 × fork+exec of /bin/true".to_owned());
    if bwrapped.count() > 0 {
        let limit = report.median(BUBBLEWRAP) / 3.0;
        report.target(
            "worker launch beside bubblewrap",
            fresh,
            limit,
            "µs",
            "a third of bubblewrap".to_owned(),
        );
    }
    Ok(())
}

fn file_read(far: &Far, effort: Effort, report: &mut Report) -> Result<()> {
    report.figure(READ, &file_reads(far, effort.rounds * effort.requests)?, None);
    let found = report.median(READ);
    report.target("file_read through a worker", found, 60.0, "µs", "on a quiet machine".to_owned());
    Ok(())
}

/// Many workers at once, idle after their launch: what they take of the machine, and of their own.
fn crowd(far: &Far, effort: Effort, report: &mut Report) -> Result<()> {
    let before = available_kib()?;
    let crowd = far.crowd(effort.idle_workers)?;
    pause(SETTLE);
    let taken = before.saturating_sub(available_kib()?);
    let count = u32::try_from(crowd.len()).context("a number of workers")?;
    let system = taken as f64 / f64::from(count);
    let mut private = Samples::default();
    for pid in crowd.pids().step_by((crowd.len() / SAMPLED).max(1)) {
        private.push(Memory::of(pid)?.private as f64);
    }
    let private = private.summary().median;
    report.kib_per_idle_worker.push(PerAgent { measure: "of the machine", kib: system, agents: count });
    report.kib_per_idle_worker.push(PerAgent { measure: "private, median", kib: private, agents: count });
    report.target(
        "idle worker, of the machine",
        system,
        350.0,
        "KiB",
        "all that fewer KiB are available".to_owned(),
    );
    report.target("idle worker, private", private, 100.0, "KiB", "pages that are its own".to_owned());
    far.disperse(crowd)
}

/// Memory that new programs could get without swapping, KiB.
fn available_kib() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let words = line.and_then(|rest| rest.split_whitespace().next()).context("no MemAvailable")?;
    Ok(words.parse()?)
}

/// From the call to its end.
fn timed(mut command: Command) -> Result<Duration> {
    let begun = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let took = begun.elapsed();
    let output = output.with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

/// A C program that forks and executes `/bin/true` for each byte that it reads, and writes how long that took.
struct Forker {
    child: Child,
    orders: ChildStdin,
    times: ChildStdout,
}

const FORKER: &str = r#"
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    char *arguments[] = {"/bin/true", 0}, *environment[] = {0}, order;
    while (read(0, &order, 1) == 1) {
        struct timespec from, to;
        int status;
        clock_gettime(CLOCK_MONOTONIC, &from);
        pid_t child = fork();
        if (child == 0) { execve("/bin/true", arguments, environment); _exit(127); }
        if (child < 0 || waitpid(child, &status, 0) < 0 || status) return 1;
        clock_gettime(CLOCK_MONOTONIC, &to);
        unsigned long long took = (to.tv_sec - from.tv_sec) * 1000000000ull + to.tv_nsec - from.tv_nsec;
        if (write(1, &took, sizeof took) != sizeof took) return 1;
    }
    return 0;
}
"#;

impl Forker {
    fn start(folder: &Path) -> Result<Self> {
        let path = compiled(folder, "forker", FORKER)?;
        let mut child = program(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (orders, times) = (child.stdin.take(), child.stdout.take());
        let (orders, times) = (orders.context("piped")?, times.context("piped")?);
        Ok(Self { child, orders, times })
    }

    fn once(&mut self) -> Result<Duration> {
        self.orders.write_all(b".").context("order a fork")?;
        let mut nanoseconds = [0; 8];
        self.times.read_exact(&mut nanoseconds).context("the forking program ended")?;
        Ok(Duration::from_nanos(u64::from_le_bytes(nanoseconds)))
    }
}

impl Drop for Forker {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// A static program made from C.
fn compiled(folder: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let (text, path) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&text, source)?;
    let mut cc = program(Path::new("/usr/bin/cc"));
    cc.args(["-O2", "-static", "-o"]).arg(&path).arg(&text).env("PATH", "/usr/bin:/bin");
    let made = cc.status().context("a C compiler is needed for the baseline")?;
    ensure!(made.success(), "the C compiler could not make {name}");
    Ok(path)
}

/// Another launcher; installed by apt where it is missing and we may. Says so where it cannot be had.
fn other(package: &'static str, name: &str, report: &mut Report) -> Option<PathBuf> {
    let exe = Path::new("/usr/bin").join(name);
    if !exe.exists() {
        let mut apt = program(Path::new("/usr/bin/apt-get"));
        apt.args(["install", "-y", "-q", "--no-install-recommends", package]);
        apt.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        // Whether it worked is seen by the program being there.
        drop(apt.stdout(Stdio::null()).stderr(Stdio::null()).status());
    }
    if exe.exists() {
        return Some(exe);
    }
    report.absent.push(package);
    None
}

/// The same namespaces, an empty root but for the program, and no capability.
fn bubblewrap(exe: &Path) -> impl Fn() -> Command + use<> {
    let exe = exe.to_owned();
    move || {
        let mut command = program(&exe);
        command.args(["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]);
        command.args(["--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]);
        command.args(["--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"]);
        command.args(["--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "/bin/true"]);
        command
    }
}

/// A container whose root holds one program.
struct Bundle {
    exe: PathBuf,
    folder: PathBuf,
}

impl Bundle {
    fn new(exe: PathBuf, folder: &Path) -> Result<Self> {
        let bundle = folder.join("bundle");
        std::fs::create_dir_all(bundle.join("rootfs"))?;
        let plain = compiled(folder, "plain", "int main(void) { return 0; }\n")?;
        std::fs::copy(plain, bundle.join("rootfs/plain"))?;
        let spec = program(&exe).arg("spec").current_dir(&bundle).status().context("start crun")?;
        ensure!(spec.success(), "crun makes no configuration");
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["process"]["args"] = json!(["/plain"]);
        config["process"]["terminal"] = json!(false);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            config["process"]["capabilities"][set] = json!([]);
        }
        config["mounts"] = json!([]);
        std::fs::write(&path, serde_json::to_vec(&config)?)?;
        Ok(Self { exe, folder: bundle })
    }

    fn command(&self, turn: usize) -> Command {
        let mut command = program(&self.exe);
        command.arg("--root").arg(self.folder.join("state")).args(["--cgroup-manager", "disabled", "run"]);
        command.arg("--bundle").arg(&self.folder).arg(format!("bench-{}-{turn}", std::process::id()));
        command
    }
}
