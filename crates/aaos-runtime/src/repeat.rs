//! Notices an agent that calls the same tool with the same input again and again.
//!
//! Invariants: every call that reaches dispatch counts, whoever makes it and however it ends; the count begins
//! anew with each run of the agent. Only equality of fingerprints matters, so nothing of the arguments is kept. Two
//! calls that collide cost a superfluous hint, no more.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use aaos_agent::Tape;
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
    /// Takes over the count of a call that is on record from before a restart. One of the agent's model is known by
    /// the arguments that the model wrote, which the tape holds.
    pub(crate) fn recall(&mut self, event: &Event, tape: &Tape) {
        let (fingerprint, count) = match event {
            Event::AgentExecutionStarted { .. } => {
                *self = Self::default();
                return;
            }
            Event::ToolInvoked { tool, input, model_call: None, repeats, .. } => {
                (Some(fingerprint(tool.as_str(), &input.to_string())), *repeats)
            }
            Event::ToolInvoked { model_call: Some(asked), repeats, .. }
            | Event::CallRefused { model_call: asked, repeats, .. } => {
                (tape.call(asked).map(|call| fingerprint(&call.tool.0, &call.arguments.0)), *repeats)
            }
            _ => return,
        };
        if let Some(fingerprint) = fingerprint {
            let seen = self.seen(fingerprint);
            // A call that was begun may be refused later, under the same count.
            seen.count = seen.count.max(count);
        }
    }

    /// Counts one more call and gives how often it was now made.
    fn count(&mut self, fingerprint: u64) -> u32 {
        let seen = self.seen(fingerprint);
        seen.count = seen.count.saturating_add(1);
        seen.count
    }

    /// Where a call that is made now is counted.
    fn seen(&mut self, fingerprint: u64) -> &mut Seen {
        if self.counts.len() >= MAX_REPEAT_ENTRIES && !self.counts.contains_key(&fingerprint) {
            let oldest = self.counts.iter().min_by_key(|(_, seen)| seen.last).map(|(call, _)| *call);
            if let Some(oldest) = oldest {
                self.counts.remove(&oldest);
            }
        }
        self.made += 1;
        let seen = self.counts.entry(fingerprint).or_default();
        seen.last = self.made;
        seen
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

    use aaos_agent::{MindConfig, Tape};
    use aaos_core::effect::EffectClass;
    use aaos_core::event::{Entry, Event, Kept, content_hash};
    use aaos_core::id::{CallId, EntryId, Seq};
    use aaos_core::model::{
        ModelCall, ModelCallId, ModelReply, ModelStop, RawArguments, RequestedTool, Usage,
    };
    use aaos_core::name::{ModelName, ToolName};
    use aaos_core::quantity::{Amounts, Bytes, Millis, Timestamp, Tokens};
    use aaos_core::toolio::{ToolFailure, ToolFailureKind};
    use uuid::Uuid;

    use super::{RepeatCounts, fingerprint, fires};

    const ARGUMENTS: &str = "{\"path\":\"/a\"}";

    /// A run whose model asks for one call twice.
    fn asked_twice() -> [Event; 3] {
        let model = ModelName::parse("scripted").expect("a name");
        let call = ModelCall {
            id: ModelCallId(String::new()),
            tool: RequestedTool("file_write".to_owned()),
            arguments: RawArguments(ARGUMENTS.to_owned()),
        };
        let reply = ModelReply {
            text: String::new(),
            reasoning: None,
            thinking: Vec::new(),
            calls: vec![call.clone(), call],
            stop: ModelStop::ToolUse,
            usage: Usage::default(),
        };
        let inference = CallId::from_uuid(Uuid::from_u128(1));
        // A conversation that began earlier, so that the tape cannot compare hashes.
        let kept = Kept { runs: 1, bytes: Bytes(1), tokens: Tokens(1), ..Kept::default() };
        [
            Event::AgentExecutionStarted {
                message_hash: content_hash(b""),
                message: String::new(),
                tools: Vec::new(),
                kept,
            },
            Event::InferenceRequested {
                call: inference,
                model,
                messages: 1,
                request_bytes: Bytes(1),
                request_hash: String::new(),
                reserve: Tokens(1),
                price: None,
                charges: Vec::new(),
                keeps: None,
                estimate: None,
            },
            Event::InferenceCompleted {
                call: inference,
                result: Ok(reply),
                attempts: 1,
                possibly_billed: 0,
                spent: Amounts::NONE,
                elapsed: Millis(1),
            },
        ]
    }

    fn refused(asked: &str, repeats: u32) -> Event {
        let failure = ToolFailure::new(ToolFailureKind::Denied, "not granted");
        Event::CallRefused { model_call: ModelCallId(asked.to_owned()), failure, repeats }
    }

    /// What is journalled of a call is what the tool understood of it: here with a default filled in.
    fn invoked(asked: Option<&str>, repeats: u32) -> Event {
        Event::ToolInvoked {
            call: CallId::from_uuid(Uuid::from_u128(2)),
            tool: ToolName::parse("file_write").expect("a name"),
            input: serde_json::json!({ "path": "/a", "append": false }),
            class: EffectClass::Keyed,
            access: Vec::new(),
            denied: Vec::new(),
            charges: Vec::new(),
            model_call: asked.map(|asked| ModelCallId(asked.to_owned())),
            at: None,
            repeats,
        }
    }

    fn recalled(events: impl IntoIterator<Item = Event>) -> RepeatCounts {
        let mut tape = Tape::recent(MindConfig {
            model: ModelName::parse("scripted").expect("a name"),
            next_models: Vec::new(),
            system_prompt: String::new(),
            context_window: Tokens(10_000),
            max_iterations: 5,
            max_reply_tokens: Tokens(100),
            max_history_messages: 10,
            summarization_threshold: None,
            summarization_model: None,
        });
        let mut counts = RepeatCounts::default();
        for (at, event) in (1..).zip(events) {
            let entry = Entry {
                seq: Seq(at),
                id: EntryId::from_uuid(Uuid::from_u128(u128::from(at))),
                timestamp: Timestamp(at),
                goal_id: None,
                agent_id: None,
                trace_id: None,
                parent_event: None,
                event,
                prev_hash: String::new(),
                hash: String::new(),
            };
            tape.take(&entry, |_| Vec::new()).expect("it fits");
            counts.recall(&entry.event, &tape);
        }
        counts
    }

    #[test]
    fn calls_from_before_a_restart_count_as_when_they_were_made() {
        let next = |mut counts: RepeatCounts| counts.count(fingerprint("file_write", ARGUMENTS));
        let asked = || asked_twice().into_iter();
        assert_eq!(next(recalled(asked())), 1, "nothing was made of it yet");
        assert_eq!(next(recalled(asked().chain([refused("call-1", 1)]))), 2);
        assert_eq!(next(recalled(asked().chain([invoked(Some("call-1"), 1)]))), 2);
        let both = [refused("call-1", 1), invoked(Some("call-2"), 2), refused("call-2", 2)];
        assert_eq!(next(recalled(asked().chain(both))), 3, "one that was begun and refused counts once");
        let other = asked().chain([invoked(None, 1)]);
        assert_eq!(next(recalled(other)), 1, "what somebody else asked for is known as it was understood");
        let again = asked().chain([refused("call-1", 1)]).chain(asked_twice().into_iter().take(1));
        assert_eq!(next(recalled(again)), 1, "a new run begins anew");
    }

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
