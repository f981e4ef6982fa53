//! Which providers are configured, and what the aliases mean.
//!
//! Invariants: a provider that was asked for by name and cannot be configured is an error, not a silent change to
//! another; an alias leads to the providers that it names and to no other; no key is ever in the configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aaos_core::limits::{MAX_ALIAS_MEANINGS, MAX_ALIASES, MAX_PROVIDERS};
use aaos_core::model::Rates;
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::route;
use aaos_core::wire::{ExtraHeader, ModelsSetup, ProviderSetup, WireFormat};
use aaos_runtime::KeyFile;
use anyhow::{Context, Result, bail};

use super::entries::ProviderEntry;
use super::keys::Keys;
use super::vars::{self, Var};

/// What the operator chose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice {
    pub(crate) provider: Option<String>,
    pub(crate) model: Option<String>,
    /// Whether one of the two was chosen for this start alone: then it stands over the file's aliases.
    pub(crate) is_of_environment: bool,
}

/// Base URLs that differ from the defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct BaseUrls {
    pub(crate) deepseek: Option<String>,
    pub(crate) anthropic: Option<String>,
    pub(crate) openai: Option<String>,
}

/// Everything that says something about providers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) choice: Choice,
    pub(crate) urls: BaseUrls,
    pub(crate) entries: Vec<ProviderEntry>,
    /// What each alias means, in the order in which it is asked.
    pub(crate) aliases: BTreeMap<String, Vec<String>>,
    pub(crate) places: KeyPlaces,
}

/// Directories in which a file that is named like a provider holds its key.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyPlaces {
    /// The service manager's.
    pub(crate) credentials: Option<PathBuf>,
    /// The user's.
    pub(crate) own: Option<PathBuf>,
}

/// A provider that aaOS knows, and its models for hard and for light work.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) format: WireFormat,
    pub(super) base_url: &'static str,
    pub(super) key_env: Option<Var>,
    smart: &'static str,
    fast: &'static str,
    any_model: bool,
}

const DEEPSEEK: Known = Known {
    name: "deepseek",
    format: WireFormat::OpenAi,
    base_url: vars::DEEPSEEK_BASE_URL.default,
    key_env: Some(vars::DEEPSEEK_API_KEY),
    smart: "deepseek-reasoner",
    fast: "deepseek-chat",
    any_model: false,
};
const ANTHROPIC: Known = Known {
    name: "anthropic",
    format: WireFormat::Anthropic,
    base_url: vars::ANTHROPIC_BASE_URL.default,
    key_env: Some(vars::ANTHROPIC_API_KEY),
    smart: "claude-sonnet-4-5",
    fast: "claude-haiku-4-5",
    any_model: true,
};
const OPENAI: Known = Known {
    name: "openai",
    format: WireFormat::OpenAi,
    base_url: vars::OPENAI_BASE_URL.default,
    key_env: Some(vars::OPENAI_API_KEY),
    smart: "gpt-4o",
    fast: "gpt-4o-mini",
    any_model: true,
};
const BUILTIN: Known = Known {
    name: "builtin",
    format: WireFormat::Builtin,
    base_url: "",
    key_env: None,
    smart: "builtin",
    fast: "builtin",
    any_model: false,
};
/// Those with a server.
const REMOTE: [&Known; 3] = [&DEEPSEEK, &ANTHROPIC, &OPENAI];

/// The provider of this name that aaOS knows without being told, and that has a server.
pub(super) fn known(name: &str) -> Option<&'static Known> {
    REMOTE.into_iter().find(|known| known.name == name)
}

/// The variable of a provider's key, where aaOS knows one.
pub(super) fn known_variable(provider: &str) -> Option<&'static str> {
    known(provider).and_then(|known| known.key_env).map(|var| var.name)
}

/// A provider that is configured, and what the usual aliases mean there.
#[derive(Debug)]
struct Found {
    setup: ProviderSetup,
    smart: Option<ModelName>,
    fast: Option<ModelName>,
}

