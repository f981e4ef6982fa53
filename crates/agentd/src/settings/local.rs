//! The local models that were added: what lies of them in the state directory, and which of them is the active one.
//!
//! Invariants: weights lie under their SHA-256, so that what is there is what its name says; a card is written whole or
//! not at all, after its weights; everything here belongs to the daemon's own user. A provider that is configured
//! stands before a local model, and a local model before the planner.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use aaos_core::limits::{MODEL_THREADS, MODEL_WINDOW_TOKENS};
use aaos_core::name::ModelName;
use aaos_core::quantity::{Bytes, Timestamp, Tokens};
use aaos_core::wire::ModelsSetup;
use aaos_runtime::{LocalConfig, LocalWeights};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use super::providers::{self, Choice, Sources};

/// The provider's name.
pub(crate) const LOCAL: &str = "local";
/// What stands behind the name of a card.
const CARD: &str = ".json";
/// Longest card.
const MAX_CARD_BYTES: u64 = 64 * 1024;
/// Longest name of a local model.
const MAX_NAME_CHARS: usize = 64;
/// Names that mean something else.
const TAKEN: [&str; 4] = ["smart", "fast", "builtin", LOCAL];

/// What is known of one model that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Card {
    /// What it is called here.
    pub(crate) name: ModelName,
    /// Of its weights, hexadecimal.
    pub(crate) sha256: String,
    /// Size of its weights.
    pub(crate) bytes: Bytes,
    /// Family of the model, as the file says.
    pub(crate) architecture: String,
    /// What its maker calls it.
    pub(crate) title: Option<String>,
    /// Parameters, as the file says.
    pub(crate) parameters: u64,
    /// Tokens of one conversation.
    pub(crate) window: Tokens,
    /// When it was added.
    pub(crate) added_at: Timestamp,
    /// Its licence, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) licence: Option<String>,
}

/// The directory of the models.
#[derive(Debug, Clone)]
pub(crate) struct Shelf(PathBuf);

impl Shelf {
    /// Of this state directory; it need not exist.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("models"))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    /// Where weights lie.
    pub(crate) fn weights(&self, sha256: &str) -> PathBuf {
        self.0.join(format!("{sha256}.gguf"))
    }

    /// Where a card lies.
    pub(crate) fn card(&self, name: &ModelName) -> PathBuf {
        self.0.join(format!("{name}{CARD}"))
    }

    /// Every card, the newest first.
    pub(crate) fn cards(&self) -> Result<Vec<Card>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", self.0.display())),
        };
        let mut cards = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", self.0.display()))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(name) = name.strip_suffix(CARD) else { continue };
            let file = match fs::File::open(&path) {
                // It was removed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                file => file.map_err(anyhow::Error::from),
            };
            cards.push(file.and_then(|file| read_card(file, name)).with_context(|| {
                format!("the card {} cannot be used; remove it and add the model again", path.display())
            })?);
        }
        cards.sort_by(|one, other| (other.added_at, &one.name).cmp(&(one.added_at, &other.name)));
        Ok(cards)
    }
}

fn read_card(file: fs::File, name: &str) -> Result<Card> {
    let mut text = String::new();
    file.take(MAX_CARD_BYTES).read_to_string(&mut text)?;
    let card: Card = serde_json::from_str(&text)?;
    let is_hash = card.sha256.len() == 64 && card.sha256.bytes().all(|one| one.is_ascii_hexdigit());
    ensure!(card.name.as_str() == name && is_hash, "it is not what its name says");
    local_name(name)?;
    Ok(card)
}

/// A name that a local model may have: it is a file's name, too.
pub(crate) fn local_name(text: &str) -> Result<ModelName> {
    let is_plain = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || "._-".contains(one);
    let begins = text.starts_with(|one: char| one.is_ascii_alphanumeric());
    let fits = begins && text.len() <= MAX_NAME_CHARS && text.chars().all(is_plain);
    if !fits || TAKEN.contains(&text) {
        bail!(
            "{text:?} cannot be the name of a local model: at most {MAX_NAME_CHARS} of a-z, 0-9, `.`, `_` and `-`, \
             a letter or digit first, and none of {}",
            TAKEN.join(", ")
        );
    }
    Ok(ModelName::parse(text)?)
}

