//! One journal entry as one line: the facts that matter, for `audit`.
//!
//! Invariant: every kind says something; nothing that an agent wrote reaches the line with control
//! characters.

use std::collections::HashMap;

use aaos_core::approval::{ApprovalScope, AskedBecause};
use aaos_core::budget::Budget;
use aaos_core::confinement::{Boundary, ConfinementReceipt, Evidence};
use aaos_core::effect::Denied;
use aaos_core::event::{AgentEnd, Entry, Event, Outcome, OutputObserved, Shortened, SummaryFault};
use aaos_core::id::AgentId;
use aaos_core::ladder::ClimbReason;
use aaos_core::manifest::Manifest;
use aaos_core::model::{ModelFailure, ModelReply, Usage};
use aaos_core::name::ModelName;
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::ToolFailure;
use serde::Serialize;
use serde_json::Value;

use super::text::{REASON_CHARS, VALUE_CHARS, cut, instant, short_id, size, span};

/// Most items of a list that are shown.
const SHOWN_ITEMS: usize = 4;

/// A text argument that is longer, or has several lines, is counted instead of shown.
const COUNTED_BYTES: usize = 400;

/// Names of the agents seen so far.
#[derive(Debug, Default)]
pub(crate) struct Names {
    of_agent: HashMap<AgentId, String>,
    bearers: HashMap<String, usize>,
}

impl Names {
    /// Learns the name from the entry of an agent's admission.
    pub(crate) fn learn(&mut self, entry: &Entry) {
        if let (Event::AgentSpawned { name, .. }, Some(id)) = (&entry.event, entry.agent_id)
            && self.of_agent.insert(id, name.to_string()).is_none()
        {
            *self.bearers.entry(name.to_string()).or_default() += 1;
        }
    }

    /// Name and end of the id; the end alone when the name is not known.
    pub(crate) fn of(&self, id: &AgentId) -> String {
        match self.of_agent.get(id) {
            Some(name) => format!("{name}({})", short_id(id)),
            None => format!("({})", short_id(id)),
        }
    }

    /// The name alone, where it is known and no other agent bears it.
    pub(crate) fn plain(&self, id: &AgentId) -> String {
        match self.of_agent.get(id) {
            Some(name) if self.bearers.get(name) == Some(&1) => name.clone(),
            Some(_) => self.of(id),
            None => short_id(id),
        }
    }
}

/// The line of an entry: number, time, kind, who, facts.
pub(crate) fn line(entry: &Entry, names: &Names) -> String {
    let who = match (&entry.agent_id, &entry.goal_id) {
        (Some(agent), _) => names.of(agent),
        (None, Some(_)) => "goal".to_owned(),
        (None, None) => "agentd".to_owned(),
    };
    let at = instant(entry.timestamp);
    let facts = facts(&entry.event, names);
    format!("{:>6} {at} {:<25} {who}: {facts}", entry.seq.0, entry.event.kind()).trim_end().to_owned()
}

