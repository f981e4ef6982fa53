//! The goals: what is asked, on which files and pages, and what a machine must find afterwards.
//!
//! Invariants: a field that is not known is an error, and so is an outcome that asks for nothing; each goal brings an
//! end that meets it and at least one that does not, so that its checks can be checked.

use crate::folder::Folder;
use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Where they lie in a checkout.
pub(crate) const GOALS: &str = "xtask/goals";
/// In a goal's words: the address of its pages.
const PAGE: &str = "{page}";

/// What a goal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A file is read and a question answered.
    Answer,
    /// A file is read and another one written.
    Write,
    /// What a file holds is counted, sorted, extracted or replaced.
    Transform,
    /// A file becomes JSON.
    Json,
    /// Several files, or a directory.
    Several,
    /// A page is fetched.
    Page,
    /// A page and a file belong together.
    PageAndFile,
    /// One child does the reading.
    Child,
    /// Two children do.
    Children,
    /// What one run notes the next one reads back.
    Notes,
}

impl Kind {
    /// For people.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Write => "write",
            Self::Transform => "transform",
            Self::Json => "JSON",
            Self::Several => "several files",
            Self::Page => "page",
            Self::PageAndFile => "page and file",
            Self::Child => "a child",
            Self::Children => "children",
            Self::Notes => "notes",
        }
    }
}

/// One goal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goal {
    /// Name of its file.
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What is asked.
    goal: String,
    /// At least so many children must have done their part.
    #[serde(default)]
    pub(crate) children: u64,
    /// Where its first run may write, instead of `output`.
    pub(crate) write: Option<String>,
    /// The working folder.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// HTML by path.
    #[serde(default)]
    pub(crate) pages: BTreeMap<String, String>,
    /// A second run in the same folder.
    pub(crate) then: Option<Then>,
    pub(crate) outcomes: Vec<Outcome>,
    /// An end that meets it.
    pub(crate) met: Sample,
    /// Ends that do not, as far as they differ from that one.
    pub(crate) missed: Vec<Missed>,
}

/// The second run of a goal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Then {
    goal: String,
    /// Files that are taken away before.
    #[serde(default)]
    pub(crate) gone: Vec<String>,
}

/// What must be found, of the answer or of one file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outcome {
    pub(crate) of: Subject,
    /// The text, white space at both ends apart.
    pub(crate) is: Option<String>,
    /// All of these stand in it, in capitals or not.
    #[serde(default)]
    pub(crate) has: Vec<String>,
    /// None of these does.
    #[serde(default)]
    pub(crate) lacks: Vec<String>,
    /// It matches.
    pub(crate) matches: Option<Pattern>,
    /// Its lines, empty ones and white space at their ends apart.
    pub(crate) lines: Option<Vec<String>>,
    /// The same in any order.
    pub(crate) lines_in_any_order: Option<Vec<String>>,
    /// It is this value.
    pub(crate) json: Option<Json>,
    /// It is no longer.
    pub(crate) most_words: Option<usize>,
}

/// Of what something is expected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(crate) enum Subject {
    /// What the last run said.
    Answer,
    /// A file of the working folder.
    File(String),
}

impl From<String> for Subject {
    fn from(text: String) -> Self {
        if text == "answer" { Self::Answer } else { Self::File(text) }
    }
}

/// A regular expression.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pattern(pub(crate) Regex);

impl TryFrom<String> for Pattern {
    type Error = regex::Error;

    fn try_from(text: String) -> Result<Self, regex::Error> {
        Regex::new(&text).map(Self)
    }
}

/// A value, written as JSON.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Json(pub(crate) Value);

impl TryFrom<String> for Json {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Self, serde_json::Error> {
        serde_json::from_str(&text).map(Self)
    }
}

/// An end that meets the goal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    pub(crate) answer: String,
    #[serde(default)]
    pub(crate) children: u64,
    /// What was written.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
}

/// An end that does not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Missed {
    pub(crate) why: String,
    pub(crate) answer: Option<String>,
    pub(crate) children: Option<u64>,
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
}

impl Goal {
    /// Reads one.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut goal: Self = toml::from_str(text).with_context(|| format!("the goal {name}"))?;
        name.clone_into(&mut goal.name);
        ensure!(!goal.outcomes.is_empty(), "the goal {name} has no outcome");
        ensure!(!goal.missed.is_empty(), "the goal {name} has no end that misses it");
        for outcome in &goal.outcomes {
            ensure!(outcome.asks(), "the goal {name} has an outcome that asks for nothing");
        }
        let names_pages = goal.runs(PAGE).any(|words| words.contains(PAGE));
        ensure!(names_pages != goal.pages.is_empty(), "the goal {name} has pages or names {PAGE}, not both");
        Ok(goal)
    }

    /// All that lie in a checkout, by kind and name.
    pub(crate) fn all(root: &Path) -> Result<Vec<Self>> {
        let folder = root.join(GOALS);
        let cannot = || format!("cannot read {}", folder.display());
        let mut goals = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let text = std::fs::read_to_string(&path).with_context(cannot)?;
            goals.push(Self::parse(&name, &text)?);
        }
        goals.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
        Ok(goals)
    }

    /// What each run is asked, with its pages at this address.
    pub(crate) fn runs<'g>(&'g self, page: &'g str) -> impl Iterator<Item = String> + 'g {
        let then = self.then.as_ref().map(|then| &then.goal);
        std::iter::once(&self.goal).chain(then).map(move |words| words.replace(PAGE, page))
    }

    /// The working folder before the first run.
    pub(crate) fn folder(&self) -> Folder {
        Folder::of(&self.files)
    }

    /// The working folder at the end that meets the goal.
    pub(crate) fn met_folder(&self) -> Folder {
        self.folder().without(self.gone()).with(Folder::of(&self.met.files))
    }

    /// Files that are taken away between the runs.
    pub(crate) fn gone(&self) -> &[String] {
        self.then.as_ref().map_or(&[], |then| &then.gone)
    }
}

impl Outcome {
    fn asks(&self) -> bool {
        let Self { of: _, is, has, lacks, matches, lines, lines_in_any_order, json, most_words } = self;
        let texts = is.is_some() || !has.is_empty() || !lacks.is_empty() || matches.is_some();
        texts || lines.is_some() || lines_in_any_order.is_some() || json.is_some() || most_words.is_some()
    }
}
