//! The files of a goal's workspace at a step, from its entries alone.
//!
//! Invariants: nothing is read but entries, nothing is written; a size that is recorded and does not fit refuses the
//! whole. A tool whose changes are not all recorded, or that this code does not know, refuses it as well.

use std::collections::{BTreeMap, BTreeSet};

use aaos_core::effect::{Access, FileRight, Need};
use aaos_core::event::{Entry, Event, Outcome};
use aaos_core::id::{CallId, GrantId, Seq};
use aaos_core::limits::{MAX_APPENDED_FILE_BYTES, MAX_FORKED_WORKSPACE_BYTES};
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Bytes, Quantity};
use aaos_core::tool::{self, FileChanges, ToolInput};
use aaos_core::toolio::{FileEditInput, FileEditOutput, FileWriteInput, FileWriteOutput, ToolFailureKind};

use super::refused::ForkRefused;

/// Kinds of entries that the files of a workspace are made of.
pub(super) const FILE_KINDS: [&str; 3] = ["capability_granted", "tool_invoked", "tool_result"];

/// A call that can change files and has no outcome yet.
#[derive(Debug, Clone)]
struct Begun {
    seq: Seq,
    tool: String,
    /// What it writes, and where, if that is in the journal.
    change: Option<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    place: AbsPath,
    spelled: AbsPath,
    write: Write,
    at: Option<Bytes>,
}

#[derive(Debug, Clone)]
enum Write {
    File(FileWriteInput),
    Edit(FileEditInput),
}

/// What became of a call that can change files.
#[derive(Debug)]
struct Ended {
    begun: Begun,
    seq: Seq,
    how: How,
}

#[derive(Debug)]
enum How {
    /// It was done, with this result.
    Done(String),
    /// It was not begun.
    Denied,
    /// It failed, and a tool that records its changes made none then.
    Nothing,
    /// Nobody knows.
    Unknown,
}

/// Follows the calls of a goal's agents that can change files.
#[derive(Debug, Default)]
struct Calls {
    grants: BTreeMap<GrantId, AbsPath>,
    begun: BTreeMap<CallId, Begun>,
}

impl Calls {
    /// Takes the goal's next entry; a call that ended with it.
    fn take(&mut self, entry: &Entry) -> Result<Option<Ended>, ForkRefused> {
        match &entry.event {
            Event::BodyErased { original } if FILE_KINDS.contains(&original.as_str()) => {
                return Err(ForkRefused::Erased(entry.seq));
            }
            Event::CapabilityGranted { grant } => {
                let root = grant.capability.file_pattern().map(|pattern| pattern.root().clone());
                self.grants.extend(root.map(|root| (grant.id, root)));
            }
            Event::ToolInvoked { call, .. } => {
                if let Some(begun) = self.begin(entry)? {
                    self.begun.insert(*call, begun);
                }
            }
            Event::ToolResult { call, .. } => {
                let begun = self.begun.remove(call);
                return Ok(begun.map(|begun| Ended { begun, seq: entry.seq, how: how(&entry.event) }));
            }
            _ => {}
        }
        Ok(None)
    }

    fn begin(&self, entry: &Entry) -> Result<Option<Begun>, ForkRefused> {
        let Event::ToolInvoked { tool, input, access, at, .. } = &entry.event else { return Ok(None) };
        let known = tool::find(tool.as_str());
        let begun = |change| Begun { seq: entry.seq, tool: tool.to_string(), change };
        let known = match known.map(|known| (known.file_changes, known)) {
            Some((FileChanges::None, _)) => return Ok(None),
            Some((FileChanges::Recorded, known)) => known,
            Some((FileChanges::Unrecorded, _)) | None => return Ok(Some(begun(None))),
        };
        let does_not_fit = |what: &str| ForkRefused::DoesNotFit { seq: entry.seq, what: what.to_owned() };
        let input =
            known.parse_input(input.clone()).map_err(|_| does_not_fit("its arguments are unreadable"))?;
        let (spelled, write) = match input {
            ToolInput::FileWrite(input) => (input.path.clone(), Write::File(input)),
            ToolInput::FileEdit(input) => (input.path.clone(), Write::Edit(input)),
            _ => return Ok(Some(begun(None))),
        };
        let place = self.place(access).ok_or_else(|| does_not_fit("where it wrote is not in the journal"))?;
        Ok(Some(begun(Some(Change { place, spelled, write, at: *at }))))
    }

