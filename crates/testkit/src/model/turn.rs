//! One scripted turn of a model: what it says, calls, or does wrong.
//!
//! Invariant: a turn is rendered from its own data and the request only, so a script replays byte for byte.

use crate::Gate;
use crate::http::{Body, Ending, Reply};
use serde_json::Value;

/// What the scripted model does with one request.
#[derive(Debug, Clone)]
pub enum Turn {
    /// Answers with text and stops.
    Say {
        /// The answer.
        text: String,
    },
    /// Calls tools, with arguments as JSON.
    Call(Vec<(String, Value)>),
    /// Says something and calls tools in the same reply.
    SayAndCall {
        /// Said before the calls.
        text: String,
        /// Tool names and arguments.
        calls: Vec<(String, Value)>,
    },
    /// Calls a tool with exactly this argument text, which need not be JSON.
    RawCall {
        /// Tool name.
        tool: String,
        /// Sent as is.
        arguments: String,
    },
    /// Answers with text that the token limit cut off.
    Truncated {
        /// What came before the limit.
        text: String,
    },
    /// An HTTP error.
    Status {
        /// Status code.
        code: u16,
        /// Value of the `Retry-After` header, as sent.
        retry_after: Option<String>,
    },
    /// Takes the request and never answers.
    Hang,
    /// Streams the first events of an answer, then nothing more.
    HangMidStream {
        /// The whole answer.
        text: String,
        /// Events that go out.
        after_events: usize,
    },
    /// Streams the first events of an answer, then ends.
    CutStream {
        /// The whole answer.
        text: String,
        /// Events that go out.
        after_events: usize,
        /// Whether HTTP itself shows the cut.
        cut: CutAs,
    },
    /// Status 200 and a body that is not JSON.
    MalformedJson,
    /// The inner turn, once the test opens the gate.
    Gated(Gate, Box<Turn>),
    /// The inner turn, with this usage report instead of an estimate.
    Metered(ReportedUsage, Box<Turn>),
    /// The inner turn, with this reason to stop instead of the one that fits it.
    Stopping(StopAs, Box<Turn>),
    /// The inner turn after thoughts, each a block as Anthropic has it; all but the first come between text and calls.
    /// Elsewhere their words are sent as reasoning.
    Thinking(Vec<Value>, Box<Turn>),
    /// The inner turn, cut into other pieces on its way.
    Chopped(Chop, Box<Turn>),
}

/// The reason to stop that an answer gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopAs {
    /// That of a text which is at its end, whatever the answer holds.
    Text,
    /// A word of its own.
    Word(String),
}

/// The pieces in which a stream goes out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chop {
    /// One an event, with a few bytes of text or arguments in each.
    #[default]
    Events,
    /// The same with so many bytes of text or arguments in each event.
    Fragments(usize),
    /// Every character of text or arguments has an event of its own, every byte on the wire is a piece of its own.
    EveryByte,
    /// Two pieces, the first of so many bytes; a single one where the stream is no longer than that.
    InTwo(usize),
}

impl Chop {
    /// Bytes of text or arguments in one event.
    pub(super) const fn fragment_bytes(self) -> usize {
        const FRAGMENT_BYTES: usize = 9;
        match self {
            Self::Fragments(bytes) => bytes,
            Self::EveryByte => 1,
            Self::Events | Self::InTwo(_) => FRAGMENT_BYTES,
        }
    }

    /// The pieces of a stream of these events.
    pub(super) fn apply(self, events: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        match self {
            Self::Events | Self::Fragments(_) => events,
            Self::EveryByte => events.concat().into_iter().map(|byte| vec![byte]).collect(),
            Self::InTwo(at) => {
                let mut first = events.concat();
                let second = first.split_off(at.min(first.len()));
                vec![first, second]
            }
        }
    }
}

/// How a stream ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutAs {
    /// The connection breaks inside the HTTP body.
    Broken,
    /// The HTTP body ends properly, but the closing events are missing.
    WellFormed,
}

