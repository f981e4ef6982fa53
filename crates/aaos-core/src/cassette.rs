//! A cassette: the file that a run's provider traffic is recorded to and replayed from.
//!
//! It is lines of JSON. The first is a [`CassetteHead`]; each further one is an exchange with a provider, which only the
//! gateway's `models` role writes and reads.
//!
//! Invariant: a head has no place for a key, and what stands in a base URL before its host is left out.

use serde::{Deserialize, Serialize};

use crate::name::{ModelName, ProviderName};
use crate::path::AbsPath;
use crate::quantity::Bytes;
use crate::wire::{ModelsSetup, ProviderSetup, WireFormat};

/// The version of the file's form.
pub const CASSETTE_VERSION: u32 = 1;

/// What a cassette is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CassetteUse {
    /// Every exchange is added to its end.
    Record {
        /// Its length so far.
        length: Bytes,
    },
    /// It answers instead of the providers, none of which is reached.
    Replay,
}

/// What the `models` role is told of a cassette. Its descriptor rides last on the same frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CassetteSetup {
    /// What it is for.
    pub purpose: CassetteUse,
    /// This run's own places; those of the recorded run stand in the file.
    pub places: Vec<Place>,
}

/// What a directory is to a run, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceKind {
    /// Where the command was given.
    WorkingDirectory,
    /// The daemon's journal and workspaces.
    StateDirectory,
    /// The home directory of whoever gave the command.
    Home,
}

impl PlaceKind {
    /// Its name in a message.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WorkingDirectory => "working_directory",
            Self::StateDirectory => "state_directory",
            Self::Home => "home",
        }
    }
}

/// A directory whose path may be another one when the run is replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// What it is.
    pub kind: PlaceKind,
    /// Where it is.
    pub path: AbsPath,
}

/// A provider as it was when the run was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedProvider {
    name: ProviderName,
    format: WireFormat,
    base_url: String,
    models: Vec<ModelName>,
    any_model: bool,
    /// Why it was not asked, so that it is not asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The first line of a cassette.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CassetteHead {
    /// [`CASSETTE_VERSION`].
    cassette: u32,
    providers: Vec<RecordedProvider>,
    aliases: Vec<(ModelName, ModelName)>,
    /// Where the recorded run's places were.
    pub places: Vec<Place>,
}

impl CassetteHead {
    /// The head of a run's new cassette.
    #[must_use]
    pub fn of(models: &ModelsSetup, places: Vec<Place>) -> Self {
        let providers = models.providers.iter().map(|provider| RecordedProvider {
            name: provider.name.clone(),
            format: provider.format,
            base_url: without_credentials(&provider.base_url),
            models: provider.models.clone(),
            any_model: provider.any_model,
            problem: provider.problem.clone(),
        });
        let aliases = models.aliases.clone();
        Self { cassette: CASSETTE_VERSION, providers: providers.collect(), aliases, places }
    }

    /// Whether this version can read what follows.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.cassette == CASSETTE_VERSION
    }

    /// The providers of the recorded run, without any key.
    #[must_use]
    pub fn models(&self) -> ModelsSetup {
        let providers = self.providers.iter().map(|provider| ProviderSetup {
            name: provider.name.clone(),
            format: provider.format,
            base_url: provider.base_url.clone(),
            key: None,
            models: provider.models.clone(),
            any_model: provider.any_model,
            headers: Vec::new(),
            slots: None,
            rates: crate::model::Rates::default(),
            problem: provider.problem.clone(),
            key_follows: false,
        });
        ModelsSetup {
            providers: providers.collect(),
            aliases: self.aliases.clone(),
            cassette: None,
            metrics: false,
            spans: None,
        }
    }
}

/// A base URL without `user:password@` and without a query: the gateway refuses both, and a file is not to keep them.
/// Whatever stands before an `@` goes, wherever that is.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return String::new();
    };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{rest}")
}

#[cfg(test)]
mod tests {
    use super::{CassetteHead, Place, PlaceKind};
    use crate::name::{ModelName, ProviderName};
    use crate::path::AbsPath;
    use crate::wire::{ModelsSetup, ProviderSetup, WireFormat};

    fn setup(base_url: &str) -> ModelsSetup {
        let model = |name| ModelName::parse(name).expect("a name");
        let provider = ProviderSetup {
            name: ProviderName::parse("openai").expect("a name"),
            format: WireFormat::OpenAi,
            base_url: base_url.to_owned(),
            key: Some("sk-the-key".to_owned()),
            models: vec![model("m")],
            any_model: true,
            headers: Vec::new(),
            slots: None,
            rates: crate::model::Rates::default(),
            problem: None,
            key_follows: false,
        };
        ModelsSetup {
            providers: vec![provider],
            aliases: vec![(model("smart"), model("m"))],
            cassette: None,
            metrics: false,
            spans: None,
        }
    }

    #[test]
    fn a_head_holds_the_providers_and_no_key() {
        let places = vec![Place { kind: PlaceKind::Home, path: AbsPath::parse("/root").expect("absolute") }];
        let head = CassetteHead::of(&setup("https://h/v1"), places.clone());
        let line = serde_json::to_string(&head).expect("JSON");
        assert!(line.contains("https://h/v1") && !line.contains("the-key"), "{line}");
        let read: CassetteHead = serde_json::from_str(&line).expect("a head");
        assert!(read.is_readable());
        assert_eq!(read.places, places);
        let mut keyless = setup("https://h/v1");
        keyless.providers[0].key = None;
        assert!(read.models() == keyless);
        let newer = line.replace("\"cassette\":1", "\"cassette\":2");
        let newer: CassetteHead = serde_json::from_str(&newer).expect("a head");
        assert!(!newer.is_readable());
    }

    #[test]
    fn what_stands_before_the_host_is_left_out() {
        for (url, kept) in [
            ("https://u:p@h:8/v1", "https://h:8/v1"),
            ("https://u:p@q@h", "https://h"),
            ("https://u:p\\@h", "https://h"),
            ("https://u:?p@h", "https://h"),
            ("https://h/v1?key=p#p", "https://h/v1"),
            ("u:p", ""),
        ] {
            let head = CassetteHead::of(&setup(url), Vec::new());
            assert_eq!(head.models().providers[0].base_url, kept, "{url}");
        }
    }
}
