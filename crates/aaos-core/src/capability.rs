//! The capability grammar of SPEC §2 as data.
//!
//! Invariant: a value here is well formed; text becomes one only through [`Capability::parse`] and
//! [`GrantSpec::parse`]. `Display` writes the grammar's own words, which parse to the same value.

mod grammar;
mod host;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{AgentName, NameError, ToolName};
use crate::path::{AbsPath, PathPattern};

pub(crate) use grammar::cut;
pub use grammar::{CapabilityError, Value, nearest, tool_name};
pub use host::{HostRule, is_local_name, is_public_web};

/// A set of names, or all of them. In JSON a list, as in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub enum NameSet {
    /// `[*]`.
    All,
    /// Exactly these, sorted, without duplicates.
    Only(Vec<AgentName>),
}

impl NameSet {
    /// Whether it names this agent.
    #[must_use]
    pub fn contains(&self, name: &AgentName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

impl fmt::Display for NameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("[*]"),
            Self::Only(names) => {
                let names: Vec<&str> = names.iter().map(AgentName::as_str).collect();
                write!(f, "[{}]", names.join(", "))
            }
        }
    }
}

impl From<NameSet> for Vec<String> {
    fn from(names: NameSet) -> Self {
        match names {
            NameSet::All => vec!["*".to_owned()],
            NameSet::Only(names) => names.iter().map(AgentName::to_string).collect(),
        }
    }
}

impl TryFrom<Vec<String>> for NameSet {
    type Error = CapabilityError;

    fn try_from(listed: Vec<String>) -> Result<Self, Self::Error> {
        let listed = listed.iter().map(String::as_str).collect();
        grammar::names("spawn_child", grammar::SPAWN_EXAMPLE, &Value::List(listed))
    }
}

/// Which tools a `tool:` grant names. In JSON a text, as in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ToolSet {
    /// `*`.
    All,
    /// One tool.
    One(ToolName),
}

impl From<ToolSet> for String {
    fn from(tools: ToolSet) -> Self {
        match tools {
            ToolSet::All => "*".to_owned(),
            ToolSet::One(name) => name.to_string(),
        }
    }
}

impl TryFrom<String> for ToolSet {
    type Error = NameError;

    /// Unlike the grammar it takes a name that the catalogue lacks: the journal may be older than the catalogue.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "*" { Ok(Self::All) } else { ToolName::parse(&text).map(Self::One) }
    }
}

/// Authority over a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// To read files and list directories.
    FileRead(PathPattern),
    /// To create and change files.
    FileWrite(PathPattern),
    /// To invoke tools by name.
    Tool(ToolSet),
    /// `web_fetch` of any public host.
    WebSearch,
    /// `web_fetch` of these hosts.
    Network(Vec<HostRule>),
    /// To spawn children with these names.
    SpawnChild(NameSet),
    /// To send messages to these agents.
    MessageSend(NameSet),
    /// To start this program in a program sandbox.
    Exec(AbsPath),
}

impl Capability {
    /// The pattern of a file capability.
    #[must_use]
    pub const fn file_pattern(&self) -> Option<&PathPattern> {
        match self {
            Self::FileRead(pattern) | Self::FileWrite(pattern) => Some(pattern),
            Self::Tool(_)
            | Self::WebSearch
            | Self::Network(_)
            | Self::SpawnChild(_)
            | Self::MessageSend(_)
            | Self::Exec(_) => None,
        }
    }

    /// The same authority over another place, for a file capability; any other as it is.
    #[must_use]
    pub fn with_pattern(&self, pattern: PathPattern) -> Self {
        match self {
            Self::FileRead(_) => Self::FileRead(pattern),
            Self::FileWrite(_) => Self::FileWrite(pattern),
            other => other.clone(),
        }
    }

    /// The form's name in the grammar.
    #[must_use]
    pub const fn form(&self) -> &'static str {
        match self {
            Self::FileRead(_) => "file_read",
            Self::FileWrite(_) => "file_write",
            Self::Tool(_) => "tool",
            Self::WebSearch => "web_search",
            Self::Network(_) => "network",
            Self::SpawnChild(_) => "spawn_child",
            Self::MessageSend(_) => "message_send",
            Self::Exec(_) => "exec",
        }
    }

    /// What stands after the colon; `None` for `web_search`.
    fn value_text(&self) -> Option<String> {
        match self {
            Self::FileRead(pattern) | Self::FileWrite(pattern) => Some(pattern.to_string()),
            Self::Tool(ToolSet::All) => Some("*".to_owned()),
            Self::Tool(ToolSet::One(name)) => Some(name.to_string()),
            Self::WebSearch => None,
            Self::Network(rules) => {
                Some(rules.iter().map(HostRule::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::SpawnChild(names) | Self::MessageSend(names) => Some(names.to_string()),
            Self::Exec(program) => Some(program.to_string()),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value_text() {
            Some(value) => write!(f, "{}: {value}", self.form()),
            None => f.write_str(self.form()),
        }
    }
}

/// What the map form of a grant adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Constraints {
    /// Uses left when issued.
    pub max_invocations: Option<u32>,
    /// Uses in any minute.
    pub max_per_minute: Option<u32>,
    /// Lifetime from issue.
    pub expires_in_seconds: Option<u32>,
    /// Whether it may be handed to a child.
    pub delegate: bool,
    /// Whether the holder may use it itself.
    #[serde(rename = "use")]
    pub usable: bool,
    /// Whether each use waits for a human.
    #[serde(default)]
    pub approval_required: bool,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            max_invocations: None,
            max_per_minute: None,
            expires_in_seconds: None,
            delegate: true,
            usable: true,
            approval_required: false,
        }
    }
}

/// One entry of a manifest's `capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GrantSpec {
    /// What it grants.
    pub capability: Capability,
    /// Within which bounds.
    pub constraints: Constraints,
}

impl From<Capability> for GrantSpec {
    fn from(capability: Capability) -> Self {
        Self { capability, constraints: Constraints::default() }
    }
}

impl fmt::Display for GrantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = &self.constraints;
        if *bounds == Constraints::default() {
            return self.capability.fmt(f);
        }
        let value = self.capability.value_text().unwrap_or_else(|| "true".to_owned());
        write!(f, "{{ {}: {}", self.capability.form(), quoted(&value))?;
        let counts = [
            ("max_invocations", bounds.max_invocations),
            ("max_per_minute", bounds.max_per_minute),
            ("expires_in_seconds", bounds.expires_in_seconds),
        ];
        for (name, count) in counts {
            if let Some(count) = count {
                write!(f, ", {name}: {count}")?;
            }
        }
        for (name, right) in [("delegate", bounds.delegate), ("use", bounds.usable)] {
            if !right {
                write!(f, ", {name}: false")?;
            }
        }
        if bounds.approval_required {
            f.write_str(", approval_required: true")?;
        }
        f.write_str(" }")
    }
}

/// A YAML double-quoted scalar; JSON's quoting is a subset of it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
