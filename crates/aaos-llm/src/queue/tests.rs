//! Turns in small examples, the shares of the storm with the order of arrival as their control, and two laws.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aaos_core::id::GoalId;
use proptest::prelude::*;

use super::{Class, Come, Party, Place, Queue, Turn};

fn goal(number: u128) -> Party {
    Party::Goal(GoalId::from_uuid(uuid::Uuid::from_u128(number)))
}

fn turn(party: Party, class: Class) -> Turn {
    Turn { party, class }
}

/// Agents that ask again as soon as they are answered; who is answered is the one that was admitted first. Returns how
/// often each was admitted.
fn rounds(agents: &[Turn], slots: usize, admissions: usize) -> Vec<usize> {
    let mut queue = Queue::new(slots, agents.len());
    let mut counts = vec![0; agents.len()];
    for (agent, turn) in agents.iter().enumerate() {
        queue.join(*turn, 0, Come::Anew, agent).expect("room");
    }
    let mut running = VecDeque::new();
    for _ in 0..admissions {
        if queue.next().is_none() {
            let agent: usize = running.pop_front().expect("all slots are in use");
            queue.release();
            queue.join(agents[agent], 0, Come::Anew, agent).expect("room");
        }
        let admitted = queue.admit();
        counts[admitted.waker] += 1;
        running.push_back(admitted.waker);
        assert!(running.len() <= slots);
    }
    counts
}

/// The goals of the storm: 1, 9, 90 and 100 agents.
const AGENTS: [usize; 4] = [1, 9, 90, 100];

/// Admissions of each of these goals, whose agents take turns as `party` says.
fn shares(party: impl Fn(usize) -> Party, admissions: usize) -> [usize; 4] {
    let goals: Vec<usize> = (0..4).flat_map(|goal| std::iter::repeat_n(goal, AGENTS[goal])).collect();
    // The largest comes first: it has filled the queue when the others come.
    let agents: Vec<Turn> = goals.iter().rev().map(|goal| turn(party(*goal), Class::Background)).collect();
    let counts = rounds(&agents, 3, admissions);
    let mut shares = [0; 4];
    for (goal, count) in goals.iter().rev().zip(counts) {
        shares[*goal] += count;
    }
    shares
}

#[test]
fn no_goal_gets_less_than_half_its_share_however_many_agents_the_others_have() {
    let shares = shares(|number| goal(number as u128), 4_000);
    assert!(shares.iter().all(|share| *share >= 500), "half of a quarter each: {shares:?}");
    let large = &shares[1..];
    assert!(large.iter().all(|share| share.abs_diff(large[0]) <= 1), "equal parts: {shares:?}");
}

#[test]
fn in_the_order_of_arrival_small_goals_get_less_than_half_their_share() {
    let shares = shares(|_| goal(0), 4_000);
    assert!(shares[0] < 500 && shares[1] < 500, "the control: {shares:?}");
}

#[test]
fn interactive_goals_go_first_and_background_ones_go_on() {
    let agents: Vec<Turn> = (0..40)
        .map(|agent| match agent % 2 {
            0 => turn(goal(1), Class::Background),
            _ => turn(goal(2), Class::Interactive),
        })
        .collect();
    let counts = rounds(&agents, 3, 1_000);
    let of = |rest: usize| counts.iter().skip(rest).step_by(2).sum::<usize>();
    let (background, interactive) = (of(0), of(1));
    assert!(
        background.abs_diff(200) <= 2 && interactive.abs_diff(800) <= 2,
        "{background} and {interactive}"
    );

    let mut queue = Queue::new(1, 2);
    queue.join(turn(goal(1), Class::Background), 0, Come::Anew, "background").expect("room");
    queue.join(turn(goal(2), Class::Interactive), 0, Come::Anew, "interactive").expect("room");
    assert_eq!(queue.admit().waker, "interactive", "though it came later");
}

