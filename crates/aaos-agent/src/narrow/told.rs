//! What a small model is told: results as plain text, and at the step that decides what is to be done now.
//!
//! Invariants: what stands for a message follows from the messages up to it and from what never changes about the agent,
//! so that prompts only grow; what somebody else wrote stands between labels, and nothing in it reads as one.

use aaos_core::model::{CallResult, Message, ModelRequest};
use aaos_core::toolio::{FileListOutput, FileReadOutput, SpawnAgentOutput, WebFetchOutput};
use serde::de::DeserializeOwned;

use super::words::without_facts;
use super::{Ground, MAX_GOAL_SHARE, Step, WRITES};
use crate::wrap::plain_result;

/// The conversation as it is shown.
pub(super) fn told(request: &ModelRequest, ground: &Ground) -> Vec<Message> {
    let mut told = Vec::new();
    for (at, message) in request.messages.iter().enumerate() {
        match message {
            Message::User { text } => told.push(Message::User { text: without_facts(text) }),
            Message::Assistant { .. } => told.push(message.clone()),
            Message::ToolResults { results } => {
                told.push(Message::ToolResults { results: results.iter().map(shown).collect() });
                let step = Step::of(&request.messages[..=at], &request.tools, ground);
                told.extend(step.hint(request).map(|text| Message::User { text }));
            }
        }
    }
    told
}

impl Step<'_> {
    /// What is to be done now, with the goal's words again: small models forget what stands far above.
    fn hint(&self, request: &ModelRequest) -> Option<String> {
        if self.past.is_shortened() {
            return None;
        }
        let narrowed = self.narrowed(&self.tools(&request.tools));
        let most = usize::try_from(self.ground.window.0 / MAX_GOAL_SHARE).unwrap_or(usize::MAX);
        let goal = &self.words.text;
        let goal = if goal.len() > most { "as it stands above" } else { goal };
        let is_write = |tool: &str| WRITES.contains(&tool);
        let writes = narrowed.calls.iter().any(|call| is_write(call.tool.as_str()));
        let has_written = self.past.any_succeeded(&WRITES);
        if writes && !narrowed.may_answer {
            let what = match self.delegates {
                true => "from what the children answered",
                false => "from what stands above",
            };
            let is_json = self.outputs.iter().any(|path| path.as_str().ends_with(".json"));
            let form = if is_json { "JSON alone" } else { "the finished text that the goal asks for" };
            return Some(format!(
                "Your goal: {goal}\nEverything is read. Now write the file. Its content is {form}, made {what}: no \
                 explanation, nothing that the goal does not ask for."
            ));
        }
        let now = match has_written {
            true => "The file is written. Now end with a short answer of one sentence.",
            false => "Now give the answer that it asks for, in a short sentence, from what stands above.",
        };
        narrowed.calls.is_empty().then(|| format!("Your goal: {goal}\n{now}"))
    }
}

/// A result as plain text, where it holds one.
fn shown(result: &CallResult) -> CallResult {
    let plain = |json: &str| match result.tool.0.as_str() {
        "file_read" => field(json, |read: FileReadOutput| read.content),
        "web_fetch" => field(json, |page: WebFetchOutput| page.body),
        "spawn_agent" => field(json, |child: SpawnAgentOutput| child.response),
        "file_list" => field(json, |listing: FileListOutput| {
            let names = listing.entries.iter().map(|entry| format!("{}\n", entry.name));
            names.collect()
        }),
        _ => None,
    };
    let is_plain = !result.is_error;
    let content = is_plain.then(|| plain_result(&result.content, plain)).flatten();
    CallResult { content: content.unwrap_or_else(|| result.content.clone()), ..result.clone() }
}

fn field<T: DeserializeOwned>(json: &str, text: impl Fn(T) -> String) -> Option<String> {
    serde_json::from_str(json).ok().map(text).filter(|text| !text.trim().is_empty())
}
