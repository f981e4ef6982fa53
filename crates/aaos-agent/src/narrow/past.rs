//! What a run has done so far, as its conversation tells it.
//!
//! Invariant: results are data: what is read here are the fields of a tool's own result, never its prose.

use aaos_core::model::{CallResult, Message, ModelCall};
use aaos_core::path::AbsPath;
use aaos_core::toolio::{FileKind, FileListOutput, GrepOutput, ToolFailure, ToolFailureKind};
use serde::Deserialize;

use crate::opening::NOTE;

/// Most entries of directories that are looked at.
const MAX_ENTRIES: usize = 256;

/// A call that has its result.
#[derive(Debug)]
struct Done {
    call: ModelCall,
    is_error: bool,
    result: String,
}

/// All that a run did since its message.
#[derive(Debug, Default)]
pub(super) struct Past {
    done: Vec<Done>,
    is_shortened: bool,
}

/// The arguments that are looked at.
#[derive(Debug, Default, Deserialize)]
struct Arguments {
    path: Option<String>,
    #[serde(default)]
    paths: Vec<String>,
    url: Option<String>,
    manifest: Option<String>,
}

impl Done {
    fn is(&self, tools: &[&str]) -> bool {
        tools.contains(&self.call.tool.0.as_str())
    }

    fn names(&self, subject: &str) -> bool {
        let arguments: Arguments = serde_json::from_str(&self.call.arguments.0).unwrap_or_default();
        let Arguments { path, paths, url, manifest } = arguments;
        [path, url, manifest].into_iter().flatten().chain(paths).any(|one| one == subject)
    }
}

impl Past {
    /// Of the run that the newest message began.
    pub(super) fn of(messages: &[Message]) -> Self {
        let begins = messages.iter().rposition(|one| matches!(one, Message::User { .. })).unwrap_or(0);
        let mut done = Vec::new();
        let mut open: &[ModelCall] = &[];
        let is_note = |text: &String| text.lines().any(|line| line.starts_with(NOTE));
        let is_shortened = matches!(messages.get(begins), Some(Message::User { text }) if is_note(text));
        for message in &messages[begins..] {
            match message {
                Message::User { .. } => {}
                Message::Assistant { calls, .. } => open = calls,
                Message::ToolResults { results } => {
                    done.extend(open.iter().filter_map(|call| done_by(call, results)));
                }
            }
        }
        Self { done, is_shortened }
    }

    /// Whether older calls may be gone.
    pub(super) fn is_shortened(&self) -> bool {
        self.is_shortened
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> usize {
        self.done.len()
    }

    /// How often one of these tools was called.
    pub(super) fn calls_of(&self, tools: &[&str]) -> usize {
        self.done.iter().filter(|one| one.is(tools)).count()
    }

    /// Whether one of these tools was called on a path, a URL or with a manifest, whatever came of it.
    pub(super) fn tried(&self, tools: &[&str], subject: &str) -> bool {
        self.done.iter().any(|one| one.is(tools) && one.names(subject))
    }

    /// Whether it was, and succeeded.
    pub(super) fn succeeded(&self, tools: &[&str], subject: &str) -> bool {
        self.ended_well(tools).any(|one| one.names(subject))
    }

    /// Whether any call of one of these tools succeeded.
    pub(super) fn any_succeeded(&self, tools: &[&str]) -> bool {
        self.ended_well(tools).next().is_some()
    }

    /// How often it failed.
    pub(super) fn failures(&self, tools: &[&str], subject: &str) -> usize {
        self.done.iter().filter(|one| one.is(tools) && one.is_error && one.names(subject)).count()
    }

    /// Whether a call of one of these tools found that there is nothing at a path.
    pub(super) fn lacks(&self, tools: &[&str], path: &str) -> bool {
        #[derive(Deserialize)]
        struct Told {
            error: ToolFailure,
        }
        let is_missing = |one: &Done| {
            serde_json::from_str(&one.result)
                .is_ok_and(|told: Told| told.error.kind == ToolFailureKind::NotFound)
        };
        let mut failed = self.done.iter().filter(|one| one.is(tools) && one.is_error && one.names(path));
        failed.any(is_missing)
    }

    /// What a path turned out to be.
    pub(super) fn kind_of(&self, path: &AbsPath) -> Option<FileKind> {
        self.listings().find(|listing| listing.path == *path).map(|listing| listing.kind)
    }

    /// What lies in a directory that was listed: files and directories, as far as they can be named.
    pub(super) fn entries_of(&self, directory: &AbsPath) -> Vec<(AbsPath, FileKind)> {
        let listing = self.listings().find(|one| one.path == *directory && one.kind == FileKind::Directory);
        let entries = listing.map(|one| one.entries).unwrap_or_default();
        let named = |entry: aaos_core::toolio::ListEntry| {
            // A pattern would be a grant of more than the one file that it names.
            let is_odd = |one: char| one.is_control() || ['\u{fffd}', '/', '*', '?', '['].contains(&one);
            let is_plain = !entry.name.starts_with('.') && !entry.name.contains(is_odd);
            let path = AbsPath::parse(&format!("{directory}/{}", entry.name)).ok()?;
            is_plain.then_some((path, entry.kind))
        };
        entries.into_iter().filter_map(named).take(MAX_ENTRIES).collect()
    }

    /// Everything that listings and searches brought up.
    pub(super) fn seen(&self) -> Vec<(AbsPath, FileKind)> {
        let listed = self.listings().flat_map(|listing| self.entries_of(&listing.path));
        let matched = self.results::<GrepOutput>("grep").flat_map(|found| found.matches);
        let matched = matched.filter_map(|one| Some((AbsPath::parse(&one.path).ok()?, FileKind::File)));
        let mut seen: Vec<(AbsPath, FileKind)> = Vec::new();
        for one in listed.chain(matched) {
            if seen.len() < MAX_ENTRIES && !seen.contains(&one) {
                seen.push(one);
            }
        }
        seen
    }

    fn listings(&self) -> impl Iterator<Item = FileListOutput> {
        self.results("file_list")
    }

    fn results<T: serde::de::DeserializeOwned>(&self, tool: &'static str) -> impl Iterator<Item = T> {
        let fitting = |one: &Done| serde_json::from_str(&one.result).ok();
        self.done.iter().filter(move |one| one.is(&[tool]) && !one.is_error).filter_map(fitting)
    }

    /// The calls of these tools that succeeded.
    fn ended_well(&self, tools: &[&str]) -> impl Iterator<Item = &Done> {
        self.done.iter().filter(move |one| one.is(tools) && !one.is_error)
    }
}

/// A call with its result, if it has one: the line that stands between the label's two.
fn done_by(call: &ModelCall, results: &[CallResult]) -> Option<Done> {
    let result = results.iter().find(|result| result.id == call.id)?;
    let text = result.content.lines().nth(1).unwrap_or_default().to_owned();
    Some(Done { call: call.clone(), is_error: result.is_error, result: text })
}
