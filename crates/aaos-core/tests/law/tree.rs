//! The agent tree: limits, removal, revocation, and the conservation of tokens and uses.

use aaos_core::authority::{Authority, AuthorityLimits, Refusal};
use aaos_core::effect::{Authorized, AuthorizedParts, Inference};
use aaos_core::id::AgentId;
use aaos_core::limits::{MAX_CHILDREN_AT_ONCE, MAX_SPAWN_DEPTH};
use aaos_core::quantity::{Amounts, Millis, Quantity};
use proptest::prelude::*;

use crate::support::{
    NOW, Wish, act, admission, agent, all, ask, call, child, fresh_call, grant, inference, request,
    settle_tokens, tokens_of, tool, world, world_with,
};

fn limit_words(refusal: Result<impl std::fmt::Debug, Refusal>) -> String {
    match refusal {
        Err(Refusal::Limit(words)) => words,
        other => panic!("not a limit: {other:?}"),
    }
}

#[test]
fn depth_children_and_agents_are_limited() {
    let mut law = world(&[]);
    for depth in 1..=u128::from(MAX_SPAWN_DEPTH) {
        child(&mut law, depth, depth + 1, &[]).expect("deep enough");
        assert_eq!(law.depth_of(agent(depth + 1)), Some(u32::try_from(depth).expect("small")));
    }
    assert!(limit_words(child(&mut law, 6, 7, &[])).contains("depth 5"));
    let mut law = world(&[]);
    for number in 0..MAX_CHILDREN_AT_ONCE as u128 {
        child(&mut law, 1, 10 + number, &[]).expect("a slot");
    }
    assert!(limit_words(child(&mut law, 1, 20, &[])).contains("3 children"));
    law.remove(agent(11));
    assert_eq!(law.children_of(agent(1)), [agent(10), agent(12)]);
    child(&mut law, 1, 20, &[]).expect("the slot is free again");
    let mut law = Authority::new(AuthorityLimits { max_agents: 1, ..AuthorityLimits::default() });
    law.admit_root(admission(1, None), Vec::new(), NOW).expect("the one");
    assert!(limit_words(law.admit_root(admission(2, None), Vec::new(), NOW)).contains("1 agents"));
    assert!(limit_words(child(&mut law, 1, 2, &[])).contains("1 agents"));
    law.remove(agent(1));
    law.admit_root(admission(2, None), Vec::new(), NOW).expect("room again");
}

#[test]
fn removal_takes_descendants_and_leaves_what_was_used() {
    let mut law = world_with(&["{ tool: echo, max_invocations: 9 }"], Some(1000));
    child(&mut law, 1, 2, &[(1, 10, "tool: echo")]).expect("a child");
    child(&mut law, 2, 3, &[(10, 11, "tool: echo")]).expect("a grandchild");
    let parts = law.authorize(agent(3), call(1), inference(100), NOW).expect("tokens").into_parts();
    settle_tokens(&mut law, &parts, 70);
    act(&mut law, 3, tool("echo")).expect("a use");
    law.remove(agent(2));
    assert_eq!(law.agent_count(), 1);
    assert!(law.depth_of(agent(3)).is_none());
    assert_eq!(tokens_of(&law, agent(1), NOW), (70, 0));
    law.remove(agent(2));
    assert_eq!(law.agent_count(), 1, "removing twice is once");
}

#[test]
fn a_late_refund_of_a_removed_agent_reaches_its_ancestors() {
    let mut law = world_with(&["{ tool: echo, max_invocations: 1 }"], Some(100));
    child(&mut law, 1, 2, &[(1, 10, "tool: echo")]).expect("a child");
    child(&mut law, 2, 3, &[(10, 11, "tool: echo")]).expect("a grandchild");
    let held = ask(&mut law, 3, all([tool("echo")])).expect("the one use");
    let parts = law.authorize(agent(3), call(1), inference(100), NOW).expect("tokens").into_parts();
    law.remove(agent(2));
    assert!(act(&mut law, 1, tool("echo")).is_err(), "still charged");
    assert_eq!(tokens_of(&law, agent(1), NOW), (0, 100));
    drop(held);
    act(&mut law, 1, tool("echo")).expect("given back");
    settle_tokens(&mut law, &parts, 40);
    assert_eq!(tokens_of(&law, agent(1), NOW), (40, 0));
    law.remove(agent(1));
    assert!(format!("{law:?}").contains("agents: {}"), "nothing is kept for ever: {law:?}");
}

#[test]
fn revocation_ends_everything_derived() {
    let mut law = world(&["tool: *", "tool: grep"]);
    child(&mut law, 1, 2, &[(1, 10, "tool: echo"), (2, 11, "tool: grep")]).expect("a child");
    child(&mut law, 2, 3, &[(10, 12, "tool: echo")]).expect("a grandchild");
    assert_eq!(law.revoke(grant(1)).grants, [grant(1), grant(10), grant(12)]);
    for who in [1, 2, 3] {
        assert!(act(&mut law, who, tool("echo")).is_err(), "agent {who}");
    }
    act(&mut law, 2, tool("grep")).expect("the other branch stands");
    assert!(law.revoke(grant(1)).grants.is_empty() && law.revoke(grant(10)).grants.is_empty(), "once");
    assert_eq!(law.grants_of(agent(3)), []);
}

