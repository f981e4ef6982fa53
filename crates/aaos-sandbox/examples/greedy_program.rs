//! A program that takes more than it should, together with children of its own: for the tests of what bounds programs.
//!
//! `greedy_program memory MEBIBYTES CHILDREN`: each child holds so much; ends well, and says `held`, once all do.
//! `greedy_program processes COUNT`: makes children that wait, says so when it has as many, and waits, too; where it
//! gets no further it tries again and again.
//!
//! Invariants: its children end with it; it executes nothing, so that it works wherever it is started.
#![allow(unsafe_code, reason = "children that execute nothing are made by a raw fork")]

use std::io::{self, Read, Write};
use std::process::ExitCode;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

const MIB: usize = 1024 * 1024;
const PAGE: usize = 4096;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["memory", mebibytes, children] => {
            hold_memory(mebibytes.parse().expect("a number"), children.parse().expect("a number"))
        }
        ["processes", count] => hold_processes(count.parse().expect("a number")),
        _ => ExitCode::from(2),
    }
}

/// Makes a child that does `work` and waits until it is ended.
fn child(work: impl FnOnce()) -> io::Result<()> {
    let parent = getpid();
    // SAFETY: there is one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            set_parent_process_death_signal(Some(Signal::KILL)).expect("any signal may be asked for");
            if getppid() != Some(parent) {
                // It had ended before it was asked for.
                std::process::exit(1);
            }
            work();
            loop {
                // SAFETY: it takes nothing and gives nothing; no handler is set, so it never comes back.
                unsafe { libc::pause() };
            }
        }
        _ => Ok(()),
    }
}

fn hold_memory(mebibytes: usize, children: usize) -> ExitCode {
    let (mut ready, tell) = io::pipe().expect("a pipe");
    for _ in 0..children {
        let mut tell = tell.try_clone().expect("another handle");
        let hold = move || {
            let mut held = vec![0_u8; mebibytes * MIB];
            held.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
            std::mem::forget(std::hint::black_box(held));
            tell.write_all(b"1").expect("told");
        };
        if child(hold).is_err() {
            return ExitCode::FAILURE;
        }
    }
    drop(tell);
    let mut all = vec![0; children];
    match ready.read_exact(&mut all) {
        Ok(()) => say("held"),
        Err(_) => ExitCode::FAILURE,
    }
}

fn hold_processes(count: usize) -> ExitCode {
    for _ in 0..count {
        while child(|| ()).is_err() {
            std::thread::yield_now();
        }
    }
    let told = say(&format!("made {count}"));
    // SAFETY: as above.
    unsafe { libc::pause() };
    told
}

fn say(words: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{words}").and_then(|()| out.flush());
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