/// The usage that the scripted provider reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedUsage {
    /// All tokens of the prompt, cached ones included.
    pub input: u64,
    /// Of these, read from the provider's cache.
    pub cached: u64,
    /// Tokens of the reply.
    pub output: u64,
}

impl Turn {
    /// Answers with `text`.
    #[must_use]
    pub fn say(text: impl Into<String>) -> Self {
        Self::Say { text: text.into() }
    }

    /// Calls one tool.
    #[must_use]
    pub fn call(tool: impl Into<String>, arguments: Value) -> Self {
        Self::Call(vec![(tool.into(), arguments)])
    }

    /// Fails with a status.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::Status { code, retry_after: None }
    }

    /// Fails with a status that names a wait in seconds.
    #[must_use]
    pub fn retry_after(code: u16, seconds: u32) -> Self {
        Self::Status { code, retry_after: Some(seconds.to_string()) }
    }

    /// This turn, held back until `gate` opens.
    #[must_use]
    pub fn behind(self, gate: &Gate) -> Self {
        Self::Gated(gate.clone(), Box::new(self))
    }

    /// This turn, with `usage` reported.
    #[must_use]
    pub fn metered(self, usage: ReportedUsage) -> Self {
        assert!(usage.cached <= usage.input, "cached tokens are part of the input");
        Self::Metered(usage, Box::new(self))
    }

    /// This turn, which gives `stop` as its reason to stop.
    #[must_use]
    pub fn stopping(self, stop: StopAs) -> Self {
        Self::Stopping(stop, Box::new(self))
    }

    /// This turn with these blocks of thinking.
    #[must_use]
    pub fn thinking(self, blocks: impl IntoIterator<Item = Value>) -> Self {
        Self::Thinking(blocks.into_iter().collect(), Box::new(self))
    }

    /// This turn in other pieces.
    #[must_use]
    pub fn chopped(self, chop: Chop) -> Self {
        Self::Chopped(chop, Box::new(self))
    }

    /// Unwraps gates, meters and the like into what the renderers need.
    pub(super) fn into_plan(self) -> Plan {
        match self {
            Self::Gated(gate, turn) => Plan { gate: Some(gate), ..turn.into_plan() },
            Self::Metered(usage, turn) => turn.into_plan().with(|answer| answer.usage = Some(usage)),
            Self::Stopping(StopAs::Text, turn) => turn.into_plan().with(|answer| answer.stop = Stop::End),
            Self::Stopping(StopAs::Word(word), turn) => {
                turn.into_plan().with(|answer| answer.stop = Stop::Word(word))
            }
            Self::Thinking(blocks, turn) => turn.into_plan().with(|answer| answer.thinking = blocks),
            Self::Chopped(chop, turn) => turn.into_plan().with(|answer| answer.chop = chop),
            Self::Hang => Shape::Silence.into(),
            Self::Status { code, retry_after } => Shape::Status { code, retry_after }.into(),
            Self::MalformedJson => Shape::MalformedJson.into(),
            Self::Say { text } => Answer::new(text, Vec::new()).into(),
            Self::Truncated { text } => Answer { stop: Stop::Length, ..Answer::new(text, Vec::new()) }.into(),
            Self::Call(calls) => Answer::new(String::new(), as_text(&calls)).into(),
            Self::SayAndCall { text, calls } => Answer::new(text, as_text(&calls)).into(),
            Self::RawCall { tool, arguments } => Answer::new(String::new(), vec![(tool, arguments)]).into(),
            Self::HangMidStream { text, after_events } => {
                Answer { fault: Fault::Hang { after_events }, ..Answer::new(text, Vec::new()) }.into()
            }
            Self::CutStream { text, after_events, cut } => {
                Answer { fault: Fault::Cut { after_events, cut }, ..Answer::new(text, Vec::new()) }.into()
            }
        }
    }
}

fn as_text(calls: &[(String, Value)]) -> Vec<(String, String)> {
    calls.iter().map(|(tool, arguments)| (tool.clone(), arguments.to_string())).collect()
}

/// A turn without its wrappers.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) gate: Option<Gate>,
    pub(super) shape: Shape,
}

