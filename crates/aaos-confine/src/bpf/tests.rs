//! Programs are run here as the kernel would, and beside those that another compiler makes of the same tables.

use std::collections::{BTreeMap, BTreeSet};

use libc::sock_filter;
use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::{
    AT_ARCHITECTURE, AT_ARGUMENTS, AT_NUMBER, Answer, Decisions, JUMP, JUMP_IF_ANY_BIT, JUMP_IF_EQUAL,
    JUMP_IF_NOT_BELOW, LOAD, MASK, RETURN, X32_BIT, X86_64, assemble,
};
use crate::filter::{Arg, Rule, Test, When};
use crate::tables::{
    DAEMON_REFUSED, GATEWAY, PROGRAM_REFUSED, PROXIED_REFUSED, RELAY, SEALED_REFUSED, WORKER,
};

/// Numbers of system calls are below this.
const NUMBERS: u32 = 512;
const EPERM: Answer = Answer::errno(libc::EPERM);
const I386: u32 = 0x4000_0003;
const BELOW_EQUAL: u16 = 0x25;

/// `struct seccomp_data`, as far as programs read it.
#[derive(Debug, Clone, Copy)]
struct Call {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn new(number: u32, arguments: [u64; 6]) -> Self {
        Self { architecture: X86_64, number, arguments }
    }

    fn word(&self, at: u32) -> u32 {
        match at {
            AT_NUMBER => self.number,
            AT_ARCHITECTURE => self.architecture,
            _ => {
                let (index, half) = ((at - AT_ARGUMENTS) / 8, (at - AT_ARGUMENTS) % 8);
                let argument = self.arguments[usize::try_from(index).expect("an index")];
                u32::try_from((argument >> (8 * half)) & u64::from(u32::MAX)).expect("a half")
            }
        }
    }
}

