//! Configured providers, how a model's name leads to one, and the request that is sent to it.
//!
//! Invariants: base URLs are parsed once, when the process starts, and hold no credentials; a key is put into
//! a header that is marked sensitive and nowhere else.

use std::sync::Arc;

use aaos_core::model::{ModelFailure, ModelFailureKind, ModelRequest, ProviderState, Rates, Standing};
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::route::{self, Route, Served, Serves};
use aaos_core::wire::{ExtraHeader, ProviderSetup, WireFormat, is_reserved_header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::failure::{failure, malformed};
use super::server::Server;
use super::{Reader, anthropic, openai};
use crate::USER_AGENT;

/// One provider.
pub(super) struct Provider {
    pub(super) name: ProviderName,
    pub(super) service: Service,
    key: Option<String>,
    models: Vec<ModelName>,
    any_model: bool,
    slots: Option<usize>,
    rates: Rates,
    /// For its requests under way.
    pub(super) places: Arc<Semaphore>,
}

/// Whether a key that a provider wants must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyNeed {
    /// It must.
    AsUsual,
    /// It is not: nobody is reached.
    Nobody,
}

/// A request, ready to be sent.
pub(super) struct Prepared {
    pub(super) http: hyper::Request<Full<Bytes>>,
    /// Its body again.
    pub(super) body: Bytes,
    /// For the answer.
    pub(super) reader: Reader,
}

/// What stands behind a provider's name.
#[derive(Debug)]
pub(super) enum Service {
    /// The planner inside this binary.
    Builtin,
    /// A server.
    Remote(Box<Endpoint>),
    /// Nothing usable, and why.
    Unusable(String),
}

impl std::fmt::Debug for Provider {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.name)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl Provider {
    pub(super) fn new(setup: ProviderSetup, need: KeyNeed) -> Self {
        let key = setup.key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        let service = match (setup.problem, setup.format) {
            (Some(problem), _) => Service::Unusable(problem),
            (None, WireFormat::Builtin) => Service::Builtin,
            (None, format) => Endpoint::parse(&setup.base_url, format)
                .and_then(|endpoint| match need {
                    KeyNeed::AsUsual => endpoint.check_key(key.as_deref()).map(|()| endpoint),
                    KeyNeed::Nobody => Ok(endpoint),
                })
                .and_then(|endpoint| endpoint.with_headers(&setup.headers))
                .map_or_else(Service::Unusable, |endpoint| Service::Remote(Box::new(endpoint))),
        };
        let places = Arc::new(Semaphore::new(super::MAX_RUNNING_EACH));
        let ProviderSetup { models, any_model, slots, rates, .. } = setup;
        Self { name: setup.name, service, key, models, any_model, slots, rates, places }
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    fn is_usable(&self) -> bool {
        !matches!(self.service, Service::Unusable(_))
    }

    /// What agentd may know of it.
    pub(super) fn state(&self, all: &[Self], aliases: &Aliases) -> ProviderState {
        let mut leading: Vec<ModelName> = Vec::new();
        for alias in aliases.names() {
            let leads_here = route(all, aliases, alias).is_ok_and(|route| std::ptr::eq(route.provider, self));
            if leads_here && !leading.contains(alias) {
                leading.push(alias.clone());
            }
        }
        let problem = match &self.service {
            Service::Unusable(problem) => Some(problem.clone()),
            Service::Builtin | Service::Remote(_) => None,
        };
        ProviderState {
            name: self.name.clone(),
            models: self.models.clone(),
            aliases: leading,
            any_model: self.any_model,
            has_key: self.key.is_some(),
            problem,
            slots: self.slots,
            rates: self.rates,
            standing: Standing::Unchecked,
        }
    }
}

impl Serves for Provider {
    fn served(&self) -> Served<'_> {
        Served { name: &self.name, models: &self.models, any_model: self.any_model }
    }
}

/// Other names of models.
#[derive(Debug)]
pub(super) struct Aliases(Vec<(ModelName, ModelName)>);

impl Aliases {
    pub(super) const fn new(pairs: Vec<(ModelName, ModelName)>) -> Self {
        Self(pairs)
    }

