//! Asking a model: reserve, wait for the purse, run, settle.
//!
//! Invariants: no inference without a reservation on the whole path to the root; what was really used is
//! charged, by the law's own rule; a budget that is spent is told, not retried. An attempt that may have been
//! billed is settled before another one is made, which needs a permit and a reservation of its own.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use aaos_agent::estimate;
use aaos_core::authority::{Overdraft, Refusal};
use aaos_core::budget::Ceilings;
use aaos_core::effect::{Inference, InferenceOutcome};
use aaos_core::event::Event;
use aaos_core::id::{CallId, TraceId};
use aaos_core::limits::{self, EMPTY_REPLIES, MAX_BYTES_PER_TOKEN};
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelRequest};
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::price::Price;
use aaos_core::quantity::{Amounts, MicroUsd, Millis, Quantity, Timestamp, Tokens};
use aaos_core::services::ServiceReply;
use aaos_journal::Permit;
use aaos_llm::{Class, Party, Progress, Turn};

use crate::error::KernelError;
use crate::goals::Goal;
use crate::kernel::Kernel;
use crate::registry::Agent;
use crate::waits::WaitEnd;

/// Ordinary text takes about 4 bytes a token, code and other scripts down to 2: this bounds from above.
const BYTES_PER_TOKEN_AT_LEAST: u64 = 2;
/// By how much two timers for one point in time may differ: they are rounded to milliseconds.
const TIMER_SLACK: Millis = Millis(5);
/// How long an agent whose goal has no time left waits to be stopped for that.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How an inference ended, and whether it cost more than was reserved.
struct Ended {
    outcome: InferenceOutcome,
    overdrawn: Option<Quantity>,
}

/// How one model is asked for a question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'q> {
    /// Whose message it is about.
    pub(crate) trace: Option<TraceId>,
    /// When nothing more is tried.
    pub(crate) deadline: Timestamp,
    /// BLAKE3 of what the mind asked.
    pub(crate) request_hash: &'q str,
    /// Of a request for a summary of its conversation: how many of the newest messages that leaves out.
    pub(crate) keeps: Option<u64>,
    /// Attempts at this model.
    pub(crate) attempts: u32,
}

/// What became of a question to one model.
pub(crate) enum Asked {
    /// This is what the agent is told.
    Ended(ServiceReply),
    /// The model failed.
    Failed {
        /// The last inference; one that never began where the model is not to be asked before the deadline.
        call: CallId,
        /// Why.
        failure: ModelFailure,
        /// Whether that is the provider's own, and not that it could not be asked.
        blames_provider: bool,
    },
}

/// What was tried of one question.
#[derive(Debug, Default)]
struct Tries {
    /// Attempts but those that were turned away.
    made: u32,
    /// Empty replies.
    empty: u32,
    /// Why the last inference failed, until that is counted.
    failed: Option<ModelFailureKind>,
}

impl Kernel {
    /// Asks one model, again where that can help.
    pub(crate) async fn ask_one(
        &self,
        agent: &Arc<Agent>,
        request: &ModelRequest,
        asking: Asking<'_>,
    ) -> Asked {
        match self.keep_quiet(agent, &request.model, asking.deadline).await {
            Ok(()) => {}
            Err(ServiceReply::ModelFailed(failure)) => {
                let call = CallId::from_uuid(self.clock().fresh());
                return Asked::Failed { call, failure, blames_provider: false };
            }
            Err(reply) => return Asked::Ended(reply),
        }
        let mut tries = Tries::default();
        loop {
            let asked = self.ask_once(agent, request, asking, &mut tries).await;
            if let Some(failed) = tries.failed.take() {
                self.count_failure(&request.model, failed, asked.is_continue()).await;
            }
            if let ControlFlow::Break(asked) = asked {
                return asked;
            }
        }
    }