impl Plan {
    /// The same with another answer, where it is one.
    fn with(mut self, change: impl FnOnce(&mut Answer)) -> Self {
        if let Shape::Answer(answer) = &mut self.shape {
            change(answer);
        }
        self
    }
}

impl From<Shape> for Plan {
    fn from(shape: Shape) -> Self {
        Self { gate: None, shape }
    }
}

impl From<Answer> for Plan {
    fn from(answer: Answer) -> Self {
        Shape::Answer(answer).into()
    }
}

#[derive(Debug)]
pub(super) enum Shape {
    Silence,
    Status { code: u16, retry_after: Option<String> },
    MalformedJson,
    Answer(Answer),
}

/// A reply of the model, before it is put into a dialect.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    /// Tool name and argument text.
    pub(super) calls: Vec<(String, String)>,
    pub(super) stop: Stop,
    pub(super) usage: Option<ReportedUsage>,
    pub(super) fault: Fault,
    pub(super) chop: Chop,
    /// Blocks as Anthropic has them.
    pub(super) thinking: Vec<Value>,
}

impl Answer {
    fn new(text: String, calls: Vec<(String, String)>) -> Self {
        let stop = if calls.is_empty() { Stop::End } else { Stop::Calls };
        Self { text, calls, stop, usage: None, fault: Fault::None, chop: Chop::Events, thinking: Vec::new() }
    }

    /// The words of all its thoughts.
    pub(super) fn thoughts(&self) -> String {
        self.thinking.iter().filter_map(|block| block["thinking"].as_str()).collect()
    }

    /// A text or arguments of it in the pieces of its events.
    pub(super) fn fragments<'t>(&self, text: &'t str) -> Vec<&'t str> {
        fragments(text, self.chop.fragment_bytes())
    }

    /// The scripted usage, else a stable estimate of four bytes a token.
    pub(super) fn reported(&self, request_bytes: usize) -> ReportedUsage {
        const BYTES_PER_TOKEN: usize = 4;
        let reply =
            self.text.len() + self.calls.iter().map(|(tool, args)| tool.len() + args.len()).sum::<usize>();
        self.usage.unwrap_or(ReportedUsage {
            input: request_bytes.div_ceil(BYTES_PER_TOKEN) as u64,
            cached: 0,
            output: reply.div_ceil(BYTES_PER_TOKEN) as u64,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    End,
    Calls,
    Length,
    Word(String),
}

/// Cuts text into small pieces at character boundaries, as a streaming model would.
pub(super) fn fragments(text: &str, bytes: usize) -> Vec<&str> {
    assert!(bytes > 0, "a piece holds something");
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(rest.ceil_char_boundary(bytes));
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// What goes wrong with the delivery of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Hang { after_events: usize },
    Cut { after_events: usize, cut: CutAs },
}

impl Fault {
    /// Shortens a stream and says how it ends.
    pub(super) fn apply(self, events: &mut Vec<Vec<u8>>) -> Ending {
        match self {
            Self::None => Ending::Proper,
            Self::Hang { after_events } => {
                events.truncate(after_events);
                Ending::Hang
            }
            Self::Cut { after_events, cut } => {
                assert!(after_events < events.len(), "a cut after the last event cuts nothing");
                events.truncate(after_events);
                match cut {
                    CutAs::Broken => Ending::Cut,
                    CutAs::WellFormed => Ending::Proper,
                }
            }
        }
    }

    /// The same fault on a reply that is not streamed: half of the body.
    pub(super) fn damage(self, body: String) -> Reply {
        let half = body.as_bytes()[..body.len() / 2].to_vec();
        let (pieces, ending) = match self {
            Self::None => return Reply::whole(200, "application/json", body),
            Self::Hang { .. } => (vec![half], Ending::Hang),
            Self::Cut { cut: CutAs::Broken, .. } => (vec![half], Ending::Cut),
            Self::Cut { cut: CutAs::WellFormed, .. } => (vec![half], Ending::Proper),
        };
        Reply::with_body(200, "application/json", Body::Pieces(pieces, ending))
    }
}
