//! How each need of an effect is met and charged, all of them or none.

use std::cmp::Reverse;

use crate::capability::{Capability, HostRule, NameSet};
use crate::effect::{Access, Charge, Denied, FileRight, Need, Needs};
use crate::grant::GrantRecord;
use crate::id::AgentId;
use crate::name::AgentName;
use crate::quantity::{Timestamp, Tokens};

use super::table::{GrantIx, Unusable};
use super::{Authority, Refusal, words};

/// How the needs of one effect are met.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub(super) all: Vec<Access>,
    pub(super) each: Vec<Result<Access, Denied>>,
    pub(super) charges: Vec<Charge>,
}

impl Authority {
    /// Meets and charges all needs, or changes nothing.
    pub(super) fn meet(&mut self, agent: AgentId, needs: &Needs, now: Timestamp) -> Result<Met, Refusal> {
        let mut met = Met::default();
        match self.meet_into(&mut met, agent, needs, now) {
            Ok(()) => {
                for _ in &met.charges {
                    self.open_charge(agent);
                }
                Ok(met)
            }
            Err(refusal) => {
                self.roll_back(&met.charges);
                Err(refusal)
            }
        }
    }

    fn meet_into(
        &mut self,
        met: &mut Met,
        agent: AgentId,
        needs: &Needs,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        for need in &needs.all {
            let access = self.meet_one(&mut met.charges, agent, need, now)?;
            met.all.push(access);
        }
        for need in &needs.each {
            let item = match self.meet_one(&mut met.charges, agent, need, now) {
                Ok(access) => Ok(access),
                Err(Refusal::Denied(denied)) => Err(denied),
                Err(other) => return Err(other),
            };
            met.each.push(item);
        }
        let mut denied = met.each.iter().filter_map(|item| item.as_ref().err());
        match denied.next() {
            Some(first) if met.each.iter().all(Result::is_err) => Err(first.clone().into()),
            _ => Ok(()),
        }
    }

    fn meet_one(
        &mut self,
        charges: &mut Vec<Charge>,
        agent: AgentId,
        need: &Need,
        now: Timestamp,
    ) -> Result<Access, Refusal> {
        let bare =
            Access { need: need.clone(), grant: None, relative: None, hosts: Vec::new(), public: false };
        if let Need::Tokens(amount) = need {
            charges.push(self.reserve(agent, *amount)?);
            return Ok(bare);
        }
        let (ix, relative) = self.choose(agent, need, now)?;
        let grant = self.grants.record(ix).id;
        let (hosts, public) = match need {
            Need::Host { .. } => self.reachable_hosts(agent, ix, now),
            _ => (Vec::new(), false),
        };
        if self.grants.charge(ix, now) {
            charges.push(Charge::Use { grant });
        }
        Ok(Access { grant: Some(grant), relative, hosts, public, ..bare })
    }

    /// The most specific usable grant for a need; else why the most specific one there is cannot be used.
    fn choose(
        &self,
        agent: AgentId,
        need: &Need,
        now: Timestamp,
    ) -> Result<(GrantIx, Option<String>), Denied> {
        let index = &self.node(agent).index;
        let usable = |ix: GrantIx| self.grants.usable(ix, now);
        let first = |held: &mut dyn Iterator<Item = GrantIx>| {
            pick(held.map(|ix| (ix, ())), usable).map(|(ix, ())| (ix, None))
        };
        let chosen = match need {
            Need::File { right, path } => {
                let held = match right {
                    FileRight::Read => &index.read,
                    FileRight::Write => &index.write,
                };
                let found = held.matching(path).map(|(ix, below)| (ix, Some(below)));
                pick(found, usable).map(|(ix, below)| (ix, below.map(str::to_owned)))
            }
            Need::Tool(name) => first(&mut index.tool(name.as_str()).iter().chain(&index.any_tool).copied()),
            Need::Host { host, port } => first(&mut self.host_grants(agent, host, *port).into_iter()),
            Need::Spawn(name) => first(&mut self.naming(&index.spawn, name)),
            Need::Message(name) => first(&mut self.naming(&index.message, name)),
            Need::Tokens(_) => unreachable!("tokens are met by the purse"),
        };
        chosen.map_err(|because| words::denied(need, because))
    }

    fn naming<'a>(&'a self, held: &'a [GrantIx], name: &'a AgentName) -> impl Iterator<Item = GrantIx> + 'a {
        held.iter().copied().filter(move |ix| match &self.grants.record(*ix).capability {
            Capability::SpawnChild(set) | Capability::MessageSend(set) => match set {
                NameSet::All => true,
                NameSet::Only(names) => names.contains(name),
            },
            _ => false,
        })
    }

    /// Grants that reach a host, most specific first, `web_search` last.
    fn host_grants(&self, agent: AgentId, host: &str, port: u16) -> Vec<GrantIx> {
        let index = &self.node(agent).index;
        let mut found: Vec<_> = index
            .network
            .iter()
            .filter_map(|ix| {
                let matching = rules(self.grants.record(*ix)).iter().filter(|rule| rule.matches(host, port));
                let best =
                    matching.map(|rule| (!rule.subdomains, rule.port.is_some(), rule.host.len())).max()?;
                Some((Reverse(best), *ix))
            })
            .collect();
        found.sort();
        let web = index.web.iter().copied().filter(|_| crate::capability::is_public_web(host, port));
        found.into_iter().map(|(_, ix)| ix).chain(web).collect()
    }

    /// Where redirects may lead, and whether to any public host. Only the chosen grant is charged for the call, so
    /// beside it count those usable grants alone whose uses nothing bounds.
    fn reachable_hosts(&self, agent: AgentId, chosen: GrantIx, now: Timestamp) -> (Vec<HostRule>, bool) {
        let index = &self.node(agent).index;
        let free = |ix: GrantIx| !self.grants.is_counted(ix) && self.grants.usable(ix, now).is_ok();
        let covers = |ix: &&GrantIx| **ix == chosen || free(**ix);
        let network = index.network.iter().filter(covers);
        let hosts = network.flat_map(|ix| rules(self.grants.record(*ix))).cloned().collect();
        (hosts, index.web.iter().any(|ix| covers(&ix)))
    }

    /// Takes back charges of this very operation, newest first.
    fn roll_back(&mut self, charges: &[Charge]) {
        for charge in charges.iter().rev() {
            match charge {
                Charge::Use { grant } => {
                    if let Some((ix, _)) = self.grants.find(*grant) {
                        self.grants.roll_back(ix);
                    }
                }
                Charge::Tokens { agent, reserved } => self.spend(*agent, *reserved, Tokens::ZERO),
            }
        }
    }
}

/// The first that is usable; else why the first there is cannot be used, `None` where there is none.
fn pick<T>(
    mut held: impl Iterator<Item = (GrantIx, T)>,
    usable: impl Fn(GrantIx) -> Result<(), Unusable>,
) -> Result<(GrantIx, T), Option<Unusable>> {
    let mut because = None;
    held.find(|(ix, _)| match usable(*ix) {
        Ok(()) => true,
        Err(why) => {
            because.get_or_insert(why);
            false
        }
    })
    .ok_or(because)
}

fn rules(record: &GrantRecord) -> &[HostRule] {
    match &record.capability {
        Capability::Network(rules) => rules,
        _ => &[],
    }
}