/// The configured providers, preferred first, and the name of the preferred one.
pub(crate) fn setup(sources: &Sources, keys: &Keys) -> Result<(String, ModelsSetup)> {
    let mut found = all(sources, keys)?;
    prefer(&mut found, &sources.choice)?;
    if found.len() > MAX_PROVIDERS {
        let count = found.len();
        bail!("{count} providers are configured with builtin; leave some out, there may be {MAX_PROVIDERS}");
    }
    let usual = usual_aliases(&found[0], &sources.choice)?;
    let name = found[0].setup.name.to_string();
    let providers: Vec<ProviderSetup> = found.into_iter().map(|one| one.setup).collect();
    let aliases = aliases(&usual, sources, &providers)?;
    Ok((name, ModelsSetup { providers, aliases, ..ModelsSetup::default() }))
}

/// Whether this can be set up once what is chosen, and this provider, have their keys. A choice that only a later word
/// can make good says nothing: nothing that is added makes it worse.
pub(super) fn setup_later(sources: &Sources, keys: &Keys, with_key: Option<&str>) -> Result<()> {
    let (mut sources, mut keys) = (sources.clone(), keys.clone());
    let chosen = sources.choice.provider.clone();
    for provider in [chosen.as_deref(), with_key].into_iter().flatten() {
        if let Some(var) = known_variable(provider) {
            keys.entry(var.to_owned()).or_default();
        }
    }
    let is_entry = |name: &str| sources.entries.iter().any(|entry| entry.name == name);
    let is_to_be_had = |name: &str| known(name).is_some() || name == BUILTIN.name || is_entry(name);
    if chosen.is_some_and(|name| !is_to_be_had(&name)) {
        sources.choice = Choice::default();
    }
    setup(&sources, &keys).map(drop)
}

/// The files that hold keys of these providers; a key that was given stands over a file.
pub(crate) fn key_files(sources: &Sources, models: &ModelsSetup) -> BTreeMap<ProviderName, KeyFile> {
    let keyless =
        models.providers.iter().filter(|one| one.key.is_none() && one.format != WireFormat::Builtin);
    keyless.filter_map(|one| Some((one.name.clone(), key_file_of(one.name.as_str(), sources)?))).collect()
}

/// The file that holds the key of a provider, if there is one: that of the configuration, else the first that is there.
fn key_file_of(name: &str, sources: &Sources) -> Option<KeyFile> {
    let entry = sources.entries.iter().find(|entry| entry.name == name);
    if let Some(path) = entry.and_then(|entry| entry.key_file.clone()) {
        return Some(KeyFile::of_operator(path));
    }
    let within =
        |place: &Option<PathBuf>| place.as_ref().map(|place| place.join(name)).filter(|path| path.exists());
    let credential = within(&sources.places.credentials).map(KeyFile::of_service_manager);
    credential.or_else(|| within(&sources.places.own).map(KeyFile::of_operator))
}

/// Those of the file, then those that the environment gives a key or an address, then what needs neither.
fn all(sources: &Sources, keys: &Keys) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in &sources.entries {
        let one = of_entry(entry, sources, keys)
            .with_context(|| format!("[[providers]] {:?} in the configuration file", entry.name))?;
        if found.iter().any(|other: &Found| other.setup.name == one.setup.name) {
            bail!("the configuration file has two [[providers]] of the name {}; rename one", one.setup.name);
        }
        found.push(one);
    }
    for known in REMOTE {
        if found.iter().any(|other| other.setup.name.as_str() == known.name) {
            continue;
        }
        let (key, url) = (key_of(known.key_env, keys), own_url(known, &sources.urls));
        let is_local = known.name == OPENAI.name && url.is_some();
        if key.is_some() || is_local || key_file_of(known.name, sources).is_some() {
            found.push(of_known(known, url, key)?);
        } else if is_meant(known.name, sources) {
            let mut one = of_known(known, url, None)?;
            one.setup.problem = Some(no_key(known));
            found.push(one);
        }
    }
    found.push(of_known(&BUILTIN, None, None)?);
    Ok(found)
}

