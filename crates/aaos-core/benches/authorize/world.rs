//! The authorities that are measured, and the calls that they decide about.
//!
//! Invariants: this file alone speaks the authority's interface; everything a call needs is made before it is timed;
//! no call is refused, so what is measured is always a whole decision with its charges.

use aaos_core::authority::{Admission, Authority, AuthorityLimits};
use aaos_core::budget::Budget;
use aaos_core::capability::GrantSpec;
use aaos_core::effect::Authorized;
use aaos_core::grant::GrantRequest;
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::name::AgentName;
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Amounts, Timestamp};
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::FileReadInput;
use uuid::Uuid;

/// Agents in the large tables; the authority's own default limit.
const AGENTS: u128 = 10_000;
/// Children of one agent in the large tables; with it the 10,000th agent stands at depth 5.
const CHILDREN: u128 = 7;
/// File grants of the one agent that stands alone.
const FILE_GRANTS: u128 = 100;
/// Calls that are made ready; they are asked for in turn.
const CALLERS: u128 = 4096;
/// Uses that the bounded table begins with: more than any run makes.
const USES: u32 = 1_000_000_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// One agent that holds 100 file grants.
    HundredGrants,
    /// 10,000 agents, five deep, with five grants each.
    TenThousandAgents,
    /// The same, where every use counts on the grant and on all that it derives from.
    BoundedGrants,
}

impl Case {
    pub(crate) const ALL: [Self; 3] = [Self::HundredGrants, Self::TenThousandAgents, Self::BoundedGrants];

    /// Its name in reports and in the file of instruction counts.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::HundredGrants => "100-grants",
            Self::TenThousandAgents => "10000-agents",
            Self::BoundedGrants => "10000-agents-bounded",
        }
    }

    /// The most nanoseconds that the median may take, where something is promised.
    pub(crate) const fn target_ns(self) -> Option<f64> {
        match self {
            Self::HundredGrants => Some(1_000.0),
            Self::TenThousandAgents => Some(3_000.0),
            Self::BoundedGrants => None,
        }
    }
}

/// One question, ready to be asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    agent: AgentId,
    call: CallId,
    effect: ToolCall,
    now: Timestamp,
}

/// An authority and the calls that its agents make.
#[derive(Debug)]
pub(crate) struct World {
    authority: Authority,
    callers: Vec<(AgentId, ToolCall)>,
    asked: u64,
}

impl World {
    pub(crate) fn new(case: Case) -> Self {
        match case {
            Case::HundredGrants => Self::hundred_grants(),
            Case::TenThousandAgents => Self::tree(None),
            Case::BoundedGrants => Self::tree(Some(USES)),
        }
    }

    fn hundred_grants() -> Self {
        let files =
            (0..FILE_GRANTS).map(|at| request(1 + at, &format!("file_read: {}/*", project(at)), None));
        let grants = std::iter::once(request(1000, "tool: file_read", None)).chain(files).collect();
        let mut authority = Authority::new(AuthorityLimits::default());
        authority.admit_root(admission(0), grants, Timestamp(1)).expect("there is room");
        let callers = (0..CALLERS).map(|at| (agent(0), reading(scattered(at) % FILE_GRANTS))).collect();
        Self { authority, callers, asked: 0 }
    }

    /// Agent 0 is the root; agent `n` is a child of agent `(n - 1) / 7`.
    fn tree(uses: Option<u32>) -> Self {
        let mut authority = Authority::new(AuthorityLimits {
            max_agents: usize::MAX,
            max_children: usize::MAX,
            ..AuthorityLimits::default()
        });
        for number in 0..AGENTS {
            let admitted = match number.checked_sub(1) {
                None => authority.admit_root(admission(number), few_grants(number, uses), Timestamp(1)),
                Some(before) => {
                    let parent = before / CHILDREN;
                    let derived = few_grants(number, None).into_iter().enumerate();
                    let grants = derived.map(|(at, one)| (grant(parent, at as u128), one)).collect();
                    authority.admit_child(agent(parent), admission(number), grants, Timestamp(1))
                }
            };
            admitted.unwrap_or_else(|refusal| panic!("agent {number}: {refusal}"));
        }
        let callers = (0..CALLERS).map(|at| {
            let number = scattered(at) % AGENTS;
            (agent(number), reading(number))
        });
        Self { callers: callers.collect(), authority, asked: 0 }
    }

