//! `show`: the timeline of a goal or of an agent, and an agent's conversation.
//!
//! Invariant: it only reads entries, so it shows the same with a daemon, without one, and for a goal long over.

use aaos_core::event::{AgentEnd, Entry, Event};
use aaos_core::quantity::{Millis, Timestamp};
use anyhow::{Context, Result, bail};

use crate::cli::ShowArgs;
use crate::exit::{Exit, UsageError};
use crate::render::conversation::{Conversation, Line};
use crate::render::entry::{self, agent_end, tokens};
use crate::render::table::Table;
use crate::render::text::{VALUE_CHARS, block, cut, instant, short_id, span};
use crate::render::timeline::{AgentLine, GoalLine, Report, Time, Timeline, cost};
use crate::render::{OutputError, Screen, Tone};
use crate::settings::Settings;

use super::entries::{Query, Source, with_source};

/// Characters of the bar that shows when an agent lived.
const BAR_CHARS: u64 = 24;

/// `show`.
pub(super) fn show(settings: &Settings, args: ShowArgs, screen: Screen) -> Result<Exit> {
    with_source(settings, async move |mut source| {
        let query = source.target(&args.target).await?;
        if args.conversation {
            return converse(source, query, screen).await;
        }
        let mut timeline = Timeline::default();
        let mut first = None;
        let take = |entry: &Entry| {
            first.get_or_insert_with(|| (entry.seq, begins(&entry.event)));
            timeline.take(entry);
            Ok(())
        };
        source.each(query, usize::MAX, take).await?;
        if let Some((seq, false)) = first {
            bail!(
                "what came before entry {seq} was archived, so that times and costs would be wrong; \
                 `agentd audit --json` shows what is left, and the files in `archive` beside the journal hold the rest"
            );
        }
        let report = timeline
            .report()
            .with_context(|| format!("the journal has no entry of {:?}", cut(&args.target, VALUE_CHARS)))?;
        if args.json {
            screen.json(&report)?;
        } else {
            print(&report, screen)?;
        }
        Ok(Exit::Done)
    })
}

/// Whether a goal's or an agent's entries begin with this.
fn begins(event: &Event) -> bool {
    matches!(event, Event::GoalAccepted { .. } | Event::AgentSpawned { .. } | Event::CapabilityGranted { .. })
}

/// The conversation of one agent, a JSON line each.
async fn converse(mut source: Source, query: Query, screen: Screen) -> Result<Exit> {
    if let Some(goal) = query.goal_id {
        let why = format!("a conversation is one agent's; `agentd show {goal}` lists the agents of the goal");
        return Err(UsageError(why).into());
    }
    let mut conversation = Conversation::default();
    let print = |lines: Vec<Line>| lines.iter().try_for_each(|line| screen.json(line));
    let take = |entry: &Entry| Ok(print(conversation.take(entry))?);
    source.each(query, usize::MAX, take).await?;
    print(conversation.finish())?;
    Ok(Exit::Done)
}

fn print(report: &Report, screen: Screen) -> Result<(), OutputError> {
    for (tone, line) in lines(report) {
        screen.line(tone, &line)?;
    }
    Ok(())
}

/// Everything that is printed.
fn lines(report: &Report) -> Vec<(Tone, String)> {
    let mut lines: Vec<(Tone, String)> = Vec::new();
    if let Some(goal) = &report.goal {
        lines.extend(goal_lines(goal, report));
    }
    let used = &report.used;
    let calls = match used.failed_calls {
        0 => format!("{} calls", used.calls),
        failed => format!("{} calls, {failed} failed or denied", used.calls),
    };
    let sum =
        format!("{} in {} inferences, {calls}, cost {}", tokens(used.usage), used.inferences, cost(used));
    lines.push((Tone::Plain, sum));
    lines.push((Tone::Plain, String::new()));
    let mut rows = Rows { report, table: Table::new(&HEADING), waits: Vec::new() };
    report.agents.iter().for_each(|line| rows.agent(line, 0));
    let Rows { table, waits, .. } = rows;
    let tones = std::iter::once(Tone::Dim).chain(std::iter::repeat(Tone::Plain));
    lines.extend(tones.zip(table.lines()));
    if !waits.is_empty() {
        lines.push((Tone::Plain, String::new()));
        lines.extend(waits.into_iter().map(|wait| (Tone::Plain, wait)));
    }
    let outputs = report.goal.iter().flat_map(|goal| &goal.outputs);
    for (at, output) in outputs.enumerate() {
        if at == 0 {
            lines.push((Tone::Plain, String::new()));
        }
        let tone = if output.observed { Tone::Good } else { Tone::Bad };
        lines.push((tone, entry::output(output)));
    }
    lines
}

