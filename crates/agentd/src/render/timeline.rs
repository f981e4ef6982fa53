//! A goal's timeline: who worked when, on whose behalf, what it took, and what was waited for.
//!
//! Invariants: everything follows from the entries, in their order, so a goal that still runs has a timeline too; a
//! sum over agents counts each inference and each call once, because each has one agent.

use std::collections::{HashMap, HashSet};

use aaos_core::event::{AgentEnd, Entry, Event, GoalState, Outcome, OutputObserved};
use aaos_core::id::{AgentId, ApprovalId, CallId, GoalId};
use aaos_core::model::Usage;
use aaos_core::name::{AgentName, ModelName, ToolName};
use aaos_core::quantity::{Amounts, Millis, Quantity, Timestamp};
use aaos_core::toolio::StopReason;
use serde::Serialize;

/// Tools that last as long as the children they start.
const SPAWNING_TOOLS: [&str; 2] = ["spawn_agent", "spawn_agents"];

/// What was used: by one agent, or by all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Used {
    /// Tokens, as providers reported them.
    pub(crate) usage: Usage,
    /// Of each quantity; `micro_usd` is the cost.
    pub(crate) spent: Amounts,
    /// Inferences that ended.
    pub(crate) inferences: u64,
    /// Of those, the ones whose model has no known price: their cost is not in `spent`.
    pub(crate) unpriced_inferences: u64,
    /// Calls that ended or were not begun.
    pub(crate) calls: u64,
    /// Of those, the ones that were not done.
    pub(crate) failed_calls: u64,
}

impl Used {
    fn plus(self, other: &Self) -> Self {
        Self {
            usage: self.usage.plus(other.usage),
            spent: self.spent.plus(&other.spent),
            inferences: self.inferences.saturating_add(other.inferences),
            unpriced_inferences: self.unpriced_inferences.saturating_add(other.unpriced_inferences),
            calls: self.calls.saturating_add(other.calls),
            failed_calls: self.failed_calls.saturating_add(other.failed_calls),
        }
    }
}

/// Where the time of an agent went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Time {
    /// Models answered.
    pub(crate) model_ms: Millis,
    /// Its own tools worked.
    pub(crate) tools_ms: Millis,
    /// It waited for its children.
    pub(crate) children_ms: Millis,
    /// A provider had asked to wait, or failed.
    pub(crate) provider_wait_ms: Millis,
    /// It waited for a person's approval.
    pub(crate) approval_wait_ms: Millis,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AgentLine {
    pub(crate) agent_id: AgentId,
    pub(crate) name: AgentName,
    pub(crate) model: ModelName,
    pub(crate) parent: Option<AgentId>,
    pub(crate) started_at: Timestamp,
    /// Absent while it lives.
    pub(crate) ended_at: Option<Timestamp>,
    /// How it ended.
    pub(crate) end: Option<AgentEnd>,
    /// Why its last run stopped.
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) runs: u64,
    /// How often a run of it went on after a restart.
    pub(crate) resumed: u64,
    pub(crate) used: Used,
    pub(crate) time: Time,
    pub(crate) children: Vec<AgentLine>,
}

/// The goal itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct GoalLine {
    pub(crate) goal_id: Option<GoalId>,
    pub(crate) goal: String,
    pub(crate) principal: u32,
    pub(crate) state: GoalState,
    pub(crate) accepted_at: Timestamp,
    /// Absent while it waits for its turn.
    pub(crate) started_at: Option<Timestamp>,
    /// Absent while it goes on.
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) exit_code: Option<u8>,
    pub(crate) error: Option<String>,
    /// Declared outputs as they were found at the end.
    pub(crate) outputs: Vec<OutputObserved>,
}

/// A timeline, ready to be printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Absent for an agent without a goal.
    pub(crate) goal: Option<GoalLine>,
    /// Time of the first entry.
    pub(crate) begun_at: Timestamp,
    /// Time of the last entry.
    pub(crate) latest_at: Timestamp,
    /// All agents together.
    pub(crate) used: Used,
    /// Agents without a parent here, each with its children, in the order in which they were started.
    pub(crate) agents: Vec<AgentLine>,
}

