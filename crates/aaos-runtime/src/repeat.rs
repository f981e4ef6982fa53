//! Notices an agent that calls the same tool with the same input again and again.
//!
//! Invariants: every call that reaches dispatch counts, whoever makes it and however it ends; the count begins
//! anew with each run of the agent. Only equality of fingerprints matters, so nothing of the arguments is kept. Two
//! calls that collide cost a superfluous hint, no more.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use aaos_core::event::Event;
use aaos_core::id::TraceId;
use aaos_core::limits::{MAX_REPEAT_ENTRIES, REPEAT_GUARD};
use aaos_core::name::ToolName;

use crate::kernel::Kernel;
use crate::registry::Agent;

/// How often each call was made since the agent's last run began.
#[derive(Debug, Default)]
pub(crate) struct RepeatCounts {
    counts: HashMap<u64, Seen>,
    made: u64,
}

/// One call: how often it was made, and as the how manieth of all calls the last time.
#[derive(Debug, Default)]
struct Seen {
    count: u32,
    last: u64,
}

impl RepeatCounts {
    /// Counts a call that is on record from before a restart.
    pub(crate) fn recall(&mut self, tool: &str, arguments: &str) {
        self.count(fingerprint(tool, arguments));
    }

    /// Counts one more call and gives how often it was now made.
    fn count(&mut self, fingerprint: u64) -> u32 {
        if self.counts.len() >= MAX_REPEAT_ENTRIES && !self.counts.contains_key(&fingerprint) {
            let oldest = self.counts.iter().min_by_key(|(_, seen)| seen.last).map(|(call, _)| *call);
            if let Some(oldest) = oldest {
                self.counts.remove(&oldest);
            }
        }
        self.made += 1;
        let seen = self.counts.entry(fingerprint).or_default();
        seen.last = self.made;
        seen.count = seen.count.saturating_add(1);
        seen.count
    }
}

impl Kernel {
    /// Counts a call of an agent and puts a repeated one on record; gives how often it was now made.
    pub(crate) fn count_call(
        &self,
        agent: &Agent,
        trace: Option<TraceId>,
        tool: &str,
        arguments: &str,
    ) -> u32 {
        let fingerprint = fingerprint(tool, arguments);
        let count = agent.live().repeats.count(fingerprint);
        if fires(count)
            && let Ok(tool) = ToolName::parse(tool)
        {
            let mut entry = self.agent_entry(agent, Event::ToolRepeatGuardFired { tool, count });
            entry.trace_id = trace;
            self.note_or_log(entry);
        }
        count
    }
}

/// Whether this use is put on record: every third, so that a loop cannot flood the journal.
const fn fires(count: u32) -> bool {
    count > 0 && count.is_multiple_of(REPEAT_GUARD)
}

/// Tool and arguments; spacing and key order of JSON arguments do not matter.
fn fingerprint(tool: &str, arguments: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    tool.hash(&mut hasher);
    match serde_json::from_str::<serde_json::Value>(arguments) {
        Ok(value) => value.to_string().hash(&mut hasher),
        Err(_) => arguments.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use aaos_core::limits::MAX_REPEAT_ENTRIES;

    use super::{RepeatCounts, fingerprint, fires};

    #[test]
    fn spelling_of_the_same_input_does_not_matter() {
        let same = fingerprint("grep", "{\"a\":1,\"b\":2}");
        assert_eq!(fingerprint("grep", "{ \"b\": 2, \"a\": 1 }"), same);
        assert_ne!(fingerprint("echo", "{\"a\":1,\"b\":2}"), same);
        assert_ne!(fingerprint("grep", "{\"a\":1,\"b\":3}"), same);
        assert_eq!(fingerprint("grep", "{\"a\":1"), fingerprint("grep", "{\"a\":1"), "no JSON counts too");
    }

    #[test]
    fn every_third_use_fires() {
        assert_eq!((1..=7).filter(|count| fires(*count)).collect::<Vec<_>>(), [3, 6]);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_call_made_longest_ago() {
        let mut counts = RepeatCounts::default();
        let most = MAX_REPEAT_ENTRIES as u64;
        for call in 0..most {
            assert_eq!(counts.count(call), 1);
        }
        assert_eq!(counts.count(0), 2, "all are remembered while there is room");
        assert_eq!(counts.count(most), 1);
        assert_eq!(counts.counts.len(), MAX_REPEAT_ENTRIES);
        assert_eq!(counts.count(0), 3, "a call that goes on being made is remembered");
        assert_eq!(counts.count(1), 1, "the one made longest ago was forgotten");
    }
}