/// Why a provider that an alias names is not asked.
fn no_key(known: &Known) -> String {
    let var = known.key_env.map_or("its key", |var| var.name);
    format!("it has no key; run `agentd configure {}`, or set {var}", known.name)
}

/// Whether an alias of the file names this provider.
fn is_meant(provider: &str, sources: &Sources) -> bool {
    let meanings = sources.aliases.values().flatten();
    meanings.filter_map(|meaning| split(meaning)).any(|(named, _)| named == provider)
}

/// A meaning of an alias as its provider and the model there.
fn split(meaning: &str) -> Option<(&str, &str)> {
    meaning
        .split_once("::")
        .filter(|(named, _)| ProviderName::parse(named).is_ok())
        .or_else(|| meaning.split_once('/'))
}

fn key_of(var: Option<Var>, keys: &Keys) -> Option<String> {
    keys.get(var?.name).cloned()
}

fn own_url(known: &Known, urls: &BaseUrls) -> Option<String> {
    match known.name {
        "deepseek" => urls.deepseek.clone(),
        "anthropic" => urls.anthropic.clone(),
        "openai" => urls.openai.clone(),
        _ => None,
    }
}

fn of_known(known: &Known, url: Option<String>, key: Option<String>) -> Result<Found> {
    let url = url.unwrap_or_else(|| known.base_url.to_owned());
    let (smart, fast) = (ModelName::parse(known.smart)?, ModelName::parse(known.fast)?);
    let mut models = vec![smart.clone()];
    models.extend((fast != smart).then(|| fast.clone()));
    let setup = ProviderSetup {
        name: ProviderName::parse(known.name)?,
        format: known.format,
        base_url: checked_url(&url, known.name, known.format)?,
        key,
        models,
        any_model: known.any_model,
        headers: Vec::new(),
        slots: None,
        rates: Rates::default(),
        problem: None,
        key_follows: false,
    };
    Ok(Found { setup, smart: Some(smart), fast: Some(fast) })
}

/// A provider as the file has it; what it leaves out of one that aaOS knows is what aaOS knows.
fn of_entry(entry: &ProviderEntry, sources: &Sources, keys: &Keys) -> Result<Found> {
    entry.check()?;
    let known = known(&entry.name);
    let url = known.and_then(|known| own_url(known, &sources.urls)).or_else(|| entry.base_url.clone());
    let url = url.or_else(|| known.map(|known| known.base_url.to_owned()));
    let url = url.context("`base_url` is missing; only deepseek, anthropic and openai have a default")?;
    let format = entry.format.map(WireFormat::from).or_else(|| known.map(|known| known.format));
    let format =
        format.context("`format` is missing; write format = \"openai\" or format = \"anthropic\"")?;
    let names = entry.models.iter().map(|name| model(name));
    let mut models = names.collect::<Result<Vec<ModelName>>>()?;
    if let Some(known) = known.filter(|_| models.is_empty()) {
        models = vec![model(known.smart)?, model(known.fast)?];
    }
    let key = entry.key_env.as_ref().and_then(|var| keys.get(var).cloned());
    let key = key.or_else(|| key_of(known.and_then(|known| known.key_env), keys));
    let any_model =
        entry.any_model.unwrap_or_else(|| known.map_or(models.is_empty(), |known| known.any_model));
    let (smart, fast) = (models.first().cloned(), models.get(1).or(models.first()).cloned());
    let setup = ProviderSetup {
        name: ProviderName::parse(&entry.name)?,
        format,
        base_url: checked_url(&url, &entry.name, format)?,
        key,
        models,
        any_model,
        headers: entry.headers.iter().map(|(name, value)| header(name, value)).collect(),
        slots: entry.slots,
        rates: entry.rates()?,
        problem: None,
        key_follows: false,
    };
    Ok(Found { setup, smart, fast })
}

fn header(name: &str, value: &str) -> ExtraHeader {
    ExtraHeader { name: name.to_owned(), value: value.to_owned() }
}

fn model(name: &str) -> Result<ModelName> {
    ModelName::parse(name).with_context(|| format!("the model name {name:?}"))
}

