//! Tools that have nothing to act on.

use crate::capability::{Capability, GrantSpec, ToolSet};
use crate::path::PathPattern;
use crate::tool::{CATALOGUE, ResourceKind, ToolDescriptor, find};

use super::{Finding, Held, Level, Way};

pub(super) fn findings(held: &Held<'_>) -> Vec<Finding> {
    held.iter().filter_map(|(at, spec)| finding(held, at, spec)).collect()
}

fn finding(held: &Held<'_>, at: usize, spec: &GrantSpec) -> Option<Finding> {
    let Capability::Tool(tools) = &spec.capability else {
        return None;
    };
    let ways: Vec<Way> = [Way::Use, Way::HandOn].into_iter().filter(|way| held.goes(*way, spec)).collect();
    // With no way at all the grant is reported as such.
    let way = *ways.first()?;
    let works = |tool: &ToolDescriptor| ways.iter().any(|way| lack(held, *way, tool).is_none());
    match tools {
        ToolSet::One(name) => {
            let tool = find(name.as_str()).filter(|tool| !works(tool))?;
            let lack = lack(held, way, tool)?;
            let who = if way == Way::Use { "" } else { ", which may be handed on with it" };
            Some(Finding {
                level: Level::Error,
                rule: "tool-without-resource",
                grant: Some(at),
                message: format!("`{spec}` has nothing to act on: it needs {}{who}", lack.needs()),
                advice: format!("add {}, or remove the tool", lack.example()),
            })
        }
        ToolSet::All => {
            let idle: Vec<&str> =
                CATALOGUE.iter().filter(|tool| !works(tool)).map(|tool| tool.name).collect();
            (!idle.is_empty()).then(|| Finding {
                level: Level::Note,
                rule: "any-tool-partly-unusable",
                grant: Some(at),
                message: format!("of `{spec}`, these have nothing to act on: {}", idle.join(", ")),
                advice: "name the tools that are wanted, or add the resources that these need".to_owned(),
            })
        }
    }
}

/// What a tool lacks.
enum Lack {
    /// Grants of these kinds.
    Kinds(Vec<ResourceKind>),
    /// It reads and writes one file, and no path may be both read and written.
    Overlap,
}

impl Lack {
    fn needs(&self) -> String {
        match self {
            Self::Kinds(kinds) => kinds.iter().map(|kind| needed(*kind).0).collect::<Vec<_>>().join(" and "),
            Self::Overlap => "a path that may be both read and written".to_owned(),
        }
    }

    fn example(&self) -> String {
        match self {
            Self::Kinds(kinds) => kinds.iter().map(|kind| needed(*kind).1).collect::<Vec<_>>().join(" and "),
            Self::Overlap => "`file_read` and `file_write` of the same directory".to_owned(),
        }
    }
}

/// A kind of resource in words, and an example of it.
const fn needed(kind: ResourceKind) -> (&'static str, &'static str) {
    match kind {
        ResourceKind::FileRead => ("a `file_read` grant", "`file_read: /abs/dir/*`"),
        ResourceKind::FileWrite => ("a `file_write` grant", "`file_write: /abs/dir/*`"),
        ResourceKind::Network => ("a `network` or `web_search` grant", "`network: example.org`"),
        ResourceKind::SpawnChild => ("a `spawn_child` grant", "`spawn_child: [reader]`"),
        ResourceKind::MessageSend => ("a `message_send` grant", "`message_send: [keeper]`"),
        ResourceKind::Exec => ("an `exec` grant", "`exec: /usr/bin/wc`"),
        ResourceKind::Git => ("an `exec` grant of a program called `git`", "`exec: /usr/bin/git`"),
        ResourceKind::Cargo => {
            ("an `exec` grant of a program called `cargo`", "`exec: /abs/toolchain/bin/cargo`")
        }
        ResourceKind::Rustc => {
            ("an `exec` grant of a program called `rustc`", "`exec: /abs/toolchain/bin/rustc`")
        }
    }
}

fn lack(held: &Held<'_>, way: Way, tool: &ToolDescriptor) -> Option<Lack> {
    let kinds = held.lacks(way, tool);
    if !kinds.is_empty() {
        return Some(Lack::Kinds(kinds));
    }
    let both = [ResourceKind::FileRead, ResourceKind::FileWrite];
    let needs_both = both.iter().all(|kind| tool.resources.contains(kind));
    (needs_both && !overlaps(held, way)).then_some(Lack::Overlap)
}

/// Whether some path may be both read and written.
fn overlaps(held: &Held<'_>, way: Way) -> bool {
    let read = held.going(way).filter_map(|spec| match &spec.capability {
        Capability::FileRead(pattern) => Some(pattern),
        _ => None,
    });
    let written: Vec<&PathPattern> = held
        .going(way)
        .filter_map(|spec| match &spec.capability {
            Capability::FileWrite(pattern) => Some(pattern),
            _ => None,
        })
        .collect();
    read.into_iter().any(|read| written.iter().any(|one| one.covers(read) || read.covers(one)))
}
