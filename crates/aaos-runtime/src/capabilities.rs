//! What agents hold and could reach, in words for people: `capability.list` and `capability.explain`.
//!
//! Invariants: nothing here authorises, charges or opens anything; a principal is told of its own agents only.

use aaos_core::authority::{Held, Reach};
use aaos_core::capability::{Capability, GrantSpec, tool_name};
use aaos_core::effect::{Access, Denied, Need, Needs};
use aaos_core::id::{AgentId, GrantId};
use aaos_core::name::AgentName;
use aaos_core::special::SpecialFiles;
use serde::{Deserialize, Serialize};

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::Principal;

/// One grant in `capability.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// Id, for `capability.revoke`.
    pub id: GrantId,
    /// In the grammar's words, with its constraints as issued.
    pub grant: String,
    /// What it derives from, nearest first; empty for the operator's own.
    pub derives_from: Vec<GrantId>,
    /// Uses left over all that share them; absent where nothing bounds them.
    pub uses_left: Option<u32>,
    /// Whether its holder may use it now.
    pub usable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Whether its holder may hand it to a child now.
    pub delegable: bool,
    /// Sockets, FIFOs and devices that a root of the operator's own held when it was granted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub special: Option<SpecialFiles>,
}

/// What `capability.explain` is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The agent; every agent of the principal when absent.
    pub agent: Option<AgentId>,
    /// What it would need.
    pub needs: Needs,
}

/// What `capability.explain` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Of the agent asked about: through which grants each need is met.
    pub met: Vec<MetView>,
    /// Of the agent asked about: the grants that are missing, each in the grammar's own words.
    pub missing: Vec<Denied>,
    /// Who can reach it, need by need; over the agents of the principal.
    pub reach: Vec<ReachView>,
}

/// A need and the grant that meets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetView {
    /// The need.
    pub need: Need,
    /// The grant.
    pub grant: GrantId,
}

/// An agent that holds a grant covering a need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachView {
    /// The need.
    pub need: Need,
    /// The agent.
    pub agent_id: AgentId,
    /// Its name.
    pub agent_name: AgentName,
    /// Its ancestors, nearest first.
    pub ancestors: Vec<AgentId>,
    /// The grants that cover it.
    pub through: Vec<GrantView>,
}

impl Kernel {
    /// `capability.list`: the grants of one agent.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an agent that is not this principal's.
    pub fn capabilities(&self, caller: Principal, agent: AgentId) -> Result<Vec<GrantView>, KernelError> {
        self.agent_for(caller, agent)?;
        let now = self.clock().now();
        Ok(self.authority().held_by(agent, now).into_iter().map(grant_view).collect())
    }

    /// `capability.explain`.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an agent that is not this principal's, [`KernelError::Invalid`] for a tool that
    /// there is not and a host that is none.
    pub fn explain(&self, caller: Principal, asked: &Asked) -> Result<Explanation, KernelError> {
        let now = self.clock().now();
        let plain = |needs: &[Need]| needs.iter().map(plain).collect::<Result<Vec<_>, _>>();
        let needs =
            Needs { all: plain(&asked.needs.all)?, each: plain(&asked.needs.each)?, ..Needs::default() };
        let (met, missing) = match asked.agent {
            None => (Vec::new(), Vec::new()),
            Some(agent) => {
                self.agent_for(caller, agent)?;
                match self.authority().explain(agent, &needs, now) {
                    Ok(accesses) => (accesses.into_iter().map(met_view).collect(), Vec::new()),
                    Err(missing) => (Vec::new(), missing),
                }
            }
        };
        let mut reach = Vec::new();
        for need in needs.all.iter().chain(&needs.each) {
            let found = self.authority().reach(need, now);
            reach.extend(found.into_iter().filter_map(|one| self.reach_view(caller, need, one)));
        }
        Ok(Explanation { met, missing, reach })
    }

    /// One line of the answer; none for an agent of somebody else.
    fn reach_view(&self, caller: Principal, need: &Need, reach: Reach) -> Option<ReachView> {
        let agent = self.agent_for(caller, reach.agent).ok()?;
        let mut ancestors = Vec::new();
        let mut next = agent.parent;
        while let Some(parent) = next {
            ancestors.push(parent);
            next = self.table().agent(parent).and_then(|agent| agent.parent);
        }
        Some(ReachView {
            need: need.clone(),
            agent_id: reach.agent,
            agent_name: reach.name,
            ancestors,
            through: reach.through.into_iter().map(grant_view).collect(),
        })
    }
}

/// A need as a tool call would have it.
fn plain(need: &Need) -> Result<Need, KernelError> {
    match need {
        Need::Tool(name) => {
            tool_name(name.as_str()).map(Need::Tool).map_err(|error| KernelError::Invalid(error.to_string()))
        }
        Need::Host { host, port } => {
            let no_host = |why: String| KernelError::Invalid(format!("{host:?} is not one host: {why}"));
            // A list or a wildcard would be a rule, not a host.
            let rules = match GrantSpec::parse(&format!("network: {host}")) {
                Ok(GrantSpec { capability: Capability::Network(rules), .. }) => rules,
                Ok(_) => Vec::new(),
                Err(error) => return Err(no_host(error.to_string())),
            };
            match &rules[..] {
                [one] if !one.subdomains && one.port.is_none() => {
                    Ok(Need::Host { host: one.host.clone(), port: *port })
                }
                _ => Err(no_host("give a name or an address, and the port apart".to_owned())),
            }
        }
        other => Ok(other.clone()),
    }
}

fn grant_view(held: Held) -> GrantView {
    GrantView {
        id: held.grant,
        grant: held.words,
        derives_from: held.derives_from,
        uses_left: held.uses_left,
        usable: held.use_now.is_ok(),
        reason: held.use_now.err(),
        delegable: held.delegate_now,
        special: held.special,
    }
}

fn met_view(access: Access) -> MetView {
    MetView { need: access.need, grant: access.grant }
}
