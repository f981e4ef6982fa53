//! What a model may say: text, or text and then calls of offered tools with arguments that fit their schemas.
//!
//! Invariants: a call that was said whole names an offered tool, and its arguments are JSON that the tool's schema
//! allows; a schema that cannot be held is refused by name and never held loosely; control tokens are never allowed but
//! the one that ends the turn, and that only where a reply may end.

use std::collections::VecDeque;

use aaos_core::model::ToolSpec;
use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{InferenceCapabilities, SimpleVob};

use crate::error::{AnswerError, FileError, Shown};
use crate::tokens::{Mark, Token, Vocabulary};

/// Grammars that are kept compiled.
const KEPT_GRAMMARS: usize = 8;
/// Most calls of one reply.
const MAX_CALLS: usize = 8;
/// Most states of a grammar's lexer; each takes 1 to 2 kB.
const MAX_LEXER_STATES: usize = 30_000;
/// Most symbols of a grammar.
const MAX_GRAMMAR_SYMBOLS: usize = 200_000;

/// Makes grammars for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    /// The latest last, each with the words that it was made of.
    kept: VecDeque<(String, Matcher)>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Grammars({} kept)", self.kept.len())
    }
}

/// How far a reply has got in its grammar.
pub struct Speech(Matcher);

impl std::fmt::Debug for Speech {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Speech({:?})", self.0.stop_reason())
    }
}

impl Grammars {
    /// For `vocabulary`.
    ///
    /// # Errors
    /// [`FileError::Vocabulary`] when the library refuses it.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, FileError> {
        let refused = |error: anyhow::Error| FileError::Vocabulary(Shown::new(&error.to_string()));
        let able = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&vocabulary.for_grammars(), able, &slices).map_err(refused)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.max_grammar_size = MAX_GRAMMAR_SYMBOLS;
        limits.verbose_errors = false;
        Ok(Self { factory, kept: VecDeque::new() })
    }

    /// Begins a reply that may call these tools.
    ///
    /// # Errors
    /// [`AnswerError::Schema`] when one tool's schema cannot be held, [`AnswerError::Grammar`] when all together cannot.
    pub fn begin(&mut self, tools: &[ToolSpec]) -> Result<Speech, AnswerError> {
        let words = words(tools);
        if let Some(place) = self.kept.iter().position(|(known, _)| *known == words)
            && let Some(found) = self.kept.remove(place)
        {
            let speech = Speech(found.1.deep_clone());
            self.kept.push_back(found);
            return Ok(speech);
        }
        let matcher = self.compile(&words).map_err(|all| self.blame(tools, all))?;
        if self.kept.len() == KEPT_GRAMMARS {
            self.kept.pop_front();
        }
        let speech = Speech(matcher.deep_clone());
        self.kept.push_back((words, matcher));
        Ok(speech)
    }

    fn compile(&self, words: &str) -> Result<Matcher, Shown> {
        let mut matcher =
            Matcher::new(self.factory.create_parser(TopLevelGrammar::from_lark(words.to_owned())));
        if let Err(error) = matcher.compute_mask() {
            return Err(Shown::new(&matcher.get_error().unwrap_or_else(|| error.to_string())));
        }
        // What was asked of it only to see whether it can be held is forgotten.
        matcher.reset().map_err(|error| Shown::new(&error.to_string()))?;
        Ok(matcher)
    }

    /// Finds the tool whose schema alone cannot be held.
    fn blame(&self, tools: &[ToolSpec], all: Shown) -> AnswerError {
        for tool in tools {
            if let Err(why) = self.compile(&words(std::slice::from_ref(tool))) {
                return AnswerError::Schema { tool: Shown::new(tool.name.as_str()), why };
            }
        }
        AnswerError::Grammar(all)
    }
}

impl Speech {
    /// The tokens that may come next.
    ///
    /// # Errors
    /// [`AnswerError::Compute`] when the grammar has grown over its limits.
    pub fn allowed(&mut self) -> Result<Allowed, AnswerError> {
        Ok(Allowed(self.0.compute_mask_or_eos().map_err(|error| failed(&error))?))
    }

    /// Tells which token was chosen, and gives those that can only follow it, already taken.
    ///
    /// # Errors
    /// [`AnswerError::Compute`] when it was not allowed.
    pub fn say(&mut self, token: Token) -> Result<Vec<u32>, AnswerError> {
        self.0.consume_token(token.0).map_err(|error| failed(&error))?;
        Ok(self.0.consume_ff_tokens())
    }

    /// Whether nothing can follow but the end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_stopped()
    }
}

/// A set of tokens.
#[derive(Debug)]
pub struct Allowed(SimpleVob);

impl Allowed {
    /// Whether a token is in it.
    #[must_use]
    pub fn has(&self, token: Token) -> bool {
        (token.0 as usize) < self.0.len() && self.0.is_allowed(token.0)
    }
}

fn failed(error: &anyhow::Error) -> AnswerError {
    AnswerError::Compute(Shown::new(&error.to_string()))
}

/// The grammar in the library's words. A call begins at the first mark: text before it ends there (`lazy`), and text
/// without a call never has the mark in it.
fn words(tools: &[ToolSpec]) -> String {
    let begins = Mark::CallBegins.text();
    let free = format!("TEXT: /(?s:.)+/ & ~/(?s:.*){begins}(?s:.*)/\n");
    if tools.is_empty() {
        return format!("start: TEXT\n{free}");
    }
    let (ends, more) = (Mark::CallEnds.text(), MAX_CALLS - 1);
    let calls: Vec<String> = (0..tools.len()).map(|number| format!("call_{number}")).collect();
    let mut words = format!(
        "start: TEXT | opening call ( \"\\n{begins}\" call ){{0,{more}}}\nopening[lazy]: /(?s:.*){begins}/\n{free}\
         call: {}\n",
        calls.join(" | ")
    );
    for (tool, call) in tools.iter().zip(&calls) {
        let name = json!(tool.name.as_str()).to_string();
        let head = json!(format!("\n{{\"name\": {name}, \"arguments\": ")).to_string();
        let tail = json!(format!("}}\n{ends}")).to_string();
        let schema = schema(&tool.input_schema);
        words
            .push_str(&format!("{call}: {head} arguments_{call} {tail}\narguments_{call}: %json {schema}\n"));
    }
    words
}

/// A tool's schema with what the library is told about it: how JSON is spaced, as models were taught to write it. What the
/// schema itself says to the library is not heard.
fn schema(given: &Value) -> Value {
    let mut schema = given.clone();
    if let Value::Object(fields) = &mut schema {
        let spacing = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        fields.insert("x-guidance".to_owned(), spacing);
    }
    schema
}
