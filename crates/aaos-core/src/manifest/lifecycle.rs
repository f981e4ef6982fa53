//! `lifecycle`: for one run, persistent, or woken by a schedule.

use crate::schedule::{Misfire, Schedule, ScheduleSpec, WAKE_MESSAGE};

use super::fields::{Parsed, error, text, unknown, wrong};
use super::yaml::{Content, Node, Pair};
use super::{Lifecycle, Problem};

const FIELDS: [&str; 3] = ["message", "misfire", "scheduled"];
const WANTED: &str = "on-demand, persistent or { scheduled: CRON }";

pub(super) fn lifecycle(node: &Node) -> Parsed<Lifecycle> {
    match &node.content {
        Content::Text(word) if word == "on-demand" => Ok(Lifecycle::OnDemand),
        Content::Text(word) if word == "persistent" => Ok(Lifecycle::Persistent),
        Content::Map(pairs) => scheduled(node, pairs).map(Lifecycle::Scheduled),
        _ => Err(wrong(node, "lifecycle", WANTED)),
    }
}

fn scheduled(node: &Node, pairs: &[Pair]) -> Parsed<ScheduleSpec> {
    let (mut schedule, mut misfire, mut message) = (None, Misfire::default(), WAKE_MESSAGE.to_owned());
    for pair in pairs {
        let value = &pair.value;
        match pair.key.as_str() {
            "scheduled" => {
                let cron = Schedule::parse(text(value, "lifecycle.scheduled")?);
                schedule = Some(cron.map_err(|why| error(value.place, Problem::Schedule(why)))?);
            }
            "misfire" => misfire = misfire_of(value)?,
            "message" => message = message_of(value)?,
            _ => return Err(unknown(pair, "lifecycle", &FIELDS)),
        }
    }
    let missing = || error(node.place, Problem::Missing { field: "lifecycle.scheduled" });
    Ok(ScheduleSpec { schedule: schedule.ok_or_else(missing)?, misfire, message })
}

fn misfire_of(node: &Node) -> Parsed<Misfire> {
    match &node.content {
        Content::Text(word) if word == "skip" => Ok(Misfire::Skip),
        Content::Text(word) if word == "once" => Ok(Misfire::Once),
        _ => Err(wrong(node, "lifecycle.misfire", "skip or once")),
    }
}

fn message_of(node: &Node) -> Parsed<String> {
    let message = text(node, "lifecycle.message")?;
    if message.trim().is_empty() {
        return Err(wrong(node, "lifecycle.message", "text that is not empty"));
    }
    Ok(message.to_owned())
}
