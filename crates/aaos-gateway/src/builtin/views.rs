//! Tool results as the planner reads them: only the fields it uses, absent ones empty.
//!
//! Invariant: nothing here decides anything; an unexpected shape is an error of the caller's exchange.

use aaos_core::path::AbsPath;
use aaos_core::toolio::FileKind;
use serde::Deserialize;

/// `file_list`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listing {
    pub(super) kind: FileKind,
    #[serde(default)]
    pub(super) entries: Vec<Entry>,
    #[serde(default)]
    pub(super) truncated: bool,
}

/// One entry of [`Listing`].
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: FileKind,
    #[serde(default)]
    pub(super) size_bytes: u64,
}

/// `file_read`.
#[derive(Debug, Deserialize)]
pub(super) struct Content {
    pub(super) content: String,
    #[serde(default)]
    pub(super) size_bytes: u64,
}

/// `file_read_many`.
#[derive(Debug, Deserialize)]
pub(super) struct Contents {
    pub(super) files: Vec<ContentItem>,
}

/// One file of [`Contents`].
#[derive(Debug, Deserialize)]
pub(super) struct ContentItem {
    pub(super) path: AbsPath,
    pub(super) content: Option<String>,
    #[serde(default)]
    pub(super) size_bytes: u64,
    pub(super) error: Option<String>,
    pub(super) reason: Option<String>,
}

/// `web_fetch`.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) status: u16,
    #[serde(default)]
    pub(super) content_type: String,
    #[serde(default)]
    pub(super) body: String,
    #[serde(default)]
    pub(super) truncated: bool,
}

/// `grep`.
#[derive(Debug, Deserialize)]
pub(super) struct Matches {
    #[serde(default)]
    pub(super) matches: Vec<Match>,
    #[serde(default)]
    pub(super) files_searched: u64,
    #[serde(default)]
    pub(super) truncated: bool,
}

/// One line of [`Matches`].
#[derive(Debug, Deserialize)]
pub(super) struct Match {
    pub(super) path: String,
    pub(super) line: u64,
    pub(super) text: String,
}

/// `file_write`.
#[derive(Debug, Deserialize)]
pub(super) struct Written {
    pub(super) bytes_written: u64,
}

/// `spawn_agent`, and one child of `spawn_agents`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Child {
    #[serde(default)]
    pub(super) response: String,
    #[serde(default)]
    pub(super) retried: bool,
    pub(super) original_error: Option<String>,
    pub(super) error: Option<String>,
}

/// `spawn_agents`.
#[derive(Debug, Deserialize)]
pub(super) struct Children {
    pub(super) children: Vec<Child>,
}
