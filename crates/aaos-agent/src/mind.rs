//! The turn loop: message, reply, calls, results, until a reply asks for nothing more.
//!
//! Invariants: at most one command is unanswered at any time; every call in the history has exactly one
//! result in the message after it; call ids are unique for the mind's life and count its calls, whatever the model
//! wrote: they are the same for whoever steps a part of that life again.

mod shorten;

use std::collections::VecDeque;

use aaos_core::event::{Event, Kept, Opening, Reported};
use aaos_core::limits::{MAX_CALLS_PER_TURN, MAX_ITERATIONS, MAX_REPLY_TOKENS};
use aaos_core::manifest::{Manifest, Share};
use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelRequest,
    ModelStop, PlacedThought, StopWord, ToolSpec, Usage,
};
use aaos_core::name::{ModelName, ToolName};
use aaos_core::quantity::{Bytes, Quantity, Tokens};
use aaos_core::tool::{self, ToolDescriptor};
use aaos_core::toolio::StopReason;

use crate::context::{TokenMeter, text_size, tools_size};
use crate::conversation::Conversation;

/// A reply may take up to this part of a small context window.
const REPLY_SHARE: u64 = 4;
/// Result of a call beyond the limit of one turn.
const TOO_MANY_CALLS: &str = r#"{"error":{"kind":"limit","message":"too many calls in one reply; this one was not run, ask for it again in a later turn"}}"#;
/// Result of a call that was in flight when the agent was stopped.
const CALL_CANCELLED: &str = r#"{"error":{"kind":"cancelled","message":"the agent was stopped before the result arrived; the call may have run"}}"#;

/// Result of a call of a turn that the budget did not cover.
const CALL_NOT_COVERED: &str = r#"{"error":{"kind":"budget_exceeded","message":"the budget did not cover the calls of this turn; some of them may have run"}}"#;

/// What a mind is made of; fixed for its life.
#[derive(Debug, Clone, PartialEq)]
pub struct MindConfig {
    /// The model it thinks with; of a ladder the first.
    pub model: ModelName,
    /// The models that follow on its ladder.
    pub next_models: Vec<ModelName>,
    /// The system prompt.
    pub system_prompt: String,
    /// Tokens that request and reply may take together.
    pub context_window: Tokens,
    /// Turns in one run.
    pub max_iterations: u32,
    /// Longest reply asked for.
    pub max_reply_tokens: Tokens,
    /// Messages of earlier runs and the new one that a run starts with.
    pub max_history_messages: u32,
    /// The part of the window from which on the oldest part of the conversation is summarised; none: it is forgotten.
    pub summarization_threshold: Option<Share>,
    /// The model that summarises, where it is not the mind's own.
    pub summarization_model: Option<ModelName>,
}

impl MindConfig {
    /// What the mind of an agent with this manifest is made of.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            model: manifest.model.clone(),
            next_models: manifest.next_models.clone(),
            system_prompt: manifest.system_prompt.clone(),
            context_window: manifest.memory.context_window,
            max_iterations: MAX_ITERATIONS,
            max_reply_tokens: Tokens(MAX_REPLY_TOKENS),
            max_history_messages: manifest.memory.max_history_messages,
            summarization_threshold: manifest.memory.summarization_threshold,
            summarization_model: manifest.memory.summarization_model.clone(),
        }
    }
}

/// A tool as a model is shown it.
#[must_use]
pub fn spec_of(tool: &ToolDescriptor) -> ToolSpec {
    ToolSpec {
        name: tool.tool_name(),
        description: tool.description.to_owned(),
        input_schema: tool.input_schema(),
    }
}

/// The tools of these names, as a model is shown them; one that this version does not have is left out.
#[must_use]
pub fn specs_of(names: &[ToolName]) -> Vec<ToolSpec> {
    names.iter().filter_map(|name| tool::find(name.as_str())).map(spec_of).collect()
}

/// What happens to a mind.
#[derive(Debug, Clone, PartialEq)]
pub enum MindEvent {
    /// Somebody speaks to it; a run begins.
    Message {
        /// What is said.
        text: String,
        /// Tools it is shown in this run, in a fixed order.
        tools: Vec<ToolSpec>,
    },
    /// Answer to [`Command::Ask`].
    Reply(Box<ModelReply>),
    /// Answer to [`Command::Ask`]: the model could not be asked.
    ModelFailed(ModelFailure),
    /// Answer to any command: the purse does not cover it.
    BudgetExceeded {
        /// Of what.
        quantity: Quantity,
        /// What is left.
        remaining: u64,
    },
    /// Answer to [`Command::Invoke`]: one result a call, in the order of the calls.
    ToolResults(Vec<CallResult>),
    /// The agent is being stopped; comes at any time.
    Cancelled,
}

