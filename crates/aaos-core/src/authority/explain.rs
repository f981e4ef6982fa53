//! Answers to people: why something would be refused, and who can reach what.
//!
//! Invariant: nothing here mints, charges or changes anything; no effect goes by these answers.

use crate::effect::{Access, Denied, Need, Needs};
use crate::id::{AgentId, GrantId};
use crate::name::AgentName;
use crate::quantity::Timestamp;
use crate::special::SpecialFiles;

use super::Authority;
use super::narrow::covers_need;
use super::table::{GrantIx, Unusable};

/// One agent that can reach something, and through what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: AgentName,
    /// Its grants that cover it, each with what it derives from.
    pub through: Vec<Held>,
}

/// A grant that covers something, as its holder has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The grant.
    pub grant: GrantId,
    /// In the grammar's words, with its constraints.
    pub words: String,
    /// What it derives from, nearest first.
    pub derives_from: Vec<GrantId>,
    /// Uses left over all that share them; `None` where nothing bounds them.
    pub uses_left: Option<u32>,
    /// Whether its holder may use it now; else why not.
    pub use_now: Result<(), String>,
    /// Whether its holder may hand it on now.
    pub delegate_now: bool,
    /// What its root held beside files and directories when it was granted.
    pub special: Option<SpecialFiles>,
}

impl Authority {
    /// How each need would be met now, or everything that is missing.
    ///
    /// # Errors
    /// A denial for each need that nothing meets; empty for an agent that is not alive.
    pub fn explain(&self, agent: AgentId, needs: &Needs, now: Timestamp) -> Result<Vec<Access>, Vec<Denied>> {
        let now = self.latest.max(now);
        let Ok(at) = self.find_alive(agent) else {
            return Err(Vec::new());
        };
        let (mut met, mut denied) = (Vec::new(), Vec::new());
        for need in needs.all.iter().chain(&needs.each) {
            match self.access(at, need, now) {
                Ok((_, access)) => met.push(access),
                Err(missing) => denied.push(missing),
            }
        }
        if denied.is_empty() { Ok(met) } else { Err(denied) }
    }

    /// Every agent alive that holds a grant covering `need`, whether it may use it or only hand it on. Revoked grants
    /// are left out.
    #[must_use]
    pub fn reach(&self, need: &Need, now: Timestamp) -> Vec<Reach> {
        let now = self.latest.max(now);
        let alive = self.agents.iter().filter(|node| !node.stopped);
        let mut found: Vec<Reach> = alive
            .filter_map(|node| {
                let held = node.grants.iter().filter(|ix| !self.grants.is_revoked(**ix));
                let covering = held.filter(|ix| covers_need(self.grants.record(**ix), need));
                let through: Vec<Held> = covering.map(|ix| self.held(*ix, now)).collect();
                (!through.is_empty()).then(|| Reach { agent: node.id, name: node.name.clone(), through })
            })
            .collect();
        found.sort_by_key(|reach| reach.agent);
        found
    }

    /// The grants of an agent that are not revoked, in the order they were issued.
    #[must_use]
    pub fn held_by(&self, agent: AgentId, now: Timestamp) -> Vec<Held> {
        let now = self.latest.max(now);
        let Ok(node) = self.alive(agent) else {
            return Vec::new();
        };
        let held = node.grants.iter().filter(|ix| !self.grants.is_revoked(**ix));
        held.map(|ix| self.held(*ix, now)).collect()
    }

    fn held(&self, ix: GrantIx, now: Timestamp) -> Held {
        let record = self.grants.record(ix);
        Held {
            grant: record.id,
            words: record.spec().to_string(),
            derives_from: self.grants.ancestors(record.id).skip(1).collect(),
            uses_left: self.grants.uses_left(ix),
            use_now: self.grants.usable(ix, now).map_err(Unusable::reason),
            delegate_now: record.constraints.delegate && self.grants.standing(ix, now).is_ok(),
            special: record.special.clone(),
        }
    }
}
