//! The arguments of `command_run`: what the schema says and what it cannot say.

use aaos_core::effect::{EffectClass, Need};
use aaos_core::limits::{
    COMMAND_SECONDS, MAX_COMMAND_ARGUMENT_BYTES, MAX_COMMAND_ARGUMENTS, MAX_COMMAND_SECONDS,
    MAX_COMMAND_STDIN_BYTES,
};
use aaos_core::path::AbsPath;
use aaos_core::tool::{FileChanges, ToolCall, ToolInput, ToolPlace, find};
use aaos_core::toolio::{CommandRunInput, ToolFailureKind};
use serde_json::json;

fn input(args: Vec<String>) -> CommandRunInput {
    CommandRunInput {
        program: AbsPath::parse("/bin/a").expect("a path"),
        args,
        stdin: None,
        directory: None,
        timeout_seconds: COMMAND_SECONDS,
    }
}

fn refused(input: &CommandRunInput) -> Option<String> {
    let failure = input.check().err()?;
    assert_eq!(failure.kind, ToolFailureKind::InvalidArguments);
    Some(failure.message)
}

#[test]
fn a_call_needs_the_tool_and_the_program_and_is_made_once() {
    let call = ToolCall::new(ToolInput::CommandRun(input(Vec::new()))).expect("usable");
    let program = Need::Exec(AbsPath::parse("/bin/a").expect("a path"));
    assert_eq!(call.needs().all, [Need::Tool(call.input.tool_name()), program]);
    let tool = find("command_run").expect("it is there");
    assert_eq!((tool.class, tool.place), (EffectClass::Once, ToolPlace::Program));
    assert_eq!(tool.file_changes, FileChanges::Unrecorded, "no goal is forked after it");
}

#[test]
fn arguments_are_bounded_as_the_kernel_bounds_them() {
    // The program's name and each argument end with a NUL.
    let name = "/bin/a".len() + 1;
    let longest = "x".repeat(MAX_COMMAND_ARGUMENT_BYTES - name - 1);
    assert_eq!(refused(&input(vec![longest.clone()])), None);
    assert!(refused(&input(vec![longest + "x"])).is_some_and(|why| why.contains("131072 bytes in 1")));
    let half = (MAX_COMMAND_ARGUMENT_BYTES - name - 2) / 2;
    assert_eq!(refused(&input(vec!["x".repeat(half); 2])), None, "the sum counts");
    assert!(refused(&input(vec!["x".repeat(half + 1); 2])).is_some());
    assert_eq!(refused(&input(vec![String::new(); MAX_COMMAND_ARGUMENTS])), None);
    assert!(refused(&input(vec![String::new(); MAX_COMMAND_ARGUMENTS + 1])).is_some());
    assert!(refused(&input(vec!["a".to_owned(), "b\0".to_owned()])).is_some_and(|why| why.contains("NUL")));
}

#[test]
fn standard_input_is_bounded() {
    let with = |bytes| CommandRunInput { stdin: Some("x".repeat(bytes)), ..input(Vec::new()) };
    assert_eq!(refused(&with(MAX_COMMAND_STDIN_BYTES)), None);
    assert!(refused(&with(MAX_COMMAND_STDIN_BYTES + 1)).is_some_and(|why| why.contains("1048577")));
}

#[test]
fn the_schema_has_the_limits_and_defaults() {
    let tool = find("command_run").expect("it is there");
    let schema = tool.input_schema();
    let bound = |field: &str, key: &str| schema["properties"][field][key].as_u64();
    assert_eq!(bound("timeout_seconds", "maximum"), Some(MAX_COMMAND_SECONDS));
    assert_eq!(bound("timeout_seconds", "default"), Some(60));
    assert_eq!(bound("args", "maxItems"), Some(MAX_COMMAND_ARGUMENTS as u64));
    assert_eq!(bound("stdin", "maxLength"), Some(MAX_COMMAND_STDIN_BYTES as u64));
    let parsed = tool.parse_input(json!({ "program": "/bin/a" })).expect("the rest has defaults");
    assert_eq!(parsed, ToolInput::CommandRun(input(Vec::new())));
    assert!(tool.parse_input(json!({ "program": "a" })).is_err(), "no absolute path");
}