/// What a mind wants done: inert data from an untrusted model.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Ask the model.
    Ask(Box<ModelRequest>),
    /// Invoke these tools, each after validation.
    Invoke(Vec<ModelCall>),
    /// The run is over; the mind is idle.
    Finish(RunEnd),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// The last text of the model in this run; may be empty.
    pub response: String,
    /// What this run used.
    pub usage: Usage,
    /// Turns made.
    pub iterations: u32,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// What went wrong, for a person and the parent agent.
    pub error: Option<String>,
    /// Of a failed inference: its kind.
    pub failure: Option<ModelFailureKind>,
}

/// What a conversation takes of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filling {
    /// The window.
    pub window: Tokens,
    /// What the next request takes, estimated.
    pub tokens: Tokens,
    /// So many weighed bytes, in so many tokens.
    pub ratio: (Bytes, Tokens),
    /// The request whose tokens its provider reported last.
    pub reported: Option<Reported>,
}

/// The state of one agent's mind.
#[derive(Debug, Clone, PartialEq)]
pub struct Mind {
    config: MindConfig,
    tools: Vec<ToolSpec>,
    tools_size: Bytes,
    history: Conversation,
    /// What the first message is made of, once the oldest part is gone.
    opening: Option<Opening>,
    meter: TokenMeter,
    usage: Usage,
    /// Calls numbered so far.
    calls: u64,
    /// Which of its models it thinks with: 0 for the first.
    rung: u32,
    /// Replies that are or were part of the conversation.
    turns: u64,
    /// Whether the run is another's, or one whose conversation began with more than is left of it: then what was
    /// recorded says whether it still fitted the window, and what went.
    follows: bool,
    run: Run,
    phase: Phase,
    /// To be recorded, oldest first.
    noted: VecDeque<Event>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Run {
    usage: Usage,
    iterations: u32,
    last_text: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// Waits for a message.
    Idle,
    /// Waits for a reply to a request that weighs so much.
    Asking { size: Bytes },
    /// Waits for a summary of what stands before this message.
    Summarising { cut: usize },
    /// Waits for results of the calls that stand last in the history.
    Acting(Turn),
}

/// The calls of one reply: the first are invoked, those beyond the limit are not.
#[derive(Debug, Clone, PartialEq)]
struct Turn {
    invoked: Vec<ModelCall>,
    excess: Vec<ModelCall>,
}

/// What a reply says beside its calls.
struct Said {
    text: String,
    reasoning: Option<String>,
    thinking: Vec<PlacedThought>,
}

impl Said {
    fn with(self, calls: Vec<ModelCall>) -> Message {
        let Self { text, reasoning, thinking } = self;
        Message::Assistant { text, reasoning, thinking, calls }
    }
}

impl Mind {
    /// A mind that was never spoken to.
    #[must_use]
    pub fn new(config: MindConfig) -> Self {
        Self {
            config,
            tools: Vec::new(),
            tools_size: Bytes::ZERO,
            history: Conversation::default(),
            opening: None,
            meter: TokenMeter::new(),
            usage: Usage::default(),
            calls: 0,
            rung: 0,
            turns: 0,
            follows: false,
            run: Run::default(),
            phase: Phase::Idle,
            noted: VecDeque::new(),
        }
    }

    /// Begins with what others learned of its model, so many bytes in so many tokens, unless it was told itself. What
    /// fits is judged by that only together with a report of its own.
    pub fn assume(&mut self, bytes: Bytes, tokens: Tokens) {
        if self.meter.last().is_none() {
            self.meter = TokenMeter::recalled(bytes, tokens, None);
        }
    }

    /// Thinks with this one of its models from the next run on: 0 for the first.
    ///
    /// # Panics
    /// In the middle of a run, or where it has not so many.
    pub fn think_with(&mut self, rung: u32) {
        assert!(self.is_idle(), "a run has one model");
        assert!(self.has_model(rung), "a rung of its ladder");
        self.rung = rung;
    }

    /// Whether it has so many models: 0 for the first.
    #[must_use]
    pub fn has_model(&self, rung: u32) -> bool {
        usize::try_from(rung).is_ok_and(|rung| rung <= self.config.next_models.len())
    }

