//! Purses: windows, budgets under budgets, the clock of a run, and what an effect reserves and spends.

use aaos_core::authority::{Authority, AuthorityLimits, Refusal};
use aaos_core::budget::{Budget, Ceilings, Purse};
use aaos_core::effect::{Effect, Inference, InferenceOutcome};
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelReply, ModelStop, Usage};
use aaos_core::price::Price;
use aaos_core::quantity::{Amounts, Millis, Quantity, Timestamp, Tokens};
use aaos_core::tool::{ToolCall, find};

use crate::support::{NOW, admission, agent, call, inference, request};

const TEN_A_WINDOW: Budget =
    Budget { max: Ceilings::of(Quantity::Tokens, 10), reset_period: Some(Millis(100)) };

fn at(ms: u64) -> Timestamp {
    Timestamp(1_000 + ms)
}

#[test]
fn a_window_ends_on_the_dot_and_the_next_one_begins_there() {
    let mut purse = Purse::new(TEN_A_WINDOW, at(0));
    purse.reserve(Quantity::Tokens, 8, at(10));
    purse.settle(Quantity::Tokens, 8, 8, at(20));
    let left = |purse: &Purse, ms| purse.remaining(Quantity::Tokens, at(ms));
    assert_eq!((left(&purse, 20), left(&purse, 99)), (Some(2), Some(2)));
    assert_eq!((left(&purse, 100), left(&purse, 199)), (Some(10), Some(10)));
    let ends = |ms| purse.window_ends(at(ms));
    assert_eq!((ends(0), ends(99), ends(100)), (Some(at(100)), Some(at(100)), Some(at(200))));
    assert_eq!(ends(1_234), Some(at(1_300)), "windows in which nothing happened pass too");
    assert_eq!(left(&purse, 50), Some(2), "looking ahead moved nothing");
    purse.roll(at(150));
    assert_eq!(purse.used_at(at(150)), Amounts::NONE);
    assert_eq!(purse.window_ends(at(20)), Some(at(200)), "and no clock brings a window back");
}

#[test]
fn what_is_reserved_crosses_into_the_next_window_and_counts_there() {
    let mut purse = Purse::new(TEN_A_WINDOW, at(0));
    purse.reserve(Quantity::Tokens, 6, at(90));
    assert!(purse.holds(Quantity::Tokens, 4, at(110)) && !purse.holds(Quantity::Tokens, 5, at(110)));
    assert!(purse.could_ever_hold(Quantity::Tokens, 10, at(110)), "it comes back in part");
    purse.reserve(Quantity::Tokens, 4, at(110));
    purse.settle(Quantity::Tokens, 6, 6, at(120));
    assert_eq!(purse.remaining(Quantity::Tokens, at(120)), Some(4));
    assert!(!purse.holds(Quantity::Tokens, 1, at(120)), "6 used and 4 reserved of 10");
    purse.settle(Quantity::Tokens, 4, 0, at(130));
    assert!(purse.holds(Quantity::Tokens, 4, at(130)) && !purse.holds(Quantity::Tokens, 5, at(130)));
    assert_eq!(purse.remaining(Quantity::Tokens, at(200)), Some(10));
}

#[test]
fn without_a_window_nothing_is_ever_reset() {
    for reset_period in [None, Some(Millis::ZERO)] {
        let mut purse = Purse::new(Budget { reset_period, ..TEN_A_WINDOW }, at(0));
        purse.reserve(Quantity::Tokens, 10, at(0));
        purse.settle(Quantity::Tokens, 10, 10, at(1));
        assert_eq!(purse.remaining(Quantity::Tokens, Timestamp(u64::MAX)), Some(0), "{reset_period:?}");
        assert!(purse.holds(Quantity::Files, u64::MAX, at(1)), "what has no ceiling is not bounded");
        assert_eq!(purse.remaining(Quantity::Files, at(1)), None);
    }
}

#[test]
#[should_panic(expected = "never passes a ceiling")]
fn a_purse_takes_no_reservation_that_does_not_hold() {
    Purse::new(TEN_A_WINDOW, at(0)).reserve(Quantity::Tokens, 11, at(0));
}

