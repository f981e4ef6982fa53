//! From a model's name to the provider that serves it.
//!
//! Invariant: there is one rule, and the gateway that sends, the kernel that checks and the queue that waits all go by
//! it. A name is, in this order: one that a provider lists; `PROVIDER::MODEL` or `PROVIDER/MODEL` of a provider that is
//! there; any other name, for the first provider that takes any.

use crate::model::ProviderState;
use crate::name::{ModelName, ProviderName};
use crate::wire::ProviderSetup;

/// What stands between a provider's name and a model's. The first may stand in names of models, too.
const SEPARATORS: [&str; 2] = ["::", "/"];

/// What a provider serves.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The provider's name.
    pub name: &'a ProviderName,
    /// The models that it lists.
    pub models: &'a [ModelName],
    /// Whether it takes any name of a model.
    pub any_model: bool,
}

impl Served<'_> {
    fn lists(self, model: &str) -> bool {
        self.models.iter().any(|one| one.as_str() == model)
    }
}

/// A provider, as one of those who have to do with it knows it.
pub trait Serves {
    /// What it serves.
    fn served(&self) -> Served<'_>;
}

/// Where a request goes, and the model's name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<'a, P> {
    /// Who serves it.
    pub provider: &'a P,
    /// What the provider calls it.
    pub model: ModelName,
}

/// The provider of a model that is no alias; none where nobody serves it.
#[must_use]
pub fn route<'a, P: Serves>(providers: &'a [P], model: &ModelName) -> Option<Route<'a, P>> {
    let whole = |provider| Route { provider, model: model.clone() };
    if let Some(provider) = providers.iter().find(|one| one.served().lists(model.as_str())) {
        return Some(whole(provider));
    }
    for separator in SEPARATORS {
        let Some((prefix, rest)) = model.as_str().split_once(separator) else { continue };
        let named = providers.iter().find(|one| one.served().name.as_str() == prefix);
        let (Some(provider), Ok(rest)) = (named, ModelName::parse(rest)) else { continue };
        let served = provider.served();
        let is_served = served.any_model || served.lists(rest.as_str());
        return is_served.then_some(Route { provider, model: rest });
    }
    providers.iter().find(|one| one.served().any_model).map(whole)
}

/// The provider that the gateway, which described itself so, asks for a model or an alias.
#[must_use]
pub fn provider_of<'a>(providers: &'a [ProviderState], model: &ModelName) -> Option<&'a ProviderState> {
    let means = |provider: &&ProviderState| provider.aliases.contains(model);
    let alias = providers.iter().find(means);
    alias.or_else(|| route(providers, model).map(|route| route.provider))
}

impl Serves for ProviderState {
    fn served(&self) -> Served<'_> {
        Served { name: &self.name, models: &self.models, any_model: self.any_model }
    }
}

impl Serves for ProviderSetup {
    fn served(&self) -> Served<'_> {
        Served { name: &self.name, models: &self.models, any_model: self.any_model }
    }
}

#[cfg(test)]
mod tests {
    use super::{provider_of, route};
    use crate::model::ProviderState;
    use crate::name::{ModelName, ProviderName};

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).expect("a name")
    }

    fn provider(name: &str, models: &[&str], aliases: &[&str], any_model: bool) -> ProviderState {
        ProviderState {
            name: ProviderName::parse(name).expect("a name"),
            models: models.iter().map(|name| model(name)).collect(),
            aliases: aliases.iter().map(|name| model(name)).collect(),
            any_model,
            has_key: true,
            problem: None,
            slots: None,
            rates: crate::model::Rates::default(),
            standing: crate::model::Standing::Unchecked,
        }
    }

    fn all() -> [ProviderState; 4] {
        [
            provider("deepseek", &["deepseek-chat", "smart"], &["fast"], false),
            provider("router", &["openai/gpt-5", "x::y"], &["smart"], true),
            provider("openai", &["gpt-5"], &[], true),
            provider("closed", &["only"], &[], false),
        ]
    }

    #[test]
    fn a_name_leads_to_one_provider() {
        let all = all();
        for (name, to, there) in [
            ("deepseek-chat", "deepseek", "deepseek-chat"),
            ("deepseek/deepseek-chat", "deepseek", "deepseek-chat"),
            ("deepseek::deepseek-chat", "deepseek", "deepseek-chat"),
            ("openai/gpt-5", "router", "openai/gpt-5"),
            ("openai/gpt-4", "openai", "gpt-4"),
            ("openai::gpt-5", "openai", "gpt-5"),
            ("x::y", "router", "x::y"),
            ("router::vendor/model:free", "router", "vendor/model:free"),
            ("vendor/model:free", "router", "vendor/model:free"),
            ("unheard-of", "router", "unheard-of"),
            ("closed/only", "closed", "only"),
        ] {
            let route = route(&all, &model(name)).unwrap_or_else(|| panic!("{name} is served"));
            assert_eq!((route.provider.name.as_str(), route.model.as_str()), (to, there), "{name}");
        }
        for name in ["deepseek/other", "closed::other"] {
            assert_eq!(route(&all, &model(name)), None, "{name}: it was named and does not serve that");
        }
        assert_eq!(route(&all[3..], &model("unheard-of")), None, "nobody takes any name");
        assert_eq!(route::<ProviderState>(&[], &model("m")), None);
    }

    #[test]
    fn an_alias_leads_where_the_gateway_says() {
        let all = all();
        for (name, to) in [("fast", "deepseek"), ("smart", "router"), ("deepseek/smart", "deepseek")] {
            let found = provider_of(&all, &model(name)).unwrap_or_else(|| panic!("{name} is served"));
            assert_eq!(found.name.as_str(), to, "{name}");
        }
        assert_eq!(provider_of(&all[3..], &model("fast")), None);
    }
}