    /// The model that it thinks with.
    #[must_use]
    pub fn model(&self) -> &ModelName {
        let before = usize::try_from(self.rung).ok().and_then(|rung| rung.checked_sub(1));
        let next = before.and_then(|index| self.config.next_models.get(index));
        next.unwrap_or(&self.config.model)
    }

    /// What its conversation takes of its window.
    #[must_use]
    pub fn filling(&self) -> Filling {
        Filling {
            window: self.config.context_window,
            tokens: self.meter.estimate(self.request_size()),
            ratio: self.meter.ratio(),
            reported: self.meter.last(),
        }
    }

    /// Takes one event and says what is to be done about it.
    ///
    /// # Panics
    /// When the event does not answer the last command (a message in mid-run, a reply nobody asked for,
    /// results that do not match the calls): a bug of the caller, never something a model can bring about.
    pub fn step(&mut self, event: MindEvent) -> Command {
        match event {
            MindEvent::Message { text, tools } => {
                self.hear(text, tools);
                self.trim();
                self.ask()
            }
            MindEvent::Reply(reply) => match self.phase {
                Phase::Summarising { cut } => self.take_summary(cut, &reply),
                _ => self.take_reply(*reply),
            },
            MindEvent::ModelFailed(failure) => {
                if let Phase::Summarising { cut } = self.phase {
                    return self.lack_summary(cut, failure);
                }
                self.take_request_size();
                self.finish(StopReason::Error, Some(failure.message), Some(failure.kind))
            }
            MindEvent::BudgetExceeded { quantity, remaining } => {
                self.leave_phase(CALL_NOT_COVERED);
                let left = quantity.show(remaining);
                let error =
                    format!("the budget ({}) does not cover another step; {left} left", quantity.field());
                self.finish(StopReason::BudgetExceeded, Some(error), None)
            }
            MindEvent::ToolResults(results) => self.take_results(results),
            MindEvent::Cancelled => self.cancel(),
        }
    }

    /// The conversation, oldest message first.
    #[must_use]
    pub fn history(&self) -> &[Message] {
        &self.history
    }

    /// What all runs of this mind used together.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether it waits for a message.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// What the conversation keeps of earlier runs; asked once a run began.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let runs = self.history.iter().filter(|message| is_user(message)).count().saturating_sub(1);
        let (bytes, tokens) = self.meter.ratio();
        let runs = u32::try_from(runs).unwrap_or(u32::MAX);
        let (calls, turns, rung) = (self.calls, self.turns, self.rung);
        Kept { runs, bytes, tokens, calls, turns, reported: self.meter.last(), rung }
    }

