//! The body of `history_read`, which is the kernel's own: an agent reads back what went from its conversation.
//!
//! Invariants: the originals are the agent's own entries in the journal, which holds them as long as the agent lives, so
//! that they are there after a restart too; whose they are is told by the call, never by its arguments, so that nobody
//! reads another's. What a fork was lent counts as its own. One result is bounded, whatever the turns hold.

use std::ops::ControlFlow;

use aaos_agent::{HistoryPage, Originals, TAPE_KINDS};
use aaos_core::effect::ToolOutcome;
use aaos_core::event::{Entry, Event, Shortened};
use aaos_core::id::Seq;
use aaos_core::limits::MAX_HISTORY_BYTES;
use aaos_core::quantity::{Millis, Timestamp};
use aaos_core::tool::ToolCall;
use aaos_core::toolio::{HistoryReadInput, HistoryReadOutput, ToolFailure, ToolFailureKind};
use aaos_journal::{Filter, Permit, Receipt};

use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::registry::Agent;
use crate::spawning_tools::{Under, to_json};

/// A page has room for so much, however small the window is: what the schema has for the smallest `limit`.
const MIN_HISTORY_BYTES: u64 = 256;
const DAY_MS: u64 = 24 * 3_600_000;
/// What an agent is told whose conversation is whole.
const ALL_SHOWN: &str = "nothing went from this conversation: all of it is shown to you";

/// What is read for one result.
struct Reading {
    originals: Originals,
    page: HistoryPage,
    from: u64,
    to: u64,
    /// Older things are not given any more.
    since: Timestamp,
    expired_to: Option<u64>,
}

impl Reading {
    /// Takes the next entry; false where nothing more is wanted.
    fn take(&mut self, entry: &Entry) -> bool {
        self.originals.take(entry).into_iter().all(|original| {
            let turn = original.item.turn;
            if original.at < self.since && (self.from..=self.to).contains(&turn) {
                self.expired_to = Some(turn);
                return true;
            }
            self.page.take(original.item)
        })
    }
}

impl Kernel {
    /// Runs `history_read`.
    pub(crate) async fn run_history_tool(
        &self,
        agent: &Agent,
        under: &Under,
        permit: Permit<ToolCall>,
        input: HistoryReadInput,
    ) -> Receipt<ToolCall> {
        let begun = self.clock().now();
        let result = tokio::select! {
            biased;
            () = under.cancel.cancelled() => Err(cancelled()),
            read = self.read_history(agent, &input) => read,
        };
        let result = result.and_then(|output| to_json(&output));
        permit.settle(ToolOutcome { elapsed: self.clock().since(begun), ..ToolOutcome::of(result) })
    }

    async fn read_history(
        &self,
        agent: &Agent,
        input: &HistoryReadInput,
    ) -> Result<HistoryReadOutput, ToolFailure> {
        let missing = |why: String| ToolFailure::new(ToolFailureKind::NotFound, why);
        let last_turn = self.last_gone(agent).await.map_err(KernelError::into_tool_failure)?;
        let last_turn = last_turn.ok_or_else(|| missing(ALL_SHOWN.to_owned()))?;
        if input.from > last_turn {
            let why = format!("turns 1 to {last_turn} can be read back; later ones are shown to you");
            return Err(missing(why));
        }
        let HistoryReadInput { from, to, offset, limit } = *input;
        assert!(limit <= MAX_HISTORY_BYTES, "the schema bounds it");
        let most = (agent.manifest.memory.context_window.0 / 2).max(MIN_HISTORY_BYTES);
        let (to, room) = (to.min(last_turn), usize::try_from(limit.min(most)).unwrap_or(usize::MAX));
        let mut reading = Reading {
            originals: Originals::default(),
            page: HistoryPage::new(from, to, offset.unwrap_or_default(), room),
            from,
            to,
            since: self.kept_since(agent),
            expired_to: None,
        };
        self.read_turns(agent, &mut reading).await.map_err(KernelError::into_tool_failure)?;
        let Reading { page, expired_to, .. } = reading;
        let (items, next) = page.finish();
        if let (true, Some(to)) = (items.is_empty(), expired_to) {
            let days = agent.manifest.memory.archive_ttl_days.unwrap_or_default();
            return Err(missing(format!(
                "turns up to {to} are older than {days} days (memory.archive_ttl_days) and not given any more"
            )));
        }
        Ok(HistoryReadOutput { items, last_turn, expired_to, next })
    }

