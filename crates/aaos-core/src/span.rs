//! Spans: what a collector of the operator's is told of single model calls (OpenTelemetry).
//!
//! Invariants: a span is an observation: it decides nothing and stands in no journal. It holds no word of a conversation
//! but in its [`SpanContent`], which is there only where the operator asked for it. Everything in it is bounded.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{AgentId, CallId};
use crate::model::{
    Message, ModelCall, ModelCallId, ModelFailureKind, ModelReply, ModelRequest, ModelStop, RawArguments,
    RequestedTool, Usage,
};
use crate::name::{ModelName, ProviderName};
use crate::observe::Micros;
use crate::quantity::{Millis, Timestamp, Tokens};

/// Most spans that wait to be sent; a further one is dropped.
pub const MAX_QUEUED_SPANS: usize = 1_024;
/// The same where they have content.
pub const MAX_QUEUED_FULL_SPANS: usize = 128;
/// Most spans of one request to the collector.
pub const MAX_BATCHED_SPANS: usize = 128;
/// The same where they have content.
pub const MAX_BATCHED_FULL_SPANS: usize = 16;
/// Most attempts that one span tells of.
pub const MAX_SPAN_RETRIES: usize = 16;
/// Most bytes of text in one span's content.
pub const MAX_SPAN_CONTENT_BYTES: usize = 32 * 1024;
/// Of these, most for the system prompt, and as many for the reply.
const MAX_SHARE_BYTES: usize = MAX_SPAN_CONTENT_BYTES / 4;
/// What a part counts besides its text.
const PART_BYTES: usize = 64;
/// Stands at the end of a text that was cut.
const CUT: &str = "…";

/// What the spans of one piece of work have in common: the 128 bits of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpanTrace(pub Uuid);

/// One model call that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSpan {
    /// Of its goal, else of the message that it is about, else of its agent.
    pub trace: SpanTrace,
    /// The call.
    pub call: CallId,
    /// Whose conversation it goes on with.
    pub agent: AgentId,
    /// When it began to wait for its turn.
    pub began: Timestamp,
    /// When it was over.
    pub ended: Timestamp,
    /// Who serves the model; none where nobody does.
    pub provider: Option<ProviderName>,
    /// The model that was asked for.
    pub model: ModelName,
    /// The longest reply that was wanted.
    pub max_output_tokens: Tokens,
    /// Attempts that were made again, oldest first.
    pub retries: Vec<SpanRetry>,
    /// How it ended.
    pub end: SpanEnd,
    /// What was said, where the operator wants it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Box<SpanContent>>,
}

/// An attempt that failed and was made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanRetry {
    /// When it had failed.
    pub at: Timestamp,
    /// Why.
    pub kind: ModelFailureKind,
    /// How long was waited then.
    pub wait: Millis,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanEnd {
    /// With a reply.
    Answered {
        /// What the provider calls the model that answered, where that is a model's name.
        model: Option<ModelName>,
        /// From the last request to the first piece of the reply.
        first: Option<Micros>,
        /// Why the model stopped.
        finish: FinishReason,
        /// What it used.
        usage: Usage,
    },
    /// Without one.
    Failed(ModelFailureKind),
}

/// Why a model stopped, in the words of the semantic conventions. A provider's own word is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It was done.
    Stop,
    /// It waits for tools.
    ToolCall,
    /// It ran into its limit.
    Length,
    /// The rest was withheld.
    ContentFilter,
    /// Another one.
    Other,
}

impl From<&ModelStop> for FinishReason {
    fn from(stop: &ModelStop) -> Self {
        match stop {
            ModelStop::EndTurn => Self::Stop,
            ModelStop::ToolUse => Self::ToolCall,
            ModelStop::MaxTokens => Self::Length,
            ModelStop::Refusal => Self::ContentFilter,
            ModelStop::Other(_) => Self::Other,
        }
    }
}