/// What an event says beyond its kind.
pub(crate) fn facts(event: &Event, names: &Names) -> String {
    match event {
        Event::DaemonStarted { version, resumed } => match resumed.len() {
            0 => format!("version {version}"),
            calls => format!("version {version}, {calls} calls go on"),
        },
        Event::DaemonStopped {} => "in good order".to_owned(),
        Event::AuditStdoutStopped { after, reason } => {
            format!("after entry {after}: {}", cut(reason, REASON_CHARS))
        }
        Event::WorkspaceRemoved { entries, left } => match left {
            None => format!("{entries} entries"),
            Some(left) => format!("{entries} entries; left: {}", cut(left, REASON_CHARS)),
        },
        Event::JournalPruned { through, entries, archive, .. } => {
            format!("{entries} entries, up to {through}, lie in archive/{archive}")
        }
        Event::BodyErased { original } => format!("its body was erased; it was {original}"),
        Event::GoalAccepted { .. }
        | Event::GoalForked { .. }
        | Event::GoalStarted { .. }
        | Event::GoalFinished { .. } => goal(event, names),
        Event::ToolInvoked { .. }
        | Event::ToolResult { .. }
        | Event::CallRefused { .. }
        | Event::ToolRepeatGuardFired { .. } => tool(event),
        Event::InferenceRequested { .. }
        | Event::InferenceCompleted { .. }
        | Event::InferenceRetried { .. }
        | Event::ContextSummarized { .. }
        | Event::ContextSummarizationFailed { .. }
        | Event::UsageReported { .. }
        | Event::BudgetExceeded { .. }
        | Event::Overdraft { .. } => inference(event),
        Event::WorkerStarted { .. }
        | Event::ConfinementReceipt { .. }
        | Event::ConfinementDegraded { .. }
        | Event::WorkerStopped { .. }
        | Event::NetworkFetched { .. }
        | Event::ConnectionRequested { .. }
        | Event::ConnectionEnded { .. } => far(event),
        Event::CapabilityGranted { .. }
        | Event::CapabilityDenied { .. }
        | Event::DenialsSuppressed { .. }
        | Event::CapabilityRevoked { .. } => capability(event),
        Event::HumanApprovalRequested { .. }
        | Event::HumanApprovalGranted { .. }
        | Event::HumanApprovalDenied { .. } => approval(event),
        _ => agent(event, names),
    }
}

fn approval(event: &Event) -> String {
    let why = |reason: &str| format!(": {}", cut(reason, REASON_CHARS));
    match event {
        Event::HumanApprovalRequested { question, .. } => {
            let input = cut(&question.input.to_string(), VALUE_CHARS);
            format!("{} {}: {} {input}", question.effect, question.id, approval_reason(&question.because))
        }
        Event::HumanApprovalGranted { approval, principal, reason } => {
            let why = reason.as_deref().map(why).unwrap_or_default();
            let scope = match &approval.scope {
                ApprovalScope::Exactly { .. } => "this very call".to_owned(),
                ApprovalScope::Tool { effect, below: None, .. } => {
                    format!("{effect}, {} times", approval.uses)
                }
                ApprovalScope::Tool { effect, below: Some(below), .. } => {
                    format!("{effect} below {below}, {} times", approval.uses)
                }
            };
            format!("{} by uid {principal}, {scope}{why}", approval.id)
        }
        Event::HumanApprovalDenied { approval, principal, reason, .. } => {
            format!("{approval} by {}{}", denied_by(*principal), why(reason))
        }
        _ => String::new(),
    }
}

/// Who did not approve.
pub(crate) fn denied_by(principal: Option<u32>) -> String {
    principal.map_or("agentd itself".to_owned(), |uid| format!("uid {uid}"))
}

/// Why a person is asked.
pub(crate) fn approval_reason(because: &AskedBecause) -> String {
    match because {
        AskedBecause::Tool => "its manifest or its goal asks for approval of the tool".to_owned(),
        AskedBecause::Grant(grant) => format!("grant {grant} asks for approval"),
    }
}

fn goal(event: &Event, names: &Names) -> String {
    match event {
        Event::GoalAccepted { goal, outputs, budget, principal, .. } => {
            let outputs = listed(outputs.iter().map(ToString::to_string));
            let goal = cut(goal, VALUE_CHARS);
            format!("\"{goal}\" for uid {principal}, at most {budget}, outputs {outputs}")
        }
        Event::GoalForked { from, at, .. } => format!("from goal {from} at entry {at}"),
        Event::GoalStarted { root_agent, workspace, .. } => {
            format!("root agent {}, workspace {}", names.of(root_agent), cut(workspace.as_str(), VALUE_CHARS))
        }
        Event::GoalFinished { state, outputs, usage, error, exit_code, .. } => {
            let observed = outputs.iter().filter(|output| output.observed).count();
            let why = error.as_deref().map(|why| format!(": {}", cut(why, REASON_CHARS))).unwrap_or_default();
            let (outputs, usage) = (outputs.len(), tokens(*usage));
            format!("{}, exit code {exit_code}, {observed} of {outputs} outputs, {usage}{why}", word(state))
        }
        _ => String::new(),
    }
}

