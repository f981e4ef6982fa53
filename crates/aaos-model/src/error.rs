//! What can go wrong with a model's file and with a request to it.
//!
//! Invariant: a file is a stranger's: whatever its bytes are, reading it ends in one of these and never in a panic, and
//! no message repeats more of the file than a bounded name.

use std::fmt;

/// Most characters of a stranger's text that a message repeats.
const SHOWN_CHARS: usize = 160;

/// A name that a file gave, fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    /// As much of `name` as is shown, without control characters.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.chars().filter(|one| !one.is_control()).take(SHOWN_CHARS).collect())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}`", self.0)
    }
}

/// Why a file is no model that can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("the model's file could not be read")]
    Io(#[from] std::io::Error),
    /// It does not begin as a GGUF file does.
    #[error("this is no GGUF file; convert the model to GGUF first")]
    NotGguf,
    /// A version that is not read here.
    #[error("GGUF version {0} is not supported; versions 2 and 3 are")]
    Version(u32),
    /// It ends before something that it announces.
    #[error("the file ends at byte {end} inside {what}; fetch it again")]
    Cut {
        /// What was being read.
        what: &'static str,
        /// Where it ends.
        end: u64,
    },
    /// A number of the file is over its limit.
    #[error("{what} is {found}, at most {most} is supported")]
    Over {
        /// Of what.
        what: &'static str,
        /// How much.
        found: u64,
        /// How much may be.
        most: u64,
    },
    /// A value or tensor stands there twice.
    #[error("{0} stands in the file twice")]
    Twice(Shown),
    /// A value that is needed is not there.
    #[error("the file says nothing of `{0}`")]
    Missing(String),
    /// A value that is needed is of another type or out of its range.
    #[error("the file's `{key}` is not usable: {why}")]
    Value {
        /// Which.
        key: String,
        /// Why.
        why: &'static str,
    },
    /// Text that is not UTF-8.
    #[error("{0} of the file is not UTF-8")]
    NotText(&'static str),
    /// An unknown type of a value.
    #[error("{key} is of value type {found}, which GGUF does not have")]
    ValueType {
        /// Which value.
        key: Shown,
        /// Its type's number.
        found: u32,
    },
    /// A tensor's encoding that is not read here.
    #[error("tensor {tensor} has encoding {found}, which is not supported")]
    Encoding {
        /// Which tensor.
        tensor: Shown,
        /// The encoding's number.
        found: u32,
    },
    /// A tensor that is needed is not there.
    #[error("the file has no tensor `{0}`")]
    NoTensor(String),
    /// A tensor of another shape than the model's numbers say, or that lies outside the file.
    #[error("tensor {tensor} is not usable: {why}")]
    Tensor {
        /// Which tensor.
        tensor: Shown,
        /// Why.
        why: &'static str,
    },
    /// A kind of model that is not known here.
    #[error("{what} {found} is not supported; supported are: {known}")]
    Unsupported {
        /// What about it.
        what: &'static str,
        /// What the file says.
        found: Shown,
        /// What could be.
        known: &'static str,
    },
    /// The tokenizer could not be made of the file's vocabulary.
    #[error("the file's vocabulary is not usable: {0}")]
    Vocabulary(Shown),
    /// The library refused the weights.
    #[error("the weights are not usable: {0}")]
    Weights(Shown),
}

impl From<candle_core::Error> for FileError {
    fn from(error: candle_core::Error) -> Self {
        Self::Weights(Shown::new(&error.to_string()))
    }
}

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It was cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// Its time ran out.
    #[error("no complete answer in time")]
    OutOfTime,
    /// The prompt leaves no room in the window.
    #[error(
        "the conversation has at least {tokens} tokens, the local model's window has room for {window}; shorten it"
    )]
    Window {
        /// Tokens of the prompt, or fewer where it was not read to its end.
        tokens: usize,
        /// Tokens of the window.
        window: usize,
    },
    /// A tool's schema cannot be held as a grammar.
    #[error("the local model cannot be offered tool {tool}: {why}")]
    Schema {
        /// Which tool.
        tool: Shown,
        /// Why.
        why: Shown,
    },
    /// Every tool alone can be held, all together cannot.
    #[error("the tools on offer are too much for one grammar: {0}; offer fewer")]
    Grammar(Shown),
    /// The numbers that came out are no numbers.
    #[error("the model computed no usable number; its file may be damaged")]
    NotFinite,
    /// The library failed.
    #[error("the local model's computation failed: {0}")]
    Compute(Shown),
}

impl From<candle_core::Error> for AnswerError {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(Shown::new(&error.to_string()))
    }
}
