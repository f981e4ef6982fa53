//! The sealed steps after the decision: [`Permit`] (the intent is journalled) and [`Receipt`] (there is an
//! outcome).
//!
//! Invariants: both have private fields and are neither `Clone` nor `Deserialize`; a permit is made only by
//! [`crate::Journal::begin`] and, for an intent that a restart left open, [`crate::Journal::resume`], a receipt only by [`Permit::settle`], which uses the permit up. A permit that
//! is dropped leaves an intent without outcome: its charges stay spent and the effect counts as unknown.

use aaos_core::effect::{Access, AuthorizedParts, Charge, Denied, Effect, reserved_by};
use aaos_core::event::{Event, NewEntry};
use aaos_core::id::{AgentId, ApprovalId, CallId, EntryId, GoalId, TraceId};
use aaos_core::quantity::{Amounts, Timestamp};
use aaos_core::tool::ToolCall;
use aaos_core::toolio::ToolFailure;

/// When and because of what an effect begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// When, by the runtime's clock.
    pub timestamp: Timestamp,
    /// Which goal.
    pub goal_id: Option<GoalId>,
    /// Which delivered message.
    pub trace_id: Option<TraceId>,
    /// The entry that caused it.
    pub parent_event: Option<EntryId>,
}

impl About {
    pub(crate) fn entry(self, agent: AgentId, event: Event) -> NewEntry {
        NewEntry {
            timestamp: self.timestamp,
            goal_id: self.goal_id,
            agent_id: Some(agent),
            trace_id: self.trace_id,
            parent_event: self.parent_event,
            event,
        }
    }
}

/// Leave to perform one effect, once: it was authorised, charged, and its intent is journalled.
#[derive(Debug)]
#[must_use = "a permit that is dropped leaves an intent without outcome"]
pub struct Permit<E: Effect> {
    parts: AuthorizedParts<E>,
    about: About,
    intent: EntryId,
    resumed: bool,
}

impl<E: Effect> Permit<E> {
    pub(crate) fn mint(parts: AuthorizedParts<E>, about: About, intent: EntryId) -> Self {
        Self { parts, about, intent, resumed: false }
    }

    /// For an effect whose intent an earlier daemon journalled.
    pub(crate) fn mint_again(parts: AuthorizedParts<E>, about: About, intent: EntryId) -> Self {
        Self { parts, about, intent, resumed: true }
    }

    /// Whether an earlier daemon began the effect, so that it may have been done already.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// What may be done.
    #[must_use]
    pub fn effect(&self) -> &E {
        &self.parts.effect
    }

    /// Who acts.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        self.parts.agent
    }

    /// Joins intent and outcome.
    #[must_use]
    pub fn call(&self) -> CallId {
        self.parts.call
    }

    /// How each of the effect's `Needs::all` is met, in order.
    #[must_use]
    pub fn all(&self) -> &[Access] {
        &self.parts.all
    }

    /// How each of the effect's `Needs::each` is met or why not, in order.
    pub fn each(&self) -> &[Result<Access, Denied>] {
        &self.parts.each
    }

    /// The journal entry that says it is about to happen.
    #[must_use]
    pub fn intent(&self) -> EntryId {
        self.intent
    }

    /// When and because of what it began.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What is reserved for it.
    #[must_use]
    pub fn reserved(&self) -> Amounts {
        reserved_by(&self.parts.charges)
    }

    /// The approval that it uses, where a person was asked.
    #[must_use]
    pub fn approval(&self) -> Option<ApprovalId> {
        self.parts.charges.iter().find_map(|charge| match charge {
            Charge::Approval { approval } => Some(*approval),
            Charge::Use { .. } | Charge::Purse { .. } => None,
        })
    }

    /// Uses the permit up: this is how it ended.
    pub fn settle(self, outcome: E::Outcome) -> Receipt<E> {
        Receipt { parts: self.parts, about: self.about, intent: self.intent, outcome }
    }
}

/// An effect's outcome, not yet journalled.
#[derive(Debug)]
#[must_use = "an outcome is to be journalled"]
pub struct Receipt<E: Effect> {
    parts: AuthorizedParts<E>,
    about: About,
    intent: EntryId,
    outcome: E::Outcome,
}

impl<E: Effect> Receipt<E> {
    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> &E::Outcome {
        &self.outcome
    }

    /// The entry that records it: caused by the intent, about the same goal and message.
    pub(crate) fn entry(&self, at: Timestamp) -> NewEntry {
        let about = About { timestamp: at, parent_event: Some(self.intent), ..self.about };
        about.entry(self.parts.agent, E::result(&self.parts, &self.outcome))
    }

    /// The call's id.
    #[must_use]
    pub fn call(&self) -> CallId {
        self.parts.call
    }

    /// The effect's name, for example `file_write`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.parts.effect.label()
    }

    pub(crate) fn effect(&self) -> &E {
        &self.parts.effect
    }

    pub(crate) fn finish(self, entry: EntryId) -> Finished<E> {
        let spent = E::spent(&self.parts, &self.outcome);
        Finished {
            outcome: self.outcome,
            call: self.parts.call,
            charges: self.parts.charges,
            spent,
            agent: self.parts.agent,
            entry,
        }
    }
}

impl Receipt<ToolCall> {
    /// The same call; its result is given to nobody.
    pub fn withheld(self, why: ToolFailure) -> Self {
        let outcome = self.outcome.withheld(why);
        Self { outcome, ..self }
    }
}

/// An effect whose outcome is in the journal.
#[derive(Debug)]
pub struct Finished<E: Effect> {
    /// How it ended.
    pub outcome: E::Outcome,
    /// The call's id.
    pub call: CallId,
    /// What was charged; to be settled by the authority.
    pub charges: Vec<Charge>,
    /// What it used of its reservations, as journalled.
    pub spent: Amounts,
    /// Who acted.
    pub agent: AgentId,
    /// The entry that records the outcome.
    pub entry: EntryId,
}
