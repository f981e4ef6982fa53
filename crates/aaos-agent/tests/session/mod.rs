//! A scripted agent: a live mind, and the entries as the kernel writes them.
//!
//! Invariant: what reaches the mind is in the entries before, in the kernel's order; a kill leaves the entries and
//! nothing else.

mod history;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aaos_agent::{Command, Mind, MindConfig, MindEvent, RunEnd, Tape, TurnCall, Unanswered, event_of, told};
use aaos_core::budget::Shortfall;
use aaos_core::effect::EffectClass;
use aaos_core::event::{CutCause, Entry, Event, Outcome, RunCut, SummaryFault, content_hash};
use aaos_core::id::{CallId, EntryId, Seq};
use aaos_core::manifest::Share;
use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelFailure, ModelFailureKind, ModelReply, ModelRequest,
    ModelStop, RawArguments, RequestedTool, StopWord, ToolSpec, Usage,
};
use aaos_core::name::{ModelName, ToolName};
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp, Tokens};
use aaos_core::toolio::{StopReason, ToolFailure, ToolFailureKind};
use uuid::Uuid;

/// Small enough that conversations are shortened by their number of messages and by the window.
pub(crate) fn config() -> MindConfig {
    MindConfig {
        model: ModelName::parse("scripted").expect("a name"),
        next_models: Vec::new(),
        system_prompt: "You are a test.".to_owned(),
        context_window: Tokens(1_200),
        max_iterations: 5,
        max_reply_tokens: Tokens(200),
        max_history_messages: 12,
        summarization_threshold: Share::of(7_000),
        summarization_model: None,
    }
}

/// The tools of these names.
pub(crate) fn shown(names: &[ToolName]) -> Vec<ToolSpec> {
    let spec = |name: &ToolName| ToolSpec {
        name: name.clone(),
        description: "A tool.".to_owned(),
        input_schema: serde_json::json!({"type": "object"}),
    };
    names.iter().map(spec).collect()
}

/// What the live mind is after an entry, once it was given what is recorded for it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) digest: String,
    pub(crate) waits: Option<Unanswered>,
    /// The first entry of the conversation that is left.
    pub(crate) from: Option<usize>,
}

/// Where the live agent stands.
#[derive(Debug, Clone)]
enum Stand {
    Idle,
    Asking(Box<ModelRequest>, Option<ModelReply>),
    Acting(Vec<TurnCall>),
    Lacking(Shortfall),
    Finished(RunEnd),
}

/// The daemon is killed after an entry.
#[derive(Debug)]
struct Killed;

#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) entries: Vec<Entry>,
    pub(crate) live: Vec<Live>,
    /// Entries that the mind was given, by the run they belong to.
    given: BTreeMap<usize, BTreeSet<usize>>,
    finished: BTreeSet<usize>,
    kills: u32,
    /// The conversation in the end, and whether no run of it goes on.
    conversation: Vec<Message>,
    is_idle: bool,
}

/// How often what happened in some sessions.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u32>);

impl Counts {
    pub(crate) fn add(&mut self, session: &Session) {
        let mut count = |what, more: u32| *self.0.entry(what).or_default() += more;
        count("kills", session.kills);
        for entry in &session.entries {
            match &entry.event {
                Event::AgentExecutionStarted { kept, .. } => {
                    count("runs that follow others", u32::from(kept.runs > 0));
                }
                Event::AgentExecutionCompleted { cut: Some(cut), .. } => match (&cut.cause, cut.asking) {
                    (CutCause::Cancelled, true) => count("cancelled while asking", 1),
                    (CutCause::Cancelled, false) => count("cancelled while acting", 1),
                    (CutCause::BudgetExceeded { .. }, true) => count("budget while asking", 1),
                    (CutCause::BudgetExceeded { .. }, false) => count("budget while acting", 1),
                    (CutCause::ModelFailed(_), _) => count("model failed", 1),
                },
                Event::AgentExecutionCompleted { stop_reason, cut: None, .. } => match stop_reason {
                    StopReason::MaxTokens => count("full windows", 1),
                    StopReason::MaxIterations => count("too many turns", 1),
                    StopReason::Complete => count("completed", 1),
                    _ => count("cut or refused replies", 1),
                },
                Event::ContextSummarized { .. } => count("summaries", 1),
                Event::ContextSummarizationFailed { reason, .. } => match reason {
                    SummaryFault::LlmCallFailed => count("summaries that nobody made", 1),
                    SummaryFault::EmptyResponse => count("empty summaries", 1),
                    SummaryFault::ReplyParseError => count("long summaries", 1),
                    SummaryFault::BoundarySelection => count("nothing to leave out", 1),
                },
                Event::CallRefused { .. } => count("refused calls", 1),
                Event::ToolResult { .. } => count("results", 1),
                _ => {}
            }
        }
        let forgot =
            session.live.windows(2).filter(|pair| pair[0].from < pair[1].from && pair[0].from.is_some());
        count("forgotten runs", u32::try_from(forgot.count()).expect("a few"));
    }

