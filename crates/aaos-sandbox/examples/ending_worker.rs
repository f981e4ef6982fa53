//! A zygote whose workers come to a bad end, one way each: for the test of which system calls an end needs.
//!
//! The first attempt of a probe says which: `Signal(0)` panics, `Signal(1)` aborts, `Signal(2)` overflows its stack,
//! and anything else reads memory that is not there.
#![allow(unsafe_code, reason = "one of the ends is a stray read")]

use aaos_core::wire::{ProbeAttempt, WorkerJob, WorkerRequest};

fn main() {
    aaos_confine::zygote::run(|channel| {
        let Ok((WorkerRequest::Call { job, .. }, _)) = channel.receive::<WorkerRequest>() else { return 1 };
        let WorkerJob::Probe { attempts } = *job else { return 1 };
        match attempts.first() {
            Some(ProbeAttempt::Signal(0)) => panic!("as it was told to"),
            Some(ProbeAttempt::Signal(1)) => std::process::abort(),
            Some(ProbeAttempt::Signal(2)) => u8::from(deeper(1) == 0),
            // SAFETY: none: nothing is mapped there, and the fault is what this worker is for.
            _ => unsafe { std::ptr::read_volatile(std::ptr::without_provenance::<u8>(4096)) },
        }
    })
    .expect("a zygote");
}

/// Goes on until the stack is full.
fn deeper(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    if depth == 0 { 0 } else { deeper(depth + 1) + room[511] }
}
