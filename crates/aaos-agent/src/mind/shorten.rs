//! A conversation that grows too long for its window goes on with a summary of its oldest part (SPEC §9).
//!
//! Invariants: it happens only where every call has its result, so that what waits for a person is never part of what
//! goes, and no call is parted from its result. What was said to the agent stays word for word, unless it takes too much
//! together; the last of it always stays, and what it began with unless that alone takes too much. What goes is larger
//! than what stands for it. A summary that cannot be had keeps nothing from going; then of every word that goes too its
//! beginning stays.

use aaos_core::event::{Event, Opening, Shortened, SummaryFault};
use aaos_core::limits::MAX_SUMMARY_TOKENS;
use aaos_core::model::{Message, ModelFailure, ModelFailureKind, ModelReply, ModelRequest};
use aaos_core::quantity::{Bytes, Tokens};
use aaos_core::tool::{HistoryRead, Tool};

use super::{Command, Mind, Phase};
use crate::context::text_size;
use crate::opening::{SUMMARY_PROMPT, excerpt, opening_text, summary_of, transcript};
use crate::weigh::weigh;

/// Hundredths of the window that the conversation takes afterwards.
const LEFT: u64 = 40;
/// Of the part of the window from which on it is due, at most so many sevenths are taken afterwards.
const LEFT_OF_SEVEN: u64 = 4;
/// What was said takes at most this part of the window word for word.
const WORDS_SHARE: u64 = 4;
/// A summary takes at most this part of a small window.
const SUMMARY_SHARE: u64 = 8;
/// What is to be gained at least, as a part of the window.
const GAIN_SHARE: u64 = 16;
/// Of the window, so many quarters are given to what is to be summarised.
const TRANSCRIPT_QUARTERS: u64 = 3;
/// What the runtime's own words around a summary weigh, bytes; a bound from above.
const NOTE_BYTES: u64 = 672;
/// Most bytes in one token of a summary.
const MOST_BYTES: u64 = 8;
/// What is kept of words that go without a summary: so many bytes of each.
const EXCERPT_BYTES: usize = 256;
/// All that is kept of such words takes at most this part of the window; the newest of it stays.
const EXCERPTS_SHARE: u64 = 32;

/// What was said to an agent in the part of a conversation that goes.
struct Words {
    /// Stays word for word.
    kept: Vec<String>,
    /// Is summarised like the rest.
    dropped: Vec<String>,
}

impl Mind {
    /// Whether a request for a summary is what it waits for, and how many of its newest messages that leaves out.
    #[must_use]
    pub fn summarises(&self) -> Option<u64> {
        match self.phase {
            Phase::Summarising { cut } => Some(self.history.len().saturating_sub(cut) as u64),
            Phase::Idle | Phase::Asking { .. } | Phase::Acting(_) => None,
        }
    }

    /// Takes the oldest of what it has to say about its conversation, which is to be recorded before anything else is
    /// done.
    pub fn take_noted(&mut self) -> Option<Event> {
        self.noted.pop_front()
    }

    /// Whether the oldest part of the conversation is to go.
    pub(super) fn is_due(&self) -> bool {
        let Some(threshold) = self.config.summarization_threshold.filter(|_| !self.follows) else {
            return false;
        };
        let size = self.request_size();
        let most = threshold.tokens(self.config.context_window);
        self.has_too_many() || self.meter.estimate(size) > most || !self.fits(size)
    }

    /// Whether a run begins with more messages than it may.
    fn has_too_many(&self) -> bool {
        let begins = self.history.last().is_some_and(super::is_user);
        begins && self.history.len() > self.most_messages()
    }

    /// Asks for a summary of the oldest part; not where that would gain too little, nor where nothing can go.
    pub(super) fn summarise(&mut self) -> Option<Command> {
        let Some(cut) = self.boundary() else {
            if !self.fits(self.request_size()) {
                let message =
                    "what cannot be left out, what was said and the last turn, does not fit the window";
                self.noted.push_back(Event::ContextSummarizationFailed {
                    reason: SummaryFault::BoundarySelection,
                    message: message.to_owned(),
                    shortened: None,
                });
            }
            return None;
        };
        Some(self.ask_for_summary(cut))
    }

    /// Asks for a summary as it was recorded that it did.
    pub(crate) fn summarise_recorded(&mut self, keeps: u64) -> Command {
        let keeps = usize::try_from(keeps).unwrap_or(usize::MAX);
        self.ask_for_summary(self.history.len().saturating_sub(keeps).max(1))
    }