#[test]
fn who_was_turned_away_once_loses_neither_place_nor_turn() {
    let mut queue = Queue::new(1, 8);
    let (one, two) = (turn(goal(1), Class::Background), turn(goal(2), Class::Background));
    for name in ["first", "second", "third"] {
        queue.join(one, 0, Come::Anew, name).expect("room");
    }
    queue.join(two, 0, Come::Anew, "other").expect("room");
    let away = queue.admit();
    assert_eq!(away.waker, "first");
    queue.refund(away.turn);
    queue.release();
    queue.join(one, 0, Come::Back(away.place), "first").expect("room");
    let mut order = Vec::new();
    while queue.next().is_some() {
        order.push(queue.admit().waker);
        queue.release();
    }
    assert_eq!(order, ["first", "other", "second", "third"]);
}

#[test]
fn who_was_turned_away_again_goes_behind_and_lets_one_other_go_first() {
    let (one, two) = (turn(goal(1), Class::Interactive), turn(goal(2), Class::Background));
    let order = |again: bool, has_other: bool| {
        let mut queue = Queue::new(1, 2);
        queue.join(two, 0, Come::Anew, "spent").expect("room");
        queue.admit();
        queue.release();
        queue.join(one, 0, Come::Anew, "poison").expect("room");
        let away = queue.admit();
        queue.release();
        // It has used less of its share than the other goal, even without a turn for nothing.
        if has_other {
            queue.join(two, 0, Come::Anew, "other").expect("room");
        }
        let come = if again { Come::Behind } else { Come::Back(away.place) };
        queue.join(one, 0, come, "poison").expect("room");
        let later = if has_other { None } else { queue.join(one, 0, Come::Anew, "later") };
        assert_eq!(later.is_some(), !has_other);
        let mut order = Vec::new();
        while queue.next().is_some() {
            order.push(queue.admit().waker);
            queue.release();
        }
        order
    };
    assert_eq!(order(true, true), ["other", "poison"], "one of another goal");
    assert_eq!(order(true, false), ["later", "poison"], "one of its own, though it came later");
    assert_eq!(order(false, true), ["poison", "other"], "the control");
    assert_eq!(order(false, false), ["poison", "later"], "the control");
    let mut queue = Queue::new(1, 1);
    queue.join(one, 0, Come::Behind, "poison").expect("room");
    assert_eq!(queue.admit().waker, "poison", "where nobody else waits it is next");
}

#[test]
fn what_was_not_used_is_not_saved_up() {
    let mut queue = Queue::new(1, 64);
    let (busy, idle) = (turn(goal(1), Class::Background), turn(goal(2), Class::Background));
    for _ in 0..20 {
        queue.join(busy, 0, Come::Anew, busy).expect("room");
    }
    for _ in 0..10 {
        queue.admit();
        queue.release();
    }
    for _ in 0..10 {
        queue.join(idle, 0, Come::Anew, idle).expect("room");
    }
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.push(queue.admit().waker == idle);
        queue.release();
    }
    assert_eq!(seen.iter().filter(|is_idle| **is_idle).count(), 5, "{seen:?}");
}

#[test]
fn the_queue_has_an_end_for_who_comes_anew() {
    let mut queue = Queue::new(1, 2);
    let one = turn(Party::Principal(1), Class::Interactive);
    let first = queue.join(one, 0, Come::Anew, ()).expect("room");
    let second = queue.join(one, 0, Come::Anew, ()).expect("room");
    assert_eq!(queue.join(one, 0, Come::Anew, ()), None);
    assert_eq!(queue.admit().place, first);
    queue.release();
    assert!(queue.join(one, 0, Come::Anew, ()).is_some(), "its room is taken");
    assert_eq!(queue.join(one, 0, Come::Back(first), ()), Some(first), "who comes back is let in");
    assert!(queue.leave(one.party, first));
    assert!(!queue.leave(one.party, first), "it has left");
    let behind = queue.join(one, 0, Come::Behind, ()).expect("behind the others, too");
    assert_eq!(queue.join(one, 0, Come::Anew, ()), None, "the control: no newcomer is");
    assert!(queue.leave(one.party, behind) && queue.leave(one.party, second));
    assert!(queue.join(one, 0, Come::Anew, ()).is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Join { party: u128, urgent: bool },
    Leave(usize),
    Admit,
    TurnAway { which: usize, again: bool },
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u128, any::<bool>()).prop_map(|(party, urgent)| Step::Join { party, urgent }),
        1 => any::<usize>().prop_map(Step::Leave),
        4 => Just(Step::Admit),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Step::TurnAway { which, again }),
        3 => any::<usize>().prop_map(Step::End),
    ]
}

