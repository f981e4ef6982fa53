//! What a model may say: text, or text and then calls of offered tools with arguments that fit their schemas.
//!
//! Invariants: a call that was said whole names an offered tool, and its arguments are JSON that the tool's schema
//! allows; a schema that cannot be held is refused by name and never held loosely; control tokens are never allowed but
//! the one that ends the turn, and that only where a reply may end.

use std::collections::VecDeque;

use aaos_core::model::{Narrowed, ToolSpec};
use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{InferenceCapabilities, SimpleVob};

use crate::error::{AnswerError, FileError, Shown};
use crate::form;
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

    /// Begins a reply that may call these tools, or less where it is narrowed.
    ///
    /// # Errors
    /// [`AnswerError::Schema`] when one tool's schema cannot be held, [`AnswerError::Grammar`] when all together cannot.
    pub fn begin(&mut self, tools: &[ToolSpec], narrowed: Option<&Narrowed>) -> Result<Speech, AnswerError> {
        let calls = Calls::of(tools, narrowed);
        let words = calls.words();
        if let Some(place) = self.kept.iter().position(|(known, _)| *known == words)
            && let Some(found) = self.kept.remove(place)
        {
            let speech = Speech(found.1.deep_clone());
            self.kept.push_back(found);
            return Ok(speech);
        }
        let matcher = self.compile(&words).map_err(|all| self.blame(&calls, all))?;
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
    fn blame(&self, calls: &Calls<'_>, all: Shown) -> AnswerError {
        for (tool, schema) in &calls.callable {
            let alone = Calls { callable: vec![(*tool, *schema)], ..calls.clone() };
            if let Err(why) = self.compile(&alone.words()) {
                return AnswerError::Schema { tool: Shown::new(tool), why };
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

/// What may be called in one reply.
#[derive(Debug, Clone)]
struct Calls<'a> {
    /// The names of all tools on offer, whose calls are no text.
    offered: Vec<&'a str>,
    /// Those that may be called, each with the schema of its arguments.
    callable: Vec<(&'a str, &'a Value)>,
    /// Calls of one reply, at most.
    most: usize,
    /// Whether it may be text, or text and then calls.
    may_say: bool,
    /// What text begins with: anything, or words where the reply is narrowed, so that no broken call is an answer.
    text: &'static str,
    /// What stands before a call: anything, or where the reply is narrowed plain words, so that a call that is not left is
    /// not taken for them.
    before: &'static str,
}

/// Any text.
const ANY_TEXT: &str = "(?s:.)+";
/// Text that begins neither as JSON nor as a block or a mark does.
const WORDS: &str = r"[^ \t\r\n\{\[<`](?s:.)*";

impl<'a> Calls<'a> {
    fn of(tools: &'a [ToolSpec], narrowed: Option<&'a Narrowed>) -> Self {
        let offered: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
        match narrowed {
            None => {
                let callable = tools.iter().map(|tool| (tool.name.as_str(), &tool.input_schema)).collect();
                Self {
                    offered,
                    callable,
                    most: MAX_CALLS,
                    may_say: true,
                    text: ANY_TEXT,
                    before: form::ANYTHING,
                }
            }
            Some(narrowed) => {
                let on_offer = narrowed.calls.iter().filter(|call| offered.contains(&call.tool.as_str()));
                let callable: Vec<_> =
                    on_offer.map(|call| (call.tool.as_str(), &call.input_schema)).collect();
                let may_say = narrowed.may_answer || callable.is_empty();
                Self { offered, callable, most: 1, may_say, text: WORDS, before: form::PLAIN_WORDS }
            }
        }
    }

    /// The grammar in the library's words. A call begins where one of its forms does: text before it ends there (`lazy`),
    /// and text without a call never has such a beginning in it.
    fn words(&self) -> String {
        let marked = form::marked(form::ANYTHING);
        let forms = match self.offered.as_slice() {
            [] => marked.clone(),
            offered => {
                format!("({marked}|{}|{})", form::fenced(form::ANYTHING, offered), form::bare(offered))
            }
        };
        let text = format!("TEXT: /{}/ & ~/{forms}(?s:.*)/\n", self.text);
        if self.callable.is_empty() {
            return format!("start: TEXT\n{text}");
        }
        let begins = Mark::CallBegins.text();
        let further = match self.most {
            // A repetition has a last number of 1 or more.
            0 | 1 => String::new(),
            most => format!("( \"\\n{begins}\" call ){{0,{}}}", most - 1),
        };
        let mut words = match self.may_say {
            true => format!(
                "start: TEXT | opening call {further} | {} | {}\nopening[lazy]: /{}/\n{text}\
                 GAP: /[ \\n]{{1,8}}/\nFENCED_END: /{}/\nBARE_END: /{}/\n",
                self.each("fenced"),
                self.each("bare"),
                form::marked(self.before),
                form::FENCED_END,
                form::BARE_END,
            ),
            false => format!("start: \"{begins}\" call\n"),
        };
        words.push_str(&format!("call: {}\n", self.each("call")));
        for (number, (tool, schema)) in self.callable.iter().enumerate() {
            words.push_str(&self.call(number, tool, schema));
        }
        words
    }

    /// The rules of calls of one tool.
    fn call(&self, number: usize, tool: &str, input_schema: &Value) -> String {
        let head = json!(format!("\n{{\"name\": {}, \"arguments\": ", json!(tool))).to_string();
        let tail = json!(format!("}}\n{}", Mark::CallEnds.text())).to_string();
        let schema = schema(input_schema);
        let mut rules =
            format!("call_{number}: {head} arguments_{number} {tail}\narguments_{number}: %json {schema}\n");
        if self.may_say {
            let (fenced, bare) = (form::fenced(self.before, &[tool]), form::bare(&[tool]));
            rules.push_str(&format!(
                "fenced_{number}: fence_{number} GAP? arguments_{number} FENCED_END\n\
                 bare_{number}: brace_{number} GAP? arguments_{number} BARE_END\n\
                 fence_{number}[lazy]: /{fenced}/\nbrace_{number}[lazy]: /{bare}/\n"
            ));
        }
        rules
    }

    /// The rules of one form, any of them.
    fn each(&self, form: &str) -> String {
        let each: Vec<String> = (0..self.callable.len()).map(|number| format!("{form}_{number}")).collect();
        each.join(" | ")
    }
}

/// A tool's schema with what the library is told about it: how JSON is spaced, as models were taught to write it, and that
/// what is chosen from a list is said before what is written freely. What the schema itself says to the library is not
/// heard.
fn schema(given: &Value) -> Value {
    let mut schema = given.clone();
    if let Value::Object(fields) = &mut schema {
        if let Some(Value::Object(properties)) = fields.get_mut("properties") {
            let (chosen, free): (Vec<_>, Vec<_>) =
                std::mem::take(properties).into_iter().partition(|(_, one)| one.get("enum").is_some());
            properties.extend(chosen.into_iter().chain(free));
        }
        let spacing = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        fields.insert("x-guidance".to_owned(), spacing);
    }
    schema
}
