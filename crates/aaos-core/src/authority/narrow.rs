//! The narrowing of authority from parent to child. Nothing else computes a child's authority.
//!
//! Invariant: what comes out covers nothing that the parent does not cover, lasts no longer, and may be used no
//! more often. The counters stay shared besides, so that parent and children together keep the parent's bounds.

use crate::capability::{Capability, Constraints, HostRule, NameSet, ToolSet};
use crate::effect::{Denied, FileRight, Need};
use crate::grant::{GrantRecord, GrantRequest};
use crate::id::AgentId;
use crate::manifest::{Manifest, lower};
use crate::name::ModelName;
use crate::path::PathPattern;
use crate::quantity::Timestamp;

use super::words;

/// A parent's grant with what is left of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) record: &'a GrantRecord,
    pub(super) uses_left: Option<u32>,
    pub(super) rate: Option<u32>,
    pub(super) expires_at: Option<Timestamp>,
}

/// Computes a child's grant from the parent's grant that it names.
///
/// # Errors
/// [`Denied`] when the parent's grant may not be handed on or does not cover what is asked.
pub(super) fn narrow(
    held: Held<'_>,
    child: AgentId,
    request: GrantRequest,
    now: Timestamp,
) -> Result<GrantRecord, Denied> {
    if !held.record.constraints.delegate {
        return Err(words::not_delegable(&request.capability, None, true));
    }
    if !covers(&held.record.capability, &request.capability) {
        return Err(words::not_delegable(&request.capability, None, false));
    }
    if let Some(spelled) = &request.spelled
        && !spelling_covered(held.record, spelled)
    {
        let reason = format!("{} is not below the parent's grant", words::describe(spelled));
        let hint = "spell the path below a granted directory".to_owned();
        return Err(Denied { missing: request.capability.to_string(), reason, hint });
    }
    Ok(GrantRecord {
        id: request.id,
        agent: child,
        parent: Some(held.record.id),
        capability: request.capability,
        spelled: request.spelled,
        constraints: tighten(held, request.constraints, now),
        issued_at: now,
        root: request.root,
        // It lies below a root that was looked through when it was granted.
        special: None,
    })
}

/// The tighter of what is asked and what the parent has left. Whether the child may use or hand on is its
/// own manifest's to restrict: the parent's right to hand on was checked.
fn tighten(held: Held<'_>, asked: Constraints, now: Timestamp) -> Constraints {
    let seconds_left = held.expires_at.map(|end| u32::try_from(end.since(now).0 / 1000).unwrap_or(u32::MAX));
    Constraints {
        max_invocations: least(asked.max_invocations, held.uses_left),
        max_per_minute: least(asked.max_per_minute, held.rate),
        expires_in_seconds: least(asked.expires_in_seconds, seconds_left),
        delegate: asked.delegate,
        usable: asked.usable,
        approval_required: asked.approval_required || held.record.constraints.approval_required,
    }
}