fn checked_url(url: &str, name: &str, format: WireFormat) -> Result<String> {
    let url = url.trim_end_matches('/').to_owned();
    if format != WireFormat::Builtin && !url.starts_with("https://") && !url.starts_with("http://") {
        bail!("the base URL {url:?} of {name} starts with neither https:// nor http://");
    }
    Ok(url)
}

/// Puts the chosen provider first, and a chosen model among those that it serves.
fn prefer(found: &mut [Found], choice: &Choice) -> Result<()> {
    let preferred = match &choice.provider {
        // One that only an alias names is not there for anything else.
        None => found.iter().position(|one| one.setup.problem.is_none()).unwrap_or_default(),
        Some(name) => {
            let is_it = |one: &Found| one.setup.name.as_str() == name && one.setup.problem.is_none();
            found.iter().position(is_it).with_context(|| {
                let names: Vec<_> = found.iter().map(|one| one.setup.name.as_str()).collect();
                let names = names.join(", ");
                format!("provider {name:?} is not configured; configured: {names}. Set its key or base URL")
            })?
        }
    };
    found[..=preferred].rotate_right(1);
    if let Some(name) = &choice.model {
        let name = model(name)?;
        if !found[0].setup.models.contains(&name) {
            found[0].setup.models.push(name);
        }
    }
    Ok(())
}

type Pairs = Vec<(ModelName, ModelName)>;

/// `smart` and `fast` as they are without a word about them in the file.
fn usual_aliases(preferred: &Found, choice: &Choice) -> Result<Pairs> {
    let chosen = choice.model.as_deref().map(model).transpose()?;
    let usual = [("smart", &preferred.smart), ("fast", &preferred.fast)];
    let mut pairs = Vec::new();
    for (alias, means) in usual {
        if let Some(means) = chosen.as_ref().or(means.as_ref()) {
            pairs.push((ModelName::parse(alias)?, means.clone()));
        }
    }
    Ok(pairs)
}

/// What each alias means, best first: the file's word, unless the environment says otherwise for this start.
fn aliases(
    usual: &[(ModelName, ModelName)],
    sources: &Sources,
    providers: &[ProviderSetup],
) -> Result<Pairs> {
    if sources.aliases.len() > MAX_ALIASES {
        bail!(
            "[aliases] in the configuration file has {} entries; there may be {MAX_ALIASES}",
            sources.aliases.len()
        );
    }
    let mut own = Vec::new();
    for (name, meanings) in &sources.aliases {
        let in_alias = || format!("[aliases] {name:?} in the configuration file");
        let alias = model(name).with_context(in_alias)?;
        let all = meanings;
        if !(1..=MAX_ALIAS_MEANINGS).contains(&all.len()) {
            bail!("{} means {} models; name 1 to {MAX_ALIAS_MEANINGS}", in_alias(), all.len());
        }
        for meaning in all {
            own.push((alias.clone(), meaning_of(meaning, providers).with_context(in_alias)?));
        }
    }
    let is_chosen =
        |alias: &ModelName| sources.choice.is_of_environment && usual.iter().any(|(one, _)| one == alias);
    own.retain(|(alias, _)| !is_chosen(alias));
    let mut pairs: Pairs =
        usual.iter().filter(|(alias, _)| !own.iter().any(|(other, _)| other == alias)).cloned().collect();
    pairs.append(&mut own);
    Ok(pairs)
}

/// A model with its provider, which serves it.
fn meaning_of(meaning: &str, providers: &[ProviderSetup]) -> Result<ModelName> {
    let names = || providers.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    let (named, _) =
        split(meaning).with_context(|| format!("{meaning:?} names no provider; write PROVIDER/MODEL"))?;
    let name = model(meaning)?;
    if !providers.iter().any(|one| one.name.as_str() == named) {
        bail!("{meaning:?} names the provider {named:?}, which is not configured; configured: {}", names());
    }
    match route::route(providers, &name) {
        Some(route) if route.provider.name.as_str() == named => Ok(name),
        Some(route) => {
            bail!("{meaning:?} is a model of {}; rename the provider {named}", route.provider.name)
        }
        None => bail!("{meaning:?} is not served: {named} lists other models; add it to its `models`"),
    }
}

