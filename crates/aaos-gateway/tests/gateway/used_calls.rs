//! No rule of the gateway's seccomp table is redundant: each call that it allows is made by a real role.
//!
//! Both roles go through their work below strace; what they call behind their filter is held against the table, row by
//! row. What is called where something rare happens stands here, with what that is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use aaos_confine::tables::GATEWAY;
use aaos_core::wire::{EgressReply, ModelsReply};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use testkit::{scratch, trace_with_children};

use crate::locked::{Gateway, ask_everybody, fetch_everything};

/// Calls that a short life on a quiet machine need not show, and what they are for.
const RARE: &[(&str, &str)] = &[
    ("read", "a key lies in a file, or the counter of wake-ups is full"),
    ("getpeername", "a name is asked of over TCP, because its answer was too long"),
    ("bind", "a name is asked of: the machine has a name server"),
    ("epoll_pwait", "how some C libraries wait"),
    ("brk", "memory grows"),
    ("mremap", "a large buffer grows"),
    ("madvise", "memory is given back"),
    ("munmap", "the same"),
    ("futex", "two threads meet"),
    ("sched_yield", "a lock is held by somebody else"),
    ("gettid", "a panic names its thread"),
    ("clock_gettime", "the machine's clock cannot be read without a call"),
    ("rt_sigaction", "a fault or an abort"),
    ("rt_sigreturn", "a signal was handled"),
    ("restart_syscall", "a wait was stopped and continued"),
    ("shutdown", "the other side did not hang up first"),
    ("exit", "a thread ends before its process"),
];

/// What the process and its threads call behind their filter, as strace writes it.
fn behind_filter(trace: &str) -> Vec<String> {
    let lines: Vec<(&str, &str)> = trace
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(thread, call)| (thread, call.trim_start()))
        .collect();
    // A thread may call before the call is over that made it.
    let mut makers = BTreeMap::new();
    for (maker, call) in &lines {
        if let Some((_, made)) = call.rsplit_once(" = ").filter(|_| call.contains("clone")) {
            makers.insert(made, *maker);
        }
    }
    let mut locked = BTreeSet::new();
    let mut found = Vec::new();
    for (thread, call) in lines {
        let maker = makers.get(thread).copied().unwrap_or(thread);
        if locked.contains(thread) || locked.contains(maker) {
            found.push(call.to_owned());
        }
        if call.starts_with("seccomp(SECCOMP_SET_MODE_FILTER") {
            locked.insert(thread);
        }
    }
    found
}

/// Starts a role below strace, has it work, and gives what it called.
async fn traced(role: &str) -> Vec<String> {
    let folder = scratch();
    let file = folder.path().join("trace");
    let mut gateway = Gateway::start_stopped(role);
    let pid = Pid::from_child(&gateway.child);
    waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT).expect("our child");
    let mut tracer = trace_with_children(gateway.child.id(), &file);
    kill_process(pid, Signal::CONT).expect("it is there");
    if role == "models" {
        let ModelsReply::Locked(_) = gateway.near.receive().await else { panic!("not locked") };
        ask_everybody(&mut gateway).await;
    } else {
        let EgressReply::Locked(_) = gateway.near.receive().await else { panic!("not locked") };
        fetch_everything(&mut gateway).await;
    }
    gateway.end();
    tracer.wait().expect("reaped");
    behind_filter(&fs::read_to_string(&file).expect("written"))
}

fn is_made(name: &str, calls: &[String]) -> bool {
    let begin = format!("{name}(");
    calls.iter().any(|call| call.starts_with(&begin))
}

#[tokio::test]
async fn every_allowed_call_is_made() {
    let mut calls = traced("models").await;
    calls.extend(traced("egress").await);
    let allowed: Vec<&str> = GATEWAY.iter().map(|rule| rule.name.trim_start_matches("SYS_")).collect();
    let is_rare = |name: &str| RARE.iter().any(|(rare, _)| *rare == name);
    let unused: Vec<&&str> = allowed.iter().filter(|name| !is_made(name, &calls) && !is_rare(name)).collect();
    assert!(unused.is_empty(), "{unused:?} are allowed for nothing");
    for (rare, why) in RARE {
        assert!(allowed.contains(rare), "{rare} ({why}) is not allowed");
    }
    // The control: what is not allowed is tried (by the probes of a receipt), and not taken for allowed.
    assert!(is_made("ptrace", &calls) && !allowed.contains(&"ptrace"));
}
