//! What the planner tells its children: a role in the manifest, a task in the message.
//!
//! Invariants: a role is read only from the first line of a system prompt; a manifest holds no text that is
//! not quoted; a child is given no capability beyond what its task names.

use std::fmt::Write as _;

use aaos_core::name::ModelName;
use aaos_core::path::{AbsPath, PathPattern};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::goal::Act;

const ROLE_KEY: &str = "aaos-builtin-role: ";
const TASK_KEY: &str = "task: ";

/// What a child is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Lists and reads files.
    Reader,
    /// Fetches pages.
    Fetcher,
    /// Searches files.
    Searcher,
    /// Writes the result.
    Writer,
}

impl Role {
    const ALL: [Self; 4] = [Self::Reader, Self::Fetcher, Self::Searcher, Self::Writer];

    /// Its name, also the child's.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Fetcher => "fetcher",
            Self::Searcher => "searcher",
            Self::Writer => "writer",
        }
    }

    const fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Reader => &["file_list", "file_read", "file_read_many"],
            Self::Fetcher => &["web_fetch"],
            Self::Searcher => &["grep"],
            Self::Writer => &["file_write"],
        }
    }

    const fn duty(self) -> &'static str {
        match self {
            Self::Reader => "You read the files of your task and report findings about them.",
            Self::Fetcher => "You fetch the pages of your task and report findings about them.",
            Self::Searcher => "You search the files of your task and report the matches.",
            Self::Writer => "You write the findings that you are handed to the outputs of your task.",
        }
    }

    /// The role that a system prompt names in its first line.
    pub(super) fn of_prompt(system: &str) -> Option<Self> {
        let name = system.lines().next()?.strip_prefix(ROLE_KEY)?.trim();
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// What a reader, fetcher or searcher is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GatherTask {
    /// What to make of it.
    pub(super) act: Act,
    /// Files and directories.
    pub(super) paths: Vec<AbsPath>,
    /// Pages.
    pub(super) urls: Vec<String>,
    /// Extensions that files found in directories must have; empty for any.
    pub(super) only: Vec<String>,
    /// Files not to be read: the goal's own outputs.
    pub(super) exclude: Vec<AbsPath>,
    /// Paths are shown relative to this directory.
    pub(super) base: AbsPath,
    /// How many sentences were asked for.
    pub(super) limit: Option<usize>,
}

/// What a writer is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WriteTask {
    /// What the findings are.
    pub(super) act: Act,
    /// Files to write.
    pub(super) outputs: Vec<AbsPath>,
    /// Heading of the document.
    pub(super) title: String,
}

/// A resource that a child is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
    /// To read.
    Read(PathPattern),
    /// To write.
    Write(PathPattern),
    /// To fetch from `host:port`.
    Network(String),
    /// To fetch from any public host.
    WebSearch,
}

/// The manifest of a child, YAML text. Its model is its parent's, which a parent may always hand out.
pub(super) fn manifest(model: &ModelName, role: Role, also: &[Role], resources: &[Resource]) -> String {
    let mut yaml = format!("name: {}\nmodel: {}\n", role.name(), yaml_string(model.as_str()));
    let prompt = format!(
        "{ROLE_KEY}{}\n{} You are a deterministic program, not a language model.",
        role.name(),
        role.duty()
    );
    add(&mut yaml, format_args!("system_prompt: {}\ncapabilities:\n", yaml_string(&prompt)));
    for tool in role.tools().iter().chain(also.iter().flat_map(|other| other.tools())) {
        add(&mut yaml, format_args!("  - tool: {tool}\n"));
    }
    for resource in resources {
        match resource {
            Resource::Read(pattern) => {
                add(&mut yaml, format_args!("  - file_read: {}\n", yaml_string(&pattern.to_string())));
            }
            Resource::Write(pattern) => {
                add(&mut yaml, format_args!("  - file_write: {}\n", yaml_string(&pattern.to_string())));
            }
            Resource::Network(host) => {
                add(&mut yaml, format_args!("  - network: {}\n", yaml_string(host)));
            }
            Resource::WebSearch => yaml.push_str("  - web_search\n"),
        }
    }
    yaml
}

fn add(yaml: &mut String, text: std::fmt::Arguments<'_>) {
    yaml.write_fmt(text).unwrap_or_else(|error| unreachable!("a String takes any text: {error}"));
}

/// A YAML 1.2 double-quoted scalar (§7.3.1): everything but printable ASCII and letters is escaped.
fn yaml_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            '\n' => quoted.push_str("\\n"),
            _ if character.is_alphanumeric() => quoted.push(character),
            '\0'..='\u{ffff}' => add(&mut quoted, format_args!("\\u{:04x}", u32::from(character))),
            _ => add(&mut quoted, format_args!("\\U{:08x}", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}

/// A child's message: a sentence for people, then the task.
pub(super) fn message(role: Role, task: &impl Serialize) -> String {
    let json =
        serde_json::to_string(task).unwrap_or_else(|error| unreachable!("tasks are plain JSON: {error}"));
    let sentence = match role {
        Role::Writer => "Write the prior findings to the outputs of this task.",
        _ => "Report findings about the inputs of this task.",
    };
    format!("{sentence}\n{TASK_KEY}{json}")
}

/// The task in a child's message (without its findings).
pub(super) fn read<T: DeserializeOwned>(message: &str) -> Option<T> {
    let json = message.lines().find_map(|line| line.strip_prefix(TASK_KEY))?;
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use aaos_core::name::ModelName;
    use aaos_core::path::PathPattern;

    use super::{Resource, Role, manifest, yaml_string};

    #[test]
    fn only_the_first_line_names_a_role() {
        assert_eq!(Role::of_prompt("aaos-builtin-role: writer\nx"), Some(Role::Writer));
        assert_eq!(Role::of_prompt("x\naaos-builtin-role: writer"), None);
        assert_eq!(Role::of_prompt("aaos-builtin-role: king"), None);
        assert_eq!(Role::of_prompt(""), None);
    }

    #[test]
    fn strings_are_quoted_for_yaml() {
        assert_eq!(yaml_string("a: \"b\"\\\n- ü😀\u{85}"), "\"a: \\\"b\\\"\\\\\\n- ü\\U0001f600\\u0085\"");
    }

    #[test]
    fn a_manifest_names_what_is_needed_and_no_more() {
        let model = ModelName::parse("*a:#b").expect("a name");
        let pattern = PathPattern::parse("/w/my \"docs\": #1/*").expect("a pattern");
        let yaml = manifest(&model, Role::Reader, &[], &[Resource::Read(pattern)]);
        assert!(yaml.starts_with("name: reader\nmodel: \"*a:#b\"\n"), "{yaml}");
        assert!(yaml.contains("  - file_read: \"/w/my \\\"docs\\\": #1/*\"\n"), "{yaml}");
        assert!(yaml.contains("system_prompt: \"aaos-builtin-role: reader\\n"), "{yaml}");
        assert!(!yaml.contains("file_write") && !yaml.contains("network"), "{yaml}");
    }
}