/// What became of the spans since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanFigures {
    /// Those that the collector took.
    pub sent: u64,
    /// Those that it did not take.
    pub failed: u64,
    /// Those for which there was no room.
    pub dropped: u64,
    /// Those that wait.
    pub waiting: u64,
    /// Why the last of those that failed did; absent once others are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What became of the spans of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFate {
    /// How many were not taken.
    pub failed: u64,
    /// Why; no word of the collector's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanSetup {
    /// URL of the collector, without the path of its spans.
    pub endpoint: String,
    /// What the sender calls its version.
    pub version: String,
    /// Whether a file of headers rides on the frame, after the listener of the metrics.
    pub headers_follow: bool,
    /// Why nothing can be sent, where that is known before it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What was said in a call, in the shape of the semantic conventions: long texts are cut, old messages left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanContent {
    /// The system prompt.
    pub system: Vec<SpanPart>,
    /// The conversation, oldest first.
    pub input: Vec<SpanMessage>,
    /// The reply; empty where there was none.
    pub output: Vec<SpanMessage>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanMessage {
    /// Whose it is.
    pub role: SpanRole,
    /// What it holds.
    pub parts: Vec<SpanPart>,
    /// Of a reply: why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}

/// Whose a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanRole {
    /// The operator's, the parent agent's or the runtime's.
    User,
    /// The model's.
    Assistant,
    /// Of tools.
    Tool,
}

/// Part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SpanPart {
    /// Prose.
    Text {
        /// The words.
        content: String,
    },
    /// A call that the model asked for.
    ToolCall {
        /// Its id.
        id: ModelCallId,
        /// The tool.
        name: RequestedTool,
        /// Its arguments, as the model wrote them.
        arguments: RawArguments,
    },
    /// What came of one.
    ToolCallResponse {
        /// Its id.
        id: ModelCallId,
        /// What the model was shown.
        response: String,
    },
}

impl SpanContent {
    /// What is asked.
    #[must_use]
    pub fn asked(request: &ModelRequest) -> Self {
        let mut share = Room(MAX_SHARE_BYTES);
        let system: Vec<SpanPart> = share.text(&request.system).into_iter().collect();
        let mut room = Room(MAX_SPAN_CONTENT_BYTES - 2 * MAX_SHARE_BYTES);
        // The newest are what the call is about.
        let mut input: Vec<SpanMessage> =
            request.messages.iter().rev().map_while(|message| room.message(message)).collect();
        input.reverse();
        Self { system, input, output: Vec::new() }
    }

    /// And what was answered.
    #[must_use]
    pub fn answered(self, reply: &ModelReply) -> Self {
        let parts = Room(MAX_SHARE_BYTES).said(&reply.text, &reply.calls);
        let finish_reason = Some(FinishReason::from(&reply.stop));
        Self { output: vec![SpanMessage { role: SpanRole::Assistant, parts, finish_reason }], ..self }
    }
}

/// How many bytes may still be told.
struct Room(usize);

impl Room {
    /// As much of a text as there is room for.
    fn cut(&mut self, text: &str) -> String {
        if text.len() <= self.0 {
            self.0 -= text.len();
            return text.to_owned();
        }
        let end = text.floor_char_boundary(self.0.saturating_sub(CUT.len()));
        self.0 = 0;
        format!("{}{CUT}", &text[..end])
    }

    /// Makes room for a part; none where there is none.
    fn part(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(PART_BYTES)?;
        Some(())
    }

    fn text(&mut self, text: &str) -> Option<SpanPart> {
        if text.is_empty() {
            return None;
        }
        self.part()?;
        Some(SpanPart::Text { content: self.cut(text) })
    }

    fn call(&mut self, call: &ModelCall) -> Option<SpanPart> {
        self.part()?;
        let (id, name) = (ModelCallId(self.cut(&call.id.0)), RequestedTool(self.cut(&call.tool.0)));
        Some(SpanPart::ToolCall { id, name, arguments: RawArguments(self.cut(&call.arguments.0)) })
    }

    fn said(&mut self, text: &str, calls: &[ModelCall]) -> Vec<SpanPart> {
        let mut parts: Vec<SpanPart> = self.text(text).into_iter().collect();
        parts.extend(calls.iter().map_while(|call| self.call(call)));
        parts
    }

    /// A message, as far as there is room; none where there is no room at all.
    fn message(&mut self, message: &Message) -> Option<SpanMessage> {
        self.part()?;
        let (role, parts) = match message {
            Message::User { text } => (SpanRole::User, self.text(text).into_iter().collect()),
            Message::Assistant { text, calls, .. } => (SpanRole::Assistant, self.said(text, calls)),
            Message::ToolResults { results } => {
                let parts = results.iter().map_while(|result| {
                    self.part()?;
                    let id = ModelCallId(self.cut(&result.id.0));
                    Some(SpanPart::ToolCallResponse { id, response: self.cut(&result.content) })
                });
                (SpanRole::Tool, parts.collect())
            }
        };
        Some(SpanMessage { role, parts, finish_reason: None })
    }
}

