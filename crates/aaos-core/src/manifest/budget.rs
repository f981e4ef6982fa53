//! `budget_config`: ceilings and the window in which they hold.
//!
//! Invariant: a ceiling is above zero, and money is read from its text, never through a binary fraction.

use crate::quantity::{Bytes, MicroUsd, Millis, Tokens};

use super::BudgetConfig;
use super::fields::{Parsed, count, map, unknown, wrong};
use super::yaml::{Content, Node};

const FIELDS: [&str; 9] = [
    "max_children",
    "max_egress_bytes",
    "max_files",
    "max_journal_bytes",
    "max_tokens",
    "max_usd",
    "max_wall_seconds",
    "max_written_bytes",
    "reset_period_seconds",
];

pub(super) fn budget(node: &Node) -> Parsed<BudgetConfig> {
    let mut budget = BudgetConfig::default();
    for pair in map(node, "budget_config")? {
        let value = &pair.value;
        match pair.key.as_str() {
            "max_children" => budget.max_children = Some(count(value, "budget_config.max_children")?),
            "max_egress_bytes" => {
                budget.max_egress_bytes = Some(Bytes(count(value, "budget_config.max_egress_bytes")?));
            }
            "max_files" => budget.max_files = Some(count(value, "budget_config.max_files")?),
            "max_journal_bytes" => {
                budget.max_journal_bytes = Some(Bytes(count(value, "budget_config.max_journal_bytes")?));
            }
            "max_tokens" => budget.max_tokens = Some(Tokens(count(value, "budget_config.max_tokens")?)),
            "max_usd" => budget.max_usd = Some(dollars(value, "budget_config.max_usd")?),
            "max_wall_seconds" => budget.max_wall = Some(seconds(value, "budget_config.max_wall_seconds")?),
            "max_written_bytes" => {
                budget.max_written_bytes = Some(Bytes(count(value, "budget_config.max_written_bytes")?));
            }
            "reset_period_seconds" if value.content == Content::Number(0) => budget.reset_period = None,
            "reset_period_seconds" => {
                budget.reset_period = Some(seconds(value, "budget_config.reset_period_seconds")?);
            }
            _ => return Err(unknown(pair, "budget_config", &FIELDS)),
        }
    }
    // Nothing would ever be reset: the field had no effect.
    if budget.reset_period.is_some() && budget.is_unlimited() {
        return Err(wrong(
            node,
            "budget_config",
            "a reset_period_seconds beside a ceiling, such as max_tokens",
        ));
    }
    Ok(budget)
}

fn seconds(node: &Node, field: &'static str) -> Parsed<Millis> {
    let fits = u32::try_from(count(node, field)?);
    let seconds = fits.map_err(|_| wrong(node, field, "a whole number of seconds below 2^32"))?;
    Ok(Millis(u64::from(seconds) * 1000))
}

/// An amount of dollars: a number, or text.
fn dollars(node: &Node, field: &'static str) -> Parsed<MicroUsd> {
    let amount = match &node.content {
        Content::Text(text) | Content::Fraction { written: text, .. } => MicroUsd::from_decimal(text),
        Content::Number(whole) => MicroUsd::from_decimal(&whole.to_string()),
        Content::Null | Content::Flag(_) | Content::List(_) | Content::Map(_) => None,
    };
    let wanted = "US dollars above zero with at most six decimals, such as \"1.50\" in quotes";
    amount.filter(|amount| *amount > MicroUsd::ZERO).ok_or_else(|| wrong(node, field, wanted))
}