    fn names(&self) -> impl Iterator<Item = &ModelName> {
        self.0.iter().map(|(alias, _)| alias)
    }

    fn meanings<'a>(&'a self, name: &'a ModelName) -> impl Iterator<Item = &'a ModelName> {
        self.0.iter().filter(move |(alias, _)| alias == name).map(|(_, model)| model)
    }
}

/// The provider for a model or alias. An alias means the first of its models that has a usable provider.
pub(super) fn route<'a>(
    providers: &'a [Provider],
    aliases: &Aliases,
    name: &ModelName,
) -> Result<Route<'a, Provider>, ModelFailure> {
    let mut unusable = None;
    let is_alias = aliases.meanings(name).next().is_some();
    let candidates = aliases.meanings(name).chain((!is_alias).then_some(name));
    for model in candidates {
        match route::route(providers, model) {
            Some(route) if route.provider.is_usable() => return Ok(route),
            Some(route) => unusable = unusable.or(Some(route)),
            None => {}
        }
    }
    unusable.ok_or_else(|| unknown(providers, aliases, name))
}

fn unknown(providers: &[Provider], aliases: &Aliases, name: &ModelName) -> ModelFailure {
    let mut known: Vec<String> = aliases.names().map(ToString::to_string).collect();
    known.dedup();
    for provider in providers {
        known.extend(provider.models.iter().map(|model| format!("{}/{model}", provider.name)));
        if provider.any_model {
            known.push(format!("{}/<any model>", provider.name));
        }
    }
    let known = if known.is_empty() { "no provider is configured".to_owned() } else { known.join(", ") };
    failure(
        ModelFailureKind::UnknownModel,
        format!("no provider serves the model {name}; known are: {known}"),
    )
}

/// A server that speaks one of the formats.
#[derive(Debug)]
pub(super) struct Endpoint {
    format: WireFormat,
    pub(super) server: Server,
    path: String,
    /// Where its models are listed.
    list: String,
    /// What each request has besides.
    headers: HeaderMap,
}

impl Endpoint {
    fn parse(base_url: &str, format: WireFormat) -> Result<Self, String> {
        let server = Server::parse("base_url", base_url, "set the provider's key instead")?;
        let base = server.path.as_str();
        let path = match format {
            WireFormat::Anthropic if base.ends_with("/v1") => format!("{base}/messages"),
            WireFormat::Anthropic => format!("{base}/v1/messages"),
            WireFormat::OpenAi | WireFormat::Builtin => format!("{base}/chat/completions"),
        };
        let list = match format {
            WireFormat::Anthropic if !base.ends_with("/v1") => format!("{base}/v1/models"),
            _ => format!("{base}/models"),
        };
        Ok(Self { format, server, path, list, headers: HeaderMap::new() })
    }

