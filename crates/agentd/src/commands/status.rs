//! `status`: the daemon, one agent, or one goal.

use aaos_core::confinement::{Boundary, ConfinementReceipt, MemoryBound, ResourceUsage};
use aaos_core::model::{ProviderState, Standing};
use aaos_core::span::SpanFigures;
use aaos_runtime::{
    AgentStatus, ContextReport, GoalView, PurseReport, QuantityReport, RuntimeStatus, UnknownEffect,
};
use anyhow::Result;
use serde_json::value::RawValue;

use crate::cli::StatusArgs;
use crate::client::{Client, Nothing};
use crate::exit::Exit;
use crate::render::text::{REASON_CHARS, block, cut, instant, size, span};
use crate::render::{Screen, Tone, entry};

use super::models::calls;
use super::target::{OneAgent, OneGoal, Target, find};

/// A fact and its name.
type Fact = (&'static str, String);

/// `status`.
pub(super) async fn status(client: &mut Client, args: &StatusArgs, screen: Screen) -> Result<Exit> {
    let target = match &args.target {
        None => None,
        Some(text) => Some(find(client, text).await?),
    };
    let reply = match target {
        None => client.call_raw("runtime.status", &Nothing {}).await?,
        Some(Target::Agent(agent_id)) => client.call_raw("agent.status", &OneAgent { agent_id }).await?,
        Some(Target::Goal(goal_id)) => client.call_raw("goal.status", &OneGoal { goal_id }).await?,
    };
    if args.json {
        screen.json(&reply)?;
        return Ok(Exit::Done);
    }
    for (name, value) in facts(target, &reply)? {
        for (at, line) in value.lines().enumerate() {
            let name = if at == 0 { name } else { "" };
            screen.line(Tone::Plain, &format!("{name:<14} {line}"))?;
        }
    }
    Ok(Exit::Done)
}

fn facts(target: Option<Target>, reply: &RawValue) -> Result<Vec<Fact>> {
    Ok(match target {
        None => runtime(&serde_json::from_str(reply.get())?),
        Some(Target::Agent(_)) => agent(&serde_json::from_str(reply.get())?),
        Some(Target::Goal(_)) => goal(&serde_json::from_str(reply.get())?),
    })
}

fn runtime(status: &RuntimeStatus) -> Vec<Fact> {
    let providers = match &status.providers_problem {
        None => status.providers.iter().map(provider).collect::<Vec<_>>().join("\n"),
        Some(why) => format!("cannot be asked: {}", cut(why, REASON_CHARS)),
    };
    let limits = &status.limits;
    let policy = &status.confinement_policy;
    let mut facts = vec![
        ("version", cut(&format!("{} ({})", status.version, status.commit), REASON_CHARS)),
        ("providers", providers),
        ("agents", format!("{} of {}", status.agents, limits.max_agents)),
        (
            "goals",
            format!(
                "{} running (at most {}), {} queued",
                status.goals_running, limits.running_goals, status.goals_queued
            ),
        ),
        (
            "inferences",
            match status.inference_queue {
                Some(queue) => {
                    format!("{queue} waiting or running, {} at once a provider", limits.inference_slots)
                }
                None => format!("{} at once a provider", limits.inference_slots),
            },
        ),
        ("goal budget", format!("{} tokens unless told otherwise", limits.goal_tokens)),
        ("spawning", format!("{} children at once, depth {}", limits.max_children, limits.max_depth)),
        (
            "requires",
            format!("{}, Landlock ABI {} or newer", entry::boundaries(&policy.require), policy.landlock_abi),
        ),
        ("daemon", status.daemon_confinement.as_ref().map_or("not shown".to_owned(), evidence)),
        ("prefers", named(&policy.prefer)),
        ("degraded", named(&status.confinement_degraded)),
    ];
    if !status.calls.is_empty() {
        facts.push(("calls", status.calls.iter().map(calls).collect::<Vec<_>>().join("\n")));
    }
    facts.extend(status.spans.as_ref().map(|figures| ("spans", spans(figures))));
    facts.extend(status.parked_workers.map(|parked| ("parked", format!("{parked} workers"))));
    facts.extend(status.journal_head.map(|head| ("journal", format!("entry {head}"))));
    if !status.unknown_effects.is_empty() {
        facts.push(("unknown", status.unknown_effects.iter().map(unknown).collect::<Vec<_>>().join("\n")));
    }
    facts
}

/// What became of spans, and why the last ones were not taken.
fn spans(figures: &SpanFigures) -> String {
    let SpanFigures { sent, failed, dropped, waiting, problem } = figures;
    let problem =
        problem.as_ref().map_or(String::new(), |why| format!("\nnot taken: {}", cut(why, REASON_CHARS)));
    format!("{sent} sent, {waiting} waiting, {failed} failed, {dropped} dropped{problem}")
}

/// An effect of which nobody knows whether it happened, and what to do about it.
fn unknown(effect: &UnknownEffect) -> String {
    let UnknownEffect { call, agent_id, tool, since, .. } = effect;
    let agent = agent_id.map_or("nobody".to_owned(), |agent| format!("agent {agent}"));
    let began = instant(*since);
    format!("{tool} of {agent}, begun {began}, was cut short by a kill: look what it did (call {call})")
}

fn provider(state: &ProviderState) -> String {
    let models: Vec<&str> =
        state.models.iter().chain(&state.aliases).map(aaos_core::name::ModelName::as_str).collect();
    let any = if state.any_model { ", and any other name" } else { "" };
    let trouble = trouble(state).map_or(String::new(), |trouble| format!("\n  {trouble}"));
    format!("{}: {}{any}{trouble}", state.name, cut(&models.join(", "), REASON_CHARS))
}

/// Why a provider cannot be counted on, if so.
fn trouble(state: &ProviderState) -> Option<String> {
    let (what, why) = match (&state.problem, &state.standing) {
        (Some(why), _) => ("cannot be used", why),
        (None, Standing::KeyRefused { why }) => ("its key is refused", why),
        (None, Standing::Unreachable { why }) => ("does not answer", why),
        (None, Standing::Unchecked | Standing::Reachable) => return None,
    };
    Some(format!("{what}: {}", cut(why, REASON_CHARS)))
}

fn named(list: &[Boundary]) -> String {
    if list.is_empty() { "nothing".to_owned() } else { entry::boundaries(list) }
}

fn agent(status: &AgentStatus) -> Vec<Fact> {
    let mut facts = vec![
        ("agent", status.id.to_string()),
        ("name", status.name.to_string()),
        ("state", entry::word(&status.state)),
        ("model", model(status)),
        ("started", instant(status.started_at)),
        ("parent", status.parent_agent.map_or("none".to_owned(), |parent| parent.to_string())),
        ("goal", status.goal_id.map_or("none".to_owned(), |goal| goal.to_string())),
        ("usage", entry::tokens(status.usage)),
    ];
    facts.extend(status.context.as_ref().map(|report| ("context", context(report))));
    if let Some(purse) = &status.purse {
        facts.push(("purse", purse_words(purse)));
    }
    if let Some(waits) = &status.waiting_for {
        facts.push(("waits for", cut(waits, REASON_CHARS)));
    }
    facts.extend(status.next_due.map(|due| ("next due", instant(due))));
    facts.extend(status.restarts.map(|restarts| ("restarts", format!("{restarts} in the window"))));
    let grants: Vec<String> = status
        .grants
        .iter()
        .map(|grant| {
            let words = cut(&grant.capability.to_string(), REASON_CHARS);
            let special =
                grant.special.as_ref().map(|special| cut(&format!(", which {special}"), REASON_CHARS));
            format!("{words}  ({}){}", grant.id, special.unwrap_or_default())
        })
        .collect();
    facts.push(("grants", if grants.is_empty() { "none".to_owned() } else { grants.join("\n") }));
    if !status.environment.is_empty() {
        let shown = |one: &String| cut(one, REASON_CHARS);
        let variables: Vec<String> = status.environment.assignments().iter().map(shown).collect();
        facts.push(("environment", variables.join("\n")));
    }
    let worker = status.confinement.as_ref().map_or("none now".to_owned(), evidence);
    facts.push(("worker", worker));
    facts.extend(status.resources.as_ref().map(|used| ("resources", resources(used))));
    facts.extend(status.programs.iter().map(|used| ("program", resources(used))));
    facts
}

/// The model that an agent asks, and beside it all that it may ask.
fn model(status: &AgentStatus) -> String {
    let names: Vec<&str> = status.models.iter().map(aaos_core::name::ModelName::as_str).collect();
    let all = if names.is_empty() { String::new() } else { format!("  (of {})", names.join(", ")) };
    format!("{}{all}", status.model)
}

/// A receipt: the process and its hashes, and a line for each boundary with how it is known.
fn evidence(receipt: &ConfinementReceipt) -> String {
    let mut lines = vec![
        entry::receipt_words(receipt),
        format!("seccomp filter {}", entry::hash_words(&receipt.seccomp_filter_hash)),
        format!("Landlock rules {}", entry::hash_words(&receipt.landlock_rules_hash)),
    ];
    lines.extend(receipt.boundaries.iter().map(|one| {
        let (boundary, evidence) = (entry::word(&one.boundary), entry::word(&one.evidence));
        format!("  {boundary:<18} {evidence:<8}  {}", cut(&one.detail, REASON_CHARS))
    }));
    lines.join("\n")
}

/// What a worker or a program uses of the machine, and what bounds its memory.
fn resources(used: &ResourceUsage) -> String {
    let peak =
        used.memory_peak_bytes.map_or(String::new(), |peak| format!(", at most {} so far", size(peak.0)));
    let bound = match used.bound {
        MemoryBound::Cgroup => "a control group",
        MemoryBound::Watchdog => "the daemon's watch",
    };
    let disks = match (used.read_bytes, used.written_bytes) {
        (Some(read), Some(written)) => {
            format!("\n{} read from disks, {} written to them", size(read.0), size(written.0))
        }
        _ => String::new(),
    };
    format!(
        "{} of memory{peak}, limit {} by {bound}\n{} on a processor\n{} processes and threads{disks}",
        size(used.memory_bytes.0),
        size(used.memory_limit_bytes.0),
        span(used.cpu_ms),
        used.processes
    )
}

/// Each quantity that is bounded or used, a line each, and the window.
fn purse_words(purse: &PurseReport) -> String {
    let line = |one: &QuantityReport| {
        let quantity = one.quantity;
        let mut words = format!("used {}", quantity.show(one.used));
        if one.reserved > 0 {
            words.push_str(&format!(", reserved {}", quantity.show(one.reserved)));
        }
        if let Some(most) = one.limit {
            words.push_str(&format!(", at most {}", quantity.show(most)));
        }
        if let Some(left) = one.remaining {
            words.push_str(&format!(", left {}", quantity.show(left)));
        }
        words
    };
    let mut lines: Vec<String> = purse.quantities.iter().map(line).collect();
    lines.extend(purse.window_ends.map(|ends| format!("its window ends {}", instant(ends))));
    if lines.is_empty() { "nothing used, no limit".to_owned() } else { lines.join("\n") }
}

/// What a conversation takes of its window, and what was learned of the model's tokens.
fn context(report: &ContextReport) -> String {
    let ContextReport { window, tokens, learned_bytes, learned_tokens } = report;
    let tenths = learned_bytes.0.saturating_mul(10).checked_div(learned_tokens.0).unwrap_or_default();
    let (whole, tenth) = (tenths / 10, tenths % 10);
    format!("about {tokens} of {window} tokens, {whole}.{tenth} weighed bytes a token")
}

fn goal(view: &GoalView) -> Vec<Fact> {
    let mut facts = vec![
        ("goal", view.goal_id.to_string()),
        ("text", cut(&view.goal, REASON_CHARS)),
        ("state", entry::word(&view.state)),
        ("accepted", instant(view.accepted_at)),
        ("root agent", view.root_agent.map_or("none yet".to_owned(), |agent| agent.to_string())),
        (
            "workspace",
            view.workspace.as_deref().map_or("none yet".to_owned(), |path| cut(path, REASON_CHARS)),
        ),
        ("usage", entry::tokens(view.usage)),
    ];
    if let Some(cost) = &view.cost {
        facts.push(("cost", format!("{cost} USD")));
    }
    if let Some(waits) = &view.waiting_for {
        facts.push(("waits for", cut(waits, REASON_CHARS)));
    }
    if !view.outputs.is_empty() {
        facts.push(("outputs", view.outputs.iter().map(entry::output).collect::<Vec<_>>().join("\n")));
    }
    if let Some(code) = view.exit_code {
        facts.push(("exit code", code.to_string()));
    }
    if let Some(error) = &view.error {
        facts.push(("error", cut(error, REASON_CHARS)));
    }
    if let Some(answer) = view.response.as_deref().filter(|answer| !answer.is_empty()) {
        facts.push(("answer", block(answer)));
    }
    facts
}
