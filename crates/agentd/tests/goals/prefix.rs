//! Prompts only grow: what a provider keeps of one request in its cache is the beginning of the next.
//!
//! Invariant: compared is what the server received, byte for byte, but for the marks that only say where its cache ends.

use crate::support::{LEAD_MARK, Rig, Work, write};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use testkit::{Dialect, SeenRequest, Turn};

/// Requests of the run.
const TURNS: usize = 40;
/// Where the Messages API is told that a prefix ends. The last one goes on with the conversation.
const MARK: &str = "\"cache_control\":{\"type\":\"ephemeral\"},";

/// What a provider makes its prompt of.
#[derive(Deserialize)]
struct Prompt<'r> {
    #[serde(borrow)]
    tools: &'r RawValue,
    #[serde(borrow)]
    system: Option<&'r RawValue>,
    #[serde(borrow)]
    messages: Vec<&'r RawValue>,
}

impl Prompt<'_> {
    /// In the order in which it is read.
    fn parts(&self) -> Vec<&str> {
        let beginning = [Some(self.tools), self.system].into_iter().flatten();
        beginning.chain(self.messages.iter().copied()).map(RawValue::get).collect()
    }
}

/// How many bytes of a later request the earlier one holds already, and how many it has; an error names the first part
/// of the earlier one that is not in its place.
fn kept(earlier: &str, later: &str) -> Result<(usize, usize), String> {
    let [earlier, later] = [earlier, later].map(|raw| raw.replace(MARK, ""));
    let parse = |raw| serde_json::from_str::<Prompt<'_>>(raw).map_err(|error| error.to_string());
    let (before, after) = (parse(&earlier)?, parse(&later)?);
    let (before, after) = (before.parts(), after.parts());
    let differs = before.iter().enumerate().find(|(at, part)| after.get(*at) != Some(part));
    match differs {
        Some((at, part)) => Err(format!("part {at} was {part} and is {:?}", after.get(at))),
        None => {
            let bytes = |parts: &[&str]| parts.iter().map(|part| part.len()).sum();
            Ok((bytes(&before), bytes(&after)))
        }
    }
}

/// Long and short texts, several calls, calls that fail, and words beside calls.
fn turn(work: &Work, number: usize) -> Turn {
    let echo = || ("echo".to_owned(), json!({ "message": "x".repeat(number * 50) }));
    match number % 5 {
        0 => write(&work.path(&format!("out/{number}")), "content with \"quotes\" and \u{e9}"),
        1 => Turn::Call(vec![echo(), echo(), echo()]),
        2 => Turn::SayAndCall { text: format!("Step {number}."), calls: vec![echo()] },
        3 => Turn::call("file_read", json!({ "path": work.path("not-there") })),
        _ => Turn::RawCall { tool: "file_read".to_owned(), arguments: "{ no JSON".to_owned() },
    }
}

fn requests(wire: Dialect) -> Vec<SeenRequest> {
    let rig = Rig::on(wire, |work| {
        let turns = (1..TURNS).map(|number| turn(work, number));
        testkit::Script::new().when_system(LEAD_MARK, turns.chain([Turn::say("done")]).collect::<Vec<_>>())
    });
    rig.run(rig.work.goal(&[])).assert_ended("done", 0);
    rig.models.requests()
}

fn assert_prefixes(wire: Dialect) {
    let seen = requests(wire);
    assert_eq!(seen.len(), TURNS);
    let (mut held, mut all) = (0, 0);
    for (at, pair) in seen.windows(2).enumerate() {
        let (before, now) = kept(&pair[0].raw, &pair[1].raw)
            .unwrap_or_else(|why| panic!("request {} does not begin as the one before: {why}", at + 2));
        held += before;
        all += now;
    }
    assert!(held * 10 > all * 9, "of the prompts {held} bytes of {all} could come from a cache");
    // The control: one letter of an old message is noticed.
    let edited = seen[1].raw.replacen("xxxx", "xxyx", 1);
    assert_ne!(edited, seen[1].raw);
    assert!(kept(&edited, &seen[2].raw).is_err(), "an edited message");
}

#[test]
fn each_request_of_a_long_run_begins_with_the_one_before_over_chat_completions() {
    assert_prefixes(Dialect::OpenAi);
}

#[test]
fn each_request_of_a_long_run_begins_with_the_one_before_over_messages() {
    assert_prefixes(Dialect::Anthropic);
}