fn goal_lines(goal: &GoalLine, report: &Report) -> Vec<(Tone, String)> {
    let id = goal.goal_id.map_or(String::new(), |id| format!(" {id}"));
    let exit = goal.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
    let tone = match goal.exit_code {
        Some(0) => Tone::Good,
        Some(_) => Tone::Bad,
        None => Tone::Bold,
    };
    let mut lines = vec![(tone, format!("goal{id} {}{exit}", entry::word(&goal.state)))];
    lines.extend(block(&goal.goal).lines().map(|line| (Tone::Plain, format!("  {line}"))));
    if let Some(why) = &goal.error {
        lines.extend(block(why).lines().map(|line| (Tone::Bad, format!("  {line}"))));
    }
    let queued = goal.started_at.unwrap_or(report.latest_at).since(goal.accepted_at);
    let until = goal.ended_at.unwrap_or(report.latest_at);
    let took = span(until.since(goal.accepted_at));
    let so_far = if goal.ended_at.is_none() { " so far" } else { "" };
    lines.push((
        Tone::Plain,
        format!(
            "for uid {}, accepted {}, waited {} for its turn, took {took}{so_far}",
            goal.principal,
            instant(goal.accepted_at),
            span(queued)
        ),
    ));
    lines
}

const HEADING: [&str; 10] =
    ["agent", "from", "to", "", "inferences", "calls", "tokens in", "out", "cost", "end"];

/// The table of agents, and what they waited for, as they are gathered.
struct Rows<'r> {
    report: &'r Report,
    table: Table,
    waits: Vec<String>,
}

impl Rows<'_> {
    fn agent(&mut self, line: &AgentLine, depth: usize) {
        let begun = self.report.begun_at;
        let name = format!("{}{} {}", "  ".repeat(depth), line.name, short_id(&line.agent_id));
        let since = |at: Timestamp| format!("+{}", span(at.since(begun)));
        self.table.row(&[
            &name,
            &since(line.started_at),
            &line.ended_at.map_or("–".to_owned(), since),
            &bar(self.report, line),
            &line.used.inferences.to_string(),
            &line.used.calls.to_string(),
            &line.used.usage.input_tokens.to_string(),
            &line.used.usage.output_tokens.to_string(),
            &cost(&line.used),
            &end(line),
        ]);
        let mut told = time_words(&line.time);
        match line.resumed {
            0 => {}
            1 => told.push("went on after a restart".to_owned()),
            times => told.push(format!("went on after {times} restarts")),
        }
        if !told.is_empty() {
            self.waits.push(format!("{} {}: {}", line.name, short_id(&line.agent_id), told.join(", ")));
        }
        line.children.iter().for_each(|child| self.agent(child, depth + 1));
    }
}

/// How an agent's time stands to that of the whole: `··====··`.
fn bar(report: &Report, line: &AgentLine) -> String {
    let whole = report.latest_at.since(report.begun_at).0.max(1);
    let place = |at: Timestamp| at.since(report.begun_at).0.saturating_mul(BAR_CHARS) / whole;
    let from = place(line.started_at).min(BAR_CHARS - 1);
    let to = place(line.ended_at.unwrap_or(report.latest_at)).clamp(from + 1, BAR_CHARS);
    (0..BAR_CHARS).map(|at| if (from..to).contains(&at) { '=' } else { '·' }).collect()
}

fn end(line: &AgentLine) -> String {
    match (&line.end, line.stop_reason) {
        (Some(AgentEnd::Finished), Some(stop)) => entry::word(&stop),
        (Some(end), _) => agent_end(end),
        (None, _) => "lives".to_owned(),
    }
}

/// Where the time went, the waits last.
fn time_words(time: &Time) -> Vec<String> {
    let parts: [(&str, Millis); 5] = [
        ("models answered", time.model_ms),
        ("tools worked", time.tools_ms),
        ("waited for its children", time.children_ms),
        ("waited for the provider", time.provider_wait_ms),
        ("waited for approval", time.approval_wait_ms),
    ];
    let told = parts.iter().filter(|(_, time)| time.0 > 0);
    told.map(|(what, time)| format!("{what} {}", span(*time))).collect()
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
