//! The properties: any sequence keeps the law, and any prefix of its journal restores no more than there was.
//!
//! Authority never grows, quantities are conserved and no window exceeds its limit: the machine and its model assert
//! these at each step, so one property speaks of all of them; the control below it names what its sequences reach.

use aaos_core::approval::{ApprovalGrant, ApprovalScope};
use aaos_core::authority::Authority;
use aaos_core::effect::{Authorized, Needs};
use aaos_core::id::ApprovalId;
use aaos_core::quantity::Amounts;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

use crate::machine::{Deed, Machine, Seen};
use crate::steps::{Cutting, Raw, Step, WANTS, any_raw, need_of};
use crate::support::{NOW, agent, child, fresh_call, grant, world};

/// Cases of each property, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 10_000;
/// What proptest takes where the environment says nothing.
const UNSET: u32 = 256;

/// So many cases, or as many as `PROPTEST_CASES` says. Failures are kept beside the tests and are tried first from
/// then on.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    let cases = if asked.cases == UNSET { cases } else { asked.cases };
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
    #![proptest_config(config(CASES))]

    #[test]
    fn every_sequence_keeps_the_law((steps, cut) in sequences()) {
        run(&steps, cut);
    }
}

/// Who of two callers takes the last use, of what, and what the first one then does with it.
#[derive(Debug, Clone, Copy)]
struct Race {
    /// The parent of each of the agents 2, 3, …
    parents: [u8; 4],
    callers: (u8, u8),
    /// Of the bound; all but one are used up before.
    uses: u8,
    by_approval: bool,
    first_ends: u8,
}

fn races() -> impl Strategy<Value = Race> {
    (any::<[u8; 4]>(), any::<(u8, u8)>(), 1..4_u8, any::<bool>(), 0..3_u8).prop_map(
        |(parents, callers, uses, by_approval, first_ends)| Race {
            parents,
            callers,
            uses,
            by_approval,
            first_ends,
        },
    )
}

/// A tree below a grant or an answer of so many uses.
fn tree_of(race: Race) -> Authority {
    let bound = if race.by_approval {
        "{ tool: echo, approval_required: true }".to_owned()
    } else {
        format!("{{ tool: echo, max_invocations: {} }}", race.uses)
    };
    let mut law = world(&[&bound]);
    for (at, parent) in race.parents.iter().enumerate() {
        let (number, parent) = (at as u128 + 2, u128::from(*parent) % (at as u128 + 1) + 1);
        let from = if parent == 1 { 1 } else { parent * 10 };
        // A child that is one too many or too deep is not there, nor what would be below it.
        let asked = [(from, number * 10, "tool: echo")];
        if law.depth_of(agent(parent)).is_some() && child(&mut law, parent, number, &asked).is_err() {
            continue;
        }
    }
    if race.by_approval {
        let id = ApprovalId::from_uuid(*grant(7).as_uuid());
        let scope = ApprovalScope::Tool { effect: "echo".to_owned(), grants: vec![grant(1)], below: None };
        let uses = u32::from(race.uses);
        law.approve(ApprovalGrant { id, holder: agent(1), scope, uses }).expect("alive");
    }
    law
}

fn echo(law: &mut Authority, who: u128) -> Option<Authorized<Deed>> {
    let wants = vec![WANTS[0]];
    let needs = Needs { all: vec![need_of(&WANTS[0])], ..Needs::default() };
    law.authorize(agent(who), fresh_call(), Deed { label: "echo", wants, needs }, NOW).ok()
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn one_of_two_callers_has_the_last_use(race in races()) {
        let mut law = tree_of(race);
        let there: Vec<u128> = (1..=5).filter(|number| law.depth_of(agent(*number)).is_some()).collect();
        let pick = |at: u8| there[usize::from(at) % there.len()];
        let (first, second) = (pick(race.callers.0), pick(race.callers.1));
        for before in 1..race.uses {
            let parts = echo(&mut law, pick(before)).expect("not the last").into_parts();
            law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
        }
        let last = echo(&mut law, first);
        prop_assert!(last.is_some(), "the last use is had by whoever comes first");
        prop_assert!(echo(&mut law, second).is_none(), "and by nobody else meanwhile");
        let parts = last.expect("the last use");
        let given_back = match race.first_ends {
            0 => { drop(parts); true }
            1 => { let parts = parts.into_parts(); law.refund(parts.call, parts.charges); true }
            _ => {
                let parts = parts.into_parts();
                law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
                false
            }
        };
        prop_assert_eq!(echo(&mut law, second).is_some(), given_back, "it runs if the first did not");
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
