//! The capability grammar of SPEC §2 as data.
//!
//! Invariant: a value here is well formed; text becomes one only through [`Capability::parse`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{AgentName, ToolName};
use crate::path::PathPattern;

/// A host name or address with an optional port, as `network:` grants it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostRule {
    /// Lower-case name or IP literal; for a subdomain rule the name after `*.`.
    pub host: String,
    /// Whether it is written `*.host` and means every subdomain (not the host itself).
    pub subdomains: bool,
    /// The one port allowed; 443 and 80 when absent.
    pub port: Option<u16>,
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subdomains {
            f.write_str("*.")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// A set of names, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameSet {
    /// `[*]`.
    All,
    /// Exactly these, sorted, without duplicates.
    Only(Vec<AgentName>),
}

/// Which tools a `tool:` grant names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolSet {
    /// `*`.
    All,
    /// One tool.
    One(ToolName),
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
    pub usable: bool,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            max_invocations: None,
            max_per_minute: None,
            expires_in_seconds: None,
            delegate: true,
            usable: true,
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
