//! What an inference costs: exactly what the price says, rounded up once; and which price a name has.

use std::collections::BTreeMap;

use aaos_core::model::Usage;
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::price::{MAX_PRICES, Price, PriceError, PriceTable};
use aaos_core::quantity::{MicroUsd, Tokens};
use proptest::prelude::*;

fn usage(input: u64, cached: u64, output: u64) -> Usage {
    Usage { input_tokens: Tokens(input), output_tokens: Tokens(output), cached_input_tokens: Tokens(cached) }
}

fn price(input: u64, cached: u64, output: u64) -> Price {
    Price { input: MicroUsd(input), cached_input: MicroUsd(cached), output: MicroUsd(output) }
}

fn model(name: &str) -> ModelName {
    ModelName::parse(name).expect("a name")
}

fn table(models: &[(&str, Price)]) -> PriceTable {
    PriceTable::new(models.iter().map(|(name, price)| (model(name), *price)).collect()).expect("few")
}

#[test]
fn a_cost_is_worked_out_by_hand() {
    let dear = Price::parse("3.00", "0.30", "15").expect("a price");
    assert_eq!(dear, price(3_000_000, 300_000, 15_000_000));
    // 900 fresh at 3 + 100 cached at 0.30 + 10 of output at 15 millionths.
    assert_eq!(dear.cost(&usage(1_000, 100, 10)), MicroUsd(2_700 + 30 + 150));
    assert_eq!(dear.cost(&usage(0, 0, 0)), MicroUsd::ZERO);
    assert_eq!(dear.at_most(Tokens(1_000), Tokens(10)), MicroUsd(3_000 + 150));
    // A third of a millionth is one millionth, and three parts are rounded once.
    assert_eq!(price(1, 0, 0).cost(&usage(1, 0, 0)), MicroUsd(1));
    assert_eq!(price(400_000, 300_000, 300_000).cost(&usage(2, 1, 1)), MicroUsd(1));
    assert_eq!(price(0, 0, 0).cost(&usage(u64::MAX, 7, u64::MAX)), MicroUsd::ZERO, "free stays free");
    let most = price(u64::MAX, u64::MAX, u64::MAX);
    assert_eq!(most.cost(&usage(u64::MAX, 0, u64::MAX)), MicroUsd(u64::MAX), "more than fits is the most");
}

#[test]
fn a_price_is_three_amounts_in_decimal() {
    for (input, cached, output, field) in
        [("$3", "1", "1", "input"), ("3", "", "1", "cached_input"), ("3", "1", "1e2", "output")]
    {
        let error = Price::parse(input, cached, output).expect_err(field);
        assert!(matches!(&error, PriceError::Amount { field: wrong, .. } if *wrong == field), "{error}");
        assert!(error.to_string().contains("US dollars per million tokens"), "{error}");
    }
}

#[test]
fn a_name_finds_the_price_of_what_answers_to_it() {
    let (one, two) = (price(1, 9, 3), price(2, 4, 6));
    let known = table(&[("chat", one), ("reasoner", two), ("org/chat", two)]);
    let names = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (model(a), model(b))).collect();
    let provider = |name: &str| ProviderName::parse(name).expect("a name");
    let aliases = names(&[
        ("fast", "chat"),
        ("smart", "chat"),
        ("smart", "reasoner"),
        ("half", "chat"),
        ("half", "unheard-of"),
        ("routed", "deepseek/chat"),
        ("chain", "fast"),
    ]);
    let known = known.with_names(aliases, vec![provider("deepseek")]);
    for (name, wanted) in [
        ("chat", Some(one)),
        ("fast", Some(one)),
        ("smart", Some(price(2, 9, 6))),
        ("half", None),
        ("routed", Some(one)),
        ("chain", None),
        ("deepseek/chat", Some(one)),
        ("deepseek::reasoner", Some(two)),
        ("org/chat", Some(two)),
        ("elsewhere/chat", None),
        ("deepseek/", None),
        ("unheard-of", None),
    ] {
        assert_eq!(known.get(&model(name)), wanted, "{name}");
    }
}