#[cfg(test)]
mod tests {
    use super::{BaseUrls, Choice, KeyPlaces, Rates, Sources, key_files, setup};
    use crate::settings::entries::ProviderEntry;
    use crate::settings::keys::Keys;
    use aaos_runtime::KeyFile;
    use std::num::NonZeroU64;

    fn keys(names: &[&str]) -> Keys {
        names.iter().map(|name| ((*name).to_owned(), "secret".to_owned())).collect()
    }

    #[test]
    fn without_a_key_the_builtin_planner_is_all_there_is() {
        let (name, models) = setup(&Sources::default(), &Keys::new()).expect("works");
        assert_eq!(name, "builtin");
        assert_eq!(models.providers.len(), 1);
        assert!(models.aliases.iter().all(|(_, means)| means.as_str() == "builtin"));
    }

    #[test]
    fn the_first_key_wins_unless_a_provider_is_named() {
        let both = keys(&["DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY"]);
        let mut sources = Sources::default();
        let (name, models) = setup(&sources, &both).expect("works");
        assert_eq!((name.as_str(), models.aliases[0].1.as_str()), ("deepseek", "deepseek-reasoner"));
        sources.choice.provider = Some("anthropic".into());
        sources.choice.model = Some("claude-x".into());
        let (name, models) = setup(&sources, &both).expect("works");
        assert_eq!((name.as_str(), models.aliases[1].1.as_str()), ("anthropic", "claude-x"));
        assert_eq!(models.providers[0].name.as_str(), "anthropic");
        assert_eq!(models.providers.len(), 3);
    }

    #[test]
    fn a_base_url_alone_is_a_local_server() {
        let urls = BaseUrls { openai: Some("http://127.0.0.1:8080/v1/".into()), ..BaseUrls::default() };
        let (name, models) = setup(&Sources { urls, ..Sources::default() }, &Keys::new()).expect("works");
        assert_eq!(name, "openai");
        assert_eq!(models.providers[0].base_url, "http://127.0.0.1:8080/v1");
        assert!(models.providers[0].key.is_none());
    }

    #[test]
    fn a_provider_that_is_not_configured_is_an_error() {
        let choice = Choice { provider: Some("anthropic".into()), ..Choice::default() };
        let error = setup(&Sources { choice, ..Sources::default() }, &Keys::new()).expect_err("no key");
        assert!(error.to_string().contains("configured: builtin"), "{error}");
    }

    fn entries(text: &str) -> (Vec<ProviderEntry>, std::collections::BTreeMap<String, Vec<String>>) {
        #[derive(serde::Deserialize)]
        struct File {
            #[serde(default)]
            providers: Vec<ProviderEntry>,
            #[serde(default)]
            aliases: std::collections::BTreeMap<String, Vec<String>>,
        }
        let File { providers, aliases } = toml::from_str(text).expect("TOML");
        (providers, aliases)
    }

    fn sources(text: &str) -> Sources {
        let (entries, aliases) = entries(text);
        Sources { entries, aliases, ..Sources::default() }
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", setup(&sources(text), &keys(&["DEEPSEEK_API_KEY"])).expect_err("refused"))
    }

    const ROUTER: &str = "[[providers]]\nname = \"router\"\nformat = \"openai\"\nbase_url = \"https://r.example/v1/\"\n\
                          key_env = \"ROUTER_KEY\"\nmodels = [\"big\", \"small\"]\nslots = 9\nrequests_per_minute = 50\n\
                          headers = { X-Title = \"aaOS\" }\n";