#[test]
fn a_budget_under_another_is_the_tighter_in_every_respect() {
    let budget = |tokens: Option<u64>, files: Option<u64>, period: Option<u64>| Budget {
        max: Ceilings::NONE.with(Quantity::Tokens, tokens).with(Quantity::Files, files),
        reset_period: period.map(Millis),
    };
    let none = Budget::default();
    for (mine, other, both) in [
        (none, none, none),
        (budget(Some(5), None, Some(9)), none, budget(Some(5), None, Some(9))),
        (none, budget(Some(5), None, Some(9)), budget(Some(5), None, Some(9))),
        // A window without any ceiling bounds nothing, and refills nothing.
        (budget(None, None, Some(9)), budget(Some(5), None, None), budget(Some(5), None, None)),
        (budget(Some(5), None, None), budget(Some(8), Some(1), None), budget(Some(5), Some(1), None)),
        // For life is tighter than by the window; of two windows the longer is.
        (budget(Some(5), None, Some(9)), budget(Some(8), None, None), budget(Some(5), None, None)),
        (budget(Some(5), None, None), budget(Some(2), None, Some(9)), budget(Some(2), None, None)),
        (budget(Some(5), None, Some(9)), budget(Some(8), None, Some(70)), budget(Some(5), None, Some(70))),
        (budget(Some(5), None, Some(70)), budget(None, Some(3), Some(9)), budget(Some(5), Some(3), Some(70))),
    ] {
        assert_eq!(mine.under(&other), both, "{mine:?} under {other:?}");
        assert_eq!(other.under(&mine), both, "either way round");
    }
}

fn with_wall(max: u64, reset_period: Option<u64>) -> Authority {
    let max = Ceilings::of(Quantity::WallMillis, max);
    let budget = Budget { max, reset_period: reset_period.map(Millis) };
    let mut law = Authority::new(AuthorityLimits::default());
    let root = aaos_core::authority::Admission { budget, ..admission(1, None) };
    law.admit_root(root, vec![request(1, "tool: echo")], NOW).expect("room");
    law
}

fn wall(law: &Authority, who: u128, now: Timestamp) -> (u64, u64) {
    let purse = law.purse(agent(who), now).expect("alive");
    (purse.used.get(Quantity::WallMillis), purse.reserved.get(Quantity::WallMillis))
}

#[test]
fn a_run_uses_the_time_that_it_lasts_of_its_own_purse_alone() {
    let mut law = with_wall(1_000, None);
    let child = aaos_core::authority::Admission {
        budget: Budget::of(Quantity::WallMillis, 300),
        ..admission(2, None)
    };
    law.admit_child(agent(1), child, Vec::new(), NOW).expect("room");
    let later = |ms| NOW.after(Millis(ms));
    assert_eq!(law.start_clock(agent(1), NOW), Ok(Some(Millis(1_000))));
    assert_eq!(wall(&law, 1, NOW), (0, 1_000), "all that is left is reserved");
    assert_eq!(law.start_clock(agent(2), NOW), Ok(Some(Millis(300))), "a child runs while its parent does");
    law.stop_clock(agent(2), later(250));
    assert_eq!((wall(&law, 2, NOW), wall(&law, 1, NOW)), ((250, 0), (0, 1_000)));
    law.stop_clock(agent(2), later(280));
    assert_eq!(wall(&law, 2, NOW), (250, 0), "a run ends once");
    law.stop_clock(agent(1), later(400));
    assert_eq!(wall(&law, 1, NOW), (400, 0));
    assert_eq!(law.start_clock(agent(1), later(400)), Ok(Some(Millis(600))));
    // Begun anew while it runs: what it has lasted is used, once.
    assert_eq!(law.start_clock(agent(1), later(500)), Ok(Some(Millis(500))));
    assert_eq!(wall(&law, 1, NOW), (500, 500));
    law.stop_clock(agent(1), later(1_100));
    assert_eq!(wall(&law, 1, NOW), (1_100, 0), "longer than there was is counted in full");
    let refused = law.start_clock(agent(1), later(1_100));
    let spent = Refusal::Budget { quantity: Quantity::WallMillis, wanted: 1, remaining: 0 };
    assert_eq!(refused, Err(spent));
    assert!(law.authorize(agent(2), call(1), inference(5), later(1_100)).is_ok(), "the child goes on");
    assert!(matches!(law.start_clock(agent(9), NOW), Err(Refusal::UnknownAgent(_))));
}

#[test]
fn wall_time_comes_back_with_the_window_and_is_unbounded_without_a_ceiling() {
    let later = |ms| NOW.after(Millis(ms));
    let mut law = with_wall(100, Some(1_000));
    assert_eq!(law.start_clock(agent(1), NOW), Ok(Some(Millis(100))));
    law.stop_clock(agent(1), later(100));
    assert!(law.start_clock(agent(1), later(999)).is_err());
    assert_eq!(law.start_clock(agent(1), later(1_000)), Ok(Some(Millis(100))));
    let mut law = Authority::new(AuthorityLimits::default());
    law.admit_root(admission(1, None), Vec::new(), NOW).expect("room");
    assert_eq!(law.start_clock(agent(1), NOW), Ok(None));
    law.stop_clock(agent(1), later(70));
    assert_eq!(wall(&law, 1, NOW), (70, 0), "counted all the same");
}

