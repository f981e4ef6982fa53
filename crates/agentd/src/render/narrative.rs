//! What agents thought, tried and found, with the first lines of the texts themselves.
//!
//! Invariant: a text that a model, a tool or a file made is shown harmless, cut at [`EXCERPT_LINES`] and
//! [`EXCERPT_CHARS`], and says how much is left out; `logs --json` has it whole.

use aaos_core::budget::Budget;
use aaos_core::event::{AgentEnd, Event, Outcome};
use aaos_core::model::ModelReply;
use aaos_core::quantity::{Amounts, Millis, Quantity};
use serde_json::Value;

use super::Tone;
use super::entry::{self, Names};
use super::text::{REASON_CHARS, VALUE_CHARS, cut, excerpt, span};

/// Most lines of one text.
const EXCERPT_LINES: usize = 12;
/// Most characters of one of its lines.
const EXCERPT_CHARS: usize = 200;

/// What an entry is worth: a line of one agent, and lines below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) tone: Tone,
    /// What follows the name.
    pub(super) text: String,
    pub(super) more: Vec<String>,
}

impl Told {
    /// One line.
    pub(super) fn new(tone: Tone, text: impl AsRef<str>) -> Self {
        Self { tone, text: format!(": {}", text.as_ref()), more: Vec::new() }
    }

    /// A text of somebody: its first line behind the words, the others below.
    fn text(tone: Tone, words: &str, text: &str) -> Self {
        let mut lines = excerpt(text, EXCERPT_LINES, EXCERPT_CHARS).into_iter();
        let first = lines.next().unwrap_or_default();
        Self { tone, text: format!(": {words}: {first}"), more: lines.collect() }
    }

    fn below(mut self, more: Vec<String>) -> Self {
        self.more = more;
        self
    }
}

/// What somebody who waits for a goal is told beyond trouble: calls, and why they are made.
pub(super) fn progress(event: &Event) -> Vec<Told> {
    match event {
        Event::ToolInvoked { tool, input, .. } => {
            vec![Told::new(Tone::Plain, format!("{tool} {}", entry::arguments(input)))]
        }
        Event::MessageDelivered { message, .. } => vec![got(message)],
        // Without calls it is the answer, which is told when it is known to be one.
        Event::InferenceCompleted { result: Ok(reply), .. } if !reply.calls.is_empty() => {
            let first = excerpt(&reply.text, 1, REASON_CHARS).remove(0);
            if first.is_empty() { Vec::new() } else { vec![Told::new(Tone::Dim, format!("says: {first}"))] }
        }
        _ => Vec::new(),
    }
}

/// What is told of the reply to a request for a summary: in a log what it says, but not as the agent's own words.
pub(super) fn summary(event: &Event, is_whole: bool) -> Vec<Told> {
    let Event::InferenceCompleted { result: Ok(reply), elapsed, spent, .. } = event else {
        return Vec::new();
    };
    if !is_whole {
        return Vec::new();
    }
    let text = Told::text(Tone::Dim, "its earlier conversation is summarised as", &reply.text);
    vec![text, answered(reply, *elapsed, spent)]
}

