//! Reads what a model says while it says it.
//!
//! Invariants: only whole characters leave; nothing that may still become the mark of a call leaves as prose; calls are
//! read from what was said whole.

use aaos_core::model::{ModelCall, ModelCallId, RawArguments, RequestedTool};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::tokens::Mark;

/// What was said so far.
#[derive(Debug, Default)]
pub struct Said {
    bytes: Vec<u8>,
    /// Bytes of prose that have left.
    told: usize,
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
    /// Takes the bytes of the next token and gives the prose that is sure now.
    pub fn hear(&mut self, bytes: &[u8]) -> Option<&str> {
        self.bytes.extend_from_slice(bytes);
        let text = valid(&self.bytes);
        let end = match text.find(Mark::CallBegins.text()) {
            Some(place) => place,
            None => text.len() - held(text),
        };
        let from = self.told;
        self.told = from.max(end);
        (end > from).then(|| &text[from..end])
    }

    /// The prose that was held back, once nothing more comes.
    pub fn rest(&mut self) -> Option<&str> {
        let text = valid(&self.bytes);
        let end = text.find(Mark::CallBegins.text()).unwrap_or(text.len());
        let from = std::mem::replace(&mut self.told, end);
        (end > from).then(|| &text[from..end])
    }

    /// Reads the whole.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let text = valid(&self.bytes);
        let Some((prose, said)) = text.split_once(Mark::CallBegins.text()) else {
            return Heard { text: text.to_owned(), calls: Vec::new() };
        };
        let mut calls = Vec::new();
        let mut rest = Some(said);
        while let Some(said) = rest {
            let Some((call, after)) = read_call(said, calls.len()) else { break };
            calls.push(call);
            rest = after.trim_start_matches('\n').strip_prefix(Mark::CallBegins.text());
        }
        // The line's end before the mark belongs to the mark.
        Heard { text: prose.strip_suffix('\n').unwrap_or(prose).to_owned(), calls }
    }
}

/// Reads the call that `said` begins with, and gives what stands after it.
fn read_call(said: &str, number: usize) -> Option<(ModelCall, &str)> {
    let mut values = serde_json::Deserializer::from_str(said).into_iter::<SaidCall>();
    let SaidCall { name, arguments } = values.next()?.ok()?;
    let after = said[values.byte_offset()..].trim_start_matches('\n').strip_prefix(Mark::CallEnds.text())?;
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

/// Bytes at the end that may be the beginning of a call's mark.
fn held(text: &str) -> usize {
    let mark = Mark::CallBegins.text();
    (1..mark.len()).rev().find(|count| text.ends_with(&mark[..*count])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Said;
    use proptest::prelude::{any, proptest};

    /// Says `words` in pieces of `step` bytes; gives the prose that left.
    fn say(words: &str, step: usize) -> (Said, String) {
        let mut said = Said::default();
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
        let words = "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>";
        for end in 0..words.len() {
            let (said, _) = say(&words[..end], 4);
            assert!(said.heard().calls.is_empty(), "{}", &words[..end]);
        }
        assert_eq!(say(words, 4).0.heard().calls.len(), 1, "the whole is one");
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
