//! Entries of one goal as they would be if they were another's.
//!
//! Invariants: nothing but the goal's id changes, wherever it stands in a text; both ids are of one length, so that no
//! size does either. A text and its recorded hash fit together afterwards as they did before.

use aaos_core::event::{Entry, Event, content_hash};
use aaos_core::id::GoalId;

/// The entry with the id of `goal` in the place of its own goal's.
#[must_use]
pub fn moved(entry: &Entry, goal: GoalId) -> Entry {
    let mut entry = entry.clone();
    let Some(own) = entry.goal_id.replace(goal) else { return entry };
    let (own, goal) = (own.to_string(), goal.to_string());
    assert_eq!(own.len(), goal.len(), "ids are of one length");
    let text = serde_json::to_string(&entry.event)
        .unwrap_or_else(|error| unreachable!("an event is plain JSON: {error}"));
    if text.contains(&own) {
        let event = serde_json::from_str(&text.replace(&own, &goal));
        entry.event = event.unwrap_or_else(|error| unreachable!("an id stands where one stood: {error}"));
        hash_again(&mut entry.event);
    }
    entry
}

/// Brings the hashes of texts up to date.
fn hash_again(event: &mut Event) {
    match event {
        Event::AgentExecutionStarted { message_hash, message, .. } => {
            *message_hash = content_hash(message.as_bytes());
        }
        Event::ToolResult { result_hash, result: Some(result), .. } => {
            *result_hash = content_hash(result.as_bytes());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use aaos_core::event::{Entry, Event, Kept, content_hash};
    use aaos_core::id::{EntryId, GoalId, Seq};
    use aaos_core::quantity::Timestamp;

    use super::moved;

    fn id<T: std::str::FromStr>(text: &str) -> T
    where
        T::Err: std::fmt::Debug,
    {
        text.parse().expect("an id")
    }

    fn told(message: &str) -> Entry {
        Entry {
            seq: Seq(7),
            id: id::<EntryId>("0190a5e8-7c1b-7000-8000-000000000001"),
            timestamp: Timestamp(1),
            goal_id: Some(id("0190a5e8-7c1b-7000-8000-00000000000a")),
            agent_id: None,
            trace_id: None,
            parent_event: None,
            event: Event::AgentExecutionStarted {
                message_hash: content_hash(message.as_bytes()),
                message: message.to_owned(),
                tools: Vec::new(),
                kept: Kept::default(),
            },
            prev_hash: String::new(),
            hash: String::new(),
        }
    }

    #[test]
    fn the_goals_id_is_another_wherever_it_stands_and_nothing_else_changes() {
        let goal: GoalId = id("0190a5e8-7c1b-7000-8000-00000000000b");
        let before =
            "work in /w/0190a5e8-7c1b-7000-8000-00000000000a, not in 0190a5e8-7c1b-7000-8000-00000000000c";
        let after =
            "work in /w/0190a5e8-7c1b-7000-8000-00000000000b, not in 0190a5e8-7c1b-7000-8000-00000000000c";
        assert_eq!(moved(&told(before), goal), Entry { goal_id: Some(goal), ..told(after) });
        let none = told("no id");
        assert_eq!(moved(&none, goal).event, none.event, "the control");
    }
}
