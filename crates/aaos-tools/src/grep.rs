//! `grep`: lines that match a regular expression, in a file or in every file below a directory.
//!
//! Invariants: matches come in the order of their paths' bytes, whatever order directories are read in. Links
//! are not followed. A match names its file by the absolute path that the next call takes. Time per line is linear in its length; memory, files, depth and output are bounded, and
//! whatever a bound cut off is said by `truncated`.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use aaos_core::limits::{
    MAX_BROKER_BATCH, MAX_GREP_BYTES, MAX_GREP_FILE_BYTES, MAX_GREP_FILES, MAX_GREP_LINE_BYTES,
    MAX_GREP_MATCHES, MAX_GREP_PATTERN_BYTES, MAX_WALK_DEPTH,
};
use aaos_core::toolio::{FileKind, GrepInput, GrepMatch, GrepOutput, ToolFailureKind};
use aaos_core::wire::{Child, EntryName, Handed, Handle, JobOutput};
use globset::{GlobBuilder, GlobMatcher};
use regex::{Regex, RegexBuilder};

use crate::list::shown;
use crate::scan::{Scanned, scan};
use crate::session::{Session, Stop, fail, io_failure};

/// Largest compiled pattern and largest cache of its automaton, bytes.
const PATTERN_MEMORY_BYTES: usize = 2 * 1024 * 1024;
/// Deepest nesting inside a pattern.
const PATTERN_NESTING: u32 = 64;

/// Body of `grep`.
pub(crate) fn grep(session: &mut Session<'_>, input: &GrepInput, target: Handed) -> Result<JobOutput, Stop> {
    let mut search = Search::new(input)?;
    match target {
        Handed::Failed(failure) => return Err(failure.into()),
        Handed::File { .. } => {
            let (file, _) = session.file(target)?;
            search.file(file, input.path.as_str())?;
        }
        Handed::Directory { handle } => {
            let directory = session.take(handle)?;
            walk(session, &mut search, handle, &directory)?;
        }
    }
    Ok(JobOutput::Grep(search.output))
}

/// A search under way.
struct Search {
    pattern: Regex,
    glob: Option<GlobMatcher>,
    /// The directory searched, with a slash at the end.
    root: String,
    shown_bytes: usize,
    opened: usize,
    /// No more matches fit.
    full: bool,
    output: GrepOutput,
}

impl Search {
    fn new(input: &GrepInput) -> Result<Self, Stop> {
        let invalid = |message: String| fail(ToolFailureKind::InvalidArguments, message);
        if input.pattern.len() > MAX_GREP_PATTERN_BYTES {
            return Err(invalid(format!("pattern is longer than {MAX_GREP_PATTERN_BYTES} bytes")));
        }
        let pattern = RegexBuilder::new(&input.pattern)
            .case_insensitive(input.case_insensitive)
            .size_limit(PATTERN_MEMORY_BYTES)
            .dfa_size_limit(PATTERN_MEMORY_BYTES)
            .nest_limit(PATTERN_NESTING)
            .build()
            .map_err(|error| invalid(format!("pattern cannot be used: {error}")))?;
        let glob = match &input.glob {
            None => None,
            Some(glob) if glob.len() > MAX_GREP_PATTERN_BYTES => {
                return Err(invalid(format!("glob is longer than {MAX_GREP_PATTERN_BYTES} bytes")));
            }
            Some(glob) => Some(
                GlobBuilder::new(glob)
                    .literal_separator(true)
                    .build()
                    .map_err(|error| invalid(format!("glob cannot be used: {error}")))?
                    .compile_matcher(),
            ),
        };
        let output = GrepOutput { matches: Vec::new(), files_searched: 0, truncated: false };
        let root = format!("{}/", input.path.as_str().trim_end_matches('/'));
        Ok(Self { pattern, glob, root, shown_bytes: 0, opened: 0, full: false, output })
    }

    fn wants(&self, path: &str) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.is_match(path))
    }

    /// Searches one file; one that is binary, not UTF-8 or too long is passed over.
    fn file(&mut self, file: File, path: &str) -> Result<(), Stop> {
        let mut bytes = Vec::new();
        let read = file.take(MAX_GREP_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| io_failure("read a file", &error))?;
        if bytes.len() as u64 > MAX_GREP_FILE_BYTES {
            self.output.truncated = true;
            return Ok(());
        }
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        if text.contains('\0') {
            return Ok(());
        }
        self.output.files_searched += 1;
        for (index, line) in text.lines().enumerate() {
            if self.pattern.is_match(line) && !self.found(path, index as u64 + 1, line) {
                break;
            }
        }
        Ok(())
    }

    /// Takes a match in; `false` when it does not fit any more.
    fn found(&mut self, path: &str, line: u64, text: &str) -> bool {
        let text = cut(text);
        let bytes = path.len() + text.len();
        if self.output.matches.len() == MAX_GREP_MATCHES || self.shown_bytes + bytes > MAX_GREP_BYTES {
            self.full = true;
            self.output.truncated = true;
            return false;
        }
        self.shown_bytes += bytes;
        self.output.matches.push(GrepMatch { path: path.to_owned(), line, text });
        true
    }
}

