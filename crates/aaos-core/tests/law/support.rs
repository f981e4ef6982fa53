//! Small worlds for the tests: ids by number, grants by their words.

use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal};
use aaos_core::capability::GrantSpec;
use aaos_core::effect::{
    Authorized, AuthorizedParts, Effect, EffectClass, FileRight, Inference, Need, Needs,
};
use aaos_core::event::Event;
use aaos_core::grant::{GrantRecord, GrantRequest};
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::model::ModelRequest;
use aaos_core::name::{AgentName, ModelName};
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Timestamp, Tokens};
use uuid::Uuid;

/// Anything that needs these.
#[derive(Debug, Clone)]
pub(crate) struct Wish(pub(crate) Needs);

impl Effect for Wish {
    type Outcome = ();
    fn needs(&self) -> Needs {
        self.0.clone()
    }
    fn class(&self) -> EffectClass {
        EffectClass::Safe
    }
    fn label(&self) -> &'static str {
        "wish"
    }
    fn intent(parts: &AuthorizedParts<Self>) -> Event {
        Event::ToolInvoked {
            call: parts.call,
            tool: aaos_core::name::ToolName::parse("echo").expect("a tool"),
            input: serde_json::Value::Null,
            class: EffectClass::Safe,
            access: parts.all.clone(),
            charges: parts.charges.clone(),
        }
    }
    fn result(_: &AuthorizedParts<Self>, (): &()) -> Event {
        Event::DaemonStopped {}
    }
}

pub(crate) const NOW: Timestamp = Timestamp(1_000_000);

pub(crate) fn agent(number: u128) -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(number))
}

pub(crate) fn grant(number: u128) -> GrantId {
    GrantId::from_uuid(Uuid::from_u128(number))
}

pub(crate) fn call(number: u128) -> CallId {
    CallId::from_uuid(Uuid::from_u128(number))
}

pub(crate) fn admission(number: u128, max_tokens: Option<u64>) -> Admission {
    let name = AgentName::parse(&format!("agent-{number}")).expect("a name");
    Admission { agent: agent(number), name, max_tokens: max_tokens.map(Tokens) }
}

pub(crate) fn request(id: u128, words: &str) -> GrantRequest {
    let spec = GrantSpec::parse(words).unwrap_or_else(|error| panic!("{words}: {error}"));
    GrantRequest {
        id: grant(id),
        capability: spec.capability,
        spelled: None,
        constraints: spec.constraints,
        root: None,
    }
}

/// An authority with root agent 1 that holds these, as grants 1, 2, …
pub(crate) fn world(words: &[&str]) -> Authority {
    world_with(words, None)
}

pub(crate) fn world_with(words: &[&str], max_tokens: Option<u64>) -> Authority {
    let mut authority = Authority::new(AuthorityLimits::default());
    let grants = words.iter().zip(1..).map(|(words, id)| request(id, words)).collect();
    authority.admit_root(admission(1, max_tokens), grants, NOW).expect("there is room");
    authority
}

/// Admits agent `child` below `parent`, each grant given as (parent's grant, id, words).
pub(crate) fn child(
    authority: &mut Authority,
    parent: u128,
    child: u128,
    grants: &[(u128, u128, &str)],
) -> Result<Vec<GrantRecord>, Refusal> {
    let grants = grants.iter().map(|(from, id, words)| (grant(*from), request(*id, words))).collect();
    authority.admit_child(agent(parent), admission(child, None), grants, NOW)
}

pub(crate) fn read(path: &str) -> Need {
    Need::File { right: FileRight::Read, path: AbsPath::parse(path).expect("a path") }
}

pub(crate) fn write(path: &str) -> Need {
    Need::File { right: FileRight::Write, path: AbsPath::parse(path).expect("a path") }
}

pub(crate) fn tool(name: &str) -> Need {
    Need::Tool(aaos_core::name::ToolName::parse(name).expect("a tool"))
}

pub(crate) fn host(host: &str, port: u16) -> Need {
    Need::Host { host: host.to_owned(), port }
}

pub(crate) fn all(needs: impl Into<Vec<Need>>) -> Wish {
    Wish(Needs { all: needs.into(), each: Vec::new() })
}

pub(crate) fn each(needs: impl Into<Vec<Need>>) -> Wish {
    Wish(Needs { all: Vec::new(), each: needs.into() })
}

pub(crate) fn ask(authority: &mut Authority, who: u128, wish: Wish) -> Result<Authorized<Wish>, Refusal> {
    authority.authorize(agent(who), call(0), wish, NOW)
}

/// Uses it up: the charge stays.
pub(crate) fn act(authority: &mut Authority, who: u128, need: Need) -> Result<(), Refusal> {
    let parts = ask(authority, who, all([need]))?.into_parts();
    authority.settle(&parts.charges, Tokens::ZERO);
    Ok(())
}

pub(crate) fn inference(reserve: u64) -> Inference {
    let request = ModelRequest {
        model: ModelName::parse("fast").expect("a model"),
        system: String::new(),
        messages: Vec::new(),
        tools: Vec::new(),
        max_output_tokens: Tokens(reserve),
    };
    Inference { request, reserve: Tokens(reserve) }
}

/// The denial's words, or a panic.
pub(crate) fn denial(result: Result<Authorized<Wish>, Refusal>) -> (String, String) {
    match result {
        Err(Refusal::Denied(denied)) => (denied.missing, denied.reason),
        other => panic!("not a denial: {other:?}"),
    }
}
