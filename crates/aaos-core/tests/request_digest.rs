//! The digest of a request tells apart whatever a model could be asked.

use std::collections::BTreeMap;

use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelReply, ModelRequest, ModelStop, Narrowed,
    PlacedThought, RawArguments, RequestedTool, Thought, ToolSpec, Usage,
};
use aaos_core::name::{ModelName, ToolName};
use aaos_core::quantity::{Bytes, Tokens};

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
    let reasoning = reasoning.map(str::to_owned);
    Message::Assistant { text: text.to_owned(), reasoning, thinking: Vec::new(), calls }
}

fn thought(thinking: Vec<PlacedThought>) -> Message {
    Message::Assistant { text: String::new(), reasoning: None, thinking, calls: Vec::new() }
}

fn signed(text: &str, signature: &str) -> PlacedThought {
    let thought = Thought::Signed { text: text.to_owned(), signature: signature.to_owned() };
    PlacedThought { after_text: 0, after_calls: 0, thought }
}

fn redacted(data: &str) -> PlacedThought {
    PlacedThought { thought: Thought::Redacted { data: data.to_owned() }, ..signed("", "") }
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
        narrowed: None,
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
        vec![thought(vec![signed("", "")])],
        vec![thought(vec![signed("a", "")])],
        vec![thought(vec![signed("", "a")])],
        vec![thought(vec![signed("", ""), signed("", "")])],
        vec![thought(vec![PlacedThought { after_text: 1, ..signed("", "") }])],
        vec![thought(vec![PlacedThought { after_calls: 1, ..signed("", "") }])],
        vec![thought(vec![redacted("")])],
        vec![thought(vec![redacted("a")])],
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
    let narrowed = Some(Narrowed { calls: Vec::new(), may_answer: true });
    let narrowed = ModelRequest { narrowed, ..plain.clone() };
    assert_eq!(narrowed.digest(), plain.digest(), "how it is narrowed follows from the rest");
}

#[test]
fn a_conversation_without_thoughts_has_the_digest_that_older_journals_hold() {
    let message = said("a", Some("b"), vec![call("c", "echo", "{}")]);
    let recorded = serde_json::to_value(&message).expect("JSON");
    assert!(recorded["assistant"].get("thinking").is_none(), "{recorded}");
    assert_eq!(serde_json::from_value::<Message>(recorded).expect("reads it"), message);
    let digest = request(vec![user("x"), message]).digest();
    assert_eq!(digest, "31bf654ef5bf7aee2e9b531f725dfbc54273ea3095675353deeebb0a430ebd10");
}

#[test]
fn thoughts_are_counted_beside_the_text_and_shown_as_far_as_they_can_be_read() {
    let thinking = vec![signed("because", "proof"), redacted("data"), signed("then", "")];
    let message = Message::Assistant {
        text: "four".to_owned(),
        reasoning: Some("so".to_owned()),
        thinking: thinking.clone(),
        calls: Vec::new(),
    };
    let asked = request(vec![message, user("x")]);
    assert_eq!((asked.text_bytes(), asked.thinking_bytes()), (Bytes(6 + 4 + 1), Bytes(2 + 12 + 4 + 4)));
    let reply = ModelReply {
        text: String::new(),
        reasoning: Some("so".to_owned()),
        thinking,
        calls: Vec::new(),
        stop: ModelStop::EndTurn,
        usage: Usage::default(),
    };
    assert_eq!(reply.thinking_bytes(), Bytes(22));
    assert_eq!(reply.thoughts().as_deref(), Some("so\nbecause\nthen"));
    let silent = ModelReply { reasoning: None, thinking: vec![redacted("data")], ..reply };
    assert_eq!(silent.thoughts(), None);
}
