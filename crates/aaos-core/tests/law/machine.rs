//! The authority under arbitrary sequences of everything that can be done to it, held against [`Model`] at each
//! step, with the journal that the runtime would leave.
//!
//! Invariant: the machine asserts on each answer; a sequence that ends without a panic kept the law.

use std::borrow::Cow;

use aaos_core::approval::{ApprovalGrant, ApprovalScope, Question};
use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal};
use aaos_core::effect::{Access, Authorized, AuthorizedParts, Charge, Effect, EffectClass, Needs, Subject};
use aaos_core::event::{AgentEnd, Entry, Event, Outcome};
use aaos_core::grant::{GrantRecord, GrantRequest};
use aaos_core::id::{AgentId, ApprovalId, EntryId, GrantId, Seq};
use aaos_core::manifest::Manifest;
use aaos_core::name::ToolName;
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp};
use aaos_core::state::State;
use uuid::Uuid;

use crate::model::{Agent, Approval, Call, Cap, Grant, Model, Purse, Scope, Sums, Want};
use crate::steps::{CAPS, Cutting, GrantWish, PurseWish, Step, WANTS, need_of, request_of, template};
use crate::support::{agent, call, fresh_call, grant};

/// One effect of a sequence.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    pub(crate) label: &'static str,
    pub(crate) wants: Vec<Want>,
    pub(crate) needs: Needs,
}

impl Effect for Deed {
    type Outcome = Amounts;
    fn needs(&self) -> Cow<'_, Needs> {
        Cow::Borrowed(&self.needs)
    }
    fn class(&self) -> EffectClass {
        EffectClass::Safe
    }
    fn label(&self) -> &'static str {
        self.label
    }
    fn subject(&self) -> Option<Subject> {
        Some(Subject { digest: format!("{} {:?}", self.label, self.wants), input: serde_json::Value::Null })
    }
    fn spent(_: &AuthorizedParts<Self>, outcome: &Amounts) -> Amounts {
        *outcome
    }
    fn intent(parts: &AuthorizedParts<Self>) -> Event {
        Event::ToolInvoked {
            call: parts.call,
            tool: ToolName::parse(parts.effect.label).expect("a tool"),
            input: serde_json::Value::Null,
            class: EffectClass::Safe,
            access: parts.all.clone(),
            charges: parts.charges.clone(),
        }
    }
    fn result(parts: &AuthorizedParts<Self>, outcome: &Amounts) -> Event {
        Event::ToolResult {
            call: parts.call,
            tool: ToolName::parse(parts.effect.label).expect("a tool"),
            outcome: Outcome::Done,
            result_hash: String::new(),
            result_bytes: Bytes::ZERO,
            failure: None,
            worker: None,
            spent: *outcome,
            elapsed: Millis::ZERO,
        }
    }
}

/// An effect that was authorised: before its intent is journalled, or after.
enum Held {
    Live(Authorized<Deed>),
    Taken(AuthorizedParts<Deed>),
}

/// What happened in a sequence, so that a test can tell whether the sequences reach everything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Seen(pub(crate) std::collections::BTreeMap<&'static str, u32>);

