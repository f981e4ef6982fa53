//! A goal's entries as a story: who was started with what, what was thought, tried and found, what went wrong.
//!
//! Invariant: trouble is never left out: every denial, failure and retry has its line. Whoever waits for a goal is
//! spared routine; a log leaves out only what another of its lines says. A reason that an agent's own line has just
//! said is not said again.

use aaos_core::confinement::{Boundary, ConfinementReceipt, Evidence};
use aaos_core::event::{AgentEnd, Entry, Event, Outcome};
use aaos_core::id::AgentId;
use aaos_core::quantity::Timestamp;

use super::Tone;
use super::entry::{self, Names};
use super::narrative::{self, Told};
use super::text::{REASON_CHARS, VALUE_CHARS, cut, instant, span};

/// Before the further lines of an entry, after the room of its time.
const INDENT: &str = "    ";

/// A line of the story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// How it sounds.
    pub(crate) tone: Tone,
    /// What it says, one line.
    pub(crate) text: String,
}

/// What stands before each line, and with it how much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Time since the first entry: for a person who waits for a goal.
    Elapsed,
    /// Date and time: for a log, with thoughts and results.
    Calendar,
}

/// Tells entries in their order.
#[derive(Debug)]
pub(crate) struct Story {
    names: Names,
    clock: Clock,
    begun: Option<Timestamp>,
    degraded: Vec<Vec<Boundary>>,
    /// Root agents: what they hold was printed before they began.
    roots: Vec<AgentId>,
    /// The reason that was told last, and whose it is.
    reason: Option<(Option<AgentId>, String)>,
    /// Whose call was just said to be denied, or not to be covered.
    denied: Option<AgentId>,
    /// Whose last request was for a summary: the reply to it is nothing that the agent says.
    summarising: Vec<AgentId>,
}