#[test]
fn entries_of_the_operator_stand_over_the_shipped_ones() {
    let (old, new) = (price(1, 1, 1), price(2, 2, 2));
    let merged = table(&[("a", old), ("b", old)]).under(table(&[("b", new), ("c", new)])).expect("few");
    let found = ["a", "b", "c"].map(|name| merged.get(&model(name)));
    assert_eq!(found, [Some(old), Some(new), Some(new)]);
}

#[test]
fn a_table_is_bounded() {
    let many = |from: usize, count: usize| -> BTreeMap<ModelName, Price> {
        (from..from + count).map(|at| (model(&format!("m{at}")), price(0, 0, 0))).collect()
    };
    let full = PriceTable::new(many(0, MAX_PRICES)).expect("just fits");
    assert_eq!(PriceTable::new(many(0, MAX_PRICES + 1)), Err(PriceError::TooMany));
    let one_more = PriceTable::new(many(MAX_PRICES, 1)).expect("one");
    assert_eq!(full.under(one_more), Err(PriceError::TooMany));
}

prop_compose! {
    fn any_price()(input in 0..200_000_000_u64, cached in 0..200_000_000_u64, output in 0..200_000_000_u64) -> Price {
        price(input, cached, output)
    }
}

prop_compose! {
    fn any_usage()(input in 0..10_000_000_u64, share in 0..=100_u64, output in 0..10_000_000_u64) -> Usage {
        usage(input, input * share / 100, output)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cost_is_the_exact_value_rounded_up(price in any_price(), used in any_usage()) {
        let fresh = used.input_tokens.0 - used.cached_input_tokens.0;
        let exact = u128::from(fresh) * u128::from(price.input.0)
            + u128::from(used.cached_input_tokens.0) * u128::from(price.cached_input.0)
            + u128::from(used.output_tokens.0) * u128::from(price.output.0);
        let charged = u128::from(price.cost(&used).0) * 1_000_000;
        prop_assert!(charged >= exact && charged - exact < 1_000_000, "{charged} for {exact}");
    }

    #[test]
    fn more_tokens_never_cost_less(price in any_price(), used in any_usage(), more in 0..1_000_u64) {
        let cost = price.cost(&used);
        let (input, cached, output) =
            (used.input_tokens.0, used.cached_input_tokens.0, used.output_tokens.0);
        prop_assert!(price.cost(&usage(input + more, cached, output)) >= cost);
        prop_assert!(price.cost(&usage(input, cached, output + more)) >= cost);
        prop_assert!(price.cost(&usage(input + more, cached + more, output)) >= cost);
    }

    #[test]
    fn cached_input_is_cheaper_only_if_the_price_says_so(price in any_price(), used in any_usage()) {
        let uncached = price.cost(&Usage { cached_input_tokens: Tokens::ZERO, ..used });
        if price.cached_input <= price.input {
            prop_assert!(price.cost(&used) <= uncached);
        } else {
            prop_assert!(price.cost(&used) >= uncached);
        }
    }

    #[test]
    fn a_reservation_is_never_too_small(price in any_price(), used in any_usage()) {
        prop_assert!(price.at_most(used.input_tokens, used.output_tokens) >= price.cost(&used));
        prop_assert!(price.at_least(used.input_tokens.plus(used.output_tokens)) <= price.cost(&used));
    }

    #[test]
    fn the_longest_output_that_is_paid_for_is_paid_for_and_no_longer_one(
        price in any_price(), left in 0_u64..1_000_000_000_000, input in 0_u64..2_000_000,
    ) {
        let (left, input) = (MicroUsd(left), Tokens(input));
        match price.output_within(left, input) {
            None => prop_assert_eq!(price.output, MicroUsd::ZERO),
            Some(most) => {
                let covered = price.at_most(input, Tokens::ZERO) <= left;
                prop_assert!(!covered || price.at_most(input, most) <= left);
                prop_assert!(price.at_most(input, most.plus(Tokens(1))) > left);
            }
        }
    }
}
