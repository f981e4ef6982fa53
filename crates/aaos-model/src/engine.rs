//! A loaded model that answers requests, one at a time.
//!
//! Invariants: what a reply used is counted exactly; a prompt that begins as an earlier one did costs only what is new,
//! and gives the same as if nothing had been kept; a request that ended early leaves whole tokens behind and nothing else.

use std::fs::File;

use aaos_core::model::{ModelReply, ModelRequest, ModelStop, Usage};
use aaos_core::quantity::Tokens;

use crate::cache::Sequence;
use crate::control::Control;
use crate::decoder::Decoder;
use crate::error::{AnswerError, FileError};
use crate::gguf::{Header, Value};
use crate::grammar::Grammars;
use crate::prompt::prompt;
use crate::reply::{Heard, Said};
use crate::sampler::{Choice, Sampler};
use crate::shape::ModelShape;
use crate::tokens::{Token, Vocabulary};
use crate::weights::Weights;

/// Sequences that are kept at once where there is memory: a parent's and a child's.
const MAX_SEQUENCES: usize = 2;
/// Tokens that are rather copied than computed again: about a second's work of the largest models here.
const WORTH_KEEPING: usize = 64;
/// What is kept of sequences takes at most the file's length over this,
const KEPT_SHARE: u64 = 3;
/// or so many bytes, whichever is more.
const KEPT_LEAST_BYTES: u64 = 64 * 1024 * 1024;
/// The shortest window that is of use.
const LEAST_WINDOW: usize = 256;

/// What can be told of a file without loading it.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The name that the file gives the model; a stranger's word.
    pub name: Option<String>,
    /// How it is built.
    pub shape: ModelShape,
    /// Weights.
    pub parameters: u64,
    /// Tokens of the window that it gets.
    pub window: usize,
}

/// What is asked of the loading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Length of the file.
    pub file_bytes: u64,
    /// The longest window that is wanted.
    pub window: usize,
    /// How tokens are chosen.
    pub choice: Choice,
}

/// A model that answers.
#[derive(Debug)]
pub struct Engine {
    decoder: Decoder,
    vocabulary: Vocabulary,
    grammars: Grammars,
    /// The one used last stands last.
    sequences: Vec<Sequence>,
    settings: Settings,
    facts: Facts,
}

/// Reads and checks a file's header, its numbers and its vocabulary, without its weights.
///
/// # Errors
/// [`FileError`] when it is no model that can be loaded.
pub fn check(file: &File, settings: Settings) -> Result<(Facts, Header, Vocabulary), FileError> {
    let header = Header::read(file, settings.file_bytes)?;
    let shape = ModelShape::of(&header)?;
    let vocabulary = Vocabulary::read(&header)?;
    Weights::check(&header, &shape, vocabulary.len())?;
    let name = match header.value("general.name") {
        Some(Value::Text(name)) => Some(name.clone()),
        _ => None,
    };
    let window = window(&shape, settings);
    if window < LEAST_WINDOW {
        return Err(FileError::Over {
            what: "the memory that a model keeps of its tokens",
            found: (LEAST_WINDOW * Sequence::bytes_per_token(&shape)) as u64,
            most: kept_bytes(settings),
        });
    }
    Ok((Facts { name, parameters: header.parameters(), window, shape }, header, vocabulary))
}

/// Tokens that fit into what the file, the wish and the memory allow.
fn window(shape: &ModelShape, settings: Settings) -> usize {
    let fits = kept_bytes(settings) / Sequence::bytes_per_token(shape) as u64;
    settings.window.min(shape.window).min(usize::try_from(fits).unwrap_or(usize::MAX))
}

fn kept_bytes(settings: Settings) -> u64 {
    (settings.file_bytes / KEPT_SHARE).max(KEPT_LEAST_BYTES)
}

