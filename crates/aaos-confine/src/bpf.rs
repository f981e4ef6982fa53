//! Assembles a table of system calls into a program of the kernel's classic BPF.
//!
//! Invariants: numbers are found by halving, so that a call is decided in a few steps whatever the table's length. That
//! is not for the calls alone: when a filter is installed the kernel runs it once for every number there is. A program
//! has no way to its end but an answer, and no jump goes back.

use std::io;

use libc::sock_filter;

use crate::filter::{Arg, Rule, Test, When};

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JA`, the jumps of `BPF_JMP | BPF_K`, `BPF_ALU | BPF_AND | BPF_K` and
/// `BPF_RET | BPF_K` of linux/bpf_common.h.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_NOT_BELOW: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const MASK: u16 = 0x54;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data` of linux/seccomp.h.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const AT_ARGUMENTS: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;
/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const X86_64: u32 = 0xC000_003E;
/// `__X32_SYSCALL_BIT` of asm/unistd.h.
const X32_BIT: u32 = 0x4000_0000;

/// What a program answers, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer(u32);

impl Answer {
    pub(crate) const ALLOW: Self = Self(libc::SECCOMP_RET_ALLOW);
    pub(crate) const KILL: Self = Self(libc::SECCOMP_RET_KILL_PROCESS);

    pub(crate) const fn errno(errno: i32) -> Self {
        Self(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
    }
}

/// What a program decides, besides the two answers that every program gives.
#[derive(Debug)]
pub(crate) struct Decisions<'a> {
    /// The rules, each of another number.
    pub(crate) rules: &'a [Rule],
    /// The answer to a call that a rule applies to.
    pub(crate) matched: Answer,
    /// The answer to all else.
    pub(crate) other: Answer,
    /// Numbers that answer ENOSYS.
    pub(crate) absent: &'a [libc::c_long],
}

/// The program of a table: another architecture kills the process, and numbers of the x32 ABI answer EPERM.
///
/// # Errors
/// When a number stands twice, or a rule is longer than a jump.
pub(crate) fn assemble(decisions: &Decisions<'_>) -> io::Result<Vec<sock_filter>> {
    let mut leaves = Vec::new();
    for rule in decisions.rules {
        leaves.push((number(rule.number)?, leaf(rule, decisions)?));
    }
    for absent in decisions.absent {
        leaves.push((number(*absent)?, vec![answer(Answer::errno(libc::ENOSYS))]));
    }
    leaves.sort_by_key(|(number, _)| *number);
    if let Some(twice) = leaves.array_windows().find(|[one, next]| one.0 == next.0) {
        return Err(io::Error::other(format!("call {} is decided twice", twice[0].0)));
    }
    let mut program = vec![
        step(LOAD, 0, 0, AT_ARCHITECTURE),
        step(JUMP_IF_EQUAL, 1, 0, X86_64),
        answer(Answer::KILL),
        step(LOAD, 0, 0, AT_NUMBER),
        step(JUMP_IF_ANY_BIT, 0, 1, X32_BIT),
        answer(Answer::errno(libc::EPERM)),
    ];
    program.extend(search(&leaves, decisions.other)?);
    Ok(program)
}

/// Finds the leaf of the number that was loaded.
fn search(leaves: &[(u32, Vec<sock_filter>)], other: Answer) -> io::Result<Vec<sock_filter>> {
    match leaves {
        [] => Ok(vec![answer(other)]),
        [(number, leaf)] => {
            let mut steps = vec![step(JUMP_IF_EQUAL, 1, 0, *number), answer(other)];
            steps.extend_from_slice(leaf);
            Ok(steps)
        }
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let first = high.first().map_or(0, |(number, _)| *number);
            let low = search(low, other)?;
            let past = u32::try_from(low.len()).map_err(io::Error::other)?;
            let mut steps = match u8::try_from(past) {
                Ok(past) => vec![step(JUMP_IF_NOT_BELOW, past, 0, first)],
                // Only a jump without a condition reaches so far.
                Err(_) => vec![step(JUMP_IF_NOT_BELOW, 0, 1, first), step(JUMP, 0, 0, past)],
            };
            steps.extend(low);
            steps.extend(search(high, other)?);
            Ok(steps)
        }
    }
}

/// What is done with a call of a rule's number.
fn leaf(rule: &Rule, decisions: &Decisions<'_>) -> io::Result<Vec<sock_filter>> {
    let When::Any(rows) = rule.when else { return Ok(vec![answer(decisions.matched)]) };
    let mut steps = Vec::new();
    for row in rows {
        let mut length = 1;
        let mut tests = Vec::new();
        for test in row.iter().rev() {
            // A test that fails goes on behind the row.
            tests.push(compare(*test, u8::try_from(length).map_err(io::Error::other)?));
            length += tests.last().map_or(0, Vec::len);
        }
        steps.extend(tests.into_iter().rev().flatten());
        steps.push(answer(decisions.matched));
    }
    steps.push(answer(decisions.other));
    Ok(steps)
}

/// Goes on when a test holds, and past so many steps when it does not.
fn compare(Arg(index, test): Arg, past: u8) -> Vec<sock_filter> {
    // The low half of a 64-bit argument, on a machine that stores it first.
    let load = step(LOAD, 0, 0, AT_ARGUMENTS + ARGUMENT_BYTES * u32::from(index));
    let masked = |mask, value| vec![load, step(MASK, 0, 0, mask), step(JUMP_IF_EQUAL, 0, past, value)];
    match test {
        Test::Is(value) => vec![load, step(JUMP_IF_EQUAL, 0, past, value)],
        Test::Not(value) => vec![load, step(JUMP_IF_EQUAL, past, 0, value)],
        Test::Clear(bits) => vec![load, step(JUMP_IF_ANY_BIT, past, 0, bits)],
        Test::Set(bits) => masked(bits, bits),
        Test::Masked(mask, value) => masked(mask, value),
    }
}

fn answer(answer: Answer) -> sock_filter {
    step(RETURN, 0, 0, answer.0)
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn number(number: libc::c_long) -> io::Result<u32> {
    u32::try_from(number).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
