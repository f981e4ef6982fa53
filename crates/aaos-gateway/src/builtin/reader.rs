//! Walks the inputs of a reader: lists directories level by level, then reads what fits.
//!
//! Invariants: at most [`MAX_CALLS`] listings a turn and one turn of reading; content together stays within
//! [`READ_BUDGET_BYTES`]; a file that is not read has a note.

use std::collections::BTreeMap;

use aaos_core::limits::MAX_READ_MANY_PATHS;
use aaos_core::path::AbsPath;
use aaos_core::tool::ToolInput;
use aaos_core::toolio::{FileKind, FileListInput, FileReadInput, FileReadManyInput, WebFetchInput};

use super::conversation::Exchange;
use super::findings::Findings;
use super::goal::Act;
use super::task::GatherTask;
use super::text::document::Document;
use super::views::{Content, Contents, Listing, Page};

/// Calls in one turn.
const MAX_CALLS: usize = 16;
/// Directories below an input are entered this deep.
const MAX_DEPTH: usize = 8;
const MAX_DIRECTORIES: usize = 96;
/// Listings made in all: the tree is walked anew each turn, and an early branch may push a later one out.
const MAX_LISTINGS: usize = 128;
const MAX_FILES: usize = 2_000;
const MAX_FILES_READ: usize = 200;
/// Files too large for the budget, of which only the beginning is read.
const MAX_BEGINNINGS: usize = 48;
/// Content read together: the last request must fit a context window with room to spare.
const READ_BUDGET_BYTES: u64 = 192 * 1024;
/// A page's share of the budget, at least.
const MIN_PAGE_BYTES: u64 = 16 * 1024;
/// Directories that hold no documents.
const SKIPPED_DIRECTORIES: &[&str] = &["target", "node_modules", "__pycache__"];
const BINARY_EXTENSIONS: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "webp", "ico", "pdf", "zip", "gz", "xz", "zst", "tar", "bz2", "7z", "docx",
    "xlsx", "pptx", "odt", "so", "o", "a", "rlib", "bin", "exe", "wasm", "class", "jar", "db", "sqlite",
    "mp3", "mp4", "wav", "ogg", "ttf", "woff", "woff2",
];

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where.
    pub(super) path: AbsPath,
    /// How large.
    pub(super) size: u64,
}

/// How far the gathering has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// These calls come next.
    Needs(Vec<ToolInput>),
    /// Everything is here.
    Ready(Box<Material>),
}

/// What was gathered.
#[derive(Debug, Default)]
pub(super) struct Material {
    /// Files found, in walking order.
    pub(super) files: Vec<Found>,
    /// Documents read, in walking order, pages last.
    pub(super) documents: Vec<Document>,
    /// What went wrong or was left out.
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Default)]
struct Walk {
    files: Vec<Found>,
    missing: Vec<AbsPath>,
    directories: usize,
    notes: Vec<String>,
}

type Listings = BTreeMap<AbsPath, Result<Listing, String>>;

