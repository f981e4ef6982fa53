//! The body of `send_message`, which is the kernel's own: from one agent into the mailbox of another.
//!
//! Invariants: a message is delivered once, also when agentd is killed meanwhile: the delivery's entry names the call
//! that caused it, and that call goes on from there; the receiver's model reads it as data of the named sender; an
//! agent that is not the sender's to know answers as one that does not exist; whoever waits for a reply waits no
//! longer than its goal, its own run and the daemon.

use std::sync::Arc;
use std::time::Duration;

use aaos_agent::wrap_message;
use aaos_core::effect::ToolOutcome;
use aaos_core::event::{Event, NewEntry};
use aaos_core::id::{CallId, EntryId, TraceId};
use aaos_core::quantity::{Millis, Timestamp};
use aaos_core::tool::ToolCall;
use aaos_core::toolio::{SendMessageInput, SendMessageOutput, ToolFailure};
use aaos_ipc::TraceState as Known;
use aaos_journal::{Permit, Receipt};
use tokio_util::sync::CancellationToken;

use crate::agents::check_accepts;
use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::mail::Sender;
use crate::principal::fits;
use crate::registry::Agent;
use crate::spawning_tools::{Under, to_json};

/// What is told of a reply that nobody keeps any more.
const FORGOTTEN: &str = "the reply is not kept any more; ask the agent again";

/// The call by which an agent sends a message.
#[derive(Debug)]
pub(crate) struct Sent<'s> {
    sender: &'s Agent,
    call: CallId,
    intent: EntryId,
}

impl Kernel {
    /// Runs `send_message`, or goes on with it. None when the daemon closes while a reply is awaited: then the call has no
    /// outcome and goes on after the next start.
    pub(crate) async fn run_message_tool(
        &self,
        sender: &Arc<Agent>,
        under: Under,
        permit: Permit<ToolCall>,
        input: SendMessageInput,
    ) -> Option<Receipt<ToolCall>> {
        let begun = self.clock().now();
        {
            // The receiver may draw on the same purses as whoever waits for it.
            let now = self.clock().now();
            self.authority().pay_ahead(permit.agent(), permit.call(), &permit.reserved(), now);
        }
        let wait = wait_left(permit.about().timestamp, input.wait_seconds, self.clock().now());
        let delivered = match under.delivered() {
            Some(trace) => Ok(trace),
            None => {
                let sent = Sent { sender, call: under.call, intent: permit.intent() };
                self.send_message(&sent, input).await
            }
        };
        let result = match delivered {
            Ok(trace) => self.reply_within(sender, &under.cancel, trace, wait).await?,
            Err(error) => Err(error.into_tool_failure()),
        };
        let result = result.and_then(|output| to_json(&output));
        let outcome = ToolOutcome { elapsed: self.clock().since(begun), ..ToolOutcome::of(result) };
        Some(permit.settle(outcome))
    }

    async fn send_message(&self, sent: &Sent<'_>, input: SendMessageInput) -> Result<TraceId, KernelError> {
        if !fits(&input.message) {
            return Err(KernelError::Invalid("the message is longer than 1 MiB".to_owned()));
        }
        let receiver = self.receiver(sent.sender, input.to.as_str())?;
        check_accepts(&receiver.manifest, &input.message)?;
        let nonce = self.clock().fresh().simple().to_string();
        let told = wrap_message(&sent.sender.manifest.name, self.clock().now(), &nonce, &input.message);
        self.deliver_from(&receiver, told, Sender::Agent(sent)).await
    }

    /// The agent of this name that an agent may know: one of its own goal, else one of its principal's without a goal.
    fn receiver(&self, sender: &Agent, name: &str) -> Result<Arc<Agent>, KernelError> {
        let mut known: Vec<Arc<Agent>> = {
            let table = self.table();
            let of_name = table.agents.values().filter(|agent| agent.manifest.name.as_str() == name);
            of_name.filter(|agent| knows(sender, agent)).cloned().collect()
        };
        if known.iter().any(|agent| agent.goal == sender.goal) {
            known.retain(|agent| agent.goal == sender.goal);
        }
        if known.is_empty() {
            return Err(KernelError::unknown("agent", &name));
        }
        let mut listening = known.into_iter().filter(|agent| agent.has_mailbox());
        match (listening.next(), listening.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(KernelError::State(format!(
                "agent {name} takes no messages: it is neither persistent nor scheduled"
            ))),
            (Some(_), Some(_)) => Err(KernelError::State(format!(
                "more than one agent is called {name}; have the operator stop one, or name them apart"
            ))),
        }
    }