    /// BLAKE3 of the conversation and of where the run stands, hexadecimal: two minds with the same one go on alike.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        Message::hash_all(&self.history, &mut hasher);
        let Self { meter, run, phase, calls, turns, opening, .. } = self;
        hasher.update(format!("{meter:?} {run:?} {phase:?} {calls} {turns} {opening:?}").as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// Says what earlier runs used that this conversation has forgotten.
    pub fn count_as_used(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// Makes the run its own that was another agent's: counts nothing of it, and is shown these tools from here on. The
    /// question that it asks its model now, if it asks.
    pub(crate) fn adopt(&mut self, tools: Vec<ToolSpec>) -> Option<Command> {
        self.usage = Usage::default();
        (self.run.usage, self.run.iterations) = (Usage::default(), 0);
        self.tools_size = tools_size(&tools);
        self.tools = tools;
        self.judges_again()
    }

    /// What it asks its model now, if it asks, once no record decides any more.
    pub(crate) fn judges_again(&mut self) -> Option<Command> {
        self.follows = false;
        matches!(self.phase, Phase::Asking { .. } | Phase::Summarising { .. }).then(|| self.ask())
    }

    /// Begins a run that was another agent's: what it kept is not judged anew.
    pub(crate) fn begin_lent(&mut self, text: String, tools: Vec<ToolSpec>) -> Command {
        self.hear(text, tools);
        self.follows = true;
        self.ask()
    }

    /// Begins a run as it was recorded: what it kept is not judged anew.
    pub(crate) fn begin_recorded(&mut self, text: String, tools: Vec<ToolSpec>, kept: Kept) -> Command {
        self.hear(text, tools);
        let most = usize::try_from(kept.runs).unwrap_or(usize::MAX).saturating_add(1);
        let runs: Vec<usize> = (0..self.history.len()).filter(|at| is_user(&self.history[*at])).collect();
        if let Some(first) = runs.len().checked_sub(most).and_then(|at| runs.get(at)) {
            self.forget(*first);
        }
        self.meter = TokenMeter::recalled(kept.bytes, kept.tokens, kept.reported);
        (self.calls, self.turns, self.rung) = (kept.calls, kept.turns, kept.rung);
        self.follows = self.kept().runs < kept.runs;
        self.ask()
    }

    fn hear(&mut self, text: String, tools: Vec<ToolSpec>) {
        assert!(self.is_idle(), "a message came while a run was going on");
        self.run = Run::default();
        self.follows = false;
        self.tools_size = tools_size(&tools);
        self.tools = tools;
        self.history.push(Message::User { text });
    }

    /// Where nothing is summarised: forgets the oldest runs until the count and the window are kept or only the new
    /// message is left. It cuts only before a user message, so that no call loses its result.
    fn trim(&mut self) {
        if self.config.summarization_threshold.is_some() {
            return;
        }
        while self.history.len() > self.most_messages() || !self.fits(self.request_size()) {
            let Some(next) = self.history.iter().skip(1).position(is_user) else { break };
            self.forget(next + 1);
        }
        assert!(
            matches!(self.history.first(), Some(Message::User { .. })),
            "a history starts with a message"
        );
    }

    /// Forgets this many messages, the oldest.
    fn forget(&mut self, messages: usize) {
        self.history.leave_out(0, messages);
        if messages > 0 {
            self.opening = None;
        }
    }

    fn most_messages(&self) -> usize {
        usize::try_from(self.config.max_history_messages).unwrap_or(usize::MAX)
    }

    fn ask(&mut self) -> Command {
        if self.run.iterations >= self.config.max_iterations {
            let error = format!("stopped after {} turns", self.run.iterations);
            return self.finish(StopReason::MaxIterations, Some(error), None);
        }
        if self.is_due()
            && let Some(asks) = self.summarise()
        {
            return asks;
        }
        self.ask_now()
    }

    fn ask_now(&mut self) -> Command {
        let size = self.request_size();
        if !self.fits(size) {
            let error = format!(
                "the conversation (about {} tokens) no longer fits the context window of {}",
                self.meter.estimate(size),
                self.config.context_window
            );
            return self.finish(StopReason::MaxTokens, Some(error), None);
        }
        self.phase = Phase::Asking { size };
        Command::Ask(Box::new(ModelRequest {
            model: self.model().clone(),
            system: self.config.system_prompt.clone(),
            messages: self.history.to_vec(),
            tools: self.tools.clone(),
            max_output_tokens: self.reply_tokens(),
            narrowed: None,
        }))
    }

    fn take_reply(&mut self, reply: ModelReply) -> Command {
        let size = self.take_request_size();
        self.meter.learn(size, self.tools_size, reply.usage.input_tokens);
        self.usage = self.usage.plus(reply.usage);
        self.run.usage = self.run.usage.plus(reply.usage);
        self.run.iterations = self.run.iterations.saturating_add(1);
        if !reply.text.trim().is_empty() {
            self.run.last_text.clone_from(&reply.text);
        }
        let ModelReply { text, reasoning, thinking, calls, stop, .. } = reply;
        let said = Said { text, reasoning, thinking };
        match stop {
            // The last call may have been cut in the middle of its arguments, so none is run.
            ModelStop::MaxTokens => {
                self.say(said);
                let error = "the reply was cut at its token limit".to_owned();
                self.finish(StopReason::Truncated, Some(error), None)
            }
            ModelStop::Refusal => {
                self.say(said);
                self.finish(StopReason::Error, Some("the model refused to answer".to_owned()), None)
            }
            ModelStop::EndTurn | ModelStop::ToolUse if calls.is_empty() => {
                self.say(said);
                self.finish(StopReason::Complete, None, None)
            }
            ModelStop::Other(StopWord(word)) if calls.is_empty() => {
                self.say(said);
                let error = format!(
                    "the provider ended the reply for a reason that is not known here ({word:?}), so it may not be whole"
                );
                self.finish(StopReason::Error, Some(error), None)
            }
            // Whatever the provider calls it, calls wait for their results; cut arguments are refused there.
            ModelStop::EndTurn | ModelStop::ToolUse | ModelStop::Other(_) => self.act(said, calls),
        }
    }

    /// Keeps a final text. An empty one is left out: providers refuse empty messages.
    fn say(&mut self, said: Said) {
        if !said.text.trim().is_empty() {
            self.turns = self.turns.saturating_add(1);
            self.history.push(said.with(Vec::new()));
        }
    }

    fn act(&mut self, said: Said, calls: Vec<ModelCall>) -> Command {
        let calls = self.numbered(calls);
        self.turns = self.turns.saturating_add(1);
        self.history.push(said.with(calls.clone()));
        let mut invoked = calls;
        let excess = invoked.split_off(invoked.len().min(MAX_CALLS_PER_TURN));
        assert!(!invoked.is_empty(), "a turn with calls invokes at least one");
        let command = Command::Invoke(invoked.clone());
        self.phase = Phase::Acting(Turn { invoked, excess });
        command
    }

    fn take_results(&mut self, results: Vec<CallResult>) -> Command {
        let Phase::Acting(turn) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            panic!("tool results came although none was asked for");
        };
        let asked = turn.invoked.iter().map(|call| &call.id);
        assert!(results.iter().map(|result| &result.id).eq(asked), "tool results do not match the calls");
        let results = results.into_iter().chain(failed(&turn.excess, TOO_MANY_CALLS)).collect();
        self.history.push(Message::ToolResults { results });
        self.ask()
    }

    fn cancel(&mut self) -> Command {
        self.leave_phase(CALL_CANCELLED);
        self.finish(StopReason::Cancelled, Some("the agent was stopped".to_owned()), None)
    }

    fn finish(
        &mut self,
        stop_reason: StopReason,
        error: Option<String>,
        failure: Option<ModelFailureKind>,
    ) -> Command {
        assert!(error.is_none() == stop_reason.is_success(), "what did not complete says why");
        self.phase = Phase::Idle;
        let run = std::mem::take(&mut self.run);
        let Run { usage, iterations, last_text: response, .. } = run;
        Command::Finish(RunEnd { response, usage, iterations, stop_reason, error, failure })
    }

    /// Leaves whatever it waits for; calls without a result get this one.
    fn leave_phase(&mut self, result: &'static str) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => self.run = Run::default(),
            Phase::Asking { .. } | Phase::Summarising { .. } => {}
            Phase::Acting(turn) => {
                let lost = failed(&turn.invoked, result);
                let results = lost.chain(failed(&turn.excess, TOO_MANY_CALLS)).collect();
                self.history.push(Message::ToolResults { results });
            }
        }
    }