    /// Asks it under one permit; goes on where it is to be asked again now.
    async fn ask_once(
        &self,
        agent: &Arc<Agent>,
        request: &ModelRequest,
        asking: Asking<'_>,
        tries: &mut Tries,
    ) -> ControlFlow<Asked> {
        let ended = |reply| ControlFlow::Break(Asked::Ended(reply));
        let stop = agent.stop_signal();
        let permit = match self.admit_inference(agent, request, asking).await {
            Ok(permit) => permit,
            Err(reply) => return ended(reply),
        };
        let call = permit.call();
        let asked = self.run_inference(agent, permit, tries.made, asking).await;
        if let Ok(Ended { outcome, .. }) = &asked {
            tries.failed = outcome.result.as_ref().err().map(|failure| failure.kind);
        }
        let outcome = match asked {
            _ if stop.is_cancelled() => return ended(stopped(agent)),
            // A report above the reservation is recorded and charged, and stops the run.
            Ok(Ended { overdrawn: Some(quantity), .. }) => {
                return ended(self.stop_overdrawn(agent, quantity).await);
            }
            Ok(Ended { outcome, .. }) => outcome,
            Err(error) => return ended(ServiceReply::ModelFailed(as_model_failure(&error))),
        };
        tries.made += outcome.attempts - outcome.told_to_wait;
        let blames_provider = outcome.blames_provider;
        let wait = self.wait_to_ask_again(&outcome, tries.made, asking).await;
        let failure = match outcome.result {
            Ok(reply) => return ended(ServiceReply::Model(Box::new(reply))),
            Err(failure) => failure,
        };
        if self.is_stopped_at(agent, asking.deadline).await {
            return ended(stopped(agent));
        }
        tries.empty += u32::from(failure.kind == ModelFailureKind::EmptyReply);
        let Some(wait) = wait.filter(|_| tries.empty < EMPTY_REPLIES) else {
            return ControlFlow::Break(Asked::Failed { call, failure, blames_provider });
        };
        let served = self.target(&request.model).await;
        self.show_retry(agent, call, served.as_ref().map(|(provider, _)| provider), failure, wait);
        let is_stopped = tokio::select! {
            () = self.clock().sleep(Duration::from_millis(wait.0)) => false,
            () = stop.cancelled() => true,
            () = self.closing().cancelled() => true,
        };
        agent.live().waiting_for = None;
        if is_stopped { ended(stopped(agent)) } else { ControlFlow::Continue(()) }
    }

    /// Whether a goal's time is up and its agent is stopped for that. Then the run ends so, and not as its model
    /// failed: whose timer is the first to notice is chance.
    async fn is_stopped_at(&self, agent: &Agent, deadline: Timestamp) -> bool {
        if agent.goal.is_none() || self.clock().now().after(TIMER_SLACK) < deadline {
            return false;
        }
        let stop = agent.stop_signal();
        tokio::select! {
            () = stop.cancelled() => true,
            () = self.closing().cancelled() => true,
            () = self.clock().sleep(STOP_GRACE) => false,
        }
    }

    /// How long to wait until an attempt that may have been billed is made up for; none where the outcome stands.
    async fn wait_to_ask_again(
        &self,
        outcome: &InferenceOutcome,
        made: u32,
        asking: Asking<'_>,
    ) -> Option<Millis> {
        if outcome.possibly_billed == 0 {
            return None;
        }
        let models = self.models().await.ok()?.trying(asking.attempts);
        models.wait_to_ask_again(outcome, made, self.clock().timer_until(asking.deadline))
    }

    /// Authorises and journals one inference, clamped to what the purse holds; waits where only other
    /// inferences' reservations stand in the way.
    async fn admit_inference(
        &self,
        agent: &Agent,
        request: &ModelRequest,
        asking: Asking<'_>,
    ) -> Result<Permit<Inference>, ServiceReply> {
        loop {
            if agent.stop_signal().is_cancelled() || self.is_closing() {
                return Err(stopped(agent));
            }
            // Registered before the decision, so that a settlement between the two is not missed.
            let settled = self.budget_changed().notified();
            let decision = match self.clamped_inference(agent, request, asking)? {
                Ok(effect) => {
                    let call = CallId::from_uuid(self.clock().fresh());
                    let now = self.clock().now();
                    self.authority().authorize(agent.id, call, effect, now)
                }
                Err(refusal) => Err(refusal),
            };
            let quantity = match decision {
                Ok(authorized) => {
                    let permit = self.journal().begin(authorized, self.about(agent, asking.trace)).await;
                    return permit
                        .map_err(|error| ServiceReply::ModelFailed(as_model_failure(&error.into())));
                }
                Err(Refusal::Waits { quantity, .. }) => quantity,
                Err(refusal) => {
                    self.journal_refusal(agent, "inference", refusal.clone()).await;
                    return Err(refused(refusal));
                }
            };
            self.wait_for_budget(&agent.stop_signal(), settled, asking.deadline).await.map_err(|end| {
                match end {
                    WaitEnd::Stopped => stopped(agent),
                    WaitEnd::TooLate => ServiceReply::BudgetExceeded { quantity, remaining: 0 },
                    WaitEnd::Failed(error) => ServiceReply::ModelFailed(as_model_failure(&error)),
                }
            })?;
        }
    }

