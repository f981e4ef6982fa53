//! `cargo xtask tidy`: all rules over the whole checkout.
//!
//! Invariant: everything that is wrong is printed before the chore fails, so that one run shows all of it.

use crate::run::say;
use crate::source::Source;
use crate::{floors, linked, rules};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Folders of the checkout that hold Rust source.
const SOURCE_FOLDERS: [&str; 2] = ["crates", "xtask"];

pub(crate) fn check(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut files = Vec::new();
    for folder in SOURCE_FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    ensure!(!files.is_empty(), "no Rust source below {}", root.display());
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned();
        found.extend(rules::check(&Source::new(path, text)));
    }
    found.extend(floors::check(root)?);
    found.extend(linked::check(root)?);
    found.iter().for_each(|line| say(line));
    if !found.is_empty() {
        bail!("tidy: {} findings in {} files", found.len(), files.len());
    }
    say(&format!("tidy: {} files, floors and links of agentd are in order", files.len()));
    Ok(())
}

/// Every `.rs` file below `folder`, build outputs left out.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let listing = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in listing {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && entry.file_name() != "target" {
            collect(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