/// The line, or its beginning up to a character boundary and an ellipsis.
fn cut(line: &str) -> String {
    if line.len() <= MAX_GREP_LINE_BYTES {
        return line.to_owned();
    }
    let mut end = MAX_GREP_LINE_BYTES;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &line[..end])
}

/// One directory on the way down.
struct Level {
    handle: Handle,
    /// Its path below the start, with a slash at the end unless it is the start.
    prefix: String,
    /// What remains of it, last first.
    rest: Vec<Scanned>,
}

/// Goes through a tree, one directory open per level, files in batches.
fn walk(
    session: &mut Session<'_>,
    search: &mut Search,
    start: Handle,
    directory: &OwnedFd,
) -> Result<(), Stop> {
    let mut levels = vec![level(search, start, String::new(), directory)?];
    while let Some(mut current) = levels.pop() {
        if search.full {
            return Ok(());
        }
        if current.rest.is_empty() {
            session.close(current.handle)?;
            continue;
        }
        let batch = next_batch(search, &mut current);
        let handle = current.handle;
        let prefix = current.prefix.clone();
        levels.push(current);
        if batch.is_empty() {
            continue;
        }
        let names: Vec<_> = batch.iter().map(|entry| entry.name.clone()).collect();
        let children = session.children(handle, &names, true)?;
        for (entry, child) in batch.iter().zip(children) {
            let path = format!("{prefix}{}", shown(&entry.name));
            if let Some(deeper) = visit(session, search, &path, child, levels.len())? {
                levels.push(deeper);
            }
        }
    }
    Ok(())
}

/// The next directory alone, or the next files up to a batch, as far as they are wanted.
fn next_batch(search: &mut Search, level: &mut Level) -> Vec<Scanned> {
    let mut batch = Vec::new();
    while batch.len() < MAX_BROKER_BATCH {
        // What a directory does not say the kind of may be a directory: it is opened alone, too.
        let alone = level.rest.last().is_some_and(|entry| entry.kind != Some(FileKind::File));
        if alone && !batch.is_empty() {
            break;
        }
        let Some(entry) = level.rest.pop() else { break };
        match entry.kind {
            Some(FileKind::File) if !search.wants(&format!("{}{}", level.prefix, shown(&entry.name))) => {}
            Some(FileKind::Symlink | FileKind::Other) => {}
            Some(FileKind::File) => batch.push(entry),
            Some(FileKind::Directory) | None => return vec![entry],
        }
    }
    batch
}

/// Searches a file that was opened, or gives the directory to go into.
fn visit(
    session: &mut Session<'_>,
    search: &mut Search,
    path: &str,
    child: Child,
    depth: usize,
) -> Result<Option<Level>, Stop> {
    match child {
        // Gone, refused, a link or a device: not part of what is searched.
        Child::Described { .. } => Ok(None),
        Child::Failed(failure) | Child::Opened(Handed::Failed(failure)) => {
            search.output.truncated |= failure.kind == ToolFailureKind::LimitReached;
            Ok(None)
        }
        Child::Opened(handed @ Handed::File { .. }) => {
            let (file, _) = session.file(handed)?;
            search.opened += 1;
            if search.opened > MAX_GREP_FILES {
                search.full = true;
                search.output.truncated = true;
            } else if !search.full && search.wants(path) {
                let path = format!("{}{path}", search.root);
                search.file(file, &path)?;
            }
            Ok(None)
        }
        Child::Opened(Handed::Directory { handle }) => {
            let directory = session.take(handle)?;
            if depth >= MAX_WALK_DEPTH {
                search.output.truncated = true;
                session.close(handle)?;
                return Ok(None);
            }
            Ok(Some(level(search, handle, format!("{path}/"), &directory)?))
        }
    }
}

/// Lists a directory in the order of its paths; one that cannot be read is passed over.
fn level(search: &mut Search, handle: Handle, prefix: String, directory: &OwnedFd) -> Result<Level, Stop> {
    debug_assert!(prefix.is_empty() || prefix.ends_with('/'), "a prefix ends where a name begins");
    let is_start = prefix.is_empty();
    let (mut rest, cut) = match scan(directory) {
        Err(failure) if is_start => return Err(failure.into()),
        // Its level ends at once, and with it the directory is closed.
        Err(_) => (Vec::new(), true),
        Ok(found) => found,
    };
    search.output.truncated |= cut;
    // Reversed, because the next one is popped off the end.
    rest.sort_by_cached_key(|entry| std::cmp::Reverse(sort_key(entry)));
    Ok(Level { handle, prefix, rest })
}

/// Names as they stand in full paths: what a directory holds comes where its slash sorts.
fn sort_key(entry: &Scanned) -> Vec<u8> {
    let EntryName(mut key) = entry.name.clone();
    if entry.kind == Some(FileKind::Directory) {
        key.push(b'/');
    }
    key
}
