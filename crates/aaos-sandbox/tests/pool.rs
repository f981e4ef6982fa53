//! Parked workers: ready before they are needed, each for one owner, never a dead one, and gone with the sandbox.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::path::AbsPath;
use aaos_core::wire::ProbeAttempt;
use aaos_sandbox::{Sandbox, SandboxConfig, Worker, ZygoteSeed};
use rustix::process::{Pid, Signal, kill_process};
use testkit::{PATIENCE, ProcessRef, descendants};

fn worker_exe() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let exe = test.parent().and_then(Path::parent).expect("a profile's folder").join("aaos-worker");
    assert!(exe.is_file(), "{} is missing: run `cargo build --workspace` first", exe.display());
    exe
}

/// A sandbox that parks so many workers, all of which are parked already.
async fn parked(most: usize) -> Sandbox {
    let policy = ConfinementPolicy::default();
    let config = SandboxConfig { parked_workers: most, ..SandboxConfig::from(policy) };
    let seed = ZygoteSeed::start(&worker_exe(), None).expect("a zygote");
    let sandbox = Sandbox::adopt(seed, config).expect("adopted");
    sandbox.fill_pool();
    until_parked(&sandbox, most).await;
    sandbox
}

/// Waits until so many workers are parked.
async fn until_parked(sandbox: &Sandbox, count: usize) {
    let filled = async {
        while sandbox.parked_workers() != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, filled).await.expect("the pool fills in the background");
}

/// What was launched and runs, by pid.
fn running(sandbox: &Sandbox) -> BTreeSet<i32> {
    descendants(sandbox.zygote_pid()).iter().map(|process| process.pid).collect()
}

fn pid_of(worker: &Worker) -> i32 {
    i32::try_from(worker.receipt().pid).expect("a pid")
}

#[tokio::test]
async fn a_parked_worker_is_taken_once_and_replaced_in_the_background() {
    let sandbox = parked(2).await;
    let before = running(&sandbox);
    assert_eq!(before.len(), 2, "as many as were asked for");
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut worker = sandbox.take_worker().await.expect("a parked worker");
        assert!(before.contains(&pid_of(&worker)), "it ran before it was needed");
        for boundary in ConfinementPolicy::default().require {
            assert!(worker.receipt().evidence(boundary).is_proof(), "{boundary:?}: {:#?}", worker.receipt());
        }
        let probe = ProbeAttempt::Open(AbsPath::parse("/etc/passwd").expect("a path"));
        assert!(worker.probe(vec![probe]).await.expect("it serves")[0].refused);
        taken.push(worker);
    }
    assert_ne!(taken[0].id(), taken[1].id());
    until_parked(&sandbox, 2).await;
    let now = running(&sandbox);
    assert_eq!(now.len(), 4, "two are taken and two are parked, not more: {now:?}");
    // What an owner gives up ends; it is parked for nobody else.
    let first = pid_of(&taken[0]);
    for worker in taken {
        worker.stop().await;
    }
    let next = sandbox.take_worker().await.expect("a parked worker");
    assert!(!before.contains(&pid_of(&next)) && !running(&sandbox).contains(&first));
    sandbox.shutdown().await;
}

#[tokio::test]
async fn a_parked_worker_that_died_is_handed_to_nobody() {
    let sandbox = parked(2).await;
    let before = running(&sandbox);
    for pid in &before {
        let process = ProcessRef::find(*pid).expect("it runs");
        kill_process(Pid::from_raw(*pid).expect("not 0"), Signal::KILL).expect("killed");
        process.wait_gone();
    }
    // Nothing has run meanwhile, so the launcher has not yet told of these ends.
    assert_eq!(sandbox.parked_workers(), 2, "the control: they are still in their places");
    let mut worker = sandbox.take_worker().await.expect("a worker");
    assert!(!before.contains(&pid_of(&worker)));
    assert!(worker.probe(Vec::new()).await.is_ok(), "it serves");
    until_parked(&sandbox, 2).await;
    sandbox.shutdown().await;
}

#[tokio::test]
async fn the_pool_ends_with_the_sandbox_also_while_it_is_filled() {
    for wait in [true, false] {
        let sandbox = parked(1).await;
        let worker = sandbox.take_worker().await.expect("a parked worker");
        if wait {
            until_parked(&sandbox, 1).await;
        }
        let all = descendants(sandbox.zygote_pid());
        sandbox.shutdown().await;
        assert!(all.iter().all(|process| !process.is_alive()), "ended and reaped");
        assert!(!worker.is_usable());
        assert!(sandbox.take_worker().await.is_err(), "nothing is launched any more");
        assert_eq!(sandbox.parked_workers(), 0);
    }
}

#[tokio::test]
async fn a_storm_of_agents_gets_a_worker_each_and_the_pool_stays_bounded() {
    let sandbox = parked(2).await;
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let sandbox = sandbox.clone();
        storm.spawn(async move { sandbox.take_worker().await.expect("a worker") });
    }
    let workers = storm.join_all().await;
    let names: BTreeSet<_> = workers.iter().map(Worker::id).collect();
    assert_eq!(names.len(), 32, "no worker is given to two");
    until_parked(&sandbox, 2).await;
    assert_eq!(running(&sandbox).len(), 34);
    sandbox.shutdown().await;
}

#[tokio::test]
async fn a_sandbox_that_parks_none_launches_when_it_is_asked() {
    let sandbox = parked(0).await;
    let worker = sandbox.take_worker().await.expect("a worker");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    assert_eq!(running(&sandbox), BTreeSet::from([pid_of(&worker)]));
    sandbox.shutdown().await;
}
