//! What the process of a local model says, held to what the gateway guarantees of a provider's words.
//!
//! Invariants: nothing that it says keeps another call from it: it has no pace and wants no quiet. A reply is bounded, has
//! a text or a call unless it was cut or withheld, and carries no thoughts. The words of a failure are short and harmless.

use aaos_core::limits::{LOCAL_FAILURE_CHARS, MAX_MODEL_REPLY_BYTES, MAX_MODEL_REPLY_CALLS};
use aaos_core::model::{ModelCall, ModelFailure, ModelFailureKind, ModelReply, ModelStop, Pace};

use crate::inbox::{Arrival, Ending};

/// What is believed of it.
pub(crate) fn heard(arrival: Arrival) -> Arrival {
    match arrival {
        Arrival::Begun(_) => Arrival::Begun(Pace::default()),
        // It is measured here.
        Arrival::End(Ending::Done(reply, _)) => Arrival::End(match checked(*reply) {
            Ok(reply) => Ending::Done(Box::new(reply), None),
            Err(failure) => Ending::Failed(failure),
        }),
        Arrival::End(Ending::Failed(failure)) => Arrival::End(Ending::Failed(plain(&failure))),
        other @ (Arrival::Delta(_) | Arrival::End(_)) => other,
    }
}

fn checked(mut reply: ModelReply) -> Result<ModelReply, ModelFailure> {
    reply.reasoning = None;
    reply.thinking = Vec::new();
    let calls = reply.calls.len();
    if calls > MAX_MODEL_REPLY_CALLS {
        let words = format!("the reply has more than {MAX_MODEL_REPLY_CALLS} tool calls");
        return Err(failure(ModelFailureKind::TooLong, words));
    }
    let bytes = reply.calls.iter().map(call_bytes).fold(reply.text.len(), usize::saturating_add);
    if bytes > MAX_MODEL_REPLY_BYTES {
        let words = format!("the reply is longer than {MAX_MODEL_REPLY_BYTES} bytes");
        return Err(failure(ModelFailureKind::TooLong, words));
    }
    match reply.stop {
        ModelStop::EndTurn | ModelStop::ToolUse if reply.text.trim().is_empty() && calls == 0 => {
            let words = "the local model ended its reply without a text or a call; say the goal in other words, or take \
                         another model";
            return Err(failure(ModelFailureKind::EmptyReply, words.to_owned()));
        }
        ModelStop::EndTurn if calls > 0 => reply.stop = ModelStop::ToolUse,
        ModelStop::ToolUse if calls == 0 => reply.stop = ModelStop::EndTurn,
        _ => {}
    }
    Ok(reply)
}

const fn call_bytes(call: &ModelCall) -> usize {
    call.id.0.len().saturating_add(call.tool.0.len()).saturating_add(call.arguments.0.len())
}

/// That there were too many says no more of the only one than that it cannot now.
fn plain(said: &ModelFailure) -> ModelFailure {
    let kind = match said.kind {
        ModelFailureKind::RateLimited => ModelFailureKind::Unavailable,
        other => other,
    };
    let mut message = String::new();
    for one in said.message.chars().take(LOCAL_FAILURE_CHARS) {
        if one.is_control() { message.extend(one.escape_unicode()) } else { message.push(one) }
    }
    failure(kind, message)
}

fn failure(kind: ModelFailureKind, message: String) -> ModelFailure {
    ModelFailure { kind, message, retry_after: None }
}