fn least(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn spelling_covered(record: &GrantRecord, spelled: &PathPattern) -> bool {
    record.capability.file_pattern().is_some_and(|own| own.covers(spelled))
        || record.spelled.as_ref().is_some_and(|own| own.covers(spelled))
}

/// Whether everything that `inner` allows is allowed by `outer`.
#[must_use]
pub fn covers(outer: &Capability, inner: &Capability) -> bool {
    match (outer, inner) {
        (Capability::FileRead(outer), Capability::FileRead(inner))
        | (Capability::FileWrite(outer), Capability::FileWrite(inner)) => outer.covers(inner),
        (Capability::Tool(ToolSet::All), Capability::Tool(_)) => true,
        (Capability::Tool(outer), Capability::Tool(inner)) => outer == inner,
        (Capability::WebSearch, Capability::WebSearch) => true,
        (Capability::WebSearch, Capability::Network(rules)) => rules.iter().all(is_public_name),
        (Capability::Network(outer), Capability::Network(inner)) => {
            inner.iter().all(|rule| outer.iter().any(|own| own.covers(rule)))
        }
        (Capability::SpawnChild(outer), Capability::SpawnChild(inner))
        | (Capability::MessageSend(outer), Capability::MessageSend(inner)) => names_cover(outer, inner),
        (Capability::Exec(outer), Capability::Exec(inner)) => outer == inner,
        _ => false,
    }
}

/// Whether a grant covers a need, constraints aside.
pub(super) fn covers_need(record: &GrantRecord, need: &Need) -> bool {
    match (&record.capability, need) {
        (capability, Need::File { right, path }) => {
            let spelled = record.spelled.as_ref().and_then(|spelled| spelled.matches(path));
            let resolved = capability.file_pattern().and_then(|pattern| pattern.matches(path));
            is_of_right(capability, *right) && resolved.or(spelled).is_some()
        }
        (Capability::Tool(ToolSet::All), Need::Tool(_)) => true,
        (Capability::Tool(ToolSet::One(name)), Need::Tool(wanted)) => name == wanted,
        (Capability::WebSearch, Need::Host { host, port }) => crate::capability::is_public_web(host, *port),
        (Capability::Network(rules), Need::Host { host, port }) => {
            rules.iter().any(|rule| rule.matches(host, *port))
        }
        (Capability::SpawnChild(set), Need::Spawn(name))
        | (Capability::MessageSend(set), Need::Message(name)) => set.contains(name),
        (Capability::Exec(granted), Need::Exec(program)) => granted == program,
        (Capability::Exec(granted), Need::Program(known)) => known.is_at(granted),
        _ => false,
    }
}

/// Whether it is a file capability of this right.
pub(super) const fn is_of_right(capability: &Capability, right: FileRight) -> bool {
    matches!(
        (capability, right),
        (Capability::FileRead(_), FileRight::Read) | (Capability::FileWrite(_), FileRight::Write)
    )
}

fn names_cover(outer: &NameSet, inner: &NameSet) -> bool {
    match (outer, inner) {
        (NameSet::All, _) => true,
        (NameSet::Only(_), NameSet::All) => false,
        (NameSet::Only(outer), NameSet::Only(inner)) => inner.iter().all(|name| outer.contains(name)),
    }
}

/// Whether a rule stays within `web_search`: a name (the gateway lets no name lead to a private address, but
/// does let a literal that a rule spells out) on the web's own ports.
fn is_public_name(rule: &HostRule) -> bool {
    !rule.is_literal()
        && !crate::capability::is_local_name(&rule.host)
        && matches!(rule.port, None | Some(80 | 443))
}

/// Computes a child's manifest under its parent's: the fields that restrain or spend are never looser.
///
/// # Errors
/// [`Denied`] when the child asks to outlive its goal, for a model that its parent may not hand out, or for a variable
/// that its parent does not have with that value.
pub fn narrow_manifest(parent: &Manifest, mut child: Manifest) -> Result<Manifest, Denied> {
    if child.lifecycle.outlives_a_run() {
        return Err(Denied {
            missing: format!("lifecycle: {}", child.lifecycle),
            reason: "a child ends with its goal".to_owned(),
            hint: "leave lifecycle out, or write on-demand".to_owned(),
        });
    }
    let models = child.models().chain(&child.child_models);
    for model in models.chain(&child.memory.summarization_model) {
        if !may_hand_out(parent, model) {
            return Err(foreign_model(parent, model));
        }
    }
    if let Some(name) = parent.environment.first_beyond(&child.environment) {
        return Err(foreign_variable(parent, name));
    }
    let (mine, own) = (&mut child.memory, &parent.memory);
    mine.context_window = mine.context_window.min(own.context_window);
    mine.max_history_messages = mine.max_history_messages.min(own.max_history_messages);
    mine.archive_ttl_days = lower(mine.archive_ttl_days, own.archive_ttl_days);
    // The window stays as the child wrote it, in both directions. Without one its ceilings hold for life, which is
    // narrower than the parent's. With one below a parent that has none, only its own ceilings are granted anew:
    // what it spends still comes out of every purse above.
    child.budget_config = child.budget_config.lower(&parent.budget_config);
    child.supervision = child.supervision.no_looser_than(&parent.supervision);
    child.approval_required.extend(parent.approval_required.iter().cloned());
    child.approval_required.sort();
    child.approval_required.dedup();
    Ok(child)
}

fn may_hand_out(parent: &Manifest, model: &ModelName) -> bool {
    parent.models().chain(&parent.child_models).any(|own| own == model)
}

fn foreign_model(parent: &Manifest, model: &ModelName) -> Denied {
    let others = parent.child_models.iter().filter(|one| parent.models().all(|own| own != *one));
    let allowed: Vec<&str> = parent.models().chain(others).map(ModelName::as_str).collect();
    Denied {
        missing: format!("child_models: [{model}]"),
        reason: format!("a child of {} may not use the model {model} or hand it on", parent.name),
        hint: format!("use one of: {}", allowed.join(", ")),
    }
}

fn foreign_variable(parent: &Manifest, name: &str) -> Denied {
    let mut own: Vec<&str> = parent.environment.iter().map(|(name, _)| name).collect();
    if own.is_empty() {
        own.push("none");
    }
    Denied {
        missing: format!("environment: {name}"),
        reason: format!("{} has no variable {name} with this value to hand on", parent.name),
        hint: format!("leave it out; the parent has: {}", own.join(", ")),
    }
}