/// Where the gathering stands.
pub(super) fn progress(task: &GatherTask, exchanges: &[Exchange<'_>]) -> Progress {
    let listings = listings(exchanges);
    let mut walk = Walk::default();
    for path in &task.paths {
        walk.enter(path, 0, &listings, task);
    }
    if !walk.missing.is_empty() {
        let paths = walk.missing.into_iter().take(MAX_CALLS);
        return Progress::Needs(paths.map(|path| ToolInput::FileList(FileListInput { path })).collect());
    }
    if task.act == Act::List {
        let material = Material { files: walk.files, documents: Vec::new(), notes: walk.notes };
        return Progress::Ready(Box::new(material));
    }
    let mut calls = plan_reads(task, &mut walk);
    calls.extend(plan_fetches(task));
    let read_already = exchanges.iter().any(|done| !matches!(done.input, ToolInput::FileList(_)));
    if !read_already && !calls.is_empty() {
        return Progress::Needs(calls);
    }
    Progress::Ready(Box::new(material(task, walk, exchanges)))
}

fn listings(exchanges: &[Exchange<'_>]) -> Listings {
    let listed = exchanges.iter().filter_map(|done| match &done.input {
        ToolInput::FileList(input) => Some((input.path.clone(), done.output::<Listing>())),
        _ => None,
    });
    listed.collect()
}

impl Walk {
    fn enter(&mut self, path: &AbsPath, depth: usize, listings: &Listings, task: &GatherTask) {
        self.directories += 1;
        let listing = match listings.get(path) {
            None if listings.len() >= MAX_LISTINGS => {
                return self.notes.push(format!("not entered: {path}: too many directories"));
            }
            None => return self.missing.push(path.clone()),
            Some(Err(reason)) => return self.notes.push(format!("not listed: {path}: {reason}")),
            Some(Ok(listing)) => listing,
        };
        if listing.kind == FileKind::File {
            let size = listing.entries.first().map_or(0, |entry| entry.size_bytes);
            return self.files.push(Found { path: path.clone(), size });
        }
        if listing.truncated {
            self.notes.push(format!("{path} has more entries than one listing shows; the rest was left out"));
        }
        let mut deeper = Vec::new();
        for entry in &listing.entries {
            let Some(child) = join(path, &entry.name) else { continue };
            match entry.kind {
                FileKind::File => self.file(Found { path: child, size: entry.size_bytes }, task),
                FileKind::Directory => deeper.push((entry.name.as_str(), child)),
                FileKind::Symlink | FileKind::Other => {
                    self.notes.push(format!("not read: {child}: not a regular file"));
                }
            }
        }
        for (name, child) in deeper {
            self.directory(name, &child, depth + 1, listings, task);
        }
    }

    fn file(&mut self, found: Found, task: &GatherTask) {
        if task.exclude.contains(&found.path) {
            self.notes.push(format!("not read: {}: it is the output of this goal", found.path));
        } else if self.files.len() == MAX_FILES {
            self.notes.push(format!(
                "left out: {} and what follows, there are more than {MAX_FILES} files",
                found.path
            ));
        } else if self.files.len() < MAX_FILES
            && (task.only.is_empty() || task.only.contains(&extension(&found.path)))
        {
            self.files.push(found);
        }
    }

    fn directory(
        &mut self,
        name: &str,
        path: &AbsPath,
        depth: usize,
        listings: &Listings,
        task: &GatherTask,
    ) {
        if name.starts_with('.') || SKIPPED_DIRECTORIES.contains(&name) {
            self.notes.push(format!("not entered: {path}"));
        } else if depth > MAX_DEPTH || self.directories >= MAX_DIRECTORIES {
            self.notes.push(format!("not entered: {path}: too deep or too many directories"));
        } else {
            self.enter(path, depth, listings, task);
        }
    }
}

fn join(directory: &AbsPath, name: &str) -> Option<AbsPath> {
    AbsPath::parse(&format!("{directory}/{name}")).ok()
}

/// The extension of a file's name in lower case, or nothing.
fn extension(path: &AbsPath) -> String {
    let name = path.split_last().map(|(_, name)| name.to_owned()).unwrap_or_default();
    name.trim_start_matches('.').rsplit_once('.').map(|(_, end)| end.to_lowercase()).unwrap_or_default()
}

/// What to read, whole or in part, and notes on the rest.
fn plan_reads(task: &GatherTask, walk: &mut Walk) -> Vec<ToolInput> {
    let mut wanted: Vec<&Found> = Vec::new();
    for found in &walk.files {
        if BINARY_EXTENSIONS.contains(&extension(&found.path).as_str()) {
            walk.notes.push(format!("not read: {}: not a text file", found.path));
        } else if wanted.len() == MAX_FILES_READ {
            walk.notes.push(format!(
                "only the first {MAX_FILES_READ} files were read, {} and what follows were not",
                found.path
            ));
            break;
        } else {
            wanted.push(found);
        }
    }
    let pages = MIN_PAGE_BYTES * task.urls.len() as u64;
    let cap = fair_cap(&wanted, READ_BUDGET_BYTES.saturating_sub(pages));
    let (whole, large): (Vec<&Found>, Vec<&Found>) = wanted.into_iter().partition(|found| found.size <= cap);
    let mut calls: Vec<ToolInput> = whole
        .chunks(MAX_READ_MANY_PATHS)
        .map(|batch| {
            let paths = batch.iter().map(|found| found.path.clone()).collect();
            ToolInput::FileReadMany(FileReadManyInput { paths })
        })
        .collect();
    for (index, found) in large.iter().enumerate() {
        let path = found.path.clone();
        if index < MAX_BEGINNINGS {
            walk.notes.push(format!("only the first {cap} of {} bytes of {path} were read", found.size));
            calls.push(ToolInput::FileRead(FileReadInput { path, offset: None, limit: Some(cap) }));
        } else {
            walk.notes.push(format!("not read: {path}: too large beside the others ({} bytes)", found.size));
        }
    }
    calls
}

/// The largest size up to which every file is read whole, so that all together stay within `budget`.
fn fair_cap(files: &[&Found], budget: u64) -> u64 {
    let mut sizes: Vec<u64> = files.iter().map(|found| found.size).collect();
    sizes.sort_unstable();
    let mut left = budget;
    for (index, size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - index) as u64;
        if *size > share {
            return share.max(1);
        }
        left -= size;
    }
    budget
}

fn plan_fetches(task: &GatherTask) -> Vec<ToolInput> {
    let share = READ_BUDGET_BYTES / (task.urls.len() as u64).max(1);
    let max_bytes = if task.paths.is_empty() { share } else { MIN_PAGE_BYTES };
    let fetch = |url: &String| ToolInput::WebFetch(WebFetchInput { url: url.clone(), max_bytes });
    task.urls.iter().map(fetch).collect()
}

/// Turns results into documents.
fn material(task: &GatherTask, walk: Walk, exchanges: &[Exchange<'_>]) -> Material {
    let mut ready = Material { files: walk.files, documents: Vec::new(), notes: walk.notes };
    let mut read: BTreeMap<AbsPath, (String, u64)> = BTreeMap::new();
    let mut pages = Vec::new();
    for done in exchanges {
        match &done.input {
            ToolInput::FileReadMany(input) => ready.read_many(input, done, &mut read),
            ToolInput::FileRead(input) => match done.output::<Content>() {
                Ok(file) => {
                    read.insert(input.path.clone(), (file.content, file.size_bytes));
                }
                Err(reason) => ready.notes.push(format!("not read: {}: {reason}", input.path)),
            },
            ToolInput::WebFetch(input) => match page(&input.url, done.output::<Page>(), &mut ready.notes) {
                Ok(document) => pages.push(document),
                Err(reason) => ready.notes.push(format!("not fetched: {}: {reason}", input.url)),
            },
            _ => {}
        }
    }
    for found in &ready.files {
        if let Some((content, size)) = read.remove(&found.path) {
            let name = found.path.below(&task.base).filter(|rest| !rest.is_empty());
            let name = name.unwrap_or(found.path.as_str());
            ready.documents.push(Document::of_file(name, &extension(&found.path), &content, size));
        }
    }
    ready.documents.extend(pages);
    ready
}

impl Material {
    fn read_many(
        &mut self,
        input: &FileReadManyInput,
        done: &Exchange<'_>,
        read: &mut BTreeMap<AbsPath, (String, u64)>,
    ) {
        match done.output::<Contents>() {
            Ok(contents) => {
                for file in contents.files {
                    match file.content {
                        Some(content) => {
                            read.insert(file.path, (content, file.size_bytes));
                        }
                        None => {
                            let reason = file.reason.or(file.error).unwrap_or_default();
                            self.notes.push(format!("not read: {}: {reason}", file.path));
                        }
                    }
                }
            }
            Err(reason) => {
                let names: Vec<&str> = input.paths.iter().map(AbsPath::as_str).collect();
                self.notes.push(format!("not read: {}: {reason}", names.join(", ")));
            }
        }
    }

    /// Hands the notes over to the findings.
    pub(super) fn note_into(&self, findings: &mut Findings) {
        for note in &self.notes {
            findings.note(note);
        }
    }
}

fn page(url: &str, fetched: Result<Page, String>, notes: &mut Vec<String>) -> Result<Document, String> {
    let page = fetched?;
    if !(200..300).contains(&page.status) {
        return Err(format!("the server answered with status {}", page.status));
    }
    if page.truncated {
        notes.push(format!("only the beginning of {url} was fetched"));
    }
    Ok(Document::of_page(url, &page.content_type, &page.body))
}

#[cfg(test)]
mod tests {
    use aaos_core::path::AbsPath;

    use super::{Found, fair_cap};

    fn cap(sizes: &[u64], budget: u64) -> u64 {
        let files: Vec<Found> =
            sizes.iter().map(|&size| Found { path: AbsPath::parse("/f").expect("a path"), size }).collect();
        fair_cap(&files.iter().collect::<Vec<_>>(), budget)
    }

    #[test]
    fn small_files_leave_their_share_to_large_ones() {
        assert_eq!(cap(&[10, 10, 10], 100), 100, "everything fits");
        assert_eq!(cap(&[10, 1000, 1000], 110), 50);
        assert_eq!(cap(&[1000], 0), 1);
        assert_eq!(cap(&[], 5), 5);
    }
}
