//! The forms in which a model writes a call: between the marks that the prompt teaches, as JSON in a fenced block, as
//! models of code prefer to, and as JSON alone that a whole reply is.
//!
//! Invariants: what [`Forms::find`] takes for the beginning of a call and what the grammar holds to a valid one is the
//! same, form by form; JSON that names no tool on offer, or has no arguments, is text.

use aaos_core::model::ToolSpec;

use crate::tokens::Mark;

/// What may stand between two tokens of a call's JSON.
const SPACE: &str = r"[ \n]*";
/// The fence of a block.
pub const FENCE: &str = "```";
/// What it may say of its language.
const LANGUAGE: &str = "json";

/// How a call is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Between marks.
    Marked,
    /// In a fenced block.
    Fenced,
    /// With nothing around it.
    Bare,
}

/// Where a call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// How it is written.
    pub form: Form,
    /// Where the prose before it ends.
    pub prose: usize,
    /// Where its JSON begins.
    pub json: usize,
}

/// What is known of a text that may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A call begins in it.
    Opening(Opening),
    /// None does yet. So many bytes are prose whatever follows.
    Prose(usize),
}

/// The forms of calls of the tools on offer.
#[derive(Debug, Clone, Default)]
pub struct Forms {
    names: Vec<String>,
}

/// How far a text agrees with what a call begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agrees {
    /// It begins so, with the call's JSON behind so many bytes.
    Whole(usize),
    /// As far as it goes.
    SoFar,
    /// It says something else.
    Not,
}

impl Forms {
    /// Of these tools.
    #[must_use]
    pub fn of(tools: &[ToolSpec]) -> Self {
        Self { names: tools.iter().map(|tool| tool.name.as_str().to_owned()).collect() }
    }

    /// Looks for the beginning of the first call in a reply.
    #[must_use]
    pub fn find(&self, text: &str) -> Found {
        let bare = std::iter::once((0, self.json(text), Form::Bare));
        let others = text.match_indices(['<', '`']).map(|(at, _)| {
            let rest = &text[at..];
            match rest.starts_with('<') {
                true => (at, marked_here(rest), Form::Marked),
                false => (at, self.block(rest), Form::Fenced),
            }
        });
        for (prose, agrees, form) in bare.chain(others) {
            match agrees {
                Agrees::Whole(json) => return Found::Opening(Opening { form, prose, json: prose + json }),
                Agrees::SoFar => return Found::Prose(prose),
                Agrees::Not => {}
            }
        }
        Found::Prose(text.len())
    }

    /// Whether a fenced block begins with a call.
    fn block(&self, text: &str) -> Agrees {
        let Some(inside) = text.strip_prefix(FENCE) else { return so_far(FENCE, text, self) };
        let json = match inside.strip_prefix(LANGUAGE) {
            Some(json) => json,
            None if !inside.is_empty() && LANGUAGE.starts_with(inside) => {
                return so_far(LANGUAGE, inside, self);
            }
            None => inside,
        };
        match self.json(json) {
            Agrees::Whole(at) => Agrees::Whole(text.len() - json.len() + at),
            other => other,
        }
    }

    /// Whether JSON begins as a call of a tool on offer does.
    fn json(&self, text: &str) -> Agrees {
        let json = text.trim_start_matches([' ', '\n']);
        let begins = |name: &String| {
            let name = format!("\"{name}\"");
            goes_on(json, &["{", "\"name\"", ":", &name, ",", "\"arguments\"", ":"])
        };
        let all: Vec<Agrees> = self.names.iter().map(begins).collect();
        match (all.contains(&Agrees::Whole(0)), all.contains(&Agrees::SoFar)) {
            (true, _) => Agrees::Whole(text.len() - json.len()),
            (false, true) => Agrees::SoFar,
            (false, false) => Agrees::Not,
        }
    }
}

/// Whether a text begins with the mark of a call.
fn marked_here(text: &str) -> Agrees {
    let mark = Mark::CallBegins.text();
    match (text.starts_with(mark), mark.starts_with(text)) {
        (true, _) => Agrees::Whole(mark.len()),
        (false, true) => Agrees::SoFar,
        (false, false) => Agrees::Not,
    }
}

/// Whether a text may become these words, which mean something only where tools are on offer.
fn so_far(words: &str, text: &str, forms: &Forms) -> Agrees {
    if words.starts_with(text) && !forms.names.is_empty() { Agrees::SoFar } else { Agrees::Not }
}

