//! Denials in words: what is missing in the grammar's own form, why, and what to do.

use crate::capability::{Capability, HostRule, NameSet, ToolSet};
use crate::effect::{Denied, FileRight, Need};
use crate::name::ToolName;
use crate::path::{PathPattern, Reach};

use super::table::Unusable;

impl Unusable {
    pub(super) fn reason(self) -> String {
        match self {
            Self::Revoked => "the grant that covered it was revoked".to_owned(),
            Self::Expired => "the grant that covers it has expired".to_owned(),
            Self::UsedUp { most } => {
                format!(
                    "the grant that covers it is used up (max_invocations {most}, shared with its children)"
                )
            }
            Self::TooOften { most, .. } => {
                format!("the grant that covers it was used too often (max_per_minute {most}, shared)")
            }
            Self::HandOnOnly => {
                "the grant that covers it may be handed to a child, not used (use: false)".to_owned()
            }
        }
    }

    fn hint(self) -> String {
        match self {
            Self::TooOften { wait, .. } => format!("try again in {} s", wait.0.div_ceil(1000)),
            Self::HandOnOnly => "spawn a child with this grant and let it do the work".to_owned(),
            Self::Revoked | Self::Expired | Self::UsedUp { .. } => {
                "ask the parent agent or the operator for a fresh grant, or do without".to_owned()
            }
        }
    }
}

/// The grant that a need lacks, in the grammar's words.
pub(super) fn missing(need: &Need) -> String {
    match need {
        Need::Tool(name) => Capability::Tool(ToolSet::One(name.clone())).to_string(),
        Need::File { right: FileRight::Read, path } => format!("file_read: {path}"),
        Need::File { right: FileRight::Write, path } => format!("file_write: {path}"),
        Need::Host { host, port } => {
            let port = (!matches!(port, 80 | 443)).then_some(*port);
            let rule = HostRule { host: host.clone(), subdomains: false, port };
            Capability::Network(vec![rule]).to_string()
        }
        Need::Spawn(name) => Capability::SpawnChild(NameSet::Only(vec![name.clone()])).to_string(),
        Need::Message(name) => Capability::MessageSend(NameSet::Only(vec![name.clone()])).to_string(),
    }
}

/// A denial of `need`, either because nothing covers it or because what covers it cannot be used.
pub(super) fn denied(need: &Need, because: Option<Unusable>) -> Denied {
    let (reason, hint) = match because {
        Some(unusable) => (unusable.reason(), unusable.hint()),
        None => ("no grant covers it".to_owned(), none_covers_hint(need).to_owned()),
    };
    Denied { missing: missing(need), reason, hint }
}

fn none_covers_hint(need: &Need) -> &'static str {
    match need {
        Need::File { .. } => "use a path below one of the granted directories, or ask for a grant",
        Need::Host { .. } => {
            "use a granted host; loopback, private addresses and other ports need a network grant"
        }
        Need::Tool(_) => "use one of the tools on offer",
        Need::Spawn(_) => "give the child a name that the spawn_child grant lists",
        Need::Message(_) => "write to one of the agents that the message_send grant lists",
    }
}

/// A denial of writing memory to an agent that is gone after its run.
pub(super) fn no_stable_identity(tool: &ToolName) -> Denied {
    Denied {
        missing: format!("a stable identity for tool: {tool}"),
        reason: "an agent without stable identity never writes memory, whatever tools it is granted"
            .to_owned(),
        hint: "return what is worth remembering to your parent; a persistent agent may store it".to_owned(),
    }
}

/// A denial of handing `wanted` to a child.
pub(super) fn not_delegable(wanted: &Capability, because: Option<Unusable>, held_back: bool) -> Denied {
    let (reason, hint) = match because {
        Some(unusable) => (unusable.reason(), unusable.hint()),
        None if held_back => (
            "the parent's grant that covers it may not be handed on (delegate: false)".to_owned(),
            "do this step yourself instead of spawning a child for it".to_owned(),
        ),
        None => (
            "no single grant of the parent covers it".to_owned(),
            "give the child only what the parent holds, one entry for each of the parent's grants".to_owned(),
        ),
    };
    Denied { missing: wanted.to_string(), reason, hint }
}

/// A resolved or spelled pattern, for words.
pub(super) fn describe(pattern: &PathPattern) -> String {
    match pattern.reach() {
        Reach::Exact => format!("the file {}", pattern.root()),
        Reach::Subtree => format!("the directory {}", pattern.root()),
    }
}