    /// Where a write really went.
    fn place(&self, access: &[Access]) -> Option<AbsPath> {
        let writes = |access: &&Access| matches!(access.need, Need::File { right: FileRight::Write, .. });
        let access = access.iter().find(writes)?;
        let root = self.grants.get(&access.grant)?;
        let mut parts: Vec<&str> = root.components().collect();
        for part in access.relative.as_deref().unwrap_or_default().split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                name => parts.push(name),
            }
        }
        AbsPath::parse(&format!("/{}", parts.join("/"))).ok()
    }
}

fn how(event: &Event) -> How {
    let Event::ToolResult { outcome, result, failure, spent, .. } = event else { return How::Unknown };
    let was_cut = failure.as_ref().is_some_and(|failure| failure.kind == ToolFailureKind::Revoked);
    match outcome {
        // One whose result is withheld has none to hold its sizes against.
        Outcome::Done => result.clone().map_or(How::Unknown, How::Done),
        Outcome::Unknown => How::Unknown,
        // What was written under a grant that was revoked meanwhile is not told to anybody.
        Outcome::Failed if was_cut || spent.get(Quantity::Files) > 0 => How::Unknown,
        Outcome::Failed => How::Nothing,
        Outcome::Denied => How::Denied,
    }
}

/// The files of a workspace, as far as the entries went.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// By path below the workspace.
    content: BTreeMap<String, String>,
    /// Everything that was written, as it was spelled and where it lies.
    written: BTreeSet<AbsPath>,
    /// The workspace of the goal whose entries come, as spelled, and where it really lies.
    workspace: Option<(AbsPath, AbsPath)>,
    calls: Calls,
    bytes: u64,
}

impl Files {
    /// Entries of another goal come from here on, which has its workspace there and took the files over.
    pub(super) fn enter(&mut self, workspace: &AbsPath) {
        self.workspace = Some((workspace.clone(), workspace.clone()));
        self.calls = Calls::default();
    }

    /// Takes the goal's next entry.
    pub(super) fn take(&mut self, entry: &Entry) -> Result<(), ForkRefused> {
        if let Event::CapabilityGranted { grant } = &entry.event
            && let (Some((spelled, real)), Some(pattern)) = (&mut self.workspace, &grant.spelled)
            && pattern.root() == spelled
            && let Some(resolved) = grant.capability.file_pattern()
        {
            *real = resolved.root().clone();
        }
        let Some(Ended { begun: Begun { seq, tool, change }, seq: ended, how }) = self.calls.take(entry)?
        else {
            return Ok(());
        };
        match (how, change) {
            (How::Denied, _) | (How::Nothing, Some(_)) => Ok(()),
            (_, None) => Err(ForkRefused::Unrecorded { seq, tool }),
            (How::Unknown, Some(_)) => Err(ForkRefused::UnknownOutcome { seq, tool }),
            (How::Done(result), Some(change)) => {
                self.apply(change, &result).map_err(|what| ForkRefused::DoesNotFit { seq: ended, what })
            }
        }
    }

    /// Whatever is under way at the step has an outcome that is not part of it.
    pub(super) fn check_unfinished(&self) -> Result<(), ForkRefused> {
        match self.calls.begun.values().min_by_key(|begun| begun.seq).cloned() {
            Some(Begun { seq, tool, change: Some(_) }) => Err(ForkRefused::UnknownOutcome { seq, tool }),
            Some(Begun { seq, tool, change: None }) => Err(ForkRefused::Unrecorded { seq, tool }),
            None => Ok(()),
        }
    }

    /// The files with their contents, by path below the workspace.
    pub(super) fn content(&self) -> &BTreeMap<String, String> {
        &self.content
    }

    /// Whether something was written there.
    pub(super) fn has_written(&self, path: &AbsPath) -> bool {
        self.written.contains(path)
    }

    fn is_inside(&self, place: &AbsPath) -> bool {
        self.workspace.as_ref().is_some_and(|(_, real)| place.below(real).is_some())
    }

