//! `models`: which providers answer, why others do not, and what the aliases mean.

use std::collections::BTreeMap;

use aaos_core::model::{ModelFailureKind, ProviderState, Standing};
use aaos_core::name::ModelName;
use aaos_core::quantity::Millis;
use aaos_runtime::{AliasView, CallReport, ModelsView, Spread};
use anyhow::Result;

use crate::cli::JsonArgs;
use crate::client::{Client, Nothing};
use crate::exit::Exit;
use crate::render::text::{REASON_CHARS, cut, span};
use crate::render::{Screen, Tone, entry};

/// `models`.
pub(super) async fn models(client: &mut Client, args: &JsonArgs, screen: Screen) -> Result<Exit> {
    let reply = client.call_raw("runtime.models", &Nothing {}).await?;
    if args.json {
        screen.json(&reply)?;
        return Ok(Exit::Done);
    }
    let view: ModelsView = serde_json::from_str(reply.get())?;
    for provider in &view.providers {
        let (tone, line) = provider_line(provider);
        screen.line(tone, &line)?;
        screen.line(Tone::Dim, &format!("  {}", served(provider)))?;
    }
    for call in &view.calls {
        screen.line(Tone::Plain, &calls(call))?;
    }
    for alias in &view.aliases {
        screen.line(Tone::Plain, &alias_line(alias))?;
    }
    Ok(Exit::Done)
}

fn provider_line(provider: &ProviderState) -> (Tone, String) {
    let name = &provider.name;
    let told = |what: &str, why: &str| (Tone::Bad, format!("{name}: {what}: {}", cut(why, REASON_CHARS)));
    match (&provider.problem, &provider.standing) {
        (Some(why), _) => told("cannot be used", why),
        (None, Standing::KeyRefused { why }) => told("its key is refused", why),
        (None, Standing::Unreachable { why }) => told("does not answer", why),
        (None, Standing::Reachable) => (Tone::Plain, format!("{name}: reachable")),
        (None, Standing::Unchecked) => (Tone::Plain, format!("{name}: not asked yet")),
    }
}

/// What was observed of a model's calls, in one line.
pub(super) fn calls(report: &CallReport) -> String {
    let CallReport { provider, model, answered, failed, retried, .. } = report;
    let mut parts = vec![format!("{answered} answered")];
    parts.extend(counted("failed", failed));
    parts.extend(counted("retried", retried));
    let times =
        |spread: &Spread| format!("{} (95 %: {})", span(Millis(spread.median)), span(Millis(spread.p95)));
    parts.extend(report.first_token_ms.as_ref().map(|spread| format!("first token {}", times(spread))));
    let rate = |spread: &Spread| format!("{} tokens/s (95 %: {})", spread.median, spread.p95);
    parts.extend(report.tokens_per_second.as_ref().map(rate));
    parts.extend(report.cached_percent.map(|percent| format!("{percent} % of the input cached")));
    parts.extend(report.waited_ms.as_ref().map(|spread| format!("waited {}", times(spread))));
    parts.push(report.cost_micro_usd.to_string());
    format!("{provider}/{}: {}", cut(model.as_str(), REASON_CHARS), parts.join(", "))
}

/// How many there are of each reason; nothing where there are none.
fn counted(what: &str, reasons: &BTreeMap<ModelFailureKind, u64>) -> Option<String> {
    let each: Vec<String> =
        reasons.iter().map(|(kind, count)| format!("{count} {}", entry::word(kind))).collect();
    (!each.is_empty()).then(|| format!("{what} {}", each.join(" and ")))
}

fn served(provider: &ProviderState) -> String {
    let names = words(&provider.models);
    let any = if provider.any_model { "any other name" } else { "" };
    [names.as_str(), any].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", and ")
}

fn words(models: &[ModelName]) -> String {
    let all: Vec<&str> = models.iter().map(ModelName::as_str).collect();
    cut(&all.join(", "), REASON_CHARS)
}

fn alias_line(alias: &AliasView) -> String {
    let AliasView { alias, meanings, now } = alias;
    let others = if meanings.len() > 1 { format!(" (in order: {})", words(meanings)) } else { String::new() };
    format!("{alias} means {now}{others}")
}
