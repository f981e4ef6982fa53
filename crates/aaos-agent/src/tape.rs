//! A mind rebuilt from the journal: what was recorded of its agent is stepped again.
//!
//! Invariants: no event that the journal holds is asked of anybody again; the same entries give the same mind. Entries
//! that do not fit the mind (another version of it, a forged journal) are told by naming the first that differs,
//! never by a panic.

use std::collections::BTreeMap;

use aaos_core::budget::Shortfall;
use aaos_core::event::{CutCause, Entry, Event, Kept, RunCut, Shortened, SummaryFault, content_hash};
use aaos_core::id::{CallId, EntryId, Seq, TraceId};
use aaos_core::model::{
    CallResult, ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelRequest, ToolSpec,
    Usage,
};
use aaos_core::name::ToolName;
use aaos_core::toolio::{StopReason, ToolFailure};

use crate::mind::{Command, Mind, MindConfig, MindEvent, RunEnd};
use crate::wrap::told;

/// Kinds of entries that a mind is rebuilt from.
pub const TAPE_KINDS: [&str; 11] = [
    "agent_execution_started",
    "agent_execution_forked",
    "agent_execution_completed",
    "agent_restarted",
    "inference_requested",
    "inference_completed",
    "context_summarized",
    "context_summarization_failed",
    "tool_invoked",
    "tool_result",
    "call_refused",
];

/// The first entry that does not fit what the mind does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq} differs: {what}")]
pub struct Divergence {
    /// Its number.
    pub seq: Seq,
    /// What the mind does there, and what the entry says.
    pub what: String,
}

/// What a run waits for that the journal has no answer to.
#[derive(Debug, Clone, PartialEq)]
pub enum Unanswered {
    /// A reply of the model.
    Ask(Box<ModelRequest>),
    /// Results of some calls of a turn.
    Invoke(Vec<TurnCall>),
    /// Nothing: a purse did not cover the calls of the turn.
    Lacks(Shortfall),
    /// Nothing: it has finished, and its end is not recorded.
    Finish(RunEnd),
}

impl Unanswered {
    /// Whether it is a reply of the model.
    #[must_use]
    pub const fn asks(&self) -> bool {
        matches!(self, Self::Ask(_))
    }
}

impl From<Command> for Unanswered {
    fn from(command: Command) -> Self {
        let unmade = |call| TurnCall { call, result: None, begun: None };
        match command {
            Command::Ask(request) => Self::Ask(request),
            Command::Invoke(calls) => Self::Invoke(calls.into_iter().map(unmade).collect()),
            Command::Finish(end) => Self::Finish(end),
        }
    }
}

/// One call of an unfinished turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnCall {
    /// The call.
    pub call: ModelCall,
    /// What the model is told, where that is recorded.
    pub result: Option<CallResult>,
    /// Under which id it was begun last, where it was.
    pub begun: Option<CallId>,
}

/// A run that has no recorded end.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenRun {
    /// The delivered message that it answers.
    pub trace: Option<TraceId>,
    /// What it waits for.
    pub waits: Unanswered,
}

/// Steps a mind through the entries of its agent.
#[derive(Debug, Clone)]
pub struct Tape {
    mind: Mind,
    basis: Basis,
    open: Option<Open>,
}

/// What a tape's entries can be held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// The mind itself, which was stepped through all that came before.
    Whole,
    /// Entries from before the conversation's first are missing, so that only its last run is exact.
    Recent,
    /// They are another agent's, whose mind was made of something else: only what the mind cannot do is told.
    Lent,
}

#[derive(Debug, Clone)]
struct Open {
    trace: Option<TraceId>,
    waits: Command,
    /// The inference that was begun last.
    asked: Option<CallId>,
    /// A recorded reply that the mind has not taken yet.
    reply: Option<ModelReply>,
    begun: BTreeMap<CallId, (ModelCallId, u32)>,
    results: BTreeMap<String, CallResult>,
    lacks: Option<Shortfall>,
    /// Whether the conversation before this run is whole, so that the mind has to do exactly what is recorded.
    exact: bool,
}

impl Tape {
    /// A tape of an agent from its first run on: whatever differs is told.
    #[must_use]
    pub fn whole(config: MindConfig) -> Self {
        Self { mind: Mind::new(config), basis: Basis::Whole, open: None }
    }