proptest! {
    /// Whatever happens: slots are kept, somebody is next while a slot is free and somebody waits, each party is served
    /// in its order, and nobody is lost.
    #[test]
    fn nobody_is_lost_and_nobody_overtakes_its_own(slots in 1usize..4, steps in prop::collection::vec(step(), 0..200)) {
        let mut queue = Queue::new(slots, 1_000);
        let mut waiting: BTreeMap<Party, BTreeMap<Place, Turn>> = BTreeMap::new();
        let mut running: Vec<(Turn, Place)> = Vec::new();
        let mut yielding: BTreeSet<Place> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Join { party, urgent } => {
                    let class = if urgent { Class::Interactive } else { Class::Background };
                    let turn = turn(goal(party), class);
                    let place = queue.join(turn, 7, Come::Anew, ()).expect("room");
                    waiting.entry(turn.party).or_default().insert(place, turn);
                }
                Step::Leave(which) => {
                    let all: Vec<_> = waiting.iter().flat_map(|(party, lane)| lane.keys().map(|place| (*party, *place))).collect();
                    if let Some((party, place)) = all.get(which % all.len().max(1)).copied() {
                        prop_assert!(queue.leave(party, place));
                        waiting.get_mut(&party).expect("it waits").remove(&place);
                    }
                }
                Step::Admit => {
                    let somebody = waiting.values().any(|lane| !lane.is_empty());
                    prop_assert_eq!(queue.next().is_some(), somebody && running.len() < slots);
                    if queue.next().is_some() {
                        let admitted = queue.admit();
                        let others = waiting.values().flat_map(BTreeMap::keys).any(|place| !yielding.contains(place));
                        let lane = waiting.get_mut(&admitted.turn.party).expect("it waits");
                        let first = lane.keys().copied().find(|place| !others || !yielding.contains(place));
                        prop_assert_eq!(first, Some(admitted.place));
                        prop_assert_eq!(lane.remove(&admitted.place), Some(admitted.turn));
                        yielding.clear();
                        running.push((admitted.turn, admitted.place));
                    }
                }
                Step::TurnAway { which, again } if !running.is_empty() => {
                    let (turn, place) = running.swap_remove(which % running.len());
                    queue.release();
                    let place = if again {
                        let behind = queue.join(turn, 7, Come::Behind, ()).expect("it was let in before");
                        yielding.insert(behind);
                        behind
                    } else {
                        queue.refund(turn);
                        prop_assert_eq!(queue.join(turn, 7, Come::Back(place), ()), Some(place));
                        place
                    };
                    waiting.entry(turn.party).or_default().insert(place, turn);
                }
                Step::End(which) if !running.is_empty() => {
                    running.swap_remove(which % running.len());
                    queue.release();
                }
                Step::TurnAway { .. } | Step::End(_) => {}
            }
        }
    }

    /// Each goal that always wants more has at least half of its part, by weight, whatever the crowds of the others.
    #[test]
    fn shares_hold_for_every_crowd(
        crowds in prop::collection::vec((1usize..60, any::<bool>()), 1..8),
        slots in 1usize..5,
    ) {
        let classes: Vec<Class> =
            crowds.iter().map(|(_, urgent)| if *urgent { Class::Interactive } else { Class::Background }).collect();
        // Whoever has no more agents than there are slots cannot always want more.
        let agents: Vec<(usize, Turn)> = crowds
            .iter()
            .enumerate()
            .flat_map(|(number, (agents, _))| {
                std::iter::repeat_n((number, turn(goal(number as u128), classes[number])), agents + slots)
            })
            .collect();
        let turns: Vec<Turn> = agents.iter().map(|(_, turn)| *turn).collect();
        let admissions = 2_000;
        let counts = rounds(&turns, slots, admissions);
        let weight = |class: Class| 4 / class.stride();
        let whole: u64 = classes.iter().copied().map(weight).sum();
        for (number, class) in classes.iter().enumerate() {
            let got: usize = agents.iter().zip(&counts).filter(|((of, _), _)| *of == number).map(|(_, count)| count).sum();
            let part = admissions as u64 * weight(*class) / whole;
            prop_assert!(got as u64 >= part / 2, "goal {} got {} of {}", number, got, part);
        }
    }
}