    /// The inference that asks for no more than the purse has left; a refusal where not even the prompt is covered.
    fn clamped_inference(
        &self,
        agent: &Agent,
        request: &ModelRequest,
        asking: Asking<'_>,
    ) -> Result<Result<Inference, Refusal>, ServiceReply> {
        let bytes = request.text_bytes();
        let remaining = {
            let now = self.clock().now();
            self.authority().purse(agent.id, now).map_or(Ceilings::NONE, |purse| purse.remaining)
        };
        let price = self.config().prices.get(&request.model);
        if price.is_none() && remaining.get(Quantity::MicroUsd).is_some() {
            return Err(ServiceReply::ModelFailed(as_model_failure(&unpriced(&request.model))));
        }
        let left = remaining.get(Quantity::Tokens);
        let least = bytes.0 / MAX_BYTES_PER_TOKEN + 1;
        if let Some(remaining) = left.filter(|left| *left < least) {
            // Not even the prompt fits: asking would be an overdraft for certain.
            let quantity = Quantity::Tokens;
            return Ok(Err(Refusal::Budget { quantity, wanted: least, remaining }));
        }
        let input = Tokens(bytes.plus(request.thinking_bytes()).0 / BYTES_PER_TOKEN_AT_LEAST);
        let max_output_tokens = clamp_output(request.max_output_tokens, input, &remaining, price);
        let full = input.plus(max_output_tokens);
        let reserve = left.map_or(full, |left| full.min(Tokens(left)));
        let (request_hash, keeps) = (asking.request_hash.to_owned(), asking.keeps);
        // A request for a summary is another one than that which the conversation comes to.
        let context = agent.live().context.filter(|_| keeps.is_none());
        let estimate = context.map(|context| match request.narrowed {
            // A small model is shown less than the conversation holds.
            Some(_) => estimate(request, (context.learned_bytes, context.learned_tokens)),
            None => context.tokens,
        });
        let request = ModelRequest { max_output_tokens, ..request.clone() };
        Ok(Ok(Inference { request, reserve, price, request_hash, keeps, estimate }))
    }

    async fn run_inference(
        &self,
        agent: &Arc<Agent>,
        permit: Permit<Inference>,
        earlier: u32,
        asking: Asking<'_>,
    ) -> Result<Ended, KernelError> {
        let call = permit.call();
        let mut observed = self.observe(agent, &permit, asking.trace).await;
        let receipt = match self.models().await {
            Ok(models) => {
                let progress = |progress: Progress| {
                    observed.note(&progress, self.clock().now());
                    self.show_progress(agent, call, observed.provider(), progress);
                };
                let stop = agent.stop_signal();
                let deadline = self.clock().timer_until(asking.deadline);
                let models = models.trying(asking.attempts);
                models.run(permit, self.turn_of(agent), earlier, deadline, stop.cancelled(), progress).await
            }
            Err(error) => {
                let result = Err(as_model_failure(&error));
                permit.settle(InferenceOutcome {
                    result,
                    attempts: 0,
                    told_to_wait: 0,
                    possibly_billed: 0,
                    blames_provider: false,
                    elapsed: Millis::ZERO,
                })
            }
        };
        agent.live().waiting_for = None;
        let finished = self.journal().finish(receipt, self.clock().now()).await;
        if finished.is_err() {
            self.budget_changed().notify_waiters();
        }
        let finished = finished?;
        let settlement = self.settle(agent, &finished).await?;
        self.count_cost(agent, &finished.spent);
        let cost = MicroUsd(finished.spent.get(Quantity::MicroUsd));
        observed.end(&finished.outcome, cost, self.clock().now());
        let overdrawn = self.stops_at(agent, &settlement.overdrafts);
        let outcome = finished.outcome;
        if let (Some(goal), Ok(reply)) = (agent.goal, &outcome.result)
            && let Some(goal) = self.table().goals.get_mut(&goal)
        {
            goal.usage = goal.usage.plus(reply.usage);
        }
        Ok(Ended { outcome, overdrawn })
    }

