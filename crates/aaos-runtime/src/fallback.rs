//! Which model an alias means now, and which one is asked when that fails.
//!
//! Invariants: only the meanings that the operator wrote down are asked, each at most once for one question; each is
//! reserved for and paid by its own price. A failure that another model would meet too, and one of the agent's own
//! limits, ends the question.

use std::collections::VecDeque;
use std::sync::Arc;

use aaos_core::event::Event;
use aaos_core::id::{CallId, TraceId};
use aaos_core::limits::{ATTEMPTS_BEFORE_FALLBACK, INFERENCE_ATTEMPTS};
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelRequest, Standing};
use aaos_core::name::ModelName;
use aaos_core::quantity::Millis;
use aaos_core::route::provider_of;
use aaos_core::services::ServiceReply;

use crate::error::KernelError;
use crate::inference::{Asked, Asking};
use crate::kernel::Kernel;
use crate::registry::Agent;
use crate::standing::standing_of;
use crate::view::{AliasView, ModelsView};

/// What a mind asks its model.
#[derive(Debug)]
pub(crate) struct AskedModel {
    pub(crate) request: ModelRequest,
    /// Of a request for a summary of its conversation: how many of the newest messages that leaves out.
    pub(crate) keeps: Option<u64>,
}

impl Kernel {
    /// Serves `AskModel` and `Summarise` for an agent.
    pub(crate) async fn ask_model(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        asked: AskedModel,
    ) -> ServiceReply {
        let AskedModel { mut request, keeps } = asked;
        let (deadline, request_hash) = (self.wait_deadline(agent), request.digest());
        let mut others = self.meanings_now(&request.model).await;
        loop {
            request.model = others.pop_front().unwrap_or(request.model);
            let attempts = if others.is_empty() { INFERENCE_ATTEMPTS } else { ATTEMPTS_BEFORE_FALLBACK };
            let asking = Asking { trace, deadline, request_hash: &request_hash, keeps, attempts };
            let asked = self.ask_one(agent, self.as_asked(agent, &request).await.as_ref(), asking).await;
            self.note_standing(&request.model, &asked).await;
            match (asked, others.front()) {
                (Asked::Failed { call, failure, .. }, Some(next)) if passes_on(failure.kind) => {
                    self.show_fallback(agent, call, failure, next.clone());
                }
                (Asked::Failed { failure, .. }, _) => return ServiceReply::ModelFailed(failure),
                (Asked::Ended(reply), _) => return reply,
            }
        }
    }

    /// What a name means, in the order in which it is asked now: those whose provider cannot be used, or failed a short
    /// while ago, come last.
    async fn meanings_now(&self, name: &ModelName) -> VecDeque<ModelName> {
        let meanings = self.meanings(name);
        if meanings.len() < 2 {
            return VecDeque::from([name.clone()]);
        }
        let providers = self.providers().await.unwrap_or_default();
        let now = self.clock().now();
        let is_last = |model: &&ModelName| {
            provider_of(&providers, model)
                .is_none_or(|one| one.problem.is_some() || self.standings().is_down(&one.name, now))
        };
        let (last, first): (Vec<_>, Vec<_>) = meanings.into_iter().partition(is_last);
        first.into_iter().chain(last).cloned().collect()
    }

    /// Keeps in mind what an inference says about the provider that it was asked of.
    async fn note_standing(&self, model: &ModelName, asked: &Asked) {
        let standing = match asked {
            Asked::Ended(ServiceReply::Model(_)) => Some(Standing::Reachable),
            Asked::Ended(_) => None,
            Asked::Failed { failure, blames_provider: true, .. } => standing_of(failure),
            Asked::Failed { .. } => None,
        };
        let Some(standing) = standing else { return };
        let providers = self.providers().await.unwrap_or_default();
        if let Some(provider) = provider_of(&providers, model) {
            self.standings().note(&provider.name, &standing, self.clock().now());
        }
    }

    /// Asks every provider of the gateway whether it is there and takes its key, and keeps in mind what was found. What is
    /// wrong is told in the log the first time.
    pub(crate) async fn probe_providers(&self) -> Result<(), KernelError> {
        let models = self.models().await?;
        let providers = models.providers().await.map_err(|error| KernelError::Sandbox(error.to_string()))?;
        let usable = providers.iter().filter(|one| one.problem.is_none());
        let probes = usable.map(|one| async { (&one.name, models.probe(&one.name).await) });
        let probes = futures_util::future::join_all(probes);
        let found = tokio::select! {
            found = probes => found,
            () = self.closing().cancelled() => return Ok(()),
        };
        for (provider, standing) in found {
            let standing = standing.map_err(|error| KernelError::Sandbox(error.to_string()))?;
            let is_news = self.standings().note_probe(provider, &standing, self.clock().now());
            match &standing {
                Standing::KeyRefused { why } if is_news => {
                    tracing::error!(%provider, %why, "the key is refused; `agentd configure` keeps another one");
                }
                Standing::Unreachable { why } if is_news => {
                    tracing::warn!(%provider, %why, "it does not answer")
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every provider as it is found now, and what each alias means.
    ///
    /// # Errors
    /// [`KernelError`] when the `models` gateway cannot be started or asked.
    pub async fn models_view(&self) -> Result<ModelsView, KernelError> {
        self.probe_providers().await?;
        let mut providers = self.providers().await?.to_vec();
        self.standings().show(&mut providers);
        let mut aliases: Vec<AliasView> = Vec::new();
        for alias in self.alias_names() {
            let meanings: Vec<ModelName> = self.meanings(alias).into_iter().cloned().collect();
            let now = match meanings.as_slice() {
                [only] => Some(only.clone()),
                _ => self.meanings_now(alias).await.pop_front(),
            };
            let now = now.unwrap_or_else(|| alias.clone());
            aliases.push(AliasView { alias: alias.clone(), meanings, now });
        }
        Ok(ModelsView { providers, aliases, calls: self.call_reports() })
    }

    fn show_fallback(&self, agent: &Agent, call: CallId, failure: ModelFailure, next: ModelName) {
        let event = Event::InferenceRetried { call, failure, wait: Millis::ZERO, instead: Some(next) };
        self.note_or_log(self.agent_entry(agent, event));
    }
}

/// Whether another model may do better. What a reply was like is the model's own affair, what the planner could not do
/// is about the goal, and a cassette has what the recorded run asked.
const fn passes_on(kind: ModelFailureKind) -> bool {
    match kind {
        ModelFailureKind::RateLimited
        | ModelFailureKind::Unavailable
        | ModelFailureKind::Timeout
        | ModelFailureKind::CutStream
        | ModelFailureKind::MalformedReply
        | ModelFailureKind::Unauthorized
        | ModelFailureKind::Rejected => true,
        ModelFailureKind::EmptyReply
        | ModelFailureKind::TooLong
        | ModelFailureKind::UnknownModel
        | ModelFailureKind::NotUnderstood
        | ModelFailureKind::WorkFailed
        | ModelFailureKind::NotRecorded => false,
    }
}
