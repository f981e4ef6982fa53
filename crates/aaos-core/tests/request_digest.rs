//! The digest of a request tells apart whatever a model could be asked.

use std::collections::BTreeMap;

use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelRequest, RawArguments, RequestedTool, ToolSpec,
};
use aaos_core::name::{ModelName, ToolName};
use aaos_core::quantity::Tokens;

fn call(id: &str, tool: &str, arguments: &str) -> ModelCall {
    ModelCall {
        id: ModelCallId(id.to_owned()),
        tool: RequestedTool(tool.to_owned()),
        arguments: RawArguments(arguments.to_owned()),
    }
}

fn result(id: &str, tool: &str, content: &str, is_error: bool) -> CallResult {
    let (id, tool) = (ModelCallId(id.to_owned()), RequestedTool(tool.to_owned()));
    CallResult { id, tool, content: content.to_owned(), is_error }
}

fn user(text: &str) -> Message {
    Message::User { text: text.to_owned() }
}

fn said(text: &str, reasoning: Option<&str>, calls: Vec<ModelCall>) -> Message {
    Message::Assistant { text: text.to_owned(), reasoning: reasoning.map(str::to_owned), calls }
}

fn results(results: Vec<CallResult>) -> Message {
    Message::ToolResults { results }
}

fn request(messages: Vec<Message>) -> ModelRequest {
    ModelRequest {
        model: ModelName::parse("one").expect("a name"),
        system: "system".to_owned(),
        messages,
        tools: vec![tool("echo")],
        max_output_tokens: Tokens(10),
    }
}

fn tool(name: &str) -> ToolSpec {
    let name = ToolName::parse(name).expect("a name");
    ToolSpec { name, description: String::new(), input_schema: serde_json::Value::Null }
}

#[test]
fn no_two_conversations_have_one_digest() {
    let conversations = [
        vec![],
        vec![user("")],
        vec![user("a")],
        vec![user("ab")],
        vec![user("a"), user("b")],
        vec![user("ab"), user("")],
        vec![user(""), user("ab")],
        vec![said("", None, vec![])],
        vec![said("a", None, vec![])],
        vec![said("", Some(""), vec![])],
        vec![said("", Some("a"), vec![])],
        vec![said("a", Some("a"), vec![])],
        vec![said("", None, vec![call("", "", "")])],
        vec![said("", None, vec![call("a", "", "")])],
        vec![said("", None, vec![call("", "a", "")])],
        vec![said("", None, vec![call("", "", "a")])],
        vec![said("", None, vec![call("", "", ""), call("", "", "")])],
        vec![said("", None, vec![call("", "", "")]), said("", None, vec![call("", "", "")])],
        vec![results(vec![])],
        vec![results(vec![result("", "", "", false)])],
        vec![results(vec![result("", "", "", true)])],
        vec![results(vec![result("a", "", "", false)])],
        vec![results(vec![result("", "a", "", false)])],
        vec![results(vec![result("", "", "a", false)])],
        vec![results(vec![result("", "", "", false), result("", "", "", false)])],
    ];
    let mut seen = BTreeMap::new();
    for messages in conversations {
        let before = seen.insert(request(messages.clone()).digest(), messages.clone());
        assert_eq!(before, None, "hashed as {messages:?}");
    }
}

#[test]
fn what_is_asked_beside_the_conversation_counts_too() {
    let plain = request(vec![user("a")]);
    let others = [
        ModelRequest { model: ModelName::parse("other").expect("a name"), ..plain.clone() },
        ModelRequest { system: "systems".to_owned(), ..plain.clone() },
        ModelRequest { tools: vec![tool("grep")], ..plain.clone() },
        ModelRequest { tools: vec![tool("echo"), tool("grep")], ..plain.clone() },
        ModelRequest { tools: Vec::new(), ..plain.clone() },
    ];
    for other in others {
        assert_ne!(other.digest(), plain.digest(), "{other:?}");
    }
    let shorter = ModelRequest { max_output_tokens: Tokens(1), ..plain.clone() };
    assert_eq!(shorter.digest(), plain.digest(), "how long the reply may be is the purse's business");
}
