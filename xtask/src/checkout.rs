//! Where a checkout and its build outputs are, and clean copies of it.
//!
//! Invariant: a clean copy holds what HEAD holds and nothing else, and is gone with its value.

use crate::run::{program, read, say, succeed};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Where the caller wants cargo's outputs, if it says so.
#[expect(clippy::disallowed_methods, reason = "cargo's own setting, passed on to cargo")]
pub(crate) fn target_directory() -> Option<PathBuf> {
    std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from)
}

/// Says how much of the working tree a clean copy will not hold.
pub(crate) fn note_uncommitted(root: &Path) -> Result<()> {
    let dirty = read(program("git", ["status", "--porcelain"], root))?;
    if !dirty.is_empty() {
        say(&format!("note: {} uncommitted paths are not in the clean checkout", dirty.lines().count()));
    }
    Ok(())
}

/// A folder in the temporary directory with a clone of HEAD and room for state, gone with the value.
pub(crate) struct CleanCheckout {
    pub(crate) base: PathBuf,
}

impl CleanCheckout {
    pub(crate) fn make(root: &Path) -> Result<Self> {
        let clone = Self::empty("clone")?;
        let (from, to) = (root.as_os_str(), clone.checkout());
        succeed(program("git", ["clone".as_ref(), "--quiet".as_ref(), from, to.as_os_str()], root))?;
        Ok(clone)
    }

    pub(crate) fn empty(purpose: &str) -> Result<Self> {
        let base = std::env::temp_dir().join(format!("aaos-xtask-{purpose}-{}", std::process::id()));
        std::fs::create_dir(&base).with_context(|| format!("make {}", base.display()))?;
        Ok(Self { base })
    }

    pub(crate) fn checkout(&self) -> PathBuf {
        self.base.join("checkout")
    }
}

impl Drop for CleanCheckout {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.base) {
            say(&format!("note: {} is left behind: {error}", self.base.display()));
        }
    }
}
