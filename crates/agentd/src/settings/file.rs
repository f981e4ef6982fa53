//! The configuration file.
//!
//! Invariants: an unknown key is an error; no key of a provider is ever read from here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aaos_core::confinement::ConfinementPolicy;
use serde::Deserialize;

use super::entries::{ProviderEntry, is_key_variable};
use super::otlp::OtlpEntry;
use super::principals::PrincipalEntry;

/// The file of a system service; a user's own comes second.
pub(super) const SYSTEM_FILE: &str = "/etc/aaos/config.toml";
/// Longest file, bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// What the file may say; every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    pub(crate) provider: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) deepseek_base_url: Option<String>,
    pub(crate) anthropic_base_url: Option<String>,
    pub(crate) openai_base_url: Option<String>,
    pub(crate) bootstrap_manifest: Option<PathBuf>,
    pub(crate) prices: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) libexec_dir: Option<PathBuf>,
    pub(crate) max_agents: Option<usize>,
    pub(crate) spawn_agents_batch_cap: Option<usize>,
    pub(crate) max_concurrent_inference: Option<usize>,
    pub(crate) min_inference_delay_ms: Option<u64>,
    pub(crate) substrate: Option<String>,
    pub(crate) tool_time_ms: Option<u64>,
    pub(crate) parked_workers: Option<usize>,
    pub(crate) audit_stdout: Option<bool>,
    pub(crate) socket_group: Option<String>,
    #[serde(default)]
    pub(crate) principals: Vec<PrincipalEntry>,
    #[serde(default)]
    pub(crate) providers: Vec<ProviderEntry>,
    #[serde(default)]
    pub(crate) aliases: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(crate) metrics: MetricsEntry,
    pub(crate) otlp: Option<OtlpEntry>,
    /// What is demanded of confinement; the default is DESIGN's.
    pub(crate) confinement: Option<ConfinementPolicy>,
}

/// Where metrics are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsEntry {
    /// An address of loopback and a port; nobody reads them without it.
    pub(crate) listen: Option<String>,
}

impl ConfigFile {
    /// The variables that hold keys of its providers.
    pub(crate) fn key_variables(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().filter_map(|one| one.key_env.as_deref()).filter(|name| is_key_variable(name))
    }
}

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigFileError {
    /// It is there and cannot be read.
    #[error("cannot read the configuration file {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the TOML that is expected.
    #[error("the configuration file {path} is not usable: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
}

/// Reads the system's file, else the user's; nothing when neither is there.
pub(crate) fn load(user_config: Option<&Path>) -> Result<ConfigFile, ConfigFileError> {
    let user = user_config.map(|home| home.join("aaos/config.toml"));
    for path in [Some(PathBuf::from(SYSTEM_FILE)), user].into_iter().flatten() {
        if let Some(text) = read_if_there(&path)? {
            return parse(&path, &text);
        }
    }
    Ok(ConfigFile::default())
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, ConfigFileError> {
    use std::io::Read;
    let io = |source| ConfigFileError::Io { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    refuse_long(path, text.len())?;
    String::from_utf8(text).map(Some).map_err(|error| io(std::io::Error::other(error)))
}

/// What is cut would mean something else, or be written back so.
fn refuse_long(path: &Path, bytes: usize) -> Result<(), ConfigFileError> {
    let reason = || format!("it is longer than {MAX_FILE_BYTES} bytes; shorten it");
    let malformed = || ConfigFileError::Malformed { path: path.to_owned(), reason: reason() };
    if bytes as u64 > MAX_FILE_BYTES { Err(malformed()) } else { Ok(()) }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigFileError> {
    refuse_long(path, text.len())?;
    toml::from_str(text).map_err(|error| ConfigFileError::Malformed {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{ConfigFile, parse};
    use std::path::Path;

    fn read(text: &str) -> Result<ConfigFile, String> {
        parse(Path::new("c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn known_keys_are_read_and_unknown_ones_refused() {
        assert_eq!(read("max_agents = 7").expect("valid").max_agents, Some(7));
        let error = read("max_agent = 7").expect_err("misspelt");
        assert!(error.contains("max_agent") && error.contains("line 1"), "{error}");
        assert_eq!(read("prices = \"/p.toml\"").expect("valid").prices, Some("/p.toml".into()));
        assert!(read("openai_api_key = \"x\"").is_err(), "keys are not settings");
        let provider = "[[providers]]\nname = \"own\"\nkey_env = \"OWN_KEY\"\n";
        let good = read(provider).expect("the control");
        assert_eq!(good.key_variables().collect::<Vec<_>>(), ["OWN_KEY"]);
        assert!(read(&format!("{provider}key = \"sk-x\"")).is_err(), "not even there");
        let harmful = read(&provider.replace("OWN_KEY", "PATH")).expect("it is refused later");
        assert_eq!(harmful.key_variables().count(), 0, "and taken from nobody meanwhile");
        assert!(read("[confinement]\nrequire = [\"seccomp\"]\nprefer = []\nlandlock_abi = 4").is_ok());
    }
}
