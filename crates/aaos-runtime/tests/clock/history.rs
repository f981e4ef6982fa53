//! How long what went from a conversation can be read back.

use std::time::Duration;

use aaos_runtime::TraceState;
use serde_json::Value;
use testkit::{Script, SeenRequest, Turn};

use crate::support::{Lab, manifest};

const DAY: Duration = Duration::from_secs(24 * 3_600);
const MILLI: Duration = Duration::from_millis(1);

/// Talks so much that a summary takes less.
fn talker(seen: &SeenRequest) -> Turn {
    if seen.system.starts_with("You shorten the earlier part") {
        return Turn::say("They talked.");
    }
    Turn::say("word ".repeat(400))
}

/// An agent of which turn 1 is a day older than what else went, two days before now.
fn told(memory: &str) -> (Lab, impl Fn(&Lab) -> Result<Value, String>) {
    let lab = Lab::new(Script::dynamic(talker));
    let life = "lifecycle: persistent\ncapabilities: [\"tool: history_read\"]";
    let agent =
        lab.spawn(&manifest("keeper", &format!("{life}\nmemory: {{ max_history_messages: 2{memory} }}\n")));
    for (message, later) in [("the first", DAY), ("the second", Duration::ZERO), ("the third", DAY)] {
        let report = lab.result(lab.deliver(agent, message));
        assert!(matches!(report.status, TraceState::Done), "{report:?}");
        lab.advance(later);
    }
    let read = move |lab: &Lab| {
        let read = lab.invoke(agent, "history_read", "{\"from\": 1, \"to\": 9}");
        read.map(|text| serde_json::from_str(&text).expect("JSON")).map_err(|error| error.to_string())
    };
    (lab, read)
}

fn words(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items").iter();
    items.filter(|item| item["role"] == "user").map(|item| item["text"].as_str().expect("text")).collect()
}

#[test]
fn what_is_older_than_the_archive_keeps_is_not_given_any_more_and_the_answer_says_so() {
    let (lab, read) = told(", archive_ttl_days: 2");
    let page = read(&lab).expect("all of it");
    assert_eq!(
        (words(&page), &page["expired_to"]),
        (vec!["the first", "the second", "the third"], &Value::Null)
    );
    lab.advance(MILLI);
    let page = read(&lab).expect("what is younger");
    assert_eq!((words(&page), page["expired_to"].as_u64()), (vec!["the second", "the third"], Some(1)));
    lab.advance(DAY);
    let refused = read(&lab).expect_err("nothing is left");
    assert!(refused.contains("turns up to 2 are older than 2 days (memory.archive_ttl_days)"), "{refused}");
}

#[test]
fn without_a_limit_it_is_given_as_long_as_the_agent_lives() {
    let (lab, read) = told("");
    lab.advance(400 * DAY);
    let page = read(&lab).expect("all of it");
    assert_eq!(
        (words(&page), &page["expired_to"]),
        (vec!["the first", "the second", "the third"], &Value::Null)
    );
}
