//! `list`, `stop`, `spawn`, `message` and `tools`.

use aaos_core::id::{AgentId, TraceId};
use aaos_core::limits::GOAL_DEADLINE_SECONDS;
use aaos_core::toolio::StopReason;
use aaos_runtime::{RunResult, ToolView, TraceReport};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::{JsonArgs, ListArgs, MessageArgs, SpawnArgs, StopArgs};
use crate::client::{Client, Nothing};
use crate::exit::Exit;
use crate::manifests;
use crate::render::table::Table;
use crate::render::text::{REASON_CHARS, VALUE_CHARS, block, cut, instant};
use crate::render::{Screen, Tone, entry};
use crate::settings::Settings;

use super::target::{Agents, Goals, OneAgent, OneGoal, Target, find, find_agent};

/// `list`.
pub(super) async fn list(client: &mut Client, args: &ListArgs, screen: Screen) -> Result<Exit> {
    let method = if args.goals { "goal.list" } else { "agent.list" };
    let reply = client.call_raw(method, &Nothing {}).await?;
    if args.json {
        screen.json(&reply)?;
        return Ok(Exit::Done);
    }
    let (lines, none) = if args.goals {
        (goal_table(&serde_json::from_str(reply.get())?), "no goals yet")
    } else {
        (agent_table(&serde_json::from_str(reply.get())?), "no agents are alive")
    };
    match lines.as_slice() {
        [_heading] => screen.note(Tone::Dim, none),
        lines => screen.table(lines)?,
    }
    Ok(Exit::Done)
}

fn agent_table(reply: &Agents) -> Vec<String> {
    let mut table = Table::new(&["AGENT", "NAME", "STATE", "MODEL", "GRANTS", "PARENT", "STARTED"]);
    for agent in &reply.agents {
        table.row(&[
            &agent.id.to_string(),
            agent.name.as_str(),
            &entry::word(&agent.state),
            agent.model.as_str(),
            &agent.capability_count.to_string(),
            &agent.parent_agent.map_or("-".to_owned(), |parent| parent.to_string()),
            &instant(agent.started_at),
        ]);
    }
    table.lines()
}

fn goal_table(reply: &Goals) -> Vec<String> {
    let mut table = Table::new(&["GOAL", "STATE", "ACCEPTED", "TOKENS", "TEXT"]);
    for goal in &reply.goals {
        table.row(&[
            &goal.goal_id.to_string(),
            &entry::word(&goal.state),
            &instant(goal.accepted_at),
            &goal.usage.total().to_string(),
            &goal.goal,
        ]);
    }
    table.lines()
}

/// `stop`.
pub(super) async fn stop(client: &mut Client, args: &StopArgs, screen: Screen) -> Result<Exit> {
    match find(client, &args.target).await? {
        Target::Agent(agent_id) => {
            client.call_raw("agent.stop", &OneAgent { agent_id }).await?;
            screen.line(Tone::Plain, &format!("agent {agent_id} and its descendants have stopped"))?;
        }
        Target::Goal(goal_id) => {
            let goal: aaos_runtime::GoalView = client.call("goal.cancel", &OneGoal { goal_id }).await?;
            screen.line(Tone::Plain, &format!("goal {goal_id} is {}", entry::word(&goal.state)))?;
        }
    }
    Ok(Exit::Done)
}

/// `spawn`.
pub(super) fn spawn(settings: &Settings, args: &SpawnArgs, screen: Screen) -> Result<Exit> {
    #[derive(Serialize)]
    struct Manifest {
        manifest: String,
    }
    #[derive(Deserialize)]
    struct Spawned {
        agent_id: AgentId,
    }
    let manifest = manifests::load_and_parse(&args.manifest)?.text;
    super::ask(settings, async move |mut client| {
        let reply = client.call_raw("agent.spawn", &Manifest { manifest }).await?;
        if args.json {
            screen.json(&reply)?;
        } else {
            let Spawned { agent_id } = serde_json::from_str(reply.get())?;
            screen.line(Tone::Plain, &agent_id.to_string())?;
        }
        Ok(Exit::Done)
    })
}

/// What `agent.run` answers: a delivery, or a result.
#[derive(Debug, Deserialize)]
struct Delivery {
    trace_id: Option<TraceId>,
}

/// `message`.
pub(super) async fn message(client: &mut Client, args: &MessageArgs, screen: Screen) -> Result<Exit> {
    #[derive(Serialize)]
    struct Run<'t> {
        agent_id: AgentId,
        message: &'t str,
    }
    #[derive(Serialize)]
    struct Wait {
        trace_id: TraceId,
        wait_seconds: u64,
    }
    let agent_id = find_agent(client, &args.agent).await?;
    let mut reply = client.call_raw("agent.run", &Run { agent_id, message: &args.text }).await?;
    let delivery: Delivery = serde_json::from_str(reply.get()).context("the answer of agent.run")?;
    let result = if let Some(trace_id) = delivery.trace_id {
        screen.note(Tone::Dim, &format!("delivered as {trace_id}; waiting for the answer"));
        let wait = Wait { trace_id, wait_seconds: GOAL_DEADLINE_SECONDS };
        reply = client.call_raw("agent.result", &wait).await?;
        let report: TraceReport = serde_json::from_str(reply.get()).context("the answer of agent.result")?;
        let why = report.error.unwrap_or_else(|| "it has not answered yet".to_owned());
        report.result.ok_or(why)
    } else {
        Ok(serde_json::from_str::<RunResult>(reply.get()).context("the answer of agent.run")?)
    };
    if args.json {
        screen.json(&reply)?;
    }
    match result {
        Ok(result) => answered(&result, args.json, screen),
        Err(why) => bail!("no answer: {}", cut(&why, REASON_CHARS)),
    }
}

fn answered(result: &RunResult, json: bool, screen: Screen) -> Result<Exit> {
    if !json {
        screen.line(Tone::Plain, &block(&result.response))?;
    }
    if let Some(error) = &result.error {
        screen.note(Tone::Bad, &cut(error, REASON_CHARS));
    }
    Ok(match result.stop_reason {
        StopReason::Complete => Exit::Done,
        StopReason::BudgetExceeded => Exit::Budget,
        StopReason::Cancelled => Exit::Cancelled,
        StopReason::MaxIterations | StopReason::MaxTokens | StopReason::Truncated | StopReason::Error => {
            Exit::Failed
        }
    })
}

/// `tools`.
pub(super) async fn tools(client: &mut Client, args: &JsonArgs, screen: Screen) -> Result<Exit> {
    #[derive(Deserialize)]
    struct Tools {
        tools: Vec<ToolView>,
    }
    let reply = client.call_raw("tool.list", &Nothing {}).await?;
    if args.json {
        screen.json(&reply)?;
        return Ok(Exit::Done);
    }
    let Tools { tools } = serde_json::from_str(reply.get())?;
    for tool in &tools {
        let about = tool.description.lines().next().unwrap_or_default();
        screen.line(
            Tone::Plain,
            &format!("{:<16} {}", cut(&tool.name, VALUE_CHARS), cut(about, REASON_CHARS)),
        )?;
    }
    Ok(Exit::Done)
}
