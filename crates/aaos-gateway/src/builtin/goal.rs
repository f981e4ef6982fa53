//! Reads a goal into a plan, or says why it cannot.
//!
//! Invariant: a plan never drops part of a goal silently; work, exclusions, languages and formats that the
//! planner does not offer are errors.

use serde::{Deserialize, Serialize};

use super::lexicon;
use super::phrase::{Pattern, Special};
use super::scan::{self, Found};
use super::tokens;

/// Most inputs and outputs in one goal.
const MAX_INPUTS: usize = 16;
const MAX_OUTPUTS: usize = 4;
/// Longest goal read, in bytes.
const MAX_GOAL_BYTES: usize = 16 * 1024;

/// What the found text is turned into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    /// The central sentences.
    Summarise,
    /// What differs between the inputs.
    Compare,
    /// Passages that fit a topic.
    Extract(Topic),
    /// Names and sizes of files.
    List,
    /// Lines that match a pattern.
    Search(Pattern),
}

/// What to extract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Topic {
    /// Passages with these words.
    Words(Vec<String>),
    /// Passages of a recognisable shape.
    Special(Special),
}

/// Something to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// A path as written.
    Path(String),
    /// A URL as written.
    Url(String),
}

/// A goal, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// What to do.
    pub(super) act: Act,
    /// What to read, in the goal's order, without duplicates.
    pub(super) inputs: Vec<Input>,
    /// Where to write, as written; empty for an answer in text.
    pub(super) outputs: Vec<String>,
    /// File extensions that directories are limited to; empty for all.
    pub(super) only: Vec<String>,
    /// How many sentences were asked for.
    pub(super) limit: Option<usize>,
    /// Wishes that are not kept, to be told with the result.
    pub(super) remarks: Vec<String>,
}

/// Why a goal is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum GoalError {
    #[error("the goal is empty")]
    Empty,
    #[error("the goal is longer than {MAX_GOAL_BYTES} bytes")]
    TooLong,
    #[error("it names no file, directory or URL to read")]
    NoInput,
    #[error("it names more than {MAX_INPUTS} inputs or {MAX_OUTPUTS} outputs")]
    TooMany,
    #[error("it says neither to read, fetch, list, search, summarise, compare nor extract")]
    NoAct,
    #[error("{word:?} is work that needs a language model")]
    ForeignWork { word: String },
    #[error("{word:?} restricts the work in a way that it cannot promise to keep")]
    Exclusion { word: String },
    #[error("it cannot answer in {word:?}: it only quotes its inputs")]
    Language { word: String },
    #[error("it cannot produce {object:?}, only a summary, comparison, extract, list or matches")]
    ForeignObject { object: String },
    #[error("it does not say what to search for; put the text in quotation marks")]
    NoPattern,
    #[error("it does not say what to extract, as in: extract the sentences about budgets from ./a.md")]
    NoTopic,
    #[error("{url:?} is not an http or https URL")]
    Scheme { url: String },
    #[error("{url:?} stands where the output path is expected; nothing can be written to a URL")]
    UrlOutput { url: String },
    #[error("{path:?}: write the full path instead of '~'")]
    HomePath { path: String },
    #[error("{path:?} holds a glob that cannot be granted; name the directory, or use ./dir/*.ext")]
    Glob { path: String },
    #[error("{path:?}: it writes Markdown text, so the output must end in .md or .txt")]
    Format { path: String },
    #[error("it asks for {count} different results; give each its own goal")]
    SeveralResults { count: usize },
    #[error("listing works on directories and files, not on URLs")]
    ListUrl,
}

/// Reads a goal.
pub(super) fn read(goal: &str) -> Result<Plan, GoalError> {
    if goal.trim().is_empty() {
        return Err(GoalError::Empty);
    }
    if goal.len() > MAX_GOAL_BYTES {
        return Err(GoalError::TooLong);
    }
    let tokens = tokens::tokens(goal);
    let found = scan::scan(&tokens)?;
    plan(found)
}

fn plan(found: Found) -> Result<Plan, GoalError> {
    if found.inputs.is_empty() {
        return Err(if found.said_anything() { GoalError::NoInput } else { GoalError::NoAct });
    }
    if found.inputs.len() > MAX_INPUTS || found.outputs.len() > MAX_OUTPUTS {
        return Err(GoalError::TooMany);
    }
    for output in &found.outputs {
        check_output(output)?;
    }
    for input in &found.inputs {
        check_input(input)?;
    }
    let results = found.results();
    if found.outputs.len() > 1 && results > 1 {
        return Err(GoalError::SeveralResults { count: results });
    }
    let urls = found.inputs.iter().any(|input| matches!(input, Input::Url(_)));
    let act = act(&found, urls)?;
    if act == Act::List && urls {
        return Err(GoalError::ListUrl);
    }
    assert!(!found.inputs.is_empty(), "a plan has something to read");
    let Found { inputs, outputs, only, limit, remarks, .. } = found;
    Ok(Plan { act, inputs, outputs, only, limit, remarks })
}

/// The one act of the goal: the most specific that it mentions.
fn act(found: &Found, urls: bool) -> Result<Act, GoalError> {
    if let Some(pattern) = &found.pattern {
        // A page cannot be searched by `grep`; its passages with these words can be extracted.
        return Ok(if urls {
            Act::Extract(Topic::Words(pattern.alternatives.clone()))
        } else {
            Act::Search(pattern.clone())
        });
    }
    if found.says.compare {
        return Ok(Act::Compare);
    }
    if let Some(topic) = &found.topic {
        return Ok(Act::Extract(topic.clone()));
    }
    if found.says.summary {
        return Ok(Act::Summarise);
    }
    match &found.says {
        says if says.list => Ok(Act::List),
        says if says.search => Err(GoalError::NoPattern),
        says if says.extract => Err(GoalError::NoTopic),
        says if says.read || says.write => Ok(Act::Summarise),
        _ => Err(GoalError::NoAct),
    }
}

fn check_input(input: &Input) -> Result<(), GoalError> {
    match input {
        Input::Url(url) => {
            let lower = url.to_lowercase();
            if lower.starts_with("http://") || lower.starts_with("https://") {
                Ok(())
            } else {
                Err(GoalError::Scheme { url: url.clone() })
            }
        }
        Input::Path(path) => check_path(path),
    }
}

fn check_path(path: &str) -> Result<(), GoalError> {
    if path.starts_with('~') {
        return Err(GoalError::HomePath { path: path.to_owned() });
    }
    if path.contains(['*', '?', '[']) {
        return Err(GoalError::Glob { path: path.to_owned() });
    }
    Ok(())
}

/// Refuses an output whose name promises another format than Markdown text.
pub(super) fn check_output(path: &str) -> Result<(), GoalError> {
    check_path(path)?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.trim_start_matches('.').rsplit_once('.').map(|(_, end)| end.to_lowercase());
    match extension.as_deref() {
        None | Some("md" | "markdown" | "txt" | "text") => Ok(()),
        Some(end) if !lexicon::is_extension(end) => Ok(()),
        Some(_) => Err(GoalError::Format { path: path.to_owned() }),
    }
}