fn agent(event: &Event, names: &Names) -> String {
    match event {
        Event::AgentSpawned { parent, depth, manifest, budget, .. } => {
            let parent = parent.as_ref().map_or("the operator".to_owned(), |id| names.of(id));
            let most =
                if *budget == Budget::default() { String::new() } else { format!(", at most {budget}") };
            format!("child of {parent}, depth {depth}, {}{most}", models(manifest))
        }
        Event::AgentStopped { end } => agent_end(end),
        Event::AgentExecutionStarted { message, .. } => format!("\"{}\"", cut(message, VALUE_CHARS)),
        Event::ModelClimbed { from, to, reason } => {
            format!("from model {from} to {to}: {}", climb_reason(*reason))
        }
        Event::AgentExecutionForked { .. } => {
            "with the conversation that its goal was forked with".to_owned()
        }
        Event::AgentExecutionCompleted { response, usage, iterations, stop_reason, error, .. } => {
            let said = error
                .as_deref()
                .map_or_else(|| format!("\"{}\"", cut(response, VALUE_CHARS)), |why| cut(why, REASON_CHARS));
            format!("{} after {iterations} turns, {}: {said}", word(stop_reason), tokens(*usage))
        }
        Event::AgentLoopStarted {} => "waits for messages".to_owned(),
        Event::AgentLoopStopped {} => "takes no more messages".to_owned(),
        Event::AgentRestarted { restarts, after, reason, fresh } => {
            let anew = if *fresh { ", with a new conversation" } else { "" };
            format!("restart {restarts}, after {}{anew}: {}", span(*after), cut(reason, REASON_CHARS))
        }
        Event::ScheduleFired { due } => format!("due at {}", instant(*due)),
        Event::ScheduleMissed { count, until } => format!("{count} due times until {}", instant(*until)),
        Event::AgentPaused {} => "takes no turn until it is resumed".to_owned(),
        Event::AgentResumed {} => "goes on".to_owned(),
        Event::MessageDelivered { message, from, .. } => {
            let sender = from.as_ref().map(|from| format!("from {}: ", names.of(from))).unwrap_or_default();
            format!("{sender}\"{}\"", cut(message, VALUE_CHARS))
        }
        Event::AgentMessageReceived {} => "taken from the mailbox".to_owned(),
        Event::MessageSent { to } => format!("to {}", names.of(to)),
        Event::SpawnRequested { child, .. } => format!("child {child}"),
        Event::SpawnCompleted { child, failure, .. } => match (child, failure) {
            (Some(child), _) => format!("child {}", names.of(child)),
            (None, Some(failure)) => format!("refused: {}", failure_words(failure)),
            (None, None) => "no child".to_owned(),
        },
        Event::ChildEnded { index, name, outcome, .. } => {
            let name = name.as_ref().map_or("with an unreadable manifest", |name| name.as_str());
            let failure = match outcome {
                Ok(output) => output.error.as_deref(),
                Err(failure) => Some(failure.message.as_str()),
            };
            match failure {
                None => format!("child {index}, {name}, succeeded"),
                Some(why) => format!("child {index}, {name}, failed: {}", cut(why, REASON_CHARS)),
            }
        }
        Event::ChildRetried { child, reason } => {
            format!("{} failed: {}", names.of(child), cut(reason, REASON_CHARS))
        }
        _ => String::new(),
    }
}

/// The models that an agent of this manifest asks.
pub(crate) fn models(manifest: &Manifest) -> String {
    match manifest.next_models.as_slice() {
        [] => format!("model {}", manifest.model),
        _ => {
            let names: Vec<&str> = manifest.models().map(ModelName::as_str).collect();
            format!("models {}", names.join(", "))
        }
    }
}

