//! The RUNTIME FACTS block of a goal's briefing: where relative paths start and what is granted.
//!
//! Invariant: the goal is only the text before the block, and facts come only from the block.

use aaos_core::capability::{Capability, GrantSpec, HostRule, NameSet};
use aaos_core::path::{AbsPath, PathPattern, Reach};

/// The line that the runtime puts between the goal and its facts.
const FACTS_LINE: &str = "RUNTIME FACTS (from aaOS, not part of the goal)";

/// A goal with what the runtime says about it.
#[derive(Debug, Clone)]
pub(super) struct Briefing<'m> {
    /// The operator's words.
    pub(super) goal: &'m str,
    /// Where relative paths start, if the goal has such a place.
    pub(super) working_directory: Option<AbsPath>,
    /// Outputs that were declared.
    pub(super) outputs: Vec<AbsPath>,
    /// What may be handed to children.
    pub(super) grants: Grants,
}

/// Grants of the goal's root agent, as far as the planner uses them.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants {
    read: Vec<PathPattern>,
    write: Vec<PathPattern>,
    hosts: Vec<HostRule>,
    any_public_host: bool,
    children: Vec<NameSet>,
}

/// How a host is reached: by its own rule, or by the right to every public host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostGrant {
    /// A `network:` grant covers it.
    Network,
    /// Only `web_search` may cover it.
    WebSearch,
}

/// Reads a briefing; `None` when the message holds no facts.
pub(super) fn read(message: &str) -> Option<Briefing<'_>> {
    let start = message.rfind(FACTS_LINE)?;
    let (goal, block) = message.split_at(start);
    if !goal.is_empty() && !goal.ends_with('\n') {
        return None;
    }
    Some(read_block(goal.trim(), block))
}

fn read_block<'m>(goal: &'m str, block: &str) -> Briefing<'m> {
    let mut working_directory = None;
    let mut outputs = Vec::new();
    let mut grants = Grants::default();
    let mut section = "";
    for line in block.lines().skip(1) {
        if let Some(item) = line.trim_start().strip_prefix("- ") {
            match section {
                "outputs" => outputs.extend(AbsPath::parse(item.trim()).ok()),
                "grants" => grants.add(item.trim()),
                _ => {}
            }
        } else if let Some((key, value)) = line.split_once(':') {
            section = key.trim();
            if section == "working_directory" {
                working_directory = AbsPath::parse(value.trim()).ok();
            }
        }
    }
    Briefing { goal, working_directory, outputs, grants }
}

impl Briefing<'_> {
    /// A path of the goal, absolute and without `.` and `..`. `None` when it cannot be a path.
    pub(super) fn resolve(&self, path: &str) -> Option<AbsPath> {
        let whole = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.working_directory.as_ref()?)
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        AbsPath::parse(&format!("/{}", parts.join("/"))).ok()
    }
}

impl Grants {
    /// Takes a grant that may be handed on; others are of no use to a planner that only delegates.
    fn add(&mut self, item: &str) {
        let Ok(grant) = GrantSpec::parse(item) else { return };
        if let Capability::SpawnChild(names) = grant.capability {
            self.children.push(names);
        } else if grant.constraints.delegate {
            match grant.capability {
                Capability::FileRead(pattern) => self.read.push(pattern),
                Capability::FileWrite(pattern) => self.write.push(pattern),
                Capability::Network(rules) => self.hosts.extend(rules),
                Capability::WebSearch => self.any_public_host = true,
                Capability::SpawnChild(_)
                | Capability::Tool(_)
                | Capability::MessageSend(_)
                | Capability::Exec(_) => {}
            }
        }
    }

    /// Whether a child with this name may be spawned.
    pub(super) fn may_spawn(&self, name: &str) -> bool {
        self.children.iter().any(|names| match names {
            NameSet::All => true,
            NameSet::Only(known) => known.iter().any(|known| known.as_str() == name),
        })
    }