    fn apply(&mut self, change: Change, result: &str) -> Result<(), String> {
        let Change { place, spelled, write, at } = change;
        let below = self.workspace.as_ref().and_then(|(_, real)| place.below(real)).map(ToOwned::to_owned);
        self.written.extend([place, spelled]);
        let Some(path) = below else { return Ok(()) };
        let old = self.content.remove(&path);
        let before = old.as_ref().map_or(0, String::len) as u64;
        let new = match write {
            Write::File(input) => written(old.filter(|_| input.append), &input, at, result)?,
            Write::Edit(input) => edited(old, &input, result)?,
        };
        self.bytes = self.bytes.saturating_sub(before).saturating_add(new.len() as u64);
        if self.bytes > MAX_FORKED_WORKSPACE_BYTES {
            return Err(format!("its files have more than {MAX_FORKED_WORKSPACE_BYTES} bytes together"));
        }
        self.content.insert(path, new);
        Ok(())
    }
}

/// What a `file_write` makes of the content that it keeps.
fn written(
    old: Option<String>,
    input: &FileWriteInput,
    at: Option<Bytes>,
    result: &str,
) -> Result<String, String> {
    let output: FileWriteOutput = readable(result)?;
    if output.bytes_written.0 != input.content.len() as u64 {
        return Err(format!("{} bytes were written, not {}", output.bytes_written, input.content.len()));
    }
    let mut content = old.unwrap_or_default();
    if input.append && at != Some(Bytes(content.len() as u64)) {
        let at = at.map_or("an unknown size".to_owned(), |at| format!("{at} bytes"));
        return Err(format!("it appends at {at}, where the file has {} bytes", content.len()));
    }
    content.push_str(&input.content);
    if content.len() as u64 > MAX_APPENDED_FILE_BYTES {
        return Err(format!("the file has more than {MAX_APPENDED_FILE_BYTES} bytes"));
    }
    Ok(content)
}

/// What a `file_edit` makes of the old content.
fn edited(old: Option<String>, input: &FileEditInput, result: &str) -> Result<String, String> {
    let output: FileEditOutput = readable(result)?;
    let old = old.ok_or("it edits a file that no agent of the goal wrote")?;
    let replacements = old.matches(&input.old_string).count() as u64;
    let new = old.replace(&input.old_string, &input.new_string);
    let made = (replacements, Bytes(old.len() as u64), Bytes(new.len() as u64));
    if made != (output.replacements, output.bytes_before, output.bytes_after) {
        return Err("it found another file than the goal's agents had left".to_owned());
    }
    Ok(new)
}

fn readable<T: serde::de::DeserializeOwned>(result: &str) -> Result<T, String> {
    serde_json::from_str(result).map_err(|error| format!("its result is unreadable: {error}"))
}

/// What a goal's agents changed after a step outside the workspace.
#[derive(Debug, Default)]
pub(super) struct Later {
    changed: BTreeMap<String, Seq>,
    places: BTreeSet<AbsPath>,
}

impl Later {
    /// Takes the goal's next entry after the step of `files`.
    pub(super) fn take(&mut self, files: &mut Files, entry: &Entry) {
        match files.calls.take(entry) {
            Ok(Some(Ended { how: How::Denied, .. }) | None) => {}
            Ok(Some(Ended { begun, how: How::Nothing, .. })) if begun.change.is_some() => {}
            Ok(Some(Ended { begun, .. })) => self.note(files, &begun),
            Err(_) => drop(self.changed.insert("perhaps one that cannot be told".to_owned(), entry.seq)),
        }
    }

    /// There is no later entry: calls under way may still change something.
    pub(super) fn finish(&mut self, files: &mut Files) {
        for begun in std::mem::take(&mut files.calls).begun.into_values() {
            self.note(files, &begun);
        }
    }

    fn note(&mut self, files: &Files, begun: &Begun) {
        match &begun.change {
            Some(change) if files.is_inside(&change.place) => {}
            Some(change) => {
                self.changed.insert(change.place.to_string(), begun.seq);
                self.places.extend([change.place.clone(), change.spelled.clone()]);
            }
            None => drop(self.changed.insert(format!("whatever {} changed", begun.tool), begun.seq)),
        }
    }

    /// The files, each with the entry of its last change.
    pub(super) fn list(&self) -> Vec<String> {
        self.changed.iter().map(|(what, seq)| format!("{what} (entry {seq})")).collect()
    }

    /// Whether something was written there.
    pub(super) fn has_written(&self, path: &AbsPath) -> bool {
        self.places.contains(path)
    }
}

#[cfg(test)]
mod tests;
