//! Figures in the text format of Prometheus (exposition format 0.0.4).
//!
//! Invariants: each family is written once, with its help and type before its samples; values of labels are escaped; times
//! are seconds.

use std::fmt::Write;

use aaos_core::observe::{BOUNDS, CallFigures, Histogram, Snapshot};
use aaos_core::span::SpanFigures;

/// How a histogram's whole numbers are shown.
#[derive(Clone, Copy)]
enum Unit {
    /// Milliseconds, as seconds.
    Millis,
    /// As they are.
    Number,
}

impl Unit {
    fn show(self, value: u64) -> String {
        match self {
            Self::Millis => format!("{}.{:03}", value / 1_000, value % 1_000),
            Self::Number => value.to_string(),
        }
    }
}

/// One histogram of a model.
type OfModel = fn(&CallFigures) -> &Histogram;

const HISTOGRAMS: [(&str, &str, Unit, OfModel); 3] = [
    (
        "aaos_model_time_to_first_token_seconds",
        "From the request to the first piece of the reply.",
        Unit::Millis,
        |model| &model.first_token_ms,
    ),
    (
        "aaos_model_output_tokens_per_second",
        "Output tokens a second after the first piece of the reply.",
        Unit::Number,
        |model| &model.tokens_per_second,
    ),
    (
        "aaos_model_wait_seconds",
        "What a call waited for a slot, for a provider that wants quiet, or for another attempt.",
        Unit::Millis,
        |model| &model.waited_ms,
    ),
];

/// The whole text.
pub(super) fn written(snapshot: &Snapshot) -> String {
    let mut text = Text(String::new());
    for (name, help, value) in [
        ("aaos_model_calls_open", "Model calls under way, those that wait included.", snapshot.calls_open),
        (
            "aaos_model_calls_waiting",
            "Model calls that wait to be made or made again.",
            snapshot.calls_waiting,
        ),
        ("aaos_agents", "Agents alive.", snapshot.agents),
        ("aaos_goals_running", "Goals running.", snapshot.goals_running),
        ("aaos_goals_queued", "Goals that wait for their turn.", snapshot.goals_queued),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &[], &value.to_string());
    }
    text.calls(&snapshot.models);
    text.tokens_and_cost(&snapshot.models);
    if let Some(spans) = &snapshot.spans {
        text.spans(spans);
    }
    for (name, help, unit, of) in HISTOGRAMS {
        text.family(name, "histogram", help);
        for model in &snapshot.models {
            text.histogram(name, model, of(model), unit);
        }
    }
    text.0
}

struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).unwrap_or_else(|_| unreachable!("a string takes everything"));
        self.0.push('\n');
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("{name}{labels} {value}"));
    }

    fn of_model(&mut self, name: &str, model: &CallFigures, more: (&str, &str), value: u64) {
        let labels = [("provider", model.provider.as_str()), ("model", model.model.as_str()), more];
        self.sample(name, &labels, &value.to_string());
    }

    fn calls(&mut self, models: &[CallFigures]) {
        let name = "aaos_model_calls_total";
        self.family(name, "counter", "Model calls that are over, by outcome: answered, or why they failed.");
        for model in models {
            self.of_model(name, model, ("outcome", "answered"), model.answered);
            for (kind, count) in &model.failed {
                self.of_model(name, model, ("outcome", &word(*kind)), *count);
            }
        }
        let name = "aaos_model_retries_total";
        self.family(name, "counter", "Attempts that failed and were made again, by reason.");
        for model in models {
            for (kind, count) in &model.retried {
                self.of_model(name, model, ("reason", &word(*kind)), *count);
            }
        }
    }

    fn tokens_and_cost(&mut self, models: &[CallFigures]) {
        let name = "aaos_model_tokens_total";
        self.family(name, "counter", "Tokens of answered calls; those of the input are fresh or cached.");
        for model in models {
            let usage = model.usage;
            let fresh = usage.input_tokens.0.saturating_sub(usage.cached_input_tokens.0);
            self.of_model(name, model, ("kind", "input_fresh"), fresh);
            self.of_model(name, model, ("kind", "input_cached"), usage.cached_input_tokens.0);
            self.of_model(name, model, ("kind", "output"), usage.output_tokens.0);
        }
        let name = "aaos_model_cost_usd_total";
        self.family(name, "counter", "What calls cost, US dollars.");
        for model in models {
            let labels = [("provider", model.provider.as_str()), ("model", model.model.as_str())];
            self.sample(name, &labels, &model.cost.to_decimal());
        }
    }

    fn spans(&mut self, spans: &SpanFigures) {
        let name = "aaos_spans_total";
        self.family(name, "counter", "Spans of model calls by what became of them: sent, failed or dropped.");
        for (outcome, count) in [("sent", spans.sent), ("failed", spans.failed), ("dropped", spans.dropped)] {
            self.sample(name, &[("outcome", outcome)], &count.to_string());
        }
    }

    fn histogram(&mut self, name: &str, model: &CallFigures, values: &Histogram, unit: Unit) {
        let bucket = format!("{name}_bucket");
        let mut below = 0_u64;
        for (at, bound) in BOUNDS.iter().enumerate() {
            below = below.saturating_add(values.counts.get(at).copied().unwrap_or(0));
            self.of_model(&bucket, model, ("le", &unit.show(*bound)), below);
        }
        self.of_model(&bucket, model, ("le", "+Inf"), values.count());
        let labels = [("provider", model.provider.as_str()), ("model", model.model.as_str())];
        self.sample(&format!("{name}_sum"), &labels, &unit.show(values.sum));
        self.sample(&format!("{name}_count"), &labels, &values.count().to_string());
    }
}

fn word(kind: aaos_core::model::ModelFailureKind) -> String {
    serde_json::to_string(&kind).map(|word| word.trim_matches('"').to_owned()).unwrap_or_default()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
