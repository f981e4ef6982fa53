//! Asking a model: reserve, wait for the purse, run, settle.
//!
//! Invariants: no inference without a reservation on the whole path to the root; what was really used is
//! charged, by the law's own rule; a budget that is spent is told, not retried. An attempt that may have been
//! billed is settled before another one is made, which needs a permit and a reservation of its own.

use std::sync::Arc;
use std::time::Duration;

use aaos_core::authority::Refusal;
use aaos_core::effect::{Inference, InferenceOutcome};
use aaos_core::event::Event;
use aaos_core::id::{CallId, TraceId};
use aaos_core::limits::{self, MAX_BYTES_PER_TOKEN};
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelRequest};
use aaos_core::quantity::{Millis, Quantity, Tokens};
use aaos_core::services::ServiceReply;
use aaos_journal::Permit;
use aaos_llm::Progress;
use tokio::time::Instant;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::registry::Agent;

/// Ordinary text takes about 4 bytes a token, code and other scripts down to 2: this bounds from above.
const BYTES_PER_TOKEN_AT_LEAST: u64 = 2;
/// An inference outside a goal gives up after this long, its waits included; one of a goal at the goal's deadline.
const INFERENCE_DEADLINE: Duration = Duration::from_secs(limits::GOAL_DEADLINE_SECONDS);

/// How an inference ended, and whether it cost more than was reserved.
struct Ended {
    outcome: InferenceOutcome,
    overdrawn: Option<Quantity>,
}

