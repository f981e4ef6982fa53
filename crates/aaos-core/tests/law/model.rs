//! The law once more, slowly: what the properties hold the authority against.
//!
//! Invariant: nothing here calls the authority. Who may do what, what is counted and what is left is computed from
//! the plain history of what was granted, done and ended.

use std::collections::BTreeMap;

use aaos_core::grant::GrantRecord;
use aaos_core::id::{ApprovalId, CallId, GrantId};
use aaos_core::quantity::Quantity;

/// Amounts by the order of [`Quantity::ALL`].
pub(crate) type Sums = [u64; Quantity::ALL.len()];

const MINUTE: u64 = 60_000;

/// What a grant in these tests is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cap {
    Tool(Option<&'static str>),
    Read { dir: &'static str, exact: bool },
    Write { dir: &'static str, exact: bool },
    Net { host: &'static str, below: bool },
    Spawn(Option<&'static str>),
}

/// What an agent in these tests wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Tool(&'static str),
    Read(&'static str),
    Write(&'static str),
    Host(&'static str),
    Spawn(&'static str),
}

impl Cap {
    pub(crate) fn covers(self, want: Want) -> bool {
        let lies = |dir: &str, exact: bool, path: &str| {
            let rest = path.strip_prefix(dir);
            rest.is_some_and(|rest| rest.is_empty() || (!exact && rest.starts_with('/')))
        };
        match (self, want) {
            (Self::Tool(one), Want::Tool(tool)) => one.is_none_or(|one| one == tool),
            (Self::Read { dir, exact }, Want::Read(path))
            | (Self::Write { dir, exact }, Want::Write(path)) => lies(dir, exact, path),
            (Self::Net { host, below: false }, Want::Host(wanted)) => host == wanted,
            (Self::Net { host, below: true }, Want::Host(wanted)) => {
                wanted.strip_suffix(host).is_some_and(|front| front.ends_with('.'))
            }
            (Self::Spawn(one), Want::Spawn(name)) => one.is_none_or(|one| one == name),
            _ => false,
        }
    }
}

/// A grant and its whole history.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) id: GrantId,
    pub(crate) holder: usize,
    pub(crate) parent: Option<usize>,
    pub(crate) cap: Cap,
    pub(crate) record: GrantRecord,
    pub(crate) revoked: bool,
    pub(crate) uses: u32,
    /// Every use ever, refunded ones too: a slot of a rate is not given back.
    pub(crate) at: Vec<Use>,
}

/// A use of a grant.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    call: CallId,
    time: u64,
    /// When its intent came into the journal; without one it never was, for a restart.
    journalled: Option<u64>,
}

impl Grant {
    fn in_minute(&self, now: u64) -> usize {
        self.at.iter().filter(|one| now - one.time < MINUTE).count()
    }

    pub(crate) fn ends(&self) -> Option<u64> {
        let seconds = self.record.constraints.expires_in_seconds?;
        Some(self.record.issued_at.0 + u64::from(seconds) * 1000)
    }
}

/// A purse with what was used in every window that it ever had.
#[derive(Debug, Clone)]
pub(crate) struct Purse {
    pub(crate) max: [Option<u64>; Quantity::ALL.len()],
    pub(crate) period: Option<u64>,
    born: u64,
    pub(crate) reserved: Sums,
    used: BTreeMap<u64, Sums>,
    /// What was settled beyond its reservation: all that may stand above a ceiling.
    over: BTreeMap<u64, Sums>,
}

impl Purse {
    pub(crate) fn new(max: [Option<u64>; Quantity::ALL.len()], period: Option<u64>, born: u64) -> Self {
        Self { max, period, born, reserved: Sums::default(), used: BTreeMap::new(), over: BTreeMap::new() }
    }

    fn window(&self, now: u64) -> u64 {
        self.period.map_or(0, |period| (now - self.born) / period)
    }

    pub(crate) fn used(&self, now: u64) -> Sums {
        self.used.get(&self.window(now)).copied().unwrap_or_default()
    }

    pub(crate) fn left(&self, quantity: Quantity, now: u64) -> Option<u64> {
        let most = self.max[quantity as usize]?;
        Some(most.saturating_sub(self.used(now)[quantity as usize]))
    }

    pub(crate) fn settle(&mut self, reserved: &Sums, spent: &Sums, now: u64) {
        let window = self.window(now);
        let used = self.used.entry(window).or_default();
        let over = self.over.entry(window).or_default();
        for at in 0..spent.len() {
            self.reserved[at] -= reserved[at];
            used[at] += spent[at];
            over[at] += spent[at].saturating_sub(reserved[at]);
        }
    }

    /// More is used in the present window than was known: what was paid ahead in an earlier one counts in full in
    /// the window in which the journal has it.
    pub(crate) fn adopt(&mut self, used: &Sums, now: u64) {
        let window = self.window(now);
        let (known, over) = (self.used.entry(window).or_default(), self.over.entry(window).or_default());
        for at in 0..used.len() {
            assert!(used[at] >= known[at], "a restart forgot what was used: {used:?}, {known:?}");
            over[at] += used[at] - known[at];
            known[at] = used[at];
        }
    }

    /// Whether no window that it ever had exceeds its ceiling by more than what was settled beyond a reservation.
    pub(crate) fn check(&self, now: u64) {
        for (at, most) in self.max.iter().enumerate() {
            let Some(most) = most else { continue };
            for (window, used) in &self.used {
                let over = self.over[window][at];
                assert!(
                    used[at] <= most + over,
                    "window {window} of {most} holds {} ({over} over)",
                    used[at]
                );
            }
            let over = self.over.get(&self.window(now)).map_or(0, |over| over[at]);
            let held = self.used(now)[at] + self.reserved[at];
            assert!(held <= most + over, "{held} used and reserved of {most} ({over} over)");
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) parent: Option<usize>,
    pub(crate) depth: u32,
    pub(crate) alive: bool,
    pub(crate) grants: Vec<usize>,
    pub(crate) purse: Purse,
    pub(crate) asks_for: Vec<&'static str>,
    pub(crate) stable: bool,
    pub(crate) clock: Option<(u64, u64)>,
}

/// What an approval covers.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    Exactly(String),
    Tool { effect: &'static str, grants: Vec<GrantId>, below: Option<&'static str> },
}

#[derive(Debug, Clone)]
pub(crate) struct Approval {
    pub(crate) id: ApprovalId,
    pub(crate) holder: usize,
    pub(crate) scope: Scope,
    pub(crate) uses: u32,
}

fn less(one: &Sums, other: &Sums) -> Sums {
    std::array::from_fn(|at| one[at].saturating_sub(other[at]))
}

/// An effect that was charged.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) agent: usize,
    pub(crate) grants: Vec<usize>,
    pub(crate) reserved: Sums,
    /// Of that, what was used before it ended.
    pub(crate) paid: Sums,
    pub(crate) approval: Option<ApprovalId>,
    /// Whether its intent is in the journal.
    pub(crate) journalled: bool,
    pub(crate) cut: bool,
    /// Whether it is known to hold something: an effect without any charge may be forgotten with its agent.
    pub(crate) charged: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) agents: Vec<Agent>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) approvals: Vec<Approval>,
    pub(crate) open: Vec<Call>,
    /// Refunded though the journal holds their intent: only a restart counts them.
    pub(crate) lost: Vec<Call>,
    pub(crate) latest: u64,
}

// Who may do what.
impl Model {
    /// A grant and what it derives from.
    pub(crate) fn chain(&self, grant: usize) -> impl Iterator<Item = &Grant> {
        std::iter::successors(Some(grant), |at| self.grants[*at].parent).map(|at| &self.grants[at])
    }

    /// An agent and its ancestors.
    pub(crate) fn ancestors(&self, agent: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(agent), |at| self.agents[*at].parent)
    }

    /// Whether nothing on the way to the root is revoked, expired or used up.
    pub(crate) fn stands(&self, grant: usize, now: u64) -> bool {
        self.chain(grant).all(|one| {
            let used_up = one.record.constraints.max_invocations.is_some_and(|most| one.uses >= most);
            !one.revoked && one.ends().is_none_or(|end| now < end) && !used_up
        })
    }

    pub(crate) fn usable(&self, grant: usize, now: u64) -> bool {
        let slow = |one: &Grant| {
            one.record.constraints.max_per_minute.is_none_or(|most| one.in_minute(now) < most as usize)
        };
        self.grants[grant].record.constraints.usable && self.stands(grant, now) && self.chain(grant).all(slow)
    }

    /// Whether any grant of the agent meets the want now.
    pub(crate) fn may(&self, agent: usize, want: Want, now: u64) -> bool {
        let agent = &self.agents[agent];
        if want == Want::Tool("memory_store") && !agent.stable {
            return false;
        }
        agent.grants.iter().any(|at| self.grants[*at].cap.covers(want) && self.usable(*at, now))
    }

    pub(crate) fn find(&self, id: GrantId) -> usize {
        self.grants.iter().position(|one| one.id == id).expect("a grant that was issued")
    }

    /// Whether a person has to be asked about an effect through these grants.
    pub(crate) fn asks(&self, agent: usize, label: &str, through: &[(Want, usize)]) -> bool {
        let says = |one: &Grant| one.record.constraints.approval_required;
        let by_chain = |(_, grant): &(Want, usize)| self.chain(*grant).any(says);
        let held = |want: Want| {
            let above = self.ancestors(agent).flat_map(|one| &self.agents[one].grants);
            above.map(|at| &self.grants[*at]).any(|one| says(one) && one.cap.covers(want))
        };
        self.agents[agent].asks_for.contains(&label) || through.iter().any(|one| by_chain(one) || held(one.0))
    }

    /// Whether an approval covers an effect through these grants.
    pub(crate) fn approves(
        &self,
        approval: &Approval,
        agent: usize,
        label: &str,
        digest: &str,
        through: &[(Want, usize)],
    ) -> bool {
        let holder_stands = self.agents[approval.holder].alive && approval.uses > 0;
        let fits = match &approval.scope {
            Scope::Exactly(approved) => approval.holder == agent && approved == digest,
            Scope::Tool { effect, grants, below } => {
                let named = |grant: usize| self.chain(grant).any(|one| grants.contains(&one.id));
                let files = || {
                    through.iter().filter_map(|(want, _)| match want {
                        Want::Read(path) | Want::Write(path) => Some(*path),
                        _ => None,
                    })
                };
                let lies = |path: &str, dir: &str| {
                    let rest = path.strip_prefix(dir);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && !path.contains("..")
                };
                *effect == label
                    && self.ancestors(agent).any(|one| one == approval.holder)
                    && through.iter().all(|(_, grant)| named(*grant))
                    && below.is_none_or(|dir| files().count() > 0 && files().all(|path| lies(path, dir)))
            }
        };
        holder_stands && fits
    }
}

// What is counted.
impl Model {
    /// One more use of a grant and all it derives from. No bound may be passed by it.
    pub(crate) fn charge(&mut self, call: CallId, grant: usize) {
        let (now, mut next) = (self.latest, Some(grant));
        while let Some(at) = next {
            let one = &mut self.grants[at];
            one.uses += 1;
            one.at.push(Use { call, time: now, journalled: None });
            next = one.parent;
            let bounds = one.record.constraints;
            assert!(bounds.max_invocations.is_none_or(|most| one.uses <= most), "one use too many: {one:?}");
            let most = bounds.max_per_minute;
            assert!(most.is_none_or(|most| one.in_minute(now) <= most as usize), "too fast: {one:?}");
        }
    }

    /// The intent of a call is in the journal from now on.
    pub(crate) fn journal(&mut self, call: CallId) {
        for one in self.grants.iter_mut().flat_map(|grant| &mut grant.at).filter(|one| one.call == call) {
            one.journalled = Some(self.latest);
        }
    }

    fn uncharge(&mut self, grant: usize) {
        let mut next = Some(grant);
        while let Some(at) = next {
            self.grants[at].uses -= 1;
            next = self.grants[at].parent;
        }
    }

    /// Reserves on the whole path. Every purse must have room.
    pub(crate) fn reserve(&mut self, agent: usize, wanted: &Sums) {
        let path: Vec<usize> = self.ancestors(agent).collect();
        for at in path {
            let purse = &mut self.agents[at].purse;
            for (sum, more) in purse.reserved.iter_mut().zip(wanted) {
                *sum += more;
            }
            let now = self.latest;
            for quantity in Quantity::ALL {
                let (left, at) = (purse.left(quantity, now), quantity as usize);
                let room = left.is_none_or(|left| purse.reserved[at] <= left);
                assert!(wanted[at] == 0 || room, "{quantity:?} is reserved beyond a ceiling: {purse:?}");
            }
        }
    }

    fn settle_purses(&mut self, agent: usize, reserved: &Sums, spent: &Sums) {
        let path: Vec<usize> = self.ancestors(agent).collect();
        for at in path {
            self.agents[at].purse.settle(reserved, spent, self.latest);
        }
    }

    pub(crate) fn settle(&mut self, call: &Call, spent: &Sums) {
        self.settle_purses(call.agent, &less(&call.reserved, &call.paid), &less(spent, &call.paid));
    }

    /// Part of an open call's reservation is used already.
    pub(crate) fn pay_ahead(&mut self, at: usize, certain: &Sums) {
        let more = less(certain, &self.open[at].paid);
        self.settle_purses(self.open[at].agent, &more, &more);
        for (paid, more) in self.open[at].paid.iter_mut().zip(more) {
            *paid += more;
        }
    }

    /// As if the effect had never been, but for the slots of rates.
    pub(crate) fn refund(&mut self, call: &Call) {
        for grant in &call.grants {
            self.uncharge(*grant);
        }
        self.settle_purses(call.agent, &less(&call.reserved, &call.paid), &Sums::default());
        if let Some(id) = call.approval
            && let Some(one) = self.approvals.iter_mut().find(|one| one.id == id)
        {
            one.uses += 1;
        }
    }

    pub(crate) fn remove(&mut self, agent: usize) {
        for below in 0..self.agents.len() {
            if self.agents[below].alive && self.ancestors(below).any(|one| one == agent) {
                self.stop_clock(below);
                self.agents[below].alive = false;
                self.approvals.retain(|one| one.holder != below);
            }
        }
    }

    /// Begins a run; false where no time is left.
    pub(crate) fn start_clock(&mut self, agent: usize) -> bool {
        self.stop_clock(agent);
        let (now, agent) = (self.latest, &mut self.agents[agent]);
        let left = agent.purse.left(Quantity::WallMillis, now);
        if left == Some(0) {
            return false;
        }
        let reserved = left.unwrap_or(0);
        agent.purse.reserved[Quantity::WallMillis as usize] += reserved;
        agent.clock = Some((now, reserved));
        true
    }

    pub(crate) fn stop_clock(&mut self, agent: usize) {
        let (now, agent) = (self.latest, &mut self.agents[agent]);
        let Some((since, reserved)) = agent.clock.take() else { return };
        let mut sums = (Sums::default(), Sums::default());
        sums.0[Quantity::WallMillis as usize] = reserved;
        sums.1[Quantity::WallMillis as usize] = now - since;
        agent.purse.settle(&sums.0, &sums.1, now);
    }

    /// Ends a grant; gives the grants of agents alive that ended with it, and the open calls that use one.
    pub(crate) fn revoke(&mut self, grant: usize) -> (Vec<GrantId>, Vec<CallId>) {
        if self.chain(grant).any(|one| one.revoked) {
            return (Vec::new(), Vec::new());
        }
        let id = self.grants[grant].id;
        let ended: Vec<usize> = (0..self.grants.len())
            .filter(|at| self.chain(*at).all(|one| !one.revoked) && self.chain(*at).any(|one| one.id == id))
            .collect();
        let hit = |call: &&Call| !call.cut && call.grants.iter().any(|used| ended.contains(used));
        let calls = self.open.iter().filter(hit).map(|call| call.id).collect();
        self.grants[grant].revoked = true;
        let alive = ended.iter().map(|at| &self.grants[*at]).filter(|one| self.agents[one.holder].alive);
        (alive.map(|one| one.id).collect(), calls)
    }

    /// What a daemon finds that starts after this one was killed.
    pub(crate) fn crashed(&self) -> Self {
        let mut after = self.clone();
        for call in std::mem::take(&mut after.open) {
            if call.journalled {
                after.settle(&call, &call.reserved);
            } else {
                after.refund(&call);
            }
        }
        for call in std::mem::take(&mut after.lost) {
            for grant in &call.grants {
                let mut next = Some(*grant);
                while let Some(at) = next {
                    after.grants[at].uses += 1;
                    next = after.grants[at].parent;
                }
            }
            after.settle_purses(call.agent, &Sums::default(), &less(&call.reserved, &call.paid));
            if let Some(one) = after.approvals.iter_mut().find(|one| Some(one.id) == call.approval) {
                one.uses = one.uses.saturating_sub(1);
            }
        }
        for grant in &mut after.grants {
            grant.at.retain_mut(|one| {
                one.time = one.journalled.unwrap_or(one.time);
                one.journalled.is_some()
            });
        }
        for agent in 0..after.agents.len() {
            after.stop_clock(agent);
        }
        after.approvals.retain(|one| one.uses > 0);
        after
    }
}
