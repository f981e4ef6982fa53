//! What is observed of model calls: counted as they happen, shown to the operator.
//!
//! Invariants: nothing here decides anything or reaches the journal; it begins anew with the daemon. No agent, goal or
//! word of a conversation is kept, and of how many models figures are kept is bounded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aaos_core::effect::{Inference, InferenceOutcome};
use aaos_core::id::TraceId;
use aaos_core::model::{ModelFailureKind, ProviderState};
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::observe::{CallFigures, MAX_OBSERVED_MODELS, Measured, OTHER_MODELS, Snapshot};
use aaos_core::quantity::{MicroUsd, Millis, Timestamp};
use aaos_core::route;
use aaos_journal::Permit;
use aaos_llm::Progress;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::registry::Agent;
use crate::spans::{OpenSpan, Spans};
use crate::view::CallReport;

/// Rest after a gateway that cannot show metrics, before the next one.
const SHOW_PAUSE: Duration = Duration::from_secs(1);

/// Who serves a model, and its name there.
pub(crate) type Target = (ProviderName, ModelName);

/// The figures of every model that was asked.
#[derive(Debug, Default)]
pub(crate) struct Figures(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    models: BTreeMap<Target, CallFigures>,
    /// Calls under way, those that wait included.
    open: usize,
}

/// One call that is under way.
#[derive(Debug)]
pub(crate) struct Observed<'f> {
    figures: &'f Figures,
    /// Nothing where no provider serves the model.
    target: Option<Target>,
    /// Since when it waits; none while it is asked.
    waits_since: Option<Timestamp>,
    waited: Millis,
    measured: Measured,
    /// Nothing where no spans are sent.
    span: Option<OpenSpan<'f>>,
}

impl Figures {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins.
    fn begin(&self, target: Option<Target>, now: Timestamp) -> Observed<'_> {
        self.lock().open += 1;
        Observed {
            figures: self,
            target,
            waits_since: Some(now),
            waited: Millis::ZERO,
            measured: Measured::default(),
            span: None,
        }
    }

    /// What was counted, by provider and model.
    pub(crate) fn all(&self) -> Vec<CallFigures> {
        self.lock().models.values().cloned().collect()
    }

    /// How many calls are under way, those that wait included.
    pub(crate) fn open(&self) -> usize {
        self.lock().open
    }

    /// An attempt failed; there is another one, or none.
    fn failed(&self, target: &Target, kind: ModelFailureKind, again: bool) {
        let mut counted = self.lock();
        let figures = counted.of(target);
        let by_reason = if again { &mut figures.retried } else { &mut figures.failed };
        *by_reason.entry(kind).or_default() += 1;
    }
}

impl Counted {
    fn of(&mut self, target: &Target) -> &mut CallFigures {
        let is_known = self.models.contains_key(target);
        let (provider, model) = target.clone();
        let model = match is_known || self.models.len() < MAX_OBSERVED_MODELS {
            true => model,
            false => ModelName::parse(OTHER_MODELS).unwrap_or(model),
        };
        let none = || CallFigures::none(provider.clone(), model.clone());
        self.models.entry((provider.clone(), model.clone())).or_insert_with(none)
    }
}

