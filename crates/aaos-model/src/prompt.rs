//! Says a request in the words that a model was taught, and reads its reply back.
//!
//! Invariants: what a turn says is text, so that it cannot hold the tokens that begin and end turns; the same request
//! gives the same prompt; and one that continues another begins as that one did. The formats are written here and not taken
//! from the file, whose template is a stranger's program.

use aaos_core::model::{Message, ModelRequest, ToolSpec};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use crate::tokens::{Family, Mark, Piece, Vocabulary};

/// Writes the prompt of a request up to where the model begins.
#[must_use]
pub fn prompt(vocabulary: &Vocabulary, request: &ModelRequest) -> Vec<Piece> {
    let mut prompt = Prompt { vocabulary, pieces: Vec::new() };
    prompt.turn("system", |prompt| prompt.system(request));
    for message in &request.messages {
        prompt.message(message);
    }
    prompt.begin("assistant\n");
    prompt.pieces
}

struct Prompt<'a> {
    vocabulary: &'a Vocabulary,
    pieces: Vec<Piece>,
}

impl Prompt<'_> {
    fn text(&mut self, text: impl Into<String>) {
        self.pieces.push(Piece::Text(text.into()));
    }

    fn begin(&mut self, who: &str) {
        self.pieces.push(Piece::Token(self.vocabulary.turn_begins()));
        self.text(who);
    }

    /// One turn of `who`.
    fn turn(&mut self, who: &str, say: impl FnOnce(&mut Self)) {
        self.begin(&format!("{who}\n"));
        say(self);
        self.pieces.push(Piece::Token(self.vocabulary.turn_ends()));
        self.text("\n");
    }

    fn system(&mut self, request: &ModelRequest) {
        let usual = match self.vocabulary.family() {
            Family::Qwen2 => "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
            Family::SmolLm => "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        };
        let words = if request.system.is_empty() { usual } else { &request.system };
        self.text(words);
        if !request.tools.is_empty() {
            self.tools(&request.tools);
        }
    }

    /// The tools on offer, as Qwen 2.5 was taught to see them.
    fn tools(&mut self, tools: &[ToolSpec]) {
        self.text(
            "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with \
             function signatures within <tools></tools> XML tags:\n<tools>",
        );
        for tool in tools {
            let function = Function {
                name: tool.name.as_str(),
                description: &tool.description,
                parameters: &tool.input_schema,
            };
            self.text(format!("\n{}", spaced(&Offered { r#type: "function", function })));
        }
        self.text(
            "\n</tools>\n\nFor each function call, return a json object with function name and arguments within ",
        );
        self.mark(Mark::CallBegins);
        self.mark(Mark::CallEnds);
        self.text(" XML tags:\n");
        self.mark(Mark::CallBegins);
        self.text("\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n");
        self.mark(Mark::CallEnds);
    }

    fn mark(&mut self, mark: Mark) {
        self.pieces.push(self.vocabulary.mark(mark));
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::User { text } => self.turn("user", |prompt| prompt.text(text)),
            Message::Assistant { text, calls, .. } => self.turn("assistant", |prompt| {
                prompt.text(text);
                for (number, call) in calls.iter().enumerate() {
                    if number > 0 || !text.is_empty() {
                        prompt.text("\n");
                    }
                    prompt.mark(Mark::CallBegins);
                    let name = Value::from(call.tool.0.as_str());
                    prompt.text(format!("\n{{\"name\": {name}, \"arguments\": {}}}\n", call.arguments.0));
                    prompt.mark(Mark::CallEnds);
                }
            }),
            Message::ToolResults { results } => self.turn("user", |prompt| {
                for (number, result) in results.iter().enumerate() {
                    let before = if number > 0 { "\n" } else { "" };
                    prompt.text(format!("{before}<tool_response>\n{}\n</tool_response>", result.content));
                }
            }),
        }
    }
}

#[derive(Serialize)]
struct Offered<'a> {
    r#type: &'a str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
}

/// JSON with a space after each comma and colon, as models were taught to see it.
fn spaced(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced));
    written.unwrap_or_else(|error| unreachable!("plain data can be written to memory: {error}"));
    String::from_utf8(bytes).unwrap_or_else(|error| unreachable!("JSON is UTF-8: {error}"))
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