    pub(crate) fn all_at_least(&self, least: u32) -> bool {
        self.0.len() == 18 && self.0.values().all(|count| *count >= least)
    }
}

/// Plays a session by dice.
struct Player {
    config: MindConfig,
    dice: std::vec::IntoIter<u32>,
    mind: Mind,
    stand: Stand,
    conversation: VecDeque<usize>,
    session: Session,
    ids: u128,
}

impl Session {
    pub(crate) fn play(dice: Vec<u32>) -> Self {
        Self::play_in(config(), dice)
    }

    fn play_in(config: MindConfig, dice: Vec<u32>) -> Self {
        let mut player = Player {
            dice: dice.into_iter(),
            mind: Mind::new(config.clone()),
            config,
            stand: Stand::Idle,
            conversation: VecDeque::new(),
            session: Self::default(),
            ids: 0,
        };
        while player.dice.len() > 0 {
            if player.run().is_err() {
                player.recover();
            }
        }
        player.session.conversation = player.mind.history().to_vec();
        player.session.is_idle = matches!(player.stand, Stand::Idle);
        player.session
    }

    /// Entries that reached the mind in a run with a recorded end, which holds the digest of the mind.
    pub(crate) fn seen_by_a_finished_run(&self) -> Vec<usize> {
        self.finished.iter().flat_map(|run| self.given.get(run).into_iter().flatten()).copied().collect()
    }
}

impl Player {
    /// One of so many.
    fn roll(&mut self, sides: u32) -> u32 {
        self.dice.next().unwrap_or_default() % sides
    }