    #[test]
    fn the_file_adds_providers_before_those_of_the_environment() {
        let (name, models) =
            setup(&sources(ROUTER), &keys(&["ROUTER_KEY", "DEEPSEEK_API_KEY"])).expect("works");
        let names: Vec<_> = models.providers.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((name.as_str(), names), ("router", vec!["router", "deepseek", "builtin"]));
        let router = &models.providers[0];
        assert_eq!(
            (router.base_url.as_str(), router.any_model, router.slots),
            ("https://r.example/v1", false, Some(9))
        );
        let (requests_per_minute, tokens_per_minute) = (NonZeroU64::new(50), None);
        assert_eq!(router.rates, Rates { requests_per_minute, tokens_per_minute });
        assert_eq!(router.key.as_deref(), Some("secret"));
        assert_eq!((router.headers[0].name.as_str(), router.headers[0].value.as_str()), ("X-Title", "aaOS"));
        let means: Vec<_> = models.aliases.iter().map(|(alias, means)| format!("{alias}={means}")).collect();
        assert_eq!(means, ["smart=big", "fast=small"], "the first is for hard work, the second for light");
    }

    #[test]
    fn the_file_says_less_about_a_provider_that_is_known() {
        let (name, models) =
            setup(&sources("[[providers]]\nname = \"anthropic\"\nslots = 5"), &keys(&["ANTHROPIC_API_KEY"]))
                .expect("works");
        let (plain_name, plain) = setup(&sources(""), &keys(&["ANTHROPIC_API_KEY"])).expect("the control");
        assert_eq!(name, plain_name);
        assert_eq!(plain.providers[0].slots, None);
        let mut same = models.providers[0].clone();
        same.slots = None;
        assert_eq!((same, models.aliases), (plain.providers[0].clone(), plain.aliases));
    }

    #[test]
    fn an_alias_has_several_meanings_in_order() {
        let text = format!(
            "{ROUTER}[aliases]\nsmart = [\"anthropic/claude-x\", \"router::big\", \"deepseek/deepseek-chat\"]\n\
             cheap = [\"router/small\"]\n"
        );
        let mut sources = sources(&text);
        let keys = keys(&["ROUTER_KEY", "DEEPSEEK_API_KEY"]);
        let (name, models) = setup(&sources, &keys).expect("works");
        assert_eq!(name, "router", "one that only an alias names is not preferred");
        let of = |models: &aaos_core::wire::ModelsSetup, alias: &str| -> Vec<String> {
            let pairs = models.aliases.iter().filter(|(name, _)| name.as_str() == alias);
            pairs.map(|(_, means)| means.to_string()).collect()
        };
        assert_eq!(of(&models, "smart"), ["anthropic/claude-x", "router::big", "deepseek/deepseek-chat"]);
        assert_eq!(
            (of(&models, "fast"), of(&models, "cheap")),
            (vec!["small".to_owned()], vec!["router/small".to_owned()])
        );
        let problems: Vec<_> = models.providers.iter().filter_map(|one| one.problem.as_deref()).collect();
        assert_eq!(problems, ["it has no key; run `agentd configure anthropic`, or set ANTHROPIC_API_KEY"]);
        sources.choice = Choice { provider: Some("deepseek".into()), model: None, is_of_environment: true };
        let (_, models) = setup(&sources, &keys).expect("works");
        assert_eq!(of(&models, "smart"), ["deepseek-reasoner"], "the environment is for this start");
        assert_eq!(of(&models, "cheap"), ["router/small"], "and says nothing of the others");
        sources.choice.is_of_environment = false;
        assert_eq!(
            of(&setup(&sources, &keys).expect("works").1, "smart").len(),
            3,
            "the file's own choice says nothing"
        );
        sources.choice.provider = Some("anthropic".into());
        assert!(setup(&sources, &keys).is_err(), "what has no key cannot be preferred");
    }

