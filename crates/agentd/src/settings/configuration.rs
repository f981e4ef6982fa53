//! The user's configuration file, for the command that adds to it.
//!
//! Invariant: a text that agentd could not start with is never written.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{file, providers};

/// Mode of a file that is not there yet.
const NEW_MODE: u32 = 0o600;

/// Whether aaOS knows where this provider is and how it is spoken to.
pub(crate) fn is_known(provider: &str) -> bool {
    providers::known(provider).is_some()
}

/// Refuses a text that is no configuration.
pub(crate) fn check(path: &Path, text: &str) -> Result<()> {
    let parsed = file::parse(path, text)?;
    let sources = providers::Sources { entries: parsed.providers, ..providers::Sources::default() };
    providers::setup(&sources, &super::Keys::new()).map(drop)
}

/// Where the user's file is, what it says, and its mode.
pub(super) fn of_user(config_home: Option<&Path>) -> Result<(PathBuf, String, u32)> {
    let system = Path::new(file::SYSTEM_FILE);
    if system.exists() {
        bail!("agentd reads {} here and no other file; add the provider there", system.display());
    }
    let home = config_home.context("no place for a configuration file: set HOME or XDG_CONFIG_HOME")?;
    let path = home.join("aaos/config.toml");
    let Some(text) = file::read_if_there(&path)? else { return Ok((path, String::new(), NEW_MODE)) };
    let found = std::fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok((path, text, found.permissions().mode() & 0o777))
}
