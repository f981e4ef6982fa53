//! What was said and done in a conversation, read back from its agent's entries as it was, whatever went from it since.
//!
//! Invariants: turns have the numbers that the mind gives them; what did not reach the mind is not given: a reply whose
//! run ended first, a result of a call that was ended by a revocation. Results stand below their calls. Nothing here
//! decides anything, and no order of entries is a panic.

use std::collections::BTreeMap;

use aaos_core::event::{Entry, Event, Outcome, RunCut};
use aaos_core::id::CallId;
use aaos_core::model::{ModelCall, ModelCallId, ModelReply, RequestedTool};
use aaos_core::quantity::{Bytes, Timestamp};
use aaos_core::toolio::{HistoryItem, HistoryPlace, HistoryRole};

use crate::mind::keeps_calls;
use crate::wrap::{failure_json, shown_tool};

/// What one item takes of a page besides its text and its tool's name, bytes.
const ITEM_BYTES: usize = 64;

/// One thing that was said or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// When.
    pub at: Timestamp,
    /// Whole, with its turn: what was said to the agent has the number of the turn before it, and of the first where
    /// none was before it.
    pub item: HistoryItem,
}

/// Reads an agent's entries, oldest first, from the beginning of a run on.
#[derive(Debug, Default)]
pub struct Originals {
    turns: u64,
    /// Calls numbered so far.
    calls: u64,
    /// The inference that was begun last, and whether it is for a summary.
    asked: Option<(CallId, bool)>,
    begun: BTreeMap<CallId, ModelCallId>,
    waits: Waits,
}

/// What is recorded and did not reach the mind yet.
#[derive(Debug, Default)]
enum Waits {
    #[default]
    Nothing,
    Reply(Timestamp, Box<ModelReply>),
    /// The calls of a turn, and what came of them.
    Results(Vec<ModelCall>, BTreeMap<String, Original>),
}

impl Originals {
    /// Takes the agent's next entry: what reached its mind with it, in the order of the conversation.
    pub fn take(&mut self, entry: &Entry) -> Vec<Original> {
        match &entry.event {
            Event::AgentExecutionStarted { message, kept, .. } => {
                self.waits = Waits::Nothing;
                (self.turns, self.calls) = (kept.turns, kept.calls);
                vec![self.original(entry.timestamp, HistoryRole::User, message.clone())]
            }
            Event::AgentRestarted { .. } => {
                self.waits = Waits::Nothing;
                Vec::new()
            }
            Event::AgentExecutionCompleted { cut, .. } => self.end(cut.as_ref()),
            Event::InferenceRequested { call, keeps, .. } => {
                let reached = self.deliver();
                self.asked = Some((*call, keeps.is_some()));
                reached
            }
            Event::InferenceCompleted { call, result: Ok(reply), .. } => {
                if self.asked == Some((*call, false)) {
                    self.waits = Waits::Reply(entry.timestamp, Box::new(reply.clone()));
                }
                Vec::new()
            }
            Event::ToolInvoked { call, model_call: Some(asked), .. } => {
                self.begun.insert(*call, asked.clone());
                self.deliver_reply()
            }
            Event::ToolResult { call, outcome, result, failure, .. } => {
                if let Some(asked) = self.begun.get(call).cloned() {
                    let text =
                        failure.as_ref().map_or_else(|| result.clone().unwrap_or_default(), failure_json);
                    self.settle(entry.timestamp, &asked, *outcome, text);
                }
                Vec::new()
            }
            Event::CallRefused { model_call, failure, .. } => {
                let reached = self.deliver_reply();
                self.settle(entry.timestamp, model_call, failure.outcome(), failure_json(failure));
                reached
            }
            _ => Vec::new(),
        }
    }

    /// A run's end: what was recorded after the mind's last step did not reach it.
    fn end(&mut self, cut: Option<&RunCut>) -> Vec<Original> {
        let asks = !matches!(self.waits, Waits::Results(..));
        let reached = if cut.is_some_and(|cut| cut.asking == asks) { Vec::new() } else { self.deliver() };
        self.waits = Waits::Nothing;
        reached
    }

    fn deliver_reply(&mut self) -> Vec<Original> {
        if matches!(self.waits, Waits::Reply(..)) { self.deliver() } else { Vec::new() }
    }