/// What a program answers, and after how many steps.
fn run(program: &[sock_filter], call: &Call) -> (Answer, usize) {
    let (mut at, mut value, mut steps) = (0_usize, 0_u32, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        steps += 1;
        at += 1;
        let holds = match code {
            LOAD => {
                value = call.word(k);
                continue;
            }
            MASK => {
                value &= k;
                continue;
            }
            JUMP => {
                at += usize::try_from(k).expect("a distance");
                continue;
            }
            RETURN => return (Answer(k), steps),
            JUMP_IF_EQUAL => value == k,
            JUMP_IF_NOT_BELOW => value >= k,
            BELOW_EQUAL => value > k,
            JUMP_IF_ANY_BIT => value & k != 0,
            other => panic!("step {other:#x} is not known here"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

fn allow_list(rules: &[Rule]) -> Decisions<'_> {
    Decisions { rules, matched: Answer::ALLOW, other: EPERM, absent: &[] }
}

/// The same table, by the compiler that Firecracker's authors keep.
fn by_another_compiler(table: &[Rule]) -> BpfProgram {
    let condition = |Arg(index, test): &Arg| {
        let (operator, value) = match *test {
            Test::Is(value) => (SeccompCmpOp::Eq, value),
            Test::Not(value) => (SeccompCmpOp::Ne, value),
            Test::Clear(bits) => (SeccompCmpOp::MaskedEq(u64::from(bits)), 0),
            Test::Set(bits) => (SeccompCmpOp::MaskedEq(u64::from(bits)), bits),
            Test::Masked(mask, value) => (SeccompCmpOp::MaskedEq(u64::from(mask)), value),
        };
        SeccompCondition::new(*index, SeccompCmpArgLen::Dword, operator, u64::from(value))
            .expect("a condition")
    };
    let rows = |when: When| match when {
        When::Always => Vec::new(),
        When::Any(rows) => {
            let row = |row: &&[Arg]| SeccompRule::new(row.iter().map(condition).collect()).expect("a rule");
            rows.iter().map(row).collect()
        }
    };
    let rules: BTreeMap<_, _> = table.iter().map(|rule| (rule.number, rows(rule.when))).collect();
    let errno = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter =
        SeccompFilter::new(rules, errno, SeccompAction::Allow, TargetArch::x86_64).expect("a filter");
    BpfProgram::try_from(filter).expect("compiles")
}

/// Values at which some test of a rule changes its mind, as low halves of an argument.
fn turning_points(rule: &Rule) -> Vec<u32> {
    let mut points = BTreeSet::from([0, 1, u32::MAX]);
    let rows = if let When::Any(rows) = rule.when { rows } else { &[] };
    for Arg(_, test) in rows.iter().copied().flatten() {
        match *test {
            Test::Masked(mask, value) => points.extend([value, value | !mask, value ^ 1, mask]),
            Test::Is(value) | Test::Not(value) | Test::Clear(value) | Test::Set(value) => {
                points.extend([value, !value, value ^ 1, value.wrapping_add(1)]);
            }
        }
    }
    points.into_iter().collect()
}

const TABLES: [&[Rule]; 7] =
    [WORKER, GATEWAY, DAEMON_REFUSED, PROGRAM_REFUSED, PROXIED_REFUSED, SEALED_REFUSED, RELAY];

fn assert_agree(table: &[Rule], ours: &[sock_filter], theirs: &[seccompiler::sock_filter], call: &Call) {
    let theirs: Vec<_> = theirs.iter().map(|one| super::step(one.code, one.jt, one.jf, one.k)).collect();
    assert_eq!(run(ours, call).0, run(&theirs, call).0, "{call:?} of a table of {}", table.len());
}

#[test]
fn it_decides_as_another_compiler_does_wherever_a_test_turns() {
    for table in TABLES {
        let (ours, theirs) = (assemble(&allow_list(table)).expect("assembles"), by_another_compiler(table));
        for rule in table {
            let points = turning_points(rule);
            let number = u32::try_from(rule.number).expect("a number");
            for first in &points {
                for second in &points {
                    let [one, two] = [u64::from(*first), u64::from(*second)];
                    for arguments in
                        [[one, two, one, two, 0, 0], [two, 0, two, one, 0, 0], [one, one, 0, 0, 0, 0]]
                    {
                        assert_agree(table, &ours, &theirs, &Call::new(number, arguments));
                    }
                }
            }
        }
        for number in 0..NUMBERS {
            assert_agree(table, &ours, &theirs, &Call::new(number, [0; 6]));
        }
    }
}

proptest! {
    #[test]
    fn it_decides_as_another_compiler_does(
        which in 0..TABLES.len(),
        number in 0..NUMBERS,
        arguments: [u64; 6],
    ) {
        let table = TABLES[which];
        let (ours, theirs) = (assemble(&allow_list(table)).expect("assembles"), by_another_compiler(table));
        assert_agree(table, &ours, &theirs, &Call::new(number, arguments));
    }
}

#[test]
fn a_call_without_tests_is_decided_in_a_few_steps() {
    // Of a few rows a list is as fast.
    for table in TABLES.into_iter().filter(|table| table.len() > 8) {
        let (ours, theirs) = (assemble(&allow_list(table)).expect("assembles"), by_another_compiler(table));
        let halvings = usize::try_from(table.len().next_power_of_two().ilog2()).expect("small");
        let theirs: Vec<_> = theirs.iter().map(|one| super::step(one.code, one.jt, one.jf, one.k)).collect();
        let mut totals = [0, 0];
        for number in 0..NUMBERS {
            let call = Call::new(number, [0; 6]);
            let tests = table.iter().find(|rule| u32::try_from(rule.number) == Ok(number));
            let (_, steps) = run(&ours, &call);
            if tests.is_none_or(|rule| rule.when == When::Always) {
                // The head, a jump or two for each halving, the number itself, the answer.
                assert!(
                    steps <= 4 + 2 * halvings + 2,
                    "{number}: {steps} steps of a table of {}",
                    table.len()
                );
            }
            totals[0] += steps;
            totals[1] += run(&theirs, &call).1;
        }
        assert!(2 * totals[0] < totals[1], "{totals:?}: a search is no faster than a list");
    }
}

#[test]
fn an_answer_is_written_once_for_many_calls() {
    for table in TABLES.into_iter().filter(|table| table.len() > 8) {
        let program = assemble(&allow_list(table)).expect("assembles");
        let answers = program.iter().filter(|step| step.code == RETURN).count();
        // Two for each stretch that a jump reaches over, the one of strangers, and one more at most where two meet.
        let most = 2 * program.len().div_ceil(super::NEAR) + 2;
        assert!(answers <= most, "{answers} of {} steps, of a table of {}", program.len(), table.len());
    }
}

#[test]
fn neighbours_of_which_the_same_is_decided_are_one_range() {
    const fn rule(number: libc::c_long) -> Rule {
        Rule { number, name: "any", when: When::Always, reason: "of this test" }
    }
    let neighbours: Vec<Rule> = (100..200).map(rule).collect();
    let others: Vec<Rule> = (0..100).map(|number| rule(2 * number)).collect();
    let [one, many] = [&neighbours, &others].map(|rules| assemble(&allow_list(rules)).expect("assembles"));
    assert!(one.len() < 12 && many.len() > 200, "{} and {} steps", one.len(), many.len());
    for number in [99, 100, 199, 200] {
        let answer = if (100..200).contains(&number) { Answer::ALLOW } else { EPERM };
        assert_eq!(run(&one, &Call::new(number, [0; 6])).0, answer, "{number}");
    }
    assert!(assemble(&allow_list(&[rule(libc::c_long::from(X32_BIT))])).is_err());
}

#[test]
fn another_architecture_is_killed_and_x32_is_refused() {
    let program = assemble(&allow_list(WORKER)).expect("assembles");
    let read = Call::new(0, [0; 6]);
    assert_eq!(run(&program, &read).0, Answer::ALLOW);
    assert_eq!(run(&program, &Call { architecture: I386, ..read }).0, Answer::KILL);
    assert_eq!(run(&program, &Call { number: X32_BIT, ..read }).0, EPERM);
}

#[test]
fn an_absent_call_is_absent_and_no_number_is_decided_twice() {
    let mut decisions = allow_list(WORKER);
    decisions.absent = &[libc::SYS_clone3, libc::SYS_openat2];
    let program = assemble(&decisions).expect("assembles");
    for absent in decisions.absent {
        let call = Call::new(u32::try_from(*absent).expect("a number"), [0; 6]);
        assert_eq!(run(&program, &call).0, Answer::errno(libc::ENOSYS));
    }
    decisions.absent = &[libc::SYS_read];
    assert!(assemble(&decisions).is_err());
}