#[test]
fn a_call_that_is_cut_already_is_told_to_whoever_revokes_its_other_grant() {
    let mut law = world(&["tool: echo", "tool: grep", "tool: file_list"]);
    let held = law.authorize(agent(1), call(1), all([tool("echo"), tool("grep")]), NOW).expect("granted");
    let parts = held.into_parts();
    let dropped = law.authorize(agent(1), call(2), all([tool("grep")]), NOW).expect("granted");
    let first = law.revoke(grant(1));
    assert_eq!((first.calls, first.cut_before), (vec![call(1)], vec![]));
    let second = law.revoke(grant(2));
    assert_eq!(
        (second.calls, second.cut_before),
        (vec![call(2)], vec![call(1)]),
        "it still runs under this one"
    );
    assert!(law.is_cut(call(1)) && law.is_cut(call(2)));
    drop(dropped);
    assert!(!law.is_cut(call(2)), "what never began is over");
    assert!(law.settle(call(1), &parts.charges, &Amounts::NONE, NOW).cut);
    assert!(!law.is_cut(call(1)), "settled");
    let third = law.revoke(grant(3));
    assert_eq!((third.calls, third.cut_before), (vec![], vec![]));
}

#[test]
fn a_reservation_is_on_the_whole_path_or_nowhere() {
    let mut law = world_with(&[], Some(100));
    law.admit_child(agent(1), admission(2, Some(500)), Vec::new(), NOW)
        .expect("a ceiling above the parent's");
    law.admit_child(agent(1), admission(3, Some(30)), Vec::new(), NOW).expect("a child");
    let refused = law.authorize(agent(3), fresh_call(), inference(40), NOW).expect_err("its own ceiling");
    assert_eq!(refused, Refusal::Budget { quantity: Quantity::Tokens, wanted: 40, remaining: 30 });
    let refused =
        law.authorize(agent(2), fresh_call(), inference(400), NOW).expect_err("the parent's ceiling");
    assert_eq!(refused, Refusal::Budget { quantity: Quantity::Tokens, wanted: 400, remaining: 100 });
    for who in [1, 2, 3] {
        assert_eq!(tokens_of(&law, agent(who), NOW), (0, 0));
    }
    let first = law.authorize(agent(2), fresh_call(), inference(80), NOW).expect("80 of 100");
    let waits = law.authorize(agent(3), fresh_call(), inference(30), NOW).expect_err("held by a sibling");
    assert_eq!(waits, Refusal::Waits { quantity: Quantity::Tokens, wanted: 30 });
    drop(first);
    assert!(law.authorize(agent(3), fresh_call(), inference(30), NOW).is_ok());
}

#[test]
fn what_a_removed_agent_held_is_gone() {
    let mut law = world(&["tool: echo"]);
    child(&mut law, 1, 2, &[(1, 10, "tool: echo")]).expect("a child");
    assert_eq!(law.origin_of(grant(10)), Some(grant(1)), "the control");
    law.remove(agent(2));
    assert_eq!(law.origin_of(grant(10)), None);
    assert_eq!(law.revoke(grant(10)).grants, [], "nothing is left to revoke");
    assert_eq!(law.revoke(grant(1)).grants, [grant(1)]);
}

#[test]
fn uses_older_than_a_minute_are_not_kept() {
    let mut law = world(&["{ tool: echo, max_per_minute: 2 }"]);
    let mut minutes = 0..;
    let mut size_after = |uses: usize| {
        for minute in minutes.by_ref().take(uses) {
            let now = NOW.after(Millis(minute * 60_000));
            let granted = law.authorize(agent(1), fresh_call(), all([tool("echo")]), now).expect("slowly");
            let parts = granted.into_parts();
            law.settle(parts.call, &parts.charges, &Amounts::NONE, now);
        }
        format!("{law:?}").len()
    };
    let few = size_after(20);
    assert!(size_after(100) < few + 100, "it grows with every use");
}

#[derive(Debug, Clone)]
enum Step {
    Admit { parent: usize, limit: Option<u64> },
    Remove { agent: usize },
    Infer { agent: usize, reserve: u64 },
    Use { agent: usize },
    Settle { open: usize, used: u64 },
    Refund { open: usize },
    Drop { open: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let at = 0..8usize;
    prop_oneof![
        2 => (at.clone(), prop::option::of(1..400u64)).prop_map(|(parent, limit)| Step::Admit { parent, limit }),
        1 => at.clone().prop_map(|agent| Step::Remove { agent }),
        4 => (at.clone(), 0..200u64).prop_map(|(agent, reserve)| Step::Infer { agent, reserve }),
        3 => at.clone().prop_map(|agent| Step::Use { agent }),
        3 => (at.clone(), 0..220u64).prop_map(|(open, used)| Step::Settle { open, used }),
        1 => at.clone().prop_map(|open| Step::Refund { open }),
        1 => at.prop_map(|open| Step::Drop { open }),
    ]
}

/// Something charged and not yet settled.
enum Open {
    Live(Authorized<Inference>, u64),
    Taken(AuthorizedParts<Inference>, u64),
    Uses(AuthorizedParts<Wish>),
}

struct Run {
    law: Authority,
    agents: Vec<u128>,
    next: u128,
    open: Vec<Open>,
    used: u64,
    uses: u32,
}

const USES: u32 = 12;
const LIMIT: u64 = 600;

impl Run {
    fn new() -> Self {
        let words = format!("{{ tool: echo, max_invocations: {USES} }}");
        Self {
            law: world_with(&[&words], Some(LIMIT)),
            agents: vec![1],
            next: 2,
            open: Vec::new(),
            used: 0,
            uses: 0,
        }
    }

