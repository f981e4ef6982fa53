//! The journal as one principal may read it.
//!
//! Invariant: a principal that is no administrator gets the entries of its own goals and agents and nothing else;
//! an id that is another's finds as little as one that names nothing. Who owns what is read from the table, and for
//! what has left it from the journal itself.

use std::collections::HashMap;

use aaos_core::event::{Entry, Event};
use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_core::limits::MAX_READ_ENTRIES;
use aaos_journal::Filter;

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::principal::{Principal, Right};

/// Goals and agents whose owners are kept in mind while reading.
const REMEMBERED_OWNERS: usize = 4096;

/// Whose an entry may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Goal(GoalId),
    Agent(AgentId),
}

/// Reads the journal on behalf of one principal.
#[derive(Debug)]
pub struct AuditReader {
    kernel: Kernel,
    caller: Principal,
    owners: HashMap<Subject, u32>,
}

/// What one step of reading gave.
#[derive(Debug)]
pub struct AuditPage {
    /// Entries that the principal may see.
    pub entries: Vec<Entry>,
    /// The last entry that was looked at; nothing at the end of the journal.
    pub last: Option<Seq>,
}

impl AuditReader {
    /// A reader for this principal.
    #[must_use]
    pub fn new(kernel: &Kernel, caller: Principal) -> Self {
        Self { kernel: kernel.clone(), caller, owners: HashMap::new() }
    }

    /// The next entries that match, read in one step; there may be more after `last` even if none came.
    ///
    /// # Errors
    /// [`KernelError`] when the journal cannot be read.
    pub async fn page(&mut self, filter: &Filter) -> Result<AuditPage, KernelError> {
        if !self.may_match(filter).await? {
            return Ok(AuditPage { entries: Vec::new(), last: None });
        }
        let read = self.kernel.journal().read(filter.clone()).await?;
        let last = read.last().map(|entry| entry.seq);
        if self.caller.may(Right::Administer) {
            return Ok(AuditPage { entries: read, last });
        }
        let mut entries = Vec::new();
        for entry in read {
            if self.is_mine(&entry).await? {
                entries.push(entry);
            }
        }
        Ok(AuditPage { entries, last })
    }

    /// `audit.query`: some entries that match; none only when there are no more.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub async fn query(&mut self, mut filter: Filter) -> Result<Vec<Entry>, KernelError> {
        let wanted = filter.limit;
        if !self.caller.may(Right::Administer) {
            filter.limit = MAX_READ_ENTRIES;
        }
        loop {
            let AuditPage { mut entries, last } = self.page(&filter).await?;
            if entries.is_empty() && last.is_some() && wanted > 0 {
                filter.after_seq = last;
                continue;
            }
            entries.truncate(wanted);
            return Ok(entries);
        }
    }

    /// The last entry that the principal may know of.
    #[must_use]
    pub fn head(&self, seen: &[Entry]) -> Seq {
        if self.caller.may(Right::Administer) {
            return *self.kernel.journal().head().borrow();
        }
        seen.last().map_or(Seq(0), |entry| entry.seq)
    }

    /// Whether what the filter names is the principal's at all.
    async fn may_match(&mut self, filter: &Filter) -> Result<bool, KernelError> {
        let named = [filter.goal.map(Subject::Goal), filter.agent.map(Subject::Agent)];
        for subject in named.into_iter().flatten() {
            if !self.caller.may(Right::Administer) && !self.owns(subject).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn is_mine(&mut self, entry: &Entry) -> Result<bool, KernelError> {
        let subject = match (entry.goal_id, entry.agent_id) {
            (Some(goal), _) => Subject::Goal(goal),
            (None, Some(agent)) => Subject::Agent(agent),
            (None, None) => return Ok(false),
        };
        self.owns(subject).await
    }

    async fn owns(&mut self, subject: Subject) -> Result<bool, KernelError> {
        if let Some(known) = self.owners.get(&subject) {
            return Ok(self.caller.may_touch(*known));
        }
        // Whoever has no owner yet may get one while a stream goes on, so only an owner is kept in mind.
        let Some(owner) = self.owner(subject).await? else { return Ok(false) };
        if self.owners.len() >= REMEMBERED_OWNERS {
            self.owners.clear();
        }
        self.owners.insert(subject, owner);
        Ok(self.caller.may_touch(owner))
    }

    async fn owner(&self, subject: Subject) -> Result<Option<u32>, KernelError> {
        let alive = {
            let table = self.kernel.table();
            match subject {
                Subject::Goal(goal) => table.goals.get(&goal).map(|goal| goal.owner),
                Subject::Agent(agent) => table.agent(agent).map(|agent| agent.owner),
            }
        };
        if alive.is_some() {
            return Ok(alive);
        }
        let (goal, agent, kind) = match subject {
            Subject::Goal(goal) => (Some(goal), None, "goal_accepted"),
            Subject::Agent(agent) => (None, Some(agent), "agent_spawned"),
        };
        let filter = Filter { goal, agent, kinds: vec![kind.to_owned()], limit: 1, ..Filter::default() };
        let beginning = self.kernel.journal().read(filter).await?;
        Ok(beginning.first().and_then(|entry| match &entry.event {
            Event::GoalAccepted { principal, .. } | Event::AgentSpawned { principal, .. } => Some(*principal),
            _ => None,
        }))
    }
}