    /// The next question. Clones the call, as a caller that keeps none of it would not have to.
    pub(crate) fn next(&mut self) -> Asked {
        let at = usize::try_from(self.asked % CALLERS as u64).expect("a place in the table");
        self.asked += 1;
        let (agent, effect) = &self.callers[at];
        let call = CallId::from_uuid(Uuid::from_u128(u128::from(self.asked)));
        Asked { agent: *agent, call, effect: effect.clone(), now: Timestamp(self.asked) }
    }

    /// Settles a call that was done.
    pub(crate) fn settle(&mut self, done: Authorized<ToolCall>) {
        let parts = done.into_parts();
        self.authority.settle(parts.call, &parts.charges, &Amounts::NONE, Timestamp(self.asked));
    }

    /// Takes a call back that was never done.
    pub(crate) fn refund(&mut self, dropped: Authorized<ToolCall>) {
        let parts = dropped.into_parts();
        self.authority.refund(parts.call, parts.charges);
    }
}

/// The one call that is measured. Its name is what callgrind switches its counting on and off by.
#[inline(never)]
pub(crate) fn measured_authorize(world: &mut World, asked: Asked) -> Authorized<ToolCall> {
    let Asked { agent, call, effect, now } = asked;
    world.authority.authorize(agent, call, effect, now).unwrap_or_else(|refusal| panic!("refused: {refusal}"))
}

fn agent(number: u128) -> AgentId {
    AgentId::from_uuid(Uuid::from_u128(number + 1))
}

fn grant(holder: u128, at: u128) -> GrantId {
    GrantId::from_uuid(Uuid::from_u128((holder + 1) * 1000 + at))
}

fn admission(number: u128) -> Admission {
    let name = AgentName::parse(&format!("agent-{number}")).expect("a name");
    Admission {
        agent: agent(number),
        name,
        budget: Budget::default(),
        approval_required: Vec::new(),
        stable_identity: false,
    }
}

fn request(id: u128, words: &str, uses: Option<u32>) -> GrantRequest {
    let spec = GrantSpec::parse(words).unwrap_or_else(|error| panic!("{words}: {error}"));
    let mut constraints = spec.constraints;
    constraints.max_invocations = uses;
    let id = GrantId::from_uuid(Uuid::from_u128(id));
    GrantRequest { id, capability: spec.capability, spelled: None, constraints, root: None, special: None }
}

/// What every agent of a tree holds, in the same order as its parent.
fn few_grants(holder: u128, uses: Option<u32>) -> Vec<GrantRequest> {
    let words =
        ["tool: file_read", "tool: file_write", "file_read: /data/*", "file_write: /out/*", "web_search"];
    let numbered = words.iter().zip(0..);
    numbered.map(|(words, at)| request((holder + 1) * 1000 + at, words, uses)).collect()
}

fn project(number: u128) -> String {
    format!("/data/projects/p{number}")
}

/// `file_read` of a file some directories below a project.
fn reading(number: u128) -> ToolCall {
    let path = AbsPath::parse(&format!("{}/src/main/notes.md", project(number))).expect("a path");
    ToolCall::new(ToolInput::FileRead(FileReadInput { path, offset: None, limit: None })).expect("a call")
}

/// The same numbers in every run, in no order that a processor could foresee (the finaliser of SplitMix64).
fn scattered(at: u128) -> u128 {
    let mut mixed = (at as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u128::from(mixed ^ (mixed >> 31))
}