impl Story {
    /// A story that has not begun.
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            names: Names::default(),
            clock,
            begun: None,
            degraded: Vec::new(),
            roots: Vec::new(),
            reason: None,
            denied: None,
            summarising: Vec::new(),
        }
    }

    /// The lines that an entry is worth.
    pub(crate) fn tell(&mut self, entry: &Entry) -> Vec<Said> {
        self.names.learn(entry);
        self.expect_reply(entry);
        let begun = *self.begun.get_or_insert(entry.timestamp);
        let stamp = match self.clock {
            Clock::Elapsed => format!("{:>8}  ", span(entry.timestamp.since(begun))),
            Clock::Calendar => format!("{}  ", instant(entry.timestamp)),
        };
        let who = entry.agent_id.as_ref().map_or("agentd".to_owned(), |id| self.names.plain(id));
        let room = " ".repeat(stamp.len());
        let lines = |Told { tone, text, more }: Told| {
            let first = Said { tone, text: format!("{stamp}{who}{text}") };
            let more = more.into_iter().map(|line| format!("{room}{INDENT}{line}"));
            let more: Vec<Said> = more.map(|line| Said { tone, text: line.trim_end().to_owned() }).collect();
            std::iter::once(first).chain(more)
        };
        self.judge(entry).into_iter().flat_map(lines).collect()
    }

    fn judge(&mut self, entry: &Entry) -> Vec<Told> {
        let event = &entry.event;
        let was_denied = entry.agent_id.is_some() && self.denied == entry.agent_id;
        let says_why = matches!(event, Event::CapabilityDenied { .. } | Event::BudgetExceeded { .. });
        self.denied = entry.agent_id.filter(|_| says_why);
        match event {
            Event::CallRefused { .. } if was_denied => Vec::new(),
            Event::CapabilityGranted { grant } => {
                let special = grant.special.as_ref().map(|special| cut(&special.to_string(), REASON_CHARS));
                // A root's own grants were printed when the goal was accepted; what lies below them was not known then.
                let is_shown = self.is_whole() || special.is_some() || !self.roots.contains(&grant.agent);
                let words = cut(&grant.capability.to_string(), REASON_CHARS);
                let tone = if special.is_some() { Tone::Warn } else { Tone::Dim };
                let more = special.map(|special| format!("which {special}")).into_iter().collect();
                if is_shown { vec![Told { tone, text: format!("   may {words}"), more }] } else { Vec::new() }
            }
            Event::AgentSpawned { parent: None, .. } => {
                self.roots.extend(entry.agent_id);
                if self.is_whole() { narrative::whole(event, &self.names) } else { Vec::new() }
            }
            _ => match self.head(entry, event) {
                Some((tone, text)) => vec![Told::new(tone, text)],
                None if self.is_summary(entry) => narrative::summary(event, self.is_whole()),
                None if self.is_whole() => narrative::whole(event, &self.names),
                None => narrative::progress(event),
            },
        }
    }

    /// Whether an entry is the reply to a request for a summary.
    fn is_summary(&self, entry: &Entry) -> bool {
        let Some(agent) = entry.agent_id else { return false };
        match &entry.event {
            Event::InferenceCompleted { .. } => self.summarising.contains(&agent),
            _ => false,
        }
    }

    /// Keeps in mind whose next reply is a summary.
    fn expect_reply(&mut self, entry: &Entry) {
        if let (Some(agent), Event::InferenceRequested { keeps, .. }) = (entry.agent_id, &entry.event) {
            self.summarising.retain(|one| *one != agent);
            self.summarising.extend(keeps.map(|_| agent));
        }
    }

    fn is_whole(&self) -> bool {
        self.clock == Clock::Calendar
    }

    /// What is told in one line, of a log as to a person who waits.
    fn head(&mut self, entry: &Entry, event: &Event) -> Option<(Tone, String)> {
        match event {
            Event::AgentSpawned { parent: Some(parent), manifest, .. } => {
                let parent = self.names.plain(parent);
                Some((Tone::Bold, format!("started by {parent}, {}", entry::models(manifest))))
            }
            Event::ToolResult { tool, outcome, result_bytes, failure, elapsed, .. }
                if *outcome != Outcome::Done || failure.is_some() =>
            {
                let words = entry::result_words(*outcome, *result_bytes, failure.as_ref(), *elapsed);
                Some((Tone::Bad, format!("{tool} {words}")))
            }
            Event::ConfinementReceipt { receipt, role } => Some((Tone::Dim, confined(receipt, role))),
            Event::ConfinementDegraded { missing, .. } if !self.degraded.contains(missing) => {
                self.degraded.push(missing.clone());
                Some((Tone::Warn, format!("this machine lacks {}", entry::boundaries(missing))))
            }
            Event::InferenceCompleted { result: Err(failure), .. } => {
                self.reason = Some((entry.agent_id, failure.message.clone()));
                trouble(event)
            }
            Event::AgentExecutionCompleted { usage, iterations, stop_reason, error, .. } => {
                let tone = if stop_reason.is_success() { Tone::Good } else { Tone::Bad };
                let why = error.as_deref().filter(|why| self.is_news(entry.agent_id, why));
                let why = why.map(|why| format!(": {}", cut(why, REASON_CHARS))).unwrap_or_default();
                let (stop, tokens) = (entry::word(stop_reason), entry::tokens(*usage));
                Some((tone, format!("ended, {stop} after {iterations} turns, {tokens}{why}")))
            }
            Event::AgentStopped { end: AgentEnd::Failed { reason } }
                if !self.is_news(entry.agent_id, reason) =>
            {
                Some((Tone::Bad, "failed".to_owned()))
            }
            other => trouble(other).or_else(|| routine(other)),
        }
    }

    /// Whether the reason is another than the one that was just told of this agent; it is the last one then.
    fn is_news(&mut self, agent: Option<AgentId>, reason: &str) -> bool {
        let is_old = self.reason.as_ref().is_some_and(|(whose, told)| {
            *whose == agent && !told.is_empty() && reason.contains(told.as_str())
        });
        if !is_old {
            self.reason = Some((agent, reason.to_owned()));
        }
        !is_old
    }
}

fn confined(receipt: &ConfinementReceipt, role: &str) -> String {
    let stands = receipt.boundaries.iter().filter(|one| one.evidence.is_proof()).count();
    let lacks = receipt.boundaries.iter().filter(|one| one.evidence == Evidence::Missing);
    let lacks: Vec<Boundary> = lacks.map(|one| one.boundary).collect();
    let lacks =
        if lacks.is_empty() { String::new() } else { format!("; without {}", entry::boundaries(&lacks)) };
    let all = receipt.boundaries.len();
    format!("{role} confined, {stands} of {all} boundaries proved{lacks}")
}

