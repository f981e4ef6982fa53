//! `budget_config`: ceilings and the window in which they hold.
//!
//! Invariant: a ceiling is above zero.

use crate::quantity::{Bytes, Tokens};

use super::BudgetConfig;
use super::fields::{Parsed, count, dollars, map, seconds, unknown, wrong};
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
