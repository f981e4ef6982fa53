//! What a manifest's own words show to be a mistake or a risk (`agentd check`).
//!
//! Invariants: pure, like all of this crate: only the manifest is looked at, so what depends on a machine
//! (whether a root exists) is the caller's to add. A finding decides nothing: the authority does. The
//! manifest is judged as it stands, without the grants that a goal may add. A rule's name is stable: scripts
//! filter by it.

mod approvals;
mod flow;
mod grants;
mod life;
mod paths;
mod tools;

use serde::Serialize;

use crate::authority::narrow::covers;
use crate::capability::{Capability, GrantSpec, ToolSet};
use crate::manifest::Manifest;
use crate::tool::{CATALOGUE, ResourceKind, ToolDescriptor};

pub use paths::PSEUDO_FILE_SYSTEM;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something that the manifest asks for can have no effect, or will be refused.
    Error,
    /// It works, and is probably not what is wanted, or is dangerous.
    Warning,
    /// Good to know.
    Note,
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// The rule's name, in kebab case.
    pub rule: &'static str,
    /// Place of the grant concerned in `capabilities`, from 0; absent when it is about more than one, or
    /// none.
    pub grant: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

/// Everything that the rules find in a manifest, what matters most first.
#[must_use]
pub fn lint(manifest: &Manifest) -> Vec<Finding> {
    let held = Held::of(&manifest.capabilities);
    let mut findings = grants::findings(&held);
    findings.extend(tools::findings(&held));
    findings.extend(paths::findings(&held));
    findings.extend(approvals::findings(&held, &manifest.approval_required));
    findings.extend(flow::findings(&held));
    findings.extend(life::findings(manifest));
    sort(&mut findings);
    findings
}

/// Puts findings in the order in which people read them: by level, then by grant.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| (finding.level, finding.grant.unwrap_or(usize::MAX)));
}

/// Who would exercise a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The agent itself.
    Use,
    /// A child that it starts and hands the grant to.
    HandOn,
}

/// A manifest's grants and what follows from all of them together.
struct Held<'m> {
    grants: &'m [GrantSpec],
    /// Whether the agent can start a child at all.
    can_spawn: bool,
}

impl<'m> Held<'m> {
    fn of(grants: &'m [GrantSpec]) -> Self {
        let mut held = Self { grants, can_spawn: false };
        held.can_spawn = held.acts_on(Way::Use, ResourceKind::SpawnChild)
            && held.has_kind(Way::Use, ResourceKind::SpawnChild);
        held
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &'m GrantSpec)> {
        self.grants.iter().enumerate()
    }

    /// Whether a grant may go this way at all.
    fn goes(&self, way: Way, spec: &GrantSpec) -> bool {
        match way {
            Way::Use => spec.constraints.usable,
            Way::HandOn => self.can_spawn && spec.constraints.delegate,
        }
    }

    fn going(&self, way: Way) -> impl Iterator<Item = &'m GrantSpec> {
        self.grants.iter().filter(move |spec| self.goes(way, spec))
    }

    fn has_tool(&self, way: Way, tool: &ToolDescriptor) -> bool {
        let wanted = Capability::Tool(ToolSet::One(tool.tool_name()));
        self.going(way).any(|spec| covers(&spec.capability, &wanted))
    }

    fn has_kind(&self, way: Way, kind: ResourceKind) -> bool {
        self.going(way).any(|spec| kind.is_of(&spec.capability))
    }

    /// Whether a tool that acts on such a resource goes this way, or a program that does.
    fn acts_on(&self, way: Way, kind: ResourceKind) -> bool {
        let by_tool = acting_on(kind).any(|tool| self.has_tool(way, tool));
        by_tool || (OF_PROGRAMS.contains(&kind) && self.starts_programs(way))
    }

    fn starts_programs(&self, way: Way) -> bool {
        self.has_kind(way, ResourceKind::Exec) && self.acts_on(way, ResourceKind::Exec)
    }

    /// Whether cargo changes what is granted: it builds there, and reaches no host.
    fn builds_with(&self, way: Way, kind: ResourceKind) -> bool {
        kind == ResourceKind::FileWrite
            && self.has_kind(way, ResourceKind::Cargo)
            && acting_on(ResourceKind::Cargo).any(|tool| self.has_tool(way, tool))
    }

    /// Whether a grant has an effect this way: a resource needs a tool that acts on it.
    fn has_effect(&self, way: Way, spec: &GrantSpec) -> bool {
        let acts = |tool: &&ToolDescriptor| {
            tool.resources.iter().any(|kind| kind.is_of(&spec.capability)) && self.has_tool(way, tool)
        };
        let by_program =
            |kind| OF_PROGRAMS.contains(&kind) && (self.starts_programs(way) || self.builds_with(way, kind));
        self.goes(way, spec)
            && ResourceKind::of(&spec.capability)
                .is_none_or(|kind| CATALOGUE.iter().any(|tool| acts(&tool)) || by_program(kind))
    }

    /// The kinds of resource that a tool lacks this way.
    fn lacks(&self, way: Way, tool: &ToolDescriptor) -> Vec<ResourceKind> {
        tool.resources.iter().copied().filter(|kind| !self.has_kind(way, *kind)).collect()
    }
}

/// What the programs that an agent starts may use of its grants.
const OF_PROGRAMS: [ResourceKind; 3] =
    [ResourceKind::FileRead, ResourceKind::FileWrite, ResourceKind::Network];

fn acting_on(kind: ResourceKind) -> impl Iterator<Item = &'static ToolDescriptor> {
    CATALOGUE.iter().filter(move |tool| tool.resources.contains(&kind))
}

/// Grants in their own words, for a sentence.
fn named<'g>(specs: impl IntoIterator<Item = &'g GrantSpec>) -> String {
    let all: Vec<String> = specs.into_iter().map(|spec| format!("`{spec}`")).collect();
    match all.len() {
        0..=MAX_NAMED => all.join(", "),
        count => format!("{} and {} more", all[..MAX_NAMED].join(", "), count - MAX_NAMED),
    }
}

/// Most grants that one finding names.
const MAX_NAMED: usize = 8;
