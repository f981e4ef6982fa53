//! What `AGENT|GOAL` on a command line means: an id, or the name of a living agent.

use aaos_core::id::{AgentId, GoalId};
use aaos_runtime::{AgentView, GoalView};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Nothing};
use crate::exit::UsageError;
use crate::render::text::{VALUE_CHARS, cut};

/// Parameters that name one agent.
#[derive(Debug, Serialize)]
pub(super) struct OneAgent {
    pub(super) agent_id: AgentId,
}

/// Parameters that name one goal.
#[derive(Debug, Serialize)]
pub(super) struct OneGoal {
    pub(super) goal_id: GoalId,
}

/// `agent.list`.
#[derive(Debug, Deserialize)]
pub(super) struct Agents {
    pub(super) agents: Vec<AgentView>,
}

/// `goal.list`.
#[derive(Debug, Deserialize)]
pub(super) struct Goals {
    pub(super) goals: Vec<GoalView>,
}

/// An agent or a goal that the daemon knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// An agent.
    Agent(AgentId),
    /// A goal.
    Goal(GoalId),
}

/// Finds what a text names.
///
/// # Errors
/// When nothing, or more than one agent, has that id or name.
pub(super) async fn find(client: &mut Client, text: &str) -> Result<Target> {
    let agents: Agents = client.call("agent.list", &Nothing {}).await?;
    if let Ok(id) = text.parse::<AgentId>() {
        if agents.agents.iter().any(|agent| agent.id == id) {
            return Ok(Target::Agent(id));
        }
        let goals: Goals = client.call("goal.list", &Nothing {}).await?;
        let goal = GoalId::from_uuid(*id.as_uuid());
        if goals.goals.iter().any(|one| one.goal_id == goal) {
            return Ok(Target::Goal(goal));
        }
        bail!("no living agent and no goal has the id {text}; see `agentd list` and `agentd list --goals`");
    }
    named(&agents.agents, text).map(Target::Agent)
}

/// Finds a living agent by id or name.
///
/// # Errors
/// As [`find`].
pub(super) async fn find_agent(client: &mut Client, text: &str) -> Result<AgentId> {
    match find(client, text).await? {
        Target::Agent(id) => Ok(id),
        Target::Goal(_) => bail!(UsageError(format!("{text} is a goal; name an agent, see `agentd list`"))),
    }
}

/// Fewest characters of an id's start or end that name it.
const PART_OF_ID: usize = 4;

/// Whether a text names an id: all of it, or a start or end of it. The front of an id is its time, so the ends of two
/// differ sooner.
pub(super) fn names_id(id: &str, text: &str) -> bool {
    let text = text.trim();
    id == text || (text.len() >= PART_OF_ID && (id.starts_with(text) || id.ends_with(text)))
}

fn named(agents: &[AgentView], name: &str) -> Result<AgentId> {
    let shown = cut(name, VALUE_CHARS);
    let found: Vec<AgentId> =
        agents.iter().filter(|agent| agent.name.as_str() == name).map(|agent| agent.id).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => bail!("no living agent is called {shown:?}, and it is no id; see `agentd list`"),
        many => {
            let ids: Vec<String> = many.iter().map(ToString::to_string).collect();
            bail!("{} agents are called {shown:?}; name one by its id: {}", many.len(), ids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::named;
    use aaos_core::id::AgentId;
    use aaos_core::name::{AgentName, ModelName};
    use aaos_core::quantity::Timestamp;
    use aaos_runtime::{AgentState, AgentView};
    use uuid::Uuid;

    fn agent(number: u128, name: &str) -> AgentView {
        AgentView {
            id: AgentId::from_uuid(Uuid::from_u128(number)),
            name: AgentName::parse(name).expect("a name"),
            model: ModelName::parse("m").expect("a name"),
            models: Vec::new(),
            state: AgentState::Idle,
            capability_count: 0,
            parent_agent: None,
            started_at: Timestamp(0),
            next_due: None,
            restarts: None,
        }
    }

    #[test]
    fn a_name_means_one_agent_or_an_error_that_says_which() {
        let agents = [agent(1, "a"), agent(2, "b"), agent(3, "b")];
        assert_eq!(named(&agents, "a").expect("one"), agents[0].id);
        assert!(named(&agents, "c").expect_err("none").to_string().contains("agentd list"));
        let error = named(&agents, "b").expect_err("two").to_string();
        assert!(error.contains(&agents[2].id.to_string()), "{error}");
    }
}