    /// A tape from the first run on that the agent's conversation still holds. What came before has left traces only
    /// in what each run recorded of its beginning.
    #[must_use]
    pub fn recent(config: MindConfig) -> Self {
        Self { basis: Basis::Recent, ..Self::whole(config) }
    }

    /// A tape that begins with entries of other agents, oldest first, whose conversation this one takes over.
    #[must_use]
    pub fn lent(config: MindConfig) -> Self {
        Self { basis: Basis::Lent, ..Self::whole(config) }
    }

    /// The same tape for the agent's own entries, from the one on with which it takes the conversation over.
    #[must_use]
    pub fn handed_over(self) -> Self {
        Self { basis: Basis::Whole, ..self }
    }

    /// Takes the agent's next entry; one that is no part of a run is left out. `shown` gives the tools of these names
    /// as the model is shown them.
    ///
    /// # Errors
    /// [`Divergence`]: the entry does not fit.
    pub fn take(
        &mut self,
        entry: &Entry,
        shown: impl FnOnce(&[ToolName]) -> Vec<ToolSpec>,
    ) -> Result<(), Divergence> {
        let what = match &entry.event {
            Event::AgentExecutionStarted { message_hash, message, tools, kept } => {
                is_hash_of(message_hash, message).and_then(|()| {
                    let shown = self.known(tools, shown(tools))?;
                    self.begin(entry.trace_id, message.clone(), shown, *kept)
                })
            }
            Event::AgentExecutionCompleted {
                response,
                usage,
                iterations,
                stop_reason,
                cut,
                mind_hash,
                ..
            } => {
                let recorded =
                    Recorded { response, usage: *usage, iterations: *iterations, stop: *stop_reason };
                self.end(&recorded, cut.as_ref(), mind_hash)
            }
            Event::AgentExecutionForked { tools } => self.adopt(shown(tools)),
            // A run that died without an end of its own.
            Event::AgentRestarted { .. } => {
                if self.open.take().is_some() {
                    self.mind.step(MindEvent::Cancelled);
                }
                Ok(())
            }
            Event::InferenceRequested { call, request_hash, keeps, .. } => {
                self.ask(*call, request_hash, *keeps)
            }
            Event::ContextSummarized { shortened } => self.shorten(&entry.event, Some(shortened)),
            Event::ContextSummarizationFailed { reason, message, shortened } => {
                self.lack_summary(*reason, message);
                self.shorten(&entry.event, shortened.as_ref())
            }
            Event::InferenceCompleted { call, result: Ok(reply), .. } => self.answer(*call, reply),
            Event::ToolInvoked { call, tool, model_call: Some(asked), repeats, .. } => {
                self.invoke(*call, tool, asked, *repeats)
            }
            Event::ToolResult { call, result_hash, result, failure, .. } => {
                self.settle(entry.id, *call, result.as_deref(), failure.as_ref());
                is_hash_of(result_hash, result.as_deref().unwrap_or_default())
            }
            Event::CallRefused { model_call, failure, repeats } => {
                self.refuse(entry.id, model_call, failure, *repeats)
            }
            _ => Ok(()),
        };
        what.map_err(|what| Divergence { seq: entry.seq, what })
    }

    /// BLAKE3 of the mind's state, without what is recorded for it and not delivered yet.
    #[must_use]
    pub fn digest(&self) -> String {
        self.mind.digest()
    }