#[cfg(test)]
mod tests {
    use super::{FinishReason, MAX_SPAN_CONTENT_BYTES, SpanContent, SpanPart};
    use crate::model::{
        CallResult, Message, ModelCall, ModelCallId, ModelReply, ModelRequest, ModelStop, RawArguments,
        RequestedTool, StopWord, Usage,
    };
    use crate::name::ModelName;
    use crate::quantity::Tokens;

    fn json(value: &impl serde::Serialize) -> String {
        serde_json::to_string(value).expect("plain")
    }

    fn call(arguments: &str) -> ModelCall {
        let (id, tool) = (ModelCallId::numbered(1), RequestedTool("echo".to_owned()));
        ModelCall { id, tool, arguments: RawArguments(arguments.to_owned()) }
    }

    fn request(messages: Vec<Message>) -> ModelRequest {
        ModelRequest {
            model: ModelName::parse("m").expect("a name"),
            system: "be brief".to_owned(),
            messages,
            tools: Vec::new(),
            max_output_tokens: Tokens(1),
            narrowed: None,
        }
    }

    fn reply(text: &str) -> ModelReply {
        ModelReply {
            text: text.to_owned(),
            reasoning: None,
            thinking: Vec::new(),
            calls: vec![call("{\"a\":1}")],
            stop: ModelStop::ToolUse,
            usage: Usage::default(),
        }
    }

    #[test]
    fn content_has_the_shape_of_the_conventions() {
        let result = CallResult {
            id: ModelCallId::numbered(1),
            tool: RequestedTool("echo".to_owned()),
            content: "ok".to_owned(),
            is_error: false,
        };
        let messages = vec![
            Message::User { text: "hello".to_owned() },
            Message::Assistant {
                text: String::new(),
                reasoning: None,
                thinking: Vec::new(),
                calls: vec![call("{}")],
            },
            Message::ToolResults { results: vec![result] },
        ];
        let content = SpanContent::asked(&request(messages)).answered(&reply("well"));
        assert_eq!(json(&content.system), r#"[{"type":"text","content":"be brief"}]"#);
        assert_eq!(
            json(&content.input),
            concat!(
                r#"[{"role":"user","parts":[{"type":"text","content":"hello"}]},"#,
                r#"{"role":"assistant","parts":[{"type":"tool_call","id":"call-1","name":"echo","arguments":"{}"}]},"#,
                r#"{"role":"tool","parts":[{"type":"tool_call_response","id":"call-1","response":"ok"}]}]"#
            )
        );
        assert_eq!(
            json(&content.output),
            concat!(
                r#"[{"role":"assistant","parts":[{"type":"text","content":"well"},"#,
                r#"{"type":"tool_call","id":"call-1","name":"echo","arguments":"{\"a\":1}"}],"#,
                r#""finish_reason":"tool_call"}]"#
            )
        );
    }

    #[test]
    fn content_is_bounded_and_the_newest_is_kept() {
        let long = "ä".repeat(MAX_SPAN_CONTENT_BYTES);
        let old = || Message::User { text: "old".to_owned() };
        let mut messages: Vec<Message> = std::iter::repeat_with(old).take(10_000).collect();
        messages.push(Message::User { text: "newest".to_owned() });
        let content = SpanContent::asked(&request(messages)).answered(&reply(&long));
        let last = content.input.last().expect("the newest").parts.clone();
        assert_eq!(last, [SpanPart::Text { content: "newest".to_owned() }]);
        assert!(content.input.len() < 500, "{}", content.input.len());
        let messages = vec![old(), Message::User { text: long }];
        let content = SpanContent::asked(&request(messages));
        let [only] = content.input.as_slice() else { panic!("there is room for one: {content:?}") };
        let [SpanPart::Text { content: text }] = only.parts.as_slice() else { panic!("a text: {only:?}") };
        assert!(text.ends_with("ä…") && text.len() <= MAX_SPAN_CONTENT_BYTES, "{}", text.len());
        assert!(content.output.is_empty());
    }

    #[test]
    fn a_providers_own_word_for_its_end_is_not_passed_on() {
        let word = ModelStop::Other(StopWord("secret".to_owned()));
        assert_eq!(FinishReason::from(&word), FinishReason::Other);
    }
}