/// Why an agent asks its next model.
pub(crate) const fn climb_reason(reason: ClimbReason) -> &'static str {
    match reason {
        ClimbReason::Failed => "the run before failed",
        ClimbReason::Truncated => "the reply before was cut at its token limit",
        ClimbReason::RepeatGuard => "the model before made the same call again and again",
    }
}

fn capability(event: &Event) -> String {
    match event {
        Event::CapabilityGranted { grant } => {
            let spec = aaos_core::capability::GrantSpec {
                capability: grant.capability.clone(),
                constraints: grant.constraints,
            };
            let from =
                grant.parent.map_or("the operator's own".to_owned(), |parent| format!("from {parent}"));
            let special = grant
                .special
                .as_ref()
                .map(|special| format!("; {}", cut(&special.to_string(), REASON_CHARS)));
            let words = cut(&spec.to_string(), REASON_CHARS);
            format!("{words} ({}, {from}){}", grant.id, special.unwrap_or_default())
        }
        Event::CapabilityDenied { effect, denied, .. } => {
            format!("{} {}", cut(effect, VALUE_CHARS), denial(denied))
        }
        Event::DenialsSuppressed { count } => {
            format!("{count} more refused calls within the minute, not listed one by one")
        }
        Event::CapabilityRevoked { grant, principal, ended, cut } => {
            let (derived, calls) = (ended.len().saturating_sub(1), cut.len());
            format!(
                "grant {grant} and {derived} derived ones, by uid {principal}; {calls} calls in flight ended"
            )
        }
        _ => String::new(),
    }
}

fn tool(event: &Event) -> String {
    match event {
        Event::ToolInvoked { tool, input, call, .. } => format!("{tool} {} (call {call})", arguments(input)),
        Event::ToolResult { call, tool, outcome, result_bytes, failure, worker, elapsed, .. } => {
            let ran = worker.map_or("in the kernel".to_owned(), |worker| format!("worker {worker}"));
            let ended = result_words(*outcome, *result_bytes, failure.as_ref(), *elapsed);
            format!("{tool} {ended}, {ran} (call {call})")
        }
        Event::CallRefused { failure, .. } => format!("not begun: {}", failure_words(failure)),
        Event::ToolRepeatGuardFired { tool, count } => {
            format!("{tool} was called {count} times with the same input; a hint was added")
        }
        _ => String::new(),
    }
}

fn inference(event: &Event) -> String {
    match event {
        Event::InferenceRequested { model, messages, reserve, keeps, estimate, .. } => {
            let what = if keeps.is_some() { ", for a summary" } else { "" };
            let takes = estimate.map_or_else(String::new, |tokens| format!(" of about {tokens} tokens"));
            format!("model {model}{what}, {messages} messages{takes}, {reserve} tokens reserved")
        }
        Event::ContextSummarized { shortened } => went(shortened),
        Event::ContextSummarizationFailed { reason, message, shortened } => {
            let left = shortened.as_ref().map_or_else(|| "nothing was left out".to_owned(), went);
            format!("{}: {}; {left}", summary_fault(*reason), cut(message, REASON_CHARS))
        }
        Event::InferenceCompleted { result, attempts, elapsed, .. } => {
            let told = match result {
                Ok(reply) => reply_words(reply),
                Err(failure) => format!("failed: {}", model_failure(failure)),
            };
            format!("{told} in {}, attempt {attempts}", span(*elapsed))
        }
        Event::InferenceRetried { failure, instead: Some(model), .. } => {
            format!("model {model} instead: {}", model_failure(failure))
        }
        Event::InferenceRetried { failure, wait, .. } => {
            format!("again in {}: {}", span(*wait), model_failure(failure))
        }
        Event::UsageReported { usage, used } => format!("{}, {used} with its children", tokens(*usage)),
        Event::BudgetExceeded { quantity, wanted, remaining } => {
            format!("{} wanted, {} left", quantity.show(*wanted), quantity.show(*remaining))
        }
        Event::Overdraft { quantity, reserved, used } => {
            format!("{} used, {} reserved", quantity.show(*used), quantity.show(*reserved))
        }
        _ => String::new(),
    }
}

