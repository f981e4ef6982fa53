//! What people are told of a question. The words are the runtime's; paths stand in quotes with every character that
//! does not print escaped, and no other text of an agent is among them.

use aaos_core::approval::{ApprovalScope, AskedBecause, Question};
use aaos_core::effect::{FileRight, Need};
use aaos_core::limits;
use aaos_core::name::AgentName;
use aaos_core::path::PathPattern;
use aaos_core::quantity::Millis;

use crate::error::KernelError;

/// Who wants to do what.
pub(super) fn description(agent: &AgentName, question: &Question) -> String {
    let wants: Vec<String> = question.needs.iter().filter_map(want).collect();
    let effect = &question.effect;
    if wants.is_empty() {
        return format!("agent {agent} wants to use {effect}");
    }
    format!("agent {agent} wants to use {effect}, which would {}", wants.join(" and "))
}

fn want(need: &Need) -> Option<String> {
    Some(match need {
        Need::Tool(_) => return None,
        Need::File { right: FileRight::Read, path } => format!("read {:?}", path.as_str()),
        Need::File { right: FileRight::Write, path } => format!("write {:?}", path.as_str()),
        Need::Host { host, port } => format!("connect to {host:?} on port {port}"),
        Need::Spawn(name) => format!("spawn the child {name}"),
        Need::Message(name) => format!("send a message to {name}"),
        Need::Exec(program) => format!("start the program {:?}", program.as_str()),
        Need::Program(known) => format!("start {}", known.file_name()),
    })
}

/// Why it is asked.
pub(super) fn because(question: &Question) -> String {
    match question.because {
        AskedBecause::Tool => {
            format!(
                "its manifest or its goal, or the manifest of an ancestor, asks for approval of {}",
                question.effect
            )
        }
        AskedBecause::Grant(grant) => format!("grant {grant}, which it would use, asks for approval"),
    }
}

pub(super) fn nobody_answered(wait: Millis) -> String {
    format!("nobody answered within {} s", wait.0.div_ceil(1000))
}

/// Refuses a scope that would not cover what was asked, or more than may be covered.
pub(super) fn check_scope(
    question: &Question,
    below: Option<&PathPattern>,
    uses: u32,
) -> Result<(), KernelError> {
    if uses == 0 || uses > limits::MAX_APPROVED_USES {
        let most = limits::MAX_APPROVED_USES;
        return Err(KernelError::Invalid(format!("an approval covers between 1 and {most} uses")));
    }
    match below {
        Some(below) if !ApprovalScope::all_lie(&question.needs, below) => Err(KernelError::Invalid(format!(
            "what was asked does not lie below {below}: a path that leads through '..' lies nowhere, and an effect \
             without files can only be approved without a place"
        ))),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::approval::{AskedBecause, Question};
    use aaos_core::effect::{FileRight, Need};
    use aaos_core::id::{AgentId, ApprovalId, CallId};
    use aaos_core::name::{AgentName, ToolName};
    use aaos_core::path::{AbsPath, PathPattern};
    use uuid::Uuid;

    use super::{check_scope, description};

    fn question(paths: &[&str]) -> Question {
        let write =
            |path: &&str| Need::File { right: FileRight::Write, path: AbsPath::parse(path).expect("a path") };
        let tool = Need::Tool(ToolName::parse("file_write").expect("a tool"));
        Question {
            id: ApprovalId::from_uuid(Uuid::nil()),
            agent: AgentId::from_uuid(Uuid::nil()),
            call: CallId::from_uuid(Uuid::nil()),
            effect: "file_write".to_owned(),
            digest: String::new(),
            because: AskedBecause::Tool,
            needs: std::iter::once(tool).chain(paths.iter().map(write)).collect(),
            grants: Vec::new(),
            input: serde_json::Value::Null,
            targets: Vec::new(),
        }
    }

    #[test]
    fn what_does_not_print_in_a_path_is_spelled_out() {
        let name = AgentName::parse("writer").expect("a name");
        let asked = question(&["/a/\u{1b}[2K\u{202e}b\nagent root wants"]);
        let words = description(&name, &asked);
        assert_eq!(
            words,
            "agent writer wants to use file_write, which would write \"/a/\\u{1b}[2K\\u{202e}b\\nagent root wants\""
        );
        assert_eq!(description(&name, &question(&[])), "agent writer wants to use file_write");
    }

    #[test]
    fn a_scope_covers_what_was_asked_or_is_refused() {
        let below = PathPattern::parse("/a/*").expect("a pattern");
        assert!(check_scope(&question(&["/a/b", "/a/c/d"]), Some(&below), 1).is_ok());
        assert!(check_scope(&question(&[]), None, 10_000).is_ok());
        for (paths, below, uses) in [
            (vec!["/a/b", "/c"], Some(&below), 1),
            (vec!["/a/../c"], Some(&below), 1),
            (vec!["/ab"], Some(&below), 1),
            (vec![], Some(&below), 1),
            (vec![], None, 0),
            (vec![], None, 10_001),
        ] {
            assert!(check_scope(&question(&paths), below, uses).is_err(), "{paths:?} {uses}");
        }
    }
}
