//! The sandbox that is made before a program needs it: taken once, never dead, and as the machine is when it is taken.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::effect::FileRight;
use rustix::process::{Pid, Signal, kill_process};
use testkit::{PATIENCE, ProcessRef};

use super::{Rig, built, input, text_of};
use crate::config::SandboxConfig;

/// A rig that keeps a spare sandbox.
fn sparing(programs: &[&str]) -> Rig {
    let config = SandboxConfig { parks_programs: true, ..SandboxConfig::from(ConfinementPolicy::default()) };
    Rig::with(programs, config)
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool, what: &str) {
    let so = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.expect(what);
}

impl Rig {
    /// Runs a program, and gives the pid of the sandbox that is kept for the next one.
    async fn spare(&self) -> u32 {
        self.shell("true").await;
        until(|| self.sandbox.has_spare_program(), "a sandbox is made in the background").await;
        let worker = self.worker.lock().await.as_ref().map(|worker| worker.receipt().pid);
        // Its own children are throwaway ones of what it still does.
        let zygote = self.sandbox.zygote_pid();
        let children = fs::read_to_string(format!("/proc/{zygote}/task/{zygote}/children")).expect("a list");
        let pids = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
        // What has ended may not have been reaped yet.
        let runs = |pid: &u32| ProcessRef::find(pid.cast_signed()).is_some_and(|one| one.is_alive());
        let others: Vec<u32> = pids.filter(|pid| Some(*pid) != worker).filter(runs).collect();
        assert_eq!(others.len(), 1, "one and no more: {others:?}");
        others[0]
    }
}

fn send(signal: Signal, pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("not 0"), signal).expect("it runs");
}

#[tokio::test]
async fn a_spare_sandbox_is_for_one_call_and_proves_as_much_as_any_other() {
    let rig = sparing(&["/bin/sh"]);
    let first = rig.prepare(input("/bin/sh", &["-c", "true"])).await.expect("made when it was needed");
    let fresh = first.receipt().clone();
    first.run(std::future::pending()).await.result.expect("it runs");
    let pid = rig.spare().await;
    let script = "cat /tmp/f /dev/shm/f; echo text > /tmp/f; echo text > /dev/shm/f; id -u";
    let [one, two] =
        [rig.prepare(input("/bin/sh", &["-c", script])), rig.prepare(input("/bin/sh", &["-c", script]))];
    let (one, two) = tokio::join!(one, two);
    let (one, two) = (one.expect("a sandbox"), two.expect("a sandbox"));
    let pids = [one.receipt().pid, two.receipt().pid];
    assert!(pids.contains(&pid) && pids[0] != pids[1], "{pid} is taken once: {pids:?}");
    let evidence = |receipt: &aaos_core::confinement::ConfinementReceipt| {
        receipt.boundaries.iter().map(|one| (one.boundary, one.evidence)).collect::<Vec<_>>()
    };
    assert_eq!(evidence(one.receipt()), evidence(&fresh));
    assert_eq!(evidence(two.receipt()), evidence(&fresh));
    assert_eq!(one.receipt().seccomp_filter_hash, fresh.seccomp_filter_hash);
    for sandbox in [one, two] {
        let said = sandbox.run(std::future::pending()).await.result.expect("it runs");
        assert!(!said.stdout.contains("text"), "nothing of one call is seen in another: {said:?}");
    }
    assert_ne!(rig.spare().await, pid);
    rig.sandbox.shutdown().await;
    assert!(!rig.sandbox.has_spare_program());
}