impl Seen {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// An authority, its model, and the fold of its journal.
pub(crate) struct Machine {
    law: Authority,
    pub(crate) model: Model,
    pub(crate) state: State,
    held: Vec<Held>,
    questions: Vec<Question>,
    /// The runtime's clock; it may step back.
    clock: u64,
    next: u128,
    /// Entries of the step that runs, with who they are about.
    step: Vec<(Option<AgentId>, Event)>,
    pub(crate) seen: Seen,
}

const START: u64 = 1_000_000;

fn sums(amounts: &Amounts) -> Sums {
    Quantity::ALL.map(|quantity| amounts.get(quantity))
}

fn amounts(sums: &Sums) -> Amounts {
    let pairs = Quantity::ALL.into_iter().zip(sums);
    pairs.fold(Amounts::NONE, |all, (quantity, amount)| all.with(quantity, *amount))
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            law: Authority::new(AuthorityLimits { max_depth: 3, ..AuthorityLimits::default() }),
            model: Model { latest: START, ..Model::default() },
            state: State::default(),
            held: Vec::new(),
            questions: Vec::new(),
            clock: START,
            next: 1,
            step: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn fresh(&mut self) -> u128 {
        self.next += 1;
        self.next
    }

    fn id(&self, at: usize) -> AgentId {
        agent(at as u128 + 1)
    }

    /// The time of an operation: never before one that was seen.
    fn now(&mut self) -> Timestamp {
        self.model.latest = self.model.latest.max(self.clock);
        Timestamp(self.clock)
    }

    fn write(&mut self, who: Option<AgentId>, event: Event) {
        self.step.push((who, event));
    }

    /// Mostly one that is alive.
    fn agent_at(&self, at: u8) -> Option<usize> {
        let any = at >= 240;
        let all = self.model.agents.iter().enumerate().filter(|(_, one)| any || one.alive);
        let all: Vec<usize> = all.map(|(at, _)| at).collect();
        (!all.is_empty()).then(|| all[usize::from(at) % all.len()])
    }

    /// Does one step and journals it, holding what a restart would find in the midst of it against the law.
    pub(crate) fn step(&mut self, step: &Step, cutting: Cutting) {
        let before = (cutting == Cutting::Here).then(|| self.model.crashed());
        let silent = matches!(step, Step::Pass { .. } | Step::Restart);
        if !silent {
            // The runtime tells the authority the time with nearly every operation, and journals as often.
            let now = self.now();
            self.law.settle(fresh_call(), &[], &Amounts::NONE, now);
        }
        self.act(step);
        if self.step.is_empty() && !silent {
            self.write(None, Event::AgentLoopStarted {});
        }
        for (who, event) in std::mem::take(&mut self.step) {
            self.apply(who, event);
            if let Some(before) = &before {
                self.check_restored(before, &self.model.crashed());
            }
        }
        self.check();
    }

    fn apply(&mut self, agent_id: Option<AgentId>, event: Event) {
        let seq = self.state.seq.0 + 1;
        self.state.apply(&Entry {
            seq: Seq(seq),
            id: EntryId::from_uuid(Uuid::from_u128(u128::from(seq))),
            timestamp: Timestamp(self.clock),
            goal_id: None,
            agent_id,
            trace_id: None,
            parent_event: None,
            event,
            prev_hash: String::new(),
            hash: String::new(),
        });
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::Pass { ms } => self.clock = self.clock.saturating_add_signed(*ms),
            Step::Root { purse, grants, stable } => self.admit_root(purse, grants, *stable),
            Step::Child { parent, purse, grants } => {
                if let Some(parent) = self.agent_at(*parent) {
                    self.admit_child(parent, purse, grants);
                }
            }
            Step::Call { who, wants, wanted, journalled } => {
                if let Some(who) = self.agent_at(*who) {
                    self.call(who, wants, wanted, *journalled);
                }
            }
            Step::Settle { open, part } => self.settle(*open, *part),
            Step::Refund { open, by_drop } => self.refund(*open, *by_drop),
            Step::PayAhead { open } => self.pay_ahead(*open),
            Step::Revoke { grant } => self.revoke(*grant),
            Step::Remove { who } => self.remove(*who),
            Step::Answer { question, answer, uses } => self.answer(*question, *answer, *uses),
            Step::StartClock { who } => self.start_clock(*who),
            Step::StopClock { who } => self.stop_clock(*who),
            Step::Restart => self.restart(),
        }
    }
}

