//! A recorded goal, run again from its entries alone: every agent's mind is stepped through what it was told, and has
//! to do what it did.
//!
//! Invariants: nothing here can act: this crate has no file, no socket, no clock and no permit, and what a call gave or
//! a model said is taken from the entries. The hash of the state leaves ids and times out: agents are told apart by
//! where in the tree they were spawned.

use std::collections::BTreeMap;

use aaos_core::event::{Entry, Event, GoalState, OutputObserved};
use aaos_core::id::{AgentId, CallId, GoalId, Seq};
use aaos_core::manifest::Manifest;
use aaos_core::name::AgentName;
use aaos_core::toolio::StopReason;
use serde::Serialize;

use crate::mind::{MindConfig, specs_of};
use crate::tape::{Divergence, Tape};

/// Why a goal cannot be replayed to the end of its entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// An entry does not fit.
    #[error(transparent)]
    Differs(#[from] Divergence),
    /// The entries do not begin with the goal's acceptance.
    #[error("the goal's first entries are not in the journal; they were archived")]
    NoBeginning,
    /// A body is gone.
    #[error("the body of entry {0} was erased; what was in it cannot be replayed")]
    Erased(Seq),
}

/// Where an agent was spawned, seen from the goal's root agent: which of its parent's spawning calls, which child of
/// that call, which attempt.
type Path = Vec<[u32; 3]>;

/// One agent of a goal.
#[derive(Debug, Clone)]
struct Played {
    id: AgentId,
    name: AgentName,
    tape: Tape,
    /// Whether it began a run.
    begun: bool,
    runs: Vec<Run>,
    /// Spawning calls in the order in which they spawned, and how many agents were made for each of their children.
    spawns: Vec<(CallId, BTreeMap<u32, u32>)>,
}

/// One run that ended.
#[derive(Debug, Clone)]
struct Run {
    /// The state of the mind that was stepped again.
    replayed: String,
    /// The state that was recorded.
    recorded: String,
    stop: StopReason,
    response: String,
}

/// Steps the agents of one goal through its entries.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    goal: Option<GoalId>,
    agents: BTreeMap<Path, Played>,
    paths: BTreeMap<AgentId, Path>,
    /// Which child of which call a spawn is for.
    requested: BTreeMap<CallId, (CallId, u32)>,
    entries: u64,
    inferences: u64,
    calls: u64,
    state: Option<GoalState>,
    /// Of a fork: what its root agent begins with.
    lent: Option<Tape>,
}

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The goal.
    pub goal_id: GoalId,
    /// How it ended; absent while it is at work.
    pub state: Option<GoalState>,
    /// Entries read.
    pub entries: u64,
    /// Recorded replies and failures of models.
    pub inferences: u64,
    /// Recorded results of calls.
    pub calls: u64,
    /// BLAKE3 over the agents by where they were spawned and the states of their minds after each run, as replayed.
    pub state_hash: String,
    /// The same over the states that were recorded.
    pub recorded_hash: String,
    /// Its agents, parents before their children.
    pub agents: Vec<ReplayedAgent>,
}

/// One agent of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayedAgent {
    /// Its id.
    pub agent_id: AgentId,
    /// Its name.
    pub name: AgentName,
    /// Where in the tree it was spawned: for each step down, which spawning call, which child of it, which attempt.
    pub path: String,
    /// Runs that ended.
    pub runs: u64,
    /// The state of its mind after the last of them.
    pub mind_hash: Option<String>,
    /// Whether a run of it has no end yet.
    pub is_running: bool,
}

impl Replay {
    /// Of a fork, whose root agent begins with this conversation.
    #[must_use]
    pub fn forked(lent: Tape) -> Self {
        Self { lent: Some(lent.handed_over()), ..Self::default() }
    }

    /// Takes the goal's next entry.
    ///
    /// # Errors
    /// [`ReplayError`]: the entry does not fit, or the journal no longer holds what is needed.
    pub fn take(&mut self, entry: &Entry) -> Result<(), ReplayError> {
        match (&entry.event, self.goal) {
            (Event::BodyErased { .. }, _) => return Err(ReplayError::Erased(entry.seq)),
            (Event::GoalAccepted { .. }, None) => self.goal = entry.goal_id,
            (_, None) => return Err(ReplayError::NoBeginning),
            (_, Some(_)) => {}
        }
        self.entries += 1;
        match &entry.event {
            Event::SpawnRequested { call, under, index, .. } => {
                self.requested.insert(*call, (*under, *index));
                Ok(())
            }
            Event::AgentSpawned { name, parent, manifest, spawned_by, .. } => {
                self.spawn(entry, name, *parent, manifest, *spawned_by)
            }
            Event::GoalFinished { state, response, outputs, .. } => {
                self.state = Some(*state);
                if *state == GoalState::Done {
                    self.is_done(response, outputs).map_err(|what| Divergence { seq: entry.seq, what })?;
                }
                Ok(())
            }
            _ => self.step(entry),
        }
    }