    /// What is recorded reaches the mind.
    fn deliver(&mut self) -> Vec<Original> {
        match std::mem::take(&mut self.waits) {
            Waits::Nothing => Vec::new(),
            Waits::Reply(at, reply) => self.reply(at, *reply),
            Waits::Results(calls, mut results) => {
                self.begun.clear();
                calls.iter().filter_map(|call| results.remove(&call.id.0)).collect()
            }
        }
    }

    fn reply(&mut self, at: Timestamp, reply: ModelReply) -> Vec<Original> {
        let acts = keeps_calls(&reply);
        let ModelReply { text, mut calls, .. } = reply;
        let says = !text.trim().is_empty();
        if !says && !acts {
            return Vec::new();
        }
        self.turns = self.turns.saturating_add(1);
        let mut reached = Vec::new();
        if says {
            reached.push(self.original(at, HistoryRole::Assistant, text));
        }
        if acts {
            for call in &mut calls {
                self.calls = self.calls.saturating_add(1);
                call.id = ModelCallId::numbered(self.calls);
                let mut original = self.original(at, HistoryRole::Call, call.arguments.0.clone());
                let tool = RequestedTool(shown_tool(&call.tool.0));
                (original.item.call, original.item.tool) = (Some(call.id.clone()), Some(tool));
                reached.push(original);
            }
            self.waits = Waits::Results(calls, BTreeMap::new());
        }
        reached
    }

    fn settle(&mut self, at: Timestamp, asked: &ModelCallId, outcome: Outcome, text: String) {
        let mut original = self.original(at, HistoryRole::ToolResult, text);
        let Waits::Results(_, results) = &mut self.waits else { return };
        (original.item.call, original.item.outcome) = (Some(asked.clone()), Some(outcome));
        results.insert(asked.0.clone(), original);
    }

    fn original(&self, at: Timestamp, role: HistoryRole, text: String) -> Original {
        let item = HistoryItem {
            turn: self.turns.max(1),
            role,
            call: None,
            tool: None,
            outcome: None,
            offset: None,
            size_bytes: Bytes(text.len() as u64),
            text,
        };
        Original { at, item }
    }
}

/// What one call of `history_read` gives: some turns, in so many bytes.
#[derive(Debug)]
pub struct HistoryPage {
    from: u64,
    to: u64,
    /// Of the first turn, so many bytes of text are left out.
    skip: u64,
    room: usize,
    items: Vec<HistoryItem>,
    /// The turn that comes, and how many bytes of its text went by; what has no text counts as one.
    place: HistoryPlace,
    next: Option<HistoryPlace>,
}

impl HistoryPage {
    /// Of these turns, the first without its first `skip` bytes.
    #[must_use]
    pub const fn new(from: u64, to: u64, skip: u64, room: usize) -> Self {
        let place = HistoryPlace { from, offset: 0 };
        Self { from, to, skip, room, items: Vec::new(), place, next: None }
    }

    /// Takes what comes next; false where nothing more is wanted.
    pub fn take(&mut self, item: HistoryItem) -> bool {
        if item.turn > self.to || self.next.is_some() {
            return false;
        }
        if item.turn < self.from {
            return true;
        }
        if item.turn != self.place.from {
            self.place = HistoryPlace { from: item.turn, offset: 0 };
        }
        let begins = self.place.offset;
        let size = item.size_bytes.0.max(1);
        self.place.offset = begins.saturating_add(size);
        let skip = if item.turn == self.from { self.skip.saturating_sub(begins) } else { 0 };
        if skip >= size {
            return true;
        }
        let text = &item.text;
        let start = usize::try_from(skip).unwrap_or(usize::MAX).min(text.len());
        let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let frame = ITEM_BYTES + item.tool.as_ref().map_or(0, |tool| tool.0.len());
        let most = self.room.saturating_sub(frame).min(text.len() - start);
        let end = (start..=start + most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(start);
        let is_whole = end == text.len();
        if !is_whole {
            self.next = Some(HistoryPlace { from: item.turn, offset: begins + end as u64 });
        }
        let has_room = self.room > frame;
        if !has_room {
            self.next = Some(HistoryPlace { from: item.turn, offset: begins + start as u64 });
        }
        if !has_room || (!is_whole && end == start) {
            return false;
        }
        self.room -= frame + (end - start);
        let offset = (start > 0).then_some(start as u64);
        let part = text[start..end].to_owned();
        self.items.push(HistoryItem { offset, text: part, ..item });
        is_whole
    }

    /// What was taken, and where to go on.
    #[must_use]
    pub fn finish(self) -> (Vec<HistoryItem>, Option<HistoryPlace>) {
        (self.items, self.next)
    }
}