    /// Leaves out and begins with what was recorded of it.
    pub(crate) fn shorten_recorded(&mut self, shortened: &Shortened) {
        let keeps = usize::try_from(shortened.keeps).unwrap_or(usize::MAX).saturating_add(1);
        let surplus = self.history.len().saturating_sub(keeps);
        self.history.leave_out(1, surplus.saturating_add(1));
        self.open_with(shortened.opening.clone());
    }

    /// What it waits for, asked anew.
    pub(crate) fn asks_again(&mut self) -> Option<Command> {
        match self.phase {
            Phase::Asking { .. } => Some(self.ask_now()),
            Phase::Idle | Phase::Acting(_) | Phase::Summarising { .. } => None,
        }
    }

    pub(super) fn take_summary(&mut self, cut: usize, reply: &ModelReply) -> Command {
        self.usage = self.usage.plus(reply.usage);
        self.run.usage = self.run.usage.plus(reply.usage);
        let most = usize::try_from(self.summary_tokens().0.saturating_mul(MOST_BYTES)).unwrap_or(usize::MAX);
        let summary = match summary_of(reply, most) {
            Ok(text) if text.is_empty() => {
                Err((SummaryFault::EmptyResponse, "the model said nothing".to_owned()))
            }
            Ok(text) => Ok(text),
            Err(what) => Err((SummaryFault::ReplyParseError, what.to_owned())),
        };
        self.go_on_without(cut, summary)
    }

    pub(super) fn lack_summary(&mut self, cut: usize, failure: ModelFailure) -> Command {
        let reason = match failure.kind {
            ModelFailureKind::EmptyReply => SummaryFault::EmptyResponse,
            _ => SummaryFault::LlmCallFailed,
        };
        self.go_on_without(cut, Err((reason, failure.message)))
    }

    fn go_on_without(&mut self, cut: usize, summary: Result<String, (SummaryFault, String)>) -> Command {
        let fault = match summary {
            Ok(text) => {
                let message = format!("the summary ({} bytes) is longer than what it is of", text.len());
                if let Some(shortened) = self.shorten(cut, Some(text)) {
                    self.noted.push_back(Event::ContextSummarized { shortened });
                    return self.ask_now();
                }
                (SummaryFault::ReplyParseError, message)
            }
            Err(fault) => fault,
        };
        let ((reason, message), shortened) = (fault, self.shorten(cut, None));
        self.noted.push_back(Event::ContextSummarizationFailed { reason, message, shortened });
        self.ask_now()
    }

    /// Leaves out what stands before the cut. None, and nothing done, where that makes the conversation no shorter, or
    /// where it does not fit with this summary.
    fn shorten(&mut self, cut: usize, summary: Option<String>) -> Option<Shortened> {
        let (before, turns_before) = (self.request_size(), self.first_turn());
        let is_reply = |message: &Message| matches!(message, Message::Assistant { .. });
        // Entries that do not fit together may name any cut.
        let cut =
            (cut..self.history.len()).find(|at| is_reply(&self.history[*at])).unwrap_or(self.history.len());
        let kept = self.history.get(cut..).unwrap_or_default();
        let to_turn = self.turns.saturating_sub(replies_in(kept));
        let kept_size = self.history.size_from(cut).plus(self.fixed_size());
        let size_with = |opening: &Opening| text_size(&opening_text(opening)).plus(kept_size);
        let is_new = summary.is_some();
        let mut opening = self.opening_after(cut, to_turn, summary);
        // Judged also where a record decides: it may say the same later, and what it says holds.
        let fits = |opening: &Opening| self.fits_window(size_with(opening));
        if !is_new && !fits(&opening) {
            (opening.summary, opening.summary_turns) = (None, None);
        }
        if !is_new && !fits(&opening) {
            opening.excerpts.clear();
        }
        let size = size_with(&opening);
        if size >= before || (is_new && !self.fits_window(size)) {
            return None;
        }
        let keeps = kept.len() as u64;
        self.history.leave_out(1, cut.max(1));
        self.open_with(opening.clone());
        let (tokens_before, tokens_after) = (self.meter.estimate(before), self.meter.estimate(size));
        Some(Shortened { opening, from_turn: turns_before, to_turn, keeps, tokens_before, tokens_after })
    }