#[test]
fn what_is_free_is_what_is_left_and_not_reserved_on_the_way_to_the_root_but_for_wall_time() {
    let budget = |tokens, wall| Budget {
        max: Ceilings::of(Quantity::Tokens, tokens).with(Quantity::WallMillis, Some(wall)),
        reset_period: None,
    };
    let mut law = Authority::new(AuthorityLimits::default());
    let root = aaos_core::authority::Admission { budget: budget(50, 100), ..admission(1, None) };
    let below = aaos_core::authority::Admission { budget: budget(80, 700), ..admission(2, None) };
    law.admit_root(root, Vec::new(), NOW).expect("room");
    law.admit_child(agent(1), below, Vec::new(), NOW).expect("room");
    let free = |law: &Authority, who, quantity| law.free(agent(who), quantity, NOW);
    assert_eq!(free(&law, 2, Quantity::Tokens), Some(50));
    assert_eq!(free(&law, 2, Quantity::WallMillis), Some(700), "its own runs only");
    assert_eq!((free(&law, 1, Quantity::Files), free(&law, 9, Quantity::Tokens)), (None, None));
    law.start_clock(agent(2), NOW).expect("time");
    assert_eq!(free(&law, 2, Quantity::WallMillis), Some(0), "all of it is reserved");
    assert_eq!(law.purse(agent(2), NOW).expect("alive").remaining, budget(50, 700).max, "and left");
}

#[test]
fn what_is_left_is_the_least_on_the_way_to_the_root_but_for_wall_time() {
    let budget = |tokens, wall| Budget {
        max: Ceilings::of(Quantity::Tokens, tokens).with(Quantity::WallMillis, Some(wall)),
        reset_period: None,
    };
    let mut law = Authority::new(AuthorityLimits::default());
    let root = aaos_core::authority::Admission { budget: budget(50, 100), ..admission(1, None) };
    let below = aaos_core::authority::Admission { budget: budget(80, 700), ..admission(2, None) };
    law.admit_root(root, Vec::new(), NOW).expect("room");
    law.admit_child(agent(1), below, Vec::new(), NOW).expect("room");
    assert_eq!(law.purse(agent(1), NOW).expect("alive").remaining, budget(50, 100).max);
    assert_eq!(law.purse(agent(2), NOW).expect("alive").remaining, budget(50, 700).max, "its own runs only");
    assert_eq!(law.start_clock(agent(2), NOW), Ok(Some(Millis(700))), "as its run will have it");
}

fn tool_call(name: &str, input: serde_json::Value) -> ToolCall {
    let tool = find(name).expect("a tool");
    ToolCall::new(tool.parse_input(input).expect("an input")).expect("a call")
}

#[test]
fn a_call_is_made_smaller_where_that_makes_sense_and_never_larger() {
    let fetch = || tool_call("web_fetch", serde_json::json!({ "url": "https://a.org/" }));
    let edit = || {
        let input = serde_json::json!({ "path": "/a", "old_string": "x", "new_string": "y" });
        tool_call("file_edit", input)
    };
    let write = || tool_call("file_write", serde_json::json!({ "path": "/a", "content": "12345" }));
    for (make, quantity) in
        [(&fetch as &dyn Fn() -> ToolCall, Quantity::EgressBytes), (&edit, Quantity::WrittenBytes)]
    {
        let wanted = make().needs().amounts.get(quantity);
        for (left, then) in
            [(None, wanted), (Some(wanted + 1), wanted), (Some(wanted), wanted), (Some(7), 7), (Some(1), 1)]
        {
            let clamped = make().clamped_to(&Ceilings::NONE.with(quantity, left));
            assert_eq!(clamped.needs().amounts.get(quantity), then, "{quantity:?} with {left:?} left");
            assert_eq!(clamped.needs().all, make().needs().all, "the same is needed");
        }
        let spent = make().clamped_to(&Ceilings::of(quantity, 0));
        assert_eq!(
            spent.needs().amounts.get(quantity),
            wanted,
            "nothing left: refused when it is authorised"
        );
        let foreign = make().clamped_to(&Ceilings::of(Quantity::Tokens, 1));
        assert_eq!(foreign, make(), "another quantity is no reason");
    }
    assert!(format!("{:?}", fetch().clamped_to(&Ceilings::of(Quantity::EgressBytes, 7)).input).contains("7"));
    let whole = write().clamped_to(&Ceilings::of(Quantity::WrittenBytes, 2));
    assert_eq!(whole, write(), "half a file is no file");
}