impl Kernel {
    /// Serves `AskModel` for an agent.
    pub(crate) async fn ask_model(
        &self,
        agent: &Arc<Agent>,
        trace: Option<TraceId>,
        request: ModelRequest,
    ) -> ServiceReply {
        let time = agent.goal.map_or(INFERENCE_DEADLINE, |goal| self.time_left(goal));
        let deadline = Instant::now() + time;
        let mut made = 0;
        loop {
            let permit = match self.admit_inference(agent, trace, &request, deadline).await {
                Ok(permit) => permit,
                Err(reply) => return reply,
            };
            let call = permit.call();
            let outcome = match self.run_inference(agent, permit, made, deadline).await {
                _ if agent.cancel.is_cancelled() => return ServiceReply::Cancelled,
                // A report above the reservation is recorded and charged, and stops the run.
                Ok(Ended { overdrawn: Some(quantity), .. }) => {
                    return ServiceReply::BudgetExceeded { quantity, remaining: 0 };
                }
                Ok(Ended { outcome, .. }) => outcome,
                Err(error) => return ServiceReply::ModelFailed(as_model_failure(&error)),
            };
            made += outcome.attempts;
            let wait = self.wait_to_ask_again(&outcome, made, deadline).await;
            let failure = match outcome.result {
                Ok(reply) => return ServiceReply::Model(Box::new(reply)),
                Err(failure) => failure,
            };
            let Some(wait) = wait else { return ServiceReply::ModelFailed(failure) };
            self.show_retry(agent, call, failure, wait);
            let stopped = tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait.0)) => false,
                () = agent.cancel.cancelled() => true,
            };
            agent.live().waiting_for = None;
            if stopped {
                return ServiceReply::Cancelled;
            }
        }
    }

    /// How long to wait until an attempt that may have been billed is made up for; none where the outcome stands.
    async fn wait_to_ask_again(
        &self,
        outcome: &InferenceOutcome,
        made: u32,
        deadline: Instant,
    ) -> Option<Millis> {
        if outcome.possibly_billed == 0 {
            return None;
        }
        self.models().await.ok()?.wait_to_ask_again(outcome, made, deadline)
    }

    /// Authorises and journals one inference, clamped to what the purse holds; waits where only other
    /// inferences' reservations stand in the way.
    async fn admit_inference(
        &self,
        agent: &Agent,
        trace: Option<TraceId>,
        request: &ModelRequest,
        deadline: Instant,
    ) -> Result<Permit<Inference>, ServiceReply> {
        let bytes = request.text_bytes();
        let input = Tokens(bytes.0 / BYTES_PER_TOKEN_AT_LEAST);
        loop {
            if agent.cancel.is_cancelled() {
                return Err(ServiceReply::Cancelled);
            }
            // Registered before the decision, so that a settlement between the two is not missed.
            let changed = self.budget_changed().notified();
            let remaining = {
                let now = self.clock().now();
                let purse = self.authority().purse(agent.id, now);
                purse.and_then(|purse| purse.remaining.get(Quantity::Tokens)).map(Tokens)
            };
            let least = Tokens(bytes.0 / MAX_BYTES_PER_TOKEN).plus(Tokens(1));
            if let Some(remaining) = remaining.filter(|left| *left < least) {
                // Not even the prompt fits: asking would be an overdraft for certain.
                let quantity = Quantity::Tokens;
                let refusal = Refusal::Budget { quantity, wanted: least.0, remaining: remaining.0 };
                self.journal_refusal(agent, "inference", refusal.clone()).await;
                return Err(refused(refusal));
            }
            let max_output_tokens = clamp_output(request.max_output_tokens, input, remaining);
            let full = input.plus(max_output_tokens);
            let reserve = remaining.filter(|left| left.0 > 0).map_or(full, |left| full.min(left));
            let call = CallId::from_uuid(self.clock().fresh());
            let request = ModelRequest { max_output_tokens, ..request.clone() };
            let price = self.config().prices.get(&request.model);
            let effect = Inference { request, reserve, price };
            let decision = {
                let now = self.clock().now();
                self.authority().authorize(agent.id, call, effect, now)
            };
            match decision {
                Ok(authorized) => {
                    let permit = self.journal().begin(authorized, self.about(agent, trace)).await;
                    return permit
                        .map_err(|error| ServiceReply::ModelFailed(as_model_failure(&error.into())));
                }
                Err(Refusal::Waits { quantity, .. }) => {
                    tokio::select! {
                        () = changed => {}
                        () = agent.cancel.cancelled() => return Err(ServiceReply::Cancelled),
                        () = tokio::time::sleep_until(deadline) => {
                            return Err(ServiceReply::BudgetExceeded { quantity, remaining: 0 });
                        }
                    }
                    // A reservation whose outcome cannot be journalled is never settled.
                    if let Err(error) = self.journal().flush().await {
                        return Err(ServiceReply::ModelFailed(as_model_failure(&error.into())));
                    }
                }
                Err(refusal) => {
                    self.journal_refusal(agent, "inference", refusal.clone()).await;
                    return Err(refused(refusal));
                }
            }
        }
    }

    async fn run_inference(
        &self,
        agent: &Arc<Agent>,
        permit: Permit<Inference>,
        earlier: u32,
        deadline: Instant,
    ) -> Result<Ended, KernelError> {
        let call = permit.call();
        let receipt = match self.models().await {
            Ok(models) => {
                let (kernel, told) = (self.clone(), Arc::clone(agent));
                let progress = move |progress: Progress| kernel.show_progress(&told, call, progress);
                models.run(permit, earlier, deadline, agent.cancel.cancelled(), progress).await
            }
            Err(error) => {
                let result = Err(as_model_failure(&error));
                permit.settle(InferenceOutcome {
                    result,
                    attempts: 0,
                    possibly_billed: 0,
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
        let overdrawn = settlement.overdrafts.first().map(|overdraft| overdraft.quantity);
        let outcome = finished.outcome;
        if let (Some(goal), Ok(reply)) = (agent.goal, &outcome.result)
            && let Some(goal) = self.table().goals.get_mut(&goal)
        {
            goal.usage = goal.usage.plus(reply.usage);
        }
        Ok(Ended { outcome, overdrawn })
    }

    fn show_progress(&self, agent: &Agent, call: CallId, progress: Progress) {
        match progress {
            // Prose is shown from the journal once the reply is whole.
            Progress::Delta(_) => {}
            Progress::Retry { failure, wait, .. } => self.show_retry(agent, call, failure, wait),
        }
    }

    fn show_retry(&self, agent: &Agent, call: CallId, failure: ModelFailure, wait: Millis) {
        let until = self.clock().now().after(wait);
        agent.live().waiting_for = Some(format!("provider until {until}: {failure}"));
        let event = Event::InferenceRetried { call, failure, wait };
        self.note_or_log(self.agent_entry(agent, event));
    }
}

/// The reply length that still fits the purse, at least one token.
fn clamp_output(wanted: Tokens, input: Tokens, remaining: Option<Tokens>) -> Tokens {
    match remaining {
        None => wanted,
        Some(left) => wanted.min(left.minus(input)).max(Tokens(1)),
    }
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
    use super::clamp_output;
    use aaos_core::quantity::Tokens;

    #[test]
    fn a_reply_is_clamped_to_the_purse() {
        assert_eq!(clamp_output(Tokens(100), Tokens(50), None), Tokens(100));
        assert_eq!(clamp_output(Tokens(100), Tokens(50), Some(Tokens(500))), Tokens(100));
        assert_eq!(clamp_output(Tokens(100), Tokens(50), Some(Tokens(80))), Tokens(30));
        assert_eq!(clamp_output(Tokens(100), Tokens(50), Some(Tokens(10))), Tokens(1));
    }
}