    /// What stands for what goes: without a summary of it the older one, and how the words began that it is not of.
    fn opening_after(&self, cut: usize, turns: u64, summary: Option<String>) -> Opening {
        let Words { kept: words, dropped } = self.words(cut);
        let readable = self.tools.iter().any(|tool| tool.name.as_str() == HistoryRead::NAME);
        if summary.is_some() {
            return Opening { words, summary, turns, readable, ..Opening::default() };
        }
        let had = self.opening.clone().unwrap_or_default();
        let summary_turns = had.summary.as_ref().map(|_| had.summary_turns.unwrap_or(had.turns));
        let mut excerpts = had.excerpts;
        excerpts.extend(dropped.iter().map(|text| excerpt(text, EXCERPT_BYTES)));
        let most = self.meter.bytes_in(Tokens(self.config.context_window.0 / EXCERPTS_SHARE));
        let mut size = Bytes::ZERO;
        let fit = excerpts.iter().rev().take_while(|text| {
            size = size.plus(text_size(text));
            size <= most
        });
        let surplus = excerpts.len() - fit.count();
        excerpts.drain(..surplus);
        Opening { words, summary: had.summary, turns, summary_turns, excerpts, readable }
    }

    fn open_with(&mut self, opening: Opening) {
        let text = opening_text(&opening);
        self.history.begin_with(Message::User { text });
        self.opening = Some(opening);
    }

    /// The first turn that is there as it was.
    fn first_turn(&self) -> u64 {
        self.turns.saturating_sub(replies_in(&self.history)).saturating_add(1)
    }

    fn ask_for_summary(&mut self, cut: usize) -> Command {
        self.phase = Phase::Summarising { cut };
        let tokens = self.summary_tokens();
        let room = Tokens(self.config.context_window.0 / 4 * TRANSCRIPT_QUARTERS);
        let had = self.opening.as_ref().and_then(|opening| opening.summary.as_deref());
        let gone = self.history.get(1..cut).unwrap_or_default();
        let mut words = self.opening.as_ref().map(|opening| opening.excerpts.clone()).unwrap_or_default();
        words.extend(self.words(cut).dropped);
        let whole = transcript(had, &words, gone, usize::MAX);
        let text = match self.part_within(&whole, room) {
            most if most < whole.len() => transcript(had, &words, gone, most),
            _ => whole,
        };
        Command::Ask(Box::new(ModelRequest {
            model: self.config.summarization_model.as_ref().unwrap_or_else(|| self.model()).clone(),
            system: SUMMARY_PROMPT.to_owned(),
            messages: vec![Message::User { text }],
            tools: Vec::new(),
            max_output_tokens: tokens,
            narrowed: None,
        }))
    }

    /// How many bytes of a text so many tokens hold, if each byte is as heavy as another.
    fn part_within(&self, text: &str, room: Tokens) -> usize {
        let (room, all) = (self.meter.bytes_in(room), weigh(text));
        let part = text.len() as u128 * u128::from(room.0) / u128::from(all.0.max(1));
        usize::try_from(part).unwrap_or(usize::MAX)
    }

    /// Before which message the conversation is cut: so that little enough is left, else as late as can be.
    fn boundary(&self) -> Option<usize> {
        let cuts = self.cuts();
        let sizes = self.sizes_after(&cuts);
        let most = if self.has_too_many() { self.most_messages() / 2 } else { usize::MAX };
        let target = self.target();
        let is_small =
            |at: &usize| self.history.len() - cuts[*at] <= most && self.meter.estimate(sizes[*at]) <= target;
        let at = (0..cuts.len()).find(is_small).or(cuts.len().checked_sub(1))?;
        let size = self.request_size();
        let gain = Tokens(self.config.context_window.0 / GAIN_SHARE);
        let is_worth_it = self.meter.estimate(sizes[at]).plus(gain) <= self.meter.estimate(size);
        let is_wanted = is_worth_it || self.has_too_many() || !self.fits(size);
        // A summary may be short; where not even none is short enough, none is paid for.
        let least = sizes[at].minus(self.meter.bytes_in(self.summary_tokens()));
        (is_wanted && self.fits(least)).then_some(cuts[at])
    }

