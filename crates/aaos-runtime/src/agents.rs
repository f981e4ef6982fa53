//! What a principal may do with agents: spawn, stop, list, look, run, pause, invoke a tool.
//!
//! Invariant: `stop` answers once the agent and its descendants have stopped.

use std::sync::Arc;

use aaos_core::event::{AgentEnd, Event};
use aaos_core::id::AgentId;
use aaos_core::manifest::Manifest;
use aaos_core::name::ModelName;
use aaos_core::tool;
use aaos_ipc::Schema;

use crate::dispatch::Asked;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::{Principal, fits};
use crate::recovery::Over;
use crate::registry::Agent;
use crate::run::result_of;
use crate::spawn::Origin;
use crate::view::{AgentStatus, AgentView, PurseReport, RunAnswer, RunResult};

impl Kernel {
    /// `agent.spawn`: admits an agent with the operator's own grants.
    ///
    /// # Errors
    /// [`KernelError`] for an unusable manifest, an unknown model, a root that cannot be opened, a limit.
    pub async fn spawn(&self, caller: Principal, manifest: &str) -> Result<AgentId, KernelError> {
        Ok(self.spawn_for(caller, Manifest::parse(manifest)?).await?.id)
    }

    async fn spawn_for(&self, caller: Principal, manifest: Manifest) -> Result<Arc<Agent>, KernelError> {
        let persistent = manifest.lifecycle.outlives_a_run();
        let origin = Origin { owner: caller.uid(), goal: None, budget: self.purse_ceiling(caller) };
        let agent = self.admit_operator_agent(manifest, origin, self.halting().child_token()).await?;
        if persistent {
            self.begin_loop(&agent).await?;
        }
        Ok(agent)
    }

    /// `agent.stop`.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an id that is not this principal's.
    pub async fn stop(&self, caller: Principal, id: AgentId) -> Result<(), KernelError> {
        let agent = self.agent_for(caller, id)?;
        agent.cancel.cancel();
        let mut stopped = Ok(());
        for descendant in self.descendants(id) {
            stopped = stopped.and(self.retire(&descendant, AgentEnd::Stopped).await);
        }
        stopped.and(self.retire(&agent, AgentEnd::Stopped).await)
    }

    /// Everyone below an agent, deepest first.
    pub(crate) fn descendants(&self, id: AgentId) -> Vec<Arc<Agent>> {
        let table = self.table();
        let mut found: Vec<Arc<Agent>> = Vec::new();
        let mut frontier = vec![id];
        while let Some(parent) = frontier.pop() {
            for agent in table.agents.values().filter(|agent| agent.parent == Some(parent)) {
                frontier.push(agent.id);
                found.push(Arc::clone(agent));
            }
        }
        found.sort_by_key(|agent| std::cmp::Reverse(agent.depth));
        found
    }

    /// `agent.list`, oldest first.
    #[must_use]
    pub fn list(&self, caller: Principal) -> Vec<AgentView> {
        let agents: Vec<_> = self.table().agents.values().cloned().collect();
        let mut views: Vec<AgentView> = agents
            .iter()
            .filter(|agent| caller.may_touch(agent.owner))
            .map(|agent| self.view(agent))
            .collect();
        views.sort_by_key(|view| (view.started_at, view.id));
        views
    }

    fn view(&self, agent: &Agent) -> AgentView {
        AgentView {
            id: agent.id,
            name: agent.manifest.name.clone(),
            model: agent.model().clone(),
            models: ladder_of(&agent.manifest),
            state: agent.state(),
            capability_count: agent.manifest.capabilities.len(),
            parent_agent: agent.parent,
            started_at: agent.started_at,
            next_due: self.schedules().next_of(agent.id),
            restarts: self.restarts_of(agent),
        }
    }

    /// `agent.status`.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an id that is not this principal's.
    pub fn agent_status(&self, caller: Principal, id: AgentId) -> Result<AgentStatus, KernelError> {
        let agent = self.agent_for(caller, id)?;
        let view = self.view(&agent);
        let (purse, grants) = {
            let now = self.clock().now();
            let authority = self.authority();
            (authority.purse(id, now), authority.grants_of(id))
        };
        let waiting_for = agent.waiting_for();
        let programs = agent.program_resources();
        let live = agent.live();
        Ok(AgentStatus {
            id: view.id,
            name: view.name,
            model: view.model,
            models: view.models,
            state: view.state,
            capability_count: grants.len(),
            parent_agent: view.parent_agent,
            started_at: view.started_at,
            goal_id: agent.goal,
            purse: purse.as_ref().map(PurseReport::of),
            usage: live.usage,
            context: live.context,
            grants,
            environment: agent.manifest.environment.clone(),
            confinement: agent.receipt(),
            resources: agent.resources(),
            programs,
            waiting_for,
            next_due: view.next_due,
            restarts: view.restarts,
        })
    }

