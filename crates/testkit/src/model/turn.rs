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

    /// Unwraps gates and meters into what the renderers need.
    pub(super) fn into_plan(self) -> Plan {
        match self {
            Self::Gated(gate, turn) => Plan { gate: Some(gate), ..turn.into_plan() },
            Self::Metered(usage, turn) => {
                let mut plan = turn.into_plan();
                if let Shape::Answer(answer) = &mut plan.shape {
                    answer.usage = Some(usage);
                }
                plan
            }
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
}

impl Answer {
    fn new(text: String, calls: Vec<(String, String)>) -> Self {
        let stop = if calls.is_empty() { Stop::End } else { Stop::Calls };
        Self { text, calls, stop, usage: None, fault: Fault::None }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    End,
    Calls,
    Length,
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
