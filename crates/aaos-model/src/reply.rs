//! Reads what a model says while it says it.
//!
//! Invariants: only whole characters leave; nothing that may still become the beginning of a call leaves as prose; calls are
//! read from what was said whole.

use aaos_core::model::{ModelCall, ModelCallId, RawArguments, RequestedTool, ToolSpec};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::form::{FENCE, Form, Forms, Found, Opening};
use crate::tokens::Mark;

/// What was said so far.
#[derive(Debug, Default)]
pub struct Said {
    bytes: Vec<u8>,
    /// Bytes of prose that have left.
    told: usize,
    forms: Forms,
}

/// What a finished reply holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// Prose.
    pub text: String,
    /// Whole calls, in their order.
    pub calls: Vec<ModelCall>,
}

/// A call as it is said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidCall {
    name: String,
    arguments: Box<RawValue>,
}

impl Said {
    /// Nothing yet, by a model that was offered these tools.
    #[must_use]
    pub fn new(tools: &[ToolSpec]) -> Self {
        Self { forms: Forms::of(tools), ..Self::default() }
    }

    /// Takes the bytes of the next token and gives the prose that is sure now.
    pub fn hear(&mut self, bytes: &[u8]) -> Option<&str> {
        self.bytes.extend_from_slice(bytes);
        let text = valid(&self.bytes);
        let end = match self.forms.find(text) {
            Found::Opening(opening) => opening.prose,
            Found::Prose(sure) => sure,
        };
        let from = self.told;
        self.told = from.max(end);
        (end > from).then(|| &text[from..end])
    }

    /// The prose that was held back, once nothing more comes.
    pub fn rest(&mut self) -> Option<&str> {
        let text = valid(&self.bytes);
        let end = match self.forms.find(text) {
            Found::Opening(opening) => opening.prose,
            Found::Prose(_) => text.len(),
        };
        let from = std::mem::replace(&mut self.told, end);
        (end > from).then(|| &text[from..end])
    }

    /// Reads the whole.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let text = valid(&self.bytes);
        let Found::Opening(Opening { form, prose, json }) = self.forms.find(text) else {
            return Heard { text: text.to_owned(), calls: Vec::new() };
        };
        let (prose, said) = (&text[..prose], &text[json..]);
        let calls = match form {
            Form::Marked => marked(said),
            Form::Fenced => closed(said, FENCE).into_iter().collect(),
            Form::Bare => closed(said, "").into_iter().collect(),
        };
        // The line's end before the mark belongs to the mark.
        Heard { text: prose.strip_suffix('\n').unwrap_or(prose).to_owned(), calls }
    }
}

/// Reads calls between marks, from behind the first mark on.
fn marked(said: &str) -> Vec<ModelCall> {
    let mut calls = Vec::new();
    let mut rest = Some(said);
    while let Some(said) = rest {
        let Some((call, after)) = read_call(said, calls.len(), Mark::CallEnds.text()) else { break };
        calls.push(call);
        rest = after.trim_start_matches('\n').strip_prefix(Mark::CallBegins.text());
    }
    calls
}

/// Reads the only call of a reply.
fn closed(said: &str, end: &str) -> Option<ModelCall> {
    read_call(said, 0, end).map(|(call, _)| call)
}

/// Reads the call that `said` begins with and `end` ends, and gives what stands after it.
fn read_call<'s>(said: &'s str, number: usize, end: &str) -> Option<(ModelCall, &'s str)> {
    let mut values = serde_json::Deserializer::from_str(said).into_iter::<SaidCall>();
    let SaidCall { name, arguments } = values.next()?.ok()?;
    let after = said[values.byte_offset()..].trim_start_matches([' ', '\n']).strip_prefix(end)?;
    let call = ModelCall {
        id: ModelCallId::numbered(number as u64),
        tool: RequestedTool(name),
        arguments: RawArguments(arguments.get().to_owned()),
    };
    Some((call, after))
}

