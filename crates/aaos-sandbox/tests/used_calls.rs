//! No rule of the worker's seccomp table is redundant: each call that it allows is made by a real worker.
//!
//! A worker goes through all of its jobs below strace, and another one panics; what they call behind their filter is
//! held against the table, row by row. What is called at a fault alone has a test of its own.

mod lab;

use std::collections::BTreeSet;
use std::fs;

use aaos_confine::tables::WORKER;
use aaos_core::confinement::ConfinementPolicy;
use aaos_core::wire::ProbeAttempt;
use aaos_sandbox::SandboxError;
use lab::Lab;
use serde_json::json;
use testkit::{scratch, trace_with_children};

/// The program of every worker, and the attempt that has the other one panic.
const WORKER_PROGRAM: &str = "aaos-worker";
const PANIC: ProbeAttempt = ProbeAttempt::Signal(0);
/// Calls that a worker makes at its end alone: at a fault, of which the test below has one of each kind, or where it
/// ends before it is killed, which is a matter of chance.
const AT_THE_END: &[&str] = &["rt_sigaction", "rt_sigreturn", "exit_group"];

/// The calls of every process behind its filter, as strace writes them.
fn behind_filter(trace: &str) -> Vec<String> {
    let mut locked = BTreeSet::new();
    let mut found = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if locked.contains(pid) {
            found.push(call.to_owned());
        }
        if call.starts_with("seccomp(SECCOMP_SET_MODE_FILTER") {
            locked.insert(pid);
        }
    }
    found
}

/// Every job that a worker has.
async fn work(lab: &mut Lab) {
    let (small, big, page) = (lab.path("data/f"), lab.path("data/big"), "some words\n".repeat(60_000));
    let jobs = [
        ("echo", json!({"message": "hello"})),
        ("file_read", json!({"path": small, "offset": 5, "limit": 2})),
        ("file_write", json!({"path": big, "content": page})),
        ("file_write", json!({"path": big, "content": "more", "append": true})),
        ("file_edit", json!({"path": big, "old_string": "more", "new_string": "less"})),
        ("file_read", json!({"path": big})),
        ("file_read_many", json!({"paths": [small, big]})),
        ("file_list", json!({"path": lab.path("data")})),
        ("grep", json!({"path": lab.path("data"), "pattern": "words"})),
    ];
    for (tool, arguments) in jobs {
        lab.call(tool, arguments).await.unwrap_or_else(|failure| panic!("{tool}: {failure}"));
    }
    lab.worker.probe(vec![ProbeAttempt::ExtraDescriptors]).await.expect("answered");
}

/// What workers of this program call behind their filter, below strace.
async fn traced(program: &str) -> Vec<String> {
    let folder = scratch();
    let file = folder.path().join("trace");
    let mut lab = Lab::with(scratch(), program, ConfinementPolicy::default()).await;
    let mut tracer = trace_with_children(lab.sandbox.zygote_pid(), &file);
    lab.worker = lab.sandbox.launch_worker().await.expect("a traced worker");
    if program == WORKER_PROGRAM {
        work(&mut lab).await;
    } else {
        let died = lab.worker.probe(vec![PANIC]).await;
        assert!(died.is_err(), "it ends instead of an answer");
    }
    lab.end().await;
    tracer.wait().expect("reaped");
    behind_filter(&fs::read_to_string(&file).expect("written"))
}

fn is_made(name: &str, calls: &[String]) -> bool {
    let begin = format!("{name}(");
    calls.iter().any(|call| call.starts_with(&begin))
}

#[tokio::test]
async fn every_allowed_call_is_made() {
    let mut calls = traced(WORKER_PROGRAM).await;
    calls.extend(traced("examples/ending_worker").await);
    let allowed: Vec<&str> = WORKER.iter().map(|rule| rule.name.trim_start_matches("SYS_")).collect();
    let unused: Vec<&&str> =
        allowed.iter().filter(|name| !is_made(name, &calls) && !AT_THE_END.contains(name)).collect();
    assert!(unused.is_empty(), "{unused:?} are allowed for nothing");
    assert!(AT_THE_END.iter().all(|name| allowed.contains(name)), "they were not seen and are not allowed");
    // The control: what is not allowed is tried (by the probes of a receipt), and not taken for allowed.
    assert!(is_made("socket", &calls) && !WORKER.iter().any(|rule| rule.name == "SYS_socket"));
}

/// With `rt_sigaction` refused, a fault would come again for ever, and with `rt_sigreturn` refused it would be another.
/// (Below strace it comes again all the same: the kernel keeps a traced first process of a PID namespace alive.)
#[tokio::test]
async fn every_bad_end_is_an_end_and_is_told() {
    for (way, reason, words) in [
        // The daemon may be quicker than its end.
        (0, "", "as it was told to"),
        (1, "killed by signal 11", ""),
        (2, "killed by signal 11", "has overflowed its stack"),
        (3, "killed by signal 11", ""),
    ] {
        let mut lab = Lab::with(scratch(), "examples/ending_worker", ConfinementPolicy::default()).await;
        let died = lab.worker.probe(vec![ProbeAttempt::Signal(way)]).await;
        assert!(matches!(died, Err(SandboxError::Closed)), "{way}: {died:?}");
        let end = lab.end().await;
        assert!(end.reason.contains(reason), "{way}: {end:?}");
        assert!(end.stderr_tail.contains(words), "{way}: {end:?}");
    }
}
