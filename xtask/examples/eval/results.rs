//! What one model did, added up.
//!
//! Invariants: an instruction counts as met only where the flow was completed, too; a figure that was not measured is
//! absent and never 0.

use std::time::Duration;

use serde::Serialize;

use crate::machine;
use crate::trial::Trial;

/// One model on all goals.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    pub(crate) model: String,
    machine: String,
    /// Until a local model was in memory and had answered.
    load_seconds: Option<f64>,
    /// Most memory of the local model's process.
    pub(crate) peak_kib: Option<u64>,
    pub(crate) trials: Vec<Trial>,
}

impl Results {
    pub(crate) fn new(model: &str, loaded: Option<Duration>) -> Self {
        Self {
            model: model.to_owned(),
            machine: machine::described(),
            load_seconds: loaded.map(|time| time.as_secs_f64()),
            peak_kib: None,
            trials: Vec::new(),
        }
    }

    /// The figures of the table, in the order of its columns.
    pub(crate) fn figures(&self) -> [(&'static str, String); 8] {
        let all = self.trials.len();
        let count = |is: fn(&Trial) -> bool| self.trials.iter().filter(|trial| is(trial)).count();
        let mut seconds: Vec<f64> = self.trials.iter().map(|trial| trial.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(all / 2).copied();
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"));
        let gib = |kib: u64| format!("{:.2} GiB", Duration::from_secs(kib).as_secs_f64() / (1024.0 * 1024.0));
        [
            ("flow", format!("{} of {all}", count(Trial::has_flow))),
            ("instruction", format!("{} of {all}", count(Trial::is_met))),
            ("seconds a goal, median", number(median)),
            ("longest", number(seconds.last().copied())),
            ("tokens of prompts a second", number(self.rate(|trial| trial.input_tokens))),
            ("tokens of replies a second", number(self.rate(|trial| trial.output_tokens))),
            ("load, seconds", number(self.load_seconds)),
            ("peak memory", self.peak_kib.map_or_else(|| "–".to_owned(), gib)),
        ]
    }

    /// The figures for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("\n{} on {}\n", self.model, self.machine);
        for (name, figure) in self.figures() {
            text.push_str(&format!("  {name:<28}{figure}\n"));
        }
        text.trim_end().to_owned()
    }

    /// The machine on which this was measured.
    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }

    /// Tokens for each second in which a reply of the model was awaited.
    fn rate(&self, tokens: fn(&Trial) -> u64) -> Option<f64> {
        let total: u64 = self.trials.iter().map(tokens).sum();
        let seconds: f64 = self.trials.iter().map(|trial| trial.model_seconds).sum();
        // As many seconds as a duration holds: exact in a float, as every count of tokens here is.
        (seconds > 0.0).then(|| Duration::from_secs(total).as_secs_f64() / seconds)
    }
}

/// One goal on one line, and what was wrong below it.
pub(crate) fn line(trial: &Trial) -> String {
    let Trial { goal, seconds, calls, failed_calls, replies, .. } = trial;
    let verdict = match (trial.has_flow(), trial.is_met()) {
        (_, true) => "met",
        (true, false) => "flow",
        (false, _) => "-",
    };
    let mut text = format!("{goal:<18} {verdict:<5} {seconds:>6.1} s  {replies} replies, {calls} calls");
    if *failed_calls > 0 {
        text.push_str(&format!(", {failed_calls} in vain"));
    }
    for what in trial.flow.iter().chain(&trial.instruction) {
        text.push_str(&format!("\n        {what}"));
    }
    text
}