    /// Of what an inference used more than was reserved, where that stops the run: always of tokens and money, of
    /// which the provider reports; of the journal where it is bounded.
    pub(crate) fn stops_at(&self, agent: &Agent, overdrafts: &[Overdraft]) -> Option<Quantity> {
        let now = self.clock().now();
        let remaining =
            self.authority().purse(agent.id, now).map(|purse| purse.remaining).unwrap_or_default();
        let stops = |quantity: &Quantity| {
            matches!(quantity, Quantity::Tokens | Quantity::MicroUsd) || remaining.get(*quantity).is_some()
        };
        overdrafts.iter().map(|overdraft| overdraft.quantity).find(stops)
    }

    pub(crate) async fn stop_overdrawn(&self, agent: &Agent, quantity: Quantity) -> ServiceReply {
        let remaining = {
            let now = self.clock().now();
            self.authority().purse(agent.id, now).and_then(|purse| purse.remaining.get(quantity)).unwrap_or(0)
        };
        let refusal = Refusal::Budget { quantity, wanted: remaining.saturating_add(1), remaining };
        self.journal_refusal(agent, "inference", refusal).await;
        ServiceReply::BudgetExceeded { quantity, remaining }
    }

    fn count_cost(&self, agent: &Agent, spent: &Amounts) {
        self.note_spending(agent, MicroUsd(spent.get(Quantity::MicroUsd)));
        let Some(id) = agent.goal else { return };
        if let Some(goal) = self.table().goals.get_mut(&id) {
            goal.cost = goal.cost.plus(MicroUsd(spent.get(Quantity::MicroUsd)));
        }
    }

    fn show_progress(&self, agent: &Agent, call: CallId, asked: Option<&ProviderName>, progress: Progress) {
        match progress {
            // Prose is shown from the journal once the reply is whole.
            Progress::Delta(_) | Progress::Answered(_) => {}
            Progress::Retry { failure, wait, .. } => self.show_retry(agent, call, asked, failure, wait),
            Progress::Waiting { provider, wait } => {
                let until = wait.map(|wait| self.clock().now().after(wait));
                agent.live().waiting_for = Some(waiting_words(provider.as_ref(), until));
            }
            Progress::Loading => agent.live().waiting_for = Some("the local model to load".to_owned()),
            Progress::Asked => agent.live().waiting_for = None,
        }
    }

    /// For whom an agent asks a model. Somebody waits for a goal that is followed, and for an agent that lives for one
    /// run.
    fn turn_of(&self, agent: &Agent) -> Turn {
        let (party, is_awaited) = match agent.goal {
            Some(id) => (Party::Goal(id), self.table().goals.get(&id).is_some_and(Goal::is_followed)),
            None => (Party::Principal(agent.owner), !agent.has_mailbox()),
        };
        Turn { party, class: if is_awaited { Class::Interactive } else { Class::Background } }
    }

    fn show_retry(
        &self,
        agent: &Agent,
        call: CallId,
        asked: Option<&ProviderName>,
        failure: ModelFailure,
        wait: Millis,
    ) {
        let words = waiting_words(asked, Some(self.clock().now().after(wait)));
        agent.live().waiting_for = Some(format!("{words}: {failure}"));
        let event = Event::InferenceRetried { call, failure, wait, instead: None };
        self.note_or_log(self.agent_entry(agent, event));
    }
}

/// The longest reply that tokens, money and journal that are left still pay for, at least one token: what not even
/// that fits is refused.
fn clamp_output(wanted: Tokens, input: Tokens, remaining: &Ceilings, price: Option<Price>) -> Tokens {
    let tokens = remaining.get(Quantity::Tokens).map(|left| left.saturating_sub(input.0));
    let money = remaining.get(Quantity::MicroUsd).zip(price);
    let money = money.and_then(|(left, price)| price.output_within(MicroUsd(left), input)).map(|most| most.0);
    let journal = remaining
        .get(Quantity::JournalBytes)
        .map(|left| left.saturating_sub(limits::CALL_JOURNAL_BYTES) / limits::JOURNAL_BYTES_PER_TOKEN);
    let least = [Some(wanted.0), tokens, money, journal].into_iter().flatten().min();
    Tokens(least.unwrap_or(0).max(1))
}