// Admission.
impl Machine {
    fn manifest(&self, purse: &PurseWish, stable: bool, above: &[&'static str]) -> Manifest {
        let mut manifest = template(stable);
        let mut asks = above.to_vec();
        asks.extend(purse.asks_for);
        asks.sort_unstable();
        asks.dedup();
        manifest.approval_required =
            asks.into_iter().map(|name| ToolName::parse(name).expect("a tool")).collect();
        manifest
    }

    fn enter(
        &mut self,
        parent: Option<usize>,
        purse: &PurseWish,
        manifest: Manifest,
        records: Vec<(usize, GrantRecord)>,
    ) {
        let number = self.model.agents.len();
        let id = self.id(number);
        let depth = parent.map_or(0, |one| self.model.agents[one].depth + 1);
        let name = |tool: &ToolName| CAPS_TOOLS.into_iter().find(|one| *one == tool.as_str());
        let asks_for = manifest.approval_required.iter().filter_map(name).collect();
        let stable = manifest.lifecycle == aaos_core::manifest::Lifecycle::Persistent;
        self.write(
            Some(id),
            Event::AgentSpawned {
                name: manifest.name.clone(),
                parent: parent.map(|one| self.id(one)),
                depth,
                manifest: Box::new(manifest),
                budget: purse.budget(),
                principal: 0,
            },
        );
        let mut grants = Vec::new();
        for (cap, record) in records {
            grants.push(self.model.grants.len());
            self.model.grants.push(Grant {
                id: record.id,
                holder: number,
                parent: record.parent.map(|from| self.model.find(from)),
                cap: CAPS[cap],
                record: record.clone(),
                revoked: false,
                uses: 0,
                at: Vec::new(),
            });
            self.write(Some(id), Event::CapabilityGranted { grant: record });
        }
        let purse = Purse::new(purse.max(), purse.period, self.model.latest);
        self.model.agents.push(Agent {
            parent,
            depth,
            alive: true,
            grants,
            purse,
            asks_for,
            stable,
            clock: None,
        });
    }

    fn request(&mut self, wish: &GrantWish) -> (usize, GrantRequest) {
        let id = grant(self.fresh());
        (wish.cap, request_of(wish, id))
    }

    fn admit_root(&mut self, purse: &PurseWish, grants: &[GrantWish], stable: bool) {
        if self.model.agents.iter().filter(|one| one.parent.is_none() && one.alive).count() >= 3 {
            return;
        }
        let now = self.now();
        let (caps, requests): (Vec<_>, Vec<_>) = grants.iter().map(|wish| self.request(wish)).unzip();
        let manifest = self.manifest(purse, stable, &[]);
        let admission = Admission::of(self.id(self.model.agents.len()), &manifest, purse.budget());
        let records = self.law.admit_root(admission, requests, now).expect("there is room");
        self.seen.note("root");
        self.enter(None, purse, manifest, caps.into_iter().zip(records).collect());
    }

    /// A child that asks for grants by the place of its parent's: what is granted must be covered by what the parent
    /// holds and may hand on at this moment, and bounded no looser.
    fn admit_child(&mut self, parent: usize, purse: &PurseWish, wishes: &[(u8, GrantWish)]) {
        let now = self.now();
        let held = self.model.agents[parent].grants.clone();
        let from: Vec<usize> = wishes
            .iter()
            .filter(|_| !held.is_empty())
            .map(|(at, _)| held[usize::from(*at) % held.len()])
            .collect();
        let fitting = from.iter().zip(wishes).map(|(from, (_, wish))| self.fitting(*from, *wish));
        let fitting: Vec<GrantWish> = fitting.collect();
        let requests: Vec<_> = fitting.iter().map(|wish| self.request(wish)).collect();
        let manifest = self.manifest(purse, false, &self.model.agents[parent].asks_for);
        let admission = Admission::of(self.id(self.model.agents.len()), &manifest, purse.budget());
        let named = from.iter().zip(&requests);
        let named = named.map(|(at, (_, request))| (self.model.grants[*at].id, request.clone())).collect();
        let admitted = self.law.admit_child(self.id(parent), admission, named, now);
        let alive = self.model.agents[parent].alive;
        let records = match admitted {
            Ok(records) => records,
            Err(refusal) => {
                assert_eq!(matches!(refusal, Refusal::UnknownAgent(_)), !alive, "{refusal:?}");
                self.seen.note("child refused");
                return;
            }
        };
        assert!(alive, "nobody is admitted under a stopped agent");
        for (at, record) in from.iter().zip(&records) {
            self.check_narrowed(*at, record);
        }
        self.seen.note(if records.is_empty() { "child without grants" } else { "child" });
        let records = requests.into_iter().map(|(cap, _)| cap).zip(records).collect();
        self.enter(Some(parent), purse, manifest, records);
    }

    /// The wish, or one for what lies within the parent's grant, where the wish asks for that.
    fn fitting(&self, from: usize, wish: GrantWish) -> GrantWish {
        let parent = self.model.grants[from].cap;
        let within = |cap: &Cap| WANTS.iter().all(|want| !cap.covers(*want) || parent.covers(*want));
        let fitting: Vec<usize> = (0..CAPS.len()).filter(|at| within(&CAPS[*at])).collect();
        if wish.fits { GrantWish { cap: fitting[wish.cap % fitting.len()], ..wish } } else { wish }
    }

    fn check_narrowed(&self, from: usize, record: &GrantRecord) {
        let (now, above) = (self.model.latest, &self.model.grants[from]);
        let (bounds, own) = (record.constraints, above.record.constraints);
        assert!(own.delegate, "delegate: false was handed on: {above:?}");
        assert!(self.model.stands(from, now), "a grant that is over was handed on: {above:?}");
        assert_eq!(record.parent, Some(above.id));
        let no_looser = |child: Option<u32>, parent: Option<u32>| match (child, parent) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(child), Some(parent)) => child <= parent,
        };
        assert!(no_looser(bounds.max_invocations, own.max_invocations.map(|most| most - above.uses)));
        assert!(no_looser(bounds.max_per_minute, own.max_per_minute));
        let end = record.issued_at.0 + u64::from(bounds.expires_in_seconds.unwrap_or(u32::MAX)) * 1000;
        assert!(above.ends().is_none_or(|before| end <= before), "it outlasts its parent's");
        assert!(
            bounds.approval_required || !own.approval_required,
            "a parent that asks, a child that does not"
        );
    }
}

