//! Small worlds for the tests: ids by number, grants by their words.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal, Settlement};
use aaos_core::budget::Budget;
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
use aaos_core::quantity::{Amounts, Quantity, Timestamp, Tokens};
use uuid::Uuid;

/// Anything that needs these.
#[derive(Debug, Clone)]
pub(crate) struct Wish(pub(crate) Needs);

impl Effect for Wish {
    type Outcome = ();
    fn needs(&self) -> Cow<'_, Needs> {
        Cow::Borrowed(&self.0)
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
            denied: Vec::new(),
            charges: parts.charges.clone(),
            model_call: None,
            at: None,
            repeats: 0,
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

/// An id that no other call of this process has.
pub(crate) fn fresh_call() -> CallId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    call(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) << 64)
}

pub(crate) fn admission(number: u128, max_tokens: Option<u64>) -> Admission {
    let name = AgentName::parse(&format!("agent-{number}")).expect("a name");
    Admission {
        agent: agent(number),
        name,
        budget: max_tokens.map(|most| Budget::of(Quantity::Tokens, most)).unwrap_or_default(),
        approval_required: Vec::new(),
        stable_identity: false,
    }
}

pub(crate) fn request(id: u128, words: &str) -> GrantRequest {
    let spec = GrantSpec::parse(words).unwrap_or_else(|error| panic!("{words}: {error}"));
    GrantRequest {
        id: grant(id),
        capability: spec.capability,
        spelled: None,
        constraints: spec.constraints,
        root: None,
        special: None,
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

pub(crate) fn exec(program: &str) -> Need {
    Need::Exec(AbsPath::parse(program).expect("a path"))
}

pub(crate) fn tool(name: &str) -> Need {
    Need::Tool(aaos_core::name::ToolName::parse(name).expect("a tool"))
}

pub(crate) fn host(host: &str, port: u16) -> Need {
    Need::Host { host: host.to_owned(), port }
}

pub(crate) fn all(needs: impl Into<Vec<Need>>) -> Wish {
    Wish(Needs { all: needs.into(), ..Needs::default() })
}

pub(crate) fn each(needs: impl Into<Vec<Need>>) -> Wish {
    Wish(Needs { each: needs.into(), ..Needs::default() })
}

/// All of these, and a reservation of tokens.
pub(crate) fn all_and_tokens(needs: impl Into<Vec<Need>>, tokens: u64) -> Wish {
    let amounts = Amounts::of(Quantity::Tokens, tokens);
    Wish(Needs { all: needs.into(), amounts, ..Needs::default() })
}

pub(crate) fn ask(authority: &mut Authority, who: u128, wish: Wish) -> Result<Authorized<Wish>, Refusal> {
    authority.authorize(agent(who), fresh_call(), wish, NOW)
}

/// Uses it up: the charge stays.
pub(crate) fn act(authority: &mut Authority, who: u128, need: Need) -> Result<(), Refusal> {
    let parts = ask(authority, who, all([need]))?.into_parts();
    authority.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
    Ok(())
}

/// Settles an inference as one that used so many tokens and nothing else.
pub(crate) fn settle_tokens(
    authority: &mut Authority,
    parts: &AuthorizedParts<Inference>,
    tokens: u64,
) -> Settlement {
    authority.settle(parts.call, &parts.charges, &Amounts::of(Quantity::Tokens, tokens), NOW)
}

/// Tokens used and reserved of an agent's purse.
pub(crate) fn tokens_of(authority: &Authority, who: AgentId, now: Timestamp) -> (u64, u64) {
    let purse = authority.purse(who, now).expect("a purse");
    (purse.used.get(Quantity::Tokens), purse.reserved.get(Quantity::Tokens))
}

pub(crate) fn inference(reserve: u64) -> Inference {
    let request = ModelRequest {
        model: ModelName::parse("fast").expect("a model"),
        system: String::new(),
        messages: Vec::new(),
        tools: Vec::new(),
        max_output_tokens: Tokens(reserve),
        narrowed: None,
    };
    Inference {
        request,
        reserve: Tokens(reserve),
        price: None,
        request_hash: String::new(),
        keeps: None,
        estimate: None,
    }
}

/// The denial's words, or a panic.
pub(crate) fn denial(result: Result<Authorized<Wish>, Refusal>) -> (String, String) {
    match result {
        Err(Refusal::Denied(denied)) => (denied.missing, denied.reason),
        other => panic!("not a denial: {other:?}"),
    }
}