/// As much as is whole characters.
fn valid(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::Said;
    use aaos_core::model::ToolSpec;
    use aaos_core::name::ToolName;
    use proptest::prelude::{any, proptest};

    fn tool(name: &str) -> ToolSpec {
        ToolSpec {
            name: ToolName::parse(name).expect("a name"),
            description: String::new(),
            input_schema: serde_json::Value::Null,
        }
    }

    /// Says `words` in pieces of `step` bytes where tools `a` and `b` are on offer; gives the prose that left.
    fn say(words: &str, step: usize) -> (Said, String) {
        let mut said = Said::new(&["a", "b"].map(tool));
        let mut prose = String::new();
        for piece in words.as_bytes().chunks(step) {
            prose.push_str(said.hear(piece).unwrap_or_default());
        }
        prose.push_str(said.rest().unwrap_or_default());
        (said, prose)
    }

    #[test]
    fn prose_and_calls_are_read_whatever_the_pieces_are() {
        let words = "Let me l\u{f6}\u{f6}k. <tool\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \
                     \"</tool_call> <tool_call>\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"b\", \"arguments\": \
                     {}}\n</tool_call>";
        for step in 1..words.len() {
            let (said, prose) = say(words, step);
            assert_eq!(prose, "Let me l\u{f6}\u{f6}k. <tool\n");
            let heard = said.heard();
            assert_eq!(heard.text, "Let me l\u{f6}\u{f6}k. <tool");
            let calls: Vec<_> =
                heard.calls.iter().map(|one| (one.tool.0.as_str(), one.arguments.0.as_str())).collect();
            assert_eq!(calls, [("a", "{\"x\": \"</tool_call> <tool_call>\"}"), ("b", "{}")]);
            assert_ne!(heard.calls[0].id, heard.calls[1].id);
        }
    }

    #[test]
    fn a_call_that_was_cut_off_is_none() {
        for words in [
            "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>",
            "```json\n{\n  \"name\": \"a\",\n  \"arguments\": {\"x\": 1}\n}\n```",
            "{\"name\": \"a\", \"arguments\": {\"x\": 1}}",
        ] {
            for end in 0..words.len() {
                let (said, _) = say(&words[..end], 4);
                assert!(said.heard().calls.is_empty(), "{}", &words[..end]);
            }
            assert_eq!(say(words, 4).0.heard().calls.len(), 1, "the whole is one");
        }
    }

    #[test]
    fn a_call_in_a_block_or_alone_is_read_and_json_of_something_else_stays_text() {
        for step in 1..20 {
            for (words, prose) in [
                ("I look.\n```json\n{\"name\": \"b\", \"arguments\": {\"x\": \"```\"}}\n```", "I look."),
                ("```\n{\n  \"name\": \"b\",\n  \"arguments\": {\"x\": \"```\"}\n}\n```", ""),
                (" {\"name\": \"b\", \"arguments\": {\"x\": \"```\"}}", ""),
            ] {
                let (said, told) = say(words, step);
                assert_eq!(told.trim_end(), prose);
                let heard = said.heard();
                assert_eq!(heard.text, prose);
                let [call] = heard.calls.as_slice() else { panic!("{words} is one call") };
                assert_eq!((call.tool.0.as_str(), call.arguments.0.as_str()), ("b", "{\"x\": \"```\"}"));
            }
            for words in [
                "```json\n{\"name\": \"c\", \"arguments\": {}}\n```",
                "```json\n{\"name\": \"a\", \"size\": 3}\n``` is what it holds",
                "{\"name\": \"a\"}",
                "The call is {\"name\": \"a\", \"arguments\": {}}",
            ] {
                let (said, told) = say(words, step);
                assert_eq!((told.as_str(), said.heard().text.as_str()), (words, words));
                assert!(said.heard().calls.is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn what_leaves_is_what_was_said(words in any::<String>(), step in 1_usize..9) {
            let (said, prose) = say(&words, step);
            let whole = words.split("<tool_call>").next().unwrap_or_default();
            assert_eq!(prose, whole);
            assert!(whole.starts_with(&said.heard().text));
        }
    }
}
