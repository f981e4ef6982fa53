//! Manifest files as the command line takes them.
//!
//! Invariant: what comes back is self-contained: a prompt that the manifest names as a file is in it.

use std::io;
use std::path::Path;

use aaos_core::manifest::{Manifest, inline_prompt_file};
use anyhow::{Context, Result};

use crate::exit::UsageError;
use crate::files;
use crate::goalargs::LoadedManifest;

/// Reads a manifest and inlines `system_prompt: { file: PATH }`, relative to the manifest's directory.
///
/// # Errors
/// What is wrong with the file, with its name.
pub(crate) fn load(path: &Path) -> Result<String> {
    let text = files::read_manifest(path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let read = |prompt: &str| files::read_manifest(&directory.join(prompt)).map_err(io::Error::other);
    Ok(inline_prompt_file(&text, read)?)
}

/// Reads and parses a manifest that the operator named.
///
/// # Errors
/// A usage error naming the file, the line and the column.
pub(crate) fn load_and_parse(path: &Path) -> Result<LoadedManifest> {
    let loaded = load(path).and_then(|text| {
        let parsed = Manifest::parse(&text)?;
        Ok(LoadedManifest { text, parsed })
    });
    let what = || UsageError(format!("the manifest {} cannot be used", path.display()));
    loaded.with_context(what)
}

#[cfg(test)]
mod tests {
    use super::{load, load_and_parse};
    use crate::exit::Exit;

    const MANIFEST: &str = "name: a\nmodel: fast\nsystem_prompt: { file: prompt.md }\n";

    #[test]
    fn a_prompt_file_is_read_beside_the_manifest() {
        let home = testkit::scratch();
        let path = home.path().join("a.yaml");
        std::fs::write(&path, MANIFEST).unwrap();
        std::fs::write(home.path().join("prompt.md"), "You are careful.\n").unwrap();
        let loaded = load_and_parse(&path).expect("loads");
        assert_eq!(loaded.parsed.system_prompt.trim(), "You are careful.");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let home = testkit::scratch();
        let path = home.path().join("a.yaml");
        let error = load_and_parse(&path).expect_err("absent");
        assert_eq!(crate::exit::of_error(&error), Exit::Usage);
        assert!(format!("{error:#}").contains("a.yaml"), "{error:#}");
        std::fs::write(&path, MANIFEST).unwrap();
        let error = format!("{:#}", load(&path).expect_err("no prompt"));
        assert!(error.contains("prompt.md"), "{error}");
        std::fs::write(&path, "name: a\nmodle: fast\nsystem_prompt: x\n").unwrap();
        let error = format!("{:#}", load_and_parse(&path).expect_err("misspelt"));
        assert!(error.contains("modle") && error.contains("model"), "{error}");
    }
}