    /// `agent.run`: an on-demand agent runs now; a persistent one has the message in its mailbox, durably.
    ///
    /// # Errors
    /// [`KernelError`] when the agent is unknown or busy, the message does not fit, the mailbox is full.
    pub async fn run(
        &self,
        caller: Principal,
        id: AgentId,
        message: String,
    ) -> Result<RunAnswer, KernelError> {
        self.check_open()?;
        let agent = self.agent_for(caller, id)?;
        if !fits(&message) {
            return Err(KernelError::Limit("the message is longer than 1 MiB".to_owned()));
        }
        check_accepts(&agent.manifest, &message)?;
        if agent.manifest.lifecycle.outlives_a_run() {
            return Ok(RunAnswer::Delivered(self.deliver(&agent, message).await?));
        }
        let Some(only_run) = agent.try_only_run() else {
            return Err(KernelError::State(format!("agent {id} is running already; wait for it or stop it")));
        };
        let mind = self.mind_for(&agent);
        let (mind, end) = self.run_alone(Arc::clone(&only_run), &agent, mind, message, None).await?;
        let over = Over { end, mind: Some(mind), restarted: false };
        let end = self.go_up(&agent, over, Some(only_run)).await?;
        Ok(RunAnswer::Ran(result_of(&end)))
    }

    /// `agent.spawn_and_run`: an on-demand agent is gone afterwards, whatever happened.
    ///
    /// # Errors
    /// As [`Kernel::spawn`] and [`Kernel::run`].
    pub async fn spawn_and_run(
        &self,
        caller: Principal,
        manifest: &str,
        message: String,
    ) -> Result<(AgentId, RunAnswer), KernelError> {
        if !fits(&message) {
            return Err(KernelError::Limit("the message is longer than 1 MiB".to_owned()));
        }
        let agent = self.spawn_for(caller, Manifest::parse(manifest)?).await?;
        let on_demand = !agent.manifest.lifecycle.outlives_a_run();
        let (kernel, owned) = (self.clone(), Arc::clone(&agent));
        // On a task of its own: a client that hangs up must not leave the agent behind.
        let running = self.tasks().spawn(async move {
            let answer = kernel.run(caller, owned.id, message).await;
            if on_demand || answer.is_err() {
                kernel.retire_or_log(&owned, end_of(&answer)).await;
            }
            answer
        });
        let answer = running.await.map_err(|died| KernelError::State(format!("the run died: {died}")))??;
        Ok((agent.id, answer))
    }

    /// `agent.pause`: no further turn or message is taken; the one in flight ends.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an id that is not this principal's; a journal that fails.
    pub async fn pause(&self, caller: Principal, id: AgentId) -> Result<(), KernelError> {
        let agent = self.agent_for(caller, id)?;
        self.journal().record(self.agent_entry(&agent, Event::AgentPaused {})).await?;
        agent.paused.send_replace(true);
        Ok(())
    }

    /// `agent.resume`.
    ///
    /// # Errors
    /// As [`Kernel::pause`].
    pub async fn resume(&self, caller: Principal, id: AgentId) -> Result<(), KernelError> {
        let agent = self.agent_for(caller, id)?;
        self.journal().record(self.agent_entry(&agent, Event::AgentResumed {})).await?;
        agent.paused.send_replace(false);
        self.watch_schedule(&agent);
        Ok(())
    }

    /// `tool.invoke`: the same path as the agent's own call. Returns the JSON text of the result.
    ///
    /// # Errors
    /// [`KernelError`] when the agent or tool is unknown, the call is denied, or the tool fails.
    pub async fn invoke_tool(
        &self,
        caller: Principal,
        id: AgentId,
        tool: &str,
        input: &str,
    ) -> Result<String, KernelError> {
        self.check_open()?;
        let agent = self.agent_for(caller, id)?;
        if tool::find(tool).is_none() {
            return Err(KernelError::unknown("tool", &tool));
        }
        Ok(self.invoke(&agent, Asked::default(), tool, input).await.result?)
    }
}

/// The models of a manifest that names several.
fn ladder_of(manifest: &Manifest) -> Vec<ModelName> {
    if manifest.next_models.is_empty() { Vec::new() } else { manifest.models().cloned().collect() }
}

/// The compiled `accepts` of a manifest.
///
/// # Errors
/// [`KernelError::Invalid`] when it is no usable schema.
pub(crate) fn accepted_messages(manifest: &Manifest) -> Result<Option<Schema>, KernelError> {
    let compiled = manifest.accepts.as_ref().map(Schema::compile).transpose();
    compiled.map_err(|error| KernelError::Invalid(format!("`accepts` is not a usable JSON Schema: {error}")))
}

/// Whether an agent of this manifest takes a message.
///
/// # Errors
/// [`KernelError::Invalid`] when it does not fit what the manifest accepts.
pub(crate) fn check_accepts(manifest: &Manifest, message: &str) -> Result<(), KernelError> {
    let Some(schema) = accepted_messages(manifest)? else { return Ok(()) };
    let value = serde_json::from_str(message).unwrap_or_else(|_| message.into());
    schema
        .validate(&value)
        .map_err(|error| KernelError::Invalid(format!("the agent does not accept this message: {error}")))
}

fn end_of(answer: &Result<RunAnswer, KernelError>) -> AgentEnd {
    match answer {
        Ok(RunAnswer::Ran(RunResult { stop_reason, .. })) if stop_reason.is_success() => AgentEnd::Finished,
        Ok(RunAnswer::Ran(result)) => AgentEnd::Failed {
            reason: result.error.clone().unwrap_or_else(|| format!("{:?}", result.stop_reason)),
        },
        Ok(RunAnswer::Delivered(_)) => AgentEnd::Stopped,
        Err(error) => AgentEnd::Failed { reason: error.to_string() },
    }
}
