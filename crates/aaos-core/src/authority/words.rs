//! Denials in words: what is missing in the grammar's own form, why, and what to do.

use crate::capability::{Capability, GrantSpec, HostRule, NameSet, ToolSet};
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

/// The grant that a need lacks, in the grammar's words; in other words where the grammar has none that name just
/// this: a grant of `/*` is not what a file of that name lacks.
pub(super) fn missing(need: &Need) -> String {
    match need {
        Need::Tool(name) => Capability::Tool(ToolSet::One(name.clone())).to_string(),
        Need::File { right, path } => {
            let form = match right {
                FileRight::Read => "file_read",
                FileRight::Write => "file_write",
            };
            let words = format!("{form}: {path}");
            let is_it = |pattern: &PathPattern| pattern.reach() == Reach::Exact && pattern.root() == path;
            match GrantSpec::parse(&words) {
                Ok(spec) if spec.capability.file_pattern().is_some_and(is_it) => words,
                _ => format!("a {form} grant that covers {path:?}"),
            }
        }
        Need::Host { host, port } => {
            let port = (!matches!(port, 80 | 443)).then_some(*port);
            let rule = HostRule { host: host.clone(), subdomains: false, port };
            let wanted = Capability::Network(vec![rule]);
            let words = wanted.to_string();
            match GrantSpec::parse(&words) {
                Ok(spec) if spec.capability == wanted => words,
                _ => format!("a network grant that covers {host:?}"),
            }
        }
        Need::Spawn(name) => Capability::SpawnChild(NameSet::Only(vec![name.clone()])).to_string(),
        Need::Message(name) => Capability::MessageSend(NameSet::Only(vec![name.clone()])).to_string(),
        Need::Program(known) => format!("an exec grant of a program called {}", known.file_name()),
        Need::Exec(program) => {
            let wanted = Capability::Exec(program.clone());
            match GrantSpec::parse(&wanted.to_string()) {
                Ok(spec) if spec.capability == wanted => wanted.to_string(),
                _ => format!("an exec grant of {program:?}"),
            }
        }
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
        // Whether the path is a directory is not for the law to look up.
        Need::File { .. } => {
            "use a path below one of the granted directories, or ask for a grant; that of a directory ends in /*"
        }
        Need::Host { .. } => {
            "use a granted host; loopback, private addresses and other ports need a network grant"
        }
        Need::Tool(_) => "use one of the tools on offer",
        Need::Spawn(_) => "give the child a name that the spawn_child grant lists",
        Need::Message(_) => "write to one of the agents that the message_send grant lists",
        Need::Exec(_) => "start one of the granted programs, spelled as the grant spells it",
        Need::Program(_) => "ask for a grant of it, by its whole path",
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

#[cfg(test)]
mod tests {
    use super::missing;
    use crate::capability::GrantSpec;
    use crate::effect::{FileRight, Need};
    use crate::path::AbsPath;

    fn read(path: &str) -> String {
        missing(&Need::File { right: FileRight::Read, path: AbsPath::parse(path).expect("a path") })
    }

    #[test]
    fn a_path_is_named_where_the_grammar_has_a_pattern_for_it_alone() {
        for plain in ["/data", "/data/a b", "/data/#x", "/data/ü", "/data/[", "/data/{a}"] {
            let words = read(plain);
            let named =
                GrantSpec::parse(&words).ok().and_then(|spec| spec.capability.file_pattern().cloned());
            let found = named.map_or_else(|| words.clone(), |pattern| pattern.to_string());
            assert!(found == plain || plain == "/data/[", "{words}");
        }
        for odd in ["/*", "/data/*", "/data ", "/data/a\nb", "/data/a*b", "/data/../etc", "/", "/data/["] {
            let words = read(odd);
            assert_eq!(words, format!("a file_read grant that covers {odd:?}"));
            assert!(GrantSpec::parse(&words).is_err(), "nobody takes it for a grant: {words}");
        }
    }

    #[test]
    fn a_host_is_named_where_the_grammar_has_a_rule_for_it_alone() {
        let host = |host: &str, port| missing(&Need::Host { host: host.to_owned(), port });
        assert_eq!(host("example.org", 443), "network: example.org");
        assert_eq!(host("::1", 80), "network: [::1]");
        assert_eq!(host("127.0.0.1", 8080), "network: 127.0.0.1:8080");
        for odd in ["*", "127.1", "0x7f.1", "*.example.org", "a,b", "example.org:8080", "a b"] {
            let words = host(odd, 443);
            assert_eq!(words, format!("a network grant that covers {odd:?}"));
            assert!(GrantSpec::parse(&words).is_err(), "{words}");
        }
    }
}