#[tokio::test]
async fn a_spare_sandbox_that_died_holds_nobody_up() {
    let rig = sparing(&["/bin/sh"]);
    let dead = rig.spare().await;
    let process = ProcessRef::find(dead.cast_signed()).expect("it runs");
    send(Signal::KILL, dead);
    process.wait_gone();
    assert_eq!(rig.shell("echo here").await, "here\n");
    // And one that dies when it was taken already.
    let stopped = rig.spare().await;
    send(Signal::STOP, stopped);
    let (said, ()) = tokio::join!(rig.shell("echo here"), async {
        until(|| !rig.sandbox.has_spare_program(), "it is taken").await;
        send(Signal::KILL, stopped);
    });
    assert_eq!(said, "here\n");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_spare_sandbox_ends_with_its_daemon() {
    let rig = sparing(&["/bin/sh"]);
    let spare = ProcessRef::find(rig.spare().await.cast_signed()).expect("it runs");
    rig.sandbox.shutdown().await;
    assert!(!spare.is_alive());
    let rig = sparing(&["/bin/sh"]);
    let spare = ProcessRef::find(rig.spare().await.cast_signed()).expect("it runs");
    drop(rig);
    spare.wait_gone();
}

/// Names the directory with the FIFOs through which the test below has somebody else mount.
const ORDERS: &str = "AAOS_TEST_MOUNT_ORDERS";

/// Runs a test of this program, as this user or as nobody, where `/etc` is its own and somebody mounts something in it
/// when asked to, and takes it away when asked again.
#[expect(clippy::disallowed_methods, reason = "only another process has mounts of its own")]
fn where_mounts_change(as_nobody: bool, test: &str) -> Output {
    let folder = testkit::scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::create_dir(folder.path().join("deps")).expect("made");
    let this = std::env::current_exe().expect("a running program has a path");
    for (from, to) in [(this, "deps/tests"), (built("aaos-worker"), "aaos-worker")] {
        fs::copy(from, folder.path().join(to)).expect("copied");
    }
    let drop = if as_nobody { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "" };
    let script = format!(
        "set -e; mount -t tmpfs -o mode=777 none /etc; mkdir -m 777 /etc/alternatives; echo old > /etc/magic
         cd \"${ORDERS}\"; mkfifo -m 666 orders done
         ( while read order; do $order; echo done; done < orders > done ) &
         {drop} \"$0\" --exact {test}"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", &script]).arg(folder.path().join("deps/tests"));
    command.env(ORDERS, folder.path()).current_dir("/").output().expect("it starts")
}

async fn the_machine_as_it_is(orders: &Path) {
    let rig = sparing(&["/bin/sh"]);
    let mut asked = fs::OpenOptions::new().write(true).open(orders.join("orders")).expect("somebody reads");
    let mut answers = BufReader::new(fs::File::open(orders.join("done")).expect("somebody writes")).lines();
    let mut order = |what: &str| {
        writeln!(asked, "{what}").expect("ordered");
        assert_eq!(answers.next().expect("answered").expect("text"), "done");
    };
    let see = "cat /etc/magic; ls /etc/alternatives";
    rig.spare().await;
    assert_eq!(rig.shell(see).await, "old\n", "the control");
    rig.spare().await;
    fs::write("/etc/next", "new\n").expect("written");
    fs::rename("/etc/next", "/etc/magic").expect("renamed");
    assert_eq!(rig.shell(see).await, "new\n", "a file that was replaced meanwhile");
    let spare = rig.spare().await;
    let held = || fs::read_dir(format!("/proc/{spare}/fd")).map_or(0, Iterator::count);
    // Standard descriptors, its channel, its place of /proc, the list of mounts, and of root's one for whose files are
    // whose.
    let least = 6 + usize::from(rustix::process::geteuid().is_root());
    // Its root, and the domain that is drafted for it, which comes last: until then it holds other things.
    let is_domain = |link: PathBuf| link.as_os_str() == "anon_inode:[landlock-ruleset]";
    let has_domain = || {
        let held = fs::read_dir(format!("/proc/{spare}/fd")).into_iter().flatten().flatten();
        held.filter_map(|one| fs::read_link(one.path()).ok()).any(is_domain)
    };
    until(|| has_domain() && held() == least + 2, "it holds what it has made").await;
    order("mount -t tmpfs none /etc/alternatives");
    until(|| held() == least, "it gives up what could keep a mount in use").await;
    order("touch /etc/alternatives/mounted");
    assert_eq!(rig.shell(see).await, "new\nmounted\n", "what was mounted meanwhile");
    rig.spare().await;
    order("umount /etc/alternatives");
    assert_eq!(rig.shell(see).await, "new\n", "what was unmounted meanwhile");
    rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_spare_sandbox_shows_the_machine_as_it_is_when_it_is_taken() {
    #[expect(clippy::disallowed_methods, reason = "of the test itself")]
    if let Ok(orders) = std::env::var(ORDERS) {
        return the_machine_as_it_is(Path::new(&orders)).await;
    }
    if !rustix::process::geteuid().is_root() {
        println!("not root: nothing can be mounted; a run of root's tests this as both");
        return;
    }
    let test = "program::tests::spare::a_spare_sandbox_shows_the_machine_as_it_is_when_it_is_taken";
    for as_nobody in [false, true] {
        let said = text_of(&where_mounts_change(as_nobody, test));
        assert!(said.contains("1 passed"), "nobody: {as_nobody}: {said}");
    }
}

/// Says that temporary files lie on a mount that cannot be bound elsewhere.
const UNBINDABLE: &str = "AAOS_TEST_UNBINDABLE";

async fn a_granted_place_is_shown() {
    for (mut rig, is_spare) in [(sparing(&["/bin/sh"]), true), (Rig::new(&["/bin/sh"]), false)] {
        let granted = rig.grant(FileRight::Read, "granted");
        fs::write(rig.home.path().join("granted/f"), "shown\n").expect("written");
        if is_spare {
            rig.spare().await;
        }
        assert_eq!(rig.shell(&format!("cat {granted}/f")).await, "shown\n");
        rig.sandbox.shutdown().await;
    }
}

#[tokio::test]
async fn a_granted_place_on_an_unbindable_mount_is_shown() {
    #[expect(clippy::disallowed_methods, reason = "of the test itself")]
    if std::env::var(UNBINDABLE).is_ok() {
        return a_granted_place_is_shown().await;
    }
    if !rustix::process::geteuid().is_root() {
        println!("not root: nothing can be mounted; a run of root's tests this");
        return;
    }
    let test = "program::tests::spare::a_granted_place_on_an_unbindable_mount_is_shown";
    let folder = testkit::scratch();
    // The control: what is unbindable cannot be bound.
    let script = format!(
        "set -e; mount -t tmpfs none \"$TMPDIR\"; mount --make-unbindable \"$TMPDIR\"; mkdir \"$TMPDIR/copy\"
         if mount --bind \"$TMPDIR\" \"$TMPDIR/copy\"; then exit 1; fi
         \"$0\" --exact {test}"
    );
    #[expect(clippy::disallowed_methods, reason = "only another process has mounts of its own")]
    let mut command = Command::new("unshare");
    let this = std::env::current_exe().expect("a running program has a path");
    command.args(["--mount", "/bin/sh", "-c", &script]).arg(this);
    command.env(UNBINDABLE, "1").env("TMPDIR", folder.path());
    let said = text_of(&command.output().expect("it starts"));
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn a_place_that_is_granted_after_the_spare_sandbox_was_made_is_shown() {
    let mut rig = sparing(&["/bin/sh"]);
    let pid = rig.spare().await;
    let late = rig.grant(FileRight::Read, "late");
    fs::write(rig.home.path().join("late/f"), "granted since\n").expect("written");
    let prepared = rig.prepare(input("/bin/sh", &["-c", &format!("cat {late}/f")])).await.expect("a sandbox");
    assert_eq!(prepared.receipt().pid, pid);
    let said = prepared.run(std::future::pending()).await.result.expect("it runs");
    assert_eq!(said.stdout, "granted since\n");
    rig.sandbox.shutdown().await;
}