/// Labels that can be listed in `approval_required`.
const CAPS_TOOLS: [&str; 2] = ["echo", "grep"];

// Calls.
impl Machine {
    fn call(&mut self, who: usize, wants: &[Want], wanted: &Sums, journalled: bool) {
        let (now, id) = (self.now(), call(self.fresh()));
        let label = match wants.first() {
            Some(Want::Tool(tool)) => tool,
            _ => "file_write",
        };
        let needs =
            Needs { all: wants.iter().map(need_of).collect(), each: Vec::new(), amounts: amounts(wanted) };
        let deed = Deed { label, wants: wants.to_vec(), needs };
        match self.law.authorize(self.id(who), id, deed, now) {
            Ok(granted) => {
                self.granted(who, wanted, &granted, journalled);
                let held = if journalled {
                    let parts = granted.into_parts();
                    self.model.journal(id);
                    self.write(Some(self.id(who)), Deed::intent(&parts));
                    Held::Taken(parts)
                } else {
                    Held::Live(granted)
                };
                self.held.push(held);
            }
            Err(refusal) => self.refused(who, label, wants, wanted, refusal),
        }
    }

    /// Charges the model as the law says it charged; a bound that is passed panics there.
    fn granted(&mut self, who: usize, wanted: &Sums, granted: &Authorized<Deed>, journalled: bool) {
        assert!(self.model.agents[who].alive, "a stopped agent acts");
        let (parts, now) = (granted.parts(), self.model.latest);
        let mut through = Vec::new();
        for (want, Access { grant, .. }) in parts.effect.wants.iter().zip(&parts.all) {
            let at = self.model.find(*grant);
            assert_eq!(self.model.grants[at].holder, who, "another agent's grant");
            assert!(self.model.usable(at, now), "an unusable grant is used: {:?}", self.model.grants[at]);
            for one in self.model.chain(at) {
                assert!(one.cap.covers(*want), "{want:?} through {:?}", one.cap);
            }
            let stable = self.model.agents[who].stable || *want != Want::Tool("memory_store");
            assert!(stable, "memory is written without a stable identity");
            self.model.charge(parts.call, at);
            through.push((*want, at));
        }
        assert_eq!(through.len(), parts.effect.wants.len(), "every need is met");
        self.model.reserve(who, wanted);
        let label = parts.effect.label;
        let used = parts.charges.iter().find_map(|charge| match charge {
            Charge::Approval { approval } => Some(*approval),
            Charge::Use { .. } | Charge::Purse { .. } => None,
        });
        assert_eq!(used.is_some(), self.model.asks(who, label, &through), "asked or not");
        if let Some(id) = used {
            let digest = parts.effect.subject().expect("a subject").digest;
            let at = self.model.approvals.iter().position(|one| one.id == id).expect("in force");
            assert!(self.model.approves(&self.model.approvals[at], who, label, &digest, &through));
            self.model.approvals[at].uses -= 1;
            self.seen.note("approved call");
        }
        self.seen.note("call");
        self.model.open.push(Call {
            id: parts.call,
            agent: who,
            grants: through.into_iter().map(|(_, at)| at).collect(),
            reserved: *wanted,
            paid: Sums::default(),
            approval: used,
            journalled,
            cut: false,
            charged: parts.charges.iter().any(|charge| !matches!(charge, Charge::Approval { .. })),
        });
    }

