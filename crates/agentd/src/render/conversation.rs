//! An agent's conversation as lines of JSON: what it was asked, what its model replied, what its calls gave.
//!
//! Invariants: each line follows from entries alone; results stand below the reply that asked for them, under the
//! same ids; a call bears the id under which the runtime kept it, also where the provider gave it none or one twice.

use std::collections::HashMap;

use aaos_agent::failure_json;
use aaos_core::event::{Entry, Event, Outcome, Shortened};
use aaos_core::id::{CallId, Seq};
use aaos_core::model::{ModelCallId, RawArguments, RequestedTool, Usage};
use aaos_core::quantity::Timestamp;
use serde::Serialize;

/// One line. `seq` and `at` are those of the entry that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub(crate) enum Line {
    /// A message to the agent.
    User { seq: Seq, at: Timestamp, text: String },
    /// A reply of its model.
    Assistant {
        seq: Seq,
        at: Timestamp,
        text: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning: Option<String>,
        calls: Vec<Call>,
        usage: Usage,
    },
    /// What one of the calls gave.
    ToolResult {
        seq: Seq,
        at: Timestamp,
        /// Id of the call.
        call: ModelCallId,
        outcome: Outcome,
        /// The result's JSON text; `{"error":…}` of a call that was not done.
        content: String,
    },
    /// What stands from here on in the place of these turns of the model.
    Summary {
        seq: Seq,
        at: Timestamp,
        from_turn: u64,
        to_turn: u64,
        /// Absent where no model made one.
        text: Option<String>,
    },
}

/// A call that a reply asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Call {
    pub(crate) id: ModelCallId,
    pub(crate) tool: RequestedTool,
    pub(crate) arguments: RawArguments,
}

/// Makes the lines of one agent from its entries.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// The last reply, and below it what its calls gave so far.
    turn: Vec<Line>,
    /// The calls of that turn that were begun or refused.
    asked: Vec<ModelCallId>,
    /// Calls of the turns before it, where the conversation is known from its beginning.
    made: Option<u64>,
    begun: HashMap<CallId, ModelCallId>,
    /// The request for a summary that was made last: its reply is no turn.
    summary: Option<CallId>,
}

impl Conversation {
    /// Takes the agent's next entry; the lines that are complete with it.
    pub(crate) fn take(&mut self, entry: &Entry) -> Vec<Line> {
        let (seq, at) = (entry.seq, entry.timestamp);
        match &entry.event {
            Event::AgentExecutionStarted { message, kept, .. } => {
                let mut lines = self.finish();
                self.made = Some(kept.calls);
                lines.push(Line::User { seq, at, text: message.clone() });
                lines
            }
            Event::InferenceRequested { call, keeps: Some(_), .. } => {
                self.summary = Some(*call);
                Vec::new()
            }
            Event::InferenceCompleted { call, .. } if self.summary == Some(*call) => Vec::new(),
            Event::ContextSummarized { shortened }
            | Event::ContextSummarizationFailed { shortened: Some(shortened), .. } => {
                let mut lines = self.finish();
                let Shortened { opening, from_turn, to_turn, .. } = shortened;
                let (text, from_turn, to_turn) = (opening.summary.clone(), *from_turn, *to_turn);
                lines.push(Line::Summary { seq, at, from_turn, to_turn, text });
                lines
            }
            Event::InferenceCompleted { result: Ok(reply), .. } => {
                let lines = self.finish();
                let calls = reply.calls.iter().map(|call| Call {
                    id: call.id.clone(),
                    tool: call.tool.clone(),
                    arguments: call.arguments.clone(),
                });
                self.turn.push(Line::Assistant {
                    seq,
                    at,
                    text: reply.text.clone(),
                    reasoning: reply.thoughts(),
                    calls: calls.collect(),
                    usage: reply.usage,
                });
                lines
            }
            Event::ToolInvoked { call, model_call: Some(asked), .. } => {
                self.asks(asked);
                self.begun.insert(*call, asked.clone());
                Vec::new()
            }
            Event::ToolResult { call, outcome, result, failure, .. } => {
                if let Some(call) = self.begun.remove(call) {
                    let content =
                        failure.as_ref().map_or_else(|| result.clone().unwrap_or_default(), failure_json);
                    self.turn.push(Line::ToolResult { seq, at, call, outcome: *outcome, content });
                }
                Vec::new()
            }
            Event::CallRefused { model_call, failure, .. } => {
                self.asks(model_call);
                let (call, outcome, content) = (model_call.clone(), failure.outcome(), failure_json(failure));
                self.turn.push(Line::ToolResult { seq, at, call, outcome, content });
                Vec::new()
            }
            Event::AgentExecutionCompleted { .. } => self.finish(),
            _ => Vec::new(),
        }
    }

    fn asks(&mut self, call: &ModelCallId) {
        // One that a restart cut short may be begun again.
        if !self.asked.contains(call) {
            self.asked.push(call.clone());
        }
    }

    /// The lines of the turn that is going on: nothing more of it comes.
    pub(crate) fn finish(&mut self) -> Vec<Line> {
        self.begun.clear();
        let asked = std::mem::take(&mut self.asked);
        let mut lines = std::mem::take(&mut self.turn);
        let Some(Line::Assistant { calls, .. }) = lines.first_mut() else { return lines };
        // Calls have their numbers in the reply's order, in whatever order they were begun. Of a conversation that was
        // taken over only the numbers themselves tell where its first turn begins.
        let lowest = asked.iter().filter_map(ModelCallId::number).min();
        let Some(first) = lowest.map(|lowest| self.made.map_or(lowest, |made| made.saturating_add(1))) else {
            return lines;
        };
        for (call, number) in calls.iter_mut().zip(first..) {
            let id = ModelCallId::numbered(number);
            if asked.contains(&id) {
                call.id = id;
            }
        }
        self.made = Some(first.saturating_sub(1).saturating_add(calls.len() as u64));
        lines
    }
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