fn priced(input: u64, reply: u64) -> Inference {
    let price = Price::parse("3.00", "0.30", "15.00").expect("a price");
    let mut effect = inference(reply);
    effect.reserve = Tokens(input + reply);
    Inference { price: Some(price), ..effect }
}

#[test]
fn an_inference_reserves_and_spends_money_by_its_price() {
    let needs = priced(1_000, 200).needs().amounts;
    assert_eq!(needs.get(Quantity::Tokens), 1_200);
    assert_eq!(needs.get(Quantity::MicroUsd), 3_000 + 3_000, "all input fresh, all output used");
    assert_eq!(inference(200).needs().amounts.get(Quantity::MicroUsd), 0, "no price, no money");
    let mut law = Authority::new(AuthorityLimits::default());
    law.admit_root(admission(1, None), Vec::new(), NOW).expect("room");
    let parts = law.authorize(agent(1), call(1), priced(1_000, 200), NOW).expect("unbounded").into_parts();
    let spent = |result: Result<ModelReply, ModelFailure>, possibly_billed| {
        let outcome = InferenceOutcome {
            result,
            attempts: 1,
            told_to_wait: 0,
            possibly_billed,
            blames_provider: true,
            elapsed: Millis(1),
        };
        let spent = Inference::spent(&parts, &outcome);
        (spent.get(Quantity::Tokens), spent.get(Quantity::MicroUsd))
    };
    let reply = |input, cached, output| {
        let usage = Usage {
            input_tokens: Tokens(input),
            cached_input_tokens: Tokens(cached),
            output_tokens: Tokens(output),
        };
        Ok(ModelReply {
            text: String::new(),
            reasoning: None,
            thinking: Vec::new(),
            calls: Vec::new(),
            stop: ModelStop::EndTurn,
            usage,
        })
    };
    assert_eq!(spent(reply(1_000, 0, 100), 0), (1_100, 3_000 + 1_500));
    assert_eq!(spent(reply(1_000, 900, 100), 0), (1_100, 300 + 270 + 1_500), "cached input is cheaper");
    assert_eq!(spent(reply(1, 0, 0), 0), (1, 3));
    assert_eq!(spent(reply(1, 1, 0), 0), (1, 1), "a fraction of a millionth is rounded up");
    assert_eq!(spent(reply(1_000, 0, 100), 1), (2_300, 10_500), "and an attempt that may have been billed");
    let failed =
        || Err(ModelFailure { kind: ModelFailureKind::Timeout, message: String::new(), retry_after: None });
    assert_eq!((spent(failed(), 0), spent(failed(), 2)), ((0, 0), (2_400, 12_000)));
}

#[test]
fn what_is_paid_ahead_is_paid_once() {
    let mut law = Authority::new(AuthorityLimits::default());
    law.admit_root(admission(1, Some(100)), Vec::new(), NOW).expect("room");
    let tokens = |law: &Authority| crate::support::tokens_of(law, agent(1), NOW);
    let reserve = |law: &mut Authority, id| {
        law.authorize(agent(1), call(id), inference(60), NOW).expect("room").into_parts()
    };
    let parts = reserve(&mut law, 1);
    for _ in 0..2 {
        law.pay_ahead(agent(1), call(1), &Amounts::of(Quantity::Tokens, 20), NOW);
        assert_eq!(tokens(&law), (20, 40), "twice is once");
    }
    law.settle(call(1), &parts.charges, &Amounts::of(Quantity::Tokens, 50), NOW);
    assert_eq!(tokens(&law), (50, 0));
    law.pay_ahead(agent(1), call(1), &Amounts::of(Quantity::Tokens, 20), NOW);
    assert_eq!(tokens(&law), (50, 0), "an effect that is over pays nothing");
    let mut law = Authority::new(AuthorityLimits::default());
    law.admit_root(admission(1, Some(100)), Vec::new(), NOW).expect("room");
    let parts = reserve(&mut law, 2);
    law.pay_ahead(agent(1), call(2), &Amounts::of(Quantity::Tokens, 20), NOW);
    law.refund(call(2), parts.charges);
    assert_eq!(tokens(&law), (20, 0), "what was used is not given back");
}