    /// Since when what was said can be read back.
    fn kept_since(&self, agent: &Agent) -> Timestamp {
        let days = agent.manifest.memory.archive_ttl_days;
        let kept = days.map(|days| Millis(u64::from(days).saturating_mul(DAY_MS)));
        kept.map_or(Timestamp(0), |kept| Timestamp(self.clock().now().0.saturating_sub(kept.0)))
    }

    /// The last turn that is not shown to an agent any more as it was; none where its conversation is whole. Where nothing
    /// went but what was said to it, that counts as of its first turn.
    async fn last_gone(&self, agent: &Agent) -> Result<Option<u64>, KernelError> {
        let mut last = None;
        let mut note = |event: &Event| {
            if let Event::ContextSummarized { shortened: Shortened { opening, .. } }
            | Event::ContextSummarizationFailed { shortened: Some(Shortened { opening, .. }), .. } = event
            {
                last = Some(opening.turns.max(1));
            }
        };
        self.each_lent(agent, |entry| {
            note(&entry.event);
            Ok(())
        })
        .await?;
        let first = agent.live().conversation.front().copied();
        let Some(first) = first else { return Ok(last) };
        let kinds = ["context_summarized", "context_summarization_failed"].map(str::to_owned).to_vec();
        let filter = Filter { agent: Some(agent.id), kinds, ..Filter::after(before(first)) };
        self.each_entry(filter, |entry| {
            note(&entry.event);
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        Ok(last)
    }

    async fn read_turns(&self, agent: &Agent, reading: &mut Reading) -> Result<(), KernelError> {
        let mut goes_on = true;
        self.each_lent(agent, |entry| {
            goes_on = goes_on && reading.take(&entry);
            Ok(())
        })
        .await?;
        let start = self.run_with_turn(agent, reading.from).await?;
        let Some(start) = start.filter(|_| goes_on) else { return Ok(()) };
        let kinds = TAPE_KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        let filter = Filter { agent: Some(agent.id), kinds, ..Filter::after(before(start)) };
        self.each_entry(filter, |entry| {
            Ok(if reading.take(&entry) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
        .await
    }

    /// Where the run began in which an agent made this turn, found by halves: a conversation may have had many.
    async fn run_with_turn(&self, agent: &Agent, turn: u64) -> Result<Option<Seq>, KernelError> {
        let (began, newest) = {
            let live = agent.live();
            (live.conversation_began, live.conversation.back().copied())
        };
        let (Some(mut found), Some(newest)) = (began, newest) else { return Ok(began) };
        let mut end = Seq(newest.0.saturating_add(1));
        while turn > 1 && found.0.saturating_add(1) < end.0 {
            let middle = Seq(found.0 + (end.0 - found.0) / 2);
            let kinds = vec!["agent_execution_started".to_owned()];
            let filter = Filter { agent: Some(agent.id), kinds, limit: 1, ..Filter::after(before(middle)) };
            let next = self.journal().read(filter).await?.pop().filter(|entry| entry.seq < end);
            match next.map(|entry| (entry.seq, entry.event)) {
                Some((seq, Event::AgentExecutionStarted { kept, .. })) if kept.turns < turn => found = seq,
                _ => end = middle,
            }
        }
        Ok(Some(found))
    }
}

/// What stands before an entry.
const fn before(seq: Seq) -> Seq {
    Seq(seq.0.saturating_sub(1))
}