/// Whether this machine's own models are to be what agents think with.
pub(crate) fn is_chosen(sources: &Sources) -> bool {
    sources.choice.provider.as_deref() == Some(LOCAL)
}

/// All providers: the name of the active one, what the gateway is told, and what this machine runs itself.
pub(crate) fn place(
    sources: &Sources,
    keys: &Keys,
    shelf: &Shelf,
    has_program: bool,
) -> Result<(String, ModelsSetup, LocalConfig)> {
    let cards = shelf.cards()?;
    let Choice { provider, model, is_of_environment } = &sources.choice;
    let is_named = is_chosen(sources);
    if is_named && cards.is_empty() {
        bail!(
            "provider local has no model; fetch one with `agentd model pull qwen2.5-coder-1.5b`, or add one with `agentd model \
             add FILE`"
        );
    }
    if is_named && !has_program {
        bail!("provider local needs the program aaos-model beside agentd; build it, or set AAOS_LIBEXEC_DIR");
    }
    let own = cards.iter().find(|card| model.as_deref() == Some(card.name.as_str()));
    if let (true, Some(name), None) = (is_named, model, own) {
        bail!("no local model is called {name:?}; `agentd model list` names those that are there");
    }
    let choice = Choice {
        provider: provider.clone().filter(|_| !is_named),
        model: model.clone().filter(|_| own.is_none()),
        is_of_environment: *is_of_environment,
    };
    let planner_alone = provider.is_none() && choice.model.is_none();
    let (mut name, mut models) = providers::setup(&Sources { choice, ..sources.clone() }, keys)?;
    let planner_alone = planner_alone && name == "builtin";
    let active = own.or(cards.first()).filter(|_| is_named || (planner_alone && has_program));
    let mut local = config(&cards, shelf);
    if let Some(active) = active {
        LOCAL.clone_into(&mut name);
        // Aliases of the file mean what they say, unless the environment says otherwise for this start.
        let is_own = |alias: &ModelName| {
            let is_usual = ["smart", "fast"].contains(&alias.as_str());
            is_usual && (*is_of_environment || !sources.aliases.contains_key(alias.as_str()))
        };
        let (names, others) =
            std::mem::take(&mut models.aliases).into_iter().partition(|(alias, _)| is_own(alias));
        models.aliases = others;
        let names: Vec<(ModelName, ModelName)> = names;
        // The active one stands first.
        local.models.sort_by_key(|one| one.name != active.name);
        local.aliases = names.into_iter().map(|(alias, _)| (alias, active.name.clone())).collect();
    }
    Ok((name, models, local))
}

