//! Which providers are configured, and what the aliases `smart` and `fast` mean.
//!
//! Invariant: a provider that was asked for by name and cannot be configured is an error, not a silent change to
//! another.

use aaos_core::name::{ModelName, ProviderName};
use aaos_core::wire::{ModelsSetup, ProviderSetup, WireFormat};
use anyhow::{Context, Result, bail};

use super::keys::Keys;
use super::vars;

/// What the operator chose.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub(crate) provider: Option<String>,
    pub(crate) model: Option<String>,
}

/// Base URLs that differ from the defaults.
#[derive(Debug, Default)]
pub(crate) struct BaseUrls {
    pub(crate) deepseek: Option<String>,
    pub(crate) anthropic: Option<String>,
    pub(crate) openai: Option<String>,
}

/// A provider that aaOS knows, and its models for hard and for light work.
struct Known {
    name: &'static str,
    format: WireFormat,
    smart: &'static str,
    fast: &'static str,
    any_model: bool,
}

const DEEPSEEK: Known = Known {
    name: "deepseek",
    format: WireFormat::OpenAi,
    smart: "deepseek-reasoner",
    fast: "deepseek-chat",
    any_model: false,
};
const ANTHROPIC: Known = Known {
    name: "anthropic",
    format: WireFormat::Anthropic,
    smart: "claude-sonnet-4-5",
    fast: "claude-haiku-4-5",
    any_model: true,
};
const OPENAI: Known = Known {
    name: "openai",
    format: WireFormat::OpenAi,
    smart: "gpt-4o",
    fast: "gpt-4o-mini",
    any_model: true,
};
const BUILTIN: Known = Known {
    name: "builtin",
    format: WireFormat::Builtin,
    smart: "builtin",
    fast: "builtin",
    any_model: false,
};

/// The configured providers, preferred first, and the name of the preferred one.
pub(crate) fn setup(choice: &Choice, urls: &BaseUrls, keys: &Keys) -> Result<(String, ModelsSetup)> {
    let key = |var: vars::Var| keys.get(var.name).cloned();
    let or_default = |url: &Option<String>, var: vars::Var| url.clone().unwrap_or(var.default.to_owned());
    let mut found: Vec<(Known, String, Option<String>)> = Vec::new();
    if let Some(key) = key(vars::DEEPSEEK_API_KEY) {
        found.push((DEEPSEEK, or_default(&urls.deepseek, vars::DEEPSEEK_BASE_URL), Some(key)));
    }
    if let Some(key) = key(vars::ANTHROPIC_API_KEY) {
        found.push((ANTHROPIC, or_default(&urls.anthropic, vars::ANTHROPIC_BASE_URL), Some(key)));
    }
    let openai_key = key(vars::OPENAI_API_KEY);
    if openai_key.is_some() || urls.openai.is_some() {
        found.push((OPENAI, or_default(&urls.openai, vars::OPENAI_BASE_URL), openai_key));
    }
    found.push((BUILTIN, String::new(), None));
    let preferred = match &choice.provider {
        None => 0,
        Some(name) => found.iter().position(|(known, ..)| known.name == name).with_context(|| {
            let names: Vec<_> = found.iter().map(|(known, ..)| known.name).collect();
            format!(
                "provider {name:?} is not configured; configured: {}. Set its key or base URL",
                names.join(", ")
            )
        })?,
    };
    found[..=preferred].rotate_right(1);
    let (smart, fast) = aliases(&found[0].0, choice.model.as_deref());
    let name = found[0].0.name.to_owned();
    let mut providers = Vec::with_capacity(found.len());
    for (at, (known, url, key)) in found.into_iter().enumerate() {
        let extra = choice.model.as_deref().filter(|_| at == 0);
        providers.push(provider(&known, &url, key, extra)?);
    }
    let aliases = vec![(ModelName::parse("smart")?, smart?), (ModelName::parse("fast")?, fast?)];
    Ok((name, ModelsSetup { providers, aliases }))
}

fn aliases(known: &Known, model: Option<&str>) -> (Result<ModelName>, Result<ModelName>) {
    let parse = |name: &str| ModelName::parse(name).with_context(|| format!("the model name {name:?}"));
    (parse(model.unwrap_or(known.smart)), parse(model.unwrap_or(known.fast)))
}

fn provider(known: &Known, url: &str, key: Option<String>, extra: Option<&str>) -> Result<ProviderSetup> {
    let url = url.trim_end_matches('/').to_owned();
    if known.format != WireFormat::Builtin && !url.starts_with("https://") && !url.starts_with("http://") {
        bail!("the base URL {url:?} of {} starts with neither https:// nor http://", known.name);
    }
    let mut models = vec![ModelName::parse(known.smart)?];
    for name in [Some(known.fast), extra].into_iter().flatten() {
        let name = ModelName::parse(name).with_context(|| format!("the model name {name:?}"))?;
        if !models.contains(&name) {
            models.push(name);
        }
    }
    Ok(ProviderSetup {
        name: ProviderName::parse(known.name)?,
        format: known.format,
        base_url: url,
        key,
        models,
        any_model: known.any_model,
    })
}

#[cfg(test)]
mod tests {
    use super::{BaseUrls, Choice, setup};
    use crate::settings::keys::Keys;

    fn keys(names: &[&str]) -> Keys {
        names.iter().map(|name| ((*name).to_owned(), "secret".to_owned())).collect()
    }

    #[test]
    fn without_a_key_the_builtin_planner_is_all_there_is() {
        let (name, models) = setup(&Choice::default(), &BaseUrls::default(), &Keys::new()).expect("works");
        assert_eq!(name, "builtin");
        assert_eq!(models.providers.len(), 1);
        assert!(models.aliases.iter().all(|(_, means)| means.as_str() == "builtin"));
    }

    #[test]
    fn the_first_key_wins_unless_a_provider_is_named() {
        let both = keys(&["DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY"]);
        let (name, models) = setup(&Choice::default(), &BaseUrls::default(), &both).expect("works");
        assert_eq!((name.as_str(), models.aliases[0].1.as_str()), ("deepseek", "deepseek-reasoner"));
        let named = Choice { provider: Some("anthropic".into()), model: Some("claude-x".into()) };
        let (name, models) = setup(&named, &BaseUrls::default(), &both).expect("works");
        assert_eq!((name.as_str(), models.aliases[1].1.as_str()), ("anthropic", "claude-x"));
        assert_eq!(models.providers[0].name.as_str(), "anthropic");
        assert_eq!(models.providers.len(), 3);
    }

    #[test]
    fn a_base_url_alone_is_a_local_server() {
        let urls = BaseUrls { openai: Some("http://127.0.0.1:8080/v1/".into()), ..BaseUrls::default() };
        let (name, models) = setup(&Choice::default(), &urls, &Keys::new()).expect("works");
        assert_eq!(name, "openai");
        assert_eq!(models.providers[0].base_url, "http://127.0.0.1:8080/v1");
        assert!(models.providers[0].key.is_none());
    }

    #[test]
    fn a_provider_that_is_not_configured_is_an_error() {
        let named = Choice { provider: Some("anthropic".into()), model: None };
        let error = setup(&named, &BaseUrls::default(), &Keys::new()).expect_err("no key");
        assert!(error.to_string().contains("configured: builtin"), "{error}");
    }
}