    /// Whether a run is not over.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.open.is_some()
    }

    /// The call of the current turn that has this id.
    #[must_use]
    pub fn call(&self, id: &ModelCallId) -> Option<&ModelCall> {
        match self.open.as_ref().map(|open| &open.waits) {
            Some(Command::Invoke(calls)) => calls.iter().find(|call| call.id == *id),
            _ => None,
        }
    }

    /// A recorded reply that the mind has not taken is not given to it: it waits for its model as before.
    pub fn withhold_reply(&mut self) {
        if let Some(open) = &mut self.open {
            open.reply = None;
        }
    }

    /// Whether another agent could go on from here: something is left to do, and no call has begun without an outcome.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let has_ended = |call: &TurnCall| call.begun.is_none() || call.result.is_some();
        match self.clone().finish().1.map(|open| open.waits) {
            Some(Unanswered::Ask(_)) => true,
            Some(Unanswered::Invoke(calls)) => calls.iter().all(has_ended),
            Some(Unanswered::Lacks(_) | Unanswered::Finish(_)) | None => false,
        }
    }

    /// Whether what it waits for now is still something once it is no longer what was recorded that decides: its model
    /// is not asked more than fits its window.
    #[must_use]
    pub fn goes_on_by_itself(&self) -> bool {
        let (mut mind, open) = self.clone().finish();
        open.is_some_and(|_| !matches!(mind.judges_again(), Some(Command::Finish(_))))
    }

    /// Goes on with what was lent, with these tools: the mind, and the run that is its own from here on. Nothing where
    /// no run is under way.
    #[must_use]
    pub fn take_over(self, tools: Vec<ToolSpec>) -> Option<(Mind, OpenRun)> {
        let mut tape = self.handed_over();
        tape.adopt(tools).ok()?;
        let (mind, open) = tape.finish();
        Some((mind, open?))
    }

    /// The mind as the entries leave it, and the run that is not over.
    #[must_use]
    pub fn finish(mut self) -> (Mind, Option<OpenRun>) {
        self.deliver();
        let open = self.open.take().map(|open| {
            let Open { trace, waits, begun, mut results, lacks, .. } = open;
            let waits = match (waits, lacks) {
                (_, Some(lacks)) => Unanswered::Lacks(lacks),
                (Command::Invoke(calls), None) => {
                    let turn = calls.into_iter().map(|call| {
                        let result = results.remove(&call.id.0);
                        let last = begun.iter().rev().find(|(_, (asked, _))| *asked == call.id);
                        TurnCall { begun: last.map(|(call, _)| *call), result, call }
                    });
                    Unanswered::Invoke(turn.collect())
                }
                (other, None) => other.into(),
            };
            OpenRun { trace, waits }
        });
        (self.mind, open)
    }

    /// The tools that a run is shown, and whether these are all that its model was shown then. Without one of them
    /// a run goes on, but cannot be made again exactly.
    fn known(&self, names: &[ToolName], shown: Vec<ToolSpec>) -> Result<Shown, String> {
        let missing = names.iter().find(|name| !shown.iter().any(|spec| spec.name == **name));
        match missing {
            Some(name) if self.basis == Basis::Whole => Err(format!(
                "the run was shown the tool {name}, which this version does not have; use the version that recorded it"
            )),
            missing => Ok(Shown { tools: shown, all: missing.is_none() }),
        }
    }

    fn begin(
        &mut self,
        trace: Option<TraceId>,
        text: String,
        shown: Shown,
        kept: Kept,
    ) -> Result<(), String> {
        let Shown { tools, all } = shown;
        if self.basis != Basis::Lent && !self.mind.has_model(kept.rung) {
            return Err(format!("the run asks model {} of the agent, which has not so many", kept.rung));
        }
        if self.open.take().is_some() {
            // A run whose end could not be recorded: its agent went on without it.
            self.mind.step(MindEvent::Cancelled);
        }
        let waits = match self.basis {
            Basis::Recent => self.mind.begin_recorded(text, tools, kept),
            Basis::Lent => self.mind.begin_lent(text, tools),
            Basis::Whole => {
                self.mind.think_with(kept.rung);
                self.mind.assume(kept.bytes, kept.tokens);
                self.mind.step(MindEvent::Message { text, tools })
            }
        };
        let held = self.mind.kept();
        let exact = all && held.runs == kept.runs && self.basis != Basis::Lent;
        if self.basis == Basis::Whole && held != kept {
            self.mind.step(MindEvent::Cancelled);
            return Err(format!("the conversation keeps {held:?}, the entry says {kept:?}"));
        }
        self.open = Some(Open {
            trace,
            waits,
            asked: None,
            reply: None,
            begun: BTreeMap::new(),
            results: BTreeMap::new(),
            lacks: None,
            exact,
        });
        Ok(())
    }

    /// The run so far was another agent's; from here on it is this one's.
    fn adopt(&mut self, tools: Vec<ToolSpec>) -> Result<(), String> {
        self.deliver();
        let Some(open) = &mut self.open else {
            return Err("there is no conversation that could be taken over".to_owned());
        };
        open.asked = None;
        open.exact = self.basis != Basis::Lent;
        if let Some(asks) = self.mind.adopt(tools) {
            open.waits = asks;
        }
        Ok(())
    }

    /// Gives the mind what is recorded for it, as far as that answers what it waits for.
    fn deliver(&mut self) {
        let Some(open) = &mut self.open else { return };
        let event = match &open.waits {
            Command::Ask(_) => open.reply.take().map(|reply| MindEvent::Reply(Box::new(reply))),
            Command::Invoke(calls) => {
                let all = calls.iter().map(|call| open.results.get(&call.id.0).cloned());
                all.collect::<Option<Vec<_>>>().map(MindEvent::ToolResults)
            }
            Command::Finish(_) => None,
        };
        if let Some(event) = event {
            open.results.clear();
            open.begun.clear();
            open.waits = self.mind.step(event);
        }
    }

    fn running(&mut self) -> Result<&mut Open, String> {
        self.open.as_mut().ok_or_else(no_run)
    }

    fn ask(&mut self, call: CallId, request_hash: &str, keeps: Option<u64>) -> Result<(), String> {
        self.deliver();
        let summarises = self.mind.summarises();
        let open = self.open.as_mut().ok_or_else(no_run)?;
        open.asked = Some(call);
        let Command::Ask(request) = &open.waits else {
            return Err(format!("the mind asks its model nothing here; it {}", wish(&open.waits)));
        };
        match keeps {
            _ if open.exact && (summarises != keeps || request.digest() != request_hash) => {
                Err("the mind asks its model something else".to_owned())
            }
            Some(keeps) if summarises.is_none() => {
                open.waits = self.mind.summarise_recorded(keeps);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The model could not be asked for a summary, where the mind still waits for one.
    fn lack_summary(&mut self, reason: SummaryFault, message: &str) {
        if reason == SummaryFault::LlmCallFailed && self.mind.summarises().is_some() {
            // One that cost more than there was did not reach the mind.
            self.withhold_reply();
        }
        self.deliver();
        let Some(open) = self.open.as_mut().filter(|_| self.mind.summarises().is_some()) else { return };
        let kind = match reason {
            SummaryFault::EmptyResponse => ModelFailureKind::EmptyReply,
            _ => ModelFailureKind::Unavailable,
        };
        let failure = ModelFailure { kind, message: message.to_owned(), retry_after: None };
        open.waits = self.mind.step(MindEvent::ModelFailed(failure));
    }

    /// The oldest part of the conversation went.
    fn shorten(&mut self, recorded: &Event, shortened: Option<&Shortened>) -> Result<(), String> {
        self.deliver();
        let noted = self.mind.take_noted();
        let open = self.open.as_mut().ok_or_else(no_run)?;
        match shortened {
            _ if open.exact && noted.as_ref() == Some(recorded) => Ok(()),
            _ if open.exact => Err(format!("the mind shortens its conversation otherwise: {noted:?}")),
            Some(shortened) => {
                self.mind.shorten_recorded(shortened);
                open.waits = self.mind.asks_again().unwrap_or_else(|| open.waits.clone());
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn answer(&mut self, call: CallId, reply: &ModelReply) -> Result<(), String> {
        let open = self.running()?;
        if open.asked != Some(call) {
            return Err(format!("a reply to inference {call} came that the mind did not ask for last"));
        }
        match (&open.waits, &open.reply) {
            (Command::Ask(_), None) => {
                open.reply = Some(reply.clone());
                Ok(())
            }
            (other, _) => Err(format!("a reply came that the mind does not wait for; it {}", wish(other))),
        }
    }

    /// Delivers what comes before a call, and finds the call in the turn.
    fn turn(&mut self, asked: &ModelCallId) -> Result<(&mut Open, ModelCall), String> {
        if matches!(self.open, Some(Open { waits: Command::Ask(_), .. })) {
            self.deliver();
        }
        let found = self.call(asked).cloned();
        let open = self.running()?;
        match found {
            Some(call) => Ok((open, call)),
            None => Err(format!("the mind makes no call {:?} here; it {}", asked.0, wish(&open.waits))),
        }
    }

    fn invoke(
        &mut self,
        call: CallId,
        tool: &ToolName,
        asked: &ModelCallId,
        repeats: u32,
    ) -> Result<(), String> {
        let (open, wanted) = self.turn(asked)?;
        if wanted.tool.0 != tool.as_str() {
            return Err(format!("the mind calls {:?} here, not {tool}", wanted.tool.0));
        }
        open.begun.insert(call, (asked.clone(), repeats));
        Ok(())
    }

    fn settle(&mut self, entry: EntryId, call: CallId, result: Option<&str>, failure: Option<&ToolFailure>) {
        // Calls that somebody else made for the agent are none of its mind's.
        let Some(open) = &mut self.open else { return };
        let Some((asked, repeats)) = open.begun.get(&call).cloned() else { return };
        let Command::Invoke(calls) = &open.waits else { return };
        let Some(call) = calls.iter().find(|call| call.id == asked) else { return };
        if let Some(lacks) = failure.and_then(|failure| failure.lacks) {
            open.lacks = Some(lacks);
            return;
        }
        let result = failure.map_or(Ok(result.unwrap_or_default()), Err);
        let result = told(call, entry, result, repeats);
        open.results.insert(asked.0, result);
    }

    fn refuse(
        &mut self,
        entry: EntryId,
        asked: &ModelCallId,
        failure: &ToolFailure,
        repeats: u32,
    ) -> Result<(), String> {
        let (open, call) = self.turn(asked)?;
        open.results.insert(asked.0.clone(), told(&call, entry, Err(failure), repeats));
        Ok(())
    }

    fn end(&mut self, recorded: &Recorded<'_>, cut: Option<&RunCut>, mind_hash: &str) -> Result<(), String> {
        let asks = matches!(self.running()?.waits, Command::Ask(_));
        match cut {
            // What was recorded after the mind's last step did not reach it.
            Some(cut) if cut.asking == asks => {}
            Some(_) | None => self.deliver(),
        }
        let Some(open) = self.open.take() else { return Ok(()) };
        let last = match cut {
            None => open.waits,
            Some(cut) if can_cut(&cut.cause, &open.waits) => self.mind.step(event_of(&cut.cause)),
            Some(_) => {
                let what = format!("the mind cannot be cut short by that here; it {}", wish(&open.waits));
                self.mind.step(MindEvent::Cancelled);
                return Err(what);
            }
        };
        let Command::Finish(end) = last else {
            // Only with all that it held then would the mind see that the window was full.
            let was_full = !open.exact && recorded.stop == StopReason::MaxTokens;
            self.mind.step(MindEvent::Cancelled);
            return match last {
                Command::Ask(_) if was_full => Ok(()),
                other => Err(format!("the mind has not finished; it {}", wish(&other))),
            };
        };
        if !open.exact {
            return Ok(());
        }
        if !recorded.is_of(&end) {
            return Err(format!("the run ends with {end:?}"));
        }
        let digest = self.mind.digest();
        if mind_hash.is_empty() || digest == mind_hash {
            return Ok(());
        }
        Err(format!("the mind's state after the run is {digest}, the entry says {mind_hash}"))
    }
}

/// The tools that a run is shown again.
struct Shown {
    tools: Vec<ToolSpec>,
    /// Whether none is missing.
    all: bool,
}

/// How a run ended, as the journal has it.
struct Recorded<'e> {
    response: &'e str,
    usage: Usage,
    iterations: u32,
    stop: StopReason,
}

impl Recorded<'_> {
    fn is_of(&self, end: &RunEnd) -> bool {
        (self.response, self.usage, self.iterations, self.stop)
            == (end.response.as_str(), end.usage, end.iterations, end.stop_reason)
    }
}

fn no_run() -> String {
    "no run of the agent is going on".to_owned()
}

fn is_hash_of(hash: &str, text: &str) -> Result<(), String> {
    if content_hash(text.as_bytes()) == hash { Ok(()) } else { Err("a text and its hash differ".to_owned()) }
}

/// Whether this can end a run that waits for that.
fn can_cut(cause: &CutCause, waits: &Command) -> bool {
    match waits {
        Command::Ask(_) => true,
        Command::Invoke(_) => !matches!(cause, CutCause::ModelFailed(_)),
        Command::Finish(_) => false,
    }
}

/// What a mind is told that is cut short.
#[must_use]
pub fn event_of(cause: &CutCause) -> MindEvent {
    match cause {
        CutCause::ModelFailed(failure) => MindEvent::ModelFailed(failure.clone()),
        CutCause::BudgetExceeded { quantity, remaining } => {
            MindEvent::BudgetExceeded { quantity: *quantity, remaining: *remaining }
        }
        CutCause::Cancelled => MindEvent::Cancelled,
    }
}

fn wish(command: &Command) -> &'static str {
    match command {
        Command::Ask(_) => "waits for its model",
        Command::Invoke(_) => "waits for calls",
        Command::Finish(_) => "has finished",
    }
}
