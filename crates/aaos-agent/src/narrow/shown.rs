//! Tools as a small model is shown them, and as it may call them in one step.
//!
//! Invariant: arguments that fit a schema made here fit the tool's own; a test has each of them parsed as dispatch does.

use aaos_core::model::{NarrowedCall, ToolSpec};
use aaos_core::name::ToolName;
use serde_json::{Map, Value, json};

/// Most characters of a message or a pattern.
const MAX_LINE_CHARS: u64 = 300;
/// Longest description of a tool that has no shorter one here, bytes.
const MAX_DESCRIPTION: usize = 120;

/// What a tool does, in few words, and the arguments that a small model is shown.
const SHORT: [(&str, &str, &[&str]); 7] = [
    ("file_edit", "Replaces a text in a file.", &["path", "old_string", "new_string"]),
    ("file_list", "Lists a directory.", &["path"]),
    ("file_read", "Reads a file.", &["path"]),
    ("file_write", "Writes a file.", &["path", "content"]),
    ("grep", "Searches files for a pattern.", &["path", "pattern"]),
    ("spawn_agent", "Has a child agent answer a question about files.", &["manifest", "message"]),
    ("web_fetch", "Fetches a web page.", &["url"]),
];

/// The tool as the prompt shows it.
pub(super) fn short(tool: &ToolSpec) -> ToolSpec {
    let known = SHORT.iter().find(|(name, ..)| *name == tool.name.as_str());
    let Some((_, description, names)) = known else {
        let end = tool.description.find(". ").map_or(tool.description.len(), |end| end + 1);
        let end = (0..=end.min(MAX_DESCRIPTION)).rev().find(|at| tool.description.is_char_boundary(*at));
        let description = tool.description[..end.unwrap_or(0)].to_owned();
        return ToolSpec { name: tool.name.clone(), description, input_schema: plain(&tool.input_schema) };
    };
    let properties: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
    ToolSpec {
        name: tool.name.clone(),
        description: (*description).to_owned(),
        input_schema: json!({ "type": "object", "properties": properties, "required": names }),
    }
}

/// A schema without its words.
fn plain(schema: &Value) -> Value {
    const WORDS: [&str; 4] = ["$schema", "title", "description", "format"];
    match schema {
        Value::Object(fields) => {
            let kept =
                fields.iter().filter(|(name, value)| !WORDS.contains(&name.as_str()) || value.is_object());
            Value::Object(kept.map(|(name, value)| (name.clone(), plain(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        other => other.clone(),
    }
}

/// A call with these arguments, all of them.
fn call(tool: &ToolName, properties: &Value) -> NarrowedCall {
    let required: Vec<&String> = properties.as_object().map(|all| all.keys().collect()).unwrap_or_default();
    let input_schema = json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    });
    NarrowedCall { tool: tool.clone(), input_schema }
}

fn text(most: u64) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": most })
}

/// `file_read` of one of these.
pub(super) fn read(tool: &ToolName, paths: &[String], bytes: u64) -> NarrowedCall {
    call(tool, &json!({ "path": { "enum": paths }, "limit": { "const": bytes } }))
}

/// `file_list` of one of these.
pub(super) fn list(tool: &ToolName, paths: &[String]) -> NarrowedCall {
    call(tool, &json!({ "path": { "enum": paths } }))
}

/// `web_fetch` of one of these.
pub(super) fn fetch(tool: &ToolName, urls: &[String], bytes: u64) -> NarrowedCall {
    call(tool, &json!({ "url": { "enum": urls }, "max_bytes": { "const": bytes } }))
}

/// `file_write` to one of these, or to the end of one.
pub(super) fn write(tool: &ToolName, paths: &[String], most: u64, appends: bool) -> NarrowedCall {
    let (path, content) = (json!({ "enum": paths }), text(most));
    match appends {
        true => call(tool, &json!({ "path": path, "append": { "enum": [true] }, "content": content })),
        false => call(tool, &json!({ "path": path, "content": content })),
    }
}

/// `file_edit` of one of these.
pub(super) fn edit(tool: &ToolName, paths: &[String], most: u64) -> NarrowedCall {
    let (old, new) = (text(MAX_LINE_CHARS), json!({ "type": "string", "maxLength": most }));
    call(tool, &json!({ "path": { "enum": paths }, "old_string": old, "new_string": new }))
}

/// `grep` in one of these.
pub(super) fn search(tool: &ToolName, paths: &[String]) -> NarrowedCall {
    call(tool, &json!({ "path": { "enum": paths }, "pattern": text(MAX_LINE_CHARS) }))
}

/// `spawn_agent` of one of these children.
pub(super) fn spawn(tool: &ToolName, manifests: &[String]) -> NarrowedCall {
    call(tool, &json!({ "manifest": { "enum": manifests }, "message": text(MAX_LINE_CHARS) }))
}

/// Any call of a tool, with one argument narrowed to these values where it has it and there are any.
pub(super) fn any(tool: &ToolSpec, argument: &str, values: &[String]) -> NarrowedCall {
    let mut input_schema = tool.input_schema.clone();
    // No schema may hold an empty choice.
    let found = input_schema.pointer_mut(&format!("/properties/{argument}"));
    if let Some(found) = found.filter(|_| !values.is_empty()) {
        *found = json!({ "enum": values });
    }
    NarrowedCall { tool: tool.name.clone(), input_schema }
}
