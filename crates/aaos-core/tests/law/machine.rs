//! The authority under arbitrary sequences of everything that can be done to it, held against [`Model`] at each
//! step, with the journal that the runtime would leave.
//!
//! Invariant: the machine asserts on each answer; a sequence that ends without a panic kept the law.

use std::borrow::Cow;

use aaos_core::approval::Question;
use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal};
use aaos_core::effect::{Authorized, AuthorizedParts, Effect, EffectClass, Needs, Subject};
use aaos_core::event::{Entry, Event, Outcome};
use aaos_core::grant::{GrantRecord, GrantRequest};
use aaos_core::id::{AgentId, EntryId, Seq};
use aaos_core::manifest::Manifest;
use aaos_core::name::ToolName;
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp};
use aaos_core::state::State;
use uuid::Uuid;

use crate::model::{Agent, Cap, Grant, Model, Purse, Sums, Want};
use crate::steps::{CAPS, Cutting, GrantWish, PurseWish, Step, WANTS, request_of, template};
use crate::support::{agent, fresh_call, grant};

mod calls;
mod checks;
mod ends;

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
            denied: Vec::new(),
            charges: parts.charges.clone(),
            model_call: None,
            at: None,
            repeats: 0,
        }
    }
    fn result(parts: &AuthorizedParts<Self>, outcome: &Amounts) -> Event {
        Event::ToolResult {
            call: parts.call,
            tool: ToolName::parse(parts.effect.label).expect("a tool"),
            outcome: Outcome::Done,
            result_hash: String::new(),
            result_bytes: Bytes::ZERO,
            result: None,
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
        let stable = manifest.lifecycle.outlives_a_run();
        self.write(
            Some(id),
            Event::AgentSpawned {
                name: manifest.name.clone(),
                parent: parent.map(|one| self.id(one)),
                depth,
                manifest: Box::new(manifest),
                budget: purse.budget(),
                principal: 0,
                spawned_by: None,
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

/// Labels of effects.
const LABELS: [&str; 4] = ["echo", "grep", "memory_store", "file_write"];
