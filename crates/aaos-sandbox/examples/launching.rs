//! A process that launches, for tests to start as another user, without namespaces, and to kill.
//!
//! `launching WORKER_EXE MODE...`; prints one line of JSON for each thing that a test looks at, then waits
//! until its standard input ends. Modes: `no-namespaces` refuses itself namespaces before the zygote starts, as some
//! machines do; `locked` locks itself like agentd after the zygote was started and prints its own receipt; `try` says
//! what it may still do; `look` says what it still reads of itself; `time=N` launches N workers and prints microseconds; `model`
//! prints the receipt of the process of a local model, of the program `model_stub` beside it, instead of a worker's.

#[path = "contest/refusing.rs"]
mod refusing;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use aaos_confine::run_probes;
use aaos_core::confinement::ConfinementPolicy;
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::wire::ProbeAttempt;
use aaos_sandbox::{Sandbox, ZygoteSeed, lock_this_daemon};

use crate::refusing::refuse_namespaces;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (worker, modes) = arguments.split_first().expect("the worker's program");
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    if has("no-namespaces") {
        refuse_namespaces();
    }
    let seed = ZygoteSeed::start(Path::new(worker), None).expect("a zygote");
    let seed = if has("model") { with_model_beside(seed, Path::new(worker)) } else { seed };
    if has("locked") {
        say(&lock_this_daemon().expect("locked"));
    }
    if has("try") {
        let program = AbsPath::parse("/bin/true").expect("a path");
        say(&run_probes(&[ProbeAttempt::InetSocket, ProbeAttempt::Exec(program), ProbeAttempt::UnixSocket]));
    }
    if has("look") {
        say(&look_at_itself());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let times = modes.iter().find_map(|mode| mode.strip_prefix("time="));
    runtime.block_on(async {
        let sandbox = Sandbox::adopt(seed, ConfinementPolicy::default()).expect("adopted");
        if let Some(count) = times {
            return time(&sandbox, count.parse().expect("a number")).await;
        }
        if sandbox.has_model_program() {
            let locked = sandbox.lock_model(Bytes(1), 2).await;
            match &locked {
                Ok(model) => say(model.receipt()),
                Err(error) => say(&format!("{error:?}")),
            }
            return;
        }
        match sandbox.launch_worker().await {
            Ok(worker) => {
                say(worker.receipt());
                let waiting = tokio::task::spawn_blocking(wait_for_end_of_input);
                waiting.await.expect("waited");
                say(&worker.is_usable());
            }
            Err(error) => say(&format!("{error:?}")),
        }
        sandbox.shutdown().await;
    });
}

fn with_model_beside(seed: ZygoteSeed, worker: &Path) -> ZygoteSeed {
    seed.with_model(&worker.with_file_name("model_stub")).expect("its program")
}

async fn time(sandbox: &Sandbox, count: usize) {
    sandbox.abilities().await.expect("a zygote that is ready");
    let mut micros = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let worker = sandbox.launch_worker().await.expect("a worker");
        micros.push(start.elapsed().as_micros());
        worker.stop().await;
    }
    micros.sort_unstable();
    say(&format!(
        "launch µs: p10 {} median {} p90 {}",
        micros[count / 10],
        micros[count / 2],
        micros[count * 9 / 10]
    ));
}

/// What agentd reads of its own process: for the check of peers, for descriptors, for limits.
fn look_at_itself() -> Vec<(String, bool)> {
    let own = format!("/proc/{}/ns/user", std::process::id());
    let links =
        [own.as_str(), "/proc/self/ns/user", "/proc/self/ns/pid", "/proc/self/fd/0", "/proc/self/exe"];
    let files = ["/proc/self/status", "/proc/self/limits", "/proc/self/maps", "/proc/self/cgroup"];
    let mut seen: Vec<(String, bool)> =
        links.into_iter().map(|link| (link.to_owned(), std::fs::read_link(link).is_ok())).collect();
    seen.extend(files.into_iter().map(|file| (file.to_owned(), std::fs::read(file).is_ok())));
    seen.push(("/proc/self/fd".to_owned(), std::fs::read_dir("/proc/self/fd").is_ok()));
    seen
}

fn wait_for_end_of_input() {
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).expect("read");
}

fn say(value: &impl serde::Serialize) {
    let line = serde_json::to_string(value).expect("plain");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("written");
    out.flush().expect("written");
}