impl Engine {
    /// Loads a model.
    ///
    /// # Errors
    /// [`FileError`] when the file is none that can be loaded.
    pub fn load(file: &File, settings: Settings) -> Result<Self, FileError> {
        let (facts, header, vocabulary) = check(file, settings)?;
        let weights = Weights::read(file, &header, &facts.shape, vocabulary.len())?;
        drop(header);
        let each = (Sequence::bytes_per_token(&facts.shape) * facts.window) as u64;
        let count =
            usize::try_from(kept_bytes(settings) / each).unwrap_or(usize::MAX).clamp(1, MAX_SEQUENCES);
        let sequences = (0..count).map(|_| Sequence::new(&facts.shape, facts.window)).collect();
        Ok(Self {
            grammars: Grammars::new(&vocabulary)?,
            decoder: Decoder::new(facts.shape.clone(), weights, facts.window)?,
            vocabulary,
            sequences,
            settings,
            facts,
        })
    }

    /// What was loaded.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The model's vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Answers a request; `tell` gets the prose as it is said.
    ///
    /// # Errors
    /// [`AnswerError`] when there is no reply.
    pub fn answer(
        &mut self,
        request: &ModelRequest,
        control: &Control,
        tell: &mut dyn FnMut(&str),
    ) -> Result<ModelReply, AnswerError> {
        let window = self.facts.window;
        let tokens = self.vocabulary.encode_all(&prompt(&self.vocabulary, request), window - 1)?;
        control.check()?;
        let mut speech = self.grammars.begin(&request.tools, request.narrowed.as_ref())?;
        let sequence = pick(&mut self.sequences, &tokens);
        let cached = sequence.common(&tokens).min(tokens.len() - 1);
        sequence.truncate(cached);
        let room =
            usize::try_from(request.max_output_tokens.0).unwrap_or(usize::MAX).min(window - tokens.len());
        let mut sampler = Sampler::new(self.settings.choice);
        let mut said = Said::new(&request.tools);
        let mut next = tokens[cached..].to_vec();
        let mut count = 0;
        let stop = loop {
            if count >= room {
                break ModelStop::MaxTokens;
            }
            let scores = self.decoder.advance(sequence, &next, control)?;
            let allowed = speech.allowed()?;
            let token = sampler.choose(&scores, |one| allowed.has(one))?;
            count += 1;
            if self.vocabulary.is_end(token) {
                break ModelStop::EndTurn;
            }
            next = vec![token.0];
            next.extend(speech.say(token)?);
            next.truncate(1 + room - count);
            count += next.len() - 1;
            for token in &next {
                said.hear(self.vocabulary.bytes(Token(*token))).into_iter().for_each(&mut *tell);
            }
            if speech.is_over() {
                break ModelStop::EndTurn;
            }
        };
        said.rest().into_iter().for_each(tell);
        let usage = Usage {
            input_tokens: Tokens(tokens.len() as u64),
            output_tokens: Tokens(count as u64),
            cached_input_tokens: Tokens(cached as u64),
        };
        Ok(finish(said.heard(), stop, usage))
    }
}

fn finish(heard: Heard, stop: ModelStop, usage: Usage) -> ModelReply {
    let Heard { text, calls } = heard;
    let stop = match stop {
        ModelStop::EndTurn if !calls.is_empty() => ModelStop::ToolUse,
        other => other,
    };
    ModelReply { text, reasoning: None, thinking: Vec::new(), calls, stop, usage }
}

/// A sequence for a prompt, which becomes the one used last: the one that has most of it already, unless more would be
/// forgotten there than is worth keeping; then the one used longest ago, with a copy of what both begin with.
fn pick<'a>(sequences: &'a mut [Sequence], prompt: &[u32]) -> &'a mut Sequence {
    let best = sequences.iter().enumerate().max_by_key(|(_, one)| one.common(prompt)).map_or(0, |(at, _)| at);
    let common = sequences[best].common(prompt);
    let lost = sequences[best].tokens().len() - common;
    if lost <= WORTH_KEEPING || best == 0 && sequences.len() == 1 {
        sequences[best..].rotate_left(1);
    } else {
        let oldest = usize::from(best == 0);
        let [one, other] =
            sequences.get_disjoint_mut([oldest, best]).unwrap_or_else(|_| unreachable!("two of them"));
        if one.common(prompt) < common {
            one.copy(other, common);
        }
        sequences[oldest..].rotate_left(1);
    }
    sequences.last_mut().unwrap_or_else(|| unreachable!("there is at least one sequence"))
}