fn config(cards: &[Card], shelf: &Shelf) -> LocalConfig {
    let weights = |card: &Card| LocalWeights {
        name: card.name.clone(),
        file: shelf.weights(&card.sha256),
        bytes: card.bytes,
        window: card.window,
    };
    // Threads that compute wait for each other at every step, so one processor is left to everything else.
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = u32::try_from(processors.saturating_sub(1)).unwrap_or(u32::MAX);
    LocalConfig {
        models: cards.iter().map(weights).collect(),
        aliases: Vec::new(),
        window: Tokens(MODEL_WINDOW_TOKENS),
        threads: threads.clamp(1, MODEL_THREADS),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use aaos_core::quantity::{Bytes, Timestamp, Tokens};
    use tempfile::TempDir;

    use super::{Card, Shelf, local_name, place};
    use crate::settings::keys::Keys;
    use crate::settings::providers::{Choice, Sources};

    fn shelf(names: &[&str]) -> (TempDir, Shelf) {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::of(folder.path());
        fs::create_dir_all(shelf.directory()).expect("made");
        for (at, name) in (1..).zip(names) {
            let card = Card {
                name: local_name(name).expect("a name"),
                sha256: "0".repeat(64),
                bytes: Bytes(1),
                architecture: "llama".to_owned(),
                title: None,
                parameters: 1,
                window: Tokens(2_048),
                added_at: Timestamp(at),
                licence: None,
            };
            let text = serde_json::to_string(&card).expect("plain");
            fs::write(shelf.card(&card.name), text).expect("written");
        }
        (folder, shelf)
    }

    #[test]
    fn a_card_that_is_removed_meanwhile_is_no_error() {
        let (_folder, shelf) = shelf(&["one"]);
        // It is listed, and cannot be opened any more.
        let gone = shelf.card(&local_name("two").expect("a name"));
        std::os::unix::fs::symlink("/nonexistent", gone).expect("linked");
        let cards = shelf.cards().expect("the other one");
        assert_eq!(cards.iter().map(|card| card.name.as_str()).collect::<Vec<_>>(), ["one"]);
    }

    /// The active provider and what `smart` means there, as far as this machine runs it itself.
    fn active(choice: (Option<&str>, Option<&str>), key: bool, names: &[&str], has_program: bool) -> String {
        let (_folder, shelf) = shelf(names);
        let keys: Keys =
            key.then(|| ("OPENAI_API_KEY".to_owned(), "secret".to_owned())).into_iter().collect();
        let choice = Choice {
            provider: choice.0.map(str::to_owned),
            model: choice.1.map(str::to_owned),
            is_of_environment: true,
        };
        let sources = Sources { choice, ..Sources::default() };
        let placed = place(&sources, &keys, &shelf, has_program);
        let (name, models, local) = match placed {
            Ok(placed) => placed,
            Err(error) => return format!("{error:#}"),
        };
        assert_eq!(local.models.len(), names.len(), "each can be asked by its name");
        assert_eq!(models.aliases.is_empty(), !local.aliases.is_empty(), "an alias has one provider");
        let means = local.aliases.first().map_or("", |(_, means)| means.as_str());
        format!("{name} {means}")
    }

    #[test]
    fn a_local_model_stands_behind_keys_and_before_the_planner() {
        const NOBODY: (Option<&str>, Option<&str>) = (None, None);
        for (choice, key, names, has_program, wanted) in [
            (NOBODY, false, &[][..], true, "builtin "),
            (NOBODY, false, &["old", "new"], true, "local new"),
            (NOBODY, false, &["old", "new"], false, "builtin "),
            (NOBODY, true, &["new"], true, "openai "),
            ((Some("local"), None), true, &["old", "new"], true, "local new"),
            ((Some("local"), Some("old")), true, &["old", "new"], true, "local old"),
            ((None, Some("old")), false, &["old", "new"], true, "local old"),
            ((Some("builtin"), None), false, &["new"], true, "builtin "),
        ] {
            assert_eq!(active(choice, key, names, has_program), wanted, "{choice:?} {key} {names:?}");
        }
        for (choice, names, has_program, words) in [
            ((Some("local"), None), &[][..], true, "has no model"),
            ((Some("local"), None), &["new"], false, "needs the program"),
            ((Some("local"), Some("other")), &["new"], true, "no local model is called"),
        ] {
            let told = active(choice, false, names, has_program);
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn a_name_is_a_plain_file_name() {
        for name in ["smol", "qwen2.5-coder_1b", "7"] {
            assert!(local_name(name).is_ok(), "{name}");
        }
        for name in ["", ".hidden", "../x", "a/b", "A", "a b", "smart", "local", &"x".repeat(65), "a\n"] {
            assert!(local_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_card_that_is_not_what_its_name_says_is_an_error() {
        let (_folder, shelf) = shelf(&["one"]);
        let one = local_name("one").expect("a name");
        let text = fs::read_to_string(shelf.card(&one)).expect("read");
        assert_eq!(shelf.cards().expect("the control").len(), 1);
        for wrong in [text.replace("\"one\"", "\"two\""), text.replace("0000", "../x"), "{".to_owned()] {
            fs::write(shelf.card(&one), wrong).expect("written");
            assert!(shelf.cards().is_err());
        }
    }
}