/// Whether a text begins with these pieces, with space between them or not.
fn goes_on(text: &str, pieces: &[&str]) -> Agrees {
    let mut rest = text;
    for piece in pieces {
        rest = rest.trim_start_matches([' ', '\n']);
        let Some(after) = rest.strip_prefix(piece) else {
            return if piece.starts_with(rest) { Agrees::SoFar } else { Agrees::Not };
        };
        rest = after;
    }
    Agrees::Whole(0)
}

/// The expression of what a call's JSON begins with, up to its arguments, of one of these tools.
fn head(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let names = format!("\"({})\"", names.join("|"));
    [r"\{", "\"name\"", ":", &names, ",", "\"arguments\"", ":"].join(SPACE)
}

/// The expression of a beginning in a fenced block, with what stands before it.
#[must_use]
pub fn fenced(before: &str, names: &[&str]) -> String {
    format!("{before}{FENCE}({LANGUAGE})?{SPACE}{}", head(names))
}

/// The expression of a beginning that nothing stands before.
#[must_use]
pub fn bare(names: &[&str]) -> String {
    format!("{SPACE}{}", head(names))
}

/// The expression of whatever stands before a beginning.
pub const ANYTHING: &str = "(?s:.*)";
/// The expression of words in which nothing looks like a beginning.
pub const PLAIN_WORDS: &str = r"[^`\{<]*";

/// The expression of a beginning between marks, with what stands before it.
#[must_use]
pub fn marked(before: &str) -> String {
    format!("{before}{}", Mark::CallBegins.text())
}

/// The expression of what ends a call in a fenced block.
pub const FENCED_END: &str = r"[ \n]{0,8}\}[ \n]{0,8}```";
/// The expression of what ends a call that nothing stands around.
pub const BARE_END: &str = r"[ \n]{0,8}\}";

/// An expression that a text fits and nothing else.
fn literal(text: &str) -> String {
    let mut escaped = String::new();
    for one in text.chars() {
        if !one.is_ascii_alphanumeric() && one != '_' && one.is_ascii() {
            escaped.push('\\');
        }
        escaped.push(one);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use aaos_core::model::ToolSpec;
    use aaos_core::name::ToolName;

    use super::{Form, Forms, Found, Opening};

    fn forms(names: &[&str]) -> Forms {
        let tool = |name: &&str| ToolSpec {
            name: ToolName::parse(name).expect("a name"),
            description: String::new(),
            input_schema: serde_json::Value::Null,
        };
        Forms::of(&names.iter().map(tool).collect::<Vec<_>>())
    }

    #[test]
    fn a_call_is_found_in_each_form_and_other_json_is_none() {
        let forms = forms(&["read", "read_all"]);
        for (text, form, prose, json) in [
            ("a <tool_call>\n{", Form::Marked, 2, 13),
            ("ok\n```json\n{\"name\": \"read\", \"arguments\":", Form::Fenced, 3, 11),
            ("```\n{\n  \"name\": \"read_all\",\n  \"arguments\": {", Form::Fenced, 0, 4),
            ("````json{\"name\":\"read\",\"arguments\":{", Form::Fenced, 1, 8),
            ("\n {\"name\": \"read\", \"arguments\": {", Form::Bare, 0, 2),
        ] {
            assert_eq!(forms.find(text), Found::Opening(Opening { form, prose, json }), "{text:?}");
        }
        for text in [
            "```json\n{\"name\": \"Alice\", \"arguments\": 1}\n```",
            "```json\n{\"name\": \"read\", \"age\": 1}\n```",
            "```json\n{\"name\": \"reader\", \"arguments\": {}}\n```",
            "```rust\n{\"name\": \"read\", \"arguments\": {}}\n```",
            "see {\"name\": \"read\", \"arguments\": {}}",
            "[{\"name\": \"read\", \"arguments\": {}}]",
            "`` ` <tool_cal",
        ] {
            let Found::Prose(sure) = forms.find(&format!("{text} .")) else { panic!("{text:?} is text") };
            assert_eq!(sure, text.len() + 2, "{text:?}");
        }
        let none = super::Forms::default();
        let text = "```json\n{\"name\": \"read\", \"arguments\":";
        assert_eq!(none.find(text), Found::Prose(text.len()), "nothing is on offer");
    }

    #[test]
    fn what_may_become_a_call_is_held_back_from_its_first_letter_on() {
        let forms = forms(&["read"]);
        for (words, from) in [
            ("ok ```json\n{ \"name\": \"read\", \"arguments\":", 3),
            ("\n{\"name\": \"read\",\n\"arguments\":", 0),
        ] {
            for end in from..words.len() {
                assert_eq!(forms.find(&words[..end]), Found::Prose(from), "{:?}", &words[..end]);
            }
            assert!(matches!(forms.find(words), Found::Opening(_)), "the whole is one");
        }
    }
}