    fn spawn(
        &mut self,
        entry: &Entry,
        name: &AgentName,
        parent: Option<AgentId>,
        manifest: &Manifest,
        spawned_by: Option<CallId>,
    ) -> Result<(), ReplayError> {
        let differs = |what: &str| Divergence { seq: entry.seq, what: what.to_owned() };
        let id = entry.agent_id.ok_or_else(|| differs("no agent was spawned"))?;
        let path = match parent {
            None => Path::new(),
            Some(parent) => {
                let under = spawned_by.and_then(|call| self.requested.get(&call));
                let (under, index) = *under.ok_or_else(|| differs("nobody asked for this agent"))?;
                self.place(parent, under, index).ok_or_else(|| differs("its parent is not of the goal"))?
            }
        };
        if path.is_empty() {
            self.forget_unbegun_root();
        }
        if self.agents.contains_key(&path) || self.paths.contains_key(&id) {
            return Err(differs("the agent was spawned before").into());
        }
        let lent = if path.is_empty() { self.lent.clone() } else { None };
        let tape = lent.unwrap_or_else(|| Tape::whole(MindConfig::of(manifest)));
        let played =
            Played { id, name: name.clone(), tape, begun: false, runs: Vec::new(), spawns: Vec::new() };
        self.paths.insert(id, path.clone());
        self.agents.insert(path, played);
        Ok(())
    }

    /// A kill between the spawn of a goal's agent and the goal's start leaves one that never ran: another one is
    /// spawned in its place.
    fn forget_unbegun_root(&mut self) {
        if let Some(root) = self.agents.get(&Path::new()).filter(|root| !root.begun) {
            self.paths.remove(&root.id);
            self.agents.remove(&Path::new());
        }
    }

    /// Where the next agent stands that is made for this child of this call.
    fn place(&mut self, parent: AgentId, under: CallId, index: u32) -> Option<Path> {
        let mut path = self.paths.get(&parent)?.clone();
        let spawns = &mut self.agents.get_mut(&path)?.spawns;
        let known = spawns.iter().position(|(call, _)| *call == under);
        let call = known.unwrap_or_else(|| {
            spawns.push((under, BTreeMap::new()));
            spawns.len() - 1
        });
        let attempts = spawns.get_mut(call)?.1.entry(index).or_default();
        path.push([u32::try_from(call).unwrap_or(u32::MAX), index, *attempts]);
        *attempts = attempts.saturating_add(1);
        Some(path)
    }

    /// Whether what is recorded bears out that the goal was done.
    fn is_done(&self, answer: &str, outputs: &[OutputObserved]) -> Result<(), String> {
        if let Some(missing) = outputs.iter().find(|output| !output.observed) {
            return Err(format!("the goal counts as done, but its output {} was not found", missing.path));
        }
        match self.agents.get(&Path::new()).and_then(|root| root.runs.last()) {
            Some(run) if run.stop == StopReason::Complete && run.response == answer => Ok(()),
            Some(_) => Err("the goal counts as done, but its agent ended otherwise".to_owned()),
            None => Err("the goal counts as done, but its agent ended no run".to_owned()),
        }
    }

    fn step(&mut self, entry: &Entry) -> Result<(), ReplayError> {
        let Some(played) = entry
            .agent_id
            .and_then(|agent| self.paths.get(&agent))
            .and_then(|path| self.agents.get_mut(path))
        else {
            return Ok(());
        };
        played.tape.take(entry, specs_of)?;
        match &entry.event {
            Event::AgentExecutionStarted { .. } | Event::AgentExecutionForked { .. } => played.begun = true,
            Event::InferenceCompleted { .. } => self.inferences += 1,
            Event::ToolResult { .. } => self.calls += 1,
            Event::AgentExecutionCompleted { mind_hash, response, stop_reason, .. } => {
                played.runs.push(Run {
                    replayed: played.tape.digest(),
                    recorded: mind_hash.clone(),
                    stop: *stop_reason,
                    response: response.clone(),
                })
            }
            _ => {}
        }
        Ok(())
    }

    /// What the entries came to; none where there was none of a goal.
    #[must_use]
    pub fn finish(self) -> Option<Replayed> {
        let goal_id = self.goal?;
        let (state_hash, recorded_hash) = (self.hash(|run| &run.replayed), self.hash(|run| &run.recorded));
        let agents = self.agents.iter().map(|(path, played)| ReplayedAgent {
            agent_id: played.id,
            name: played.name.clone(),
            path: shown(path),
            runs: played.runs.len() as u64,
            mind_hash: played.runs.last().map(|run| run.replayed.clone()),
            is_running: played.tape.is_running(),
        });
        Some(Replayed {
            goal_id,
            state: self.state,
            entries: self.entries,
            inferences: self.inferences,
            calls: self.calls,
            state_hash,
            recorded_hash,
            agents: agents.collect(),
        })
    }

    fn hash(&self, of: impl Fn(&Run) -> &String) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        for (path, played) in &self.agents {
            part(&shown(path));
            part(played.name.as_str());
            part(&played.runs.len().to_string());
            played.runs.iter().for_each(|run| part(of(run)));
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// `/` for the root agent, `/0.2.0` for the third child of its first spawning call.
fn shown(path: &Path) -> String {
    let steps: Vec<String> =
        path.iter().map(|[call, index, attempt]| format!("{call}.{index}.{attempt}")).collect();
    format!("/{}", steps.join("/"))
}
