//! How each need of an effect is met and charged, all of them or none.

use std::cmp::Reverse;

use crate::capability::{Capability, HostRule};
use crate::effect::{Access, Charge, Denied, Effect, FileRight, Need, Needs};
use crate::grant::GrantRecord;
use crate::id::{CallId, GrantId};
use crate::name::AgentName;
use crate::quantity::{Amounts, Timestamp};

use super::index::HeldIndex;
use super::narrow::covers_need;
use super::surroundings::Surroundings;
use super::table::{GrantIx, Unusable};
use super::{AgentIx, Authority, Refusal, words};

/// How the needs of one effect are met.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub(super) all: Vec<Access>,
    pub(super) each: Vec<Result<Access, Denied>>,
    pub(super) charges: Vec<Charge>,
}

impl Met {
    /// Every access that was granted.
    pub(super) fn accesses(&self) -> impl Iterator<Item = &Access> {
        self.all.iter().chain(self.each.iter().filter_map(|one| one.as_ref().ok()))
    }

    pub(super) fn forbid_links(&mut self) {
        self.accesses_mut().for_each(|access| access.no_links = true);
    }

    pub(super) fn accesses_mut(&mut self) -> impl Iterator<Item = &mut Access> {
        let each = self.each.iter_mut().filter_map(|one| one.as_mut().ok());
        self.all.iter_mut().chain(each)
    }
}

impl Authority {
    /// Meets and charges all needs, or changes nothing.
    pub(super) fn meet<E: Effect>(
        &mut self,
        at: AgentIx,
        call: CallId,
        effect: &E,
        now: Timestamp,
    ) -> Result<Met, Refusal> {
        let mut met = Met::default();
        match self.meet_into(&mut met, at, call, effect, now) {
            Ok(()) => {
                // An approval is its holder's; closing one closes nothing of the agent that acts.
                let own = met.charges.iter().filter(|one| !matches!(one, Charge::Approval { .. }));
                self.agents.at_mut(at).open_charges += own.count();
                Ok(met)
            }
            Err(refusal) => {
                self.roll_back(&met.charges, now);
                Err(refusal)
            }
        }
    }

    fn meet_into<E: Effect>(
        &mut self,
        met: &mut Met,
        at: AgentIx,
        call: CallId,
        effect: &E,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let needs = effect.needs();
        met.all = Vec::with_capacity(needs.all.len());
        met.each = Vec::with_capacity(needs.each.len());
        met.charges = Vec::with_capacity(needs.all.len() + needs.each.len() + 2);
        for need in &needs.all {
            match self.meet_one(&mut met.charges, at, need, now) {
                Ok(access) => met.all.push(access),
                Err(denied) => return Err(self.all_missing(at, &needs, denied, now).into()),
            }
        }
        for need in &needs.each {
            let item = self.meet_one(&mut met.charges, at, need, now);
            met.each.push(item);
        }
        let mut denied = met.each.iter().filter_map(|item| item.as_ref().err());
        if let Some(first) = denied.next()
            && met.each.iter().all(Result::is_err)
        {
            return Err(first.clone().into());
        }
        if !needs.amounts.is_none() {
            met.charges.push(self.reserve(at, &needs.amounts, now)?);
        }
        self.pass_approval(met, at, call, effect)
    }

    /// The first denial, naming every grant that is missing beside it, so that nobody has to ask twice.
    fn all_missing(&self, at: AgentIx, needs: &Needs, first: Denied, now: Timestamp) -> Denied {
        let denied = needs.all.iter().filter_map(|need| self.choose(at, need, now).err());
        let mut missing: Vec<String> = denied.map(|denied| denied.missing).collect();
        missing.dedup();
        if missing.len() < 2 { first } else { Denied { missing: missing.join("; "), ..first } }
    }

    fn meet_one(
        &mut self,
        charges: &mut Vec<Charge>,
        at: AgentIx,
        need: &Need,
        now: Timestamp,
    ) -> Result<Access, Denied> {
        let (ix, access) = self.access(at, need, now)?;
        if self.grants.charge(ix, now) {
            charges.push(Charge::Use { grant: access.grant });
        }
        Ok(access)
    }

    /// How a need would be met; nothing is charged.
    pub(super) fn access(
        &self,
        at: AgentIx,
        need: &Need,
        now: Timestamp,
    ) -> Result<(GrantIx, Access), Denied> {
        let (ix, relative) = self.choose(at, need, now)?;
        let Hosts { hosts, public, mut through } = match need {
            Need::Host { host, port } => self.reachable_hosts(at, ix, (host, *port), now),
            _ => Hosts::default(),
        };
        let mut world = None;
        if matches!(need, Need::Exec(_) | Need::Program(_)) {
            let Surroundings { world: seen, through: grants } = self.surroundings(at, ix, need, now);
            (world, through) = (Some(Box::new(seen)), grants);
        }
        let grant = self.grants.id(ix);
        let need = match (need, &self.grants.record(ix).capability) {
            // From here on it is known which one it is.
            (Need::Program(_), Capability::Exec(program)) => Need::Exec(program.clone()),
            (need, _) => need.clone(),
        };
        Ok((ix, Access { need, grant, relative, hosts, public, through, world, no_links: false }))
    }

