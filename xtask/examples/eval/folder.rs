//! What stands in a working folder: every file below it, by its path.
//!
//! Invariants: links are named and not followed; what cannot be read is an error and never counts as absent.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Path below the folder, and content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Folder(BTreeMap<String, Vec<u8>>);

impl Folder {
    /// A folder of texts.
    pub(crate) fn of(files: &BTreeMap<String, String>) -> Self {
        Self(files.iter().map(|(path, text)| (path.clone(), text.clone().into_bytes())).collect())
    }

    /// Reads everything below `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut folder = Self::default();
        folder.read_below(root, "")?;
        Ok(folder)
    }

    fn read_below(&mut self, root: &Path, inner: &str) -> Result<()> {
        let place = root.join(inner);
        let cannot = || format!("cannot read {}", place.display());
        for entry in std::fs::read_dir(&place).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if inner.is_empty() { name } else { format!("{inner}/{name}") };
            let kind = entry.file_type().with_context(cannot)?;
            if kind.is_dir() {
                self.read_below(root, &path)?;
            } else {
                let content = if kind.is_file() { std::fs::read(entry.path()) } else { Ok(Vec::new()) };
                self.0.insert(path, content.with_context(cannot)?);
            }
        }
        Ok(())
    }

    /// Writes every file below `root`.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        for (path, content) in &self.0 {
            let path = root.join(path);
            let cannot = || format!("cannot write {}", path.display());
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).with_context(cannot)?;
            }
            std::fs::write(&path, content).with_context(cannot)?;
        }
        Ok(())
    }

    /// The same without these files.
    pub(crate) fn without(mut self, gone: &[String]) -> Self {
        self.0.retain(|path, _| !gone.contains(path));
        self
    }

    /// The same with these files in it.
    pub(crate) fn with(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The text of a file, what is no UTF-8 replaced.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        self.0.get(path).map(|content| String::from_utf8_lossy(content).into_owned())
    }

    /// The paths whose files came, went or changed on the way to `after`, with what became of each.
    pub(crate) fn changes(&self, after: &Self) -> Vec<(String, &'static str)> {
        let kept = self.0.iter().filter_map(|(path, content)| {
            let what = match after.0.get(path) {
                None => "was removed",
                Some(now) if now != content => "was changed",
                Some(_) => return None,
            };
            Some((path.clone(), what))
        });
        let came = after.0.keys().filter(|path| !self.0.contains_key(*path));
        kept.chain(came.map(|path| (path.clone(), "was written"))).collect()
    }
}
