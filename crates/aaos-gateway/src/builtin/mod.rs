//! The embedded provider `builtin`: a deterministic planner that serves aaOS without any language model.
//!
//! Invariants: [`answer`] is a pure function of the request; where it stands is derived from the
//! conversation each time. Only the operator's words before the runtime's facts are a goal, only the first
//! line of a system prompt is a role; file, page and findings text is never either.

mod bootstrap;
mod conversation;
mod facts;
mod findings;
mod gather;
mod goal;
mod lexicon;
mod phrase;
mod reader;
mod scan;
mod task;
mod text;
mod tokens;
mod views;
mod writer;

#[cfg(test)]
mod tests;

use aaos_core::model::{ModelFailure, ModelFailureKind, ModelReply, ModelRequest};

use conversation::{Conversation, Step};
use task::Role;

/// First line of everything that the planner says to an operator.
const BANNER: &str = "aaOS builtin planner (deterministic, not a language model).";

const SHAPES: &str = "It understands goals of these shapes, with any paths and URLs:\n\
    - Read the files in ./docs and write a summary to ./output/summary.md\n\
    - Fetch http://127.0.0.1:8080/page and write a summary to ./output/page.md\n\
    - List the files in ./src and write the list to ./output/list.md\n\
    - Search for \"TODO\" in ./src and write the matches to ./output/todo.md\n\
    - Compare ./a.md and ./b.md and write the differences to ./output/diff.md\n\
    - Extract the sentences about budgets from ./docs and write them to ./output/budgets.md\n\
    Without an output path the answer is text. For any other goal configure a language model: export \
    DEEPSEEK_API_KEY, ANTHROPIC_API_KEY or OPENAI_API_KEY, or OPENAI_BASE_URL for a local server, and run \
    again.";

/// Why there is no step.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// The goal is not one that the planner can serve.
    NotUnderstood(String),
    /// The goal is understood, but work on it failed.
    Failed(String),
}

/// Answers one request of the provider `builtin`.
///
/// # Errors
/// [`ModelFailureKind::NotUnderstood`] for a goal that the planner cannot read or that lacks a grant,
/// [`ModelFailureKind::WorkFailed`] when work on it failed. Neither is worth asking again.
pub(crate) fn answer(request: &ModelRequest) -> Result<ModelReply, ModelFailure> {
    let Some(conversation) = Conversation::read(request) else {
        return Err(failure(Stop::NotUnderstood("the request holds no message".to_owned())));
    };
    let step = match Role::of_prompt(&request.system) {
        Some(role) => child(role, &conversation),
        None => bootstrap::step(&conversation),
    };
    step.map(|step| conversation.reply(step)).map_err(failure)
}

fn child(role: Role, conversation: &Conversation<'_>) -> Result<Step, Stop> {
    match role {
        Role::Reader | Role::Fetcher | Role::Searcher => gather::step(conversation),
        Role::Writer => writer::step(conversation),
    }
}

fn failure(stop: Stop) -> ModelFailure {
    let (kind, message) = match stop {
        Stop::NotUnderstood(reason) => (
            ModelFailureKind::NotUnderstood,
            format!("{BANNER}\nIt cannot serve this goal: {reason}.\n{SHAPES}"),
        ),
        Stop::Failed(reason) => (ModelFailureKind::WorkFailed, format!("{BANNER}\n{reason}")),
    };
    assert!(!kind.is_transient(), "a deterministic failure is not worth asking again");
    ModelFailure { kind, message, retry_after: None }
}