    /// Where the conversation can be cut: before a reply, with another one before that, or behind everything where that
    /// ends in a message; the turn whose results came last stays.
    fn cuts(&self) -> Vec<usize> {
        let len = self.history.len();
        let is_reply = |at: usize| matches!(self.history.get(at), Some(Message::Assistant { .. }));
        let Some(first) = (0..len).find(|at| is_reply(*at)) else {
            // Nothing but messages, of runs that came to nothing: what they say can still be too much.
            return if len > 1 { vec![len] } else { Vec::new() };
        };
        let ends_in_results = matches!(self.history.last(), Some(Message::ToolResults { .. }));
        let last = if ends_in_results { len.saturating_sub(2) } else { len };
        (first + 1..=last).filter(|at| *at == len || is_reply(*at)).collect()
    }

    /// The sizes of the request, at most, after these cuts.
    fn sizes_after(&self, cuts: &[usize]) -> Vec<Bytes> {
        let most = self.meter.bytes_in(self.words_tokens());
        let around =
            self.meter.bytes_in(self.summary_tokens()).plus(Bytes(NOTE_BYTES)).plus(self.fixed_size());
        let first: Vec<Bytes> = self.first_words().map(text_size).collect();
        let goal = first.first().copied().unwrap_or(Bytes::ZERO);
        let mut words = first.iter().copied().fold(Bytes::ZERO, Bytes::plus);
        let mut last = first.last().copied().unwrap_or(Bytes::ZERO);
        let mut left = self.history.size_from(1);
        let mut at = 1;
        let size = |cut: &usize| {
            for (message, size) in self.history.sized().take(*cut).skip(at) {
                left = left.minus(size);
                if let Message::User { .. } = message {
                    last = size;
                    words = words.plus(last);
                }
            }
            at = *cut;
            let most = if last > most { most.plus(last) } else { most.max(goal.min(most).plus(last)) };
            left.plus(words.min(most)).plus(around)
        };
        cuts.iter().map(size).collect()
    }

    /// What was said that the conversation begins with.
    fn first_words(&self) -> impl Iterator<Item = &str> {
        let own = self.opening.as_ref().map(|opening| opening.words.as_slice()).unwrap_or_default();
        let first = self.history.first().filter(|_| self.opening.is_none()).and_then(text_of);
        own.iter().map(String::as_str).chain(first)
    }

    /// What was said before a cut: as much of it as may stay word for word. The last of it always may, and the first
    /// unless that alone is too much.
    fn words(&self, cut: usize) -> Words {
        let later = self.history.iter().take(cut).skip(1).filter_map(text_of);
        let said: Vec<&str> = self.first_words().chain(later).collect();
        let most = self.meter.bytes_in(self.words_tokens());
        let newest = said.len().saturating_sub(1);
        let is_too_much = |at: usize| text_size(said[at]) > most;
        // What is too much by itself does not cost the others their place.
        let counted = (0..said.len()).filter(|at| !is_too_much(*at));
        let mut size = counted.map(|at| text_size(said[at])).fold(Bytes::ZERO, Bytes::plus);
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        for (at, text) in said.iter().enumerate() {
            let is_surplus = at != 0 && size > most && !is_too_much(at);
            if at != newest && (is_surplus || is_too_much(at)) {
                size = if is_surplus { size.minus(text_size(text)) } else { size };
                dropped.push((*text).to_owned());
            } else {
                kept.push((*text).to_owned());
            }
        }
        Words { kept, dropped }
    }

    fn words_tokens(&self) -> Tokens {
        Tokens(self.config.context_window.0 / WORDS_SHARE)
    }

    fn summary_tokens(&self) -> Tokens {
        Tokens((self.config.context_window.0 / SUMMARY_SHARE).clamp(1, MAX_SUMMARY_TOKENS))
    }

    /// What the conversation is to take afterwards.
    fn target(&self) -> Tokens {
        let window = self.config.context_window;
        let due = self.config.summarization_threshold.map_or(window, |threshold| threshold.tokens(window));
        Tokens(window.0.saturating_mul(LEFT) / 100).min(Tokens(due.0.saturating_mul(LEFT_OF_SEVEN) / 7))
    }
}

fn replies_in(messages: &[Message]) -> u64 {
    messages.iter().filter(|message| matches!(message, Message::Assistant { .. })).count() as u64
}

fn text_of(message: &Message) -> Option<&str> {
    match message {
        Message::User { text } => Some(text),
        Message::Assistant { .. } | Message::ToolResults { .. } => None,
    }
}