    /// A refusal must have its reason in the model too, and charges nothing: what follows would tell.
    fn refused(&mut self, who: usize, label: &'static str, wants: &[Want], wanted: &Sums, why: Refusal) {
        let now = self.model.latest;
        let alive = self.model.agents[who].alive;
        assert_eq!(matches!(why, Refusal::UnknownAgent(_)), !alive, "{why:?}");
        let room = |quantity: Quantity, agent: usize| {
            let purse = &self.model.agents[agent].purse;
            purse.left(quantity, now).map(|left| (left, purse.reserved[quantity as usize]))
        };
        let path = || self.model.ancestors(who);
        let single = |want: &Want| wants.len() == 1 && self.model.may(who, *want, now);
        match &why {
            Refusal::UnknownAgent(_) => self.seen.note("unknown agent"),
            Refusal::Denied(denied) => {
                assert!(!wants.iter().any(single), "{denied:?}, but it may");
                self.seen.note("denied");
            }
            Refusal::Budget { quantity, wanted: asked, remaining } => {
                assert_eq!(wanted[*quantity as usize], *asked);
                let least = path().filter_map(|one| room(*quantity, one)).map(|(left, _)| left).min();
                assert!(least == Some(*remaining) && asked > remaining, "{why:?} with {least:?}");
                self.seen.note("budget");
            }
            Refusal::Waits { quantity, wanted: asked } => {
                assert_eq!(wanted[*quantity as usize], *asked);
                let fits = |(left, reserved): (u64, u64)| (*asked <= left, reserved + asked <= left);
                let rooms: Vec<_> = path().filter_map(|one| room(*quantity, one)).map(fits).collect();
                assert!(rooms.iter().all(|(ever, _)| *ever), "waits for ever: {why:?}");
                assert!(rooms.iter().any(|(_, now)| !now), "waits for nothing: {why:?}");
                self.seen.note("waits");
            }
            Refusal::Approval(question) => self.asked(who, label, wants, question),
            Refusal::Limit(words) => panic!("no limit is in a call: {words}"),
        }
        if let Refusal::Denied(denied) = why {
            let effect = label.to_owned();
            self.write(Some(self.id(who)), Event::CapabilityDenied { effect, denied });
        } else {
            self.write(Some(self.id(who)), Event::AgentResumed {});
        }
    }

    fn asked(&mut self, who: usize, label: &'static str, wants: &[Want], question: &Question) {
        let grants = question.grants.iter().map(|id| self.model.find(*id));
        let through: Vec<_> = wants.iter().copied().zip(grants).collect();
        assert!(self.model.asks(who, label, &through), "a question without reason: {question:?}");
        let covers = |one: &Approval| self.model.approves(one, who, label, &question.digest, &through);
        assert!(!self.model.approvals.iter().any(covers), "asked although approved: {question:?}");
        self.seen.note("question");
        let deadline = Timestamp(u64::MAX);
        let event = Event::HumanApprovalRequested { question: Box::new(question.clone()), deadline };
        self.write(Some(self.id(who)), event);
        self.questions.push(question.clone());
    }

    fn take(&mut self, open: u8) -> Option<(Held, Call)> {
        if self.held.is_empty() {
            return None;
        }
        let at = usize::from(open) % self.held.len();
        Some((self.held.swap_remove(at), self.model.open.swap_remove(at)))
    }

    /// Settles with part of what was reserved, in tenths.
    fn settle(&mut self, open: u8, part: u64) {
        let Some((held, mut open)) = self.take(open) else { return };
        let parts = match held {
            Held::Live(granted) => {
                let parts = granted.into_parts();
                self.model.journal(parts.call);
                self.write(Some(parts.agent), Deed::intent(&parts));
                parts
            }
            Held::Taken(parts) => parts,
        };
        open.journalled = true;
        let mut spent = open.reserved.map(|one| (one * part).div_ceil(10));
        for (spent, paid) in spent.iter_mut().zip(open.paid) {
            *spent = paid.max(*spent);
        }
        let now = self.now();
        let settlement = self.law.settle(parts.call, &parts.charges, &amounts(&spent), now);
        assert_eq!(settlement.cut, open.cut, "the cut is told once it is over");
        let over: Vec<_> =
            settlement.overdrafts.iter().map(|one| (one.quantity, one.reserved, one.used)).collect();
        let expected: Vec<_> = Quantity::ALL
            .into_iter()
            .map(|one| (one, open.reserved[one as usize], spent[one as usize]))
            .filter(|(_, reserved, used)| used > reserved)
            .collect();
        assert_eq!(over, expected);
        self.seen.note(if over.is_empty() { "settled" } else { "overdraft" });
        self.model.settle(&open, &spent);
        self.write(Some(parts.agent), Deed::result(&parts, &amounts(&spent)));
    }