/// Gathers a timeline from entries, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    goal: Option<GoalLine>,
    span: Option<(Timestamp, Timestamp)>,
    agents: Vec<AgentLine>,
    place: HashMap<AgentId, usize>,
    /// Questions that are not answered: who waits, since when.
    asked: HashMap<ApprovalId, (AgentId, Timestamp)>,
    /// Inferences in flight: how long their provider made them wait.
    in_flight: HashMap<CallId, Millis>,
}

impl Timeline {
    /// Takes the next entry into account.
    pub(crate) fn take(&mut self, entry: &Entry) {
        let at = entry.timestamp;
        let begun = self.span.map_or(at, |(begun, _)| begun);
        self.span = Some((begun, at));
        match &entry.event {
            Event::GoalAccepted { .. } | Event::GoalStarted { .. } | Event::GoalFinished { .. } => {
                self.take_goal(entry);
            }
            Event::AgentSpawned { .. } => self.take_spawn(entry),
            Event::InferenceRequested { .. }
            | Event::InferenceRetried { .. }
            | Event::InferenceCompleted { .. } => self.take_inference(entry),
            Event::HumanApprovalRequested { question, .. } => {
                self.asked.insert(question.id, (question.agent, at));
            }
            Event::HumanApprovalGranted { approval, .. } => self.answered(approval.id, at),
            Event::HumanApprovalDenied { approval, .. } => self.answered(*approval, at),
            _ => self.take_agent(entry),
        }
    }

    fn take_goal(&mut self, entry: &Entry) {
        match (&entry.event, &mut self.goal) {
            (Event::GoalAccepted { goal, principal, .. }, _) => {
                self.goal = Some(GoalLine {
                    goal_id: entry.goal_id,
                    goal: goal.clone(),
                    principal: *principal,
                    state: GoalState::Queued,
                    accepted_at: entry.timestamp,
                    started_at: None,
                    ended_at: None,
                    exit_code: None,
                    error: None,
                    outputs: Vec::new(),
                });
            }
            (Event::GoalStarted { .. }, Some(line)) => {
                line.started_at.get_or_insert(entry.timestamp);
                line.state = GoalState::Running;
            }
            (Event::GoalFinished { state, outputs, error, exit_code, .. }, Some(line)) => {
                line.state = *state;
                line.ended_at = Some(entry.timestamp);
                line.exit_code = Some(*exit_code);
                line.error.clone_from(error);
                line.outputs.clone_from(outputs);
            }
            // The acceptance is not among the entries: there is nothing to add to.
            _ => {}
        }
    }

    fn take_spawn(&mut self, entry: &Entry) {
        let (Event::AgentSpawned { name, parent, manifest, .. }, Some(agent_id)) =
            (&entry.event, entry.agent_id)
        else {
            return;
        };
        self.place.insert(agent_id, self.agents.len());
        self.agents.push(AgentLine {
            agent_id,
            name: name.clone(),
            model: manifest.model.clone(),
            parent: *parent,
            started_at: entry.timestamp,
            ended_at: None,
            end: None,
            stop_reason: None,
            runs: 0,
            resumed: 0,
            used: Used::default(),
            time: Time::default(),
            children: Vec::new(),
        });
    }

    fn take_inference(&mut self, entry: &Entry) {
        match &entry.event {
            Event::InferenceRequested { call, price, .. } => {
                self.in_flight.insert(*call, Millis::ZERO);
                if let Some(line) = self.line(entry) {
                    line.used.unpriced_inferences += u64::from(price.is_none());
                }
            }
            Event::InferenceRetried { call, wait, .. } => {
                let waited = self.in_flight.entry(*call).or_default();
                *waited = waited.plus(*wait);
                if let Some(line) = self.line(entry) {
                    line.time.provider_wait_ms = line.time.provider_wait_ms.plus(*wait);
                }
            }
            Event::InferenceCompleted { call, result, spent, elapsed, .. } => {
                let waited = self.in_flight.remove(call).unwrap_or_default();
                let Some(line) = self.line(entry) else { return };
                let usage = result.as_ref().map(|reply| reply.usage).unwrap_or_default();
                line.used.usage = line.used.usage.plus(usage);
                line.used.spent = line.used.spent.plus(spent);
                line.used.inferences += 1;
                line.time.model_ms = line.time.model_ms.plus(elapsed.minus(waited));
            }
            _ => {}
        }
    }

