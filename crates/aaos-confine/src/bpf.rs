//! Assembles a table of system calls into a program of the kernel's classic BPF.
//!
//! Invariants: numbers are found by halving, so that a call is decided in a few steps whatever the table's length. That
//! is not for the calls alone: when a filter is installed the kernel runs it once for every number there is. It is kept
//! short, because the kernel compiles it for each process that installs it: neighbours of which the same is decided are
//! one range. A program has no way to its end but an answer, and no jump goes back.

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

/// Steps that any jump reaches over, with room for a few that are written in between.
const NEAR: usize = 200;

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
        leaves.push((number(rule.number)?, Leaf::Rule(rule.when)));
    }
    for absent in decisions.absent {
        leaves.push((number(*absent)?, Leaf::Absent));
    }
    leaves.sort_by_key(|(number, _)| *number);
    if let Some(twice) = leaves.array_windows().find(|[one, next]| one.0 == next.0) {
        return Err(io::Error::other(format!("call {} is decided twice", twice[0].0)));
    }
    let mut program = Backwards::default();
    let found = program.search(&ranges(&leaves), decisions)?;
    let x32 = program.answer(Answer::errno(libc::EPERM));
    program.jump(JUMP_IF_ANY_BIT, X32_BIT, x32, found)?;
    let known = program.load(AT_NUMBER);
    let killed = program.answer(Answer::KILL);
    program.jump(JUMP_IF_EQUAL, X86_64, known, killed)?;
    program.load(AT_ARCHITECTURE);
    Ok(program.finish())
}

/// What is done with a call of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Rule(When),
    Absent,
    Other,
}

/// Everything there is, in ranges of which the same is decided: the first number of each. `leaves` are sorted.
fn ranges(leaves: &[(u32, Leaf)]) -> Vec<(u32, Leaf)> {
    let mut ranges = vec![(0, Leaf::Other)];
    for (number, leaf) in leaves {
        ranges.pop_if(|(first, _)| first == number);
        if ranges.last().is_none_or(|(_, before)| before != leaf) {
            ranges.push((*number, *leaf));
        }
        ranges.push((number + 1, Leaf::Other));
    }
    ranges
}

/// A step, by how many stand behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(usize);

/// A program that is put together from its end, so that wherever a jump leads is there already. An answer is written once
/// and jumped to from wherever it is given, as far as a jump reaches: what the kernel compiles is half as long.
#[derive(Debug, Default)]
struct Backwards(Vec<sock_filter>);

impl Backwards {
    fn finish(self) -> Vec<sock_filter> {
        self.0.into_iter().rev().collect()
    }

    fn push(&mut self, step: sock_filter) -> Place {
        self.0.push(step);
        Place(self.0.len() - 1)
    }

    /// Steps between one that is written now and this one.
    fn distance(&self, to: Place) -> usize {
        self.0.len() - 1 - to.0
    }

    fn load(&mut self, at: u32) -> Place {
        self.push(step(LOAD, 0, 0, at))
    }

    /// Where this is answered, near enough for whatever is written next to jump there.
    fn answer(&mut self, answer: Answer) -> Place {
        let is_it = |step: &sock_filter| step.code == RETURN && step.k == answer.0;
        let near = self.0.len().saturating_sub(NEAR);
        match self.0[near..].iter().rposition(is_it) {
            Some(found) => Place(near + found),
            None => self.push(step(RETURN, 0, 0, answer.0)),
        }
    }

    /// A jump to one place or the other.
    fn jump(&mut self, code: u16, k: u32, holds: Place, fails: Place) -> io::Result<Place> {
        let [holds, fails] = [holds, fails].map(|to| u8::try_from(self.distance(to)));
        let (jt, jf) = (holds.map_err(io::Error::other)?, fails.map_err(io::Error::other)?);
        Ok(self.push(step(code, jt, jf, k)))
    }

    /// A step from where any other is near.
    fn brought_near(&mut self, to: Place) -> io::Result<Place> {
        if self.distance(to) < NEAR {
            return Ok(to);
        }
        // Only a jump without a condition reaches so far.
        let distance = u32::try_from(self.distance(to)).map_err(io::Error::other)?;
        Ok(self.push(step(JUMP, 0, 0, distance)))
    }

    /// Finds the range of the number that was loaded.
    fn search(&mut self, ranges: &[(u32, Leaf)], decisions: &Decisions<'_>) -> io::Result<Place> {
        if let [(_, leaf)] = ranges {
            return self.leaf(*leaf, decisions);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let first = high.first().map_or(0, |(number, _)| *number);
        let high = self.search(high, decisions)?;
        let low = self.search(low, decisions)?;
        let high = self.brought_near(high)?;
        self.jump(JUMP_IF_NOT_BELOW, first, high, low)
    }

    /// What is done with a call of a leaf's number.
    fn leaf(&mut self, leaf: Leaf, decisions: &Decisions<'_>) -> io::Result<Place> {
        let rows = match leaf {
            Leaf::Other => return Ok(self.answer(decisions.other)),
            Leaf::Absent => return Ok(self.answer(Answer::errno(libc::ENOSYS))),
            Leaf::Rule(When::Always) => return Ok(self.answer(decisions.matched)),
            Leaf::Rule(When::Any(rows)) => rows,
        };
        let mut next = self.answer(decisions.other);
        for row in rows.iter().rev() {
            let mut holds = self.answer(decisions.matched);
            for test in row.iter().rev() {
                holds = self.compare(*test, holds, next)?;
            }
            // A row that fails goes on with the one behind it.
            next = holds;
        }
        Ok(next)
    }

    /// Goes to one place when a test holds, and to the other when it does not.
    fn compare(&mut self, Arg(index, test): Arg, holds: Place, fails: Place) -> io::Result<Place> {
        let masked = match test {
            Test::Is(value) => (None, JUMP_IF_EQUAL, value, holds, fails),
            Test::Not(value) => (None, JUMP_IF_EQUAL, value, fails, holds),
            Test::Clear(bits) => (None, JUMP_IF_ANY_BIT, bits, fails, holds),
            Test::Set(bits) => (Some(bits), JUMP_IF_EQUAL, bits, holds, fails),
            Test::Masked(mask, value) => (Some(mask), JUMP_IF_EQUAL, value, holds, fails),
        };
        let (mask, code, value, holds, fails) = masked;
        self.jump(code, value, holds, fails)?;
        if let Some(mask) = mask {
            self.push(step(MASK, 0, 0, mask));
        }
        // The low half of a 64-bit argument, on a machine that stores it first.
        Ok(self.load(AT_ARGUMENTS + ARGUMENT_BYTES * u32::from(index)))
    }
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn number(number: libc::c_long) -> io::Result<u32> {
    let number = u32::try_from(number).map_err(io::Error::other)?;
    if number < X32_BIT { Ok(number) } else { Err(io::Error::other(format!("{number} is of another ABI"))) }
}

#[cfg(test)]
mod tests;