fn went(shortened: &Shortened) -> String {
    let Shortened { from_turn, to_turn, tokens_before, tokens_after, .. } = shortened;
    let what = if from_turn > to_turn {
        "only messages left the conversation".to_owned()
    } else {
        format!("turns {from_turn} to {to_turn} left the conversation")
    };
    format!("{what}: {tokens_before} tokens before, {tokens_after} now")
}

const fn summary_fault(fault: SummaryFault) -> &'static str {
    match fault {
        SummaryFault::LlmCallFailed => "the model could not be asked for a summary",
        SummaryFault::EmptyResponse => "the summary was empty",
        SummaryFault::BoundarySelection => "there is nothing that could be left out",
        SummaryFault::ReplyParseError => "the reply is no summary",
    }
}

fn far(event: &Event) -> String {
    match event {
        Event::WorkerStarted { worker, pid } => format!("worker {worker}, pid {pid}"),
        Event::ConfinementReceipt { receipt, role } => format!("{role} {}", receipt_words(receipt)),
        Event::ConfinementDegraded { worker, missing } => {
            format!("worker {worker} lacks {}", boundaries(missing))
        }
        Event::WorkerStopped { worker, reason, stderr_tail } => {
            let tail = if stderr_tail.is_empty() {
                String::new()
            } else {
                format!(": {}", cut(stderr_tail, VALUE_CHARS))
            };
            format!("worker {worker}, {}{tail}", cut(reason, VALUE_CHARS))
        }
        Event::NetworkFetched { url, final_url, bytes, .. } => {
            let moved = final_url.as_ref().filter(|last| *last != url);
            let moved = moved.map(|last| format!(" → {}", cut(last, VALUE_CHARS))).unwrap_or_default();
            format!("{}{moved}, {}", cut(url, VALUE_CHARS), size(bytes.0))
        }
        Event::ConnectionRequested { host, port, continues, .. } => {
            let again = if continues.is_some() { ", a further lease" } else { "" };
            format!("{}:{port}{again}", cut(host, VALUE_CHARS))
        }
        Event::ConnectionEnded { sent, received, failure, .. } => {
            let why = failure.as_ref().map(|one| format!(": {}", failure_words(one))).unwrap_or_default();
            format!("{} sent, {} received{why}", size(sent.0), size(received.0))
        }
        _ => String::new(),
    }
}

/// How a call ended, in words.
pub(crate) fn result_words(
    outcome: Outcome,
    bytes: Bytes,
    failure: Option<&ToolFailure>,
    elapsed: Millis,
) -> String {
    let told = failure.map(|failure| format!(": {}", failure_words(failure)));
    let told = told.unwrap_or_else(|| format!(", {}", size(bytes.0)));
    format!("{}{told} in {}", word(&outcome), span(elapsed))
}

/// A tool's failure, with its kind.
pub(crate) fn failure_words(failure: &ToolFailure) -> String {
    format!("{} ({})", cut(&failure.message, REASON_CHARS), word(&failure.kind))
}

/// A provider's failure, with its kind.
pub(crate) fn model_failure(failure: &ModelFailure) -> String {
    format!("{} ({})", cut(&failure.message, REASON_CHARS), word(&failure.kind))
}

/// A denial: what is missing, why, and what to do.
pub(crate) fn denial(denied: &Denied) -> String {
    let Denied { missing, reason, hint } = denied;
    let (missing, reason, hint) =
        (cut(missing, REASON_CHARS), cut(reason, REASON_CHARS), cut(hint, REASON_CHARS));
    format!("denied: {reason}; missing {missing}; {hint}")
}