impl Observed<'_> {
    /// Something happens.
    pub(crate) fn note(&mut self, progress: &Progress, now: Timestamp) {
        match progress {
            Progress::Asked => self.stop_waiting(now),
            Progress::Loading | Progress::Waiting { .. } => self.wait(now),
            Progress::Retry { failure, wait, .. } => {
                self.wait(now);
                if let Some(span) = &mut self.span {
                    span.retried(failure.kind, *wait, now);
                }
                if let Some(target) = &self.target {
                    self.figures.failed(target, failure.kind, true);
                }
            }
            Progress::Answered(measured) => self.measured = measured.clone(),
            Progress::Delta(_) => {}
        }
    }

    fn wait(&mut self, now: Timestamp) {
        self.waits_since.get_or_insert(now);
    }

    fn stop_waiting(&mut self, now: Timestamp) {
        if let Some(since) = self.waits_since.take() {
            self.waited = self.waited.plus(now.since(since));
        }
    }

    /// Who is asked.
    pub(crate) fn provider(&self) -> Option<&ProviderName> {
        self.target.as_ref().map(|(provider, _)| provider)
    }

    /// The call is over. One that failed is counted by whoever knows whether it is made again.
    pub(crate) fn end(mut self, outcome: &InferenceOutcome, cost: MicroUsd, now: Timestamp) {
        self.stop_waiting(now);
        if let Some(span) = self.span.take() {
            span.end(outcome, &self.measured, now);
        }
        let Some(target) = &self.target else { return };
        let mut counted = self.figures.lock();
        let figures = counted.of(target);
        figures.cost = figures.cost.plus(cost);
        figures.waited_ms.add(self.waited.0);
        if let Ok(reply) = &outcome.result {
            figures.answered += 1;
            figures.usage = figures.usage.plus(reply.usage);
            if let Some(time) = self.measured.first_token() {
                figures.first_token_ms.add(time.0);
            }
            if let Some(rate) = self.measured.tokens_per_second(reply.usage.output_tokens) {
                figures.tokens_per_second.add(rate);
            }
        }
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        let mut counted = self.figures.lock();
        assert!(counted.open > 0, "what is counted down was counted up");
        counted.open -= 1;
    }
}

/// Where a model that is no alias leads to.
fn target(providers: &[ProviderState], model: &ModelName) -> Option<Target> {
    route::route(providers, model).map(|route| (route.provider.name.clone(), route.model))
}