    fn pick(&self, at: usize) -> u128 {
        self.agents[at % self.agents.len()]
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Admit { parent, limit } => {
                let (parent, number) = (self.pick(*parent), self.next);
                let from = self.law.grants_of(agent(parent))[0].id;
                let grants = vec![(from, request(number, "tool: echo"))];
                if self.law.admit_child(agent(parent), admission(number, *limit), grants, NOW).is_ok() {
                    self.agents.push(number);
                    self.next += 1;
                }
            }
            Step::Remove { agent: at } => {
                let gone = self.pick(*at);
                if gone != 1 {
                    self.law.remove(agent(gone));
                    let law = &self.law;
                    self.agents.retain(|one| law.depth_of(agent(*one)).is_some());
                }
            }
            Step::Infer { agent: at, reserve } => {
                let who = agent(self.pick(*at));
                if let Ok(granted) = self.law.authorize(who, fresh_call(), inference(*reserve), NOW) {
                    let holds = |one: AgentId| {
                        let purse = self.law.purse(one, NOW).expect("alive");
                        let (used, reserved) = tokens_of(&self.law, one, NOW);
                        let ceiling = purse.budget.max.get(Quantity::Tokens);
                        *reserve == 0 || ceiling.is_none_or(|most| used + reserved <= most)
                    };
                    assert!(holds(agent(1)), "at every admission");
                    assert!(holds(who));
                    self.open.push(if reserve % 2 == 0 {
                        Open::Live(granted, *reserve)
                    } else {
                        Open::Taken(granted.into_parts(), *reserve)
                    });
                }
            }
            Step::Use { agent: at } => {
                let who = self.pick(*at);
                if let Ok(granted) = ask(&mut self.law, who, all([tool("echo")])) {
                    self.open.push(Open::Uses(granted.into_parts()));
                }
            }
            Step::Settle { open, used } => self.close(*open, Some(*used), false),
            Step::Refund { open } => self.close(*open, None, false),
            Step::Drop { open } => self.close(*open, None, true),
        }
    }

    fn close(&mut self, at: usize, used: Option<u64>, by_drop: bool) {
        if self.open.is_empty() {
            return;
        }
        match (self.open.swap_remove(at % self.open.len()), used) {
            (Open::Live(granted, _), None) if by_drop => drop(granted),
            (Open::Live(granted, reserved), used) => {
                self.open.push(Open::Taken(granted.into_parts(), reserved));
                self.close(self.open.len() - 1, used, false);
            }
            (Open::Taken(parts, reserved), Some(used)) => {
                let settlement = settle_tokens(&mut self.law, &parts, used);
                assert_eq!(!settlement.overdrafts.is_empty(), used > reserved);
                self.used += used;
            }
            (Open::Uses(parts), Some(_)) => {
                self.law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
                self.uses += 1;
            }
            (Open::Taken(parts, _), None) => self.law.refund(parts.call, parts.charges),
            (Open::Uses(parts), None) => self.law.refund(parts.call, parts.charges),
        }
    }

    /// What the root's purse and grant must show.
    fn check(&mut self) {
        let reserved = self.open.iter().map(|open| match open {
            Open::Live(_, reserved) | Open::Taken(_, reserved) => *reserved,
            Open::Uses(_) => 0,
        });
        let reserved: u64 = reserved.sum();
        // Any operation takes dropped authorisations back.
        self.law.refund(fresh_call(), Vec::new());
        assert_eq!(tokens_of(&self.law, agent(1), NOW), (self.used, reserved), "nothing is lost or made");
        let held = self.open.iter().filter(|open| matches!(open, Open::Uses(_))).count();
        assert!(self.uses + u32::try_from(held).expect("few") <= USES);
    }

    /// With everything closed, exactly the uses that were not settled are left.
    fn check_uses_left(&mut self) {
        while !self.open.is_empty() {
            self.close(0, None, true);
        }
        for _ in self.uses..USES {
            act(&mut self.law, 1, tool("echo")).expect("a use that nobody had");
        }
        assert!(act(&mut self.law, 1, tool("echo")).is_err(), "one more than there were");
    }
}

proptest! {
    #![proptest_config(crate::properties::config(200))]

    #[test]
    fn tokens_and_uses_are_conserved(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        run.check_uses_left();
    }
}