    fn take_agent(&mut self, entry: &Entry) {
        let Some(line) = self.line(entry) else { return };
        match &entry.event {
            Event::AgentExecutionStarted { .. } | Event::AgentExecutionForked { .. } => line.runs += 1,
            Event::AgentExecutionResumed {} => line.resumed += 1,
            Event::AgentExecutionCompleted { stop_reason, .. } => line.stop_reason = Some(*stop_reason),
            Event::ToolResult { tool, outcome, spent, elapsed, .. } => {
                line.used.calls += 1;
                line.used.failed_calls += u64::from(*outcome != Outcome::Done);
                line.used.spent = line.used.spent.plus(spent);
                let time =
                    if is_spawning(tool) { &mut line.time.children_ms } else { &mut line.time.tools_ms };
                *time = time.plus(*elapsed);
            }
            // Whatever it was refused for has an entry of its own, too, and is not counted twice.
            Event::CallRefused { .. } => {
                line.used.calls += 1;
                line.used.failed_calls += 1;
            }
            Event::SpawnCompleted { spent, .. } | Event::ConnectionEnded { spent, .. } => {
                line.used.spent = line.used.spent.plus(spent)
            }
            Event::ModelClimbed { to, .. } => line.model.clone_from(to),
            Event::AgentStopped { end } => {
                line.ended_at = Some(entry.timestamp);
                line.end = Some(end.clone());
            }
            _ => {}
        }
    }

    fn answered(&mut self, approval: ApprovalId, at: Timestamp) {
        let Some((agent, since)) = self.asked.remove(&approval) else { return };
        if let Some(place) = self.place.get(&agent) {
            let wait = &mut self.agents[*place].time.approval_wait_ms;
            *wait = wait.plus(at.since(since));
        }
    }

    fn line(&mut self, entry: &Entry) -> Option<&mut AgentLine> {
        let place = self.place.get(&entry.agent_id?)?;
        Some(&mut self.agents[*place])
    }

    /// What the entries came to; `None` without any.
    pub(crate) fn report(self) -> Option<Report> {
        let (begun_at, latest_at) = self.span?;
        let used = self.agents.iter().fold(Used::default(), |sum, line| sum.plus(&line.used));
        Some(Report { goal: self.goal, begun_at, latest_at, used, agents: tree(self.agents) })
    }
}

/// Puts children below their parents. Whoever's parent is not there stands at the top.
fn tree(agents: Vec<AgentLine>) -> Vec<AgentLine> {
    let known: HashSet<AgentId> = agents.iter().map(|line| line.agent_id).collect();
    let mut roots: Vec<AgentLine> = Vec::new();
    let mut below: HashMap<AgentId, Vec<AgentLine>> = HashMap::new();
    // Children come after their parents, so from the last on each has all of its own.
    for mut line in agents.into_iter().rev() {
        line.children = below.remove(&line.agent_id).unwrap_or_default();
        line.children.reverse();
        match line.parent.filter(|parent| known.contains(parent)) {
            Some(parent) => below.entry(parent).or_default().push(line),
            None => roots.push(line),
        }
    }
    assert!(below.is_empty(), "an agent is admitted after its parent");
    roots.reverse();
    roots
}

fn is_spawning(tool: &ToolName) -> bool {
    SPAWNING_TOOLS.contains(&tool.as_str())
}

/// What was paid, in words; says so where it cannot be known.
pub(crate) fn cost(used: &Used) -> String {
    let paid = Quantity::MicroUsd.show(used.spent.get(Quantity::MicroUsd));
    match used.unpriced_inferences {
        0 => paid,
        unpriced if unpriced >= used.inferences => "unknown".to_owned(),
        _ => format!("at least {paid}"),
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