/// What a log tells of an entry that is neither trouble nor routine.
pub(super) fn whole(event: &Event, names: &Names) -> Vec<Told> {
    match event {
        Event::ToolInvoked { tool, input, .. } => {
            let call = Told::new(Tone::Plain, format!("{tool} {}", entry::arguments(input)));
            vec![call.below(long_members(input))]
        }
        Event::ToolResult { tool, outcome, result_bytes, result, elapsed, .. } => {
            assert_eq!(*outcome, Outcome::Done, "whatever went wrong is told as trouble");
            let words = entry::result_words(*outcome, *result_bytes, None, *elapsed);
            let told = Told::new(Tone::Dim, format!("{tool} {words}"));
            vec![told.below(result.as_deref().map(found).unwrap_or_default())]
        }
        Event::InferenceCompleted { result: Ok(reply), elapsed, spent, .. } => {
            thought(reply, *elapsed, spent)
        }
        Event::AgentExecutionStarted { message, .. } => vec![Told::text(Tone::Plain, "is asked", message)],
        Event::MessageDelivered { message, .. } => vec![got(message)],
        Event::AgentSpawned { manifest, budget, principal, .. } => {
            let limit = Some(budget).filter(|budget| **budget != Budget::default());
            let most = limit.map(|budget| format!(", at most {budget}")).unwrap_or_default();
            let words = format!("started for uid {principal}, {}{most}", entry::models(manifest));
            vec![Told::new(Tone::Bold, words)]
        }
        // Each of these stands beside another entry that says the same and more.
        Event::WorkerStarted { .. }
        | Event::ConfinementDegraded { .. }
        | Event::UsageReported { .. }
        | Event::SpawnRequested { .. }
        | Event::ChildEnded { .. }
        | Event::SpawnCompleted { child: Some(_), .. }
        | Event::AgentStopped { end: AgentEnd::Finished }
        | Event::AgentMessageReceived {} => Vec::new(),
        other => {
            let (kind, facts) = (other.kind().replace('_', " "), entry::facts(other, names));
            vec![Told::new(Tone::Dim, format!("{kind}: {facts}"))]
        }
    }
}

fn got(message: &str) -> Told {
    Told::text(Tone::Plain, "got", message)
}

/// Reasoning and prose, then what they took.
fn thought(reply: &ModelReply, elapsed: Millis, spent: &Amounts) -> Vec<Told> {
    let mut told = Vec::new();
    if let Some(thoughts) = reply.thoughts().filter(|text| !text.trim().is_empty()) {
        told.push(Told::text(Tone::Dim, "thinks", &thoughts));
    }
    if !reply.text.trim().is_empty() {
        told.push(Told::text(Tone::Plain, "says", &reply.text));
    }
    told.push(answered(reply, elapsed, spent));
    told
}

/// What a reply took.
fn answered(reply: &ModelReply, elapsed: Millis, spent: &Amounts) -> Told {
    let cost = match spent.get(Quantity::MicroUsd) {
        0 => String::new(),
        micros => format!(", {}", Quantity::MicroUsd.show(micros)),
    };
    Told::new(Tone::Dim, format!("was answered in {}, {}{cost}", span(elapsed), entry::tokens(reply.usage)))
}

/// What a call gave: its short members in one line, then the others.
fn found(json: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<Value>(json) else {
        return excerpt(json, EXCERPT_LINES, EXCERPT_CHARS);
    };
    let short = entry::arguments(&value);
    let mut lines = if short.is_empty() { Vec::new() } else { vec![short] };
    lines.extend(long_members(&value));
    lines
}

/// The members of an object that do not fit into a line, each with its first lines.
fn long_members(value: &Value) -> Vec<String> {
    let Value::Object(members) = value else { return Vec::new() };
    let mut lines = Vec::new();
    for (name, member) in members {
        let shown = long_member(member);
        if !shown.is_empty() {
            lines.push(format!("{}:", cut(name, VALUE_CHARS)));
            lines.extend(shown.into_iter().map(|line| format!("  {line}")));
        }
    }
    lines
}

/// The first lines of a long text, or the first of a list of objects; nothing of what fits into a line.
fn long_member(member: &Value) -> Vec<String> {
    match member {
        Value::String(text) if text.chars().count() > VALUE_CHARS || text.contains('\n') => {
            excerpt(text, EXCERPT_LINES, EXCERPT_CHARS)
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let shown = items.iter().take(EXCERPT_LINES).map(entry::arguments);
            let mut shown: Vec<String> = shown.map(|line| cut(&line, EXCERPT_CHARS)).collect();
            let more = items.len().saturating_sub(EXCERPT_LINES);
            if more > 0 {
                shown.push(format!("… {more} more"));
            }
            shown
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "narrative_tests.rs"]
mod tests;
