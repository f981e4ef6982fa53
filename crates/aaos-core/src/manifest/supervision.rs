//! `supervision`: whether an agent that ended is started again, and how much of that is too much.
//!
//! Invariant: the window and what is counted in it are above zero.

use crate::limits::{MAX_RESTART_WINDOW_SECONDS, MAX_RESTARTS};
use crate::quantity::Millis;
use crate::supervision::{RestartPolicy, Supervision};

use super::fields::{Parsed, count, dollars, map, seconds, unknown, wrong};
use super::yaml::{Content, Node};

const FIELDS: [&str; 4] = ["max_restarts", "max_usd", "restart", "within_seconds"];

pub(super) fn supervision(node: &Node) -> Parsed<Supervision> {
    let mut supervision = Supervision::default();
    for pair in map(node, "supervision")? {
        let value = &pair.value;
        match pair.key.as_str() {
            "restart" => supervision.restart = policy(value)?,
            "max_restarts" => supervision.max_restarts = restarts(value)?,
            "within_seconds" => supervision.within = window(value)?,
            "max_usd" => supervision.max_usd = Some(dollars(value, "supervision.max_usd")?),
            _ => return Err(unknown(pair, "supervision", &FIELDS)),
        }
    }
    Ok(supervision)
}

fn policy(node: &Node) -> Parsed<RestartPolicy> {
    match &node.content {
        Content::Text(word) if word == "never" => Ok(RestartPolicy::Never),
        Content::Text(word) if word == "on-failure" => Ok(RestartPolicy::OnFailure),
        Content::Text(word) if word == "always" => Ok(RestartPolicy::Always),
        _ => Err(wrong(node, "supervision.restart", "never, on-failure or always")),
    }
}

fn restarts(node: &Node) -> Parsed<u32> {
    const FIELD: &str = "supervision.max_restarts";
    let fits = u32::try_from(count(node, FIELD)?).ok().filter(|most| *most <= MAX_RESTARTS);
    fits.ok_or_else(|| wrong(node, FIELD, "a whole number from 1 to 1000; for none write restart: never"))
}

fn window(node: &Node) -> Parsed<Millis> {
    const FIELD: &str = "supervision.within_seconds";
    let window = seconds(node, FIELD)?;
    let fits = window <= Millis(MAX_RESTART_WINDOW_SECONDS * 1000);
    fits.then_some(window)
        .ok_or_else(|| wrong(node, FIELD, "a whole number of seconds from 1 to 86400, a day"))
}
