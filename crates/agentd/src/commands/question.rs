//! A question to a person: how it is shown, what may be answered, and what is sent to the daemon.
//!
//! Invariants: nothing but a plain yes, or a scope that was spelt out, approves; a question's text, which an agent
//! wrote, never drives the terminal.

use aaos_core::approval::Target;
use aaos_core::id::ApprovalId;
use aaos_core::path::{AbsPath, PathPattern};
use aaos_runtime::{ApprovalInForce, ApprovalView};
use serde::{Deserialize, Serialize};

use crate::exit::UsageError;
use crate::render::text::{REASON_CHARS, VALUE_CHARS, block, cut, instant, line};

/// What can be typed.
const CHOICES: &str = "approve? [y]es once, [n]o (n REASON), [s]cope, [d]etails, [l]ater, [q]uit asking: ";
const PLACE: &str = "below which path, for example /out/* (Enter: anywhere): ";
const USES: &str = "how many uses, this one included (Enter: 1): ";

/// `approval.list`.
#[derive(Debug, Deserialize)]
pub(super) struct Pending {
    pub(super) pending: Vec<ApprovalView>,
    /// What was approved and has uses left.
    pub(super) in_force: Vec<ApprovalInForce>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Approve,
    Deny,
}

/// More than the very call that was asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Scope {
    /// Where the files have to lie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) below: Option<String>,
    /// How often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uses: Option<u32>,
    /// For every agent of the goal.
    pub(super) for_goal: bool,
}

/// What a person decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// This very call.
    Once,
    /// More calls like it.
    Scoped(Scope),
    /// Not at all.
    Deny,
}

impl Answer {
    /// What is said once the daemon has taken it.
    pub(super) fn done(&self) -> String {
        match self {
            Self::Once => "approved".to_owned(),
            Self::Deny => "denied".to_owned(),
            Self::Scoped(Scope { below, uses, for_goal }) => {
                let below =
                    below.as_deref().map(|below| format!(" below {}", line(below))).unwrap_or_default();
                let whose = if *for_goal { ", by every agent of the goal" } else { "" };
                format!("approved for {} uses{below}{whose}", uses.unwrap_or(1))
            }
        }
    }
}

/// `approval.respond`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Respond {
    id: ApprovalId,
    decision: Decision,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
}

impl Respond {
    /// The answer to one question.
    pub(super) fn new(id: ApprovalId, answer: &Answer, reason: Option<String>) -> Self {
        let (decision, scope) = match answer {
            Answer::Once => (Decision::Approve, None),
            Answer::Scoped(scope) => (Decision::Approve, Some(scope.clone())),
            Answer::Deny => (Decision::Deny, None),
        };
        Self { id, decision, reason, scope }
    }
}

/// A pattern as the daemon takes it: below `directory` where it is relative.
///
/// # Errors
/// [`UsageError`] for what is no pattern.
pub(super) fn place(text: &str, directory: &AbsPath) -> Result<String, UsageError> {
    let whole = if text.starts_with('/') { text.to_owned() } else { format!("{directory}/{text}") };
    let parsed = PathPattern::parse(&whole);
    let why =
        |error| UsageError(format!("{:?} is no place: {error}; for example /out/*", cut(text, VALUE_CHARS)));
    parsed.map(|pattern| pattern.to_string()).map_err(why)
}

/// What comes after a line was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask on; with what was wrong with the line, if anything.
    Ask(Option<String>),
    /// The answer, with its reason.
    Answer(Answer, Option<String>),
    /// Everything about the question, then the same again.
    Details,
    /// No answer now.
    Later,
    /// No answers at all.
    Quit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Choice,
    Place,
    Uses { below: Option<String> },
}

/// The talk about one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dialogue {
    stage: Stage,
    directory: AbsPath,
}

impl Dialogue {
    /// One that has not begun; relative paths start at `directory`.
    pub(super) fn new(directory: AbsPath) -> Self {
        Self { stage: Stage::Choice, directory }
    }

    /// What to ask next.
    pub(super) const fn prompt(&self) -> &'static str {
        match self.stage {
            Stage::Choice => CHOICES,
            Stage::Place => PLACE,
            Stage::Uses { .. } => USES,
        }
    }

    /// Takes a line.
    pub(super) fn take(&mut self, typed: &str) -> Step {
        let typed = typed.trim();
        match std::mem::replace(&mut self.stage, Stage::Choice) {
            Stage::Choice => self.choice(typed),
            Stage::Place if typed.is_empty() => self.go_on(Stage::Uses { below: None }),
            Stage::Place => match place(typed, &self.directory) {
                Ok(below) => self.go_on(Stage::Uses { below: Some(below) }),
                Err(why) => Step::Ask(Some(why.to_string())),
            },
            Stage::Uses { below } => {
                let uses = if typed.is_empty() { Ok(1) } else { typed.parse::<u32>() };
                match uses {
                    Ok(uses) if uses > 0 => {
                        Step::Answer(Answer::Scoped(Scope { below, uses: Some(uses), for_goal: false }), None)
                    }
                    Ok(_) | Err(_) => Step::Ask(Some("a number from 1 is wanted".to_owned())),
                }
            }
        }
    }

    fn choice(&mut self, typed: &str) -> Step {
        let (word, rest) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
        let reason = Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty());
        match (word.to_ascii_lowercase().as_str(), reason) {
            ("y" | "yes", None) => Step::Answer(Answer::Once, None),
            ("n" | "no", reason) => Step::Answer(Answer::Deny, reason),
            ("s" | "scope", None) => self.go_on(Stage::Place),
            ("d" | "details", None) => Step::Details,
            ("l" | "later", None) => Step::Later,
            ("q" | "quit", None) => Step::Quit,
            _ => Step::Ask(Some("y, n, s, d, l or q is wanted".to_owned())),
        }
    }

    fn go_on(&mut self, stage: Stage) -> Step {
        self.stage = stage;
        Step::Ask(None)
    }
}

/// Everything that the daemon says of a question.
pub(super) fn details(asked: &ApprovalView) -> Vec<String> {
    let goal = asked.goal_id.map(|goal| format!(", goal {goal}")).unwrap_or_default();
    let mut lines = vec![
        format!("approval {}", asked.id),
        format!("  who      agent {} ({}){goal}", asked.agent_name, asked.agent_id),
        format!("  what     {}", line(&asked.description)),
        format!("  why      {}", line(&asked.because)),
    ];
    match &asked.input {
        Some(input) => {
            let pretty = format!("{input:#}");
            lines.push(format!("  input    {}", block(&pretty).replace('\n', "\n           ")));
        }
        None => lines.push(format!(
            "  input    too long for this list; `agentd audit --agent {} --kind human_approval_requested --json` \
             shows it",
            asked.agent_id
        )),
    }
    lines.extend(asked.grants.iter().map(|grant| format!("  grant    {}", line(grant))));
    lines.extend(asked.targets.iter().map(target));
    lines.push(format!(
        "  asked    {}, denied unless answered by {}",
        instant(asked.timestamp),
        instant(asked.deadline)
    ));
    lines
}

/// What stands where a file would be changed.
fn target(target: &Target) -> String {
    let leads = if target.place == target.path {
        String::new()
    } else {
        format!(", in fact {}", line(&target.place))
    };
    let holds = match &target.content_hash {
        Some(hash) => format!("holds {}", cut(hash, REASON_CHARS)),
        None => "nothing stands there".to_owned(),
    };
    format!("  target   {}{leads}: {holds}", line(&target.path))
}

#[cfg(test)]
#[path = "question_tests.rs"]
pub(crate) mod tests;