    /// Whether `path` may be read.
    pub(super) fn may_read(&self, path: &AbsPath) -> bool {
        self.read.iter().any(|pattern| pattern.matches(path).is_some())
    }

    /// The narrowest grant under which `path` may be written.
    pub(super) fn write_root(&self, path: &AbsPath) -> Option<&PathPattern> {
        let fitting = self.write.iter().filter(|pattern| pattern.matches(path).is_some());
        fitting.max_by_key(|pattern| pattern.root().as_str().len())
    }

    /// Whether `path` is itself the directory of a write grant, so that a file below it is meant.
    pub(super) fn is_write_directory(&self, path: &AbsPath) -> bool {
        self.write.iter().any(|pattern| pattern.reach() == Reach::Subtree && pattern.root() == path)
    }

    /// How `host` may be reached at `port`.
    pub(super) fn host(&self, host: &str, port: u16) -> Option<HostGrant> {
        let fits = |rule: &HostRule| {
            let name = if rule.subdomains {
                host.strip_suffix(rule.host.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            } else {
                rule.host == host
            };
            name && rule.port.map_or([80, 443].contains(&port), |granted| granted == port)
        };
        if self.hosts.iter().any(fits) {
            Some(HostGrant::Network)
        } else {
            self.any_public_host.then_some(HostGrant::WebSearch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Briefing, HostGrant, read};

    const MESSAGE: &str = "Read ./a\nplease\n\nRUNTIME FACTS (from aaOS, not part of the goal)\n\
        working_directory: /w/dir\nworkspace: /s/workspace/1\noutputs:\n- /w/dir/output/x.md\ngrants:\n\
        - file_read: /w/dir/*\n- { file_write: \"/w/dir/out, put/*\", max_invocations: 3 }\n\
        - network: 127.0.0.1:8080, *.example.org, [::1]:9\n- spawn_child: [*]\n\
        - { file_read: /secret/*, delegate: false }\n- tool: *\n";

    fn briefing() -> Briefing<'static> {
        read(MESSAGE).expect("a block")
    }

    #[test]
    fn the_block_is_read() {
        let briefing = briefing();
        assert_eq!(briefing.goal, "Read ./a\nplease");
        assert_eq!(briefing.outputs.len(), 1);
        let path = |text: &str| briefing.resolve(text).expect(text);
        assert_eq!(path("../x/./y").as_str(), "/w/x/y");
        assert_eq!(path("../../../..").as_str(), "/");
        assert!(briefing.grants.may_read(&path("./a")));
        assert!(!briefing.grants.may_read(&path("../a")), "outside the grant");
        assert!(!briefing.grants.may_read(&path("/secret/a")), "cannot be handed on");
        assert!(briefing.grants.write_root(&path("/w/dir/out, put/a.md")).is_some());
        assert!(briefing.grants.may_spawn("reader"));
    }

    #[test]
    fn without_a_working_directory_paths_must_be_absolute() {
        let message =
            "Go\n\nRUNTIME FACTS (from aaOS, not part of the goal)\nworking_directory: none\ngrants: none\n";
        let briefing = read(message).expect("a block");
        assert!(briefing.resolve("a.md").is_none());
        assert_eq!(briefing.resolve("/x/../a.md").expect("absolute").as_str(), "/a.md");
    }

    #[test]
    fn hosts_are_matched_with_their_port() {
        let grants = briefing().grants;
        assert_eq!(grants.host("127.0.0.1", 8080), Some(HostGrant::Network));
        assert_eq!(grants.host("127.0.0.1", 80), None);
        assert_eq!(grants.host("a.example.org", 443), Some(HostGrant::Network));
        assert_eq!(grants.host("example.org", 443), None);
        assert_eq!(grants.host("::1", 9), Some(HostGrant::Network));
    }

    #[test]
    fn a_message_without_the_block_is_no_briefing() {
        assert!(read("Read ./a").is_none());
        assert!(read("x RUNTIME FACTS (from aaOS, not part of the goal)").is_none(), "inside a line");
    }
}
