//! The configuration file, for the command that adds to it: what it needs of the settings, and no more, since it is run
//! where the others cannot be used yet.
//!
//! Invariant: a text whose providers and aliases agentd could not start with is never written.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Keys, file, providers};

/// Mode of a file that is not there yet.
const NEW_MODE: u32 = 0o600;

/// Whether aaOS knows where this provider is and how it is spoken to.
pub(crate) fn is_known(provider: &str) -> bool {
    providers::known(provider).is_some()
}

/// What the file says, and where the user's things lie.
#[derive(Debug)]
pub(crate) struct Configuration {
    file: file::ConfigFile,
    config_home: Option<PathBuf>,
}

impl Configuration {
    /// Reads the file. Whether what it chooses is there yet is not asked.
    pub(crate) fn load() -> Result<Self> {
        let config_home = super::config_home();
        let file = file::load(config_home.as_deref())?;
        Ok(Self { file, config_home })
    }

    /// The directory of the user's own key files.
    pub(crate) fn key_place(&self) -> Option<PathBuf> {
        self.config_home.as_ref().map(|home| home.join("aaos/keys"))
    }

    /// The variables in which the key of a provider may stand.
    pub(crate) fn key_variables(&self, provider: &str) -> impl Iterator<Item = &str> {
        let own = self.file.providers.iter().filter(move |entry| entry.name == provider);
        own.filter_map(|entry| entry.key_env.as_deref()).chain(providers::known_variable(provider))
    }

    /// Whether the file has a provider of this name.
    pub(crate) fn names_provider(&self, name: &str) -> bool {
        self.file.providers.iter().any(|entry| entry.name == name)
    }

    /// The file that holds the key of a provider and that the configuration names: then no other one is read.
    pub(crate) fn key_file(&self, provider: &str) -> Option<&Path> {
        let mut entries = self.file.providers.iter();
        entries.find(|entry| entry.name == provider).and_then(|entry| entry.key_file.as_deref())
    }

    /// Where the user's file is, behind any link, what it says, and its mode.
    pub(crate) fn of_user(&self) -> Result<(PathBuf, String, u32)> {
        let system = Path::new(file::SYSTEM_FILE);
        if system.exists() {
            bail!("agentd reads {} here and no other file; add the provider there", system.display());
        }
        let home = self.config_home.as_deref();
        let home = home.context("no place for a configuration file: set HOME or XDG_CONFIG_HOME")?;
        let path = home.join("aaos/config.toml");
        let failed = || format!("cannot look at {}", path.display());
        let Some(text) = file::read_if_there(&path)? else {
            if path.is_symlink() {
                bail!("{} is a link to nothing; make what it leads to, or remove it", path.display());
            }
            return Ok((path, String::new(), NEW_MODE));
        };
        let path = path.canonicalize().with_context(failed)?;
        let found = std::fs::metadata(&path).with_context(failed)?;
        Ok((path, text, found.permissions().mode() & 0o777))
    }

    /// Refuses a text that agentd could not start with.
    pub(crate) fn check_text(&self, path: &Path, text: &str, keys: &Keys) -> Result<()> {
        let parsed = file::parse(path, text)?;
        let usable = providers::setup_later(&super::sources(&parsed)?, keys, None);
        usable.with_context(|| format!("{} could not be used then, so nothing was changed", path.display()))
    }

    /// Refuses a key that makes a provider which agentd could not start with. What is wrong without it stays so.
    pub(crate) fn check_key(&self, provider: &str, keys: &Keys) -> Result<()> {
        let sources = super::sources(&self.file)?;
        if providers::setup_later(&sources, keys, None).is_err() {
            return Ok(());
        }
        let usable = providers::setup_later(&sources, keys, Some(provider));
        usable.with_context(|| format!("agentd could not start with {provider} then, so nothing was changed"))
    }
}