impl Kernel {
    /// Watches a call that begins.
    pub(crate) async fn observe(
        &self,
        agent: &Agent,
        permit: &Permit<Inference>,
        trace: Option<TraceId>,
    ) -> Observed<'_> {
        let target = self.target(&permit.effect().request.model).await;
        let span = self.open_span(agent, permit, trace, target.as_ref());
        let mut observed = self.figures().begin(target, self.clock().now());
        observed.span = span;
        observed
    }

    /// Who serves a model, or the first of its meanings.
    pub(crate) async fn target(&self, model: &ModelName) -> Option<Target> {
        let providers = self.providers().await.unwrap_or_default();
        // Of several meanings each is asked by its own name.
        let meant = self.meanings(model).first().copied().unwrap_or(model);
        target(&providers, meant)
    }

    /// Shows the figures to whoever reads the metrics, until the kernel closes.
    pub(crate) async fn show_metrics(&self) {
        if !self.gateways().serves_metrics() {
            return;
        }
        let closing = self.closing();
        while !closing.is_cancelled() {
            let shown = tokio::select! {
                shown = self.show_once() => shown,
                () = closing.cancelled() => return,
            };
            if let Err(error) = shown {
                tracing::warn!(%error, "metrics cannot be shown");
                tokio::select! {
                    () = self.clock().sleep(SHOW_PAUSE) => {}
                    () = closing.cancelled() => return,
                }
            }
        }
    }

    async fn show_once(&self) -> Result<(), KernelError> {
        let models = self.models().await?;
        models.show(self.snapshot()).await.map_err(|error| KernelError::Sandbox(error.to_string()))
    }

    fn snapshot(&self) -> Snapshot {
        let (agents, goals_running, goals_queued) = {
            let table = self.table();
            let running = table.goals.values().filter(|goal| goal.is_running()).count();
            (table.agents.len(), running, table.queue.len())
        };
        Snapshot {
            calls_open: self.figures().open() as u64,
            calls_waiting: self.gateways().queue_depth() as u64,
            agents: agents as u64,
            goals_running: goals_running as u64,
            goals_queued: goals_queued as u64,
            models: self.figures().all(),
            spans: self.spans().map(Spans::figures),
        }
    }

    /// What was observed of every model's calls.
    pub(crate) fn call_reports(&self) -> Vec<CallReport> {
        self.figures().all().into_iter().map(CallReport::of).collect()
    }

    /// Counts a call that failed; where it is made again under another permit, as retried.
    pub(crate) async fn count_failure(&self, model: &ModelName, kind: ModelFailureKind, again: bool) {
        if let Some(target) = self.target(model).await {
            self.figures().failed(&target, kind, again);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Figures, Target};
    use aaos_core::effect::InferenceOutcome;
    use aaos_core::model::{ModelFailure, ModelFailureKind, ModelReply, ModelStop, Usage};
    use aaos_core::name::{ModelName, ProviderName};
    use aaos_core::observe::{MAX_OBSERVED_MODELS, Measured, Micros, OTHER_MODELS};
    use aaos_core::quantity::{MicroUsd, Millis, Timestamp, Tokens};
    use aaos_llm::Progress;

    fn target(model: &str) -> Target {
        (ProviderName::parse("p").expect("a name"), ModelName::parse(model).expect("a name"))
    }

    fn failure(kind: ModelFailureKind) -> ModelFailure {
        ModelFailure { kind, message: String::new(), retry_after: None }
    }

    fn outcome(result: Result<ModelReply, ModelFailure>) -> InferenceOutcome {
        InferenceOutcome {
            result,
            attempts: 1,
            told_to_wait: 0,
            possibly_billed: 0,
            blames_provider: false,
            elapsed: Millis(1),
        }
    }

    fn reply() -> ModelReply {
        let usage =
            Usage { input_tokens: Tokens(10), output_tokens: Tokens(101), cached_input_tokens: Tokens(4) };
        let (text, stop) = ("x".to_owned(), ModelStop::EndTurn);
        ModelReply { text, reasoning: None, thinking: Vec::new(), calls: Vec::new(), stop, usage }
    }

    #[test]
    fn a_call_is_counted_with_its_waits_retries_and_times() {
        let figures = Figures::default();
        let mut call = figures.begin(Some(target("m")), Timestamp(1_000));
        assert_eq!(figures.open(), 1);
        call.note(&Progress::Asked, Timestamp(1_100));
        let again = failure(ModelFailureKind::RateLimited);
        call.note(&Progress::Retry { failure: again, wait: Millis(40), attempt: 1 }, Timestamp(1_500));
        call.note(&Progress::Waiting { provider: None, wait: None }, Timestamp(1_520));
        assert_eq!(figures.all()[0].retried[&ModelFailureKind::RateLimited], 1, "before the call is over");
        call.note(&Progress::Asked, Timestamp(1_600));
        let took = Measured { first: Some(Micros(20_000)), whole: Micros(2_020_000), model: None };
        call.note(&Progress::Answered(took), Timestamp(1_700));
        call.end(&outcome(Ok(reply())), MicroUsd(7), Timestamp(1_700));
        let one = &figures.all()[0];
        assert_eq!((figures.open(), one.answered, one.cost), (0, 1, MicroUsd(7)));
        assert_eq!((one.waited_ms.sum, one.first_token_ms.sum, one.tokens_per_second.sum), (200, 20, 50));
        assert_eq!(one.usage, reply().usage);

        let call = figures.begin(Some(target("m")), Timestamp(2_000));
        call.end(&outcome(Err(failure(ModelFailureKind::Timeout))), MicroUsd(1), Timestamp(2_000));
        assert_eq!(figures.all()[0].failed, BTreeMap::new(), "it may be made again");
        for again in [true, false] {
            figures.failed(&target("m"), ModelFailureKind::Timeout, again);
            let one = &figures.all()[0];
            let failed = one.failed.get(&ModelFailureKind::Timeout).copied().unwrap_or_default();
            assert_eq!((failed, one.retried[&ModelFailureKind::Timeout]), (u64::from(!again), 1));
        }
        let one = &figures.all()[0];
        assert_eq!((one.answered, one.cost), (1, MicroUsd(8)));
        drop(figures.begin(None, Timestamp(0)));
        assert_eq!((figures.open(), figures.all().len()), (0, 1), "a call that is given up is not under way");
    }

    #[test]
    fn names_of_models_are_bounded() {
        let figures = Figures::default();
        for number in 0..3 * MAX_OBSERVED_MODELS {
            let call = figures.begin(Some(target(&format!("m{number}"))), Timestamp(0));
            call.end(&outcome(Ok(reply())), MicroUsd(0), Timestamp(0));
        }
        let all = figures.all();
        assert_eq!(all.len(), MAX_OBSERVED_MODELS + 1);
        let other = all.iter().find(|one| one.model.as_str() == OTHER_MODELS).expect("the rest");
        assert_eq!(other.answered as usize, 2 * MAX_OBSERVED_MODELS);
    }
}
