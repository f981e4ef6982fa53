//! Approvals that are asked for in vain, or that a wider grant goes round.

use crate::authority::narrow::covers;
use crate::capability::{Capability, GrantSpec, ToolSet};
use crate::name::ToolName;

use super::{Finding, Held, Level};

pub(super) fn findings(held: &Held<'_>, asked: &[ToolName]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = asked.iter().filter_map(|tool| not_held(held, tool)).collect();
    findings.extend(held.iter().filter_map(|(at, spec)| gap(held, at, spec)));
    findings
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

/// Of two grants for one need the authority takes the more specific one, as long as that can be used. So an
/// approval on the narrower grant binds, unless it runs out before the wider one or a child is given the
/// wider one alone.
fn gap(held: &Held<'_>, at: usize, spec: &GrantSpec) -> Option<Finding> {
    let bounds = &spec.constraints;
    if !bounds.approval_required {
        return None;
    }
    let runs_out = bounds.max_invocations.or(bounds.max_per_minute).or(bounds.expires_in_seconds).is_some();
    let round = |outer: &GrantSpec| {
        let same = covers(&spec.capability, &outer.capability);
        covers(&outer.capability, &spec.capability)
            && !outer.constraints.approval_required
            && ((outer.constraints.usable && (same || runs_out || !bounds.usable))
                || (held.can_spawn && outer.constraints.delegate))
    };
    let (_, outer) = held.iter().find(|(i, outer)| *i != at && round(outer))?;
    Some(Finding {
        level: Level::Warning,
        rule: "approval-gap",
        grant: Some(at),
        message: format!("`{outer}` covers what `{spec}` asks approval for, and asks for none"),
        advice: "ask for approval on the wider grant too, or narrow it so that they do not overlap"
            .to_owned(),
    })
}
