//! What one agent holds, arranged so that a need finds its grants without a walk over all of them.

use std::collections::HashMap;

use crate::capability::{Capability, ToolSet};
use crate::grant::GrantRecord;
use crate::name::ToolName;
use crate::path::{AbsPath, PathPattern, Reach};

use super::table::GrantIx;

/// File grants by root directory. A path asks for each of its own prefixes, longest first.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    by_root: HashMap<String, Vec<(Reach, GrantIx)>>,
    longest_root: usize,
    all: Vec<GrantIx>,
}

impl PathIndex {
    fn add(&mut self, pattern: &PathPattern, ix: GrantIx) {
        let root = pattern.root().as_str();
        let at_root = self.by_root.entry(root.to_owned()).or_default();
        at_root.push((pattern.reach(), ix));
        at_root.sort_by_key(|(reach, _)| *reach);
        self.longest_root = self.longest_root.max(root.len());
    }

    pub(super) fn all(&self) -> &[GrantIx] {
        &self.all
    }

    /// Grants whose pattern matches the spelling of `path`, most specific first, with the part below their root.
    pub(super) fn matching<'p>(&self, path: &'p AbsPath) -> impl Iterator<Item = (GrantIx, &'p str)> {
        let text = path.as_str();
        let longest = self.longest_root;
        let first = if text.len() <= longest { Some(text.len()) } else { parent_end(text, longest + 1) };
        let ends = std::iter::successors(first.filter(|_| longest > 0), move |end| parent_end(text, *end));
        ends.flat_map(move |end| {
            let held = self.by_root.get(&text[..end]).map_or(&[][..], Vec::as_slice);
            let whole = end == text.len();
            held.iter()
                .filter(move |(reach, _)| *reach == Reach::Subtree || whole)
                .map(move |(_, ix)| (*ix, text[end..].trim_start_matches('/')))
        })
    }
}

/// Where the last directory before `end` ends: at its slash, or behind it for `/` itself. Byte by byte, because
/// names are short.
fn parent_end(text: &str, end: usize) -> Option<usize> {
    match text.as_bytes()[..end].iter().rposition(|byte| *byte == b'/') {
        Some(0) if end == 1 => None,
        Some(0) => Some(1),
        other => other,
    }
}

/// The grants of one agent by what they are for.
#[derive(Debug, Default)]
pub(super) struct HeldIndex {
    pub(super) read: PathIndex,
    pub(super) write: PathIndex,
    /// By tool, in order. Few, and a keyed hash of a name costs more than the comparisons.
    tools: Vec<(ToolName, GrantIx)>,
    pub(super) any_tool: Vec<GrantIx>,
    pub(super) network: Vec<GrantIx>,
    pub(super) web: Vec<GrantIx>,
    pub(super) spawn: Vec<GrantIx>,
    pub(super) message: Vec<GrantIx>,
    pub(super) exec: Vec<GrantIx>,
}

impl HeldIndex {
    pub(super) fn add(&mut self, record: &GrantRecord, ix: GrantIx) {
        let files = |index: &mut PathIndex, pattern: &PathPattern| {
            index.all.push(ix);
            index.add(pattern, ix);
            if let Some(spelled) = record.spelled.as_ref().filter(|spelled| *spelled != pattern) {
                index.add(spelled, ix);
            }
        };
        match &record.capability {
            Capability::FileRead(pattern) => files(&mut self.read, pattern),
            Capability::FileWrite(pattern) => files(&mut self.write, pattern),
            Capability::Tool(ToolSet::All) => self.any_tool.push(ix),
            Capability::Tool(ToolSet::One(name)) => {
                let at = self.tools.partition_point(|(held, _)| held <= name);
                self.tools.insert(at, (name.clone(), ix));
            }
            Capability::WebSearch => self.web.push(ix),
            Capability::Network(_) => self.network.push(ix),
            Capability::SpawnChild(_) => self.spawn.push(ix),
            Capability::MessageSend(_) => self.message.push(ix),
            Capability::Exec(_) => self.exec.push(ix),
        }
    }

    /// Grants that name this very tool, in the order they were issued.
    pub(super) fn tool(&self, name: &str) -> impl Iterator<Item = GrantIx> {
        let from = self.tools.partition_point(|(held, _)| held.as_str() < name);
        self.tools[from..].iter().take_while(move |(held, _)| held.as_str() == name).map(|(_, ix)| *ix)
    }
}