    /// Gives a call back. One whose intent is in the journal stays spent for a restart.
    fn refund(&mut self, open: u8, by_drop: bool) {
        let Some((held, open)) = self.take(open) else { return };
        match held {
            Held::Live(granted) if by_drop => drop(granted),
            Held::Live(granted) => {
                let parts = granted.into_parts();
                self.law.refund(parts.call, parts.charges);
            }
            Held::Taken(parts) => self.law.refund(parts.call, parts.charges),
        }
        // A dropped one is taken back by the next operation, whatever it is.
        self.law.refund(fresh_call(), Vec::new());
        self.seen.note("refunded");
        self.model.refund(&open);
        if open.journalled {
            self.model.lost.push(open);
        }
    }

    /// Uses half of a reservation before the effect ends.
    fn pay_ahead(&mut self, at: u8) {
        if self.held.is_empty() {
            return;
        }
        let (now, at) = (self.now(), usize::from(at) % self.held.len());
        if !self.model.open[at].journalled {
            return;
        }
        let certain = self.model.open[at].reserved.map(|one| one / 2);
        let (who, id) = (self.id(self.model.open[at].agent), self.model.open[at].id);
        self.law.pay_ahead(who, id, &amounts(&certain), now);
        self.model.pay_ahead(at, &certain);
        self.seen.note("paid ahead");
    }
}