    fn uuid(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    fn call_id(&mut self) -> CallId {
        CallId::from_uuid(self.uuid())
    }

    /// Plays on until the run is over.
    fn run(&mut self) -> Result<(), Killed> {
        if matches!(self.stand, Stand::Idle) {
            self.begin()?;
        }
        loop {
            while let Some(noted) = self.mind.take_noted() {
                self.note(noted).1?;
            }
            let cut = match self.stand.clone() {
                Stand::Idle => return Ok(()),
                Stand::Finished(end) => return self.complete(&end, None),
                Stand::Lacking(lacks) => Some(budget(lacks)),
                Stand::Asking(request, reply) => self.ask(&request, reply)?,
                Stand::Acting(_) => self.act()?,
            };
            if let Some(cause) = cut {
                let asking = matches!(self.stand, Stand::Asking(..));
                self.step(event_of(&cause));
                let Stand::Finished(end) = self.stand.clone() else { panic!("it was cut short") };
                return self.complete(&end, Some(RunCut { cause, asking }));
            }
        }
    }

    fn step(&mut self, event: MindEvent) {
        self.stand = stand_of(self.mind.step(event));
    }

    fn begin(&mut self) -> Result<(), Killed> {
        let message = "m".repeat(self.roll(300) as usize);
        let tools: Vec<ToolName> = ["echo", "grep"]
            .iter()
            .filter(|_| !self.dice.next().unwrap_or(1).is_multiple_of(4))
            .map(|name| ToolName::parse(name).expect("a tool"))
            .collect();
        self.step(MindEvent::Message { text: message.clone(), tools: shown(&tools) });
        let kept = self.mind.kept();
        while self.conversation.len() > kept.runs as usize {
            self.conversation.pop_front();
        }
        let at = self.session.entries.len();
        self.conversation.push_back(at);
        let message_hash = content_hash(message.as_bytes());
        self.note(Event::AgentExecutionStarted { message_hash, message, tools, kept }).1?;
        self.give(at);
        Ok(())
    }

    fn complete(&mut self, end: &RunEnd, cut: Option<RunCut>) -> Result<(), Killed> {
        let run = *self.conversation.back().expect("a run");
        self.stand = Stand::Idle;
        self.session.finished.insert(run);
        let event = Event::AgentExecutionCompleted {
            response: end.response.clone(),
            usage: end.usage,
            iterations: end.iterations,
            stop_reason: end.stop_reason,
            error: end.error.clone(),
            cut,
            mind_hash: self.mind.digest(),
        };
        self.note(event).1
    }

    /// Asks the model, or says what cuts the run short.
    fn ask(
        &mut self,
        request: &ModelRequest,
        recorded: Option<ModelReply>,
    ) -> Result<Option<CutCause>, Killed> {
        let reply_at = self.session.entries.len().saturating_sub(1);
        if let Some(reply) = recorded {
            self.give(reply_at);
            self.step(MindEvent::Reply(Box::new(reply)));
            return Ok(None);
        }
        let fate = self.roll(24);
        if fate == 0 {
            return Ok(Some(CutCause::Cancelled));
        }
        let lacks = Shortfall { quantity: Quantity::Tokens, wanted: 9, remaining: 1 };
        if fate == 1 {
            self.note(exceeded(lacks)).1?;
            return Ok(Some(budget(lacks)));
        }
        let call = self.call_id();
        self.note(Event::InferenceRequested {
            call,
            model: request.model.clone(),
            messages: request.messages.len() as u64,
            request_bytes: request.text_bytes(),
            request_hash: request.digest(),
            reserve: Tokens(1),
            price: None,
            charges: Vec::new(),
            keeps: self.mind.summarises(),
            estimate: None,
        })
        .1?;
        let result = if matches!(fate, 2..=4) { Err(self.model_failure()) } else { Ok(self.reply()) };
        let summarises = self.mind.summarises().is_some();
        if let (Ok(reply), Stand::Asking(_, recorded)) = (&result, &mut self.stand) {
            *recorded = Some(reply.clone());
        }
        self.note(Event::InferenceCompleted {
            call,
            result: result.clone(),
            attempts: 1,
            possibly_billed: 0,
            spent: Amounts::NONE,
            elapsed: Millis(1),
        })
        .1?;
        Ok(match (result, fate) {
            (Err(failure), 2) if summarises => {
                self.step(MindEvent::ModelFailed(failure));
                None
            }
            (Err(failure), 2) => Some(CutCause::ModelFailed(failure)),
            // It is tried again, or the reply is delivered in the next round.
            (Err(_), _) | (Ok(_), 7..) => None,
            (Ok(_), 5) => Some(budget(lacks)),
            (Ok(_), _) => Some(CutCause::Cancelled),
        })
    }

    fn model_failure(&mut self) -> ModelFailure {
        ModelFailure {
            kind: ModelFailureKind::Unavailable,
            message: "it is down".to_owned(),
            retry_after: None,
        }
    }

    fn reply(&mut self) -> ModelReply {
        if self.mind.summarises().is_some() {
            let length = [0, 30, 90, 200, 9_000][self.roll(5) as usize];
            let usage = Usage { output_tokens: Tokens(3), ..Usage::default() };
            let (text, stop) = ("s".repeat(length), ModelStop::EndTurn);
            return ModelReply {
                text,
                reasoning: None,
                thinking: Vec::new(),
                calls: Vec::new(),
                stop,
                usage,
            };
        }
        let count = [0, 1, 1, 2, 3][self.roll(5) as usize];
        let calls = (0..count).map(|_| {
            let id = ["", "a", "call-1", "b"][self.roll(4) as usize].to_owned();
            let tool = ["echo", "grep", "none"][self.roll(3) as usize].to_owned();
            ModelCall {
                id: ModelCallId(id),
                tool: RequestedTool(tool),
                arguments: RawArguments("{}".to_owned()),
            }
        });
        let calls = calls.collect();
        let stop = match self.roll(16) {
            0 => ModelStop::MaxTokens,
            1 => ModelStop::Refusal,
            2 => ModelStop::Other(StopWord("paused".to_owned())),
            _ => ModelStop::ToolUse,
        };
        let input_tokens = Tokens(u64::from(self.roll(900)));
        ModelReply {
            text: "t".repeat(self.roll(40) as usize),
            reasoning: (self.roll(3) == 0).then(|| "because".to_owned()),
            thinking: Vec::new(),
            calls,
            stop,
            usage: Usage { input_tokens, output_tokens: Tokens(7), cached_input_tokens: Tokens::ZERO },
        }
    }

    /// Invokes the calls of the turn that have no result, or says what cuts the run short.
    fn act(&mut self) -> Result<Option<CutCause>, Killed> {
        let Stand::Acting(turn) = self.stand.clone() else { panic!("it acts") };
        for (at, one) in turn.iter().enumerate().filter(|(_, one)| one.result.is_none()) {
            if self.roll(8) == 0 {
                // Somebody else makes a call for the agent.
                let call = self.call_id();
                self.note(invoked(call, "echo", None, 1)).1?;
                self.note(result(call, "echo", Ok("{}".to_owned()))).1?;
            }
            if let Some(cut) = self.call(at, one)? {
                return Ok(Some(cut));
            }
        }
        if self.roll(20) == 0 {
            return Ok(Some(CutCause::Cancelled));
        }
        let Stand::Acting(turn) = self.stand.clone() else { panic!("it acts") };
        let results = turn.into_iter().map(|one| one.result.expect("every call was made")).collect();
        self.give_results();
        self.step(MindEvent::ToolResults(results));
        Ok(None)
    }

    fn call(&mut self, at: usize, one: &TurnCall) -> Result<Option<CutCause>, Killed> {
        let fate = self.roll(20);
        let lacks = Shortfall { quantity: Quantity::Files, wanted: 1, remaining: 0 };
        let repeats = self.roll(5);
        let is_known = one.call.tool.0 != "none";
        match (fate, one.begun) {
            (0, _) => return Ok(Some(CutCause::Cancelled)),
            (1, None) => {
                self.note(exceeded(lacks)).1?;
                return Ok(Some(budget(lacks)));
            }
            (2 | 3, _) => return self.refuse(at, &one.call, repeats).map(|()| None),
            (_, None) if !is_known => return self.refuse(at, &one.call, repeats).map(|()| None),
            _ => {}
        }
        let (call, repeats) = match one.begun {
            Some(call) => (call, self.repeats_of(call)),
            None => {
                let call = self.call_id();
                self.turn()[at].begun = Some(call);
                self.note(invoked(call, &one.call.tool.0, Some(&one.call.id), repeats)).1?;
                (call, repeats)
            }
        };
        let gave = match fate {
            4 => Err(ToolFailure::budget(lacks, "too little")),
            5 | 6 => Err(ToolFailure::new(ToolFailureKind::NotFound, "no such file")),
            _ => Ok(format!("\"{}\"", "r".repeat(self.roll(700) as usize))),
        };
        self.settle(at, &one.call, call, repeats, gave.clone())?;
        Ok(match fate {
            4 => Some(budget(lacks)),
            7 => Some(CutCause::Cancelled),
            // The grant was revoked while it ran.
            8 => self.refuse(at, &one.call, repeats).map(|()| None)?,
            _ => None,
        })
    }

    fn repeats_of(&self, of: CallId) -> u32 {
        let found = self.session.entries.iter().find_map(|entry| match &entry.event {
            Event::ToolInvoked { call, repeats, .. } if *call == of => Some(*repeats),
            _ => None,
        });
        found.expect("it was begun")
    }

    fn turn(&mut self) -> &mut Vec<TurnCall> {
        match &mut self.stand {
            Stand::Acting(turn) => turn,
            other => panic!("it acts, it does not {other:?}"),
        }
    }

    fn settle(
        &mut self,
        at: usize,
        asked: &ModelCall,
        call: CallId,
        repeats: u32,
        gave: Result<String, ToolFailure>,
    ) -> Result<(), Killed> {
        let lacks = gave.as_ref().err().and_then(|failure| failure.lacks);
        let id = EntryId::from_uuid(self.uuid());
        if lacks.is_none() {
            self.turn()[at].result = Some(told(asked, id, gave.as_deref(), repeats));
        }
        let stand = self.stand.clone();
        if let Some(lacks) = lacks {
            self.stand = Stand::Lacking(lacks);
        }
        let killed = self.note_as(id, result(call, &asked.tool.0, gave));
        if killed.is_ok() {
            self.stand = stand;
        }
        killed
    }

    fn refuse(&mut self, at: usize, asked: &ModelCall, repeats: u32) -> Result<(), Killed> {
        let failure = ToolFailure::new(ToolFailureKind::Denied, "not granted");
        let id = EntryId::from_uuid(self.uuid());
        self.turn()[at].result = Some(told(asked, id, Err(&failure), repeats));
        self.note_as(id, Event::CallRefused { model_call: asked.id.clone(), failure, repeats })
    }

    fn note(&mut self, event: Event) -> (usize, Result<(), Killed>) {
        let id = EntryId::from_uuid(self.uuid());
        let noted = self.note_as(id, event);
        (self.session.entries.len() - 1, noted)
    }

    /// Appends an entry, and what the live mind is after it; now and then the daemon is killed then.
    fn note_as(&mut self, id: EntryId, event: Event) -> Result<(), Killed> {
        let at = self.session.entries.len();
        self.session.entries.push(Entry {
            seq: Seq(at as u64 + 1),
            id,
            timestamp: Timestamp(at as u64),
            goal_id: None,
            agent_id: None,
            trace_id: None,
            parent_event: None,
            event,
            prev_hash: String::new(),
            hash: String::new(),
        });
        let (mind, waits) = self.after_delivery();
        let from = self.conversation.front().copied();
        self.session.live.push(Live { digest: mind.digest(), waits, from });
        if self.roll(25) == 24 {
            self.session.kills += 1;
            return Err(Killed);
        }
        Ok(())
    }

    fn after_delivery(&self) -> (Mind, Option<Unanswered>) {
        let mut mind = self.mind.clone();
        let stand = match self.stand.clone() {
            Stand::Asking(_, Some(reply)) => stand_of(mind.step(MindEvent::Reply(Box::new(reply)))),
            Stand::Acting(turn) => {
                let results: Option<Vec<CallResult>> = turn.iter().map(|one| one.result.clone()).collect();
                match results {
                    Some(results) => stand_of(mind.step(MindEvent::ToolResults(results))),
                    None => Stand::Acting(turn),
                }
            }
            other => other,
        };
        let waits = match stand {
            Stand::Idle => None,
            Stand::Asking(request, _) => Some(Unanswered::Ask(request)),
            Stand::Acting(turn) => Some(Unanswered::Invoke(turn)),
            Stand::Lacking(lacks) => Some(Unanswered::Lacks(lacks)),
            Stand::Finished(end) => Some(Unanswered::Finish(end)),
        };
        (mind, waits)
    }

    /// Marks an entry as one that reached the mind.
    fn give(&mut self, at: usize) {
        let run = *self.conversation.back().expect("a run");
        self.session.given.entry(run).or_default().insert(at);
    }

    /// Marks the entries that made up the results of the turn.
    fn give_results(&mut self) {
        let run = *self.conversation.back().expect("a run");
        let of_turn = self.session.entries.iter().enumerate().skip(run);
        let last =
            of_turn.clone().rfind(|(_, entry)| matches!(entry.event, Event::InferenceCompleted { .. }));
        let since = last.map_or(run, |(at, _)| at);
        let refused: BTreeSet<&str> = of_turn
            .clone()
            .skip_while(|(at, _)| *at < since)
            .filter_map(|(_, entry)| match &entry.event {
                Event::CallRefused { model_call, .. } => Some(model_call.0.as_str()),
                _ => None,
            })
            .collect();
        let mut calls = BTreeSet::new();
        let mut given = Vec::new();
        for (at, entry) in of_turn.skip_while(|(at, _)| *at < since) {
            match &entry.event {
                Event::ToolInvoked { call, model_call: Some(asked), .. }
                    if !refused.contains(asked.0.as_str()) =>
                {
                    calls.insert(*call);
                    given.push(at);
                }
                Event::ToolResult { call, .. } if calls.contains(call) => given.push(at),
                Event::CallRefused { .. } => given.push(at),
                _ => {}
            }
        }
        given.into_iter().for_each(|at| self.give(at));
    }

    /// What the daemon does after a kill: it knows the entries and nothing else.
    fn recover(&mut self) {
        let mut tape = Tape::recent(self.config.clone());
        if let Some(from) = self.conversation.front() {
            for entry in &self.session.entries[*from..] {
                tape.take(entry, shown).unwrap_or_else(|error| panic!("it cannot go on: {error}"));
            }
        }
        let delivered = self.stand.clone();
        let (mind, open) = tape.finish();
        self.mind = mind;
        self.stand = match open.map(|open| open.waits) {
            None => Stand::Idle,
            Some(Unanswered::Ask(request)) => Stand::Asking(request, None),
            Some(Unanswered::Invoke(turn)) => Stand::Acting(turn),
            Some(Unanswered::Lacks(lacks)) => Stand::Lacking(lacks),
            Some(Unanswered::Finish(end)) => Stand::Finished(end),
        };
        match delivered {
            Stand::Asking(_, Some(_)) => self.give(self.session.entries.len() - 1),
            Stand::Acting(turn) if turn.iter().all(|one| one.result.is_some()) => self.give_results(),
            _ => {}
        }
        if !matches!(self.stand, Stand::Idle) && self.note(Event::AgentExecutionResumed {}).1.is_err() {
            self.recover();
        }
    }
}

fn stand_of(command: Command) -> Stand {
    match command.into() {
        Unanswered::Ask(request) => Stand::Asking(request, None),
        Unanswered::Invoke(turn) => Stand::Acting(turn),
        Unanswered::Lacks(lacks) => Stand::Lacking(lacks),
        Unanswered::Finish(end) => Stand::Finished(end),
    }
}

fn budget(lacks: Shortfall) -> CutCause {
    CutCause::BudgetExceeded { quantity: lacks.quantity, remaining: lacks.remaining }
}

fn exceeded(lacks: Shortfall) -> Event {
    Event::BudgetExceeded { quantity: lacks.quantity, wanted: lacks.wanted, remaining: lacks.remaining }
}

fn invoked(call: CallId, tool: &str, asked: Option<&ModelCallId>, repeats: u32) -> Event {
    Event::ToolInvoked {
        call,
        tool: ToolName::parse(tool).expect("a tool"),
        input: serde_json::json!({}),
        class: EffectClass::Safe,
        access: Vec::new(),
        denied: Vec::new(),
        charges: Vec::new(),
        model_call: asked.cloned(),
        at: None,
        repeats,
    }
}

fn result(call: CallId, tool: &str, gave: Result<String, ToolFailure>) -> Event {
    let text = gave.as_deref().unwrap_or_default();
    Event::ToolResult {
        call,
        tool: ToolName::parse(tool).expect("a tool"),
        outcome: gave.as_ref().err().map_or(Outcome::Done, ToolFailure::outcome),
        result_hash: content_hash(text.as_bytes()),
        result_bytes: Bytes(text.len() as u64),
        result: gave.as_ref().ok().cloned(),
        failure: gave.err(),
        worker: None,
        spent: Amounts::NONE,
        elapsed: Millis(1),
    }
}
