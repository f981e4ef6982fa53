//! Grants that nobody can ever use, and grants that add nothing to another.

use crate::authority::narrow::covers;
use crate::capability::{Constraints, GrantSpec};
use crate::tool::ResourceKind;

use super::{Finding, Held, Level, Way, acting_on};

pub(super) fn findings(held: &Held<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, spec) in held.iter() {
        match unusable(held, at, spec) {
            Some(finding) => findings.push(finding),
            None => findings.extend(covered(held, at, spec)),
        }
    }
    findings
}

fn unusable(held: &Held<'_>, at: usize, spec: &GrantSpec) -> Option<Finding> {
    let bounds = &spec.constraints;
    let error = |rule, message: String, advice: &str| {
        Some(Finding { level: Level::Error, rule, grant: Some(at), message, advice: advice.to_owned() })
    };
    if !bounds.usable && !bounds.delegate {
        return error(
            "dead-grant",
            format!("`{spec}` may neither be used nor handed on"),
            "remove it, or leave out `use: false` or `delegate: false`",
        );
    }
    if !bounds.usable && !held.can_spawn {
        return error(
            "hand-out-without-spawn",
            format!("`{spec}` may only be handed on, and this agent cannot start a child"),
            "add `tool: spawn_agent` and a `spawn_child` grant that it may use, or leave out `use: false`",
        );
    }
    let kind = ResourceKind::of(&spec.capability)?;
    if held.has_effect(Way::Use, spec) || held.has_effect(Way::HandOn, spec) {
        return None;
    }
    let why = match (bounds.usable, held.goes(Way::HandOn, spec)) {
        (true, false) => "the agent holds no tool that acts on it and that it may use",
        (true, true) => "neither the agent nor a child of it can hold a tool that acts on it",
        (false, _) => "no tool that acts on it may be handed on with it",
    };
    error("resource-without-tool", format!("`{spec}` can never be used: {why}"), &tools_advice(kind))
}

fn tools_advice(kind: ResourceKind) -> String {
    let tools: Vec<String> = acting_on(kind).map(|tool| format!("`tool: {}`", tool.name)).collect();
    match tools.as_slice() {
        [one] => format!("add {one}, or remove the grant"),
        many => format!("add one of {}, or remove the grant", many.join(", ")),
    }
}

/// A grant that another one makes pointless.
fn covered(held: &Held<'_>, at: usize, spec: &GrantSpec) -> Option<Finding> {
    let by = |other: &GrantSpec, one: &GrantSpec| {
        covers(&other.capability, &one.capability) && allows(&other.constraints, &one.constraints)
    };
    // Of two that say the same, the later one is in vain.
    let (_, outer) =
        held.iter().find(|(i, other)| *i != at && by(other, spec) && (*i < at || !by(spec, other)))?;
    let finding = |level, rule, message, advice: &str| Finding {
        level,
        rule,
        grant: Some(at),
        message,
        advice: advice.to_owned(),
    };
    Some(if spec.constraints == outer.constraints {
        let message = format!("`{spec}` adds nothing: `{outer}` covers it");
        finding(Level::Note, "covered-grant", message, "remove it")
    } else {
        let message = format!("the limits of `{spec}` bind nothing: `{outer}` allows the same without them");
        finding(
            Level::Warning,
            "unbinding-limits",
            message,
            "remove one of the two, or limit the wider one too",
        )
    })
}

/// Whether a grant within `outer` bounds allows, again and again, all that one within `inner` allows. A count
/// of uses never does: a second grant adds its own uses to it. Approval is another matter: the narrower grant
/// is taken first, with or without it.
fn allows(outer: &Constraints, inner: &Constraints) -> bool {
    let lasts = match (outer.expires_in_seconds, inner.expires_in_seconds) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => outer >= inner,
    };
    outer.max_invocations.is_none()
        && outer.max_per_minute.is_none()
        && lasts
        && outer.approval_required == inner.approval_required
        && (outer.delegate || !inner.delegate)
        && (outer.usable || !inner.usable)
}
