//! The first program of a virtual machine of `cargo xtask vm-test`: mounts, runs what the plan says for the user whose
//! machine it is, tells the code.
//!
//! Invariants: the tests have a root file system that can be replaced, as they have on any machine (the one that an
//! initramfs makes cannot); a test program without privilege has a control group of its own; whatever loses its parent
//! is reaped; the machine ends after the last test, whatever happened.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_move};
use rustix::process::{WaitOptions, chdir, chroot, wait};
use rustix::system::{RebootCommand, reboot};

type Outcome<T> = Result<T, Box<dyn Error>>;

const GROUPS: &str = "/sys/fs/cgroup";
const CONTROLLERS: &str = "+memory +pids +cpu +io";
/// What a test program that could not be started, or that a signal ended, counts as.
const BROKEN: u8 = 125;

fn main() {
    let code = match run() {
        Ok(code) => code,
        Err(error) => {
            say(&format!("the guest cannot go on: {error}"));
            BROKEN
        }
    };
    say(&format!("{} {} {code}", told("aaos.end="), told("aaos.nonce=")));
    if let Err(errno) = reboot(RebootCommand::Restart) {
        // The kernel panics now, since its first program ends.
        say(&format!("the machine cannot end: {errno}"));
    }
}

/// What the machine was started with, behind a key.
fn told(key: &str) -> String {
    let all = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    all.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap_or_default().to_owned()
}

/// The console is all there is to tell it to.
fn say(line: &str) {
    let mut console = std::io::stdout().lock();
    drop(writeln!(console, "{line}").and_then(|()| console.flush()));
}

fn run() -> Outcome<u8> {
    make_root_replaceable()?;
    mount_all()?;
    // Up and running; the kernel gives it its address.
    fs::write("/sys/class/net/lo/flags", "0x9")?;
    fs::write(Path::new(GROUPS).join("cgroup.subtree_control"), CONTROLLERS)?;
    let ours = told("aaos.uid=") + "\t";
    let mut worst = 0;
    let plan = fs::read_to_string("/plan")?;
    for (number, line) in plan.lines().filter(|line| line.starts_with(&ours)).enumerate() {
        let code = run_one(number, line)?;
        worst = worst.max(code);
    }
    Ok(worst)
}

/// The root of an initramfs has no parent, so nothing can be pivoted away from it. A mount of it over itself has one.
fn make_root_replaceable() -> Outcome<()> {
    mount_bind_recursive("/", "/tmp")?;
    chdir("/tmp")?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn mount_all() -> Outcome<()> {
    let plain = MountFlags::empty();
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", safe, None)?;
    mount("sysfs", "/sys", "sysfs", safe, None)?;
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, None)?;
    fs::create_dir("/dev/pts")?;
    mount("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, c"ptmxmode=0666")?;
    mount("cgroup2", GROUPS, "cgroup2", safe, None)?;
    mount("tmpfs", "/tmp", "tmpfs", plain, None)?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

/// Runs one line of the plan: a uid, a program, its arguments, with tabs between.
fn run_one(number: usize, line: &str) -> Outcome<u8> {
    let mut words = line.split('\t');
    let uid: u32 = words.next().ok_or("a line of the plan is empty")?.parse()?;
    let program = words.next().ok_or("a line of the plan names no program")?;
    let args: Vec<&str> = words.collect();
    say(&format!("=== {program} as uid {uid}"));
    let began = Instant::now();
    let group = own_group(number, uid)?;
    let code = in_group(&group, uid, program, &args)?;
    say(&format!("=== {program} as uid {uid}: code {code} after {} s", began.elapsed().as_secs()));
    Ok(code)
}

/// A control group that belongs to a user, as a service manager delegates one.
fn own_group(number: usize, uid: u32) -> Outcome<PathBuf> {
    let group = Path::new(GROUPS).join(format!("test-{number}"));
    fs::create_dir(&group)?;
    for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        chown(group.join(name), Some(uid), Some(uid))?;
    }
    Ok(group)
}

/// A child begins where its parent is, so this process goes into the group, starts it, and comes back.
fn in_group(group: &Path, uid: u32, program: &str, args: &[&str]) -> Outcome<u8> {
    fs::write(group.join("cgroup.procs"), "0")?;
    let started = command(program)
        .args(args)
        .uid(uid)
        .gid(uid)
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("TMPDIR", "/tmp"), ("AAOS_VM", "1")])
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .spawn();
    fs::write(Path::new(GROUPS).join("cgroup.procs"), "0")?;
    let child = i32::try_from(started?.id())?;
    loop {
        // Whatever ends is reaped: orphans come to the first program.
        if let Some((pid, status)) = wait(WaitOptions::empty())?
            && pid.as_raw_nonzero().get() == child
        {
            return Ok(status.exit_status().map_or(BROKEN, |code| u8::try_from(code).unwrap_or(BROKEN)));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the guest's first program starts the tests")]
fn command(program: &str) -> Command {
    Command::new(program)
}