// Ends.
impl Machine {
    fn revoke(&mut self, at: u8) {
        if self.model.grants.is_empty() {
            return;
        }
        let at = usize::from(at) % self.model.grants.len();
        let (id, holder) = (self.model.grants[at].id, self.model.grants[at].holder);
        if !self.model.agents[holder].alive {
            return;
        }
        let revoked = self.law.revoke(id);
        let (mut expected, candidates) = self.model.revoke(at);
        let alive = |one: &GrantId| self.model.agents[self.model.grants[self.model.find(*one)].holder].alive;
        let mut ended: Vec<GrantId> = revoked.grants.iter().copied().filter(alive).collect();
        ended.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ended, expected, "the whole derived subtree ends, and nothing else");
        assert!(revoked.calls.iter().all(|one| candidates.contains(one)), "cut without reason, or twice");
        for call in &mut self.model.open {
            let hit = candidates.contains(&call.id);
            let certain = self.model.agents[call.agent].alive || call.charged;
            assert!(!(hit && certain) || revoked.calls.contains(&call.id), "it runs on: {call:?}");
            call.cut |= revoked.calls.contains(&call.id);
            assert_eq!(self.law.is_cut(call.id), call.cut);
        }
        self.seen.note(if revoked.calls.is_empty() { "revoked" } else { "revoked with calls" });
        let (grant, ended, cut) = (id, revoked.grants, revoked.calls);
        self.write(None, Event::CapabilityRevoked { grant, principal: 0, ended, cut });
    }

    /// Stops an agent and all below it, as the runtime journals it: leaves first.
    fn remove(&mut self, who: u8) {
        let Some(who) = self.agent_at(who).filter(|who| self.model.agents[*who].alive) else { return };
        let below =
            |one: &usize| self.model.agents[*one].alive && self.model.ancestors(*one).any(|up| up == who);
        let mut ended: Vec<usize> = (0..self.model.agents.len()).filter(below).collect();
        ended.sort_by_key(|one| std::cmp::Reverse(self.model.agents[*one].depth));
        self.law.remove(self.id(who));
        self.model.remove(who);
        self.seen.note(if ended.len() > 1 { "removed with children" } else { "removed" });
        for one in ended {
            let id = self.id(one);
            self.questions.retain(|question| question.agent != id);
            self.write(Some(id), Event::AgentStopped { end: AgentEnd::Stopped });
        }
    }

    /// Answers a question: no, for this very effect, or for more like it.
    fn answer(&mut self, question: u8, answer: u8, uses: u32) {
        if self.questions.is_empty() {
            return;
        }
        let at = usize::from(question) % self.questions.len();
        let question = self.questions.swap_remove(at);
        let asker = self.model.agents.iter().enumerate().map(|(at, _)| at);
        let asker = asker.into_iter().find(|one| self.id(*one) == question.agent).expect("an agent");
        if answer == 0 {
            let (approval, reason) = (question.id, "no".to_owned());
            self.write(None, Event::HumanApprovalDenied { approval, principal: Some(0), reason });
            return;
        }
        let effect = CAPS_LABELS.into_iter().find(|one| *one == question.effect).expect("a label");
        let root = self.model.ancestors(asker).last().expect("itself");
        let (holder, uses, scope) = match answer {
            1 => (asker, 1, Scope::Exactly(question.digest.clone())),
            2 => (asker, uses, Scope::Tool { effect, grants: question.grants.clone(), below: None }),
            3 => (root, uses, Scope::Tool { effect, grants: self.origins(&question.grants), below: None }),
            _ => (
                root,
                uses,
                Scope::Tool { effect, grants: self.origins(&question.grants), below: Some("/a/b") },
            ),
        };
        let approval = self.approval(question.id, holder, &scope, uses);
        self.law.approve(approval.clone()).expect("its holder is alive");
        self.model.approvals.push(Approval { id: question.id, holder, scope, uses });
        self.seen.note("answered");
        self.write(None, Event::HumanApprovalGranted { approval, principal: 0, reason: None });
    }

    fn origins(&self, grants: &[GrantId]) -> Vec<GrantId> {
        let origin = |id: &GrantId| self.model.chain(self.model.find(*id)).last().expect("itself").id;
        grants.iter().map(origin).collect()
    }

    fn approval(&self, id: ApprovalId, holder: usize, scope: &Scope, uses: u32) -> ApprovalGrant {
        let scope = match scope {
            Scope::Exactly(digest) => ApprovalScope::Exactly { digest: digest.clone(), targets: Vec::new() },
            Scope::Tool { effect, grants, below } => ApprovalScope::Tool {
                effect: (*effect).to_owned(),
                grants: grants.clone(),
                below: below.map(|dir| format!("{dir}/*").try_into().expect("a pattern")),
            },
        };
        ApprovalGrant { id, holder: self.id(holder), scope, uses }
    }

    fn start_clock(&mut self, who: u8) {
        let Some(who) = self.agent_at(who).filter(|who| self.model.agents[*who].alive) else { return };
        let now = self.now();
        let started = self.law.start_clock(self.id(who), now);
        assert_eq!(started.is_ok(), self.model.start_clock(who), "{started:?}");
        let event = if started.is_ok() {
            self.seen.note("run");
            Event::AgentExecutionStarted { message_hash: String::new(), message: String::new() }
        } else {
            self.seen.note("no time left");
            Event::AgentExecutionCompleted {
                response: String::new(),
                usage: aaos_core::model::Usage::default(),
                iterations: 0,
                stop_reason: aaos_core::toolio::StopReason::BudgetExceeded,
                error: None,
            }
        };
        self.write(Some(self.id(who)), event);
    }

    fn stop_clock(&mut self, who: u8) {
        let Some(who) = self.agent_at(who).filter(|who| self.model.agents[*who].alive) else { return };
        let now = self.now();
        self.law.stop_clock(self.id(who), now);
        self.model.stop_clock(who);
        let event = Event::AgentExecutionCompleted {
            response: String::new(),
            usage: aaos_core::model::Usage::default(),
            iterations: 1,
            stop_reason: aaos_core::toolio::StopReason::Complete,
            error: None,
        };
        self.write(Some(self.id(who)), event);
    }

    /// The daemon is killed and another one starts from the journal.
    fn restart(&mut self) {
        self.model.latest = self.state.latest.0;
        self.model = self.model.crashed();
        self.held.clear();
        let limits = AuthorityLimits { max_depth: 3, ..AuthorityLimits::default() };
        self.law = Authority::restore(limits, &self.state);
        self.adopt();
        self.seen.note("restart");
        let version = String::new();
        self.write(None, Event::DaemonStarted { version, interrupted_goals: Vec::new() });
    }
}

mod checks;

/// Labels of effects.
const CAPS_LABELS: [&str; 4] = ["echo", "grep", "memory_store", "file_write"];
