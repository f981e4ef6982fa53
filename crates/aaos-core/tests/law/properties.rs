//! The properties: any sequence keeps the law, and any prefix of its journal restores no more than there was.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

use crate::machine::{Machine, Seen};
use crate::steps::{Cutting, Raw, Step, any_raw};

/// Cases of each property, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 10_000;
/// What proptest takes where the environment says nothing.
const UNSET: u32 = 256;

/// Failures are kept beside the tests and are tried first from then on.
pub(crate) fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let cases = if asked.cases == UNSET { CASES } else { asked.cases };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/law.txt");
    let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(file)) as Box<_>);
    ProptestConfig { cases, failure_persistence, max_shrink_iters: 4_096, ..asked }
}

/// Runs a sequence; the journal is read at every entry of the step that `cut` names, and at the end.
fn run(steps: &[Step], cut: usize) -> Seen {
    let mut machine = Machine::new();
    for (at, step) in steps.iter().enumerate() {
        let cutting = if at == cut % steps.len() { Cutting::Here } else { Cutting::Elsewhere };
        machine.step(step, cutting);
    }
    machine.finish();
    machine.seen
}

fn sequences() -> impl Strategy<Value = (Vec<Step>, usize)> {
    let step = |(at, raw): (usize, Raw)| if at == 0 { Step::first(raw) } else { Step::of(raw) };
    let steps = prop::collection::vec(any_raw(), 2..40)
        .prop_map(move |raws| raws.into_iter().enumerate().map(step).collect());
    (steps, any::<u8>().prop_map(usize::from))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_sequence_keeps_the_law((steps, cut) in sequences()) {
        run(&steps, cut);
    }
}

/// The control of the property: its sequences reach everything that it speaks of.
#[test]
fn the_sequences_reach_everything() {
    let mut all = Seen::default();
    let mut runner = TestRunner::deterministic();
    for _ in 0..400 {
        let (steps, cut) = sequences().new_tree(&mut runner).expect("a sequence").current();
        for (what, times) in run(&steps, cut).0 {
            *all.0.entry(what).or_default() += times;
        }
    }
    for what in [
        "root",
        "child",
        "child refused",
        "call",
        "approved call",
        "denied",
        "budget",
        "waits",
        "question",
        "answered",
        "settled",
        "overdraft",
        "refunded",
        "paid ahead",
        "revoked",
        "revoked with calls",
        "removed",
        "removed with children",
        "run",
        "no time left",
        "restart",
        "unknown agent",
    ] {
        assert!(all.0.get(what).is_some_and(|times| *times >= 5), "{what} hardly happens: {all:?}");
    }
}