    /// The most specific usable grant for a need; else why the most specific one there is cannot be used.
    pub(super) fn choose(
        &self,
        at: AgentIx,
        need: &Need,
        now: Timestamp,
    ) -> Result<(GrantIx, Option<String>), Denied> {
        let node = self.agents.at(at);
        let index = &node.index;
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
            Need::Tool(name) if writes_memory(name.as_str()) && !node.stable_identity => {
                return Err(words::no_stable_identity(name));
            }
            Need::Tool(name) => first(&mut index.tool(name.as_str()).chain(index.any_tool.iter().copied())),
            Need::Host { host, port } => first(&mut self.host_grants(index, host, *port).into_iter()),
            Need::Spawn(name) => first(&mut self.naming(&index.spawn, name)),
            Need::Message(name) => first(&mut self.naming(&index.message, name)),
            Need::Exec(_) | Need::Program(_) => {
                let held = index.exec.iter().copied();
                first(&mut held.filter(|ix| covers_need(self.grants.record(*ix), need)))
            }
        };
        chosen.map_err(|because| words::denied(need, because))
    }

    fn naming<'a>(&'a self, held: &'a [GrantIx], name: &'a AgentName) -> impl Iterator<Item = GrantIx> + 'a {
        held.iter().copied().filter(move |ix| match &self.grants.record(*ix).capability {
            Capability::SpawnChild(set) | Capability::MessageSend(set) => set.contains(name),
            _ => false,
        })
    }

    /// Grants that reach a host, most specific first, `web_search` last.
    pub(super) fn host_grants(&self, index: &HeldIndex, host: &str, port: u16) -> Vec<GrantIx> {
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

    /// Where redirects may lead. Only the chosen grant is charged for the call, so beside it count those usable
    /// grants alone whose uses nothing bounds. Where a person has to be asked about any host, a redirect leads
    /// nowhere else: it would get there unasked.
    fn reachable_hosts(
        &self,
        at: AgentIx,
        chosen: GrantIx,
        (host, port): (&str, u16),
        now: Timestamp,
    ) -> Hosts {
        if self.asks_about_hosts(at) {
            let port = (!matches!(port, 80 | 443)).then_some(port);
            let hosts = vec![HostRule { host: host.to_owned(), subdomains: false, port }];
            return Hosts { hosts, ..Hosts::default() };
        }
        let index = &self.agents.at(at).index;
        let free = |ix: GrantIx| !self.grants.is_counted(ix) && self.grants.usable(ix, now).is_ok();
        let covers = |ix: &&GrantIx| **ix == chosen || free(**ix);
        let (network, web) = (index.network.iter().filter(covers), index.web.iter().filter(covers));
        let through = network.clone().chain(web.clone()).filter(|ix| **ix != chosen);
        Hosts {
            hosts: network.flat_map(|ix| rules(self.grants.record(*ix))).cloned().collect(),
            public: web.count() > 0,
            through: through.map(|ix| self.grants.id(*ix)).collect(),
        }
    }

    fn asks_about_hosts(&self, at: AgentIx) -> bool {
        let node = self.agents.at(at);
        let is_host = |ix: &GrantIx| {
            matches!(self.grants.record(*ix).capability, Capability::Network(_) | Capability::WebSearch)
        };
        node.asks_on_path && self.agents.path(at).flat_map(|node| &node.asking).any(is_host)
    }

    /// Takes back charges of this very operation, newest first.
    fn roll_back(&mut self, charges: &[Charge], now: Timestamp) {
        for charge in charges.iter().rev() {
            match charge {
                Charge::Use { grant } => {
                    if let Some((ix, _)) = self.grants.find(*grant) {
                        self.grants.roll_back(ix);
                    }
                }
                Charge::Purse { agent, reserved } => self.spend(*agent, reserved, &Amounts::NONE, now),
                Charge::Approval { .. } => unreachable!("an approval is the last charge of a decision"),
            }
        }
    }
}

/// Where a fetch may go on to, and under which grants beside the chosen one.
#[derive(Debug, Default)]
struct Hosts {
    hosts: Vec<HostRule>,
    public: bool,
    through: Vec<GrantId>,
}

/// Whether a tool writes memory, which outlives its agent unless the agent's identity is stable.
fn writes_memory(tool: &str) -> bool {
    matches!(tool, "memory_store" | "memory_delete")
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
