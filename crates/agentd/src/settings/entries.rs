//! `[[providers]]` of the configuration file, as written.
//!
//! Invariant: an unknown key is an error, and none of them takes a provider's key.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

use aaos_core::limits::{MAX_PROVIDER_HEADERS, MAX_PROVIDER_MODELS, MOST_INFERENCE_SLOTS};
use aaos_core::model::Rates;
use aaos_core::wire::{WireFormat, is_reserved_header};
use anyhow::{Result, bail};
use serde::Deserialize;

use super::local::LOCAL;
use super::vars;

/// One provider.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProviderEntry {
    pub(crate) name: String,
    pub(crate) format: Option<Format>,
    pub(crate) base_url: Option<String>,
    #[serde(default)]
    pub(crate) models: Vec<String>,
    pub(crate) any_model: Option<bool>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The variable that holds its key.
    pub(crate) key_env: Option<String>,
    /// The file that holds it.
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) slots: Option<usize>,
    pub(crate) requests_per_minute: Option<u64>,
    pub(crate) tokens_per_minute: Option<u64>,
}

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Anthropic,
    OpenAi,
}

impl From<Format> for WireFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Anthropic => Self::Anthropic,
            Format::OpenAi => Self::OpenAi,
        }
    }
}

impl ProviderEntry {
    /// What may be asked of it in a minute.
    pub(super) fn rates(&self) -> Result<Rates> {
        let positive = |key: &str, number: Option<u64>| match number.map(NonZeroU64::new) {
            Some(None) => bail!("`{key}` is 0; give the most that may be asked in a minute, or leave it out"),
            Some(some) => Ok(some),
            None => Ok(None),
        };
        Ok(Rates {
            requests_per_minute: positive("requests_per_minute", self.requests_per_minute)?,
            tokens_per_minute: positive("tokens_per_minute", self.tokens_per_minute)?,
        })
    }

    /// What can be seen of it alone.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(why) = reserved(&self.name) {
            bail!("{} is {why}; take another name", self.name);
        }
        if let Some(name) = self.key_env.as_deref().filter(|name| !is_key_variable(name)) {
            bail!("`key_env` is {name:?}; name a variable of capital letters that ends in _KEY or _TOKEN");
        }
        if let Some(path) = self.key_file.as_deref().filter(|path| !path.is_absolute()) {
            bail!("`key_file` is {}; name it from the root, with a leading /", path.display());
        }
        if let Some(slots) = self.slots.filter(|slots| !(1..=MOST_INFERENCE_SLOTS).contains(slots)) {
            bail!("`slots` is {slots}; it must be 1 to {MOST_INFERENCE_SLOTS}");
        }
        if self.models.len() > MAX_PROVIDER_MODELS {
            bail!(
                "`models` has {} names; there may be {MAX_PROVIDER_MODELS}: set any_model = true",
                self.models.len()
            );
        }
        if self.headers.len() > MAX_PROVIDER_HEADERS {
            bail!("`headers` has {} entries; there may be {MAX_PROVIDER_HEADERS}", self.headers.len());
        }
        if let Some(name) = self.headers.keys().find(|name| is_reserved_header(name)) {
            bail!("`headers` sets {name:?}, which aaOS sets itself; leave it out, and give a key as a key");
        }
        Ok(())
    }
}

/// What a name of a provider means that no table may have.
pub(crate) fn reserved(provider: &str) -> Option<&'static str> {
    match provider {
        "builtin" => Some("the planner inside aaOS"),
        LOCAL => Some("what this machine runs itself (`agentd model add FILE`)"),
        _ => None,
    }
}

/// Whether a variable may be named as one that holds a key: it is taken out of the environment, so it may be none that
/// anything else needs.
pub(crate) fn is_key_variable(name: &str) -> bool {
    let is_plain =
        name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    is_plain && (name.ends_with("_KEY") || name.ends_with("_TOKEN")) && !vars::is_own(name)
}

#[cfg(test)]
mod tests {
    use super::is_key_variable;

    #[test]
    fn only_a_variable_that_is_named_like_a_key_is_taken_out_of_the_environment() {
        for name in ["OPENROUTER_API_KEY", "HF_TOKEN", "DEEPSEEK_API_KEY", "X2_KEY"] {
            assert!(is_key_variable(name), "{name}");
        }
        for name in ["PATH", "HOME", "LD_PRELOAD", "MY_SECRET", "", "lower_KEY", "A=B_KEY", "A\0_KEY"] {
            assert!(!is_key_variable(name), "{name}");
        }
    }
}