    /// With headers of the operator's. None takes the place of one that is the gateway's own.
    fn with_headers(mut self, headers: &[ExtraHeader]) -> Result<Self, String> {
        for ExtraHeader { name, value } in headers {
            let bad = |why: &str| format!("its header {name:?} {why}");
            let known =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("has a name that no header has"))?;
            if is_reserved_header(known.as_str()) {
                return Err(bad("is the gateway's own to set; leave it out, and give a key as a key"));
            }
            let value =
                HeaderValue::from_str(value).map_err(|_| bad("holds characters that no header may hold"))?;
            self.headers.append(known, value);
        }
        Ok(self)
    }

    /// Anthropic itself takes nothing without a key; local servers do.
    fn check_key(&self, key: Option<&str>) -> Result<(), String> {
        let Some(key) = key else {
            let wants_key = self.format == WireFormat::Anthropic && self.server.is_secure;
            return if wants_key { Err("it needs a key and none is configured".to_owned()) } else { Ok(()) };
        };
        HeaderValue::from_str(key)
            .map(|_| ())
            .map_err(|_| "its key holds characters that no header may hold; was it pasted whole?".to_owned())
    }

    /// The HTTP request, and the reader for its answer.
    pub(super) fn prepare(
        &self,
        key: Option<&str>,
        request: &ModelRequest,
        model: &str,
    ) -> Result<Prepared, ModelFailure> {
        let (body, reader) = match self.format {
            WireFormat::Anthropic => {
                (anthropic::request_body(request, model), Reader::Anthropic(Box::default()))
            }
            WireFormat::OpenAi | WireFormat::Builtin => {
                let dialect = if self.server.authority == "api.openai.com" {
                    openai::Dialect::Original
                } else {
                    openai::Dialect::Compatible
                };
                (openai::request_body(request, model, dialect), Reader::OpenAi(Box::default()))
            }
        };
        let http = hyper::Request::post(&self.path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream");
        let body = Bytes::from(body.to_string());
        let http = self.finish(http, key, body.clone())?;
        Ok(Prepared { http, body, reader })
    }

    /// The HTTP request for the list of its models.
    pub(super) fn prepare_list(
        &self,
        key: Option<&str>,
    ) -> Result<hyper::Request<Full<Bytes>>, ModelFailure> {
        let http = hyper::Request::get(&self.list).header(header::ACCEPT, "application/json");
        self.finish(http, key, Bytes::new())
    }

    /// With what every request to it has.
    fn finish(
        &self,
        http: hyper::http::request::Builder,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<hyper::Request<Full<Bytes>>, ModelFailure> {
        let mut http = http
            .header(header::HOST, &self.server.authority)
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::USER_AGENT, USER_AGENT);
        if self.format == WireFormat::Anthropic {
            http = http.header("anthropic-version", anthropic::VERSION);
        }
        if let Some(key) = key {
            let (name, value) = match self.format {
                WireFormat::Anthropic => ("x-api-key", key.to_owned()),
                WireFormat::OpenAi | WireFormat::Builtin => ("authorization", format!("Bearer {key}")),
            };
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| malformed("the key was checked when the gateway started"))?;
            value.set_sensitive(true);
            http = http.header(name, value);
        }
        for (name, value) in &self.headers {
            http = http.header(name, value);
        }
        http.body(Full::new(body)).map_err(|_| malformed("the base URL was checked when the gateway started"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Aliases, Endpoint, KeyNeed, Provider, Service, route};
    use aaos_core::model::ModelFailureKind;
    use aaos_core::name::{ModelName, ProviderName};
    use aaos_core::wire::{ExtraHeader, ProviderSetup, WireFormat};

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).expect("a model name")
    }

    fn provider(name: &str, base_url: &str, models: &[&str], any_model: bool) -> Provider {
        let setup = ProviderSetup {
            name: ProviderName::parse(name).expect("a provider name"),
            format: WireFormat::OpenAi,
            base_url: base_url.into(),
            key: Some("sk-secret".into()),
            models: models.iter().map(|name| model(name)).collect(),
            any_model,
            headers: Vec::new(),
            slots: None,
            rates: aaos_core::model::Rates::default(),
            problem: None,
            key_follows: false,
        };
        Provider::new(setup, KeyNeed::AsUsual)
    }

    #[test]
    fn a_name_leads_to_its_provider() {
        let all = [
            provider("deepseek", "https://api.deepseek.com/v1", &["deepseek-chat"], false),
            provider("router", "https://openrouter.ai/api/v1", &["openai/gpt-5"], true),
            provider("broken", "ftp://x", &["lost"], false),
        ];
        let aliases = Aliases::new(vec![
            (model("fast"), model("lost")),
            (model("fast"), model("deepseek-chat")),
            (model("never"), model("lost")),
        ]);
        for (name, to, on_the_wire) in [
            ("deepseek-chat", "deepseek", "deepseek-chat"),
            ("openai/gpt-5", "router", "openai/gpt-5"),
            ("deepseek/deepseek-chat", "deepseek", "deepseek-chat"),
            ("router::x/y:free", "router", "x/y:free"),
            ("x/y:free", "router", "x/y:free"),
            ("fast", "deepseek", "deepseek-chat"),
            ("never", "broken", "lost"),
        ] {
            let route = route(&all, &aliases, &model(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((route.provider.name.as_str(), route.model.as_str()), (to, on_the_wire), "{name}");
        }
        let Err(error) = route(&all, &aliases, &model("deepseek/other")) else { panic!("not served there") };
        assert_eq!(error.kind, ModelFailureKind::UnknownModel);
        assert!(error.message.contains("deepseek/deepseek-chat"), "{error}");
        let state = all[0].state(&all, &aliases);
        assert_eq!(state.models, [model("deepseek-chat")]);
        assert_eq!(state.aliases, [model("fast")]);
        assert!(all[2].state(&all, &aliases).problem.is_some());
    }

    #[test]
    fn base_urls_are_read_strictly() {
        let parse = Endpoint::parse;
        let endpoint = parse("http://localhost:11434/v1/", WireFormat::OpenAi).expect("good");
        assert_eq!(
            (endpoint.path.as_str(), endpoint.server.authority.as_str()),
            ("/v1/chat/completions", "localhost:11434")
        );
        for (base, path) in
            [("https://api.anthropic.com", "/v1/messages"), ("https://h/proxy/v1", "/proxy/v1/messages")]
        {
            assert_eq!(parse(base, WireFormat::Anthropic).expect("good").path, path);
        }
        for bad in ["", "h", "ftp://h/", "https://u:p@h/", "https://h/?q", "https://h/#f", "file:///x"] {
            assert!(parse(bad, WireFormat::OpenAi).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_of_the_operator_never_stand_for_those_of_the_gateway() {
        let with = |name: &str, value: &str| {
            let endpoint = Endpoint::parse("http://h/v1", WireFormat::OpenAi).expect("good");
            endpoint.with_headers(&[ExtraHeader { name: name.into(), value: value.into() }])
        };
        assert_eq!(with("X-Title", "aaOS").expect("the control").headers["x-title"], "aaOS");
        for (name, value, said) in [
            ("Authorization", "Bearer x", "give a key as a key"),
            ("HOST", "other", "the gateway's own"),
            ("two words", "x", "a name that no header has"),
            ("", "x", "a name that no header has"),
            ("x", "a\nb", "characters"),
        ] {
            let error = with(name, value).expect_err(name);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_provider_with_a_known_problem_is_never_asked() {
        let good = provider("p", "http://h/v1", &["m"], true);
        assert!(matches!(good.service, Service::Remote(_)), "the control");
        let setup = ProviderSetup {
            name: ProviderName::parse("p").expect("a name"),
            format: WireFormat::OpenAi,
            base_url: "http://h/v1".into(),
            key: None,
            models: Vec::new(),
            any_model: true,
            headers: Vec::new(),
            slots: Some(7),
            rates: aaos_core::model::Rates::default(),
            problem: Some("it has no key".into()),
            key_follows: false,
        };
        let state = Provider::new(setup, KeyNeed::AsUsual).state(&[], &Aliases::new(Vec::new()));
        assert_eq!((state.problem.as_deref(), state.slots), (Some("it has no key"), Some(7)));
    }

    #[test]
    fn keys_are_checked_and_never_shown() {
        let good = provider("p", "https://h/v1", &[], true);
        assert!(!format!("{good:?}").contains("sk-secret"));
        let setup = |key: Option<&str>| ProviderSetup {
            name: ProviderName::parse("a").expect("a name"),
            format: WireFormat::Anthropic,
            base_url: "https://api.anthropic.com".into(),
            key: key.map(Into::into),
            models: Vec::new(),
            any_model: true,
            headers: Vec::new(),
            slots: None,
            rates: aaos_core::model::Rates::default(),
            problem: None,
            key_follows: false,
        };
        let service = |key, need| Provider::new(setup(key), need).service;
        assert!(matches!(service(None, KeyNeed::AsUsual), Service::Unusable(_)));
        assert!(matches!(service(Some("a\nb"), KeyNeed::AsUsual), Service::Unusable(_)));
        assert!(matches!(service(Some("sk\n"), KeyNeed::AsUsual), Service::Remote(_)));
        assert!(matches!(service(None, KeyNeed::Nobody), Service::Remote(_)), "where nobody is reached");
    }
}