/// What an agent waits for that is to ask a provider: its patience, where it wants quiet until a time, else a slot.
pub(crate) fn waiting_words(provider: Option<&ProviderName>, until: Option<Timestamp>) -> String {
    let provider = provider.map_or("provider".to_owned(), |name| format!("provider {name}"));
    match until {
        Some(until) => format!("{provider} until {until}"),
        None => format!("a slot of {provider}"),
    }
}

/// Why nothing more is served: the agent is being stopped, or the time of its run is up.
pub(crate) fn stopped(agent: &Agent) -> ServiceReply {
    if agent.cancel.is_cancelled() {
        return ServiceReply::Cancelled;
    }
    ServiceReply::BudgetExceeded { quantity: Quantity::WallMillis, remaining: 0 }
}

/// Why a model without a price is not asked where money is bounded.
pub(crate) fn unpriced(model: &ModelName) -> KernelError {
    KernelError::Invalid(format!(
        "max_usd cannot be kept: the model {model} has no price; give it one, [models.{:?}] in the file that \
         `prices` in the configuration or AAOS_PRICES names, or leave max_usd out",
        model.as_str()
    ))
}

fn refused(refusal: Refusal) -> ServiceReply {
    match refusal {
        Refusal::Budget { quantity, remaining, .. } => ServiceReply::BudgetExceeded { quantity, remaining },
        Refusal::UnknownAgent(_) => ServiceReply::Cancelled,
        other => ServiceReply::ModelFailed(as_model_failure(&KernelError::from(other))),
    }
}

/// A kernel error as the failure of an inference, not to be tried again.
pub(crate) fn as_model_failure(error: &KernelError) -> ModelFailure {
    match error {
        KernelError::Provider(failure) => failure.clone(),
        other => {
            ModelFailure { kind: ModelFailureKind::Rejected, message: other.to_string(), retry_after: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{clamp_output, waiting_words};
    use aaos_core::budget::Ceilings;
    use aaos_core::name::ProviderName;
    use aaos_core::price::Price;
    use aaos_core::quantity::{Quantity, Timestamp, Tokens};

    #[test]
    fn what_is_waited_for_is_said() {
        let name = ProviderName::parse("alpha").expect("a name");
        let until = Some(Timestamp(1_795_426_952_987));
        for (provider, until, words) in [
            (Some(&name), until, "provider alpha until 1795426952987"),
            (Some(&name), None, "a slot of provider alpha"),
            (None, until, "provider until 1795426952987"),
            (None, None, "a slot of provider"),
        ] {
            assert_eq!(waiting_words(provider, until), words);
        }
    }

    #[test]
    fn a_reply_is_clamped_to_the_purse() {
        let clamped = |left: Option<u64>| {
            let remaining = Ceilings::NONE.with(Quantity::Tokens, left);
            clamp_output(Tokens(100), Tokens(50), &remaining, None).0
        };
        assert_eq!([None, Some(500), Some(80), Some(10)].map(clamped), [100, 100, 30, 1]);
    }

    #[test]
    fn a_reply_is_clamped_to_the_money_after_the_input_and_to_the_journal() {
        // A dollar a million tokens of input, two of output: 50 of input take 50 millionths.
        let price = Price::parse("1", "0.5", "2").expect("a price");
        let clamped = |quantity, left, price| {
            clamp_output(Tokens(100), Tokens(50), &Ceilings::of(quantity, left), price).0
        };
        let with = |left| clamped(Quantity::MicroUsd, left, Some(price));
        assert_eq!([250, 249, 51, 50, 0].map(with), [100, 99, 1, 1, 1]);
        let free = Price::parse("1", "1", "0").expect("a price");
        assert_eq!(clamped(Quantity::MicroUsd, 50, Some(free)), 100, "free output is not bounded by money");
        let journal = |left| clamped(Quantity::JournalBytes, left, None);
        assert_eq!([2_048 + 800, 2_048 + 88, 100].map(journal), [100, 11, 1]);
    }
}
