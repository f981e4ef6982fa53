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
    })
}

/// Why it is asked.
pub(super) fn because(question: &Question) -> String {
    match question.because {
        AskedBecause::Tool => {
            format!("the manifest of the agent, or of an ancestor, asks for approval of {}", question.effect)
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
