//! A model request as a test wants to look at it, the same for both dialects.
//!
//! Invariant: `headers` and `body` are what came in, untouched; the other fields are read from them.

use crate::http::HttpRequest;
use serde_json::Value;

/// The wire format of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Chat completions.
    OpenAi,
    /// Messages.
    Anthropic,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenMessage {
    /// `user`, `assistant`, `tool`.
    pub role: String,
    /// All its text; tool results are in [`SeenRequest::results`].
    pub text: String,
}

/// One tool result that the client sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenResult {
    /// The call it answers.
    pub call_id: String,
    /// Its content.
    pub content: String,
}

/// One request that the scripted model received.
#[derive(Debug, Clone)]
pub struct SeenRequest {
    /// The wire format.
    pub dialect: Dialect,
    /// Path as sent.
    pub path: String,
    /// Header names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The JSON body.
    pub body: Value,
    /// The same as it came.
    pub raw: String,
    /// The model asked for.
    pub model: String,
    /// The system prompt, all parts joined by newlines.
    pub system: String,
    /// The conversation without the system prompt.
    pub messages: Vec<SeenMessage>,
    /// Tool results in the conversation, in order.
    pub results: Vec<SeenResult>,
    /// Names of the tools offered.
    pub tools: Vec<String>,
    /// Whether a stream was asked for.
    pub streaming: bool,
}

impl SeenRequest {
    /// `None` when this is no model request.
    pub(super) fn read(request: &HttpRequest) -> Option<Self> {
        let path = request.target.split('?').next().unwrap_or_default();
        let dialect = match path {
            _ if path.ends_with("/chat/completions") => Dialect::OpenAi,
            _ if path.ends_with("/messages") => Dialect::Anthropic,
            _ => return None,
        };
        if request.method != "POST" {
            return None;
        }
        let raw = std::str::from_utf8(&request.body).ok()?;
        let body: Value = serde_json::from_str(raw).ok()?;
        let mut seen = Self {
            dialect,
            path: request.target.clone(),
            headers: request.headers.clone(),
            raw: raw.to_owned(),
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            system: text_of(&body["system"]),
            messages: Vec::new(),
            results: Vec::new(),
            tools: tool_names(&body),
            streaming: body["stream"].as_bool().unwrap_or(false),
            body: Value::Null,
        };
        for message in body["messages"].as_array().into_iter().flatten() {
            seen.take_message(message);
        }
        seen.body = body;
        Some(seen)
    }

    fn take_message(&mut self, message: &Value) {
        let role = message["role"].as_str().unwrap_or_default();
        let text = text_of(&message["content"]);
        match role {
            "system" | "developer" => {
                if !self.system.is_empty() {
                    self.system.push('\n');
                }
                self.system.push_str(&text);
                return;
            }
            "tool" => {
                let call_id = message["tool_call_id"].as_str().unwrap_or_default().to_owned();
                self.results.push(SeenResult { call_id, content: text.clone() });
            }
            _ => {
                let blocks = message["content"].as_array().into_iter().flatten();
                self.results.extend(blocks.filter(|block| block["type"] == "tool_result").map(|block| {
                    SeenResult {
                        call_id: block["tool_use_id"].as_str().unwrap_or_default().to_owned(),
                        content: text_of(&block["content"]),
                    }
                }));
            }
        }
        self.messages.push(SeenMessage { role: role.to_owned(), text });
    }

    /// The value of a header, by lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The key that was sent, in whichever header this dialect uses.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.header("x-api-key")
            .or_else(|| self.header("authorization").map(|value| value.trim_start_matches("Bearer ")))
    }

    /// The first message of the user: the goal briefing of a root agent, or a child's task.
    #[must_use]
    pub fn first_user_text(&self) -> &str {
        self.messages
            .iter()
            .find(|message| message.role == "user")
            .map_or("", |message| message.text.as_str())
    }

    /// How many replies this model has given in this conversation; 0 in its first request.
    #[must_use]
    pub fn replies_so_far(&self) -> usize {
        self.messages.iter().filter(|message| message.role == "assistant").count()
    }
}

/// Text of a string, or of the text blocks of a list.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

fn tool_names(body: &Value) -> Vec<String> {
    let tools = body["tools"].as_array().into_iter().flatten();
    let named = |tool: &Value| tool["function"]["name"].as_str().or(tool["name"].as_str()).map(str::to_owned);
    tools.filter_map(named).collect()
}
