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
use crate::permits::Permits;
use crate::processes::{Memory, built, pause, program};
use crate::programs::Programs;
use crate::reads::file_reads;
use crate::report::{PerAgent, Report};
use crate::rounds::Effort;
use crate::stats::Samples;

/// What everything else stands beside.
const FORK_EXEC: &str = "fork+exec of /bin/true";
/// The same file by the name that is no link: a grant names what is executed.
const TRIVIAL: &str = "/usr/bin/true";
const FRESH: &str = "worker, from the order to its first answer";
const PARKED: &str = "parked worker, from the need to its first answer";
const NEXT: &str = "the same right after another, with no network namespace made ahead";
const BUBBLEWRAP: &str = "bubblewrap, all namespaces, /bin/true";
const CRUN: &str = "crun, without user and cgroup namespaces, a static program";
const PROGRAM: &str = "command_run of /bin/true in a program sandbox, from the permit to the receipt";
const PROGRAM_NEXT: &str = "the same right after another, with no sandbox made ahead";
const READ: &str = "file_read of 4 KiB through a worker";
/// Two processes that wake each other, and nothing else.
const THERE_AND_BACK: &str = "a byte through cat and back";

/// Workers whose own memory is looked at.
const SAMPLED: usize = 100;
/// After this long the zygote has made what its next launch needs.
const QUIET: Duration = Duration::from_millis(10);
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
    let forker = compiled(folder, "forker", FORKER)?;
    let mut baseline = Forker::start(program(&forker), &words(&["/bin/true"]))?;
    let mut bubblewrap = other("bubblewrap", bubblewrap(&forker), report);
    let mut crun = other("crun", crun(&forker, folder), report);
    let mut programs = Programs::new(TRIVIAL, far)?;
    // From the first program on one sandbox is made ahead.
    programs.once(far)?;
    let [mut plain, mut fresh, mut next, mut parked, mut ran, mut ran_next, mut bwrapped, mut contained] =
        std::array::from_fn(|_| Samples::default());
    for _ in 0..effort.launches {
        far.until_parked()?;
        pause(QUIET);
        plain.push_micros(baseline.once()?);
        fresh.push_micros(far.first_answer(First::Launched)?);
        next.push_micros(far.first_answer(First::Launched)?);
        parked.push_micros(far.first_answer(First::Parked)?);
        far.until_parked()?;
        far.until_spare()?;
        pause(QUIET);
        ran.push_micros(programs.once(far)?);
        ran_next.push_micros(programs.once(far)?);
        if let Some(bubblewrap) = &mut bubblewrap {
            bwrapped.push_micros(bubblewrap.once()?);
        }
        if let Some(crun) = &mut crun {
            contained.push_micros(crun.once()?);
        }
    }
    report.figure(FORK_EXEC, &plain, None);
    for (name, samples) in [
        (FRESH, &fresh),
        (NEXT, &next),
        (PARKED, &parked),
        (PROGRAM, &ran),
        (PROGRAM_NEXT, &ran_next),
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
    let found = report.median(PROGRAM);
    report.target("command_run", found, 3.0 * base, "µs", "3 × fork+exec of /bin/true".to_owned());
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
    let times = effort.rounds * effort.requests;
    report.figure(THERE_AND_BACK, &there_and_back(times)?, None);
    report.figure(READ, &file_reads(far, times, Permits::new(TRIVIAL)?)?, Some(THERE_AND_BACK));
    let found = report.median(READ);
    report.target("file_read through a worker", found, 60.0, "µs", "on a quiet machine".to_owned());
    Ok(())
}