/// Why an agent stopped, in words.
pub(crate) fn agent_end(end: &AgentEnd) -> String {
    match end {
        AgentEnd::Finished => "finished".to_owned(),
        AgentEnd::Stopped => "stopped".to_owned(),
        AgentEnd::Interrupted => "interrupted by a restart".to_owned(),
        AgentEnd::Failed { reason } => format!("failed: {}", cut(reason, REASON_CHARS)),
    }
}

/// Tokens used, in words.
pub(crate) fn tokens(usage: Usage) -> String {
    let cached = usage.cached_input_tokens.0;
    let cached = if cached == 0 { String::new() } else { format!(" ({cached} cached)") };
    format!("{} tokens in{cached} and {} out", usage.input_tokens, usage.output_tokens)
}

fn reply_words(reply: &ModelReply) -> String {
    let calls: Vec<String> = reply.calls.iter().map(|call| cut(&call.tool.0, VALUE_CHARS)).collect();
    let said = match calls.as_slice() {
        [] => format!("\"{}\"", cut(&reply.text, VALUE_CHARS)),
        calls => format!("calls {}", listed(calls.iter().cloned())),
    };
    format!("{said}, {}", tokens(reply.usage))
}

/// A receipt in one line: how many boundaries stand, and which do not.
pub(crate) fn receipt_words(receipt: &ConfinementReceipt) -> String {
    let of = |evidence| {
        receipt.boundaries.iter().filter(move |one| one.evidence == evidence).map(|one| one.boundary)
    };
    let named = |what: &str, evidence| {
        let found: Vec<Boundary> = of(evidence).collect();
        if found.is_empty() { String::new() } else { format!("; {what}: {}", boundaries(&found)) }
    };
    format!(
        "{} pid {}, Landlock ABI {}{}{}{}{}",
        receipt.worker,
        receipt.pid,
        receipt.landlock_abi,
        named("observed", Evidence::Observed),
        named("probed", Evidence::Probed),
        named("only reported", Evidence::Reported),
        named("missing", Evidence::Missing),
    )
}

/// A hash that may be absent.
pub(crate) fn hash_words(hash: &str) -> String {
    if hash.is_empty() { "none".to_owned() } else { cut(hash, REASON_CHARS) }
}

/// Boundaries by name.
pub(crate) fn boundaries(list: &[Boundary]) -> String {
    list.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// An output as it was found.
pub(crate) fn output(found: &OutputObserved) -> String {
    let path = cut(found.path.as_str(), REASON_CHARS);
    match (found.size_bytes, &found.problem) {
        (Some(bytes), None) if found.observed => format!("{path}  {}", size(bytes.0)),
        (_, problem) => {
            let why = problem.as_deref().unwrap_or("it was not observed");
            format!("{path}  missing: {}", cut(why, REASON_CHARS))
        }
    }
}

/// A call's arguments, short: texts cut, long ones counted.
pub(crate) fn arguments(input: &Value) -> String {
    let Value::Object(members) = input else { return argument(input) };
    let shown: Vec<String> = members
        .iter()
        .filter(|(_, value)| !value.is_null() && **value != Value::Bool(false))
        .map(|(name, value)| format!("{}={}", cut(name, VALUE_CHARS), argument(value)))
        .collect();
    shown.join(" ")
}

fn argument(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() > COUNTED_BYTES || text.contains('\n') => {
            format!("({} characters)", text.chars().count())
        }
        Value::String(text) => format!("\"{}\"", cut(text, VALUE_CHARS)),
        Value::Array(items) => listed(items.iter().map(argument)),
        Value::Object(members) => format!("{{{} members}}", members.len()),
        other => cut(&other.to_string(), VALUE_CHARS),
    }
}

fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(SHOWN_ITEMS);
    let mut shown: Vec<String> = items.take(SHOWN_ITEMS).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    if shown.is_empty() { "none".to_owned() } else { format!("[{}]", shown.join(", ")) }
}

/// The word under which a plain enum is stored.
pub(crate) fn word<T: Serialize + std::fmt::Debug>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => cut(&format!("{value:?}"), VALUE_CHARS),
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
pub(crate) mod tests;