/// What went wrong.
fn trouble(event: &Event) -> Option<(Tone, String)> {
    Some(match event {
        Event::CapabilityDenied { effect, denied, .. } => {
            (Tone::Bad, format!("{} {}", cut(effect, VALUE_CHARS), entry::denial(denied)))
        }
        Event::HumanApprovalRequested { question, .. } => {
            let (effect, input) = (cut(&question.effect, VALUE_CHARS), entry::arguments(&question.input));
            let why = entry::approval_reason(&question.because);
            (Tone::Warn, format!("waits for approval {}: {effect} {input}; {why}", question.id))
        }
        Event::HumanApprovalDenied { principal, reason, .. } => {
            let by = entry::denied_by(*principal);
            (Tone::Bad, format!("not approved by {by}: {}", cut(reason, REASON_CHARS)))
        }
        Event::CallRefused { failure, .. } => {
            (Tone::Bad, format!("a call was not begun: {}", entry::failure_words(failure)))
        }
        Event::DenialsSuppressed { count } => {
            (Tone::Bad, format!("{count} more calls were refused within the minute"))
        }
        Event::InferenceRetried { failure, instead: Some(model), .. } => {
            (Tone::Warn, format!("the model {model} is asked instead: {}", entry::model_failure(failure)))
        }
        Event::InferenceRetried { failure, wait, .. } => (
            Tone::Warn,
            format!("the model is asked again in {}: {}", span(*wait), entry::model_failure(failure)),
        ),
        Event::ModelClimbed { to, reason, .. } => {
            (Tone::Warn, format!("goes on with the model {to}: {}", entry::climb_reason(*reason)))
        }
        Event::ContextSummarizationFailed { .. } => {
            (Tone::Warn, format!("no summary: {}", entry::facts(event, &Names::default())))
        }
        Event::InferenceCompleted { result: Err(failure), .. } => {
            (Tone::Bad, format!("the model failed: {}", entry::model_failure(failure)))
        }
        Event::ChildRetried { reason, .. } => {
            (Tone::Warn, format!("a child is tried once more; it failed: {}", cut(reason, REASON_CHARS)))
        }
        Event::SpawnCompleted { child: None, failure: Some(failure), .. } => {
            (Tone::Bad, format!("no child: {}", entry::failure_words(failure)))
        }
        Event::BudgetExceeded { quantity, wanted, remaining } => {
            let (wanted, left) = (quantity.show(*wanted), quantity.show(*remaining));
            (Tone::Bad, format!("out of budget: {wanted} wanted, {left} left"))
        }
        Event::Overdraft { quantity, reserved, used } => {
            let (used, reserved) = (quantity.show(*used), quantity.show(*reserved));
            (Tone::Warn, format!("{used} were used where {reserved} were reserved"))
        }
        Event::ToolRepeatGuardFired { tool, count } => {
            (Tone::Warn, format!("{tool} was called {count} times with the same input"))
        }
        Event::AgentStopped { end: end @ (AgentEnd::Failed { .. } | AgentEnd::Interrupted) } => {
            (Tone::Bad, entry::agent_end(end))
        }
        Event::AuditStdoutStopped { reason, .. } => {
            (Tone::Warn, format!("the audit trail on standard output ended: {}", cut(reason, REASON_CHARS)))
        }
        _ => return None,
    })
}

/// What is worth a line though all is well.
fn routine(event: &Event) -> Option<(Tone, String)> {
    Some(match event {
        // A fetch that reached nothing has its failure in the tool's result.
        Event::NetworkFetched { url, final_url: Some(_), bytes, .. } => {
            (Tone::Dim, format!("fetched {}, {}", cut(url, VALUE_CHARS), super::text::size(bytes.0)))
        }
        Event::HumanApprovalGranted { .. } => {
            (Tone::Good, format!("approved: {}", entry::facts(event, &Names::default())))
        }
        Event::InferenceRequested { model, keeps: Some(_), .. } => {
            (Tone::Dim, format!("asks model {model} for a summary of the conversation"))
        }
        Event::InferenceRequested { model, .. } => (Tone::Dim, format!("asks model {model}")),
        Event::ContextSummarized { .. } => (Tone::Dim, entry::facts(event, &Names::default())),
        Event::GoalAccepted { goal, .. } => {
            (Tone::Bold, format!("goal accepted: {}", cut(goal, VALUE_CHARS)))
        }
        Event::GoalFinished { .. } => {
            (Tone::Bold, format!("goal {}", entry::facts(event, &Names::default())))
        }
        Event::DaemonStarted { .. } => {
            (Tone::Bold, format!("started, {}", entry::facts(event, &Names::default())))
        }
        Event::DaemonStopped {} => (Tone::Bold, "stopped in good order".to_owned()),
        Event::JournalPruned { .. } => {
            (Tone::Plain, format!("archived {}", entry::facts(event, &Names::default())))
        }
        Event::GoalForked { .. } => {
            (Tone::Bold, format!("forked {}", entry::facts(event, &Names::default())))
        }
        Event::AgentExecutionForked { .. } => (Tone::Bold, "goes on where its goal was forked".to_owned()),
        Event::AgentExecutionResumed {} => (Tone::Bold, "goes on after a restart".to_owned()),
        Event::AgentPaused {} => (Tone::Plain, "paused".to_owned()),
        Event::AgentResumed {} => (Tone::Plain, "resumed".to_owned()),
        Event::AgentStopped { end: end @ AgentEnd::Stopped } => (Tone::Dim, entry::agent_end(end)),
        Event::CapabilityRevoked { .. } => {
            (Tone::Warn, format!("revoked: {}", entry::facts(event, &Names::default())))
        }
        _ => return None,
    })
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
