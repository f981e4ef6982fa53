//! Models that are asked less: what this machine runs itself is small, and is told at each step what it may say.
//!
//! Invariants: whether a request is narrowed is a property of the provider that its model leads to; other models are left
//! free. What the mind asked is what the journal knows of a request: how it was narrowed follows from that.

use std::borrow::Cow;

use aaos_agent::{Ground, narrowed};
use aaos_core::model::ModelRequest;
use aaos_core::name::ModelName;
use aaos_core::route::provider_of;

use crate::kernel::Kernel;
use crate::local::PROVIDER;
use crate::registry::Agent;

impl Kernel {
    /// Whether a model is one that this machine runs itself.
    pub(crate) async fn is_own(&self, model: &ModelName) -> bool {
        let providers = self.providers().await.unwrap_or_default();
        provider_of(&providers, model).is_some_and(|one| one.name.as_str() == PROVIDER)
    }

    /// The request as its model is asked it.
    pub(crate) async fn as_asked<'r>(
        &self,
        agent: &Agent,
        request: &'r ModelRequest,
    ) -> Cow<'r, ModelRequest> {
        match self.is_own(&request.model).await {
            true => Cow::Owned(narrowed(request.clone(), &self.ground(agent, &request.model))),
            false => Cow::Borrowed(request),
        }
    }

    fn ground(&self, agent: &Agent, model: &ModelName) -> Ground {
        let window = self.local().and_then(|host| host.window(model));
        let given = agent.manifest.memory.context_window;
        let table = self.table();
        // The goal's words are said to its first agent alone.
        let goal = agent.goal.filter(|_| agent.parent.is_none()).and_then(|id| table.goals.get(&id));
        let request = goal.map(|goal| &goal.request);
        Ground {
            directory: request.and_then(|request| request.working_directory.clone()),
            outputs: request.map(|request| request.outputs.clone()).unwrap_or_default(),
            absent: goal.map(|goal| goal.absent.clone()).unwrap_or_default(),
            grants: agent.manifest.capabilities.clone(),
            model: agent.model().clone(),
            window: window.map_or(given, |own| own.min(given)),
        }
    }
}