    /// Records that a message was sent and lies in the mailbox, in one transaction.
    pub(crate) async fn record_message(
        &self,
        to: &Agent,
        trace: TraceId,
        message: String,
        sent: &Sent<'_>,
    ) -> Result<(), KernelError> {
        let (from, under) = (Some(sent.sender.id), Some(sent.call));
        let caused =
            |entry: NewEntry| NewEntry { trace_id: Some(trace), parent_event: Some(sent.intent), ..entry };
        let entries = vec![
            caused(self.agent_entry(sent.sender, Event::MessageSent { to: to.id })),
            caused(self.agent_entry(to, Event::MessageDelivered { message, from, under })),
        ];
        self.journal().record_all(entries).await?;
        Ok(())
    }

    /// The reply to a message, waited for up to `wait`. None when the daemon closes first.
    async fn reply_within(
        &self,
        sender: &Agent,
        cancel: &CancellationToken,
        trace: TraceId,
        wait: Option<Duration>,
    ) -> Option<Result<SendMessageOutput, ToolFailure>> {
        let pending = SendMessageOutput::without_reply(trace);
        let Some(wait) = wait else { return Some(Ok(pending)) };
        let until = self.wait_deadline(sender).min(self.clock().after(wait));
        loop {
            let changed = self.traces_changed().notified();
            if let Some(reply) = self.reply_to(trace) {
                return Some(Ok(reply));
            }
            tokio::select! {
                () = changed => {}
                () = self.clock().sleep_until(until) => return Some(Ok(pending)),
                () = cancel.cancelled() => return Some(Err(cancelled())),
                () = self.closing().cancelled() => return None,
            }
        }
    }

    fn reply_to(&self, trace: TraceId) -> Option<SendMessageOutput> {
        let table = self.table();
        let pending = SendMessageOutput::without_reply(trace);
        match table.traces.get(trace) {
            Some(Known::Pending) => None,
            Some(Known::Done(result)) => Some(SendMessageOutput {
                response: Some(result.response.clone()),
                stop_reason: Some(result.stop_reason),
                error: result.error.clone(),
                ..pending
            }),
            Some(Known::Failed { reason }) => {
                Some(SendMessageOutput { error: Some(reason.clone()), ..pending })
            }
            None => Some(SendMessageOutput { error: Some(FORGOTTEN.to_owned()), ..pending }),
        }
    }
}

/// Whether an agent may know of another: both are of one principal, and the other belongs to the same goal or to none.
fn knows(sender: &Agent, other: &Agent) -> bool {
    sender.owner == other.owner && (other.goal.is_none() || other.goal == sender.goal)
}

/// How much longer a reply is waited for: what was asked for counts from when the call began, whatever restarts were
/// between. None where nobody waits.
fn wait_left(began: Timestamp, wait_seconds: Option<u64>, now: Timestamp) -> Option<Duration> {
    let wait = wait_seconds.filter(|seconds| *seconds > 0)?;
    let until = began.after(Millis(wait.saturating_mul(1000)));
    Some(Duration::from_millis(until.since(now).0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aaos_core::quantity::Timestamp;

    use super::wait_left;

    #[test]
    fn a_wait_ends_when_it_was_to_end_also_after_a_restart() {
        let left = |asked, now| wait_left(Timestamp(1_000), asked, Timestamp(now));
        assert_eq!(left(Some(5), 1_000), Some(Duration::from_secs(5)));
        assert_eq!(left(Some(5), 4_000), Some(Duration::from_secs(2)), "three of them went by");
        assert_eq!(left(Some(5), 9_000), Some(Duration::ZERO), "it is over, but a reply that came is told");
        assert_eq!((left(None, 1_000), left(Some(0), 1_000)), (None, None), "nobody waits");
    }
}