    #[test]
    fn what_the_file_says_wrongly_is_refused_in_words() {
        let entry = |lines: &str| format!("[[providers]]\nname = \"own\"\nformat = \"openai\"\n{lines}\n");
        let good = entry("base_url = \"http://h\"\nmodels = [\"m\"]");
        assert!(setup(&sources(&good), &keys(&[])).is_ok(), "the control");
        let alias = |means: &str| format!("{good}[aliases]\nsmart = {means}\n");
        for (text, said) in [
            (entry("models = []"), "`base_url` is missing"),
            (entry("base_url = \"ftp://h\""), "neither https:// nor http://"),
            (good.replace("openai", "openai\"\nkey_env = \"PATH"), "ends in _KEY or _TOKEN"),
            (good.replace("\"own\"", "\"builtin\""), "the planner inside aaOS; take another name"),
            (
                good.replace("\"own\"", "\"local\""),
                "runs itself (`agentd model add FILE`); take another name",
            ),
            (good.replace("format = \"openai\"", ""), "`format` is missing"),
            (format!("{good}{good}"), "two [[providers]]"),
            (good.replace("openai\"", "openai\"\nkey_file = \"keys/own\""), "a leading /"),
            (good.replace("openai\"", "openai\"\nslots = 0"), "slots"),
            (good.replace("openai\"", "openai\"\nslots = 129"), "slots"),
            (good.replace("openai\"", "openai\"\ntokens_per_minute = 0"), "`tokens_per_minute` is 0"),
            (good.replace("openai\"", "openai\"\nheaders = { authorization = \"x\" }"), "authorization"),
            (alias("[\"m\"]"), "write PROVIDER/MODEL"),
            (alias("[\"nobody/m\"]"), "\"nobody\", which is not configured"),
            (alias("[\"own/other\"]"), "add it to its `models`"),
            (alias("[]"), "name 1 to 8"),
        ] {
            let error = refusal(&text);
            assert!(error.contains(said), "{text}: {error}");
        }
        let many = |count: usize| -> String {
            (0..count).map(|at| good.replace("\"own\"", &format!("\"own{at}\""))).collect()
        };
        assert!(setup(&sources(&many(15)), &keys(&[])).is_ok(), "builtin is the sixteenth");
        let error = format!("{:#}", setup(&sources(&many(16)), &keys(&[])).expect_err("bounded"));
        assert!(error.contains("17 providers are configured with builtin; leave some out"), "{error}");
    }

    #[test]
    fn a_key_file_configures_its_provider_and_a_key_in_the_environment_stands_over_it() {
        let home = tempfile::tempdir().expect("a directory");
        let place = |name: &str| {
            let place = home.path().join(name);
            std::fs::create_dir(&place).expect("made");
            place
        };
        let (credentials, own) = (place("credentials"), place("own"));
        let places = KeyPlaces { credentials: Some(credentials.clone()), own: Some(own.clone()) };
        let mut sources = Sources { places, ..Sources::default() };
        let found = |sources: &Sources, given: &[&str]| {
            let (name, models) = setup(sources, &keys(given)).expect("works");
            let files = key_files(sources, &models);
            (name, files.into_iter().map(|(name, file)| (name.to_string(), file)).collect::<Vec<_>>())
        };
        assert_eq!(found(&sources, &[]), ("builtin".to_owned(), Vec::new()), "the control");
        std::fs::write(own.join("anthropic"), "x").expect("written");
        std::fs::write(own.join("nobody"), "x").expect("written");
        let own_file = KeyFile::of_operator(own.join("anthropic"));
        assert_eq!(found(&sources, &[]), ("anthropic".to_owned(), vec![("anthropic".to_owned(), own_file)]));
        std::fs::write(credentials.join("anthropic"), "x").expect("written");
        let credential = KeyFile::of_service_manager(credentials.join("anthropic"));
        assert_eq!(found(&sources, &[]).1, [("anthropic".to_owned(), credential)]);
        sources.entries = entries("[[providers]]\nname = \"anthropic\"\nkey_file = \"/k\"").0;
        assert_eq!(found(&sources, &[]).1, [("anthropic".to_owned(), KeyFile::of_operator("/k".into()))]);
        assert_eq!(found(&sources, &["ANTHROPIC_API_KEY"]).1, []);
    }

    #[test]
    fn a_model_of_another_provider_never_stands_for_the_one_that_is_named() {
        let text = "[[providers]]\nname = \"router\"\nformat = \"openai\"\nbase_url = \"http://r\"\n\
                    models = [\"deepseek/deepseek-chat\"]\n[aliases]\nfast = [\"deepseek/deepseek-chat\"]\n";
        assert!(refusal(text).contains("is a model of router"), "{}", refusal(text));
    }
}