/// A byte to another process and back, over and over.
fn there_and_back(times: usize) -> Result<Samples> {
    let mut child = program(Path::new("/bin/cat")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (there, back) = (child.stdin.take(), child.stdout.take());
    let (mut there, mut back) = (there.context("piped")?, back.context("piped")?);
    let mut samples = Samples::default();
    for _ in 0..times {
        let begun = Instant::now();
        there.write_all(b".").context("write to cat")?;
        back.read_exact(&mut [0]).context("read from cat")?;
        samples.push_micros(begun.elapsed());
    }
    drop(there);
    ensure!(child.wait()?.success(), "cat failed");
    Ok(samples)
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

/// A C program that forks and executes one command for each byte that it reads, and writes how long that took.
struct Forker {
    child: Child,
    orders: ChildStdin,
    times: ChildStdout,
}

const FORKER: &str = r#"
#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
int main(int count, char **words) {
    char *environment[] = {0}, order;
    int orders = fcntl(0, F_DUPFD_CLOEXEC, 10), times = fcntl(1, F_DUPFD_CLOEXEC, 10);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (count < 2 || orders < 0 || times < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0) return 1;
    while (read(orders, &order, 1) == 1) {
        struct timespec from, to;
        int status;
        clock_gettime(CLOCK_MONOTONIC, &from);
        pid_t child = fork();
        if (child == 0) { execve(words[1], words + 1, environment); _exit(127); }
        if (child < 0 || waitpid(child, &status, 0) < 0 || status) return 1;
        clock_gettime(CLOCK_MONOTONIC, &to);
        unsigned long long took = (to.tv_sec - from.tv_sec) * 1000000000ull + to.tv_nsec - from.tv_nsec;
        if (write(times, &took, sizeof took) != sizeof took) return 1;
    }
    return 0;
}
"#;

impl Forker {
    /// Starts the program, by way of `launcher`, for a command.
    fn start(mut launcher: Command, command: &[String]) -> Result<Self> {
        let launcher = launcher.args(command).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = launcher.spawn().with_context(|| format!("start {launcher:?}"))?;
        let (orders, times) = (child.stdin.take(), child.stdout.take());
        let (orders, times) = (orders.context("piped")?, times.context("piped")?);
        Ok(Self { child, orders, times })
    }

    fn once(&mut self) -> Result<Duration> {
        self.orders.write_all(b".").context("order a fork")?;
        let mut nanoseconds = [0; 8];
        self.times.read_exact(&mut nanoseconds).context("the command failed")?;
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

/// Installs another launcher by apt where it is missing and we may.
fn installed(package: &str, name: &str) -> Result<String> {
    let exe = Path::new("/usr/bin").join(name);
    if !exe.exists() {
        let mut apt = program(Path::new("/usr/bin/apt-get"));
        apt.args(["install", "-y", "-q", "--no-install-recommends", package]);
        apt.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        // Whether it worked is seen by the program being there.
        drop(apt.stdout(Stdio::null()).stderr(Stdio::null()).status());
    }
    ensure!(exe.exists(), "it is not installed and could not be");
    Ok(exe.display().to_string())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Another launcher that has run once; its name stands in the report where it cannot be had.
fn other(name: &'static str, begun: Result<Forker>, report: &mut Report) -> Option<Forker> {
    let warm = begun.and_then(|mut forker| {
        forker.once()?;
        Ok(forker)
    });
    warm.map_err(|error| report.absent.push(format!("{name}: {error:#}"))).ok()
}

/// The same namespaces, an empty root but for the program and its libraries, and no capability.
fn bubblewrap(forker: &Path) -> Result<Forker> {
    let mut command = vec![installed("bubblewrap", "bwrap")?];
    command.extend(words(&["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]));
    command.extend(words(&["--clearenv", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]));
    command.extend(words(&["--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"]));
    command.extend(words(&["--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "/bin/true"]));
    Forker::start(program(forker), &command)
}

/// A container whose root holds one program, without a control group: crun refuses the hybrid layout, so its own
/// mount namespace shows it none.
fn crun(forker: &Path, folder: &Path) -> Result<Forker> {
    let exe = installed("crun", "crun")?;
    let bundle = folder.join("bundle");
    for directory in ["dev", "proc", "sys"] {
        std::fs::create_dir_all(bundle.join("rootfs").join(directory))?;
    }
    let plain = compiled(folder, "plain", "int main(void) { return 0; }\n")?;
    std::fs::copy(plain, bundle.join("rootfs/plain"))?;
    let spec = program(Path::new(&exe)).arg("spec").current_dir(&bundle).status().context("start crun")?;
    ensure!(spec.success(), "it makes no configuration");
    configure(&bundle.join("config.json"))?;
    let hide = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
    let mut launcher = program(Path::new("/usr/bin/unshare"));
    launcher.args(["--mount", "/bin/sh", "-c", hide, "sh"]).arg(forker).env("PATH", "/usr/bin:/bin");
    let (state, bundle) = (bundle.join("state").display().to_string(), bundle.display().to_string());
    let run = ["--root", &state, "--cgroup-manager", "disabled", "run", "--bundle", &bundle, "aaos-bench"];
    Forker::start(launcher, &[vec![exe], words(&run)].concat())
}

/// One program, no terminal, no capability, no mount, no limit that needs a control group.
fn configure(path: &Path) -> Result<()> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    config["process"]["args"] = json!(["/plain"]);
    config["process"]["terminal"] = json!(false);
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        config["process"]["capabilities"][set] = json!([]);
    }
    config["mounts"] = json!([]);
    config["linux"]["resources"] = json!({});
    Ok(std::fs::write(path, serde_json::to_vec(&config)?)?)
}
