//! Approvals that are asked for in vain.

use crate::authority::narrow::covers;
use crate::capability::{Capability, ToolSet};
use crate::name::ToolName;

use super::{Finding, Held, Level};

pub(super) fn findings(held: &Held<'_>, asked: &[ToolName]) -> Vec<Finding> {
    asked.iter().filter_map(|tool| not_held(held, tool)).collect()
}

fn not_held(held: &Held<'_>, tool: &ToolName) -> Option<Finding> {
    let right = Capability::Tool(ToolSet::One(tool.clone()));
    let none = !held.iter().any(|(_, spec)| covers(&spec.capability, &right));
    none.then(|| Finding {
        level: Level::Warning,
        rule: "approval-without-tool",
        grant: None,
        message: format!("`approval_required` names {tool}, which no grant of the manifest gives"),
        advice: format!("add `{right}`, or take {tool} out of `approval_required`"),
    })
}