    /// Leaves the asking phase.
    fn take_request_size(&mut self) -> Bytes {
        let Phase::Asking { size } = std::mem::replace(&mut self.phase, Phase::Idle) else {
            panic!("an answer of the model came although none was asked for");
        };
        size
    }

    /// Gives every call its number as id. Providers match results by id; some leave ids empty or start again at every
    /// reply, so theirs are not kept.
    fn numbered(&mut self, calls: Vec<ModelCall>) -> Vec<ModelCall> {
        let number = |call: ModelCall| {
            self.calls = self.calls.saturating_add(1);
            ModelCall { id: ModelCallId::numbered(self.calls), ..call }
        };
        calls.into_iter().map(number).collect()
    }

    fn request_size(&self) -> Bytes {
        self.fixed_size().plus(self.history.size_from(0))
    }

    /// What stays the same in every request.
    fn fixed_size(&self) -> Bytes {
        text_size(&self.config.system_prompt).plus(self.tools_size)
    }

    fn fits(&self, size: Bytes) -> bool {
        self.follows || self.fits_window(size)
    }

    fn fits_window(&self, size: Bytes) -> bool {
        self.meter.estimate(size).plus(self.reply_tokens()) <= self.config.context_window
    }

    /// Longest reply asked for: as configured, but a small window is not eaten up by it.
    fn reply_tokens(&self) -> Tokens {
        Tokens((self.config.context_window.0 / REPLY_SHARE).min(self.config.max_reply_tokens.0))
    }
}

/// Whether a reply's calls become part of the conversation: those of one that was cut, or that refuses, do not.
pub(crate) fn keeps_calls(reply: &ModelReply) -> bool {
    !reply.calls.is_empty() && !matches!(reply.stop, ModelStop::MaxTokens | ModelStop::Refusal)
}

fn is_user(message: &Message) -> bool {
    matches!(message, Message::User { .. })
}

/// An error result for each of these calls. The text is the runtime's own, hence not wrapped as data.
fn failed<'a>(calls: &'a [ModelCall], content: &'static str) -> impl Iterator<Item = CallResult> + 'a {
    calls.iter().map(move |call| CallResult {
        id: call.id.clone(),
        tool: call.tool.clone(),
        content: content.to_owned(),
        is_error: true,
    })
}
