//! `replay`: a recorded goal, run again from the journal's file.
//!
//! Invariant: it holds a file that is open for reading and minds that are plain values, so that it has nothing to act
//! with: no daemon, no sandbox, no gateway, no permit. The journal and every other file stay as they are.

use aaos_agent::{
    Divergence, MindConfig, Replay, ReplayError, Replayed, ReplayedAgent, TAPE_KINDS, Tape, moved, specs_of,
};
use aaos_core::event::{Entry, Event, ForkPoint};
use aaos_core::id::{GoalId, Seq};
use aaos_journal::{Filter, JournalFile};
use anyhow::{Context, Result};
use serde::Serialize;

use super::entries::offline;
use crate::cli::ReplayArgs;
use crate::exit::Exit;
use crate::render::entry::word;
use crate::render::text::short_id;
use crate::render::{OutputError, Screen, Tone};
use crate::settings::Settings;

/// Entries among which a goal says that it is a fork, and of which root agent.
const BEGINNING: usize = 8;

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'r> {
    /// The first entry that differs, if one does; the replay ends there.
    diverged: Option<Differs<'r>>,
    replayed: &'r Replayed,
}

#[derive(Serialize)]
struct Differs<'r> {
    seq: Seq,
    what: &'r str,
}

/// `replay`.
pub(super) fn replay(settings: &Settings, args: &ReplayArgs, screen: Screen) -> Result<Exit> {
    let journal = offline(settings)?;
    let mut replay = begun(&journal, args.goal)?;
    let of_goal = Filter { goal: Some(args.goal), ..Filter::default() };
    let diverged = match each(&journal, of_goal, |entry| replay.take(entry))? {
        Ok(()) => None,
        Err(ReplayError::Differs(divergence)) => Some(divergence),
        Err(other) => return Err(other.into()),
    };
    let replayed = replay.finish().with_context(|| format!("the journal knows no goal {}", args.goal))?;
    if args.json {
        let diverged = diverged.as_ref().map(|one| Differs { seq: one.seq, what: &one.what });
        screen.json(&Told { diverged, replayed: &replayed })?;
    } else {
        print(&replayed, diverged.as_ref(), screen)?;
    }
    let is_same = diverged.is_none() && replayed.state_hash == replayed.recorded_hash;
    Ok(if is_same { Exit::Done } else { Exit::Failed })
}

/// A replay of a goal; of a fork, with what its root agent begins with.
fn begun(journal: &JournalFile, goal: GoalId) -> Result<Replay> {
    let kinds = ["goal_forked", "agent_spawned"].map(str::to_owned).into();
    let mut points = Vec::new();
    let mut config = None;
    let beginning = Filter { goal: Some(goal), kinds, limit: BEGINNING, ..Filter::default() };
    for entry in journal.read(&beginning).context("cannot read the journal")? {
        match entry.event {
            Event::GoalForked { from, root, at, earlier, .. } => {
                points = earlier;
                points.push(ForkPoint { goal: from, root, at });
            }
            Event::AgentSpawned { parent: None, manifest, .. } => config = Some(MindConfig::of(&manifest)),
            _ => {}
        }
    }
    let Some(config) = config.filter(|_| !points.is_empty()) else { return Ok(Replay::default()) };
    let mut tape = Tape::lent(config);
    for point in points {
        let kinds = TAPE_KINDS.map(str::to_owned).into();
        let filter = Filter { goal: Some(point.goal), agent: Some(point.root), kinds, ..Filter::default() };
        let taken = each(journal, filter, |entry| match &entry.event {
            _ if entry.seq > point.at => Ok(()),
            Event::BodyErased { .. } => Err(ReplayError::Erased(entry.seq)),
            _ => tape.take(&moved(entry, goal), specs_of).map_err(ReplayError::from),
        });
        taken??;
        anyhow::ensure!(
            tape.is_running(),
            "goal {goal} was forked from goal {}, whose entries were archived; it cannot be replayed",
            point.goal
        );
    }
    Ok(Replay::forked(tape))
}

/// Gives `take` every entry that matches, page by page, until one is refused.
fn each<E>(
    journal: &JournalFile,
    mut filter: Filter,
    mut take: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<Result<(), E>> {
    loop {
        let page = journal.read(&filter).context("cannot read the journal")?;
        let Some(last) = page.last() else { return Ok(Ok(())) };
        filter.after_seq = Some(last.seq);
        if let Err(refused) = page.iter().try_for_each(&mut take) {
            return Ok(Err(refused));
        }
    }
}

fn print(replayed: &Replayed, diverged: Option<&Divergence>, screen: Screen) -> Result<(), OutputError> {
    let Replayed { entries, inferences, calls, state_hash, recorded_hash, .. } = replayed;
    let state = replayed.state.map_or("not over".to_owned(), |state| word(&state));
    let read =
        format!("{entries} entries, {inferences} inferences and {calls} calls of a goal that is {state}");
    screen.line(Tone::Plain, &format!("replayed {read}"))?;
    for agent in &replayed.agents {
        screen.line(Tone::Dim, &line(agent))?;
    }
    if let Some(divergence) = diverged {
        return screen.line(Tone::Bad, &divergence.to_string());
    }
    screen.line(Tone::Plain, &format!("state {state_hash}"))?;
    if state_hash == recorded_hash {
        screen.line(Tone::Good, "it is what was recorded")
    } else {
        screen.line(Tone::Bad, &format!("what was recorded is {recorded_hash}"))
    }
}

fn line(agent: &ReplayedAgent) -> String {
    let runs = match agent.runs {
        1 => "1 run".to_owned(),
        runs => format!("{runs} runs"),
    };
    let running = if agent.is_running { ", one more goes on" } else { "" };
    let mind = agent.mind_hash.as_deref().map_or("–", |hash| hash.get(..16).unwrap_or(hash));
    format!("  {} {} at {}: {runs}{running}, mind {mind}", agent.name, short_id(&agent.agent_id), agent.path)
}
